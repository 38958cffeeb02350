"""What the launchers of attention.cu and attention_sm90.cu share."""
import math

import numpy as np

from minigrad.fused.dropout_gpu import masks

NO_DROPOUT = 0.0, *map(np.uint32, (0,) * 4), None, np.uint32(0)


def grid(heads, T, rows):
    """Blocks of so many rows each, for heads of all sequences."""
    together = max(n for n in range(1, 17) if heads % n == 0)             # whose k and v are in L2 at a time
    if heads // together > 65535:                                         # the last number of a grid has 16 bits
        together = heads
    return together, -(-T // rows), heads // together


def told(qkv, n_head, dropout):
    """attention.cuh's ARGUMENTS."""
    T, D = qkv.shape[1], qkv.shape[2] // 3 // n_head
    drop = NO_DROPOUT if dropout is None else (1 / (1 - dropout[0]), *masks(*dropout))
    return (T, n_head, D, 1 / math.sqrt(D), *drop)
