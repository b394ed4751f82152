#include "behaviour.h"

#include <stdlib.h>

#include "base/rand.h"

/* The longest wait and the largest answer that may be asked for. */
enum { MS_MAX = 86400 * 1000, BODY_MAX = 16 * 1024 * 1024, TIMES_MAX = 1000000 };

struct word {
	const char *name;
	uint8_t value;
};

static const char bad_value[] = "bad value of a parameter; see settled-downstream --help\n";

static const struct word moments[] = {{"", 0}, {"after", 0}, {"before", 1}, {NULL, 0}};
static const struct word endlesses[] = {{"headers", ENDLESS_HEADERS}, {"body", ENDLESS_BODY}, {NULL, 0}};
static const struct word brokens[] = {{"status", BROKEN_STATUS}, {"headers", BROKEN_HEADERS},
				      {"length", BROKEN_LENGTH}, {"chunk", BROKEN_CHUNK}, {NULL, 0}};
static const struct word keeps[] = {{"yes", KEEP_YES}, {"no", KEEP_NO}, {"lie", KEEP_LIE}, {NULL, 0}};

static const struct preset {
	struct slice name;
	struct slice means;
} presets[] = {
#define PRESET(name, means) {{name, sizeof name - 1}, {means, sizeof means - 1}}
	PRESET("ok", "status=200"),
	PRESET("redirect", "status=302"),
	PRESET("invalid", "status=422"),
	PRESET("unauthorized", "status=401"),
	PRESET("forbidden", "status=403"),
	PRESET("missing", "status=404"),
	PRESET("gone", "status=410"),
	PRESET("limited", "status=429&retry_after=1"),
	PRESET("error", "status=500"),
	PRESET("down", "status=503"),
	PRESET("flaky", "status=503&times=2&then=200"),
	PRESET("slow", "wait_ms=1000"),
	PRESET("hang", "hang"),
	PRESET("reset", "reset"),
	PRESET("close", "close"),
	PRESET("drip", "drip_ms=10"),
	PRESET("endless", "endless=body"),
	PRESET("garbage", "broken=status"),
#undef PRESET
};

static const struct preset *find_preset(struct slice name)
{
	for (size_t i = 0; i < ARRAY_LEN(presets); i++) {
		if (slice_eq(presets[i].name, name))
			return &presets[i];
	}
	return NULL;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static void decode(struct slice s, struct buf *out)
{
	out->n = 0;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] == '%' && i + 2 < s.n && hex(s.p[i + 1]) >= 0 && hex(s.p[i + 2]) >= 0) {
			buf_add_char(out, (char)(hex(s.p[i + 1]) << 4 | hex(s.p[i + 2])));
			i += 2;
		} else {
			buf_add_char(out, s.p[i]);
		}
	}
}

/* What stands before `sep`, which is used up with it; all, if there is none. */
static struct slice cut(struct slice *s, char sep)
{
	const char *p = s->n == 0 ? NULL : memchr(s->p, sep, s->n);
	struct slice head = {s->p, p == NULL ? s->n : (size_t)(p - s->p)};
	size_t used = p == NULL ? s->n : head.n + 1;

	s->p += used;
	s->n -= used;
	return head;
}

static bool number(struct slice s, int64_t max, int64_t *ret)
{
	int64_t v = 0;

	if (s.n == 0 || s.n > 18)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
		v = v * 10 + (s.p[i] - '0');
	}
	*ret = v;
	return v <= max;
}

static bool status(struct slice s, int *ret)
{
	int64_t v;

	if (!number(s, 999, &v) || v < 100)
		return false;
	*ret = (int)v;
	return true;
}

static bool word(struct slice s, const struct word *words, uint8_t *ret)
{
	for (; words->name != NULL; words++) {
		if (slice_eq(s, slice_str(words->name))) {
			*ret = words->value;
			return true;
		}
	}
	return false;
}

static bool act(struct behaviour *b, enum act act, struct slice moment)
{
	uint8_t early;

	if (!word(moment, moments, &early))
		return false;
	b->act = (uint8_t)act;
	b->early = early;
	return true;
}

