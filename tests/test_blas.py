"""Matrix products, on each of the three ways they can go: our own tile loop, NumPy's OpenBLAS in pieces, numpy.matmul.

Most tests multiply small whole numbers. All their sums are exact in float32, so the product must be right to the last
bit, and a number that is missing, taken twice or read from beside its matrix cannot hide in a tolerance. Whatever is
not part of a matrix is NaN here, or a number that must still be there afterwards.
"""
import ctypes
import mmap
import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import blas, gemm_cpu, openblas_cpu, pool
from minigrad.backend import dtype_of, wide_dtype
from minigrad.gemm_cpu import COLUMNS, DEPTH, LONGEST, ROWS

ROOT = Path(__file__).resolve().parents[1]
# dtypes of the inputs and of the result
KINDS = [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("float64", "float64")]
NO_TILES, NO_OPENBLAS = (lambda: mock.patch.dict(gemm_cpu.WORDS, clear=True),
                         lambda: mock.patch.object(openblas_cpu, "available", lambda: False))


@contextmanager
def neither():
    with NO_TILES(), NO_OPENBLAS():
        yield


WAYS = {"tiles": nullcontext, "OpenBLAS": NO_TILES, "NumPy": neither}
TILED = [kind for kind in KINDS if dtype_of(kind[0]).char in gemm_cpu.WORDS]
tiled = pytest.mark.parametrize("kind, kind_out", TILED)
every_way = pytest.mark.parametrize("kind, kind_out, way", [
    (*kind, way) for kind in KINDS for way in WAYS if way != "tiles" or kind in TILED])


@pytest.fixture(autouse=True)
def as_before():
    before = pool.size()
    yield
    pool.set_size(before)


# ------------------------------------------------------------------------------------------ how a matrix lies in memory

def contiguous(a):
    return a.copy()


def transposed(a):
    return np.asfortranarray(a)


def placed(a, shape, where):
    """a as a part of something larger."""
    larger = np.full(shape, np.nan, a.dtype)
    larger[where] = a
    return larger[where]


def within(a):
    return placed(a, (len(a) + 4, a.shape[1] + 4), np.s_[2:-2, 2:-2])


def within_transposed(a):
    return within(a.T).T


def every_second_row(a):
    return placed(a, (2 * len(a), a.shape[1]), np.s_[::2])


def every_second_column(a):
    return placed(a, (len(a), 2 * a.shape[1]), np.s_[:, ::2])


def upside_down(a):
    return placed(a, (len(a) + 1, a.shape[1] + 1), np.s_[:0:-1, 1:])


def one_row_many_times(a):
    return np.broadcast_to(within(a[:1]), a.shape)


def one_column_many_times(a):
    return np.broadcast_to(within(a[:, :1]), a.shape)


def off_by_a_byte(a):
    return np.frombuffer(b"-" + a.tobytes(), a.dtype, offset=1).reshape(a.shape)


LAYOUTS = [contiguous, transposed, within, within_transposed, every_second_row, every_second_column, upside_down,
           one_row_many_times, one_column_many_times, off_by_a_byte]
OF_RESULTS = [contiguous, within, every_second_row, upside_down, every_second_column, transposed]
layouts, of_results = st.sampled_from(LAYOUTS), st.sampled_from(OF_RESULTS)


def whole(rng, *shape):
    """Whole numbers from -3 to 3, as float64."""
    return rng.integers(-3, 4, shape).astype(float)


def expect_equal(out, want):
    """All of out is right, and nothing was written beside it."""
    np.testing.assert_array_equal(out, want.astype(out.dtype))
    if out.base is not None:
        out[...] = np.nan
        assert np.isnan(out.base).all()


# ------------------------------------------------------------------------------------------------------ one matrix each

def near(*edges):
    """An edge, or one or two beside it."""
    return st.sampled_from([e + d for e in edges for d in (-1, 0, 1)])


few = st.integers(0, 5)
heights, widths = few | near(ROWS, 2 * ROWS, 96), few | near(COLUMNS, 2 * COLUMNS)
depths = few | near(16, 32, 64) | near(DEPTH, 2 * DEPTH, LONGEST, 2 * LONGEST)


@every_way
@given(heights, widths, depths, layouts, layouts, of_results, st.sampled_from([1.0, -0.5]),
       st.sampled_from(["beta 0", "beta 1", "beta -0.5", "bias", "wide bias", "no out"]), st.booleans(),
       st.integers(1, 3), st.integers(0, 99))
