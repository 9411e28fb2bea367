"""One process at a time in the folder of a run, without a trace in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["alone_in"]


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in a folder, which is created where missing.

    The folder itself is locked: nothing is left in it, and the lock of a process that dies goes
    with it. A file system that locks no folders (NFS) is used without.

    # Raises
        ValueError: another process is training there.
        OSError: the folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{folder}: another process is training in this folder. Wait until it ends, or "
                "use another --workdir."
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
