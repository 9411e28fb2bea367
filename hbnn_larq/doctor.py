"""Health checks: what will keep a binary network from learning, or from being small on the device.

`examine` looks at a model (and, if given, at its optimizer, its schedule and some images) and
returns findings, each with what is wrong and what mends it. It changes nothing and trains nothing.
`examine_epoch` compares the bits before and after an epoch. No finding means none of the troubles
listed here, not that the network is good.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import combinations
from typing import Any

import larq as lq
import numpy as np
import tensorflow as tf

from hbnn_larq import flip_rate, rebuilding
from hbnn_larq.callbacks import base_point_flips, base_point_shares
from hbnn_larq.edge.obstacles import obstacle, outgrows
from hbnn_larq.edge.rewrites import has_one_input_shape
from hbnn_larq.layer_quantizers import LayerQuantizer
from hbnn_larq.optimizers import GeodesicSGD, GroupedAdam, MobiusSGD
from hbnn_larq.quantizers import BallQuantizer
from hbnn_larq.rebuilding import Layer
from hbnn_larq.rivals import scheduled_quantizers

__all__ = ["Finding", "examine", "examine_epoch", "examine_schedule", "to_json"]

VERSIONS = {"tensorflow": "2.15", "larq": "0.14", "larq-compute-engine": "0.16"}
WORD = 32
IDLE = 0.001  # share of the signs that base points change
EDGE = 0.95  # share of the ball's radius: lambda_p is 20 there, and 0.1x of a step arrives
SATURATED = 8.0  # 1 - tanh(8) is 2e-7: in float32 the radial direction of the map is flat
OUTSIDE = 0.5  # share of latents beyond the clip, where a clipped gradient is 0
ONE_SIDED = 0.995
A_FEW = 5  # flips; where so many are due, none at all comes once in 150 times
ASKED_FROM, ASKED_TO = 0.001, 0.05  # highest share of flips per step that a GeodesicSGD asks for
LEAST_REACH = 2.0  # standard deviations that a threshold should be able to move in a run
_PASS = (
    tf.keras.layers.Activation,
    tf.keras.layers.MaxPool2D,
    tf.keras.layers.AveragePooling2D,
    tf.keras.layers.Flatten,
    tf.keras.layers.Reshape,
    tf.keras.layers.Dropout,
)


_NO_ACTIVATION = (None, tf.keras.activations.linear)


@dataclass(frozen=True)
class Finding:
    """One trouble.

    # Attributes
        code: short name of the check, stable.
        where: the layer's path, or what else it is about.
        message: what was found.
        fix: what to do.
    """

    code: str
    where: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message} [{self.code}]\n    {self.fix}"


def examine(
    model: tf.keras.Model,
    *,
    optimizer: Any = None,
    learning_rates: Sequence[float] | None = None,
    images: Any = None,
) -> list[Finding]:
    """Everything that can be seen in a model without training it.

    !!! example
        ```python
        for finding in examine(model, optimizer=model.optimizer, images=x_train[:100]):
            print(finding)
        ```

    # Arguments
        model: any built Keras model, before or after training.
        optimizer: its optimizer, for the checks on decay, on the flips that a `GeodesicSGD` asks
            for, and after training on schedules that never moved.
        learning_rates: one value per training step, of a `MobiusSGD` or Adam, alone or as the
            `others` of a `GeodesicSGD`: for the prediction of flips (`hbnn_larq.flip_rate`) and
            of how far Adam can move thresholds.
        images: a batch of inputs, to see the activations before each sign.

    # Returns
        The findings, layer by layer; empty for a healthy model.

    # Raises
        TypeError: `model` is no Keras model.
    """
    if not isinstance(model, tf.keras.Model):
        raise TypeError(f"examine(model): expected a tf.keras.Model, got {type(model).__name__}.")
    layers = list(rebuilding.named_layers(model))
    findings = [*_versions(), *_shared_state(layers), *_twin_kernels(layers)]
    for path, layer in layers:
        for check in _LAYER_CHECKS:
            findings += check(path, layer)
    findings += _base_points(model)
    latents = [v for _, layer in layers for _, v in rebuilding.quantized_kernels(layer)]
    if not latents:
        findings.append(
            Finding(
                "no-binary-layer",
                model.name,
                "no layer has a quantized kernel, so there is nothing that LCE could make small",
                "Build it of Larq layers, such as lq.layers.QuantConv2D, with "
                'kernel_quantizer="hyperbolic" and input_quantizer="approx_sign".',
            )
        )
    if optimizer is not None:
        findings += _decay(layers, optimizer)
        inner = getattr(optimizer, "inner_optimizer", optimizer)  # under loss scaling
        findings += _standing_schedules(model, inner)
        if isinstance(inner, GeodesicSGD) and latents:
            findings += _asked_flips(inner, None if learning_rates is None else len(learning_rates))
        rest = inner  # what moves all that no optimizer around it keeps to itself
        while getattr(rest, "others", None) is not None:
            rest = rest.others
        if learning_rates is not None and latents:
            findings += _slow_thresholds(rest, learning_rates)
        if learning_rates is not None and latents and not isinstance(inner, GeodesicSGD):
            if isinstance(rest, MobiusSGD):
                decay, momentum = rest.decay_of(latents[0]), float(rest.momentum)
                findings += examine_schedule(learning_rates, decay, momentum)
                if not rest.decoupled:
                    findings += _swinging(max(learning_rates), decay, momentum)
            elif isinstance(rest, GroupedAdam):
                decay, momentum = rest.decay_of(latents[0]), float(rest.beta_1)
                as_sgd = [(1 - momentum) * rate for rate in learning_rates]
                findings += examine_schedule(as_sgd, decay, momentum)
    if images is not None:
        findings += _activations(model, layers, images)
    return findings


def examine_schedule(
    learning_rates: Sequence[float], latent_decay: float, momentum: float = 0.0
) -> list[Finding]:
    """Whether the flip-rate law foresees too few or too many sign flips.

    # Arguments
        learning_rates: one value per training step.
        latent_decay: coupled decay of the latent weights.
        momentum: of SGD.

    # Returns
        At most one finding; its `fix` names the decay that would mend it.
    """
    flips = flip_rate.mean_flips_per_step(learning_rates, latent_decay, momentum)
    total = flip_rate.decay_sum(learning_rates, latent_decay)
    verdict = flip_rate.verdict(flips, total)
    where = "schedule"
    said = (
        f"{flips:.2%} of the weights would flip per step and the sum of lr * decay is {total:.2g} "
        f"over {len(learning_rates)} steps"
    )
    if verdict == "starved":
        # Both must be mended: the rate at the balance, and whether the balance is reached at all.
        decay = max(
            flip_rate.decay_for_sum(flip_rate.SETTLED_SUM, learning_rates),
            flip_rate.decay_for_flip_rate(flip_rate.HEALTHY_FROM, learning_rates, momentum),
        )
        fix = f"Raise latent_decay from {latent_decay:.3g} to about {decay:.2g}, or train longer."
        return [Finding("starved-of-flips", where, f"{said}: the signs hardly move", fix)]
    if verdict == "too many":
        decay = flip_rate.decay_for_flip_rate(flip_rate.HEALTHY_TO, learning_rates, momentum)
        fix = f"Lower latent_decay from {latent_decay:.3g} to about {decay:.2g}."
        return [Finding("too-many-flips", where, f"{said}: the signs do not settle", fix)]
    return []


def _swinging(learning_rate: float, decay: float, momentum: float) -> Iterator[Finding]:
    swing = flip_rate.overshoot(learning_rate, decay, momentum)
    if swing > flip_rate.MOST_OVERSHOOT:
        most = (1 - math.sqrt(momentum)) ** 2 / learning_rate
        yield Finding(
            "decay-swings-weights",
            "schedule",
            f"momentum and a latent_decay of {decay:.3g} at a rate of {learning_rate:.3g} swing "
            f"weights {swing:.0%} beyond zero, which changes all signs of a layer at once",
            "Decouple the decay: MobiusSGD(decoupled=True), in a recipe --set decay=decoupled. Or "
            f"lower latent_decay to {most:.2g}, and train longer.",
        )


def _slow_thresholds(optimizer: Any, learning_rates: Sequence[float]) -> Iterator[Finding]:
    if not isinstance(optimizer, tf.keras.optimizers.Adam):
        return
    reach = getattr(optimizer, "threshold_rate", 1.0) * sum(learning_rates)
    if reach < LEAST_REACH:
        yield Finding(
            "slow-thresholds",
            "schedule",
            "Adam hardly moves a number by more than its rate in a step: in these "
            f"{len(learning_rates)} steps the shifts of batch normalization, which are the "
            f"thresholds of binary activations, come about {reach:.2g} standard deviations far",
            "Let them learn faster: GroupedAdam(threshold_rate=10), in a recipe --set "
            "threshold_rate=10.",
        )


def examine_epoch(
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    *,
    predicted: float | None = None,
    measured: float | None = None,
    latent_decay: float | None = None,
    steps: int | None = None,
) -> list[Finding]:
    """What the bits before and after an epoch say.

    # Arguments
        before, after: `binary_weights(model)` at both times.
        predicted, measured: shares of weights that flip per step, of the law and of the run.
        latent_decay: of the run, to say which one would give the prediction.
        steps: of the epoch; layers and filters in which so few steps of a healthy run would flip
            less than a few signs are not reproached with having none.

    # Returns
        Findings on layers whose filters do not move, and on a run far from its prediction.
    """
    findings = []
    share = math.inf if steps is None else steps * flip_rate.HEALTHY_FROM
    for path, bits in before.items():
        changed = (bits != after[path]).reshape(-1, bits.shape[-1]).any(axis=0)
        if not changed.any() and share * bits.size >= A_FEW:
            findings.append(
                Finding(
                    "never-flips",
                    path,
                    f"not one of its {bits.size} signs changed in an epoch",
                    "Is the layer trainable and in the optimizer? Else raise latent_decay, or the "
                    "flip_rate of a GeodesicSGD.",
                )
            )
        elif np.mean(~changed) > OUTSIDE and share * bits.size / len(changed) >= A_FEW:
            findings.append(
                Finding(
                    "filters-never-flip",
                    path,
                    f"{int(np.sum(~changed))} of its {len(changed)} filters kept every sign",
                    "Raise latent_decay: the flip-rate law says how far (hbnn_larq.flip_rate); of "
                    "a GeodesicSGD, its flip_rate.",
                )
            )
    if predicted and measured is not None and not predicted / 3 <= measured <= predicted * 3:
        fix = (
            "Early epochs may differ; later on look for clipped gradients, another decay than the "
            "recipe's, or layers that are not trained."
        )
        if latent_decay and measured:
            decay = latent_decay * (predicted / measured) ** 2  # flips go with its root
            fix += (
                f" By the law a latent_decay of about {decay:.2g} instead of {latent_decay:.3g} "
                "would make up for it."
            )
        findings.append(
            Finding(
                "flips-off-the-law",
                "training",
                f"{measured:.2%} of the weights flipped per step, {predicted:.2%} were predicted",
                fix,
            )
        )
    return findings


def to_json(findings: Sequence[Finding]) -> str:
    """The findings as a JSON object with `ok`."""
    content = {"ok": not findings, "findings": [asdict(finding) for finding in findings]}
    return json.dumps(content, indent=2)


# --- checks on the surroundings -----------------------------------------------------------------


def _versions() -> Iterator[Finding]:
    for package, wanted in VERSIONS.items():
        try:
            found = version(package)
        except PackageNotFoundError:
            continue  # TensorFlow comes under several names, and LCE is optional
        if not found.startswith(f"{wanted}."):
            yield Finding(
                "version",
                package,
                f"version {found} is installed; this project is tested with {wanted}",
                f'pip install "{package}~={wanted}.0"',
            )


# --- checks on layers among each other ----------------------------------------------------------


def _shared_state(layers: list[tuple[str, Layer]]) -> Iterator[Finding]:
    owners: dict[int, list[str]] = {}
    quantizers: dict[int, Any] = {}
    for path, layer in layers:
        for quantizer in rebuilding.quantizers_of(layer):
            if quantizer.weights:
                owners.setdefault(id(quantizer), []).append(path)
                quantizers[id(quantizer)] = quantizer
    for key, paths in owners.items():
        if len(paths) > 1:
            yield Finding(
                "shared-quantizer",
                " and ".join(paths),
                f"one {type(quantizers[key]).__name__} with weights of its own serves them all",
                "Make a new quantizer for each layer, or pass its alias as a string.",
            )


def _twin_kernels(layers: list[tuple[str, Layer]]) -> Iterator[Finding]:
    kernels = [
        (path, rebuilding.latent_value(variable))
        for path, layer in layers
        for _, variable in rebuilding.quantized_kernels(layer)
    ]
    for (one, a), (other, b) in combinations(kernels, 2):
        if a.size >= WORD and a.shape == b.shape and np.array_equal(a, b) and np.ptp(a) > 0:
            yield Finding(
                "equal-kernels",
                f"{one} and {other}",
                "hold the very same latent weights; one initializer object was given to both",
                "A Keras initializer object draws the same numbers each time: make one per layer.",
            )


# --- checks on one layer ------------------------------------------------------------------------


def _not_finite(path: str, layer: Layer) -> Iterator[Finding]:
    own = [*layer._trainable_weights, *layer._non_trainable_weights]
    own += [w for quantizer in rebuilding.quantizers_of(layer) for w in quantizer.weights]
    for weight in own:
        if weight.dtype.is_floating and not np.all(np.isfinite(_float32(weight))):
            yield Finding(
                "not-finite",
                path,
                f"{weight.name} holds NaN or infinity",
                "Restore an earlier checkpoint and lower the learning rate; "
                "hbnn_larq.callbacks.StopOnNaN stops at the first one.",
            )


def _wrong_slot(path: str, layer: Layer) -> Iterator[Finding]:
    kernel_types = (lq.quantizers.DoReFa, lq.quantizers.SteHeaviside)
    for argument, variable in rebuilding.quantized_kernels(layer):
        quantizer = variable.quantizer
        is_dorefa = isinstance(quantizer, lq.quantizers.DoReFa)
        if isinstance(quantizer, kernel_types) and not (is_dorefa and quantizer.mode == "weights"):
            yield Finding(
                "wrong-slot",
                path,
                f"{argument}={type(quantizer).__name__} gives 0 and positive values only: it is "
                "made for activations",
                'Use "hyperbolic" or "ste_sign" for kernels (DoReFa has mode="weights").',
            )
    quantizer = getattr(layer, "input_quantizer", None)
    if isinstance(quantizer, lq.quantizers.MagnitudeAwareSign) or (
        isinstance(quantizer, lq.quantizers.DoReFa) and quantizer.mode == "weights"
    ):
        yield Finding(
            "wrong-slot",
            path,
            f"input_quantizer={type(quantizer).__name__} scales by statistics of a kernel",
            'Use "approx_sign" or "ste_sign" for inputs.',
        )


def _deployment(path: str, layer: Layer) -> Iterator[Finding]:
    if any(_not_finite(path, layer)) or any(_wrong_slot(path, layer)):
        return  # what follows from that is not said again
    for argument, variable in rebuilding.quantized_kernels(layer):
        if not rebuilding.is_binary_by_intent(layer, argument):
            continue
        channels = int(variable.shape[-2]) if variable.shape.rank > 1 else 1
        found = obstacle(layer, argument)
        if found is not None and found.code == "zero-scale":
            yield Finding(found.code, path, found.reason, _sentence(found.fix))
        elif found is not None and found.mended_by is None:
            refused = found.code == "groups" and channels % WORD == 0
            outcome = "convert refuses it" if refused else "it will run in float"
            yield Finding(found.code, path, f"{found.reason}: {outcome}", _sentence(found.fix))
        elif channels > WORD and -channels % WORD >= channels / 4:
            words = -(-channels // WORD)
            yield Finding(
                "channels",
                path,
                f"{channels} input channels are packed as {words * WORD}: "
                f"{-channels % WORD} of them are padding",
                f"Use {words * WORD} channels for the same cost, or {(words - 1) * WORD} for less.",
            )


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _padding(path: str, layer: Layer) -> Iterator[Finding]:
    pad = getattr(layer, "pad_values", None)
    if (
        isinstance(layer, lq.layers.QuantConv2D)
        and layer.input_quantizer is not None
        and layer.padding == "same"
        and max(layer.kernel_size) > 1
        and not tf.is_tensor(pad)
        and pad == 0
    ):
        message = "pads ±1 activations with 0, so the layer before cannot hand bits on in LCE"
        if has_one_input_shape(layer):
            size = layer.input_shape[1:3]
            if outgrows(layer.kernel_size, layer.dilation_rate, size):
                message += (
                    f", and LCE sums them wrong around an image of {size[0]}x{size[1]}, smaller "
                    "than the kernel: convert takes an addition to put that right"
                )
        yield Finding("pad-values", path, message, "Set pad_values=1.0.")


def _fighting_constraint(path: str, layer: Layer) -> Iterator[Finding]:
    for argument, variable in rebuilding.quantized_kernels(layer):
        constraint = getattr(layer, argument.replace("quantizer", "constraint"), None)
        if constraint is not None and isinstance(variable.quantizer, BallQuantizer):
            yield Finding(
                "constraint",
                path,
                f"{type(constraint).__name__} holds the latent weights where the map needs none: "
                "its gradient is never clipped",
                f"Leave out {argument.replace('quantizer', 'constraint')}.",
            )


def _regularizer(path: str, layer: Layer) -> Iterator[Finding]:
    for argument, _ in rebuilding.quantized_kernels(layer):
        if getattr(layer, argument.replace("quantizer", "regularizer"), None) is not None:
            yield Finding(
                "regularizer",
                path,
                "a regularizer pulls on its latent weights beside the optimizer's decay, and sets "
                "the flip rate unseen",
                "Leave it out and set latent_decay of MobiusSGD.",
            )


def _missing_batch_norm(path: str, layer: Layer) -> Iterator[Finding]:
    if not any(rebuilding.quantized_kernels(layer)):
        return
    if getattr(layer, "input_quantizer", None) is None:
        return
    for behind in _signs_behind(layer):
        yield Finding(
            "no-batch-norm",
            path,
            f"its sums reach the sign of {behind!r} without a batch normalization; they are whole "
            "numbers far outside the window in which a sign passes gradients",
            "Put BatchNormalization behind it.",
        )


def _signs_behind(layer: Layer) -> Iterator[str]:
    """Names of layers whose sign sees this layer's output through nothing but passing layers."""
    passes = type(layer) in _PASS
    if not passes and getattr(layer, "activation", None) not in _NO_ACTIVATION:
        return
    for node in layer.outbound_nodes:
        behind = node.outbound_layer
        if getattr(behind, "input_quantizer", None) is not None:
            yield behind.name
        elif type(behind) in _PASS:
            yield from _signs_behind(behind)


