"""Maps of the Poincaré ball (HBNN section 3), exact and finite for every float that goes in.

The ball is `{x : r |x|^2 < 1}`, of radius `1 / sqrt(r)`; `r` here is `c` in Ganea et al. and `-k`
in geoopt. The paper calls `r` the radius; it is the strength of the curvature.

Every map is one call of `hbnn_larq.span.span` with a coefficient function of inner products. In
those functions `P`, `Q`, `A`, `B` are `r <p,p>`, `r <q,q>`, `r <v,v>` and a mixed product times
`r`, and `m = 1 - P`. A point that lies outside the ball is pulled in along its ray, as `project`
does; a result is rounded so that it lies inside.

# References
    - [Hyperbolic Neural Networks](https://arxiv.org/abs/1805.09112) (Ganea et al., 2018)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from hbnn_larq.arguments import require_share
from hbnn_larq.span import Axis, as_float64, inner_axes, span

__all__ = [
    "Ball",
    "ball_of",
    "boundary_map",
    "conformal_factor",
    "distance",
    "expmap",
    "expmap_sign",
    "logmap",
    "mobius_add",
    "mobius_scalar_mul",
    "mobius_step",
    "project",
    "put_in_ball",
]

# How far inside the edge a point is pulled: 1 - sqrt(r)|p|. Small enough to leave .99999 alone
# in float32, large enough that plain float32 sums of the result still say "inside".
_MARGIN = {tf.float32: 1e-6, tf.float64: 1e-12}
# Half a unit in the last place (float64: and the rounding of its own norm), so that a vector of
# norm 1 - _HALF_ULP cannot round to one of norm 1.
_HALF_ULP = {tf.float32: 1.001 * 2.0**-24, tf.float64: 2.0**-50}
# Squares of float64 numbers beyond this overflow; every map is saturated long before.
_LARGEST = 1e100


def project(p, *, r, axis: Axis) -> tf.Tensor:
    """The point itself where it lies inside the ball, else the point pulled in along its ray.

    Inside means `sqrt(r) |p| <= 1 - margin`, with a margin of 1e-6 in float32 and 1e-12 in
    float64. All maps here read their points through this rule.

    # Arguments
        p: Tensor of points, float32 or float64, of any finite length.
        r: Strength of the curvature, above 0; the radius of the ball is `1 / sqrt(r)`.
        axis: Axes that together form one vector, e.g. `(0, 1, 2)` for the filters of a kernel.

    # Returns
        Tensor of the shape of `p`.

    # Raises
        ValueError: `r` is not a number above 0, or `axis` names no axes of `p`.
        TypeError: `p` is neither float32 nor float64.
    """
    (p,), r = _points("project", r, axis, p=p)
    return span([p], _project_coefficients, (r, _MARGIN[p.dtype]), axis=axis)


def conformal_factor(x, *, r, axis: Axis) -> tf.Tensor:
    """Factor by which the metric of the ball stretches lengths at `x` (HBNN Eq. 7).

    \\[ \\lambda_x = \\frac{2}{1 - r |x|^2} \\]

    # Arguments
        x: Points of the ball, float32 or float64.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Tensor of the shape of `x` without `axis`.

    # Raises
        ValueError, TypeError: as for `expmap`.
    """
    (x,), r = _points("conformal_factor", r, axis, x=x)
    wide = tf.cast(x, tf.float64)
    inner = inner_axes(x.shape, axis)
    squared, _ = pulled_in(r * tf.reduce_sum(wide * wide, inner), _MARGIN[x.dtype])
    return tf.cast(2.0 / (1.0 - squared), x.dtype)


def mobius_add(p, q, *, r, axis: Axis) -> tf.Tensor:
    """Möbius sum of two points of the ball (HBNN Eq. 10).

    \\[ p \\oplus q = \\frac{(1 + 2r\\langle p,q\\rangle + r|q|^2) p + (1 - r|p|^2) q}
    {1 + 2r\\langle p,q\\rangle + r^2|p|^2|q|^2} \\]

    Neither commutative nor associative; `(-p) ⊕ (p ⊕ q) = q` holds.

    # Arguments
        p, q: Points of the ball, one dtype, shapes that broadcast.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Points of the ball.

    # Raises
        ValueError, TypeError: as for `expmap`.
    """
    (p, q), r = _points("mobius_add", r, axis, p=p, q=q)
    numbers = (r, _MARGIN[p.dtype])
    return span([p, q], _mobius_add_coefficients, numbers, axis=axis, longest=longest(r, p))


def mobius_scalar_mul(c, p, *, r, axis: Axis) -> tf.Tensor:
    """Möbius multiple of a point of the ball (HBNN Eq. 17).

    \\[ c \\otimes p = \\tanh(c \\tanh^{-1}(\\sqrt r |p|)) \\frac{p}{\\sqrt r |p|} \\]

    # Arguments
        c: Number; no gradient flows to it.
        p: Points of the ball, float32 or float64.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Points of the ball: the n-fold Möbius sum of `p` with itself for a whole `c = n`.

    # Raises
        ValueError, TypeError: as for `expmap`.
    """
    (p,), r = _points("mobius_scalar_mul", r, axis, p=p)
    numbers = (r, _MARGIN[p.dtype], c)
    return span([p], _scalar_mul_coefficients, numbers, axis=axis, longest=longest(r, p))


def expmap(p, v, *, r, axis: Axis) -> tf.Tensor:
    """End of the geodesic that leaves `p` with velocity `v` and runs for time 1 (HBNN Eq. 9).

    \\[ \\exp_p(v) = p \\oplus \\tanh\\left(\\sqrt r \\frac{\\lambda_p |v|}{2}\\right)
    \\frac{v}{\\sqrt r |v|} \\]

    Undone by `logmap`. `exp_p(0) = p`, and the derivative there is the identity.

    # Arguments
        p: Points of the ball, float32 or float64; one that lies outside is pulled in.
        v: Tangent vectors of any finite length, of the dtype of `p`, shapes that broadcast.
        r: Strength of the curvature, above 0; `r -> 0` gives `p + v`.
        axis: Axes that together form one vector.

    # Returns
        Points of the ball.

    # Raises
        ValueError: `r` is not a number above 0, `axis` names no axes of `v`, or shapes that do not
            fit together.
        TypeError: the dtypes differ or are neither float32 nor float64.
    """
    p, v, numbers = map_arguments("expmap", p, v, r, axis)
    return span([p, v], _expmap_coefficients, numbers, axis=axis, longest=longest(r, p))


def expmap_sign(p, v, *, r, axis: Axis) -> tf.Tensor:
    """`sign(exp_p(v))`, the 1-bit weight of HBNN (Eq. 11), with a straight-through gradient.

    The gradient is that of `expmap` to both `p` and `v` (Eq. 13). The window of the
    straight-through estimator widens from 1 to `1 / sqrt(r)`, where every point of the ball
    lies, so nothing is clipped.

    # Arguments
        p: Points of the ball, float32 or float64.
        v: Tangent vectors: the latent weights.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Tensor of -1 and +1; the sign of 0 is +1.

    # Raises
        ValueError, TypeError: as for `expmap`.
    """
    p, v, numbers = map_arguments("expmap_sign", p, v, r, axis)
    return span([p, v], _expmap_coefficients, numbers, axis=axis, sign=True)


def boundary_map(p, v, *, r, axis: Axis) -> tf.Tensor:
    """Point of the sphere `r |w|^2 = 1` that the geodesic from `p` along `v` runs into.

    \\[ w = p \\oplus \\frac{v}{\\sqrt r |v|} \\]

    The limit of `expmap` for long `v`. A vector shorter than `1e-10 / sqrt(r)` has no direction
    that float noise would leave standing: there the map is `expmap`, so that `w = p` at `v = 0`
    with the identity as derivative, and a zero vector leaves 0 with its first step.

    # Arguments
        p: Points strictly inside the ball, float32 or float64; others are pulled in.
        v: Tangent vectors; only their direction counts.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Points of the sphere of radius `1 / sqrt(r)`.

    # Raises
        ValueError, TypeError: as for `expmap`.
    """
    p, v, numbers = map_arguments("boundary_map", p, v, r, axis)
    return span([p, v], _boundary_coefficients, numbers, axis=axis)


def boundary_sign(p, v, *, r, axis: Axis) -> tf.Tensor:
    """`sign(boundary_map(p, v))`, with a straight-through gradient.

    # Arguments
        p: Points strictly inside the ball.
        v: Tangent vectors: the latent weights.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Tensor of -1 and +1; the sign of 0 is +1.

    # Raises
        ValueError, TypeError: as for `expmap`.
    """
    p, v, numbers = map_arguments("boundary_sign", p, v, r, axis)
    return span([p, v], _boundary_coefficients, numbers, axis=axis, sign=True)


def logmap(p, q, *, r, axis: Axis) -> tf.Tensor:
    """Tangent vector at `p` whose exponential map lands on `q` (HBNN Eq. 12, corrected).

    \\[ \\log_p(q) = \\frac{2}{\\sqrt r \\lambda_p} \\tanh^{-1}(\\sqrt r |{-p} \\oplus q|)
    \\frac{-p \\oplus q}{|{-p} \\oplus q|} \\]

    Paper against code: Eq. 12 has the factor `2 / sqrt(r lambda_p)` in our text of the paper,
    which misses `log_p(exp_p(v)) = v` by `sqrt(lambda_p)`; `2 / (sqrt(r) lambda_p)` satisfies it.

    # Arguments
        p, q: Points of the ball, one dtype, shapes that broadcast.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Tangent vectors, 0 where `q = p`.

    # Raises
        ValueError, TypeError: as for `expmap`.
    """
    (p, q), r = _points("logmap", r, axis, p=p, q=q)
    start, step = _from_to(p, q, r, axis)
    return tf.cast(span([start, step], _logmap_coefficients, (r,), axis=axis), p.dtype)


def distance(p, q, *, r, axis: Axis) -> tf.Tensor:
    """Length of the geodesic between two points (Ganea et al.; the norm of `logmap` at `p`).

    \\[ d(p, q) = \\frac{2}{\\sqrt r} \\tanh^{-1}(\\sqrt r |{-p} \\oplus q|) \\]

    # Arguments
        p, q: Points of the ball, one dtype, shapes that broadcast.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Tensor of the shape of `p` without `axis`. At `p = q`, where the distance has a kink, it
        is 0 and the gradient is 0.

    # Raises
        ValueError, TypeError: as for `expmap`.
    """
    (p, q), r = _points("distance", r, axis, p=p, q=q)
    start, step = _from_to(p, q, r, axis)
    inner = inner_axes(start.shape, axis)
    gram = [[r * tf.reduce_sum(x * y, inner) for y in (start, step)] for x in (start, step)]
    z_sq, complement, _ = _difference(gram)
    apart = z_sq > 0.0
    z = _where(apart, tf.sqrt(_where(apart, z_sq, 1.0)), 0.0)
    return tf.cast(2.0 / tf.sqrt(r) * z * _atanh_ratio(z_sq, complement), p.dtype)


STEP_RULES = ("exp0", "literal", "riemannian", "euclidean")


def mobius_step(p, g, *, r, axis: Axis, learning_rate, decay=0.0, rule: str = "exp0") -> tf.Tensor:
    """One step of gradient descent for a base point (HBNN Eq. 16), projected into the ball.

    With `g' = g + decay p`:

    - `"exp0"`: `p ⊕ (-eta ⊗ exp_0(g'))`. Eq. 17 needs a gradient inside the ball, and gradients
      do leave it; `exp_0` brings every one in, and `eta ⊗ exp_0(g)` is
      `tanh(eta sqrt(r)|g|) g / (sqrt(r)|g|)`, the paper's step to first order.
    - `"literal"`: `p ⊕ (-eta ⊗ g')` as printed, a gradient outside shortened to the edge.
    - `"riemannian"`: `exp_p(-eta g' / lambda_p^2)`, a quarter of the step at the origin.
    - `"euclidean"`: `p - eta g'`, that of SGD, to compare the others with.

    # Arguments
        p: Base points, float32 or float64.
        g: Euclidean gradient of the loss, of the shape and dtype of `p`.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.
        learning_rate: `eta`.
        decay: Coefficient of an L2 term on `p`.
        rule: One of the four above.

    # Returns
        The new base points, with `sqrt(r) |p| <= 1 - margin` (see `project`).

    # Raises
        ValueError, TypeError: as for `expmap`, and an unknown `rule`.
    """
    (p, g), r = _points("mobius_step", r, axis, p=p, g=g)
    if rule not in STEP_RULES:
        raise ValueError(f"mobius_step(rule={rule!r}): the rules are {', '.join(STEP_RULES)}.")
    numbers = (r, _MARGIN[p.dtype], learning_rate, decay)
    edge = (1.0 - _MARGIN[p.dtype]) / tf.sqrt(r)
    return span([p, g], _STEP_COEFFICIENTS[rule], numbers, axis=axis, longest=edge)


def step_toward(p, g, *, r, axis: Axis, share, length) -> tf.Tensor:
    r"""One step of a base point whose size does not depend on that of the gradient.

    The share `share` of the geodesic from p to the point that lies `length` away from the centre,
    against the gradient: `p ⊕ share ⊗ (-p ⊕ t)`, `t = -length g / |g|`. So p is a running mean of
    such points and never farther out than they are. A gradient of 0 leaves p where it is.

    # Arguments
        p: Base points, float32 or float64.
        g: Euclidean gradient of the loss, of the shape and dtype of `p`.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.
        share: Between 0 and 1.
        length: Of t, below `1 / sqrt(r)`; a number, or one per vector with `axis` kept.

    # Returns
        The new base points.

    # Raises
        ValueError, TypeError: as for `expmap`, and a `share` outside [0, 1].
    """
    (p, g), _ = _points("step_toward", r, axis, p=p, g=g)
    if not tf.is_tensor(share):
        require_share("step_toward", "share", share)
    scale = tf.reduce_max(tf.abs(g), axis, keepdims=True)  # squares of gradients may underflow
    unit = tf.math.divide_no_nan(g, scale)
    length_of_unit = tf.sqrt(tf.reduce_sum(unit * unit, axis, keepdims=True))
    unit = tf.math.divide_no_nan(unit, length_of_unit)
    way = mobius_add(-p, -length * unit, r=r, axis=axis)
    moved = mobius_add(p, mobius_scalar_mul(share, way, r=r, axis=axis), r=r, axis=axis)
    return tf.where(scale > 0, moved, p)


# ---------------------------------------------------------- points that variables hold


class Ball(NamedTuple):
    """The ball that a variable's vectors are points of."""

    r: float
    axis: tuple[int, ...]
    # How far from the centre the weights of each vector are, or None where nobody can say.
    reach: Callable[[], tf.Tensor | None] | None = None

    def length(self) -> tf.Tensor | float:
        """How far out base points may go: as far as the weights, at most half way to the edge."""
        half_way = 0.5 / math.sqrt(self.r)
        out = None if self.reach is None else self.reach()
        return half_way if out is None else tf.minimum(out, half_way)


