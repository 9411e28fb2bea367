"""Twins of a recipe: the boundary and the float net, which the paper's tables repeat for every
network, and plain sign with its flips asked for, which is ours.

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


def geodesic(recipe: Recipe) -> Recipe:
    """What we would train: plain sign by `optimizers.default` (measured in docs/evidence.md).

    Nets whose blocks add up to what is binarized get RBNN's activation, by which VGGSmall gains
    nothing.
    """
    adds_up = recipe.model != "vgg_small"
    activation = "RBNN's activation, " if adds_up else ""
    return replace(
        recipe,
        name=f"{recipe.name}-geodesic",
        source=f"ours: plain sign whose flips are asked for, {activation}Adam for the rest "
        "(docs/evidence.md)",
        kernel_quantizer="ste_sign",
        input_quantizer="rbnn_sign" if adds_up else recipe.input_quantizer,
        optimizer="adam",
        learning_rate=0.003,
        threshold_rate=10.0,
        base_point_step="toward",
        base_point_rate=5.0,
        latent_decay=recipe.weight_decay,  # without effect on flips that are asked for
        flip_rate=0.02,
        flip_memory=0.07,
        paper_top1=None,
        paper_top5=None,
    )
