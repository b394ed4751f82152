/*
 * The checks of what the disk has: of a batch when its end is kept, and of every
 * batch after a process has died and at the end of the world. What is compared
 * with it is what was answered, never what the dispatcher remembers.
 */
#include "sim.h"

#include "wire/wire.h"

/* A letter is there until its item was delivered: a retry of the batch needs it. */
static void check_letter(const struct sim_item *si, const struct item *it, unsigned n)
{
	bool delivered = si->kept.state == ITEM_FINAL && si->kept.delivered == DELIVERED_YES;

	if (si->invalid)
		return;
	if (delivered) {
		CHECK(LETTER, it->payload.p == NULL, "item %u: its letter is kept, and it was delivered", n);
		return;
	}
	CHECK(LETTER, slice_eq(it->to, slice_str(si->to)) && slice_eq(it->payload, slice_str(si->payload)),
	      "item %u: its letter is lost, to %.*s: %.*s", n, (int)it->to.n, it->to.p, (int)it->payload.n,
	      it->payload.p);
	CHECK(LETTER, slice_eq(it->dedupe_key, slice_str(si->key)), "item %u: its key is lost", n);
}

static void check_kept_item(const struct sim_item *si, const struct item *it, unsigned n)
{
	const struct step *k = &si->kept;

	CHECK(KEPT, it->index == n && slice_eq(it->id, slice_str(si->id)), "item %u has another id", n);
	CHECK(KEPT, (it->state == ITEM_FINAL) == (k->state == ITEM_FINAL), "item %u: state %d, not %d", n, it->state,
	      k->state);
	CHECK(KEPT, it->attempts == k->attempts && it->refused == k->refused && it->delivered == k->delivered &&
		      it->duplicate_risk == k->duplicate_risk,
	      "item %u: %u attempts, %u refused, delivered %u", n, it->attempts, it->refused, it->delivered);
	if (it->attempts > 0 || it->state == ITEM_FINAL)
		CHECK(KEPT, it->code == k->code, "item %u: %s, not %s", n, code_str((enum code)it->code),
		      code_str((enum code)k->code));
	if (it->state == ITEM_FINAL)
		CHECK(KEPT, it->stop == k->stop && it->status == k->status, "item %u: stop %s", n,
		      stop_str((enum stop)it->stop));
	else
		CHECK(KEPT, (it->state == ITEM_WAITING ? it->due_unix_ms : 0) == k->due_unix_ms &&
			      atomic_load(&it->in_flight) == si->claim_kept,
		      "item %u: its wait or its claim", n);
	check_letter(si, it, n);
}

static void check_kept_batch(const struct sim_batch *b, const struct batch *real)
{
	CHECK(KEPT, real != NULL, "batch %u was accepted, and is not there", (unsigned)(b - sim.batches));
	CHECK(KEPT, real->n_items == b->n_items && real->counts.total == b->n_items, "%u items of %u", real->n_items,
	      b->n_items);
	CHECK(KEPT, real->durable && real->asynchronous == b->asynchronous && batch_id_eq(real->id, b->id),
	      "batch %u is another one", (unsigned)(b - sim.batches));
	CHECK(KEPT, (real->state == BATCH_DONE) == b->finish_kept, "batch %u: state %s",
	      (unsigned)(b - sim.batches), batch_state_str(real->state));
	for (unsigned i = 0; i < b->n_items; i++)
		check_kept_item(&b->items[i], &real->items[i], i);
}

/* Of a plain batch whose process ended: what was not final at its start may have
 * been sent, and more is not known. */
static void check_note_end(const struct sim_batch *b, const struct batch *real)
{
	const unsigned stops = 1u << STOP_INTERRUPTED | 1u << STOP_MAYBE_DELIVERED | 1u << STOP_MAX_ATTEMPTS |
			       1u << STOP_DEADLINE | 1u << STOP_TTL;

	unsigned open = 0;

	cover_race(RACE_NOTE_INTERRUPTED);
	for (unsigned i = 0; i < b->n_items; i++)
		open += !b->items[i].invalid && !b->items[i].shed;
	CHECK(KEPT, real->stop_reason == (open > 0 ? STOP_REASON_INTERRUPTED : STOP_REASON_COMPLETED),
	      "batch %u ends as %s", (unsigned)(b - sim.batches), stop_reason_str(real->stop_reason));
	for (unsigned i = 0; i < b->n_items; i++) {
		const struct item *it = &real->items[i];

		CHECK(KEPT, it->state == ITEM_FINAL && it->index == i, "item %u is not final", i);
		if (!b->items[i].invalid && !b->items[i].shed)
			CHECK(KEPT, it->code == CODE_INTERRUPTED && it->delivered == DELIVERED_MAYBE && stops >> it->stop & 1,
			      "item %u: %s, stop %s", i, code_str((enum code)it->code), stop_str((enum stop)it->stop));
	}
}

