"""A run from end to end: what it writes, how it stops and resumes to the bit, what it says when it cannot go on."""
import dataclasses
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

import tok
from gpt import GPT, GPTConfig
from minigrad import backend, gemm_cpu, pool
from nn import AdamW
from train import checkpoint, finite, log, precision, report, run, sample, step
from train.config import Config
from train.data import Validation, Windows, prepare
from train.drawing import drawing

ROOT = Path(__file__).resolve().parent.parent
TINY = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "device_batch": 4, "tokens_per_step": 64, "steps": 6,
        "warmup": 2, "lr": 1e-3, "min_lr": 1e-4, "eval_every": 4, "eval_tokens": 200, "samples": 2, "sample_tokens": 20,
        "tokenizer": "char"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a text and with the shards of all runs here."""
    home = tmp_path_factory.mktemp("train")
    rng = np.random.default_rng(0)
    (home / "text.txt").write_text(" ".join(rng.choice(["one", "two", "three", "four"], 600)), encoding="utf-8")
    (home / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return home


def flags(home, **changes):
    values = {"config": home / "tiny.yaml", "data": home / "text.txt", "shards": home / "shards", **changes}
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def train(home, out, expected=0, **changes):
    assert run.main(flags(home, out=out, **changes)) == expected
    return Path(out)


def newest(out):
    return checkpoint.newest(out)[0]


def same_checkpoint(a, b):
    """Weights, moments and step count, bit for bit."""
    a, b = newest(a), newest(b)
    return a.name == b.name and all((a / name).read_bytes() == (b / name).read_bytes() for name in (
        "model.safetensors", "optimizer.safetensors"))


def stop_after(monkeypatch, n):
    """Press Ctrl-C in step n."""
    def press(*args, real=step.train_step):
        if args[4] == n - 1:
            signal.raise_signal(signal.SIGINT)
        return real(*args)
    monkeypatch.setattr(run, "train_step", press)


# ---------------------------------------------------------------------------------------------------- a whole run

def test_a_run_writes_what_it_promises(home, tmp_path, capsys):
    out = train(home, tmp_path / "run")
    assert {p.name for p in out.iterdir()} == {
        "checkpoints", "config.json", "log.jsonl", "loss.png", "model.safetensors", "samples.txt", "settings.yaml",
        "tokenizer.json"}
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["00000004", "00000006"]
    assert {p.name for p in newest(out).iterdir()} == {
        "config.json", "model.safetensors", "optimizer.safetensors", "run.json", "tokenizer.json"}
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (out / name).samefile(newest(out) / name)
    entries = log.read(out / "log.jsonl")
    steps = [e for e in entries if "loss" in e]
    assert [e["step"] for e in steps] == [1, 2, 3, 4, 5, 6]
    assert all(e.keys() == {"step", "loss", "lr", "norm", "tokens_per_s", "mfu"} and e["mfu"] > 0 for e in steps)
    assert [e["step"] for e in entries if "val_loss" in e] == [0, 4, 6]
    assert steps[0]["lr"] == 0.0005 and steps[1]["lr"] == 0.001 and steps[-1]["lr"] == pytest.approx(1e-4)
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    state = json.loads((newest(out) / "run.json").read_text())
    assert (state["step"], state["position"], state["config"]["n_embd"]) == (6, 24, 16) and "numpy" in state["versions"]
    assert state["tokenizer"] == tok.load(out / "tokenizer.json").hash
    shown = capsys.readouterr().out
    assert f"validation loss {entries[-1]['val_loss']:.4f}" in shown
    assert (out / "samples.txt").read_text().strip() in shown
    assert "n_embd 16" in shown and str(out) in shown


def test_the_saved_settings_make_the_same_run(home, tmp_path):
    first = train(home, tmp_path / "first")
    assert run.main(["--config", str(first / "settings.yaml"), "--out", str(tmp_path / "second")]) == 0
    assert same_checkpoint(first, tmp_path / "second")
    assert not same_checkpoint(first, train(home, tmp_path / "third", seed=1))


def test_loss_falls(home, tmp_path):
    entries = log.read(train(home, tmp_path / "run", steps=60, lr=1e-2) / "log.jsonl")
    assert entries[-1]["val_loss"] < 0.75 * entries[0]["val_loss"]


def test_16_bits_learn_as_much_as_32(home, tmp_path):
    """The same weights to begin with and the same batches; the validation losses end within 1 % of each other."""
    losses = {}
    for dtype in ("float32", "bfloat16", "float16"):
        out = train(home, tmp_path / dtype, dtype=dtype, data="verse", couplets=2000, steps=500, lr=2e-3, n_embd=48,
                    block_size=32, tokens_per_step=128, device_batch=4, warmup=20, eval_tokens=3000, eval_every=500)
        losses[dtype] = [e["val_loss"] for e in log.read(out / "log.jsonl") if "val_loss" in e]
    assert losses["float32"][-1] < 0.6 * losses["float32"][0]
    for dtype in ("bfloat16", "float16"):
        assert losses[dtype] == pytest.approx(losses["float32"], rel=0.01) and losses[dtype] != losses["float32"]


@pytest.mark.parametrize("has", [True, False])
def test_a_run_says_where_bfloat16_is_slow(home, tmp_path, monkeypatch, capsys, has):
    monkeypatch.setitem(gemm_cpu.HAS, "E", has)
    train(home, tmp_path / "run", steps=1, dtype="bfloat16")
    assert ("this processor has no instructions for it" in capsys.readouterr().out) == (not has)


def test_a_verse_run_reports_bits_beside_the_entropy_of_the_source(home, tmp_path, capsys):
    out = train(home, tmp_path / "run", data="verse", couplets=400, block_size=96, device_batch=1, tokens_per_step=96,
                steps=2)
    last = log.read(out / "log.jsonl")[-1]
    assert last.keys() == {"step", "epoch", "val_loss", "perplexity", "accuracy", "bits_per_byte", "val_bits",
                           "entropy_bits"}
    assert last["perplexity"] == pytest.approx(np.exp(last["val_loss"])) and 0 <= last["accuracy"] <= 1
    assert 20 < last["entropy_bits"] < 80 and last["val_bits"] > last["entropy_bits"]
    c = Config(**{**TINY, "data": "verse", "couplets": 400, "shards": str(home / "shards")})
    d = prepare(c)
    v = Validation(d.val, 96, 4, 200)
    texts = [d.tokenizer.decode(ids) for ids in v.documents()]
    assert v.tokens == sum(len(t) + 1 for t in texts)                # every couplet and the separator after it
    size = sum(len(t.encode()) for t in texts)
    assert v.bytes(d.tokenizer) == size
    assert last["bits_per_byte"] * size == pytest.approx(last["val_loss"] * v.tokens / np.log(2))
    assert last["val_bits"] * len(texts) == pytest.approx(last["val_loss"] * v.tokens / np.log(2))
    assert "bits per couplet" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["block", "attention", "mlp"])
def test_recompute_changes_no_bit_of_a_run(home, tmp_path, part):
    plain = train(home, tmp_path / "plain", dropout=0.1)
    assert same_checkpoint(plain, train(home, tmp_path / part, dropout=0.1, recompute=1, recompute_part=part))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_number_of_threads_changes_no_bit_of_a_run(home, tmp_path, dtype):
    """Wide enough that all products, attention and the optimiser are shared out among threads."""
    before, size = pool.size(), dict(n_embd=128, n_head=4, block_size=64, tokens_per_step=512, dropout=0.1, steps=3)
    try:
        for threads in (1, 2, 3):
            pool.set_size(threads)
            train(home, tmp_path / str(threads), dtype=dtype, **size)
    finally:
        pool.set_size(before)
    assert same_checkpoint(tmp_path / "1", tmp_path / "2") and same_checkpoint(tmp_path / "1", tmp_path / "3")


def test_accumulation_changes_rounding_only_but_with_dropout_the_masks(home, tmp_path):
    losses = {}
    for rows, drop in ((8, 0.0), (4, 0.0), (1, 0.0), (8, 0.2), (4, 0.2)):
        out = train(home, tmp_path / f"{rows}-{drop}", tokens_per_step=128, device_batch=rows, dtype="float64",
                    dropout=drop)
        losses[rows, drop] = [e["loss"] for e in log.read(out / "log.jsonl") if "loss" in e]
    assert losses[8, 0] == pytest.approx(losses[4, 0], rel=1e-12)
    assert losses[8, 0] == pytest.approx(losses[1, 0], rel=1e-12)
    assert losses[8, 0.2] != pytest.approx(losses[4, 0.2], rel=1e-6)


# -------------------------------------------------------------------------------------------- stopping and resuming

@pytest.mark.parametrize("changes", [{}, {"dropout": 0.2, "tokens_per_step": 192}, {"dtype": "bfloat16"},
                                     {"dtype": "float16", "dropout": 0.2, "recompute": 1, "tokens_per_step": 128},
                                     {"recompute": 2, "recompute_part": "mlp", "activation": "relu"},
                                     {"tokenizer": "bpe", "vocab_size": 260, "pre_norm": False}],
                         ids=["plain", "dropout and accumulation", "bfloat16", "float16, all at once", "recompute",
                              "bpe and GPT-1"])
def test_ten_steps_and_ten_more_are_twenty(home, tmp_path, monkeypatch, changes):
    monkeypatch.setattr(precision, "PATIENCE", 4)            # so that the loss scale moves too
    monkeypatch.setattr(precision, "FIRST", 2.0 ** 40)
    whole = train(home, tmp_path / "whole", steps=20, **changes)
    with monkeypatch.context() as m:
        stop_after(m, 10)
        parts = train(home, tmp_path / "parts", expected=130, steps=20, **changes)
    assert checkpoint.newest(parts)[1]["step"] == 10 and not same_checkpoint(whole, parts)
    assert run.main(["--resume", str(parts)]) == 0
    assert same_checkpoint(whole, parts)
    logs = [log.read(folder / "log.jsonl") for folder in (whole, parts)]
    for entry in logs[0] + logs[1]:
        entry.pop("tokens_per_s", None)
        entry.pop("mfu", None)
    assert logs[0] == logs[1]
    assert (whole / "samples.txt").read_text() == (parts / "samples.txt").read_text()


def test_a_run_goes_on_with_more_steps_and_forgets_what_the_log_says_beyond(home, tmp_path):
    out = train(home, tmp_path / "run", steps=4)
    with (out / "log.jsonl").open("a") as f:
        f.write('{"step": 5, "loss": 0}\n{"step": 6, "lo')
    assert run.main(["--resume", str(out), "--steps", "6"]) == 0
    assert [e["step"] for e in log.read(out / "log.jsonl")] == [0, 1, 2, 3, 4, 4, 5, 6, 6]
    assert Config(**checkpoint.newest(out)[1]["config"]).steps == 6


def test_epochs_say_how_many_steps(home, tmp_path, capsys):
    out = train(home, tmp_path / "run", epochs=0.5, tokens_per_step=128)
    d = prepare(Config(**{**TINY, "data": str(home / "text.txt"), "shards": str(home / "shards")}))
    per_epoch = Windows(d.train, 16, 0).per_epoch
    steps = -(-per_epoch // 16)                              # of 8 windows, for half of them
    assert checkpoint.newest(out)[1]["step"] == steps == Config(**checkpoint.newest(out)[1]["config"]).steps
    assert log.read(out / "log.jsonl")[-1]["epoch"] == pytest.approx(8 * steps / per_epoch, abs=1e-3)
    capsys.readouterr()
    assert run.main(["--resume", str(out)]) == 2
    assert f"all its {steps} steps; expected steps to go. Hint: --epochs 1" in capsys.readouterr().err
    assert run.main(["--resume", str(out), "--epochs", "0.6"]) == 0
    assert checkpoint.newest(out)[1]["step"] > steps
    again = ["--out", str(out), "--resume", "auto", "--epochs"]
    assert run.main([*again, "0.7"]) == 0
    assert checkpoint.newest(out)[1]["step"] == math.ceil(0.7 * per_epoch / 8)
    capsys.readouterr()
    assert run.main([*again, "0.7"]) == 0 and "has made all its" in capsys.readouterr().out


def test_a_run_can_be_moved_and_its_text_too(home, tmp_path):
    tok.CharTokenizer.train(["\n", (home / "text.txt").read_text()]).save(tmp_path / "t.json")
    out = train(home, tmp_path / "run", tokenizer=tmp_path / "t.json")
    (tmp_path / "t.json").unlink()
    shutil.copy(home / "text.txt", tmp_path / "copy.txt")
    moved = out.rename(tmp_path / "moved")
    assert run.main(["--resume", str(moved), "--steps", "8", "--data", str(tmp_path / "copy.txt")]) == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_finishes_the_step_and_saves(home, tmp_path, number, status):
    out, command = tmp_path / "run", [sys.executable, "-m", "train.run"]
    process = subprocess.Popen(command + flags(home, out=out, steps=10**6, eval_every=10**6), cwd=ROOT,
                               stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    try:
        while not ((out / "log.jsonl").exists() and (out / "log.jsonl").read_text().count("loss") > 3):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == status and "Traceback" not in said and f"--resume {out}" in said
    assert checkpoint.newest(out)[1]["step"] == log.read(out / "log.jsonl")[-1]["step"] > 2


def test_auto_begins_and_goes_on_by_the_same_command(home, tmp_path, monkeypatch):
    """Also where a run was killed before its first checkpoint."""
    out, more = tmp_path / "run", ["--resume", "auto", "--out", str(tmp_path / "run")]
    out.mkdir()
    (out / "log.jsonl").write_text('{"step": 0, "val_loss": 9}\n{"step": 1, "lo')
    assert run.main([*flags(home, steps=9, n_embd=17), *more]) == 2 and (out / "log.jsonl").exists()
    with monkeypatch.context() as m:
        stop_after(m, 5)
        assert run.main([*flags(home, steps=9), *more]) == 130
    assert checkpoint.newest(out)[1]["step"] == 5
    assert run.main([*flags(home, steps=9), *more]) == 0
    assert same_checkpoint(out, train(home, tmp_path / "whole", steps=9))
    assert [e["step"] for e in log.read(out / "log.jsonl") if "loss" in e] == list(range(1, 10))


def test_a_run_stopped_before_its_first_step_is_not_out_of_patience(home, tmp_path, monkeypatch):
    """It validates step 0 again, which is no better than it was, and no worse."""
    out = tmp_path / "run"
    with monkeypatch.context() as m:
        m.setattr(run, "warm_up", lambda _: signal.raise_signal(signal.SIGTERM))
        train(home, out, patience=1)
    assert checkpoint.newest(out)[1]["step"] == 0
    assert run.main(["--resume", str(out)]) == 0 and same_checkpoint(out, train(home, tmp_path / "whole", patience=1))


def test_a_run_out_of_patience_ends_and_its_best_weights_are_there(home, tmp_path, monkeypatch, capsys):
    """At a rate that grows until it spoils the weights; stopped on the way and gone on it is the same run."""
    asked = dict(steps=40, eval_every=2, lr=0.4, warmup=40, patience=3)
    out = train(home, tmp_path / "run", **asked)
    losses = {e["step"]: e["val_loss"] for e in log.read(out / "log.jsonl") if "val_loss" in e}
    best = min(losses, key=losses.get)
    assert max(losses) == best + 6 < 40 and checkpoint.best(out).name == f"{best:08}"
    assert "samples.txt" in {path.name for path in out.iterdir()}
    assert run.main(["--resume", str(out)]) == 2 and "3 validations after its best" in capsys.readouterr().err
    assert run.main([*flags(home, out=out, **asked), "--resume", "auto"]) == 0
    assert "has made 3 validations" in capsys.readouterr().out
    with monkeypatch.context() as m:
        stop_after(m, best + 4)
        assert run.main(flags(home, out=tmp_path / "again", **asked)) == 130
    assert run.main(["--resume", str(tmp_path / "again")]) == 0 and same_checkpoint(out, tmp_path / "again")
    assert checkpoint.newest(tmp_path / "again")[1]["best"] == checkpoint.newest(out)[1]["best"] == [losses[best], 3]
    (checkpoint.best(out) / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json"):
        checkpoint.best(out)


def test_the_best_checkpoint_is_one_that_was_validated(home, tmp_path):
    """Others have the loss of no validation, and certainly not that of the last one."""
    out = train(home, tmp_path / "run", steps=18, eval_every=6, save_every=4, keep=1, lr=0.4, warmup=18)
    losses = {e["step"]: e["val_loss"] for e in log.read(out / "log.jsonl") if "val_loss" in e}
    assert list(losses) == [0, 6, 12, 18] and losses[12] < losses[18]
    assert checkpoint.best(out).name == "00000012"
    for n, folder in checkpoint.steps(out).items():
        assert checkpoint.score(folder) == losses.get(n, math.inf)


def test_what_goes_wrong_in_a_step_is_told_and_what_was_learnt_is_kept(home, tmp_path, monkeypatch, capsys):
    def damaged(*args, real=step.train_step):
        if args[4] == 3:
            raise ValueError("train.bin: got a damaged shard")
        return real(*args)
    with monkeypatch.context() as m:
        m.setattr(run, "train_step", damaged)
        out = train(home, tmp_path / "run", expected=2)
    assert "error: train.bin: got a damaged shard\n" in capsys.readouterr().err
    assert checkpoint.newest(out)[1]["step"] == 3

    def gone(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")
    monkeypatch.setattr(run.tqdm, "write", gone)             # whoever has read the validations so far
    monkeypatch.setattr(run, "evaluate", lambda *args, real=run.evaluate: real(*args))
    assert run.main(["--resume", str(out)]) == 2 and checkpoint.newest(out)[1]["step"] == 4


def test_too_little_memory_for_the_weights_is_one_line(home, tmp_path, monkeypatch, capsys):
    def short(*_, **__):
        raise MemoryError("Unable to allocate 7 TiB")
    monkeypatch.setattr(run, "GPT", short)
    train(home, tmp_path / "run", expected=2)
    assert "error: out of memory: Unable to allocate 7 TiB. Hint: a smaller model" in capsys.readouterr().err


def test_a_second_ctrl_c_stops_at_once():
    code = """if True:
        import signal, time, train.run
        with train.run.Interrupt():
            signal.raise_signal(2)
            signal.raise_signal(2)
            time.sleep(60)"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=50, capture_output=True)
    assert process.returncode == -signal.SIGINT and b"finishing the step" in process.stderr


