/*
 * Inside the channels: what each kind of service supplies, and the parts they
 * share. Pure; any thread.
 */
#pragma once

#include "channel/channel.h"

enum { CHANNEL_TO_MAX = 2048 };

struct channel_kind {
	const char *(*check_to)(struct slice to);
	/* The URL that its origin is taken from. */
	struct slice (*origin_url)(const struct service *s, struct slice to);
	/* The request's URL, without its NUL. url_max: never longer than this. */
	size_t (*url_max)(const struct service *s, struct slice to);
	void (*url)(const struct service *s, struct slice to, struct buf *out);
	/* Fields that only this kind sets. */
	void (*exchange)(const struct service *s, struct exchange *ret);
};

extern const struct channel_kind channel_http, channel_webhook;

/* A URL's parts; slices of the parsed text. */
struct channel_url {
	struct slice scheme;             /* http or https, in the case given */
	struct slice host;               /* IPv6 with its brackets */
	unsigned port;                   /* the scheme's own if none was given */
};

/* NULL: an absolute http or https URL; else static text saying what is wrong. */
const char *channel_url_parse(struct slice s, struct channel_url *ret);

/* Every byte that is not "unreserved" (RFC 3986 section 2.3) as %XX. */
void channel_percent_encode(struct slice s, struct buf *out);

/* "v1,<base64 of HMAC-SHA256>" over "id.timestamp.payload" (Standard Webhooks
 * 1.0). False: no memory. */
bool channel_sign(struct slice secret, struct slice id, struct slice timestamp, struct slice payload,
		  struct buf *out) MUST_CHECK;
