"""NumPy or CuPy, and what both need: wide sums, named random streams, the dropout counter, memory statistics.

Everything above asks xp_of(x) for the array module that owns x, so that a formula is written once. CuPy is
imported here and nowhere else, and only when somebody asks for a GPU.
"""
import functools
import sys
import weakref
import zlib
from contextlib import contextmanager, suppress
from contextvars import ContextVar

import numpy as np

from minigrad.check import expect

# Storage dtypes, each with the dtype that its sums are taken in. bfloat16 joins when somebody first asks for it.
WIDE = {np.dtype(np.float16): np.dtype(np.float32), np.dtype(np.float32): np.dtype(np.float32),
        np.dtype(np.float64): np.dtype(np.float64)}


KEPT = []


def kept(f):
    """functools.cache, for what belongs to the CuPy that is there just now."""
    KEPT.append(functools.cache(f))
    return KEPT[-1]


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


class Later:
    """What an array holds now, on its way to the host: calling it gives that, as a NumPy array.

    The host waits only when it is called: on a GPU the copy takes its turn behind what is to be computed before it, and
    comes to pinned memory. On a CPU it is made at once.
    """

    def __init__(self, x):
        self.arrived = None
        if on_gpu(x):
            pinned = cupy().cuda.alloc_pinned_memory(x.nbytes)
            self.value = np.frombuffer(pinned, x.dtype, x.size).reshape(x.shape)
            x.get(out=self.value, blocking=False)
            self.arrived = cupy().cuda.get_current_stream().record()
        else:
            self.value = x.copy()

    def __call__(self):
        if self.arrived is not None:
            self.arrived.synchronize()
            self.arrived = None
        return self.value


def uploads():
    """upload(arrays), for another thread to call: a function that gives copies of NumPy arrays on the GPU of the thread
    that called this, as every other thread has GPU 0 at first.

    They are sent off by upload(), on a stream of their own, and so beside whatever is computed there: the stream that
    computes waits for them when the function is called, the host never does.
    """
    cuda = cupy().cuda
    device, compute, copies = cuda.Device(), cuda.get_current_stream(), cuda.Stream(non_blocking=True)

    def upload(arrays):
        with device, copies:
            copied = tuple(map(cupy().empty, (a.shape for a in arrays), (a.dtype for a in arrays)))
            copies.wait_event(compute.record())      # the memory may be that of an array which is still in use there
            for there, here in zip(copied, arrays, strict=True):
                there[...] = cupy().asarray(here)    # by way of pinned memory, which CuPy keeps until it has arrived
            arrived = copies.record()

        def take():
            cupy().cuda.get_current_stream().wait_event(arrived)
            return copied
        return take
    return upload


class Repeated:
    """A function whose work on the GPU is always the same: recorded once as a CUDA graph, and then launched as a whole.

        repeated = Repeated();  repeated(f, *arrays);  repeated(f, *other_arrays);  ...

    For small models, in whose steps Python needs longer to launch a kernel than the GPU to run it. The first call runs
    f(*arrays) as it is: kernels compile, and what lives on between calls finds its place. The second records it. From
    then on f is not called; arrays are copied to where the first ones lay, and every number that f took from Python is
    what it was: what changes must lie on the device. f may not wait for the device. Temporaries come from a pool of its
    own, so that no other array can use their memory between two launches.
    """
    all = weakref.WeakSet()

    def __init__(self):
        self.stream, self.pool = cupy().cuda.Stream(non_blocking=True), cupy().cuda.MemoryPool()
        self.arrays, self.graph = None, None
        Repeated.all.add(self)

    def __call__(self, f, *arrays):
        here = cupy().cuda.get_current_stream()
        if self.arrays is None:
            self.arrays = [a.copy() for a in arrays]
            self.stream.wait_event(here.record())
            with cupy().cuda.using_allocator(self.pool.malloc), self.stream:
                f(*self.arrays)
            here.wait_event(self.stream.record())
            return
        for mine, a in zip(self.arrays, arrays, strict=True):
            mine[...] = a
        if self.graph is None:
            with cupy().cuda.using_allocator(self.pool.malloc), self.stream:
                self.stream.begin_capture()
                try:
                    f(*self.arrays)
                except BaseException:
                    with suppress(Exception):                # it may be broken off already
                        self.stream.end_capture()
                    raise
                self.graph = self.stream.end_capture()
        self.graph.launch(here)


def step_word(step, gpu):
    """The number of a step as an array that kernels read. On a GPU it is always the same one: a graph that was captured
    in another step reads this one's."""
    if not gpu:
        return np.array([step], np.uint32)
    word = _words(cupy().cuda.runtime.getDevice())
    if word["step"] != step:
        word["array"][...], word["step"] = step, step
    return word["array"]


@kept
def _words(device):
    return {"array": cupy().zeros(1, "uint32"), "step": 0}


def nccl(size, rank, address):
    """CuPy's communicator of this rank of GPUs. Ranks find each other at address (host, port), or, if that is None, by
    MPI."""
    try:
        from cupyx.distributed import NCCLBackend
        return NCCLBackend(size, rank, *(address or ()), use_mpi=address is None)
    except (ImportError, AttributeError, NameError) as e:        # CuPy says so in ways of its own
        raise ValueError(f"NCCL: got {e!r}; expected NVIDIA's library. Hint: pip install nvidia-nccl-cu12 (or -cu13)"
                         ) from None


@kept
def multiprocessors(xp):
    """How many the current GPU has; two for NumPy, whose kernels the emulator runs."""
    runtime = None if xp is np else xp.cuda.runtime
    return 2 if runtime is None else runtime.getDeviceProperties(runtime.getDevice())["multiProcessorCount"]


def cuda_module(text, defines, arch=None):
    """CuPy's module of the kernels in a CUDA text. arch: "sm_90a" for what only this GPU's own instructions can do.

    CuPy asks for the GPU's plain architecture besides; of the two the compiler takes the more special.
    """
    options = ["--std=c++17", *(f"-D{name}={value}" for name, value in defines), *([f"-arch={arch}"] if arch else [])]
    return cupy().RawModule(code=text, options=tuple(options))


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


@contextmanager
def moment(seed=None, step=None, micro=None):
    """Set the (seed, step, micro-batch) that dropout masks are a function of, for the length of a with block.

    Outside such a block the optimiser's step() counts steps and backward() counts micro-batches, so that a plain
    loop gets fresh masks without asking; inside it, those counts are undone at the end.
    """
    before = _moment.get()
    token = _moment.set(tuple(b if v is None else int(v) for v, b in zip((seed, step, micro), before, strict=True)))
    try:
        yield
    finally:
        _moment.reset(token)


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
        pools = [cupy().get_default_memory_pool(), *(repeated.pool for repeated in Repeated.all)]
        found |= {"used": sum(pool.used_bytes() for pool in pools), "held": sum(pool.total_bytes() for pool in pools),
                  "total": cupy().cuda.runtime.memGetInfo()[1]}
    return found