def test_a_signal_raises_nothing_where_nobody_listens():
    """The step would end in the middle, and what is half made would be saved."""
    code = """if True:
        import os, signal, train.run
        heard, said = os.pipe()
        os.close(heard)
        os.dup2(said, 2)
        with train.run.Interrupt() as interrupt:
            signal.raise_signal(15)
        print(interrupt.asked)"""
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=50, capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (0, "15\n")


def test_ctrl_c_before_the_first_step_says_so(home, tmp_path, monkeypatch, capsys):
    def press(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(run, "prepare", press)
    train(home, tmp_path / "run", expected=130)
    assert capsys.readouterr().err.endswith("stopped before the first step: nothing to save\n")


# ---------------------------------------------------------------------------------------------------- folders

def test_a_second_run_gets_a_folder_of_its_own(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump({**TINY, "steps": 1}))
    for name in ("mine", "mine-2", "mine-3"):
        assert run.main(flags(home, config="mine.yaml")) == 0
        assert f"run folder runs/{name}\n" in capsys.readouterr().out
        assert Path("runs", name, "model.safetensors").exists()


def test_a_folder_that_holds_a_run_is_not_overwritten(home, tmp_path, capsys):
    out = train(home, tmp_path / "run")
    before = (out / "model.safetensors").read_bytes()
    train(home, out, expected=2)
    assert re.search("--out: got .*run', which holds a run; .*--resume", capsys.readouterr().err)
    assert (out / "model.safetensors").read_bytes() == before


def test_a_run_that_failed_before_its_first_step_does_not_keep_the_folder(home, tmp_path):
    train(home, tmp_path / "run", expected=2, data=tmp_path / "nowhere")
    train(home, tmp_path / "run")


@pytest.mark.parametrize("setting", ["out", "shards"])
def test_an_unwritable_folder_is_found_before_any_work(home, tmp_path, capsys, monkeypatch, setting):
    monkeypatch.setattr(run, "prepare", lambda *a: pytest.fail("work was done"))
    (tmp_path / "file").write_text("")
    places = {"out": tmp_path / "fine", setting: tmp_path / "file" / "below"}
    train(home, expected=2, **places)
    assert re.search(f"--{setting}: got .*file/below.*expected a folder that can be written", capsys.readouterr().err)


# -------------------------------------------------------------------------------------------------- bad input

@pytest.mark.skipif(backend.cupy() is not None, reason="there is a GPU")
def test_cupy_without_a_gpu_is_one_line_with_the_wheels_to_install(home, tmp_path, capsys):
    train(home, tmp_path / "run", expected=2, backend="cupy")
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(word in said for word in ("cupy-cuda12x[ctk]", "cupy-cuda13x[ctk]", "extras cuda12, cuda13"))


def test_user_errors_are_one_line_and_exit_2(home, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "short.txt").write_text("abc" * 5)
    for changes, says in [({"stpes": 1}, "did you mean --steps"),
                          ({"data": tmp_path / "empty.txt"}, "without any text"),
                          ({"data": tmp_path / "latin.txt"}, "latin.txt, byte 3: got 0xe9"),
                          ({"data": tmp_path / "short.txt"}, "more than one block of 16"),
                          ({"data": tmp_path / "no"}, "does not exist"),
                          ({"data": ""}, "'', which does not exist"),
                          ({"tokenizer": tmp_path / "no.json"}, "no.json"),
                          ({"resume": tmp_path / "no"}, "--config and --resume"),
                          ({"preset": "gpt9"}, "gpt2-medium"),
                          ({"init": tmp_path}, "a folder with model.safetensors"),
                          ({"split": "0.5 0.2 0.2"}, "split: got"),
                          ({"shards": tmp_path / "run"}, "the folder of the run; expected another one. Hint: --shards"),
                          ({"data": tmp_path / "run"}, "the folder of the run; expected another one. Hint: a folder"),
                          ({"sample_prompt": "ONE"}, "'O'")]:
        assert run.main(flags(home, **{"out": tmp_path / "run", **changes})) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ") and says in said and said.count("\n") == 1, said


def test_a_vocabulary_that_does_not_fit_the_checkpoint(home, tmp_path, capsys):
    out = newest(train(home, tmp_path / "run"))
    tok.CharTokenizer.train((home / "text.txt").read_text() + "\nABCDEFGHIJKLMNOP").save(out / "tokenizer.json")
    train(home, tmp_path / "new", expected=2, init=out)
    assert "a tokenizer with 27 tokens; expected at most the 11 of the checkpoint" in capsys.readouterr().err
    (out / "tokenizer.json").unlink()                        # weights alone: the data's own tokenizer must fit
    (tmp_path / "long.txt").write_text("abcdefghijklmnopqrstuvwxyz" * 99)
    train(home, tmp_path / "new", expected=2, init=out, data=tmp_path / "long.txt")
    assert "a checkpoint of 11 tokens; expected at least 27" in capsys.readouterr().err


def test_resume_refuses_other_data_and_a_finished_run(home, tmp_path, capsys):
    out = train(home, tmp_path / "run")
    (tmp_path / "other.txt").write_text((home / "text.txt").read_text()[:-1])
    for more, says in [(["--steps", "9", "--data", str(tmp_path / "other.txt")], "other data than the run began with"),
                       ([], "all its 6 steps; expected steps to go. Hint: --steps 12"),
                       (["--n_embd", "32"], "expected 16, as in")]:
        assert run.main(["--resume", str(out), *more]) == 2
        assert says in capsys.readouterr().err


def test_init_starts_from_the_weights_and_the_tokenizer_of_another_run(home, tmp_path):
    first = train(home, tmp_path / "first", steps=20)
    (tmp_path / "few.txt").write_text((home / "text.txt").read_text().replace("four", "one"))     # fewer letters
    second = train(home, tmp_path / "second", init=first, data=tmp_path / "few.txt", n_layer=3, steps=0)
    assert (second / "model.safetensors").read_bytes() == (first / "model.safetensors").read_bytes()
    assert tok.load(second / "tokenizer.json").hash == tok.load(first / "tokenizer.json").hash
    assert "n_layer: 2" in (second / "settings.yaml").read_text()


def test_init_with_another_tokenizer_keeps_the_tokens_that_both_have(home, tmp_path, capsys):
    first = train(home, tmp_path / "first", steps=20, dropout=0.3)
    other = tok.CharTokenizer.train((home / "text.txt").read_text() + "\nXYZ")
    other.save(tmp_path / "other.json")
    second = train(home, tmp_path / "second", init=first, tokenizer=tmp_path / "other.json", steps=0, dropout=0.1)
    assert "of the 14 tokens of this tokenizer, 11 are among the 11 of" in capsys.readouterr().out
    (a, old), (b, new) = checkpoint.load(first), checkpoint.load(second)
    assert new.hash == other.hash and (b.config.vocab_size, b.config.dropout) == (14, 0.1)
    for i, token in enumerate(new.vocab):
        row = b.wte.weight.data[i]
        if token in old.vocab:
            np.testing.assert_array_equal(row, a.wte.weight.data[old.vocab.index(token)])
        else:
            assert 0 < np.abs(row - a.wte.weight.data.mean(0)).max() < 0.1
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert name == "wte.weight" or p.data.tobytes() == q.data.tobytes()
    assert train(home, tmp_path / "third", init=second, steps=3)


# ------------------------------------------------------------------------------------------------ not finite

@pytest.mark.parametrize("value, blamed", [(np.nan, "parameter h.1.mlp.c_fc.weight"),
                                           (3e38, "micro-batch 0: the output of op linear")])
def test_a_loss_that_is_not_finite_stops_the_run(home, tmp_path, monkeypatch, capsys, value, blamed):
    """The weights of that moment are not saved: they may be finite, and yet what makes the loss of any text NaN."""
    def poison(model, opt, batches, lr, n, *rest, real=step.train_step):
        if n == 5:
            model.h[1].mlp.c_fc.weight.data[...] = value
        with np.errstate(all="ignore"):
            return real(model, opt, batches, lr, n, *rest)
    monkeypatch.setattr(run, "train_step", poison)
    out = train(home, tmp_path / "run", expected=1, steps=20)
    said = capsys.readouterr().err
    assert re.search(f"step 6: got loss nan.*First not finite: {blamed}", said)
    assert said.endswith(f"the last checkpoint, of step 4, is in {out}\n") and list(checkpoint.steps(out)) == [4]
    weights, _ = checkpoint.load(out)
    assert all(np.isfinite(p.data).all() for p in weights.parameters())


def test_a_gradient_that_is_not_finite_is_named(home):
    model = GPT(GPTConfig(5, 8, 1, 1, 4))
    x = np.zeros((1, 8), np.int64)
    model.loss(x, x).backward()
    assert finite.culprit(model, [(x, x)], 0, Config()) == "nothing, on a second look"
    model.zero_grad()
    model.loss(x, x).backward()
    model.h[0].attn.c_proj.bias.grad[1] = np.inf
    assert finite.culprit(model, [], 0, Config()) == "the gradient of h.0.attn.c_proj.bias"


# ---------------------------------------------------------------------------------------------------- pieces

def test_evaluation_is_the_mean_over_tokens_and_leaves_the_model_as_it_was(home, tmp_path):
    d = prepare(Config(data="verse", couplets=300, shards=str(home / "shards")))
    model = GPT(GPTConfig(d.tokenizer.vocab_size, 90, 1, 1, 8, dropout=0.5)).to(dtype="float64")
    for p in model.parameters():
        p.data *= 20                                         # far from uniform, so that a padded row would show
    v = Validation(d.val, 90, 7, 2000)
    loss, accuracy = step.evaluate(model, v)
    assert model.training and all(p.grad is None for p in model.parameters())
    model.eval()
    nats, right = [], 0
    for x, y in v.batches():
        z = model(x).data
        right += (z.argmax(-1) == y).sum()
        z -= z.max(-1, keepdims=True)
        p = np.take_along_axis(z, np.maximum(y, 0)[..., None], -1)[..., 0] - np.log(np.exp(z).sum(-1))
        nats.extend(-p[y >= 0])
    assert len(nats) == v.tokens and loss == pytest.approx(np.mean(nats), rel=1e-12)
    assert accuracy == right / v.tokens > 0
    assert (loss, accuracy) == pytest.approx(step.evaluate(model, Validation(d.val, 90, 1, 2000)), rel=1e-12)
    assert not model.training


def test_dropout_masks_are_those_of_the_step_and_the_micro_batch():
    model, seen = GPT(GPTConfig(5, 8, 1, 1, 4)), []
    loss = model.loss
    model.loss = lambda *args, **more: (seen.append(backend.now()), loss(*args, **more))[1]
    x = np.zeros((1, 8), np.int64)
    step.train_step(model, AdamW(model.parameters()), [(x, x)] * 3, 1e-3, 7, Config(seed=5))
    assert seen == [(5, 7, 0), (5, 7, 1), (5, 7, 2)]


def test_the_learning_rate_of_the_step_is_the_one_that_counts():
    model, x = GPT(GPTConfig(5, 8, 1, 1, 4)), np.zeros((1, 8), np.int64)
    opt, before = AdamW(model.parameters(), lr=1.0), model.wte.weight.data.copy()
    step.train_step(model, opt, [(x, x)], 0.0, 0, Config())
    assert (model.wte.weight.data == before).all()
    step.train_step(model, opt, [(x, x)], 1e-3, 1, Config())
    assert 0 < abs(model.wte.weight.data - before).max() < 1e-2


def test_warming_up_changes_nothing(home, tmp_path):
    model = GPT(GPTConfig(13, 16, 1, 1, 8, dropout=0.1))
    before = [p.data.copy() for p in model.parameters()]
    config = Config(**TINY)
    run.warm_up(run.Run(config, tmp_path, None, model, AdamW(model.parameters()), *[None] * 5))
    assert all((a == p.data).all() for a, p in zip(before, model.parameters(), strict=True)) and model.training


def test_windows_follow_the_position_that_a_checkpoint_holds(home):
    d = prepare(Config(**{**TINY, "data": str(home / "text.txt"), "shards": str(home / "shards")}))
    x, _ = Windows(d.train, 16, 3).batch(0, 12)
    y, _ = Windows(d.train, 16, 3).batch(8, 4)
    assert (x[8:] == y).all()


def test_a_plot_of_nothing_and_of_everything(tmp_path):
    log.plot(tmp_path / "a.png", [])
    log.plot(tmp_path / "b.png", [{"step": 0, "val_loss": 3.0, "val_bits": 90, "entropy_bits": 30},
                                  {"step": 1, "loss": 2.5}])
    assert (tmp_path / "b.png").stat().st_size > (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.filterwarnings("error")
def test_a_folder_may_have_any_name(tmp_path):
    """Dollars begin no formula, neither whole ones nor halves; letters that the font lacks give no warnings."""
    folder = tmp_path / "a$b_$^$c$ कविता"
    folder.mkdir()
    (folder / "log.jsonl").write_text('{"step": 1, "val_loss": 2.0}\n')
    log.plot(folder / "loss.png", log.read(folder / "log.jsonl"), folder.name)
    report.plot(folder / "both", [folder])
    assert {path.name for path in folder.iterdir()} == {"log.jsonl", "loss.png", "both"}
    assert (folder / "both").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    file = tmp_path / "loss.svg"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), drawing(file):
        raise ZeroDivisionError
    assert file.read_text() == "old"
    with drawing(file):
        pass
    assert "<svg" in file.read_text() and [path.name for path in tmp_path.iterdir()] == ["loss.svg"]


def test_the_smooth_curve_keeps_lines_and_has_no_lag():
    line = np.linspace(5.0, 1.0, 300)
    assert np.allclose(log._smooth(line), line) and log._smooth([2.0]).tolist() == [2.0]
    noise = np.random.default_rng(0).normal(size=3000)
    assert log._smooth(noise)[50:-50].std() < 0.2


def test_slow_work_is_announced_and_fast_work_is_not(capsys):
    with log.slow("compiling", after=0.05):
        time.sleep(0.2)
    with log.slow("nothing", after=5):
        pass
    assert re.fullmatch(r"compiling ...\n  took 0 s\n", capsys.readouterr().out)


# -------------------------------------------------------------------------------------------------- train.sample

def test_sampling_from_a_run_folder(home, tmp_path, capsys):
    out = train(home, tmp_path / "run")
    capsys.readouterr()
    command = [str(out), "--prompt", "one", "--n", "2", "--tokens", "10", "--temperature", "1", "--top_k", "5",
               "--top_p", "0.9"]
    assert sample.main(command) == 0
    first = capsys.readouterr().out
    texts = first.rstrip("\n").split("\n" + "-" * 40 + "\n")
    assert len(texts) == 2 and all(t.startswith("one") and len(t) <= 13 for t in texts)
    assert sample.main(command) == 0 and capsys.readouterr().out == first
    assert sample.main([*command, "--seed", "1"]) == 0 and capsys.readouterr().out != first


def test_a_stream_shows_the_same_text(home, tmp_path, capsys):
    out = train(home, tmp_path / "run")
    for more in (["--n", "3"], ["--min_p", "0.1"], ["--repetition_penalty", "2"], ["--temperature", "0"],
                 ["--int8"]):
        capsys.readouterr()
        assert sample.main([str(out), "--prompt", "one", "--tokens", "30", *more]) == 0
        texts = capsys.readouterr().out
        assert sample.main([str(out), "--prompt", "one", "--tokens", "30", *more, "--stream"]) == 0
        assert [t.strip("\n") for t in capsys.readouterr().out.split("-" * 40)] == [
            t.strip("\n") for t in texts.split("-" * 40)]


@pytest.mark.parametrize("more, says", [(["--prompt", "ONE"], "'O'"), (["--n", "0"], "at least 1"),
                                        (["--temperature", "-1"], "temperature"), (["--top_p", "2"], "top_p")])
def test_sampling_explains_what_it_cannot_do(home, tmp_path, capsys, more, says):
    out = train(home, tmp_path / "run", steps=1)
    capsys.readouterr()
    assert sample.main([str(out), *more]) == 2
    assert says in capsys.readouterr().err
    assert sample.main([str(tmp_path / "nowhere")]) == 2
    assert "a folder with model.safetensors" in capsys.readouterr().err


def test_config_fields_all_do_something():
    """A flag that no code reads is a promise that nobody keeps."""
    code = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "train").glob("*.py"))
    for f in dataclasses.fields(Config):
        assert re.search(rf"\b(config|c)\.{f.name}\b|\[\"{f.name}\"\]", code), f.name


