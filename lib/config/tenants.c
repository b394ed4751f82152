/*
 * auth.keys and tenants: who may ask, and what each of them may have. A tenant
 * that only a key names has the defaults.
 */
#include "config/config-i.h"

#include <stdlib.h>

static struct tenant *tenant_add(struct config *c, struct slice name)
{
	struct tenant *t = &c->tenants[c->n_tenants++];
	char *copy = xcalloc(1, name.n + 1);

	if (name.n > 0)
		memcpy(copy, name.p, name.n);
	t->name = copy;
	t->keyless = true;
	cfg_settings_preset("tenants.*", t);
	return t;
}

/* False: there are too many, which is reported at `n`. */
static bool has_place(const struct config *c, const struct node *n, struct report *rep)
{
	if (c->n_tenants <= TENANTS_MAX)
		return true;
	cfg_report_node(rep, n, "more than %d tenants: take some away", TENANTS_MAX);
	return false;
}

static void read_tenants(struct config *c, const struct node *map, struct report *rep)
{
	if (map->kind != NODE_MAP && !cfg_node_is_null(map)) {
		cfg_report_node(rep, map, "not a map: give tenants as NAME: {weight: 1}");
		return;
	}
	for (const struct node *n = map->first; n != NULL; n = n->next) {
		if (!cfg_check_name(n->key))
			cfg_report_key(rep, n, "not a tenant's name: use 1 to 64 of a-z, 0-9, _ and -");
		else if (!has_place(c, n, rep))
			return;
		else
			cfg_settings_read(n, "tenants.*", tenant_add(c, n->key), rep);
	}
}

/* ---- keys ---- */

/* The key whose secret, or name, this one has too; NULL: none. */
static const struct auth_key *same_as(const struct config *c, const struct auth_key *k, bool by_name)
{
	for (const struct auth_key *other = c->keys; other < k; other++) {
		if (by_name && other->name != NULL && k->name != NULL && strcmp(other->name, k->name) == 0)
			return other;
		if (!by_name && memcmp(other->sha256, k->sha256, sizeof k->sha256) == 0)
			return other;
	}
	return NULL;
}

/* NULL: there is no place for it. */
static struct tenant *tenant_of_key(struct config *c, const struct node *n, const struct auth_key *k, struct report *rep)
{
	unsigned known = config_find_tenant(c, k->tenant);

	if (known > 0)
		return &c->tenants[known];
	return has_place(c, n, rep) ? tenant_add(c, k->tenant) : NULL;
}

static void check_tenant(struct config *c, const struct node *n, const struct auth_key *k, struct report *rep)
{
	const struct node *tenant = cfg_node_find(n, "tenant");
	struct tenant *t;

	if (k->scope == KEY_ADMIN && tenant != NULL)
		cfg_report_key(rep, tenant, "an admin key is nobody's: leave it out, or give scope: tenant");
	else if (k->scope == KEY_TENANT && tenant == NULL)
		cfg_report_node(rep, n, "it has no tenant: give the name of whose key it is, or scope: admin");
	else if (k->tenant.n > 0 && (t = tenant_of_key(c, n, k, rep)) != NULL)
		t->keyless = false;
}

static void check_key(const struct config *c, const struct node *n, const struct auth_key *k, struct report *rep)
{
	const struct node *name = cfg_node_find(n, "name"), *sha256 = cfg_node_find(n, "sha256");
	const struct auth_key *other = same_as(c, k, false);

	if (name == NULL)
		cfg_report_node(rep, n, "it has no name: give one, by which people know it");
	else if (same_as(c, k, true) != NULL)
		cfg_report_node(rep, name, "%s is the name of another key: give each its own", k->name);
	if (sha256 == NULL)
		cfg_report_node(rep, n, "it has no sha256: give that of the key, such as from "
				"`printf %%s KEY | sha256sum`");
	else if (other != NULL && memcmp(k->sha256, (unsigned char[32]){0}, 32) != 0)
		cfg_report_node(rep, sha256, "the same as that of the key %s: give each its own",
				other->name == NULL ? "before" : other->name);
}

static void read_keys(struct config *c, const struct node *list, struct report *rep)
{
	if (list->kind != NODE_LIST) {
		if (!cfg_node_is_null(list))
			cfg_report_node(rep, list, "not a list: give [{name: N, tenant: T, sha256: HEX}]");
		return;
	}
	if (list->last != NULL && list->last->index >= AUTH_KEYS_MAX) {
		cfg_report_node(rep, list, "more than %d keys: take some away", AUTH_KEYS_MAX);
		return;
	}
	c->keys = xcalloc(list->last == NULL ? 1 : list->last->index + 1, sizeof *c->keys);
	for (const struct node *n = list->first; n != NULL; n = n->next) {
		struct auth_key *k = &c->keys[c->n_keys++];

		cfg_settings_preset("auth.keys.*", k);
		if (n->kind != NODE_MAP) {
			cfg_report_node(rep, n, "not a key: give {name: N, tenant: T, sha256: HEX}");
			continue;
		}
		cfg_settings_read(n, "auth.keys.*", k, rep);
		check_key(c, n, k, rep);
		check_tenant(c, n, k, rep);
	}
}

void cfg_auth_init(struct config *c)
{
	c->tenants = xcalloc(TENANTS_MAX + 1, sizeof *c->tenants);
	tenant_add(c, (struct slice){0});
}

void cfg_auth_read(struct config *c, const struct node *root, struct report *rep)
{
	const struct node *tenants = cfg_node_find(root, "tenants"), *auth = cfg_node_find(root, "auth");
	const struct node *keys = auth == NULL ? NULL : cfg_node_find(auth, "keys"), *open;

	if (tenants != NULL)
		read_tenants(c, tenants, rep);
	if (keys != NULL)
		read_keys(c, keys, rep);
	open = auth == NULL ? NULL : cfg_node_find(auth, "open");
	if (c->open && c->n_keys > 0 && open != NULL)
		cfg_report_node(rep, open, "auth.keys asks every caller for a key: leave one of the two out");
}

void cfg_auth_free(struct config *c)
{
	for (size_t i = 0; i < c->n_keys; i++) {
		free((char *)c->keys[i].name);
		free((char *)c->keys[i].tenant.p);
	}
	free(c->keys);
	for (size_t i = 0; i < c->n_tenants; i++)
		free((char *)c->tenants[i].name);
	free(c->tenants);
}

bool config_has_several_tenants(const struct config *c)
{
	unsigned n = 0;

	for (size_t i = 1; i < c->n_tenants && n < 2; i++)
		n += !c->tenants[i].removed && !c->tenants[i].keyless;
	return n == 2;
}

unsigned config_find_tenant(const struct config *c, struct slice name)
{
	for (size_t i = 1; i < c->n_tenants && name.n > 0; i++) {
		if (slice_eq(slice_str(c->tenants[i].name), name))
			return (unsigned)i;
	}
	return 0;
}
