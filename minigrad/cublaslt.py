"""cuBLASLt by ctypes: NVIDIA's matrix products, and what they do to a product on its way to memory.

    library = nvidia()       the library on this machine;  emulated() is emulator/cublaslt.cpp, on NumPy's memory
    layout = Object(library, "MatrixLayout", REAL["e"], rows, columns, leading dimension)
    layout.set("BATCH_COUNT", 12)
    library("MatmulAlgoGetHeuristic", ...)                           raises CublasError, or Refused

Only what blas_gpu.py needs is bound. Names are those of NVIDIA's cublasLt.h, without the prefixes; numbers are from
there too, and tests/test_cublaslt.py compares them with the header where it is installed. Matrices are stored by
columns here: blas_gpu.py turns ours around. Descriptors can be made without a GPU, a handle cannot.
"""
import ctypes
import ctypes.util
import functools
import importlib.util
import weakref
from ctypes import POINTER, byref, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path

from minigrad.emulator import emulator

REAL = {"f": 0, "e": 2, "E": 14}                 # cudaDataType of float32, float16, bfloat16, by dtype.char
COMPUTE_32F, COMPUTE_32F_FAST_TF32 = 68, 77                              # cublasComputeType_t
EPILOGUE = {"DEFAULT": 1, "BIAS": 4, "GELU_AUX_BIAS": 32 | 128 | 4, "DGELU": 64 | 128, "BGRADA": 256}
REDUCTION_SCHEME_INPLACE, REDUCTION_SCHEME_COMPUTE_TYPE = 1, 2           # of products whose k is shared out

ATTRIBUTES = {                                                           # name: (number, type)
    "MatmulDesc": {"TRANSA": (3, c_int32), "TRANSB": (4, c_int32), "EPILOGUE": (7, c_uint32),
                   "BIAS_POINTER": (8, c_void_p), "EPILOGUE_AUX_POINTER": (11, c_void_p),
                   "EPILOGUE_AUX_LD": (12, c_int64)},
    "MatrixLayout": {"BATCH_COUNT": (5, c_int32), "STRIDED_BATCH_OFFSET": (6, c_int64)},
    "MatmulPreference": {"MAX_WORKSPACE_BYTES": (1, c_uint64), "REDUCTION_SCHEME_MASK": (3, c_uint32),
                         "MIN_ALIGNMENT_A_BYTES": (5, c_uint32), "MIN_ALIGNMENT_B_BYTES": (6, c_uint32),
                         "MIN_ALIGNMENT_C_BYTES": (7, c_uint32), "MIN_ALIGNMENT_D_BYTES": (8, c_uint32)},
}
STATUS = {1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH", 11: "MAPPING_ERROR",
          13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED", 16: "LICENSE_ERROR"}
HINT = {1: "is there a GPU, and a driver that knows this version of CUDA?", 3: "the GPU's memory is full",
        13: "an earlier kernel may have failed: run again with CUDA_LAUNCH_BLOCKING=1"}


class Algo(ctypes.Structure):
    """How a product is computed. May be kept and used again, by the same version on the same GPU."""
    _fields_ = [("data", c_uint64 * 8)]


class HeuristicResult(ctypes.Structure):
    _fields_ = [("algo", Algo), ("workspaceSize", c_size_t), ("state", c_int), ("wavesCount", c_float),
                ("reserved", c_int * 4)]


LAYOUTS = (c_void_p,) * 4                                                # of A, B, C and D
FUNCTIONS = {
    "Create": (POINTER(c_void_p),),
    "MatmulDescCreate": (POINTER(c_void_p), c_int, c_int),
    "MatrixLayoutCreate": (POINTER(c_void_p), c_int, c_uint64, c_uint64, c_int64),
    "MatmulPreferenceCreate": (POINTER(c_void_p),),
    **{kind + "SetAttribute": (c_void_p, c_int, c_void_p, c_size_t) for kind in ATTRIBUTES},
    **{kind + "Destroy": (c_void_p,) for kind in ATTRIBUTES},
    "MatmulAlgoGetHeuristic": (c_void_p, c_void_p, *LAYOUTS, c_void_p, c_int, POINTER(HeuristicResult), POINTER(c_int)),
    "MatmulAlgoCheck": (c_void_p, c_void_p, *LAYOUTS, POINTER(Algo), POINTER(HeuristicResult)),
    # handle, description, alpha, A, layout, B, layout, beta, C, layout, D, layout, algorithm, workspace, bytes, stream
    "Matmul": (c_void_p,) * 14 + (c_size_t, c_void_p),
}


class CublasError(RuntimeError):
    pass


class Refused(CublasError):
    """The library has no such product, or the arguments contradict each other: it does not say which."""


class Library:
    """library(name, *arguments) calls cublasLtNAME, and raises what it answers unless that is success."""

    def __init__(self, path):
        self.path, dll = str(path), ctypes.CDLL(str(path))
        self.functions = {name: getattr(dll, "cublasLt" + name) for name in FUNCTIONS}
        for name, types in FUNCTIONS.items():
            self.functions[name].argtypes, self.functions[name].restype = types, c_int
        dll.cublasLtGetVersion.restype = c_size_t
        self.version = dll.cublasLtGetVersion()
        self.reason = getattr(dll, "cublasLtEmulatorReason", None)       # NVIDIA's keeps it to itself
        if self.reason:
            self.reason.restype = ctypes.c_char_p

    def __call__(self, name, *arguments):
        if status := self.functions[name](*arguments):
            why = self.reason().decode() if self.reason else HINT.get(status)
            raise (Refused if status in (7, 15) else CublasError)(
                f"cublasLt{name}: {STATUS.get(status, status)}" + (f". Hint: {why}" if why else ""))


class Object:
    """A MatmulDesc, MatrixLayout or MatmulPreference of the library's. handle: what its functions take."""

    def __init__(self, library, kind, *arguments):
        self.library, self.kind, handle = library, kind, c_void_p()
        library(kind + "Create", byref(handle), *arguments)
        self.handle = handle.value
        weakref.finalize(self, library.functions[kind + "Destroy"], self.handle)

    def set(self, attribute, value):
        number, ctype = ATTRIBUTES[self.kind][attribute]
        value = ctype(value)
        self.library(self.kind + "SetAttribute", self.handle, number, byref(value), ctypes.sizeof(value))


@functools.cache
def nvidia():
    """NVIDIA's library."""
    path = find()
    if path is None:
        raise CublasError('cuBLASLt was not found. Hint: pip install "cupy-cuda12x[ctk]" (CUDA 12) or '
                          '"cupy-cuda13x[ctk]" (CUDA 13)')
    return Library(path)


@functools.cache
def emulated():
    """The emulator's library: the same functions, on the memory of NumPy arrays, compiled at first use."""
    if not emulator.available():
        raise CublasError(emulator.NO_COMPILER)
    source = (emulator.HERE / "cublaslt.cpp").read_text()
    return Library(emulator.build(source, (*emulator.FLAGS, "-O3"), "cublaslt.so"))


def find():
    """The path (or name) of cuBLASLt: as CuPy would find it, else in NVIDIA's wheels, else where ldconfig knows it."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # comes with CuPy
        return load_nvidia_dynamic_lib("cublasLt").abs_path
    except (ImportError, RuntimeError):                                  # its DynamicLibNotFoundError is one of these
        pass
    wheels = importlib.util.find_spec("nvidia")
    for place in map(Path, wheels.submodule_search_locations if wheels else ()):
        if found := sorted(place.glob("*/lib/libcublasLt.so.*")):
            return str(found[-1])
    return ctypes.util.find_library("cublasLt")
