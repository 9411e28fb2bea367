"""Why LCE will not compute a layer on bits, as far as the model alone tells; said once, for the
doctor before a conversion and for the report after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import larq as lq
import numpy as np
import tensorflow as tf

from hbnn_larq import rebuilding
from hbnn_larq.folding import input_quantizer_gives
from hbnn_larq.rebuilding import Layer

__all__ = ["SIGN_QUANTIZERS", "ZERO_SCALE", "Obstacle", "obstacle", "outgrows"]

SIGN_QUANTIZERS = (lq.quantizers.SteSign, lq.quantizers.ApproxSign, lq.quantizers.SwishSign)
ZERO_SCALE = 1.2e-7  # at and below it LCE takes the factor of a channel for 0


@dataclass(frozen=True)
class Obstacle:
    """What stands between a 1-bit kernel and a binary op.

    # Attributes
        code: short name, stable.
        reason: half a sentence about the layer ("it is grouped, ...").
        fix: what to do, without a full stop.
        mended_by: the rewrite of `convert` that takes it away, or None.
    """

    code: str
    reason: str
    fix: str
    mended_by: str | None = None


def outgrows(kernel: Sequence[int], dilation: Sequence[int], image: Sequence[int]) -> bool:
    """Whether a kernel, dilated, is longer than a side of its image.

    There LCE 0.16 sums wrong what is padded with zeros: it takes them off in front of the image and
    behind it as if no kernel ever reached over both ends.

    # Arguments
        kernel, dilation, image: height and width.
    """
    return any(n < (k - 1) * d + 1 for k, d, n in zip(kernel, dilation, image, strict=True))


def obstacle(layer: Layer, argument: str) -> Obstacle | None:
    """The first reason for which a layer with a 1-bit kernel will be computed in float.

    # Arguments
        layer: a built Larq layer.
        argument: the quantizer argument of the kernel in question.
    """
    kind = type(layer).__name__
    quantizer = layer.input_quantizer
    if quantizer is None:
        return Obstacle(
            "float-inputs",
            "its inputs are float, and LCE has no op for 1-bit weights with float inputs, so the "
            "weights are stored as floats",
            'input_quantizer="approx_sign", which leaves ±1 from a sign further back as they are; '
            "a weight-only binary net saves nothing in LCE",
        )
    name = getattr(quantizer, "__name__", type(quantizer).__name__)
    if kind == "QuantDense":
        if input_quantizer_gives(layer) == "sign":
            return Obstacle(
                "dense",
                "LCE has no binary dense op",
                'leave the rewrite "dense_to_conv" on in convert(), or use a 1x1 QuantConv2D',
                mended_by="dense_to_conv",
            )
        return Obstacle(
            "dense",
            f"LCE has no binary dense op, and dense_to_conv knows plain signs only, not {name}",
            'put what it does before its sign into a layer of its own and use "ste_sign", or use '
            "a 1x1 QuantConv2D",
        )
    if "Depthwise" in kind or argument.startswith("depthwise"):
        return Obstacle(
            "no-binary-op",
            "LCE has no binary depthwise convolution",
            "use a QuantConv2D with groups=1, or keep this layer float on purpose",
        )
    if kind != "QuantConv2D":
        return Obstacle(
            "no-binary-op", f"LCE has no binary op for {kind}", "build it from QuantConv2D layers"
        )
    if input_quantizer_gives(layer) == "other values":
        return Obstacle(
            "inputs-not-signs",
            f"its input quantizer {name} does not give ±1 the way LCE recognizes it",
            'input_quantizer="approx_sign" or "ste_sign"; in your own, use larq.math.sign, and no '
            "scale that depends on the data: the batch norm behind the layer has one per channel",
        )
    if layer.groups > 1:
        channels = int(layer.kernel.shape[-2])
        return Obstacle(
            "groups",
            f"it is grouped, {channels} input channels per group; LCE has no fast kernel for "
            "groups",
            "groups=1",
        )
    pad = layer.pad_values
    if layer.padding == "same" and not tf.is_tensor(pad) and pad not in (0, 1):
        return Obstacle("pad-values", f"it pads with {pad}; LCE knows +1 and 0", "pad_values=1.0")
    if layer.data_format == "channels_first":
        return Obstacle("channels-first", "its channels come first", 'data_format="channels_last"')
    return _in_kernel(layer, argument)


def _in_kernel(layer: Layer, argument: str) -> Obstacle | None:
    name = rebuilding.QUANTIZED_KERNELS[argument]
    value: Any = rebuilding.quantized_value(getattr(layer, name))
    rows = rebuilding.filters(layer, name, value)
    if not rebuilding.is_scaled_sign(rows):
        return Obstacle(
            "kernel-not-signs",
            "its kernel is not a sign times one factor per output channel",
            'use a sign quantizer for the kernel, such as "hyperbolic" or "ste_sign"',
        )
    zeros = int(np.sum(np.max(np.abs(rows), axis=1) <= ZERO_SCALE))
    if zeros:
        return Obstacle(
            "zero-scale",
            f"the scale of {zeros} of {len(rows)} output channels is 0, and one such channel sends "
            "the whole layer to float",
            'leave the rewrite "split_scales" on in convert(), or keep scales away from 0',
            mended_by="split_scales",
        )
    return None
