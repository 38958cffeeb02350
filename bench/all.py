"""Does README still tell the truth? python -m bench all --short

Runs the commands of bench/claims.py one by one, reads their numbers, and sets each beside the one in README, or in
bench/results/README.md, which goes on where README ends: it holds, it does not, or it was not measured, and why.
--short leaves out what takes long, and stops when 15 minutes are over. What needs PyTorch, a text that has not been
downloaded, or a GPU, is left out where there is none, and that is said. A time is judged on a processor of the kind
that README's were taken on, and only shown on others; there too, a step must take less time than PyTorch's.

Exit status: 1 if a number no longer holds, or if a run fails or says nothing.
"""
import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from bench import turns
from bench.claims import PROCESSOR, ROWS, RUNS, number
from minigrad.jit_cpu import processor

ROOT = Path(__file__).resolve().parents[1]
NEEDS = {
    "torch": (lambda: find_spec("torch"), "pip install torch"),
    "transformers": (lambda: find_spec("transformers"), "pip install transformers"),
    "pytest": (lambda: find_spec("pytest"), "pip install -e '.[test]'"),
    "g++": (lambda: shutil.which("g++"), "a C++ compiler"),
    "tinyshakespeare": (lambda: (ROOT / "runs/downloads/tinyshakespeare.txt").exists(),
                        "python -m train.catalogue tinyshakespeare"),
    "names": (lambda: (ROOT / "runs/downloads/names.txt").exists(), "python -m train.catalogue names"),
}
HOLDS, BROKEN, SKIPPED = "holds", "NO LONGER", "-"


class Verdict(NamedTuple):
    """What became of a claim: one of HOLDS, BROKEN, SKIPPED (not judged); what was measured, in place of
    what (None: it was not); why."""
    row: str
    says: str
    state: str
    measured: float | None
    expected: float | None
    why: str


def judge(row, claim, printed, kind=PROCESSOR):
    """The claim beside what its run has printed on a processor of this kind."""
    found = [number(text) for text in re.findall(claim.find, printed, re.M)]
    if not found:
        return Verdict(row, claim.says, BROKEN, None, claim.expected, f"`{RUNS[claim.run].command}` does not print it")
    measured, t = claim.pick(found), claim.tolerance
    if t.timed and kind != PROCESSOR:
        return Verdict(row, claim.says, SKIPPED, measured, claim.expected, f"a time on {PROCESSOR}; this is {kind}")
    low, high = sorted((t.low * claim.expected, t.high * claim.expected))
    state = HOLDS if low <= measured <= high else BROKEN
    return Verdict(row, claim.says, state, measured, claim.expected, f"from {low:.4g} to {high:.4g}: {t.why}")


def lacking(run, short):
    """Why a run cannot be made here, or ""."""
    missing = [f"needs {name}: {how}" for name in run.needs for have, how in [NEEDS[name]] if not have()]
    return "; ".join(missing + ["takes long: without --short"] * (short and run.long))


def execute(run, folder, seconds):
    """(what it printed, or None; why not)"""
    words = [sys.executable if word == "python" else word
             for word in shlex.split(run.command.format(folder=folder))]
    process = subprocess.Popen(words, cwd=ROOT, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        end(process)
        return None, "the time was over"
    except BaseException:
        end(process)
        raise
    said = re.sub(r"\x1b\[[\d;]*m", "", said).replace("\r", "\n")           # no colours; bars are lines of their own
    if process.returncode:
        last = (said.strip().splitlines() or ["nothing"])[-1]
        return None, f"`{run.command}` ended with {process.returncode}: {last[:200]}"
    return said, ""


def end(process):
    """The process and all that it has started."""
    os.killpg(process.pid, 9)
    process.communicate()


def order(rows, runs, kind):
    """[(key, Run)]: where times are not judged, what has nothing else to tell comes last."""
    judged = {claim.run for row in rows for claim in row.claims if kind == PROCESSOR or not claim.tolerance.timed}
    return sorted(runs.items(), key=lambda item: item[0] not in judged)


def verdicts(rows, runs, short, seconds, say=print):
    """A Verdict for every claim, and for all that is left out; each is said as soon as it is there."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="claims-") as folder:
        for key, run in order(rows, runs, processor()):
            claims = [(row.begins, claim) for row in rows for claim in row.claims if claim.run == key]
            why, left = lacking(run, short), seconds - (time.monotonic() - began)
            printed, failed = None, False
            if not why and left <= 0:
                why = "the time was over"
            elif not why:
                say(f"{time.monotonic() - began:5.0f} s  {run.command}")
                printed, why = execute(run, folder, left)
                failed = printed is None and why != "the time was over"
            for begins, claim in claims:
                if printed is not None:
                    one = judge(begins, claim, printed, processor())
                else:
                    one = Verdict(begins, claim.says, BROKEN if failed else SKIPPED, None, claim.expected, why)
                say(line(one))
                yield one
    for row in rows:
        for says, why in row.left_out.items():
            one = Verdict(row.begins, says, SKIPPED, None, None, why)
            say(line(one))
            yield one


def line(v):
    said = v.says if len(v.says) <= 20 else v.says[:17] + "..."
    measured = "" if v.measured is None else f"{v.measured:.4g} for {v.expected:.4g}"
    return f"{v.state:10} {v.row[:34]:34} {said:>20} {measured:>20}  {v.why}"


def table(rows):
    """Every claim with its command, tolerance and reason, as Markdown."""
    lines = ["| what | README says | command | tolerance |", "|---|---|---|---|"]
    for row in rows:
        for claim in row.claims:
            t, says = claim.tolerance, claim.says or "(of the whole)"
            lines.append(f"| {row.begins} | {says} | `{RUNS[claim.run].command}` | "
                         f"{t.low:g} to {t.high:g} times {claim.expected:.4g}: {t.why} |")
        lines += [f"| {row.begins} | {says} | | not measured: {why} |" for says, why in row.left_out.items()]
    return "\n".join(lines)


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench all", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="in less than 15 minutes")
    parser.add_argument("--list", action="store_true", help="show every claim, its command and its tolerance; run "
                        "nothing")
    parser.add_argument("--only", nargs="+", choices=RUNS, metavar="RUN", default=list(RUNS),
                        help=f"of {', '.join(RUNS)} [all]")
    parser.add_argument("--json", type=turns.in_a_folder, metavar="FILE", help="append a dated line with all verdicts")
    args = parser.parse_args(argv)
    if args.list:
        print(table(ROWS))
        return 0
    busy = turns.begin()
    seconds = 14.5 * 60 if args.short else 1e6
    found = list(verdicts(ROWS, {key: RUNS[key] for key in args.only}, args.short, seconds,
                          lambda text: print(text, flush=True)))
    count = {state: sum(v.state == state for v in found) for state in (HOLDS, BROKEN, SKIPPED)}
    print(f"\n{count[HOLDS]} hold, {count[BROKEN]} no longer do, {count[SKIPPED]} were not judged")
    turns.warn_of(busy)
    for v in found:
        if v.state == BROKEN:
            print(line(v))
    if args.json:
        turns.record(args.json, "all", argv, load=busy, verdicts=[v._asdict() for v in found])
    return 1 if count[BROKEN] else 0
