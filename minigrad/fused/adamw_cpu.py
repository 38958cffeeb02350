"""adamw and sum_of_squares for NumPy arrays, in Numba. Formula, names and [AW] numbers: adamw.py."""
import math

import numpy as np

from minigrad import pool
from minigrad.fused.adamw import CHUNKS, UPPER, keep
from minigrad.jit_cpu import inline, jit
from minigrad.math_cpu import bits, wide


def adamw(p, g, m, v, master, *, lr, beta1, beta2, eps, decay, step, scale=1.0):
    lr, step, scale = float(lr), float(step), float(scale)
    if math.isnan(scale):                                                                # [AW8]
        return
    numbers = (1 - lr * decay, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1 ** step), math.sqrt(1 - beta2 ** step), eps,
               scale)
    numbers, g = tuple(v.dtype.type(x) for x in numbers), bits(g)
    if master is not None and master.dtype == np.int16:
        pool.each(_adamw_halves, p.size, 10 * p.size, bits(p), master, g, m, v, numbers)
        return
    pool.each(_adamw, p.size, 10 * p.size, p if master is None else master, g, m, v, numbers)
    keep(master, p, master)


@inline
def _step(p, g, m, v, numbers):
    """(p, m, v) after one step of one parameter."""
    shrink, gain1, beta2, gain2, rate, root, eps, scale = numbers
    g = g * scale
    m = m + gain1 * (g - m)                                                              # [AW2]
    v = beta2 * v + gain2 * (g * g)                                                      # [AW3]
    return p * shrink - rate * (m / (math.sqrt(v) / root + eps)), m, v                   # [AW1,4]


@jit
def _adamw(p, g, m, v, numbers, lo, hi):
    p, g, m, v = p[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi]
    for i in range(len(p)):
        p[i], m[i], v[i] = _step(p[i], wide(g[i]), m[i], v[i], numbers)


@jit
def _adamw_halves(p, rest, g, m, v, numbers, lo, hi):
    """p: bfloat16's bits. rest: int16."""
    p, rest, g, m, v = p[lo:hi], rest[lo:hi], g[lo:hi], m[lo:hi], v[lo:hi]
    for i in range(len(p)):
        u = np.uint32((np.uint32(p[i]) << np.uint32(16)) + np.uint32(np.int32(rest[i])))                 # [AW7]
        w, m[i], v[i] = _step(u.view(np.float32), wide(g[i]), m[i], v[i], numbers)
        u = np.float32(w).view(np.uint32)
        u = u if w == w else np.uint32(u & UPPER)
        high = np.uint32(np.uint32(u + np.uint32(0x8000)) >> np.uint32(16))                              # [AW6]
        p[i], rest[i] = high, np.uint32(u - np.uint32(high << np.uint32(16)))


def sum_of_squares(g):
    flat, parts = np.ascontiguousarray(bits(g)).reshape(-1), np.empty(CHUNKS)
    pool.each(_squares, CHUNKS, flat.size, flat, parts)
    return parts.sum()


@jit
def _squares(g, parts, lo, hi):
    """parts[c] = the sum over part c of CHUNKS."""
    for c in range(lo, hi):
        part, s = g[len(g) * c // CHUNKS:len(g) * (c + 1) // CHUNKS], 0.0
        for i in range(len(part)):
            s += np.float64(wide(part[i])) * np.float64(wide(part[i]))
        parts[c] = s
