"""Matrix products on the GPU: out = alpha a b + beta out (+ bias), and what else can happen before out is written.

By cuBLASLt, for float32, float16 and bfloat16, with sums in float32 always. float32 keeps all its digits
unless MINIGRAD_TF32=1 lets tensor cores round its factors to ten bits after the point. float64 and integers are for the
references.

A kind of product (shapes, leading dimensions, dtypes, alignment, epilogue) has one Plan. The first time that a large
one runs on a GPU the library's best guesses are timed, and the fastest one's 64 bytes are kept on disk, under the names
of GPU and library: a process that finds them there gets the same bits as the one before, and of several that time them
at once the first decides for all. Nothing is timed while a CUDA
graph is captured, so a step should have run before. NumPy arrays are multiplied by the emulator's cuBLASLt: the same
descriptors, no times.

Ours are rows, cuBLASLt's are columns: the same memory read by columns is the transpose, and out^T = b^T a^T. So its A
is our b, its B our a, its m our N; the bias goes along its m, and BGRADA sums A over k: for us, the columns of b.
"""
import contextlib
import functools
import json
import os
import re
import tempfile
import threading
from ctypes import addressof, byref, c_float, c_int, c_void_p
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigrad import cache, cublaslt
from minigrad.backend import address_of, kept, wide, xp_of
from minigrad.check import expect
from minigrad.cublaslt import Algo, CublasError, HeuristicResult, Object, Refused

TF32 = os.environ.get("MINIGRAD_TF32", "0")
expect(TF32 in ("0", "1"), "MINIGRAD_TF32", repr(TF32), "0 or 1")
COMPUTE = dict.fromkeys(cublaslt.REAL, cublaslt.COMPUTE_32F)
if TF32 == "1":
    COMPUTE["f"] = cublaslt.COMPUTE_32F_FAST_TF32
WORKSPACE = 32 << 20           # bytes, for each stream: what NVIDIA advises for Hopper
GUESSES = 24                   # algorithms that are timed
WORTH = 1 << 30                # operations of a product for which it is done: less is over in a few microseconds
PLANS = 2048                   # that are kept: the products of generation have another shape for every token
ALIGNED = 16                   # bytes: no load is longer


def multiplies(*arrays):
    """Can these be multiplied here? They are of one dtype, and one that is not for the references."""
    return arrays[0].dtype.char in cublaslt.REAL and all(a.dtype == arrays[0].dtype for a in arrays)


def gemm(a, b, out=None, beta=0.0, alpha=1.0, bias=None, gelu_of=None, slope_at=None, totals=None):
    """alpha a b + beta out + bias, in out, which is made (with a's dtype) if it is not given. Returns out.

    a (M, K) and b (K, N) of one dtype may be views; what has no unit stride is copied. out (M, N), of their dtype or
    float32, has contiguous rows; bias (N,), of out's dtype, is for beta 0. One of these may be asked for, for alpha 1,
    and raises Refused where the library has no such product:
    gelu_of (M, N): receives a b + bias, and out the GELU of it (tanh form)
    slope_at (M, N): out = a b times the derivative of GELU there
    totals (N,): receives the sums of b's columns. It is of out's dtype
    """
    (M, K), N = a.shape, b.shape[1]
    assert b.shape[0] == K and multiplies(a, b), (a.shape, b.shape, a.dtype, b.dtype)
    xp = xp_of(a)
    if out is None:
        out, beta = xp.empty((M, N), a.dtype), 0.0
    assert out.shape == (M, N) and (bias is None or not beta), (out.shape, (M, N), beta)
    if 0 in (M, N, K):
        _without_products(b, out, beta, bias, gelu_of, slope_at, totals)
        return out
    assert N == 1 or out.strides[1] == out.itemsize, out.strides
    epilogue, vector, matrix = "DEFAULT", None, None
    if slope_at is not None:
        epilogue, matrix = "DGELU", slope_at
    elif totals is not None:
        epilogue, vector = "BGRADA", totals
    elif bias is not None:
        epilogue, vector = "BIAS", xp.ascontiguousarray(bias)
        if address_of(vector) % ALIGNED:
            vector = vector.copy()
        if gelu_of is not None:
            epilogue, matrix = "GELU_AUX_BIAS", gelu_of
    try:
        _multiply(xp, a, b, out, alpha, beta, epilogue, vector, matrix)
    except Refused:
        if epilogue != "BIAS":
            raise
        out[...] = bias
        _multiply(xp, a, b, out, alpha, 1.0)
    return out


