/* SPDX-License-Identifier: GPL-2.0 */
/* hostile - what there is to access, and what is put back in the end. */
#ifndef HOSTILE_TARGETS_H
#define HOSTILE_TARGETS_H

#include <linux/pci.h>
#include <linux/types.h>

#define MAX_FUNCTIONS	32
#define MAX_WINDOWS	128

/* A range of physical addresses that is no memory, mapped. */
struct window {
	void __iomem *at;
	u32 bytes;
};

/* Command and BARs: without them a function is not reached. */
#define HEADER_FIRST	PCI_COMMAND
#define HEADER_DWORDS	9

struct function {
	struct pci_dev *pci;
	u32 header[HEADER_DWORDS];
};

struct targets {
	struct function functions[MAX_FUNCTIONS];
	unsigned int function_count;
	struct window bars[MAX_WINDOWS];
	unsigned int bar_count;
	/* Pages between and behind the devices, the interrupt controllers', ECAM. */
	struct window holes[MAX_WINDOWS];
	unsigned int hole_count;
	/* Memory that devices may have: nothing else of the guest is in it. */
	u8 *bait;
	u64 bait_address;
};

#define BAIT_ORDER	4
#define BAIT_BYTES	(PAGE_SIZE << BAIT_ORDER)

int targets_find(struct targets *targets, u64 seed);
void function_repair(const struct function *function);
void targets_restore(struct targets *targets);
void targets_free(struct targets *targets);

/* Whether a write there ends the machine, or takes away the console that tells of it. */
bool port_is_spared(u16 port, unsigned int width);

#endif
