r"""Softmax cross-entropy: on logits that are at hand, and fused with the output projection, in chunks of rows.

Forward, for one row of V logits z, the index y of the true token and label smoothing e (Szegedy et al. 2015,
arXiv:1512.00567): the target distribution is t_k = (1 - e) [k = y] + e / V, and
    s   = sum_k exp(z_k - m),  m = max_k z_k       (no exp overflows, and s is at least 1) [CE1]
    p_k = exp(z_k - m) / s                                                                 [CE2]
    l   = - sum_k t_k log p_k = log s - (1 - e) (z_y - m) - e mean(z - m)  (sum_k t_k = 1) [CE3]
    L   = (sum of l over the n rows that are not padding, y = -1) / n                      [CE4]
With nothing but padding, L is 0.

Backward. m cancels and may be held fixed, so d log s / dz_k = p_k and dl/dz_k = p_k - t_k:
    dz = (dL / n) (p - t),  0 in padding rows                                              [CE5]
Read [CE5] as: what the model believes minus what it should believe.

Fused with the head, z = x w^T with x (N, C) and w (V, C) the embedding, the logits never exist as a whole: a chunk
of rows goes through the product, [CE1-3], and back at once,
    g = p - t,   dx = g w,   dw = sum over chunks of g^T x                                 [CE6]
which is possible in forward already because backward only has to multiply both by dL / n. g is stored undivided:
nothing is computed twice, and no 16-bit value underflows before the loss scale is known. dw waits for backward in the
array where w's gradient will be, unless that holds the gradients of other batches already.

Kernels take powers of two, with one multiplication for each logit: with c = log2 e, b = c m rounded and r = c m - b,
    e^(z_k - m) = 2^(c z_k - b) 2^-r,   u = sum_k 2^(c z_k - b),   p_k = 2^(c z_k - b) / u     [CE7]
    log s = log u - r ln 2,   mean(z - m) = (mean(c z - b) - r) / c                            [CE8]
Where |m| is 2^30 or more r could be large, and c is 1: any other logit then equals m, or is 64 below it at least and
counts for nothing in a sum.

Saved: g (or dx and dw) and n; on a GPU, instead of g, logits, m and 1 / u. Under no_grad only the loss is computed.
"""
from minigrad.backend import wide, wide_dtype, xp_of
from minigrad.check import expect, expect_floats
from minigrad.slot import DONE, SKIP, Loan, Slot
from minigrad.tensor import op

CHUNK = 1 << 20      # logits per chunk; 4 MB of float32 stay in cache between the product and the softmax
ROWS = 256           # rows per chunk, at least, in float32: fewer would not repay reading w again


@op(kernels=("cpu", "gpu"))
def cross_entropy(logits, targets, *, label_smoothing=0.0, into=(None, SKIP)):
    """L = mean over rows of -sum_k t_k log softmax(z)_k.  logits (..., V), targets (...) integers -> scalar"""
    return mean_loss(rows_loss, logits, targets, label_smoothing, into)


@cross_entropy.backward
def _(dy, g, n, shape, dtype):
    """dz = (dL / n) (p - t)"""
    return (g * (dy / n)).reshape(shape).astype(dtype, copy=False), None                 # [CE5]


@op(kernels=("cpu", "gpu"))
def linear_cross_entropy(x, w, targets, *, label_smoothing=0.0, into=(None, None, SKIP)):
    """L = cross_entropy(x w^T, targets).  x (..., C), w (V, C), targets (...) integers -> scalar"""
    return in_chunks(product, rows_loss, x, w, targets, label_smoothing, into)


@linear_cross_entropy.backward
def _(dy, dx, dw, n, shape, dtype, into):
    """dx = (dL / n) (p - t) w,  dw = (dL / n) (p - t)^T x"""
    if dx is not None:
        dx = (dx * (dy / n)).reshape(shape).astype(dtype, copy=False)                    # [CE5,6]
    if dw is not None and into[1] is not SKIP:
        dw.array *= dy / n                                 # forward's own, or lent to it: it may be overwritten
        dw = dw.array if into[1] is None else settle(into[1], dw)
    return dx, dw, None


def settle(slot, dw):
    """Add what forward has found into the slot, where it may be already."""
    array, beta = slot.claim(dw)
    if beta:
        array += dw.array
    elif array is not dw.array:
        array[...] = dw.array
    return DONE


def product(a, b, out, beta=0):
    """out = beta out + a b"""
    out[...] = wide(a) @ wide(b) + (out if beta else 0)
    return out


