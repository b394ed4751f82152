/*
 * Settings as a file would say them: to print a configuration without its
 * secrets, and to see whether two of them differ.
 *
 * What is hidden: the value of every header, every signing secret, and a URL that
 * came from ${...}. So nobody has to guess which of them are credentials.
 */
#include "config/config-i.h"

#include <arpa/inet.h>

#include "base/digest.h"

/* A text in double quotes, as YAML and JSON have them. */
static void show_quoted(struct buf *out, struct slice text)
{
	buf_add_char(out, '"');
	for (size_t i = 0; i < text.n; i++) {
		unsigned char c = (unsigned char)text.p[i];

		if (c < ' ' || c == 0x7f)
			buf_printf(out, "\\x%02x", c);
		else if (c == '$' && i + 1 < text.n && text.p[i + 1] == '{')
			buf_add_str(out, "$$");
		else if (c == '"' || c == '\\')
			buf_printf(out, "\\%c", c);
		else
			buf_add_char(out, (char)c);
	}
	buf_add_char(out, '"');
}

/* Never the text itself, not even for a moment in memory that nobody wipes. */
static void show_hidden(struct buf *out, struct slice text, enum show_how how)
{
	unsigned char digest[DIGEST_BYTES];

	if (how == SHOW_PRINT) {
		buf_add_str(out, "\"" CFG_HIDDEN "\"");
		return;
	}
	if (digest_sha256(text, digest))
		buf_add(out, digest, sizeof digest);
	else
		out->failed = true;
}

void cfg_show_integer(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	uint32_t narrow;
	int64_t v;

	(void)how;
	REQUIRE(s->size == sizeof narrow || s->size == sizeof v);
	memcpy(&narrow, at, sizeof narrow);
	v = narrow;
	if (s->size == sizeof v)
		memcpy(&v, at, sizeof v);
	if (v != 0 || s->preset != NULL)
		buf_add_i64(out, v);
}

void cfg_show_bool(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	(void)s;
	(void)how;
	buf_add_str(out, *(const bool *)at ? "true" : "false");
}

void cfg_show_choice(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	int i;

	(void)how;
	memcpy(&i, at, sizeof i);
	buf_add_str(out, s->choices[i]);
}

void cfg_show_text(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const char *text = *(const char *const *)at;

	(void)s;
	(void)how;
	if (text != NULL)
		show_quoted(out, slice_str(text));
}

static void show_address(const char *host, unsigned port, struct buf *out)
{
	buf_printf(out, strchr(host, ':') != NULL ? "\"[%s]:%u\"" : "\"%s:%u\"", host, port);
}

void cfg_show_listen(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const struct config *c = at;

	(void)s;
	(void)how;
	show_address(c->listen_host, c->listen_port, out);
}

void cfg_show_url(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const struct service *svc = container_of(at, const struct service, url);

	(void)s;
	if (svc->url == NULL)
		return;
	if (svc->url_hidden || how == SHOW_COMPARE)
		show_hidden(out, slice_str(svc->url), how);
	else
		show_quoted(out, slice_str(svc->url));
}

static void show_lines(const char *const *lines, size_t n_lines, enum show_how how, struct buf *out)
{
	if (n_lines == 0)
		return;
	buf_add_char(out, '{');
	for (size_t i = 0; i < n_lines; i++) {
		size_t n = strcspn(lines[i], ":");

		buf_add_str(out, i > 0 ? ", " : "");
		show_quoted(out, (struct slice){lines[i], n});
		buf_add_str(out, ": ");
		show_hidden(out, slice_str(lines[i] + n), how);
	}
	buf_add_char(out, '}');
}

void cfg_show_headers(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const struct service *svc = at;

	(void)s;
	show_lines(svc->headers, svc->n_headers, how, out);
}

void cfg_show_trace_headers(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const struct config *c = container_of(at, const struct config, tracing);

	(void)s;
	show_lines(c->tracing.headers, c->tracing.n_headers, how, out);
}

