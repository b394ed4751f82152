/*
 * Scripts (a list of behaviours for a path, one per request) and counters (how
 * many requests a key has had). One owner.
 */
#pragma once

#include "base/buf.h"
#include "base/list.h"

enum { SCRIPTS_MAX = 10000 };

struct scripts {
	struct list scripts;
	unsigned n;
	/* Open addressing; a key of 0 is a free place. */
	struct counter {
		uint64_t key;
		uint32_t n;
	} *counters;
	size_t used, cap;
};

void scripts_init(struct scripts *s);
void scripts_clear(struct scripts *s);           /* scripts and counters */

/* Replace the script of `path` by these lines; empty lines are skipped. `per_id`:
 * each webhook-id goes through it by itself. False: too many scripts. */
bool scripts_set(struct scripts *s, struct slice path, struct slice lines, bool per_id);

/* The line whose turn it is, the last one for ever after; false: no script. */
bool scripts_next(struct scripts *s, struct slice path, struct slice webhook_id, struct slice *ret);

/* Lines of a script, without blanks around: `rest` shrinks. False: no more. */
bool script_line(struct slice *rest, struct slice *ret);

/* Count one more request under the key: 1 for the first. After a million keys
 * everything is forgotten. */
uint32_t counter_next(struct scripts *s, uint64_t key);