def put_in_ball(
    variable: tf.Variable,
    *,
    r: float,
    axis: tuple[int, ...],
    reach: Callable[[], tf.Tensor | None] | None = None,
) -> None:
    """Mark a variable as holding points of a ball, for optimizers to find."""
    variable._hbnn_ball = Ball(r, axis, reach)


def ball_of(variable: tf.Variable) -> Ball | None:
    """The ball whose points a variable holds, or None."""
    return getattr(variable, "_hbnn_ball", None)


# ------------------------------------------------------------------ arguments


def check_r(call: str, r) -> None:
    """ValueError naming the call unless `r` is a finite number above 0 (tensors pass)."""
    if tf.is_tensor(r):
        return
    number = isinstance(r, int | float | np.number) and not isinstance(r, bool)
    if not number or not r > 0 or not math.isfinite(r):
        raise ValueError(
            f"{call}(r={r!r}): r must be a finite number above 0, since the Poincaré ball it "
            "names has radius 1/sqrt(r). The paper uses r=0.05."
        )


def _points(call: str, r, axis: Axis, **named) -> tuple[list[tf.Tensor], tf.Tensor]:
    check_r(call, r)
    tensors = [tf.convert_to_tensor(x) for x in named.values()]
    dtype = tensors[0].dtype
    if dtype not in _MARGIN or any(x.dtype != dtype for x in tensors):
        given = ", ".join(f"{k}: {x.dtype.name}" for k, x in zip(named, tensors, strict=True))
        raise TypeError(
            f"{call}({given}): the maps take float32 or float64, all arguments alike; "
            "use tf.cast first."
        )
    if len(tensors) == 2 and tensors[0].shape != tensors[1].shape:
        _check_broadcast(call, named, tensors)
        shape = tf.broadcast_dynamic_shape(tf.shape(tensors[0]), tf.shape(tensors[1]))
        tensors = [tf.broadcast_to(x, shape) for x in tensors]
    if dtype == tf.float64:
        inner = inner_axes(tensors[0].shape, axis)
        tensors = [_shortened(x, inner) for x in tensors]
    return tensors, as_float64(r)


