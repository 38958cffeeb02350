"""The engine on graphs with a shape that single ops do not have: order, accumulation, freeing, ownership, dtypes."""
import gc
import sys
import threading
import types
import weakref

import numpy as np
import pytest

from minigrad import Tensor, backend, no_grad, using
from minigrad.fused.dropout import dropout
from minigrad.fused.embedding import embedding
from minigrad.fused.linear import linear
from minigrad.fused.relu import relu
from minigrad.fused.softmax import softmax
from minigrad.kernels import probe
from minigrad.ops import elementwise as e
from minigrad.ops.elementwise import add, mul
from minigrad.ops.matmul import matmul
from minigrad.ops.shape import concatenate, split
from minigrad.slot import SKIP, Slot
from minigrad.tensor import Op, adds_up, is_recording, propagate
from nn import SGD

rng = np.random.default_rng(0)


def leaf(*shape, dtype="float64"):
    return Tensor(rng.standard_normal(shape).astype(backend.dtype_of(dtype)), requires_grad=True)


def private(forward):
    """An op for one test: not in the table that the tests of all ops walk."""
    op = Op(forward)
    del Op.table[op.name]
    return op


# ------------------------------------------------------------------------------------------ order and accumulation

def test_a_node_with_two_consumers():
    x = leaf(3, 4)
    y = x * x
    (y + y * x).sum().backward()                          # d/dx (x^2 + x^3)
    np.testing.assert_allclose(x.grad, 2 * x.data + 3 * x.data ** 2, rtol=1e-14)


def test_a_node_waits_for_all_its_consumers():
    """b = a + a; c = b + b: visiting a when the first gradient of b has arrived would lose half of it."""
    x = leaf(2)
    a = x * 1
    b = a + a
    c = b + b
    (c + a).sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 5])


def test_a_diamond_of_paths_with_different_lengths():
    x = leaf(3)
    short, long = x * 2, x
    for _ in range(5):
        long = long * 3
    (short * long).sum().backward()                       # 2 * 3^5 x^2
    np.testing.assert_allclose(x.grad, 4 * 3 ** 5 * x.data, rtol=1e-14)


@pytest.mark.parametrize("mode", ["reference", "auto"])
def test_one_leaf_as_both_arguments(mode):
    """Both gradients are written into one slot: the second must find the first."""
    x, dy = leaf(3, 3), rng.standard_normal((3, 3))
    with using(mode):
        (x @ x).backward(dy)
    np.testing.assert_allclose(x.grad, dy @ x.data.T + x.data.T @ dy, rtol=1e-13)


@pytest.mark.parametrize("shape", [(4,), (1,), (3, 1), (1, 1, 1), ()])
def test_broadcasting_is_undone(shape):
    x, b = leaf(2, 3, 4), leaf(*shape)
    (x * b).sum().backward()
    assert b.grad.shape == shape
    full = np.broadcast_to(b.data, x.shape)
    np.testing.assert_allclose(x.grad, full)
    stretched = tuple(i for i in range(3) if i < 3 - len(shape) or shape[i - 3 + len(shape)] == 1)
    np.testing.assert_allclose(b.grad, x.data.sum(stretched, keepdims=True).reshape(shape))


def test_leaves_accumulate_until_they_are_reset():
    w, x = leaf(3, 4), rng.standard_normal((5, 3))
    for times in (1, 2, 3):
        (x @ w).sum().backward()
        np.testing.assert_allclose(w.grad, times * np.repeat(x.sum(0)[:, None], 4, 1), rtol=1e-13)
    array, before = w.grad, w.grad.copy()
    w.grad = None
    assert w.grad is None
    (x @ w).sum().backward()
    np.testing.assert_array_equal(array, before)          # whoever has taken it may keep it
    np.testing.assert_allclose(w.grad, np.repeat(x.sum(0)[:, None], 4, 1), rtol=1e-13)


def test_a_graph_deeper_than_the_recursion_limit():
    x = y = leaf(2)
    for _ in range(100_000):
        y = y + x
    y.backward(np.ones(2))
    np.testing.assert_array_equal(x.grad, [100_001] * 2)


