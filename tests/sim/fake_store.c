/*
 * lib/store/store.h over the real memory backend, which plays the disk: what is
 * committed there outlives every simulated process. With `sim_test --sqlite DIR`
 * it is a database in that folder, opened anew by each process. No threads: one
 * event is the writer, and each read is one of its own.
 *
 *   asked ──writer takes a group──► in the group ──commit──► answered
 *     ▲                                  │ the disk fails: what is owed goes back
 *     └──────────────────────────────────┘ and the rest is refused
 *
 * Invariants
 *  1. Writes are committed in the order in which they were asked for.
 *  2. What a crash finds in the queue or in the group never comes to the disk.
 *  3. A store that is void answers everything and writes nothing: the process
 *     that asks is dead, and only has to be buried.
 */
#include "fake_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "sim.h"
#include "store/memory-i.h"

struct waiting {
	struct list node;
	struct store_op *op;
	uint64_t hash;                   /* of what the store was promised not to change */
	bool written;                    /* it is on the disk, though nobody may know it yet */
};

struct reading {
	struct event event;
	struct store *store;
	struct store_op *op;
};

struct store {
	struct store_disk *disk;
	struct list queue, group;
	struct event writer;
	unsigned open;                   /* operations that were not answered yet */
	struct store_op *held_back;      /* by a planted defect */
	uint64_t reserved;               /* items of acceptances among them */
	bool void_now;
};

struct store_disk {
	struct store_config config;
	struct backend *backend;
	int64_t fails_until, busy_until;
	int64_t slow_us;                 /* a commit, at most */
	bool opened;                     /* by a process before */
};

static void open_disk(struct store_disk *k)
{
	CLEANUP(buf_free) struct buf error = {0};

	k->backend = k->config.path == NULL ? memory_open(&k->config) : sqlite_open(&k->config, &error);
	if (k->backend == NULL)
		sim_fail(RULE_KEPT, "the database does not open: %.*s", (int)error.n, error.p);
}

/* Nothing of the seed before. */
static void wipe(const char *dir)
{
	static const char *const names[] = {"settled.db", "settled.db-wal", "settled.db-shm"};
	char path[512];

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		snprintf(path, sizeof path, "%s/%s", dir, names[i]);
		unlink(path);
	}
}

struct store_disk *store_disk_new(uint64_t stored_items, int64_t slow_us)
{
	struct store_disk *k = xcalloc(1, sizeof *k);
	static const char *names[MAX_SERVICES];

	for (size_t i = 0; i < sim.config.n_services; i++)
		names[i] = sim.config.services[i].name;
	if (sim.sqlite != NULL)
		wipe(sim.sqlite);
	k->config = (struct store_config){
		.path = sim.sqlite, .memory_bytes = 1u << 30, .queue_bytes = 1u << 30, .stored_items = stored_items,
		.services = names, .n_services = sim.config.n_services,
	};
	open_disk(k);
	k->slow_us = slow_us;
	return k;
}

void store_disk_free(struct store_disk *k)
{
	if (k == NULL)
		return;
	k->backend->ops->close(k->backend);
	free(k);
}

void store_disk_fail(struct store_disk *k, int64_t until_us)
{
	k->fails_until = MAX(k->fails_until, until_us);
}

void store_disk_busy(struct store_disk *k, int64_t until_us)
{
	k->busy_until = MAX(k->busy_until, until_us);
}

bool store_disk_well_since(const struct store_disk *k, int64_t us)
{
	return k->fails_until <= us && k->busy_until <= us;
}

bool store_disk_troubled(const struct store_disk *k)
{
	return k->fails_until > 0 || k->busy_until > 0;
}

/* ---- answers ---- */

static void on_answer(struct loop_msg *msg)
{
	struct store_op *op = container_of(msg, struct store_op, msg);

	op->on_done(op);
}

static void drop_batch(struct store_op *op)
{
	switch (op->what) {
	case STORE_ACCEPT:
		batch_unref(container_of(op, struct store_accept, op)->batch);
		break;
	case STORE_UPDATE:
		batch_unref(container_of(op, struct store_update, op)->batch);
		break;
	case STORE_FINISH:
		batch_unref(container_of(op, struct store_finish, op)->batch);
		break;
	case STORE_CLAIM:
	case STORE_PARK:
	case STORE_DELETE:
	case STORE_READ:
	case STORE_LIST:
		break;
	}
}

