/*
 * The table of all settings. Defaults, checks, suggestions for misspelt keys and
 * the documentation are read from it, so a new setting is one new line here.
 * Settings of one section stand together.
 */
#include <stdio.h>

#include "config/config-i.h"
#include "core/batch.h"

#define IN_CONFIG(field) offsetof(struct config, field), sizeof(((struct config *)0)->field)
#define IN_SERVICE(field) offsetof(struct service, field), sizeof(((struct service *)0)->field)
#define IN_KEY(field) offsetof(struct auth_key, field), sizeof(((struct auth_key *)0)->field)
#define IN_TENANT(field) offsetof(struct tenant, field), sizeof(((struct tenant *)0)->field)
#define NOWHERE 0, 0

enum {
	SECOND = 1000,
	HOUR = 3600 * SECOND,
	MIB = 1024 * 1024,
	MILLION = 1000 * 1000,
};

#define DAY ((int64_t)24 * HOUR)
#define TIB ((int64_t)1024 * 1024 * MIB)

const char *const cfg_service_kinds[] = {"http", "webhook", NULL};
static const char *const scopes[] = {"tenant", "admin", NULL};
static const char *const formats[] = {"logfmt", "json", NULL};
static const char *const levels[] = {"debug", "info", "warn", "error", NULL};
static const char *const methods[] = {"POST", "PUT", "PATCH", "DELETE", "GET", NULL};