def _dead_input(path: str, layer: Layer) -> Iterator[Finding]:
    if getattr(layer, "input_quantizer", None) is None:
        return
    for node in layer.inbound_nodes:
        before = node.inbound_layers
        if isinstance(before, (list, tuple)):
            continue
        name = getattr(getattr(before, "activation", None), "__name__", "")
        rectifies = type(before) is tf.keras.layers.ReLU or name in ("relu", "sigmoid", "softmax")
        if rectifies and not getattr(before, "negative_slope", 0.0):
            # Some signs are not those of what they see: they take the mean of an image off.
            positive = np.random.default_rng(0).random([n or 4 for n in node.input_shapes])
            if np.any(_through(layer.input_quantizer, positive.astype(np.float32))[0] <= 0):
                continue
            yield Finding(
                "sign-of-positive",
                path,
                f"its input comes from {before.name!r}, which is never negative: every sign is +1",
                "Remove the rectifier; a sign is the activation.",
            )
        elif isinstance(before, tf.keras.layers.InputLayer):
            yield Finding(
                "sign-of-input",
                path,
                "it takes the sign of the network's input, which throws most of an image away",
                "Make the first layer a float one, as every binary network of the literature.",
            )


def _starved_latents(path: str, layer: Layer) -> Iterator[Finding]:
    for _, variable in rebuilding.quantized_kernels(layer):
        quantizer = variable.quantizer
        clips = (
            isinstance(quantizer, lq.quantizers.ApproxSign)
            or getattr(quantizer, "clip_value", None) is not None
            or getattr(quantizer, "clips_gradient", False)
        )
        if not clips:  # others have no window, or one that is to close late in training
            continue
        _, gradients = _through(quantizer, rebuilding.latent_value(variable))
        outside = float(np.mean(gradients == 0))
        if outside > OUTSIDE:
            yield Finding(
                "starved-latents",
                path,
                f"{outside:.0%} of its latent weights lie so far out that {_name(quantizer)} "
                "passes no gradient",
                'Set kernel_constraint="weight_clip", or use "hyperbolic", which never clips.',
            )


