"""What the hyperbolic quantizers add to a training step of the CIFAR ResNet18.

    python benchmarks/step.py                                # batches of 32 and 128
    python benchmarks/step.py --batches 8 --rounds 2         # does it run at all

The control is the same network with the same base points and a trivial quantizer, sign(v + p),
so the difference is the map and its gradient alone. Both networks take turns in one process;
the added time is the median of the differences within a round. Run it on an idle machine.
"""

import argparse
import json
import statistics
import sys

from timing import KEEP_MEMORY, in_turns, machine, medians, save, start_again_with

start_again_with({**KEEP_MEMORY, "TF_CPP_MIN_LOG_LEVEL": "3"})

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import hbnn_larq  # noqa: E402
from hbnn_larq import zoo  # noqa: E402
from hbnn_larq.quantizers import BallQuantizer  # noqa: E402

tf.get_logger().setLevel("ERROR")  # several graphs of one function are wanted here

MOST_ADDED = {"layer": 0.05, "filter": 0.07}  # of the control's step, at batch 32


@tf.custom_gradient
def _sign_of_sum(p, v):
    return tf.sign(tf.sign(v + p) + 0.5), lambda dy: (dy, dy)


@tf.keras.utils.register_keras_serializable("hbnn_larq_benchmarks")
class Control(BallQuantizer):
    """Base points and signs, but no map."""

    def _signs(self, points, latent, axis):
        return _sign_of_sum(points[0], latent)


def training_step(quantizer, batch: int):
    """A call that takes one SGD step of a ResNet18 on a fixed random batch."""
    tf.keras.utils.set_random_seed(0)
    model = zoo.ResNet18(
        input_shape=(32, 32, 3), num_classes=10, weights=None, kernel_quantizer=quantizer
    )
    optimizer = tf.keras.optimizers.SGD(1e-3, momentum=0.9)
    optimizer.build(model.trainable_variables)
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rng = np.random.default_rng(0)
    images = tf.constant(rng.standard_normal((batch, 32, 32, 3), np.float32))
    labels = tf.constant(rng.integers(0, 10, batch))

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss(labels, model(images, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(value, variables), variables, strict=True))
        return value

    return step


def quantizers(r: float = 0.05):
    made = {}
    for granularity in ("layer", "filter"):
        made[f"control, {granularity}"] = Control(r, granularity)
        made[f"hyperbolic, {granularity}"] = hbnn_larq.quantizers.Hyperbolic(r, granularity)
    return {"ste_sign": "ste_sign", **made}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", default="step.json", help="where the figures go")
    args = parser.parse_args()
    results: dict = {
        "machine": machine(("tensorflow", "numpy", "larq", "hbnn_larq")),
        "rounds": args.rounds,
        "batches": {},
    }
    print(json.dumps(results["machine"], indent=2))
    for batch in args.batches:
        steps = {name: training_step(q, batch) for name, q in quantizers().items()}
        seconds = in_turns(steps, args.rounds)
        rows = {}
        print(f"\nResNet18 step, batch {batch}" + " " * 8 + "ms   added ms   added %")
        for name, median in medians(seconds).items():
            control = name.replace("hyperbolic", "control")
            pairs = zip(seconds[name], seconds.get(control, seconds[name]), strict=True)
            added = statistics.median(a - b for a, b in pairs)
            share = added / (median - added)
            rows[name] = {"ms": 1e3 * median, "added_ms": 1e3 * added, "added_share": share}
            figures = f"{1e3 * median:9.1f}"
            if name.startswith("hyperbolic"):
                figures += f"{1e3 * added:11.1f}{100 * share:10.2f}"
                limit = MOST_ADDED[name.split(", ")[1]]
                if batch == 32:
                    figures += "  met" if share <= limit else f"  MISS (<= {100 * limit:g} %)"
            print(f"{name:24}" + figures)
        results["batches"][str(batch)] = rows
        tf.keras.backend.clear_session()
    save(results, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
