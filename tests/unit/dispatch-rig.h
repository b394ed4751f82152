/*
 * A shard's dispatcher without a process around it: the simulator's clock and
 * loop, a store whose disk is the memory backend and which the test may stop, and
 * a downstream that answers when it is told to.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../sim/fake.h"
#include "dispatch/dispatch-i.h"
#include "store/backend-i.h"
#include "wire/wire.h"

enum { MAX_SENT = 64, MAX_ASKED = 512, N_SERVICES = 2, SEC_US = 1000000 };

/* ---- the store ---- */

struct store {
	struct store_config cfg;
	struct backend *disk;
	struct event work;
	struct list queue;
	bool held;                       /* nothing is answered */
	bool failing;                    /* what is owed waits, the rest is refused */
	struct asked {
		enum store_do what;
		uint32_t index, seq;
		enum item_state state;
		bool synced;
	} asked[MAX_ASKED];
	unsigned n_asked, n_reads;
};

static void store_answer(struct loop_msg *msg)
{
	struct store_op *op = container_of(msg, struct store_op, msg);

	op->on_done(op);
}

static void store_drop(struct store_op *op)
{
	if (op->what == STORE_ACCEPT)
		batch_unref(container_of(op, struct store_accept, op)->batch);
	else if (op->what == STORE_UPDATE)
		batch_unref(container_of(op, struct store_update, op)->batch);
	else if (op->what == STORE_FINISH)
		batch_unref(container_of(op, struct store_finish, op)->batch);
}

static bool store_owes(const struct store_op *op)
{
	if (op->what == STORE_FINISH)
		return container_of(op, const struct store_finish, op)->batch->durable;
	return op->what == STORE_CLAIM || op->what == STORE_UPDATE || op->what == STORE_PARK;
}

static void store_write(struct store *s, struct store_op *op)
{
	const struct backend_ops *ops = s->disk->ops;

	op->answer = STORE_OK;
	if (op->what == STORE_READ) {
		assert_int_equal(ops->read(s->disk, op), 0);
		return;
	}
	assert_int_equal(ops->begin(s->disk, true), 0);
	assert_int_equal(ops->write(s->disk, op), 0);
	assert_int_equal(ops->commit(s->disk), 0);
}

static void store_work(struct event *e)
{
	struct store *s = container_of(e, struct store, work);

	if (s->held)
		return;
	list_foreach(node, &s->queue) {
		struct store_op *op = container_of(node, struct store_op, msg.node);

		if (s->failing && store_owes(op))
			continue;
		list_remove(node);
		if (s->failing)
			op->answer = STORE_UNAVAILABLE;
		else if (op->what == STORE_ACCEPT && !container_of(op, struct store_accept, op)->batch->durable)
			op->answer = STORE_OK;
		else
			store_write(s, op);
		store_drop(op);
		op->msg.run = store_answer;
		if (op->reply_to == NULL)
			free(op);
		else
			loop_post(op->reply_to, &op->msg);
	}
}

/* The test's word: what waited is worked on. */
static inline void store_set(struct store *s, bool held, bool failing)
{
	s->held = held;
	s->failing = failing;
	event_at(&s->work, clock_now());
}

void store_ask(struct store *s, struct store_op *op)
{
	struct asked *a = &s->asked[s->n_asked];

	if (op->what == STORE_READ)
		s->n_reads++;
	assert_true(s->n_asked < MAX_ASKED);
	s->n_asked++;
	a->what = op->what;
	if (op->what == STORE_CLAIM) {
		a->index = container_of(op, struct store_claim, op)->index;
		a->synced = container_of(op, struct store_claim, op)->synced;
	}
	if (op->what == STORE_UPDATE) {
		const struct store_update *u = container_of(op, struct store_update, op);

		a->index = u->item.index;
		a->seq = u->seq;
		a->state = (enum item_state)u->item.state;
	}
	list_append(&s->queue, &op->msg.node);
	event_at(&s->work, clock_now());
}

/* ---- the downstream ---- */

struct xfer {
	int nothing;
};

struct transfer {
	struct event event;
	struct answer answer;
	void (*on_done)(void *arg, const struct answer *answer);
	void *arg;
	char url[128], id[160];
	int64_t started_us;
	bool done, cancelled;
};

static struct rig {
	struct loop *loop;
	struct store store;
	struct xfer xfer;
	struct dispatch_group group;
	struct config config;
	struct tenant tenant;            /* who has no key */
	struct service services[N_SERVICES];
	struct metrics *metrics;
	struct dispatch *d;
	struct transfer sent[MAX_SENT];
	unsigned n_sent;
	int answers;                     /* the status that each gets at once; 0: none */
	/* What the listener was told. */
	unsigned n_accepted, n_done;
	enum store_answer accepted;
	enum batch_state done_state;
	bool document;
	bool idle;
} rig;

