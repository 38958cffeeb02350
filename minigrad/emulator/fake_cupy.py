"""A stand-in for CuPy on a machine without a GPU: whatever runs on CuPy arrays can be rehearsed, and waits are seen.

    with fake_cupy.installed():                  # `import cupy` gives this module
        model.to("gpu")                          # arrays of a type of their own; kernels run in the emulator
        with fake_cupy.waits() as seen:
            train_step(...)
        assert not seen                          # or the calls for which a host would have waited for its device

It has only what CuPy 14 has, and is as strict: arrays of the two libraries do not mix, np.asarray of a device array is
refused, a reduction's result is an array of no dimensions and takes no `initial`, a NumPy array cannot be assigned to a
device array. Python code waits for a device where it asks for a value: float, int, bool, item, get, tolist, a boolean
mask as an index, an event or a stream that is synchronised. What is copied to the host without waiting is garbage there
until then. In a captured graph nothing runs before it is launched, host values are what they were at the capture, and
to wait, or to copy from the host, is an error. There are eight devices of which each thread has one,
0 at first; arrays and streams of another are refused, as if no device could reach the memory of another.

Everything runs at once and in the caller's thread. So an order that only streams and events could keep is not checked,
and no time means anything.
"""
import contextlib
import ctypes
import functools
import re
import sys
import threading
import traceback
import types
import weakref

import numpy as np

from minigrad import backend, cublaslt
from minigrad.check import expect
from minigrad.emulator import emulator

LACKS = frozenset("""asmatrix block bmat char clongdouble datetime64 einsum_path errstate frompyfunc fromregex geomspace
    geterr histogram_bin_edges isnat longdouble ma matrix matvec memmap nanpercentile nanquantile ndenumerate nditer
    object_ rec recarray record seterr spacing timedelta64 unstack vecdot vecmat void""".split())      # and NumPy has


class Waits:
    """Where the host had to wait for the device, as "what, file:line" in every list that is open."""
    lists = []


@contextlib.contextmanager
def waits():
    """A list that grows by one for every wait inside."""
    seen = []
    Waits.lists.append(seen)
    try:
        yield seen
    finally:
        Waits.lists.remove(seen)


def wait(what):
    if state.stream.graph is not None:
        raise CUDARuntimeError(f"{what}: operation not permitted when stream is capturing")
    if Waits.lists:
        frame = next(f for f in reversed(traceback.extract_stack()) if f.filename != __file__)
        for seen in Waits.lists:
            seen.append(f"{what}, {frame.filename}:{frame.lineno}")


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


# ------------------------------------------------------------------------------------------------ arrays

class ndarray:
    """A NumPy array that Python may not look into."""

    def __init__(self, shape, dtype=float, memptr=None, strides=None, order="C"):
        expect(memptr is None and strides is None, "fake_cupy.ndarray", "a pointer", "a shape and a dtype")
        self._a, self.device = np.empty(shape, dtype, order), Device()
        state.pool.take(self._a)

    shape = property(lambda self: self._a.shape, lambda self, shape: setattr(self._a, "shape", shape))
    dtype, ndim, size = (property(lambda self, n=n: getattr(self._a, n)) for n in ("dtype", "ndim", "size"))
    nbytes, itemsize, strides, flags = (property(lambda self, n=n: getattr(self._a, n))
                                        for n in ("nbytes", "itemsize", "strides", "flags"))
    T = property(lambda self: call(np.transpose, self))
    data = property(lambda self: types.SimpleNamespace(ptr=self._a.ctypes.data, device=self.device))
    __array_priority__ = 100
    __hash__ = None

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy "
                        "array explicitly.")

    def __array_ufunc__(self, ufunc, method, *inputs, **how):
        return call(ufunc, *inputs, **how) if method == "__call__" else NotImplemented

    def __array_function__(self, f, _types, args, how):
        return getattr(sys.modules[__name__], f.__name__)(*args, **how)

    def get(self, stream=None, order="C", out=None, blocking=True):
        if blocking:
            wait("get")
            if out is None:
                return self._a.copy(order)
            out[...] = self._a
            return out
        value, out = self._a.copy(order), np.empty_like(self._a) if out is None else out
        out[...] = -1 if self.dtype.kind in "iub" else np.nan
        (stream or state.stream).pending.append((out, value))
        return out

    def set(self, array, stream=None):
        from_host(array)
        self._a[...] = array

    def item(self, *where):
        wait("item")
        return self._a.item(*where)

    def tolist(self):
        wait("tolist")
        return self._a.tolist()

    def __float__(self):
        wait("float")
        return float(self._a)

    def __int__(self):
        wait("int")
        return int(self._a)

    def __bool__(self):
        wait("bool")
        return bool(self._a)

    def __repr__(self):
        wait("repr")
        return repr(self._a)

    def __len__(self):
        return len(self._a)

    def __iter__(self):
        return (self[i] for i in range(len(self._a)))

    def __getitem__(self, key):
        keys = unwrapped(key, index=True)
        if any(isinstance(k, np.ndarray) and k.dtype.kind == "b" for k in (keys if type(keys) is tuple else (keys,))):
            wait("a boolean mask")               # how many entries there are, only the device knows
        return call(lambda a: a[keys], self)

    def __setitem__(self, key, value):
        keys, value = unwrapped(key, index=True), unwrapped(value)
        act(lambda: self._a.__setitem__(keys, value))

    def fill(self, value):
        self[...] = value

    def astype(self, dtype, order="K", casting=None, subok=None, copy=True):
        return self if not copy and self.dtype == dtype else call(lambda a: a.astype(dtype, order), self)

    def reshape(self, *shape, order="C"):
        return call(lambda a: a.reshape(*shape, order=order), self)

    def view(self, dtype=None):
        return call(lambda a: a.view(dtype or a.dtype), self)

    def copy(self, order="C"):
        return call(lambda a: a.copy(order), self)


