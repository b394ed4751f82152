/*
 * Ask the settled that this configuration describes whether it is ready.
 */
#pragma once

#include "config/config.h"

/* 0: ready. 1: not, with the reason on standard error. Blocks for 3 s at most. */
int healthcheck_run(const struct config *config);
