"""What attention costs against the context n and the width d of a head, and where the scores lie meanwhile.

Three ways to the same numbers, the formulas of minigrad/fused/attention.py, all causal:

    naive      the reference: every head's n x n scores as arrays
    chunked    NumPy again, but only CHUNK queries at a time, with the keys that they see
    flash      the kernel that Numba compiles: a block of scores is used up while it is in a cache

and PyTorch's scaled_dot_product_attention beside them, where it is installed.

Operations, of h heads: forward takes two products of n x n x d, backward five, one of them to have the scores again, so
    F = 14 n^2 d h,   half of that for who leaves out the keys that a query does not see
and at the rate of a large product that is the line that times are compared with. Memory beyond the arguments, in
float32: y and the three gradients are 4 n d h entries, whoever computes them. On top come, at their most,
    naive      4 n^2 h    p, dp and the two steps from there to ds
    chunked    4 CHUNK n h of the same, and 4 n d h for sums and for heads that lie apart
    flash      6 n d      q, k and dy of one head, laid out for the tiles, and its dq
So naive grows with n^2 in time and in memory, and d hardly shows in its memory; the others grow with n^2 d in time and
with n d in memory. The exponents are slopes of least squares through the logarithms, from LEAST on, where what does not
grow has become small, with their standard errors. What a first call needs in memory is counted, so every point has a
process of its own. Times are those of the processor in one thread, which neighbours on a shared machine disturb little.
"""
import argparse
import math
import os
import time
from pathlib import Path

import numpy as np

from bench import ops, turns
from bench.turns import Side
from minigrad import kernels, pool
from minigrad.fused.attention import attention, heads, merge, split
from minigrad.ops.matmul import matmul
from train.drawing import drawing
from train.log import progress

CONTEXTS, WIDTHS = (128, 256, 512, 1024, 2048, 4096), (32, 64, 128, 256)
SHORT = (128, 256, 512, 1024), (32, 64, 128)
LEAST = 512          # the smallest context of a fit
CHUNK = 128
HEADS, N, D = 2, 1024, 64
MIB = 1 << 20
ALONE = {"OPENBLAS_NUM_THREADS": "1"}
COLOURS = {"naive": "#d94801", "chunked": "#6a51a3", "flash": "#2171b5", "PyTorch": "#737373"}


def scores(q, k, i):
    """[AT1] of the queries from place i on with the keys up to the last of them; -inf for keys behind a query."""
    s = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    return np.where(np.tri(*s.shape[-2:], i, dtype=bool), s, -np.inf)


def chunked(qkv, n_head):
    """(y, lse): a chunk of queries at a time.  qkv (B, T, 3C) -> (B, T, C), (B, H, T)"""
    q, k, v = heads(qkv, n_head)
    y, lse = np.empty_like(q), np.empty(q.shape[:-1], q.dtype)
    for i in range(0, q.shape[-2], CHUNK):
        here, seen = np.s_[..., i:i + CHUNK, :], np.s_[..., :i + CHUNK, :]
        s = scores(q[here], k[seen], i)
        m = s.max(-1, keepdims=True)
        p = np.exp(s - m)
        total = p.sum(-1, keepdims=True)
        y[here], lse[..., i:i + CHUNK] = p @ v[seen] / total, (m + np.log(total))[..., 0]              # [AT2,3,5]
    return merge(y), lse


def chunked_backward(dy, qkv, y, lse, n_head):
    """dqkv, from the chunks' scores computed again."""
    q, k, v = heads(qkv, n_head)
    dy, y = split(dy, n_head), split(y, n_head)
    dq, dk, dv = (np.zeros_like(a) for a in (q, k, v))
    for i in range(0, q.shape[-2], CHUNK):
        here, seen = np.s_[..., i:i + CHUNK, :], np.s_[..., :i + CHUNK, :]
        p = np.exp(scores(q[here], k[seen], i) - lse[..., i:i + CHUNK, None])
        dv[seen] += p.swapaxes(-1, -2) @ dy[here]                                                      # [AT6]
        dp = dy[here] @ v[seen].swapaxes(-1, -2)                                                       # [AT7]
        ds = p * (dp - (dy[here] * y[here]).sum(-1, keepdims=True)) / math.sqrt(q.shape[-1])           # [AT8,9]
        dq[here] = ds @ k[seen]                                                                        # [AT10]
        dk[seen] += ds.swapaxes(-1, -2) @ q[here]
    return np.concatenate([merge(dq), merge(dk), merge(dv)], -1)


