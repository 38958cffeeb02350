"""Everything that only a card can tell, in one command: is it right, how fast is it, and what does PyTorch make of it?

    kernels     every CUDA kernel against float64; ceilings of the card; each op beside its floor and PyTorch's op
    train       a training step of three models, ours and PyTorch's eager and compiled, and both curves of losses
    generate    new tokens at batch 1 and 32; milliseconds until the logits of a prompt are there

Results are kept in FOLDER/gpu-CARD-DATE.json, and as tables beside it, after every entry: a crash or the end of the
time costs one entry. Another part on the same day goes into the same files, and the same part with the same --only
takes the place of its last run. What an entry cannot do is written down, and the run goes on; the exit status is 1 if
anything was wrong or failed, and 2 without a GPU.

--rehearse goes through all of it on a CPU, with models of a few thousand parameters, the CUDA kernels in the emulator
and a stand-in for CuPy. It shows that everything runs; its times mean nothing.
"""
import argparse
import itertools
import json
import math
import re
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import gpu_generate, gpu_kernels, gpu_report, gpu_train, turns
from bench.gpu_sides import FULL, SHORT, Failed, Side, described, promised
from gpt.presets import PRESETS
from minigrad.emulator import emulator
from tok.base import write_text

HERE = Path(__file__).parent
TINY = dict(vocab_size=61, block_size=16, n_layer=1, n_head=2, n_embd=32)


@dataclass(frozen=True)
class Plan:
    """How large and how often."""
    pace: object
    sizes: dict             # {preset: sizes of its model} for training
    writers: dict           # sizes of the model that writes
    checked: tuple          # (sizes, batch) at which rows are checked
    batches: tuple          # of rows in training, the most first
    rows: dict              # {preset: rows} for those that are measured at one batch only
    writes: tuple           # (batch, new tokens)
    reads: tuple            # (batch, length of the prompt)
    repeats: int            # of a prompt in a turn
    copy: int               # bytes of the copy
    side: int               # of the square product
    rounds: int             # turns of each side
    steps: int              # of training in a turn
    curve: tuple            # rows, and steps in each of two turns, of the curves by dtype


WHOLE = Plan(
    pace=FULL, sizes={name: gpu_train.sizes_of(name) for name in ("gpt2", "gpt2-medium", "char")},
    writers=PRESETS["gpt2"], checked=({**PRESETS["gpt2"], "n_layer": 1, "block_size": 1000}, 2),
    batches=(64, 32, 16, 8, 4), rows={"gpt2-medium": 16, "char": 64}, writes=((1, 256), (32, 256)),
    reads=((1, 128), (1, 512), (8, 128), (8, 512)), repeats=20, copy=1 << 30, side=8192, rounds=5, steps=10,
    curve=(16, 24))
REHEARSAL = Plan(
    pace=SHORT, sizes=dict.fromkeys(WHOLE.sizes, TINY), writers={**TINY, "block_size": 32},
    checked=({**TINY, "block_size": 9}, 2), batches=(2,), rows={"gpt2-medium": 2, "char": 2},
    writes=((1, 3), (2, 3)), reads=((1, 5), (2, 5)), repeats=1, copy=1 << 12, side=32, rounds=1, steps=2,
    curve=(2, 2))


class Part:
    """What the entries of a part share. known: what parts before it found out about the card, {} or the entry of
    ceilings()."""

    def __init__(self, plan, about, seconds, most=120, rehearse=False, known=None):
        self.plan, self.about, self.torch, self.rehearse = plan, about, turns.HAVE_TORCH, rehearse
        self.end, self.most = time.monotonic() + seconds, most           # most: seconds that one answer may take
        self.known = {} if known is None else known

    left = property(lambda self: self.end - time.monotonic())

    @property
    def ceilings(self):
        """Bytes (copy) and operations (by dtype) a second, by whoever gets most. Without one a floor is 0."""
        rates = self.known.get("rates", {})
        return {what: max((r for name, r in rates.items() if name.endswith(what)), default=math.inf)
                for what in ("copy", *gpu_kernels.DTYPES)}

    def desk(self, makers):
        return Desk({name: maker for name, maker in makers.items() if self.torch or name.startswith("ours")}, self)


