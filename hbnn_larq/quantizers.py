"""Kernel quantizers whose 1-bit weight is the sign of a point of the Poincaré ball.

A layer's kernel holds the latent weights, which are unconstrained. The quantizer sends them into
the ball by an exponential map at a base point that it holds and that is trained, and takes the
sign. At inference only the signs remain: `hbnn_larq.fold` writes them into a plain Larq model.

!!! example
    ```python
    import hbnn_larq
    import larq as lq

    layer = lq.layers.QuantConv2D(
        64, 3,
        input_quantizer="approx_sign",
        kernel_quantizer=hbnn_larq.quantizers.Hyperbolic(r=0.05),
        pad_values=1.0,
        padding="same",
    )
    ```

# References
    - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
"""

from __future__ import annotations

import math

import larq as lq
import tensorflow as tf
from larq import utils
from larq.quantized_variable import QuantizedVariable

from hbnn_larq import epc, poincare
from hbnn_larq.arguments import is_number, require, require_whole
from hbnn_larq.layer_quantizers import KernelQuantizer

__all__ = ["EPC", "BallQuantizer", "Hyperbolic", "HyperbolicBoundary"]

GRANULARITIES = ("filter", "layer")


class BallQuantizer(KernelQuantizer):
    """Base class: holds the base points of one kernel, and maps that kernel to its signs.

    A subclass gives `_image(points, latent, axis)` and `_signs(points, latent, axis)`, its points
    and their signs, and, where it holds more than one base point, `_cluster_size`.

    # Arguments
        r: Strength of the curvature, above 0; the ball has radius `1 / sqrt(r)`.
        granularity: `"filter"`: the weights of each output filter form one vector.
            `"layer"`: all weights of the kernel do, which is how the paper speaks of them.
        start: How far from the centre base points start, as a share of the radius, at least 0 and
            below 1; each vector in a random direction. The paper does not say. At 0 a new net
            computes with the signs of its latent weights.
        metrics: As for every Larq quantizer: `["flip_ratio"]`, or `None` for those of
            `larq.context.metrics_scope`.

    # Attributes
        base_points: The variables p, float32 (float64 for a float64 kernel), shaped like the
            kernel. Inside `larq.context.quantized_scope(True)` they read as zero:
            the kernel read there is binary already, and signs of signs must not move.
    """

    def __init__(self, r, granularity: str = "filter", *, start: float = 0.0, **kwargs):
        call = type(self).__name__
        poincare.check_r(call, r)
        if granularity not in GRANULARITIES:
            raise ValueError(
                f'{call}(granularity={granularity!r}): "filter" makes one vector of each output '
                'filter, "layer" one of the whole kernel.'
            )
        what = "a share of the ball's radius, at least 0 and below 1"
        require(is_number(start) and 0 <= start < 1, call, "start", start, what)
        self.r = float(r)
        self.granularity = granularity
        self.start = float(start)
        super().__init__(**kwargs)

    @property
    def base_points(self) -> list[tf.Variable]:
        return [w for w in self._trainable_weights if poincare.ball_of(w)]

    @property
    def _cluster_size(self) -> int:
        return 1

    @property
    def _title(self) -> str:
        return f"{type(self).__name__}(r={self.r})"

    def _image(self, points: list[tf.Tensor], latent: tf.Tensor, axis) -> tf.Tensor:
        raise NotImplementedError

    def _signs(self, points: list[tf.Tensor], latent: tf.Tensor, axis) -> tf.Tensor:
        raise NotImplementedError

    def _vector_axis(self, shape):
        if self.granularity == "layer":
            return tuple(range(shape.rank))
        return super()._vector_axis(shape)

    def make_state(self, shape) -> None:
        for k in range(self._cluster_size):
            suffix = f"_{k + 1}" if self._cluster_size > 1 else ""
            name = f"{self._owner_weight}_base_point{suffix}"
            self.add_state(name, shape, self._starting_point, trainable=True)

    def _starting_point(self, shape, dtype=None) -> tf.Tensor:
        if not self.start:
            return tf.zeros(shape, dtype)
        drawn = tf.keras.initializers.RandomNormal()(shape, dtype)
        length = tf.sqrt(tf.reduce_sum(drawn * drawn, self._axis, keepdims=True))
        return self.start / math.sqrt(self.r) * tf.math.divide_no_nan(drawn, length)

    def _add_variable_with_custom_getter(self, name: str, **kwargs):
        """As Larq does for kernels: wrap what the getter makes. Here it also gets its ball."""
        make = kwargs.pop("getter")

        def getter(*args, **kwargs):
            variable = make(*args, **kwargs)
            poincare.put_in_ball(variable, r=self.r, axis=self._axis, reach=self._reach)
            return QuantizedVariable.from_variable(variable, tf.zeros_like, precision=32)

        if "_base_point" in name:
            return super()._add_variable_with_custom_getter(name, getter=getter, **kwargs)
        return super()._add_variable_with_custom_getter(name, getter=make, **kwargs)

    def _reach(self) -> tf.Tensor | None:
        """How far from the centre the weights of each vector are, base points at 0."""
        latent = self.read_latent()
        if latent is None:
            return None
        root = math.sqrt(self.r)
        return (
            tf.tanh(root * tf.sqrt(tf.reduce_sum(latent * latent, self._axis, keepdims=True)))
            / root
        )

    def _points_now(self) -> list[tf.Tensor]:
        with lq.context.quantized_scope(False):
            return [tf.convert_to_tensor(p) for p in self.base_points]

    def image(self, latent: tf.Tensor) -> tf.Tensor:
        """The points of the ball whose signs are the kernel, differentiable.

        # Arguments
            latent: Latent kernel, float32 (float64 for a float64 layer).
        """
        return self._image(self._points_now(), latent, self._axis)

    def quantize(self, latent, training):
        return self._signs(self._points_now(), latent, self._axis)

    def load_own_variables(self, store) -> None:
        expected = [tuple(p.shape) for p in self.base_points]
        found = [tuple(store[key].shape) for key in sorted(store.keys(), key=int)]
        if found and found != expected:
            raise ValueError(
                f"{self._title} of {self._owner}: the file holds base points of shape {found}, "
                f"this model needs {expected}. Build the model as it was when the file was "
                "written, or load the file whole with load_model."
            )
        super().load_own_variables(store)

    def get_config(self):
        return {
            **super().get_config(),
            "r": self.r,
            "granularity": self.granularity,
            "start": self.start,
        }