/* path, type, field, default, min, max, unit, choices, kind, why */
static const struct setting table[] = {
	{"listen", &cfg_type_listen, 0, sizeof(struct config), "127.0.0.1:8080", 0, 0, "", NULL, ONLY_NONE,
	 "Where callers connect; IPv6 in [brackets], and port 0 is any free one.", .restart = true},
	{"operations", &cfg_type_operations, 0, sizeof(struct config), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "A second address, where probes and metrics are answered without a key, and nothing else.", .restart = true},
	{"shards", &cfg_type_shards, IN_CONFIG(shards), "auto", 1, SHARDS_MAX, "threads", NULL, ONLY_NONE,
	 "Event-loop threads; auto is one for each core that the process may use, or what its control group grants of them.", .restart = true},

	{"log.format", &cfg_type_choice, IN_CONFIG(log_format), "logfmt", 0, 0, "", formats, ONLY_NONE,
	 "How a line on standard error is written."},
	{"log.level", &cfg_type_choice, IN_CONFIG(log_level), "info", 0, 0, "", levels, ONLY_NONE,
	 "The least important lines that are still written; debug ones quote what downstreams answered."},

	{"limits.items", &cfg_type_integer, IN_CONFIG(limits.items), "10000", 1, MILLION, "items", NULL, ONLY_NONE,
	 "One batch, so that one request cannot take all the memory."},
	{"limits.body_bytes", &cfg_type_integer, IN_CONFIG(limits.body_bytes), "16777216", 1, 1024 * MIB, "bytes", NULL,
	 ONLY_NONE, "One request's body, which is held in memory; a shard's part of queued_bytes if that is less."},
	{"limits.payload_bytes", &cfg_type_integer, IN_CONFIG(limits.payload_bytes), "262144", 1, 1024 * MIB, "bytes", NULL,
	 ONLY_NONE, "One item's payload, unless its service says otherwise."},
	{"limits.answer_bytes", &cfg_type_integer, IN_CONFIG(limits.answer_bytes), "65536", 1, 16 * MIB, "bytes", NULL,
	 ONLY_NONE, "What is read of a downstream's answer, so that it cannot fill the memory."},
	{"limits.json_depth", &cfg_type_integer, IN_CONFIG(limits.json_depth), "64", 4, 1000, "levels", NULL, ONLY_NONE,
	 "How deeply a request's JSON may nest, because each open level is remembered while it is read."},
	{"limits.connections", &cfg_type_integer, IN_CONFIG(limits.connections), "10000", 1, MILLION, "connections", NULL,
	 ONLY_NONE, "Callers connected at once, because each takes a file descriptor.", .restart = true},
	{"limits.queued_items", &cfg_type_integer, IN_CONFIG(limits.queued_items), "1000000", 1, 100 * MILLION, "items", NULL,
	 ONLY_NONE, "Unfinished items in the process; a batch that would exceed it is refused with 503."},
	{"limits.queued_bytes", &cfg_type_integer, IN_CONFIG(limits.queued_bytes), "1073741824", 1, TIB, "bytes", NULL, ONLY_NONE,
	 "Memory for batches that are not done and for bodies on their way; what would exceed it is refused with 503."},
	{"limits.queue_ms", &cfg_type_integer, IN_CONFIG(limits.queue_ms), "1000", 0, HOUR, "ms", NULL, ONLY_NONE,
	 "How long a batch may be expected to wait for a service that is behind, by its pace; longer is refused with 503; 0 is any time."},
	{"limits.resident_bytes", &cfg_type_integer, IN_CONFIG(limits.resident_bytes), "67108864", 1, TIB, "bytes", NULL,
	 ONLY_NONE, "Jobs in memory; the others stand in the store until there is room and their time has come."},
	{"limits.stored_items", &cfg_type_integer, IN_CONFIG(limits.stored_items), "10000000", 1, 1000 * (int64_t)MILLION,
	 "items", NULL, ONLY_NONE, "Unfinished items in the store; a job that would exceed it is refused with 503."},
	{"limits.results_bytes", &cfg_type_integer, IN_CONFIG(limits.results_bytes), "67108864", 1, TIB, "bytes", NULL,
	 ONLY_NONE, "Finished results kept in memory; the oldest go first."},
	{"limits.in_flight", &cfg_type_integer, IN_CONFIG(limits.in_flight), "4096", 1, 65536, "attempts", NULL, ONLY_NONE,
	 "Attempts at once in each shard, because each takes a file descriptor; one of several services may have as many as it leaves free."},
	{"limits.event_readers", &cfg_type_integer, IN_CONFIG(limits.event_readers), "2000", 1, MILLION, "readers", NULL, ONLY_NONE,
	 "Event streams at once, because each holds its connection for as long as its batch runs; more are refused with 503. "
	 "One of several tenants may have as many as it leaves."},
	{"limits.event_comment_ms", &cfg_type_integer, IN_CONFIG(limits.event_comment_ms), "15000", 10, HOUR, "ms", NULL, ONLY_NONE,
	 "How often an event stream that has nothing to tell sends a comment, so that proxies keep it open."},
	{"limits.waiting", &cfg_type_integer, IN_CONFIG(limits.waiting), "10000", 1, MILLION, "requests", NULL, ONLY_NONE,
	 "Requests that wait for the end of a batch (Prefer: wait); more are refused with 503. One of several tenants may have as "
	 "many as it leaves."},
	{"limits.keep_results_ms", &cfg_type_integer, IN_CONFIG(limits.keep_results_ms), "86400000", 1, 30 * DAY, "ms", NULL,
	 ONLY_NONE, "How long a result can be asked for."},
	{"limits.header_ms", &cfg_type_integer, IN_CONFIG(limits.header_ms), "10000", 1, HOUR, "ms", NULL, ONLY_NONE,
	 "From a request's first byte to the end of its headers, so that slow callers do not pile up."},
	{"limits.body_ms", &cfg_type_integer, IN_CONFIG(limits.body_ms), "60000", 1, HOUR, "ms", NULL, ONLY_NONE,
	 "From the end of the headers to the end of the body."},
	{"limits.idle_ms", &cfg_type_integer, IN_CONFIG(limits.idle_ms), "75000", 1, HOUR, "ms", NULL, ONLY_NONE,
	 "How long a connection may stay open between two requests."},
	{"limits.write_ms", &cfg_type_integer, IN_CONFIG(limits.write_ms), "30000", 1, HOUR, "ms", NULL, ONLY_NONE,
	 "How long a caller may take no byte of its answer."},
	{"limits.lame_duck_ms", &cfg_type_integer, IN_CONFIG(limits.lame_duck_ms), "0", 0, HOUR, "ms", NULL, ONLY_NONE,
	 "How long a shutdown goes on serving with /readyz at 503, so that whoever routes to it can look elsewhere first."},
	{"limits.drain_ms", &cfg_type_integer, IN_CONFIG(limits.drain_ms), "25000", 0, HOUR, "ms", NULL, ONLY_NONE,
	 "How long a shutdown waits for what is in flight; below the 30 s that orchestrators grant."},
	{"limits.deadline_ms", &cfg_type_integer, IN_CONFIG(limits.deadline_ms), "30000", 1, 30 * DAY, "ms", NULL, ONLY_NONE,
	 "The deadline of a synchronous batch that brings none."},
	{"limits.max_deadline_ms", &cfg_type_integer, IN_CONFIG(limits.max_deadline_ms), "604800000", 1, 30 * DAY, "ms", NULL,
	 ONLY_NONE, "The longest deadline that a batch may ask for."},

	{"names.threads", &cfg_type_integer, IN_CONFIG(names.threads), "16", 1, 256, "threads", NULL, ONLY_NONE,
	 "Look-ups of callers' host names at once, each in a thread made for it, and as many again for the names of services; a "
	 "service whose look-ups hang gets half of what is free."},
	{"names.queued", &cfg_type_integer, IN_CONFIG(names.queued), "4096", 1, MILLION, "names", NULL, ONLY_NONE,
	 "Host names that may wait for a look-up; for more, attempts fail at once with connect_failed."},
	{"names.ttl_ms", &cfg_type_integer, IN_CONFIG(names.ttl_ms), "30000", 0, DAY, "ms", NULL, ONLY_NONE,
	 "How long addresses are kept for new connections, as the system does not say for how long they are good."},
	{"names.negative_ttl_ms", &cfg_type_integer, IN_CONFIG(names.negative_ttl_ms), "1000", 0, HOUR, "ms", NULL, ONLY_NONE,
	 "How long it is remembered that a name did not resolve, so that repeats do not ask again each time."},

	{"store.path", &cfg_type_path, IN_CONFIG(store_path), "./settled-data", 0, 0, "", NULL, ONLY_NONE,
	 "The directory that keeps batches over a restart, made if it is missing; one process each.", .restart = true},
	{"store.memory", &cfg_type_bool, IN_CONFIG(store_memory), "false", 0, 0, "", NULL, ONLY_NONE,
	 "Keeps batches in memory instead: a restart forgets them.", .restart = true},

	{"tls.cert_file", &cfg_type_file, IN_CONFIG(tls_cert_file), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "The certificate that callers see, with its chain, in PEM; with it `listen` speaks TLS 1.2 or later alone. SIGHUP reads it anew."},
	{"tls.key_file", &cfg_type_file, IN_CONFIG(tls_key_file), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "The certificate's private key, in PEM and without a password."},

	{"auth.open", &cfg_type_bool, IN_CONFIG(open), "false", 0, 0, "", NULL, ONLY_NONE,
	 "Lets anyone who can connect send; needed to listen beyond loopback without keys."},
	{"auth.open_operations", &cfg_type_bool, IN_CONFIG(open_operations), "false", 0, 0, "", NULL, ONLY_NONE,
	 "Lets anyone who can connect to `operations` ask there; needed to have it beyond loopback."},
	{"auth.keys", &cfg_type_apart, NOWHERE, NULL, 0, 0, "", NULL, ONLY_NONE,
	 "A list of the keys that callers show as `Authorization: Bearer KEY`; without one nobody is asked."},
	{"auth.keys.*.name", &cfg_type_name, IN_KEY(name), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "What people call the key. Required."},
	{"auth.keys.*.sha256", &cfg_type_sha256, IN_KEY(sha256), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "The SHA-256 of the key, so that the file does not give the key away. Required."},
	{"auth.keys.*.scope", &cfg_type_choice, IN_KEY(scope), "tenant", 0, 0, "", scopes, ONLY_NONE,
	 "tenant: sends and sees its tenant's batches; admin: sees metrics and services, and no batch."},
	{"auth.keys.*.tenant", &cfg_type_name, IN_KEY(tenant), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "Whose key it is. Required for scope tenant."},

	{"tenants", &cfg_type_apart, NOWHERE, NULL, 0, 0, "", NULL, ONLY_NONE,
	 "A map from a tenant's name to what it may have; one that only a key names has the defaults."},
	{"tenants.*.weight", &cfg_type_integer, IN_TENANT(weight), "1", 1, 1000, "shares", NULL, ONLY_NONE,
	 "Its part of a busy downstream's turns, against those of other tenants."},
	{"tenants.*.max_priority", &cfg_type_integer, IN_TENANT(max_priority), "9", 0, PRIORITY_MAX, "levels", NULL, ONLY_NONE,
	 "The highest priority that its batches may ask for."},
	{"tenants.*.batches_per_second", &cfg_type_number, IN_TENANT(batches_per_second), "0", 0, MILLION, "batches", NULL,
	 ONLY_NONE, "Its batches are refused with 429 beyond that, after one second's at once; 0 is no limit."},
	{"tenants.*.items_per_second", &cfg_type_number, IN_TENANT(items_per_second), "0", 0, 100 * MILLION, "items", NULL,
	 ONLY_NONE, "The same of the items in its batches; 0 is no limit."},
	{"tenants.*.queued_items", &cfg_type_integer, IN_TENANT(queued_items), "0", 0, 100 * MILLION, "items", NULL,
	 ONLY_NONE, "Its unfinished items, those of jobs too; a batch that would exceed it is refused with 429; 0 is no limit."},

	{"tracing.endpoint", &cfg_type_endpoint, IN_CONFIG(tracing.endpoint), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "Where spans go, as OTLP over HTTP in JSON, up to and without /v1/traces; without it none are recorded.", .restart = true},
	{"tracing.ratio", &cfg_type_number, IN_CONFIG(tracing.ratio), "1", 0, 1, "of all", NULL, ONLY_NONE,
	 "How many of the traces that begin here are recorded; a caller that brings a trace decides itself."},
	{"tracing.headers", &cfg_type_trace_headers, IN_CONFIG(tracing), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "Sent with every export, such as the credentials for the collector.", .restart = true},

	{"services.*.kind", &cfg_type_choice, IN_SERVICE(kind), NULL, 0, 0, "", cfg_service_kinds, ONLY_NONE,
	 "http: the operator gives the URL; webhook: an item's `to` is the URL, behind the address guard. Required."},
	{"services.*.url", &cfg_type_url, IN_SERVICE(url), NULL, 0, 0, "", NULL, ONLY_HTTP,
	 "Where items go; {to} in path or query is the recipient, percent-encoded. Required for http."},
	{"services.*.method", &cfg_type_word, IN_SERVICE(method), "POST", 0, 0, "", methods, ONLY_HTTP,
	 "The method that the downstream expects."},
	{"services.*.headers", &cfg_type_headers, 0, sizeof(struct service), NULL, 0, 0, "", NULL, ONLY_HTTP,
	 "Sent with every attempt, such as the credentials for the downstream."},
	{"services.*.secret", &cfg_type_secrets, 0, sizeof(struct service), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "Signs every attempt as in Standard Webhooks 1.0, with each secret of a list, the newest first; without it nothing is signed."},
	{"services.*.ca_file", &cfg_type_file, IN_SERVICE(ca_file), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "PEM certificates of the authorities to trust for this service, instead of the system's."},
	{"services.*.cert_file", &cfg_type_file, IN_SERVICE(cert_file), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "The PEM certificate, with its intermediates, that is shown to a downstream which asks its clients for one."},
	{"services.*.key_file", &cfg_type_file, IN_SERVICE(key_file), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "The PEM private key of cert_file, without a passphrase."},
	{"services.*.allow", &cfg_type_ranges, 0, sizeof(struct service), NULL, 0, 0, "", NULL, ONLY_WEBHOOK,
	 "Special address ranges that the guard lets through."},
	{"services.*.attempt_timeout_ms", &cfg_type_integer, IN_SERVICE(attempt_timeout_ms), "5000", 1, HOUR, "ms", NULL,
	 ONLY_NONE, "One attempt, from taking a connection to the answer's last byte, unless the batch says otherwise."},
	{"services.*.max_in_flight", &cfg_type_integer, IN_SERVICE(max_in_flight), "256", 1, 65535, "attempts", NULL, ONLY_NONE,
	 "Attempts at once to one origin, so that the downstream is not overrun."},
	{"services.*.lanes", &cfg_type_integer, IN_SERVICE(lanes), "1", 1, LANES_MAX, "lanes", NULL, ONLY_HTTP,
	 "Each is worked on by one shard, and has its part of max_in_flight, rate and retry_budget: for an origin that one core "
	 "cannot keep up with.", .restart = true},
	{"services.*.max_queued", &cfg_type_integer, IN_SERVICE(max_queued), NULL, 1, 100 * MILLION, "items", NULL, ONLY_NONE,
	 "Unfinished items whose callers wait; more are refused with 503. limits.queued_items if not given."},
	{"services.*.max_payload_bytes", &cfg_type_integer, IN_SERVICE(max_payload), NULL, 1, 1024 * MIB, "bytes", NULL,
	 ONLY_NONE, "What the downstream takes; limits.payload_bytes if not given."},
	{"services.*.refuses_with", &cfg_type_refuses_with, IN_SERVICE(refuses_with_503), NULL, 0, 0, "", NULL, ONLY_NONE,
	 "[503] where that answer means that nothing was delivered, so that a repeat is safe."},
	{"services.*.rate.per_second", &cfg_type_number, IN_SERVICE(rate.per_second), "0", 0, MILLION, "attempts", NULL,
	 ONLY_NONE, "Attempts to one origin, repeats too, for downstreams that promise no more; 0 is no limit."},
	{"services.*.rate.burst", &cfg_type_integer, IN_SERVICE(rate.burst), NULL, 1, MILLION, "attempts", NULL, ONLY_NONE,
	 "Attempts to one origin that may start at once; a tenth of per_second if not given, and at least 1."},
	{"services.*.breaker.failure_ratio", &cfg_type_number, IN_SERVICE(breaker.failure_ratio), "0.5", 0, 1, "of attempts",
	 NULL, ONLY_NONE, "An origin that fails so often is left alone, and its items fail fast; 0 is no breaker."},
	{"services.*.breaker.min_attempts", &cfg_type_integer, IN_SERVICE(breaker.min_attempts), "20", 1, MILLION, "attempts",
	 NULL, ONLY_NONE, "Fewer in the window say too little to open the breaker."},
	{"services.*.breaker.window_ms", &cfg_type_integer, IN_SERVICE(breaker.window_ms), "10000", 100, HOUR, "ms", NULL,
	 ONLY_NONE, "How far the breaker looks back."},
	{"services.*.breaker.open_ms", &cfg_type_integer, IN_SERVICE(breaker.open_ms), "5000", 10, HOUR, "ms", NULL, ONLY_NONE,
	 "How long an open breaker refuses before one attempt asks whether the origin is back."},
	{"services.*.retry_budget.ratio", &cfg_type_number, IN_SERVICE(retry_budget.ratio), "0.2", 0, 20, "of first attempts",
	 NULL, ONLY_NONE, "Repeats to one origin, so that one which comes back is not drowned in what it missed."},
	{"services.*.retry_budget.per_second", &cfg_type_number, IN_SERVICE(retry_budget.per_second), "10", 0, MILLION,
	 "repeats", NULL, ONLY_NONE, "Repeats that are there in any case: few of them harm nobody."},
	{"services.*.retry_budget.window_ms", &cfg_type_integer, IN_SERVICE(retry_budget.window_ms), "10000", 100, HOUR, "ms",
	 NULL, ONLY_NONE, "How far the retry budget looks back."},
	{"services.*.max_pause_ms", &cfg_type_integer, IN_SERVICE(max_pause_ms), "60000", 0, HOUR, "ms", NULL, ONLY_NONE,
	 "The longest pause that an origin gets by Retry-After with 429 or 503, as it may ask for any."},
};

