"""Kernels that go through rows, beyond the small shapes of opcases.py: rows that fill a lane, a warp, a block, and more
rows than there are warps to take them; ids that occur often; squares of which half is hidden."""
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from opcases import Case
from test_cuda_ops import TOL
from test_ops import close, run

from gpt import GPT, GPTConfig
from minigrad import kernels, sums, sums_gpu, tensor, using
from minigrad.backend import dtype_of
from minigrad.cuda import cuda
from minigrad.emulator import emulator
from minigrad.fused import columns_gpu, embedding_gpu, layer_norm_gpu, linear_gpu, softmax_gpu
from minigrad.fused.dropout import dropout
from minigrad.fused.embedding import embedding
from minigrad.fused.layer_norm import add_layer_norm, layer_norm
from minigrad.fused.softmax import log_softmax, softmax
from minigrad.ops import elementwise
from minigrad.recompute import recompute
from minigrad.slot import DONE, SKIP, Slot

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
every_dtype = pytest.mark.parametrize("dtype", TOL)


@pytest.fixture
def few_blocks(monkeypatch):
    """Each team of layer_norm.cu's backward has several rows."""
    monkeypatch.setattr(layer_norm_gpu, "MULTIPROCESSORS", 1)


@every_dtype
@pytest.mark.parametrize("D", [9, 767, 768, 769, 1600, 3072, 3073])
def test_layer_norm_of_rows_of_any_length(D, dtype, few_blocks):
    """A warp takes up to 768 entries, a block of two up to 1536, of four up to 3072."""
    case = Case(layer_norm, [(19 if D < 769 else 9, D), (D,), (D,)])
    arrays = case.arrays(dtype)
    close(run(layer_norm, arrays, {}, "emulated"), run(layer_norm, arrays, {}, "reference"), TOL[dtype], f"D = {D}")


def test_layer_norm_of_zeros():
    """Exactly zero, as is their mean: what fills the packs behind a row adds nothing."""
    x, ones = np.zeros((3, 8), "f2"), np.ones(8, "f2")
    with using("emulated"):
        y, (_, _, mu, _) = kernels.choose(layer_norm, [x])[0](x, ones, 0 * ones)
    assert not y.any() and not mu.any()


@every_dtype
def test_layer_norm_does_not_depend_on_the_schedule(dtype, few_blocks):
    got = []
    for D in (100, 800):
        arrays = Case(layer_norm, [(21, D), (D,), (D,)]).arrays(dtype)
        for backwards, early in emulator.SCHEDULES:
            with emulator.schedule(backwards, early):
                got.append(run(layer_norm, arrays, {}, "emulated"))
        for other in got[1:]:
            for a, b in zip(got[0], other, strict=True):
                np.testing.assert_array_equal(a, b)
        got.clear()


def moved(a, begin):
    """The same, so many entries behind a multiple of 16 bytes."""
    room = np.zeros(a.size + begin, a.dtype)
    room[begin:] = a.reshape(-1)
    return room[begin:].reshape(a.shape)


