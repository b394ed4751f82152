#include "query.h"

#include <stdio.h>

static const char no_such[] = "there is no such parameter here; see /openapi.json";

void query_error(struct query *q, struct slice name, enum fault f, const char *detail)
{
	if (q->n_errors < QUERY_ERRORS_LISTED)
		q->errors[q->n_errors] = (struct query_error){name, f, detail};
	q->n_errors++;
}

static void fail(struct query *q, const struct param *p, enum fault f)
{
	query_error(q, slice_str(p->name), f, p->expected);
}

static void read_integer(struct query *q, const struct param *p, struct slice value)
{
	int64_t v = 0;

	for (size_t i = 0; i < value.n; i++) {
		if (value.p[i] < '0' || value.p[i] > '9') {
			fail(q, p, FAULT_TYPE);
			return;
		}
		v = MIN(v * 10 + (value.p[i] - '0'), p->max + 1);
	}
	if (value.n == 0)
		fail(q, p, FAULT_TYPE);
	else if (v < p->min || v > p->max)
		fail(q, p, FAULT_RANGE);
	else
		*(int64_t *)p->ret = v;
}

static int name_index(const struct param *p, struct slice value)
{
	for (unsigned i = 0; i < p->n_names; i++) {
		if (slice_eq(value, slice_str(p->names[i])))
			return (int)i;
	}
	return -1;
}

static void read_name(struct query *q, const struct param *p, struct slice value)
{
	int i = name_index(p, value);

	if (i < 0)
		fail(q, p, FAULT_ENUM);
	else
		*(int *)p->ret = i;
}

static void read_names(struct query *q, const struct param *p, struct slice value)
{
	unsigned mask = 0;

	for (;;) {
		const char *comma = value.n == 0 ? NULL : memchr(value.p, ',', value.n);
		size_t n = comma == NULL ? value.n : (size_t)(comma - value.p);
		int i = name_index(p, (struct slice){value.p, n});

		if (i < 0) {
			fail(q, p, FAULT_ENUM);
			return;
		}
		mask |= 1u << i;
		if (comma == NULL)
			break;
		value = (struct slice){comma + 1, value.n - n - 1};
	}
	*(unsigned *)p->ret = mask;
}

static void read_text(struct query *q, const struct param *p, struct slice value)
{
	if (value.n < (size_t)p->min || value.n > (size_t)p->max) {
		fail(q, p, FAULT_LENGTH);
		return;
	}
	for (size_t i = 0; i < value.n; i++) {
		if (value.p[i] < ' ' || value.p[i] > '~') {
			fail(q, p, FAULT_FORMAT);
			return;
		}
	}
	*(struct slice *)p->ret = value;
}

static void read_value(struct query *q, const struct param *p, struct slice value)
{
	switch (p->kind) {
	case PARAM_INTEGER:
		read_integer(q, p, value);
		break;
	case PARAM_NAME:
		read_name(q, p, value);
		break;
	case PARAM_NAMES:
		read_names(q, p, value);
		break;
	case PARAM_TEXT:
		read_text(q, p, value);
		break;
	}
}

static bool on_parameter(void *arg, struct slice name, struct slice value)
{
	struct query *q = arg;

	for (size_t i = 0; i < q->n_params; i++) {
		struct param *p = &q->params[i];

		if (!slice_eq(name, slice_str(p->name)))
			continue;
		if (p->seen)
			query_error(q, name, FAULT_DUPLICATE_KEY, "give it once");
		else
			read_value(q, p, value);
		p->seen = true;
		return true;
	}
	query_error(q, name, FAULT_UNKNOWN_FIELD, no_such);
	return true;
}

void query_read(struct query *q, struct http_request *req, struct param *params, size_t n)
{
	q->params = params;
	q->n_params = n;
	q->n_errors = 0;
	http_each_query(req, on_parameter, q);
}

bool query_refused(const struct query *q, struct routes *r, struct http_request *req)
{
	static const struct http_header h[] = {{"Content-Type", "application/problem+json"}};
	struct buf text = {0};

	if (q->n_errors == 0)
		return false;
	meter_add(r->env.meter, METRIC_REFUSED, PROBLEM_VALIDATION_FAILED, 0, 1);
	wire_invalid_query(&text, q->errors, (size_t)MIN(q->n_errors, (uint64_t)QUERY_ERRORS_LISTED), q->n_errors);
	http_respond(req, problem_status(PROBLEM_VALIDATION_FAILED), h, 1, blob_from_buf(&text));
	return true;
}

/* ---- cursors: 16 hexadecimal digits each for the place and its check ---- */

enum { DIGITS = 16 };

static bool parse_hex(const char *p, uint64_t *ret)
{
	*ret = 0;
	for (int i = 0; i < DIGITS; i++) {
		char c = p[i];
		int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;

		if (digit < 0)
			return false;
		*ret = *ret << 4 | (uint64_t)digit;
	}
	return true;
}

void cursor_write(struct buf *out, struct cursor c, uint64_t bound)
{
	char place[2 * DIGITS + 1];

	snprintf(place, sizeof place, "%016llx%016llx", (unsigned long long)c.hi, (unsigned long long)c.lo);
	buf_add_str(out, place);
	buf_printf(out, "%016llx", (unsigned long long)slice_hash(slice_str(place), bound));
}

bool cursor_parse(struct slice text, uint64_t bound, struct cursor *ret)
{
	struct cursor c;
	uint64_t check;

	if (text.n != CURSOR_LEN || !parse_hex(text.p, &c.hi) || !parse_hex(text.p + DIGITS, &c.lo) ||
	    !parse_hex(text.p + 2 * DIGITS, &check))
		return false;
	if (check != slice_hash((struct slice){text.p, 2 * DIGITS}, bound))
		return false;
	*ret = c;
	return true;
}

void query_cursor(struct query *q, struct slice text, uint64_t bound, struct cursor *ret)
{
	if (text.p != NULL && !cursor_parse(text, bound, ret))
		query_error(q, SLICE("cursor"), FAULT_FORMAT,
			    "give a next_cursor as it came, with the other parameters of the request that it came from");
}
