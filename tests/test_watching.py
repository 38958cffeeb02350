"""Seeing a run, and what it does about numbers that are none and losses that leap."""
# ruff: noqa: F811 (a fixture that is imported stands in every test again)
import json
import math
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from test_train import ROOT, flags, home  # noqa: F401

from gpt import GPT, GPTConfig, sizes
from minigrad.backend import wide
from nn import AdamW
from train import checkpoint, finite, log, report, run, spikes, stats, step, utilisation
from train.config import Config
from train.precision import Scale


def train(home, out, expected=0, **changes):  # noqa: F811
    """A run of 8 steps, validated after 4; its log."""
    assert run.main(flags(home, **{"out": out, "steps": 8, "samples": 1, **changes})) == expected
    return log.read(out / "log.jsonl")


def weights(out):
    folder, _ = checkpoint.newest(out)
    return [(folder / name).read_bytes() for name in ("model.safetensors", "optimizer.safetensors")]


def a_model(dtype="float32"):
    model = GPT(GPTConfig(11, 8, 2, 2, 8)).to(dtype=dtype)
    return model, AdamW(model.parameters()), np.arange(16).reshape(2, 8) % 11


# ---------------------------------------------------------------------------------------------------- not finite

def poisoned(model, monkeypatch, phase):
    """Make the gelu of block 1 give one NaN, on its way forward or back."""
    from minigrad.tensor import Op
    gelu, calls = Op.table["gelu"], []
    forward, backward = gelu.reference, gelu.reference_backward

    def bad(f):
        def call(*args, **params):
            out = f(*args, **params)
            calls.append(f)
            if len(calls) % 2 == (0 if f is forward else 1):         # block 1 comes second forward and first backward
                out[0].flat[3] = np.nan
            return out
        return call
    monkeypatch.setattr(gelu, "kernels", frozenset())
    if phase == "forward":
        monkeypatch.setattr(gelu, "reference", bad(forward))
    else:
        monkeypatch.setattr(gelu, "reference_backward", bad(backward))


@pytest.mark.parametrize("phase, says", [("forward", "the output of op gelu"), ("backward", "the gradient of op gelu")])
@pytest.mark.parametrize("check", [True, False])
def test_the_op_the_step_and_the_micro_batch_are_named(monkeypatch, phase, says, check):
    """By --check_finite at once; without it by a second look when the loss or the norm has become NaN."""
    model, opt, ids = a_model()
    poisoned(model, monkeypatch, phase)
    before = [p.data.copy() for p in model.parameters()]
    with pytest.raises(finite.NotFinite) as e:
        step.train_step(model, opt, [(ids, ids)] * 2, 1e-3, 6, Config(check_finite=check))
    assert "step 7" in str(e.value) and f"micro-batch 0: {says}" in str(e.value)
    assert ("got loss" in str(e.value)) == (not check)
    assert all((a == p.data).all() and p.grad is None for a, p in zip(before, model.parameters(), strict=True))


def test_the_parameter_that_an_op_took_is_named():
    model, opt, ids = a_model()
    model.h[1].mlp.c_fc.weight.data[2, 3] = np.inf
    with pytest.raises(finite.NotFinite, match="step 1, micro-batch 0: the output of op linear with "
                                               r"h.1.mlp.c_fc.weight and h.1.mlp.c_fc.bias"):
        step.train_step(model, opt, [(ids, ids)], 1e-3, 0, Config(check_finite=True))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_looking_changes_no_bit(home, tmp_path, dtype):
    """In float16 gradients may overflow while the loss scale is too high: nothing to be reported."""
    for check in (False, True):
        train(home, tmp_path / str(check), dtype=dtype, dropout=0.1, tokens_per_step=128, check_finite=check,
              recompute=1)
    assert weights(tmp_path / "False") == weights(tmp_path / "True")


def test_overflow_under_a_loss_scale_is_no_fault():
    model, opt, ids = a_model("float16")
    scale = Scale(2.0 ** 60, 0, True)
    norm = step.train_step(model, opt, [(ids, ids)], 1e-3, 0, Config(check_finite=True), scale)[1]
    assert not math.isfinite(norm) and scale.value == 2.0 ** 59


# -------------------------------------------------------------------------------------------------------- spikes

