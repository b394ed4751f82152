/*
 * What became of an attempt and of an item: the closed vocabulary of the
 * contract (sections 5 and 6), each enumeration with its names in one table.
 * Pure; no state; any thread.
 */
#pragma once

#include <stdbool.h>

#include "base/slice.h"

/* name, retryable. The order is the contract's. CODE_OK has no name on the wire. */
#define CODE_TABLE(X)                        \
	X(OK, ok, false)                         \
	X(INVALID_ITEM, invalid_item, false)     \
	X(PAYLOAD_TOO_LARGE, payload_too_large, false) \
	X(RECIPIENT_NOT_FOUND, recipient_not_found, false) \
	X(RECIPIENT_GONE, recipient_gone, false) \
	X(UNAUTHENTICATED, unauthenticated, false) \
	X(PERMISSION_DENIED, permission_denied, false) \
	X(REJECTED, rejected, false)             \
	X(EXPIRED, expired, false)               \
	X(RATE_LIMITED, rate_limited, true)      \
	X(CONNECT_FAILED, connect_failed, true)  \
	X(CIRCUIT_OPEN, circuit_open, true)      \
	X(NOT_ATTEMPTED, not_attempted, true)    \
	X(UNAVAILABLE, unavailable, true)        \
	X(TIMEOUT, timeout, true)                \
	X(CONNECTION_LOST, connection_lost, true) \
	X(UPSTREAM_ERROR, upstream_error, true)  \
	X(ABORTED, aborted, true)                \
	X(INTERRUPTED, interrupted, true)        \
	X(BAD_RESPONSE, bad_response, false)     \
	X(INTERNAL, internal, false)

#define STOP_TABLE(X)                  \
	X(NONE, none)                      \
	X(NOT_RETRYABLE, not_retryable)    \
	X(MAX_ATTEMPTS, max_attempts)      \
	X(MAYBE_DELIVERED, maybe_delivered) \
	X(RETRY_BUDGET, retry_budget)      \
	X(DEADLINE, deadline)              \
	X(TTL, ttl)                        \
	X(FIRST_FAILURE, first_failure)    \
	X(DISCONNECTED, disconnected)      \
	X(CANCELLED, cancelled)            \
	X(SHED, shed)                      \
	X(SHUTDOWN, shutdown)              \
	X(INTERRUPTED, interrupted)

#define DELIVERED_TABLE(X) X(NO, no) X(MAYBE, maybe) X(YES, yes)

#define PHASE_TABLE(X) \
	X(QUEUE, queue) X(RESOLVE, resolve) X(CONNECT, connect) X(TLS, tls) \
	X(SEND, send) X(WAIT, wait) X(RECEIVE, receive)

#define STATUS_TABLE(X)                                        \
	X(PENDING, pending) X(RUNNING, running)                    \
	X(SUCCEEDED, succeeded) X(FAILED, failed)                  \
	X(INDETERMINATE, indeterminate) X(NOT_ATTEMPTED, not_attempted)

#define X(upper, lower, retryable) CODE_##upper,
enum code { CODE_TABLE(X) CODE_MAX };
#undef X
#define X(upper, lower) STOP_##upper,
enum stop { STOP_TABLE(X) STOP_MAX };
#undef X
#define X(upper, lower) DELIVERED_##upper,
enum delivered { DELIVERED_TABLE(X) DELIVERED_MAX };
#undef X
#define X(upper, lower) PHASE_##upper,
enum phase { PHASE_TABLE(X) PHASE_MAX };
#undef X
#define X(upper, lower) STATUS_##upper,
enum status { STATUS_TABLE(X) STATUS_MAX };
#undef X

const char *code_str(enum code c);
const char *stop_str(enum stop s);
const char *delivered_str(enum delivered d);
const char *phase_str(enum phase p);
const char *status_str(enum status s);

bool code_retryable(enum code c);

enum { RETRY_AFTER_NONE = -1 };

/* The result of one attempt, or of an item that never had one. */
struct outcome {
	enum code code;                  /* CODE_OK: accepted by the downstream */
	enum delivered delivered;
	enum phase phase;                /* how far the attempt came */
	int http_status;                 /* 0: no status line arrived */
	int64_t retry_after_ms;          /* the downstream's wish, or RETRY_AFTER_NONE */
	const char *detail;              /* static text for people; NULL: the code's own */
	struct slice message_id;         /* borrowed; valid during the call that brings it */
};

/* Final status of an item (contract section 5). */
enum status outcome_status(enum delivered d, unsigned attempts, enum code c);

/* The code's own sentence for people; a status of 0 is left out. */
const char *code_message(enum code c);
