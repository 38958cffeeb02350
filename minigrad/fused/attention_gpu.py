"""Launches attention.cu, or attention_sm90.cu where that can run. Formula, names and [AT] numbers: attention.py."""
from minigrad.backend import xp_of
from minigrad.cuda import SIZES, cuda, has_instance, in_packs, shared_memory
from minigrad.fused import attention as formula
from minigrad.fused import attention_sm90_gpu as sm90
from minigrad.fused.attention_common_gpu import grid, told

THREADS = 128
HEADS = [size["HEAD"] for size in SIZES["attention"]]


def forward(qkv, *, n_head, dropout=None):
    formula.check(qkv, n_head, dropout)
    (B, T, C3), xp = qkv.shape, xp_of(qkv)
    if sm90.takes(qkv, n_head):
        return sm90.forward(qkv, n_head, dropout)
    if not _takes(qkv, n_head):
        return formula.attention.reference(qkv, n_head=n_head, dropout=dropout)
    x = packed(qkv, 3 * n_head)
    y, lse = xp.empty((*x.shape[:2], x.shape[2] // 3), x.dtype), xp.empty((B, n_head, T), "float32")
    program, blocks, shared, rows, columns, arguments = _how(qkv, n_head, dropout)
    program.forward[blocks, THREADS, shared(rows + 4 * columns)](x, *arguments, y, lse)
    y = unpacked(y, n_head, C3 // 3)
    return y, (qkv, y, lse, n_head, dropout)


def backward(dy, qkv, y, lse, n_head, dropout, into=None):
    if sm90.takes(qkv, n_head):
        return sm90.backward(dy, qkv, y, lse, n_head, dropout)
    if not _takes(qkv, n_head):
        return formula.attention.reference_backward(dy, qkv, y, lse, n_head, dropout)
    xp, x = xp_of(qkv), packed(qkv, 3 * n_head)
    y, dy = packed(y, n_head), packed(dy.astype(qkv.dtype, copy=False), n_head)
    delta, dx = xp.empty(lse.shape, "float32"), xp.empty(x.shape, x.dtype)
    program, blocks, shared, rows, columns, arguments = _how(qkv, n_head, dropout, backward=True)
    program.backward_q[blocks, THREADS, shared(_most(rows, columns))](
        x, dy, y, lse, *arguments, delta, dx)
    program.backward_kv[blocks, THREADS, shared(2 * rows + 4 * columns, 4 * columns)](x, dy, lse, delta, *arguments, dx)
    return (unpacked(dx, 3 * n_head, qkv.shape[-1]),)


def _takes(qkv, n_head):
    """Is there a kernel for such heads, and does backward, which wants the most, find room on this GPU? Where a block
    may have 99 KiB, float32 heads of more than 64 do not."""
    if not has_instance(qkv) or qkv.shape[-1] // 3 // n_head > HEADS[-1]:
        return False
    _, _, shared, rows, columns, _ = _how(qkv, n_head, None, backward=True)
    return shared(_most(rows, columns)) <= shared_memory(xp_of(qkv))


def _most(rows, columns):
    """Rows of entries that a block of backward_q has in shared memory, and backward_kv has less."""
    return 2 * rows + 2 * columns + max(2 * columns, rows)


def packed(x, parts):
    """x (B, T, parts D), contiguous and from an address that 16 divides, D filled up with 0 to whole 16 bytes."""
    B, T, C = x.shape
    heads = in_packs(x.reshape(B, T, parts, C // parts))
    return heads.reshape(B, T, parts * heads.shape[-1])


def unpacked(x, parts, C):
    """The array (B, T, C) of which packed(..., parts) would be x."""
    B, T, wide = x.shape
    return x if wide == C else x.reshape(B, T, parts, wide // parts)[..., :C // parts].reshape(B, T, C)


def _how(qkv, n_head, dropout, backward=False):
    """(program, grid, bytes of shared memory for so many rows and numbers, ROWS, COLUMNS, what every kernel is told)"""
    (length, heads, D, *others), size = told(qkv, n_head, dropout), qkv.itemsize
    head = next(head for head in HEADS if head >= D)
    rows, *columns = (64, 16, 16) if size == 4 else (128, 64, 32) if head <= 64 else (64, 32, 32)
    return (cuda("attention", qkv.dtype, HEAD=head), grid(len(qkv) * heads, length, rows),
            lambda rows, numbers=0: rows * (head * size + 16) + numbers * 4, rows, columns[backward],
            (length, heads, -(-D * size // 16) * 16 // size, *others))


attention = forward, backward
