"""The laws that the maps of the ball obey, each a test by its name.

Limits: one rounding is 6e-8 in float32 and 1e-16 in float64. A law that applies maps in a row
rounds the point between them, and at sqrt(r)|p| = 0.9 the conformal factor stretches that by 10,
for the point that a long v leads to by up to 100: limits are 2 to 5 times what that gives.
"""

import numpy as np
import pytest
import tensorflow as tf

from hbnn_larq import poincare

TABLE_1_RADII = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0]  # the paper's own
N = 24
COUNT = 40

each_r = pytest.mark.parametrize("r", TABLE_1_RADII)
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def points(rng, r, dtype, count=COUNT, largest=0.9):
    """[count, N] points with sqrt(r)|p| spread over 0..largest; the first is the centre."""
    x = rng.normal(size=(count, N))
    sizes = np.linspace(0, largest, count)[:, None]
    return tf.constant(sizes / r**0.5 * x / np.linalg.norm(x, axis=-1, keepdims=True), dtype)


def tangents(rng, p, r):
    """Tangent vectors at p with lengths sqrt(r) lambda_p |v| from 1e-12 to 2."""
    x = rng.normal(size=p.shape)
    lengths = np.logspace(-12, np.log10(2), len(p))[:, None]
    lengths = lengths * (1 - r * norm(p)[:, None] ** 2) / 2
    return tf.constant(lengths / r**0.5 * x / norm(x)[:, None], p.dtype)


def norm(x):
    return np.linalg.norm(np.asarray(x, np.float64), axis=-1)


def assert_vectors_equal(value, expected, tolerance, scale=None):
    """|value - expected| <= tolerance |expected| for every vector; `scale` replaces |expected|."""
    value, expected = (np.asarray(x, np.float64) for x in (value, expected))
    error = norm(value - expected)
    scale = norm(expected) if scale is None else np.broadcast_to(scale, error.shape)
    relative = error / np.maximum(scale, 1e-300)
    worst = np.argmax(relative)
    assert relative[worst] <= tolerance, f"vector {worst}"


# --- exponential and logarithmic map -----------------------------------------------------------

# The inner point is rounded to the dtype before it is mapped back. Near the edge that rounding
# is stretched by the conformal factor: 10 at .9, more for the point that v leads to.
ROUND_TRIP = {"float32": 2e-5, "float64": 4e-14}


@each_dtype
@each_r
def test_log_undoes_exp(rng, r, dtype):
    """The rounding of w is relative to the ball, so the error of a short v is too."""
    p = points(rng, r, dtype)
    v = tangents(rng, p, r)
    w = poincare.expmap(p, v, r=r, axis=-1)
    scale = np.maximum(norm(v), norm(p))
    assert_vectors_equal(poincare.logmap(p, w, r=r, axis=-1), v, ROUND_TRIP[dtype], scale)


@each_dtype
@each_r
def test_exp_undoes_log(rng, r, dtype):
    p, q = points(rng, r, dtype), points(rng, r, dtype)
    v = poincare.logmap(p, q, r=r, axis=-1)
    assert_vectors_equal(
        poincare.expmap(p, v, r=r, axis=-1),
        q,
        {"float32": 5e-7, "float64": 5e-14}[dtype],
        np.maximum(norm(q), norm(p)),
    )


def test_eq12_as_printed_would_miss_by_the_root_of_the_conformal_factor(rng):
    p = points(rng, 1.0, "float64")
    v = tangents(rng, p, 1.0)
    back = poincare.logmap(p, poincare.expmap(p, v, r=1.0, axis=-1), r=1.0, axis=-1)
    printed = back * tf.sqrt(poincare.conformal_factor(p, r=1.0, axis=-1))[:, None]
    ratio = norm(printed)[-1] / norm(v)[-1]
    np.testing.assert_allclose(ratio, (2 / (1 - 0.9**2)) ** 0.5, rtol=1e-10)