def test_what_is_usual_is_what_the_definition_says():
    """[SP1] beside weights (1 - a)^k a, worked out in full."""
    rng, s, a = np.random.default_rng(0), spikes.Spikes(), spikes.SHARE
    losses = 3 + 0.1 * rng.standard_normal(200)
    for n, loss in enumerate(losses):
        s.check(float(loss), 1e9, n)
    shares = a * (1 - a) ** np.arange(200)[::-1]
    shares[0] = 1 - shares[1:].sum()
    mean = shares @ losses
    assert s.mean == pytest.approx(mean) and s.variance == pytest.approx(shares @ (losses - mean) ** 2)
    assert s.steps == 200 and spikes.Spikes(*s.state()) == s


def test_a_leap_is_one_and_teaches_nothing():
    s = spikes.Spikes()
    for n in range(spikes.FIRST):
        s.check(9.0 if n == 3 else 2.0, 6, n)                # among the first steps nothing is unusual
    s = spikes.Spikes(2.0, 0.01, spikes.FIRST)
    for loss in (2.59, 1.0, 2.0):                            # a fall is none
        spikes.Spikes(*s.state()).check(loss, 6, 9)
    before = s.state()
    with pytest.raises(spikes.Leap, match=r"step 9: got loss 2.6100; expected about 2.0000, at most 6 times 0.1000"):
        s.check(2.61, 6, 9)
    assert s.state() == before
    spikes.Spikes(2.0, 0.0, spikes.FIRST).check(2.11, 6, 9)  # a hundredth of the mean is always usual


def leaping(monkeypatch, at, times=1, loss=50.0):
    """Make the loss of these steps leap, `times` times each; inf is left to the search for its cause."""
    left = {n: times for n in at}

    def raised(model, opt, batches, lr, n, *rest, real=step.train_step):
        if left.get(n, 0):
            left[n] -= 1
            raise spikes.Leap(f"step {n + 1}: got loss {loss}", loss)
        return real(model, opt, batches, lr, n, *rest)
    monkeypatch.setattr(run, "train_step", raised)


def test_a_leap_is_found_in_a_run(home, tmp_path, monkeypatch, capsys):
    """With a text that changes for one step, and the definition itself at work."""
    def strange(model, opt, batches, lr, n, *rest, real=step.train_step):
        if n == 60:
            batches = [(x, np.full_like(y, 10)) for x, y in batches]
        return real(model, opt, batches, lr, n, *rest)
    monkeypatch.setattr(run, "train_step", strange)
    entries = train(home, tmp_path / "skip", steps=70, lr=1e-2, spike="skip", spike_size=4,
                    eval_every=100)
    skipped = [e for e in entries if e.get("skipped")]
    assert [e["step"] for e in skipped] == [61] and skipped[0]["norm"] is None
    assert "its update is skipped" in capsys.readouterr().err
    assert not any(e.get("skipped") for e in train(home, tmp_path / "off", steps=70, lr=1e-2, eval_every=100))


def test_going_back_restores_the_checkpoint_and_reads_other_text(home, tmp_path, monkeypatch, capsys):
    seen = []
    leaping(monkeypatch, [6])
    monkeypatch.setattr(run, "train_step", lambda *args, real=run.train_step: (seen.append((args[4], args[2][0][0])),
                                                                              real(*args))[1])
    entries = train(home, tmp_path / "back", spike="back", eval_every=4, dropout=0.1)
    assert "back to step 4, and on with other text" in capsys.readouterr().err
    del seen[0]                                              # of a small twin, to compile kernels
    assert [n for n, _ in seen] == [0, 1, 2, 3, 4, 5, 6, 4, 5, 6, 7]
    texts = [x.tobytes() for _, x in seen]
    assert len(set(texts)) == len(texts)
    assert [e["step"] for e in entries if "loss" in e] == list(range(1, 9))
    back, = (e for e in entries if "back_from" in e)
    assert (back["step"], back["back_from"], back["spike"]) == (4, 6, 50.0)
    assert checkpoint.newest(tmp_path / "back")[1]["position"] == 4 * 11
    state = checkpoint.newest(tmp_path / "back")[1]
    assert state["spikes"][2] == 8                           # steps that were taken, of those that count


def test_a_return_that_nobody_hears_of_is_whole(home, tmp_path, monkeypatch):
    """The weights of step 4 are not saved as those of the step that leapt."""
    def gone(line, file=None, real=run.tqdm.write):
        if "back to" in line:
            raise BrokenPipeError(32, "Broken pipe")
        real(line, file)
    leaping(monkeypatch, [6])
    monkeypatch.setattr(run.tqdm, "write", gone)
    train(home, tmp_path / "run", expected=2, spike="back")
    assert list(checkpoint.steps(tmp_path / "run")) == [4]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_after_going_back_weights_and_moments_are_those_of_the_checkpoint(home, tmp_path, monkeypatch, dtype):
    found = {}
    leaping(monkeypatch, [6])

    def look(model, opt, batches, lr, n, *rest, real=run.train_step):
        if n == 4:
            found.setdefault(len(found), [a.tobytes() for a in (*(p.data for p in model.parameters()),
                                                                *opt.state().values())])
        return real(model, opt, batches, lr, n, *rest)
    monkeypatch.setattr(run, "train_step", look)
    train(home, tmp_path / "run", spike="back", dtype=dtype)
    assert len(found) == 2 and found[0] == found[1]


