"""What bench/ computes, parses and prints; how fast anything is, no test says."""
import importlib
import json
import os
import re
from argparse import ArgumentTypeError
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from bench import curve, floors, memory, overhead, planted, planted_cuda, scaling, start, step, tok, turns
from bench import generate as writing
from gpt import GPT, GPTConfig
from gpt.sizes import GIB, parameters, training
from minigrad import blas
from minigrad.emulator import emulator

SMALL = dict(vocab_size=3, block_size=2, n_layer=1, n_head=1, n_embd=4)      # with one sequence, N = 2


# floors: the formulas, by hand

def test_operations_of_a_model_that_fits_on_paper():
    """Matrices: 6 * 2 tokens * (12 * 16 + 3 * 4) = 2448. Attention: 7 * 2 tokens * 2 positions * width 4 = 112."""
    assert floors.flops(SMALL, 1) == 2448 + 112
    assert floors.usual(SMALL, 1) == 2448 + 12 * 2 * 2 * 4


@pytest.mark.parametrize("config, published", [("b", 4.0), ("char", 291), ("gpt2", 788)])
def test_the_usual_count_is_the_usual_one(config, published):
    assert round(floors.usual(*step.CONFIGS[config]) / 1e9, 0 if published > 9 else 1) == published
    assert 0.9 < floors.flops(*step.CONFIGS[config]) / floors.usual(*step.CONFIGS[config]) < 1


def test_traffic_by_hand():
    """53 * 2 * 4 entries, and 32 bytes for each of (3 + 2 + 2) * 4 + 12 * 16 + 13 * 4 = 272 parameters."""
    assert floors.traffic(SMALL, 1, "float32") == 53 * 8 * 4 + 32 * 272
    assert floors.traffic(SMALL, 1, "bfloat16") == 53 * 8 * 2 + 32 * 272


def test_memory_by_hand():
    """N C = 8; activations 11 * 8 entries, 8 wide ones, 6 * 2 + 1 * 2 statistics; of temporaries the MLP has more."""
    found = floors.memory(SMALL, 1, "bfloat16")
    assert found == {"parameters": 4 * 272, "gradients": 4 * 272, "moments": 8 * 272,
                     "activations": 11 * 8 * 2 + 8 * 4 + 4 * (6 * 2 + 2), "temporaries": 13 * 8 * 2}
    wide = {**SMALL, "vocab_size": 100}
    assert floors.memory(wide, 1, "bfloat16")["temporaries"] == 2 * 8 + (4 + 2) * 2 * 100           # in the head


def test_every_product_gets_matrices_that_fit():
    """And exactly the operations that the formula counts."""
    sizes, seen = dict(vocab_size=7, block_size=3, n_layer=2, n_head=2, n_embd=8), []

    def multiply(a, b, out):
        assert (a @ b).shape == out.shape
        seen.append(2 * a.shape[-1] * out.size)

    todo = floors.products(sizes, 5)
    assert next(floors.passes(todo, lambda role, shape: np.ones(shape), multiply)) > 0
    assert sum(n * p.times * p.share for n, p in zip(seen, todo, strict=True)) == floors.flops(sizes, 5)


def test_the_forward_pass_is_a_third_of_the_matrices_and_two_sevenths_of_attention():
    assert sum(p.flops for p in floors.forward_products(SMALL, 1)) == 2448 / 3 + 112 * 2 / 7


def test_a_product_is_not_written_over_its_operands():
    def multiply(a, b, out):
        assert not np.shares_memory(a, out) and not np.shares_memory(b, out)

    next(floors.passes(floors.products(SMALL, 1), lambda role, shape: np.ones(shape), multiply))


def test_floors_say_their_rate():
    assert floors.describe("float32", 1e-6, SMALL, 1).split()[-4:] == ["0.0", "ms", "3", "GFLOP/s"]
    assert floors.describe("traffic float32", 1e-6, SMALL, 1).split()[-2:] == ["10", "GB/s"]


# turns: processes, files, arguments

def counting(begin):
    while True:
        begin += 1
        yield begin


def failing():
    yield 1
    raise SystemExit(3)


def test_sides_take_turns_and_the_first_does_not_count():
    sides = [turns.Side("a", counting, dict(begin=0)), turns.Side("b", counting, dict(begin=100))]
    turns.take_turns(sides, rounds=2, steps=3)
    for side, begin in zip(sides, (0, 100)):
        side.close()
        assert side.values == list(range(begin + 1, begin + 9)) and len(side.seconds) == 6
        assert side.rounds == sides[0].rounds and len(set(side.rounds)) == 2
        assert side.first > 0 and side.peak >= side.resident > 1e6 and side.process.exitcode == 0


def test_a_side_that_ends_is_reported_and_left_out(capfd):
    side = turns.Side("the one", failing, {})
    turns.take_turns([side], rounds=2, steps=1)
    side.close()
    assert side.dead and not side.seconds and "the one is left out" in capfd.readouterr().err


def test_an_environment_is_put_back(monkeypatch):
    monkeypatch.setenv("BENCH_A", "1")
    monkeypatch.delenv("BENCH_B", raising=False)
    with turns.environment({"BENCH_A": "2", "BENCH_B": "3"}):
        assert os.environ["BENCH_A"] + os.environ["BENCH_B"] == "23"
    assert os.environ["BENCH_A"] == "1" and "BENCH_B" not in os.environ


def test_memory_is_read_from_proc():
    assert turns.memory_of("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n") == (1 << 20, 1 << 21)
    now, most = turns.memory()
    assert most >= now > 1e6


def test_the_machine_is_described_without_torch(monkeypatch):
    def no_torch(name):
        if name == "torch":
            raise turns.PackageNotFoundError(name)
        return "1.2"
    monkeypatch.setattr(turns, "version", no_torch)
    assert turns.machine().endswith("numpy 1.2, numba 1.2")


