"""The same recipe with several seeds, and what can be said from so few numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hbnn_larq.training import data, run
from hbnn_larq.training.finished import finished_run
from hbnn_larq.training.recipe import Recipe

__all__ = [
    "Difference",
    "Spread",
    "accuracy",
    "paired_difference",
    "repeat",
    "require_no_run",
    "require_seeds",
    "spread",
]


class Spread(NamedTuple):
    """Mean and standard deviation of a few figures; the deviation of one figure is NaN."""

    mean: float
    std: float
    runs: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.runs < 2 else f" ± {self.std:.2f}")


class Difference(NamedTuple):
    """Mean of paired differences with the bounds of its 95 % confidence interval, or with NaN."""

    mean: float
    low: float
    high: float

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0 (or cannot be told from so few pairs)."""
        return not (self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.mean:+.2f} (no interval: one pair, or all alike)"
        note = ", within noise" if self.within_noise else ""
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]{note}"


def repeat(
    recipe: Recipe,
    workdir: Path,
    *,
    seeds: int,
    dataset: data.Dataset,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Trains a recipe with seeds 0, 1, ...; what is finished is read, what was begun goes on.

    # Arguments
        recipe: its own seed is replaced.
        workdir: each seed gets the folder `seed-N` in it.
        seeds: how many, 1 or above.
        dataset: what to train on.
        say: called with each line of progress.

    # Returns
        The results of each seed.

    # Raises
        ValueError: unless `seeds` is 1 or above; where a folder holds a run on other data.
    """
    require_seeds(seeds)
    fingerprint = dataset.fingerprint()
    results = []
    for seed in range(seeds):
        seeded, folder = recipe.changed(seed=seed), workdir / f"seed-{seed}"
        found = finished_run(folder)
        if found is not None and found[0] == seeded:
            result = found[1]
            data.require_same(result.get("data"), fingerprint, f"{folder} holds a run")
        else:
            say(f"{folder}")
            result = run.fit(seeded, folder, dataset=dataset, say=lambda line: say(f"  {line}"))
        results.append(result)
    return results


def require_no_run(call: str, workdir: Path) -> None:
    """Raises where the folder for a study is that of a single run."""
    if (workdir / "recipe.json").exists():
        raise ValueError(
            f"{call}: {workdir} holds a run (recipe.json). A study needs a folder of its own: use "
            "another --workdir."
        )


def require_seeds(seeds: int) -> None:
    """Raises unless `seeds` is a number of runs."""
    if seeds < 1:
        raise ValueError(f"seeds={seeds}: how many runs of each, 1 or above.")


def accuracy(results: Sequence[dict[str, Any]], split: str) -> list[float]:
    """Top-1 accuracy on a split, percent, of each result."""
    return [result["accuracy"][f"{split}_top1"] for result in results]


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Spread(mean, math.nan, len(values))
    variance = math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return Spread(mean, math.sqrt(variance), len(values))


def paired_difference(
    values: Sequence[float], reference: Sequence[float], *, comparisons: int = 1
) -> Difference:
    """Mean of `values - reference`, pair by pair, with Student's 95 % interval.

    One pair has no interval, and no more have two to four whose differences are all equal:
    accuracies are counts of images, so that this happens by chance and tells nothing of the spread.
    (Among six settings that are one, three seeds and 270 images, three equal differences made one
    of them "worse" in 5 to 14 % of studies, however much the interval was widened.)

    # Arguments
        values, reference: one figure per seed, in the same order.
        comparisons: how many such differences are looked at together; the interval is widened
            so that all of them hold with 95 % (Bonferroni).
    """
    from scipy.stats import t

    mean, std, count = spread([a - b for a, b in zip(values, reference, strict=True)])
    if count < 2 or (count < 5 and std < 1e-9):
        return Difference(mean, math.nan, math.nan)
    quantile = 1 - 0.025 / comparisons
    half = float(t.ppf(quantile, count - 1)) * std / math.sqrt(count)
    return Difference(mean, mean - half, mean + half)
