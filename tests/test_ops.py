"""Every op, checked from all sides. The cases are in opcases.py; a kernel is held to its reference, the reference to
central differences and to PyTorch."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from opcases import CASES, Case, gradient_errors

import minigrad.ops.elementwise as e
import minigrad.ops.reduce as r
import minigrad.ops.shape as s
from minigrad import Tensor, backend, formulas, gradcheck, kernels, pool, using
from minigrad.backend import dtype_of, is_float, wide_dtype
from minigrad.fused.attention import attention
from minigrad.fused.cross_entropy import cross_entropy, linear_cross_entropy
from minigrad.fused.dropout import dropout
from minigrad.fused.gelu import gelu
from minigrad.fused.layer_norm import layer_norm
from minigrad.fused.linear import linear
from minigrad.fused.mlp import mlp
from minigrad.fused.softmax import log_softmax, softmax
from minigrad.ops.index import getitem, take_along_axis
from minigrad.ops.matmul import matmul
from minigrad.slot import SKIP
from minigrad.sums import sum_to
from minigrad.tensor import Op, propagate

# Relative to the largest entry. Wide results may differ by the order of a sum of n < 200 terms, n units of rounding
# (1.1e-16 and 6e-8); 16-bit ones are rounded once more, each side by half a unit in the last place (2^-10, 2^-7).
TOL = {"float64": 3e-14, "float32": 2e-5, "float16": 2.0 ** -10, "bfloat16": 2.0 ** -7}

KERNELS = [c for c in CASES if c.op.kernels]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_kernel_case = pytest.mark.parametrize("case", KERNELS, ids=str)
every_dtype = pytest.mark.parametrize("dtype", TOL)
both_modes = pytest.mark.parametrize("mode", ["reference", "auto"])


@pytest.fixture(autouse=True)
def _extremes_are_meant():
    with np.errstate(all="ignore"):
        yield


def modes(op):
    return ("reference", "auto") if op.kernels else ("reference",)


def tuple_of(y):
    return y if isinstance(y, tuple) else (y,)


def some_dy(y, seed=1):
    """A gradient for the output(s) y: the same for the same shapes, whatever dtype, device and layout."""
    rng = np.random.default_rng(seed)
    dys = tuple(backend.xp_of(a).asarray(rng.standard_normal(a.shape)).astype(a.dtype) for a in tuple_of(y))
    return dys if isinstance(y, tuple) else dys[0]


def run(op, arrays, params, mode, layout=lambda a: a):
    """[outputs..., gradients of the arguments as the engine hands them on...], None for those that have none."""
    with using(mode):
        forward, backward = kernels.choose(op, arrays)
        y, saved = forward(*map(layout, arrays), **params)
        dy = some_dy(y)
        dy = tuple(map(layout, dy)) if isinstance(dy, tuple) else layout(dy)
        gradients = backward(dy, *saved, into=tuple(None if floats(a) else SKIP for a in arrays))
    return [*tuple_of(y), *(sum_to(g, a.shape) if floats(a) else None for g, a in zip(gradients, arrays, strict=True))]


def floats(a):
    return hasattr(a, "dtype") and is_float(a.dtype)


def close(got, want, tol, what, dtypes=True):
    """Same shapes, dtypes, infinities and NaNs; entries equal to tol, relative to the largest of their array."""
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        name = f"{what}, result {i}"
        assert (g is None) == (w is None), f"{name}: {g} vs {w}"
        if g is None:
            continue
        g, w = backend.asnumpy(g), backend.asnumpy(w)
        assert g.shape == w.shape, f"{name}: shape {g.shape} vs {w.shape}"
        # A gradient may leave in the wide dtype: the engine rounds those of activations.
        assert not dtypes or wide_dtype(g.dtype) == wide_dtype(w.dtype), f"{name}: dtype {g.dtype} vs {w.dtype}"
        g, w = g.astype("f8"), w.astype("f8")
        same = (g == w) | (np.isnan(g) & np.isnan(w))
        finite = np.isfinite(g) & np.isfinite(w)
        assert (same | finite).all(), f"{name}:\n{g}\nvs\n{w}"
        scale = max(1.0, np.abs(w[np.isfinite(w)]).max(initial=0.0))
        error = np.abs(g - w, where=finite & ~same, out=np.zeros(g.shape)).max(initial=0.0) / scale
        assert error <= tol, f"{name}: relative error {error:.2e} > {tol}"


# ------------------------------------------------------------------------------------------------ the table, walked

def test_every_op_has_a_case():
    formulas.chapters()                                                  # imports every file that has ops
    assert not set(Op.table) - {c.op.name for c in CASES}


@every_case
def test_gradient(case):
    for _, implementation, error in gradient_errors([case]):
        assert error <= 1e-6, f"{implementation}: {error:.1e}"


@every_case
@pytest.mark.filterwarnings("ignore::UserWarning")                        # PyTorch's, about axes of 0
def test_against_pytorch(case):
    torch = pytest.importorskip("torch")
    if case.torch is None:
        pytest.skip("PyTorch has no counterpart")
    for dtype, tol in [("float64", 1e-10)] + [("float32", TOL["float32"])] * (not case.smooth):
        arrays = case.arrays(dtype)
        tensors = [torch.tensor(np.array(a, order="C"), requires_grad=is_float(a.dtype))
                   if isinstance(a, np.ndarray) else a for a in arrays]
        y = tuple_of(case.torch(torch, *tensors, **case.params))
        torch.autograd.backward(y, [torch.tensor(np.asarray(g)) for g in tuple_of(some_dy(
            tuple(t.detach().numpy() for t in y)))])
        theirs = [t.detach().numpy() for t in y]
        theirs += [t.grad.numpy() if floats(a) else None for a, t in zip(arrays, tensors, strict=True)]
        close(run(case.op, arrays, case.params, "reference"), theirs, tol, f"{dtype}, ours vs PyTorch")


@every_case
def test_outputs_keep_the_storage_dtype(case):
    for dtype in TOL:
        want = dtype_of(case.params.get("dtype", dtype))                 # cast has a dtype of its own
        want = wide_dtype(want) if case.wide else want
        for mode in modes(case.op):
            with using(mode):
                y = case.op(*case.arrays(dtype), **case.params)
            assert {t.dtype for t in tuple_of(y)} == {want}, f"{mode}, {dtype}: {[t.dtype for t in tuple_of(y)]}"


@every_kernel_case
@every_dtype
def test_kernel_agrees_with_the_reference(case, dtype):
    arrays = case.arrays(dtype)
    close(run(case.op, arrays, case.params, "auto"), run(case.op, arrays, case.params, "reference"), TOL[dtype],
          "kernel vs reference")


def every_other(a):
    return np.stack([a, a + 1], -1)[..., 0]


def column_order(a):
    return np.array(a, order="F")


def backwards(a):
    return np.flip(np.flip(a).copy())


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = [every_other, column_order, backwards, read_only]


@every_case
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
def test_memory_layout_does_not_matter(case, layout):
    arrays = case.arrays()

    def lay(a):
        return layout(a) if isinstance(a, np.ndarray) and a.dtype != bool else a

    for mode in modes(case.op):
        close(run(case.op, arrays, case.params, mode, lay), run(case.op, arrays, case.params, mode), TOL["float64"],
              f"{mode}, {layout.__name__}")


@every_case
def test_a_stretched_dy_is_as_good_as_a_full_one(case):
    """The dy that sum() hands down is one number with strides of 0."""
    arrays = case.arrays()
    for mode in modes(case.op):
        with using(mode):
            forward, backward = kernels.choose(case.op, arrays)
            got = []
            for full in (False, True):
                y, saved = forward(*arrays, **case.params)
                dys = tuple(np.broadcast_to(np.float64(0.5), a.shape) for a in tuple_of(y))
                dys = tuple(map(np.array, dys)) if full else dys
                got.append(backward(dys if isinstance(y, tuple) else dys[0], *saved, into=(None,) * len(arrays)))
        pairs = zip(*got, arrays, strict=True)
        for a, b in [(a, b) for a, b, x in pairs if floats(x)]:
            close([a], [b], TOL["float64"], mode)


@every_case
def test_nothing_that_is_borrowed_is_written_to(case):
    """Arguments, dy, and the outputs, which are the caller's as soon as forward has returned."""
    for mode in modes(case.op):
        arrays = case.arrays()
        with using(mode):
            forward, backward = kernels.choose(case.op, arrays)
            y, saved = forward(*arrays, **case.params)
            dy = some_dy(y)
            borrowed = [a for a in (*arrays, *tuple_of(y), *tuple_of(dy)) if isinstance(a, np.ndarray)]
            before = [a.copy() for a in borrowed]
            backward(dy, *saved, into=(None,) * len(arrays))
        for a, b in zip(case.arrays(), arrays, strict=True):
            np.testing.assert_array_equal(a, b)                          # forward left its arguments alone
        for a, b in zip(borrowed, before, strict=True):
            np.testing.assert_array_equal(a, b)


