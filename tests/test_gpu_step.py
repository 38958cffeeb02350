"""A training step on a GPU waits for nothing: what decides it lies on the device, and is heard of a step later."""
import math
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_cuda_ops import TOL, in_every_schedule
from test_ops import close

from gpt import GPT, GPTConfig
from minigrad import backend, gpu, using
from minigrad.backend import dtype_of
from minigrad.emulator import emulator, fake_cupy
from minigrad.fused import adamw_gpu
from minigrad.fused.adamw import adamw, keep, masters, sum_of_squares, whole
from minigrad.fused.control import FACTOR, HOPELESS, LOSS, NORM, SIZE, STEPS, control
from nn import AdamW, clip_grad_norm
from train import checkpoint, log, run
from train.config import Config
from train.data import Ahead
from train.finite import NotFinite
from train.precision import Scale
from train.step import train_step

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
INF, NAN = math.inf, math.nan


# ------------------------------------------------------------------------------------------------ control

def decided(mode, loss, squares, S, k, hopeless, clip, rule, xp=np):
    c, s = xp.zeros(SIZE), xp.array([S, k])
    c[LOSS], c[HOPELESS], c[FACTOR] = loss, hopeless, 1.0
    with using(mode), np.errstate(all="ignore"):
        control(c, s, xp.asarray(squares), clip=clip, rule=rule)
    return c, s


@given(loss=st.sampled_from([0.0, 2.5, INF, NAN]), squares=st.sampled_from([0.0, 1e-8, 9.0, 1e30, INF, NAN]),
       S=st.sampled_from([1.0, 2.0 ** -14, 2.0 ** 16]), k=st.sampled_from([0.0, 1.0, 3.0]), hopeless=st.booleans(),
       clip=st.sampled_from([1.0, 0.1, INF]), moving=st.sampled_from([True, False, None]))
@example(2.5, 9.0, 2.0 ** 16, 3.0, False, 1.0, True)
@example(2.5, 9.0, 2.0 ** 16, 1.0, False, 1.0, True)
@example(2.5, INF, 2.0 ** 16, 3.0, False, 1.0, True)
@example(2.5, INF, 2.0 ** -14, 3.0, False, 1.0, True)
def test_the_kernel_decides_as_the_reference_does(loss, squares, S, k, hopeless, clip, moving):
    rule = None if moving is None else (moving, 2.0 ** -14, 4)
    want, got = (decided(mode, loss, squares, S, k, hopeless, clip, rule) for mode in ("reference", "emulated"))
    with fake_cupy.installed() as cp, fake_cupy.waits() as seen:
        there = decided("reference", loss, cp.asarray(squares), S, k, hopeless, clip, rule, cp)
    assert not seen
    for a, b, c in zip(want, got, there, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c.get())


def test_what_is_decided():
    def f(loss, squares, S=4.0, k=0, hopeless=False, moving=True):
        c, s = decided("reference", loss, squares, S, k, hopeless, 1.0, (moving, 0.5, 3))
        return c[NORM], c[FACTOR], bool(c[HOPELESS]), *s
    assert f(1.0, 4.0) == (0.5, 0.25, False, 4.0, 1)                       # a norm below clip: unscaled only
    assert f(1.0, 64.0)[:2] == (2.0, 1 / (2 + 1e-6) / 4)                   # clipped
    assert f(1.0, 4.0, k=2)[3:] == (8.0, 0)                                # the third in a row
    norm, factor, hopeless, *s = f(1.0, INF, k=2)
    assert (norm, hopeless, s) == (INF, False, [2.0, 0]) and math.isnan(factor)
    for how in (dict(loss=NAN, squares=4.0), dict(loss=1.0, squares=INF, S=0.5), dict(loss=1.0, squares=NAN, moving=0),
                dict(loss=1.0, squares=4.0, hopeless=True)):
        _, factor, hopeless, S, k = f(**how)
        assert math.isnan(factor) and hopeless and (S, k) == (how.get("S", 4.0), 0)


# ------------------------------------------------------------------------------------------------ adamw

HYPER = dict(lr=0.1, beta1=0.9, beta2=0.95, eps=0.1, decay=0.1, step=7)


