// SPDX-License-Identifier: GPL-2.0
/*
 * Masks a doorbell's vectors by their table entries, and reads pending bits.
 *
 * The mask bit is written past the kernel's irq core. disable_irq() would not
 * write it before the next interrupt, and would keep an interrupt that comes
 * while masked from its handler, where it is counted. The core's own copy of
 * the bit says unmasked, so a vector is unmasked again before the core writes
 * its entry.
 *
 * Locking: commands call these one at a time, under the mutex `command`.
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/pci.h>

#include "doorbell.h"

/* A table or PBA register of the MSI-X capability: BAR and offset. */
static void __iomem *map_window(struct doorbell *bell, int reg,
				unsigned int bytes)
{
	struct pci_dev *pdev = bell->pdev;
	resource_size_t start;
	u32 window;

	pci_read_config_dword(pdev, pdev->msix_cap + reg, &window);
	start = pci_resource_start(pdev, window & PCI_MSIX_TABLE_BIR);
	return devm_ioremap(&pdev->dev, start + (window & PCI_MSIX_TABLE_OFFSET),
			    bytes);
}

int map_msix(struct doorbell *bell)
{
	unsigned int size = bell->table_size;

	bell->table = map_window(bell, PCI_MSIX_TABLE, size * PCI_MSIX_ENTRY_SIZE);
	bell->pba = map_window(bell, PCI_MSIX_PBA, DIV_ROUND_UP(size, 64) * 8);
	return bell->table && bell->pba ? 0 : -ENOMEM;
}

bool is_pending(struct doorbell *bell, unsigned int index)
{
	return readl(bell->pba + index / 32 * 4) & BIT(index % 32);
}

static void write_mask(struct doorbell *bell, unsigned int index, u32 mask)
{
	void __iomem *entry = bell->table + index * PCI_MSIX_ENTRY_SIZE;

	writel(mask, entry + PCI_MSIX_ENTRY_VECTOR_CTRL);
	/* A read says that the device has it. */
	readl(entry + PCI_MSIX_ENTRY_VECTOR_CTRL);
}

int mask_vector(struct doorbell *bell, unsigned int index)
{
	if (index >= bell->grown)
		return -ERANGE;
	write_mask(bell, index, PCI_MSIX_ENTRY_CTRL_MASKBIT);
	return 0;
}

static bool has_all(struct vector *vector)
{
	return atomic_read(&vector->received) == vector->rung - vector->lost;
}

/* What was raised has come, or is lost. */
static void await_raised(struct vector *vector)
{
	unsigned long patience = msecs_to_jiffies(patience_ms + give_up_ms);

	if (!wait_event_timeout(vector->arrival, has_all(vector), patience))
		WRITE_ONCE(vector->lost, vector->lost + 1);
}

int unmask_vector(struct doorbell *bell, unsigned int index)
{
	if (index >= bell->grown)
		return -ERANGE;
	write_mask(bell, index, 0);
	await_raised(&bell->vectors[index]);
	return 0;
}

/* As pci_restore_msi_state() does for a device that may have lost it. */
int rewrite_vector(struct doorbell *bell, unsigned int index)
{
	void __iomem *entry = bell->table + index * PCI_MSIX_ENTRY_SIZE;
	u32 lower, upper, data;

	if (index >= bell->grown)
		return -ERANGE;
	lower = readl(entry + PCI_MSIX_ENTRY_LOWER_ADDR);
	upper = readl(entry + PCI_MSIX_ENTRY_UPPER_ADDR);
	data = readl(entry + PCI_MSIX_ENTRY_DATA);
	write_mask(bell, index, PCI_MSIX_ENTRY_CTRL_MASKBIT);
	writel(lower, entry + PCI_MSIX_ENTRY_LOWER_ADDR);
	writel(upper, entry + PCI_MSIX_ENTRY_UPPER_ADDR);
	writel(data, entry + PCI_MSIX_ENTRY_DATA);
	write_mask(bell, index, 0);
	await_raised(&bell->vectors[index]);
	return 0;
}

/* Waits for what another CPU or the device does. */
#define becomes_true(condition)						\
({									\
	unsigned long end = jiffies +					\
		msecs_to_jiffies(patience_ms + give_up_ms);		\
									\
	while (!(condition) && time_before(jiffies, end))		\
		usleep_range(20, 50);					\
	(condition);							\
})