def test_gemm(kind, kind_out, way, m, n, k, layout_a, layout_b, layout_out, alpha, what, adding, threads, seed):
    rng, dtype, dtype_out = np.random.default_rng(seed), dtype_of(kind), dtype_of(kind_out)
    a, b = layout_a(whole(rng, m, k).astype(dtype)), layout_b(whole(rng, k, n).astype(dtype))
    before, beta = (a.copy(), b.copy()), float(what[5:]) if what.startswith("beta") else 0.0
    bias = whole(rng, n).astype(wide_dtype(dtype) if what == "wide bias" else dtype) if what.endswith("bias") else None
    totals = whole(rng, n).astype(wide_dtype(dtype)) if adding else None
    sums, out = b.astype(float).sum(0) + (totals if adding else 0), layout_out(whole(rng, m, n).astype(dtype_out))
    want = alpha * (a.astype(float) @ b.astype(float)) + beta * out.astype(float)
    want += 0 if bias is None else bias.astype(float)
    if not beta:
        out[...] = np.nan                                  # what an empty slot holds does not count
    pool.set_size(threads)
    with WAYS[way]():
        if what == "no out":
            out, dtype_out = blas.gemm(a, b, alpha=alpha, totals=totals), dtype
        else:
            assert blas.gemm(a, b, out, beta, alpha, bias, totals) is out
    assert out.dtype == dtype_out
    expect_equal(out, want)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])
    if adding:
        np.testing.assert_array_equal(totals, sums)


# (M, K, N) beyond every bound: blocks of rows, panels of columns, several packings, several groups, OpenBLAS's pieces.
BEYOND = [(1000, 40, 30), (30, 40, 1000), (450, 64, 450), (193, 8, 3), (3, 8, 385), (1, 64, 900), (900, 64, 1),
          (385, 1, 385), (9, 2 * LONGEST + 3, 1100), (5, 4 * LONGEST + 3, 1100), (200, LONGEST + 1, 33)]


@every_way
@pytest.mark.parametrize("shape", BEYOND)
def test_gemm_in_pieces(kind, kind_out, way, shape):
    """Larger than every piece, in every layout that BLAS knows, on any number of threads."""
    (m, k, n), rng, dtype = shape, np.random.default_rng(0), dtype_of(kind)
    a, b, start, bias = (whole(rng, *s) for s in ((m, k), (k, n), (m, n), (n,)))
    bias, sums = bias.astype(dtype), np.zeros(n, wide_dtype(dtype))
    for threads, layout_a, layout_b in ((1, contiguous, contiguous), (2, transposed, within), (3, within, transposed)):
        pool.set_size(threads)
        x, y, out = layout_a(a.astype(dtype)), layout_b(b.astype(dtype)), within(start.astype(dtype_of(kind_out)))
        with WAYS[way]():
            expect_equal(blas.gemm(x, y, out.copy(), 1.0, 0.5), 0.5 * (a @ b) + start)
            expect_equal(blas.gemm(x, y, out, bias=bias, totals=sums), a @ b + bias.astype(float))
        np.testing.assert_array_equal(sums, threads * b.sum(0))


@tiled
@pytest.mark.parametrize("what", ["beta", "bias"])
def test_no_entry_depends_on_what_stands_around_it(kind, kind_out, what):
    """Nor on how the matrices lie in memory, nor on the threads: every bit is that of a k in blocks of fixed length."""
    m, k, n, rng, dtype = 131, 2 * LONGEST + 777, 77, np.random.default_rng(0), dtype_of(kind)
    a, b, start = (rng.standard_normal(s) for s in ((m, k), (k, n), (m, n)))
    a, b, start, bias = a.astype(dtype), b.astype(dtype), start.astype(dtype_of(kind_out)), start[0].astype(dtype)

    def product(rows, columns, layout_a=contiguous, layout_b=contiguous, threads=1):
        pool.set_size(threads)
        x, y, out = layout_a(a[rows]), layout_b(b[:, columns]), start[rows, columns].copy()
        more = (0.3, 1.7) if what == "beta" else (0.0, 1.7, bias[columns])
        return blas.gemm(x, y, out, *more)

    every = product(np.s_[:], np.s_[:])
    for rows in (np.s_[:], np.s_[5:6], np.s_[64:], np.s_[130:]):
        for columns in (np.s_[:], np.s_[3:4], np.s_[31:40], np.s_[-1:]):
            for around in ((), (transposed, transposed, 2), (within, within, 3)):
                np.testing.assert_array_equal(product(rows, columns, *around), every[rows, columns])


@every_way
@pytest.mark.parametrize("shape", [(1000, 40, 30), (30, 40, 1000), (450, 64, 450)])
def test_the_number_of_threads_changes_no_bit(kind, kind_out, way, shape):
    (m, k, n), rng, got = shape, np.random.default_rng(0), []
    a, b = (rng.standard_normal(s).astype(dtype_of(kind)) for s in ((m, k), (k, n)))
    for threads in (1, 2, 3):
        pool.set_size(threads)
        with WAYS[way]():
            got.append(blas.gemm(a, b, np.empty((m, n), dtype_of(kind_out))))
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got[0], got[2])


