/*
 * The two functions of `wire` that httpd calls, for as long as `wire` has no
 * code: goes away with its first source.
 */
#include "wire/wire.h"

int problem_status(enum problem p)
{
	switch ((int)p) {
	case PROBLEM_MALFORMED_REQUEST:
		return 400;
	case PROBLEM_LENGTH_REQUIRED:
		return 411;
	case PROBLEM_BODY_TOO_LARGE:
		return 413;
	case PROBLEM_OVERLOADED:
		return 503;
	}
	return 500;
}

void wire_problem(struct buf *out, enum problem p, const char *detail)
{
	buf_printf(out, "{\"status\":%d,\"detail\":\"%s\"}", problem_status(p), detail == NULL ? "" : detail);
}
