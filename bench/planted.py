"""Does anybody notice? Break the code in one random place, run the tests, repeat.

Places are drawn from the syntax trees of all packages but bench: first a kind of breakage (sign, index, axis, constant,
comparison, dropped term, removed copy, removed statement, swapped arguments), then one of all the places where it can
be done. Each is planted in a copy of the project, whose tests run until the first failure. Which tests: those that
import the broken file, then those that import a file that does. A test that crashes or never ends has noticed too. What
nobody noticed is listed at the end, for a person to judge: a gap in the tests, or no change in meaning?

What was judged is kept in --out, and not judged again while it cannot have changed: a run that was stopped goes on.

--cuda draws from the CUDA kernels instead (planted_cuda.py), which the emulator runs.

Not drawn, because no result depends on it (EXEMPT) or because nothing here could notice: messages, annotations and
docstrings; estimates of work and sizes of chunks; what only a GPU runs. PyTorch's opinion is not asked.

Ends with 1 if fewer than 90 % are noticed, or 95 % of those in CUDA.
"""
import argparse
import ast
import functools
import hashlib
import importlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.turns import count, positive
from minigrad.check import expect

ROOT = Path(__file__).resolve().parents[1]
expect((ROOT / "tests").is_dir(), "planted", "no folder tests", "a clone of the project", "they are what should notice")
sys.path.append(str(ROOT / "tests"))
from reference_data import DATA  # noqa: E402  (tests is no package)

CODE = ("minigrad/*.py", "minigrad/ops/*.py", "minigrad/fused/*.py", "nn/*.py", "gpt/*.py", "tok/*.py", "train/*.py")
COPIED = ("minigrad", "nn", "gpt", "tok", "train", "bench", "tests", "pyproject.toml")
PACKAGES = ("minigrad", "nn", "gpt", "tok", "train", "bench")

NOT_RUN = ("test_against_torch", "test_notebooks", "test_readme", "test_structure")    # PyTorch; what is not copied
LONGEST = 600        # seconds that a test file may take as it is
REACH = 2            # from a test to the broken file, in imports
WANTED = 0.9         # the share of all that is to be noticed: some of the rest changes no meaning

# Lines on which nothing is planted: (file, pattern, why).
EXEMPT = [
    ("", r"on_gpu|cupy|NO_GPU|nvidia|\"gpu\"", "runs on a GPU only"),
    ("", r"^(SMALL|CHUNKS?|PIECE|ALIGN|KEEP|FAST|INLINE|MODES|STEP)\b", "a size of pieces, or a compiler's flag"),
    ("", r"prefetch|^return types\..*, generate$", "hints for the processor, and for Numba"),
    ("", r"\bbar\.update\(|mininterval", "a progress bar"),
    ("", r"@intrinsic|@overload|@functools|fastmath|ContextVar\(", "a flag, a cache, a label"),
    ("minigrad/pool.py", r"sched_getaffinity", "who does which part"),
    ("minigrad/pool.py", r"mallopt|libc|sys\.platform", "where memory comes from"),
    ("minigrad/openblas_cpu.py", r"glob\.glob|\bstep = max|64_", "where OpenBLAS lies, a size of pieces"),
    ("minigrad/fork_cpu.py", r"^(SPIN|OFFERS|TAKEN|AGAIN|CROWD)\b", "how long somebody waits"),
    ("minigrad/math_cpu.py", r"^x = .* if x [<>]", "a clamp: at its end both sides are the same"),
    ("", r"s\[0\]\.copy|control\[NORM\]\.copy", "on a GPU, what one has read would change when it is written"),
    ("minigrad/backend.py", r"resource|ru_maxrss|sys\.platform|total_bytes", "statistics of memory"),
    ("minigrad/kernels.py", r"environ", "read at import"),
    ("minigrad/jit_cpu.py", r"", "where compiled code is kept"),
    ("minigrad/tensor.py", r"^NOBODY = ", "nobody reads the place of nobody's gradient"),
    ("minigrad/ops/index.py", r"if all\(i is None", "chooses between two ways to the same sum"),
    ("", r"__name__|__doc__|\bprint\(", "a label, or what a program shows"),
    ("", r"rmtree|\.unlink\(", "done wrongly, it could harm more than the copy"),
    ("", r"\b(ax|axes|axis|plt|figure|panel)(\[[^\]]*\])?\.|savefig|matplotlib", "the looks of a picture"),
    ("", r"textwrap\.(fill|wrap)\(", "where the lines of a message end"),
    ("", r"parser\.|add_argument|metavar=", "what a command says about itself"),
]
NEUTRAL_KEYWORDS = {"copy", "hint", "help", "default", "description", "prog", "name", "stacklevel", "strict", "daemon"}
SWAPPED = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
           ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in"}
