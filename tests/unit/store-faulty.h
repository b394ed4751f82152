/*
 * A store over a backend whose calls fail, or wait, when a test says so. What was
 * committed it keeps in a memory backend, and logs.
 */
#pragma once

#include <errno.h>

#include "store-rig.h"
#include "store/backend-i.h"

enum { FOR_EVER = -1, LOG_MAX = 8192 };

static struct faulty {
	struct backend backend;
	struct backend *inner;
	struct backend_ops ops;
	/* Under the lock. */
	struct fault {
		unsigned skip;           /* so many go well ... */
		int left;                /* ... and so many fail; FOR_EVER: all */
	} begins, writes, commits, expires;
	unsigned from_try;               /* faults count from this group on */
	int reads;                       /* 0, or what each fails with */
	bool held;                       /* the writer waits before a group */
	bool waits;                      /* ... and does so now */
	bool synced;                     /* the last group that was committed */
	unsigned groups, touches, tries; /* committed groups; committed touches; groups begun */
	unsigned expired;                /* steps of forgetting that were asked for */
	unsigned largest;                /* group that was committed */
	/* The operations of the group that runs, and those that were committed. */
	struct logged {
		enum store_do what;
		uint32_t index;
	} running[LOG_MAX], log[LOG_MAX];
	unsigned n_running, n_log;
	bool touched, wants_sync;
} f;

static struct store *s;
static struct store_config cfg;

#define LOCKED(...)                                     \
	do {                                            \
		pthread_mutex_lock(&rig_lock);          \
		__VA_ARGS__;                            \
		pthread_cond_broadcast(&rig_changed);   \
		pthread_mutex_unlock(&rig_lock);        \
	} while (0)

#define WAIT_UNTIL(cond)                                                \
	do {                                                            \
		pthread_mutex_lock(&rig_lock);                          \
		while (!(cond))                                         \
			pthread_cond_wait(&rig_changed, &rig_lock);     \
		pthread_mutex_unlock(&rig_lock);                        \
	} while (0)

/* Is it this call's turn to fail? */
static int fault(struct fault *of)
{
	bool fails = false;

	pthread_mutex_lock(&rig_lock);
	if (of->left != 0 && f.tries >= f.from_try) {
		fails = of->skip == 0;
		of->skip -= !fails;
		of->left -= fails && of->left > 0;
	}
	pthread_mutex_unlock(&rig_lock);
	if (fails)
		snprintf(f.backend.why, sizeof f.backend.why, "the disk is on holiday");
	return fails ? -EIO : 0;
}

static int begin(struct backend *b, bool synced)
{
	int rc;

	(void)b;
	LOCKED(f.waits = f.held; f.tries++);
	WAIT_UNTIL(!f.held);
	LOCKED(f.waits = false);
	rc = fault(&f.begins);
	f.n_running = 0;
	f.touched = false;
	f.wants_sync = synced;
	return rc < 0 ? rc : f.inner->ops->begin(f.inner, synced);
}

static uint32_t index_of(const struct store_op *op)
{
	if (op->what == STORE_CLAIM)
		return container_of(op, const struct store_claim, op)->index;
	return op->what == STORE_UPDATE ? container_of(op, const struct store_update, op)->item.index : 0;
}

static int write_op(struct backend *b, struct store_op *op)
{
	int rc = fault(&f.writes);

	(void)b;
	assert_true(f.n_running < LOG_MAX);
	f.running[f.n_running++] = (struct logged){op->what, index_of(op)};
	return rc < 0 ? rc : f.inner->ops->write(f.inner, op);
}

static int touch(struct backend *b)
{
	(void)b;
	f.touched = true;
	return fault(&f.writes);
}

static int commit(struct backend *b)
{
	int rc = fault(&f.commits);

	if (rc < 0 || (rc = f.inner->ops->commit(f.inner)) < 0)
		return rc;
	b->unfinished = f.inner->unfinished;
	pthread_mutex_lock(&rig_lock);
	for (unsigned i = 0; i < f.n_running; i++)
		f.log[f.n_log++ % LOG_MAX] = f.running[i];
	f.largest = MAX(f.largest, f.n_running);
	f.groups++;
	f.touches += f.touched;
	f.synced = f.wants_sync;
	pthread_cond_broadcast(&rig_changed);
	pthread_mutex_unlock(&rig_lock);
	return 0;
}

static void rollback(struct backend *b)
{
	(void)b;
	f.inner->ops->rollback(f.inner);
}

static int read_op(struct backend *b, struct store_op *op)
{
	int rc;

	(void)b;
	LOCKED(rc = f.reads);
	return rc < 0 ? rc : f.inner->ops->read(f.inner, op);
}

static int expire(struct backend *b, int64_t now, bool *ret_more)
{
	int rc = fault(&f.expires);

	(void)b;
	LOCKED(f.expired++);
	return rc < 0 ? rc : f.inner->ops->expire(f.inner, now, ret_more);
}

static int each_unfinished(struct backend *b, void (*each)(void *arg, const struct store_unfinished *u), void *arg)
{
	int rc = fault(&f.begins);

	(void)b;
	return rc < 0 ? rc : f.inner->ops->each_unfinished(f.inner, each, arg);
}

static void measure(struct backend *b, struct store_status *ret)
{
	(void)b;
	f.inner->ops->measure(f.inner, ret);
}

static void close_both(struct backend *b)
{
	(void)b;
	f.inner->ops->close(f.inner);
}

static void open_front(bool notes, bool touches)
{
	f = (struct faulty){.ops = {.keeps_notes = notes, .begin = begin, .write = write_op, .commit = commit,
				    .rollback = rollback, .touch = touches ? touch : NULL, .read = read_op,
				    .expire = expire, .each_unfinished = each_unfinished, .measure = measure,
				    .close = close_both}};
	f.inner = memory_open(&cfg);
	f.backend = (struct backend){.ops = &f.ops, .cfg = &cfg};
	s = store_open_backend(&cfg, &f.backend);
}

static int setup(void **state)
{
	(void)state;
	rig_start();
	cfg = (struct store_config){.memory_bytes = 1 << 26, .queue_bytes = 1 << 26, .stored_items = 1000000};
	open_front(true, true);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	store_close(s);
	rig_stop();
	return 0;
}

/* The store as a test wants it, in place of the one that it found. */
static void reopen(bool notes, bool touches)
{
	store_close(s);
	open_front(notes, touches);
}

/* The writer waits, with this operation in its hands, for let_go(). */
static struct store_delete holding;

static void hold(void)
{
	LOCKED(f.held = true);
	holding = (struct store_delete){.id = rig_id(1)};
	rig_ask(s, &holding.op, STORE_DELETE);
	WAIT_UNTIL(f.waits);
}

static void let_go(void)
{
	LOCKED(f.held = false);
}

static struct batch *accepted(uint32_t n)
{
	struct batch *b = rig_batch(n);

	assert_int_equal(rig_accept(s, b), STORE_OK);
	LOCKED(f.n_log = 0; f.groups = f.touches = f.tries = f.largest = 0);
	return b;
}

static struct store_status status(void)
{
	struct store_status st;

	store_status(s, &st);
	return st;
}

static enum store_answer try_delete(void)
{
	return rig_delete(s, rig_id(1));
}

/* Until the writer has seen it. */
static void break_disk(void)
{
	LOCKED(f.commits = (struct fault){.left = FOR_EVER});
	assert_int_equal(try_delete(), STORE_UNAVAILABLE);
	assert_true(status().failing);
	assert_string_equal(status().why, "the disk is on holiday");
}

static void mend_disk(void)
{
	LOCKED(f.commits = (struct fault){0});
}
