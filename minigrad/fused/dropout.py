r"""Dropout with a mask that is computed, not stored: a pure function of where and when it is used.

Forward, with drop probability p and independent m_i = 1 with probability 1 - p, else 0:
    y_i  = m_i x_i / (1 - p)                                                               [DR1]
so that the mean of y over masks is x and evaluation needs no factor. Backward, y being linear in x:
    dx_i = m_i dy_i / (1 - p)                                                              [DR2]

The mask. Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) scrambles a counter
of four 32-bit words under a key of two; counters that differ in one bit give words that look independent. With (h, l)
the high and the low 32 bits of a product, one round is
    (h0, l0) = 0xD2511F53 c0,   (h1, l1) = 0xCD9E8D57 c2
    (c0, c1, c2, c3) <- (h1 ^ c1 ^ k0,  l1,  h0 ^ c3 ^ k1,  l0)                            [DR3]
and between its ten rounds the key moves on:  k0 += 0x9E3779B9,  k1 += 0xBB67AE85  (mod 2^32)    [DR4]

One scrambled counter serves four neighbours. For element i (its index in C order in the whole array) of the dropout
site in micro-batch micro of optimiser step step, in a run with seed:
    k0, k1 = low and high half of seed (64 bits)
    c0 = i // 4,  c1 = site,  c2 = micro,  c3 = step                                       [DR5]
    m_i = (word number i % 4 of the scrambled counter) >= round(p 2^32)                    [DR6]
Arrays may have up to 2^34 elements.

Saved: p and the key (seed, step, micro, site), nothing else; backward computes the mask again. So recompute, resume,
and another cut of the work into threads or processes see the same mask without any state to rewind.
A dropped entry is 0 even where x is inf or NaN.
"""
import math

import numpy as np

from minigrad.backend import wide, xp_of
from minigrad.check import expect, expect_floats
from minigrad.tensor import op

MULTIPLY = 0xD2511F53, 0xCD9E8D57
ADVANCE = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF


@op(kernels=("cpu", "gpu"))
def dropout(x, *, p, key):
    """y = x m / (1 - p), m_i = 0 with probability p. key = (seed, step, micro, site) decides m. p = 0 returns x."""
    expect_floats("dropout", x)
    check(p, key, x.size)
    if p == 0:
        return x, (p, key)
    return _masked(x, p, key), (p, key)                                                  # [DR1]


@dropout.backward
def _(dy, p, key):
    """dx = dy m / (1 - p)"""
    return (dy if p == 0 else _masked(dy, p, key),)                                      # [DR2]


def _masked(x, p, key):
    xp = xp_of(x)
    y = xp.where(keep_mask(x.shape, p, key, xp=xp), wide(x) * (1 / (1 - p)), 0)
    return y.astype(x.dtype, copy=False)


def check(p, key, size):
    """Refuse what [DR5] and [DR6] cannot express."""
    if not 0 <= p < 1:
        expect(False, "dropout", f"p = {p}", "0 <= p < 1", "p is the probability of dropping an entry")
    if np.shape(key) != (4,) or not all(hasattr(n, "__index__") for n in key):
        expect(False, "dropout", f"key = {key}", "(seed, step, micro, site), four integers")
    if not 0 <= min(key[1:]) <= max(key[1:]) <= LOW:
        expect(False, "dropout", f"key = {key}", "step, micro and site from 0 to 2^32 - 1")
    if size > 2 ** 34:
        expect(False, "dropout", f"{size} elements", "at most 2^34, so that the counter does not repeat")


def keep_mask(shape, p, key, start=0, xp=np):
    """m as a boolean array. start: the index, in the array that is masked, of the first element of this one."""
    n = math.prod(shape)
    counter, keys = counter_and_keys(key)
    first = start // 4
    blocks = xp.arange(first, (start + n + 3) // 4, dtype="uint64")
    words = xp.stack(philox((blocks, *counter), keys), -1).reshape(-1)
    at = start - 4 * first
    return (words[at:at + n] >= threshold(p)).reshape(shape)                             # [DR6]


def counter_and_keys(key):
    """((c1, c2, c3), (k0, k1)) of [DR5] as Python integers."""
    seed, step, micro, site = key
    return (int(site), int(micro), int(step)), (int(seed) & LOW, int(seed) >> 32 & LOW)


def threshold(p):
    """Words below this drop their entry."""
    return min(round(p * 2 ** 32), LOW)


def philox(counter, key):
    """The four output words of Philox-4x32-10, as integers or uint64 arrays of numbers below 2^32."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        a, b = MULTIPLY[0] * c0, MULTIPLY[1] * c2
        c0, c1, c2, c3 = b >> 32 ^ c1 ^ k0, b & LOW, a >> 32 ^ c3 ^ k1, a & LOW          # [DR3]
        k0, k1 = k0 + ADVANCE[0] & LOW, k1 + ADVANCE[1] & LOW                            # [DR4]
    return c0, c1, c2, c3