class Desk:
    """Sides by name, {name: (make, settings)}; each begins when it is first needed, and again after it has failed."""

    def __init__(self, makers, part):
        self.makers, self.part, self.sides = makers, part, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for side in self.sides.values():
            side.close()

    def begin(self, names):
        for name in names:
            if name not in self.sides or not self.sides[name].alive:
                self.sides[name] = Side(name, *self.makers[name], self.part.rehearse)

    def ask(self, name, method, *args):
        self.begin([name])
        try:
            return self.sides[name].ask(method, *args, patience=min(self.part.left, self.part.most))
        except Failed as e:
            if e.kind == "time" and name.startswith("ours") and self.part.left > 1:
                e.kind = "failed"                            # a kernel that hangs; PyTorch may compile for long
            raise

    def turns(self, calls, rounds):
        """({title: answers}, {title: Failed}) of {title: (side, method, *args)}, in turns. There is one round more, the
        first, which compiles. Whoever fails is asked no more; what the end of the time leaves may be enough."""
        answers, failed = {title: [] for title in calls}, {}
        self.begin(side for side, *_ in calls.values())
        for _ in range(1 + rounds):
            for title, call in calls.items():
                if title not in failed:
                    try:
                        answers[title].append(self.ask(*call))
                    except Failed as e:
                        failed[title] = e
        failed = {title: e for title, e in failed.items() if e.kind != "time" or len(answers[title]) < 2}
        return {title: found for title, found in answers.items() if title not in failed}, failed


def problems(failed):
    """What an entry says of sides that failed."""
    kinds = {e.kind for e in failed.values()}
    return {"failed": {title: {"kind": e.kind, "text": str(e)} for title, e in failed.items()},
            "status": next((kind for kind in ("failed", "time", "memory") if kind in kinds), "ok")}


# ---------------------------------------------- entries: (name, what to do), where doing it gives the facts to be kept

def multipliers(plan):
    return {"ours": (gpu_kernels.Kernels, dict(sizes=plan.sizes["gpt2"], checked=plan.checked, pace=plan.pace)),
            "PyTorch": (gpu_kernels.TorchKernels, dict(sizes=plan.sizes["gpt2"], pace=plan.pace))}


def ceilings(part):
    """The first entry of every part: bytes and operations a second that the card is capable of. Measured once in a
    run."""
    if part.known:
        return part.known
    plan, rates, failed = part.plan, {}, {}
    wanted = {"copy": (2 * plan.copy, "copy", plan.copy)}
    wanted |= {dtype: (2 * plan.side ** 3, "product", plan.side, dtype) for dtype in gpu_kernels.DTYPES}
    with part.desk(multipliers(plan)) as desk:
        for side, (what, (amount, *call)) in itertools.product(desk.makers, wanted.items()):
            try:
                rates[f"{side} {what}"] = amount / turns.quartiles(desk.ask(side, *call))[1]
            except Failed as e:
                failed[f"{side} {what}"] = e
    part.known.update({"what": "ceilings", "rates": rates, **problems(failed)})
    return part.known


def kernels(part):
    plan, seed, sizes = part.plan, secrets.randbits(32), part.plan.sizes["gpt2"]
    batch = gpu_kernels.batch_for(sizes, part.about["free"], plan.batches[0])
    tables = {dtype: gpu_kernels.rows(sizes, batch, dtype) for dtype in gpu_kernels.DTYPES}
    with part.desk(multipliers(plan)) as desk:
        for op in gpu_kernels.names():
            yield f"{op}, its cases", partial(cases, desk, op, seed)
        for dtype, rows in tables.items():
            for name in rows:
                for title, how in gpu_kernels.our_ways(name, dtype, part.about["hopper"]).items():
                    yield f"{name} {dtype}, {title} checked", partial(check, desk, name, dtype, seed, how)
        for dtype, rows in tables.items():
            for name, row in rows.items():
                yield f"{name} {dtype}", partial(times, desk, name, row, batch, dtype)


def cases(desk, op, seed):
    found = desk.ask("ours", "cases", op, seed)
    right = all(error <= gpu_kernels.TOLERANCE[dtype] for dtype, (_, error, _) in found.items())
    return {"what": "cases", "op": op, "seed": seed, "found": found, "status": "ok" if right else "wrong"}


