"""A formula is written once, in a docstring, with its number at the end of the line; code cites the number where it
computes it. So nothing is cited that is not derived, and nothing is derived that no code computes.
"""
import ast
import re
from pathlib import Path

import pytest

import minigrad

FILES = [p for p in Path(minigrad.__file__).parent.rglob("*") if p.suffix in (".py", ".cu", ".cuh")]
TAG = re.compile(r"\[([A-Z]{2})(\d+(?:[-,]\d+)*)\]")
KERNEL = re.compile(r"(_cpu\.py|_gpu\.py|\.cu)$")


def numbers(text):
    """[LN3,4] and [LN3-5] -> LN3, LN4, LN5"""
    found = set()
    for prefix, listed in TAG.findall(text):
        for part in listed.split(","):
            first, last = (part.split("-") * 2)[:2] if "-" in part else (part, part)
            found |= {f"{prefix}{n}" for n in range(int(first), int(last) + 1)}
    return found


def docstring(path):
    return ast.get_docstring(ast.parse(path.read_text()), clean=False) or "" if path.suffix == ".py" else ""


def derived(path):
    """The numbers that end a line of the docstring."""
    return set().union(*(numbers(m[0]) for m in re.finditer(rf"{TAG.pattern}$", docstring(path), re.M)))


def cited(path):
    """The numbers in the code: all but the module's docstring."""
    return numbers(path.read_text().replace(docstring(path) or "\0", ""))


def formula_of(path):
    """The file that derives what this one computes; a helper such as math_cpu.py derives its own."""
    formula = path.with_name(KERNEL.sub(".py", path.name))
    return formula if formula.exists() else path


HOME = {}
for path in FILES:
    for number in derived(path):
        HOME.setdefault(number, []).append(path)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_cited_number_is_derived(path):
    unknown = sorted(numbers(path.read_text()) - set(HOME))
    assert not unknown, f"{path.name} cites {unknown}, which no docstring derives at the end of a line"


@pytest.mark.parametrize("path", [p for p in FILES if KERNEL.search(p.name)], ids=lambda p: p.name)
def test_kernels_cite_their_formula(path):
    formula = formula_of(path)
    if derived(formula) and not path.name.endswith("_gpu.py"):
        assert numbers(path.read_text()) & derived(formula), f"{path.name} cites no equation of {formula.name}"


@pytest.mark.parametrize("path", [p for p in FILES if derived(p)], ids=lambda p: p.name)
def test_every_derived_number_is_computed(path):
    computed = set().union(*(cited(p) if p == path else numbers(p.read_text()) for p in FILES if formula_of(p) == path))
    idle = sorted(derived(path) - computed)
    assert not idle, f"{path.name} derives {idle}, which neither its code nor a kernel computes"


def test_a_number_has_one_home():
    assert not {number: paths for number, paths in HOME.items() if len(paths) > 1}


@pytest.mark.parametrize("path", [p for p in FILES if derived(p)], ids=lambda p: p.name)
def test_numbers_have_one_prefix_and_no_gaps(path):
    found = derived(path)
    assert found == {f"{min(found)[:2]}{n}" for n in range(1, len(found) + 1)}


def test_the_reader_of_numbers():
    assert numbers("# [LN3,4], [LN12] and [AT7-9]") == {"LN3", "LN4", "LN12", "AT7", "AT8", "AT9"}
    assert numbers("x[0] and [LN] and [3]") == set()
