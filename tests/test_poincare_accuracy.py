"""Values, gradients and signs of the maps against exact arithmetic, over the whole float range.

Errors are normwise: |computed - exact| / |exact| in the 2-norm of each vector.
"""

import itertools

import numpy as np
import pytest
import reference
import tensorflow as tf

from hbnn_larq import epc, poincare

R = (1e-4, 0.05, 1.0, 5.0)
P_SIZES = (0.0, 0.5, 0.99, 0.99999)  # sqrt(r)|p|
V_NORMS = (0.0, 1e-12, 1e-6, 1e-3, 1.0, 30.0, 1e3, 1e15, 1e30, 3e38)
DIRECTIONS = ("random", "parallel", "antiparallel")
EDGE = 0.99999
# One float32 rounding of every number costs up to 6e-8. Antiparallel to p at the edge the map
# amplifies a relative change of 1e-16 in <p,p> to about 1e-5: more than float64 sums can give.
TOLERANCE = 1e-7
TOLERANCE_ANTIPARALLEL_AT_EDGE = 1e-4
# Very short vectors: both roundings of a point kept half a unit inside the edge may fall along the
# vector, and dw may lie where the gradient nearly vanishes.
SHORT = 16
TOLERANCE_SHORT = 1.2e-7
TOLERANCE_SHORT_ANTIPARALLEL_AT_EDGE = 3e-4
SMALLEST_NORMAL = 1.1754944e-38  # below it XLA and TensorFlow flush float32 to 0

FILTERS = [(1, 1, 2), (3, 3, 3), (5, 7, 11), (3, 3, 64)]
LAYERS = [(2,), (1, 1, 3, 5), (3, 3, 8, 9)]


def sweep(n, r, rng, *, p_sizes=P_SIZES, v_norms=V_NORMS):
    """float32 columns p, v, dw [n, cases] and the tolerance of each case."""
    columns, tolerances = [], []
    for p_size, v_norm, direction in itertools.product(p_sizes, v_norms, DIRECTIONS):
        ray = rng.normal(size=n)
        ray /= np.linalg.norm(ray)
        other = rng.normal(size=n)
        other /= np.linalg.norm(other)
        towards = {"random": other, "parallel": ray, "antiparallel": -ray}[direction]
        columns.append((p_size / r**0.5 * ray, v_norm * towards, rng.normal(size=n)))
        if p_size >= EDGE and direction == "antiparallel":
            hard = TOLERANCE_SHORT_ANTIPARALLEL_AT_EDGE, TOLERANCE_ANTIPARALLEL_AT_EDGE
            tolerances.append(hard[1] if n > SHORT else hard[0])
        else:
            tolerances.append(TOLERANCE if n > SHORT else TOLERANCE_SHORT)
    p, v, dw = (np.stack(xs, -1).astype(np.float32) for xs in zip(*columns, strict=True))
    return p, v, dw, np.array(tolerances)


