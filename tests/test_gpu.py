"""What only a card can confirm, as tests: python -m pytest -m gpu

Most of them also run without a card, on the stand-in for CuPy and with kernels in the emulator. So what a card is asked
is known to be asked rightly; whether it answers rightly, only -m gpu on a machine with one tells.
"""
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from opcases import CASES, Case
from test_cuda_attention import SHAPES
from test_cuda_mlp_sm90 import SHAPES as MLP_SHAPES
from test_cuda_mlp_sm90 import arrays_of as mlp_arrays
from test_cuda_mlp_sm90 import kernels as mlp_kernels
from test_cuda_mlp_sm90 import reference as mlp_reference
from test_cuda_ops import TOL, no_denormals
from test_ops import close, run

from gpt import GPT, GPTConfig, generate
from minigrad import Tensor, backend, gpu
from minigrad.backend import asnumpy
from minigrad.emulator import emulator, fake_cupy
from minigrad.fused import attention_sm90_gpu, mlp_sm90_gpu
from minigrad.fused.attention import attention
from minigrad.fused.layer_norm import add_layer_norm, layer_norm
from nn import AdamW, clip_grad_norm
from train import checkpoint
from train.config import Config
from train.data import Ahead
from train.precision import Scale
from train.step import train_step

DTYPES = {"float64": 1e-13, **TOL}
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
SIZES = dict(vocab_size=61, block_size=16, n_layer=2, n_head=2, n_embd=24)


CARD = pytest.param("card", marks=pytest.mark.gpu)
on_a_card_alone = pytest.mark.parametrize("cupy", [CARD], indirect=True)     # test_cuda_*.py know these in the emulator


@pytest.fixture(params=[CARD, "stand-in"], scope="module", autouse=True)
def cupy(request):
    """CuPy, or what stands in for it. On a machine with a GPU both have their turn."""
    if request.param == "card":
        if backend.cupy() is None:
            pytest.skip(backend.NO_GPU)
        yield backend.cupy()
    elif not emulator.available():
        pytest.skip(emulator.NO_COMPILER)
    else:
        with fake_cupy.installed() as module:
            yield module


@pytest.fixture(autouse=True)
def _extremes_are_meant():
    with np.errstate(all="ignore"):
        yield


def on_card(arrays):
    return [backend.to_device(a, "gpu") if isinstance(a, np.ndarray) else a for a in arrays]


def exact(arrays):
    """The same numbers in float64."""
    return [a.astype("f8") if isinstance(a, np.ndarray) and backend.is_float(a.dtype) else a for a in arrays]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_table(case):
    """Kernels are held to float64. Ops without one, and cases that are about overflow, to NumPy in the same dtype."""
    has_kernel = "gpu" in case.op.kernels
    for dtype, tol in DTYPES.items():
        arrays = [no_denormals(a) for a in case.arrays(dtype)]
        want = run(case.op, exact(arrays) if has_kernel and case.smooth else arrays, case.params, "reference")
        for mode in ("auto", "reference"):
            close(run(case.op, on_card(arrays), case.params, mode), want, tol, f"{mode}, {dtype}", dtypes=False)


@on_a_card_alone
@pytest.mark.parametrize("hopper", [True, False], ids=["wgmma", "mma.sync"])
@pytest.mark.parametrize("B, T, H, D", [*SHAPES, (2, 1000, 2, 64), (1, 4100, 1, 128)])
def test_attention_has_no_tail_that_is_wrong(B, T, H, D, hopper, monkeypatch):
    """By both kernels where there is a choice."""
    if not hopper:
        monkeypatch.setattr(attention_sm90_gpu, "takes", lambda *_: False)
    for dropout in None, (0.3, (5, 6, 7, 8)):
        case = Case(attention, [(B, T, 3 * H * D)], dict(n_head=H, dropout=dropout))
        for dtype, tol in TOL.items():
            arrays = case.arrays(dtype)
            close(run(attention, on_card(arrays), case.params, "auto"),
                  run(attention, exact(arrays), case.params, "reference"), tol, f"{dtype}, {dropout}", dtypes=False)


@on_a_card_alone
@pytest.mark.parametrize("dtype", mlp_sm90_gpu.TYPES)
@pytest.mark.parametrize("M, K, N", [*MLP_SHAPES, (1000, 768, 3072), (4099, 1600, 6400)])
def test_an_mlp_has_no_tail_that_is_wrong(M, K, N, dtype):
    """By the kernels for Hopper, whatever is the fastest."""
    given = mlp_arrays(M, K, N, dtype)
    if not mlp_sm90_gpu.takes(*on_card(given[:2])):
        pytest.skip("not a Hopper GPU")
    got = [asnumpy(a) for a in mlp_kernels(*on_card(given))]
    close(got[:3], mlp_reference(*given)[:3], TOL[dtype], f"{M} x {K} x {N}", dtypes=False)
    close(got[3:], [got[2].astype("f8").sum(0)], 1e-5, "sums of what was rounded", dtypes=False)


