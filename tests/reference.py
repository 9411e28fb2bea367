"""The paper's equations in exact arithmetic: what every map and gradient is judged by.

No TensorFlow, and nothing shared with the library. Each equation is written once, as printed,
for "vectors" of any kind that can be added, scaled and dotted. It is then evaluated

* on float64 arrays (`float64_twin`): the plain NumPy twin;
* on arrays of mpmath numbers (`digits60`): element by element with 60 digits, for small n;
* on formal combinations of the inputs (`exact`, `exact_vjp`): every dot product comes from
  the inputs' Gram matrix, which is summed without rounding, so n may be millions.

`exact_vjp` needs no derivative worked out by hand. For y = sum_k c_k(G) x_k with Gram matrix G
and a cotangent dy, let f(G) = sum_k c_k(G) <dy, x_k>. Then

    dx_i = c_i dy + 2 (df/dG_ii) x_i + sum_{j != i} (df/dG_ij) x_j,

and df/dG comes from complex steps: f is analytic in G, so Im f(G + ih E_ij) / h with h = 1e-100
has an error of order h^2. tests/test_reference.py checks this against numeric differentiation.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import mpmath
import numpy as np

EXACT = mpmath.MPContext()
EXACT.dps = 260  # digits; 1e-100 steps and numbers down to 1e-80 leave about 60 good ones
STEP = EXACT.mpf(10) ** -100
RIM = {"float32": 1e-6, "float64": 1e-12}  # points are kept at sqrt(r)|p| <= 1 - RIM


# --- scalars: float in, float out; mpmath in, mpmath out -------------------------------------


def _function(name: str, x: Any) -> Any:
    return getattr(EXACT if isinstance(x, (EXACT.mpf, EXACT.mpc)) else math, name)(x)


def _over_z(name: str, z: Any) -> Any:
    """tanh(z)/z or atanh(z)/z, which is 1 at z = 0."""
    return _function(name, z) / z if z != 0 else 1


class Combination:
    """sum_k coefficient_k x_k of vectors known only by their Gram matrix."""

    def __init__(self, coefficients: Sequence[Any], gram: Any) -> None:
        self.coefficients = list(coefficients)
        self.gram = gram

    def __add__(self, other: "Combination") -> "Combination":
        pairs = zip(self.coefficients, other.coefficients, strict=True)
        return Combination([a + b for a, b in pairs], self.gram)

    def __rmul__(self, scalar: Any) -> "Combination":
        return Combination([scalar * a for a in self.coefficients], self.gram)


def dot(x: Any, y: Any) -> Any:
    if isinstance(x, Combination):
        return sum(
            a * b * x.gram[i][j]
            for i, a in enumerate(x.coefficients)
            for j, b in enumerate(y.coefficients)
            if a != 0 and b != 0
        )
    return np.dot(x, y)


def norm(x: Any) -> Any:
    return _function("sqrt", dot(x, x))


# --- the equations -----------------------------------------------------------------------------


def conformal_factor(x: Any, *, r: Any) -> Any:
    """Eq. 7."""
    return 2 / (1 - r * dot(x, x))


def mobius_add(p: Any, q: Any, *, r: Any) -> Any:
    """Eq. 10."""
    pp, pq, qq = dot(p, p), dot(p, q), dot(q, q)
    denominator = 1 + 2 * r * pq + r**2 * pp * qq
    return ((1 + 2 * r * pq + r * qq) / denominator) * p + ((1 - r * pp) / denominator) * q


def expmap(p: Any, v: Any, *, r: Any) -> Any:
    """Eq. 9, with tanh(z)/z so that v = 0 is an ordinary point."""
    half_lambda = conformal_factor(p, r=r) / 2
    z = _function("sqrt", r * dot(v, v)) * half_lambda
    return mobius_add(p, (_over_z("tanh", z) * half_lambda) * v, r=r)


def logmap(p: Any, q: Any, *, r: Any) -> Any:
    """Eq. 12 with 2 / (sqrt(r) lambda_p): the printed 2 / sqrt(r lambda_p) is no inverse."""
    difference = mobius_add(-1 * p, q, r=r)
    z = _function("sqrt", r * dot(difference, difference))
    return (_over_z("atanh", z) * 2 / conformal_factor(p, r=r)) * difference


def logmap_as_printed(p: Any, q: Any, *, r: Any) -> Any:
    """Eq. 12 letter by letter."""
    difference = mobius_add(-1 * p, q, r=r)
    size = norm(difference)
    factor = 2 / _function("sqrt", r * conformal_factor(p, r=r))
    return (factor * _function("atanh", _function("sqrt", r) * size) / size) * difference


def mobius_scalar_mul(p: Any, *, c: Any, r: Any) -> Any:
    """Eq. 17."""
    z = _function("sqrt", r * dot(p, p))
    if z == 0:
        return c * p
    return (_function("tanh", c * _function("atanh", z)) / z) * p


def distance(p: Any, q: Any, *, r: Any) -> Any:
    """Geodesic distance (Ganea et al. 2018, Section 2.2)."""
    difference = mobius_add(-1 * p, q, r=r)
    z = _function("sqrt", r * dot(difference, difference))
    return 2 * _over_z("atanh", z) * norm(difference)


def project(p: Any, *, r: Any, rim: float) -> Any:
    """Points further out than sqrt(r)|p| = 1 - rim are shortened to it."""
    z = _function("sqrt", r * dot(p, p))
    inside = z.real <= 1 - rim
    return 1 * p if inside else ((1 - rim) / z) * p


def boundary(p: Any, v: Any, *, r: Any) -> Any:
    """Eq. 9 with tanh -> 1: a point of the sphere of radius 1/sqrt(r)."""
    return mobius_add(p, (1 / _function("sqrt", r * dot(v, v))) * v, r=r)


def epc(v: Any, *points: Any, r: Any) -> Any:
    """Our reading of the cluster: exp_{p_m}( ... exp_{p_1}(v))."""
    for p in points:
        v = expmap(p, v, r=r)
    return v


def mobius_step(p: Any, g: Any, *, learning_rate: Any, r: Any) -> Any:
    """Eq. 16 with g put into the ball by exp_0, for which -eta (x) exp_0(g) = exp_0(-eta g)."""
    return mobius_add(p, expmap(0 * p, -learning_rate * g, r=r), r=r)


def mobius_step_literal(p: Any, g: Any, *, learning_rate: Any, r: Any, rim: float) -> Any:
    """Eq. 16 and 17 as printed, g shortened into the ball where Eq. 17 is undefined."""
    g = project(g, r=r, rim=rim)
    return mobius_add(p, mobius_scalar_mul(g, c=-learning_rate, r=r), r=r)


def riemannian_step(p: Any, g: Any, *, learning_rate: Any, r: Any) -> Any:
    """p <- exp_p(-eta g / lambda_p^2)."""
    return expmap(p, (-learning_rate / conformal_factor(p, r=r) ** 2) * g, r=r)


# --- evaluation on arrays ----------------------------------------------------------------------


def as_vectors(x: np.ndarray, axis: int | Sequence[int]) -> np.ndarray:
    """[vectors, n]: `axis` are the axes that form one vector."""
    axes = _axes(x.ndim, axis)
    return np.moveaxis(x, axes, range(-len(axes), 0)).reshape(
        -1, math.prod(x.shape[i] for i in axes)
    )


def _axes(ndim: int, axis: int | Sequence[int]) -> list[int]:
    return sorted(i % ndim for i in ([axis] if isinstance(axis, int) else axis))


def _like(rows: list[Any], x: np.ndarray, axis: int | Sequence[int]) -> np.ndarray:
    """Undoes `as_vectors`; a scalar per vector keeps only the other axes."""
    axes = _axes(x.ndim, axis)
    rest = [size for i, size in enumerate(x.shape) if i not in axes]
    if np.ndim(rows[0]) == 0:
        return np.array(rows).reshape(rest)
    stacked = np.stack(rows).reshape(rest + [x.shape[i] for i in axes])
    return np.moveaxis(stacked, range(-len(axes), 0), axes)


def _extended(x: Any) -> np.longdouble:
    """80-bit float nearest to an mpmath number."""
    return np.longdouble(EXACT.nstr(x, 25))


def exact_dot(x: np.ndarray, y: np.ndarray) -> Any:
    """<x, y> without rounding error worth naming.

    Products of float32 numbers are exact in float64, and two fsum passes keep 106 bits of
    their sum; anything wider goes through mpmath.
    """
    if x.dtype == y.dtype == np.float32:
        products = (x.astype(np.float64) * y).tolist()
        head = math.fsum(products)
        return EXACT.mpf(head) + EXACT.mpf(math.fsum(itertools.chain(products, [-head])))
    return EXACT.fdot(x.tolist(), y.tolist())


def _gram(vectors: Sequence[np.ndarray]) -> list[list[Any]]:
    count = len(vectors)
    gram = [[EXACT.mpf(0)] * count for _ in range(count)]
    for i, j in itertools.combinations_with_replacement(range(count), 2):
        gram[i][j] = gram[j][i] = exact_dot(vectors[i], vectors[j])
    return gram


def _basis(gram: list[list[Any]]) -> list[Combination]:
    count = len(gram)
    return [Combination([EXACT.mpf(int(k == i)) for k in range(count)], gram) for i in range(count)]


def _combine(coefficients: Sequence[Any], vectors: Sequence[np.ndarray]) -> np.ndarray:
    return sum(
        _extended(c) * x.astype(np.longdouble) for c, x in zip(coefficients, vectors, strict=True)
    )


def _exact_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {name: EXACT.mpf(value) for name, value in kwargs.items()}


def exact(
    equation: Callable[..., Any], *arrays: np.ndarray, axis: int | Sequence[int], **kwargs: float
) -> np.ndarray:
    """The equation's value for each vector, as 80-bit floats shaped like the first array."""
    rows: list[Any] = []
    for vectors in zip(*(as_vectors(x, axis) for x in arrays), strict=True):
        value = equation(*_basis(_gram(vectors)), **_exact_kwargs(kwargs))
        if isinstance(value, Combination):
            rows.append(_combine(value.coefficients, vectors))
        else:
            rows.append(_extended(value))
    return _like(rows, arrays[0], axis)


