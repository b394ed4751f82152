/*
 * Prints the table of metrics, for settings.py to hold against the README's.
 */
#include <stdio.h>

#include "dispatch/metrics.h"
#include "xfer/xfer.h"

int main(void)
{
	struct buf out = {0}, err = {0};
	struct config *config = config_load(NULL, &err);
	struct metrics *metrics;

	if (config == NULL)
		return 1;
	metrics = dispatch_metrics_new(config, 1);
	metrics_describe(metrics, &out);
	xfer_metrics_describe(&out);
	fwrite(out.p, 1, out.n, stdout);
	buf_free(&out);
	metrics_free(metrics);
	config_unref(config);
	return fflush(stdout) != 0;
}
