"""What the book says an op costs is what its reference computes, and what a profile sees it move."""
import numpy as np
import pytest

from bench import costs, facts, ops
from bench.costs import COSTS, PRODUCTS
from minigrad import formulas, kernels
from minigrad.profile import FLOPS, profile

SMALL = dict(vocab_size=13, block_size=8, n_layer=1, n_head=2, n_embd=6)
ROWS = {row.name: row for row in facts.rows(SMALL)}
NAMES = ops.names_of(SMALL, 1, "float32")


class Counting(np.ndarray):
    """Counts the entries that array functions compute from floats; of a sum, those that are added."""
    entries = 0

    def __array_ufunc__(self, f, method, *inputs, out=(), **options):
        plain = [np.asarray(a) if isinstance(a, Counting) else a for a in inputs]
        if out:
            options["out"] = tuple(np.asarray(a) if isinstance(a, Counting) else a for a in out)
        y = getattr(f, method)(*plain, **options)
        of = {"reduce": plain[0], "accumulate": plain[0], "at": plain[-1]}.get(method, y)
        if any(isinstance(a, np.ndarray) and a.dtype.kind == "f" for a in plain):            # not places, nor masks
            Counting.entries += np.size(of)
        return out[0] if out else None if y is None else np.asarray(y).view(Counting)


def counted(f, *args, **params):
    """(entries computed, what f returned) for arrays in the arguments."""
    Counting.entries = 0
    y = f(*(a.view(Counting) if type(a) is np.ndarray else a for a in args), **params)
    return Counting.entries, y


def test_everything_in_the_book_has_its_costs_and_a_row():
    names = {f.__name__ for functions in formulas.chapters().values() for f in functions}
    assert names == set(COSTS) == {*ROWS, "control"}
    assert PRODUCTS >= set(FLOPS)


@pytest.mark.parametrize("formula, number", [
    ("", 0), ("5", 5), ("2 N C^2", 96), ("s (5 N C + 4 C^2) + 16 C", 4 * (60 + 64) + 64), ("(3 s + 1) N C", 156),
    ("N C - N / C", 11.25)])
def test_a_formula_is_a_number(formula, number):
    assert costs.value(formula, dict(N=3, C=4, s=4)) == number


@pytest.mark.parametrize("name", [name for name in ROWS if name not in PRODUCTS | {"cross_entropy"}])
def test_operations_are_those_of_the_reference(name):
    row, found = ROWS[name], []
    args = facts.Drawn(row, "float32", 1).drawn("float32")
    if len(row.moved) == 1:
        found.append(counted(row.op.reference, *args, **row.params)[0])
    else:
        n, (y, saved) = counted(row.op.reference, *args, **row.params)
        dys = [np.ones(a.shape, np.float32).view(Counting) for a in ops.tuple_of(y)]
        into = [None] * len(args)
        found += [n, counted(row.op.reference_backward, tuple(dys) if isinstance(y, tuple) else dys[0], *saved,
                             into=into)[0]]
    assert found == [costs.value(text, NAMES) for text in COSTS[name][0]]


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if ".ops." in getattr(row.op, "module", "")])
def test_bytes_are_those_that_a_profile_sees(name):
    row = ROWS[name]
    side = facts.Drawn(row, "float32", 1)
    side.ready()
    with kernels.using("reference"), profile() as p:
        for phase in row.phases:
            getattr(side, phase)()
    assert [c.bytes for c in p.calls if c.name == name] == list(row.moved)