def test_dropping_a_deep_graph_that_nobody_used():
    y = leaf(2)
    for _ in range(100_000):
        y = y + 1.0
    del y                                                 # a chain of deallocations, not of C stack frames
    gc.collect()


def test_many_numbers_without_axes():
    """NumPy turns sums of 0-d arrays into scalars; the engine must not mind."""
    x = leaf()
    y = x * 2.0
    (y * y + y + y + x).backward()
    np.testing.assert_allclose(x.grad, 8 * x.data + 5)
    assert isinstance(x.grad, np.ndarray) and x.grad.shape == ()


# ------------------------------------------------------------------------------------------------ several outputs

def test_outputs_that_nobody_used():
    for used in ([0], [1], [2], [0, 2], [2, 1, 0]):
        x = leaf(2, 6)
        parts = split(x, parts=3)
        concatenate(*(parts[i] * (i + 1) for i in used), axis=1).sum().backward()
        want = np.zeros((2, 6))
        for i in used:
            want[:, 2 * i:2 * i + 2] = i + 1
        np.testing.assert_array_equal(x.grad, want)


def test_seeds_in_two_outputs_of_one_node():
    x = leaf(4)
    a, b = split(x, parts=2)
    propagate([(a, 2.0), (b, np.array([3.0, 4.0])), (a, 1.0)])
    np.testing.assert_array_equal(x.grad, [3, 3, 3, 4])


# ------------------------------------------------------------------------------------------------ once and no more

def test_a_graph_is_used_once():
    x = leaf(3)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="'sum' was already used. Hint: run the forward pass again"):
        y.backward()


def test_a_shared_part_is_used_once():
    x = leaf(3)
    shared = x * x
    first, second = shared.sum(), (shared * 2).sum()
    first.backward()
    with pytest.raises(RuntimeError, match="'mul' was already used"):
        second.backward()


def test_activations_are_freed_as_they_are_spent():
    """When backward reaches the first op, what the second one saved is gone; else peak memory would be twice."""
    saved, alive = [], []

    @private
    def keep(x):
        array = x + 0
        saved.append(weakref.ref(array))
        return x + 0, (array,)

    @keep.backward
    def _(dy, array):
        alive.append([ref() is not None for ref in saved])
        return (dy,)

    keep(keep(leaf(2))).sum().backward()
    assert alive == [[True, True], [True, False]] and saved[0]() is None


# ------------------------------------------------------------------------------------------------ what is recorded

def test_no_grad():
    x = leaf(2)
    with no_grad():
        assert not is_recording()
        y = x * x
        assert y.node is None and not y.requires_grad
    assert is_recording() and (x * x).requires_grad
    with pytest.raises(ZeroDivisionError):
        with no_grad():
            raise ZeroDivisionError
    assert is_recording()                                 # the switch goes back, whatever happens inside


def test_what_needs_no_gradient_gets_none():
    x, mask = Tensor(np.ones(3)), leaf(3)
    y = x * mask
    y.sum().backward()
    assert x.grad is None and x.slot is None
    assert (x * 2).node is None


def test_frozen_leaves_are_skipped():
    asked = []

    @private
    def spy(a, b):
        return a + b, ()

    @spy.backward
    def _(dy, into):
        asked.append([repr(i) if not hasattr(i, "array") else "slot" for i in into])
        return dy, dy

    a, b = leaf(2), leaf(2)
    b.requires_grad = False
    spy(spy(a, b), 3.0).sum().backward()
    assert asked == [["None", "SKIP"], ["slot", "SKIP"]]


def test_a_backward_that_adds_up_is_told_what_has_arrived():
    """x + 2 x + 3 x, the middle one adding up: it meets the gradient of the last, and the first one's comes on top."""
    told = []

    @private
    def double(x):
        return 2 * x, ()

    @adds_up
    def backward(dy, into, so_far=None):
        told.append(so_far)
        return (2 * dy if so_far is None else 2 * dy + so_far,)

    double.reference_backward = backward
    x = leaf(2)
    for inner in (x * 1.0, split(x, parts=1)[0], x):         # of one output, of a tuple; a leaf's goes to its slot
        (inner * 1.0 + double(inner) + inner * 3.0).backward(np.array([1.0, 10.0]))
        np.testing.assert_array_equal(x.grad, [6, 60])
        x.grad = None
    np.testing.assert_array_equal(told[:2], [[3, 30]] * 2)
    assert told[2:] == [None]


