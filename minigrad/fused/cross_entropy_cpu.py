"""Both cross-entropies for NumPy arrays, in Numba and BLAS. Formula, names and [CE] numbers: cross_entropy.py."""
import numpy as np
from numba import njit

from minigrad import pool
from minigrad.blas import gemm
from minigrad.fused import cross_entropy as formula
from minigrad.fused.math_cpu import exp


def rows_loss(z, y, e, want_gradient):
    losses = np.empty(len(z), z.dtype)
    pool.each(_rows, len(z), 8 * z.size, z, y, z.dtype.type(e), want_gradient, losses)
    return losses, z if want_gradient else None


def forward(logits, targets, *, label_smoothing=0.0, needs=(True, False)):
    return formula.mean_loss(rows_loss, logits, targets, label_smoothing, needs)


def head_forward(x, w, targets, *, label_smoothing=0.0, needs=(True, True, False)):
    if x.dtype != w.dtype:
        return formula.linear_cross_entropy.reference(x, w, targets, label_smoothing=label_smoothing, needs=needs)
    return formula.in_chunks(gemm, rows_loss, x, w, targets, label_smoothing, needs)


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _rows(z, y, e, want_gradient, losses, lo, hi):
    """Rows lo..hi of z (N, V), overwritten by g; losses (N,), written."""
    V = z.shape[1]
    one = z.dtype.type(1)
    for n in range(lo, hi):
        if y[n] < 0:
            losses[n] = 0
            if want_gradient:
                z[n] = 0
            continue
        m = z[n, 0]
        for k in range(1, V):
            m = max(m, z[n, k])
        s = total = z.dtype.type(0)
        for k in range(V):
            total += z[n, k]
            s += exp(z[n, k] - m)
        lse = m + np.log(s)                                                              # [CE1]
        losses[n] = lse - (one - e) * z[n, y[n]]                                         # [CE3]
        if e:
            losses[n] -= e * (total / z.dtype.type(V))
        if want_gradient:
            for k in range(V):
                z[n, k] = exp(z[n, k] - lse) - e / z.dtype.type(V)                       # [CE2], and t's even part
            z[n, y[n]] -= one - e


cross_entropy = forward, formula.cross_entropy.reference_backward
linear_cross_entropy = head_forward, formula.linear_cross_entropy.reference_backward