static void answer(struct store *s, struct store_op *op)
{
	drop_batch(op);
	s->open--;
	if (op->reply_to == NULL) {
		free(op);
		return;
	}
	op->msg.run = on_answer;
	loop_post(op->reply_to, &op->msg);
}

/* ---- the writer ---- */

/* Before its answer nobody may change what the store reads of a new batch; of one
 * that is done, never. */
static uint64_t frozen_hash(const struct store_op *op)
{
	const struct batch *b = NULL;

	if (op->what == STORE_ACCEPT && container_of(op, struct store_accept, op)->batch->durable)
		b = container_of(op, struct store_accept, op)->batch;
	else if (op->what == STORE_FINISH)
		b = container_of(op, struct store_finish, op)->batch;
	if (b == NULL)
		return 0;
	return slice_hash((struct slice){(const char *)b->items, b->n_items * sizeof *b->items},
			  slice_hash((struct slice){(const char *)&b->counts, sizeof b->counts}, 1));
}

static bool is_owed(const struct store_op *op)
{
	const struct batch *b;

	switch (op->what) {
	case STORE_CLAIM:
	case STORE_UPDATE:
	case STORE_PARK:
		return true;
	case STORE_FINISH:
		b = container_of(op, struct store_finish, op)->batch;
		return b->durable || b->store_row != 0;
	case STORE_ACCEPT:
	case STORE_DELETE:
	case STORE_READ:
	case STORE_LIST:
		break;
	}
	return false;
}

static struct waiting *pop(struct list *from)
{
	struct list *node = list_pop(from);

	return node == NULL ? NULL : list_entry(node, struct waiting, node);
}

static uint32_t reserves(const struct store_op *op)
{
	return op->what == STORE_ACCEPT ? container_of(op, const struct store_accept, op)->batch->counts.pending : 0;
}

static void finish(struct store *s, struct waiting *w, enum store_answer said)
{
	struct store_op *op = w->op;

	free(w);
	s->reserved -= reserves(op);
	op->answer = said;
	if (!s->void_now)
		store_answered(op);
	answer(s, op);
}

static void refuse_group(struct store *s)
{
	struct list owed;
	struct waiting *w;

	list_init(&owed);
	cover_race(RACE_DISK_FAILED);
	while ((w = pop(&s->group)) != NULL) {
		if (is_owed(w->op))
			list_append(&owed, &w->node);
		else
			finish(s, w, STORE_UNAVAILABLE);
	}
	list_splice(&owed, &s->queue);
	list_splice(&s->queue, &owed);
}

/* The memory backend keeps no notes, so it is given them as small batches. The
 * whole batch takes the note's place: this ends and forgets it. */
static void drop_note(struct backend *b, struct batch_id id)
{
	struct store_read r = {.op = {.what = STORE_READ}, .id = id};
	struct store_finish f = {.op = {.what = STORE_FINISH}};
	struct store_delete d = {.op = {.what = STORE_DELETE}, .id = id};

	REQUIRE(b->ops->read(b, &r.op) == 0);
	if (r.op.answer != STORE_OK)
		return;
	r.batch->durable = true;
	r.batch->state = BATCH_DONE;
	r.batch->counts.pending = 0;
	f.batch = r.batch;
	REQUIRE(b->ops->write(b, &f.op) == 0 && b->ops->write(b, &d.op) == 0 && d.op.answer == STORE_OK);
	batch_unref(r.batch);
}

/* A note is of the moment in which it was asked for, and has no letters. */
static void make_note(struct store_accept *a)
{
	struct batch *from = a->batch, *note = memory_copy_head(from, from->n_items);

	REQUIRE(note != NULL);
	for (uint32_t i = 0; i < from->n_items; i++)
		REQUIRE(memory_copy_item(&note->items[i], &from->items[i], from));
	a->batch = note;
	batch_unref(from);
}

static void write_one(struct store_disk *k, struct waiting *w)
{
	const struct batch *ended = w->op->what != STORE_FINISH ? NULL : container_of(w->op, struct store_finish, op)->batch;

	if (!w->written)
		w->op->answer = STORE_OK;
	CHECK(FROZEN, w->hash == frozen_hash(w->op), "operation %d: it changed while the store had it",
	      (int)w->op->what);
	if (w->written || (sim.plant == PLANT_LOSES_UPDATES && w->op->what == STORE_UPDATE && dice_chance(5)))
		return;
	if (k->busy_until > clock_now() && !is_owed(w->op)) {
		w->op->answer = STORE_BUSY;
		return;
	}
	if (ended != NULL && !ended->durable && !k->backend->ops->keeps_notes)
		drop_note(k->backend, ended->id);
	REQUIRE(k->backend->ops->write(k->backend, w->op) == 0);
}

