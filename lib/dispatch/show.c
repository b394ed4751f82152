/*
 * What is shown of a batch from memory, to its own tenant.
 */
#include "dispatch-i.h"
#include "live-i.h"
#include "wire/wire.h"

/* What the store has is shown from there alone. */
static struct live *find_shown(struct dispatch *d, struct batch_id id)
{
	struct live *lv = live_find(d, id);

	return lv == NULL || lv->batch->durable ? NULL : lv;
}

static struct live *find_shown_to(struct dispatch *d, struct batch_id id, struct slice tenant)
{
	struct live *lv = find_shown(d, id);

	return lv == NULL || !slice_eq(lv->batch->tenant, tenant) ? NULL : lv;
}

bool dispatch_show(struct dispatch *d, struct batch_id id, struct slice tenant,
		   void (*show)(void *arg, const struct batch *b), void *arg)
{
	const struct live *lv = find_shown_to(d, id, tenant);

	if (lv == NULL)
		return false;
	show(arg, lv->batch);
	return true;
}

struct blob *dispatch_document(struct dispatch *d, struct batch_id id)
{
	struct live *lv = find_shown(d, id);
	int64_t begun_us = loop_now_us(d->env.loop), took_us;
	struct buf text = {0};

	if (lv == NULL)
		return NULL;
	if (lv->document == NULL || begun_us >= lv->document_until_us) {
		blob_unref(lv->document);
		wire_batch(&text, lv->batch, true);
		lv->document = blob_from_buf(&text);
		took_us = loop_now_us(d->env.loop) - begun_us;
		lv->document_until_us = begun_us + 10 * took_us;
	}
	return lv->document == NULL ? NULL : blob_ref(lv->document);
}

bool dispatch_shows(struct dispatch *d, struct batch_id id, struct slice tenant, const char **ret_outcome)
{
	const struct live *lv = find_shown_to(d, id, tenant);

	if (lv == NULL)
		return false;
	*ret_outcome = lv->batch->state == BATCH_DONE ? batch_outcome_str(lv->batch->outcome) : NULL;
	return true;
}
