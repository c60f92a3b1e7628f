"""How long something takes, here and now."""

import statistics
import time
from collections.abc import Callable

REPEATS = 15
"""Calls of which the median time counts; the first, which compiles, does not matter to it."""


def median_ms(call: Callable[[], object]) -> float:
    """Median wall time of a call, milliseconds, on this machine."""
    return 1000 * statistics.median(_seconds(call) for _ in range(REPEATS))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
