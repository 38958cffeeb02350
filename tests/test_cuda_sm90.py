"""attention_sm90.cu, run by the emulator, against the reference: tiles, tails, heads, dropout, extremes, gradients."""
import numpy as np
import pytest
from test_cuda_ops import TOL
from test_ops import close

from minigrad.backend import dtype_of
from minigrad.emulator import emulator
from minigrad.fused import attention as formula
from minigrad.fused import attention_gpu
from minigrad.fused import attention_sm90_gpu as sm90

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)

every_dtype = pytest.mark.parametrize("dtype", sm90.TYPES)
# One tile, a part of one, several with a tail, all of a ring of tiles twice; heads of both sizes and their tails; more
# heads than are done at a time.
DROPOUT = (0.3, (5, 6, 7, 8))
SHAPES = [(1, 128, 1, 64, None), (1, 64, 1, 64, None), (2, 1, 3, 64, DROPOUT), (1, 300, 2, 64, DROPOUT),
          (1, 513, 1, 64, None), (1, 257, 1, 128, None), (1, 200, 1, 96, DROPOUT), (2, 131, 1, 8, DROPOUT),
          (3, 20, 6, 40, None)]


def packed(B, T, H, D, dtype, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal((B, T, 3 * H * D))).astype(dtype_of(dtype))


def reference(qkv, H, dropout, dy):
    y, saved = formula.attention.reference(qkv, n_head=H, dropout=dropout)
    return y, saved[2], formula.attention.reference_backward(dy, *saved)[0]


def kernels(qkv, H, dropout, dy):
    y, saved = sm90.forward(qkv, H, dropout)
    return y, saved[2], *sm90.backward(dy, *saved)


def agree(got, want, dtype, what):
    close(got[:1], want[:1], TOL[dtype], f"y, {what}")
    close(got[1:2], want[1:2], 1e-5, f"lse, {what}")
    for name, a, b in zip(("dq", "dk", "dv"), np.split(got[2], 3, -1), np.split(want[2], 3, -1), strict=True):
        close([a], [b], TOL[dtype], f"{name}, {what}")


@every_dtype
@pytest.mark.parametrize("B, T, H, D, dropout", SHAPES)
def test_it_agrees_with_the_reference_whatever_the_schedule(B, T, H, D, dropout, dtype):
    qkv, dy, got = packed(B, T, H, D, dtype), packed(B, T, H, D, dtype, seed=1)[..., :H * D], []
    for backwards, early in emulator.SCHEDULES:
        with emulator.schedule(backwards, early):
            got.append(kernels(qkv, H, dropout, dy))
    agree(got[0], reference(qkv, H, dropout, dy), dtype, f"dropout {dropout}")
    for other in got[1:]:
        for a, b in zip(got[0], other, strict=True):
            np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


@every_dtype
@pytest.mark.parametrize("scale", [0.0, 1e-3, 12.0])
def test_flat_and_steep_weights(scale, dtype):
    """12: scores of several hundred, whose exponentials alone would overflow; nearly all weight on one key."""
    qkv, dy = packed(1, 260, 2, 64, dtype, scale, seed=1), packed(1, 260, 2, 64, dtype)[..., :128]
    agree(kernels(qkv, 2, None, dy), reference(qkv, 2, None, dy), dtype, f"scale {scale}")


@every_dtype
def test_a_maximum_that_leaps_in_all_rows_at_once(dtype):
    """From the second tile of keys on scores are far above those of the first."""
    qkv, dy = packed(1, 256, 1, 64, dtype), packed(1, 256, 1, 64, dtype, seed=1)[..., :64]
    qkv[..., :64], qkv[:, :64, 64:128], qkv[:, 64:, 64:128] = 4, 0, 4
    agree(kernels(qkv, 1, None, dy), reference(qkv, 1, None, dy), dtype, "a leap")


@every_dtype
def test_dropout_of_nothing_is_none(dtype):
    qkv, dy = packed(1, 200, 1, 64, dtype), packed(1, 200, 1, 64, dtype, seed=1)[..., :64]
    for a, b in zip(kernels(qkv, 1, (0.0, (5, 6, 7, 8)), dy), kernels(qkv, 1, None, dy), strict=True):
        np.testing.assert_array_equal(a, b)


