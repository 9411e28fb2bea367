"""The study: methods of binarization under equal budgets and equal care, on data that is here.

    python benchmarks/study.py run                  # every run that is still missing, in order
    python benchmarks/study.py run --case digits-vgg-20 --part lead
    python benchmarks/study.py status               # what is done and what is missing
    python benchmarks/study.py report               # docs/study.md and its plots

Results are one JSON line per run in `docs/results/study.jsonl`, appended when the run ends, so the
command can be stopped at any moment and given again; a finished run is never repeated.

Rules. A *case* is a data set, a net and a budget in epochs. Settings are chosen by validation
accuracy, on seeds of their own (100, 101, ...), whose lines hold no test accuracy; a published row
takes that of fresh seeds 0 to 4, after the last epoch. Plain sign is tuned in every case anew over
a grid of learning rate and decay, and in the part `tuned` every method over the same grid;
`geodesic` is one setting for all cases, chosen once, on the validation split of `DEVELOPMENT`. The
*placebo* is plain sign itself, tuned, on other seeds: the distance between two equal methods.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from hbnn_larq import flip_rate
from hbnn_larq.training.recipe import Recipe

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "study.jsonl"
SEEDS = range(5)
CHOOSING = (100, 101, 102)
OF_TEST = ("test", "test_loss")
PLACEBO = range(50, 55)

_NETS = {
    "digits-vgg": Recipe(
        name="digits-vgg", source="study", dataset="digits", model="vgg_small", width=0.125,
        batch_size=32,
    ),
    "textures-vgg": Recipe(
        name="textures-vgg", source="study", dataset="textures", model="vgg_small", width=0.125,
        batch_size=50,
    ),
    "hard-vgg": Recipe(
        name="hard-vgg", source="study", dataset="textures-hard", model="vgg_small", width=0.125,
        batch_size=50,
    ),
    "digits-vgg32": Recipe(
        name="digits-vgg32", source="study", dataset="digits", model="vgg_small", width=0.25,
        batch_size=32,
    ),
    "digits-vgg64": Recipe(
        name="digits-vgg64", source="study", dataset="digits", model="vgg_small", width=0.5,
        batch_size=32,
    ),
    "digits-vggsmall": Recipe(
        name="digits-vggsmall", source="study", dataset="digits", model="vgg_small", batch_size=32,
    ),
    "textures-bireal18": Recipe(
        name="textures-bireal18", source="study", dataset="textures", model="bireal_net18",
        stem="cifar", width=0.125, batch_size=50,
    ),
    "textures-resnet18": Recipe(
        name="textures-resnet18", source="study", dataset="textures", model="resnet18",
        stem="cifar", width=0.125, batch_size=50,
    ),
    "textures-resnet20": Recipe(
        name="textures-resnet20", source="study", dataset="textures", model="resnet20",
        stem="cifar", width=0.5, batch_size=50,
    ),
}  # fmt: skip
IMAGES = {"digits": 1077, "textures": 3000, "textures-hard": 3000}
DEVELOPMENT = ("digits-vgg-20", "textures-vgg-5", "textures-vgg-20")

# Cases whose validation split had a part in the choice of a setting, or was looked at before one.
LOOKED_AT = (*DEVELOPMENT, "digits-vgg-5", "textures-bireal18-5", "textures-resnet18-5")

LEARNING_RATES = (0.01, 0.03, 0.1, 0.3)
DECAY_SUMS = (0.1, 0.3, 1.0, 3.0)
# One more on either side: where the best point of the grid lies at its edge, it grows there.
ALL_RATES = (0.003, *LEARNING_RATES, 1.0)
ALL_SUMS = (0.03, *DECAY_SUMS, 10.0)


def grid_of(
    words: str,
    rates: tuple[float, ...] = LEARNING_RATES,
    sums: tuple[float, ...] = DECAY_SUMS,
) -> tuple[str, ...]:
    """The points at which a method is tuned; rates of Adam are a tenth of those of SGD."""
    return tuple(
        f"{words}:learning_rate={rate if scale(words) == 1 else rate * scale(words):.12}:"
        f"decay_sum={total}"
        for rate, total in itertools.product(rates, sums)
    )


def scale(words: str) -> float:
    """What the learning rates of a method's grid are multiplied by."""
    return 0.1 if "optimizer=adam" in words else 1.0


def point_of(words: str) -> tuple[float, float]:
    """Learning rate and sum of lr * decay of a point of a grid."""
    fields = dict(field.split("=") for field in words.split(":")[1:] if "=" in field)
    return float(fields["learning_rate"]), float(fields["decay_sum"])


