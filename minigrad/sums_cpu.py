"""plus and sum_rows for NumPy arrays, in Numba: sums.py says what they are.

NumPy adds on one thread, and bfloat16 one by one. What is small, not contiguous, or of two shapes or dtypes is left
to it.
"""
import math

import numpy as np

from minigrad import pool
from minigrad.backend import wide_dtype
from minigrad.jit_cpu import jit
from minigrad.math_cpu import bits, narrow, wide
from minigrad.sums import plus as definition
from minigrad.sums import sum_rows as definition_of_rows

LEAST = {"f": 1 << 15, "d": 1 << 14, "E": 1 << 11}     # entries of float32, float64, bfloat16 that repay a launch


def worthwhile(a, b):
    """Can the kernels add b to a (or to each of a's leading entries), and is it quicker?"""
    return (type(a) is type(b) is np.ndarray and a.size >= LEAST.get(a.dtype.char, math.inf) and a.dtype == b.dtype
            and b.ndim and a.shape[-b.ndim:] == b.shape and a.flags.c_contiguous and b.flags.c_contiguous)


def plus(a, b, out=None):
    if not worthwhile(a, b) or out is not None and (out is not a or a.shape != b.shape):
        return definition.reference(a, b, out)
    if out is a:
        pool.each(_plus_into, a.size, a.size, bits(a).reshape(-1), bits(b).reshape(-1))
        return a
    y = np.empty(a.shape, a.dtype)
    pool.each(_plus, b.size, a.size, *(bits(x).reshape(-1, b.size) for x in (a, b, y)))
    return y


@jit
def _plus(a, b, y, lo, hi):
    """Columns lo..hi of y = a + b, for one row b."""
    b = b[0, lo:hi]
    for n in range(len(y)):
        row, out = a[n, lo:hi], y[n, lo:hi]
        for i in range(len(b)):
            out[i] = narrow(wide(row[i]) + wide(b[i]), out)


@jit
def _plus_into(a, b, lo, hi):
    """a += b. Not _plus(a, b, a): where arrays overlap, LLVM adds one by one."""
    a, b = a[lo:hi], b[lo:hi]
    for i in range(len(a)):
        a[i] = narrow(wide(a[i]) + wide(b[i]), a)


def sum_rows(g):
    if not g.flags.c_contiguous or g.dtype.char not in LEAST:
        return definition_of_rows.reference(g)
    total = np.zeros(g.shape[1], wide_dtype(g.dtype))
    pool.each(_sum_rows, len(total), g.size, bits(g), total)
    return total


@jit
def _sum_rows(g, total, lo, hi):
    """Columns lo..hi, each from the first row to the last."""
    total = total[lo:hi]
    for n in range(len(g)):
        row = g[n, lo:hi]
        for j in range(len(total)):
            total[j] += wide(row[j])
