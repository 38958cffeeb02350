"""gelu for NumPy arrays, in Numba. Formula, names and [GE] numbers: gelu.py.

The formulas stand in inlined functions, where LLVM may not regroup (jit_cpu.py), and no sum in them has two products,
of which it could fuse either with the addition: it would choose otherwise for the last entries of a thread's range,
which are not taken in vectors, and then bits would depend on the number of threads.
"""
import math

import numpy as np

from minigrad import pool
from minigrad.fused.gelu import A, C, check
from minigrad.jit_cpu import inline, jit
from minigrad.math_cpu import bits, erf, exp, floats, narrow, real, wide

ROOT_HALF, PER_ROOT_2PI = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)


def forward(x, *, approximate="tanh"):
    check(x, approximate)
    flat = bits(x).ravel()
    y = np.empty(x.shape, flat.dtype)
    pool.each(_tanh_forward if approximate == "tanh" else _erf_forward, flat.size, 2 * flat.size, flat, y.ravel())
    return floats(y, x.dtype), (x, approximate)


def backward(dy, x, approximate, into=None):
    flat = bits(x).ravel()
    dx = np.empty(x.shape, flat.dtype)
    pool.each(_tanh_backward if approximate == "tanh" else _erf_backward, flat.size, 2 * flat.size, bits(dy).ravel(),
              flat, dx.ravel())
    return (floats(dx, x.dtype),)


@inline
def gate(v, x):
    one, c, a = real(1, x), real(2 * C, x), real(A, x)
    return one / (one + exp(-c * (v + a * (v * v * v))))                                 # [GE3,4]


@inline
def _tanh_slope(v, x):
    one, c, a3, s = real(1, x), real(2 * C, x), real(3 * A, x), gate(v, x)
    return s + v * s * (one - s) * (c * (one + a3 * (v * v)))                            # [GE5]


@inline
def _twice_phi(v, x):
    return real(1, x) + erf(v * real(ROOT_HALF, x))                                      # [GE1]


@inline
def _erf_slope(v, x):
    half, k = real(0.5, x), real(2 * PER_ROOT_2PI, x)
    return half * (_twice_phi(v, x) + v * (k * exp(-half * (v * v))))                    # [GE2]


@jit
def _tanh_forward(x, y, lo, hi):
    x, y = x[lo:hi], y[lo:hi]
    for i in range(len(x)):
        v = wide(x[i])
        y[i] = narrow(v * gate(v, x), y)


@jit
def _tanh_backward(dy, x, dx, lo, hi):
    dy, x, dx = dy[lo:hi], x[lo:hi], dx[lo:hi]
    for i in range(len(x)):
        dx[i] = narrow(wide(dy[i]) * _tanh_slope(wide(x[i]), x), dx)


@jit
def _erf_forward(x, y, lo, hi):
    x, y = x[lo:hi], y[lo:hi]
    half = real(0.5, x)
    for i in range(len(x)):
        v = wide(x[i])
        y[i] = narrow(v * half * _twice_phi(v, x), y)


@jit
def _erf_backward(dy, x, dx, lo, hi):
    dy, x, dx = dy[lo:hi], x[lo:hi], dx[lo:hi]
    for i in range(len(x)):
        dx[i] = narrow(wide(dy[i]) * _erf_slope(wide(x[i]), x), dx)


gelu = forward, backward
