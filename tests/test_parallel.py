"""Ranks that train one model together: the same losses as one process, the same checkpoints, and a clean end."""
import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from bench import hosts
from bench import ranks as bench_ranks
from bench.survive import mpiexec, ranks_of
from gpt import GPT, GPTConfig
from minigrad import Tensor, gpu
from minigrad.backend import dtype_of
from minigrad.emulator import emulator, fake_cupy
from minigrad.recompute import recompute
from nn import SGD, AdamW, optim
from train import checkpoint, log, parallel, precision, run, sample, spikes
from train.config import Config

ROOT = Path(__file__).resolve().parent.parent
MPIEXEC = mpiexec()
has_mpi = pytest.mark.skipif(MPIEXEC is None or find_spec("mpi4py") is None, reason="no mpiexec, or no mpi4py: pip "
                             "install mpi4py mpich")
linux = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks into /proc")
TINY = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16, "device_batch": 2, "tokens_per_step": 128,
        "steps": 50, "warmup": 2, "lr": 1e-2, "min_lr": 1e-3, "eval_every": 20, "eval_tokens": 200, "samples": 1,
        "sample_tokens": 5, "tokenizer": "char", "dropout": 0.1}
# Small buckets, so that a small model has many; and what is as slow as it is unimportant is left out.
PROGRAM = """
import sys, nn.optim
from train import log, precision, run
log.plot = lambda *_: None
nn.optim.LEAST = 256
run.utilisation.ceiling = lambda *_: 1e9
{}
sys.exit(run.main(sys.argv[1:]))
"""
NO_GPU = """
import fake_nccl
from minigrad.emulator import fake_cupy
def step(*args, real=run.train_step):
    with fake_cupy.waits() as seen:
        found = real(*args)
    assert args[4] < 2 or not seen, seen                     # neither for its own GPU nor for another rank
    return found
run.train_step, main = step, run.main
def both(words):
    with fake_nccl.installed():
        status = main(words)
    called = fake_nccl.NCCLBackend.calls
    assert all(called.count(name) > 20 for name in ("all_gather", "reduce_scatter")) and "gather" in called, called
    return status
run.main = both
"""
ABSENT = """
def step(*args, real=run.train_step):
    if args[4] == 3 and args[-1].rank == 1:
        import time; time.sleep(100)
    return real(*args)
run.train_step = step
"""
BROKEN = """
def step(*args, real=run.train_step):
    if args[4] == 3 and args[-1].rank == 1:
        def fails(event):
            raise fake_cupy.CUDARuntimeError("an illegal memory access")
        fake_cupy.Event.done = property(fails)
        import time; time.sleep(100)
    return real(*args)
run.train_step = step
"""
SLOW = """
from train import checkpoint, parallel
import time
def slow(path, real=checkpoint.to_disk):
    time.sleep(0.6)
    real(path)
checkpoint.to_disk = slow
"""
SHARES = """
from minigrad.check import expect
from train import data, parallel, step, text
tok, counted = data.tok, {}
def counts(owner, name, size):
    real = getattr(owner, name)
    def f(*args, **how):
        counted[name] = counted.get(name, 0) + size(*args)
        return real(*args, **how)
    setattr(owner, name, f)
counts(tok.BPETokenizer, "_encode", lambda self, text, at: len(text))
counts(step, "score", lambda model, x, y: 1)
counts(text, "generate", lambda model, rows, *_: len(rows))
data.tok.base.PIECE, data.GROUP = 300, 4000
def report(of, real=run.report):
    real(of)
    both = of.group.tell(counted)
    for name in "_encode", "score", "generate":
        a, b = (some[name] for some in both)
        expect(max(a, b) < 0.7 * (a + b), name, (a, b), "about as much on each")
run.report = report
"""
NAN = """
def spoilt(model, opt, batches, lr, n, *rest, real=run.train_step):
    if n == 3 and rest[-1].rank == 1:
        loss = model.loss
        model.loss = lambda *args, **how: loss(*args, **how) * float("nan")
    return real(model, opt, batches, lr, n, *rest)
run.train_step = spoilt
"""
WRITES = "import sys; from train import sample; sys.exit(sample.main(sys.argv[1:]))"
FULL = """
def full(*args, real=run.train_step):
    if args[4] == 3 and args[-1].rank == 1:
        raise MemoryError("a test")
    return real(*args)
run.train_step = full
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("ranks")
    rng = np.random.default_rng(0)
    (home / "text.txt").write_text(" ".join(rng.choice(["one", "two", "three", "four"], 600)), encoding="utf-8")
    (home / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return home


@pytest.fixture(scope="module", autouse=True)
def short():
    """The same for runs in this process."""
    with pytest.MonkeyPatch.context() as m:
        m.setattr(run.utilisation, "ceiling", lambda *_: 1e9)
        m.setattr(log, "plot", lambda *_: None)
        yield


def flags(home, **changes):
    values = {"config": home / "tiny.yaml", "data": home / "text.txt", "shards": home / "shards", **changes}
    values = {k: v for k, v in values.items() if v is not None}
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def command(ranks, *words, program=PROGRAM, extra=""):
    return [MPIEXEC, "-n", str(ranks), sys.executable, "-c", program.format(extra), *map(str, words)]


def start(words):
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "MINIGRAD_THREADS": "1"}
    return subprocess.Popen(words, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process, expected=0, limit=120):
    try:
        said = "\n".join(process.communicate(timeout=limit))
    finally:
        process.kill()
    assert process.returncode == expected, said
    return said


def train(home, out, ranks, **changes):
    return run_on(ranks, flags(home, out=out, **changes))


def resume(out, ranks, *words):
    return run_on(ranks, ["--resume", str(out), *map(str, words)])


def run_on(ranks, words):
    """What a run on so many ranks says. That of one is made here."""
    if ranks == 1:
        assert run.main(words) == 0
        return ""
    said = finish(start(command(ranks, *words)))
    assert "Traceback" not in said
    return said


def same(*runs):
    """Weights and moments, bit for bit."""
    a, b = (checkpoint.newest(out)[0] for out in runs)
    return a.name == b.name and all((a / name).read_bytes() == (b / name).read_bytes() for name in (
        "model.safetensors", "optimizer.safetensors"))


def losses(out):
    return [e["loss"] for e in log.read(out / "log.jsonl") if "loss" in e]


def validations(out):
    return [(e["step"], e["val_loss"]) for e in log.read(out / "log.jsonl") if "val_loss" in e]


@pytest.fixture(scope="module")
def alone(home, tmp_path_factory):
    """One process, 50 steps in float64."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(home, out, 1, dtype="float64")
    assert len(losses(out)) == 50
    return out


