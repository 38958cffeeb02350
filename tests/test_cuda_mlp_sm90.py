"""mlp_sm90.cu, run by the emulator, against the reference: tiles, tails, rings that come round, extremes, gradients."""
import numpy as np
import pytest
from opcases import CASES
from test_cuda_ops import TOL
from test_ops import close, run

from minigrad.backend import dtype_of
from minigrad.blas_gpu import by_time
from minigrad.emulator import emulator
from minigrad.fused import mlp_gpu
from minigrad.fused import mlp_sm90_gpu as sm90
from minigrad.fused.columns_gpu import add_rows
from minigrad.fused.gelu import gelu
from minigrad.fused.mlp import mlp

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
every_dtype = pytest.mark.parametrize("dtype", sm90.TYPES)
# (M, K, N): a row, 64 and one more or less than a tile has, tiles below and beside each other with tails; fewer steps
# than there are parts of the tile before to be finished, as many, more; up to three tiles for a block, so that all
# rings come round; twelve tiles beside each other.
SHAPES = [(1, 8, 8), (64, 40, 72), (127, 256, 136), (129, 200, 264), (200, 512, 256), (1, 584, 520), (257, 264, 520),
          (1, 8, 2824)]


def drawn(*shape, dtype, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(dtype_of(dtype))


def wide(*arrays):
    return [a.astype("f8") for a in arrays]


def arrays_of(M, K, N, dtype, scale=1.0):
    x, w, b = drawn(M, K, dtype=dtype), drawn(K, N, dtype=dtype, seed=1, scale=scale / K ** 0.5), drawn(N, dtype=dtype)
    return x, w, b, drawn(M, N, dtype=dtype, seed=2, scale=2 * scale)


def reference(x, w, b, u):
    """u and h of (x, w, b); of dy = x, w^T and u: du, and its sums over rows. All in float64."""
    x, w, b, u = wide(x, w, b, u)
    made = x @ w + b
    du, = gelu.reference_backward(x @ w, u, "tanh")
    return made, gelu.reference(made)[0], du, du.sum(0)


def kernels(x, w, b, u):
    du, parts = sm90.backward(x, w.T.copy(), u)
    return *sm90.forward(x, w, b), du, *add_rows(parts, None)


@every_dtype
@pytest.mark.parametrize("M, K, N", SHAPES)
def test_it_agrees_with_the_reference_whatever_the_schedule(M, K, N, dtype):
    given, got = arrays_of(M, K, N, dtype), []
    for backwards, early in emulator.SCHEDULES:
        with emulator.schedule(backwards, early):
            got.append(kernels(*given))
    want = reference(*given)
    close(got[0][:3], want[:3], TOL[dtype], f"{M} x {K} x {N}", dtypes=False)
    close(got[0][3:], [got[0][2].astype("f8").sum(0)], 1e-5, "sums of what was rounded", dtypes=False)
    for other in got[1:]:
        for a, b in zip(got[0], other, strict=True):
            np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


@every_dtype
@pytest.mark.parametrize("scale", [0.0, 1e-3, 30.0])
def test_small_and_large_entries(scale, dtype):
    """30: far beyond where the logistic function is 0 or 1 and its exponential overflows."""
    given = arrays_of(70, 72, 72, dtype, scale)
    close(kernels(*given)[:3], reference(*given)[:3], TOL[dtype], f"scale {scale}", dtypes=False)


@every_dtype
def test_what_is_not_a_number_stays_in_its_row(dtype):
    """Or in its column; what lies beside a matrix in memory is another row's."""
    x, w, b, u = arrays_of(140, 72, 136, dtype)
    x[5, 71], u[7, 100], b[135] = np.nan, np.inf, np.nan
    with np.errstate(all="ignore"):
        made, h, du, sums = kernels(x, w, b, u)
    ill = np.zeros((140, 136), bool)
    ill[5] = ill[:, 135] = True
    assert (np.isnan(wide(made)[0]) == ill).all() and (np.isnan(wide(h)[0]) == ill).all()
    ill[:, 135] = False
    ill[5] = ill[7, 100] = True
    assert (~np.isfinite(wide(du)[0]) == ill).all() and not np.isfinite(sums).any()


def test_bits_do_not_depend_on_how_many_blocks_there_are(monkeypatch):
    given, got = arrays_of(300, 264, 264, "bfloat16"), []
    for blocks in 1, 2, 5:
        monkeypatch.setattr(sm90, "multiprocessors", lambda xp, blocks=blocks: blocks)
        got.append([a.tobytes() for a in kernels(*given)])
    assert got[0] == got[1] == got[2]


def test_strides_are_made_regular():
    x, w, b, u = arrays_of(40, 72, 136, "float16")
    room = np.zeros(137, "f2")
    room[1:] = b
    for a, c in zip(kernels(x[:, ::-1], w[::-1], room[1:], u), kernels(x[:, ::-1].copy(), w[::-1].copy(), b, u),
                    strict=True):
        np.testing.assert_array_equal(a, c)


@pytest.fixture
def ours(monkeypatch):
    """mlp_gpu's way that is taken wherever it can be, in the emulator too. Gives the names of what ran."""
    ran = []
    for name in ("forward", "backward"):
        run = getattr(sm90, name)
        monkeypatch.setattr(sm90, name, lambda *a, run=run, name=name: ran.append(name) or run(*a))
    monkeypatch.setattr(sm90, "on_hopper", lambda x: True)
    monkeypatch.setattr(mlp_gpu, "by_time", lambda like, name, ways: by_time(
        like, name, {way: ways[way] for way in sorted(ways, key="hopper".__ne__)}))
    return ran


@every_dtype
@pytest.mark.parametrize("case", [c for c in CASES if c.op is mlp], ids=str)
def test_an_mlp_by_these_kernels(case, dtype, ours):
    arrays = case.arrays(dtype)
    close(run(mlp, arrays, case.params, "emulated"), run(mlp, arrays, case.params, "reference"), TOL[dtype], "mlp")
    regular = arrays[0].size > 0 and all(n % 8 == 0 for n in arrays[1].shape)
    assert ours == (["forward", "backward"] if regular else [])


def test_gradients_by_finite_differences(ours):
    """What both kernels give, along one random direction, against differences of the formula in float64."""
    rng = np.random.default_rng(3)
    arrays = [(rng.uniform(-1, 1, shape) * scale).astype("f2") for shape, scale in (
        ((20, 16), 1), ((16, 24), 0.5), (24, 1), ((24, 8), 0.5), (8, 1))]
    dy = rng.uniform(-1, 1, (20, 8)).astype("f2")
    _, saved = mlp_gpu.forward(*arrays)
    got = mlp_gpu.backward(dy, *saved, into=(None,) * 5)
    assert ours == ["forward", "backward"]
    exact, along = wide(*arrays), [rng.uniform(-1, 1, a.shape) for a in arrays]

    def value(h):
        return (mlp.reference(*(a + h * d for a, d in zip(exact, along, strict=True)))[0] * dy).sum()

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    found = [g.astype("f8") * d for g, d in zip(got, along, strict=True)]
    assert abs(sum(f.sum() for f in found) - slope) <= TOL["float16"] * sum(np.abs(f).sum() for f in found)


@pytest.mark.parametrize("dtype, K, N, hopper, takes", [
    ("float16", 8, 8, True, True), ("bfloat16", 768, 3072, True, True), ("float16", 12, 8, True, False),
    ("bfloat16", 8, 12, True, False), ("float32", 8, 8, True, False), ("float16", 8, 8, False, False)])
def test_where_it_runs(dtype, K, N, hopper, takes, monkeypatch):
    """Where rows are such as copies take, on a Hopper GPU; in the emulator only when it is asked for."""
    x, w = np.empty((2, K), dtype_of(dtype)), np.empty((K, N), dtype_of(dtype))
    monkeypatch.setattr(sm90, "is_hopper", lambda: hopper)
    assert not sm90.takes(x, w) and not sm90.takes(x, w.T)
    monkeypatch.setattr(sm90.backend, "on_gpu", lambda x: True)
    assert sm90.takes(x, w) == sm90.takes(x, w.T) == takes
    assert not sm90.takes(x[:0], w)


def test_what_was_decided_without_them_is_decided_again(monkeypatch):
    asked = []
    monkeypatch.setattr(mlp_gpu, "by_time", lambda like, name, ways: asked.append(name) or ways["together"]())
    arrays = [drawn(*shape, dtype="float16") for shape in ((3, 8), (8, 16), (16,), (16, 8), (8,))]
    for takes in (False, True):
        monkeypatch.setattr(sm90, "takes", lambda *_, takes=takes: takes)
        _, saved = mlp_gpu.forward(*arrays)
        mlp_gpu.backward(arrays[0], *saved, into=(None,) * 5)
    assert len(set(asked)) == 4