@on_a_card_alone
@pytest.mark.parametrize("D", [767, 768, 1024, 1600, 3072])
@pytest.mark.parametrize("op", [layer_norm, add_layer_norm], ids=repr)
def test_layer_norm_of_more_rows_than_the_grid_has_teams(op, D, N=12000):
    """A team is one to four warps, and has several rows one after the other; float32 has to ask for shared memory."""
    case = Case(op, [(N, D)] * (1 if op is layer_norm else 2) + [(D,), (D,)])
    for dtype, tol in TOL.items():
        arrays = case.arrays(dtype)
        close(run(op, on_card(arrays), {}, "auto"), run(op, exact(arrays), {}, "reference"), tol, dtype, dtypes=False)


@on_a_card_alone
@pytest.mark.parametrize("case", [c for c in CASES if "gpu" in c.op.kernels], ids=str)
def test_the_emulator_runs_what_the_card_runs(case):
    if not emulator.available():
        pytest.skip(emulator.NO_COMPILER)
    for dtype, tol in TOL.items():
        arrays = [no_denormals(a) for a in case.arrays(dtype)]
        close(run(case.op, on_card(arrays), case.params, "auto"), run(case.op, arrays, case.params, "emulated"),
              tol, f"card vs emulator, {dtype}", dtypes=False)


def updated(device, dtype):
    """Parameters, and all that AdamW keeps, after three clipped steps with drawn gradients."""
    rng = np.random.default_rng(0)
    parameters = [Tensor(backend.to_device(rng.standard_normal(shape).astype(backend.dtype_of(dtype)), device),
                         requires_grad=True) for shape in [(37, 29), (29,), (5, 3, 2), (1,)]]
    opt = AdamW(parameters, lr=0.1)
    for _ in range(3):
        for p in parameters:
            p.grad = backend.to_device(rng.standard_normal(p.shape).astype(backend.wide_dtype(p.dtype)), device)
        norm = clip_grad_norm(opt, 1.0)
        opt.step()
        opt.zero_grad()
    state = opt.state()
    return [float(norm), *(asnumpy(p.data) for p in parameters)], [state[key] for key in sorted(state)]


@every_dtype
def test_adamw_updates_what_it_updates_on_the_cpu(dtype):
    (norm, *got), mine = updated("gpu", dtype)
    (expected, *want), theirs = updated("cpu", dtype)
    assert abs(norm / expected - 1) <= 1e-6
    close(got, want, DTYPES[dtype], "parameters")
    floating = [i for i, a in enumerate(theirs) if a.dtype.kind == "f"]     # what rounding left over is not smooth
    assert len(floating) >= 2
    close([mine[i] for i in floating], [theirs[i] for i in floating], TOL["float32"], "moments and masters")


def begin(device, dtype, dropout=0.1):
    model = GPT(GPTConfig(**SIZES, dropout=dropout), seed=0).to(device, dtype)
    return model, AdamW(model.parameters(), lr=1e-2), Scale.of(dtype)


def losses(model, opt, scale, steps):
    """Of a model that learns one sequence by heart, in two micro-batches."""
    data, seen = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 2, 17)), []
    for step in steps:
        loss, _ = train_step(model, opt, [(d[:, :-1], d[:, 1:]) for d in data], 1e-2, step, Config(), scale)
        seen.append(float(loss))
    return np.array(seen)


