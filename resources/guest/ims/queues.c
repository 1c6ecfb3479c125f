// SPDX-License-Identifier: GPL-2.0
/*
 * The queues device: MSI-X for two special vectors, and a slot for each queue, in
 * the BAR or in memory. A ring of a queue triggers its slot once, and nothing else
 * ever does. So each ring must run the handler of its queue exactly once.
 *
 * In the device's sysfs directory:
 *   command (write)  exercise N   all queues in random order, N at a time: each
 *                                 gets a slot and is rung; with all N there, each
 *                                 is rung, moved to another CPU and rung there;
 *                                 all are masked, rung twice and unmasked, which
 *                                 is one interrupt; all are freed, and rung, which
 *                                 must do nothing; each gets a slot again, is
 *                                 rung, and freed
 *                    fill         queues in random order get a slot until the
 *                                 kernel has no more; all are rung, and freed
 *                    reset N      N queues get a slot, the device is reset, the
 *                                 slots are restored; all are rung, and freed
 *                    special N    rings each of the MSI-X vectors N times
 *                    pound        rings queue 0 without pause from now on; the
 *                                 other commands leave it alone
 *                    rest         no longer
 *   results (read)   key=value lines; while pounding, one ring may be on its way
 * A write returns when the command is done. A lost ring is a result, not an
 * error.
 *
 * Locking: the mutex `command` is held for a whole command. A line has one ringer
 * at a time: the pounding thread owns queue 0 while it runs, commands own the
 * rest.
 */
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sysfs.h>

#include "queues.h"

static int special(struct ims_queues *ims, unsigned int count)
{
	unsigned int index;

	while (count--) {
		for (index = 0; index < MSIX_VECTORS; index++)
			line_ring(ims, &ims->msix[index], REG_RING_MSIX, index);
		if (signal_pending(current))
			return -EINTR;
	}
	return 0;
}

static int pound_thread(void *data)
{
	struct ims_queues *ims = data;

	while (!kthread_should_stop()) {
		queue_ring(ims, 0);
		cond_resched();
	}
	return 0;
}

static int pound(struct ims_queues *ims)
{
	struct task_struct *thread;
	int err;

	if (ims->pounder)
		return -EALREADY;
	err = queue_allocate(ims, 0);
	if (err)
		return err;
	thread = kthread_run(pound_thread, ims, "ims-pound");
	if (IS_ERR(thread)) {
		queue_release(ims, 0);
		return PTR_ERR(thread);
	}
	ims->pounder = thread;
	return 0;
}

static void rest(struct ims_queues *ims)
{
	if (!ims->pounder)
		return;
	kthread_stop(ims->pounder);
	ims->pounder = NULL;
	queue_release(ims, 0);
}

static int obey(struct ims_queues *ims, const char *text)
{
	unsigned int count;

	if (sscanf(text, "exercise %u", &count) == 1)
		return queues_exercise(ims, count);
	if (sscanf(text, "reset %u", &count) == 1)
		return queues_reset(ims, count);
	if (sscanf(text, "special %u", &count) == 1)
		return special(ims, count);
	if (sysfs_streq(text, "fill"))
		return queues_fill(ims);
	if (sysfs_streq(text, "pound"))
		return pound(ims);
	if (sysfs_streq(text, "rest")) {
		rest(ims);
		return 0;
	}
	return -EINVAL;
}

static ssize_t command_store(struct device *dev, struct device_attribute *attr,
			     const char *text, size_t length)
{
	struct ims_queues *ims = dev_get_drvdata(dev);
	int err;

	mutex_lock(&ims->command);
	err = obey(ims, text);
	mutex_unlock(&ims->command);
	return err ? err : length;
}
static DEVICE_ATTR_WO(command);

static ssize_t results_show(struct device *dev, struct device_attribute *attr,
			    char *text)
{
	struct ims_queues *ims = dev_get_drvdata(dev);
	unsigned int rung = 0, arrived = 0, late = 0, lost = 0, uneven = 0;
	const struct line *errors = &ims->msix[0], *done = &ims->msix[1];
	unsigned int index;

	for (index = 0; index < ims->count; index++) {
		const struct line *queue = &ims->queues[index];

		rung += READ_ONCE(queue->rung);
		arrived += atomic_read(&queue->received);
		late += READ_ONCE(queue->late);
		lost += READ_ONCE(queue->lost);
		uneven += line_is_uneven(queue);
	}
	return sysfs_emit(text,
			  "bar_slots=%u\nmemory_slots=%u\nmost_live=%u\n"
			  "allocations=%u\nrung=%u\nreceived=%u\nlate=%u\n"
			  "lost=%u\nuneven=%u\nmoves=%u\nunmoved=%u\n"
			  "masked_rung=%u\nheld=%u\n"
			  "freed_rung=%u\nstray=%u\nfirst_rung=%u\n"
			  "msix_rung=%u\nmsix_lost=%u\nmsix_uneven=%u\n"
			  "done_received=%u\ncommands=%d\ncommands_refused=%d\n"
			  "device_triggers=%u\ndevice_dropped=%u\n"
			  "device_refused=%u\n"
			  "allocate_us=%llu\nallocate_max_us=%llu\n",
			  ims->stores[0].slots, ims->stores[1].slots,
			  ims->most_live, ims->allocations, rung, arrived, late,
			  lost, uneven, ims->moves, ims->unmoved,
			  ims->masked_rung, ims->held,
			  ims->freed_rung, ims->stray,
			  READ_ONCE(ims->queues[0].rung),
			  errors->rung + done->rung,
			  errors->lost + errors->late + done->lost + done->late,
			  line_is_uneven(errors), atomic_read(&done->received),
			  atomic_read(&ims->memory.commands),
			  atomic_read(&ims->memory.refused),
			  ioread32(ims->registers + REG_TRIGGERS),
			  ioread32(ims->registers + REG_DROPPED),
			  ioread32(ims->registers + REG_REFUSED),
			  div_u64(ims->allocate_ns, NSEC_PER_USEC),
			  div_u64(ims->allocate_max_ns, NSEC_PER_USEC));
}
static DEVICE_ATTR_RO(results);

