"""Products on the GPU, by the emulator's cuBLASLt: what they compute, what is refused, and how an algorithm is chosen.

Where NVIDIA's header or library is installed, numbers and structures are compared with them; neither needs a GPU.
"""
import ctypes
import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ops import close

from minigrad import Tensor, backend, blas_gpu, cublaslt, using
from minigrad.backend import dtype_of
from minigrad.cublaslt import CublasError, Object, Refused
from minigrad.emulator import emulator, fake_cupy
from minigrad.fused.gelu import gelu
from minigrad.fused.mlp import mlp

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
TOL = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}                    # relative to the largest entry
every_dtype = pytest.mark.parametrize("dtype", TOL)


def drawn(rng, shape, dtype):
    return rng.uniform(-1, 1, shape).astype(dtype_of(dtype))


def aligned(shape, dtype, off=0):
    """Zeros that begin off entries after a multiple of 64 bytes."""
    dtype = dtype_of(dtype)
    memory = np.zeros(int(np.prod(shape)) * dtype.itemsize + 128, "u1")
    start = -memory.ctypes.data % 64 + off * dtype.itemsize
    return memory[start:start + int(np.prod(shape)) * dtype.itemsize].view(dtype).reshape(shape)


def laid(rng, rows, columns, dtype, how, gap):
    """A matrix of random entries: by rows, by columns, backwards, every second entry; gap entries between its rows."""
    if how == "columns":
        return laid(rng, columns, rows, dtype, "rows", gap).T
    x = drawn(rng, (rows, columns + gap if how != "strided" else 2 * columns), dtype)
    return {"rows": x[:, gap:], "backwards": x[::-1, :columns], "strided": x[:, ::2]}[how]


# ------------------------------------------------------------------------------------------------ it computes

SIZES, LAID = st.integers(1, 20), st.sampled_from(["rows", "columns", "backwards", "strided"])


@settings(deadline=None, max_examples=150)
@given(M=SIZES, N=SIZES, K=SIZES, dtype=st.sampled_from(list(TOL)), how_a=LAID, how_b=LAID, gap=st.integers(0, 8),
       wide_out=st.booleans(), alpha=st.sampled_from([1.0, 0.5]), what=st.sampled_from(["", "beta", "bias"]),
       seed=st.integers(0, 9))
def test_products(M, N, K, dtype, how_a, how_b, gap, wide_out, alpha, what, seed):
    rng = np.random.default_rng(seed)
    a, b = laid(rng, M, K, dtype, how_a, gap), laid(rng, K, N, dtype, how_b, gap)
    around = drawn(rng, (M, N + 2 * gap), "float32" if wide_out else dtype)
    out, before = around[:, gap:gap + N], around.copy()
    bias = drawn(rng, N, out.dtype.name)[::-1] if what == "bias" else None
    want = alpha * (a.astype("f8") @ b.astype("f8")) + (out.astype("f8") if what == "beta" else 0)
    want = want + (0 if bias is None else bias.astype("f8"))
    got = blas_gpu.gemm(a, b, out, float(what == "beta"), alpha, bias)
    assert got is out
    close([got], [want], TOL[out.dtype.name], "gemm", dtypes=False)
    before[:, gap:gap + N] = out
    np.testing.assert_array_equal(around, before)                        # nothing was written beside it


