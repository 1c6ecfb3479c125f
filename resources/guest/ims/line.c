// SPDX-License-Identifier: GPL-2.0
/*
 * What can be rung, and must answer once. A ring that has not come within the
 * patience is waited for some more, without ringing again: it is late if it comes
 * then, and lost if it does not.
 *
 * A line has one ringer at a time; that is the caller's to see to.
 */
#include <linux/io.h>
#include <linux/module.h>

#include "queues.h"

static unsigned int patience_ms = 1000;
module_param(patience_ms, uint, 0644);
MODULE_PARM_DESC(patience_ms, "a ring that has not arrived by then is late");
static unsigned int give_up_ms = 5000;
module_param(give_up_ms, uint, 0644);
MODULE_PARM_DESC(give_up_ms, "a late ring that has not arrived by then is lost");

irqreturn_t line_arrival(int irq, void *data)
{
	struct line *line = data;

	WRITE_ONCE(line->cpu, smp_processor_id());
	atomic_inc(&line->received);
	wake_up(&line->arrival);
	return IRQ_HANDLED;
}

void line_init(struct line *line, const char *name, unsigned int index)
{
	init_waitqueue_head(&line->arrival);
	snprintf(line->name, sizeof(line->name), "%s-%u", name, index);
}

static bool arrives(struct line *line, int before, unsigned int ms)
{
	return wait_event_timeout(line->arrival,
				  atomic_read(&line->received) != before,
				  msecs_to_jiffies(ms));
}

void line_ring(struct ims_queues *ims, struct line *line, size_t bell,
	       unsigned int index)
{
	int before = atomic_read(&line->received);

	iowrite32(index, ims->registers + bell);
	line_await(ims, line, before);
}

void line_await(struct ims_queues *ims, struct line *line, int before)
{
	bool late;

	WRITE_ONCE(line->rung, line->rung + 1);
	if (arrives(line, before, patience_ms))
		return;
	late = arrives(line, before, give_up_ms);
	if (late)
		WRITE_ONCE(line->late, line->late + 1);
	else
		WRITE_ONCE(line->lost, line->lost + 1);
	dev_warn(&ims->pdev->dev, "%s: ring %u %s\n", line->name, line->rung,
		 late ? "late" : "lost");
}

bool line_is_uneven(const struct line *line)
{
	return atomic_read(&line->received) != line->rung - line->lost;
}
