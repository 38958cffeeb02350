"""layer_norm for NumPy arrays, in Numba. Formula, names and [LN] numbers: layer_norm.py."""
import math

import numpy as np

from minigrad import pool
from minigrad.backend import wide_dtype
from minigrad.fused.layer_norm import check_widths
from minigrad.jit_cpu import jit
from minigrad.math_cpu import bits, floats, narrow, real, wide

BLOCK, BLOCKS = 16, 64     # dw and db are summed in blocks of 16 rows or more, 64 of them at most


def forward(x, w, b, *, eps=1e-5):
    check_widths(x, w, b)
    rows, kind = _rows(x), wide_dtype(x.dtype)
    y, mu, rstd = np.empty(rows.shape, rows.dtype), np.empty(len(rows), kind), np.empty(len(rows), kind)
    pool.each(_forward, len(rows), rows.size, rows, bits(w), bits(b), eps, y, mu, rstd)
    return floats(y, x.dtype).reshape(x.shape), (x, w, mu, rstd)


def backward(dy, x, w, mu, rstd, into=None):
    rows, D = _rows(x), x.shape[-1]
    blocks = max(1, min(BLOCKS, len(rows) // BLOCK))       # by shape alone: no bit depends on the number of threads
    dx, parts, sums = np.empty(rows.shape, rows.dtype), np.empty((blocks, 2 * D), mu.dtype), np.empty(2 * D, mu.dtype)
    pool.each(_backward, blocks, 2 * rows.size, _rows(dy), rows, bits(w), mu, rstd, dx, parts)
    pool.each(_add_up, 2 * D, parts.size // 4, parts, sums)
    return floats(dx, x.dtype).reshape(x.shape), sums[:D], sums[D:]


def _rows(x):
    """x as kernels take it, (N, D)."""
    return np.ascontiguousarray(bits(x)).reshape(-1, x.shape[-1])


@jit
def _forward(x, w, b, eps, y, mu, rstd, lo, hi):
    """Rows lo..hi of x, y (N, D); w, b (D,); mu, rstd (N,), written."""
    D, zero, one = real(x.shape[1], x), real(0, x), real(1, x)
    for n in range(lo, hi):
        row, out = x[n], y[n]
        m = v = zero
        for i in range(len(row)):
            m += wide(row[i])
        m /= D                                                                           # [LN1]
        for i in range(len(row)):
            v += (wide(row[i]) - m) * (wide(row[i]) - m)
        r = one / math.sqrt(v / D + real(eps, x))                                        # [LN2]
        for i in range(len(row)):
            out[i] = narrow((wide(row[i]) - m) * r * wide(w[i]) + wide(b[i]), out)       # [LN3,4]
        mu[n], rstd[n] = m, r


@jit
def _backward(dy, x, w, mu, rstd, dx, parts, lo, hi):
    """Blocks lo..hi of the rows of dy, x, dx (N, D). Block c writes its share of dw and db into parts[c], (2 D,)."""
    (N, D), zero = x.shape, real(0, x)
    for c in range(lo, hi):
        parts[c] = 0
        dw, db = parts[c, :D], parts[c, D:]
        for n in range(N * c // len(parts), N * (c + 1) // len(parts)):
            row, d, out = x[n], dy[n], dx[n]
            m, r = mu[n], rstd[n]
            mean_g = mean_gx = zero
            for i in range(len(row)):
                g = wide(d[i]) * wide(w[i])
                mean_g += g
                mean_gx += g * (wide(row[i]) - m) * r
            mean_g /= real(D, x)
            mean_gx /= real(D, x)
            for i in range(len(row)):
                t = wide(d[i])
                xhat = (wide(row[i]) - m) * r                                            # [LN3]
                out[i] = narrow(r * (t * wide(w[i]) - mean_g - xhat * mean_gx), out)     # [LN6]
                dw[i] += t * xhat                                                        # [LN5]
                db[i] += t


@jit
def _add_up(parts, sums, lo, hi):
    """sums = the rows of parts added up, in columns lo..hi."""
    sums = sums[lo:hi]
    sums[:] = 0
    for c in range(len(parts)):
        part = parts[c, lo:hi]
        for i in range(len(sums)):
            sums[i] += part[i]


layer_norm = forward, backward
