"""Where the memory of a training step is, and what recompute saves: python -m bench memory

Counted are the arrays that are alive: parameters, gradients and moments in the optimiser's buffers; activations in the
graph that forward leaves for backward; and on top of them, at the peak, what a step needs for a moment (workspace), as
Python's tracemalloc sees it, which knows every array of NumPy. Beside each stands what gpt/sizes.py predicts. The
interpreter and its libraries come on top. --largest counts them too: what the system gave a process at most.
"""
import argparse
import math
import statistics
import time
import tracemalloc

import numpy as np

from bench.floors import TINY
from bench.step import CONFIGS
from bench.turns import Side, positive
from gpt import GPT, GPTConfig, sizes
from minigrad.recompute import recompute
from minigrad.slot import Loan
from minigrad.tensor import Promise, Tensor
from nn import AdamW, clip_grad_norm, init

MODES = {                # name: what of every block is computed again
    "keep all": lambda block: [], "mlp again": lambda block: [block.mlp], "attention again": lambda block: [block.attn],
    "blocks again": lambda block: [block],
}
MIB = 2 ** 20


def held(y, without=()):
    """Bytes of the distinct arrays that the graph under y holds, but for parameters, integers and those `without`."""
    nodes, seen, arrays, others = [y.node], set(), {}, {id(base(a)) for a in without}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for parent, *_ in node.parents:
            if isinstance(parent, Tensor):
                others.add(id(base(parent.data)))
            else:
                nodes.append(parent)
        for a in node.saved:
            a = a.array if isinstance(a, Loan) else a
            if isinstance(a, np.ndarray) and a.dtype.kind != "i":
                arrays[id(base(a))] = base(a)
            elif isinstance(a, Promise):
                nodes.append(a.node)
    return sum(a.nbytes for i, a in arrays.items() if i not in others)


