"""Recompute changes memory and time, and no bit of anything else."""
import numpy as np
import pytest

from minigrad import Tensor, backend, no_grad, recompute, using
from minigrad.fused.dropout import dropout
from minigrad.fused.layer_norm import layer_norm
from minigrad.fused.linear import linear
from minigrad.kernels import probe
from minigrad.ops.elementwise import where
from minigrad.ops.shape import split
from minigrad.profile import profile
from minigrad.tensor import Op, is_recording

DTYPES = ["float64", "float32", "float16", "bfloat16"]


class Block:
    """A residual, a norm, dropout and a two-layer MLP: what a Transformer block has to offer."""

    def __init__(self, rng, d, dtype):
        self.parameters = {name: Tensor(rng.standard_normal(shape).astype(dtype), requires_grad=True) for name, shape in
                           [("w", d), ("b", d), ("up", (d, 4 * d)), ("down", (4 * d, d))]}

    def __call__(self, x, mask=None):
        p = self.parameters
        h = (layer_norm(x, p["w"], p["b"]) @ p["up"]).tanh() @ p["down"]
        h = dropout(h, p=0.3, key=(*backend.now(), 7))
        return x + (h if mask is None else h * mask)


def train(around, dtype="float64", depth=4, steps=2):
    """Values and gradients of a stack of blocks, each called through around."""
    rng, dtype = np.random.default_rng(0), backend.dtype_of(dtype)
    blocks = [Block(rng, 8, dtype) for _ in range(depth)]
    x = Tensor(rng.standard_normal((2, 5, 8)).astype(dtype), requires_grad=True)
    mask = np.arange(8) % 3
    values = []
    with backend.moment(seed=3, step=5, micro=0):
        for _ in range(steps):                            # two micro-batches, each with dropout masks of its own
            y = x * 1.0
            for block in blocks:
                y = around(block, y, mask)
            y.backward(np.ones(y.shape))
            values.append(y.data)
    gradients = [x.grad] + [p.grad for block in blocks for p in block.parameters.values()]
    return values, gradients


def plain(fn, *inputs):
    return fn(*inputs)


def nested(fn, *inputs):
    return recompute(lambda *again: recompute(fn, *again), *inputs)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("around", [recompute, nested])
def test_values_and_gradients_are_the_same_to_the_bit(around, dtype):
    for want, got in zip(train(plain, dtype), train(around, dtype), strict=True):
        for w, g in zip(want, got, strict=True):
            assert w.dtype == g.dtype
            np.testing.assert_array_equal(w, g)


def test_two_micro_batches_have_two_masks():
    (first, second), _ = train(plain)
    assert (first != second).any()


def test_two_blocks_in_one_recompute():
    rng = np.random.default_rng(0)
    a, b = (Block(rng, 8, "float64") for _ in range(2))
    x = rng.standard_normal((3, 8))
    got = []
    for around in (plain, recompute):
        t = Tensor(x, requires_grad=True)
        y = around(lambda t: b(a(t)), t)
        with backend.moment(micro=0):
            y.backward(np.ones(y.shape))
        got.append([y.data, t.grad, *(p.grad.copy() for block in (a, b) for p in block.parameters.values())])
        for block in (a, b):
            for p in block.parameters.values():
                p.grad = None
    for w, g in zip(*got, strict=True):
        np.testing.assert_array_equal(w, g)


def test_nothing_inside_is_kept():
    """The node of a recomputed block holds the block's input, and no array that was made inside."""
    x = Tensor(np.ones((2, 8)), requires_grad=True)
    h = x * 2.0
    y = recompute(Block(np.random.default_rng(0), 8, "float64"), h)
    assert y.node.name == "recompute" and len(y.node.saved) == 1 and y.node.saved[0] is h.data


def test_the_block_runs_twice_and_records_once():
    seen = []

    def block(x):
        seen.append(is_recording())
        return x * x

    x = Tensor(np.ones(3), requires_grad=True)
    y = recompute(block, x)
    assert seen == [False]
    y.sum().backward()
    assert seen == [False, True]
    with no_grad():
        assert recompute(block, x).node is None
    assert seen == [False, True, False]


