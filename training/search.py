"""Search for the radius parameter r on keras-tuner, with several seeds and a plain verdict.

    hbnn search digits --workdir runs/search --radii 0.01,0.05,0.1,0.5,1,5 --seeds 3 \
        --variants hyperbolic,hyperbolic_boundary

is the study of Table 1 of the paper. Trials are runs of `hbnn_larq.training.run`, so a finished
one never runs again and a killed one goes on from its checkpoint. keras-tuner decides what to try
next; with its chief and worker processes (KERASTUNER_TUNER_ID and so on) trials run in parallel
on a shared folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from hbnn_larq import files
from hbnn_larq.callbacks import binary_kernels
from hbnn_larq.training import data, run
from hbnn_larq.training.recipe import Recipe, listed
from hbnn_larq.training.repeats import repeat, require_no_run, require_seeds, spread
from hbnn_larq.training.saved_json import read_object
from hbnn_larq.training.search_report import conclude

__all__ = ["TUNERS", "VARIANTS", "search"]

TUNERS = ("grid", "random", "bayesian", "hyperband")
VARIANTS = ("hyperbolic", "hyperbolic_boundary", "epc")
MOST_GRID_TRIALS = 200
# The score of a point that diverged: below every accuracy, and one that tuners can reckon with.
_DIVERGED = -1.0
_ROLE = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


class Point(NamedTuple):
    """What one trial tries.

    # Attributes
        variant: kernel quantizer.
        radii: one r for all layers, or one for each binary layer.
    """

    variant: str
    radii: tuple[float, ...]

    def applied_to(self, recipe: Recipe) -> Recipe:
        """The recipe of this point."""
        changes: dict[str, Any] = {"kernel_quantizer": self.variant}
        if len(self.radii) == 1:
            return recipe.changed(r=self.radii[0], **changes)
        return recipe.changed(layer_r=",".join(map(_plain, self.radii)), **changes)

    @property
    def folder(self) -> Path:
        """Where its runs lie: a function of the point alone, whichever trial asks for it."""
        name = f"r-{_plain(self.radii[0])}"
        if len(self.radii) > 1:
            digest = hashlib.blake2b(",".join(map(_plain, self.radii)).encode(), digest_size=6)
            name = f"layers-{digest.hexdigest()}"
        return Path(self.variant) / name


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
    variants: Sequence[str] | None = None,
    per_layer: bool = False,
    dataset: data.Dataset | None = None,
    folder: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any] | None:
    """Trains a recipe at several r, with several seeds each, judged on the validation split.

    Writes `search.json`, `search.md` and `search.png` into `workdir`.

    # Arguments
        recipe: of a hyperbolic net; its r is replaced.
        workdir: of the search; the same call again goes on where it stopped.
        radii: the values to try. None lets the tuner draw from [low, high], log-uniformly.
        low, high: bounds of r where `radii` is None.
        trials: how many "random" and "bayesian" try at most.
        seeds: runs per trial; the mean of their accuracies is its score.
        tuner: "grid" (all of `radii`), "random", "bayesian" or "hyperband", which starts many
            trials, stops most of them after few epochs of the unchanged schedule, and lets the
            best thirds go on.
        variants: kernel quantizers to try each r with: any of "hyperbolic",
            "hyperbolic_boundary" and "epc". None for the recipe's own.
        per_layer: gives each binary layer an r of its own, a hyperparameter `r/LAYER`.
        dataset: instead of the one that the recipe names.
        folder: where the files of the recipe's data set are.
        say: called with each line of progress.

    # Returns
        What is in `search.json`: rows of r with accuracies, the best r, and a verdict; where a run
        diverges, its r has no accuracy. None in a worker of keras-tuner: its chief concludes.

    # Raises
        ValueError: for a recipe without r, bounds or radii that are no r, a grid without radii
            or with very many trials, settings that no run would take, a folder of another search,
            of one on other data or of a single run.
        ImportError: where keras-tuner is not installed.
        hbnn_larq.training.run.Stopped: after Ctrl-C, or in a worker that lost its chief.
    """
    chosen = tuple(variants) if variants is not None else (recipe.kernel_quantizer,)
    values = _checked(recipe, chosen, radii, low, high, trials, seeds, tuner)
    if recipe.layer_r is not None and not per_layer:
        raise ValueError(
            f"search: {recipe.name} has layer_r={recipe.layer_r!r}, an r for each layer, and one r "
            "for all would take its place. Set it to none (--set layer_r=none), or search one for "
            "each (--per-layer)."
        )
    role = _role()
    try:
        import keras_tuner
    except ImportError:
        raise ImportError('search needs keras-tuner: pip install "hbnn_larq[search]"') from None
    workdir = Path(workdir)
    require_no_run("search", workdir)
    dataset = dataset or data.load(recipe.dataset, folder, image_size=recipe.image_size, say=say)
    if not (len(dataset.validation) or recipe.hold_out):
        raise ValueError(
            f"search: {dataset.name} has no validation split, and r must not be chosen on test "
            "images. Hold some training images out: --set hold_out=5000."
        )
    # What a run would refuse, before the folder is taken for these settings.
    data.steps_per_epoch(dataset.with_hold_out(recipe.hold_out), recipe.batch_size)
    layers = _binary_layers(recipe.changed(kernel_quantizer=chosen[0]), dataset)
    names = [f"r/{layer}" for layer in layers] if per_layer else ["r"]
    points = len(chosen) * len(values or ()) ** len(names)
    if tuner == "grid" and points > MOST_GRID_TRIALS:
        raise ValueError(
            f'search(tuner="grid"): {len(values or ())} radii on each of {len(names)} layers are '
            f"{points:,} trials; more than {MOST_GRID_TRIALS} is no plan. Use random, bayesian or "
            "hyperband."
        )
    settings = {
        "radii": values,
        "low": low,
        "high": high,
        "seeds": seeds,
        "tuner": tuner,
        "variants": list(chosen),
        "per_layer": per_layer,
    }
    _claim(workdir, recipe, settings, dataset.fingerprint())

    space = keras_tuner.HyperParameters()
    if len(chosen) > 1:
        space.Choice("kernel_quantizer", list(chosen))
    for name in names:
        if values:
            space.Choice(name, values)
        else:
            space.Float(name, low, high, sampling="log")

    def point(hyperparameters: Any) -> Point:
        known = hyperparameters.values
        return Point(
            known.get("kernel_quantizer", chosen[0]), tuple(float(known[name]) for name in names)
        )

    last_epoch = recipe.stop_epoch or recipe.epochs

    def scores(tried: Point, epochs: int) -> list[float]:
        """Validation accuracy of each seed after so many epochs; trains what is missing."""
        wanted, place = tried.applied_to(recipe), workdir / "runs" / tried.folder
        if epochs < last_epoch:
            wanted = wanted.changed(stop_epoch=epochs)
        runs = repeat(wanted, place, seeds=seeds, dataset=dataset, say=say)
        return [result["history"][epochs - 1]["validation_top1"] for result in runs]

    class RadiusTuner(keras_tuner.Tuner):
        """A trial trains all seeds of one point in the folder of that point."""

        def run_trial(self, trial: Any, *_: Any, **__: Any) -> dict[str, float]:
            epochs = trial.hyperparameters.values.get("tuner/epochs", last_epoch)
            tried = point(trial.hyperparameters)
            name = f"{tried.variant} r={' '.join(f'{r:g}' for r in tried.radii)}"
            try:
                found = scores(tried, epochs)
            except FloatingPointError as error:  # which is an answer: this r does not train
                say(f"{name}: diverged ({error})")
                return {"validation_top1": _DIVERGED}
            except Exception as error:
                # Any other exception keras-tuner would swallow, and go on with the next trial.
                raise keras_tuner.errors.FatalError(str(error)) from error
            mean = spread(found).mean
            after = f" after {epochs} epochs" if epochs < last_epoch else ""
            say(f"{name}: {mean:.2f} %{after}")
            return {"validation_top1": mean}

        def load_model(self, trial: Any) -> None:
            """Models lie in the folders of the runs."""

    oracle = _oracle(
        tuner,
        space,
        points if tuner == "grid" else trials,
        last_epoch,
        seed=recipe.seed + 1,  # keras-tuner takes 0 for "any"
    )
    # It says that it goes on, on standard output.
    state = _sound(workdir / "tuner")
    with state, _whole_state_files(), contextlib.redirect_stdout(io.StringIO()):
        found = RadiusTuner(
            oracle=oracle, directory=str(workdir), project_name="tuner", overwrite=False
        )
    if role == "chief":
        say(f"chief: waiting for workers at {os.environ[_ROLE[1]]}:{os.environ[_ROLE[2]]}")
    try:
        with _sound(workdir / "tuner"), _lost_chief(role, workdir), _whole_state_files():
            found.search(verbose=0)
    except keras_tuner.errors.FatalError as error:
        raise error.__cause__ or error from None
    if role not in (None, "chief"):
        say(f"worker {role}: no trial is left; the chief writes {workdir / 'search.md'}")
        return None

    budgets: dict[Point, int] = {}
    diverged = set()
    for trial in oracle.trials.values():
        epochs = trial.hyperparameters.values.get("tuner/epochs", last_epoch)
        tried = point(trial.hyperparameters)
        budgets[tried] = max(epochs, budgets.get(tried, 0))
        if trial.score == _DIVERGED:
            diverged.add(tried)
    accuracies = {
        tried: (epochs, None if tried in diverged else scores(tried, epochs))
        for tried, epochs in budgets.items()
    }
    return conclude(
        recipe,
        workdir,
        accuracies,
        variants=chosen,
        layers=layers if per_layer else None,
        seeds=seeds,
        images=recipe.hold_out or len(dataset.validation),
    )


def _checked(
    recipe: Recipe,
    variants: Sequence[str | None],
    radii: Sequence[float] | None,
    low: float,
    high: float,
    trials: int,
    seeds: int,
    tuner: str,
) -> list[float] | None:
    """The radii, sorted; raises where anything about a search does not fit."""
    if recipe.kernel_quantizer not in VARIANTS:
        raise ValueError(
            f"search: {recipe.name} has kernel_quantizer={recipe.kernel_quantizer!r}, which has "
            "no r. Search a hyperbolic recipe."
        )
    if not variants or len(set(variants)) < len(variants) or not set(variants) <= set(VARIANTS):
        raise ValueError(
            f"search(variants={list(variants)}): one or more different ones of "
            f"{', '.join(VARIANTS)}."
        )
    if tuner not in TUNERS:
        raise ValueError(f"search(tuner={tuner!r}): one of {', '.join(TUNERS)}.")
    if trials < 1:
        raise ValueError(f"search(trials={trials}): how many to try, 1 or above.")
    require_seeds(seeds)
    if tuner == "grid" and not radii:
        raise ValueError('search(tuner="grid"): give the radii to try, such as 0.01,0.05,1.')
    values = sorted(set(radii)) if radii else None
    for r in values or (low, high):
        recipe.changed(r=r)  # refuses what is no r
    if not values and not low < high:
        raise ValueError(f"search(low={low}, high={high}): low must be below high.")
    return values


def _binary_layers(recipe: Recipe, dataset: data.Dataset) -> list[str]:
    """Names of the layers that have an r, in the order in which the model makes them."""
    model = run.build_model(recipe, dataset.image_shape, dataset.num_classes)
    return list(binary_kernels(model))


def _oracle(tuner: str, space: Any, trials: int, epochs: int, *, seed: int) -> Any:
    import keras_tuner

    common = {
        "objective": keras_tuner.Objective("validation_top1", "max"),
        "hyperparameters": space,
    }
    if tuner == "grid":
        return _grid_oracle(keras_tuner)(max_trials=trials, **common)
    if tuner == "hyperband":
        return keras_tuner.oracles.HyperbandOracle(max_epochs=epochs, seed=seed, **common)
    kind = {
        "random": keras_tuner.oracles.RandomSearchOracle,
        "bayesian": keras_tuner.oracles.BayesianOptimizationOracle,
    }[tuner]
    return kind(max_trials=trials, seed=seed, **common)


def _grid_oracle(keras_tuner: Any) -> Any:
    class Grid(keras_tuner.Oracle):
        """Every point once, in order. What comes next follows from the trials on disk.

        keras-tuner's own keeps that in memory alone: after a kill it leaves points out or fails.
        """

        def populate_space(self, trial_id: str) -> dict[str, Any]:
            space = self.get_space().space
            tried = [trial.hyperparameters.values for trial in self.trials.values()]
            for point in itertools.product(*(hp.values for hp in space)):
                values = {hp.name: value for hp, value in zip(space, point, strict=True)}
                if values not in tried:
                    return {"status": "RUNNING", "values": values}
            return {"status": "IDLE" if self.ongoing_trials else "STOPPED", "values": None}

    return Grid


@contextlib.contextmanager
def _whole_state_files() -> Iterator[None]:
    """keras-tuner empties its files before it writes them anew; a kill must not come between."""
    from keras_tuner.src import utils

    def save(path: str, content: Any) -> str:
        text = json.dumps(content)
        files.write(path, text)
        return text

    original, utils.save_json = utils.save_json, save
    try:
        yield
    finally:
        utils.save_json = original


def _role() -> str | None:
    """This process's part in a parallel search: "chief", a worker's name, or None."""
    given = {name: os.environ.get(name) for name in _ROLE}
    if not given["KERASTUNER_ORACLE_IP"]:
        return None
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise ValueError(
            f"search: KERASTUNER_ORACLE_IP is set and {' and '.join(missing)} is not. A parallel "
            'search needs all three in every process: KERASTUNER_TUNER_ID ("chief" in one, '
            "another name in each worker), KERASTUNER_ORACLE_IP and KERASTUNER_ORACLE_PORT of the "
            "chief."
        )
    name = given["KERASTUNER_TUNER_ID"]
    return "chief" if "chief" in str(name) else name  # keras-tuner looks for the word, too


@contextlib.contextmanager
def _lost_chief(role: str | None, workdir: Path) -> Iterator[None]:
    if role in (None, "chief"):
        yield
        return
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        raise run.Stopped(
            f"worker {role} lost its chief ({error.code().name}); what it trained is saved in "
            f"{workdir}. Start the chief and then the workers again to go on."
        ) from None


@contextlib.contextmanager
def _sound(folder: Path) -> Iterator[None]:
    """Says so where keras-tuner cannot make sense of what it keeps of a search."""
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError, tf.errors.NotFoundError) as error:
        raise ValueError(
            f"{folder} is damaged ({type(error).__name__}: {error}). Remove that folder and run "
            "the same command again: finished runs are kept."
        ) from error


def _plain(r: float) -> str:
    """Every digit of r, without a trailing `.0`."""
    return repr(r).removesuffix(".0")


def _claim(
    workdir: Path, recipe: Recipe, settings: dict[str, Any], fingerprint: dict[str, Any]
) -> None:
    """One folder, one search: r alone may differ between its runs."""
    mine = json.dumps({"recipe": asdict(recipe), "data": fingerprint, **settings}, indent=2)
    path = workdir / "settings.json"
    workdir.mkdir(parents=True, exist_ok=True)
    begun = any(workdir.glob("runs/*/*/seed-*/recipe.json"))
    if path.exists() and begun:
        there = read_object(path)
        was = Recipe.of_file(path, there.pop("recipe", None))
        here = json.loads(json.dumps(settings))
        differences = {k: (there.get(k), v) for k, v in here.items() if there.get(k) != v}
        differences |= was.differences(recipe)
        if differences:
            raise ValueError(
                f"{workdir} holds a search with other settings ({listed(differences)}). Use "
                "another --workdir."
            )
        data.require_same(there.get("data"), fingerprint, f"{workdir} holds a search")
    elif not path.exists() or path.read_bytes() != mine.encode():
        # Trials of nobody knows which search, or of one that never began; runs find their folder.
        shutil.rmtree(workdir / "tuner", ignore_errors=True)
    files.write(path, mine)
