"""Checkpoints: cut off at any moment, damaged, written while training goes on, and on a disk that is full."""
import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file
from test_train import ROOT, flags, home, newest, train  # noqa: F401

import tok
from bench import survive
from gpt import GPT, GPTConfig, pretrained
from minigrad import cache
from minigrad.cache import one_at_a_time
from nn import AdamW
from train import checkpoint, log, run
from train.checkpoint import Writer


class Run:
    """A model and an optimiser whose every number says which step it is."""

    def __init__(self, out, **how):
        self.model = GPT(GPTConfig(5, 8, 1, 1, 4))
        self.opt, self.tokenizer = AdamW(self.model.parameters()), tok.CharTokenizer.train("\nabcd")
        self.writer = Writer(out, **{"background": False, **how})

    def save(self, step, loss=None):
        self.set(step)
        self.writer.save(self.model, self.opt.state(), self.tokenizer, {
            "step": step, "position": step, "source": "s", "config": {},
            "metrics": loss and {"step": step, "val_loss": loss}})

    def set(self, step):
        for p in self.model.parameters():
            p.data[...] = step
        for name in self.opt.kept:
            self.opt.flats[0].moment(name)[...] = step
        self.opt.steps = step


def step_of(out):
    """The one step that all of the newest checkpoint says."""
    folder, state = checkpoint.newest(out)
    model, _ = checkpoint.load(out)
    opt = AdamW(GPT(model.config).parameters())
    checkpoint.load_optimizer(folder, opt)
    found = {state["step"], opt.steps, int(folder.name), *np.unique(opt.flats[0].moment("m")).tolist(),
             *(x for p in model.parameters() for x in np.unique(p.data).tolist())}
    assert len(found) == 1, found
    return found.pop()


def hidden(out):
    return [p for p in Path(out).rglob(".*")]


class Killed(BaseException):
    """What a kill -9 is to the code that it hits."""


def cut(monkeypatch, moment):
    """Every look at the disk from number `moment` on kills."""
    calls = iter(range(1000))

    def until(real):
        def call(*args, **kwargs):
            if next(calls) >= moment:
                raise Killed
            return real(*args, **kwargs)
        return call

    for module, name in ((os, "replace"), (os, "rename"), (os, "link"), (shutil, "rmtree"), (checkpoint, "to_disk"),
                         (checkpoint, "write_json"), (pretrained, "write_tensors"), (Path, "mkdir"), (Path, "unlink")):
        monkeypatch.setattr(module, name, until(getattr(module, name)))


def test_a_save_cut_off_anywhere_leaves_the_old_or_the_new_checkpoint(tmp_path, monkeypatch):
    """At one look at the disk after the other, until the save comes through."""
    for moment in range(100):
        out, killed = tmp_path / str(moment), False
        run = Run(out, keep=1)
        run.save(1, 3.0)
        run.save(2, 2.0)
        with monkeypatch.context() as m:
            cut(m, moment)
            try:
                run.save(3, 1.0)
            except Killed:
                killed = True
        assert step_of(out) in ((2, 3) if killed else (3,))
        assert load_file(out / "model.safetensors")["transformer.wte.weight"].flat[0] in (2, 3)
        again = Run(out, keep=1)
        assert not hidden(out / "checkpoints")
        again.save(4, 0.5)
        assert step_of(out) == 4 and list(checkpoint.steps(out)) == [4]
        assert not hidden(out) and (out / "model.safetensors").samefile(newest(out) / "model.safetensors")
        if not killed:
            break
    assert not killed and moment > 20


def test_a_run_that_goes_on_does_not_write_again_what_it_came_from(home, tmp_path, monkeypatch):  # noqa: F811
    """Stopped before its first step: had it to be replaced, a kill in between would leave no checkpoint at all."""
    out = train(home, tmp_path / "run", keep=1, steps=4)
    before = {path: path.stat().st_mtime_ns for path in [newest(out), *newest(out).iterdir()]}

    def press(of, interrupt, real=run.train):
        signal.raise_signal(signal.SIGTERM)
        real(of, interrupt)
    monkeypatch.setattr(run, "train", press)
    assert run.main(["--resume", str(out), "--steps", "8"]) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before and list(checkpoint.steps(out)) == [4]


