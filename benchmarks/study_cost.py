"""What each method of the study costs: time of a training step, memory, size of the file.

    python benchmarks/study_cost.py                        # docs/results/study_cost.json
    python benchmarks/study_cost.py --rounds 2 --width 0.125   # does it run at all

The network is VGGSmall on 32x32 colour images, batches of 32. Steps are timed in one process, all
methods taking turns; what a step costs beside that of plain sign is the median of the ratios within
a round. Peak memory and the converted file come from a process for each method. Run it on an idle
machine; `python benchmarks/study.py report` puts the figures into `docs/study.md`.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from timing import KEEP_MEMORY, in_turns, machine, save, start_again_with

start_again_with({**KEEP_MEMORY, "TF_CPP_MIN_LOG_LEVEL": "3"})

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from study import FLOAT, GEODESIC, HALVES, MAPS, METHODS, PLAIN, RESULTS  # noqa: E402

from hbnn_larq import edge  # noqa: E402
from hbnn_larq.training.compare import method  # noqa: E402
from hbnn_larq.training.models import build_model, build_optimizer  # noqa: E402
from hbnn_larq.training.recipe import Recipe  # noqa: E402
from hbnn_larq.training.steps import TrainStep  # noqa: E402

COSTS = RESULTS.parent / "study_cost.json"
SHAPE, CLASSES, BATCH = (32, 32, 3), 10, 32


def prepared(words: str, width: float) -> tuple[tf.keras.Model, Any]:
    """A fresh model and a call that takes one step on a fixed random batch."""
    base = Recipe(
        name="cost", source="study", dataset="textures", model="vgg_small", width=width,
        batch_size=BATCH, learning_rate=1e-3,
    )  # fmt: skip
    recipe = method(base, words)
    tf.keras.utils.set_random_seed(0)
    model = build_model(recipe, SHAPE, CLASSES)
    optimizer = build_optimizer(recipe, 1000 * BATCH)
    optimizer.build(model.trainable_variables)
    step = TrainStep(model, optimizer, num_classes=CLASSES)
    rng = np.random.default_rng(0)
    images = tf.constant(rng.standard_normal((BATCH, *SHAPE), np.float32))
    labels = tf.constant(rng.integers(0, CLASSES, BATCH))
    return model, lambda: step(images, labels)


def alone(words: str, width: float) -> dict[str, Any]:
    """Memory and file of one method, in a process that does nothing else."""
    model, step = prepared(words, width)
    for _ in range(3):
        step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # before anything is converted
    return {"peak_mb": peak, "file_kb": None if words == FLOAT else len(edge.convert(model)) / 1000}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--width", type=float, default=1.0, help="of VGGSmall")
    parser.add_argument("--out", type=Path, default=COSTS, help="where the figures go")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.alone:
        print(json.dumps(alone(args.alone, args.width)))
        return 0
    tf.get_logger().setLevel("ERROR")
    activation = HALVES["ste_sign:input_quantizer=rbnn_sign"]
    words = (*METHODS, GEODESIC, MAPS[PLAIN], MAPS["hyperbolic:r=0.05"], activation, FLOAT)
    methods: dict[str, dict[str, Any]] = {}
    for name in words:
        child = [sys.executable, __file__, "--alone", name, "--width", str(args.width)]
        found = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True)
        methods[name] = json.loads(found.stdout.splitlines()[-1])
        print(name, methods[name], flush=True)
    contenders = {name: prepared(name, args.width)[1] for name in words}
    results = {
        "machine": machine(("tensorflow", "larq", "hbnn_larq")),  # its load when timing begins
        "rounds": args.rounds,
        "width": args.width,
        "methods": methods,
    }
    seconds = in_turns(contenders, args.rounds)
    for name, values in seconds.items():
        pairs = zip(values, seconds[PLAIN], strict=True)
        row = methods[name]
        row["step_ms"] = 1e3 * statistics.median(values)
        row["step_ratio"] = statistics.median(a / b for a, b in pairs)
        print(f"{name:55}{row['step_ms']:9.1f} ms{row['step_ratio']:7.2f}", flush=True)
    save(results, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