@in_every_schedule
@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("n", [1, 7, 8, 4096, 9001])
def test_adamw_in_packs(dtype, n, backwards, early, monkeypatch):
    """More entries than the blocks hold at once, tails, and starts that are not aligned."""
    monkeypatch.setattr(adamw_gpu, "PROCESSORS", 1)
    rng, got = np.random.default_rng(n), {}
    start = [rng.standard_normal(n + 1).astype(dtype_of(dtype)), *rng.standard_normal((2, n + 1)).astype("f"),
             rng.random(n + 1).astype("f")]
    for mode in ("reference", "emulated"):
        for part in (slice(0, n), slice(1, None)):
            p, g, m, v = (a.copy()[part] for a in start)
            master = masters(p)
            with using(mode), emulator.schedule(backwards, early):
                adamw(p, g, m, v, master, scale=0.5, **HYPER)
                total = sum_of_squares(g)
            full = whole(p, master)
            got.setdefault(mode, []).extend([full.copy(), m, v, total])
            keep(full.copy(), again := np.zeros_like(p), np.zeros_like(master) if dtype == "bfloat16" else full)
            assert dtype == "float32" or again.tobytes() == p.tobytes()    # p is the rounding of the whole
    close(got["emulated"], got["reference"], TOL["float32"], "adamw")      # masters are float32, whatever p is


@pytest.mark.parametrize("mode", ["reference", "auto", "emulated"])
def test_a_tie_is_rounded_away_from_zero(mode):
    """A step of length 0 from halfway between two bfloat16, or from just below: everything is as it was."""
    values, rests = [1.5, -1.5, 1.5, -1.5], [-2 ** 15, -2 ** 15, 12345, 2 ** 15 - 1]
    p, rest = np.array(values, dtype_of("bfloat16")), np.array(rests, np.int16)
    with using(mode):
        adamw(p, *np.ones((3, 4), "f"), rest, **{**HYPER, "lr": 0.0})
    assert p.astype("f").tolist() == values and rest.tolist() == rests


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_adamw_of_16_bits_without_a_master(dtype):
    """An update is rounded away, or it is not; more than one pack of them."""
    found = []
    for mode in ("reference", "emulated"):
        p, g, m, v = np.random.default_rng(1).standard_normal((4, 100)).astype("f")
        p = p.astype(dtype_of(dtype))
        with using(mode):
            adamw(p, g, m, v ** 2, None, **HYPER)
        found.append(p)
    close(found[1:], found[:1], TOL[dtype], dtype)


@pytest.mark.parametrize("mode", ["reference", "auto", "emulated"])
@pytest.mark.parametrize("dtype", TOL)
def test_a_factor_that_is_none_changes_nothing(mode, dtype):
    p = np.ones(100, dtype_of(dtype))
    g, m, v, master = *np.full((3, 100), 2.0, "f"), masters(p)
    with using(mode):
        adamw(p, g, m, v, master, scale=NAN, **HYPER)
    assert (p == 1).all() and (m == 2).all() and (v == 2).all()


# ------------------------------------------------------------------------------------------------ a step

def make(device, dtype="float32", dropout=0.1):
    model = GPT(GPTConfig(vocab_size=61, block_size=16, n_layer=2, n_head=2, n_embd=24, dropout=dropout))
    return (model := model.to(device, dtype)), AdamW(model.parameters(), 1e-2)


def batches(device, n=2):
    rng = np.random.default_rng(0)
    found = [tuple(rng.integers(0, 61, (2, 16)) for _ in "xy") for _ in range(n)]
    return [tuple(backend.to_device(a, device) for a in pair) for pair in found]


@pytest.fixture
def cp():
    with fake_cupy.installed() as module:
        yield module


@pytest.mark.parametrize("dtype", TOL)
def test_a_step_waits_for_nothing(cp, dtype):
    model, opt = make("gpu", dtype)
    data, scale = batches("gpu"), Scale.of(dtype)
    train_step(model, opt, data, 1e-2, 0, Config(), scale)                 # kernels compile, products are timed
    with fake_cupy.waits() as seen:
        outcomes = [train_step(model, opt, data, 1e-2, n, Config(), scale, None, True) for n in (1, 2, 3)]
    assert not seen
    with fake_cupy.waits() as seen:
        losses = [outcome()[0] for outcome in outcomes]
    assert [re.match(r"[\w.]+", line)[0] for line in seen] == ["Event.synchronize"] * 3
    assert losses[2] < losses[0]


