#include "config/config-i.h"

#include <errno.h>
#include <stdlib.h>

const char *service_kind_str(enum service_kind k)
{
	return cfg_service_kinds[k];
}

/* A header's or a URL's text may hold credentials. */
void cfg_text_wipe(const char *s)
{
	if (s == NULL)
		return;
	explicit_bzero((char *)s, strlen(s));
	free((char *)s);
}

static void service_done(struct service *s)
{
	free((char *)s->name);
	cfg_text_wipe(s->url);
	for (size_t i = 0; i < s->n_headers; i++)
		cfg_text_wipe(s->headers[i]);
	free(s->headers);
	for (size_t i = 0; i < s->n_secrets; i++) {
		explicit_bzero((char *)s->secrets[i].p, s->secrets[i].n);
		free((char *)s->secrets[i].p);
	}
	free(s->secrets);
	free((char *)s->ca_file);
	free((char *)s->cert_file);
	free((char *)s->key_file);
	free(s->allow);
}

static void free_config(struct config *c)
{
	for (size_t i = 0; i < c->n_services; i++)
		service_done(&c->services[i]);
	free(c->services);
	cfg_auth_free(c);
	free((char *)c->listen_host);
	free((char *)c->operations_host);
	free((char *)c->store_path);
	free((char *)c->tls_cert_file);
	free((char *)c->tls_key_file);
	cfg_text_wipe(c->tracing.endpoint);
	for (size_t i = 0; i < c->tracing.n_headers; i++)
		cfg_text_wipe(c->tracing.headers[i]);
	free(c->tracing.headers);
	free(c);
}

struct config *config_ref(struct config *c)
{
	atomic_fetch_add(&c->refs, 1);
	return c;
}

void config_unref(struct config *c)
{
	if (c != NULL && atomic_fetch_sub(&c->refs, 1) == 1)
		free_config(c);
}

int config_find_service(const struct config *c, struct slice name)
{
	for (size_t i = 0; i < c->n_services; i++) {
		if (!c->services[i].removed && slice_eq(slice_str(c->services[i].name), name))
			return (int)i;
	}
	return -1;
}

int config_only_service(const struct config *c)
{
	int only = -1;

	for (size_t i = 0; i < c->n_services; i++) {
		if (c->services[i].removed)
			continue;
		if (only >= 0)
			return -1;
		only = (int)i;
	}
	return only;
}

bool config_has_secrets(const struct config *c)
{
	for (size_t i = 0; i < c->n_services; i++) {
		const struct service *s = &c->services[i];

		if (s->n_headers > 0 || s->n_secrets > 0 || s->url_hidden || s->key_file != NULL)
			return true;
	}
	/* Of callers' keys it has the digests alone, but each request brings one. */
	return c->tls_key_file != NULL || c->tracing.n_headers > 0 || c->tracing.endpoint_hidden || c->n_keys > 0;
}

static struct service *service_add(struct config *c, struct slice name)
{
	struct service *s = &c->services[c->n_services++];
	char *copy = xcalloc(1, name.n + 1);

	memcpy(copy, name.p, name.n);
	s->name = copy;
	cfg_settings_preset("services.*", s);
	return s;
}

static void check_rate(const struct service *s, const struct node *rate, struct report *rep)
{
	if (s->rate.burst > 0 && s->rate.per_second <= 0)
		cfg_report_node(rep, rate, "a burst of a rate without a limit: give per_second, or leave the burst out");
}

static unsigned burst_of(const struct service *s)
{
	return s->rate.burst > 0 ? s->rate.burst : MAX((unsigned)(s->rate.per_second / 10), 1u);
}

unsigned cfg_most_lanes(const struct service *s, const char **ret_shared)
{
	const struct budget_policy *p = &s->retry_budget;
	double repeats = p->ratio <= 0 && p->per_second > 0 ? p->per_second * (double)p->window_ms / 1000 : LANES_MAX;
	unsigned most = s->max_in_flight;

	*ret_shared = "max_in_flight";
	if (s->rate.per_second > 0 && burst_of(s) < most) {
		most = burst_of(s);
		*ret_shared = "rate.burst";
	}
	if (repeats < most) {
		most = MAX((unsigned)repeats, 1u);
		*ret_shared = "the repeats that retry_budget has in any case";
	}
	return most;
}

