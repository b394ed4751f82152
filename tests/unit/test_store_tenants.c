/*
 * The contract of a store, whose batches are whose: nobody finds those of another
 * tenant, and what belongs to nobody any more stays until it expires.
 */
#include "store-kinds.h"

enum { SHOP, MAIL, NOBODY, OWNERS };

static const char *const names[OWNERS] = {"shop", "mail", ""};

static struct slice name_of(unsigned owner)
{
	return slice_str(names[owner]);
}

static struct batch *batch_of(unsigned owner)
{
	struct batch *b = rig_batch(1);

	b->tenant = name_of(owner);
	return b;
}

static enum store_answer read_as(struct slice tenant, struct batch_id id)
{
	struct store_read r = {.id = id, .tenant = tenant, .limit = UINT32_MAX};
	enum store_answer said = rig_do(s, &r.op, STORE_READ);

	assert_int_equal(said == STORE_OK, r.batch != NULL);
	batch_unref(r.batch);
	return said;
}

static enum store_answer delete_as(unsigned owner, struct batch_id id)
{
	struct store_delete d = {.id = id, .tenant = name_of(owner)};

	return rig_do(s, &d.op, STORE_DELETE);
}

static void a_batch_is_found_by_its_tenant_alone(void **state)
{
	(void)state;
	for (unsigned mine = 0; mine < OWNERS; mine++) {
		struct batch *b = batch_of(mine);

		rig_live(s, b);
		for (unsigned asks = 0; asks < OWNERS; asks++)
			assert_int_equal(read_as(name_of(asks), b->id), asks == mine ? STORE_OK : STORE_NOT_FOUND);
		assert_int_equal(read_as((struct slice){0}, b->id), STORE_OK);
		for (unsigned asks = 0; asks < OWNERS; asks++) {
			if (asks != mine)
				assert_int_equal(delete_as(asks, b->id), STORE_NOT_FOUND);
		}
		assert_int_equal(delete_as(mine, b->id), STORE_OK);
		assert_int_equal(read_as(name_of(mine), b->id), STORE_NOT_FOUND);
		batch_unref(b);
	}
}

static void a_key_is_its_tenants(void **state)
{
	struct store_accept again;
	struct batch *of[OWNERS];

	(void)state;
	for (unsigned i = 0; i < OWNERS; i++) {
		of[i] = batch_of(i);
		rig_key(of[i], "here", "k", 1);
		assert_int_equal(rig_accept(s, of[i]), STORE_OK);
	}
	for (unsigned i = 0; i < OWNERS; i++) {
		struct batch *b = batch_of(i);

		rig_key(b, "here", "k", 1);
		again = (struct store_accept){.batch = batch_ref(b)};
		assert_int_equal(rig_do(s, &again.op, STORE_ACCEPT), STORE_KEY_EXISTS);
		assert_true(batch_id_eq(again.existing, of[i]->id));
		assert_true(again.same_body);
		batch_unref(b);
	}
	for (unsigned i = 0; i < OWNERS; i++)
		batch_unref(of[i]);
}

/* How many there are of the kind; all of them must be `owner`'s. */
static unsigned count_list(unsigned owner, struct store_list first)
{
	static struct store_list l;
	unsigned n = 0;

	first.tenant = name_of(owner);
	first.limit = 2;
	do {
		l = first;
		assert_int_equal(rig_do(s, &l.op, STORE_LIST), STORE_OK);
		for (uint32_t i = 0; i < l.n; i++, n++) {
			assert_true(slice_eq(l.heads[i]->tenant, name_of(owner)));
			first.before = l.heads[i]->id;
			batch_unref(l.heads[i]);
		}
	} while (l.more);
	return n;
}