def _one_sided_kernel(path: str, layer: Layer) -> Iterator[Finding]:
    for argument, variable in rebuilding.quantized_kernels(layer):
        if not rebuilding.is_binary_by_intent(layer, argument):
            continue
        value = rebuilding.quantized_value(variable)
        if value.size >= WORD and (np.all(value > 0) or np.all(value < 0)):
            yield Finding(
                "one-sided-kernel",
                path,
                f"all its {value.size} binary weights are {'+1' if value.flat[0] > 0 else '-1'}",
                "Its latent weights never crossed zero: look at initializer, constraint and decay.",
            )


def _saturated(path: str, layer: Layer) -> Iterator[Finding]:
    for _, variable in rebuilding.quantized_kernels(layer):
        quantizer = variable.quantizer
        if not isinstance(quantizer, BallQuantizer) or not hasattr(quantizer, "r"):
            continue
        if type(quantizer).__name__ == "HyperbolicBoundary":
            continue  # lives at the edge by design
        latent = rebuilding.latent_value(variable).astype(np.float64)
        axis = tuple(quantizer._axis)
        norm = math.sqrt(quantizer.r) * np.sqrt(np.sum(latent**2, axis=axis))
        share = float(np.mean(norm > SATURATED))
        if share > OUTSIDE:
            yield Finding(
                "saturated",
                path,
                f"sqrt(r)|w| is {float(np.median(norm)):.1f}: tanh is 1 to float precision, so the "
                "map passes only directions on and r has no effect",
                f'Lower r ({quantizer.r:g}), or use granularity="filter".',
            )


