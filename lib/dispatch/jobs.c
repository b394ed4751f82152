/*
 * Jobs that are in the store alone: a small entry each, until they are due and
 * there is room for them.
 *
 *   jobs_add(), dispatch_recover()
 *      │
 *      ▼         due              room              answer
 *   ASLEEP ───────────► DUE ──────────────► LOADING ──────► live.c
 *      └─ to be ended, ► (urgent) ─────────►   │
 *         or its deadline
 *                        ▲    the store fails  │
 *                        └─────────────────────┘
 *
 * Invariants
 *  1. Every entry is in by_id, and according to its state in `asleep`, in a list
 *     of those that are due, or in one question to the store.
 *  2. An id is in by_id or in live_by_id, never in both.
 *  3. At most LOADS_MAX questions are under way; at most as many batches that were
 *     fetched past the others, as they are to be ended, are in memory.
 *  4. Room is taken when the question is asked, and given back when the batch has
 *     left memory. Services take turns, and so do the classes of a service; one
 *     without room holds up no other.
 *  5. An entry that waits and is not urgent is in `deadlines`: a job ends in time,
 *     whether or not there is room for it.
 */
#include <stdlib.h>

#include "dispatch-i.h"
#include "jobs-i.h"
#include "live-i.h"
#include "obs/log.h"
#include "residency-i.h"
#include "tenants-i.h"

enum { LOADS_MAX = 16, BACKOFF_MIN_US = 100000, BACKOFF_MAX_US = 5000000 };

/* Jobs of one service that are due. Tenants, and the
 * origins of a service that has several, are hashed into classes, each of which holds less
 * than a part of the room that is left, so that one that hangs leaves most of it to the
 * others. */
enum { JOB_CLASSES = 16, JOB_CLASS_NONE = 0 };

struct shelf {
	struct list due[JOB_CLASSES];    /* oldest first */
	size_t held[JOB_CLASSES];        /* room */
	unsigned n_due, turn;            /* the class whose turn it is */
};

struct jobs {
	struct idmap by_id;
	struct heap asleep;              /* by due time */
	struct heap deadlines;           /* of those that wait and are not urgent */
	struct shelf **shelves;          /* by service, NULL until it has a job; the last for ITEM_NO_SERVICE */
	struct list urgent;              /* to be ended, or over: past the others, and room */
	struct residency residency;
	size_t turn;                     /* the service whose turn it is */
	unsigned n_due, loads, n_urgent; /* n_urgent: fetched, and not gone yet */
	int64_t retry_us;                /* the store failed: nothing is fetched before ... */
	int64_t backoff_us;              /* ... and how long that was */
};

enum job_state { JOB_ASLEEP, JOB_DUE, JOB_LOADING };

struct job {
	struct idmap_node node;
	union {
		struct heap_node asleep; /* key: when it is due */
		struct list due;
	};
	struct heap_node deadline;
	const char *tenant;              /* its name, which outlives all */
	uint32_t bytes;
	uint32_t pending;                /* of its items */
	uint16_t service;
	uint16_t tenant_no;              /* as in struct live */
	uint8_t state;                   /* enum job_state */
	uint8_t end;                     /* enum why: it is fetched to be ended */
	uint8_t class;                   /* JOB_CLASS_NONE: it has none, or it is not known yet */
	bool urgent;                     /* past the others, whatever room there is */
};

struct load {
	struct store_read read;
	struct dispatch *d;
	struct job *job;
	uint32_t room;                   /* taken for it: limits may change meanwhile */
};

/* ---- room ---- */

static size_t limit(const struct dispatch *d)
{
	return d->env.config->limits.resident_bytes / d->env.group->n;
}

/* The last one is for those that have no service. */
static size_t index_of(const struct dispatch *d, uint16_t service)
{
	return MIN((size_t)service, d->jobs->residency.n_services);
}

static struct shelf *shelf_new(void)
{
	struct shelf *shelf = xcalloc(1, sizeof *shelf);

	for (size_t i = 0; i < JOB_CLASSES; i++)
		list_init(&shelf->due[i]);
	return shelf;
}

static struct shelf *shelf_of(const struct dispatch *d, uint16_t service)
{
	struct shelf **shelf = &d->jobs->shelves[index_of(d, service)];

