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

/* The same rule for what the group counts, between services and between tenants: how much
 * too much one of `several` would hold with `more`, as if it took them one by one; 0: it may
 * have them. More than a quarter of what is left counts as that quarter: or a batch that
 * fits an idle process would wait until nothing is held by its service or tenant. Pure. */
static inline uint64_t over_its_part(bool several, uint64_t held, uint64_t more, uint64_t left)
{
	uint64_t last = held + MIN(2 * (more - MIN(more, 1u)), left / 2);

	return held > 0 && last >= left && several ? last + 1 - left : 0;
}