static void commit_group(struct store *s)
{
	struct backend *b = s->disk->backend;
	struct waiting *w;

	REQUIRE(b->ops->begin(b, true) == 0);
	list_foreach(node, &s->group)
		write_one(s->disk, list_entry(node, struct waiting, node));
	REQUIRE(b->ops->commit(b) == 0);
	while ((w = pop(&s->group)) != NULL)
		finish(s, w, w->op->answer);
}

static void bury_group(struct store *s)
{
	struct waiting *w;

	while ((w = pop(&s->group)) != NULL)
		finish(s, w, STORE_OK);
}

static void take_group(struct store *s)
{
	bool all = dice_chance(70);
	struct list *node;

	while ((node = list_pop(&s->queue)) != NULL) {
		list_append(&s->group, node);
		if (!all && dice_chance(30))
			break;
	}
}

static void on_writer(struct event *e)
{
	struct store *s = container_of(e, struct store, writer);
	bool fails = s->disk->fails_until > clock_now() && !s->void_now;

	if (list_empty(&s->group))
		take_group(s);
	else if (s->void_now)
		bury_group(s);
	else if (s->disk->fails_until > clock_now())
		refuse_group(s);
	else
		commit_group(s);
	if (!list_empty(&s->group) || !list_empty(&s->queue))
		event_at(&s->writer, clock_now() + (fails ? dice_log(10000, 1000000) : dice_log(0, s->disk->slow_us)));
}

/* Items that are in the store and not final, with those on their way there. */
static bool is_full(const struct store *s, const struct store_op *op)
{
	struct store_status now = {0};
	const struct batch *b;

	if (op->what != STORE_ACCEPT)
		return false;
	b = container_of(op, const struct store_accept, op)->batch;
	s->disk->backend->ops->measure(s->disk->backend, &now);
	return b->durable && now.unfinished_items + s->reserved + b->counts.pending > s->disk->config.stored_items;
}

static bool is_note(const struct store_op *op)
{
	return op->what == STORE_ACCEPT && !container_of(op, const struct store_accept, op)->batch->durable;
}

static void ask_write(struct store *s, struct store_op *op)
{
	struct waiting *w;

	if ((is_note(op) && !sim.notes) || is_full(s, op)) {
		op->answer = STORE_BUSY;
		if (!s->void_now)
			store_answered(op);
		answer(s, op);
		return;
	}
	if (is_note(op) && !s->disk->backend->ops->keeps_notes)
		make_note(container_of(op, struct store_accept, op));
	s->reserved += reserves(op);
	w = xcalloc(1, sizeof *w);
	*w = (struct waiting){.op = op, .hash = frozen_hash(op)};
	if (list_empty(&s->group) && list_empty(&s->queue))
		event_at(&s->writer, clock_now() + dice_log(0, s->disk->slow_us));
	list_append(&s->queue, &w->node);
}

/* ---- reads ---- */

static void on_reading(struct event *e)
{
	struct reading *g = container_of(e, struct reading, event);
	struct store *s = g->store;
	struct store_op *op = g->op;
	struct backend *b = s->disk->backend;

	free(g);
	op->answer = STORE_OK;
	if (s->disk->fails_until > clock_now() && !s->void_now)
		op->answer = STORE_UNAVAILABLE;
	else
		REQUIRE(b->ops->read(b, op) == 0);
	doctor_read(op);
	if (!s->void_now)
		store_answered(op);
	answer(s, op);
}

static void ask_read(struct store *s, struct store_op *op)
{
	struct reading *g = xcalloc(1, sizeof *g);

	*g = (struct reading){.store = s, .op = op};
	event_init(&g->event, NULL, on_reading);
	event_at(&g->event, clock_now() + dice_log(0, s->disk->slow_us));
}

/* ---- planted defects of the store itself ---- */

/* Its twin goes the way of the queue, so that the checks learn when it is kept;
 * the answer comes before. */