def exact_vjp(
    equation: Callable[..., Any],
    *arrays: np.ndarray,
    cotangent: np.ndarray,
    axis: int | Sequence[int],
    **kwargs: float,
) -> list[np.ndarray]:
    """Vector-Jacobian products with respect to every array, as 80-bit floats."""
    exact_kwargs = _exact_kwargs(kwargs)
    scalar = cotangent.ndim < arrays[0].ndim
    cotangents = cotangent.reshape(-1) if scalar else as_vectors(cotangent, axis)
    rows: list[list[np.ndarray]] = [[] for _ in arrays]
    for dy, *vectors in zip(cotangents, *(as_vectors(x, axis) for x in arrays), strict=True):
        gram = _gram(vectors)
        count = len(vectors)
        if scalar:
            coefficients = [EXACT.mpf(0)] * count
            weights = None
        else:
            coefficients = equation(*_basis(gram), **exact_kwargs).coefficients
            weights = [exact_dot(dy, x) for x in vectors]
        mix = [[EXACT.mpf(0)] * count for _ in range(count)]
        for i, j in itertools.combinations_with_replacement(range(count), 2):
            moved = [row.copy() for row in gram]
            moved[i][j] = moved[j][i] = EXACT.mpc(gram[i][j], STEP)
            value = equation(*_basis(moved), **exact_kwargs)
            if weights is None:
                slope = EXACT.mpf(float(dy)) * value.imag / STEP
            else:
                terms = zip(weights, value.coefficients, strict=True)
                slope = sum((w * c).imag for w, c in terms) / STEP
            mix[i][j] += slope
            mix[j][i] += slope
        for i in range(count):
            gradient = _combine(mix[i], vectors)
            if not scalar:
                gradient = gradient + _extended(coefficients[i]) * dy.astype(np.longdouble)
            rows[i].append(gradient)
    return [_like(gradients, x, axis) for gradients, x in zip(rows, arrays, strict=True)]


