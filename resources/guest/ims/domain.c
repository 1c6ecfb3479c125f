// SPDX-License-Identifier: GPL-2.0
/*
 * The interrupt domain: a child of the domain that the device's MSI-X interrupts
 * come from. The parent finds CPU vectors and composes messages; this puts the
 * messages into the device's slots.
 *
 * Locking: the kernel calls the chip with the interrupt's descriptor locked and
 * interrupts off. The lock of the slot is inside that, and is there for
 * ims_restore_irq(), which has no descriptor lock.
 */
#include <linux/irq.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "domain.h"

#define SIOV_DVSEC_ID		5
#define SIOV_DVSEC_CAPABILITIES	0x14
#define SIOV_CAPABILITY_IMS	BIT(0)

bool ims_present(struct pci_dev *pdev)
{
	u16 at = pci_find_dvsec_capability(pdev, PCI_VENDOR_ID_INTEL,
					   SIOV_DVSEC_ID);
	u32 capabilities = 0;

	if (!at)
		return false;
	pci_read_config_dword(pdev, at + SIOV_DVSEC_CAPABILITIES, &capabilities);
	return capabilities & SIOV_CAPABILITY_IMS;
}

/* The message is the next chip's above that has an idea of it. */
static void compose(struct irq_data *data, struct msi_msg *message)
{
	for (data = data->parent_data; data; data = data->parent_data) {
		if (data->chip && data->chip->irq_compose_msi_msg) {
			data->chip->irq_compose_msi_msg(data, message);
			return;
		}
	}
}

static void set_message(struct ims_slot *slot, const struct msi_msg *message)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&slot->lock, flags);
	slot->message = *message;
	slot->store->ops->write_message(slot);
	raw_spin_unlock_irqrestore(&slot->lock, flags);
}

static void set_control(struct ims_slot *slot, u32 control)
{
	unsigned long flags;

	raw_spin_lock_irqsave(&slot->lock, flags);
	slot->control = control;
	slot->store->ops->write_control(slot);
	raw_spin_unlock_irqrestore(&slot->lock, flags);
}

static void ims_irq_mask(struct irq_data *data)
{
	set_control(data->chip_data, IMS_CONTROL_MASK);
}

static void ims_irq_unmask(struct irq_data *data)
{
	set_control(data->chip_data, 0);
}

/*
 * Without interrupt remapping this runs in hard interrupt context, when the next
 * interrupt comes after someone wanted the move. With it, the message stays and
 * the parent says that all is done.
 */
static int ims_irq_set_affinity(struct irq_data *data,
				const struct cpumask *cpus, bool force)
{
	struct irq_data *parent = data->parent_data;
	struct msi_msg message = {};
	int result;

	result = parent->chip->irq_set_affinity(parent, cpus, force);
	if (result >= 0 && result != IRQ_SET_MASK_OK_DONE) {
		compose(data, &message);
		set_message(data->chip_data, &message);
	}
	return result;
}

static struct irq_chip ims_chip = {
	.name = "IMS",
	.irq_mask = ims_irq_mask,
	.irq_unmask = ims_irq_unmask,
	.irq_ack = irq_chip_ack_parent,
	.irq_retrigger = irq_chip_retrigger_hierarchy,
	.irq_set_affinity = ims_irq_set_affinity,
	.flags = IRQCHIP_SKIP_SET_WAKE | IRQCHIP_ONESHOT_SAFE |
		 IRQCHIP_AFFINITY_PRE_STARTUP,
};

static const struct ims_store *find_store(const struct ims_domain *domain,
					  irq_hw_number_t *index)
{
	unsigned int i;

	for (i = 0; i < domain->store_count; i++) {
		const struct ims_store *store = &domain->stores[i];

		if (*index < store->slots)
			return store;
		*index -= store->slots;
	}
	return NULL;
}

static int ims_domain_alloc(struct irq_domain *irqs, unsigned int irq,
			    unsigned int count, void *arg)
{
	struct ims_domain *domain = irqs->host_data;
	struct irq_alloc_info *info = arg;
	irq_hw_number_t hwirq = info->hwirq, index = hwirq;
	const struct ims_store *store = find_store(domain, &index);
	struct ims_slot *slot;
	int err;

	if (count != 1 || !store)
		return -EINVAL;
	if (irq_find_mapping(irqs, hwirq))
		return -EEXIST;
	slot = kzalloc(sizeof(*slot), GFP_KERNEL);
	if (!slot)
		return -ENOMEM;
	slot->store = store;
	slot->index = index;
	slot->control = IMS_CONTROL_MASK;
	raw_spin_lock_init(&slot->lock);
	err = irq_domain_alloc_irqs_parent(irqs, irq, count, info);
	if (err)
		goto free_slot;
	err = store->ops->open(slot);
	if (err)
		goto free_parent;
	irq_domain_set_info(irqs, irq, hwirq, &ims_chip, slot, handle_edge_irq,
			    NULL, "edge");
	return 0;

free_parent:
	irq_domain_free_irqs_parent(irqs, irq, count);
free_slot:
	kfree(slot);
	return err;
}

