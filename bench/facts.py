"""What the book of formulas says of every op on this machine: is its gradient right, what does it cost, how fast is it?

    python -m minigrad.formulas --html DIR

Gradients are compared with central differences in float64, over the cases that the tests walk (tests/opcases.py). Costs
are the formulas of bench/costs.py, at the size of GPT-2: one row of 1024 tokens through a single layer. The times there
are quick ones, the best of a few calls in float32; python -m bench ops takes more care.
"""
import importlib
import sys
import time
from pathlib import Path

import numpy as np

from bench import ops, turns
from bench.costs import COSTS, value
from bench.ops import Arg, Ours, Row, ceilings, clocked, names_of
from minigrad import kernels
from minigrad.book import Book, Fact
from minigrad.check import expect
from minigrad.fused.layer_norm import add_layer_norm
from minigrad.fused.mlp import mlp
from minigrad.fused.softmax import log_softmax
from minigrad.ops import elementwise, index, reduce, shape
from minigrad.tensor import Op
from train.log import progress

SIZES = dict(vocab_size=50257, block_size=1024, n_layer=1, n_head=12, n_embd=768)
CALLS = 4            # of an op, of which the first compiles and warms up; fewer if they are slow
ENOUGH = 1.0         # seconds
MODES = {"NumPy": "reference", "Numba": "auto"}


