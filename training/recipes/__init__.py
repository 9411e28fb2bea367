"""All recipes, by name: one constant per row of the paper's tables, and small siblings."""

from __future__ import annotations

import difflib

from hbnn_larq.training.recipe import Recipe
from hbnn_larq.training.recipes import digits

__all__ = ["RECIPES", "find"]

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe for module in (digits,) for recipe in module.RECIPES
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
