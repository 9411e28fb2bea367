"""Networks drawn at random, each converted and held against Keras sign by sign.

`HBNN_DRAWN=1000-1400 pytest -m slow tests/test_edge_drawn.py` draws others.
"""

import os

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq.edge import convert, report

pytest.importorskip("larq_compute_engine")

KERNELS = [
    "ste_sign", "hyperbolic", "hyperbolic_boundary", "epc", "magnitude_aware_sign", "abc_net",
    "binary_connect", "bireal", "dorefa", "dsq", "fda", "irnet", "md_softmax_s", "md_tanh_s",
    "rbnn", "recu", "slb", "xnor", "xnor_plus_plus",
]  # fmt: skip
INPUTS = ["ste_sign", "approx_sign", "swish_sign", "ede_sign", "fourier_sign", "rbnn_sign",
          "recu_sign"]  # fmt: skip
FIRST, LAST = map(int, os.environ.get("HBNN_DRAWN", "0-40").split("-"))


def drawn(rng):
    """A binary convolution of any shape, and something in front of it and behind."""
    image = x = tf.keras.Input((*rng.integers(1, 13, 2), rng.choice([1, 3, 31, 32, 33, 64, 65])))
    if rng.random() < 0.3:
        x = tf.keras.layers.BatchNormalization()(x)
    padding = rng.choice(["same", "same", "valid"])
    sides = x.shape[1:3] if padding == "valid" else (5, 5)
    kernel = [int(rng.integers(1, min(side, 5) + 1)) for side in sides]
    strides, dilation = int(rng.choice([1, 1, 2, 3])), int(rng.choice([1, 2, 3]))
    if strides > 1 or padding == "valid":
        dilation = 1
    x = lq.layers.QuantConv2D(
        int(rng.choice([1, 2, 31, 32, 33, 96])),
        kernel,
        strides=strides,
        dilation_rate=dilation,
        padding=str(padding),
        pad_values=float(rng.integers(2)),
        kernel_quantizer=str(rng.choice(KERNELS)),
        input_quantizer=str(rng.choice(INPUTS)),
        activation=rng.choice([None, "relu", "relu6", "hard_tanh"]),
        use_bias=bool(rng.integers(2)),
    )(x)
    if rng.random() < 0.7:
        x = tf.keras.layers.BatchNormalization()(x)
    signs = {"kernel_quantizer": "ste_sign", "input_quantizer": "ste_sign"}
    behind = rng.choice(["nothing", "conv", "pool", "shortcut", "dense"])
    if behind == "conv":
        x = lq.layers.QuantConv2D(32, 3, padding="same", pad_values=rng.integers(2), **signs)(x)
    elif behind == "pool":
        x = tf.keras.layers.MaxPool2D(2, padding="same")(x)
    elif behind == "shortcut":
        x = tf.keras.layers.Add()([x, tf.keras.layers.ReLU()(x)])
    elif behind == "dense":
        x = lq.layers.QuantDense(64, **signs)(tf.keras.layers.Flatten()(x))
    return tf.keras.Model(image, x)


def as_trained(model, rng):
    """Weights as after training; clocks, rotations and scalars stay as they are."""
    for variable in model.weights:
        if "progress" in variable.name or "rotation" in variable.name or not variable.shape.rank:
            continue
        value = 0.4 * rng.normal(size=variable.shape)
        if "variance" in variable.name:
            value = rng.uniform(0.5, 2.0, size=variable.shape)
        variable.assign(value.astype("float32"))
    return model


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(FIRST, LAST))
def test_a_drawn_network_is_the_same_in_its_file(seed):
    rng = np.random.default_rng(seed)
    model = as_trained(drawn(rng), rng)
    images = rng.normal(size=(6, *model.input_shape[1:])).astype("float32")
    result = report(model, convert(model, int8_images=images if seed % 4 == 0 else None), images)
    # A dense layer of a few weights is smaller in float, and the report says so.
    left = [fault for fault in result.faults if "as a rewritten one it is left" not in fault]
    assert not left, left
    assert result.binary_asked - result.binary_placed == len(result.faults)
    tf.keras.backend.clear_session()
