"""What the geometry benchmark compares: ways to compute the same map, gradient and update.

A contender is a function that takes kernels and returns a call without arguments, which does the
work of all kernels once. A kernel is a triple of float32 arrays: p, v and the gradient dy of the
signs (for the update: p and the gradient of p, which is `dy`). `axis` is None where the whole
kernel is one vector, and (0, 1, 2) where each output filter is.
"""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from hbnn_larq import poincare

Kernel = tuple[np.ndarray, np.ndarray, np.ndarray]
Kernels = list[Kernel]
Call = Callable[[], Any]
LEARNING_RATE = 0.1
LANES = 32  # as in floor.c


def _axes(axis: tuple[int, ...] | None) -> tuple[int, ...]:
    return (0, 1, 2, 3) if axis is None else axis


# --- the floor ---------------------------------------------------------------------------------


def compile_floor() -> ctypes.CDLL:
    """floor.c as a shared library for this very processor.

    # Raises
        RuntimeError: there is no gcc, or it fails.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError("the memory floor is C code: install gcc, or pass --no-floor.")
    folder = tempfile.mkdtemp(prefix="hbnn_floor_")
    library = Path(folder) / "floor.so"
    source = Path(__file__).with_name("floor.c")
    command = [compiler, "-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
    command += ["-o", str(library), str(source), "-lm"]
    wide = "-mprefer-vector-width=512"  # worth a fifth where there is AVX-512; x86 only
    for options in ([wide], []):
        built = subprocess.run([*command, *options], capture_output=True, text=True)
        if built.returncode == 0:
            break
    if built.returncode:
        raise RuntimeError(f"{compiler} could not build {source}:\n{built.stderr}")
    loaded = ctypes.CDLL(str(library))
    shutil.rmtree(folder)
    return loaded


def _c_layout(x: np.ndarray, whole: bool) -> tuple[int, int]:
    if not whole:
        return x.size // x.shape[-1], x.shape[-1]
    return x.size // LANES, LANES  # a rest of up to 31 numbers is left out


def _address(x: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(x.ctypes.data)


def floor_map(kernels: Kernels, axis, r: float, library: ctypes.CDLL) -> Call:
    outputs = [[np.zeros_like(v) for _ in range(3)] for _, v, _ in kernels]
    return _floor_calls(kernels, axis, library, outputs, update=False)


def floor_update(kernels: Kernels, axis, r: float, library: ctypes.CDLL) -> Call:
    outputs = [[np.zeros_like(v)] for _, v, _ in kernels]
    return _floor_calls(kernels, axis, library, outputs, update=True)


def _floor_calls(kernels, axis, library, outputs, update: bool) -> Call:
    whole = axis is None
    sizes = [_c_layout(v, whole) for _, v, _ in kernels]
    work = np.zeros(8 * max(columns for _, columns in sizes))

    def run():
        for (p, v, dy), out, size in zip(kernels, outputs, sizes, strict=True):
            head = (int(whole), *(ctypes.c_size_t(n) for n in size))
            ends = [_address(x) for x in (*out, work)]
            if update:
                library.update(*head, _address(p), _address(dy), *ends)
            else:
                inputs = [_address(p), _address(v)]
                library.forward(*head, *inputs, ends[0], ends[-1])
                library.backward(*head, *inputs, _address(dy), *ends[1:])

    return run


def copy(kernels: Kernels, axis, r: float) -> Call:
    """One read and one write of one array a kernel: the machine's speed in one number."""
    outputs = [np.zeros_like(v) for _, v, _ in kernels]

    def run():
        for (_, v, _), out in zip(kernels, outputs, strict=True):
            np.copyto(out, v)

    return run


# --- ours --------------------------------------------------------------------------------------


def _graph(one_kernel, kernels: Kernels, jit_compile: bool = False) -> Call:
    """One graph that does all kernels and hands all results out, so that none can be pruned."""
    tensors = [tuple(tf.constant(x) for x in kernel) for kernel in kernels]
    run = tf.function(
        lambda all_kernels: [one_kernel(*kernel) for kernel in all_kernels],
        jit_compile=jit_compile,
        autograph=False,
    )
    return lambda: run(tensors)


def _with_gradients(signs):
    def one_kernel(p, v, dy):
        with tf.GradientTape() as tape:
            tape.watch([p, v])
            value = signs(p, v)
        return value, *tape.gradient(value, [p, v], output_gradients=dy)

    return one_kernel