static void check_lanes(const struct service *s, const struct node *lanes, struct report *rep)
{
	const char *shared;
	unsigned most = cfg_most_lanes(s, &shared);

	if (s->lanes > most && lanes != NULL)
		cfg_report_node(rep, lanes, "%u lanes are too many to share %s, of which there are %u: give %u at most, or "
		                "raise what they share", s->lanes, shared, most, most);
}

/* A floor of less than one repeat in a window is none. */
static void check_budget(const struct service *s, const struct node *budget, struct report *rep)
{
	const struct budget_policy *p = &s->retry_budget;

	if (p->ratio <= 0 && p->per_second > 0 && p->per_second * (double)p->window_ms < 1000)
		cfg_report_node(rep, budget, "less than one repeat in window_ms, so there would be none: raise per_second or "
		                "window_ms, or give a ratio");
}

static void read_service(struct config *c, const struct node *n, struct report *rep)
{
	struct service *s;
	const struct node *kind;

	if (!cfg_check_name(n->key)) {
		cfg_report_key(rep, n, "not a service's name: use 1 to 64 of a-z, 0-9, _ and -");
		return;
	}
	s = service_add(c, n->key);
	cfg_settings_read(n, "services.*", s, rep);
	if (n->kind != NODE_MAP && !cfg_node_is_null(n))
		return;
	kind = cfg_node_find(n, "kind");
	if (kind == NULL)
		cfg_report_missing(rep, n, "kind", "required: give http or webhook");
	if (kind == NULL || cfg_choice_index(cfg_service_kinds, kind) < 0)
		return;
	cfg_settings_check_kind(n, s->kind, rep);
	check_rate(s, cfg_node_find(n, "rate"), rep);
	check_budget(s, cfg_node_find(n, "retry_budget"), rep);
	check_lanes(s, cfg_node_find(n, "lanes"), rep);
	cfg_certs_check(n, s, rep);
	if (s->kind == SERVICE_HTTP && cfg_node_find(n, "url") == NULL)
		cfg_report_missing(rep, n, "url", "required for kind http: give the URL, with {to} where the recipient goes");
}

static void read_services(struct config *c, const struct node *map, struct report *rep)
{
	if (map->kind != NODE_MAP && !cfg_node_is_null(map)) {
		cfg_report_node(rep, map, "not a map: give services as NAME: {kind: webhook}");
		return;
	}
	if (map->first == NULL)
		return;
	c->services = xcalloc(map->last->index + 1, sizeof *c->services);
	for (const struct node *n = map->first; n != NULL; n = n->next)
		read_service(c, n, rep);
}

static const struct node *find_in(const struct node *root, const char *section, const char *key)
{
	const struct node *map = cfg_node_find(root, section);

	return map == NULL ? NULL : cfg_node_find(map, key);
}

static void check_tls(const struct config *c, const struct node *root, struct report *rep)
{
	const struct node *tls = cfg_node_find(root, "tls");

	if (tls == NULL || (c->tls_cert_file == NULL) == (c->tls_key_file == NULL))
		return;
	cfg_report_missing(rep, tls, c->tls_cert_file == NULL ? "cert_file" : "key_file",
	                   "required: a certificate and its key belong together");
}

