"""The exponential parametrization cluster (EPC), in our reading of it.

**What is the paper's.** Of the journal version (arXiv 2501.03471) only the abstract and one line
of a review are at hand: the weights come from unconstrained numbers "across a set" F of points
of the ball; against the plain exponential map this "shrinks the segment domain based on a
diffeomorphism", which raises the probability of weight flips and so the information gain. No
formula and no code is public.

**What is ours.** We read F as an ordered cluster of base points and the map as the chain of
their exponential maps, a point of the ball being the tangent vector of the next map:

\\[ \\phi_F = \\exp_{p_m} \\circ \\dots \\circ \\exp_{p_1}, \\qquad F = (p_1, \\dots, p_m). \\]

It has the three properties that the abstract claims, each held by a test:

1. It is a diffeomorphism onto its image, undone by `chain_inverse`. The last map sees tangent
   vectors of the ball instead of all of R^n, so the image stays off the edge, where Theorem 2
   of the paper says that the exponential map stops being a diffeomorphism: at p = 0 its radius
   is `tanh(1) / sqrt(r)` for two maps, `tanh(tanh(1)) / sqrt(r)` for three.
2. A step of the same size flips more signs.
3. So the information gain per weight, the entropy of a flip, is higher while training is short
   of flips.

A chain of one is `poincare.expmap`. Like every map here a chain of any length is one combination
of `(v, p_1, ..., p_m)` and costs one pass over memory.

# References
    - [Hyperbolic Binary Neural Network](https://arxiv.org/abs/2501.03471)
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from hbnn_larq import poincare
from hbnn_larq.span import Axis, span

__all__ = ["chain", "chain_inverse", "chain_sign"]


def chain(cluster: Sequence, v, *, r, axis: Axis) -> tf.Tensor:
    """The chain of exponential maps through the points of `cluster`, applied to `v`.

    # Arguments
        cluster: Base points p_1, ..., p_m, at least one; float32 or float64.
        v: Tangent vectors at p_1, of their shape and dtype.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Points of the ball.

    # Raises
        ValueError: the cluster is empty, `r` is not a number above 0, or `axis` names no axes.
        TypeError: the dtypes differ or are neither float32 nor float64.
    """
    return _chain("epc.chain", cluster, v, r, axis, sign=False)


def chain_sign(cluster: Sequence, v, *, r, axis: Axis) -> tf.Tensor:
    """`sign(chain(cluster, v))` with a straight-through gradient, unclipped.

    # Arguments
        cluster: Base points p_1, ..., p_m.
        v: Tangent vectors: the latent weights.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Tensor of -1 and +1; the sign of 0 is +1.

    # Raises
        ValueError, TypeError: as for `chain`.
    """
    return _chain("epc.chain_sign", cluster, v, r, axis, sign=True)


def chain_inverse(cluster: Sequence, w, *, r, axis: Axis) -> tf.Tensor:
    """The tangent vectors that `chain` sends to `w`: the logarithmic maps in reverse order.

    # Arguments
        cluster: Base points p_1, ..., p_m.
        w: Points of the image of `chain`.
        r: Strength of the curvature, above 0.
        axis: Axes that together form one vector.

    # Returns
        Tangent vectors at p_1.

    # Raises
        ValueError, TypeError: as for `chain`.
    """
    _require_points("epc.chain_inverse", cluster)
    for p in reversed(list(cluster)):
        w = poincare.logmap(p, w, r=r, axis=axis)
    return w


def _require_points(call: str, cluster: Sequence) -> None:
    if not len(cluster):
        raise ValueError(f"{call}(cluster=[]): a chain needs at least one base point.")


def _chain(call: str, cluster: Sequence, v, r, axis: Axis, sign: bool) -> tf.Tensor:
    _require_points(call, cluster)
    checked = [poincare.map_arguments(call, p, v, r, axis) for p in cluster]
    numbers = checked[0][2]
    vectors = [checked[0][1], *(p for p, _, _ in checked)]
    longest = None if sign else poincare.longest(r, v)
    return span(vectors, _chain_coefficients, numbers, axis=axis, sign=sign, longest=longest)


def _chain_coefficients(gram, r, margin):
    count = range(len(gram))
    # The tangent vector so far, as a combination of (v, p_1, ..., p_m).
    u = [tf.ones_like(gram[0][0]), *(tf.zeros_like(gram[0][0]) for _ in count[1:])]
    for k in count[1:]:
        P, pull = poincare.pulled_in(r * gram[k][k], margin)
        along = tf.add_n([u[i] * gram[i][k] for i in count])
        squared = tf.add_n([u[i] * u[j] * gram[i][j] for i in count for j in count])
        squared = tf.maximum(squared, 0.0)
        c_p, c_u = poincare.exp_coefficients(P, pull * r * along, r * squared)
        u = [c_u * a for a in u]
        u[k] = u[k] + pull * c_p
    return u
