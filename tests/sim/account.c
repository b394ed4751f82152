/*
 * What each origin may be sent, reckoned from the wire alone: when its attempts
 * started and how they were answered, since this process began. Slow and plain on
 * purpose: windows are counted anew in the ledger each time.
 *
 * Where an origin has several lanes, rate and budget are judged over all of them. Of
 * each lane there is an account, too: of its breaker, and of what may hold it up.
 * Lanes are told apart by their shards; with fewer shards than lanes little is known.
 *
 * Rate: a bucket with a hole, which is the same as "at most burst + rate * w over
 * any window w". Breaker: the states and slots of core/breaker.h. Budget: repeats
 * against first attempts, over the window that ends now.
 */
#include "sim.h"

enum { SLOTS = 10, ROUNDING_US = 5 };

/* ---- whose ---- */

static bool is_known(int service)
{
	return sim.services[service].lanes <= sim.n_shards;
}

static struct account *account_get(int service, struct slice origin, int shard)
{
	struct account *a = sim.accounts;

	while (a < sim.accounts + sim.n_accounts &&
	       (a->service != service || a->shard != shard || !slice_eq(a->origin, origin)))
		a++;
	if (a < sim.accounts + sim.n_accounts)
		return a;
	REQUIRE(sim.n_accounts++ < MAX_ACCOUNTS);
	*a = (struct account){.service = service, .origin = origin, .shard = shard, .level_us = clock_now(),
			      .paused_us = NEVER, .told_us = NEVER, .heard_us = NEVER, .until_us = NEVER,
			      .refused_us = NEVER, .unsure = !is_known(service)};
	return a;
}

static struct account *account_of(const struct sim_item *it)
{
	return account_get(it->service, model_origin(it), NEVER);
}

static struct account *lane_of(const struct sim_item *it, unsigned shard)
{
	return account_get(it->service, model_origin(it), sim.services[it->service].lanes > 1 ? (int)shard : NEVER);
}

/* A new process knows nothing of what its lanes did before. */
void account_forget(void)
{
	sim.n_accounts = 0;
}

static const struct service *service_of(const struct account *a)
{
	return &sim.services[a->service];
}

/* Is the request one of this lane's, of this process? */
static bool is_of(const struct request *r, const struct account *a)
{
	int number = (int)(a - sim.accounts);

	return r->life == sim.life && (r->account == number || r->lane == number);
}

/* The least that a lane may have, of what its service allows. */
static struct rate_policy rate_of(const struct account *a)
{
	const struct service *s = service_of(a);

	if (a->shard == NEVER)
		return s->rate;
	return (struct rate_policy){.per_second = s->rate.per_second / s->lanes, .burst = s->rate.burst / s->lanes};
}

/* ---- rate ---- */

static double leaked_at(const struct account *a, double level, int64_t us)
{
	return MAX(level - rate_of(a).per_second * (double)(us - a->level_us) / 1e6, 0);
}

static double level_at(const struct account *a, int64_t us)
{
	return leaked_at(a, a->level, us);
}

static void look_at_level(struct account *a)
{
	a->level = level_at(a, clock_now());
	a->all = leaked_at(a, a->all, clock_now());
	a->level_us = clock_now();
}

void account_settle(void)
{
	for (unsigned i = 0; i < sim.n_accounts; i++) {
		struct account *a = &sim.accounts[i];

		look_at_level(a);
		if (service_of(a)->rate.per_second <= 0)
			a->level = a->all = 0;
	}
}

/* What all lanes of an origin owe. */
static double owed_by_lanes(const struct account *whole)
{
	double sum = 0;

	for (unsigned i = 0; i < sim.n_accounts; i++)
		if (sim.accounts[i].shard != NEVER && sim.accounts[i].service == whole->service)
			sum += sim.accounts[i].level;
	return is_known(whole->service) ? sum : 0;
}

/* What holds anybody up is no more than a bucket holds, and each lane has its own. */
void account_go_on(void)
{
	for (unsigned i = 0; i < sim.n_accounts; i++)
		sim.accounts[i].level = MIN(sim.accounts[i].all, rate_of(&sim.accounts[i]).burst);
	for (unsigned i = 0; i < sim.n_accounts; i++)
		if (sim.accounts[i].shard == NEVER && service_of(&sim.accounts[i])->lanes > 1)
			sim.accounts[i].level = MIN(sim.accounts[i].level, owed_by_lanes(&sim.accounts[i]));
}

