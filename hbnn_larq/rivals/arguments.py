"""Checks of the arguments of rivals, with one form of message."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["require", "require_between"]


def require(holds: bool, call: str, argument: str, value: Any, what: str) -> None:
    """ValueError naming the call, the value and what must hold, unless it holds."""
    if not holds:
        raise ValueError(f"{call}({argument}={value!r}): {what}.")


def require_between(call: str, argument: str, value: Any, low: float, high: float) -> None:
    """ValueError unless `value` is a finite number above `low` and at most `high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    require(
        number and low < value <= high and math.isfinite(value),
        call,
        argument,
        value,
        f"a number above {low:g}" + (f", at most {high:g}" if math.isfinite(high) else ""),
    )
