/*
 * What transfers of all shards have in common, from the configuration: look-ups
 * of names, and the certificates of services.
 */
#include <stdlib.h>

#include "app-i.h"

enum { LOOKUP_THREAD_IDLE_MS = 10000 };

static struct xfer_names names_of(const struct config *c)
{
	return (struct xfer_names){
		.threads = c->names.threads,
		.queued = c->names.queued,
		.ttl_ms = c->names.ttl_ms,
		.negative_ttl_ms = c->names.negative_ttl_ms,
		.thread_idle_ms = LOOKUP_THREAD_IDLE_MS,
	};
}

int outbound_init(const struct config *c)
{
	const struct xfer_names names = names_of(c);

	return xfer_global_init(&names);
}

struct xfer_tls_set *outbound_load(const struct config *c, struct buf *reterr)
{
	struct xfer_tls *services = xcalloc(c->n_services, sizeof *services);
	struct xfer_tls_set *set;

	for (size_t i = 0; i < c->n_services; i++)
		services[i] = (struct xfer_tls){c->services[i].ca_file, c->services[i].cert_file, c->services[i].key_file};
	set = xfer_tls_load(services, c->n_services, reterr);
	free(services);
	return set;
}

void outbound_use(const struct config *c, struct xfer_tls_set *take)
{
	const struct xfer_names names = names_of(c);

	xfer_names_configure(&names);
	xfer_tls_use(take);
}
