"""What a search for r found: one table, one plot, and a verdict that calls noise noise."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hbnn_larq import files, plots
from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.repeats import paired_difference, spread

__all__ = ["conclude"]

# {variant: {radii: accuracy of each seed}}; radii is one number, or one per layer.
_Scores = dict[str, dict[tuple[float, ...], list[float]]]
TITLES = {"hyperbolic": "ball", "hyperbolic_boundary": "boundary", "epc": "EPC"}


def conclude(
    recipe: Recipe,
    workdir: Path,
    accuracies: Mapping[Any, tuple[int, list[float] | None]],
    *,
    variants: Sequence[str],
    layers: Sequence[str] | None,
    seeds: int,
    images: int,
) -> dict[str, Any]:
    """Writes `search.json`, `search.md` and `search.png`.

    # Arguments
        recipe: that was searched.
        workdir: of the search.
        accuracies: `{(variant, radii): (epochs, percent of each seed)}`, None where a run diverged.
        variants: the columns.
        layers: names of the layers that the radii belong to; None where one r serves all.
        seeds: runs per point.
        images: in the validation split, for the weight of one image.

    # Returns
        What is in `search.json`.
    """
    trained = {
        point: (epochs, values)
        for point, (epochs, values) in sorted(accuracies.items())
        if values is not None
    }
    longest = max(epochs for epochs, _ in (trained or accuracies).values())
    scores: _Scores = {variant: {} for variant in variants}
    stopped: _Scores = {variant: {} for variant in variants}
    for (variant, radii), (epochs, values) in trained.items():
        # What Hyperband stopped early is no match for the others.
        (scores if epochs == longest else stopped)[variant][radii] = values
    rows = [
        {
            **({"r": radii[0]} if layers is None else {"r": dict(zip(layers, radii, strict=True))}),
            "accuracy": {
                variant: _runs(*accuracies[variant, radii])
                for variant in variants
                if (variant, radii) in accuracies
            },
        }
        for radii in sorted({radii for _, radii in accuracies})
    ]
    outcome = {
        "recipe": asdict(recipe),
        "seeds": seeds,
        "validation_images": images,
        "variants": list(variants),
        "rows": rows,
        "best_r": {
            variant: _named(_best(of_variant), layers)
            for variant, of_variant in scores.items()
            if of_variant
        },
        "verdict": "; ".join([_verdict(scores, layers, seeds), *_diverged(accuracies, variants)]),
    }
    text = json.dumps(outcome, indent=2) + "\n"
    for name, content in (("search.json", text), ("search.md", _table(outcome, longest))):
        files.write(workdir / name, content)
    if layers is None:
        ended, early = (
            {TITLES[variant]: {r: v for (r,), v in found[variant].items()} for variant in variants}
            for found in (scores, stopped)
        )
        plots.radius_study(ended, workdir / "search.png", stopped=early)
    else:
        plots.accuracies(
            {
                f"{TITLES[variant]} {number}": values
                for variant in scores
                for number, values in enumerate(scores[variant].values(), 1)
            },
            workdir / "search.png",
            xlabel="trial",
            ylabel="validation accuracy (%)",
        )
    return outcome


def _runs(epochs: int, values: list[float] | None) -> dict[str, Any]:
    """What `search.json` says of the runs of one point."""
    if values is None:
        figures: dict[str, Any] = {"mean": None, "std": None, "text": "diverged"}
    else:
        found = spread(values)
        std = found.std if len(values) > 1 else None
        figures = {"mean": found.mean, "std": std, "text": str(found)}
    return {"epochs": epochs, "top1": values, **figures}


def _diverged(accuracies: Mapping[Any, tuple[int, Any]], variants: Sequence[str]) -> list[str]:
    """One sentence for each variant in which values of r diverged."""
    lost = sorted(point for point, (_, values) in accuracies.items() if values is None)
    return [
        f"{TITLES[variant]}: {', '.join(f'r={_short(r)}' for of, r in lost if of == variant)} "
        "diverged"
        for variant in variants
        if any(of == variant for of, _ in lost)
    ]


def _best(of_variant: dict[tuple[float, ...], list[float]]) -> tuple[float, ...]:
    return max(of_variant, key=lambda radii: spread(of_variant[radii]).mean)


def _named(radii: tuple[float, ...], layers: Sequence[str] | None) -> float | dict[str, float]:
    return radii[0] if layers is None else dict(zip(layers, radii, strict=True))


def _verdict(scores: _Scores, layers: Sequence[str] | None, seeds: int) -> str:
    if seeds < 2:
        return "one seed per r: no verdict is possible; give --seeds 3 or more"
    trained = [variant for variant, of_variant in scores.items() if of_variant]
    if not trained:
        return "no r was trained to the end"
    sentences = [_within(variant, scores[variant], layers) for variant in trained]
    first, *others = trained
    sentences += [_between(scores, first, other, len(others)) for other in others]
    return "; ".join(sentences)


def _within(
    variant: str, scores: dict[tuple[float, ...], list[float]], layers: Sequence[str] | None
) -> str:
    best = _best(scores)
    others = [radii for radii in scores if radii != best]
    # Any of them might have been the best, so all pairs are compared, not those with this one.
    pairs = math.comb(len(scores), 2)
    worse = [
        radii
        for radii in others
        if not paired_difference(scores[best], scores[radii], comparisons=pairs).within_noise
    ]
    said = f"{TITLES[variant]}: r={_short(best)} has the highest mean"
    if not others:
        return f"{TITLES[variant]}: r={_short(best)} alone was trained to the end"
    if not worse:
        return f"{said}, but every difference is within noise"
    return (
        f"{said}; only {', '.join(f'r={_short(radii)}' for radii in worse)} is worse beyond noise"
    )


def _between(scores: _Scores, first: str, other: str, comparisons: int) -> str:
    common = [radii for radii in scores[first] if radii in scores[other]]
    if not common:
        return f"{TITLES[other]} and {TITLES[first]} have no r in common"
    # Runs of one seed have initial weights and order in common, so a pair is a seed, not a run.
    means = [
        [
            spread(of_seed).mean
            for of_seed in zip(*(scores[variant][radii] for radii in common), strict=True)
        ]
        for variant in (other, first)
    ]
    difference = paired_difference(*means, comparisons=comparisons)
    said = "do not differ beyond noise" if difference.within_noise else "differ"
    interval = f" [{difference.low:+.2f}, {difference.high:+.2f}]"
    if math.isnan(difference.low):
        interval = ", too few seeds for an interval,"
    return (
        f"{TITLES[other]} and {TITLES[first]} {said} ({difference.mean:+.2f} points{interval} over "
        f"{len(common)} values of r)"
    )


def _table(outcome: dict[str, Any], longest: int) -> str:
    variants, images = outcome["variants"], outcome["validation_images"]
    seeds = outcome["seeds"]
    over = "one seed" if seeds == 1 else f"mean ± std over {seeds} seeds"
    lines = [
        f"{outcome['recipe']['name']}: validation top-1 (%), {over}, {longest} epochs; {images:,} "
        f"images, so one image is {100 / images:.2g} points.",
        "",
        f"| r | {' | '.join(TITLES[variant] for variant in variants)} |",
        f"|---|{'---|' * len(variants)}",
    ]
    for row in outcome["rows"]:
        r = row["r"]
        shown = f"{r:g}" if not isinstance(r, dict) else _short(tuple(r.values()))
        cells = [_cell(row["accuracy"].get(variant), longest) for variant in variants]
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    if isinstance(outcome["rows"][0]["r"], dict):
        lines += ["", f"Layers, in this order: {', '.join(outcome['rows'][0]['r'])}."]
    lines += ["", f"Verdict (paired by seed, 95 % intervals): {outcome['verdict']}."]
    return "\n".join(lines) + "\n"


def _cell(cell: dict[str, Any] | None, longest: int) -> str:
    if cell is None:
        return "-"
    early = (
        ""
        if cell["top1"] is None or cell["epochs"] == longest
        else f" (stopped at epoch {cell['epochs']})"
    )
    return cell["text"] + early


def _short(radii: tuple[float, ...]) -> str:
    return " ".join(f"{r:.3g}" for r in radii)
