/*
 * lib/xfer/xfer.h, and the downstream behind it. What each request meets is
 * read from its script (sim.script); what reached the downstream is written
 * into the ledger (sim.requests) as it happens.
 *
 *   started ──write──seen──status──► ended ──► on_done
 *      └───────────cancelled────────────────────┘
 */
#include <stdlib.h>

#include "sim.h"

struct xfer {
	struct loop *loop;
	struct list live;
	unsigned shard;
	struct xfer_usage usage;
};

struct transfer {
	struct event event;
	struct list node;                /* xfer.live */
	struct xfer *xfer;
	struct script script;
	struct slice body;
	unsigned request;                /* its place in the ledger */
	struct answer answer;
	bool cancelled, ended;
	void (*on_done)(void *arg, const struct answer *answer);
	void *arg;
};

struct xfer *xfer_new(struct loop *l, const struct xfer_config *cfg)
{
	struct xfer *x = xcalloc(1, sizeof *x);
	unsigned shard = 0;

	(void)cfg;
	while (shard < MAX_SHARDS && sim.loops[shard] != l)
		shard++;
	*x = (struct xfer){.loop = l, .shard = shard};
	list_init(&x->live);
	return x;
}

void xfer_free(struct xfer *x)
{
	if (x == NULL)
		return;
	CHECK(LEAK, x->usage.live == 0, "%u transfers live at the end", x->usage.live);
	free(x);
}

struct xfer_usage xfer_usage(const struct xfer *x)
{
	return x->usage;
}

static struct request *request_of(const struct transfer *t)
{
	return &sim.requests[t->request];
}

static int64_t earliest(int64_t a, int64_t b)
{
	if (a == NEVER)
		return b;
	return b == NEVER ? a : MIN(a, b);
}

/* When the script has something to do next; NEVER: it hangs. */
static int64_t next_step(const struct script *s)
{
	return earliest(earliest(s->at_write, s->at_seen), earliest(s->at_status, s->at_end));
}

static void set_event(struct transfer *t)
{
	int64_t next = next_step(&t->script);

	event_at(&t->event, next == NEVER ? HEAP_NONE : request_of(t)->start_us + next);
}

static void deliver(struct transfer *t)
{
	struct request *r = request_of(t);
	struct answer answer = t->answer;

	trace("answer: request, end, status", t->request, (int64_t)answer.end, answer.status);
	CHECK(LISTENER, loop_is_current(t->xfer->loop), "the simulator delivers in the wrong loop");
	r->done_us = clock_now();
	r->answer = answer;
	sim.batches[r->batch].running--;
	sim.batches[r->batch].items[r->item].running--;
	account_answer(r);
	t->xfer->usage.live--;
	list_remove(&t->node);
	t->on_done(t->arg, &answer);
	free(t);
}

/* The last that a dead process hears; nothing of it is written down. */
static void deliver_to_dead(struct transfer *t)
{
	t->xfer->usage.live--;
	list_remove(&t->node);
	t->on_done(t->arg, &(struct answer){.end = ANSWER_CANCELLED, .retry_after_ms = RETRY_AFTER_NONE});
	free(t);
}

static void see(struct transfer *t)
{
	struct request *r = request_of(t);
	char bent[600];
	struct slice body = t->body;

	if (sim.plant == PLANT_CHANGES_BODIES && body.n > 0 && dice_chance(10)) {
		memcpy(bent, body.p, body.n);
		bent[body.n / 2] ^= 1;
		body.p = bent;
	}
	r->seen += sim.plant == PLANT_SENDS_TWICE && dice_chance(5) ? 2 : 1;
	trace("seen: batch, item, attempt", r->batch, r->item, r->n);
	check_seen(r, body);
}

static void write_now(struct transfer *t)
{
	t->script.at_write = NEVER;
	t->answer.wrote = true;
	t->answer.phase = PHASE_WAIT;
	request_of(t)->wrote_us = clock_now();
}

static void status_now(struct transfer *t)
{
	t->script.at_status = NEVER;
	t->answer.status = t->script.status;
	t->answer.phase = PHASE_RECEIVE;
	if (dice_chance(50))
		t->answer.retry_after_ms = t->script.retry_after_ms;
}

static void end_now(struct transfer *t)
{
	t->script.at_end = NEVER;
	t->ended = true;
	t->answer.end = t->script.end;
	t->answer.retry_after_ms = t->answer.status == 0 ? RETRY_AFTER_NONE : t->script.retry_after_ms;
	if (t->script.wrote_anyway && !t->answer.wrote)
		write_now(t);
	if (t->answer.end == ANSWER_COMPLETE)
		t->answer.body = slice_str(t->script.body);
	event_at(&t->event, clock_now() + dice_between(0, sim.set.turn_us));
}

static bool is_due(int64_t at, int64_t now)
{
	return at != NEVER && at <= now;
}