PLAIN = "ste_sign"
GRID = grid_of(PLAIN)
# The best mean of validation accuracies over DEVELOPMENT; momentum alone is shown beside it.
GEODESIC = "ste_sign:flip_rate=0.01:flip_direction=adaptive:learning_rate=0.03"
GEODESIC_MOMENTUM = "ste_sign:flip_rate=0.01:learning_rate=0.03"
VARIANTS = (
    GEODESIC,
    GEODESIC_MOMENTUM,
    "ste_sign:flip_rate=0.01",
    "ste_sign:flip_rate=0.003",
    "ste_sign:flip_rate=0.03",
    "ste_sign:flip_rate=0.01:flip_granularity=layer",
    "ste_sign:flip_rate=0.01:flip_direction=sign",
    "ste_sign:flip_rate=0.01:flip_direction=adaptive",
    "ste_sign:flip_rate=0.01:schedule=linear",
    "hyperbolic_boundary:r=1:flip_rate=0.01",
    "approx_sign:flip_rate=0.01",
    "ste_sign:flip_rate=0.003:learning_rate=0.03",
    "ste_sign:flip_rate=0.01:flip_granularity=layer:learning_rate=0.03",
)
# What else could be laid on top of that setting; tried after it was chosen, and chooses nothing.
ON_TOP = (
    f"{GEODESIC}:warmup_epochs=1",
    f"{GEODESIC}:momentum=0.0",
    f"{GEODESIC_MOMENTUM}:momentum=0.0",
    GEODESIC.replace("ste_sign", "hyperbolic:r=0.05"),
    GEODESIC.replace("ste_sign", "hyperbolic_boundary:r=1"),
    GEODESIC.replace("ste_sign", "epc:r=0.05"),
    GEODESIC.replace("ste_sign", "irnet:input_quantizer=ede_sign"),
)
# Adam for all that is not turned; chosen as GEODESIC was, some time later, among these.
GEODESIC_ADAM = "ste_sign:flip_rate=0.01:optimizer=adam:learning_rate=0.003"
ADAM_VARIANTS = tuple(
    f"ste_sign:flip_rate=0.01:{direction}optimizer=adam:learning_rate={rate}"
    for direction in ("flip_direction=adaptive:", "")
    for rate in (0.001, 0.003, 0.01)
) + tuple(f"ste_sign:flip_rate=0.02:optimizer=adam:learning_rate={rate}" for rate in (0.003, 0.01))
PLAIN_ADAM = f"{PLAIN}:optimizer=adam"
# By SGD again, but with decay outside of gradient and momentum, as Adam's is.
PLAIN_DECOUPLED = f"{PLAIN}:decay=decoupled"
# Why tuned Adam is ahead on Bi-Real Net in 300 steps: more flips, or a higher rate for the rest?
MORE = tuple(
    f"ste_sign:flip_rate={flips}:optimizer=adam:learning_rate={rate}"
    for flips in (0.01, 0.02, 0.04)
    for rate in (0.003, 0.01, 0.03)
)
# Thresholds (scales and shifts of normalization) that learn faster than kernels: chosen like
# GEODESIC_ADAM, among these, after a look at the validation split of the two ResNets in 300 steps.
GEODESIC_THRESHOLDS = f"{GEODESIC_ADAM}:threshold_rate=10"
# Two settings made for ResNet18 in 300 steps, by its validation split, outside of this study:
# higher rates for all with less between them, and higher rates for all but the dense layer.
GEODESIC_HIGH = "ste_sign:flip_rate=0.01:optimizer=adam:learning_rate=0.01:threshold_rate=6"
GEODESIC_CONVOLUTIONS = f"{GEODESIC_ADAM}:threshold_rate=20:convolution_rate=3"
# A momentum that remembers a share of flips, not a number of steps; with it more may be asked for.
# Chosen among these: several are equal on DEVELOPMENT, and the validation splits of ResNet18 and
# Bi-Real Net in 300 steps decided.
GEODESIC_MEMORY = (
    "ste_sign:flip_rate=0.02:flip_memory=0.07:optimizer=adam:learning_rate=0.003:threshold_rate=10"
)
MEMORY_VARIANTS = (
    GEODESIC_THRESHOLDS,
    *(
        GEODESIC_MEMORY.replace("=0.02", f"={flips}").replace("=0.07", f"={memory}")
        for flips, memory in (
            (0.01, 0.03),
            (0.01, 0.05),
            (0.02, 0.05),
            (0.02, 0.07),
            (0.02, 0.2),  # 0.9 is kept, as without: flips alone
            (0.03, 0.1),
        )
    ),
)
# Fewer flips a step where steps are many, as tuned Adam has them: its best points keep the sum of
# learning rate times decay, hence half the flips a step in four times the steps. Rates of the rest
# too, with thresholds that stay as fast. Tried after both long cases of `UNSEEN` were known.
BUDGET_VARIANTS = (
    *(GEODESIC_MEMORY.replace("=0.02", f"={flips}") for flips in (0.02, 0.01, 0.014, 0.007)),
    GEODESIC_MEMORY.replace("=0.02", "=0.01").replace("=0.003", "=0.01").replace("=10", "=3"),
)
THRESHOLD_VARIANTS = (
    f"{GEODESIC_ADAM}:threshold_rate=3",
    GEODESIC_THRESHOLDS,
    f"{GEODESIC_ADAM}:threshold_rate=30",
    "ste_sign:flip_rate=0.01:optimizer=adam:learning_rate=0.005:threshold_rate=6",
    "ste_sign:flip_rate=0.01:optimizer=adam:learning_rate=0.01:threshold_rate=3",
    GEODESIC_HIGH,
    f"{GEODESIC_MOMENTUM}:threshold_rate=10",
)
# What is still in the way on ResNet18 in 300 steps: tried afterwards, and chooses nothing.
THRESHOLDS_ON = (
    GEODESIC_THRESHOLDS,
    f"{GEODESIC_THRESHOLDS}:momentum=0.7",
    f"{GEODESIC_THRESHOLDS}:momentum=0.95",
    GEODESIC_HIGH,
)
# The same help for plain sign, tuned with it; Adam's best rates are higher, so its factor is lower.
PLAIN_ADAM_THRESHOLDS = f"{PLAIN_ADAM}:threshold_rate=3"
PLAIN_DECOUPLED_THRESHOLDS = f"{PLAIN_DECOUPLED}:threshold_rate=10"
# Adam's flips follow from its decay; what can be had is a momentum that forgets as soon.
PLAIN_ADAM_MOMENTUM = f"{PLAIN_ADAM_THRESHOLDS}:momentum=0.7"
PLAIN_ADAM_CONVOLUTIONS = f"{PLAIN_ADAM}:threshold_rate=20:convolution_rate=3"


