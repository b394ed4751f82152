/*
 * Typed settings: read from YAML, defaulted, checked. The only user of libyaml.
 *
 * Owner: whoever has a reference; immutable once it is shared, so any thread reads.
 * Errors: one message with file, line and column each; unknown keys are errors.
 */
#pragma once

#include <stdatomic.h>

#include "base/buf.h"
#include "base/cidr.h"
#include "core/breaker.h"
#include "core/budget.h"
#include "core/rate.h"
#include "obs/log.h"

enum {
	SHARDS_MAX = 64,                 /* as many as a word has bits: see struct live */
	LANES_MAX = SHARDS_MAX,          /* of one origin */
};

enum service_kind { SERVICE_HTTP, SERVICE_WEBHOOK };
const char *service_kind_str(enum service_kind k);

struct service {
	const char *name;
	enum service_kind kind;
	const char *url;                 /* http: with {to}; webhook: NULL */
	const char *method;
	const char **headers;            /* "Name: value"; http only */
	size_t n_headers;
	struct slice *secrets;           /* raw signing keys, newest first; none: unsigned */
	size_t n_secrets;
	const char *ca_file;             /* trusted instead of the system's roots; NULL: those */
	const char *cert_file, *key_file;        /* what the service asks its clients for; NULL: nothing */
	unsigned lanes;                  /* of its origin, which share what is per origin; webhook: 1 */
	struct rate_policy rate;         /* per origin */
	struct breaker_policy breaker;   /* per lane */
	struct budget_policy retry_budget;       /* per origin */
	int64_t max_pause_ms;            /* of an origin, by Retry-After */
	uint32_t max_queued;             /* unfinished items whose callers wait; 0: limits.queued_items */
	struct cidr *allow;              /* webhook: ranges the guard lets through */
	size_t n_allow;
	int64_t attempt_timeout_ms;
	unsigned max_in_flight;          /* per origin */
	size_t max_payload;              /* bytes; limits.payload_bytes if not given */
	bool refuses_with_503;           /* refuses_with: [503] */
	bool url_hidden;                 /* it came from ${...}, so it may be a secret */
	bool removed;                    /* by a reload: its place is kept, nothing more is sent to it */
};

enum key_scope { KEY_TENANT, KEY_ADMIN };

/* Keys are told apart by all of them, so their number is bounded; and so is that of tenants. */
enum { AUTH_KEYS_MAX = 1000, TENANTS_MAX = 1000 };

struct auth_key {
	const char *name;                /* for people */
	struct slice tenant;             /* KEY_TENANT: whose it is; n 0: none */
	enum key_scope scope;
	unsigned char sha256[32];
};

/* What one tenant may have; 0: no limit but the process's. */
struct tenant {
	const char *name;                /* "" of [0] */
	bool removed;                    /* by a reload: its place is kept */
	bool keyless;                    /* no key is its: it sends nothing, and its name may be misspelt */
	unsigned weight;                 /* of its turns in a lane, against other tenants' */
	unsigned max_priority;
	double batches_per_second, items_per_second;
	uint32_t queued_items;
};

