"""Order statistics, without assumptions about a distribution."""

import math
import statistics


def percentile(values, p):
    """Nearest rank: always one of the values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(p / 100 * len(ordered)) - 1)]


def spread(values):
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def distribution(values):
    return {**{f"p{p}": percentile(values, p) for p in (50, 90, 99)}, "max": max(values), "n": len(values)}