@each_dtype
@each_r
def test_log_of_the_point_itself_is_zero(rng, r, dtype):
    p = points(rng, r, dtype, largest=0.99999)
    np.testing.assert_array_equal(poincare.logmap(p, p, r=r, axis=-1), tf.zeros_like(p))


@each_dtype
@each_r
def test_exp_of_zero_is_the_point_itself(rng, r, dtype):
    p = points(rng, r, dtype, largest=0.99999)
    np.testing.assert_array_equal(poincare.expmap(p, tf.zeros_like(p), r=r, axis=-1), p)


@each_dtype
@each_r
def test_log_has_identity_derivative_at_the_point_itself(rng, r, dtype):
    p = points(rng, r, dtype)
    dv = tf.constant(rng.normal(size=p.shape), dtype)
    q = tf.identity(p)
    with tf.GradientTape() as tape:
        tape.watch(q)
        v = poincare.logmap(p, q, r=r, axis=-1)
    gradient = tape.gradient(v, q, output_gradients=dv)
    assert_vectors_equal(gradient, dv, {"float32": 1e-6, "float64": 1e-14}[dtype])


@each_dtype
def test_exp_tends_to_addition_as_r_vanishes(rng, dtype):
    """The difference is r times third powers: at r = 1e-12 below one rounding of float64."""
    p, v = (tf.constant(rng.normal(size=(COUNT, N)), dtype) for _ in range(2))
    w = poincare.expmap(p, v, r=1e-17, axis=-1)
    assert_vectors_equal(w, p + v, {"float32": 1e-7, "float64": 1e-14}[dtype])
    coarse = poincare.expmap(p, v, r=1e-3, axis=-1)
    assert (norm(coarse - (p + v)) > 1e-4).all()  # so that the line above can fail


@each_dtype
@each_r
def test_exp_at_the_centre_keeps_direction_and_signs(rng, r, dtype):
    """With p = 0 the forward pass of HBNN is that of a plain binary network."""
    v = tf.constant(rng.normal(size=(COUNT, N)) * np.logspace(-12, 3, COUNT)[:, None], dtype)
    w = poincare.expmap(tf.zeros_like(v), v, r=r, axis=-1)
    signs = poincare.expmap_sign(tf.zeros_like(v), v, r=r, axis=-1)
    np.testing.assert_array_equal(tf.sign(w), tf.sign(v))
    np.testing.assert_array_equal(signs, tf.sign(v))
    s = r**0.5 * norm(v)[:, None]
    expected = np.tanh(s) / s * np.asarray(v, np.float64)
    assert_vectors_equal(w, expected, {"float32": 1.3e-7, "float64": 2e-15}[dtype])


def test_sign_of_zero_is_plus_one():
    zero = tf.zeros((3, 4))
    np.testing.assert_array_equal(poincare.expmap_sign(zero, zero, r=1.0, axis=0), tf.ones((3, 4)))


# --- Möbius addition and multiplication --------------------------------------------------------


@each_dtype
@each_r
def test_left_cancellation(rng, r, dtype):
    """(-p) + (p + q) = q."""
    p, q = points(rng, r, dtype), points(rng, r, dtype)[::-1]
    there = poincare.mobius_add(p, q, r=r, axis=-1)
    back = poincare.mobius_add(-p, there, r=r, axis=-1)
    scale = np.maximum(norm(q), norm(p))
    assert_vectors_equal(back, q, {"float32": 4e-6, "float64": 1e-14}[dtype], scale)


@each_dtype
@each_r
def test_the_centre_is_neutral_and_minus_p_inverse(rng, r, dtype):
    p = points(rng, r, dtype)
    zero = tf.zeros_like(p)
    np.testing.assert_array_equal(poincare.mobius_add(zero, p, r=r, axis=-1), p)
    np.testing.assert_array_equal(poincare.mobius_add(p, zero, r=r, axis=-1), p)
    rest = norm(poincare.mobius_add(-p, p, r=r, axis=-1)) * r**0.5
    assert rest.max() <= {"float32": 1e-14, "float64": 1e-14}[dtype]


