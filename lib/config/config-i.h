/*
 * What the parts of config share. One load runs in one thread, from top to
 * bottom: file -> tree (tree.c) -> ${...} (expand.c) -> settings (settings.c,
 * read.c, check.c) -> struct config. Every part reports to the same list of
 * errors (report.c) and goes on, so that all are seen at once.
 */
#pragma once

#include "config/config.h"

enum {
	CONFIG_FILE_MAX = 1024 * 1024,
	CONFIG_VALUE_MAX = 64 * 1024,    /* one value after ${...} */
	CONFIG_DEPTH_MAX = 16,
	CONFIG_NODES_MAX = 20000,
	CONFIG_ERRORS_MAX = 100,
	CONFIG_SERVICE_SLOTS = 256,      /* with all that reloads may add; or twice what the start had */
	CONFIG_SECRETS_MAX = 8,          /* of one service: its header grows with them */
};

enum node_kind { NODE_TEXT, NODE_LIST, NODE_MAP };

/* A value of the file, with where it stands. */
struct node {
	struct node *parent, *first, *last, *next;
	enum node_kind kind;
	struct slice key;                /* in a map; p NULL elsewhere */
	unsigned index;                  /* in a list */
	struct slice raw;                /* a text as the file has it */
	struct slice text;               /* a text after ${...}; often the same bytes as raw */
	bool plain;                      /* not in quotes */
	bool expanded;                   /* held ${...}: show raw, never text */
	bool optional;                   /* held ${NAME:-}: nothing is as good as not there */
	bool broken;                     /* its error is reported already */
	unsigned line, column, key_line, key_column;
};

struct report {
	struct buf *out;
	const char *file;
	unsigned n;
};

/* tree.c. NULL and a report if it is no YAML that we take; an empty file is an
 * empty map. */
struct node *cfg_tree_parse(struct slice text, struct report *rep) MUST_CHECK;
void cfg_node_free(struct node *n);                  /* wipes; NULL is fine */
struct node *cfg_node_find(const struct node *map, const char *key);
bool cfg_node_is_null(const struct node *n);         /* nothing, ~ or null, unquoted */

/* expand.c. Replaces every ${...} below `n`, and takes out what is optional and not given. */
void cfg_expand_tree(struct node *n, struct report *rep);

/* certs.c: a service's certificates and keys, read and forgotten again. */
void cfg_certs_check(const struct node *map, const struct service *s, struct report *rep);

/* report.c: one line each, "FILE:LINE:COLUMN: path: what is wrong: what to do". */
void cfg_report_at(struct report *rep, unsigned line, unsigned column, const char *fmt, ...) PRINTF_LIKE(4, 5);
void cfg_report_node(struct report *rep, const struct node *n, const char *fmt, ...) PRINTF_LIKE(3, 4);
void cfg_report_key(struct report *rep, const struct node *n, const char *fmt, ...) PRINTF_LIKE(3, 4);
void cfg_report_missing(struct report *rep, const struct node *map, const char *key, const char *fmt, ...)
	PRINTF_LIKE(4, 5);
void cfg_report_end(struct report *rep);

/* A short printable form of a value as written, for messages. */
struct shown {
	char s[64];
};
struct shown cfg_shown_slice(struct slice s);

/* check.c: NULL if right, else "what is wrong: what to do". Pure. */
const char *cfg_check_url(const char *url);
const char *cfg_check_header_name(struct slice name);
const char *cfg_check_header_value(struct slice value);
const char *cfg_check_secret(struct slice text, struct slice *ret_key);
const char *cfg_check_listen(const char *text, char **ret_host, unsigned *ret_port);
bool cfg_check_is_loopback(const char *host);
bool cfg_check_name(struct slice name);  /* of a service, or a tenant */
bool cfg_check_sha256(struct slice hex, unsigned char ret[32]);

/* tenants.c: auth.keys and tenants, which belong together. */
void cfg_auth_init(struct config *c);    /* the one tenant of who has no key */
void cfg_auth_read(struct config *c, const struct node *root, struct report *rep);
void cfg_auth_free(struct config *c);

/* config.c: it may hold credentials. NULL is fine. */
void cfg_text_wipe(const char *s);
/* As many lanes as each can have a part of what they share; *ret_shared: of what there is the least. */
unsigned cfg_most_lanes(const struct service *s, const char **ret_shared);

struct setting;

/* To be printed, without secrets; or to be held against another one: then a digest
 * stands for a secret. */
enum show_how { SHOW_PRINT, SHOW_COMPARE };

/* What is printed instead of a secret. */
#define CFG_HIDDEN "***"

/* A type knows its name for people and how to read a value to where it belongs. */
struct setting_type {
	const char *name;
	void (*read)(const struct setting *s, const struct node *n, void *at, struct report *rep);
	/* The value as a file would say it; nothing where a file says nothing. */
	void (*show)(const struct setting *s, const void *at, enum show_how how, struct buf *out);
};

extern const struct setting_type cfg_type_integer, cfg_type_number, cfg_type_bool, cfg_type_choice, cfg_type_word,
	cfg_type_listen, cfg_type_operations, cfg_type_shards, cfg_type_path, cfg_type_file, cfg_type_url, cfg_type_headers,
	cfg_type_secrets, cfg_type_ranges, cfg_type_refuses_with, cfg_type_name, cfg_type_sha256, cfg_type_apart,
	cfg_type_endpoint, cfg_type_trace_headers;

enum setting_only { ONLY_NONE, ONLY_HTTP, ONLY_WEBHOOK };

struct setting {
	const char *path;                /* "services.*.x" is in struct service, "tenants.*.x" in struct tenant, and so on */
	const struct setting_type *type;
	size_t offset, size;
	const char *preset;              /* the default as a file would say it; NULL: none */
	int64_t min, max;                /* integers and decimals */
	const char *unit;
	const char *const *choices;      /* NULL-terminated; choice and word */
	enum setting_only only;          /* the kind of service that knows it */
	const char *why;                 /* one sentence for the operator */
	bool restart;                    /* a reload leaves it as it is */
};

/* settings.c */
const struct setting *cfg_setting(size_t i);         /* by its place in the table; NULL: there are no more */
/* What follows `section` in the path of a setting that has a value; NULL if it is not in there. */
const char *cfg_setting_in(const struct setting *s, const char *section);
void cfg_settings_preset(const char *section, void *base);
void cfg_settings_read(const struct node *map, const char *section, void *base, struct report *rep);
void cfg_settings_check_kind(const struct node *map, enum service_kind kind, struct report *rep);
extern const char *const cfg_service_kinds[];

/* read.c */
int cfg_choice_index(const char *const *choices, const struct node *n);   /* -1: none of them */

/* show.c: how each type shows a value. */
void cfg_show_integer(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_bool(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_choice(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_text(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_listen(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_url(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_headers(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_secrets(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_ranges(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_refuses_with(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_number(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_operations(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_endpoint(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_trace_headers(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_name(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_sha256(const struct setting *s, const void *at, enum show_how how, struct buf *out);
void cfg_show_apart(const struct setting *s, const void *at, enum show_how how, struct buf *out);
