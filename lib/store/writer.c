/*
 * The writer's thread: groups, their answers, what happens while the disk fails,
 * and the small work between groups.
 *
 *   well ──group failed: enter_failing()──► failing ──a later group: recover()──► well
 *
 * Invariants
 *  1. todo and group keep the order of asking; a failed group goes back to the
 *     head of todo, and what is not owed leaves it with STORE_UNAVAILABLE.
 *  2. While it fails, and between tries, todo holds only what is owed.
 *  3. An answer is posted after the counts that belong to it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/killpoint.h"
#include "base/plant.h"
#include "obs/log.h"
#include "store/store-i.h"

enum {
	GROUP_MAX = 4096,
	GATHER_US = 1000,                /* from one group to the next: under load they grow instead of being many */
	GROUP_US = 20 * 1000,            /* of writing, so that no answer waits for long behind others */
	BACKOFF_MIN_US = 100 * 1000,
	BACKOFF_MAX_US = 1000 * 1000,
	CALM_US = 10 * 1000 * 1000,      /* well for so long: a failure is a new one */
	EXPIRE_EVERY_US = 1000 * 1000,
	MEASURE_EVERY_US = 250 * 1000,
};

static int64_t unix_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

/* What ends changes the counts, all of it under one lock. */
struct ended {
	struct list ops;
	uint64_t n, bytes, reserved, dropped, came;
};

static void ended_init(struct ended *e)
{
	*e = (struct ended){0};
	list_init(&e->ops);
}

/* It is in no list any more. */
static void end(struct ended *e, struct store_op *op, enum store_answer said)
{
	const struct store_accept *a = op->what != STORE_ACCEPT ? NULL : container_of(op, struct store_accept, op);

	op->answer = said;
	e->n++;
	e->bytes += store_op_bytes(op);
	e->dropped += said == STORE_UNAVAILABLE && store_op_lost(op);
	if (a != NULL && a->batch->durable)
		e->reserved += a->batch->counts.pending;
	if (a != NULL && said == STORE_OK)
		e->came += a->batch->counts.total - a->n_settled;
	list_append(&e->ops, &op->msg.node);
}

/* Under the lock: of what was there, and of what came, so many items are final now. */
static void count_went(struct store *s, uint64_t came)
{
	uint64_t before = s->status.unfinished_items + came;

	window_now(&s->went, STORE_PACE_MS, store_now_us())->first +=
		(uint32_t)(before - MIN(before, s->backend->unfinished));
}

static void answer_all(struct store *s, struct ended *e)
{
	struct list *node;

	pthread_mutex_lock(&s->lock);
	s->status.queued_ops -= e->n;
	s->status.queued_bytes -= e->bytes;
	s->status.dropped += e->dropped;
	s->reserved -= e->reserved;
	count_went(s, e->came);
	s->status.unfinished_items = s->backend->unfinished;
	pthread_mutex_unlock(&s->lock);
	while ((node = list_pop(&e->ops)) != NULL)
		store_op_end(store_op_of(node), store_op_of(node)->answer);
}

/* Failing, and well again. */

static void refuse(struct store *s, struct list *ops)
{
	struct ended e;

	ended_init(&e);
	list_foreach(node, ops) {
		if (store_op_owed(store_op_of(node)))
			continue;
		list_remove(node);
		end(&e, store_op_of(node), STORE_UNAVAILABLE);
	}
	answer_all(s, &e);
}

static void say_failing(const struct store *s, const char *why)
{
	if (s->backend->hopeless)
		log_event(LOG_ERROR, "store_failing", LOG_STR("why", why),
			  LOG_STR("effect", "nothing more is written, and jobs stand still"),
			  LOG_STR("do", "stop the process, restore the database from a copy, and start again"));
	else
		log_event(LOG_ERROR, "store_failing", LOG_STR("why", why),
			  LOG_STR("effect", "jobs wait, and batches that need the disk are refused"),
			  LOG_STR("do", "make room or repair the disk; it then goes on by itself"));
}

static void enter_failing(struct store *s, int rc)
{
	const struct backend *b = s->backend;
	const char *why = b->why[0] == '\0' ? strerror(-rc) : b->why;
	int64_t now = store_now_us();
	bool first, worse = b->hopeless && s->retry_at_us != INT64_MAX;

	pthread_mutex_lock(&s->lock);
	first = !s->status.failing;
	s->status.failing = true;
	snprintf(s->status.why, sizeof s->status.why, "%s", why);
	pthread_mutex_unlock(&s->lock);
	if (first && now - s->recovered_us > CALM_US)
		s->backoff_us = BACKOFF_MIN_US;
	else
		s->backoff_us = MAX(BACKOFF_MIN_US, MIN(BACKOFF_MAX_US, s->backoff_us * 2));
	s->retry_at_us = b->hopeless ? INT64_MAX : now + s->backoff_us;
	s->more_to_expire = false;
	if (first || worse)
		say_failing(s, why);
	refuse(s, &s->todo);
}