def pair(way, n_head):
    """forward(qkv) -> (y, saved) and backward(dy, *saved), on arrays or, for PyTorch, on tensors."""
    if way == "PyTorch":
        import torch
        return (lambda qkv: (ops.torch_attention(torch, qkv, n_head), (qkv,)),
                lambda dy, qkv, y=None: torch.autograd.backward(y, dy))
    if way == "chunked":
        def forward(qkv):
            y, lse = chunked(qkv, n_head)
            return y, (qkv, y, lse, n_head)
        return forward, chunked_backward
    with kernels.using("reference" if way == "naive" else "auto"):
        forward, backward = kernels.choose(attention, [np.empty(0, np.float32)])
    return (lambda qkv: forward(qkv, n_head=n_head)), (lambda dy, *saved: backward(dy, *saved, into=[None]))


def spent(f):
    """Seconds of the processor that a call takes."""
    start = time.process_time()
    f()
    return time.process_time() - start


def product(size=1024):
    """For a process of its own: operations a second of a large product, NumPy's or ours, whichever is the faster."""
    pool.set_size(1)
    a, b = np.ones((2, size, size), np.float32)
    while True:
        yield 2 * size ** 3 / min(spent(lambda: a @ b), spent(lambda: matmul(a, b)))


def point(way, n, d):
    """For a process of its own: (seconds of forward, of backward, bytes at most beyond the arguments), call by call."""
    pool.set_size(1)
    forward, backward = pair(way, HEADS)
    random = np.random.default_rng(0)

    def arguments(n):
        found = [random.standard_normal((1, n, k * HEADS * d), np.float32) for k in (3, 1)]
        if way == "PyTorch":
            import torch
            torch.set_num_threads(1)
            found = [torch.from_numpy(a) for a in found]
            found[0].requires_grad_()
        return found

    def call(qkv, dy):
        kept = []
        if way == "PyTorch":
            qkv.grad = None                                  # or backward adds to what the call before has left
        seconds = spent(lambda: kept.extend(forward(qkv)))
        y, saved = kept
        return seconds, spent(lambda: backward(dy, *saved, **({"y": y} if way == "PyTorch" else {})))

    call(*arguments(16))                                     # compiles, and finds libraries
    args = arguments(n)
    before = forget_peak()
    call(*args)
    peak = max(0, turns.memory()[1] - before)
    while True:
        yield *call(*args), peak


