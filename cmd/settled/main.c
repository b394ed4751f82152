/*
 * settled: the daemon's command line.
 */
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "base/buf.h"
#include "healthcheck.h"
#include "version.h"

enum { EXIT_BAD_CONFIG = 2 };

static const char usage[] =
	"settled: settles a batch of notifications and tells the truth about every item\n"
	"\n"
	"usage: settled [--config FILE]              serve\n"
	"       settled --check [--config FILE]      check the file: exit 0 or 2\n"
	"       settled healthcheck [--config FILE]  exit 0 if a running one is ready\n"
	"       settled --version | --help\n"
	"\n"
	"With no file it serves on 127.0.0.1:8080 with the one service `webhook`:\n"
	"\n"
	"  curl http://127.0.0.1:8080/v1/batches -H 'Content-Type: application/json' -d '\n"
	"    {\"items\": [{\"id\": \"1\", \"to\": \"https://example.com/hook\", \"payload\": {}}]}'\n"
	"\n"
	"SIGTERM drains and stops. The routes are described at /openapi.json.\n";

static int bad_usage(const char *what)
{
	fprintf(stderr, "settled: %s\nTry `settled --help`.\n", what);
	return EXIT_BAD_CONFIG;
}

static int run(const char *path, bool check, bool healthcheck)
{
	struct buf errors = {0};
	struct config *config = config_load(path, &errors);
	int ret;

	if (config == NULL) {
		fwrite(errors.p, 1, errors.n, stderr);
		buf_free(&errors);
		return EXIT_BAD_CONFIG;
	}
	if (check)
		ret = printf("%s: valid\n", path != NULL ? path : "the defaults") < 0;
	else if (healthcheck)
		ret = healthcheck_run(config);
	else
		ret = app_run(config, SETTLED_VERSION);
	config_free(config);
	return ret;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"check", no_argument, NULL, 'k'},
		{"version", no_argument, NULL, 'v'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const char *path = NULL;
	bool check = false, healthcheck;
	int c;

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (c) {
		case 'c':
			path = optarg;
			break;
		case 'k':
			check = true;
			break;
		case 'v':
			return puts("settled " SETTLED_VERSION) < 0;
		case 'h':
			return fputs(usage, stdout) < 0;
		default:
			return bad_usage("unknown option");
		}
	}
	healthcheck = optind < argc && strcmp(argv[optind], "healthcheck") == 0;
	if (optind + healthcheck < argc)
		return bad_usage("unknown argument");
	return run(path, check, healthcheck);
}
