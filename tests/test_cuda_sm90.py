"""attention_sm90.cu, run by the emulator, against the reference: tiles, tails, heads, dropout, extremes, gradients."""
import numpy as np
import pytest
from test_cuda_ops import TOL
from test_ops import close, some_dy

from minigrad import backend
from minigrad.backend import dtype_of
from minigrad.emulator import emulator
from minigrad.fused import attention as formula
from minigrad.fused import attention_gpu
from minigrad.fused import attention_sm90_gpu as sm90

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)

every_dtype = pytest.mark.parametrize("dtype", sm90.TYPES)
# One tile, a part of one, several with a tail, all of a ring of tiles twice; heads of both sizes and their tails.
SHAPES = [(1, 128, 1, 64), (2, 1, 3, 64), (2, 300, 2, 64), (1, 513, 1, 64), (1, 257, 1, 128), (1, 200, 1, 96),
          (2, 131, 1, 8), (2, 129, 3, 40)]
DROPOUT = (0.3, (5, 6, 7, 8))


def packed(B, T, H, D, dtype, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).standard_normal((B, T, 3 * H * D))).astype(dtype_of(dtype))


def reference(qkv, H, dropout=None):
    y, (_, _, lse, *_) = formula.attention.reference(qkv, n_head=H, dropout=dropout)
    return y, lse


@every_dtype
@pytest.mark.parametrize("B, T, H, D", SHAPES)
def test_it_agrees_with_the_reference_whatever_the_schedule(B, T, H, D, dtype):
    for dropout in (None, DROPOUT) if T < 400 else (None,):
        qkv, got = packed(B, T, H, D, dtype), []
        for backwards, early in emulator.SCHEDULES:
            with emulator.schedule(backwards, early):
                got.append(sm90.forward(qkv, H, dropout))
        y, lse = reference(qkv, H, dropout)
        close([got[0][0]], [y], TOL[dtype], f"y, dropout {dropout}")
        close([got[0][1]], [lse], 1e-5, f"lse, dropout {dropout}")
        for other in got[1:]:
            for a, b in zip(got[0], other, strict=True):
                np.testing.assert_array_equal(a.view(f"u{a.itemsize}"), b.view(f"u{b.itemsize}"))


@every_dtype
@pytest.mark.parametrize("scale", [0.0, 1e-3, 12.0])
def test_flat_and_steep_weights(scale, dtype):
    """12: scores of several hundred, whose exponentials alone would overflow; nearly all weight on one key."""
    qkv = packed(1, 260, 2, 64, dtype, scale, seed=1)
    (y, lse), (want, want_lse) = sm90.forward(qkv, 2, None), reference(qkv, 2)
    close([y], [want], TOL[dtype], "y")
    close([lse], [want_lse], 1e-5, "lse")


@every_dtype
def test_what_is_not_a_number_stays_where_it_is(dtype):
    """In its own head and sequence, and in the rows that see it: what lies beyond T belongs to another sequence."""
    qkv = packed(2, 140, 2, 64, dtype, seed=2)
    qkv[1, 0] = np.nan
    qkv[0, 130, 128:192] = np.inf                                         # a key of head 0
    with np.errstate(all="ignore"):
        y, lse = sm90.forward(qkv, 2, None)
    wrong = ~np.isfinite(y.astype("f").reshape(2, 140, 2, 64)).all(-1)
    assert wrong[1].all() and wrong[0, 130:, 0].all() and not wrong[0, :130].any() and not wrong[0, :, 1].any()
    assert (wrong == ~np.isfinite(lse).swapaxes(1, 2)).all()


@every_dtype
def test_the_other_kernels_backward_takes_what_it_saves(dtype):
    qkv, dropout = packed(2, 150, 2, 32, dtype, seed=3), DROPOUT
    y, lse = sm90.forward(qkv, 2, dropout)
    dy = some_dy(y)
    got = attention_gpu.backward(dy, qkv, y, lse, 2, dropout)
    want = formula.attention.reference_backward(dy, qkv, *reference(qkv, 2, dropout), 2, dropout)
    close(got, want, TOL[dtype], "dqkv")


def test_strides_are_made_regular():
    qkv = packed(2, 40, 2, 64, "float16")
    turned = np.asarray(qkv.swapaxes(0, 1), order="C").swapaxes(0, 1)
    assert not turned.flags.c_contiguous
    np.testing.assert_array_equal(sm90.forward(turned, 2, None)[0], sm90.forward(qkv, 2, None)[0])


@pytest.mark.parametrize("dtype, D, hopper, takes", [
    ("float16", 64, True, True), ("bfloat16", 128, True, True), ("float16", 8, True, True),
    ("float16", 68, True, False), ("bfloat16", 136, True, False), ("float32", 64, True, False),
    ("float16", 64, False, False)])
def test_which_heads_it_takes(dtype, D, hopper, takes, monkeypatch):
    qkv = packed(1, 2, 2, D, dtype)
    monkeypatch.setattr(sm90, "is_hopper", lambda: hopper)
    assert not sm90.takes(qkv, 2)                                         # the emulator: only when it is asked for
    monkeypatch.setattr(backend, "on_gpu", lambda x: True)
    assert sm90.takes(qkv, 2) == takes
