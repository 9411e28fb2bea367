"""Inputs that a file or a model cannot take are named, whoever is given them."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import edge

pytest.importorskip("larq_compute_engine")


@pytest.fixture(scope="module")
def model():
    tf.keras.utils.set_random_seed(0)
    pixels = tf.keras.Input((8, 8, 3), dtype="uint8")
    x = tf.keras.layers.Rescaling(1 / 255)(pixels)
    x = tf.keras.layers.Conv2D(32, 3)(x)
    x = lq.layers.QuantConv2D(
        32, 3, input_quantizer="approx_sign", kernel_quantizer="hyperbolic", use_bias=False
    )(x)
    x = tf.keras.layers.Flatten()(x)
    return tf.keras.Model(pixels, tf.keras.layers.Dense(4)(x))


@pytest.fixture(scope="module")
def tflite(model):
    return edge.convert(model)


def of(*shape, value=0.0):
    return np.full(shape, value, np.float32)


BAD = [
    (of(8, 8, 3), "takes images of shape (n, 8, 8, 3) with n at least 1, got (8, 8, 3)"),
    (of(0, 8, 8, 3), "with n at least 1, got (0, 8, 8, 3)"),
    (of(2, 8, 9, 3), "with n at least 1, got (2, 8, 9, 3)"),
    (tf.data.Dataset.range(3), "with n at least 1, got _RangeDataset"),
    ([of(2, 8, 8, 3)] * 2, "has 1 inputs, got 2 arrays"),
    (of(2, 8, 8, 3, value=np.nan), "some images hold NaN or infinity"),
    (of(2, 8, 8, 3, value=0.5), "takes uint8, and these images are float32 with values that"),
    (of(2, 8, 8, 3, value=256), "takes uint8, and these images are float32 with values that"),
]


@pytest.mark.parametrize("images, message", BAD)
def test_inputs_that_do_not_fit(images, message, model, tflite):
    for call, what in (
        (lambda: edge.predict(tflite, images), "predict(tflite, images): "),
        (lambda: edge.report(model, tflite, images), "report("),
        (lambda: edge.convert(model, int8_images=images), "convert(model), int8_images: "),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value).startswith(what) and message in str(error.value)


def test_int8_where_two_layers_share_a_normalization():
    """It is fused into neither of them, and each keeps a range of its own."""
    tf.keras.utils.set_random_seed(0)
    normalization = tf.keras.layers.BatchNormalization()
    image = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Conv2D(32, 3)(image)
    x = lq.layers.QuantConv2D(
        32, 3, input_quantizer="approx_sign", kernel_quantizer="hyperbolic", use_bias=False
    )(x)
    wide = normalization(tf.keras.layers.Conv2D(8, 1)(x))
    narrow = normalization(tf.keras.layers.Conv2D(8, 3)(x))
    flat = [tf.keras.layers.Flatten()(branch) for branch in (wide, narrow)]
    model = tf.keras.Model(image, tf.keras.layers.Dense(4)(tf.keras.layers.concatenate(flat)))
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    logits = model.predict(images, verbose=0)
    quantized = edge.predict(edge.convert(model, int8_images=images), images)
    assert 0 < np.abs(quantized - logits).max() < 0.05 * np.abs(logits).max()


def test_pixels_of_any_type_that_holds_them(model, tflite):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    logits = model.predict(pixels, verbose=0)
    for dtype in ("uint8", "int64", "float32"):
        np.testing.assert_allclose(edge.predict(tflite, pixels.astype(dtype)), logits, rtol=1e-4)
    quantized = edge.predict(edge.convert(model, int8_images=pixels.astype("float32")), pixels)
    assert 0 < np.abs(quantized - logits).max() < 0.05 * np.abs(logits).max()
