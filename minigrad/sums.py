"""How gradients are added up: where two paths meet, and where one argument was used in many places."""
import math

from minigrad.backend import wide, wide_dtype, xp_of
from minigrad.kernels import kernel


@kernel("cpu", "gpu")
def plus(a, b, out=None):
    """a + b for arrays of one shape and dtype. out, if given, is an array that may be overwritten by it."""
    total = (wide(a) + wide(b)).astype(a.dtype, copy=False)
    if out is None or not a.ndim:                       # arithmetic on 0-d arrays gives NumPy scalars
        return total
    out[...] = total
    return out


@kernel("cpu", "gpu")
def sum_rows(g):
    """sum_n g_nj for g (N, M), in the wide dtype."""
    return g.sum(0, dtype=wide_dtype(g.dtype))


def sum_to(g, shape):
    """If y_ij = f(x_j), then dL/dx_j = sum_i dL/dy_ij f': add over every axis that was stretched."""
    g = xp_of(g).asarray(g)
    if g.shape == shape:
        return g
    extra = g.ndim - len(shape)
    if g.shape[extra:] == shape and g.size:
        return sum_rows(g.reshape(-1, math.prod(shape))).reshape(shape)
    stretched = tuple(range(extra)) + tuple(
        i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1)
    return g.sum(stretched, keepdims=True, dtype=wide_dtype(g.dtype)).reshape(shape)
