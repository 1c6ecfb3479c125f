/* SPDX-License-Identifier: GPL-2.0 */
/* The queues device's driver: what its parts share. */
#ifndef IMS_QUEUES_H
#define IMS_QUEUES_H

#include <linux/interrupt.h>
#include <linux/mutex.h>
#include <linux/wait.h>

#include "device.h"

#define MSIX_VECTORS	2

/* What can be rung. */
struct line {
	wait_queue_head_t arrival;
	atomic_t received;
	unsigned int cpu;		/* where it was received last */
	/* Written by the line's ringer alone. */
	unsigned int rung;
	unsigned int late;
	unsigned int lost;
	int irq;			/* 0: it has none */
	char name[24];
};

struct ims_queues {
	struct pci_dev *pdev;
	void __iomem *registers;
	struct ims_memory memory;
	struct ims_store stores[2];
	struct ims_domain domain;
	struct mutex command;
	struct task_struct *pounder;
	struct line msix[MSIX_VECTORS];
	struct line *queues;
	unsigned int *order;		/* of the queues, shuffled at need */
	unsigned int count;
	unsigned int most_live;
	unsigned int allocations;
	unsigned int moves;
	unsigned int unmoved;
	unsigned int masked_rung;
	unsigned int held;		/* slots that had something waiting then */
	unsigned int freed_rung;
	unsigned int stray;		/* came on a freed one's account */
	u64 allocate_ns;
	u64 allocate_max_ns;
};

void line_init(struct line *line, const char *name, unsigned int index);
irqreturn_t line_arrival(int irq, void *line);
/* Rings it by writing `index` to the register `bell`, and waits. */
void line_ring(struct ims_queues *ims, struct line *line, size_t bell,
	       unsigned int index);
/* Counts a ring and waits for it; `before` is how many had been received. */
void line_await(struct ims_queues *ims, struct line *line, int before);
/* Something came twice, on a neighbour's interrupt, or too late. */
bool line_is_uneven(const struct line *line);

void queue_ring(struct ims_queues *ims, unsigned int index);
int queue_allocate(struct ims_queues *ims, unsigned int index);
void queue_release(struct ims_queues *ims, unsigned int index);

/* Commands: see queues.c. */
int queues_exercise(struct ims_queues *ims, unsigned int batch);
int queues_fill(struct ims_queues *ims);
int queues_reset(struct ims_queues *ims, unsigned int count);

#endif