def base(a):
    """The array whose memory this one is a view of."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a


def measure(c, rows, dtype, modes, rounds=5):
    """{mode: ({part: bytes}, seconds of a step in each round)}. The modes take turns, on one model."""
    model = GPT(c).to(dtype=dtype)
    opt, rng = AdamW(model.parameters()), np.random.default_rng(0)
    ids = rng.integers(0, c.vocab_size, (rows, c.block_size + 1))
    x, y = ids[:, :-1], ids[:, 1:]

    def step(mode):
        for block in model.h:
            again = MODES[mode](block)
            for part in (block, block.attn, block.mlp):
                part.around = recompute if part in again else None
        began = time.perf_counter()
        loss = model.loss(x, y)
        kept = held(loss, [flat.grads, flat.data]) if tracemalloc.is_tracing() else 0
        loss.backward()
        clip_grad_norm(opt, 1.0)
        opt.step()
        opt.zero_grad()
        return kept, time.perf_counter() - began

    flat, = opt.flats
    for mode in modes:                                       # the first ones compile, and find memory cold
        step(mode)
    times = {mode: [] for mode in modes}
    for _ in range(rounds):
        for mode in modes:
            times[mode].append(step(mode)[1])
    halves = 0 if flat.master is None else flat.master.nbytes
    standing = {"parameters": flat.data.nbytes + halves, "gradients": flat.grads.nbytes,
                "moments": sum(a.nbytes for a in flat.moments.values())}
    found = {}
    for mode in modes:
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        activations, _ = step(mode)
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        found[mode] = ({**standing, "activations": activations, "workspace": max(0, peak - activations)}, times[mode])
    return found


def predicted(c, rows, dtype, mode):
    """The same by gpt/sizes.py; None for parts of blocks, for which it has no formula."""
    if mode not in ("keep all", "blocks again"):
        return None
    tokens, s, again = rows * c.block_size, sizes.entry(dtype), mode == "blocks again"
    at_work = again * tokens * (9 * s * c.n_embd + 4 * (4 + c.n_head))       # the one block that is computed again
    return {**sizes.standing(c, dtype), "activations": tokens * sizes.activations(c, dtype, again) - at_work,
            "workspace": sizes.temporaries(c, tokens, dtype) + at_work}


def report(name, dtype, modes, rounds):
    shape, rows = CONFIGS[name]
    c = GPTConfig(**shape)
    print(f"\n{name}: {c.n_layer} layers of width {c.n_embd}, {rows} rows of {c.block_size} tokens, {dtype}; MiB, and "
          "what is predicted")
    titles = ("parameters", "gradients", "moments", "activations", "workspace")
    print(f"{'':16}" + "".join(f"{title:>16}" for title in (*titles, "all")) + f"{'s a step':>10}")
    found = measure(c, rows, dtype, modes, rounds)
    first, beside = found[modes[0]]
    for mode, (parts, seconds) in found.items():
        want, total = predicted(c, rows, dtype, mode), sum(parts.values())
        cells = [(parts[title], want and want[title]) for title in titles] + [(total, want and sum(want.values()))]
        print(f"{mode:16}" + "".join(f"{a / MIB:8.0f} {f'({b / MIB:.0f})' if b else '':>7}" for a, b in cells)
              + f"{statistics.median(seconds):10.3f}", flush=True)
        if mode != modes[0]:
            slower = statistics.median(a / b for a, b in zip(seconds, beside, strict=True)) - 1
            print(f"{'':16}activations {1 - parts['activations'] / first['activations']:.0%} less, all "
                  f"{1 - total / sum(first.values()):.0%} less, time {slower:+.0%}")


ROWS, CONTEXT = 8, 1024          # of the largest models


def largest(byte, again, dtype):
    """The largest GPT-2 of L layers of width 64 L that trains with so many rows in so many bytes, by gpt/sizes.py."""
    def config(n):
        return GPTConfig(50257, CONTEXT, n, n, 64 * n)
    def fits(n):
        return n < 200 and sizes.training(config(n), ROWS, CONTEXT, dtype, again) <= byte
    return config(sizes.largest(fits))


def training(sizes, again, dtype):
    """For a process of its own: a generator of training steps."""
    with init.empty():                                       # memory is what counts here, not what is learned
        model = GPT(GPTConfig(**sizes))
    for p in model.parameters():
        p.data[...] = 0.01
    model.to(dtype=dtype)
    for block in model.h if again else ():
        block.around = recompute
    opt, rng = AdamW(model.parameters()), np.random.default_rng(0)
    while True:
        ids = rng.integers(0, model.config.vocab_size, (ROWS, model.config.block_size + 1))
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        clip_grad_norm(opt, 1.0)
        opt.step()
        opt.zero_grad()
        yield loss.item()


def peak(c, again, dtype):
    """(most bytes that a process has held that took two steps, seconds of the second)."""
    side = Side("training", training, {"sizes": {k: getattr(c, k) for k in TINY}, "again": again, "dtype": dtype})
    side.work(1, counts=False)
    side.work(1)
    side.close()
    return (side.peak, side.seconds[0]) if side.seconds else (float("nan"), float("nan"))


def show_largest(gibs, dtype):
    """Train the largest models that are predicted to fit, and say what they took."""
    libraries, _ = peak(GPTConfig(**TINY), False, dtype)
    print(f"\nthe largest GPT-2 (L layers of width 64 L) that trains with {ROWS} rows of {CONTEXT} tokens in {dtype};\n"
          f"the interpreter and its libraries, {libraries / MIB:.0f} MiB, are in the GiB")
    print(f"{'':22}{'layers':>8}{'width':>7}{'million parameters':>20}{'predicted GiB':>15}{'measured':>10}"
          f"{'s a step':>10}")
    for gib in gibs:
        for again in (False, True):
            c = largest(gib * sizes.GIB - libraries, again, dtype)
            want = sizes.training(c, ROWS, CONTEXT, dtype, again) + libraries
            got, seconds = peak(c, again, dtype)
            print(f"{gib:4g} GiB, {'blocks again' if again else 'keep all':12}{c.n_layer:8}{c.n_embd:7}"
                  f"{sizes.parameters(c) / 1e6:20,.0f}{want / sizes.GIB:15.2f}{got / sizes.GIB:10.2f}{seconds:10.1f}",
                  flush=True)


def gibibytes(text):
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size < math.inf:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number above 0")
    return size


def main(argv):
    parser = argparse.ArgumentParser("python -m bench memory", description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", nargs="*", choices=CONFIGS, default=["char", "gpt2"],
                        help="sizes; python -m bench step --help says what they are [char gpt2]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
                        help="how parameters are stored [%(default)s]")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES), help="what is computed again [all]")
    parser.add_argument("--largest", nargs="+", type=gibibytes, metavar="GIB", help="also train the largest models "
                        "that fit into so many GiB, with recompute and without, each in a process of its own")
    parser.add_argument("--rounds", type=positive, default=7, help="steps of each mode that are timed, in turns [7]")
    args = parser.parse_args(argv)
    if not args.config and not args.largest:
        parser.error("--config: got none, and no --largest; expected something to measure")
    for name in args.config:
        report(name, args.dtype, args.modes, args.rounds)
    if args.largest:
        show_largest(args.largest, args.dtype)
    return 0
