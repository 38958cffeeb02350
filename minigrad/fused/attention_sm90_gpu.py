"""Launches attention_sm90.cu. Formula, names and [AT] numbers: attention.py."""
import functools
import math

import numpy as np

from minigrad import backend
from minigrad.backend import xp_of
from minigrad.fused.dropout_gpu import masks
from minigrad.fused.hopper_gpu import ROW, TYPES, tensor_map
from minigrad.kernels import SIZES, cuda

TILE, STAGES, THREADS = 128, 2, 384                # as there
HEADS = [size["HEAD"] for size in SIZES["attention_sm90"]]
NO_DROPOUT = 0.0, *map(np.uint32, (0,) * 6)


def takes(qkv, n_head):
    """Does the kernel know such entries and heads, on this GPU?"""
    size = qkv.shape[-1] // 3 // n_head
    return backend.on_gpu(qkv) and is_hopper() and qkv.dtype.name in TYPES and size % 8 == 0 and size <= HEADS[-1]


@functools.cache
def is_hopper():
    return backend.cupy().cuda.Device().compute_capability == "90"


def forward(qkv, n_head, dropout):
    """y (B, T, C) and lse (B, H, T) of qkv (B, T, 3C)."""
    (B, T, C3), xp = qkv.shape, xp_of(qkv)
    D = C3 // 3 // n_head
    head = next(size for size in HEADS if size >= D)
    y, lse = xp.empty((B, T, C3 // 3), qkv.dtype), xp.empty((B, n_head, T), "float32")
    drop = NO_DROPOUT if dropout is None else (1 / (1 - dropout[0]), *masks(*dropout))
    rows = tensor_map(xp.ascontiguousarray(qkv).reshape(B, T, 3 * n_head, D), (1, TILE, 1, ROW // qkv.itemsize))
    tile, barriers = TILE * head * qkv.itemsize, 8 * (1 + 4 * STAGES)
    shared = -(-((1 + 2 * STAGES) * tile + barriers) // 1024) * 1024     # Shared is as aligned as its tiles have to be
    together = max(n for n in range(1, 17) if B * n_head % n == 0)       # heads whose k and v are in L2 at a time
    grid = together, -(-T // TILE), B * n_head // together
    cuda("attention_sm90", qkv.dtype, HEAD=head).forward[grid, THREADS, shared](
        rows, T, n_head, D, 1 / math.sqrt(D), *drop, y, lse)
    return y, lse