def _float64(path: str, layer: Layer) -> Iterator[Finding]:
    if layer.dtype_policy.name == "float64" and any(rebuilding.quantized_kernels(layer)):
        yield Finding(
            "float64",
            path,
            "computes in float64, for which TensorFlow Lite has no kernels",
            "Build it in float32.",
        )


def _batch_norm_scale(path: str, layer: Layer) -> Iterator[Finding]:
    if not isinstance(layer, tf.keras.layers.BatchNormalization) or layer.gamma is None:
        return
    # Exactly 0: some recipes start gamma at 1e-8 on purpose, and it grows from there.
    dead = float(np.mean(layer.gamma.numpy() == 0))
    if dead > OUTSIDE:
        yield Finding(
            "dead-batch-norm",
            path,
            f"{dead:.0%} of its scales are 0: those channels carry nothing",
            "Do not decay batch norms, or initialize gamma at 1.",
        )


_LAYER_CHECKS = (
    _not_finite,
    _wrong_slot,
    _deployment,
    _padding,
    _fighting_constraint,
    _regularizer,
    _missing_batch_norm,
    _dead_input,
    _starved_latents,
    _one_sided_kernel,
    _saturated,
    _float64,
    _batch_norm_scale,
)


# --- checks on base points, optimizer, activations ----------------------------------------------


