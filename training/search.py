"""Search for the radius parameter r on keras-tuner, with several seeds and a plain verdict.

    hbnn search digits --workdir runs/search --radii 0.01,0.05,0.1,0.5,1,5 --seeds 3

is the study of Table 1 of the paper. Trials are runs of `hbnn_larq.training.run`, so a finished
one never runs again and a killed one goes on from its checkpoint. keras-tuner decides which r to
try next; with its chief and worker processes (KERASTUNER_TUNER_ID and so on) trials run in
parallel on a shared folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hbnn_larq import plots
from hbnn_larq.training import checkpoints, data
from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.repeats import accuracy, paired_difference, repeat, spread

__all__ = ["TUNERS", "search"]

TUNERS = ("grid", "random", "bayesian")


def search(
    recipe: Recipe,
    workdir: str | Path,
    *,
    radii: Sequence[float] | None = None,
    low: float = 0.01,
    high: float = 5.0,
    trials: int = 6,
    seeds: int = 3,
    tuner: str = "grid",
    dataset: data.Dataset | None = None,
    folder: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Trains a recipe at several r, with several seeds each, judged on the validation split.

    Writes `search.json`, `search.md` and `search.png` into `workdir`.

    # Arguments
        recipe: of a hyperbolic net; its r is replaced.
        workdir: of the search; the same call again goes on where it stopped.
        radii: the values to try. None lets the tuner draw from [low, high], log-uniformly.
        low, high: bounds of r where `radii` is None.
        trials: values that "random" and "bayesian" try at most.
        seeds: runs per value; the mean of their accuracies is the value's score.
        tuner: "grid" (all of `radii`), "random" or "bayesian".
        dataset: instead of the one that the recipe names.
        folder: where the files of the recipe's data set are.
        say: called with each line of progress.

    # Returns
        What is in `search.json`: rows of r with accuracies, the best r, and a verdict.

    # Raises
        ValueError: for a recipe without r, bounds or radii that are no r, a grid without radii.
        ImportError: where keras-tuner is not installed.
    """
    if recipe.kernel_quantizer not in ("hyperbolic", "hyperbolic_boundary", "epc"):
        raise ValueError(
            f"search: {recipe.name} has kernel_quantizer={recipe.kernel_quantizer!r}, which has "
            "no r. Search a hyperbolic recipe."
        )
    if tuner not in TUNERS:
        raise ValueError(f"search(tuner={tuner!r}): one of {', '.join(TUNERS)}.")
    if tuner == "grid" and not radii:
        raise ValueError('search(tuner="grid"): give the radii to try, such as 0.01,0.05,1.')
    values = sorted(set(radii)) if radii else None
    for r in values or (low, high):
        recipe.changed(r=r)  # refuses what is no r
    if not values and not low < high:
        raise ValueError(f"search(low={low}, high={high}): low must be below high.")
    try:
        import keras_tuner
    except ImportError:
        raise ImportError('search needs keras-tuner: pip install "hbnn_larq[search]"') from None
    workdir = Path(workdir)
    dataset = dataset or data.load(recipe.dataset, folder, image_size=recipe.image_size, say=say)
    if not (len(dataset.validation) or recipe.hold_out):
        raise ValueError(
            f"search: {dataset.name} has no validation split, and r must not be chosen on test "
            "images. Hold some training images out: --set hold_out=5000."
        )
    _claim(workdir, recipe, {"radii": values, "low": low, "high": high, "seeds": seeds})

    def place(r: float) -> Path:
        return workdir / "runs" / f"r-{r:.6g}"

    class RadiusTuner(keras_tuner.Tuner):
        """A trial trains all seeds of one r in the folder of that r."""

        def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
            r = float(trial.hyperparameters.get("r"))
            try:
                runs = repeat(recipe.changed(r=r), place(r), seeds=seeds, dataset=dataset, say=say)
            except Exception as error:
                # Any other exception keras-tuner would swallow, and go on with the next trial.
                raise keras_tuner.errors.FatalError(str(error)) from error
            mean = spread(accuracy(runs, "validation")).mean
            say(f"r={r:g}: {mean:.2f} %")
            return {"validation_top1": mean}

        def load_model(self, trial: Any) -> None:
            """Models lie in the folders of the runs."""

    space = keras_tuner.HyperParameters()
    if values:
        space.Choice("r", values)
    else:
        space.Float("r", low, high, sampling="log")
    oracle_type = {
        "grid": keras_tuner.oracles.GridSearchOracle,
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    }[tuner]
    objective = keras_tuner.Objective("validation_top1", "max")
    oracle = oracle_type(
        objective=objective,
        max_trials=len(values) if tuner == "grid" and values else trials,
        hyperparameters=space,
        **({} if tuner == "grid" else {"seed": recipe.seed}),
    )
    found = RadiusTuner(
        oracle=oracle, directory=str(workdir), project_name="tuner", overwrite=False
    )
    try:
        found.search(verbose=0)
    except keras_tuner.errors.FatalError as error:
        raise error.__cause__ or error from None

    tried = sorted({float(t.hyperparameters.get("r")) for t in oracle.trials.values()})
    runs = {
        r: repeat(recipe.changed(r=r), place(r), seeds=seeds, dataset=dataset, say=say)
        for r in tried
    }
    return _conclude(recipe, workdir, runs, seeds)