AXIS_METHODS = {"sum", "mean", "max", "min", "any", "all", "cumsum", "cumprod", "prod", "argmax", "swapaxes",
                "moveaxis", "concatenate", "stack", "expand_dims", "flip", "squeeze", "take_along_axis", "array_split"}


@functools.cache
def read(path):
    """The bytes of a file as they were when they were first asked for, whoever edits it meanwhile."""
    return (ROOT / path).read_bytes()


class Plant(NamedTuple):
    """In the bytes of path, put new in the place of [start, end)."""
    path: str
    operator: str
    start: int
    end: int
    new: bytes

    def apply(self):
        """The whole file, broken."""
        source = read(self.path)
        return source[:self.start] + self.new + source[self.end:]

    def show(self):
        """file:line, and the lines before and after."""
        source, after = read(self.path), self.apply()
        first = source.rfind(b"\n", 0, self.start) + 1
        old = source[first:source.find(b"\n", self.end)].decode()
        new = after[first:after.find(b"\n", self.start + len(self.new))].decode()
        line = source.count(b"\n", 0, self.start) + 1
        return f"{self.path}:{line} [{self.operator}]\n" + "\n".join(
            f"  {sign} {' '.join(text.split())}" for sign, text in (("-", old), ("+", new)))


class Finder(ast.NodeVisitor):
    """Collects every Plant of one file."""

    def __init__(self, path, source):
        self.path, self.source, self.found = path, source, []
        lines = source.split(b"\n")
        self.starts = np.cumsum([0] + [len(line) + 1 for line in lines])
        self.exempt = {n for n, line in enumerate(lines, 1) for file, pattern, _ in EXEMPT
                       if path.startswith(file) and re.search(pattern, line.decode().strip())}
        self.visit(ast.parse(source))

    def span(self, node):
        return (int(self.starts[node.lineno - 1]) + node.col_offset,
                int(self.starts[node.end_lineno - 1]) + node.end_col_offset)

    def text(self, node):
        start, end = self.span(node)
        return self.source[start:end]

    def plant(self, operator, node, new):
        """Replace node (or the bytes between two positions) by new."""
        start, end = self.span(node) if isinstance(node, ast.AST) else node
        new = new if isinstance(new, bytes) else str(new).encode()
        if self.source.count(b"\n", 0, start) + 1 not in self.exempt and self.source[start:end] != new:
            self.found.append(Plant(self.path, operator, start, end, new))

    def between(self, operator, left, right, old, new):
        """Replace the operator symbol that stands between two nodes."""
        start, end = self.span(left)[1], self.span(right)[0]
        at = self.source.find(old, start, end)
        if at >= 0:
            self.plant(operator, (at, at + len(old)), new)

    # what is left alone

    def visit_FunctionDef(self, node):
        if node.name != "__repr__":
            for statement in node.body:                      # not the decorators, nor defaults and annotations
                self.visit(statement)

    def visit_AnnAssign(self, node):
        if node.value is not None:
            self.visit(node.value)

    def visit_JoinedStr(self, node):
        pass

    visit_Import = visit_ImportFrom = visit_Raise = visit_Assert = visit_JoinedStr

    # what is broken

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call):
            self.plant("removed statement", node, "pass")
        self.generic_visit(node)

    def visit_Assign(self, node):
        if any(isinstance(t, (ast.Subscript, ast.Attribute)) for t in node.targets):
            self.plant("removed statement", node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        self.plant("removed statement", node, "pass")
        for old, new in ((b"+=", b"-="), (b"-=", b"+=")):
            self.between("sign", node.target, node.value, old, new)
        for old in (b"+=", b"*="):
            self.between("dropped term", node.target, node.value, old, b"=")
        self.generic_visit(node)

    def visit_Continue(self, node):
        self.plant("removed statement", node, "pass")

    def visit_BinOp(self, node):
        if isinstance(node.op, (ast.Add, ast.Sub)):
            old, new = (b"+", b"-") if isinstance(node.op, ast.Add) else (b"-", b"+")
            self.between("sign", node.left, node.right, old, new)
        if isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
            self.plant("dropped term", node, self.text(node.left))
            self.plant("dropped term", node, self.text(node.right))
        if isinstance(node.op, (ast.Sub, ast.Div, ast.Pow, ast.MatMult, ast.FloorDiv, ast.Mod)):
            start, end = self.span(node.left)[1], self.span(node.right)[0]
            self.plant("swapped arguments", node, self.text(node.right) + self.source[start:end] + self.text(node.left))
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        if isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
            self.plant("sign", node, self.text(node.operand))
        elif isinstance(node.op, ast.Not):
            self.plant("comparison", node, b"(" + self.text(node.operand) + b")")
        if not (isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)):
            self.generic_visit(node)
        elif isinstance(node.operand.value, (int, float)):
            self.plant("constant", node, -node.operand.value + 1)

    def visit_Compare(self, node):
        if len(node.ops) == 1 and type(node.ops[0]) in SWAPPED:
            left, right = node.left, node.comparators[0]
            self.plant("comparison", (self.span(left)[1], self.span(right)[0]), f" {SWAPPED[type(node.ops[0])]} ")
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        old, new = (b" and ", b" or ") if isinstance(node.op, ast.And) else (b" or ", b" and ")
        self.between("comparison", node.values[0], node.values[1], old, new)
        self.generic_visit(node)

    def visit_IfExp(self, node):
        self.plant("comparison", node.test, b"not (" + self.text(node.test) + b")")
        self.generic_visit(node)

    def visit_If(self, node):
        self.plant("comparison", node.test, b"not (" + self.text(node.test) + b")")
        self.generic_visit(node)

    def visit_Subscript(self, node):
        for part in ast.walk(node.slice):
            if isinstance(part, ast.Constant) and type(part.value) is int:
                self.plant("index", part, part.value + 1)
                self.plant("index", part, part.value - 1)
            elif isinstance(part, ast.Slice):
                for bound in (part.lower, part.upper):
                    if isinstance(bound, (ast.Name, ast.BinOp)):
                        self.plant("index", bound, self.text(bound) + b" - 1")
            elif isinstance(part, ast.Name) and part.id in "ijknhdt" and self.path.endswith("_cpu.py"):
                self.plant("index", part, part.id + " - 1")
        self.visit(node.value)

    def visit_Call(self, node):
        called = self.text(node.func).decode()
        method = called.split(".")[-1]
        args = node.args
        if called == "expect":                               # the message may say what it likes
            args = args[:1]
        elif called == "pool.each":                          # (kernel, n, work, *args): work is an estimate
            args = args[:2] + args[3:]
        elif method == "range" and len(args) == 1:
            self.plant("index", args[0], self.text(args[0]) + b" - 1")
        elif method == "copy" and not args:
            self.plant("removed copy", node, self.text(node.func)[:-len(".copy")])
        for a, b in zip(args, args[1:]):
            starred = isinstance(a, ast.Starred) or isinstance(b, ast.Starred)
            if not starred and called != "pool.each" and method != "swapaxes":       # swapaxes is symmetric
                start, end = self.span(a)[0], self.span(b)[1]
                middle = self.source[self.span(a)[1]:self.span(b)[0]]
                self.plant("swapped arguments", (start, end), self.text(b) + middle + self.text(a))
        for a in [*args, *(k.value for k in node.keywords if k.arg in ("axis", "axes"))]:
            axis = method in AXIS_METHODS and isinstance(node.func, ast.Attribute) or a not in args
            value = a.operand.value if isinstance(a, ast.UnaryOp) and isinstance(a.operand, ast.Constant) else \
                a.value if isinstance(a, ast.Constant) else None
            if axis and type(value) is int:
                self.plant("axis", a, {"-1": b"0", "-2": b"-1", "0": b"1", "1": b"0"}.get(self.text(a).decode(), b"-1"))
            elif a in args:
                self.visit(a)
        for k in node.keywords:
            if k.arg == "keepdims" and isinstance(k.value, ast.Constant):
                self.plant("axis", k.value, not k.value.value)
            elif k.arg not in NEUTRAL_KEYWORDS | {"axis", "axes"}:
                self.visit(k.value)
        self.visit(node.func)

    def visit_Constant(self, node):
        if type(node.value) is bool:
            self.plant("constant", node, not node.value)
        elif type(node.value) is int:
            self.plant("constant", node, node.value + 1)
        elif type(node.value) is float:
            self.plant("constant", node, node.value * 2 or 1.0)


