"""Files that are whole or as they were, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replaced"]


@contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place if all goes well, and goes if not.

    !!! example
        ```python
        with replaced("table.csv") as temporary:
            temporary.write_text(text)
        ```

    # Arguments
        path: the file that shall hold its old or its whole new content.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
