"""attention.cu beyond the small shapes of opcases.py: several tiles, every compiled head size, tails, dropout."""
import numpy as np
import pytest
from opcases import Case
from test_cuda_ops import TOL
from test_ops import close, run

from minigrad.emulator import emulator
from minigrad.fused.attention import attention

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)

SHAPES = [(1, 64, 1, 16), (1, 65, 2, 17), (1, 130, 1, 64), (2, 70, 1, 33), (1, 129, 1, 128), (1, 80, 1, 100)]


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("B, T, H, D", SHAPES)
def test_tiles_heads_and_tails(B, T, H, D, dtype):
    for dropout in (None, (0.3, (5, 6, 7, 8))) if D < 64 else (None,):
        case = Case(attention, [(B, T, 3 * H * D)], dict(n_head=H, dropout=dropout))
        arrays = case.arrays(dtype)
        close(run(attention, arrays, case.params, "emulated"), run(attention, arrays, case.params, "reference"),
              TOL[dtype], f"dropout {dropout}")


@pytest.mark.parametrize("dtype", TOL)
def test_no_schedule_changes_a_bit(dtype):
    case = Case(attention, [(1, 100, 3 * 24)], dict(n_head=1, dropout=(0.2, (1, 2, 3, 4))))
    arrays, got = case.arrays(dtype), []
    for backwards, early in emulator.SCHEDULES:
        with emulator.schedule(backwards, early):
            got.append(run(attention, arrays, case.params, "emulated"))
    for other in got[1:]:
        for a, b in zip(got[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_larger_head_runs_its_reference():
    case = Case(attention, [(1, 3, 3 * 130)], dict(n_head=1))
    arrays = case.arrays("float32")
    for a, b in zip(*(run(attention, arrays, case.params, mode) for mode in ("emulated", "reference")), strict=True):
        np.testing.assert_array_equal(a, b)
