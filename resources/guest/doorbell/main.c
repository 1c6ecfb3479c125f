// SPDX-License-Identifier: GPL-2.0
/*
 * doorbell - grows and shrinks the MSI-X vectors of a device that rings itself
 * one by one, rings them, masks them, and counts what arrives.
 *
 * Two devices can: ivshmem-doorbell, whose server hands it its own eventfds back
 * as a peer's, and the 82576 Ethernet controller (QEMU's igb), which has a
 * register that sets interrupt causes, and a function-level reset. A ring raises
 * one vector, and nothing else ever does. So each ring must run the handler of
 * its vector exactly once. A ring that has not come within the patience is
 * waited for some more, without ringing again: it is late if it comes then, and
 * lost if it does not. MSI-X is enabled with one vector; the others come and go
 * while it stays enabled. Kernels before 6.2 cannot do that: there all table
 * entries are allocated when MSI-X is enabled, and only requested and freed one
 * by one.
 *
 * In the device's sysfs directory:
 *   command (write)  grow N         vectors 0..N-1 exist; each new one is rung
 *                    shrink N       the vectors from N on are freed
 *                    ring V COUNT   rings one vector; V may be "all"
 *                    pound          rings vector 0 without pause from now on
 *                    rest           no longer
 *                    move COUNT     vector 0 goes to another CPU so often, while
 *                                   it is pounded
 *                    reserve        the next vector has a table entry and no
 *                                   handler: it was never unmasked
 *                    request        the next vector exists, and what it was
 *                                   raised for before has come
 *                    mask V         sets the mask bit of a table entry
 *                    unmask V       clears it, and what was raised has come
 *                    rewrite V      writes the table entry as it is, as after a
 *                                   reset of the device
 *                    raise V        rings one vector, until it is pending or
 *                                   its interrupt has come
 *                    storm ROUNDS   vector 0 is rung without pause, and is
 *                                   masked and unmasked so often
 *   results (read)   key=value lines; while pounding, one ring may be on its way
 *   pending (read)   vectors whose pending bit is set, a comma after each
 * A write returns when the command is done. A lost ring is a result, not an
 * error.
 *
 * The device may be reset (sysfs `reset`) and suspended at any time; a step of a
 * command, which is to ring or to add or remove one vector, is never cut in two
 * by that.
 *
 * Locking: the mutex `command` is held for a whole command. `steps` is held for
 * reading by each step, so that vectors come and go while another is rung, and
 * for writing by a reset, for as long as that takes. A vector has one ringer at
 * a time: the pounding thread owns vector 0 while it runs, commands own the
 * rest.
 */
#include <linux/cpumask.h>
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/sysfs.h>
#include <linux/version.h>
#include <linux/wait.h>

#include "doorbell.h"

#define PCI_DEVICE_ID_REDHAT_QUMRANET_DOORBELL_IVSHMEM	0x1110
#define PCI_DEVICE_ID_INTEL_DOORBELL_82576		0x10c9
#define BAR_REGISTERS	0

/* ivshmem */
#define REG_IVPOSITION	8	/* read: the device's own id */
#define REG_DOORBELL	12	/* write: peer id << 16 | vector */

/* 82576 (datasheet revision 2.87, 8.8): in multiple-MSI-X mode cause n is vector n. */
#define REG_GPIE	0x1514
#define GPIE_NSICR		BIT(0)
#define GPIE_MULTIPLE_MSIX	BIT(4)
#define GPIE_PBA		BIT(31)
#define REG_EICS	0x1520	/* write: causes that happen now */
#define REG_EIMS	0x1524	/* write: causes that interrupt */
#define REG_EIAC	0x152c	/* causes that end when their message is sent */

unsigned int patience_ms = 1000;
module_param(patience_ms, uint, 0644);
MODULE_PARM_DESC(patience_ms, "a ring that has not arrived by then is late");
unsigned int give_up_ms = 5000;
module_param(give_up_ms, uint, 0644);
MODULE_PARM_DESC(give_up_ms, "a late ring that has not arrived by then is lost");

