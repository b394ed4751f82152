/*
 * One shard: its modules made and freed in order, and its part in a stop.
 *
 *   learn ──► use, for each reload
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

enum { QUIET_LIMIT_US = 2000000, FLUSH_LIMIT_US = 1000000, QUIET_LOOK_US = 5000, XFER_IDLE_MS = 30000 };

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
		  LOG_INT("lame_duck_ms", s->config->limits.lame_duck_ms));
}

static void on_drain(struct loop_msg *msg)
{
	struct shard *s = container_of(msg, struct shard, drain);

	s->drain_by_us = loop_now_us(s->loop) + s->config->limits.drain_ms * 1000;
	httpd_last_answers(s->httpd);
	if (s->operations != NULL)
		httpd_last_answers(s->operations);
	dispatch_drain(s->dispatch, on_idle, s);
	/* From here on it takes no new batch: whoever reads this may rely on it. */
	log_event(LOG_INFO, "draining", LOG_INT("shard", s->index),
		  LOG_INT("drain_ms", s->config->limits.drain_ms));
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

	if (s->flushed && (connections(s) == 0 || now_us >= s->quiet_by_us))
		step_done(s);
	else
		loop_timer_at(s->quiet, now_us + QUIET_LOOK_US);
}

static void on_flushed(void *arg)
{
	struct shard *s = arg;

	s->flushed = true;
}

/* The last spans may take what is left of the drain, and a second of it at most. */
static void on_quiesce(struct loop_msg *msg)
{
	struct shard *s = container_of(msg, struct shard, quiesce);
	int64_t now_us = loop_now_us(s->loop);

	routes_stop(s->routes);
	httpd_quiesce(s->httpd);
	if (s->operations != NULL)
		httpd_quiesce(s->operations);
	exporter_flush(s->exporter, MIN(s->drain_by_us, now_us + FLUSH_LIMIT_US), on_flushed, s);
	s->quiet_by_us = now_us + QUIET_LIMIT_US;
	loop_timer_at(s->quiet, now_us);
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

static struct httpd_config httpd_config(const struct config *c, unsigned connections, struct httpd_tls *tls)
{
	return (struct httpd_config){
		.connections = connections,
		.body_bytes = c->limits.queued_bytes / c->shards,
		.header_ms = c->limits.header_ms,
		.body_ms = c->limits.body_ms,
		.idle_ms = c->limits.idle_ms,
		.write_ms = c->limits.write_ms,
		.tls = tls,
	};
}

/* ---- the steps of a reload ---- */

static void on_learn(struct loop_msg *msg)
{
	struct shard *s = container_of(msg, struct shard, learn);

	dispatch_reload(s->dispatch, config_ref(s->next));
	xfer_set_max_idle(s->xfer, s->next->limits.in_flight);
	step_done(s);
}

static void on_use(struct loop_msg *msg)
{
	struct shard *s = container_of(msg, struct shard, use);
	const struct httpd_config cfg = httpd_config(s->next, 0, s->next_tls), plain = httpd_config(s->next, 0, NULL);

	routes_reload(s->routes, s->next);
	httpd_each(s->httpd, routes_recheck, s->routes);
	httpd_reload(s->httpd, &cfg);
	if (s->operations != NULL)
		httpd_reload(s->operations, &plain);
	config_unref(s->config);
	s->config = STEAL_PTR(s->next);
	step_done(s);
}

void shard_learn(struct shard *s, struct config *c)
{
	s->next = config_ref(c);
	s->learn.run = on_learn;
	loop_post(s->loop, &s->learn);
}

/* The certificate is the main thread's until the step is done. */
void shard_use(struct shard *s, struct httpd_tls *tls)
{
	s->next_tls = tls;
	s->use.run = on_use;
	loop_post(s->loop, &s->use);
}

/* Probes and scrapers know it as plain text; it has nothing of a batch. */
int shard_open_operations(struct shard *s, int take_listen_fd)
{
	const struct httpd_config hc = httpd_config(s->config, OPERATIONS_CONNECTIONS, NULL);

	s->operations = httpd_new(s->loop, take_listen_fd, &hc, routes_operations_handler(s->routes));
	return s->operations == NULL ? -errno : 0;
}

int shard_init(struct shard *s, struct app *app, unsigned index, int take_listen_fd)
{
	struct config *c = app->config;
	const struct httpd_config hc = httpd_config(c, MAX(1u, c->limits.connections / c->shards), app->tls);
	const struct meter meter = {app->metrics, index};
	const struct xfer_config xc = {
		.max_idle = c->limits.in_flight, .idle_ms = XFER_IDLE_MS, .user_agent = "settled"};

	*s = (struct shard){.app = app, .index = index, .config = config_ref(c)};
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
	s->exporter = exporter_new(&(struct exporter_env){.loop = s->loop, .xfer = s->xfer, .config = c, .meter = meter});
	s->dispatch = dispatch_new(&(struct dispatch_env){.loop = s->loop, .xfer = s->xfer,
							  .store = app->store, .config = c,
							  .group = &app->group, .meter = meter,
							  .spans = exporter_spans(s->exporter), .shard = index});
	s->routes = routes_new(&(struct routes_env){.loop = s->loop, .config = c,
						    .dispatch = s->dispatch, .group = &app->group,
						    .peers = app->peers, .store = app->store,
						    .meter = meter});
	app->group.members[index] = s->dispatch;
	app->peers[index] = s->routes;
	s->httpd = httpd_new(s->loop, take_listen_fd, &hc, routes_handler(s->routes));
	if (s->httpd == NULL)
		return -errno;
	observe_start(s);
	return 0;
}

void shard_close(struct shard *s)
{
	loop_timer_free(STEAL_PTR(s->observe));
	httpd_free(STEAL_PTR(s->operations));
	httpd_free(STEAL_PTR(s->httpd));
}

void shard_free(struct shard *s)
{
	routes_free(s->routes);
	dispatch_free(s->dispatch);
	exporter_free(s->exporter);
	xfer_free(s->xfer);
	loop_timer_free(s->quiet);
	loop_free(s->loop);
	config_unref(s->config);
}

void *shard_run(void *arg)
{
	struct shard *s = arg;

	loop_run(s->loop);
	return NULL;
}
