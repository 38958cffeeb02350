"""Launches adamw.cu. Formula, names and [AW] numbers: adamw.py."""
import math

import numpy as np

from minigrad.backend import xp_of
from minigrad.fused import adamw as formula
from minigrad.kernels import cuda, has_instance

BLOCK = 256


def adamw(p, g, m, v, master, *, lr, beta1, beta2, eps, decay, step, scale=1.0):
    if not has_instance(p) or g.dtype != np.float32:
        return formula.adamw.reference(p, g, m, v, master, lr=lr, beta1=beta1, beta2=beta2, eps=eps, decay=decay,
                                       step=step, scale=scale)
    full, rest = (None, master) if master is not None and master.dtype == np.int16 else (master, None)
    numbers = (1 - lr * decay, 1 - beta1, beta2, 1 - beta2, lr / (1 - beta1 ** step), math.sqrt(1 - beta2 ** step), eps,
               scale)
    cuda("adamw", p.dtype).adamw[-(-p.size // BLOCK), BLOCK](p, g, m, v, full, rest, np.int64(p.size),
                                                             *map(float, numbers))


def sum_of_squares(g):
    if not has_instance(g):
        return formula.sum_of_squares.reference(g)
    xp = xp_of(g)
    parts = xp.empty(formula.CHUNKS, "float64")
    cuda("adamw", g.dtype).squares[len(parts), BLOCK](xp.ascontiguousarray(g), np.int64(g.size), parts)
    return parts.sum()
