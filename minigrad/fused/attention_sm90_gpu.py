"""Launches attention_sm90.cu. Formula, names and [AT] numbers: attention.py."""
from minigrad import backend
from minigrad.backend import xp_of
from minigrad.fused.attention_common_gpu import grid, told
from minigrad.fused.hopper_gpu import ROW, TYPES, is_hopper, tensor_map
from minigrad.kernels import SIZES, cuda

ROWS, STAGES, BOX, KEYS, AHEAD, GROUP = 128, 2, 64, 64, 4, 128      # as there; threads of a warpgroup
HEADS = [size["HEAD"] for size in SIZES["attention_sm90"]]


def takes(qkv, n_head):
    """Do the kernels know such entries and heads, on this GPU?"""
    size = qkv.shape[-1] // 3 // n_head
    return (backend.on_gpu(qkv) and is_hopper() and qkv.dtype.name in TYPES and size % 8 == 0 and size <= HEADS[-1]
            and qkv.size > 0)


def forward(qkv, n_head, dropout):
    (B, T, C3), xp = qkv.shape, xp_of(qkv)
    y, lse = xp.empty((B, T, C3 // 3), qkv.dtype), xp.empty((B, n_head, T), "float32")
    program, head, blocks = _how(qkv, n_head)
    shared = _bytes(head, ROWS + 2 * AHEAD * KEYS, 1 + 2 * AHEAD)
    program.forward[blocks, 2 * GROUP, shared](_map(qkv, 3 * n_head), *told(qkv, n_head, dropout), y, lse)
    return y, (qkv, y, lse, n_head, dropout)


def backward(dy, qkv, y, lse, n_head, dropout):
    xp = xp_of(qkv)
    y, dy = (xp.ascontiguousarray(a.astype(qkv.dtype, copy=False)) for a in (y, dy))
    delta, dx = xp.empty(lse.shape, "float32"), xp.empty(qkv.shape, qkv.dtype)
    program, head, blocks = _how(qkv, n_head)
    given, tile = (_map(qkv, 3 * n_head), _map(dy, n_head), *told(qkv, n_head, dropout)), 128 if head == 64 else 64
    shared = _bytes(head, 2 * ROWS + 2 * STAGES * tile, 1 + 2 * STAGES)
    program.backward_q[blocks, 3 * GROUP, shared](*given, dy, y, lse, delta, dx)
    shared = _bytes(head, 2 * ROWS + 2 * STAGES * 64, 1 + 2 * STAGES) + STAGES * 2 * 64 * lse.itemsize
    program.backward_kv[blocks, 3 * GROUP, shared](*given, lse, delta, dx)
    return (dx,)


def _how(qkv, n_head):
    """(program, its HEAD, grid)"""
    B, T, C3 = qkv.shape
    head = next(head for head in HEADS if head >= C3 // 3 // n_head)
    return cuda("attention_sm90", qkv.dtype, HEAD=head), head, grid(B * n_head, T, ROWS)


def _map(x, heads):
    """x (B, T, heads D), of which a copy takes up to 64 rows and entries of one head."""
    B, T, C = x.shape
    return tensor_map(xp_of(x).ascontiguousarray(x).reshape(B, T, heads, C // heads), (1, BOX, 1, ROW // x.itemsize))


def _bytes(head, rows, barriers):
    """Of shared memory, for so many rows of tiles, and so many barriers."""
    return rows * head * 2 + barriers * 8
