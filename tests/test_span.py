"""The compiled programs and the plain ops are one map, whatever the shape."""

import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import poincare, span

# Shapes that the folding widths (8, 16, 32) divide, and shapes that leave every kind of rest.
SHAPES = [(2, 1), (3, 3, 4, 8), (3, 3, 17, 5), (1031, 1), (5, 7, 11)]
MORE = [(1, 1, 129, 3), (640, 2)]


def value_and_gradients(shape, axis, dtype="float32", sign=False):
    rng = np.random.default_rng(1)
    p, v, dy = (tf.constant(rng.normal(size=shape) * s, dtype) for s in (0.1, 1.0, 1.0))
    with tf.GradientTape() as tape:
        tape.watch([p, v])
        w = (poincare.expmap_sign if sign else poincare.expmap)(p, v, r=0.5, axis=axis)
    return [w.numpy(), *(g.numpy() for g in tape.gradient(w, [p, v], output_gradients=dy))]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "columns"])
@pytest.mark.parametrize(
    "shape", [*SHAPES, *(pytest.param(s, marks=pytest.mark.slow) for s in MORE)], ids=str
)
def test_compiled_equals_plain(shape, whole, monkeypatch):
    axis = tuple(range(len(shape) - (not whole)))
    monkeypatch.setenv("HBNN_LARQ_XLA", "1")
    compiled = value_and_gradients(shape, axis)
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")
    plain = value_and_gradients(shape, axis)
    for a, b in zip(compiled, plain, strict=True):
        # Both are float64 inside; they may differ where a sum rounds to another float32.
        np.testing.assert_allclose(a, b, rtol=1.3e-7, atol=1e-30)


def test_sign_takes_the_gradient_of_the_map():
    shape, axis = (3, 3, 4, 8), (0, 1, 2)
    w, *gradients = value_and_gradients(shape, axis)
    signs, *straight_through = value_and_gradients(shape, axis, sign=True)
    np.testing.assert_array_equal(signs, np.where(w >= 0, 1.0, -1.0))
    for a, b in zip(gradients, straight_through, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("axis", [-1, 0, (0, 2), (1, 2), (2, 0, 1)], ids=str)
def test_axes_in_any_place_and_order(axis):
    shape = (4, 3, 5)
    order = [a for a in range(3) if a not in np.atleast_1d(axis) % 3]
    order = [*(np.atleast_1d(axis) % 3), *order]
    inner = tuple(range(np.size(axis)))
    x = np.random.default_rng(2).normal(size=(2, *shape))
    w = poincare.expmap(0.1 * x[0], x[1], r=1.0, axis=axis).numpy()
    p, v = (np.transpose(z, order) for z in (0.1 * x[0], x[1]))
    expected = poincare.expmap(p, v, r=1.0, axis=inner).numpy()
    np.testing.assert_allclose(np.transpose(w, order), expected, rtol=1e-14)


def test_unknown_sizes_run_as_plain_ops():
    rng = np.random.default_rng(3)
    p, v = (rng.normal(size=(6, 4)).astype("float32") * s for s in (0.1, 1.0))

    @tf.function(input_signature=[tf.TensorSpec([None, 4])] * 2)
    def mapped(p, v):
        return poincare.expmap(p, v, r=1.0, axis=-1)

    expected = poincare.expmap(p, v, r=1.0, axis=-1)
    np.testing.assert_allclose(mapped(p, v), expected, rtol=1.3e-7)


def test_a_second_radius_does_not_compile_again():
    p, v = tf.zeros((3, 4)), tf.ones((3, 4))
    poincare.expmap(p, v, r=0.123, axis=0)
    (forward, *_) = span._compiled(poincare._expmap_coefficients, 2, False, False, True)
    before = forward.experimental_get_tracing_count()
    poincare.expmap(p, v, r=0.456, axis=0)
    assert forward.experimental_get_tracing_count() == before > 0


@pytest.mark.parametrize("axis", [2, -3, (0, 5), ()], ids=str)
def test_axis_outside_the_tensor(axis):
    with pytest.raises(ValueError, match=r"names no axes of a tensor of shape \(3, 4\)"):
        poincare.expmap(tf.zeros((3, 4)), tf.ones((3, 4)), r=1.0, axis=axis)


@pytest.mark.parametrize("r", [0, -0.05, float("nan"), float("inf"), "0.05", True, None])
def test_r_that_names_no_ball(r):
    with pytest.raises(ValueError, match=r"expmap\(r=.*\): r must be a finite number above 0"):
        poincare.expmap(tf.zeros((3,)), tf.ones((3,)), r=r, axis=0)


@pytest.mark.parametrize("dtype", ["float16", "int32", "complex64"])
def test_dtypes_that_are_no_vectors(dtype):
    x = tf.zeros((3,), dtype)
    with pytest.raises(TypeError, match=rf"expmap\(p: {dtype}, v: {dtype}\).*tf\.cast"):
        poincare.expmap(x, x, r=1.0, axis=0)