static bool rate_full(const struct account *a, int64_t us)
{
	const struct rate_policy p = rate_of(a);

	return p.per_second > 0 && level_at(a, us) + 1 > p.burst + 1e-6;
}

static void take_of_rate(struct account *a)
{
	CHECK(RATE, a->shard != NEVER || !rate_full(a, clock_now()), "service %d: %g of %u are taken already, at %g per second",
	      a->service, level_at(a, clock_now()), service_of(a)->rate.burst, service_of(a)->rate.per_second);
	look_at_level(a);
	a->level++;
	a->all++;
}

/* ---- pause ---- */

/* A lane knows at once what it was told itself, and soon what another one was. */
static void check_pause(const struct account *a, const struct account *lane)
{
	int64_t now = clock_now(), until_us = sim.stalls ? NEVER : now >= a->heard_us ? a->paused_us : a->told_us;

	if (lane->paused_us < a->paused_us && a->paused_us <= now)
		cover_race(RACE_PAUSE_TOLD);
	if (is_known(a->service))
		until_us = MAX(until_us, lane->paused_us);
	CHECK(PAUSE, now >= until_us, "service %d: an attempt starts %lld us before its pause is over", a->service,
	      (long long)(until_us - now));
}

static void note_pause(struct account *a, const struct answer *answer)
{
	int64_t ms = MIN(answer->retry_after_ms, service_of(a)->max_pause_ms);

	if (ms <= 0 || (answer->status != 429 && answer->status != 503))
		return;
	cover_race(ms < answer->retry_after_ms ? RACE_PAUSE_CUT : RACE_PAUSED);
	if (clock_now() >= a->heard_us)
		a->told_us = a->paused_us;
	a->heard_us = clock_now() + sim.set.delay_us + 8 * sim.set.turn_us;
	a->paused_us = MAX(a->paused_us, clock_now() + 1000 * ms);
}

/* ---- breaker ---- */

static bool has_breaker(const struct account *a)
{
	return service_of(a)->breaker.failure_ratio > 0 && !a->unsure;
}

/* Slots are those of the process's own clock. */
static int64_t slot_of(const struct account *a, int64_t us)
{
	return clock_to_loop(us) / (1000 * service_of(a)->breaker.window_ms / SLOTS);
}

static bool is_refusing(const struct account *a, int64_t us)
{
	return a->state == ACCOUNT_PROBING || (a->state == ACCOUNT_OPEN && us < a->until_us);
}

/* Nobody has asked for ten windows after one might have. */
static bool is_outdated(const struct account *a)
{
	return (a->state == ACCOUNT_OPEN || a->state == ACCOUNT_HALF_OPEN) &&
	       clock_now() - a->until_us >= 10 * 1000 * service_of(a)->breaker.window_ms;
}

static void note_refusing(struct account *a)
{
	if (a->state == ACCOUNT_PROBING)
		a->refused_us = clock_now();
	else if (a->state == ACCOUNT_OPEN)
		a->refused_us = MIN(clock_now(), a->until_us - 1);
}

static void turn_to(struct account *a, enum account_state state)
{
	note_refusing(a);
	a->state = state;
	a->period++;
	if (state != ACCOUNT_OPEN)
		return;
	a->until_us = clock_now() + 1000 * service_of(a)->breaker.open_ms;
	trace("breaker opens: service, for ms", a->service, service_of(a)->breaker.open_ms, 0);
	cover_race(RACE_BREAKER_OPENED);
}

static void pass_breaker(struct account *a, struct request *r)
{
	if (!has_breaker(a))
		return;
	CHECK(BREAKER, a->state != ACCOUNT_PROBING, "service %d: a second probe", a->service);
	CHECK(BREAKER, !is_refusing(a, clock_now()), "service %d: an attempt starts, the breaker is open for %lld us",
	      a->service, (long long)(a->until_us - clock_now()));
	if (is_outdated(a))
		turn_to(a, ACCOUNT_CLOSED);
	if (a->state == ACCOUNT_OPEN || a->state == ACCOUNT_HALF_OPEN) {
		note_refusing(a);
		if (a->state == ACCOUNT_OPEN)
			a->period++;
		a->state = ACCOUNT_PROBING;
		trace("breaker probes: service", a->service, 0, 0);
	}
	r->period = a->period;
}

