/*
 * A limit in parts: what one of several gets that keep to it together. Pure.
 */
#pragma once

/* Part i of n of a whole number. They add up to it, and differ by one at most. */
unsigned part_of(unsigned whole, unsigned n, unsigned i);
