"""Laws of great-circle steps."""

import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import sphere

AXES = [(0,), (0, 1), (0, 1, 2, 3)]


def norm(x, axis):
    return np.sqrt(np.sum(np.square(np.asarray(x, np.float64)), axis=axis))


def dot(a, b, axis):
    return np.sum(np.asarray(a, np.float64) * np.asarray(b, np.float64), axis=axis)


def vectors(rng, axis, count=3):
    shape = (3, 4, 5, 6)[: max(2, len(axis))]
    return (tf.constant(rng.normal(size=shape), tf.float64) for _ in range(count))


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("angle", [0.0, 1e-3, 0.7, np.pi / 2])
def test_a_step_is_a_rotation_by_the_angle(axis, angle, rng):
    x, v, m = vectors(rng, axis)
    direction, length = sphere.unit(x, axis=axis)
    downhill = sphere.tangent(direction, v, axis=axis)
    carry = sphere.tangent(direction, m, axis=axis)
    angle = tf.constant(angle, tf.float64)
    moved, carried = sphere.geodesic_step(x, downhill, angle, axis=axis, carry=carry)
    np.testing.assert_allclose(norm(moved, axis), norm(x, axis), rtol=1e-12)
    cosine = dot(x, moved, axis) / norm(x, axis) ** 2
    np.testing.assert_allclose(cosine, np.cos(angle), atol=1e-12)
    if angle > 0:
        assert np.all(dot(moved, downhill, axis) < 0)
    # Parallel transport: still tangent, of the same length, and at the same angle to the way.
    np.testing.assert_allclose(dot(moved, carried, axis), 0, atol=1e-12)
    np.testing.assert_allclose(norm(carried, axis), norm(carry, axis), rtol=1e-12)
    way = sphere.geodesic_step(x, downhill, angle, axis=axis, carry=downhill)[1]
    np.testing.assert_allclose(
        dot(way, carried, axis), dot(downhill, carry, axis), atol=1e-12 * np.max(norm(v, axis))
    )
    np.testing.assert_allclose(np.squeeze(length), norm(x, axis), rtol=1e-12)


def test_steps_along_one_great_circle_add_up(rng):
    x, v = vectors(rng, (0,), 2)
    downhill = sphere.tangent(sphere.unit(x, axis=0)[0], v, axis=0)
    at, heading = x, downhill
    for _ in range(4):
        at, heading = sphere.geodesic_step(at, heading, 0.25, axis=0, carry=heading)
    np.testing.assert_allclose(
        at, sphere.geodesic_step(x, downhill, 1.0, axis=0, carry=downhill)[0], rtol=1e-12
    )


def test_where_there_is_no_direction(rng):
    """A zero gradient leaves x; a zero vector takes the direction it is pulled in."""
    x = rng.normal(size=(5, 3)).astype("float32")
    x[:, 1] = 0
    pull = rng.normal(size=(5, 3)).astype("float32")
    pull[:, 2] = 0
    direction, _ = sphere.unit(x, axis=0)
    downhill = sphere.tangent(direction, pull, axis=0)
    moved, carried = sphere.geodesic_step(x, downhill, 0.1, axis=0, carry=downhill)
    np.testing.assert_allclose(moved[:, 1], -pull[:, 1] / norm(pull[:, 1], 0), rtol=1e-6)
    np.testing.assert_allclose(moved[:, 2], x[:, 2], rtol=1e-6)
    assert np.all(np.isfinite(carried))


@pytest.mark.parametrize("size", [1e-35, 1e-20, 1.0, 1e20, 1e38])
def test_lengths_whose_squares_do_not_fit(size, rng):
    x = (rng.normal(size=(7, 2)) * size / 4).astype("float32")
    direction, length = sphere.unit(x, axis=0)
    np.testing.assert_allclose(norm(direction, 0), 1, rtol=1e-6)
    np.testing.assert_allclose(length[0], norm(x, 0), rtol=1e-5)


def test_share_of_signs_that_a_rotation_flips(rng):
    """A turn by pi f in a direction of no preference flips a share f of the signs."""
    x, v = (tf.constant(rng.normal(size=400_000), tf.float64) for _ in range(2))
    downhill = sphere.tangent(sphere.unit(x, axis=0)[0], v, axis=0)
    for share in (0.003, 0.03, 0.5):
        moved, _ = sphere.geodesic_step(x, downhill, np.pi * share, axis=0, carry=downhill)
        flipped = np.mean(np.sign(moved) != np.sign(x))
        assert flipped == pytest.approx(share, rel=0.08 if share < 0.01 else 0.03)
