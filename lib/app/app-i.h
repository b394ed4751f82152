/*
 * What the process shares with its shards. The main thread writes all of it
 * before the shards' threads start, and after they have ended.
 */
#pragma once

#include <pthread.h>

#include "app/app.h"
#include "routes/routes.h"

struct app;

struct shard {
	struct app *app;
	unsigned index;
	pthread_t thread;
	struct loop *loop;
	struct xfer *xfer;
	struct dispatch *dispatch;
	struct routes *routes;
	struct httpd *httpd;
	struct httpd *operations;        /* of one shard, if it was asked for; NULL */
	struct loop_msg lame_duck, drain, cancel, quiesce;
	struct loop_timer *quiet;        /* looks whether all connections are closed */
	int64_t quiet_by_us;
};

enum { OPERATIONS_CONNECTIONS = 64 };    /* at the address for operations */

struct app {
	struct config config;            /* as loaded, but for the caps; what it points at is borrowed */
	struct dispatch_group group;
	struct routes *peers[64];
	struct shard shards[64];
	unsigned n, threads;
	struct store *store;
	const char **services;           /* their names, for the store */
	struct metrics *metrics;
	int done_fd;                     /* eventfd: shards count up when a step is done */
	int signal_fd;
};

/* limits.c: lower limits.connections and limits.in_flight so that the process
 * gets along with `fds` file descriptors. False: they are as they were. */
bool limits_fit(struct config *c, uint64_t fds);

/* outbound.c: in the main thread. outbound_load(): NULL, and a line in *reterr; for a
 * reload, it changes nothing until outbound_use(). */
int outbound_init(const struct config *c) MUST_CHECK;    /* 0 or a negative errno */
struct xfer_tls_set *outbound_load(const struct config *c, struct buf *reterr) MUST_CHECK;
void outbound_use(const struct config *c, struct xfer_tls_set *take);

/* shard.c: made and freed by the main thread, while no thread runs. */
int shard_init(struct shard *s, struct app *app, unsigned index, int take_listen_fd);
int shard_open_operations(struct shard *s, int take_listen_fd);
void shard_close(struct shard *s);       /* ends its requests, which may tell other shards and the store */
void shard_free(struct shard *s);        /* after all are closed, and the store */
void *shard_run(void *arg);              /* the thread */

/* The steps of a stop, asked for by the main thread; each shard answers by
 * adding one to done_fd when it has finished `drain` or `quiesce`. */
void shard_lame_duck(struct shard *s);   /* say that it is not ready, and serve on: no answer of its own */
void shard_drain(struct shard *s);       /* until its last batch is done */
void shard_cancel(struct shard *s);      /* end all batches now: no answer of its own */
void shard_quiesce(struct shard *s);     /* until its connections are closed */