def test_a_forward_that_asks_is_told_where_gradients_will_go():
    told = []

    @private
    def frugal(a, b, *, into=(None, None)):
        told.append(list(into))
        return a + b, ()

    frugal.backward(lambda dy: (dy, dy))
    a = leaf(2)
    frugal(a, Tensor(np.ones(2)))
    frugal(a * 2, a)
    with no_grad():
        frugal(a, a)
    assert told == [[a.slot, SKIP], [None, a.slot], [SKIP, SKIP]]


def test_a_slot_is_lent_to_one_at_a_time():
    slot = Slot(np.zeros(2))
    one = slot.lend()
    assert one.array is slot.array and slot.lend() is None
    one.array[:] = 5
    slot.add(np.ones(2))                                   # somebody else: the borrower goes on with a copy
    assert one.array.tolist() == [5, 5] and slot.array.tolist() == [1, 1] and slot.lend() is None
    array, beta = slot.claim(one)
    assert array is slot.array and beta == 1

    slot.empty = True
    two = slot.lend()
    array, beta = slot.claim(two)
    assert array is two.array and beta == 0 and slot.lend() is None

    slot.empty = True
    three = slot.lend()
    assert three.array is slot.array and slot.lend() is None
    del three                                              # its graph was dropped
    assert slot.lend().array is slot.array


