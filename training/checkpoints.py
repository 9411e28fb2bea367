"""Checkpoints that a crash cannot spoil: one file each, written aside and renamed.

A checkpoint is an `.npz` file (arrays by name, and one JSON text of plain state). It is written
to a temporary name, flushed to the disk and only then renamed, so a file with a checkpoint's name
is whole unless the disk itself lost bytes; the archive's own checksums find that case.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hbnn_larq.files import replaced

__all__ = ["Checkpoint", "newest", "save"]

_NAME = re.compile(r"step-(\d{9})\.npz")
_STATE = "state.json"
_MEMBERS = "members"  # of the state: names of the arrays, since an archive may lose some unnoticed


class Checkpoint(NamedTuple):
    """What a checkpoint holds.

    # Attributes
        step: training steps done.
        arrays: by name.
        state: plain values.
    """

    step: int
    arrays: dict[str, np.ndarray]
    state: dict[str, Any]


def save(
    directory: Path, step: int, arrays: dict[str, np.ndarray], state: dict[str, Any], *, keep: int
) -> Path:
    """Writes a checkpoint and removes all but it and the few before it.

    Later ones, which a run only leaves behind where they are damaged, and what a kill left of
    unfinished writes go as well.

    # Arguments
        directory: created where missing.
        step: training steps done; part of the file's name.
        arrays: by name; a name may hold slashes.
        state: anything JSON can hold.
        keep: checkpoints to leave, 1 or above.

    # Returns
        The file's path.

    # Raises
        OSError: where the disk is full or cannot be written, naming the file and the newest
            checkpoint that is still good.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step-{step:09d}.npz"
    text = np.frombuffer(json.dumps({**state, _MEMBERS: sorted(arrays)}).encode(), np.uint8)
    try:
        with replaced(path) as temporary, open(temporary, "wb") as file:
            _write_arrays(file, {_STATE: text, **arrays})
    except OSError as error:
        kept = [file for file in _files(directory) if file <= path]
        good = f"{kept[-1]} is intact" if kept else "there is no earlier one"
        raise OSError(
            error.errno,
            f"cannot write checkpoint {path} ({error.strerror or error}); {good}. "
            "Free some space and run the same command again",
        ) from None
    files = _files(directory)
    # A run goes on from the newest whole checkpoint, so what bears a later step is damaged.
    kept = [file for file in files if file <= path][-keep:]
    for old in {*files, *directory.glob(".step-*.npz.*.tmp")}.difference(kept):
        old.unlink(missing_ok=True)
    return path


def newest(directory: Path, notice: Callable[[str], None] = print) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are skipped with a notice.

    # Arguments
        directory: may be missing.
        notice: called with one line per damaged file.

    # Returns
        The checkpoint, or None where there is no whole one.
    """
    for path in reversed(_files(directory)):
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            state = json.loads(arrays.pop(_STATE).tobytes().decode())
            lost = sorted(set(state.pop(_MEMBERS, arrays)) - set(arrays))
            if lost:
                raise ValueError(f"{len(lost)} of its arrays are missing, the first {lost[0]}")
        except MemoryError:
            raise  # which says nothing of the file
        # The archive, its decompressors and the arrays raise errors of many kinds.
        except Exception as error:
            notice(f"skipped damaged checkpoint {path} ({error})")
            continue
        match = _NAME.fullmatch(path.name)
        assert match
        return Checkpoint(int(match[1]), arrays, state)
    return None


def _write_arrays(file: Any, arrays: dict[str, np.ndarray]) -> None:
    """The `.npz` format. `np.savez` leaves its archive open when the disk fills, this does not."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(value), allow_pickle=False)


def _files(directory: Path) -> list[Path]:
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _NAME.fullmatch(path.name))
