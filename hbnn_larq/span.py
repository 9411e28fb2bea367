"""One primitive behind every map of the ball: a combination with Gram-matrix coefficients.

Every map of `hbnn_larq.poincare` returns

\\[ y = \\sum_k c_k(G) \\, x_k, \\qquad G_{ij} = \\langle x_i, x_j \\rangle, \\]

a linear combination of its input vectors whose coefficients depend on their inner products
alone. So a map is one reduction pass, a few scalars, one combining pass; and so is its
gradient: with `dc_k = <dy, x_k>` and `dG` the derivative of the scalar part,

\\[ dx_i = c_i \\, dy + \\sum_j (dG + dG^T)_{ij} \\, x_j. \\]

Inner products, scalars and combination are float64 in registers whatever the dtype of the
vectors in memory: a float32 result is right to half a unit in the last place, and on a CPU the
memory traffic hides the arithmetic. A float64 one is right to about 1e-16 / (1 - r|p|^2)^2, since
inner products cancel where a tangent points from near the edge across the ball.

Three things make this fast under XLA, each found by measurement (`benchmarks/geometry.py`):

1. XLA's own reductions are 2 to 6 times slower than a loop, so inner products are written as
   elementwise sums of adjacent rows (`_fold`), twice, and only the small rest is reduced.
2. Where each column is a vector, the backward pass is two compiled programs, scalars and
   combination. As one, XLA recomputes the scalars inside the loop over elements.
3. Scalars such as `r` are arguments, not constants: a second radius costs no compilation.

Where a shape is not static, or XLA is switched off (`HBNN_LARQ_XLA=0`), the same formulas run
as plain TensorFlow ops.
"""

from __future__ import annotations

import atexit
import functools
import gc
import math
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations_with_replacement

import tensorflow as tf
from tensorflow.python.framework import ops

# (Gram matrix as nested lists of float64 tensors, *scalars) -> one float64 tensor per vector.
Coefficients = Callable[..., Sequence[tf.Tensor]]
Axis = int | Sequence[int]

_LANES = 16  # a vector that is a whole tensor is summed in this many columns
_WIDTH = {True: 16, False: 8}  # rows added per folding pass: whole tensor, one vector a column


def uses_xla() -> bool:
    """Whether compiled programs are used (environment variable `HBNN_LARQ_XLA`, default 1)."""
    return os.environ.get("HBNN_LARQ_XLA", "1") != "0"


@tf.autograph.experimental.do_not_convert
def span(
    vectors: Sequence[tf.Tensor],
    coefficients: Coefficients,
    scalars: Sequence[float | tf.Tensor],
    *,
    axis: Axis,
    sign: bool = False,
    longest: float | tf.Tensor | None = None,
) -> tf.Tensor:
    """`sum_k c_k(G) x_k` over vectors `x_k` that lie along `axis`, with its exact gradient.

    # Arguments
        vectors: Tensors of one floating dtype and one shape.
        coefficients: Module-level function `(gram, *scalars) -> [c_1, ..., c_K]` on float64
            tensors, differentiated by TensorFlow. Compiled programs are cached by it.
        scalars: Numbers handed on to `coefficients` as float64 tensors; no gradient.
        axis: Axes that together form one vector; the other axes count vectors.
        sign: Return the sign of the combination, +1 at 0, with a straight-through gradient (the
            gradient of the combination itself, unclipped).
        longest: Norm that no result may exceed; longer ones are shortened to it. Meant for
            results that only rounding carries too far: gradients do not see it.

    # Returns
        Tensor of the shape and dtype of the vectors.
    """
    shape = vectors[0].shape
    inner = inner_axes(shape, axis)
    numbers = [as_float64(s) for s in scalars]
    if uses_xla() and shape.is_fully_defined():
        to_rows, from_rows = _layout(shape, inner)
        whole = len(inner) == shape.rank
        programs = _compiled(coefficients, len(vectors), whole, sign, longest is not None)
    else:
        to_rows = from_rows = tf.identity
        programs = _plain(coefficients, len(vectors), tuple(inner), sign, longest is not None)
    forward, backward = programs
    limit = as_float64(math.inf if longest is None else longest)

    @tf.custom_gradient
    def call(*rows):
        y, gram = forward(numbers, limit, rows)

        def grad(dy):
            return backward(numbers, gram, dy, rows)

        return y, grad

    return from_rows(call(*[to_rows(x) for x in vectors]))


