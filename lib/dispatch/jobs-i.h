/*
 * Jobs that are in the store alone. See jobs.c.
 */
#pragma once

#include "dispatch/live-i.h"

void jobs_init(struct dispatch *d);
void jobs_free(struct dispatch *d);

/* Room in memory for a job that has come: */
bool jobs_have_room(struct live *lv);            /* is there any? and sets whose it is */
void jobs_take(struct live *lv, size_t bytes);
void jobs_give(struct live *lv);

void jobs_add(struct live *lv, int64_t due_us);  /* it leaves memory */
bool jobs_cancel(struct dispatch *d, struct batch_id id, struct slice tenant);
void jobs_wake(struct dispatch *d, int64_t now_us);
void jobs_pump(struct dispatch *d);
int64_t jobs_next(const struct dispatch *d);     /* a time that the timer must not miss */
unsigned jobs_loading(const struct dispatch *d); /* questions to the store that are under way */
unsigned jobs_backlog(const struct dispatch *d);
