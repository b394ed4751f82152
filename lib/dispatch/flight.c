/*
 * One attempt in flight: from its start to its outcome.
 */
#include "attempt-i.h"
#include "base/killpoint.h"
#include "lane-i.h"
#include "obs/log.h"
#include "pace-i.h"
#include "reload-i.h"

/* Why a downstream refused is for the operator alone, who asks by log.level. */
static void quote_answer(struct attempt *a, const struct answer *answer)
{
	enum { QUOTE_MAX = 256 };

	if (a->outcome.code != CODE_OK && log_wants(LOG_DEBUG))
		buf_add(&a->quote, answer->body.p, MIN(answer->body.n, (size_t)QUOTE_MAX));
}

static void on_transfer_done(void *arg, const struct answer *answer)
{
	struct attempt *a = arg;
	struct dispatch *d = a->at;
	struct lane *lane = a->lane;

	KILL_POINT("result_not_recorded");
	a->transfer = NULL;
	a->done_us = loop_now_us(d->env.loop);
	channel_classify(held_service(a), answer, (enum why)a->op.why, &a->message_id, &a->outcome);
	quote_answer(a, answer);
	held_done(d, a);
	lane_ended(d, lane, a);
	service_ended(d, a);
	meter_add(d->env.meter, METRIC_IN_FLIGHT, a->service, 0, -1);
	meter_add(d->env.meter, METRIC_QUEUED, 0, 0, 1);
	meter_add(d->env.meter, METRIC_ATTEMPTS, a->service, a->outcome.code, 1);
	meter_observe_us(d->env.meter, METRIC_ATTEMPT_SECONDS, a->service, 0, a->done_us - a->started_us);
	slots_wake(d);
	lane_dirty(d, lane);
	lane_give_back(d, a);
}

/* The dedupe key: the item's own, or "{batch id}.{item id}". */
static struct slice dedupe_key(struct dispatch *d, const struct attempt *a)
{
	char id[BATCH_ID_LEN + 1];

	if (a->item->dedupe_key.p != NULL)
		return a->item->dedupe_key;
	batch_id_format(a->batch, id);
	d->key.n = 0;
	buf_add(&d->key, id, BATCH_ID_LEN);
	buf_add_char(&d->key, '.');
	buf_add_slice(&d->key, a->item->id);
	return buf_slice(&d->key);
}

static struct transfer *transfer_new(struct dispatch *d, struct attempt *a)
{
	const struct item *it = a->item;
	struct channel_message m = {
		.to = it->to,
		.payload = it->payload,
		.id = dedupe_key(d, a),
		.unix_s = a->started_unix_ms / 1000,
		.trace = &it->batch->trace,
		.span_id = a->span_id,
	};
	struct exchange e;

	if (d->key.failed || !channel_encode(lane_service(d, a->lane), &m, &d->scratch, &e))
		return NULL;
	e.service = a->service;
	e.answer_limit = d->env.config->limits.answer_bytes;
	return xfer_start(d->env.xfer, &e, on_transfer_done, a);
}

/* `now_us` was read before the deadline and the gate were: the attempt's start
 * is the instant at which it still might. */
void flight_start(struct dispatch *d, struct lane *lane, struct attempt *a, int64_t now_us)
{
	int64_t timeout_us;

	a->started_us = now_us;
	a->started_unix_ms = loop_unix_ms(d->env.loop);
	timeout_us = a->started_us + a->timeout_us;
	if (timeout_us < a->op.deadline_us)
		op_set_deadline(&d->ops, &a->op, timeout_us, WHY_ATTEMPT_TIMEOUT);
	a->end = ATTEMPT_TRIED;
	held_start(d, a);
	atomic_store(&a->item->in_flight, true);
	lane_started(d, lane, a);
	service_started(d, a);
	meter_add(d->env.meter, METRIC_IN_FLIGHT, a->service, 0, 1);
	meter_add(d->env.meter, METRIC_QUEUED, 0, 0, -1);
	a->transfer = transfer_new(d, a);
	if (a->transfer == NULL)
		on_transfer_done(a, &(struct answer){.end = ANSWER_NO_CONNECTION,
						     .phase = PHASE_QUEUE,
						     .retry_after_ms = RETRY_AFTER_NONE,
						     .detail = "out of memory; nothing was sent"});
	KILL_POINT("attempt_started");
}
