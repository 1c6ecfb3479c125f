// SPDX-License-Identifier: GPL-2.0
/*
 * hostile - random accesses of all CPUs to all that a machine has: BARs,
 * configuration spaces, ports, model-specific registers, and addresses where
 * nothing is, or an interrupt controller.
 *
 *   echo "SEED OPERATIONS" >/sys/module/hostile/parameters/run
 *
 * returns when each CPU has done so many operations, or after PATIENCE_S: a
 * random message can take a CPU away for ever. Reading the parameter then says
 * what was done. CPU n does the same operations for the same seed, whatever the
 * others do; what devices answer is not looked at. What ends the machine at once
 * is spared, and so is the serial port. The machine may still not survive it:
 * that is not what is tested. The program outside has to.
 *
 * Locking: the kernel's lock of parameters keeps runs apart.
 */
#include <asm/msr.h>
#include <linux/completion.h>
#include <linux/cpu.h>
#include <linux/io.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/prandom.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "targets.h"

#define PATIENCE_S	60

enum kind { BAR, BAIT, CONFIG, PORT, HOLE, MSR, KINDS };

static const char *const kind_names[KINDS] = { "bars", "bait", "config", "ports", "holes", "msrs" };

struct hostile_cpu {
	struct rnd_state random;
	const struct targets *targets;
	u32 operations;
	u64 done[KINDS];
	struct completion end;
};

static struct hostile_cpu *cpus[NR_CPUS];
static u64 last_seed;
static unsigned int unfinished;

static u32 next(struct hostile_cpu *cpu)
{
	return prandom_u32_state(&cpu->random);
}

static u32 below(struct hostile_cpu *cpu, u32 bound)
{
	return next(cpu) % bound;
}

/* Numbers that mean something to a device are rare among random ones. */
static u64 value(struct hostile_cpu *cpu)
{
	u64 random = (u64)next(cpu) << 32 | next(cpu);

	switch (below(cpu, 16)) {
	case 0:
		return 0;
	case 1:
		return ~0ULL;
	case 2 ... 4:
		return 1ULL << (random % 64);
	case 5 ... 7:
		return random & 0xff;
	case 8 ... 11:
		return cpu->targets->bait_address + random % BAIT_BYTES;
	case 12:
		return 0xfee00000 | (random & 0x3ff000);
	case 13:
		return random & 0xffff;
	default:
		return random;
	}
}

static u32 offset(struct hostile_cpu *cpu, u32 bytes, unsigned int width)
{
	u32 at = below(cpu, bytes);

	if (below(cpu, 4) == 0)
		at = below(cpu, min_t(u32, bytes, 0x80));
	/* Most accesses are aligned, as most devices want them. */
	if (below(cpu, 8))
		at &= ~(width - 1);
	return min(at, bytes - width);
}

static void access_memory(struct hostile_cpu *cpu, void __iomem *at, unsigned int width)
{
	bool is_write = below(cpu, 3) != 0;
	u64 written = value(cpu);

	switch (width) {
	case 1:
		is_write ? writeb(written, at) : (void)readb(at);
		break;
	case 2:
		is_write ? writew(written, at) : (void)readw(at);
		break;
	case 4:
		is_write ? writel(written, at) : (void)readl(at);
		break;
	default:
		is_write ? writeq(written, at) : (void)readq(at);
	}
}

static void access_window(struct hostile_cpu *cpu, const struct window *windows, unsigned int count)
{
	const struct window *window = &windows[below(cpu, count)];
	unsigned int width = 1 << below(cpu, 4);

	access_memory(cpu, window->at + offset(cpu, window->bytes, width), width);
}

static void access_bait(struct hostile_cpu *cpu)
{
	u32 at = offset(cpu, BAIT_BYTES, sizeof(u64));

	WRITE_ONCE(*(u64 *)(cpu->targets->bait + (at & ~7)), value(cpu));
}

static void access_port(struct hostile_cpu *cpu, u16 port)
{
	unsigned int width = 1 << below(cpu, 3);
	bool is_write = below(cpu, 2) != 0;
	u32 written = value(cpu);

	if (is_write && port_is_spared(port, width))
		is_write = false;
	switch (width) {
	case 1:
		is_write ? outb(written, port) : (void)inb(port);
		break;
	case 2:
		is_write ? outw(written, port) : (void)inw(port);
		break;
	default:
		is_write ? outl(written, port) : (void)inl(port);
	}
}

/*
 * By the two ports, which other CPUs use as well. ECAM is among the holes. A
 * function that decodes nothing any more is soon repaired.
 */
static void access_config(struct hostile_cpu *cpu)
{
	const struct targets *targets = cpu->targets;
	const struct function *function = &targets->functions[below(cpu, targets->function_count)];
	u8 devfn = below(cpu, 8) ? function->pci->devfn : next(cpu);
	u32 at = offset(cpu, PCI_CFG_SPACE_SIZE, 4);

	if (below(cpu, 8) == 0)
		return function_repair(function);
	/* Most accesses are behind the header. */
	if (below(cpu, 8))
		at |= PCI_STD_HEADER_SIZEOF;
	outl(BIT(31) | devfn << 8 | (at & ~3), 0xcf8);
	access_port(cpu, 0xcfc + (at & 3));
}

