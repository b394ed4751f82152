/*
 * How each type of setting is read. `at` is the field, of the size that the
 * table says; it keeps its default where the value is wrong.
 */
#include "config/config-i.h"

#include <stdlib.h>
#include <strings.h>

#include "base/cores.h"

/* A text that is no null and holds no NUL byte, or a report and false. */
static bool want_text(const struct node *n, const char *what, struct report *rep)
{
	if (n->broken)
		return false;
	if (n->kind != NODE_TEXT)
		cfg_report_node(rep, n, "a %s: give %s", n->kind == NODE_MAP ? "map" : "list", what);
	else if (cfg_node_is_null(n))
		cfg_report_node(rep, n, "no value: give %s", what);
	else if (memchr(n->text.p, '\0', n->text.n) != NULL)
		cfg_report_node(rep, n, "holds a NUL byte: take it away");
	else
		return true;
	return false;
}

/* Null is an empty list or map: everything in it may be commented out. */
static bool want_kind(const struct node *n, enum node_kind kind, const char *what, struct report *rep)
{
	if (n->broken)
		return false;
	if (n->kind == kind)
		return true;
	if (!cfg_node_is_null(n))
		cfg_report_node(rep, n, "not a %s: give %s", kind == NODE_MAP ? "map" : "list", what);
	return false;
}

/* Plain decimal: no sign, no leading zero (octal to some), no underscore. */
static bool parse_integer(struct slice s, int64_t *ret)
{
	int64_t v = 0;

	if (s.n == 0 || s.n > 18 || (s.p[0] == '0' && s.n > 1))
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
		v = v * 10 + (s.p[i] - '0');
	}
	*ret = v;
	return true;
}

static void read_integer(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	const char *ms = strcmp(s->unit, "ms") == 0 ? ", without a suffix" : "";
	int64_t v;
	uint32_t narrow;

	if (!want_text(n, "a whole number", rep))
		return;
	if (!n->plain && !n->expanded) {
		cfg_report_node(rep, n, "a text in quotes: give the number without them");
		return;
	}
	if (!parse_integer(n->text, &v)) {
		cfg_report_node(rep, n, "%s is not a whole number: give %lld to %lld %s%s", cfg_shown_slice(n->raw).s,
		                (long long)s->min, (long long)s->max, s->unit, ms);
		return;
	}
	if (v < s->min || v > s->max) {
		cfg_report_node(rep, n, "%s is out of range: give %lld to %lld %s", cfg_shown_slice(n->raw).s,
		                (long long)s->min, (long long)s->max, s->unit);
		return;
	}
	REQUIRE(s->size == sizeof narrow || s->size == sizeof v);
	narrow = (uint32_t)v;
	if (s->size == sizeof narrow)
		memcpy(at, &narrow, sizeof narrow);
	else
		memcpy(at, &v, sizeof v);
}

/* A decimal number with up to three places. */
static bool parse_number(struct slice s, double *ret)
{
	const char *dot = s.n == 0 ? NULL : memchr(s.p, '.', s.n);
	struct slice whole = {s.p, dot == NULL ? s.n : (size_t)(dot - s.p)};
	struct slice places = dot == NULL ? (struct slice){0} : (struct slice){dot + 1, s.n - whole.n - 1};
	int64_t v, thousandths = 0;

	if (!parse_integer(whole, &v) || (dot != NULL && (places.n < 1 || places.n > 3)))
		return false;
	for (size_t i = 0; i < 3; i++) {
		char c = i < places.n ? places.p[i] : '0';

		if (c < '0' || c > '9')
			return false;
		thousandths = thousandths * 10 + (c - '0');
	}
	*ret = (double)v + (double)thousandths / 1000;
	return true;
}

static void read_number(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	double v;

	REQUIRE(s->size == sizeof v);
	if (!want_text(n, "a number", rep))
		return;
	if (!n->plain && !n->expanded)
		cfg_report_node(rep, n, "a text in quotes: give the number without them");
	else if (!parse_number(n->text, &v))
		cfg_report_node(rep, n, "%s is not a number: give %lld to %lld %s, with up to three decimal places",
		                cfg_shown_slice(n->raw).s, (long long)s->min, (long long)s->max, s->unit);
	else if (v < (double)s->min || v > (double)s->max)
		cfg_report_node(rep, n, "%s is out of range: give %lld to %lld %s", cfg_shown_slice(n->raw).s,
		                (long long)s->min, (long long)s->max, s->unit);
	else
		memcpy(at, &v, sizeof v);
}

