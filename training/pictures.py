"""The plots of runs: drawn when one ends, and again at any time, of one or over one another.

Also slices through the loss of a finished one (`hbnn_larq.loss_surface`), on its own data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hbnn_larq import loss_surface, plots, rebuilding
from hbnn_larq.arguments import require_whole
from hbnn_larq.optimizers import is_base_point
from hbnn_larq.training import checkpoints, data
from hbnn_larq.training.finished import dataset_of, finished_run, remark_on_model
from hbnn_larq.training.recipe import Recipe

__all__ = ["draw", "history_of", "plot", "slice_loss"]

History = Sequence[Mapping[str, Any]]


def draw(recipe: Recipe, history: History, folder: str | Path) -> list[Path]:
    """Learning curves of a run and, of a binary net, the flips of each layer.

    # Arguments
        recipe: of the run.
        history: one row per epoch, as in its `results.json`.
        folder: where `learning_curves.png` and `flips.png` are written.

    # Returns
        The files written.
    """
    folder = Path(folder)
    label = recipe.kernel_quantizer or "float"
    written = [plots.learning_curves({label: history}, folder / "learning_curves.png")]
    if "layers" in history[0]:
        asked = {} if recipe.flip_rate is None else {"expected": "asked for"}
        written.append(plots.flips_per_layer(history, folder / "flips.png", **asked))
    return written


def history_of(
    folder: str | Path, say: Callable[[str], None] = print
) -> tuple[Recipe, list[dict[str, Any]]]:
    """Recipe of a run and its epochs so far: of its results, or its newest checkpoint before.

    # Arguments
        folder: of the run.
        say: called with a line for each damaged checkpoint.

    # Raises
        ValueError: `folder` holds no run, or one whose first epoch has not been saved yet.
    """
    folder = Path(folder)
    path = folder / "recipe.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no run: there is no recipe.json in it.")
    recipe, finished = Recipe.read(path), finished_run(folder)
    if finished is not None and finished[0] == recipe:
        history = finished[1]["history"]
    else:  # not ended yet, or going further than those results
        found = checkpoints.newest(folder / "checkpoints", say)
        history = found.state["history"] if found else []
    if not history:
        raise ValueError(
            f"{folder}: no epoch of this run has been saved yet. Wait for the end of its first "
            "one, or go on with `hbnn train`."
        )
    return recipe, history


def plot(
    folders: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draws the plots of one run, or of several over one another.

    # Arguments
        folders: of runs, finished or not.
        output: folder for the files, made where missing; the run's own by default if there is one
            run.
        say: called with a line for each damaged checkpoint.

    # Returns
        The files written.

    # Raises
        ValueError: no run, one given twice or without an epoch, or several and no `output`.
    """
    runs = {str(folder): history_of(folder, say) for folder in folders}
    if not folders or len({Path(folder).resolve() for folder in folders}) < len(folders):
        given = ", ".join(map(str, folders)) or "none"
        raise ValueError(f"plot(folders: {given}): one run or more, each once.")
    if output is None and len(runs) > 1:
        raise ValueError("plot(output=None): several runs share no folder; name one for the plots.")
    target = Path(folders[0] if output is None else output)
    target.mkdir(parents=True, exist_ok=True)
    if len(runs) == 1:
        ((recipe, history),) = runs.values()
        return draw(recipe, history, target)
    histories = {label: history for label, (_, history) in runs.items()}
    written = [plots.learning_curves(histories, target / "learning_curves.png")]
    binary = {label: rows for label, rows in histories.items() if "layers" in rows[0]}
    if binary:
        written.append(plots.flips_of_runs(binary, target / "flips.png"))
    return written


def slice_loss(
    folder: str | Path,
    across: str = "line",
    *,
    points: int = 15,
    seed: int = 0,
    images: int = 1000,
    data_folder: str | Path | None = None,
    unreadable: str = "error",
    output: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Draws a slice through the loss of a finished run, on images that chose and trained nothing.

    A line goes along one random direction of the weights, for the deployed and the relaxed net; a
    plane is that of the deployed net, over weights and base points (of a net without base points,
    over two directions of its weights).

    # Arguments
        folder: of the run.
        across: "line" or "plane".
        points: along each direction.
        seed: of the directions.
        images: at most so many, spread over the validation split, or over the training split of
            data that has no other.
        data_folder: where the files of the run's data set are.
        unreadable: see `data.load`.
        output: folder for the files, made where missing; the run's own by default.
        say: called with each line of progress.

    # Returns
        The files written: `loss_line.png` or `loss_plane.png`, and the figures as `.csv` files.

    # Raises
        ValueError: `across` is neither, `images` below 1, or `folder` holds no finished run, or
            one on other classes than the data.
    """
    if across not in ("line", "plane"):
        raise ValueError(f'slice_loss(across={across!r}): "line" or "plane".')
    require_whole("slice_loss", "images", images, 1)
    folder = Path(folder)
    recipe_path, model_path = folder / "recipe.json", folder / "model.keras"
    if not (recipe_path.exists() and model_path.exists()):
        raise ValueError(
            f"{folder} holds no finished run: `hbnn train` writes recipe.json and model.keras."
        )
    recipe = Recipe.read(recipe_path)
    if remark := remark_on_model(folder, recipe):
        say(remark)
    dataset = dataset_of(folder, recipe, data_folder=data_folder, unreadable=unreadable, say=say)
    split = dataset.validation if len(dataset.validation) else dataset.train
    x, y = data.spread_out(dataset, split, images)
    model = rebuilding.load(model_path, call="slice_loss")

    options: dict[str, Any] = {"points": points, "say": say}
    weights = loss_surface.random_direction(model, seed)
    if across == "line":
        found = {
            name: loss_surface.surface(model, x, y, weights, relaxed=name == "relaxed", **options)
            for name in (("deployed", "relaxed") if recipe.binary_weights else ("deployed",))
        }
    else:
        moves_points = any(is_base_point(variable) for variable in model.trainable_weights)
        other = (
            loss_surface.random_direction(model, seed, of="base_points")
            if moves_points
            else loss_surface.random_direction(model, seed + 1)
        )
        found = {"deployed": loss_surface.surface(model, x, y, (weights, other), **options)}
    target = Path(output or folder)
    target.mkdir(parents=True, exist_ok=True)
    return [
        loss_surface.draw(list(found.values()), target / f"loss_{across}.png"),
        *(each.to_csv(target / f"loss_{across}_{name}.csv") for name, each in found.items()),
    ]
