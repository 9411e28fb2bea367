"""Pictures of a training run, as PNG files. Matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from hbnn_larq.files import replaced

__all__ = ["accuracies", "flips_of_runs", "flips_per_layer", "learning_curves", "radius_study"]

MOST_NAMED = 12  # more names than that leave no room for the lines
LONGEST_NAME = 50  # letters; nor does a longer one


def learning_curves(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> Path:
    """Loss (validation dashed) and validation accuracy over epochs, one line per run.

    # Arguments
        histories: `{label: rows}`; each row holds `epoch`, `loss` and, where there is a
            validation split, `validation_loss` and `validation_top1` (percent), else `train_top1`.
        path: the PNG file to write.

    # Returns
        `path`.
    """
    figure = _figure(9, 3.6)
    losses, accuracies = figure.subplots(1, 2)
    validated = all(
        row["validation_top1"] is not None for rows in histories.values() for row in rows
    )
    key, what = ("validation_top1", "validation") if validated else ("train_top1", "training")
    for place, (label, rows) in enumerate(histories.items()):
        color = f"C{place}"
        epochs = [row["epoch"] for row in rows]
        dot = _dot(rows)
        losses.plot(epochs, [row["loss"] for row in rows], f"{dot}-", color=color)
        if validated:
            losses.plot(epochs, [row["validation_loss"] for row in rows], f"{dot}--", color=color)
        accuracies.plot(
            epochs, [row[key] for row in rows], f"{dot}-", color=color, label=_name(label)
        )
    _over_epochs(losses, accuracies)
    losses.set(ylabel="loss", yscale="log")
    losses.legend(losses.lines[: 1 + validated], ["training", "validation"][: 1 + validated])
    accuracies.set(ylabel=f"{what} accuracy (%)")
    accuracies.legend()
    return _write(figure, path)


def flips_per_layer(
    rows: Sequence[Mapping[str, Any]], path: str | Path, *, expected: str = "flip-rate law"
) -> Path:
    """Sign flips per step and against initialisation over epochs, one line per layer.

    Layers are named up to a dozen of them; more are coloured by their depth.

    # Arguments
        rows: one per epoch, with `epoch` and `layers`, which holds `flips_per_step` and
            `flips_vs_init` as `{layer: share}`; where a row has `flips_predicted`, the share per
            step that is expected in it, that is drawn as a dashed line.
        path: the PNG file to write.
        expected: what that line is called.

    # Returns
        `path`.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure = _figure(9, 3.6)
    steps, initial = figure.subplots(1, 2)
    epochs = [row["epoch"] for row in rows]
    layers = list(rows[0]["layers"]["flips_per_step"])
    by_depth = len(layers) > MOST_NAMED
    for place, layer in enumerate(layers):
        style: dict[str, Any] = {"label": _name(layer)}
        if by_depth:
            style = {"color": colormaps["viridis"](place / (len(layers) - 1))}
        for axes, key in ((steps, "flips_per_step"), (initial, "flips_vs_init")):
            axes.plot(
                epochs, [100 * row["layers"][key][layer] for row in rows], f"{_dot(rows)}-", **style
            )
    if by_depth:
        scale = ScalarMappable(Normalize(1, len(layers)), "viridis")
        figure.colorbar(scale, ax=initial, label="binary layer, from the first to the last")
    if "flips_predicted" in rows[0]:
        predicted = [100 * row["flips_predicted"] for row in rows]
        steps.plot(epochs, predicted, f"{_dot(rows)}--", color="black", label=expected)
    _label_flips(steps, initial)
    if steps.get_legend_handles_labels()[0]:
        steps.legend(fontsize="small")
    return _write(figure, path)


def flips_of_runs(histories: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path) -> Path:
    """Sign flips per step and against initialisation over epochs, one line per run.

    # Arguments
        histories: `{label: rows}`; each row holds `epoch`, `flips_per_step` and `flips_vs_init`,
            shares of all binary weights. `flips_predicted`, where it has that, is dashed.
        path: the PNG file to write.

    # Returns
        `path`.
    """
    figure = _figure(9, 3.6)
    steps, initial = figure.subplots(1, 2)
    for place, (label, rows) in enumerate(histories.items()):
        style = {"color": f"C{place}"}
        epochs, dot = [row["epoch"] for row in rows], _dot(rows)
        for axes, key in ((steps, "flips_per_step"), (initial, "flips_vs_init")):
            axes.plot(
                epochs, [100 * row[key] for row in rows], f"{dot}-", label=_name(label), **style
            )
        if "flips_predicted" in rows[0]:
            predicted = [100 * row["flips_predicted"] for row in rows]
            steps.plot(epochs, predicted, f"{dot}--", **style)
    _label_flips(steps, initial)
    initial.legend(fontsize="small")
    return _write(figure, path)


