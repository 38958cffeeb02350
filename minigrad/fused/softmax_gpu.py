"""Launches softmax.cu. Formula, names and [SM] numbers: softmax.py."""
from minigrad.backend import xp_of
from minigrad.cuda import cuda, has_instance
from minigrad.fused import softmax as formula

BLOCK = 128
ENTRIES = 32         # of a row, that a thread holds
MOST = 512           # threads for a row that is held; longer ones are read three times


def forward(x, *, axis=-1, causal=False):
    formula.check(x, axis, causal)
    if not has_instance(x) or not x.size:
        return formula.softmax.reference(x, axis=axis, causal=causal)
    p = _forward(x, axis, False, causal)
    return p, (p, axis, causal)


def backward(dp, p, axis, causal, into=None):
    if not has_instance(p) or not p.size:
        return formula.softmax.reference_backward(dp, p, axis, causal)
    return (_backward(dp, p, axis, False, causal),)


def log_forward(x, *, axis=-1):
    formula.check(x, axis)
    if not has_instance(x) or not x.size:
        return formula.log_softmax.reference(x, axis=axis)
    y = _forward(x, axis, True, False)
    return y, (y, axis)


def log_backward(dy, y, axis, into=None):
    if not has_instance(y) or not y.size:
        return formula.log_softmax.reference_backward(dy, y, axis)
    return (_backward(dy, y, axis, True, False),)


def _forward(x, axis, log, causal):
    x, y, N, D = _rows(x, axis)
    team, program = 32 * -(-D // (32 * ENTRIES)), cuda("softmax", x.dtype)
    if team > MOST:
        program.forward_long[N, BLOCK](x, D, int(log), int(causal), y)
    else:
        block = BLOCK if team == 32 else team
        program.forward[-(-N * team // block), block](x, N, D, team, int(log), int(causal), y)
    return y.swapaxes(axis, -1)


def _backward(dy, y, axis, log, causal):
    dy, dx, N, D = _rows(dy.astype(y.dtype, copy=False), axis)
    cuda("softmax", y.dtype).backward[N, BLOCK](dy, _rows(y, axis)[0], D, int(log), int(causal), dx)
    return dx.swapaxes(axis, -1)


def _rows(x, axis):
    """x with its rows along the last axis, room for as much, how many rows, and entries of each."""
    xp, x = xp_of(x), xp_of(x).ascontiguousarray(x.swapaxes(axis, -1))
    return x, xp.empty(x.shape, x.dtype), x.size // x.shape[-1], x.shape[-1]


softmax, log_softmax = (forward, backward), (log_forward, log_backward)
