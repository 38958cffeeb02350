"""Runs CUDA kernels on NumPy arrays, without a GPU: compiled by g++, one fiber per CUDA thread, every access checked.

    module = compile(text)                       what cupy.RawModule is on a GPU
    module.get_function("forward")(grid, block, arguments)

cuemu.h is the language that a kernel sees, device.cuh and hopper.cuh the PTX instructions, cuemu.cpp the threads and
the checks, hopper.h those of what a Hopper GPU does beside them.
What would be undefined on a GPU raises a Fault that names kernel, block, thread and line: an access outside the array
it was meant for, a race between threads, a barrier that not all reach, a deadlock, a misaligned vector, a read of
shared memory that nobody has written, an argument of the wrong type, a tile or a register that the hardware still uses.

To step through a kernel:
    CXXFLAGS=-O0 gdb -d minigrad/fused --args python -m pytest tests/test_cuda_ops.py -k "float32 and layer_norm"
    (gdb) break layer_norm.cu:9
    (gdb) run

Not seen: bank conflicts, fences between blocks, anything about time; and where hopper.h or a .cuh here reads NVIDIA's
PTX ISA wrongly, a kernel that does the same.
"""
import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextvars import ContextVar
from pathlib import Path
from threading import Lock

import numpy as np

from minigrad import cache
from minigrad.backend import during
from minigrad.check import expect

HERE = Path(__file__).parent
COMPILER = os.environ.get("CXX", "g++")
CHECKS = ("-fsanitize=thread,alignment,bounds",)                          # hooks into cuemu.cpp, not into a library
FLAGS = ("-std=c++17", "-O2", "-gdwarf-4", "-march=native", "-fPIC", "-fno-exceptions", "-fno-rtti",
         "-fno-strict-aliasing", "-ffp-contract=fast", "-Wno-unknown-pragmas", *os.environ.get("CXXFLAGS", "").split())
NO_COMPILER = f"emulated kernels need a C++ compiler, and {COMPILER!r} was not found. Hint: install g++, or set CXX"
SHARED, MOST_SHARED = 48 << 10, 227 << 10          # bytes of shared memory: without asking, and at most

# The order in which warps and lanes run, and whether asynchronous copies land as soon as they are issued.
_schedule = ContextVar("schedule", default=(False, False))
SCHEDULES = [(False, False), (True, False), (False, True), (True, True)]
_one_at_a_time = Lock()                            # the runtime has one set of fibers


class Fault(RuntimeError):
    """What a kernel did that has no meaning on a GPU."""


def schedule(backwards=False, early=False):
    """A context in which warps and lanes run from the last to the first, or copies land at issue, not at the wait."""
    return during(_schedule, (backwards, early))


def available():
    return shutil.which(COMPILER) is not None


class Module:
    def __init__(self, library, path):
        self.library, self.path = library, path

    def get_function(self, name):
        expect(hasattr(self.library, name + "__run"), "emulator", f"kernel {name!r}", "one of the text's")
        return Kernel(self, name)


class Kernel:
    """Called as cupy.RawKernel is: kernel(grid, block, arguments, shared_mem=0). together: all blocks run at once."""

    def __init__(self, module, name):
        self.module, self.name, self.max_dynamic_shared_size_bytes = module, name, 0
        describe = module.library[name + "__signature"]
        describe.restype = ctypes.c_char_p
        self.signature = describe().decode().split()
        self.run = ctypes.cast(module.library[name + "__run"], ctypes.c_void_p)

    def __call__(self, grid, block, arguments, shared_mem=0, together=False):
        library, sizes = self.module.library, [tuple(t) + (1,) * (3 - len(t)) for t in (grid, block)]
        who = f"kernel {self.name}"
        expect(min(sizes[0]) > 0 and sizes[0][0] < 2 ** 31 and max(sizes[0][1:]) < 2 ** 16, who, f"grid {grid}",
               "from 1 to 2^31 - 1, 65535 and 65535 blocks")
        expect(min(sizes[1]) > 0 and np.prod(sizes[1]) <= 1024, who, f"blocks of {block}", "from 1 to 1024 threads")
        fixed = library.cuemu_fixed_shared()
        limit = min(max(self.max_dynamic_shared_size_bytes, SHARED - fixed), MOST_SHARED - fixed)
        expect(shared_mem <= limit, who, f"{shared_mem} bytes of shared memory beside {fixed} fixed ones",
               f"at most {limit}", "set max_dynamic_shared_size_bytes")
        expect(len(arguments) == len(self.signature), who, f"{len(arguments)} arguments", f"{len(self.signature)}")
        spoken_of = [a.array for a in arguments if isinstance(a, TensorMap)]
        everything, signature = (*arguments, *spoken_of), self.signature + ["*c?"] * len(spoken_of)
        given, kept = (Argument * len(everything))(), []
        for i, (a, want) in enumerate(zip(everything, signature, strict=True)):
            given[i], a = argument(a, want, f"{who}, argument {i}")
            kept.append(a)
        message, where = ctypes.create_string_buffer(1000), ctypes.c_void_p()
        three = ctypes.c_uint * 3
        with _one_at_a_time:
            failed = library.cuemu_launch(self.name.encode(), self.run, three(*sizes[0]), three(*sizes[1]),
                                          ctypes.c_size_t(shared_mem), len(given), len(arguments), given,
                                          int(together), *map(int, _schedule.get()), message, ctypes.byref(where))
        if failed:
            raise Fault(message.value.decode(errors="replace") + self.module_line(where.value))

    def module_line(self, address):
        """ (layer_norm.cu:14), if the debugging information says so."""
        tool = shutil.which("addr2line")
        if not address or not tool:
            return ""
        self.module.library.cuemu_base.restype = ctypes.c_size_t
        offset = address - 1 - self.module.library.cuemu_base()
        said = subprocess.run([tool, "-i", "-e", self.module.path, hex(offset)], capture_output=True, text=True).stdout
        ours = [line for line in said.split("\n") if line and not line.startswith(str(HERE))]
        lines = [line.split(" ")[0].rsplit("/", 1)[-1] for line in ours]
        return f" ({' in '.join(lines)})" if lines else ""