def _base_points(model: tf.keras.Model) -> Iterator[Finding]:
    shares = base_point_shares(model)
    flips = base_point_flips(model) if any(shares.values()) else {}  # at 0: not trained yet
    if flips and max(flips.values()) < IDLE:
        yield Finding(
            "idle-base-points",
            "training",
            f"base points change at most {max(flips.values()):.2%} of the signs of a layer: so far "
            "these are plain signs, at the price of a map",
            'Beside Adam, move them by MobiusSGD(step="toward", base_point_rate=5, others=...), in '
            "a recipe --set base_point_step=toward --set base_point_rate=5; or take ste_sign.",
        )
    for name, share in shares.items():
        if share > EDGE:
            yield Finding(
                "edge",
                name,
                f"its base point reaches {share:.1%} of the ball's radius, where its steps freeze",
                "Raise base_point_decay or lower the learning rate.",
            )


def _decay(layers: list[tuple[str, Layer]], optimizer: Any) -> Iterator[Finding]:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not hasattr(inner, "decay_of"):
        return
    for path, layer in layers:
        for _, variable in rebuilding.quantized_kernels(layer):
            points = getattr(variable.quantizer, "base_points", [])
            if inner.decay_of(variable) and any(not inner.decay_of(point) for point in points):
                yield Finding(
                    "undecayed-base-points",
                    path,
                    f"its latent weights decay by {inner.decay_of(variable):g} and its base points "
                    "do not: they outgrow the latents and freeze the signs",
                    "Leave base_point_decay at None, which means the same as latent_decay.",
                )


