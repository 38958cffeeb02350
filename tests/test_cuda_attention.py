"""attention.cu beyond the small shapes of opcases.py: several tiles, every compiled head size, tails, dropout."""
import numpy as np
import pytest
from opcases import Case
from test_cuda_ops import TOL
from test_ops import close, run

from minigrad.emulator import emulator
from minigrad.fused import attention_gpu
from minigrad.fused.attention import attention

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)

# More than one tile of rows and of columns, tails, every compiled head size; 18 heads in two groups; T that Philox's
# blocks of four divide and do not; D that 16 bytes divide and do not.
SHAPES = [(1, 64, 1, 16), (2, 66, 9, 3), (1, 132, 1, 24), (1, 130, 1, 64), (2, 70, 1, 33), (1, 129, 1, 128),
          (1, 80, 1, 100)]


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("B, T, H, D", SHAPES)
def test_tiles_heads_and_tails(B, T, H, D, dtype):
    for dropout in (None, (0.3, (5, 6, 7, 8))) if D < 64 else (None,):
        case = Case(attention, [(B, T, 3 * H * D)], dict(n_head=H, dropout=dropout))
        arrays = case.arrays(dtype)
        close(run(attention, arrays, case.params, "emulated"), run(attention, arrays, case.params, "reference"),
              TOL[dtype], f"dropout {dropout}")


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("D", [16, 64])
def test_steep_weights_and_scores_far_below_zero(D, dtype):
    """Nearly all weight on one key; and all scores -25 sqrt(D), beside which that of no key, 0, would be all."""
    (steep,) = Case(attention, [(1, 70, 3 * D)], low=-5, high=5).arrays(dtype)
    low = steep / steep.dtype.type(5)
    low[..., :D], low[..., D:2 * D] = 5, -5
    for x in steep, low:
        close(run(attention, [x], dict(n_head=1), "emulated"), run(attention, [x], dict(n_head=1), "reference"),
              TOL[dtype], f"D = {D}")


@pytest.mark.parametrize("dtype", TOL)
def test_an_array_that_16_bytes_do_not_align(dtype):
    case = Case(attention, [(1, 40, 3 * 16)], dict(n_head=1))
    arrays = case.arrays(dtype)
    beside = np.empty(arrays[0].size + 16, arrays[0].dtype)
    at = next(k for k in range(16) if beside[k:].ctypes.data % 16 == 4)
    odd = beside[at:at + arrays[0].size].reshape(arrays[0].shape)
    odd[...] = arrays[0]
    for a, b in zip(*(run(attention, [x], case.params, "emulated") for x in (odd, arrays[0])), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", TOL)
def test_no_schedule_changes_a_bit(dtype):
    case = Case(attention, [(1, 140, 3 * 12)], dict(n_head=1, dropout=(0.2, (1, 2, 3, 4))))
    arrays, got = case.arrays(dtype), []
    for backwards, early in emulator.SCHEDULES:
        with emulator.schedule(backwards, early):
            got.append(run(attention, arrays, case.params, "emulated"))
    for other in got[1:]:
        for a, b in zip(got[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_no_batch_is_too_large_for_a_grid():
    for heads, grid in ((0, (16, 1, 0)), (18, (9, 1, 2)), (65536, (16, 1, 4096)), (65537, (65537, 1, 1))):
        assert attention_gpu._how(np.empty((heads, 5, 3), "f"), 1, None)[1] == grid


def test_a_larger_head_runs_its_reference():
    case = Case(attention, [(1, 3, 3 * 130)], dict(n_head=1))
    arrays = case.arrays("float32")
    for a, b in zip(*(run(attention, arrays, case.params, mode) for mode in ("emulated", "reference")), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", TOL)
@pytest.mark.parametrize("D", [64, 128])
def test_a_card_with_less_shared_memory(D, dtype, monkeypatch):
    """99 KiB a block, as most cards have: what does not fit is for the formula."""
    monkeypatch.setattr(emulator, "MOST_SHARED", 99 << 10)
    case = Case(attention, [(1, 70, 3 * D)], dict(n_head=1))
    arrays = case.arrays(dtype)
    assert attention_gpu._takes(arrays[0], 1) == (dtype != "float32" or D == 64)
    close(run(attention, arrays, case.params, "emulated"), run(attention, arrays, case.params, "reference"), TOL[dtype],
          f"D = {D}")