def _has_map(words: str) -> bool:
    return "hyperbolic" in words or "epc" in words


# Rivals come with the activation that was published with them.
METHODS = (
    PLAIN,
    "hyperbolic:r=0.05:granularity=layer",
    "hyperbolic:r=0.05:granularity=filter",
    "hyperbolic:r=1:granularity=layer",
    "hyperbolic_boundary:r=1:granularity=layer",
    "hyperbolic_boundary:r=1:granularity=filter",
    "epc:r=0.05:granularity=layer",
    "xnor:input_quantizer=ste_sign",
    "bireal",
    "xnor_plus_plus:input_quantizer=ste_sign",
    "dorefa:input_quantizer=ste_sign",
    "irnet:input_quantizer=ede_sign",
    "irnet+hyperbolic:input_quantizer=ede_sign",
    "recu:input_quantizer=recu_sign",
    "recu+hyperbolic:input_quantizer=recu_sign",
    "rbnn:input_quantizer=rbnn_sign",
    "md_tanh_s",
    "dsq",
    "fda:input_quantizer=fourier_sign",
    "slb",
)
# Same learning rate and sum of lr * decay for all: plain sign at the same point is among them.
MATCHED = tuple(f"{words}:learning_rate=0.1:decay_sum=1.0" for words in METHODS)
# All methods without a map under the one setting that nobody has to tune: what a quantizer adds.
ASKED = {
    words: GEODESIC_THRESHOLDS.replace(PLAIN, words, 1) for words in METHODS if not _has_map(words)
}
# And the maps, of which this library is made, under the setting that became its default, in which
# base points have a rate at which they do something; each host beside itself behind a map.
_MAPS = (
    "hyperbolic:r=0.05:granularity=layer",
    "hyperbolic:r=0.05",
    "hyperbolic:r=1:granularity=layer",
    "hyperbolic:r=1",
    "hyperbolic_boundary:r=1:granularity=layer",
    "hyperbolic_boundary:r=1",
    "epc:r=0.05:granularity=layer",
    "epc:r=0.05",
    "irnet+hyperbolic:input_quantizer=ede_sign",
    "recu+hyperbolic:input_quantizer=recu_sign",
)
_KEEPING_UP = ":base_point_step=toward:base_point_rate=5"
_HOSTS = ("irnet:input_quantizer=ede_sign", "recu:input_quantizer=recu_sign")


def under_default(*methods: str) -> dict[str, str]:
    """Each method under the default of the library."""
    return {
        words: GEODESIC_MEMORY.replace(PLAIN, words, 1) + (_KEEPING_UP if _has_map(words) else "")
        for words in methods
    }


