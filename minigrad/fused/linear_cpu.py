"""linear for NumPy arrays: matrix products on our own threads. Formula, names and [LI] numbers: linear.py."""
import numpy as np

from minigrad.backend import wide_dtype
from minigrad.blas import gemm
from minigrad.fused.linear import check_shapes
from minigrad.fused.linear import linear as definition
from minigrad.slot import DONE, SKIP


def forward(x, w, b=None):
    check_shapes(x, w, b)
    if _for_reference(x, w):
        return definition.reference(x, w, b)
    y = gemm(x.reshape(-1, w.shape[0]), w, bias=b)                                       # [LI1]
    return y.reshape(*x.shape[:-1], w.shape[1]), (x, w, b is not None)


def backward(dy, x, w, biased, into):
    into_x, into_w, into_b = into
    if _for_reference(x, w):
        return definition.reference_backward(dy, x, w, biased, into=into)
    rows, dx, dw, db = dy.reshape(-1, w.shape[1]), None, None, None                      # (N, out)
    if into_x is not SKIP:
        dx = gemm(rows, w.T).reshape(x.shape)                                            # [LI2]
    if biased and into_b is not SKIP:
        db = np.zeros(w.shape[1], wide_dtype(w.dtype))
    if into_w is not SKIP:
        if into_w is None:
            dw, beta = np.empty(w.shape, wide_dtype(w.dtype)), 0
        else:
            dw, beta = into_w.claim()
        gemm(x.reshape(-1, w.shape[0]).T, rows, dw, beta, totals=db)                     # [LI3,4]
    elif db is not None:
        db += rows.sum(0, dtype=db.dtype)                                                # [LI4]
    return dx, dw if into_w is None else DONE, db


def _for_reference(x, w):
    """Products with vectors, and of two dtypes, are nobody's bottleneck."""
    return x.dtype != w.dtype or x.ndim < 2


linear = forward, backward
