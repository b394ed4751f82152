/*
 * Invariants
 *  1. `count` counts every fault; the texts of the first FAULTS_LISTED are kept,
 *     and of each draft's first one: under best_effort it becomes the result.
 *  2. Every text has a bounded length, whatever the caller sent.
 */
#include <stdio.h>

#include "wire/wire-i.h"

enum { POINTER_MAX = 1024, DETAIL_MAX = 512, QUOTED_MAX = 48 };

#define X(upper, lower) [FAULT_##upper] = #lower,
static const char *const fault_names[] = {FAULT_TABLE(X)};
#undef X

int quoted_len(struct slice s)
{
	size_t n = MIN(s.n, (size_t)QUOTED_MAX);

	/* Cut before a character, not inside one. */
	while (n < s.n && n > 0 && ((unsigned char)s.p[n] & 0xc0) == 0x80)
		n--;
	return (int)n;
}

/* RFC 6901 section 3 (~0, ~1), then section 6: percent-encoded where RFC 3986
 * does not let a fragment hold the character. */
static void add_token(struct buf *out, struct slice token)
{
	static const char hex[] = "0123456789ABCDEF";
	static const char plain[] = "-._!$&'()*+,;=:@?";

	buf_add_char(out, '/');
	for (size_t i = 0; i < token.n; i++) {
		unsigned char c = (unsigned char)token.p[i];
		bool alnum = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');

		if (c == '~')
			buf_add_str(out, "~0");
		else if (c == '/')
			buf_add_str(out, "~1");
		else if (alnum || (c != '\0' && strchr(plain, c) != NULL))
			buf_add_char(out, (char)c);
		else
			buf_add(out, (char[]){'%', hex[c >> 4], hex[c & 15]}, 3);
	}
}

/* The path to where the scanner stands. Keys have any length, and a hundred
 * pointers with each of them would be many times the body: a pointer that gets
 * too long names the nearest value around instead. */
static void add_path(struct buf *out, const struct scan *s)
{
	buf_add_char(out, '#');
	for (unsigned i = 0; i < s->depth; i++) {
		const struct frame *f = &s->frames[i];
		size_t before = out->n;

		if (f->n == 0)
			break;
		if (!f->object) {
			buf_add_char(out, '/');
			buf_add_u64(out, f->n - 1);
		} else if (f->key.n <= POINTER_MAX) {
			add_token(out, f->key);
		}
		if (out->n == before || out->n > POINTER_MAX) {
			out->n = before;
			break;
		}
	}
}

static const char *keep(struct reader *r, struct arena *a, struct slice s)
{
	const char *p = arena_copy(a, s).p;

	if (p == NULL)
		r->scan.no_memory = true;
	return p;
}

/* "to: required: ...": what the result of an invalid item says. */
static void keep_for_item(struct reader *r, struct draft *d, const char *pointer, enum fault f,
			  const char *detail)
{
	char text[DETAIL_MAX + 128];
	const char *member = pointer;
	int n;

	for (int slashes = 0; *member != '\0' && slashes < 3; member++)
		slashes += *member == '/';
	n = snprintf(text, sizeof text, "%.64s%s%s: %s", member, *member == '\0' ? "" : ": ", fault_names[f],
		     detail);
	d->detail = keep(r, &r->arena, (struct slice){text, MIN((size_t)n, sizeof text - 1)});
}

static struct draft *draft_at(const struct reader *r, int64_t item)
{
	return item != NO_ITEM && (size_t)item < r->n_drafts ? &r->drafts[item] : NULL;
}

static struct fault_list *list_of(struct reader *r, int64_t item)
{
	return item == NO_ITEM ? &r->batch_faults : &r->item_faults;
}

bool fault_wanted(const struct reader *r)
{
	const struct draft *d = draft_at(r, r->item);
	uint64_t before = r->item == NO_ITEM ? r->batch_faults.count : r->item_faults.count;

	return before < FAULTS_LISTED || (d != NULL && d->faults == 0);
}

/* Count a fault; true: its texts are wanted. */
static bool count(struct reader *r, int64_t item)
{
	struct draft *d = draft_at(r, item);
	struct fault_list *list = list_of(r, item);

	list->count++;
	if (d != NULL)
		d->faults++;
	return list->count <= FAULTS_LISTED || (d != NULL && d->faults == 1);
}

