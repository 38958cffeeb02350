"""bench gpu without a GPU: its formulas, its processes, its files, and a rehearsal from end to end."""
import json
import os
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bench import gpu, gpu_generate, gpu_kernels, gpu_report, gpu_sides, gpu_trace, gpu_train, turns
from bench.gpu_sides import SHORT, Failed, Side
from gpt import GPT, GPTConfig
from minigrad import backend
from minigrad.emulator import emulator, fake_cupy

TINY = gpu.TINY
needs_emulator = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)


# formulas

def test_every_row_has_a_prediction():
    for dtype in gpu_kernels.DTYPES:
        for name, row in gpu_kernels.rows(TINY, 2, dtype).items():
            shares, why = gpu_kernels.EXPECTED[name]
            assert len(shares) == len(row.phases) and why and row.times == 1
            assert all(share is None if not moved else 0 < share < 1 for share, moved in zip(shares, row.moved))
    table = gpu_kernels.rows(TINY, 2, "float32")
    assert gpu_kernels.EXPECTED.keys() == table.keys()
    without = set(gpu_kernels.names()) - {row.name for row in table.values()}
    assert without <= gpu_kernels.WITHOUT_ROW, f"{without}: ops with a CUDA kernel, but no row in bench/gpu_kernels.py"


def test_the_log_has_the_predictions_that_the_formulas_give():
    log = (Path(gpu.__file__).parent / "gpu_log.md").read_text(encoding="utf-8")
    for line in gpu_report.predictions():
        assert line in log, line


def test_what_no_card_has_told_yet_is_asked_by_the_command_in_the_log(monkeypatch):
    monkeypatch.setattr(turns, "HAVE_TORCH", True)
    log = (Path(gpu.__file__).parent / "gpu_log.md").read_text(encoding="utf-8")
    only, = re.findall('^python -m bench gpu --part train --part generate --only "(.*)"$', log, re.M)
    part = gpu.Part(gpu.WHOLE, ABOUT, seconds=60)
    titles = [title for do in (gpu.train, gpu.generate) for title, _ in do(part)]
    assert [title for title in titles if re.search(only, title)] == [
        "gpt2 float16 64 rows: ours, PyTorch eager", "curves of gpt2", "write bfloat16 1 x 256",
        "write bfloat16 32 x 256"]


@pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
def test_a_draw_for_which_16_bits_are_too_few_is_no_fault_of_the_kernel():
    with fake_cupy.installed():
        found = gpu_kernels.Kernels(TINY, gpu.REHEARSAL.checked, SHORT).cases("add_layer_norm", 443523353)
    assert all(error <= gpu_kernels.TOLERANCE[dtype] for dtype, (_, error, _) in found.items())


def test_a_floor_is_the_larger_of_two_times():
    row = gpu_kernels.rows(TINY, 2, "bfloat16")["linear"]
    N, C = 32, 32
    assert row.moved[0] == 2 * (5 * N * C + 4 * C * C) and row.flops[0] == 8 * N * C * C
    assert gpu_kernels.floor(row, 0, copy=1.0, product=1e9) == row.moved[0]
    assert gpu_kernels.floor(row, 0, copy=1e9, product=1.0) == row.flops[0]


def test_long_attention_has_as_many_tokens():
    rows = gpu_kernels.rows({**TINY, "block_size": 8}, 8, "float16")
    assert rows["attention"].args[0].shape == (8, 8, 96) and rows["attention, long"].args[0].shape == (2, 32, 96)