def our_map(kernels: Kernels, axis, r: float) -> Call:
    return _graph(
        _with_gradients(lambda p, v: poincare.expmap_sign(p, v, r=r, axis=_axes(axis))), kernels
    )


def our_map_without_xla(kernels: Kernels, axis, r: float) -> Call:
    run = our_map(kernels, axis, r)
    before = os.environ.get("HBNN_LARQ_XLA")
    os.environ["HBNN_LARQ_XLA"] = "0"  # read when the graph is traced, in the first call
    try:
        run()
    finally:
        if before is None:
            del os.environ["HBNN_LARQ_XLA"]
        else:
            os.environ["HBNN_LARQ_XLA"] = before
    return run


def our_update(kernels: Kernels, axis, r: float) -> Call:
    def step(p, v, dy):
        return poincare.mobius_step(p, dy, r=r, axis=_axes(axis), learning_rate=LEARNING_RATE)

    return _graph(step, kernels)


# --- the plain formula in TensorFlow ops -------------------------------------------------------


def _dot(x, y, axis):
    return tf.reduce_sum(x * y, axis, keepdims=True)


def _plain_mobius_add(p, q, r, axis):
    pp, pq, qq = _dot(p, p, axis), _dot(p, q, axis), _dot(q, q, axis)
    numerator = (1 + 2 * r * pq + r * qq) * p + (1 - r * pp) * q
    return numerator / (1 + 2 * r * pq + r**2 * pp * qq)


def _plain_expmap(p, v, r, axis):
    half_lambda = 1 / (1 - r * _dot(p, p, axis))
    s = tf.sqrt(r * _dot(v, v, axis))
    return _plain_mobius_add(p, tf.tanh(half_lambda * s) * v / s, r, axis)


@tf.custom_gradient
def _straight_through_sign(w):
    return tf.sign(tf.sign(w) + 0.5), lambda dy: dy


def plain_map(kernels: Kernels, axis, r: float, jit_compile: bool = False) -> Call:
    def signs(p, v):
        return _straight_through_sign(_plain_expmap(p, v, r, _axes(axis)))

    return _graph(_with_gradients(signs), kernels, jit_compile)


def plain_update(kernels: Kernels, axis, r: float, jit_compile: bool = False) -> Call:
    def step(p, v, g):
        s = tf.sqrt(r * _dot(g, g, _axes(axis)))
        moved = -tf.tanh(LEARNING_RATE * tf.atanh(tf.minimum(s, 1 - 1e-6))) * g / s
        return _plain_mobius_add(p, moved, r, _axes(axis))

    return _graph(step, kernels, jit_compile)


# --- geoopt ------------------------------------------------------------------------------------


def _torch_kernels(kernels: Kernels, axis):
    """torch tensors with vectors contiguous in the last axis, which is geoopt's best layout."""
    import torch

    def laid_out(x):
        rows = x.reshape(1, -1) if axis is None else x.reshape(-1, x.shape[-1]).T
        return torch.from_numpy(np.ascontiguousarray(rows))

    return [tuple(laid_out(x) for x in kernel) for kernel in kernels]


def _torch_map(kernels: Kernels, axis, expmap) -> Call:
    import torch

    tensors = _torch_kernels(kernels, axis)
    for p, v, _ in tensors:
        p.requires_grad_(True)
        v.requires_grad_(True)

    def run():
        results = []
        for p, v, dy in tensors:
            w = expmap(p, v)
            results.append((torch.sign(w.detach()), *torch.autograd.grad(w, (p, v), dy)))
        return results

    return run


def geoopt_map(kernels: Kernels, axis, r: float) -> Call:
    """`PoincareBall.expmap`, as a user of geoopt would write it."""
    import geoopt

    ball = geoopt.PoincareBall(c=r)
    return _torch_map(kernels, axis, ball.expmap)


def geoopt_math_map(kernels: Kernels, axis, r: float) -> Call:
    """The formula inside, without projection and with the curvature as an exact number."""
    import torch
    from geoopt.manifolds.stereographic import math

    k = torch.tensor(-r)
    return _torch_map(kernels, axis, lambda p, v: math.expmap(p, v, k=k))


def geoopt_update(kernels: Kernels, axis, r: float) -> Call:
    import geoopt
    import torch

    ball = geoopt.PoincareBall(c=r)
    tensors = _torch_kernels(kernels, axis)
    rate = torch.tensor(-LEARNING_RATE)

    def run():
        with torch.no_grad():
            return [
                ball.mobius_add(p, ball.mobius_scalar_mul(rate, ball.projx(g)))
                for p, _, g in tensors
            ]

    return run