@functools.cache
def broken_files():
    """The files in which things are broken."""
    return [str(path.relative_to(ROOT)) for pattern in CODE for path in sorted(ROOT.glob(pattern))
            if path.name not in ("__init__.py", "gpu.py") and not path.name.endswith("_gpu.py")]


def plants():
    """Every place in the code where something can be broken."""
    return [plant for path in broken_files() for plant in Finder(path, read(path)).found]


@functools.cache
def tree(path):
    return ast.dump(ast.parse(read(path)))


def compiles_differently(plant):
    """Is the broken file Python, and another program than before?"""
    try:
        return ast.dump(ast.parse(plant.apply())) != tree(plant.path)
    except SyntaxError:
        return False


def draw(n, seed, every, compiles):
    """n different plants that compile: the kind first, so that rare kinds come up as often as common ones."""
    rng, kinds = np.random.default_rng(seed), {}
    for plant in every:
        kinds.setdefault(plant.operator, []).append(plant)
    drawn = []
    while len(drawn) < n and any(kinds.values()):
        kind = list(kinds)[rng.integers(len(kinds))]
        if kinds[kind]:
            plant = kinds[kind].pop(rng.integers(len(kinds[kind])))
            if compiles(plant):
                drawn.append(plant)
    return drawn


# ------------------------------------------------------------------------------------------------ running the tests