static void answer_early(struct store *s, struct store_op *op, size_t size)
{
	struct backend *b = s->disk->backend;
	struct store_op *twin = xcalloc(1, size);
	struct waiting *w;

	op->answer = STORE_OK;
	if (op->what == STORE_ACCEPT) {
		REQUIRE(b->ops->begin(b, true) == 0 && b->ops->write(b, op) == 0 && b->ops->commit(b) == 0);
		batch_ref(container_of(op, struct store_accept, op)->batch);
	} else if (op->what == STORE_FINISH) {
		batch_ref(container_of(op, struct store_finish, op)->batch);
	}
	memcpy(twin, op, size);
	twin->reply_to = NULL;
	ask_write(s, twin);
	w = list_entry(s->queue.prev, struct waiting, node);
	w->written = op->what == STORE_ACCEPT;
	s->open++;
	answer(s, op);
}

/* True: it was dealt with. */
static bool plant_asked(struct store *s, struct store_op *op)
{
	if (s->void_now || is_note(op))
		return false;
	if (sim.plant == PLANT_EARLY_ACK && op->what == STORE_ACCEPT)
		answer_early(s, op, sizeof(struct store_accept));
	else if (sim.plant == PLANT_NO_CLAIM && op->what == STORE_CLAIM)
		answer_early(s, op, sizeof(struct store_claim));
	else if (sim.plant == PLANT_EARLY_DONE && op->what == STORE_FINISH)
		answer_early(s, op, sizeof(struct store_finish));
	else
		return false;
	return true;
}

/* ---- lib/store/store.h ---- */

/* The update of a try that was refused gets lost on its way. */
static bool is_swallowed(const struct store_op *op)
{
	const struct store_update *u = container_of(op, const struct store_update, op);

	return sim.plant == PLANT_REFUSED_UNTOLD && op->what == STORE_UPDATE && u->item.refused > 0 &&
	       u->item.state == ITEM_WAITING && op->reply_to == NULL;
}

static void ask(struct store *s, struct store_op *op)
{
	s->open++;
	if (!s->void_now && is_swallowed(op)) {
		answer(s, op);
		return;
	}
	if (!s->void_now) {
		doctor_asked(op);
		store_asked(op);
	}
	if (plant_asked(s, op))
		return;
	if (op->what == STORE_READ || op->what == STORE_LIST)
		ask_read(s, op);
	else
		ask_write(s, op);
}

/* The last update of a batch is overtaken by whatever is asked next. */
static bool is_held_back(const struct store_op *op)
{
	const struct store_update *u = container_of(op, const struct store_update, op);

	return sim.plant == PLANT_HASTY_FINISH && op->what == STORE_UPDATE && u->counts.pending == 0;
}

void store_ask(struct store *s, struct store_op *op)
{
	struct store_op *before = STEAL_PTR(s->held_back);

	if (before == NULL && is_held_back(op)) {
		s->held_back = op;
		return;
	}
	ask(s, op);
	if (before != NULL)
		ask(s, before);
}

struct store *store_on_disk(struct store_disk *k)
{
	struct store *s = xcalloc(1, sizeof *s);

	if (k->opened && k->config.path != NULL) {
		k->backend->ops->close(k->backend);
		open_disk(k);
	}
	k->opened = true;
	s->disk = k;
	list_init(&s->queue);
	list_init(&s->group);
	event_init(&s->writer, NULL, on_writer);
	return s;
}

void store_bury(struct store *s)
{
	s->void_now = true;
}

bool store_is_quiet(const struct store *s)
{
	return s->open == 0;
}

void store_close(struct store *s)
{
	if (s == NULL)
		return;
	CHECK(LEAK, s->open == 0, "%u operations of the store are not answered", s->open);
	free(s);
}

bool store_each_unfinished(struct store *s, void (*each)(void *arg, const struct store_unfinished *u), void *arg,
			   struct buf *reterr)
{
	(void)reterr;
	if (sim.plant == PLANT_FORGETS_JOBS && dice_chance(10))
		return true;
	return s->disk->backend->ops->each_unfinished(s->disk->backend, each, arg) == 0;
}

/* All of a batch as the disk has it, at once; NULL: it has nothing of it. */
struct batch *store_disk_look(struct store_disk *k, struct batch_id id)
{
	struct store_read r = {.op = {.what = STORE_READ}, .id = id, .limit = UINT32_MAX, .letters = true};

	REQUIRE(k->backend->ops->read(k->backend, &r.op) == 0);
	return r.op.answer == STORE_OK ? r.batch : NULL;
}
