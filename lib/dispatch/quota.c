/* The rule is in tenants.h. */
#include "tenants-i.h"

static unsigned ceiling(double v)
{
	unsigned whole = (unsigned)v;

	return whole + ((double)whole < v);
}

/* One second's worth at once. */
static struct rate_policy policy_of(double per_second)
{
	return (struct rate_policy){.per_second = per_second, .burst = MAX(ceiling(per_second), 1u)};
}

/* When n, or as many as there ever are at once, may be taken. */
static int64_t next_us(const struct rate *r, const struct rate_policy *p, uint32_t n)
{
	const struct rate_policy all = {.per_second = p->per_second, .burst = p->burst + 1 - MAX(MIN(n, p->burst), 1u)};

	return rate_next_us(r, &all);
}

int64_t quota_take(struct dispatch_tenant *t, const struct tenant *may, uint32_t n, int64_t now_us)
{
	const struct rate_policy batches = policy_of(may->batches_per_second), items = policy_of(may->items_per_second);
	int64_t at_us;

	if (may->batches_per_second <= 0 && may->items_per_second <= 0)
		return 0;
	pthread_mutex_lock(&t->lock);
	at_us = MAX(next_us(&t->batch_rate, &batches, 1), next_us(&t->item_rate, &items, n));
	if (at_us <= now_us) {
		rate_take(&t->batch_rate, &batches, 1, now_us);
		rate_take(&t->item_rate, &items, n, now_us);
	}
	pthread_mutex_unlock(&t->lock);
	return MAX(at_us - now_us, 0);
}

void quota_give_back(struct dispatch_tenant *t, const struct tenant *may, uint32_t n)
{
	const struct rate_policy batches = policy_of(may->batches_per_second), items = policy_of(may->items_per_second);

	pthread_mutex_lock(&t->lock);
	rate_give_back(&t->batch_rate, &batches, 1);
	rate_give_back(&t->item_rate, &items, n);
	pthread_mutex_unlock(&t->lock);
}

static void change(struct rate *r, double was, double is, int64_t now_us)
{
	const struct rate_policy from = policy_of(was), to = policy_of(is);

	rate_change(r, &from, &to, now_us);
}

void dispatch_quota_change(struct dispatch_tenant *t, const struct tenant *was, const struct tenant *is, int64_t now_us)
{
	pthread_mutex_lock(&t->lock);
	change(&t->batch_rate, was->batches_per_second, is->batches_per_second, now_us);
	change(&t->item_rate, was->items_per_second, is->items_per_second, now_us);
	pthread_mutex_unlock(&t->lock);
}

static struct dispatch_quota look(const struct rate *r, double per_second, int64_t now_us)
{
	const struct rate_policy p = policy_of(per_second);
	double debt_s = MAX((double)(r->due_ns - now_us * 1000) / 1e9, 0.0);

	return (struct dispatch_quota){
		.most = p.burst,
		.left = MIN(rate_count(r, &p, now_us, now_us), p.burst),
		.window_s = ceiling(p.burst / per_second),
		.full_s = ceiling(debt_s),
	};
}

unsigned dispatch_quotas(struct dispatch_tenant *t, const struct tenant *may, int64_t now_us,
			 struct dispatch_quota ret[DISPATCH_QUOTAS])
{
	uint64_t queued = atomic_load(&t->queued);
	unsigned n = 0;

	pthread_mutex_lock(&t->lock);
	if (may->batches_per_second > 0) {
		ret[n] = look(&t->batch_rate, may->batches_per_second, now_us);
		ret[n++].name = "batches";
	}
	if (may->items_per_second > 0) {
		ret[n] = look(&t->item_rate, may->items_per_second, now_us);
		ret[n].unit = "items";
		ret[n++].name = "items";
	}
	pthread_mutex_unlock(&t->lock);
	if (may->queued_items > 0)
		ret[n++] = (struct dispatch_quota){.name = "queued", .unit = "items", .most = may->queued_items,
						   .left = may->queued_items - MIN(queued, may->queued_items)};
	return n;
}
