/*
 * The checks of what the dispatcher asks of the store. Every step of a durable
 * batch passes here, so this is also where the simulator learns of it: what was
 * asked for is what the dispatcher believes, what was answered is what survives.
 */
#include "sim.h"

static struct sim_batch *batch_by_id(struct batch_id id)
{
	for (unsigned i = 0; i < sim.n_batches; i++) {
		struct sim_batch *b = &sim.batches[i];

		if (b->durable && b->fate != FATE_NONE && batch_id_eq(b->id, id))
			return b;
	}
	return NULL;
}

static struct sim_batch *batch_by_row(int64_t row)
{
	for (unsigned i = 0; i < sim.n_batches; i++)
		if (sim.batches[i].fate == FATE_KEPT && sim.batches[i].row == row)
			return &sim.batches[i];
	return NULL;
}

static struct sim_batch *batch_by_pointer(const struct batch *real)
{
	for (unsigned i = 0; i < sim.n_batches; i++)
		if (sim.batches[i].b == real)
			return &sim.batches[i];
	return NULL;
}

static unsigned number(const struct sim_batch *b)
{
	return (unsigned)(b - sim.batches);
}

static struct sim_batch *plain_by_id(struct batch_id id)
{
	for (unsigned i = 0; i < sim.n_batches; i++)
		if (!sim.batches[i].durable && sim.batches[i].submitted && batch_id_eq(sim.batches[i].id, id))
			return &sim.batches[i];
	return NULL;
}

/* ---- acceptance ---- */

/* What the simulator knows of an item is what was last said of it. */
static void note_item(struct sim_item *si, const struct item *it)
{
	si->state = it->state;
	si->attempts = it->attempts;
	si->refused = it->refused;
	si->delivered = it->delivered;
	si->code = it->code;
	si->stop = it->stop;
	si->status = it->status;
	si->duplicate_risk = it->duplicate_risk;
	si->due_unix_ms = it->state == ITEM_WAITING ? it->due_unix_ms : 0;
	if (it->state == ITEM_FINAL)
		si->final_us = clock_now();
}

static void keep_item(struct sim_item *si, const struct item *it)
{
	si->kept = (struct step){
		.state = it->state, .attempts = it->attempts, .refused = it->refused, .delivered = it->delivered,
		.code = it->code, .stop = it->stop, .status = it->status, .duplicate_risk = it->duplicate_risk,
		.due_unix_ms = it->state == ITEM_WAITING ? it->due_unix_ms : 0,
	};
	si->kept_final_us = si->final_us;
	si->claim_kept = false;
}

static void accept_asked(const struct store_accept *a)
{
	struct sim_batch *b = batch_by_pointer(a->batch);
	uint32_t refused = 0;

	if (!a->batch->durable)
		return;
	CHECK(UPDATE, b != NULL && b->durable && b->fate == FATE_NONE, "a batch is accepted that nobody submitted");
	b->fate = FATE_ASKED;
	b->id = a->batch->id;
	for (unsigned i = 0; i < b->n_items; i++) {
		note_item(&b->items[i], &a->batch->items[i]);
		refused += b->items[i].invalid || model_shed(b, &a->batch->items[i]);
	}
	b->pending = b->n_items - refused;
	b->settled_steps = refused;
	CHECK(UPDATE, a->n_settled == refused && a->batch->counts.pending == b->pending,
	      "batch %u: %u items are final at acceptance", number(b), a->n_settled);
	trace("ask for accept: batch, items", number(b), b->n_items, 0);
}

/* A tenant's keys are its own. */
static struct sim_batch *holder_of(const struct sim_batch *b)
{
	for (unsigned i = 0; b->key != 0 && i < sim.n_batches; i++)
		if (sim.batches[i].key == b->key && sim.batches[i].tenant == b->tenant && sim.batches[i].fate == FATE_KEPT)
			return &sim.batches[i];
	return NULL;
}

static void note_kept(const struct store_accept *a)
{
	struct sim_batch *b = plain_by_id(a->batch->id);

	CHECK(UPDATE, b != NULL, "a note of nothing");
	b->noted = true;
}

