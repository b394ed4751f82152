/*
 * The validating splitter: RFC 8259, one pass, no tree, no recursion.
 *
 * Invariants
 *  1. Everything before `p` is well-formed so far, in valid UTF-8.
 *  2. frames[0..depth) are the open objects and arrays, outermost first; the
 *     keys of frame i are keys[frames[i].first_key ..], up to the next frame's.
 *  3. No key stands twice among an object's keys: a duplicate is reported and
 *     not added.
 *  4. Once `bad` or `no_memory` is set, every function returns false.
 */
#include <jansson.h>
#include <stdlib.h>

#include "wire/wire-i.h"

static bool fail(struct scan *s, const char *at, const char *expected)
{
	if (s->bad == NULL) {
		s->bad = at;
		s->expected = expected;
	}
	return false;
}

static bool fail_memory(struct scan *s)
{
	s->no_memory = true;
	return false;
}

static void skip_space(struct scan *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\n' || *s->p == '\r' || *s->p == '\t'))
		s->p++;
}

static bool at_char(const struct scan *s, char c)
{
	return s->p < s->end && *s->p == c;
}

static bool is_continuation(unsigned char c)
{
	return (c & 0xc0) == 0x80;
}

/* The table of RFC 3629 section 4: no overlong forms, surrogates or values over
 * U+10FFFF. */
size_t utf8_sequence(const char *text, const char *end)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t left = (size_t)(end - text);

	if (left >= 2 && p[0] >= 0xc2 && p[0] <= 0xdf)
		return is_continuation(p[1]) ? 2 : 0;
	if (left >= 3 && (p[0] & 0xf0) == 0xe0) {
		unsigned char low = p[0] == 0xe0 ? 0xa0 : 0x80;
		unsigned char high = p[0] == 0xed ? 0x9f : 0xbf;

		return p[1] >= low && p[1] <= high && is_continuation(p[2]) ? 3 : 0;
	}
	if (left >= 4 && p[0] >= 0xf0 && p[0] <= 0xf4) {
		unsigned char low = p[0] == 0xf0 ? 0x90 : 0x80;
		unsigned char high = p[0] == 0xf4 ? 0x8f : 0xbf;

		return p[1] >= low && p[1] <= high && is_continuation(p[2]) && is_continuation(p[3]) ? 4 : 0;
	}
	return 0;
}

/* Past the characters that stand for themselves in a string. Eight at a time:
 * the sum of tests may name a later byte wrongly, never miss one. */
static const char *skip_plain(const char *p, const char *end)
{
	const uint64_t ones = 0x0101010101010101u, high = 0x8080808080808080u;

	while (end - p >= 8) {
		uint64_t x, quote, backslash;

		memcpy(&x, p, 8);
		quote = x ^ (ones * '"');
		backslash = x ^ (ones * '\\');
		if ((((x - ones * 0x20) | (quote - ones) | (backslash - ones) | x) & high) != 0)
			break;
		p += 8;
	}
	while (p < end && (unsigned char)*p >= 0x20 && *p != '"' && *p != '\\' && (unsigned char)*p < 0x80)
		p++;
	return p;
}

/* The four digits at p, or -1. */
static int hex4(const char *p, const char *end)
{
	int v = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = p[i];

		if (c >= '0' && c <= '9')
			v = v * 16 + (c - '0');
		else if (c >= 'a' && c <= 'f')
			v = v * 16 + (c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			v = v * 16 + (c - 'A' + 10);
		else
			return -1;
	}
	return v;
}

/* The escape at the backslash p; NULL after a failure. */
static const char *skip_escape(struct scan *s, const char *p)
{
	int unit, low;

	if (s->end - p < 2 || p[1] == '\0' || strchr("\"\\/bfnrtu", p[1]) == NULL) {
		fail(s, MIN(p + 1, s->end), "one of \" \\ / b f n r t u after a backslash");
		return NULL;
	}
	if (p[1] != 'u')
		return p + 2;
	unit = hex4(p + 2, s->end);
	if (unit < 0) {
		fail(s, p + 2, "four hexadecimal digits after \\u");
		return NULL;
	}
	if (unit < 0xd800 || unit > 0xdfff)
		return p + 6;
	low = s->end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8, s->end) : -1;
	if (unit > 0xdbff || low < 0xdc00 || low > 0xdfff) {
		fail(s, p, "a surrogate pair: \\uD800 to \\uDBFF, then \\uDC00 to \\uDFFF");
		return NULL;
	}
	return p + 12;
}

