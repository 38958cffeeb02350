"""NumPy's own OpenBLAS, one thread to a piece of the result, for processors and dtypes without a tile loop of ours.

NumPy's wheels carry the library; its cblas_?gemm is called from compiled code, because numpy.matmul can neither add
into its result (which weight gradients need) nor leave the threads to us. available() is False where it is not found
(a NumPy built on another BLAS). It sets OpenBLAS to one thread for this process: two pools of threads fight (pool.py).
"""
import ctypes
import functools
import glob
import os

import llvmlite.binding
import numpy as np
from numba import types
from numba.extending import overload

from minigrad import pool
from minigrad.jit_cpu import INLINE, jit

ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112
PIECE = 192          # rows (or columns) of a piece: enough to repay packing the other operand again


@functools.cache
def available():
    """Has NumPy's OpenBLAS been found, and set to one thread?"""
    for path in glob.glob(os.path.join(os.path.dirname(os.path.dirname(np.__file__)), "numpy.libs", "*openblas64*")):
        try:
            lib = ctypes.CDLL(path)
            if hasattr(lib, "scipy_cblas_sgemm64_") and hasattr(lib, "scipy_cblas_dgemm64_"):
                lib.scipy_openblas_set_num_threads64_(1)
                llvmlite.binding.load_library_permanently(path)
                return True
        except (OSError, AttributeError):
            continue
    return False


def _external(name, real):
    word, number = types.int64, types.int32
    return types.ExternalFunction(name, types.void(
        number, number, number, word, word, word, real, word, word, word, word, real, word, word))


sgemm = _external("scipy_cblas_sgemm64_", types.float32)
dgemm = _external("scipy_cblas_dgemm64_", types.float64)


def gemm(a, b, out, alpha, beta):
    """out = alpha a b + beta out, for float32 or float64 matrices; out has contiguous rows."""
    (M, K), N = a.shape, b.shape[1]
    (a, a_trans, lda), (b, b_trans, ldb), size = _layout(a), _layout(b), a.itemsize
    rows, steps = M >= N, out.strides[0] if M > 1 else N * size
    along = M if rows else N
    step = max(PIECE, -(-along // 64))
    # Bytes from one row to the next of what is split: rows of a and out, or columns of b and out.
    move, move_out = (a.strides[0], steps) if rows else (b.strides[1], size)
    pool.each(_pieces, -(-along // step), M * N * K // 8, a_trans, b_trans, rows, step, along, M, N, K,
              a.dtype.type(alpha), a.ctypes.data, lda, b.ctypes.data, ldb, a.dtype.type(beta), out.ctypes.data,
              steps // size, move, move_out)


def _layout(a):
    """(a, transposed?, leading dimension): a as BLAS can read it; copied only if neither axis is contiguous."""
    (m, n), (down, across), size = a.shape, a.strides, a.itemsize
    if (across == size or n <= 1) and (down >= n * size and down % size == 0 or m <= 1):
        return a, NO_TRANS, max(down // size if m > 1 else n, n, 1)
    if (down == size or m <= 1) and (across >= m * size and across % size == 0 or n <= 1):
        return a, TRANS, max(across // size if n > 1 else m, m, 1)
    return np.ascontiguousarray(a), NO_TRANS, max(n, 1)


def cblas(like, *args):
    """The routine for numbers like this one."""


@overload(cblas, jit_options=INLINE)
def _(like, *args):
    routine = sgemm if like == types.float32 else dgemm
    return lambda like, *args: routine(ROW_MAJOR, *args)


@jit
def _pieces(a_trans, b_trans, rows, step, along, M, N, K, alpha, a, lda, b, ldb, beta, out, ldc, move, move_out,
            lo, hi):
    for i in range(lo, hi):
        at, n = i * step, min(step, along - i * step)
        cblas(alpha, a_trans, b_trans, n if rows else M, N if rows else n, K, alpha, a + (at * move if rows else 0),
              lda, b + (0 if rows else at * move), ldb, beta, out + at * move_out, ldc)
