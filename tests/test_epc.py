"""EPC as we read it: a chain of exponential maps with the three properties of the abstract."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import epc, metrics, optimizers, poincare
from hbnn_larq.quantizers import EPC, Hyperbolic

R = 0.5


@pytest.fixture(autouse=True)
def plain_ops(monkeypatch):
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")


def cluster_and_vector(rng, size, shape=(12, 3), dtype="float64"):
    """Points of sqrt(r)|p| = .4 and vectors of length about 1."""
    points = rng.normal(size=(size, *shape))
    points *= 0.4 / np.sqrt(R * np.sum(points**2, 1, keepdims=True))
    return [tf.constant(p, dtype) for p in points], tf.constant(rng.normal(size=shape) / 3, dtype)


@pytest.mark.parametrize("size", [2, 3, 5])
def test_is_the_composition_of_its_maps(size, rng):
    points, v = cluster_and_vector(rng, size)
    nested = v
    for p in points:
        nested = poincare.expmap(p, nested, r=R, axis=0)
    np.testing.assert_allclose(epc.chain(points, v, r=R, axis=0), nested, rtol=1e-11)


def test_a_chain_of_one_is_the_exponential_map(rng):
    (p,), v = cluster_and_vector(rng, 1, dtype="float32")
    expected = poincare.expmap(p, v, r=R, axis=0)
    np.testing.assert_array_equal(epc.chain([p], v, r=R, axis=0), expected)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_property_1_diffeomorphism_undone_by_its_inverse(size, rng):
    points, v = cluster_and_vector(rng, size)
    with tf.GradientTape() as tape:
        tape.watch(v)
        w = epc.chain(points, v, r=R, axis=0)
    np.testing.assert_allclose(epc.chain_inverse(points, w, r=R, axis=0), v, rtol=1e-10)
    jacobian = tape.jacobian(w, v).numpy()
    for k in range(v.shape[1]):
        singular = np.linalg.svd(jacobian[:, k, :, k], compute_uv=False)
        assert singular.min() > 1e-3


@pytest.mark.parametrize("size,bound", [(2, np.tanh(1)), (3, np.tanh(np.tanh(1)))])
def test_property_1_image_stays_off_the_edge(size, bound, rng):
    points = [tf.zeros((12, 1))] * size
    for length in [1e-3, 1.0, 1e3, 1e20, 1e37]:
        v = rng.normal(size=(12, 1)) * length
        w = epc.chain(points, tf.cast(v, tf.float32), r=R, axis=0).numpy()
        radius = np.sqrt(R) * np.linalg.norm(w)
        assert radius < bound * (1 + 1e-6)
    assert radius == pytest.approx(bound, rel=1e-6)  # saturated, and yet not at the edge
    edge = poincare.expmap(points[0], tf.cast(v, tf.float32), r=R, axis=0)
    assert np.sqrt(R) * np.linalg.norm(edge) > 0.999999


def step_flips(size, rng, rate=0.1):
    """Share of signs that one step of the same size turns, from zero base points."""
    v = rng.normal(size=(2304, 8)) / np.sqrt(2304)
    dy = tf.constant(rng.normal(size=v.shape) / np.sqrt(2304))
    v = tf.constant(v)
    points = [tf.zeros_like(v) for _ in range(size)]
    with tf.GradientTape() as tape:
        tape.watch([v, *points])
        w = epc.chain_sign(points, v, r=0.05, axis=0)
    gv, *gp = tape.gradient(w, [v, *points], output_gradients=dy)
    points = [
        poincare.mobius_step(p, g, r=0.05, axis=0, learning_rate=rate)
        for p, g in zip(points, gp, strict=True)
    ]
    after = epc.chain_sign(points, v - rate * gv, r=0.05, axis=0)
    return np.mean(after.numpy() != w.numpy())


def test_property_2_a_step_flips_more_signs():
    flips = [step_flips(size, np.random.default_rng(7)) for size in (1, 2, 3)]
    assert flips[1] > 1.3 * flips[0] and flips[2] > 1.2 * flips[1]
    # tan(angle) is the step over the length: one latent and m base points move together.
    expected = [np.arctan((1 + m) * 0.1) / np.pi for m in (1, 2, 3)]
    np.testing.assert_allclose(flips, expected, rtol=0.15)


def test_properties_2_and_3_in_training(rng):
    """Same seeds, short of flips: the chain turns more signs, so a weight carries more bits."""
    x = rng.normal(size=(64, 8, 8, 3)).astype("float32")
    y = np.arange(64) % 4

    def flipped(quantizer):
        tf.keras.utils.set_random_seed(5)
        model = tf.keras.Sequential(
            [
                lq.layers.QuantConv2D(
                    32, 3, kernel_quantizer=quantizer, use_bias=False, input_shape=x.shape[1:]
                ),
                tf.keras.layers.BatchNormalization(momentum=0.9),
                tf.keras.layers.Flatten(),
                tf.keras.layers.Dense(4),
            ]
        )
        loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizers.MobiusSGD(0.05), loss)
        with lq.context.quantized_scope(True):
            before = model.layers[0].kernel.numpy()
        model.fit(x, y, batch_size=16, epochs=5, shuffle=False, verbose=0)
        with lq.context.quantized_scope(True):
            return np.mean(model.layers[0].kernel.numpy() != before)

    plain, chain = flipped(Hyperbolic()), flipped(EPC(size=2))
    assert 0 < plain < chain < 0.5
    assert metrics.information_gain(chain) > metrics.information_gain(plain)


def test_empty_cluster():
    with pytest.raises(ValueError, match=r"epc\.chain\(cluster=\[\]\): a chain needs at least"):
        epc.chain([], tf.zeros((3,)), r=1.0, axis=0)
    with pytest.raises(ValueError, match=r"epc\.chain_inverse\(cluster=\[\]\): a chain needs at"):
        epc.chain_inverse([], tf.zeros((3,)), r=1.0, axis=0)
