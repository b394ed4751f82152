#include "core/outcome.h"

#define X(upper, lower, retryable) [CODE_##upper] = #lower,
static const char *const code_names[] = {CODE_TABLE(X)};
#undef X
#define X(upper, lower, retryable) [CODE_##upper] = retryable,
static const bool code_retry[] = {CODE_TABLE(X)};
#undef X
#define X(upper, lower) [STOP_##upper] = #lower,
static const char *const stop_names[] = {STOP_TABLE(X)};
#undef X
#define X(upper, lower) [DELIVERED_##upper] = #lower,
static const char *const delivered_names[] = {DELIVERED_TABLE(X)};
#undef X
#define X(upper, lower) [PHASE_##upper] = #lower,
static const char *const phase_names[] = {PHASE_TABLE(X)};
#undef X
#define X(upper, lower) [STATUS_##upper] = #lower,
static const char *const status_names[] = {STATUS_TABLE(X)};
#undef X

static const char *const code_messages[] = {
	[CODE_OK] = "the downstream accepted it",
	[CODE_INVALID_ITEM] = "the item is not valid",
	[CODE_PAYLOAD_TOO_LARGE] = "the payload is too large for this service",
	[CODE_RECIPIENT_NOT_FOUND] = "the downstream does not know the recipient",
	[CODE_RECIPIENT_GONE] = "the recipient is gone: forget it",
	[CODE_UNAUTHENTICATED] = "the downstream does not accept the service's credentials",
	[CODE_PERMISSION_DENIED] = "the downstream forbids it",
	[CODE_REJECTED] = "the downstream rejected it",
	[CODE_EXPIRED] = "ttl_ms passed before the first attempt",
	[CODE_RATE_LIMITED] = "the downstream asks to slow down",
	[CODE_CONNECT_FAILED] = "no connection to the downstream; nothing was sent",
	[CODE_CIRCUIT_OPEN] = "the service's circuit breaker is open; nothing was sent",
	[CODE_NOT_ATTEMPTED] = "the batch ended before this item was started",
	[CODE_UNAVAILABLE] = "the downstream is unavailable",
	[CODE_TIMEOUT] = "no answer in time",
	[CODE_CONNECTION_LOST] = "the connection was lost before an answer arrived",
	[CODE_UPSTREAM_ERROR] = "the downstream failed",
	[CODE_ABORTED] = "the batch was ended while the attempt was in flight",
	[CODE_INTERRUPTED] = "the dispatcher died while the attempt was in flight",
	[CODE_BAD_RESPONSE] = "the answer could not be understood",
	[CODE_INTERNAL] = "a defect of the dispatcher; please report it",
};

const char *code_str(enum code c)
{
	return code_names[c];
}

const char *stop_str(enum stop s)
{
	return stop_names[s];
}

const char *delivered_str(enum delivered d)
{
	return delivered_names[d];
}

const char *phase_str(enum phase p)
{
	return phase_names[p];
}

const char *status_str(enum status s)
{
	return status_names[s];
}

bool code_retryable(enum code c)
{
	return code_retry[c];
}

const char *code_message(enum code c)
{
	return code_messages[c];
}

enum status outcome_status(enum delivered d, unsigned attempts, enum code c)
{
	if (d == DELIVERED_YES)
		return STATUS_SUCCEEDED;
	if (d == DELIVERED_MAYBE)
		return STATUS_INDETERMINATE;
	if (attempts > 0 || !code_retryable(c))
		return STATUS_FAILED;
	return STATUS_NOT_ATTEMPTED;
}