/* Failures in the window that ends now, this answer among them. */
static bool fails_too_often(const struct account *a)
{
	const struct breaker_policy *p = &service_of(a)->breaker;
	unsigned attempts = 0, failures = 0;

	for (unsigned i = 0; i < sim.n_requests; i++) {
		const struct request *r = &sim.requests[i];

		if (!is_of(r, a) || r->period != a->period || r->said == SAID_NOTHING ||
		    slot_of(a, r->done_us) <= slot_of(a, clock_now()) - SLOTS)
			continue;
		attempts += r->said != SAID_NEITHER;
		failures += r->said == SAID_FAILURE;
	}
	return attempts >= p->min_attempts && failures >= p->failure_ratio * attempts;
}

static void end_probe(struct account *a, enum said said)
{
	if (said == SAID_SUCCESS) {
		cover_race(RACE_BREAKER_CLOSED);
		turn_to(a, ACCOUNT_CLOSED);
	} else if (said == SAID_FAILURE) {
		turn_to(a, ACCOUNT_OPEN);
	} else {
		cover_race(RACE_PROBE_SAID_NOTHING);
		note_refusing(a);
		a->state = ACCOUNT_HALF_OPEN;
		a->until_us = clock_now();
	}
}

static void tell_breaker(struct account *a, struct request *r)
{
	r->said = model_said(&sim.batches[r->batch], r);
	if (!has_breaker(a))
		return;
	if (r->said == SAID_UNCLEAR) {
		a->unsure = true;
		return;
	}
	if (r->period != a->period) {
		cover_race(RACE_STALE_OUTCOME);
		return;
	}
	if (a->state == ACCOUNT_PROBING)
		end_probe(a, r->said);
	else if (r->said == SAID_FAILURE && fails_too_often(a))
		turn_to(a, ACCOUNT_OPEN);
}

/* ---- budget ---- */

static bool has_budget(const struct account *a)
{
	return service_of(a)->retry_budget.window_ms > 0;
}

/* Attempts that started in (from_us, to_us]: the first ones, or the repeats. */
static unsigned started_in(const struct account *a, int64_t from_us, int64_t to_us, bool repeats)
{
	unsigned n = 0;

	for (unsigned i = 0; i < sim.n_requests; i++) {
		const struct request *r = &sim.requests[i];

		n += is_of(r, a) && r->start_us > from_us && r->start_us <= to_us && (r->n > 1) == repeats;
	}
	return n;
}

static double budget_of(const struct account *a, unsigned firsts)
{
	const struct budget_policy *p = &service_of(a)->retry_budget;
	double floor = p->per_second * (double)p->window_ms / 1000;

	return p->ratio * firsts + (a->shard == NEVER ? floor : floor / service_of(a)->lanes) + 1e-6;
}

static void take_of_budget(const struct account *a, const struct request *r)
{
	int64_t now = clock_now(), from_us = now - 1000 * service_of(a)->retry_budget.window_ms;
	unsigned repeats, firsts;

	if (!has_budget(a) || r->n == 1)
		return;
	repeats = 1 + started_in(a, from_us, now, true);
	firsts = started_in(a, from_us, now, false);
	CHECK(BUDGET, repeats <= budget_of(a, firsts), "service %d: %u repeats, %u first attempts in the window", a->service,
	      repeats, firsts);
}

/* May it have been spent at that time or since, however its window is cut? */
static bool budget_spent(const struct account *a, int64_t us)
{
	int64_t window = 1000 * service_of(a)->retry_budget.window_ms;
	unsigned repeats = started_in(a, us - window - window / SLOTS, clock_now(), true);
	unsigned firsts = started_in(a, us - window + window / SLOTS, us - 1, false);

	/* They may all be the other lane's. */
	if (a->shard != NEVER && !is_known(a->service))
		firsts = 0;
	return has_budget(a) && repeats + 1 > budget_of(a, firsts) - 2e-6;
}