def test_a_record_is_a_line_of_json_with_a_date(tmp_path):
    for n in range(2):
        turns.record(tmp_path / "x.json", "curve", ["--data", "a text"], n=n)
    lines = [json.loads(line) for line in (tmp_path / "x.json").read_text().splitlines()]
    assert [line["n"] for line in lines] == [0, 1] and all(line["date"] and line["machine"] for line in lines)
    assert lines[0]["command"] == "python -m bench curve --data 'a text'"


def test_arguments_are_refused_before_the_measurement(tmp_path):
    assert turns.positive("3") == 3 and turns.in_a_folder(str(tmp_path / "x.png"))
    for refuse, text in [(turns.positive, "0"), (turns.positive, "-1"), (turns.positive, "two"),
                         (turns.in_a_folder, str(tmp_path)), (turns.in_a_folder, str(tmp_path / "no" / "x.png"))]:
        with pytest.raises(ArgumentTypeError, match="got .*; expected"):
            refuse(text)


# step: groups, ratios, the table

def side(ms, losses, peak=200e6):
    return SimpleNamespace(seconds=[ms / 1e3] * 3, rounds=[1, 2, 3], values=losses, peak=int(peak), faults=6, first=1.0)


FOUND = {"ours-float32": side(40, [4.0, 3.0, 2.0]), "ours-bfloat16": side(25, [4.01, 3.01]),
         "eager": side(50, [4.0, 3.0]), "bf16": side(30, [4.0, 3.01]), "tuned-eager": side(44, [4.0, 3.0])}
FLOORS = {"float32": side(0, [9, 9, 0.020]), "bfloat16": side(0, [9, 9, 0.010]),
          "torch bfloat16": side(0, [9, 9, 0.012])}
IDLE = {mode: 150_000_000 for mode in step.OURS}


def test_ours_meet_every_group_of_theirs():
    assert step.groups(["ours-float32", "eager", "compile", "bf16"], together=3) == (
        ["ours-float32"], [["eager", "compile"], ["bf16"]])
    assert step.groups(["ours-float32"]) == (["ours-float32"], [[]])
    assert step.groups(["eager"], together=1) == ([], [["eager"]])


def test_every_mode_has_a_floor():
    wanted = set(step.floors_of(list(step.MODES)))
    assert {step.ceiling_of(mode) for mode in step.MODES} <= wanted | {"torch bfloat16"}
    assert {"traffic float32", "traffic bfloat16"} <= wanted <= set(floors.FLOORS)
    assert step.floors_of(["eager"]) == ["float32"]


@pytest.mark.parametrize("has", [True, False])
def test_pytorchs_bfloat16_is_not_asked_for_where_it_takes_minutes(monkeypatch, has):
    monkeypatch.setattr(blas, "multiplies", lambda dtype: has)
    modes = step.default_modes()
    assert set(step.OURS) < set(modes) <= set(step.MODES)
    assert any(step.dtype_of(mode) == "bfloat16" for mode in modes if mode not in step.OURS) == has
    if step.HAVE_TORCH:
        assert ("torch bfloat16" in step.floors_of(modes)) == has
    everything = step.asked(["all"], has)
    assert set(modes) <= set(everything) and (everything == list(step.MODES)) == has
    assert step.asked(["all", "bf16"], False) == [m for m in step.MODES if m in everything or m == "bf16"] or has
    assert step.asked(["eager", "ours-float32"], has) == ["ours-float32", "eager"]


def test_ratios_set_the_best_beside_the_best():
    lines = step.ratios(FOUND)
    assert [line.split(" (")[0] for line in lines] == [
        "best PyTorch / ours, float32: 1.25", "best PyTorch / ours, any dtype: 1.20",
        "best tuned PyTorch / ours, float32: 1.10", "best tuned PyTorch / ours, any dtype: 1.76"]
    assert step.ratios({"ours-float32": FOUND["ours-float32"]}) == []


def test_ratios_compare_what_worked_in_the_same_rounds():
    """Theirs in rounds 3 and 4 met ours when the machine was half as fast."""
    ours = SimpleNamespace(seconds=[1, 1, 2, 2], rounds=[1, 2, 3, 4])
    found = {"ours-float32": ours, "eager": SimpleNamespace(seconds=[1.5, 1.5], rounds=[1, 2]),
             "compile": SimpleNamespace(seconds=[2.6, 2.6], rounds=[3, 4])}
    assert step.ratios(found)[0] == ("best PyTorch / ours, float32: 1.30 (PyTorch compile 2600.0 ms, ours float32 "
                                     "2000.0 ms in the same rounds)")
    assert turns.beside(ours, SimpleNamespace(rounds=[9])) == 1.5


def test_the_table(capsys):
    assert step.report(FOUND, FLOORS, IDLE, *step.CONFIGS["b"])
    out = capsys.readouterr().out
    rows = {title: line.split() for title in step.TITLES.values() for line in out.splitlines()
            if line.startswith(title + "  ")}
    assert rows["ours float32"][2:] == ["40.0", "40.0", "19200", "50%", "1.00", "200", "2", "3.00000", "0.0e+00"]
    assert rows["PyTorch bf16"][5] == "40%" and rows["PyTorch bf16"][-1] == "3.3e-03"
    assert "memory of ours float32: idle 150 + parameters 3" in out and "Measure again" not in out


def test_losses_that_disagree_are_marked(capsys):
    found = {"ours-float32": side(40, [4.0, 3.0]), "eager": side(50, [4.0, 3.1])}
    assert not step.report(found, {}, IDLE, *step.CONFIGS["b"])
    assert "3.3e-02 !" in capsys.readouterr().out


