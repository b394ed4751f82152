/*
 * Refusals before the body is read. See throttle.c.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct dispatch;
struct loop_timer;

/* How much of what is asked is admitted, and whether the loop is late. See throttle.c. */
struct throttle {
	double asked, admitted;          /* of about the last second ... */
	double passed;                   /* ... and how many there seemed to be room for */
	int64_t since_us;                /* when these were last made less */
	struct loop_timer *probe;
	int64_t due_us;                  /* when it should ring; 0: it is not set */
	int64_t late_until_us;           /* it was late, and counts as late until then */
};

/* Pure: count a batch; the timer rings; how many of one are to be refused unread, of those
 * that there seems to be no room for, and where there are several services. */
void throttle_count(struct throttle *t, int64_t now_us, bool admitted);
void throttle_ring(struct throttle *t, int64_t now_us);
double throttle_refuses(const struct throttle *t, int64_t now_us, bool several);

void throttle_init(struct dispatch *d);
void throttle_free(struct dispatch *d);
void throttle_note(struct dispatch *d, bool admitted);   /* of a batch whose caller waits */
