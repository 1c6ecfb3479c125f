// SPDX-License-Identifier: GPL-2.0
/*
 * What is done to the queues' slots: they come and go in random order, move, are
 * rung while they are there and while they are not.
 *
 * Everything here runs in a command, under its mutex.
 */
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/irq.h>
#include <linux/ktime.h>
#include <linux/random.h>
#include <linux/sched/signal.h>

#include "queues.h"

/* An interrupt that was not to come would be here by then. */
#define SETTLE_MS	50
/* And one that waits is seen to by then. */
#define PENDING_MS	1000
/* The kernel moves an interrupt when it comes, and not if the last move is not over. */
#define RINGS_TO_MOVE	16

void queue_ring(struct ims_queues *ims, unsigned int index)
{
	line_ring(ims, &ims->queues[index], REG_RING, index);
}

void queue_release(struct ims_queues *ims, unsigned int index)
{
	struct line *queue = &ims->queues[index];

	ims_release_irq(queue->irq, queue);
	queue->irq = 0;
}

int queue_allocate(struct ims_queues *ims, unsigned int index)
{
	struct line *queue = &ims->queues[index];
	u64 start = ktime_get_ns(), took;
	int irq;

	irq = ims_request_irq(&ims->domain, index, line_arrival, queue->name,
			      queue);
	if (irq < 0)
		return irq;
	queue->irq = irq;
	took = ktime_get_ns() - start;
	ims->allocations++;
	ims->allocate_ns += took;
	ims->allocate_max_ns = max(ims->allocate_max_ns, took);
	return 0;
}

/* Anywhere else; and rung until that is where it comes. */
static int move(struct ims_queues *ims, unsigned int index)
{
	struct line *queue = &ims->queues[index];
	unsigned int cpu, rings;
	int err;

	queue_ring(ims, index);
	cpu = cpumask_next(READ_ONCE(queue->cpu), cpu_online_mask);
	if (cpu >= nr_cpu_ids)
		cpu = cpumask_first(cpu_online_mask);
	if (cpu == READ_ONCE(queue->cpu))
		return 0;
	err = irq_set_affinity(queue->irq, cpumask_of(cpu));
	if (err)
		return err;
	ims->moves++;
	for (rings = 0; rings < RINGS_TO_MOVE; rings++) {
		queue_ring(ims, index);
		if (READ_ONCE(queue->cpu) == cpu)
			return 0;
		if (rings > 0)
			msleep(20);
	}
	ims->unmoved++;
	return 0;
}

static void shuffle(unsigned int *order, unsigned int count)
{
	while (count > 1) {
		unsigned int other = get_random_u32() % count--;

		swap(order[count], order[other]);
	}
}

/* The queues that commands own, shuffled. Gives how many there are. */
static unsigned int draw_queues(struct ims_queues *ims)
{
	unsigned int index = ims->pounder ? 1 : 0, count = 0;

	for (; index < ims->count; index++)
		ims->order[count++] = index;
	shuffle(ims->order, count);
	return count;
}

/* Gives how many have got one: less than they are where the kernel has no more. */
static int allocate_all(struct ims_queues *ims, const unsigned int *order,
			unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		int err = queue_allocate(ims, order[i]);

		if (err == -ENOSPC)
			break;
		if (err) {
			while (i--)
				queue_release(ims, order[i]);
			return err;
		}
		queue_ring(ims, order[i]);
	}
	ims->most_live = max(ims->most_live, i + !!ims->pounder);
	return i;
}

static void release_all(struct ims_queues *ims, unsigned int *order,
			unsigned int count)
{
	shuffle(order, count);
	while (count--)
		queue_release(ims, order[count]);
}

/* What came on queues that commands own. */
static unsigned int received(const struct ims_queues *ims)
{
	unsigned int index = ims->pounder ? 1 : 0, sum = 0;

	for (; index < ims->count; index++)
		sum += atomic_read(&ims->queues[index].received);
	return sum;
}

