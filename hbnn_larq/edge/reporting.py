"""What a converted file really holds, beside what the model asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq.edge import metadata, placement
from hbnn_larq.edge.agreement import Agreement, compare
from hbnn_larq.edge.conversion import fold_for_conversion
from hbnn_larq.edge.flatbuffer import BINARY_CONV, Op, TFLiteFile
from hbnn_larq.edge.placement import Kernel
from hbnn_larq.edge.running import read_tflite

__all__ = ["LayerReport", "Report", "report"]


@dataclass(frozen=True)
class LayerReport:
    """One kernel of the model and what became of it.

    # Attributes
        layer, kind: path and type of the layer.
        asked: `"1-bit"`, `"1-bit weights"` (inputs stay float) or `"float"`.
        op: name of the op that carries the weights; None if none does.
        placed: `"binary"`, `"float"` or `"nowhere"`.
        bytes: constants of that op in the file.
        packed_bytes: what the weights need at one bit each, channels padded to 32.
        batch_norm: `"fused"`, `"apart"`, or `""` where no batch norm follows.
        writes: `"bits"` where the op hands bits to the next one, else `"numbers"`.
        weights: `"equal"`, or what differs.
        signs_compared, signs_differ, signs_unexplained: of the activations the layer reads,
            see `Agreement`; None for layers that are not binary in the file.
        reason, fix: for a 1-bit kernel outside a binary op, or in one that LCE sums wrong; empty
            otherwise.
    """

    layer: str
    kind: str
    asked: str
    op: str | None
    placed: str
    bytes: int
    packed_bytes: int
    batch_norm: str
    writes: str
    weights: str
    signs_compared: int | None = None
    signs_differ: float | None = None
    signs_unexplained: int | None = None
    reason: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Report:
    """Result of `report`.

    # Attributes
        model: the model's name.
        file_bytes: size of the file.
        float_bytes: all weights of the network at 4 bytes each (latents counted once).
        layers: one entry per kernel, in the model's order.
        ops: how often each op occurs in the file.
        agreement: the file against Keras on the images; None without images.
        rewrites: what `convert` changed to make the file smaller, and what it left (`skipped`).
        faults: everything that is wrong, one sentence each; empty if `ok`.
        sizes: bytes of the file's twins, where asked for.
    """

    model: str
    file_bytes: int
    float_bytes: int
    layers: tuple[LayerReport, ...]
    ops: Mapping[str, int]
    agreement: Agreement | None
    rewrites: tuple[dict[str, Any], ...] = ()
    faults: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Every 1-bit layer is binary in the file, and the file computes what Keras computes."""
        return not self.faults

    @property
    def binary_asked(self) -> int:
        return sum(layer.asked != "float" for layer in self.layers)

    @property
    def binary_placed(self) -> int:
        return sum(layer.placed == "binary" for layer in self.layers)

    def to_json(self) -> str:
        """The whole report as a JSON object, `ok` included."""
        content = {"ok": self.ok, **asdict(self)}
        return json.dumps(content, indent=2, default=_plain)

    def to_markdown(self) -> str:
        """The report for people: verdict, table of layers, totals, agreement."""
        return "\n".join(_markdown(self)) + "\n"

    def __str__(self) -> str:
        return self.to_markdown()