static bool scan_string(struct scan *s, struct value *ret)
{
	const char *p = s->p + 1;

	ret->kind = KIND_STRING;
	ret->escaped = false;
	for (;;) {
		p = skip_plain(p, s->end);
		if (p == s->end)
			return fail(s, p, "the end of a string, '\"'");
		if (*p == '"')
			break;
		if (*p == '\\') {
			ret->escaped = true;
			p = skip_escape(s, p);
			if (p == NULL)
				return false;
		} else if ((unsigned char)*p < 0x20) {
			return fail(s, p, "no control character in a string: write it as \\u00XX");
		} else {
			size_t n = utf8_sequence(p, s->end);

			if (n == 0)
				return fail(s, p, "valid UTF-8");
			p += n;
		}
	}
	ret->raw = (struct slice){s->p, (size_t)(p + 1 - s->p)};
	s->p = p + 1;
	return true;
}

static bool skip_digits(struct scan *s)
{
	const char *first = s->p;

	while (s->p < s->end && *s->p >= '0' && *s->p <= '9')
		s->p++;
	return s->p > first || fail(s, s->p, "a digit");
}

static bool scan_number(struct scan *s, struct value *ret)
{
	const char *first = s->p;

	if (at_char(s, '-'))
		s->p++;
	if (at_char(s, '0'))
		s->p++;
	else if (!skip_digits(s))
		return false;
	if (at_char(s, '.')) {
		s->p++;
		if (!skip_digits(s))
			return false;
	}
	if (at_char(s, 'e') || at_char(s, 'E')) {
		s->p++;
		if (at_char(s, '+') || at_char(s, '-'))
			s->p++;
		if (!skip_digits(s))
			return false;
	}
	ret->kind = KIND_NUMBER;
	ret->raw = (struct slice){first, (size_t)(s->p - first)};
	return true;
}

static bool scan_literal(struct scan *s, struct slice word, enum kind kind, struct value *ret)
{
	if ((size_t)(s->end - s->p) < word.n || memcmp(s->p, word.p, word.n) != 0)
		return fail(s, s->p, "a value");
	ret->kind = kind;
	ret->raw = (struct slice){s->p, word.n};
	s->p += word.n;
	return true;
}

static bool push(struct scan *s, bool object)
{
	if (s->depth == s->max_depth)
		return fail(s, s->p, "nothing nested deeper than the depth limit");
	if (s->depth == s->frames_cap) {
		unsigned cap = s->frames_cap == 0 ? 8 : s->frames_cap * 2;
		struct frame *v = realloc(s->frames, cap * sizeof *v);

		if (v == NULL)
			return fail_memory(s);
		s->frames = v;
		s->frames_cap = cap;
	}
	s->frames[s->depth++] = (struct frame){.first_key = s->n_keys, .object = object};
	s->p++;
	return true;
}

static void pop(struct scan *s)
{
	struct frame *f = scan_top(s);

	key_index_free(&f->index);
	s->n_keys = f->first_key;
	s->depth--;
}

/* Nobody outside can know it, so nobody can aim keys at one place of a hash. */
static uint64_t secret_seed(void)
{
	static _Thread_local uint64_t seed;
	struct rng rng;

	if (seed == 0) {
		rng_seed_from_os(&rng);
		seed = rng_u64(&rng) | 1;
	}
	return seed;
}

void scan_init(struct scan *s, struct slice text, unsigned max_depth)
{
	/* An empty text may come without an address, and there is no counting from that. */
	if (text.n == 0)
		text = SLICE("");
	*s = (struct scan){
		.start = text.p,
		.p = text.p,
		.end = text.p + text.n,
		.max_depth = max_depth,
		.seed = secret_seed(),
	};
}

void scan_free(struct scan *s)
{
	while (s->depth > 0)
		pop(s);
	free(s->frames);
	free(s->keys);
	arena_free(&s->arena);
}