def _check_broadcast(call: str, named: dict, tensors: list[tf.Tensor]) -> None:
    try:
        tf.broadcast_static_shape(tensors[0].shape, tensors[1].shape)
    except ValueError:
        shapes = [f"{k} of shape {tuple(x.shape)}" for k, x in zip(named, tensors, strict=True)]
        raise ValueError(
            f"{call}({', '.join(shapes)}): two shapes alike, or where they differ 1 in one of them."
        ) from None


def _shortened(x: tf.Tensor, inner: list[int]) -> tf.Tensor:
    """`x` with entries of at most 1e100: the same direction, and squares that do not overflow."""
    largest = tf.reduce_max(tf.abs(x), inner, keepdims=True)
    return x * tf.stop_gradient(_LARGEST / tf.maximum(largest, _LARGEST))


def map_arguments(call: str, p, v, r, axis: Axis):
    (p, v), r = _points(call, r, axis, p=p, v=v)
    return p, v, (r, _MARGIN[p.dtype])


def longest(r, p) -> tf.Tensor:
    """Largest norm of a point of the ball that cannot round to the edge in the dtype of `p`."""
    return (1.0 - _HALF_ULP[p.dtype]) / tf.sqrt(as_float64(r))


def _from_to(p, q, r, axis: Axis) -> tuple[tf.Tensor, tf.Tensor]:
    """`p` and `q - p` in float64: the difference of near points must not cancel."""
    p, q = (tf.cast(project(x, r=r, axis=axis), tf.float64) for x in (p, q))
    return p, q - p