@every_dtype
def test_what_is_not_a_number_stays_where_it_is(dtype):
    """In its own head and sequence, and in the rows that see it: what lies beyond T belongs to another sequence."""
    qkv = packed(2, 140, 2, 64, dtype, seed=2)
    qkv[1, 0] = np.nan
    qkv[0, 130, 128:192] = np.inf                                         # a key of head 0
    dy = packed(2, 140, 2, 64, dtype)[..., :128]
    with np.errstate(all="ignore"):
        y, lse, dx = kernels(qkv, 2, None, dy)
    wrong = ~np.isfinite(y.astype("f").reshape(2, 140, 2, 64)).all(-1)
    assert wrong[1].all() and wrong[0, 130:, 0].all() and not wrong[0, :130].any() and not wrong[0, :, 1].any()
    assert (wrong == ~np.isfinite(lse).swapaxes(1, 2)).all()
    assert np.isfinite(dx.astype("f").reshape(2, 140, 3, 2, 64)[0, :, :, 1]).all()


@pytest.mark.parametrize("dtype, D, T", [("float16", 64, 600), ("bfloat16", 128, 600), ("float16", 64, 641)])
def test_however_many_blocks_share_a_head(dtype, D, T, monkeypatch):
    """One block takes all five stretches of 128 rows, the third of which is no pair, or six; or more blocks do."""
    qkv, dy, got = packed(1, T, 1, D, dtype), packed(1, T, 1, D, dtype, seed=1)[..., :D], []
    for blocks in (1, 2, 3):
        monkeypatch.setattr(sm90, "shares", lambda *_, blocks=blocks: blocks)
        got.append(kernels(qkv, 1, None, dy)[2])
        np.testing.assert_array_equal(got[0].view("u2"), got[-1].view("u2"))
    close(got[:1], [reference(qkv, 1, None, dy)[2]], TOL[dtype], "dx")


@pytest.mark.parametrize("heads, T, blocks", [
    (768, 1024, 1),                                                       # 24 pairs in a row, for the 23.3 of the mean
    (12, 1024, 4),                                                        # fewer than multiprocessors: a pair for each
    (192, 4096, 2),                                                       # 24 pairs; one block for a head: 32
    (1, 1, 1), (1, 129, 1), (5, 300, 2)])
def test_the_last_blocks_are_done_soon(heads, T, blocks):
    assert sm90.shares(heads, T, 132) == blocks


def test_strides_are_made_regular():
    qkv, dy = packed(2, 40, 2, 64, "float16"), packed(2, 40, 2, 64, "float16", seed=1)[..., :128]
    turned = [np.asarray(a.swapaxes(0, 1), order="C").swapaxes(0, 1) for a in (qkv, dy)]
    assert not any(a.flags.c_contiguous for a in turned)
    for a, b in zip(kernels(turned[0], 2, None, turned[1]), kernels(qkv, 2, None, dy), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype, D, hopper, takes", [
    ("float16", 64, True, True), ("bfloat16", 128, True, True), ("float16", 8, True, True),
    ("float16", 68, True, False), ("bfloat16", 136, True, False), ("float32", 64, True, False),
    ("float16", 64, False, False)])
def test_where_it_runs(dtype, D, hopper, takes, monkeypatch):
    """In attention's place on a Hopper GPU; in the emulator only when it is asked for."""
    qkv, ran = packed(1, 2, 2, D, dtype), []
    with monkeypatch.context() as gpu:
        gpu.setattr(sm90, "is_hopper", lambda: hopper)
        assert not sm90.takes(qkv, 2)
        gpu.setattr(sm90.backend, "on_gpu", lambda x: True)
        assert sm90.takes(qkv, 2) == takes
    monkeypatch.setattr(sm90, "takes", lambda *_: takes)
    for name in ("forward", "backward"):
        run = getattr(sm90, name)
        monkeypatch.setattr(sm90, name, lambda *a, run=run, name=name: ran.append(name) or run(*a))
    y, saved = attention_gpu.forward(qkv, n_head=2)
    attention_gpu.backward(y, *saved)
    assert ran == (["forward", "backward"] if takes else [])