@every_case
@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_gradients_arrive_in_slots(case, dtype):
    """Through Tensors: once, twice (they add up), and for one argument at a time (the others are skipped)."""
    arrays = case.arrays(dtype)
    wanted = [k for k, a in enumerate(arrays) if floats(a)]
    for mode in modes(case.op):
        returned = run(case.op, arrays, case.params, mode)[-len(arrays):]
        with using(mode):
            for which in [wanted] + [[k] for k in wanted] * (len(wanted) > 1):
                args = [Tensor(a, requires_grad=k in which) if floats(a) else a for k, a in enumerate(arrays)]
                for times in (1, 2):
                    y = case.op(*args, **case.params)
                    propagate([*zip(tuple_of(y), tuple_of(some_dy(data_of(y))), strict=True)])
                    for k in which:
                        grad = args[k].grad
                        assert grad.dtype == wide_dtype(arrays[k].dtype)
                        if np.isfinite(returned[k].astype("f8")).all():
                            want = times * returned[k].astype(grad.dtype)
                            close([grad], [want], 4 * TOL[dtype], f"{mode}, argument {k}, {times} times")
                    assert all(a.grad is None for k, a in enumerate(args) if isinstance(a, Tensor) and k not in which)


def data_of(y):
    return tuple(t.data for t in y) if isinstance(y, tuple) else y.data