def test_threads_have_switches_of_their_own():
    """Two threads train at once; one of them holds no_grad and the reference mode in between."""
    w = [leaf(8, 8) for _ in range(2)]
    x = rng.standard_normal((20, 16, 8))
    errors, barrier = [], threading.Barrier(2)

    def train(k):
        try:
            for i in range(20):
                barrier.wait(10)
                if k:
                    with no_grad(), using("reference"):
                        assert (x[i] @ w[k]).node is None
                (x[i] @ w[k]).tanh().sum().backward()
        except BaseException as e:
            errors.append(e)
            barrier.abort()

    threads = [threading.Thread(target=train, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors
    for k in range(2):
        want = sum(a.T @ (1 - np.tanh(a @ w[k].data) ** 2) for a in x)
        np.testing.assert_allclose(w[k].grad, want, rtol=1e-12)


def test_probe_sees_every_op():
    seen, x = [], leaf(2, 3)
    with probe(lambda name, inputs, outputs: seen.append((name, len(inputs), [y.shape for y in outputs]))):
        a, b, c = split(x, parts=3)
        (a * b).sum()
    assert seen == [("split", 1, [(2, 1)] * 3), ("mul", 2, [(2, 1)]), ("sum", 1, [()])]
    x.sum()
    assert len(seen) == 3


# ------------------------------------------------------------------------------------------------------ ownership

def test_gradients_may_alias_and_nothing_is_corrupted():
    """add hands one dy to both sides. Adding into it in place for one of them would change the other's."""
    x, z = leaf(3), leaf(3)
    a, b = x * 2.0, z * 3.0
    s = a + b
    (s + a + a).sum().backward()                          # a: 1 + 1 + 1,  b: 1
    np.testing.assert_array_equal(x.grad, [6] * 3)
    np.testing.assert_array_equal(z.grad, [3] * 3)


def test_dy_is_borrowed():
    x, dy = leaf(3), np.ones(3)
    y = x + 0.0
    (y + y + y).backward(dy)
    np.testing.assert_array_equal(dy, np.ones(3))
    w = leaf(3)
    (w + 0.0).backward(dy)
    (w + 0.0).backward(dy)
    np.testing.assert_array_equal(dy, np.ones(3))
    assert not np.shares_memory(w.grad, dy)


def test_leaf_gradients_do_not_alias_each_other():
    a, b = leaf(3), leaf(3)
    (a + b).sum().backward()
    assert not np.shares_memory(a.grad, b.grad)


# --------------------------------------------------------------------------------------------------------- dtypes

@pytest.mark.parametrize("dtype, wide", [("float64", "float64"), ("float32", "float32"), ("float16", "float32"),
                                         ("bfloat16", "float32")])
def test_leaves_sum_wide_and_activations_store_narrow(dtype, wide):
    arrived = []

    @private
    def spy(x):
        return x + 0, ()

    @spy.backward
    def _(dy):
        arrived.append(dy.dtype)
        return (dy,)

    w, x = leaf(4, 4, dtype=dtype), leaf(3, 4, dtype=dtype)
    spy(spy(x) @ w).sum().backward()
    assert arrived == [backend.dtype_of(dtype)] * 2
    assert w.grad.dtype == x.grad.dtype == wide


def test_a_sixteen_bit_leaf_keeps_small_contributions():
    """2048 + 1 = 2048 in float16; a gradient summed there would stop growing."""
    w = Tensor(np.ones(1, np.float16), requires_grad=True)
    (w * np.float16(2048)).sum().backward()
    for _ in range(3):
        (w * 1.0).sum().backward()
    assert w.grad == 2051


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_python_numbers_do_not_widen(dtype):
    x = leaf(3, dtype=dtype)
    for y in (x + 1, 2 - x, x * 0.1, 0.1 * x, x / 3, 1.5 / x, x ** 2, 2.0 ** x, x.maximum(0.5), x.clip(-0.1, 0.1),
              x * np.float64(0.1), x.abs() ** 0.5):
        assert y.dtype == x.dtype
    y.sum().backward()


def test_mixed_dtypes_give_each_leaf_its_own():
    a, b = leaf(3, 4, dtype="float32"), leaf(4, 2, dtype="float64")
    (a @ b).sum().backward()
    assert a.grad.dtype == "float32" and b.grad.dtype == "float64"
    np.testing.assert_allclose(a.grad, np.broadcast_to(b.data.sum(1), (3, 4)), rtol=1e-6)


# ------------------------------------------------------------------------------------------------ seeds and errors

def test_a_loss_scale_is_a_seed():
    x = leaf(3)
    (x * x).sum().backward(1024.0)
    np.testing.assert_allclose(x.grad, 1024 * 2 * x.data)
    x.grad = None
    (x * x).sum().backward(np.array(0.5))
    np.testing.assert_allclose(x.grad, x.data)
    (x * 1.0).backward(2.0)                               # a number stands for an array full of it
    np.testing.assert_allclose(x.grad, x.data + 2)


def test_backward_refuses_what_it_cannot_do():
    x = leaf(2, 3)
    with pytest.raises(ValueError, match=r"a tensor of shape \(2, 3\); expected a scalar loss. Hint: sum or"):
        (x * x).backward()
    with pytest.raises(ValueError, match=r"dL/dy of shape \(3,\); expected \(2, 3\), y's own"):
        (x * x).backward(np.ones(3))
    with pytest.raises(RuntimeError, match="not computed from anything that requires grad.*under no_grad"):
        Tensor(np.ones(1)).backward()
    with no_grad(), pytest.raises(RuntimeError, match="not computed"):
        (x * x).sum().backward()


def test_setting_grad():
    x = leaf(2, 3)
    x.grad = np.ones((2, 3))
    (x * 2.0).sum().backward()
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 3))
    with pytest.raises(ValueError, match=r"grad: got shape \(3,\); expected \(2, 3\)"):
        x.grad = np.ones(3)
    x.grad = np.zeros((2, 3))
    assert x.grad is not None and not x.grad.any()
    x.grad = [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(x.grad, [[1, 2, 3], [4, 5, 6]])
    with pytest.raises(ValueError, match=r"grad: got shape \(\); expected \(2, 3\)"):
        x.grad = 1.0


@pytest.mark.parametrize("data", [None, "abc", [None, 1.0], {}])
def test_a_tensor_holds_numbers(data):
    with pytest.raises(ValueError, match="Tensor: got .*; expected numbers"):
        Tensor(data)


@pytest.mark.parametrize("call, says", [
    (lambda x: add(x), "add: got 1 arrays; expected 2"), (lambda x: add(x, x, x), "add: got 3 arrays; expected 2"),
    (lambda x: linear(x), "linear: got 1 arrays; expected 2 or 3"),
    (lambda x: x @ None, "matmul: got None for argument 2; expected an array"),
    (lambda x: linear(None, x), "linear: got None for argument 1"), (lambda x: x + "a", "Tensor: got str"),
    (lambda x: concatenate(), "concatenate: got nothing; expected arrays, one by one"),
    (lambda x: concatenate([x, x]), r"concatenate: got a list; .* Hint: concatenate\(\*arrays\)"),
    (lambda x: concatenate(x, None), "concatenate: got None for argument 2; expected an array"),
    (lambda x: x @ 2.0, r"matmul: got \(2, 3\) @ \(\)"), (lambda x: linear(x, 2), "linear: got"),
])
def test_an_op_says_what_arrays_it_takes(call, says):
    with pytest.raises(ValueError, match=says):
        call(leaf(2, 3))
    with no_grad(), pytest.raises(ValueError, match=says):
        call(Tensor(np.ones((2, 3), np.float32)))


@pytest.mark.parametrize("mode", ["reference", "auto"])
def test_bytes_in_another_order_are_the_same_numbers(mode):
    """As files of other machines have them; compiled code would read 2.3e-41 for 1.0."""
    x, w, ids = (a.astype(a.dtype.newbyteorder()) for a in (np.ones((2, 3), "f4"), np.eye(3, dtype="f4"), np.arange(2)))
    with using(mode):
        for y in (linear(Tensor(x), w), linear(x, Tensor(w)), relu(x)):
            np.testing.assert_array_equal(y.data, np.ones((2, 3)))
        np.testing.assert_array_equal(embedding(ids, w).data, np.eye(3)[:2])


def test_a_number_is_an_array_without_axes():
    np.testing.assert_array_equal(embedding(1, leaf(3, 2)).data.shape, (2,))
    assert relu(-2.0).item() == 0 and Tensor(3.0).sum().item() == 3


def test_only_floats_require_grad():
    with pytest.raises(ValueError, match="requires_grad with dtype int64"):
        Tensor(np.arange(3), requires_grad=True)


def test_a_backward_with_the_wrong_number_of_gradients():
    @private
    def broken(a, b):
        return a + b, ()

    broken.backward(lambda dy: (dy,))
    with pytest.raises(ValueError, match="shorter"):
        broken(leaf(2), leaf(2)).sum().backward()


def test_a_mix_of_devices_is_refused(monkeypatch):
    class ndarray:
        ndim, shape, dtype = 1, (3,), np.dtype("float32")

    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(ndarray=ndarray))
    with pytest.raises(ValueError, match="add: got a NumPy array .CPU. beside a CuPy array .GPU.; .*to_device"):
        add(Tensor(np.ones(3)), Tensor(ndarray()))
    assert backend.device_of([ndarray(), 2.0, None], "add") == "gpu"