# -------------------------------------------------------------------------------------------- a leaf that is complete

def graph(recomputed):
    """(loss, leaves): a leaf used twice, one used once, one inside a recomputed function, one that nothing reaches."""
    rng = np.random.default_rng(1)
    twice, once, inside, lost = (Tensor(rng.standard_normal((3, 3)), requires_grad=True) for _ in range(4))
    around = recompute if recomputed else lambda f, *x: f(*x)
    h = around(lambda x: (x @ inside).tanh() @ inside, twice @ once)
    (lost * 2).exp()                                         # a part of the graph that is no part of the loss
    return (h * twice).sum(), [twice, once, inside, lost]


@pytest.mark.parametrize("recomputed", [False, True])
def test_a_leaf_is_done_once_when_its_gradient_is_complete(recomputed):
    loss, leaves = graph(recomputed)
    loss.backward()
    want, (loss, leaves), told = [t.grad for t in leaves], graph(recomputed), []
    loss.backward(done=lambda leaf: told.append((leaf, leaf.grad.copy())))
    twice, once, inside, lost = leaves
    assert [id(leaf) for leaf, _ in told] in ([*map(id, (inside, once, twice))], [*map(id, (inside, twice, once))])
    for leaf, grad in told:
        np.testing.assert_array_equal(grad, want[[*map(id, leaves)].index(id(leaf))])
    assert lost.grad is None


def test_done_comes_while_others_are_still_to_come():
    """Of a GPT the last block is done before the first one has begun; tied embeddings are the last of all."""
    model = GPT(GPTConfig(11, 8, 3, 1, 8))
    ids, told = np.zeros((2, 8), np.int64), []
    names = {id(p): name for name, p in model.named_parameters()}
    model.loss(ids, ids).backward(done=lambda leaf: told.append(names[id(leaf)]))
    assert sorted(told) == sorted(names.values())
    last, first = ([i for i, name in enumerate(told) if f"h.{k}." in name] for k in (2, 0))
    assert max(last) < min(first) and "wte" in "".join(told[-2:])


# -------------------------------------------------------------------------------------------- a rank's part

@given(sizes=st.lists(st.integers(1, 90), min_size=1, max_size=6), ranks=st.integers(1, 5), least=st.integers(1, 200),
       kind=st.sampled_from([AdamW, SGD]), dtype=st.sampled_from(["float64", "float32", "float16", "bfloat16"]))
def test_parts_of_an_optimiser_are_the_whole(sizes, ranks, least, kind, dtype):
    """Ranks that each update their part make the step that one would, and their states are its state."""
    def fresh(rank, of):
        rng, found = np.random.default_rng(len(sizes)), []
        for k, n in enumerate(sizes):
            shape = (n,) if k % 2 else (1, n)
            found.append(Tensor(rng.standard_normal(shape).astype(dtype_of(dtype)), requires_grad=True))
        opt = kind(found, **({"rank": rank, "ranks": of} if kind is AdamW else {}))
        for p in found:
            p.grad = rng.standard_normal(p.shape)
        return opt
    with pytest.MonkeyPatch.context() as m:
        m.setattr(optim, "LEAST", least)
        whole, n = fresh(0, 1), ranks if kind is AdamW else 1
        parts = [fresh(rank, n) for rank in range(n)]
        for opt in [whole, *parts]:
            for flat in opt.flats:
                flat.mine[...] = flat.cut(flat.grads)
            opt.step()
        owned = [np.concatenate([np.arange(lo, hi) for lo, hi, _ in opt.flats[0].pieces]) for opt in parts]
        assert np.array_equal(np.sort(np.concatenate(owned)), np.arange(len(parts[0].flats[0].data)))
        want, got = whole.flats[0], np.zeros_like(parts[0].flats[0].data)
        for opt, where in zip(parts, owned):
            got[where] = opt.flats[0].data[where]
            assert len(opt.flats[0].mine) == len(got) // n       # a rank holds one n-th of each moment
        np.testing.assert_array_equal(got[:want.end], want.data)
        states = []
        for opt in parts:
            states.append([])
            opt.state(lambda a, mine=states[-1]: mine.append(a) or a)
        queue = iter([np.stack(column) for column in zip(*states)])
        joined = parts[0].state(lambda _: next(queue))
        for name, array in whole.state().items():
            np.testing.assert_array_equal(joined[name], array)
        for rank, opt in enumerate(parts):
            again = fresh(rank, n)
            again.load_state(joined)
            assert again.steps == 1
            for name, moment in opt.flats[0].moments.items():
                np.testing.assert_array_equal(again.flats[0].moment(name), moment)


