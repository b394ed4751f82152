#include "sim.h"
const struct scenario scenarios[] = {{0}};
const unsigned n_scenarios = 0;