def test_on_hopper_there_are_ways_to_compare():
    from minigrad.fused import attention_sm90_gpu, mlp_gpu, mlp_sm90_gpu
    assert list(gpu_kernels.our_ways("attention, long", "float16", True)) == ["ours", "ours by mma.sync"]
    assert list(gpu_kernels.our_ways("mlp", "bfloat16", True)) == ["ours", "ours by cuBLASLt", "ours by wgmma"]
    assert [list(gpu_kernels.our_ways(*given)) for given in (
        ("attention", "float32", True), ("attention", "bfloat16", False), ("gelu", "bfloat16", True))] == [["ours"]] * 3
    before = attention_sm90_gpu.takes, mlp_sm90_gpu.takes, mlp_gpu.by_time
    with gpu_kernels.taken("mma.sync"):
        assert attention_sm90_gpu.takes(None, 1) is False and mlp_sm90_gpu.takes is before[1]
    with gpu_kernels.taken("cuBLASLt"):
        assert mlp_sm90_gpu.takes(None, None) is False and attention_sm90_gpu.takes is before[0]
    with gpu_kernels.taken("wgmma"):
        assert mlp_gpu.by_time(None, "mlp", dict(together=None, hopper=lambda: "it")) == "it"
    with gpu_kernels.taken(""):
        assert (attention_sm90_gpu.takes, mlp_sm90_gpu.takes, mlp_gpu.by_time) == before


def test_rows_are_as_many_as_fit():
    sizes = dict(block_size=10, vocab_size=5)                # 1000 bytes a row
    assert [gpu_kernels.batch_for(sizes, memory) for memory in (10, 3999, 4000, 1e9)] == [1, 2, 4, 64]


def test_rates_by_hand():
    found = gpu_train.rates(dict(vocab_size=3, block_size=2, n_layer=1, n_head=1, n_embd=4), 1, 2.0, 1000, 10_000)
    assert found == {"tokens_per_s": 1.0, "mfu": (2448 + 12 * 2 * 2 * 4) / 2 / 10_000, "of_product": 2560 / 2 / 1000}
    assert gpu_train.rates(TINY, 1, 1.0, 1.0, None)["mfu"] is None