def test_a_damaged_checkpoint_is_replaced_in_one_moment(tmp_path, monkeypatch):
    """It goes out of the way by a rename, and the new one comes by the next: nothing is removed in between."""
    run = Run(tmp_path)
    run.save(1)
    run.save(2)
    (newest(tmp_path) / "model.safetensors").write_bytes(b"")
    done = []
    for real in os.rename, shutil.rmtree:
        monkeypatch.setattr(os if real is os.rename else shutil, real.__name__, lambda *args, real=real, **how: (
            done.append(real.__name__), real(*args, **how)))
    again = Run(tmp_path, newest=1)
    again.save(2)
    assert done[-3:] == ["rename", "rename", "rmtree"] and step_of(tmp_path) == 2 and not hidden(tmp_path)


def test_what_is_damaged_takes_nobodys_place(tmp_path):
    """A run that goes on from before it keeps what it writes, until it has come by."""
    run = Run(tmp_path, keep=1)
    run.save(2, 3.0)
    run.save(9, 1.0)
    run.writer.newest = None
    run.save(2, 3.0)
    (tmp_path / "checkpoints" / "00000009" / "model.safetensors").write_bytes(b"")
    again = Run(tmp_path, keep=1, newest=2)
    again.save(4, 4.0)
    assert list(checkpoint.steps(tmp_path)) == [9, 4, 2] and step_of(tmp_path) == 4
    again.save(9, 2.0)
    assert list(checkpoint.steps(tmp_path)) == [9] and step_of(tmp_path) == 9


def test_the_last_few_stay_and_the_best(tmp_path):
    run = Run(tmp_path, keep=2)
    for step, loss in ((1, 3.0), (2, 1.0), (3, 2.0), (4, None), (5, 2.5), (6, None)):
        run.save(step, loss)
    assert list(checkpoint.steps(tmp_path)) == [6, 5, 2]
    run.save(7, 0.9)
    assert list(checkpoint.steps(tmp_path)) == [7, 6]
    run.save(7, 0.1)                                         # the same step again is nothing new
    assert checkpoint.score(newest(tmp_path)) == 0.9


def test_what_is_written_is_the_moment_of_the_save(tmp_path, monkeypatch):
    """And training does not wait for it; the next save does."""
    gate, real, order = threading.Event(), pretrained.write_tensors, []

    def slow(path, arrays):
        assert gate.wait(30)
        order.append(path.parent.name)
        real(path, arrays)

    monkeypatch.setattr(pretrained, "write_tensors", slow)
    run = Run(tmp_path, background=True)
    run.save(1)
    run.set(2)                                               # in place, while the thread has not written a byte
    assert not checkpoint.steps(tmp_path)
    threading.Timer(0.2, gate.set).start()
    run.save(3)
    assert run.writer.wait() == "" and order == [".00000001"] * 2 + [".00000003"] * 2
    assert step_of(tmp_path) == 3
    shutil.rmtree(tmp_path / "checkpoints" / "00000003")
    assert step_of(tmp_path) == 1


def test_another_number_of_heads_is_another_model(tmp_path):
    """What bench survive compares tells them apart, though their parameters are the same; run.json refuses them."""
    run = Run(tmp_path)
    run.save(1)
    folder = checkpoint.newest(tmp_path)[0]
    want, file = survive.digest(GPT.from_pretrained(folder)), folder / "config.json"
    assert want == survive.digest(GPT.from_pretrained(folder))
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "n_head": 2 if settings["n_head"] == 1 else 1}))
    assert survive.digest(GPT.from_pretrained(folder)) != want
    with pytest.raises(ValueError, match="config.json: got "):
        checkpoint.checked(folder)


