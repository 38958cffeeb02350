r"""The middle of a Transformer's block, two affine maps with GELU between them, as one op.

Forward, for N rows x (N, C), w1 (C, D), b1 (D,), w2 (D, E), b2 (E,), with GELU's tanh form [GE3 in gelu.py]:
    u = x w1 + b1                                                                          [ML1]
    h = gelu(u)                                                                            [ML2]
    y = h w2 + b2                                                                          [ML3]

Backward, [LI2-4 in linear.py] twice with GELU's slope between:
    dh = dy w2^T,   dw2 = h^T dy,   db2 = sum over rows of dy                              [ML4]
    du = dh gelu'(u)                                                                       [ML5]
    dx = du w1^T,   dw1 = x^T du,   db1 = sum over rows of du                              [ML6]

It is one op because u, h and dh are the largest arrays of a block, and [ML2] and [ML5] can happen on a GPU while the
products of [ML1] and [ML4] are on their way to memory: u is then not read to make h, and dh neither written nor read.
Beside what the products read themselves, seven trips of an (N, D) array between memory and GPU become four: u and h
written, u read, du written. On a CPU nothing is gained, and gelu is cheaper to run again than h is to keep:
feed_forward() leaves it three ops there.

Saved: x, w1, u, h, w2.
"""
from minigrad import kernels
from minigrad.fused.gelu import gelu
from minigrad.fused.linear import linear
from minigrad.tensor import op


@op(kernels=("gpu",))
def mlp(x, w1, b1, w2, b2):
    """y = gelu(x w1 + b1) w2 + b2.  x (..., C), w1 (C, D), b1 (D,), w2 (D, E), b2 (E,) -> (..., E)"""
    u, _ = linear.reference(x, w1, b1)                                                   # [ML1]
    h, _ = gelu.reference(u)                                                             # [ML2]
    y, _ = linear.reference(h, w2, b2)                                                   # [ML3]
    return y, (x, w1, u, h, w2)


@mlp.backward
def _(dy, x, w1, u, h, w2):
    """du = (dy w2^T) gelu'(u),  dx = du w1^T,  dw1 = x^T du,  dw2 = h^T dy, and their sums over rows"""
    dh, dw2, db2 = linear.reference_backward(dy, h, w2, True)                            # [ML4]
    du, = gelu.reference_backward(dh, u, "tanh")                                         # [ML5]
    dx, dw1, db1 = linear.reference_backward(du, x, w1, True)                            # [ML6]
    return dx, dw1, db1, dw2, db2


def feed_forward(x, w1, b1, w2, b2, activation):
    """activation(x w1 + b1) w2 + b2, for Tensors as mlp takes them: mlp where that is the faster, else as it is written
    here."""
    if activation is gelu and kernels.device_for([x.data], "feed_forward") == "gpu":
        return mlp(x, w1, b1, w2, b2)
    return linear(activation(linear(x, w1, b1)), w2, b2)
