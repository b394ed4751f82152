/*
 * A configuration that follows another one in the same process.
 *
 * Everybody knows a service by its index, also while both configurations are in
 * use, so an index never changes its meaning. A service that is gone leaves a
 * stub in its place, which takes nothing new, and lives again if its name returns.
 */
#include "config/config-i.h"

#include <stdlib.h>

void config_changes_free(struct config_changes *ch)
{
	buf_free(&ch->added);
	buf_free(&ch->removed);
	buf_free(&ch->changed);
	buf_free(&ch->settings);
	buf_free(&ch->restart);
}

static void add_name(struct buf *list, const char *name)
{
	buf_add_str(list, list->n > 0 ? ", " : "");
	buf_add_str(list, name);
}

/* Do both say the same? A lack of memory is taken for a difference. */
static bool same(const struct setting *s, const void *base, const void *other)
{
	CLEANUP(buf_free) struct buf a = {0};
	CLEANUP(buf_free) struct buf b = {0};

	s->type->show(s, (const char *)base + s->offset, SHOW_COMPARE, &a);
	s->type->show(s, (const char *)other + s->offset, SHOW_COMPARE, &b);
	return !a.failed && !b.failed && slice_eq(buf_slice(&a), buf_slice(&b));
}

static bool service_same(const struct service *a, const struct service *b)
{
	const struct setting *s;

	for (size_t i = 0; (s = cfg_setting(i)) != NULL; i++) {
		if (cfg_setting_in(s, "services.*") != NULL && !same(s, a, b))
			return false;
	}
	return true;
}

/* The index of a name, of a stub's too. */
static int find_any(const struct config *c, const char *name)
{
	for (size_t i = 0; i < c->n_services; i++) {
		if (strcmp(c->services[i].name, name) == 0)
			return (int)i;
	}
	return -1;
}

/* A webhook: the kind that needs nothing to be complete. */
static void make_stub(struct service *stub, const struct config *c, const char *name)
{
	*stub = (struct service){.name = xstrdup(name), .kind = SERVICE_WEBHOOK, .removed = true};
	cfg_settings_preset("services.*", stub);
	stub->max_payload = c->limits.payload_bytes;
}

static void note_service(const struct service *was, const struct service *is, struct config_changes *ret)
{
	if (is->removed && !was->removed)
		add_name(&ret->removed, is->name);
	else if (!is->removed && was->removed)
		add_name(&ret->added, is->name);
	else if (!is->removed && !service_same(was, is))
		add_name(&ret->changed, is->name);
}

/* While old lanes and new ones had attempts in flight, they would have more than the
 * whole: also those of a service that was removed, and comes back. */
static void keep_lanes(struct service *is, const struct service *was, struct config_changes *ret)
{
	if (is->lanes == was->lanes)
		return;
	if (!is->removed) {
		add_name(&ret->restart, "services.");
		buf_printf(&ret->restart, "%s.lanes", is->name);
	}
	is->lanes = was->lanes;
}

static size_t count_new(const struct config *fresh, const struct config *running)
{
	size_t n = 0;

	for (size_t i = 0; i < fresh->n_services; i++)
		n += find_any(running, fresh->services[i].name) < 0;
	return n;
}

static void place_services(struct config *fresh, const struct config *running, struct config_changes *ret)
{
	size_t n = running->n_services + count_new(fresh, running), next = running->n_services;
	struct service *places = xcalloc(n, sizeof *places);

	for (size_t i = 0; i < fresh->n_services; i++) {
		int was = find_any(running, fresh->services[i].name);

		if (was < 0)
			add_name(&ret->added, fresh->services[i].name);
		places[was < 0 ? next++ : (size_t)was] = fresh->services[i];
	}
	for (size_t i = 0; i < running->n_services; i++) {
		if (places[i].name == NULL)
			make_stub(&places[i], fresh, running->services[i].name);
		keep_lanes(&places[i], &running->services[i], ret);
		note_service(&running->services[i], &places[i], ret);
	}
	free(fresh->services);
	fresh->services = places;
	fresh->n_services = n;
}

static void keep_text(const char **to, const char *from)
{
	free((char *)*to);
	*to = from == NULL ? NULL : xstrdup(from);
}

/* ---- tenants ---- */

/* [0] is the one without a name. */
static size_t count_new_tenants(const struct config *fresh, const struct config *running)
{
	size_t n = 0;

	for (size_t i = 1; i < fresh->n_tenants; i++)
		n += config_find_tenant(running, slice_str(fresh->tenants[i].name)) == 0;
	return n;
}

/* Their numbers stay, too: what each has unfinished is counted by them. */
static void place_tenants(struct config *fresh, const struct config *running)
{
	struct tenant *places = xcalloc(TENANTS_MAX + 1, sizeof *places);
	size_t next = running->n_tenants;

	for (size_t i = 0; i < fresh->n_tenants; i++) {
		unsigned was = config_find_tenant(running, slice_str(fresh->tenants[i].name));

		places[i == 0 ? 0 : was == 0 ? next++ : was] = fresh->tenants[i];
	}
	for (size_t i = 1; i < running->n_tenants; i++) {
		if (places[i].name != NULL)
			continue;
		places[i] = (struct tenant){.name = xstrdup(running->tenants[i].name), .removed = true};
		cfg_settings_preset("tenants.*", &places[i]);
	}
	free(fresh->tenants);
	fresh->tenants = places;
	fresh->n_tenants = next;
}

/* ---- the rest ---- */

