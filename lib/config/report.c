#include "config/config-i.h"

/* "services.push.allow[2]", from the root down. */
static void add_path(struct buf *out, const struct node *n)
{
	if (n->parent == NULL)
		return;
	add_path(out, n->parent);
	if (n->key.p == NULL) {
		buf_printf(out, "[%u]", n->index);
		return;
	}
	if (n->parent->parent != NULL)
		buf_add_char(out, '.');
	buf_add_str(out, cfg_shown_slice(n->key).s);
}

/* False: enough has been said; the rest is only counted. */
static bool begin(struct report *rep, unsigned line, unsigned column)
{
	if (rep->n++ >= CONFIG_ERRORS_MAX)
		return false;
	buf_printf(rep->out, "%s:%u:%u: ", rep->file, line, column);
	return true;
}

static void finish(struct report *rep, const char *fmt, va_list ap)
{
	buf_vprintf(rep->out, fmt, ap);
	buf_add_char(rep->out, '\n');
}

void cfg_report_at(struct report *rep, unsigned line, unsigned column, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (begin(rep, line, column))
		finish(rep, fmt, ap);
	va_end(ap);
}

static void report_path(struct report *rep, const struct node *n, const char *fmt, va_list ap)
{
	add_path(rep->out, n);
	if (n->parent != NULL)
		buf_add_str(rep->out, ": ");
	finish(rep, fmt, ap);
}

/* At the value, or at the key of a map or list, whose value may begin on the
 * next line. */
void cfg_report_node(struct report *rep, const struct node *n, const char *fmt, ...)
{
	bool at_key = n->kind != NODE_TEXT && n->key.p != NULL;
	va_list ap;

	va_start(ap, fmt);
	if (begin(rep, at_key ? n->key_line : n->line, at_key ? n->key_column : n->column))
		report_path(rep, n, fmt, ap);
	va_end(ap);
}

void cfg_report_key(struct report *rep, const struct node *n, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (begin(rep, n->key_line, n->key_column))
		report_path(rep, n, fmt, ap);
	va_end(ap);
}

/* At the key of the map that lacks `key`. */
void cfg_report_missing(struct report *rep, const struct node *map, const char *key, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (begin(rep, map->key_line, map->key_column)) {
		add_path(rep->out, map);
		buf_printf(rep->out, ".%s: ", key);
		finish(rep, fmt, ap);
	}
	va_end(ap);
}

void cfg_report_end(struct report *rep)
{
	if (rep->n > CONFIG_ERRORS_MAX)
		buf_printf(rep->out, "%s: and %u more\n", rep->file, rep->n - CONFIG_ERRORS_MAX);
}

struct shown cfg_shown_slice(struct slice s)
{
	struct shown ret;
	size_t n = s.n, room = sizeof ret.s - 4;

	if (n > room) {
		n = room;
		/* Not in the middle of a character. */
		while (n > 0 && ((unsigned char)s.p[n] & 0xc0) == 0x80)
			n--;
	}
	for (size_t i = 0; i < n; i++)
		ret.s[i] = (unsigned char)s.p[i] < ' ' || s.p[i] == 0x7f ? '?' : s.p[i];
	strcpy(ret.s + n, n < s.n ? "..." : "");
	return ret;
}
