/*
 * Defects that are built in on purpose, by -Dplant=NAME, so that CI can see that
 * the kill test finds them. Nothing is planted in any other build, and a release
 * cannot be configured with one.
 */
#pragma once

#include "base/builtwith.h"

enum plant {
	PLANT_NONE,
	PLANT_ACK_BEFORE_COMMIT,         /* an accepted batch is answered for before it is committed */
	PLANT_FORGET_KEY,                /* an Idempotency-Key is not written down */
	PLANT_DROP_WAIT,                 /* an item that waited for its next try is not tried after a restart */
};

#define PLANTED(upper) (SETTLED_PLANT == PLANT_##upper)
