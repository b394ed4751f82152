/*
 * One shard: its modules made and freed in order, and its part in a stop.
 *
 *   lame duck ──► drain ──► last batch done ──► quiesce ──► connections closed ──► loop stopped
 *
 * Threads: shard_init() and shard_free() run in the main thread while no other
 * does; the steps are posted to the shard and run in its own.
 */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "app-i.h"
#include "obs/log.h"

enum { QUIET_LIMIT_US = 2000000, QUIET_LOOK_US = 5000, XFER_IDLE_MS = 30000 };

static void step_done(struct shard *s)
{
	uint64_t one = 1;

	REQUIRE(write(s->app->done_fd, &one, sizeof one) == (ssize_t)sizeof one);
}

static void on_idle(void *arg)
{
	step_done(arg);
}

/* Its answers close their connections, so that kept ones move elsewhere too. */
static void on_lame_duck(struct loop_msg *msg)
{
	struct shard *s = container_of(msg, struct shard, lame_duck);

	routes_not_ready(s->routes);
	httpd_last_answers(s->httpd);
	log_event(LOG_INFO, "lame_duck", LOG_INT("shard", s->index),
		  LOG_INT("lame_duck_ms", s->app->config.limits.lame_duck_ms));
}

static void on_drain(struct loop_msg *msg)
{
	struct shard *s = container_of(msg, struct shard, drain);

	httpd_last_answers(s->httpd);
	if (s->operations != NULL)
		httpd_last_answers(s->operations);
	dispatch_drain(s->dispatch, on_idle, s);
	/* From here on it takes no new batch: whoever reads this may rely on it. */
	log_event(LOG_INFO, "draining", LOG_INT("shard", s->index),
		  LOG_INT("drain_ms", s->app->config.limits.drain_ms));
}

static void on_cancel(struct loop_msg *msg)
{
	dispatch_cancel_all(container_of(msg, struct shard, cancel)->dispatch, WHY_SHUTDOWN);
}

static unsigned connections(const struct shard *s)
{
	return httpd_usage(s->httpd).connections +
	       (s->operations == NULL ? 0 : httpd_usage(s->operations).connections);
}

/* Answers are on their way to clients; libmicrohttpd tells nobody when the last
 * byte has left, so look until the connections are closed. */
static void look(void *arg)
{
	struct shard *s = arg;
	int64_t now_us = loop_now_us(s->loop);

	if (connections(s) == 0 || now_us >= s->quiet_by_us)
		step_done(s);
	else
		loop_timer_at(s->quiet, now_us + QUIET_LOOK_US);
}

static void on_quiesce(struct loop_msg *msg)
{
	struct shard *s = container_of(msg, struct shard, quiesce);

	routes_stop(s->routes);
	httpd_quiesce(s->httpd);
	if (s->operations != NULL)
		httpd_quiesce(s->operations);
	s->quiet_by_us = loop_now_us(s->loop) + QUIET_LIMIT_US;
	loop_timer_at(s->quiet, loop_now_us(s->loop));
}

void shard_lame_duck(struct shard *s)
{
	s->lame_duck.run = on_lame_duck;
	loop_post(s->loop, &s->lame_duck);
}

void shard_drain(struct shard *s)
{
	s->drain.run = on_drain;
	loop_post(s->loop, &s->drain);
}

void shard_cancel(struct shard *s)
{
	s->cancel.run = on_cancel;
	loop_post(s->loop, &s->cancel);
}

void shard_quiesce(struct shard *s)
{
	s->quiesce.run = on_quiesce;
	loop_post(s->loop, &s->quiesce);
}

static struct httpd *new_httpd(struct shard *s, int take_listen_fd, unsigned connections,
			       const struct httpd_handler *handler)
{
	const struct config *c = &s->app->config;
	const struct httpd_config cfg = {
		.connections = connections,
		.body_bytes = c->limits.queued_bytes / c->shards,
		.header_ms = c->limits.header_ms,
		.body_ms = c->limits.body_ms,
		.idle_ms = c->limits.idle_ms,
		.write_ms = c->limits.write_ms,
	};

	return httpd_new(s->loop, take_listen_fd, &cfg, handler);
}

int shard_open_operations(struct shard *s, int take_listen_fd)
{
	s->operations = new_httpd(s, take_listen_fd, OPERATIONS_CONNECTIONS, routes_operations_handler(s->routes));
	return s->operations == NULL ? -errno : 0;
}

int shard_init(struct shard *s, struct app *app, unsigned index, int take_listen_fd)
{
	const struct config *c = &app->config;
	const struct meter meter = {app->metrics, index};
	const struct xfer_config xc = {
		.max_idle = c->limits.in_flight, .idle_ms = XFER_IDLE_MS, .user_agent = "settled"};

	*s = (struct shard){.app = app, .index = index};
	s->loop = loop_new();
	if (s->loop == NULL) {
		close(take_listen_fd);
		return -errno;
	}
	s->quiet = loop_timer_new(s->loop, LOOP_NORMAL, look, s);
	s->xfer = xfer_new(s->loop, &xc);
	if (s->xfer == NULL) {
		close(take_listen_fd);
		return -ENOMEM;
	}
	s->dispatch = dispatch_new(&(struct dispatch_env){.loop = s->loop, .xfer = s->xfer,
							  .store = app->store, .config = c,
							  .group = &app->group, .meter = meter,
							  .shard = index});
	s->routes = routes_new(&(struct routes_env){.loop = s->loop, .config = c,
						    .dispatch = s->dispatch, .group = &app->group,
						    .peers = app->peers, .store = app->store,
						    .meter = meter});
	app->group.members[index] = s->dispatch;
	app->peers[index] = s->routes;
	s->httpd = new_httpd(s, take_listen_fd, MAX(1u, c->limits.connections / c->shards), routes_handler(s->routes));
	return s->httpd == NULL ? -errno : 0;
}

void shard_close(struct shard *s)
{
	httpd_free(STEAL_PTR(s->operations));
	httpd_free(STEAL_PTR(s->httpd));
}

void shard_free(struct shard *s)
{
	routes_free(s->routes);
	dispatch_free(s->dispatch);
	xfer_free(s->xfer);
	loop_timer_free(s->quiet);
	loop_free(s->loop);
}

void *shard_run(void *arg)
{
	struct shard *s = arg;

	loop_run(s->loop);
	return NULL;
}