def test_several_outputs_of_which_some_are_used():
    for used in ([0], [1, 2], [0, 1, 2]):
        grads = []
        for around in (plain, recompute):
            x = Tensor(np.arange(6.0), requires_grad=True)
            outputs = around(lambda x: split(x * x, parts=3), x)
            assert isinstance(outputs, tuple)
            total = sum((outputs[i] * (i + 1)).sum() for i in used)
            total.backward()
            grads.append(x.grad)
        np.testing.assert_array_equal(*grads)


def test_none_integers_and_constants_as_inputs():
    w = Tensor(np.arange(6.0).reshape(3, 2), requires_grad=True)

    def look_up(ids, nothing, constant, x):
        assert nothing is None and isinstance(ids, np.ndarray) and not constant.requires_grad
        return w[ids] * constant + x

    x = Tensor(np.ones(2), requires_grad=True)
    recompute(look_up, np.array([0, 2, 0]), None, Tensor(np.array([1.0, 10.0])), x).sum().backward()
    np.testing.assert_array_equal(w.grad, [[2, 20], [0, 0], [1, 10]])
    np.testing.assert_array_equal(x.grad, [3, 3])


def test_gradients_without_a_differentiable_input():
    """The first block of a model sees token ids only; its parameters learn all the same."""
    w = Tensor(np.ones((3, 2)), requires_grad=True)
    recompute(lambda ids: w[ids] * w[ids], np.array([1, 1])).sum().backward()
    np.testing.assert_array_equal(w.grad, [[0, 0], [4, 4], [0, 0]])


def test_nothing_that_learns():
    y = recompute(lambda x: x * 2.0, Tensor(np.ones(2)))
    assert y.node is None and not y.requires_grad


def test_leaves_are_listed_as_parents():
    """So that whoever walks the graph finds every parameter that a block uses."""
    block = Block(np.random.default_rng(0), 8, "float64")
    x = Tensor(np.ones((2, 8)), requires_grad=True)
    y = recompute(block, x)
    parents = [p for p, *_ in y.node.parents]
    assert parents[0] is x and set(map(id, parents[1:])) == {id(p) for p in block.parameters.values()}


def test_an_input_that_comes_out_unchanged():
    x = Tensor(np.ones(2), requires_grad=True)
    a, b = recompute(lambda x: (x, x * 3.0), x * 2.0)
    (a + b).sum().backward()
    np.testing.assert_array_equal(x.grad, [8, 8])


def test_a_frozen_parameter_gets_no_gradient():
    block = Block(np.random.default_rng(0), 8, "float64")
    block.parameters["up"].requires_grad = False
    y = recompute(block, Tensor(np.ones((2, 8)), requires_grad=True))
    y.backward(np.ones(y.shape))
    assert block.parameters["up"].grad is None and block.parameters["down"].grad is not None


def test_a_tensor_from_outside_must_come_in_as_an_input():
    """fn would run its history a second time, before its other consumers have spoken."""
    x = Tensor(np.ones(2), requires_grad=True)
    h = x * 2.0
    with pytest.raises(ValueError, match="recompute: got .* an earlier 'mul'; .* Hint: pass it as an input"):
        recompute(lambda t: t * h, x)
    for what, name in ((lambda t: [t * t], "list"), (lambda t: t.data, "ndarray"), (lambda t: None, "NoneType")):
        with pytest.raises(ValueError, match=f"recompute: got a function that returns {name}; expected one that"):
            recompute(what, x)


def test_what_was_there_before_is_not_returned():
    """Its gradient would be lost; an input that is handed through keeps its own."""
    x, w = (Tensor(np.arange(1.0, 4.0), requires_grad=True) for _ in range(2))
    h = w * 2.0
    for what in (lambda t: (t * w, w), lambda t: w, lambda t: (t * w, h), lambda t: x):
        with pytest.raises(ValueError, match="got .* what was there before it; .* Hint: use the rest outside"):
            recompute(what, x)
    a, b = recompute(lambda t: (t * w, t), x)
    (a.sum() + b.sum()).backward()
    np.testing.assert_array_equal(x.grad, 1 + w.data)
    np.testing.assert_array_equal(w.grad, x.data)


