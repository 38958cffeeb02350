"""Every CPU kernel in bfloat16, against its definition in float64 on the same (widened) arguments.

bfloat16 keeps 8 bits, so a number that was rounded once, at the end, is wrong by at most 2^-8 of itself. A kernel that
rounds on the way, or sums in bfloat16, is wrong by more. slack is what the float32 arithmetic in between may add.
"""
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import backend, kernels, pool, using
from minigrad.fused import cross_entropy as ce
from minigrad.fused.dropout import dropout
from minigrad.fused.embedding import embedding
from minigrad.fused.gelu import gelu
from minigrad.fused.layer_norm import layer_norm
from minigrad.fused.relu import relu
from minigrad.fused.softmax import log_softmax, softmax
from minigrad.ops.elementwise import add
from minigrad.slot import Slot

numba = pytest.importorskip("numba")

from minigrad import math_cpu, sums_cpu  # noqa: E402
from minigrad.fused import (  # noqa: E402
    cross_entropy_cpu,
    dropout_cpu,
    embedding_cpu,
    gelu_cpu,
    layer_norm_cpu,
    relu_cpu,
    softmax_cpu,
)
from minigrad.jit_cpu import FAST  # noqa: E402
from minigrad.ops import elementwise_cpu  # noqa: E402

BF16 = backend.dtype_of("bfloat16")
HALF = 2.0 ** -8 * (1 + 2.0 ** -10)      # the largest relative error of rounding, and of an exact value just beside
shapes = st.tuples(st.integers(1, 6), st.integers(1, 70))
seeds, scales = st.integers(0, 2 ** 32 - 1), st.sampled_from([1e-3, 1.0, 30.0])


@pytest.fixture(autouse=True)
def share_everything(monkeypatch):
    """Small arrays too go to the kernels, and to three threads."""
    monkeypatch.setattr(pool, "SMALL", 0)
    monkeypatch.setattr(sums_cpu, "LEAST", dict.fromkeys("fdE", 0))
    before = pool.size()
    pool.set_size(3)
    yield
    pool.set_size(before)