static void ivshmem_prepare(struct doorbell *bell)
{
	bell->id = ioread32(bell->registers + REG_IVPOSITION);
}

static void ivshmem_ring(struct doorbell *bell, unsigned int index)
{
	iowrite32(bell->id << 16 | index, bell->registers + REG_DOORBELL);
}

static const struct kind ivshmem = {
	.max_ringable = 256,
	.prepare = ivshmem_prepare,
	.ring = ivshmem_ring,
};

static void igb_prepare(struct doorbell *bell)
{
	u32 all = BIT(bell->table_size) - 1;

	iowrite32(GPIE_NSICR | GPIE_MULTIPLE_MSIX | GPIE_PBA,
		  bell->registers + REG_GPIE);
	iowrite32(all, bell->registers + REG_EIAC);
	iowrite32(all, bell->registers + REG_EIMS);
}

static void igb_ring(struct doorbell *bell, unsigned int index)
{
	iowrite32(BIT(index), bell->registers + REG_EICS);
}

static const struct kind igb = {
	.max_ringable = 10,
	.prepare = igb_prepare,
	.ring = igb_ring,
};

static irqreturn_t on_arrival(int irq, void *data)
{
	struct vector *vector = data;
	unsigned int cpu = smp_processor_id();

	if (vector->cpu != cpu) {
		WRITE_ONCE(vector->cpu_since_ns, ktime_get_ns());
		/* Who sees the CPU sees the time. */
		smp_store_release(&vector->cpu, cpu);
	}
	WRITE_ONCE(vector->storm_seen, READ_ONCE(vector->storm_rung));
	atomic_inc(&vector->received);
	wake_up(&vector->arrival);
	return IRQ_HANDLED;
}

static bool arrives(struct vector *vector, int before, unsigned int ms)
{
	return wait_event_timeout(vector->arrival,
				  atomic_read(&vector->received) != before,
				  msecs_to_jiffies(ms));
}

