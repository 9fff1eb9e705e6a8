"""Costs of a function as numbers of calls, which do not depend on the load of the machine."""

import math
import sys
from collections.abc import Callable

MAX_EXPONENT = 1.3  # of calls over items: above 1 for sorting and for noise


def count_calls(function: Callable) -> int:
    "Count the calls of Python and built-in functions that a function makes."
    count = 0

    def profiler(frame, event, _):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profiler)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


def growth_exponent(small: tuple[int, int], large: tuple[int, int]) -> float:
    "Return the exponent of cost over items from two pairs (items, cost)."
    return math.log(large[1] / small[1]) / math.log(large[0] / small[0])