@pytest.mark.parametrize("dtype", TOL)
def test_steps_on_a_device_are_those_of_the_emulated_cpu(cp, dtype):
    """Overflows, a scale that moves, skipped steps: the same bits, since the same kernels run."""
    found, scales = [], [2.0 ** 60, 2.0 ** 59, 2.0 ** 10, 2.0 ** 10]
    for device in ("cpu", "gpu"):
        with using("emulated" if device == "cpu" else "auto"):
            model, opt = make(device, dtype)
            scale = Scale(1.0, 0, dtype == "float16")
            seen = []
            for n, S in enumerate(scales):
                if scale.moving:
                    scale.numbers[0] = S
                seen.append((*train_step(model, opt, batches(device), 1e-2, n, Config(clip=0.5), scale), scale.state()))
        found.append((seen, opt.steps, {k: v.tobytes() for k, v in opt.state().items()}))
    assert repr(found[0]) == repr(found[1])
    assert found[0][1] == (2 if dtype == "float16" else 4)


def test_from_a_hopeless_step_on_nothing_changes_until_it_is_heard_of(cp):
    model, opt = make("gpu", dropout=0.0)
    data = batches("gpu")
    train_step(model, opt, data, 1e-2, 0, Config())
    good = model.h[0].mlp.c_fc.bias.data.copy()
    model.h[0].mlp.c_fc.bias.data[...] = np.inf
    first = train_step(model, opt, data, 1e-2, 1, Config(), None, None, True)
    model.h[0].mlp.c_fc.bias.data[...] = good                              # the step after it would be fine
    before = {name: a.tobytes() for name, a in opt.state().items()}
    train_step(model, opt, data, 1e-2, 2, Config(), None, None, True)
    assert {name: a.tobytes() for name, a in opt.state().items()} == before and opt.steps == 1
    with pytest.raises(NotFinite, match="step 2: got loss nan.*nothing, on a second look"):
        first()
    train_step(model, opt, data, 1e-2, 3, Config())
    assert opt.steps == 2


@pytest.mark.parametrize("dtype", TOL)
def test_a_graph_makes_the_same_steps_to_the_bit(cp, dtype):
    """Learning rate, batches, dropout's masks, loss scale and skipped steps change from launch to launch."""
    found, rng = [], np.random.default_rng(0)
    data = [[tuple(cp.asarray(rng.integers(0, 61, (2, 16))) for _ in "xy") for _ in range(2)] for _ in range(5)]
    for graph in (None, gpu.Repeated()):
        model, opt = make("gpu", dtype)
        scale = Scale(2.0 ** 30, 0, True) if dtype == "float16" else Scale()
        seen = [(*train_step(model, opt, data[n], 1e-2 / (n + 1), n, Config(clip=0.5), scale, None, False, graph),
                 scale.state()) for n in range(5)]
        if dtype == "float16":
            scale.numbers[0] = 2.0 ** 10
        seen.append(train_step(model, opt, data[0], 1e-2, 5, Config(clip=0.5), scale, None, False, graph))
        found.append((seen, opt.steps, {k: v.tobytes() for k, v in opt.state().items()}))
    assert repr(found[0]) == repr(found[1]) and len({loss for loss, *_ in found[0][0]}) == 6
    assert graph.graph is not None and backend.memory()["used"] > 0
    with fake_cupy.waits() as waited:
        later = train_step(model, opt, data[0], 1e-2, 6, Config(clip=0.5), scale, None, True, graph)
    assert not waited and np.isfinite(later())[0]


def test_what_waits_cannot_be_recorded(cp):
    repeated, a = gpu.Repeated(), cp.ones(3)
    repeated(lambda a: float(a[0]), a)                                     # as it is: that is allowed
    with pytest.raises(fake_cupy.CUDARuntimeError, match="float"):
        repeated(lambda a: float(a[0]), a)
    assert not repeated.stream.is_capturing()