@given(ranks=st.integers(1, 9), rows=st.integers(1, 40), most=st.integers(1, 50))
def test_rows_share_a_step_out_evenly(ranks, rows, most):
    c = Config(block_size=8, tokens_per_step=8 * rows * ranks, device_batch=most)
    found = c.rows(ranks)
    assert 1 <= found <= most and rows % found == 0
    assert all(rows % more for more in range(found + 1, min(most, rows) + 1))
    if rows * ranks % (ranks + 1):
        with pytest.raises(ValueError, match=f"a multiple of ranks .* = {8 * (ranks + 1)}"):
            c.rows(ranks + 1)


# -------------------------------------------------------------------------------------------- what ranks say

TALK = """
import numpy as np, nn.optim
from minigrad import Tensor
from minigrad.tensor import op
from nn import AdamW
from train import parallel
nn.optim.LEAST = 64

@op
def no_gradient(x):
    return x.sum(), ()
no_gradient.backward(lambda dy: (None,))

with parallel.world() as g:
    r, n = g.rank, g.size
    assert n == 3 and g.tell("x" * r) == ["", "x", "xx"] and g.first(lambda: (r, "one")) == [0, "one"]
    for many in 0, 1, 2, 7:
        made = []
        rows = g.share(lambda some: (made.append(k) or [1 / 3] * k for k in some), range(many))
        assert [row.tolist() for row in rows] == [[1 / 3] * k for k in range(many)]
        assert sorted(sum(g.tell(made), [])) == list(range(many)) and len(made) in (many // n, -(-many // n))
    assert g.gather(np.full((2, 2), r, "i2"))[:, 0, 1].tolist() == [0, 1, 2]
    assert g.collect(np.full(5, r, "f2"))[:, 4].tolist() == ([] if r else [0, 1, 2])
    assert g.sum(r, 2.5, np.float64(1e-300)) == [3, 7.5, 3e-300]
    a = np.full((3, 4), r, "f8").T                           # not contiguous
    g.broadcast(a)
    assert (a == 0).all()
    assert g.in_turn(lambda: r + 1) == r + 1
    assert g.only_first(list) == [] if r == 0 else g.only_first(list).anything(1) == ""
    try:
        g.together(lambda: 1 if r < 2 else int("no number"))
        raise SystemExit("no error")
    except ValueError as e:
        assert str(e).startswith("rank 2: invalid literal")
    try:
        g.share(lambda some: map(open, some), ["/no/such/file"] * n)
        raise SystemExit("no error")
    except OSError as e:
        assert "No such file" in str(e)
    assert not g.stops(r == 1) and g.asked == (r == 1)

    rng = np.random.default_rng(0)
    given = [rng.standard_normal(shape) for shape in ((5, 30), (70,), (3, 3), (200,))]
    leaves = [Tensor(x.copy(), requires_grad=True) for x in given]
    opt, lost, silent = AdamW(leaves, rank=r, ranks=n), leaves[2], leaves[1]
    for leaf in lost, silent:                                # nothing reaches one, and the other's op gives no gradient
        leaf.slot.array[...] = 7
    loss = sum((leaf * (r + 1.0) * leaf).sum() for leaf in (leaves[0], leaves[3])) + no_gradient(silent)
    sent, deal = [], g.deal
    g.deal = lambda *what: (sent.append(len(what[0])), deal(*what))
    summing = g.summing(opt)
    loss.backward(done=summing.done)
    early = len(sent)
    summing.finish()
    flat, = opt.flats
    assert 0 < early < len(sent) == len(flat.buckets) > 4 and sum(sent) == len(flat.data)
    g.complete(opt)
    for leaf, x in zip(leaves, given):
        np.testing.assert_allclose(leaf.slot.array, 2 * x * (0 if leaf is lost or leaf is silent else 6), rtol=1e-15)
    for lo, hi, _ in flat.pieces:
        flat.data[lo:hi] = r + 1
    for lo, hi in flat.buckets:
        for k in range(n):
            if k != r:
                flat.data[lo + k * (hi - lo) // n:lo + (k + 1) * (hi - lo) // n] = np.nan
    g.spread(opt)
    assert sorted(np.unique(flat.data)) == [1, 2, 3]
"""