def test_what_does_not_help_is_given_up(home, tmp_path, monkeypatch, capsys):
    leaping(monkeypatch, [6], times=100, loss=math.nan)
    train(home, tmp_path / "back", expected=1, spike="back")
    said = capsys.readouterr().err
    assert said.count("back to step 4") <= spikes.IN_A_ROW and "error: step 7: got loss nan" in said
    assert checkpoint.newest(tmp_path / "back")[1]["step"] in (4, 6)
    leaping(monkeypatch, range(2, 9), loss=math.nan)
    entries = train(home, tmp_path / "skip", expected=1, spike="skip")
    assert [e["step"] for e in entries if e.get("skipped")] == [3, 4, 5, 6, 7]
    assert all(e["loss"] is None for e in entries if e.get("skipped"))


def test_where_every_checkpoint_is_damaged_there_is_no_way_back(home, tmp_path, monkeypatch, capsys):
    def spoil(model, opt, batches, lr, n, *rest, real=step.train_step):
        if n == 6:
            for folder in checkpoint.steps(tmp_path / "run").values():
                (folder / "model.safetensors").write_bytes(b"")
            raise spikes.Leap("step 7: got loss 99", 99.0)
        return real(model, opt, batches, lr, n, *rest)
    monkeypatch.setattr(run, "train_step", spoil)
    train(home, tmp_path / "run", expected=1, spike="back")
    said = capsys.readouterr().err
    assert "error: step 7: got loss 99; there is no way back" in said and "0 bytes; expected" in said
    assert checkpoint.newest(tmp_path / "run")[1]["step"] == 6           # that of the weights as they were


def test_before_the_first_checkpoint_a_leap_is_skipped(home, tmp_path, monkeypatch):
    leaping(monkeypatch, [2])
    entries = train(home, tmp_path / "run", spike="back")
    assert [e["step"] for e in entries if e.get("skipped")] == [3] and not any("back_from" in e for e in entries)


def test_ten_steps_and_ten_more_remember_what_is_usual(home, tmp_path):
    train(home, tmp_path / "whole", steps=8, spike="skip")
    train(home, tmp_path / "parts", steps=4, spike="skip")
    assert run.main(["--resume", str(tmp_path / "parts"), "--steps", "8"]) == 0
    a, b = (checkpoint.newest(tmp_path / name)[1]["spikes"] for name in ("whole", "parts"))
    assert a[2] == b[2] == 8


# ---------------------------------------------------------------------------------------------------- statistics

@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_statistics_are_those_of_the_step(dtype):
    model, opt, ids = a_model(dtype)
    scale = Scale.of(dtype)
    step.train_step(model, opt, [(ids, ids)], 1e-2, 0, Config(), scale)
    before, value = stats.copies(model), scale.value
    twin, _, _ = a_model(dtype)
    for p, old in zip(twin.parameters(), before, strict=True):
        p.data[...] = old
    twin.loss(ids, ids).backward(value)
    step.train_step(model, opt, [(ids, ids)], 1e-2, 1, Config(), scale)
    found = stats.statistics(model, before, value)
    assert list(found) == [name for name, _ in model.named_parameters()]

    def rms(a):
        return float(np.sqrt(np.mean(np.square(wide(a), dtype="f8"))))
    for (name, p), old, q in zip(model.named_parameters(), before, twin.parameters(), strict=True):
        want = rms(p.data), rms(q.grad) / value, rms(wide(p.data) - wide(old))
        assert found[name] == pytest.approx(want, rel=1e-5), name
    assert found["wte.weight"][2] > 0
    model.wte.weight.slot.array[0, 0] = np.inf               # float16's overflows are usual
    assert stats.statistics(model, before, value)["wte.weight"][1] is None


def test_going_back_takes_back_what_was_validated_since(home, tmp_path, monkeypatch):
    """Validations that were undone do not count for --patience."""
    leaping(monkeypatch, [7])
    asked = dict(spike="back", steps=12, eval_every=2, save_every=6, lr=0.4, warmup=12, patience=9)
    entries = train(home, tmp_path / "back", **asked)
    losses = [e["val_loss"] for e in entries if "val_loss" in e]
    best, after = checkpoint.newest(tmp_path / "back")[1]["best"]
    assert best == min(losses) and after == len(losses) - 1 - losses.index(best)
    assert [e["step"] for e in entries if "val_loss" in e] == [0, 2, 4, 6, 8, 10, 12]


