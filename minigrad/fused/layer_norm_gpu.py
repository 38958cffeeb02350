"""Launches layer_norm.cu. Formula, names and [LN] numbers: layer_norm.py."""
from minigrad.backend import xp_of
from minigrad.fused import layer_norm as formula
from minigrad.fused.columns_gpu import add_rows
from minigrad.kernels import cuda, has_instance
from minigrad.sums import plus
from minigrad.tensor import adds_up

THREADS, ENTRIES = 128, 24       # of a block; of a row, that a thread holds
MOST = THREADS * ENTRIES
WARPS = 1584                     # that share out the rows in backward: twelve for each multiprocessor of an H100


def forward(x, w, b, *, eps=1e-5):
    formula.check_widths(x, w, b)
    D = x.shape[-1]
    if not has_instance(x, w, b) or D > MOST:
        return formula.layer_norm.reference(x, w, b, eps=eps)
    xp, (block, team) = xp_of(x), _threads(D)
    x, N, y = xp.ascontiguousarray(x), x.size // D, xp.empty(x.shape, x.dtype)
    mu, rstd = (xp.empty((*x.shape[:-1], 1), "float32") for _ in range(2))
    w, b = xp.ascontiguousarray(w), xp.ascontiguousarray(b)
    cuda("layer_norm", x.dtype).forward[-(-N * team // block), block](x, w, b, float(eps), N, D, team, y, mu, rstd)
    return y, (x, w, mu, rstd)


@adds_up
def backward(dy, x, w, mu, rstd, into=(None, None, None), so_far=None):
    D = x.shape[-1]
    if not has_instance(x, w) or D > MOST:
        dx, dw, db = formula.layer_norm.reference_backward(dy, x, w, mu, rstd, into=into)
        return dx if so_far is None else plus(dx, so_far), dw, db
    xp, N, (block, team) = xp_of(x), x.size // D, _threads(D)
    dy, dx = xp.ascontiguousarray(dy.astype(x.dtype, copy=False)), xp.empty(x.shape, x.dtype)
    so_far = None if so_far is None else xp.ascontiguousarray(so_far)
    parts = xp.empty((min(-(-N * team // block), 32 * WARPS // block), 2, D), "float32")
    shared = 8 * D if team < block else 0
    cuda("layer_norm", x.dtype).backward[len(parts), block, shared](dy, x, w, mu, rstd, N, D, team, so_far, dx,
                                                                      parts)
    return dx, add_rows(parts, 0, into[1]), add_rows(parts, 1, into[2])


def _threads(D):
    """(threads of a block, threads that share a row): a warp for each of four rows, or as many warps as a row needs."""
    team = 32 * -(-D // (32 * ENTRIES))
    return (THREADS, 32) if team == 32 else (team, team)


layer_norm = forward, backward
