/* Contract section 6: from the evidence of one attempt to its outcome. */
#include "channel/channel-i.h"

#include "wire/wire.h"

/* A longer one is no id, and there may be one for each of many items. */
enum { MESSAGE_ID_MAX = 255, MESSAGE_ID_KEPT = 1024 };

struct verdict {
	enum code code;
	enum delivered delivered;
};

/* Statuses with a meaning of their own; the others go by their class. */
static struct verdict by_status(const struct service *s, int status)
{
	switch (status) {
	case 400:
	case 422:
		return (struct verdict){CODE_INVALID_ITEM, DELIVERED_NO};
	case 401:
		return (struct verdict){CODE_UNAUTHENTICATED, DELIVERED_NO};
	case 403:
		return (struct verdict){CODE_PERMISSION_DENIED, DELIVERED_NO};
	case 404:
		return (struct verdict){CODE_RECIPIENT_NOT_FOUND, DELIVERED_NO};
	case 408:
	case 504:
		return (struct verdict){CODE_TIMEOUT, DELIVERED_MAYBE};
	case 410:
		return (struct verdict){CODE_RECIPIENT_GONE, DELIVERED_NO};
	case 413:
		return (struct verdict){CODE_PAYLOAD_TOO_LARGE, DELIVERED_NO};
	case 429:
		return (struct verdict){CODE_RATE_LIMITED, DELIVERED_NO};
	case 503:
		return (struct verdict){CODE_UNAVAILABLE,
					s->refuses_with_503 ? DELIVERED_NO : DELIVERED_MAYBE};
	}
	switch (status / 100) {
	case 2:
		return (struct verdict){CODE_OK, DELIVERED_YES};
	case 3:
	case 4:
		return (struct verdict){CODE_REJECTED, DELIVERED_NO};
	case 5:
		return (struct verdict){CODE_UPSTREAM_ERROR, DELIVERED_MAYBE};
	}
	return (struct verdict){CODE_BAD_RESPONSE, DELIVERED_MAYBE};
}

/* No status line arrived: only bytes that went out can have been delivered. */
static struct verdict by_end(const struct answer *a, enum why why)
{
	enum delivered sent = a->wrote ? DELIVERED_MAYBE : DELIVERED_NO;

	switch (a->end) {
	case ANSWER_FORBIDDEN:
		return (struct verdict){CODE_PERMISSION_DENIED, DELIVERED_NO};
	case ANSWER_NO_CONNECTION:
		return (struct verdict){CODE_CONNECT_FAILED, DELIVERED_NO};
	case ANSWER_LOST:
		return (struct verdict){a->wrote ? CODE_CONNECTION_LOST : CODE_CONNECT_FAILED, sent};
	case ANSWER_CANCELLED:
		return (struct verdict){why_is_deadline(why) ? CODE_TIMEOUT : CODE_ABORTED, sent};
	case ANSWER_COMPLETE:
	case ANSWER_MALFORMED:
		return (struct verdict){CODE_BAD_RESPONSE, DELIVERED_MAYBE};
	case ANSWER_INTERNAL:
		break;
	}
	return (struct verdict){CODE_INTERNAL, DELIVERED_MAYBE};
}

void channel_classify(const struct service *s, const struct answer *a, enum why why, struct buf *id,
		      struct outcome *ret)
{
	struct verdict v = a->status != 0 ? by_status(s, a->status) : by_end(a, why);

	*ret = (struct outcome){
		.code = v.code,
		.delivered = v.delivered,
		.phase = a->phase,
		.http_status = a->status,
		.retry_after_ms = code_retryable(v.code) ? a->retry_after_ms : RETRY_AFTER_NONE,
		.detail = a->status == 0 ? a->detail : NULL,
	};
	if (v.code == CODE_REJECTED && a->status < 400)
		ret->detail = "redirects are not followed";
	id->n = 0;
	if (v.code == CODE_OK && a->body.n > 0 && wire_message_id(a->body, id) && id->n <= MESSAGE_ID_MAX)
		ret->message_id = buf_slice(id);
	else if (id->cap > MESSAGE_ID_KEPT)
		buf_free(id);
}
