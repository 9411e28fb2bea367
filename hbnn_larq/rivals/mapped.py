r"""A map of the ball in front of any host: IR-Net+HBNN, ReCU+HBNN and so on.

The paper inserts HBNN into other methods "as a plug-and-play module" and gives no formula. Here
the map comes first and the host stays as it is: the host's latent kernel is the point
\(\exp_p(\tilde w)\). So the host keeps every property of what it binarises, and nothing
saturates, which a standardised filter (of norm \(\sqrt n\)) would.

# References
    - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471), appendix A
"""

from __future__ import annotations

from typing import Any

import larq as lq
import tensorflow as tf
from larq import utils

from hbnn_larq.layer_quantizers import KernelQuantizer, LayerQuantizer, find_quantizer
from hbnn_larq.quantizers import BallQuantizer

__all__ = ["Mapped"]


@utils.register_keras_custom_object
class Mapped(KernelQuantizer):
    r"""A host's binary kernel, made of points of the ball instead of the latent weights.

    \[ w_b = H(\exp_p(\tilde w)) \]

    With p = 0 and one vector a filter the map only rescales filters, so a host that standardises
    them has the same output and the same gradient to \(\tilde w\) (for ReCU up to its epsilon):
    all that the plug-in does comes from \(p \ne 0\).

    !!! example
        ```python
        kernel_quantizer = hbnn_larq.rivals.Mapped("hyperbolic", "irnet")
        ```

    # Arguments
        map: `"hyperbolic"`, `"hyperbolic_boundary"` or `"epc"`, or such a quantizer.
        host: any kernel quantizer of this package or of Larq, as alias, instance or config.
        metrics: `["flip_ratio"]`, or `None` for the metrics of `larq.context.metrics_scope`.

    # Attributes
        base_points: those of the map.

    # Raises
        ValueError: `map` is no quantizer of the ball, or `host` is one, or is no kernel
            quantizer.

    # References
        - [HBNN](https://arxiv.org/abs/2501.03471)
    """

    def __init__(self, map: Any = "hyperbolic", host: Any = "irnet", **kwargs):
        ball, inner = (_quantizer(q, name) for q, name in ((map, "map"), (host, "host")))
        if not isinstance(ball, BallQuantizer):
            raise ValueError(
                f"Mapped(map={map!r}): the map is one of the ball: 'hyperbolic', "
                "'hyperbolic_boundary' or 'epc'."
            )
        takes_kernels = isinstance(inner, KernelQuantizer) or not isinstance(inner, LayerQuantizer)
        if isinstance(inner, BallQuantizer | Mapped) or not takes_kernels:
            raise ValueError(
                f"Mapped(host={host!r}): the host binarises a kernel and holds no map itself, such "
                "as 'irnet', 'recu' or 'magnitude_aware_sign'."
            )
        super().__init__(**kwargs)
        self.map = ball.for_layer()
        self.host = inner.for_layer() if isinstance(inner, KernelQuantizer) else inner
        self.precision = getattr(inner, "precision", 1)
        self.clips_gradient = getattr(inner, "clips_gradient", True)
        self.kernel_constraint = getattr(inner, "kernel_constraint", None)

    @property
    def base_points(self) -> list[tf.Variable]:
        return self.map.base_points

    @property
    def _parts(self) -> list[KernelQuantizer]:
        return [q for q in (self.map, self.host) if isinstance(q, KernelQuantizer)]

    def bind(self, layer, weight) -> None:
        super().bind(layer, weight)
        for part in self._parts:
            part.bind(layer, weight)

    def make_state(self, shape) -> None:
        for part in self._parts:
            part._kernel_dtype = self._kernel_dtype
        if self._read_kernel is not None:
            self.map._read_kernel = self._read_kernel
            if isinstance(self.host, KernelQuantizer):  # a function keeps nothing, and is shared
                # What the host takes for its latent kernel.
                self.host._read_kernel = lambda: self.map.image(self.read_latent())
        for part in self._parts:
            part.build(shape)

    def quantize(self, latent, training):
        return tf.cast(self.host(self.map.image(latent)), self._kernel_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "map": lq.quantizers.serialize(self.map),
            "host": lq.quantizers.serialize(self.host),
        }


def _quantizer(identifier: Any, argument: str) -> Any:
    found = find_quantizer(identifier, f"Mapped: {argument}")
    if found is None or not callable(found):
        raise ValueError(f"Mapped({argument}={identifier!r}): name a quantizer.")
    return found