	if (*shelf == NULL)
		*shelf = shelf_new();
	return *shelf;
}

/* Of its tenant and, where a service has many, of the origin of its first item. */
static uint8_t class_of(const struct dispatch *d, const struct batch *b)
{
	CLEANUP(buf_free) struct buf origin = {0};
	const struct config *c = d->env.config;
	uint16_t service = b->n_items == 0 ? (uint16_t)ITEM_NO_SERVICE : b->items[0].service;
	uint64_t seed = d->env.group->hash_seed;

	if (service >= c->n_services || (c->services[service].kind == SERVICE_HTTP && c->n_tenants <= 1))
		return JOB_CLASS_NONE;
	if (c->services[service].kind == SERVICE_WEBHOOK)
		channel_origin(&c->services[service], b->items[0].to, &origin);
	seed = slice_hash(b->tenant, slice_hash(buf_slice(&origin), seed));
	return (uint8_t)(1 + seed % (JOB_CLASSES - 1));
}

static bool may_take(const struct dispatch *d, uint16_t service, uint8_t class)
{
	const struct residency *r = &d->jobs->residency;

	return residency_may_take(r, limit(d), service) &&
	       (class == JOB_CLASS_NONE || residency_part_may_take(r, limit(d), shelf_of(d, service)->held[class]));
}

/* Who comes now does not overtake those that wait for the same room. */
bool jobs_have_room(struct live *lv)
{
	const struct batch *b = lv->batch;

	lv->service = b->n_items == 0 ? (uint16_t)ITEM_NO_SERVICE : b->items[0].service;
	lv->class = class_of(lv->d, b);
	return list_empty(&shelf_of(lv->d, lv->service)->due[lv->class]) && may_take(lv->d, lv->service, lv->class);
}

/* What a job counts for: at most the part that each service would have if all of
 * them hung. One that is larger than all of the room keeps nobody else out. */
static uint32_t room_of(const struct dispatch *d, uint32_t bytes)
{
	return (uint32_t)MIN(bytes, MAX(limit(d) / (d->env.config->n_services + 1), 1u));
}

static void take_room(struct dispatch *d, uint16_t service, uint8_t class, uint32_t bytes)
{
	residency_take(&d->jobs->residency, service, bytes);
	shelf_of(d, service)->held[class] += bytes;
	meter_add(d->env.meter, METRIC_RESIDENT_JOBS, 0, 0, 1);
	meter_add(d->env.meter, METRIC_RESIDENT_BYTES, 0, 0, bytes);
}

static void give_room(struct dispatch *d, uint16_t service, uint8_t class, uint32_t bytes)
{
	residency_give(&d->jobs->residency, service, bytes);
	shelf_of(d, service)->held[class] -= bytes;
	meter_add(d->env.meter, METRIC_RESIDENT_JOBS, 0, 0, -1);
	meter_add(d->env.meter, METRIC_RESIDENT_BYTES, 0, 0, -(int64_t)bytes);
}

static uint32_t to_bytes(size_t n)
{
	return (uint32_t)MAX(MIN(n, UINT32_MAX), 1u);
}

void jobs_take(struct live *lv, size_t bytes)
{
	lv->room = room_of(lv->d, to_bytes(bytes));
	take_room(lv->d, lv->service, lv->class, lv->room);
}

void jobs_give(struct live *lv)
{
	if (lv->room > 0)
		give_room(lv->d, lv->service, lv->class, lv->room);
	lv->room = 0;
	if (lv->urgent)
		lv->d->jobs->n_urgent--;
	lv->urgent = false;
}

/* ---- entries ---- */

void jobs_init(struct dispatch *d)
{
	struct jobs *j = xcalloc(1, sizeof *j);
	size_t n = d->env.config->service_slots;

	d->jobs = j;
	j->shelves = xcalloc(n + 1, sizeof *j->shelves);
	list_init(&j->urgent);
	residency_init(&j->residency, n);
	j->backoff_us = BACKOFF_MIN_US;
}

static void forget(struct dispatch *d, struct job *job)
{
	heap_remove(&d->jobs->deadlines, &job->deadline);
	idmap_remove(&d->jobs->by_id, &job->node);
	meter_add(d->env.meter, METRIC_BACKLOG_JOBS, 0, 0, -1);
	free(job);
}