/* What follows `section` in a setting's path; NULL if it is not in there. */
static const char *path_in(const struct setting *s, const char *section)
{
	size_t n = strlen(section);

	if (n == 0)
		return s->path;
	return strncmp(s->path, section, n) == 0 && s->path[n] == '.' ? s->path + n + 1 : NULL;
}

const struct setting *cfg_setting(size_t i)
{
	return i < ARRAY_LEN(table) ? &table[i] : NULL;
}

const char *cfg_setting_in(const struct setting *s, const char *section)
{
	return s->type->show == NULL ? NULL : path_in(s, section);
}

static struct slice first_part(const char *path)
{
	return (struct slice){path, strcspn(path, ".")};
}

/* The default goes the same way as a value from a file. */
static void preset_one(const struct setting *s, void *base)
{
	struct buf out = {0};
	struct report rep = {.out = &out, .file = "default"};
	struct node n = {.kind = NODE_TEXT, .plain = true, .line = 1, .column = 1};

	n.raw = n.text = slice_str(s->preset);
	s->type->read(s, &n, (char *)base + s->offset, &rep);
	REQUIRE(rep.n == 0);
	buf_free(&out);
}

/* Sets every default of a section and what is below; services.* stand apart. */
void cfg_settings_preset(const char *section, void *base)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const char *path = path_in(&table[i], section);

		if (path != NULL && strchr(path, '*') == NULL && table[i].preset != NULL)
			preset_one(&table[i], base);
	}
}

