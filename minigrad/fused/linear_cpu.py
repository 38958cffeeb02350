"""linear for NumPy arrays: BLAS on our own threads. Formula, names and [LI] numbers: linear.py."""
import numpy as np

from minigrad.backend import wide
from minigrad.blas import gemm
from minigrad.fused.linear import check_shapes
from minigrad.fused.linear import linear as definition
from minigrad.tensor import DONE, SKIP


def forward(x, w, b=None):
    check_shapes(x, w, b)
    if x.dtype != w.dtype or x.ndim < 2:
        return definition.reference(x, w, b)
    rows = wide(x).reshape(-1, w.shape[0])                                               # (N, in)
    y = np.empty((len(rows), w.shape[1]), rows.dtype)
    if b is not None:
        y[...] = b
    gemm(rows, wide(w), y, beta=float(b is not None))                                    # [LI1]
    return y.reshape(*x.shape[:-1], w.shape[1]).astype(x.dtype, copy=False), (x, w, b is not None)


def backward(dy, x, w, biased, into):
    into_x, into_w, into_b = into
    if x.dtype != w.dtype or x.ndim < 2:
        return definition.reference_backward(dy, x, w, biased, into=into)
    rows = wide(dy).reshape(-1, w.shape[1])                                              # (N, out)
    dx = dw = db = None
    if into_x is not SKIP:
        dx = gemm(rows, wide(w).T).reshape(x.shape).astype(x.dtype, copy=False)          # [LI2]
    if into_w is not SKIP:
        xt = wide(x).reshape(-1, w.shape[0]).T                                           # (in, N)
        if into_w is None:
            dw = gemm(xt, rows)                                                          # [LI3]
        else:
            array, beta = into_w.claim()
            gemm(xt, rows, array, beta)                                                  # [LI3]
            dw = DONE
    if biased and into_b is not SKIP:
        db = rows.sum(0)                                                                 # [LI4]
    return dx, dw, db


linear = forward, backward