def value_and_gradients(function, *arrays, cotangent):
    tensors = [tf.constant(x) for x in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    gradients = tape.gradient(value, tensors, output_gradients=tf.constant(cotangent))
    return value.numpy(), [g.numpy() for g in gradients]


def assert_close(name, value, truth, axis, tolerances):
    """Normwise, but a number too small for float32 may become 0."""
    finite = bool(np.isfinite(value).all())
    assert finite, f"{name}: NaN or Inf"
    absolute = np.abs(value - truth)
    flushed = np.where(absolute <= SMALLEST_NORMAL, truth, value)
    errors = reference.relative_error(flushed, truth, axis)
    worst = np.argmax(errors / tolerances)
    too_far = bool((errors > tolerances).any())
    assert not too_far, f"{name}: relative error {errors[worst]:.1e} of vector {worst}"


def assert_signs(name, signs, truth):
    assert set(np.unique(signs)) <= {-1.0, 1.0}
    expected = np.where(truth >= 0, 1.0, -1.0)
    decided = (np.abs(truth) >= SMALLEST_NORMAL) | (truth == 0)
    wrong = int((signs != expected)[decided].sum())
    assert wrong == 0, f"{name}: wrong signs"


def check_expmap(p, v, dw, r, axis, tolerances):
    """`expmap` and `expmap_sign`, forward and backward, on arrays shaped as a kernel."""
    w = reference.exact(reference.expmap, p, v, axis=axis, r=r)
    dp, dv = reference.exact_vjp(reference.expmap, p, v, cotangent=dw, axis=axis, r=r)

    value, gradients = value_and_gradients(
        lambda p, v: poincare.expmap(p, v, r=r, axis=axis), p, v, cotangent=dw
    )
    assert_close("w", value, w, axis, tolerances)
    assert_close("dp", gradients[0], dp, axis, tolerances)
    assert_close("dv", gradients[1], dv, axis, tolerances)
    assert_signs("sign(expmap)", np.where(value >= 0, 1.0, -1.0), w)

    signs, gradients = value_and_gradients(
        lambda p, v: poincare.expmap_sign(p, v, r=r, axis=axis), p, v, cotangent=dw
    )
    assert_signs("expmap_sign", signs, w)
    assert_close("dp of expmap_sign", gradients[0], dp, axis, tolerances)
    assert_close("dv of expmap_sign", gradients[1], dv, axis, tolerances)


@pytest.mark.parametrize("r", R)
@pytest.mark.parametrize("shape", FILTERS, ids=str)
def test_expmap_per_filter(rng, shape, r):
    p, v, dw, tolerances = sweep(np.prod(shape), r, rng)
    kernels = [x.reshape(*shape, -1) for x in (p, v, dw)]
    check_expmap(*kernels, r, tuple(range(len(shape))), tolerances)


@pytest.mark.parametrize(
    "r", [R[0], R[-1], *(pytest.param(r, marks=pytest.mark.slow) for r in R[1:-1])]
)
@pytest.mark.parametrize("shape", LAYERS, ids=str)
def test_expmap_per_layer(rng, shape, r):
    p, v, dw, tolerances = sweep(np.prod(shape), r, rng)
    for case, tolerance in enumerate(tolerances):
        kernel = [x[:, case].reshape(shape) for x in (p, v, dw)]
        check_expmap(*kernel, r, tuple(range(len(shape))), tolerance)


@pytest.mark.parametrize("r", [pytest.param(1e-4, marks=pytest.mark.slow), 5.0])
@pytest.mark.parametrize(
    "shape", [(3, 3, 32, 32), pytest.param((1000, 10), marks=pytest.mark.slow)], ids=str
)
def test_expmap_per_larger_layer(rng, shape, r):
    p, v, dw, tolerances = sweep(
        np.prod(shape), r, rng, p_sizes=(0.5, 0.99999), v_norms=(0.0, 1e-3, 30.0, 3e38)
    )
    for case, tolerance in enumerate(tolerances):
        kernel = [x[:, case].reshape(shape) for x in (p, v, dw)]
        check_expmap(*kernel, r, tuple(range(len(shape))), tolerance)


@pytest.mark.parametrize(
    "shape", [(3, 3, 64, 64), pytest.param((3, 3, 127, 61), marks=pytest.mark.slow)], ids=str
)
def test_expmap_of_real_kernels(rng, shape):
    """He-normal kernels, every filter exact, and shapes that no block size divides."""
    fan_in = np.prod(shape[:3])
    v = rng.normal(scale=(2 / fan_in) ** 0.5, size=shape).astype(np.float32)
    p = rng.normal(scale=1e-3, size=shape).astype(np.float32)
    dw = rng.normal(size=shape).astype(np.float32)
    some = slice(None, None, 8)
    for axis in [(0, 1, 2), (0, 1, 2, 3)]:
        value, gradients = value_and_gradients(
            lambda p, v, axis=axis: poincare.expmap(p, v, r=0.05, axis=axis), p, v, cotangent=dw
        )
        results = [value, *gradients]
        inputs = [p, v, dw]
        if len(axis) == 3:
            results, inputs = ([x[..., some] for x in xs] for xs in (results, inputs))
        truth = [reference.exact(reference.expmap, *inputs[:2], axis=axis, r=0.05)]
        truth += reference.exact_vjp(
            reference.expmap, *inputs[:2], cotangent=inputs[2], axis=axis, r=0.05
        )
        for name, result, expected in zip(("w", "dp", "dv"), results, truth, strict=True):
            assert_close(name, result, expected, axis, TOLERANCE)
        assert_signs("expmap", np.where(results[0] >= 0, 1.0, -1.0), truth[0])


@pytest.mark.slow
@pytest.mark.parametrize("p_size, v_norm", [(0.0, 32.0), (0.99999, 1e-3), (0.99999, 32.0)])
def test_expmap_of_the_largest_layer(rng, p_size, v_norm):
    """3x3x512x512: one vector of 2.4 million numbers."""
    shape, axis = (3, 3, 512, 512), (0, 1, 2, 3)
    p, v, dw, tolerances = sweep(np.prod(shape), 0.05, rng, p_sizes=(p_size,), v_norms=(v_norm,))
    for case, tolerance in enumerate(tolerances):
        check_expmap(*(x[:, case].reshape(shape) for x in (p, v, dw)), 0.05, axis, tolerance)


@pytest.mark.slow
def test_expmap_of_the_widest_filters(rng):
    """3x3x512x512 by filter, and a dense kernel of 100,000 inputs."""
    for shape, axis in [((3, 3, 512, 512), (0, 1, 2)), ((100_000, 16), (0,))]:
        n = np.prod(shape[:-1])
        p, v, dw, tolerances = sweep(n, 0.05, rng, p_sizes=(0.5, 0.99999), v_norms=(1.0, 1e3))
        count = len(tolerances)
        arrays = []
        for x in (p, v, dw):  # the cases first, the rest of the filters all alike
            full = np.repeat(x[:, :1], shape[-1], axis=1)
            full[:, :count] = x
            arrays.append(full)
        value, gradients = value_and_gradients(
            lambda p, v, axis=axis: poincare.expmap(p, v, r=0.05, axis=axis),
            *(x.reshape(shape) for x in arrays[:2]),
            cotangent=arrays[2].reshape(shape),
        )
        truth = [reference.exact(reference.expmap, p, v, axis=0, r=0.05)]
        truth += reference.exact_vjp(reference.expmap, p, v, cotangent=dw, axis=0, r=0.05)
        for name, result, expected in zip(
            ("w", "dp", "dv"), [value, *gradients], truth, strict=True
        ):
            assert_close(name, result.reshape(n, -1)[:, :count], expected, 0, tolerances)


# --- the derivative at v = 0 ------------------------------------------------------------------


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-7), ("float64", 1e-15)])
@pytest.mark.parametrize("size", P_SIZES)
@pytest.mark.parametrize("r", R)
def test_expmap_has_identity_derivative_at_zero(rng, r, size, dtype, tolerance):
    """Not 0, which a "safe" norm gives: a kernel entry at 0 would never move."""
    ray = rng.normal(size=6)
    p = tf.constant(size / r**0.5 * ray / np.linalg.norm(ray), dtype)
    v = tf.zeros_like(p)
    rows = []
    for k in range(6):
        with tf.GradientTape() as tape:
            tape.watch(v)
            w = poincare.expmap(p, v, r=r, axis=-1)
        rows.append(tape.gradient(w, v, output_gradients=tf.one_hot(k, 6, dtype=dtype)))
    np.testing.assert_allclose(np.stack(rows), np.eye(6), atol=tolerance)


