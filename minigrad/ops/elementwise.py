"""Ops that act entry by entry. Broadcasting is undone by the engine, so no formula mentions it.

At corners the gradient is the one PyTorch has: abs has slope 0 at 0, maximum and minimum halve dy between equal
arguments, clip passes dy on at its very ends, and where a formula would read 0 times infinity the docstring says
what stands there instead.
"""
import math

import numpy as np

from minigrad import special
from minigrad.backend import dtype_of, is_float, rounded, wide, xp_of
from minigrad.check import expect
from minigrad.slot import SKIP
from minigrad.tensor import Tensor, op


def _fit(who, *arrays):
    """Refuse shapes that do not broadcast."""
    shapes = [a.shape for a in arrays if hasattr(a, "shape")]
    if len(set(shapes)) > 1:
        try:
            np.broadcast_shapes(*shapes)
        except ValueError:
            expect(False, who, "shapes " + " and ".join(map(str, shapes)),
                   "axes that are equal, or 1, counted from the last", "insert axes of 1 with expand_dims")


def joined(*arrays):
    """The arrays in dtypes that go together: beside floats of one dtype integers and booleans take it, and floats
    without axes, as Python's numbers do. NumPy would widen float32 to float64 for them."""
    given = [a for a in arrays if hasattr(a, "dtype")]
    if len({a.dtype for a in given}) > 1:
        floats = [a for a in given if is_float(a.dtype)]
        theirs = {a.dtype for a in floats if a.ndim} or {a.dtype for a in floats}
        if len(theirs) == 1:
            dtype, = theirs
            weak = [hasattr(a, "dtype") and (a.dtype.kind in "iub" or not a.ndim and is_float(a.dtype)) for a in arrays]
            return [a.astype(dtype, copy=False) if joins else a for a, joins in zip(arrays, weak)]
    elif given and float in map(type, arrays) and given[0].dtype.kind == "V":  # bfloat16: NumPy sees to its own only
        return [xp_of(*arrays).asarray(a, given[0].dtype) if type(a) is float else a for a in arrays]
    return arrays


def _together(who, *arrays):
    """joined(), of arrays whose shapes broadcast."""
    _fit(who, *arrays)
    return joined(*arrays)


# ---------------------------------------------------------------------------------------------- arithmetic

@op(kernels=("cpu", "gpu"), numbers=True)
def add(a, b):
    """y = a + b"""
    a, b = _together("add", a, b)
    return a + b, ()


@add.backward
def _(dy):
    """da = dy,  db = dy"""
    return dy, dy


@op(numbers=True)
def sub(a, b):
    """y = a - b"""
    a, b = _together("sub", a, b)
    return a - b, ()


@sub.backward
def _(dy, into):
    """da = dy,  db = -dy"""
    return dy, None if into[1] is SKIP else -dy


@op(numbers=True)
def mul(a, b):
    """y = a b"""
    a, b = _together("mul", a, b)
    return a * b, (a, b)


@mul.backward
def _(dy, a, b, into):
    """da = dy b,  db = dy a"""
    return None if into[0] is SKIP else dy * b, None if into[1] is SKIP else dy * a


@op(numbers=True)
def div(a, b):
    """y = a / b"""
    a, b = _together("div", a, b)
    y = a / b
    return y, (b, y)


@div.backward
def _(dy, b, y, into):
    """da = dy / b,  db = -dy a / b^2 = -dy (y / b): without b^2, which overflows long before b does"""
    return None if into[0] is SKIP else dy / b, None if into[1] is SKIP else -dy * (y / b)


@op
def neg(x):
    """y = -x"""
    return -x, ()


@neg.backward
def _(dy):
    """dx = -dy"""
    return (-dy,)


@op(numbers=True)
def pow(a, b):
    """y = a^b, either of which may be a number"""
    a, b = _together("pow", a, b)
    y = a ** b
    return y, (a, b, y)


@pow.backward
def _(dy, a, b, y, into):
    """da = dy b a^(b-1),  db = dy y log a.  In the limit da = 0 where b = 0, and db = 0 where a = 0 <= b."""
    da = db = None
    if into[0] is not SKIP:
        da = dy * (b * a ** (b - (b != 0)))             # b = 0: 0 a^0, for 0^-1 is infinite
    if into[1] is not SKIP:
        limit = (a == 0) & (b >= 0)                     # y log 1 = 0 there
        db = dy * y * xp_of(y).log(a + limit.astype(y.dtype))
    return da, db


@op
def square(x):
    """y = x^2"""
    return x * x, (x,)


@square.backward
def _(dy, x):
    """dx = 2 dy x"""
    return (2 * dy * x,)


@op
def sqrt(x):
    """y = sqrt(x)"""
    y = xp_of(x).sqrt(x)
    return y, (y,)


@sqrt.backward
def _(dy, y):
    """sqrt' = 1 / (2 sqrt), so  dx = dy / (2 y), which is infinite at 0"""
    return (dy / (2 * y),)


@op
def abs(x):
    """y = |x|"""
    return xp_of(x).abs(x), (x,)


@abs.backward
def _(dy, x):
    """dx = dy sign(x), and sign(0) = 0"""
    return (dy * xp_of(x).sign(x),)


# ---------------------------------------------------------------------------------- exponentials and the like

@op
def exp(x):
    """y = e^x"""
    y = xp_of(x).exp(x)
    return y, (y,)