static void add(struct reader *r, int64_t item, enum fault f, const struct buf *pointer, const char *detail)
{
	struct fault_list *list = list_of(r, item);
	struct draft *d = draft_at(r, item);
	const char *at = pointer->failed ? NULL : keep(r, &r->scratch, buf_slice(pointer));

	if (at == NULL) {
		r->scan.no_memory = true;
		return;
	}
	if (list->count <= FAULTS_LISTED) {
		list->v[list->count - 1] = (struct fault_record){
			.pointer = at,
			.detail = keep(r, &r->scratch, slice_str(detail)),
			.item = item,
			.fault = f,
		};
	}
	if (d != NULL && d->faults == 1)
		keep_for_item(r, d, at, f, detail);
}

void fault_here(struct reader *r, enum fault f, const char *fmt, ...)
{
	CLEANUP(buf_free) struct buf pointer = {0};
	char detail[DETAIL_MAX];
	va_list ap;

	if (!count(r, r->item))
		return;
	add_path(&pointer, &r->scan);
	va_start(ap, fmt);
	vsnprintf(detail, sizeof detail, fmt, ap);
	va_end(ap);
	add(r, r->item, f, &pointer, detail);
}

void fault_duplicate_key(struct scan *s)
{
	struct reader *r = container_of(s, struct reader, scan);

	fault_here(r, FAULT_DUPLICATE_KEY, "the key " QUOTE " stands twice in this object", QUOTED(scan_top(s)->key));
}

void fault_at(struct reader *r, int64_t item, const char *member, enum fault f, const char *fmt, ...)
{
	CLEANUP(buf_free) struct buf pointer = {0};
	char detail[DETAIL_MAX];
	va_list ap;

	if (!count(r, item))
		return;
	buf_add_str(&pointer, "#/");
	if (item != NO_ITEM) {
		buf_add_str(&pointer, "items/");
		buf_add_i64(&pointer, item);
		buf_add_char(&pointer, '/');
	}
	buf_add_str(&pointer, member);
	va_start(ap, fmt);
	vsnprintf(detail, sizeof detail, fmt, ap);
	va_end(ap);
	add(r, item, f, &pointer, detail);
}

void fault_count_more(struct reader *r)
{
	for (size_t i = 0; i < r->n_drafts; i++) {
		struct draft *d = &r->drafts[i];
		char text[2 * DETAIL_MAX];
		int n;

		if (d->faults < 2 || d->detail == NULL)
			continue;
		n = snprintf(text, sizeof text, "%s; and %u more", d->detail, d->faults - 1);
		d->detail = keep(r, &r->arena, (struct slice){text, MIN((size_t)n, sizeof text - 1)});
	}
}

/* The members that every error has, behind its pointer. */
static void write_error(struct buf *out, enum fault f, const char *detail)
{
	buf_add_str(out, ",\"code\":\"");
	buf_add_str(out, fault_names[f]);
	buf_add_str(out, "\",\"detail\":");
	wire_string(out, slice_str(detail));
	buf_add_char(out, '}');
}

static void write_fault(struct buf *out, const struct reader *r, const struct fault_record *f)
{
	buf_add_str(out, "{\"pointer\":");
	wire_string(out, slice_str(f->pointer));
	if (f->item != NO_ITEM && (size_t)f->item < r->n_drafts && r->drafts[f->item].id.p != NULL) {
		buf_add_str(out, ",\"item_id\":");
		wire_string(out, r->drafts[f->item].id);
	}
	write_error(out, f->fault, f->detail);
}

/* One document: the list comes before its end. False: no memory. */
static bool begin_list(struct buf *out, uint64_t total)
{
	char detail[96];

	snprintf(detail, sizeof detail, "%llu error%s; nothing was sent", (unsigned long long)total,
		 total == 1 ? "" : "s");
	wire_problem(out, PROBLEM_VALIDATION_FAILED, detail);
	if (out->failed)
		return false;
	out->n--;
	buf_add_str(out, ",\"error_count\":");
	buf_add_u64(out, total);
	buf_add_str(out, ",\"errors\":[");
	return true;
}

