/* SPDX-License-Identifier: GPL-2.0 */
/* The register map of the VMM's two IMS devices: vmm/ims-devices.md. */
#ifndef IMS_DEVICE_H
#define IMS_DEVICE_H

#include <linux/atomic.h>
#include <linux/dmapool.h>

#include "domain.h"

#define PCI_DEVICE_ID_REDHAT_QUMRANET_IMS_TIMER		0x10f0
#define PCI_DEVICE_ID_REDHAT_QUMRANET_IMS_QUEUES	0x10f1

#define BAR_REGISTERS	0
#define BAR_SLOTS	2

#define REG_IDENTIFICATION	0x000
#define IDENTIFICATION_QUEUES	0x51534d49	/* "IMSQ" */
#define IDENTIFICATION_TIMER	0x54534d49	/* "IMST" */
#define REG_VERSION		0x004
#define REG_BAR_SLOTS		0x008
#define REG_MEMORY_SLOTS	0x00c
#define REG_CONTROL		0x014
#define CONTROL_RESET		BIT(0)
#define REG_TRIGGERS		0x030
#define REG_DROPPED		0x034	/* of these */
#define REG_REFUSED		0x038	/* writes */

/* Queues */
#define REG_RING		0x020
#define REG_RING_MSIX		0x024
#define REG_SELECT		0x040	/* a slot in memory, for the next */
#define REG_SELECTED_CONTROL	0x044
#define REG_ADDRESS_LO		0x048
#define REG_ADDRESS_HI		0x04c
#define REG_PLACE		0x050
#define REG_DOORBELL		0x054
#define REG_RESULT		0x058

/* Timers */
#define REG_NANOSECONDS_LO	0x080
#define REG_NANOSECONDS_HI	0x084
#define REG_ARM			0x088
#define REG_DISARM		0x08c
#define REG_ARMED		0x090
#define REG_CLOCK_LO		0x094
#define REG_CLOCK_HI		0x098

/* Slots in BAR 2. `device` is where it is mapped. */
extern const struct ims_store_ops ims_array_ops;

/* Slots in the guest's memory. `device` is this. */
struct ims_memory {
	void __iomem *registers;
	struct dma_pool *pool;
	raw_spinlock_t lock;		/* the registers of a place, and results */
	atomic_t commands;		/* places and doorbells */
	atomic_t refused;		/* of these */
};

extern const struct ims_store_ops ims_memory_ops;

/* Enables the device, checks what it is, resets it; unmanaged by the driver. */
int ims_device_open(struct pci_dev *pdev, u32 identification);
void __iomem *ims_registers(struct pci_dev *pdev);
void __iomem *ims_slots(struct pci_dev *pdev);

extern struct pci_driver ims_queues_driver;
extern struct pci_driver ims_timer_driver;

#endif
