// SPDX-License-Identifier: GPL-2.0
/*
 * ims - drives the VMM's two devices that have an interrupt message store, and
 * counts every interrupt. See README.md, which is for authors of other drivers.
 */
#include <linux/io.h>
#include <linux/module.h>

#include "device.h"

void __iomem *ims_registers(struct pci_dev *pdev)
{
	return pcim_iomap_table(pdev)[BAR_REGISTERS];
}

void __iomem *ims_slots(struct pci_dev *pdev)
{
	return pcim_iomap_table(pdev)[BAR_SLOTS];
}

int ims_device_open(struct pci_dev *pdev, u32 identification)
{
	void __iomem *registers;
	int err;

	if (!ims_present(pdev))
		return dev_err_probe(&pdev->dev, -ENODEV, "it has no IMS\n");
	err = pcim_enable_device(pdev);
	if (err)
		return err;
	err = pcim_iomap_regions(pdev, BIT(BAR_REGISTERS) | BIT(BAR_SLOTS),
				 KBUILD_MODNAME);
	if (err)
		return err;
	registers = ims_registers(pdev);
	if (ioread32(registers + REG_IDENTIFICATION) != identification ||
	    ioread32(registers + REG_VERSION) != 1)
		return dev_err_probe(&pdev->dev, -ENODEV,
				     "it is something else\n");
	err = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (err)
		return err;
	pci_set_master(pdev);
	iowrite32(CONTROL_RESET, registers + REG_CONTROL);
	return 0;
}

static int __init ims_init(void)
{
	int err = pci_register_driver(&ims_queues_driver);

	if (err)
		return err;
	err = pci_register_driver(&ims_timer_driver);
	if (err)
		pci_unregister_driver(&ims_queues_driver);
	return err;
}
module_init(ims_init);

static void __exit ims_exit(void)
{
	pci_unregister_driver(&ims_timer_driver);
	pci_unregister_driver(&ims_queues_driver);
}
module_exit(ims_exit);

MODULE_DESCRIPTION("Allocates, rings, moves and frees the slots of an interrupt message store");
MODULE_AUTHOR("The vm-msi authors");
MODULE_LICENSE("GPL");