def test_statistics_as_a_table():
    """A ratio is told where there is one: not of what is no number, nor to weights that are all 0."""
    def row(name, *told):
        return dict(zip(("parameter", *stats.KINDS, "update / weight"), (name, *told)))
    assert stats.rows({"w": [2.0, 0.5, 0.004], "b": [0.0, 0.5, 0.004], "g": [2.0, None, None]}) == [
        row("w", "2.00e+00", "5.00e-01", "4.00e-03", "2.00e-03"), row("b", "0.00e+00", "5.00e-01", "4.00e-03", "-"),
        row("g", "2.00e+00", "-", "-", "-")]


def test_statistics_are_logged_and_shown(home, tmp_path, capsys):
    entries = train(home, tmp_path / "run", stats_every=3)
    found = [e for e in entries if "stats" in e]
    assert [e["step"] for e in found] == [3, 6] and "h.1.attn.c_attn.weight" in found[0]["stats"]
    capsys.readouterr()
    assert report.main([str(tmp_path / "run"), "--stats", "--samples"]) == 0
    said = capsys.readouterr().out
    assert "step 6" in said and f"{found[1]['stats']['ln_f.bias'][1]:.2e}" in said
    sample, = (e["sample"] for e in entries if "sample" in e)
    assert f"step 4\n{sample}" in said
    train(home, tmp_path / "none", steps=4)
    assert report.main([str(tmp_path / "none"), "--stats"]) == 2
    assert "--stats_every N" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------- what a run shows

def test_utilisation_is_operations_over_the_ceiling():
    c = GPTConfig(65, 64, 4, 4, 128)
    assert utilisation.mfu(c, 1000, 3 * sizes.forward_flops(c, 64) * 4000) == pytest.approx(0.25)
    for dtype in ("float32", "float64", "bfloat16", "float16"):
        assert 1e8 < utilisation.ceiling(dtype) < 1e14


def test_validations_are_told_and_samples_kept(home, tmp_path, capsys):
    entries = train(home, tmp_path / "run")
    said = capsys.readouterr().out
    scores = {e["step"]: e["val_loss"] for e in entries if "val_loss" in e}
    for n in (0, 4, 8):
        assert f"step {n}: validation loss {scores[n]:.4f}" in said
    sample, = (e["sample"] for e in entries if "sample" in e)
    assert all(f"    {line}" in said for line in sample.splitlines())
    assert not any("sample" in e for e in train(home, tmp_path / "none", samples=0))


def test_the_picture_grows_and_takes_a_hundredth(home, tmp_path, monkeypatch):
    drawn, clock = [], [0.0]
    monkeypatch.setattr(log, "plot", lambda file, entries, title: (drawn.append(len(entries)),
                                                                   clock.__setitem__(0, clock[0] + 0.5)))
    monkeypatch.setattr(log.time, "perf_counter", lambda: clock[0])
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2}\n')
    picture = log.Picture(tmp_path)
    for now in (0, 10, 49, 51, 60):
        clock[0] = now
        picture.draw()
    assert drawn == [1, 1]
    picture.draw(last=True)
    assert drawn == [1, 1, 1]


def test_a_log_forgets_what_a_run_went_back_on(tmp_path):
    lines = [{"step": n, "loss": n} for n in range(1, 6)] + [{"step": 2, "back_from": 5, "spike": 9.0},
                                                             {"step": 3, "loss": 33}]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in lines))
    found = [(e["step"], e.get("loss")) for e in log.read(tmp_path / "log.jsonl")]
    assert found == [(1, 1), (2, 2), (2, None), (3, 33)]