def draw(shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(BF16)


def f64(a):
    return a.astype("f8") if isinstance(a, np.ndarray) and backend.is_float(a.dtype) else a


def near(got, want, slack, dtype=BF16):
    assert got.dtype == dtype and got.shape == want.shape
    got, relative = got.astype("f8"), HALF if dtype == BF16 else 1e-5
    with np.errstate(invalid="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        error = np.where(same, 0, np.abs(got - want) - relative * np.abs(want))
    assert (error <= slack).all(), f"off by {np.nanmax(error):.1e} beyond rounding:\n{got}\nvs\n{want}"


def check(op, *arrays, slack, dy=None, from_result=False, **params):
    """Forward and backward. from_result: backward starts from y as it was rounded, and so does the definition."""
    with using("auto"):
        forward, backward = kernels.choose(op, arrays)
    with np.errstate(all="ignore"):
        (y, saved), (exact, exact_saved) = forward(*arrays, **params), op.reference(*map(f64, arrays), **params)
        near(y, exact, slack)
        dy = draw(y.shape, 7) if dy is None else dy
        got = backward(dy, *saved, into=(None,) * len(arrays))
        want = op.reference_backward(f64(dy), *map(f64, saved if from_result else exact_saved),
                                     into=(None,) * len(arrays))
    for a, g, w in zip(arrays, got, want, strict=True):
        if w is not None:
            parameter = op in (layer_norm, embedding) and a is not arrays[0]
            near(g, w, slack * (len(y) if parameter else 1), np.dtype("f4") if parameter else BF16)


# --------------------------------------------------------------------------------------------- widening and rounding

@numba.njit(fastmath=FAST)
def narrowed(x, y):
    for i in range(len(x)):
        y[i] = math_cpu.narrow(x[i], y)


@numba.njit(fastmath=FAST)
def widened(x, y):
    for i in range(len(x)):
        y[i] = math_cpu.wide(x[i])


def test_narrow_rounds_to_nearest_even_like_ml_dtypes():
    """Every sign, exponent and leading fraction, with lower bits below, at and above the tie, denormals to NaN."""
    upper, lower = np.arange(1 << 16, dtype="u4") << 16, np.array([0, 1, 0x7fff, 0x8000, 0x8001, 0xffff], "u4")
    x = (upper[:, None] | lower).ravel().view("f4")
    got = np.empty(len(x), "u2")
    narrowed(x, got)
    with np.errstate(invalid="ignore"):
        want = x.astype(BF16)
    np.testing.assert_array_equal(np.isnan(got.view(BF16)), np.isnan(x))
    np.testing.assert_array_equal(got[~np.isnan(x)], want.view("u2")[~np.isnan(x)])
    largest = np.array([0x7f7fffff], "u4").view("f4")
    narrowed(largest, got)
    assert np.isfinite(largest) and got.view(BF16)[0] == np.inf
    narrowed(largest.astype("f8") * [1.0], got)
    assert got.view(BF16)[0] == np.inf


def test_wide_is_exact():
    x, got = np.arange(1 << 16, dtype="u2"), np.empty(1 << 16, "f4")
    widened(x, got)
    np.testing.assert_array_equal(got, x.view(BF16).astype("f4"))


@pytest.mark.parametrize("dtype, kind", [("bfloat16", "f4"), ("float16", "f4"), ("float32", "f4"), ("float64", "f8")])
def test_real_has_the_type_of_sums(dtype, kind):
    f = numba.njit(lambda x: math_cpu.real(0.1, x))
    array = np.ones(3, backend.dtype_of(dtype))
    assert f(math_cpu.bits(array)) == float(np.dtype(kind).type(0.1))
    back = math_cpu.floats(math_cpu.bits(array), array.dtype)
    assert back.dtype == array.dtype and (back == 1).all()


@pytest.mark.parametrize("kernel, dims", [
    (relu_cpu._forward, (1, 1)), (relu_cpu._backward, (1, 1, 1)), (gelu_cpu._tanh_forward, (1, 1)),
    (gelu_cpu._tanh_backward, (1, 1, 1)), (gelu_cpu._erf_forward, (1, 1)), (gelu_cpu._erf_backward, (1, 1, 1)),
    (sums_cpu._plus, (2, 2, 2)), (sums_cpu._plus_into, (1, 1))], ids=lambda k: getattr(k, "__name__", ""))
def test_loops_over_bfloat16_vectorise(kernel, dims):
    f = numba.njit(fastmath=FAST, error_model="numpy")(kernel.py_func)
    f(*(np.zeros((4,) * d, "u2") for d in dims), 0, 4)
    code = f.inspect_llvm(f.signatures[0])
    assert re.search(r"load <\d+ x i16>", code) and re.search(r"store <\d+ x i16>", code)


# ------------------------------------------------------------------------------------------------ entry by entry

@given(shapes, seeds, scales, st.sampled_from(["tanh", "none"]))
def test_gelu(shape, seed, scale, approximate):
    check(gelu, draw(shape, seed, scale), approximate=approximate, slack=1e-6)


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu_far_out(approximate):
    check(gelu, np.array([0.0, -0.0, 1e-39, -1e-39, 80, -80, 1e4, -1e4, np.nan], BF16), approximate=approximate,
          slack=1e-6)


@given(shapes, seeds)
def test_relu_and_add_are_exact(shape, seed):
    a, b = draw(shape, seed), draw(shape, seed + 1, 0.1)
    check(relu, a, slack=0)
    assert forward(relu, a)[0].tobytes() == np.maximum(a, 0).astype(BF16).tobytes()
    total = a + b
    assert forward(add, a, b)[0].tobytes() == sums_cpu.plus(a, b).tobytes() == total.tobytes()
    assert sums_cpu.plus(a, b, a) is a
    assert a.tobytes() == total.tobytes()


def test_relu_and_add_at_the_ends():
    x = np.array([0.0, -0.0, 1e-39, -1e-39, np.inf, -np.inf, np.nan, 3.3e38], BF16)
    y = forward(relu, x)[0]
    np.testing.assert_array_equal(f64(y), np.maximum(f64(x), 0))
    dx, = kernels.choose(relu, [y])[1](np.full(8, 3, BF16), y)
    np.testing.assert_array_equal(dx, np.array([0, 0, 3, 0, 3, 0, 3, 3], BF16))
    with np.errstate(all="ignore"):
        for b in (x, x[::-1].copy(), -x):
            np.testing.assert_array_equal(f64(forward(add, x, b)[0]), f64(x + b))


def test_add_takes_every_pair_that_numpy_takes():
    a, b = draw((6, 4)), draw((4,), 1)
    c = draw((6, 4), 2).astype("f4")
    for x, y in [(a, b), (b, a), (a, c), (c, a), (a, a[::-1]), (a.T, a.T), (np.asarray(a[0, 0]), a),
                 (a, a[:, :1]), (np.arange(6), np.arange(6))]:
        total = forward(add, x, y)[0]
        assert total.dtype == (x + y).dtype
        np.testing.assert_array_equal(total, x + y)
    with pytest.raises(ValueError, match="add: got shapes"):
        forward(add, a, draw(3))


@given(shapes, seeds)
def test_sums_of_gradients(shape, seed):
    """plus into a new array, into the first, and into one that is scattered; sum_rows in float32."""
    a, b = draw(shape, seed), draw(shape, seed + 1)
    want = a + b
    scattered = a.T.copy().T
    assert sums_cpu.plus(scattered, b, scattered) is scattered
    np.testing.assert_array_equal(scattered, want)
    near(sums_cpu.sum_rows(a), f64(a).sum(0), 1e-5 * shape[0], np.dtype("f4"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_sums_are_numpys(dtype):
    a, b = (np.random.default_rng(i).standard_normal((9, 11)).astype(dtype) for i in (0, 1))
    assert forward(add, a, b)[0].tobytes() == sums_cpu.plus(a, b).tobytes() == (a + b).tobytes()
    total = a + b
    assert sums_cpu.plus(a, b, a) is a
    assert a.tobytes() == total.tobytes()


@given(shapes, seeds, st.sampled_from([0.1, 0.5]))
def test_dropout(shape, seed, p):
    check(dropout, draw(shape, seed), p=p, key=(seed, 1, 2, 3), slack=1e-38)


def test_dropout_beyond_one_block_of_masks():
    x = draw((3, dropout_cpu.BLOCK + 77))
    x[1] = np.inf
    check(dropout, x, p=0.3, key=(1, 2, 3, 4), slack=0)


# ------------------------------------------------------------------------------------------------ rows

@given(shapes, seeds, scales)
def test_softmax(shape, seed, scale):
    x = draw(shape, seed, scale)
    for op in (softmax, log_softmax):
        check(op, x, slack=2e-5, from_result=True)
        check(op, x, slack=2e-5, from_result=True, axis=0)


@pytest.mark.parametrize("op", [softmax, log_softmax], ids=repr)
def test_softmax_far_out(op):
    inf = np.inf
    rows = [[0.0, -inf, 1], [1e4, 1e4, -1e4], [-inf] * 3, [1e38, -1e38, 0], [0, np.nan, 0], [inf, 0, 0], [-1e4] * 3]
    check(op, np.array(rows, BF16), slack=1e-5, from_result=True)


def test_softmax_rounds_once():
    """e^(x - m) has many digits until it is divided: 3 equal entries give 1/3, and 1000 of them 1/1000."""
    for n in (3, 1000):
        assert (forward(softmax, np.full((1, n), 0.7, BF16))[0] == np.array(1 / n, BF16)).all()


@given(shapes, seeds, scales)
def test_layer_norm(shape, seed, scale):
    check(layer_norm, draw(shape, seed, scale), draw(shape[1], seed + 1), draw(shape[1], seed + 2), slack=1e-4)


@pytest.mark.parametrize("rows", [1, 15, 16, 33, 100, 1500])
def test_layer_norm_sums_over_any_number_of_rows(rows):
    """dw and db: 256 + 1 = 256 in bfloat16, and every block of rows counts once."""
    x = draw((rows, 3), 1)
    check(layer_norm, x, draw(3, 2), draw(3, 3), slack=1e-5, dy=np.ones(x.shape, BF16))


def test_arrays_that_are_not_contiguous():
    x, w, b = draw((5, 7)).T, draw(10, 1)[::2], draw(5, 2)
    check(layer_norm, x, w, b, slack=1e-4, dy=draw((5, 7), 3).T)
    check(gelu, x, slack=1e-6, dy=draw((5, 7), 3).T)
    check(relu, x, slack=0, dy=draw((5, 7), 3).T)
    check(dropout, x, p=0.5, key=(1, 2, 3, 4), slack=0, dy=draw((5, 7), 3).T)
    check(softmax, x, slack=1e-5, from_result=True, dy=draw((5, 7), 3).T)
    check(embedding, np.array([[6, 0], [1, 1]]), x, slack=1e-5, dy=draw((2, 5, 2), 3).swapaxes(1, 2))


@given(shapes, seeds)
def test_embedding(shape, seed):
    ids = np.random.default_rng(seed).integers(0, shape[0], (2, 5))
    check(embedding, ids, draw(shape, seed), slack=1e-5)
    held = np.ones(shape, "f4")
    slot = Slot(held)
    for _ in range(2):                                    # the first time what is held does not count
        dy = draw((2, 5, shape[1]), seed)
        kernels.choose(embedding, [ids])[1](dy, ids, draw(shape), into=(None, slot))
    want = np.zeros(shape)
    np.add.at(want, ids, 2 * f64(dy))
    near(held, want, 1e-5, np.dtype("f4"))


# ------------------------------------------------------------------------------------------------ cross-entropy

@given(shapes, seeds, scales, st.sampled_from([0.0, 0.1]), st.sampled_from(["f4", "f8"]))
def test_rows_loss_writes_a_bfloat16_gradient(shape, seed, scale, e, dtype):
    rng = np.random.default_rng(seed)
    z = (scale * rng.standard_normal(shape)).astype(dtype)
    y, g = rng.integers(-1, shape[1], shape[0]), np.full(shape, np.nan, BF16)
    exact, exact_g = ce.rows_loss(f64(z), y, e, True)
    losses, returned = cross_entropy_cpu.rows_loss(z.copy(), y, e, True, g)
    near(losses, exact, 1e-4, np.dtype(dtype))
    assert returned is g
    near(g, exact_g, 1e-5)
    losses, over = cross_entropy_cpu.rows_loss(z, y, e, True)
    assert over is z
    near(losses, exact, 1e-4, np.dtype(dtype))
    near(over, exact_g, 1e-5, np.dtype(dtype))


def test_rows_loss_far_out():
    z = np.array([[1e4, 0, -1e4], [0, -np.inf, 1], [-1e30, 1e30, 0], [0, 0, 0], [np.nan, 0, 0]], "f4")
    y, g = np.array([2, 0, 1, -1, 0]), np.empty(z.shape, BF16)
    with np.errstate(all="ignore"):
        exact, exact_g = ce.rows_loss(f64(z), y, 0.0, True)
    losses, _ = cross_entropy_cpu.rows_loss(z, y, 0.0, True, g)
    near(losses, exact, 0, np.dtype("f4"))
    near(g, exact_g, 1e-5)
    losses, nothing = cross_entropy_cpu.rows_loss(z, y, 0.0, False)
    assert nothing is None
    near(losses, exact, 0, np.dtype("f4"))


@given(shapes, seeds)
def test_cross_entropy_of_bfloat16_logits(shape, seed):
    z, y = draw(shape, seed), np.random.default_rng(seed).integers(0, shape[1], shape[0])
    loss, saved = forward(ce.cross_entropy, z, y)
    exact, exact_saved = ce.cross_entropy.reference(f64(z), y)
    near(loss, exact, 1e-5, np.dtype("f4"))
    dz, _ = kernels.choose(ce.cross_entropy, [z])[1](np.ones((), "f4"), *saved, into=(None, None))
    near(dz, ce.cross_entropy.reference_backward(1.0, *exact_saved)[0], 1e-6)


# ------------------------------------------------------------------------------------------------ threads

def forward(op, *arrays, **params):
    with using("auto"):
        return kernels.choose(op, arrays)[0](*arrays, **params)


X, DY, W, B = draw((67, 131)), draw((67, 131), 1), draw(131, 2), draw(131, 3)
IDS = np.random.default_rng(0).integers(0, 67, 200)


@pytest.mark.parametrize("op, arrays, params", [
    (gelu, [X], {}), (gelu, [X], {"approximate": "none"}), (relu, [X], {}), (add, [X, DY], {}), (softmax, [X], {}),
    (log_softmax, [X], {"axis": 0}), (dropout, [X], {"p": 0.1, "key": (1, 2, 3, 4)}), (layer_norm, [X, W, B], {}),
    (embedding, [IDS, X], {})], ids=lambda v: repr(v) if hasattr(v, "reference") else "")
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_no_bit_depends_on_the_number_of_threads(op, arrays, params, dtype):
    arrays = [a.astype(dtype) if a.dtype == BF16 else a for a in arrays]

    def results(threads):
        pool.set_size(threads)
        y, saved = forward(op, *arrays, **params)
        backward = kernels.choose(op, arrays)[1]
        dy = np.resize(DY.astype(dtype), y.shape)
        return [a.tobytes() for a in (y, *backward(dy, *saved, into=(None,) * len(arrays))) if a is not None]

    assert results(1) == results(2) == results(3)


def test_no_bit_of_rows_loss_depends_on_the_number_of_threads():
    def results(threads):
        pool.set_size(threads)
        g = np.empty(X.shape, BF16)
        losses, _ = cross_entropy_cpu.rows_loss(X.astype("f4"), IDS[:67], 0.1, True, g)
        return losses.tobytes() + g.tobytes()

    assert results(1) == results(2) == results(3)


def test_sums_of_gradients_on_any_number_of_threads():
    for n in (1, 2, 3):
        pool.set_size(n)
        a = X.copy()
        sums_cpu.plus(a, DY, a)
        assert a.tobytes() == (X + DY).tobytes()


def test_every_kernel_is_the_one_tested():
    for op, module in [(gelu, gelu_cpu), (relu, relu_cpu), (softmax, softmax_cpu), (layer_norm, layer_norm_cpu),
                       (dropout, dropout_cpu), (embedding, embedding_cpu), (add, elementwise_cpu),
                       (ce.cross_entropy, cross_entropy_cpu)]:
        with using("auto"):
            assert kernels.choose(op, [X])[0] is getattr(module, op.name)[0]