static struct attribute *ims_queues_attrs[] = {
	&dev_attr_command.attr,
	&dev_attr_results.attr,
	NULL,
};
ATTRIBUTE_GROUPS(ims_queues);

static int enable_msix(struct ims_queues *ims)
{
	struct pci_dev *pdev = ims->pdev;
	unsigned int index;
	int err;

	err = pci_alloc_irq_vectors(pdev, MSIX_VECTORS, MSIX_VECTORS,
				    PCI_IRQ_MSIX);
	if (err < 0)
		return err;
	for (index = 0; index < MSIX_VECTORS; index++) {
		struct line *line = &ims->msix[index];

		line_init(line, "ims-msix", index);
		line->irq = pci_irq_vector(pdev, index);
		err = request_irq(line->irq, line_arrival, 0, line->name, line);
		if (err)
			goto free;
	}
	return 0;

free:
	while (index--)
		free_irq(ims->msix[index].irq, &ims->msix[index]);
	pci_free_irq_vectors(pdev);
	return err;
}

static void disable_msix(struct ims_queues *ims)
{
	unsigned int index;

	for (index = 0; index < MSIX_VECTORS; index++)
		free_irq(ims->msix[index].irq, &ims->msix[index]);
	pci_free_irq_vectors(ims->pdev);
}

static int ims_queues_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct ims_queues *ims;
	unsigned int index;
	int err;

	err = ims_device_open(pdev, IDENTIFICATION_QUEUES);
	if (err)
		return err;
	ims = devm_kzalloc(dev, sizeof(*ims), GFP_KERNEL);
	if (!ims)
		return -ENOMEM;
	ims->pdev = pdev;
	ims->registers = ims_registers(pdev);
	mutex_init(&ims->command);
	ims->memory.registers = ims->registers;
	raw_spin_lock_init(&ims->memory.lock);
	ims->memory.pool = dmam_pool_create(KBUILD_MODNAME, dev,
					    sizeof(struct ims_entry),
					    sizeof(struct ims_entry), 0);
	if (!ims->memory.pool)
		return -ENOMEM;
	ims->stores[0] = (struct ims_store) {
		.ops = &ims_array_ops,
		.device = (void __force *)ims_slots(pdev),
		.slots = ioread32(ims->registers + REG_BAR_SLOTS),
	};
	ims->stores[1] = (struct ims_store) {
		.ops = &ims_memory_ops,
		.device = &ims->memory,
		.slots = ioread32(ims->registers + REG_MEMORY_SLOTS),
	};
	ims->count = ims->stores[0].slots + ims->stores[1].slots;
	ims->queues = devm_kcalloc(dev, ims->count, sizeof(*ims->queues),
				   GFP_KERNEL);
	ims->order = devm_kcalloc(dev, ims->count, sizeof(*ims->order),
				  GFP_KERNEL);
	if (!ims->queues || !ims->order)
		return -ENOMEM;
	for (index = 0; index < ims->count; index++)
		line_init(&ims->queues[index], "ims-queue", index);
	pci_set_drvdata(pdev, ims);
	err = ims_domain_create(&ims->domain, pdev, ims->stores,
				ARRAY_SIZE(ims->stores));
	if (err)
		return dev_err_probe(dev, err, "no domain for its slots\n");
	err = enable_msix(ims);
	if (err)
		ims_domain_remove(&ims->domain);
	return err;
}

static void ims_queues_remove(struct pci_dev *pdev)
{
	struct ims_queues *ims = pci_get_drvdata(pdev);

	rest(ims);
	disable_msix(ims);
	ims_domain_remove(&ims->domain);
}

static const struct pci_device_id ims_queues_ids[] = {
	{ PCI_DEVICE_DATA(REDHAT_QUMRANET, IMS_QUEUES, NULL) },
	{ }
};
MODULE_DEVICE_TABLE(pci, ims_queues_ids);

struct pci_driver ims_queues_driver = {
	.name = "ims-queues",
	.id_table = ims_queues_ids,
	.probe = ims_queues_probe,
	.remove = ims_queues_remove,
	.dev_groups = ims_queues_groups,
};
