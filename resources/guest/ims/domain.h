/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An interrupt domain of a driver's own: single interrupts at any index of a
 * device's interrupt message store, allocated and freed after probe, beside the
 * device's MSI-X or without it. README.md has the recipe.
 */
#ifndef IMS_DOMAIN_H
#define IMS_DOMAIN_H

#include <linux/interrupt.h>
#include <linux/irqdomain.h>
#include <linux/msi.h>
#include <linux/pci.h>
#include <linux/spinlock.h>

#define IMS_CONTROL_MASK	BIT(0)
#define IMS_CONTROL_PENDING	BIT(1)	/* read-only */

/* What a device has for one interrupt: 16 bytes, little endian. */
struct ims_entry {
	__le32 address_lo;
	__le32 address_hi;
	__le32 data;
	__le32 control;
};

/* A slot while it has an interrupt: what the device has been told of it. */
struct ims_slot {
	const struct ims_store *store;
	unsigned int index;		/* within its store */
	raw_spinlock_t lock;		/* the rest, and writing it to the device */
	struct msi_msg message;
	u32 control;
	/* The store's own. */
	struct ims_entry *memory;
	dma_addr_t address;
};

/* How a device keeps its slots. */
struct ims_store_ops {
	/* May sleep. The slot is masked and blank then. */
	int (*open)(struct ims_slot *slot);
	void (*close)(struct ims_slot *slot);
	/*
	 * The rest is called with interrupts off, in hard interrupt context
	 * too. A slot that they mask is masked when they return.
	 */
	void (*write_message)(struct ims_slot *slot);
	void (*write_control)(struct ims_slot *slot);
	/* All of it, to a device that has forgotten it. */
	void (*restore)(struct ims_slot *slot);
};

struct ims_store {
	const struct ims_store_ops *ops;
	void *device;			/* for the ops */
	unsigned int slots;
};

struct ims_domain {
	struct irq_domain *irqs;
	struct fwnode_handle *fwnode;
	struct msi_desc owner;
	struct pci_dev *pdev;
	/* Their slots follow one another in the domain. */
	const struct ims_store *stores;
	unsigned int store_count;
};

/* The device says that it has IMS (SIOV DVSEC). */
bool ims_present(struct pci_dev *pdev);
int ims_domain_create(struct ims_domain *domain, struct pci_dev *pdev,
		      const struct ims_store *stores, unsigned int count);
/* Every interrupt has been freed before. */
void ims_domain_remove(struct ims_domain *domain);
/*
 * Gives a slot an interrupt and requests that; may sleep. A Linux interrupt number,
 * or -EEXIST, -EINVAL, and -ENOSPC where the CPUs have no vector left.
 */
int ims_request_irq(struct ims_domain *domain, unsigned int index,
		    irq_handler_t handler, const char *name, void *data);
/* Takes it away again; `data` as it was requested with. May sleep. */
void ims_release_irq(int irq, void *data);
/* After the device was reset. */
void ims_restore_irq(struct ims_domain *domain, int irq);

#endif
