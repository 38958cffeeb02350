"""embedding for NumPy arrays, in Numba. Formula, names and [EM] numbers: embedding.py."""
import numpy as np

from minigrad import pool
from minigrad.fused.embedding import check, scatter
from minigrad.jit_cpu import jit
from minigrad.math_cpu import bits, narrow, wide


def forward(ids, w):
    check(ids, w)
    y, word = np.empty((*ids.shape, w.shape[1]), w.dtype), f"u{w.itemsize}"   # to copy, any dtype is so many bytes
    pool.each(_rows, ids.size, y.size, ids.astype(np.int64, copy=False).ravel(), w.view(word),
              y.view(word).reshape(ids.size, w.shape[1]))
    return y, (ids, w)


def backward(dy, ids, w, *, into):
    return scatter(bits(dy), ids, w, into, _add_at)


def _add_at(dw, ids, rows):
    """Split over columns: every thread meets the same rows in the same order, and none adds where another does."""
    pool.each(_add_columns, dw.shape[1], rows.size, dw, ids.astype(np.int64, copy=False), np.ascontiguousarray(rows))


@jit
def _rows(ids, w, y, lo, hi):
    """ids: (N,). w: (V, C). y: (N, C), of which rows lo..hi are written."""
    for n in range(lo, hi):
        row, out = w[ids[n]], y[n]
        for c in range(len(row)):
            out[c] = row[c]                                                              # [EM1]


@jit
def _add_columns(dw, ids, rows, lo, hi):
    """dw: (V, C). ids: (N,). rows: (N, C)."""
    for n in range(len(ids)):
        to, dy = dw[ids[n], lo:hi], rows[n, lo:hi]
        for c in range(len(dy)):
            to[c] += narrow(wide(dy[c]), dw)                                             # [EM2]


embedding = forward, backward