def rows(sizes):
    """A Row for everything in the book but control, which is a handful of numbers; one row of tokens."""
    names, (_, T, N, _, H, C, _) = names_of(sizes, 1, "float32"), ops.floors.dimensions(sizes, 1)
    x, row_numbers = Arg("activation", (N, C)), np.random.default_rng(0).integers(0, N, N)

    def weight(*shape):
        return Arg("weight", shape)

    def row(op, args, **params):
        return Row(op, args, torch=None, params=params, **ops.price(op.__name__, names))

    found = ops.table_of(sizes, 1, "float32")
    for name in ("sub", "mul", "div", "pow", "maximum", "minimum"):
        found.append(row(getattr(elementwise, name), [x, x]))
    for name in ("neg", "square", "sqrt", "abs", "exp", "log", "log1p", "sin", "cos", "tanh", "sigmoid", "silu", "erf"):
        found.append(row(getattr(elementwise, name), [x]))
    found += [row(elementwise.clip, [x], low=0.5, high=1.0),
              row(elementwise.where, [Arg("flags", (N, C)), x, x]), row(elementwise.cast, [x], dtype="bfloat16"),
              row(index.getitem, [x], index=row_numbers),
              row(index.take_along_axis, [x, Arg("integers", (N, 1), C)], axis=-1)]
    for name in ("sum", "mean", "var", "max", "min", "logsumexp", "cumsum", "prod"):
        found.append(row(getattr(reduce, name), [x], axis=-1))
    return found + [
        row(shape.reshape, [x], shape=(N, H, C // H)), row(shape.expand_dims, [x], axis=0),
        row(shape.squeeze, [Arg("activation", (1, N, C))], axis=0), row(shape.transpose, [x]),
        row(shape.swapaxes, [x], axis1=0, axis2=1), row(shape.broadcast_to, [x], shape=(2, N, C)),
        row(shape.flip, [x], axis=0), row(shape.pad, [x], widths=((N, 0), (0, 0))), row(shape.tril, [x]),
        row(shape.concatenate, [x, x], axis=0), row(shape.stack, [x, x], axis=0), row(shape.split, [x], parts=2),
        row(mlp, [x, weight(C, 4 * C), weight(4 * C), weight(4 * C, C), weight(C)]),
        row(add_layer_norm, [x, x, weight(C), weight(C)]), row(log_softmax, [Arg("activation", (1, H, T, T))])]


class Drawn(Ours):
    """With activations above 0, which logarithms, roots and powers want."""

    def drawn(self, dtype):
        made = [abs(a) + 0.1 if arg and arg.kind == "activation" else a
                for a, arg in zip(super().drawn(dtype), self.row.args, strict=True)]
        return [a > 0 if arg and arg.kind == "flags" else a for a, arg in zip(made, self.row.args, strict=True)]


def calls(mode, sizes, threads, names):
    """For a process of its own: the fewest seconds by phase that each of these ops took."""
    with kernels.using(mode):
        for row in (row for row in rows(sizes) if row.name in names):
            side, taken, began = Drawn(row, "float32", threads), [], time.perf_counter()
            while len(taken) < 2 or len(taken) < CALLS and time.perf_counter() - began < ENOUGH:
                side.ready()
                taken.append([clocked(getattr(side, phase)) for phase in row.phases])
            yield np.min(taken[1:], 0).tolist()


def has_numba(row):
    """Is there a Numba kernel? The ops say so; the other functions are there because they have one."""
    return not isinstance(row.op, Op) or "cpu" in row.op.kernels


def speeds(sizes, threads):
    """({name: {who: seconds by phase}}, bytes a second of a copy, operations a second of a product)."""
    todo, alone = rows(sizes), {"OPENBLAS_NUM_THREADS": str(threads)}
    by = {"NumPy": todo, "Numba": [row for row in todo if has_numba(row)]}
    found, config = {row.name: {} for row in todo}, dict(config="gpt2", dtype="float32", threads=threads)
    floor = turns.Side("the ceilings", ceilings, config, alone)
    floor.work(1)
    floor.close()
    copy, product = floor.values[0]
    for row in todo:
        found[row.name]["floor"] = [max(a / copy, b / product) for a, b in zip(row.moved, row.flops, strict=True)]
    with progress(sum(map(len, by.values())), 0) as bar:
        bar.unit = "op"
        for who, mine in by.items():
            side = turns.Side(who, calls, dict(mode=MODES[who], sizes=sizes, threads=threads,
                                               names={row.name for row in mine}), alone)
            for _ in mine:
                side.work(1)
                bar.update()
            for row, seconds in zip(mine, side.values, strict=not side.dead):
                found[row.name][who] = seconds
            side.close()
    return found, copy, product


def cases():
    """The module of the cases that the tests walk."""
    tests = Path(__file__).resolve().parents[1] / "tests"
    expect((tests / "opcases.py").exists(), "gradients", "no tests/opcases.py", "a clone of the project",
           "its cases are what gradients are checked with")
    sys.path.append(str(tests))
    return importlib.import_module("opcases")


def errors():
    """{op: [(case, {"reference" or "cpu": largest relative error of its gradients})]}, from the cases of the tests."""
    opcases = cases()
    smooth, found = [case for case in opcases.CASES if case.smooth], {}
    with progress(len(smooth), 0) as bar:
        bar.unit = "gradient"
        for case in smooth:
            try:
                checked = {who: error for _, who, error in opcases.gradient_errors([case])}
            except AssertionError as e:                      # not even of the shape of its argument
                checked = {str(e): float("nan")}
            found.setdefault(case.op.name, []).append((str(case), checked))
            bar.update()
    return found


def collect(speed=True, sizes=SIZES, threads=None):
    """All of it, as minigrad/book.py wants it."""
    threads = threads or turns.pool.size()
    checked, names = errors(), names_of(sizes, 1, "float32")
    seconds, copy, product = speeds(sizes, threads) if speed else ({}, 0, 0)
    facts = {}
    for name, (operations, moved) in COSTS.items():
        facts[name] = Fact(
            phases=("forward", "backward") if len(moved) == 2 else ("update",),
            operations=[(text, value(text, names)) for text in operations],
            moved=[(text, value(text, names)) for text in moved],
            errors=checked.get(name, []) if name in Op.table else None, limit=ops.LIMIT, seconds=seconds.get(name, {}))
    said = ("The costs are those of " + ", ".join(f"{k} = {v:,}" for k, v in names.items()) + ".")
    if speed:
        said += (f" Times on {turns.machine()}, threads: {threads}, float32, the best of at most {CALLS - 1} calls, "
                 f"load {turns.load():.1f}. The floor is the time to move the bytes as fast as a large copy "
                 f"({copy / 1e9:.1f} GB/s), or to multiply as fast as a large product ({product / 1e9:.0f} GFLOP/s), "
                 "whichever takes longer; arrays that stay in a cache may beat it.")
    return Book(facts, said)
