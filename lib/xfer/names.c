/*
 * Look-ups of names, apart from the transfers that wait for them. libcurl makes
 * a thread and two descriptors for each look-up, and one look-up for each
 * transfer: ten thousand names at once would take the process down.
 *
 *   LIVE ── unknown name: xfer_names_allow() ends it ──► UNRESOLVED
 *                                                            │ xfer_names_wait()
 *   look-up of its origin:   queued ── begin() ──► runs ── settle()
 *                               │                            ├─ resolved: STARTING again
 *                               └─ nobody waits: forgotten   └─ else: DONE, for all of them
 *
 * Invariants
 *  1. libcurl alone says that a transfer needs a look-up. A numeric host, a name
 *     in its cache and a connection that is used again pass here at no cost.
 *  2. One look-up per origin; at most `max` run, oldest first. Only what the
 *     configuration names (transfers that are not guarded) does not queue, as
 *     those are few.
 *  3. A look-up that has begun runs to its end even if nobody waits any more:
 *     its thread cannot be stopped, so it keeps its place for as long (300 s at
 *     most, libcurl's limit). No transfer has a look-up of its own that a cancel
 *     would leave behind.
 *  4. The handle of a look-up gets no socket, so it ends with the name in
 *     libcurl's cache, or without.
 */
#include <arpa/inet.h>
#include <stdlib.h>

#include "xfer/xfer-i.h"

struct lookup {
	struct idmap_node node;          /* names.all; key: hash of the origin */
	struct list place;               /* names.queued or names.running */
	struct list waiters;             /* struct transfer */
	CURL *easy;                      /* in the multi; NULL: queued */
	struct slice origin;             /* in `text`, NUL-terminated */
	char text[];                     /* scheme and authority */
};

void xfer_names_init(struct names *names, unsigned max)
{
	struct rng rng;

	rng_seed_from_os(&rng);
	names->seed = rng_u64(&rng);
	names->max = MAX(max, 1u);
	list_init(&names->queued);
	list_init(&names->running);
}

/* As libcurl reads it: an address in an unusual notation is in the usual one. */
static struct slice origin_of(const struct transfer *t)
{
	char *url = NULL;
	size_t scheme;

	curl_easy_getinfo(t->easy, CURLINFO_EFFECTIVE_URL, &url);
	scheme = strcspn(url, ":");
	scheme += strspn(url + scheme, ":/");
	return (struct slice){url, scheme + strcspn(url + scheme, "/?#")};
}

static bool is_numeric(struct slice origin)
{
	const char *host = (const char *)memchr(origin.p, '/', origin.n) + 2;
	size_t n = strcspn(host, ":/?#");
	char text[INET_ADDRSTRLEN];
	struct in_addr addr;

	if (host[0] == '[')
		return true;
	if (n >= sizeof text)
		return false;
	memcpy(text, host, n);
	text[n] = '\0';
	return inet_pton(AF_INET, text, &addr) == 1;
}

bool xfer_names_allow(struct transfer *t)
{
	t->seen.resolving = true;
	t->seen.unresolved = !is_numeric(origin_of(t));
	return !t->seen.unresolved;
}

static curl_socket_t refuse_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
	(void)arg;
	(void)purpose;
	(void)a;
	return CURL_SOCKET_BAD;
}

static CURL *handle_new(const struct lookup *l)
{
	CURL *c = curl_easy_init();

	if (c == NULL)
		return NULL;
	/* A connection from the pool would be used without asking for a socket. */
	curl_easy_setopt(c, CURLOPT_FRESH_CONNECT, 1L);
	curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, refuse_socket);
	if (curl_easy_setopt(c, CURLOPT_URL, l->origin.p) == CURLE_OK && xfer_easy_confine(c))
		return c;
	curl_easy_cleanup(c);
	return NULL;
}

static struct lookup *lookup_get(struct names *names, struct slice origin)
{
	struct batch_id key = {.lo = slice_hash(origin, names->seed)};
	struct lookup *l;

	for (struct idmap_node *n = idmap_find(&names->all, key); n != NULL; n = idmap_next(n)) {
		l = container_of(n, struct lookup, node);
		if (slice_eq(l->origin, origin))
			return l;
	}
	l = xcalloc(1, sizeof(struct lookup) + origin.n + 1);
	memcpy(l->text, origin.p, origin.n);
	l->origin = (struct slice){l->text, origin.n};
	list_init(&l->waiters);
	list_append(&names->queued, &l->place);
	idmap_add(&names->all, &l->node, key);
	return l;
}

static void lookup_free(struct names *names, struct lookup *l)
{
	list_remove(&l->place);
	idmap_remove(&names->all, &l->node);
	curl_easy_cleanup(l->easy);
	free(l);
}

/* Its waiters share its end: asking again for each would be as slow for all. */
static void settle(struct xfer *x, struct lookup *l, CURLcode rc)
{
	struct list *node;

	while ((node = list_pop(&l->waiters)) != NULL) {
		struct transfer *t = list_entry(node, struct transfer, node);

		t->lookup = NULL;
		x->names.n_waiters--;
		if (rc == CURLE_COULDNT_CONNECT)
			xfer_start_soon(t);
		else
			xfer_give_up(t, rc);
	}
	lookup_free(&x->names, l);
}

static void begin(struct xfer *x, struct lookup *l)
{
	list_remove(&l->place);
	l->easy = handle_new(l);
	if (l->easy == NULL || !xfer_multi_add(x, l->easy)) {
		settle(x, l, CURLE_OUT_OF_MEMORY);
		return;
	}
	list_append(&x->names.running, &l->place);
	x->names.n_running++;
}

static void begin_what_may(struct xfer *x)
{
	while (x->names.n_running < x->names.max && !list_empty(&x->names.queued))
		begin(x, list_entry(x->names.queued.next, struct lookup, place));
}

void xfer_names_wait(struct transfer *t)
{
	struct xfer *x = t->x;
	struct lookup *l = lookup_get(&x->names, origin_of(t));

	t->state = TRANSFER_UNRESOLVED;
	t->seen.unresolved = false;
	t->lookup = l;
	list_append(&l->waiters, &t->node);
	x->names.n_waiters++;
	if (l->easy == NULL && !t->guarded)
		begin(x, l);
	else
		begin_what_may(x);
}

void xfer_names_leave(struct transfer *t)
{
	struct names *names = &t->x->names;
	struct lookup *l = STEAL_PTR(t->lookup);

	list_remove(&t->node);
	names->n_waiters--;
	if (l->easy == NULL && list_empty(&l->waiters))
		lookup_free(names, l);
}

void xfer_names_ended(struct xfer *x, CURL *easy, CURLcode rc)
{
	list_foreach(node, &x->names.running) {
		struct lookup *l = list_entry(node, struct lookup, place);

		if (l->easy != easy)
			continue;
		xfer_multi_remove(x, easy);
		x->names.n_running--;
		settle(x, l, rc);
		break;
	}
	begin_what_may(x);
}

void xfer_names_free(struct xfer *x)
{
	struct list *node;

	while ((node = list_pop(&x->names.running)) != NULL) {
		struct lookup *l = list_entry(node, struct lookup, place);

		xfer_multi_remove(x, l->easy);
		lookup_free(&x->names, l);
	}
	idmap_free(&x->names.all);
}
