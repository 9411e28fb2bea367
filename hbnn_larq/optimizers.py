"""Optimizers for the two kinds of variables that plain ones treat badly.

`MobiusSGD` moves base points inside their ball and all else as SGD always does. `GeodesicSGD`
turns latent weights by a scheduled angle, since only their direction counts. `GroupedAdam` is Adam
with the decays that these groups need.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from numbers import Real
from typing import Any

import tensorflow as tf
from larq import utils
from larq.quantized_variable import QuantizedVariable

from hbnn_larq import poincare, sphere
from hbnn_larq.arguments import is_number, require, require_between, require_whole
from hbnn_larq.layer_quantizers import is_quantizer_state

__all__ = [
    "GeodesicSGD",
    "GroupedAdam",
    "MobiusSGD",
    "default",
    "filter_axis_of",
    "is_base_point",
    "is_latent",
]


def is_base_point(variable: tf.Variable) -> bool:
    """Whether a variable holds points of a Poincaré ball.

    # Arguments
        variable: A variable as a model or a layer lists it.
    """
    return poincare.ball_of(variable) is not None


def is_latent(variable: tf.Variable) -> bool:
    """Whether a variable holds the latent weights behind 1-bit weights of a Larq layer.

    # Arguments
        variable: A variable as a model or a layer lists it.
    """
    return isinstance(variable, QuantizedVariable) and variable.precision == 1


def mark_filters(variable: tf.Variable, axis: tuple[int, ...]) -> None:
    """Note on a kernel which axes form one output filter, for optimizers to find."""
    variable._hbnn_filter_axis = axis


def filter_axis_of(variable: tf.Variable) -> tuple[int, ...] | None:
    """The axes that form one output filter of a kernel, or None where nobody noted them.

    # Arguments
        variable: The kernel of a Larq layer. Layers made after `import hbnn_larq` note them.
    """
    return getattr(variable, "_hbnn_filter_axis", None)


def _check_decays(call: str, **decays: float | None) -> None:
    for key, value in decays.items():
        holds = value is None or (is_number(value) and 0 <= value < math.inf)
        require(holds, call, key, value, "a decay is a number of at least 0")


def _check_rates(call: str, **rates: float) -> None:
    for key, rate in rates.items():
        holds = is_number(rate) and 0 < rate < math.inf
        require(holds, call, key, rate, "a finite number above 0; 1 is learning_rate itself")


def _check_share(call: str, key: str, value: float, *, or_one: bool = False) -> None:
    holds = is_number(value) and value >= 0 and (value < 1 or (or_one and value == 1))
    require(holds, call, key, value, f"at least 0 and {'at most' if or_one else 'below'} 1")


def _check_learning_rate(call: str, value: Any) -> None:
    """Of numbers alone; Keras says what else it takes."""
    holds = not is_number(value) or 0 <= value < math.inf
    require(holds, call, "learning_rate", value, "a finite number of at least 0, or a schedule")


def _is_threshold(variable: tf.Variable) -> bool:
    """Whether a variable is a bias, or a scale or shift of normalization.

    Scales that a quantizer trains (RBNN, DSQ) have the same rank and are none.
    """
    return variable.shape.rank <= 1 and not is_quantizer_state(variable)


def _is_real_convolution(variable: tf.Variable) -> bool:
    """Whether a variable is the kernel of a convolution that is not binary."""
    return variable.shape.rank > 2 and not (is_latent(variable) or is_quantizer_state(variable))


class _Rates:
    """Factors on the learning rate of an optimizer, by kind of variable."""

    threshold_rate: float
    convolution_rate: float

    def rate_of(self, variable: tf.Variable) -> float:
        """What the learning rate of `variable` is multiplied by."""
        if _is_threshold(variable):
            return self.threshold_rate
        return self.convolution_rate if _is_real_convolution(variable) else 1.0


def _other(others: Any, call: str) -> Any:
    """The optimizer that `others` means, in Keras's present interface."""
    try:
        found = tf.keras.optimizers.get(others)
    except ValueError as error:
        raise ValueError(
            f"{call}(others={others!r}): not an optimizer; give one of tf.keras.optimizers, such "
            "as tf.keras.optimizers.Adam(1e-3)."
        ) from error
    if not isinstance(found, tf.keras.optimizers.Optimizer):
        raise TypeError(
            f"{call}(others={others!r}): a legacy optimizer can neither be built nor saved with "
            "this one; give one of tf.keras.optimizers, such as tf.keras.optimizers.Adam(1e-3)."
        )
    return found


