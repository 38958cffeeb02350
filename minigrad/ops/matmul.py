"""Matrix product over the last two axes; leading axes broadcast, and a vector is a row before @ and a column after."""
import math

import numpy as np

from minigrad.backend import wide, xp_of
from minigrad.check import expect
from minigrad.ops.elementwise import joined
from minigrad.slot import SKIP
from minigrad.tensor import op


def expect_fit(a, b):
    """Refuse what has no product."""
    if not (a.ndim and b.ndim and a.shape[-1] == b.shape[-2:][0]):                        # of a vector its only axis
        expect(False, "matmul", f"{a.shape} @ {b.shape}",
               "the last axis of the first to equal the last but one of the second",
               "swapaxes(-1, -2) transposes matrices; weights are (in, out)")
    if a.shape[:-2] != b.shape[:-2] and not all(
            1 in (m, n) or m == n for m, n in zip(a.shape[-3::-1], b.shape[-3::-1])):
        expect(False, "matmul", f"{a.shape} @ {b.shape}",
               "leading axes that are equal, or 1, counted from the last two")


def _as_matrices(a, b):
    """Vectors as a row and a column, in the wide dtype."""
    return wide(a if a.ndim > 1 else a[None, :]), wide(b if b.ndim > 1 else b[:, None])


def in_stacks(batch, a, b, dtype):
    """a b for stacks, by means of batch(a, b, out), which takes three axes. -> an array of the broadcast shape"""
    xp, lead = xp_of(a), np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    y = xp.empty((*lead, a.shape[-2], b.shape[-1]), dtype)
    a, b = (xp.broadcast_to(x, lead + x.shape[-2:]) for x in (a, b))
    if all(x.strides[i] == x.strides[i + 1] * lead[i + 1] for x in (a, b, y) for i in range(len(lead) - 1)):
        batch(*(x.reshape(math.prod(lead), *x.shape[-2:]) for x in (a, b, y)))
        return y
    # Stacks along the longest leading axis: merging axes would copy attention's transposed heads.
    longest = lead.index(max(lead))
    a, b, out = (xp.moveaxis(x, longest, -3) for x in (a, b, y))
    for i in np.ndindex(out.shape[:-3]):
        batch(a[i], b[i], out[i])
    return y


@op(kernels=("cpu", "gpu"))
def matmul(a, b):
    """y_ij = sum_k a_ik b_kj.  a (..., N, K), b (..., K, M) -> (..., N, M); a (K,) has no N, b (K,) no M"""
    expect_fit(a, b)
    a, b = joined(a, b)
    am, bm = _as_matrices(a, b)
    y = am @ bm
    if a.ndim == 1:
        y = y[..., 0, :]
    if b.ndim == 1:
        y = y[..., 0]
    return y.astype(xp_of(a).result_type(a, b), copy=False), (a, b)


@matmul.backward
def _(dy, a, b, into):
    """dL/da_ik = sum_j dy_ij b_kj, so  da = dy b^T;  dL/db_kj = sum_i a_ik dy_ij, so  db = a^T dy"""
    (am, bm), da, db = _as_matrices(a, b), None, None
    if b.ndim == 1:
        dy = dy[..., None]
    if a.ndim == 1:
        dy = dy[..., None, :]
    if into[0] is not SKIP:
        da = wide(dy) @ bm.swapaxes(-1, -2)
        da = da if a.ndim > 1 else da[..., 0, :]
    if into[1] is not SKIP:
        db = am.swapaxes(-1, -2) @ wide(dy)
        db = db if b.ndim > 1 else db[..., 0]
    return da, db
