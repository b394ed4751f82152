/*
 * Prints the table of settings, for settings.py to hold against the README's.
 */
#include <stdio.h>

#include "config/config.h"

int main(void)
{
	struct buf out = {0};

	config_describe(&out);
	fwrite(out.p, 1, out.n, stdout);
	buf_free(&out);
	return fflush(stdout) != 0;
}
