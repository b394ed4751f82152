/*
 * POST /v1/batches/{id}/retry: a new batch of some items of one that is done, as
 * a job.
 *
 *   here ──► owner ──in memory, and runs──────► here: 409
 *              ├────in memory, and done: wait until the store has it ──┐
 *              └────else────► store: read, choose, copy ◄──────────────┘
 *                                   └──────────► here: submitted
 */
#include <errno.h>
#include <stdlib.h>

#include "routes-i.h"

struct again {
	struct route_data data;
	struct loop_msg msg;
	struct dispatch_watch kept;      /* the owner's */
	struct store_read read;
	struct routes *here, *owner;
	struct http_request *req;        /* NULL: the client has gone */
	struct prefer prefer;
	struct blob *body;               /* NULL: empty */
	struct wire_retry *wish;
	int64_t max_deadline_ms;         /* of the configuration when it came: the store's thread needs it */
	char scope[SCOPE_MAX];
	struct key_text key;
	/* What the store's thread made of it: a batch, or why there is none. */
	struct batch *batch;
	int error;                       /* 0, -EAGAIN: it is not done, -EINVAL: see problem, -ENOMEM */
	enum problem kind;
	struct buf problem;
};

static const struct batch_id no_batch;

static struct slice body_of(const struct again *a)
{
	return a->body == NULL ? (struct slice){0} : (struct slice){a->body->p, a->body->n};
}

static void again_free(struct again *a)
{
	wire_retry_free(a->wish);
	blob_unref(a->body);
	batch_unref(a->batch);
	buf_free(&a->problem);
	free(a);
}

static void on_end(struct route_data *data, bool gone)
{
	struct again *a = container_of(data, struct again, data);

	(void)gone;
	a->req = NULL;
}

/* ---- in the store's thread ---- */

/* What the first one's caller gave is kept; the defaults of a synchronous batch are for
 * seconds. */
static void make_job(struct batch *b, int64_t max_deadline_ms)
{
	struct policy *p = &b->policy;

	if (!(p->given & GIVEN_DEADLINE))
		p->deadline_ms = MIN((int64_t)JOB_DEADLINE_MS, max_deadline_ms);
	if (!(p->given & GIVEN_MAX_ATTEMPTS))
		p->retry.max_attempts = job_retry.max_attempts;
	if (!(p->given & GIVEN_BASE))
		p->retry.base_ms = job_retry.base_ms;
	if (!(p->given & GIVEN_CAP))
		p->retry.cap_ms = job_retry.cap_ms;
	p->continue_on_disconnect = false;
	b->asynchronous = b->durable = true;
}

static void choose(struct again *a, const struct batch *first)
{
	uint32_t *chosen = malloc(MAX(first->n_items, 1u) * sizeof *chosen), n;

	a->error = chosen == NULL ? -ENOMEM
				  : wire_retry_choose(a->wish, first, chosen, &n, &a->kind, &a->problem);
	if (a->error == 0) {
		a->batch = batch_again(first, chosen, n);
		a->error = a->batch == NULL ? -ENOMEM : 0;
	}
	if (a->batch != NULL)
		make_job(a->batch, a->max_deadline_ms);
	free(chosen);
}

static void in_thread(struct store_read *read)
{
	struct again *a = container_of(read, struct again, read);
	struct batch *first = STEAL_PTR(read->batch);

	if (first->state == BATCH_DONE)
		choose(a, first);
	else
		a->error = -EAGAIN;
	batch_unref(first);
}

/* ---- the answer ---- */

/* Unless the key is known. */
static void refuse(const struct again *a, struct batch_id about, enum problem kind, struct blob *take_document)
{
	const struct replay_request known = {.routes = a->here, .req = a->req, .id = about, .prefer = a->prefer};

	refuse_unknown(&known, &a->key.claim, kind, take_document);
}

/* What the tenant may ask for can be less by now. */
static void bound_priority(struct again *a)
{
	unsigned most = a->here->env.config->tenants[auth_tenant(a->req)].max_priority;

	a->batch->policy.priority = MIN(a->batch->policy.priority, most);
}

static void submit(struct again *a)
{
	struct submission s = {.routes = a->here, .req = a->req, .take = a->batch, .prefer = a->prefer, .job = true};

	bound_priority(a);
	if (a->key.claim.key.n > 0 && !key_attach(a->batch, &a->key.claim)) {
		a->error = -ENOMEM;
		return;
	}
	a->batch = NULL;
	if (!submit_never_fits(&s, "#"))
		submit_batch(&s);
}

