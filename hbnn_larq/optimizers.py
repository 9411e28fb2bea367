"""SGD that moves base points by Möbius updates and everything else as SGD always does."""

from __future__ import annotations

import contextlib

import tensorflow as tf
from larq import utils
from larq.quantized_variable import QuantizedVariable

from hbnn_larq import poincare

__all__ = ["MobiusSGD", "is_base_point", "is_latent"]


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


@utils.register_keras_custom_object
class MobiusSGD(tf.keras.optimizers.SGD):
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
        step: How a gradient outside the ball, where Eq. 17 is undefined, is read: `"exp0"`,
            `"literal"` or `"riemannian"`, see `hbnn_larq.poincare.mobius_step`.
        others: An optimizer for everything but base points, such as
            `tf.keras.optimizers.Adam(1e-3)`. Momentum and the other decays are then its own
            affair, and this learning rate is that of base points alone.
        name: Name of the optimizer.
        **kwargs: Of `tf.keras.optimizers.SGD`: `clipnorm`, `use_ema` and so on.

    # Raises
        ValueError: a decay below 0 or not finite, an unknown `step`, or `others` together with
            arguments that would have no effect.

    # References
        - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
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
        step="exp0",
        others=None,
        name="MobiusSGD",
        **kwargs,
    ):
        decays = {
            "weight_decay": weight_decay,
            "latent_decay": latent_decay,
            "base_point_decay": base_point_decay,
        }
        for key, value in decays.items():
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(f"MobiusSGD({key}={value!r}): a decay is a number of at least 0.")
        if step not in poincare.STEP_RULES:
            raise ValueError(
                f"MobiusSGD(step={step!r}): the rules are {', '.join(poincare.STEP_RULES)}."
            )
        if isinstance(others, dict | str):
            others = tf.keras.optimizers.get(others)
        if others is not None and (momentum or nesterov or weight_decay or latent_decay):
            raise ValueError(
                "MobiusSGD(others=...): with another optimizer for everything but base points, "
                "momentum, nesterov, weight_decay and latent_decay would have no effect; give "
                "them to that optimizer, and base_point_decay here."
            )
        kwargs.setdefault("jit_compile", False)
        # HDF5 files key variables by name, and `others` has an iteration and a rate as well.
        with tf.name_scope("base_points") if others is not None else contextlib.nullcontext():
            super().__init__(learning_rate, momentum, nesterov, name=name, **kwargs)
        self._weight_decay = weight_decay
        self._latent_decay = latent_decay
        self._base_point_decay = base_point_decay
        self.decay_all = decay_all
        self.step = step
        self.others = others

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
        self.momentums = [
            None
            if ball or not self.momentum
            else self.add_variable_from_reference(model_variable=v, variable_name="m")
            for v, ball in zip(mine, self._balls, strict=True)
        ]
        self._built = True

    def decay_of(self, variable: tf.Variable) -> float:
        """The coefficient of the L2 term that `variable` gets."""
        latent = self._weight_decay if self._latent_decay is None else self._latent_decay
        if is_base_point(variable):
            return latent if self._base_point_decay is None else self._base_point_decay
        if is_latent(variable):
            return latent
        return self._weight_decay if self.decay_all or variable.shape.rank > 1 else 0.0

    def _split(self, variables):
        if self.others is None:
            return list(variables), []
        mine = [v for v in variables if is_base_point(v)]
        return mine, [v for v in variables if not is_base_point(v)]

    def apply_gradients(self, grads_and_vars, name=None, **kwargs):
        if self.others is not None:
            pairs = list(grads_and_vars)
            rest = [(g, v) for g, v in pairs if not is_base_point(v)]
            if rest:
                self.others.apply_gradients(rest, **kwargs)
            grads_and_vars = [(g, v) for g, v in pairs if is_base_point(v)]
        return super().apply_gradients(grads_and_vars, name=name, **kwargs)

    def update_step(self, gradient, variable):
        """Möbius step for a base point, SGD for any other variable."""
        index = self._index_dict[self._var_key(variable)]
        ball, decay = self._balls[index], self._decays[index]
        if ball is None:
            if decay:
                gradient = tf.convert_to_tensor(gradient) + decay * tf.convert_to_tensor(variable)
            return super().update_step(gradient, variable)
        # A point must stay one whatever the loss does; the rest of the model shows the NaN.
        gradient = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
        moved = poincare.mobius_step(
            tf.convert_to_tensor(variable),
            gradient,
            r=ball.r,
            axis=ball.axis,
            learning_rate=self.learning_rate,
            decay=decay,
            rule=self.step,
        )
        return variable.assign(moved)

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

    def get_config(self):
        others = self.others and tf.keras.optimizers.serialize(self.others)
        return {
            **super().get_config(),
            "weight_decay": self._weight_decay,
            "latent_decay": self._latent_decay,
            "base_point_decay": self._base_point_decay,
            "decay_all": self.decay_all,
            "step": self.step,
            "others": others,
        }