static void access_ports(struct hostile_cpu *cpu)
{
	static const u16 known[] = { 0x20, 0x60, 0xa0, 0x3f8, 0x4d0, 0x500, 0x600, 0xcf8, 0xcfc, 0xc000 };
	u32 at = below(cpu, 2) ? next(cpu) : known[below(cpu, ARRAY_SIZE(known))] + below(cpu, 16);

	access_port(cpu, at);
}

/*
 * One that can be read is written with what it has: another value would change
 * this kernel and not what is outside.
 */
static void access_msr(struct hostile_cpu *cpu)
{
	static const u32 bases[] = { 0, 0x200, 0x400, 0x800, 0x40000000, 0x4b564d00, 0xc0000000, 0xc0010000 };
	u32 msr = bases[below(cpu, ARRAY_SIZE(bases))] + below(cpu, 0x200);
	u64 content;

	if (rdmsrl_safe(msr, &content))
		content = value(cpu);
	/* The end of an interrupt that is none, and interrupts of its own. */
	if (msr == 0x80b || msr == 0x830 || msr == 0x83f)
		return;
	wrmsrl_safe(msr, content);
}

static void operate(struct hostile_cpu *cpu)
{
	static const u8 shares[KINDS] = { 40, 20, 12, 10, 12, 6 };
	u32 share = below(cpu, 100);
	enum kind kind = BAR;

	while (share >= shares[kind])
		share -= shares[kind++];
	switch (kind) {
	case BAR:
		access_window(cpu, cpu->targets->bars, cpu->targets->bar_count);
		break;
	case BAIT:
		access_bait(cpu);
		break;
	case CONFIG:
		access_config(cpu);
		break;
	case PORT:
		access_ports(cpu);
		break;
	case HOLE:
		access_window(cpu, cpu->targets->holes, cpu->targets->hole_count);
		break;
	default:
		access_msr(cpu);
	}
	cpu->done[kind]++;
}

static int run_on_cpu(void *data)
{
	struct hostile_cpu *cpu = data;
	u32 i;

	for (i = 0; i < cpu->operations; i++) {
		operate(cpu);
		cond_resched();
	}
	complete(&cpu->end);
	return 0;
}

static int start(const struct targets *targets, u64 seed, u32 operations, unsigned int number)
{
	struct hostile_cpu *cpu = kzalloc(sizeof(*cpu), GFP_KERNEL);
	struct task_struct *task;

	if (!cpu)
		return -ENOMEM;
	prandom_seed_state(&cpu->random, seed << 16 | number);
	cpu->targets = targets;
	cpu->operations = operations;
	init_completion(&cpu->end);
	cpus[number] = cpu;
	task = kthread_create_on_cpu(run_on_cpu, cpu, number, "hostile/%u");
	if (IS_ERR(task))
		return PTR_ERR(task);
	wake_up_process(task);
	return 0;
}

static int run(u64 seed, u32 operations)
{
	unsigned long deadline = jiffies + PATIENCE_S * HZ;
	struct targets *targets = kzalloc(sizeof(*targets), GFP_KERNEL);
	unsigned int number;
	int error;

	if (!targets)
		return -ENOMEM;
	error = targets_find(targets, seed);
	if (error)
		return error;
	last_seed = seed;
	unfinished = 0;
	/* What an earlier run left unfinished keeps what it uses. */
	memset(cpus, 0, sizeof(cpus));
	for_each_online_cpu(number) {
		error = error ?: start(targets, seed, operations, number);
	}
	for_each_online_cpu(number) {
		long left = max(1L, (long)(deadline - jiffies));

		if (cpus[number] && !wait_for_completion_timeout(&cpus[number]->end, left))
			unfinished++;
	}
	targets_restore(targets);
	if (!unfinished) {
		targets_free(targets);
		kfree(targets);
	}
	return error;
}

static int run_set(const char *text, const struct kernel_param *param)
{
	u64 seed;
	u32 operations;

	if (sscanf(text, "%llu %u", &seed, &operations) != 2)
		return -EINVAL;
	return run(seed, operations);
}

static int run_get(char *text, const struct kernel_param *param)
{
	int length = scnprintf(text, PAGE_SIZE, "seed=%llu unfinished=%u", last_seed, unfinished);
	unsigned int number;
	enum kind kind;

	for (kind = 0; kind < KINDS; kind++) {
		u64 done = 0;

		for_each_online_cpu(number)
			done += cpus[number] ? cpus[number]->done[kind] : 0;
		length += scnprintf(text + length, PAGE_SIZE - length, " %s=%llu", kind_names[kind], done);
	}
	return length + scnprintf(text + length, PAGE_SIZE - length, "\n");
}

static const struct kernel_param_ops run_ops = { .set = run_set, .get = run_get };
module_param_cb(run, &run_ops, NULL, 0600);

static int __init hostile_init(void)
{
	return 0;
}

static void __exit hostile_exit(void)
{
}

module_init(hostile_init);
module_exit(hostile_exit);

MODULE_DESCRIPTION("Random accesses to all that a machine has");
MODULE_LICENSE("GPL");