MAPS = under_default(PLAIN, *_MAPS, *_HOSTS)
# What of the asked flips matters: the default with one thing changed. These choose nothing.
VARIED = {
    PLAIN: GEODESIC_MEMORY,
    **{
        change: f"{GEODESIC_MEMORY}:{change}"
        for change in (
            "schedule=linear",
            "warmup_epochs=1",
            "flip_granularity=layer",
            "flip_direction=adaptive",
            "flip_direction=sign",
        )
    },
    "momentum=0": f"{GEODESIC_MEMORY}:momentum=0".replace(":flip_memory=0.07", ""),
}
# Which half of a rival it is, the kernel or the activation, under the default.
HALVES = under_default(
    PLAIN,
    "ste_sign:input_quantizer=rbnn_sign",
    "rbnn",
    "rbnn:input_quantizer=rbnn_sign",
    "ste_sign:input_quantizer=ede_sign",
    "irnet",
    "irnet:input_quantizer=ede_sign",
)
# A second look at what the maps gained there, on seeds of its own. With the map 1.2 % of the
# weights flip where 1.0 % are asked for, so plain sign is asked for as many as well.
CONFIRMING = range(50, 60)
CONFIRMED = {
    "plain sign": MAPS[PLAIN],
    "2.25 % asked": MAPS[PLAIN].replace("flip_rate=0.02", "flip_rate=0.0225"),
    "map per filter, r 0.05": MAPS["hyperbolic:r=0.05"],
}
# And at what chains of two gained over five cases, most in noise, where 1.34 % flip for 1.06.
CONFIRMED_CHAINS = {
    "plain sign": MAPS[PLAIN],
    "2.55 % asked": MAPS[PLAIN].replace("flip_rate=0.02", "flip_rate=0.0255"),
    "EPC per layer, r 0.05": MAPS["epc:r=0.05:granularity=layer"],
    "EPC per filter, r 0.05": MAPS["epc:r=0.05"],
}
# What the activation gives to the usual optimizer, tuned.
PLAIN_ADAM_ACTIVATION = f"{PLAIN}:input_quantizer=rbnn_sign:optimizer=adam"
CONFIRMED_HALVES = (HALVES[PLAIN], HALVES["ste_sign:input_quantizer=rbnn_sign"])
# What of a base point matters: trained or fixed, decayed, by which rule; where flips are plenty
# and, last, where they are scarce.
_AT, _STARVED = ":learning_rate=0.1:decay_sum=0.3", ":learning_rate=0.03:decay_sum=0.1"
_FIXED, _WIDE = ":base_point_rate=1e-9", "hyperbolic:r=1:granularity=layer"
POINTS = (
    PLAIN + _AT,
    "hyperbolic:r=0.05" + _AT,
    "hyperbolic:r=0.05" + _FIXED + _AT,
    "hyperbolic:r=0.05:base_point_decay=0" + _AT,
    "hyperbolic:r=1" + _AT,
    _WIDE + _AT,
    _WIDE + _FIXED + _AT,
    _WIDE + ":base_point_decay=0" + _AT,
    _WIDE + ":base_point_step=riemannian" + _AT,
    _WIDE + ":base_point_step=literal" + _AT,
    _WIDE + ":base_point_step=euclidean" + _AT,
    "hyperbolic:r=0.05:base_point_step=euclidean" + _AT,
    _WIDE + ":base_point_step=toward:base_point_rate=0.15" + _AT,
    "hyperbolic_boundary:r=0.05" + _AT,
    "hyperbolic_boundary:r=1" + _AT,
    "epc:r=0.05" + _AT,
    "epc:r=1:granularity=layer" + _AT,
    "hyperbolic:r=0.05:base_point_start=0.5" + _AT,
    _WIDE + ":base_point_start=0.5" + _AT,
    "epc:r=1:granularity=layer:epc_size=4" + _AT,
    PLAIN + _STARVED,
    "hyperbolic:r=0.05" + _STARVED,
    _WIDE + _STARVED,
    _WIDE + ":base_point_start=0.5" + _STARVED,
    _WIDE + ":base_point_step=euclidean" + _STARVED,
    "epc:r=0.05" + _STARVED,
    "epc:r=1:granularity=layer" + _STARVED,
    "epc:r=1:granularity=layer:epc_size=4" + _STARVED,
)
# Where base points start and how many there are in a chain, under the default.
STARTS = under_default(
    PLAIN,
    "hyperbolic:r=0.05",
    "hyperbolic:r=0.05:base_point_start=0.3",
    "hyperbolic:r=0.05:base_point_start=0.7",
    "epc:r=0.05",
    "epc:r=0.05:epc_size=3",
    "epc:r=0.05:epc_size=4",
)
# Beside a float teacher, as CMIM has it: the host it was published with, and plain sign; at the
# published weight of the loss and at a tenth.
TEACHER = ":teacher="
_TAUGHT = under_default(PLAIN, "irnet:input_quantizer=ede_sign")
TAUGHT = _TAUGHT | {
    f"{name}{TEACHER}{weight}": f"{words}{TEACHER}{weight}"
    for name, words in _TAUGHT.items()
    for weight in (0.32, 3.2)
}
# What is left of the rivals, and hosts of maps other than the ball's, under the default. Without
# BinaryConnect: behind binary activations it is plain sign with a clip at 1, and asked flips keep
# whole filters about as long as that.
DISTRIBUTED = ":rad="
OTHERS = under_default(
    PLAIN,
    "abc_net",
    "md_tanh",
    "md_softmax_s",
    *_HOSTS,
    *(host.replace(":", "+hyperbolic_boundary:r=1:", 1) for host in _HOSTS),
    *(host.replace(":", "+epc:", 1) for host in _HOSTS),
)
OTHERS[f"{PLAIN}{DISTRIBUTED}2"] = f"{OTHERS[PLAIN]}{DISTRIBUTED}2"
# Weights flip to the end, and averages of batch normalization come after them: what that costs.
AVERAGED = ":averages="
AVERAGES = {
    PLAIN: GEODESIC_MEMORY,
    **{
        f"{PLAIN}{AVERAGED}{momentum}": f"{GEODESIC_MEMORY}{AVERAGED}{momentum}"
        for momentum in ("0.5", "0.97", "0.99", "exact")
    },
}
# Those without a map by Adam, the optimizer of most users, each over a grid of its own.
METHODS_ADAM = {words: f"{words}:optimizer=adam" for words in METHODS if not _has_map(words)}
# And the maps so, with base points moved as under the default: Adam has no rule for points of a
# ball, and at its learning rates the other steps hardly move them.
MAPS_ADAM = {PLAIN: PLAIN_ADAM} | {
    words: f"{words}:optimizer=adam{_KEEPING_UP}"
    for words in (
        "hyperbolic:r=0.05",
        "hyperbolic:r=1:granularity=layer",
        "hyperbolic_boundary:r=1",
        "epc:r=0.05",
    )
}
# Rivals with a schedule, which moves once an epoch as published; in five epochs it then ends early.
SCHEDULED = tuple(
    words
    for words in METHODS_ADAM
    if words.startswith(("irnet", "recu", "rbnn", "md_tanh_s", "fda", "slb"))
)
AT_EACH_STEP = ":clock=step"
# Fields that no recipe has; each comes last.
BEYOND_RECIPES = (TEACHER, DISTRIBUTED, AVERAGED)
FLOAT = "float"
FLOAT_ADAM = "float:optimizer=adam:learning_rate=0.003"


def case_recipe(case: str) -> Recipe:
    """The recipe of a case such as "digits-vgg-20", without a method."""
    net, _, epochs = case.rpartition("-")
    return _NETS[net].changed(name=case, epochs=int(epochs))


def recipe_of(case: str, words: str, seed: int) -> Recipe:
    """The recipe of one run.

    `words` are those of `compare.method`, plus `decay_sum=`, `teacher=`, `rad=` and `averages=`,
    which are none's.
    """
    from hbnn_larq.training.compare import method

    for beyond in BEYOND_RECIPES:
        words = words.partition(beyond)[0]
    fields = words.split(":")
    total = next((float(f.split("=")[1]) for f in fields if f.startswith("decay_sum=")), None)
    plain = ":".join(f for f in fields if not f.startswith("decay_sum="))
    recipe = method(case_recipe(case), plain).changed(seed=seed)
    if total is None:
        return recipe
    rates = recipe.law_rates(IMAGES[recipe.dataset]).tolist()
    return recipe.changed(latent_decay=flip_rate.decay_for_sum(total, rates))


