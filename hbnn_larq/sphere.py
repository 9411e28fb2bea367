r"""Steps along great circles, for vectors of which only the direction counts.

`sign` ignores the length of a latent vector, so the vectors that matter form a sphere, and on it
the Riemannian exponential map is a rotation: from the unit vector \(\hat x\) by the angle
\(\theta\) towards \(-u\), with u a unit tangent vector,

\[ \hat x' = \cos\theta\, \hat x - \sin\theta\, u . \]

A sphere of any radius will do, that of the boundary of a Poincaré ball among them: `turn` keeps
the length that it is given. Rotations and parallel transport are combinations of the vectors at
hand with coefficients from their inner products, so they are `hbnn_larq.span` as the maps of the
ball are, with its accuracy and speed.
"""

from __future__ import annotations

import tensorflow as tf

from hbnn_larq.span import Axis, span

__all__ = ["tangent", "transport", "turn"]

# A part at right angles to x that is smaller than this share of a vector (squared) is what
# rounding to float32 left there, and no direction.
_NO_DIRECTION = 1e-14


def tangent(x: tf.Tensor, v: tf.Tensor, *, axis: Axis) -> tf.Tensor:
    r"""The part of `v` at right angles to `x`, \(v - x \langle x, v\rangle / |x|^2\).

    # Arguments
        x: Vectors of any length; a zero vector leaves `v` as it is.
        v: Tensor of the same shape.
        axis: Axes that together form one vector.
    """
    return _span([x, v], _tangent_coefficients, (), axis)


def turn(x: tf.Tensor, uphill: tf.Tensor, angle, *, axis: Axis) -> tf.Tensor:
    r"""Turn vectors by an angle along the great circle away from `uphill`, keeping their length.

    \[ x' = \cos\theta\, x - \sin\theta\, |x|\, u, \qquad
       u = t / |t|, \qquad t = v - x \langle x, v\rangle / |x|^2 \]

    # Arguments
        x: Vectors of any length. A zero vector has no direction and becomes -u, at
            an angle other than 0.
        uphill: v, such as a gradient, of any length. Where it has no part at right angles to x,
            x stays.
        angle: Radians, scalar.
        axis: Axes that together form one vector.

    # Returns
        Tensor like `x`.
    """
    return _span([x, uphill], _turn_coefficients, (angle,), axis)


def transport(x: tf.Tensor, uphill: tf.Tensor, angle, carry: tf.Tensor, *, axis: Axis) -> tf.Tensor:
    r"""Carry tangent vectors along the way that `turn` goes (parallel transport).

    \[ m' = m + \langle m, u\rangle ((\cos\theta - 1)\, u + \sin\theta\, x / |x|) \]

    m' is tangent at the new point, as long as m, and at the same angle to the way.

    # Arguments
        x, uphill, angle, axis: As for `turn`.
        carry: Vectors whose tangent part at x is m. The same tensor as `uphill` is cheaper.

    # Returns
        Tensor like `x`. From a zero vector there is no way, and m' is 0.
    """
    if carry is uphill:
        return _span([x, uphill], _transport_along_coefficients, (angle,), axis)
    return _span([x, uphill, carry], _transport_coefficients, (angle,), axis)


def _span(vectors, coefficients, scalars, axis: Axis) -> tf.Tensor:
    return span([tf.convert_to_tensor(v) for v in vectors], coefficients, scalars, axis=axis)


def _tangent_coefficients(gram):
    (xx, xv), _ = gram
    return [-tf.math.divide_no_nan(xv, xx), tf.ones_like(xv)]


def _steepness(gram):
    """<x, v> / <x, x> and the length of the tangent part of v, 0 where it is none."""
    xx, xv, vv = gram[0][0], gram[0][1], gram[1][1]
    share = tf.math.divide_no_nan(xv, xx)
    squared = vv - share * xv
    return share, tf.sqrt(tf.where(squared > _NO_DIRECTION * vv, squared, 0.0))


def _turn_coefficients(gram, angle):
    xx = gram[0][0]
    share, steep = _steepness(gram)
    length = tf.where(xx > 0, tf.sqrt(xx), 1.0)
    # From a zero vector, -u is the only direction there is, whatever the angle but 0.
    sin = tf.where(xx > 0, tf.sin(angle), tf.cast(angle != 0, angle.dtype))
    ratio = tf.math.divide_no_nan(sin * length, steep)
    return [tf.where(steep > 0, tf.cos(angle), 1.0) + ratio * share, -ratio]


def _transport_along_coefficients(gram, angle):
    xx = gram[0][0]
    share, steep = _steepness(gram)
    moves = tf.where((steep > 0) & (xx > 0), 1.0, 0.0)
    cos = tf.cos(angle) * tf.cast(moves, angle.dtype)
    up = tf.math.divide_no_nan(tf.sin(angle) * steep, tf.sqrt(xx))
    return [up - cos * share, cos]


def _transport_coefficients(gram, angle):
    xx, xv, xm, vm = gram[0][0], gram[0][1], gram[0][2], gram[1][2]
    share, steep = _steepness(gram)
    of_carry = tf.math.divide_no_nan(xm, xx)
    along = tf.math.divide_no_nan(vm - of_carry * xv, steep)
    bend = tf.math.divide_no_nan(along * (tf.cos(angle) - 1.0), steep)
    up = tf.math.divide_no_nan(along * tf.sin(angle), tf.sqrt(xx))
    there = tf.cast(tf.where(xx > 0, 1.0, 0.0), xx.dtype)
    return [there * (up - of_carry - bend * share), there * bend, there]
