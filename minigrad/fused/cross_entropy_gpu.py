"""Both cross-entropies on the GPU: cuBLASLt's products, cross_entropy.cu. Formula, names and [CE] numbers:
cross_entropy.py.

Logits are of x's dtype, and g takes their place. Sums of products are in float32, so dx and dw are until backward
knows dL / n. Where V is no multiple of 8, products with a row of logits could not load 16 bytes at once: rows are then
as wide as the next multiple of 64, and w gets rows of zeros, in a copy (of 77 MB for GPT-2, beside logits of
gigabytes). Their logits count for nothing, and their g is 0.
"""
import numpy as np

from minigrad.backend import xp_of
from minigrad.blas_gpu import gemm, multiplies
from minigrad.cuda import REAL, cuda, has_instance, shared_memory
from minigrad.fused import cross_entropy as formula
from minigrad.slot import DONE, SKIP

BLOCK = 512
CHUNK = 1 << 30      # bytes of logits at once: dw is read and written again for every chunk
STATIC = 256         # bytes of shared memory that block_reduce takes


def forward(logits, targets, *, label_smoothing=0.0, into=(None, SKIP)):
    if not has_instance(logits):
        return formula.cross_entropy.reference(logits, targets, label_smoothing=label_smoothing, into=into)
    xp, V = xp_of(logits), logits.shape[-1]
    formula.check(logits.shape, (V,), targets, label_smoothing, "cross_entropy")
    z, y = xp.ascontiguousarray(logits).reshape(-1, V), xp.ascontiguousarray(targets, dtype="int64").reshape(-1)
    losses, stats = xp.empty(len(z), "float32"), xp.empty((len(z), 2), "float32")
    rows(z, y, V, label_smoothing, None, losses, stats)
    n = formula.count(y, losses.dtype)
    return formula.total(losses, n), (z, n, logits.shape, logits.dtype, y, stats, label_smoothing)


def backward(dy, z, n, shape, dtype, y=None, stats=None, e=0.0, into=None):
    if stats is None:                                        # the reference's forward, whose g this z is
        return formula.cross_entropy.reference_backward(dy, z, n, shape, dtype)
    xp, (N, V) = xp_of(z), z.shape
    dz = xp.empty(z.shape, dtype)
    cuda("cross_entropy", dtype).slopes[N, threads(V * z.itemsize)](z, y, stats, scalar(xp, dy / n), V, float(e), dz)
    return dz.reshape(shape), None


def head_forward(x, w, targets, *, label_smoothing=0.0, into=(None, None, SKIP)):
    if not multiplies(x, w):
        return formula.linear_cross_entropy.reference(x, w, targets, label_smoothing=label_smoothing, into=into)
    xp, (V, C), e = xp_of(x), w.shape, label_smoothing
    formula.check_head(x, w, targets, e)
    x2, y = x.reshape(-1, C), xp.ascontiguousarray(targets, dtype="int64").reshape(-1)
    dx, dw = formula.places(x2, w, into)
    w, losses = padded(w), xp.empty(len(x2), "float32")
    step = rows_of_chunk(len(x2), len(w) * x.itemsize)
    logits = xp.empty((min(step, len(x2)), len(w)), x.dtype)
    for i in range(0, len(x2), step):
        part = slice(i, i + step)
        z = gemm(x2[part], w.T, logits[:len(x2[part])])
        g = None if dx is None and dw is None else z
        rows(z, y[part], V, e, g, losses[part])
        if dx is not None:
            gemm(g, w, dx[part])                                                         # [CE6]
        if dw is not None:
            gemm(g[:, :V].T, x2[part], dw.array, float(i > 0))                           # [CE6]
    n = formula.count(y, losses.dtype)
    return formula.total(losses, n), (dx, dw, n, x.shape, x.dtype)


def head_backward(dy, dx, dw, n, shape, dtype, into):
    if dtype.name not in REAL:
        return formula.linear_cross_entropy.reference_backward(dy, dx, dw, n, shape, dtype, into=into)
    if dx is not None:
        dx = scaled(dx, dy / n, dtype).reshape(shape)                     # [CE5]
    if dw is not None and into[1] is not SKIP:
        found = dw.array
        array, beta = (found, 0.0) if into[1] is None else into[1].claim(dw)
        cuda("cross_entropy", "float32").add_scaled[-(-found.size // (4 * BLOCK)), BLOCK](
            found, scalar(xp_of(found), dy / n), np.int64(found.size), float(beta), array)
        dw = array if into[1] is None else DONE
    return dx, dw, None


def rows(z, y, V, e, g, losses, stats=None):
    """Losses [CE1-3] of the rows of z, of which V columns are logits. g: z, to have its place taken by theirs, or None.
    stats (rows, 2): m and 1 / u of [CE7]."""
    xp, bytes = xp_of(z), V * z.itemsize // 16 * 16
    keep = bytes <= shared_memory(xp) - STATIC
    program = cuda("cross_entropy", z.dtype)
    kernel = program.rows_kept if keep else program.rows_read
    kernel[len(z), threads(V * z.itemsize), bytes * keep](z, y, V, z.shape[1], float(e), g, losses, stats)


def threads(bytes):
    """Of a block, for a row of so many bytes."""
    return min(BLOCK, -(-max(bytes, 1) // (16 * 32)) * 32)


def scalar(xp, value):
    """A number, where arrays lie, as kernels take it."""
    return xp.asarray(value, "float32").reshape(1)


def scaled(x, factor, dtype):
    """factor x, rounded to dtype. factor: a number, where x lies."""
    xp, out = xp_of(x), xp_of(x).empty(x.shape, dtype)
    blocks = -(-out.size * out.itemsize // (16 * BLOCK))
    cuda("cross_entropy", dtype).scaled[blocks, BLOCK](x, scalar(xp, factor), np.int64(out.size), out)
    return out


def padded(w):
    """w (V, C), with rows of zeros up to the next multiple of 64 unless V is one of 8."""
    (V, C), xp = w.shape, xp_of(w)
    if V % 8 == 0:
        return w
    wider = xp.zeros((-(-V // 64) * 64, C), w.dtype)
    wider[:V] = w
    return wider


def rows_of_chunk(rows, bytes_of_row):
    """Equal shares of the rows, multiples of 128 of them, in as few chunks as may be."""
    chunks = -(-rows * bytes_of_row // CHUNK) or 1
    return -(-rows // (128 * chunks)) * 128 or 128


cross_entropy = forward, backward
linear_cross_entropy = head_forward, head_backward