static void ring(struct doorbell *bell, unsigned int index)
{
	struct vector *vector = &bell->vectors[index];
	int before = atomic_read(&vector->received);
	u64 start, took;

	down_read(&bell->steps);
	start = ktime_get_ns();
	WRITE_ONCE(vector->rung, vector->rung + 1);
	bell->kind->ring(bell, index);
	if (!arrives(vector, before, patience_ms)) {
		bool late = arrives(vector, before, give_up_ms);

		if (late)
			WRITE_ONCE(vector->late, vector->late + 1);
		else
			WRITE_ONCE(vector->lost, vector->lost + 1);
		dev_warn(&bell->pdev->dev, "vector %u: ring %u %s\n", index,
			 vector->rung, late ? "late" : "lost");
	}
	took = ktime_get_ns() - start;
	up_read(&bell->steps);
	if (took > vector->slowest_ns)
		WRITE_ONCE(vector->slowest_ns, took);
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
static const char *const growth = "one-by-one";

static int enable_msix(struct doorbell *bell)
{
	if (!pci_msix_can_alloc_dyn(bell->pdev))
		return dev_err_probe(&bell->pdev->dev, -EOPNOTSUPP,
				     "no vectors can be added after enable\n");
	return pci_alloc_irq_vectors(bell->pdev, 1, 1, PCI_IRQ_MSIX);
}

static int allocate(struct doorbell *bell, unsigned int index)
{
	struct msi_map map;

	/* Vector 0 came with enable and lives as long as that. */
	if (index == 0)
		return pci_irq_vector(bell->pdev, 0);
	map = pci_msix_alloc_irq_at(bell->pdev, index, NULL);
	return map.index < 0 ? map.index : map.virq;
}

static void release(struct doorbell *bell, unsigned int index)
{
	struct msi_map map = {
		.index = index,
		.virq = bell->vectors[index].irq,
	};

	if (index != 0)
		pci_msix_free_irq(bell->pdev, map);
}
#else
static const char *const growth = "at-enable";

static int enable_msix(struct doorbell *bell)
{
	return pci_alloc_irq_vectors(bell->pdev, bell->table_size,
				     bell->table_size, PCI_IRQ_MSIX);
}

static int allocate(struct doorbell *bell, unsigned int index)
{
	return pci_irq_vector(bell->pdev, index);
}

static void release(struct doorbell *bell, unsigned int index)
{
}
#endif

/* Its table entry has an interrupt of the kernel's, and stays masked. */
static int reserve_step(struct doorbell *bell)
{
	struct vector *vector = &bell->vectors[bell->grown];

	if (bell->is_reserved)
		return 0;
	vector->irq = allocate(bell, bell->grown);
	if (vector->irq < 0)
		return vector->irq;
	bell->is_reserved = true;
	return 0;
}

static int reserve(struct doorbell *bell)
{
	int err;

	if (bell->grown >= bell->table_size)
		return -ERANGE;
	down_read(&bell->steps);
	err = reserve_step(bell);
	up_read(&bell->steps);
	return err;
}

static int add_vector_step(struct doorbell *bell)
{
	unsigned int index = bell->grown;
	struct vector *vector = &bell->vectors[index];
	u64 start = ktime_get_ns(), took;
	int err;

	err = reserve_step(bell);
	if (err)
		return err;
	bell->is_reserved = false;
	err = request_irq(vector->irq, on_arrival, 0, vector->name, vector);
	if (err) {
		release(bell, index);
		return err;
	}
	took = ktime_get_ns() - start;
	vector->grow_ns = took;
	bell->grow_ns += took;
	bell->grow_max_ns = max(bell->grow_max_ns, took);
	bell->growths++;
	bell->grown++;
	return 0;
}

int add_vector(struct doorbell *bell)
{
	int err;

	down_read(&bell->steps);
	err = add_vector_step(bell);
	up_read(&bell->steps);
	return err;
}

static void remove_vector(struct doorbell *bell)
{
	unsigned int index = --bell->grown;

	down_read(&bell->steps);
	free_irq(bell->vectors[index].irq, &bell->vectors[index]);
	release(bell, index);
	up_read(&bell->steps);
}

static unsigned int ringable(const struct doorbell *bell)
{
	return min(bell->table_size, bell->kind->max_ringable);
}

static int compare_ns(const void *left, const void *right)
{
	u64 a = *(const u64 *)left, b = *(const u64 *)right;

	return a < b ? -1 : a > b;
}

static u64 median_ns(u64 *times_ns, unsigned int count)
{
	sort(times_ns, count, sizeof(*times_ns), compare_ns, NULL);
	return times_ns[count / 2];
}

static int grow(struct doorbell *bell, unsigned int count)
{
	unsigned int before = bell->grown, index;
	u64 *took_ns;
	int err;

	if (count > ringable(bell))
		return -ERANGE;
	if (count <= before)
		return 0;
	took_ns = kcalloc(count - before, sizeof(*took_ns), GFP_KERNEL);
	if (!took_ns)
		return -ENOMEM;
	while (bell->grown < count) {
		index = bell->grown;
		err = add_vector(bell);
		if (err)
			goto out;
		took_ns[index - before] = bell->vectors[index].grow_ns;
		ring(bell, index);
	}
	bell->grow_median_ns = median_ns(took_ns, count - before);
	err = 0;
out:
	kfree(took_ns);
	return err;
}

static int shrink(struct doorbell *bell, unsigned int count)
{
	if (count == 0 && bell->pounder)
		return -EBUSY;
	if (bell->is_reserved) {
		release(bell, bell->grown);
		bell->is_reserved = false;
	}
	while (bell->grown > count)
		remove_vector(bell);
	return 0;
}

static int ring_range(struct doorbell *bell, unsigned int first,
		      unsigned int end, unsigned int count)
{
	unsigned int index;

	if (end > bell->grown)
		return -ERANGE;
	if (first == 0 && bell->pounder)
		return -EBUSY;
	while (count--) {
		for (index = first; index < end; index++) {
			ring(bell, index);
			if (signal_pending(current))
				return -EINTR;
		}
	}
	return 0;
}

static int pound_thread(void *data)
{
	struct doorbell *bell = data;

	while (!kthread_should_stop()) {
		ring(bell, 0);
		cond_resched();
	}
	return 0;
}

static int pound(struct doorbell *bell)
{
	struct task_struct *thread;

	if (bell->grown == 0)
		return -ERANGE;
	if (bell->pounder)
		return -EALREADY;
	thread = kthread_run(pound_thread, bell, "doorbell-pound");
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	bell->pounder = thread;
	return 0;
}

static void rest(struct doorbell *bell)
{
	if (bell->pounder)
		kthread_stop(bell->pounder);
	bell->pounder = NULL;
}

static bool is_at(struct vector *vector, unsigned int cpu)
{
	return smp_load_acquire(&vector->cpu) == cpu;
}

/*
 * Until its first interrupt on the new CPU: without interrupt remapping the
 * kernel rewrites the message when the next interrupt comes, on the old one.
 */
static int move_once(struct vector *vector, u64 *took_ns)
{
	unsigned int cpu = cpumask_next(vector->cpu, cpu_online_mask);
	u64 start = ktime_get_ns();
	int err;

	if (cpu >= nr_cpu_ids)
		cpu = cpumask_first(cpu_online_mask);
	err = irq_set_affinity(vector->irq, cpumask_of(cpu));
	if (err)
		return err;
	if (!wait_event_timeout(vector->arrival, is_at(vector, cpu),
				msecs_to_jiffies(patience_ms + give_up_ms)))
		return -ETIMEDOUT;
	*took_ns = READ_ONCE(vector->cpu_since_ns) - start;
	return 0;
}

static int move(struct doorbell *bell, unsigned int count)
{
	u64 *took_ns;
	unsigned int done;
	int err = 0;

	if (!bell->pounder || num_online_cpus() < 2)
		return -EINVAL;
	if (count == 0 || count > 10000)
		return -ERANGE;
	took_ns = kcalloc(count, sizeof(*took_ns), GFP_KERNEL);
	if (!took_ns)
		return -ENOMEM;
	for (done = 0; done < count && !err; done++)
		err = move_once(&bell->vectors[0], &took_ns[done]);
	if (!err)
		bell->move_median_ns = median_ns(took_ns, count);
	kfree(took_ns);
	return err;
}

/* Commands that use one vector's mask and pending bit. */
static int obey_masking(struct doorbell *bell, const char *text)
{
	unsigned int index, count;

	if (bell->pounder)
		return -EBUSY;
	if (sscanf(text, "mask %u", &index) == 1)
		return mask_vector(bell, index);
	if (sscanf(text, "unmask %u", &index) == 1)
		return unmask_vector(bell, index);
	if (sscanf(text, "rewrite %u", &index) == 1)
		return rewrite_vector(bell, index);
	if (sscanf(text, "raise %u", &index) == 1)
		return raise_vector(bell, index);
	if (sscanf(text, "storm %u", &count) == 1)
		return run_storm(bell, count);
	if (sysfs_streq(text, "reserve"))
		return reserve(bell);
	if (sysfs_streq(text, "request"))
		return request_vector(bell);
	return -EINVAL;
}

static int obey(struct doorbell *bell, const char *text)
{
	unsigned int index, count;

	if (sscanf(text, "grow %u", &count) == 1)
		return grow(bell, count);
	if (sscanf(text, "shrink %u", &count) == 1)
		return shrink(bell, count);
	if (sscanf(text, "ring all %u", &count) == 1)
		return ring_range(bell, 0, bell->grown, count);
	if (sscanf(text, "ring %u %u", &index, &count) == 2)
		return index < bell->grown ?
			ring_range(bell, index, index + 1, count) : -ERANGE;
	if (sscanf(text, "move %u", &count) == 1)
		return move(bell, count);
	if (sysfs_streq(text, "pound"))
		return pound(bell);
	if (sysfs_streq(text, "rest")) {
		rest(bell);
		return 0;
	}
	return obey_masking(bell, text);
}

static ssize_t command_store(struct device *dev, struct device_attribute *attr,
			     const char *text, size_t length)
{
	struct doorbell *bell = dev_get_drvdata(dev);
	int err;

	mutex_lock(&bell->command);
	err = obey(bell, text);
	mutex_unlock(&bell->command);
	return err ? err : length;
}
static DEVICE_ATTR_WO(command);

static ssize_t results_show(struct device *dev, struct device_attribute *attr,
			    char *text)
{
	struct doorbell *bell = dev_get_drvdata(dev);
	u64 rung = 0, received = 0, late = 0, lost = 0, slowest_ns = 0;
	unsigned int index, uneven = 0;
	struct vector *first = &bell->vectors[0];
	struct storm *storm = &bell->storm;
	int length;

	for (index = 0; index < bell->table_size; index++) {
		struct vector *vector = &bell->vectors[index];
		unsigned int arrived = atomic_read(&vector->received);

		rung += READ_ONCE(vector->rung);
		late += READ_ONCE(vector->late);
		lost += READ_ONCE(vector->lost);
		slowest_ns = max(slowest_ns, READ_ONCE(vector->slowest_ns));
		received += arrived;
		/* Something came twice, on a neighbour's vector, or too late. */
		uneven += arrived != vector->rung - vector->lost;
	}
	length = sysfs_emit(text,
			  "growth=%s\ntable=%u\nringable=%u\nvectors=%u\n"
			  "rung=%llu\nreceived=%llu\nlate=%llu\nlost=%llu\n"
			  "uneven=%u\nslowest_us=%llu\n"
			  "first_rung=%u\nfirst_received=%u\nfirst_lost=%u\n"
			  "growths=%u\ngrow_us=%llu\ngrow_max_us=%llu\n"
			  "grow_median_us=%llu\n"
			  "move_us=%llu\n",
			  growth, bell->table_size, ringable(bell), bell->grown,
			  rung, received, late, lost, uneven,
			  div_u64(slowest_ns, NSEC_PER_USEC),
			  READ_ONCE(first->rung), atomic_read(&first->received),
			  READ_ONCE(first->lost), bell->growths,
			  div_u64(bell->grow_ns, NSEC_PER_USEC),
			  div_u64(bell->grow_max_ns, NSEC_PER_USEC),
			  div_u64(bell->grow_median_ns, NSEC_PER_USEC),
			  div_u64(bell->move_median_ns, NSEC_PER_USEC));
	length += sysfs_emit_at(text, length,
				"storm_rounds=%u\nstorm_rung=%u\n"
				"storm_received=%u\nstorm_while_masked=%u\n"
				"storm_not_pending=%u\nstorm_lost=%u\n",
				storm->rounds, storm->rung, storm->received,
				storm->while_masked, storm->not_pending,
				storm->lost);
	return length;
}
static DEVICE_ATTR_RO(results);

static ssize_t pending_show(struct device *dev, struct device_attribute *attr,
			    char *text)
{
	struct doorbell *bell = dev_get_drvdata(dev);
	unsigned int index;
	int length = 0;

	for (index = 0; index < bell->table_size; index++)
		if (is_pending(bell, index))
			length += sysfs_emit_at(text, length, "%u,", index);
	return length + sysfs_emit_at(text, length, "\n");
}
static DEVICE_ATTR_RO(pending);

static struct attribute *doorbell_attrs[] = {
	&dev_attr_command.attr,
	&dev_attr_pending.attr,
	&dev_attr_results.attr,
	NULL,
};
ATTRIBUTE_GROUPS(doorbell);

static int doorbell_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct doorbell *bell;
	int err, index, table_size;

	err = pcim_enable_device(pdev);
	if (err)
		return err;
	table_size = pci_msix_vec_count(pdev);
	if (table_size < 0)
		return table_size;
	err = pcim_iomap_regions(pdev, BIT(BAR_REGISTERS), KBUILD_MODNAME);
	if (err)
		return err;
	bell = devm_kzalloc(&pdev->dev, sizeof(*bell), GFP_KERNEL);
	if (!bell)
		return -ENOMEM;
	bell->vectors = devm_kcalloc(&pdev->dev, table_size,
				     sizeof(*bell->vectors), GFP_KERNEL);
	if (!bell->vectors)
		return -ENOMEM;
	bell->pdev = pdev;
	bell->kind = (const struct kind *)id->driver_data;
	bell->table_size = table_size;
	bell->registers = pcim_iomap_table(pdev)[BAR_REGISTERS];
	err = map_msix(bell);
	if (err)
		return err;
	bell->kind->prepare(bell);
	mutex_init(&bell->command);
	init_rwsem(&bell->steps);
	for (index = 0; index < table_size; index++) {
		struct vector *vector = &bell->vectors[index];

		init_waitqueue_head(&vector->arrival);
		snprintf(vector->name, sizeof(vector->name), "doorbell-%d",
			 index);
	}
	pci_set_master(pdev);
	pci_set_drvdata(pdev, bell);
	err = enable_msix(bell);
	if (err < 0)
		return err;
	err = add_vector(bell);
	if (err)
		pci_free_irq_vectors(pdev);
	return err;
}

