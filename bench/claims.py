r"""Every number of README and bench/results/README.md: by which command it is measured again, how far it may move.

A Row stands for a line of a table, and begins as the line does. A Claim holds one number of its middle columns,
several that are checked by the same thing, or none: a ratio that two of them are there to say. It has the run that
measures it, a regular expression with a group for the number in what that run prints (of several matches the one that
`pick` takes), and a Tolerance: how many times the number in README it may be, and why; of a time, on a processor of the
kind that README's were measured on only. `value` is what to expect where that is not what README says: milliseconds for
seconds, a shorter run. What no run here can measure is in `left_out`, with the reason. tests/test_claims.py holds this
file to README: no number is missing, and none is here that README does not say.
"""
from typing import NamedTuple


class Run(NamedTuple):
    """A command, what it needs beside the project, and whether it is too long for --short."""
    command: str
    needs: tuple = ()
    long: bool = False


class Tolerance(NamedTuple):
    """From low to high times the number in README. timed: says something about PROCESSOR, and nothing about others."""
    low: float
    high: float
    why: str
    timed: bool = False


class Claim(NamedTuple):
    says: str
    run: str
    find: str
    tolerance: Tolerance
    value: float | None = None
    pick: object = min

    @property
    def expected(self):
        return number(self.says.split()[0]) if self.value is None else self.value


class Row(NamedTuple):
    begins: str
    claims: tuple = ()
    left_out: dict = {}                                      # numbers: why no run measures them


def number(text):
    return float(text.replace(",", ""))


def first(values):
    return values[0]


def last(values):
    return values[-1]


def column(title, n):
    """The n-th number behind a title at the start of a line."""
    return rf"^{title} +" + r"\S+ +" * (n - 1) + r"([\d.]+)"


def power(side, n):
    """The n-th power that bench attention finds for a side."""
    return rf"^{side} +" + r"[\d.]+ ± [\d.-]+ +" * (n - 1) + r"([\d.]+) ±"


PROCESSOR = "znver4"                                         # minigrad/jit_cpu.py: processor()
SAME = Tolerance(0.99, 1.01, "seed and formulas decide it; other processors round other last bits")
EXACT = Tolerance(0.999, 1.001, "counted, not timed")
ROUNDING = Tolerance(0, 10, "the largest of many rounding errors: ten times as much is still rounding")
SPEED = Tolerance(0, 2, "seconds on a shared machine move by a factor of two", timed=True)
THEIRS = Tolerance(0.5, 2, "the same for PyTorch's: far quicker would be news too", timed=True)
SHARE = Tolerance(0.8, 1.25, "a ratio of times that were taken in turns", timed=True)
FASTER = Tolerance(0.8, 9, "a ratio of times that were taken in turns; ours may be faster still", timed=True)
AHEAD = Tolerance(1, 99, "ours is the faster one, whatever the processor")
MEMORY = Tolerance(0.85, 1.15, "what the system gave the process, libraries of other versions included")
PERCENT = Tolerance(0.9, 1.1, "a rounded percentage of counted bytes")
CHANCE = Tolerance(0, 3, "how far two runs part once they have parted is chance")
ROUNDED = Tolerance(0.96, 1.04, "float32's loss after as few steps, where two roundings were 2 % apart")
POWER = Tolerance(0.85, 1.15, "the slope of a line through few points, the shortest of which cost a call")
TIMED = Tolerance(0.4, 1.6, "a difference of times: few percent of what moves by many", timed=True)
TINY = Tolerance(0, 4, "a share of a thousandth, of times on a shared machine")
SPREAD = Tolerance(0.9, 1.1, "other processors round other last bits, and a fit through 81 losses leans on them")
DRAWN = Tolerance(0.85, 1.15, "300 couplets: chance moves 49 % by 3, other last bits write others")
OTHER = Tolerance(0.95, 2, "other code has other places to break")
PASSES = Tolerance(1, float("inf"), "the tests ask for it: at least one ran, and none failed")
NONE = Tolerance(0, 1, "it must not be more")
COST = Tolerance(0, 5, "a difference of seconds on a shared machine; a cost is not less than nothing", timed=True)

