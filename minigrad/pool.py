"""One pool of threads for all CPU work, Numba kernels and matrix products alike.

Two pools on one machine fight: OpenBLAS's idle threads spin while Numba's work, and the other way round, and a
call that takes microseconds takes milliseconds. So kernels here are serial functions that release the GIL, each
given a range of the work, and helpers that never hold the GIL run the ranges (fork_cpu.py).

    each(kernel, n, work, *args)     kernel(*args, lo, hi) for ranges that cover range(n)

Which thread runs a range changes no bit of the result as long as kernels write what belongs to their range only.
"""
import ctypes
import functools
import os
import sys
import threading

from minigrad.check import expect

SMALL = 10_000       # work below this many operations is not worth a helper (half a microsecond, and cold caches)
_lock, _size, _native = threading.Lock(), None, None


def size():
    """The number of threads: MINIGRAD_THREADS, else the processors that this process may use."""
    global _size
    if _size is None:
        have = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        asked = os.environ.get("MINIGRAD_THREADS", str(have))
        expect(asked.removeprefix("-").isdecimal(), "MINIGRAD_THREADS", repr(asked), "a number of threads")
        _size = max(1, int(asked))
    return _size


def set_size(n):
    """Use n threads from now on, the caller's included."""
    global _size
    _size = max(1, int(n))
    if _native:
        _native.resize(_size - 1)


def address():
    """Where compiled code finds the pool; the first call starts the helpers."""
    global _native
    if _native is None:
        keep_memory()
        with _lock:
            if _native is None:
                from minigrad.fork_cpu import Pool
                _native = Pool(size() - 1)
    return _native.address


def each(kernel, n, work, *args):
    """Run kernel(*args, lo, hi) over ranges that cover range(n); work is the cost of it all in operations."""
    _launcher(kernel)(address(), n, pieces(work), *args)


def threads(work):
    """How many threads this much work is worth."""
    return 1 if work < SMALL else size()


def pieces(work):
    """Into how many ranges to cut it: one for small work, and several for each thread, to balance them, for large."""
    return threads(work) * (4 if work > 100 * SMALL else 1)


@functools.cache
def _launcher(kernel):
    from minigrad.fork_cpu import launcher
    return launcher(kernel)


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


def _after_fork():
    """A forked child has the memory of the pool but not its threads."""
    global _native, _lock
    _native, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