/* On the page that a read found broken the next write may rest; a reload, which names
 * services, notes by itself what it met. */
static void enter_damaged(struct store *s)
{
	struct backend *b = s->backend;

	if (s->retry_at_us == INT64_MAX)
		return;
	if (!b->hopeless)
		snprintf(b->why, sizeof b->why, "a read found the database file damaged: restore it, or move it away with its -wal file");
	b->hopeless = true;
	enter_failing(s, -EUCLEAN);
}

static void recover(struct store *s)
{
	if (!s->status.failing)
		return;
	pthread_mutex_lock(&s->lock);
	s->status.failing = false;
	s->status.why[0] = '\0';
	pthread_mutex_unlock(&s->lock);
	s->recovered_us = store_now_us();
	log_event(LOG_WARN, "store_recovered", LOG_STR("effect", "writes work again; what waited is written"));
}

/* Groups. */

static unsigned bucket(const uint32_t *bounds, unsigned n, uint64_t value)
{
	unsigned i = 0;

	while (i < n && value > bounds[i])
		i++;
	return i;
}

static void count_group(struct store *s, uint64_t n, int64_t us)
{
	struct store_timings *t = &s->timings;

	pthread_mutex_lock(&s->lock);
	t->commits++;
	t->ops += n;
	t->commit_us_sum += (uint64_t)us;
	t->commit_us_le[bucket(store_timing_bounds_us, ARRAY_LEN(store_timing_bounds_us), (uint64_t)us)]++;
	t->group_le[bucket(store_group_bounds, ARRAY_LEN(store_group_bounds), n)]++;
	s->want_measure = true;
	pthread_mutex_unlock(&s->lock);
}

static bool wants_sync(const struct store_op *op)
{
	if (op->what == STORE_ACCEPT)
		return container_of(op, const struct store_accept, op)->batch->durable;
	return op->what == STORE_CLAIM && container_of(op, const struct store_claim, op)->synced;
}

/* Is there one of the next `max` that wants it? */
static bool any_wants_sync(const struct store *s, unsigned max)
{
	unsigned n = 0;

	list_foreach(node, &s->todo) {
		if (n++ == max)
			break;
		if (wants_sync(store_op_of(node)))
			return true;
	}
	return false;
}

/* Returns how many were written, or what failed. */
static int write_ops(struct store *s, unsigned max)
{
	int64_t until = store_now_us() + GROUP_US;
	unsigned n = 0;
	int rc = 0;

	while (rc == 0 && n < max && !list_empty(&s->todo) && (n == 0 || store_now_us() < until)) {
		struct list *node = list_pop(&s->todo);
		struct store_op *op = store_op_of(node);

		list_append(&s->group, node);
		n++;
		op->answer = STORE_OK;
		rc = s->backend->ops->write(s->backend, op);
	}
	return rc < 0 ? rc : (int)n;
}

static void answer_group(struct store *s)
{
	struct ended e;
	struct list *node;

	ended_init(&e);
	while ((node = list_pop(&s->group)) != NULL)
		end(&e, store_op_of(node), store_op_of(node)->answer);
	answer_all(s, &e);
}

/* Planted, on a disk that takes its time. */
static void answer_too_early(struct store *s)
{
	answer_group(s);
	usleep(10 * 1000);
}

static void undo_group(struct store *s, int rc)
{
	list_splice(&s->group, &s->todo);
	list_splice(&s->todo, &s->group);
	enter_failing(s, rc);
}

/* Up to `max` of what waits; none: see whether the disk takes anything at all. */
static bool run_group(struct store *s, unsigned max)
{
	const struct backend_ops *ops = s->backend->ops;
	bool touch = list_empty(&s->todo);
	int64_t began = 0;
	int n = 0, rc;

	s->group_us = store_now_us();
	rc = ops->begin(s->backend, touch || any_wants_sync(s, max));
	if (rc >= 0)
		n = rc = touch ? ops->touch(s->backend) : write_ops(s, max);
	if (rc >= 0) {
		if (PLANTED(ACK_BEFORE_COMMIT))
			answer_too_early(s);
		KILL_POINT("before_commit");
		began = store_now_us();
		rc = ops->commit(s->backend);
	}
	if (rc < 0) {
		ops->rollback(s->backend);
		undo_group(s, rc);
		return false;
	}
	KILL_POINT("after_commit_before_answer");
	if (!touch)
		count_group(s, (uint64_t)n, store_now_us() - began);
	recover(s);
	answer_group(s);
	return true;
}