# --- the corners of the float range -----------------------------------------------------------


def corner_cases(dtype):
    """Columns p, v of the inputs that break a formula written without thought (r = 1, n = 4)."""
    info = np.finfo(dtype)
    ray = np.array([0.5, -0.5, 0.5, 0.5])
    ps = [0, info.tiny, 1 - info.epsneg, 1, 1 + info.eps, 1.001, 2, 1e10, info.max / 4]
    vs = [0, info.smallest_subnormal, info.tiny, 1e-30, 1, 1e3, 1e25, info.max / 4]
    pairs = [(p, sign * v) for p in ps for v in vs for sign in (1, -1)]
    other = np.array([1, 1, -1, 1])
    p = np.stack([a * ray for a, _ in pairs] * 2, -1)
    v = np.stack([4 * b * ray for _, b in pairs] + [2 * b * other for _, b in pairs], -1)
    return p.astype(dtype), v.astype(dtype)


MAPS = {
    "mobius_add": lambda p, v: poincare.mobius_add(p, v, r=1.0, axis=0),
    "expmap": lambda p, v: poincare.expmap(p, v, r=1.0, axis=0),
    "logmap": lambda p, v: poincare.logmap(p, v, r=1.0, axis=0),
    "distance": lambda p, v: poincare.distance(p, v, r=1.0, axis=0),
    "boundary_map": lambda p, v: poincare.boundary_map(p, v, r=1.0, axis=0),
    "mobius_step": lambda p, v: poincare.mobius_step(p, v, r=1.0, axis=0, learning_rate=0.1),
    "conformal_factor": lambda p, v: poincare.conformal_factor(v, r=1.0, axis=0),
    "mobius_scalar_mul": lambda p, v: poincare.mobius_scalar_mul(-3.0, v, r=1.0, axis=0),
    "project": lambda p, v: poincare.project(v, r=1.0, axis=0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MAPS)
def test_no_input_gives_nan_or_inf(name, dtype):
    p, v = (tf.constant(x) for x in corner_cases(dtype))
    with tf.GradientTape() as tape:
        tape.watch([p, v])
        value = MAPS[name](p, v)
    gradients = tape.gradient(value, [p, v], unconnected_gradients="zero")
    for what, array in zip(("value", "dp", "dv"), [value, *gradients], strict=True):
        bad = ~np.isfinite(array.numpy())
        assert not bad.any(), f"{what} at columns {np.unique(np.nonzero(bad)[-1])}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name", ["mobius_add", "expmap", "mobius_step", "mobius_scalar_mul", "project"]
)
def test_results_stay_inside_the_ball(name, dtype):
    p, v = corner_cases(dtype)
    value = MAPS[name](tf.constant(p), tf.constant(v)).numpy().astype(np.longdouble)
    norms = np.sqrt((value**2).sum(0))
    assert norms.max() < 1


