r"""What a binary net does while it trains, as pure functions of arrays.

NumPy only: no model, no Keras. `hbnn_larq.callbacks` applies them to a model in training.

# References
- Flips against initialisation and their information gain: HBNN, Section 4 and Figure 3.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from hbnn_larq.arguments import require_between

__all__ = ["edge_share", "flip_share", "information_gain", "sign_entropy"]


def flip_share(before: ArrayLike, after: ArrayLike) -> float:
    """Share of binary weights whose sign differs between two moments.

    # Arguments
        before, after: arrays of one shape; an entry counts as positive where it is 0 or above
            (the rule of `larq.math.sign`), so latents, ±1 weights and booleans of signs all work.

    # Returns
        A share in [0, 1].

    # Raises
        ValueError: for different shapes or empty arrays.
    """
    before, after = np.asarray(before), np.asarray(after)
    if before.shape != after.shape:
        raise ValueError(
            f"flip_share: the arrays have shapes {before.shape} and {after.shape}; "
            "compare the same kernel at two moments."
        )
    if before.size == 0:
        raise ValueError("flip_share: the arrays are empty, so no share is defined.")
    return float(np.mean(_positive(before) != _positive(after)))


def information_gain(flip_probability: ArrayLike) -> np.ndarray:
    r"""Bits per weight that flipping with a given probability carries.

    \\[ H(q) = -q \log_2 q - (1 - q) \log_2 (1 - q) \\]

    # Arguments
        flip_probability: q, in [0, 1]; any shape.

    # Returns
        Bits in [0, 1], same shape: 0 at q = 0 and q = 1, largest at q = 1/2.

    # Raises
        ValueError: for a value outside [0, 1] or NaN.
    """
    q = np.asarray(flip_probability, dtype=np.float64)
    if not np.all((q >= 0) & (q <= 1)):
        raise ValueError(
            f"information_gain: a probability lies in [0, 1], got {flip_probability!r}."
        )
    bits = np.zeros_like(q)
    inside = (q > 0) & (q < 1)
    p = q[inside]
    bits[inside] = -p * np.log2(p) - (1 - p) * np.log2(1 - p)
    return bits


def sign_entropy(signs: ArrayLike) -> float:
    """Bits per weight in the balance of +1 and -1 of one kernel: 1 when half are positive.

    # Arguments
        signs: latents, ±1 weights or booleans of one kernel, any shape.

    # Returns
        Bits in [0, 1].

    # Raises
        ValueError: for an empty array.
    """
    signs = np.asarray(signs)
    if signs.size == 0:
        raise ValueError("sign_entropy: the array is empty, so no balance is defined.")
    return float(information_gain(np.mean(_positive(signs))))


def edge_share(p: ArrayLike, *, r: float, axis: int | tuple[int, ...]) -> np.ndarray:
    r"""How far base points stand from the centre of the Poincaré ball, \\(\sqrt{r} |p|\\).

    # Arguments
        p: base points.
        r: curvature strength; the ball has radius \\(1 / \sqrt{r}\\).
        axis: the axes that form one vector.

    # Returns
        One share per vector: 0 at the centre, 1 at the edge.

    # Raises
        ValueError: unless r is a finite number above 0.
    """
    require_between("edge_share", "r", r, 0, math.inf)
    p = np.asarray(p, dtype=np.float64)
    return np.sqrt(r * np.sum(p * p, axis=axis))


def _positive(array: np.ndarray) -> np.ndarray:
    return array if array.dtype == bool else array >= 0