static bool has_owed(const struct list *ops)
{
	list_foreach(node, ops)
		if (store_op_owed(store_op_of(node)))
			return true;
	return false;
}

/* The disk failed: is it time to try again, and is there something to try with? */
static bool may_try(const struct store *s)
{
	return store_now_us() >= s->retry_at_us && (!list_empty(&s->todo) || s->backend->ops->touch != NULL);
}

/* Where nothing is owed, the first that asks is the probe. */
static void write_while_failing(struct store *s, struct list *arrived)
{
	bool owed = !list_empty(&s->todo) || has_owed(arrived);

	if (owed || store_now_us() < s->retry_at_us)
		refuse(s, arrived);
	list_splice(&s->todo, arrived);
	if (may_try(s))
		run_group(s, owed ? GROUP_MAX : 1);
}

static void write_some(struct store *s, struct list *arrived)
{
	if (s->status.failing) {
		write_while_failing(s, arrived);
		return;
	}
	list_splice(&s->todo, arrived);
	if (!list_empty(&s->todo))
		run_group(s, GROUP_MAX);
}

/* The end is near: what cannot be written now never will be. Nor will what comes
 * after it, for steps that miss one before them would tell of what never was. */
static void write_rest(struct store *s, struct list *arrived)
{
	bool tried = s->backend->hopeless || s->gave_up;
	struct ended e;
	struct list *node;

	list_splice(&s->todo, arrived);
	while (!list_empty(&s->todo) && !tried) {
		tried = s->status.failing;
		if (run_group(s, GROUP_MAX))
			tried = false;
	}
	if (list_empty(&s->todo))
		return;
	ended_init(&e);
	while ((node = list_pop(&s->todo)) != NULL)
		end(&e, store_op_of(node), STORE_UNAVAILABLE);
	if (!s->gave_up)
		log_event(LOG_ERROR, "store_gave_up", LOG_INT("operations", e.n), LOG_STR("why", s->status.why),
			  LOG_STR("effect", "jobs go on from what was written before; some attempts may be repeated"));
	s->gave_up = true;
	answer_all(s, &e);
}

/* Between groups. */

static void expire_some(struct store *s)
{
	int64_t now = store_now_us();
	bool idle, more = false;
	int rc;

	pthread_mutex_lock(&s->lock);
	idle = list_empty(&s->inbox) && list_empty(&s->todo);
	pthread_mutex_unlock(&s->lock);
	if (s->backend->hopeless || (now < s->expire_at_us && !(s->more_to_expire && idle)))
		return;
	s->expire_at_us = now + EXPIRE_EVERY_US;
	rc = s->backend->ops->expire(s->backend, unix_ms(), &more);
	s->more_to_expire = more && rc == 0 && !s->status.failing;
	if (rc < 0 && !s->status.failing)
		enter_failing(s, rc);
}

/* The front counts the items itself, as their bound is exact. */
static void measure(struct store *s)
{
	struct store_status fresh = {0};
	int64_t now = store_now_us();
	bool wanted;

	if (now - s->measured_us < MEASURE_EVERY_US)
		return;
	pthread_mutex_lock(&s->lock);
	wanted = s->want_measure;
	s->want_measure = false;
	pthread_mutex_unlock(&s->lock);
	if (!wanted)
		return;
	s->measured_us = now;
	s->backend->ops->measure(s->backend, &fresh);
	pthread_mutex_lock(&s->lock);
	s->status.file_bytes = fresh.file_bytes;
	s->status.oldest_unfinished_unix_ms = fresh.oldest_unfinished_unix_ms;
	pthread_mutex_unlock(&s->lock);
}

/* Whoever asks need not have made its answer's place empty. */
static void prepare(struct store_op *op)
{
	struct store_read *r = container_of(op, struct store_read, op);
	struct store_list *l = container_of(op, struct store_list, op);

	op->answer = STORE_OK;
	if (op->what == STORE_READ) {
		r->batch = NULL;
		r->more = false;
		r->next = r->from;
	} else {
		l->n = 0;
		l->more = false;
	}
}

static void call_in_thread(struct store_op *op)
{
	struct store_read *r = container_of(op, struct store_read, op);
	struct store_list *l = container_of(op, struct store_list, op);

	if (op->what == STORE_READ && r->in_thread != NULL)
		r->in_thread(r);
	else if (op->what == STORE_LIST && l->in_thread != NULL)
		l->in_thread(l);
}

static void say_read_failed(int rc)
{
	const char *why = rc == -EUCLEAN ? "the database file is damaged"
			: rc == -EBADMSG ? "what the database has of a batch does not add up" : strerror(-rc);

	log_event(LOG_ERROR, "store_read_failed", LOG_STR("why", why),
		  LOG_STR("do", "look at the disk and at the database on it"));
}

