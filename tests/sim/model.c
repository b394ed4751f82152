/*
 * The contract's tables and rules, written a second time from its text, so that
 * the dispatcher is not its own judge. Slow and plain on purpose.
 */
#include "sim.h"

#define BIT(c) (UINT32_C(1) << CODE_##c)

bool model_retryable(enum code c)
{
	const uint32_t yes = BIT(RATE_LIMITED) | BIT(CONNECT_FAILED) | BIT(CIRCUIT_OPEN) |
			     BIT(NOT_ATTEMPTED) | BIT(UNAVAILABLE) | BIT(TIMEOUT) |
			     BIT(CONNECTION_LOST) | BIT(UPSTREAM_ERROR) | BIT(ABORTED) | BIT(INTERRUPTED);

	return yes >> c & 1;
}

enum status model_status(enum delivered d, unsigned attempts, enum code c)
{
	if (d == DELIVERED_YES)
		return STATUS_SUCCEEDED;
	if (d == DELIVERED_MAYBE)
		return STATUS_INDETERMINATE;
	return attempts > 0 || !model_retryable(c) ? STATUS_FAILED : STATUS_NOT_ATTEMPTED;
}

static int64_t add_ms(int64_t us, int64_t ms)
{
	return ms > (INT64_MAX - us) / 1000 ? INT64_MAX : us + ms * 1000;
}

int64_t model_deadline_us(const struct sim_batch *b)
{
	return add_ms(b->accepted_us, b->want.deadline_ms);
}

int64_t model_ttl_us(const struct sim_batch *b, const struct sim_item *it)
{
	return it->ttl_ms == HEAP_NONE ? INT64_MAX : add_ms(b->accepted_us, it->ttl_ms);
}

/* Times that were written down are those of the wall clock, in milliseconds. */
int64_t model_slack_us(const struct sim_batch *b)
{
	return b->reloaded ? 2000 : 0;
}

int64_t model_timeout_us(const struct sim_batch *b, const struct sim_item *it)
{
	int64_t ms = b->want.attempt_timeout_ms;

	return 1000 * (ms != 0 ? ms : sim.services[it->service].attempt_timeout_ms);
}

/* What a request connects to: up to the first slash behind the scheme's two. */
struct slice model_origin(const struct sim_item *it)
{
	const struct service *s = &sim.services[it->service];
	const char *url = s->kind == SERVICE_HTTP ? s->url : it->to;
	const char *host = strstr(url, "//") + 2;

	return (struct slice){url, (size_t)(host - url) + strcspn(host, "/")};
}

struct slice model_tenant(unsigned tenant)
{
	return slice_str(sim.config.tenants[tenant].name);
}

void model_key(const struct sim_batch *b, const struct sim_item *it, char out[112])
{
	char id[BATCH_ID_LEN + 1];

	if (it->key[0] != '\0') {
		strcpy(out, it->key);
		return;
	}
	batch_id_format(b->id, id);
	strcpy(out, id);
	strcat(out, ".");
	strcat(out, it->id);
}

static struct verdict verdict(uint32_t codes, enum delivered d)
{
	return (struct verdict){codes, d};
}

static struct verdict judge_status(const struct service *s, int status)
{
	static const struct {
		int status;
		uint32_t codes;
		enum delivered delivered;
	} table[] = {
		{400, BIT(INVALID_ITEM), DELIVERED_NO},
		{401, BIT(UNAUTHENTICATED), DELIVERED_NO},
		{403, BIT(PERMISSION_DENIED), DELIVERED_NO},
		{404, BIT(RECIPIENT_NOT_FOUND), DELIVERED_NO},
		{408, BIT(TIMEOUT), DELIVERED_MAYBE},
		{410, BIT(RECIPIENT_GONE), DELIVERED_NO},
		{413, BIT(PAYLOAD_TOO_LARGE), DELIVERED_NO},
		{422, BIT(INVALID_ITEM), DELIVERED_NO},
		{429, BIT(RATE_LIMITED), DELIVERED_NO},
		{504, BIT(TIMEOUT), DELIVERED_MAYBE},
	};

	if (status == 503)
		return verdict(BIT(UNAVAILABLE), s->refuses_with_503 ? DELIVERED_NO : DELIVERED_MAYBE);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		if (table[i].status == status)
			return verdict(table[i].codes, table[i].delivered);
	}
	if (status >= 200 && status < 300)
		return verdict(BIT(OK), DELIVERED_YES);
	if (status >= 500 && status < 600)
		return verdict(BIT(UPSTREAM_ERROR), DELIVERED_MAYBE);
	return verdict(BIT(REJECTED), DELIVERED_NO);
}

