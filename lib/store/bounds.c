/*
 * The buckets of what the store measures: constants alone, also for who counts
 * without the store.
 */
#include "store/store.h"

const uint32_t store_timing_bounds_us[11] = {
	100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 1000000,
};
const uint32_t store_group_bounds[11] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096};
