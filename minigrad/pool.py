"""One pool of threads for all CPU work: Numba kernels and single-threaded BLAS calls alike.

Two pools on one machine fight: OpenBLAS's idle threads spin while Numba's work, and the other way round, and a
call that takes microseconds takes milliseconds. So kernels here are serial functions that release the GIL, each
given a range of the work, and a handful of Python threads that sleep when idle run the ranges.

    each(kernel, n, work, *args)     kernel(*args, lo, hi) for ranges that cover range(n)

The caller works too, and waits only for ranges that a helper has begun: a helper that the operating system has not
scheduled yet, beside a busy neighbour, holds nobody up. Which thread runs a range changes no bit of the result as
long as kernels write what belongs to their range only.
"""
import ctypes
import functools
import os
import queue
import sys
import threading

SMALL = 40_000       # work below this many operations is not worth waking a thread for (about 30 microseconds)
_jobs = queue.SimpleQueue()
_inside = threading.local()
_size = None
_started = 0


def size():
    """The number of threads: MINIGRAD_THREADS, else the processors that this process may use."""
    global _size
    if _size is None:
        have = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        _size = max(1, int(os.environ.get("MINIGRAD_THREADS", have)))
    return _size


def set_size(n):
    """Use n threads from now on, the caller's included."""
    global _size
    _size = max(1, int(n))


@functools.cache
def keep_memory():
    """Ask glibc to keep freed memory for the next step instead of returning it to the system.

    Otherwise every step pays a page fault for every 4 KiB of its activations: a quarter of the time of a small model's
    step. Elsewhere than glibc this does nothing.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        libc.mallopt(M_TOP_PAD, 1 << 26)


class _Job:
    def __init__(self, kernel, args, bounds):
        self.kernel, self.args, self.ranges = kernel, args, iter(list(zip(bounds, bounds[1:])))
        self.left, self.lock, self.done, self.error = len(bounds) - 1, threading.Lock(), threading.Lock(), None
        self.done.acquire()

    def run(self):
        for lo, hi in self.ranges:                  # next() on a list iterator is atomic under the GIL
            try:
                if self.error is None:
                    self.kernel(*self.args, lo, hi)
            except BaseException as e:              # handed to the caller, who raises it
                self.error = e
            with self.lock:
                self.left -= 1
                if not self.left:
                    self.done.release()


def _serve():
    _inside.worker = True
    while True:
        _jobs.get().run()


def each(kernel, n, work, *args):
    """Run kernel(*args, lo, hi) over ranges that cover range(n); work is the cost of it all in operations."""
    global _started
    keep_memory()
    helpers = min(size(), n) - 1
    if helpers < 1 or work < SMALL or getattr(_inside, "worker", False):
        if n:
            kernel(*args, 0, n)
        return
    pieces = min(n, (helpers + 1) * (4 if work > 100 * SMALL else 1))
    job = _Job(kernel, args, [n * i // pieces for i in range(pieces + 1)])
    while _started < helpers:
        threading.Thread(target=_serve, daemon=True, name="minigrad").start()
        _started += 1
    for _ in range(helpers):
        _jobs.put(job)
    job.run()
    job.done.acquire()
    if job.error is not None:
        raise job.error


def _after_fork():
    """A forked child has the queue but not the threads."""
    global _jobs, _started
    _jobs, _started = queue.SimpleQueue(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
