"""Matrix products on the CPU: out = alpha a b + beta out (+ bias), on the pool's threads.

float32 and bfloat16 go to our own tile loop (gemm_cpu.py) if the processor has AVX2 or AVX-512; the rest, and float64,
to NumPy's OpenBLAS in pieces (openblas_cpu.py), or where that is not found to numpy.matmul. bfloat16 is multiplied as
float32 where there are no instructions for it.
"""
import numpy as np

from minigrad import gemm_cpu, openblas_cpu
from minigrad.backend import dtype_of, wide, wide_dtype


def multiplies(dtype):
    """Has this processor instructions for products of this dtype, and are they used here?"""
    return gemm_cpu.HAS.get(dtype_of(dtype).char, False)


def gemm(a, b, out=None, beta=0.0, alpha=1.0, bias=None, totals=None):
    """alpha a b + beta out + bias, in out, which is made (with a's dtype) if it is not given. Returns out.

    a (M, K) and b (K, N) of one dtype may be transposed or row-strided views; out (M, N), of their dtype or the wide
    one, has contiguous rows; bias (N,) is for beta 0. totals (N,), of the wide dtype: the sums of b's columns are added
    to it. The bits do not depend on the number of threads.
    """
    (M, K), N = a.shape, b.shape[1]
    assert b.shape[0] == K and a.dtype == b.dtype, (a.shape, b.shape, a.dtype, b.dtype)
    if out is None:
        out, beta = np.empty((M, N), a.dtype), 0.0
    else:
        assert out.shape == (M, N), (out.shape, (M, N))
        assert out.dtype in (a.dtype, wide_dtype(a.dtype)), (out.dtype, a.dtype)
        assert bias is None or not beta
    if a.dtype.char in gemm_cpu.WORDS and M * N * K and (N == 1 or out.strides[1] == out.itemsize):
        gemm_cpu.gemm(a, b, out, alpha, beta, bias, totals)
        return out
    if totals is not None:
        totals += wide(b).sum(0)
    if 0 in (M, N, K) or N > 1 and out.strides[1] != out.itemsize:
        out[...] = alpha * (wide(a) @ wide(b)) + (beta * wide(out) if beta else 0) + (0 if bias is None else wide(bias))
    elif a.dtype != wide_dtype(a.dtype):
        sums = out if out.dtype != a.dtype else wide(out) if beta else None
        out[...] = gemm(wide(a), wide(b), sums, beta, alpha, bias)
    else:
        if bias is not None:
            out[...], beta = bias, 1.0
        if openblas_cpu.available() and (M == 1 or out.strides[0] >= N * out.itemsize):
            openblas_cpu.gemm(a, b, out, alpha, beta)
        else:
            out[...] = alpha * (a @ b) + (beta * out if beta else 0)
    return out


def batch(a, b, out):
    """out[i] = a[i] b[i] for stacks of matrices of one dtype (n, M, K), (n, K, N), (n, M, N), one thread to each."""
    if a.dtype.char in gemm_cpu.WORDS and out.size and a.shape[-1] and out.strides[-1] == out.itemsize:
        gemm_cpu.batch(a, b, out)
    else:
        out[...] = wide(a) @ wide(b)
