/*
 * Start: metrics, store, one listening socket and one shard each, the unfinished
 *        batches of the process before, threads.
 * Stop:  lame duck (not ready, yet it serves, for lame_duck_ms) ─► drain (no new
 *        batches; running ones get drain_ms) ─► cancel what is left (stop: shutdown),
 *        and wait for no broken disk ─► let the answers out ─► stop the loops ─►
 *        read what they have not ─► free.
 * SIGHUP in between: reload.c.
 * A second signal cuts the lame duck short, another the drain. Batches that a cancel
 * does not end are a defect, which must not hold the process: it then ends as it is,
 * with status 1.
 */
#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "app-i.h"
#include "obs/log.h"

enum { CANCEL_MS = 15000, QUIESCE_MS = 5000 };

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int64_t unix_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Sockets are the currency: take all the descriptors that we may have, and plan
 * to use no more, as an attempt without one fails for no fault of its service. */
static bool share_out_fds(struct app *app)
{
	struct config *c = app->config;
	uint64_t fewest = limits_fewest_fds(c);
	struct rlimit rl, all;

	app->fds = UINT64_MAX;

	if (getrlimit(RLIMIT_NOFILE, &rl) < 0)
		return true;
	all = (struct rlimit){rl.rlim_max, rl.rlim_max};
	if (setrlimit(RLIMIT_NOFILE, &all) == 0)
		rl = all;
	app->fds = rl.rlim_cur;
	if (app->fds < fewest) {
		fprintf(stderr, "settled: %ju file descriptors are too few: `shards: %u` takes %ju at least: raise the limit "
				"(ulimit -n), or give fewer shards\n", (uintmax_t)app->fds, c->shards, (uintmax_t)fewest);
		return false;
	}
	if (limits_fit(c, app->fds))
		log_event(LOG_WARN, "few_file_descriptors", LOG_INT("have", rl.rlim_cur),
			  LOG_INT("connections", c->limits.connections), LOG_INT("in_flight", c->limits.in_flight),
			  LOG_STR("do", "raise the limit (ulimit -n), or lower limits.connections and limits.in_flight: "
					"until then, these are in force"));
	return true;
}

static int open_signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	/* As process 1 of a container it inherits orphans, and no zombie may stay of them. */
	signal(SIGCHLD, SIG_IGN);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The next signal that asks for the end, 0 if none is there. One that asks for a reload
 * is seen to; the kernel makes one of several that come meanwhile. */
static int next_signal(struct app *app)
{
	struct signalfd_siginfo info;

	if (read(app->signal_fd, &info, sizeof info) != (ssize_t)sizeof info)
		return 0;
	if (info.ssi_signo != SIGHUP)
		return (int)info.ssi_signo;
	if (app->stopping)
		app_refuse_reload(app, "the process is about to end");
	else
		app_reload(app);
	return 0;
}

bool app_wait(struct app *app, uint64_t *seen, uint64_t want, bool signals, int64_t limit_ms)
{
	int64_t until = limit_ms < 0 ? INT64_MAX : now_ms() + limit_ms;

	while (*seen < want) {
		struct pollfd p[2] = {{app->done_fd, POLLIN, 0}, {app->signal_fd, signals ? POLLIN : 0, 0}};
		int64_t left = until == INT64_MAX ? -1 : until - now_ms();
		uint64_t count;

		if (until != INT64_MAX && left <= 0)
			return false;
		if (poll(p, 2, (int)MIN(left, (int64_t)60000)) < 0 && errno != EINTR)
			return false;
		if (read(app->done_fd, &count, sizeof count) == (ssize_t)sizeof count)
			*seen += count;
		if (signals && next_signal(app) != 0)
			return false;
	}
	return true;
}

/* Its threads still run, so nothing of theirs can be freed. */
static NORETURN void end_without_order(unsigned shards)
{
	log_event(LOG_ERROR, "stop_failed", LOG_INT("shards", shards),
		  LOG_STR("why", "their batches did not end, though cancelled: clients get no answer"));
	_exit(1);
}

/* Whoever routes requests here learns of the end a moment after us: until then it
 * sends new ones. Nobody reports the end of this, so it takes its time. */
static void be_lame_duck(struct app *app)
{
	int64_t ms = app->config->limits.lame_duck_ms;
	uint64_t seen = 0;

	if (ms == 0)
		return;
	for (unsigned i = 0; i < app->n; i++)
		shard_lame_duck(&app->shards[i]);
	app_wait(app, &seen, UINT64_MAX, true, ms);
}

