"""NumPy or CuPy, and what both need: wide sums, named random streams, the dropout counter, memory statistics.

Everything above asks xp_of(x) for the array module that owns x, so that a formula is written once. CuPy is
imported here and nowhere else, and only when somebody asks for a GPU.
"""
import functools
import sys
import weakref
import zlib
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from minigrad.check import expect

# Storage dtypes, each with the dtype that its sums are taken in. bfloat16 joins when somebody first asks for it.
WIDE = {np.dtype(np.float16): np.dtype(np.float32), np.dtype(np.float32): np.dtype(np.float32),
        np.dtype(np.float64): np.dtype(np.float64)}


KEPT = []
POOLED = weakref.WeakSet()       # what takes memory of the GPU from a pool of its own, beside CuPy's


def kept(f):
    """functools.cache, for what belongs to the CuPy that is there just now."""
    KEPT.append(functools.cache(f))
    return KEPT[-1]


@contextmanager
def during(variable, value):
    """A ContextVar has this value for the length of a with block, in this thread."""
    token = variable.set(value)
    try:
        yield
    finally:                                            # an exception inside must not leave the switch flipped
        variable.reset(token)


def forget():
    """Empty all that is kept: another CuPy is there from now on, or none."""
    for f in KEPT:
        f.cache_clear()


@kept
def cupy():
    """The CuPy module if it is installed and sees a GPU, else None. The first call takes a while: not at import."""
    try:
        import cupy
        cupy.cuda.runtime.getDeviceCount()      # an installed CuPy without a working GPU raises here
    except Exception:                           # ImportError, CUDARuntimeError, a missing driver library, ...
        return None
    return cupy


def on_gpu(x):
    """No array can be CuPy's in a process that has not imported CuPy."""
    return "cupy" in sys.modules and isinstance(x, sys.modules["cupy"].ndarray)


def xp_of(*arrays):
    """The array module that owns the arrays: CuPy if it owns one of them, else NumPy."""
    return sys.modules["cupy"] if "cupy" in sys.modules and any(map(on_gpu, arrays)) else np


def address_of(x):
    """Where the first entry of an array lies."""
    return x.data.ptr if on_gpu(x) else x.ctypes.data


def device_of(arrays, who):
    """"gpu" if any array lies there, else "cpu"; a mix is refused. Python numbers and None lie anywhere."""
    if "cupy" not in sys.modules or not any(map(on_gpu, arrays)):
        return "cpu"
    mixed = [type(a).__module__ for a in arrays if isinstance(a, np.ndarray) and a.ndim]
    expect(not mixed, who, "a NumPy array (CPU) beside a CuPy array (GPU)", "all arrays on one device",
           "move the batch to the model's device: minigrad.backend.to_device(x, 'gpu')")
    return "gpu"


def to_device(x, device):
    """x as an array of "cpu" or "gpu"; x itself if it already lies there."""
    expect(device in ("cpu", "gpu"), "to_device", repr(device), "'cpu' or 'gpu'")
    if device == "cpu":
        return asnumpy(x)
    if cupy() is None:
        raise RuntimeError(NO_GPU)
    return cupy().asarray(x)


NO_GPU = ("no GPU that CuPy can use was found. Hint: on a machine with an NVIDIA driver, "
          'pip install "cupy-cuda12x[ctk]" (CUDA 12) or "cupy-cuda13x[ctk]" (CUDA 13); here, stay on NumPy')


def asnumpy(x):
    """x as a NumPy array, copied from the GPU if it lies there."""
    return x.get() if on_gpu(x) else np.asarray(x)


def dtype_of(name):
    """The storage dtype called "float64", "float32", "float16" or "bfloat16"; or that of a type, such as np.float32."""
    name = np.dtype(name) if isinstance(name, type) else name
    if str(name) == "bfloat16":
        import ml_dtypes
        bfloat16 = np.dtype(ml_dtypes.bfloat16)
        WIDE[bfloat16] = np.dtype(np.float32)
        return bfloat16
    names = [d.name for d in WIDE]
    expect(str(name) in names, "dtype", repr(str(name)), f"one of {', '.join(sorted({*names, 'bfloat16'}))}")
    return np.dtype(str(name))


def is_float(dtype):
    """Can a gradient flow through arrays of this dtype?"""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def wide_dtype(dtype):
    """The dtype that sums over entries of this dtype are taken in: 16-bit floats widen to float32."""
    if dtype not in WIDE and dtype.name == "bfloat16":
        return dtype_of("bfloat16") and WIDE[dtype]
    return WIDE.get(dtype, dtype)


def wide(x):
    """x in the dtype that sums are taken in; x itself when that is its dtype."""
    return x.astype(wide_dtype(x.dtype), copy=False)


def rounded(y, x):
    """y, computed from wide(x), in x's own dtype; what comes of integers and booleans is left as it is."""
    return y.astype(x.dtype, copy=False) if is_float(x.dtype) else y


# ---------------------------------------------------------------------------------------------- randomness

def stream(name, seed):
    """The random stream called name: independent of every other name, and the same on every machine."""
    expect(hasattr(seed, "__index__") and seed >= 0, "seed", repr(seed), "a whole number from 0 up")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(name.encode())])))


_moment = ContextVar("moment", default=(0, 0, 0))


def moment(seed=None, step=None, micro=None):
    """Set the (seed, step, micro-batch) that dropout masks are a function of, for the length of a with block.

    Outside such a block the optimiser's step() counts steps and backward() counts micro-batches, so that a plain
    loop gets fresh masks without asking; inside it, those counts are undone at the end.
    """
    before = _moment.get()
    return during(_moment, tuple(b if v is None else int(v) for v, b in zip((seed, step, micro), before, strict=True)))


def now():
    """(seed, step, micro-batch): what the dropout masks of this moment are a function of."""
    return _moment.get()


def next_micro():
    """A backward pass has ended: the next forward pass draws other masks."""
    seed, step, micro = _moment.get()
    _moment.set((seed, step, micro + 1))


def next_step():
    """The optimiser has stepped: micro-batches are counted from 0 again."""
    seed, step, _ = _moment.get()
    _moment.set((seed, step + 1, 0))


# ------------------------------------------------------------------------------------------------ memory

def memory():
    """{"peak": this process's largest resident size, and of the GPU, 0 without one, "used": by arrays that are alive,
    "held": by CuPy's pool, the most that was in use at one time, "total": all that it has}, in bytes."""
    import resource
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "used": 0, "held": 0, "total": 0}
    if "cupy" in sys.modules and cupy():
        pools = [cupy().get_default_memory_pool(), *(one.pool for one in POOLED)]
        found |= {"used": sum(pool.used_bytes() for pool in pools), "held": sum(pool.total_bytes() for pool in pools),
                  "total": cupy().cuda.runtime.memGetInfo()[1]}
    return found
