#include "wire/wire.h"

#define ADD(out, literal) buf_add((out), (literal), sizeof(literal) - 1)

static void add_bool(struct buf *out, bool v)
{
	if (v)
		ADD(out, "true");
	else
		ADD(out, "false");
}

/* A name of ours: nothing in it needs an escape. */
static void add_name(struct buf *out, const char *name)
{
	buf_add_char(out, '"');
	buf_add_str(out, name);
	buf_add_char(out, '"');
}

static void add_error(struct buf *out, const struct item *it)
{
	enum code code = (enum code)it->code;

	ADD(out, ",\"error\":{\"code\":");
	add_name(out, code_str(code));
	ADD(out, ",\"message\":");
	if (it->http_status != 0) {
		ADD(out, "\"the downstream answered ");
		buf_add_u64(out, it->http_status);
		ADD(out, "\",\"http_status\":");
		buf_add_u64(out, it->http_status);
	} else {
		wire_string(out, slice_str(it->detail != NULL ? it->detail : code_message(code)));
	}
	if (it->retry_after_ms >= 0) {
		ADD(out, ",\"retry_after_ms\":");
		buf_add_i64(out, it->retry_after_ms);
	}
	buf_add_char(out, '}');
}

static void add_record(struct buf *out, const struct attempt_record *a)
{
	ADD(out, "{\"n\":");
	buf_add_u64(out, a->n);
	ADD(out, ",\"started_at\":");
	wire_time(out, a->started_unix_ms);
	ADD(out, ",\"duration_ms\":");
	buf_add_i64(out, a->duration_us / 1000);
	ADD(out, ",\"code\":");
	if (a->code == CODE_OK)
		ADD(out, "null");
	else
		add_name(out, code_str((enum code)a->code));
	ADD(out, ",\"delivered\":");
	add_name(out, delivered_str((enum delivered)a->delivered));
	ADD(out, ",\"phase\":");
	add_name(out, phase_str((enum phase)a->phase));
	ADD(out, ",\"http_status\":");
	if (a->http_status == 0)
		ADD(out, "null");
	else
		buf_add_u64(out, a->http_status);
	buf_add_char(out, '}');
}

/* Oldest first; the list is the other way round. */
static void add_attempt_log(struct buf *out, const struct item *it)
{
	const struct attempt_record *v[UINT8_MAX];
	size_t n = 0;

	for (const struct attempt_record *a = it->records; a != NULL && n < ARRAY_LEN(v); a = a->next)
		v[n++] = a;
	ADD(out, ",\"attempt_log\":[");
	while (n > 0) {
		add_record(out, v[--n]);
		if (n > 0)
			buf_add_char(out, ',');
	}
	buf_add_char(out, ']');
}

static void add_facts(struct buf *out, const struct item *it, bool final, bool ok)
{
	ADD(out, ",\"status\":");
	add_name(out, status_str((enum status)it->status));
	ADD(out, ",\"ok\":");
	if (final)
		add_bool(out, ok);
	else
		ADD(out, "null");
	ADD(out, ",\"delivered\":");
	add_name(out, delivered_str((enum delivered)it->delivered));
	ADD(out, ",\"retryable\":");
	add_bool(out, final && !ok && code_retryable((enum code)it->code));
	ADD(out, ",\"duplicate_risk\":");
	add_bool(out, it->duplicate_risk);
	ADD(out, ",\"attempts\":");
	/* Of one that was read back only the claim is known: it may not have started. */
	buf_add_u64(out, it->attempts + (unsigned)(it->batch->live != NULL && atomic_load(&it->in_flight)));
}

