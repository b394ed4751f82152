/*
 * Who is let in, who is refused and who is shed: the unfinished items of the
 * process, of each service and of each tenant, counted anew each time.
 */
#include <errno.h>

#include "sim.h"

enum { ANY = -1 };

/* Does somebody wait for it, so that its items are counted in memory? */
static bool is_counted(const struct sim_batch *b)
{
	return !b->asynchronous || b->want.continue_on_disconnect;
}

/* Surely, or perhaps: what the store refused goes when its shard hears of it, and a job
 * that left memory and came back is not counted any more. */
enum how_many { AT_LEAST, AT_MOST };

static bool is_here(const struct sim_batch *b, enum how_many how)
{
	if (!b->submitted || b->life != sim.life || b->done)
		return false;
	return how == AT_MOST ? b->fate != FATE_ABSENT || !b->answered : b->fate != FATE_ABSENT && !b->asynchronous;
}

static bool is_open(const struct sim_batch *b, unsigned i)
{
	return b->durable ? b->items[i].state != ITEM_FINAL : b->b->items[i].state != ITEM_FINAL;
}

static bool may_be_shed(const struct sim_batch *b)
{
	return b->want.contract == CONTRACT_BEST_EFFORT && is_counted(b);
}

/* Unfinished items whose callers wait: of a service, of a tenant, or of best_effort batches alone. */
static uint64_t held(int service, int tenant, bool sheddable, enum how_many how)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < sim.n_batches; i++) {
		const struct sim_batch *b = &sim.batches[i];

		if (!is_here(b, how) || !is_counted(b) || (sheddable && !may_be_shed(b)) ||
		    (tenant != ANY && (unsigned)tenant != b->tenant))
			continue;
		for (unsigned j = 0; j < b->n_items; j++)
			n += is_open(b, j) && (service == ANY || b->items[j].service == service);
	}
	return n;
}

static unsigned asked_of(const struct sim_batch *b, int service)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->n_items; i++)
		n += !b->items[i].invalid && (service == ANY || b->items[i].service == service);
	return n;
}

/* The part of a bound that a batch may fill. */
static uint64_t part_of(const struct sim_batch *b, uint64_t limit)
{
	unsigned parts = b->want.contract == CONTRACT_BEST_EFFORT ? 40 : 41 + b->want.priority;

	return (limit * parts + 49) / 50;
}

/* Its tenant would have more than its part of the items with the batch: surely, or perhaps. What
 * may be shed is left to batches that may not, and may go over it, as it gives way. */
static bool tenant_has_its_part(const struct sim_batch *b, enum how_many how)
{
	uint64_t of = held(ANY, (int)b->tenant, false, how), all = held(ANY, ANY, false, how);
	uint64_t sheddable = held(ANY, ANY, true, how == AT_LEAST ? AT_MOST : AT_LEAST);
	uint64_t part = part_of(b, sim.config.limits.queued_items) + (may_be_shed(b) ? 0 : sheddable);
	uint64_t left = part - MIN(all, part), n = asked_of(b, ANY), more = 2 * n;

	/* One by one each is held and not left any more; more than a quarter counts as one. */
	if (how == AT_LEAST)
		more = n == 0 || may_be_shed(b) ? 0 : MIN(2 * (n - 1), left / 2);
	return of > 0 && of + more >= left;
}

/* Is there a bound that the batch would have gone over, all of it? */
static bool is_too_much(const struct sim_batch *b)
{
	uint64_t limit = sim.config.limits.queued_items, before = held(ANY, ANY, false, AT_MOST), part = part_of(b, limit);

	if (before + asked_of(b, ANY) > part)
		return true;
	for (unsigned s = 0; s < sim.config.n_services; s++) {
		uint64_t of = held((int)s, ANY, false, AT_MOST), asked = asked_of(b, (int)s), most = sim.services[s].max_queued;

		if (asked > 0 && most > 0 && of + asked > part_of(b, most))
			return true;
		/* Its items of services before it are taken first. */
		if (asked > 0 && of > 0 && sim.config.n_services > 1 && of + before + 2 * asked_of(b, ANY) >= part)
			return true;
	}
	return tenant_has_its_part(b, AT_MOST);
}

