"""Quantizers with variables of their own, and what they owe to the one layer that they serve.

Larq's quantizers are functions with arguments. One that also holds variables (base points, a
trained scale, the progress of training) belongs to one layer, must be saved with it, and must see
float32 kernels under a mixed-precision policy. `hbnn_larq.larq_hooks` makes Larq's layers keep
their side.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from typing import Any

import larq as lq
import tensorflow as tf
from larq.quantizers import _BaseQuantizer

__all__ = [
    "KernelQuantizer",
    "LayerQuantizer",
    "filter_axis",
    "find_quantizer",
    "is_quantizer_state",
    "trains",
]


def find_quantizer(identifier: Any, given_as: str) -> Any:
    """What Larq makes of an alias, a configuration or a quantizer.

    # Arguments
        identifier: anything that a quantizer argument of a Larq layer takes.
        given_as: where it was given, for the message.

    # Raises
        ValueError: nothing has that name; says which names are close.
    """
    try:
        return lq.quantizers.get(identifier)
    except (ValueError, TypeError) as error:
        aliases = [
            name
            for name, made in tf.keras.utils.get_custom_objects().items()
            if name.islower() and isinstance(made, type) and issubclass(made, _BaseQuantizer)
        ]
        close = difflib.get_close_matches(str(identifier), aliases, n=3, cutoff=0.5)
        closest = f" Closest: {', '.join(close)}." if close else f" There are {', '.join(aliases)}."
        raise ValueError(
            f"{given_as}={identifier!r}: there is no such quantizer.{closest}"
        ) from error


def is_quantizer_state(variable: tf.Variable) -> bool:
    """Whether a quantizer holds this variable for training, so that no device ever sees it."""
    return getattr(variable, "_hbnn_quantizer_state", False)


def trains(training) -> bool:
    """Whether a call with this `training` argument is a training step.

    A tensor without a value yet may turn out to say so, and counts.
    """
    known = tf.get_static_value(training) if tf.is_tensor(training) else training
    return (known is None and training is not None) or bool(known)


class LayerQuantizer(_BaseQuantizer):
    """Base class of quantizers with variables: each layer gets one of its own, and saves it."""

    precision = 1

    def __init__(self, *, metrics=None, **kwargs):
        # Never autocast: under a mixed-precision policy the arithmetic here is float32.
        super().__init__(**{"metrics": metrics, "dtype": "float32", "autocast": False, **kwargs})
        self._given_to_layer = False

    def for_layer(self):
        """This quantizer for the first layer that takes it, a copy without state for others."""
        if not self._given_to_layer:
            self._given_to_layer = True
            return self
        config = self.get_config()
        config.pop("name", None)
        copy = type(self).from_config(config)
        copy._custom_metrics = list(self._custom_metrics or [])
        copy._given_to_layer = True
        return copy

    def add_state(self, name: str, shape, initializer, *, trainable: bool) -> tf.Variable:
        """A variable that serves training and is marked as such (see `is_quantizer_state`)."""
        variable = self.add_weight(
            name=name,
            shape=shape,
            dtype=self._state_dtype,
            initializer=initializer,
            trainable=trainable,
            experimental_autocast=False,
        )
        variable._hbnn_quantizer_state = True
        return variable

    @property
    def _state_dtype(self) -> tf.DType:
        return tf.float32

    @property
    def non_trainable_weights(self):
        # Larq hides all of these, for the sake of the flip metric; fixed state must be saved.
        inner = [
            layer
            for layer in self._flatten_layers(recursive=False, include_self=False)
            if not isinstance(layer, tf.keras.metrics.Metric)
        ]
        fixed = [] if self.trainable else list(self._trainable_weights)
        nested = [weight for layer in inner for weight in layer.non_trainable_weights]
        return [*fixed, *self._non_trainable_weights, *nested]


class KernelQuantizer(LayerQuantizer):
    """Base class of kernel quantizers with variables, made together with their kernel.

    A subclass gives `quantize(latent, training)` and, for its variables, `make_state(shape)`.

    # Attributes
        clips_gradient: whether a long latent weight gets no gradient. Larq then warns of starved
            weights unless the layer has a constraint.
        kernel_constraint: constraint that the method puts on its latent weights, where the layer
            has none; or None.
    """

    clips_gradient = False
    kernel_constraint: Callable[[tf.Tensor], tf.Tensor] | None = None

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._owner: str | None = None
        self._owner_weight = "kernel"
        self._axis: tuple[int, ...] = ()
        self._kernel_dtype = tf.float32
        self._output_dtype: str | None = None
        self._read_kernel: Callable[[], tf.Tensor] | None = None
        self._layer_trains: Callable[[], bool] = lambda: True

    @property
    def is_frozen(self) -> bool:
        """Whether the layer does not train, so that nothing of its kernel should move."""
        return not self._layer_trains()

    def quantize(self, latent: tf.Tensor, training) -> tf.Tensor:
        """The binary kernel of a latent one, in the dtype of the variables."""
        raise NotImplementedError

    def make_state(self, shape: tf.TensorShape) -> None:
        """Makes the variables for a kernel of this shape."""

    @property
    def _title(self) -> str:
        return f"{type(self).__name__}()"

    @property
    def _state_dtype(self) -> tf.DType:
        return self._kernel_dtype

    # ---------------------------------------------------------------- a kernel of its own

    def bind(self, layer: tf.keras.layers.Layer, weight: str) -> None:
        """Serve the named weight of `layer` from now on.

        # Raises
            ValueError: this quantizer already holds the variables of another weight.
        """
        owner = f"{layer.name}/{weight}"
        if self._owner is not None:
            raise ValueError(
                f"{self._title} holds the variables of {self._owner} and cannot serve {owner} "
                "too. Give each weight a quantizer of its own, for example by its alias: "
                'kernel_quantizer="hyperbolic".'
            )
        self._owner = owner
        self._owner_weight = weight
        self._filter_axis = filter_axis(layer, weight)
        self._output_dtype = layer.compute_dtype
        # Asked of the layer: one made with trainable=False does not tell its quantizer.
        self._layer_trains = lambda: layer.trainable

    def build_for(self, kernel: tf.Variable) -> None:
        """Make the variables that go with `kernel`."""
        self._kernel_dtype = tf.float64 if kernel.dtype == tf.float64 else tf.float32
        self._read_kernel = lambda: tf.convert_to_tensor(kernel)
        self.build(kernel.shape)

    def read_latent(self) -> tf.Tensor | None:
        """The latent kernel of the layer, or None before there is one."""
        if self._read_kernel is None:
            return None
        with lq.context.quantized_scope(False):
            return tf.cast(self._read_kernel(), self._kernel_dtype)

    def build(self, input_shape) -> None:
        if self.built:
            return
        shape = tf.TensorShape(input_shape)
        if not shape.is_fully_defined():
            raise ValueError(
                f"{self._title} got a tensor of shape {shape}: it maps the kernel of a layer, "
                "whose shape is fixed. Give it to a Larq layer as kernel_quantizer."
            )
        self._axis = self._vector_axis(shape)
        self.make_state(shape)
        super().build(shape)

    def get_build_config(self) -> None:
        """Nothing: Keras would build the quantizer of a loaded layer before it knows its layer."""

    def build_from_config(self, config) -> None:
        """Does nothing; files written before this was so hold such a config."""

    def _vector_axis(self, shape: tf.TensorShape) -> tuple[int, ...]:
        """The axes that form one output filter."""
        if self._owner is not None:
            return self._filter_axis(shape)
        return tuple(range(shape.rank - 1)) or (0,)

    def filters(self, shape: tf.TensorShape) -> int:
        """Number of output filters of a kernel of this shape."""
        return math.prod(shape[a] for a in range(shape.rank) if a not in self._axis)

    def per_filter(self, values: tf.Tensor, latent: tf.Tensor) -> tf.Tensor:
        """One value a filter, shaped to multiply the kernel."""
        shape = [1 if a in self._axis else n for a, n in enumerate(latent.shape)]
        return tf.reshape(values, shape)

    # ---------------------------------------------------------------- the call

    def call(self, inputs, training=None):
        if not inputs.dtype.is_floating:
            raise TypeError(
                f"{self._title} got a kernel of dtype {inputs.dtype.name}: latent weights are "
                "floating-point numbers. Give the layer a float dtype."
            )
        latent = inputs
        if inputs.dtype.size < 4 and self._read_kernel is not None:
            # A mixed-precision layer has rounded its kernel to half precision, small weights
            # to 0. Inside this call the dtype is float32: read the kernel itself.
            latent = self.read_latent()
        values = self.quantize(tf.cast(latent, self._kernel_dtype), training)
        if hasattr(self, "flip_ratio"):
            super().call(lq.math.sign(values))  # a scale that moves is no flip
        return tf.cast(values, self._output_dtype or inputs.dtype)


def filter_axis(layer: tf.keras.layers.Layer, weight: str):
    """How the weights of one output filter lie in a weight of `layer`: kernel shape -> axes."""
    kind = type(layer).__name__

    def axes(shape: tf.TensorShape) -> tuple[int, ...]:
        if weight == "depthwise_kernel":  # (*window, input channels, multiplier)
            return tuple(range(shape.rank - 2))
        if isinstance(layer, tf.keras.layers.Conv2DTranspose | tf.keras.layers.Conv3DTranspose):
            return (*range(shape.rank - 2), shape.rank - 1)  # (*window, filters, channels)
        if isinstance(
            layer, tf.keras.layers.LocallyConnected1D | tf.keras.layers.LocallyConnected2D
        ):
            if layer.implementation == 1:  # (places, window x channels, filters)
                return (1,)
            stored = {
                2: "with a number for each pixel outside the window too, which no filter has",
                3: "as one list of numbers, without filters",
            }[layer.implementation]
            raise ValueError(
                f'{kind}(implementation={layer.implementation}) "{layer.name}" stores its kernel '
                f'{stored}: use granularity="layer" or implementation=1.'
            )
        return tuple(range(shape.rank - 1))

    return axes
