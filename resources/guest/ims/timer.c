// SPDX-License-Identifier: GPL-2.0
/*
 * The timer device: no interrupts but those of its slots, one for each timer. A
 * timer that is armed triggers its slot once, not before its time by the device's
 * clock. That is not the guest's: the two may run at different rates, and how far
 * apart they were when a timer came is a result.
 *
 * In the device's sysfs directory:
 *   command (write)  run N        all timers get a slot, in random order. N times:
 *                                 each is armed, all at once, for a time of up to
 *                                 50 ms; each must come once. Then all are armed
 *                                 and every second one is disarmed, which must not
 *                                 come. All slots are freed.
 *   results (read)   key=value lines
 * A write returns when the command is done.
 *
 * Locking: the mutex `command` is held for a whole command.
 */
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/random.h>
#include <linux/sched/signal.h>
#include <linux/sysfs.h>

#include "device.h"

#define SHORTEST_NS	(1 * NSEC_PER_MSEC)
#define LONGEST_NS	(50 * NSEC_PER_MSEC)
/* Those to be disarmed have this before it happens, on a busy machine too. */
#define DISARMED_NS	(500 * NSEC_PER_MSEC)
#define GIVE_UP_MS	5000

struct timer {
	atomic_t received;
	unsigned int accounted;		/* of these */
	/* By the device's clock, and by ours. */
	u64 deadline_ns;
	u64 arrived_ns;			/* the last */
	u64 our_deadline_ns;
	u64 our_arrived_ns;
	struct ims_timer *ims;
	int irq;			/* 0: it has none */
	char name[24];
};

struct ims_timer {
	struct pci_dev *pdev;
	void __iomem *registers;
	struct ims_store store;
	struct ims_domain domain;
	struct mutex command;
	struct timer *timers;
	unsigned int count;
	unsigned int armed;		/* and not disarmed */
	unsigned int disarmed;
	unsigned int early;
	unsigned int lost;
	u64 overdue_max_ns;
	unsigned int our_early;
	u64 our_early_max_ns;
};

static u64 clock_ns(const struct ims_timer *ims)
{
	u32 high, low;

	do {
		high = ioread32(ims->registers + REG_CLOCK_HI);
		low = ioread32(ims->registers + REG_CLOCK_LO);
	} while (ioread32(ims->registers + REG_CLOCK_HI) != high);
	return (u64)high << 32 | low;
}

static irqreturn_t on_deadline(int irq, void *data)
{
	struct timer *timer = data;

	WRITE_ONCE(timer->our_arrived_ns, ktime_get_ns());
	WRITE_ONCE(timer->arrived_ns, clock_ns(timer->ims));
	atomic_inc(&timer->received);
	return IRQ_HANDLED;
}

static void release_all(struct ims_timer *ims)
{
	unsigned int index;

	for (index = 0; index < ims->count; index++) {
		struct timer *timer = &ims->timers[index];

		if (timer->irq)
			ims_release_irq(timer->irq, timer);
		timer->irq = 0;
	}
}

static int allocate_all(struct ims_timer *ims)
{
	unsigned int count;

	for (count = 0; count < ims->count; count++) {
		unsigned int index = get_random_u32() % ims->count;
		struct timer *timer;
		int irq;

		while (ims->timers[index].irq)
			index = (index + 1) % ims->count;
		timer = &ims->timers[index];
		irq = ims_request_irq(&ims->domain, index, on_deadline,
				      timer->name, timer);
		if (irq < 0) {
			release_all(ims);
			return irq;
		}
		timer->irq = irq;
	}
	return 0;
}

static bool has_come(const struct timer *timer)
{
	return atomic_read(&timer->received) != timer->accounted;
}

static void arm(struct ims_timer *ims, unsigned int index, u64 ns)
{
	struct timer *timer = &ims->timers[index];

	timer->our_deadline_ns = ktime_get_ns() + ns;
	timer->deadline_ns = clock_ns(ims) + ns;
	iowrite32(lower_32_bits(ns), ims->registers + REG_NANOSECONDS_LO);
	iowrite32(upper_32_bits(ns), ims->registers + REG_NANOSECONDS_HI);
	iowrite32(index, ims->registers + REG_ARM);
}

/* What has become of one whose time is over. */
static void judge(struct ims_timer *ims, struct timer *timer)
{
	u64 arrived = READ_ONCE(timer->arrived_ns);
	s64 our_early = timer->our_deadline_ns - READ_ONCE(timer->our_arrived_ns);

	ims->armed++;
	if (!has_come(timer)) {
		ims->lost++;
		return;
	}
	timer->accounted++;
	if (arrived < timer->deadline_ns)
		ims->early++;
	else
		ims->overdue_max_ns = max(ims->overdue_max_ns,
					  arrived - timer->deadline_ns);
	if (our_early > 0) {
		ims->our_early++;
		ims->our_early_max_ns = max_t(u64, ims->our_early_max_ns,
					      our_early);
	}
}

/* Waits for all whose number is a multiple of that. */
static void await(struct ims_timer *ims, unsigned int step)
{
	unsigned int index, ms = 0;

	msleep(LONGEST_NS / NSEC_PER_MSEC);
	for (index = 0; index < ims->count; index += step) {
		while (!has_come(&ims->timers[index]) && ms++ < GIVE_UP_MS)
			usleep_range(1000, 1100);
	}
}