int raise_vector(struct doorbell *bell, unsigned int index)
{
	struct vector *vector = &bell->vectors[index];

	if (index >= bell->grown + bell->is_reserved)
		return -ERANGE;
	WRITE_ONCE(vector->rung, vector->rung + 1);
	bell->kind->ring(bell, index);
	return becomes_true(is_pending(bell, index) || has_all(vector)) ?
		0 : -ETIMEDOUT;
}

int request_vector(struct doorbell *bell)
{
	struct vector *vector = &bell->vectors[bell->grown];
	int err;

	if (bell->grown >= bell->table_size)
		return -ERANGE;
	err = add_vector(bell);
	if (!err)
		await_raised(vector);
	return err;
}

static int ring_without_pause(void *data)
{
	struct doorbell *bell = data;
	struct vector *vector = &bell->vectors[0];

	while (!kthread_should_stop()) {
		WRITE_ONCE(vector->storm_rung, vector->storm_rung + 1);
		bell->kind->ring(bell, 0);
		WRITE_ONCE(vector->storm_done, vector->storm_rung);
		cond_resched();
	}
	return 0;
}

/*
 * On the CPU that takes the vector, which has taken all that was sent before
 * by the time that it executes what follows the write of the mask bit.
 */
static void run_round(struct doorbell *bell)
{
	struct storm *storm = &bell->storm;
	struct vector *vector = &bell->vectors[0];
	unsigned int ring;
	int before;

	write_mask(bell, 0, PCI_MSIX_ENTRY_CTRL_MASKBIT);
	before = atomic_read(&vector->received);
	/* The one that is under way may have begun before. */
	ring = READ_ONCE(vector->storm_done) + 2;
	if (!becomes_true(READ_ONCE(vector->storm_done) >= ring) ||
	    !becomes_true(is_pending(bell, 0)))
		storm->not_pending++;
	if (atomic_read(&vector->received) != before)
		storm->while_masked++;
	write_mask(bell, 0, 0);
	if (!becomes_true(READ_ONCE(vector->storm_seen) >= ring))
		storm->lost++;
	storm->rounds++;
}

/* Far more than a ring takes from one side to the other on a busy host. */
#define QUIET_MS 250

/*
 * The interrupt of the last ring but one may have shown the last, whose own is
 * then still on its way.
 */
static void await_silence(struct vector *vector)
{
	int before;

	do {
		before = atomic_read(&vector->received);
		msleep(QUIET_MS);
	} while (atomic_read(&vector->received) != before);
}

int run_storm(struct doorbell *bell, unsigned int rounds)
{
	struct storm *storm = &bell->storm;
	struct vector *vector = &bell->vectors[0];
	struct task_struct *ringer;
	unsigned int cpu;
	int before, err;

	if (bell->grown == 0 || num_online_cpus() < 2)
		return -EINVAL;
	/* One ring says which CPU takes the vector. */
	err = raise_vector(bell, 0);
	if (err)
		return err;
	await_raised(vector);
	cpu = READ_ONCE(vector->cpu);
	before = atomic_read(&vector->received);
	ringer = kthread_create(ring_without_pause, bell, "doorbell-storm");
	if (IS_ERR(ringer))
		return PTR_ERR(ringer);
	kthread_bind(ringer, cpumask_any_but(cpu_online_mask, cpu));
	set_cpus_allowed_ptr(current, cpumask_of(cpu));
	*storm = (struct storm){ };
	vector->storm_rung = vector->storm_done = vector->storm_seen = 0;
	wake_up_process(ringer);
	while (storm->rounds < rounds && !signal_pending(current))
		run_round(bell);
	kthread_stop(ringer);
	set_cpus_allowed_ptr(current, cpu_possible_mask);

	/* The very last ring is seen as well. */
	if (!becomes_true(READ_ONCE(vector->storm_seen) == vector->storm_rung))
		storm->lost++;
	await_silence(vector);
	storm->rung = vector->storm_rung;
	storm->received = atomic_read(&vector->received) - before;
	/* Several rings may be one interrupt: they do not count with the others. */
	atomic_set(&vector->received, before);
	return 0;
}