static void transfer_done(struct event *e)
{
	struct transfer *t = container_of(e, struct transfer, event);

	t->done = true;
	t->on_done(t->arg, &t->answer);
}

static void answer_one(struct transfer *t, int status, int64_t retry_after_ms)
{
	t->answer = (struct answer){.end = ANSWER_COMPLETE, .wrote = true, .status = status, .phase = PHASE_RECEIVE,
				    .retry_after_ms = retry_after_ms};
	event_at(&t->event, clock_now());
}

struct transfer *xfer_start(struct xfer *x, const struct exchange *e,
			    void (*on_done)(void *arg, const struct answer *answer), void *arg)
{
	struct transfer *t = &rig.sent[rig.n_sent++];

	(void)x;
	assert_true(rig.n_sent < MAX_SENT);
	*t = (struct transfer){.on_done = on_done, .arg = arg, .started_us = clock_now()};
	snprintf(t->url, sizeof t->url, "%s", e->url);
	for (size_t i = 0; i < e->n_headers; i++)
		if (strncasecmp(e->headers[i], "webhook-id: ", 12) == 0)
			snprintf(t->id, sizeof t->id, "%s", e->headers[i] + 12);
	event_init(&t->event, rig.loop, transfer_done);
	if (rig.answers != 0)
		answer_one(t, rig.answers, RETRY_AFTER_NONE);
	return t;
}

void xfer_cancel(struct transfer *t)
{
	if (t->cancelled || t->done)
		return;
	t->cancelled = true;
	t->answer = (struct answer){.end = ANSWER_CANCELLED, .wrote = true, .phase = PHASE_WAIT,
				    .retry_after_ms = RETRY_AFTER_NONE};
	event_at(&t->event, clock_now());
}

/* ---- the shard ---- */

static void dispatcher_open(void)
{
	rig.loop = loop_new();
	fake_loop_enter(rig.loop);
	rig.d = dispatch_new(&(struct dispatch_env){.loop = rig.loop, .xfer = &rig.xfer, .store = &rig.store,
						    .config = &rig.config, .group = &rig.group,
						    .meter = {rig.metrics, 0}, .seed = 7});
	rig.group.members[0] = rig.d;
	rig.idle = false;
}

static void on_idle(void *arg)
{
	(void)arg;
	rig.idle = true;
}

static int rig_open(void **state)
{
	(void)state;
	rig = (struct rig){0};
	clock_start(&(struct fake_settings){.seed = 1, .grain_us = 1});
	for (unsigned i = 0; i < N_SERVICES; i++)
		rig.services[i] = (struct service){
			.name = i == 0 ? "one" : "two", .kind = SERVICE_HTTP, .method = "POST",
			.url = i == 0 ? "http://127.0.0.1:1/{to}" : "http://127.0.0.1:2/{to}",
			.attempt_timeout_ms = 60000, .max_in_flight = 4, .lanes = 1, .max_payload = 1000};
	rig.tenant = (struct tenant){.name = "", .weight = 1, .max_priority = PRIORITY_MAX};
	rig.config = (struct config){.refs = 1, .services = rig.services, .n_services = N_SERVICES, .service_slots = N_SERVICES,
				     .tenants = &rig.tenant, .n_tenants = 1};
	rig.config.limits.queued_items = 1000;
	rig.config.limits.queued_bytes = rig.config.limits.resident_bytes = 1 << 30;
	rig.config.limits.in_flight = 100;
	rig.config.limits.connections = 1000;
	rig.config.limits.keep_results_ms = 1000000;
	rig.config.limits.answer_bytes = 1000;
	rig.group.n = 1;
	dispatch_group_init(&rig.group, &rig.config);
	rig.metrics = dispatch_metrics_new(&rig.config, 1);
	list_init(&rig.store.queue);
	event_init(&rig.store.work, NULL, store_work);
	rig.store.cfg.memory_bytes = 1 << 30;
	rig.store.disk = memory_open(&rig.store.cfg);
	dispatcher_open();
	return 0;
}

/* One event at a time, until the test has seen what it waits for. */
static void run_until(bool (*seen)(void))
{
	unsigned steps = 0;

	while (!seen()) {
		assert_true(++steps < 100000);
		assert_true(clock_step());
		fake_loop_enter(rig.loop);
	}
}

static bool marked;

static void mark(struct event *e)
{
	(void)e;
	marked = true;
}

static bool is_marked(void)
{
	return marked;
}

static void run_for(int64_t us)
{
	struct event e;

	marked = false;
	event_init(&e, NULL, mark);
	event_at(&e, clock_now() + us);
	run_until(is_marked);
}

static bool is_idle_now(void)
{
	return rig.idle;
}

