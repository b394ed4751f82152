/*
 * YAML to a tree of nodes. libyaml is used here and nowhere else.
 *
 * Taken: one document of maps, lists and scalars; JSON is a subset of that, tabs
 * between its tokens included. Not taken: aliases and anchors, tags, a second
 * document, keys that are no scalars, more than CONFIG_DEPTH_MAX levels. JSON's
 * surrogate pairs (\ud83d\ude00) are unknown to libyaml: write the character.
 *
 * libyaml has buffers of its own, which it frees without wiping.
 */
#include "config/config-i.h"

#include <stdlib.h>
#include <yaml.h>

struct builder {
	yaml_parser_t parser;
	struct slice text;
	struct report *rep;
	unsigned nodes;
};

static struct slice copy(const void *p, size_t n)
{
	char *s = xcalloc(1, n + 1);

	if (n > 0)
		memcpy(s, p, n);
	return (struct slice){s, n};
}

static void wipe(struct slice s)
{
	if (s.p == NULL)
		return;
	explicit_bzero((char *)s.p, s.n);
	free((char *)s.p);
}

void cfg_node_free(struct node *n)
{
	struct node *child, *next;

	if (n == NULL)
		return;
	for (child = n->first; child != NULL; child = next) {
		next = child->next;
		cfg_node_free(child);
	}
	if (n->text.p != n->raw.p)
		wipe(n->text);
	wipe(n->raw);
	wipe(n->key);
	free(n);
}

struct node *cfg_node_find(const struct node *map, const char *key)
{
	struct node *n = map->first;

	while (n != NULL && !slice_eq(n->key, slice_str(key)))
		n = n->next;
	return n;
}

bool cfg_node_is_null(const struct node *n)
{
	return n->kind == NODE_TEXT && n->plain && !n->expanded &&
	       (n->text.n == 0 || slice_eq(n->text, SLICE("~")) || slice_eq(n->text, SLICE("null")));
}

static bool refuse(struct builder *b, const yaml_mark_t *at, const char *message)
{
	cfg_report_at(b->rep, (unsigned)at->line + 1, (unsigned)at->column + 1, "%s", message);
	return false;
}

/* libyaml knows the place of a bad byte by its offset alone. */
static bool refuse_bytes(struct builder *b)
{
	size_t end = MIN(b->parser.problem_offset, b->text.n);
	yaml_mark_t at = {0};

	for (size_t i = 0; i < end; i++) {
		at.column++;
		if (b->text.p[i] == '\n') {
			at.line++;
			at.column = 0;
		}
	}
	cfg_report_at(b->rep, (unsigned)at.line + 1, (unsigned)at.column + 1, "not valid YAML: %s: write UTF-8",
	              b->parser.problem);
	return false;
}

static bool next_event(struct builder *b, yaml_event_t *ret)
{
	const yaml_parser_t *p = &b->parser;

	if (yaml_parser_parse(&b->parser, ret))
		return true;
	if (p->error == YAML_READER_ERROR && p->problem != NULL)
		return refuse_bytes(b);
	cfg_report_at(b->rep, (unsigned)p->problem_mark.line + 1, (unsigned)p->problem_mark.column + 1,
	              "not valid YAML: %s%s%s", p->problem != NULL ? p->problem : "out of memory",
	              p->context != NULL ? " " : "", p->context != NULL ? p->context : "");
	return false;
}

/* Anchors, aliases and tags would make the file say something else than it shows. */
static bool refuse_extras(struct builder *b, const yaml_event_t *e)
{
	const yaml_char_t *anchor = NULL, *tag = NULL;

	if (e->type == YAML_ALIAS_EVENT)
		return refuse(b, &e->start_mark, "aliases are not supported: write the value again");
	if (e->type == YAML_SCALAR_EVENT) {
		anchor = e->data.scalar.anchor;
		tag = e->data.scalar.tag;
	} else if (e->type == YAML_SEQUENCE_START_EVENT) {
		anchor = e->data.sequence_start.anchor;
		tag = e->data.sequence_start.tag;
	} else if (e->type == YAML_MAPPING_START_EVENT) {
		anchor = e->data.mapping_start.anchor;
		tag = e->data.mapping_start.tag;
	}
	if (anchor != NULL)
		return refuse(b, &e->start_mark, "anchors are not supported: write the value where it belongs");
	if (tag != NULL)
		return refuse(b, &e->start_mark, "tags are not supported: write the value without it");
	return true;
}

