/*
 * The simulated world's time, chance and event loops: lib/loop/loop.h played by
 * one thread. One seed decides everything.
 *
 * Several loops, one per shard, share one clock. What is due is a heap of
 * events; among those of the same instant chance picks, because real threads
 * have no order either. Messages of one pair of loops stay in order, timers of
 * one loop fire in the order of their times; nothing else is promised.
 */
#pragma once

#include "base/heap.h"
#include "base/rand.h"
#include "loop/loop.h"

/* Something that happens at a time. Embed it in what it happens to. */
struct event {
	struct heap_node due;
	struct loop *loop;               /* whose thread it runs in; NULL: nobody's */
	void (*fire)(struct event *e);
};

void event_init(struct event *e, struct loop *l, void (*fire)(struct event *));
void event_at(struct event *e, int64_t at_us);               /* HEAP_NONE: not at all */

struct fake_settings {
	uint64_t seed;
	int64_t delay_us;                /* of a message, at most */
	int64_t turn_us;                 /* until a deferred call runs, at most */
	int64_t late_us;                 /* of a timer, at most */
	int64_t grain_us;                /* random times are multiples of this */
	bool drop_messages;              /* a planted defect: one in some is lost */
	bool lose_calls;                 /* a planted defect: so is a deferred call */
	bool leak_timers;                /* a planted defect: none is ever given back */
};

void clock_start(const struct fake_settings *s);
void clock_stop(void);
/* The next event, in its loop, which stays the current one. False: none is due ever. */
bool clock_step(void);
int64_t clock_now(void);
int64_t clock_unix_ms(void);
int64_t clock_to_unix_ms(int64_t us);

/* The machine starts anew: from here on the loops' own clock begins near zero. */
void clock_reboot(void);
int64_t clock_from_loop(int64_t us);                         /* a loop's time as the world's ... */
int64_t clock_to_loop(int64_t us);                           /* ... and back */

/* Act in the thread of `l` from outside; NULL: leave. */
void fake_loop_enter(struct loop *l);
struct loop *fake_loop_current(void);

/* No message and no call is on its way to `l`. */
bool fake_loop_is_quiet(const struct loop *l);

/* Nothing happens in `l` before until_us: a thread that the system forgot. */
void fake_loop_stall(struct loop *l, int64_t until_us);
int64_t fake_loop_stalled_until(const struct loop *l);

/* Chance. Durations in microseconds; all of the one seed. */
uint64_t dice_below(uint64_t n);
bool dice_chance(unsigned percent);
int64_t dice_between(int64_t low, int64_t high);
int64_t dice_log(int64_t low, int64_t high);                 /* each magnitude alike */
int64_t dice_span(int64_t low_us, int64_t high_us);          /* as dice_log(), in grains */
