"""Ours, for the bundled digits: a narrow VGGSmall and its twins.

    hbnn demo

trains the hyperbolic net, the plain-sign twin, that again with its flips asked for, and the float
twin, with one budget and seed. Settings were chosen on the validation split.
"""

from dataclasses import replace

from hbnn_larq.training.recipe import Recipe

HYPERBOLIC = Recipe(
    name="digits",
    source="ours: narrow VGGSmall on the bundled digits",
    dataset="digits",
    model="vgg_small",
    width=0.25,
    epochs=40,
    batch_size=32,
    learning_rate=0.1,
    weight_decay=5e-4,
    latent_decay=0.03,
)
STE_SIGN = replace(
    HYPERBOLIC,
    name="digits-ste-sign",
    source="ours: plain straight-through sign, otherwise as digits",
    kernel_quantizer="ste_sign",
)
GEODESIC = replace(
    STE_SIGN,
    name="digits-geodesic",
    source="ours: plain sign whose flips are asked for, Adam for the rest (docs/evidence.md)",
    optimizer="adam",
    learning_rate=0.003,
    threshold_rate=10.0,
    base_point_step="toward",
    base_point_rate=5.0,
    latent_decay=5e-4,  # without effect: asked flips know none, and base points step toward
    flip_rate=0.02,
    flip_memory=0.07,
)
FLOAT = replace(
    HYPERBOLIC,
    name="digits-float",
    source="ours: float twin of digits",
    kernel_quantizer=None,
    input_quantizer=None,
)
RECIPES = (HYPERBOLIC, STE_SIGN, GEODESIC, FLOAT)
