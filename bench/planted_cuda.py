"""Where CUDA C++ can be broken, for python -m bench planted --cuda: places in minigrad/fused/*.cu and *.cuh.

They are found in the text, not in a syntax tree: the code base writes operators between spaces, and one statement as
one statement. A plant that does not compile is not drawn. The tests are those of the emulator's kernels, the cases of
the broken kernel first. Not drawn: device.cuh and hopper.cuh, in whose place the emulator has files of its own.
"""
import functools
import re
import subprocess
import tempfile
from pathlib import Path

from bench import planted
from bench.equivalent_cuda import EXEMPT
from bench.planted import ROOT, Plant, read
from minigrad.check import expect
from minigrad.cuda import instances
from minigrad.emulator import emulator

TESTS = ("test_cuda_ops", "test_cuda_attention", "test_cuda_rows", "test_cuda_sm90", "test_cuda_mlp_sm90",
         "test_decode_gpu", "test_generate_gpu", "test_gpu_step")
# Words in the names of the tests nearest to a file; the name of the file itself if it is not here.
NEAREST = {"common": "", "columns": "layer_norm or columns", "embedding": "embedding or ids or sorting",
           "philox": "dropout or attention", "tiles": "attention",
           "attention_sm90": "sm90"}

WANTED = 0.95        # the share of all that is to be noticed: what is known to change no meaning is not drawn
SYMMETRIC = {"min", "max", "fmaxf", "fminf", "combine", "__umulhi"}
TYPE = r"(?:const |unsigned |long )*(?:float|double|int|long|short|bool|char|T|V|E|F|Shape|Drop|Mask|uint\w*)\b"
COMPARED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
SIGNS = {"+": "-", "-": "+", "+=": "-=", "-=": "+="}
TERM = r"[\w.]+(?:\[[^\[\]]*\])*"


class Finder:
    """Collects every Plant of one file."""

    def __init__(self, path, source):
        self.path, self.found, self.text = path, [], source.decode("ascii")
        for pattern, _ in EXEMPT:                            # blank, so that places stay where they are
            self.text = re.sub(pattern, lambda found: re.sub(r"[^\n]", " ", found[0]), self.text, flags=re.M)
        for name in ("barriers", "clears", "shuffles", "symbols", "indices", "constants", "tails", "arguments",
                     "factors"):
            getattr(self, name)()

    def plant(self, operator, start, end, new):
        """Replace the text between two positions."""
        if self.text[start:end] != new:
            self.found.append(Plant(self.path, operator, start, end, new.encode()))

    def each(self, operator, pattern, new, group=0):
        """Replace a group of every match by new, or by what new makes of the match."""
        for found in re.finditer(pattern, self.text, re.M):
            self.plant(operator, *found.span(group), new(found) if callable(new) else new)

    def barriers(self):
        self.each("removed barrier", r"__sync(?:threads|warp)\(\);", ";")

    def clears(self):
        self.each("removed clear", r"(?<=[ (])(?:\w+(?:\[[^\[\]=;]*\])+ = )+0(?:\.0f)?;", ";")

    def shuffles(self):
        """Without lane 0, with lane 0 only, within pairs. A swap with the neighbour stays within its pair."""
        self.each("shuffle", r"_sync\((~0u),", "~1u", 1)
        self.each("shuffle", r"_sync\((~0u),", "1u", 1)
        self.each("shuffle", r"__shfl_\w+\([^()]*, (?!1\))(\w+)\)", lambda found: f"{found[1]}, 2", 1)

    def symbols(self):
        for swapped, operator in ((COMPARED, "comparison"), (SIGNS, "sign"), ({"&&": "||", "||": "&&"}, "comparison")):
            symbols = "|".join(map(re.escape, sorted(swapped, key=len, reverse=True)))
            self.each(operator, f"(?<= )({symbols})(?= )", lambda found, swapped=swapped: swapped[found[0]])
        self.each("sign", r"(?<=[=(,?:] )-(?=[A-Za-z])", "")

    def indices(self):
        for chain in re.finditer(r"(?<![\w)])[A-Za-z_]\w*((?:\[[^\[\]]*(?:\[[^\[\]]*\][^\[\]]*)*\])+)", self.text):
            before = re.split(r"[;{}()]", self.text[:chain.start()])[-1]
            if re.match(rf"\s*(?:__shared__ )?{TYPE}|\s*,", before):         # a declaration: a size, no index
                continue
            for index in re.finditer(r"\[([^\[\]]+)\]", chain[1]):
                start, end = (chain.start(1) + k for k in index.span(1))
                for off in (" + 1", " - 1"):
                    self.plant("index", start, end, index[1] + off)

    def constants(self):
        for found in re.finditer(r"(?<![\w.\[~])(0x[0-9A-Fa-f]+|\d+\.\d+|\d+)(u|f|LL)?(?![\w.\]])", self.text):
            number, end = found[1], found[2] or ""
            new = f"{float(number) * 2 or 1.0}" if "." in number else f"{int(number, 0) + 1}"
            self.plant("constant", *found.span(), new + end)
        self.each("constant", r"\b(?:true|false)\b", lambda found: "false" if found[0] == "true" else "true")

    def tails(self):
        """What is asked before an entry beyond the end is left out: no longer asked."""
        for found in re.finditer(r"\bif \(", self.text):
            end = closing(self.text, found.end() - 1)
            start = end - len(self.text[found.end():end].split(";")[-1].lstrip())            # if (int i = 0; i < n)
            leaves = re.match(r"\) (?:return|continue);", self.text[end:])
            self.plant("dropped condition", start, end, "false" if leaves else "true")
        self.each("dropped condition", rf"(?<=[=(,:] )(?<![<>=!]= )({TERM}(?: (?:[-+%<>]|&&|[<>=!]=) {TERM})*) \? ",
                  "true", 1)
        self.each("dropped condition", r"\b(?:load|store)\([^;]*, (\w+(?:\.\w+)? - \w+)\);", "PACK", 1)
        self.each("dropped condition", r"(?<!\w)min\(([^,()]+), [^;]*?\)(?=[;)])", lambda found: found[1])

    def arguments(self):
        """Neighbours in a call and in { }: also the fragments of mma."""
        for found in re.finditer(r"(\w+)(?:<\w+>)?\(|(?<=[=,] )\{", self.text):
            if found[1] in SYMMETRIC | {"if", "for", "while", "PACKS"}:
                continue
            parts = split(self.text, found.end() - 1)
            if any(re.match(rf"\s*{TYPE}[ *&(]", self.text[a:b]) for a, b in parts):         # a definition
                continue
            for (a, b), (c, d) in zip(parts, parts[1:]):
                self.plant("swapped arguments", a, d, self.text[c:d] + self.text[b:c] + self.text[a:b])
        self.each("swapped arguments", r"(?<=multiply_tiles<E>\()(d\[m\]\[n(?: \+ 1)?\])",
                  lambda found: "d[m][n]" if "1" in found[1] else "d[m][n + 1]")

    def factors(self):
        self.each("dropped factor", rf" [*/] {TERM}(?![\w(\[])", "")
        self.each("dropped factor", rf"(?<![\w.\])]){TERM} \* (?=[\w(])", "")
        self.each("dropped factor", r"(?<= )\*=(?= )", "=")


