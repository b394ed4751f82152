/*
 * The program's own routes, under /_: ledger, scripts, counts, long polls.
 */
#pragma once

#include "conn.h"

enum { CONTROL_BODY_MAX = 1024 * 1024 };

bool control_wants(struct slice path);
void control_begin(struct conn *c, const struct request *r);
void control_run(struct conn *c);                /* its request is whole */
void control_timeout(struct conn *c);
void control_end(struct conn *c);                /* forget it; no-op if there is none */

/* Answer the long polls whose condition holds now. */
void control_check(struct server *s);