@each_r
def test_sums_in_either_order_have_one_norm(rng, r):
    """They differ by a rotation (the gyration), so addition is not commutative."""
    p, q = points(rng, r, "float64"), points(rng, r, "float64")
    one, other = (poincare.mobius_add(*pair, r=r, axis=-1) for pair in ((p, q), (q, p)))
    np.testing.assert_allclose(norm(one), norm(other), rtol=1e-13)
    assert norm(one - other)[-1] > 0.01 / r**0.5


@each_dtype
@each_r
@pytest.mark.parametrize("n", [2, 3, 7])
def test_n_fold_sum_is_the_nth_multiple(rng, n, r, dtype):
    p = points(rng, r, dtype, largest=0.3)
    total = p
    for _ in range(n - 1):
        total = poincare.mobius_add(p, total, r=r, axis=-1)
    multiple = poincare.mobius_scalar_mul(float(n), p, r=r, axis=-1)
    assert_vectors_equal(multiple, total, {"float32": 1e-6, "float64": 1e-14}[dtype])


@each_dtype
@each_r
def test_scalar_associativity(rng, r, dtype):
    """(a b) p = a (b p)."""
    p = points(rng, r, dtype, largest=0.5)
    for a, b in [(0.5, 2.0), (-1.5, 0.3), (1e-3, 5.0), (1e3, 1e-6)]:
        inner = poincare.mobius_scalar_mul(b, p, r=r, axis=-1)
        one = poincare.mobius_scalar_mul(a, inner, r=r, axis=-1)
        other = poincare.mobius_scalar_mul(a * b, p, r=r, axis=-1)
        assert_vectors_equal(one, other, {"float32": 1e-6, "float64": 1e-13}[dtype])


@each_dtype
@each_r
def test_scalar_distributivity(rng, r, dtype):
    """(a + b) p = a p + b p."""
    p = points(rng, r, dtype, largest=0.6)
    parts = [poincare.mobius_scalar_mul(c, p, r=r, axis=-1) for c in (0.75, -2.0)]
    whole = poincare.mobius_scalar_mul(0.75 - 2.0, p, r=r, axis=-1)
    total = poincare.mobius_add(*parts, r=r, axis=-1)
    assert_vectors_equal(total, whole, {"float32": 2e-6, "float64": 1e-14}[dtype])


@each_r
def test_one_and_minus_one_times(rng, r):
    p = points(rng, r, "float64")
    assert_vectors_equal(poincare.mobius_scalar_mul(1.0, p, r=r, axis=-1), p, 1e-14)
    assert_vectors_equal(poincare.mobius_scalar_mul(-1.0, p, r=r, axis=-1), -p, 1e-14)


# --- metric ------------------------------------------------------------------------------------


@each_dtype
@each_r
def test_conformal_factor_at_the_centre_is_two(r, dtype):
    np.testing.assert_array_equal(
        poincare.conformal_factor(tf.zeros((3, 5), dtype), r=r, axis=-1), [2, 2, 2]
    )


@each_dtype
@each_r
def test_distance_is_symmetric(rng, r, dtype):
    p, q = points(rng, r, dtype), points(rng, r, dtype)[::-1]
    np.testing.assert_allclose(
        poincare.distance(p, q, r=r, axis=-1),
        poincare.distance(q, p, r=r, axis=-1),
        rtol={"float32": 2e-7, "float64": 1e-14}[dtype],
    )


@each_dtype
@each_r
def test_distance_is_zero_at_p_with_finite_gradients(rng, r, dtype):
    p = points(rng, r, dtype, largest=0.99999)
    q = tf.identity(p)
    with tf.GradientTape() as tape:
        tape.watch([p, q])
        d = poincare.distance(p, q, r=r, axis=-1)
    np.testing.assert_array_equal(d, tf.zeros(COUNT, dtype))
    for gradient in tape.gradient(d, [p, q]):
        assert np.isfinite(gradient).all()


