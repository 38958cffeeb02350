"""Ops that move entries about and change none: their gradients move dy back.

The results are views wherever NumPy gives views; nothing in the engine writes into them.
"""
import math

import numpy as np

from minigrad.backend import xp_of
from minigrad.check import expect
from minigrad.tensor import op


def _axis(who, x, *axes, new=0):
    """The axes counted from 0. new: how many more of them the result has than x."""
    n = x.ndim + new
    for a in axes:
        expect(hasattr(a, "__index__") and -n <= a < n, who, f"axis {a} for shape {x.shape}",
               f"an axis from {-n} to {n - 1}")
    return tuple(a % n for a in axes)


@op
def reshape(x, *, shape):
    """y = the entries of x in row-major order, in another shape; one axis may be -1, whatever is left"""
    shape = tuple(shape) if hasattr(shape, "__iter__") else (shape,)
    fits = all(hasattr(n, "__index__") and n >= -1 for n in shape) and shape.count(-1) < 2
    known = math.prod(n for n in shape if n != -1) if fits else 0
    expect(fits and (known and x.size % known == 0 if -1 in shape else known == x.size), "reshape",
           f"shape {shape} for the {x.size} entries of {x.shape}", "the same number of entries, at most one axis of -1")
    return x.reshape(shape), (x.shape,)


@reshape.backward
def _(dy, shape):
    """dx = dy in x's shape"""
    return (dy.reshape(shape),)


@op
def expand_dims(x, *, axis):
    """y = x with a new axis of 1 at place axis of y"""
    _axis("expand_dims", x, axis, new=1)
    return xp_of(x).expand_dims(x, axis), (x.shape,)


expand_dims.backward(reshape.formula)


@op
def squeeze(x, *, axis=None):
    """y = x without the given axes of 1 (without all of them, if none is given)"""
    axes = None
    if axis is not None:
        axes = _axis("squeeze", x, *(axis if isinstance(axis, tuple) else (axis,)))
        expect(all(x.shape[a] == 1 for a in axes), "squeeze", f"axis {axis} for shape {x.shape}", "axes of 1")
    return x.squeeze(axes), (x.shape,)


squeeze.backward(reshape.formula)


@op
def transpose(x, *, axes=None):
    """y = x with its axes in the order axes; reversed, if none is given"""
    axes = _axis("transpose", x, *axes) if axes else tuple(range(x.ndim))[::-1]
    expect(sorted(axes) == list(range(x.ndim)), "transpose", f"axes {axes} for shape {x.shape}",
           "every axis once", "swapaxes exchanges two")
    return x.transpose(axes), (axes,)


@transpose.backward
def _(dy, axes):
    """axis k of y was axis axes[k] of x, so the inverse order brings dy back"""
    return (dy.transpose(sorted(range(len(axes)), key=axes.__getitem__)),)


@op
def swapaxes(x, *, axis1, axis2):
    """y = x with two axes exchanged"""
    _axis("swapaxes", x, axis1, axis2)
    return x.swapaxes(axis1, axis2), (axis1, axis2)


@swapaxes.backward
def _(dy, axis1, axis2):
    """dx = dy with the same two exchanged"""
    return (dy.swapaxes(axis1, axis2),)


@op
def broadcast_to(x, *, shape):
    """y = x repeated along axes of 1 and along new leading axes"""
    shape = tuple(shape) if hasattr(shape, "__iter__") else (shape,)
    fits = len(shape) >= x.ndim and all(hasattr(n, "__index__") and n >= 0 for n in shape)
    fits = fits and all(n in (1, m) for n, m in zip(x.shape[::-1], shape[::-1]))
    expect(fits, "broadcast_to", f"shape {shape} for {x.shape}", "axes that are equal, or 1 in x, from the last")
    return xp_of(x).broadcast_to(x, shape), ()


@broadcast_to.backward
def _(dy):
    """dx = the sum of dy over the copies, which the engine takes: stretched axes are its business"""
    return (dy,)


