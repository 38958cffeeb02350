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
PLACES = {"forward": 6, "backward": 7}       # that a thread has in shared memory for what is on its way


def forward(x, w, b, *, eps=1e-5):
    formula.check_widths(x, w, b)
    if not takes(x, w, b):
        return formula.layer_norm.reference(x, w, b, eps=eps)
    _, y, saved = normalise(x, None, w, b, eps)
    return y, saved


@adds_up
def backward(dy, x, w, mu, rstd, into=(None, None, None), so_far=None):
    if not takes(x, w):
        dx, dw, db = formula.layer_norm.reference_backward(dy, x, w, mu, rstd, into=into)
        return dx if so_far is None else plus(dx, so_far), dw, db
    return gradients(dy, x, w, mu, rstd, so_far, *into[1:])


def forward_of_sum(x, r, w, b, *, eps=1e-5):
    formula.check_widths(x, w, b)
    if not takes(x, r, w, b) or x.shape != r.shape:
        return formula.add_layer_norm.reference(x, r, w, b, eps=eps)
    s, y, saved = normalise(x, r, w, b, eps)
    return (s, y), saved


def backward_of_sum(dy, s, w, mu, rstd, into=(None,) * 4):
    if dy[1] is None or not takes(s, w):
        return formula.add_layer_norm.reference_backward(dy, s, w, mu, rstd, into=into)
    dx, dw, db = gradients(dy[1], s, w, mu, rstd, dy[0], *into[2:])
    return dx, dx, dw, db


def takes(x, *others):
    """Is there a kernel for rows like those of x?"""
    return has_instance(x, *others) and x.shape[-1] <= MOST


def normalise(x, r, w, b, eps):
    """(s, y, what backward needs) of [LN7] for s = x + r, or of [LN1-4] for s = x if r is None."""
    xp, D = xp_of(x), x.shape[-1]
    x, w, b = (xp.ascontiguousarray(a) for a in (x, w, b))
    r, s = (None, None) if r is None else (xp.ascontiguousarray(r), xp.empty(x.shape, x.dtype))
    y, (mu, rstd) = xp.empty(x.shape, x.dtype), (xp.empty((*x.shape[:-1], 1), "float32") for _ in range(2))
    blocks, block, team = _shares(mu.size, D, FORWARD)
    launch = cuda("layer_norm", x.dtype).forward[blocks, block, _shared("forward", x)]
    launch(x, r, w, b, float(eps), mu.size, D, team, s, y, mu, rstd)
    s = x if s is None else s
    return s, y, (s, w, mu, rstd)


def gradients(dy, x, w, mu, rstd, more, into_w, into_b):
    """(dx, dw, db) of [LN5,6]. more: what is added to dx [LN8], or None."""
    xp, N, D = xp_of(x), mu.size, x.shape[-1]
    dy, dx = xp.ascontiguousarray(dy.astype(x.dtype, copy=False)), xp.empty(x.shape, x.dtype)
    more = None if more is None else xp.ascontiguousarray(more.astype(x.dtype, copy=False))
    blocks, block, team = _shares(N, D, BACKWARD)
    parts = xp.empty((blocks, 2, D), "float32")
    launch = cuda("layer_norm", x.dtype).backward[blocks, block, _shared("backward", x)]
    launch(dy, x, w, mu, rstd, N, D, team, more, dx, parts)
    return dx, add_rows(parts, 0, into_w), add_rows(parts, 1, into_b)


def _shares(N, D, most):
    """(blocks, threads of a block, threads that share a row) for N rows of D entries."""
    warps = -(-D // (32 * ENTRIES))
    teams = WARPS // warps
    return min(-(-N // teams), most), 32 * warps * teams, 32 * warps


def _shared(kernel, x):
    """Bytes of shared memory for rows of x's dtype, and for the sums of warps."""
    return 16 * WARPS + PLACES[kernel] * MOST * x.itemsize


layer_norm = forward, backward
add_layer_norm = forward_of_sum, backward_of_sum
