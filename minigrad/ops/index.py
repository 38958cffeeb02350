"""Ops that pick entries by their place: backward puts dy back there, adding up where a place was picked twice."""
from minigrad.backend import wide_dtype, xp_of
from minigrad.check import expect
from minigrad.ops.shape import _axis
from minigrad.tensor import op


@op
def getitem(x, *, index):
    """y = x[index]: integers, slices, None, ..., and arrays of integers or booleans"""
    try:
        return x[index], (x.shape, index)
    except IndexError as e:
        raise IndexError(f"getitem: got x[{index}] for x of shape {x.shape}: {e}") from None


@getitem.backward
def _(dy, shape, index):
    """dx = 0, then  dx[index] += dy, once for every time that a place was picked"""
    return (_scatter(dy, shape, index),)


def _scatter(dy, shape, index):
    xp = xp_of(dy)
    dx = xp.zeros(shape, wide_dtype(dy.dtype))
    places = index if isinstance(index, tuple) else (index,)
    if all(i is None or i is Ellipsis or isinstance(i, (int, slice)) and not isinstance(i, bool) for i in places):
        dx[index] = dy                                  # no place is picked twice
    else:
        xp.add.at(dx, index, dy.astype(dx.dtype, copy=False))
    return dx


@op
def take_along_axis(x, i, *, axis=-1):
    """y_..k.. = x_..i_k..: along axis, entry i_k of x; the other axes run in step"""
    axis, = _axis("take_along_axis", x, axis)
    same = x.shape[:axis] + x.shape[axis + 1:] == i.shape[:axis] + i.shape[axis + 1:]
    expect(same and i.ndim == x.ndim and i.dtype.kind in "iu", "take_along_axis",
           f"indices {i.dtype} {i.shape} for x {x.shape}", f"integers in x's shape but for axis {axis}",
           "expand_dims(i, axis=-1) picks one entry of every row")
    return xp_of(x).take_along_axis(x, i, axis), (i, x.shape, axis)


@take_along_axis.backward
def _(dy, i, shape, axis):
    """dx = 0, then  dx_..i_k.. += dy_..k.."""
    places = list(xp_of(dy).ogrid[tuple(map(slice, i.shape))])
    places[axis] = i
    return _scatter(dy, shape, tuple(places)), None
