#include "core/part.h"

unsigned part_of(unsigned whole, unsigned n, unsigned i)
{
	return whole / n + (i < whole % n);
}