static void stop(struct app *app)
{
	uint64_t seen = 0;

	app->stopping = true;
	be_lame_duck(app);
	for (unsigned i = 0; i < app->n; i++)
		shard_drain(&app->shards[i]);
	if (!app_wait(app, &seen, app->n, true, app->config->limits.drain_ms)) {
		log_event(LOG_WARN, "drain_ended", LOG_STR("do", "ending the batches that still run"));
		for (unsigned i = 0; i < app->n; i++)
			shard_cancel(&app->shards[i]);
		store_give_up(app->store);
		if (!app_wait(app, &seen, app->n, false, CANCEL_MS))
			end_without_order(app->n - (unsigned)seen);
	}
	seen = 0;
	for (unsigned i = 0; i < app->n; i++)
		shard_quiesce(&app->shards[i]);
	if (!app_wait(app, &seen, app->n, false, QUIESCE_MS))
		log_event(LOG_WARN, "connections_left", LOG_STR("do", "closing them"));
}

static void serve(struct app *app)
{
	uint64_t seen = 0;

	for (; app->threads < app->n; app->threads++)
		REQUIRE(pthread_create(&app->shards[app->threads].thread, NULL, shard_run,
				       &app->shards[app->threads]) == 0);
	app_wait(app, &seen, UINT64_MAX, true, -1);
	stop(app);
	for (unsigned i = 0; i < app->n; i++)
		loop_stop(app->shards[i].loop);
	for (unsigned i = 0; i < app->n; i++)
		pthread_join(app->shards[i].thread, NULL);
}

static int cannot_listen(const char *host, unsigned port, const char *setting, int err)
{
	fprintf(stderr, err == -EADDRINUSE ? "settled: cannot listen on %s:%u: %s: stop the process that has the port, or "
					     "choose another with `%s`\n"
					   : "settled: cannot listen on %s:%u: %s: check `%s` in the configuration\n",
		host, port, strerror(-err), setting);
	return -1;
}

static int cannot_start(int err)
{
	fprintf(stderr, "settled: cannot start an event loop: %s: check the limits of the process (open files, memory)\n",
		strerror(-err));
	return -1;
}

/* With SO_REUSEPORT a second process would silently share the port: a socket
 * without it finds out. */