def _standing_schedules(model: tf.keras.Model, optimizer: Any) -> Iterator[Finding]:
    steps = int(_value(getattr(optimizer, "iterations", 0)))
    standing = [
        q for q in scheduled_quantizers(model) if not q.is_frozen and float(_value(q.progress)) == 0
    ]
    if steps and standing:
        kinds = ", ".join(sorted({type(quantizer).__name__ for quantizer in standing}))
        yield Finding(
            "standing-schedule",
            "training",
            f"after {steps:,} steps the schedules of {len(standing)} quantizers ({kinds}) still "
            "stand at their start",
            "Give model.fit callbacks=[hbnn_larq.rivals.TrainingProgress(epochs)]; within the "
            "first epoch all is well.",
        )


def _asked_flips(optimizer: GeodesicSGD, steps: int | None) -> Iterator[Finding]:
    """Flips are set here, not a consequence of rate and decay: only the number can be wrong."""
    asked = optimizer._learning_rate
    if isinstance(asked, tf.keras.optimizers.schedules.LearningRateSchedule):
        # Of unknown length: near and far, so that a warm-up does not hide the rest.
        near_and_far = np.geomspace(1, 1e7, 128) - 1
        looked = near_and_far if steps is None else np.linspace(0, steps - 1, 64)
        highest = max(float(asked(step)) for step in looked.astype(int))
    else:
        highest = float(_value(asked))
    highest = round(highest, 6)  # 5 % in float32 is a little more
    if ASKED_FROM <= highest <= ASKED_TO:
        return
    few = highest < ASKED_FROM
    yield Finding(
        "starved-of-flips" if few else "too-many-flips",
        "optimizer",
        f"GeodesicSGD asks for {highest:.2%} of the weights to flip per step at most: the signs "
        + ("hardly move" if few else "do not settle"),
        f"Set flip_rate between {ASKED_FROM:.1%} and {ASKED_TO:.0%}, falling to 0.",
    )