def test_calling_an_op_on_arrays_gives_a_plain_tensor():
    y = mul(np.ones(3), [1, 2, 3])
    assert isinstance(y, Tensor) and y.node is None
    np.testing.assert_array_equal(matmul(np.eye(2), np.ones(2)).data, np.ones(2))


# ------------------------------------------------------------------------------------------- Tensor's own surface

def test_operators_and_their_reflections():
    a = np.array([1.0, 2.0, 4.0])
    x = Tensor(a, requires_grad=True)
    for got, want in [(2 - x, 2 - a), (x - 2, a - 2), (2 / x, 2 / a), (x / 2, a / 2), (2 ** x, 2 ** a),
                      (x ** 2, a ** 2), (-x, -a), (abs(-x), a), (a - x, a - a), (np.eye(3) @ x, a), (x @ a, a @ a),
                      (a + x, a + a), (np.float32(2) * x, 2 * a), (x.T, a)]:
        assert isinstance(got, Tensor) and got.requires_grad
        np.testing.assert_array_equal(got.data, want)
    np.testing.assert_array_equal(x > 1, [False, True, True])
    np.testing.assert_array_equal(x <= x, [True, True, True])
    y = x
    y += 1                                                # another tensor, x is as it was
    np.testing.assert_array_equal(x.data, a)


