/*
 * What /metrics says of tenants: one line for each that is configured, and one of
 * who has no key, whose name is empty. They are counted for all shards together.
 */
#include "routes-i.h"

enum number { BATCHES, ITEMS, QUEUED, NUMBERS };

static uint64_t read_number(struct dispatch_tenant *t, enum number n)
{
	switch (n) {
	case BATCHES:
		return atomic_load(&t->batches);
	case ITEMS:
		return atomic_load(&t->items);
	case QUEUED:
		return atomic_load(&t->queued);
	case NUMBERS:
		break;
	}
	return 0;
}

void tenant_metrics_render(struct routes *r, struct buf *out)
{
	static const struct {
		const char *name, *help, *type;
	} families[NUMBERS] = {
		[BATCHES] = {"settled_tenant_batches_total", "Batches accepted, by tenant.", "counter"},
		[ITEMS] = {"settled_tenant_items_total", "Items of accepted batches, by tenant.", "counter"},
		[QUEUED] = {"settled_tenant_items_queued", "Unfinished items, those of jobs too, by tenant.", "gauge"},
	};
	const struct config *c = r->env.config;

	for (enum number n = 0; n < NUMBERS; n++) {
		buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", families[n].name, families[n].help, families[n].name,
			   families[n].type);
		for (size_t i = 0; i < c->n_tenants; i++)
			buf_printf(out, "%s{tenant=\"%s\"} %llu\n", families[n].name, c->tenants[i].name,
				   (unsigned long long)read_number(&r->env.group->tenants.of[i], n));
	}
}
