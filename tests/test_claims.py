"""bench/claims.py covers README's tables number by number, and bench/all.py tells what holds from what does not."""
import json
import re
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from bench import all as everything
from bench import step
from bench.all import BROKEN, HOLDS, NEEDS, SKIPPED, execute, judge, lacking, line, main, order, table, verdicts
from bench.claims import (
    AHEAD,
    ANY,
    EXACT,
    PASSES,
    PLAIN,
    PROCESSOR,
    ROWS,
    RUNS,
    SAME,
    SPEED,
    TUNED,
    TUNED32,
    Claim,
    Row,
    Run,
    Tolerance,
    column,
    faster,
    last,
)

ROOT = Path(__file__).parent.parent
PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "bench/results/README.md")]
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?!\w)")      # not the 2 of GPT-2, not that of int8


def told():
    """[(what, numbers of the columns between, command)] of the tables that end in a column of commands."""
    found, inside = [], False
    for text in "\n".join(PAGES).splitlines():
        cells = [cell.strip() for cell in text.strip("| ").split(" | ")] if text.startswith("| ") else []
        if cells[-1:] == ["command"]:
            inside = True
        elif inside and cells:
            plain = re.sub("`[^`]*`", "", " ".join(cells[1:-1]))
            found.append((cells[0], [n.rstrip(",") for n in NUMBER.findall(plain)], cells[-1]))
        elif not text.startswith("|"):
            inside = False
    return found


TOLD = told()


def test_the_tables_are_found():
    assert len(TOLD) > 40 and [numbers[:2] for what, numbers, _ in TOLD if what.startswith("Hindi couplets")] == [
        ["41.7", "38.0"]]


def test_only_tables_with_commands_have_numbers_to_be_measured():
    """The reading order is the only other one, and tells of files."""
    others = PAGES[0].split("## What it shows")[0]
    assert not [line for line in others.splitlines() if line.startswith("| `") and re.search(r" \d+\.\d", line)]


def test_every_row_has_its_claims_and_no_claim_is_of_another():
    assert [row.begins for row, (what, *_) in zip(ROWS, TOLD, strict=True) if not what.startswith(row.begins)] == []


@pytest.mark.parametrize("row, told", list(zip(ROWS, TOLD)), ids=lambda x: x.begins if isinstance(x, Row) else "")
def test_every_number_is_covered_once(row, told):
    says = " ".join([*(claim.says for claim in row.claims), *row.left_out]).split()
    assert Counter(says) == Counter(told[1])


def test_commands_are_those_that_are_told():
    """What a claim runs is the program that its row names, if in a shorter form."""
    named = {}
    for row, (_, _, command) in zip(ROWS, TOLD):
        named[row.begins] = command
        for claim in row.claims:
            words = RUNS[claim.run].command.split()
            words = words[words.index("-m") + 1:]
            head = " ".join(words[:2] if words[0] == "bench" else words[:1])
            if "step" in words and "--modes all" in command:     # or ours is ahead of fewer than README says
                assert "--modes all" in RUNS[claim.run].command, row.begins
            assert head in command or "the two trainings above" in command and head == "train.run", row.begins


def test_runs_and_claims_belong_together():
    used = {claim.run for row in ROWS for claim in row.claims}
    assert used == set(RUNS) and all(need in NEEDS for run in RUNS.values() for need in run.needs)
    for row in ROWS:
        assert row.claims or row.left_out
        for claim in row.claims:
            assert re.compile(claim.find, re.M).groups == 1, claim
            t = claim.tolerance
            assert t.low < t.high and len(t.why) > 10, claim
            low, high = sorted((t.low * claim.expected, t.high * claim.expected))
            assert low <= claim.expected <= high, claim                  # what README says passes
        assert all(len(why) > 3 for why in row.left_out.values())