static void ims_domain_free(struct irq_domain *irqs, unsigned int irq,
			    unsigned int count)
{
	struct irq_data *data = irq_domain_get_irq_data(irqs, irq);
	struct ims_slot *slot = data->chip_data;

	slot->store->ops->close(slot);
	irq_set_handler_data(irq, NULL);
	irq_set_handler(irq, NULL);
	irq_domain_free_irqs_common(irqs, irq, count);
	kfree(slot);
}

/* The parent has a CPU vector by now. The slot stays masked until startup. */
static int ims_domain_activate(struct irq_domain *irqs, struct irq_data *data,
			       bool reserve)
{
	struct msi_msg message = {};

	compose(data, &message);
	set_message(data->chip_data, &message);
	return 0;
}

static void ims_domain_deactivate(struct irq_domain *irqs, struct irq_data *data)
{
	static const struct msi_msg blank;

	set_control(data->chip_data, IMS_CONTROL_MASK);
	set_message(data->chip_data, &blank);
}

static const struct irq_domain_ops ims_domain_ops = {
	.alloc = ims_domain_alloc,
	.free = ims_domain_free,
	.activate = ims_domain_activate,
	.deactivate = ims_domain_deactivate,
};

/* The domain that composes the messages of the device's own MSI-X. */
static struct irq_domain *find_parent(struct pci_dev *pdev)
{
	struct irq_domain *domain = dev_get_msi_domain(&pdev->dev);

	if (!domain)
		return NULL;
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	return irq_domain_is_msi_parent(domain) ? domain : NULL;
#else
	/* All devices share one domain for MSI and MSI-X, a child of that. */
	return domain->bus_token == DOMAIN_BUS_PCI_MSI ? domain->parent : NULL;
#endif
}

int ims_domain_create(struct ims_domain *domain, struct pci_dev *pdev,
		      const struct ims_store *stores, unsigned int count)
{
	struct irq_domain *parent = find_parent(pdev);
	unsigned int slots = 0, i;
	char name[32];

	if (!parent)
		return -EOPNOTSUPP;
	for (i = 0; i < count; i++)
		slots += stores[i].slots;
	domain->pdev = pdev;
	domain->stores = stores;
	domain->store_count = count;
	/* A remapping parent asks it whose interrupts these are. */
	domain->owner.dev = &pdev->dev;
	snprintf(name, sizeof(name), "IMS-%s", pci_name(pdev));
	domain->fwnode = irq_domain_alloc_named_fwnode(name);
	if (!domain->fwnode)
		return -ENOMEM;
	domain->irqs = irq_domain_create_hierarchy(parent, 0, slots,
						   domain->fwnode,
						   &ims_domain_ops, domain);
	if (!domain->irqs) {
		irq_domain_free_fwnode(domain->fwnode);
		return -ENOMEM;
	}
	return 0;
}

void ims_domain_remove(struct ims_domain *domain)
{
	irq_domain_remove(domain->irqs);
	irq_domain_free_fwnode(domain->fwnode);
}

int ims_request_irq(struct ims_domain *domain, unsigned int index,
		    irq_handler_t handler, const char *name, void *data)
{
	struct irq_alloc_info info = {
		/* It can be masked, as an entry of MSI-X can. */
		.type = X86_IRQ_ALLOC_TYPE_PCI_MSIX,
		.desc = &domain->owner,
		.hwirq = index,
	};
	int irq, err;

	irq = __irq_domain_alloc_irqs(domain->irqs, -1, 1,
				      dev_to_node(&domain->pdev->dev), &info,
				      false, NULL);
	if (irq < 0)
		return irq;
	err = request_irq(irq, handler, 0, name, data);
	if (!err)
		return irq;
	irq_dispose_mapping(irq);
	return err;
}

void ims_release_irq(int irq, void *data)
{
	free_irq(irq, data);
	/* It knows hierarchies; irq_domain_free_irqs() is not exported. */
	irq_dispose_mapping(irq);
}

void ims_restore_irq(struct ims_domain *domain, int irq)
{
	struct irq_data *data = irq_domain_get_irq_data(domain->irqs, irq);
	struct ims_slot *slot = data->chip_data;
	unsigned long flags;

	raw_spin_lock_irqsave(&slot->lock, flags);
	slot->store->ops->restore(slot);
	raw_spin_unlock_irqrestore(&slot->lock, flags);
}