def float64_twin(
    equation: Callable[..., Any], *arrays: np.ndarray, axis: int | Sequence[int], **kwargs: float
) -> np.ndarray:
    """The equation in plain float64 NumPy."""
    vectors = [as_vectors(x, axis).astype(np.float64) for x in arrays]
    rows = [equation(*xs, **kwargs) for xs in zip(*vectors, strict=True)]
    return _like(rows, arrays[0], axis)


def digits60(
    equation: Callable[..., Any], *arrays: np.ndarray, axis: int | Sequence[int], **kwargs: float
) -> np.ndarray:
    """The equation element by element in mpmath; an object array of mpmath numbers."""
    to_mp = np.vectorize(lambda x: EXACT.mpf(float(x)) if not _is_mp(x) else x, otypes=[object])
    vectors = [to_mp(as_vectors(x, axis)) for x in arrays]
    rows = [equation(*xs, **_exact_kwargs(kwargs)) for xs in zip(*vectors, strict=True)]
    if not isinstance(rows[0], np.ndarray):
        rest = [s for i, s in enumerate(arrays[0].shape) if i not in _axes(arrays[0].ndim, axis)]
        return np.array(rows, dtype=object).reshape(rest)
    return _like(rows, arrays[0], axis)


def _is_mp(x: Any) -> bool:
    return isinstance(x, (EXACT.mpf, EXACT.mpc))


def relative_error(
    value: np.ndarray, reference: np.ndarray, axis: int | Sequence[int]
) -> np.ndarray:
    """|value - reference| / |reference| in the 2-norm, one number per vector; 0/0 counts as 0."""
    difference = as_vectors(np.asarray(value, np.longdouble) - reference, axis)
    size = np.sqrt((as_vectors(reference, axis) ** 2).sum(-1))
    error = np.sqrt((difference**2).sum(-1))
    return np.where(error == 0, 0, error / np.where(size == 0, np.finfo(np.longdouble).tiny, size))