@op
def flip(x, *, axis=None):
    """y = x backwards along axis (one, several, or all)"""
    if axis is not None:
        axis = _axis("flip", x, *(axis if isinstance(axis, tuple) else (axis,)))
    return xp_of(x).flip(x, axis), (axis,)


@flip.backward
def _(dy, axis):
    """dx = dy backwards"""
    return (xp_of(dy).flip(dy, axis),)


@op
def pad(x, *, widths, value=0.0):
    """y = x with widths[k] = (before, after) entries of value around axis k"""
    right = np.shape(widths) == ((x.ndim, 2) if x.ndim else (0,)) and np.min(widths, initial=0) >= 0
    expect(right, "pad", f"widths {widths} for shape {x.shape}", "a pair for every axis, from 0 up")
    inside = tuple(slice(lo, lo + n) for (lo, _), n in zip(widths, x.shape))
    y = xp_of(x).full(tuple(lo + n + hi for (lo, hi), n in zip(widths, x.shape)), value, x.dtype)
    y[inside] = x
    return y, (inside,)


@pad.backward
def _(dy, inside):
    """dx = dy without the rim"""
    return (dy[inside],)


@op
def tril(x, *, k=0):
    """y_ij = x_ij where j <= i + k, else 0, in the last two axes"""
    expect(x.ndim > 1, "tril", f"shape {x.shape}", "2 axes or more")
    return xp_of(x).tril(x, k), (k,)


@tril.backward
def _(dy, k):
    """dx_ij = dy_ij where j <= i + k, else 0"""
    return (xp_of(dy).tril(dy, k),)


@op
def concatenate(*xs, axis=0):
    """y = the arrays one after the other along axis"""
    axis, = _axis("concatenate", xs[0], axis)
    rest = [x.shape[:axis] + x.shape[axis + 1:] for x in xs]
    expect(len(set(rest)) == len({x.ndim for x in xs}) == 1, "concatenate",
           "shapes " + ", ".join(str(x.shape) for x in xs), f"shapes that differ in axis {axis} only")
    return xp_of(*xs).concatenate(xs, axis), (axis, [x.shape[axis] for x in xs])


@concatenate.backward
def _(dy, axis, sizes):
    """each argument gets its stretch of dy"""
    return _cut(dy, axis, sizes)


def _cut(x, axis, sizes):
    """Views of x, sizes[0], sizes[1], ... long, one after the other along axis."""
    pieces, at = [], 0
    for n in sizes:
        pieces.append(x[(slice(None),) * axis + (slice(at, at + n),)])
        at += n
    return tuple(pieces)


@op
def stack(*xs, axis=0):
    """y = the arrays side by side along a new axis"""
    expect(len({x.shape for x in xs}) == 1, "stack", "shapes " + ", ".join(str(x.shape) for x in xs), "one shape")
    _axis("stack", xs[0], axis, new=1)
    return xp_of(*xs).stack(xs, axis), (axis,)


@stack.backward
def _(dy, axis):
    """argument k gets slice k of dy"""
    return tuple(xp_of(dy).moveaxis(dy, axis, 0))


@op
def split(x, *, parts, axis=-1):
    """y_1, y_2, ... = the pieces of x along axis: parts of them, equally long, or of the lengths in parts"""
    axis, = _axis("split", x, axis)
    n = x.shape[axis]
    sizes = tuple(parts) if hasattr(parts, "__iter__") else (n // max(parts, 1),) * parts
    expect(sum(sizes) == n and min(sizes, default=0) >= 0, "split", f"parts={parts} for axis {axis} of {x.shape}",
           f"a divisor of {n}, or lengths that add up to it")
    return _cut(x, axis, sizes), (axis, x.shape, sizes)


@split.backward
def _(dy, axis, shape, sizes):
    """dx = the gradients of the pieces in a row, 0 for a piece that nobody used"""
    some = next(g for g in dy if g is not None)
    dx = xp_of(some).zeros(shape, some.dtype)
    for piece, g in zip(_cut(dx, axis, sizes), dy, strict=True):
        if g is not None:
            piece[...] = g
    return (dx,)