@each_dtype
@each_r
def test_near_points_are_told_apart(rng, r, dtype):
    """d(p, p + e) = lambda_p |e| to first order, down to the last place of p."""
    p = points(rng, r, dtype)[1:]
    q = tf.constant(np.nextafter(p.numpy(), np.inf))
    difference = q.numpy().astype(np.longdouble) - p.numpy()
    expected = np.sqrt((difference**2).sum(-1)) * poincare.conformal_factor(p, r=r, axis=-1).numpy()
    rtol = {"float32": 3e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(
        poincare.distance(p, q, r=r, axis=-1), expected.astype(dtype), rtol=rtol
    )


@each_dtype
@each_r
def test_distance_along_a_geodesic_is_the_riemannian_length(rng, r, dtype):
    """d(p, exp_p(v)) = lambda_p |v|."""
    p = points(rng, r, dtype)
    v = tangents(rng, p, r)
    d = poincare.distance(p, poincare.expmap(p, v, r=r, axis=-1), r=r, axis=-1)
    expected = poincare.conformal_factor(p, r=r, axis=-1).numpy().astype(float) * norm(v)
    tolerance = {"float32": 1e-5, "float64": 1e-14}[dtype]  # w is rounded to the dtype
    np.testing.assert_allclose(d, expected, rtol=0, atol=tolerance / r**0.5)


@each_r
def test_left_translation_keeps_distances(rng, r):
    a, p, q = (points(rng, r, "float64", largest=0.8) for _ in range(3))
    moved = [poincare.mobius_add(a, x, r=r, axis=-1) for x in (p, q)]
    np.testing.assert_allclose(
        poincare.distance(*moved, r=r, axis=-1), poincare.distance(p, q, r=r, axis=-1), rtol=1e-12
    )


@each_r
def test_triangle_inequality(rng, r):
    p, q, s = (points(rng, r, "float64") for _ in range(3))
    pq, qs, ps = (
        poincare.distance(x, y, r=r, axis=-1).numpy() for x, y in ((p, q), (q, s), (p, s))
    )
    assert (ps <= pq + qs + 1e-12).all()


# --- the ball ----------------------------------------------------------------------------------


@each_dtype
@each_r
def test_exp_stays_inside_the_ball(rng, r, dtype):
    """For every length of v, from points up to the edge, in every direction."""
    largest = np.finfo(dtype).max / 8
    for size in (0.0, 0.9, 0.99999, 1.0):
        for length in (1.0, 1e3, 1e30, largest):
            p = points(rng, r, dtype, count=8)[1:]
            p = size / r**0.5 * p / tf.norm(p, axis=-1, keepdims=True)
            x = rng.normal(size=p.shape)
            any_way = tf.constant(length * x / norm(x)[:, None], dtype)
            outwards = length / (norm(p).max() or 1) * p
            for v in (any_way, outwards, -outwards, -1e3 * p):
                w = poincare.expmap(p, v, r=r, axis=-1).numpy()
                assert r * (w.astype(np.longdouble) ** 2).sum(-1).max() < 1


@each_dtype
@each_r
def test_project_keeps_points_inside_and_shortens_others(rng, r, dtype):
    inside = points(rng, r, dtype, largest=0.99999)
    np.testing.assert_array_equal(poincare.project(inside, r=r, axis=-1), inside)

    outside = tf.constant([[1.0], [1.5], [1e10]], dtype) * inside[-1:] / 0.9999
    shortened = poincare.project(outside, r=r, axis=-1)
    rim = {"float32": 1e-6, "float64": 1e-12}[dtype]
    tolerance = {"float32": 2e-7, "float64": 1e-15}[dtype]
    np.testing.assert_allclose(norm(shortened) * r**0.5, 1 - rim, atol=tolerance)
    assert_vectors_equal(
        shortened / norm(shortened)[:, None], outside / norm(outside)[:, None], 2 * tolerance
    )
    again = poincare.project(shortened, r=r, axis=-1)
    assert_vectors_equal(again, shortened, tolerance)


# --- the boundary variant ----------------------------------------------------------------------


@each_dtype
@each_r
def test_boundary_map_lands_on_the_sphere(rng, r, dtype):
    p = points(rng, r, dtype)
    v = tf.constant(rng.normal(size=p.shape) * np.logspace(-6, 6, COUNT)[:, None], dtype)
    w = poincare.boundary_map(p, v, r=r, axis=-1)
    tolerance = {"float32": 2e-7, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(norm(w) * r**0.5, 1, atol=tolerance)


@each_r
def test_boundary_map_is_the_limit_of_exp(rng, r):
    p = points(rng, r, "float64")
    v = tf.constant(rng.normal(size=p.shape))
    limit = poincare.expmap(p, 1e6 * v, r=r, axis=-1)
    assert_vectors_equal(poincare.boundary_map(p, v, r=r, axis=-1), limit, 1e-12)


@each_dtype
def test_boundary_map_of_a_vector_without_direction(rng, dtype):
    """At v = 0 it is exp: w = p with the identity as derivative, so that v can leave 0."""
    p = points(rng, 1.0, dtype)
    v = tf.zeros_like(p)
    dw = tf.constant(rng.normal(size=p.shape), dtype)
    with tf.GradientTape() as tape:
        tape.watch(v)
        w = poincare.boundary_map(p, v, r=1.0, axis=-1)
    np.testing.assert_array_equal(w, p)
    tolerance = {"float32": 1e-7, "float64": 1e-14}[dtype]
    assert_vectors_equal(tape.gradient(w, v, output_gradients=dw), dw, tolerance)


# --- updates -----------------------------------------------------------------------------------


@each_dtype
@each_r
def test_mobius_step_is_eq_16_with_the_gradient_put_into_the_ball(rng, r, dtype):
    p = points(rng, r, dtype)
    g = tf.constant(rng.normal(size=p.shape) * np.logspace(-6, 1, COUNT)[:, None], dtype)
    inside = poincare.expmap(tf.zeros_like(g), g, r=r, axis=-1)
    kept = norm(inside) * r**0.5 < 0.999  # beyond, eta (x) g cannot be read back off the point
    by_parts = poincare.mobius_add(
        p, poincare.mobius_scalar_mul(-0.1, inside, r=r, axis=-1), r=r, axis=-1
    )
    step = poincare.mobius_step(p, g, r=r, axis=-1, learning_rate=0.1)
    tolerance = {"float32": 1e-5, "float64": 1e-12}[dtype]
    assert_vectors_equal(step[kept], by_parts[kept], tolerance)
    assert kept.sum() > COUNT // 2


@each_r
def test_literal_step_agrees_where_the_gradient_is_small(rng, r):
    """Eq. 17 as printed and exp_0 differ by terms of third order in sqrt(r)|g|."""
    p, g = points(rng, r, "float64"), points(rng, r, "float64", largest=1e-5)
    steps = [
        poincare.mobius_step(p, g, r=r, axis=-1, learning_rate=0.5, rule=rule)
        for rule in ("exp0", "literal")
    ]
    assert_vectors_equal(*steps, 1e-14, 1 / r**0.5)
    g = g * 3e4
    steps = [
        poincare.mobius_step(p, g, r=r, axis=-1, learning_rate=0.5, rule=rule)
        for rule in ("exp0", "literal")
    ]
    assert norm(steps[0] - steps[1])[-1] > 1e-5 / r**0.5  # so that the lines above can fail


@each_r
def test_riemannian_step_is_a_geodesic_step(rng, r):
    p = points(rng, r, "float64")
    g = tf.constant(rng.normal(size=p.shape))
    scale = 0.1 / poincare.conformal_factor(p, r=r, axis=-1)[:, None] ** 2
    expected = poincare.expmap(p, -scale * g, r=r, axis=-1)
    step = poincare.mobius_step(p, g, r=r, axis=-1, learning_rate=0.1, rule="riemannian")
    assert_vectors_equal(step, expected, 1e-14, 1 / r**0.5)


@each_r
def test_euclidean_step_is_that_of_sgd_and_ends_at_the_edge(rng, r):
    p = points(rng, r, "float64")
    g = tf.constant(rng.normal(size=p.shape))
    options = {"r": r, "axis": -1, "decay": 0.1, "rule": "euclidean"}
    step = poincare.mobius_step(p, g, learning_rate=1e-3, **options)
    plain = p - 1e-3 * (g + 0.1 * p)
    expected = poincare.project(plain, r=r, axis=-1)
    assert_vectors_equal(step, expected, 1e-14, 1 / r**0.5)
    far = norm(poincare.mobius_step(p, g, learning_rate=1e6, **options))
    np.testing.assert_allclose(r**0.5 * far, 1.0 - 1e-12, rtol=1e-14)


@each_r
def test_eq_14_descending_on_v_moves_w_along_the_map(rng, r):
    """w_t = exp_p(v - eta dL/dv) is what a gradient step on v does; here for L = <c, w>."""
    p = points(rng, r, "float64")
    v = tangents(rng, p, r)
    c = tf.constant(rng.normal(size=p.shape))
    variable = tf.Variable(v)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(c * poincare.expmap(p, variable, r=r, axis=-1))
    gradient = tape.gradient(loss, variable)
    step = 2.0**-13  # Keras keeps learning rates in float32
    tf.keras.optimizers.legacy.SGD(step).apply_gradients([(gradient, variable)])
    after = poincare.expmap(p, variable, r=r, axis=-1)
    expected = poincare.expmap(p, v - step * gradient, r=r, axis=-1)
    assert_vectors_equal(after, expected, 1e-14)
    assert tf.reduce_sum(c * after) < loss


# --- shapes ------------------------------------------------------------------------------------


def test_axis_names_the_axes_of_one_vector(rng):
    kernel = tf.constant(rng.normal(size=(3, 3, 4, 5)), tf.float64)
    p = 0.05 * tf.reverse(kernel, [0])
    by_filter = poincare.expmap(p, kernel, r=1.0, axis=(0, 1, 2))
    for k in range(5):
        one = poincare.expmap(p[..., k], kernel[..., k], r=1.0, axis=(0, 1, 2))
        np.testing.assert_allclose(by_filter[..., k], one, atol=1e-14)
    np.testing.assert_array_equal(by_filter, poincare.expmap(p, kernel, r=1.0, axis=(-4, -3, -2)))
    flat = poincare.expmap(tf.reshape(p, [-1]), tf.reshape(kernel, [-1]), r=1.0, axis=0)
    whole = poincare.expmap(p, kernel, r=1.0, axis=(0, 1, 2, 3))
    np.testing.assert_allclose(tf.reshape(whole, [-1]), flat, atol=1e-14)


@pytest.mark.parametrize("axis, shape", [((0, 1, 2), (5,)), (-1, (3, 3, 4)), (range(4), ())])
def test_distance_and_conformal_factor_drop_the_axes(rng, axis, shape):
    p, q = (tf.constant(0.01 * rng.normal(size=(3, 3, 4, 5))) for _ in range(2))
    axis = axis if isinstance(axis, int) else tuple(axis)
    assert poincare.distance(p, q, r=1.0, axis=axis).shape == shape
    assert poincare.conformal_factor(p, r=1.0, axis=axis).shape == shape


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError) as error:
        poincare.expmap(tf.zeros((4, 3)), tf.zeros((4, 2)), r=0.5, axis=-1)
    assert str(error.value) == (
        "expmap(p of shape (4, 3), v of shape (4, 2)): two shapes alike, or where they differ 1 in "
        "one of them."
    )
    assert poincare.mobius_add(tf.zeros((4, 3)), tf.ones((1, 3)), r=0.1, axis=-1).shape == (4, 3)


@pytest.mark.parametrize("share", [-0.1, 2.0, float("nan"), None])
def test_a_share_of_the_way_is_one(share):
    p = tf.zeros((2, 3))
    with pytest.raises(ValueError) as error:
        poincare.step_toward(p, p + 1, r=1.0, axis=-1, share=share, length=0.5)
    assert str(error.value) == f"step_toward(share={share!r}): a number from 0 to 1."