@has_mpi
def test_what_three_ranks_tell_each_other():
    assert finish(start(command(3, program="{}", extra=TALK))).strip() == ""


# -------------------------------------------------------------------------------------------- runs

@has_mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_follow_one_process(home, alone, tmp_path, ranks):
    """50 steps in float64. The dropout masks too are those of one process, where as many rows go through at once."""
    said = train(home, tmp_path / "run", ranks, dtype="float64")
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=1e-9)
    np.testing.assert_allclose(validations(tmp_path / "run"), validations(alone), rtol=1e-9)
    assert f"micro-batches a step: {4 // ranks} on each of {ranks} ranks" in said
    assert said.count("50 steps of 128 tokens") == 1         # one of them talks, and one of them writes
    assert len(log.read(tmp_path / "run" / "log.jsonl")) == len(log.read(alone / "log.jsonl"))
    assert (tmp_path / "run" / "samples.txt").read_text() == (alone / "samples.txt").read_text()
    a, b = (checkpoint.newest(out)[0] for out in (alone, tmp_path / "run"))
    assert {p.name for p in a.iterdir()} == {p.name for p in b.iterdir()}


@has_mpi
def test_ranks_share_what_comes_before_and_after(home, tmp_path):
    """Tokens, validation and texts, to the bit those of one process; each made by one rank only."""
    (tmp_path / "text").mkdir()
    words = np.random.default_rng(1).choice(["eins", "zwei", "drei", "vier"], 3000)
    (tmp_path / "text" / "a.txt").write_text(" ".join(words).replace("vier ", "vier\n"))   # longer than a piece
    (tmp_path / "text" / "b.jsonl").write_text("".join(f'{{"text": "{word * 9}"}}\n' for word in "abc" * 500))
    asked = dict(data=tmp_path / "text", tokenizer="bpe", vocab_size=300, deduplicate="false", dtype="float64",
                 device_batch=4, samples=5, steps=1, eval_every=1, eval_tokens=900, split="0.8 0.2 0")
    finish(start(command(2, *flags(home, out=tmp_path / "2", shards=tmp_path / "shards2", **asked), extra=SHARES)))
    train(home, tmp_path / "1", 1, shards=tmp_path / "shards1", **asked)
    shards = [{p.relative_to(tmp_path / f"shards{n}"): p.read_bytes() for p in (tmp_path / f"shards{n}").rglob("*")
               if p.is_file()} for n in (1, 2)]
    assert shards[0] == shards[1] and len(shards[0]) == 11
    assert validations(tmp_path / "1")[0] == validations(tmp_path / "2")[0]   # of step 0
    assert (tmp_path / "1" / "samples.txt").read_text() == (tmp_path / "2" / "samples.txt").read_text()


@has_mpi
def test_ranks_write_what_one_would(alone, capsys):
    words = [str(alone), "--n", "3", "--tokens", "9", "--seed", "4"]
    assert sample.main(words) == 0
    want = capsys.readouterr().out
    assert finish(start(command(2, *words, program=WRITES))).rstrip() == want.rstrip() and want.count("-" * 40) == 2
    said = finish(start(command(2, *words, "--stream", program=WRITES)), expected=2)
    assert said.count("error: --stream: got 2 ranks; expected one") == said.count("error: ") == 1


@has_mpi
def test_where_buckets_are_cut_changes_no_bit(home, tmp_path):
    """a + b is b + a: of two ranks, whatever is sent together, and whether backward has ended then or not."""
    late = ("nn.optim.LEAST = 1 << 16\nfrom minigrad import Tensor\n"
            "Tensor.backward = lambda t, dy, done, real=Tensor.backward: real(t, dy)")
    for name, extra in {"early": "", "late": late}.items():
        finish(start(command(2, *flags(home, out=tmp_path / name, steps=5, clip=0), extra=extra)))
    assert same(tmp_path / "early", tmp_path / "late")


@has_mpi
def test_four_ranks_two_and_one_go_on_with_the_same_run(home, tmp_path):
    for name, ranks in {"many": (4, 2, 1), "one": (1, 1, 1)}.items():
        train(home, tmp_path / name, ranks[0], dtype="float64", steps=6)
        resume(tmp_path / name, ranks[1], "--steps", 12)
        resume(tmp_path / name, ranks[2], "--steps", 18)
    np.testing.assert_allclose(losses(tmp_path / "many"), losses(tmp_path / "one"), rtol=1e-9)
    assert len(losses(tmp_path / "many")) == 18
    assert checkpoint.newest(tmp_path / "many")[1]["config"]["device_batch"] == TINY["device_batch"]