@every_way
@pytest.mark.parametrize("k", [1, 30, 700, 2 * LONGEST + 1])
def test_rounding(kind, kind_out, way, k):
    """Each entry is as near as its sum allows.

    K products, each rounded and added up in any order, are wrong by K u sum |a b| at most, to first order, where a
    rounding is wrong by u = eps / 2; alpha, beta and the last sum add three roundings, and the result's dtype its own.
    eps instead of u leaves room for the second order. Products of bfloat16 are exact in float32; whether the processor
    rounds after each of them or after a pair, the bound holds.
    """
    rng, dtype, dtype_out = np.random.default_rng(k), dtype_of(kind), dtype_of(kind_out)
    a, b, start = (rng.standard_normal(s) for s in ((19, k), (k, 37), (19, 37)))
    a, b, start = a.astype(dtype), b.astype(dtype), start.astype(dtype_out)
    with WAYS[way]():
        got = blas.gemm(a, b, start.copy(), 0.3, 1.7).astype(np.longdouble)
    a, b, start = (x.astype(np.longdouble) for x in (a, b, start))
    want, size = 1.7 * (a @ b) + 0.3 * start, 1.7 * (abs(a) @ abs(b)) + 0.3 * abs(start)
    eps = {"bfloat16": 2.0 ** -7, "float32": 2.0 ** -23, "float64": 2.0 ** -52}
    bound = (k + 3) * eps["float64" if kind == "float64" else "float32"] * size
    assert (abs(got - want) <= bound + eps[kind_out] / 2 * (abs(want) + bound)).all()


@every_way
@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 33, 35), (97, 513, 65)])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_infinity_and_nan_arrive_where_they_belong(kind, kind_out, way, shape):
    """And nowhere else: the last row and column stand beside zeros that only fill the tile."""
    (m, k, n), rng = shape, np.random.default_rng(0)
    a, b = whole(rng, m, k), whole(rng, k, n)
    a[-1, -1], b[-1, -1], b[k // 2, 0], a[m // 2, 0] = np.inf, -np.inf, np.inf, np.nan
    with WAYS[way]():
        got = blas.gemm(a.astype(dtype_of(kind)), b.astype(dtype_of(kind)), np.empty((m, n), dtype_of(kind_out)))
    np.testing.assert_array_equal(got.astype(float), (a[:, :, None] * b).sum(1).astype(got.dtype).astype(float))


@every_way
def test_subnormal_numbers_count(kind, kind_out, way):
    """As what they are, but as 0 in the processor's instruction for bfloat16."""
    rng, smallest = np.random.default_rng(0), {"bfloat16": -133, "float32": -149, "float64": -1074}[kind]
    a, b = whole(rng, 9, 7) * 2.0 ** smallest, whole(rng, 7, 33)
    with WAYS[way]():
        got = blas.gemm(a.astype(dtype_of(kind)), b.astype(dtype_of(kind)), np.empty((9, 33), dtype_of(kind_out)))
    right = got.astype(float) == a @ b
    assert (right | (got == 0) if kind == "bfloat16" and way == "tiles" else right).all()


def test_gemm_refuses_what_does_not_fit():
    a, b = np.ones((2, 3)), np.ones((3, 4))
    for wrong in ((b, a), (a, b.astype("f4")), (a, b, np.ones((2, 4), "f4")), (a, b, np.ones((4, 2))),
                  (a, b, np.ones((2, 4)), 1.0, 1.0, np.ones(4))):
        with pytest.raises(AssertionError):
            blas.gemm(*wrong)


# -------------------------------------------------------------------------------------------------------- many matrices

def each_transposed(a):
    return a.swapaxes(1, 2).copy().swapaxes(1, 2)


def beside_each_other(a):
    """As attention's heads lie: (rows, which matrix, columns)."""
    n, m, k = a.shape
    return placed(a.swapaxes(0, 1), (m, n + 1, k + 2), np.s_[:, 1:, 2:]).swapaxes(0, 1)


def beside_each_other_transposed(a):
    return beside_each_other(a.swapaxes(1, 2)).swapaxes(1, 2)


def one_matrix_many_times(a):
    return np.broadcast_to(a[:1], a.shape)


def last_first(a):
    return a[::-1].copy()[::-1]


def every_second_entry(a):
    return placed(a, (*a.shape[:2], 2 * a.shape[2]), np.s_[:, :, ::2])


STACKS = [contiguous, each_transposed, beside_each_other, beside_each_other_transposed, last_first, every_second_entry]


@every_way
@given(few, few | near(ROWS, 96), few | near(COLUMNS), few | near(16, 32, DEPTH), st.sampled_from([
    *STACKS, one_matrix_many_times]), st.sampled_from([*STACKS, one_matrix_many_times]), st.sampled_from(STACKS),
    st.integers(1, 3), st.integers(0, 99))
def test_batch(kind, kind_out, way, count, m, n, k, layout_a, layout_b, layout_out, threads, seed):
    rng, dtype = np.random.default_rng(seed), dtype_of(kind)
    a, b = layout_a(whole(rng, count, m, k).astype(dtype)), layout_b(whole(rng, count, k, n).astype(dtype))
    out = layout_out(np.full((count, m, n), np.nan, dtype_of(kind_out)))
    want, before = a.astype(float) @ b.astype(float), (a.copy(), b.copy())
    pool.set_size(threads)
    with WAYS[way]():
        blas.batch(a, b, out)
    expect_equal(out, want)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])


