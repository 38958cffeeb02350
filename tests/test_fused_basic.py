"""softmax, gelu, relu, dropout, embedding, adamw: what the table of cases cannot say. And exp, tanh, erf below them."""
import math
import re

import numpy as np
import pytest
import reference_data

from minigrad import Tensor, backend, kernels, pool, recompute, special, using
from minigrad.fused.adamw import adamw, keep, masters, sgd, sum_of_squares, whole
from minigrad.fused.cross_entropy import linear_cross_entropy
from minigrad.fused.dropout import dropout, keep_mask, philox
from minigrad.fused.embedding import embedding
from minigrad.fused.gelu import gelu
from minigrad.fused.layer_norm import layer_norm
from minigrad.fused.relu import relu
from minigrad.fused.softmax import log_softmax, softmax
from minigrad.jit_cpu import FAST
from minigrad.slot import DONE, SKIP, Slot

both_modes = pytest.mark.parametrize("mode", ["auto", "reference"])


@pytest.fixture
def threads(monkeypatch):
    """run(f) = [f() on one thread, f() on three], however small the work."""
    monkeypatch.setattr(pool, "SMALL", 0)
    before = pool.size()

    def run(f):
        results = []
        for n in (1, 3):
            pool.set_size(n)
            results.append(f())
        return results
    yield run
    pool.set_size(before)


# ------------------------------------------------------------------------------------------------ exp, tanh, erf

def vectorised(name):
    """math_cpu's function applied to every entry of an array, compiled with the flags that kernels use."""
    numba = pytest.importorskip("numba")
    from minigrad import math_cpu
    f = getattr(math_cpu, name)

    @numba.njit(fastmath=FAST)
    def loop(x, y):
        for i in range(len(x)):
            y[i] = f(x[i])

    def call(x):
        y = np.empty_like(x)
        loop(x, y)
        return y
    call.loop = loop
    return call


def ulps(got, want):
    """Distance in units of the last place of got's type at want, where want is finite in that type."""
    with np.errstate(over="ignore", invalid="ignore"):
        unit = np.spacing(np.abs(want.astype(got.dtype)))
        far = np.abs(got.astype(want.dtype) - want) / unit
    return far[np.isfinite(unit)].max()


def every_float32(step):
    """Each step-th of all bit patterns: every exponent, both signs, denormals, infinities, NaNs."""
    return np.arange(0, 2 ** 32, step, dtype=np.uint32).view(np.float32)


@pytest.mark.parametrize("name, exact, bound", [
    ("exp", np.exp, 1.0), ("tanh", np.tanh, 3.0), ("erf", special.erf, 4.0)])
def test_float32_functions_over_the_whole_range(name, exact, bound):
    x = every_float32(4099)
    x = np.concatenate([x, np.linspace(-110, 95, 500_001, dtype=np.float32)])
    got = vectorised(name)(x)
    with np.errstate(over="ignore", invalid="ignore"):
        want = exact(x.astype("f8"))
        np.testing.assert_array_equal(np.isnan(got), np.isnan(x))
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want.astype("f4")))
    assert ulps(got, want) <= bound


@pytest.mark.parametrize("name, exact, low, high, bound", [
    ("exp", math.exp, -745, 709.7, 1.6), ("tanh", math.tanh, -25, 25, 4.0), ("erf", math.erf, -7, 7, 5.0)])
def test_float64_functions(name, exact, low, high, bound):
    rng = np.random.default_rng(0)
    x = rng.uniform(low, high, 20_000)
    x = np.concatenate([x, x * 10 ** rng.uniform(-12, 0, len(x))])
    want = np.array([exact(v) for v in x])
    got = vectorised(name)(x)
    assert ulps(got, want) <= bound
    if name == "erf":
        assert np.abs(got - want).max() <= 1e-15 and np.abs(special.erf(x) - want).max() <= 1e-15
    ends = vectorised(name)(np.array([np.inf, -np.inf, np.nan, 1e300, -1e300]))
    np.testing.assert_array_equal(ends, {"exp": [np.inf, 0, np.nan, np.inf, 0]}.get(name, [1, -1, np.nan, 1, -1]))