# ------------------------------------------- scalar functions, regular at zero


def _where(condition, yes, no) -> tf.Tensor:
    """`tf.where` in float64, which would read a Python number beside it as float32."""
    return tf.where(condition, *(tf.convert_to_tensor(x, tf.float64) for x in (yes, no)))


# tanh(x) / x and atanh(x) / x as series in x^2.
_TANH = (1, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925, 21844 / 6081075,
         -929569 / 638512875, 6404582 / 10854718875)  # fmt: skip
_ATANH = tuple(1 / (2 * k + 1) for k in range(10))


def _series(coefficients, x: tf.Tensor) -> tf.Tensor:
    y = tf.fill(tf.shape(x), tf.constant(coefficients[-1], x.dtype))
    for c in coefficients[-2::-1]:
        y = y * x + c
    return y


def _tanh_ratio(x: tf.Tensor) -> tf.Tensor:
    """`tanh(sqrt x) / sqrt x`, analytic at 0."""
    small = x < 0.025
    root = tf.sqrt(_where(small, 1.0, x))
    return _where(small, _series(_TANH, _where(small, x, 0.0)), tf.tanh(root) / root)


def _atanh_ratio(x: tf.Tensor, complement: tf.Tensor) -> tf.Tensor:
    """`atanh(sqrt x) / sqrt x`, analytic at 0, given `1 - x` free of cancellation."""
    small = x < 0.01
    root = tf.sqrt(_where(small, 1.0, x))
    atanh = tf.math.log1p(root) - 0.5 * tf.math.log(_where(small, 1.0, complement))
    return _where(small, _series(_ATANH, _where(small, x, 0.0)), atanh / root)


