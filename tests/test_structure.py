"""The shape of the code base: who may import whom, what an import costs, and what never occurs."""
import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("minigrad", "nn", "gpt", "tok", "train", "bench")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))

# Who may import whom. A package may always import itself.
MAY = {"minigrad": set(), "nn": {"minigrad"}, "gpt": {"nn", "minigrad"}, "tok": set(),
       "train": {"gpt", "nn", "minigrad", "tok"}, "bench": {"gpt", "nn", "minigrad", "tok", "train"}}
UPWARDS = {("minigrad/formulas.py", "bench.facts")}       # a program, whose page says what bench measured

# Inside minigrad every module stands on a floor, and imports only from floors below its own.
FLOORS = [{"check", "scalar", "cache", "typeset", "slot"}, {"backend"}, {"special"}, {"jit_cpu"},
          {"fork_cpu", "math_cpu"}, {"pool"}, {"gemm_cpu", "openblas_cpu"}, {"blas", "emulator"},
          {"kernels", "cublaslt", "cuda", "gpu"}, {"sums", "blas_gpu", "fake_cupy"}, {"sums_cpu", "sums_gpu"},
          {"tensor"}, {"book"}, {"ops", "fused", "recompute", "gradcheck", "formulas", "profile"}, {"methods"},
          {"__init__"}]

# Other people's packages: the only files that may import them. numba's own floor is llvmlite.
ONLY_IN = {
    "cupy": lambda path: path.name in ("backend.py",),
    "numba": lambda path: path.name.endswith("_cpu.py") or "tok" in path.relative_to(ROOT).parts,
    "llvmlite": lambda path: path.name.endswith("_cpu.py"),
    "torch": lambda path: path.relative_to(ROOT).parts[0] == "bench",
    "mwparserfromhell": lambda path: path.name == "wiki.py",
    "pyarrow": lambda path: path.name == "corpus.py",
    "mpi4py": lambda path: path.name == "parallel.py",
    "matplotlib": lambda path: path.relative_to(ROOT).parts[0] in ("train", "bench") or path.name == "analysis.py",
}


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path):
    """(module, name or None) of every import statement, at the top or inside a function."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports name their package, so that they can be searched"
            yield from ((node.module, alias.name) for alias in node.names)


def module_of(package_path, name):
    """The floor's module that `from minigrad import name` (or minigrad.name) means."""
    parts = package_path.split(".")[1:]
    if parts:
        return parts[0]
    return name if (ROOT / "minigrad" / f"{name}.py").exists() or (ROOT / "minigrad" / name).is_dir() else "__init__"


def floor(module):
    found = [i for i, modules in enumerate(FLOORS) if module in modules]
    assert found, f"minigrad.{module} has no floor: say in tests/test_structure.py where it stands"
    return found[0]


def test_the_search_finds_the_code():
    assert len(FILES) > 40 and all((ROOT / p).is_dir() for p in PACKAGES)


@every_file
def test_packages_import_downwards(path):
    package = path.relative_to(ROOT).parts[0]
    for module, _ in imports(path):
        top = module.split(".")[0]
        if top in PACKAGES and top != package and (str(path.relative_to(ROOT)), module) not in UPWARDS:
            assert top in MAY[package], f"{path.relative_to(ROOT)} imports {module}: {package} may not import {top}"


def test_compiled_code_is_kept_under_the_name_of_all_that_is_inlined():
    """Numba does not see edits in files that a kernel has functions or constants from: SHARED must list all of them."""
    from minigrad.jit_cpu import SHARED
    shared = {"minigrad." + name.removesuffix(".py").replace("/", ".") for name in SHARED}
    for path in FILES:
        if path.name.endswith("_cpu.py"):
            inlined = {m for m, name in imports(path) if m.startswith("minigrad") and m != "minigrad.slot"
                       and (m.endswith("_cpu") or name.isupper())}
            assert inlined <= shared, f"{path.name} inlines from {inlined - shared}"


@pytest.mark.parametrize("path", [p for p in FILES if "minigrad" in p.relative_to(ROOT).parts[:1]],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_minigrad_imports_downwards(path):
    parts = path.relative_to(ROOT / "minigrad").parts
    mine = "fake_cupy" if parts[-1] == "fake_cupy.py" else parts[0].removesuffix(".py")
    for module, name in imports(path):
        if module.split(".")[0] != "minigrad":
            continue
        theirs = module_of(module, name)
        beside = theirs in ("ops", "fused") and mine in ("ops", "fused")       # an op may be made of others
        runs_all = mine == "formulas" and theirs == "__init__"                 # a program: it walks the whole table
        assert beside or runs_all or theirs == mine or floor(theirs) < floor(mine), \
            f"{'/'.join(parts)} (floor {floor(mine)}) imports minigrad.{theirs} (floor {floor(theirs)})"


def test_the_scalar_chapter_imports_nothing_of_ours():
    assert not [m for m, _ in imports(ROOT / "minigrad" / "scalar.py") if m.split(".")[0] in PACKAGES]


@every_file
def test_others_are_imported_where_they_belong(path):
    for module, _ in imports(path):
        allowed = ONLY_IN.get(module.split(".")[0], lambda path: True)
        assert allowed(path), f"{path.relative_to(ROOT)} imports {module}"


@every_file
def test_nothing_unpickles_or_evaluates(path):
    for module, _ in imports(path):
        assert module.split(".")[0] not in ("pickle", "shelve", "marshal", "dill", "joblib"), path
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Name):
                assert called.id not in ("eval", "exec", "compile", "__import__"), f"{path}:{node.lineno}"
            elif isinstance(called, ast.Attribute) and called.attr == "load":
                allowed = {k.arg: k.value for k in node.keywords}.get("allow_pickle")
                assert allowed is None or getattr(allowed, "value", True) is False, f"{path}:{node.lineno}"
                assert ast.unparse(called) != "yaml.load", f"{path}:{node.lineno}: yaml.safe_load"


# what an import costs


def python(code, **environment):
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, text=True,
                          capture_output=True, check=True)
    assert not done.stderr, done.stderr
    return done.stdout


@every_file
def test_a_default_stands_in_brackets_in_the_help(path):
    """--seed SEED   another seed, another text [0]"""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
            said = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert said.get("default") in (None, "False", "''", "[]", "()") or "[" in said.get("help", ""), said


def test_import_minigrad_is_light_and_silent():
    said = python("import sys, minigrad; print(*[m for m in ('numba', 'cupy', 'matplotlib', 'llvmlite', 'ml_dtypes', "
                  "'scipy', 'torch') if m in sys.modules])")
    assert said == "\n"


@pytest.mark.parametrize("module", ["minigrad.scalar", "nn", "gpt", "tok", "train.run", "bench.__main__"])
def test_imports_are_silent(module):
    assert python(f"import {module}") == ""


def test_import_minigrad_takes_no_longer_than_a_blink():
    """At most 0.05 s on top of numpy's import. The one test here that asserts a time: the processor's, which a busy
    machine hardly changes, and the best of many tries."""
    code = ("import numpy, time; start = time.process_time(); import minigrad; print(time.process_time() - start)")
    best = 1.0
    for _ in range(20):
        best = min(best, float(python(code)))
        if best <= 0.05:
            print(f"import minigrad adds {best:.3f} s to import numpy")                     # README has it
            return
    raise AssertionError(f"import minigrad adds {best:.3f} s to import numpy")
