"""gelu for NumPy arrays, in Numba. Formula, names and [GE] numbers: gelu.py."""
import math

import numpy as np

from minigrad import pool
from minigrad.backend import wide
from minigrad.fused.gelu import A, C, check
from minigrad.fused.math_cpu import erf, exp
from minigrad.jit_cpu import jit

ROOT_HALF, PER_ROOT_2PI = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)


def forward(x, *, approximate="tanh"):
    check(approximate)
    flat = np.ascontiguousarray(wide(x)).reshape(-1)
    y = np.empty_like(flat)
    pool.each(_tanh_forward if approximate == "tanh" else _erf_forward, flat.size, 10 * flat.size, flat, y)
    return y.reshape(x.shape).astype(x.dtype, copy=False), (x, approximate)


def backward(dy, x, approximate, into=None):
    flat, dyf = (np.ascontiguousarray(wide(a)).reshape(-1) for a in (x, dy))
    dx = np.empty_like(flat)
    pool.each(_tanh_backward if approximate == "tanh" else _erf_backward, flat.size, 10 * flat.size, dyf, flat, dx)
    return (dx.reshape(x.shape).astype(x.dtype, copy=False),)


@jit
def _tanh_forward(x, y, lo, hi):
    x, y = x[lo:hi], y[lo:hi]
    one, c, a = x.dtype.type(1), x.dtype.type(2 * C), x.dtype.type(A)
    for i in range(len(x)):
        v = x[i]
        y[i] = v / (one + exp(-c * (v + a * (v * v * v))))                               # [GE3,4]


@jit
def _tanh_backward(dy, x, dx, lo, hi):
    dy, x, dx = dy[lo:hi], x[lo:hi], dx[lo:hi]
    one, c, a, a3 = x.dtype.type(1), x.dtype.type(2 * C), x.dtype.type(A), x.dtype.type(3 * A)
    for i in range(len(x)):
        v = x[i]
        s = one / (one + exp(-c * (v + a * (v * v * v))))                                # [GE4]
        dx[i] = dy[i] * (s + v * s * (one - s) * (c * (one + a3 * (v * v))))             # [GE5]


@jit
def _erf_forward(x, y, lo, hi):
    x, y = x[lo:hi], y[lo:hi]
    half, one, r = x.dtype.type(0.5), x.dtype.type(1), x.dtype.type(ROOT_HALF)
    for i in range(len(x)):
        y[i] = x[i] * half * (one + erf(x[i] * r))                                       # [GE1]


@jit
def _erf_backward(dy, x, dx, lo, hi):
    dy, x, dx = dy[lo:hi], x[lo:hi], dx[lo:hi]
    half, one = x.dtype.type(0.5), x.dtype.type(1)
    r, k = x.dtype.type(ROOT_HALF), x.dtype.type(PER_ROOT_2PI)
    for i in range(len(x)):
        v = x[i]
        dx[i] = dy[i] * (half * (one + erf(v * r)) + v * k * exp(-half * (v * v)))       # [GE2]


gelu = forward, backward