def test_steps_that_vary_are_pointed_out(capsys):
    found = {"ours-float32": SimpleNamespace(**{**vars(side(1, [1.0])), "seconds": [1, 2, 3]})}
    step.report(found, {}, IDLE, *step.CONFIGS["b"])
    assert "very different times (ours float32)" in capsys.readouterr().out


def test_what_is_kept_survives_json(tmp_path):
    kept = step.entry("b", FOUND, FLOORS, IDLE, SimpleNamespace(threads=2, neighbour=False))
    assert json.loads(json.dumps(kept)) == kept and kept["modes"]["eager"]["quartiles_s"] == [0.05] * 3


def test_without_torch_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(step, "HAVE_TORCH", False)
    assert step.main(["--modes", "eager"]) == 1
    assert capsys.readouterr().out.count("pip install torch") == 1
    assert not any("torch" in name for name in step.floors_of(list(step.MODES)))


def test_plots_are_drawn(tmp_path):
    step.plot(tmp_path / "step.png", {"b": (FOUND, FLOORS), "char": (FOUND, {})})
    rows = [(name, v, 2e-5, 1e-5) for name, (values, _) in scaling.SWEEPS.items() for v in values]
    scaling.plot(tmp_path / "scaling.png", rows, "a title")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("step.png", "scaling.png"))


# scaling and start

@pytest.mark.parametrize("quick", [False, True])
def test_points_vary_one_thing_at_a_time(quick):
    todo = list(scaling.points(quick))
    for name, value, sizes, batch in todo:
        assert sizes[name] == value and GPTConfig(**sizes)
        assert {k for k in sizes if sizes[k] != scaling.BASE[k]} <= {name, "n_head"}
        assert batch * sizes["block_size"] == (1024 if quick else 2048)
    assert sum(sizes == scaling.BASE for _, _, sizes, _ in todo) == len(scaling.SWEEPS)


def test_a_step_on_the_line_has_ratio_one(capsys):
    todo, rate = list(scaling.points(True)), 1e11
    found = [[floors.flops(sizes, batch) / rate] for _, _, sizes, batch in todo]
    scaling.show(scaling.table(todo, rate, found))
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == len(todo) and all(line.endswith("  1.00") for line in lines)


def test_a_start_is_timed_in_its_own_environment():
    assert 0 < start.start("import os; assert os.environ['BENCH_A'] == '1'", {"BENCH_A": "1"}) < 60


def test_a_start_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="ended with 3"):
        start.start("import sys; sys.exit(3)")


# tok: what is compared works on the same texts, yields the same ids, and is set beside ours

LINES = "राम नाम मनिदीप धरु जीह देहरीं द्वार।\nthe cat's 12 mats\n" * 40


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text.txt").write_text(LINES, encoding="utf-8")
    return str(tmp_path / "text.txt")


def test_texts_are_a_file_or_the_grammar(corpus, monkeypatch):
    monkeypatch.setattr(tok, "COUPLETS", 7)
    assert "".join(tok.texts_of(corpus)) == LINES
    assert sum(text.count("॥") for text in tok.texts_of("")) == 7


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("title", tok.ENCODERS)
def test_every_encoder_gives_the_ids_of_ours(title, threads, corpus, tmp_path):
    make, package, arrays = tok.ENCODERS[title]
    if package:
        pytest.importorskip(package)
    made = tok.vocabulary_of(None, [corpus], tmp_path)
    steps = make(corpus, tmp_path, threads, arrays)
    assert next(steps) == next(steps) == tok.digest([made.encode(LINES)])


@pytest.mark.parametrize("title", tok.TRAINERS)
def test_every_trainer_learns_the_vocabulary_that_is_asked_for(title, corpus):
    make, package = tok.TRAINERS[title]
    if package:
        pytest.importorskip(package)
    assert next(make(corpus, 300, 1)) == 300


def test_a_table_of_encoders_by_hand():
    ours, theirs = side(100, ["a"]), side(250, ["a"], peak=300e6)
    ours.name, theirs.name = "ours", "theirs"
    lines = [line.split() for line in tok.table([ours, theirs], 10**6, ours)]
    assert lines[1:] == [["ours", "0.100", "10.0", "1.00x", "200"], ["theirs", "0.250", "4.0", "2.50x", "300"]]


def test_the_cost_of_a_first_call_is_measured_with_and_without_compiled_code(monkeypatch):
    seen = []
    monkeypatch.setattr(tok, "start", lambda code, env=None: seen.append((code, env)) or len(seen))
    found = tok.first_calls()
    assert [warm < cold for warm, cold in found.values()] == [True] * 3
    assert all(bool(env) == (i % 3 == 2) for i, (_, env) in enumerate(seen))           # the first one compiles
    for code in {code for code, _ in seen}:
        exec(code, {})                                                                 # each of them works


@pytest.mark.parametrize("words, said", [(["--gpt2", "nowhere"], "encoder.json"), (["nowhere"], "nowhere"),
                                         (["empty.txt"], "no text in empty.txt")])
