// SPDX-License-Identifier: GPL-2.0
/*
 * edu - moves data through QEMU's educational device by DMA, with one MSI
 * interrupt a transfer.
 *
 * The device has a buffer of 4096 bytes. In its sysfs directory:
 *   buffer (write)  the bytes go to the device by DMA
 *   buffer (read)   they come back by DMA, to another place in memory
 * An access fails with -ETIMEDOUT if the interrupt of its transfer does not come.
 *
 * Locking: `transfer` is held for a transfer.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sysfs.h>
#include <linux/version.h>

#define PCI_VENDOR_ID_EDU	0x1234
#define PCI_DEVICE_ID_EDU	0x11e8
#define BAR_REGISTERS	0

/* QEMU docs/specs/edu */
#define REG_IRQ_STATUS	0x24
#define REG_IRQ_ACK	0x64
#define REG_DMA_SOURCE	0x80
#define REG_DMA_TARGET	0x88
#define REG_DMA_COUNT	0x90
#define REG_DMA_COMMAND	0x98
#define DMA_START		BIT(0)
#define DMA_TO_MEMORY		BIT(1)
#define DMA_INTERRUPT		BIT(2)
#define DMA_DONE	0x100	/* in REG_IRQ_STATUS */
#define DEVICE_BUFFER	0x40000
#define BUFFER_BYTES	4096
#define ADDRESS_BITS	28

struct edu {
	struct pci_dev *pci;
	void __iomem *registers;
	struct mutex transfer;
	struct completion done;
	void *memory[2];	/* what goes to the device, and what comes from it */
	dma_addr_t address[2];
};

static irqreturn_t on_done(int irq, void *data)
{
	struct edu *edu = data;
	u32 status = ioread32(edu->registers + REG_IRQ_STATUS);

	if (!status)
		return IRQ_NONE;
	iowrite32(status, edu->registers + REG_IRQ_ACK);
	if (status & DMA_DONE)
		complete(&edu->done);
	return IRQ_HANDLED;
}

static int transfer(struct edu *edu, u64 source, u64 target, size_t count, u32 direction)
{
	reinit_completion(&edu->done);
	iowrite32(lower_32_bits(source), edu->registers + REG_DMA_SOURCE);
	iowrite32(lower_32_bits(target), edu->registers + REG_DMA_TARGET);
	iowrite32(count, edu->registers + REG_DMA_COUNT);
	iowrite32(DMA_START | DMA_INTERRUPT | direction, edu->registers + REG_DMA_COMMAND);
	if (!wait_for_completion_timeout(&edu->done, msecs_to_jiffies(5000)))
		return -ETIMEDOUT;
	return 0;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
#define ATTRIBUTE const struct bin_attribute
#else
#define ATTRIBUTE struct bin_attribute
#endif

static ssize_t buffer_write(struct file *file, struct kobject *kobj, ATTRIBUTE *attribute,
			    char *bytes, loff_t at, size_t count)
{
	struct edu *edu = dev_get_drvdata(kobj_to_dev(kobj));
	int error;

	mutex_lock(&edu->transfer);
	memcpy(edu->memory[0], bytes, count);
	error = transfer(edu, edu->address[0], DEVICE_BUFFER + at, count, 0);
	mutex_unlock(&edu->transfer);
	return error ?: count;
}

static ssize_t buffer_read(struct file *file, struct kobject *kobj, ATTRIBUTE *attribute,
			   char *bytes, loff_t at, size_t count)
{
	struct edu *edu = dev_get_drvdata(kobj_to_dev(kobj));
	int error;

	mutex_lock(&edu->transfer);
	memset(edu->memory[1], 0, BUFFER_BYTES);
	error = transfer(edu, DEVICE_BUFFER + at, edu->address[1], count, DMA_TO_MEMORY);
	if (!error)
		memcpy(bytes, edu->memory[1], count);
	mutex_unlock(&edu->transfer);
	return error ?: count;
}

/* The kernel keeps accesses within the size, and a page. */
static BIN_ATTR_RW(buffer, BUFFER_BYTES);

static int edu_probe(struct pci_dev *pci, const struct pci_device_id *id)
{
	struct edu *edu = devm_kzalloc(&pci->dev, sizeof(*edu), GFP_KERNEL);
	int error, i;

	if (!edu)
		return -ENOMEM;
	edu->pci = pci;
	mutex_init(&edu->transfer);
	init_completion(&edu->done);
	error = pcim_enable_device(pci);
	if (error)
		return error;
	pci_set_master(pci);
	edu->registers = pcim_iomap(pci, BAR_REGISTERS, 0);
	if (!edu->registers)
		return -ENOMEM;
	error = dma_set_mask_and_coherent(&pci->dev, DMA_BIT_MASK(ADDRESS_BITS));
	if (error)
		return error;
	for (i = 0; i < 2; i++) {
		edu->memory[i] = dmam_alloc_coherent(&pci->dev, BUFFER_BYTES, &edu->address[i], GFP_KERNEL);
		if (!edu->memory[i])
			return -ENOMEM;
	}
	error = pci_alloc_irq_vectors(pci, 1, 1, PCI_IRQ_MSI);
	if (error < 0)
		return error;
	error = request_irq(pci_irq_vector(pci, 0), on_done, 0, "edu", edu);
	if (error)
		goto free_vectors;
	pci_set_drvdata(pci, edu);
	error = sysfs_create_bin_file(&pci->dev.kobj, &bin_attr_buffer);
	if (error)
		goto free_irq;
	return 0;

free_irq:
	free_irq(pci_irq_vector(pci, 0), edu);
free_vectors:
	pci_free_irq_vectors(pci);
	return error;
}

static void edu_remove(struct pci_dev *pci)
{
	sysfs_remove_bin_file(&pci->dev.kobj, &bin_attr_buffer);
	free_irq(pci_irq_vector(pci, 0), pci_get_drvdata(pci));
	pci_free_irq_vectors(pci);
}

static const struct pci_device_id edu_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_EDU, PCI_DEVICE_ID_EDU) },
	{ }
};
MODULE_DEVICE_TABLE(pci, edu_ids);

static struct pci_driver edu_driver = {
	.name = "edu",
	.id_table = edu_ids,
	.probe = edu_probe,
	.remove = edu_remove,
};
module_pci_driver(edu_driver);

MODULE_DESCRIPTION("Moves data through QEMU's educational device");
MODULE_LICENSE("GPL");
