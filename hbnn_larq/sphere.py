r"""Steps along great circles, for vectors of which only the direction counts.

`sign` ignores the length of a latent vector, so the vectors that matter form a sphere, and on it
the Riemannian exponential map is a rotation: from the unit vector \(\hat x\) by the angle
\(\theta\) towards \(-u\), with u a unit tangent vector,

\[ \hat x' = \cos\theta\, \hat x - \sin\theta\, u . \]

A sphere of any radius will do, that of the boundary of a Poincaré ball among them: the functions
here keep the length that they are given. Pure functions of tensors, float32 or float64.
"""

from __future__ import annotations

import tensorflow as tf

__all__ = ["geodesic_step", "tangent", "unit"]

Axis = int | tuple[int, ...]


def unit(x: tf.Tensor, *, axis: Axis) -> tuple[tf.Tensor, tf.Tensor]:
    """Vectors of length 1 with the directions of `x`, and the lengths.

    # Arguments
        x: Tensor of any shape.
        axis: Axes that together form one vector.

    # Returns
        `(direction, length)`: the first shaped like `x`, zero where the vector is zero; the
        second with dimensions kept. Lengths whose squares overflow or vanish are no trouble.
    """
    largest = tf.reduce_max(tf.abs(x), axis=axis, keepdims=True)
    scaled = tf.math.divide_no_nan(x, largest)
    norm = tf.sqrt(tf.reduce_sum(scaled * scaled, axis=axis, keepdims=True))
    return tf.math.divide_no_nan(scaled, norm), norm * largest


def tangent(direction: tf.Tensor, v: tf.Tensor, *, axis: Axis) -> tf.Tensor:
    """The part of `v` at right angles to unit vectors.

    # Arguments
        direction: Unit vectors (or zero, which leaves `v` as it is).
        v: Tensor of the same shape.
        axis: Axes that together form one vector.
    """
    return v - direction * tf.reduce_sum(direction * v, axis=axis, keepdims=True)


def geodesic_step(
    x: tf.Tensor, downhill: tf.Tensor, angle, *, axis: Axis, carry: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    r"""Turn vectors by an angle along the great circle away from `downhill`, keeping their length.

    \[ x' = |x| (\cos\theta\, \hat x - \sin\theta\, u), \qquad
       m' = m + \langle m, u \rangle (\cos\theta\, u + \sin\theta\, \hat x - u) \]

    with u the direction of `downhill` (a gradient: the step goes against it) and m' the parallel
    transport of m along the way, so that a tangent vector stays one and keeps its length.

    # Arguments
        x: Vectors, of any length. A zero vector has no direction and becomes -u.
        downhill: Tangent at x, of any length; where it is zero, x stays.
        angle: Radians, scalar.
        axis: Axes that together form one vector.
        carry: Tangent vectors m to take along.

    # Returns
        `(x', m')`, shaped like `x`.
    """
    direction, length = unit(x, axis=axis)
    u, steepness = unit(downhill, axis=axis)
    angle = tf.cast(angle, x.dtype)
    angle = tf.where(steepness > 0, angle, tf.zeros_like(angle))
    cos, sin = tf.cos(angle), tf.sin(angle)
    moved = length * (cos * direction - sin * u)
    along = tf.reduce_sum(carry * u, axis=axis, keepdims=True)
    carried = carry + along * (cos * u + sin * direction - u)
    return tf.where(length > 0, moved, -u), carried