class Sandbox:
    """A copy of the project with compiled kernels beside it, in which one thing at a time is broken."""

    longest = LONGEST

    def __init__(self, folder):
        self.root, self.warm, self.clock = Path(folder) / "project", Path(folder) / "warm", int(time.time())
        self.took = {}                                       # seconds of a sound test file, None of another
        self.root.mkdir(parents=True)
        self.warm.mkdir()
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, self.root / name, **({"ignore": shutil.ignore_patterns("__pycache__")}
                                                   if copy is shutil.copytree else {}))
        for path in self.files():
            (self.root / path).write_bytes(read(path))

    def files(self):
        """The files in which things are broken."""
        return broken_files()

    def run(self, test, chosen="", seconds=LONGEST):
        """(exit status of pytest or "timeout", which test failed) for this test file, up to the first failure."""
        env = {**os.environ, "NUMBA_CACHE_DIR": str(self.root / ".numba"), "HYPOTHESIS_PROFILE": "fast",
               "MINIGRAD_CACHE_DIR": str(self.root.parent / "kernels"), "MINIGRAD_DATA": str(DATA), "COLUMNS": "300"}
        words = f"({chosen}) and not torch" if chosen else "not torch"
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--hypothesis-seed=0",
                   "--tb=no", "-m", "not gpu", "-k", words, f"tests/{test}.py"]
        process = subprocess.Popen(command, cwd=self.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   start_new_session=True)
        try:
            said = process.communicate(timeout=seconds)[0].decode(errors="replace")
        except BaseException as e:                           # or Ctrl-C, of which the group knows nothing
            os.killpg(process.pid, signal.SIGKILL)           # the group that start_new_session made
            process.communicate()
            if not isinstance(e, subprocess.TimeoutExpired):
                raise
            return "timeout", f"no end after {seconds:.0f} s"
        if process.returncode < 0:
            return process.returncode, f"a crash, signal {-process.returncode}"
        failed = re.search(r"^(?:FAILED|ERROR) (.+)", said, re.M)
        return process.returncode, failed[1] if failed else said.strip().split("\n")[-1]

    def sound(self, test):
        """Does this test file pass before anything is broken? Tried once; what Numba compiled for it is kept."""
        if test not in self.took:
            self.compiled()
            start = time.perf_counter()
            status, failed = self.run(test, seconds=self.longest)
            self.took[test] = time.perf_counter() - start if status == 0 else None
            if status == 0:
                shutil.rmtree(self.warm)
                (self.root / ".numba").mkdir(exist_ok=True)
                shutil.copytree(self.root / ".numba", self.warm)
            elif status != 5:                                # 5: it skips itself, or all of it is about PyTorch
                print(f"{test} is left out, because it fails before anything is broken: {failed}", flush=True)
        return self.took[test] is not None

    def in_order(self, tests):
        """Those that are known to be quick first, then those not tried yet, the shortest text first."""
        return sorted(tests, key=lambda t: (self.took.get(t) or math.inf, (self.root / f"tests/{t}.py").stat().st_size))

    def compiled(self, path=None):
        """Lay out what Numba compiled of the sound project, less what path is compiled into."""
        shutil.rmtree(self.root / ".numba", ignore_errors=True)
        shutil.copytree(self.warm, self.root / ".numba")
        for stem in compiled_from(path) if path else ():
            for kernel in (self.root / ".numba").rglob(f"{stem}.*"):
                kernel.unlink()
        shutil.rmtree(self.root / ".hypothesis", ignore_errors=True)

    def judge(self, plant):
        """(noticed?, by whom) when this plant is in place."""
        file = self.root / plant.path
        date = file.stat().st_mtime
        for test, chosen in ((test, chosen) for tests, chosen in self.stages(plant) for test in self.in_order(tests)):
            if not self.sound(test):
                continue
            self.compiled(plant.path)
            try:
                file.write_bytes(plant.apply())
                self.clock += 2                              # a date of its own: Python trusts dates, not contents
                os.utime(file, (self.clock, self.clock))
                status, failed = self.run(test, chosen, 60 + 4 * self.took[test])
            finally:
                file.write_bytes(read(plant.path))
                os.utime(file, (date, date))
            if status in (3, 4):
                raise SystemExit(f"bench planted: pytest could not run: {failed}")
            if status not in (0, 5):                         # 5: no test of that name
                return True, failed
        return False, "nobody"

    def stages(self, plant):
        """(test files, words in their names): the op's own cases, then the files that import it, nearest first."""
        if name := op_at(plant):
            yield ["test_ops"], name
        for tests in nearest(plant.path, REACH):
            yield tests, ""


