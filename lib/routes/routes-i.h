/*
 * What the routes share: the table's entries, a request's state, looking at
 * batches and waiting for them, and the answers.
 */
#pragma once

#include "negotiate.h"
#include "obs/log.h"
#include "routes/routes.h"
#include "wire/wire.h"

/* Where requests come in: the argument of httpd's calls. */
struct door {
	struct routes *routes;
	bool operations;                 /* these routes alone, and no key is asked for */
	struct httpd_handler handler;
};

struct routes {
	struct routes_env env;
	struct door front, operations;
	struct blob *openapi;            /* what /openapi.json answers; NULL: nobody has asked */
	struct rng rng;
	unsigned labels[32];             /* routes.c: of each route, for the metrics */
	struct idmap flights;            /* look.c: looks under way */
	struct idmap watched;            /* wait.c: batches that somebody here waits for */
	struct heap until;               /* wait.c: when each wait ends */
	struct loop_timer *until_timer;
	atomic_uint waiting;             /* of all shards; the first one's counts */
	bool not_ready;                  /* the process is to end, and serves on until nobody asks it */
	bool stopping;                   /* nobody waits any more, and streams of events end */
	struct idmap pages;              /* page.c: those that several wait for */
	struct list readers;             /* get_events.c: of events, of this shard */
	struct loop_timer *comments;     /* rings while there are any */
	atomic_uint n_readers;           /* of all shards; the first one's counts */
	char quota_text[HTTP_MORE][160]; /* quota.c: of the answer that is being made */
};

/* One live request's state, whatever its route: the first member of each. */
struct route_data {
	void (*on_end)(struct route_data *data, bool gone);
};

/* A request's tag: from TAG_TENANT_SHIFT on its tenant's number, and from
 * TAG_KEY_SHIFT on the place of its key in the configuration, from 1 on. */
enum {
	TAG_KNOWN = 1,                   /* its key was looked at */
	TAG_ADMIN = 2,
	TAG_METERED = 4,                 /* quota_show() */
	TAG_TENANT_SHIFT = 8,
	TAG_KEY_SHIFT = 32,
};

/* Whose keys open a route, where keys are configured. */
enum access {
	ACCESS_TENANT,                   /* a tenant's */
	ACCESS_ADMIN,
	ACCESS_KEY,                      /* any */
	ACCESS_ANYBODY,                  /* none is needed */
};

struct route {
	const char *pattern;             /* "{id}" stands for one segment */
	enum http_method method;         /* GET serves HEAD too */
	void (*run)(struct routes *r, struct http_request *req, struct slice id);
	bool body_optional;              /* as `curl -X POST` sends it: with no length either */
	enum access access;
	bool operations;                 /* also at the address for operations, without a key */
};

extern const struct route route_post_batch, route_get_batch, route_cancel, route_retry, route_delete_batch,
	route_get_results, route_get_events, route_list_batches, route_get_services, route_get_limits, route_livez,
	route_readyz, route_metrics, route_openapi;

/* auth.c: may this caller ask for that? False: no, and the request was answered. */
bool auth_admits(struct routes *r, struct http_request *req, const struct route *route) MUST_CHECK;

/* Keys have changed: may this caller, whose request is under way, go on? If not, the
 * request ends, or is asked for its key again when its body is there. */
void auth_ask_again(struct routes *r, struct http_request *req, const struct route *route, enum http_stage stage);

/* The caller's tenant: its number in the configuration, and its name, which is
 * valid as long as the process. 0, and n 0: where there are no keys. */
unsigned auth_tenant(const struct http_request *req);
struct slice auth_tenant_name(struct routes *r, const struct http_request *req);

/* What people call the caller's key; n 0: it has none, or a reload took it away. Valid
 * in the call alone. */
struct slice auth_key_name(const struct routes *r, const struct http_request *req);