static struct node *add_child(struct node *parent)
{
	struct node *n = xcalloc(1, sizeof *n);

	n->parent = parent;
	if (parent->last != NULL) {
		n->index = parent->last->index + 1;
		parent->last->next = n;
	} else {
		parent->first = n;
	}
	parent->last = n;
	return n;
}

static bool take_key(struct builder *b, struct node *n, const yaml_event_t *e)
{
	struct node *same;

	if (!refuse_extras(b, e))
		return false;
	if (e->type != YAML_SCALAR_EVENT)
		return refuse(b, &e->start_mark, "a key must be a text: write NAME: VALUE");
	same = n->parent->first;
	while (same != n && !slice_eq(same->key, (struct slice){(char *)e->data.scalar.value, e->data.scalar.length}))
		same = same->next;
	n->key = copy(e->data.scalar.value, e->data.scalar.length);
	n->key_line = (unsigned)e->start_mark.line + 1;
	n->key_column = (unsigned)e->start_mark.column + 1;
	n->broken = same != n;
	if (n->broken)
		cfg_report_key(b->rep, n, "duplicate key: it stands on line %u already", same->key_line);
	return true;
}

static bool build(struct builder *b, struct node *n, const yaml_event_t *e, unsigned depth);

static bool build_children(struct builder *b, struct node *n, unsigned depth)
{
	yaml_event_type_t end = n->kind == NODE_MAP ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT;
	bool done = false, ok = true;

	while (ok && !done) {
		yaml_event_t e;
		struct node *child;

		if (!next_event(b, &e))
			return false;
		done = e.type == end;
		if (!done) {
			child = add_child(n);
			if (n->kind == NODE_MAP) {
				ok = take_key(b, child, &e);
				yaml_event_delete(&e);
				if (!ok || !next_event(b, &e))
					return false;
			}
			ok = build(b, child, &e, depth + 1);
		}
		yaml_event_delete(&e);
	}
	return ok;
}

/* Fills `n`, which its parent owns already: what fails half-way is freed with
 * the root. */
static bool build(struct builder *b, struct node *n, const yaml_event_t *e, unsigned depth)
{
	n->line = (unsigned)e->start_mark.line + 1;
	n->column = (unsigned)e->start_mark.column + 1;
	if (!refuse_extras(b, e))
		return false;
	if (depth > CONFIG_DEPTH_MAX)
		return refuse(b, &e->start_mark, "nested too deeply: no setting is that deep");
	if (++b->nodes > CONFIG_NODES_MAX)
		return refuse(b, &e->start_mark, "too many values: a file may hold 20000");
	if (e->type == YAML_SCALAR_EVENT) {
		n->kind = NODE_TEXT;
		n->raw = copy(e->data.scalar.value, e->data.scalar.length);
		n->text = n->raw;
		n->plain = e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
		return true;
	}
	n->kind = e->type == YAML_MAPPING_START_EVENT ? NODE_MAP : NODE_LIST;
	return build_children(b, n, depth);
}

static bool build_document(struct builder *b, struct node *root)
{
	bool ok = true, built = false, done = false;

	while (ok && !done) {
		yaml_event_t e;

		if (!next_event(b, &e))
			return false;
		done = e.type == YAML_STREAM_END_EVENT;
		if (e.type == YAML_DOCUMENT_START_EVENT && built)
			ok = refuse(b, &e.start_mark, "a second document: put everything into one");
		else if (e.type == YAML_SCALAR_EVENT || e.type == YAML_SEQUENCE_START_EVENT ||
		         e.type == YAML_MAPPING_START_EVENT || e.type == YAML_ALIAS_EVENT)
			ok = built = build(b, root, &e, 0);
		yaml_event_delete(&e);
	}
	return ok;
}

struct node *cfg_tree_parse(struct slice text, struct report *rep)
{
	struct builder b = {.text = text, .rep = rep};
	struct node *root = xcalloc(1, sizeof *root);
	bool ok;

	root->kind = NODE_MAP;
	root->line = root->column = 1;
	if (!yaml_parser_initialize(&b.parser)) {
		cfg_report_at(rep, 1, 1, "out of memory");
		cfg_node_free(root);
		return NULL;
	}
	yaml_parser_set_input_string(&b.parser, (const unsigned char *)text.p, text.n);
	ok = build_document(&b, root);
	yaml_parser_delete(&b.parser);
	if (!ok) {
		cfg_node_free(root);
		return NULL;
	}
	return root;
}