COUNTS = r"^\| L\(N, D\), coupled, 1,048,576 tokens and more \| "
COUPLED = COUNTS + r"\d+ at \d+ \| "
FLOAT32, BF16 = "ours float32", "ours bfloat16"
ANY, PLAIN = r"PyTorch [\w+-]+", "PyTorch (?:eager|compile)"              # of any dtype; in float32; both untuned
TUNED, TUNED32 = r"PyTorch [\w+-]+, tuned", "PyTorch (?:eager|compile), tuned"
FEW = "--rounds 2 --steps 2"

RUNS = {                    # in this order, but for order() of bench/all.py; --short ends when its time is over
    "import": Run("python -m pytest -q -s tests/test_structure.py -k blink", ("pytest",)),
    "verse": Run("python -m train.run --out {folder}/verse"),
    "couplets": Run("python -m bench verse {folder}/verse"),
    "gradients": Run("python -m bench ops --gradcheck"),
    "step": Run(f"python -m bench step --modes all {FEW}", ("torch",)),
    "survive": Run("python -m bench survive --short"),
    "start": Run("python -m bench start --rounds 1", ("torch",)),
    "attention": Run("python -m bench attention --short --out {folder}/attention"),
    "ladder": Run("python -m bench ladder"),
    "char": Run("python -m bench step --config char --modes all --rounds 2 --steps 1", ("torch",)),
    "torch": Run("python -m pytest -q -s tests/test_against_torch.py", ("pytest", "torch")),
    "weights": Run("python -m pytest -q tests/test_pretrained.py tests/test_text.py",
                   ("pytest", "torch", "transformers")),
    "bfloat16": Run("python -m train.run --out {folder}/bf16 --steps 300 --dtype bfloat16"),
    "shakespeare": Run("python -m train.run --config shakespeare-char --out {folder}/chars", ("tinyshakespeare",)),
    "scaling": Run("python -m bench scaling --quick --rounds 2"),
    "memory": Run("python -m bench memory --config char --rounds 2"),
    "generate": Run("python -m bench generate --batches 1 --lengths 128 --rounds 1", ("torch", "transformers")),
    "neighbour": Run(f"python -m bench step --neighbour {FEW}", ("torch",)),
    "overhead": Run("python -m bench overhead --rounds 4"),
    "curve": Run("python -m bench curve --config shakespeare-char --data README.md --steps 20", ("torch",)),
    "damaged": Run("python -m pytest -q tests/test_tok_fuzz.py", ("pytest",)),
    "words": Run("python -m tok analyse runs/downloads/tinyshakespeare.txt", ("tinyshakespeare",)),
    "gpt2": Run("python -m bench step --config gpt2 --modes all", ("torch",), long=True),
    "generate all": Run("python -m bench generate --run {folder}/verse", ("torch", "transformers"), long=True),
    "memory gpt2": Run("python -m bench memory --config gpt2", long=True),
    "memory bfloat16": Run("python -m bench memory --dtype bfloat16", long=True),
    "largest": Run("python -m bench memory --config --largest 4 16", long=True),
    "curve in full": Run("python -m bench curve", ("torch", "tinyshakespeare"), long=True),
    "names": Run("python -m gpt.makemore runs/downloads/names.txt --model all", ("names",), long=True),
    "laws": Run("python -m bench scaling-laws --out {folder}/laws", long=True),
    "planted": Run("python -m bench planted --draws 100 --seed 67", long=True),
    "planted cuda": Run("python -m bench planted --cuda --draws 60 --seed 47", ("g++",), long=True),
}
HINDI = "needs a folder of Hindi prose and verse that is not part of the project: the row's command"
GPU = "needs an NVIDIA GPU: python -m bench gpu"


def steps(run, unit=1.0):
    """(numbers, title, column, tolerance) -> Claim, about the table that a run of bench step prints."""
    def claim(says, title, n, tolerance):
        return Claim(says, run, column(title, n), tolerance, number(says.split()[0]) * unit)
    return claim


def faster(run, float32, any_dtype):
    """Claims about the ratios of PyTorch's best time to ours: what README's times are there to say."""
    for what, (theirs, ours) in {"float32": float32, "any dtype": any_dtype}.items():
        find = rf"^best PyTorch / ours, {what}: ([\d.]+)"
        yield from (Claim("", run, find, FASTER, theirs / ours), Claim("", run, find, AHEAD, 1))


