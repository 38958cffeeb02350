"""layer_norm for NumPy arrays, in Numba. Formula, names and [LN] numbers: layer_norm.py."""
import numpy as np

from minigrad import pool
from minigrad.backend import wide
from minigrad.fused.layer_norm import check_widths
from minigrad.jit_cpu import jit

CHUNKS = 64     # rows are summed in 64 fixed blocks, so dw and db do not depend on the number of threads


def forward(x, w, b, *, eps=1e-5):
    check_widths(x, w, b)
    rows = np.ascontiguousarray(wide(x)).reshape(-1, x.shape[-1])
    y, mu, rstd = np.empty_like(rows), np.empty(len(rows), rows.dtype), np.empty(len(rows), rows.dtype)
    pool.each(_forward, len(rows), 4 * rows.size, rows, wide(w).astype(rows.dtype), wide(b).astype(rows.dtype),
              rows.dtype.type(eps), y, mu, rstd)
    per_row = (*x.shape[:-1], 1)
    y = y.reshape(x.shape).astype(x.dtype, copy=False)
    return y, (x, w, mu.reshape(per_row), rstd.reshape(per_row))


def backward(dy, x, w, mu, rstd, into):
    D = x.shape[-1]
    rows = np.ascontiguousarray(wide(x)).reshape(-1, D)
    dy = np.ascontiguousarray(dy, rows.dtype).reshape(-1, D)
    dx, dw, db = np.empty_like(rows), np.zeros((CHUNKS, D), rows.dtype), np.zeros((CHUNKS, D), rows.dtype)
    pool.each(_backward, CHUNKS, 8 * rows.size, dy, rows, wide(w).astype(rows.dtype), mu.ravel(), rstd.ravel(),
              dx, dw, db)
    return dx.reshape(x.shape).astype(x.dtype, copy=False), dw.sum(0), db.sum(0)


@jit
def _forward(x, w, b, eps, y, mu, rstd, lo, hi):
    """Rows lo..hi of x, y (N, D); w, b (D,); mu, rstd (N,), written."""
    D = x.shape[1]
    for n in range(lo, hi):
        m = x.dtype.type(0)
        for i in range(D):
            m += x[n, i]
        m /= x.dtype.type(D)                                                             # [LN1]
        v = x.dtype.type(0)
        for i in range(D):
            v += (x[n, i] - m) * (x[n, i] - m)
        r = x.dtype.type(1) / np.sqrt(v / x.dtype.type(D) + eps)                         # [LN2]
        for i in range(D):
            y[n, i] = (x[n, i] - m) * r * w[i] + b[i]                                    # [LN3,4]
        mu[n], rstd[n] = m, r


@jit
def _backward(dy, x, w, mu, rstd, dx, dw, db, lo, hi):
    """Chunks lo..hi of the rows of dy, x, dx (N, D); chunk c sums into row c of dw, db (CHUNKS, D)."""
    N, D = x.shape
    for c in range(lo, hi):
        for n in range(N * c // CHUNKS, N * (c + 1) // CHUNKS):
            m, r = mu[n], rstd[n]
            mean_g = mean_gx = x.dtype.type(0)
            for i in range(D):
                g = dy[n, i] * w[i]
                mean_g += g
                mean_gx += g * (x[n, i] - m) * r
            mean_g /= x.dtype.type(D)
            mean_gx /= x.dtype.type(D)
            for i in range(D):
                xhat = (x[n, i] - m) * r                                                 # [LN3]
                dx[n, i] = r * (dy[n, i] * w[i] - mean_g - xhat * mean_gx)               # [LN6]
                dw[c, i] += dy[n, i] * xhat                                              # [LN5]
                db[c, i] += dy[n, i]


layer_norm = forward, backward