/* quota.c: whatever the answer is, it says what is left of the caller's quotas. */
void quota_show(struct http_request *req);
size_t quota_headers(struct routes *r, struct http_request *req, struct http_header *ret);

/* The key of the one line of Authorization; n 0: it has none. */
struct slice auth_bearer(const char *line);
const struct auth_key *auth_find(const struct config *c, struct slice key);      /* NULL: it is not known */

/* The shard that has the batch while it is not done. */
struct routes *batch_owner(struct routes *r, struct batch_id id);

/* look.c: a batch as it stands. Valid in the call alone. */
struct shown {
	enum store_answer answer;        /* STORE_OK, STORE_NOT_FOUND, or the store is in trouble */
	const char *outcome;             /* NULL: not done */
	bool asynchronous;
	struct blob *whole;              /* its document; NULL: no memory */
	struct blob *head;               /* without results; NULL: no memory, or not from the store */
};

/* Embed it. on_shown comes once, from the loop, never inside look_start(). To
 * any tenant but its own a batch is not found. */
struct look {
	struct list node;
	struct slice tenant;             /* who looks, as auth_tenant_name() has it */
	void (*on_shown)(struct look *l, const struct shown *s);
};
void look_start(struct routes *r, struct look *l, struct batch_id id);
void look_cancel(struct look *l);        /* also before look_start(), and after on_shown */
void look_init(struct look *l, struct slice tenant, void (*on_shown)(struct look *l, const struct shown *s));

/* wait.c: wait until a batch is done, at most for a time, and look at it. Embed
 * it. on_ready comes once, from the loop, never inside wait_start(). */
struct wait {
	struct look look;
	struct list node;                /* watched.waits */
	struct heap_node until;
	struct routes *here;
	struct watched *watched;         /* NULL: it only looks */
	struct batch_id id;
	atomic_uint *of_tenant;          /* its tenant's waits */
	bool counted, last_look, looking;
	void (*on_ready)(struct wait *w, const struct shown *s);
};
void wait_init(struct wait *w, struct routes *r, const struct http_request *req,
	       void (*on_ready)(struct wait *w, const struct shown *s));

/* False: too many wait already, or too many of its tenant, and nothing was begun. wait_s 0:
 * only look. */
bool wait_start(struct wait *w, struct batch_id id, int wait_s) MUST_CHECK;
void wait_cancel(struct wait *w);        /* also before wait_start(), and after on_ready */

void waits_init(struct routes *r);
void waits_free(struct routes *r);

/* get_events.c: with the routes; and the end of all streams. */
void events_init(struct routes *r);
void events_free(struct routes *r);
void events_close(struct routes *r);

/* sampled.c: the metrics that are looked up when somebody asks. */
void sample(struct routes *r);

#define NO_SUCH_BATCH "no batch with this id is known; results expire"
#define NO_NEW_BATCHES "no new batches: try another instance, or later"

/* submit.c: hand a batch to the dispatcher, and answer with what becomes of it.
 * It says itself how it is kept, by asynchronous, durable and key. */
struct submission {
	struct routes *routes;
	struct http_request *req;
	struct batch *take;
	struct prefer prefer;            /* respond_async: answered with 202 */
	bool job;                        /* answered with 202, whatever was preferred */
	bool stream;                     /* the answer is a stream of lines */
};
void submit_batch(const struct submission *s);

/* No room is ever enough for it: then the request was answered with 413, or with
 * what is wrong at `pointer`, and the batch is gone. */
bool submit_never_fits(const struct submission *s, const char *pointer) MUST_CHECK;

/* A job was accepted: 202. */
void answer_accepted(struct http_request *req, struct batch_id id, struct blob *take_document, struct prefer applied,
		     bool replayed);

/* replay.c: answer from the batch that the request's key stands for. */
struct replay_request {
	struct routes *routes;
	struct http_request *req;
	struct batch_id id;
	struct prefer prefer;
	bool stream;
	unsigned retry_after_s;          /* if it is refused; 0: the usual second */
};
void replay_batch(const struct replay_request *q);

