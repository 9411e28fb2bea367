"""The rows that the paper's tables repeat for every network: the boundary and the float twin.

A claim belongs to one row, so a twin never keeps that of the recipe it is made from.
"""

from dataclasses import replace

from hbnn_larq.training.recipe import Recipe


def boundary(recipe: Recipe, *, top1: float, top5: float | None = None) -> Recipe:
    """The row of the boundary of D_1."""
    return replace(
        recipe,
        name=f"{recipe.name}-boundary",
        source=recipe.source.replace("D_0.05", "boundary of D_1"),
        kernel_quantizer="hyperbolic_boundary",
        r=1.0,
        paper_top1=top1,
        paper_top5=top5,
    )


def full_precision(recipe: Recipe, *, top1: float, top5: float | None = None) -> Recipe:
    """The row of the network with real weights and activations."""
    return replace(
        recipe,
        name=f"{recipe.name}-float",
        source=recipe.source.replace("W/A 1/1, D_0.05", "full precision"),
        kernel_quantizer=None,
        input_quantizer=None,
        paper_top1=top1,
        paper_top5=top5,
    )
