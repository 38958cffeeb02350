r"""The affine map of every layer: a matrix product and a bias.

Forward, for N rows x_n, a matrix w (in, out) as in the released GPT-2, and a bias b (out,):
    y_nj = sum_i x_ni w_ij + b_j                                                           [LI1]

Backward. Each y_nj is linear in each x_ni with slope w_ij, in w_ij with slope x_ni and in b_j with slope 1, and
every row used the same w and b, so
    dx_ni = sum_j dy_nj w_ij      or  dx = dy w^T                                          [LI2]
    dw_ij = sum_n x_ni dy_nj      or  dw = x^T dy                                          [LI3]
    db_j  = sum_n dy_nj                                                                    [LI4]
Each product costs what the forward one does, 2 N in out operations: a training step is three times its forward
pass. dw is a sum over all rows and all micro-batches, so it is taken, and added up, in float32 or wider.

Saved: x and w.
"""
from minigrad.backend import wide
from minigrad.check import expect, expect_floats
from minigrad.tensor import op


@op(kernels=("cpu", "gpu"))
def linear(x, w, b=None):
    """y = x w + b.  x (..., in), w (in, out), b (out,) or None -> (..., out)"""
    check_shapes(x, w, b)
    y = wide(x) @ wide(w)                                                                # [LI1]
    if b is not None:
        y = y + wide(b)
    return y.astype(x.dtype, copy=False), (x, w, b is not None)


@linear.backward
def _(dy, x, w, biased):
    """dx = dy w^T,  dw = x^T dy,  db = sum over rows of dy"""
    rows = wide(dy).reshape(-1, w.shape[1])                                              # (N, out)
    dx = (rows @ wide(w).T).reshape(x.shape)                                             # [LI2]
    dw = wide(x).reshape(-1, w.shape[0]).T @ rows                                        # [LI3]
    db = rows.sum(0) if biased else None                                                 # [LI4]
    return dx.astype(x.dtype, copy=False), dw, db


def check_shapes(x, w, b):
    expect_floats("linear", x, w)
    if not (x.ndim > 0 and w.ndim == 2 and x.shape[-1] == w.shape[0]):
        expect(False, "linear", f"x {x.shape} and w {w.shape}", "the last axis of x to be the first of w (in, out)",
               "is the weight stored as (out, in)? transpose it")
    expect(w.size, "linear", f"w {w.shape}", "at least one input and one output")
    if b is not None and b.shape != w.shape[1:]:
        expect(False, "linear", f"b {b.shape}", f"{w.shape[1:]}, the second axis of w {w.shape}")