/* By the device's word: what comes for a disabled interrupt, Linux keeps to itself. */
static bool is_pending(struct ims_queues *ims, unsigned int index)
{
	u8 __iomem *slots = ims->stores[0].device;
	u32 control;

	if (index < ims->stores[0].slots) {
		control = ioread32(slots + index * sizeof(struct ims_entry) +
				   offsetof(struct ims_entry, control));
	} else {
		iowrite32(index - ims->stores[0].slots,
			  ims->registers + REG_SELECT);
		control = ioread32(ims->registers + REG_SELECTED_CONTROL);
	}
	return control & IMS_CONTROL_PENDING;
}

/* A device may take its time between a ring and its interrupt. */
static bool becomes_pending(struct ims_queues *ims, unsigned int index)
{
	unsigned int ms;

	for (ms = 0; ms < PENDING_MS; ms += SETTLE_MS) {
		if (is_pending(ims, index))
			return true;
		msleep(SETTLE_MS);
	}
	return false;
}

/* All are masked and rung twice, which is one interrupt when they are unmasked. */
static void ring_masked(struct ims_queues *ims, const unsigned int *order,
			unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		int irq = ims->queues[order[i]].irq;

		/* Linux else masks no sooner than an interrupt has come. */
		irq_set_status_flags(irq, IRQ_DISABLE_UNLAZY);
		disable_irq(irq);
		iowrite32(order[i], ims->registers + REG_RING);
		iowrite32(order[i], ims->registers + REG_RING);
	}
	ims->masked_rung += 2 * count;
	/* The second ring of the last one, too, is there by then. */
	msleep(SETTLE_MS);
	for (i = 0; i < count; i++) {
		struct line *queue = &ims->queues[order[i]];
		int before = atomic_read(&queue->received);

		ims->held += becomes_pending(ims, order[i]);
		enable_irq(queue->irq);
		line_await(ims, queue, before);
	}
}

static int exercise_batch(struct ims_queues *ims, unsigned int *order,
			  unsigned int count)
{
	unsigned int i, before;
	int got, err = 0;

	got = allocate_all(ims, order, count);
	if (got < 0)
		return got;
	for (i = 0; i < got && !err; i++)
		err = move(ims, order[i]);
	ring_masked(ims, order, got);
	release_all(ims, order, got);
	if (err)
		return err;
	if (got < count)
		return -ENOSPC;

	before = received(ims);
	for (i = 0; i < count; i++)
		iowrite32(order[i], ims->registers + REG_RING);
	ims->freed_rung += count;
	msleep(SETTLE_MS);
	shuffle(order, count);
	/* What waited for them comes now, before they are rung. */
	for (i = 0; i < count && !err; i++)
		err = queue_allocate(ims, order[i]);
	if (err)
		count = i - 1;
	msleep(SETTLE_MS);
	ims->stray += received(ims) - before;
	for (i = 0; i < count; i++)
		queue_ring(ims, order[i]);
	release_all(ims, order, count);
	return err;
}

int queues_exercise(struct ims_queues *ims, unsigned int batch)
{
	unsigned int count = draw_queues(ims), first;
	int err;

	if (batch == 0)
		return -ERANGE;
	for (first = 0; first < count; first += batch) {
		err = exercise_batch(ims, &ims->order[first],
				     min(batch, count - first));
		if (err)
			return err;
		if (signal_pending(current))
			return -EINTR;
	}
	return 0;
}

int queues_fill(struct ims_queues *ims)
{
	int got = allocate_all(ims, ims->order, draw_queues(ims)), i;

	if (got < 0)
		return got;
	for (i = 0; i < got; i++)
		queue_ring(ims, ims->order[i]);
	release_all(ims, ims->order, got);
	return 0;
}

int queues_reset(struct ims_queues *ims, unsigned int count)
{
	int got, i;

	/* It must not be rung while it has no slot. */
	if (ims->pounder)
		return -EBUSY;
	got = allocate_all(ims, ims->order, min(count, draw_queues(ims)));
	if (got < 0)
		return got;
	iowrite32(CONTROL_RESET, ims->registers + REG_CONTROL);
	for (i = 0; i < got; i++)
		ims_restore_irq(&ims->domain, ims->queues[ims->order[i]].irq);
	for (i = 0; i < got; i++)
		queue_ring(ims, ims->order[i]);
	release_all(ims, ims->order, got);
	return 0;
}