static bool parse_bool(const struct node *n, bool *ret, struct report *rep)
{
	bool is_true = slice_eq(n->text, SLICE("true"));

	if (!want_text(n, "true or false", rep))
		return false;
	if ((!n->plain && !n->expanded) || (!is_true && !slice_eq(n->text, SLICE("false")))) {
		cfg_report_node(rep, n, "not a yes or no: give true or false, without quotes");
		return false;
	}
	*ret = is_true;
	return true;
}

static void read_bool(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	(void)s;
	(void)parse_bool(n, at, rep);
}

static void read_path(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	enum { LONGEST = 3900 };         /* names of files follow, and PATH_MAX is 4096 */
	const char *what = s->type == &cfg_type_file ? "a file" : "a directory";

	if (!want_text(n, what, rep))
		return;
	if (n->text.n == 0 || n->text.n > LONGEST) {
		cfg_report_node(rep, n, "not the path of %s: give 1 to %d bytes", what, LONGEST);
		return;
	}
	free(*(char **)at);
	*(char **)at = xstrdup(n->text.p);
}

int cfg_choice_index(const char *const *choices, const struct node *n)
{
	for (int i = 0; n->kind == NODE_TEXT && choices[i] != NULL; i++) {
		if (slice_eq(n->text, slice_str(choices[i])))
			return i;
	}
	return -1;
}

static int read_index(const struct setting *s, const struct node *n, struct report *rep)
{
	struct buf known = {0};
	int i = cfg_choice_index(s->choices, n);

	if (i >= 0)
		return i;
	for (int k = 0; s->choices[k] != NULL; k++)
		buf_printf(&known, "%s%s", k == 0 ? "" : s->choices[k + 1] == NULL ? " or " : ", ", s->choices[k]);
	buf_add_char(&known, '\0');
	REQUIRE(!known.failed);
	if (want_text(n, known.p, rep))
		cfg_report_node(rep, n, "%s is not known: give %s", cfg_shown_slice(n->raw).s, known.p);
	buf_free(&known);
	return -1;
}

static void read_choice(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	int i = read_index(s, n, rep);

	REQUIRE(s->size == sizeof i);
	if (i >= 0)
		memcpy(at, &i, sizeof i);
}

/* Like a choice, but the field is the word itself. */
static void read_word(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	int i = read_index(s, n, rep);

	if (i >= 0)
		*(const char **)at = s->choices[i];
}

static void read_address(const struct node *n, const char **host, unsigned *port, struct report *rep)
{
	const char *problem;

	if (!want_text(n, "an address and a port", rep))
		return;
	problem = cfg_check_listen(n->text.p, (char **)host, port);
	if (problem != NULL)
		cfg_report_node(rep, n, "%s is %s", cfg_shown_slice(n->raw).s, problem);
}

/* A host and its port are one setting, so `at` is the whole config. */
static void read_listen(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	struct config *c = at;

	(void)s;
	read_address(n, &c->listen_host, &c->listen_port, rep);
}

static void read_operations(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	struct config *c = at;

	(void)s;
	read_address(n, &c->operations_host, &c->operations_port, rep);
}

static void read_shards(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	int64_t v;

	if (!want_text(n, "auto or a whole number", rep))
		return;
	if (slice_eq(n->text, SLICE("auto")))
		*(unsigned *)at = MIN(cores_usable(), (unsigned)SHARDS_MAX);
	else if (!parse_integer(n->text, &v) || v < s->min || v > s->max)
		cfg_report_node(rep, n, "%s is neither: give auto, or %lld to %lld %s", cfg_shown_slice(n->raw).s,
		                (long long)s->min, (long long)s->max, s->unit);
	else
		*(unsigned *)at = (unsigned)v;
}

/* It was copied from where the secret itself is not shown. */
static bool is_hidden(const struct node *n, struct report *rep)
{
	if (!slice_eq(n->text, SLICE(CFG_HIDDEN)))
		return false;
	cfg_report_node(rep, n, CFG_HIDDEN " stands for a secret that was not printed: give it as ${NAME} or ${file:PATH}");
	return true;
}

