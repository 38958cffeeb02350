"""softmax and log_softmax for NumPy arrays, in Numba. Formula, names and [SM] numbers: softmax.py."""
import math

import numpy as np

from minigrad import pool
from minigrad.fused.softmax import check, seen
from minigrad.jit_cpu import inline, jit
from minigrad.math_cpu import bits, exp, floats, maximum, narrow, real, wide


def forward(x, *, axis=-1, causal=False):
    check(x, axis, causal)
    p = _run_forward(seen(x, -math.inf) if causal else x, axis, False)                   # [SM6]
    return p, (p, axis, causal)


def backward(dp, p, axis, causal, into=None):
    dx = _run_backward(seen(dp, 0) if causal else dp, p, axis, False)
    return (seen(dx, 0) if causal else dx,)                                              # [SM6]


def log_forward(x, *, axis=-1):
    check(x, axis)
    y = _run_forward(x, axis, True)
    return y, (y, axis)


def log_backward(dy, y, axis, into=None):
    return (_run_backward(dy, y, axis, True),)


def _run_forward(x, axis, log):
    rows = _rows(x, axis)
    y = np.empty(rows.shape, rows.dtype)
    pool.each(_forward, len(rows), 3 * rows.size, rows, y, log)
    return _restore(y, x, axis)


def _run_backward(dy, y, axis, log):
    rows = _rows(y, axis)
    dx = np.empty(rows.shape, rows.dtype)
    pool.each(_backward, len(rows), 2 * rows.size, _rows(dy, axis), rows, dx, log)
    return _restore(dx, y, axis)


def _rows(x, axis):
    """x as kernels take it, (N, D), the entries along axis being a row."""
    D = x.shape[axis]
    return np.ascontiguousarray(bits(x).swapaxes(axis, -1)).reshape(x.size // max(1, D), D)


def _restore(y, x, axis):
    """y, which has the layout of _rows(x, axis), in that of x."""
    return floats(y.reshape(x.swapaxes(axis, -1).shape).swapaxes(axis, -1), x.dtype)


@inline
def _minus(a, b):
    """a - b, not to be regrouped: reassoc would make (x - m) - log s into x - (m + log s), which loses log s."""
    return a - b


@jit
def _forward(x, y, log, lo, hi):
    """x, y: (N, D). y is p, or log p."""
    zero, one = real(0, x), real(1, x)
    e = np.full(x.shape[1], zero)      # in y it would be rounded before it is divided
    for n in range(lo, hi):
        row, out = x[n], y[n]
        m, s = wide(row[0]), zero
        for i in range(len(row)):
            m = maximum(m, wide(row[i]))
        for i in range(len(row)):
            e[i] = exp(wide(row[i]) - m)                                                 # [SM1]
        for i in range(len(e)):            # by itself: in a loop that stores, the order of a sum may hang on addresses
            s += e[i]
        if log:
            log_s = math.log(s)
            for i in range(len(row)):
                out[i] = narrow(_minus(wide(row[i]) - m, log_s), out)                    # [SM4]
        else:
            r = one / s
            for i in range(len(row)):
                out[i] = narrow(e[i] * r, out)                                           # [SM2]


@jit
def _backward(dy, y, dx, log, lo, hi):
    """dy, y, dx: (N, D)."""
    for n in range(lo, hi):
        d, row, out = dy[n], y[n], dx[n]
        t = real(0, y)
        if log:
            for i in range(len(row)):
                t += wide(d[i])
            for i in range(len(row)):
                out[i] = narrow(wide(d[i]) - exp(wide(row[i])) * t, out)                 # [SM5]
        else:
            for i in range(len(row)):
                t += wide(row[i]) * wide(d[i])
            for i in range(len(row)):
                out[i] = narrow(wide(row[i]) * (wide(d[i]) - t), out)                    # [SM3]


softmax, log_softmax = (forward, backward), (log_forward, log_backward)