@dataclass(frozen=True)
class Run:
    """One training run of the study."""

    case: str
    method: str
    seed: int

    @property
    def key(self) -> tuple[str, str, int]:
        return self.case, self.method, self.seed


class Results:
    """The lines of the results file, by run."""

    def __init__(self, path: Path = RESULTS):
        self.path = path
        self.lines: dict[tuple[str, str, int], dict[str, Any]] = {}
        if path.exists():
            for text in path.read_text().splitlines():
                line = json.loads(text)
                self.lines[line["case"], line["method"], line["seed"]] = line

    def add(self, run: Run, line: dict[str, Any]) -> None:
        if run.seed in CHOOSING:
            line = {name: value for name, value in line.items() if name not in OF_TEST}
        line = {"case": run.case, "method": run.method, "seed": run.seed, **line}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.lines[run.key] = line

    def values(self, case: str, method: str, seeds: Any, what: str) -> list[float]:
        """One figure of those of the seeds that are done."""
        found = (self.lines.get((case, method, seed), {}).get(what) for seed in seeds)
        return [value for value in found if value is not None]

    def mean(self, case: str, method: str, seeds: Any, what: str = "validation") -> float:
        values = self.values(case, method, seeds, what)
        return sum(values) / len(values) if values else float("nan")

    def grid(self, case: str, method: str = PLAIN) -> tuple[str, ...]:
        """The points of a method: `grid_of`, with a row or column more wherever the best point
        lies at the edge, by the first choosing seed or as chosen, as far as `ALL_RATES` and
        `ALL_SUMS` go."""
        rates: tuple[float, ...] = LEARNING_RATES
        sums: tuple[float, ...] = DECAY_SUMS
        while True:
            grid = grid_of(method, rates, sums)
            if not all((case, words, CHOOSING[0]) in self.lines for words in grid):
                return grid
            first = self.finalists(case, grid)[0]
            before = rates, sums
            for words in {first, self._chosen(case, grid) or first}:
                rate, total = point_of(words)
                rates = _with_neighbours(rates, ALL_RATES, rate / scale(method))
                sums = _with_neighbours(sums, ALL_SUMS, total)
            if (rates, sums) == before:
                return grid

    def best_of_grid(self, case: str, method: str = PLAIN) -> str | None:
        """The best point by validation accuracy; None while the choice is not finished."""
        grid = self.grid(case, method)
        if any((case, words, CHOOSING[0]) not in self.lines for words in grid):
            return None
        return self._chosen(case, grid)

    def _chosen(self, case: str, grid: tuple[str, ...]) -> str | None:
        """The best mean over all choosing seeds, once the finalists have run with these.

        A finalist of the grid before it grew stays a candidate, whatever pushed it out since.
        """
        done = {words: len(self.values(case, words, CHOOSING, "validation")) for words in grid}
        if min(done[words] for words in self.finalists(case, grid)) < len(CHOOSING):
            return None
        seen = [words for words in self._ranked(case, grid) if done[words] == len(CHOOSING)]
        return max(seen, key=lambda words: self.mean(case, words, CHOOSING))

    def finalists(self, case: str, grid: tuple[str, ...]) -> list[str]:
        """The three best points of a grid on the first choosing seed."""
        return self._ranked(case, grid)[:3]

    def _ranked(self, case: str, grid: tuple[str, ...]) -> list[str]:
        return sorted(grid, key=lambda words: -self.mean(case, words, CHOOSING[:1]))


def _with_neighbours(
    tried: tuple[float, ...], every: tuple[float, ...], best: float
) -> tuple[float, ...]:
    place = min(range(len(every)), key=lambda index: abs(every[index] - best))
    return tuple(v for v in every if v in tried or v in every[place - 1 : place + 2])


def choosing(case: str, method: str, results: Results) -> Iterator[Run]:
    """Every point of a grid once, then its three best on two more seeds."""
    grid = results.grid(case, method)
    for words in grid:
        yield Run(case, words, CHOOSING[0])
    if all((case, words, CHOOSING[0]) in results.lines for words in grid):
        for words, seed in itertools.product(results.finalists(case, grid), CHOOSING[1:]):
            yield Run(case, words, seed)


def lead(case: str, results: Results) -> Iterator[Run]:
    """Tuned plain sign against one untuned geodesic setting, in one case."""
    for seed, words in itertools.product(SEEDS, (GEODESIC, GEODESIC_MOMENTUM)):
        yield Run(case, words, seed)
    yield from tuned(case, results, (PLAIN,))


def trying(settings: tuple[str, ...]) -> Callable[[str, Results], Iterator[Run]]:
    """A part that looks at settings by validation accuracy, on choosing seeds."""

    def part(case: str, results: Results) -> Iterator[Run]:
        seeds = CHOOSING[:1] if case == "textures-vgg-20" else CHOOSING[:2]  # by what a run costs
        for seed, words in itertools.product(seeds, settings):
            yield Run(case, words, seed)

    return part


def adam(case: str, results: Results) -> Iterator[Run]:
    """The geodesic setting with Adam for the rest, and plain sign by Adam alone, tuned."""
    for seed in SEEDS:
        yield Run(case, GEODESIC_ADAM, seed)
    yield from tuned(case, results, (PLAIN_ADAM,))


def publishing(
    *settings: str, seeds: Iterable[int] = SEEDS
) -> Callable[[str, Results], Iterator[Run]]:
    """A part that runs settings as they are, on the published seeds unless told otherwise."""

    def part(case: str, results: Results) -> Iterator[Run]:
        for seed, words in itertools.product(seeds, settings):
            yield Run(case, words, seed)

    return part