# ------------------------------------------------------- coefficient functions


def pulled_in(squared: tf.Tensor, margin) -> tuple[tf.Tensor, tf.Tensor]:
    """`r |p|^2` of the point read as `project` reads it, and the factor that shortens it."""
    edge = (1.0 - margin) ** 2
    outside = squared > edge
    factor = _where(outside, (1.0 - margin) / tf.sqrt(_where(outside, squared, 1.0)), 1.0)
    return _where(outside, edge, squared), factor


def exp_coefficients(P, B, A):
    """Coefficients of `p` and `v` in `exp_p(v)`, from `r<p,p>`, `r<p,v>`, `r<v,v>`."""
    m = 1.0 - P
    x = A / (m * m)
    ratio = _tanh_ratio(x)
    return _sum_coefficients(P, B, ratio, x * ratio * ratio, m)


def _sum_coefficients(P, B, ratio, T, m):
    # p ⊕ q for q = (ratio / m) v with r|q|^2 = T; its denominator is at least
    # (1 - sqrt(P))^2 >= m^2 / 4, an exact bound that only rounding can break.
    denominator = tf.maximum(1.0 + 2.0 * ratio * B / m + P * T, 0.25 * m * m)
    return 1.0 + m * T / denominator, ratio / denominator


def _expmap_coefficients(gram, r, margin):
    P, pull = pulled_in(r * gram[0][0], margin)
    c_p, c_v = exp_coefficients(P, pull * r * gram[0][1], r * gram[1][1])
    return [pull * c_p, c_v]


