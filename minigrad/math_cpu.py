r"""exp, tanh, erf and maximum for Numba kernels, in a form that LLVM turns into vector instructions.

A call of libm's expf inside a loop keeps the loop scalar (5 ns an entry). These are plain arithmetic without a branch
or a call, inlined into the loop they stand in, which LLVM then vectorises (0.3 ns an entry with AVX-512).
They take float32 or float64 and answer in the same type:

    from minigrad.math_cpu import exp
    @jit
    def f(x): return exp(x)

exp. Write x = n ln 2 + r with n the integer nearest to x / ln 2, so that |r| <= ln(2)/2 = 0.3466:
    n   = round(x / ln 2),   r = x - n ln 2                                                [MA1]
    e^r = 1 + q,             q = r + r^2/2! + r^3/3! + ... + r^D/D!                        [MA2]
    e^x = 2^n (1 + q)                                                                      [MA3]
The first term left out of [MA2] is 5e-9 for D = 7 (float32) and 4e-18 for D = 13 (float64), a tenth of an ulp or less.
Rounding to n: adding 1.5 2^(mantissa bits) pushes the fraction out of the number and leaves n in its lowest bits.
ln 2 is subtracted in two parts, the first so short that n times it is exact. 2^n is built in the exponent bits, in two
factors, because n runs from -150 to 128 (float32) where a single one would not fit: so too large an x gives inf
and a very small one the right denormal number or 0. NaN stays NaN.

tanh. With E = e^(2x) - 1, which [MA2] gives without cancellation near 0,
    E = 2^n q + (2^n - 1),   n and q those of 2x                                           [MA4]
    tanh x = (e^(2x) - 1) / (e^(2x) + 1) = E / (E + 2)                                     [MA5]

erf. special.py's [ER1] and [ER2], both computed, one selected.

The functions carry the fastmath flag contract and no other: reassoc would fold (x + big) - big to x. A function that
names no flags would inherit its caller's. With error_model="numpy" a division by 0 gives inf or NaN; Numba's default
is a branch to an exception at every division, and the loop stays scalar.
"""
import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from minigrad import special
from minigrad.jit_cpu import INLINE, inline

# What Numba replaces by the overloads below; the numbers are the largest errors measured, in units of the last place.

def exp(x):
    """e^x within 0.9 ulp, in float32 and float64 alike."""


def tanh(x):
    """tanh x within 2.6 ulp (float32) and 2.8 ulp (float64)."""


def erf(x):
    """erf x within 3.6 ulp (float32) and 3.3 ulp (float64), which is 2.3e-16."""


def _parts(real):
    """(float type, integer type, split, power): split(x) = (n, q) of [MA1,2], power(n) = 2^n."""
    if real == types.float32:
        f, i, mantissa, bias, degree = np.float32, np.int32, 23, 127, 7
        high, low = f(0.693359375), f(-2.1219444005469057e-4)
    else:
        f, i, mantissa, bias, degree = np.float64, np.int64, 52, 1023, 13
        high, low = f(6.93147180369123816490e-01), f(1.90821492927058770002e-10)
    per_ln2, big = f(1 / math.log(2)), f(1.5 * 2.0 ** mantissa)
    big_bits = big.view(i)
    last, rest = f(1 / math.factorial(degree)), tuple(f(1 / math.factorial(k)) for k in range(degree - 1, 0, -1))

    @inline
    def split(x):
        shifted = f(x * per_ln2 + big)
        n = shifted - big
        r = x - n * high - n * low                                                       # [MA1]
        q = last
        for c in rest:
            q = q * r + c
        return i(shifted.view(i) - big_bits), q * r                                      # [MA2]

    @inline
    def power(n):
        return f(i((n + i(bias)) << i(mantissa)).view(f))

    return f, i, split, power


@overload(exp, jit_options=INLINE)
def _(x):
    f, i, split, power = _parts(x)
    least, most = (f(-104), f(89)) if f is np.float32 else (f(-746), f(710))

    def impl(x):
        x = most if x > most else x                      # written so that NaN passes
        x = least if x < least else x
        n, q = split(x)
        half = i(n >> i(1))
        return (f(1) + q) * power(half) * power(i(n - half))                             # [MA3]
    return impl


@overload(tanh, jit_options=INLINE)
def _(x):
    f, _, split, power = _parts(x)

    def impl(x):
        x = f(20) if x > f(20) else x                    # tanh 20 rounds to 1
        x = f(-20) if x < f(-20) else x
        n, q = split(x + x)
        p = power(n)
        e = p * q + (p - f(1))                                                           # [MA4]
        return e / (e + f(2))                                                            # [MA5]
    return impl


@overload(erf, jit_options=INLINE)
def _(x):
    f = np.float32 if x == types.float32 else np.float64
    p1, q1, p2, q2 = (tuple(map(f, c)) for c in (special.P1, special.Q1, special.P2, special.Q2))
    small, one = f(special.SMALL), f(special.ONE)

    @inline
    def ratio(p, q, x):
        above, below = p[0], q[0]
        for c in p[1:]:
            above = above * x + c
        for c in q[1:]:
            below = below * x + c
        return above / below

    def impl(x):
        size = abs(x)
        inner = x * ratio(p1, q1, x * x)                                                 # [ER1]
        far = one if size > one else size
        outer = f(1) - exp(-far * far) * ratio(p2, q2, far)                              # [ER2]
        return inner if size <= small else outer if x > f(0) else -outer
    return impl


@intrinsic
def maximum(typing, a, b):
    """The larger of two numbers, NaN if one of them is. Unlike max(a, b), a loop of it vectorises."""
    def generate(context, builder, signature, args):
        real = args[0].type
        return builder.call(builder.module.declare_intrinsic("llvm.maximum", [real], ir.FunctionType(real, [real] * 2)),
                            args)
    return a(a, a), generate


# ----------------------------------------------------------------------------------------------------- 16-bit floats
# Numba has no bfloat16: kernels are given its bits as uint16, widen what they load and narrow what they store.

def bits(x):
    """x as kernels take it: bfloat16 as uint16, float16 (which they do not know) as float32, the rest as it is."""
    kind = x.dtype.char                                # E: bfloat16, e: float16; dtype.name takes 3 microseconds
    return x.view(np.uint16) if kind == "E" else x.astype(np.float32) if kind == "e" else x


def floats(x, dtype):
    """What bits() hid: x, from a kernel, as an array of dtype again."""
    return x.view(dtype) if x.dtype.char == "H" else x.astype(dtype, copy=False)


def wide(x):
    """A number from an array: uint16 is bfloat16's bits and becomes float32."""


def narrow(x, array):
    """x as a number to store in the array: rounded to bfloat16's bits, to nearest and ties to even, for uint16."""


def real(value, array):
    """value as a number of the float type in which sums over the array are taken."""


@overload(wide, jit_options=INLINE)
def _(x):
    if x == types.uint16:
        return lambda x: np.uint32(np.uint32(x) << np.uint32(16)).view(np.float32)
    return lambda x: x


@overload(real, jit_options=INLINE)
def _(value, array):
    kind = types.float32 if array.dtype == types.uint16 else array.dtype
    return lambda value, array: kind(value)


@overload(narrow, jit_options=INLINE)
def _(x, array):
    if array.dtype != types.uint16:
        kind = array.dtype
        return lambda x, array: kind(x)

    def impl(x, array):
        x = np.float32(x)
        u = x.view(np.uint32)
        rounded = np.uint32(u + np.uint32(0x7fff) + (u >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        return np.uint16(rounded if x == x else np.uint32(0x7fc0))
    return impl
