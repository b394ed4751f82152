#include "options.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char options_usage[] =
	"settled: settles a batch of notifications and tells the truth about every item\n"
	"\n"
	"usage: settled [--config FILE]                 serve\n"
	"       settled --check [--config FILE]         check the file: exit 0 or 2\n"
	"       settled --print-config [--config FILE]  print it all, without secrets\n"
	"       settled healthcheck [--config FILE]     exit 0 if one runs and is ready\n"
	"       settled --defaults                      print every setting to start from\n"
	"       settled --version | --help | -h\n"
	"\n"
	"Without --config it takes the file that the environment variable\n"
	"SETTLED_CONFIG names. With neither it serves on 127.0.0.1:8080 with the one\n"
	"service `webhook`:\n"
	"\n"
	"  curl http://127.0.0.1:8080/v1/batches -H 'Content-Type: application/json' -d '\n"
	"    {\"items\": [{\"id\": \"1\", \"to\": \"https://example.com/hook\", \"payload\": {}}]}'\n"
	"\n"
	"SIGTERM drains and stops, SIGHUP reads the file anew. The routes are described\n"
	"at /openapi.json.\n";

/* Above every character, so that none is taken for one of them. */
enum { OPT_CONFIG = 256, OPT_COMMAND };

static const struct option long_options[] = {
	{"config", required_argument, NULL, OPT_CONFIG},
	{"check", no_argument, NULL, OPT_COMMAND + COMMAND_CHECK},
	{"print-config", no_argument, NULL, OPT_COMMAND + COMMAND_PRINT},
	{"defaults", no_argument, NULL, OPT_COMMAND + COMMAND_DEFAULTS},
	{"version", no_argument, NULL, OPT_COMMAND + COMMAND_VERSION},
	{"help", no_argument, NULL, 'h'},
	{0},
};

static bool PRINTF_LIKE(1, 2) refuse(const char *fmt, ...)
{
	va_list ap;

	fputs("settled: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs("\nTry `settled --help`.\n", stderr);
	return false;
}

static bool refuse_option(char **argv)
{
	if (optopt >= OPT_CONFIG)
		return refuse("%s: this option takes no value", argv[optind - 1]);
	if (optopt != 0)
		return refuse("-%c: unknown option", optopt);
	return refuse("%s: unknown option", argv[optind - 1]);
}

static const char *command_name(enum command c)
{
	static const char *const names[] = {"", "--check", "healthcheck", "--print-config", "--defaults",
					    "--version", "--help"};

	return names[c];
}

static bool set_command(struct options *o, enum command command)
{
	if (o->command != COMMAND_SERVE && o->command != command)
		return refuse("%s and %s: one at a time", command_name(o->command), command_name(command));
	o->command = command;
	return true;
}

static bool set_config(struct options *o, const char *path)
{
	if (path[0] == '\0')
		return refuse("--config: a file is wanted");
	if (o->config != NULL)
		return refuse("--config: given twice");
	o->config = path;
	return true;
}

static bool takes_config(enum command c)
{
	return c == COMMAND_SERVE || c == COMMAND_CHECK || c == COMMAND_HEALTHCHECK || c == COMMAND_PRINT;
}

/* The operands, and whether all of it goes together. */
static bool finish(int argc, char **argv, struct options *o)
{
	const char *named = getenv("SETTLED_CONFIG");

	for (; optind < argc; optind++) {
		if (strcmp(argv[optind], "healthcheck") != 0)
			return refuse("`%s`: unknown argument", argv[optind]);
		if (!set_command(o, COMMAND_HEALTHCHECK))
			return false;
	}
	if (o->config != NULL && !takes_config(o->command))
		return refuse("%s: takes no --config", command_name(o->command));
	if (o->config == NULL && named != NULL && named[0] != '\0')
		o->config = named;
	return true;
}

bool options_parse(int argc, char **argv, struct options *ret)
{
	int c;

	*ret = (struct options){.command = COMMAND_SERVE};
	while ((c = getopt_long(argc, argv, ":h", long_options, NULL)) != -1) {
		if (c == 'h') {
			ret->command = COMMAND_HELP;
			return true;
		}
		if (c == ':')
			return refuse("--config: a file is wanted");
		if (c == '?')
			return refuse_option(argv);
		if (c == OPT_CONFIG ? !set_config(ret, optarg) : !set_command(ret, (enum command)(c - OPT_COMMAND)))
			return false;
	}
	return finish(argc, argv, ret);
}
