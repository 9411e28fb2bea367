"""All recipes, by name: one constant per row of the paper's tables, and small siblings."""

from __future__ import annotations

import difflib

from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.recipes import cifar, digits, imagenet
from hbnn_larq.training.recipes.small import sibling

__all__ = ["PAPER", "RECIPES", "find"]

PAPER: tuple[Recipe, ...] = (*cifar.RECIPES, *imagenet.RECIPES)
RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for recipe in (*digits.RECIPES, *PAPER, *map(sibling, PAPER))
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