/* Nobody beyond this machine gets in without a key, unless the operator says so. */
static void check_reach(const struct config *c, const struct node *root, struct report *rep)
{
	const struct node *listen = cfg_node_find(root, "listen");
	const struct node *operations = cfg_node_find(root, "operations");

	if (listen != NULL && !c->open && c->n_keys == 0 && !cfg_check_is_loopback(c->listen_host))
		cfg_report_node(rep, listen, "%s can be reached from other machines and no caller is asked for a key: "
		                "give auth.keys, listen on 127.0.0.1, or set auth: {open: true}", c->listen_host);
	if (operations != NULL && c->operations_host != NULL && !c->open && !c->open_operations &&
	    !cfg_check_is_loopback(c->operations_host))
		cfg_report_node(rep, operations, "%s can be reached from other machines, and nobody is asked for a key "
		                "there: give an address of 127.0.0.0/8, or set auth: {open_operations: true}",
		                c->operations_host);
	if (operations != NULL && c->operations_host != NULL && c->operations_port != 0 &&
	    c->operations_port == c->listen_port && strcmp(c->operations_host, c->listen_host) == 0)
		cfg_report_node(rep, operations, "the same address as listen: give it another port");
}

/* What depends on more than one setting. */
static void check_together(const struct config *c, const struct node *root, struct report *rep)
{
	const struct node *deadline = find_in(root, "limits", "deadline_ms");
	const struct node *path = find_in(root, "store", "path");

	check_reach(c, root, rep);
	if (path != NULL && c->store_memory)
		cfg_report_node(rep, path, "store.memory is true, so nothing would be kept there: leave one of the two out");
	check_tls(c, root, rep);
	if (c->limits.deadline_ms <= c->limits.max_deadline_ms)
		return;
	if (deadline == NULL)
		deadline = find_in(root, "limits", "max_deadline_ms");
	/* Neither is found where `limits` stands twice, which was said already. */
	if (deadline != NULL)
		cfg_report_node(rep, deadline, "limits.deadline_ms (%lld) is longer than limits.max_deadline_ms (%lld): "
		                "lower the first or raise the second", (long long)c->limits.deadline_ms,
		                (long long)c->limits.max_deadline_ms);
}

static void read_tree(struct config *c, struct node *root, struct report *rep)
{
	const struct node *services;

	cfg_expand_tree(root, rep);
	cfg_settings_read(root, "", c, rep);
	cfg_auth_read(c, root, rep);
	services = cfg_node_find(root, "services");
	if (services != NULL)
		read_services(c, services, rep);
	check_together(c, root, rep);
}

static void read_file(struct config *c, struct report *rep)
{
	struct buf text = {0};
	struct node *root;
	int err = buf_read_file(rep->file, CONFIG_FILE_MAX, &text);

	if (err != 0) {
		rep->n++;
		buf_printf(rep->out, "%s: %s: %s\n", rep->file,
		           err == -EFBIG ? "larger than 1 MiB" : strerror(-err),
		           err == -EFBIG ? "give a smaller file" : "give a file that can be read");
		buf_wipe(&text);
		return;
	}
	root = cfg_tree_parse(buf_slice(&text), rep);
	buf_wipe(&text);
	c->blank = root != NULL && root->first == NULL;
	if (root != NULL)
		read_tree(c, root, rep);
	cfg_node_free(root);
	cfg_report_end(rep);
}

/* What other settings decide where it was not given. */
static void fill_in(const struct config *c, struct service *s)
{
	if (s->max_payload == 0)
		s->max_payload = c->limits.payload_bytes;
	s->rate.burst = burst_of(s);
}

struct config *config_load(const char *path, struct buf *reterr)
{
	struct config *c = xcalloc(1, sizeof *c);
	struct report rep = {.out = reterr, .file = path};

	atomic_init(&c->refs, 1);
	cfg_settings_preset("", c);
	cfg_auth_init(c);
	if (path != NULL)
		read_file(c, &rep);
	if (rep.n > 0) {
		config_unref(c);
		return NULL;
	}
	if (c->n_services == 0) {
		free(c->services);
		c->services = xcalloc(1, sizeof *c->services);
		service_add(c, SLICE("webhook"))->kind = SERVICE_WEBHOOK;
	}
	for (size_t i = 0; i < c->n_services; i++)
		fill_in(c, &c->services[i]);
	c->service_slots = (unsigned)MAX(2 * c->n_services, (size_t)CONFIG_SERVICE_SLOTS);
	return c;
}