# --------------------------------------------------------------------------------------------------------- reports

def test_runs_side_by_side(home, tmp_path, capsys, monkeypatch):
    runs = [str(train(home, tmp_path / name, lr=lr)) for name, lr in (("slow", 1e-4), ("fast", 1e-2))]
    capsys.readouterr()
    for plot in ("both", "nowhere/both.png"):
        assert report.main([*runs, "--plot", str(tmp_path / plot)]) == 2
        assert "expected the name of a .png, .svg or .pdf" in capsys.readouterr().err
    assert report.main([*runs, "--plot", str(tmp_path / "both.png")]) == 0
    head, slow, fast, drawn = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in (slow, fast)] == ["slow", "fast"]
    assert head.split()[:3] == ["run", "step", "validation"]
    last = log.read(Path(runs[1], "log.jsonl"))[-1]
    for number in (f"{last['val_loss']:.4f}", f"{last['perplexity']:.2f}", f"{last['bits_per_byte']:.3f}", "2 x 16"):
        assert number in fast
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG") and "both.png is drawn" in drawn
    assert report.main([runs[1], "--epochs"]) == 0
    rows = capsys.readouterr().out.splitlines()[4:]
    losses = [e["loss"] for e in log.read(Path(runs[1], "log.jsonl")) if "loss" in e]
    assert [row.split()[1] for row in rows] == ["step", "0", "4", "6"]
    assert rows[1].split()[2] == "-" and rows[2].split()[2] == f"{np.mean(losses[:4]):.4f}"
    assert rows[3].split()[2:4] == [f"{np.mean(losses[4:]):.4f}", f"{last['val_loss']:.4f}"]
    monkeypatch.chdir(runs[1])
    assert report.main(["."]) == 0 and "\nfast " in capsys.readouterr().out and log.Picture(".").title == "fast"
    assert report.main([str(tmp_path)]) == 2
    assert "no log.jsonl in it; expected a run folder" in capsys.readouterr().err
    (tmp_path / "log.jsonl").write_text("5\n")
    assert report.main([str(tmp_path)]) == 2 and "log.jsonl: got 5; expected lines" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gpt1", "gpt2-medium", "hindi-poetry"])
def test_the_recipes_run_in_small(home, tmp_path, name):
    """Their settings as they are, but for the sizes."""
    small = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, vocab_size=260, tokens_per_step=64, device_batch=2,
                 eval_tokens=100, eval_every=2, samples=1, sample_tokens=5, epochs=0, steps=3, warmup=1)
    out = train(home, tmp_path / "run", config=name, split="0.8,0.1,0.1", **small)
    saved = checkpoint.newest(out)[1]["config"]
    asked = yaml.safe_load((ROOT / "train" / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    for key in set(asked) - set(small) - {"data", "split", "preset"}:
        assert saved[key] == asked[key] or float(saved[key]) == float(asked[key]), key