def test_a_graph_refuses_arrays_of_another_shape(cp):
    """One row would be taken for as many as there were."""
    repeated, total = gpu.Repeated(), cp.zeros(1)
    for _ in range(2):
        repeated(lambda a: total.__setitem__(..., a.sum()), cp.ones((4, 3)))
    with pytest.raises(ValueError, match=r"got an array \(1, 3\); expected \(4, 3\)"):
        repeated(lambda a: None, cp.ones((1, 3)))
    assert total.tolist() == [12]


@pytest.mark.parametrize("flags", [["--backend", "numpy"], ["--backend", "cupy", "--spike", "skip"],
                                   ["--backend", "cupy", "--check_finite"], ["--backend", "cupy", "--profile", "1"]])
def test_a_graph_is_refused_where_steps_differ_or_wait(flags, capsys):
    assert run.main([*flags, "--graph"]) == 2
    what = "--backend numpy" if "numpy" in flags else flags[2]
    assert f"--graph: got it together with {what}; expected a step on a GPU" in capsys.readouterr().err


def test_a_plain_loop_waits_for_nothing_either(cp):
    model, opt = make("gpu")
    (x, y), = batches("gpu", 1)
    model.loss(x, y).backward()                                            # kernels compile, products are timed
    opt.zero_grad()
    with fake_cupy.waits() as seen:
        for _ in range(2):
            model.loss(x, y).backward()
            norm = clip_grad_norm(opt, 1.0)
            opt.step()
            opt.zero_grad()
    assert not seen and isinstance(norm, cp.ndarray) and float(norm) > 0
    assert float(opt.control[STEPS]) == opt.steps == 2 and opt.control[FACTOR] == 1.0


# ------------------------------------------------------------------------------------------------ later, upload

def test_later_is_what_was(cp):
    for x in (np.arange(3.0), cp.arange(3.0)):
        then = gpu.Later(x)
        x += 1
        assert then().tolist() == then().tolist() == [0, 1, 2]


def test_memory_that_a_copy_is_still_to_come_to_is_not_given_back(cp):
    """As where all rows of a text end while the next tokens are chosen: nobody asks for those."""
    later = gpu.Later(cp.arange(3.0))
    with fake_cupy.waits() as seen:
        del later
    assert len(seen) == 1 and seen[0].startswith("Event.synchronize")


def test_batches_come_to_the_device_in_order(cp):
    items = [(np.full((2, 3), n), np.full((2, 3), -n)[:, ::-1]) for n in range(7)]
    with fake_cupy.waits() as seen:
        ahead = Ahead(items, 3, gpu.uploads())
        found = list(ahead)
        ahead.close()
    assert not seen and all(isinstance(a, cp.ndarray) and a.flags.c_contiguous for pair in found for a in pair)
    for (a, b), (c, d) in zip(items, found, strict=True):
        assert (c.get() == a).all() and (d.get() == b).all()


def test_batches_come_to_the_device_of_the_rank(cp):
    """The thread that sends them would take device 0."""
    with cp.cuda.Device(3):
        ahead = Ahead([(np.ones(2),)], 0, gpu.uploads())
        (a,), one = next(ahead), cp.ones(2)
        ahead.close()
        assert a.device.id == 3 and (a + one).get().tolist() == [2, 2]
    with pytest.raises(fake_cupy.CUDARuntimeError, match="an array on device 3, used on device 0"):
        a + cp.ones(2)
    stream = cp.cuda.Stream()
    with pytest.raises(RuntimeError, match="a stream of device 0, used on device 1"), cp.cuda.Device(1), stream:
        pass


# ------------------------------------------------------------------------------------------------ a run