/* get_batch.c: the batch as it was shown; or why it was not. */
void answer_shown(struct routes *r, struct http_request *req, struct batch_id id, const struct shown *s,
		  struct prefer applied);

/* What asynchronous batches have by default (contract, section 3). */
enum { JOB_DEADLINE_MS = 86400000 };
extern const struct retry_policy job_retry;

/* key.c: the request's Idempotency-Key where it counts (`scope`), and for what: n 0
 * in `key`, it has none. The slices are borrowed. False: what it has is no key, and
 * the request was answered. */
enum { SCOPE_MAX = 64 };
struct key_text {
	char text[KEY_MAX];
	struct batch_key claim;
};
bool key_read(struct routes *r, struct http_request *req, struct slice scope, struct slice body,
	      struct key_text *ret) MUST_CHECK;

/* The batch is the one of this key. False: no memory. */
bool key_attach(struct batch *b, const struct batch_key *key) MUST_CHECK;

/* recall.c: refuse with this document, unless the key (NULL or empty: none) is known.
 * `q->id` is of the batch that the refusal is about; all zero: none. */
void refuse_unknown(const struct replay_request *q, const struct batch_key *key, enum problem kind,
		    struct blob *take_document);

/* Answers. The blob's reference is taken; a NULL blob, no memory: the problem `internal`, or
 * of one that was to be a problem, its status alone. */
void answer_problem(struct routes *r, struct http_request *req, enum problem p, const char *detail);
void answer_text(struct routes *r, struct http_request *req, int status, const char *type, struct blob *take_body);

/* The same with a time after which to try again; 0: the usual second. */
void answer_refused(struct routes *r, struct http_request *req, enum problem p, unsigned retry_after_s,
		    struct blob *take_body);

/* A problem document that is there already; NULL: there was no memory for it. */
void answer_document(struct routes *r, struct http_request *req, enum problem p, struct blob *take_body);

/* A problem document; NULL: no memory. */
struct blob *problem_document(enum problem p, const char *detail);

/* The same about a batch, with its headers. */
void answer_batch_document(struct routes *r, struct http_request *req, enum problem p, struct batch_id id,
			   struct blob *take_body);
void answer_batch_problem(struct routes *r, struct http_request *req, enum problem p, struct batch_id id,
			  const char *detail);

/* No batch has this id, or the store is in trouble (not STORE_OK). */
void answer_store_problem(struct routes *r, struct http_request *req, enum store_answer answer);

/* What keeps the store from taking something, for people: STORE_BUSY, STORE_UNAVAILABLE. */
const char *store_trouble(enum store_answer answer);

/* The id of a path; false: it is none, and the request was answered. */
bool read_id(struct routes *r, struct http_request *req, struct slice text, struct batch_id *ret) MUST_CHECK;

/* The request's preferences. */
struct prefer read_prefer(struct http_request *req);

/* A header that is a list, its lines as one; NULL: it is absent. Valid as long as both. */
const char *join_lines(struct http_request *req, const char *name, struct buf *joined);

/* The headers that every answer about a batch carries, and room for what some
 * have. Values are borrowed until the answer; `type` NULL: it has no body. */
struct batch_headers {
	char location[sizeof "/v1/batches/" + BATCH_ID_LEN];
	char applied[PREFER_APPLIED_MAX];
	struct http_header headers[8];
	size_t n;
};
void batch_headers(struct batch_headers *h, struct batch_id id, const char *outcome, const char *type);
void add_header(struct batch_headers *h, const char *name, const char *value);
void add_applied(struct batch_headers *h, struct prefer p);      /* Preference-Applied, if anything was */
void add_retry_after(struct batch_headers *h);

/* 200 if every item succeeded, 207 if not. */
int batch_status(const char *outcome);