def accuracies(
    values: Mapping[str, Sequence[float]],
    path: str | Path,
    *,
    xlabel: str = "",
    ylabel: str = "accuracy (%)",
) -> Path:
    """Every run as a dot and the mean of each group as a bar, groups side by side.

    # Arguments
        values: `{group: one figure per run}`.
        path: the PNG file to write.
        xlabel, ylabel: of the axes.

    # Returns
        `path`.
    """
    figure = _figure(max(4.0, 0.9 * len(values) + 1.5), 3.6)
    axes = figure.subplots()
    for place, group in enumerate(values.values()):
        axes.plot([place] * len(group), group, "o", color="tab:blue", alpha=0.6)
        mean = sum(group) / len(group)
        axes.plot([place - 0.25, place + 0.25], [mean, mean], color="black")
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.6, len(values) - 0.4))
    names = list(map(_name, values))
    crowded = any(len(a) + len(b) > 24 for a, b in pairwise(names))
    axes.set_xticks(range(len(names)), names, rotation=25 if crowded else 0,
                    ha="right" if crowded else "center")  # fmt: skip
    return _write(figure, path)


def radius_study(
    values: Mapping[str, Mapping[float, Sequence[float]]],
    path: str | Path,
    *,
    stopped: Mapping[str, Mapping[float, Sequence[float]]] | None = None,
    ylabel: str = "validation accuracy (%)",
) -> Path:
    """Accuracy over r, one line of means per group, every run as a dot.

    # Arguments
        values: `{group: {r: one figure per run}}`.
        path: the PNG file to write.
        stopped: the same of runs that ended early: crosses, which are no part of a line.
        ylabel: of the accuracies.

    # Returns
        `path`.
    """
    figure = _figure(6, 3.6)
    axes = figure.subplots()
    for place, (label, runs) in enumerate(values.items()):
        radii = sorted(runs)
        aside = [r * 1.03 ** (place - (len(values) - 1) / 2) for r in radii]  # dots beside dots
        axes.plot(
            aside,
            [sum(runs[r]) / len(runs[r]) for r in radii],
            color=f"C{place}",
            label=_name(label),
        )
        for r, x in zip(radii, aside, strict=True):
            axes.plot([x] * len(runs[r]), runs[r], "o", color=f"C{place}", alpha=0.6)
        early = [
            (r, value) for r, found in (stopped or {}).get(label, {}).items() for value in found
        ]
        if early:
            named = f"{_name(label)}, stopped early"
            axes.plot(*zip(*early, strict=True), "x", color=f"C{place}", label=named)
    axes.set(xlabel="r", ylabel=ylabel, xscale="log")
    axes.legend()
    return _write(figure, path)


def _over_epochs(*axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    for each in axes:
        each.set(xlabel="epoch")
        first, last = each.dataLim.intervalx
        if first == last:
            each.set_xlim(first - 1, last + 1)
        each.xaxis.set_major_locator(MaxNLocator(integer=True))


def _label_flips(steps: Any, initial: Any) -> None:
    _over_epochs(steps, initial)
    steps.set(ylabel="weights that flip per step (%)", ylim=(0, None))
    highest = max(initial.dataLim.y1, 57)  # half of them where a net knows its start no more
    initial.set(ylabel="weights that differ from the start (%)", ylim=(0, 1.05 * highest))


def _name(text: str) -> str:
    """A label that shows a name as it is: whole or its two ends, and no formula."""
    if len(text) > LONGEST_NAME:
        half = (LONGEST_NAME - 1) // 2
        text = f"{text[:half]}…{text[-half:]}"
    text = text.replace("$", r"\$")
    # A legend leaves out what begins with _, so that does not come first.
    return f"\u200b{text}" if text.startswith("_") else text


def _dot(rows: Sequence[Any]) -> str:
    """A marker for runs of few epochs, whose lines are short, or no line at all."""
    return "." if len(rows) < 10 else ""


def _figure(width: float, height: float) -> Any:
    # A figure of its own, without pyplot: no global state, no display, no window.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _write(figure: Any, path: str | Path) -> Path:
    with replaced(path) as temporary:
        figure.savefig(temporary, format="png")
    return Path(path)