def as_float64(number: float | tf.Tensor) -> tf.Tensor:
    """A Python number at full precision: `tf.cast(0.05, tf.float64)` would round it to float32."""
    return tf.cast(number, tf.float64) if tf.is_tensor(number) else tf.constant(number, tf.float64)


def inner_axes(shape: tf.TensorShape, axis: Axis) -> list[int]:
    """`axis` as a sorted list of non-negative axes of `shape`; ValueError where there is none."""
    rank = shape.rank
    axes = [axis] if isinstance(axis, int) else list(axis)
    wrong = [a for a in axes if rank is None or not -rank <= a < rank]
    if wrong or not axes:
        raise ValueError(
            f"axis={axis!r} names no axes of a tensor of shape {shape}; give the axes that "
            f"together form one vector, each between {-(rank or 0)} and {(rank or 1) - 1}."
        )
    return sorted({a % rank for a in axes})


def _layout(shape: tf.TensorShape, inner: list[int]):
    """To and from [n] (one vector is the whole tensor) or [rows, columns] (one a column)."""
    outer = [a for a in range(shape.rank) if a not in inner]
    order = inner + outer
    moved = order != list(range(shape.rank))
    back = [order.index(a) for a in range(shape.rank)]
    rows = [-1, math.prod(shape[a] for a in outer)] if outer else [-1]

    def to_rows(x):
        return tf.reshape(tf.transpose(x, order) if moved else x, rows)

    def from_rows(y):
        y = tf.reshape(y, [shape[a] for a in order])
        return tf.transpose(y, back) if moved else y

    return to_rows, from_rows


def _dot(x: tf.Tensor, y: tf.Tensor, whole: bool) -> tf.Tensor:
    """`<x, y>` in float64: a scalar for `x` of shape [n], one per column for [rows, columns]."""
    if not whole:
        return _fold([x, y], _WIDTH[False])
    n = x.shape[0]
    head = n - n % _LANES
    total = tf.reduce_sum(_product([x[head:], y[head:]]))
    if head:
        columns = [tf.reshape(z[:head], [-1, _LANES]) for z in (x, y)]
        lanes = _fold(columns, _WIDTH[True])
        # By halves: added in a row, numbers of one size would round twice as much.
        while lanes.shape[0] > 1:
            half = lanes.shape[0] // 2
            lanes = lanes[:half] + lanes[half:]
        total += lanes[0]
    return total