static void read_url(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	struct service *svc = container_of(at, struct service, url);
	const char *problem;

	(void)s;
	if (!want_text(n, "a URL", rep) || is_hidden(n, rep))
		return;
	problem = cfg_check_url(n->text.p);
	if (problem != NULL) {
		cfg_report_node(rep, n, "%s", problem);
		return;
	}
	svc->url = xstrdup(n->text.p);
	svc->url_hidden = n->expanded;
}

static bool header_is_double(const struct node *h)
{
	for (const struct node *k = h->parent->first; k != h; k = k->next) {
		if (k->key.n == h->key.n && strncasecmp(k->key.p, h->key.p, h->key.n) == 0 && !slice_eq(k->key, h->key))
			return true;
	}
	return false;
}

static const char *read_header(const struct node *h, struct report *rep)
{
	const char *problem = cfg_check_header_name(h->key);
	char *line;
	size_t size;

	if (problem == NULL && header_is_double(h))
		problem = "given twice: upper and lower case are the same to HTTP";
	if (problem != NULL) {
		cfg_report_key(rep, h, "%s", problem);
		return NULL;
	}
	if (!want_text(h, "the header's value", rep) || is_hidden(h, rep))
		return NULL;
	problem = cfg_check_header_value(h->text);
	if (problem != NULL) {
		cfg_report_node(rep, h, "%s", problem);
		return NULL;
	}
	size = h->key.n + 2 + h->text.n + 1;
	line = xcalloc(1, size);
	memcpy(line, h->key.p, h->key.n);
	memcpy(line + h->key.n, ": ", 2);
	memcpy(line + h->key.n + 2, h->text.p, h->text.n);
	return line;
}

static void read_header_lines(const struct node *n, const char ***ret, size_t *ret_n, struct report *rep)
{
	if (!want_kind(n, NODE_MAP, "{Name: value}", rep) || n->first == NULL)
		return;
	*ret = xcalloc(n->last->index + 1, sizeof **ret);
	for (const struct node *h = n->first; h != NULL; h = h->next) {
		const char *line = read_header(h, rep);

		if (line != NULL)
			(*ret)[(*ret_n)++] = line;
	}
}

/* headers and n_headers are one setting, so `at` is the whole service. */
static void read_headers(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	struct service *svc = at;

	(void)s;
	read_header_lines(n, &svc->headers, &svc->n_headers, rep);
}

/* The same of tracing: `at` is its part of the config. */
static void read_trace_headers(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	struct config *c = container_of(at, struct config, tracing);

	(void)s;
	read_header_lines(n, &c->tracing.headers, &c->tracing.n_headers, rep);
}

static void read_endpoint(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	struct config *c = container_of(at, struct config, tracing.endpoint);
	const char *problem;

	(void)s;
	c->tracing.endpoint_hidden = n->expanded;
	if (!want_text(n, "a URL", rep))
		return;
	problem = cfg_check_url(n->text.p);
	if (problem == NULL && strpbrk(n->text.p, "?#{") != NULL)
		problem = "not the start of a URL: leave out the query, and what is in braces";
	if (problem != NULL)
		cfg_report_node(rep, n, "%s", problem);
	else
		c->tracing.endpoint = strndup(n->text.p, n->text.n - (n->text.n > 0 && n->text.p[n->text.n - 1] == '/'));
}

static void read_secret(struct service *svc, const struct node *n, struct report *rep)
{
	const char *problem;

	if (!want_text(n, "a signing secret", rep) || is_hidden(n, rep))
		return;
	problem = cfg_check_secret(n->text, &svc->secrets[svc->n_secrets]);
	if (problem != NULL)
		cfg_report_node(rep, n, "%s", problem);
	else
		svc->n_secrets++;
}

/* One secret or a list. secrets and n_secrets are one setting, so `at` is the
 * whole service. */
static void read_secrets(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	struct service *svc = at;
	size_t count = n->kind == NODE_LIST ? n->last == NULL ? 0 : n->last->index + 1 : 1;

	(void)s;
	if (n->broken)
		return;
	if (count == 0 || count > CONFIG_SECRETS_MAX) {
		cfg_report_node(rep, n, "%zu secrets: give one, or a list of 1 to %d, the newest first", count,
		                CONFIG_SECRETS_MAX);
		return;
	}
	svc->secrets = xcalloc(count, sizeof *svc->secrets);
	if (n->kind != NODE_LIST)
		read_secret(svc, n, rep);
	for (const struct node *one = n->kind == NODE_LIST ? n->first : NULL; one != NULL; one = one->next)
		read_secret(svc, one, rep);
}