@pytest.mark.parametrize("name", ["run.json", "optimizer.safetensors", "model.safetensors", "tokenizer.json",
                                  "config.json"])
@pytest.mark.parametrize("damage", [lambda data: data[:len(data) // 2], lambda data: b"\xff\xfe", lambda data: b"{}",
                                    lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:], None])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(name, damage, tmp_path, capsys):
    run = Run(tmp_path)
    for step in (1, 2):
        run.save(step)
    path = tmp_path / "checkpoints" / "00000002" / name
    data = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes(damage(data))
    assert step_of(tmp_path) == 1
    said = capsys.readouterr().err
    assert f"00000002/{name}" in said and "going on from step 1" in said and "expected" in said
    shutil.rmtree(tmp_path / "checkpoints" / "00000001")
    with pytest.raises(ValueError, match="expected one checkpoint that is whole. Hint: --init"):
        checkpoint.newest(tmp_path)


def test_a_run_goes_on_from_the_one_before(home, tmp_path, capsys):  # noqa: F811
    out = train(home, tmp_path / "run", steps=8)
    want = (newest(out) / "model.safetensors").read_bytes()
    (newest(out) / "optimizer.safetensors").write_bytes(b"")
    assert run.main(["--resume", str(out)]) == 0
    assert "going on from step 4" in capsys.readouterr().err
    assert newest(out).name == "00000008" and (newest(out) / "model.safetensors").read_bytes() == want


def test_a_run_without_a_checkpoint_says_how_to_begin_it(home, tmp_path, capsys, monkeypatch):  # noqa: F811
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert run.main(["--resume", str(folder)]) == 2
        assert f"where no checkpoint is; expected a run folder with one. Hint: --resume auto --out {folder}" in (
            capsys.readouterr().err)
    out = tmp_path / "run"
    out.mkdir()
    (out / "log.jsonl").write_text('{"step": 1, "loss": 1.0}\n')             # killed before its first checkpoint
    train(home, out, expected=2)
    assert f"Hint: --resume auto --out {out} goes on" in capsys.readouterr().err
    train(home, out, resume="auto")
    assert run.main(["--resume", str(newest(out))]) == 2
    assert f"00000006', a checkpoint; expected a run folder with one. Hint: --resume {out}\n" in capsys.readouterr().err


def test_two_runs_are_never_in_one_folder(home, tmp_path, monkeypatch, capsys):  # noqa: F811
    """A folder is taken from before the first step until the run has ended."""
    monkeypatch.chdir(tmp_path)
    others = []

    def meanwhile(real=run.prepare):
        def prepare(*args):
            if not others:
                others.append(run.main(flags(home, out="runs/tiny")))
                others.append(run.main(flags(home, resume="auto", out="runs/tiny")))
                others.append(run.main(flags(home)))
            return real(*args)
        return prepare
    monkeypatch.setattr(run, "prepare", meanwhile())
    assert run.main(flags(home)) == 0 and others == [2, 2, 0]
    said = capsys.readouterr()
    assert said.err.count("'runs/tiny', in which another process is training; expected a folder of its own") == 2
    assert "--out: got" in said.err and "--resume: got" in said.err and "run folder runs/tiny-2\n" in said.out
    assert [sorted(e["step"] for e in log.read(f"runs/{name}/log.jsonl") if "loss" in e) for name in ("tiny", "tiny-2")
            ] == [[1, 2, 3, 4, 5, 6]] * 2
    assert run.main(["--resume", "runs/tiny", "--steps", "7"]) == 0


def test_where_nothing_can_be_locked_nobody_is_kept_out(tmp_path, monkeypatch):
    """As on NFS, where flock of a folder is refused."""
    def refused(*_):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    monkeypatch.setattr(cache, "fcntl", SimpleNamespace(flock=refused, LOCK_EX=2, LOCK_NB=4))
    with one_at_a_time(tmp_path), one_at_a_time(tmp_path, wait=False):
        pass


