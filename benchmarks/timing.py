"""Fair timing on one machine: contenders take turns, and the median of each is kept."""

import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

# The C library reads these when a process starts. With its defaults torch gives every large block
# back and pays page faults for the next, which TensorFlow's pool does not.
KEEP_MEMORY = {
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
}
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
}


def start_again_with(environment: dict[str, str]) -> None:
    """Replace this process by one that has `environment` from its start, unless it has it."""
    if any(os.environ.get(name) is None for name in environment):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**environment, **os.environ})


def one_core() -> int | None:
    """Bind this process to one core."""
    if not hasattr(os, "sched_setaffinity"):  # macOS, Windows
        return None
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def in_turns(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round.

    Every round calls every contender once, so that a change of clock speed or a neighbour's load
    meets all of them. Two calls first, uncounted: compilation and the first touch of memory.
    """
    for run in contenders.values():
        run()
        run()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    gc.disable()
    try:
        for _ in range(rounds):
            for name, run in contenders.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    finally:
        gc.enable()
    return seconds


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def machine(packages: tuple[str, ...]) -> dict[str, Any]:
    """What a reader needs to judge a figure: processor, system, versions, load at the start."""
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def save(results: dict[str, Any], out: str | Path) -> None:
    """Write the figures as JSON, whole or not at all, and say where."""
    temporary = Path(f"{out}.tmp")
    temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    temporary.replace(out)
    print(f"\nfigures: {out}")


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            return next(line.split(":")[1].strip() for line in info if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