def test_an_exception_inside_leaves_recording_on():
    with pytest.raises(ZeroDivisionError):
        recompute(lambda x: 1 // 0, Tensor(np.ones(2), requires_grad=True))
    assert is_recording()


def test_the_second_run_draws_the_first_run_s_numbers():
    moments = []

    def reads_the_clock(x):
        moments.append(backend.now())
        return x, (x + 1,)                                # something that it has to run for

    clock = Op(reads_the_clock)
    del Op.table["reads_the_clock"]
    clock.backward(lambda dy, _: (dy,))
    x = Tensor(np.ones(2), requires_grad=True)
    with backend.moment(seed=1, step=2, micro=3):
        y = recompute(clock, x)
        backend.next_step()                               # however far the counters have moved on
        before = backend.now()
        y.sum().backward()
        assert backend.now() == (*before[:2], before[2] + 1)
    assert moments == [(1, 2, 3)] * 2


def test_probe_sees_both_runs():
    names, x = [], Tensor(np.ones(2), requires_grad=True)
    with probe(lambda name, *_: names.append(name)):
        recompute(lambda x: (x * x).exp(), x).sum().backward()
    assert names == ["mul", "exp", "sum", "mul", "exp"]


# --------------------------------------------------------------------------------------- what need not run again

def ran_again(fn, *inputs):
    """The ops of the second run."""
    names = []
    with probe(lambda name, *_: names.append(name)):
        y = recompute(fn, *inputs)
        first = len(names)
        y.backward(np.ones(y.shape, y.dtype))
    return names[first:]


def test_a_block_leaves_out_its_last_product_and_its_sums():
    from gpt.model import GPT, GPTConfig
    names, model = [], GPT(GPTConfig(11, 8, 1, 2, 8))
    model.h[0].around = recompute
    with probe(lambda name, *_: names.append(name)):
        loss = model.loss(np.zeros((1, 8), int), np.zeros((1, 8), int))
        first = len(names)
        loss.backward()
    block = ["layer_norm", "linear", "attention", "linear", "add", "layer_norm", "linear", "gelu", "linear", "add"]
    assert names[names.index("layer_norm"):][:10] == block
    assert names[first:][:8] == block[:8] and names[first:].count("linear") == 3      # gelu is rebuilt anyway


def test_what_is_wanted_runs_and_nothing_else():
    rng = np.random.default_rng(0)
    x, w = (Tensor(rng.standard_normal((4, 4)), requires_grad=True) for _ in range(2))
    for fn, again in [(lambda x: x + 1.0, []), (lambda x: (x + 1.0) @ w, ["add"]), (lambda x: (x @ w) + x, []),
                      (lambda x: (x @ w).exp() + x, ["matmul", "exp"]), (lambda x: (x @ w) @ w, ["matmul"]),
                      (lambda x: (x @ w).reshape(16), []), (lambda x: (x @ w).reshape(16) * 2.0, ["matmul", "reshape"]),
                      (lambda x: ((x @ w) * (x + 1.0)) @ w, ["matmul", "add", "mul"]),
                      (lambda x: dropout(x @ w, p=0.5, key=(0, 0, 0, 0)) + x, [])]:
        assert ran_again(fn, x) == again


def test_a_look_at_what_was_left_out_is_not_silent():
    """fn must not depend on the data of what it computes; if it does, the gradient is NaN and not another number."""
    x = Tensor(np.full(3, 2.0), requires_grad=True)

    def peeks(x):
        y = x + 1.0
        return x * Tensor(y.data * 1)
    recompute(peeks, x).sum().backward()
    assert np.isnan(x.grad).all()


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("mode", ["auto", "reference"])
def test_programs_drawn_at_random_keep_every_bit(seed, mode):
    """Ops in any order, on any of the results so far, of which the last or any others are returned."""
    d = 4

    kinds = [lambda a, b: a + b, lambda a, b: a * b, lambda a, b: a @ b, lambda a, b: a.tanh(),
             lambda a, b: (a * 0.1).tanh().exp(), lambda a, b: layer_norm(a, b[0], b[1]), lambda a, b: a.T + b.sum(0),
             lambda a, b: a.reshape(d * d).reshape(d, d), lambda a, b: dropout(a, p=0.3, key=(1, 2, 3, seed)),
             lambda a, b: linear(a, b, a[0]).tanh(), lambda a, b: a[:2].T @ b[1:3]]

    def program(x, w, rng):
        have = [x, w, x @ w]
        for _ in range(rng.integers(1, 14)):
            a, b = (have[i] for i in rng.integers(len(have), size=2))
            have.append(kinds[rng.integers(len(kinds))](a, b))
        return have[-1] + have[rng.integers(len(have))] if rng.random() < 0.5 else have[-1]

    results = []
    for around in (plain, recompute, nested):
        values = np.random.default_rng(seed)
        x, w = (Tensor(values.standard_normal((d, d)).astype("f4"), requires_grad=True) for _ in range(2))
        with using(mode):
            y = around(lambda x, w: program(x, w, np.random.default_rng(seed)), x * 1.0, w * 1.0)
            (y * y).sum().backward()
        results.append([y.data, *(np.zeros(1) if t.grad is None else t.grad for t in (x, w))])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5 * np.abs(a).max())