@has_mpi
def test_ranks_share_a_loss_scale(home, tmp_path, monkeypatch):
    """float16 that overflows in one rank's rows only, or in both: the same steps are left out as by one process."""
    monkeypatch.setattr(precision, "FIRST", 2.0 ** 28)
    train(home, tmp_path / "1", 1, dtype="float16", steps=12)
    finish(start(command(2, *flags(home, out=tmp_path / "2", dtype="float16", steps=12),
                         extra="precision.FIRST = 2.0 ** 28")))
    one, two = ([(e["scale"], e["norm"] is None) for e in log.read(tmp_path / str(ranks) / "log.jsonl") if "loss" in e]
                for ranks in (1, 2))
    assert one == two and 2 < sum(skipped for _, skipped in one) < 12
    np.testing.assert_allclose(losses(tmp_path / "1"), losses(tmp_path / "2"), rtol=5e-3)


LEAP = """
from train import spikes
def check(self, loss, size, step, real=spikes.Spikes.check):
    if step == 31 and not spikes.Spikes.leapt:
        spikes.Spikes.leapt = True
        raise spikes.Leap("a test", loss)
    real(self, loss, size, step)
spikes.Spikes.check, spikes.Spikes.leapt = check, False
"""


@has_mpi
def test_ranks_go_back_together(home, tmp_path, monkeypatch):
    for name in "check", "leapt":
        monkeypatch.setattr(spikes.Spikes, name, getattr(spikes.Spikes, name, False), raising=False)    # put back later
    exec(LEAP, {})
    train(home, tmp_path / "1", 1, dtype="float64", spike="back")
    finish(start(command(2, *flags(home, out=tmp_path / "2", dtype="float64", spike="back"), extra=LEAP)))
    logs = [log.read(tmp_path / name / "log.jsonl") for name in "12"]
    assert [[e["back_from"] for e in entries if "back_from" in e] for entries in logs] == [[30], [30]]
    np.testing.assert_allclose(losses(tmp_path / "2"), losses(tmp_path / "1"), rtol=1e-9)


# -------------------------------------------------------------------------------------------- two hosts

@pytest.fixture(scope="module")
def two_hosts():
    if find_spec("mpi4py") is None or hosts.refused():
        pytest.skip(f"two hosts cannot be played here: {hosts.refused() or 'no mpi4py'}")


def on_two_hosts(words, rate, extra=""):
    return start(hosts.ranks([sys.executable, "-c", PROGRAM.format(extra), *words], rate))


SENT = """
import socket
from pathlib import Path
def report(of, real=run.report):
    real(of)
    here, line = socket.gethostname(), Path("/proc/net/dev").read_text().partition("eth0:")[2].split()
    print([(name != here, sent) for name, sent in of.group.tell([here, int(line[8])])])
run.report = report
"""


@has_mpi
def test_two_hosts_follow_one_process(two_hosts, home, alone, tmp_path):
    """Over a link of 100 Mbit/s, by which all gradients and all parameters go."""
    said = finish(on_two_hosts(flags(home, out=tmp_path / "run", dtype="float64"), "100mbit", SENT))
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=1e-9)
    np.testing.assert_allclose(validations(tmp_path / "run"), validations(alone), rtol=1e-9)
    (same, first), (other, second) = ast.literal_eval(re.search(r"^\[\(.*\]$", said, re.M)[0])
    model = GPT.from_pretrained(checkpoint.newest(alone)[0])
    each = 50 * sum(p.size for p in model.parameters()) * 8 / 2 * 2             # a half of both, at every step
    assert (same, other) == (False, True) and first > each and second > each


@has_mpi
@linux
def test_a_rank_killed_on_another_host_ends_the_job(two_hosts, home, tmp_path):
    out = tmp_path / "run"
    process = on_two_hosts(flags(home, out=out, steps=10**5, samples=0, save_every=10), "1gbit")
    try:
        deadline = time.monotonic() + 240
        while not checkpoint.steps(out) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        here = os.readlink("/proc/self/ns/uts")
        ranks = ranks_of(process.pid)
        far, = (pid for pid in ranks if os.readlink(f"/proc/{pid}/ns/uts") != here)
        os.kill(far, signal.SIGKILL)
        began = time.monotonic()
        process.communicate(timeout=20)
        while any(Path(f"/proc/{pid}").exists() for pid in ranks) and time.monotonic() - began < 10:
            time.sleep(0.02)                                 # mpiexec does not wait for those of another host
        assert time.monotonic() - began < 10 and process.returncode != 0
    finally:
        process.kill()
    resume(out, 1, "--steps", checkpoint.newest(out)[1]["step"] + 1)             # whole, and good for one host


# -------------------------------------------------------------------------------------------- what goes wrong