def closing(text, at):
    """Where the bracket that opens at `at` is closed."""
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] in "([{<") - (text[i] in ")]}>") if text[at] == "<" else \
            (text[i] in "([{") - (text[i] in ")]}")
        if depth == 0:
            return i
    raise ValueError(f"a bracket that nothing closes: {text[at:at + 40]!r}")


def split(text, at):
    """(start, end) of what stands between the commas inside the bracket at `at`, without the spaces around."""
    end, start, depth, parts = closing(text, at), at + 1, 0, []
    for i in range(at + 1, end + 1):
        if i == end or text[i] == "," and depth == 0:
            part = text[start:i]
            parts.append((start + len(part) - len(part.lstrip()), i - len(part) + len(part.rstrip())))
            start = i + 1
        else:
            depth += (text[i] in "([{") - (text[i] in ")]}")
    return parts


@functools.cache
def broken_files():
    """The files in which things are broken."""
    return [str(path.relative_to(ROOT)) for path in sorted((ROOT / "minigrad/fused").glob("*.cu*"))
            if not (emulator.HERE / path.name).exists()]


def plants():
    """Every place in the kernels where something can be broken."""
    return [plant for path in broken_files() for plant in Finder(path, read(path)).found]


def stems(path):
    """The kernels whose text holds that of path."""
    name, texts = Path(path).name, {Path(p).name: read(p).decode() for p in broken_files()}
    return [Path(file).stem for file in texts if file.endswith(".cu") and
            (file == name or f'#include "{name}"' in texts[file])]


def compiles_differently(plant):
    """Does the compiler accept the broken text, for entries of every type?"""
    with tempfile.TemporaryDirectory(prefix="planted-") as folder:
        for path in broken_files():
            Path(folder, Path(path).name).write_bytes(plant.apply() if path == plant.path else read(path))
        return all(accepted(folder, stem, defines) for stem in stems(plant.path)
                   for defines in {d["REAL"]: d for d in reversed(instances(stem))}.values())


def accepted(folder, stem, defines):
    """Does the compiler accept the text of a kernel in folder?"""
    expect(emulator.available(), "bench planted", "no C++ compiler", "g++", emulator.NO_COMPILER)
    text = f'#include "cuemu.h"\nnamespace {{\n#include "{stem}.cu"\n}}\n'
    done = subprocess.run([emulator.COMPILER, *emulator.FLAGS, "-fsyntax-only", "-w",
                           *(f"-D{k}={v}" for k, v in defines.items()), "-I", str(emulator.HERE), "-I", folder,
                           "-x", "c++", "-"], input=text.encode(), capture_output=True)
    return done.returncode == 0


class Sandbox(planted.Sandbox):
    """A copy of the project in which one kernel at a time is broken."""

    longest = 1500                                           # of which compiling takes the most

    def files(self):
        return broken_files()

    def stages(self, plant):
        """The kernel's own cases, then all others."""
        stem = Path(plant.path).stem
        if words := NEAREST.get(stem, stem):
            yield TESTS, words
        yield TESTS, ""