def report(
    model: tf.keras.Model,
    tflite: bytes | str | os.PathLike[str],
    images: Any = None,
    *,
    twins: bool = False,
) -> Report:
    """Compares a converted file with the model it was made from, layer by layer.

    The ops, their weights and their bytes are read from the file; nothing is taken from what the
    converter said. `images` are run through both. A file passes (`.ok`) if every kernel counted as
    1-bit sits in a binary op with exactly its bits, and every difference from Keras is rounding:
    with Keras following the file's signs, no sign differs unless its activation is next to zero,
    and no logit differs. Whether a few images then still get another top-1 is not a fault, but it
    is reported.

    !!! example
        ```python
        result = report(model, tflite, x_test[:200])
        print(result)                     # Markdown
        assert result.ok, result.faults
        ```

    # Arguments
        model: the model that was converted.
        tflite: bytes from `convert`, or the path of the file.
        images: float images as the network takes them, shape (n, height, width, channels); a
            list of arrays for several inputs. A few dozen real ones say most. `None` leaves the
            agreement out, and a file cannot be proven right then: `faults` says so.
        twins: also convert the float and the int8 twin to give their sizes; takes longer.

    # Returns
        A `Report`.

    # Raises
        FileNotFoundError, TypeError, ValueError: as `convert` and `predict`.
    """
    call = "report(model, tflite, images)"
    content = read_tflite(tflite, call=call)
    folded = fold_for_conversion(model, call)
    file = TFLiteFile(metadata.strip(content))
    kernels = placement.kernels(folded)
    placement.place(kernels, file.ops)
    binary = {
        k.path: k.ops for k in kernels if k.ops and all(op.name == BINARY_CONV for op in k.ops)
    }
    agreement = None
    if images is not None:
        agreement = compare(folded, content, images, binary, call=call)
    rewrites = metadata.read(content).rewrites
    skipped = {change["layer"]: change["change"] for change in rewrites if change.get("skipped")}
    stray = _stray_ops(file, kernels)
    one_bit = [kernel for kernel in kernels if kernel.one_bit]
    other_weights = bool(stray and one_bit) and not any(kernel.ops for kernel in one_bit)
    layers = tuple(
        _layer_report(kernel, file, agreement, skipped.get(kernel.layer.name), other_weights)
        for kernel in kernels
    )
    if other_weights:
        faults = [_of_other_weights(len(one_bit), len(stray))]
    else:
        faults = [fault for layer in layers for fault in _faults(layer)]
        if stray:
            faults.append(
                f"the file has {len(stray)} binary convolution{'s' * (len(stray) > 1)} whose "
                "weights are in no layer of the model; was it converted from other weights?"
            )
    if agreement is None:
        faults.append("no images were given, so the file was not compared with Keras")
    else:
        faults += agreement.faults
    sizes: dict[str, int] = {}
    if twins:
        from hbnn_larq.edge.twins import float_twin, int8_twin

        sizes = {"float": len(float_twin(model)), "int8": len(int8_twin(model, images))}
    return Report(
        model=model.name,
        file_bytes=len(content),
        float_bytes=4 * int(folded.count_params()),
        layers=layers,
        ops=placement.op_counts(file.ops),
        agreement=agreement,
        rewrites=rewrites,
        faults=tuple(faults),
        sizes=sizes,
    )