def test_ops_that_give_one_number_run_again_as_they_ran():
    """NumPy's sum is no array, so the next op saved another object than the one that was noted."""
    for fn in (lambda x: x * x.sum(), lambda x: x * x.mean(), lambda x: x * x[0], lambda x: (x * x.max()) @ x):
        found = []
        for run in (fn, lambda x, fn=fn: recompute(fn, x)):
            x = Tensor(np.arange(1.0, 6, dtype="f4"), requires_grad=True)
            (run(x) ** 2).sum().backward()
            found.append(x.grad)
        np.testing.assert_array_equal(*found)


def test_a_profile_sees_what_is_left_out():
    x, w = (Tensor(np.ones((3, 3)), requires_grad=True) for _ in range(2))
    with profile() as seen:
        recompute(lambda x: x @ w, x).sum().backward()
    assert "matmul" in seen.table()
    np.testing.assert_array_equal(w.grad, np.full((3, 3), 3.0))


@pytest.mark.parametrize("fn", [
    lambda x, w: x + where((h := linear(x, w)) > 0, h, 0.0), lambda x, w: (x * x)[np.arange(4), (x @ w).argmax(-1)],
    lambda x, w: x * x if (x + 1.0).sum() > 0 else x * 3.0, lambda x, w: x * float((x @ w).sum()),
    lambda x, w: x * (x @ w).detach(), lambda x, w: x * (x @ w).numpy(), lambda x, w: x[((x @ w) > 0).argmax(0)] * x,
    lambda x, w: where((x @ w) == 0, x, x * x), lambda x, w: x[(x @ w).astype("float32").detach()[:, 0] > 0] * 2.0],
    ids=range(9))
def test_what_python_looks_into_runs_again(fn):
    rng, found = np.random.default_rng(0), []
    values = [rng.standard_normal((4, 4)) for _ in range(2)]
    for around in (plain, recompute):
        x, w = (Tensor(v, requires_grad=True) for v in values)
        y = around(lambda x, w=w: fn(x, w), x)
        (y * y).sum().backward()
        found.append([y.data, x.grad, np.zeros(1) if w.grad is None else w.grad])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_second_run_that_goes_on_longer_is_refused():
    runs = []

    def grows(x):
        runs.append(1)
        for _ in runs:
            x = x * x
        return x
    with pytest.raises(ValueError, match="a function that calls more ops in its second run"):
        recompute(grows, Tensor(np.ones(2), requires_grad=True)).sum().backward()