/* A name that is too long to be quoted leaves the pointer at the query. */
void wire_invalid_query(struct buf *out, const struct query_error *v, size_t n, uint64_t total)
{
	if (!begin_list(out, total))
		return;
	for (size_t i = 0; i < n; i++) {
		buf_add_str(out, i == 0 ? "{\"pointer\":\"#/query" : ",{\"pointer\":\"#/query");
		if (v[i].name.n <= QUOTED_MAX)
			add_token(out, v[i].name);
		buf_add_char(out, '"');
		write_error(out, v[i].fault, v[i].detail);
	}
	buf_add_str(out, "]}");
}

void wire_never_fits(struct buf *out, const char *pointer, uint64_t n, uint64_t most)
{
	char detail[DETAIL_MAX];

	if (!begin_list(out, 1))
		return;
	snprintf(detail, sizeof detail, "%llu items; at most %llu of them can be unfinished at once: send several batches",
		 (unsigned long long)n, (unsigned long long)most);
	buf_printf(out, "{\"pointer\":\"%s\"", pointer);
	write_error(out, FAULT_TOO_MANY_ITEMS, detail);
	buf_add_str(out, "]}");
}

/* The faults were found in two rounds over the items: put them in order. Few,
 * and nearly sorted, so by insertion, which keeps equal ones as they were. */
static void sort_by_item(struct fault_list *list, size_t n)
{
	for (size_t i = 1; i < n; i++) {
		struct fault_record f = list->v[i];
		size_t at = i;

		for (; at > 0 && list->v[at - 1].item > f.item; at--)
			list->v[at] = list->v[at - 1];
		list->v[at] = f;
	}
}

void problem_invalid(struct buf *out, struct reader *r)
{
	bool with_items = r->policy.contract != CONTRACT_BEST_EFFORT || r->policy.validate_only;
	uint64_t total = r->batch_faults.count + (with_items ? r->item_faults.count : 0);
	size_t n_batch = MIN(r->batch_faults.count, (uint64_t)FAULTS_LISTED);
	size_t n_items = with_items ? MIN(r->item_faults.count, (uint64_t)FAULTS_LISTED) : 0;

	if (!begin_list(out, total))
		return;
	sort_by_item(&r->item_faults, n_items);
	for (size_t i = 0; i < MIN(n_batch + n_items, (size_t)FAULTS_LISTED); i++) {
		if (i > 0)
			buf_add_char(out, ',');
		write_fault(out, r, i < n_batch ? &r->batch_faults.v[i] : &r->item_faults.v[i - n_batch]);
	}
	buf_add_str(out, "]}");
}

static void add_found(struct buf *out, const struct scan *s)
{
	unsigned char c;

	if (s->bad == s->end) {
		buf_add_str(out, "the end of the body");
		return;
	}
	c = (unsigned char)*s->bad;
	if (s->end - s->bad >= 3 && memcmp(s->bad, "\xef\xbb\xbf", 3) == 0)
		buf_add_str(out, "a byte order mark");
	else if (c > 0x20 && c < 0x7f)
		buf_printf(out, "'%c'", c);
	else
		buf_printf(out, "the byte 0x%02x", c);
}

void problem_malformed(struct buf *out, const struct scan *s)
{
	CLEANUP(buf_free) struct buf detail = {0};
	size_t line = 1, column = 1;

	for (const char *p = s->start; p < s->bad; p++) {
		column++;
		if (*p == '\n') {
			line++;
			column = 1;
		}
	}
	buf_printf(&detail, "line %zu, column %zu (byte offset %zu): expected %s, found ", line, column,
		   (size_t)(s->bad - s->start), s->expected);
	add_found(&detail, s);
	if (s->bad < s->end && s->depth == s->max_depth && (*s->bad == '{' || *s->bad == '['))
		buf_printf(&detail, "; the depth limit is %u", s->max_depth);
	buf_add_char(&detail, '\0');
	if (detail.failed)
		out->failed = true;
	else
		wire_problem(out, PROBLEM_MALFORMED_JSON, detail.p);
}