/* allow and n_allow are one setting, so `at` is the whole service. */
static void read_ranges(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	struct service *svc = at;

	(void)s;
	if (!want_kind(n, NODE_LIST, "[\"10.0.0.0/8\"]", rep) || n->first == NULL)
		return;
	svc->allow = xcalloc(n->last->index + 1, sizeof *svc->allow);
	for (const struct node *r = n->first; r != NULL; r = r->next) {
		if (!want_text(r, "a range of addresses", rep))
			continue;
		if (cidr_parse(r->text.p, &svc->allow[svc->n_allow]))
			svc->n_allow++;
		else
			cfg_report_node(rep, r, "%s is not a range of addresses: give one as 10.0.0.0/8 or fd00::/8, "
			                "with no bits set behind the prefix", cfg_shown_slice(r->raw).s);
	}
}

static void read_refuses_with(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	(void)s;
	if (!want_kind(n, NODE_LIST, "[503]", rep))
		return;
	for (const struct node *code = n->first; code != NULL; code = code->next) {
		if (!want_text(code, "503", rep))
			continue;
		if (slice_eq(code->text, SLICE("503")))
			*(bool *)at = true;
		else
			cfg_report_node(rep, code, "%s cannot be given: 503 is the one status that can mean a refusal",
			                cfg_shown_slice(code->raw).s);
	}
}

/* A text of its own, or a slice of it. */
static void read_name(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	char *copy;

	if (!want_text(n, "a name", rep))
		return;
	if (!cfg_check_name(n->text)) {
		cfg_report_node(rep, n, "%s is not a name: use 1 to 64 of a-z, 0-9, _ and -", cfg_shown_slice(n->raw).s);
		return;
	}
	copy = xstrdup(n->text.p);
	if (s->size == sizeof(struct slice))
		*(struct slice *)at = slice_str(copy);
	else
		*(char **)at = copy;
}

static void read_sha256(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	(void)s;
	/* It may be the key itself, by mistake: never shown. */
	if (want_text(n, "64 hexadecimal digits", rep) && !cfg_check_sha256(n->text, at))
		cfg_report_node(rep, n, "not a SHA-256: give its 64 hexadecimal digits, such as from "
				"`printf %%s KEY | sha256sum`");
}

/* Read elsewhere, with what belongs to it. */
static void read_apart(const struct setting *s, const struct node *n, void *at, struct report *rep)
{
	(void)s;
	(void)n;
	(void)at;
	(void)rep;
}

const struct setting_type cfg_type_integer = {"integer", read_integer, cfg_show_integer};
const struct setting_type cfg_type_number = {"number", read_number, cfg_show_number};
const struct setting_type cfg_type_bool = {"true or false", read_bool, cfg_show_bool};
const struct setting_type cfg_type_choice = {NULL, read_choice, cfg_show_choice};
const struct setting_type cfg_type_word = {NULL, read_word, cfg_show_text};
const struct setting_type cfg_type_listen = {"address:port", read_listen, cfg_show_listen};
const struct setting_type cfg_type_operations = {"address:port", read_operations, cfg_show_operations};
const struct setting_type cfg_type_shards = {"auto or integer", read_shards, cfg_show_integer};
const struct setting_type cfg_type_path = {"directory", read_path, cfg_show_text};
const struct setting_type cfg_type_file = {"file", read_path, cfg_show_text};
const struct setting_type cfg_type_url = {"URL", read_url, cfg_show_url};
const struct setting_type cfg_type_headers = {"map of texts", read_headers, cfg_show_headers};
const struct setting_type cfg_type_secrets = {"whsec_ and base64, or a list of them", read_secrets, cfg_show_secrets};
const struct setting_type cfg_type_ranges = {"list of address ranges", read_ranges, cfg_show_ranges};
const struct setting_type cfg_type_refuses_with = {"list of statuses", read_refuses_with, cfg_show_refuses_with};
const struct setting_type cfg_type_name = {"name of a-z, 0-9, _ and -", read_name, cfg_show_name};
const struct setting_type cfg_type_sha256 = {"64 hexadecimal digits", read_sha256, cfg_show_sha256};
const struct setting_type cfg_type_apart = {"see below", read_apart, cfg_show_apart};
const struct setting_type cfg_type_endpoint = {"URL", read_endpoint, cfg_show_endpoint};
const struct setting_type cfg_type_trace_headers = {"map of texts", read_trace_headers, cfg_show_trace_headers};