/* Its items are this process's no more. */
static void abandon(struct dispatch *d, struct job *job)
{
	tenant_unqueue(d, job->tenant_no, job->pending);
	forget(d, job);
}

static void abandon_list(struct dispatch *d, struct list *from)
{
	struct list *node;

	while ((node = list_pop(from)) != NULL)
		abandon(d, list_entry(node, struct job, due));
}

static void shelf_free(struct dispatch *d, struct shelf *shelf)
{
	for (size_t i = 0; shelf != NULL && i < JOB_CLASSES; i++)
		abandon_list(d, &shelf->due[i]);
	free(shelf);
}

void jobs_free(struct dispatch *d)
{
	struct jobs *j = d->jobs;
	struct heap_node *node;

	REQUIRE(j->loads == 0);
	while ((node = heap_pop(&j->asleep, HEAP_NONE)) != NULL)
		abandon(d, container_of(node, struct job, asleep));
	for (size_t i = 0; i <= j->residency.n_services; i++)
		shelf_free(d, j->shelves[i]);
	abandon_list(d, &j->urgent);
	free(j->shelves);
	heap_free(&j->asleep);
	heap_free(&j->deadlines);
	idmap_free(&j->by_id);
	residency_free(&j->residency);
	free(j);
}

/* It waits for its turn: at the end, or if it had its turn already in front. */
static void make_due(struct dispatch *d, struct job *job, bool first)
{
	struct jobs *j = d->jobs;
	struct shelf *shelf = shelf_of(d, job->service);
	struct list *to = job->urgent ? &j->urgent : &shelf->due[job->class];

	job->state = JOB_DUE;
	if (first)
		list_prepend(to, &job->due);
	else
		list_append(to, &job->due);
	if (!job->urgent) {
		j->n_due++;
		shelf->n_due++;
	}
	dispatch_pump_soon(d);
}

static void hurry(struct dispatch *d, struct job *job)
{
	job->urgent = true;
	heap_remove(&d->jobs->deadlines, &job->deadline);
	make_due(d, job, false);
}

/* Those that are due already keep the order in which they came. */
static void put_to_sleep(struct dispatch *d, struct job *job, int64_t due_us)
{
	if (due_us <= loop_now_us(d->env.loop)) {
		make_due(d, job, false);
		return;
	}
	job->state = JOB_ASLEEP;
	heap_set(&d->jobs->asleep, &job->asleep, due_us);
	dispatch_pump_soon(d);
}

static struct job *job_new(struct dispatch *d, struct batch_id id, int64_t deadline_us)
{
	struct job *job = xcalloc(1, sizeof *job);

	heap_set(&d->jobs->deadlines, &job->deadline, deadline_us);
	idmap_add(&d->jobs->by_id, &job->node, id);
	meter_add(d->env.meter, METRIC_BACKLOG_JOBS, 0, 0, 1);
	return job;
}

/* It will take what its unfinished items take of what it takes now. */
void jobs_add(struct live *lv, int64_t due_us)
{
	struct dispatch *d = lv->d;
	const struct batch *b = lv->batch;
	uint64_t bytes = b->held_bytes;
	struct job *job = job_new(d, b->id, dispatch_after(b->accepted_us, b->policy.deadline_ms));

	job->bytes = to_bytes(bytes * b->counts.pending / MAX(b->n_items, 1u));
	job->pending = b->counts.pending;
	job->tenant = dispatch_tenants_name(&d->env.group->tenants, b->tenant);
	job->tenant_no = lv->tenant;
	job->service = lv->service;
	job->class = class_of(d, b);
	put_to_sleep(d, job, due_us);
}

