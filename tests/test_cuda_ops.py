"""CUDA kernels, run by the emulator: the table of opcases.py in every dtype and schedule, gradients, a training run."""
import functools

import numpy as np
import pytest
from opcases import CASES
from test_ops import close, data_of, floats, run, some_dy, tuple_of

from gpt import GPT, GPTConfig
from minigrad import Tensor, blas_gpu, cublaslt, kernels, using
from minigrad.backend import dtype_of, moment
from minigrad.cuda import cuda
from minigrad.emulator import emulator
from minigrad.fused import cross_entropy_gpu, linear_gpu
from minigrad.fused.adamw import adamw, masters, sum_of_squares
from minigrad.fused.columns_gpu import add_rows
from minigrad.fused.cross_entropy import rows_loss
from minigrad.fused.dropout import counter_and_keys, dropout, philox
from minigrad.fused.gelu import gelu
from minigrad.fused.mlp import feed_forward
from minigrad.fused.relu import relu
from minigrad.kernels import probe
from minigrad.ops.matmul import matmul
from minigrad.slot import SKIP, Slot
from minigrad.tensor import propagate
from nn import AdamW, clip_grad_norm

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)

TOL = {"float32": 2e-5, "float16": 2e-3, "bfloat16": 1e-2}               # relative to the largest entry
KERNELS = [c for c in CASES if "gpu" in c.op.kernels]
AFTER = ("linear", "mlp")                                                   # more may happen after their products
every_case = pytest.mark.parametrize("case", KERNELS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", TOL)
in_every_schedule = pytest.mark.parametrize("backwards, early", emulator.SCHEDULES)


@pytest.fixture(autouse=True)
def _extremes_are_meant():
    with np.errstate(all="ignore"):
        yield


def no_denormals(a):
    """CuPy has kernels compiled with -ftz=true: float32's denormals count as 0, and so in the emulator."""
    return np.where(np.abs(a) < 2.0 ** -126, 0, a).astype(a.dtype) if floats(a) else a


@every_case
@every_dtype
def test_kernel_agrees_with_the_reference(case, dtype):
    arrays = [no_denormals(a) for a in case.arrays(dtype)]
    want = run(case.op, arrays, case.params, "reference")
    for backwards, early in emulator.SCHEDULES:
        with emulator.schedule(backwards, early):
            close(run(case.op, arrays, case.params, "emulated"), want, TOL[dtype], f"emulated {dtype}")


@pytest.mark.parametrize("case", KERNELS, ids=str)
def test_float64_has_no_kernel(case):
    arrays = case.arrays("float64")
    want = run(case.op, arrays, case.params, "reference")
    close(run(case.op, arrays, case.params, "emulated"), want, 1e-14, "float64")


@pytest.mark.parametrize("case", [c for c in KERNELS if c.op.name in AFTER], ids=str)
@every_dtype
def test_what_cublaslt_refuses_is_done_by_kernels(case, dtype, monkeypatch):
    arrays = case.arrays(dtype)
    want = run(case.op, arrays, case.params, "reference")
    monkeypatch.setattr(blas_gpu, "context", functools.cache(blas_gpu.context.__wrapped__))
    for name in set(cublaslt.EPILOGUE) - {"DEFAULT", "BIAS"}:
        monkeypatch.setitem(cublaslt.EPILOGUE, name, 99)
    close(run(case.op, arrays, case.params, "emulated"), want, TOL[dtype], f"apart {dtype}")


@pytest.mark.parametrize("leaf", [False, True])
def test_gradients_that_will_be_added_up_are_not_rounded_before(leaf):
    a, b = np.ones((1, 3, 4), "f2"), np.ones((3, 4, 2), "f2")
    with using("emulated"):
        forward, backward = kernels.choose(matmul, [a, b])
        y, saved = forward(a, b)
        da, db = backward(y, *saved, into=(None, Slot(np.zeros(b.shape, "f")) if leaf else None))
    assert da.dtype == "f4" and db.dtype == ("f4" if leaf else "f2")


@every_dtype
@pytest.mark.parametrize("N, D", [(1, 1), (63, 300), (65, 128), (300, 257), (0, 3)])
@pytest.mark.parametrize("blocks", [528, 6])
def test_column_sums(dtype, N, D, blocks, monkeypatch):
    x = np.random.default_rng(0).uniform(-1, 1, (N, D)).astype(dtype_of(dtype))
    monkeypatch.setattr(linear_gpu, "BLOCKS", blocks)
    parts = linear_gpu.column_sums(x)
    assert parts.shape[1:] == (1, D) and len(parts) * -(-D * x.itemsize // 512) <= blocks
    close(add_rows(parts, None), [x.astype("f8").sum(0)], TOL["float32"], "sums", dtypes=False)
    assert not linear_gpu.column_sums(np.zeros_like(x)).any()            # exactly: what is not there adds nothing


def test_an_mlp_is_one_op_on_a_gpu():
    x, parameters = Tensor(np.ones((2, 8), "f")), [np.ones(shape, "f") for shape in ((8, 16), 16, (16, 8), 8)]
    for mode, activation, ops in [("emulated", gelu, ["mlp"]), ("emulated", relu, ["linear", "relu", "linear"]),
                                  ("auto", gelu, ["linear", "gelu", "linear"])]:
        seen = []
        with using(mode), probe(lambda name, arrays, outputs, seen=seen: seen.append(name)):
            feed_forward(x, *parameters, activation)
        assert seen == ops


def test_cublaslt_does_it_where_it_can(monkeypatch):
    fresh = functools.cache(blas_gpu.context.__wrapped__)
    monkeypatch.setattr(blas_gpu, "context", fresh)
    case = next(c for c in KERNELS if c.op.name == "mlp")
    run(case.op, case.arrays("float16"), case.params, "emulated")
    epilogues = [kind.epilogue for kind in fresh(np, 0).plans]
    assert sorted(epilogues) == ["BGRADA", "BGRADA", "BIAS", "DEFAULT", "DGELU", "GELU_AUX_BIAS"]


@pytest.mark.parametrize("case", [c for c in KERNELS if "cross_entropy" in c.op.name], ids=str)
@every_dtype
def test_rows_that_do_not_fit_in_shared_memory_in_many_chunks(case, dtype, monkeypatch):
    arrays = [no_denormals(a) for a in case.arrays(dtype)]
    want = run(case.op, arrays, case.params, "reference")
    monkeypatch.setattr(cross_entropy_gpu, "shared_memory", lambda xp: 0)
    monkeypatch.setattr(cross_entropy_gpu, "CHUNK", 1)
    close(run(case.op, arrays, case.params, "emulated"), want, TOL[dtype], f"emulated {dtype}")


@every_dtype
@pytest.mark.parametrize("V, width, e", [(1, 8, 0.1), (9, 16, 0.0), (61, 64, 0.1), (64, 64, 0.0), (700, 704, 0.0),
                                         (701, 701, 0.1)])
def test_rows_wider_than_the_vocabulary(dtype, V, width, e, monkeypatch):
    """What is beyond V counts for nothing, and its g is 0. A row in global memory ends as one in shared does."""
    rng, got = np.random.default_rng(0), []
    z, y = rng.uniform(-9, 9, (4, width)).astype(dtype_of(dtype)), np.array([0, V - 1, -1, V])
    z[1, 8:60] = z[1, 8:60] if e else -np.inf                            # whole threads see nothing else
    for room in (emulator.MOST_SHARED, 0):
        monkeypatch.setattr(cross_entropy_gpu, "shared_memory", lambda xp, room=room: room)
        losses, g = np.ones(4, "f"), z.copy()
        cross_entropy_gpu.rows(g, y, V, e, g, losses)
        got.append((losses, g))
    want, slopes = rows_loss(z[:3, :V].astype("f"), y[:3], e, True)
    close([got[0][0][:3], got[0][1][:3, :V]], [want, slopes], TOL[dtype], "rows", dtypes=False)
    assert np.isnan(got[0][0][3])                                        # there is no token V
    for losses, g in got:
        assert not g[:, V:].any() and not g[2].any()
        np.testing.assert_array_equal(losses, got[0][0])
        np.testing.assert_array_equal(g, got[0][1])


@every_dtype
@pytest.mark.parametrize("N, V, e, begin", [(3, 5, 0.1, 1), (3, 33, 0.0, 1), (3, 301, 0.1, 1), (70, 29, 0.0, 1),
                                            (6, 29, 0.1, 2)])
def test_logits_that_begin_anywhere(dtype, N, V, e, begin):
    """16 bytes do not begin at the same entries of a row and of its gradient. Of a token beyond V nothing is taken
    off."""
    rng, y = np.random.default_rng(0), np.resize([V - 1, -1, 0], N)
    z, n = rng.uniform(-9, 9, N * V + begin).astype(dtype_of(dtype))[begin:].reshape(N, V), (y >= 0).sum()
    loss, saved = cross_entropy_gpu.forward(z, y, label_smoothing=e)
    losses, want = rows_loss(z.astype("f8"), y, e, True)
    dz, _ = cross_entropy_gpu.backward(np.float32(n), *saved)
    close([loss, dz], [losses.sum() / n, want], TOL[dtype], "cross_entropy", dtypes=False)
    saved[4][0], want[0, V - 1] = V, want[0, V - 1] + 1 - e
    close(cross_entropy_gpu.backward(np.float32(n), *saved)[:1], [want], TOL[dtype], "no such token", dtypes=False)


@pytest.mark.parametrize("e", [0.0, 0.1])
@pytest.mark.parametrize("m", [0.7, 1234.5, -1e6, 1e9, 2.0 ** 30, 1490029600, 1490037400, -(2.0 ** 31), 1e30, 2e38])
def test_losses_of_large_logits(m, e):
    """2^(c z - b) is exp(z - m) but for a factor, which is taken out again; it must not be infinite."""
    z = (np.float32(m) - np.abs(np.spacing(np.float32(m))) * np.array([[3, 0, 1, 1e6], [0, 0, 0, 0]], "f")).astype("f")
    losses, g, y = np.ones(2, "f"), z.copy(), np.array([0, 2])
    cross_entropy_gpu.rows(g, y, 4, e, g, losses)
    close([losses, g], rows_loss(z.astype("f8"), y, e, True), TOL["float32"], "rows", dtypes=False)


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_what_a_slot_held_counts_only_if_it_is_added_to(beta):
    x, factor, out = np.arange(7, dtype="f"), np.full(1, 0.5, "f"), np.full(7, 3 if beta else np.nan, "f")
    cuda("cross_entropy", "float32").add_scaled[1, 32](x, factor, np.int64(7), beta, out)
    np.testing.assert_array_equal(out, 0.5 * x + 3 * beta)


def test_an_odd_vocabulary_is_padded_with_zeros():
    w, even = np.ones((70, 3), "f2"), np.ones((72, 3), "f2")
    wider = cross_entropy_gpu.padded(w)
    assert wider.shape == (128, 3) and (wider[:70] == 1).all() and not wider[70:].any() and wider.dtype == w.dtype
    assert cross_entropy_gpu.padded(even) is even


def test_chunks_are_equal_and_few():
    for rows, bytes_of_row, want in [(65536, 50304 * 2, 9472), (1, 8, 128), (0, 8, 128), (128, 1 << 31, 128)]:
        assert cross_entropy_gpu.rows_of_chunk(rows, bytes_of_row) == want


@every_dtype
@pytest.mark.parametrize("k", range(8))
def test_the_least_word_that_keeps_an_entry(k, dtype):
    """p is one of the random words: its own entry stays."""
    key = 1, 2, 3, 4
    words = np.stack(philox((np.arange(2, dtype="u8"), *counter_and_keys(key)[0]), counter_and_keys(key)[1]), -1)
    arrays, params = [np.ones(8, dtype_of(dtype))], dict(p=int(words.reshape(-1)[k]) / 2 ** 32, key=key)
    got = run(dropout, arrays, params, "emulated")
    assert got[0][k] > 0
    close(got, run(dropout, arrays, params, "reference"), TOL[dtype], "dropout")


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("n, step", [(1, 1), (1000, 1), (1003, 7)])
def test_adamw(dtype, n, step):
    rng, got = np.random.default_rng(0), {}
    start = [rng.standard_normal(n).astype(dtype_of(dtype)), *rng.standard_normal((2, n)).astype("f"),
             rng.random(n).astype("f")]
    for mode in ("reference", "emulated"):
        p, g, m, v = (a.copy() for a in start)
        master = masters(p)
        with using(mode):
            adamw(p, g, m, v, master, lr=0.1, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.1, step=step, scale=0.5)
            got[mode] = [p, m, v, sum_of_squares(g), *([] if master is None or dtype == "bfloat16" else [master])]
    close(got["emulated"], got["reference"], TOL[dtype], "adamw")


def test_a_bfloat16_weight_that_is_no_number_stays_none():
    p, g = np.ones(32, dtype_of("bfloat16")), np.ones(32, "f4")
    g.view("u4")[3], rest = 0x7fffffff, masters(p)                       # the NaN of a GPU
    with using("emulated"):
        adamw(p, g, *np.zeros((2, 32), "f4"), rest, lr=0.1, beta1=0.9, beta2=0.95, eps=1e-8, decay=0.1, step=1)
    assert np.flatnonzero(np.isnan(p.astype("f4"))).tolist() == [3] and rest[3] == 0


@pytest.mark.parametrize("case", [c for c in KERNELS if c.smooth], ids=str)
def test_gradients_by_finite_differences(case):
    """The backward kernel against differences of the forward kernel, in float32, along one random direction. Each entry
    of y is rounded; a loss is what is left of larger numbers that were."""
    arrays, rng = case.arrays("float32"), np.random.default_rng(2)
    along = [rng.uniform(-1, 1, a.shape).astype("f") if floats(a) else None for a in arrays]
    with using("emulated"):
        forward, backward = kernels.choose(case.op, arrays)
        y, saved = forward(*arrays, **case.params)
        v = some_dy(y)
        got = backward(v, *saved, into=tuple(None if floats(a) else SKIP for a in arrays))
        slope = sum((da.astype("f8") * d).sum() for da, d in zip(got, along, strict=True) if d is not None)

        def value(h):
            moved = [a if d is None else a + np.float32(h) * d for a, d in zip(arrays, along, strict=True)]
            ys = tuple_of(forward(*moved, **case.params)[0])
            return sum((y.astype("f8") * dy).sum() for y, dy in zip(ys, tuple_of(v), strict=True))

        h = 2.0 ** -6
        differences = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
    size = sum(np.abs(da.astype("f8") * d).sum() for da, d in zip(got, along, strict=True) if d is not None)
    pairs = zip(tuple_of(y), tuple_of(v), strict=True)
    noise = 2.0 ** -24 / h * sum((np.maximum(np.abs(y.astype("f8")), case.wide) * np.abs(dy)).sum() for y, dy in pairs)
    assert abs(slope - differences) <= 2e-4 * size + 4 * noise


@every_case
def test_gradients_arrive_in_slots(case):
    """Once and twice: they add up. One at a time: the others are skipped. What an empty slot holds does not count."""
    arrays = case.arrays("float32")
    with using("emulated"):
        returned = run(case.op, arrays, case.params, "emulated")[-len(arrays):]
        wanted = [k for k, a in enumerate(arrays) if floats(a)]
        for which in [wanted] + [[k] for k in wanted] * (len(wanted) > 1):
            args = [Tensor(a, requires_grad=k in which) if floats(a) else a for k, a in enumerate(arrays)]
            for k in which:
                args[k].slot = Slot(np.full(arrays[k].shape, np.nan, "f"))
            for times in (1, 2):
                y = case.op(*args, **case.params)
                propagate([*zip(tuple_of(y), tuple_of(some_dy(data_of(y))), strict=True)])
                for k in which:
                    if np.isfinite(returned[k]).all():
                        close([args[k].grad], [times * returned[k]], 4 * TOL["float32"], f"argument {k}")


def losses(mode, dtype, steps):
    """Of a GPT with two layers that learns one sequence by heart, with dropout."""
    config = GPTConfig(vocab_size=61, block_size=16, n_layer=2, n_head=2, n_embd=24, dropout=0.1)
    model = GPT(config, seed=0).to(dtype=dtype)
    opt, seen = AdamW(model.parameters(), lr=1e-2), []
    data = np.random.default_rng(0).integers(0, 61, (2, 17))
    with using(mode):
        for step in range(steps):
            with moment(seed=1, step=step, micro=0):
                loss = model.loss(data[:, :-1], data[:, 1:])
                loss.backward()
            clip_grad_norm(opt, 1.0)
            opt.step()
            opt.zero_grad()
            seen.append(float(loss.data))
    return np.array(seen)


@pytest.mark.parametrize("dtype, tol", [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 5e-2)])
def test_training_follows_the_reference(dtype, tol, monkeypatch):
    want = losses("reference", dtype, 20)
    launched, run = set(), emulator.Kernel.__call__

    def counted(kernel, *args, **how):
        launched.add(kernel.name)
        run(kernel, *args, **how)

    monkeypatch.setattr(emulator.Kernel, "__call__", counted)
    got = losses("emulated", dtype, 20)
    assert launched >= {"forward", "backward", "drop", "rows_kept", "add_scaled", "add_rows", "adamw", "squares"}
    np.testing.assert_allclose(got, want, rtol=tol)
    assert got[-1] < got[0] - 1                                           # it did learn
