/*
 * Some of a batch's items, as text. It is made where they are: in the owner
 * shard's loop while the store has not got them, in the store's thread otherwise.
 *
 *   here ──ask──► owner ──live, and in memory alone──► here
 *                   └─────────────► store ───────────► here
 *
 * Owner: the request that embeds it; it stays alive until on_done ran, on the
 * loop of `here`. In between it belongs to whoever makes the text.
 */
#pragma once

#include "routes-i.h"

enum page_form {
	PAGE_ARRAY,                      /* result objects, commas between them; by index */
	PAGE_LINES,                      /* result objects, a line each; by index */
	PAGE_EVENTS,                     /* `item` events; in the order of settling */
};

struct page {
	struct loop_msg msg;             /* private */
	struct store_read read;          /* private */
	struct routes *here;
	struct batch_id id;
	struct slice tenant;             /* to another than its own the batch is not found */
	enum page_form form;
	uint32_t from;                   /* the first index, or the first place in the order of settling */
	uint32_t limit;
	unsigned statuses;               /* 1 << enum status each; 0: all */
	void (*on_done)(struct page *p);
	/* The answer. Nothing below is there unless it is STORE_OK. */
	enum store_answer answer;
	struct buf items;                /* `failed`: no memory */
	struct buf head;                 /* the batch without its results */
	enum batch_state state;
	enum batch_outcome outcome;
	struct counts counts;
	uint32_t n;                      /* items in the text */
	bool more;                       /* there are others behind them: ask again ... */
	uint32_t next;                   /* ... from here */
};

/* Ask for the items from `from` on. What the page had is forgotten. */
void page_ask(struct page *p);
void page_done(struct page *p);          /* frees what it has */

/* A page of events for whoever of this shard wants the same one: readers of a
 * batch that settles ask together. Embed it. on_page comes once, from the loop,
 * never inside page_join(); the page is valid in the call alone, and nothing older
 * than that page_join(). */
struct page_rider {
	struct list node;
	struct slice tenant;
	void (*on_page)(struct page_rider *r, const struct page *p);
};
void page_rider_init(struct page_rider *r, struct slice tenant,
		     void (*on_page)(struct page_rider *r, const struct page *p));
void page_join(struct routes *here, struct page_rider *r, struct batch_id id, uint32_t from);
void page_leave(struct page_rider *r);   /* also where it did not join, or was told */

/* One event of an event stream. */
void page_event(struct buf *out, const char *name, uint32_t seq, struct slice data);