void dispatch_recover(struct dispatch *d, const struct store_unfinished *u)
{
	/* A clock that was set back since lengthens nothing. */
	int64_t now_us = loop_now_us(d->env.loop), unix_ms = MAX(loop_unix_ms(d->env.loop), u->created_unix_ms);
	int64_t wait_ms = u->due_unix_ms - unix_ms, left_ms = u->deadline_unix_ms - unix_ms;
	struct job *job = job_new(d, u->id, now_us + left_ms * 1000);

	job->bytes = to_bytes(u->bytes);
	job->pending = u->pending;
	job->tenant = dispatch_tenants_name(&d->env.group->tenants, u->tenant);
	job->tenant_no = (uint16_t)config_find_tenant(d->env.config, u->tenant);
	tenant_queue_known(d, job->tenant_no, u->pending);
	job->service = u->service;
	job->urgent = !u->asynchronous;
	job->end = u->asynchronous ? WHY_NONE : WHY_INTERRUPTED;
	meter_add(d->env.meter, METRIC_JOBS_RECOVERED, 0, 0, 1);
	if (job->urgent)
		hurry(d, job);
	else
		put_to_sleep(d, job, dispatch_after(now_us, MAX(wait_ms, 0)));
}

/* It waits no longer for its time, nor for room. */
static void wake_urgently(struct dispatch *d, struct job *job)
{
	if (job->urgent || job->state == JOB_LOADING)
		return;
	if (job->state == JOB_ASLEEP) {
		heap_remove(&d->jobs->asleep, &job->asleep);
	} else {
		list_remove(&job->due);
		d->jobs->n_due--;
		shelf_of(d, job->service)->n_due--;
	}
	hurry(d, job);
}

bool jobs_cancel(struct dispatch *d, struct batch_id id, struct slice tenant)
{
	struct idmap_node *node = idmap_find(&d->jobs->by_id, id);
	struct job *job;

	if (node == NULL || d->draining)
		return false;
	job = container_of(node, struct job, node);
	if (!slice_eq(slice_str(job->tenant), tenant))
		return false;
	if (job->end != WHY_NONE)
		return true;
	job->end = WHY_CANCELLED;
	wake_urgently(d, job);
	return true;
}

void jobs_wake(struct dispatch *d, int64_t now_us)
{
	struct heap_node *node;

	while ((node = heap_pop(&d->jobs->asleep, now_us)) != NULL)
		make_due(d, container_of(node, struct job, asleep), false);
	while ((node = heap_pop(&d->jobs->deadlines, now_us)) != NULL)
		wake_urgently(d, container_of(node, struct job, deadline));
}

/* ---- loading ---- */

static void adopt(struct dispatch *d, const struct load *l, struct batch *take)
{
	struct job *job = l->job;
	enum why end = (enum why)job->end;
	struct live *lv;

	take->held[HELD_ALL] = &d->env.group->held_bytes;
	take->held_bytes = job->bytes;
	atomic_fetch_add(take->held[HELD_ALL], take->held_bytes);
	lv = live_adopt(d, take, job->tenant_no);
	lv->room = l->room;
	lv->service = job->service;
	lv->class = job->class;
	lv->urgent = job->urgent;
	forget(d, job);
	if (end != WHY_NONE)
		dispatch_cancel(d, take->id, end);
	batch_resume(lv);
}

/* Nothing came: it waits for its turn again, or there is no such batch any more. */
static void put_back(struct dispatch *d, const struct load *l, enum store_answer answer)
{
	struct jobs *j = d->jobs;
	struct job *job = l->job;

	give_room(d, job->service, job->class, l->room);
	if (job->urgent)
		j->n_urgent--;
	if (answer == STORE_NOT_FOUND) {
		abandon(d, job);
		return;
	}
	job->urgent |= job->end != WHY_NONE;
	if (!job->urgent)
		heap_set(&j->deadlines, &job->deadline, job->deadline.key);
	make_due(d, job, true);
	if (answer == STORE_OK)
		return;
	j->retry_us = loop_now_us(d->env.loop) + j->backoff_us;
	j->backoff_us = MIN(2 * j->backoff_us, BACKOFF_MAX_US);
}

/* No group leaves it so, but a file that was copied or mended by hand may: then it
 * can neither go on nor end. */
static bool adds_up(const struct batch *b)
{
	char id[BATCH_ID_LEN + 1];
	uint32_t open = 0;

	for (uint32_t i = 0; i < b->n_items; i++)
		open += b->items[i].state != ITEM_FINAL;
	if (open == b->counts.pending)
		return true;
	batch_id_format(b->id, id);
	log_event_limited(LOG_ERROR, "batch_damaged", LOG_STR("batch", id), LOG_INT("items_open", open),
		  LOG_INT("items_pending", b->counts.pending),
		  LOG_STR("effect", "it stays as it is; the others go on"),
		  LOG_STR("do", "see its results by GET, then send again what is missing"));
	return false;
}

