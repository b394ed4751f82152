#include "core/op.h"

static const char *const why_names[] = {
	[WHY_NONE] = "none",
	[WHY_ATTEMPT_TIMEOUT] = "attempt_timeout",
	[WHY_TTL] = "ttl",
	[WHY_DEADLINE] = "deadline",
	[WHY_FIRST_FAILURE] = "first_failure",
	[WHY_DISCONNECTED] = "disconnected",
	[WHY_CANCELLED] = "cancelled",
	[WHY_SHUTDOWN] = "shutdown",
	[WHY_INTERRUPTED] = "interrupted",
	[WHY_SHED] = "shed",
	[WHY_PARKED] = "parked",
};

const char *why_str(enum why w)
{
	return why_names[w];
}

void op_tree_init(struct op_tree *t, struct op *root)
{
	*t = (struct op_tree){0};
	*root = (struct op){.deadline_us = INT64_MAX, .live = true};
	list_init(&root->sibling);
	list_init(&root->children);
}

void op_tree_free(struct op_tree *t)
{
	REQUIRE(t->live == 0);
	heap_free(&t->deadlines);
}

/* The op's deadline is its own; below its parent's it needs its own alarm. */
static void set_deadline(struct op_tree *t, struct op *op, int64_t own_us, enum why at_deadline)
{
	if (own_us < op->parent->deadline_us) {
		op->deadline_us = own_us;
		op->at_deadline = (uint8_t)at_deadline;
		if (op->why == WHY_NONE)
			heap_set(&t->deadlines, &op->due, own_us);
	} else {
		op->deadline_us = op->parent->deadline_us;
		op->at_deadline = op->parent->at_deadline;
		heap_remove(&t->deadlines, &op->due);
	}
}

void op_start(struct op_tree *t, struct op *op, struct op *parent, int64_t own_us,
	      enum why at_deadline, void (*on_cancel)(struct op *, enum why))
{
	REQUIRE(parent->live);
	*op = (struct op){.parent = parent, .on_cancel = on_cancel, .why = parent->why, .live = true};
	list_init(&op->children);
	list_append(&parent->children, &op->sibling);
	set_deadline(t, op, own_us, at_deadline);
	t->live++;
}

void op_set_deadline(struct op_tree *t, struct op *op, int64_t own_us, enum why at_deadline)
{
	REQUIRE(op->live && list_empty(&op->children));
	set_deadline(t, op, own_us, at_deadline);
}

void op_cancel(struct op_tree *t, struct op *op, enum why why)
{
	if (!op->live || op->why != WHY_NONE)
		return;
	op->why = (uint8_t)why;
	heap_remove(&t->deadlines, &op->due);
	if (op->on_cancel != NULL)
		op->on_cancel(op, why);
	list_foreach(node, &op->children)
		op_cancel(t, list_entry(node, struct op, sibling), why);
}

void op_finish(struct op_tree *t, struct op *op)
{
	REQUIRE(op->live && list_empty(&op->children));
	heap_remove(&t->deadlines, &op->due);
	list_remove(&op->sibling);
	op->live = false;
	op->parent = NULL;
	t->live--;
}

void op_expire(struct op_tree *t, int64_t now_us)
{
	struct heap_node *node;

	while ((node = heap_pop(&t->deadlines, now_us)) != NULL) {
		struct op *op = container_of(node, struct op, due);

		op_cancel(t, op, (enum why)op->at_deadline);
	}
}

int64_t op_next(const struct op_tree *t)
{
	return heap_min(&t->deadlines);
}