def _layer_report(
    kernel: Kernel,
    file: TFLiteFile,
    agreement: Agreement | None,
    skipped: str | None,
    other_weights: bool,
) -> LayerReport:
    ops = kernel.ops
    is_binary = bool(ops) and all(op.name == BINARY_CONV for op in ops)
    asked = "float"
    if kernel.one_bit:
        has_signs = getattr(kernel.layer, "input_quantizer", None) is not None or is_binary
        asked = "1-bit" if has_signs else "1-bit weights"
    reason, fix = "", ""
    if other_weights and kernel.one_bit:
        reason, fix = "the file holds other weights", "convert this model"
    elif kernel.one_bit and not is_binary:
        reason, fix = placement.why_float(kernel, file)
        if skipped is not None:
            reason += f", and as a rewritten one it is {skipped}"
            fix = "make this layer float: binary it would cost more than it saves"
    elif is_binary:
        reason, fix = placement.why_wrong(kernel)
    signs = agreement.signs.get(kernel.path) if agreement else None
    per_filter = kernel.rows.shape[1]
    channels = kernel.layer_channels
    words = -(-channels // 32) * per_filter // max(channels, 1)
    return LayerReport(
        layer=kernel.path,
        kind=type(kernel.layer).__name__,
        asked=asked,
        op=ops[0].name if ops else None,
        placed="binary" if is_binary else "float" if ops else "nowhere",
        bytes=ops[0].nbytes if ops else 0,
        packed_bytes=4 * words * len(kernel.rows) if kernel.one_bit else 0,
        batch_norm=_batch_norm(kernel),
        writes="bits" if is_binary and ops[0].outputs[0].dtype.kind == "i" else "numbers",
        weights=placement.wrong_weights(kernel) or ("equal" if ops else "not in the file"),
        signs_compared=signs.compared if signs else None,
        signs_differ=signs.differ if signs else None,
        signs_unexplained=signs.unexplained if signs else None,
        reason=reason,
        fix=fix,
    )


def _batch_norm(kernel: Kernel) -> str:
    after = [node.outbound_layer for node in kernel.layer.outbound_nodes]
    if len(after) != 1 or not isinstance(after[0], tf.keras.layers.BatchNormalization):
        return ""
    if not kernel.ops:
        return "apart"
    extras = [t for t in kernel.ops[0].inputs[2:] if t is not None]
    return "fused" if extras else "apart"


def _faults(layer: LayerReport) -> list[str]:
    faults = []
    if layer.asked != "float" and layer.placed != "binary":
        where = f"computed by {layer.op}" if layer.op else "in no op of its own"
        faults.append(
            f"{layer.layer}: asked for {layer.asked}, {where} in float: {layer.reason}. "
            f"Fix: {layer.fix}."
        )
    elif layer.reason:
        faults.append(f"{layer.layer}: {layer.reason}. Fix: {layer.fix}.")
    if layer.weights not in ("equal", "not in the file"):
        faults.append(f"{layer.layer}: {layer.weights}")
    if layer.asked != "float" and layer.weights == "not in the file":
        faults.append(f"{layer.layer}: no op of the file carries its weights")
    return faults


def _stray_ops(file: TFLiteFile, kernels: list[Kernel]) -> list[Op]:
    """Binary convolutions whose weights are in no layer of the model."""
    known = {op.index for kernel in kernels for op in kernel.ops}
    return [op for op in file.ops if op.name == BINARY_CONV and op.index not in known]


def _of_other_weights(kernels: int, convolutions: int) -> str:
    return (
        f"not one of the model's {kernels} 1-bit kernels is among the {convolutions} binary "
        "convolutions of the file: it was converted from another model, or from other weights. "
        "Fix: convert this model, or report with the model that the file was made from."
    )


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def _markdown(r: Report) -> list[str]:
    verdict = "OK" if r.ok else f"{len(r.faults)} fault{'s' * (len(r.faults) > 1)}"
    lines = [
        f"# {r.model}: {verdict}",
        "",
        *(f"- **Fault.** {fault}" for fault in r.faults),
        *([""] if r.faults else []),
        f"{r.binary_placed} of {r.binary_asked} 1-bit kernels are binary in the file. "
        f"{_size(r.file_bytes)}; the same weights in float take {_size(r.float_bytes)} "
        f"({r.float_bytes / r.file_bytes:.1f} times as much)."
        + "".join(f" {name.capitalize()} twin: {_size(n)}." for name, n in r.sizes.items()),
        "",
    ]
    if r.agreement is not None:
        a = r.agreement
        top1 = "" if a.top1 is None else f"top-1 equal on {a.top1:.1%}; "
        lines += [
            f"Against Keras on {a.images} images: {top1}{a.logits_differ:.1%} of the logits differ "
            f"beyond rounding (median difference {a.median_difference:.2g}, largest "
            f"{a.max_difference:.2g}). With Keras following the file's signs the largest "
            f"difference is {a.followed_difference:.1g} of the largest logit.",
            "",
        ]
    lines += [
        "| layer | asked | in the file | bytes | batch norm | writes | weights | signs differ |",
        "|---|---|---|---:|---|---|---|---|",
        *(_row(layer) for layer in r.layers),
        "",
        "Ops: " + ", ".join(f"{name} {count}" for name, count in sorted(r.ops.items())) + ".",
    ]
    for title, skipped in (("Rewritten:", False), ("Not rewritten:", True)):
        changes = [c for c in r.rewrites if c.get("skipped", False) is skipped]
        lines += ["", title] * bool(changes)
        lines += [f"- {c['layer']}: {c['change']} ({c['name']})" for c in changes]
    return lines


def _row(layer: LayerReport) -> str:
    signs = ""
    if layer.signs_differ is not None:
        signs = f"{layer.signs_differ:.2%} of {layer.signs_compared}"
        if layer.signs_unexplained:
            signs += f", {layer.signs_unexplained} unexplained"
    cells = [
        f"{layer.layer} ({layer.kind})",
        layer.asked,
        layer.op or "-",
        f"{layer.bytes:,}",
        layer.batch_norm,
        layer.writes if layer.placed == "binary" else "",
        layer.weights,
        signs,
    ]
    return "| " + " | ".join(cells) + " |"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
