"""The CUDA kernels of fused/*.cu: compiled for the entries and sizes at hand, launched on a GPU or in the emulator.

    cuda("relu", x.dtype).forward[blocks, 256](x, n, y)            # fused/relu.cu: the kernel called forward
"""
import functools
import re
from functools import partial
from pathlib import Path

import numpy as np

from minigrad import backend

REAL = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
SIZES = {"attention": tuple({"HEAD": size} for size in (16, 32, 64, 128)),       # beside the element types
         "attention_sm90": tuple({"HEAD": size} for size in (64, 128)),
         "decode": tuple({"WARPS": 12, "ROWS": rows} for rows in (1, 8)),
         "layer_norm": tuple({"TEAM": size} for size in (32, 64, 128))}
INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.M)
FUSED = Path(__file__).parent / "fused"


def for_hopper(stem):
    """Is fused/STEM.cu written for Hopper's own instructions? Then it runs there alone, on 16-bit entries."""
    return '#include "hopper.cuh"' in (FUSED / f"{stem}.cu").read_text()


def instances(stem):
    """The names that fused/STEM.cu is compiled with, once for each dict."""
    of_any_type, first = "REAL" in text(stem + ".cu"), 1 if for_hopper(stem) else 0
    reals = list(REAL.values())[first:] if of_any_type else ["float"]
    return [{"REAL": real, **sizes} for real in reals for sizes in SIZES.get(stem, ({},))]


def has_instance(*arrays):
    """Are the arrays of one dtype, and one that CUDA kernels are compiled for?"""
    return arrays[0].dtype.name in REAL and all(a.dtype == arrays[0].dtype for a in arrays)


def in_packs(a):
    """a with rows of whole packs of 16 bytes at boundaries of 16: itself, or a copy with zeros behind each row."""
    xp, pack = backend.xp_of(a), 16 // a.itemsize
    a = xp.ascontiguousarray(a)
    if a.shape[-1] % pack == 0 and backend.address_of(a) % 16 == 0:
        return a
    wider = xp.zeros((*a.shape[:-1], -(-a.shape[-1] // pack) * pack), a.dtype)
    wider[..., :a.shape[-1]] = a
    return wider


@backend.kept
def cuda(stem, dtype, **defines):
    """The kernels of fused/STEM.cu for entries of this dtype:  cuda(stem, dtype).NAME[grid, block](*arguments)

    defines: other names whose values the text wants to know when it is compiled.
    """
    return Program(stem, (("REAL", REAL[np.dtype(dtype).name]), *defines.items()))


@backend.kept
def multiprocessors(xp):
    """How many the current GPU has; two for NumPy, whose kernels the emulator runs."""
    runtime = None if xp is np else xp.cuda.runtime
    return 2 if runtime is None else runtime.getDeviceProperties(runtime.getDevice())["multiProcessorCount"]


def shared_memory(xp):
    """Bytes of shared memory that a block may have on the current GPU, or in the emulator."""
    if xp is np:
        from minigrad.emulator import emulator
        return emulator.MOST_SHARED
    runtime = xp.cuda.runtime
    return runtime.deviceGetAttribute(runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin, runtime.getDevice())


class Program:
    def __init__(self, stem, defines):
        self.stem, self.defines = stem, defines

    def __getattr__(self, name):
        launcher = Launcher(self, name)
        setattr(self, name, launcher)
        return launcher

    @functools.cached_property
    def on_gpu(self):
        # CuPy asks for the GPU's plain architecture besides; of the two the compiler takes the more special
        arch = ["-arch=sm_90a"] if for_hopper(self.stem) else []
        options = ["--std=c++17", *(f"-D{name}={value}" for name, value in self.defines), *arch]
        return backend.cupy().RawModule(code=text(self.stem + ".cu"), options=tuple(options))

    @functools.cached_property
    def emulated(self):
        from minigrad.emulator import emulator
        name = self.stem + ".cu"
        return emulator.compile(text(name, keep=("device.cuh", "hopper.cuh")), self.defines, name)


class Launcher:
    """launcher[grid, block, shared bytes](*arguments). Python's int and float become CUDA's int and float; a grid with
    no blocks in it does nothing. The arrays decide whether a GPU or the emulator runs it.

    launcher.together[...](...): all blocks run at once, or it is an error; for blocks that wait for each other.
    """

    def __init__(self, program, name, at_once=False):
        self.program, self.name, self.at_once = program, name, at_once
        self.functions, self.shared = {}, {True: 0, False: 0}          # the most bytes that were asked for

    @functools.cached_property
    def together(self):
        return Launcher(self.program, self.name, at_once=True)

    def __getitem__(self, where):
        def start(*arguments):
            grid, block, shared = (*where, 0)[:3]
            grid = grid if isinstance(grid, tuple) else (grid,)
            if 0 in grid:
                return
            on_gpu = any(map(backend.on_gpu, arguments))
            if on_gpu not in self.functions:
                program = self.program.on_gpu if on_gpu else self.program.emulated
                self.functions[on_gpu] = program.get_function(self.name)
            launch = self.functions[on_gpu]
            if shared > self.shared[on_gpu]:            # a limit of the function, not of this launch
                launch.max_dynamic_shared_size_bytes = self.shared[on_gpu] = shared
            if self.at_once:
                launch = partial(launch.kernel, enable_cooperative_groups=True) if on_gpu else partial(
                    launch, together=True)
            given = tuple(step_word(a, on_gpu) if type(a) is Step else number(a) for a in arguments)
            launch(grid, (block,), given, shared_mem=shared)
        return start


class Step(int):
    """The number of a step among a kernel's arguments: the kernel gets an array of one uint32, see step_word()."""


def step_word(step, gpu):
    """The number of a step as an array that kernels read. On a GPU it is always the same one: a graph that was captured
    in another step reads this one's."""
    if not gpu:
        return np.array([step], np.uint32)
    word = _words(backend.cupy().cuda.runtime.getDevice())
    if word["step"] != step:
        word["array"][...], word["step"] = step, step
    return word["array"]


@backend.kept
def _words(device):
    return {"array": backend.cupy().zeros(1, "uint32"), "step": 0}


def number(a):
    """A Python number, or None for no array, as an argument of a kernel; arrays and NumPy's numbers as they are."""
    return np.uintp(0) if a is None else np.int32(a) if type(a) is int else np.float32(a) if type(a) is float else a


def text(name, keep=()):
    """The text of fused/NAME with our own #includes pasted in, but for those to keep.

    CuPy keeps compiled code under a name made from the text that it is given: it would not see an edit in a file that
    the text includes, and would run yesterday's code.
    """
    def paste(found):
        if found[1] in keep:
            return found[0]
        line = own[:found.start()].count("\n") + 2
        return f'#line 1 "{found[1]}"\n{text(found[1], keep)}\n#line {line} "{name}"'

    own = (FUSED / name).read_text()
    return INCLUDE.sub(paste, own)
