"""attention for NumPy arrays, in Numba, one head of one sequence at a time. Formula, names and [AT] numbers:
attention.py. No T x T array exists, and nothing above the diagonal is computed."""
import math

import numpy as np

from minigrad import pool
from minigrad.backend import wide
from minigrad.fused.attention import check
from minigrad.fused.dropout_cpu import keep_range, masks
from minigrad.jit_cpu import inline, jit
from minigrad.math_cpu import exp, maximum


def forward(qkv, *, n_head, dropout=None):
    check(qkv, n_head, dropout)
    (B, T, C3), x = qkv.shape, np.ascontiguousarray(wide(qkv))
    y, lse = np.empty((B, T, C3 // 3), x.dtype), np.empty((B, n_head, T), x.dtype)
    pool.each(_forward, B * n_head, 2 * B * T * T * C3 // 3, x, y, lse, *scales(x, n_head, dropout))
    y = y.astype(qkv.dtype, copy=False)
    return y, (qkv, y, lse, n_head, dropout)


def backward(dy, qkv, y, lse, n_head, dropout, into):
    (B, T, C3), x = qkv.shape, np.ascontiguousarray(wide(qkv))
    dx, dy, y = np.empty_like(x), np.ascontiguousarray(dy, x.dtype), np.ascontiguousarray(y, x.dtype)
    pool.each(_backward, B * n_head, 5 * B * T * T * C3 // 3, dy, x, y, lse, dx, *scales(x, n_head, dropout))
    return (dx.astype(qkv.dtype, copy=False),)


def scales(x, n_head, dropout):
    """(1 / sqrt(D), 1 / (1 - rate), how to draw the masks) for the kernels; a rate of 0 draws nothing."""
    rate, key = dropout or (0.0, (0, 0, 0, 0))
    kind, D = x.dtype.type, x.shape[-1] // 3 // n_head
    return kind(1 / math.sqrt(D)), kind(1 / (1 - rate)), masks(rate, key)


@inline
def dots(rows, vector, n, out):
    """out[j] = sum_d vector[d] rows[d, j] for j < n: four rows a pass, so that out is read and written less."""
    D = len(vector)
    for j in range(n):
        out[j] = 0
    for d in range(0, D - D % 4, 4):
        a, b, c, e = vector[d], vector[d + 1], vector[d + 2], vector[d + 3]
        for j in range(n):
            out[j] += a * rows[d, j] + b * rows[d + 1, j] + c * rows[d + 2, j] + e * rows[d + 3, j]
    for d in range(D - D % 4, D):
        for j in range(n):
            out[j] += vector[d] * rows[d, j]


@jit
def _forward(x, y, lse, scale, grow, how, lo, hi):
    """Heads lo..hi (of B * H) of x = qkv (B, T, 3C); y (B, T, C) and lse (B, H, T), written."""
    B, T, C3 = x.shape
    H, C = lse.shape[1], C3 // 3
    D = C // H
    s, z, q, total = np.empty(T, x.dtype), np.empty(T, x.dtype), np.empty(D, x.dtype), np.empty(D, x.dtype)
    for head in range(lo, hi):
        n, h = head // H, head % H
        k = x[n, :, C + h * D:C + h * D + D].T.copy()                                    # (D, T)
        v = x[n, :, 2 * C + h * D:2 * C + h * D + D].copy()                              # (T, D)
        for i in range(T):
            for d in range(D):
                q[d] = x[n, i, h * D + d] * scale
            dots(k, q, i + 1, s)                                                         # [AT1]
            m = s[0]
            for j in range(1, i + 1):
                m = maximum(m, s[j])
            sum_p = x.dtype.type(0)
            for j in range(i + 1):
                s[j] = exp(s[j] - m)
                sum_p += s[j]
            lse[n, h, i] = m + np.log(sum_p)                                             # [AT2]
            if how[5]:
                keep_range(how, ((n * H + h) * T + i) * T, grow, z[:i + 1])
                for j in range(i + 1):
                    s[j] *= z[j]                                                         # [AT4]
            for d in range(D):
                total[d] = 0
            for j in range(i + 1):
                for d in range(D):
                    total[d] += s[j] * v[j, d]                                           # [AT5]
            for d in range(D):
                y[n, i, h * D + d] = total[d] / sum_p                                    # [AT3]


@jit
def _backward(dy, x, y, lse, dx, scale, grow, how, lo, hi):
    """Heads lo..hi of dy, y (B, T, C), x = qkv (B, T, 3C), lse (B, H, T); dx = dqkv, written."""
    B, T, C3 = x.shape
    H, C = lse.shape[1], C3 // 3
    D = C // H
    p, z, ds = np.empty(T, x.dtype), np.empty(T, x.dtype), np.empty(T, x.dtype)
    q, g, dq = np.empty(D, x.dtype), np.empty(D, x.dtype), np.empty(D, x.dtype)
    dk, dv = np.empty((T, D), x.dtype), np.empty((T, D), x.dtype)
    for head in range(lo, hi):
        n, h = head // H, head % H
        k = x[n, :, C + h * D:C + h * D + D].copy()                                      # (T, D)
        kt, vt = k.T.copy(), x[n, :, 2 * C + h * D:2 * C + h * D + D].T.copy()           # (D, T)
        dk[:], dv[:] = 0, 0
        for i in range(T):
            delta = x.dtype.type(0)
            for d in range(D):
                q[d], g[d], dq[d] = x[n, i, h * D + d] * scale, dy[n, i, h * D + d], 0
                delta += g[d] * y[n, i, h * D + d]                                       # [AT8]
            dots(kt, q, i + 1, p)                                                        # [AT1]
            dots(vt, g, i + 1, ds)                                                       # [AT7]
            if how[5]:
                keep_range(how, ((n * H + h) * T + i) * T, grow, z[:i + 1])
            else:
                z[:i + 1] = 1
            for j in range(i + 1):
                p[j] = exp(p[j] - lse[n, h, i])                                          # [AT3]
                ds[j] = p[j] * (z[j] * ds[j] - delta)                                    # [AT9]
                p[j] *= z[j]                                                             # [AT4]
            for j in range(i + 1):
                for d in range(D):
                    dq[d] += ds[j] * k[j, d]                                             # [AT10]
                    dk[j, d] += ds[j] * q[d]                                             # [AT10]
                    dv[j, d] += p[j] * g[d]                                              # [AT6]
            for d in range(D):
                dx[n, i, h * D + d] = dq[d] * scale
        for i in range(T):
            for d in range(D):
                dx[n, i, C + h * D + d], dx[n, i, 2 * C + h * D + d] = dk[i, d], dv[i, d]


attention = forward, backward
