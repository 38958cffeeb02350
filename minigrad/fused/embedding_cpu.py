"""embedding for NumPy arrays: backward in Numba. Formula, names and [EM] numbers: embedding.py."""
import numpy as np

from minigrad import pool
from minigrad.fused.embedding import embedding as formula
from minigrad.fused.embedding import scatter
from minigrad.jit_cpu import jit


def backward(dy, ids, w, *, into):
    return scatter(dy, ids, w, into, _add_at)


def _add_at(dw, ids, rows):
    """Split over columns: every thread meets the same rows in the same order, and none adds where another does."""
    rows = np.ascontiguousarray(rows, dtype=dw.dtype)
    pool.each(_add_columns, dw.shape[1], rows.size, dw, ids.astype(np.int64, copy=False), rows)


@jit
def _add_columns(dw, ids, rows, lo, hi):
    """dw: (V, C). ids: (N,). rows: (N, C)."""
    for n in range(len(ids)):
        to, dy = dw[ids[n], lo:hi], rows[n, lo:hi]
        for c in range(len(dy)):
            to[c] += dy[c]                                                               # [EM2]


embedding = formula.reference, backward