static void accept_answered(const struct store_accept *a)
{
	struct sim_batch *b = a->batch->durable ? batch_by_id(a->batch->id) : NULL;
	const struct sim_batch *holder;

	if (!a->batch->durable && a->op.answer == STORE_OK)
		note_kept(a);
	if (b == NULL)
		return;
	holder = holder_of(b);
	b->accept_said_us = clock_now();
	trace("accept answered: batch, answer", number(b), a->op.answer, 0);
	if (a->op.answer == STORE_KEY_EXISTS)
		CHECK(KEPT, holder != NULL && batch_id_eq(holder->id, a->existing) &&
			    a->same_body == (holder->body == b->body),
		      "batch %u: its key is said to be taken", number(b));
	if (a->op.answer != STORE_OK) {
		b->fate = FATE_ABSENT;
		return;
	}
	CHECK(KEPT, holder == NULL, "batch %u: its key is taken twice", number(b));
	b->fate = FATE_KEPT;
	b->row = a->batch->store_row;
	for (unsigned i = 0; i < b->n_items; i++)
		keep_item(&b->items[i], &a->batch->items[i]);
}

/* ---- claims ---- */

static bool may_start(const struct sim_batch *b, const struct sim_item *si)
{
	return si->claim_unstarted && clock_now() < MIN(model_ttl_us(b, si), model_deadline_us(b)) - model_slack_us(b);
}

/* Has the lane refused lately, so that claimed ones may be on their way back? */
static bool may_be_refused(const struct sim_item *si)
{
	int64_t slack = 2 * sim.set.delay_us + 8 * sim.set.turn_us;

	return account_refused_since(si, sim.stalls ? 0 : clock_now() - slack);
}

/* Those that may not start any more are on their way back, and hold no place in the lane. */
static unsigned unused_claims(const struct sim_item *like)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sim.n_batches; i++) {
		const struct sim_batch *b = &sim.batches[i];

		for (unsigned j = 0; b->fate == FATE_KEPT && b->end.why == WHY_NONE && !model_may_shed(b) && j < b->n_items; j++)
			n += may_start(b, &b->items[j]) && b->items[j].service == like->service &&
			     slice_eq(model_origin(&b->items[j]), model_origin(like));
	}
	return n;
}

static void claim_asked(const struct store_claim *c)
{
	struct sim_batch *b = batch_by_row(c->row);
	struct sim_item *si;

	CHECK(CLAIM, b != NULL && c->index < b->n_items && !b->finish_asked, "a claim of row %lld, item %u",
	      (long long)c->row, c->index);
	si = &b->items[c->index];
	trace("ask for claim: batch, item", number(b), c->index, 0);
	CHECK(CLAIM, !si->claimed, "item %u is claimed twice, and nothing was said of it between", c->index);
	CHECK(STICKY, si->state != ITEM_FINAL, "a final item is claimed");
	CHECK(CLAIM, c->synced == b->want.at_most_once, "batch %u: a claim is synced: %d", number(b), c->synced);
	si->claimed = si->claim_unstarted = true;
	si->claim_life = sim.life;
	CHECK(CLAIM, world_goes_down() || may_be_refused(si) || unused_claims(si) <= sim.services[si->service].max_in_flight,
	      "%u attempts of a lane are claimed and not started", unused_claims(si));
}

static void claim_answered(const struct store_claim *c)
{
	struct sim_batch *b = batch_by_row(c->row);

	trace("claim kept: batch, item", number(b), c->index, 0);
	CHECK(UPDATE, c->op.answer == STORE_OK, "a claim is answered with %d", (int)c->op.answer);
	b->items[c->index].claim_kept = true;
	b->items[c->index].claim_used = false;
}

/* ---- updates ---- */

static void check_counts(const struct sim_batch *b, const struct store_update *u)
{
	const struct counts *c = &u->counts;
	unsigned n[STATUS_MAX] = {0}, pending = 0;

	for (unsigned i = 0; i < b->n_items; i++) {
		if (b->items[i].state == ITEM_FINAL)
			n[b->items[i].status]++;
		else
			pending++;
	}
	CHECK(UPDATE,
	      c->total == b->n_items && c->pending == pending && c->succeeded == n[STATUS_SUCCEEDED] &&
		      c->failed == n[STATUS_FAILED] && c->indeterminate == n[STATUS_INDETERMINATE] &&
		      c->not_attempted == n[STATUS_NOT_ATTEMPTED],
	      "batch %u: an update's counts are not those of the items", number(b));
}