class _Divided(tf.keras.optimizers.Optimizer):
    """An optimizer that keeps some variables to itself and leaves the others to another one."""

    others: Any  # an optimizer, or None where there is no other

    def _is_mine(self, variable: tf.Variable) -> bool:
        raise NotImplementedError

    def _split(self, variables):
        if self.others is None:
            return list(variables), []
        mine = [v for v in variables if self._is_mine(v)]
        return mine, [v for v in variables if not self._is_mine(v)]

    def apply_gradients(self, grads_and_vars, name=None, **kwargs):
        pairs = list(grads_and_vars)
        if self.others is None or all(gradient is None for gradient, _ in pairs):
            return super().apply_gradients(pairs, name=name, **kwargs)
        rest = self._reached([(g, v) for g, v in pairs if not self._is_mine(v)])
        mine = self._reached([(g, v) for g, v in pairs if self._is_mine(v)])
        if rest:
            self.others.apply_gradients(rest, **kwargs)
        if mine:
            return super().apply_gradients(mine, name=name, **kwargs)
        self._compute_current_learning_rate()
        return self.iterations.assign_add(1)  # Keras counts no step that moves nothing

    def _check_average(self, call: str) -> None:
        """Half a model averaged is a net that never was."""
        require(
            self.others is None or bool(self.use_ema) == bool(self.others.use_ema),
            call,
            "use_ema",
            self.use_ema,
            "it averages the variables that this optimizer moves, and use_ema of `others` is "
            f"{self.others and self.others.use_ema}; give both the same",
        )

    def _reached(self, pairs):
        """The pairs, or none of them where not one has a gradient, which Keras would refuse."""
        if not pairs or any(gradient is not None for gradient, _ in pairs):
            return pairs
        names = ", ".join(variable.name for _, variable in pairs)
        # Not TensorFlow's logger, which the command line turns down to errors.
        warnings.warn(f"{self.name}: no gradient reaches {names}; they stay.", stacklevel=3)
        return []

    def finalize_variable_values(self, var_list):
        """Put moving averages in place, where `use_ema` asks for them."""
        mine, rest = self._split(var_list)
        super().finalize_variable_values(mine)
        if rest:
            self.others.finalize_variable_values(rest)

    @property
    def variables(self):
        own = super().variables
        if self.others is None:
            return own
        return type(own)([*own, *self.others.variables])

    def set_weights(self, weights):
        own = len(super().variables)
        super().set_weights(weights[:own])
        if self.others is not None:
            self.others.set_weights(weights[own:])


STEP_RULES = (*poincare.STEP_RULES, "toward")