static bool keep_text(struct buf *to, struct slice s)
{
	to->n = 0;
	buf_add_slice(to, s);
	return true;
}

static bool add_header(struct spec *s, struct slice line)
{
	buf_add_slice(&s->headers, line);
	buf_add_str(&s->headers, "\r\n");
	s->b.header_bytes = s->headers.n;
	return line.n > 0;
}

/* False: no parameter of that name is a number. */
static bool set_number(struct spec *s, struct slice name, struct slice v, bool *ret_ok)
{
	const struct {
		const char *name;
		int64_t *to, max;
	} numbers[] = {
		{"times", &s->times, TIMES_MAX},
		{"wait_ms", &s->b.wait_ms, MS_MAX},
		{"retry_after", &s->b.retry_after, MS_MAX},
		{"body_bytes", &s->b.body_bytes, BODY_MAX},
		{"drip_ms", &s->b.drip_ms, MS_MAX},
		{"drip_bytes", &s->b.drip_bytes, BODY_MAX},
		{"seed", &s->seed, INT64_MAX},
	};

	for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
		if (slice_eq(name, slice_str(numbers[i].name))) {
			*ret_ok = number(v, numbers[i].max, numbers[i].to);
			return true;
		}
	}
	return false;
}

static const char *set(struct spec *s, struct slice name, struct slice v)
{
	bool ok;

	if (set_number(s, name, v, &ok))
		return ok ? NULL : bad_value;
	if (slice_eq(name, SLICE("status")))
		ok = status(v, &s->b.status);
	else if (slice_eq(name, SLICE("then")))
		ok = status(v, &s->then);
	else if (slice_eq(name, SLICE("header")))
		ok = add_header(s, v);
	else if (slice_eq(name, SLICE("hang")))
		ok = act(&s->b, ACT_HANG, v);
	else if (slice_eq(name, SLICE("reset")))
		ok = act(&s->b, ACT_RESET, v);
	else if (slice_eq(name, SLICE("close")))
		ok = act(&s->b, ACT_CLOSE, v);
	else if (slice_eq(name, SLICE("endless")))
		ok = word(v, endlesses, &s->b.endless);
	else if (slice_eq(name, SLICE("broken")))
		ok = word(v, brokens, &s->b.broken);
	else if (slice_eq(name, SLICE("keep")))
		ok = word(v, keeps, &s->b.keep);
	else if (slice_eq(name, SLICE("interim")))
		ok = status(v, &s->b.interim) && s->b.interim < 200;
	else if (slice_eq(name, SLICE("body")))
		ok = s->b.has_body = keep_text(&s->body, v);
	else if (slice_eq(name, SLICE("key")))
		ok = keep_text(&s->key, v);
	else if (slice_eq(name, SLICE("mix")))
		ok = keep_text(&s->mix, v);
	else if (slice_eq(name, SLICE("tag")))
		ok = true;
	else
		return "unknown parameter; see settled-downstream --help\n";
	return ok ? NULL : bad_value;
}

static const char *read_parameters(struct spec *s, struct slice text)
{
	const char *wrong = NULL;

	while (text.n > 0 && wrong == NULL) {
		struct slice pair = cut(&text, '&'), name = cut(&pair, '=');

		if (name.n == 0)
			continue;
		decode(pair, &s->value);
		wrong = set(s, name, buf_slice(&s->value));
	}
	return wrong;
}

const char *spec_read(struct spec *s, struct slice text)
{
	struct slice rest = text, name = cut(&rest, '?');
	const struct preset *p = find_preset(name);
	const char *wrong;

	if (p == NULL)
		return read_parameters(s, text);
	wrong = read_parameters(s, p->means);
	return wrong != NULL ? wrong : read_parameters(s, rest);
}

const char *spec_read_target(struct spec *s, struct slice path, struct slice query)
{
	const char *wrong = NULL;

	while (path.n > 0 && wrong == NULL) {
		struct slice text;

		decode(cut(&path, '/'), &s->text);
		text = buf_slice(&s->text);
		if (text.n > 0 && (memchr(text.p, '=', text.n) != NULL || find_preset(text) != NULL))
			wrong = spec_read(s, text);
	}
	return wrong != NULL ? wrong : read_parameters(s, query);
}