def test_every_mode_of_pytorch_is_one_that_is_read():
    """And none by the wrong name: what a plus sign hides is a mode that ours need not beat."""
    kinds = {ANY: {}, TUNED: step.TUNED, PLAIN: {}, TUNED32: step.TUNED}
    for kind, env in kinds.items():
        for mode, title in step.TITLES.items():
            wanted = (mode not in step.OURS and step.MODES[mode][2] == env
                      and (kind in (ANY, TUNED) or step.dtype_of(mode) == "float32"))
            assert bool(re.findall(column(kind, 1), f"{title:26}     50.0     49.0", re.M)) == wanted, (kind, title)


PRINTED = {       # run: (what it prints, as it looks there; {number in README: what is measured})
    "verse": ("4,200 steps of 1,040 tokens, 150 s in this process\nvalidation loss 1.1 nats per token, perplexity 3\n"
              "41.73 bits per couplet; the source that composed them needs 38.01: a gap of 9.9%\n",
              {"41.7": 41.73, "38.0": 38.01, "9.8": 9.9, "29,000": 150}),
    "step": ("ours float32               33.1     31.0     24000       63%     1.02      199       0    4.17  0.0e+00\n"
             "ours bfloat16              22.0     21.0     36000       60%     1.02      190       0    4.17  1.0e-04\n"
             "PyTorch eager              50.0     49.0     15000       40%     2.90      376       9    4.17  0.0e+00\n"
             "PyTorch bf16               55.0     49.0     15000       40%     2.90      380       9    4.17  0.0e+00\n"
             "PyTorch eager, tuned       51.0     49.0     15000       40%     2.90      376       9    4.17  0.0\n"
             "best PyTorch / ours, float32: 1.52 (PyTorch eager 50.0 ms, ours float32 33.1 ms in the same rounds)\n",
             {"31": 33.1, "21": 22.0, "199": 199, "376": 376, "": 1.52}),
    "start": ("import torch                               1.40    1.30\n"
              "ours, cached kernels, first step           1.10    1.00\n"
              "PyTorch eager, first step                  3.00    2.90\n"
              "compiling all kernels that the step needs: 31.5 s, once\n",
              {"1.0": 1.1, "2.9": 3.0, "1.5": 1.4, "32": 31.5}),
    "memory": ("keep all     41    (41)  583   (615)  0.764\n"
               "attention again       41   475             0.833\n"
               "                activations 29% less, all 19% less, time +9%\n"
               "blocks again         41    (41)  0.953\n"
               "                activations 87% less, all 46% less, time +24%\n",
               {"87": 87, "46": 46, "24": 24, "29": 29, "19": 19, "9": 9}),
    "scaling": ("context T    64      0.0312      0.0300    1.04\nwidth C     128      0.0312      0.0300    0.90\n"
                "layers L      2      0.0312      0.0300    1.15\n", {"0.88": 0.9, "1.17": 1.15}),
    "generate": ("ours float32                  60.0      16.00     16.00      100%           2.90x      20.0     600\n"
                 "ours bfloat16                110.0       9.00      8.00       92%           4.00x      20.0     600\n"
                 "transformers float32          20.0      48.00                                        99.0    1200\n"
                 "ours float32                 1     128     270.0         466\n",
                 {"62": 60, "113": 110, "93": 92, "": 100, "21": 20, "274": 270}),
    "names": ("bigram              729   2.4540   2.4570   2.4530       2.45      0.1\n"
              "mlp              12,097   2.0540   2.0970   2.1130       2.17      0.2\n",
              {"2.45": 2.453, "2.11": 2.113, "12,097": 12_097}),
    "overhead": ("a checkpoint, in all                       200.000     0.500%, every 50 steps\n"
                 "    of that the copy                         8.000     0.022%, every 50 steps\n"
                 "a line of log.jsonl                          0.010     0.001%, every step\n"
                 "a picture of 5,000 steps                    90.000     1.000% at most\n"
                 "looking at every op (--check_finite)        80.000   10.000%, every step\n",
                 {"0.5": 0.5, "9": 8, "0.001": 0.001, "1": 1, "10": 10}),
    "torch": (".float64, GPT-2: a loss differs by 4.4e-16 at most\n.float64, GPT-1: a loss differs by 6.1e-16 at most\n"
              ".float32, GPT-2: a loss differs by 2.3e-07 at most\n", {"4.4e-16": 6.1e-16, "2.2e-7": 2.3e-7}),
    "import": ("import minigrad adds 0.016 s to import numpy\n.\n1 passed\n", {"0.014": 0.016, "": 1}),
    "curve in full": ("     1    4.2600    4.2600                     1.0e-08\n"
                      "    20    3.0000    3.0000                     4.1e-07\n"
                      "   300    1.6600    1.6600                     1.4e-02\n"
                      "mean of the last 100: 1.7501 and 1.7506, apart by 2.9e-04\n",
                      {"4.26": 4.26, "4e-7 20": 4.1e-7, "1.66": 1.66, "1.4": 0.014, "0.03": 2.9e-4}),
    "words": ("measure:   0%|          | 0/2\n"
              "bpe:4096               in sample        4,096       1.499          0.870     0.000\n"
              "bpe                    in sample       12,086       1.320          0.870     0.000\n",
              {"1.50": 1.499, "1.32": 1.32}),
}


