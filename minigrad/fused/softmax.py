r"""softmax and log_softmax along one axis.

softmax. For each row x (the entries along the axis), with m = max(x):
    e_i = exp(x_i - m),   s = sum_k e_k                                                    [SM1]
    p_i = e_i / s                                                                          [SM2]
Subtracting m changes nothing, since exp(-m) cancels in [SM2], and makes every exponent <= 0 and s >= 1: no overflow,
no division by 0. An entry of -inf gets p = 0, which is how masks work. A row of nothing but -inf has no
distribution: it gives NaN, as in PyTorch.

Its derivative: m cancels and may be held fixed, so d e_i / d x_j = e_i delta_ij and d s / d x_j = e_j, therefore
    d p_i / d x_j = e_i delta_ij / s - e_i e_j / s^2 = p_i (delta_ij - p_j)
and dx_j = sum_i dp_i (d p_i / d x_j) collects into
    dx_j = p_j (dp_j - sum_i p_i dp_i)                                                     [SM3]
Read [SM3] as: compare each dp_j with the average of dp under p. Adding a constant to a row of x moves nothing, and
indeed sum_j dx_j = 0.

log_softmax. y = log p without the detour through p, which could have underflowed to 0:
    y_i = (x_i - m) - log s                                                                [SM4]
    d y_i / d x_j = delta_ij - p_j,   so   dx_j = dy_j - p_j sum_i dy_i,   p_j = exp(y_j)  [SM5]

Causal, for squares of scores x (..., T, T), whose row i sees columns k <= i alone: x_ik counts as
    x_ik = -inf for k > i,   so there   p_ik = 0,   and by [SM3]   dx_ik = 0               [SM6]
whatever x and dp hold there. It is the mask of a language model's attention; no such array has to be made or added.

Saved: the result alone, in the storage dtype. Sums are taken wide.
"""
from minigrad.backend import wide, xp_of
from minigrad.check import expect, expect_floats
from minigrad.tensor import op


@op(kernels=("cpu", "gpu"))
def softmax(x, *, axis=-1, causal=False):
    """p_i = exp(x_i) / sum_k exp(x_k) along axis;  causal: along rows of x (..., T, T) as far as the diagonal"""
    check(x, axis, causal)
    if not x.size:
        return x, (x, axis, causal)
    xw = seen(wide(x), -float("inf")) if causal else wide(x)                             # [SM6]
    e = xp_of(x).exp(xw - xw.max(axis, keepdims=True))                                   # [SM1]
    p = (e / e.sum(axis, keepdims=True)).astype(x.dtype, copy=False)                     # [SM2]
    return p, (p, axis, causal)


@softmax.backward
def _(dp, p, axis, causal):
    """dx = p (dp - sum(p dp))"""
    pw, dpw = wide(p), seen(wide(dp), 0) if causal else wide(dp)
    dx = pw * (dpw - (pw * dpw).sum(axis, keepdims=True))                                # [SM3]
    return ((seen(dx, 0) if causal else dx).astype(p.dtype, copy=False),)                # [SM6]


def seen(x, otherwise):
    """x (..., T, T), with another value where column > row."""
    xp = xp_of(x)
    return xp.where(xp.tri(x.shape[-1], dtype=bool), x, x.dtype.type(otherwise))


def check(x, axis, causal=False):
    expect_floats("softmax", x)
    if not (hasattr(axis, "__index__") and -x.ndim <= axis < x.ndim):
        expect(False, "softmax", f"axis {axis} for shape {x.shape}", f"one axis from {-x.ndim} to {x.ndim - 1}")
    if causal and not (x.ndim >= 2 and x.shape[-2] == x.shape[-1] and axis in (-1, x.ndim - 1)):
        expect(False, "softmax", f"causal=True for x {x.shape} along axis {axis}", "(..., T, T) along the last axis",
               "row i is what position i sees; columns are the positions that are seen")


@op(kernels=("cpu", "gpu"))
def log_softmax(x, *, axis=-1):
    """y_i = x_i - log sum_k exp(x_k) along axis"""
    check(x, axis)
    if not x.size:
        return x, (x, axis)
    xw, xp = wide(x), xp_of(x)
    below = xw - xw.max(axis, keepdims=True)
    y = below - xp.log(xp.exp(below).sum(axis, keepdims=True))                           # [SM4]
    y = y.astype(x.dtype, copy=False)
    return y, (y, axis)


@log_softmax.backward
def _(dy, y, axis):
    """dx = dy - exp(y) sum(dy)"""
    dyw = wide(dy)
    dx = dyw - xp_of(y).exp(wide(y)) * dyw.sum(axis, keepdims=True)                      # [SM5]
    return (dx.astype(y.dtype, copy=False),)
