/*
 * The memory backend: whose batches they are. An owner stays when its last batch
 * has gone: there are as many as tenants.
 */
#include "store/memory-i.h"

static struct batch_id owner_id(const struct memory *m, struct slice tenant)
{
	return (struct batch_id){.lo = slice_hash(tenant, m->key_seed)};
}

struct owner *memory_owner(const struct memory *m, struct slice tenant)
{
	struct idmap_node *node = idmap_find(&m->owners, owner_id(m, tenant));

	for (; node != NULL; node = idmap_next(node)) {
		struct owner *o = container_of(node, struct owner, node);

		if (slice_eq((struct slice){o->name, o->name_n}, tenant))
			return o;
	}
	return NULL;
}

struct owner *memory_owner_get(struct memory *m, struct slice tenant)
{
	struct owner *o = memory_owner(m, tenant);

	if (o != NULL)
		return o;
	o = xcalloc(1, sizeof *o + tenant.n);
	o->name_n = tenant.n;
	if (tenant.n > 0)
		memcpy(o->name, tenant.p, tenant.n);
	list_init(&o->by_age);
	list_append(&m->all_owners, &o->all);
	idmap_add(&m->owners, &o->node, owner_id(m, tenant));
	return o;
}