def batch(a, b, out):
    """out[i] = a[i] b[i] for stacks of matrices of one dtype (n, M, K), (n, K, N), (n, M, N)."""
    if 0 in out.shape:
        return
    if a.shape[-1] == 0:
        out[...] = 0
    elif out.strides[-1] == out.itemsize or out.shape[-1] == 1:
        _multiply(xp_of(a), a, b, out, 1.0, 0.0)
    else:
        made = xp_of(a).empty(out.shape, out.dtype)
        batch(a, b, made)
        out[...] = made


def _without_products(b, out, beta, bias, gelu_of, slope_at, totals):
    """gemm where one of the sizes is 0: sums over nothing."""
    if totals is not None:
        totals[...] = wide(b).sum(0)
    if out.size:                                                         # K is 0
        assert gelu_of is None and slope_at is None, "a layer with no inputs"
        if not beta:
            out[...] = 0
        if bias is not None:
            out += bias


class Stored(NamedTuple):
    """How the matrices of a stack lie: all counted in entries but for alignment, in bytes."""
    by_columns: bool
    ld: int                    # from one row to the next, or from one column
    stride: int                # from one matrix to the next
    alignment: int


class Kind(NamedTuple):
    """What products have in common that one Plan can compute."""
    M: int
    N: int
    K: int
    stack: int
    dtype: str                 # dtype.char
    out_dtype: str
    compute: int
    a: Stored
    b: Stored
    out: Stored
    adds: bool                 # is beta not 0?
    epilogue: str
    matrix_ld: int             # of the epilogue's matrix

    def operations(self):
        return 2 * self.M * self.N * self.K * self.stack


