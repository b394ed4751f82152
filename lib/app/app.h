/*
 * The process: shards and their threads, the order of start and stop, signals.
 *
 * Thread: the caller's, which must be the only one; it waits for signals.
 */
#pragma once

#include "config/config.h"

/* Serve until SIGTERM or SIGINT, then drain; on SIGHUP read the configuration anew
 * from `path` (NULL: there is no file). Takes the reference. Returns the process's
 * exit status: 0 after a clean stop, 1 if it could not start (said on standard
 * error). If a shard cannot be stopped, it ends the process with status 1. */
int app_run(const char *path, struct config *take, const char *version);

/* What `config` names must be there, too: the certificate and its key. False: *reterr
 * says what is wrong with them, a line each. */
bool app_check(const struct config *config, struct buf *reterr) MUST_CHECK;
