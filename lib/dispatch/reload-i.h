/*
 * The configurations that a shard uses. See reload.c.
 */
#pragma once

#include "base/list.h"
#include "config/config.h"

struct attempt;
struct dispatch;

/* A configuration in use: the current one, or one that attempts in flight were
 * started under. */
struct held_config {
	struct list node;                /* dispatch.old, or none */
	struct config *config;           /* a reference */
	unsigned attempts;
};

void held_init(struct dispatch *d);
void held_free(struct dispatch *d);

/* An attempt is in flight, and is no longer; between these, what it was started under. */
void held_start(struct dispatch *d, struct attempt *a);
void held_done(struct dispatch *d, struct attempt *a);
const struct service *held_service(const struct attempt *a);
