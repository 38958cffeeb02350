"""matmul for NumPy arrays: one GEMM where b is a matrix, batches spread over the threads, gradients into their slots.

A product (..., K) @ (K, N) is a single one of (rows, K) by (K, N), and its db = a^T dy sums over all rows inside the
GEMM, where the reference makes a (K, N) for every leading index and adds them up afterwards.
"""
import math

import numpy as np

from minigrad import blas
from minigrad.backend import is_float, wide_dtype
from minigrad.ops.matmul import expect_fit, in_stacks
from minigrad.ops.matmul import matmul as definition
from minigrad.slot import DONE, SKIP


def _for_reference(a, b):
    """Vectors and integers are nobody's bottleneck."""
    return a.ndim < 2 or b.ndim < 2 or not (is_float(a.dtype) and is_float(b.dtype))


def forward(a, b):
    if _for_reference(a, b):
        return definition.reference(a, b)
    expect_fit(a, b)
    dtype = a.dtype if a.dtype == b.dtype else np.result_type(a, b)
    return _product(a, b, dtype), (a, b)


def backward(dy, a, b, into):
    if _for_reference(a, b):
        return definition.reference_backward(dy, a, b, into=into)
    da = db = None
    if into[0] is not SKIP:
        da = _into(into[0], dy, b.swapaxes(-1, -2))
    if into[1] is not SKIP:
        if b.ndim == 2:                                 # every row of every leading index adds to the one db
            a, dy = _rows(a), _rows(dy)
        db = _into(into[1], a.swapaxes(-1, -2), dy)
    return da, db


def _into(slot, a, b):
    """The gradient a b: added to its slot if a GEMM can, else returned."""
    dtype = np.result_type(wide_dtype(a.dtype), wide_dtype(b.dtype))
    if slot is None or not a.ndim == b.ndim == slot.array.ndim == 2 or a.dtype != b.dtype or slot.array.dtype != dtype:
        return _product(a, b, dtype)
    array, beta = slot.claim()
    blas.gemm(a, b, array, beta)
    return DONE


def _rows(x):
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _product(a, b, dtype):
    """a b, rounded to dtype at the end."""
    if a.dtype != b.dtype:
        both = np.result_type(wide_dtype(a.dtype), wide_dtype(b.dtype))
        return _product(a.astype(both), b.astype(both), both).astype(dtype, copy=False)
    if b.ndim == 2:
        rows = _rows(a)
        return blas.gemm(rows, b, np.empty((len(rows), b.shape[1]), dtype)).reshape(*a.shape[:-1], b.shape[-1])
    return in_stacks(blas.batch, a, b, dtype)


matmul = forward, backward