@pytest.mark.parametrize("size", [1.0, 1.001, 2.0, 1e10])
def test_a_point_outside_is_pulled_in_along_its_ray(rng, size):
    p, v, dw, _ = sweep(27, 0.05, rng, p_sizes=(size,), v_norms=(0.0, 1e-3, 1.0, 1e3))
    kept = np.arange(v.shape[1]) % 3 != 2  # antiparallel: see TOLERANCE_ANTIPARALLEL_AT_EDGE
    p, v, dw = (x[:, kept] for x in (p, v, dw))

    def equation(p, v, *, r):
        inside = reference.project(p, r=r, rim=reference.RIM["float32"])
        return reference.expmap(inside, v, r=r)

    w = reference.exact(equation, p, v, axis=0, r=0.05)
    dp, dv = reference.exact_vjp(equation, p, v, cotangent=dw, axis=0, r=0.05)
    value, gradients = value_and_gradients(
        lambda p, v: poincare.expmap(p, v, r=0.05, axis=0), p, v, cotangent=dw
    )
    assert_close("w", value, w, 0, TOLERANCE)
    assert_close("dv", gradients[1], dv, 0, 1e-4)
    assert_close("dp", gradients[0], dp, 0, 1e-4)
    assert_signs("expmap", np.where(value >= 0, 1.0, -1.0), w)


# --- the other maps ---------------------------------------------------------------------------


def points(rng, n, r, *, sizes=(0.0, 1e-6, 0.5, 0.99, 0.99999)):
    """float32 columns p, q for every pair of distances from the centre."""
    pairs = list(itertools.product(sizes, sizes))
    columns = []
    for size in np.array(pairs).T:
        x = rng.normal(size=(n, len(pairs)))
        columns.append((size / r**0.5 * x / np.linalg.norm(x, axis=0)).astype(np.float32))
    return columns