static void tell_damage(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	s->read_damage = true;
	pthread_cond_signal(&s->wake_writer);
	pthread_mutex_unlock(&s->lock);
}

static void run_reads(struct store *s, struct list *reads)
{
	struct list *node;

	while ((node = list_pop(reads)) != NULL) {
		struct store_op *op = store_op_of(node);
		int rc;

		prepare(op);
		rc = s->backend->ops->read(s->backend, op);
		if (rc < 0 && !s->reads_fail)
			say_read_failed(rc);
		if (rc == -EUCLEAN)
			tell_damage(s);
		s->reads_fail = rc < 0;
		if (rc < 0)
			op->answer = STORE_UNAVAILABLE;
		else if (op->answer == STORE_OK)
			call_in_thread(op);
		store_op_end(op, op->answer);
	}
}

/* The threads. */

/* When there is something to do at the latest, though nobody asks. */
static int64_t alarm_us(const struct store *s)
{
	int64_t at = s->backend->hopeless ? INT64_MAX : s->expire_at_us;

	if (s->more_to_expire)
		return 0;
	if (s->status.failing && !s->giving_up && (!list_empty(&s->todo) || s->backend->ops->touch != NULL))
		at = MIN(at, s->retry_at_us);
	if (s->want_measure)
		at = MIN(at, s->measured_us + MEASURE_EVERY_US);
	return at;
}

static bool is_asked(const struct store *s)
{
	return s->closing || s->read_damage || !list_empty(&s->inbox) || (!s->backend->ops->concurrent && !list_empty(&s->reads)) ||
	       ((s->giving_up || !s->status.failing) && !list_empty(&s->todo));
}

/* Under the lock. */
static void wait_for_work(struct store *s)
{
	while (!is_asked(s)) {
		int64_t at = alarm_us(s);
		struct timespec t = {.tv_sec = at / 1000000, .tv_nsec = at % 1000000 * 1000};

		if (at <= store_now_us())
			return;
		if (at == INT64_MAX)
			pthread_cond_wait(&s->wake_writer, &s->lock);
		else
			pthread_cond_timedwait(&s->wake_writer, &s->lock, &t);
	}
}

/* Under the lock. Who asks meanwhile finds that others have, and wakes nobody: that
 * is most of what a small group costs. A group that comes alone does not wait, nor
 * does a read, nor the end. */
static void gather(struct store *s)
{
	int64_t at = s->group_us + GATHER_US;
	struct timespec t = {.tv_sec = at / 1000000, .tv_nsec = at % 1000000 * 1000};

	while (!s->closing && !list_empty(&s->inbox) && list_empty(&s->todo) &&
	       (s->backend->ops->concurrent || list_empty(&s->reads)) && store_now_us() < at)
		pthread_cond_timedwait(&s->wake_writer, &s->lock, &t);
}

/* A note that comes in the same group is not there yet, and fails with it. */
static void mark_owed(struct list *arrived)
{
	list_foreach(node, arrived) {
		struct store_finish *f = container_of(store_op_of(node), struct store_finish, op);

		if (f->op.what == STORE_FINISH)
			f->owed = f->batch->durable || f->batch->store_row != 0;
	}
}

void *store_writer_main(void *arg)
{
	struct store *s = arg;
	struct list reads, arrived;
	bool closing, giving_up, damaged;

	list_init(&reads);
	list_init(&arrived);
	do {
		pthread_mutex_lock(&s->lock);
		wait_for_work(s);
		gather(s);
		closing = s->closing;
		giving_up = s->giving_up;
		damaged = s->read_damage;
		s->read_damage = false;
		list_splice(&arrived, &s->inbox);
		if (!s->backend->ops->concurrent)
			list_splice(&reads, &s->reads);
		pthread_mutex_unlock(&s->lock);
		pthread_mutex_lock(&s->turn);
		run_reads(s, &reads);
		mark_owed(&arrived);
		if (damaged || s->backend->hopeless)
			enter_damaged(s);
		if (closing || s->gave_up || (giving_up && s->status.failing))
			write_rest(s, &arrived);
		else
			write_some(s, &arrived);
		if (!closing) {
			expire_some(s);
			measure(s);
		}
		pthread_mutex_unlock(&s->turn);
	} while (!closing);
	return NULL;
}

void *store_reader_main(void *arg)
{
	struct store *s = arg;
	struct list reads;
	bool closing;

	list_init(&reads);
	do {
		pthread_mutex_lock(&s->lock);
		while (list_empty(&s->reads) && !s->closing)
			pthread_cond_wait(&s->wake_reader, &s->lock);
		closing = s->closing;
		list_splice(&reads, &s->reads);
		pthread_mutex_unlock(&s->lock);
		run_reads(s, &reads);
	} while (!closing);
	return NULL;
}
