r"""What a training step cannot do without: operations, traffic, memory; and how fast this machine does the first two.

B sequences of T tokens, N = B T; L layers of width C with H heads of D = C / H entries; V tokens in the vocabulary;
P parameters (gpt/sizes.py counts them); s bytes in an entry of an activation, 4 in float32 and 2 in bfloat16.

Operations. (M, K) times (K, J) takes 2 M K J of them. A linear layer takes that three times (forward, dx, dw), so do
the head and its loss, and the four matrices of a layer have 3 + 1 + 4 + 4 times C^2 entries:
    F_matrices  = 3 * 2 N (12 L C^2 + V C)                                                 [FL1]
Attention multiplies, per head, q k^T and a v forward; backward q k^T again, because p is rebuilt and not stored, and
one product each for da, dv, dq and dk. Seven of 2 T^2 D, of which causality leaves half:
    F_attention = 7 L B H (2 T^2 D) / 2 = 7 L N T C                                        [FL2]
Elsewhere one reads F = F_matrices + 12 L N T C (Chowdhery et al. 2022, arXiv:2204.02311, appendix B), which counts
six products and the whole square; `usual` is that, for comparison with published figures.

Traffic. Elementwise ops compute little, and cost what they read and write. In units of N C entries, each layer has
    forward     two layer norms 2 + 2, GELU 4 + 4, two sums with the residual 3 + 3                  = 18
    backward    GELU 4 + 4 + 4 and its output rebuilt 4, two layer norms with their output rebuilt and the
                residual's gradient added 5 + 5, the gradients of four biases 3 + 1 + 4 + 1          = 35
and the optimiser reads the gradient for its norm, then p, g, m and v, and writes p, m and v, all in float32. A 16-bit
weight and what rounding took from it are the two halves of p:
    bytes = 53 s L N C + 32 P                                                              [FL3]
The logits are not counted: a chunk of them stays in cache between the products.

Memory. gpt/sizes.py says what lives from step to step, what forward keeps and what a step needs for a moment. The
interpreter with its libraries comes on top, and is measured: it is what a tiny model needs.

Ceilings. The time of the step's products alone, each once and weighted by how often the step takes it, with nothing
in between, and the head's in one piece, though ours takes them in chunks; and the time of the traffic at the speed of
a large copy.
"""
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from bench.turns import WARM, Side, quartiles
from gpt import GPTConfig
from gpt.sizes import activations, entry, parameters, standing, temporaries

TINY = dict(vocab_size=65, block_size=16, n_layer=1, n_head=2, n_embd=32)        # shows what the libraries need


class Product(NamedTuple):
    """A step takes (m, k) times (k, n) for every one of heads, times over; share of it is needed."""
    name: str
    m: int
    k: int
    n: int
    times: int = 1
    turned: str = ""     # which operands are stored the other way round: "a", "b" or neither
    heads: int = 1
    share: float = 1.0

    @property
    def flops(self):
        return 2 * self.m * self.k * self.n * self.heads * self.times * self.share


def dimensions(sizes, batch):
    """(B, T, N, L, H, C, V) of the docstring."""
    T = sizes["block_size"]
    return batch, T, batch * T, sizes["n_layer"], sizes["n_head"], sizes["n_embd"], sizes["vocab_size"]


def products(sizes, batch):
    """Every matrix product of a training step, as our own step takes it."""
    B, T, N, L, H, C, V = dimensions(sizes, batch)
    found, D = [], C // H
    for name, i, o in (("c_attn", C, 3 * C), ("attn.c_proj", C, C), ("c_fc", C, 4 * C), ("mlp.c_proj", 4 * C, C)):
        found += [Product(name, N, i, o, L), Product(f"{name} dx", N, o, i, L, "b"),
                  Product(f"{name} dw", i, N, o, L, "a")]                                # [FL1]
    found += [Product("head", N, C, V, turned="b"), Product("head dx", N, V, C), Product("head dw", V, N, C, 1, "a")]
    return found + [Product("q k^T, da", T, D, T, 3 * L, "b", B * H, 0.5),
                    Product("a v, dq", T, T, D, 2 * L, "", B * H, 0.5),
                    Product("dv, dk", T, T, D, 2 * L, "a", B * H, 0.5)]                  # [FL2]