@contextmanager
def running(home, out, ranks, *words, after=5, steps=10**5):
    """A run, once it has made some steps: (process, process ids of its ranks, the first one's first)."""
    process = start(command(ranks, *flags(home, out=out, steps=steps, samples=0), *words))
    try:
        deadline = time.monotonic() + 240
        while not ((out / "log.jsonl").exists() and (out / "log.jsonl").read_text().count('"loss"') > after):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        found = ranks_of(process.pid)
        assert len(found) == ranks
        yield process, found
    finally:
        for pid in (*ranks_of(process.pid), process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@has_mpi
@linux
def test_a_killed_rank_ends_the_job_and_its_run_goes_on(home, tmp_path):
    """In its first steps, between checkpoints, and while one is written perhaps. By the same command, to the bit."""
    train(home, tmp_path / "undisturbed", 2, steps=150, samples=0)
    out = tmp_path / "run"
    for after, which in (5, 0), (41, 1):
        killed(home, out, after, which)
    train(home, out, 2, steps=150, samples=0, resume="auto")
    assert same(out, tmp_path / "undisturbed") and losses(out) == losses(tmp_path / "undisturbed")


def killed(home, out, after, which):
    with running(home, out, 2, "--resume", "auto", after=after, steps=150) as (process, ranks):
        os.kill(ranks[which], signal.SIGKILL)
        began = time.monotonic()
        said = "".join(process.communicate(timeout=20))
        assert time.monotonic() - began < 10 and process.returncode != 0
        assert "signal 9" in said                           # mpiexec's own words
        assert not any(Path(f"/proc/{pid}").exists() for pid in ranks)
    if checkpoint.steps(out):
        assert checkpoint.newest(out)[1]["step"] == next(iter(checkpoint.steps(out)))         # the last is whole


@has_mpi
@linux
def test_a_rank_that_hangs_ends_the_job(home, tmp_path):
    with running(home, tmp_path / "run", 2, "--lost_after", "4") as (process, ranks):
        os.kill(ranks[1], signal.SIGSTOP)
        began = time.monotonic()
        said = process.communicate(timeout=20)[1]
        assert time.monotonic() - began < 10 and process.returncode != 0
        assert len(re.findall(r"rank 0 of 2: no word from another rank for 4 s, waiting for [\w ']+\. Hint", said)) == 1
        assert "Traceback" not in said


@has_mpi
@linux
def test_a_job_that_was_suspended_goes_on(home, tmp_path):
    """For longer than a rank waits for another: none was lost."""
    out = tmp_path / "run"
    with running(home, out, 2, "--lost_after", "2") as (process, ranks):
        os.kill(ranks[1], signal.SIGSTOP)
        time.sleep(0.3)                                      # so that rank 0 waits for it
        os.kill(ranks[0], signal.SIGSTOP)
        time.sleep(4)
        before = len(losses(out))
        for pid in ranks:
            os.kill(pid, signal.SIGCONT)
        deadline = time.monotonic() + 20
        while len(losses(out)) < before + 20:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.1)
        os.kill(ranks[0], signal.SIGTERM)
        assert "no word" not in finish(process, limit=20)


def test_only_time_that_was_waited_counts(monkeypatch):
    clock = iter([0.0, 0.5, 1.25, 500.0, 500.5])
    monkeypatch.setattr(parallel.time, "monotonic", lambda: next(clock))
    patience = parallel.Patience()
    assert [patience.spent() for _ in range(4)] == [0.5, 1.25, 2.25, 2.75]


@has_mpi
@pytest.mark.parametrize("background", ["true", "false"])
def test_ranks_wait_as_long_as_a_checkpoint_is_written(home, tmp_path, background):
    """Longer than they would wait for a rank of which they hear nothing."""
    small = dict(steps=3, eval_every=1, lost_after=2, samples=0, background=background)
    finish(start(command(2, *flags(home, out=tmp_path / "run", **small), extra=SLOW)))
    assert list(checkpoint.steps(tmp_path / "run")) == [3, 2]


def test_a_rank_that_ends_all_has_its_checkpoint_written_first(capfd):
    class Two(parallel.Ranks):
        def abort(self, status):
            done.append(status)
    done, two = [], Two(0, 2)
    two.limit, two.ending = 9, done.append
    two.fail("a test", 1)
    assert done == [9, 1] and "rank 0 of 2: a test" in capfd.readouterr().err


@has_mpi
@pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
@pytest.mark.parametrize(("extra", "said"), [
    (ABSENT, r"rank 0 of 2: no word from another rank for 2 s, waiting for (numbers of all|the sum of gradients)"),
    (BROKEN, "rank 1 of 2: an illegal memory access"),
])
def test_what_a_group_of_gpus_waits_for_in_vain_ends_it(home, tmp_path, extra, said):
    """A rank does not come, or its device has failed: who notices says so once, and ends all in time."""
    small = dict(dtype="bfloat16", steps=9, n_layer=1, tokens_per_step=64, samples=0, backend="cupy", lost_after=2)
    process = start(command(2, *flags(home, out=tmp_path / "run", **small), extra=NO_GPU + extra))
    shown = finish(process, expected=1)
    assert len(re.findall(f"error: {said}", shown)) == shown.count("error: ") == 1 and "Traceback" not in shown
    assert len(losses(tmp_path / "run")) == 2               # the third was not heard of yet
    assert time.time() - (tmp_path / "run" / "log.jsonl").stat().st_mtime < 10


@has_mpi
@linux
def test_a_signal_to_one_rank_stops_all_after_the_same_step(home, tmp_path):
    out = tmp_path / "run"
    with running(home, out, 2) as (process, ranks):
        os.kill(ranks[1], signal.SIGTERM)
        said = finish(process, limit=20)
    assert f"--resume {out}" in said and "Traceback" not in said
    assert checkpoint.newest(out)[1]["step"] == len(losses(out)) > 5


