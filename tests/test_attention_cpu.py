"""attention's CPU kernels: tiles for float32 and bfloat16, plain loops for what has no tiles. Held to the float64
formula at every size of a tail, and to what causal attention promises bit by bit."""
import ctypes
import math
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")
from minigrad import pool  # noqa: E402
from minigrad.backend import dtype_of  # noqa: E402
from minigrad.fused import attention_cpu  # noqa: E402
from minigrad.fused.attention import attention, heads, merge, scores, split, zeros_and_ones  # noqa: E402
from minigrad.fused.attention_cpu import QUERIES, backward, forward, power  # noqa: E402
from minigrad.fused.dropout import keep_mask  # noqa: E402

KEY = (12345, 6, 7, 8)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
# Whole tiles and blocks, one more, one less; more queries than a block of backward has; D of more than the 512 words
# that a tile takes in one go.
SHAPES = [(1, 1, 1, 1), (2, 3, 1, 5), (1, 1, 7, 2), (1, 2, 8, 3), (3, 1, 9, 16), (2, 2, 31, 1), (1, 3, 32, 33),
          (2, 1, 33, 40), (1, 2, 64, 32), (2, 2, 65, 7), (1, 1, QUERIES + 32, 64), (1, 2, QUERIES + 33, 9),
          (1, 1, 300, 67), (1, 1, 41, 1100), (1, 1, 1061, 3)]


@pytest.fixture(params=[True, False], ids=["tiles", "loops"])
def tiles(request, monkeypatch):
    """As this processor does it, and as one without the instructions for tiles does."""
    if not request.param:
        monkeypatch.setattr(attention_cpu, "TILED", {})


@pytest.fixture
def threads():
    before = pool.size()
    yield pool.set_size
    pool.set_size(before)