@every_kernel_case
def test_one_thread_and_two_give_the_same_bits(case, monkeypatch):
    monkeypatch.setattr(pool, "SMALL", 0)                                # even these small shapes are shared out
    arrays, before, got = case.arrays("float32"), pool.size(), []
    try:
        for n in (1, 2):
            pool.set_size(n)
            got.append(run(case.op, arrays, case.params, "auto"))
    finally:
        pool.set_size(before)
    for a, b in zip(*got, strict=True):
        np.testing.assert_array_equal(a, b)


# ------------------------------------------------------------------------------------------- drawn, not written down

UNARY = {e.neg: (-2, 2), e.square: (-2, 2), e.exp: (-2, 2), e.log: (0.2, 3), e.log1p: (-0.8, 3), e.sqrt: (0.2, 3),
         e.sin: (-4, 4), e.cos: (-4, 4), e.tanh: (-3, 3), e.sigmoid: (-6, 6), e.silu: (-6, 6), e.erf: (-3, 3)}
BINARY = [e.add, e.sub, e.mul, e.div, e.pow]
KINKED = [e.abs, e.maximum, e.minimum, r.max, r.min]
REDUCTIONS = [r.sum, r.mean, r.var, r.logsumexp, r.max, r.min]
shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)


@st.composite
def broadcastable(draw, shape):
    """A shape that broadcasts with shape, and not beyond it."""
    keep = draw(st.integers(0, len(shape)))
    return tuple(n if draw(st.booleans()) else 1 for n in shape[len(shape) - keep:])


