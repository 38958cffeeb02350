"""Matrix products on the CPU: out = beta out + a b, split over the pool, each piece by single-threaded BLAS.

NumPy's wheels carry OpenBLAS; its cblas_?gemm is reached by ctypes, because numpy.matmul can neither add into its
result (which weight gradients need) nor leave the threads to us. Where that library is not found (a NumPy built on
another BLAS), numpy.matmul does the work with the threads it has.

The first product here sets OpenBLAS to one thread for this process: two pools of threads fight (pool.py).
"""
import ctypes
import functools
import glob
import os

import numpy as np

from minigrad import pool

ROW_MAJOR, NO_TRANS, TRANS = 101, 111, 112
PIECE = 192          # rows (or columns) of a piece: enough to repay packing the other operand again


@functools.cache
def _openblas():
    """{dtype: cblas gemm} of NumPy's own OpenBLAS, its threads set to one; {} where it is not found."""
    for path in glob.glob(os.path.join(os.path.dirname(os.path.dirname(np.__file__)), "numpy.libs", "*openblas64*")):
        try:
            lib = ctypes.CDLL(path)
            lib.scipy_openblas_set_num_threads64_(1)
            found = {}
            for name, dtype, real in (("s", "float32", ctypes.c_float), ("d", "float64", ctypes.c_double)):
                f = getattr(lib, f"scipy_cblas_{name}gemm64_")
                i, p = ctypes.c_int64, ctypes.c_void_p
                f.argtypes = [ctypes.c_int] * 3 + [i, i, i, real, p, i, p, i, real, p, i]
                f.restype = None
                found[np.dtype(dtype)] = f
            return found
        except (OSError, AttributeError):
            continue
    return {}


def one_thread():
    """Take NumPy's BLAS down to one thread, for callers who spread their products over the pool themselves."""
    _openblas()


def _layout(a):
    """(a, transposed?, leading dimension): a as BLAS can read it; copied only if neither axis is contiguous."""
    (m, n), (down, across), size = a.shape, a.strides, a.itemsize
    if (across == size or n <= 1) and (down >= n * size and down % size == 0 or m <= 1):
        return a, NO_TRANS, max(down // size if m > 1 else n, n, 1)
    if (down == size or m <= 1) and (across >= m * size and across % size == 0 or n <= 1):
        return a, TRANS, max(across // size if n > 1 else m, m, 1)
    return np.ascontiguousarray(a), NO_TRANS, max(n, 1)


def gemm(a, b, out=None, beta=0.0):
    """out = beta out + a b, for a (M, K), b (K, N), out (M, N), all float32 or all float64. Returns out.

    a and b may be transposed or row-strided views; out has contiguous rows. The pieces depend on the shape alone,
    so the result does not depend on the number of threads.
    """
    (M, K), N = a.shape, b.shape[1]
    assert b.shape[0] == K and a.dtype == b.dtype, (a.shape, b.shape, a.dtype, b.dtype)
    if out is None:
        out, beta = np.empty((M, N), a.dtype), 0.0
    assert out.shape == (M, N) and out.dtype == a.dtype, (out.shape, out.dtype, (M, N), a.dtype)
    f = _openblas().get(a.dtype)
    if f is None or out.strides[1] != out.itemsize and N > 1 or 0 in (M, N, K):
        if beta:
            out += a @ b
        else:
            np.matmul(a, b, out=out)
        return out
    a, ta, lda = _layout(a)
    b, tb, ldb = _layout(b)
    ldc = out.strides[0] // out.itemsize if M > 1 else N
    rows = M >= N
    along = M if rows else N
    step = max(PIECE, -(-along // 64))
    pieces = -(-along // step)
    # Bytes from one row to the next of what is split: rows of a and out, or columns of b and out.
    move = a.strides[0] if rows else b.strides[1]
    move_out = out.strides[0] if rows else out.itemsize

    def piece(lo, hi):
        for i in range(lo, hi):
            at, n = i * step, min(step, along - i * step)
            pa, pb = a.ctypes.data + (at * move if rows else 0), b.ctypes.data + (0 if rows else at * move)
            f(ROW_MAJOR, ta, tb, n if rows else M, N if rows else n, K, 1.0, pa, lda, pb, ldb, beta,
              out.ctypes.data + at * move_out, ldc)

    pool.each(piece, pieces, M * N * K // 8)
    return out
