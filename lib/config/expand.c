/*
 * ${NAME} is an environment variable, ${NAME:-TEXT} the same, or TEXT where that is
 * unset or empty, ${file:PATH} a file's content without its last newline (PATH as
 * open(2) takes it), $${ a literal ${. Values are expanded after the YAML was parsed,
 * so what comes in stays one value whatever it holds. Nothing that came in is ever
 * shown. An unquoted value of which an empty TEXT leaves nothing is not there at all.
 */
#include "config/config-i.h"

#include <errno.h>
#include <stdlib.h>

static bool is_name(const char *s)
{
	if (*s == '\0' || (*s >= '0' && *s <= '9'))
		return false;
	return s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")] == '\0';
}

static bool add_file(struct node *n, const char *path, struct buf *out, struct report *rep)
{
	struct buf content = {0};
	int err = buf_read_file(path, CONFIG_VALUE_MAX, &content);

	if (err == -EFBIG)
		cfg_report_node(rep, n, "${file:%s} holds more than 64 KiB: give a smaller file", path);
	else if (err != 0)
		cfg_report_node(rep, n, "${file:%s} cannot be read: %s", path, strerror(-err));
	if (content.n > 0 && content.p[content.n - 1] == '\n')
		content.n -= content.n > 1 && content.p[content.n - 2] == '\r' ? 2 : 1;
	if (err == 0)
		buf_add(out, content.p, MIN(content.n, CONFIG_VALUE_MAX + 1 - out->n));
	buf_wipe(&content);
	return err == 0;
}

/* What stands between ${ and }. */
static bool add_reference(struct node *n, char *what, struct buf *out, struct report *rep)
{
	const char *value, *instead = NULL;
	char *end;

	if (strncmp(what, "file:", 5) == 0 && what[5] != '\0')
		return add_file(n, what + 5, out, rep);
	end = strstr(what, ":-");
	if (end != NULL) {
		*end = '\0';
		instead = end + 2;
		n->optional |= *instead == '\0';
	}
	if (instead != NULL && strstr(instead, "${") != NULL) {
		cfg_report_node(rep, n, "${NAME:-TEXT} takes no ${ in TEXT, which ends at the first }: give a plain text");
		return false;
	}
	if (!is_name(what)) {
		cfg_report_node(rep, n, "${...} needs a variable's name or file:PATH: write $${ for a plain ${");
		return false;
	}
	value = getenv(what);
	if (instead != NULL && (value == NULL || *value == '\0'))
		value = instead;
	if (value == NULL) {
		cfg_report_node(rep, n, "the environment variable %s is not set: set it, or write $${ for a plain ${", what);
		return false;
	}
	buf_add(out, value, MIN(strlen(value), CONFIG_VALUE_MAX + 1 - out->n));
	return true;
}

static bool add_expanded(struct node *n, struct buf *out, struct report *rep)
{
	const char *p = n->raw.p, *end = p + n->raw.n;

	while (p < end && out->n <= CONFIG_VALUE_MAX) {
		const char *close;
		char *what;
		bool ok;

		if (strncmp(p, "$${", 3) == 0) {
			buf_add_str(out, "${");
			p += 3;
			continue;
		}
		if (strncmp(p, "${", 2) != 0) {
			buf_add_char(out, *p++);
			continue;
		}
		close = memchr(p, '}', (size_t)(end - p));
		if (close == NULL) {
			cfg_report_node(rep, n, "${ without }: close it, or write $${ for a plain ${");
			return false;
		}
		what = strndup(p + 2, (size_t)(close - p - 2));
		REQUIRE(what != NULL);
		ok = add_reference(n, what, out, rep);
		free(what);
		if (!ok)
			return false;
		p = close + 1;
	}
	if (out->n > CONFIG_VALUE_MAX)
		cfg_report_node(rep, n, "longer than 64 KiB: give a shorter value");
	return out->n <= CONFIG_VALUE_MAX;
}

static void expand_text(struct node *n, struct report *rep)
{
	struct buf out = {0};
	char *text;

	if (n->broken || memmem(n->raw.p, n->raw.n, "${", 2) == NULL)
		return;
	n->expanded = true;
	/* Room for all of it: a buffer that moves would leave secrets behind. */
	REQUIRE(buf_reserve(&out, CONFIG_VALUE_MAX + 8));
	n->broken = !add_expanded(n, &out, rep);
	if (!n->broken) {
		text = xcalloc(1, out.n + 1);
		memcpy(text, out.p, out.n);
		n->text = (struct slice){text, out.n};
	}
	buf_wipe(&out);
}

static bool is_absent(const struct node *n)
{
	return n->kind == NODE_TEXT && n->optional && n->plain && !n->broken && n->text.n == 0;
}

void cfg_expand_tree(struct node *n, struct report *rep)
{
	struct node **at = &n->first, *child;

	if (n->kind == NODE_TEXT)
		expand_text(n, rep);
	n->last = NULL;
	while ((child = *at) != NULL) {
		cfg_expand_tree(child, rep);
		if (is_absent(child)) {
			*at = child->next;
			cfg_node_free(child);
		} else {
			n->last = child;
			at = &child->next;
		}
	}
}