/* The wait that is written down: within the jitter, and the downstream's wish. */
static void check_due(const struct sim_batch *b, const struct sim_item *si, const struct item *it)
{
	int64_t bound = model_backoff_ms(b, si), wish = model_wish_ms(si), wait;

	CHECK(UPDATE, si->last >= 0 || si->refused > 0, "an item waits that was never tried");
	wait = it->due_unix_ms - clock_to_unix_ms(si->tried_us);
	/* What should have begun already begins now. */
	CHECK(RETRY_WAIT,
	      (wait + 1 >= wish || si->refused_last) &&
		      (wait <= MAX(bound, wish) + 1 || it->due_unix_ms <= clock_unix_ms()),
	      "a wait of %lld ms, %lld at most", (long long)wait, (long long)MAX(bound, wish));
	CHECK(RETRY_WAIT,
	      it->due_unix_ms <= clock_to_unix_ms(MIN(model_deadline_us(b), model_ttl_us(b, si))) + 2 ||
		      it->due_unix_ms <= clock_unix_ms(),
	      "a wait that ends after the item's deadline");
}

static void check_progress(const struct sim_batch *b, struct sim_item *si, const struct item *it, unsigned n)
{
	struct request *last = si->last < 0 ? NULL : &sim.requests[si->last];
	bool tried;

	CHECK(STICKY, si->state != ITEM_FINAL, "item %u: an update of a final item", n);
	CHECK(STICKY, it->delivered >= si->delivered, "item %u: delivered went down", n);
	CHECK(UPDATE, si->running == 0, "item %u: an update while its attempt runs", n);
	CHECK(ATTEMPTS, it->attempts == si->starts, "item %u: %u attempts told, %u started", n, it->attempts,
	      si->starts);
	CHECK(DUPLICATE, !it->duplicate_risk || it->attempts >= 2, "item %u: after one attempt", n);
	CHECK(UPDATE, it->state != ITEM_QUEUED, "item %u: an update with no news", n);
	if (last != NULL && last->interrupted && last->done_us == NEVER)
		last->done_us = clock_now();
	tried = it->attempts != si->attempts || it->refused != si->refused;
	note_try(b, si, it);
	if (it->state != ITEM_WAITING || it->due_unix_ms == si->due_unix_ms)
		return;
	if (tried)
		check_due(b, si, it);
	else
		CHECK(HELD, it->due_unix_ms <= clock_unix_ms() ||
				    (was_held(si) && it->due_unix_ms <= clock_to_unix_ms(account_paused_us(si)) + 1),
		      "item %u waits for %lld ms, and its lane does not pause", n, (long long)(it->due_unix_ms - clock_unix_ms()));
}

static void update_asked(const struct store_update *u)
{
	struct sim_batch *b = batch_by_id(u->batch->id);
	const struct item *it = &u->item;
	struct sim_item *si;

	CHECK(UPDATE, b != NULL && b->fate == FATE_KEPT && !b->finish_asked && it->index < b->n_items,
	      "an update of a batch that is not kept");
	si = &b->items[it->index];
	notice_end(b);
	trace("ask for update: batch, item, state", number(b), it->index, it->state);
	check_progress(b, si, it, it->index);
	note_item(si, it);
	si->claimed = si->claim_unstarted = false;
	if (it->state == ITEM_FINAL) {
		b->pending--;
		b->settled_steps++;
		si->lacked_budget = model_lacks_budget(b, si);
		trace("final: item, code, stop", it->index, it->code, it->stop);
		CHECK(SHUTDOWN, it->stop != STOP_SHUTDOWN || !b->asynchronous, "item %u is settled by a shutdown",
		      it->index);
		check_final(b, it, it->index);
	}
	notice_end(b);
	CHECK(UPDATE, u->seq == (it->state == ITEM_FINAL ? b->settled_steps : 0), "item %u: place %u, not %u",
	      it->index, u->seq, b->settled_steps);
	check_counts(b, u);
}

static void update_answered(const struct store_update *u)
{
	struct sim_batch *b = batch_by_id(u->batch->id);

	b->changed_us = clock_now();
	CHECK(UPDATE, u->op.answer == STORE_OK, "an update is answered with %d", (int)u->op.answer);
	keep_item(&b->items[u->item.index], &u->item);
	b->items[u->item.index].claim_kept = false;
}

/* ---- the end, and leaving memory ---- */

static void finish_asked(const struct store_finish *f)
{
	struct sim_batch *b = f->batch->durable ? batch_by_id(f->batch->id) : NULL;

	CHECK(UPDATE, f->batch->state == BATCH_DONE, "the end of a batch that is not done");
	if (!f->batch->durable)
		return;
	CHECK(UPDATE, b != NULL && b->fate == FATE_KEPT && !b->finish_asked, "the end of a batch that is not kept");
	CHECK(UPDATE, b->pending == 0, "batch %u ends with %u items to be written", number(b), b->pending);
	CHECK(SHUTDOWN, !b->asynchronous || f->batch->stop_reason != STOP_REASON_SHUTDOWN,
	      "batch %u is ended by a shutdown", number(b));
	b->finish_asked = true;
	b->done_us = clock_now();
	trace("ask for finish: batch", number(b), 0, 0);
}