TEXT = "तुलसी इस संसार में भाँति भाँति के लोग।\n" * 200
SIZES = ["--n_layer", "1", "--n_head", "2", "--n_embd", "16", "--block_size", "16", "--tokens_per_step", "64",
         "--device_batch", "2", "--eval_tokens", "64", "--samples", "0", "--warmup", "2"]


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A run on the stand-in for a GPU: its folder, and its log. What is as slow as it is unimportant is left out."""
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    monkeypatch.setattr(run.utilisation, "ceiling", lambda *_: 1e9)

    def train(name, *flags, backend="cupy", expected=0):
        where = [] if "--resume" in flags else ["--out", str(tmp_path / name), "--data", str(tmp_path / "text.txt"),
                                                "--shards", str(tmp_path / "shards"), "--backend", backend, *SIZES]
        with fake_cupy.installed():
            assert run.main([*where, *flags]) == expected
        return tmp_path / name
    return train


def same(a, b):
    a, b = (next(iter(checkpoint.steps(folder).values())) for folder in (a, b))
    return a.name == b.name and all((a / f).read_bytes() == (b / f).read_bytes() for f in (
        "model.safetensors", "optimizer.safetensors"))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_run_on_a_gpu_resumes_to_the_bit_and_follows_the_cpus(trained, dtype):
    flags = "--dtype", dtype, "--dropout", "0.1", "--eval_every", "3", "--lr", "1e-2", "--min_lr", "1e-2"
    whole = trained("whole", "--steps", "6", *flags)
    parts = trained("parts", "--steps", "3", *flags)
    trained("parts", "--resume", str(parts), "--steps", "6")
    cpu = trained("cpu", "--steps", "6", *flags, backend="numpy")
    graph = trained("graph", "--steps", "6", "--graph", *flags)
    lines = {folder: [e for e in log.read(folder / "log.jsonl") if "loss" in e] for folder in (whole, parts, cpu)}
    assert same(whole, parts) and same(whole, graph)
    assert all(e["gpu_bytes"] > 0 for e in log.read(whole / "log.jsonl") if "val_loss" in e)
    assert [e["step"] for e in lines[whole]] == [e["step"] for e in lines[parts]] == list(range(1, 7))
    for mine, theirs in zip(lines[whole], lines[cpu], strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=2e-2)
        assert mine["lr"] == theirs["lr"] and mine.get("scale") == theirs.get("scale")


def test_between_two_steps_the_loop_waits_once_for_the_step_before(trained, monkeypatch):
    seen = []

    def marked(*args, real=run.train_step):
        seen.append(f"step {args[4]}")
        return real(*args)
    monkeypatch.setattr(run, "train_step", marked)
    with fake_cupy.waits() as waited:
        monkeypatch.setattr(fake_cupy.Waits, "lists", [seen, waited])
        trained("run", "--steps", "6", "--eval_every", "6")
    words = [re.match(r"[\w. ]+", line)[0] for line in seen]
    first = words.index("step 1")
    assert words[first:words.index("step 5")] == [
        "step 1", "Event.synchronize", "step 2", "Event.synchronize", "step 3", "Event.synchronize", "step 4",
        "Event.synchronize"]


def test_a_loss_that_is_not_finite_is_heard_of_late_and_saves_nothing(trained, monkeypatch, capsys):
    def poison(model, opt, batches, lr, n, *rest, real=run.train_step):
        weight = model.h[0].mlp.c_fc.weight.data
        if n in (5, 6):                                                    # only in step 6: the next would be fine
            weight[...], poison.good = (3e38, weight.copy()) if n == 5 else (poison.good, None)
        return real(model, opt, batches, lr, n, *rest)
    monkeypatch.setattr(run, "train_step", poison)
    out = trained("run", "--steps", "20", "--eval_every", "4", expected=1)
    assert "step 6: got loss nan" in capsys.readouterr().err
    assert [e["step"] for e in log.read(out / "log.jsonl") if "loss" in e] == [1, 2, 3, 4, 5]
    assert checkpoint.newest(out)[1]["step"] == 4                        # those of step 5 may be what makes it so


def test_too_little_memory_says_what_would_fit(trained, monkeypatch, capsys):
    def full(*args, real=run.train_step):
        if args[4] == 2:
            fake_cupy.POOL.set_limit(fake_cupy.POOL.used_bytes() + 10_000)
        return real(*args)
    monkeypatch.setattr(run, "train_step", full)
    monkeypatch.setattr(run, "training", lambda c, rows, *_: rows << 39)   # one row fits into the 2^40 bytes there are
    try:
        trained("run", "--steps", "20", expected=2)
    finally:
        fake_cupy.POOL.set_limit(0)
    said = capsys.readouterr().err
    assert "out of memory" in said and "2 rows of 16 tokens need about 1024.0 GiB" in said and "--recompute 1" in said
