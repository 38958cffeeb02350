"""Launches mlp_sm90.cu. Formula, names and [ML] numbers: mlp.py."""

from minigrad import backend
from minigrad.backend import address_of, xp_of
from minigrad.cuda import cuda, multiprocessors
from minigrad.fused.hopper_gpu import TYPES, is_hopper, tensor_map

ROWS, COLUMNS, DEEP, LEFT, RIGHT, GROUPS, ACROSS, END = 128, 128, 64, 6, 3, 2, 64, 2 # as there
THREADS, PIECE = 384, 16                                # PIECE: bytes, of which rows are a whole multiple
SHARED = (2 * ((LEFT + GROUPS * RIGHT) * ROWS * DEEP + GROUPS * END * ACROSS ** 2)
          + 8 * 2 * (LEFT + GROUPS * (RIGHT + END)))


def takes(x, w):
    """Can the copies take such rows, on this GPU? w is a factor of x, or its transpose."""
    return (on_hopper(x) and x.dtype.name in TYPES and x.size > 0 and w.size > 0
            and all(n * x.itemsize % PIECE == 0 for n in w.shape))


def on_hopper(x):
    return backend.on_gpu(x) and is_hopper()


def forward(x, w, b):
    """(u, h) = (x w + b, gelu(x w + b)).  x (M, K), w (K, N), b (N,) -> (M, N) twice"""
    x, w, b = map(regular, (x, w, b))                       # maps are of addresses: these live until the launch
    (M, K), N, xp = x.shape, w.shape[1], xp_of(x)
    u, h = (xp.empty((M, N), x.dtype) for _ in range(2))
    cuda("mlp_sm90", x.dtype).forward[blocks(xp, M, N), THREADS, SHARED](
        tensor_map(x, (ROWS, DEEP)), tensor_map(w, (DEEP, ACROSS)), b, M, N, K, u, h)    # [ML1,2]
    return u, h


def backward(dy, w, u):
    """(du, parts of its sums over rows, for add_rows), du = (dy w^T) gelu'(u).  dy (M, K), w (N, K), u (M, N)"""
    dy, w, u = map(regular, (dy, w, u))
    (M, K), N, xp = dy.shape, len(w), xp_of(dy)
    du, parts = xp.empty((M, N), dy.dtype), xp.empty((-(-M // ACROSS), 1, N), "float32")
    cuda("mlp_sm90", dy.dtype).backward[blocks(xp, M, N), THREADS, SHARED](
        tensor_map(dy, (ROWS, DEEP)), tensor_map(w, (COLUMNS, DEEP)), tensor_map(u, (ACROSS, ACROSS)), M, N, K, du,
        parts)                                                                           # [ML4-6]
    return du, parts


def blocks(xp, M, N):
    """One for each multiprocessor, if there are tiles for them."""
    return min(multiprocessors(xp), -(-M // ROWS) * -(-N // (GROUPS * COLUMNS)))


def regular(x):
    """x, or a copy that lies as the kernels want it."""
    x = xp_of(x).ascontiguousarray(x)
    return x.copy() if address_of(x) % PIECE else x