struct config {
	atomic_uint refs;
	unsigned service_slots;          /* no reload makes more services than these; n_services at least */
	const char *listen_host;         /* numeric address */
	unsigned listen_port;            /* 0: given by the kernel */
	unsigned shards;                 /* 1..SHARDS_MAX; `auto` is resolved: cores */
	struct service *services;        /* after a reload those of before have their places */
	size_t n_services;               /* at least one */
	struct {
		uint32_t items;              /* per batch */
		size_t body_bytes, payload_bytes, answer_bytes;
		unsigned json_depth;
		unsigned connections;        /* inbound, per process */
		uint32_t queued_items;       /* unfinished items, per process */
		int64_t queue_ms;            /* that a batch may be expected to wait for a service; 0: any */
		size_t queued_bytes;         /* bodies and items of batches in memory, per process */
		size_t resident_bytes;       /* of jobs in memory, per process */
		uint64_t stored_items;       /* unfinished items in the store */
		size_t results_bytes;        /* finished results kept in memory */
		unsigned in_flight;          /* attempts at once, per shard */
		unsigned event_readers;      /* of event streams, per process */
		int64_t event_comment_ms;    /* how often a quiet one gets a comment */
		unsigned waiting;            /* requests that wait for a batch's end, per process */
		int64_t keep_results_ms;
		int64_t header_ms, body_ms, idle_ms, write_ms; /* inbound, absolute */
		int64_t lame_duck_ms;        /* after SIGTERM, not ready and yet serving */
		int64_t drain_ms;
		int64_t deadline_ms;         /* default of a synchronous batch */
		int64_t max_deadline_ms;
	} limits;
	struct {
		unsigned threads;            /* for callers' names, and as many for those of services */
		unsigned queued;             /* names that may wait for a look-up */
		int64_t ttl_ms, negative_ttl_ms;
	} names;
	bool store_memory;               /* keep batches in memory alone ... */
	const char *store_path;          /* ... or in this directory, made if it is missing */
	enum log_format log_format;
	enum log_level log_level;
	bool open;                       /* auth.open: listen beyond loopback without keys */
	bool open_operations;            /* auth.open_operations: the same for operations_host, which asks for none */
	struct auth_key *keys;           /* none: nobody is asked for one */
	size_t n_keys;
	struct tenant *tenants;          /* [0] is who has no key; then those under `tenants`, and those of the keys */
	size_t n_tenants;                /* at least 1 */
	bool blank;                      /* its file says nothing */
	const char *operations_host;     /* a second address, for operations alone; NULL: none */
	unsigned operations_port;
	const char *tls_cert_file, *tls_key_file;        /* inbound; NULL: plain text */
	struct {
		const char *endpoint;        /* OTLP over HTTP, up to and without /v1/traces; NULL: no spans leave */
		bool endpoint_hidden;        /* it came from ${...}, so it may be a secret */
		double ratio;                /* of the traces that begin here: 0 to 1 */
		const char **headers;        /* "Name: value" for the collector */
		size_t n_headers;
	} tracing;
};

/* Load `path` (NULL: all defaults): a reference. On failure returns NULL with every error it
 * found in `reterr`, one per line: "FILE:LINE:COLUMN: what is wrong: what to do". */
struct config *config_load(const char *path, struct buf *reterr) MUST_CHECK;
struct config *config_ref(struct config *c);     /* any thread, as is the next one */
void config_unref(struct config *c);             /* the last one frees; NULL is fine */

/* Index of a service by name, or -1; one that a reload has removed is not found. */
int config_find_service(const struct config *c, struct slice name);

/* Index of a tenant by name; 0 if it is not configured, or has no name. */
unsigned config_find_tenant(const struct config *c, struct slice name);

/* Are there several tenants, who share what the process has? Only those that have keys. */
bool config_has_several_tenants(const struct config *c);

/* The service to take where a request names none: the only one, or -1. */
int config_only_service(const struct config *c);

/* Does the process hold what nobody may see: headers' values, signing secrets, private keys, a URL from ${...},
 * keys that callers show? */
bool config_has_secrets(const struct config *c);

/* What a reload changes, in words: names, each list separated by ", ". */
struct config_changes {
	struct buf added, removed, changed;      /* services */
	struct buf settings;             /* other settings that have another value */
	struct buf restart;              /* and those that keep theirs, as they need a restart */
};
void config_changes_free(struct config_changes *ch);

/* Lay `fresh`, which was just loaded, over `running`, which it is to follow: every
 * service of `running` keeps its index, removed ones as stubs, new ones are
 * appended, and what cannot change without a restart stays as it is. Neither is
 * changed on failure, but `fresh` is then of no use; *reterr says why, a line each. */
bool config_overlay(struct config *fresh, const struct config *running, struct config_changes *ret,
		    struct buf *reterr) MUST_CHECK;

/* The configuration as a YAML file. No header's value and no secret is in it: "***"
 * stands for each, which no configuration takes for a value. */
void config_print(const struct config *c, struct buf *out);

/* Every setting under `limits` as it is in force, in the order of the table. */
void config_each_limit(const struct config *c, void (*fn)(void *arg, const char *name, int64_t value), void *arg);

/* Every setting with its values, default and reason, as a Markdown table. */
void config_describe(struct buf *out);

/* A YAML file that says what having no file means, with every other setting of a
 * service and each one's reason as comments. */
void config_defaults(struct buf *out);
