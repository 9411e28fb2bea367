"""Time a converted file on a phone or a board: the commands to run there, and their output read.

The tool is LCE's build of TensorFlow Lite's `benchmark_model`.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hbnn_larq.edge.timing import Timing
from hbnn_larq.edge.twins import twin_paths

__all__ = ["device_commands", "read_device_output"]


def device_commands(path: str | os.PathLike[str], threads: Sequence[int] = (1,)) -> str:
    """The commands that time a file on a phone or a Raspberry Pi, ready to paste.

    The tool is LCE's build of TensorFlow Lite's benchmark tool, from LCE's releases; the device
    pages in `docs/` say more. Twins that lie beside the file are timed too. What the tool prints
    goes to a file for `read_device_output`.

    # Arguments
        path: the .tflite.
        threads: thread counts to try.
    """
    files = [Path(path), *(twin for twin in twin_paths(path).values() if twin.exists())]
    pushed = shlex.join(map(str, files))
    folder = "/data/local/tmp"
    phone: list[str] = []
    pi: list[str] = []
    for count, file in itertools.product(threads, files):
        graph = shlex.quote(shlex.quote(file.name))  # for the shell here and the one over there
        options = f"{graph} --num_threads={count} --num_runs=50"
        tee = "tee -a" if phone else "tee"
        phone.append(
            f"adb shell {folder}/lce_benchmark_model --graph={folder}/{options} 2>&1 "
            f"| {tee} phone.txt"
        )
        pi.append(
            f"ssh pi@raspberrypi.local ./lce_benchmark_model --graph={options} 2>&1 | {tee} pi.txt"
        )
    return "\n".join(
        [
            "# Android phone (64-bit), over adb",
            f"adb push lce_benchmark_model_android_arm64 {folder}/lce_benchmark_model",
            f"adb push {pushed} {folder}/",
            f"adb shell chmod +x {folder}/lce_benchmark_model",
            *phone,
            "",
            "# Raspberry Pi or another 64-bit ARM board, over ssh",
            "scp lce_benchmark_model_aarch64 pi@raspberrypi.local:lce_benchmark_model",
            f"scp {pushed} pi@raspberrypi.local:",
            "ssh pi@raspberrypi.local chmod +x lce_benchmark_model",
            *pi,
            "",
            "# then read it back into the same table",
            f"hbnn benchmark {shlex.quote(str(path))} --device-output phone.txt",
        ]
    )


def read_device_output(
    text: str, path: str | os.PathLike[str], *, where: str
) -> tuple[Timing, ...]:
    """The lines of the table from what `lce_benchmark_model` printed.

    # Arguments
        text: its output, of one run or of several, one after the other; Android's log will do.
        path: the .tflite that it ran; runs of its twins are known by their names.
        where: what to call the device.

    # Returns
        A `Timing` for each run.

    # Raises
        ValueError: there are no timings in the text, or those of another file.
    """
    call = "read_device_output(text)"
    # Each run starts with its settings; the graph's name is among them, threads may come before.
    runs = re.split(r"^(?=.*Log parameter values)|(?:^(?=.*STARTING!))", text, flags=re.MULTILINE)
    timings = [_device_timing(run, Path(path), where, call) for run in runs if _counts(run)]
    if not timings:
        raise ValueError(
            f"{call}: there is no line like 'count=50 first=... min=... max=... avg=...' in it. "
            "Pass everything that lce_benchmark_model printed (2>&1)."
        )
    return tuple(timings)


def _counts(run: str) -> list[dict[str, str]]:
    """The statistics of a run as TensorFlow Lite prints them, warm-up first."""
    lines = re.findall(r"\bcount=[1-9].*", run)
    return [dict(re.findall(r"(\w+)=([\d.e+]+)", line)) for line in lines]


def _device_timing(run: str, path: Path, where: str, call: str) -> Timing:
    files = {path.name: ("lce", path)}
    files |= {twin.name: (name, twin) for name, twin in twin_paths(path).items()}
    graph = re.search(r"Graph: \[(.*?)\]", run)
    ran = Path(graph.group(1)).name if graph else path.name
    if ran not in files:
        raise ValueError(
            f"{call}: the device ran {ran!r}, not {path.name!r} or its twins. Read the output back "
            "with the file that it is about."
        )
    name, file = files[ran]
    numbers = _counts(run)[-1]  # the first such line is the warm-up's
    median = numbers.get("median")
    low, high = numbers.get("p5"), numbers.get("p95")
    note = " (p5 to p95)"
    if median is None or low is None or high is None:  # equal times are printed as curr alone
        median = numbers.get("avg", numbers["curr"])
        low, high = numbers.get("min", median), numbers.get("max", median)
        note = " (mean, min to max)"
    threads = re.search(r"(?:Num threads|num_threads|CPU inference)[:=]\s*\[?(\d+)", run)
    memory = re.search(r"overall=([\d.]+)", run)
    megabytes = re.search(r"model file size \(MB\): ([\d.]+)", run)
    size = 1e6 * float(megabytes.group(1)) if megabytes else 0.0
    return Timing(
        name=name,
        bytes=file.stat().st_size if file.exists() else int(size),
        threads=int(threads.group(1)) if threads else 1,
        runs=int(numbers["count"]),
        median_ms=float(median) / 1e3,
        p10_ms=float(low) / 1e3,
        p90_ms=float(high) / 1e3,
        peak_mb=float(memory.group(1)) if memory else None,
        where=where + note,
    )