static void run_round(struct ims_timer *ims)
{
	u32 range = LONGEST_NS - SHORTEST_NS;
	unsigned int index;

	for (index = 0; index < ims->count; index++)
		arm(ims, index, SHORTEST_NS + get_random_u32() % range);
	await(ims, 1);
	for (index = 0; index < ims->count; index++)
		judge(ims, &ims->timers[index]);
}

static void run_disarmed(struct ims_timer *ims)
{
	unsigned int index;

	for (index = 0; index < ims->count; index++)
		arm(ims, index, DISARMED_NS);
	for (index = 1; index < ims->count; index += 2)
		iowrite32(index, ims->registers + REG_DISARM);
	ims->disarmed += ims->count / 2;
	msleep(DISARMED_NS / NSEC_PER_MSEC);
	await(ims, 2);
	for (index = 0; index < ims->count; index += 2)
		judge(ims, &ims->timers[index]);
}

static int run(struct ims_timer *ims, unsigned int rounds)
{
	int err = allocate_all(ims);

	if (err)
		return err;
	while (rounds-- && !signal_pending(current))
		run_round(ims);
	run_disarmed(ims);
	release_all(ims);
	return 0;
}

static ssize_t command_store(struct device *dev, struct device_attribute *attr,
			     const char *text, size_t length)
{
	struct ims_timer *ims = dev_get_drvdata(dev);
	unsigned int rounds;
	int err = -EINVAL;

	mutex_lock(&ims->command);
	if (sscanf(text, "run %u", &rounds) == 1)
		err = run(ims, rounds);
	mutex_unlock(&ims->command);
	return err ? err : length;
}
static DEVICE_ATTR_WO(command);

static ssize_t results_show(struct device *dev, struct device_attribute *attr,
			    char *text)
{
	struct ims_timer *ims = dev_get_drvdata(dev);
	unsigned int received = 0, stray = 0, index;

	for (index = 0; index < ims->count; index++) {
		const struct timer *timer = &ims->timers[index];

		received += atomic_read(&timer->received);
		/* It came twice, too late, or after it was disarmed. */
		stray += has_come(timer);
	}
	return sysfs_emit(text,
			  "timers=%u\narmed=%u\nreceived=%u\nearly=%u\nlost=%u\n"
			  "disarmed=%u\nstray=%u\noverdue_max_us=%llu\n"
			  "our_early=%u\nour_early_max_us=%llu\n"
			  "device_triggers=%u\ndevice_dropped=%u\n"
			  "device_armed=%u\n",
			  ims->count, ims->armed, received, ims->early,
			  ims->lost, ims->disarmed, stray,
			  div_u64(ims->overdue_max_ns, NSEC_PER_USEC),
			  ims->our_early,
			  DIV_ROUND_UP_ULL(ims->our_early_max_ns, NSEC_PER_USEC),
			  ioread32(ims->registers + REG_TRIGGERS),
			  ioread32(ims->registers + REG_DROPPED),
			  ioread32(ims->registers + REG_ARMED));
}
static DEVICE_ATTR_RO(results);

static struct attribute *ims_timer_attrs[] = {
	&dev_attr_command.attr,
	&dev_attr_results.attr,
	NULL,
};
ATTRIBUTE_GROUPS(ims_timer);

static int ims_timer_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct ims_timer *ims;
	unsigned int index;
	int err;

	err = ims_device_open(pdev, IDENTIFICATION_TIMER);
	if (err)
		return err;
	ims = devm_kzalloc(dev, sizeof(*ims), GFP_KERNEL);
	if (!ims)
		return -ENOMEM;
	ims->pdev = pdev;
	ims->registers = ims_registers(pdev);
	mutex_init(&ims->command);
	ims->count = ioread32(ims->registers + REG_BAR_SLOTS);
	ims->store = (struct ims_store) {
		.ops = &ims_array_ops,
		.device = (void __force *)ims_slots(pdev),
		.slots = ims->count,
	};
	ims->timers = devm_kcalloc(dev, ims->count, sizeof(*ims->timers),
				   GFP_KERNEL);
	if (!ims->timers)
		return -ENOMEM;
	for (index = 0; index < ims->count; index++) {
		struct timer *timer = &ims->timers[index];

		timer->ims = ims;
		snprintf(timer->name, sizeof(timer->name), "ims-timer-%u", index);
	}
	pci_set_drvdata(pdev, ims);
	err = ims_domain_create(&ims->domain, pdev, &ims->store, 1);
	if (err)
		return dev_err_probe(dev, err, "no domain for its slots\n");
	return 0;
}

static void ims_timer_remove(struct pci_dev *pdev)
{
	struct ims_timer *ims = pci_get_drvdata(pdev);

	ims_domain_remove(&ims->domain);
}

static const struct pci_device_id ims_timer_ids[] = {
	{ PCI_DEVICE_DATA(REDHAT_QUMRANET, IMS_TIMER, NULL) },
	{ }
};
MODULE_DEVICE_TABLE(pci, ims_timer_ids);

struct pci_driver ims_timer_driver = {
	.name = "ims-timer",
	.id_table = ims_timer_ids,
	.probe = ims_timer_probe,
	.remove = ims_timer_remove,
	.dev_groups = ims_timer_groups,
};