def some(B, H, T, D, dtype, seed=0, scale=1.0):
    """qkv and dy."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (scale * rng.standard_normal(shape)).astype(dtype_of(dtype))
    return draw(B, T, 3 * H * D), draw(B, T, H * D)


def run(qkv, dy, n_head, dropout=None):
    """[y, lse, dq, dk, dv]"""
    y, saved = forward(qkv, n_head=n_head, dropout=dropout)
    assert saved[0] is qkv and saved[1] is y
    dqkv, = backward(dy, *saved, into=(None,))
    assert y.dtype == dqkv.dtype == qkv.dtype and saved[2].dtype == np.float32
    return [y, saved[2], *np.split(dqkv, 3, -1)]


def same_bits(got, want):
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g.view(f"u{g.itemsize}"), w.view(f"u{w.itemsize}"))


def check(B, H, T, D, dtype, dropout=None, seed=0):
    """Every entry within the rounding of the float64 formula, relative to the size of what it is the sum of.

    float32: sums of at most T + D terms and an exponential. bfloat16: at most three roundings to 8 bits, as of y, ds
    and dq, half a unit each.
    """
    qkv, dy = some(B, H, T, D, dtype, seed)
    y, saved = attention.reference(qkv.astype("f8"), n_head=H, dropout=dropout)
    want = [y, saved[2], *np.split(attention.reference_backward(dy.astype("f8"), *saved)[0], 3, -1)]
    names, got, terms = ("y", "lse", "dq", "dk", "dv"), run(qkv, dy, H, dropout), sizes(dy.astype("f8"), *saved)
    for name, g, w, size in zip(names, got, want, terms, strict=True):
        tol = (T + D + 16) * 2.0 ** -25 if g.dtype == np.float32 else 3 * 2.0 ** -8
        error = np.max(np.abs(g.astype("f8") - w) / (size + 1e-30))
        assert error <= tol, f"{name}: {error:.1e} > {tol:.1e}"


def sizes(dy, qkv, y, lse, n_head, dropout):
    """y, lse, dq, dk and dv by [AT3-10] with every term of every sum made positive: what is rounded are the terms, and
    the sum may be far smaller than they are."""
    q, k, v = heads(qkv, n_head)
    s, dy = scores(q, k), abs(split(dy, n_head))
    p, z = np.exp(s - lse[..., None]), zeros_and_ones(s.shape, dropout, np, float)
    dp, y, dv = z * (dy @ abs(v).swapaxes(-1, -2)), (z * p) @ abs(v), (z * p).swapaxes(-1, -2) @ dy
    ds = p * (dp + (dy * y).sum(-1, keepdims=True)) / np.sqrt(q.shape[-1])
    return merge(y), 1 + abs(lse), merge(ds @ abs(k)), merge(ds.swapaxes(-1, -2) @ abs(q)), merge(dv)


@every_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape, dtype, tiles):
    check(*shape, dtype)


@every_dtype
@given(B=st.integers(1, 3), H=st.integers(1, 3), T=st.integers(1, 200), D=st.integers(1, 80),
       rate=st.sampled_from([None, 0.0, 0.3]), seed=st.integers(0, 9))
def test_any_shape(dtype, B, H, T, D, rate, seed):
    check(B, H, T, D, dtype, None if rate is None else (rate, KEY), seed)


def test_float16_and_a_wide_dy():
    qkv, dy = some(1, 2, 40, 5, "float16")
    y, saved = forward(qkv, n_head=2)
    want = attention.reference(qkv.astype("f8"), n_head=2)[0]
    assert y.dtype == np.float16 and np.abs(y - want).max() < 4 * 2.0 ** -11
    same_bits(backward(dy.astype("f4"), *saved, into=(None,)), backward(dy, *saved, into=(None,)))


# ------------------------------------------------------------------------------------------------ what may be large

@every_dtype
@pytest.mark.parametrize("size", [1e3, 1e8, 1e15])
def test_huge_scores(size, dtype, tiles):
    """Up to 1e30: nothing overflows, every y is a mean of v, and no weight is taken for more than 1."""
    qkv, dy = some(1, 2, 70, 20, dtype)
    qkv[..., :80] = (qkv[..., :80].astype("f4") * size).astype(qkv.dtype)
    y, lse, dq, dk, dv = (a.astype("f8") for a in run(qkv, dy, 2))
    v, dy = qkv[..., 80:].astype("f8"), dy.astype("f8")
    assert all(np.isfinite(a).all() for a in (lse, dq, dk, dv))
    assert (np.abs(y) <= np.abs(v).max() * 1.01).all()
    assert (np.abs(dv) <= np.abs(dy).sum(1, keepdims=True) * 1.01).all()


def test_power():
    """2^t for t <= 0, where it stands for exp."""
    t = -np.concatenate([np.linspace(0, 126, 5001), np.logspace(-9, 0, 100)]).astype("f4")
    got, want = np.array([power(x) for x in t], "f8"), np.exp2(t.astype("f8"))
    assert (np.abs(got - want) <= 2.0 ** -22 * want).all()
    assert [power(np.float32(x)) for x in (0, -1, -126)] == [1, 0.5, 2.0 ** -126]
    assert [power(np.float32(x)) for x in (-127, -128, -1e4, -math.inf)] == [0, 0, 0, 0]
    assert math.isnan(power(np.float32(math.nan)))


# ------------------------------------------------------------------------------------------------ masks

@every_dtype
def test_masks_are_the_references(dtype, tiles):
    """With v (or dy) the unit matrix, y (or dv) shows the weights themselves."""
    B, H, T = 2, 3, 75
    qkv, unit = np.zeros((B, T, 3 * H * T)), np.tile(np.eye(T), (B, 1, H)).astype(dtype_of(dtype))
    qkv[..., 2 * H * T:] = unit
    y, _, _, _, dv = run(qkv.astype(unit.dtype), unit, H, (0.4, KEY))
    kept = keep_mask((B, H, T, T), 0.4, KEY) & np.tri(T, dtype=bool)
    split = lambda a: a.astype("f8").reshape(B, T, H, T).swapaxes(1, 2)
    for weights in (split(y), split(dv).swapaxes(2, 3)):
        np.testing.assert_array_equal(weights > 0, kept)
        np.testing.assert_allclose(weights, kept / 0.6 / np.arange(1, T + 1)[:, None], rtol=2.0 ** -8)


@every_dtype
def test_a_rate_of_zero_is_no_dropout(dtype, tiles):
    qkv, dy = some(1, 2, 40, 6, dtype)
    same_bits(run(qkv, dy, 2, (0.0, KEY)), run(qkv, dy, 2))


# ------------------------------------------------------------------------------------------------ bit by bit

@every_dtype
@pytest.mark.parametrize("dropout", [None, (0.2, KEY)])
def test_threads_change_no_bit(dtype, dropout, threads, monkeypatch):
    monkeypatch.setattr(pool, "SMALL", 0)
    qkv, dy = some(3, 5, 70, 12, dtype)
    threads(1)
    want = run(qkv, dy, 5, dropout)
    for n in (2, 3):
        threads(n)
        same_bits(run(qkv, dy, 5, dropout), want)


@every_dtype
def test_sequences_and_heads_are_on_their_own(dtype, tiles):
    qkv, dy = some(2, 3, 45, 10, dtype)
    y, lse, dq, dk, dv = run(qkv, dy, 3)
    for n in range(2):
        for h in range(3):
            mine = slice(10 * h, 10 * h + 10)
            alone = np.concatenate([part[n:n + 1, :, mine] for part in np.split(qkv, 3, -1)], -1)
            same_bits(run(alone, dy[n:n + 1, :, mine], 1),
                      [y[n:n + 1, :, mine], lse[n:n + 1, h:h + 1], *(g[n:n + 1, :, mine] for g in (dq, dk, dv))])


@every_dtype
def test_memory_layout_changes_no_bit(dtype, tiles):
    qkv, dy = some(2, 2, 40, 6, dtype)
    want = run(qkv, dy, 2)
    for lay in (lambda a: np.stack([a, a], -1)[..., 0], np.asfortranarray, lambda a: np.flip(np.flip(a).copy())):
        same_bits(run(lay(qkv), lay(dy), 2), want)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="knows how glibc's malloc places blocks")
@every_dtype
def test_neighbours_in_memory_change_no_bit(dtype, tiles):
    """What lies right behind an array, such as the kernel's own rows of D sums, is not mistaken for a part of it."""
    system = ctypes.CDLL(None)
    system.malloc.restype, system.malloc.argtypes, system.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [
        ctypes.c_void_p]
    found = 0

    def before_a_gap(array, size):
        """A copy with free blocks of this size behind it, which malloc() will give to whoever asks for that size."""
        nonlocal found
        for _ in range(20):                              # the first ones may fill holes that others have left
            start = system.malloc(array.nbytes)
            blocks = [system.malloc(size) for _ in range(200)]
            behind = [b for b in blocks if 0 <= b - start - array.nbytes < 4 * size][:4]
            if behind:
                break
        copy = np.frombuffer((ctypes.c_char * array.nbytes).from_address(start), array.dtype).reshape(array.shape)
        copy[...] = array
        for block in behind:
            system.free(block)
        found += len(behind)
        return copy

    qkv, dy = some(1, 8, 45, 10, dtype)
    want = run(qkv, dy, 8)
    _, saved = forward(qkv, n_head=8)
    for size in range(80, 240, 8):                       # a row of D sums with what Numba and malloc() put before it
        qkv_, y_, dy_ = (before_a_gap(a, size) for a in (qkv, saved[1], dy))
        dqkv, = backward(dy_, qkv_, y_, *saved[2:], into=(None,))
        same_bits(np.split(dqkv, 3, -1), want[2:])
    assert found > 40


