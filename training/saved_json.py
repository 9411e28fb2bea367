"""JSON files of a run or study, as they may be when a person or a failing disk had them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["WAY_OUT", "read_object"]

WAY_OUT = "Remove the file and run the command that wrote it again."


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    # Raises
        ValueError: there is none in it, naming the file and the way out.
        OSError: it cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8-sig"))  # some editors leave a mark
        reason = None if isinstance(values, dict) else "it holds no JSON object"
    except RecursionError:
        reason = "nested too deep"
    except ValueError as error:
        reason = str(error)
    if reason:
        raise ValueError(f"{path} is damaged ({reason}). {WAY_OUT}")
    return values