/* Four fifths are taken: best_effort has no part in the rest. */
static bool is_above_mark(uint64_t items)
{
	return 5 * items > 4 * (uint64_t)sim.config.limits.queued_items + 4;
}

/* Before it is submitted. */
void room_before(struct sim_batch *b)
{
	b->too_much = is_counted(b) && is_too_much(b);
	b->has_part = is_counted(b) && tenant_has_its_part(b, AT_LEAST);
	b->may_have_part = is_counted(b) && tenant_has_its_part(b, AT_MOST);
	if (held(ANY, ANY, false, AT_MOST) == 0)
		sim.must_shed = false;
	b->needs_room = is_counted(b) && held(ANY, ANY, true, AT_LEAST) > 0 &&
			is_above_mark(held(ANY, ANY, false, AT_LEAST) + asked_of(b, ANY));
	sim.crowded |= b->too_much || (is_counted(b) && is_above_mark(held(ANY, ANY, false, AT_MOST) + asked_of(b, ANY)));
}

static unsigned shed_of(const struct sim_batch *b, const struct batch *real)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->n_items; i++)
		n += real->items[i].stop == STOP_SHED;
	return n;
}

/* A plain batch whose process ended is open until its note is. */
static bool is_queued(const struct sim_batch *b, unsigned i, enum how_many how)
{
	if (!b->submitted || b->fate == FATE_ABSENT)
		return b->submitted && how == AT_MOST && !b->answered && b->items[i].state != ITEM_FINAL;
	if (!b->durable && b->note_open)
		return !b->finish_kept && !b->items[i].invalid && !b->items[i].shed;
	return (b->durable ? !b->finish_asked : !b->done) && is_open(b, i);
}

static uint64_t queued_of(unsigned tenant, enum how_many how)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < sim.n_batches; i++)
		for (unsigned j = 0; sim.batches[i].tenant == tenant && j < sim.batches[i].n_items; j++)
			n += is_queued(&sim.batches[i], j, how);
	return n;
}

static void check_bounds(void)
{
	uint64_t all = held(ANY, ANY, false, AT_LEAST), sheddable = held(ANY, ANY, true, AT_MOST);

	CHECK(ADMISSION, all <= sim.config.limits.queued_items + sheddable, "%llu unfinished items", (unsigned long long)all);
	for (unsigned s = 0; s < sim.config.n_services; s++) {
		uint64_t of = held((int)s, ANY, false, AT_LEAST), most = sim.services[s].max_queued;

		CHECK(ADMISSION, most == 0 || of <= most, "%llu unfinished items of service %u", (unsigned long long)of, s);
	}
}

static void check_refused(const struct sim_batch *b)
{
	const char *why = dispatch_last_refusal(sim.dispatches[b->shard]).detail;
	unsigned most = sim.tenants[b->tenant].queued_items;

	if (b->refused == -ESHUTDOWN) {
		CHECK(ADMISSION, sim.draining[b->shard], "refused as if draining");
		cover_race(RACE_SHUTDOWN_REFUSED);
	} else if (b->refused == -EDQUOT) {
		CHECK(ADMISSION, most > 0 && queued_of(b->tenant, AT_MOST) + asked_of(b, ANY) > most,
		      "refused for its tenant's sake");
		cover_race(RACE_TENANT_FULL);
	} else {
		CHECK(ADMISSION, b->refused == -EBUSY && b->too_much, "refused with %d", b->refused);
		CHECK(SHED, b->want.contract != CONTRACT_BEST_EFFORT, "best_effort is refused");
		CHECK(ADMISSION, b->may_have_part || strstr(why, "of its tenant") == NULL, "its tenant is blamed");
		cover_race(strstr(why, "of its tenant") == NULL ? RACE_BUSY : RACE_TENANT_HAS_PART);
	}
}