def rows_loss(z, y, e, want_gradient):
    """(l, g) of [CE1-3] for rows z (N, V), which may be overwritten; g is None unless it is wanted."""
    xp, V = xp_of(z), z.shape[-1]
    z = z - z.max(-1, keepdims=True)
    g = xp.exp(z)
    s = g.sum(-1, keepdims=True)                                                         # [CE1]
    rows, real = xp.arange(len(z)), y >= 0
    loss = xp.log(s[:, 0]) - (1 - e) * z[rows, y]                                        # [CE3]
    if e:
        loss = loss - e * z.mean(-1)
    loss = xp.where(real, loss, 0)
    if not want_gradient:
        return loss, None
    g = g / s - e / V                                                                    # [CE2], and t's even part
    g[rows, y] -= 1 - e
    g[~real] = 0
    return loss, g


def mean_loss(rows, logits, targets, e, into):
    """cross_entropy by means of rows, which is rows_loss or its kernel."""
    expect_floats("cross_entropy", logits)
    check(logits.shape, logits.shape[-1:], targets, e, "cross_entropy")
    z = xp_of(logits).array(wide(logits)).reshape(-1, logits.shape[-1])                  # a copy: rows may overwrite it
    y = targets.reshape(-1)
    losses, g = rows(z, y, e, into[0] is not SKIP)
    n = count(y, z.dtype)
    return total(losses, n), (g, n, logits.shape, logits.dtype)


def in_chunks(product, rows, x, w, targets, e, into):
    """linear_cross_entropy by means of product(a, b, out, beta) and rows: NumPy's and rows_loss, or their kernels."""
    check_head(x, w, targets, e)
    xp, (V, C) = xp_of(x), w.shape
    x2, y, sums = x.reshape(-1, C), targets.reshape(-1), wide_dtype(x.dtype)
    dx, dw = places(x2, w, into)
    losses, step = xp.empty(len(x2), sums), rows_of_chunk(V, x.itemsize)
    for i in range(0, len(x2), step):
        part = slice(i, i + step)
        z = product(x2[part], w.T, xp.empty((len(x2[part]), V), sums))
        losses[part], g = rows(z, y[part], e, dx is not None or dw is not None)
        if dx is not None:
            product(g, w, dx[part])                                                      # [CE6]
        if dw is not None:
            product(g.T, x2[part], dw.array, float(i > 0))                               # [CE6]
        del z, g                                           # before the next chunk takes as much again
    n = count(y, sums)
    return total(losses, n), (dx, dw, n, x.shape, x.dtype)


def places(x, w, into):
    """Where [CE6] is written for rows x (N, C): dx, and a Loan of dw; None for what nobody wants."""
    xp, sums = xp_of(x), wide_dtype(x.dtype)
    dx = None if into[0] is SKIP else xp.empty(x.shape, sums)
    dw = None if into[1] is SKIP else isinstance(into[1], Slot) and into[1].lend() or Loan(xp.empty(w.shape, sums))
    if dw is not None and len(x) == 0:
        dw.array[...] = 0
    return dx, dw


def rows_of_chunk(V, itemsize):
    """Products of 16-bit numbers take half as long, so there must be twice as many to repay reading w again."""
    return max(2 * ROWS if itemsize == 2 else ROWS, CHUNK // V)


def count(y, dtype):
    """How many rows are not padding; 1 where there is none, so that the mean over nothing is 0."""
    return xp_of(y).maximum((y >= 0).sum(), 1).astype(dtype)


def total(losses, n):
    """The mean over the n real rows, added up in float64, as a float32 (or float64) scalar."""
    return (losses.sum(dtype="float64") / n).astype(losses.dtype)                        # [CE4]


def check_head(x, w, targets, e):
    expect_floats("linear_cross_entropy", x, w)
    expect(x.ndim and w.ndim == 2 and x.shape[-1] == w.shape[1], "linear_cross_entropy",
           f"x {x.shape} and w {w.shape}", "(..., C) and (V, C)")
    check(x.shape, w.shape[:1], targets, e, "linear_cross_entropy")


def check(shape, vocabulary, targets, e, who):
    expect(vocabulary and vocabulary[0], who, f"logits {shape[:-1] + vocabulary}", "(..., V) with V at least 1")
    (V,), xp = vocabulary, xp_of(targets)
    if not (targets.dtype.kind in "iu" and targets.shape == shape[:-1]):
        expect(False, who, f"targets {targets.dtype} {targets.shape}", f"integers {shape[:-1]}, one per row of {shape}")
    if not 0 <= e < 1:
        expect(False, who, f"label_smoothing {e}", "a number in [0, 1)")
    if xp.__name__ == "numpy" and targets.size:            # on a GPU this check would make the host wait
        lowest, highest = targets.min(), targets.max()
        if not -1 <= lowest <= highest < V:
            expect(False, who, f"targets from {lowest} to {highest}", f"0 to {V - 1}, or -1 for padding",
                   "is the tokenizer's vocabulary the model's?")