def _boundary_coefficients(gram, r, margin):
    P, pull = pulled_in(r * gram[0][0], margin)
    A, m = r * gram[1][1], 1.0 - P
    directed = A > 1e-20
    inner = _tanh_ratio(_where(directed, 0.0, A / (m * m)))
    ratio = _where(directed, m / tf.sqrt(_where(directed, A, 1.0)), inner)
    T = _where(directed, 1.0, A / (m * m) * inner * inner)
    c_p, c_v = _sum_coefficients(P, pull * r * gram[0][1], ratio, T, m)
    return [pull * c_p, c_v]


def _project_coefficients(gram, r, margin):
    return [pulled_in(r * gram[0][0], margin)[1]]


def _mobius_add_coefficients(gram, r, margin):
    P, pull_p = pulled_in(r * gram[0][0], margin)
    Q, pull_q = pulled_in(r * gram[1][1], margin)
    B = pull_p * pull_q * r * gram[0][1]
    # (1 - P)(1 - Q) <= (1 - sqrt(PQ))^2 <= denominator.
    denominator = tf.maximum(1.0 + 2.0 * B + P * Q, (1.0 - P) * (1.0 - Q))
    c_p, c_q = (1.0 + 2.0 * B + Q) / denominator, (1.0 - P) / denominator
    return [pull_p * c_p, pull_q * c_q]


def _scalar_mul_coefficients(gram, r, margin, c):
    P, pull = pulled_in(r * gram[0][0], margin)
    stretch = c * _atanh_ratio(P, 1.0 - P)
    ratio = stretch * _tanh_ratio(stretch * stretch * P)
    return [pull * ratio]