@pytest.mark.parametrize("run", PRINTED)
def test_numbers_are_read_from_what_runs_print(run):
    printed, expected = PRINTED[run]
    claims = {}
    for claim in (claim for row in ROWS for claim in row.claims if claim.run == run):
        claims.setdefault(claim.says, claim)
    for says, measured in expected.items():
        one = judge("row", claims[says], printed)
        assert (one.measured, one.state) == (measured, HOLDS), one


def test_what_no_longer_holds_is_told_from_what_does():
    claim = Claim("42.0", "verse", r"loss ([\d.]+)", SAME)
    assert judge("r", claim, "loss 42.1").state == HOLDS
    for printed in ("loss 42.5", "loss 41.5", "gain 42.0", ""):
        assert judge("r", claim, printed).state == BROKEN
    assert judge("r", claim._replace(pick=last), "loss 50\nloss 42.0").state == HOLDS
    assert judge("r", claim._replace(pick=max), "loss 50\nloss 42.0").measured == 50
    below = Claim("0.5", "verse", column("x", 2), Tolerance(-9, 5, "a difference of times"))
    assert judge("r", below, "x  1 -0.1").measured is None and judge("r", below, "x  1 0.1").state == HOLDS
    assert judge("r", Claim("", "verse", r"(\d+) passed", PASSES, 1), "3 passed").state == HOLDS


@pytest.mark.parametrize("says", ["0.5", "10"])
def test_a_cost_that_is_less_than_nothing_does_not_hold(says):
    claim = next(c for row in ROWS for c in row.claims if c.run == "overhead" and c.says == says)
    lines = ("a checkpoint, in all   -99.0   -4.400%, every 50 steps\n"
             "looking at every op (--check_finite)   -99.0   -9.900%, every step\n")
    assert judge("r", claim, lines).state == BROKEN
    assert judge("r", claim, lines.replace("-4.400", "0.400").replace("-9.900", "9.900")).state == HOLDS


def test_times_are_judged_on_one_kind_of_processor():
    time, counted = Claim("10", "step", r"([\d.]+) ms", SPEED), Claim("10", "step", r"([\d.]+) MB", EXACT)
    assert judge("r", time, "30 ms", PROCESSOR).state == BROKEN
    other = judge("r", time, "30 ms", "z80")
    assert (other.state, other.measured) == (SKIPPED, 30) and "z80" in other.why and PROCESSOR in other.why
    rate = judge("r", time._replace(says="29,000", value=150), "280 ms", "z80")
    assert "29,000 " in line(rate) and " 280 for 150 " in line(rate)             # README's unit, and the run's
    assert judge("r", time, "nothing", "z80").state == judge("r", counted, "30 MB", "z80").state == BROKEN
    ahead = [c for c in faster("step", (48, 31), (48, 21)) if c.tolerance is AHEAD]
    assert [judge("r", c, "best PyTorch / ours, float32: 0.97 (", "z80").state for c in ahead[:1]] == [BROKEN]


