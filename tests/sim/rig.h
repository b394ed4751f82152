/*
 * What named scenarios are made of: a quiet world with exact times, in which
 * nothing happens but what the scenario says.
 */
#pragma once

#include "sim.h"

enum { MS = 1000 };

/* One http service, nothing late; every batch under its defaults, if not said otherwise. */
void open_quiet(unsigned shards, int64_t turn_us, void (*script)(const struct request *, struct script *));
void add_service(void);                          /* like the first, at another origin */
struct sim_batch *add_batch(unsigned n_items);
struct sim_batch *add_job(unsigned n_items);
struct sim_batch *send_to(struct sim_batch *b, unsigned service);        /* all of its items */
void finish(void);

/* How the downstream meets a request. */
void answer(struct script *s, int status, int64_t after_us);
void hang(struct script *s);                     /* it arrives, and nothing comes back */
void refuse(struct script *s);

/* Scripts: all goes well; and all but what is for the first service, which hangs. */
void quick(const struct request *r, struct script *s);
void first_is_dead(const struct request *r, struct script *s);

/* Steps until the batch is done; its items stay to be looked at until finish(). */
void run_to_done(const struct sim_batch *b);
void step_until_waiting(const struct sim_batch *b, unsigned item);
void run_until_ms(int64_t ms);
int64_t elapsed_ms(int64_t at_us);

#define EXPECT_ITEM(b, i, want_code, want_stop, want_delivered, want_attempts)                        \
	CHECK(VERDICT,                                                                                \
	      (b)->items[i].code == CODE_##want_code && (b)->items[i].stop == STOP_##want_stop &&         \
		      (b)->items[i].delivered == DELIVERED_##want_delivered &&                            \
		      (b)->items[i].attempts == (want_attempts),                                          \
	      "item %u: %s, stop %s, %s, %u attempts", (unsigned)(i), code_str((enum code)(b)->items[i].code), \
	      stop_str((enum stop)(b)->items[i].stop), delivered_str((enum delivered)(b)->items[i].delivered), \
	      (b)->items[i].attempts)