def _activations(
    model: tf.keras.Model, layers: list[tuple[str, Layer]], images: Any
) -> list[Finding]:
    """Runs the images through the model and looks at what each sign sees."""
    found: list[Finding] = []
    watched = [(p, la) for p, la in layers if getattr(la, "input_quantizer", None) is not None]
    for path, layer in watched:

        def call(
            inputs: Any,
            *args: Any,
            _path: str = path,
            _sign: Any = layer.input_quantizer,
            _call: Any = layer.call,
            **kw: Any,
        ):
            if hasattr(inputs, "numpy"):
                found.extend(_seen(_path, _sign, np.asarray(inputs.numpy(), np.float32)))
            return _call(inputs, *args, **kw)

        layer.call = call
    try:
        model(images, training=False)
    finally:
        for _, layer in watched:
            del layer.call
    return found


def _seen(path: str, sign: Any, x: np.ndarray) -> Iterator[Finding]:
    if not np.all(np.isfinite(x)):
        yield Finding(
            "not-finite", path, "its input holds NaN or infinity", "Look at the layers before it."
        )
        return
    signs, gradients = _through(sign, x)
    positive = float(np.mean(signs > 0))
    if getattr(sign, "precision", 1) == 1 and not 1 - ONE_SIDED < positive < ONE_SIDED:
        yield Finding(
            "one-sided-inputs",
            path,
            f"{positive:.1%} of its input signs are +1: they say nothing",
            "Put BatchNormalization before it, and no rectifier.",
        )
    outside = float(np.mean(gradients == 0))
    if outside > ONE_SIDED:
        yield Finding(
            "saturated-inputs",
            path,
            f"{outside:.1%} of its inputs lie so far out that {_name(sign)} passes no gradient",
            "Put BatchNormalization before it.",
        )


def _through(quantizer: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a quantizer makes of x in training, and what it lets through of a random gradient."""
    latent = tf.constant(x)
    settings = {"training": True} if isinstance(quantizer, LayerQuantizer) else {}
    with tf.GradientTape() as tape:
        tape.watch(latent)
        found = quantizer(latent, **settings)
    arriving = tf.cast(np.random.default_rng(0).normal(size=x.shape), found.dtype)
    gradient = tape.gradient(found, latent, arriving, unconnected_gradients="zero")
    return found.numpy(), gradient.numpy()


def _name(quantizer: Any) -> str:
    return getattr(quantizer, "__name__", type(quantizer).__name__)


def _value(number: Any) -> tf.Tensor:
    """Of a number or a variable; one that a strategy has made Python cannot read itself."""
    return tf.convert_to_tensor(number)


def _float32(weight: tf.Variable) -> np.ndarray:
    return np.asarray(tf.convert_to_tensor(weight)).astype(np.float32)
