/*
 * What the shards call: the bounds, the queue, and what is answered at once. The
 * writer is in writer.c.
 *
 * Invariants
 *  1. An operation is in one list: inbox or reads, then todo or group, until it
 *     was answered; nothing of it is touched after.
 *  2. status.queued_ops and queued_bytes are of inbox, todo and group.
 *  3. status.unfinished_items is the backend's; `reserved` what waits to be written.
 *     Together they stay within stored_items.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "store/store-i.h"

int64_t store_now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

static struct batch **batch_of(struct store_op *op)
{
	switch (op->what) {
	case STORE_ACCEPT:
		return &container_of(op, struct store_accept, op)->batch;
	case STORE_UPDATE:
		return &container_of(op, struct store_update, op)->batch;
	case STORE_FINISH:
		return &container_of(op, struct store_finish, op)->batch;
	case STORE_CLAIM:
	case STORE_PARK:
	case STORE_DELETE:
	case STORE_READ:
	case STORE_LIST:
		break;
	}
	return NULL;
}

bool store_op_owed(const struct store_op *op)
{
	switch (op->what) {
	case STORE_CLAIM:
	case STORE_UPDATE:
	case STORE_PARK:
		return true;
	case STORE_FINISH:
		return container_of(op, const struct store_finish, op)->owed;
	case STORE_ACCEPT:
	case STORE_DELETE:
	case STORE_READ:
	case STORE_LIST:
		break;
	}
	return false;
}

static size_t batch_bytes(const struct batch *b)
{
	return sizeof *b + b->n_items * sizeof *b->items + (b->body == NULL ? 0 : b->body->n);
}

size_t store_op_bytes(const struct store_op *op)
{
	switch (op->what) {
	case STORE_ACCEPT:
		return sizeof(struct store_accept) + batch_bytes(container_of(op, const struct store_accept, op)->batch);
	case STORE_FINISH:
		return sizeof(struct store_finish) + batch_bytes(container_of(op, const struct store_finish, op)->batch);
	case STORE_UPDATE:
		return sizeof(struct store_update);
	case STORE_CLAIM:
	case STORE_PARK:
	case STORE_DELETE:
	case STORE_READ:
	case STORE_LIST:
		break;
	}
	return sizeof(struct store_claim);
}

static void answer(struct loop_msg *msg)
{
	struct store_op *op = container_of(msg, struct store_op, msg);

	op->on_done(op);
}

void store_op_end(struct store_op *op, enum store_answer said)
{
	struct batch **owned = batch_of(op);

	if (owned != NULL) {
		batch_unref(*owned);
		*owned = NULL;
	}
	op->answer = said;
	if (op->reply_to == NULL) {
		free(op);
		return;
	}
	op->msg.run = answer;
	loop_post(op->reply_to, &op->msg);
}

/* Under the lock: no room for so many items more than there are. */
static void refuse(struct store *s, struct store_accept *a, uint64_t excess)
{
	(void)window_now(&s->went, STORE_PACE_MS, store_now_us());
	a->excess = excess;
	a->per_second = window_sum(&s->went, WINDOW_PARTS).first * 1000.0 / STORE_PACE_MS;
}

/* Under the lock. STORE_OK: there is room. */
static enum store_answer admit(struct store *s, struct store_op *op, size_t bytes)
{
	bool full = s->status.queued_ops > 0 && s->status.queued_bytes + bytes > s->cfg.queue_bytes;
	struct store_accept *a;
	uint64_t n;

	if (op->what != STORE_ACCEPT && op->what != STORE_DELETE)
		return STORE_OK;
	if (full)
		return s->status.failing ? STORE_UNAVAILABLE : STORE_BUSY;
	if (op->what != STORE_ACCEPT)
		return STORE_OK;
	a = container_of(op, struct store_accept, op);
	if (!a->batch->durable)
		return STORE_OK;
	n = s->status.unfinished_items + s->reserved + a->batch->counts.pending;
	if (n > s->cfg.stored_items) {
		refuse(s, a, n - s->cfg.stored_items);
		return STORE_BUSY;
	}
	s->reserved += a->batch->counts.pending;
	return STORE_OK;
}

bool store_op_lost(const struct store_op *op)
{
	return op->what == STORE_FINISH ||
	       (op->what == STORE_ACCEPT && !container_of(op, const struct store_accept, op)->batch->durable);
}

static void ask_writer(struct store *s, struct store_op *op)
{
	size_t bytes = store_op_bytes(op);
	enum store_answer said;
	bool first;

	pthread_mutex_lock(&s->lock);
	said = admit(s, op, bytes);
	if (said == STORE_OK) {
		first = list_empty(&s->inbox);
		list_append(&s->inbox, &op->msg.node);
		s->status.queued_ops++;
		s->status.queued_bytes += bytes;
		if (first)
			pthread_cond_signal(&s->wake_writer);
	} else if (store_op_lost(op)) {
		s->status.dropped++;
	}
	pthread_mutex_unlock(&s->lock);
	if (said != STORE_OK)
		store_op_end(op, said);
}

static void ask_reader(struct store *s, struct store_op *op)
{
	pthread_mutex_lock(&s->lock);
	list_append(&s->reads, &op->msg.node);
	pthread_cond_signal(s->backend->ops->concurrent ? &s->wake_reader : &s->wake_writer);
	pthread_mutex_unlock(&s->lock);
}

/* A plain batch that is done, in memory: nothing comes before it, and to keep it is
 * less than to wake a thread for it. Unless that is at work. */