static void on_event(struct event *e)
{
	struct transfer *t = container_of(e, struct transfer, event);
	int64_t now;

	if (sim.dead) {
		deliver_to_dead(t);
		return;
	}
	now = clock_now() - request_of(t)->start_us;
	if (t->cancelled || t->ended) {
		deliver(t);
		return;
	}
	if (is_due(t->script.at_write, now))
		write_now(t);
	if (is_due(t->script.at_seen, now)) {
		t->script.at_seen = NEVER;
		see(t);
	}
	if (is_due(t->script.at_status, now))
		status_now(t);
	if (is_due(t->script.at_end, now))
		end_now(t);
	else
		set_event(t);
}

/* The request takes its place in the ledger. */
unsigned ledger_add(const struct request *r)
{
	struct sim_item *it = &sim.batches[r->batch].items[r->item];
	unsigned at = sim.n_requests++;

	if (at == sim.cap_requests) {
		sim.cap_requests = MAX(2 * sim.cap_requests, 64u);
		sim.requests = realloc(sim.requests, sim.cap_requests * sizeof *sim.requests);
		REQUIRE(sim.requests != NULL);
	}
	sim.requests[at] = *r;
	if (it->last >= 0)
		sim.requests[it->last].next = (int)at;
	else
		it->first = (int)at;
	it->last = (int)at;
	return at;
}

static struct transfer *start_of_dead(struct xfer *x, void (*on_done)(void *arg, const struct answer *answer), void *arg)
{
	struct transfer *t = xcalloc(1, sizeof *t);

	*t = (struct transfer){.xfer = x, .on_done = on_done, .arg = arg};
	x->usage.live++;
	list_append(&x->live, &t->node);
	event_init(&t->event, x->loop, on_event);
	event_at(&t->event, clock_now());
	return t;
}

struct transfer *xfer_start(struct xfer *x, const struct exchange *e,
			    void (*on_done)(void *arg, const struct answer *answer), void *arg)
{
	struct request r = {.shard = x->shard, .start_us = clock_now(), .wrote_us = NEVER, .cancel_us = NEVER,
			    .done_us = NEVER, .next = -1, .account = -1, .lane = -1};
	struct script script = {.retry_after_ms = RETRY_AFTER_NONE};
	struct transfer *t;
	unsigned at;

	if (sim.dead)
		return start_of_dead(x, on_done, arg);
	CHECK(LISTENER, loop_is_current(x->loop), "a transfer is started from another loop");
	check_start(&r, e);
	account_start(&r);
	sim.script(&r, &script);
	r.recorded = !script.no_memory;
	r.answer.retry_after_ms = RETRY_AFTER_NONE;
	if (script.no_memory) {
		cover_race(RACE_NO_MEMORY);
		r.done_us = r.start_us;
		r.answer.end = ANSWER_NO_CONNECTION;
		at = ledger_add(&r);
		account_answer(&sim.requests[at]);
		return NULL;
	}
	at = ledger_add(&r);
	t = xcalloc(1, sizeof *t);
	*t = (struct transfer){.xfer = x, .script = script, .body = e->body, .on_done = on_done, .arg = arg,
			       .request = at,
			       .answer = {.phase = PHASE_CONNECT, .retry_after_ms = RETRY_AFTER_NONE}};
	check_running(request_of(t));
	x->usage.live++;
	list_append(&x->live, &t->node);
	event_init(&t->event, x->loop, on_event);
	set_event(t);
	return t;
}

/* What was written may still arrive, although nobody waits for its answer. */
static void arrive_late(struct transfer *t)
{
	if (t->answer.wrote && t->script.at_seen != NEVER && dice_chance(50)) {
		cover_race(RACE_SEEN_AFTER_CANCEL);
		see(t);
	}
	t->script.at_seen = NEVER;
}

/* The process dies: what it wrote is under way, its connections are gone. */
void xfer_cut(struct xfer *x)
{
	list_foreach(node, &x->live) {
		struct transfer *t = list_entry(node, struct transfer, node);

		trace("cut: batch, item, attempt", request_of(t)->batch, request_of(t)->item, request_of(t)->n);
		arrive_late(t);
		event_at(&t->event, clock_now());
	}
}

void xfer_cancel(struct transfer *t)
{
	struct request *r = request_of(t);

	if (sim.dead)
		return;
	CHECK(LISTENER, loop_is_current(t->xfer->loop), "a transfer is cancelled from another loop");
	if (t->cancelled || (sim.plant == PLANT_LOSES_CANCELS && dice_chance(10)))
		return;
	t->cancelled = true;
	r->cancel_us = clock_now();
	trace("cancel: batch, item, attempt", r->batch, r->item, r->n);
	if (t->ended) {
		cover_race(RACE_ANSWER_UNDER_WAY);
		if (dice_chance(50))
			return;
		t->answer.body.n = 0;
	}
	arrive_late(t);
	if (t->answer.status != 0)
		cover_race(RACE_STATUS_BEFORE_CANCEL);
	else
		cover_race(t->answer.wrote ? RACE_CANCEL_WRITTEN : RACE_CANCEL_UNWRITTEN);
	t->answer.end = ANSWER_CANCELLED;
	event_at(&t->event, clock_now() + dice_between(0, sim.set.turn_us));
}
