"""Launches kernels that take entries one by one: kernel(*arrays, n, ..., out), a pack of 16 bytes to a thread."""
import numpy as np

from minigrad.backend import xp_of
from minigrad.cuda import cuda

BLOCK = 256


def entrywise(stem, name, *arrays, numbers=()):
    """out, like the last of the arrays, written by kernel NAME of STEM.cu. The arrays have one shape."""
    xp, like = xp_of(*arrays), arrays[-1]
    out = xp.empty(like.shape, like.dtype)
    arrays = [xp.ascontiguousarray(a.astype(like.dtype, copy=False)) for a in arrays]
    blocks = -(-out.size * out.itemsize // (16 * BLOCK))
    getattr(cuda(stem, out.dtype), name)[blocks, BLOCK](*arrays, np.int64(out.size), *numbers, out)
    return out