@pytest.fixture(params=["emulated", "stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def put(request):
    """Where products are taken: NumPy's arrays as they are, or copies on the GPU or on what stands in for one."""
    if request.param == "emulated":
        yield lambda a: a
    elif request.param == "stand-in":
        with fake_cupy.installed() as cp:
            yield cp.asarray
    elif backend.cupy() is None:
        pytest.skip(backend.NO_GPU)
    else:
        yield backend.cupy().asarray


def gelu_after(a, b, bias, other):
    u = a @ b + bias
    return gelu.reference(u)[0], u


def slope_after(a, b, bias, other):
    return gelu.reference_backward(a @ b, other, "tanh")


EPILOGUES = {                 # name: (arguments of gemm by name, what out and the last of them shall be, in float64)
    "bias": (("bias",), lambda a, b, bias, other: (a @ b + bias,)),
    "gelu": (("bias", "gelu_of"), gelu_after),
    "slope": (("slope_at",), slope_after),
    "totals": (("out", "totals"), lambda a, b, bias, other: (a @ b, b.sum(0))),
}


@every_dtype
@pytest.mark.parametrize("name", EPILOGUES)
@pytest.mark.parametrize("M, N, K", [(24, 16, 40), (128, 256, 64)])
def test_what_happens_before_a_product_is_written(name, dtype, M, N, K, put):
    rng, (arguments, definition) = np.random.default_rng(0), EPILOGUES[name]
    a, b, bias, other = (drawn(rng, shape, dtype) for shape in ((M, K), (K, N), (N,), (M, N)))
    given = dict(bias=bias, slope_at=other, gelu_of=np.zeros((M, N), a.dtype), out=np.zeros((M, N), "f"),
                 totals=np.zeros(N, "f"))
    given = {k: put(given[k]) for k in arguments}
    want = definition(*(x.astype("f8") for x in (a, b, bias, other)))
    try:
        got = [blas_gpu.gemm(put(a), put(b), **given), given[arguments[-1]]][:len(want)]
    except Refused:
        if backend.on_gpu(given[arguments[0]]):
            pytest.skip("this version of cuBLASLt has no such product: kernels take over")
        raise
    close(got, want, TOL["float32" if "out" in given else dtype], name, dtypes=False)


@every_dtype
@pytest.mark.parametrize("shared", ["", "a", "b"])
def test_stacks(dtype, shared):
    rng = np.random.default_rng(0)
    a, b = drawn(rng, (3, 5, 4), dtype), drawn(rng, (3, 6, 4), dtype).swapaxes(1, 2)
    a = np.broadcast_to(a[:1], a.shape) if shared == "a" else a
    b = np.broadcast_to(b[:1], b.shape) if shared == "b" else b
    out = np.zeros((3, 5, 6), dtype_of(dtype))
    blas_gpu.batch(a, b, out)
    want = a.astype("f8") @ b.astype("f8")
    close([out], [want], TOL[dtype], "batch", dtypes=False)
    turned = np.zeros((3, 6, 5), dtype_of(dtype)).swapaxes(1, 2)         # its rows are not contiguous
    blas_gpu.batch(a, b, turned)
    np.testing.assert_array_equal(turned, out)


@every_dtype
def test_a_bias_that_the_library_refuses_is_there_before(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    a, b, bias = drawn(rng, (5, 4), dtype), drawn(rng, (4, 3), dtype), drawn(rng, 3, dtype)
    monkeypatch.setattr(blas_gpu, "context", functools.cache(blas_gpu.context.__wrapped__))
    monkeypatch.setitem(cublaslt.EPILOGUE, "BIAS", 99)
    want = 0.5 * (a.astype("f8") @ b.astype("f8")) + bias.astype("f8")
    close([blas_gpu.gemm(a, b, alpha=0.5, bias=bias)], [want], TOL[dtype], "bias", dtypes=False)


def test_sums_over_nothing():
    a, b = np.ones((3, 0), "f"), np.ones((0, 4), "f")
    out, totals = np.ones((3, 4), "f"), np.ones(4, "f")
    np.testing.assert_array_equal(blas_gpu.gemm(a, b, out, 1.0), np.ones((3, 4)))
    np.testing.assert_array_equal(blas_gpu.gemm(a, b, bias=totals), np.ones((3, 4)))
    blas_gpu.gemm(a, b, out, totals=totals)
    assert not out.any() and not totals.any()
    assert blas_gpu.gemm(np.ones((0, 3), "f"), np.ones((3, 4), "f")).shape == (0, 4)
    stack = np.ones((2, 3, 4), "f")
    blas_gpu.batch(np.ones((2, 3, 0), "f"), np.ones((2, 0, 4), "f"), stack)
    assert not stack.any()


def test_infinities_in_what_is_overwritten_do_not_count():
    out = np.full((2, 2), np.nan, "f")
    np.testing.assert_array_equal(blas_gpu.gemm(np.eye(2, dtype="f"), np.eye(2, dtype="f"), out), np.eye(2))


def test_float32_keeps_its_digits_unless_asked(monkeypatch):
    a = np.full((1, 1), 1 + 2.0 ** -20, "f")
    assert blas_gpu.gemm(a, np.ones((1, 1), "f"))[0, 0] == a
    monkeypatch.setitem(blas_gpu.COMPUTE, "f", cublaslt.COMPUTE_32F_FAST_TF32)
    assert blas_gpu.gemm(a, np.ones((1, 1), "f"))[0, 0] == 1
    code = "from minigrad import blas_gpu; print(blas_gpu.COMPUTE)"
    for value, said in [("0", "{'f': 68, 'e': 68, 'E': 68}"), ("1", "{'f': 77, 'e': 68, 'E': 68}"),
                        ("yes", "ValueError: MINIGRAD_TF32: got 'yes'; expected 0 or 1")]:
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "MINIGRAD_TF32": value}, text=True,
                              cwd=Path(blas_gpu.__file__).parents[1], capture_output=True)
        assert said in done.stdout + done.stderr


# ------------------------------------------------------------------------------------------------ it refuses

@pytest.mark.parametrize("what, words", [
    (dict(bias=aligned(16, "float16", 1)[:8]), None),                    # copied to where it is aligned
    (dict(gelu_of=aligned((8, 8), "float16", 1), bias=np.zeros(8, "f2")), "argument is not aligned"),
    (dict(gelu_of=aligned((8, 12), "float16")[:, :8], bias=np.zeros(8, "f2")), "leading dimension 12 of GELU's"),
    (dict(slope_at=aligned((8, 12), "float16")[:, :8]), "leading dimension 12 of GELU's"),
    (dict(totals=aligned(8, "float16", 1)), "bias is not aligned"),
])
def test_what_has_no_epilogue_is_refused(what, words):
    a = np.ones((8, 8), "f2")
    if words is None:
        blas_gpu.gemm(a, a, **what)
    else:
        with pytest.raises(Refused, match=words):
            blas_gpu.gemm(a, a, **what)


class Problem:
    """A product of 8 x 8 matrices that is right, until something is changed."""

    def __init__(self, dtype="float16", compute=cublaslt.COMPUTE_32F):
        self.library, self.handle = cublaslt.emulated(), ctypes.c_void_p()
        self.library("Create", ctypes.byref(self.handle))
        self.description = Object(self.library, "MatmulDesc", compute, 0)
        self.layouts = [self.layout(dtype) for _ in "ABCD"]
        self.preference = Object(self.library, "MatmulPreference")
        for name in "ABCD":
            self.preference.set(f"MIN_ALIGNMENT_{name}_BYTES", 16)
        self.memory = [aligned((8, 8), dtype) for _ in "ABC"]
        self.workspace = aligned(1 << 12, "float32")
        self.pointers = [m.ctypes.data for m in self.memory]

    def layout(self, dtype="float16", rows=8, columns=8, ld=8):
        return Object(self.library, "MatrixLayout", cublaslt.REAL[dtype_of(dtype).char], rows, columns, ld)

    def run(self, algorithm=None, workspace=0, scale=True):
        results, found = (cublaslt.HeuristicResult * 9)(), ctypes.c_int()
        layouts = [layout.handle for layout in self.layouts]
        self.library("MatmulAlgoGetHeuristic", self.handle, self.description.handle, *layouts, self.preference.handle,
                     9, results, ctypes.byref(found))
        (A, B, C, D), (a, b, c) = layouts, self.pointers
        one = ctypes.addressof(ctypes.c_float(1)) if scale else None
        algorithm = algorithm or results[0].algo
        self.library("Matmul", self.handle, self.description.handle, one, a, A, b, B, one, c, C, c, D,
                     ctypes.addressof(algorithm), workspace, 0, None)
        return algorithm


def changed(change, **how):
    def run():
        problem = Problem(**how)
        problem.run(**(change(problem) or {}))
    return run


def replace(which, **how):
    def change(problem):
        for i in which:
            problem.layouts[i] = problem.layout(**how)
    return changed(change)


WRONG = {
    "ld": (replace([0], ld=4), "leading dimension 4 of columns of 8"),
    "shape": (replace([0], rows=4), "no product"),
    "no entries": (replace([0], columns=0), "without entries"),
    "C": (replace([2], ld=9), "C and D differ"),
    "types": (replace([0], dtype="float32"), "types 0 and 2"),
    "result": (replace([2, 3], dtype="bfloat16"), "result 14"),
    "compute": (changed(lambda p: None, compute=cublaslt.COMPUTE_32F_FAST_TF32), "compute type 77 for type 2"),
    "scale": (changed(lambda p: setattr(p, "description", Object(p.library, "MatmulDesc", 68, 2))), "alpha and beta"),
    "epilogue": (changed(lambda p: p.description.set("EPILOGUE", 99)), "epilogue 99"),
    "bias": (changed(lambda p: p.description.set("EPILOGUE", 4)), "no pointer to the bias"),
    "argument": (changed(lambda p: p.description.set("EPILOGUE", 192)), "no pointer to GELU"),
    "alignment": (changed(lambda p: p.pointers.__setitem__(1, p.pointers[1] + 2)), "less aligned than was promised"),
    "promise": (changed(lambda p: setattr(p, "preference", Object(p.library, "MatmulPreference"))
                        or p.pointers.__setitem__(0, p.pointers[0] + 16 * (p.pointers[0] % 32 == 0))),
                "less aligned than was promised"),
    "no pointer": (changed(lambda p: p.pointers.__setitem__(0, None)), "a pointer is missing"),
    "no alpha": (changed(lambda p: {"scale": False}), "a pointer is missing"),
    "handle": (changed(lambda p: setattr(p, "handle", ctypes.c_void_p(8))), "NOT_INITIALIZED.*no handle"),
    "workspace": (changed(lambda p: {"workspace": 8}), "workspace is not aligned"),
    "no workspace": (changed(lambda p: p.preference.set("MAX_WORKSPACE_BYTES", 1 << 30)
                             or {"algorithm": algorithms(p)[-1]}), "0 bytes of 2097152"),
    "algorithm": (changed(lambda p: {"algorithm": Problem("bfloat16").run()}), "for another product"),
    "stack": (changed(lambda p: p.layouts[0].set("BATCH_COUNT", 2)), "stacks of 2 and 1"),
    "overlap": (changed(lambda p: [layout.set("BATCH_COUNT", 2) for layout in p.layouts] and None), "overlap"),
    "attribute": (lambda: Problem().library("MatmulDescSetAttribute", Problem().description.handle, 99, None, 0), "99"),
    "bytes": (lambda: (p := Problem()).library("MatmulDescSetAttribute", p.description.handle, 7, None, 8),
              "8 bytes for an attribute of 4"),
}


def algorithms(problem):
    results, found = (cublaslt.HeuristicResult * 9)(), ctypes.c_int()
    problem.library("MatmulAlgoGetHeuristic", problem.handle, problem.description.handle,
                    *(layout.handle for layout in problem.layouts), problem.preference.handle, 9, results,
                    ctypes.byref(found))
    return [r.algo for r in results[:found.value]]


def test_the_right_problem_is_not_refused():
    Problem().run()


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_refused(name):
    run, words = WRONG[name]
    with pytest.raises(CublasError, match=words):
        run()


def test_it_does_not_call_into_another_library_of_these_names(tmp_path):
    """Where NVIDIA's is loaded for everybody, as PyTorch and CuPy do, a name that both export is NVIDIA's."""
    decoy = tmp_path / "decoy.cpp"
    decoy.write_text("".join(f'extern "C" int cublasLt{name}() {{ return 14; }}\n' for name in cublaslt.FUNCTIONS))
    subprocess.run([emulator.COMPILER, "-shared", "-fPIC", decoy, "-o", tmp_path / "decoy.so"], check=True)
    done = subprocess.run([sys.executable, "-c", "import ctypes, sys\n"
                           "ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)\n"
                           "import numpy as np\nfrom minigrad import blas_gpu\n"
                           "a = np.arange(12, dtype='f4').reshape(3, 4)\n"
                           "assert (blas_gpu.gemm(a, a.T) == a @ a.T).all()", str(tmp_path / "decoy.so")],
                          capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr


def test_split_sums_want_leave():
    problem = Problem()
    problem.preference.set("MAX_WORKSPACE_BYTES", 1 << 30)
    assert len(algorithms(problem)) == 3
    problem.preference.set("REDUCTION_SCHEME_MASK", cublaslt.REDUCTION_SCHEME_INPLACE)
    assert len(algorithms(problem)) == 2


# ------------------------------------------------------------------------------------------------ it chooses

FILE = "cublaslt/no-GPU-but-NumPy-0.json"


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """make() gives a device's context as another process would find it. Of two things timed the later is better."""
    def make():
        monkeypatch.setattr(blas_gpu, "context", functools.cache(blas_gpu.context.__wrapped__))
        context = blas_gpu.here(cp)
        context.timed = 0
        monkeypatch.setattr(cp.cuda, "get_elapsed_time", functools.partial(faster, context))
        return context

    def faster(context, start, end):
        context.timed += 1
        return 100.0 - context.timed

    monkeypatch.setenv("MINIGRAD_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(blas_gpu, "WORTH", 2 * 8 * 8 * 8)
    with fake_cupy.installed() as cp:
        yield make


@pytest.fixture
def captured():
    """A stream on which a graph is being captured."""
    with fake_cupy.Stream(non_blocking=True) as stream:
        stream.begin_capture()
        yield stream
        stream.end_capture()


def chosen(context):
    (plan,) = context.plans.values()
    return plan.algorithm.data[1]


def multiply(context, n=8):
    cp = context.xp
    np.testing.assert_array_equal(blas_gpu.gemm(cp.ones((n, 8), "f"), cp.eye(8, dtype="f")).get(), np.ones((n, 8)))


def test_the_fastest_algorithm_is_found_once_and_kept(clock, tmp_path):
    first = clock()
    for _ in range(2):
        multiply(first)
    assert chosen(first) == 2 and first.timed == 3
    second = clock()                                                     # another process
    multiply(second)
    assert chosen(second) == 2 and second.timed == 0
    for damage in (lambda kept: "{", lambda kept: "[1]", lambda kept: json.dumps(dict.fromkeys(json.loads(kept), "x")),
                   lambda kept: json.dumps(dict.fromkeys(json.loads(kept), "00" * 64)),
                   lambda kept: json.dumps(dict.fromkeys(json.loads(kept), 7))):
        path = tmp_path / FILE
        path.write_text(damage(path.read_text()))
        third = clock()
        multiply(third)
        assert chosen(third) == 2 and third.timed == 3


def test_timing_adds_nothing_to_the_result(clock):
    cp = clock().xp
    out = cp.ones((8, 8), "f")
    blas_gpu.gemm(cp.ones((8, 8), "f"), cp.eye(8, dtype="f"), out, 1.0)
    assert (out.get() == 2).all()


def test_nor_does_timing_a_layer(clock):
    context, rng = clock(), np.random.default_rng(0)
    arrays = [drawn(rng, shape, "float32") for shape in ((6, 8), (8, 16), 16, (16, 8), 8)]
    leaves = [Tensor(context.xp.asarray(a), requires_grad=True) for a in arrays]
    for times in (1, 2):
        mlp(*leaves).backward(context.xp.ones((6, 8), "f"))
        with using("reference"):
            others = [Tensor(a, requires_grad=True) for a in arrays]
            mlp(*others).backward(np.full((6, 8), times, "f"))
        close([p.grad for p in leaves], [p.grad for p in others], 1e-5, f"{times} times")
    assert sorted(v for v in context.fastest.known.values() if len(v) < 99) == ["apart"] * 4     # the last is the best


def test_nothing_is_timed_while_a_graph_is_captured(clock, captured, tmp_path):
    context = clock()
    blas_gpu.gemm(context.xp.ones((8, 8), "f"), context.xp.eye(8, dtype="f"))
    assert context.timed == 0 and chosen(context) == 0 and not (tmp_path / FILE).exists()


def test_small_products_are_not_worth_it(clock, monkeypatch):
    context = clock()
    monkeypatch.setattr(blas_gpu, "WORTH", 2 * 8 * 8 * 8 + 1)
    multiply(context)
    assert context.timed == 0 and chosen(context) == 0


def test_old_plans_go(clock, monkeypatch):
    context = clock()
    monkeypatch.setattr(blas_gpu, "PLANS", 2)
    for n in (8, 16, 24):
        multiply(context, n)
    assert [kind.M for kind in context.plans] == [16, 24]


def refused():
    raise Refused("no")


def ways(*names):
    return {name: (lambda name=name: name) for name in names} | {"never": refused}


def test_ways_are_chosen_by_time(clock, tmp_path):
    assert clock().by_time("sum", ways("a", "b")) == "b"
    assert clock().by_time("sum", ways("a", "b")) == "b"                 # from the file
    assert clock().by_time("sum", ways("a")) == "a"                      # what it names is no longer there
    seen = []
    clock().by_time("tried", {"a": seen.append, "b": seen.append}, ["result"], trial=lambda: ["trial"])
    assert seen == ["trial"] * 12 + ["result"]                           # each once before five that are timed
    with pytest.raises(Refused):
        clock().by_time("none", {"never": refused})
    assert "none" not in json.loads((tmp_path / FILE).read_text())


def test_without_time_the_first_way_is_taken(clock, captured, tmp_path):
    assert clock().by_time("other", ways("a", "b")) == "a"
    assert clock().by_time("other", {"never": refused, **ways("b")}) == "b"
    with pytest.raises(Refused):
        clock().by_time("other", {"never": refused})
    assert not (tmp_path / FILE).exists()


def test_two_processes_keep_what_both_found(tmp_path):
    one, other = (blas_gpu.Fastest(tmp_path / "gpu.json") for _ in range(2))
    one.put("a", "x")
    other.put("b", "y")
    assert blas_gpu.Fastest(tmp_path / "gpu.json").known == {"a": "x", "b": "y"}
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def test_the_first_of_two_processes_decides_for_both(tmp_path):
    """And for the next one, whose bits are those of the run before; what no longer will do is decided anew."""
    one, other = (blas_gpu.Fastest(tmp_path / "gpu.json") for _ in range(2))
    assert one.put("a", "x") == other.put("a", "y") == "x" == blas_gpu.Fastest(tmp_path / "gpu.json").get("a")
    assert other.put("a", "z") == "z" == blas_gpu.Fastest(tmp_path / "gpu.json").get("a")


def test_a_full_disk_is_no_reason_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    found = blas_gpu.Fastest(tmp_path / "gpu.json")
    found.put("a", "x")
    assert found.get("a") == "x" and not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------ NVIDIA's own

def installed(pattern):
    found = importlib.util.find_spec("nvidia")
    return next((p for place in (found.submodule_search_locations if found else ())
                 for p in sorted(Path(place).glob(pattern))), None)


HEADER, LIBRARY = installed("*/include/cublasLt.h"), installed("*/lib/libcublasLt.so.*")


@pytest.mark.skipif(HEADER is None, reason="NVIDIA's cublasLt.h is not installed (pip install nvidia-cublas-cu12)")
def test_numbers_are_those_of_the_header():
    text = HEADER.read_text() + (HEADER.parent / "cublas_api.h").read_text()

    def number(name):
        found = re.search(rf"\b{name}\s*=\s*([^,/]+?)\s*(?:,|/|\n)", text)[1].strip("() ")
        parts = [part.strip() for part in found.split("|")]                              # such as GELU | 128
        return sum(int(part, 0) if part[0].isdigit() else number(part) for part in parts)

    kinds = {"MatmulDesc": "MATMUL_DESC", "MatrixLayout": "MATRIX_LAYOUT", "MatmulPreference": "MATMUL_PREF"}
    for kind, attributes in cublaslt.ATTRIBUTES.items():
        for name, (ours, ctype) in attributes.items():
            assert ours == number(f"CUBLASLT_{kinds[kind]}_{name}"), name
            said = text[:re.search(rf"\bCUBLASLT_{kinds[kind]}_{name} =", text).start()].rsplit("/**", 1)[1]
            size = {"int32_t": 4, "uint32_t": 4, "int64_t": 8, "uint64_t": 8, "const void *": 8, "void *": 8}
            spelled = re.search(r"\* *(?:[\w ]+: )?(u?int\d\d_t|(?:const )?void \*)[,;\n]", said)
            assert ctypes.sizeof(ctype) == size[spelled[1]], name
    for name, ours in cublaslt.EPILOGUE.items():
        assert ours == number(f"CUBLASLT_EPILOGUE_{name}"), name
    for name in ("INPLACE", "COMPUTE_TYPE"):
        assert getattr(cublaslt, f"REDUCTION_SCHEME_{name}") == number(f"CUBLASLT_REDUCTION_SCHEME_{name}")
    for name in ("COMPUTE_32F", "COMPUTE_32F_FAST_TF32"):
        assert getattr(cublaslt, name) == number(f"CUBLAS_{name}")
    for ours, name in cublaslt.STATUS.items():
        assert ours == number(f"CUBLAS_STATUS_{name}")
    for name, types in cublaslt.FUNCTIONS.items():
        arguments = re.search(rf"\bcublasLt{name}\(([^;{{]*?)\);", text)[1]
        assert len(re.sub(r"//.*", "", arguments).strip(", \n").split(",")) == len(types), name


@pytest.mark.skipif(LIBRARY is None, reason="NVIDIA's cuBLASLt is not installed (pip install nvidia-cublas-cu12)")
def test_descriptors_are_accepted_by_the_library_itself():
    library = cublaslt.Library(LIBRARY)
    assert library.version >= 110000 and library.reason is None
    made = {"MatmulDesc": (cublaslt.COMPUTE_32F, 0), "MatrixLayout": (2, 8, 8, 8), "MatmulPreference": ()}
    for kind, attributes in cublaslt.ATTRIBUTES.items():
        thing = Object(library, kind, *made[kind])
        for name, (_, ctype) in attributes.items():
            thing.set(name, 4096 if ctype is ctypes.c_void_p else 8)
    description = Object(library, "MatmulDesc", *made["MatmulDesc"])
    with pytest.raises(Refused, match="cublasLtMatmulDescSetAttribute: INVALID_VALUE"):
        library("MatmulDescSetAttribute", description.handle, 7, ctypes.byref(ctypes.c_char()), 1)
