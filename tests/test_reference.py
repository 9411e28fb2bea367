"""The judge is judged: reference.py against itself by independent routes."""

from fractions import Fraction

import numpy as np
import pytest
import reference
from reference import EXACT

R = 0.05
EQUATIONS = {
    "mobius_add": (reference.mobius_add, 2, {}),
    "expmap": (reference.expmap, 2, {}),
    "logmap": (reference.logmap, 2, {}),
    "mobius_scalar_mul": (reference.mobius_scalar_mul, 1, {"c": -1.7}),
    "conformal_factor": (reference.conformal_factor, 1, {}),
    "distance": (reference.distance, 2, {}),
    "boundary": (reference.boundary, 2, {}),
    "epc": (reference.epc, 3, {}),
    "mobius_step": (reference.mobius_step, 2, {"learning_rate": 0.1}),
    "mobius_step_literal": (
        reference.mobius_step_literal,
        2,
        {"learning_rate": 0.1, "rim": 1e-6},
    ),
    "riemannian_step": (reference.riemannian_step, 2, {"learning_rate": 0.1}),
}
each_equation = pytest.mark.parametrize(
    "equation, count, kwargs", EQUATIONS.values(), ids=EQUATIONS.keys()
)


def points(count, shape=(2, 5), size=0.6):
    """Vectors with sqrt(r)|x| = `size` along the last axis."""
    rng = np.random.default_rng(1)
    xs = [rng.normal(size=shape) for _ in range(count)]
    return [size * x / np.linalg.norm(x, axis=-1, keepdims=True) / R**0.5 for x in xs]


@each_equation
def test_gram_route_equals_elementwise_route(equation, count, kwargs):
    xs = points(count)
    by_gram = reference.exact(equation, *xs, axis=-1, r=R, **kwargs)
    by_element = reference.digits60(equation, *xs, axis=-1, r=R, **kwargs)
    np.testing.assert_allclose(by_gram, by_element.astype(np.longdouble), rtol=1e-15, atol=1e-17)


@each_equation
def test_float64_twin_equals_exact_route(equation, count, kwargs):
    xs = points(count)
    twin = reference.float64_twin(equation, *xs, axis=-1, r=R, **kwargs)
    np.testing.assert_allclose(
        twin, reference.exact(equation, *xs, axis=-1, r=R, **kwargs).astype(float), rtol=1e-12
    )


@each_equation
@pytest.mark.parametrize("size", [0.6, 0.99999])
def test_vjp_equals_numeric_differentiation(equation, count, kwargs, size):
    """Central differences with 1e-40 steps in exact arithmetic have an error below 1e-60."""
    xs = points(count, shape=(1, 3), size=size)
    value = reference.digits60(equation, *xs, axis=-1, r=R, **kwargs)
    dy = np.random.default_rng(2).normal(size=value.shape)
    by_steps = reference.exact_vjp(equation, *xs, cotangent=dy, axis=-1, r=R, **kwargs)
    step = EXACT.mpf(10) ** -40
    for which, x in enumerate(xs):
        for k in range(x.shape[-1]):
            ends = []
            for sign in (1, -1):
                moved = [np.vectorize(EXACT.mpf, otypes=[object])(y) for y in xs]
                moved[which][0, k] += sign * step
                ends.append(reference.digits60(equation, *moved, axis=-1, r=R, **kwargs))
            slope = ((ends[0] - ends[1]) / (2 * step) * dy).sum()
            largest = float(abs(by_steps[which]).max())
            assert abs(float(slope) - float(by_steps[which][0, k])) <= 1e-12 * largest


def test_dot_of_float32_vectors_is_exact():
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=1000).astype(np.float32) for _ in range(2))
    y[-1] = -(x[:-1].astype(float) @ y[:-1]) / x[-1]  # so that nearly everything cancels
    truth = sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x, y, strict=True))
    value = reference.exact_dot(x, y)
    assert abs(value - EXACT.mpf(truth.numerator) / truth.denominator) <= 1e-30 * abs(value)


def test_layout_follows_axis():
    """A conv filter is the axes (0, 1, 2); the order of numbers inside a vector is kept."""
    kernel = np.arange(24.0).reshape(2, 1, 3, 4) / 100
    by_filter = reference.exact(reference.expmap, kernel, kernel, axis=(0, 1, 2), r=R)
    one = reference.exact(reference.expmap, kernel[..., 2], kernel[..., 2], axis=(0, 1, 2), r=R)
    np.testing.assert_array_equal(by_filter[..., 2], one)
    assert reference.exact(reference.conformal_factor, kernel, axis=(0, 1, 2), r=R).shape == (4,)
    assert reference.exact(reference.conformal_factor, kernel, axis=(0, 1, 2, 3), r=R).shape == ()


def test_relative_error_sees_a_wrong_vector():
    truth = np.array([[3.0, 4.0], [0.0, 0.0]], np.longdouble)
    wrong = np.array([[3.0, 4.5], [0.0, 1e-30]], np.longdouble)
    assert reference.relative_error(truth, truth, -1).tolist() == [0, 0]
    of_a_vector, of_zero = reference.relative_error(wrong, truth, -1)
    assert float(of_a_vector) == 0.1
    assert of_zero > 1e6


def test_eq12_as_printed_misses_by_the_root_of_the_conformal_factor():
    """Halfway to the edge lambda_p = 8/3, so the printed factor is off by sqrt(8/3) = 1.633."""
    p, v = points(2, size=0.5)
    w = reference.digits60(reference.expmap, p, v, axis=-1, r=R)
    back = reference.digits60(reference.logmap, p, w, axis=-1, r=R).astype(float)
    printed = reference.digits60(reference.logmap_as_printed, p, w, axis=-1, r=R).astype(float)
    np.testing.assert_allclose(back, v, rtol=1e-14)
    np.testing.assert_allclose(printed, v * (8 / 3) ** 0.5, rtol=1e-14)