void cfg_show_endpoint(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const struct config *c = container_of(at, const struct config, tracing.endpoint);

	(void)s;
	if (c->tracing.endpoint == NULL)
		return;
	if (c->tracing.endpoint_hidden || how == SHOW_COMPARE)
		show_hidden(out, slice_str(c->tracing.endpoint), how);
	else
		show_quoted(out, slice_str(c->tracing.endpoint));
}

void cfg_show_secrets(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const struct service *svc = at;

	(void)s;
	if (svc->n_secrets == 0)
		return;
	buf_add_str(out, svc->n_secrets > 1 ? "[" : "");
	for (size_t i = 0; i < svc->n_secrets; i++) {
		buf_add_str(out, i > 0 ? ", " : "");
		show_hidden(out, svc->secrets[i], how);
	}
	buf_add_str(out, svc->n_secrets > 1 ? "]" : "");
}

static void show_range(const struct cidr *range, struct buf *out)
{
	static const unsigned char v4[12] = {[10] = 0xff, [11] = 0xff};
	bool is_v4 = memcmp(range->addr, v4, sizeof v4) == 0 && range->bits >= 96;
	char text[INET6_ADDRSTRLEN];

	REQUIRE(inet_ntop(is_v4 ? AF_INET : AF_INET6, range->addr + (is_v4 ? 12 : 0), text, sizeof text) != NULL);
	buf_printf(out, "\"%s/%u\"", text, range->bits - (is_v4 ? 96 : 0));
}

void cfg_show_ranges(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const struct service *svc = at;

	(void)s;
	(void)how;
	if (svc->n_allow == 0)
		return;
	buf_add_char(out, '[');
	for (size_t i = 0; i < svc->n_allow; i++) {
		buf_add_str(out, i > 0 ? ", " : "");
		show_range(&svc->allow[i], out);
	}
	buf_add_char(out, ']');
}

void cfg_show_refuses_with(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	(void)s;
	(void)how;
	if (*(const bool *)at)
		buf_add_str(out, "[503]");
}

/* At most three decimals are read. */
void cfg_show_number(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	double v;

	(void)s;
	(void)how;
	memcpy(&v, at, sizeof v);
	buf_printf(out, "%.3f", v);
	while (!out->failed && out->p[out->n - 1] == '0')
		out->n--;
	if (!out->failed && out->p[out->n - 1] == '.')
		out->n--;
}

void cfg_show_operations(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const struct config *c = at;

	(void)s;
	(void)how;
	if (c->operations_host != NULL)
		show_address(c->operations_host, c->operations_port, out);
}

/* As cfg_type_name has put it there: a slice, or a text. */
void cfg_show_name(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const char *text = *(const char *const *)at;

	(void)how;
	if (s->size == sizeof(struct slice))
		text = ((const struct slice *)at)->p;
	/* One that is called null would be nothing without quotes. */
	if (text != NULL)
		show_quoted(out, slice_str(text));
}

/* A key cannot be told from it. */
void cfg_show_sha256(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	const unsigned char *digest = at;

	(void)s;
	(void)how;
	for (int i = 0; i < 32; i++)
		buf_printf(out, i == 0 ? "\"%02x" : i == 31 ? "%02x\"" : "%02x", digest[i]);
}

/* ---- maps and lists of maps ---- */

/* All of a section's settings as {name: value}. */
static void show_flow(const char *section, const void *base, enum show_how how, struct buf *out)
{
	const struct setting *s;
	bool first = true;

	buf_add_char(out, '{');
	for (size_t i = 0; (s = cfg_setting(i)) != NULL; i++) {
		const char *name = cfg_setting_in(s, section);
		size_t before = out->n, begun;

		if (name == NULL)
			continue;
		buf_printf(out, "%s%s: ", first ? "" : ", ", name);
		begun = out->n;
		s->type->show(s, (const char *)base + s->offset, how, out);
		if (out->n == begun)
			out->n = before;
		else
			first = false;
	}
	buf_add_char(out, '}');
}

