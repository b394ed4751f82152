/*
 * Invariants
 *  1. An event that is due sits in `clock.events`; its key is its time and a
 *     random tie-break, so the heap alone decides what comes next.
 *  2. A pipe's event is due exactly while it holds messages; a loop's turn
 *     while it holds calls; its alarm while it holds armed timers.
 */
#include "fake.h"

#include <stdlib.h>

enum { MAX_LOOPS = 8, TIE_BITS = 16 };

static const int64_t epoch_us = 1000000000;
static const int64_t epoch_unix_ms = 1767225600000;

struct posted {
	struct list node;
	struct loop_msg *msg;
	int64_t at_us;
};

struct pipe {
	struct event event;
	struct list posted;
	int64_t last_us;                 /* nothing overtakes it */
};

struct loop {
	struct event turn, alarm;
	struct pipe from[MAX_LOOPS + 1]; /* the last: from no loop at all */
	struct list calls;
	struct heap timers;
	struct loop_usage usage;
	int64_t stalled_until;
	unsigned index;
};

struct loop_fd {
	struct loop *loop;
};

struct loop_timer {
	struct heap_node due;
	struct loop *loop;
	void (*on_due)(void *arg);
	void *arg;
};

static struct {
	struct fake_settings set;
	struct heap events;
	struct rng rng;
	int64_t now_us, boot_us;
	struct loop *current;
	struct loop *loops[MAX_LOOPS];
	unsigned n_loops;
} world_clock;

uint64_t dice_below(uint64_t n)
{
	return rng_below(&world_clock.rng, n);
}

bool dice_chance(unsigned percent)
{
	return dice_below(100) < percent;
}

int64_t dice_between(int64_t low, int64_t high)
{
	return low + (int64_t)dice_below((uint64_t)(high - low) + 1);
}

int64_t dice_log(int64_t low, int64_t high)
{
	unsigned bits = 0;
	int64_t drawn;

	while (bits < 62 && (low + 1) << bits <= high)
		bits++;
	drawn = dice_between(low, (low + 1) << dice_below(bits + 1));
	return MIN(drawn, high);
}

int64_t dice_span(int64_t low_us, int64_t high_us)
{
	int64_t grain = world_clock.set.grain_us, us = dice_log(low_us, high_us);

	return MAX((us + grain / 2) / grain * grain, low_us);
}

void event_init(struct event *e, struct loop *l, void (*fire)(struct event *))
{
	*e = (struct event){.loop = l, .fire = fire};
}

void event_at(struct event *e, int64_t at_us)
{
	heap_remove(&world_clock.events, &e->due);
	if (at_us == HEAP_NONE)
		return;
	at_us = MAX(at_us, world_clock.now_us);
	at_us = MIN(at_us, INT64_MAX >> (TIE_BITS + 1));
	heap_set(&world_clock.events, &e->due, at_us << TIE_BITS | (int64_t)dice_below(1 << TIE_BITS));
}

void clock_start(const struct fake_settings *s)
{
	world_clock.set = *s;
	world_clock.now_us = epoch_us;
	world_clock.boot_us = 0;
	world_clock.n_loops = 0;
	world_clock.current = NULL;
	rng_seed(&world_clock.rng, s->seed);
}

void clock_stop(void)
{
	heap_free(&world_clock.events);
}

int64_t clock_now(void)
{
	return world_clock.now_us;
}

int64_t clock_to_unix_ms(int64_t us)
{
	return epoch_unix_ms + us / 1000 - epoch_us / 1000;
}

int64_t clock_unix_ms(void)
{
	return clock_to_unix_ms(world_clock.now_us);
}

void clock_reboot(void)
{
	world_clock.boot_us = world_clock.now_us - dice_between(1, 10000000);
}

int64_t clock_from_loop(int64_t us)
{
	return us == HEAP_NONE ? us : us + world_clock.boot_us;
}

int64_t clock_to_loop(int64_t us)
{
	return us - world_clock.boot_us;
}

bool clock_step(void)
{
	struct heap_node *node = heap_pop(&world_clock.events, INT64_MAX - 1);
	struct event *e;

	if (node == NULL)
		return false;
	e = container_of(node, struct event, due);
	world_clock.now_us = MAX(world_clock.now_us, node->key >> TIE_BITS);
	if (e->loop != NULL && e->loop->stalled_until > world_clock.now_us) {
		event_at(e, e->loop->stalled_until);
		return true;
	}
	world_clock.current = e->loop;
	e->fire(e);
	return true;
}

void fake_loop_enter(struct loop *l)
{
	world_clock.current = l;
}

struct loop *fake_loop_current(void)
{
	return world_clock.current;
}

bool fake_loop_is_quiet(const struct loop *l)
{
	for (unsigned i = 0; i <= MAX_LOOPS; i++)
		if (!list_empty(&l->from[i].posted))
			return false;
	return list_empty(&l->calls);
}

void fake_loop_stall(struct loop *l, int64_t until_us)
{
	l->stalled_until = MAX(l->stalled_until, until_us);
}

int64_t fake_loop_stalled_until(const struct loop *l)
{
	return l->stalled_until;
}

static void on_turn(struct event *e)
{
	struct loop *l = container_of(e, struct loop, turn);
	struct list *node = list_pop(&l->calls);

	if (!list_empty(&l->calls))
		event_at(&l->turn, world_clock.now_us);
	if (node != NULL) {
		struct loop_call *c = list_entry(node, struct loop_call, node);

		c->run(c);
	}
}

static void set_alarm(struct loop *l)
{
	int64_t at = heap_min(&l->timers);

	/* Late against its own time, not against now: re-arming must not delay it for ever. */
	if (at < HEAP_NONE - world_clock.set.late_us)
		at += dice_between(0, world_clock.set.late_us);
	event_at(&l->alarm, at);
}

