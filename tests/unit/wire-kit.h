/*
 * What the tests of wire share: rules with two services, and a reader of texts.
 */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "wire/wire.h"

static inline int kit_find_service(const void *ctx, struct slice name)
{
	(void)ctx;
	if (slice_eq(name, SLICE("push")))
		return 0;
	return slice_eq(name, SLICE("mail")) ? 1 : -1;
}

/* The service mail wants an '@'. */
static inline const char *kit_check_to(const void *ctx, int service, struct slice to)
{
	(void)ctx;
	if (service == 1 && memchr(to.p, '@', to.n) == NULL)
		return "an address has an '@'";
	return NULL;
}

static const struct wire_rules kit_rules = {
	.max_items = 10000,
	.max_payload = 4096,
	.max_depth = 64,
	.max_priority = 9,
	.default_deadline_ms = 30000,
	.max_deadline_ms = 86400000,
	.default_service = -1,
	.find_service = kit_find_service,
	.check_to = kit_check_to,
};

struct kit_read {
	struct batch *batch;             /* NULL: refused */
	struct buf error;
	struct blob *body;               /* while it is ours */
	enum problem kind;
	int rc;
};

static inline struct kit_read kit_read(const struct wire_rules *rules, struct slice text)
{
	struct kit_read k = {.kind = PROBLEM_MAX};
	struct buf copy = {0};

	buf_add_slice(&copy, text);
	k.body = blob_from_buf(&copy);
	assert_non_null(k.body);
	k.rc = wire_read_batch(k.body, rules, &k.batch, &k.kind, &k.error);
	if (k.rc == 0)
		k.body = NULL;
	return k;
}

static inline void kit_done(struct kit_read *k)
{
	batch_unref(k->batch);
	blob_unref(k->body);
	buf_free(&k->error);
}