/* ---- what happens ---- */

/* An attempt of this item starts. */
void account_start(struct request *r)
{
	struct account *a = account_of(&sim.batches[r->batch].items[r->item]);
	struct account *lane = lane_of(&sim.batches[r->batch].items[r->item], r->shard);

	r->account = (int)(a - sim.accounts);
	r->lane = (int)(lane - sim.accounts);
	r->life = sim.life;
	check_pause(a, lane);
	pass_breaker(lane, r);
	take_of_rate(a);
	if (lane != a)
		take_of_rate(lane);
	take_of_budget(a, r);
}

/* And is over. */
void account_answer(struct request *r)
{
	struct account *a = &sim.accounts[r->account], *lane = &sim.accounts[r->lane];

	note_pause(a, &r->answer);
	if (lane != a)
		note_pause(lane, &r->answer);
	tell_breaker(lane, r);
}

static bool is_held(const struct account *a, const struct sim_item *it, int64_t us)
{
	if (rate_full(a, us))
		cover_race(RACE_RATE_HELD);
	else if (it->starts > 0 && budget_spent(a, us))
		cover_race(RACE_BUDGET_HELD);
	else
		return a->paused_us > us;
	return true;
}

/* The next account of the item's origin, or of a lane that it may be in; NULL: there are
 * no more. Begin with NULL. */
static struct account *next_of(const struct sim_item *it, struct account *a)
{
	for (unsigned shard = 0; a == NULL && shard < sim.n_shards; shard++)
		lane_of(it, shard);
	for (a = a == NULL ? sim.accounts : a + 1; a < sim.accounts + sim.n_accounts; a++)
		if (a->service == it->service && slice_eq(a->origin, model_origin(it)))
			return a;
	return NULL;
}

/* A lane that it may be in had a reason to let the item wait at that time, or just before:
 * intervals between starts are rounded up. */
bool account_holds(const struct sim_item *it, int64_t us)
{
	for (struct account *a = NULL; (a = next_of(it, a)) != NULL;)
		if (is_held(a, it, us - ROUNDING_US))
			return true;
	return false;
}

bool account_lacks_budget(const struct sim_item *it, int64_t us)
{
	for (struct account *a = NULL; (a = next_of(it, a)) != NULL;)
		if (budget_spent(a, us))
			return true;
	return false;
}

/* Was there a time since then at which the item may have been refused? */
bool account_refused_since(const struct sim_item *it, int64_t us)
{
	for (struct account *a = NULL; (a = next_of(it, a)) != NULL;) {
		note_refusing(a);
		if (a->unsure || a->refused_us >= us)
			return true;
	}
	return false;
}

int64_t account_paused_us(const struct sim_item *it)
{
	return account_of(it)->paused_us;
}

/* When the oldest repeat that counts has certainly left the window. */
static int64_t repeats_leave_us(const struct account *a)
{
	int64_t window = 1000 * service_of(a)->retry_budget.window_ms, next = INT64_MAX;

	for (unsigned i = sim.n_requests; i-- > 0 && sim.requests[i].start_us > clock_now() - 2 * window;)
		if (is_of(&sim.requests[i], a) && sim.requests[i].n > 1 &&
		    sim.requests[i].start_us + window + window / SLOTS > clock_now())
			next = sim.requests[i].start_us + window + window / SLOTS;
	return next;
}

/* When a lane may next go on, if time alone holds it up; INT64_MAX: none is held up. */
int64_t account_next_us(void)
{
	int64_t next = INT64_MAX, now = clock_now();

	for (unsigned i = 0; i < sim.n_accounts; i++) {
		const struct account *a = &sim.accounts[i];
		const struct rate_policy p = rate_of(a);
		int64_t us = a->paused_us > now ? a->paused_us : INT64_MAX;

		if (rate_full(a, now))
			us = MIN(us, now + 1 + (int64_t)(1e6 * (level_at(a, now) + 1 - p.burst) / p.per_second));
		if (has_budget(a))
			us = MIN(us, repeats_leave_us(a));
		next = MIN(next, us == INT64_MAX ? us : us + ROUNDING_US);
	}
	return next;
}
