"""mlp on the GPU: GELU and its slope at the end of cuBLASLt's products, or by gelu.cu where that is the faster.
Formula, names and [ML] numbers: mlp.py.
"""
from minigrad.backend import xp_of
from minigrad.blas_gpu import by_time, gemm, multiplies
from minigrad.fused.elementwise_gpu import entrywise
from minigrad.fused.linear import check_shapes
from minigrad.fused.linear_gpu import parameters
from minigrad.fused.mlp import mlp as definition
from minigrad.tensor import SKIP

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

    u, h = by_time(x, f"mlp forward {rows.shape} {w1.shape} {x.dtype.char}", dict(together=together, apart=apart))
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
        du = by_time(x, f"mlp backward {dy.shape} {w2.shape} {x.dtype.char}", {
            "together": lambda: gemm(dy, w2.T, slope_at=u),                              # [ML4,5]
            "apart": lambda: entrywise("gelu", "backward", gemm(dy, w2.T), u, numbers=(TANH,))})
        dw1, db1 = parameters(rows, du, into[1], into[2])                                # [ML6]
        if into[0] is not SKIP:
            dx = gemm(du, w1.T).reshape(x.shape)                                         # [ML6]
    return dx, dw1, db1, dw2, db2


mlp = forward, backward