@every_dtype
def test_the_past_does_not_see_the_future(dtype, tiles):
    """Other tokens from t on, or none at all: not a bit changes before t. With NaN and inf, which 0 does not hide."""
    T, D = 75, 6
    qkv, _ = some(1, 2, T, D, dtype)
    want, (_, _, lse, *_) = forward(qkv, n_head=2)
    for t in (1, 2, 7, 8, 9, 31, 32, 33, 50, 73, 74):
        y, (_, _, part, *_) = forward(qkv[:, :t], n_head=2)
        same_bits([y, part], [want[:, :t], np.ascontiguousarray(lse[..., :t])])
        for value in (5.0, math.nan, math.inf, -math.inf):
            for part in (slice(0, 2 * D), slice(2 * D, 4 * D), slice(4 * D, 6 * D), slice(None)):
                other = qkv.copy()
                other[:, t:, part] = value
                y, (_, _, now, *_) = forward(other, n_head=2)
                same_bits([y[:, :t], np.ascontiguousarray(now[..., :t])],
                          [want[:, :t], np.ascontiguousarray(lse[..., :t])])


@every_dtype
@pytest.mark.parametrize("part", ["q", "k", "v"])
def test_nan_reaches_whom_it_concerns(dtype, part, tiles):
    T, D, t = 75, 4, 40
    qkv, dy = some(1, 1, T, D, dtype)
    qkv[0, t, "qkv".index(part) * D] = math.nan
    y, lse, dq, dk, dv = (a.astype("f8") for a in run(qkv, dy, 1))
    concerned = np.arange(T) == t if part == "q" else np.arange(T) >= t
    np.testing.assert_array_equal(np.isnan(y[0]).any(-1), concerned)
    np.testing.assert_array_equal(np.isnan(lse[0, 0]), concerned & (part != "v"))
    assert np.isnan(dk).any() and np.isnan(dq).any() and (part == "v" or np.isnan(dv).any())
