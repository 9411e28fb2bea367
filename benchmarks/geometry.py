"""The geometry benchmark: the hyperbolic weight map, its gradient and the update of p.

    python benchmarks/geometry.py                        # everything, about 15 minutes
    python benchmarks/geometry.py --only resnet18        # the table of the targets alone
    python benchmarks/geometry.py --rounds 2 --quick     # does it run at all

All figures of a table come from one run on one core, contenders in turns, medians; trust the
ratios, not the milliseconds, and run it on an idle machine. The memory floor (floor.c) is a C
loop over the same arrays with next to no arithmetic. geoopt and torch are optional:
`pip install hbnn_larq[bench]`.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from timing import (
    KEEP_MEMORY,
    ONE_THREAD,
    in_turns,
    machine,
    medians,
    one_core,
    save,
    start_again_with,
)

start_again_with({**KEEP_MEMORY, **ONE_THREAD, "TF_CPP_MIN_LOG_LEVEL": "3"})
CORE = one_core()

import contenders  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

tf.get_logger().setLevel("ERROR")  # every table traces graphs of its own

R = 0.05
GRANULARITIES = {"layer": None, "filter": (0, 1, 2)}
# The sixteen binary kernels of ResNet18 for 32x32 inputs, 11 million weights.
RESNET18: list[tuple[int, ...]] = [
    *[(3, 3, 64, 64)] * 4,
    (3, 3, 64, 128),
    *[(3, 3, 128, 128)] * 3,
    (3, 3, 128, 256),
    *[(3, 3, 256, 256)] * 3,
    (3, 3, 256, 512),
    *[(3, 3, 512, 512)] * 3,
]
SINGLE: list[tuple[int, ...]] = [(3, 3, 64, 64), (3, 3, 256, 256), (3, 3, 512, 512)]
# Channels from 128 to 512, round and odd, equal and not, other windows and a dense kernel.
CLIFFS: list[tuple[int, ...]] = [
    *[(3, 3, n, n) for n in (128, 129, 160, 192, 200, 250, 255, 256, 320, 384, 448, 509, 512)],
    *[(3, 3, 128, 256), (3, 3, 256, 128), (3, 3, 256, 509), (3, 3, 127, 511), (3, 3, 512, 128)],
    *[(1, 1, 256, 512), (1, 1, 512, 512), (5, 5, 128, 128), (7, 7, 128, 130), (1, 1, 8192, 1024)],
]
WEIGHTS_PER_GRAPH = 2_400_000  # small kernels are timed several to a graph, as in a network

# Issue targets over the ResNet18 kernels: at most so many floors, at least so much faster.
MOST_FLOORS = {"layer": 1.9, "filter": 2.5}
LEAST_OVER_GEOOPT = {"layer": 8.0, "filter": 6.0}
MOST_FLOORS_ANY_KERNEL = {"layer": 3.0, "filter": 3.5}


def kernels_of(shapes, seed=0):
    """He-normal v, points p with sqrt(r)|p| of about 0.3 for a filter, random gradients."""
    rng = np.random.default_rng(seed)
    kernels = []
    for shape in shapes:
        fan_in = np.prod(shape[:-1])
        p, v, dy = (rng.standard_normal(shape, np.float32) for _ in range(3))
        v *= (2 / fan_in) ** 0.5
        p *= 0.3 / R**0.5 / np.prod(shape) ** 0.5
        kernels.append((p, v, dy))
    return kernels


class Benchmark:
    """The contenders that this machine can run."""

    def __init__(self, geoopt: bool, floor: bool) -> None:
        self.library = contenders.compile_floor() if floor else None
        self.geoopt = geoopt
        if geoopt:
            import torch

            torch.set_num_threads(1)

    def maps(self, plain: bool = True):
        calls = {"ours": contenders.our_map, "ours, no XLA": contenders.our_map_without_xla}
        if plain:
            calls["plain TF, graph"] = contenders.plain_map
            calls["plain TF, jit"] = lambda *args: contenders.plain_map(*args, jit_compile=True)
        if plain and self.geoopt:
            calls["geoopt"] = contenders.geoopt_map
            calls["geoopt.math"] = contenders.geoopt_math_map
        if self.library:
            calls["floor"] = lambda *args: contenders.floor_map(*args, self.library)
        return {**calls, "np.copyto": contenders.copy}

    def updates(self):
        calls = {"ours": contenders.our_update, "plain TF, graph": contenders.plain_update}
        if self.geoopt:
            calls["geoopt"] = contenders.geoopt_update
        if self.library:
            calls["floor"] = lambda *args: contenders.floor_update(*args, self.library)
        return {**calls, "np.copyto": contenders.copy}

    def milliseconds(self, calls, shapes, axis, rounds) -> dict[str, float]:
        kernels = kernels_of(shapes)
        axes = axis if axis is None else tuple(range(len(shapes[0]) - 1))
        prepared = {name: prepare(kernels, axes, R) for name, prepare in calls.items()}
        return {name: 1e3 * s for name, s in medians(in_turns(prepared, rounds)).items()}


def copies(shape) -> int:
    return int(min(16, max(2, WEIGHTS_PER_GRAPH // np.prod(shape))))


def ratio(times, name, unit="floor") -> float | None:
    return times[name] / times[unit] if name in times and unit in times else None


def show(title: str, columns: dict[str, dict[str, float]]) -> None:
    """One table: contenders down, granularities across, with multiples of the floor."""
    print(f"\n{title}")
    unit = "floor" if "floor" in next(iter(columns.values())) else "np.copyto"
    print(f"{'':18}" + "".join(f"{name:>12} ms {'x ' + unit:>9}" for name in columns))
    for name in next(iter(columns.values())):
        cells = (
            f"{times[name]:15.2f} {times[name] / times[unit]:9.2f}" for times in columns.values()
        )
        print(f"{name:18}" + "".join(cells))


def memory(rounds: int, side: int) -> dict[str, dict[str, float]]:
    """Peak extra memory of one call, in kernels, each contender in a process of its own."""
    print(f"\nPeak extra memory, in kernels of 3x3x{side}x{side}; the outputs alone are 3")
    results: dict[str, dict[str, float]] = {}
    for name in ("ours", "plain TF, graph", "plain TF, jit", "geoopt"):
        for granularity in GRANULARITIES:
            child = subprocess.run(
                [sys.executable, __file__, "--memory-of", name, granularity, str(side)],
                capture_output=True,
                text=True,
                # TensorFlow's oneDNN build pools memory, which would hide the peak.
                env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0", "MALLOC_TRIM_THRESHOLD_": "0"}
                | {"MALLOC_MMAP_THRESHOLD_": "65536"},
            )
            if child.returncode == 0:
                value = float(child.stdout.split()[-1])
                results.setdefault(name, {})[granularity] = value
                print(f"{name:18} {granularity:8} {value:6.2f}")
            else:
                print(f"{name:18} {granularity:8} not measured: {child.stderr.strip()[-100:]}")
    return results


def memory_of(name: str, granularity: str, side: int) -> None:
    """Prints (largest resident size during a call - size before it) / size of the kernel."""

    def resident(field):
        with open("/proc/self/status", encoding="utf-8") as status:
            line = next(line for line in status if line.startswith(field))
        return int(line.split()[1]) * 1024

    (kernel,) = kernels_of([(3, 3, side, side)])
    calls = {**Benchmark(geoopt=name == "geoopt", floor=False).maps()}
    run = calls[name]([kernel], GRANULARITIES[granularity], R)
    run()
    run()
    Path("/proc/self/clear_refs").write_text("5")  # forget the largest resident size so far
    before = resident("VmRSS")
    run()
    print((resident("VmHWM") - before) / kernel[0].nbytes)


def verdicts(results) -> list[str]:
    """The targets, each with what was measured."""
    lines = []

    def check(what, value, limit, at_most=True):
        if value is not None:
            met = value <= limit if at_most else value >= limit
            sign = "<=" if at_most else ">="
            lines.append(f"{'met ' if met else 'MISS'} {what}: {value:.2f} ({sign} {limit:g})")

    for granularity in GRANULARITIES:
        times = results.get("resnet18", {}).get(granularity, {})
        check(f"{granularity}, x floor", ratio(times, "ours"), MOST_FLOORS[granularity])
        least = LEAST_OVER_GEOOPT[granularity]
        check(f"{granularity}, geoopt / ours", ratio(times, "geoopt", "ours"), least, False)
        worst = max(
            (
                (ratio(columns[granularity], "ours") or 0, shape)
                for shape, columns in results.get("cliffs", {}).items()
            ),
            default=None,
        )
        if worst and worst[0]:
            limit = MOST_FLOORS_ANY_KERNEL[granularity]
            check(f"{granularity}, worst kernel {worst[1]}, x floor", worst[0], limit)
        kernels = results.get("memory", {}).get("ours", {}).get(granularity)
        check(f"{granularity}, extra memory in kernels", kernels, 3.1)
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument(
        "--quick", action="store_true", help="three small cliff shapes, 1 MB memory"
    )
    parser.add_argument(
        "--only", nargs="+", choices=["resnet18", "update", "single", "cliffs", "memory"]
    )
    parser.add_argument("--no-geoopt", action="store_true")
    parser.add_argument("--no-floor", action="store_true")
    parser.add_argument("--out", default="geometry.json", help="where the figures go")
    parser.add_argument("--memory-of", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory_of:
        name, granularity, side = args.memory_of
        memory_of(name, granularity, int(side))
        return 0

    has_geoopt = not args.no_geoopt
    if has_geoopt:
        try:
            import geoopt  # noqa: F401
        except ImportError:
            print("geoopt is not installed and left out: pip install hbnn_larq[bench]")
            has_geoopt = False
    wanted = args.only or ["resnet18", "update", "single", "cliffs", "memory"]
    packages = ("tensorflow", "numpy", "torch", "geoopt", "hbnn_larq")
    results: dict = {"machine": machine(packages), "core": CORE, "rounds": args.rounds, "r": R}
    print(json.dumps(results["machine"], indent=2))
    benchmark = Benchmark(has_geoopt, not args.no_floor)

    def both(calls, shapes, rounds=args.rounds):
        return {
            granularity: benchmark.milliseconds(calls, shapes, axis, rounds)
            for granularity, axis in GRANULARITIES.items()
        }

    if "resnet18" in wanted:
        results["resnet18"] = both(benchmark.maps(), RESNET18)
        show("Forward and backward of the 16 binary kernels of ResNet18", results["resnet18"])
    if "update" in wanted:
        results["update"] = both(benchmark.updates(), RESNET18)
        show("Update of p for the same kernels", results["update"])
    if "single" in wanted:
        results["single"] = {}
        for shape in SINGLE:
            n = copies(shape)
            columns = both(benchmark.maps(), [shape] * n)
            results["single"]["x".join(map(str, shape))] = columns
            show(f"{n} kernels of {'x'.join(map(str, shape))}", columns)
    if "cliffs" in wanted:
        results["cliffs"] = {}
        print("\nOurs in multiples of the floor, kernel by kernel\n" + " " * 20 + "layer  filter")
        for shape in CLIFFS[:3] if args.quick else CLIFFS:
            columns = both(benchmark.maps(plain=False), [shape] * copies(shape))
            name = "x".join(map(str, shape))
            results["cliffs"][name] = columns
            cells = [ratio(columns[g], "ours") for g in GRANULARITIES]
            print(f"{name:18}" + "".join(f"{x:8.2f}" if x else "       -" for x in cells))
    if "memory" in wanted:
        results["memory"] = memory(args.rounds, 170 if args.quick else 1448)

    results["verdicts"] = verdicts(results)
    print("\n" + "\n".join(results["verdicts"]))
    save(results, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