def test_methods_take_parameters_by_position_and_by_name():
    a = rng.standard_normal((2, 3))
    x = Tensor(a)
    for got, want in [
        (x.sum(0), a.sum(0)), (x.sum(axis=-1, keepdims=True), a.sum(-1, keepdims=True)),
        (x.mean(1, True), a.mean(1)[:, None]),
        (x.reshape(3, 2), a.reshape(3, 2)), (x.reshape((3, 2)), a.reshape(3, 2)), (x.reshape(-1), a.reshape(-1)),
        (x.transpose(), a.T), (x.transpose(1, 0), a.T), (x.transpose((1, 0)), a.T), (x.T, a.T),
        (x.swapaxes(0, 1), a.T), (x.expand_dims(0), a[None]), (x[None].squeeze(0), a), (x.clip(-1, 1), a.clip(-1, 1)),
        (x.maximum(0.5), np.maximum(a, 0.5)), (x.astype("float32"), a.astype("float32")), (x.split(3)[1], a[:, 1:2]),
        (x[1], a[1]), (x[:, [0, 0]], a[:, [0, 0]]), (x[Tensor(np.array([1, 0]))], a[[1, 0]]), (x[x > 0], a[a > 0]),
        (x.broadcast_to(4, 2, 3), np.broadcast_to(a, (4, 2, 3))),
        (x.take_along_axis(np.array([[0], [2]])), a[[0, 1], [0, 2]][:, None]),
    ]:
        np.testing.assert_array_equal(got.data, want)
    np.testing.assert_array_equal(x.argmax(1), a.argmax(1))
    with pytest.raises(ValueError, match="sum: got 4 arguments; expected at most 3"):
        x.sum(0, True, 5)
    with pytest.raises(ValueError, match="sum: got axis twice; expected it by its place or by its name"):
        x.sum(0, axis=1)


def test_a_tensor_of_one_number_is_a_number():
    x = leaf(1, 1)
    assert float(x) == x.item() == x.data[0, 0] and bool(x) and int(Tensor(3)) == 3
    for convert in (float, bool, Tensor.item):
        with pytest.raises(ValueError, match=r"item: got a tensor of shape \(2,\); expected one entry"):
            convert(leaf(2))


def test_a_tensor_is_a_sequence_of_its_rows():
    x = leaf(3, 2)
    assert len(x) == 3 and [r.shape for r in x] == [(2,)] * 3
    a, b, c = x
    (a * 2 + c).sum().backward()
    np.testing.assert_array_equal(x.grad, [[2, 2], [0, 0], [1, 1]])
    with pytest.raises(TypeError, match="without axes"):
        len(leaf())


def test_numpy_does_not_swallow_a_history():
    x = leaf(2)
    for swallow in (np.asarray, lambda t: np.stack([t, t]), lambda t: Tensor([t, t]), lambda t: np.concatenate([t, t])):
        with pytest.raises(TypeError, match="requires grad"):
            swallow(x)
    with pytest.raises(TypeError):
        np.exp(x)
    assert np.asarray(x.detach()) is not None and x.numpy() is x.data
    np.testing.assert_array_equal(np.asarray(Tensor(np.ones(2)), dtype="float32"), np.ones(2))
    with pytest.raises(ValueError, match="copy"):
        np.asarray(Tensor(np.ones(2)), dtype="float32", copy=False)
    assert not x.detach().requires_grad and x.detach().data is x.data


def test_a_gradient_that_cannot_be_set_is_none():
    w = Tensor(np.zeros(3, np.float32), requires_grad=True)
    w.grad = Tensor(np.ones(3, np.float32))
    np.testing.assert_array_equal(w.grad, np.ones(3))
    w.grad = None
    with pytest.raises(ValueError):
        w.grad = np.array(["a", "b", "c"])
    assert w.grad is None


@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_integers_are_refused_where_bits_would_be_taken_for_floats(mode):
    with using(mode):
        for f in (relu, lambda x: dropout(x, p=0.5, key=(0, 0, 0, 0))):
            for dtype in (np.uint16, np.int64):
                with pytest.raises(ValueError, match="got an array of u?int.*; expected floats"):
                    f(np.array([40000, 5], dtype))


