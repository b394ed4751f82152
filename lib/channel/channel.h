/*
 * A channel is what one kind of service knows: an item becomes a request, an
 * answer becomes an outcome. Pure: time is an argument. The only user of
 * libcrypto (signatures).
 *
 * Standard Webhooks 1.0 (https://www.standardwebhooks.com) for the webhook-*
 * headers; W3C Trace Context for traceparent.
 */
#pragma once

#include "config/config.h"
#include "core/exchange.h"
#include "core/batch.h"

/* NULL: `to` fits this service; else static text that says what is wrong. */
const char *channel_check_to(const struct service *s, struct slice to);

/* The origin that a request for `to` connects to, "scheme://host:port" in lower
 * case: the lane's key. `to` must have passed channel_check_to(). */
void channel_origin(const struct service *s, struct slice to, struct buf *out);

struct channel_message {
	struct slice to, payload;
	struct slice id;                 /* webhook-id: the dedupe key */
	int64_t unix_s;                  /* webhook-timestamp */
	const struct trace *trace;
	uint64_t span_id;                /* of this attempt */
};

/* Where an encoded request lives until xfer_start() has copied it. Reusable. */
struct channel_scratch {
	struct buf bytes;
	const char **lines;
	size_t cap;
};
void channel_scratch_free(struct channel_scratch *s);

/* False: no memory. `ret` points into the scratch, the service and the payload;
 * its answer_limit is the caller's to set. */
bool channel_encode(const struct service *s, const struct channel_message *m,
		    struct channel_scratch *scratch, struct exchange *ret) MUST_CHECK;

/* Contract section 6. `why`: why the attempt was cancelled, WHY_NONE if it was
 * not. Evidence decides `delivered`; a status line beats a cancel. The message
 * id, if any and of 255 bytes at most, is put into `id` and borrowed from there. */
void channel_classify(const struct service *s, const struct answer *a, enum why why, struct buf *id,
		      struct outcome *ret);
