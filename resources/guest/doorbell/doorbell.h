/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A doorbell and its vectors, and what the files of this module call of each
 * other. The head of main.c says what the module does, and how it locks.
 */
#ifndef DOORBELL_H
#define DOORBELL_H

#include <linux/atomic.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/wait.h>

extern unsigned int patience_ms;
extern unsigned int give_up_ms;

struct vector {
	wait_queue_head_t arrival;
	atomic_t received;
	/* Where it was taken last, and when that was another CPU than before. */
	unsigned int cpu;
	u64 cpu_since_ns;
	/* Written by the vector's ringer alone. */
	unsigned int rung;
	unsigned int late;
	unsigned int lost;
	u64 slowest_ns;			/* from ringing to being told */
	u64 grow_ns;			/* what adding it took */
	/* Of a storm: rings begun, rings done, and those begun that a handler saw. */
	unsigned int storm_rung;
	unsigned int storm_done;
	unsigned int storm_seen;
	int irq;
	char name[24];
};

struct doorbell;

/* A device that rings itself. */
struct kind {
	/* QEMU's ivshmem takes the vector from the low eight bits. */
	unsigned int max_ringable;
	/* What it needs after each reset. */
	void (*prepare)(struct doorbell *bell);
	void (*ring)(struct doorbell *bell, unsigned int index);
};

/* What masking and unmasking a vector under load came to. */
struct storm {
	unsigned int rounds;
	unsigned int rung;
	unsigned int received;
	unsigned int while_masked;	/* rounds with an interrupt while masked */
	unsigned int not_pending;	/* rounds without a pending bit */
	unsigned int lost;		/* rounds without an interrupt afterwards */
};

struct doorbell {
	struct pci_dev *pdev;
	const struct kind *kind;
	void __iomem *registers;
	struct mutex command;
	struct rw_semaphore steps;
	struct task_struct *pounder;
	struct vector *vectors;
	unsigned int id;
	unsigned int table_size;
	unsigned int grown;		/* vectors 0..grown-1 exist */
	bool is_reserved;		/* vector `grown` has an irq, no handler */
	void __iomem *table;
	void __iomem *pba;
	struct storm storm;		/* the last one */
	unsigned int growths;		/* how often one was added */
	u64 grow_ns;			/* time all of that took, rings excluded */
	u64 grow_max_ns;
	u64 grow_median_ns;		/* of the last command to grow */
	u64 move_median_ns;		/* of the last command to move */
};

/* main.c: adds vector `grown`, and takes its interrupt. */
int add_vector(struct doorbell *bell);

/* masking.c */
int map_msix(struct doorbell *bell);
bool is_pending(struct doorbell *bell, unsigned int index);
int mask_vector(struct doorbell *bell, unsigned int index);
int unmask_vector(struct doorbell *bell, unsigned int index);
int rewrite_vector(struct doorbell *bell, unsigned int index);
int raise_vector(struct doorbell *bell, unsigned int index);
int request_vector(struct doorbell *bell);
int run_storm(struct doorbell *bell, unsigned int rounds);

#endif
