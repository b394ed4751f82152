/*
 * A batch as it stands now. Its shard is asked first: what is not durable is
 * shown from there while it lives, and put into the store before it is let go.
 *
 *   here ──ask──► owner ──in memory: its document──► here
 *                   └────else────► store ──────────► here
 *
 * Invariants
 *  1. A look shows nothing older than itself: it goes with a flight that has yet
 *     to start, never with one on its way.
 *  2. Of a batch and a tenant at most one flight of this shard is on its way, so
 *     any number of readers makes two documents at a time.
 *  3. A flight is in routes.flights until it has landed and nobody is `next`.
 */
#include "routes-i.h"

#include <stdlib.h>

struct flight {
	struct idmap_node node;
	struct slice tenant;
	struct list aboard, next;        /* struct look.node */
	struct loop_msg msg;
	struct store_read read;
	struct routes *here, *owner;
	struct shown shown;
};

struct routes *batch_owner(struct routes *r, struct batch_id id)
{
	return r->env.peers[batch_id_shard(id) % r->env.group->n];
}

static void take_off(struct flight *f);

static void land(struct flight *f)
{
	struct list *node;
	struct list now;

	/* A look may end others, and start new ones. */
	list_init(&now);
	list_splice(&now, &f->aboard);
	while ((node = list_pop(&now)) != NULL) {
		struct look *l = list_entry(node, struct look, node);

		l->on_shown(l, &f->shown);
	}
	blob_unref(f->shown.whole);
	blob_unref(f->shown.head);
	if (!list_empty(&f->next)) {
		take_off(f);
		return;
	}
	idmap_remove(&f->here->flights, &f->node);
	free(f);
}

static void on_live(struct loop_msg *msg)
{
	land(container_of(msg, struct flight, msg));
}

static void on_read(struct store_op *op)
{
	struct flight *f = container_of(op, struct flight, read.op);

	f->shown.answer = op->answer;
	land(f);
}

/* In the store's thread: a long document holds up no loop. */
static void render(struct store_read *read)
{
	struct flight *f = container_of(read, struct flight, read);
	struct batch *b = STEAL_PTR(read->batch);
	struct buf whole = {0}, head = {0};

	wire_batch(&whole, b, true);
	wire_batch(&head, b, false);
	f->shown.whole = blob_from_buf(&whole);
	f->shown.head = blob_from_buf(&head);
	f->shown.asynchronous = b->asynchronous;
	f->shown.outcome = b->state == BATCH_DONE ? batch_outcome_str(b->outcome) : NULL;
	batch_unref(b);
}

static void ask_owner(struct loop_msg *msg)
{
	struct flight *f = container_of(msg, struct flight, msg);
	struct dispatch *d = f->owner->env.dispatch;

	if (dispatch_shows(d, f->node.id, f->tenant, &f->shown.outcome)) {
		f->shown.whole = dispatch_document(d, f->node.id);
		f->msg.run = on_live;
		loop_post(f->here->env.loop, &f->msg);
		return;
	}
	f->read = (struct store_read){
		.op = {.what = STORE_READ, .reply_to = f->here->env.loop, .on_done = on_read},
		.id = f->node.id, .tenant = f->tenant, .limit = UINT32_MAX, .in_thread = render};
	store_ask(f->owner->env.store, &f->read.op);
}

static void take_off(struct flight *f)
{
	list_splice(&f->aboard, &f->next);
	f->shown = (struct shown){.answer = STORE_OK};
	f->msg.run = ask_owner;
	loop_post(f->owner->env.loop, &f->msg);
}

void look_init(struct look *l, struct slice tenant, void (*on_shown)(struct look *l, const struct shown *s))
{
	list_init(&l->node);
	l->tenant = tenant;
	l->on_shown = on_shown;
}

static struct flight *find(const struct routes *r, struct batch_id id, struct slice tenant)
{
	for (struct idmap_node *node = idmap_find(&r->flights, id); node != NULL; node = idmap_next(node)) {
		struct flight *f = container_of(node, struct flight, node);

		if (slice_eq(f->tenant, tenant))
			return f;
	}
	return NULL;
}

void look_start(struct routes *r, struct look *l, struct batch_id id)
{
	struct flight *f = find(r, id, l->tenant);

	if (f != NULL) {
		list_append(&f->next, &l->node);
		return;
	}
	f = xcalloc(1, sizeof *f);
	f->tenant = l->tenant;
	f->here = r;
	f->owner = batch_owner(r, id);
	list_init(&f->aboard);
	list_init(&f->next);
	list_append(&f->next, &l->node);
	idmap_add(&r->flights, &f->node, id);
	take_off(f);
}

void look_cancel(struct look *l)
{
	list_remove(&l->node);
}