def tuning(method: str) -> Callable[[str, Results], Iterator[Run]]:
    """A part that runs one method at the best point of its grid."""
    return lambda case, results: tuned(case, results, (method,))


def tuned(case: str, results: Results, methods: tuple[str, ...] = METHODS) -> Iterator[Run]:
    """Every method at the best point of a grid of its own."""
    for method in methods:
        yield from choosing(case, method, results)
        best = results.best_of_grid(case, method)
        if best is not None:
            for seed in SEEDS:
                yield Run(case, best, seed)


def confirm_search(case: str, results: Results) -> Iterator[Run]:
    """The default and plain sign tuned by Adam once more, on seeds of their own."""
    best = results.best_of_grid(case, PLAIN_ADAM)
    if best is not None:
        for seed, words in itertools.product(CONFIRMING, (GEODESIC_MEMORY, best)):
            yield Run(case, words, seed)


def clock(case: str, results: Results) -> Iterator[Run]:
    """Rivals whose schedules move at each step, where they have rows by the epoch already."""
    for words in SCHEDULED:
        for by_epoch in (ASKED[words], results.best_of_grid(case, METHODS_ADAM[words])):
            if by_epoch is not None:
                yield from (Run(case, by_epoch + AT_EACH_STEP, seed) for seed in SEEDS)


def placebo(case: str, results: Results) -> Iterator[Run]:
    """Tuned plain sign once more, on other seeds."""
    best = results.best_of_grid(case)
    if best is not None:
        for seed in PLACEBO:
            yield Run(case, best, seed)


