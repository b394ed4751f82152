/*
 * Attempts that are over are used again, with the memory that they have grown: each shard
 * keeps some of its own.
 */
#include <stdlib.h>

#include "attempt-i.h"
#include "dispatch-i.h"

enum { SPARE_MAX = 1024 };

struct attempt *attempt_get(struct dispatch *d)
{
	struct list *node = list_pop(&d->spare);
	struct attempt *a;
	struct buf origin, message_id, quote;

	if (node == NULL)
		return xcalloc(1, sizeof(struct attempt));
	d->n_spare--;
	a = list_entry(node, struct attempt, node);
	origin = a->origin;
	message_id = a->message_id;
	quote = a->quote;
	origin.n = message_id.n = quote.n = 0;
	*a = (struct attempt){.origin = origin, .message_id = message_id, .quote = quote};
	return a;
}

static void attempt_free(struct attempt *a)
{
	buf_free(&a->origin);
	buf_free(&a->message_id);
	buf_free(&a->quote);
	free(a);
}

void attempts_free(struct dispatch *d)
{
	struct list *node;

	while ((node = list_pop(&d->spare)) != NULL)
		attempt_free(list_entry(node, struct attempt, node));
}

void attempt_put(struct dispatch *d, struct attempt *a)
{
	if (d->n_spare < SPARE_MAX) {
		d->n_spare++;
		list_append(&d->spare, &a->node);
		return;
	}
	attempt_free(a);
}