static void doorbell_remove(struct pci_dev *pdev)
{
	struct doorbell *bell = pci_get_drvdata(pdev);

	rest(bell);
	shrink(bell, 0);
	pci_free_irq_vectors(pdev);
}

static void doorbell_reset_prepare(struct pci_dev *pdev)
{
	struct doorbell *bell = pci_get_drvdata(pdev);

	down_write(&bell->steps);
}

static void doorbell_reset_done(struct pci_dev *pdev)
{
	struct doorbell *bell = pci_get_drvdata(pdev);

	bell->kind->prepare(bell);
	up_write(&bell->steps);
}

static const struct pci_error_handlers doorbell_resets = {
	.reset_prepare = doorbell_reset_prepare,
	.reset_done = doorbell_reset_done,
};

/* Commands come from tasks, and those are frozen. */
static int doorbell_suspend(struct device *dev)
{
	return 0;
}

static int doorbell_resume(struct device *dev)
{
	struct doorbell *bell = dev_get_drvdata(dev);

	bell->kind->prepare(bell);
	return 0;
}
static DEFINE_SIMPLE_DEV_PM_OPS(doorbell_pm, doorbell_suspend, doorbell_resume);

static const struct pci_device_id doorbell_ids[] = {
	{ PCI_DEVICE_DATA(REDHAT_QUMRANET, DOORBELL_IVSHMEM, &ivshmem) },
	{ PCI_DEVICE_DATA(INTEL, DOORBELL_82576, &igb) },
	{ }
};
MODULE_DEVICE_TABLE(pci, doorbell_ids);

static struct pci_driver doorbell_driver = {
	.name = KBUILD_MODNAME,
	.id_table = doorbell_ids,
	.probe = doorbell_probe,
	.remove = doorbell_remove,
	.dev_groups = doorbell_groups,
	.err_handler = &doorbell_resets,
	.driver.pm = pm_sleep_ptr(&doorbell_pm),
};
module_pci_driver(doorbell_driver);

MODULE_DESCRIPTION("Grows, rings and counts the MSI-X vectors of a device that rings itself");
MODULE_AUTHOR("The vm-msi authors");
MODULE_LICENSE("GPL");
