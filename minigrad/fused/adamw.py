r"""What an optimiser does to a flat buffer of parameters: AdamW, SGD, and the norm of the gradient. In place, no ops.

AdamW: Loshchilov & Hutter 2019, arXiv:1711.05101. For each parameter p with gradient g (times scale, the factor that
clips it), in step t = 1, 2, ...:
    p <- p - lr decay p                                                                    [AW1]
    m <- m + (1 - beta1) (g - m)                     a running mean of g                   [AW2]
    v <- beta2 v + (1 - beta2) g^2                   a running mean of g^2                 [AW3]
    p <- p - lr / (1 - beta1^t)  m / (sqrt(v) / sqrt(1 - beta2^t) + eps)                   [AW4]
m and v start at 0 and are therefore too small at first. If every g had the same expectation, m would have
sum_k (1 - beta1) beta1^k = 1 - beta1^t times that, k = 0..t-1; [AW4] divides by this, and for v likewise.
Read [AW4] as: a step of about lr per parameter against its mean gradient, shorter where the gradient's sign is
undecided; the size of the loss cancels. Decay that is added to g, as in Adam's L2 penalty, would be divided by the size
of the gradients too, and act least where they are large: hence [AW1] apart from it ("decoupled"). The order of
operations is that of torch.optim.AdamW.

SGD with momentum (Nesterov's form looks ahead by one more step of it):
    g <- g + decay p,   b <- momentum b + g,   p <- p - lr b   or   p - lr (g + momentum b)          [AW5]

For 16-bit storage, what is updated is a float32 master, and p is its rounding. A step of 1e-3 of a weight's size would
be lost in bfloat16 (8 bits) time after time, but not in the master. float16 needs the whole master beside p. bfloat16
is the upper half of a float32, so only the rest is kept: with u the 32 bits of the master, as an integer,
    p = (u + 2^15) div 2^16,   rest = u - 2^16 p,   -2^15 <= rest < 2^15                   [AW6]
    u = 2^16 p + rest                                                                      [AW7]
which rounds to nearest (a tie away from 0) and takes 2 bytes instead of 4 for exactly the same master. Of a weight that
is given rounded, nobody knows the rest. Were it 0, all weights would lie in the middle of their intervals: a step that
is shorter than half of one moves none, and a model whose learning rate is warmed up stands still. So at first it is
    rest ~ uniform from 1 - 2^15 to 2^15 - 1, and 0 where p is 0 or not finite             [AW9]
with which p is the same, and a step of a tenth of an interval moves about a tenth of the weights to their neighbours.

lr, t and the factor may lie on the device, as arrays of no dimensions, so that nobody has to wait for them:
    where the factor is NaN, nothing changes                                               [AW8]
"""
import math

import numpy as np

from minigrad.backend import stream, wide, wide_dtype, xp_of
from minigrad.kernels import kernel

ALL, UPPER = np.uint32(0xffffffff), np.uint32(0xffff0000)    # a NaN has no rest: CUDA's, all ones, would become -0
CHUNKS = 64     # sums are taken in 64 fixed parts, so that their bits do not depend on the number of threads


def masters(p):
    """What is kept beside p at first: the rest (int16) of bfloat16, a float32 copy of float16, None for wide dtypes."""
    if p.dtype == wide_dtype(p.dtype):
        return None
    if p.dtype == np.float16:
        return wide(p)
    rest, size = stream("rest", 0).integers(1 - 2 ** 15, 2 ** 15, p.shape, np.int16), p.view("u2") & 0x7fff
    return xp_of(p).where((0 < size) & (size < 0x7f80), xp_of(p).asarray(rest), np.int16(0))          # [AW9]


def whole(p, master):
    """The parameters in full: p itself, its float32 copy, or what p and its rest make together."""
    if master is None or master.dtype != np.int16:
        return p if master is None else master
    return ((p.view("u2").astype("u4") << 16) + master.astype("u4")).view("f4")          # [AW7], modulo 2^32


def keep(w, p, master):
    """Put the parameters, in full, where they came from."""
    if master is not None and master.dtype == np.int16:
        u = w.view("u4") & xp_of(w).where(w == w, ALL, UPPER)
        p.view("u2")[...] = (u + 0x8000) >> 16                                           # [AW6]
        master[...] = u - (p.view("u2").astype("u4") << 16)
    elif master is not None:
        p[...] = w


@kernel("cpu", "gpu")
def adamw(p, g, m, v, master, *, lr, beta1, beta2, eps, decay, step, scale=1.0):
    """One step on flat arrays: p, m, v and master (see masters()) are updated in place. lr, step and scale are numbers,
    or arrays of no dimensions: of the device's, the kernel reads them there, and this reference waits for them."""
    lr, step, scale = float(lr), float(step), float(scale)
    if math.isnan(scale):                                                                # [AW8]
        return
    w, g = whole(p, master), wide(g) * scale
    w *= 1 - lr * decay                                                                  # [AW1]
    m += (1 - beta1) * (g - m)                                                           # [AW2]
    v *= beta2
    v += (1 - beta2) * (g * g)                                                           # [AW3]
    w -= lr / (1 - beta1 ** step) * m / (xp_of(v).sqrt(v) / math.sqrt(1 - beta2 ** step) + eps)  # [AW4]
    keep(w, p, master)


def sgd(p, g, b, master, *, lr, momentum=0.0, decay=0.0, nesterov=False, scale=1.0):
    """One step on flat arrays, in place. b, the momentum buffer, starts at 0; None if momentum is 0."""
    lr, scale = float(lr), float(scale)
    if math.isnan(scale):                                                                # [AW8]
        return
    w = whole(p, master)
    g = wide(g) * scale + decay * w
    if momentum:
        b *= momentum
        b += g
        g = g + momentum * b if nesterov else b
    w -= lr * g                                                                          # [AW5]
    keep(w, p, master)


@kernel("cpu", "gpu")
def sum_of_squares(g):
    """sum_i g_i^2 in float64, as an array of no dimensions: infinite or NaN if an entry is."""
    xp = xp_of(g)
    parts = [xp.square(part, dtype="float64").sum() for part in xp.array_split(wide(g).reshape(-1), CHUNKS)]
    return xp.stack(parts).sum()