@every_dtype
@pytest.mark.parametrize("case", [
    Case(layer_norm, [(9, 24), (24,), (24,)]), Case(softmax, [(9, 24)]), Case(embedding, [np.arange(9) // 3, (4, 24)]),
    Case(dropout, [(9, 24)], dict(p=0.4, key=(1, 2, 3, 4)))], ids=str)
def test_rows_that_begin_anywhere(case, dtype):
    """They need not be aligned, though their length would allow it."""
    arrays = case.arrays(dtype)
    want = run(case.op, arrays, case.params, "reference")
    for begin in range(1, 8):
        got = run(case.op, arrays, case.params, "emulated", lambda a, begin=begin: moved(a, begin))
        close(got, want, TOL[dtype], f"moved by {begin}")


@every_dtype
def test_columns_of_rows_that_begin_anywhere(dtype):
    x = np.random.default_rng(0).uniform(-1, 1, (9, 24)).astype(dtype_of(dtype))
    for begin in range(1, 8):
        sums = columns_gpu.add_rows(linear_gpu.column_sums(moved(x, begin)), None)
        close(sums, [x.astype("f8").sum(0)], TOL["float32"], f"moved by {begin}", dtypes=False)


@every_dtype
@pytest.mark.parametrize("D", [24, 800, 3073])
def test_layer_norm_adds_its_gradient_to_what_there_is(D, dtype):
    """The residual path: x + f(layer_norm(x)). The sum is rounded once; the last width is the reference's."""
    x, w, b, dy, more = (np.random.default_rng(k).standard_normal((5, D)[k in (1, 2):]).astype(dtype_of(dtype))
                         for k in range(5))
    with using("emulated"):
        forward, backward = kernels.choose(layer_norm, [x, w, b])
        y, saved = forward(x, w, b)
        alone, together = (backward(dy, *saved, into=(None,) * 3, so_far=g) for g in (None, more))
    assert together[0].dtype == x.dtype
    close(together, [alone[0].astype("f4") + more.astype("f4"), *alone[1:]], TOL[dtype], "so_far", dtypes=False)


@every_dtype
@pytest.mark.parametrize("D", [24, 800, 3073])
def test_a_sum_and_its_layer_norm(D, dtype, few_blocks):
    """Both outputs to the bit what one op after the other gives. A gradient that nobody sends is none."""
    case = Case(add_layer_norm, [(19, D), (19, D), (D,), (D,)])
    x, r, w, b = arrays = case.arrays(dtype)
    close(run(add_layer_norm, arrays, {}, "emulated"), run(add_layer_norm, arrays, {}, "reference"), TOL[dtype], f"{D}")
    with using("emulated"):
        (forward, backward), (norm, norm_backward) = (kernels.choose(op, arrays) for op in (add_layer_norm, layer_norm))
        (s, y), saved = forward(*arrays)
        np.testing.assert_array_equal(s, sums.plus.reference(x, r))
        np.testing.assert_array_equal(y, norm(s, w, b)[0])
        for ds in (None, x):
            for got, want in zip(backward((ds, r), *saved)[1:], norm_backward(r, *saved, so_far=ds), strict=True):
                np.testing.assert_array_equal(got, want)
        assert [g is x for g in backward((x, None), *saved)] == [True, True, False, False]


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_block_that_is_computed_again_keeps_every_bit(pre_norm):
    found, ids = [], np.arange(12).reshape(2, 6)
    for around in (None, recompute):
        model = GPT(GPTConfig(vocab_size=13, block_size=6, n_layer=2, n_head=2, n_embd=16, pre_norm=pre_norm), seed=0)
        for block in model.h:
            block.around = around
        with using("emulated"):
            model.loss(ids, ids).backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_pass_is_taken_to_add_up_a_residual_path(monkeypatch):
    """In GPT-2 every sum on the way back is a layer norm's."""
    calls, own = [], tensor.plus
    monkeypatch.setattr(tensor, "plus", lambda a, b, out=None: calls.append(a.shape) or own(a, b, out))
    found, ids = {}, np.arange(12).reshape(2, 6)
    for mode in ("reference", "emulated"):
        model = GPT(GPTConfig(vocab_size=13, block_size=6, n_layer=2, n_head=2, n_embd=16), seed=0)
        with using(mode):
            model.loss(ids, ids).backward()
        found[mode], calls[:] = ([p.grad for p in model.parameters()], len(calls)), []
    close(found["emulated"][0], found["reference"][0], 1e-4, "gradients")
    assert found["reference"][1] == 4 and found["emulated"][1] == 0


@every_dtype
@pytest.mark.parametrize("D", [9, 1024, 1025, 1600, 16385])
@pytest.mark.parametrize("op", [softmax, log_softmax], ids=repr)
def test_softmax_of_rows_of_any_length(op, D, dtype):
    """A warp holds up to 1024 entries, a block 16384; longer ones are read again. What lies behind a row, zeros for
    instance, is no entry, even where all entries are far below."""
    x, = Case(op, [(5 if D < 9999 else 1, D)], low=-4, high=4).arrays(dtype)
    for arrays in [x], [x - x.dtype.type(200)]:
        close(run(op, arrays, {}, "emulated"), run(op, arrays, {}, "reference"), TOL[dtype], f"D = {D}")


@every_dtype
@pytest.mark.parametrize("T", [64, 70])
@pytest.mark.parametrize("entries, most", [(32, 512), (1, 512), (1, 32)])
def test_causal_softmax_by_a_warp_a_block_and_in_pieces(entries, most, T, dtype, monkeypatch):
    """What stands above the diagonal makes no difference, in x or in dy."""
    monkeypatch.setattr(softmax_gpu, "ENTRIES", entries)
    monkeypatch.setattr(softmax_gpu, "MOST", most)
    x, dy = (np.random.default_rng(k).uniform(-4, 4, (2, T, T)).astype(dtype_of(dtype)) for k in range(2))
    found = []
    for mode, above in (("reference", 0), ("emulated", np.inf), ("emulated", np.nan), ("auto", np.nan)):
        with using(mode):
            forward, backward = kernels.choose(softmax, [x])
            p, saved = forward(np.where(np.tri(T, dtype=bool), x, x.dtype.type(above)), causal=True)
            found.append([p, *backward(np.where(np.tri(T, dtype=bool), dy, x.dtype.type(above)), *saved)])
        assert not np.triu(p, 1).any() and not np.triu(found[-1][1], 1).any()
        close(found[-1], found[0], TOL[dtype], f"{mode}, {above}")


@pytest.mark.parametrize("N, D", [(1, 1), (15, 33), (100, 31), (1100, 16), (0, 5)])
def test_columns_are_added_up(N, D):
    parts, slot = np.random.default_rng(0).standard_normal((N, 2, D)).astype("f"), Slot(np.full(D, np.nan, "f"))
    assert columns_gpu.add_rows(parts, SKIP, SKIP) == [None, None]
    none, second = columns_gpu.add_rows(parts, SKIP, None)
    assert none is None
    np.testing.assert_allclose(second, parts[:, 1].sum(0), rtol=1e-5, atol=1e-5)
    for times in (1, 2):                                                  # the first one does not see the NaN
        done, second = columns_gpu.add_rows(parts, slot, None)
        assert done is DONE
        np.testing.assert_allclose([slot.array, second], parts.sum(0) * [[times], [1]], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(columns_gpu.add_rows(parts[:, 1:], None)[0], parts[:, 1].sum(0), rtol=1e-5, atol=1e-5)


@given(lengths=st.lists(st.integers(0, 140), min_size=1, max_size=12), V=st.sampled_from([1, 200, 256, 257, 70000]),
       C=st.sampled_from([1, 8, 19]), dtype=st.sampled_from(list(TOL)), seed=st.integers(0, 99),
       empty=st.booleans(), schedule=st.sampled_from(emulator.SCHEDULES))
@example(lengths=[31, 1, 32], V=7000, C=8, dtype="float32", seed=0, empty=False, schedule=(False, False))  # none is cut
@example(lengths=[8300], V=1, C=1, dtype="float32", seed=0, empty=True, schedule=(True, True))  # over 259 chunks
@settings(max_examples=25)
def test_rows_of_equal_ids_are_added_up(lengths, V, C, dtype, seed, empty, schedule):
    """Each id as often as drawn: inside a chunk, up to its end, over several. What a slot held stays, if it is full."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(np.repeat(rng.integers(0, V, len(lengths)), lengths))
    w, dy = (rng.standard_normal((n, C)).astype(dtype_of(dtype)) for n in (V, len(ids)))
    slot = Slot(rng.standard_normal((V, C)).astype("f"))
    slot.empty, want = empty, slot.array.astype("f8") * (not empty)
    np.add.at(want, ids, dy.astype("f8"))
    with using("emulated"), emulator.schedule(*schedule):
        _, backward = kernels.choose(embedding, [ids, w])
        assert backward(dy, ids, w, into=(SKIP, slot)) == (None, DONE)
    np.testing.assert_allclose(slot.array, want, rtol=1e-5, atol=1e-5)


LENGTHS = [1, 31, 32, 33, 63, 64, 65, 95, 96, 97, 130]


@pytest.mark.parametrize("begin, length", [(b, n) for b in (0, 1, 31, 32) for n in LENGTHS] + [(1055, 97)])
def test_a_run_of_equal_ids_may_end_anywhere(begin, length):
    """In its chunk of 32, in the next or beyond, there or one row off, as the last rows or not, or before a run that
    ends with the next chunk. Rows are wider than a block of join(); those of no id become 0."""
    for behind in ([], [1], [2] * 20, [64 - (begin + length) % 32]):
        runs = [1] * begin + [length] + behind
        ids, rng = np.repeat(np.arange(len(runs)), runs), np.random.default_rng(length)
        dy, want = rng.standard_normal((len(ids), 300)).astype("f"), np.zeros((len(runs) + 3, 300))
        ids, slot = ids[order := rng.permutation(len(ids))], Slot(np.full(want.shape, np.nan, "f"))
        np.add.at(want, ids, dy[order].astype("f8"))
        with using("emulated"):
            _, backward = kernels.choose(embedding, [ids, slot.array])
            assert backward(dy[order], ids, slot.array, into=(SKIP, slot)) == (None, DONE)
        np.testing.assert_allclose(slot.array, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("V", [2, 300, 70000])
@pytest.mark.parametrize("N, stretches", [(5, 64), (2100, 64), (2100, 2), (3000, 1), (0, 64)])
def test_sorting_keeps_the_order_of_equals(V, N, stretches, monkeypatch):
    monkeypatch.setattr(embedding_gpu, "STRETCHES", stretches)
    ids = np.random.default_rng(N).integers(0, V, N)
    for schedule in emulator.SCHEDULES:
        with emulator.schedule(*schedule):
            order = embedding_gpu.in_order(ids, V, cuda("embedding", "float32"))
        np.testing.assert_array_equal(order[:, 1], np.argsort(ids, kind="stable"))
        np.testing.assert_array_equal(order[:, 0], np.sort(ids))


def test_sorting_by_as_many_blocks_as_there_may_be():
    ids = np.random.default_rng(0).integers(0, 2, embedding_gpu.STRETCHES * embedding_gpu.SORTERS)
    order = embedding_gpu.in_order(ids, 2, cuda("embedding", "float32"))
    np.testing.assert_array_equal(order[:, 1], np.argsort(ids, kind="stable"))


@every_dtype
@pytest.mark.parametrize("wrong", [-1, 50, 300, 2 ** 31, 2 ** 40, -2 ** 63])
def test_an_id_that_is_no_row_gives_nan_and_touches_no_other_memory(dtype, wrong, monkeypatch):
    """A GPU's host would have to wait to refuse it."""
    monkeypatch.setattr(embedding_gpu.formula, "check", lambda ids, w: None)
    ids, w = np.array([3, wrong, 49]), np.ones((50, 12), dtype_of(dtype))
    slot = Slot(np.zeros((50, 12), "f"))
    with using("emulated"):
        y, _ = kernels.choose(embedding, [ids, w])[0](ids, w)
        kernels.choose(embedding, [ids, w])[1](y, ids, w, into=(SKIP, slot))
    np.testing.assert_array_equal(np.isnan(y.astype("f")).all(1), [False, True, False])
    assert (slot.array[3] == 1).all() and np.isnan(slot.array[49]).all() and not slot.array[np.r_[:3, 4:49]].any()


# ------------------------------------------------------------------------------------------------ sums of arrays

@every_dtype
@pytest.mark.parametrize("shape, last", [((3, 5, 8), 3), ((3, 5, 8), 2), ((3, 5, 8), 1), ((700, 3), 1), ((2, 1), 1),
                                         ((5000,), 1), ((0, 4), 1)])
def test_plus_repeats_what_is_added(shape, last, dtype):
    """b as often as a has leading entries; packs of 16 bytes that end inside b, or hold it several times."""
    a, b = (np.random.default_rng(k).standard_normal(s).astype(dtype_of(dtype))
            for k, s in enumerate((shape, shape[len(shape) - last:])))
    want = sums.plus.reference(a, b)
    with using("emulated"):
        np.testing.assert_array_equal(sums.plus(a, b), want)
        np.testing.assert_array_equal(elementwise.add(a, b).data, want)
        if a.shape == b.shape:
            total = a.copy()
            assert sums.plus(total, b, total) is total
            np.testing.assert_array_equal(total, want)


@every_dtype
@pytest.mark.parametrize("N, D", [(1, 1), (70, 9), (3, 2100), (0, 5)])
def test_rows_are_summed(N, D, dtype, monkeypatch):
    monkeypatch.setattr(sums_gpu, "COLUMNS", 1)
    g = np.random.default_rng(0).standard_normal((N, D)).astype(dtype_of(dtype))
    with using("emulated"):
        close([sums.sum_rows(g)], [sums.sum_rows.reference(g)], TOL["float32"], "sum_rows")


def test_what_a_kernel_cannot_add_is_left_to_the_array_library():
    a, odd = np.ones((4, 6), "f"), np.ones((4, 12), "f")[:, ::2]
    with using("emulated"):
        for x, y in ((a, odd), (odd, a), (a, np.ones((4, 1), "f")), (a[:1], a), (a, a.astype("f8"))):
            np.testing.assert_array_equal(elementwise.add(x, y).data, np.full((4, 6), 2.0))
        assert sums.sum_rows(np.ones((2, 3), "f")).tolist() == [2, 2, 2]
