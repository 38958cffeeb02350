"""mlp on the GPU: GELU and its slope at the end of cuBLASLt's products, or of mlp_sm90.cu's, or by gelu.cu: whichever
is the fastest. Formula, names and [ML] numbers: mlp.py.
"""
from minigrad.backend import xp_of
from minigrad.blas_gpu import by_time, gemm, multiplies
from minigrad.fused import mlp_sm90_gpu as sm90
from minigrad.fused.elementwise_gpu import entrywise
from minigrad.fused.linear import check_shapes
from minigrad.fused.linear_gpu import column_sums, parameters
from minigrad.fused.mlp import mlp as definition
from minigrad.slot import SKIP

TANH = 1             # GELU's form, for gelu.cu


def forward(x, w1, b1, w2, b2):
    check_shapes(x, w1, b1)
    if not multiplies(x, w1, b1, w2, b2):
        return definition.reference(x, w1, b1, w2, b2)
    xp, rows = xp_of(x), x.reshape(-1, w1.shape[0])

    def together():
        u, h = (xp.empty((len(rows), w1.shape[1]), x.dtype) for _ in range(2))
        return u, gemm(rows, w1, h, bias=b1, gelu_of=u)                                  # [ML1,2]

    def apart():
        u = gemm(rows, w1, bias=b1)                                                      # [ML1]
        return u, entrywise("gelu", "forward", u, numbers=(TANH,))                       # [ML2]

    ours = dict(hopper=lambda: sm90.forward(rows, w1, b1)) if sm90.takes(rows, w1) else {}
    ways = dict(together=together, **ours, apart=apart)
    u, h = by_time(x, named("forward", ways, rows, w1), ways)
    check_shapes(h, w2, b2)
    y = gemm(h, w2, bias=b2)                                                             # [ML3]
    return y.reshape(*x.shape[:-1], w2.shape[1]), (x, w1, u, h, w2)


def backward(dy, x, w1, u, h, w2, into):
    if not multiplies(x, w1, u, h, w2):
        return definition.reference_backward(dy, x, w1, u, h, w2, into=into)
    dy, rows = dy.astype(x.dtype, copy=False).reshape(-1, w2.shape[1]), x.reshape(-1, w1.shape[0])
    dx, dw1, db1 = None, None, None
    dw2, db2 = parameters(h, dy, into[3], into[4])                                       # [ML4]
    if any(slot is not SKIP for slot in into[:3]):
        ways = backward_ways(dy, w2, u)
        du, sums = by_time(x, named("backward", ways, dy, w2), ways)
        dw1, db1 = parameters(rows, du, into[1], into[2], sums)                          # [ML6]
        if into[0] is not SKIP:
            dx = gemm(du, w1.T).reshape(x.shape)                                         # [ML6]
    return dx, dw1, db1, dw2, db2


def backward_ways(dy, w2, u):
    """{name: a function that gives du, and parts of its sums over rows or None}

    The kernel for Hopper gives sums that cost it next to nothing: where it may be chosen, the others have to take them
    into their time.
    """
    hopper = sm90.takes(dy, w2)

    def together():
        du = gemm(dy, w2.T, slope_at=u)                                                  # [ML4,5]
        return du, column_sums(du) if hopper else None

    def apart():
        du = entrywise("gelu", "backward", gemm(dy, w2.T), u, numbers=(TANH,))
        return du, column_sums(du) if hopper else None

    ours = dict(hopper=lambda: sm90.backward(dy, w2, u)) if hopper else {}
    return dict(together=together, **ours, apart=apart)


def named(phase, ways, rows, w):
    """The decision between these ways: another one where there are others."""
    return f"mlp {phase} {rows.shape} {w.shape} {rows.dtype.char} by {', '.join(ways)}"


mlp = forward, backward