@functools.cache
def modules():
    """{dotted name: file} of the project; test files go by their bare names."""
    found = {}
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = str(path.relative_to(ROOT))
    return found | {path.stem: str(path.relative_to(ROOT)) for path in sorted((ROOT / "tests").glob("*.py"))}


@functools.cache
def named_in(path):
    """The files of the project that a file imports, starts with python -m, or finds by its name: X_cpu.py of X.py."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / path).read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = [node.value, *re.findall(r"-m ([\w.]+)", node.value)]
            names |= {n for word in words for n in (word, f"{word}.__main__") if "." in n}
    found = {modules()[name] for name in names if name in modules()}
    kernel = path.removesuffix(".py") + "_cpu.py"
    return frozenset(found | {kernel} & set(modules().values()))


@functools.cache
def distances(test, reach):
    """{file: how many imports away it is}, up to reach, from a test file."""
    level, found = {modules()[test]}, {}
    for distance in range(reach):
        level = {file for one in level for file in named_in(one)} - set(found)
        found |= dict.fromkeys(level, distance)
    return found


def nearest(path, reach):
    """Lists of test files: those that import this file, those that import one that does, and so on, reach lists."""
    by_distance = defaultdict(list)
    for test in (m for m in modules() if m.startswith("test_") and m not in NOT_RUN):
        if (distance := distances(test, reach).get(path)) is not None:
            by_distance[distance].append(test)
    return [by_distance[distance] for distance in sorted(by_distance)]


def project():
    """A digest of everything that is copied: the same project, the same judgements."""
    digest = hashlib.sha256()
    for file in sorted(path for name in COPIED for path in [ROOT / name, *(ROOT / name).rglob("*")]):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(str(file).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


class Record:
    """What was judged already, a line of JSON each."""

    def __init__(self, file):
        self.file, self.now, self.known = file, project(), {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            entry = json.loads(line)
            self.known[entry["what"]] = entry

    def key(self, plant):
        """Names the breakage, and the file in which it is."""
        return hashlib.sha256(repr(plant).encode() + read(plant.path)).hexdigest()

    def find(self, plant):
        """(noticed?, by whom, seconds), or None: not judged yet, or in a project whose code or tests have changed."""
        entry = self.known.get(self.key(plant))
        if entry and entry["project"] == self.now:
            return entry["noticed"], entry["by"], entry["seconds"]

    def add(self, plant, noticed, by, seconds):
        entry = dict(what=self.key(plant), plant=plant.show(), noticed=noticed, by=by, seconds=seconds,
                     project=self.now)
        with open(self.file, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")


def op_at(plant):
    """The op whose formula or kernel is broken, judging by the last name defined before the place; or None."""
    if not plant.path.startswith(("minigrad/ops/", "minigrad/fused/")):
        return None
    if plant.path.startswith("minigrad/fused/"):
        return Path(plant.path).stem.removesuffix("_cpu")
    names = re.findall(rb"^def ([a-z]\w*)\(", read(plant.path)[:plant.start], re.M)
    return names[-1].decode() if names else None


def compiled_from(path):
    """Kernel files whose compiled code holds constants or functions of path: Numba's cache does not know of them."""
    inside = [path for pattern in ("minigrad/ops/*.py", "minigrad/fused/*.py", "minigrad/special.py", "gpt/decode*.py",
                                   "tok/*.py") for path in ROOT.glob(pattern)]
    uses = {p: {n.module for n in ast.walk(ast.parse(p.read_bytes())) if isinstance(n, ast.ImportFrom)} |
            {f"{n.module}.{a.name}" for n in ast.walk(ast.parse(p.read_bytes())) if isinstance(n, ast.ImportFrom)
             for a in n.names} for p in inside}
    reached = {ROOT / path} & set(inside)
    while True:
        names = {".".join(p.relative_to(ROOT).with_suffix("").parts) for p in reached}
        more = reached | {p for p, used in uses.items() if used & names}
        if more == reached:
            return [p.stem for p in reached if p.stem.endswith("_cpu")]
        reached = more


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench planted", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=positive, default=60, help="how many breakages [60]")
    parser.add_argument("--seed", type=count, default=0, help="which ones [0]")
    parser.add_argument("--cuda", action="store_true", help="break the CUDA kernels, not what is written in Python")
    parser.add_argument("--out", type=Path, default=Path("runs/planted"), help="where judgements are kept, for runs "
                        "that go on [runs/planted]")
    parser.add_argument("--list", action="store_true", help="show what would be planted, and run nothing")
    args = parser.parse_args(argv)
    code = importlib.import_module("bench.planted_cuda" if args.cuda else "bench.planted")
    places = code.plants()
    drawn = draw(args.draws, args.seed, places, code.compiles_differently)
    print(f"seed {args.seed}: {len(drawn)} of {len(places)} places", flush=True)
    if args.list:
        for plant in drawn:
            print(plant.show())
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    record = Record(args.out / "judged.jsonl")
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        sandbox, survivors, faults, broken = code.Sandbox(folder), [], 0, 0
        for n, plant in enumerate(drawn, 1):
            if not (found := record.find(plant)):
                start = time.perf_counter()
                found = *sandbox.judge(plant), time.perf_counter() - start
                record.add(plant, *found)
            noticed, by, seconds = found
            print(f"{n:3} {plant.show()}\n    "
                  f"{'caught by' if noticed else 'SURVIVED:'} {by} ({seconds:.0f} s)", flush=True)
            if not noticed:
                survivors.append(plant)
            faults += "emulator.Fault: " in by
            broken += args.cuda and "RuntimeError: " in by and " failed:" in by               # at another size
    counted = len(drawn) - broken
    print(f"\nseed {args.seed}: {counted - len(survivors)} of {counted} caught"
          f" ({100 - 100 * len(survivors) / max(1, counted):.1f} %)"
          + (f", {faults} of them as a fault that the emulator named" if args.cuda else "")
          + (f"; {broken} that did not compile do not count" if broken else "") + "; survived, to be judged:")
    for plant in survivors:
        print(plant.show())
    return 0 if counted - len(survivors) >= code.WANTED * counted else 1