/* It was submitted, and this is what became of it. */
void room_after(const struct sim_batch *b, const struct batch *real)
{
	unsigned most = sim.tenants[b->tenant].queued_items, shed = b->refused == 0 ? shed_of(b, real) : 0;

	sim.must_shed |= b->needs_room && (b->refused == 0 || b->refused == -EBUSY);
	if (b->refused != 0) {
		check_refused(b);
		return;
	}
	CHECK(ADMISSION, !sim.draining[b->shard], "accepted while draining");
	/* A shard that goes down leaves its jobs, and their places, to the next process. */
	CHECK(ADMISSION, most == 0 || world_goes_down() || queued_of(b->tenant, AT_LEAST) <= most,
	      "%llu unfinished items of tenant %u", (unsigned long long)queued_of(b->tenant, AT_LEAST), b->tenant);
	CHECK(ADMISSION, !b->has_part || shed == asked_of(b, ANY), "its tenant takes more than its part");
	CHECK(SHED, shed == 0 || (may_be_shed(b) && b->too_much), "%u items are shed, and there is room", shed);
	if (shed > 0)
		cover_race(RACE_SHED_AT_ONCE);
	check_bounds();
}

/* An item of the batch was shed while it waited. */
void check_shed(const struct sim_batch *b, unsigned i)
{
	CHECK(SHED, may_be_shed(b) && sim.crowded, "item %u is shed, and there is room", i);
	if (!b->items[i].shed)
		cover_race(RACE_SHED_LATER);
}

/* In flight they cannot be shed: they are on their way out, or will be. */
static uint64_t sheddable_in_flight(void)
{
	uint64_t n = 0;

	for (unsigned i = 0; i < sim.n_batches; i++)
		n += may_be_shed(&sim.batches[i]) ? sim.batches[i].running : 0;
	return n;
}

/* Nothing happens: then best_effort has made room, or has none to make. */
void check_room(void)
{
	int64_t quiet = clock_now() - 4 * sim.set.delay_us - 16 * sim.set.turn_us;

	if (!sim.must_shed || !sim.exact || sim.last_us >= quiet ||
	    !is_above_mark(held(ANY, ANY, false, AT_LEAST) - MIN(sheddable_in_flight(), held(ANY, ANY, false, AT_LEAST))))
		return;
	for (unsigned i = 0; i < sim.n_batches; i++) {
		const struct sim_batch *b = &sim.batches[i];

		for (unsigned j = 0; is_here(b, AT_LEAST) && may_be_shed(b) && !b->durable && j < b->n_items; j++)
			CHECK(SHED, !is_open(b, j) || b->items[j].running > 0,
			      "item %u of best_effort waits, and the process is full", j);
	}
}

static void check_efforts_gone(const struct effort_load *of, const char *which)
{
	CHECK(LEAK, atomic_load(&of->items) == 0 && atomic_load(&of->callers) == 0 && atomic_load(&of->bytes) == 0,
	      "%u items, %u callers and %zu bytes that %s shed", atomic_load(&of->items), atomic_load(&of->callers),
	      atomic_load(&of->bytes), which);
}

/* What is counted when the process is done. */
void room_close(void)
{
	const struct dispatch_group *g = &sim.group;

	for (unsigned t = 0; t < sim.config.n_tenants; t++) {
		const struct dispatch_tenant *of = &g->tenants.of[t];

		CHECK(LEAK, atomic_load(&of->queued) == 0, "tenant %u: %llu items queued", t,
		      (unsigned long long)atomic_load(&of->queued));
		CHECK(LEAK, atomic_load(&of->unfinished) == 0 && atomic_load(&of->callers) == 0 && atomic_load(&of->bytes) == 0,
		      "tenant %u: %u items, %u callers", t, atomic_load(&of->unfinished), atomic_load(&of->callers));
	}
	CHECK(LEAK, atomic_load(&g->unfinished) == 0 && atomic_load(&g->callers) == 0, "%u items, %u callers",
	      atomic_load(&g->unfinished), atomic_load(&g->callers));
	for (unsigned s = 0; s < sim.config.n_services; s++)
		CHECK(LEAK, atomic_load(&g->loads[s].items) == 0 && atomic_load(&g->loads[s].batches) == 0 &&
				    atomic_load(&g->loads[s].bytes) == 0,
		      "service %u: %u items, %u batches", s, atomic_load(&g->loads[s].items), atomic_load(&g->loads[s].batches));
	for (unsigned p = 0; p <= PRIORITY_MAX; p++)
		check_efforts_gone(&g->sheddable[p], "may be");
	check_efforts_gone(&g->shedding, "are being");
}