static void dispatcher_close(void)
{
	fake_loop_enter(rig.loop);
	if (!dispatch_draining(rig.d)) {
		dispatch_drain(rig.d, on_idle, NULL);
		dispatch_cancel_all(rig.d, WHY_SHUTDOWN);
	}
	run_until(is_idle_now);
	run_for(1);
	dispatch_free(rig.d);
	fake_loop_enter(NULL);
	loop_free(rig.loop);
}

/* All but the group, whose sums may be looked at. */
static void rig_stop(void)
{
	dispatcher_close();
	store_work(&rig.store.work);
	rig.store.disk->ops->close(rig.store.disk);
	metrics_free(rig.metrics);
	assert_int_equal(rig.group.unfinished, 0);
	assert_int_equal(rig.group.tenants.of[0].queued, 0);
	assert_int_equal(rig.group.held_bytes, 0);
	clock_stop();
}

static inline int rig_close(void **state)
{
	(void)state;
	rig_stop();
	dispatch_group_free(&rig.group);
	return 0;
}

/* What the process before had left. */
static void recover_one(void *arg, const struct store_unfinished *u)
{
	dispatch_recover(arg, u);
}

static inline void recover_all(void)
{
	fake_loop_enter(NULL);
	rig.store.disk->ops->each_unfinished(rig.store.disk, recover_one, rig.d);
	fake_loop_enter(rig.loop);
}

/* ---- batches ---- */

static void on_accepted(void *arg, struct batch *b, const struct store_accept *said)
{
	(void)arg;
	rig.n_accepted++;
	rig.accepted = said->op.answer;
	if (said->op.answer == STORE_OK && b->asynchronous && !b->policy.continue_on_disconnect)
		dispatch_detach(rig.d, b->id);
}

static void on_done(void *arg, struct batch *b, struct blob *document)
{
	(void)arg;
	rig.n_done++;
	rig.done_state = b->state;
	rig.document = document != NULL;
}

static const struct dispatch_listener listener = {.on_accepted = on_accepted, .on_done = on_done};

/* n items of one service; the items are "a", "b" and so on. */
static struct batch *make_batch(uint32_t n, uint16_t service, bool job, bool durable)
{
	static const char *const names[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
	struct batch *b = batch_new(NULL, n);

	b->policy = (struct policy){.contract = CONTRACT_PARTIAL_SUCCESS, .concurrency = 64, .deadline_ms = 86400000,
				    .retry = {10, 1000, 3600000}};
	b->asynchronous = job;
	b->durable = durable;
	b->metadata = SLICE("{}");
	for (uint32_t i = 0; i < n; i++) {
		b->items[i].id = b->items[i].to = slice_str(names[i]);
		b->items[i].payload = SLICE("{}");
		b->items[i].service = service;
	}
	return b;
}

static struct batch_id submit_batch(struct batch *b)
{
	struct batch_id id;

	fake_loop_enter(rig.loop);
	batch_ref(b);
	assert_int_equal(dispatch_submit(rig.d, b, &listener, NULL), 0);
	id = b->id;
	batch_unref(b);
	return id;
}

static inline struct batch_id submit_job(uint32_t n, uint16_t service)
{
	return submit_batch(make_batch(n, service, true, true));
}

/* All of it as it is on the disk: the caller's to drop. */
static inline struct batch *stored(struct batch_id id)
{
	struct store_read r = {.op.what = STORE_READ, .id = id, .limit = UINT32_MAX, .letters = true};

	assert_int_equal(rig.store.disk->ops->read(rig.store.disk, &r.op), 0);
	assert_int_equal(r.op.answer, STORE_OK);
	return r.batch;
}

static inline struct item *stored_item(struct batch *b, uint32_t index)
{
	return &b->items[index];
}

static inline unsigned count_asked(enum store_do what)
{
	unsigned n = 0;

	for (unsigned i = 0; i < rig.store.n_asked; i++)
		n += rig.store.asked[i].what == what;
	return n;
}

/* A batch as a process left it that died: accepted, and some of it claimed. */
static inline struct batch_id write_accepted(struct batch *take, const uint32_t *claimed, unsigned n_claimed)
{
	struct batch_id id;
	struct rng rng;
	struct store_accept a = {.op.what = STORE_ACCEPT, .batch = take};

	rng_seed(&rng, 3 + rig.store.n_asked++);
	if (take->created_unix_ms == 0)
		take->created_unix_ms = clock_unix_ms();
	id = take->id = batch_id_new(&rng, take->created_unix_ms, 0);
	store_write(&rig.store, &a.op);
	for (unsigned i = 0; i < n_claimed; i++) {
		struct store_claim c = {.op.what = STORE_CLAIM, .row = take->store_row, .index = claimed[i]};

		store_write(&rig.store, &c.op);
	}
	batch_unref(take);
	return id;
}
