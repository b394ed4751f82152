/*
 * Who waits for which name, in one shard. libcurl's own look-ups would be a
 * thread and two descriptors for each transfer: ten thousand names at once would
 * take the process down. So it is told every address, and looks nothing up.
 *
 *   LIVE ── unknown name: xfer_names_allow() ends it ──► UNRESOLVED
 *                                                            │ xfer_names_wait()
 *                               the look-up of its host ─────┤ settle()
 *                                                            ├─ found: told to libcurl; STARTING again
 *                                                            └─ else: DONE, for all who wait
 *
 * Invariants
 *  1. libcurl alone says that a transfer needs a look-up. A numeric host, a name
 *     in its cache and a connection that is used again pass here at no cost. Its
 *     cache forgets after a second, so that the resolver's times count.
 *  2. One question to the resolver per service and host. It is withdrawn when
 *     nobody waits any more, or freed by its answer if that is on its way.
 *  3. A transfer is told an address TOLD_MAX times at most: the second it is in
 *     the cache may just end, but that does not happen again and again.
 */
#include <arpa/inet.h>
#include <stdlib.h>
#include <strings.h>

#include "xfer/xfer-i.h"

enum { TOLD_MAX = 3 };

struct lookup {
	struct idmap_node node;          /* names.all; key: hash of the host */
	struct list place;               /* names.asked */
	struct list waiters;             /* struct transfer */
	struct xfer *x;
	struct ask ask;
	size_t host_n;
	char host[];
};

/* A host as libcurl reads it: an address in an unusual notation is in the usual one. */
struct host {
	char *name, *port;
};

static void host_free(struct host *h)
{
	curl_free(h->name);
	curl_free(h->port);
}

/* False: no memory. */
static bool host_of(const struct transfer *t, struct host *ret)
{
	*ret = (struct host){0};
	if (curl_url_get(t->url, CURLUPART_HOST, &ret->name, 0) != CURLUE_OK)
		return false;
	for (char *p = ret->name; *p != '\0'; p++)
		*p = *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p;
	return curl_url_get(t->url, CURLUPART_PORT, &ret->port, CURLU_DEFAULT_PORT) == CURLUE_OK;
}

/* libcurl knows what a number means, and that localhost never leaves the host. */
static bool needs_no_lookup(const char *host)
{
	static const char local[] = "localhost";
	size_t n = strlen(host), tail = sizeof local - 1;
	struct in_addr addr;

	if (host[0] == '[' || inet_pton(AF_INET, host, &addr) == 1)
		return true;
	return n >= tail && strcmp(host + n - tail, local) == 0 && (n == tail || host[n - tail - 1] == '.');
}

void xfer_names_init(struct names *names)
{
	struct rng rng;

	rng_seed_from_os(&rng);
	names->seed = rng_u64(&rng);
	list_init(&names->asked);
}

bool xfer_names_allow(struct transfer *t)
{
	struct host h CLEANUP(host_free);

	t->seen.resolving = true;
	t->seen.unresolved = !host_of(t, &h) || !needs_no_lookup(h.name);
	return !t->seen.unresolved;
}

static void lookup_free(struct lookup *l)
{
	struct names *names = &l->x->names;

	list_remove(&l->place);
	names->n_asked--;
	idmap_remove(&names->all, &l->node);
	blob_unref(l->ask.addresses);
	free(l);
}

/* Tell libcurl, for a second: what it would find in its cache otherwise. False: no memory. */
static bool tell(struct transfer *t, const struct lookup *l)
{
	struct host h CLEANUP(host_free);

	t->addresses.n = 0;
	if (!host_of(t, &h))
		return false;
	buf_printf(&t->addresses, "+%s:%s:%s", h.name, h.port, l->ask.addresses->p);
	buf_add_char(&t->addresses, '\0');
	t->resolve = (struct curl_slist){.data = t->addresses.p};
	t->seen.told++;
	return !t->addresses.failed && curl_easy_setopt(t->easy, CURLOPT_RESOLVE, &t->resolve) == CURLE_OK;
}