static int check_port_is_free(const struct config *c)
{
	int fd = httpd_listen(c->listen_host, c->listen_port, false);

	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int start_shards(struct app *app, unsigned *ret_port)
{
	const struct config *c = app->config;
	unsigned port = c->listen_port;
	int err = port == 0 ? 0 : check_port_is_free(c);

	if (err < 0)
		return cannot_listen(c->listen_host, port, "listen", err);
	for (unsigned i = 0; i < c->shards; i++) {
		int fd = httpd_listen(c->listen_host, port, true);

		if (fd < 0)
			return cannot_listen(c->listen_host, port, "listen", fd);
		port = httpd_port(fd);
		err = shard_init(&app->shards[i], app, i, fd);
		app->group.n = ++app->n;
		if (err < 0)
			return cannot_start(err);
	}
	*ret_port = port;
	return 0;
}

/* One shard is enough for probes and metrics. */
static int start_operations(struct app *app)
{
	const struct config *c = app->config;
	int fd, err;

	if (c->operations_host == NULL)
		return 0;
	fd = httpd_listen(c->operations_host, c->operations_port, false);
	if (fd < 0)
		return cannot_listen(c->operations_host, c->operations_port, "operations", fd);
	log_event(LOG_INFO, "listening_for_operations", LOG_STR("host", c->operations_host), LOG_INT("port", httpd_port(fd)));
	err = shard_open_operations(&app->shards[0], fd);
	return err < 0 ? cannot_start(err) : 0;
}

static bool open_store(struct app *app)
{
	const struct config *c = app->config;
	const struct store_limits limits = app_store_limits(c);
	const char **services = app_service_names(c);
	const struct store_config sc = {
		.path = c->store_memory ? NULL : c->store_path,
		.memory_bytes = limits.memory_bytes,
		.queue_bytes = limits.queue_bytes,
		.stored_items = limits.stored_items,
		.services = services,
		.n_services = c->n_services,
		.service_slots = c->service_slots,
	};
	struct buf err = {0};

	app->store = store_open(&sc, &err);
	free(services);
	if (app->store == NULL)
		fprintf(stderr, "settled: %.*s\n", (int)err.n, err.p);
	buf_free(&err);
	return app->store != NULL;
}

static bool open_tls(struct app *app)
{
	struct buf err = {0};
	bool ok = app_read_tls(app->config, &app->tls, &err);

	if (!ok)
		fprintf(stderr, "settled: %.*s", (int)err.n, err.p);
	buf_free(&err);
	return ok;
}

struct recovery {
	struct app *app;
	uint64_t batches, items, homeless;
};

static void recover_one(void *arg, const struct store_unfinished *u)
{
	struct recovery *r = arg;

	r->batches++;
	r->items += u->pending;
	r->homeless += u->service == ITEM_NO_SERVICE ? u->pending : 0;
	dispatch_recover(r->app->group.members[batch_id_shard(u->id) % r->app->n], u);
}

/* Each shard learns of its unfinished batches; they come into memory as there is room. */
static bool recover(struct app *app)
{
	struct recovery r = {.app = app};
	int64_t begun_ms = now_ms();
	struct buf err = {0};
	bool ok = store_each_unfinished(app->store, recover_one, &r, &err);

	if (!ok)
		fprintf(stderr, "settled: %.*s\n", (int)err.n, err.p);
	buf_free(&err);
	app->group.recovery_ms = now_ms() - begun_ms;
	if (!ok)
		return false;
	if (r.batches > 0)
		log_event(LOG_INFO, "recovered", LOG_INT("batches", r.batches), LOG_INT("items", r.items),
			  LOG_INT("duration_ms", app->group.recovery_ms));
	if (r.homeless > 0)
		log_event(LOG_WARN, "service_missing", LOG_INT("items", r.homeless),
			  LOG_STR("why", "they were accepted for a service that is no longer configured"),
			  LOG_STR("effect", "they fail as they come up"),
			  LOG_STR("do", "if its name was changed, stop the process and configure the old one too"));
	return true;
}

/* What shards that ran have told each other and not yet read, such as that nobody waits
 * for a batch any more: who is told is freed by it. Where none ran, as a start failed, it
 * would begin what recovery found. */
static void settle_messages(struct app *app)
{
	bool any;

	do {
		any = false;
		for (unsigned i = 0; i < app->threads; i++)
			any |= loop_settle(app->shards[i].loop);
	} while (any);
}

static void free_app(struct app *app)
{
	for (unsigned i = 0; i < app->n; i++)
		shard_close(&app->shards[i]);
	settle_messages(app);
	store_close(app->store);
	settle_messages(app);
	for (unsigned i = 0; i < app->n; i++)
		shard_free(&app->shards[i]);
	dispatch_group_free(&app->group);
	metrics_free(app->metrics);
	httpd_tls_unref(app->tls);
	config_unref(app->config);
	close(app->done_fd);
	close(app->signal_fd);
	/* What it points at by now is lost, as a leak check should see. */
	*app = (struct app){0};
}

static bool load_certificates(const struct config *c)
{
	struct buf err = {0};
	struct xfer_tls_set *set = outbound_load(c, &err);

	if (set == NULL)
		fprintf(stderr, "settled: %.*s", (int)err.n, err.p);
	else
		outbound_use(c, set);
	buf_free(&err);
	return set != NULL;
}

int app_run(const char *path, struct config *take, const char *version)
{
	/* Room for more shards and tenants than there are: of that which is static, only
	 * what is written takes memory. */
	static struct app process;
	struct app *app = &process;
	const struct config *config = take;
	struct rng rng;
	unsigned port = 0;
	int ret = 1;

	log_init(config->log_format, config->log_level);
	app->config_path = path;
	app->config = take;
	app_hide_secrets(take);
	if (!share_out_fds(app)) {
		config_unref(take);
		return 1;
	}
	limits_fit_bodies(take, take->shards);
	dispatch_group_init(&app->group, config);
	app->group.started_unix_ms = unix_ms();
	app->signal_fd = open_signals();
	app->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	REQUIRE(app->signal_fd >= 0 && app->done_fd >= 0);
	REQUIRE(outbound_init(config) == 0);
	app->metrics = dispatch_metrics_new(config, config->shards);
	meter_set((struct meter){app->metrics, 0}, METRIC_RELOADED_AT, 0, 0, time(NULL));
	rng_seed_from_os(&rng);
	app->group.hash_seed = rng_u64(&rng);
	if (load_certificates(config) && open_tls(app) && open_store(app) && start_shards(app, &port) == 0 &&
	    start_operations(app) == 0 && recover(app)) {
		app_warn_of_tenants(config);
		log_event(LOG_INFO, "listening", LOG_STR("host", config->listen_host), LOG_INT("port", port),
			  LOG_INT("shards", app->n), LOG_STR("version", version));
		/* The kernel gets back what the start alone needed, such as for files of certificates. */
		malloc_trim(0);
		serve(app);
		log_event(LOG_INFO, "stopped");
		ret = 0;
	}
	free_app(app);
	xfer_global_free();
	return ret;
}