static void keep_trace_headers(struct config *fresh, const struct config *running)
{
	size_t n = running->tracing.n_headers;

	for (size_t i = 0; i < fresh->tracing.n_headers; i++)
		cfg_text_wipe(fresh->tracing.headers[i]);
	free(fresh->tracing.headers);
	fresh->tracing.headers = xcalloc(n + 1, sizeof *fresh->tracing.headers);
	fresh->tracing.n_headers = n;
	for (size_t i = 0; i < n; i++)
		fresh->tracing.headers[i] = xstrdup(running->tracing.headers[i]);
}

/* The one value that both then have. */
static void keep(const struct setting *s, struct config *fresh, const struct config *running)
{
	char *to = (char *)fresh + s->offset;
	const char *from = (const char *)running + s->offset;

	if (s->type == &cfg_type_operations) {
		keep_text(&fresh->operations_host, running->operations_host);
		fresh->operations_port = running->operations_port;
	} else if (s->type == &cfg_type_listen) {
		keep_text(&fresh->listen_host, running->listen_host);
		fresh->listen_port = running->listen_port;
	} else if (s->type == &cfg_type_trace_headers) {
		keep_trace_headers(fresh, running);
	} else if (s->type == &cfg_type_endpoint) {
		keep_text(&fresh->tracing.endpoint, running->tracing.endpoint);
		fresh->tracing.endpoint_hidden = running->tracing.endpoint_hidden;
	} else if (s->type == &cfg_type_path) {
		keep_text((const char **)(void *)to, *(const char *const *)(const void *)from);
	} else {
		memcpy(to, from, s->size);
	}
}

static void lay_settings(struct config *fresh, const struct config *running, struct config_changes *ret)
{
	const struct setting *s;

	for (size_t i = 0; (s = cfg_setting(i)) != NULL; i++) {
		if (cfg_setting_in(s, "") == NULL || strchr(s->path, '*') != NULL || same(s, fresh, running))
			continue;
		add_name(s->restart ? &ret->restart : &ret->settings, s->path);
		if (s->restart)
			keep(s, fresh, running);
	}
}

/* A listening socket speaks TLS or does not; what it shows may change. */
static void lay_tls(struct config *fresh, const struct config *running, struct config_changes *ret)
{
	if ((fresh->tls_cert_file == NULL) == (running->tls_cert_file == NULL))
		return;
	keep_text(&fresh->tls_cert_file, running->tls_cert_file);
	keep_text(&fresh->tls_key_file, running->tls_key_file);
	add_name(&ret->restart, "tls");
}

/* What the file may say alone, but not together with the addresses that stay. */
static bool may_reach(const struct config *fresh, const struct config *running, struct buf *reterr)
{
	const char *operations = running->operations_host;

	/* A file that is cut while it is written may have lost them. */
	if (!fresh->open && fresh->n_keys == 0 && running->n_keys > 0) {
		buf_printf(reterr, "callers need a key, and by this file nobody would: keep a key, or set auth: {open: true}\n");
		return false;
	}
	if (!fresh->open && fresh->n_keys == 0 && !cfg_check_is_loopback(running->listen_host)) {
		buf_printf(reterr, "it listens on %s until a restart, which can be reached from other machines, and no caller "
			   "would be asked for a key: keep a key, or set auth: {open: true}\n", running->listen_host);
		return false;
	}
	if (operations == NULL || fresh->open || fresh->open_operations || cfg_check_is_loopback(operations))
		return true;
	buf_printf(reterr, "it answers operations on %s until a restart, which can be reached from other machines: set "
		   "auth: {open_operations: true}\n", operations);
	return false;
}

/* Their number stays, whatever the file says. */
static bool lanes_can_share(const struct config *fresh, const struct config *running, struct buf *reterr)
{
	for (size_t i = 0; i < fresh->n_services; i++) {
		const struct service *s = &fresh->services[i];
		int was = find_any(running, s->name);
		unsigned lanes = was < 0 ? 1 : running->services[was].lanes, most;
		const char *shared;

		most = cfg_most_lanes(s, &shared);
		if (lanes == 1 || lanes <= most)
			continue;
		buf_printf(reterr, "services.%s: it has %u lanes until a restart, too many to share %s, of which there are "
			   "%u: raise what they share, or restart\n", s->name, lanes, shared, most);
		return false;
	}
	return true;
}

static bool may_follow(const struct config *fresh, const struct config *running, struct buf *reterr)
{
	size_t services = running->n_services + count_new(fresh, running);
	size_t tenants = running->n_tenants + count_new_tenants(fresh, running);

	/* Who writes a file in its place empties it first. */
	if (fresh->blank && !running->blank) {
		buf_printf(reterr, "the file is empty, which would take away every service and every key: write it elsewhere, and "
			   "move it to its place\n");
		return false;
	}
	if (services > running->service_slots) {
		buf_printf(reterr, "%zu services, with those that were removed since the start, are more than the %u that "
			   "there is room for: restart\n", services, running->service_slots);
		return false;
	}
	if (tenants > TENANTS_MAX + 1) {
		buf_printf(reterr, "%zu tenants, with those that were removed since the start, are more than %d: restart\n",
			   tenants - 1, TENANTS_MAX);
		return false;
	}
	return lanes_can_share(fresh, running, reterr) && may_reach(fresh, running, reterr);
}

bool config_overlay(struct config *fresh, const struct config *running, struct config_changes *ret, struct buf *reterr)
{
	if (!may_follow(fresh, running, reterr))
		return false;
	lay_tls(fresh, running, ret);
	lay_settings(fresh, running, ret);
	place_services(fresh, running, ret);
	place_tenants(fresh, running);
	fresh->service_slots = running->service_slots;
	return true;
}
