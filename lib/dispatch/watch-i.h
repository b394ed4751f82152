/*
 * Who is told that a batch has changed. See watch.c.
 */
#pragma once

#include "dispatch/dispatch.h"

bool watches_any(const struct dispatch *d, struct batch_id id);
void watches_changed(struct dispatch *d, struct batch_id id, bool done);
void watches_pump(struct dispatch *d);