static void on_load(struct store_op *op)
{
	struct load *l = container_of(op, struct load, read.op);
	struct dispatch *d = l->d;
	struct batch *b = l->read.batch;
	enum store_answer answer = op->answer;

	d->jobs->loads--;
	dispatch_pump_soon(d);
	if (answer == STORE_OK && (b->state == BATCH_DONE || !adds_up(b)))
		answer = STORE_NOT_FOUND;
	if (answer == STORE_OK && !d->draining) {
		d->jobs->backoff_us = BACKOFF_MIN_US;
		adopt(d, l, b);
	} else {
		put_back(d, l, answer);
		batch_unref(b);
	}
	free(l);
}

/* A synchronous batch that was not durable is written as a whole when it ends,
 * so all of it is fetched. */
static void load(struct dispatch *d, struct job *job)
{
	struct load *l = xcalloc(1, sizeof *l);

	*l = (struct load){
		.read = {.op = {.what = STORE_READ, .reply_to = d->env.loop, .on_done = on_load},
			 .id = job->node.id,
			 .limit = UINT32_MAX,
			 .statuses = job->end == WHY_INTERRUPTED ? 0 : 1u << STATUS_PENDING | 1u << STATUS_RUNNING,
			 .letters = true},
		.d = d,
		.job = job,
		.room = room_of(d, job->bytes),
	};
	job->state = JOB_LOADING;
	heap_remove(&d->jobs->deadlines, &job->deadline);
	take_room(d, job->service, job->class, l->room);
	if (job->urgent)
		d->jobs->n_urgent++;
	d->jobs->loads++;
	meter_add(d->env.meter, METRIC_JOB_LOADS, 0, 0, 1);
	store_ask(d->env.store, &l->read.op);
}

static void load_urgent(struct dispatch *d)
{
	struct jobs *j = d->jobs;
	struct list *node;

	while (j->loads < LOADS_MAX && j->n_urgent < LOADS_MAX && (node = list_pop(&j->urgent)) != NULL)
		load(d, list_entry(node, struct job, due));
}

/* The next one of a service for which there is room; NULL: there is none. */
static struct job *next_due(struct dispatch *d, uint16_t service)
{
	struct shelf *shelf = shelf_of(d, service);

	for (unsigned passed = 0; shelf->n_due > 0 && passed < JOB_CLASSES; passed++) {
		unsigned class = shelf->turn;

		shelf->turn = (class + 1) % JOB_CLASSES;
		if (list_empty(&shelf->due[class]) || !may_take(d, service, (uint8_t)class))
			continue;
		shelf->n_due--;
		d->jobs->n_due--;
		return list_entry(list_pop(&shelf->due[class]), struct job, due);
	}
	return NULL;
}

void jobs_pump(struct dispatch *d)
{
	struct jobs *j = d->jobs;
	size_t n = d->env.config->n_services + 1;

	if (d->draining || loop_now_us(d->env.loop) < j->retry_us)
		return;
	load_urgent(d);
	for (size_t passed = 0; passed < n && j->n_due > 0 && j->loads < LOADS_MAX;) {
		uint16_t service = j->turn + 1 >= n ? (uint16_t)ITEM_NO_SERVICE : (uint16_t)j->turn;
		struct job *job = next_due(d, service);

		j->turn = service == ITEM_NO_SERVICE ? 0 : j->turn + 1;
		passed = job == NULL ? passed + 1 : 0;
		if (job != NULL)
			load(d, job);
	}
}

int64_t jobs_next(const struct dispatch *d)
{
	const struct jobs *j = d->jobs;
	bool waiting = (j->n_due > 0 || !list_empty(&j->urgent)) && j->retry_us > loop_now_us(d->env.loop);

	if (d->draining)
		return HEAP_NONE;
	return MIN(MIN(heap_min(&j->asleep), heap_min(&j->deadlines)), waiting ? j->retry_us : HEAP_NONE);
}

unsigned jobs_loading(const struct dispatch *d)
{
	return d->jobs->loads;
}

unsigned jobs_backlog(const struct dispatch *d)
{
	return (unsigned)d->jobs->by_id.n;
}