void spec_reset(struct spec *s)
{
	s->b = (struct behaviour){.status = 200, .retry_after = -1, .drip_bytes = 1};
	s->times = 0;
	s->then = 200;
	s->seed = 0;
	s->headers.n = s->body.n = s->key.n = s->mix.n = 0;
}

void spec_free(struct spec *s)
{
	buf_free(&s->headers);
	buf_free(&s->body);
	buf_free(&s->key);
	buf_free(&s->mix);
	buf_free(&s->text);
	buf_free(&s->value);
}

/* "200:80,503:10,hang:5": what, and how often out of the sum. */
static const char *mix_total(struct slice mix, int64_t *ret)
{
	int64_t weight;

	*ret = 0;
	while (mix.n > 0) {
		struct slice entry = cut(&mix, ','), what = cut(&entry, ':');
		int code;

		if ((!status(what, &code) && find_preset(what) == NULL) || !number(entry, TIMES_MAX, &weight))
			return "mix: want STATUS or PRESET, a colon and a weight, with commas between\n";
		*ret += weight;
	}
	return *ret > 0 ? NULL : "mix: the weights are all zero\n";
}

/* Which entry it is depends on seed, key and n alone, never on what else
 * arrived: the same run again, in any order, is the same run. */
static const char *pick(struct spec *s, uint64_t key, uint32_t n)
{
	struct slice mix = buf_slice(&s->mix), entry, what;
	int64_t total, at, weight = 0;
	struct rng rng;
	const char *wrong = mix_total(mix, &total);

	if (wrong != NULL)
		return wrong;
	rng_seed(&rng, (uint64_t)s->seed ^ key ^ ((uint64_t)n << 32));
	at = (int64_t)rng_below(&rng, (uint64_t)total);
	do {
		entry = cut(&mix, ',');
		what = cut(&entry, ':');
		number(entry, TIMES_MAX, &weight);
		at -= weight;
	} while (at >= 0);
	return status(what, &s->b.status) ? NULL : read_parameters(s, find_preset(what)->means);
}

const char *spec_settle(struct spec *s, uint64_t key, uint32_t n)
{
	if (s->times > 0 && n > s->times) {
		int then = s->then;

		spec_reset(s);
		s->b.status = then;
		return NULL;
	}
	return s->mix.n > 0 ? pick(s, key, n) : NULL;
}

static const char *word_str(const struct word *words, uint8_t value)
{
	while (words->name != NULL && (words->value != value || words->name[0] == '\0'))
		words++;
	return words->name;
}

void behaviour_describe(const struct behaviour *b, struct buf *out)
{
	static const char *const acts[] = {
		[ACT_ANSWER] = "answer", [ACT_HANG] = "hang", [ACT_RESET] = "reset", [ACT_CLOSE] = "close"};

	if (b->invalid) {
		buf_add_str(out, "invalid");
	} else if (b->act != ACT_ANSWER) {
		buf_add_str(out, acts[b->act]);
		buf_add_str(out, b->early ? " before" : " after");
	} else if (b->endless != ENDLESS_NO) {
		buf_add_str(out, "endless ");
		buf_add_str(out, word_str(endlesses, b->endless));
	} else if (b->broken != BROKEN_NO) {
		buf_add_str(out, "broken ");
		buf_add_str(out, word_str(brokens, b->broken));
	} else {
		buf_add_str(out, acts[b->act]);
	}
}

bool query_get(struct slice query, const char *name, struct buf *out)
{
	while (query.n > 0) {
		struct slice pair = cut(&query, '&'), key = cut(&pair, '=');

		if (slice_eq(key, slice_str(name))) {
			decode(pair, out);
			return true;
		}
	}
	return false;
}

bool query_get_number(struct slice query, const char *name, int64_t *ret)
{
	struct buf text CLEANUP(buf_free) = {0};

	return query_get(query, name, &text) && number(buf_slice(&text), INT64_MAX, ret);
}
