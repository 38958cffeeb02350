"""The table of ops: its formulas, its counterparts in PyTorch, and what the command prints."""
import json

import numpy as np
import pytest

from bench import ops, turns
from minigrad.backend import dtype_of
from minigrad.profile import profile
from minigrad.tensor import Op, Tensor

SMALL = dict(vocab_size=13, block_size=8, n_layer=2, n_head=2, n_embd=8), 3
NAMES = [row.name for row in ops.rows("b", "float32")]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(ops.CONFIGS, "small", SMALL)


def row_of(name, dtype="float32"):
    row, = (row for row in ops.rows("small", dtype) if row.name == name)
    return row


def numpy(y):
    """A result of either side, in float64."""
    y = y.data if isinstance(y, Tensor) else y.detach().float() if hasattr(y, "detach") else y
    return np.asarray(y, np.float64)


@pytest.mark.parametrize("name", NAMES)
def test_operations_are_those_that_a_profile_counts(name):
    row = row_of(name)
    side = ops.Ours(row, "float32", threads=1)
    side.ready()
    with profile() as p:
        for phase in row.phases:
            getattr(side, phase)()
    assert row.times == (1 if name in NAMES[NAMES.index("embedding"):] else 2)
    assert [c.phase for c in p.calls] == [phase for phase in row.phases for _ in range(row.times)]
    assert [c.flops for c in p.calls[::row.times]] == list(row.flops)[:len(row.phases)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_pytorch_does_the_same(name, dtype):
    torch = pytest.importorskip("torch")
    row, found = row_of(name, dtype), []
    for make in (ops.Ours, ops.PyTorch):
        side = make(row, dtype, threads=1)
        side.ready()
        side.forward()
        found.append([*side.ys[0], *side.args[0]])
        if row.phases[-1] == "backward":
            side.backward()
            found[-1] += [side.held[0][i].grad if make is ops.Ours else side.args[0][i].grad
                          for i, arg in enumerate(row.args) if arg.kind == "weight"]
    tolerance = 1e-5 if dtype == "float32" else 0.05                 # bfloat16 keeps 8 bits, PyTorch in its sums too
    for ours, theirs in zip(*found, strict=True):
        if theirs is None or name == "dropout":                      # float32 has no master; other random numbers
            continue
        if name == "sum_of_squares" and theirs.ndim == 0:
            theirs = theirs ** 2
        assert theirs.dtype in (torch.float32, torch.int64, getattr(torch, dtype))
        ours, theirs = numpy(ours), numpy(theirs)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance * np.abs(theirs).max())


def test_arguments_have_the_dtype_that_was_asked_for():
    fixed = {"integers": np.int64, "wide": np.float32, "zeros": np.float32, "rest": np.int16}
    for row in ops.rows("small", "bfloat16"):
        for a, arg in zip(ops.draw(row, "bfloat16"), row.args, strict=True):
            assert a.shape == arg.shape and a.dtype == fixed.get(arg.kind, dtype_of("bfloat16"))


def test_bytes_by_hand():
    N, C, e = 3 * 8, 8, 4
    assert row_of("gelu").moved == (2 * N * 4 * C * e, 3 * N * 4 * C * e)                # x, y; dy, x, dx
    assert row_of("linear").moved == ((N * C + C * 4 * C + N * 4 * C) * e,               # x, w, y
                                      (N * 4 * C + N * C + C * 4 * C + N * C + C * 4 * C) * e)   # dy, x, w, dx, dw
    P, = row_of("sum_of_squares").args[0].shape
    assert row_of("adamw").moved == (7 * 4 * P,) and row_of("adamw", "bfloat16").moved == (7 * 4 * P,)


def test_a_line():
    row = ops.Row(row_of("relu").op, [], moved=(3_000_000, 0), flops=(0, 8_000_000), torch=None)
    assert ops.line(row, 0, 5e-4, 1e-3).split() == ["relu", "forward", "1.000", "3.0", "-", "50%"]
    assert ops.line(row, 1, 0, 1e-3, 2e-3).split() == ["relu", "backward", "1.000", "-", "8.0", "-", "2.000", "2.00"]


def test_the_command_without_pytorch(monkeypatch, capfd, tmp_path):
    monkeypatch.setattr(turns, "HAVE_TORCH", False)
    json_file = tmp_path / "ops.jsonl"
    assert ops.main(["--config", "b", "--op", "layer_norm", "--rounds", "1", "--steps", "1",
                     "--json", str(json_file)]) == 0
    shown = capfd.readouterr().out
    assert "PyTorch is not installed, so its column is left out: pip install torch" in shown
    assert "PyTorch ms" not in shown
    table = [line.split() for line in shown.splitlines() if line.startswith("layer_norm")]
    assert [line[:2] for line in table] == [["layer_norm", "forward"], ["layer_norm", "backward"]]
    assert all(float(line[2]) > 0 and line[5].endswith("%") for line in table)
    told = json.loads(json_file.read_text())
    assert [entry["phase"] for entry in told["seconds"]] == ["forward", "backward"] and told["copy"] > 1e8


def test_what_cannot_be_measured_is_refused(capsys):
    for flags, words in ((["--op", "relux"], "--op: got 'relux'; expected one of adamw, add, attention"),
                         (["--gradcheck", "--op", "adamw"], "expected one of abs, add"), (["--config", "c"], "'char'")):
        with pytest.raises(SystemExit) as e:
            ops.main(flags)
        assert e.value.code == 2 and words in capsys.readouterr().err


def test_gradcheck_is_a_mode(capsys):
    assert ops.main(["--gradcheck", "--op", "relu"]) == 0
    head, *cases, _, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["op(shapes){parameters}", "reference", "CPU", "kernel"]
    assert cases and all(line.startswith("relu(") for line in cases)
    assert last.startswith(f"{len(cases)} cases; the worst is ") and last.endswith("the limit is 1e-06")
    assert "relu" in Op.table and ops.errors_table([("relu", "reference", float("nan"))]) == 1
