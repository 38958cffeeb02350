"""linear on the GPU: products by cuBLASLt, which adds the bias. Formula, names and [LI] numbers: linear.py."""
from minigrad.backend import xp_of
from minigrad.blas_gpu import by_time, gemm, multiplies
from minigrad.cuda import cuda
from minigrad.fused.columns_gpu import add_rows
from minigrad.fused.linear import check_shapes
from minigrad.fused.linear import linear as definition
from minigrad.slot import DONE, SKIP

BLOCK = 256
BLOCKS = 528         # of column_sums at most: four for each multiprocessor of an H100
ROWS = 64            # of a block's share at least


def forward(x, w, b=None):
    check_shapes(x, w, b)
    if not multiplies(x, w, *() if b is None else (b,)):
        return definition.reference(x, w, b)
    y = gemm(x.reshape(-1, w.shape[0]), w, bias=b)                                       # [LI1]
    return y.reshape(*x.shape[:-1], w.shape[1]), (x, w, b is not None)


def backward(dy, x, w, biased, into):
    if not multiplies(x, w):
        return definition.reference_backward(dy, x, w, biased, into=into)
    rows, dx = dy.astype(x.dtype, copy=False).reshape(-1, w.shape[1]), None
    if into[0] is not SKIP:
        dx = gemm(rows, w.T).reshape(x.shape)                                            # [LI2]
    return dx, *parameters(x.reshape(-1, w.shape[0]), rows, into[1], into[2] if biased else SKIP)


def parameters(x, dy, into_w, into_b, sums=None):
    """(dw, db) of [LI3,4] for rows x (N, in) and dy (N, out), as a backward returns them. sums: parts of dy's sums over
    rows, for add_rows, where they are there already."""
    if into_w is SKIP:
        return None, None if into_b is SKIP else add_rows(column_sums(dy) if sums is None else sums, into_b)[0]
    xp, shape = xp_of(x), (x.shape[1], dy.shape[1])
    dw, beta = (xp.empty(shape, "float32"), 0.0) if into_w is None else into_w.claim()

    def together(dw, beta):
        sums = xp.empty((1, 1, shape[1]), "float32")
        gemm(x.T, dy, dw, beta, totals=sums[0, 0])                                       # [LI3,4]
        return sums

    def apart(dw, beta):
        gemm(x.T, dy, dw, beta)                                                          # [LI3]
        return column_sums(dy)

    if into_b is SKIP or sums is not None:
        gemm(x.T, dy, dw, beta)                                                          # [LI3]
    else:
        sums = by_time(x, f"linear backward {x.shape} {dy.shape} {x.dtype.char}",
                       dict(together=together, apart=apart), (dw, beta), trial=lambda: (xp.empty_like(dw), 0.0))
    return dw if into_w is None else DONE, add_rows(sums, into_b)[0]


def column_sums(dy):
    """Sums over shares of the rows of dy (N, D): (shares, 1, D), for add_rows."""
    xp, (N, D) = xp_of(dy), dy.shape
    across = -(-D * dy.itemsize // (32 * 16))              # blocks beside each other: 16 bytes a lane
    per = max(ROWS, -(-N // max(1, BLOCKS // across)))
    parts = xp.empty((-(-N // per), 1, D), "float32")
    cuda("linear", dy.dtype).column_sums[(across, len(parts)), BLOCK](xp.ascontiguousarray(dy), N, D, per, parts)
    return parts


linear = forward, backward