def test_what_only_tells_times_comes_last_where_they_are_not_judged():
    claims = Claim("1", "times", "", SPEED), Claim("1", "both", "", SPEED), Claim("1", "both", "", EXACT)
    rows, runs = [Row("r", claims)], {key: Run(key) for key in ("times", "both", "none")}
    assert [key for key, _ in order(rows, runs, PROCESSOR)] == ["times", "both", "none"]
    assert [key for key, _ in order(rows, runs, "z80")] == ["both", "times", "none"]
    after = [key for key, _ in order(ROWS, RUNS, "z80")]
    assert after.index("verse") < after.index("generate all") and after.index("attention") < after.index("start")


def of(command, **kind):
    """Rows and runs for a command that is not README's."""
    claims = Claim("5", "one", r"is ([\d.]+)", SAME), Claim("6", "one", r"or ([\d.]+)", SAME)
    return [Row("a row", claims, {"7": "no clock"})], {"one": Run(command, **kind)}


def states(rows, runs, short=True, seconds=60.0):
    said = []
    found = list(verdicts(rows, runs, short, seconds, said.append))
    assert len(said) >= len(found)
    return [(v.says, v.state, v.measured) for v in found], [v.why for v in found]


def test_every_claim_gets_a_verdict():
    printing = "python -c \"print('it is 5.01 or\\x1b[1m 9\\x1b[0m')\""
    found, _ = states(*of(printing))
    assert found == [("5", HOLDS, 5.01), ("6", BROKEN, 9), ("7", SKIPPED, None)]
    found, why = states(*of("python -c \"raise SystemExit('no such thing')\""))
    assert [s for _, s, _ in found] == [BROKEN, BROKEN, SKIPPED] and "no such thing" in why[0]
    found, why = states(*of("python -c pass", needs=("torch",), long=True))
    assert found[0][1] == SKIPPED and "without --short" in why[0]


def test_the_time_ends_and_so_does_what_runs():
    began = time.monotonic()
    child = "subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    sleeping = f'python -c "import subprocess, sys; {child}"'
    found, why = states(*of(sleeping), seconds=1.0)
    assert [s for _, s, _ in found] == [SKIPPED] * 3 and "time was over" in why[0] and time.monotonic() - began < 30
    found, why = states(*of("python -c 1/0"), seconds=0.0)
    assert "time was over" in why[0]


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(NEEDS, "torch", (lambda: None, "pip install torch"))
    assert lacking(Run("x", ("torch",)), True) == "needs torch: pip install torch"
    monkeypatch.setitem(NEEDS, "torch", (lambda: True, "pip install torch"))
    assert lacking(Run("x", ("torch",)), True) == "" == lacking(Run("x", long=True), False)


def test_the_command_lists_judges_and_keeps(monkeypatch, tmp_path, capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert listed.strip() == table(ROWS) and all(row.begins in listed for row in ROWS)
    rows, runs = of("python -c \"print('is 5 or 6')\"")
    monkeypatch.setattr(everything, "ROWS", rows)
    monkeypatch.setattr(everything, "RUNS", runs)
    file = tmp_path / "all.jsonl"
    assert main(["--short", "--json", str(file)]) == 0
    assert "2 hold, 0 no longer do, 1 were not" in capsys.readouterr().out
    assert [v["state"] for v in json.loads(file.read_text())["verdicts"]] == [HOLDS, HOLDS, SKIPPED]
    runs["one"] = Run("python -c \"print('is 5 or 7')\"")
    assert main([]) == 1 and "1 no longer do" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--only", "nothing"])


def test_a_run_gets_a_folder_and_this_python(tmp_path):
    said, why = execute(Run("python -c \"import sys; print(sys.executable, '{folder}')\""), tmp_path, 60)
    assert said.split() == [sys.executable, str(tmp_path)] and not why