@has_mpi
def test_ctrl_c_on_one_rank_before_the_first_step_ends_all(home, tmp_path):
    """The others would wait for it for ever."""
    extra = """
def press(*args, real=run.prepare):
    if args[-1].rank == 1:
        raise KeyboardInterrupt
    return real(*args)
run.prepare = press
"""
    said = finish(start(command(2, *flags(home, out=tmp_path / "run"), extra=extra)), expected=130, limit=60)
    assert said.count("error: ") == 1 and "rank 1 of 2: stopped before the first step: nothing to save" in said


@has_mpi
def test_what_goes_wrong_on_one_rank_ends_all(home, tmp_path):
    said = finish(start(command(2, *flags(home, out=tmp_path / "run"), extra=FULL)), expected=2)
    assert "error: rank 1 of 2: out of memory: a test" in said and "2 rows of 16 tokens" in said


@has_mpi
def test_what_is_not_finite_on_one_rank_is_named_by_all(home, tmp_path):
    """By the number that its micro-batch, rank 1's first, has in the step."""
    said = finish(start(command(2, *flags(home, out=tmp_path / "run"), extra=NAN)), expected=1)
    assert "step 4: got loss nan" in said
    assert "First not finite: micro-batch 1: the output of op mul, on rank 1. Hint" in said
    assert "no checkpoint is yet in" in said and "Traceback" not in said


@has_mpi
@pytest.mark.parametrize(("changes", "said"), [
    ({"seed": 1}, "rank 1: got seed 1; expected 0, as on rank 0"),
    ({"data": "other.txt", "tokenizer": "t.json"}, "rank 1: got "),
    ({"n_embd": 17}, "rank 1: n_embd: got 17 for 2 heads"),
    (None, "rank 1: got code "),
])
def test_a_rank_that_knows_something_else_is_refused(home, tmp_path, changes, said):
    other = PROGRAM.format("" if changes else "run.checkpoint.code = lambda: 'x'")
    both = [MPIEXEC, "-n", "1", sys.executable, "-c", PROGRAM.format(""), *flags(home, out=tmp_path / "run"), ":",
            "-n", "1", sys.executable, "-c", other, *flags(home, out=tmp_path / "run", **(changes or {}))]
    shown = finish(start(both), expected=2)
    assert shown.count("error: ") == 1 and said in shown and "Traceback" not in shown
    assert not (tmp_path / "run" / "log.jsonl").exists()


@has_mpi
def test_other_data_under_the_same_name_is_refused(home, tmp_path):
    """Two machines, each with a file of its own: here two folders that the ranks run in."""
    texts = []
    for k in (0, 1):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "text.txt").write_text("one two three four " * (100 + k))
        program = PROGRAM.format(f"import os; os.chdir({str(tmp_path / str(k))!r})")
        texts += [":"] * k + ["-n", "1", sys.executable, "-c", program,
                              *flags(home, out=tmp_path / "run", data="text.txt", shards="shards")]
    shown = finish(start([MPIEXEC, *texts]), expected=2)
    assert shown.count("error: ") == 1 and "rank 1: got data '" in shown


@has_mpi
def test_settings_that_ranks_cannot_have(home, tmp_path):
    odd = ["--tokens_per_step", "48", "--device_batch", "1"]
    for words, said in (["--check_finite"], "--check_finite: got 2 ranks"), (odd, "48 for 2 ranks; expected a"):
        shown = finish(start(command(2, *flags(home, out=tmp_path / "run"), *words)), expected=2)
        assert shown.count("error: ") == 1 and said in shown


