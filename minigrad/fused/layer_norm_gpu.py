"""Launches layer_norm.cu. Formula, names and [LN] numbers: layer_norm.py."""
from minigrad.backend import xp_of
from minigrad.cuda import cuda, has_instance, in_packs
from minigrad.fused import layer_norm as formula
from minigrad.fused.columns_gpu import add_rows
from minigrad.sums import plus
from minigrad.tensor import adds_up

TEAMS, ENTRIES = (32, 64, 128), 24           # threads that may share a row; entries of it that one of them holds
MOST = TEAMS[-1] * ENTRIES
FORWARD, BACKWARD = 4, 8         # warps of a block, where a warp has a row alone
MULTIPROCESSORS = 132            # an H100's: on others too, so that sums have the same bits


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
    xp, D, (program, team, teams) = xp_of(x), x.shape[-1], _program(x, FORWARD)
    given = [None if a is None else in_packs(a) for a in (x, r, w, b)]
    mu, rstd = (xp.empty((*x.shape[:-1], 1), "float32") for _ in range(2))
    s, y = (None if a is None else xp.empty(given[0].shape, x.dtype) for a in (r, x))
    program.forward[-(-mu.size // teams), team * teams](*given, float(eps), mu.size, D, y.shape[-1], s, y, mu, rstd)
    s, y = (xp.ascontiguousarray(a[..., :D]) for a in (x if s is None else s, y))
    return s, y, (s, w, mu, rstd)


def gradients(dy, x, w, mu, rstd, more, into_w, into_b):
    """(dx, dw, db) of [LN5,6]. more: what is added to dx [LN8], or None."""
    xp, D, (program, team, teams) = xp_of(x), x.shape[-1], _program(x, BACKWARD)
    dy, x, w, more = (None if a is None else in_packs(a.astype(x.dtype, copy=False)) for a in (dy, x, w, more))
    pitch, threads, dx = x.shape[-1], team * teams, xp.empty(x.shape, x.dtype)
    at_once = (256 if x.itemsize == 4 else 512 if team == 32 else 384) // threads        # BACKWARDS of layer_norm.cu
    blocks = min(-(-mu.size // teams), MULTIPROCESSORS * at_once)
    parts = xp.empty((blocks, 2, pitch), "float32")
    shared = max(8 * teams * pitch, 3 * threads * ENTRIES * x.itemsize)        # parts of teams, packs of threads
    program.backward[blocks, threads, shared](dy, x, w, mu, rstd, mu.size, D, pitch, more, dx, parts)
    return xp.ascontiguousarray(dx[..., :D]), *add_rows(parts[..., :D], into_w, into_b)


def _program(x, warps):
    """(kernels for rows of x, threads that share a row, rows of a block that has so many warps for rows of a warp)"""
    team = next(n for n in TEAMS if x.shape[-1] <= n * ENTRIES)
    return cuda("layer_norm", x.dtype, TEAM=team), team, warps if team == 32 else 1


layer_norm = forward, backward
add_layer_norm = forward_of_sum, backward_of_sum
