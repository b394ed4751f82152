/*
 * One value each: its kind, its range, and words for people when it is wrong.
 */
#include <stdio.h>

#include "wire/wire-i.h"

enum { NAME_MAX_LEN = 24, NEAR = 2 };

static const char *kind_str(enum kind k)
{
	static const char *const names[] = {
		[KIND_NULL] = "null", [KIND_BOOL] = "a boolean", [KIND_NUMBER] = "a number",
		[KIND_STRING] = "a string", [KIND_ARRAY] = "an array", [KIND_OBJECT] = "an object",
	};

	return names[k];
}

/* Edits between two short names (Levenshtein), row by row. */
static size_t distance(struct slice a, struct slice b)
{
	size_t row[NAME_MAX_LEN + 1];

	for (size_t j = 0; j <= b.n; j++)
		row[j] = j;
	for (size_t i = 1; i <= a.n; i++) {
		size_t diagonal = row[0];

		row[0] = i;
		for (size_t j = 1; j <= b.n; j++) {
			size_t swap = diagonal + (a.p[i - 1] != b.p[j - 1]);

			diagonal = row[j];
			row[j] = MIN(swap, MIN(row[j], row[j - 1]) + 1);
		}
	}
	return row[b.n];
}

/* The name that was meant, if one is near. */
static const char *nearest(const struct field *fields, size_t n, struct slice key)
{
	const char *best = NULL;
	size_t best_d = MIN(key.n, (size_t)NEAR + 1);

	for (size_t i = 0; i < n && key.n <= NAME_MAX_LEN; i++) {
		size_t d = distance(key, slice_str(fields[i].name));

		if (d < best_d) {
			best_d = d;
			best = fields[i].name;
		}
	}
	return best;
}

static void unknown_field(struct reader *r, const struct field *fields, size_t n, struct slice key)
{
	char known[256] = "";
	const char *meant;
	size_t at = 0;

	/* Only counted: words are work, and a body has room for a million of these. */
	if (!fault_wanted(r)) {
		fault_here(r, FAULT_UNKNOWN_FIELD, "unknown");
		return;
	}
	meant = nearest(fields, n, key);
	if (meant != NULL) {
		fault_here(r, FAULT_UNKNOWN_FIELD, "there is no field " QUOTE "; did you mean \"%s\"?", QUOTED(key),
			   meant);
		return;
	}
	for (size_t i = 0; i < n && at < sizeof known; i++)
		at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i > 0 ? ", " : "", fields[i].name);
	fault_here(r, FAULT_UNKNOWN_FIELD, "there is no field " QUOTE "; the fields here are %s", QUOTED(key), known);
}

/* The members of the object just entered, to its end. */
static bool read_members(struct reader *r, const struct field *fields, size_t n)
{
	struct value ignored;

	for (;;) {
		const struct field *field = NULL;
		struct slice key;

		switch (scan_next(&r->scan)) {
		case STEP_FAILED:
			return false;
		case STEP_END:
			return true;
		case STEP_MEMBER:
			break;
		}
		key = scan_top(&r->scan)->key;
		for (size_t i = 0; i < n && field == NULL; i++) {
			if (slice_eq(key, slice_str(fields[i].name)))
				field = &fields[i];
		}
		if (field == NULL)
			unknown_field(r, fields, n, key);
		if (field != NULL && !scan_top(&r->scan)->duplicate) {
			if (!field->read(r))
				return false;
		} else if (!scan_value(&r->scan, &ignored)) {
			return false;
		}
	}
}

static void wrong_kind(struct reader *r, const char *want, enum kind have)
{
	fault_here(r, FAULT_TYPE, "this must be %s, not %s", want, kind_str(have));
}

enum opened read_open(struct reader *r, enum kind kind, struct value *ret)
{
	unsigned depth = r->scan.depth;

	if (!scan_open(&r->scan, ret))
		return OPEN_FAILED;
	if (ret->kind == kind)
		return OPENED;
	if (!scan_close(&r->scan, depth, ret))
		return OPEN_FAILED;
	wrong_kind(r, kind_str(kind), ret->kind);
	return OPEN_OTHER;
}

enum opened read_object(struct reader *r, const struct field *fields, size_t n)
{
	struct value v;
	enum opened found = read_open(r, KIND_OBJECT, &v);

	return found == OPENED && !read_members(r, fields, n) ? OPEN_FAILED : found;
}

enum opened read_list(struct reader *r, bool (*member)(struct reader *r))
{
	struct value v;
	enum opened found = read_open(r, KIND_ARRAY, &v);

