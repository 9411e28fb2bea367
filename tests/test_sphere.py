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


@pytest.fixture(params=["0", "1"], ids=["plain", "xla"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("HBNN_LARQ_XLA", request.param)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("angle", [0.0, 1e-3, 0.7, np.pi / 2])
def test_a_turn_is_a_rotation_by_the_angle(axis, angle, rng):
    x, v = vectors(rng, axis, 2)
    moved = sphere.turn(x, v, angle, axis=axis)
    np.testing.assert_allclose(norm(moved, axis), norm(x, axis), rtol=1e-12)
    cosine = dot(x, moved, axis) / norm(x, axis) ** 2
    np.testing.assert_allclose(cosine, np.cos(angle), atol=1e-12)
    # In the plane of x and v, away from v.
    downhill = sphere.tangent(x, v, axis=axis)
    np.testing.assert_allclose(dot(x, downhill, axis), 0, atol=1e-12)
    if angle > 0:
        cosine = dot(moved, downhill, axis) / norm(downhill, axis) / norm(x, axis)
        np.testing.assert_allclose(cosine, -np.sin(angle), atol=1e-12)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("angle", [0.0, 1e-3, 0.7, np.pi / 2])
def test_transport_keeps_length_and_angle_to_the_way(axis, angle, rng):
    x, v, m = vectors(rng, axis)
    moved = sphere.turn(x, v, angle, axis=axis)
    carry, along = (sphere.tangent(x, vector, axis=axis) for vector in (m, v))
    carried = sphere.transport(x, v, angle, m, axis=axis)
    way = sphere.transport(x, v, angle, v, axis=axis)
    np.testing.assert_allclose(dot(moved, carried, axis), 0, atol=1e-12)
    np.testing.assert_allclose(dot(moved, way, axis), 0, atol=1e-12)
    np.testing.assert_allclose(norm(carried, axis), norm(carry, axis), rtol=1e-12)
    np.testing.assert_allclose(norm(way, axis), norm(along, axis), rtol=1e-12)
    np.testing.assert_allclose(dot(way, carried, axis), dot(along, carry, axis), atol=1e-11)
    # The cheaper form for a vector that leads the way is the same map.
    np.testing.assert_allclose(
        way, sphere.transport(x, v, angle, tf.identity(v), axis=axis), atol=1e-12
    )


def test_turns_along_one_great_circle_add_up(rng):
    x, v = vectors(rng, (0,), 2)
    at, heading = x, v
    for _ in range(4):
        at, heading = (
            sphere.turn(at, heading, 0.25, axis=0),
            sphere.transport(at, heading, 0.25, heading, axis=0),
        )
    np.testing.assert_allclose(at, sphere.turn(x, v, 1.0, axis=0), rtol=1e-12)


def test_where_there_is_no_direction(rng):
    """A zero or parallel gradient leaves x; a zero vector takes the direction it is pulled in."""
    x = rng.normal(size=(5, 4)).astype("float32")
    x[:, 1] = 0
    pull = rng.normal(size=(5, 4)).astype("float32")
    pull[:, 2] = 0
    pull[:, 3] = 3 * x[:, 3]
    moved = sphere.turn(x, pull, 0.1, axis=0)
    np.testing.assert_allclose(moved[:, 1], -pull[:, 1] / norm(pull[:, 1], 0), rtol=1e-6)
    np.testing.assert_array_equal(moved[:, 2:], x[:, 2:])
    np.testing.assert_array_equal(sphere.turn(x, pull, 0.0, axis=0)[:, 1:], x[:, 1:])
    carried = sphere.transport(x, pull, 0.1, pull, axis=0).numpy()
    np.testing.assert_allclose(carried[:, 1:], 0, atol=1e-6)
    assert np.all(np.isfinite(sphere.transport(x, pull, 0.1, pull + 1, axis=0)))


@pytest.mark.parametrize("size", [1e-35, 1e-20, 1.0, 1e20, 1e37])
def test_lengths_whose_squares_do_not_fit_in_float32(size, rng):
    x, v = (rng.normal(size=(2, 7, 2)) * size).astype("float32")
    moved = sphere.turn(x, v, 0.3, axis=0)
    np.testing.assert_allclose(norm(moved, 0), norm(x, 0), rtol=1e-6)
    cosine = dot(x, moved, 0) / norm(x, 0) ** 2
    np.testing.assert_allclose(cosine, np.cos(0.3), atol=1e-6)


def test_share_of_signs_that_a_rotation_flips(rng):
    """A turn by pi f in a direction of no preference flips a share f of the signs."""
    x, v = (tf.constant(rng.normal(size=400_000), tf.float64) for _ in range(2))
    for share in (0.003, 0.03, 0.5):
        moved = sphere.turn(x, v, np.pi * share, axis=0)
        flipped = np.mean(np.sign(moved) != np.sign(x))
        assert flipped == pytest.approx(share, rel=0.08 if share < 0.01 else 0.03)