def wrapped(x, given=()):
    """x as device arrays. Memory that is none of the given arrays' is taken from the pool."""
    if isinstance(x, (tuple, list)):
        return type(x)(wrapped(e, given) for e in x)
    if not isinstance(x, (np.ndarray, np.generic)):
        return x
    found = object.__new__(ndarray)
    found._a = owner = np.asarray(x)
    found.device = Device()
    if fresh(found._a, given):
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        state.pool.take(owner)
    return found


def fresh(a, given):
    return not any(np.may_share_memory(a, b) for b in given if isinstance(b, np.ndarray))


def unwrapped(x, index=False):
    """The NumPy arrays inside. Of the host's arrays only an index is accepted."""
    if isinstance(x, ndarray):
        if x.device.id != state.device:
            raise CUDARuntimeError(f"an array on device {x.device.id}, used on device {state.device}")
        return x._a
    if isinstance(x, np.ndarray) and not index:
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, np.ndarray):
        from_host(x)
    return type(x)(unwrapped(e, index) for e in x) if type(x) in (tuple, list) else x


def from_host(_):
    if state.stream.graph is not None:
        raise CUDARuntimeError("the current stream is capturing, so H2D transfers are disallowed")


def call(f, *args, **how):
    """f of arrays on the device. Into a graph goes what f will do, each time, to the array that it has made now."""
    args, how = unwrapped(args), {k: unwrapped(v) for k, v in how.items()}
    out = how.get("out")
    if out is not None:
        act(lambda: f(*args, **how))
        return wrapped(out, [out])
    with np.errstate(all="ignore"):                                        # a device does not warn
        made = f(*args, **how)
    given = [a for x in args for a in (x if isinstance(x, (tuple, list)) else [x])]
    found = wrapped(made, given)
    if state.stream.graph is not None and isinstance(found, ndarray) and fresh(found._a, given):
        state.stream.graph.append(lambda: np.copyto(found._a, f(*args, **how)))
    return found


def act(do):
    """Do something to arrays, now or whenever the graph that is captured is launched."""
    if state.stream.graph is not None:
        state.stream.graph.append(do)
    else:
        with np.errstate(all="ignore"):
            do()