static void go_on(struct transfer *t, const struct lookup *l)
{
	if (l->ask.result != LOOKUP_FOUND) {
		t->seen.name_fault = lookup_detail(l->ask.result);
		xfer_give_up(t, CURLE_COULDNT_RESOLVE_HOST);
	} else if (t->seen.told == TOLD_MAX) {
		t->seen.name_fault = "the host's addresses went out of date before they were used";
		xfer_give_up(t, CURLE_COULDNT_RESOLVE_HOST);
	} else if (tell(t, l)) {
		xfer_start_soon(t);
	} else {
		xfer_give_up(t, CURLE_OUT_OF_MEMORY);
	}
}

/* Its waiters share its end: asking again for each would be as slow for all. */
static void settle(struct lookup *l)
{
	struct list *node;

	while ((node = list_pop(&l->waiters)) != NULL) {
		struct transfer *t = list_entry(node, struct transfer, node);

		t->lookup = NULL;
		l->x->names.n_waiters--;
		go_on(t, l);
	}
	lookup_free(l);
}

static void on_answer(struct loop_msg *msg)
{
	settle(container_of(msg, struct lookup, ask.msg));
}

static struct lookup *find(struct names *names, struct batch_id key, const struct transfer *t, struct slice host)
{
	for (struct idmap_node *n = idmap_find(&names->all, key); n != NULL; n = idmap_next(n)) {
		struct lookup *l = container_of(n, struct lookup, node);

		if (l->ask.service == t->service && l->ask.configured == !t->guarded &&
		    slice_eq((struct slice){l->host, l->host_n}, host))
			return l;
	}
	return NULL;
}

static struct lookup *lookup_new(struct transfer *t, struct batch_id key, struct slice host)
{
	struct xfer *x = t->x;
	struct lookup *l = xcalloc(1, sizeof *l + host.n + 1);

	memcpy(l->host, host.p, host.n);
	l->host_n = host.n;
	l->x = x;
	l->ask = (struct ask){.msg.run = on_answer, .loop = x->loop, .service = t->service, .configured = !t->guarded};
	list_init(&l->waiters);
	list_append(&x->names.asked, &l->place);
	x->names.n_asked++;
	idmap_add(&x->names.all, &l->node, key);
	return l;
}

static void wait_for(struct transfer *t, struct lookup *l)
{
	t->lookup = l;
	list_append(&l->waiters, &t->node);
	t->x->names.n_waiters++;
}

void xfer_names_wait(struct transfer *t)
{
	struct names *names = &t->x->names;
	struct host h CLEANUP(host_free);
	struct batch_id key;
	struct lookup *l;

	t->state = TRANSFER_UNRESOLVED;
	t->seen.unresolved = false;
	if (!host_of(t, &h)) {
		xfer_give_up(t, CURLE_OUT_OF_MEMORY);
		return;
	}
	key = (struct batch_id){.lo = slice_hash(slice_str(h.name), names->seed)};
	l = find(names, key, t, slice_str(h.name));
	if (l != NULL) {
		wait_for(t, l);
		return;
	}
	l = lookup_new(t, key, slice_str(h.name));
	wait_for(t, l);
	if (resolver_ask(xfer_resolver, &l->ask, slice_str(h.name)))
		settle(l);
}

void xfer_names_leave(struct transfer *t)
{
	struct lookup *l = STEAL_PTR(t->lookup);

	list_remove(&t->node);
	t->x->names.n_waiters--;
	if (list_empty(&l->waiters) && resolver_leave(xfer_resolver, &l->ask))
		lookup_free(l);
}

void xfer_names_free(struct xfer *x)
{
	list_foreach(node, &x->names.asked) {
		struct lookup *l = list_entry(node, struct lookup, place);

		(void)!resolver_leave(xfer_resolver, &l->ask);
		lookup_free(l);
	}
	idmap_free(&x->names.all);
}