/* Letters to insert, take away or change. */
static size_t distance(struct slice a, struct slice b)
{
	enum { LONGEST = 32 };
	size_t row[LONGEST + 1];

	if (a.n > LONGEST || b.n > LONGEST)
		return LONGEST;
	for (size_t j = 0; j <= b.n; j++)
		row[j] = j;
	for (size_t i = 1; i <= a.n; i++) {
		size_t corner = row[0];

		row[0] = i;
		for (size_t j = 1; j <= b.n; j++) {
			size_t change = corner + (a.p[i - 1] != b.p[j - 1]);

			corner = row[j];
			row[j] = MIN(change, MIN(row[j - 1], row[j]) + 1);
		}
	}
	return row[b.n];
}

/* A known key that is close, or all of them. */
static void report_unknown(const struct node *n, const char *section, struct report *rep)
{
	struct slice best = {0}, last = {0};
	size_t best_distance = MIN(n->key.n / 3 + 2, 4);
	struct buf known = {0};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const char *path = path_in(&table[i], section);
		struct slice part = path == NULL ? last : first_part(path);

		if (slice_eq(part, last))
			continue;
		last = part;
		buf_printf(&known, "%s%.*s", known.n == 0 ? "" : ", ", (int)part.n, part.p);
		if (distance(n->key, part) < best_distance) {
			best_distance = distance(n->key, part);
			best = part;
		}
	}
	if (best.n > 0)
		cfg_report_key(rep, n, "unknown key: did you mean %.*s?", (int)best.n, best.p);
	else
		cfg_report_key(rep, n, "unknown key: known here are %.*s", (int)known.n, known.p);
	buf_free(&known);
}