@utils.register_keras_custom_object
class MobiusSGD(_Divided, _Rates, tf.keras.optimizers.SGD):
    r"""SGD with momentum whose base points take Möbius steps (HBNN Eq. 16).

    \[ p \leftarrow p \oplus \left(-\eta \otimes \frac{\partial L}{\partial p}\right) \]

    for every variable of `is_base_point`, projected into the ball; SGD with momentum for all
    others. A base point has no momentum: it would be a tangent vector, to be transported each
    time the point moves, and prototypes gained nothing from it.

    Decay here is an L2 term in the gradient, as in PyTorch's SGD and unlike Keras's own
    `weight_decay`, because the flip-rate law (`hbnn_larq.flip_rate`) is stated for it. It has a
    coefficient per group, since each does another thing: on latent weights, whose size the sign
    ignores, it sets the angle of a step and so the rate of flips; on base points it pulls
    towards the plain binary network; on the rest it regularizes.

    In short runs, whose decay must be high, that term and momentum make a spring: beyond
    \(\eta \lambda = (1 - \sqrt\mu)^2\) weights swing through zero, and every swing changes all
    signs of a layer at once (`hbnn_larq.flip_rate.overshoot`). With `decoupled=True` a step takes
    the share \(\eta \lambda / (1 - \mu)\) (all, at most) off a weight instead, which is what the
    term comes to in the long run: the same law, and nothing swings.

    A binary activation is the sign of a normalized sum plus a shift, so shifts are thresholds, in
    units of a standard deviation whatever the width of the layer. Where steps are few they
    should learn faster than kernels do: see `threshold_rate`.

    !!! example
        ```python
        model.compile(
            optimizer=hbnn_larq.optimizers.MobiusSGD(
                learning_rate=0.1, momentum=0.9, weight_decay=5e-4, latent_decay=0.02
            ),
            loss="sparse_categorical_crossentropy",
        )
        ```

    # Arguments
        learning_rate: Number or `tf.keras.optimizers.schedules.LearningRateSchedule`.
        momentum: Between 0 and 1; of all variables but base points.
        nesterov: Whether that momentum is Nesterov's.
        weight_decay: Coefficient for variables that are neither latent weights nor base points,
            and of them for kernels only (rank above 1) unless `decay_all`.
        latent_decay: Coefficient for latent weights; `None` takes `weight_decay`.
        base_point_decay: Coefficient for base points; `None` takes that of latent weights.
        decay_all: Also decay biases and the scales and shifts of normalization.
        decoupled: Takes decay off the weights, not into gradient and momentum; base points, which
            have no momentum, see no difference.
        threshold_rate: Times `learning_rate`, the rate of biases and of the scales and shifts of
            normalization (rank 1).
        convolution_rate: The same for kernels of real convolutions: what is no latent and has
            more than two axes, attention kernels and slopes per channel too.
        base_point_rate: The same for base points.
        step: How a gradient outside the ball, where Eq. 17 is undefined, is read: `"exp0"`,
            `"literal"` or `"riemannian"`, see `hbnn_larq.poincare.mobius_step`, which has the
            plain step of SGD as well, `"euclidean"`. Or `"toward"`,
            ours: the share `base_point_rate * learning_rate` of the geodesic to the point that
            lies against the gradient, as far out as the weights of the vector and at most half way
            to the edge (`hbnn_larq.poincare.step_toward`). It depends on the direction of the
            gradient alone and takes no decay: for use beside Adam or `GeodesicSGD`.
        others: An optimizer for everything but base points, such as
            `tf.keras.optimizers.Adam(1e-3)`. Momentum and the other decays are then its own
            affair, and this learning rate is that of base points alone.
        name: Name of the optimizer.
        **kwargs: Of `tf.keras.optimizers.SGD`: `clipnorm`, `use_ema` and so on. With `others` they
            are about base points alone; give them to `others` too.

    # Raises
        ValueError: a decay below 0 or not finite, a rate not above 0, a learning rate below 0, a
            momentum outside [0, 1], an unknown `step`, a momentum of 1 with `decoupled`,
            `base_point_decay` with steps toward, `others` together with arguments that would have
            no effect, or with another `use_ema`.
        TypeError: a legacy optimizer as `others`.

    # References
        - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
        - [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101)
    """

    def __init__(
        self,
        learning_rate=0.01,
        momentum=0.0,
        nesterov=False,
        *,
        weight_decay=0.0,
        latent_decay=None,
        base_point_decay=None,
        decay_all=False,
        decoupled=False,
        threshold_rate=1.0,
        convolution_rate=1.0,
        base_point_rate=1.0,
        step="exp0",
        others=None,
        name="MobiusSGD",
        **kwargs,
    ):
        _check_decays(
            "MobiusSGD",
            weight_decay=weight_decay,
            latent_decay=latent_decay,
            base_point_decay=base_point_decay,
        )
        _check_rates(
            "MobiusSGD",
            threshold_rate=threshold_rate,
            convolution_rate=convolution_rate,
            base_point_rate=base_point_rate,
        )
        _check_learning_rate("MobiusSGD", learning_rate)
        _check_share("MobiusSGD", "momentum", momentum, or_one=True)
        if step not in STEP_RULES:
            raise ValueError(f"MobiusSGD(step={step!r}): the rules are {', '.join(STEP_RULES)}.")
        if step == "toward" and base_point_decay is not None:
            raise ValueError(
                f'MobiusSGD(base_point_decay={base_point_decay!r}, step="toward"): base points '
                "that step toward forget by themselves, and a decay would have no effect; leave "
                "it out."
            )
        if others is not None:
            others = _other(others, "MobiusSGD")
        idle = momentum or nesterov or weight_decay or latent_decay or decoupled or decay_all
        idle = idle or threshold_rate != 1 or convolution_rate != 1
        if others is not None and idle:
            raise ValueError(
                "MobiusSGD(others=...): with another optimizer for everything but base points, "
                "momentum, nesterov, weight_decay, latent_decay, decay_all, decoupled, "
                "threshold_rate and convolution_rate would have no effect; give them to that "
                "optimizer, and base_point_decay and base_point_rate here."
            )
        if decoupled and momentum >= 1:
            raise ValueError(
                f"MobiusSGD(momentum={momentum!r}, decoupled=True): a decay acts at learning_rate "
                "/ (1 - momentum), so momentum must be below 1."
            )
        kwargs.setdefault("jit_compile", False)
        # HDF5 files key variables by name, and `others` has an iteration and a rate as well.
        with tf.name_scope("base_points") if others is not None else contextlib.nullcontext():
            super().__init__(learning_rate, momentum, nesterov, name=name, **kwargs)
        self._weight_decay = weight_decay or 0.0  # None, Keras's own default, is none
        self._latent_decay = latent_decay
        self._base_point_decay = base_point_decay
        self.decay_all = decay_all
        self.decoupled = decoupled
        self.threshold_rate = threshold_rate
        self.convolution_rate = convolution_rate
        self.base_point_rate = base_point_rate
        self.step = step
        self.others = others
        self._check_average("MobiusSGD")

    def build(self, var_list):
        """Make the slots: momentum for every variable but base points."""
        if getattr(self, "_built", False):
            return
        mine, rest = self._split(var_list)
        if rest:
            self.others.build(rest)
        # Not SGD's own build: it would make a momentum slot, unused, for each base point.
        super(tf.keras.optimizers.SGD, self).build(mine)
        # Read here, from the variables as the model lists them: under a distribution strategy
        # `update_step` sees replicas, which do not carry the mark.
        self._balls = [poincare.ball_of(v) for v in mine]
        self._decays = [self.decay_of(v) for v in mine]
        self._faster = [self.rate_of(v) for v in mine]
        self.momentums = [
            None
            if ball or not self.momentum
            else self.add_variable_from_reference(model_variable=v, variable_name="m")
            for v, ball in zip(mine, self._balls, strict=True)
        ]
        self._built = True

    def _is_mine(self, variable: tf.Variable) -> bool:
        return is_base_point(variable)

    def decay_of(self, variable: tf.Variable) -> float:
        """The coefficient of the decay that `variable` gets."""
        if not self._use_weight_decay(variable):  # see `exclude_from_weight_decay`
            return 0.0
        latent = self._weight_decay if self._latent_decay is None else self._latent_decay
        if is_base_point(variable):
            return latent if self._base_point_decay is None else self._base_point_decay
        if is_latent(variable):
            return latent
        return self._weight_decay if self.decay_all or variable.shape.rank > 1 else 0.0

    def rate_of(self, variable: tf.Variable) -> float:
        """What the learning rate of `variable` is multiplied by."""
        return self.base_point_rate if is_base_point(variable) else super().rate_of(variable)

    def update_step(self, gradient, variable):
        """Möbius step for a base point, SGD for any other variable."""
        index = self._index_dict[self._var_key(variable)]
        ball, decay = self._balls[index], self._decays[index]
        if ball is None:
            faster = self._faster[index]
            if decay and self.decoupled:
                rate = faster * tf.cast(self.learning_rate, variable.dtype)
                variable.assign_sub(tf.minimum(rate * decay / (1 - self.momentum), 1.0) * variable)
            elif decay:
                gradient = tf.convert_to_tensor(gradient) + decay * tf.convert_to_tensor(variable)
            if faster != 1:
                gradient = faster * tf.convert_to_tensor(gradient)
            return super().update_step(gradient, variable)
        # A point must stay one whatever the loss does; the rest of the model shows the NaN.
        gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
        point, rate = tf.convert_to_tensor(variable), self._faster[index] * self.learning_rate
        space = {"r": ball.r, "axis": ball.axis}
        if self.step == "toward":
            share = tf.minimum(tf.cast(rate, point.dtype), 1.0)
            moved = poincare.step_toward(
                point, gradient, share=share, length=ball.length(), **space
            )
        else:
            moved = poincare.mobius_step(
                point, gradient, learning_rate=rate, decay=decay, rule=self.step, **space
            )
        return variable.assign(moved)

    def get_config(self):
        others = self.others and tf.keras.optimizers.serialize(self.others)
        return {
            **super().get_config(),
            "weight_decay": self._weight_decay,
            "latent_decay": self._latent_decay,
            "base_point_decay": self._base_point_decay,
            "decay_all": self.decay_all,
            "decoupled": self.decoupled,
            "threshold_rate": self.threshold_rate,
            "convolution_rate": self.convolution_rate,
            "base_point_rate": self.base_point_rate,
            "step": self.step,
            "others": others,
        }