@utils.register_alias("hyperbolic")
@utils.register_keras_custom_object
class Hyperbolic(BallQuantizer):
    r"""Sign of the exponential map, the quantizer of HBNN.

    \[
    w_b = \operatorname{sign}(\exp_p(\tilde w)), \qquad
    \exp_p(v) = p \oplus \tanh\left(\sqrt r \frac{\lambda_p |v|}{2}\right) \frac{v}{\sqrt r |v|}
    \]

    The gradient passes the sign unchanged (its straight-through window is \(1/\sqrt r\), where
    every point of the ball lies) and then takes the exact derivative of the map, to the latent
    weights and to the base point p (HBNN Eq. 11 and 13). With p = 0 the signs are those of the
    latent weights.

    !!! example
        ```python
        lq.layers.QuantConv2D(
            64, 3, input_quantizer="approx_sign", kernel_quantizer="hyperbolic", pad_values=1.0
        )
        ```

    # Arguments
        r: Strength of the curvature, above 0; the ball has radius `1 / sqrt(r)`. The paper uses
            0.05. In our experiments, at an equal sum of learning rate times weight decay, the
            accuracy does not depend on it.
        granularity: `"filter"`: the weights of each output filter form one vector, so the map
            does not depend on the width of the layer. `"layer"`: all weights of the kernel, as
            the paper speaks of them; tanh saturates in wide layers.
        start: How far from the centre base points start, as a share of the radius, below 1; in
            random directions.
        metrics: `["flip_ratio"]`, or `None` for the metrics of `larq.context.metrics_scope`.

    # Raises
        ValueError: `r` is not a finite number above 0, `granularity` none of the two, or `start`
            not at least 0 and below 1.

    # References
        - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
    """

    def __init__(self, r: float = 0.05, granularity: str = "filter", **kwargs):
        super().__init__(r, granularity, **kwargs)

    def _image(self, points, latent, axis):
        return poincare.expmap(points[0], latent, r=self.r, axis=axis)

    def _signs(self, points, latent, axis):
        return poincare.expmap_sign(points[0], latent, r=self.r, axis=axis)