# a full disk


def test_a_full_disk_stops_no_training(home, tmp_path, monkeypatch, capsys):  # noqa: F811
    """The checkpoint of step 4 is there, those of 8 and 12 find no room."""
    real = pretrained.write_tensors

    def full(path, arrays):
        if path.parent.name != ".00000004":
            path.write_bytes(b"the beginning of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path, arrays)

    monkeypatch.setattr(pretrained, "write_tensors", full)
    out = train(home, tmp_path / "run", expected=1, steps=12)
    said = capsys.readouterr()
    for step in (8, 12):
        assert (f"the checkpoint of step {step} could not be written (No space left on device); the one of step 4 is "
                "whole, and the run goes on") in said.err
    assert said.err.endswith("error: the checkpoint of step 12 could not be written (No space left on device); the one "
                             "of step 4 is whole\n") and "all of it is in" not in said.out
    assert [e["step"] for e in log.read(out / "log.jsonl") if "loss" in e] == list(range(1, 13))
    assert list(checkpoint.steps(out)) == [4] and not hidden(out)
    monkeypatch.setattr(pretrained, "write_tensors", real)
    assert run.main(["--resume", str(out)]) == 0
    assert list(checkpoint.steps(out)) == [12, 8]


def test_a_checkpoint_without_second_names_is_one(tmp_path, monkeypatch, capsys):
    """No hard links, and no room for copies: what was written is whole, and what need not stay goes."""
    def none(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    def full(_, target):
        target.write_bytes(b"the beginning of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    run = Run(tmp_path, keep=1)
    run.save(1, 2.0)
    monkeypatch.setattr(os, "link", none)
    monkeypatch.setattr(shutil, "copyfile", full)
    run.save(2, 1.0)
    said = ("the checkpoint of step 2 is whole, but its weights could not be given a second name in "
            f"{tmp_path} (No space left on device), and the run goes on")
    assert run.writer.wait() == said and said in capsys.readouterr().err
    assert step_of(tmp_path) == 2 and list(checkpoint.steps(tmp_path)) == [2] and not hidden(tmp_path)
    assert load_file(tmp_path / "model.safetensors")["transformer.wte.weight"].flat[0] == 1
    monkeypatch.undo()
    run.save(3, 0.5)
    assert run.writer.wait() == "" and load_file(tmp_path / "model.safetensors")["transformer.wte.weight"].flat[0] == 3


def test_a_picture_that_finds_no_room_leaves_nothing(tmp_path, monkeypatch):
    from matplotlib import pyplot

    def full(self, file, **_):
        file.write_bytes(b"the beginning of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2}\n')
    monkeypatch.setattr(pyplot.Figure, "savefig", full)
    log.Picture(tmp_path).draw()
    assert not hidden(tmp_path) and not pyplot.get_fignums()


def test_a_writer_that_breaks_is_heard_of(tmp_path, monkeypatch):
    """Whatever it is: the thread's own traceback, and no silence at the end."""
    def broken(path, arrays):
        raise ValueError("a bug")

    monkeypatch.setattr(pretrained, "write_tensors", broken)
    monkeypatch.setattr(threading, "excepthook", lambda seen: None)
    run = Run(tmp_path, background=True)
    run.save(1)
    assert run.writer.wait() == "ValueError('a bug')" and not checkpoint.steps(tmp_path)


FULL = """if True:
    import resource, signal, sys
    from train import log
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    out = log.Log(sys.argv[1])
    for step in range(40):
        soft = 2000 if 10 < step < 30 else 1 << 20
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        out.write(step=step, loss=0.5, text="x" * 100)"""


def test_a_log_waits_for_room(tmp_path):
    """A file may not grow for a while: no line is lost, and none is there in half."""
    subprocess.run([sys.executable, "-c", FULL, str(tmp_path / "log")], cwd=ROOT, check=True)
    entries = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [e["step"] for e in entries] == list(range(40))


def test_nothing_is_left_over_of_a_run_killed_at_its_very_end(home, tmp_path, capsys):  # noqa: F811
    """Its last checkpoint was there, its picture was being drawn; the same command finds nothing to do but to tidy."""
    out = train(home, tmp_path / "run")
    for name in (".loss.png.tmp", ".log.jsonl.tmp", ".model.safetensors.tmp"):
        (out / name).write_bytes(b"half")
    (out / "checkpoints" / ".00000006").mkdir()
    (out / ".mine").write_text("not ours")
    assert run.main([*flags(home, out=out), "--resume", "auto"]) == 0
    assert "has made all its 6 steps" in capsys.readouterr().out and hidden(out) == [out / ".mine"]


def test_a_run_killed_behind_its_last_checkpoint_is_settled_by_the_same_command(home, tmp_path, monkeypatch,  # noqa: F811
                                                                               capsys):
    out = tmp_path / "run"
    asked = flags(home, out=out, keep=1, eval_every=2, background="false", lr=1e-2)
    with monkeypatch.context() as m:
        m.setattr(Writer, "settle", lambda self, new, real=Writer.settle: (
            cut(m, 0) if new.name == "00000006" else None, real(self, new)))
        with pytest.raises(Killed):
            run.main(asked)
    assert list(checkpoint.steps(out)) == [6, 4] and (out / "model.safetensors").samefile(
        out / "checkpoints" / "00000004" / "model.safetensors")
    assert run.main([*asked, "--resume", "auto"]) == 0 and "has made all its 6 steps" in capsys.readouterr().out
    assert list(checkpoint.steps(out)) == [6]
    assert all((out / name).samefile(newest(out) / name) for name in checkpoint.WEIGHTS)


def test_a_checkpoint_says_which_code_wrote_it(tmp_path, monkeypatch):
    """The same for equal files; another one for any change in them, and for a file that has moved."""
    run = Run(tmp_path / "run")
    run.save(1)
    assert checkpoint.newest(tmp_path / "run")[1]["versions"]["code"] == checkpoint.code()
    (tmp_path / "train").mkdir()
    monkeypatch.setattr(checkpoint, "__file__", str(tmp_path / "train" / "checkpoint.py"))
    found = set()
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("b.py", "x = 2"), ("b.cu", "int x;"), ("b.txt", "")):
        (tmp_path / "train" / name).write_text(text)
        found.add(checkpoint.code.__wrapped__())
    assert len(found) == 4                                   # a text is no code


def test_a_run_that_hangs_does_not_hold(tmp_path, monkeypatch, capsys):
    """Once killed it is let alone, for as long as the patience lasts: before, it was killed again and again, for ever.
    Whoever waits for one hears of it, and none lives on."""
    def hangs(out, ranks=1, limit=None):
        (tmp_path / out).mkdir(exist_ok=True)
        place.started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                                              stderr=subprocess.PIPE, text=True))
        return place.started[-1]

    with survive.Place(tmp_path) as place:
        monkeypatch.setattr(place, "start", hangs)
        place.patience = 1.0
        assert not survive.kills(place, None, 0.1, 1, random.Random(0))
        assert "run 1: no end within 1 s, with no kill" in capsys.readouterr().out
        assert not survive.stops(place, None, 1, random.Random(0)) and not survive.full_disk(place, None)
        assert place.finish("whole")[:2] == (None, "no end within 1 s")
        last = place.start("last")
    assert last.returncode == -9 and all(process.poll() is not None for process in place.started)


def test_what_a_reader_makes_of_damage():
    def refuses(error):
        def read():
            raise error
        return survive.outcome(read, 1)

    assert survive.outcome(lambda: 1, 1) == (True, "") and survive.outcome(lambda: 2, 1)[1]
    assert refuses(ValueError("got 2; expected 1")) == (False, "")
    assert refuses(TimeoutError())[1] and refuses(KeyError())[1]
    with pytest.raises(KeyboardInterrupt):
        refuses(KeyboardInterrupt())
