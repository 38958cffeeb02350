"""Launches layer_norm.cu. Formula, names and [LN] numbers: layer_norm.py."""
from minigrad.backend import xp_of
from minigrad.fused import layer_norm as formula
from minigrad.fused.columns_gpu import add_rows
from minigrad.kernels import cuda, has_instance
from minigrad.sums import plus
from minigrad.tensor import adds_up

WARPS, ENTRIES = 4, 24           # of a block; of a row, that a thread holds
MOST = 32 * WARPS * ENTRIES
FORWARD, BACKWARD = 660, 396     # blocks that share out the rows: five and three for each multiprocessor of an H100


def forward(x, w, b, *, eps=1e-5):
    formula.check_widths(x, w, b)
    D = x.shape[-1]
    if not has_instance(x, w, b) or D > MOST:
        return formula.layer_norm.reference(x, w, b, eps=eps)
    xp, N = xp_of(x), x.size // D
    x, y = xp.ascontiguousarray(x), xp.empty(x.shape, x.dtype)
    mu, rstd = (xp.empty((*x.shape[:-1], 1), "float32") for _ in range(2))
    w, b, (blocks, block, team) = xp.ascontiguousarray(w), xp.ascontiguousarray(b), _shares(N, D, FORWARD)
    launch = cuda("layer_norm", x.dtype).forward[blocks, block, _shared(4, x)]
    launch(x, w, b, float(eps), N, D, team, y, mu, rstd)
    return y, (x, w, mu, rstd)


@adds_up
def backward(dy, x, w, mu, rstd, into=(None, None, None), so_far=None):
    D = x.shape[-1]
    if not has_instance(x, w) or D > MOST:
        dx, dw, db = formula.layer_norm.reference_backward(dy, x, w, mu, rstd, into=into)
        return dx if so_far is None else plus(dx, so_far), dw, db
    xp, N = xp_of(x), x.size // D
    dy, dx = xp.ascontiguousarray(dy.astype(x.dtype, copy=False)), xp.empty(x.shape, x.dtype)
    so_far = None if so_far is None else xp.ascontiguousarray(so_far)
    blocks, block, team = _shares(N, D, BACKWARD)
    parts = xp.empty((blocks, 2, D), "float32")
    launch = cuda("layer_norm", x.dtype).backward[blocks, block, _shared(5 if so_far is None else 7, x)]
    launch(dy, x, w, mu, rstd, N, D, team, so_far, dx, parts)
    return dx, add_rows(parts, 0, into[1]), add_rows(parts, 1, into[2])


def _shares(N, D, most):
    """(blocks, threads of a block, threads that share a row) for N rows of D entries."""
    warps = -(-D // (32 * ENTRIES))
    teams = WARPS // warps
    return min(-(-N // teams), most), 32 * warps * teams, 32 * warps


def _shared(arrays, x):
    """Bytes of shared memory for so many places for rows of x's dtype, and for the sums of warps."""
    return 16 * WARPS + arrays * MOST * x.itemsize


layer_norm = forward, backward