bool scan_open(struct scan *s, struct value *ret)
{
	if (s->bad != NULL || s->no_memory)
		return false;
	skip_space(s);
	if (s->p == s->end)
		return fail(s, s->p, "a value");
	switch (*s->p) {
	case '{':
	case '[':
		ret->kind = *s->p == '{' ? KIND_OBJECT : KIND_ARRAY;
		ret->raw = (struct slice){s->p, 0};
		return push(s, *s->p == '{');
	case '"':
		return scan_string(s, ret);
	case 't':
		return scan_literal(s, SLICE("true"), KIND_BOOL, ret);
	case 'f':
		return scan_literal(s, SLICE("false"), KIND_BOOL, ret);
	case 'n':
		return scan_literal(s, SLICE("null"), KIND_NULL, ret);
	default:
		if (*s->p == '-' || (*s->p >= '0' && *s->p <= '9'))
			return scan_number(s, ret);
		return fail(s, s->p, "a value");
	}
}

bool scan_text(struct scan *s, const struct value *v, struct arena *a, struct slice *ret)
{
	struct slice copy = {0};
	json_t *text;

	if (!v->escaped) {
		*ret = (struct slice){v->raw.p + 1, v->raw.n - 2};
		return true;
	}
	/* The text was checked above: jansson can only fail for want of memory. */
	text = json_loadb(v->raw.p, v->raw.n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
	if (text != NULL)
		copy = arena_copy(a, (struct slice){json_string_value(text), json_string_length(text)});
	json_decref(text);
	if (copy.p == NULL)
		return fail_memory(s);
	*ret = copy;
	return true;
}

/* Remember the member's key; a second one of the same text is a duplicate. */
static bool add_key(struct scan *s, struct frame *f)
{
	int rc;

	if (s->n_keys == s->keys_cap) {
		size_t cap = s->keys_cap == 0 ? 8 : s->keys_cap * 2;
		struct key *v = realloc(s->keys, cap * sizeof *v);

		if (v == NULL)
			return fail_memory(s);
		s->keys = v;
		s->keys_cap = cap;
	}
	s->keys[s->n_keys] = (struct key){slice_hash(f->key, s->seed), f->key};
	rc = key_index_add(&f->index, s->keys + f->first_key, s->n_keys - f->first_key);
	if (rc < 0)
		return fail_memory(s);
	f->duplicate = rc == 0;
	if (f->duplicate && s->on_duplicate != NULL)
		s->on_duplicate(s);
	else if (!f->duplicate)
		s->n_keys++;
	return true;
}

static bool scan_key(struct scan *s, struct frame *f)
{
	struct value key;

	skip_space(s);
	if (!at_char(s, '"'))
		return fail(s, s->p, f->n > 1 ? "a key in quotes" : "a key in quotes or '}'");
	if (!scan_string(s, &key) || !scan_text(s, &key, &s->arena, &f->key))
		return false;
	skip_space(s);
	if (!at_char(s, ':'))
		return fail(s, s->p, "':' after a key");
	s->p++;
	return add_key(s, f);
}

enum step scan_next(struct scan *s)
{
	struct frame *f = scan_top(s);

	if (s->bad != NULL || s->no_memory)
		return STEP_FAILED;
	skip_space(s);
	if (at_char(s, f->object ? '}' : ']')) {
		s->p++;
		pop(s);
		return STEP_END;
	}
	if (f->n > 0) {
		if (!at_char(s, ',')) {
			fail(s, s->p, f->object ? "',' or '}'" : "',' or ']'");
			return STEP_FAILED;
		}
		s->p++;
	}
	f->n++;
	if (f->object && !scan_key(s, f))
		return STEP_FAILED;
	return STEP_MEMBER;
}

bool scan_close(struct scan *s, unsigned depth, struct value *v)
{
	struct value inner;

	while (s->depth > depth) {
		switch (scan_next(s)) {
		case STEP_FAILED:
			return false;
		case STEP_END:
			break;
		case STEP_MEMBER:
			if (!scan_open(s, &inner))
				return false;
			break;
		}
	}
	v->raw.n = (size_t)(s->p - v->raw.p);
	return true;
}

bool scan_value(struct scan *s, struct value *ret)
{
	unsigned depth = s->depth;

	return scan_open(s, ret) && scan_close(s, depth, ret);
}

bool scan_end(struct scan *s)
{
	skip_space(s);
	return s->p == s->end || fail(s, s->p, "the end of the body");
}