@pytest.mark.parametrize("r", R)
@pytest.mark.parametrize(
    "name, equation",
    [
        ("mobius_add", reference.mobius_add),
        ("logmap", reference.logmap),
        ("boundary_map", reference.boundary),
        ("distance", reference.distance),
    ],
)
def test_two_point_maps(rng, name, equation, r):
    p, q = points(rng, 64, r)
    if name == "boundary_map":
        p, q = (x[:, 5:] for x in points(rng, 64, r)[::-1])  # no direction at q = 0
    if name == "distance":
        p, q = p[:, 1:], q[:, 1:]  # no derivative at p = q = 0
    dw = rng.normal(size=p.shape[1:] if name == "distance" else p.shape).astype(np.float32)
    truth = [reference.exact(equation, p, q, axis=0, r=r)]
    truth += reference.exact_vjp(equation, p, q, cotangent=dw, axis=0, r=r)
    value, gradients = value_and_gradients(
        lambda p, q: getattr(poincare, name)(p, q, r=r, axis=0), p, q, cotangent=dw
    )
    if name == "distance":
        value, truth[0] = value[None], truth[0][None]
    for what, result, expected in zip(
        ("value", "dp", "dq"), [value, *gradients], truth, strict=True
    ):
        assert_close(what, result, expected, 0, TOLERANCE)


@pytest.mark.parametrize("r", R)
@pytest.mark.parametrize("c", [-1.0, 0.0, 0.1, 1.0, 3.0, 1e4])
def test_mobius_scalar_mul(rng, c, r):
    (p, _) = points(rng, 64, r)
    dw = rng.normal(size=p.shape).astype(np.float32)
    truth = reference.exact(reference.mobius_scalar_mul, p, axis=0, c=c, r=r)
    (dp,) = reference.exact_vjp(reference.mobius_scalar_mul, p, cotangent=dw, axis=0, c=c, r=r)
    value, gradients = value_and_gradients(
        lambda p: poincare.mobius_scalar_mul(c, p, r=r, axis=0), p, cotangent=dw
    )
    assert_close("value", value, truth, 0, TOLERANCE)
    assert_close("dp", gradients[0], dp, 0, TOLERANCE)


@pytest.mark.parametrize("r", R)
def test_conformal_factor(rng, r):
    (p, _) = points(rng, 64, r)
    truth = reference.exact(reference.conformal_factor, p, axis=0, r=r)
    dl = rng.normal(size=truth.shape).astype(np.float32)
    (dp,) = reference.exact_vjp(reference.conformal_factor, p, cotangent=dl, axis=0, r=r)
    value, gradients = value_and_gradients(
        lambda p: poincare.conformal_factor(p, r=r, axis=0), p, cotangent=dl
    )
    assert_close("value", value[None], truth[None], 0, TOLERANCE)
    assert_close("dp", gradients[0], dp, 0, TOLERANCE)


@pytest.mark.parametrize("r", R)
@pytest.mark.parametrize("learning_rate", [1e-3, 0.1, 1e3])
def test_mobius_step(rng, learning_rate, r):
    """sqrt(r)|g| from 0 to 1e6 and beyond what float32 can square."""
    p, g, _, tolerances = sweep(64, r, rng, v_norms=(0.0, 1e-12, 1e-3, 1.0, 1e6, 1e30))

    def equation(p, g, *, learning_rate, r):
        stepped = reference.mobius_step(p, g, learning_rate=learning_rate, r=r)
        return reference.project(stepped, r=r, rim=reference.RIM["float32"])

    truth = reference.exact(equation, p, g, axis=0, learning_rate=learning_rate, r=r)
    value = poincare.mobius_step(
        tf.constant(p), tf.constant(g), r=r, axis=0, learning_rate=learning_rate
    )
    # The step goes against g, so it is a parallel g that leads through the centre.
    assert_close("p", value.numpy(), truth, 0, np.roll(tolerances, -1))