def _operators():
    def binary(f, swapped):
        def operator(self, other):
            if getattr(type(other), "__array_ufunc__", f) is None:         # it wants to do this itself
                return NotImplemented
            return call(f, *((other, self) if swapped else (self, other)))
        return operator

    def in_place(f):
        def operator(self, other):
            other = unwrapped(other)
            act(lambda: f(self._a, other, out=self._a))
            return self
        return operator

    for name, f in {"add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "pow": np.power,
                    "floordiv": np.floor_divide, "mod": np.remainder, "matmul": np.matmul, "and": np.bitwise_and,
                    "or": np.bitwise_or, "xor": np.bitwise_xor, "lshift": np.left_shift,
                    "rshift": np.right_shift}.items():
        setattr(ndarray, f"__{name}__", binary(f, False))
        setattr(ndarray, f"__r{name}__", binary(f, True))
        if name != "matmul":
            setattr(ndarray, f"__i{name}__", in_place(f))
    for name, f in {"lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "gt": np.greater,
                    "ge": np.greater_equal}.items():
        setattr(ndarray, f"__{name}__", binary(f, False))
    for name, f in {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}.items():
        setattr(ndarray, f"__{name}__", lambda self, f=f: call(f, self))

    def method(f, takes):
        def reduced(self, *args, **how):
            for word in how.keys() - takes:
                raise TypeError(f"{f.__name__}() got an unexpected keyword argument '{word}'")
            return call(f, self, *args, **how)
        return reduced

    some = {"axis", "out", "keepdims"}
    for name, takes in {"sum": some | {"dtype"}, "prod": some | {"dtype"}, "mean": some | {"dtype"}, "max": some,
                        "min": some, "any": some, "all": some, "argmax": some | {"dtype"}, "argmin": some | {"dtype"},
                        "var": some | {"dtype", "ddof"}, "std": some | {"dtype", "ddof"}, "cumsum": {"axis", "dtype"},
                        "cumprod": {"axis", "dtype"}, "clip": {"min", "max", "out"}, "ravel": {"order"},
                        "flatten": {"order"}, "transpose": set(), "swapaxes": set(), "squeeze": {"axis"},
                        "argsort": {"axis", "kind"}, "take": {"indices", "axis"}, "repeat": {"axis"},
                        "round": {"decimals"}, "dot": {"out"}, "diagonal": {"axis1", "axis2"}}.items():
        setattr(ndarray, name, method(getattr(np.ndarray, name), takes))


_operators()


class Function:
    """NumPy's function of this name, on device arrays."""

    def __init__(self, f):
        self.f, self.__name__ = f, f.__name__

    def __call__(self, *args, **how):
        if self.__name__ in ("nonzero", "unique", "argwhere", "flatnonzero") or self.__name__ == "where" == len(args):
            wait(self.__name__)
        if self.__name__ in ("max", "min", "sum", "amax", "amin") and how.keys() & {"initial", "where"}:
            raise TypeError(f"{self.__name__}() got an unexpected keyword argument")
        return call(self.f, *args, **how)

    def at(self, a, where, values):
        where, values = unwrapped(where, index=True), unwrapped(values)
        act(lambda: self.f.at(a._a, where, values))


def __getattr__(name):
    value = None if name in LACKS or name.startswith("_") else getattr(np, name, None)
    if value is None:
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    return Function(value) if callable(value) and not isinstance(value, type) else value


def array(x, dtype=None, copy=True, order="K", subok=False, ndmin=0):
    """On the device, from the host or from there: the host does not wait, it goes through pinned memory."""
    if isinstance(x, ndarray):
        return x if not copy and dtype in (None, x.dtype) else call(lambda a: np.array(a, dtype, order=order), x)
    if np.ndim(x):                               # a number is an argument of a kernel that fills
        from_host(x)
    return wrapped(np.array(x, dtype, order=order, ndmin=ndmin))


def asarray(x, dtype=None, order=None):
    return array(x, dtype, copy=False, order=order or "K")


def ascontiguousarray(x, dtype=None):
    if isinstance(x, ndarray) and x.flags.c_contiguous and dtype in (None, x.dtype, x.dtype.name):
        return x
    return array(x, dtype, order="C")


def asnumpy(x, stream=None, order="C", out=None, blocking=True):
    return x.get(stream, order, out, blocking) if isinstance(x, ndarray) else np.asarray(x)


def empty(shape, dtype=float, order="C"):
    return ndarray(shape, dtype, order=order)


def empty_like(x, dtype=None, order="K", subok=None, shape=None):
    return wrapped(np.empty_like(x._a, dtype, order, shape=shape))


def may_share_memory(a, b, max_work=None):
    return np.may_share_memory(unwrapped(a), unwrapped(b))


# ------------------------------------------------------------------------------------------------ the device

