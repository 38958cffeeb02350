"""Launches columns.cu: how partial sums of a parameter's gradient end."""
import numpy as np

from minigrad.backend import xp_of
from minigrad.kernels import cuda
from minigrad.tensor import DONE, SKIP

COLUMNS, BLOCK = 32, 1024       # columns of a block; its threads, a warp to a row


def add_rows(parts, which, slot):
    """What a backward returns for a gradient that is the sum over n of parts[n, which]: added to the slot, if any.

    parts: (N, how many, D), float32.
    """
    if slot is SKIP:
        return None
    N, many, D = parts.shape
    out, beta = (xp_of(parts).empty(D, "float32"), 0) if slot is None else slot.claim()
    launch = cuda("columns", "float32").add_rows[-(-D // COLUMNS), BLOCK, 4 * BLOCK]
    launch(parts.reshape(-1)[which * D:], N, np.int64(many * D), D, float(beta), out)
    return out if slot is None else DONE