def forget_peak():
    """Bytes resident now, from where the most is counted anew; where Linux does not let us, the most so far."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return turns.memory()[1]
    return turns.memory()[0]


def operations(way, n, d):
    """F of the docstring."""
    return 14 * n * n * d * HEADS / (1 if way == "naive" else 2)


def predicted(way, n, d):
    """Bytes beyond the arguments, of the docstring; None for PyTorch, whose code is not ours."""
    results = 4 * n * d * HEADS
    more = {"naive": 4 * n * n * HEADS, "chunked": 4 * CHUNK * n * HEADS + results, "flash": 6 * n * d}
    return 4 * (results + more[way]) if way in more else None


def exponent(sizes, values):
    """(slope of log value against log size, its standard error: NaN of two points, through which any line goes)"""
    x, y = np.log(sizes), np.log(values)
    slope, height = np.polyfit(x, y, 1)
    left = y - slope * x - height
    spread = np.sqrt((left ** 2).sum() / (len(x) - 2) / ((x - x.mean()) ** 2).sum()) if len(x) > 2 else np.nan
    return float(slope), float(spread)


def measure(todo, calls):
    """{(way, n, d): (seconds of forward, of backward, bytes)}, by the fastest of the calls."""
    found = {}
    with progress(len(todo), 0) as bar:
        bar.unit = "point"
        for way, n, d in todo:
            side = Side(f"{way}, n {n}, d {d}", point, dict(way=way, n=n, d=d), ALONE)
            side.work(calls)
            side.close()
            if not side.dead:
                found[way, n, d] = tuple(np.min(side.values, 0).tolist())
            bar.update()
    return found


def table(found, rate):
    """A line for every point: milliseconds, MiB, and what the formulas say of both."""
    lines = [f"{'':10}{'n':>6}{'d':>5}{'forward ms':>12}{'backward ms':>13}{'both':>10}{'by formula':>12}{'MiB':>10}"
             f"{'by formula':>12}"]
    for (way, n, d), (forward, backward, peak) in found.items():
        want = predicted(way, n, d)
        lines.append(f"{way:10}{n:6}{d:5}{forward * 1e3:12.2f}{backward * 1e3:13.2f}{(forward + backward) * 1e3:10.2f}"
                     f"{operations(way, n, d) / rate * 1e3:12.2f}{peak / MIB:10.1f}"
                     + (f"{want / MIB:12.1f}" if want else f"{'-':>12}"))
    return lines


def exponents(found):
    """A line for every way: how its time and its memory grow with n and with d."""
    lines = [f"{'grows with':10}{'n: time':>16}{'n: memory':>16}{'d: time':>16}{'d: memory':>16}"]
    for way in dict.fromkeys(way for way, _, _ in found):
        cells = []
        for varied in (1, 2):
            points = [(key[varied], forward + backward, peak) for key, (forward, backward, peak) in found.items()
                      if key[0] == way and key[3 - varied] == (D, N)[varied - 1] and (varied == 2 or key[1] >= LEAST)]
            sizes, seconds, peaks = zip(*points)
            for values in (seconds, peaks):
                cells.append("{:.2f} ± {:.2f}".format(*exponent(sizes, values)).replace("nan", "-")
                             if min(values) > 0 else "-")
        lines.append(f"{way:10}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def plot(file, found, rate, title):
    """Time and memory against n and against d: points as measured, lines as the formulas say."""
    with drawing(file, 2, 2, figsize=(11, 8)) as (figure, panels):
        for column, (name, varied) in enumerate((("context n", 1), ("width d of a head", 2))):
            for way, colour in COLOURS.items():
                points = sorted((key[varied], key, values) for key, values in found.items()
                                if key[0] == way and key[3 - varied] == (D, N)[varied - 1])
                if not points:
                    continue
                x = [size for size, *_ in points]
                measured = [[1e3 * (forward + backward) for *_, (forward, backward, _) in points],
                            [peak / MIB for *_, (_, _, peak) in points]]
                lines = [[1e3 * operations(*key) / rate for _, key, _ in points],
                         [(predicted(*key) or np.nan) / MIB for _, key, _ in points]]
                for axes, values, line in zip(panels[:, column], measured, lines):
                    axes.plot(x, values, "o", color=colour, label=way)
                    axes.plot(x, line, "-", color=colour, alpha=0.5, linewidth=1)
            for axes, what in zip(panels[:, column], ("ms, forward and backward", "MiB beyond the arguments")):
                axes.set(xscale="log", yscale="log", xlabel=name, ylabel=what)
                axes.set_xscale("log", base=2)
                axes.grid(alpha=0.25)
        panels[0, 0].legend(frameon=False)
        figure.suptitle(title, fontsize=10)


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench attention", description="Time and memory of attention, forward and backward, against the "
        f"context and the width of a head ({HEADS} heads, float32), by arrays of scores, by chunks of them and by the "
        "compiled kernel, beside what the formulas say and beside PyTorch.")
    parser.add_argument("--short", action="store_true", help=f"contexts up to {SHORT[0][-1]}, in a minute")
    parser.add_argument("--calls", type=turns.positive, default=9, help="of every point, of which the "
                        "fastest counts: neighbours disturb it least [9]")
    parser.add_argument("--out", type=Path, default=Path("runs/attention"), help="folder for attention.txt and "
                        "attention.png [runs/attention]")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    busy, (contexts, widths) = turns.load(), SHORT if args.short else (CONTEXTS, WIDTHS)
    ways = [way for way in COLOURS if way != "PyTorch" or turns.HAVE_TORCH]
    todo = [(way, n, D) for way in ways for n in contexts] + [(way, N, d) for way in ways for d in widths if d != D]
    ceiling = Side("a product", product, {}, ALONE)
    ceiling.work(args.calls)
    ceiling.close()
    if ceiling.dead:
        return 1
    rate, found = max(ceiling.values), measure(todo, args.calls)
    if len(found) < len(todo):                               # what ended is reported already
        return 1
    head = [turns.command("attention", argv), turns.machine(),
            f"{HEADS} heads, float32, one thread, the processor's time, the fastest of {args.calls} calls; load "
            f"{busy:.1f} before and {turns.load():.1f} after; a large product runs at {rate / 1e9:.0f} GFLOP/s"]
    if not turns.HAVE_TORCH:
        head.append("PyTorch is not installed, so it is left out: pip install torch")
    text = "\n".join([*head, "", *table(found, rate), "", *exponents(found)])
    print(text)
    (args.out / "attention.txt").write_text(text + os.linesep, encoding="utf-8")
    plot(args.out / "attention.png", found, rate, "\n".join(head[1:]))
    return 0