class Device:
    compute_capability = "80"                 # a Hopper takes tensor maps, which the driver makes
    mem_info = property(lambda self: runtime.memGetInfo())

    def __init__(self, number=None):
        self.id, self.before = state.device if number is None else number, []

    def __enter__(self):
        self.before.append(state.device)
        state.device = self.id
        return self

    def __exit__(self, *_):
        state.device = self.before.pop()

    def use(self):
        state.device = self.id

    def synchronize(self):
        for stream in Stream.all:
            stream.synchronize()


class Stream:
    """What was copied to the host without waiting arrives when somebody waits for the stream."""
    all = weakref.WeakSet()

    def __init__(self, null=False, non_blocking=False, ptds=False, priority=None):
        self.pending, self.graph, self.kept = [], None, []
        self.ptr, self.before, self.device_id = 0 if null else id(self), [], -1 if null else state.device
        Stream.all.add(self)

    def __enter__(self):
        if self.device_id not in (-1, state.device):
            raise RuntimeError(f"a stream of device {self.device_id}, used on device {state.device}")
        self.before.append(state.stream)
        state.stream = self
        return self

    def __exit__(self, *_):
        state.stream = self.before.pop()

    def use(self):
        state.stream = self
        return self

    def land(self):
        for out, value in self.pending:
            out[...] = value
        self.pending.clear()

    def synchronize(self):
        wait("Stream.synchronize")
        self.land()

    def record(self, event=None):
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event):
        pass

    def begin_capture(self, mode=None):
        expect(self.ptr, "begin_capture", "the null stream", "a stream of one's own")
        self.graph, self.kept = [], []

    def is_capturing(self):
        return self.graph is not None

    def end_capture(self):
        work, self.graph = self.graph, None
        return Graph(work, self.kept)


class Event:
    def __init__(self, block=False, disable_timing=False, interprocess=False):
        self.landing = ()

    def record(self, stream=None):
        self.landing = list((stream or state.stream).pending)

    def synchronize(self):
        wait("Event.synchronize")
        for out, value in self.landing:
            out[...] = value
        self.landing = ()

    @property
    def done(self):
        return not self.landing


class Graph:
    def __init__(self, work, kept):
        self.work, self.kept = work, kept

    def launch(self, stream=None):
        with np.errstate(all="ignore"):
            for do in self.work:
                do()

    def upload(self, stream=None):
        pass


class MemoryPool:
    def __init__(self, allocator=None):
        self.used, self.most, self.limit = 0, 0, 0

    def take(self, a):
        """Count an array until it dies; more than the limit is refused."""
        size = -(-a.nbytes // 512) * 512
        if self.limit and self.used + size > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {self.used:,} bytes, "
                                   f"limit set to: {self.limit:,} bytes).")
        if state.stream.graph is not None:       # which has the address, and the pool would not give the memory away
            state.stream.kept.append(a)
        self.used += size
        self.most = max(self.most, self.used)
        weakref.finalize(a, self.give, size)

    def give(self, size):
        self.used -= size

    def malloc(self, size):
        raise NotImplementedError("fake_cupy has no memory to point at")

    def used_bytes(self):
        return self.used

    def total_bytes(self):
        return self.most

    def free_all_blocks(self, stream=None):
        self.most = self.used

    def set_limit(self, size=None, fraction=None):
        self.limit = size or 0


@contextlib.contextmanager
def using_allocator(allocator=None):
    before = state.pool
    state.pool = allocator.__self__ if allocator else before
    try:
        yield
    finally:
        state.pool = before


class State(threading.local):
    """What each thread has of its own: the current device and stream, and the pool."""

    def __init__(self):
        self.stream, self.pool, self.device = NULL, POOL, 0


NULL, POOL = Stream(null=True), MemoryPool()
Stream.null = NULL
state = State()


def get_default_memory_pool():
    return POOL


def alloc_pinned_memory(size):
    kind = type("PinnedMemoryPointer", (ctypes.c_char * max(1, size),), {"ptr": property(ctypes.addressof)})
    return kind()


class RawModule:
    """The kernels of a text, in which our own device.cuh is the emulator's."""

    def __init__(self, *, code=None, path=None, options=(), backend="nvrtc", **_):
        expect(code is not None, "fake_cupy.RawModule", f"path {path!r}", "the text of kernels")
        defines = tuple(tuple(o[2:].split("=", 1)) for o in options if o.startswith("-D"))
        for header in emulator.HERE.glob("*.cuh"):
            code = re.sub(rf'#line 1 "{header.name}"\n.*?(?=#line )', f'#include "{header.name}"\n', code, flags=re.S)
        names = re.findall(r'^#line \d+ "(\w+\.cu)"$', code, re.M)
        self.module = emulator.compile(code, defines, names[0] if names else "kernel.cu")

    def compile(self, log_stream=None):
        pass

    def get_function(self, name):
        return Kernel(self.module.get_function(name))