@pytest.mark.parametrize("r", R)
@pytest.mark.parametrize("size", [2, 3])
def test_epc_chain(rng, size, r):
    """Points of the cluster up to .9, where the chain does not amplify rounding by much."""
    pairs = [points(rng, 64, r, sizes=(0.0, 0.3, 0.9)) for _ in range(size)]
    cluster = [p if k % 2 else q for k, (p, q) in enumerate(pairs)]
    lengths = np.array([0.0, 1e-12, 1e-3, 0.1, 1.0, 10.0, 1e3, 1e15, 3e38])
    v = rng.normal(size=cluster[0].shape)
    v = (lengths * v / np.linalg.norm(v, axis=0)).astype(np.float32)
    dw = rng.normal(size=v.shape).astype(np.float32)
    inputs = [v, *cluster]
    truth = [reference.exact(reference.epc, *inputs, axis=0, r=r)]
    truth += reference.exact_vjp(reference.epc, *inputs, cotangent=dw, axis=0, r=r)
    value, gradients = value_and_gradients(
        lambda v, *cluster: epc.chain(cluster, v, r=r, axis=0), *inputs, cotangent=dw
    )
    for k, (result, expected) in enumerate(zip([value, *gradients], truth, strict=True)):
        assert_close(f"output {k}", result, expected, 0, TOLERANCE)
    signs = epc.chain_sign([tf.constant(p) for p in cluster], tf.constant(v), r=r, axis=0)
    assert_signs("chain_sign", signs.numpy(), truth[0])


@pytest.mark.parametrize("r", R)
def test_boundary_sign(rng, r):
    p, v, _, _ = sweep(64, r, rng, p_sizes=P_SIZES[:3], v_norms=(1e-3, 1.0, 1e30))
    truth = reference.exact(reference.boundary, p, v, axis=0, r=r)
    signs = poincare.boundary_sign(tf.constant(p), tf.constant(v), r=r, axis=0)
    assert_signs("boundary_sign", signs.numpy(), truth)


# --- the same numbers on every route ----------------------------------------------------------


def test_without_xla(rng, monkeypatch):
    monkeypatch.setenv("HBNN_LARQ_XLA", "0")
    p, v, dw, tolerances = sweep(576, 0.05, rng)
    check_expmap(p, v, dw, 0.05, 0, tolerances)


def test_in_a_graph_with_unknown_shape(rng):
    p, v, dw, tolerances = sweep(27, 0.05, rng)

    @tf.function(input_signature=[tf.TensorSpec([None, None])] * 3)
    def run(p, v, dw):
        w = poincare.expmap(p, v, r=0.05, axis=0)
        return w, *tf.gradients(w, [p, v], grad_ys=dw)

    truth = [reference.exact(reference.expmap, p, v, axis=0, r=0.05)]
    truth += reference.exact_vjp(reference.expmap, p, v, cotangent=dw, axis=0, r=0.05)
    for name, value, expected in zip(("w", "dp", "dv"), run(p, v, dw), truth, strict=True):
        assert_close(name, value.numpy(), expected, 0, tolerances)


@pytest.mark.parametrize("r", R)
def test_float64(rng, r):
    """Limits: the rounding of sums of 64 numbers, times 1/(1 - r|p|^2)^2 at the edge."""
    p, v, dw, _ = sweep(64, r, rng, p_sizes=(0.0, 0.5, 0.99), v_norms=(0.0, 1e-12, 1.0, 30.0))
    p, v, dw = (x.astype(np.float64) for x in (p, v, dw))
    truth = [reference.exact(reference.expmap, p, v, axis=0, r=r)]
    truth += reference.exact_vjp(reference.expmap, p, v, cotangent=dw, axis=0, r=r)
    value, gradients = value_and_gradients(
        lambda p, v: poincare.expmap(p, v, r=r, axis=0), p, v, cotangent=dw
    )
    for name, result, expected in zip(("w", "dp", "dv"), [value, *gradients], truth, strict=True):
        assert result.dtype == np.float64
        assert_close(name, result, expected, 0, 1e-10)
