/*
 * Waiting until a batch is done: long polls, cancels, answers that may be early.
 *
 * The batch's shard is watched first and looked at then, so no end is missed
 * between the two. All who wait here for one batch share one watch:
 *
 *   here: join ──arm──► owner: dispatch_watch()
 *         look ◄─armed────┘        │ done
 *         look ◄───────news────────┘
 *   the last one leaves ──disarm──► owner: dispatch_unwatch() ──released──► freed
 *
 * Invariants
 *  1. A wait is in routes.until until it is over or its last look was begun.
 *  2. A watched is in routes.watched until the last of its waits has left, and
 *     those that come then make a new one.
 *  3. It is freed by the later one of `released` and news that is on its way:
 *     an urgent message may overtake another.
 */
#include "routes-i.h"

#include <stdlib.h>

struct watched {
	struct idmap_node node;
	struct list waits;               /* struct wait.node */
	struct dispatch_watch watch;     /* the owner's thread alone */
	struct loop_msg msg, news;
	struct routes *here, *owner;
	bool armed, done, released;
	bool told;                       /* `news` was posted: the owner's until `released` */
};

/* ---- the watch ---- */

static void on_news(struct loop_msg *msg);

static void on_change(struct dispatch_watch *watch, bool done)
{
	struct watched *wd = container_of(watch, struct watched, watch);

	if (!done)
		return;
	wd->told = true;
	wd->news.run = on_news;
	loop_post(wd->here->env.loop, &wd->news);
}

static void on_released(struct loop_msg *msg)
{
	struct watched *wd = container_of(msg, struct watched, msg);

	wd->released = true;
	if (!wd->told || wd->done)
		free(wd);
}

static void disarm(struct loop_msg *msg)
{
	struct watched *wd = container_of(msg, struct watched, msg);

	dispatch_unwatch(wd->owner->env.dispatch, &wd->watch);
	wd->msg.run = on_released;
	loop_post(wd->here->env.loop, &wd->msg);
}

static void release_if_unused(struct watched *wd)
{
	if (!wd->armed || !list_empty(&wd->waits))
		return;
	idmap_remove(&wd->here->watched, &wd->node);
	wd->msg.run = disarm;
	loop_post(wd->owner->env.loop, &wd->msg);
}

static void look(struct wait *w, bool last)
{
	w->last_look |= last;
	if (w->last_look)
		heap_remove(&w->here->until, &w->until);
	if (w->looking)
		return;
	w->looking = true;
	look_start(w->here, &w->look, w->id);
}

static void on_news(struct loop_msg *msg)
{
	struct watched *wd = container_of(msg, struct watched, news);

	wd->done = true;
	if (wd->released) {
		free(wd);
		return;
	}
	/* Who is looking may have looked too early, and looks again. */
	list_foreach(node, &wd->waits) {
		struct wait *w = list_entry(node, struct wait, node);

		if (!w->looking)
			look(w, true);
	}
}

static void on_armed(struct loop_msg *msg)
{
	struct watched *wd = container_of(msg, struct watched, msg);

	wd->armed = true;
	list_foreach(node, &wd->waits)
		look(list_entry(node, struct wait, node), false);
	release_if_unused(wd);
}

static void arm(struct loop_msg *msg)
{
	struct watched *wd = container_of(msg, struct watched, msg);

	wd->watch.on_change = on_change;
	dispatch_watch(wd->owner->env.dispatch, &wd->watch, wd->node.id);
	wd->msg.run = on_armed;
	loop_post(wd->here->env.loop, &wd->msg);
}

static struct watched *watched_get(struct routes *r, struct batch_id id)
{
	struct idmap_node *node = idmap_find(&r->watched, id);
	struct watched *wd;

	if (node != NULL)
		return container_of(node, struct watched, node);
	wd = xcalloc(1, sizeof *wd);
	wd->here = r;
	wd->owner = batch_owner(r, id);
	wd->msg.run = arm;
	list_init(&wd->waits);
	idmap_add(&r->watched, &wd->node, id);
	loop_post(wd->owner->env.loop, &wd->msg);
	return wd;
}

/* ---- waits ---- */

static void on_shown(struct look *l, const struct shown *s)
{
	struct wait *w = container_of(l, struct wait, look);

	w->looking = false;
	if (w->last_look || s->answer != STORE_OK || s->outcome != NULL) {
		wait_cancel(w);
		w->on_ready(w, s);
	} else if (w->watched->done) {
		look(w, true);
	}
}

void wait_init(struct wait *w, struct routes *r, const struct http_request *req,
	       void (*on_ready)(struct wait *w, const struct shown *s))
{
	*w = (struct wait){.here = r, .on_ready = on_ready,
			   .of_tenant = &r->env.group->tenants.of[auth_tenant(req)].waiting};
	look_init(&w->look, auth_tenant_name(r, req), on_shown);
	list_init(&w->node);
}

/* One more that waits, of all shards together. False: too many. */
static bool count(struct wait *w)
{
	const struct routes_env *env = &w->here->env;

	w->counted = dispatch_tenant_take(env->config, &env->peers[0]->waiting, w->of_tenant, env->config->limits.waiting);
	return w->counted;
}

bool wait_start(struct wait *w, struct batch_id id, int wait_s)
{
	struct routes *r = w->here;

	w->id = id;
	if (wait_s <= 0 || r->stopping) {
		look(w, true);
		return true;
	}
	if (!count(w))
		return false;
	meter_add(r->env.meter, METRIC_WAITING, 0, 0, 1);
	heap_set(&r->until, &w->until, loop_now_us(r->env.loop) + wait_s * INT64_C(1000000));
	loop_timer_by(r->until_timer, heap_min(&r->until));
	w->watched = watched_get(r, id);
	list_append(&w->watched->waits, &w->node);
	if (w->watched->armed)
		look(w, false);
	return true;
}

void wait_cancel(struct wait *w)
{
	struct watched *wd = STEAL_PTR(w->watched);

	look_cancel(&w->look);
	heap_remove(&w->here->until, &w->until);
	list_remove(&w->node);
	if (w->counted) {
		w->counted = false;
		dispatch_tenant_give(&w->here->env.peers[0]->waiting, w->of_tenant);
		meter_add(w->here->env.meter, METRIC_WAITING, 0, 0, -1);
	}
	if (wd != NULL)
		release_if_unused(wd);
}

static void end_waits(struct routes *r, int64_t until_us)
{
	struct heap_node *node;

	while ((node = heap_pop(&r->until, until_us)) != NULL)
		look(container_of(node, struct wait, until), true);
}

static void on_due(void *arg)
{
	struct routes *r = arg;

	end_waits(r, loop_now_us(r->env.loop));
	loop_timer_by(r->until_timer, heap_min(&r->until));
}

void waits_init(struct routes *r)
{
	r->until_timer = loop_timer_new(r->env.loop, LOOP_NORMAL, on_due, r);
}

void waits_free(struct routes *r)
{
	loop_timer_free(r->until_timer);
	heap_free(&r->until);
	idmap_free(&r->watched);
}

void routes_stop(struct routes *r)
{
	r->stopping = true;
	events_close(r);
	end_waits(r, HEAP_NONE);
}
