"""Files that are whole or as they were, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["locked", "replaced", "write"]


@contextlib.contextmanager
def replaced(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its place if all goes well, and goes if not.

    A link stays a link: what it points to is replaced. A device or a pipe cannot be replaced, only
    written to, so there `path` itself is given.

    !!! example
        ```python
        with replaced("plot.png") as temporary:
            figure.savefig(temporary, format="png")
        ```

    # Arguments
        path: the file that shall hold its old or its whole new content.

    # Raises
        OSError: it cannot be written, with `path` as its file name.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    target = path.resolve()
    writer = f"{os.getpid()}-{threading.get_ident()}"  # two may write at once
    temporary = target.with_name(f".{target.name}.{writer}.tmp")
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # a full disk does not say what did not fit
        raise
    finally:
        temporary.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # some file systems cannot sync a directory
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Writes a whole file, text in UTF-8.

    # Raises
        OSError: it cannot be written; it is as it was.
    """
    with replaced(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def locked(folder: str | os.PathLike[str], *, wait: bool) -> Iterator[None]:
    """Keeps out of a folder whoever else asks so, until the block ends or the process dies.

    The folder itself is locked, and nothing is left in it. Where there is no such lock, on other
    systems and on some network drives, it is used without.

    # Arguments
        folder: one that is there.
        wait: for another process to end, or give up at once.

    # Raises
        BlockingIOError: another process is in the folder, and `wait` is False.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