def _difference(gram):
    """Of `-p ⊕ q` with `d = q - p`: its squared norm z^2, 1 - z^2, and the denominator.

    `-p ⊕ q = ((1 - P) d - |d|^2 p) / denominator`, free of cancellation for near points.
    """
    (P, E), (_, N) = gram
    m = 1.0 - P
    denominator = m * m - 2.0 * m * E + P * N
    # |q|^2 from p and d; rounding must not let a point of the ball reach the edge.
    rest = tf.maximum(1.0 - (P + 2.0 * E + N), 1e-15)
    denominator = tf.maximum(denominator, m * rest)
    z_sq = N / denominator
    return tf.minimum(z_sq, 1.0), m * rest / denominator, denominator


def _logmap_coefficients(gram, r):
    scaled = [[r * g for g in row] for row in gram]
    z_sq, complement, denominator = _difference(scaled)
    m = 1.0 - scaled[0][0]
    length = m * _atanh_ratio(z_sq, complement) / denominator
    return [-length * scaled[1][1], length * m]


def _with_decay(gram, r, decay):
    """Products of `p` and `g + decay p`, each times `r`."""
    pp, pg, gg = r * gram[0][0], r * gram[0][1], r * gram[1][1]
    return pp, pg + decay * pp, gg + 2.0 * decay * pg + decay * decay * pp


def _stepped(decay, pull, c_p, c_g):
    return [pull * c_p + decay * c_g, c_g]


def _step_along(gram, r, margin, decay, multiple):
    """`p ⊕ S g'` for the factor `S = multiple(r |g'|^2)`."""
    pp, pg, gg = _with_decay(gram, r, decay)
    P, pull = pulled_in(pp, margin)
    S, B = multiple(gg), pull * pg
    Q = S * S * gg
    m = 1.0 - P
    denominator = tf.maximum(1.0 + 2.0 * S * B + P * Q, 0.25 * m * m)
    c_p, c_g = (1.0 + 2.0 * S * B + Q) / denominator, m * S / denominator
    return _stepped(decay, pull, c_p, c_g)


def _exp0_step_coefficients(gram, r, margin, learning_rate, decay):
    def multiple(gg):
        return -learning_rate * _tanh_ratio(learning_rate * learning_rate * gg)

    return _step_along(gram, r, margin, decay, multiple)


def _literal_step_coefficients(gram, r, margin, learning_rate, decay):
    def multiple(gg):
        inside, shorten = pulled_in(gg, margin)
        stretch = learning_rate * _atanh_ratio(inside, 1.0 - inside)
        return -shorten * stretch * _tanh_ratio(stretch * stretch * inside)

    return _step_along(gram, r, margin, decay, multiple)


def _riemannian_step_coefficients(gram, r, margin, learning_rate, decay):
    pp, pg, gg = _with_decay(gram, r, decay)
    P, pull = pulled_in(pp, margin)
    m = 1.0 - P
    scale = -0.25 * learning_rate * m * m
    c_p, c_v = exp_coefficients(P, scale * pull * pg, scale * scale * gg)
    return _stepped(decay, pull, c_p, scale * c_v)


def _euclidean_step_coefficients(gram, r, margin, learning_rate, decay):
    _, pull = pulled_in(r * gram[0][0], margin)
    c_p, c_g = _stepped(decay, pull, 1.0, -learning_rate)
    (pp, pg), (_, gg) = gram
    _, shorten = pulled_in(r * (c_p * c_p * pp + 2.0 * c_p * c_g * pg + c_g * c_g * gg), margin)
    return [shorten * c_p, shorten * c_g]


_STEP_COEFFICIENTS = {
    "exp0": _exp0_step_coefficients,
    "literal": _literal_step_coefficients,
    "riemannian": _riemannian_step_coefficients,
    "euclidean": _euclidean_step_coefficients,
}
