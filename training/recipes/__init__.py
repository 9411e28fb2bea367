"""All recipes, by name: a constant per row of the paper's tables, what we would train instead, and
small siblings of both."""

from __future__ import annotations

import difflib

from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.recipes import cifar, digits, imagenet
from hbnn_larq.training.recipes.small import sibling
from hbnn_larq.training.recipes.twins import geodesic

__all__ = ["GEODESIC", "PAPER", "RECIPES", "find"]

PAPER: tuple[Recipe, ...] = (*cifar.RECIPES, *imagenet.RECIPES)
# One per network and data set of Tables 2 and 3.
GEODESIC: tuple[Recipe, ...] = tuple(
    geodesic(recipe)
    for recipe in PAPER
    if (recipe.kernel_quantizer, recipe.stop_epoch) == ("hyperbolic", None)
    and recipe.input_quantizer
)
_LARGE = (*PAPER, *GEODESIC)
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*digits.RECIPES, *_LARGE, *map(sibling, _LARGE))
}


def find(name: str) -> Recipe:
    """The recipe of a name.

    # Raises
        ValueError: for an unknown name, with the closest ones.
    """
    if name in RECIPES:
        return RECIPES[name]
    close = difflib.get_close_matches(name, RECIPES, n=3, cutoff=0.4)
    closest = f" Closest: {', '.join(close)}." if close else ""
    raise ValueError(f'no recipe "{name}".{closest} All of them: hbnn recipes')