PARTS = {
    "lead": lead,
    "development": trying(VARIANTS),  # which setting of GeodesicSGD
    "on_top": trying(ON_TOP),
    "adam_variants": trying(ADAM_VARIANTS),  # which learning rate of Adam
    "more": trying(MORE),
    "adam": adam,
    "decoupled": tuning(PLAIN_DECOUPLED),
    "threshold_variants": trying(THRESHOLD_VARIANTS),
    "thresholds": publishing(GEODESIC_THRESHOLDS),
    "high": publishing(GEODESIC_HIGH),
    "convolutions": publishing(GEODESIC_CONVOLUTIONS),
    "memory_variants": trying(MEMORY_VARIANTS),
    "memory": publishing(GEODESIC_MEMORY),
    "budget_variants": trying(BUDGET_VARIANTS),
    "adam_momentum": tuning(PLAIN_ADAM_MOMENTUM),
    "thresholds_on": trying(THRESHOLDS_ON),
    "adam_thresholds": tuning(PLAIN_ADAM_THRESHOLDS),
    "adam_activation": tuning(PLAIN_ADAM_ACTIVATION),
    "adam_convolutions": tuning(PLAIN_ADAM_CONVOLUTIONS),
    "decoupled_thresholds": tuning(PLAIN_DECOUPLED_THRESHOLDS),
    "float": publishing(FLOAT),  # the same net with real weights and activations
    "float_adam": publishing(FLOAT_ADAM),
    "matched": publishing(*MATCHED, FLOAT),  # same learning rate and sum of lr * decay
    "asked": publishing(*ASKED.values()),
    "maps": publishing(*MAPS.values()),
    "others": publishing(*OTHERS.values()),
    "varied": publishing(*VARIED.values()),
    "averages": publishing(*AVERAGES.values()),
    "halves": publishing(*HALVES.values()),
    "starts": publishing(*STARTS.values()),
    "taught": publishing(*TAUGHT.values()),
    "confirm": publishing(*CONFIRMED.values(), seeds=CONFIRMING),
    "confirm_chains": publishing(*CONFIRMED_CHAINS.values(), seeds=CONFIRMING),
    "confirm_search": confirm_search,
    "confirm_halves": publishing(*CONFIRMED_HALVES, seeds=CONFIRMING),
    "points": publishing(*POINTS),
    "tuned": tuned,
    "tuned_adam": lambda case, results: tuned(case, results, tuple(METHODS_ADAM.values())),
    "maps_adam": lambda case, results: tuned(case, results, tuple(MAPS_ADAM.values())),
    "clock": clock,
    "placebo": placebo,
}
SHORT_RUNS_FIRST = (
    "textures-resnet18-5",
    "textures-vgg-5",
    "textures-bireal18-5",
    "digits-vgg-5",
    "digits-vgg-20",
    "textures-vgg-20",
    "textures-resnet18-20",
    "digits-vgg-60",
)
# Cases that had no part in any choice.
LONG_UNSEEN = ("textures-bireal18-20", "hard-vgg-20")
UNSEEN = ("textures-resnet20-5", "hard-vgg-5", *LONG_UNSEEN)
# VGGSmall's form in between the narrow one (16 to 64 channels) and VGGSmall's own 128 to 512.
WIDTHS = ("digits-vgg32-5", "digits-vgg64-5")
PLAN = [
    *[("development", case) for case in DEVELOPMENT],
    ("lead", "digits-vgg-20"),
    ("lead", "digits-vgg-5"),
    ("lead", "textures-vgg-5"),
    ("lead", "textures-vgg-20"),
    ("placebo", "digits-vgg-20"),
    ("placebo", "digits-vgg-5"),
    ("lead", "digits-vgg-60"),
    ("lead", "textures-resnet18-5"),
    ("matched", "digits-vgg-20"),
    ("lead", "textures-bireal18-5"),
    *[("adam_variants", case) for case in DEVELOPMENT],
    ("adam", "textures-vgg-5"),
    ("adam", "digits-vgg-5"),
    ("adam", "digits-vgg-20"),
    ("adam", "textures-bireal18-5"),
    ("more", "textures-bireal18-5"),
    ("decoupled", "textures-vgg-5"),
    ("decoupled", "digits-vgg-5"),
    ("decoupled", "textures-bireal18-5"),
    ("decoupled", "textures-resnet18-5"),
    ("decoupled", "digits-vgg-20"),
    ("adam", "textures-resnet18-5"),
    ("decoupled", "textures-vgg-20"),
    *[("threshold_variants", case) for case in DEVELOPMENT],
    ("thresholds", "textures-vgg-5"),
    ("thresholds", "digits-vgg-5"),
    ("thresholds", "textures-bireal18-5"),
    ("thresholds", "textures-resnet18-5"),
    ("thresholds", "digits-vgg-20"),
    ("thresholds", "textures-vgg-20"),
    ("thresholds", "digits-vgg-60"),
    *[(part, case) for case in SHORT_RUNS_FIRST for part in ("high", "convolutions")],
    *[("memory", case) for case in (*SHORT_RUNS_FIRST, "digits-vggsmall-5")],
    *[("memory", case) for case in UNSEEN],
    *[("adam", case) for case in UNSEEN],
    ("lead", "hard-vgg-5"),
    ("lead", "textures-resnet20-5"),
    *[("float_adam", case) for case in (*SHORT_RUNS_FIRST, *UNSEEN)],
    ("memory_variants", "textures-vgg-5"),
    ("memory_variants", "digits-vgg-20"),
    ("memory_variants", "textures-vgg-20"),
    ("memory_variants", "textures-resnet18-5"),
    *[(part, case) for part in ("budget_variants", "confirm_search") for case in LONG_UNSEEN],
    ("adam_momentum", "textures-resnet18-5"),
    ("adam_momentum", "textures-vgg-5"),
    ("adam_momentum", "textures-bireal18-5"),
    ("adam_momentum", "digits-vgg-5"),
    ("adam", "digits-vggsmall-5"),
    ("thresholds", "digits-vggsmall-5"),
    ("adam_convolutions", "textures-resnet18-5"),
    ("adam_convolutions", "textures-vgg-5"),
    ("adam_thresholds", "textures-vgg-5"),
    ("adam_thresholds", "digits-vgg-5"),
    ("adam_thresholds", "textures-bireal18-5"),
    ("adam_thresholds", "textures-resnet18-5"),
    ("thresholds_on", "textures-resnet18-5"),
    ("adam", "textures-vgg-20"),
    ("decoupled_thresholds", "textures-vgg-5"),
    ("decoupled_thresholds", "digits-vgg-5"),
    ("decoupled_thresholds", "textures-bireal18-5"),
    ("decoupled_thresholds", "textures-resnet18-5"),
    ("thresholds", "textures-resnet18-20"),
    ("adam", "textures-resnet18-20"),
    ("adam", "digits-vgg-60"),
    ("on_top", "textures-vgg-5"),
    ("on_top", "digits-vgg-20"),
    ("float", "digits-vgg-5"),
    ("float", "digits-vgg-60"),
    ("float", "textures-vgg-5"),
    ("float", "textures-vgg-20"),
    ("float", "textures-resnet18-5"),
    ("float", "textures-bireal18-5"),
    ("tuned", "digits-vgg-5"),
    ("tuned_adam", "textures-vgg-5"),
    ("points", "digits-vgg-5"),
    ("maps", "digits-vgg-5"),
    ("maps", "textures-vgg-5"),
    ("confirm", "digits-vgg-5"),
    ("confirm", "textures-vgg-5"),
    ("confirm_chains", "hard-vgg-5"),
    ("confirm_chains", "textures-vgg-5"),
    ("confirm_chains", "hard-vgg-20"),
    ("maps", "textures-bireal18-5"),
    *[("maps", case) for case in ("hard-vgg-5", "textures-resnet18-5", "digits-vgg-20")],
    ("asked", "hard-vgg-5"),
    *[("others", case) for case in ("digits-vgg-5", "textures-vgg-5")],
    ("asked", "digits-vgg-5"),
    ("asked", "textures-vgg-5"),
    ("asked", "textures-bireal18-5"),
    ("asked", "textures-vgg-20"),
    ("asked", "textures-resnet18-5"),
    ("asked", "digits-vgg-20"),
    ("matched", "textures-vgg-5"),
    *[("matched", case) for case in ("digits-vgg-5", "digits-vgg-60")],
    ("asked", "digits-vgg-60"),
    ("tuned_adam", "digits-vgg-5"),
    ("tuned_adam", "textures-bireal18-5"),
    ("tuned_adam", "digits-vgg-20"),
    ("tuned_adam", "textures-resnet18-5"),
    ("tuned_adam", "digits-vggsmall-5"),
    ("tuned_adam", "digits-vgg-60"),
    *[("maps_adam", case) for case in ("digits-vgg-5", "textures-vgg-5", "digits-vgg-20")],
    ("halves", "textures-bireal18-5"),
    ("confirm_halves", "textures-bireal18-5"),
    ("adam_activation", "textures-bireal18-5"),
    ("confirm_halves", "textures-bireal18-20"),
    ("confirm_halves", "textures-resnet18-20"),
    ("adam_activation", "textures-resnet18-5"),
    ("halves", "textures-resnet18-5"),
    ("halves", "textures-vgg-5"),
    ("taught", "textures-bireal18-5"),
    ("taught", "textures-resnet18-5"),
    ("taught", "textures-vgg-5"),
    ("taught", "digits-vgg-5"),
    ("taught", "digits-vgg-20"),
    ("starts", "digits-vgg-5"),
    ("starts", "textures-vgg-5"),
    *[
        ("varied", case)
        for case in ("textures-vgg-5", "textures-resnet18-5", "digits-vgg-5", "digits-vgg-20")
    ],
    *[("averages", case) for case in ("digits-vgg-5", "textures-vgg-5", "textures-resnet18-5")],
    ("clock", "textures-vgg-5"),
    ("clock", "digits-vgg-5"),
    ("placebo", "textures-vgg-5"),
    ("lead", "digits-vggsmall-5"),
    *[("lead", case) for case in LONG_UNSEEN],
    ("placebo", "digits-vgg-60"),
    ("placebo", "textures-resnet18-5"),
    ("lead", "textures-resnet18-20"),
    ("placebo", "textures-vgg-20"),
    *[("tuned", case) for case in ("digits-vgg-20", "digits-vgg-60")],
    ("matched", "textures-vgg-20"),
    *[("matched", case) for case in ("textures-resnet20-5", "textures-bireal18-5")],
    *[(part, case) for part in ("memory", "adam", "lead") for case in WIDTHS],
    *[(part, "textures-vgg-60") for part in ("memory", "adam", "float_adam", "lead")],
    ("lead", "textures-resnet18-60"),
    ("lead", "textures-resnet20-20"),
    ("matched", "textures-resnet18-20"),
]