class Argument(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("bytes", ctypes.c_size_t), ("granule", ctypes.c_size_t),
                ("is_array", ctypes.c_int), ("is_written", ctypes.c_int), ("is_map", ctypes.c_int)]


def argument(a, want, who):
    """(Argument, the object that owns its memory), of the type that the kernel wants."""
    if want == "map":
        expect(isinstance(a, TensorMap), who, type(a).__name__, "a tensor map")
        return Argument(a.record.ctypes.data, a.record.nbytes, 1, 0, 0, 1), a
    pointer, kind = want.startswith("*"), want.lstrip("*c")
    if pointer and type(a) is np.uintp and a == 0:
        return Argument(None, 0, 1, 1, 0), None
    a = a if isinstance(a, np.ndarray) and a.ndim or not pointer else np.asarray(a)
    got = type_name(a.dtype) if hasattr(a, "dtype") else type(a).__name__
    if not pointer:
        expect(got == kind and np.ndim(a) == 0, who, got, f"a number of type {kind}")
        a = np.asarray(a)
        return Argument(a.ctypes.data, a.itemsize, 1, 0, 0), a
    expect(isinstance(a, np.ndarray) and kind in (got, "?"), who, got, f"an array of type {kind}")
    expect(a.flags.c_contiguous, who, f"strides {a.strides} for shape {a.shape}", "a contiguous array")
    written = not want.startswith("*c")
    expect(a.flags.writeable or not written, who, "a read-only array", "one that can be written")
    return Argument(a.ctypes.data, a.nbytes, min(a.itemsize, 4), 1, written), a


def type_name(dtype):
    """As cuemu.h's: f4, i8, u2; b2 for bfloat16."""
    return "b2" if dtype.name == "bfloat16" else "u1" if dtype.kind == "b" else f"{dtype.kind}{dtype.itemsize}"


class TensorMap:
    """cuemu.h's TensorMap of a NumPy array of any strides, with what CUDA's encoder asks for asked here too."""

    record_type = np.dtype([("data", "u8"), ("size", "u8", 5), ("stride", "u8", 4), ("box", "u4", 5), ("rank", "u4"),
                            ("entry", "u4"), ("rest", "V4")])

    def __init__(self, array, box):
        self.array, self.record = array, np.zeros(1, self.record_type)
        pad = lambda numbers, n: tuple(numbers) + (0,) * (n - len(numbers))
        self.record[0] = (array.ctypes.data, pad(array.shape[::-1], 5), pad(array.strides[-2::-1], 4),
                          pad(box[::-1], 5), array.ndim, array.itemsize, b"")


# ------------------------------------------------------------------------------------------------ compiling

KERNEL = re.compile(r"__global__\s+(?:void\s+)?(?:__launch_bounds__\([^)]*\)\s*)?(?:void\s+)?(\w+)\s*\(")


@functools.cache
def compile(text, defines=(), name="kernel.cu"):
    """The kernels of a .cu text, in which device.cuh is ours. defines: ((name, value), ...). name: for messages."""
    expect(available(), "emulator", f"no compiler called {COMPILER!r}", "one for C++", "install g++, or set CXX")
    # Without a name of its own, a function in here can have __shared__ arrays even if it is inline; not a template, of
    # whose statics g++ forgets where they belong.
    source = f'#include "{HERE}/cuemu.h"\nnamespace {{\n#line 1 "{name}"\n{text}\n}}\n'
    source += "".join(f"CUEMU_EXPORT({name})\n" for name in KERNEL.findall(text))
    source = "".join(f"#define {k} {v}\n" for k, v in defines) + source
    runtime = build((HERE / "cuemu.cpp").read_text(), FLAGS, "cuemu.o")
    kernels = build(source, FLAGS + CHECKS, "kernels.so", runtime)
    return Module(ctypes.CDLL(str(kernels)), str(kernels))


def build(source, flags, name, *objects):
    """The path of what the compiler makes of the source: kept on disk, under a name made from all that went in."""
    headers = [path.read_text() for path in sorted(HERE.glob("*.*h"))]
    ingredients = [source, *headers, machine(), *flags, *map(str, objects)]
    key = hashlib.sha256("\0".join(ingredients).encode()).hexdigest()[:24]
    path = folder() / f"{key}-{name}"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as place:           # two processes may do this at once
        text, compiled, done = Path(place, "kernel.cpp"), Path(place, "kernel.o"), Path(place, name)
        text.write_text(source)
        run([*flags, "-I", HERE, "-c", text, "-o", compiled])
        if name.endswith(".so"):                                          # no -fsanitize here: the hooks are ours
            run(["-shared", compiled, *objects, "-o", done])
        os.replace(done if done.exists() else compiled, path)
    return path


def run(arguments):
    done = subprocess.run([COMPILER, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{COMPILER} failed:\n{done.stderr}")


@functools.cache
def machine():
    """Whatever the compiler says of itself and of this processor."""
    return subprocess.run([COMPILER, "-march=native", "-dM", "-E", "-x", "c++", "/dev/null"], capture_output=True,
                          text=True, check=True).stdout


@functools.cache
def folder():
    """Where compiled kernels are kept: MINIGRAD_CACHE_DIR, or the user's cache folder."""
    return cache.folder("MINIGRAD_CACHE_DIR", "emulator")