def _multiply(xp, a, b, out, alpha, beta, epilogue="DEFAULT", vector=None, matrix=None):
    (M, K), N, stack = a.shape[-2:], b.shape[-1], out.shape[0] if out.ndim == 3 else 1
    (a, at_a, stored_a), (b, at_b, stored_b), (same, at, stored_out) = map(_stored, (a, b, out))
    assert same is out, out.strides
    dtype = a.dtype.char
    kind = Kind(M, N, K, stack, dtype, out.dtype.char, COMPUTE[dtype], stored_a, stored_b, stored_out, beta != 0,
                epilogue, 0 if matrix is None else matrix.strides[0] // matrix.itemsize)
    here(xp).plan(kind)(at_a, at_b, at, alpha, beta, None if vector is None else address_of(vector),
                        None if matrix is None else address_of(matrix))


def _stored(x):
    """(x or a copy of it, the address of that, how it lies)"""
    (rows, columns), (down, across) = x.shape[-2:], (s // x.itemsize for s in x.strides[-2:])
    stride = x.strides[0] // x.itemsize if x.ndim == 3 and len(x) > 1 else 0
    at = address_of(x)
    alignment = at & -at if at % ALIGNED else ALIGNED
    if stride >= 0:
        if (across == 1 or columns == 1) and (rows == 1 or down >= columns):
            return x, at, Stored(False, columns if rows == 1 else down, stride, alignment)
        if (down == 1 or rows == 1) and (columns == 1 or across >= rows):
            return x, at, Stored(True, rows if columns == 1 else across, stride, alignment)
    return _stored(xp_of(x).ascontiguousarray(x))


@functools.lru_cache(64)
def _number(value):
    """A float where the library can read it."""
    return c_float(value)


# ------------------------------------------------------------------------------------------------ plans

def here(xp):
    """The Context of NumPy's emulator, or of the current GPU."""
    return context(xp, 0 if xp is np else xp.cuda.runtime.getDevice())


@kept
def context(xp, device):
    return Context(xp)


class Context:
    """A device: the library and a handle for it, a workspace for each stream, plans, and what was found the fastest."""

    def __init__(self, xp):
        self.xp, self.plans, self.workspaces, self.lock = xp, {}, {}, threading.RLock()
        self.library = cublaslt.emulated() if xp is np else cublaslt.nvidia()
        handle = c_void_p()
        self.library("Create", byref(handle))
        self.handle, self.fastest = handle.value, Fastest(None)
        if xp is not np:
            name = xp.cuda.runtime.getDeviceProperties(xp.cuda.runtime.getDevice())["name"].decode()
            file = re.sub(r"\W+", "-", f"{name} {self.library.version}") + ".json"
            self.fastest = Fastest(cache.folder("MINIGRAD_CACHE_DIR", "cublaslt") / file)

    def plan(self, kind):
        if kind not in self.plans:
            if len(self.plans) == PLANS:
                del self.plans[next(iter(self.plans))]     # the oldest
            self.plans[kind] = Plan(self, kind)
        return self.plans[kind]

    def stream(self):
        """The address of the current stream."""
        return 0 if self.xp is np else self.xp.cuda.get_current_stream().ptr

    def workspace(self, stream):
        """The address of WORKSPACE bytes that only this stream uses."""
        if stream not in self.workspaces:
            memory = self.xp.empty(WORKSPACE + 256, "uint8")
            self.workspaces[stream] = memory, address_of(memory) + -address_of(memory) % 256
        return self.workspaces[stream][1]

    def times(self):
        """Can it be measured here and now how long something takes?"""
        return self.xp is not np and not self.xp.cuda.get_current_stream().is_capturing()

    def milliseconds(self, run, runs=5):
        """How long it takes to run once; infinite where the library cannot."""
        try:
            run()                                          # the first time may compile, or load
            start, end = (self.xp.cuda.Event() for _ in range(2))
            start.record()
            for _ in range(runs):
                run()
            end.record()
            end.synchronize()
            return self.xp.cuda.get_elapsed_time(start, end) / runs
        except CublasError:
            return float("inf")

    def quickest(self, name, ways):
        """The key of the quickest of ways {key: function}, under this name from now on; None if all of them fail."""
        took = {key: self.milliseconds(run) for key, run in ways.items()}
        key = min(took, key=took.get)
        if took[key] == float("inf"):
            return None
        return self.fastest.put(name, key)

    def by_time(self, name, ways, arguments=(), trial=None):
        chosen = self.fastest.get(name)
        if chosen not in ways and self.times():
            tried = trial() if trial else arguments
            chosen = self.quickest(name, {way: functools.partial(run, *tried) for way, run in ways.items()})
        if chosen in ways:
            return ways[chosen](*arguments)
        for run in list(ways.values())[:-1]:
            with contextlib.suppress(Refused):
                return run(*arguments)
        return list(ways.values())[-1](*arguments)


def by_time(like, name, ways, arguments=(), trial=None):
    """What the fastest of the functions ways {name: function} returns for the arguments, on the device of the array
    like; the first that is not refused, where there is no time to tell. name is the decision's.

    trial() gives the arguments with which they are timed, where a function would change its own if it ran often.
    """
    return here(xp_of(like)).by_time(name, ways, arguments, trial)


class Fastest:
    """Names of decisions and what was decided, in a file if there is a path for one."""

    def __init__(self, path):
        self.path = path
        self.known = self.read()

    def read(self):
        try:
            return dict(json.loads(Path(self.path).read_text())) if self.path else {}
        except (OSError, ValueError, TypeError):           # not there, or not whole: decided again
            return {}

    def get(self, name):
        return self.known.get(str(name))

    def put(self, name, value):
        """Decide, unless another process has since this one looked. Returns what was decided."""
        name, seen = str(name), self.known.get(str(name))
        if not self.path:
            self.known[name] = value
            return value
        with contextlib.suppress(OSError), cache.one_at_a_time(Path(self.path).parent):
            theirs = self.read()
            self.known |= theirs if theirs.get(name, seen) != seen else {**theirs, name: value}
            with tempfile.TemporaryDirectory(dir=Path(self.path).parent) as place:
                whole = Path(place, "whole.json")
                whole.write_text(json.dumps(self.known, indent=0))
                os.replace(whole, self.path)
        if self.known.get(name) == seen:                   # a full disk: found again next time
            self.known[name] = value
        return self.known[name]


class Plan:
    """One kind of product: descriptors, and an algorithm once it has run."""

    def __init__(self, here, kind):
        self.here, self.kind, self.algorithm, library = here, kind, None, here.library
        k, real = kind, cublaslt.REAL
        self.description = Object(library, "MatmulDesc", k.compute, real["f"])
        self.description.set("TRANSA", int(k.b.by_columns))
        self.description.set("TRANSB", int(k.a.by_columns))
        self.description.set("EPILOGUE", cublaslt.EPILOGUE[k.epilogue])
        if k.matrix_ld:
            self.description.set("EPILOGUE_AUX_LD", k.matrix_ld)
        self.layouts = [Object(library, "MatrixLayout", real[dtype], *shape[::-1 if s.by_columns else 1], s.ld)
                        for dtype, shape, s in ((k.dtype, (k.N, k.K), k.b), (k.dtype, (k.K, k.M), k.a),
                                                (k.out_dtype, (k.N, k.M), k.out))]
        for layout, stored in zip(self.layouts, (k.b, k.a, k.out), strict=True):
            layout.set("BATCH_COUNT", k.stack)
            layout.set("STRIDED_BATCH_OFFSET", stored.stride)
        self.preference = Object(library, "MatmulPreference")
        self.preference.set("MAX_WORKSPACE_BYTES", WORKSPACE)
        # Parts of a sum may meet in float32 only: in out itself if it is of that dtype.
        in_place = cublaslt.REDUCTION_SCHEME_INPLACE * (k.out_dtype == "f")
        self.preference.set("REDUCTION_SCHEME_MASK", cublaslt.REDUCTION_SCHEME_COMPUTE_TYPE | in_place)
        for name, stored in zip("ABCD", (k.b, k.a, k.out, k.out), strict=True):
            self.preference.set(f"MIN_ALIGNMENT_{name}_BYTES", stored.alignment)
        self.pointers = None, None

    def __call__(self, a, b, out, alpha, beta, vector, matrix):
        """All arrays by their addresses. The epilogue's belong to the description, so one thread at a time."""
        with self.here.lock:
            self.point(vector, matrix)
            self.launch(a, b, out, alpha, beta, self.algorithm or self.search(a, b, out, alpha, beta))

    def point(self, vector, matrix):
        if (vector, matrix) != self.pointers:
            if vector is not None:
                self.description.set("BIAS_POINTER", vector)
            if matrix is not None:
                self.description.set("EPILOGUE_AUX_POINTER", matrix)
            self.pointers = vector, matrix

    def launch(self, a, b, out, alpha, beta, algorithm):
        (A, B, C), stream = self.layouts, self.here.stream()
        self.here.library("Matmul", self.here.handle, self.description.handle, addressof(_number(alpha)), b, A.handle,
                          a, B.handle, addressof(_number(beta)), out, C.handle, out, C.handle, addressof(algorithm),
                          self.here.workspace(stream), WORKSPACE, stream)

    def problem(self):
        """What the library wants to know of it."""
        A, B, C = (layout.handle for layout in self.layouts)
        return self.here.handle, self.description.handle, A, B, C, C

    def guesses(self):
        """Algorithms, what the library thinks the fastest one first."""
        results, found = (HeuristicResult * GUESSES)(), c_int()
        self.here.library("MatmulAlgoGetHeuristic", *self.problem(), self.preference.handle, GUESSES, results,
                          byref(found))
        algorithms = [r.algo for r in results[:found.value] if r.state == 0]
        if not algorithms:
            raise Refused(f"cuBLASLt knows no algorithm for {self.kind}")
        return algorithms

    def search(self, a, b, out, alpha, beta):
        """The fastest algorithm, from the file or by running each; the library's first guess where that does not repay,
        or cannot be done."""
        algorithm = self.remembered()
        if algorithm is None:
            first, *others = self.guesses()
            if self.kind.operations() >= WORTH and self.here.times():
                if self.kind.adds:                         # not to out: once is right
                    place = self.scratch()
                    out = address_of(place)
                self.here.quickest(self.kind, {
                    bytes(guess).hex(): functools.partial(self.launch, a, b, out, alpha, beta, guess)
                    for guess in (first, *others)})
            algorithm = self.remembered() or first
        self.algorithm = algorithm
        return algorithm

    def scratch(self):
        """Memory in which out would have room, where no number is extraordinary."""
        k = self.kind
        return self.here.xp.zeros((k.stack - 1) * k.out.stride + k.M * k.out.ld, "float32")

    def remembered(self):
        """The algorithm in the file, if there is one that the library still accepts."""
        with contextlib.suppress(CublasError, ValueError, TypeError):
            algorithm = Algo.from_buffer_copy(bytes.fromhex(self.here.fastest.get(self.kind)))
            self.here.library("MatmulAlgoCheck", *self.problem(), byref(algorithm), byref(HeuristicResult()))
            return algorithm
