/*
 * Which items of a finished batch a retry is for: first what its body asks for,
 * and then, when the batch is there, what that means.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "wire/wire-i.h"

enum { RETRY_ID_MAX = 128 };

struct wire_retry {
	struct reader r;
	bool include_maybe, select_seen, ids_seen;
	bool unkept;                     /* an item fits, but its letter is not there */
	struct slice *ids;               /* p NULL: it had a fault */
	size_t n_ids, ids_cap;
};

static struct wire_retry *retry_of(struct reader *r)
{
	return container_of(r, struct wire_retry, r);
}

static bool read_select(struct reader *r)
{
	struct wire_retry *w = retry_of(r);
	size_t v = 0;

	w->select_seen = true;
	if (!read_enum(r, (const char *[]){"safe", "include_maybe"}, 2, &v))
		return false;
	w->include_maybe = v == 1;
	return true;
}

static struct slice *add_id(struct wire_retry *w)
{
	if (w->n_ids == w->ids_cap) {
		size_t cap = w->ids_cap == 0 ? 16 : w->ids_cap * 2;
		struct slice *v = realloc(w->ids, cap * sizeof *v);

		if (v == NULL) {
			w->r.scan.no_memory = true;
			return NULL;
		}
		w->ids = v;
		w->ids_cap = cap;
	}
	w->ids[w->n_ids] = (struct slice){0};
	return &w->ids[w->n_ids++];
}

static bool read_id(struct reader *r)
{
	struct slice *id = add_id(retry_of(r));

	return id != NULL && read_string(r, 1, RETRY_ID_MAX, id);
}

static bool read_ids(struct reader *r)
{
	retry_of(r)->ids_seen = true;
	return read_list(r, read_id) != OPEN_FAILED;
}

static const struct field retry_members[] = {
	{"select", read_select},
	{"ids", read_ids},
};

static bool read_body(struct reader *r)
{
	return read_object(r, retry_members, ARRAY_LEN(retry_members)) != OPEN_FAILED && scan_end(&r->scan);
}

/* The faults so far as a document; 0: there are none. */
static int refuse_faults(struct reader *r, enum problem *ret_kind, struct buf *reterr)
{
	if (r->scan.no_memory)
		return -ENOMEM;
	if (r->batch_faults.count == 0)
		return 0;
	*ret_kind = PROBLEM_VALIDATION_FAILED;
	problem_invalid(reterr, r);
	return reterr->failed ? -ENOMEM : -EINVAL;
}

static int read_all(struct wire_retry *w, enum problem *ret_kind, struct buf *reterr)
{
	struct reader *r = &w->r;

	if (!read_body(r)) {
		if (r->scan.no_memory)
			return -ENOMEM;
		*ret_kind = PROBLEM_MALFORMED_JSON;
		problem_malformed(reterr, &r->scan);
		return reterr->failed ? -ENOMEM : -EINVAL;
	}
	if (w->select_seen && w->ids_seen)
		fault_at(r, NO_ITEM, "ids", FAULT_CONFLICT, "select and ids are two ways to choose: leave one of the two out");
	return refuse_faults(r, ret_kind, reterr);
}

int wire_read_retry(struct slice body, unsigned max_depth, struct wire_retry **ret, enum problem *ret_kind,
		    struct buf *reterr)
{
	struct wire_retry *w = calloc(1, sizeof *w);
	int rc;

	if (w == NULL)
		return -ENOMEM;
	w->r.item = NO_ITEM;
	w->r.policy.contract = CONTRACT_PARTIAL_SUCCESS;
	scan_init(&w->r.scan, body, max_depth);
	w->r.scan.on_duplicate = fault_duplicate_key;
	rc = body.n == 0 ? 0 : read_all(w, ret_kind, reterr);
	if (rc < 0) {
		wire_retry_free(w);
		return rc;
	}
	*ret = w;
	return 0;
}

void wire_retry_free(struct wire_retry *w)
{
	if (w == NULL)
		return;
	scan_free(&w->r.scan);
	arena_free(&w->r.scratch);
	arena_free(&w->r.arena);
	free(w->ids);
	free(w);
}

/* ---- the choice ---- */

static bool was_invalid(const struct item *it)
{
	return it->attempts == 0 && it->code == CODE_INVALID_ITEM;
}

static bool fits_select(const struct wire_retry *w, const struct item *it)
{
	enum delivered most = w->include_maybe ? DELIVERED_MAYBE : DELIVERED_NO;

	return it->status != STATUS_SUCCEEDED && code_retryable((enum code)it->code) && it->delivered <= most;
}

static int by_id(const void *a, const void *b)
{
	const struct slice x = (*(const struct item *const *)a)->id, y = (*(const struct item *const *)b)->id;
	int order = memcmp(x.p, y.p, MIN(x.n, y.n));

	return order != 0 ? order : (x.n > y.n) - (x.n < y.n);
}