def test_a_text_or_a_vocabulary_that_is_not_there_is_refused_before_anything_is_timed(words, said, corpus, tmp_path,
                                                                                      monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").touch()
    monkeypatch.setattr(tok, "training", lambda *_: pytest.fail("it was timed"))
    with pytest.raises((ValueError, OSError), match=said):
        tok.main([corpus, *words])


def test_others_are_not_set_beside_nothing(capfd):
    """Without the first, the second stood in its place."""
    sides = [turns.Side("ours", failing, {}), turns.Side("theirs", counting, dict(begin=0))]
    with pytest.raises(ValueError, match="ours: got an error, which is above"):
        turns.compare(sides, 1)
    assert sides[1].process.exitcode == 0


@pytest.mark.parametrize("same, code", [(True, 0), (False, 1)])
def test_the_whole_run_ends_with_an_error_where_ids_differ(same, code, corpus, tmp_path, monkeypatch, capsys):
    def made(corpus, *rest):
        sides = [side(100, ["a"]), side(200, ["a" if same else "b"])]
        sides[0].name, sides[1].name = "ours, lists", "tiktoken, lists"
        return sides
    def encoded(corpus, folder, threads, rounds, steps):
        assert 1 < steps <= 100                              # a short text is read again, but not all day
        return made(corpus)
    monkeypatch.setattr(tok, "training", made)
    monkeypatch.setattr(tok, "encoding", encoded)
    monkeypatch.setattr(tok, "first_calls", lambda: {"import tok": (0.5, 1.5)})
    kept = tmp_path / "kept.json"
    assert tok.main([corpus, "--threads", "2", "--json", str(kept)]) == code
    out, line = capsys.readouterr().out, json.loads(kept.read_text())
    assert ("The ids differ" in out) == (not same) and "2.00x" in out and "0.50          1.50" in out
    assert [(r["what"], r.get("threads")) for r in line["results"]] == [("train", None), ("encode", 1), ("encode", 2)]
    assert line["results"][0]["bytes"] == len(LINES.encode())


def test_encoders_live_in_processes_of_their_own(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(tok, "THEIRS", [])
    made = tok.vocabulary_of(None, [corpus], tmp_path)
    found = tok.encoding(corpus, str(tmp_path), 2, rounds=1, steps=3)
    assert all(len(s.seconds) == 3 for s in found)
    assert [s.name for s in found] == ["ours, lists", "ours, arrays"]
    assert {value for s in found for value in s.values} == {tok.digest([made.encode(LINES)])}
    assert [s.name for s in tok.training(corpus, 300, 2, rounds=1)] == ["ours, 1 thread"]


# generate: ours and theirs write the same; bytes and tables by hand

TINY = GPTConfig(vocab_size=70, block_size=64, n_layer=2, n_head=2, n_embd=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    GPT(TINY, seed=3).save(path)
    return path


@pytest.mark.parametrize("title", writing.WRITERS)
def test_every_writer_writes_what_is_asked_for(title, folder):
    make, settings = writing.WRITERS[title]
    if make is writing.theirs:
        pytest.importorskip("transformers")
    steps = make(folder, 2, 9, 1, **settings)
    text = next(steps)
    assert text.ids == next(steps).ids and np.shape(text.ids) == (2, writing.PROMPT + 9)
    assert text.first > 0 and text.rest > 0 and (text.limit > 0) == (make is writing.ours)
    if "float32" in title:
        assert text.ids == next(writing.ours(folder, 2, 9, 1)).ids


@pytest.mark.parametrize("title", writing.READERS)
def test_every_reader_reads(title, folder):
    make, settings = writing.READERS[title]
    if make is writing.their_reading:
        pytest.importorskip("transformers")
    steps = make(folder, 2, 16, 1, **settings)
    assert [next(steps), next(steps)] == [None, None] if make is not writing.products else next(steps) > 0


def test_the_limit_reads_what_a_step_reads():
    """The block has all parameters but the positions, a scale for every output and a bias for the head."""
    from gpt.decode import Decoder
    c = replace(TINY, n_embd=64)                                    # rows of 64 entries are not padded
    model = GPT(c)
    read = sum(p.size for name, p in model.named_parameters() if name != "wpe.weight")
    outputs = 9 * c.n_embd * c.n_layer + c.vocab_size
    matrices = (12 * c.n_embd * c.n_layer + c.vocab_size) * c.n_embd
    for int8, entry in ((False, 4), (True, 1)):
        block = Decoder(model, int8).compiled.block
        want = 4 * (read - matrices + outputs + c.vocab_size) + entry * matrices
        assert want <= len(block) < want + 64 * 40                  # each array begins on a cache line
        assert writing.reading_time(block, times=1) > 0


def test_steps_are_timed_from_the_first_token_on():
    assert writing.first_and_rest([10.0, 13.0, 14.0, 16.0]) == (3.0, 1.5)


def writer(rest, limit=0.0, ids=((1, 2),)):
    values = [writing.Text(ids, 9, 9, 9)] * turns.WARM + [writing.Text(ids, 0.01, rest, limit)] * 3
    return SimpleNamespace(values=values, peak=2e8)


def test_the_table_of_writers_by_hand():
    found = {"ours float32": writer(0.05, 0.04), "ours int8": writer(0.0125, 0.01), "transformers float32": writer(0.1)}
    assert [line.split() for line in writing.writing_table(found, 2)][1:] == [
        ["ours", "float32", "40.0", "50.00", "40.00", "80%", "2.00x", "10.0", "200"],
        ["ours", "int8", "160.0", "12.50", "10.00", "80%", "8.00x", "10.0", "200"],
        ["transformers", "float32", "20.0", "100.00", "10.0", "200"]]


def test_the_table_of_readers_by_hand():
    found = {"ours float32": side(500, [None] * 5), "products float32": side(9, [9, 9, 0.4, 0.4, 0.4])}
    assert [line.split() for line in writing.reading_table(found, 8, 128)] == [
        ["ours", "float32", "8", "128", "500.0", "2048"], ["products", "float32", "8", "128", "400.0", "2560"]]


@pytest.mark.parametrize("how, most", [("bfloat16", 2 ** -8), ("int8", 1 / 127)])
def test_weights_in_fewer_bits(how, most):
    rng = np.random.default_rng(0)
    for name, shape in (("h.0.attn.c_attn.weight", (32, 96)), ("wte.weight", (70, 32)), ("ln_f.bias", (32,))):
        w = rng.standard_normal(shape).astype(np.float32)
        again = writing.rounded(name, w, how)
        assert again.shape == shape and again.dtype == np.float32 and again.flags.c_contiguous
        assert np.abs(again - w).max() <= most * np.abs(w).max()
        assert (again != w).any() == (how == "bfloat16" or len(shape) == 2)
    w = np.ones((4, 6), np.float32) * np.arange(1, 7, dtype=np.float32)          # each output has a scale of its own
    np.testing.assert_allclose(writing.rounded("h.1.mlp.c_fc.weight", w, "int8"), w, rtol=1e-6)


def test_the_loss_of_a_run_in_fewer_bits(tmp_path):
    from train import run
    settings = dict(data="verse", couplets=200, steps=3, n_layer=1, n_head=1, n_embd=32, block_size=32, device_batch=4,
                    tokens_per_step=128, warmup=1, eval_tokens=640, samples=0, tokenizer="char", vocab_size=300,
                    shards=tmp_path / "shards", out=tmp_path / "run")
    assert run.main([word for name, value in settings.items() for word in (f"--{name}", str(value))]) == 0
    lines = list(writing.quality(tmp_path / "run", 640))
    plain, *others = [float(line.split()[1]) for line in (lines[0].split("\n")[-1], *lines[1:])]
    entry = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()][-1]
    assert plain == pytest.approx(entry["val_loss"], abs=1e-4)
    assert all(0.99 < other / plain < 1.01 for other in others) and [line.split()[0] for line in lines[1:]] == [
        "bfloat16", "int8"]


def test_the_whole_of_bench_generate(monkeypatch, tmp_path, capsys):
    found = {name: writer(0.1, 0.1) for name in writing.WRITERS}
    monkeypatch.setattr(writing, "writing", lambda *args: found)
    monkeypatch.setattr(writing, "reading", lambda *args: {n: side(100, []) for n in writing.READERS if n[0] != "p"})
    kept = tmp_path / "kept.json"
    command = ["--preset", "tiny", "--batches", "1", "--lengths", "8", "--json", str(kept)]
    assert writing.main(command) == 0
    assert [r["what"] for r in json.loads(kept.read_text())["results"]] == ["write", "read"]
    assert "100%" in capsys.readouterr().out
    found["transformers float32"] = writer(0.1, ids=((1, 3),))
    assert writing.main(command) == 1 and "ids of ours and of transformers differ" in capsys.readouterr().out
    with pytest.raises(ValueError, match="where nothing is"):
        writing.main([*command, "--run", str(tmp_path / "nowhere")])
    assert capsys.readouterr().out == "" and len(kept.read_text().splitlines()) == 2          # nothing was measured


def test_writers_live_in_processes_of_their_own(folder, monkeypatch):
    monkeypatch.setattr(writing, "WRITERS", {"ours float32": writing.WRITERS["ours float32"]})
    found = writing.writing(str(folder), 1, 4, 1, rounds=1)
    assert list(found) == ["ours float32"] and np.shape(found["ours float32"].values[0].ids) == (1, 20)


# ---------------------------------------------------------------------------------------------------------- memory

@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_is_where_it_is_predicted(dtype):
    c = GPTConfig(vocab_size=70, block_size=64, n_layer=4, n_head=2, n_embd=64)
    found = memory.measure(c, 3, dtype, list(memory.MODES), 2)
    assert all(len(seconds) == 2 for _, seconds in found.values())
    all_, again = (found[mode][0] for mode in ("keep all", "blocks again"))
    for mode in ("mlp again", "attention again"):
        assert again["activations"] < found[mode][0]["activations"] < all_["activations"]
    for mode, found in (("keep all", all_), ("blocks again", again)):
        want = memory.predicted(c, 3, dtype, mode)
        for part in ("parameters", "gradients", "moments"):              # padded to cache lines
            assert want[part] <= found[part] < 1.1 * want[part], part
        assert found["activations"] == want["activations"]
        assert found["workspace"] < 2.5 * want["workspace"]
    assert again["activations"] < 0.4 * all_["activations"]


def test_what_recompute_saves_by_hand(monkeypatch, capsys):
    """40 + 60 and 40 + 10 MiB; the steps of the three rounds take 1.25, 1.5 and 1.2 times as long."""
    shown = {"keep all": ({"parameters": 40 << 20, "gradients": 0, "moments": 0, "activations": 50 << 20,
                           "workspace": 10 << 20}, [4.0, 2.0, 5.0]),
             "mlp again": ({"parameters": 40 << 20, "gradients": 0, "moments": 0, "activations": 5 << 20,
                            "workspace": 5 << 20}, [5.0, 3.0, 6.0])}
    monkeypatch.setattr(memory, "CONFIGS", {"tiny": (SMALL, 1)})
    monkeypatch.setattr(memory, "measure", lambda c, rows, dtype, modes, rounds: shown)
    memory.report("tiny", "float32", list(shown), 3)
    *_, plain, again, less = capsys.readouterr().out.splitlines()
    assert plain.split()[2:] == "40 (0) 0 (0) 0 (0) 50 (0) 10 (0) 100 (0) 4.000".split()
    assert again.split()[2:] == "40 0 0 5 5 50 5.000".split()
    assert less.strip() == "activations 90% less, all 50% less, time +25%"


def test_the_largest_model_is_larger_with_recompute():
    for dtype in ("float32", "bfloat16"):
        plain, again = (memory.largest(16 * GIB, on, dtype) for on in (False, True))
        assert parameters(again) > parameters(plain)
        assert training(plain, 8, 1024, dtype) <= 16 * GIB


def test_the_largest_model_is_trained_in_a_process_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(memory, "largest", lambda *_: GPTConfig(65, 128, 2, 2, 64))
    memory.show_largest([1.5], "float32")
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split()[:3] for row in rows] == [["1.5", "GiB,", "keep"], ["1.5", "GiB,", "blocks"]]
    assert all(0.05 < float(row.split()[-2]) < 1.5 for row in rows), rows


# ------------------------------------------------------------------------------------------------ overhead, curve

def test_what_safety_costs_is_a_line_each(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    shape = dict(vocab_size=65, block_size=16, n_layer=1, n_head=2, n_embd=16)
    monkeypatch.setattr(overhead, "CONFIGS", {"char": (shape, 2)})
    monkeypatch.setattr(overhead, "BLOCK", 0.02)
    assert overhead.main(["--rounds", "3", "--json", "x.json"]) == 0
    said = capsys.readouterr().out
    for what in ("a checkpoint, in all", "of that the copy", "log.jsonl", "picture", "validation of 32,768 tokens",
                 "statistics", "--check_finite"):
        assert what in said, what
    kept = json.loads((tmp_path / "x.json").read_text())
    assert kept["command"] == "python -m bench overhead --rounds 3 --json x.json"
    name, took, every = kept["found"][1]
    assert name.strip() == "of that the copy" and took > 0 and every == 50
    assert f"{1e3 * took:.3f}   {took / 50 / kept['step']:8.3%}, every 50 steps" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.json"]


def test_two_curves_of_one_run(tmp_path, capsys):
    """The losses that PyTorch comes to are those of train.run itself, from the log of a run."""
    pytest.importorskip("torch")
    from train import log, run
    small = dict(n_layer=1, n_head=2, n_embd=16, block_size=16, device_batch=4, tokens_per_step=128, steps=4, warmup=2,
                 tokenizer="char", samples=0, eval_tokens=100, shards=str(tmp_path / "shards"), label_smoothing=0.1,
                 data=str(tmp_path / "text.txt"), dropout=0.0, clip=0.5, betas=[0.9, 0.99])
    (tmp_path / "text.txt").write_text("one two three four five six seven " * 200)
    (tmp_path / "small.yaml").write_text(json.dumps(small))          # JSON is YAML
    assert run.main(["--config", str(tmp_path / "small.yaml"), "--out", str(tmp_path / "run")]) == 0
    want = [e["loss"] for e in log.read(tmp_path / "run" / "log.jsonl") if "loss" in e]
    small["dropout"] = 0.5                                   # is turned off
    (tmp_path / "small.yaml").write_text(json.dumps(small))
    capsys.readouterr()
    assert curve.main(["--config", str(tmp_path / "small.yaml"), "--json", str(tmp_path / "x.json"),
                       "--plot", str(tmp_path / "x.png")]) == 0
    kept = json.loads((tmp_path / "x.json").read_text())
    assert kept["ours"] == want and kept["pytorch"] == pytest.approx(want, rel=1e-5)
    said = capsys.readouterr().out
    assert f"{kept['ours'][3]:10.4f}{kept['pytorch'][3]:10.4f}" in said
    assert f"mean of the last 4: {np.mean(kept['ours']):.4f} and {np.mean(kept['pytorch']):.4f}, apart by " in said
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_curve_shows_the_steps_that_readme_tells_of():
    """The 20th, the last, and the mean of the last hundred, in which one step of three hundred counts little."""
    theirs = [4.0 - n / 100 for n in range(300)]
    ours = [loss * (1 + 1e-7 * min(n, 50) + (0.01 if n == 250 else 0)) for n, loss in enumerate(theirs)]
    said = curve.table(ours, theirs)
    assert [line.split()[0] for line in said.splitlines()[1:-1]] == ["1", "10", "20", "50", "100", "150", "200", "250",
                                                                     "300"]
    assert said.splitlines()[3].split()[-1] == "1.9e-06" and said.splitlines()[-2].split()[-1] == "1.0e-02"
    assert said.splitlines()[-1].startswith("mean of the last 100: ") and said.endswith(", apart by 1.0e-04")


@pytest.mark.parametrize("words, said", [
    ("memory --config b --modes", "--modes: expected at least one"), ("memory --config --largest -1", "got '-1'"),
    ("memory --config --largest nan", "got 'nan'"), ("planted --draws -5 --list", "got '-5'"),
    ("ranks --config --inside 0 0", "--inside: got 0 0"), ("ranks --config --between 1 nan", "--between: got 1 nan"),
    ("ranks --config --gpu_rows 0", "got '0'"),
    ("memory --config", "--config: got none"), ("overhead --config", "--config: expected at least one"),
    ("generate --new 1", "2 or more"), ("planted --list --seed -1", "got '-1'"), ("survive --kills -1", "got '-1'"),
    ("survive --ranks 0", "1 or more")])
def test_what_makes_no_sense_is_refused_before_anything_is_measured(words, said, capsys):
    name, *argv = words.split()
    main = importlib.import_module(f"bench.{name}").main
    with pytest.raises(SystemExit) as e:
        main(argv)
    assert e.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ranks", "survive"])
def test_ranks_are_refused_before_anything_is_measured(name, monkeypatch):
    module = importlib.import_module(f"bench.{name}")
    monkeypatch.setattr("bench.survive.mpiexec", lambda: None)
    with pytest.raises(ValueError, match="--ranks: got no mpiexec.*Hint: pip install"):
        module.main(["--ranks", "2"])
    assert name == "survive" or module.main(["--config", "--models"]) == 0           # predictions need none


def test_a_curve_says_what_is_missing(monkeypatch):
    for have, words, said in ((True, ["--config", "nothing"], "--config: got 'nothing'"),
                              (True, ["--data", "/nonexistent"], "/nonexistent"), (False, [], "pip install torch")):
        monkeypatch.setattr(curve, "HAVE_TORCH", have)
        with pytest.raises(ValueError, match=said):
            curve.main(words)


# ------------------------------------------------------------------------------------------------ planted

def broken(source, operator, finder):
    """The texts that source becomes when it is broken by this operator in each place that is found."""
    return [source[:p.start] + p.new.decode() + source[p.end:] for p in finder("", source.encode()).found
            if p.operator == operator]


@pytest.mark.parametrize("operator, source, want", [
    ("sign", "y = a + b - -c", ["y = a + b + -c", "y = a - b - -c", "y = a + b - c"]),
    ("sign", "y += a", ["y -= a"]),
    ("index", "y = x[1, n + k:]", ["y = x[2, n + k:]", "y = x[0, n + k:]", "y = x[1, n + k - 1:]"]),
    ("index", "for i in range(n): pass", ["for i in range(n - 1): pass"]),
    ("axis", "y = x.sum(-1, keepdims=True)", ["y = x.sum(0, keepdims=True)", "y = x.sum(-1, keepdims=False)"]),
    ("axis", "x.sum(0), x.max(1), x.min(2)", ["x.sum(1), x.max(1), x.min(2)", "x.sum(0), x.max(0), x.min(2)",
                                              "x.sum(0), x.max(1), x.min(-1)"]),
    ("constant", "y = f(2, -1, 0.5, True)", ["y = f(3, -1, 0.5, True)", "y = f(2, 0, 0.5, True)",
                                            "y = f(2, -1, 1.0, True)", "y = f(2, -1, 0.5, False)"]),
    ("comparison", "y = a < b and not c", ["y = a < b or not c", "y = a <= b and not c", "y = a < b and (c)"]),
    ("comparison", "if a: b()", ["if not (a): b()"]),
    ("dropped term", "y = a * b", ["y = a", "y = b"]),
    ("dropped term", "y *= a", ["y = a"]),
    ("removed copy", "y = x.copy(), np.array(x)", ["y = x, np.array(x)"]),
    ("removed statement", "f(x)\nx[0] = 1\nx = 2", ["pass\nx[0] = 1\nx = 2", "f(x)\npass\nx = 2"]),
    ("swapped arguments", "f(a, b, *c) / d", ["d / f(a, b, *c)", "f(b, a, *c) / d"]),
])
def test_python_is_broken(operator, source, want):
    assert broken(source, operator, planted.Finder) == want


@pytest.mark.parametrize("text", ['"""Of 2 things."""', 'raise ValueError(f"got {n + 1}")', "import a.b", "y: list[3]",
                                  "def f(x: int = 3) -> None: pass", "CHUNK = 64", "y = f(hint=2 + x)"])
def test_no_message_and_no_size_of_chunks_is_broken(text):
    assert not planted.Finder("", text.encode()).found


@pytest.mark.parametrize("operator, source, want", [
    ("removed barrier", "__syncthreads(); f(); __syncwarp();", ["; f(); __syncwarp();", "__syncthreads(); f(); ;"]),
    ("removed clear", " a[k] = b[k] = 0.0f; c[k] = 0.5f;", [" ; c[k] = 0.5f;"]),
    ("shuffle", "__shfl_xor_sync(~0u, v, 1)", ["__shfl_xor_sync(~1u, v, 1)", "__shfl_xor_sync(1u, v, 1)"]),
    ("shuffle", "__shfl_xor_sync(0u, v, k)", ["__shfl_xor_sync(0u, v, k, 2)"]),
    ("comparison", "f<T>(i < n << 2)", ["f<T>(i <= n << 2)"]),
    ("comparison", "a == b && c", ["a != b && c", "a == b || c"]),
    ("sign", "x += -a - b", ["x -= -a - b", "x += -a + b", "x += a - b"]),
    ("index", "d[n][2 * e] = 1;", ["d[n + 1][2 * e] = 1;", "d[n - 1][2 * e] = 1;", "d[n][2 * e + 1] = 1;",
                                   "d[n][2 * e - 1] = 1;"]),
    ("index", "float v[PACK], d[N][4] = {}; __shared__ V parts[32]; void f(float (&v)[N][4])", []),
    ("constant", "16 / x * 0.5f, 0x10u, v4, a[2]", ["17 / x * 0.5f, 0x10u, v4, a[2]", "16 / x * 1.0f, 0x10u, v4, a[2]",
                                                  "16 / x * 0.5f, 17u, v4, a[2]"]),
    ("constant", "add_product<true>(d)", ["add_product<false>(d)"]),
    ("dropped condition", "if (f(i) >= n) return;", ["if (false) return;"]),
    ("dropped condition", "if (int i = 0; i < n) x++;", ["if (int i = 0; true) x++;"]),
    ("dropped condition", "x = i + k < n ? a : 0;", ["x = true ? a : 0;"]),
    ("dropped condition", "store(y + i, v, D - i);", ["store(y + i, v, PACK);"]),
    ("dropped condition", "i < min(n, i + PACK);", ["i < n;"]),
    ("swapped arguments", "f(a[1, 2], g(b, c))", ["f(g(b, c), a[1, 2])", "f(a[1, 2], g(c, b))"]),
    ("swapped arguments", "left[2] = {fb[0], fb[1]}", ["left[2] = {fb[1], fb[0]}"]),
    ("swapped arguments", "fmaxf(a, b); void f(float a, int b)", []),
    ("dropped factor", "y = a[i] * scale / D;", ["y = a[i] / D;", "y = a[i] * scale;", "y = scale / D;"]),
])
def test_cuda_is_broken(operator, source, want):
    assert broken(source, operator, planted_cuda.Finder) == want


@pytest.mark.parametrize("text", ["// a + b, 2", "#pragma unroll 4", "template<int N, bool B = true> struct A;",
                                  "constexpr int WIDE = HEAD + PACK;"])
def test_no_result_depends_on_it(text):
    assert not planted_cuda.Finder("", text.encode()).found


def test_every_place_that_is_left_alone_is_there():
    """A pattern that matches nothing was left behind by code that has gone, or that is broken again since it moved."""
    lines = [(path, line.strip()) for path in planted.broken_files()
             for line in planted.read(path).decode().splitlines()]
    for file, pattern, why in planted.EXEMPT:
        assert any(path.startswith(file) and re.search(pattern, line) for path, line in lines), (file, pattern, why)
    text = "\n".join(planted.read(path).decode() for path in planted_cuda.broken_files())
    for pattern, why in planted_cuda.EXEMPT:
        text, n = re.subn(pattern, lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.M)
        assert n, (pattern, why)


def test_a_seed_draws_the_same_bugs_of_every_kind():
    every = planted_cuda.plants()
    drawn = planted.draw(60, 3, every, lambda plant: True)
    assert drawn == planted.draw(60, 3, every, lambda plant: True) != planted.draw(60, 4, every, lambda plant: True)
    assert len(set(drawn)) == 60 and {p.operator for p in drawn} == {p.operator for p in every}
    assert all(p.apply() != planted.read(p.path) for p in every)
    assert {p.path for p in every} == set(planted_cuda.broken_files())
    assert planted.draw(5, 3, every, lambda plant: plant.path.endswith("relu.cu"))[0].path.endswith("relu.cu")


def test_the_tests_of_a_kernel_are_named_after_it():
    assert planted_cuda.stems("minigrad/fused/tiles.cuh") == ["attention", "attention_sm90", "mlp_sm90"]
    assert planted_cuda.stems("minigrad/fused/philox.cuh") == ["attention", "attention_sm90", "dropout"]
    assert planted_cuda.stems("minigrad/fused/relu.cu") == ["relu"] and len(planted_cuda.stems("common.cuh")) > 7


@pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
def test_what_does_not_compile_is_not_planted():
    """Nor what does not where a template is used."""
    path = "minigrad/fused/tiles.cuh"
    at = planted.read(path).index(b"top * v")
    for new, compiles in ((b"top / v", True), (b"top v", False), (b"top.x", False), (b"d[n]", False)):
        assert planted_cuda.compiles_differently(planted.Plant(path, "", at, at + 7, new)) == compiles


def test_a_breakage_is_met_by_the_tests_that_import_its_file():
    near, far = planted.nearest("tok/meter.py", 2)
    assert "test_meter" in near and "test_scan" in far and not set(near) & set(far)
    assert "test_fused_basic" in planted.nearest("minigrad/fused/gelu_cpu.py", 2)[1]             # by way of gelu.py
    assert "train/run.py" in planted.named_in("tests/test_train.py")                             # python -m train.run
    assert not set(planted.NOT_RUN) & set(planted.nearest("train/run.py", 9)[0])
    assert {path.split("/")[0] for path in planted.broken_files()} == {"minigrad", "nn", "gpt", "tok", "train"}
    assert all(planted.nearest(path, planted.REACH) for path in planted.broken_files()), "nobody would notice"


def test_what_was_judged_is_not_judged_again_while_it_cannot_have_changed(tmp_path, monkeypatch):
    file = tmp_path / "judged.jsonl"
    caught, missed = (planted.Plant("nn/optim.py", "constant", at, at + 1, b"7") for at in (40, 50))
    record = planted.Record(file)
    record.add(caught, True, "test_nn", 1.5)
    record.add(missed, False, "nobody", 2.5)
    again = planted.Record(file)
    assert again.find(caught) == (True, "test_nn", 1.5) and again.find(missed) == (False, "nobody", 2.5)
    assert again.find(caught._replace(new=b"8")) is None
    monkeypatch.setattr(planted, "project", lambda: "after an edit")
    changed = planted.Record(file)
    assert changed.find(caught) is changed.find(missed) is None        # the test that noticed may have gone
    monkeypatch.setattr(planted, "read", lambda path: b"another text")
    assert again.find(caught) is None


def test_a_bug_is_judged_in_a_copy(tmp_path, monkeypatch):
    """The one test file of schedule.py that is asked here notices a sign; the sound copy passes and comes back."""
    monkeypatch.setattr(planted, "COPIED", ("minigrad", "nn", "tests", "pyproject.toml"))
    monkeypatch.setattr(planted, "nearest", lambda path, reach: [["test_tiny", "test_broken"]])
    monkeypatch.setattr(planted, "broken_files", lambda: ["nn/schedule.py"])
    sandbox, text = planted.Sandbox(tmp_path), planted.read("nn/schedule.py")
    (sandbox.root / "tests/test_tiny.py").write_text("def test_it():\n    from nn.schedule import cosine_with_warmup\n"
                                                     "    assert cosine_with_warmup(5, 1.0, 0.1, 10, 100) == 0.6\n")
    (sandbox.root / "tests/test_broken.py").write_text("def test_it():\n    assert False\n")
    sign, = (p for p in planted.Finder("nn/schedule.py", text).found if p.operator == "sign" and b"+ 1" in
             text[p.start:p.start + 3])
    noticed, by = sandbox.judge(sign)
    assert noticed and "test_tiny" in by and sandbox.took["test_broken"] is None
    assert (sandbox.root / "nn/schedule.py").read_bytes() == text
    monkeypatch.setattr(planted, "nearest", lambda path, reach: [["test_broken"]])
    assert sandbox.judge(sign) == (False, "nobody")
