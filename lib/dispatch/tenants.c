#include "dispatch/tenants.h"

#include <stdlib.h>

struct slice dispatch_tenant_name(struct dispatch_tenant *all, const struct config *c, unsigned tenant)
{
	const char *name = atomic_load(&all[tenant].name);
	char *copy;

	REQUIRE(tenant < c->n_tenants);
	if (name == NULL) {
		copy = xstrdup(c->tenants[tenant].name);
		if (atomic_compare_exchange_strong(&all[tenant].name, &name, copy))
			return slice_str(copy);
		free(copy);
	}
	return slice_str(name);
}

void dispatch_tenants_free(struct dispatch_tenant *all)
{
	for (size_t i = 0; i <= TENANTS_MAX; i++)
		free((char *)atomic_exchange(&all[i].name, NULL));
}
