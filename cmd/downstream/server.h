/*
 * The program's state: one listener, its connections, the ledger, the scripts.
 * One thread, one loop.
 */
#pragma once

#include "behaviour.h"
#include "ledger.h"
#include "loop/loop.h"
#include "script.h"

/* Nothing here goes before anything else. The loop asks the kernel again every
 * 500 us of work of normal priority; with a thousand ready sockets that costs
 * speed. */
#define SERVER_PRIORITY LOOP_URGENT

struct server {
	struct loop *loop;
	int listen_fd;
	struct loop_fd *listener;        /* NULL: no descriptor was left; waits for a close */
	struct list conns;
	struct list waiters;             /* struct control: parked long polls */
	struct loop_call check_waiters;
	struct ledger ledger;
	struct scripts scripts;
	struct spec spec;                /* scratch */
	uint64_t accepted;               /* sockets since the start */
	uint64_t sockets;                /* open */
	uint64_t connections;            /* open, and brought a request that is in the ledger */
	uint64_t malformed;              /* requests that were no HTTP */
};

void server_init(struct server *s, struct loop *l, int take_listen_fd);
void server_done(struct server *s);
void server_listen(struct server *s);            /* again, after a descriptor became free */

/* What to do with a request. `text`: the bytes of `header=` and of `body=`. */
void server_choose(struct server *s, const struct request *r, struct behaviour *ret, struct buf *text);

/* Something that a long poll may be waiting for has changed. */
void server_changed(struct server *s);
