r"""Rows of a table, picked by number.

Forward, for ids of any shape and a table w (V, C):
    y[n, :] = w[ids[n], :]                                                                 [EM1]
which is the product of one-hot rows with w, without the zeros. Backward is the transposed product: row v of w is told
the sum of what all its copies are told,
    dw[v, :] = sum over n with ids[n] = v of dy[n, :]                                      [EM2]
Integers have no gradient.

Saved: ids and w, of which backward reads the shape only. [EM2] adds straight into the gradient of w where there is
one (GPT's table is also its output layer, 150 MB in GPT-2): no dense array of zeros with a few rows filled is made.
"""
import numpy as np

from minigrad.backend import wide, wide_dtype, xp_of
from minigrad.check import expect
from minigrad.slot import DONE, SKIP
from minigrad.tensor import op


@op(kernels=("cpu", "gpu"))
def embedding(ids, w):
    """y = w[ids].  ids (...) integers, w (V, C) -> (..., C)"""
    check(ids, w)
    return w[ids], (ids, w)                                                              # [EM1]


@embedding.backward
def _(dy, ids, w, *, into):
    """dw[v] = sum of dy[n] over n with ids[n] = v"""
    return scatter(wide(dy), ids, w, into, xp_of(dy).add.at)                             # [EM2]


def scatter(dy, ids, w, into, add_at):
    """(None, dw), with add_at(dw, ids, rows) to do the work: dw is the slot's array if there is a slot."""
    slot = into[1]
    if slot is SKIP:
        return None, None
    if slot is None:
        dw = xp_of(dy).zeros(w.shape, wide_dtype(w.dtype))
    else:
        dw, beta = slot.claim()
        if beta == 0:
            dw[...] = 0
    add_at(dw, ids.reshape(-1), dy.reshape(ids.size, w.shape[1]))
    return None, dw if slot is None else DONE


def check(ids, w):
    if ids.dtype.kind not in "iu":
        expect(False, "embedding", f"ids of dtype {ids.dtype}", "integers",
               "are ids and table in the right order? embedding(ids, w)")
    if w.ndim != 2:
        expect(False, "embedding", f"a table of shape {w.shape}", "(V, C)")
    if ids.size and ids.astype("uint64", copy=False).max() >= len(w):                    # -1 is the largest uint64
        wrong = int(((ids < 0) | (ids >= len(w))).argmax())
        where = tuple(map(int, np.unravel_index(wrong, ids.shape)))
        expect(False, "embedding", f"id {int(ids[where])} at position {where}", f"0 <= id < {len(w)}, the rows of the "
               "table", "is the tokenizer's vocabulary the model's vocab_size, and is the text cut to block_size?")
