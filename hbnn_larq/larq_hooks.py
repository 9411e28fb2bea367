"""The five places where Larq 0.14 has no hook for a quantizer with variables of its own.

Installed once, by `import hbnn_larq`. Each wraps one function of Larq and changes nothing for
any quantizer but ours:

- a quantizer object handed to several layers serves the first; later layers get a copy of it, so
  that two kernels never share a base point;
- a quantizer of kernels in the slot for activations is refused;
- base points and the like are made together with their kernel, not at the first call, and know
  its layer; the quantizer may bring a constraint for it; any binary kernel gets a note of which
  axes form a filter, for `GeodesicSGD`;
- the warning about starved weights is silent for a quantizer whose gradient is never clipped, or
  that brings the constraint;
- `larq.models.summary` counts what is deployed, and the variables of quantizers are not.
"""

from __future__ import annotations

import contextlib

from larq import layers_base, models, quantizers

from hbnn_larq.layer_quantizers import (
    KernelQuantizer,
    LayerQuantizer,
    filter_axis,
    is_quantizer_state,
)
from hbnn_larq.optimizers import is_latent, mark_filters

_installed = False


def install() -> None:
    """Wrap the functions of Larq named above; calling it again does nothing."""
    global _installed
    if _installed:
        return
    _installed = True
    quantizers.get_kernel_quantizer = _own_quantizer(quantizers.get_kernel_quantizer)
    layers_base.BaseLayer.__init__ = _no_kernel_quantizer_on_inputs(layers_base.BaseLayer.__init__)
    layers_base.BaseLayer.add_weight = _bound_kernel(layers_base.BaseLayer)
    layers_base._is_binary = _clipped_only(layers_base._is_binary)
    models.LayerProfile.__init__ = _deployed_profile(models.LayerProfile.__init__)


def _own_quantizer(get_kernel_quantizer):
    def get(identifier):
        return _own(get_kernel_quantizer(identifier))

    return get


def _own(quantizer):
    return quantizer.for_layer() if isinstance(quantizer, LayerQuantizer) else quantizer


def _no_kernel_quantizer_on_inputs(init):
    def __init__(self, *args, input_quantizer=None, **kwargs):
        own = _own(quantizers.get(input_quantizer))
        init(self, *args, input_quantizer=own, **kwargs)
        if isinstance(self.input_quantizer, KernelQuantizer):
            name = type(self.input_quantizer).__name__
            raise ValueError(
                f"{type(self).__name__}(input_quantizer={name}(...)): {name} maps the weights of "
                "a layer and cannot quantize its inputs. Use it as kernel_quantizer, and for "
                'inputs input_quantizer="approx_sign".'
            )

    return __init__


def _bound_kernel(base_layer):
    def add_weight(self, name=None, *args, **kwargs):
        inherited = super(base_layer, self).add_weight
        quantizer = self._get_quantizer(name)
        if isinstance(quantizer, KernelQuantizer):
            quantizer.bind(self, name)
            if kwargs.get("constraint") is None:
                kwargs["constraint"] = quantizer.kernel_constraint
        weight = inherited(name, *args, **kwargs)
        if isinstance(quantizer, KernelQuantizer):
            quantizer.build_for(weight)
        if is_latent(weight):
            with contextlib.suppress(ValueError):  # a kernel without filters
                mark_filters(weight, filter_axis(self, name)(weight.shape))
        return weight

    return add_weight


def _clipped_only(is_binary):
    def wrapped(quantizer):
        if isinstance(quantizer, KernelQuantizer):
            return quantizer.clips_gradient and quantizer.kernel_constraint is None
        return is_binary(quantizer)

    return wrapped


def _deployed_profile(init):
    def __init__(self, layer):
        init(self, layer)
        kept = [p for p in self.weight_profiles if not is_quantizer_state(p._weight)]
        if len(kept) == len(self.weight_profiles):
            return
        self.weight_profiles = kept
        if self.op_profiles:
            self.op_profiles = [
                models.OperationProfile(
                    n=p.count * self.output_pixels,
                    precision=max(self.input_precision or 32, p.bitwidth),
                    op_type="mac",
                )
                for p in kept
                if not p.is_bias()
            ]

    return __init__
