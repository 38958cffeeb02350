"""Every op that has a CUDA kernel, on a card: is it right, and how far is it from what the card allows?

Right: against the reference in float64, on random numbers that are new in every run. First the shapes of
tests/opcases.py, which are small and full of corners, then the rows of bench/ops.py with tails that fill no tile. What
an output's memory held before is NaN, so that an entry which nobody writes is noticed.

Far: the floor is the larger of the time that a copy takes for the bytes that have to move, and the time that a large
product takes for the multiplications, at rates measured in the same run. Bytes and operations are those of
bench/ops.py.
"""
import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from bench import floors, ops
from bench.gpu_sides import CupyClock, TorchClock, card, timed
from minigrad import backend, formulas, kernels, using
from minigrad.backend import asnumpy, dtype_of, is_float, to_device
from minigrad.fused import attention_sm90_gpu, mlp_gpu, mlp_sm90_gpu
from minigrad.fused.adamw import masters, whole
from minigrad.fused.layer_norm import add_layer_norm
from minigrad.fused.mlp import mlp
from minigrad.slot import SKIP
from minigrad.sums import sum_to
from minigrad.tensor import Op

DTYPES = "bfloat16", "float16", "float32"
TOLERANCE = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1e-2}      # relative to the largest entry, as in the tests
LONG = 4                                                              # times the context: a second row for attention
WITHOUT_ROW = {"log_softmax"}                                         # softmax's kernels, with one more argument

# What share of its floor each phase is expected to reach, and why. bench/gpu_log.md has the times that follow.
EXPECTED = {
    "linear": ((0.95, 0.92), "cuBLASLt at these shapes; backward has two products, one of them into float32"),
    "matmul": ((0.70, 0.50), "T x T in memory: bound by bytes, and strided batches have small tiles"),
    "attention": ((0.50, 0.37), "exponentials between small products; backward takes seven where five are counted"),
    "attention, long": ((0.62, 0.44), "as above, with fewer of the tiles cut by the diagonal"),
    "mlp": ((0.92, 0.90), "products of the kind above; on Hopper GELU and its slope hide behind the next tile"),
    "layer_norm": ((0.85, 0.85), "one pass; backward asks for the next row beside this one, then adds up dw and db"),
    "add_layer_norm": ((0.92, 0.89), "four streams, and as layer_norm besides"),
    "gelu": ((0.88, 0.88), "entry by entry, 16 bytes at a time"),
    "relu": ((0.90, 0.90), "entry by entry"),
    "softmax": ((0.88, 0.92), "a row waits in the registers of a warp, or of a block"),
    "dropout": ((0.86, 0.86), "ten rounds of Philox for four entries, while the entries are on their way"),
    "add": ((0.85, None), "CuPy's own kernel"),
    "embedding": ((0.85, 0.70), "rows of 1.5 KB at random places; backward sorts the ids first, in four launches"),
    "cross_entropy": ((0.88, 0.92), "forward only reads, backward takes the logits and two numbers for each row"),
    "linear_cross_entropy": ((0.78, 0.90), "three large products with the softmax between them"),
    "adamw": ((0.93,), "seven streams, nothing else"),
    "sum_of_squares": ((0.85,), "one stream, added up in a fixed order"),
}