def recompute(run, mode, pick=first, **says):
    """Claims about a mode of bench memory: percent of activations and of all less, and of time more."""
    shown = {"activations": r"activations (\d+)% less", "all": r"all (\d+)% less", "time": r"time ([+-]\d+)%"}
    for what, percent in says.items():
        yield Claim(percent, run, rf"^{mode}.*\n.*{shown[what]}", TIMED if what == "time" else PERCENT, pick=pick)


def written(says, rows, title):
    """A claim about tokens per second of bench generate."""
    run, pick = ("generate", first) if rows == 1 else ("generate all", last)
    return Claim(says, run, column(title, 1), SPEED._replace(low=0.5, high=3), pick=pick)


def read(says, title, rows, length):
    """A claim about milliseconds for a prompt."""
    run = "generate" if (rows, length) == (1, 128) else "generate all"
    return Claim(says, run, rf"^{title} +{rows} +{length} +([\d.]+)", SPEED if "ours" in title else THEIRS)


b, beside, char, gpt2 = steps("step"), steps("neighbour"), steps("char"), steps("gpt2", 1e3)
gpt2_mb = steps("gpt2")

ROWS = (
    Row("0.8 M parameters (4 layers", (
        b("31", FLOAT32, 1, SPEED), b("48", PLAIN, 1, THEIRS), b("49", TUNED32, 1, THEIRS),
        b("21", BF16, 1, SPEED), b("48", ANY, 1, THEIRS), b("49", TUNED, 1, THEIRS),
        b("199", FLOAT32, 6, MEMORY), b("376", PLAIN, 6, MEMORY), *faster("step", (48, 31), (48, 21)))),
    Row("6 layers of width 384, context", (
        char("1614", FLOAT32, 1, SPEED), char("2005", PLAIN, 1, THEIRS), char("2144", TUNED32, 1, THEIRS),
        char("871", BF16, 1, SPEED), char("1276", ANY, 1, THEIRS), char("1249", TUNED, 1, THEIRS),
        char("793", FLOAT32, 6, MEMORY), char("1233", PLAIN, 6, MEMORY), *faster("char", (2005, 1614), (1276, 871)))),
    Row("GPT-2 124M, context 256", (
        gpt2("4.3", FLOAT32, 1, SPEED), gpt2("6.3", PLAIN, 1, THEIRS), gpt2("5.6", TUNED32, 1, THEIRS),
        gpt2("2.2", BF16, 1, SPEED), gpt2("3.4", ANY, 1, THEIRS), gpt2("2.8", TUNED, 1, THEIRS),
        gpt2_mb("2632", FLOAT32, 6, MEMORY), gpt2_mb("3112", PLAIN, 6, MEMORY),
        *faster("gpt2", (6.3, 4.3), (3.4, 2.2)))),
    Row("Hindi couplets", (
        Claim("41.7", "verse", r"([\d.]+) bits per couplet; the source", SAME),
        Claim("38.0", "verse", r"composed them needs ([\d.]+):", EXACT._replace(low=0.998, high=1.002)),
        Claim("9.8", "verse", r"a gap of ([\d.]+)%", SAME._replace(low=0.9, high=1.1)),
        Claim("29,000", "verse", r"steps of 1,040 tokens, (\d+) s in this process", SPEED, 4200 * 1040 / 29_000),
    ), {"3": "minutes, of which 29,000 tokens/s are two and a half; compiling has a row of its own"}),
    Row("what that model writes", (
        Claim("83", "couplets", r"^in meter +([\d.]+)%", DRAWN),
        Claim("71", "couplets", r"^in rhyme +([\d.]+)%", DRAWN),
        Claim("49", "couplets", r"^the grammar's own +([\d.]+)%", DRAWN))),
    Row("tinyshakespeare by characters", (
        Claim("1.81", "shakespeare", r"^validation loss ([\d.]+) nats", SAME),
        Claim("75", "shakespeare", r"tokens, (\d+) s in this process", SPEED),
    ), {"1.90 1.89": "the same run with --lr 1e-3, and with another seed", "1.88": "in nanoGPT's README"}),
    Row("trained in 16 bits", (
        Claim("41.7 41.7", "bfloat16", r"([\d.]+) bits per couplet; the source", ROUNDED, 69.35),
    ), {"1.81 1.81": "bfloat16 and float32 of the Shakespeare run, as the row says",
        "41.7": "float16 takes 20 minutes on a CPU"}),
    Row("GPT-2 124M on one H200", (),
        {"630,000 104 54 2.11 539,000 415,000 21.8 34.9 71.6": GPU}),
    Row("every gradient", (
        Claim("439", "gradients", r"^(\d+) cases", EXACT),
        Claim("8.1e-10", "gradients", r"the worst is ([\d.e-]+)", ROUNDING))),
    Row("the same GPT-2 in PyTorch", (
        Claim("4.4e-16", "torch", r"float64, .* by ([\d.e-]+) at most", ROUNDING, pick=max),
        Claim("2.2e-7", "torch", r"float32, .* by ([\d.e-]+) at most", ROUNDING, pick=max))),
    Row("released and exported weights", (
        Claim("5.2e-6 7.2e-6 3.0e-6 4.7e-6", "weights", r"\b(\d+) passed", PASSES, 1),)),
    Row("every block computed again", (
        *recompute("memory", "blocks again", activations="87", all="46", time="24"),
        *recompute("memory gpt2", "blocks again", activations="89", all="14", time="16"))),
    Row("new tokens per second", (
        written("62", 1, FLOAT32), written("21", 1, "transformers float32"), written("113", 1, BF16),
        written("28", 1, "transformers bfloat16"), written("195", 1, "ours int8"),
        written("324", 8, FLOAT32), written("80", 8, "transformers float32"), written("417", 8, BF16),
        written("163", 8, "transformers bfloat16"), written("621", 8, "ours int8"))),
    Row("kills and damage: 200 times", (Claim("0.5", "survive", r"^stops.*?([\d.]+) s", SPEED),)),
    Row("tokens per word of Hindi (prose", (), {"32,000 1.19 1.20 4,096 1.52 1.52 4,096 2.98 2.98": HINDI}),
    Row("training a tokenizer", (), {"1.1 6.2 5.3": HINDI}),
    Row("the ids of GPT-2 for the same", (), {"43 59 12 16 0.8": HINDI}),
    Row("Hindi verse: padas", (), {"97.6 16,738 78.8 2,082 97.8 12 13 98.0 148 95.3 738 21.4 29.2": HINDI}),
    Row("Hindi poetry: 6.9 M", (), {"92.0 96.9 21.4 75.7 76.3 8.8 62 97 16 1.18 1.36": HINDI}),
    Row("bugs drawn at random from all", (
        Claim("90 100", "planted", r"^seed 67: (\d+) of", OTHER),), {"67": "the seed"}),
    Row("from the start of a process", (
        Claim("1.0", "start", column("ours, cached kernels, first step", 1), SPEED),
        Claim("2.9", "start", column("PyTorch eager, first step", 1), THEIRS),
        Claim("1.5", "start", column("import torch", 1), THEIRS),
        Claim("32", "start", r"that the step needs: ([\d.]+) s", SPEED))),

    # bench/results/README.md
    Row("one GPT by scalars", (Claim("3.3e-16", "ladder", r"difference of the losses: ([\d.e-]+)", ROUNDING),)),
    Row("nanoGPT's Shakespeare setting", (
        Claim("4.26", "curve in full", r"^ +1 +([\d.]+)", SAME),
        Claim("1.66", "curve in full", r"^ +300 +([\d.]+)", SAME._replace(low=0.97, high=1.03)),
        Claim("4e-7 20", "curve in full", r"^ +20 .* ([\d.e-]+)$", ROUNDING, 4e-7),
        Claim("", "curve", r"^ +20 .* ([\d.e-]+)$", ROUNDING._replace(why="another model, the same rounding"), 4e-7),
        Claim("1.4", "curve in full", r"^ +300 .* ([\d.e-]+)$", CHANCE, 0.014),
        Claim("0.03", "curve in full", r"^mean of the last 100: .* apart by ([\d.e-]+)$", CHANCE, 3e-4),
    )),
    Row("scaling laws", (
        Claim("1.4", "laws", COUPLED + r".* ([\d.]+) %", SPREAD),
        Claim("0.733", "laws", COUPLED + r"([\d.]+) ", SPREAD),
        Claim("70", "laws", COUPLED + r".*, D ([\d.]+) of", Tolerance(0.6, 1.35, SPREAD.why), 0.70),
        Claim("30", "laws", COUPLED + r".*, D [\d.]+ of ([\d.]+)", SPREAD, 0.30),
        Claim("34", "laws", COUNTS + r"(\d+) at", EXACT), Claim("20", "laws", COUNTS + r"\d+ at (\d+)", EXACT),
    ), {"95 0.711 0.785": "of the bootstrap; what it is there to hold is the entropy, which the output says"}),
    Row("32,033 names", tuple(
        Claim(says, "names", column(model, 4), SAME)         # the column of the test text
        for model, says in (("bigram", "2.45"), ("mlp", "2.11"), ("wavenet", "1.98"), ("rnn", "2.00"), ("gru", "1.95"),
                            ("transformer", "1.94"))) + (
        Claim("12,097", "names", column("mlp", 1).replace(r"[\d.]+", r"[\d,]+"), EXACT),
        Claim("76,579", "names", column("wavenet", 1).replace(r"[\d.]+", r"[\d,]+"), EXACT),
    ), {"2.45 2.17 1.99": "the lectures'", "8": "a size", "12 50 30 90 7": "seconds and minutes of the same run"}),
    Row("a training step of 0.8 M parameters beside", (
        beside("59", FLOAT32, 1, SPEED), beside("158", PLAIN, 1, THEIRS),
        beside("41", BF16, 1, SPEED), beside("125", ANY, 1, THEIRS), *faster("neighbour", (158, 59), (125, 41)))),
    Row("a step of 0.8 M parameters, and one", (),
        {"60 73 70 2938 3438 3072": "of a znver3; here, or on any other, the rows above ask who is ahead"}),
    Row("the matrix products alone", (
        char("101", FLOAT32, 4, SHARE), gpt2_mb("105", FLOAT32, 4, SHARE),
        char("88", BF16, 4, SHARE), gpt2_mb("101", BF16, 4, SHARE),
    ), {"6 384": "sizes", "101": "floors of the step in one table: our products beside torch.matmul's"}),
    Row("time per token", (
        Claim("0.88", "scaling", r"^(?:context|width|layers).* ([\d.]+)$", SHARE),
        Claim("1.17", "scaling", r"^(?:context|width|layers).* ([\d.]+)$", SHARE, pick=max))),
    Row("attention, 2 heads of 64", (
        Claim("1.99", "attention", power("flash", 1), POWER),
        Claim("1.03", "attention", power("flash", 2), POWER),
        Claim("2.03", "attention", power("naive", 1), POWER),
        Claim("1.93", "attention", power("naive", 2), POWER),
    ), {"0.02 0.02 0.04 0.03": "how far points lie from their line, which the load decides",
        "1.12 1.20 0.20 0.38": "from the points of the same run, at more lengths than --short has"}),
    Row("new tokens of GPT-2 124M", (
        Claim("93", "generate", rf"^{BF16} +\S+ +\S+ +\S+ +([\d.]+)%", SHARE),
        Claim("", "generate", rf"^{FLOAT32} +\S+ +\S+ +\S+ +([\d.]+)%", SHARE._replace(low=0.75), 100),
        Claim("0.01", "generate all", r"^(?:bfloat16|int8) .*[+-]([\d.]+) %", NONE, pick=max),
    ), {"32 50 0.8": "how fast the memory is, of two processes of one day: bench/LOG.md, generation"}),
    Row("what `import minigrad` adds", (
        Claim("0.014", "import", r"adds ([\d.]+) s to import numpy", SPEED),
        Claim("", "import", r"\b(\d+) passed", PASSES, 1))),
    *(Row(begins, tuple(read(says, title, rows, length) for says, (rows, length) in
                        zip(cells.split(), ((1, 128), (1, 512), (8, 128), (8, 512)), strict=True)))
      for begins, title, cells in (
          ("ours, float32", FLOAT32, "274 804 1499 5653"),
          ("transformers, float32", "transformers float32", "381 1223 2195 12470"),
          ("products, float32", "products float32", "287 773 1288 5282"),
          ("ours, bfloat16", BF16, "154 441 701 2857"),
          ("transformers, bfloat16", "transformers bfloat16", "158 635 992 5040"))),
    Row("memory of a step in bfloat16", (char("577", BF16, 6, MEMORY), char("971", ANY, 6, MEMORY))),
    Row("the same of GPT-2 124M", (gpt2_mb("2548", BF16, 6, MEMORY), gpt2_mb("3036", ANY, 6, MEMORY))),
    Row("recompute, 6 layers", (
        *recompute("memory bfloat16", "blocks again", activations="86", time="23"),
        *recompute("memory bfloat16", "blocks again", last, activations="88", time="15"),
        *recompute("memory", "attention again", activations="29", all="19", time="9"),
        *recompute("memory gpt2", "attention again", activations="30", all="5", time="6"),
    ), {"1": "tests/test_sizes.py asks for it"}),
    Row("the largest GPT-2", tuple(
        Claim(says, "largest", rf"^ *{gib} GiB, {mode} +\d+ +\d+ +(\d+)", EXACT)
        for says, gib, mode in (("82", 4, "keep all"), ("181", 4, "blocks again"), ("459", 16, "keep all"),
                                ("851", 16, "blocks again"))),
        {"4 16": "sizes", "2": "stands in the same table: predicted and measured"}),
    Row("what safety costs", (
        Claim("0.5", "overhead", r"^a checkpoint, in all +\S+ +(-?[\d.]+)%", COST),
        Claim("9", "overhead", r"of that the copy +([\d.]+)", SPEED),
        Claim("0.001", "overhead", r"^a line of log.jsonl +\S+ +([\d.]+)%", TINY),
        Claim("0.03", "overhead", r"^the same with TensorBoard +\S+ +([\d.]+)%", TINY),
        Claim("1.0", "overhead", r"^a validation.* +([\d.]+)%", SPEED),
        Claim("1", "overhead", r"^a picture.* +([\d.]+)% at most", NONE),
        Claim("0.03", "overhead", r"^statistics.* +([\d.]+)%", TINY),
        Claim("10", "overhead", r"^looking at every op.* +(-?[\d.]+)%", COST._replace(high=3)),
    ), {"50 32,768 250 50": "settings"}),
    Row("kills and damage, beside", (), {"30 2 0.1": "bench survive --ranks 2, which needs mpi4py and mpich"}),
    Row("damaged and made-up", (Claim("", "damaged", r"\b(\d+) passed", PASSES, 1),)),
    Row("bugs drawn at random from the CUDA", (
        Claim("59 60", "planted cuda", r"^seed 47: (\d+) of", OTHER),
        Claim("44", "planted cuda", r"(\d+) of them as a fault", OTHER))),
    Row("tokens per word of Hindi, the", (), {"28,364 1.22 1.22 0.003 8,000": HINDI}),
    Row("tokens per word of tinyshakespeare", (
        Claim("1.50", "words", r"^bpe:4096 +in sample +\S+ +([\d.]+)", SAME),
        Claim("1.60", "words", r"^bpe:4096 +held out +\S+ +([\d.]+)", SAME),
        Claim("1.32", "words", r"^bpe\S* +in sample +\S+ +([\d.]+)", SAME),
        Claim("1.45", "words", r"^bpe\S* +held out +\S+ +([\d.]+)", SAME),
    ), {"4,096 12,086": "sizes"}),
    Row("the ids of GPT-2 for Hindi prose", (), {"50 102 19 21 1.5 490 799 2628 9": HINDI}),
    Row("the ids of GPT-2 for tinyshakespeare", (), {
        "26 40 12 14 1.3 41 51 19 20 2.5": "needs GPT-2's encoder.json and vocab.bpe: the row's command"}),
    Row("stanzas whose meter", (), {"959 92.6 1,041 15 20,000 5": HINDI}),
)
