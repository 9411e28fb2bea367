"""The methods that hyperbolic binary networks are compared with, as quantizers for Larq layers.

| alias | of |
|---|---|
| `"xnor"`, `"bireal"` | XNOR-Net and Bi-Real Net: Larq's `MagnitudeAwareSign` |
| `"xnor_plus_plus"` | XNOR-Net++, a trained scale for each channel |
| `"dorefa"` | DoReFa-Net, 1-bit weights |
| `"binary_connect"` | BinaryConnect |
| `"irnet"`, `"ede_sign"` | IR-Net: kernel, activation |
| `"recu"`, `"recu_sign"` | ReCU: kernel, activation |
| `"rbnn"`, `"rbnn_sign"` | RBNN: kernel, activation |
| `"md_tanh"`, `"md_tanh_s"`, `"md_softmax_s"` | mirror descent |
| `"dsq"` | DSQ, symmetric |
| `"fda"`, `"fourier_sign"` | FDA-BNN's gradient: kernel, activation |
| `"slb"` | SLB |
| `"abc_net"` | ABC-Net with one base |

`DistributionLoss` is RAD's loss, `RankOneScale` XNOR-Net++'s scale of rank one, `CMIM` a model that
trains a binary net beside its float teacher. `Mapped` puts the
map of a hyperbolic quantizer in front of any of them. Methods that change while they train need
`TrainingProgress` in `model.fit`; the loop of `hbnn_larq.training` moves them by itself.
`docs/rivals.md` says what is whose, and what could not be checked.
"""

from larq import utils as _utils
from larq.quantizers import MagnitudeAwareSign as _MagnitudeAwareSign

from hbnn_larq.rivals.abc_net import ABCNet
from hbnn_larq.rivals.binary_connect import BinaryConnect
from hbnn_larq.rivals.cmim import CMIM, contrastive_loss
from hbnn_larq.rivals.dorefa import DoReFaSign
from hbnn_larq.rivals.dsq import DSQ
from hbnn_larq.rivals.fda import FDA, FourierSign
from hbnn_larq.rivals.irnet import EDESign, IRNet
from hbnn_larq.rivals.mapped import Mapped
from hbnn_larq.rivals.progress import (
    TrainingProgress,
    begin_epoch,
    move_clock,
    scheduled_quantizers,
)
from hbnn_larq.rivals.rad import DistributionLoss, add_distribution_loss
from hbnn_larq.rivals.rbnn import RBNN, RBNNSign
from hbnn_larq.rivals.recu import ReCU, ReCUSign
from hbnn_larq.rivals.soft_signs import (
    SLB,
    MDSoftmaxS,
    MDTanh,
    MDTanhS,
    recalibrate_batch_norm,
)
from hbnn_larq.rivals.xnor_plus_plus import RankOneScale, XNORPlusPlus

# Both have the same kernel, and Larq has it.
_utils.register_alias("xnor")(_MagnitudeAwareSign)
_utils.register_alias("bireal")(_MagnitudeAwareSign)

# Kernels that were published with an activation of their own.
OWN_ACTIVATIONS = {
    "irnet": "ede_sign",
    "recu": "recu_sign",
    "rbnn": "rbnn_sign",
    "fda": "fourier_sign",
}

__all__ = [
    "CMIM",
    "DSQ",
    "FDA",
    "OWN_ACTIVATIONS",
    "RBNN",
    "SLB",
    "ABCNet",
    "BinaryConnect",
    "DistributionLoss",
    "DoReFaSign",
    "EDESign",
    "FourierSign",
    "IRNet",
    "MDSoftmaxS",
    "MDTanh",
    "MDTanhS",
    "Mapped",
    "RBNNSign",
    "RankOneScale",
    "ReCU",
    "ReCUSign",
    "TrainingProgress",
    "XNORPlusPlus",
    "add_distribution_loss",
    "begin_epoch",
    "contrastive_loss",
    "move_clock",
    "recalibrate_batch_norm",
    "scheduled_quantizers",
]
