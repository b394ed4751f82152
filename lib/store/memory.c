/*
 * Invariants
 *  1. Every entry is in `by_id` and in `by_age`, oldest first.
 *  2. `bytes` is the sum of the documents' sizes, and at most max_bytes once an
 *     operation has returned, but for a single document that is larger.
 *  3. The lock guards all of it; nothing is called back under it.
 */
#include <pthread.h>
#include <stdlib.h>

#include "base/idmap.h"
#include "store/store.h"

struct entry {
	struct idmap_node node;
	struct list age;
	struct store_record record;
};

struct store {
	pthread_mutex_t lock;
	struct idmap by_id;
	struct list by_age;
	size_t bytes, max_bytes;
};

struct store *store_new_memory(size_t max_bytes)
{
	struct store *s = xcalloc(1, sizeof *s);

	pthread_mutex_init(&s->lock, NULL);
	list_init(&s->by_age);
	s->max_bytes = max_bytes;
	return s;
}

static void drop(struct store *s, struct entry *e)
{
	idmap_remove(&s->by_id, &e->node);
	list_remove(&e->age);
	s->bytes -= e->record.document->n;
	blob_unref(e->record.document);
	free(e);
}

void store_free(struct store *s)
{
	if (s == NULL)
		return;
	list_foreach(node, &s->by_age)
		drop(s, list_entry(node, struct entry, age));
	idmap_free(&s->by_id);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

static struct entry *oldest(struct store *s)
{
	return list_entry(s->by_age.next, struct entry, age);
}

void store_put(struct store *s, const struct store_record *take)
{
	struct entry *e = xcalloc(1, sizeof *e);

	e->record = *take;
	pthread_mutex_lock(&s->lock);
	idmap_add(&s->by_id, &e->node, take->id);
	list_append(&s->by_age, &e->age);
	s->bytes += take->document->n;
	while (s->bytes > s->max_bytes && oldest(s) != e)
		drop(s, oldest(s));
	pthread_mutex_unlock(&s->lock);
}

static void answer(struct loop_msg *msg)
{
	struct store_get *g = container_of(msg, struct store_get, msg);

	g->on_done(g);
}

void store_get(struct store *s, struct store_get *g)
{
	struct idmap_node *node;

	pthread_mutex_lock(&s->lock);
	while (!list_empty(&s->by_age) && oldest(s)->record.expires_unix_ms <= g->now_unix_ms)
		drop(s, oldest(s));
	node = idmap_find(&s->by_id, g->id);
	g->found = node != NULL;
	if (g->found) {
		g->record = container_of(node, struct entry, node)->record;
		blob_ref(g->record.document);
	}
	pthread_mutex_unlock(&s->lock);
	g->msg.run = answer;
	loop_post(g->reply_to, &g->msg);
}
