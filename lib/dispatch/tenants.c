/*
 * The names of tenants, and what each has of what all share. Counters without a lock:
 * whoever counts one more than there may be takes it back. The rules are in tenants.h,
 * and beside struct residency in residency-i.h.
 */
#include <stdlib.h>

#include "dispatch-i.h"
#include "live-i.h"
#include "residency-i.h"
#include "tenants-i.h"

struct name {
	struct idmap_node node;
	size_t n;
	char text[];
};

static struct name *find(const struct dispatch_tenants *t, struct slice name, struct batch_id id)
{
	for (struct idmap_node *node = idmap_find(&t->names, id); node != NULL; node = idmap_next(node)) {
		struct name *known = container_of(node, struct name, node);

		if (slice_eq((struct slice){known->text, known->n}, name))
			return known;
	}
	return NULL;
}

const char *dispatch_tenants_name(struct dispatch_tenants *t, struct slice name)
{
	struct batch_id id = {.lo = slice_hash(name, 0)};
	struct name *known;

	if (name.n == 0)
		return "";
	pthread_mutex_lock(&t->lock);
	known = find(t, name, id);
	if (known == NULL) {
		known = xcalloc(1, sizeof *known + name.n + 1);
		known->n = name.n;
		memcpy(known->text, name.p, name.n);
		idmap_add(&t->names, &known->node, id);
	}
	pthread_mutex_unlock(&t->lock);
	return known->text;
}

struct slice dispatch_tenant_name(struct dispatch_tenants *t, const struct config *c, unsigned tenant)
{
	const char *name = atomic_load(&t->of[tenant].name);

	if (name == NULL) {
		name = dispatch_tenants_name(t, slice_str(c->tenants[tenant].name));
		atomic_store(&t->of[tenant].name, name);
	}
	return slice_str(name);
}

void dispatch_tenants_free(struct dispatch_tenants *t)
{
	for (size_t i = 0; i < t->names.n_slots; i++) {
		struct idmap_node *node = t->names.slots[i], *next;

		for (; node != NULL; node = next) {
			next = node->next;
			free(container_of(node, struct name, node));
		}
	}
	idmap_free(&t->names);
}

bool dispatch_tenant_take(const struct config *c, atomic_uint *of_all, atomic_uint *of_tenant, unsigned most)
{
	unsigned all = atomic_fetch_add(of_all, 1), its = atomic_fetch_add(of_tenant, 1);

	if (all < most && over_its_part(config_has_several_tenants(c), its, 1, most - all) == 0)
		return true;
	dispatch_tenant_give(of_all, of_tenant);
	return false;
}

void dispatch_tenant_give(atomic_uint *of_all, atomic_uint *of_tenant)
{
	atomic_fetch_sub(of_all, 1);
	atomic_fetch_sub(of_tenant, 1);
}

/* ---- what it sends, and has unfinished ---- */

static unsigned wait_s(int64_t wait_us)
{
	return (unsigned)MIN((wait_us + 999999) / 1000000, (int64_t)INT32_MAX);
}

bool tenant_take(struct dispatch *d, unsigned tenant, const struct batch *b)
{
	const struct tenant *may = &d->env.config->tenants[tenant];
	struct dispatch_tenant *t = &d->env.group->tenants.of[tenant];
	uint32_t n = b->counts.pending;

	d->quota_wait_s = wait_s(quota_take(t, may, b->n_items, loop_now_us(d->env.loop)));
	if (d->quota_wait_s > 0)
		return false;
	if (atomic_fetch_add(&t->queued, n) + n <= may->queued_items || may->queued_items == 0)
		return true;
	tenant_give_back(d, tenant, b);
	return false;
}

void tenant_give_back(struct dispatch *d, unsigned tenant, const struct batch *b)
{
	quota_give_back(&d->env.group->tenants.of[tenant], &d->env.config->tenants[tenant], b->n_items);
	tenant_unqueue(d, tenant, b->counts.pending);
}

unsigned dispatch_quota_wait_s(const struct dispatch *d)
{
	return d->quota_wait_s;
}

void tenant_queue_known(struct dispatch *d, unsigned tenant, uint32_t n)
{
	atomic_fetch_add(&d->env.group->tenants.of[tenant].queued, n);
}

void tenant_unqueue(struct dispatch *d, unsigned tenant, uint32_t n)
{
	atomic_fetch_sub(&d->env.group->tenants.of[tenant].queued, n);
}

void tenant_accepted(struct live *lv)
{
	struct dispatch_tenant *t = &lv->d->env.group->tenants.of[lv->tenant];

	atomic_fetch_add(&t->batches, 1);
	atomic_fetch_add(&t->items, lv->batch->n_items);
}
