"""softmax and log_softmax for NumPy arrays, in Numba. Formula, names and [SM] numbers: softmax.py."""
import math

import numpy as np

from minigrad import pool
from minigrad.backend import wide
from minigrad.fused.math_cpu import exp, maximum
from minigrad.jit_cpu import inline, jit


def _pair(log):
    def forward(x, *, axis=-1):
        rows, restore = _rows(x, axis)
        y = np.empty_like(rows)
        pool.each(_forward, len(rows), 10 * rows.size, rows, y, log)
        y = restore(y)
        return y, (y, axis)

    def backward(dy, y, axis, into=None):
        (dyr, _), (yr, restore) = _rows(dy, axis), _rows(y, axis)
        dx = np.empty_like(yr)
        pool.each(_backward, len(yr), 10 * yr.size, dyr, yr, dx, log)
        return (restore(dx),)

    return forward, backward


def _rows(x, axis):
    """x as wide contiguous (N, D) with axis last, and the function that turns such an array back."""
    moved = np.moveaxis(x, axis, -1)
    rows = np.ascontiguousarray(wide(moved)).reshape(-1, x.shape[axis]) if x.size else np.empty((0, 1), wide(x).dtype)
    return rows, lambda y: np.moveaxis(y.reshape(moved.shape), -1, axis).astype(x.dtype, copy=False)


@inline
def _minus(a, b):
    """a - b, not to be regrouped: reassoc would make (x - m) - log s into x - (m + log s), which loses log s."""
    return a - b


@jit
def _forward(x, y, log, lo, hi):
    """x, y: (N, D). y is p, or log p."""
    for n in range(lo, hi):
        row, out = x[n], y[n]
        m = row[0]
        for i in range(len(row)):
            m = maximum(m, row[i])
        s = x.dtype.type(0)
        for i in range(len(row)):
            out[i] = exp(row[i] - m)                                                     # [SM1]
            s += out[i]
        if log:
            log_s = math.log(s)
            for i in range(len(row)):
                out[i] = _minus(row[i] - m, log_s)                                        # [SM4]
        else:
            for i in range(len(row)):
                out[i] /= s                                                              # [SM2]


@jit
def _backward(dy, y, dx, log, lo, hi):
    """dy, y, dx: (N, D)."""
    for n in range(lo, hi):
        d, row, out = dy[n], y[n], dx[n]
        t = y.dtype.type(0)
        if log:
            for i in range(len(row)):
                t += d[i]
            for i in range(len(row)):
                out[i] = d[i] - exp(row[i]) * t                                          # [SM5]
        else:
            for i in range(len(row)):
                t += row[i] * d[i]
            for i in range(len(row)):
                out[i] = row[i] * (d[i] - t)                                             # [SM3]


softmax, log_softmax = _pair(False), _pair(True)
