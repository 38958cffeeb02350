"""Where the time of a training step on a card goes, kernel by kernel: ours, or PyTorch's.

    python -m bench gpu-trace                            GPT-2 124M, bfloat16, 64 rows of 1024 tokens
    python -m bench gpu-trace --side "PyTorch compile"   what the others' step consists of

Kernels that have a name in common are told apart by their grids. PyTorch's profiler sees all that runs in a process, so
it must be installed for our side as well. Between kernels: the time in which the card had nothing to do.
"""
import argparse
import collections
import itertools
import json
import sys
import tempfile
from pathlib import Path

from bench import gpu_train, turns
from bench.gpu_report import rows_of
from minigrad import backend

ON_THE_CARD = ("kernel", "gpu_memcpy", "gpu_memset")


def traced(side, steps):
    """What happened on the card in a turn of so many steps: the profiler's events in order of time, from the first
    kernel on, before which batches are copied to it."""
    from torch.profiler import ProfilerActivity, profile
    side.turn(2, 1)                                          # kernels compile, products are timed
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        side.turn(0, steps)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place, "trace.json")
        seen.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    found = sorted((e for e in events if e.get("ph") == "X" and e.get("cat") in ON_THE_CARD), key=lambda e: e["ts"])
    return list(itertools.dropwhile(lambda e: e["cat"] != "kernel", found))


def idle(events):
    """Microseconds between the first event and the last in which none was running."""
    gaps, end = 0.0, events[0]["ts"]
    for e in events:
        gaps += max(0.0, e["ts"] - end)
        end = max(end, e["ts"] + e["dur"])
    return gaps


def table(events, steps, name=60):
    """Markdown: kernels by the time that they take in a step."""
    groups = collections.defaultdict(list)
    for e in events:
        about = e["args"]
        shape = ["x".join(map(str, about[what])) if what in about else "" for what in ("grid", "block")]
        groups[e["name"], *shape, about.get("registers per thread", "")].append(e["dur"])
    rows = [(f"{sum(took) / steps / 1e3:.2f}", f"{len(took) / steps:g}", f"{turns.quartiles(took)[1]:.1f}",
             kernel[:name].replace("|", "/"), *rest)
            for (kernel, *rest), took in sorted(groups.items(), key=lambda item: -sum(item[1]))]
    busy = sum(e["dur"] for e in events) / steps / 1e3
    yield f"A step: {busy:.2f} ms in kernels and copies, {idle(events) / steps / 1e3:.2f} ms between them."
    yield ""
    yield from rows_of(("ms a step", "times", "median us", "kernel", "grid", "block", "registers"), rows)


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench gpu-trace", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=gpu_train.SIDES, default="ours", metavar="SIDE",
                        help=f"one of {', '.join(map(repr, gpu_train.SIDES))} [ours]")
    parser.add_argument("--preset", choices=("gpt2", "gpt2-medium", "char"), default="gpt2", help="[gpt2]")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="[bfloat16]")
    parser.add_argument("--batch", type=turns.positive, default=64, help="rows [64]")
    parser.add_argument("--steps", type=turns.positive, default=3, help="that are averaged [3]")
    args = parser.parse_args(argv)
    if backend.cupy() is None or not turns.HAVE_TORCH:
        why = "PyTorch is not installed: it has the profiler" if backend.cupy() is not None else backend.NO_GPU
        print(f"bench gpu-trace: {why}", file=sys.stderr)
        return 2
    make, more = gpu_train.SIDES[args.side]
    side = make(sizes=gpu_train.sizes_of(args.preset), batch=args.batch, dtype=args.dtype, **more)
    print(f"{args.side}, {args.preset}, {args.dtype}, {args.batch} rows")
    print(*table(traced(side, args.steps), args.steps), sep="\n")
    return 0
