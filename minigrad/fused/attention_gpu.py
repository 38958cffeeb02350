"""Launches attention.cu. Formula, names and [AT] numbers: attention.py."""
import math

import numpy as np

from minigrad.backend import xp_of
from minigrad.fused import attention as formula
from minigrad.fused.dropout_gpu import masks
from minigrad.kernels import SIZES, cuda, has_instance

THREADS = 128
HEADS = [size["HEAD"] for size in SIZES["attention"]]
NO_DROPOUT = 0.0, *map(np.uint32, (0,) * 4), None, np.uint32(0)


def forward(qkv, *, n_head, dropout=None):
    formula.check(qkv, n_head, dropout)
    (B, T, C3), xp = qkv.shape, xp_of(qkv)
    if not has_instance(qkv) or C3 // 3 // n_head > HEADS[-1]:
        return formula.attention.reference(qkv, n_head=n_head, dropout=dropout)
    y, lse = xp.empty((B, T, C3 // 3), qkv.dtype), xp.empty((B, n_head, T), "float32")
    program, grid, shared, rows, columns, arguments = _how(qkv, n_head, dropout)
    program.forward[grid, THREADS, shared(rows + 4 * columns)](xp.ascontiguousarray(qkv), *arguments, y, lse)
    return y, (qkv, y, lse, n_head, dropout)


def backward(dy, qkv, y, lse, n_head, dropout, into=None):
    if not has_instance(qkv) or qkv.shape[-1] // 3 // n_head > HEADS[-1]:
        return formula.attention.reference_backward(dy, qkv, y, lse, n_head, dropout)
    xp = xp_of(qkv)
    x, y, dy = (xp.ascontiguousarray(a) for a in (qkv, y, dy.astype(qkv.dtype, copy=False)))
    delta, dx = xp.empty(lse.shape, "float32"), xp.empty(qkv.shape, qkv.dtype)
    program, grid, shared, rows, columns, arguments = _how(qkv, n_head, dropout, backward=True)
    program.backward_q[grid, THREADS, shared(2 * rows + 2 * columns + max(2 * columns, rows))](
        x, dy, y, lse, *arguments, delta, dx)
    program.backward_kv[grid, THREADS, shared(2 * rows + 4 * columns, 4 * columns)](x, dy, lse, delta, *arguments, dx)
    return (dx,)


def _how(qkv, n_head, dropout, backward=False):
    """(program, grid, bytes of shared memory for so many rows and numbers, ROWS, COLUMNS, what every kernel is told)"""
    (B, T, C3), size = qkv.shape, qkv.itemsize
    D, heads = C3 // 3 // n_head, B * n_head
    head = next(head for head in HEADS if head >= D)
    rows, *columns = (64, 16, 16) if size == 4 else (128, 64, 32) if head <= 64 else (64, 32, 32)
    together = max(n for n in range(1, 17) if heads % n == 0)             # whose k and v are in L2 at a time
    if heads // together > 65535:                                         # the last number of a grid has 16 bits
        together = heads
    drop = NO_DROPOUT if dropout is None else (1 / (1 - dropout[0]), *masks(*dropout))
    return (cuda("attention", qkv.dtype, HEAD=head), (together, -(-T // rows), heads // together),
            lambda rows, numbers=0: rows * (head * size + 16) + numbers * 4, rows, columns[backward],
            (T, n_head, D, 1 / math.sqrt(D), *drop))


attention = forward, backward