void wire_item(struct buf *out, const struct item *it)
{
	bool final = it->state == ITEM_FINAL;
	bool ok = it->delivered == DELIVERED_YES;

	ADD(out, "{\"index\":");
	buf_add_u64(out, it->index);
	ADD(out, ",\"id\":");
	if (it->id.p == NULL)
		ADD(out, "null");
	else
		wire_string(out, it->id);
	add_facts(out, it, final, ok);
	if (final && !ok && it->stop != STOP_NONE) {
		ADD(out, ",\"stop\":");
		add_name(out, stop_str((enum stop)it->stop));
	}
	if (it->message_id != NULL) {
		ADD(out, ",\"message_id\":");
		wire_string(out, slice_str(it->message_id));
	}
	if (final && it->attempts > 0) {
		ADD(out, ",\"latency_ms\":");
		buf_add_i64(out, it->latency_ms);
	}
	if (final && !ok)
		add_error(out, it);
	if (it->batch->policy.include_attempts)
		add_attempt_log(out, it);
	buf_add_char(out, '}');
}

void wire_counts(struct buf *out, const struct counts *c)
{
	ADD(out, "{\"total\":");
	buf_add_u64(out, c->total);
	ADD(out, ",\"succeeded\":");
	buf_add_u64(out, c->succeeded);
	ADD(out, ",\"failed\":");
	buf_add_u64(out, c->failed);
	ADD(out, ",\"indeterminate\":");
	buf_add_u64(out, c->indeterminate);
	ADD(out, ",\"not_attempted\":");
	buf_add_u64(out, c->not_attempted);
	ADD(out, ",\"pending\":");
	buf_add_u64(out, c->pending);
	buf_add_char(out, '}');
}

static void add_name_if(struct buf *out, bool known, const char *name)
{
	if (known)
		add_name(out, name);
	else
		ADD(out, "null");
}

static void add_time_if(struct buf *out, bool known, int64_t unix_ms)
{
	if (known)
		wire_time(out, unix_ms);
	else
		ADD(out, "null");
}

static void add_times(struct buf *out, const struct batch *b, bool done)
{
	ADD(out, ",\"created_at\":");
	wire_time(out, b->created_unix_ms);
	ADD(out, ",\"finished_at\":");
	add_time_if(out, done, b->finished_unix_ms);
	ADD(out, ",\"duration_ms\":");
	if (done)
		buf_add_i64(out, (b->finished_us - b->accepted_us) / 1000);
	else
		ADD(out, "null");
	ADD(out, ",\"expires_at\":");
	add_time_if(out, b->expires_unix_ms != 0, b->expires_unix_ms);
}

void wire_batch(struct buf *out, const struct batch *b, bool results)
{
	bool done = b->state == BATCH_DONE;
	char id[BATCH_ID_LEN + 1];

	batch_id_format(b->id, id);
	ADD(out, "{\"id\":");
	add_name(out, id);
	ADD(out, ",\"state\":");
	add_name(out, batch_state_str(b->state));
	ADD(out, ",\"outcome\":");
	add_name_if(out, done, batch_outcome_str(b->outcome));
	ADD(out, ",\"stop_reason\":");
	add_name_if(out, done, stop_reason_str(b->stop_reason));
	ADD(out, ",\"contract\":");
	add_name(out, contract_str(b->policy.contract));
	ADD(out, ",\"durability\":");
	add_name(out, b->durability);
	add_times(out, b, done);
	ADD(out, ",\"retry_of\":");
	batch_id_format(b->retry_of, id);
	add_name_if(out, (b->retry_of.hi | b->retry_of.lo) != 0, id);
	ADD(out, ",\"metadata\":");
	if (b->metadata.n > 0)
		buf_add_slice(out, b->metadata);
	else
		ADD(out, "{}");
	ADD(out, ",\"counts\":");
	wire_counts(out, &b->counts);
	if (results) {
		ADD(out, ",\"results\":[");
		for (uint32_t i = 0; i < b->n_items; i++) {
			if (i > 0)
				buf_add_char(out, ',');
			wire_item(out, &b->items[i]);
		}
		buf_add_char(out, ']');
	}
	buf_add_char(out, '}');
}