@pytest.mark.parametrize("name", ["exp", "tanh", "erf"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loops_of_them_vectorise(name, dtype):
    f = vectorised(name)
    f(np.zeros(4, dtype))
    code = f.loop.inspect_llvm(f.loop.signatures[0])
    assert re.search(rf"fmul contract <\d+ x {'float' if dtype == 'float32' else 'double'}>", code)


def test_maximum_keeps_nan():
    numba = pytest.importorskip("numba")
    from minigrad.math_cpu import maximum

    @numba.njit(fastmath=FAST)
    def largest(x):
        m = x[0]
        for i in range(len(x)):
            m = maximum(m, x[i])
        return m

    for dtype in "f4", "f8":
        x = np.random.default_rng(0).standard_normal(1001).astype(dtype)
        assert largest(x) == x.max() and largest(np.full(5, -np.inf, dtype)) == -np.inf
        x[500] = np.nan
        assert np.isnan(largest(x))


# ------------------------------------------------------------------------------------------------ softmax

@both_modes
def test_softmax_is_a_distribution_and_ignores_a_constant(mode):
    x = np.random.default_rng(0).standard_normal((4, 9))
    with using(mode):
        p = softmax(x).data
        np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-14)
        np.testing.assert_allclose(softmax(x + 1000).data, p, rtol=1e-12)
        np.testing.assert_allclose(np.exp(log_softmax(x).data), p, rtol=1e-13)
        t = Tensor(x, requires_grad=True)
        softmax(t).backward(np.random.default_rng(1).standard_normal(x.shape))
        np.testing.assert_allclose(t.grad.sum(-1), 0, atol=1e-15)


@both_modes
def test_masked_entries_get_nothing(mode):
    x = np.array([[0.0, -np.inf, 0.0], [-np.inf, -np.inf, -1e4]], "float16")
    with using(mode):
        np.testing.assert_array_equal(softmax(x).data, [[0.5, 0, 0.5], [0, 0, 1]])
        np.testing.assert_array_equal(log_softmax(x).data[1], [-np.inf, -np.inf, 0])


@pytest.mark.parametrize("shape, axis", [((2, 3), -1), ((3,), -1), ((2, 2, 2), 1)])
def test_a_causal_softmax_wants_squares(shape, axis):
    for mode in ("reference", "auto"):
        with using(mode), pytest.raises(ValueError, match="causal"):
            softmax(np.ones(shape), axis=axis, causal=True)


@both_modes
def test_log_softmax_keeps_what_softmax_loses(mode):
    with using(mode):
        np.testing.assert_array_equal(log_softmax(np.array([0.0, -1e4], "f4")).data, [0, -1e4])
        np.testing.assert_allclose(log_softmax(np.array([1e8, 1e8], "f4")).data, -math.log(2), rtol=1e-6)


@both_modes
def test_sixteen_bit_rows_are_summed_wide(mode):
    """In float16, 2048 + 1 = 2048; in bfloat16, 256 + 1 = 256."""
    for name in "float16", "bfloat16":
        with using(mode):
            p = softmax(np.zeros((1, 4096), backend.dtype_of(name))).data
        np.testing.assert_array_equal(p.astype("f4"), 1 / 4096)


# ------------------------------------------------------------------------------------------------ gelu, relu

@both_modes
def test_the_two_gelus_differ_by_less_than_they_say(mode):
    x = np.linspace(-8, 8, 4001)
    with using(mode):
        gap = np.abs(gelu(x).data - gelu(x, approximate="none").data)
    assert 4e-4 < gap.max() < 5e-4


@both_modes
def test_gelu_refuses_an_unknown_form(mode):
    with using(mode), pytest.raises(ValueError, match="gelu: got approximate='sigmoid'; expected 'tanh' or 'none'"):
        gelu(np.ones(3), approximate="sigmoid")


@both_modes
def test_relu_has_slope_0_at_0(mode):
    x = Tensor(np.array([-1.0, -0.0, 0.0, 1.0]), requires_grad=True)
    with using(mode):
        relu(x).backward(np.ones(4))
    np.testing.assert_array_equal(x.grad, [0, 0, 0, 1])


# ------------------------------------------------------------------------------------------------ dropout

ALL = 0xFFFFFFFF
KNOWN = [  # from the authors' Random123 library: counter, key, output
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ALL,) * 4, (ALL, ALL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize("counter, key, want", KNOWN)
def test_philox_gives_the_published_words(counter, key, want):
    assert philox(counter, key) == want
    arrays = philox([np.array([c] * 2, "uint64") for c in counter], key)
    np.testing.assert_array_equal(arrays, np.array([want] * 2).T)
    numba = pytest.importorskip("numba")
    from minigrad.fused import dropout_cpu
    kernel = numba.njit(lambda *words: dropout_cpu.philox(*words))
    assert kernel(*map(np.uint64, (*counter, *key))) == want


KEY = (1234, 5, 6, 7)


def test_the_mask_depends_on_all_of_the_key_and_on_the_place_alone():
    masks = [keep_mask((64,), 0.5, key).tobytes() for key in [
        KEY, (1235, 5, 6, 7), (1234 + 2 ** 40, 5, 6, 7), (1234, 6, 6, 7), (1234, 5, 7, 7), (1234, 5, 6, 8)]]
    assert len(set(masks)) == len(masks)
    whole = keep_mask((40, 7), 0.3, KEY)
    for start, n in [(0, 280), (1, 1), (2, 9), (77, 100), (279, 1), (280, 0)]:
        np.testing.assert_array_equal(keep_mask((n,), 0.3, KEY, start=start), whole.ravel()[start:start + n])


@pytest.mark.parametrize("p", [0.0, 1e-9, 0.1, 0.5, 0.9, 1 - 1e-12])
def test_the_rate_is_p(p):
    n = 400_000
    dropped = n - keep_mask((n,), p, KEY).sum()
    assert abs(dropped - n * p) <= 5 * math.sqrt(n * p * (1 - p)) + (p > 0)


def test_neighbours_steps_and_sites_look_independent():
    """A correlation over n entries has deviation 1 / sqrt(n)."""
    n = 400_000

    def signs(key=KEY):
        return 2.0 * keep_mask((n,), 0.5, key) - 1
    m = signs()
    for other in [np.roll(m, 1), np.roll(m, 2), np.roll(m, 4), np.roll(m, 1024), signs((1235, 5, 6, 7)),
                  signs((1234, 6, 6, 7)), signs((1234, 5, 7, 7)), signs((1234, 5, 6, 8))]:
        assert abs((m * other).mean()) <= 5 / math.sqrt(n)


@both_modes
def test_dropout_scales_what_stays_and_repeats_itself_in_backward(mode):
    x = Tensor(np.full((30, 7), 3.0), requires_grad=True)
    with using(mode):
        y = dropout(x, p=0.25, key=KEY)
        y.backward(np.ones(x.shape))
    kept = keep_mask(x.shape, 0.25, KEY)
    np.testing.assert_array_equal(y.data, np.where(kept, 4.0, 0))
    np.testing.assert_array_equal(x.grad, np.where(kept, 4 / 3, 0))


@both_modes
def test_recompute_draws_the_same_mask(mode):
    x, seen = Tensor(np.ones(100), requires_grad=True), []

    def block(x):
        y = dropout(x, p=0.5, key=(*backend.now(), 3))
        seen.append(y.data)
        return y * y                                     # wants y, or the second run would leave it out
    with using(mode), backend.moment(seed=1, step=2, micro=3):
        recompute(block, x).backward(np.ones(100))
    np.testing.assert_array_equal(*seen)
    np.testing.assert_array_equal(x.grad, 2 * seen[0] ** 2)


@both_modes
def test_dropout_of_infinity_is_0_and_p_0_is_nothing(mode):
    x = np.full(50, np.inf)
    with using(mode):
        y = dropout(x, p=0.5, key=KEY).data
        assert set(y) == {0.0, np.inf}
        assert dropout(x, p=0, key=KEY).data is x


@both_modes
@pytest.mark.parametrize("p, key, words", [
    (1.0, KEY, r"p = 1.0; expected 0 <= p < 1"), (-0.1, KEY, "p = -0.1"), (math.nan, KEY, "p = nan"),
    (0.5, (1, 2, 3), "key"), (0.5, (1, -2, 3, 4), "key"), (0.5, (1, 2, 3, 2 ** 32), "key")])
def test_dropout_refuses(mode, p, key, words):
    with using(mode), pytest.raises(ValueError, match="dropout: got " + words):
        dropout(np.ones(3), p=p, key=key)


def test_keep_range_is_a_stretch_of_the_mask():
    """The form that attention's kernel uses, at every alignment, and far out."""
    pytest.importorskip("numba")
    from minigrad.fused.dropout_cpu import keep_range, masks
    for start in (0, 1, 2, 3, 4, 4 * 10 ** 9 + 1, 2 ** 34 - 103):
        for n in (0, 1, 2, 3, 5, 100, 103):
            out = np.empty(n, "f4")
            keep_range(masks(0.3, KEY), start, np.float32(2), out)
            np.testing.assert_array_equal(out, 2 * keep_mask((n,), 0.3, KEY, start=start))


# ------------------------------------------------------------------------------------------------ embedding

@both_modes
@pytest.mark.parametrize("ids, words", [
    ([[0, 1], [5, 0]], r"id 5 at position \(1, 0\); expected 0 <= id < 5"),
    ([[0, -1]], r"id -1 at position \(0, 1\); expected 0 <= id < 5"), (9, r"id 9 at position \(\)"),
    ([1.0], "ids of dtype float64; expected integers"), ([True], "ids of dtype bool; expected integers")])
def test_embedding_refuses(mode, ids, words):
    with using(mode), pytest.raises(ValueError, match="embedding: got " + words):
        embedding(np.array(ids), np.ones((5, 3)))
    for shape in ((5,), (5, 3, 1)):
        with using(mode), pytest.raises(ValueError, match=r"embedding: got a table of shape .* expected \(V, C\)"):
            embedding(np.array([0]), np.ones(shape))


@both_modes
def test_embedding_adds_into_the_slot_of_its_table(mode, threads):
    rng = np.random.default_rng(0)
    ids, dy = rng.integers(0, 6, (40, 5)), rng.standard_normal((40, 5, 9)).astype("f4")
    w = Tensor(np.zeros((7, 9), "f4"), requires_grad=True)
    want = np.zeros((7, 9))
    np.add.at(want, ids, dy)

    def gradients():
        slot, arrays = Slot(np.full((7, 9), np.nan, "f4")), []
        _, backward = kernels.choose(embedding, [ids, w.data])
        for _ in range(2):                              # an empty slot is not read; a full one is added to
            assert backward(dy, ids, w.data, into=(SKIP, slot)) == (None, DONE)
            arrays.append(slot.array.copy())
        assert backward(dy, ids, w.data, into=(SKIP, SKIP)) == (None, None)
        return arrays
    with using(mode):
        one, three = threads(gradients)
    np.testing.assert_array_equal(one, three)
    np.testing.assert_allclose(one[0], want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one[1], 2 * want, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------------------ adamw, sgd, norm

def flat(seed=0, n=1003, dtype="float64"):
    """p, g, m, v."""
    rng = np.random.default_rng(seed)
    p, g, m, v = (rng.standard_normal(n).astype(dtype) for _ in range(4))
    return p, g, m, np.abs(v)


HYPER = dict(lr=0.01, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.1, step=3, scale=0.5)


@both_modes
def test_adamw_follows_pytorchs_trajectory(mode):
    data = np.load(reference_data.path("golden", "adamw.npz"))
    names = [key.removeprefix("init.") for key in data if key.startswith("init.")]
    with using(mode):
        for name in names:
            p = data["init." + name].ravel().copy()
            m, v = np.zeros_like(p), np.zeros_like(p)
            for t, (lr, norm) in enumerate(zip(data["lr"], data["grad_norm"], strict=True)):
                g = data[f"grad.{t:02d}.{name}"].ravel()
                adamw(p, g, m, v, None, lr=float(lr), beta1=0.9, beta2=0.95, eps=1e-8, step=t + 1,
                      decay=0.1 if name.startswith("w") else 0.0, scale=min(1.0, 1 / (float(norm) + 1e-6)))
                np.testing.assert_allclose(p, data[f"step.{t:02d}.{name}"].ravel(), rtol=0, atol=1e-12)
            np.testing.assert_allclose(m, data["final_exp_avg." + name].ravel(), rtol=0, atol=1e-12)
            np.testing.assert_allclose(v, data["final_exp_avg_sq." + name].ravel(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-14), ("float32", 1e-6)])
def test_adamw_kernel_is_its_reference(dtype, tolerance, threads):
    want = flat(dtype=dtype)
    adamw.reference(*want, None, **HYPER)

    def step():
        got = flat(dtype=dtype)
        adamw(*got, None, **HYPER)
        return got
    one, three = threads(step)
    for a, b, w in zip(one, three, want, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, w, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(one[1], flat(dtype=dtype)[1])                          # g is only read


@both_modes
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_the_master_moves_where_sixteen_bits_cannot(mode, name):
    """Steps of 1e-5 from 1: each is lost in 16 bits, a thousand of them are not."""
    p, g, m, v = np.ones(50, backend.dtype_of(name)), np.ones(50, "f4"), np.zeros(50, "f4"), np.zeros(50, "f4")
    master = masters(p)
    start = whole(p, master).copy()
    with using(mode):
        for t in range(1, 1001):
            adamw(p, g, m, v, master, lr=1e-5, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.0, step=t)
    np.testing.assert_allclose(whole(p, master), start - 0.01, rtol=1e-4)
    np.testing.assert_array_equal(p, whole(p, master).astype(p.dtype))


def every_float():
    """float32 numbers of all kinds: all halves of 16 bits above some that are hard to round, ends and middles."""
    high, low = np.arange(1 << 16, dtype="u4"), np.array([0, 1, 0x7fff, 0x8000, 0x8001, 0xffff], "u4")
    x = (high[:, None] << 16 | low).view("f4").ravel()
    return x[~np.isnan(x)]


def test_a_bfloat16_and_its_rest_are_the_whole_float32():
    x = every_float()
    p, rest = np.empty(len(x), backend.dtype_of("bfloat16")), np.empty(len(x), np.int16)
    keep(x, p, rest)
    np.testing.assert_array_equal(whole(p, rest).view("u4"), x.view("u4"))
    tie = x.view("u4") & 0xffff == 0x8000
    np.testing.assert_array_equal(p[~tie].view("u2"), x[~tie].astype(p.dtype).view("u2"))          # to nearest
    up = (x.view("u4") + 0x8000).view("f4")
    np.testing.assert_array_equal(p[tie].view("u2"), (up[tie].view("u4") >> 16).astype("u2"))      # away from 0


@both_modes
def test_a_weight_that_is_no_number_stays_none(mode):
    """All of its bits are set where CUDA makes it: [AW6] alone would round that up to -0."""
    p, g = np.ones(32, backend.dtype_of("bfloat16")), np.ones(32, "f4")
    g.view("u4")[3], rest = 0x7fffffff, masters(p)
    with using(mode), np.errstate(invalid="ignore"):
        for t in (1, 2):
            adamw(p, g, *np.zeros((2, 32), "f4"), rest, **{**HYPER, "step": t})
            assert np.flatnonzero(np.isnan(p.astype("f4"))).tolist() == [3] == np.flatnonzero(np.isnan(whole(p, rest)))


def test_the_rest_that_is_drawn_rounds_away():
    """[AW9]: over all bfloat16 numbers, the same at every call, and evenly."""
    p = np.arange(1 << 16, dtype="u2").view(backend.dtype_of("bfloat16"))
    rest, full = masters(p), p.astype("f4")
    none = (full == 0) | ~np.isfinite(full)
    assert rest.dtype == np.int16 and not rest[none].any()
    keep(whole(p, rest), again := np.zeros_like(p), np.zeros_like(rest))
    np.testing.assert_array_equal(again.view("u2"), p.view("u2"))
    np.testing.assert_array_equal(masters(p), rest)
    shares = np.histogram(rest[~none], 8, (-2 ** 15, 2 ** 15))[0] / (~none).sum()
    np.testing.assert_allclose(shares, 1 / 8, rtol=0.05)


def test_a_step_shorter_than_half_an_interval_moves_as_many_weights_as_it_should():
    """One of 1e-5 from weights around 0.02, whose neighbours are 3e-5 to 1.2e-4 away: that far on the average."""
    p = np.random.default_rng(0).normal(0, 0.02, 100_000).astype(backend.dtype_of("bfloat16"))
    before, (g, m, v) = p.astype("f8"), np.stack([np.ones(100_000, "f4"), *np.zeros((2, 100_000), "f4")])
    adamw(p, g, m, v, masters(p), lr=1e-5, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.0, step=1)
    assert (p.astype("f8") - before).mean() == pytest.approx(-1e-5, rel=0.05)


@both_modes
def test_sixteen_bits_and_their_rest_go_where_float32_goes(mode, threads):
    """Bit by bit, step after step, by AdamW's kernel and reference and by SGD."""
    def walk(update):
        data, g, m, v = flat(n=5000, dtype="float32")
        p = data.astype(backend.dtype_of("bfloat16"))
        rest = masters(p)
        wide = whole(p, rest)
        states = [[p, m.copy(), v.copy(), rest], [wide, m, v, None]]
        for t in range(1, 6):
            for state in states:
                update(*state, g * t, t)
            assert not t > 1 or rest.any()
            np.testing.assert_array_equal(whole(p, rest), wide)
            np.testing.assert_array_equal(states[0][2], v)
        return wide

    def adam(p, m, v, master, g, t):
        adamw(p, g, m, v, master, **{**HYPER, "step": t})

    def descend(p, m, v, master, g, t):
        sgd(p, g, m, master, lr=0.01, momentum=0.9)

    with using(mode):
        for update in (adam, descend):
            np.testing.assert_array_equal(*threads(lambda update=update: walk(update)))


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_is_pytorchs(momentum, nesterov):
    torch = pytest.importorskip("torch")
    nesterov = nesterov and momentum > 0
    p, g, *_ = flat()
    theirs = torch.tensor(p, requires_grad=True)
    opt = torch.optim.SGD([theirs], lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01)
    b = np.zeros_like(p) if momentum else None
    for t in range(1, 5):
        theirs.grad = torch.tensor(g * t)
        opt.step()
        sgd(p, g * t * 2, b, None, lr=0.1, momentum=momentum, decay=0.01, nesterov=nesterov, scale=0.5)
    np.testing.assert_allclose(p, theirs.detach().numpy(), rtol=0, atol=1e-14)
    half, master = p.astype("f2"), p.astype("f4")
    sgd(half, g.astype("f4"), None, master, lr=0.1)
    np.testing.assert_array_equal(half, master.astype("f2"))


@both_modes
def test_sum_of_squares(mode, threads):
    with using(mode):
        for n in (0, 1, 63, 64, 1000, 100_003):
            g = flat(n=n, dtype="float32")[1]
            one, three = threads(lambda g=g: sum_of_squares(g))
            assert one == three and one.dtype == "float64" and one.ndim == 0
            np.testing.assert_allclose(one, math.fsum(g.astype("f8") ** 2), rtol=1e-14)
        for bad, want in [(np.inf, np.inf), (-np.inf, np.inf), (np.nan, np.nan), (1e30, 1e60)]:
            g = np.zeros(777, "f4")
            g[401] = bad
            np.testing.assert_allclose(sum_of_squares(g), want, rtol=1e-6)


@pytest.mark.parametrize("mode", ["auto", "reference"])
@pytest.mark.parametrize("w, b", [(4, 8), (8, 4), (9, 8)])
def test_layer_norm_refuses_another_width(w, b, mode):
    with using(mode), pytest.raises(ValueError, match=r"layer_norm: got w .* expected both \(8,\)"):
        layer_norm(np.ones((3, 8)), np.ones(w), np.ones(b))


# ------------------------------------------------------------------------------------------------ the fused head

@both_modes
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("order", ["tied", "twice", "head last", "dropped", "another batch", "in between"])
def test_the_head_keeps_its_gradient_in_the_slot(mode, dtype, order):
    """dw waits in w's own gradient, whoever else adds to that before or after: the sum is that of copies of w."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(backend.dtype_of(dtype))
    ids, targets, x, table = rng.integers(0, 7, 40), rng.integers(-1, 7, 40), Tensor(draw(40, 9)), draw(7, 9)

    def gradient(*copies):
        """dL/dw for w in three places; of copies, if each place has its own."""
        w = [Tensor(table.copy(), requires_grad=True) for _ in copies]
        a, b, c = (w[i] for i in copies)
        head = lambda w: linear_cross_entropy(x, w, targets)
        if order == "tied":
            linear_cross_entropy(embedding(ids, a) * 2, b, targets).backward(8.0)
        elif order == "twice":
            (head(a) + 3 * head(b)).backward()
        elif order == "head last":                         # a gradient arrives while the array is lent
            loss = head(a)
            (loss + embedding(ids, b).astype(loss.dtype).sum()).backward()
        elif order == "dropped":
            head(a)
            head(b).backward()
        elif order == "another batch":
            head(a).backward()
            head(b).backward()
        elif order == "in between":
            one, other = head(a), head(b)
            other.backward()
            one.backward(2.0)
        return sum(t.grad.astype("f8") for t in w if t.grad is not None)

    with using(mode):
        np.testing.assert_allclose(gradient(0, 0, 0), gradient(0, 1, 2), rtol=1e-6, atol=1e-6)


# where arrays lie


def placed(arrays, rng, room=np.zeros(1 << 18, np.uint8)):  # noqa: B008
    """Copies, one behind the other in any order, with gaps of a few bytes or none."""
    at, found = -room.ctypes.data % 64 + int(rng.integers(4)) * 16, [None] * len(arrays)
    for i in rng.permutation(len(arrays)):
        a = arrays[i]
        found[i] = room[at:at + a.nbytes].view(a.dtype).reshape(a.shape)
        found[i][...] = a
        at += a.nbytes + int(rng.choice([0, 0, 0, 8, 16, 32, 48]))
    return found


def place_cases(N, D, rng):
    """{kernel: (call, arrays, which of them are written)}"""
    from minigrad.fused import adamw_cpu, cross_entropy_cpu, layer_norm_cpu, softmax_cpu
    from minigrad.sums_cpu import _sum_rows

    def some(*shape):
        return rng.standard_normal(shape).astype("f4")

    x, dy, w, to, row = some(N, D), some(N, D), some(D), np.zeros((N, D), "f4"), np.zeros(N, "f4")
    numbers = tuple(map(np.float32, (0.99, 0.1, 0.95, 0.05, 0.01, 0.3, 1e-8, 0.7)))
    return {
        "layer_norm": (lambda *a: layer_norm_cpu._forward(*a[:3], 1e-5, *a[3:], 0, N), [x, w, w, to, row, row],
                       [3, 4, 5]),
        "layer_norm backward": (lambda *a: layer_norm_cpu._backward(*a, 0, 2),
                                [dy, x, w, row, row + 1, to, np.zeros((2, 2 * D), "f4")], [5, 6]),
        "softmax": (lambda *a: softmax_cpu._forward(*a, False, 0, N), [x, to], [1]),
        "softmax backward": (lambda *a: softmax_cpu._backward(*a, False, 0, N), [dy, x, to], [2]),
        "cross_entropy": (lambda z, losses, y: cross_entropy_cpu._rows(z, z, y, 0.1, True, losses, 0, N),
                          [x, row, np.zeros(N, np.int64)], [0, 1]),
        "adamw": (lambda *a: adamw_cpu._adamw(*a, numbers, 0, N), [row + 1, row + 2, row + 3, row + 4], [0, 2, 3]),
        "sum_rows": (lambda *a: _sum_rows(*a, 0, D), [x, w], [1]),
    }


@pytest.mark.parametrize("N, D", [(8, 9), (17, 16), (33, 24)])
def test_where_arrays_lie_changes_no_bit(N, D):
    """Neighbours are not mistaken for overlaps, for which LLVM has another loop, with sums in another order."""
    rng = np.random.default_rng(0)
    for name, (call, arrays, written) in place_cases(N, D, rng).items():
        want = [a.copy() for a in arrays]
        call(*want)
        for _ in range(300):
            found = placed(arrays, rng)
            call(*found)
            for i in written:
                assert found[i].tobytes() == want[i].tobytes(), name
