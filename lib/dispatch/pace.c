/*
 * The pace of a service: how many of its items become final in a second while many
 * wait. It says how long a queue takes, and when who is refused may come back.
 *
 * It is known only while there is a long queue: the pace of a short one is that of
 * those who send, and who comes with much after it is not to be refused for it.
 *
 * Other shards count meanwhile, so all of it are estimates.
 */
#include <stdlib.h>

#include "attempt-i.h"
#include "dispatch-i.h"
#include "pace-i.h"

/* A pace is not known from fewer results, nor from a shorter time. */
enum { PACE_MIN = 32, PACE_US = 100000, PACE_MAX_US = 1000000 };

void paces_init(struct dispatch *d)
{
	d->paces = xcalloc(d->env.config->service_slots, sizeof *d->paces);
}

void paces_free(struct dispatch *d)
{
	free(d->paces);
}

void pace_look(struct pace *p, int64_t now_us, const struct queue_sight *now)
{
	int64_t elapsed_us = now_us - p->since_us;
	uint32_t n = now->settled - p->then.settled;

	if (now->emptied != p->then.emptied) {
		p->per_second = 0;
	} else if (p->then.waiting > 0 && now->waiting > 0) {
		if (elapsed_us < PACE_US || (n < PACE_MIN && elapsed_us < PACE_MAX_US))
			return;
		p->per_second += ((double)n * 1e6 / (double)elapsed_us - p->per_second) * (p->per_second > 0 ? 0.25 : 1);
		p->of_many = p->then.waiting >= BEHIND_MIN && now->waiting >= BEHIND_MIN;
	}
	p->since_us = now_us;
	p->then = *now;
}

struct service_load *load_of_service(const struct dispatch_group *g, uint16_t service)
{
	return &g->loads[MIN(service, g->service_slots)];
}

/* Counted items of a service that are not in flight. Other shards count meanwhile. */
uint32_t service_waiting(const struct dispatch *d, uint16_t service)
{
	const struct service_load *l = load_of_service(d->env.group, service);
	uint32_t in_flight = atomic_load(&l->in_flight), n = atomic_load(&l->items);

	return n - MIN(n, in_flight);
}

void service_started(struct dispatch *d, const struct attempt *a)
{
	if (a->counted)
		atomic_fetch_add(&load_of_service(d->env.group, a->service)->in_flight, 1);
}

void service_ended(struct dispatch *d, const struct attempt *a)
{
	if (a->counted)
		atomic_fetch_sub(&load_of_service(d->env.group, a->service)->in_flight, 1);
}

void pace_note(struct dispatch *d, uint16_t service)
{
	struct service_load *l = load_of_service(d->env.group, service);
	struct pace *p = &d->paces[service];
	int64_t now_us = loop_now_us(d->env.loop);

	if (now_us - p->since_us >= PACE_US || atomic_load(&l->emptied) != p->then.emptied)
		pace_look(p, now_us, &(struct queue_sight){.settled = atomic_load(&l->settled),
							   .emptied = atomic_load(&l->emptied),
							   .waiting = service_waiting(d, service)});
}

double pace_of_all(const struct dispatch *d)
{
	double sum = 0;

	for (size_t i = 0; i < d->env.config->n_services; i++)
		sum += d->paces[i].per_second;
	return sum;
}
