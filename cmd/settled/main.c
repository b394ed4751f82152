/*
 * settled: the daemon's command line.
 */
#include <stdio.h>
#include <stdlib.h>

#include "app/app.h"
#include "base/buf.h"
#include "healthcheck.h"
#include "options.h"
#include "version.h"

enum { EXIT_BAD_CONFIG = 2 };

/* What was printed is nothing if nobody got it. */
static int print(struct slice text)
{
	fwrite(text.p, 1, text.n, stdout);
	return fflush(stdout) != 0 || ferror(stdout);
}

static int print_defaults(void)
{
	struct buf out = {0};
	int ret;

	config_defaults(&out);
	ret = print(buf_slice(&out));
	buf_free(&out);
	return ret;
}

static int print_valid(const char *path)
{
	printf("%s: valid\n", path != NULL ? path : "the defaults");
	return fflush(stdout) != 0;
}

static int print_config(const struct config *config)
{
	struct buf out = {0};
	int ret;

	config_print(config, &out);
	ret = out.failed ? EXIT_FAILURE : print(buf_slice(&out));
	buf_free(&out);
	return ret;
}

static int with_config(const struct options *o)
{
	struct buf errors = {0};
	struct config *config = config_load(o->config, &errors);
	int ret;

	if (config == NULL || (o->command == COMMAND_CHECK && !app_check(config, &errors))) {
		config_unref(config);
		fwrite(errors.p, 1, errors.n, stderr);
		buf_free(&errors);
		return EXIT_BAD_CONFIG;
	}
	if (o->command == COMMAND_CHECK)
		ret = print_valid(o->config);
	else if (o->command == COMMAND_PRINT)
		ret = print_config(config);
	else if (o->command == COMMAND_HEALTHCHECK)
		ret = healthcheck_run(config);
	else
		return app_run(o->config, config, SETTLED_VERSION);
	config_unref(config);
	return ret;
}

int main(int argc, char **argv)
{
	struct options options;

	if (!options_parse(argc, argv, &options))
		return EXIT_BAD_CONFIG;
	switch (options.command) {
	case COMMAND_DEFAULTS:
		return print_defaults();
	case COMMAND_VERSION:
		return print(SLICE("settled " SETTLED_VERSION "\n"));
	case COMMAND_HELP:
		return print(slice_str(options_usage));
	case COMMAND_SERVE:
	case COMMAND_CHECK:
	case COMMAND_HEALTHCHECK:
	case COMMAND_PRINT:
		return with_config(&options);
	}
	return EXIT_BAD_CONFIG;
}