def _conclude(
    recipe: Recipe, workdir: Path, runs: dict[float, list[dict[str, Any]]], seeds: int
) -> dict[str, Any]:
    scores = {r: accuracy(results, "validation") for r, results in runs.items()}
    best = max(scores, key=lambda r: spread(scores[r]).mean)
    distinct = [
        r
        for r in scores
        if r != best and not paired_difference(scores[best], scores[r]).within_noise
    ]
    if seeds < 2:
        verdict = "one seed per r: no verdict is possible; give --seeds 3 or more"
    elif not distinct:
        verdict = f"r={best:g} has the highest mean, but every difference is within noise"
    else:
        worse = ", ".join(f"{r:g}" for r in distinct)
        verdict = f"r={best:g} has the highest mean; only r={worse} is worse beyond noise"
    outcome = {
        "recipe": asdict(recipe),
        "seeds": seeds,
        "rows": [
            {"r": r, "top1": values, "mean": spread(values).mean, "text": str(spread(values))}
            for r, values in scores.items()
        ],
        "best_r": best,
        "verdict": verdict,
    }
    lines = [
        f"{recipe.name} ({recipe.kernel_quantizer}): validation top-1, mean ± std over {seeds} "
        "seeds.",
        "",
        "| r | accuracy (%) |",
        "|---|---|",
        *(f"| {r:g} | {spread(values)} |" for r, values in scores.items()),
        "",
        f"Verdict (paired differences, 95 % interval): {verdict}.",
    ]
    for name, text in (
        ("search.json", json.dumps(outcome, indent=2) + "\n"),
        ("search.md", "\n".join(lines) + "\n"),
    ):
        checkpoints.atomic_write(workdir / name, lambda file, text=text: file.write(text.encode()))
    plots.accuracies(
        {f"{r:g}": values for r, values in scores.items()},
        workdir / "search.png",
        xlabel="r",
        ylabel="validation accuracy (%)",
    )
    return outcome


def _claim(workdir: Path, recipe: Recipe, settings: dict[str, Any]) -> None:
    """One folder, one search: r alone may differ between its runs."""
    mine = json.dumps({"recipe": asdict(recipe), **settings}, indent=2)
    path = workdir / "settings.json"
    workdir.mkdir(parents=True, exist_ok=True)
    if path.exists() and json.loads(path.read_text()) != json.loads(mine):
        raise ValueError(
            f"{workdir} holds a search with other settings (see {path}). Use another --workdir."
        )
    checkpoints.atomic_write(path, lambda file: file.write(mine.encode()))
