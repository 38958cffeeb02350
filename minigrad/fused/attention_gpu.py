"""Launches attention.cu. Formula, names and [AT] numbers: attention.py."""
import math

import numpy as np

from minigrad.backend import xp_of
from minigrad.fused import attention as formula
from minigrad.fused.dropout_gpu import masks
from minigrad.kernels import SIZES, cuda, has_instance

TILE, THREADS = 64, 128
HEADS = [size["HEAD"] for size in SIZES["attention"]]
NO_DROPOUT = 0.0, *map(np.uint32, (0,) * 6)


def forward(qkv, *, n_head, dropout=None):
    formula.check(qkv, n_head, dropout)
    (B, T, C3), xp = qkv.shape, xp_of(qkv)
    if not has_instance(qkv) or C3 // 3 // n_head > HEADS[-1]:
        return formula.attention.reference(qkv, n_head=n_head, dropout=dropout)
    y, lse = xp.empty((B, T, C3 // 3), qkv.dtype), xp.empty((B, n_head, T), "float32")
    program, shared, arguments = _how(qkv, n_head, dropout)
    program.forward[_grid(lse), THREADS, shared(3, 1)](xp.ascontiguousarray(qkv), *arguments, y, lse)
    return y, (qkv, y, lse, n_head, dropout)


def backward(dy, qkv, y, lse, n_head, dropout, into=None):
    if not has_instance(qkv) or qkv.shape[-1] // 3 // n_head > HEADS[-1]:
        return formula.attention.reference_backward(dy, qkv, y, lse, n_head, dropout)
    xp, (_, T, C) = xp_of(qkv), y.shape
    dy, x = xp.ascontiguousarray(dy.astype(qkv.dtype, copy=False)), xp.ascontiguousarray(qkv)
    delta, dx = xp.empty(lse.shape, "float32"), xp.empty(qkv.shape, qkv.dtype)
    program, shared, arguments = _how(qkv, n_head, dropout)
    program.deltas[-(-delta.size // (THREADS // 32)), THREADS](dy, xp.ascontiguousarray(y), T, n_head, C // n_head,
                                                               np.int64(delta.size), delta)
    program.backward_q[_grid(lse), THREADS, shared(4, 1)](x, dy, lse, delta, *arguments, dx)
    program.backward_kv[_grid(lse), THREADS, shared(4, 2)](x, dy, lse, delta, *arguments, dx)
    return (dx,)


def _grid(lse):
    B, H, T = lse.shape
    return B * H, -(-T // TILE)


def _how(qkv, n_head, dropout):
    """(program, bytes of shared memory for so many tiles of entries and of scores, what every kernel wants to know)"""
    T, D = qkv.shape[1], qkv.shape[2] // 3 // n_head
    head, pack = next(size for size in HEADS if size >= D), 16 // qkv.itemsize
    drop = NO_DROPOUT if dropout is None else (1 / (1 - dropout[0]), *masks(*dropout))
    return (cuda("attention", qkv.dtype, HEAD=head),
            lambda wide, across: TILE * (wide * (head + pack) + across * (TILE + pack)) * qkv.itemsize,
            (T, n_head, D, 1 / math.sqrt(D), *drop))


attention = forward, backward
