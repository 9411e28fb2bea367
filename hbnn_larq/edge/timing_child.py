"""Times one file in a process of its own, so that memory and threads are its own too.

Started by `timing.py` as a script. LCE's interpreter runs plain .tflite files as well, so a file
and its twins are timed by one program.

    python timing_child.py LIBRARY FILE.tflite THREADS WARMUP RUNS
"""

import importlib.util
import json
import os
import resource
import sys
import time

import numpy as np


def peak_kb() -> int:
    status = "/proc/self/status"
    if os.path.exists(status):  # on Linux ru_maxrss starts at what the parent had when it forked
        with open(status, encoding="utf-8") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


def main(library: str, path: str, threads: str, warmup: str, runs: str) -> None:
    name = "interpreter_wrapper_lite"
    spec = importlib.util.spec_from_file_location(name, library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = peak_kb()
    with open(path, "rb") as file:
        interpreter = module.LiteInterpreter(file.read(), int(threads), False, False, True)
    rng = np.random.default_rng(0)
    inputs = [
        rng.integers(0, 128, shape).astype(dtype)  # what every type holds
        if np.issubdtype(dtype, np.integer)
        else rng.normal(size=shape).astype(dtype)
        for shape, dtype in zip(interpreter.input_shapes, interpreter.input_types, strict=True)
    ]
    times = []
    for _ in range(int(warmup) + int(runs)):
        start = time.perf_counter()
        interpreter.predict(inputs)
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": times[int(warmup) :], "peak_kb": peak_kb() - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
