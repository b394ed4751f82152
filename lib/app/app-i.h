/*
 * What the process shares with its shards. The main thread writes all of it
 * before the shards' threads start, and after they have ended; what a reload
 * changes belongs to the main thread (app) and to the shard's (shard) alone.
 */
#pragma once

#include <pthread.h>

#include "app/app.h"
#include "app/export.h"
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
	struct config *config;           /* a reference: what routes and httpd use */
	struct httpd *operations;        /* of one shard, if it was asked for; NULL */
	struct loop_msg lame_duck, drain, cancel, quiesce;
	struct loop_msg learn, use;      /* the steps of a reload */
	struct config *next;             /* between them: a reference */
	struct httpd_tls *next_tls;
	struct loop_timer *quiet;        /* looks whether all connections are closed */
	int64_t quiet_by_us;
	struct exporter *exporter;       /* NULL: no traces are recorded */
	int64_t drain_by_us;             /* the end of the time that a stop may take */
	bool flushed;                    /* its last spans are gone */
	struct loop_timer *observe;      /* observe.c */
	int64_t observe_at_us;           /* when it should ring */
};

enum { OPERATIONS_CONNECTIONS = 64 };    /* at the address for operations */

struct app {
	const char *config_path;         /* NULL: there is no file */
	struct config *config;           /* a reference: as loaded, but for the caps */
	struct httpd_tls *tls;           /* a reference; NULL: plain text */
	uint64_t fds;                    /* descriptors that the process may have */
	struct dispatch_group group;
	struct routes *peers[SHARDS_MAX];
	struct shard shards[SHARDS_MAX];
	unsigned n, threads;
	bool stopping;
	struct store *store;
	struct metrics *metrics;
	int done_fd;                     /* eventfd: shards count up when a step is done */
	int signal_fd;
};

/* limits.c: the descriptors without which it would answer nobody: its own, and of
 * each shard one caller and one attempt. */
uint64_t limits_fewest_fds(const struct config *c);

/* Lower limits.connections and limits.in_flight so that the process
 * gets along with `fds` file descriptors. False: they are as they were. */
bool limits_fit(struct config *c, uint64_t fds);

/* The same where limits.connections has to stay as it is. */
void limits_fit_in_flight(struct config *c, uint64_t fds);

/* Lower limits.body_bytes to what one of so many shards can ever have room for. */
void limits_fit_bodies(struct config *c, unsigned shards);

/* app.c: wait until `want` shards have reported (counted in *seen), a signal arrives if
 * `signals`, or the time is up (limit_ms < 0: never). True: all have reported. */
bool app_wait(struct app *app, uint64_t *seen, uint64_t want, bool signals, int64_t limit_ms);

/* reload.c: in the main thread, while the shards run. */
void app_reload(struct app *app);
void app_warn_of_tenants(const struct config *c);         /* of those that no key has */
void app_refuse_reload(struct app *app, const char *why);
struct store_limits app_store_limits(const struct config *c);
const char **app_service_names(const struct config *c);      /* to be freed; the names are the configuration's */
bool app_read_tls(const struct config *c, struct httpd_tls **ret, struct buf *reterr) MUST_CHECK;     /* NULL: plain text */
void app_hide_secrets(const struct config *c);               /* no core dump has them */
/* outbound.c: in the main thread. outbound_load(): NULL, and a line in *reterr; for a
 * reload, it changes nothing until outbound_use(). */
int outbound_init(const struct config *c) MUST_CHECK;    /* 0 or a negative errno */
struct xfer_tls_set *outbound_load(const struct config *c, struct buf *reterr) MUST_CHECK;
void outbound_use(const struct config *c, struct xfer_tls_set *take);
/* observe.c: from here on the shard measures its loop; s->observe is to be freed. */
void observe_start(struct shard *s);

/* shard.c: made and freed by the main thread, while no thread runs. */
int shard_init(struct shard *s, struct app *app, unsigned index, int take_listen_fd);
int shard_open_operations(struct shard *s, int take_listen_fd);
void shard_close(struct shard *s);       /* ends its requests, which may tell other shards and the store */
void shard_free(struct shard *s);        /* after all are closed, and the store */
void *shard_run(void *arg);              /* the thread */

/* The steps of a reload, asked for by the main thread; each shard adds one to done_fd
 * after each. First all learn the configuration, then they use it: so none is ever
 * given an item for a service that it does not know. */
void shard_learn(struct shard *s, struct config *c);
void shard_use(struct shard *s, struct httpd_tls *tls);

/* The steps of a stop, asked for by the main thread; each shard answers by
 * adding one to done_fd when it has finished `drain` or `quiesce`. */
void shard_lame_duck(struct shard *s);   /* say that it is not ready, and serve on: no answer of its own */
void shard_drain(struct shard *s);       /* until its last batch is done */
void shard_cancel(struct shard *s);      /* end all batches now: no answer of its own */
void shard_quiesce(struct shard *s);     /* until its connections are closed */
