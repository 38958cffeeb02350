"""Launches adamw.cu. Formula, names and [AW] numbers: adamw.py."""
import numpy as np

from minigrad.backend import xp_of
from minigrad.cuda import cuda, has_instance
from minigrad.fused import adamw as formula

BLOCK = 256
PROCESSORS = 132     # of an H100
# Blocks for each of them, at most; a block goes on until all is done. As many as its registers hold at one time, 64 for
# a thread of adamw and 32 for one of squares. So 64 KB or more of adamw's loads are under way on each, and 32 KB of
# squares'; a memory of 3.35 TB/s that answers after 0.7 us wants 18.
ADAMW, SQUARES = 4, 8


def adamw(p, g, m, v, master, *, lr, beta1, beta2, eps, decay, step, scale=1.0):
    if not has_instance(p) or g.dtype != np.float32:
        return formula.adamw.reference(p, g, m, v, master, lr=lr, beta1=beta1, beta2=beta2, eps=eps, decay=decay,
                                       step=step, scale=scale)
    xp = xp_of(p)
    full, rest = (None, master) if master is not None and master.dtype == np.int16 else (master, None)
    cuda("adamw", p.dtype).adamw[_blocks(p, ADAMW), BLOCK](
        p, g, m, v, full, rest, np.int64(p.size), *(xp.asarray(x, "float64") for x in (lr, step, scale)),
        *map(np.float64, (beta1, beta2, decay)), float(eps))


def sum_of_squares(g):
    if not has_instance(g):
        return formula.sum_of_squares.reference(g)
    xp = xp_of(g)
    parts = xp.empty(_blocks(g, SQUARES), "float64")
    cuda("adamw", g.dtype).squares[len(parts), BLOCK](xp.ascontiguousarray(g), np.int64(g.size), parts)
    return parts.sum()


def _blocks(a, most):
    """A pack of 16 bytes to a thread, as far as there are blocks."""
    return min(most * PROCESSORS, -(-a.nbytes // (16 * BLOCK)))