/* The items that have an id, sorted by it. */
static size_t sort_items(const struct batch *b, const struct item **sorted)
{
	size_t n = 0;

	for (uint32_t i = 0; i < b->n_items; i++) {
		if (b->items[i].id.p != NULL && !was_invalid(&b->items[i]))
			sorted[n++] = &b->items[i];
	}
	qsort(sorted, n, sizeof *sorted, by_id);
	return n;
}

/* The letters of such a batch are stored with its end; a crash, or a disk that fails to the last, prevents that. */
#define NEVER_STORED "as the batch had no key, was no job, and its end was never recorded"

/* One of the ids that were asked for. */
static void choose_id(struct wire_retry *w, size_t at, const struct item *it, bool *marks)
{
	char member[32];

	snprintf(member, sizeof member, "ids/%zu", at);
	if (it == NULL)
		fault_at(&w->r, NO_ITEM, member, FAULT_ENUM,
			 "the batch has no valid item with the id " QUOTE, QUOTED(w->ids[at]));
	else if (marks[it - it->batch->items])
		fault_at(&w->r, NO_ITEM, member, FAULT_DUPLICATE_ID, "the id " QUOTE " stands here twice", QUOTED(it->id));
	else if (it->delivered == DELIVERED_YES)
		fault_at(&w->r, NO_ITEM, member, FAULT_CONFLICT,
			 "the item " QUOTE " was delivered, so its payload is not kept: to send it once more, "
			 "send it in a new batch", QUOTED(it->id));
	else if (it->to.p == NULL)
		fault_at(&w->r, NO_ITEM, member, FAULT_CONFLICT,
			 "the payload of the item " QUOTE " is not kept, " NEVER_STORED ": to send it once more, "
			 "send it in a new batch", QUOTED(it->id));
	else
		marks[it - it->batch->items] = true;
}

static int choose_ids(struct wire_retry *w, const struct batch *b, bool *marks)
{
	const struct item **sorted = malloc(MAX(b->n_items, 1u) * sizeof *sorted);
	size_t n;

	if (sorted == NULL)
		return -ENOMEM;
	n = sort_items(b, sorted);
	for (size_t i = 0; i < w->n_ids; i++) {
		const struct item wanted = {.id = w->ids[i]}, *key = &wanted;
		const struct item **found = bsearch(&key, sorted, n, sizeof *sorted, by_id);

		choose_id(w, i, found == NULL ? NULL : *found, marks);
	}
	free(sorted);
	return 0;
}

/* Where they would go is not known any more. */
static void check_services(struct wire_retry *w, const struct batch *b, const bool *marks)
{
	for (uint32_t i = 0; i < b->n_items; i++) {
		const struct item *it = &b->items[i];

		if (marks[i] && it->service == ITEM_NO_SERVICE)
			fault_at(&w->r, NO_ITEM, w->ids_seen ? "ids" : "select", FAULT_UNKNOWN_SERVICE,
				 "the service of the item " QUOTE " is no longer configured", QUOTED(it->id));
	}
}

static int nothing_selected(const struct wire_retry *w, enum problem *ret_kind, struct buf *reterr)
{
	*ret_kind = PROBLEM_NOTHING_SELECTED;
	wire_problem(reterr, PROBLEM_NOTHING_SELECTED,
		     w->ids_seen        ? "ids is empty"
		     : w->unkept        ? "the payloads of the items that could be sent again are not kept, " NEVER_STORED
					  ": send them in a new batch"
		     : w->include_maybe ? "no item of the batch is retryable and undelivered"
					: "no item of the batch is retryable and surely not delivered; those that may "
					  "have been are selected with include_maybe");
	return reterr->failed ? -ENOMEM : -EINVAL;
}

static int mark(struct wire_retry *w, const struct batch *first, bool *marks)
{
	if (w->ids_seen)
		return choose_ids(w, first, marks);
	for (uint32_t i = 0; i < first->n_items; i++) {
		bool fits = fits_select(w, &first->items[i]), kept = first->items[i].to.p != NULL;

		marks[i] = fits && kept;
		w->unkept |= fits && !kept;
	}
	return 0;
}

int wire_retry_choose(struct wire_retry *w, const struct batch *first, uint32_t *chosen, uint32_t *ret_n,
		      enum problem *ret_kind, struct buf *reterr)
{
	bool *marks = calloc(MAX(first->n_items, 1u), sizeof *marks);
	int rc = marks == NULL ? -ENOMEM : mark(w, first, marks);

	*ret_n = 0;
	if (rc == 0) {
		check_services(w, first, marks);
		rc = refuse_faults(&w->r, ret_kind, reterr);
	}
	for (uint32_t i = 0; i < first->n_items && rc == 0; i++) {
		if (marks[i])
			chosen[(*ret_n)++] = i;
	}
	free(marks);
	return rc < 0 ? rc : *ret_n == 0 ? nothing_selected(w, ret_kind, reterr) : 0;
}