@utils.register_alias("hyperbolic_boundary")
@utils.register_keras_custom_object
class HyperbolicBoundary(BallQuantizer):
    r"""Sign of the point where the geodesic meets the edge of the ball, HBNN on \(\partial D_r\).

    \[ w_b = \operatorname{sign}\left(p \oplus \frac{\tilde w}{\sqrt r |\tilde w|}\right) \]

    Only the direction of the latent weights counts. The paper reports this variant unstable for
    binary weights with real activations.

    # Arguments
        r: Strength of the curvature, above 0. The paper uses 1.
        granularity: `"filter"` or `"layer"`, as for `Hyperbolic`.
        start: How far from the centre base points start, as a share of the radius, below 1; in
            random directions.
        metrics: `["flip_ratio"]`, or `None` for the metrics of `larq.context.metrics_scope`.

    # Raises
        ValueError: `r` is not a finite number above 0, `granularity` none of the two, or `start`
            not at least 0 and below 1.

    # References
        - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
    """

    def __init__(self, r: float = 1.0, granularity: str = "filter", **kwargs):
        super().__init__(r, granularity, **kwargs)

    def _reach(self) -> tf.Tensor | None:
        return None  # on the sphere itself, wherever the latents are

    def _image(self, points, latent, axis):
        return poincare.boundary_map(points[0], latent, r=self.r, axis=axis)

    def _signs(self, points, latent, axis):
        return poincare.boundary_sign(points[0], latent, r=self.r, axis=axis)


@utils.register_alias("epc")
@utils.register_keras_custom_object
class EPC(BallQuantizer):
    r"""Sign of a chain of exponential maps, our reading of the exponential parametrization cluster.

    \[ w_b = \operatorname{sign}(\exp_{p_m} \circ \dots \circ \exp_{p_1}(\tilde w)) \]

    Only the abstract of the method is public; `hbnn_larq.epc` says what is the paper's and what
    is ours.

    # Arguments
        r: Strength of the curvature, above 0.
        granularity: `"filter"` or `"layer"`, as for `Hyperbolic`.
        size: Number of base points m, at least 1; 1 is `Hyperbolic`.
        start: How far from the centre base points start, as a share of the radius, below 1; in
            random directions.
        metrics: `["flip_ratio"]`, or `None` for the metrics of `larq.context.metrics_scope`.

    # Raises
        ValueError: `r` is not a finite number above 0, `size` no whole number of at least 1,
            `granularity` none of the two, or `start` not at least 0 and below 1.

    # References
        - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
    """

    def __init__(self, r: float = 0.05, granularity: str = "filter", size: int = 2, **kwargs):
        require_whole("EPC", "size", size, 1)
        self.size: int = int(size)
        super().__init__(r, granularity, **kwargs)

    @property
    def _cluster_size(self) -> int:
        return self.size

    def _image(self, points, latent, axis):
        return epc.chain(points, latent, r=self.r, axis=axis)

    def _signs(self, points, latent, axis):
        return epc.chain_sign(points, latent, r=self.r, axis=axis)

    def get_config(self):
        return {**super().get_config(), "size": self.size}
