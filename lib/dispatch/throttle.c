/*
 * Refusals before the body is read: by a process that is full, and by a shard that is
 * so busy that reading what it then refuses would cost it the work it has accepted.
 *
 * Such a shard is late: a timer rings after its time. While it is, it reads a batch
 * whenever what it refused the last one by has become less, and of all others as many as
 * make K * admitted in all: it refuses these unread with a probability of
 * (asked - K * admitted) / (asked - passed + 1), of about the last second (after the adaptive
 * throttling of B. Beyer et al., "Site Reliability Engineering", 2016, chapter 21; here
 * at the server). With several services those that passed count as others, so that about
 * twice as much is read: what one service has no room for another may have. Nobody is
 * refused so while there is time to read, or while fewer than a hundred ask in a second: to
 * read those costs little, and one late timer is soon had.
 *
 * The timer rings only while more is asked than admitted.
 */
#include "admission-i.h"
#include "dispatch-i.h"
#include "refusal-i.h"
#include "throttle-i.h"

enum { STEP_US = 100000, PROBE_US = 2000, LATE_US = 1000, LATE_FOR_US = 250000, FEW = 100 };

static const double keep_of_a_step = 0.9, read_per_admitted = 1.2, most = 0.98;

static void decay(struct throttle *t, int64_t now_us)
{
	for (int steps = 0; now_us - t->since_us >= STEP_US; steps++) {
		t->since_us += STEP_US;
		t->asked *= keep_of_a_step;
		t->passed *= keep_of_a_step;
		t->admitted *= keep_of_a_step;
		if (steps < 100)
			continue;
		t->since_us = now_us;
		t->asked = t->passed = t->admitted = 0;
	}
}

double throttle_refuses(const struct throttle *t, int64_t now_us, bool several)
{
	double excess = t->asked - read_per_admitted * t->admitted;
	double of = several ? t->asked : MAX(t->asked - t->passed, 0.0);

	return t->asked >= FEW && now_us < t->late_until_us && excess > 0 ? MIN(excess / (of + 1), most) : 0;
}

void throttle_ring(struct throttle *t, int64_t now_us)
{
	if (now_us - t->due_us >= LATE_US)
		t->late_until_us = now_us + LATE_FOR_US;
	t->due_us = 0;
}

static void on_probe(void *arg)
{
	struct dispatch *d = arg;

	throttle_ring(&d->throttle, loop_now_us(d->env.loop));
}

void throttle_count(struct throttle *t, int64_t now_us, bool admitted)
{
	decay(t, now_us);
	t->asked++;
	t->admitted += admitted;
}

void throttle_note(struct dispatch *d, bool admitted)
{
	struct throttle *t = &d->throttle;
	int64_t now_us = loop_now_us(d->env.loop);

	throttle_count(t, now_us, admitted);
	if (t->due_us != 0 || t->asked <= read_per_admitted * t->admitted)
		return;
	t->due_us = now_us + PROBE_US;
	loop_timer_at(t->probe, t->due_us);
}

bool dispatch_refuses_unread(struct dispatch *d, unsigned tenant, size_t body_bytes, bool job)
{
	double p = throttle_refuses(&d->throttle, loop_now_us(d->env.loop), services_share(d));

	if (admission_is_full(d, tenant, body_bytes, job))
		return true;
	if (job)
		return false;
	if (!refusal_stands(d, tenant)) {
		d->throttle.passed++;
		return false;
	}
	if (p <= 0 || (double)rng_below(&d->rng, 1 << 20) >= p * (1 << 20))
		return false;
	throttle_note(d, false);
	return true;
}

void throttle_init(struct dispatch *d)
{
	d->throttle.probe = loop_timer_new(d->env.loop, LOOP_NORMAL, on_probe, d);
}

void throttle_free(struct dispatch *d)
{
	loop_timer_free(d->throttle.probe);
}
