"""Which pretrained weights there are, and where a file of them is on this machine.

The registry is a JSON file beside the weights that ship with the package. Each row names a model,
the weights ("digits", "cifar10", ...), the architecture they fit and the command that trains
them; a row whose weights exist has a file name and its SHA-256 as well. A base address (a folder or
URL) holds further files, and may hold a registry of its own for what the package does not have.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import urllib.parse
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hbnn_larq import files
from hbnn_larq.zoo.download import Progress, download, read, sha256_of

__all__ = ["Pretrained", "fetch", "find", "list_pretrained"]

PACKAGED = Path(__file__).with_name("weights")
REGISTRY = "registry.json"
BASE_VARIABLE = "HBNN_LARQ_WEIGHTS"
CACHE_VARIABLE = "HBNN_LARQ_CACHE"


@dataclass(frozen=True)
class Pretrained:
    """One row of the registry.

    # Attributes
        model: name of the function in `hbnn_larq.zoo`.
        weights: name to pass as `weights=`.
        architecture: the arguments of the model that the weights fit.
        train: the command that trains them.
        file: name of the file, or `None` while nobody has trained and published them.
        sha256: its hash.
        bytes: its size.
        metrics: what was measured, such as `{"test_top1": 97.8}` in percent.
    """

    model: str
    weights: str
    architecture: dict[str, Any]
    train: str
    file: str | None = None
    sha256: str | None = None
    bytes: int | None = None
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def card(self) -> str | None:
        """Name of the model card beside the file."""
        return None if self.file is None else f"{Path(self.file).stem}.card.json"

    def published(self) -> Pretrained:
        """The row itself.

        # Raises
            ValueError: nobody has trained and published these weights yet.
        """
        if self.file is None or self.sha256 is None:
            raise ValueError(
                f"{self.model}(weights={self.weights!r}): these weights have not been trained and "
                f"published yet. Train them with `{self.train}`, and pass the path of the run's "
                "model.keras, or publish it (`hbnn zoo publish --help`)."
            )
        return self


def list_pretrained(base: str | os.PathLike[str] | None = None) -> list[Pretrained]:
    """All rows of the registry, those without weights yet among them (`file` is `None`).

    # Arguments
        base: folder or URL with further weights; by default the environment variable
            `HBNN_LARQ_WEIGHTS`, where it is set.

    # Returns
        A list of `Pretrained`.

    # Raises
        FileNotFoundError: the base is no folder.
        ConnectionError: its server cannot be reached, and its registry was never read before.
        ValueError: what it has is no registry.

    !!! example
        ```python
        [row.weights for row in list_pretrained() if row.file]   # ["digits"]
        ```
    """
    further = _rows_of_base(base)
    if further is None:
        warnings.warn(
            f"list_pretrained: {_base(base)} has no {REGISTRY}, so these are the package's weights "
            f"only ({BASE_VARIABLE}, --from).",
            stacklevel=2,
        )
    return list(_with_packaged(further or []).values())


def find(model: str, weights: str, base: str | os.PathLike[str] | None = None) -> Pretrained:
    """The row of some pretrained weights.

    # Raises
        ValueError: there is no such row; what there is, is named.
        FileNotFoundError, ConnectionError: the base had to be asked, and is not there.
    """
    rows, nothing_there = _with_packaged([]), ""
    row = rows.get((model, weights))
    if row is None or row.file is None:  # only then is it worth asking elsewhere
        further = _rows_of_base(base)
        if further is None:
            nothing_there = f"; {_base(base)} has no {REGISTRY} with more ({BASE_VARIABLE}, --from)"
        rows = _with_packaged(further or [])
        row = rows.get((model, weights))
    if row is None:
        names = [repr(r.weights) for r in rows.values() if r.model == model]
        others = [r.model for r in rows.values() if r.weights == weights]
        known = f"{model} knows {', '.join(names)}" if names else f"{model} has no pretrained ones"
        elsewhere = f"; {weights!r} is for {', '.join(others)}" if others else ""
        raise ValueError(
            f"{model}(weights={weights!r}): The `weights` argument should be either `None` (random "
            "initialization), the name of pretrained weights, or the path to the weights file to "
            f"be loaded. {known}{elsewhere}{nothing_there}."
        )
    return row


def fetch(
    row: Pretrained,
    *,
    base: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """The file of some pretrained weights on this machine, downloaded at the first call.

    Looked for in the package, in a base folder, in the cache, and at the base URL, in this order;
    its hash is checked each time.

    # Arguments
        row: from `find` or `list_pretrained`.
        base: folder or URL that holds the files; by default the environment variable
            `HBNN_LARQ_WEIGHTS`.
        cache: folder for downloads; by default the environment variable `HBNN_LARQ_CACHE`, else
            `~/.keras/hbnn_larq`.
        progress: called with the bytes so far and in all.

    # Returns
        The path of the file.

    # Raises
        ValueError: nobody has trained these weights yet, the file has another hash, or no base is
            known.
        ConnectionError, FileNotFoundError: the download failed.
    """
    file, sha256 = row.published().file, row.sha256
    assert file and sha256
    base = _base(base)
    folders = [PACKAGED] if base is None or _is_url(base) else [PACKAGED, Path(base)]
    for folder in folders:
        if (folder / file).exists():
            return _checked(folder / file, sha256)
    cached = _cache(cache) / file
    if cached.exists():
        if sha256_of(cached) == sha256:
            return cached
        cached.unlink()  # damaged since it was checked
    if base is None:
        raise ValueError(
            f"{row.model}(weights={row.weights!r}): the file {file} is not part of the "
            f"package. Set the environment variable {BASE_VARIABLE} to a folder or URL that has "
            "it."
        )
    if not _is_url(base):
        raise FileNotFoundError(
            f"{row.model}(weights={row.weights!r}): there is no {file} in {base} ({BASE_VARIABLE})."
        )
    return download(_join(base, file), cached, sha256=sha256, progress=progress)


def read_registry(path: Path) -> list[Pretrained]:
    """The rows of a registry file.

    # Raises
        ValueError: the file is no registry.
    """
    return _rows(path.read_bytes(), str(path))


def write_registry(path: Path, rows: Iterable[Pretrained]) -> None:
    """Writes a registry file, complete or not at all."""
    text = json.dumps({"weights": [dataclasses.asdict(row) for row in rows]}, indent=2)
    files.write(path, text + "\n")


def bar(name: str) -> Progress:
    """Progress on standard error, one line that is drawn anew."""

    def show(have: int, total: int | None) -> None:
        share = f"{have / total:4.0%} of {total / 1e6:.1f} MB" if total else f"{have / 1e6:.1f} MB"
        print(f"\r{name}  {share}", end="\n" if have == total else "", file=sys.stderr, flush=True)

    return show


def _rows(content: bytes, name: str) -> list[Pretrained]:
    try:
        rows = json.loads(content.decode())["weights"]
        known = {f.name for f in dataclasses.fields(Pretrained)}
        for row in rows:  # it may come from elsewhere, and must not reach beyond its folder
            file = row.get("file")
            if file is not None and (Path(file).name != file or file in ("", "..")):
                raise ValueError(f"{file!r} is no plain name of a file")
        return [Pretrained(**{k: v for k, v in row.items() if k in known}) for row in rows]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name} is no registry of weights ({error!r}).") from error


def _with_packaged(further: list[Pretrained]) -> dict[tuple[str, str], Pretrained]:
    """The rows of the package, and those of a base for what the package does not have."""
    rows = {(row.model, row.weights): row for row in read_registry(PACKAGED / REGISTRY)}
    for row in further:
        if row.file and not rows.get((row.model, row.weights), row).file:
            rows[row.model, row.weights] = row
        rows.setdefault((row.model, row.weights), row)
    return rows


def _rows_of_base(base: str | os.PathLike[str] | None) -> list[Pretrained] | None:
    """The rows of a base; `None` where it has no registry, as a mirror of files only."""
    base = _base(base)
    if base is None:
        return []
    if not _is_url(base):
        path = Path(base) / REGISTRY
        if not Path(base).is_dir():
            raise FileNotFoundError(
                f"{base!r}, where weights are looked for: there is no such folder, and it is no "
                f"http(s) URL. Correct {BASE_VARIABLE} (or --from), or leave it out."
            )
        return read_registry(path) if path.exists() else None
    url = _join(base, REGISTRY)
    kept = _cache(None) / f"registry-{hashlib.sha256(base.encode()).hexdigest()[:12]}.json"
    try:
        content = read(url)
    except FileNotFoundError:
        return None
    except ConnectionError:
        if not kept.exists():
            raise
        return read_registry(kept)
    try:
        rows = _rows(content, url)
    except ValueError as error:  # such as the page of a network that wants a login first
        if not kept.exists():
            raise
        warnings.warn(f"{error} The one kept from an earlier answer is used.", stacklevel=3)
        return read_registry(kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(kept.parent, wait=True):  # others may ask at the same time
        files.write(kept, content)
    return rows


def _base(base: str | os.PathLike[str] | None) -> str | None:
    chosen = os.environ.get(BASE_VARIABLE) if base is None else os.fspath(base)
    return chosen or None


def _cache(cache: str | os.PathLike[str] | None) -> Path:
    chosen = cache or os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    keras = os.environ.get("KERAS_HOME")
    return (Path(keras) if keras else Path.home() / ".keras") / "hbnn_larq"


def _is_url(base: str) -> bool:
    return base.startswith(("http://", "https://"))


def _join(base: str, name: str) -> str:
    return f"{base.rstrip('/')}/{urllib.parse.quote(name)}"


def _checked(path: Path, sha256: str) -> Path:
    got = sha256_of(path)
    if got != sha256:
        raise ValueError(
            f"{path} is not the file it should be: expected sha256 {sha256}, got {got}. Restore "
            "it, or remove it to have it fetched again."
        )
    return path
