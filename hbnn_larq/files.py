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

    A link stays a link: what it points to is replaced. A device or a pipe cannot be replaced, only
    written to, so there `path` itself is given.

    !!! example
        ```python
        with replaced("table.csv") as temporary:
            temporary.write_text(text)
        ```

    # Arguments
        path: the file that shall hold its old or its whole new content.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two may write at once
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
