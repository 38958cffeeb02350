"""Both cross-entropies for NumPy arrays, in Numba and BLAS. Formula, names and [CE] numbers: cross_entropy.py."""
import math

import numpy as np

from minigrad import pool
from minigrad.blas import gemm
from minigrad.fused import cross_entropy as formula
from minigrad.jit_cpu import jit
from minigrad.math_cpu import bits, exp, maximum, narrow, real, wide
from minigrad.slot import DONE, SKIP


def rows_loss(z, y, e, want_gradient, g=None):
    """(l, g) of [CE1-3]. g is written over z, or rounded into an array of bfloat16 if one is given."""
    g, losses = z if g is None else g, np.empty(len(z), z.dtype)
    pool.each(_rows, len(z), 3 * z.size, z, bits(g), y.astype(np.int64, copy=False), e, want_gradient, losses)
    return losses, g if want_gradient else None


def forward(logits, targets, *, label_smoothing=0.0, into=(None, SKIP)):
    return formula.mean_loss(rows_loss, logits, targets, label_smoothing, into)


def head_forward(x, w, targets, *, label_smoothing=0.0, into=(None, None, SKIP)):
    if x.dtype != w.dtype or x.dtype.char == "e":
        return formula.linear_cross_entropy.reference(x, w, targets, label_smoothing=label_smoothing, into=into)

    def rows(z, y, e, want_gradient):
        rounded = np.empty(z.shape, x.dtype) if want_gradient and z.dtype != x.dtype else None
        return rows_loss(z, y, e, want_gradient, rounded)

    return formula.in_chunks(gemm, rows, x, w, targets, label_smoothing, into)


def head_backward(dy, dx, dw, n, shape, dtype, into):
    """[CE5,6] in one pass over dx and one over dw, which is added to its slot on the way or scaled where it lies."""
    if dtype.char == "e":
        return formula.linear_cross_entropy.reference_backward(dy, dx, dw, n, shape, dtype, into=into)
    factor = dy / n
    if dx is not None:
        gradient = np.empty(dx.shape, dtype)
        pool.each(_scaled, dx.size, dx.size, dx.reshape(-1), factor, bits(gradient).reshape(-1), 0)
        dx = gradient.reshape(shape)
    if dw is not None and into[1] is not SKIP:
        found = dw.array
        array, beta = (found, 0) if into[1] is None else into[1].claim(dw)
        if array is found:
            pool.each(_scale, found.size, found.size, found.reshape(-1), factor)
        else:
            pool.each(_scaled, found.size, found.size, found.reshape(-1), factor, array.reshape(-1), beta)
        dw = array if into[1] is None else DONE
    return dx, dw, None


@jit
def _scale(x, factor, lo, hi):
    """x *= factor"""
    x, factor = x[lo:hi], real(factor, x)
    for i in range(len(x)):
        x[i] *= factor


@jit
def _scaled(x, factor, out, beta, lo, hi):
    """out = factor x, or out += factor x for beta 1."""
    x, out, factor = x[lo:hi], out[lo:hi], real(factor, x)
    if beta:
        for i in range(len(x)):
            out[i] = narrow(wide(out[i]) + factor * x[i], out)
    else:
        for i in range(len(x)):
            out[i] = narrow(factor * x[i], out)


@jit
def _rows(z, g, y, e, want_gradient, losses, lo, hi):
    """Rows lo..hi of z (N, V). Written: losses (N,) and, if it is wanted, g (N, V), which may be z itself."""
    zero, one, V, e = real(0, z), real(1, z), real(z.shape[1], z), real(e, z)
    p = np.full(z.shape[1], zero)      # not in z: a loop that reads z and writes g, the same array, would not vectorise
    for n in range(lo, hi):
        row, out = z[n], g[n]
        if y[n] < 0:
            losses[n] = 0
            if want_gradient:
                out[:] = 0
            continue
        m = row[0]
        for k in range(len(row)):
            m = maximum(m, row[k])
        s = total = zero
        at_y = row[y[n]] - m
        for k in range(len(row)):
            p[k] = exp(row[k] - m)
        for k in range(len(p)):            # by itself: in a loop that stores, the order of a sum may hang on addresses
            s += p[k]                                                                    # [CE1]
        losses[n] = math.log(s) - (one - e) * at_y                                       # [CE3]
        if e:
            for k in range(len(row)):
                total += row[k] - m
            losses[n] -= e * (total / V)
        if want_gradient:
            r, even = one / s, e / V
            for k in range(len(row)):
                out[k] = narrow(p[k] * r - even, g)                                      # [CE2], and t's even part
            out[y[n]] = narrow(p[y[n]] * r - even - (one - e), g)


cross_entropy = forward, formula.cross_entropy.reference_backward
linear_cross_entropy = head_forward, head_backward