@utils.register_keras_custom_object
class GroupedAdam(_Rates, tf.keras.optimizers.Adam):
    r"""Adam with a decay for each group of variables, where Keras's has one for all.

    Decay is decoupled, as in AdamW: a step first takes \(\eta \lambda w\) off a variable. On latent
    weights it sets the rate of flips, near \(\sqrt{2 \eta \lambda (1 - \beta_1) / (1 + \beta_1)} /
    \pi\) per step; measured flips stay 10 to 22 % below that. Base points need Möbius steps:
    give it as `others` to `MobiusSGD` where a quantizer has them.

    !!! example
        ```python
        others = hbnn_larq.optimizers.GroupedAdam(0.003, threshold_rate=10)
        model.compile(hbnn_larq.optimizers.GeodesicSGD(0.02, others=others), "mse")
        ```

    # Arguments
        learning_rate: Number or `tf.keras.optimizers.schedules.LearningRateSchedule`.
        beta_1: Share that the running mean of gradients keeps.
        weight_decay: Coefficient for variables other than latent weights, and of them for kernels
            only (rank above 1) unless `decay_all`.
        latent_decay: Coefficient for the latent weights of 1-bit layers; `None` takes
            `weight_decay`.
        decay_all: Also decay biases and the scales and shifts of normalization.
        threshold_rate: Times `learning_rate`, the rate of biases and of the scales and shifts of
            normalization (rank 1), which are the thresholds of binary activations. Short runs
            gain from 10. Scales that a quantizer trains are not among them.
        convolution_rate: The same for kernels of real convolutions (the first layer, shortcuts):
            what is no latent and has more than two axes, attention kernels too.
        name: Name of the optimizer.
        **kwargs: Of `tf.keras.optimizers.Adam`: `beta_2`, `epsilon`, `clipnorm` and so on.

    # Raises
        ValueError: a decay below 0 or not finite, a rate not above 0, a learning rate below 0, or
            a `beta_1` outside [0, 1).

    # References
        - [Decoupled Weight Decay Regularization](https://arxiv.org/abs/1711.05101)
        - The angle of a step: [Rotational Equilibrium](https://arxiv.org/abs/2305.17212)
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        *,
        weight_decay=0.0,
        latent_decay=None,
        decay_all=False,
        threshold_rate=1.0,
        convolution_rate=1.0,
        name="GroupedAdam",
        **kwargs,
    ):
        _check_decays("GroupedAdam", weight_decay=weight_decay, latent_decay=latent_decay)
        _check_rates(
            "GroupedAdam", threshold_rate=threshold_rate, convolution_rate=convolution_rate
        )
        _check_learning_rate("GroupedAdam", learning_rate)
        _check_share("GroupedAdam", "beta_1", beta_1)
        weight_decay = weight_decay or 0.0  # None, Keras's own default, is none
        super().__init__(learning_rate, beta_1, weight_decay=weight_decay, name=name, **kwargs)
        self._weight_decay = weight_decay
        self._latent_decay = latent_decay
        self.decay_all = decay_all
        self.threshold_rate = threshold_rate
        self.convolution_rate = convolution_rate

    def decay_of(self, variable: tf.Variable) -> float:
        """The coefficient of the decay that `variable` gets."""
        if not self._use_weight_decay(variable):  # see `exclude_from_weight_decay`
            return 0.0
        if is_latent(variable):
            return self._weight_decay if self._latent_decay is None else self._latent_decay
        return self._weight_decay if self.decay_all or variable.shape.rank > 1 else 0.0

    def build(self, var_list):
        """Make Adam's slots."""
        if getattr(self, "_built", False):
            return
        super().build(var_list)
        # Read here: under a distribution strategy `update_step` sees unmarked replicas.
        self._faster = [self.rate_of(v) for v in var_list]

    def update_step(self, gradient, variable):
        """Adam's step, `rate_of(variable)` times as long."""
        faster = self._faster[self._index_dict[self._var_key(variable)]]
        if faster == 1:
            return super().update_step(gradient, variable)
        before = tf.identity(variable)
        super().update_step(gradient, variable)
        variable.assign(before + faster * (variable - before))

    def _apply_weight_decay(self, variables):
        for variable in variables:
            self.weight_decay = self.rate_of(variable) * self.decay_of(variable)
            if self.weight_decay:
                super()._apply_weight_decay([variable])

    def get_config(self):
        return {
            **super().get_config(),
            "weight_decay": self._weight_decay,
            "latent_decay": self._latent_decay,
            "decay_all": self.decay_all,
            "threshold_rate": self.threshold_rate,
            "convolution_rate": self.convolution_rate,
        }