static void read_one(const struct node *n, const char *section, void *base, struct report *rep)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const char *path = path_in(&table[i], section);
		struct slice part = path == NULL ? (struct slice){0} : first_part(path);

		if (path == NULL || !slice_eq(part, n->key))
			continue;
		if (path[part.n] == '\0') {
			table[i].type->read(&table[i], n, (char *)base + table[i].offset, rep);
		} else {
			char below[64];
			int len = snprintf(below, sizeof below, "%s%s%.*s", section, section[0] == '\0' ? "" : ".",
			                   (int)part.n, part.p);

			REQUIRE(len > 0 && (size_t)len < sizeof below);
			cfg_settings_read(n, below, base, rep);
		}
		return;
	}
	report_unknown(n, section, rep);
}

/* `section` is "" for the whole file. The services' map is left to config.c. */
void cfg_settings_read(const struct node *map, const char *section, void *base, struct report *rep)
{
	if (map->kind != NODE_MAP && !cfg_node_is_null(map)) {
		cfg_report_node(rep, map, "not a map: give settings as NAME: VALUE");
		return;
	}
	for (const struct node *n = map->first; n != NULL; n = n->next) {
		if (section[0] != '\0' || !slice_eq(n->key, SLICE("services")))
			read_one(n, section, base, rep);
	}
}

