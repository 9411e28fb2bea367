"""One file over HTTP: resumed where it broke off, checked, moved into place when it is right.

A small file that may change between two calls is read as a whole instead.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from hbnn_larq import files

__all__ = ["download", "read", "sha256_of"]

CHUNK = 1 << 16
GONE = (404, 410)  # no such file, as HTTP has it
Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all


def sha256_of(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(
    url: str,
    path: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    timeout: float = 20.0,
    attempts: int = 4,
    pause: float = 0.5,
) -> Path:
    """Fetches `url` into `path`.

    What has arrived waits in `path` + `.part`; a broken connection, and a later call, go on from
    there. `path` itself appears only when the file is complete and has the right hash.

    # Arguments
        url: http, https or file address.
        path: where the file goes; its folder is made.
        sha256: the hash it must have, hexadecimal.
        progress: called with the bytes so far and in all (`None` while unknown).
        timeout: seconds without a byte after which a connection counts as broken.
        attempts: connections to try in all; each that brought something counts anew.
        pause: seconds before the second attempt, doubled before each further one.

    # Returns
        The path.

    # Raises
        ConnectionError: the server cannot be reached, or keeps breaking off.
        FileNotFoundError: the server has no such file.
        ValueError: the file has another hash; both are named, and nothing is kept.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(path.parent, wait=True):  # who comes second finds it done
        if path.exists() and sha256 in (None, sha256_of(path)):
            return path  # another process was faster
        resumed = part.exists()
        _fetch(url, part, progress, timeout, attempts, pause)
        if sha256 is not None and (got := sha256_of(part)) != sha256:
            part.unlink()
            if resumed:  # the first half may have been another file's
                _fetch(url, part, progress, timeout, attempts, pause)
                got = sha256_of(part)
            if got != sha256:
                part.unlink(missing_ok=True)
                raise ValueError(
                    f"{url} is not the file it should be: expected sha256 {sha256}, got {got}. "
                    "Nothing was kept. The mirror may be out of date: take another, or update "
                    "hbnn_larq."
                )
        part.replace(path)
    return path


def read(url: str, *, timeout: float = 10.0) -> bytes:
    """What is at `url` now, whole or not at all, in one attempt.

    # Raises
        ConnectionError: the server cannot be reached, or broke off.
        FileNotFoundError: the server has no such file.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _failure(url, error) from error


def _fetch(
    url: str, part: Path, progress: Progress | None, timeout: float, attempts: int, pause: float
) -> None:
    left = attempts
    while True:
        before = _size(part)
        try:
            _fetch_once(url, part, progress, timeout)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # what we hold is longer than the file
                part.unlink()
                continue
            if error.code in GONE:
                raise _failure(url, error) from error
            fault: Exception = error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and _is_local(error):
                raise
            fault = error
        left = attempts - 1 if _size(part) > before else left - 1
        if left <= 0:
            raise _failure(url, fault, kept=_size(part)) from fault
        time.sleep(pause)
        pause *= 2


def _fetch_once(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        status = getattr(response, "status", None)
        if have and status != 206:  # this server sends whole files only
            have = 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                if progress:
                    progress(have, total)
    if total is not None and have < total:
        raise ConnectionError(f"the connection broke off after {have:,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_local(error: OSError) -> bool:
    """A fault of this machine's disk, which no further attempt mends."""
    return error.filename is not None and not isinstance(error, urllib.error.URLError)


def _failure(url: str, error: Exception, kept: int = 0) -> OSError:
    """What to raise where an attempt was the last one."""
    if isinstance(error, urllib.error.HTTPError) and error.code in GONE:
        return FileNotFoundError(
            f"{url}: the server has no such file (HTTP {error.code}). Is the base address right "
            "(HBNN_LARQ_WEIGHTS, --from)?"
        )
    rest = f" {kept:,} bytes are kept; the same call goes on from there." if kept else ""
    return ConnectionError(
        f"{url}: {_reason(error)}.{rest} Without a network, put the file into a folder and point "
        "HBNN_LARQ_WEIGHTS at it."
    )


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered HTTP {error.code}"
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection broke off after {len(error.partial):,} bytes"
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return "the server stopped sending"
    if isinstance(error, urllib.error.URLError):
        return f"the server cannot be reached ({cause})"
    return str(cause) or type(cause).__name__