# ---------------------------------------------------------------------------------------------------- other processors

OTHER = """
import os, sys
import llvmlite.binding as llvm
features, has = llvm.get_host_cpu_features(), sys.argv[1] == "16"
# The compiler is told the truth: it makes two instructions of one, or uses half of what it could.
os.environ |= {"NUMBA_CPU_NAME": llvm.get_host_cpu_name(), "NUMBA_CPU_FEATURES": features.flatten()}
features |= {"avx512f": has, "avx512bf16": False}
llvm.get_host_cpu_features = lambda: features
import pytest
from minigrad import gemm_cpu
assert gemm_cpu.LANES == int(sys.argv[1])
sys.exit(pytest.main(sys.argv[2:]))
"""


@pytest.mark.skipif(not gemm_cpu.HAS["f"], reason="no tile loop here")
def test_the_tile_loop_of_other_processors(tmp_path):
    """The tests above, of tiles in registers of the other width, and of bfloat16 without instructions for it."""
    tests = ["test_gemm", "test_no_entry", "test_rounding", "test_infinity", "test_subnormal", "test_batch"]
    done = subprocess.run(
        [sys.executable, "-c", OTHER, str(24 - gemm_cpu.LANES), "-q", "-p", "no:cacheprovider", __file__,
         "-k", f"({' or '.join(tests)}) and not OpenBLAS and not NumPy and not float64"],
        cwd=ROOT, env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, (done.stdout, done.stderr)


# ------------------------------------------------------------------------------------------------------------- memory

def at_an_edge(a, end):
    """A copy of a that ends (or begins) where memory does: a step further is a crash."""
    page, size = mmap.PAGESIZE, -(-a.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    room = np.frombuffer(mmap.mmap(-1, size + 2 * page), np.uint8)
    for edge in (0, page + size):
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(room.ctypes.data + edge), page, 0) == 0
    copy = room[page:page + size][size - a.nbytes if end else 0:][:a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def multiply_at_the_edges():
    rng = np.random.default_rng(0)
    for kind, kind_out in KINDS:
        for m, k, n in ((1, 1, 1), (8, 32, 32), (9, 33, 35), (97, 531, 65), (7, 16, 31)):
            a, b, out = (whole(rng, *s) for s in ((m, k), (k, n), (m, n)))
            a, b, out = a.astype(dtype_of(kind)), b.astype(dtype_of(kind)), out.astype(dtype_of(kind_out))
            for end in (False, True):
                for x in (at_an_edge(a, end), at_an_edge(a.T, end).T):
                    for y in (at_an_edge(b, end), at_an_edge(b.T, end).T):
                        blas.gemm(x, y, at_an_edge(out, end), 1.0)
                        blas.batch(x[None], y[None], at_an_edge(out, end)[None])
    print("inside")


@pytest.mark.skipif(os.name != "posix", reason="no mprotect")
def test_nothing_is_touched_beside_a_matrix():
    """In a process of its own, which does not survive it. Numba cannot check: the tile loop works with addresses."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run([sys.executable, "-c", "import test_blas; test_blas.multiply_at_the_edges()"],
                          env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout == "inside\n", (done.returncode, done.stderr)


def test_fair_blocks():
    """No thread has more rows than an even share and less than one step of heights would explain."""
    pytest.importorskip("numba")
    from minigrad.gemm_cpu import HIGHEST, ROWS, fair
    for threads in (1, 2, 3, 16):
        for M in (1, 7, 8, 9, 64, 100, 768, 1000, 1024, 4096):
            height = fair(M, threads, HIGHEST)
            assert height % ROWS == 0 and ROWS <= height <= HIGHEST
            blocks = [min(height, M - first) for first in range(0, M, height)]
            longest = max(sum(blocks[t::threads]) for t in range(threads))
            even = -(-M // threads)
            assert longest <= even + HIGHEST // 2 + ROWS and (M < 1024 or longest <= 1.06 * even + ROWS)
    assert fair(1024, 2, 96) == 64 and fair(768, 2, 96) == 96 and fair(1024, 1, 96) == 96
