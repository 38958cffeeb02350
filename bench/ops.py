"""Every fused op: how long it takes beside the least that this machine allows, and how exact its gradient is.

The least, an op's floor, is the larger of two times: to move the bytes that every implementation has to move, as fast
as a large copy does, and to multiply, as fast as a large matrix product does. Both rates are measured in the same run.
An op at 100 % of its floor leaves nothing to gain but fusing it with its neighbours; one whose arrays are small enough
to stay in a cache may beat it.

Ops that a model has in every block run as they do there: forward on as many arrays as there are blocks, then backward
through them in reverse order. So the caches hold about what they hold in a step.
"""
import argparse
import functools
import sys
import time
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from bench import floors, step, turns
from bench.costs import price
from gpt import GPTConfig
from gpt.sizes import entry, parameters
from minigrad import Tensor, backend, pool
from minigrad.backend import dtype_of
from minigrad.fused.adamw import adamw, sum_of_squares
from minigrad.fused.attention import attention
from minigrad.fused.cross_entropy import cross_entropy, linear_cross_entropy
from minigrad.fused.dropout import dropout
from minigrad.fused.embedding import embedding
from minigrad.fused.gelu import gelu
from minigrad.fused.layer_norm import layer_norm
from minigrad.fused.linear import linear
from minigrad.fused.relu import relu
from minigrad.fused.softmax import softmax
from minigrad.ops.elementwise import add
from minigrad.ops.matmul import matmul
from minigrad.tensor import Node, Op, _result, propagate

# So small, and in so many blocks, that what is measured is Python and the launch of kernels.
CONFIGS = step.CONFIGS | {"tiny": (dict(vocab_size=5, block_size=2, n_layer=200, n_head=1, n_embd=4), 1)}
LIMIT = 1e-6         # of a gradient's error: the differences themselves err by about 1e-9, see minigrad/gradcheck.py


class Arg(NamedTuple):
    """An array argument."""
    kind: str        # activation, weight, integers; for what is no op: stored (in the dtype), rest (see adamw), and
                     # wide or zeros (float32)
    shape: tuple
    below: int = 0   # what integers stay under


@dataclass
class Row:
    """One op at one shape: bytes moved and floating point operations, (forward, backward) or (update,)."""
    op: object
    args: list
    moved: tuple
    torch: object                                  # the same in PyTorch: (torch, *tensors, **params) -> y
    flops: tuple = (0, 0)
    params: dict = field(default_factory=dict)
    times: int = 1                                 # in a step

    name = property(lambda self: self.op.__name__)
    phases = property(lambda self: ("forward", "backward") if len(self.moved) == 2 else ("update",))


def rows(config, dtype):
    """What is measured of a config."""
    return table_of(*CONFIGS[config], dtype)


def names_of(sizes, batch, dtype):
    """What the letters in the formulas of bench/costs.py stand for."""
    B, T, N, L, H, C, V = floors.dimensions(sizes, batch)
    return dict(B=B, T=T, N=N, H=H, C=C, D=C // H, V=V, M=B * H * T * T, P=parameters(GPTConfig(**sizes)),
                s=entry(dtype))


