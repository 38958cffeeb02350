"""Processes that take turns on one machine, and what all measurements here say about themselves.

Two pools of threads fight in one process (minigrad/pool.py), and so do two processes that work at once. Whatever is
compared therefore lives in a process of its own and works only when it is asked, in turns, so that a busy neighbour or
a warming processor disturbs all alike. While one works the others wait for a message.
"""
import argparse
import functools
import itertools
import json
import multiprocessing
import os
import platform
import resource
import shlex
import sys
import time
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from minigrad import pool
from minigrad.check import expect

REST = 0.2           # seconds between turns: the threads of whoever had the last one still spin for a while
WARM = 2             # steps of the first turn, which compile, allocate and warm up: not counted
HAVE_TORCH = find_spec("torch") is not None
_rounds = itertools.count()


class Side:
    """A generator make(**settings) in a process of its own, under the environment env. One next() is one step."""

    def __init__(self, name, make, settings, env=None):
        spawn = multiprocessing.get_context("spawn")
        self.name, self.pipe, self.dead = name, None, False
        self.first = None                # seconds of the first step of all, imports and compilation included
        self.seconds, self.faults = [], 0                    # of the steps that count; page faults
        self.rounds = []                 # in which round each of them was taken: see beside()
        self.values = []                 # what the generator yielded: a loss, or the seconds of a floor
        self.peak = self.resident = 0    # bytes: the most so far, and now
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(make, settings, theirs), daemon=True)
        with environment(env or {}):
            self.process.start()
        theirs.close()                                       # so that a process that dies ends the wait

    def work(self, n, counts=True, round=None):
        """n steps, in this round. A process that ends instead is reported, and asked no more."""
        if self.dead:
            return
        try:
            self.pipe.send(n)
            seconds, values, faults, self.resident, self.peak = self.pipe.recv()
        except (EOFError, OSError):
            self.dead = True
            print(f"\n{self.name} is left out: its process ended; its error is above.", file=sys.stderr)
            return
        self.values += values
        if self.first is None:
            self.first = seconds[0]
        if counts:
            self.seconds += seconds
            self.rounds += [round] * n
            self.faults += faults

    def close(self):
        if not self.dead:
            self.pipe.send(0)
        self.process.join()


def _serve(make, settings, pipe):
    """In the process of a Side: on every message n, n steps, and what they cost."""
    steps = make(**settings)
    while n := pipe.recv():
        seconds, values, before = [], [], resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(n):
            start = time.perf_counter()
            values.append(next(steps))
            seconds.append(time.perf_counter() - start)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        pipe.send((seconds, values, faults, *memory()))


def take_turns(sides, rounds, steps, bar=None):
    """A first turn that does not count, then rounds turns of that many steps for every side."""
    for turn in range(rounds + 1):
        round = next(_rounds)
        for side in sides:
            time.sleep(REST)
            side.work(steps if turn else WARM, turn > 0, round)
            if bar is not None:
                bar.update(steps if turn else WARM)


def compare(sides, rounds, steps=1):
    """take_turns() with a bar, and the end of all sides; those that did not die. All are set beside the first."""
    from train.log import progress
    with progress(len(sides) * (rounds * steps + WARM), 0) as bar:
        take_turns(sides, rounds, steps, bar)
    for side in sides:
        side.close()
    expect(not sides[0].dead, sides[0].name, "an error, which is above", "something to set the others beside")
    return [side for side in sides if not side.dead and side.seconds]


def beside(side, other):
    """The median of side's seconds in the rounds in which other worked too (in all, if there are none)."""
    shared = set(other.rounds)
    together = [s for s, round in zip(side.seconds, side.rounds, strict=True) if round in shared]
    return quartiles(together or side.seconds)[1]


@contextmanager
def busy_neighbour(wanted=True):
    """Another process that keeps one processor busy inside, as strangers on a shared machine do."""
    process = multiprocessing.get_context("spawn").Process(target=_spin, daemon=True) if wanted else None
    if process:
        process.start()
    try:
        yield
    finally:
        if process:
            process.kill()
            process.join()


def _spin():
    while True:
        pass


@contextmanager
def environment(changes):
    """os.environ with these changes, for processes that start inside."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def memory():
    """(bytes resident now, the most so far) of this process.

    Linux hands ru_maxrss down from the process that started this one, so there /proc is asked.
    """
    try:
        return memory_of(Path("/proc/self/status").read_text(encoding="utf-8"))
    except (OSError, KeyError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return most, most


def memory_of(status):
    """(resident, most) in bytes from the text of /proc/PID/status, which counts in KiB."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    return tuple(int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))


def machine():
    """The processor, its cores, and the versions of what runs on it."""
    from minigrad.jit_cpu import processor  # Numba with it, which PyTorch's processes do not need
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            model = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), model)
    packages = ", ".join(filter(None, map(installed, ("numpy", "numba", "torch"))))
    return f"{model} ({processor()}), {pool.size()} cores; Python {platform.python_version()}, {packages}"


def installed(name):
    """The package with its version, or None."""
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return None


def load():
    """How many processes wanted to run during the last minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def warn_of(busy):
    if busy > 0.5:
        print(f"The machine was busy (load {busy:.1f}) before we began. Threads that spin while they wait, as "
              "PyTorch's do, lose most by that: repeat this on a quiet machine.")


def quartiles(values):
    """25 %, 50 % and 75 % of what was measured."""
    return [float(q) for q in np.percentile(values, (25, 50, 75))]


def begin(*packages):
    """Say on what machine, and with which versions of these packages too, and whether it is busy; the load."""
    busy = load()
    print(", ".join(filter(None, [machine(), *map(installed, packages)])))
    warn_of(busy)
    return busy


def command(name, argv):
    """The command line that runs `bench name` with these arguments, for a shell."""
    return shlex.join(["python", "-m", "bench", name, *argv])


def record(file, name, argv, **what):
    """Append one line of JSON: when, where and by which command these numbers were measured."""
    entry = {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": machine(), "command": command(name, argv), **what}
    with open(file, "a", encoding="utf-8") as stream:
        stream.write(json.dumps(entry) + "\n")


# what the command lines share

def add_shared(parser, plot=True):
    """--threads, --json and, where there is something to draw, --plot."""
    parser.add_argument("--threads", type=positive, default=pool.size(),
                        help="[%(default)s, the cores at hand]")
    parser.add_argument("--json", type=in_a_folder, metavar="FILE",
                        help="append a dated line with machine, command, medians and quartiles")
    if plot:
        parser.add_argument("--plot", type=in_a_folder, metavar="FILE", help="draw the numbers, as PNG or SVG")


def count(text, least=0):
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a whole number, {least} or more")
    return int(text)


positive = functools.partial(count, least=1)


def in_a_folder(text):
    """The name of a file to be written: refused before the measurement, not after."""
    if not Path(text).parent.is_dir() or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"got {text!r}; expected the name of a file in a folder that exists")
    return text