@exp.backward
def _(dy, y):
    """exp' = exp, so  dx = dy y"""
    return (dy * y,)


@op
def log(x):
    """y = log x"""
    return xp_of(x).log(x), (x,)


@log.backward
def _(dy, x):
    """dx = dy / x"""
    return (dy / x,)


@op
def log1p(x):
    """y = log(1 + x), exact for small x, where 1 + x would round x away"""
    return xp_of(x).log1p(x), (x,)


@log1p.backward
def _(dy, x):
    """dx = dy / (1 + x)"""
    return (dy / (1 + x),)


@op
def sin(x):
    """y = sin x"""
    return xp_of(x).sin(x), (x,)


@sin.backward
def _(dy, x):
    """dx = dy cos x"""
    return (dy * xp_of(x).cos(x),)


@op
def cos(x):
    """y = cos x"""
    return xp_of(x).cos(x), (x,)


@cos.backward
def _(dy, x):
    """dx = -dy sin x"""
    return (-dy * xp_of(x).sin(x),)


@op
def tanh(x):
    """y = tanh x"""
    y = xp_of(x).tanh(x)
    return y, (y,)


@tanh.backward
def _(dy, y):
    """tanh' = 1 - tanh^2, so  dx = dy (1 - y^2)"""
    return (dy * (1 - y * y),)


def _sigmoid(x):
    """With e = exp(-|x|), which cannot overflow: 1 / (1 + e) for x >= 0, and e / (1 + e) for x < 0."""
    xp = xp_of(x)
    e = xp.exp(-xp.abs(x))
    return xp.where(x < 0, e, 1) / (1 + e)


@op
def sigmoid(x):
    """y = 1 / (1 + e^-x)"""
    y = rounded(_sigmoid(wide(x)), x)
    return y, (y,)


@sigmoid.backward
def _(dy, y):
    """With e = e^-x:  y' = e / (1 + e)^2 = y (1 - y), so  dx = dy y (1 - y)"""
    return (dy * y * (1 - y),)


@op
def silu(x):
    """y = x s, where s = sigmoid(x)"""
    return rounded(wide(x) * _sigmoid(wide(x)), x), (x,)


@silu.backward
def _(dy, x):
    """y' = s + x s (1 - s), so  dx = dy s (1 + x (1 - s))"""
    x = wide(x)
    s = _sigmoid(x)
    return (dy * s * (1 + x * (1 - s)),)


@op
def erf(x):
    """y = 2 / sqrt(pi) times the integral of e^(-t^2) for t from 0 to x"""
    return rounded(special.erf(wide(x)), x), (x,)


@erf.backward
def _(dy, x):
    """dx = dy 2 / sqrt(pi) e^(-x^2)"""
    xp, x = xp_of(x), wide(x)
    near = xp.minimum(xp.abs(x), 30)                    # beyond it e^(-x^2) is 0, and further out x^2 overflows
    return (dy * (2 / math.sqrt(math.pi) * xp.exp(-near * near)),)


# --------------------------------------------------------------------------------------- choosing and casting

@op(numbers=True)
def maximum(a, b):
    """y = max(a, b)"""
    a, b = _together("maximum", a, b)
    return xp_of(a, b).maximum(a, b), (a, b)


@maximum.backward
def _(dy, a, b):
    """dy goes to the larger argument; equal ones get half each"""
    where = xp_of(dy).where
    share = where(a == b, dy / 2, dy)
    return where(a < b, 0, share), where(b < a, 0, share)


@op(numbers=True)
def minimum(a, b):
    """y = min(a, b)"""
    a, b = _together("minimum", a, b)
    return xp_of(a, b).minimum(a, b), (a, b)


@minimum.backward
def _(dy, a, b):
    """dy goes to the smaller argument; equal ones get half each"""
    where = xp_of(dy).where
    share = where(a == b, dy / 2, dy)
    return where(a > b, 0, share), where(b > a, 0, share)


@op
def clip(x, *, low=None, high=None):
    """y = min(max(x, low), high)"""
    expect(not any(isinstance(bound, Tensor) for bound in (low, high)), "clip", "a Tensor for a bound", "numbers",
           "maximum and minimum take Tensors, and give both a gradient")
    xp = xp_of(x)
    y = x if low is None else xp.maximum(x, low)
    y = y if high is None else xp.minimum(y, high)
    return rounded(y, x), (x, low, high)


@clip.backward
def _(dy, x, low, high):
    """dx = dy where low <= x <= high, else 0"""
    where, dx = xp_of(dy).where, dy
    if low is not None:
        dx = where(x >= low, dx, 0)
    if high is not None:
        dx = where(x <= high, dx, 0)
    return (dx,)


@op(numbers=True)
def where(mask, a, b):
    """y = a where mask, else b"""
    _fit("where", mask, a, b)
    a, b = joined(a, b)                                      # a mask has no say in the dtype
    return xp_of(mask, a, b).where(mask, a, b), (mask,)


@where.backward
def _(dy, mask):
    """da = dy where mask, else 0;  db = 0 where mask, else dy"""
    where = xp_of(dy).where
    return None, where(mask, dy, 0), where(mask, 0, dy)


@op
def cast(x, *, dtype):
    """y = x in another storage dtype"""
    return x.astype(dtype_of(dtype)), (x.dtype,)


@cast.backward
def _(dy, dtype):
    """dx = dy in x's dtype"""
    return (dy.astype(dtype),)
