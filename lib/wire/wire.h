/*
 * The wire: JSON to core values and back, and problem documents (RFC 9457).
 * The only user of jansson. Pure; any thread.
 *
 * Reading: the body is scanned once by a validating splitter (RFC 8259) that
 * finds where members and items begin and end; payloads stay where they are,
 * byte for byte. Texts with escapes are decoded by jansson.
 */
#pragma once

#include "core/batch.h"

#define PROBLEM_TABLE(X)                                                        \
	X(MALFORMED_JSON, malformed_json) X(VALIDATION_FAILED, validation_failed)   \
	X(KEY_REUSED, key_reused) X(IN_PROGRESS, in_progress)                       \
	X(NOT_FINISHED, not_finished) X(NOTHING_SELECTED, nothing_selected)         \
	X(BODY_TOO_LARGE, body_too_large)                                           \
	X(UNSUPPORTED_MEDIA_TYPE, unsupported_media_type)                           \
	X(NOT_ACCEPTABLE, not_acceptable) X(LENGTH_REQUIRED, length_required)       \
	X(MALFORMED_REQUEST, malformed_request) X(UNAUTHENTICATED, unauthenticated) \
	X(FORBIDDEN, forbidden) X(NOT_FOUND, not_found)                             \
	X(METHOD_NOT_ALLOWED, method_not_allowed) X(QUOTA_EXCEEDED, quota_exceeded) \
	X(OVERLOADED, overloaded) X(SHUTTING_DOWN, shutting_down) X(INTERNAL, internal)

#define X(upper, lower) PROBLEM_##upper,
enum problem { PROBLEM_TABLE(X) PROBLEM_MAX };
#undef X

const char *problem_str(enum problem p);
int problem_status(enum problem p);      /* the HTTP status it is answered with */

/* A problem document without an error list; `detail` may be NULL. */
void wire_problem(struct buf *out, enum problem p, const char *detail);

#define FAULT_TABLE(X)                                                         \
	X(REQUIRED, required) X(TYPE, type) X(FORMAT, format) X(RANGE, range)      \
	X(LENGTH, length) X(ENUM, enum) X(UNKNOWN_FIELD, unknown_field)            \
	X(DUPLICATE_ID, duplicate_id) X(DUPLICATE_KEY, duplicate_key)              \
	X(EMPTY_BATCH, empty_batch) X(TOO_MANY_ITEMS, too_many_items)              \
	X(UNKNOWN_SERVICE, unknown_service) X(CONFLICT, conflict)

#define X(upper, lower) FAULT_##upper,
enum fault { FAULT_TABLE(X) };
#undef X

/* What is wrong with a parameter of a request's query. */
struct query_error {
	struct slice name;               /* the parameter's */
	enum fault fault;
	const char *detail;
};

/* The whole problem document, validation_failed, of a query with `total` errors,
 * of which the first n are listed. */
void wire_invalid_query(struct buf *out, const struct query_error *v, size_t n, uint64_t total);

/* The same for a batch of n items, at `pointer` in its request, of which there may never
 * be more than `most` at once. */
void wire_never_fits(struct buf *out, const char *pointer, uint64_t n, uint64_t most);

/* What validation asks of the rest of the program. */
struct wire_rules {
	uint32_t max_items;
	size_t max_payload;
	unsigned max_depth;
	unsigned max_priority;           /* the caller's bound; the default is the smaller of 5 and this */
	int64_t default_deadline_ms, max_deadline_ms;
	struct retry_policy default_retry;       /* max_attempts 0: the synchronous 3, 100, 2,000 */
	int default_service;             /* index, or -1: items must name one */
	const void *ctx;
	int (*find_service)(const void *ctx, struct slice name);         /* index or -1 */
	/* NULL: fine; else static text saying what is wrong with `to`. */
	const char *(*check_to)(const void *ctx, int service, struct slice to);
	/* How many bytes of payload a service takes, and its name; NULL: any number. */
	size_t (*service_takes)(const void *ctx, int service, const char **ret_name);
};

/* Read a batch. On success takes the reference on `body`, returns 0, and items
 * that are invalid under best_effort are FINAL already. Otherwise returns
 * -EINVAL with a whole problem document in `reterr` and its kind in `ret_kind`,
 * or -ENOMEM; `body` is then still the caller's. The batch's id, times and
 * trace are the caller's to set. Under validate_only invalid items refuse the
 * batch whatever its contract, and so do payloads over their service's limit,
 * which otherwise are results. */
int wire_read_batch(struct blob *take_body, const struct wire_rules *rules, struct batch **ret,
		    enum problem *ret_kind, struct buf *reterr);

/* What a retry asks for: {"select": "safe"}, which an empty body means too,
 * {"select": "include_maybe"}, or {"ids": [...]}. The body is borrowed as long as
 * it lives. Returns as wire_read_batch(). */
struct wire_retry;
int wire_read_retry(struct slice body, unsigned max_depth, struct wire_retry **ret, enum problem *ret_kind,
		    struct buf *reterr);
void wire_retry_free(struct wire_retry *w);      /* NULL is fine */

/* Its choice from a batch that is done, which has all its items and the letters
 * that are left of them: *ret_n places in `items`, in their order, into `chosen`,
 * which has room for all. Returns as wire_read_batch(); nothing chosen is an error. */
int wire_retry_choose(struct wire_retry *w, const struct batch *first, uint32_t *chosen, uint32_t *ret_n,
		      enum problem *ret_kind, struct buf *reterr);

/* One item's result object. With `include: ["attempts"]` the records of its
 * attempts are its member `attempt_log`, oldest first: `attempts` is their number. */
void wire_item(struct buf *out, const struct item *it);

/* How many items are in which status: an object. */
void wire_counts(struct buf *out, const struct counts *c);

/* The batch's document; `results`: with its results. Bytes of an unfinished
 * batch show what is known so far. */
void wire_batch(struct buf *out, const struct batch *b, bool results);

/* The first of the top-level string members `id`, `message_id`, `name` of a
 * JSON object, decoded into `out`; false if there is none or it is no JSON. */
bool wire_message_id(struct slice json, struct buf *out);

/* A JSON string with quotes, escaped (RFC 8259 section 7). */
void wire_string(struct buf *out, struct slice s);

/* RFC 3339 in UTC with milliseconds, with quotes. */
void wire_time(struct buf *out, int64_t unix_ms);