def check(desk, name, dtype, seed, how):
    errors, limit = desk.ask("ours", "check", name, dtype, seed, how), gpu_kernels.TOLERANCE[dtype]
    return {"what": "check", "row": f"{name} by {how}" if how else name, "dtype": dtype, "seed": seed,
            "errors": errors, "limit": limit, "status": "ok" if all(e <= limit for e in errors) else "wrong"}


def times(desk, name, row, batch, dtype):
    part, ours = desk.part, gpu_kernels.our_ways(name, dtype, desk.part.about["hopper"])
    calls = {title: ("ours", "time", name, batch, dtype, how) for title, how in ours.items()}
    if part.torch:
        ways = {"PyTorch": ""} if part.rehearse else gpu_kernels.ways(name, dtype)
        calls |= {title: ("PyTorch", "time", name, batch, dtype, how) for title, how in ways.items()}
    found, failed = desk.turns(calls, 1)                     # the first counts too: it warms up by itself
    sides = {title: [turns.quartiles([s for answer in answers for s in answer[i]]) for i in range(len(row.phases))]
             for title, answers in found.items()}
    floors = [gpu_kernels.floor(row, i, part.ceilings["copy"], part.ceilings[dtype]) for i in range(len(row.phases))]
    by_bytes = [least and least == moved / part.ceilings["copy"] for least, moved in zip(floors, row.moved)]
    copies, lacking = desk.turns({f"a copy for {phase}": ("ours", "copy", moved // 2)
                                  for phase, moved, by in zip(row.phases, row.moved, by_bytes) if by}, 0)
    copied = [turns.quartiles(copies[title][0])[1] if (title := f"a copy for {phase}") in copies else None
              for phase in row.phases]
    return {"what": "time", "row": name, "dtype": dtype, "shapes": gpu_kernels.shapes(row), "phases": row.phases,
            "moved": row.moved, "flops": row.flops[:len(row.phases)], "sides": sides,
            **problems(failed | lacking), "expected": gpu_kernels.EXPECTED[name][0], "floor": floors, "copied": copied}


def train(part):
    """What compiles takes long: the one that matters most comes first, the others at the end."""
    (most, *fewer), rows = part.plan.batches, part.plan.rows
    eager, compiled, graphs = ["ours", "PyTorch eager"], ["PyTorch compile"], ["ours by graph", "PyTorch by graph"]
    cudnn = ["PyTorch compile, cuDNN"]
    todo = [("gpt2", "bfloat16", most, eager + compiled + cudnn), ("gpt2", "float16", most, eager),
            ("char", "bfloat16", rows["char"], eager + graphs[:1] + compiled),
            ("gpt2-medium", "bfloat16", rows["gpt2-medium"], eager)]
    todo += [("gpt2", "bfloat16", batch, eager) for batch in fewer]
    todo += [(preset, "float16", batch, eager) for preset, batch in rows.items()]
    todo += [("char", "bfloat16", rows["char"], ["ours"] + graphs)]
    if part.torch:
        todo += [("gpt2", "bfloat16", batch, ["ours"] + compiled) for batch in fewer[:1]]
        todo += [("gpt2-medium", "bfloat16", rows["gpt2-medium"], ["ours"] + compiled),
                 ("gpt2", "float16", most, ["ours"] + compiled),
                 ("gpt2", "bfloat16", most, ["ours", "PyTorch max-autotune"])]
    for i, (preset, dtype, batch, names) in enumerate(todo):
        if i == 2:
            yield "curves of gpt2", partial(curves, part)
        names = [name for name in names if part.torch or name.startswith("ours")]
        yield f"{preset} {dtype} {batch} rows: {', '.join(names)}", partial(step, part, preset, dtype, batch, names)


def step(part, preset, dtype, batch, names):
    sizes, plan = part.plan.sizes[preset], part.plan
    makers = {name: (make, dict(sizes=sizes, batch=batch, dtype=dtype, **more))
              for name, (make, more) in gpu_train.SIDES.items() if name in names}
    with part.desk(makers) as desk:
        found, failed = desk.turns({name: (name, "turn", 1, plan.steps) for name in names}, plan.rounds)
    sides = {}
    for title, answers in found.items():
        quartiles = turns.quartiles([s for seconds, _, _ in answers[1:] for s in seconds])
        sides[title] = {"seconds": quartiles, "held": max(held for _, _, held in answers),
                        "losses": [loss for _, losses, _ in answers for loss in losses],
                        **gpu_train.rates(sizes, batch, quartiles[1], part.ceilings[dtype],
                                          promised(part.about["card"]))}
    return {"what": "train", "preset": preset, "dtype": dtype, "batch": batch, "block_size": sizes["block_size"],
            "sides": sides, **problems(failed)}


def curves(part):
    """Losses of the same model on the same batches, in every dtype, beside PyTorch's."""
    rows, steps = part.plan.curve
    makers = {name: (make, dict(sizes=part.plan.sizes["gpt2"], batch=rows, **more))
              for name, (make, more) in gpu_train.CURVES.items()}
    with part.desk(makers) as desk:
        found, failed = desk.turns({name: (name, "turn", 1, steps) for name in desk.makers}, 1)
    losses = {name: [loss for _, losses, _ in answers for loss in losses] for name, answers in found.items()}
    return {"what": "curves", "batch": rows, "losses": losses, "apart": gpu_train.apart(losses) if losses else {},
            **problems(failed)}


def generate(part):
    plan, sizes = part.plan, part.plan.writers
    for dtype in ("bfloat16", "float32"):
        makers = {name: (make, dict(sizes=sizes, dtype=dtype, **more))
                  for name, (make, more) in gpu_generate.SIDES.items()}
        with part.desk(makers) as desk:
            for batch, new in plan.writes:
                yield f"write {dtype} {batch} x {new}", partial(write, desk, sizes, dtype, batch, new)
            for batch, length in plan.reads:
                yield f"read {dtype} {batch} x {length}", partial(read, desk, sizes, dtype, batch, length)


def write(desk, sizes, dtype, batch, new):
    found, failed = desk.turns({name: (name, "write", batch, new) for name in desk.makers}, 3)
    sides, texts = {}, {name: answers[-1].ids for name, answers in found.items()}
    for name, answers in found.items():
        first, rest, host = (turns.quartiles([getattr(text, what) for text in answers[1:]])
                             for what in ("first", "rest", "host"))
        sides[name] = {"first": first, "rest": rest, "host": host, "tokens_per_s": batch / rest[1],
                       "as_ours": gpu_generate.agreement(texts["ours"], texts[name]) if "ours" in texts else None}
    return {"what": "write", "dtype": dtype, "batch": batch, "new": new, "sides": sides, **problems(failed),
            "floor": gpu_generate.writing_floor(sizes, dtype, batch, new, desk.part.ceilings["copy"])}


def read(desk, sizes, dtype, batch, length):
    call = "read", batch, length, desk.part.plan.repeats
    found, failed = desk.turns({name: (name, *call) for name in desk.makers}, 3)
    seconds = {name: turns.quartiles([s for answer in answers[1:] for s in answer]) for name, answers in found.items()}
    return {"what": "read", "dtype": dtype, "batch": batch, "length": length, "sides": seconds, **problems(failed),
            "floor": gpu_generate.reading_floor(sizes, batch, length, desk.part.ceilings[dtype])}


PARTS = {"kernels": (kernels, 100), "train": (train, 300), "generate": (generate, 150)}     # and seconds of one answer


# --------------------------------------------------------------------------------------------------------- the files

class Results:
    """The two files of a card and a day."""

    def __init__(self, folder, about):
        name = "".join(c if c.isalnum() else "-" for c in about["card"].removeprefix("NVIDIA ")).strip("-").lower()
        self.json = Path(folder, f"gpu-{name}-{time.strftime('%Y-%m-%d')}.json")
        self.data = {"card": about["card"], "parts": {}}
        if self.json.exists():
            self.data = json.loads(self.json.read_text(encoding="utf-8"))

    def begin(self, part, only="", **about):
        """What was found of the part before stays until something of it is found again: a run that is stopped too early
        has ceilings to show, and what it left out."""
        self.entries, self.name = [], f"{part}, only {only}" if only else part
        self.part = {"began": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **about, "entries": self.entries}

    def add(self, entry):
        self.entries.append(entry)
        new = entry["name"] != "ceilings" and entry["status"] != "left out"
        if new or self.name not in self.data["parts"]:
            self.data["parts"][self.name] = self.part
        write_text(self.json, json.dumps(self.data, indent=1) + "\n")      # before a table that may fail
        write_text(self.json.with_suffix(".md"), gpu_report.markdown(self.data) + "\n")


def commit():
    """Of the checkout that this is, if it is one."""
    try:
        return subprocess.run(["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True,
                              timeout=10).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


# ------------------------------------------------------------------------------------------------------- the command

def attempted(name, work, part):
    """The entry that comes of it, whatever happens."""
    began = time.monotonic()
    if part.left < 5:
        return {"name": name, "status": "left out"}
    try:
        entry = {"status": "ok", **work()}
    except Exception as e:                                   # the run goes on, whatever it was
        failed = e if isinstance(e, Failed) else Failed("failed", described(e))
        entry = problems({"ours": failed})
    return {"name": name, **entry, "spent": round(time.monotonic() - began, 2)}


def measure(name, part, results, only):
    """All entries of a part, each kept and shown as soon as it is there. True if nothing was wrong or failed."""
    began, good, todo = time.monotonic(), True, PARTS[name][0](part)
    for title, work in itertools.chain([("ceilings", partial(ceilings, part))], todo):
        if title != "ceilings" and not re.search(only, title):
            continue
        entry = attempted(title, work, part)
        results.add(entry)
        good &= entry["status"] not in ("wrong", "failed")
        print(f"[{time.monotonic() - began:4.0f} s] {gpu_report.line(entry)}", flush=True)
    todo.close()
    return good


def pattern(text):
    try:
        return re.compile(text)
    except re.error as e:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {e}") from None


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append", help="may be repeated; default: all of them")
    parser.add_argument("--seconds", type=turns.positive, default=440, help="that a part may take [440]")
    parser.add_argument("--out", metavar="FOLDER", help="default: bench/results")
    parser.add_argument("--only", metavar="PATTERN", type=pattern, default="",
                        help='those entries in whose name this regular expression is found, as "bfloat16$"')
    parser.add_argument("--rehearse", action="store_true", help="without a GPU, on tiny models: does it all run?")
    parser.add_argument("--predict", action="store_true", help="only print what each kernel is expected to take on an "
                        "H100 with the ceilings given in bench/gpu_log.md")
    args = parser.parse_args(argv)
    if args.predict:
        print(*gpu_report.predictions(), sep="\n")
        return 0
    if args.rehearse and not emulator.available():
        print(f"bench gpu --rehearse: {emulator.NO_COMPILER}", file=sys.stderr)
        return 2
    folder = Path(args.out or (tempfile.mkdtemp(prefix="bench-gpu-") if args.rehearse else HERE / "results"))
    folder.mkdir(parents=True, exist_ok=True)
    plan, good = REHEARSAL if args.rehearse else WHOLE, True
    try:
        about = introduced(plan, args.rehearse)
    except Failed as e:
        print(f"bench gpu: {e}", file=sys.stderr)
        return 2
    if args.rehearse:
        print("A rehearsal: no GPU, tiny models, emulated kernels. No time that it prints means anything.")
    print(gpu_report.about(about))
    if not turns.HAVE_TORCH:
        print("PyTorch is left out, because it is not installed here. To compare with it: pip install torch")
    results, known = Results(folder, about), {}
    for name in args.part or PARTS:
        part = Part(plan, about, args.seconds, PARTS[name][1], args.rehearse, known)
        results.begin(name, args.only and args.only.pattern, commit=commit(), about=about,
                      command=" ".join(["python -m bench gpu", *argv]))
        good &= measure(name, part, results, args.only)
    print(f"\n{results.json.with_suffix('.md')} and {results.json.name}")
    return 0 if good else 1


def introduced(plan, rehearse):
    """What the card says of itself, and PyTorch of itself; asked in processes that end at once."""
    part = Part(plan, None, seconds=120, rehearse=rehearse)
    with part.desk(multipliers(plan)) as desk:
        about = desk.ask("ours", "about")
        try:
            return about | (desk.ask("PyTorch", "about") if part.torch else {})
        except Failed as e:
            return about | {"torch": str(e)}