/* Settings that the other kind of service has no use for. */
void cfg_settings_check_kind(const struct node *map, enum service_kind kind, struct report *rep)
{
	enum setting_only wrong = kind == SERVICE_HTTP ? ONLY_WEBHOOK : ONLY_HTTP;

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const char *path = path_in(&table[i], "services.*");
		const struct node *n = path == NULL || table[i].only != wrong ? NULL : cfg_node_find(map, path);

		if (n != NULL)
			cfg_report_key(rep, n, "only for kind %s: leave it out",
			               kind == SERVICE_HTTP ? "webhook" : "http");
	}
}

/* As read_integer() has put it there. */
static int64_t integer_at(const struct setting *s, const void *at)
{
	uint32_t narrow;
	int64_t v;

	REQUIRE(s->type == &cfg_type_integer && (s->size == sizeof narrow || s->size == sizeof v));
	if (s->size == sizeof v) {
		memcpy(&v, at, sizeof v);
		return v;
	}
	memcpy(&narrow, at, sizeof narrow);
	return narrow;
}

void config_each_limit(const struct config *c, void (*fn)(void *arg, const char *name, int64_t value), void *arg)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const char *name = path_in(&table[i], "limits");

		if (name != NULL)
			fn(arg, name, integer_at(&table[i], (const char *)c + table[i].offset));
	}
}

