"""dropout for NumPy arrays, in Numba. Formula, names and [DR] numbers: dropout.py.

keep_range() is for attention too, which drops entries of something that it never stores.
"""
import numpy as np

from minigrad import pool
from minigrad.check import expect_floats
from minigrad.fused.dropout import ADVANCE, LOW, MULTIPLY, check, counter_and_keys, threshold
from minigrad.jit_cpu import inline, jit
from minigrad.math_cpu import bits, floats, narrow, real, wide

M0, M1, A0, A1, MASK, HALF, TWO, THREE = map(np.uint64, (*MULTIPLY, *ADVANCE, LOW, 32, 2, 3))
BLOCK = 2048     # entries, a multiple of four: their mask is used while it is in the nearest cache


def forward(x, *, p, key):
    expect_floats("dropout", x)
    check(p, key, x.size)
    return (x if p == 0 else _masked(x, p, key)), (p, key)                               # [DR1]


def backward(dy, p, key, into=None):
    return (dy if p == 0 else _masked(dy, p, key),)                                      # [DR2]


def _masked(x, p, key):
    flat = bits(x).ravel()
    y = np.empty(x.shape, flat.dtype)
    pool.each(_drop, -(-flat.size // BLOCK), 3 * flat.size, flat, y.ravel(), 1 / (1 - p), masks(p, key))
    return floats(y, x.dtype)


def masks(p, key):
    """(k0, k1, c1, c2, c3, threshold): what keep_range() wants to be told."""
    counter, keys = counter_and_keys(key)
    return *keys, *counter, threshold(p)


@inline
def philox(c0, c1, c2, c3, k0, k1):
    """Numbers below 2^32 in uint64, which LLVM knows to multiply as 32 by 32 bits."""
    for _ in range(10):
        a, b = M0 * c0, M1 * c2
        c0, c1, c2, c3 = b >> HALF ^ c1 ^ k0, b & MASK, a >> HALF ^ c3 ^ k1, a & MASK      # [DR3]
        k0, k1 = k0 + A0 & MASK, k1 + A1 & MASK                                            # [DR4]
    return c0, c1, c2, c3


@inline
def unsigned(how):
    """masks(), which come as Python's integers, for arithmetic in uint64: int64 with uint64 would make floats."""
    k0, k1, c1, c2, c3, least = how
    return np.uint64(k0), np.uint64(k1), np.uint64(c1), np.uint64(c2), np.uint64(c3), np.uint64(least)


@inline
def keep(how, index):
    """Does entry index (uint64) stay? A whole block of four for one answer: for the odd entry only."""
    k0, k1, c1, c2, c3, least = unsigned(how)
    w = philox(index >> TWO, c1, c2, c3, k0, k1)                                         # [DR5]
    i = index & THREE
    return (w[0] if i == 0 else w[1] if i == 1 else w[2] if i == 2 else w[3]) >= least   # [DR6]


@jit
def keep_range(how, start, scale, out):
    """out[j] = scale if entry start + j stays, else 0: a row of m / (1 - p) of [DR1]. out: (n,) floats."""
    k0, k1, c1, c2, c3, least = unsigned(how)
    n = len(out)
    head = min(n, -start % 4)
    for j in range(head):
        out[j] = scale if keep(how, np.uint64(start + j)) else 0
    first, blocks = np.uint64((start + head) // 4), (n - head) // 4
    body = out[head:head + 4 * blocks]
    for b in range(blocks):
        w0, w1, w2, w3 = philox(first + np.uint64(b), c1, c2, c3, k0, k1)                # [DR5]
        body[4 * b] = scale if w0 >= least else 0                                        # [DR6]
        body[4 * b + 1] = scale if w1 >= least else 0
        body[4 * b + 2] = scale if w2 >= least else 0
        body[4 * b + 3] = scale if w3 >= least else 0
    for j in range(head + 4 * blocks, n):
        out[j] = scale if keep(how, np.uint64(start + j)) else 0


@jit
def _drop(x, y, scale, how, lo, hi):
    """x, y: flat. Blocks lo..hi of BLOCK entries, of which the last may be shorter."""
    zero = real(0, x)
    mask = np.full(BLOCK, zero)
    for b in range(lo, hi):
        part, out = x[b * BLOCK:(b + 1) * BLOCK], y[b * BLOCK:(b + 1) * BLOCK]
        m = mask[:len(part)]
        keep_range(how, b * BLOCK, real(scale, x), m)
        for i in range(len(part)):
            out[i] = narrow(wide(part[i]) * m[i], y) if m[i] != zero else 0              # [DR1]


dropout = forward, backward