def _fold(factors: list[tf.Tensor], width: int) -> tf.Tensor:
    """Sum over rows of the product of `factors` [rows, columns], adding `width` rows at a time."""
    rows = factors[0].shape[0]
    if rows < 2 * width:
        return tf.reduce_sum(_product(factors), 0)
    head = rows - rows % width
    blocks = [tf.reshape(x[:head], [head // width, width, x.shape[1]]) for x in factors]
    total = _fold(
        [functools.reduce(tf.add, [_product([b[:, i] for b in blocks]) for i in range(width)])],
        width,
    )
    return total + tf.reduce_sum(_product([x[head:] for x in factors]), 0) if head < rows else total


def _product(factors: list[tf.Tensor]) -> tf.Tensor:
    return functools.reduce(tf.multiply, [tf.cast(x, tf.float64) for x in factors])


def _gram(vectors, dot) -> list[tf.Tensor]:
    """Upper triangle of the Gram matrix, row by row."""
    return [dot(x, y) for x, y in combinations_with_replacement(vectors, 2)]


def _square(upper: Sequence[tf.Tensor], count: int) -> list[list[tf.Tensor]]:
    pairs = combinations_with_replacement(range(count), 2)
    matrix: list[list[tf.Tensor]] = [[upper[0]] * count for _ in range(count)]
    for (i, j), value in zip(pairs, upper, strict=True):
        matrix[i][j] = matrix[j][i] = value
    return matrix


def _combine(weights, tensors) -> tf.Tensor:
    terms = [c * tf.cast(x, tf.float64) for c, x in zip(weights, tensors, strict=True)]
    return functools.reduce(tf.add, terms)


def _shortened(weights, gram, limit) -> list[tf.Tensor]:
    """Weights of a combination no longer than `limit`, by the norm that the Gram matrix gives.

    Where large terms cancel, that norm is rounded too and the limit leaves room for it: 4e-16
    times the squares that cancel (2e-16 was the most seen, up to n = 2.4 million). Cancellation
    that needs more than 1 % of room occurs in float64 alone, where `forward` looks again.
    """
    count = range(len(weights))
    squares = tf.add_n([weights[i] * weights[i] * gram[i][i] for i in count])
    mixed = [weights[i] * weights[j] * gram[i][j] for i in count for j in count]
    norm = tf.sqrt(tf.maximum(tf.add_n(mixed), 1e-300))
    room = 4e-16 * squares / limit
    factor = tf.where(room < 0.01 * limit, tf.minimum((limit - room) / norm, 1.0), 1.0)
    return [w * factor for w in weights]


def _programs(coefficients: Coefficients, count: int, dot, sign: bool, limited: bool):
    """The three programs of a map: forward, scalars of the backward pass, its combination."""

    def forward(numbers, limit, vectors):
        gram = _gram(vectors, dot)
        weights = coefficients(_square(gram, count), *numbers)
        if limited:
            weights = _shortened(weights, _square(gram, count), limit)
        y = _combine(weights, vectors)
        if limited and vectors[0].dtype == tf.float64:
            y *= tf.minimum(limit / tf.sqrt(tf.maximum(dot(y, y), 1e-300)), 1.0)
        if sign:
            # In the dtype of the vectors, where signs cost half; the factor keeps numbers too
            # small for it from becoming 0, and infinity has a sign too.
            y = tf.cast(y * 2.0**500, vectors[0].dtype)
            # As larq.math.sign, and never through a bool tensor: the LCE converter keeps a bool
            # kernel of over a megabyte as bytes instead of folding it into bits.
            y = tf.sign(tf.sign(y) + 0.5)
        return tf.cast(y, vectors[0].dtype), gram

    def backward_scalars(numbers, gram, dy, vectors):
        with tf.GradientTape() as tape:
            tape.watch(gram)
            outputs = list(coefficients(_square(gram, count), *numbers))
        pulled = tape.gradient(
            outputs,
            gram,
            output_gradients=[dot(dy, x) for x in vectors],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        # d<x, y> = <dx, y> + <x, dy>: once in each place off the diagonal, twice on it.
        pulled = _square(pulled, count)
        return [
            [outputs[i]] + [pulled[i][j] * (2.0 if i == j else 1.0) for j in range(count)]
            for i in range(count)
        ]

    def backward_combine(mix, dy, vectors):
        return [tf.cast(_combine(row, [dy, *vectors]), dy.dtype) for row in mix]

    return forward, backward_scalars, backward_combine


@functools.cache
def _compiled(coefficients: Coefficients, count: int, whole: bool, sign: bool, limited: bool):
    def dot(x, y):
        return _dot(x, y, whole)

    programs = _programs(coefficients, count, dot, sign, limited)
    return _traced(*programs, jit_compile=True, backward_in_two=not whole)


@functools.cache
def _plain(
    coefficients: Coefficients, count: int, inner: tuple[int, ...], sign: bool, limited: bool
):
    def dot(x, y):
        return tf.reduce_sum(_product([x, y]), inner, keepdims=True)

    programs = _programs(coefficients, count, dot, sign, limited)
    return _traced(*programs, jit_compile=False, backward_in_two=False)


def _traced(forward, scalars, combine, *, jit_compile: bool, backward_in_two: bool):
    """Forward and backward pass as functions of their own, traced once a shape."""

    def traced(program):
        function = tf.function(program, jit_compile=jit_compile, autograph=False)
        # A trace a shape is what is wanted here; the warning would reach every user.
        function._omit_frequent_tracing_warning = True
        return function

    if backward_in_two:
        scalars, combine = traced(scalars), traced(combine)

    def backward(numbers, gram, dy, vectors):
        return combine(scalars(numbers, gram, dy, vectors), dy, vectors)

    return traced(forward), backward if backward_in_two else traced(backward)


def custom_gradients() -> set[str]:
    """Names of the gradients that TensorFlow registered for traced `tf.custom_gradient`s."""
    registered = ops.gradient_registry._registry
    return {name for name in registered if name.startswith("CustomGradient-")}


def forget_gradients(names: Iterable[str]) -> None:
    """Takes gradients out of TensorFlow's registry, and lets go of the graphs that they hold.

    TensorFlow itself keeps both for good: 100 MB and more for each network that was trained. A
    graph whose gradients are gone runs as before, but cannot be differentiated once more.
    """
    registered = ops.gradient_registry._registry
    for name in names:
        registered.pop(name, None)


@atexit.register
def _let_functions_go() -> None:
    """A TensorFlow function that outlives TensorFlow's modules complains on the user's last line.

    These caches hold some, the registered gradients hold every graph that was traced.
    """
    for cache in (_compiled, _plain):
        cache.cache_clear()
    forget_gradients(custom_gradients())
    gc.collect()
