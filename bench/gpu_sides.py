"""Processes that take turns on one GPU, each with a clock of its own.

Ours and PyTorch never share a process: two caching allocators in one would fight for memory, and a kernel that writes
where it must not would take both down. A side works only while it is asked, so the card belongs to it alone, and before
it answers it gives back all memory that it keeps for later use only.

Times are CUDA events around the work. Before each of them the cache of the card is emptied by writing to a large
array: what is measured finds its arguments in memory, as it does in a step whose tensors are larger than the cache.
Meanwhile Python gets ahead, so that launching is measured only where it takes longer than that.
"""
import functools
import multiprocessing
import os
import re
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from minigrad import backend
from minigrad.check import expect
from minigrad.emulator import fake_cupy
from minigrad.fused.hopper_gpu import is_hopper


class Pace(NamedTuple):
    """How thoroughly to measure."""
    flush: int              # bytes that are written to empty the cache
    least: int              # calls, of which the first warms up
    most: int
    seconds: float          # no more calls than these take, once there are enough


FULL, SHORT = Pace(1 << 30, 11, 51, 0.3), Pace(1 << 10, 2, 2, 0.0)


class Failed(Exception):
    """What a side could not do. kind: failed, memory (there was too little), time (it took too long)."""

    def __init__(self, kind, text):
        super().__init__(text)
        self.kind = kind


class Side:
    """An object in a process of its own: what make(**settings) gives. side.ask("method") runs its method there."""

    def __init__(self, name, make, settings, rehearse=False):
        spawn = multiprocessing.get_context("spawn")
        self.name, self.alive = name, True
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(theirs, make, settings, rehearse), daemon=True)
        self.process.start()
        theirs.close()                                       # so that a process that dies ends the wait

    def ask(self, method, *args, patience=600.0):
        """What its method returns; after a Failed the side is no more."""
        try:
            self.pipe.send((method, args))
            if not self.pipe.poll(max(0.0, patience)):
                raise Failed("time", f"no answer to {method} after {patience:.0f} s")
            kind, answer = self.pipe.recv()
        except Failed:
            self.close(0)
            raise
        except (EOFError, OSError):
            self.close()
            raise Failed("failed", f"its process ended with exit status {self.process.exitcode}") from None
        if kind == "fine":
            return answer
        self.close()
        raise Failed(kind, answer)

    def close(self, patience=10):
        """The end of the process, which may take so many seconds to tidy up."""
        self.alive = False
        self.pipe.close()                                    # it waits for a message, and there will be none
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(pipe, make, settings, rehearse):
    """In the process of a Side. After an error it ends: nobody knows what state the card's context is in."""
    with fake_cupy.installed() if rehearse else nullcontext():
        kind, made = attempt(make, **settings)               # at once, while other sides begin too
        while True:
            try:
                method, args = pipe.recv()
            except EOFError:
                return
            kind, answer = attempt(call, made, method, args) if kind == "fine" else (kind, made)
            pipe.send((kind, answer))
            if kind != "fine":
                return


def call(made, method, args):
    return getattr(made, method)(*args)


def attempt(f, *args, **settings):
    """("fine", what f returns) or (kind of a Failed, its text)."""
    try:
        return "fine", f(*args, **settings)
    except Exception as e:
        return "memory" if "OutOfMemory" in type(e).__name__ else "failed", described(e)


def described(e):
    """An exception in one line, with the place in our own code that it came from."""
    ours = [frame for frame in traceback.extract_tb(e.__traceback__) if os.sep + "site-packages" not in frame.filename]
    where = f" ({os.path.basename(ours[-1].filename)}:{ours[-1].lineno})" if ours else ""
    lines = str(e).strip().splitlines() or [""]
    return f"{type(e).__name__}: {' '.join(lines[:4])}"[:500] + where


