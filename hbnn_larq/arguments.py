"""Checks of arguments, with one form of message."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

__all__ = ["is_number", "require", "require_between", "require_share", "require_whole"]


def is_number(value: Any) -> bool:
    """Whether a value is one real number, of Python or NumPy; a boolean is none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require(holds: bool, call: str, argument: str, value: Any, what: str) -> None:
    """ValueError naming the call, the value and what must hold, unless it holds."""
    if not holds:
        raise ValueError(f"{call}({argument}={value!r}): {what}.")


def require_between(call: str, argument: str, value: Any, low: float, high: float) -> None:
    """ValueError unless `value` is a finite number above `low` and at most `high`."""
    require(
        is_number(value) and low < value <= high and math.isfinite(value),
        call,
        argument,
        value,
        f"a number above {low:g}" + (f", at most {high:g}" if math.isfinite(high) else ""),
    )


def require_share(call: str, argument: str, value: Any) -> None:
    """ValueError unless `value` is a number from 0 to 1."""
    require(is_number(value) and 0 <= value <= 1, call, argument, value, "a number from 0 to 1")


def require_whole(call: str, argument: str, value: Any, low: int) -> None:
    """ValueError unless `value` is a whole number of at least `low`."""
    whole = isinstance(value, Integral) and is_number(value)
    require(whole and value >= low, call, argument, value, f"a whole number, {low} or above")
