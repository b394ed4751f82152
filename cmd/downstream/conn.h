/*
 * One client's connection. Owner: the server's list; its loop's thread.
 */
#pragma once

#include "server.h"

struct control;

enum conn_state {
	CONN_HEAD,
	CONN_BODY,
	CONN_WAITING,                    /* for the time of the answer, or for ever */
	CONN_WRITING,
	CONN_LEAVING,                    /* sent a FIN; reads until the peer's */
};

struct conn {
	struct list node;
	struct server *server;
	int fd;
	uint64_t id;
	enum conn_state state;
	bool dead;                       /* free it when the callback is done */
	bool blocked;                    /* the socket took no more */
	bool used;                       /* counted in server->connections */
	struct loop_fd *watch;
	unsigned watched;
	struct loop_timer *timer;        /* NULL: none was needed yet */
	struct buf in, out, body, answer_text;
	size_t in_at, out_at;            /* used up */
	/* The request. */
	struct request_body reader;
	struct behaviour plan;
	struct control *control;         /* not NULL: one of ours, not in the ledger */
	uint64_t seq;
	int64_t sent_us;                 /* nobody has its last byte before this */
	bool active;                     /* in the ledger, not ended */
	bool complete;                   /* whole */
	bool head_only, close_after, drip_due;
	/* Appends more to `out`; false: that was all. NULL: it is. */
	bool (*refill)(struct conn *c);
};

void conn_new(struct server *s, int take_fd);
void conn_free(struct conn *c);

/* For control.c: answer a request of ours, at once or later. */
void conn_reply(struct conn *c, int status, const char *type, struct slice body);
void conn_stream(struct conn *c, const char *type, bool (*refill)(struct conn *c));
void conn_wait(struct conn *c, int64_t until_us);
void conn_wake(struct conn *c);                  /* it was answered from outside its own callbacks */
