#include "script.h"

#include <stdlib.h>

enum { COUNTERS_MAX = 1 << 20, COUNTERS_FIRST = 1 << 10 };

struct script {
	struct list node;
	struct slice path, lines;
	uint64_t key;                    /* of its counter */
	bool per_id;
	char bytes[];
};

void scripts_init(struct scripts *s)
{
	*s = (struct scripts){0};
	list_init(&s->scripts);
}

static void drop(struct scripts *s, struct script *script)
{
	list_remove(&script->node);
	free(script);
	s->n--;
}

void scripts_clear(struct scripts *s)
{
	list_foreach(node, &s->scripts)
		drop(s, list_entry(node, struct script, node));
	free(s->counters);
	s->counters = NULL;
	s->used = s->cap = 0;
}

static struct script *find(struct scripts *s, struct slice path)
{
	list_foreach(node, &s->scripts) {
		struct script *script = list_entry(node, struct script, node);

		if (slice_eq(script->path, path))
			return script;
	}
	return NULL;
}

bool script_line(struct slice *rest, struct slice *ret)
{
	while (rest->n > 0) {
		const char *lf = memchr(rest->p, '\n', rest->n);
		struct slice line = {rest->p, lf == NULL ? rest->n : (size_t)(lf - rest->p)};
		size_t used = lf == NULL ? rest->n : line.n + 1;

		*rest = (struct slice){rest->p + used, rest->n - used};
		while (line.n > 0 && strchr(" \t\r", line.p[line.n - 1]) != NULL)
			line.n--;
		while (line.n > 0 && (line.p[0] == ' ' || line.p[0] == '\t'))
			line = (struct slice){line.p + 1, line.n - 1};
		if (line.n > 0) {
			*ret = line;
			return true;
		}
	}
	return false;
}

bool scripts_set(struct scripts *s, struct slice path, struct slice lines, bool per_id)
{
	static uint64_t made;
	struct script *old = find(s, path), *script;

	if (old != NULL)
		drop(s, old);
	if (s->n >= SCRIPTS_MAX)
		return false;
	script = xcalloc(1, sizeof *script + path.n + lines.n);
	memcpy(script->bytes, path.p, path.n);
	memcpy(script->bytes + path.n, lines.p, lines.n);
	script->path = (struct slice){script->bytes, path.n};
	script->lines = (struct slice){script->bytes + path.n, lines.n};
	script->per_id = per_id;
	script->key = slice_hash(SLICE("script"), ++made);
	list_append(&s->scripts, &script->node);
	s->n++;
	return true;
}

bool scripts_next(struct scripts *s, struct slice path, struct slice webhook_id, struct slice *ret)
{
	struct script *script = s->n == 0 ? NULL : find(s, path);
	struct slice rest, line;
	uint32_t n;

	if (script == NULL)
		return false;
	n = counter_next(s, script->per_id ? slice_hash(webhook_id, script->key) : script->key);
	rest = script->lines;
	for (*ret = SLICE(""); n > 0 && script_line(&rest, &line); n--)
		*ret = line;
	return true;
}

static struct counter *place(struct counter *counters, size_t cap, uint64_t key)
{
	size_t at = key & (cap - 1);

	while (counters[at].key != 0 && counters[at].key != key)
		at = (at + 1) & (cap - 1);
	return &counters[at];
}

static void grow(struct scripts *s)
{
	size_t cap = s->cap == 0 ? COUNTERS_FIRST : s->cap * 2;
	struct counter *counters = xcalloc(cap, sizeof *counters);

	for (size_t i = 0; i < s->cap; i++) {
		if (s->counters[i].key != 0)
			*place(counters, cap, s->counters[i].key) = s->counters[i];
	}
	free(s->counters);
	s->counters = counters;
	s->cap = cap;
}

uint32_t counter_next(struct scripts *s, uint64_t key)
{
	struct counter *c;

	if (s->used >= COUNTERS_MAX) {
		memset(s->counters, 0, s->cap * sizeof *s->counters);
		s->used = 0;
	}
	if (s->used * 2 >= s->cap)
		grow(s);
	key += key == 0;
	c = place(s->counters, s->cap, key);
	if (c->key == 0) {
		c->key = key;
		s->used++;
	}
	return ++c->n;
}