def forward_products(sizes, batch):
    """Those of the forward pass alone."""
    B, T, _, L, H, C, _ = dimensions(sizes, batch)
    matrices = ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj", "head")
    return [p for p in products(sizes, batch) if p.name in matrices] + [
        Product("q k^T", T, C // H, T, L, "b", B * H, 0.5), Product("a v", T, T, C // H, L, "", B * H, 0.5)]


def flops(sizes, batch):
    """Operations in the products of one step: [FL1] + [FL2]."""
    return sum(p.flops for p in products(sizes, batch))


def usual(sizes, batch):
    """The same as others count it: [FL1] + 12 L N T C."""
    _, T, N, L, _, C, V = dimensions(sizes, batch)
    return 6 * N * (12 * L * C * C + V * C) + 12 * L * N * T * C


def traffic(sizes, batch, dtype):
    """Bytes that elementwise ops and the optimiser move in one step."""
    _, _, N, L, _, C, _ = dimensions(sizes, batch)
    s, P = entry(dtype), parameters(GPTConfig(**sizes))
    return 53 * s * L * N * C + 32 * P                                                   # [FL3]


def memory(sizes, batch, dtype):
    """{what for: bytes} of our process at its largest, without the interpreter and its libraries."""
    c, N = GPTConfig(**sizes), batch * sizes["block_size"]
    return {**standing(c, dtype), "activations": N * activations(c, dtype), "temporaries": temporaries(c, N, dtype)}


# Ceilings: generators for a turns.Side. Each yields the seconds that one step would take if it were nothing else.

def passes(todo, array, multiply):
    """Multiplies (a, b, out) of every product in todo, again and again; array(role, shape) makes a, b, y and dw."""
    array = functools.cache(array)       # products of equal shapes share operands: the head's are large

    def operand(role, heads, rows, columns, turned=False):
        shape = (columns, rows) if turned else (rows, columns)
        x = array(role, shape if heads == 1 else (heads, *shape))
        return x.swapaxes(-1, -2) if turned else x

    work = [(p, operand("a", p.heads, p.m, p.k, p.turned == "a"), operand("b", p.heads, p.k, p.n, p.turned == "b"),
             operand("dw" if p.name.endswith("dw") else "y", p.heads, p.m, p.n)) for p in todo]
    while True:
        total = 0.0
        for p, a, b, out in work:
            start = time.perf_counter()
            multiply(a, b, out)
            total += (time.perf_counter() - start) * p.times * p.share
        yield total


def openblas(sizes, batch, threads):
    """float32 through numpy.matmul with NumPy's own threads, whose number the environment says: see begin."""
    rng = np.random.default_rng(0)
    yield from passes(products(sizes, batch), lambda _, shape: rng.standard_normal(shape, np.float32),
                      lambda a, b, out: np.matmul(a, b, out=out))


def our_bfloat16(sizes, batch, threads):
    """bfloat16 through our own gemm, gradients of weights in float32."""
    from minigrad import pool
    from minigrad.backend import dtype_of
    from minigrad.blas import batch as gemms
    from minigrad.blas import gemm
    pool.set_size(threads)
    rng, bfloat16 = np.random.default_rng(0), dtype_of("bfloat16")
    yield from passes(products(sizes, batch), lambda role, shape: rng.standard_normal(
        shape, np.float32).astype("float32" if role == "dw" else bfloat16),
        lambda a, b, out: (gemm if a.ndim == 2 else gemms)(a, b, out))


def torch_bfloat16(sizes, batch, threads):
    """bfloat16 through torch.matmul."""
    import torch
    torch.set_num_threads(threads)
    yield from passes(products(sizes, batch), lambda _, shape: torch.randn(shape, dtype=torch.bfloat16),
                      lambda a, b, out: torch.matmul(a, b, out=out))


def copying(sizes, batch, threads, dtype, size=1 << 26):
    """The step's traffic at the speed of a copy too large for the cache, where reading and writing both count."""
    amount, a, b = traffic(sizes, batch, dtype), np.ones(size, np.uint8), np.ones(size, np.uint8)
    parts = [slice(size * i // threads, size * (i + 1) // threads) for i in range(threads)]
    with ThreadPoolExecutor(threads) as workers:
        while True:
            start = time.perf_counter()
            list(workers.map(lambda part: np.copyto(b[part], a[part]), parts))
            yield (time.perf_counter() - start) * amount / (2 * size)


FLOORS = {              # name: (generator, its settings, what it is)
    "float32": (openblas, {}, "products, float32, NumPy's OpenBLAS"),
    "bfloat16": (our_bfloat16, {}, "products, bfloat16, our gemm"),
    "torch bfloat16": (torch_bfloat16, {}, "products, bfloat16, torch.matmul"),
    "traffic float32": (copying, dict(dtype="float32"), "elementwise traffic, float32"),
    "traffic bfloat16": (copying, dict(dtype="bfloat16"), "elementwise traffic, bfloat16"),
}


def begin(name, sizes, batch, threads):
    """The process that measures this floor."""
    make, settings, _ = FLOORS[name]
    return Side(f"floor {name}", make, dict(sizes=sizes, batch=batch, threads=threads, **settings),
                {"OPENBLAS_NUM_THREADS": str(threads)})


def quartiles_of(side):
    """The seconds that a floor's process found once it was warm."""
    return quartiles(side.values[WARM:])


def describe(name, seconds, sizes, batch):
    """A floor as a line: what, how long, how fast."""
    _, settings, what = FLOORS[name]
    rate = (f"{flops(sizes, batch) / seconds / 1e9:6.0f} GFLOP/s" if "dtype" not in settings else
            f"{traffic(sizes, batch, **settings) / seconds / 1e9:6.0f} GB/s")
    return f"{what:38}{seconds * 1e3:9.1f} ms {rate}"