static void show_keys(const struct config *c, enum show_how how, struct buf *out)
{
	if (c->n_keys == 0)
		return;
	for (size_t i = 0; i < c->n_keys; i++) {
		buf_add_str(out, how == SHOW_PRINT ? "\n    - " : "\n");
		show_flow("auth.keys.*", &c->keys[i], how, out);
	}
}

/* The first one is who has no name. */
static void show_tenants(const struct config *c, enum show_how how, struct buf *out)
{
	for (size_t i = 1; i < c->n_tenants; i++) {
		if (c->tenants[i].removed)
			continue;
		buf_printf(out, "\n  %s: ", c->tenants[i].name);
		show_flow("tenants.*", &c->tenants[i], how, out);
	}
}

void cfg_show_apart(const struct setting *s, const void *at, enum show_how how, struct buf *out)
{
	if (strcmp(s->path, "auth.keys") == 0)
		show_keys(at, how, out);
	else
		show_tenants(at, how, out);
}

/* ---- a whole configuration ---- */

/* False: a file says nothing there, and so does this. */
static bool print_one(const struct setting *s, const char *indent, const char *name, const void *base, struct buf *out)
{
	size_t before = out->n, begun;

	buf_printf(out, "%s%s:%s", indent, name, s->type == &cfg_type_apart ? "" : " ");
	begun = out->n;
	s->type->show(s, (const char *)base + s->offset, SHOW_PRINT, out);
	if (out->n == begun) {
		out->n = before;
		return false;
	}
	buf_add_char(out, '\n');
	return true;
}

struct place {
	const char *indent, *deeper;
	struct slice part;               /* the head that was printed last */
};

/* `name` is the path from here on. The head of a part stands only over something. */
static void print_setting(const struct setting *s, const char *name, const void *base, struct place *at,
			  struct buf *out)
{
	struct slice part = {name, strcspn(name, ".")};
	size_t before = out->n;

	if (name[part.n] == '\0') {
		print_one(s, at->indent, name, base, out);
		return;
	}
	if (!slice_eq(part, at->part))
		buf_printf(out, "%s%.*s:\n", at->indent, (int)part.n, part.p);
	if (print_one(s, at->deeper, name + part.n + 1, base, out))
		at->part = part;
	else
		out->n = before;
}

static void print_service(const struct service *s, struct buf *out)
{
	struct place at = {.indent = "    ", .deeper = "      "};
	const struct setting *set;

	buf_printf(out, "  %s:\n", s->name);
	for (size_t i = 0; (set = cfg_setting(i)) != NULL; i++) {
		const char *name = cfg_setting_in(set, "services.*");
		bool other = set->only == (s->kind == SERVICE_HTTP ? ONLY_WEBHOOK : ONLY_HTTP);
		/* A file may not say it where there is no rate. */
		bool idle = set->offset == offsetof(struct service, rate.burst) && s->rate.per_second <= 0;

		if (name != NULL && !other && !idle)
			print_setting(set, name, s, &at, out);
	}
}

void config_print(const struct config *c, struct buf *out)
{
	struct place at = {.indent = "", .deeper = "  "};
	const struct setting *s;

	for (size_t i = 0; (s = cfg_setting(i)) != NULL; i++) {
		const char *name = cfg_setting_in(s, "");

		/* store.path means nothing beside store.memory, and is refused there. */
		if (name != NULL && strchr(name, '*') == NULL && (strcmp(name, "store.path") != 0 || !c->store_memory))
			print_setting(s, name, c, &at, out);
	}
	buf_add_str(out, "services:\n");
	for (size_t i = 0; i < c->n_services; i++) {
		if (!c->services[i].removed)
			print_service(&c->services[i], out);
	}
}