bool model_from_outside(const struct sim_batch *b, const struct request *r)
{
	const unsigned local = 1u << WHY_DEADLINE;

	return r->from_outside || sim.shut_down || ((b->end.reasons & ~local) != 0 && b->end.at_us <= r->cancel_us);
}

/* Was it a deadline or an end from outside? Before its deadline only the latter
 * can have been; from then on whichever came first to the attempt. */
static uint32_t judge_cancel(const struct sim_batch *b, const struct request *r)
{
	if (r->cancel_us < r->deadline_us - model_slack_us(b))
		return BIT(ABORTED);
	if (r->cancel_us < r->deadline_us || model_from_outside(b, r))
		return BIT(TIMEOUT) | BIT(ABORTED);
	return BIT(TIMEOUT);
}

struct verdict model_judge(const struct sim_batch *b, const struct request *r)
{
	const struct answer *a = &r->answer;
	enum delivered sent = a->wrote ? DELIVERED_MAYBE : DELIVERED_NO;

	if (r->interrupted)
		return verdict(BIT(INTERRUPTED), DELIVERED_MAYBE);
	if (!r->recorded)
		return verdict(BIT(CONNECT_FAILED), DELIVERED_NO);
	if (a->status != 0)
		return judge_status(&sim.services[b->items[r->item].service], a->status);
	switch (a->end) {
	case ANSWER_FORBIDDEN:
		return verdict(BIT(PERMISSION_DENIED), DELIVERED_NO);
	case ANSWER_NO_CONNECTION:
		return verdict(BIT(CONNECT_FAILED), DELIVERED_NO);
	case ANSWER_LOST:
		return verdict(a->wrote ? BIT(CONNECTION_LOST) : BIT(CONNECT_FAILED), sent);
	case ANSWER_CANCELLED:
		return verdict(judge_cancel(b, r), sent);
	case ANSWER_COMPLETE:
	case ANSWER_MALFORMED:
		return verdict(BIT(BAD_RESPONSE), DELIVERED_MAYBE);
	case ANSWER_INTERNAL:
		break;
	}
	return verdict(BIT(INTERNAL), DELIVERED_MAYBE);
}

/* What the breaker hears of it: whose fault was it? A timeout is the downstream's
 * only if it had as long as its service is granted. */
static enum said said_by_status(int status)
{
	if (status == 429)
		return SAID_NEITHER;
	return status >= 500 || status == 408 ? SAID_FAILURE : SAID_SUCCESS;
}

enum said model_said(const struct sim_batch *b, const struct request *r)
{
	const struct service *s = &sim.services[b->items[r->item].service];
	const struct answer *a = &r->answer;
	uint32_t codes;

	if (a->status != 0)
		return said_by_status(a->status);
	switch (a->end) {
	case ANSWER_CANCELLED:
		codes = judge_cancel(b, r);
		if (!(codes & BIT(TIMEOUT)) || r->done_us - r->start_us < 1000 * s->attempt_timeout_ms)
			return SAID_NEITHER;
		return codes == BIT(TIMEOUT) ? SAID_FAILURE : SAID_UNCLEAR;
	case ANSWER_FORBIDDEN:
	case ANSWER_INTERNAL:
		return SAID_NEITHER;
	case ANSWER_NO_CONNECTION:
	case ANSWER_LOST:
	case ANSWER_COMPLETE:
	case ANSWER_MALFORMED:
		break;
	}
	return SAID_FAILURE;
}

/* The longest wait that the policy has after this many tries. */
int64_t model_backoff_ms(const struct sim_batch *b, const struct sim_item *it)
{
	int64_t bound = b->want.retry.base_ms;

	for (unsigned i = 1; i < it->starts + it->refused; i++)
		bound = MIN(bound * 2, b->want.retry.cap_ms);
	return MIN(bound, b->want.retry.cap_ms);
}

/* What the downstream wished after the last try. */
int64_t model_wish_ms(const struct sim_item *it)
{
	return it->refused_last || it->last < 0 ? 0 : MAX(sim.requests[it->last].answer.retry_after_ms, 0);
}

/* The maximum over the item's first `up_to` attempts; -1: all of them. */
enum delivered model_delivered(const struct sim_item *it, const struct sim_batch *b, int up_to)
{
	enum delivered most = DELIVERED_NO;

	for (int i = it->first; i >= 0 && up_to != 0; i = sim.requests[i].next, up_to--)
		most = MAX(most, model_judge(b, &sim.requests[i]).delivered);
	return most;
}

bool model_may_shed(const struct sim_batch *b)
{
	return sim.crowded && b->want.contract == CONTRACT_BEST_EFFORT && (!b->asynchronous || b->want.continue_on_disconnect);
}

bool model_shed(const struct sim_batch *b, const struct item *it)
{
	return model_may_shed(b) && it->state == ITEM_FINAL && it->attempts == 0 && it->stop == STOP_SHED;
}
