/*
 * What a downstream calls the message that it accepted.
 */
#include "wire/wire-i.h"

enum { ANSWER_DEPTH = 64 };

static const char *const names[] = {"id", "message_id", "name"};

/* Read an object's members to the end; found[i] is the string called names[i]. */
static bool find_names(struct scan *s, struct value found[ARRAY_LEN(names)])
{
	for (;;) {
		struct frame *f = scan_top(s);
		struct value v, *place = NULL;

		switch (scan_next(s)) {
		case STEP_FAILED:
			return false;
		case STEP_END:
			return true;
		case STEP_MEMBER:
			break;
		}
		for (size_t i = 0; i < ARRAY_LEN(names); i++) {
			if (slice_eq(f->key, slice_str(names[i])) && !f->duplicate)
				place = &found[i];
		}
		if (!scan_value(s, &v))
			return false;
		if (place != NULL && v.kind == KIND_STRING)
			*place = v;
	}
}

bool wire_message_id(struct slice json, struct buf *out)
{
	struct value object, found[ARRAY_LEN(names)] = {0};
	struct slice text = {0};
	struct scan s;

	if (json.n == 0)
		return false;
	scan_init(&s, json, ANSWER_DEPTH);
	if (scan_open(&s, &object) && object.kind == KIND_OBJECT && find_names(&s, found) && scan_end(&s)) {
		for (size_t i = 0; i < ARRAY_LEN(names) && text.n == 0; i++) {
			if (found[i].raw.p != NULL && !scan_text(&s, &found[i], &s.arena, &text))
				break;
			/* It is kept as a C string. */
			if (text.n > 0 && memchr(text.p, '\0', text.n) != NULL)
				text.n = 0;
		}
		buf_add_slice(out, text);
	}
	scan_free(&s);
	return text.n > 0 && !out->failed;
}
