"""Launches embedding.cu. Formula, names and [EM] numbers: embedding.py."""
from minigrad.backend import xp_of
from minigrad.cuda import cuda, has_instance
from minigrad.fused import embedding as formula
from minigrad.slot import DONE, SKIP

BLOCK = 128
MOST = 256           # threads of a block that takes rows
CHUNK = 32           # rows that a block adds up
SORTERS = 1024       # threads of a block that sorts
LOOKED_AT = 32       # rows of the table that a block clears, if no id names them
STRETCHES = 64       # of the ids, at most, with a block to sort each: every one reads what all have counted


def forward(ids, w):
    if not has_instance(w):
        return formula.embedding.reference(ids, w)
    xp, C = xp_of(w), w.shape[-1]
    if xp.__name__ == "numpy":                     # on a GPU this check would make the host wait
        formula.check(ids, w)
    y, flat = xp.empty((*ids.shape, C), w.dtype), _flat(ids)
    cuda("embedding", w.dtype).forward[flat.size * bool(C), BLOCK](flat, xp.ascontiguousarray(w), len(w), C, y)
    return y, (ids, w)


def backward(dy, ids, w, *, into):
    if not has_instance(w):
        return formula.embedding.reference_backward(dy, ids, w, into=into)
    slot = into[1]
    if slot is SKIP:
        return None, None
    dw, beta = (xp_of(w).empty(w.shape, "float32"), 0) if slot is None else slot.claim()
    if w.shape[1]:
        _add(_flat(ids), dy.astype(w.dtype, copy=False).reshape(-1, w.shape[1]), float(beta), dw)
    return None, dw if slot is None else DONE


def _add(ids, dy, beta, dw):
    """dw = beta dw + [EM2], for ids (N,) and dy (N, C)."""
    xp, (N, C), V, program = xp_of(dy), dy.shape, len(dw), cuda("embedding", dy.dtype)
    order, chunks = in_order(ids, V, program), -(-N // CHUNK)
    cleared = -(-V // LOOKED_AT) if beta == 0 else 0
    parts, threads = xp.empty((chunks, 2, C), "float32"), min(MOST, -(-C * dy.itemsize // (16 * 32)) * 32)
    program.sums[chunks + cleared, threads](order, xp.ascontiguousarray(dy), N, V, C, beta, dw, parts)
    program.join[(-(-chunks // 32), -(-C // MOST)), MOST](order, N, C, beta, parts, dw)


def in_order(ids, V, program):
    """(N, 2) int32: the ids, each below V, in ascending order, with their places; equal ones in their own order."""
    xp, N = xp_of(ids), len(ids)
    blocks = min(STRETCHES, -(-N // SORTERS))
    per, warps = -(-N // max(1, SORTERS * blocks)) * 32, SORTERS // 32     # of a warp, of a block
    order, total = xp.empty((2, N, 2), "int32"), xp.empty((256, blocks), "int32")
    passes = -(-max(V - 1, 1).bit_length() // 8)
    for k in range(passes):
        begun, done = order[(k + 1) % 2], order[k % 2]
        program.count[blocks, SORTERS, 4 * 256 * warps](ids, begun, N, V, k, per, total)
        program.place[blocks, SORTERS, 4 * 256 * warps](ids, begun, N, V, k, per, total, done)
    return order[(passes - 1) % 2]


def _flat(ids):
    return xp_of(ids).ascontiguousarray(ids, dtype="int64").reshape(-1)


embedding = forward, backward
