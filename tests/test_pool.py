"""The one pool of threads, and the matrix products that run on it."""
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import blas, pool

ROOT = Path(__file__).resolve().parents[1]
LOTS = 10 ** 9       # operations: worth every thread there is


@pytest.fixture(params=[1, 2, 3])
def threads(request):
    before = pool.size()
    pool.set_size(request.param)
    yield request.param
    pool.set_size(before)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 100])
@pytest.mark.parametrize("work", [0, LOTS])
def test_every_index_is_visited_once(n, work, threads):
    counts = np.zeros(n, int)

    def visit(counts, lo, hi):
        assert lo < hi
        counts[lo:hi] += 1

    for _ in range(20):
        counts[:] = 0
        pool.each(visit, n, work, counts)
        assert (counts == 1).all()


def test_small_work_stays_with_the_caller(threads):
    seen = set()
    pool.each(lambda lo, hi: seen.add((threading.get_ident(), lo, hi)), 10, pool.SMALL - 1)
    assert seen == {(threading.get_ident(), 0, 10)}


def test_a_helper_takes_part():
    before, names = pool.size(), set()
    pool.set_size(2)

    def slow(lo, hi):
        names.add(threading.current_thread().name)
        time.sleep(0.01)                                  # sleeping releases the GIL, as a kernel does

    try:
        for _ in range(20):
            pool.each(slow, 8, LOTS)
    finally:
        pool.set_size(before)
    assert "minigrad" in names


def test_an_exception_reaches_the_caller(threads):
    def fails(lo, hi):
        if lo <= 5 < hi:
            raise ZeroDivisionError("in a range")

    for _ in range(5):
        with pytest.raises(ZeroDivisionError, match="in a range"):
            pool.each(fails, 10, LOTS)
    counts = np.zeros(10, int)
    pool.each(lambda lo, hi: counts[lo:hi].__iadd__(1), 10, LOTS)
    assert (counts == 1).all()                            # the pool works on


def test_work_inside_work_does_not_deadlock(threads):
    total = np.zeros((6, 50))

    def inner(row, lo, hi):
        row[lo:hi] += 1

    def outer(lo, hi):
        for i in range(lo, hi):
            pool.each(inner, 50, LOTS, total[i])

    for _ in range(20):
        pool.each(outer, 6, LOTS)
    assert (total == 20).all()


