"""How long something takes, in words."""

from __future__ import annotations

__all__ = ["duration"]


def duration(seconds: float) -> str:
    """Seconds as a person says them: `"2 h 05 min"`, `"3 min 20 s"` or `"12 s"`.

    # Arguments
        seconds: 0 or above; rounded to whole ones.
    """
    minutes, whole = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {whole:02d} s" if minutes else f"{whole} s"
