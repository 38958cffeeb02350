"""matmul on the GPU: a product of matrices is one of cuBLASLt's, and so is a stack of them."""
import math

import numpy as np

from minigrad import blas_gpu
from minigrad.backend import xp_of
from minigrad.ops.matmul import expect_fit, in_stacks
from minigrad.ops.matmul import matmul as definition
from minigrad.slot import DONE, SKIP


def _for_reference(a, b):
    """Vectors, integers, float64 and two dtypes are nobody's bottleneck."""
    return a.ndim < 2 or b.ndim < 2 or not blas_gpu.multiplies(a, b)


def forward(a, b):
    if _for_reference(a, b):
        return definition.reference(a, b)
    expect_fit(a, b)
    return _product(a, b, a.dtype), (a, b)


def backward(dy, a, b, into):
    if _for_reference(a, b):
        return definition.reference_backward(dy, a, b, into=into)
    da, db, dy = None, None, dy.astype(a.dtype, copy=False)
    if into[0] is not SKIP:
        da = _into(into[0], dy, b.swapaxes(-1, -2), a.shape)
    if into[1] is not SKIP:
        rows = (_rows(a), _rows(dy)) if b.ndim == 2 else (a, dy)         # every row of every matrix adds to the one db
        db = _into(into[1], rows[0].swapaxes(-1, -2), rows[1], b.shape)
    return da, db


def _into(slot, a, b, shape):
    """The gradient a b of an argument of this shape: added to its slot if it is a matrix, else returned; where the
    engine will add it up, in float32."""
    if slot is None or a.ndim > 2 or b.ndim > 2:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        return _product(a, b, a.dtype if slot is None and lead == shape[:-2] else np.dtype("float32"))
    blas_gpu.gemm(a, b, *slot.claim())
    return DONE


def _rows(x):
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _product(a, b, dtype):
    """a b, rounded to dtype at the end."""
    xp = xp_of(a)
    if b.ndim == 2:
        rows = _rows(a)
        y = blas_gpu.gemm(rows, b, xp.empty((len(rows), b.shape[1]), dtype))
        return y.reshape(*a.shape[:-1], b.shape[-1])
    return in_stacks(blas_gpu.batch, a, b, dtype)


matmul = forward, backward