DIRECTIONS = ("momentum", "sign", "adaptive")


@utils.register_keras_custom_object
class GeodesicSGD(_Divided):
    r"""Turns latent weights by a scheduled angle: the flip rate is set, not hoped for.

    The sign ignores the length of a latent vector, so the vectors live on a sphere, such as the
    boundary of a Poincaré ball. Each step turns them by \(\theta = \pi f\) along the great circle
    against their momentum, f being the share of weights asked to flip:

    \[ x \leftarrow |x| (\cos\theta\, \hat x - \sin\theta\, u), \qquad
       m \leftarrow \mu m + (I - \hat x \hat x^T) \frac{\partial L}{\partial x}, \qquad
       u = m / |m| \]

    and the momentum is carried along by parallel transport. There is no learning rate and no
    weight decay for these weights, whose joint effect under SGD is just such an angle
    (`hbnn_larq.flip_rate`), reached late and changed by width, budget and batch. The lengths stay
    what they were.

    A momentum sums gradients over some \(1 / (1 - \mu)\) steps, and in these the vectors turn: at
    1 % of flips and \(\mu = 0.9\) by a tenth of the way to their opposite. With `memory` a step
    keeps no more of it than \(1 - f / \mathrm{memory}\), so that what it remembers was measured
    near by: as f falls, momentum grows longer, until `momentum` is the shorter of the two.

    Works on the latent weights of every 1-bit quantizer of Larq and of this package, but that the
    weights behind `MDTanh` are signs of a sum, of which this turns one term: its flips are not
    those asked for. Everything else, base points among it, goes to `others`.

    !!! example
        ```python
        steps = 20 * 43
        cosine = tf.keras.optimizers.schedules.CosineDecay
        model.compile(
            hbnn_larq.optimizers.GeodesicSGD(
                flip_rate=cosine(0.02, steps),
                others=hbnn_larq.optimizers.GroupedAdam(
                    cosine(0.003, steps), weight_decay=5e-4, threshold_rate=10
                ),
            ),
            loss="sparse_categorical_crossentropy",
        )
        ```

    # Arguments
        flip_rate: Share of the weights asked to flip per step, at most 0.5, or a
            `tf.keras.optimizers.schedules.LearningRateSchedule` of it; let it fall to 0. It is
            kept as `learning_rate`, so that Keras's callbacks can set and show it;
            `ReduceLROnPlateau` then lowers the flips, and not the rate of `others`; of a schedule
            it lowers nothing. What a schedule or callback sets beyond 0.5 is taken as 0.5.
        others: Optimizer of all other variables, with a schedule of its own.
        momentum: Share of the momentum that a step keeps at most, at least 0 and below 1.
        memory: Share of the weights that may flip while momentum remembers, above 0 and at most 1:
            a step keeps `1 - flip_rate / memory` of it where that is less than `momentum`, and
            nothing at a flip rate of `memory` or above. `None` keeps `momentum` in every step.
        granularity: `"filter"`: the weights of each output filter turn by the angle; `"layer"`:
            those of the whole kernel do, so that some filters turn more than others. A filter of
            one weight has no direction: such a kernel is one vector either way.
        direction: Where u comes from: `"momentum"`, its `"sign"` (every weight pulls alike), or
            `"adaptive"` (divided by the root of a running mean of squares, as in Adam).
        squares: Share that the running mean of squares keeps, for `"adaptive"`.
        name: Name of the optimizer.
        **kwargs: Of `tf.keras.optimizers.Optimizer`: `clipnorm`, `use_ema` and so on; about latent
            weights alone, so give them to `others` too.

    # Raises
        ValueError: a flip rate outside [0, 0.5], a momentum or `squares` outside [0, 1), a memory
            outside (0, 1], an unknown granularity or direction, a `weight_decay`, `others` that are
            no optimizer or have another `use_ema`, or in training a kernel without noted filters.
        TypeError: a `learning_rate`, or a legacy optimizer as `others`.

    # References
        - Optimizing on the sphere: [Optimization Algorithms on Matrix
          Manifolds](https://press.princeton.edu/absil), chapters 3 and 8
        - Scheduling the flips of a binary net in this way: ours.
    """

    def __init__(
        self,
        flip_rate=0.02,
        others="sgd",
        *,
        momentum=0.9,
        memory=0.07,
        granularity="filter",
        direction="momentum",
        squares=0.999,
        name="GeodesicSGD",
        **kwargs,
    ):
        scheduled = isinstance(flip_rate, tf.keras.optimizers.schedules.LearningRateSchedule)
        if not scheduled and not (isinstance(flip_rate, Real) and 0 <= float(flip_rate) <= 0.5):
            raise ValueError(
                f"GeodesicSGD(flip_rate={flip_rate!r}): a share of the weights per step, 0 to 0.5; "
                "one percent is 0.01. It may be a schedule."
            )
        for key in kwargs.keys() & {"lr", "learning_rate"}:
            raise TypeError(
                f"GeodesicSGD({key}={kwargs[key]!r}): latent weights have no learning rate here; "
                "give flip_rate, and `others` a learning rate of its own."
            )
        if kwargs.get("weight_decay"):
            raise ValueError(
                f"GeodesicSGD(weight_decay={kwargs['weight_decay']!r}): it would only shorten "
                "latent weights, of which the direction alone counts; give it to `others`."
            )
        _check_share("GeodesicSGD", "momentum", momentum)
        _check_share("GeodesicSGD", "squares", squares)
        if memory is not None:
            require_between("GeodesicSGD", "memory", memory, 0, 1)
        for key, value, choices in (
            ("granularity", granularity, ("filter", "layer")),
            ("direction", direction, DIRECTIONS),
        ):
            if value not in choices:
                raise ValueError(f"GeodesicSGD({key}={value!r}): one of {', '.join(choices)}.")
        kwargs.setdefault("jit_compile", False)
        # HDF5 files key variables by name, and `others` has an iteration and a rate as well.
        with tf.name_scope("latents"):
            super().__init__(name=name, **kwargs)
            self._learning_rate = self._build_learning_rate(flip_rate)
        self.others = _other(others, "GeodesicSGD")
        require(
            not isinstance(self.others, GeodesicSGD),
            "GeodesicSGD",
            "others",
            self.others,
            "latent weights have this optimizer; give one that trains all the rest, such as "
            "GroupedAdam",
        )
        self._check_average("GeodesicSGD")
        self.momentum = momentum
        self.memory = None if memory is None else float(memory)
        self.granularity = granularity
        self.direction = direction
        self.squares = squares

    def _is_mine(self, variable):
        return is_latent(variable)

    def build(self, var_list):
        """Make the slots: a momentum for every kernel, and squares where they are asked for."""
        if getattr(self, "_built", False):
            return
        mine, rest = self._split(var_list)
        if rest:
            self.others.build(rest)
        super().build(mine)
        # Read here: under a distribution strategy `update_step` sees unmarked replicas.
        self._axes = [self._axis_of(v) for v in mine]
        self.momentums, self.mean_squares = (
            [self.add_variable_from_reference(model_variable=v, variable_name=slot) for v in mine]
            if wanted
            else []
            for slot, wanted in (("m", True), ("v", self.direction == "adaptive"))
        )
        self._built = True

    def _axis_of(self, variable: tf.Variable) -> tuple[int, ...]:
        if self.granularity == "layer":
            return tuple(range(variable.shape.rank))
        axis = filter_axis_of(variable)
        if axis is None:
            raise ValueError(
                f'GeodesicSGD(granularity="filter"): nobody noted which axes of {variable.name} '
                "form a filter. Import hbnn_larq before building the model; a kernel without "
                'filters (LocallyConnected, implementation=3) needs granularity="layer".'
            )
        if math.prod(variable.shape[i] for i in axis) == 1:  # one number has no direction
            return tuple(range(variable.shape.rank))
        return axis

    def update_step(self, gradient, variable):
        """Turn the vectors of one kernel."""
        index = self._index_dict[self._var_key(variable)]
        axis, slot = self._axes[index], self.momentums[index]
        x, gradient = tf.convert_to_tensor(variable), tf.convert_to_tensor(gradient)
        flips = tf.clip_by_value(tf.cast(self.learning_rate, tf.float64), 0.0, 0.5)
        angle = math.pi * flips
        kept = self.momentum
        if self.memory is not None:
            kept = tf.cast(tf.clip_by_value(1 - flips / self.memory, 0.0, kept), slot.dtype)
        momentum = uphill = kept * slot + gradient
        if self.direction != "momentum":
            momentum = uphill = sphere.tangent(x, momentum, axis=axis)
        if self.direction == "sign":
            uphill = tf.sign(momentum)
        elif self.direction == "adaptive":
            squares = self.mean_squares[index]
            squares.assign(self.squares * squares + (1 - self.squares) * gradient * gradient)
            # No bias correction: one factor for all weights does not change a direction.
            uphill = tf.math.divide_no_nan(momentum, tf.sqrt(squares))
        slot.assign(sphere.transport(x, uphill, angle, momentum, axis=axis))
        variable.assign(sphere.turn(x, uphill, angle, axis=axis))

    def get_config(self):
        return {
            **super().get_config(),
            "flip_rate": self._serialize_hyperparameter(self._learning_rate),
            "others": tf.keras.optimizers.serialize(self.others),
            "momentum": self.momentum,
            "memory": self.memory,
            "granularity": self.granularity,
            "direction": self.direction,
            "squares": self.squares,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        if isinstance(config.get("flip_rate"), dict):
            config["flip_rate"] = tf.keras.optimizers.schedules.deserialize(
                config["flip_rate"], custom_objects=custom_objects
            )
        return cls(**config)


def default(
    steps: int, *, flip_rate: float = 0.02, learning_rate: float = 0.003
) -> tf.keras.optimizers.Optimizer:
    """An optimizer for binary nets that nobody has to tune, for a known number of steps.

    Latent weights turn by scheduled angles, base points move by Möbius steps, Adam does the rest,
    with thresholds ten times as fast as kernels; all of it falls to 0 along a cosine, after which
    nothing moves. Base points step `"toward"` (see `MobiusSGD`), by 1.5 % of the way at first:
    along plain gradients at Adam's rate they would change no sign, and a map would be none.

    In twelve of the thirteen cases that we measured with plain sign this one setting ended within
    noise of plain sign at the best point of a grid of learning rates and decays, or above it, by
    SGD and by Adam (docs/evidence.md). In the thirteenth, noisy images and 1,200 steps, tuned Adam
    was 1.9 points ahead: try a rate of 0.01 and a sum of rate times decay of 0.3 there.

    !!! example
        ```python
        steps = epochs * len(batches)
        model.compile(hbnn_larq.optimizers.default(steps), "sparse_categorical_crossentropy")
        ```

    # Arguments
        steps: Number of steps that the model will be trained for: epochs times batches an epoch.
        flip_rate: Share of the binary weights asked to flip in the first step; a number, of which
            the schedule is made here.
        learning_rate: Of everything else, in the first step; a number as well.

    # Returns
        A `GeodesicSGD`; of its `others`, a `MobiusSGD` has the base points and a `GroupedAdam` the
            rest.

    # Raises
        ValueError: `steps` is no whole number of at least 1, `flip_rate` none between 0 and 0.5,
            or `learning_rate` not above 0.
    """
    call = "optimizers.default"
    require_whole(call, "steps", steps, 1)
    share = is_number(flip_rate) and 0 < flip_rate <= 0.5
    what = "a share of the weights, above 0 and at most 0.5; two percent is 0.02"
    require(share, call, "flip_rate", flip_rate, what)
    require_between(call, "learning_rate", learning_rate, 0, math.inf)
    flips, rates = (
        tf.keras.optimizers.schedules.CosineDecay(float(first), int(steps))
        for first in (flip_rate, learning_rate)
    )
    adam = GroupedAdam(rates, weight_decay=5e-4, latent_decay=5e-4, threshold_rate=10.0)
    points = MobiusSGD(rates, step="toward", base_point_rate=5.0, others=adam)
    return GeodesicSGD(flips, others=points)