def test_several_callers_at_once(threads):
    totals = [np.zeros(64) for _ in range(4)]

    def add_one(total, lo, hi):
        total[lo:hi] += 1

    def caller(total):
        for _ in range(100):
            pool.each(add_one, 64, LOTS, total)

    callers = [threading.Thread(target=caller, args=(t,)) for t in totals]
    for c in callers:
        c.start()
    for c in callers:
        c.join(30)
    assert all((t == 100).all() for t in totals)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    before = pool.size()
    pool.set_size(2)
    try:
        counts = np.zeros(8, int)
        visit = lambda lo, hi: counts[lo:hi].__iadd__(1)  # noqa: E731
        pool.each(visit, 8, LOTS)
        child = os.fork()
        if not child:
            pool.each(visit, 8, LOTS)
            os._exit(0 if (counts == 2).all() else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        pool.set_size(before)


def test_the_number_of_threads_is_a_setting():
    code = "from minigrad import pool; print(pool.size())"
    for n in ("1", "5"):
        out = subprocess.run([sys.executable, "-c", code], env={**os.environ, "MINIGRAD_THREADS": n},
                             capture_output=True, text=True, check=True)
        assert out.stdout.strip() == n


# ------------------------------------------------------------------------------------------------ matrix products

def plain(a):
    return np.ascontiguousarray(a)


def transposed(a):
    return np.asfortranarray(a)


def every_second_row(a):
    return np.repeat(a, 2, 0)[::2]


def every_second_column(a):
    return np.repeat(a, 2, 1)[:, ::2]


def columns_of_a_wider_one(a):
    return np.concatenate([a, a + 1], 1)[:, :a.shape[1]]


def upside_down(a):
    return a[::-1].copy()[::-1]


def one_row_many_times(a):
    return np.broadcast_to(a[:1], a.shape)


LAYOUTS = [plain, transposed, every_second_row, every_second_column, columns_of_a_wider_one, upside_down,
           one_row_many_times]
layouts = st.sampled_from(LAYOUTS)
sizes = st.sampled_from([0, 1, 2, 3, 5, 17]) | st.integers(1, 9)


@given(sizes, sizes, sizes, layouts, layouts, st.sampled_from(["float32", "float64"]),
       st.sampled_from([None, 0.0, 1.0]), st.sampled_from(LAYOUTS[:5]), st.integers(0, 99))
def test_gemm(m, k, n, layout_a, layout_b, dtype, beta, layout_out, seed):
    rng = np.random.default_rng(seed)
    a, b = (layout(rng.standard_normal(s).astype(dtype)) for layout, s in ((layout_a, (m, k)), (layout_b, (k, n))))
    want, kept = a.astype("f8") @ b.astype("f8"), (a.copy(), b.copy())
    if beta is None:
        got = blas.gemm(a, b)
    else:
        out = layout_out(rng.standard_normal((m, n)).astype(dtype))
        if beta == 0:
            out[...] = np.nan                             # what an empty slot holds does not count
        else:
            want = want + out
        got = blas.gemm(a, b, out, beta)
        assert got is out
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, atol=(k + 1) * 8 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(a, kept[0])
    np.testing.assert_array_equal(b, kept[1])


@pytest.mark.parametrize("shape", [(1000, 40, 30), (30, 40, 1000), (450, 64, 450), (193, 8, 3), (3, 8, 385),
                                   (1, 64, 900), (900, 64, 1), (385, 1, 385)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gemm_in_pieces(shape, dtype):
    """Larger than a piece in either direction; the same bits on any number of threads."""
    (m, k, n), rng, before, got = shape, np.random.default_rng(0), pool.size(), []
    a, b, out = (rng.standard_normal(s).astype(dtype) for s in ((m, k), (k, n), (m, n)))
    try:
        for threads in (1, 2, 3):
            pool.set_size(threads)
            for x, y in ((a, b), (transposed(a), b), (a, transposed(b)),
                         (columns_of_a_wider_one(a), every_second_row(b))):
                got.append([blas.gemm(x, y), blas.gemm(x, y, out.copy(), 1.0)])
    finally:
        pool.set_size(before)
    want = a.astype("f8") @ b
    for product, added in got:
        np.testing.assert_allclose(product, want, atol=k * 8 * np.finfo(dtype).eps)
        np.testing.assert_allclose(added, want + out, atol=k * 8 * np.finfo(dtype).eps)
    for one, others in zip(got[:4], zip(got[4:8], got[8:])):
        for other in others:
            np.testing.assert_array_equal(one[0], other[0])
            np.testing.assert_array_equal(one[1], other[1])


def test_gemm_writes_nothing_beside_its_result():
    """out is a view into a larger buffer, as a gradient slot is."""
    buffer = np.full((260, 20), 7.0)
    blas.gemm(np.ones((256, 3)), np.ones((3, 9)), buffer[2:258, 5:14])
    assert (buffer[2:258, 5:14] == 3).all()
    buffer[2:258, 5:14] = 7
    assert (buffer == 7).all()


def test_gemm_refuses_a_result_of_another_dtype():
    with pytest.raises(AssertionError):
        blas.gemm(np.ones((2, 2)), np.ones((2, 2)), np.ones((2, 2), np.float32))


def test_gemm_without_openblas(monkeypatch):
    monkeypatch.setattr(blas, "_openblas", lambda: {})
    a, b = np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(blas.gemm(a, b), a @ b)
    np.testing.assert_array_equal(blas.gemm(a, b, np.ones((2, 4)), 1.0), a @ b + 1)


def test_infinities_and_nans_pass_through():
    a = np.array([[np.inf, 1.0], [np.nan, 1.0], [0.0, 1.0]])
    np.testing.assert_array_equal(blas.gemm(a, np.ones((2, 1))), [[np.inf], [np.nan], [1.0]])


def test_there_is_always_one_thread(threads):
    for asked in (0, -3):
        pool.set_size(asked)
        assert pool.size() == 1
    for asked, want in (("0", "1"), ("-3", "1"), ("5", "5")):
        env = {**os.environ, "MINIGRAD_THREADS": asked}
        said = subprocess.run([sys.executable, "-c", "from minigrad import pool; print(pool.size())"], cwd=ROOT,
                              env=env, text=True, capture_output=True, check=True).stdout
        assert said.strip() == want
