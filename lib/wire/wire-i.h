/*
 * Inside of wire: the scanner, the set of keys, the error list and the reader.
 * Everything belongs to one call of wire_read_batch() or wire_message_id();
 * nothing outlives it but what is in the batch's arena.
 */
#pragma once

#include "wire/wire.h"

/* --- keys.c: which of many strings were there before ------------------------ */

struct key {
	uint64_t hash;                   /* seeded: the strings are the caller's */
	struct slice text;
};

struct key_slot {
	uint32_t place;                  /* and 1 more; 0: free */
	uint32_t tag;                    /* of the hash: saves a look at the key */
};

struct key_index {
	struct key_slot *slots;
	size_t n_slots;                  /* a power of two */
};

/* Index v[n] unless an equal key is among v[0..n). Returns 1: new, 0: known,
 * or -ENOMEM. */
int key_index_add(struct key_index *ix, const struct key *v, size_t n);
void key_index_free(struct key_index *ix);

/* --- scan.c: one pass over a JSON text -------------------------------------- */

enum kind { KIND_NULL, KIND_BOOL, KIND_NUMBER, KIND_STRING, KIND_ARRAY, KIND_OBJECT };

struct value {
	struct slice raw;                /* as received; strings with their quotes */
	enum kind kind;
	bool escaped;                    /* a string with escapes */
};

/* An object or array that is being read. */
struct frame {
	struct key_index index;
	struct slice key;                /* decoded, of the member being read */
	size_t first_key;                /* in scan.keys */
	size_t n;                        /* members begun */
	bool object;
	bool duplicate;                  /* the member's key was there before */
};

struct scan {
	const char *start, *p, *end;
	const char *bad;                 /* where it stopped being JSON, or NULL */
	const char *expected;            /* and what should have stood there */
	struct frame *frames;            /* the path from the root to p */
	struct key *keys;                /* of all open objects, outermost first */
	size_t n_keys, keys_cap;
	unsigned depth, frames_cap, max_depth;
	uint64_t seed;
	struct arena arena;              /* decoded keys */
	void (*on_duplicate)(struct scan *s);        /* or NULL */
	bool no_memory;
};

enum step { STEP_FAILED, STEP_END, STEP_MEMBER };

void scan_init(struct scan *s, struct slice text, unsigned max_depth);
void scan_free(struct scan *s);

/* Read a scalar, or enter an object or array. False, here and below: malformed
 * (`bad` is set) or no memory. */
bool scan_open(struct scan *s, struct value *ret);

/* Leave whatever is open above `depth`, which completes the value's bytes. */
bool scan_close(struct scan *s, unsigned depth, struct value *v);

/* A whole value. */
bool scan_value(struct scan *s, struct value *ret);

/* To the next member of the innermost frame, or out of it at its end. */
enum step scan_next(struct scan *s);

/* Nothing but white space is left. */
bool scan_end(struct scan *s);

/* A string's text: a slice of the input, or decoded into the arena. */
bool scan_text(struct scan *s, const struct value *v, struct arena *a, struct slice *ret);

static inline struct frame *scan_top(const struct scan *s)
{
	return &s->frames[s->depth - 1];
}

/* Length of the well-formed UTF-8 sequence at p, of two bytes or more; 0: none. */
size_t utf8_sequence(const char *p, const char *end);

/* --- errors.c: what is wrong with a request --------------------------------- */

enum { FAULTS_LISTED = 100, NO_ITEM = -1 };

struct fault_record {
	const char *pointer, *detail;
	int64_t item;                    /* or NO_ITEM */
	enum fault fault;
};

struct fault_list {
	struct fault_record v[FAULTS_LISTED];        /* the first ones */
	uint64_t count;                              /* all of them */
};

/* An item as read, before the rest of the batch is known. */
struct draft {
	struct slice id, to, payload, dedupe_key;    /* p NULL: absent or invalid */
	int64_t ttl_ms;
	const char *detail;              /* its first fault in words, or NULL */
	uint32_t faults;
	int32_t service;                 /* index, SERVICE_NONE or SERVICE_BAD */
	uint8_t seen;                    /* bits of enum item_field */
};

enum { SERVICE_NONE = -1, SERVICE_BAD = -2 };
enum item_field { ITEM_ID = 1, ITEM_TO = 2, ITEM_PAYLOAD = 4, ITEM_SERVICE = 8, ITEM_ALL = 255 };

struct reader {
	struct scan scan;
	const struct wire_rules *rules;
	struct arena arena;              /* becomes the batch's */
	struct arena scratch;            /* the faults' texts */
	struct fault_list batch_faults, item_faults;
	struct draft *drafts;
	size_t n_drafts, drafts_cap;
	size_t n_items;                  /* as sent; may be over the limit */
	int64_t item;                    /* being read, or NO_ITEM */
	struct policy policy;            /* what was not given is negative or 0 */
	int64_t concurrency;             /* 0: not given */
	int64_t priority;                /* -1: not given */
	int64_t max_attempts;            /* 0: not given */
	struct slice metadata, payload;  /* p NULL: not given */
	int32_t service;                 /* as in a draft */
	struct slice last_service;       /* the name looked up last ... */
	int32_t last_found;              /* ... and what came of it */
	bool items_seen, payload_seen;
};

/* A fault where the scanner stands. */
void fault_here(struct reader *r, enum fault f, const char *fmt, ...) PRINTF_LIKE(3, 4);

/* The scanner's on_duplicate: a key that stands twice in its object. */
void fault_duplicate_key(struct scan *s);

/* Will the words of a fault here be kept, or is it only counted? */
bool fault_wanted(const struct reader *r);

/* A fault of a named member of an item, or of the batch with NO_ITEM. */
void fault_at(struct reader *r, int64_t item, const char *member, enum fault f, const char *fmt, ...)
	PRINTF_LIKE(5, 6);

/* Of items with several faults: how many more there are than the one that is told. */
void fault_count_more(struct reader *r);

/* The whole problem documents. */
void problem_malformed(struct buf *out, const struct scan *s);
void problem_invalid(struct buf *out, struct reader *r);

/* A caller's text inside a message: in quotes, and cut when it is long. */
#define QUOTE "\"%.*s%s\""
#define QUOTED(s) quoted_len(s), (s).p, (size_t)quoted_len(s) < (s).n ? "..." : ""

int quoted_len(struct slice s);

/* --- fields.c: one value each. False: as in scan ---------------------------- */

struct field {
	const char *name;
	bool (*read)(struct reader *r);
};

enum opened { OPEN_FAILED, OPEN_OTHER, OPENED };

/* Enter an object or array; a value of another kind is passed over and a fault. */
enum opened read_open(struct reader *r, enum kind kind, struct value *ret);

/* The whole of an object, or of an array: `member` reads one. As read_open(). */
enum opened read_object(struct reader *r, const struct field *fields, size_t n);
enum opened read_list(struct reader *r, bool (*member)(struct reader *r));

/* Where the value has a fault, `ret` is left alone; strings then are {NULL, 0}. */
bool read_string(struct reader *r, size_t min, size_t max, struct slice *ret);
bool read_int(struct reader *r, int64_t min, int64_t max, int64_t *ret);
bool read_bool(struct reader *r, bool *ret);
bool read_enum(struct reader *r, const char *const *names, size_t n, size_t *ret);
bool read_payload(struct reader *r, struct slice *ret);
bool read_service(struct reader *r, int32_t *ret);

/* --- items.c ---------------------------------------------------------------- */

bool read_items(struct reader *r);

/* What can only be said when the whole body was read. -ENOMEM or 0. */
int check_items(struct reader *r);
