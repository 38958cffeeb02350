"""Launches attention_sm90.cu. Formula, names and [AT] numbers: attention.py."""
import functools

from minigrad import backend
from minigrad.backend import xp_of
from minigrad.cuda import SIZES, cuda, multiprocessors
from minigrad.fused.attention_common_gpu import grid, told
from minigrad.fused.hopper_gpu import ROW, TYPES, is_hopper, tensor_map

ROWS, BOX, KEYS, AHEAD, STAGES_Q, STAGES_KV, GROUP = 128, 64, 64, 4, 3, 4, 128          # as there; GROUP: threads
HEADS = [size["HEAD"] for size in SIZES["attention_sm90"]]


def takes(qkv, n_head):
    """Do the kernels know such entries and heads, on this GPU?"""
    size = qkv.shape[-1] // 3 // n_head
    return (backend.on_gpu(qkv) and is_hopper() and qkv.dtype.name in TYPES and size % 8 == 0 and size <= HEADS[-1]
            and qkv.size > 0)


def forward(qkv, n_head, dropout):
    (B, T, C3), xp = qkv.shape, xp_of(qkv)
    y, lse = xp.empty((B, T, C3 // 3), qkv.dtype), xp.empty((B, n_head, T), "float32")
    program, head = _how(qkv, n_head)
    shared = _bytes(head, ROWS + 2 * AHEAD * KEYS, 1 + 2 * AHEAD)
    program.forward[grid(B * n_head, T, ROWS), 2 * GROUP, shared](
        _map(qkv, 3 * n_head), *told(qkv, n_head, dropout), y, lse)
    return y, (qkv, y, lse, n_head, dropout)


def backward(dy, qkv, y, lse, n_head, dropout):
    (B, T, _), xp = qkv.shape, xp_of(qkv)
    y, dy = (xp.ascontiguousarray(a.astype(qkv.dtype, copy=False)) for a in (y, dy))
    delta, dx = xp.empty(lse.shape, "float32"), xp.empty(qkv.shape, qkv.dtype)
    program, head = _how(qkv, n_head)
    maps, given = (_map(qkv, 3 * n_head), _map(dy, n_head)), told(qkv, n_head, dropout)
    rooms, tile_q, tile_kv = 128 // head, 128 if head == 64 else 64, 64
    together, _, others = grid(B * n_head, T, ROWS)
    blocks = together, shares(B * n_head, T, multiprocessors(xp)), others
    shared = _bytes(head, 3 * rooms * ROWS + 2 * STAGES_Q * tile_q, 2 * rooms + 2 * STAGES_Q)
    program.backward_q[blocks, 3 * GROUP, shared](*maps, _map(y, n_head), *given, lse, delta, dx)
    shared = _bytes(head, 2 * rooms * ROWS + 2 * STAGES_KV * tile_kv, 2 * rooms + 2 * STAGES_KV)
    shared += STAGES_KV * 2 * tile_kv * lse.itemsize
    program.backward_kv[blocks, 3 * GROUP, shared](*maps, *given, lse, delta, dx)
    return (dx,)


@functools.cache
def shares(heads, T, processors):
    """How many blocks share a head in backward: as suits the last of them, for all are alike and come in waves.

    A block takes stretches of ROWS rows in pairs, each of which meets `tiles` tiles of as many; that it begins and ends
    takes about as long as two tiles.
    """
    stretches = -(-T // ROWS)
    pairs, tiles = -(-stretches // 2), stretches + 1
    return min(range(1, pairs + 1), key=lambda n: -(-heads * n // processors) * (-(-pairs // n) * tiles + 2))


def _how(qkv, n_head):
    """(program, its HEAD)"""
    head = next(head for head in HEADS if head >= qkv.shape[-1] // 3 // n_head)
    return cuda("attention_sm90", qkv.dtype, HEAD=head), head


def _map(x, heads):
    """x (B, T, heads D), of which a copy takes up to 64 rows and entries of one head."""
    B, T, C = x.shape
    return tensor_map(xp_of(x).ascontiguousarray(x).reshape(B, T, heads, C // heads), (1, BOX, 1, ROW // x.itemsize))


def _bytes(head, rows, barriers):
    """Of shared memory, for so many rows of tiles, and so many barriers."""
    return rows * head * 2 + barriers * 8