/* Of each tenant, in turns: one that is done and one that runs, for each of its numbers. */
static void a_list_is_its_tenants(void **state)
{
	const struct store_list any = {.state = -1, .outcome = -1};
	struct store_list done = any, queued = any, succeeded = any, failed = any, keyed = any;

	(void)state;
	done.state = BATCH_DONE;
	queued.state = BATCH_QUEUED;
	succeeded.outcome = BATCH_OUTCOME_SUCCEEDED;
	failed.outcome = BATCH_OUTCOME_FAILED;
	keyed.key = SLICE("k");
	for (unsigned i = 0; i < 5; i++) {
		for (unsigned owner = 0; owner < MIN(OWNERS, i + 1); owner++) {
			struct batch *a = batch_of(owner), *b = batch_of(owner);

			rig_live(s, a);
			rig_key(b, i == 0 ? "here" : i == 1 ? "there" : "elsewhere", i < 3 ? "k" : names[i % OWNERS], 1);
			(void)rig_accept(s, b);
			batch_unref(a);
			batch_unref(b);
		}
	}
	for (unsigned owner = 0; owner < OWNERS; owner++) {
		unsigned n = 5 - owner;

		assert_int_equal(count_list(owner, done), n);
		assert_int_equal(count_list(owner, succeeded), n);
		assert_int_equal(count_list(owner, failed), 0);
		assert_int_equal(count_list(owner, keyed), MIN(n, 3 - owner));
		assert_int_equal(count_list(owner, queued) + n, count_list(owner, any));
		assert_true(count_list(owner, queued) >= MIN(n, 3 - owner));
	}
}

/* A cursor of one tenant shows nothing to another but its own. */
static void a_cursor_of_another_tenant_is_a_time_alone(void **state)
{
	static struct store_list l;
	struct batch *b[4];

	(void)state;
	for (unsigned i = 0; i < ARRAY_LEN(b); i++) {
		b[i] = batch_of(i % 2);
		b[i]->id = batch_id_new(&rig_rng, b[i]->created_unix_ms + i, 0);
		rig_live(s, b[i]);
	}
	l = (struct store_list){.tenant = name_of(0), .state = -1, .outcome = -1, .before = b[3]->id, .limit = 9};
	assert_int_equal(rig_do(s, &l.op, STORE_LIST), STORE_OK);
	assert_int_equal(l.n, 2);
	assert_true(batch_id_eq(l.heads[0]->id, b[2]->id));
	assert_true(batch_id_eq(l.heads[1]->id, b[0]->id));
	batch_unref(l.heads[0]);
	batch_unref(l.heads[1]);
	for (unsigned i = 0; i < ARRAY_LEN(b); i++)
		batch_unref(b[i]);
}

struct seen {
	unsigned n[OWNERS];
	bool priority;
};

static void note(void *arg, const struct store_unfinished *u)
{
	struct seen *seen = arg;

	for (unsigned i = 0; i < OWNERS; i++)
		seen->n[i] += slice_eq(u->tenant, name_of(i));
	seen->priority |= u->priority == 8;
}

static void the_unfinished_keep_tenant_and_priority(void **state)
{
	struct batch *a = batch_of(SHOP), *b = batch_of(NOBODY), *done = batch_of(MAIL);
	struct seen seen = {0};
	struct buf err = {0};

	(void)state;
	a->policy.priority = 8;
	assert_int_equal(rig_accept(s, a), STORE_OK);
	assert_int_equal(rig_accept(s, b), STORE_OK);
	rig_live(s, done);
	assert_true(store_each_unfinished(s, note, &seen, &err));
	assert_int_equal(seen.n[SHOP], 1);
	assert_int_equal(seen.n[MAIL], 0);
	assert_int_equal(seen.n[NOBODY], 1);
	assert_true(seen.priority);
	batch_unref(a);
	batch_unref(b);
	batch_unref(done);
}

static const struct rig_case cases[] = {
	CASE(a_batch_is_found_by_its_tenant_alone),
	CASE(a_key_is_its_tenants),
	CASE(a_list_is_its_tenants),
	CASE(a_cursor_of_another_tenant_is_a_time_alone),
	CASE(the_unfinished_keep_tenant_and_priority),
};

int main(void)
{
	return run_cases("store_tenants", cases, ARRAY_LEN(cases));
}
