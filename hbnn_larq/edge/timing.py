"""Time a converted file beside its float and int8 twins, on this machine."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq.arguments import require, require_whole
from hbnn_larq.edge import engine
from hbnn_larq.edge.conversion import convert, write_atomically
from hbnn_larq.edge.running import read_tflite
from hbnn_larq.edge.twins import float_twin, int8_twin, twin_paths

__all__ = ["Benchmark", "Timing", "benchmark"]

CHILD = Path(__file__).with_name("timing_child.py")
ROUNDS = 3  # the files take turns, so that a slow minute of the machine hits all of them
REFERENCE_NOTE = (
    "This machine is {machine}: LCE runs its reference code here, which is right but slow. Its "
    "fast kernels are for 64-bit ARM (aarch64), so the LCE times below say nothing about a phone "
    "or a Raspberry Pi. Measure there: see the commands."
)


@dataclass(frozen=True)
class Timing:
    """One file on a number of threads.

    # Attributes
        name: `"lce"`, `"float"` or `"int8"`.
        bytes: size of the file.
        threads: threads for the kernels.
        runs: single-image runs timed.
        median_ms, p10_ms, p90_ms: of one run. Device tools give other numbers for the spread, and
            old ones the mean for the median; `where` says so.
        peak_mb: memory that loading and running the file added to the process; None if unknown.
        where: the machine.
    """

    name: str
    bytes: int
    threads: int
    runs: int
    median_ms: float
    p10_ms: float
    p90_ms: float
    peak_mb: float | None
    where: str


@dataclass(frozen=True)
class Benchmark:
    """Result of `benchmark`: timings, and what they are worth."""

    timings: tuple[Timing, ...]
    note: str

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)

    def to_markdown(self) -> str:
        """A table, each file's time beside the float twin's on the same machine and threads."""
        base = {(t.where, t.threads): t.median_ms for t in self.timings if t.name == "float"}
        lines = [*([self.note, ""] if self.note else [])]
        lines += [
            "| file | size | threads | median ms (p10 to p90) | against float | memory | where |",
            "|---|---:|---:|---|---:|---:|---|",
        ]
        for t in self.timings:
            twin = base.get((t.where, t.threads))
            ratio = f"{t.median_ms / twin:.2f}x" if twin else ""
            memory = "" if t.peak_mb is None else f"{t.peak_mb:.1f} MB"
            lines.append(
                f"| {t.name} | {t.bytes / 1e3:,.1f} kB | {t.threads} | {t.median_ms:.2f} "
                f"({t.p10_ms:.2f} to {t.p90_ms:.2f}) | {ratio} | {memory} | {t.where} |"
            )
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        return self.to_markdown()


def benchmark(
    tflite: bytes | str | os.PathLike[str] | None = None,
    model: tf.keras.Model | None = None,
    *,
    images: Any = None,
    threads: Sequence[int] | int | None = None,
    runs: int = 60,
    warmup: int = 5,
    keep_twins: bool = False,
) -> Benchmark:
    """Latency and memory of a converted file, beside its float and int8 twins, in one run.

    Each file runs in processes of its own, one image at a time, the files taking turns. All are
    run by LCE's interpreter with XNNPACK on, which is what a device would use for the float ops.

    !!! warning
        On x86 LCE runs reference code. `note` says so; do not quote its times as those of a
        binary network.

    !!! example
        ```python
        print(benchmark(model=model))                 # converts, times the file and its twins
        print(benchmark("net.tflite", threads=[1]))   # only the file: no model, no twins
        ```

    # Arguments
        tflite: the file; converted from `model` if None.
        model: the Keras model, from which the twins are made; without it there are none.
        images: calibrate the int8 twin; random if None. Times do not depend on them.
        threads: thread counts, or one; default 1, 2, 4, ... up to this machine's cores.
        runs: timed runs per file and thread count.
        warmup: runs before the clock starts, in each process.
        keep_twins: write the twins beside the file (`net.float.tflite`, `net.int8.tflite` for
            `net.tflite`), to be timed on a device as well; needs a path and the model.

    # Returns
        A `Benchmark`.

    # Raises
        ValueError: neither file nor model; no thread counts; thread counts, runs or warm-up runs
            that are no whole numbers of at least 1, 1 and 0; twins to keep without
            model or path.
    """
    call = "benchmark(tflite, model)"
    if tflite is None and model is None:
        raise ValueError(f"{call}: give the .tflite file, the Keras model, or both.")
    if threads is None:
        cores = os.cpu_count() or 1
        threads = sorted({min(2**k, cores) for k in range(8)})
    threads = list(threads) if isinstance(threads, Iterable) else [threads]
    require(len(threads) > 0, "benchmark", "threads", threads, "at least one number of threads")
    for place, number in enumerate(threads):
        require_whole("benchmark", f"threads[{place}]", number, 1)
    require_whole("benchmark", "runs", runs, 1)
    require_whole("benchmark", "warmup", warmup, 0)
    threads, runs, warmup = [int(number) for number in threads], int(runs), int(warmup)
    if keep_twins and (model is None or tflite is None or isinstance(tflite, bytes)):
        raise ValueError(
            f"{call}: keep_twins=True writes the twins beside the file, so it needs the file's "
            "path and the Keras model that the twins are made from."
        )
    content = convert(model) if tflite is None else read_tflite(tflite, call=call)
    files = {"lce": content}
    if model is not None:
        files |= {"float": float_twin(model), "int8": int8_twin(model, images)}
    if keep_twins:
        for name, path in twin_paths(tflite).items():
            write_atomically(path, files[name])
    library = engine.interpreter_library(call)
    timings = []
    with tempfile.TemporaryDirectory(prefix="hbnn-benchmark-") as folder:
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        for count in threads:
            results: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
            for _ in range(ROUNDS):
                for name in files:
                    command = [library, Path(folder, name), count, warmup, -(-runs // ROUNDS)]
                    results[name].append(_time(command, call))
            timings += [
                _timing(name, len(files[name]), count, parts) for name, parts in results.items()
            ]
    machine = platform.machine()
    is_arm64 = machine.lower() in ("aarch64", "arm64")
    return Benchmark(tuple(timings), "" if is_arm64 else REFERENCE_NOTE.format(machine=machine))


def _time(arguments: Sequence[Any], call: str) -> dict[str, Any]:
    child = subprocess.run(
        [sys.executable, str(CHILD), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if child.returncode != 0:
        last = "\n".join(child.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"{call}: timing failed (exit {child.returncode}):\n{last}")
    return json.loads(child.stdout.splitlines()[-1])


def _timing(name: str, size: int, threads: int, parts: list[dict[str, Any]]) -> Timing:
    milliseconds = 1e3 * np.concatenate([part["seconds"] for part in parts])
    p10, median, p90 = np.percentile(milliseconds, [10, 50, 90])
    peak = max(part["peak_kb"] for part in parts) / 1024
    return Timing(
        name=name,
        bytes=size,
        threads=threads,
        runs=len(milliseconds),
        median_ms=float(median),
        p10_ms=float(p10),
        p90_ms=float(p90),
        peak_mb=float(peak),
        where=f"{platform.machine()} {platform.system()}",
    )