@st.composite
def drawn_cases(draw):
    shape = draw(shapes)
    family = draw(st.sampled_from(["unary", "binary", "reduction", "matmul", "shape", "place"]))
    if family == "unary":
        op = draw(st.sampled_from([*UNARY, e.abs]))
        low, high = UNARY.get(op, (0, 0))
        return Case(op, [shape], low=low, high=high, apart=0.1 * (op is e.abs))
    if family == "binary":
        args = [shape, draw(broadcastable(shape))]
        op = draw(st.sampled_from([*BINARY, e.where]))
        mask = [np.random.default_rng(0).random(draw(broadcastable(shape))) < 0.5] if op is e.where else []
        return Case(op, mask + (args if draw(st.booleans()) else args[::-1]), low=0.5)
    if family == "reduction":
        axes = draw(st.none() | st.sets(st.sampled_from(range(len(shape))), min_size=1).map(tuple)) if shape else None
        op = draw(st.sampled_from(REDUCTIONS))
        return Case(op, [shape], dict(axis=axes, keepdims=draw(st.booleans())), apart=0.1 * (op in KINKED))
    if family == "matmul":
        m, k, n = (draw(st.integers(1, 4)) for _ in range(3))
        args = [(*shape, m, k), (*draw(broadcastable(shape)), k, n)]
        if draw(st.booleans()):
            args = [(*args[1][:-2], m, k), (*shape, k, n)]
        return Case(matmul, args)
    if family == "shape":
        axis = draw(st.integers(-len(shape), len(shape) - 1)) if shape else None
        return draw(st.sampled_from([
            Case(s.reshape, [shape], dict(shape=draw(st.permutations(shape)))),
            Case(s.transpose, [shape], dict(axes=tuple(draw(st.permutations(range(len(shape))))))),
            Case(s.pad, [shape], dict(widths=[(draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in shape])),
            Case(s.stack, [shape] * draw(st.integers(1, 3)), dict(axis=draw(st.integers(0, len(shape))))),
            *([Case(s.concatenate, [shape] * draw(st.integers(1, 3)), dict(axis=axis)),
               Case(s.split, [shape], dict(parts=(1, shape[axis] - 1), axis=axis)),
               Case(s.flip, [shape], dict(axis=axis)), Case(r.cumsum, [shape], dict(axis=axis)),
               Case(r.prod, [shape], dict(axis=axis))] if shape else [])]))
    shape = shape or (2,)
    places = draw(st.lists(st.integers(-shape[0], shape[0] - 1), max_size=4))
    picked = np.resize(np.array(places or [0]), (len(places) or 1, *shape[1:]))
    return draw(st.sampled_from([Case(getitem, [shape], dict(index=np.array(places, int))),
                                 Case(getitem, [shape], dict(index=(Ellipsis, slice(*sorted([0, *places])[:2])))),
                                 Case(take_along_axis, [shape, picked], dict(axis=0))]))


@given(case=drawn_cases(), layout=st.sampled_from(LAYOUTS), dtype=st.sampled_from(list(TOL)), seed=st.integers(0, 9999))
def test_drawn_cases(case, layout, dtype, seed):
    with np.errstate(all="ignore"):
        arrays = case.arrays(seed=seed)
        gradcheck(case.op, *arrays, **case.params)
        arrays = case.arrays(dtype, seed)
        want = run(case.op, arrays, case.params, "reference")
        assert want[0].dtype == dtype_of(dtype)
        for mode in modes(case.op):
            got = run(case.op, arrays, case.params, mode, lambda a: layout(a) if floats(a) else a)
            close(got, want, TOL[dtype], mode)


# ------------------------------------------------------------------------------------------------ single statements

def test_a_number_without_axes_needs_no_widths():
    assert s.pad(Tensor(np.array(2.0)), widths=[]).data == 2


def test_sigmoid_does_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        x = np.array([-1000.0, 0.0, 1000.0])
        np.testing.assert_array_equal(e.sigmoid(x).data, [0, 0.5, 1])
        np.testing.assert_array_equal(e.silu(x).data, [0, 0, 1000])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@both_modes
def test_sixteen_bit_sums_are_taken_wide(dtype, mode):
    """Each result is the float64 one rounded once: a sum in 16 bits would have rounded at every step."""
    dtype, rng = dtype_of(dtype), np.random.default_rng(0)
    x = rng.uniform(0, 1, (40, 300)).astype(dtype)
    exact = x.astype("f8")

    def once(y, want):
        assert y.dtype == dtype
        half_an_ulp = TOL[str(dtype)] / 2
        np.testing.assert_allclose(y.astype("f8"), want, rtol=1.01 * half_an_ulp)

    with using(mode):
        once(r.sum(x, axis=1).data, exact.sum(1))
        once(r.mean(x, axis=0).data, exact.mean(0))
        once(r.var(x).data, exact.var())
        once(r.cumsum(x, axis=0).data, exact.cumsum(0))
        once(r.logsumexp(x, axis=1).data, np.log(np.exp(exact).sum(1)))
        once(matmul(x, x.T).data, exact @ exact.T)

        w, b, table = (Tensor(np.zeros(n, dtype), requires_grad=True) for n in ((300, 2), 300, (2, 300)))
        dy = x[:, :2] * 1
        matmul(x, w).backward(dy)
        e.add(np.zeros_like(x), b).backward(x)
        table[np.arange(40) % 2].backward(x)
    for got, want in [(w.grad, exact.T @ dy.astype("f8")), (b.grad, exact.sum(0)), (table.grad[0], exact[::2].sum(0))]:
        assert got.dtype == "float32"
        np.testing.assert_allclose(got, want, rtol=1e-5)                 # leaves are not rounded at all


@pytest.mark.parametrize("wrong", [lambda dy, a, b: (dy * b, -dy * a), lambda dy, a, b: (dy * b, None),
                                   lambda dy, a, b: (dy * b, dy * a * 1.00001), lambda dy, a, b: (dy * b, dy * np.nan),
                                   lambda dy, a, b: (dy * b, (dy * a)[:1])])
def test_gradcheck_can_fail(wrong):
    op = Op(lambda a, b: (a * b, (a, b)))
    del Op.table[op.name]
    op.backward(wrong)
    with pytest.raises(AssertionError, match="<lambda>"):
        gradcheck(op, np.array([[0.5, 2.0]] * 2), np.array([[3.0, 4.0]] * 2))


def test_logsumexp_of_nothing_but_minus_infinity():
    """log 0 = -inf, and no entry can be made responsible for it."""
    x = Tensor(np.full((2, 3), -np.inf), requires_grad=True)
    y = x.logsumexp(1)
    y.backward(np.ones(2))
    np.testing.assert_array_equal(y.data, [-np.inf] * 2)
    np.testing.assert_array_equal(x.grad, np.zeros((2, 3)))


def test_ties_share_the_gradient():
    x = Tensor(np.array([3.0, 1.0, 3.0, 3.0]), requires_grad=True)
    x.max().backward(6.0)
    np.testing.assert_array_equal(x.grad, [2, 0, 2, 2])
    many = Tensor(np.zeros(70_000, "float16"), requires_grad=True)       # more than the largest number of float16
    many.max().backward(7.0)
    np.testing.assert_allclose(many.grad, 1e-4, rtol=1e-3)
    a, b = (Tensor(np.array([1.0, 2.0]), requires_grad=True) for _ in range(2))
    e.maximum(a, b).backward(np.ones(2))
    np.testing.assert_array_equal(a.grad + b.grad, [1, 1])
    unknown = Tensor(np.array([[3.0, np.nan, np.nan], [1.0, 2.0, 2.0]]), requires_grad=True)
    unknown.max(1).backward(np.array([6.0, 4.0]))
    np.testing.assert_array_equal(unknown.grad, [[0, 3, 3], [0, 2, 2]])


@pytest.mark.parametrize("op, args, params, words", [
    (e.add, [(2, 3), (2,)], {}, r"add: got shapes \(2, 3\) and \(2,\)"),
    (e.where, [(2, 3), (2, 3), (4,)], {}, r"where: got shapes \(2, 3\) and \(2, 3\) and \(4,\)"),
    (matmul, [(2, 3), (2, 3)], {}, r"matmul: got \(2, 3\) @ \(2, 3\); expected the last axis of the first"),
    (matmul, [(), (2, 3)], {}, "matmul"),
    (matmul, [(2, 2, 3), (4, 3, 2)], {}, "matmul: .* leading axes"),
    (r.sum, [(2, 3)], dict(axis=2), r"sum: got axis 2 for shape \(2, 3\); expected axes from -2 to 1"),
    (r.max, [(0, 3)], {}, r"max: got shape \(0, 3\), nothing along axes"),
    (r.mean, [(0, 3)], dict(axis=0), "mean: .* at least one entry"),
    (r.cumsum, [(2, 3)], dict(axis=None), "cumsum: .* reshape first"),
    (s.reshape, [(2, 3)], dict(shape=(4, -1)), r"reshape: got shape \(4, -1\) for the 6 entries of \(2, 3\)"),
    (s.reshape, [(2, 3)], dict(shape=(-1, -1)), "at most one axis of -1"),
    (s.expand_dims, [(2, 3)], dict(axis=4), "expand_dims"),
    (s.squeeze, [(2, 3)], dict(axis=0), "squeeze: .* expected axes of 1"),
    (s.transpose, [(2, 3)], dict(axes=(0, 0)), "every axis once"),
    (s.swapaxes, [(2, 3)], dict(axis1=0, axis2=2), "swapaxes: got axis 2"),
    (s.broadcast_to, [(2, 3)], dict(shape=(2, 4)), "broadcast_to: got"),
    (s.broadcast_to, [(2, 3)], dict(shape=(4, 3)), "broadcast_to: got"),
    (s.pad, [(2, 3)], dict(widths=((1, 1),)), "a pair for every axis"),
    (s.concatenate, [(2, 3), (3, 2)], {}, "differ in axis 0 only"),
    (s.stack, [(2, 3), (3, 2)], {}, "one shape"),
    (s.split, [(2, 5)], dict(parts=2), "a divisor of 5"),
    (s.concatenate, [(2, 3), (2, 3)], dict(axis=2), "concatenate: got axis 2"),
    (s.split, [(2, 5)], dict(parts=1, axis=-3), "split: got axis -3"),
    (r.cumsum, [(2, 3)], dict(axis=2), "cumsum: got axis 2"),
    (r.prod, [(2, 3)], dict(axis=-3), "prod: got axis -3"),
    (take_along_axis, [(2, 3), (3, 1)], {}, "x's shape but for axis 1"),
    (take_along_axis, [(2, 3), (2, 1)], dict(axis=3), "take_along_axis: got axis 3 for shape"),
    (take_along_axis, [(2, 3), (2, 1)], {}, r"got indices float64 \(2, 1\) for x \(2, 3\); expected integers"),
    (r.sum, [(2, 3)], dict(axis=(0, -2)), r"sum: got axis \(0, -2\) .* each once"),
    (r.sum, [(2, 3)], dict(axis=1.0), "sum: got axis 1.0"),
    (r.var, [(2, 3)], dict(axis=0, ddof=2), "var: got ddof 2 for 2 entries; expected fewer"),
    (s.reshape, [(2, 3)], dict(shape=(-2, -3)), "reshape: got shape"),
    (s.reshape, [(1, 1)], dict(shape=(-1, -1)), "at most one axis of -1"),
    (s.expand_dims, [(2, 3)], dict(axis=(0, 1)), "expand_dims: got axis"),
    (s.broadcast_to, [(1, 3)], dict(shape=(-1, 3)), "broadcast_to: got"),
    (s.flip, [(2, 3)], dict(axis=(0, 2)), "flip: got axis 2"),
    (s.tril, [(3,)], {}, r"tril: got shape \(3,\); expected 2 axes or more"),
    (s.pad, [(2, 3)], dict(widths=((-1, 0), (0, 0))), "from 0 up"),
    (s.pad, [(2, 3)], dict(widths=1), "pad: got widths 1"),
    (s.concatenate, [(2,), ()], {}, "differ in axis 0 only"),
    (s.stack, [(2, 3), (2, 3)], dict(axis=3), "stack: got axis 3"),
    (s.stack, [(2, 3), (2, 3)], dict(axis=0.5), r"stack: got axis 0.5 for shape \(2, 3\); expected .* from -3 to 2"),
    (s.broadcast_to, [(1,)], dict(shape=None), "broadcast_to: got shape"),
    (e.clip, [(2, 3)], dict(low=Tensor(0.0)), "clip: got a Tensor for a bound; .* Hint: maximum and minimum"),
    (s.split, [(2, 5)], dict(parts=(-1, 6)), "lengths that add up to it"),
    (softmax, [(2, 3)], dict(axis=2), r"softmax: got axis 2 for shape \(2, 3\)"),
    (log_softmax, [()], {}, "softmax: got axis -1"),
    (dropout, [(2, 3)], dict(p=0.5, key=3), "dropout: got key = 3; expected .* four integers"),
], ids=lambda v: str(v))
@both_modes
def test_wrong_arguments_say_so(op, args, params, words, mode):
    with using(mode), pytest.raises(ValueError, match=words):
        op(*(np.ones(a) for a in args), **params)


def test_integers_become_floats_where_the_result_is_none():
    """Not whole numbers again: sigmoid(2) is not 0."""
    x, y = np.arange(-2, 3), np.arange(-2.0, 3)
    for op in (e.sigmoid, e.silu, e.erf, e.exp, e.tanh, r.mean, r.var, r.logsumexp):
        np.testing.assert_array_equal(op(x).data, op(y).data, str(op))
    np.testing.assert_array_equal(e.clip(x, low=-0.5).data, [-0.5, -0.5, 0, 1, 2])


@pytest.mark.parametrize("op, shapes, params", [
    (linear, [(2, 3), (3, 4)], {}), (layer_norm, [(2, 3), (3,), (3,)], {}), (softmax, [(2, 3)], {}),
    (log_softmax, [(2, 3)], {}), (gelu, [(2, 3)], {}), (attention, [(1, 2, 6)], dict(n_head=1)),
    (cross_entropy, [(2, 3), (2,)], {}), (linear_cross_entropy, [(2, 3), (4, 3), (2,)], {}),
    (mlp, [(2, 3), (3, 4), (4,), (4, 3), (3,)], {})], ids=lambda v: str(v))
@both_modes
def test_what_rounds_to_the_dtype_of_its_argument_takes_no_integers(op, shapes, params, mode):
    x, *others = (np.zeros(shape, int if shape == (2,) else "float32") for shape in shapes)
    with using(mode):
        op(x, *others, **params)
        with pytest.raises(ValueError, match="got an array of int64; expected floats. Hint: astype"):
            op(x.astype("int64"), *others, **params)


@pytest.mark.parametrize("logits, targets", [((), ()), ((2, 0), (2,))])
@both_modes
def test_cross_entropy_wants_something_to_choose_from(logits, targets, mode):
    with using(mode), pytest.raises(ValueError, match=r"got logits .* expected \(..., V\) with V at least 1"):
        cross_entropy(np.zeros(logits), np.full(targets, -1))


@pytest.mark.parametrize("x, w", [((), (4, 3)), ((2, 3), (3,)), ((2, 3), (4, 2))])
@both_modes
def test_a_head_wants_a_matrix_of_its_width(x, w, mode):
    with using(mode), pytest.raises(ValueError, match=r"linear_cross_entropy: got x .* expected \(..., C\) and"):
        linear_cross_entropy(np.zeros(x), np.zeros(w), np.zeros(x[:-1], int))


def test_gradcheck_takes_tensors_and_says_what_it_takes_not():
    x = Tensor(np.array([0.5, 2.0], "float32"), requires_grad=True)
    assert gradcheck(e.exp, x) < 1e-6
    with pytest.raises(ValueError, match="gradcheck: got <function .* expected an op"):
        gradcheck(lambda x: x * 2, x)


def test_a_wrong_index_names_the_shape():
    with pytest.raises(IndexError, match=r"getitem: .* of shape \(2, 3\)"):
        Tensor(np.ones((2, 3)))[5]


def test_a_power_of_nothing_has_the_gradients_that_its_docstring_names():
    a, b = np.array([0.0, 0.0, 4.0]), np.array([2.0, 0.0, 0.5])
    y, saved = Op.table["pow"].reference(a, b)
    da, db = Op.table["pow"].reference_backward(np.ones(3), *saved, into=(None, None))
    np.testing.assert_array_equal(y, [0, 1, 2])
    np.testing.assert_array_equal(da, [0, 0, 0.25])                       # b a^(b-1)
    np.testing.assert_allclose(db, [0, 0, 2 * np.log(4.0)], rtol=1e-15)   # y log a