static bool finish_at_once(struct store *s, struct store_op *op)
{
	const struct backend_ops *ops = s->backend->ops;
	int rc;

	if (ops->keeps_notes || op->what != STORE_FINISH ||
	    container_of(op, struct store_finish, op)->batch->durable || pthread_mutex_trylock(&s->turn) != 0)
		return false;
	op->answer = STORE_OK;
	rc = ops->begin(s->backend, false);
	if (rc == 0)
		rc = ops->write(s->backend, op);
	if (rc == 0)
		rc = ops->commit(s->backend);
	if (rc < 0)
		ops->rollback(s->backend);
	pthread_mutex_unlock(&s->turn);
	store_op_end(op, rc < 0 ? STORE_UNAVAILABLE : op->answer);
	return true;
}

void store_ask(struct store *s, struct store_op *op)
{
	if (store_op_reads(op))
		ask_reader(s, op);
	else if (!s->backend->ops->keeps_notes && op->what == STORE_ACCEPT &&
		 !container_of(op, struct store_accept, op)->batch->durable)
		store_op_end(op, STORE_OK);
	else if (!finish_at_once(s, op))
		ask_writer(s, op);
}

void store_status(struct store *s, struct store_status *ret)
{
	pthread_mutex_lock(&s->lock);
	*ret = s->status;
	s->want_measure = true;
	pthread_cond_signal(&s->wake_writer);
	pthread_mutex_unlock(&s->lock);
}

void store_timings(struct store *s, struct store_timings *ret)
{
	pthread_mutex_lock(&s->lock);
	*ret = s->timings;
	pthread_mutex_unlock(&s->lock);
}

bool store_each_unfinished(struct store *s, void (*each)(void *arg, const struct store_unfinished *u), void *arg,
			   struct buf *reterr)
{
	int rc;

	pthread_mutex_lock(&s->turn);
	rc = s->backend->ops->each_unfinished(s->backend, each, arg);
	if (rc < 0)
		buf_printf(reterr, "%s: cannot read the unfinished batches: %s: repair the disk, or restore the database",
			   s->cfg.path == NULL ? "memory" : s->cfg.path,
			   s->backend->why[0] == '\0' ? strerror(-rc) : s->backend->why);
	pthread_mutex_unlock(&s->turn);
	return rc == 0;
}

bool store_name_services(struct store *s, const char *const *names, size_t n, struct buf *reterr)
{
	const struct backend_ops *ops = s->backend->ops;
	bool ok;

	pthread_mutex_lock(&s->turn);
	ok = ops->name_services == NULL || ops->name_services(s->backend, names, n, reterr);
	pthread_mutex_unlock(&s->turn);
	return ok;
}

void store_set_services(struct store *s, const bool *gone, size_t n)
{
	pthread_mutex_lock(&s->turn);
	s->backend->ops->set_services(s->backend, gone, n);
	pthread_mutex_unlock(&s->turn);
}

void store_set_limits(struct store *s, const struct store_limits *limits)
{
	pthread_mutex_lock(&s->turn);
	pthread_mutex_lock(&s->lock);
	s->cfg.memory_bytes = limits->memory_bytes;
	s->cfg.queue_bytes = limits->queue_bytes;
	s->cfg.stored_items = limits->stored_items;
	pthread_mutex_unlock(&s->lock);
	pthread_mutex_unlock(&s->turn);
}

static void start(pthread_t *t, void *(*run)(void *), void *arg)
{
	REQUIRE(pthread_create(t, NULL, run, arg) == 0);
}

struct store *store_open_backend(const struct store_config *cfg, struct backend *take)
{
	struct store *s = xcalloc(1, sizeof *s);
	pthread_condattr_t monotonic;

	s->cfg = *cfg;
	s->backend = take;
	take->cfg = &s->cfg;
	pthread_mutex_init(&s->turn, NULL);
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake_writer, &monotonic);
	pthread_cond_init(&s->wake_reader, NULL);
	pthread_condattr_destroy(&monotonic);
	list_init(&s->inbox);
	list_init(&s->reads);
	list_init(&s->todo);
	list_init(&s->group);
	take->ops->measure(take, &s->status);
	s->status.unfinished_items = take->unfinished;
	start(&s->writer, store_writer_main, s);
	if (take->ops->concurrent)
		start(&s->reader, store_reader_main, s);
	return s;
}

struct store *store_open(const struct store_config *cfg, struct buf *reterr)
{
	struct backend *b = cfg->path == NULL ? memory_open(cfg) : sqlite_open(cfg, reterr);

	return b == NULL ? NULL : store_open_backend(cfg, b);
}

void store_give_up(struct store *s)
{
	pthread_mutex_lock(&s->lock);
	s->giving_up = true;
	pthread_cond_signal(&s->wake_writer);
	pthread_mutex_unlock(&s->lock);
}

void store_close(struct store *s)
{
	if (s == NULL)
		return;
	pthread_mutex_lock(&s->lock);
	s->closing = true;
	pthread_cond_signal(&s->wake_writer);
	pthread_cond_signal(&s->wake_reader);
	pthread_mutex_unlock(&s->lock);
	pthread_join(s->writer, NULL);
	if (s->backend->ops->concurrent)
		pthread_join(s->reader, NULL);
	s->backend->ops->close(s->backend);
	pthread_cond_destroy(&s->wake_writer);
	pthread_cond_destroy(&s->wake_reader);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->turn);
	free(s);
}