class Kernel:
    """CuPy's RawKernel, and as its .kernel CuPy's Function, which alone can be told to launch all blocks at once."""

    def __init__(self, kernel):
        self.raw, self.name = kernel, kernel.name

    max_dynamic_shared_size_bytes = property(
        lambda self: self.raw.max_dynamic_shared_size_bytes,
        lambda self, size: setattr(self.raw, "max_dynamic_shared_size_bytes", size))

    def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
        self.kernel(grid, block, args, shared_mem, stream)

    def kernel(self, grid, block, args, shared_mem=0, stream=None, enable_cooperative_groups=False):
        for a in args:
            if isinstance(a, np.ndarray) and a.size != 1:
                raise TypeError(f"Unsupported type {type(a)}")
        args = [unwrapped(a, index=True) for a in args]
        act(lambda: self.raw(grid, block, args, shared_mem, enable_cooperative_groups))


class Products(cublaslt.Library):
    """The emulator's cuBLASLt. Into a graph goes a product as it was described at the capture."""

    def __call__(self, name, *arguments):
        if name != "Matmul" or state.stream.graph is None:
            return super().__call__(name, *arguments)
        copy = ctypes.CDLL(self.path).cublasLtEmulatorCopy
        copy.argtypes, copy.restype = (ctypes.c_void_p,), ctypes.c_void_p
        arguments, description = list(arguments), copy(arguments[1])
        numbers = {k: ctypes.c_float.from_buffer_copy(ctypes.c_float.from_address(arguments[k])) for k in (2, 7)}
        arguments[1] = description
        for k, value in numbers.items():                                   # alpha and beta
            arguments[k] = ctypes.addressof(value)
        act(lambda: (numbers, super(Products, self).__call__(name, *arguments)))


@functools.cache
def products():
    return Products(cublaslt.emulated().path)


def _module(name, **content):
    module = types.ModuleType(f"cupy.{name}")
    module.__dict__.update(content)
    return module


runtime = _module("cuda.runtime", getDeviceCount=lambda: 8, getDevice=lambda: state.device,
                  CUDARuntimeError=CUDARuntimeError, runtimeGetVersion=lambda: 12090, driverGetVersion=lambda: 12090,
                  memGetInfo=lambda: (POOL.limit - POOL.used if POOL.limit else 1 << 40, POOL.limit or 1 << 40),
                  cudaDevAttrMaxSharedMemoryPerBlockOptin=97, deviceGetAttribute=lambda *_: emulator.MOST_SHARED,
                  deviceSynchronize=lambda: Device().synchronize(), streamCaptureModeRelaxed=2,
                  getDeviceProperties=lambda _: {"name": b"no GPU, but NumPy", "multiProcessorCount": 3,
                                                 "totalGlobalMem": 1 << 40, "major": 9, "minor": 0})
memory = _module("cuda.memory", OutOfMemoryError=OutOfMemoryError, MemoryPool=MemoryPool)
cuda = _module("cuda", runtime=runtime, memory=memory, Stream=Stream, Event=Event, Device=Device, Graph=Graph,
               MemoryPool=MemoryPool, using_allocator=using_allocator, get_current_stream=lambda *_: state.stream,
               alloc_pinned_memory=alloc_pinned_memory, is_available=lambda: True,
               get_elapsed_time=lambda start, end: 1.0)
__version__ = "0 (no CuPy: a stand-in)"


@contextlib.contextmanager
def installed():
    """`import cupy` gives this module inside, and cuBLASLt is the emulator's; the backend asks again whether there is a
    GPU."""
    names = {"cupy": sys.modules[__name__], "cupy.cuda": cuda, "cupy.cuda.runtime": runtime, "cupy.cuda.memory": memory}
    before, library = {name: sys.modules.get(name) for name in names}, cublaslt.nvidia
    sys.modules.update(names)
    cublaslt.nvidia = products
    backend.forget()
    try:
        yield names["cupy"]
    finally:
        cublaslt.nvidia = library
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
        backend.forget()