@pytest.mark.parametrize("dtype, tol", [("float64", 1e-9), ("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 5e-2)])
def test_training_follows_the_cpu(dtype, tol):
    want = losses(*begin("cpu", dtype), range(8))
    got = losses(*begin("gpu", dtype), range(8))
    np.testing.assert_allclose(got, want, rtol=tol)
    assert got[-1] < got[0] - 0.5                                         # it did learn


def test_training_takes_the_same_bits_every_time():
    for dtype in "float32", "bfloat16":
        first, second = (losses(*begin("gpu", dtype), range(3)) for _ in range(2))
        np.testing.assert_array_equal(first, second)


@on_a_card_alone
@pytest.mark.parametrize("dtype", TOL)
def test_steps_that_are_sent_ahead_heard_of_late_and_launched_as_a_graph_are_the_same(dtype):
    """To the bit, with batches that cross the bus beside the work, other masks and another rate in each step."""
    data, found = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (12, 2, 4, 17)), []
    for how in "plain", "late", "graph":
        model, opt, scale = begin("gpu", dtype)
        graph, seen = gpu.Repeated() if how == "graph" else None, []
        pairs = [(d[:, :-1], d[:, 1:]) for step in data for d in step]
        ahead = iter(pairs) if how == "plain" else Ahead(pairs, 4, gpu.uploads())
        for step in range(len(data)):
            seen.append(train_step(model, opt, [next(ahead), next(ahead)], 1e-2 / (1 + step), step, Config(), scale,
                                   None, how != "plain", graph))
        found.append([[outcome() if how != "plain" else outcome for outcome in seen], scale.state(),
                      {name: asnumpy(p.data).tobytes() for name, p in model.named_parameters()}])
        if how != "plain":
            ahead.close()
    assert repr(found[0]) == repr(found[1]) == repr(found[2])


@pytest.mark.parametrize("dtype, tol", [("float32", 1e-4), ("float16", 1e-2), ("bfloat16", 5e-2)])
@pytest.mark.parametrize("here, there", [("gpu", "cpu"), ("cpu", "gpu")])
def test_a_checkpoint_may_move(here, there, dtype, tol, tmp_path):
    """Weights and the optimiser's state arrive bit by bit, and training goes on as if it had stayed."""
    model, opt, scale = begin(here, dtype)
    losses(model, opt, scale, range(2))
    model.save(tmp_path)
    saved, state = GPT.from_pretrained(tmp_path).train().to(there, dtype), opt.state()
    moved = AdamW(saved.parameters(), lr=1e-2)
    moved.load_state(state)
    again = moved.state()
    assert state.keys() == again.keys()
    for key in state:
        np.testing.assert_array_equal(state[key], again[key], err_msg=key)
    for (name, p), q in zip(model.named_parameters(), saved.parameters(), strict=True):
        np.testing.assert_array_equal(asnumpy(p.data), asnumpy(q.data), err_msg=name)
    stays = losses(model, opt, scale, range(2, 5))
    np.testing.assert_allclose(losses(saved, moved, Scale.of(dtype, scale.state()), range(2, 5)), stays, rtol=tol)


def test_it_writes_what_the_cpu_writes():
    texts = []
    for device in "cpu", "gpu":
        model = GPT(GPTConfig(**SIZES), seed=0).to(device)
        losses(model, AdamW(model.parameters(), lr=1e-2), Scale(), range(5))     # so that no two tokens are as likely
        texts.append([generate(model, [[1, 2, 3], [4]], 8, temperature=t, seed=7) for t in (0, 0.8)])
    assert texts[0] == texts[1]


# ------------------------------------------------------------------------------------------------ as a user would

SMALL = ["--n_layer", "2", "--n_head", "2", "--n_embd", "64", "--block_size", "64", "--tokens_per_step", "1024",
         "--device_batch", "16", "--eval_tokens", "4096", "--samples", "0"]


def command(*flags):
    return [sys.executable, "-m", "train.run", "--backend", "cupy", *SMALL, *map(str, flags)]


def train(*flags, expected=0):
    """What python -m train.run has to say, in a process of its own."""
    done = subprocess.run(command(*flags), capture_output=True, text=True, timeout=300)
    assert done.returncode == expected, done.stderr
    return done.stdout + done.stderr


def weights(folder):
    return (next(iter(checkpoint.steps(folder).values())) / "model.safetensors").read_bytes()


@on_a_card_alone
@pytest.mark.parametrize("flags", [[], ["--dtype", "bfloat16", "--graph"], ["--dtype", "float16", "--dropout", "0.1"]],
                         ids=" ".join)
def test_a_run_that_ctrl_c_stopped_goes_on_to_the_same_bits(flags, tmp_path):
    train("--steps", 400, "--out", tmp_path / "whole", *flags)
    out = tmp_path / "parts"
    stopped = subprocess.Popen(command("--steps", 400, "--out", out, *flags), stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    try:
        while not ((out / "log.jsonl").exists() and (out / "log.jsonl").read_text().count("loss") > 3):
            assert stopped.poll() is None, stopped.stderr.read()
            time.sleep(0.02)
        stopped.send_signal(signal.SIGINT)
        _, said = stopped.communicate(timeout=60)
    finally:
        stopped.kill()
    assert stopped.returncode == 130, said
    train("--resume", out, "--steps", 400)
    assert weights(tmp_path / "whole") == weights(out)


@on_a_card_alone
def test_too_many_rows_are_refused_with_a_number_that_fits(tmp_path):
    said = train("--n_embd", 1024, "--n_head", 16, "--n_layer", 12, "--block_size", 1024, "--device_batch", 4096,
                 "--tokens_per_step", 4096 * 1024, "--steps", 2, "--out", tmp_path / "run", expected=2)
    assert "out of memory" in said and "--device_batch" in said