static void answer(struct again *a, enum store_answer answer)
{
	struct routes *r = a->here;

	if (answer == STORE_OK && a->error == 0)
		submit(a);
	if (answer == STORE_NOT_FOUND)
		refuse(a, no_batch, PROBLEM_NOT_FOUND, problem_document(PROBLEM_NOT_FOUND, NO_SUCH_BATCH));
	else if (answer != STORE_OK)
		answer_store_problem(r, a->req, answer);
	else if (a->error == -EAGAIN)
		answer_batch_problem(r, a->req, PROBLEM_NOT_FINISHED, a->read.id,
				     "it still runs: only what has its final result can be sent again");
	else if (a->error == -EINVAL)
		refuse(a, a->read.id, a->kind, blob_from_buf(&a->problem));
	else if (a->error < 0)
		answer_problem(r, a->req, PROBLEM_OVERLOADED, "no memory for this batch now; nothing was sent");
}

static void reply(struct again *a, enum store_answer said)
{
	if (a->req != NULL) {
		http_set_data(a->req, NULL);
		answer(a, said);
	}
	again_free(a);
}

static void on_live(struct loop_msg *msg)
{
	struct again *a = container_of(msg, struct again, msg);

	a->error = -EAGAIN;
	reply(a, STORE_OK);
}

static void on_read(struct store_op *op)
{
	reply(container_of(op, struct again, read.op), op->answer);
}

static void read_first(struct again *a)
{
	a->read = (struct store_read){
		.op = {.what = STORE_READ, .reply_to = a->here->env.loop, .on_done = on_read},
		.id = a->read.id, .tenant = a->read.tenant, .limit = UINT32_MAX, .letters = true, .in_thread = in_thread};
	store_ask(a->owner->env.store, &a->read.op);
}

static void on_kept(struct dispatch_watch *w, bool done)
{
	if (done)
		read_first(container_of(w, struct again, kept));
}

static void at_owner(struct loop_msg *msg)
{
	struct again *a = container_of(msg, struct again, msg);
	struct dispatch *d = a->owner->env.dispatch;
	const char *outcome;

	if (!dispatch_shows(d, a->read.id, a->read.tenant, &outcome)) {
		read_first(a);
	} else if (outcome != NULL) {
		a->kept.on_change = on_kept;
		dispatch_watch(d, &a->kept, a->read.id);
	} else {
		a->msg.run = on_live;
		loop_post(a->here->env.loop, &a->msg);
	}
}

/* ---- the request ---- */

/* False: the request was answered. */
static bool read_wish(struct again *a)
{
	struct slice body = body_of(a);
	int err;

	if (body.n > 0 && !negotiate_is_json(http_header(a->req, "Content-Type"))) {
		answer_problem(a->here, a->req, PROBLEM_UNSUPPORTED_MEDIA_TYPE, "send Content-Type: application/json");
		return false;
	}
	err = wire_read_retry(body, a->here->env.config->limits.json_depth, &a->wish, &a->kind, &a->problem);
	if (err == -EINVAL)
		answer_document(a->here, a->req, a->kind, blob_from_buf(&a->problem));
	else if (err < 0)
		answer_problem(a->here, a->req, PROBLEM_OVERLOADED, "no memory for this now; nothing was sent");
	return err == 0;
}

static void set_scope(struct again *a)
{
	_Static_assert(sizeof "POST /v1/batches//retry" + BATCH_ID_LEN <= SCOPE_MAX, "a scope has room");

	strcpy(a->scope, "POST /v1/batches/");
	batch_id_format(a->read.id, a->scope + strlen(a->scope));
	strcat(a->scope, "/retry");
}

static void run(struct routes *r, struct http_request *req, struct slice id)
{
	struct batch_id parsed;
	struct again *a;

	quota_show(req);
	if (!read_id(r, req, id, &parsed))
		return;
	a = xcalloc(1, sizeof *a);
	*a = (struct again){.data.on_end = on_end, .msg.run = at_owner, .here = r, .owner = batch_owner(r, parsed),
			    .req = req, .prefer = read_prefer(req), .body = http_take_body(req),
			    .max_deadline_ms = r->env.config->limits.max_deadline_ms};
	a->read.id = parsed;
	a->read.tenant = auth_tenant_name(r, req);
	set_scope(a);
	if (!key_read(r, req, slice_str(a->scope), body_of(a), &a->key) || !read_wish(a)) {
		again_free(a);
	} else if (dispatch_draining(r->env.dispatch)) {
		refuse(a, no_batch, PROBLEM_SHUTTING_DOWN, problem_document(PROBLEM_SHUTTING_DOWN, NO_NEW_BATCHES));
		again_free(a);
	} else {
		http_set_data(req, &a->data);
		loop_post(a->owner->env.loop, &a->msg);
	}
}

const struct route route_retry = {"/v1/batches/{id}/retry", HTTP_POST, run, .body_optional = true};
