"""Launches attention.cu, or attention_sm90.cu where that can run. Formula, names and [AT] numbers: attention.py."""
from minigrad.backend import xp_of
from minigrad.fused import attention as formula
from minigrad.fused import attention_sm90_gpu as sm90
from minigrad.fused.attention_common_gpu import grid, told
from minigrad.kernels import SIZES, cuda, has_instance

THREADS = 128
HEADS = [size["HEAD"] for size in SIZES["attention"]]


def forward(qkv, *, n_head, dropout=None):
    formula.check(qkv, n_head, dropout)
    (B, T, C3), xp = qkv.shape, xp_of(qkv)
    if not has_instance(qkv) or C3 // 3 // n_head > HEADS[-1]:
        return formula.attention.reference(qkv, n_head=n_head, dropout=dropout)
    if sm90.takes(qkv, n_head):
        return sm90.forward(qkv, n_head, dropout)
    y, lse = xp.empty((B, T, C3 // 3), qkv.dtype), xp.empty((B, n_head, T), "float32")
    program, blocks, shared, rows, columns, arguments = _how(qkv, n_head, dropout)
    program.forward[blocks, THREADS, shared(rows + 4 * columns)](xp.ascontiguousarray(qkv), *arguments, y, lse)
    return y, (qkv, y, lse, n_head, dropout)


def backward(dy, qkv, y, lse, n_head, dropout, into=None):
    if not has_instance(qkv) or qkv.shape[-1] // 3 // n_head > HEADS[-1]:
        return formula.attention.reference_backward(dy, qkv, y, lse, n_head, dropout)
    if sm90.takes(qkv, n_head):
        return sm90.backward(dy, qkv, y, lse, n_head, dropout)
    xp = xp_of(qkv)
    x, y, dy = (xp.ascontiguousarray(a) for a in (qkv, y, dy.astype(qkv.dtype, copy=False)))
    delta, dx = xp.empty(lse.shape, "float32"), xp.empty(qkv.shape, qkv.dtype)
    program, blocks, shared, rows, columns, arguments = _how(qkv, n_head, dropout, backward=True)
    program.backward_q[blocks, THREADS, shared(2 * rows + 2 * columns + max(2 * columns, rows))](
        x, dy, y, lse, *arguments, delta, dx)
    program.backward_kv[blocks, THREADS, shared(2 * rows + 4 * columns, 4 * columns)](x, dy, lse, delta, *arguments, dx)
    return (dx,)


def _how(qkv, n_head, dropout, backward=False):
    """(program, grid, bytes of shared memory for so many rows and numbers, ROWS, COLUMNS, what every kernel is told)"""
    (B, T, C3), size = qkv.shape, qkv.itemsize
    head = next(head for head in HEADS if head >= C3 // 3 // n_head)
    rows, *columns = (64, 16, 16) if size == 4 else (128, 64, 32) if head <= 64 else (64, 32, 32)
    return (cuda("attention", qkv.dtype, HEAD=head), grid(B * n_head, T, rows),
            lambda rows, numbers=0: rows * (head * size + 16) + numbers * 4, rows, columns[backward],
            told(qkv, n_head, dropout))


attention = forward, backward
