"""Is backward() the derivative of forward()? Public, because anyone who adds an op needs it."""
import numpy as np

from minigrad import kernels
from minigrad.backend import is_float
from minigrad.check import expect
from minigrad.slot import SKIP
from minigrad.sums import sum_to
from minigrad.tensor import Op, Tensor

STEP = 1e-3          # the differences below err by O(STEP^4) = 1e-12 and by rounding, eps / STEP = 2e-13


def gradcheck(op, *arrays, rtol=1e-6, mode="reference", seed=0, **params):
    """Compare op's backward with central differences in float64, one input entry at a time.

    L = sum(v y) with random v turns the arrays y into one number, so that one call of backward answers every
    question. With d(k) = L(x + k h e_i) - L(x - k h e_i), Taylor's series gives
        dL/dx_i = (8 d(1) - d(2)) / 12h + O(h^4).
    Errors are relative to the largest gradient of the whole case, down to the rounding floor of the difference.
    Integers, Python numbers and None are held fixed. mode: "reference" asks the formula, "auto" the kernel in its
    place. Returns the largest relative error; raises AssertionError above rtol.
    """
    expect(isinstance(op, Op), "gradcheck", repr(op), "an op", "@op on its forward makes one: see minigrad/tensor.py")
    rng = np.random.default_rng(seed)
    arrays = [a.data if isinstance(a, Tensor) else np.asarray(a) if isinstance(a, (list, np.generic)) else a
              for a in arrays]
    arrays = [a.astype("float64") if _floats(a) else a for a in arrays]
    with kernels.using(mode):
        forward, backward = kernels.choose(op, arrays)
        y, saved = forward(*arrays, **params)
        v = tuple(rng.standard_normal(a.shape) for a in _tuple(y))
        into = tuple(SKIP if type(a) in (int, float) else None for a in arrays)
        analytic = backward(v if isinstance(y, tuple) else v[0], *saved, into=into)

        def loss_terms(k, i, step):
            moved = [a.copy() if j == k else a for j, a in enumerate(arrays)]
            moved[k][i] += step
            return [a * b for a, b in zip(v, _tuple(forward(*moved, **params)[0]), strict=True)]

        def difference(k, i, step):
            return sum((p - m).sum() for p, m in zip(loss_terms(k, i, step), loss_terms(k, i, -step), strict=True))

        pairs = []
        for k, (a, da) in enumerate(zip(arrays, analytic, strict=True)):
            if into[k] is SKIP:
                continue
            if not _floats(a):
                assert da is None, f"{op.name}: argument {k} is not floating point; its gradient must be None"
                continue
            assert da is not None, f"{op.name}: backward returned no gradient of argument {k}"
            assert np.broadcast_shapes(np.shape(da), a.shape) == np.shape(da), \
                f"{op.name}: gradient {k} is {np.shape(da)}, its input {a.shape}"
            numeric = np.zeros_like(a)
            for i in np.ndindex(a.shape):
                h = STEP * max(1.0, abs(a[i]))
                numeric[i] = (8 * difference(k, i, h) - difference(k, i, 2 * h)) / (12 * h)
            pairs.append((k, sum_to(da, a.shape), numeric))

    floor = np.finfo("float64").eps / STEP * sum(np.abs(a * b).sum() for a, b in zip(v, _tuple(y), strict=True))
    largest = max((np.abs(n).max(initial=0.0) for _, _, n in pairs), default=0.0)
    worst = 0.0
    for k, da, numeric in pairs:
        gap = np.abs(da - numeric)
        error = gap.max(initial=0.0) / max(largest, floor / rtol, 1e-300)
        if not error <= rtol:                       # written so that NaN fails
            i = np.unravel_index(gap.argmax(), gap.shape)
            raise AssertionError(f"{op.name}: gradient of argument {k} at {i}: backward says {da[i]:.9g}, central "
                                 f"differences say {numeric[i]:.9g} (relative error {error:.1e})")
        worst = max(worst, error)
    return worst


def _floats(a):
    return hasattr(a, "dtype") and is_float(a.dtype)


def _tuple(y):
    return y if isinstance(y, tuple) else (y,)