static void finish_answered(const struct store_finish *f)
{
	struct sim_batch *b = f->batch->durable ? batch_by_id(f->batch->id) : plain_by_id(f->batch->id);

	CHECK(UPDATE, b != NULL, "the end of nothing is kept");
	if (!b->durable) {
		b->finish_kept = f->op.answer == STORE_OK;
		b->finish_refused = !b->finish_kept;
		if (b->finish_kept)
			check_plain_end(b);
		return;
	}
	CHECK(UPDATE, f->op.answer == STORE_OK, "an end is answered with %d", (int)f->op.answer);
	b->finish_kept = true;
	b->finish_kept_us = clock_now();
	check_kept_end(b);
}

/* When there is something to be done for the item, at the latest: in its own time, or
 * when its lane goes on. */
static int64_t wanted_ms(const struct sim_item *si)
{
	int64_t due_ms = si->state == ITEM_WAITING ? si->due_unix_ms : clock_unix_ms();

	return was_held(si) ? MAX(due_ms, clock_to_unix_ms(account_paused_us(si))) : due_ms;
}

static void park_asked(const struct store_park *p)
{
	struct sim_batch *b = batch_by_row(p->row);
	int64_t first = INT64_MAX;

	CHECK(PARK, b != NULL && !b->finish_asked, "row %lld is parked", (long long)p->row);
	/* Wanted at once: it stays, and who asks learns that all before is kept. */
	if (p->due_unix_ms == 0)
		return;
	CHECK(PARK, b->asynchronous, "row %lld is parked, and its caller waits", (long long)p->row);
	trace("ask for park: batch, due in", number(b), p->due_unix_ms - clock_unix_ms(), 0);
	cover_race(RACE_PARKED);
	for (unsigned i = 0; i < b->n_items; i++) {
		const struct sim_item *si = &b->items[i];

		CHECK(PARK, si->running == 0 && !si->claimed, "item %u is under way", i);
		if (si->state != ITEM_FINAL && (!b->want.sequential || first == INT64_MAX))
			first = MIN(first, wanted_ms(si));
	}
	CHECK(PARK, p->due_unix_ms <= first + 1 || sim.down, "batch %u is parked for %lld ms too long", number(b),
	      (long long)(p->due_unix_ms - first));
	b->asleep_unix_ms = p->due_unix_ms;
}

static void read_answered(struct store_read *r)
{
	struct sim_batch *b = batch_by_id(r->id);

	if (!r->letters || r->op.answer == STORE_UNAVAILABLE || (b == NULL && plain_by_id(r->id) != NULL))
		return;
	CHECK(KEPT, b != NULL && b->fate == FATE_KEPT && r->op.answer == STORE_OK, "a batch is loaded that is not kept");
	trace("loaded: batch, items", number(b), r->batch->n_items, 0);
	b->reloaded = true;
	cover_race(RACE_LOADED);
}

void store_asked(struct store_op *op)
{
	switch (op->what) {
	case STORE_ACCEPT:
		accept_asked(container_of(op, struct store_accept, op));
		break;
	case STORE_CLAIM:
		claim_asked(container_of(op, struct store_claim, op));
		break;
	case STORE_UPDATE:
		update_asked(container_of(op, struct store_update, op));
		break;
	case STORE_FINISH:
		finish_asked(container_of(op, struct store_finish, op));
		break;
	case STORE_PARK:
		park_asked(container_of(op, struct store_park, op));
		break;
	case STORE_DELETE:
	case STORE_READ:
	case STORE_LIST:
		break;
	}
}

void store_answered(struct store_op *op)
{
	switch (op->what) {
	case STORE_ACCEPT:
		accept_answered(container_of(op, struct store_accept, op));
		break;
	case STORE_CLAIM:
		claim_answered(container_of(op, struct store_claim, op));
		break;
	case STORE_UPDATE:
		update_answered(container_of(op, struct store_update, op));
		break;
	case STORE_FINISH:
		finish_answered(container_of(op, struct store_finish, op));
		break;
	case STORE_READ:
		read_answered(container_of(op, struct store_read, op));
		break;
	case STORE_PARK:
	case STORE_DELETE:
	case STORE_LIST:
		break;
	}
}
