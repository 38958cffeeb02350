"""Launches columns.cu: how partial sums of parameters' gradients end."""
from minigrad.backend import xp_of
from minigrad.cuda import cuda
from minigrad.slot import DONE, SKIP

COLUMNS, BLOCK = 16, 1024       # columns of a block, and its threads


def add_rows(parts, *slots):
    """What a backward returns for gradients, one for each slot: the sums over n of parts[n, k], added to slot k if any.

    parts: (N, 1 or 2, D), float32.
    """
    if all(slot is SKIP for slot in slots):
        return [None for _ in slots]
    (N, many, D), xp = parts.shape, xp_of(parts)
    places = [(None, 0) if slot is SKIP else (xp.empty(D, "float32"), 0) if slot is None else slot.claim()
              for slot in slots]
    (out0, beta0), (out1, beta1) = (*places, (None, 0))[:2]
    launch = cuda("columns", "float32").add_rows[(-(-D // COLUMNS), many), BLOCK]
    launch(xp.ascontiguousarray(parts), N, D, out0, float(beta0), out1, float(beta1))
    return [out if slot is None or slot is SKIP else DONE for (out, _), slot in zip(places, slots, strict=True)]
