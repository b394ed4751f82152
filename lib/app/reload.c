/*
 * A reload: another configuration in a process that goes on.
 *
 *   load ──► lay over ──► names to the store ──► all shards learn ──► reads, limits ──► all shards use
 *     └────────┴───────────────┴─ refused: nothing has changed
 *
 * A shard that has learned the configuration can be given items for its new
 * services; only then does any shard take requests for them, or the store read
 * some. After the last step the old configuration is freed, unless attempts that
 * were started under it are still in flight: then after the last of these.
 */
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "app-i.h"
#include "obs/log.h"

/* What was read of files that the configuration names. */
struct files {
	struct httpd_tls *inbound;       /* NULL: plain text */
	struct xfer_tls_set *outbound;
};

struct store_limits app_store_limits(const struct config *c)
{
	return (struct store_limits){
		.memory_bytes = c->limits.results_bytes,
		.queue_bytes = c->limits.queued_bytes,
		.stored_items = c->limits.stored_items,
	};
}

const char **app_service_names(const struct config *c)
{
	const char **names = xcalloc(c->n_services, sizeof *names);

	for (size_t i = 0; i < c->n_services; i++)
		names[i] = c->services[i].name;
	return names;
}

/* Secrets are in more places than we could name: libraries copy them. */
void app_hide_secrets(const struct config *c)
{
	if (config_has_secrets(c))
		prctl(PR_SET_DUMPABLE, 0);
}

static void count(struct app *app, enum reload_result result)
{
	const struct meter m = {app->metrics, 0};

	meter_add(m, METRIC_RELOADS, result, 0, 1);
	if (result == RELOAD_OK)
		meter_set(m, METRIC_RELOADED_AT, 0, 0, time(NULL));
}

void app_refuse_reload(struct app *app, const char *why)
{
	count(app, RELOAD_REFUSED);
	log_event(LOG_ERROR, "reload_refused", LOG_STR("why", why), LOG_STR("effect", "the configuration stays as it is"));
}

/* One line for each error, as --check prints them. */
static void refuse_all(struct app *app, const struct buf *errors)
{
	const char *p = errors->p, *end = errors->p + errors->n, *next;

	count(app, RELOAD_REFUSED);
	for (; p < end; p = next + 1) {
		next = memchr(p, '\n', (size_t)(end - p));
		next = next == NULL ? end : next;
		log_event(LOG_ERROR, "reload_refused", LOG_SLICE("why", ((struct slice){p, (size_t)(next - p)})),
			  LOG_STR("effect", "the configuration stays as it is"));
	}
}

/* An error would keep in force the key that somebody takes away in a hurry. */
void app_warn_of_tenants(const struct config *c)
{
	for (unsigned i = 1; i < c->n_tenants; i++) {
		if (!c->tenants[i].removed && c->tenants[i].keyless)
			log_event(LOG_WARN, "tenant_without_key", LOG_STR("tenant", c->tenants[i].name),
				  LOG_STR("do", "if the name is misspelt, write it as in auth.keys; else take it out of tenants"));
	}
}

static void log_reloaded(const struct config_changes *ch)
{
	if (ch->restart.n > 0)
		log_event(LOG_WARN, "restart_needed", LOG_SLICE("settings", buf_slice(&ch->restart)),
			  LOG_STR("effect", "they keep the values that they have"));
	log_event(LOG_INFO, "reloaded", LOG_SLICE("added", buf_slice(&ch->added)), LOG_SLICE("removed", buf_slice(&ch->removed)),
		  LOG_SLICE("changed", buf_slice(&ch->changed)), LOG_SLICE("settings", buf_slice(&ch->settings)));
}

static void wait_for_all(struct app *app)
{
	uint64_t seen = 0;

	REQUIRE(app_wait(app, &seen, app->n, false, -1));
}

