"""Both cross-entropies for NumPy arrays, in Numba and BLAS. Formula, names and [CE] numbers: cross_entropy.py."""
import numpy as np

from minigrad import pool
from minigrad.blas import gemm
from minigrad.fused import cross_entropy as formula
from minigrad.fused.math_cpu import exp, maximum
from minigrad.jit_cpu import jit


def rows_loss(z, y, e, want_gradient):
    losses, y = np.empty(len(z), z.dtype), y.astype(np.int64, copy=False)     # one kind of integer to compile for
    pool.each(_rows, len(z), 8 * z.size, z, y, z.dtype.type(e), want_gradient, losses)
    return losses, z if want_gradient else None


def forward(logits, targets, *, label_smoothing=0.0, needs=(True, False)):
    return formula.mean_loss(rows_loss, logits, targets, label_smoothing, needs)


def head_forward(x, w, targets, *, label_smoothing=0.0, needs=(True, True, False)):
    if x.dtype != w.dtype:
        return formula.linear_cross_entropy.reference(x, w, targets, label_smoothing=label_smoothing, needs=needs)
    return formula.in_chunks(gemm, rows_loss, x, w, targets, label_smoothing, needs)


@jit
def _rows(z, y, e, want_gradient, losses, lo, hi):
    """Rows lo..hi of z (N, V), overwritten by g if that is wanted; losses (N,), written."""
    V, one = z.dtype.type(z.shape[1]), z.dtype.type(1)
    for n in range(lo, hi):
        row = z[n]
        if y[n] < 0:
            losses[n] = 0
            if want_gradient:
                row[:] = 0
            continue
        m = row[0]
        for k in range(len(row)):
            m = maximum(m, row[k])
        s = total = z.dtype.type(0)
        at_y = row[y[n]] - m
        for k in range(len(row)):
            d = row[k] - m
            total += d
            p = exp(d)
            s += p                                                                       # [CE1]
            if want_gradient:
                row[k] = p
        losses[n] = np.log(s) - (one - e) * at_y                                         # [CE3]
        if e:
            losses[n] -= e * (total / V)
        if want_gradient:
            for k in range(len(row)):
                row[k] = row[k] / s - e / V                                              # [CE2], and t's even part
            row[y[n]] -= one - e


cross_entropy = forward, formula.cross_entropy.reference_backward
linear_cross_entropy = head_forward, formula.linear_cross_entropy.reference_backward