def test_a_checkpoint_that_cannot_be_written_stands_in_the_log(home, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(checkpoint.Writer, "put", full)
    entries = train(home, tmp_path / "run", expected=1)
    failed = [e["failed"] for e in entries if "failed" in e]
    assert len(failed) == 2 and all(f"step {n} could" in said for n, said in zip((4, 8), failed, strict=True))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_validation_that_is_no_number_is_not_the_best(home, tmp_path, monkeypatch, value):
    """It stands in the log as null, counts for --patience, and the best checkpoint stays."""
    def spoilt(*args, real=run.evaluate):
        loss, share = real(*args)
        return (value if len(seen) > 2 else loss), (seen.append(loss), share)[1]
    seen = []
    monkeypatch.setattr(run, "evaluate", spoilt)
    entries = train(home, tmp_path / "run", steps=16, eval_every=2, keep=1, patience=3, lr=1e-2)
    assert "NaN" not in (tmp_path / "run" / "log.jsonl").read_text() and len(seen) == 6
    told = [e["val_loss"] for e in entries if "val_loss" in e]
    assert told == [*seen[:3], None, None, None] and list(checkpoint.steps(tmp_path / "run")) == [10, 4]
    assert checkpoint.best(tmp_path / "run").name == "00000004"
    state = checkpoint.newest(tmp_path / "run")[1]
    assert state["metrics"]["val_loss"] is None and state["best"] == [min(seen[:3]), 3]
    assert report.main([str(tmp_path / "run"), "--epochs", "--plot", str(tmp_path / "a.png")]) == 0
    (checkpoint.newest(tmp_path / "run")[0] / "run.json").write_text(json.dumps({"metrics": {"val_loss": value}}))
    assert checkpoint.best(tmp_path / "run").name == "00000004"                           # as it was once written


# ---------------------------------------------------------------------------------------------------- TensorBoard

def events_in(folder):
    """[(step, tag, value)] of all event files of a folder: records of length, check, bytes, check."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            size, = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12:at + 12 + size])
            at += 16 + size
            for v in event.summary.value:
                text = v.tensor.string_val[0].decode() if v.tensor.string_val else None
                found.append((event.step, v.tag, v.simple_value if text is None else text))
            if event.HasField("session_log"):
                found.append((event.step, "start", event.session_log.status))
    return found


def test_tensorboard_has_what_the_log_has(home, tmp_path):
    pytest.importorskip("tensorboardX")
    out = tmp_path / "run"
    entries = train(home, out, tensorboard="true", stats_every=4)
    found = events_in(out / "tensorboard")
    for key in ("loss", "lr", "norm", "tokens_per_s", "mfu", "val_loss", "perplexity", "accuracy", "bits_per_byte"):
        want = [(e["step"], e[key]) for e in entries if key in e]
        got = [(n, value) for n, tag, value in found if tag == key]
        assert [n for n, _ in got] == [n for n, _ in want], key
        assert [v for _, v in got] == pytest.approx([v for _, v in want], rel=1e-6), key
    assert [(n, v) for n, tag, v in found if tag.startswith("sample")] == [(e["step"], e["sample"]) for e in entries
                                                                           if "sample" in e]
    gradients = [v for n, tag, v in found if tag == "gradient/wte.weight"]
    assert gradients == pytest.approx([e["stats"]["wte.weight"][1] for e in entries if "stats" in e], rel=1e-6)


EVENTS_ON_A_FULL_DISK = """if True:
    import resource, signal, sys
    from train import log
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    out = log.Log(sys.argv[1] + "/log.jsonl", 0, sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    for step in range(int(sys.argv[2])):
        out.write(step=step, loss=0.5, lr=1.0, norm=1.0)
    out.close()"""


@pytest.mark.parametrize("steps, most", [(900, 60_000), (20, 1_500)], ids=["while it runs", "at its end"])
def test_tensorboard_on_a_full_disk_ends_nothing(tmp_path, steps, most):
    """No file may grow beyond the log of all these steps, which is shorter than their events, even where all of them
    are still in the buffer at the end."""
    pytest.importorskip("tensorboardX")
    words = [sys.executable, "-c", EVENTS_ON_A_FULL_DISK, str(tmp_path), str(steps), str(most)]
    said = subprocess.run(words, cwd=ROOT, check=True, timeout=100, text=True, capture_output=True).stderr
    assert said.count("\nTensorBoard gets no more events (File too large); the log has them all\n") == 1
    assert len(log.read(tmp_path / "log.jsonl")) == steps


def test_tensorboard_forgets_with_the_log(home, tmp_path):
    pytest.importorskip("tensorboardX")
    out = tmp_path / "run"
    train(home, out, tensorboard="true", steps=4)
    assert run.main(["--resume", str(out), "--steps", "6"]) == 0
    assert (5, "start", 1) in events_in(out / "tensorboard")


def test_without_tensorboardx_the_error_says_what_to_install(home, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(FileNotFoundError):                   # no log: the run has not begun
        train(home, tmp_path / "run", expected=2, tensorboard="true")
    assert re.search("--tensorboard: got no tensorboardX.*pip install tensorboardX", capsys.readouterr().err)
    assert not (tmp_path / "run" / "tensorboard").exists()