def missing(results: Results, case: str | None = None, part: str | None = None) -> Iterator[Run]:
    """Runs still to be done, in order; later ones depend on results of earlier ones."""
    for name, where in PLAN:
        if case in (None, where) and part in (None, name):
            while True:
                todo = [r for r in PARTS[name](where, results) if r.key not in results.lines]
                if not todo:
                    break
                yield todo[0]


def train(run: Run, datasets: dict[str, Any], graphs: list[Any] | None = None) -> dict[str, Any]:
    """One run, through the loop that everybody uses; what it left on disk is removed.

    `graphs` holds those of the run before: `run_all` has the points of a grid share them.
    """
    import tensorflow as tf
    from beyond_recipes import fit_averaged, fit_distributed, fit_taught, teacher_of
    from one_graph import OneGraph, may_share

    from hbnn_larq.training import data
    from hbnn_larq.training.run import fit

    recipe = recipe_of(run.case, run.method, run.seed)
    if recipe.dataset not in datasets:
        datasets[recipe.dataset] = data.load(recipe.dataset)
    dataset = datasets[recipe.dataset]
    if len(dataset.train) != IMAGES[recipe.dataset]:
        raise ValueError(f"{recipe.dataset}: {len(dataset.train)} training images, IMAGES differs.")
    folder = tempfile.mkdtemp()
    beyond = [run.method.partition(field)[2] for field in BEYOND_RECIPES]
    taught, distributed, averaged = beyond
    if graphs and (any(beyond) or not graphs[0].fits(recipe)):
        graphs.pop().close()
    if not graphs:
        tf.keras.backend.clear_session()
    try:
        if distributed:
            return fit_distributed(recipe, float(distributed), dataset)
        if averaged:
            return fit_averaged(recipe, averaged, dataset)
        if taught:
            teacher = teacher_of(recipe_of(run.case, FLOAT_ADAM, run.seed), dataset, folder)
            return fit_taught(recipe, teacher, float(taught), dataset)
        if graphs is not None and may_share(recipe):
            if not graphs:
                graphs.append(OneGraph(recipe, dataset))
            found = graphs[0].fit(recipe)
        else:
            found = fit(recipe, folder, dataset=dataset, say=lambda _: None)
    except FloatingPointError as error:  # a point of a grid that does not train is a result too
        return {"validation": 0.0, "test": 0.0, "diverged": str(error).partition(" The last")[0]}
    finally:
        shutil.rmtree(folder)
    flips = found["flips"] or {}
    return {
        "validation": found["accuracy"]["validation_top1"],
        "validation_loss": found["history"][-1]["validation_loss"],
        "test": found["accuracy"]["test_top1"],
        "test_loss": found["accuracy"]["test_loss"],
        "flips_expected": flips.get("predicted_per_step"),
        "flips": flips.get("measured_per_step"),
        "flips_vs_init": flips.get("vs_init"),
        "information_gain": flips.get("information_gain"),
        "from_base_points": flips.get("from_base_points"),
        "latent_decay": recipe.latent_decay,
        "steps": found["steps"],
        "seconds": round(found["seconds"], 2),
    }


def run_all(results: Results, case: str | None, part: str | None) -> None:
    """Every missing run, with a line each."""
    import logging

    import tensorflow as tf

    # Larq's hint at weight clipping: a variant that is not studied here.
    logging.getLogger("larq.layers_base").setLevel(logging.ERROR)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    datasets: dict[str, Any] = {}
    graphs: list[Any] = []
    for run in missing(results, case, part):
        started = time.monotonic()
        results.add(run, train(run, datasets, graphs))
        line = results.lines[run.key]
        print(
            f"{run.case:22} {run.method:58} seed {run.seed:<3} validation {line['validation']:.2f}"
            f"  {time.monotonic() - started:.0f} s",
            flush=True,
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "status", "report"))
    parser.add_argument("--case", choices=sorted({where for _, where in PLAN}))
    parser.add_argument("--part", choices=sorted(PARTS))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    results = Results(args.results)
    if args.what == "run":
        run_all(results, args.case, args.part)
    elif args.what == "status":
        for part, case in PLAN:
            runs = list(PARTS[part](case, results))
            done = sum(run.key in results.lines for run in runs)
            print(f"{part:12} {case:22} {done} of {len(runs)} runs")
    else:
        from study_report import write

        for path in write(results, RESULTS.parent.parent):
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
