"""adamw and sum_of_squares for NumPy arrays, in Numba. Formula, names and [AW] numbers: adamw.py."""
import math

import numpy as np

from minigrad import pool
from minigrad.fused.adamw import CHUNKS
from minigrad.jit_cpu import jit
from minigrad.math_cpu import bits, narrow, wide

BLOCK = 2048         # entries: what is rounded is still in the cache then


def adamw(p, g, m, v, master, *, lr, beta1, beta2, eps, decay, step, scale=1.0):
    w, g = p if master is None else master, bits(g)
    numbers = (1 - lr * decay, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1 ** step), math.sqrt(1 - beta2 ** step), eps,
               scale)
    rounded = bits(p) if master is not None and p.dtype != np.float16 else w[:0]
    pool.each(_adamw, -(-w.size // BLOCK), 10 * w.size, w, g, m, v, rounded, tuple(w.dtype.type(x) for x in numbers))
    if p.dtype == np.float16:
        p[...] = master                                  # Numba knows no float16


@jit
def _adamw(p, g, m, v, rounded, numbers, lo, hi):
    """Blocks lo..hi. rounded: where p is stored in 16 bits, or empty."""
    shrink, gain1, beta2, gain2, rate, root, eps, scale = numbers
    for start in range(lo * BLOCK, min(hi * BLOCK, len(p)), BLOCK):
        end = min(len(p), start + BLOCK)
        pb, gb, mb, vb = p[start:end], g[start:end], m[start:end], v[start:end]
        for i in range(len(pb)):
            gi = wide(gb[i]) * scale
            mb[i] += gain1 * (gi - mb[i])                                                # [AW2]
            vb[i] = beta2 * vb[i] + gain2 * (gi * gi)                                    # [AW3]
            pb[i] = pb[i] * shrink - rate * mb[i] / (math.sqrt(vb[i]) / root + eps)      # [AW1,4]
        if len(rounded):
            rb = rounded[start:end]
            for i in range(len(rb)):
                rb[i] = narrow(pb[i], rb)


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
