/*
 * How fast the queue of a service is worked off, and what is counted for that. See pace.c.
 */
#pragma once

#include "dispatch/dispatch.h"

struct attempt;

/* What is seen of a service's queue at one time. */
struct queue_sight {
	uint32_t settled;                /* items that have come to an end so far; wraps */
	uint32_t emptied;                /* how often there was none left; wraps */
	uint32_t waiting;                /* items that are not in flight */
};

/* How fast it is worked off. A pace is what the service can do only while many wait
 * all the time; and once nothing is left, what it was says nothing of what it will be. */
struct pace {
	int64_t since_us;
	struct queue_sight then;         /* at that time */
	double per_second;               /* 0: not known */
	bool of_many;                    /* many waited while it was measured last */
};

/* A queue that is shorter is never too long. */
enum { BEHIND_MIN = 1000 };

void paces_init(struct dispatch *d);
void paces_free(struct dispatch *d);
void pace_look(struct pace *p, int64_t now_us, const struct queue_sight *now);   /* pure */
void pace_note(struct dispatch *d, uint16_t service);            /* look at it, if it is time */
double pace_of_all(const struct dispatch *d);                    /* of all services, a second */
struct service_load *load_of_service(const struct dispatch_group *g, uint16_t service);
uint32_t service_waiting(const struct dispatch *d, uint16_t service);    /* counted items that are not in flight */
void service_started(struct dispatch *d, const struct attempt *a);       /* it goes out */
void service_ended(struct dispatch *d, const struct attempt *a);         /* it is back */
