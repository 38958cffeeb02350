"""Where does the time of a training step go? Every op call by the clock, forward and backward.

    with profile() as p:
        loss = model.loss(x, y)
        loss.backward()
        opt.step()
    print(p.table())                    # per op: calls, time, share, GFLOP/s, GB/s
    p.trace("step.json")                # each call on a time line: chrome://tracing, or ui.perfetto.dev

A profile may be entered again, and adds up. It sees what this thread calls through kernels.py: ops, backward too if it
saw their forward, and the optimiser's kernels. The rest of the time is "between ops": Python, the engine, its addition
of gradients that meet, NumPy of your own. What recompute runs again appears as the ops that it is made of. The clock's
own work, ten microseconds or so a call, is taken off that rest. On a GPU every call is waited for.
"""
import json
import os
from collections import defaultdict
from pathlib import Path
from time import perf_counter_ns as now
from typing import NamedTuple

import numpy as np

from minigrad import backend, kernels
from minigrad.check import expect
from minigrad.slot import DONE, SKIP

# Floating point operations: (forward, one number per array argument for its gradient). y is forward's result.
FLOPS = {
    "linear": lambda y, x, w, b: (f := 2 * y.size * len(w), (f, f)),                     # [LI1], [LI2,3]
    "matmul": lambda y, a, b: (f := 2 * y.size * a.shape[-1], (f, f)),
    "attention": lambda y, qkv, **_: (f := 2 * y.size * y.shape[1], (2.5 * f,)),         # without the upper triangle
    "linear_cross_entropy": lambda y, x, w, targets, into=(None, None, SKIP), **_: (
        2 * x.size * len(w) * (1 + sum(slot is not SKIP for slot in into[:2])), ()),     # [CE6]: forward does it all
}
# Bytes read and written: (forward, backward), where it is not each array once; some are used in part, or in place.
BYTES = {
    "embedding": lambda y, ids, w: (2 * y.nbytes, 3 * y.nbytes),                         # rows of the table, not all
    "adamw": lambda y, p, g, m, v, master, **_: (2 * sum(a.nbytes for a in _arrays((p, m, v, master))) + g.nbytes, 0),
}


class Call(NamedTuple):
    """One call of an op or a kernel. Times in nanoseconds; own is time less that of the calls inside it."""
    name: str
    phase: str
    start: int
    time: int
    own: int
    flops: float
    bytes: int
    shapes: list


