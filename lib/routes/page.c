#include "page.h"

#include <stdlib.h>

enum { EVENTS_MAX = 64 };                /* of one page: what a reader that stalls costs */

/* How many items of a live batch are looked at for one page: a filter that finds
 * few of them must not hold up the loop. */
enum { LOOK_MAX = 16384 };

void page_event(struct buf *out, const char *name, uint32_t seq, struct slice data)
{
	buf_add_str(out, "event: ");
	buf_add_str(out, name);
	buf_add_str(out, "\nid: ");
	buf_add_u64(out, seq);
	buf_add_str(out, "\ndata: ");
	buf_add_slice(out, data);
	buf_add_str(out, "\n\n");
}

/* ---- the text ---- */

static void add_item(struct page *p, const struct item *it, uint32_t seq)
{
	struct buf *out = &p->items;

	if (p->form == PAGE_ARRAY && p->n > 0)
		buf_add_char(out, ',');
	if (p->form == PAGE_EVENTS) {
		buf_add_str(out, "event: item\nid: ");
		buf_add_u64(out, seq);
		buf_add_str(out, "\ndata: ");
	}
	wire_item(out, it);
	if (p->form != PAGE_ARRAY)
		buf_add_str(out, p->form == PAGE_EVENTS ? "\n\n" : "\n");
	p->n++;
}

static void add_head(struct page *p, const struct batch *b)
{
	wire_batch(&p->head, b, false);
	p->state = b->state;
	p->outcome = b->outcome;
	p->counts = b->counts;
}

static void add_live_by_index(struct page *p, const struct batch *b)
{
	uint32_t i = p->from, last = b->n_items - MIN(p->from, b->n_items) > LOOK_MAX ? p->from + LOOK_MAX : b->n_items;

	for (; i < last && p->n < p->limit; i++) {
		if (p->statuses == 0 || (p->statuses >> b->items[i].status & 1) != 0)
			add_item(p, &b->items[i], 0);
	}
	p->more = i < b->n_items;
	p->next = i;
}

static void add_live_by_settling(struct page *p, const struct batch *b)
{
	const struct item *it = b->settled_first;
	uint32_t seq = 1;

	for (; it != NULL && seq < p->from; it = it->next_settled)
		seq++;
	for (; it != NULL && p->n < p->limit; it = it->next_settled)
		add_item(p, it, seq++);
	p->more = it != NULL;
	p->next = seq;
}

static void on_shown(struct loop_msg *msg)
{
	struct page *p = container_of(msg, struct page, msg);

	p->on_done(p);
}

/* In the owner's loop. */
static void show(void *arg, const struct batch *b)
{
	struct page *p = arg;

	add_head(p, b);
	if (p->form == PAGE_EVENTS)
		add_live_by_settling(p, b);
	else
		add_live_by_index(p, b);
	p->answer = STORE_OK;
	p->msg.run = on_shown;
	loop_post(p->here->env.loop, &p->msg);
}

/* In the store's thread. */
static void in_thread(struct store_read *r)
{
	struct page *p = container_of(r, struct page, read);

	add_head(p, r->batch);
	for (uint32_t i = 0; i < r->batch->n_items; i++)
		add_item(p, &r->batch->items[i], r->from + i);
	p->more = r->more;
	p->next = r->next;
	batch_unref(STEAL_PTR(r->batch));
}

/* ---- the way ---- */

static void on_read(struct store_op *op)
{
	struct page *p = container_of(op, struct page, read.op);

	p->answer = op->answer;
	p->on_done(p);
}

static void ask_owner(struct loop_msg *msg)
{
	struct page *p = container_of(msg, struct page, msg);
	struct routes *owner = batch_owner(p->here, p->id);

	if (dispatch_show(owner->env.dispatch, p->id, p->tenant, show, p))
		return;
	p->read = (struct store_read){
		.op = {.what = STORE_READ, .reply_to = p->here->env.loop, .on_done = on_read},
		.id = p->id,
		.tenant = p->tenant,
		.order = p->form == PAGE_EVENTS ? STORE_BY_SETTLING : STORE_BY_INDEX,
		.from = p->from,
		.limit = p->limit,
		.statuses = p->statuses,
		.in_thread = in_thread,
	};
	store_ask(owner->env.store, &p->read.op);
}

void page_ask(struct page *p)
{
	p->items.n = p->head.n = 0;
	p->n = 0;
	p->more = false;
	p->msg.run = ask_owner;
	loop_post(batch_owner(p->here, p->id)->env.loop, &p->msg);
}

void page_done(struct page *p)
{
	buf_free(&p->items);
	buf_free(&p->head);
}

/* ---- together ---- */

/* Who joins while the page is on its way gets the next one, because this one may
 * be older than what he was told of. */
struct shared {
	struct idmap_node node;          /* routes.pages, with others of the batch */
	struct page page;
	struct list aboard, next;        /* struct page_rider.node */
};

static void take_off(struct shared *s)
{
	list_splice(&s->aboard, &s->next);
	page_ask(&s->page);
}

static void land(struct page *p)
{
	struct shared *s = container_of(p, struct shared, page);
	struct list *node;

	while ((node = list_pop(&s->aboard)) != NULL) {
		struct page_rider *r = list_entry(node, struct page_rider, node);

		r->on_page(r, p);
	}
	if (!list_empty(&s->next)) {
		take_off(s);
		return;
	}
	idmap_remove(&p->here->pages, &s->node);
	page_done(p);
	free(s);
}

static struct shared *shared_find(const struct routes *here, struct batch_id id, struct slice tenant, uint32_t from)
{
	for (struct idmap_node *n = idmap_find(&here->pages, id); n != NULL; n = idmap_next(n)) {
		struct shared *s = container_of(n, struct shared, node);

		if (s->page.from == from && slice_eq(s->page.tenant, tenant))
			return s;
	}
	return NULL;
}

void page_rider_init(struct page_rider *r, struct slice tenant,
		     void (*on_page)(struct page_rider *r, const struct page *p))
{
	list_init(&r->node);
	r->tenant = tenant;
	r->on_page = on_page;
}

void page_join(struct routes *here, struct page_rider *r, struct batch_id id, uint32_t from)
{
	struct shared *s = shared_find(here, id, r->tenant, from);

	if (s != NULL) {
		list_append(&s->next, &r->node);
		return;
	}
	s = xcalloc(1, sizeof *s);
	s->page = (struct page){.here = here, .id = id, .tenant = r->tenant, .form = PAGE_EVENTS, .from = from, .limit = EVENTS_MAX,
				.on_done = land};
	list_init(&s->aboard);
	list_init(&s->next);
	list_append(&s->next, &r->node);
	idmap_add(&here->pages, &s->node, id);
	take_off(s);
}

void page_leave(struct page_rider *r)
{
	list_remove(&r->node);
}