static void set_store(struct app *app, const struct config *c)
{
	const struct store_limits limits = app_store_limits(c);
	bool *gone = xcalloc(c->n_services, sizeof *gone);

	for (size_t i = 0; i < c->n_services; i++)
		gone[i] = c->services[i].removed;
	store_set_services(app->store, gone, c->n_services);
	store_set_limits(app->store, &limits);
	free(gone);
}

/* Once for all shards, which share what is owed. */
static void change_quotas(struct app *app, const struct config *to)
{
	int64_t now_us = loop_now_us(app->shards[0].loop);

	for (size_t i = 0; i < app->config->n_tenants; i++)
		dispatch_quota_change(&app->group.tenants.of[i], &app->config->tenants[i], &to->tenants[i], now_us);
}

/* From here on nothing can fail. */
static void install(struct app *app, struct config *take, struct files *files)
{
	dispatch_metrics_grow(app->metrics, take, app->config);
	outbound_use(take, STEAL_PTR(files->outbound));
	for (unsigned i = 0; i < app->n; i++)
		shard_learn(&app->shards[i], take);
	wait_for_all(app);
	set_store(app, take);
	change_quotas(app, take);
	for (unsigned i = 0; i < app->n; i++)
		shard_use(&app->shards[i], files->inbound);
	wait_for_all(app);
	config_unref(app->config);
	app->config = take;
	httpd_tls_unref(app->tls);
	app->tls = STEAL_PTR(files->inbound);
	log_set(take->log_format, take->log_level);
	app_warn_of_tenants(take);
}

static bool name_services(struct app *app, const struct config *fresh, struct buf *reterr)
{
	const char **names = app_service_names(fresh);
	bool ok = store_name_services(app->store, names, fresh->n_services, reterr);

	free(names);
	return ok;
}

bool app_read_tls(const struct config *c, struct httpd_tls **ret, struct buf *reterr)
{
	*ret = c->tls_cert_file == NULL ? NULL : httpd_tls_new(c->tls_cert_file, c->tls_key_file, reterr);
	return *ret != NULL || c->tls_cert_file == NULL;
}

bool app_check(const struct config *config, struct buf *reterr)
{
	struct httpd_tls *tls;
	bool ok = app_read_tls(config, &tls, reterr);
	struct xfer_tls_set *set = outbound_load(config, reterr);

	httpd_tls_unref(tls);
	xfer_tls_set_free(set);
	return ok && set != NULL;
}

static void files_free(struct files *f)
{
	httpd_tls_unref(f->inbound);
	xfer_tls_set_free(f->outbound);
}

/* All that can fail. The same files may hold other certificates. */
static bool prepare(struct app *app, struct config *fresh, struct files *ret_files, struct config_changes *ret,
		    struct buf *reterr)
{
	app_hide_secrets(fresh);
	limits_fit(fresh, app->fds);
	limits_fit_bodies(fresh, app->n);
	if (!config_overlay(fresh, app->config, ret, reterr) || !app_read_tls(fresh, &ret_files->inbound, reterr))
		return false;
	ret_files->outbound = outbound_load(fresh, reterr);
	if (ret_files->outbound == NULL)
		return false;
	limits_fit_in_flight(fresh, app->fds);
	if (ret_files->inbound != NULL && !httpd_tls_same(ret_files->inbound, app->tls))
		buf_printf(&ret->settings, "%sthe certificate", ret->settings.n > 0 ? ", " : "");
	return name_services(app, fresh, reterr);
}

void app_reload(struct app *app)
{
	CLEANUP(config_changes_free) struct config_changes changes = {0};
	CLEANUP(buf_free) struct buf errors = {0};
	CLEANUP(files_free) struct files files = {0};
	struct config *fresh;

	if (app->config_path == NULL) {
		app_refuse_reload(app, "there is no file to read: it was started without --config");
		return;
	}
	fresh = config_load(app->config_path, &errors);
	if (fresh == NULL || !prepare(app, fresh, &files, &changes, &errors)) {
		config_unref(fresh);
		refuse_all(app, &errors);
		return;
	}
	install(app, fresh, &files);
	count(app, RELOAD_OK);
	log_reloaded(&changes);
}
