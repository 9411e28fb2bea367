r"""Slices through the loss of a trained model, to see why a binary net learns or does not.

A direction is a tangent vector at the model's weights, and t runs along the geodesic that it
starts: a straight line for everything but base points, and \(\exp_p(t u)\) for those, which
therefore never leave their ball. One direction gives a line, two give a plane.

!!! example
    ```python
    from hbnn_larq import loss_surface

    direction = loss_surface.random_direction(model, seed=0)
    slices = [
        loss_surface.surface(model, images, labels, direction, relaxed=relaxed)
        for relaxed in (False, True)
    ]
    loss_surface.draw(slices, "slice.png")
    ```

# References
    - [Visualizing the Loss Landscape of Neural Nets](https://arxiv.org/abs/1712.09913)
    - [Hyperbolic Neural Networks](https://arxiv.org/abs/1805.09112)
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from larq.context import quantized_scope
from larq.quantized_variable import QuantizedVariable

from hbnn_larq import files, plots, poincare
from hbnn_larq.arguments import is_number, require, require_whole
from hbnn_larq.durations import duration
from hbnn_larq.layer_quantizers import filter_axis, is_quantizer_state
from hbnn_larq.optimizers import is_base_point, is_latent
from hbnn_larq.quantizers import BallQuantizer
from hbnn_larq.rebuilding import QUANTIZED_KERNELS, named_layers
from hbnn_larq.rivals import Mapped

__all__ = ["Direction", "Surface", "between", "draw", "random_direction", "surface"]

Loss = Callable[[Any, Any], Any]

_IS_PART: dict[str, Callable[[tf.Variable], bool]] = {
    "weights": lambda variable: not is_base_point(variable),
    "latents": is_latent,
    "base_points": is_base_point,
    "all": lambda variable: True,
}
_WHERE_TO_FIND = {
    "weights": "Only kernels move at random, and all of this model are frozen or missing.",
    "latents": 'Only 1-bit kernels of Larq layers have some; of="weights" moves any kernel.',
    "base_points": "Kernel quantizers such as hbnn_larq.quantizers.Hyperbolic hold them; "
    'of="weights" moves everything else.',
    "all": "Only kernels and base points move at random, and all are frozen or missing.",
}


# ------------------------------------------------------------------ directions


@dataclass(frozen=True, eq=False)
class Direction:
    """A tangent vector at the weights of one model, as they were when it was made.

    # Attributes
        of: What moves: `"weights"`, `"latents"`, `"base_points"` or `"all"`.
        seed: Of a random direction; `None` for one that leads to another model.
        tangents: `{place in model.weights: float64 array}`; other variables stay.
    """

    of: str
    seed: int | None
    tangents: Mapping[int, np.ndarray]


def random_direction(model: tf.keras.Model, seed: int, of: str = "weights") -> Direction:
    r"""A random direction in which a step of t = 1 is as long as the weights are.

    Each filter of a kernel gets a Gaussian direction of its own norm (Li et al., section 4), so
    that slices of nets with weights of different size compare. Biases, normalization and what
    quantizers train besides base points do not move.

    The vectors of base points get a Gaussian tangent vector u, of Riemannian length
    \(\lambda_p |u| = d(0, x)\) where x is as far from the centre as the weights of the vector
    are, at most half way to the edge. At t = 1 a base point that was in the centre is that far
    out, where it begins to outweigh the latents.

    # Arguments
        model: A built Keras model.
        seed: Whole number, 0 or above. TensorFlow's seed has no say. Each variable has a stream
            of its own: `"weights"` and `"base_points"` of a seed together are its `"all"`.
        of: `"weights"`: all trainable kernels. `"latents"`: those behind 1-bit weights.
            `"base_points"`, or `"all"`.

    # Raises
        TypeError: `model` is no Keras model.
        ValueError: the model is not built or has weights that are not finite, nothing of it is
            `of`, or `seed` is no whole number of at least 0.
    """
    call = "random_direction"
    weights = _weights(model, call)
    _check_part(call, of)
    require_whole(call, "seed", seed, 0)
    trainable = {id(_raw(variable)) for variable in model.trainable_weights}
    axes = {id(_raw(variable)): axis for variable, axis in _kernels(model)}
    tangents: dict[int, np.ndarray] = {}
    for place, variable in enumerate(weights):
        ball, rank = poincare.ball_of(variable), variable.shape.rank
        moves = ball is not None or (rank > 1 and not is_quantizer_state(variable))
        if not (moves and _IS_PART[of](variable) and id(_raw(variable)) in trainable):
            continue
        value = _value(variable)
        drawn = np.random.default_rng([seed, place]).normal(size=value.shape)
        if ball is None:
            axis = axes.get(id(_raw(variable)), tuple(range(rank - 1)))
            length = _norm(value, axis)
        else:
            axis = ball.axis
            point = poincare.project(value, r=ball.r, axis=axis).numpy()
            root, out = math.sqrt(ball.r), np.asarray(ball.length(), np.float64)
            # d(0, x) / lambda_p, with d(0, x) = 2 / root * arctanh(root |x|).
            length = np.arctanh(root * out) / root * (1 - ball.r * _norm(point, axis) ** 2)
        tangents[place] = drawn * (length / _norm(drawn, axis))
    require(bool(tangents), call, "of", of, f"{model.name!r} has none. {_WHERE_TO_FIND[of]}"[:-1])
    return Direction(of, int(seed), tangents)


def between(
    model: tf.keras.Model, other: tf.keras.Model | Sequence[np.ndarray], of: str = "all"
) -> Direction:
    r"""The direction in which `model` is at t = 0 and `other` at t = 1.

    Base points go the geodesic \(\exp_p(t \log_p(p'))\), everything else the straight line,
    biases and statistics of batch normalization included; only the latter stay at either end when
    t goes beyond, since a variance has no business below 0. With `of="weights"` and
    `of="base_points"` as the two directions of a plane, its corners are the two models and what
    each is with the other's base points.

    # Arguments
        model: A built Keras model.
        other: A model of the same architecture, or its weights as `get_weights()` gave them,
            for instance before training.
        of: `"all"`, or the part that moves while the rest stays that of `model`: `"weights"`
            (all but base points), `"latents"` or `"base_points"`.

    # Raises
        TypeError: `model` is no Keras model.
        ValueError: the two do not fit together or are equal, a model is not built, weights are
            not finite, or nothing of the model is `of`.
    """
    call = "between"
    weights = _weights(model, call)
    _check_part(call, of)
    theirs = (
        list(other) if not isinstance(other, tf.keras.Model) else _weights(other, call, "other")
    )
    given = repr(other.name) if isinstance(other, tf.keras.Model) else f"{len(theirs)} arrays"
    given = f"other={given}"
    way_out = "give one of the same architecture, or what its get_weights() gave"
    _require(
        len(theirs) == len(weights), call, given,
        f"it has {len(theirs)} weights and {model.name!r} has {len(weights)}; {way_out}",
    )  # fmt: skip
    tangents: dict[int, np.ndarray] = {}
    found = False
    for place, (variable, their) in enumerate(zip(weights, theirs, strict=True)):
        is_variable = isinstance(their, tf.Variable)
        their_value = _raw(their).numpy() if is_variable else np.asarray(their)
        _require(
            their_value.shape == tuple(variable.shape), call, given,
            f"{variable.name} has shape {tuple(variable.shape)} in {model.name!r} and "
            f"{their_value.shape} there; {way_out}",
        )  # fmt: skip
        ball = poincare.ball_of(variable)
        if is_variable:
            balls = [b and (b.r, b.axis) for b in (ball, poincare.ball_of(their))]
            _require(
                balls[0] == balls[1], call, given,
                f"{variable.name} is in the ball (r, axis) = {balls[0]} of {model.name!r} and in "
                f"{balls[1]} there; give both the same quantizers",
            )  # fmt: skip
        if not (_IS_PART[of](variable) and variable.dtype.is_floating):
            continue
        found = True
        start, end = _value(variable), their_value.astype(np.float64)
        finite = bool(np.all(np.isfinite(end)))
        _require(finite, call, given, f"{variable.name} is not finite there; give finite weights")
        if ball is None:
            tangent = end - start
        else:
            tangent = poincare.logmap(start, end, r=ball.r, axis=ball.axis).numpy()
        if np.any(tangent):
            tangents[place] = tangent
    require(found, call, "of", of, f"{model.name!r} has none. {_WHERE_TO_FIND[of]}"[:-1])
    _require(
        bool(tangents), call, given,
        f"{of} of the two are equal, so there is no way from one to the other; give a model "
        "trained longer, from its start, or from another seed",
    )  # fmt: skip
    return Direction(of, None, tangents)


# ------------------------------------------------------------------ the surface


@dataclass(frozen=True, eq=False)
class Surface:
    """Loss and accuracy along one direction, or over the plane of two.

    # Attributes
        axes: Values of t, one float64 array for each direction; the model itself is at 0.
        loss: Mean loss, of the shape (points,) or (points of the first, of the second direction).
        accuracy: Share of images whose class has the highest output, of the same shape; a tie or
            an output that is no number is no hit.
        of: What each direction moved.
        seeds: Their seeds, `None` for one that leads to another model.
        relaxed: Whether the kernels were the float ones instead of the deployed.
    """

    axes: tuple[np.ndarray, ...]
    loss: np.ndarray
    accuracy: np.ndarray
    of: tuple[str, ...]
    seeds: tuple[int | None, ...]
    relaxed: bool

    def to_csv(self, path: str | Path) -> Path:
        """Write one row a point, numbers in full; whatever happens, the file is whole or as before.

        Columns: `x` (and `y`), `loss`, `accuracy`, then the same in each row `relaxed`, `x_of`,
        `x_seed` (empty towards another model) and so on, so that files may be put together.
        """
        names = "xy"[: len(self.axes)]
        moved: dict[str, Any] = {}
        for name, of, seed in zip(names, self.of, self.seeds, strict=True):
            moved |= {f"{name}_of": of, f"{name}_seed": "" if seed is None else seed}
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow([*names, "loss", "accuracy", "relaxed", *moved])
        for at, *figures in zip(
            itertools.product(*self.axes), self.loss.flat, self.accuracy.flat, strict=True
        ):
            rows.writerow([*map(float, [*at, *figures]), self.relaxed, *moved.values()])
        files.write(path, text.getvalue())
        return Path(path)

    @classmethod
    def from_csv(cls, path: str | Path) -> Surface:
        """The surface that `to_csv` wrote, bit for bit.

        # Raises
            ValueError: the file holds something else.
        """
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        try:
            names = [name for name in "xy" if name in rows[0]]
            axes = tuple(
                np.array([*dict.fromkeys(float(row[name]) for row in rows)]) for name in names
            )
            shape = [len(axis) for axis in axes]
            loss, accuracy = (
                np.array([float(row[key]) for row in rows]).reshape(shape)
                for key in ("loss", "accuracy")
            )
            of = tuple(rows[0][f"{name}_of"] for name in names)
            seeds = [rows[0][f"{name}_seed"] for name in names]
            relaxed = {"True": True, "False": False}[rows[0]["relaxed"]]
            return cls(
                axes, loss, accuracy, of, tuple(int(s) if s else None for s in seeds), relaxed
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"Surface.from_csv(path={str(path)!r}): no file that Surface.to_csv wrote, whole "
                "and of one surface."
            ) from error


def surface(
    model: tf.keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    directions: Direction | Sequence[Direction],
    *,
    points: int = 15,
    reach: float | None = None,
    relaxed: bool = False,
    batch_size: int = 256,
    loss: Loss | None = None,
    say: Callable[[str], None] | None = None,
) -> Surface:
    r"""Loss and accuracy of a model moved along one direction, or over the plane of two.

    By default the net is the deployed one, whose kernels are signs: its surface is a staircase.
    With `relaxed=True` each 1-bit kernel is the point of the ball before the sign (of other
    quantizers, the latent weights), every filter multiplied so that its root mean square is that
    of the deployed filter, which is 1 for ±1. Without that, sums would be smaller than those
    that batch normalization saw, and its statistics would fit no more. A straight-through gradient
    skips the sign, so this is nearly the surface that it follows. Input quantizers stay as they
    are: with real activations it would be another net.

    Batch normalization computes with the statistics of the model (`training=False`), not of the
    batch, as the deployed net does. They are those of the centre, so part of a rise of the loss
    far out is theirs.

    The weights move while this runs and are put back bit for bit, whatever ends it.

    # Arguments
        model: A built Keras model that returns one logit for each class.
        images: As the model takes them, of the shape (images, ...).
        labels: Classes, whole numbers of the shape (images,).
        directions: One or two, of this model: see `random_direction` and `between`. Where two
            move the same base points, their tangent vectors add.
        points: Values of t along each direction, at least 2. An odd number puts the model itself
            on the grid of a random direction.
        reach: The largest t, above 0. A random direction runs from -reach to reach, by default
            1. One to another model runs from 1 - reach (at most 0) to reach, by default 1.2,
            where 15 points make steps of 0.1.
        relaxed: Whether to take float kernels for 1-bit ones.
        batch_size: Images at a time.
        loss: `(labels, outputs) -> one loss an image`, cross-entropy of logits by default. For a
            net that ends in a softmax: `tf.keras.losses.sparse_categorical_crossentropy`.
        say: Called with a line of progress about once a second, such as `print`.

    # Returns
        A `Surface`.

    # Raises
        TypeError: `model` is no Keras model.
        ValueError: an argument does not fit; the message says which and how it should be.
    """
    call = "surface"
    weights = _weights(model, call)
    chosen = (directions,) if isinstance(directions, Direction) else tuple(directions)
    _check_directions(chosen, weights, model.name)
    require_whole(call, "points", points, 2)
    holds = reach is None or (is_number(reach) and 0 < reach < math.inf)
    require(holds, call, "reach", reach, "a finite number above 0, the largest t")
    require_whole(call, "batch_size", batch_size, 1)
    images, labels = _checked(images, labels)
    forward, refresh = _forward(model, images, relaxed)
    _check_outputs(model, forward, images[:batch_size], labels, loss)
    move = _mover(weights, chosen)
    axes = tuple(_axis(direction, points, reach) for direction in chosen)
    shape = [points] * len(axes)
    figures = np.empty((math.prod(shape), 2))
    moved = [weights[place] for place in {p for d in chosen for p in d.tangents}]
    with _put_back(moved):
        started = said = time.monotonic()
        for done, at in enumerate(itertools.product(*axes), 1):
            move(at)
            refresh()
            figures[done - 1] = _figures(
                forward, images, labels, loss or _cross_entropy, batch_size
            )
            now = time.monotonic()
            if say is not None and (now - said >= 1 or done == len(figures)):
                said, left = now, (now - started) / done * (len(figures) - done)
                say(f"  {done} of {len(figures)} points  {duration(left)} left")
    losses, accuracies = (column.reshape(shape) for column in figures.T.copy())
    of, seeds = tuple(d.of for d in chosen), tuple(d.seed for d in chosen)
    return Surface(axes, losses, accuracies, of, seeds, bool(relaxed))


def _axis(direction: Direction, points: int, reach: float | None) -> np.ndarray:
    if direction.seed is None:
        high = 1.2 if reach is None else float(reach)
        low = min(0.0, 1 - high)
    else:
        high = 1.0 if reach is None else float(reach)
        low = -high
    axis = np.linspace(low, high, points)
    axis[np.abs(axis) < 1e-9 * high] = 0.0  # the model itself, not nearly so
    return axis


def _mover(
    weights: Sequence[tf.Variable], directions: Sequence[Direction]
) -> Callable[[Sequence[float]], None]:
    """What puts the weights at given values of t; sums are float64, rounded once."""
    origins = {p: _value(weights[p]) for direction in directions for p in direction.tangents}

    def move(at: Sequence[float]) -> None:
        for place, origin in origins.items():
            variable = weights[place]
            step = np.zeros_like(origin)
            for t, direction in zip(at, directions, strict=True):
                if place in direction.tangents:
                    if not _raw(variable).trainable:  # a variance beyond its end may be negative
                        t = min(max(t, 0.0), 1.0)
                    step += t * direction.tangents[place]
            value, ball = origin + step, poincare.ball_of(variable)
            if ball is not None and np.any(step):
                value = poincare.expmap(origin, step, r=ball.r, axis=ball.axis)
            value = tf.cast(value, _raw(variable).dtype)
            if ball is not None:  # rounding may have carried it out
                value = poincare.project(value, r=ball.r, axis=ball.axis)
            _raw(variable).assign(value)

    return move


@contextmanager
def _put_back(variables: Sequence[tf.Variable]) -> Iterator[None]:
    """Gives the variables their present values back in the end."""
    kept = [_raw(variable).numpy().copy() for variable in variables]
    try:
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            _raw(variable).assign(value)


def _forward(
    model: tf.keras.Model, images: np.ndarray, relaxed: bool
) -> tuple[Callable[[Any], Any], Callable[[], None]]:
    """The net's inference graph, traced once, and what to call after its weights moved.

    For the relaxed net, 1-bit kernels are traced as variables of our own, which the second
    function fills: outside the graph no mixed-precision policy rounds the latent weights.
    """
    kernels = [(v, axis) for v, axis in _kernels(model) if relaxed and is_latent(v)]
    zeros = [tf.zeros(kernel.shape, kernel.dtype) for kernel, _ in kernels]
    floats = [tf.Variable(each, trainable=False) for each in zeros]
    quantizers = [kernel.quantizer for kernel, _ in kernels]
    spec = tf.TensorSpec([None, *images.shape[1:]], images.dtype)
    forward = tf.function(lambda batch: model(batch, training=False), input_signature=[spec])
    try:
        for (kernel, _), stand_in in zip(kernels, floats, strict=True):
            kernel.quantizer = lambda latent, value=stand_in: tf.cast(
                value.read_value(), latent.dtype
            )
        graph = forward.get_concrete_function()
    finally:
        for (kernel, _), quantizer in zip(kernels, quantizers, strict=True):
            kernel.quantizer = quantizer

    def refresh() -> None:
        for (kernel, axis), stand_in in zip(kernels, floats, strict=True):
            stand_in.assign(tf.cast(_relaxed_kernel(kernel, axis), stand_in.dtype))

    refresh()
    return graph, refresh


def _relaxed_kernel(kernel: QuantizedVariable, axis: tuple[int, ...]) -> tf.Tensor:
    """The kernel before its sign, each filter with the root mean square of the deployed one."""
    quantizer = kernel.quantizer.map if isinstance(kernel.quantizer, Mapped) else kernel.quantizer
    with quantized_scope(False):
        value = tf.convert_to_tensor(kernel)
    if isinstance(quantizer, BallQuantizer):
        value = quantizer.image(quantizer.read_latent())
    with quantized_scope(True):
        deployed = tf.cast(tf.convert_to_tensor(kernel), tf.float64)
    value = tf.cast(value, tf.float64)
    ratio = tf.math.divide_no_nan(
        tf.reduce_sum(deployed**2, axis, keepdims=True),
        tf.reduce_sum(value**2, axis, keepdims=True),
    )
    return value * tf.sqrt(ratio)


def _figures(forward, images, labels, loss: Loss, batch_size: int) -> tuple[float, float]:
    """Mean loss, and the share of images whose class is ahead of all others."""
    total, hits = 0.0, 0
    for start in range(0, len(images), batch_size):
        batch = slice(start, start + batch_size)
        outputs = forward(tf.constant(images[batch]))
        total += float(np.sum(np.asarray(loss(labels[batch], outputs), np.float64)))
        scores = tf.cast(outputs, tf.float64).numpy()
        right = np.take_along_axis(scores, labels[batch, None], axis=1)
        hits += int(np.sum(np.sum(~(scores < right), axis=1) == 1))  # itself alone
    return total / len(images), hits / len(images)


def _cross_entropy(labels: Any, logits: Any) -> Any:
    # In float64, as a sum over classes that are far apart.
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, tf.cast(logits, tf.float64))


# ------------------------------------------------------------------ pictures


def draw(surfaces: Surface | Sequence[Surface], path: str | Path) -> Path:
    """Draw slices into a PNG: lines over one direction, filled contours over two.

    Lines share one picture of loss and one of accuracy, which suits the deployed and the relaxed
    net along one direction. Planes stand below each other, the loss with logarithmic levels where
    it spans more than a factor of ten. A cross or a dotted line marks the model itself, and the
    other model where the way leads to one.

    # Arguments
        surfaces: One or more, all along one direction or all over two.
        path: The PNG file to write.

    # Returns
        `path`.

    # Raises
        ValueError: there is nothing to draw, or lines and planes are mixed.
    """
    chosen = (surfaces,) if isinstance(surfaces, Surface) else tuple(surfaces)
    directions = sorted({len(each.axes) for each in chosen})
    _require(
        len(directions) == 1, "draw", f"surfaces: {len(chosen)}",
        "at least one, all along one direction or all over two; draw lines and planes apart",
    )  # fmt: skip
    return plots._write(_lines(chosen) if directions == [1] else _planes(chosen), path)


def _lines(surfaces: Sequence[Surface]) -> Any:
    figure = plots._figure(9, 3.6)
    loss, accuracy = figure.subplots(1, 2)
    ways = {_title(each, 0) for each in surfaces}
    for each in surfaces:
        label = _net(each) + (f", {_title(each, 0)}" if len(ways) > 1 else "")
        loss.plot(each.axes[0], np.ma.masked_invalid(each.loss), ".-", label=label)
        accuracy.plot(each.axes[0], 100 * each.accuracy, ".-", label=label)
    for axes in (loss, accuracy):
        for mark in sorted({mark for each in surfaces for mark in _marks(each, 0)}):
            axes.axvline(mark, linestyle=":", color="black", linewidth=1)
        axes.locator_params(axis="x", nbins=6)
        axes.set(xlabel=f"t ({ways.pop()})" if len(ways) == 1 and axes is accuracy else "t")
    loss.set(xlabel=accuracy.get_xlabel(), ylabel="loss")
    accuracy.set(ylabel="accuracy (%)")
    loss.legend()
    return figure


def _planes(surfaces: Sequence[Surface]) -> Any:
    from matplotlib.colors import LogNorm

    figure = plots._figure(9, 3.9 * len(surfaces))
    rows = figure.subplots(len(surfaces), 2, squeeze=False)
    for each, (loss, accuracy) in zip(surfaces, rows, strict=True):
        for axes, values, what in (
            (loss, each.loss, "loss"),
            (accuracy, 100 * each.accuracy, "accuracy (%)"),
        ):
            shown = np.ma.masked_invalid(values.T)
            low, high = (float(shown.min()), float(shown.max())) if shown.count() else (0.0, 1.0)
            style: dict[str, Any] = {}
            if what == "loss" and 0 < 10 * low < high:
                levels = np.geomspace(low, high, 21)
                style["norm"] = LogNorm(low, high)
            else:  # levels must rise, of a plain too
                levels = np.linspace(low, high if high > low else low + max(abs(low), 1) / 1e3, 21)
            filled = axes.contourf(*each.axes, shown, levels=levels, **style)
            bar = figure.colorbar(filled, ax=axes, label=what, ticks=levels[::4])
            bar.minorticks_off()
            bar.ax.set_yticklabels([f"{level:.3g}" for level in levels[::4]])
            for x, y in itertools.product(_marks(each, 0), _marks(each, 1)):
                axes.plot(x, y, "+" if x == y == 0 else "x", color="red", markersize=10)
            axes.set(xlabel=_title(each, 0), ylabel=_title(each, 1), title=_net(each))
    return figure


def _net(surface: Surface) -> str:
    return "relaxed" if surface.relaxed else "deployed"


def _title(surface: Surface, place: int) -> str:
    of, seed = surface.of[place].replace("_", " "), surface.seeds[place]
    return f"{of}, to the other model" if seed is None else f"{of}, seed {seed}"


def _marks(surface: Surface, place: int) -> list[float]:
    """Where the model is, and where the other one, as far as they are in the picture."""
    marks = [0.0] if surface.seeds[place] is not None else [0.0, 1.0]
    return [mark for mark in marks if mark <= surface.axes[place][-1]]


# ------------------------------------------------------------------ variables


def _raw(variable: tf.Variable) -> tf.Variable:
    """The variable that stores the values, whatever scope of quantization we are in."""
    return variable.latent_variable if isinstance(variable, QuantizedVariable) else variable


def _value(variable: tf.Variable) -> np.ndarray:
    return _raw(variable).numpy().astype(np.float64)


def _norm(value: np.ndarray, axis: tuple[int, ...]) -> np.ndarray:
    return np.sqrt(np.sum(value * value, axis, keepdims=True))


def _kernels(model: tf.keras.Model) -> Iterator[tuple[tf.Variable, tuple[int, ...]]]:
    """Every kernel of a model, with the axes that form one filter of it."""
    for _, layer in named_layers(model):
        for name in QUANTIZED_KERNELS.values():
            kernel = getattr(layer, name, None)
            if isinstance(kernel, tf.Variable):
                try:
                    yield kernel, filter_axis(layer, name)(kernel.shape)
                except ValueError:  # a sparse local kernel, stored without its filters
                    yield kernel, tuple(range(kernel.shape.rank))


# ------------------------------------------------------------------ arguments


def _require(holds: bool, call: str, given: str, what: str) -> None:
    """As `require`, for arguments that are better described than shown."""
    if not holds:
        raise ValueError(f"{call}({given}): {what}.")


def _weights(model: Any, call: str, argument: str = "model") -> list[tf.Variable]:
    if not isinstance(model, tf.keras.Model):
        raise TypeError(f"{call}({argument}={model!r}): a tf.keras.Model.")
    way_out = "it has no weights yet; give it an input shape or call it once on images"
    require(model.built, call, argument, model.name, way_out)
    weights = list(model.weights)
    for variable in weights:
        finite = not variable.dtype.is_floating or np.all(np.isfinite(_value(variable)))
        require(
            bool(finite), call, argument, model.name,
            f"{variable.name} is not finite; take weights from before training broke down",
        )  # fmt: skip
    return weights


def _check_part(call: str, of: Any) -> None:
    parts = ", ".join(f'"{part}"' for part in _IS_PART)
    require(isinstance(of, str) and of in _IS_PART, call, "of", of, f"one of {parts}")


def _check_directions(
    directions: Sequence[Direction], weights: Sequence[tf.Variable], name: str
) -> None:
    call, given = "surface", f"directions: {len(directions)}"
    makes = "random_direction(model, seed) or between(model, other)"
    known = all(isinstance(direction, Direction) for direction in directions)
    holds = known and len(directions) in (1, 2)
    _require(holds, call, given, f"one or two, each made by {makes}")
    for direction in directions:
        fits = all(
            place < len(weights) and tuple(weights[place].shape) == tangent.shape
            for place, tangent in direction.tangents.items()
        )
        way_out = f"they fit another model than {name!r}; make them of this one with {makes}"
        _require(fits, call, given, way_out)
    if len(directions) == 2:
        first, second = (direction.tangents for direction in directions)
        same = first.keys() == second.keys() and all(
            np.array_equal(first[place], second[place]) for place in first
        )
        _require(
            not same, call, given,
            "they are one and the same, which spans no plane; give them different seeds",
        )  # fmt: skip


def _checked(images: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    images, labels = np.asarray(images), np.asarray(labels)
    call, given = "surface", f"images: shape {images.shape}"
    _require(
        images.ndim > 1 and len(images) > 0, call, given,
        "at least one image, of the shape (images, ...)",
    )  # fmt: skip
    finite = bool(np.all(np.isfinite(images)))
    _require(finite, call, given, "they hold numbers that are not finite; leave these images out")
    given = f"labels: shape {labels.shape}, {labels.dtype}"
    _require(
        labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer), call, given,
        "classes as whole numbers of the shape (images,); of one-hot rows take argmax(axis=1)",
    )  # fmt: skip
    _require(
        len(labels) == len(images), call, given,
        f"one for each of the {len(images)} images, in their order",
    )  # fmt: skip
    return images, labels.astype(np.int64)


def _check_outputs(
    model: tf.keras.Model, forward, images: np.ndarray, labels: np.ndarray, loss: Loss | None
) -> None:
    """That the model, as it is, gives what loss and accuracy are taken of."""
    call, outputs = "surface", forward(tf.constant(images))
    shape = getattr(outputs, "shape", None)
    require(
        shape is not None and len(shape) == 2, call, "model", model.name,
        "its output must be one logit for each class, of the shape (images, classes)"
    )  # fmt: skip
    low, high, classes = int(labels.min()), int(labels.max()), outputs.shape[1]
    _require(
        low >= 0 and high < classes, call, f"labels: from {low} to {high}",
        f"classes from 0 to {classes - 1}, which is what {model.name!r} has outputs for",
    )  # fmt: skip
    values = tf.cast(outputs, tf.float64).numpy()
    probabilities = np.all(values >= 0) and np.allclose(values.sum(axis=1), 1, atol=1e-2)
    require(
        loss is not None or not probabilities, call, "model", model.name,
        "it ends in probabilities, not in logits; add "
        "loss=tf.keras.losses.sparse_categorical_crossentropy"
    )  # fmt: skip
    if loss is not None:
        given = tuple(np.shape(loss(labels[: len(images)], outputs)))
        require(
            given == (len(images),), call, "loss", loss,
            f"one loss an image, so for {len(images)} of them not an array of shape {given}; a "
            'Keras loss object needs reduction="none"',
        )  # fmt: skip
