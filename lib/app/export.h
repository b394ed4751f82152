/*
 * Sends a shard's spans to a collector: OTLP over HTTP in JSON, through the
 * shard's own transfers. The collector may be slow, broken or away: spans are
 * then dropped, and counted.
 *
 * Owner: one exporter per shard, in the shard's thread.
 */
#pragma once

#include "config/config.h"
#include "loop/loop.h"
#include "obs/metrics.h"
#include "obs/span.h"
#include "xfer/xfer.h"

struct exporter;

struct exporter_env {
	struct loop *loop;
	struct xfer *xfer;
	const struct config *config;
	struct meter meter;
};

/* NULL: no endpoint is configured. */
struct exporter *exporter_new(const struct exporter_env *env);
void exporter_free(struct exporter *e);          /* it must be idle; NULL is fine */

/* Where to put spans; NULL if `e` is. */
struct spans *exporter_spans(struct exporter *e);

/* The end: send what is there, without waits, until `by_us`; then drop the rest.
 * `on_flushed` is called once, from the loop, when the exporter is idle for good;
 * at once if `e` is NULL. */
void exporter_flush(struct exporter *e, int64_t by_us, void (*on_flushed)(void *arg), void *arg);
