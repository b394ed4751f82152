/*
 * Who is told that a batch has changed.
 *
 * Invariants
 *  1. A watch is in d->watches from dispatch_watch() until it is told `done` or
 *     taken out; it is in d->changed while it has something to be told.
 *  2. It is told by the pump alone, so that many changes are one call.
 */
#include <stdlib.h>

#include "dispatch-i.h"
#include "live-i.h"
#include "watch-i.h"

bool watches_any(const struct dispatch *d, struct batch_id id)
{
	return idmap_find(&d->watches, id) != NULL;
}

void watches_changed(struct dispatch *d, struct batch_id id, bool done)
{
	for (struct idmap_node *n = idmap_find(&d->watches, id); n != NULL; n = idmap_next(n)) {
		struct dispatch_watch *w = container_of(n, struct dispatch_watch, node);

		w->done |= done;
		if (list_empty(&w->changed))
			list_append(&d->changed, &w->changed);
		dispatch_pump_soon(d);
	}
}

void watches_pump(struct dispatch *d)
{
	struct list *node;

	while ((node = list_pop(&d->changed)) != NULL) {
		struct dispatch_watch *w = list_entry(node, struct dispatch_watch, changed);
		bool done = w->done;

		if (done)
			idmap_remove(&d->watches, &w->node);
		w->on_change(w, done);
	}
}

/* What was asked before is committed when this is. */
struct fence {
	struct store_park park;
	struct dispatch *d;
	struct batch_id id;
};

static void on_fence(struct store_op *op)
{
	struct fence *f = container_of(op, struct fence, park.op);

	watches_changed(f->d, f->id, false);
	f->d->answers--;
	dispatch_pump_soon(f->d);
	free(f);
}

/* Updates that were sent while nobody watched are answered to nobody: whoever
 * begins to watch now is told when the last of them is there. To say again that
 * a running batch is wanted at once changes nothing, and keeps its place. */
static void fence(struct live *lv)
{
	struct fence *f = xcalloc(1, sizeof *f);

	*f = (struct fence){.park = {.op = {.what = STORE_PARK, .reply_to = lv->d->env.loop, .on_done = on_fence},
				     .row = lv->batch->store_row},
			    .d = lv->d, .id = lv->batch->id};
	lv->untold = false;
	lv->d->answers++;
	store_ask(lv->d->env.store, &f->park.op);
}

void dispatch_watch(struct dispatch *d, struct dispatch_watch *w, struct batch_id id)
{
	struct live *lv = live_find(d, id);

	w->done = false;
	list_init(&w->changed);
	idmap_add(&d->watches, &w->node, id);
	if (lv != NULL && lv->phase == LIVE_RUNNING && lv->untold)
		fence(lv);
}

void dispatch_unwatch(struct dispatch *d, struct dispatch_watch *w)
{
	list_remove(&w->changed);
	for (struct idmap_node *n = idmap_find(&d->watches, w->node.id); n != NULL; n = idmap_next(n)) {
		if (n == &w->node) {
			idmap_remove(&d->watches, n);
			return;
		}
	}
}
