/*
 * Named points at which the kill test ends the process, as kill -9 would: where
 * a moment matters that no test hits by chance. Nothing at all unless built with
 * -Dkill_points=true; then SETTLED_KILL_AT=NAME[:N] names the point, and its Nth
 * passing, by any thread, is the last thing that the process does.
 */
#pragma once

#include "base/builtwith.h"

#ifdef SETTLED_KILL_POINTS
void kill_point(const char *name);
#define KILL_POINT(name) kill_point(name)
#else
#define KILL_POINT(name) ((void)0)
#endif