@pytest.mark.parametrize("card, peak", [("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA H100 PCIe", 756e12),
                                        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA L4", 121e12), ("no GPU", None)])
def test_what_is_promised(card, peak):
    assert gpu_sides.promised(card) == peak


@pytest.mark.parametrize("text, version", [
    ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (root@builder)  Fri Jan 1\n"
     "GCC version:  gcc version 13.3.0", "580.159.04"),
    ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82  Wed Oct 27 21:21:55 UTC 2021", "470.82")])
def test_a_drivers_version_is_found_in_what_the_kernel_says(text, version):
    assert gpu_sides.version_in(text) == version


def test_curves_are_compared_with_the_first():
    assert gpu_train.apart({"a": [2.0, 4.0], "b": [2.0, 4.1], "c": [1.0, 4.0]}) == pytest.approx({"b": 0.025, "c": 0.5})


def test_text_is_the_same_every_time_and_can_be_learnt():
    (x, y), (again, _) = (next(gpu_train.text(50, 8, 400)) for _ in range(2))
    np.testing.assert_array_equal(x, again)
    np.testing.assert_array_equal(x[:, 1:], y[:, :-1])
    assert x.shape == (8, 400) and 0.45 < ((7 * x + 1) % 50 == y).mean() < 0.6 and x.max() < 50
    assert (x == 0).sum() > 3 * (x == 10).sum()


def test_floors_of_generation_by_hand():
    sizes = dict(vocab_size=3, block_size=2, n_layer=1, n_head=1, n_embd=4)      # 272 parameters, 8 numbers a position
    assert gpu_generate.writing_floor(sizes, "bfloat16", 3, 8, 1e3) == pytest.approx((544 + 3 * 20 * 16) / 1e3)
    assert gpu_generate.reading_floor(sizes, 2, 2, 1e3) == pytest.approx(4 * (2 * (192 + 12) + 2 * 4 * 3) / 1e3)


def test_padding_is_for_gpt2_alone():
    assert gpu_train.sizes_of("gpt2")["vocab_size"] == 50304 and gpu_train.sizes_of("char")["vocab_size"] == 65


@pytest.mark.parametrize("got, want, error", [
    ([1.0, 2.0], [1.0, 2.5], 0.2), ([np.inf, 1], [np.inf, 1], 0), ([np.nan], [np.nan], 0), ([np.nan], [1.0], np.inf),
    ([1.0], [np.inf], np.inf), ([1.0], [[1.0]], np.inf), ([1e-3], [2e-3], 0.5), ([0.0], [0.0], 0)])
def test_errors_are_relative_and_see_everything(got, want, error):
    assert gpu_kernels.compared([np.array(got)], [np.array(want)]) == [pytest.approx(error)]


def test_an_array_is_filled_over_and_over():
    for n in (2, 3, 7, 20):
        np.testing.assert_array_equal(gpu_kernels.fill(np.zeros(n), np.arange(3.0)), np.resize(np.arange(3.0), n))


def test_texts_agree_up_to_the_first_difference():
    prompt = [9] * gpu_generate.PROMPT
    assert gpu_generate.agreement([prompt + [1, 2, 3, 4]], [prompt + [1, 2, 0, 4]]) == 0.5


# processes

class Someone:
    def __init__(self, broken=False):
        if broken:
            raise ValueError("cannot begin")

    def double(self, x):
        return 2 * x

    def fail(self):
        raise RuntimeError("a word\nand another")

    def fill_memory(self):
        raise fake_cupy.OutOfMemoryError("all of it")

    def die(self):
        os._exit(7)

    def sleep(self):
        time.sleep(60)


@pytest.mark.parametrize("method, kind, words", [
    ("fail", "failed", "RuntimeError: a word and another"), ("fill_memory", "memory", "all of it"),
    ("die", "failed", "exit status 7"), ("missing", "failed", "missing")])
def test_what_a_side_cannot_do_is_said_and_it_ends(method, kind, words):
    side = Side("someone", Someone, {})
    assert side.ask("double", 4) == 8
    with pytest.raises(Failed, match=words) as e:
        side.ask(method)
    assert e.value.kind == kind and not side.alive and not side.process.is_alive()


def test_a_side_that_hangs_is_killed():
    side, began = Side("someone", Someone, {}), time.monotonic()
    assert side.ask("double", 1) == 2
    with pytest.raises(Failed, match="no answer to sleep after") as e:
        side.ask("sleep", patience=0.2)
    assert e.value.kind == "time" and not side.process.is_alive() and time.monotonic() - began < 30


def test_a_desk_begins_a_side_again_and_asks_others_on():
    part = gpu.Part(gpu.REHEARSAL, {}, seconds=60, most=20)
    makers = {"ours": (Someone, {}), "b": (Someone, dict(broken=True))}
    with gpu.Desk(makers, part) as desk:
        found, failed = desk.turns({"good": ("ours", "double", 3), "bad": ("b", "double", 3)}, rounds=2)
        assert found == {"good": [6, 6, 6]} and failed["bad"].kind == "failed" and "cannot begin" in str(failed["bad"])
        part.most = 0.2
        with pytest.raises(Failed) as e:                     # there is time left: it hangs
            desk.ask("ours", "sleep")
        part.most = 20
        assert e.value.kind == "failed" and desk.ask("ours", "double", 5) == 10
    assert gpu.problems(failed)["status"] == "failed" and gpu.problems({})["status"] == "ok"


def test_phases_are_timed_in_turns_without_the_first():
    class Clock:
        now, said = 0.0, []

        def flush(self):
            self.said.append("flush")

        def mark(self):
            Clock.now += 1
            return Clock.now

        def seconds(self, a, b):
            return b - a

        def wait(self):
            self.said.append("wait")

    clock = Clock()
    found = gpu_sides.timed(clock, SHORT, lambda: clock.said.append("ready"), lambda: clock.said.append("one"),
                            lambda: clock.said.append("two"))
    once = ["ready", "flush", "one", "flush", "two"]
    assert found == [[1.0], [1.0]] and clock.said == [*once, "wait", *once]


def test_a_loss_of_pytorch_is_heard_of_by_a_copy_of_its_own():
    """Queued where the loss is, in memory that a card can write to by itself, and waited for alone."""
    said = []

    class Number:
        dtype = "float32"

        def detach(self):
            return self

        clone = detach

        def copy_(self, other, non_blocking):
            said.append(("copy", non_blocking))

        def item(self):
            said.append("item")
            return 3.0

    class Event:
        def record(self):
            said.append("record")

        def synchronize(self):
            said.append("synchronize")

    clock = object.__new__(gpu_sides.TorchClock)
    clock.device, clock.torch = "cuda", SimpleNamespace(
        empty=lambda shape, dtype, pin_memory: said.append(("empty", shape, dtype, pin_memory)) or Number(),
        cuda=SimpleNamespace(Event=Event))
    told = clock.told(Number())
    assert said == [("empty", (), "float32", True), ("copy", True), "record"]
    assert told() == 3.0 and said[3:] == ["synchronize", "item"]
    clock.device = "cpu"
    assert clock.told(Number())() == 3.0


# files

ABOUT = {"card": "NVIDIA H100 80GB HBM3", "memory": 80 << 30, "free": 79 << 30}


def test_results_of_a_day_go_into_one_file(tmp_path):
    for part, entry in (("kernels", {"name": "a", "status": "failed", "failed": {"ours": {"kind": "failed",
                                                                                     "text": "x | y"}}}),
                        ("train", {"name": "b", "status": "left out"}), ("train", {"name": "c", "status": "ok"}),
                        ("train", {"name": "d", "status": "ok"})):
        results = gpu.Results(tmp_path, ABOUT)
        results.begin(part, "d" if entry["name"] == "d" else "", commit="abc", command="command", about=ABOUT)
        results.add(entry)
    file, = tmp_path.glob("*.json")
    assert file.name == f"gpu-h100-80gb-hbm3-{time.strftime('%Y-%m-%d')}.json" and len(list(tmp_path.iterdir())) == 2
    parts = json.loads(file.read_text())["parts"]
    assert [e["name"] for e in parts["kernels"]["entries"]] == ["a"]
    assert [e["name"] for e in parts["train"]["entries"]] == ["c"]
    assert [e["name"] for e in parts["train, only d"]["entries"]] == ["d"]       # which cost the other one nothing
    text = file.with_suffix(".md").read_text()
    assert "| a | failed | ours: x / y |" in text and "Nothing failed" in text and "80.0 GiB" in text


def test_a_part_that_was_begun_again_in_vain_is_still_there(tmp_path):
    def names():
        file, = tmp_path.glob("*.json")
        return [e["name"] for e in json.loads(file.read_text())["parts"]["kernels"]["entries"]]

    before = ["ceilings", "a", "b"]
    for again, wanted in ((["a", "b"], before), ([], before), (["c"], ["ceilings", "c"])):
        results = gpu.Results(tmp_path, ABOUT)
        results.begin("kernels", commit="abc", command="command", about=ABOUT)
        for name in ["ceilings", *again]:
            results.add({"name": name, "status": "failed", "ours": "x", "spent": 1.0})
        assert names() == wanted


def test_what_was_measured_is_kept_though_its_table_cannot_be_written(tmp_path, monkeypatch):
    results = gpu.Results(tmp_path, ABOUT)
    results.begin("train", commit="abc", command="command", about=ABOUT)
    monkeypatch.setattr(gpu_report, "markdown", lambda data: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        results.add({"name": "a", "status": "ok"})
    assert [e["name"] for e in json.loads(results.json.read_text())["parts"]["train"]["entries"]] == ["a"]


def test_what_an_op_took_is_kept_though_there_is_no_copy_to_compare_it_with(monkeypatch):
    class Desk(gpu.Desk):
        def ask(self, name, method, *args):
            if method == "copy":
                raise Failed("time", "no answer to copy")
            return [[1.0, 2.0, 3.0]] * 2

        begin = staticmethod(lambda names: None)

    part = gpu.Part(gpu.REHEARSAL, {**ABOUT, "hopper": False}, seconds=60, known={"rates": {"ours copy": 1e9}})
    part.torch = False
    row = gpu_kernels.rows(TINY, 2, "float32")["gelu"]
    found = gpu.times(Desk({}, part), "gelu", row, 2, "float32")
    assert found["sides"] == {"ours": [turns.quartiles([1, 2, 3, 1, 2, 3])] * 2} and found["copied"] == [None, None]
    assert found["status"] == "time" and "no answer to copy" in str(found["failed"])
    entry = {"name": "gelu float32", **found}
    assert "gelu" in gpu_report.line(entry) and "2,000,000" in "\n".join(gpu_report.times([entry]))


def test_a_run_goes_on_after_a_failure_and_says_so(tmp_path, monkeypatch, capsys):
    def entries(part):
        def explode():
            raise KeyError("gone")
        yield "one", explode
        yield "two", lambda: {"status": "wrong", "what": "check", "row": "r", "dtype": "d", "seed": 1, "errors": [1.0],
                              "limit": 0.1}
        yield "three", lambda: {"status": "ok"}

    monkeypatch.setitem(gpu.PARTS, "kernels", (entries, 1))
    monkeypatch.setattr(gpu, "ceilings", lambda part: {})
    results = gpu.Results(tmp_path, ABOUT)
    results.begin("kernels", commit="abc", command="command", about=ABOUT)
    assert not gpu.measure("kernels", gpu.Part(gpu.REHEARSAL, ABOUT, seconds=60), results, "")
    assert [e["status"] for e in results.entries] == ["ok", "failed", "wrong", "ok"]
    assert "KeyError: 'gone'" in capsys.readouterr().out
    assert gpu.measure("kernels", gpu.Part(gpu.REHEARSAL, ABOUT, seconds=60), results, "three")
    assert gpu.measure("kernels", gpu.Part(gpu.REHEARSAL, ABOUT, seconds=1), results, "one")       # no time: left out


@needs_emulator
def test_a_text_and_the_time_that_the_host_has_for_it(monkeypatch):
    from gpt import generate
    monkeypatch.setattr("gpt.decode_gpu.WARPS", 2)
    with fake_cupy.installed():
        side = gpu_generate.Ours({**TINY, "block_size": 32}, "float32")
        text = side.write(2, 4)
        want = generate(side.model, np.array(text.ids)[:, :gpu_generate.PROMPT], 4, temperature=0)
    assert text.ids == want.tolist() and 0 < text.host < text.rest
    rows = [[9] * 20]
    text = gpu_generate.written(rows, [0.0, 5.0, 6.0, 9.0], [4.0, 0.5, 1.5])
    assert text.first == 5 and text.rest == 2 and text.host == 1


def test_without_a_gpu_it_says_what_to_install(capsys, tmp_path):
    if backend.cupy() is not None:
        pytest.skip("there is a GPU")
    assert gpu.main(["--out", str(tmp_path)]) == 2
    assert 'pip install "cupy-cuda12x[ctk]"' in capsys.readouterr().err and not list(tmp_path.iterdir())


# sides, with the stand-in for CuPy

@needs_emulator
def test_losses_are_pytorchs():
    pytest.importorskip("torch")
    with fake_cupy.installed():
        _, ours, held = gpu_train.Ours(TINY, 2, "float32").turn(1, 3)
        assert gpu_train.Ours(TINY, 2, "float32", graph=True).turn(1, 3)[1] == ours
    for mode, cudnn in ((None, False), ("default", False), ("default", True)):
        seconds, theirs, _ = gpu_train.PyTorch(TINY, 2, "float32", mode, cudnn).turn(1, 3)
        assert len(seconds) == 3 and len(ours) == 4 and held > 0
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_pytorch_with_a_cache_writes_what_it_writes_without():
    torch = pytest.importorskip("torch")
    from bench.torch_gpt2 import copy_of
    sizes = {**TINY, "block_size": 32}
    for mode in (None, "reduce-overhead"):
        side = gpu_generate.PyTorch(sizes, "float32", mode)
        rows = side.write(2, 6).ids
    model = copy_of(GPT(GPTConfig(**sizes))).eval()
    with torch.no_grad():
        for row in rows:
            for end in range(gpu_generate.PROMPT, len(row)):
                assert int(model(torch.tensor([row[:end]]))[0, -1].argmax()) == row[end]
        ids, cache = torch.tensor(rows), model.empty_cache(2, len(rows[0]) + 3)
        parts = [model(ids[:, a:b], cache, torch.arange(a, b)) for a, b in ((0, 9), (9, 10), (10, len(rows[0])))]
        torch.testing.assert_close(torch.cat(parts, 1), model(ids), rtol=1e-5, atol=1e-5)
    assert len(rows[0]) == gpu_generate.PROMPT + 6


@pytest.mark.parametrize("name", gpu_kernels.EXPECTED)
def test_pytorchs_rows_run(name):
    pytest.importorskip("torch")
    for dtype in ("bfloat16", "float32"):
        found = gpu_kernels.TorchKernels(TINY, SHORT).time(name, 4, dtype)
        assert len(found) == len(gpu_kernels.rows(TINY, 4, dtype)[name].phases) and found[0][0] > 0


@needs_emulator
def test_a_wrong_kernel_is_seen(monkeypatch):
    with fake_cupy.installed():
        side = gpu_kernels.Kernels(TINY, gpu.REHEARSAL.checked, SHORT)
        right = side.check("gelu", "float32", 1)
        from minigrad.fused import gelu_gpu
        monkeypatch.setattr(gelu_gpu, "forward", lambda x, approximate="tanh": (x * 0.5, (x, approximate)))
        monkeypatch.setattr(gelu_gpu, "gelu", (gelu_gpu.forward, gelu_gpu.backward))
        from minigrad import kernels
        kernels._pair.cache_clear()
        wrong = side.check("gelu", "float32", 1)
        found = side.cases("gelu", 1)
    kernels._pair.cache_clear()
    assert max(right) < 1e-6 and wrong[0] > 0.1 and found["float32"][1] > 0.1


@needs_emulator
@pytest.mark.parametrize("part, only, entries", [
    ("kernels", "^layer_norm", 7), ("train", "char float16", 1), ("train", "curves", 1),
    ("generate", "float32 1 x", 2)])
def test_a_rehearsal(part, only, entries, tmp_path, monkeypatch, capsys):
    """Processes and all, as on a card, but for PyTorch."""
    monkeypatch.setattr(turns, "HAVE_TORCH", False)
    assert gpu.main(["--rehearse", "--part", part, "--only", only, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "A rehearsal: no GPU" in said and "PyTorch is left out" in said
    file, = tmp_path.glob("*.json")
    found = json.loads(file.read_text())["parts"][f"{part}, only {only}"]["entries"]
    assert len(found) == 1 + entries and {e["status"] for e in found} == {"ok"}
    assert "Nothing failed" in file.with_suffix(".md").read_text()


def test_a_trace_is_added_up_by_kernel_and_grid():
    def event(name, ts, dur, grid):
        about = {"grid": grid, "block": [32, 1, 1], "registers per thread": 9}
        return {"name": name, "ts": ts, "dur": dur, "args": about}
    events = [event("a|b", 0, 1000, [1, 1, 1]), event("c", 500, 100, [2, 1, 1]), event("a|b", 1500, 3000, [1, 1, 1]),
              event("a|b", 5000, 500, [7, 1, 1])]
    said = list(gpu_trace.table(events, 2))
    assert said[0] == "A step: 2.30 ms in kernels and copies, 0.50 ms between them."
    assert [line.split(" | ")[:5] for line in said[4:-1]] == [
        ["| 2.00", "1", "2000.0", "a/b", "1x1x1"], ["| 0.25", "0.5", "500.0", "a/b", "7x1x1"],
        ["| 0.05", "0.5", "100.0", "c", "2x1x1"]]


def test_a_trace_wants_a_gpu(capsys):
    if backend.cupy() is not None:
        pytest.skip("there is a GPU")
    assert gpu_trace.main([]) == 2 and "no GPU" in capsys.readouterr().err