static void describe_type(const struct setting *s, struct buf *out)
{
	for (int i = 0; s->choices != NULL && s->choices[i] != NULL; i++)
		buf_printf(out, "%s%s", i == 0 ? "" : ", ", s->choices[i]);
	if (s->choices == NULL)
		buf_add_str(out, s->type->name);
	if (s->max > 0)
		buf_printf(out, ", %lld to %lld %s", (long long)s->min, (long long)s->max, s->unit);
}

void config_describe(struct buf *out)
{
	buf_add_str(out, "| Setting | Value | Default | Why |\n|---|---|---|---|\n");
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct setting *s = &table[i];

		buf_printf(out, "| `%s` | ", s->path);
		describe_type(s, out);
		buf_printf(out, s->preset != NULL ? " | `%s` | " : " | %s | ", s->preset != NULL ? s->preset : "none");
		buf_printf(out, "%s%s |\n", s->why, s->restart ? " Needs a restart." : "");
	}
}

static void add_comment(struct buf *out, const char *indent, const struct setting *s)
{
	buf_printf(out, "%s# %s (", indent, s->why);
	describe_type(s, out);
	buf_printf(out, "%s)\n", s->only == ONLY_HTTP ? "; only http" : s->only == ONLY_WEBHOOK ? "; only webhook" : "");
}

static void add_value(struct buf *out, const char *indent, const char *key, const struct setting *s)
{
	buf_printf(out, "%s%s:%s%s\n", indent, key, s->preset != NULL ? " " : "", s->preset != NULL ? s->preset : "");
}

/* What no file means for services, and what else one could say of a service. */
static void add_services(struct buf *out)
{
	struct slice section = {0};

	buf_add_str(out, "services:\n  webhook:\n");
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct setting *s = &table[i];
		const char *path = path_in(s, "services.*");
		struct slice part = path == NULL ? section : first_part(path);
		bool nested = path != NULL && path[part.n] == '.';

		if (path == NULL)
			continue;
		if (nested && !slice_eq(part, section))
			buf_printf(out, "    # %.*s:\n", (int)part.n, part.p);
		section = part;
		add_comment(out, nested ? "    #   " : "    ", s);
		if (strcmp(path, "kind") == 0)
			buf_add_str(out, "    kind: webhook\n");
		else
			add_value(out, nested ? "    #   " : "    # ", nested ? path + part.n + 1 : path, s);
	}
}

/* What one could say of one of them: of a list, or by its name. */
static void add_apart(struct buf *out, const struct setting *of, const char *indent)
{
	bool list = strcmp(of->path, "auth.keys") == 0;
	const char *section = list ? "auth.keys.*" : "tenants.*", *name = strrchr(of->path, '.');
	CLEANUP(buf_free) struct buf deep = {0};

	buf_printf(&deep, "%s#     ", indent);
	buf_add_char(&deep, '\0');
	REQUIRE(!deep.failed);
	buf_printf(out, "%s# %s\n%s# %s:\n%s#   %s\n", indent, of->why, indent, name == NULL ? of->path : name + 1, indent,
		   list ? "-" : "NAME:");
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct setting *s = &table[i];
		const char *path = path_in(s, section);

		if (path == NULL)
			continue;
		add_comment(out, deep.p, s);
		buf_printf(out, "%s%s:%s%s\n", deep.p, path, s->preset != NULL ? " " : "", s->preset != NULL ? s->preset : "");
	}
}

void config_defaults(struct buf *out)
{
	struct slice section = {0};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct setting *s = &table[i];
		struct slice part = first_part(s->path);
		bool nested = s->path[part.n] == '.';
		const char *indent = nested ? "  " : "";

		if (s->type == &cfg_type_apart)
			add_apart(out, s, indent);
		if (s->preset == NULL || strchr(s->path, '*') != NULL)
			continue;
		if (nested && !slice_eq(part, section))
			buf_printf(out, "%.*s:\n", (int)part.n, part.p);
		section = part;
		add_comment(out, indent, s);
		buf_printf(out, "%s%s: %s\n", indent, nested ? s->path + part.n + 1 : s->path, s->preset);
	}
	add_services(out);
}
