r"""The rectifier. With [x > 0] = 1 where x is above 0, else 0:

    y  = max(x, 0) = x [x > 0]                                                             [RE1]
    dx = dy [x > 0] = dy [y > 0]                                                           [RE2]

At x = 0 there is a kink and any slope from 0 to 1 would do; [RE2] takes 0, as PyTorch does. A NaN in x is one in
y and passes dy on, as there.

Saved: y, from which [RE2] can be read as well as from x, and which the op that follows keeps anyway.
"""
from minigrad.backend import xp_of
from minigrad.check import expect_floats
from minigrad.tensor import op


@op(kernels=("cpu", "gpu"))
def relu(x):
    """y = max(x, 0)"""
    expect_floats("relu", x)
    y = xp_of(x).maximum(x, 0)                                                           # [RE1]
    return y, (y,)


@relu.backward
def _(dy, y):
    """dx = dy where x > 0, else 0"""
    return (xp_of(y).where(y <= 0, 0, dy).astype(y.dtype, copy=False),)                  # [RE2]
