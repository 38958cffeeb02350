"""Ops that make one number of many: over one axis, several (a tuple), or all (None, the default).

Sums run in the wide dtype and are rounded once. In the formulas below i and j run over the axes that vanish.
"""
import math

import numpy as np

from minigrad.backend import rounded, wide, wide_dtype, xp_of
from minigrad.check import expect
from minigrad.tensor import op


def _over(who, x, axis):
    """(the axes that axis means, x's shape with those axes 1)."""
    axes = tuple(range(x.ndim)) if axis is None else tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    fit = all(hasattr(a, "__index__") and -x.ndim <= a < x.ndim for a in axes)
    axes = tuple(a % x.ndim for a in axes) if fit else ()
    expect(fit and len(set(axes)) == len(axes), who, f"axis {axis} for shape {x.shape}",
           f"axes from {-x.ndim} to {x.ndim - 1}, each once")
    return axes, tuple(1 if i in axes else n for i, n in enumerate(x.shape))


def _one_axis(who, x, axis):
    expect(hasattr(axis, "__index__") and -x.ndim <= axis < x.ndim, who, f"axis {axis} for shape {x.shape}",
           f"one axis from {-x.ndim} to {x.ndim - 1}", "reshape first to run over several axes")


def _drop(y, axes, keepdims):
    """y, whose axes are 1, without them."""
    return y if keepdims else y.squeeze(axes)


@op
def sum(x, *, axis=None, keepdims=False):
    """y = sum_i x_i"""
    axes, kept = _over("sum", x, axis)
    return rounded(wide(x).sum(axes, keepdims=keepdims), x), (x.shape, kept)


@sum.backward
def _(dy, shape, kept):
    """dy/dx_i = 1, so  dx_i = dy"""
    return (xp_of(dy).broadcast_to(dy.reshape(kept), shape),)


def _count(who, x, axes):
    """How many entries meet in one; at least one must."""
    n = math.prod(x.shape[a] for a in axes)
    expect(n, who, f"shape {x.shape}, nothing along axes {axes}", "at least one entry")
    return n


@op
def mean(x, *, axis=None, keepdims=False):
    """y = 1/n sum_i x_i"""
    axes, kept = _over("mean", x, axis)
    n = _count("mean", x, axes)
    return rounded(wide(x).mean(axes, keepdims=keepdims), x), (x.shape, kept, n)


@mean.backward
def _(dy, shape, kept, n):
    """dx_i = dy / n"""
    return (xp_of(dy).broadcast_to((wide(dy) / n).reshape(kept), shape),)


@op
def var(x, *, axis=None, keepdims=False, ddof=0):
    """y = 1/(n - ddof) sum_i (x_i - mu)^2,  mu = mean(x)"""
    axes, _ = _over("var", x, axis)
    n = _count("var", x, axes) - ddof
    expect(n > 0, "var", f"ddof {ddof} for {n + ddof} entries", "fewer than there are entries")
    xw = wide(x)
    mu = xw.mean(axes, keepdims=True)
    y = ((xw - mu) ** 2).sum(axes, keepdims=keepdims) / n
    return rounded(y, x), (x, mu, n)


@var.backward
def _(dy, x, mu, n):
    """d/dx_i sum_j (x_j - mu)^2 = 2 (x_i - mu) - 2 dmu/dx_i sum_j (x_j - mu), and that last sum is 0, so
    dx_i = dy 2 (x_i - mu) / (n - ddof)"""
    return (wide(dy).reshape(mu.shape) * (2 / n) * (x - mu),)


@op
def max(x, *, axis=None, keepdims=False):
    """y = max_i x_i"""
    axes, _ = _over("max", x, axis)
    _count("max", x, axes)
    y = x.max(axes, keepdims=True)
    return _drop(y, axes, keepdims), (x, y, axes)


@max.backward
def _(dy, x, y, axes):
    """dx_i = dy [x_i = y] / (number of x_j that equal y): ties share dy evenly, and so do NaNs if y is one"""
    hit = (x == y) | (x != x)
    share = wide(dy).reshape(y.shape) / hit.sum(axes, keepdims=True).astype(wide_dtype(dy.dtype))
    return (xp_of(dy).where(hit, share, 0),)


@op
def min(x, *, axis=None, keepdims=False):
    """y = min_i x_i"""
    axes, _ = _over("min", x, axis)
    _count("min", x, axes)
    y = x.min(axes, keepdims=True)
    return _drop(y, axes, keepdims), (x, y, axes)


min.backward(max.formula)                               # [x_i = y] does not care which extreme y is


@op
def logsumexp(x, *, axis=None, keepdims=False):
    """y = log sum_i e^(x_i) = m + log sum_i e^(x_i - m),  m = max(x): no e^ overflows, and one of them is 1"""
    axes, _ = _over("logsumexp", x, axis)
    _count("logsumexp", x, axes)
    xp, xw = xp_of(x), wide(x)
    m = xw.max(axes, keepdims=True)
    m = xp.where(xp.isfinite(m), m, 0)                  # inf - inf is not a number
    total = xp.exp(xw - m).sum(axes, keepdims=True)
    with np.errstate(divide="ignore"):                  # all entries -inf: y = log 0 = -inf is meant
        y = m + xp.log(total)
    return rounded(_drop(y, axes, keepdims), x), (x, y)


@logsumexp.backward
def _(dy, x, y):
    """dx_i = dy e^(x_i) / sum_j e^(x_j) = dy e^(x_i - y), the softmax;  0 where all x_j = -inf"""
    xp = xp_of(x)
    y = xp.where(y == -xp.inf, 0, y)
    return (wide(dy).reshape(y.shape) * xp.exp(x - y),)


@op
def cumsum(x, *, axis=-1):
    """y_i = sum_(j <= i) x_j, along one axis"""
    _one_axis("cumsum", x, axis)
    return rounded(wide(x).cumsum(axis), x), (axis,)


@cumsum.backward
def _(dy, axis):
    """x_j is in every y_i with i >= j, so  dx_j = sum_(i >= j) dy_i: the same sum, from the other end"""
    flip = xp_of(dy).flip
    return (flip(flip(wide(dy), axis).cumsum(axis), axis),)


@op
def prod(x, *, axis=None, keepdims=False):
    """y = prod_i x_i, over one axis or all"""
    if axis is not None:
        _one_axis("prod", x, axis)
    _, kept = _over("prod", x, axis)
    return rounded(wide(x).prod(axis, keepdims=keepdims), x), (x, axis, kept)


@prod.backward
def _(dy, x, axis, kept):
    """dx_i = dy prod_(j != i) x_j = dy (prod_(j < i) x_j) (prod_(j > i) x_j), which also holds where x_i = 0"""
    xp = xp_of(x)
    rows = wide(x).reshape(-1) if axis is None else xp.moveaxis(wide(x), axis, -1)
    before, after = xp.ones_like(rows), xp.ones_like(rows)
    before[..., 1:] = xp.cumprod(rows[..., :-1], -1)
    after[..., :-1] = xp.cumprod(rows[..., :0:-1], -1)[..., ::-1]
    others = (before * after).reshape(x.shape) if axis is None else xp.moveaxis(before * after, -1, axis)
    return (dy.reshape(kept) * others,)