static void on_alarm(struct event *e)
{
	struct loop *l = container_of(e, struct loop, alarm);
	struct heap_node *node = heap_pop(&l->timers, world_clock.now_us);

	set_alarm(l);
	if (node != NULL) {
		struct loop_timer *t = container_of(node, struct loop_timer, due);

		t->on_due(t->arg);
	}
}

static void on_message(struct event *e)
{
	struct pipe *p = container_of(e, struct pipe, event);
	struct posted *first = list_entry(list_pop(&p->posted), struct posted, node);
	struct loop_msg *m = first->msg;

	free(first);
	if (!list_empty(&p->posted))
		event_at(&p->event, list_entry(p->posted.next, struct posted, node)->at_us);
	m->run(m);
}

struct loop *loop_new(void)
{
	struct loop *l = xcalloc(1, sizeof *l);

	REQUIRE(world_clock.n_loops < MAX_LOOPS);
	l->index = world_clock.n_loops++;
	world_clock.loops[l->index] = l;
	list_init(&l->calls);
	event_init(&l->turn, l, on_turn);
	event_init(&l->alarm, l, on_alarm);
	for (unsigned i = 0; i <= MAX_LOOPS; i++) {
		event_init(&l->from[i].event, l, on_message);
		list_init(&l->from[i].posted);
	}
	return l;
}

void loop_free(struct loop *l)
{
	event_at(&l->turn, HEAP_NONE);
	event_at(&l->alarm, HEAP_NONE);
	for (unsigned i = 0; i <= MAX_LOOPS; i++)
		event_at(&l->from[i].event, HEAP_NONE);
	heap_free(&l->timers);
	free(l);
}

void loop_run(struct loop *l)
{
	/* The simulated loops run through clock_step(). */
	REQUIRE(l == NULL);
}

void loop_stop(struct loop *l)
{
	(void)l;
}

bool loop_is_current(const struct loop *l)
{
	return world_clock.current == l;
}

int64_t loop_now_us(const struct loop *l)
{
	(void)l;
	return world_clock.now_us - world_clock.boot_us;
}

int64_t loop_unix_ms(const struct loop *l)
{
	(void)l;
	return clock_unix_ms();
}

struct loop_fd *loop_fd_new(struct loop *l, int fd, unsigned events, enum loop_priority prio,
			    void (*on_ready)(void *arg, unsigned events), void *arg)
{
	struct loop_fd *f = xcalloc(1, sizeof *f);

	(void)fd, (void)events, (void)prio, (void)on_ready, (void)arg;
	f->loop = l;
	l->usage.fds++;
	return f;
}

void loop_fd_set(struct loop_fd *f, unsigned events)
{
	(void)f, (void)events;
}

void loop_fd_free(struct loop_fd *f)
{
	if (f == NULL)
		return;
	f->loop->usage.fds--;
	free(f);
}

struct loop_timer *loop_timer_new(struct loop *l, enum loop_priority prio, void (*on_due)(void *arg),
				  void *arg)
{
	struct loop_timer *t = xcalloc(1, sizeof *t);

	(void)prio;
	*t = (struct loop_timer){.loop = l, .on_due = on_due, .arg = arg};
	l->usage.timers++;
	return t;
}

void loop_timer_at(struct loop_timer *t, int64_t at_us)
{
	REQUIRE(world_clock.current == NULL || world_clock.current == t->loop);
	if (at_us == HEAP_NONE)
		heap_remove(&t->loop->timers, &t->due);
	else
		heap_set(&t->loop->timers, &t->due, MIN(at_us, HEAP_NONE / 2) + world_clock.boot_us);
	set_alarm(t->loop);
}

void loop_timer_by(struct loop_timer *t, int64_t at_us)
{
	if (at_us < (heap_has(&t->due) ? t->due.key - world_clock.boot_us : HEAP_NONE))
		loop_timer_at(t, at_us);
}

void loop_timer_free(struct loop_timer *t)
{
	if (t == NULL)
		return;
	heap_remove(&t->loop->timers, &t->due);
	set_alarm(t->loop);
	if (!world_clock.set.leak_timers)
		t->loop->usage.timers--;
	free(t);
}

void loop_call_init(struct loop_call *c, void (*run)(struct loop_call *))
{
	list_init(&c->node);
	c->run = run;
}

void loop_call_soon(struct loop *l, struct loop_call *c)
{
	REQUIRE(world_clock.current == NULL || world_clock.current == l);
	if (!list_empty(&c->node) || (world_clock.set.lose_calls && dice_below(200) == 0))
		return;
	if (list_empty(&l->calls))
		event_at(&l->turn, world_clock.now_us + dice_between(0, world_clock.set.turn_us));
	list_append(&l->calls, &c->node);
}

void loop_call_cancel(struct loop_call *c)
{
	list_remove(&c->node);
}

void loop_post(struct loop *to, struct loop_msg *msg)
{
	struct loop *from = world_clock.current;
	struct pipe *p = &to->from[from == NULL ? MAX_LOOPS : from->index];
	int64_t most = from == to ? world_clock.set.turn_us : world_clock.set.delay_us;
	struct posted *it;

	if (world_clock.set.drop_messages && dice_chance(2))
		return;
	it = xcalloc(1, sizeof *it);
	*it = (struct posted){.msg = msg, .at_us = world_clock.now_us + dice_between(0, most)};
	it->at_us = p->last_us = MAX(it->at_us, p->last_us);
	if (list_empty(&p->posted))
		event_at(&p->event, it->at_us);
	list_append(&p->posted, &it->node);
}

struct loop_usage loop_usage(const struct loop *l)
{
	return l->usage;
}
