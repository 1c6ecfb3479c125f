// SPDX-License-Identifier: GPL-2.0
/*
 * hostile - finds what there is to access, and puts it back in the end.
 *
 * Configuration spaces and the IOAPIC's redirection table are saved before the
 * first random access. What a driver had programmed in a BAR is not put back.
 */
#include <linux/acpi.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/prandom.h>
#include <linux/slab.h>
#include <linux/version.h>

#include "targets.h"

#define BAR_BYTES_MAX	(1 << 20)
#define RANDOM_HOLES	32
#define HOLE_BITS	38

#define IOAPIC_ADDRESS	0xfec00000
#define LAPIC_ADDRESS	0xfee00000
#define ECAM_ADDRESS	0xe0000000
#define ECAM_BYTES	(1 << 20)
#define KVM_TSS_ADDRESS	0xfffbd000

/* 82093AA: index and data, and the first entry's index */
#define IOAPIC_INDEX	0x00
#define IOAPIC_DATA	0x10
#define IOAPIC_ENTRIES	0x10
#define IOAPIC_REGISTERS	(2 * 24)

#define PORT_KEYBOARD	0x60
#define PORT_RESET	0xcf9
#define PORT_PVPANIC	0x505
#define PORT_COM1	0x3f8

static u32 ioapic_saved[IOAPIC_REGISTERS];

static bool touches(u16 port, unsigned int width, u64 first, unsigned int ports)
{
	return port < first + ports && (u32)port + width > first;
}

static bool is_register(u16 port, unsigned int width, const struct acpi_generic_address *reg)
{
	return reg->space_id == ACPI_ADR_SPACE_SYSTEM_IO && reg->address && touches(port, width, reg->address, 1);
}

bool port_is_spared(u16 port, unsigned int width)
{
	return is_register(port, width, &acpi_gbl_FADT.sleep_control) ||
	       is_register(port, width, &acpi_gbl_FADT.reset_register) ||
	       touches(port, width, acpi_gbl_FADT.pm1a_control_block, acpi_gbl_FADT.pm1_control_length) ||
	       touches(port, width, PORT_KEYBOARD, 5) ||
	       touches(port, width, PORT_RESET, 1) ||
	       touches(port, width, PORT_PVPANIC, 1) ||
	       touches(port, width, PORT_COM1, 8);
}

static void add(struct window *windows, unsigned int *count, u64 address, u64 bytes)
{
	void __iomem *at;

	if (*count == MAX_WINDOWS)
		return;
	at = ioremap(address, bytes);
	if (at)
		windows[(*count)++] = (struct window){ at, bytes };
}

static void save(struct function *function, struct pci_dev *pci)
{
	int i;

	function->pci = pci;
	for (i = 0; i < HEADER_DWORDS; i++)
		pci_read_config_dword(pci, HEADER_FIRST + 4 * i, &function->header[i]);
}

/* Has it decode its addresses again. */
void function_repair(const struct function *function)
{
	int i;

	for (i = HEADER_DWORDS - 1; i >= 0; i--)
		pci_write_config_dword(function->pci, HEADER_FIRST + 4 * i, function->header[i]);
}

static void find_functions(struct targets *targets)
{
	struct pci_dev *pci = NULL;
	int bar;

	for_each_pci_dev(pci) {
		if (targets->function_count == MAX_FUNCTIONS)
			continue;
		pci_save_state(pci);
		save(&targets->functions[targets->function_count++], pci_dev_get(pci));
		for (bar = 0; bar < PCI_STD_NUM_BARS; bar++) {
			u64 bytes = min_t(u64, pci_resource_len(pci, bar), BAR_BYTES_MAX);

			if (bytes && (pci_resource_flags(pci, bar) & IORESOURCE_MEM))
				add(targets->bars, &targets->bar_count, pci_resource_start(pci, bar), bytes);
		}
	}
}

static void find_holes(struct targets *targets, u64 seed)
{
	struct rnd_state random;
	int i;

	prandom_seed_state(&random, ~seed);
	add(targets->holes, &targets->hole_count, IOAPIC_ADDRESS, PAGE_SIZE);
	add(targets->holes, &targets->hole_count, LAPIC_ADDRESS, PAGE_SIZE);
	add(targets->holes, &targets->hole_count, KVM_TSS_ADDRESS, PAGE_SIZE);
	add(targets->holes, &targets->hole_count, ECAM_ADDRESS, ECAM_BYTES);
	for (i = 0; i < RANDOM_HOLES; i++) {
		u64 address = (u64)prandom_u32_state(&random) << PAGE_SHIFT;

		/* One half below 4 GiB, where most devices are. */
		if (i & 1)
			address &= 0xffffffff;
		else
			address &= (1ULL << HOLE_BITS) - 1;
		if (!page_is_ram(address >> PAGE_SHIFT))
			add(targets->holes, &targets->hole_count, address, PAGE_SIZE);
	}
}

static u32 ioapic_access(struct targets *targets, unsigned int i, const u32 *value)
{
	void __iomem *ioapic = targets->holes[0].at;

	iowrite32(IOAPIC_ENTRIES + i, ioapic + IOAPIC_INDEX);
	if (!value)
		return ioread32(ioapic + IOAPIC_DATA);
	iowrite32(*value, ioapic + IOAPIC_DATA);
	return *value;
}

int targets_find(struct targets *targets, u64 seed)
{
	unsigned int i;

	targets->bait = (u8 *)__get_free_pages(GFP_KERNEL | __GFP_ZERO, BAIT_ORDER);
	if (!targets->bait)
		return -ENOMEM;
	targets->bait_address = virt_to_phys(targets->bait);
	find_functions(targets);
	find_holes(targets, seed);
	if (!targets->bar_count || !targets->hole_count)
		return -ENODEV;
	for (i = 0; i < IOAPIC_REGISTERS; i++)
		ioapic_saved[i] = ioapic_access(targets, i, NULL);
	return 0;
}

void targets_restore(struct targets *targets)
{
	unsigned int i;

	for (i = 0; i < IOAPIC_REGISTERS; i++)
		ioapic_access(targets, i, &ioapic_saved[i]);
	for (i = 0; i < targets->function_count; i++)
		pci_restore_state(targets->functions[i].pci);
}

/* The bait is not freed: a device may have its address. */
void targets_free(struct targets *targets)
{
	unsigned int i;

	for (i = 0; i < targets->function_count; i++)
		pci_dev_put(targets->functions[i].pci);
	for (i = 0; i < targets->bar_count; i++)
		iounmap(targets->bars[i].at);
	for (i = 0; i < targets->hole_count; i++)
		iounmap(targets->holes[i].at);
}
