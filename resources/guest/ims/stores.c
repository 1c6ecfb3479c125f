// SPDX-License-Identifier: GPL-2.0
/*
 * The two ways in which the VMM's devices keep their slots: in a BAR, where each
 * write is in effect at once, and in the guest's memory, where nothing is until
 * the device has been told by a doorbell to read the slot again.
 *
 * Locking: a slot's own lock is held for all but open and close. Of a device's
 * registers for slots in memory some belong together: they have a lock inside
 * that one.
 */
#include <linux/io.h>

#include "device.h"

static u8 __iomem *array_slot(const struct ims_slot *slot)
{
	u8 __iomem *slots = slot->store->device;

	return slots + slot->index * sizeof(struct ims_entry);
}

static void array_write(const struct ims_slot *slot, size_t field, u32 value)
{
	iowrite32(value, array_slot(slot) + field);
}

/* What was written before has arrived. */
static void array_flush(const struct ims_slot *slot)
{
	ioread32(array_slot(slot) + offsetof(struct ims_entry, control));
}

static void array_write_control(struct ims_slot *slot)
{
	array_write(slot, offsetof(struct ims_entry, control), slot->control);
	/* Nobody may come any more; one that comes a little later does no harm. */
	if (slot->control & IMS_CONTROL_MASK)
		array_flush(slot);
}

/* Masked meanwhile: a message that is half the old one goes to a wrong place. */
static void array_write_message(struct ims_slot *slot)
{
	bool masked = slot->control & IMS_CONTROL_MASK;

	if (!masked)
		array_write(slot, offsetof(struct ims_entry, control),
			    IMS_CONTROL_MASK);
	array_write(slot, offsetof(struct ims_entry, address_lo),
		    slot->message.address_lo);
	array_write(slot, offsetof(struct ims_entry, address_hi),
		    slot->message.address_hi);
	array_write(slot, offsetof(struct ims_entry, data), slot->message.data);
	if (!masked) {
		array_write(slot, offsetof(struct ims_entry, control),
			    slot->control);
		array_flush(slot);
	}
}

/* It is masked and blank: so it was after reset, and so the last one left it. */
static int array_open(struct ims_slot *slot)
{
	return 0;
}

static void array_close(struct ims_slot *slot)
{
}

const struct ims_store_ops ims_array_ops = {
	.open = array_open,
	.close = array_close,
	.write_message = array_write_message,
	.write_control = array_write_control,
	/* After a reset the device has it masked. */
	.restore = array_write_message,
};

/* A command that has been carried out. The result is the last command's. */
static int memory_command(struct ims_memory *memory, size_t command,
			  unsigned int index)
{
	u32 result;

	iowrite32(index, memory->registers + command);
	result = ioread32(memory->registers + REG_RESULT);
	atomic_inc(&memory->commands);
	if (!result)
		return 0;
	atomic_inc(&memory->refused);
	return -EIO;
}

static int memory_place(struct ims_slot *slot, dma_addr_t address)
{
	struct ims_memory *memory = slot->store->device;
	unsigned long flags;
	int err;

	raw_spin_lock_irqsave(&memory->lock, flags);
	iowrite32(lower_32_bits(address), memory->registers + REG_ADDRESS_LO);
	iowrite32(upper_32_bits(address), memory->registers + REG_ADDRESS_HI);
	err = memory_command(memory, REG_PLACE, slot->index);
	raw_spin_unlock_irqrestore(&memory->lock, flags);
	return err;
}

/*
 * Message and control change together, at the doorbell: there is no need to mask
 * a slot around a change of its message.
 */
static int memory_write(struct ims_slot *slot)
{
	struct ims_memory *memory = slot->store->device;
	unsigned long flags;
	int err;

	slot->memory->address_lo = cpu_to_le32(slot->message.address_lo);
	slot->memory->address_hi = cpu_to_le32(slot->message.address_hi);
	slot->memory->data = cpu_to_le32(slot->message.data);
	slot->memory->control = cpu_to_le32(slot->control);
	/* iowrite32() comes after what was written to memory before it. */
	raw_spin_lock_irqsave(&memory->lock, flags);
	err = memory_command(memory, REG_DOORBELL, slot->index);
	raw_spin_unlock_irqrestore(&memory->lock, flags);
	return err;
}

static void memory_write_slot(struct ims_slot *slot)
{
	/* Nobody up there can be told; it is counted. */
	memory_write(slot);
}

static void memory_restore(struct ims_slot *slot)
{
	if (!memory_place(slot, slot->address))
		memory_write(slot);
}

static void memory_close(struct ims_slot *slot)
{
	struct ims_memory *memory = slot->store->device;

	/* If the device does not let go of it, it stays allocated for good. */
	if (!memory_place(slot, 0))
		dma_pool_free(memory->pool, slot->memory, slot->address);
}

static int memory_open(struct ims_slot *slot)
{
	struct ims_memory *memory = slot->store->device;
	int err;

	slot->memory = dma_pool_zalloc(memory->pool, GFP_KERNEL, &slot->address);
	if (!slot->memory)
		return -ENOMEM;
	err = memory_place(slot, slot->address);
	if (!err)
		err = memory_write(slot);
	if (err)
		memory_close(slot);
	return err;
}

const struct ims_store_ops ims_memory_ops = {
	.open = memory_open,
	.close = memory_close,
	.write_message = memory_write_slot,
	.write_control = memory_write_slot,
	.restore = memory_restore,
};
