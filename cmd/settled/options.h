/*
 * What the command line asks for.
 */
#pragma once

#include <stdbool.h>

#include "base/macros.h"

enum command {
	COMMAND_SERVE, COMMAND_CHECK, COMMAND_HEALTHCHECK, COMMAND_PRINT, COMMAND_DEFAULTS, COMMAND_VERSION, COMMAND_HELP,
};

struct options {
	enum command command;
	const char *config;              /* --config, else $SETTLED_CONFIG; NULL: no file */
};

extern const char options_usage[];

/* False: it cannot be done; the reason is on standard error. */
bool options_parse(int argc, char **argv, struct options *ret) MUST_CHECK;
