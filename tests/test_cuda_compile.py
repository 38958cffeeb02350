"""Every CUDA kernel compiles for the GPUs it is meant for, in every element type, and fits in their registers."""
import re

import pytest

from bench import cuda
from minigrad.emulator.emulator import KERNEL
from minigrad.kernels import FUSED, text

HOW = cuda.compiler()


@pytest.mark.skipif(HOW is None, reason="neither NVRTC nor nvcc is installed: see python -m bench cuda --help")
@pytest.mark.parametrize("stem", cuda.STEMS)
def test_kernels_compile_without_spills(stem):
    rows = list(cuda.table(HOW, [stem]))
    assert {name for _, name, *_ in rows} == set(KERNEL.findall((FUSED / f"{stem}.cu").read_text()))
    assert not [row for row in rows if row[5] > 0], rows


@pytest.mark.parametrize("stem", cuda.STEMS)
def test_nothing_of_ours_is_left_to_include(stem):
    """CuPy would not notice an edit in a file that is included."""
    assert not re.search(r'#include "', text(stem + ".cu"))


def test_a_pasted_text_keeps_its_line_numbers():
    pasted, own = text("relu.cu").split("\n"), (FUSED / "relu.cu").read_text().split("\n")
    start = pasted.index('#line 3 "relu.cu"')
    assert pasted[start + 1:] == own[2:]


def test_lines_are_as_short_as_elsewhere():
    for path in [*FUSED.glob("*.cu*"), *FUSED.parent.glob("emulator/*")]:
        if path.is_file():
            assert all(len(line) <= 120 for line in path.read_text().split("\n")), path


def test_sums_do_not_depend_on_who_comes_first():
    for path in FUSED.glob("*.cu*"):
        assert "atomic" not in path.read_text(), path
