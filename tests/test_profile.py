"""The profile of a step: what it sees, what it counts, that it changes nothing, and --profile of a run."""
import json
import threading
from itertools import count

import numpy as np
import pytest
import yaml

import minigrad.profile
from gpt import GPT, GPTConfig
from minigrad import Tensor, kernels, no_grad, recompute, using
from minigrad.fused.adamw import adamw, sum_of_squares
from minigrad.fused.attention import attention
from minigrad.fused.cross_entropy import linear_cross_entropy
from minigrad.fused.embedding import embedding
from minigrad.fused.linear import linear
from minigrad.fused.relu import relu
from minigrad.kernels import probe
from minigrad.profile import profile
from minigrad.tensor import Op
from nn import AdamW, clip_grad_norm
from train import checkpoint, run


def leaf(*shape, dtype=np.float32):
    return Tensor(np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype), requires_grad=True)


def named(p):
    return [(c.name, c.phase) for c in p.calls]


def only(p, name, phase):
    """The one call of that name and phase."""
    found, = (c for c in p.calls if (c.name, c.phase) == (name, phase))
    return found


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves on by 1000 ns each time that somebody looks."""
    ticks = count(0, 1000)
    monkeypatch.setattr(minigrad.profile, "now", lambda: next(ticks))


def net(**changes):
    return GPT(GPTConfig(**{**dict(vocab_size=11, block_size=8, n_layer=2, n_head=2, n_embd=8), **changes}))


IDS = np.random.default_rng(0).integers(0, 11, (3, 8))


# ------------------------------------------------------------------------------------------------- what it sees

def test_every_op_forward_and_backward():
    x, w = leaf(2, 3), leaf(3, 4)
    with profile() as p:
        (x @ w).sum().backward()
        with no_grad():
            x * x
    assert named(p) == [("matmul", "forward"), ("sum", "forward"), ("sum", "backward"), ("matmul", "backward"),
                        ("mul", "forward")]
    assert p.calls[0].shapes == [[2, 3], [3, 4]] and p.calls[3].shapes[0] == [2, 4]
    (start, end), = p.blocks
    assert all(start <= a.start and a.start + a.time <= b.start for a, b in zip(p.calls, p.calls[1:]))
    assert p.calls[-1].start + p.calls[-1].time <= end


@pytest.mark.parametrize("mode", ["reference", "auto"])
def test_a_whole_step_with_its_optimiser(mode):
    model = net()
    opt = AdamW(model.parameters())
    with using(mode), profile() as p:
        model.loss(IDS, IDS).backward()
        clip_grad_norm(opt, 1.0)
        opt.step()
    seen = named(p)
    assert {name for name, _ in seen} == {"embedding", "layer_norm", "linear", "attention", "gelu", "add",
                                          "linear_cross_entropy", "plus", "sum_rows", "sum_of_squares", "control",
                                          "adamw"}
    assert seen.count(("linear", "forward")) == seen.count(("linear", "backward")) == 8
    assert seen[-4:] == [(name, "update") for name in ("sum_of_squares", "control", "adamw", "adamw")]
    assert {name for name, phase in seen if phase == "update"} == {"plus", "sum_rows", "sum_of_squares", "control",
                                                                   "adamw"}


def test_only_what_happens_inside_and_in_this_thread():
    x = leaf(2, 3)
    x * x
    with profile() as p:
        y = (x * x).sum()
        other = threading.Thread(target=lambda: (x + x).sum())
        other.start()
        other.join()
    y.backward()                                          # a graph from inside: works, and is not counted
    np.testing.assert_allclose(x.grad, 2 * x.data)
    assert named(p) == [("mul", "forward"), ("sum", "forward")]
    assert kernels.watcher.get() is None


def test_a_second_block_adds_up():
    x, p = leaf(2, 3), profile()
    for _ in range(2):
        with p:
            x * x
        x + x
    assert named(p) == [("mul", "forward")] * 2 and len(p.blocks) == 2
    with p, pytest.raises(ValueError, match="profile: got a profile that is running"), p:
        pass
    assert kernels.watcher.get() is None


def test_an_error_inside_switches_it_off():
    with pytest.raises(ZeroDivisionError), profile() as p:
        leaf(2) * 2.0
        raise ZeroDivisionError
    assert kernels.watcher.get() is None and named(p) == [("mul", "forward")]
    with profile() as p, pytest.raises(ValueError, match="linear: got"):
        linear(leaf(2, 3), leaf(2, 3))
    assert not p.calls


@pytest.mark.parametrize("mode", ["reference", "auto"])
def test_it_changes_no_bit(mode):
    results = []
    for watched in (False, True):
        model = net()
        with using(mode):
            if watched:
                with profile():
                    loss = model.loss(IDS, IDS)
                    loss.backward()
            else:
                loss = model.loss(IDS, IDS)
                loss.backward()
        results.append([loss.data, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_off_means_that_nothing_stands_in_between():
    assert kernels.watcher.get() is None
    assert kernels.choose(relu, [np.ones(3)]) is kernels._pair("minigrad.fused.relu", "cpu", "relu")


def test_a_search_inside_a_profile_still_finds():
    names = []
    with profile(), probe(lambda name, *_: names.append(name)):
        (leaf(2) * 2.0).sum()
        sum_of_squares(np.ones(3))                        # no op: a probe lets it pass
    assert names == ["mul", "sum"]


# ------------------------------------------------------------------------------------------ time, counted once

def test_recompute_is_the_ops_that_it_runs():
    x = leaf(4, 4)
    with profile() as p:
        recompute(lambda x: (x @ x).tanh(), x).sum().backward()
    assert named(p) == [("matmul", "forward"), ("tanh", "forward"), ("sum", "forward"), ("sum", "backward"),
                        ("matmul", "forward"), ("tanh", "forward"), ("tanh", "backward"), ("matmul", "backward"),
                        ("plus", "update")]
    assert all(c.own == c.time for c in p.calls) and sum(c.own for c in p.calls) <= p.wall


def test_what_an_op_calls_is_taken_off_its_own_time(clock):
    def outer(x):
        return np.array([sum_of_squares(x)]), ()

    both = Op(outer)
    del Op.table["outer"]
    with profile() as p, using("reference"):
        both(np.ones(3))
    inner, whole = p.calls
    assert (inner.name, whole.name) == ("sum_of_squares", "outer")
    assert whole.own == whole.time - inner.time and inner.own == inner.time == 1000 and p.inside == whole.time


def test_the_table_adds_up(clock):
    x = leaf(2, 3)
    with profile() as p:
        for _ in range(3):
            x * x
        x + x
    head, *rows, last = (line.split() for line in p.table().splitlines())
    assert head == ["op", "phase", "calls", "ms", "share", "ms/call", "GFLOP/s", "GB/s"]
    assert [row[:4] for row in rows] == [["mul", "forward", "3", "0.00"], ["add", "forward", "1", "0.00"]]
    assert rows[0][-2:] == ["-", f"{(24 + 24) / 1000:.1f}"]                  # one array in, one out, in a microsecond
    shares = [float(word.strip("%")) for line in (*rows, last) for word in line if "%" in word]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert last[:3] == ["between", "ops", "4"] and last[-5:] == [f"{(p.wall - 4000) / 4 / 1000:.1f}", "us", "per", "op",
                                                                 "call"]


def test_the_clock_is_taken_off(clock):
    """Per call of mul: twice at the clock to dress it, then its start and its end, and once more after the books."""
    with profile() as p:
        leaf(2) * 2.0
    (start, end), = p.blocks
    assert end - start == 6000 and p.clock == 2000 and p.wall == 4000


def test_a_profile_of_nothing_has_a_table():
    with profile() as p:
        pass
    assert len(p.table().splitlines()) == 2 and "us per" not in p.table()


# ----------------------------------------------------------------------------------------- operations and bytes

@pytest.mark.parametrize("mode", ["reference", "auto"])
@pytest.mark.parametrize("call, forward, backward", [
    (lambda: linear(leaf(5, 2, 3), leaf(3, 4), leaf(4)), 2 * 10 * 3 * 4, 4 * 10 * 3 * 4),
    (lambda: linear(np.ones((5, 3), np.float32), leaf(3, 4)), 2 * 5 * 3 * 4, 2 * 5 * 3 * 4),   # x wants no gradient
    (lambda: leaf(6, 2, 3) @ leaf(6, 3, 4), 2 * 6 * 2 * 3 * 4, 4 * 6 * 2 * 3 * 4),
    (lambda: leaf(6, 2, 3) @ leaf(3, 4), 2 * 6 * 2 * 3 * 4, 4 * 6 * 2 * 3 * 4),
    (lambda: leaf(3) @ leaf(3), 2 * 3, 4 * 3),
    (lambda: attention(leaf(2, 5, 3 * 6), n_head=3), 4 * 2 * 5 * 5 * 6 / 2, 10 * 2 * 5 * 5 * 6 / 2),
    (lambda: linear_cross_entropy(leaf(2, 3, 4), leaf(7, 4), np.zeros((2, 3), int)), 3 * 2 * 6 * 4 * 7, 0),
    (lambda: linear_cross_entropy(leaf(6, 4), leaf(7, 4).data, np.zeros(6, int)), 2 * 2 * 6 * 4 * 7, 0),
    (lambda: leaf(3) * leaf(3), 0, 0),
])
def test_operations(mode, call, forward, backward):
    with using(mode), profile() as p:
        y = call()
        y.backward(np.ones(y.shape, y.dtype))
    assert [c.flops for c in p.calls if c.name != "sum_rows"] == [forward, backward]


def test_bytes_are_those_of_the_arrays():
    x, y = leaf(2, 3), leaf(3)
    with profile() as p:
        (x + y).tanh().backward(np.ones((2, 3), np.float32))
    assert only(p, "add", "forward").bytes == 24 + 12 + 24
    assert only(p, "tanh", "forward").bytes == 24 + 24
    assert only(p, "tanh", "backward").bytes == 24 + 24 + 24                      # dy, y and dx
    with profile() as p:
        x * x
    assert p.calls[0].bytes == 24 + 24


def test_a_view_moves_nothing():
    x = leaf(4, 6)
    with profile() as p:
        a, _ = x.reshape(6, 4).swapaxes(0, 1)[1:].split(2, 1)
        a.backward(np.ones(a.shape, np.float32))
        x + x
    assert [c.bytes for c in p.calls if c.phase == "forward"] == [0, 0, 0, 0, 2 * 96]
    with profile() as p:
        (x + leaf(4, 6)).backward(np.ones((4, 6), np.float32))
    assert only(p, "add", "backward").bytes == 0                                  # both are told dy itself


def test_gradients_that_go_into_their_slots_are_counted():
    x, w = Tensor(np.ones((5, 3), np.float32)), leaf(3, 4)
    with profile() as p:
        linear(x, w).backward(np.ones((5, 4), np.float32))
    assert only(p, "linear", "backward").bytes == 4 * (5 * 3 + 3 * 4 + 5 * 4 + 3 * 4)      # x, w, dy and dw


def test_bytes_of_rows_and_of_what_is_updated_in_place():
    with profile() as p:
        embedding(np.array([1, 1, 0]), leaf(1000, 2)).backward(np.ones((3, 2), np.float32))
        adamw(*np.ones((4, 10), np.float32), None, lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8, decay=0.0, step=1)
        sum_of_squares(np.ones(10, np.float32))
    assert [c.bytes for c in p.calls] == [2 * 24, 3 * 24, 7 * 40, 40]


# ------------------------------------------------------------------------------------------------------ the trace

def test_a_trace_is_what_chrome_reads(tmp_path, clock):
    x = leaf(2, 3)
    with profile() as p:
        (x * x).sum().backward()
    file = tmp_path / "trace.json"
    file.write_text("an older one")
    p.trace(file)
    assert list(tmp_path.iterdir()) == [file]
    block, *events = json.loads(file.read_text())["traceEvents"]
    assert block["name"] == "profile" and block["ts"] == 0
    assert [(e["name"], e["cat"]) for e in events] == named(p)
    assert all(e["ph"] == "X" and e["dur"] == 1.0 and e["pid"] and e["tid"] == 0 for e in events)
    assert all(block["ts"] < e["ts"] and e["ts"] + e["dur"] < block["ts"] + block["dur"] for e in events)
    assert events[0]["args"] == {"shapes": [[2, 3]], "bytes": 48, "flops": 0}


def test_a_trace_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    file = tmp_path / "trace.json"
    file.write_text("an older one")
    monkeypatch.setattr(minigrad.profile.os, "replace", lambda *_: 1 / 0)         # cut off at the last moment
    with profile() as p:
        leaf(2) * 2.0
    with pytest.raises(ZeroDivisionError):
        p.trace(file)
    assert file.read_text() == "an older one"


# ---------------------------------------------------------------------------------------------------------- a run

@pytest.fixture
def train(tmp_path):
    (tmp_path / "text.txt").write_text("one two three four " * 100)
    tiny = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, device_batch=2, tokens_per_step=64, steps=6, warmup=2,
                eval_tokens=100, samples=0, tokenizer="char", data=str(tmp_path / "text.txt"),
                shards=str(tmp_path / "shards"))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny))

    def train(name, *flags):
        assert run.main(["--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / name), *flags]) == 0
        return tmp_path / name
    return train


def steps_in(folder):
    events = json.loads((folder / "profile.json").read_text())["traceEvents"]
    return sum(e["name"] == "profile" for e in events), sum(e["name"] == "sum_of_squares" for e in events)


def test_a_profiled_run_is_the_same_run(train, capsys):
    plain = train("plain")
    assert not (plain / "profile.json").exists() and "between ops" not in capsys.readouterr().out
    profiled = train("profiled", "--profile", "2")
    shown = capsys.readouterr().out
    assert steps_in(profiled) == (2, 2)
    assert "2 steps, op by op" in shown and f"{profiled}/profile.json" in shown
    for words in ("linear                  backward       16 ", "adamw                   update          4 ",
                  "between ops"):
        assert words in shown                             # 4 a block, 2 micro-batches, 2 steps; matrices and vectors
    a, b = (checkpoint.newest(out)[0] for out in (plain, profiled))
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


@pytest.mark.parametrize("flags, steps", [(("--profile", "100"), 3), (("--profile", "1", "--steps", "1"), 1),
                                          (("--profile", "5", "--steps", "3"), 1)])
def test_a_profile_takes_the_steps_that_there_are(train, flags, steps):
    assert steps_in(train("run", *flags)) == (steps, steps)


def test_a_resumed_run_is_profiled_after_its_own_first_steps(train):
    folder = train("run")
    assert run.main(["--resume", str(folder), "--steps", "12", "--profile", "2"]) == 0
    assert steps_in(folder) == (2, 2)


def test_a_negative_number_of_steps_is_refused(capsys):
    assert run.main(["--profile", "-1"]) == 2
    assert "--profile: got -1; expected at least 0" in capsys.readouterr().err


def test_weights_that_need_no_gradient():
    x = Tensor(np.ones((4, 4), "f4"), requires_grad=True)
    with profile() as p:
        linear(x, np.ones((4, 4), "f4")).sum().backward()
    assert "linear" in p.table()
