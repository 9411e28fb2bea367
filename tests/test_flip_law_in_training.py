"""The flip-rate law in real training, at the balance.

Labels are noise and all that is real stands still, so gradients neither die out nor grow: the
law supposes that. Where they die out, norms lag behind and fewer weights flip than predicted.
"""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import callbacks, flip_rate, optimizers, quantizers

RATE, MOMENTUM = 0.1, 0.9


def fixed_at_zero():
    """p = 0 for good: the map without its second latent."""
    quantizer = quantizers.Hyperbolic(r=0.05)
    quantizer.trainable = False
    return quantizer


@pytest.mark.parametrize("make", [lambda: "ste_sign", fixed_at_zero], ids=["sign", "p = 0"])
@pytest.mark.parametrize("decay", [0.04, 0.01])
@pytest.mark.parametrize("decoupled", [False, True], ids=["coupled", "decoupled"])
def test_prediction_within_15_percent_at_the_balance(make, decay, decoupled):
    tf.keras.utils.set_random_seed(0)
    head = tf.keras.layers.Dense(4, trainable=False)
    norm = tf.keras.layers.BatchNormalization(momentum=0.9, scale=False)
    binary = lq.layers.QuantDense(
        64, kernel_quantizer=make(), use_bias=False, input_shape=(512,), name="binary"
    )
    model = tf.keras.Sequential([binary, norm, head])
    model.compile(
        optimizers.MobiusSGD(RATE, MOMENTUM, latent_decay=decay, decoupled=decoupled),
        tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rng = np.random.default_rng(0)

    def train(steps, *watchers):
        images = rng.normal(size=(32 * steps, 512)).astype(np.float32)
        labels = rng.integers(0, 4, 32 * steps)
        model.fit(images, labels, batch_size=32, verbose=0, callbacks=list(watchers))

    # Six times the balance's own time scale: with momentum, decay acts at RATE / (1 - MOMENTUM).
    train(round(6 * (1 - MOMENTUM) / (RATE * decay)))
    monitor = callbacks.FlipMonitor()
    train(200, monitor)
    measured = monitor.history[0]["flips_per_step"]["binary"]
    predicted = flip_rate.flips_per_step(RATE, decay, MOMENTUM)
    assert measured == pytest.approx(predicted, rel=0.15)