	while (found == OPENED) {
		switch (scan_next(&r->scan)) {
		case STEP_FAILED:
			return OPEN_FAILED;
		case STEP_END:
			return OPENED;
		case STEP_MEMBER:
			if (!member(r))
				return OPEN_FAILED;
			break;
		}
	}
	return found;
}

bool read_string(struct reader *r, size_t min, size_t max, struct slice *ret)
{
	struct slice text;
	struct value v;

	if (!scan_value(&r->scan, &v))
		return false;
	if (v.kind != KIND_STRING) {
		wrong_kind(r, kind_str(KIND_STRING), v.kind);
		return true;
	}
	/* An escape makes at most six bytes of one. */
	if (v.raw.n <= 6 * max + 2 && !scan_text(&r->scan, &v, &r->arena, &text))
		return false;
	if (v.raw.n > 6 * max + 2 || text.n > max)
		fault_here(r, FAULT_LENGTH, "this is too long: at most %zu bytes", max);
	else if (text.n < min)
		fault_here(r, FAULT_LENGTH, "this must not be empty");
	else
		*ret = text;
	return true;
}

/* Digits to a number, held at INT64_MAX: they may be thousands. */
static int64_t to_int(struct slice digits)
{
	bool negative = digits.p[0] == '-';
	int64_t v = 0;

	for (size_t i = negative; i < digits.n; i++) {
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, digits.p[i] - '0', &v)) {
			v = INT64_MAX;
			break;
		}
	}
	return negative ? -v : v;
}

bool read_int(struct reader *r, int64_t min, int64_t max, int64_t *ret)
{
	struct value v;
	int64_t n;

	if (!scan_value(&r->scan, &v))
		return false;
	if (v.kind != KIND_NUMBER) {
		wrong_kind(r, "an integer", v.kind);
		return true;
	}
	for (size_t i = 0; i < v.raw.n; i++) {
		if (v.raw.p[i] == '.' || v.raw.p[i] == 'e' || v.raw.p[i] == 'E') {
			fault_here(r, FAULT_TYPE, "this must be an integer, written without fraction or exponent");
			return true;
		}
	}
	n = to_int(v.raw);
	if (n < min || n > max)
		fault_here(r, FAULT_RANGE, "this must be from %lld to %lld", (long long)min, (long long)max);
	else
		*ret = n;
	return true;
}

bool read_bool(struct reader *r, bool *ret)
{
	struct value v;

	if (!scan_value(&r->scan, &v))
		return false;
	if (v.kind != KIND_BOOL)
		wrong_kind(r, "true or false", v.kind);
	else
		*ret = v.raw.p[0] == 't';
	return true;
}

bool read_enum(struct reader *r, const char *const *names, size_t n, size_t *ret)
{
	char all[128] = "";
	size_t at = 0;
	struct slice text;
	struct value v;

	if (!scan_value(&r->scan, &v))
		return false;
	if (v.kind != KIND_STRING) {
		wrong_kind(r, kind_str(KIND_STRING), v.kind);
		return true;
	}
	if (!scan_text(&r->scan, &v, &r->scratch, &text))
		return false;
	for (size_t i = 0; i < n; i++) {
		if (slice_eq(text, slice_str(names[i]))) {
			*ret = i;
			return true;
		}
		if (at < sizeof all)
			at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", i > 0 ? ", " : "", names[i]);
	}
	fault_here(r, FAULT_ENUM, QUOTE " is not one of: %s", QUOTED(text), all);
	return true;
}

bool read_payload(struct reader *r, struct slice *ret)
{
	struct value v;

	if (!scan_value(&r->scan, &v))
		return false;
	if (v.raw.n > r->rules->max_payload)
		fault_here(r, FAULT_LENGTH, "the payload has %zu bytes; at most %zu are allowed", v.raw.n,
			   r->rules->max_payload);
	else
		*ret = v.raw;
	return true;
}

bool read_service(struct reader *r, int32_t *ret)
{
	struct slice name = {0};

	*ret = SERVICE_BAD;
	if (!read_string(r, 1, 255, &name))
		return false;
	if (name.p == NULL)
		return true;
	/* Mostly all items of a batch name the same one. */
	if (r->last_service.p == NULL || !slice_eq(name, r->last_service)) {
		r->last_service = name;
		r->last_found = r->rules->find_service(r->rules->ctx, name);
	}
	if (r->last_found >= 0)
		*ret = r->last_found;
	else
		fault_here(r, FAULT_UNKNOWN_SERVICE, "no service has the name " QUOTE
			   ": the names are the keys under `services` in the configuration", QUOTED(name));
	return true;
}
