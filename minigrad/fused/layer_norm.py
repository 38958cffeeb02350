r"""Layer normalisation as one op (Ba, Kiros, Hinton 2016, arXiv:1607.06450).

Forward, for each row x of D entries (a mean is over the row):
    mu   = mean(x)                                                                         [LN1]
    rstd = 1 / sqrt(mean((x - mu)^2) + eps)                                                [LN2]
    xhat = (x - mu) rstd                                                                   [LN3]
    y    = w xhat + b                                                                      [LN4]

Backward, from dy = dL/dy. y is linear in w and b, and every row used the same w and b:
    dw = sum over rows of dy xhat,   db = sum over rows of dy                              [LN5]
Let g = w dy, the gradient that arrives at xhat. Each xhat_j depends on every x_i, because
    d mu   / dx_i = 1/D
    d rstd / dx_i = -1/2 rstd^3 * 2 (x_i - mu)/D = -rstd^2 xhat_i / D      (sum_k (x_k - mu) = 0)
so  d xhat_j / dx_i = rstd (delta_ij - 1/D) + (x_j - mu) d rstd/dx_i
                    = rstd (delta_ij - 1/D - xhat_i xhat_j / D)
and dx_i = sum_j g_j dxhat_j/dx_i collects into
    dx = rstd (g - mean(g) - xhat mean(g xhat))                                            [LN6]
Read [LN6] as: take g, remove its mean and its share along xhat (moving x in either of those two directions
leaves xhat unchanged, up to eps), and undo the scaling.

Saved: x, w, mu, rstd. xhat is rebuilt by [LN3]: one subtraction and one product cost less than keeping a second
array of x's size for the whole forward pass.

In a Transformer the row is often a sum itself, of what came so far and of a branch r, and the sum goes on as well:
    s = x + r, and y by [LN1-4] from s                                                     [LN7]
so from ds and dy, with the dx that [LN6] gives at s,
    dx = dr = ds + that dx                                                                 [LN8]
As one op a GPU need not read s again to normalise it: four trips of an array between memory and GPU, not five. On a
CPU y is quicker to compute again than to keep, and alone that needs s and nothing else: sum_and_norm() leaves it two
ops there.
"""
from minigrad import kernels
from minigrad.backend import wide, xp_of
from minigrad.check import expect, expect_floats
from minigrad.sums import plus
from minigrad.tensor import op


@op(kernels=("cpu", "gpu"), cheap=True)
def layer_norm(x, w, b, *, eps=1e-5):
    """y = w (x - mean(x)) / sqrt(var(x) + eps) + b, over the last axis.  x (..., D), w (D,), b (D,) -> (..., D)"""
    check_widths(x, w, b)
    xw = wide(x)
    mu = xw.mean(-1, keepdims=True)                                                      # [LN1]
    rstd = 1 / xp_of(x).sqrt(((xw - mu) ** 2).mean(-1, keepdims=True) + eps)             # [LN2]
    y = (xw - mu) * rstd * wide(w) + wide(b)                                             # [LN3,4]
    return y.astype(x.dtype, copy=False), (x, w, mu, rstd)


@layer_norm.backward
def _(dy, x, w, mu, rstd):
    """g = w dy,  dx = rstd (g - mean(g) - xhat mean(g xhat)),  dw = sum dy xhat,  db = sum dy"""
    rows = tuple(range(x.ndim - 1))
    xhat = (wide(x) - mu) * rstd                                                         # [LN3]
    dy = wide(dy)
    g = dy * wide(w)
    dx = rstd * (g - g.mean(-1, keepdims=True) - xhat * (g * xhat).mean(-1, keepdims=True))  # [LN6]
    dw, db = (dy * xhat).sum(rows), dy.sum(rows)                                         # [LN5]
    return dx.astype(x.dtype, copy=False), dw, db          # activations' gradients are rounded, parameters' stay wide


@op(kernels=("gpu",))
def add_layer_norm(x, r, w, b, *, eps=1e-5):
    """s = x + r,  y = layer_norm(s, w, b).  x, r (..., D), w (D,), b (D,) -> (..., D), (..., D)"""
    check_widths(x, w, b)
    s = plus.reference(x, r)                                                             # [LN7]
    y, saved = layer_norm.reference(s, w, b, eps=eps)
    return (s, y), saved


@add_layer_norm.backward
def _(dy, s, w, mu, rstd):
    """dx = dr = ds + the dx of layer_norm at s,  dw = sum dy xhat,  db = sum dy"""
    ds, dy = dy
    if dy is None:
        return ds, ds, None, None
    dx, dw, db = layer_norm.reference_backward(dy, s, w, mu, rstd)
    if ds is not None:
        dx = plus.reference(ds, dx)                                                      # [LN8]
    return dx, dx, dw, db


def sum_and_norm(x, r, w, b, *, eps=1e-5):
    """(x + r, its layer norm), for Tensors x, r (..., D) and w, b (D,): by add_layer_norm where that is the faster,
    else as it is written here."""
    if kernels.device_for([x.data], "sum_and_norm") == "gpu":
        return add_layer_norm(x, r, w, b, eps=eps)
    s = x + r
    return s, layer_norm(s, w, b, eps=eps)


def check_widths(x, w, b):
    expect_floats("layer_norm", x, w, b)
    row = x.shape[-1:]
    if not (x.ndim > 0 and row != (0,) and w.shape == row and b.shape == row):
        expect(False, "layer_norm", f"w {w.shape} and b {b.shape}",
               f"both {row}, the last axis of x {x.shape}, and not empty", "is the layer's width the model's?")
