/* Stands in for lib/wire until that has its library: a value of "id" without
 * escapes, and nothing else. */
#include "wire/wire.h"

bool wire_message_id(struct slice json, struct buf *out)
{
	static const char key[] = "\"id\":\"";
	const char *p = memmem(json.p, json.n, key, sizeof key - 1), *end;

	if (p == NULL)
		return false;
	p += sizeof key - 1;
	end = memchr(p, '"', (size_t)(json.p + json.n - p));
	if (end == NULL)
		return false;
	buf_add(out, p, (size_t)(end - p));
	return true;
}
