"""A recipe: everything that decides a training run, in one frozen record.

A recipe is looked up by name, changed only through `changed` (which knows every field), printed
and saved before the first step. What a paper claims (`paper_top1`) and what we measured never
share a field: measured figures live in `results.json` only.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from hbnn_larq import flip_rate
from hbnn_larq.training.saved_json import WAY_OUT, read_object

__all__ = ["CLAIMS", "FlipForecast", "Recipe", "keep_decay_sum"]

# Of float32, in which nets are trained: a rate below would be 0 there, one above infinite.
_SMALLEST, _LARGEST = 2.0**-126, (2 - 2.0**-23) * 2.0**127
# The rate of every step is held in memory, and forecast as a list: 32 bytes each.
_MOST_STEPS = 10_000_000
CLAIMS = ("paper_top1", "paper_top5")  # of the source, for a recipe as it is
# Changing these does not make it another experiment.
_NEUTRAL = ("seed",)
# Changing these changes how many steps there are or how large each is.
_SCHEDULE_FIELDS = (
    "epochs", "batch_size", "learning_rate", "schedule", "warmup_epochs", "optimizer", "dataset",
    "hold_out",
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Model, data, optimizer and schedule of one training run.

    # Attributes
        name: under which `hbnn train NAME` finds it.
        source: where its settings come from.
        dataset: name of a data set of `hbnn_larq.training.data`.
        hold_out: training images moved to validation, for data without a validation split.
        image_size: side in pixels of "imagenet" and "pictures"; None for their default.
        normalization: "dataset" for the mean and deviation of the data set itself, "imagenet" for
            the ImageNet constants, which several CIFAR-10 code bases use.
        model: "vgg_small", "resnet18", "resnet20", "resnet34", "bireal_net18" or "bireal_net34".
        width: multiplies the channels of the model.
        stem: of a ResNet, "cifar" or "imagenet"; None lets the size of the images decide.
        shortcut: of a ResNet, as its zoo function names it; None for the zoo's default.
        kernel_quantizer: "hyperbolic", "hyperbolic_boundary", "epc", the alias of a rival ("irnet",
            see `hbnn_larq.rivals`) or of Larq, a host with a map in front ("irnet+hyperbolic"), or
            None for real weights.
        input_quantizer: Larq alias, or None for real activations.
        r: curvature strength of a hyperbolic quantizer; ignored by others.
        layer_r: an r for each binary layer, in the model's order, such as "0.05,0.1,1"; None for
            `r` in all of them.
        granularity: "filter" or "layer", of a hyperbolic quantizer.
        epc_size: base points in a chain of "epc".
        epochs, batch_size: passes over the training split, and images per step.
        stop_epoch: ends the run early, after this many epochs of an unchanged schedule; None for
            all of them.
        learning_rate, schedule, warmup_epochs: highest rate; "cosine", "linear" or "constant"
            after a linear warm-up.
        optimizer: "sgd" or "adam", for everything but base points and what `flip_rate` turns.
        momentum: of SGD, beta_1 of Adam, and of what `flip_rate` turns.
        weight_decay: decay of real kernels (of everything real with `decay_all`).
        latent_decay: such a decay of the latents of binary kernels; it sets the flip rate.
        decay: "coupled", as an L2 term in the gradient, or "decoupled", which keeps momentum from
            swinging the weights of short runs through zero (see `MobiusSGD`); Adam's always is.
        threshold_rate: times the learning rate, the rate of biases and of the scales and shifts of
            batch normalisation, the thresholds of binary activations.
        convolution_rate: the same for kernels of real convolutions (first layer, shortcuts).
        base_point_rate: the same for base points.
        flip_rate: highest share of the binary weights asked to flip per step, scheduled like the
            learning rate: `GeodesicSGD` then turns the latents, and learning rate and
            `latent_decay` have no say in them. None leaves them to `optimizer`.
        flip_granularity: "filter" or "layer", of `GeodesicSGD`.
        flip_direction: "momentum", "sign" or "adaptive", of `GeodesicSGD`.
        flip_memory: share of the weights that may flip while its momentum remembers; None, unlike
            the default of `GeodesicSGD`, for `momentum` however many flip.
        base_point_decay: coupled decay of base points; None for the same as `latent_decay`.
        decay_all: also decay biases and the scales and shifts of batch normalisation.
        base_point_start: how far from the centre base points start, as a share of the radius.
        base_point_step: "exp0", "literal", "riemannian", "euclidean" or "toward", the rule that
            moves base points.
        clock: "epoch" or "step", at which the schedules of rivals move on (see `rivals`); as
            published it is the epoch, mostly, but in a few epochs they never come near their end.
        label_smoothing: share of each target spread over all classes, in [0, 1).
        precision: Keras policy, "float32", "mixed_float16" or "mixed_bfloat16".
        seed: of initial weights, order and augmentation.
        paper_top1, paper_top5: accuracy that the source claims, percent; None where it claims
            nothing for these very settings.
    """

    name: str
    source: str
    dataset: str
    model: str
    hold_out: int = 0
    image_size: int | None = None
    normalization: str = "dataset"
    width: float = 1.0
    stem: str | None = None
    shortcut: str | None = None
    kernel_quantizer: str | None = "hyperbolic"
    input_quantizer: str | None = "approx_sign"
    r: float = 0.05
    layer_r: str | None = None
    granularity: str = "filter"
    epc_size: int = 2
    epochs: int = 1
    stop_epoch: int | None = None
    batch_size: int = 32
    learning_rate: float = 0.1
    schedule: str = "cosine"
    warmup_epochs: int = 0
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    latent_decay: float = 5e-4
    decay: str = "coupled"
    threshold_rate: float = 1.0
    convolution_rate: float = 1.0
    base_point_rate: float = 1.0
    flip_rate: float | None = None
    flip_granularity: str = "filter"
    flip_direction: str = "momentum"
    flip_memory: float | None = None
    base_point_decay: float | None = None
    decay_all: bool = False
    base_point_start: float = 0.0
    base_point_step: str = "exp0"
    clock: str = "epoch"
    label_smoothing: float = 0.0
    precision: str = "float32"
    seed: int = 0
    paper_top1: float | None = None
    paper_top5: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "epc_size"):
            self._require(name, getattr(self, name) >= 1, "a whole number, 1 or above")
        rates = ("learning_rate", "threshold_rate", "convolution_rate", "base_point_rate")
        for name in (*rates, "width", "r"):
            self._require(
                name,
                _SMALLEST <= getattr(self, name) <= _LARGEST,
                "a finite number above 0, and one that float32 has (1.2e-38 to 3.4e38)",
            )
        self._require(
            "layer_r",
            all(r > 0 and math.isfinite(r) for r in self.layer_radii or ()),
            "none, or finite numbers above 0 with commas between them",
        )
        for name in ("weight_decay", "latent_decay", "base_point_decay"):
            value = getattr(self, name) or 0.0
            self._require(name, value >= 0 and math.isfinite(value), "a number, 0 or above")
        self._require(
            "base_point_decay",
            self.base_point_decay is None or self.base_point_step != "toward",
            'none with base_point_step="toward", which forgets by itself',
        )
        self._require(
            "flip_rate",
            self.flip_rate is None or 0 < self.flip_rate <= 0.5,
            "none, or a share of the weights per step, above 0 and at most 0.5",
        )
        self._require(
            "flip_memory",
            self.flip_memory is None or 0 < self.flip_memory <= 1,
            "none, or a share of the weights, above 0 and at most 1",
        )
        for name in ("momentum", "label_smoothing", "base_point_start"):
            self._require(name, 0 <= getattr(self, name) < 1, "at least 0 and below 1")
        self._require("hold_out", self.hold_out >= 0, "a whole number, 0 or above")
        self._require(
            "image_size", self.image_size is None or self.image_size >= 1, "none, or 1 or above"
        )
        self._require("warmup_epochs", 0 <= self.warmup_epochs < self.epochs, "0 to epochs - 1")
        self._require(
            "stop_epoch",
            self.stop_epoch is None or 1 <= self.stop_epoch <= self.epochs,
            f"none or 1 to epochs ({self.epochs})",
        )
        self._require("seed", 0 <= self.seed < 2**31, "0 to 2147483647")
        for name, choices in CHOICES.items():
            self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")

    def _require(self, field: str, holds: bool, what: str) -> None:
        if not holds:
            raise ValueError(
                f"recipe {self.name}: {field}={getattr(self, field)!r} must be {what}."
            )

    @property
    def layer_radii(self) -> tuple[float, ...] | None:
        """The numbers of `layer_r`; one that cannot be read is NaN."""
        if self.layer_r is None:
            return None
        return tuple(map(_number, re.split(r"[,\s]+", self.layer_r.strip())))

    @property
    def binary_weights(self) -> bool:
        """Whether the recipe trains binary weights at all."""
        return self.kernel_quantizer is not None

    @property
    def swings_weights(self) -> bool:
        """Whether momentum and decay of latents make a spring (`flip_rate.overshoot`)."""
        swing = flip_rate.overshoot(self.learning_rate, self.latent_decay, self.momentum)
        coupled = self.optimizer == "sgd" and self.decay == "coupled" and self.flip_rate is None
        return coupled and swing > flip_rate.MOST_OVERSHOOT

    def changed(self, **changes: Any) -> Recipe:
        """The recipe with some fields changed; a claim of its source does not survive that.

        An `r` is meant for all layers, so it takes the place of `layer_r` that is not given too.

        # Arguments
            **changes: fields and values; text is read as the field's type, so `r="0.5"`,
                `epochs="20"` and `kernel_quantizer="none"` work.

        # Returns
            A new recipe. `paper_top1` and `paper_top5` are None unless only the seed changed.

        # Raises
            ValueError: for an unknown field, with the closest ones, a value that does not fit, or
                a claim, which can only be dropped.
        """
        values = {name: _read(self.name, name, value) for name, value in changes.items()}
        differing = {k: v for k, v in values.items() if v != getattr(self, k)}
        for name in CLAIMS:
            if differing.get(name) is not None:
                raise ValueError(
                    f"recipe {self.name}: {name}={differing[name]}: a claim of the source is kept "
                    "or dropped (none), and never set. Leave it out."
                )
        if any(name not in _NEUTRAL and name not in CLAIMS for name in differing):
            values = {**dict.fromkeys(CLAIMS), **values}
        if "r" in values:
            values = {"layer_r": None, **values}
        return replace(self, **values)

    def differences(self, other: Recipe) -> dict[str, tuple[Any, Any]]:
        """Fields that differ, `{field: (mine, the other's)}`."""
        mine, others = asdict(self), asdict(other)
        return {name: (mine[name], others[name]) for name in mine if mine[name] != others[name]}

    def to_json(self) -> str:
        """The recipe as JSON text."""
        return json.dumps(asdict(self), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """The recipe of a JSON text that `to_json` wrote.

        # Raises
            ValueError: for text that is not JSON, lacks a field or holds an unknown one.
        """
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not a recipe: the text is no JSON ({error}).") from None
        return cls._of(values)

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """The recipe in a file.

        # Raises
            ValueError: for a file that holds none, naming it and the way out.
        """
        return cls.of_file(path, read_object(path))

    @classmethod
    def of_file(cls, path: Path, values: Any) -> Recipe:
        """The recipe of these values, which are from a file that errors shall name."""
        try:
            return cls._of(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error} {WAY_OUT}") from None

    @classmethod
    def _of(cls, values: Any) -> Recipe:
        name = values.get("name", "?") if isinstance(values, dict) else "?"
        if not isinstance(values, dict) or {"name", "source", "dataset", "model"} - set(values):
            raise ValueError("not a recipe: name, source, dataset and model must be given.")
        return cls(**{key: _read(name, key, value) for key, value in values.items()})

    def learning_rates(self, training_images: int) -> Any:
        """The rate of every step on a training split of this many images, float64 array."""
        return self.schedule_for(training_images).values()

    def law_rates(self, training_images: int) -> Any:
        """The rate of every step as the flip-rate law counts it, float64 array.

        Heavy-ball momentum adds up steps to 1 / (1 - momentum) times the rate; Adam averages
        gradients, so its steps are worth the share (1 - momentum) of such a rate.
        """
        rates = self.learning_rates(training_images)
        return rates if self.optimizer == "sgd" else rates * (1 - self.momentum)

    def schedule_for(self, training_images: int, peak: float | None = None) -> Any:
        """The `Schedule` for a training split of this many images.

        # Arguments
            training_images: size of the training split, without what is held out.
            peak: highest value; None for the learning rate.

        # Raises
            ValueError: where no image is left to train on, or there are more steps than a schedule
                may have.
        """
        from hbnn_larq.training.schedules import Schedule

        if training_images < 1:
            raise ValueError(
                f"recipe {self.name}: hold_out={self.hold_out} leaves none of "
                f"{training_images + self.hold_out:,} training images to train on; hold out fewer."
            )
        steps = math.ceil(training_images / self.batch_size)
        if self.epochs * steps > _MOST_STEPS:
            raise ValueError(
                f"recipe {self.name}: epochs={self.epochs} of {steps:,} steps are "
                f"{self.epochs * steps:,} steps; a schedule has at most {_MOST_STEPS:,}. Give "
                "fewer epochs, or larger batches (batch_size)."
            )
        return Schedule(
            self.learning_rate if peak is None else peak,
            self.epochs * steps,
            warmup_steps=self.warmup_epochs * steps,
            shape=self.schedule,
        )

    def flips_expected(self, training_images: int) -> list[float]:
        """Share of the binary weights expected to flip in each step.

        Asked for outright with `flip_rate`, predicted by the flip-rate law otherwise.
        """
        if self.flip_rate is not None:
            return self.schedule_for(training_images, self.flip_rate).values().tolist()
        return [
            flip_rate.flips_per_step(rate, self.latent_decay, self.momentum)
            for rate in self.law_rates(training_images).tolist()
        ]

    def forecast(self, training_images: int) -> FlipForecast:
        """What is to be expected for a training split of this many images."""
        flips = self.flips_expected(training_images)
        if self.stop_epoch is not None:
            flips = flips[: len(flips) * self.stop_epoch // self.epochs]
        mean, steps = sum(flips) / len(flips), len(flips)
        if self.flip_rate is not None:
            return FlipForecast(steps, mean, None, flip_rate.verdict(mean), self.flip_rate)
        total = flip_rate.decay_sum(
            self.law_rates(training_images)[:steps].tolist(), self.latent_decay
        )
        return FlipForecast(steps, mean, total, flip_rate.verdict(mean, total))


def listed(differences: Mapping[str, tuple[Any, Any]]) -> str:
    """Fields that differ between what a folder holds and what is asked for, for a message."""
    return ", ".join(f"{k} {a!r} there, {b!r} here" for k, (a, b) in differences.items())


@dataclass(frozen=True)
class FlipForecast:
    """How many binary weights of a recipe are expected to flip.

    # Attributes
        steps: training steps.
        flips_per_step: mean share of binary weights that flip per step: asked for by the recipe,
            or predicted by the flip-rate law at the balance.
        decay_sum: sum over training of learning rate (see `Recipe.law_rates`) times latent decay;
            None where flips are asked for.
        verdict: "starved", "few", "healthy", "many" or "too many".
        highest: share that is asked for where the schedule is highest; None where flips are
            predicted.
    """

    steps: int
    flips_per_step: float
    decay_sum: float | None
    verdict: str
    highest: float | None = None

    @property
    def origin(self) -> str:
        """Where the number is from: "asked for" by the recipe, or "predicted" by the law."""
        return "asked for" if self.decay_sum is None else "predicted"

    def __str__(self) -> str:
        flips = f"{100 * self.flips_per_step:.2f} %"
        schedule = advice = ""
        if self.highest is not None:
            highest = f"{100 * self.highest:.2f} %"
            schedule = "" if highest == flips else f", the mean of a schedule from {highest},"
        elif self.decay_sum is not None:
            schedule = f", sum of lr * decay {self.decay_sum:.3g}"
            if self.verdict == "starved" and self.decay_sum < flip_rate.STARVED_SUM:
                more = self.flips_per_step > flip_rate.HEALTHY_TO
                cure = "epochs" if more else "epochs, latent_decay or learning_rate"
                advice = f" (the sum is below {flip_rate.STARVED_SUM}: more {cure})"
        return (
            f"{flips} of the binary weights per step{schedule} over {self.steps:,} steps: "
            f"{self.verdict}{advice}"
        )


CHOICES: Mapping[str, tuple[str, ...]] = {
    "normalization": ("dataset", "imagenet"),
    "model": (
        "vgg_small",
        "resnet18",
        "resnet20",
        "resnet34",
        "bireal_net18",
        "bireal_net34",
    ),
    "granularity": ("filter", "layer"),
    "flip_granularity": ("filter", "layer"),
    "optimizer": ("sgd", "adam"),
    "decay": ("coupled", "decoupled"),
    "schedule": ("cosine", "linear", "constant"),
    "flip_direction": ("momentum", "sign", "adaptive"),
    "base_point_step": ("exp0", "literal", "riemannian", "euclidean", "toward"),
    "clock": ("epoch", "step"),
    "precision": ("float32", "mixed_float16", "mixed_bfloat16"),
}


def keep_decay_sum(
    old: Recipe, new: Recipe, *, old_images: int, new_images: int, decouple: bool = True
) -> tuple[Recipe, str | None]:
    """Rescales the decay of a changed recipe so that its weights still flip often enough.

    The sum over training of learning rate times decay of the latents decides how far a binary net
    gets (see `hbnn_larq.flip_rate`); a shorter run, a larger batch or a lower rate shrinks it. A
    run of very few steps cannot make up for that: more than 2 % of flips per step (or more than
    the old recipe has) are never asked for.

    # Arguments
        old: the recipe before the change.
        new: the recipe after it.
        old_images, new_images: sizes of their training splits.
        decouple: whether a decay may be decoupled that would swing weights through zero.

    # Returns
        `(recipe, notice)`: the recipe with `latent_decay` (and `base_point_decay`, where it is
        set) rescaled and, where it has to be, with `decay="decoupled"`, and one line that says so,
        or that says why it was not; `(new, None)` where nothing had to be done, because no field
        that matters changed, the change sets the decay itself, or no latent weight decays.
    """
    changed = old.differences(new)
    decays = new.binary_weights and new.flip_rate is None and new.latent_decay > 0
    causes = [name for name in (*_SCHEDULE_FIELDS, "momentum") if name in changed]
    if not decays or "latent_decay" in changed or not causes:
        return new, None
    notice = None
    if causes != ["momentum"]:  # which changes no schedule, and only what swings
        new, notice = _rescaled(old, new, old_images, new_images)
    if decouple and new.swings_weights:
        new = new.changed(decay="decoupled")
        said = "decoupled from the gradient, or momentum would swing weights through zero"
        notice = f"{notice}; {said}" if notice else f"{said} ({', '.join(causes)} changed)"
    return new, notice


def _rescaled(
    old: Recipe, new: Recipe, old_images: int, new_images: int
) -> tuple[Recipe, str | None]:
    changed = old.differences(new)
    before, after = old.law_rates(old_images), new.law_rates(new_images)
    factor = float(before.sum() / after.sum())
    if math.isclose(factor, 1.0, rel_tol=1e-9):
        return new, None
    had = min(old.forecast(old_images).flips_per_step, 0.5)
    most = max(flip_rate.TOO_MANY_ABOVE, had)
    ceiling = flip_rate.decay_for_flip_rate(most, after.tolist(), new.momentum)
    total = flip_rate.decay_sum(before.tolist(), old.latent_decay)
    causes = ", ".join(name for name in _SCHEDULE_FIELDS if name in changed)
    aim = f"so that the sum of lr * decay stays {total:.3g}"
    if factor > 1 and new.latent_decay * factor > ceiling:
        factor = max(ceiling / new.latent_decay, 1.0)
        left = flip_rate.decay_sum(after.tolist(), new.latent_decay * factor)
        falls = f"the sum of lr * decay falls from {total:.3g} to {left:.3g}"
        if factor == 1.0:
            return new, (
                f"latent_decay stays {new.latent_decay:.4g}, as more than {most:.1%} of flips per "
                f"step are never asked for: {falls} ({causes} changed)"
            )
        why = "the most before a net forgets" if most > had else "for as many flips as before"
        aim = f"{why}: {falls}, too few steps to keep it"
    scaled: dict[str, Any] = {"latent_decay": new.latent_decay * factor}
    if new.base_point_decay is not None and "base_point_decay" not in changed:
        scaled["base_point_decay"] = new.base_point_decay * factor
    steps = " and ".join(f"{k} {getattr(new, k):.4g} -> {v:.4g}" for k, v in scaled.items())
    kept = "value" if len(scaled) == 1 else "values"
    notice = f"{steps}, {aim} ({causes} changed); --keep-decay keeps the old {kept}"
    return new.changed(**scaled), notice


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _read(recipe: str, field: str, value: Any) -> Any:
    """`value` as the type of a field; text is parsed."""
    hints = typing.get_type_hints(Recipe)
    if field not in {f.name for f in fields(Recipe)}:
        close = difflib.get_close_matches(field, hints, n=3, cutoff=0.4)
        closest = f" Closest: {', '.join(close)}." if close else ""
        raise ValueError(
            f'a recipe has no field "{field}".{closest} All of them: hbnn recipes {recipe}'
        )
    hint = hints[field]
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in options and (value is None or str(value).lower() == "none"):
        return None
    kind = next(option for option in options if option is not type(None))
    if kind is bool:
        if str(value).lower() not in ("true", "false"):
            raise ValueError(f"{field}={value!r}: expected true or false.")
        return str(value).lower() == "true"
    try:
        if isinstance(value, bool) or (kind is str and not isinstance(value, str)):
            raise ValueError
        number = kind(value)
        if kind is int and float(value) != number:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        expected = {int: "a whole number", float: "a number", str: "text"}[kind]
        either = " or none" if type(None) in options else ""
        raise ValueError(f"{field}={value!r}: expected {expected}{either}.") from None
    return number