class Profile:
    """Calls, and the blocks of time in which they were made."""

    def __init__(self):
        self.calls, self.blocks = [], []                 # blocks: [start, end], in nanoseconds as everything here
        self.clock = 0                                   # what measuring has cost
        self.inside = 0                                  # time of the calls inside the one that runs now
        self.token = None                                # of kernels.watcher, while a block is open

    def __enter__(self):
        expect(self.token is None, "profile", "a profile that is running", "one that is not", "make another: profile()")
        self.token = kernels.watcher.set(self._watch)
        self.blocks.append([now(), None])
        return self

    def __exit__(self, *_):
        self.blocks[-1][1] = now()
        kernels.watcher.reset(self.token)
        self.token = None

    @property
    def wall(self):
        """Nanoseconds spent inside the blocks, without those that the clock itself has cost."""
        return sum((end or now()) - start for start, end in self.blocks) - self.clock

    def _watch(self, name, *functions):
        began, costs = now(), {}
        phases = ("forward", "backward") if len(functions) == 2 else ("update",)
        timed = tuple(self._timed(name, phase, f, costs) for phase, f in zip(phases, functions, strict=True))
        self.clock += now() - began
        return timed

    def _timed(self, name, phase, f, costs):
        """f, by the clock. costs: where forward leaves what it knows of backward's."""
        def call(*args, **params):
            if self.token is None:                       # a graph from inside the block, used after it
                return f(*args, **params)
            outside, self.inside = self.inside, 0
            start = now()
            out = f(*args, **params)
            _wait(args)
            time = now() - start
            own, self.inside = time - self.inside, outside + time
            flops, moved = _costs(name, phase, args, params, out, costs)
            shapes = [list(a.shape) for a in _arrays(args)]
            self.calls.append(Call(name, phase, start, time, own, flops, moved, shapes))
            self.clock += now() - start - time
            return out
        return call

    def table(self):
        """Per op and phase: calls, time, share of the wall time, rates; then what was between the ops."""
        groups, wall, width = defaultdict(list), max(self.wall, 1), 24
        for c in self.calls:
            groups[c.name, c.phase].append(c)
        rows = sorted(((sum(c.own for c in g), *key, g) for key, g in groups.items()), key=lambda row: -row[0])
        lines = [f"{'op':{width}}{'phase':10}{'calls':>7}{'ms':>11}{'share':>8}{'ms/call':>10}{'GFLOP/s':>9}"
                 f"{'GB/s':>8}"]
        for own, name, phase, g in rows:
            flops, moved = (f"{total / max(own, 1):.1f}" if total else "-"
                            for total in (sum(c.flops for c in g), sum(c.bytes for c in g)))
            lines.append(f"{name:{width}}{phase:10}{len(g):7}{own / 1e6:11.2f}{own / wall:8.1%}"
                         f"{own / len(g) / 1e6:10.3f}{flops:>9}{moved:>8}")
        rest = wall - sum(own for own, *_ in rows)
        each = f"{rest / len(self.calls) / 1e3:10.1f} us per op call" if self.calls else ""
        lines.append(f"{'between ops':{width + 10}}{len(self.calls):7}{rest / 1e6:11.2f}{rest / wall:8.1%}{each}")
        return "\n".join(lines)

    def trace(self, path):
        """Write all calls as a Chrome trace: the file appears when it is complete."""
        def span(name, phase, start, time, **args):
            return {"name": name, "cat": phase, "ph": "X", "ts": (start - self.blocks[0][0]) / 1e3, "dur": time / 1e3,
                    "pid": os.getpid(), "tid": 0, "args": args}

        spans = [span("profile", "block", start, (end or now()) - start) for start, end in self.blocks]
        spans += [span(c.name, c.phase, c.start, c.time, shapes=c.shapes, bytes=c.bytes, flops=c.flops)
                  for c in self.calls]
        part = Path(path).with_name(Path(path).name + ".part")
        part.write_text(json.dumps({"traceEvents": spans, "displayTimeUnit": "ms"}), encoding="utf-8")
        os.replace(part, path)


def profile():
    """A Profile, to be entered: with profile() as p."""
    return Profile()


def _costs(name, phase, args, params, out, costs):
    """(floating point operations, bytes) of a call. forward, which comes first, leaves backward's in costs."""
    into = params.get("into") or ()
    if phase != "backward":
        y = out[0] if phase == "forward" else out
        flops, costs["gradients"] = FLOPS[name](y, *args, **params) if name in FLOPS else (0, ())
        moved, costs["bytes"] = BYTES[name](y, *args, **params) if name in BYTES else (None, None)
        made = _arrays(y)
    else:
        wanted = [slot is not SKIP for slot in into] or [True] * len(costs["gradients"])
        flops, moved = sum(f for f, want in zip(costs["gradients"], wanted) if want), costs["bytes"]
        made = _arrays((out, [slot.array for slot, g in zip(into, out) if g is DONE and slot is not SKIP]))
    return flops, _moved(_arrays(args), made) if moved is None else moved


def _moved(read, made):
    """Bytes of the arrays, each once. A result that is a view of an argument moves nothing."""
    fresh = [a for a in made if not any(backend.xp_of(a).may_share_memory(a, b) for b in read)]
    return 0 if made and not fresh else sum(a.nbytes for a in read + fresh)


def _arrays(tree):
    """The arrays in nested tuples and lists, each once."""
    if isinstance(tree, (tuple, list)):
        return list({id(a): a for branch in tree for a in _arrays(branch)}.values())
    return [tree] if isinstance(tree, np.ndarray) or backend.on_gpu(tree) else []


def _wait(arrays):
    """A GPU works on while Python goes ahead; its time belongs to the op that gave it the work."""
    if any(map(backend.on_gpu, arrays)):
        backend.cupy().cuda.get_current_stream().synchronize()
