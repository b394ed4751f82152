#include "wire/wire.h"

static const struct {
	const char *code, *title;
	int status;
} problems[] = {
	[PROBLEM_MALFORMED_JSON] = {"malformed_json", "The body is not JSON", 400},
	[PROBLEM_VALIDATION_FAILED] = {"validation_failed", "The request is not valid", 422},
	[PROBLEM_KEY_REUSED] = {"key_reused", "The idempotency key was used for another request", 422},
	[PROBLEM_IN_PROGRESS] = {"in_progress", "The first request with this key is still running", 409},
	[PROBLEM_NOT_FINISHED] = {"not_finished", "The batch is not done", 409},
	[PROBLEM_NOTHING_SELECTED] = {"nothing_selected", "No item was selected", 422},
	[PROBLEM_BODY_TOO_LARGE] = {"body_too_large", "The body is too large", 413},
	[PROBLEM_UNSUPPORTED_MEDIA_TYPE] = {"unsupported_media_type", "The media type is not supported", 415},
	[PROBLEM_NOT_ACCEPTABLE] = {"not_acceptable", "No acceptable representation", 406},
	[PROBLEM_LENGTH_REQUIRED] = {"length_required", "The body's length is required", 411},
	[PROBLEM_MALFORMED_REQUEST] = {"malformed_request", "The request is malformed", 400},
	[PROBLEM_UNAUTHENTICATED] = {"unauthenticated", "Authentication is required", 401},
	[PROBLEM_FORBIDDEN] = {"forbidden", "Not allowed", 403},
	[PROBLEM_NOT_FOUND] = {"not_found", "Not found", 404},
	[PROBLEM_METHOD_NOT_ALLOWED] = {"method_not_allowed", "The method is not allowed here", 405},
	[PROBLEM_QUOTA_EXCEEDED] = {"quota_exceeded", "The quota is used up", 429},
	[PROBLEM_OVERLOADED] = {"overloaded", "Too busy to accept this", 503},
	[PROBLEM_SHUTTING_DOWN] = {"shutting_down", "Shutting down", 503},
	[PROBLEM_INTERNAL] = {"internal", "A defect of the dispatcher", 500},
};

_Static_assert(ARRAY_LEN(problems) == PROBLEM_MAX, "every problem has its row");

const char *problem_str(enum problem p)
{
	return problems[p].code;
}

int problem_status(enum problem p)
{
	return problems[p].status;
}

void wire_problem(struct buf *out, enum problem p, const char *detail)
{
	buf_add_str(out, "{\"type\":\"about:blank\",\"title\":");
	wire_string(out, slice_str(problems[p].title));
	buf_add_str(out, ",\"status\":");
	buf_add_i64(out, problems[p].status);
	if (detail != NULL) {
		buf_add_str(out, ",\"detail\":");
		wire_string(out, slice_str(detail));
	}
	buf_add_str(out, ",\"code\":\"");
	buf_add_str(out, problems[p].code);
	buf_add_str(out, "\"}");
}