/* What was told of it from memory is what the disk has. */
void check_plain_end(struct sim_batch *b)
{
	struct batch *real = store_disk_look(sim.disk, b->id), *before = b->b;
	struct buf text = {0};

	CHECK(KEPT, real != NULL && real->state == BATCH_DONE && real->n_items == b->n_items,
	      "batch %u is done, and not kept", (unsigned)(b - sim.batches));
	if (b->note_open) {
		check_note_end(b, real);
	} else {
		b->b = real;
		wire_batch(&text, real, true);
		check_document(b, buf_slice(&text));
		buf_free(&text);
		b->b = before;
	}
	batch_unref(real);
}

static void check_plain(const struct sim_batch *b)
{
	struct batch *real;

	if (!b->submitted)
		return;
	real = store_disk_look(sim.disk, b->id);
	CHECK(KEPT, (real != NULL) == (b->noted || b->finish_kept), "batch %u: its note", (unsigned)(b - sim.batches));
	if (real != NULL)
		CHECK(KEPT, (real->state == BATCH_DONE) == b->finish_kept, "batch %u: state %s",
		      (unsigned)(b - sim.batches), batch_state_str(real->state));
	batch_unref(real);
}

/* As the disk has it. */
void check_kept(const struct sim_batch *b)
{
	struct batch *real;

	if (!b->durable)
		check_plain(b);
	if (b->fate == FATE_NONE)
		return;
	real = store_disk_look(sim.disk, b->id);
	if (b->fate == FATE_KEPT)
		check_kept_batch(b, real);
	else
		CHECK(KEPT, real == NULL, "batch %u was refused, and is there", (unsigned)(b - sim.batches));
	batch_unref(real);
}

/* The end is kept: from here on nothing of it may change. */
void check_kept_end(struct sim_batch *b)
{
	struct batch *before = b->b;
	struct buf text = {0};

	b->b = store_disk_look(sim.disk, b->id);
	check_kept_batch(b, b->b);
	check_end(b);
	wire_batch(&text, b->b, true);
	check_document(b, buf_slice(&text));
	buf_free(&text);
	cover_batch(b);
	batch_unref(b->b);
	b->b = before;
	b->done = true;
	trace("kept: batch", b - sim.batches, 0, 0);
}

/* It came a moment ago, or its shard may not have heard yet that it is kept. */
static bool is_new(const struct sim_batch *b)
{
	return b->fate == FATE_ASKED || sim.stalls ||
	       clock_now() <= b->accept_said_us + sim.set.delay_us + 4 * sim.set.turn_us;
}

/* It is over, and leaves when its shard hears that its end is kept. */
static bool is_leaving(const struct sim_batch *b)
{
	return b->finish_asked &&
	       (!b->finish_kept || clock_now() <= b->finish_kept_us + sim.set.delay_us + 4 * sim.set.turn_us);
}

static bool is_beyond(const struct sim_batch *b)
{
	if (!b->durable)
		return b->b != NULL || b->note_open;
	return !b->asynchronous || is_new(b) || is_leaving(b) || b->beyond || (b->end.reasons >> WHY_CANCELLED & 1) ||
	       model_deadline_us(b) - model_slack_us(b) <= clock_now();
}

/* What it takes, with a record of each attempt. */
static size_t bytes_of(const struct sim_batch *b)
{
	size_t n = b->bytes;

	for (unsigned i = 0; i < b->n_items; i++)
		n += b->items[i].starts * sizeof(struct attempt_record);
	return n;
}

/* Jobs in memory: within their room, but for one of each service in each shard, and
 * for those that somebody waits for, or that are fetched to be ended. */
void check_resident(void)
{
	size_t most = sim.config.limits.resident_bytes, largest = 0, held = atomic_load(&sim.group.held_bytes);
	size_t alone = sim.n_shards * sim.config.n_services;

	if (held <= most)
		return;
	for (unsigned i = 0; i < sim.n_batches; i++) {
		const struct sim_batch *b = &sim.batches[i];

		if (is_beyond(b))
			most += bytes_of(b);
		else if (b->asynchronous)
			largest = MAX(largest, bytes_of(b));
	}
	CHECK(RESIDENT, held <= most + alone * largest, "%zu bytes held, %zu allowed", held,
	      most + alone * largest);
}