def rows(sizes, batch, dtype):
    """{name: Row}: those of bench/ops.py, each once; attention once more at a longer context with as many tokens; and
    what is an op of its own on a GPU only. mlp's hidden arrays are kept for backward, and so written by forward."""
    found = {row.name: replace(row, times=1) for row in ops.table_of(sizes, batch, dtype)}
    longer = {**sizes, "block_size": LONG * sizes["block_size"]}
    attention, = (row for row in ops.table_of(longer, max(1, batch // LONG), dtype) if row.name == "attention")
    (B, T, _, _, _, C, _), names = floors.dimensions(sizes, batch), ops.names_of(sizes, batch, dtype)
    weights = [ops.Arg("weight", shape) for shape in ((C, 4 * C), (4 * C,), (4 * C, C), (C,))]
    middle = ops.Row(mlp, [ops.Arg("activation", (B, T, C)), *weights], torch=torch_mlp,
                     **ops.price("mlp", names))
    stream = ops.Arg("activation", (B, T, C))
    summed = ops.Row(add_layer_norm, [stream, stream, ops.Arg("weight", (C,)), ops.Arg("weight", (C,))],
                     torch=torch_add_layer_norm, **ops.price("add_layer_norm", names))
    return {**found, "attention, long": replace(attention, times=1), "mlp": middle, "add_layer_norm": summed}


def torch_add_layer_norm(t, x, r, w, b):
    s = x + r
    return s, t.nn.functional.layer_norm(s, w.shape, w, b)


def torch_mlp(t, x, w1, b1, w2, b2):
    f = t.nn.functional
    return f.linear(f.gelu(f.linear(x, w1.T, b1), approximate="tanh"), w2.T, b2)


def batch_for(sizes, memory, most=64):
    """The largest power of two of rows, up to most, whose logits fit into this memory with all that is made of them:
    20 bytes each, for what is stored in 16 bits, its float32 copy, and gradients of both."""
    batch, row = 1, 20 * sizes["block_size"] * sizes["vocab_size"]
    while 2 * batch <= most and 2 * batch * row <= memory:
        batch *= 2
    return batch


def names():
    """Ops that have a CUDA kernel."""
    formulas.chapters()                                      # imports every file that has ops
    return sorted(name for name, op in Op.table.items() if "gpu" in op.kernels)


def shapes(row):
    return " ".join("x".join(map(str, arg.shape)) for arg in row.args if arg is not None)


def nothing():
    pass


def fill(out, block):
    """Write block into out, both flat, over and over: quicker than drawing billions of numbers."""
    done = min(len(out), len(block))
    out[:done] = block[:done]
    while done < len(out):
        more = min(done, len(out) - done)
        out[done:done + more] = out[:more]
        done += more
    return out


# ----------------------------------------------------------------------------- sides: objects in processes of their own

class Kernels:
    """Ours: the ops, their checks, and the two ceilings."""

    def __init__(self, sizes, checked, pace):
        self.sizes, self.checked, self.pace, self.clock = sizes, checked, pace, CupyClock(pace.flush)

    def about(self):
        return card()

    def copy(self, size):
        """Seconds of every copy of so many bytes."""
        cp = self.clock.cupy
        a, b = cp.ones(size // 4, "float32"), cp.empty(size // 4, "float32")
        return timed(self.clock, self.pace, nothing, lambda: cp.copyto(b, a))[0]

    def product(self, side, dtype):
        """Seconds of every product of two squares of so many rows, by CuPy."""
        self.clock.rest()
        cp, rng = self.clock.cupy, np.random.default_rng(0)
        a, b = (cp.asarray(rng.standard_normal((side, side), np.float32).astype(dtype_of(dtype))) for _ in range(2))
        y = cp.empty((side, side), a.dtype)
        return timed(self.clock, self.pace, nothing, lambda: cp.matmul(a, b, out=y))[0]

    def time(self, name, batch, dtype, how=""):
        """[seconds of every call] of every phase of a row."""
        self.clock.rest()
        side = OnCupy(rows(self.sizes, batch, dtype)[name], dtype)
        with taken(how):
            found = timed(self.clock, self.pace, side.ready, *(getattr(side, phase) for phase in side.row.phases))
        del side
        self.clock.rest()
        return found

    def check(self, name, dtype, seed, how=""):
        """The largest error of each result of a row at the size for checks: outputs, then gradients."""
        sizes, batch = self.checked
        row = rows(sizes, batch, dtype)[name]
        arrays = drawn(row, dtype, np.random.default_rng(seed))
        self.poison(8 * sum(a.nbytes for a in arrays if a is not None))
        if row.phases == ("update",):
            return updated(row, *arrays)
        with taken(how):
            got = [asnumpy(a) for a in results(row.op, on_card(arrays), row.params, "auto")]
        return compared(got, results(row.op, on_card(exact(arrays)), row.params, "reference"))

    def cases(self, name, seed):
        """{dtype: (how many, largest error, its case)} over the cases of an op in tests/opcases.py."""
        sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
        from opcases import CASES
        found = {}
        with np.errstate(all="ignore"):
            for dtype in DTYPES:
                errors = [(self.error(case, dtype, seed), str(case)) for case in CASES if case.op.name == name]
                found[dtype] = (len(errors), *max(errors, key=lambda pair: np.nan_to_num(pair[0], nan=np.inf)))
        return found

    def error(self, case, dtype, seed):
        """Of one case: from the formula in float64, or from NumPy's in the same dtype if that is nearer, for of some
        draws 16 bits are too few. Where it is about overflow, from the latter alone, denormals left out."""
        arrays = case.arrays(dtype, seed)
        if not case.smooth:
            arrays = [np.where(np.abs(a) < 2.0 ** -126, 0, a).astype(a.dtype) if floats(a) else a for a in arrays]
        self.poison(1 << 20)
        got = results(case.op, on_card(arrays), case.params, "auto")
        nearest = math.inf
        for given in (exact(arrays), arrays) if case.smooth else (arrays,):
            want = results(case.op, given, case.params, "reference")
            nearest = min(nearest, max(compared(got, want, least=1.0), default=0.0))
            if nearest <= TOLERANCE[dtype]:
                break                                        # time on a card is dear
        return nearest

    def poison(self, size):
        """What the pool hands out next holds NaN, whatever its dtype."""
        self.clock.rest()
        self.clock.cupy.full(size, 255, "uint8")


class OnCupy(ops.Ours):
    """A row of bench/ops.py with its arrays on the card."""

    def __init__(self, row, dtype):
        super().__init__(row, dtype, threads=1)

    def drawn(self, dtype):
        xp, rng = backend.cupy(), np.random.default_rng(0)
        block, made = rng.standard_normal(1 << 20, np.float32), []
        for arg in self.row.args:
            if arg is None:
                made.append(None)
            elif arg.kind == "integers":
                made.append(xp.asarray(rng.integers(0, arg.below, arg.shape)))
            elif arg.kind == "rest":
                made.append(masters(made[0]))
            elif arg.kind == "zeros":
                made.append(xp.zeros(arg.shape, "float32"))
            else:
                small = block * np.float32(0.02) if arg.kind == "weight" else block
                small = xp.asarray(small.astype("float32" if arg.kind == "wide" else dtype_of(dtype)))
                out = xp.empty(int(np.prod(arg.shape)), small.dtype)
                fill(*(a.view(f"uint{8 * a.itemsize}") for a in (out, small)))     # bits: CuPy knows little of bfloat16
                made.append(out.reshape(arg.shape))
        return made


class TorchKernels:
    """PyTorch's counterparts. how: one of the ways in which it can take attention, or ""."""

    def __init__(self, sizes, pace):
        self.sizes, self.pace, self.clock = sizes, pace, TorchClock(pace.flush)

    def about(self):
        torch = self.clock.torch
        return {"torch": torch.__version__, "torch_cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}

    def copy(self, size):
        torch, device = self.clock.torch, self.clock.device
        a, b = (torch.ones(size // 4, device=device) for _ in range(2))
        return timed(self.clock, self.pace, nothing, lambda: b.copy_(a))[0]

    def product(self, side, dtype):
        self.clock.rest()
        torch, device = self.clock.torch, self.clock.device
        a, b, y = (torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(3))
        return timed(self.clock, self.pace, nothing, lambda: torch.matmul(a, b, out=y))[0]

    def time(self, name, batch, dtype, how=""):
        self.clock.rest()
        row = rows(self.sizes, batch, dtype)[name]
        side = Attention(row, dtype, self.clock, how) if row.name == "attention" else OnTorch(row, dtype, self.clock)
        found = timed(self.clock, self.pace, side.ready, *(getattr(side, phase) for phase in row.phases))
        del side
        self.clock.rest()
        return found


class OnTorch(ops.PyTorch):
    def __init__(self, row, dtype, clock):
        self.clock = clock
        super().__init__(row, dtype, threads=1)

    def drawn(self, dtype):
        import torch
        rng, device, made = np.random.default_rng(0), self.clock.device, []
        block = torch.from_numpy(rng.standard_normal(1 << 20, np.float32)).to(device)
        for arg in self.row.args:
            if arg is None or arg.kind == "rest":
                made.append(None)
            elif arg.kind == "integers":
                made.append(torch.from_numpy(rng.integers(0, arg.below, arg.shape)).to(device))
            elif arg.kind == "zeros":
                made.append(torch.zeros(arg.shape, device=device))
            else:                                            # PyTorch keeps weights in float32 while it trains
                kept = torch.float32 if arg.kind in ("wide", "stored") else getattr(torch, dtype)
                small = (block * 0.02 if arg.kind == "weight" else block).to(kept)
                out = torch.empty(int(np.prod(arg.shape)), dtype=kept, device=device)
                made.append(fill(out, small).reshape(arg.shape))
        return made


class Attention(OnTorch):
    """scaled_dot_product_attention alone: queries, keys and values are there, each a view of the packed array, and so
    are their gradients in the end. Ours takes and gives the packed array."""

    def __init__(self, row, dtype, clock, how):
        super().__init__(row, dtype, clock)
        (qkv,), heads = self.args[0], row.params["n_head"]
        (B, T, C3), self.how = qkv.shape, how
        self.leaves = [part.view(B, T, heads, -1).transpose(1, 2).requires_grad_()
                       for part in qkv.detach().split(C3 // 3, -1)]

    def forward(self):
        from torch.nn.attention import SDPBackend, sdpa_kernel
        with sdpa_kernel(getattr(SDPBackend, self.how)) if self.how else nullcontext():
            self.ys = [(self.torch.nn.functional.scaled_dot_product_attention(*self.leaves, is_causal=True),)]


WAYS = {"bfloat16": ("FLASH_ATTENTION", "CUDNN_ATTENTION"), "float16": ("FLASH_ATTENTION", "CUDNN_ATTENTION"),
        "float32": ("EFFICIENT_ATTENTION",)}


def our_ways(name, dtype, hopper):
    """{title: argument} of our sides of a row: on Hopper some can be taken in more ways than the one that is."""
    others = HOPPERS.get(name.split(",")[0], ()) if hopper and dtype != "float32" else ()
    return {"ours": ""} | {f"ours by {how}": how for how in others}


HOPPERS = {"attention": ("mma.sync",), "mlp": ("cuBLASLt", "wgmma")}


def taken(how):
    """A context in which attention or mlp is taken as on cards before Hopper, if how says so; or mlp by its kernels for
    Hopper though they may not be the fastest."""
    never = lambda *_: False
    return {"": nullcontext(), "mma.sync": mock.patch.object(attention_sm90_gpu, "takes", never),
            "cuBLASLt": mock.patch.object(mlp_sm90_gpu, "takes", never),
            "wgmma": mock.patch.object(mlp_gpu, "by_time", lambda like, name, ways: ways["hopper"]())}[how]


def ways(name, dtype):
    """{title: argument} of PyTorch's sides of a row."""
    if not name.startswith("attention"):
        return {"PyTorch": ""}
    return {f"PyTorch, {way.split('_')[0].lower()}": way for way in WAYS[dtype]}


# ------------------------------------------------------------------------------------------------------- right or wrong

def floats(a):
    return hasattr(a, "dtype") and is_float(a.dtype)


def on_card(arrays):
    return [to_device(a, "gpu") if isinstance(a, np.ndarray) else a for a in arrays]


def exact(arrays):
    """The same numbers in float64."""
    return [a.astype("float64") if floats(a) else a for a in arrays]


def drawn(row, dtype, rng):
    """Arguments of a row, all of them new: NumPy arrays."""
    made = []
    for arg in row.args:
        if arg is None:
            made.append(None)
        elif arg.kind == "integers":
            made.append(rng.integers(0, arg.below, arg.shape))
        elif arg.kind == "rest":
            made.append(masters(made[0]))
        else:
            a = rng.standard_normal(arg.shape, np.float32) * np.float32(0.05 if arg.kind == "weight" else 1)
            made.append(np.abs(a) if arg.kind == "zeros" else a)     # moments, of which the second is never negative
            if arg.kind not in ("zeros", "wide"):
                made[-1] = a.astype(dtype_of(dtype))
    return made


def results(op, arrays, params, mode):
    """[outputs..., gradients of the arguments...], for a gradient that is the same for the same shapes."""
    with using(mode):
        forward, backward = kernels.choose(op, arrays)
        y, saved = forward(*arrays, **params)
        ys = ops.tuple_of(y)
        rng = np.random.default_rng(1)
        dys = tuple(backend.xp_of(a).asarray(np.asarray(rng.standard_normal(a.shape)).astype(a.dtype)) for a in ys)
        gradients = backward(dys if isinstance(y, tuple) else dys[0], *saved,
                             into=tuple(None if floats(a) else SKIP for a in arrays))
    return [*ys, *(sum_to(g, a.shape) for g, a in zip(gradients, arrays, strict=True) if floats(a))]


def updated(row, *arrays):
    """Errors of what is updated in place, or of the result if there is one."""
    mine = on_card(arrays)
    with using("auto"):
        y = row.op(*mine, **row.params)
    if y is not None:
        return compared([y], [(arrays[0].astype("float64") ** 2).sum()])
    p, g, m, v, rest = arrays
    exact = [np.array(whole(p, rest), "float64"), *(a.astype("float64") for a in (g, m, v)), None]
    with using("reference"):
        row.op(*exact, **row.params)
    p, _, m, v, rest = (a if a is None else asnumpy(a) for a in mine)
    return compared([whole(p, rest), m, v], [exact[0], *exact[2:4]])


def compared(got, want, least=0.0):
    """The largest difference of each pair, relative to the largest entry wanted, or to least if that is more. Infinite
    if shapes differ, or an infinity or NaN of one has no counterpart in the other."""
    errors = []
    for g, w in zip(got, want, strict=True):
        g, w = (asnumpy(a).astype("float64") for a in (g, w))
        if g.shape != w.shape:
            errors.append(float("inf"))
            continue
        same = (g == w) | (np.isnan(g) & np.isnan(w))
        finite = np.isfinite(g) & np.isfinite(w)
        largest = max(least, np.abs(w[np.isfinite(w)]).max(initial=0.0)) or 1.0
        off = np.abs(np.subtract(g, w, where=finite & ~same, out=np.zeros(g.shape))).max(initial=0.0) / largest
        errors.append(float(off) if (same | finite).all() else float("inf"))
    return errors


# ------------------------------------------------------------------------------------------------------- predictions

def floor(row, phase, copy, product):
    """Seconds, at so many bytes and operations a second."""
    return max(row.moved[phase] / copy, row.flops[phase] / product)


def predictions(sizes, batch, dtype, copy, product):
    """(name, phase, bytes, operations, floor, expected seconds, why) of every row."""
    for name, row in rows(sizes, batch, dtype).items():
        shares, why = EXPECTED[name]
        for i, phase in enumerate(row.phases):
            least = floor(row, i, copy, product)
            if least:
                yield name, phase, row.moved[i], row.flops[i], least, least / shares[i], why
