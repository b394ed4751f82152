/*
 * How services, and tenants, share what there is of something. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Something there is a limit of, shared between services: room in memory for
 * jobs, by bytes, and slots in flight, one by one. By dynamic thresholds
 * (A. K. Choudhury, E. L. Hahne, "Dynamic queue length thresholds for
 * shared-memory packet switches", IEEE/ACM Transactions on Networking, 1998):
 * a service may take more while what it holds is less than what is free, so
 * whoever never gives any back leaves the others a fair part. Pure.
 */
struct residency {
	size_t used;
	size_t *held;                    /* by service; the last for ITEM_NO_SERVICE */
	size_t n_services;
};

void residency_init(struct residency *r, size_t n_services);
void residency_free(struct residency *r);
/* Whoever takes only when it may never makes `used` more than the limit and one. */
bool residency_may_take(const struct residency *r, size_t limit, uint16_t service);
/* The same for one of several parts of a service, which holds so much. */
bool residency_part_may_take(const struct residency *r, size_t limit, size_t held);
void residency_take(struct residency *r, uint16_t service, uint32_t bytes);
void residency_give(struct residency *r, uint16_t service, uint32_t bytes);

/* The same rule for what the group counts, between services and between tenants: does one
 * of `several` hold its part? Pure. */
static inline bool has_its_part(bool several, uint64_t held, uint64_t left)
{
	return held > 0 && held >= left && several;
}