class CupyClock:
    """Time and memory of our side. rest() gives back what is kept for later."""

    def __init__(self, flush=0):
        self.cupy, self.size, self.scratch = backend.cupy(), flush, None
        expect(self.cupy is not None, "bench gpu", "no GPU", "one that CuPy can use", backend.NO_GPU)

    def flush(self):
        if self.scratch is None:
            self.scratch = self.cupy.empty(self.size // 4, "float32")
        self.scratch.fill(1)

    def mark(self):
        event = self.cupy.cuda.Event()
        event.record()
        return event

    def seconds(self, start, end):
        end.synchronize()
        return self.cupy.cuda.get_elapsed_time(start, end) / 1e3

    def wait(self):
        self.cupy.cuda.get_current_stream().synchronize()

    def held(self):
        """Bytes that were taken from the card since the last rest, at most: a pool gives none back by itself."""
        return backend.memory()["held"]

    def rest(self):
        self.scratch = None
        self.wait()
        self.cupy.get_default_memory_pool().free_all_blocks()


class TorchClock:
    """The same for PyTorch, which in a rehearsal works on the CPU."""

    def __init__(self, flush=0):
        import torch
        self.torch, self.size, self.scratch = torch, flush, None
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        if self.device == "cpu":
            torch.set_num_threads(1)

    def compiled(self, f, mode):
        """torch.compile, for every shape anew; on a CPU only what it does before it generates code."""
        if self.device == "cpu":
            return self.torch.compile(f, backend="eager", dynamic=False)
        return self.torch.compile(f, mode=mode, dynamic=False)

    def flush(self):
        if self.scratch is None:
            self.scratch = self.torch.empty(self.size // 4, device=self.device)
        self.scratch.fill_(1)

    def mark(self):
        if self.device == "cpu":
            return time.perf_counter()
        event = self.torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start, end):
        if self.device == "cpu":
            return end - start
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def told(self, number):
        """A function that returns a tensor's one number as soon as it is there, whatever is launched after it: .item()
        would wait for all of that. A copy of its own, since a CUDA graph writes the next number into the same place."""
        if self.device == "cpu":
            return number.detach().clone().item
        told = self.torch.empty((), dtype=number.dtype, pin_memory=True)
        told.copy_(number.detach(), non_blocking=True)
        there = self.torch.cuda.Event()
        there.record()
        return lambda: (there.synchronize(), told.item())[1]

    def wait(self):
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def held(self):
        return self.torch.cuda.max_memory_reserved() if self.device == "cuda" else 0

    def rest(self):
        self.scratch = None
        self.wait()
        if self.device == "cuda":
            self.torch.cuda.empty_cache()
            self.torch.cuda.reset_peak_memory_stats()


def timed(clock, pace, ready, *phases):
    """Seconds of every call of each phase, in turns: [[of the first], [of the second], ...]. ready() comes before
    the first and is not measured."""
    marks, began = [], time.perf_counter()
    while len(marks) < pace.least or len(marks) < pace.most and time.perf_counter() - began < pace.seconds:
        ready()
        marks.append([])
        for phase in phases:
            clock.flush()
            start = clock.mark()
            phase()
            marks[-1].append((start, clock.mark()))
        if len(marks) == 1:                                  # compiling and finding memory is not on the clock
            clock.wait()
            began = time.perf_counter()
    return [[clock.seconds(*pair) for pair in column] for column in zip(*marks[1:])]


def card():
    """What a report says of the card and of the software on it. In a process that may use CuPy."""
    from bench import turns
    cp = backend.cupy()
    expect(cp is not None, "bench gpu", "no GPU", "one that CuPy can use", backend.NO_GPU)
    device, runtime = cp.cuda.Device(), cp.cuda.runtime
    about = runtime.getDeviceProperties(device.id)
    free, total = device.mem_info
    return {"card": about["name"].decode(), "compute": device.compute_capability, "hopper": is_hopper(),
            "memory": total, "free": free, "multiprocessors": about["multiProcessorCount"], "driver": driver(),
            "cuda_driver": runtime.driverGetVersion(), "cuda_runtime": runtime.runtimeGetVersion(),
            "cupy": cp.__version__, "machine": turns.machine()}


def driver():
    """The version of NVIDIA's driver, from the kernel that has loaded it, or from nvidia-smi."""
    import subprocess
    try:
        return version_in(Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
    except (OSError, IndexError):
        pass
    try:
        return subprocess.run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
                              capture_output=True, text=True, timeout=20).stdout.split()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "unknown"


def version_in(text):
    """The first thing in it that looks like 580.159.04."""
    return re.findall(r"\b\d+\.\d+(?:\.\d+)?\b", text)[0]


# Dense products of 16-bit entries with float32 sums: operations a second that the maker of a card promises.
PROMISED = {"H100 PCIe": 756e12, "H100": 989.4e12, "H200": 989.4e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
            "A10": 125e12, "RTX 4090": 165.2e12, "RTX 3090": 71e12}


@functools.cache
def promised(card):
    """Of the card with this name; None if it is not in the list."""
    names = [name for name in PROMISED if set(name.split()) <= set(card.replace("-", " ").split())]
    return PROMISED[max(names, key=len)] if names else None