def test_equal_is_asked_entry_by_entry():
    """As > is; a dict still finds a Tensor by what it is."""
    x, y = leaf(3), Tensor(np.zeros(3))
    assert ((x - x) == 0).all() and (y != x).all() and (y == np.zeros(3)).all() and {x: 1}[x] == 1
    np.testing.assert_array_equal(e.where(y == 0, 1.0, y).data, 1)


def test_a_history_is_not_dropped_by_a_second_tensor():
    x = leaf(2)
    for t in (x, x * 2.0):
        with pytest.raises(TypeError, match="requires grad; .* Hint: x.detach"):
            Tensor(t)
    assert not Tensor((x * 2.0).detach()).requires_grad


def test_a_gradient_goes_to_leaves_of_floats_only():
    x = Tensor(np.arange(3))
    x.requires_grad = True                                # past the check
    with pytest.raises(ValueError, match="a leaf of dtype int64; expected a floating dtype"):
        (x * 2.5).sum().backward()
    y = leaf(2) * 2.0
    with pytest.raises(ValueError, match="grad: got the result of an op"):
        y.grad = np.ones(2)


@pytest.mark.parametrize("other", [2, np.float64(2), np.array(2.0), np.array([2, 2]), np.array(2), True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_has_no_say_in_the_dtype(other, dtype):
    """Numbers, arrays without axes and integers, as an array or a Tensor, on either side."""
    x = leaf(2).data.astype(backend.dtype_of(dtype))
    for made in (other, Tensor(other)):
        for y in (Tensor(x) * made, made - Tensor(x), Tensor(x) / made, e.maximum(Tensor(x), made)):
            assert y.dtype == x.dtype
    assert (Tensor(x).sum() / Tensor([1, 0]).sum()).dtype == x.dtype
    assert (Tensor(x) @ np.eye(2, dtype=int)).dtype == ((np.eye(2) > 0) @ Tensor(x)).dtype == x.dtype
    assert (Tensor(x) + np.ones(2)).dtype == np.result_type(x, np.ones(2)) == "float64"


def test_a_boolean_for_a_power_has_a_gradient():
    x = leaf(2)
    (x ** np.array([True, False])).sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 0])


def test_numbers_alone_will_do():
    for y, want in ((e.where([True, False], 0.0, -np.inf), [0, -np.inf]), (e.maximum(0.5, 1), 1), (e.div(1, 2.5), 0.4)):
        np.testing.assert_array_equal(y.data, want)


def test_arrays_by_name():
    x, w, b = leaf(2, 3), leaf(3, 4), leaf(4)
    np.testing.assert_array_equal(linear(x, w, b=b).data, linear(x, w, b).data)
    np.testing.assert_array_equal(linear(w=w, x=x).data, linear(x, w).data)
    for call, says in ((lambda: linear(x, w, x=x), "linear: got x= beside 2 arrays; expected b by name"),
                       (lambda: linear(x, b=b), "linear: got None for argument 2"),
                       (lambda: softmax(x, dim=0), "softmax: got dim= beside 1 arrays; expected axis, causal by name")):
        with pytest.raises(ValueError, match=says):
            call()
    with pytest.raises(ValueError, match="sum: got keepdims 1; .* Hint: several axes are a tuple"):
        x.sum(0, 1)


def test_a_step_between_forward_and_backward_is_noticed():
    """The second loss was computed from weights that are others now."""
    w, v = leaf(3), leaf(3)
    opt = SGD([w, v], lr=0.1)
    first, second = (w * v).sum(), (w * v * 2.0).sum()
    first.backward()
    opt.step()
    with pytest.raises(RuntimeError, match="an optimiser has stepped since 'mul' ran on its parameters"):
        second.backward()


def test_subclasses_of_arrays_are_arrays():
    class Odd(np.ndarray):
        def __mul__(self, other):
            return "something else"

    m = Tensor(np.array([[1.0, 2.0], [3.0, 4.0]]).view(Odd))
    np.testing.assert_array_equal((m * m).data, [[1, 4], [9, 16]])
