"""adamw and sum_of_squares for NumPy arrays, in Numba. Formula, names and [AW] numbers: adamw.py."""
import math

import numpy as np

from minigrad import pool
from minigrad.backend import wide
from minigrad.fused.adamw import CHUNKS
from minigrad.jit_cpu import jit


def adamw(p, g, m, v, master, *, lr, beta1, beta2, eps, decay, step, scale=1.0):
    w = p if master is None else master
    numbers = (1 - lr * decay, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1 ** step), math.sqrt(1 - beta2 ** step), eps,
               scale)
    pool.each(_adamw, w.size, 10 * w.size, w, wide(g), m, v, tuple(w.dtype.type(x) for x in numbers))
    if master is not None:
        pool.each(_round, p.size, 2 * p.size, p, master)


def _round(p, master, lo, hi):
    p[lo:hi] = master[lo:hi]


@jit
def _adamw(p, g, m, v, numbers, lo, hi):
    p, g, m, v = p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi]
    shrink, gain1, beta2, gain2, rate, root, eps, scale = numbers
    for i in range(len(p)):
        gi = g[i] * scale
        m[i] += gain1 * (gi - m[i])                                                      # [AW2]
        v[i] = beta2 * v[i] + gain2 * (gi * gi)                                          # [AW3]
        p[i] = p[i] * shrink - rate * m[i] / (math.sqrt(v[i]) / root + eps)              # [AW1,4]


def sum_of_squares(g):
    flat, parts = np.ascontiguousarray(wide(g)).reshape(-1), np.empty(CHUNKS)
    pool.each(_squares, CHUNKS, flat.size, flat, parts)
    return parts.sum()


@jit
def _squares(g, parts, lo, hi):
    """parts[c] = the sum over part c of CHUNKS."""
    for c in range(lo, hi):
        part, s = g[len(g) * c // CHUNKS:len(g) * (c + 1) // CHUNKS], 0.0
        for i in range(len(part)):
            s += np.float64(part[i]) * np.float64(part[i])
        parts[c] = s
