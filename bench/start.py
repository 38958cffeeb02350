"""How long from nothing to the first training step: a process begins, imports, compiles, and takes one step.

With a warm cache our kernels come from the disk; with a cold one Numba compiles all of them, as in the first run after
an installation. Every start is a fresh process. What is read from the disk lies in the system's file cache, since some
start came before.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from bench import turns
from bench.step import CONFIGS
from bench.turns import HAVE_TORCH
from train.log import progress

STEP = "from bench import step; next(step.{make}(*step.CONFIGS['b'], {threads}))"
STARTS = {              # title: (what the process does, with an empty cache?)
    "import numpy": ("import numpy", False),
    "import minigrad": ("import minigrad", False),
    "ours, cached kernels": (STEP.replace("{make}", "ours"), False),
    "ours, empty cache": (STEP.replace("{make}", "ours"), True),
    "import torch": ("import torch", False),
    "PyTorch eager": (STEP.replace("{make}", "pytorch"), False),
}


def start(code, env=None):
    """Seconds from the birth of a process to the end of code, without those that its death takes."""
    began = time.time()                                      # the one clock that processes share everywhere
    done = subprocess.run([sys.executable, "-c", f"{code}; import time; print(time.time())"], text=True,
                          stdout=subprocess.PIPE, env={**os.environ, **(env or {})})
    if done.returncode:
        raise RuntimeError(f"bench start: the process that runs {code!r} ended with {done.returncode}; "
                           "its error is above")
    return float(done.stdout.split()[-1]) - began


def measure(names, threads, rounds):
    """{title: seconds of every start}, in turns."""
    def once(name):
        code, cold = STARTS[name]
        with tempfile.TemporaryDirectory() as empty:
            return start(code.format(threads=threads), {"NUMBA_CACHE_DIR": empty} if cold else {})

    found = {name: [] for name in names}
    with progress(len(names) * (rounds + 1), 0) as bar:
        for turn in range(rounds + 1):
            for name in names:
                if turn:
                    found[name].append(once(name))
                elif not STARTS[name][1]:
                    once(name)                               # fills caches, the kernels' and the system's
                bar.update()
    return found


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench start", description="Seconds from the start of a process to the end of its first "
        f"training step ({CONFIGS['b'][0]}, batch {CONFIGS['b'][1]}), ours and PyTorch's: medians of fresh processes.")
    parser.add_argument("--rounds", type=turns.positive, default=5, help="starts of each [5, a minute or two]")
    turns.add_shared(parser, plot=False)
    args = parser.parse_args(argv)
    busy, names = turns.begin(), [n for n, (code, _) in STARTS.items() if HAVE_TORCH or "torch" not in code]
    if not HAVE_TORCH:
        print("PyTorch is left out, because it is not installed here. To compare with it: pip install torch")
    found = measure(names, args.threads, args.rounds)
    print(f"\n{'from the start of a process to the end of':42}{'median s':>9}{'best':>8}")
    for name, seconds in found.items():
        print(f"{name + (', first step' if 'step' in STARTS[name][0] else ''):42}"
              f"{statistics.median(seconds):9.2f}{min(seconds):8.2f}")
    warm, cold = (statistics.median(found[f"ours, {kind}"]) for kind in ("cached kernels", "empty cache"))
    print(f"compiling all kernels that the step needs: {cold - warm:.1f} s, once")
    if args.json:
        turns.record(args.json, "start", argv, load=busy, threads=args.threads,
                     starts={name: turns.quartiles(seconds) for name, seconds in found.items()})
    return 0