def table_of(sizes, batch, dtype):
    """What is measured, each with its costs (bench/costs.py)."""
    B, T, N, L, H, C, V = floors.dimensions(sizes, batch)
    names = names_of(sizes, batch, dtype)
    P = names["P"]

    def x(*shape):
        return Arg("activation", shape)

    def w(*shape):
        return Arg("weight", shape)

    def ids(*shape):
        return Arg("integers", shape, V)

    def row(op, args, torch, **params):
        return Row(op, args, torch=torch, params=params, **price(op.__name__, names))

    wide, zeros = Arg("wide", (P,)), Arg("zeros", (P,))
    adam = dict(lr=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.1, step=10)
    blocks = [
        row(linear, [x(B, T, C), w(C, 4 * C), w(4 * C)], lambda t, x, w, b: t.nn.functional.linear(x, w.T, b)),
        row(matmul, [x(B, H, T, C // H), x(B, H, C // H, T)], lambda t, q, k: q @ k),
        row(attention, [x(B, T, 3 * C)], torch_attention, n_head=H),
        row(layer_norm, [x(B, T, C), w(C), w(C)], lambda t, x, w, b: t.nn.functional.layer_norm(x, w.shape, w, b)),
        row(gelu, [x(B, T, 4 * C)], lambda t, x: t.nn.functional.gelu(x, approximate="tanh")),
        row(relu, [x(B, T, 4 * C)], lambda t, x: x.relu()),
        row(softmax, [x(B, H, T, T)], lambda t, x: x.softmax(-1)),
        row(dropout, [x(B, T, C)], lambda t, x, p, key: t.nn.functional.dropout(x, p), p=0.1, key=(0, 0, 0, 0)),
        row(add, [x(B, T, C), x(B, T, C)], lambda t, a, b: a + b),
    ]
    return [replace(row, times=L) for row in blocks] + [
        row(embedding, [ids(B, T), w(V, C)], lambda t, ids, w: t.nn.functional.embedding(ids, w)),
        row(cross_entropy, [x(N, V), ids(N)], lambda t, z, y: t.nn.functional.cross_entropy(z, y)),
        row(linear_cross_entropy, [x(N, C), w(V, C), ids(N)],
            lambda t, x, w, y: t.nn.functional.cross_entropy(x @ w.T, y)),
        row(adamw, [Arg("stored", (P,)), wide, zeros, zeros, Arg("rest", (P,)) if names["s"] < 4 else None],
            torch_adamw, **adam),
        row(sum_of_squares, [wide], lambda t, g: t.linalg.vector_norm(g)),
    ]


def torch_attention(t, qkv, n_head):
    (B, T, _), C = qkv.shape, qkv.shape[-1] // 3
    q, k, v = (part.view(B, T, n_head, -1).transpose(1, 2) for part in qkv.split(C, -1))
    y = t.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return y.transpose(1, 2).reshape(B, T, C)


def torch_adamw(t, p, g, m, v, master, *, lr, beta1, beta2, eps, decay, step):
    """On float32 weights, which PyTorch's autocast keeps, whatever ours are."""
    from torch.optim.adamw import adamw
    adamw([p], [g], [m], [v], [], [t.tensor(float(step), device=p.device)], fused=True, amsgrad=False, maximize=False,
          lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=decay)


def draw(row, dtype):
    """The arguments. Weights are small, so that nothing overflows or vanishes."""
    rng, made = np.random.default_rng(0), []
    block = rng.standard_normal(1 << 20, np.float32)     # over and over: drawing 124 million numbers would take a while
    for arg in row.args:
        if arg is None:
            made.append(None)
        elif arg.kind == "integers":
            made.append(rng.integers(0, arg.below, arg.shape))
        elif arg.kind == "zeros":
            made.append(np.zeros(arg.shape, np.float32))
        elif arg.kind == "rest":
            made.append(np.zeros(arg.shape, np.int16))
        else:
            a = np.resize(0.02 * block if arg.kind == "weight" else block, arg.shape)
            made.append(a if arg.kind == "wide" else a.astype(dtype_of(dtype)))
    return made


def tuple_of(y):
    """The outputs of an op, of which most have one."""
    return y if isinstance(y, tuple) else (y,)


# In a process of its own each.

class Ours:
    """A row on our side: activations come from another op, weights are leaves."""

    def __init__(self, row, dtype, threads):
        pool.set_size(threads)
        self.row, self.kinds = row, [arg and arg.kind for arg in row.args]
        self.held = [[Tensor(a, requires_grad=True) if kind == "weight" else a
                      for a, kind in zip(self.drawn(dtype), self.kinds, strict=True)] for _ in range(row.times)]

    def drawn(self, dtype):
        return draw(self.row, dtype)

    def ready(self):
        """Fresh tensors, and gradients that are empty."""
        for a in [a for held in self.held for a in held if isinstance(a, Tensor)]:
            a.grad = None
        self.args = [[_result(a, Node("bench", lambda dy, into: (), (), ())) if kind == "activation" else a
                      for a, kind in zip(held, self.kinds, strict=True)] for held in self.held]

    def forward(self):
        self.ys = [tuple_of(self.row.op(*args, **self.row.params)) for args in self.args]

    update = forward

    @functools.cached_property
    def dys(self):                                       # made in the first turn, which does not count
        return [backend.xp_of(y.data).ones(y.shape, y.dtype) for y in self.ys[0]]

    def backward(self):
        dys = self.dys
        while self.ys:
            propagate([*zip(self.ys.pop(), dys, strict=True)])


class PyTorch:
    """The same row in PyTorch."""

    def __init__(self, row, dtype, threads):
        import torch
        torch.set_num_threads(threads)
        self.row, self.torch = row, torch
        self.args = [self.drawn(dtype) for _ in range(row.times)]
        self.leaves = [a for args in self.args for a, arg in zip(args, row.args, strict=True)
                       if arg and arg.kind in ("activation", "weight")]
        for a in self.leaves:
            a.requires_grad_()

    def drawn(self, dtype):
        return list(map(self.tensor, draw(self.row, dtype), self.row.args))

    def tensor(self, a, arg):
        """An array as a tensor of the same dtype; PyTorch does not know ml_dtypes."""
        if arg is None or arg.kind == "rest":
            return None
        if a.dtype.name != "bfloat16":
            return self.torch.from_numpy(a)
        whole = self.torch.from_numpy(a.astype(np.float32))
        return whole if arg.kind == "stored" else whole.bfloat16()

    def ready(self):
        for a in self.leaves:
            a.grad = None

    def forward(self):
        self.ys = [tuple_of(self.row.torch(self.torch, *args, **self.row.params)) for args in self.args]

    update = forward

    @functools.cached_property
    def dys(self):
        return list(map(self.torch.ones_like, self.ys[0]))

    def backward(self):
        dys = self.dys
        while self.ys:
            self.torch.autograd.backward(self.ys.pop(), dys)


def calls(make, config, dtype, threads, names, repeats):
    """Row after row, repeats times each: seconds a call, by phase."""
    for row in rows(config, dtype):
        if row.name in names:
            side = make(row, dtype, threads)
            for _ in range(repeats):
                side.ready()
                yield [clocked(getattr(side, phase)) / row.times for phase in row.phases]


def clocked(f):
    """Seconds of a call."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def ceilings(config, dtype, threads, tries=7):
    """Once: (bytes a second of a large copy, operations a second of a large product, by whoever is fastest)."""
    copy = floors.copying(*CONFIGS[config], threads, dtype)              # seconds for the traffic of a step
    moved = floors.traffic(*CONFIGS[config], dtype) / min(next(copy) for _ in range(tries))
    pool.set_size(threads)
    M, K, N = 2048, 768, 3072
    a, b = np.ones((M, K), np.float32), np.ones((K, N), np.float32)
    seconds = [min(clocked(lambda: a @ b) for _ in range(tries))]        # OpenBLAS, on threads of its own
    time.sleep(turns.REST)                                               # ... which spin for a while
    for kind in {"float32", dtype}:
        c, d = a.astype(dtype_of(kind)), b.astype(dtype_of(kind))
        seconds.append(min(clocked(functools.partial(matmul, c, d)) for _ in range(tries)))
    yield moved, 2 * M * K * N / min(seconds)


# The command

def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench ops", description="Milliseconds of every fused op at the shapes of a config, forward and "
        "backward: the median, its rates, how near it comes to its floor (see bench/ops.py), and PyTorch's.")
    parser.add_argument("--config", choices=CONFIGS, default="char", help="[char]; tiny shows what an op costs "
                        "before it computes anything")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    parser.add_argument("--op", help="one op only")
    parser.add_argument("--rounds", type=turns.positive, default=5, help="turns each [5]")
    parser.add_argument("--steps", type=turns.positive, default=2, help="steps per turn [2]")
    turns.add_shared(parser, plot=False)
    parser.add_argument("--gradcheck", action="store_true", help="instead: the relative error of every gradient in "
                        "float64, by the reference and (where there is one) by the CPU kernel, over the cases that the "
                        f"tests walk (tests/opcases.py); exits with 1 if one is above {LIMIT:g}")
    args = parser.parse_args(argv)
    table = rows(args.config, args.dtype)
    known = Op.table if args.gradcheck else [row.name for row in table]
    if args.op and args.op not in known:
        parser.error(f"--op: got {args.op!r}; expected one of {', '.join(sorted(known))}")
    if args.gradcheck:
        return gradients(args.op)
    return times([row for row in table if args.op in (None, row.name)], args, argv)


def times(table, args, argv):
    """Measure the rows and print them; return the exit status."""
    busy = turns.begin()
    floor = turns.Side("the ceilings", ceilings, dict(config=args.config, dtype=args.dtype, threads=args.threads),
                       dict(OPENBLAS_NUM_THREADS=str(args.threads)))
    floor.work(1)
    floor.close()
    if floor.dead:
        return 1
    settings = dict(config=args.config, dtype=args.dtype, threads=args.threads, names=[row.name for row in table],
                    repeats=turns.WARM + args.rounds * args.steps)
    makers = {"minigrad": Ours} | ({"PyTorch": PyTorch} if turns.HAVE_TORCH else {})
    sides = [turns.Side(name, calls, dict(make=make, **settings)) for name, make in makers.items()]

    (moved, multiplied), (sizes, batch) = floor.values[0], CONFIGS[args.config]
    print(f"config {args.config}: {sizes}, batch {batch}, {args.dtype}, {args.threads} threads")
    print(f"ceilings: {moved / 1e9:.1f} GB/s, a large copy; {multiplied / 1e9:.0f} GFLOP/s, a large product")
    if not turns.HAVE_TORCH:
        print("PyTorch is not installed, so its column is left out: pip install torch")
    print(f"{'op':22}{'phase':10}{'ms':>9}{'GB/s':>8}{'GFLOP/s':>9}{'of floor':>10}"
          + f"{'PyTorch ms':>12}{'/ ours':>8}" * turns.HAVE_TORCH)
    found = []
    for row in table:
        turns.take_turns(sides, args.rounds, args.steps)
        if sides[0].dead:
            return 1
        seconds = {side.name: np.median(side.values[-args.rounds * args.steps:], 0) for side in sides if not side.dead}
        for i, phase in enumerate(row.phases):
            medians = {name: float(s[i]) for name, s in seconds.items()}
            least = max(row.moved[i] / moved, row.flops[i] / multiplied)
            print(line(row, i, least, **medians), flush=True)
            found.append({"op": row.name, "phase": phase, "floor": least, **medians})
    for side in sides:
        side.close()
    if linear_cross_entropy in (row.op for row in table):
        print("linear_cross_entropy computes its gradients in forward already: compare sums of both phases.")
    if args.json:
        turns.record(args.json, "ops", argv, load=busy, copy=moved, product=multiplied, seconds=found)
    return 0


def line(row, i, least, minigrad, PyTorch=None):
    """One phase of a row, from seconds."""
    rates = [f"{amount / minigrad / 1e9:.1f}" if amount else "-" for amount in (row.moved[i], row.flops[i])]
    near = f"{least / minigrad:.0%}" if least else "-"
    peer = f"{PyTorch * 1e3:12.3f}{PyTorch / minigrad:8.2f}" if PyTorch else ""
    return f"{row.name:22}{row.phases[i]:10}{minigrad * 1e3:9.3f}{rates[0]:>8}{rates[1]:>9}{near:>10}{peer}"


def gradients(op):
    """Print how exact every gradient is; return the exit status."""
    from bench import facts  # which imports this file
    opcases = facts.cases()
    return errors_table(opcases.gradient_errors([c for c in opcases.CASES if op in (None, c.op.name)]))


def errors_table(errors):
    """Print one line per case, the worst last; return the exit status."""
    rows = {}
    for case, implementation, error in errors:
        rows.setdefault(id(case), (str(case), {}))[1][implementation] = error
    width = min(72, max(len(name) for name, _ in rows.values()))
    print(f"{'op(shapes){parameters}':{width}}  reference  CPU kernel")
    for name, found in rows.values():
        short = name if len(name) <= width else name[:width - 3] + "..."
        kernel = f"{found['cpu']:.1e}" if "cpu" in found else "-"
        print(f"{short:{width}}  {found['reference']:9.1e}  {kernel:>10}")
    worst, name = max((error if error == error else float("inf"), f"{name}, {implementation}")
                      for name, found in rows.values() for implementation, error in found.items())
    print(f"\n{len(rows)} cases; the worst is {bold(f'{worst:.1e}')} ({name}); the limit is {LIMIT:.0e}")
    return 0 if worst <= LIMIT else 1


def bold(text):
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else text
