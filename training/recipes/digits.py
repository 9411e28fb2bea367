"""Ours, for the bundled digits: a narrow VGGSmall and its twins.

    hbnn demo

trains the hyperbolic net, the plain-sign twin, that again with its flips asked for, and the float
twin, with one budget and seed. Settings were chosen on the validation split.
"""

from dataclasses import replace

from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.recipes.twins import geodesic

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
GEODESIC = geodesic(HYPERBOLIC)
FLOAT = replace(
    HYPERBOLIC,
    name="digits-float",
    source="ours: float twin of digits",
    kernel_quantizer=None,
    input_quantizer=None,
)
RECIPES = (HYPERBOLIC, STE_SIGN, GEODESIC, FLOAT)