@has_mpi
def test_ranks_share_the_processors():
    program = ("import os; from minigrad import pool; from train import parallel; os.environ.pop('MINIGRAD_THREADS');\n"
               "with parallel.world() as g:\n"
               "    g.share_processors(); mine = sorted(os.sched_getaffinity(0))\n"
               "    print(g.tell(str(mine) + ' ' + str(pool.size())))")
    said = finish(start(command(2, program=program)))
    many = len(os.sched_getaffinity(0))
    shares = [part.split("] ") for part in json.loads(said.strip().splitlines()[0].replace("'", '"'))]
    assert [int(n) for _, n in shares] == ([many // 2, many - many // 2] if many > 1 else [1, 1])
    if many > 1:
        cores = [json.loads(words + "]") for words, _ in shares]
        assert sorted(cores[0] + cores[1]) == sorted(os.sched_getaffinity(0))


@has_mpi
@pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
def test_gpus_by_a_stand_in_for_nccl(home, tmp_path):
    """NCCL's calls, in its order, on its terms; and the losses of one GPU."""
    small = dict(dtype="bfloat16", steps=4, n_layer=1, tokens_per_step=64, samples=0, backend="cupy", stats_every=4)
    finish(start(command(2, *flags(home, out=tmp_path / "two", **small), extra=NO_GPU)))
    with fake_cupy.installed():
        train(home, tmp_path / "one", 1, **small)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-2)
    one, two = (next(e["stats"] for e in log.read(tmp_path / name / "log.jsonl") if "stats" in e)
                for name in ("one", "two"))
    for name in one:
        np.testing.assert_allclose(two[name][:2], one[name][:2], rtol=0.3, atol=1e-4)
    states = [load_file(checkpoint.newest(tmp_path / name)[0] / "optimizer.safetensors") for name in ("one", "two")]
    assert {k: v.shape for k, v in states[0].items()} == {k: v.shape for k, v in states[1].items()}


def test_gpus_without_mpi_find_each_other_and_leave_no_process_behind(monkeypatch):
    """CuPy's rank 0 starts one for that. Until it is stopped, rank 0 cannot end."""
    made = mock.Mock()
    monkeypatch.setitem(sys.modules, "cupyx.distributed", mock.Mock(NCCLBackend=made))
    assert gpu.nccl(2, 0, ("here", 29501)) is made.return_value
    assert made.mock_calls == [mock.call(2, 0, "here", 29501, use_mpi=False), mock.call().stop()]


# -------------------------------------------------------------------------------------------- bench ranks

def test_the_model_of_many_ranks():
    assert bench_ranks.ring(100, 1, 5, 7) == 0 and bench_ranks.ring(400, 4, 2.0, 50.0) == 3 * (2 + 400 / (4 * 50))
    points = [(m, bench_ranks.ring(m, 4, 3e-6, 2e9)) for m in bench_ranks.SIZES]
    np.testing.assert_allclose(bench_ranks.fit(points, 4), (3e-6, 2e9), rtol=1e-9)
    c = GPTConfig.preset("gpt2")
    far, near = (bench_ranks.step(c, 0.1, 8, (0, b), (0, b), hides=h) for b, h in ((1e9, 0.0), (1e30, 1.0)))
    assert sum(near.values()) == pytest.approx(0.1) and near["other gradients"] == 0
    assert far["embeddings' gradients"] + far["other gradients"] == pytest.approx(far["parameters"])
    assert far["parameters"] == pytest.approx(7 / 8 * 4 * 124_439_808 / 1e9)
    table = list(bench_ranks.gpus(["gpt2", "gpt2-xl"], 4096, 64, (3e-6, 350e9), (1e-5, 45e9)))
    assert [n for name, n, *_ in table if name == "gpt2"] == [8, 64, 512, 4096]
    shares = [share for name, _, _, share, _ in table if name == "gpt2"]
    assert shares == sorted(shares, reverse=True) and 0 < shares[-1] < shares[0] < 1


def test_predictions_stand_on_the_step_that_was_measured():
    """The page of predictions is what the command prints, and the command's step that of the page which it names."""
    results = Path(bench_ranks.__file__).parent / "results"
    step = re.search(r"^\| gpt2 \| bfloat16 \| 64 x 1024 \| ours \| ([\d.]+) ",
                     (results / "gpu-h200-2026-11-27.md").read_text(), re.M)
    assert bench_ranks.MEASURED == (float(step[1]) / 1e3, 64, 1024)
    page = (results / "ranks.md").read_text()
    for rows in (64, 8):
        for name, n, ms, share, bound in bench_ranks.gpus(["gpt2", "gpt2-xl"], 4096, rows, (3e-6, 350e9), (1e-5, 45e9)):
            assert f"\n{name:10}{n:6}{ms:10.1f}{share:12.1%}   {bound}\n" in page


@has_mpi
def test_bench_ranks_in_short(capfd):
    assert bench_ranks.main("--config b --rows 2 --ranks 2 --rounds 1 --models gpt2 --most 8 --gpu_rows 9".split()) == 0
    said = capfd.readouterr().out
    two, half = (line.split() for line in said.splitlines() if line.startswith(("weak", "strong")))
    assert (two[1:3], half[1:3]) == (["2", "2"], ["2", "1"])
    assert float(two[-2]) == float(half[-2]) == pytest.approx(4 * 809_856 / 1e6, rel=0.01)      # half of two moments
    assert "predicted, not measured" in said and "gpt2           8" in said


def test_one_process_imports_no_mpi():
    code = "import sys, train.run; assert train.run.parallel.world().size == 1; print('mpi4py' in sys.modules)"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI", "SLURM", "WORLD_SIZE"))}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True,
                          env=env).stdout == "False\n"


@pytest.mark.parametrize(("env", "want"), [
    ({}, ("alone", 0, 1)), ({"PMI_RANK": "1", "PMI_SIZE": "4"}, ("mpi", 1, 4)),
    ({"PMI_RANK": "0", "PMI_SIZE": "1"}, ("alone", 0, 1)),
    ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "3"}, ("mpi", 2, 3)),
    ({"PMIX_RANK": "2", "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "2"}, ("mpi", 2, 8)),
    ({"RANK": "3", "WORLD_SIZE": "8", "SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, ("env", 3, 8)),
    ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, ("alone", 0, 1)),
    ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "8"}, "srun --mpi="),
])
def test_launchers(monkeypatch, env, want):
    monkeypatch.setattr(os, "environ", env)
    if isinstance(want, str):
        with pytest.raises(ValueError, match=want):
            parallel.launched()
    else:
        assert parallel.launched() == want
