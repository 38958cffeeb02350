"""Modules, initial values, optimisers on flat buffers, schedules."""
import copy
import math

import numpy as np
import pytest

from gpt import GPT, GPTConfig
from minigrad import Tensor, backend, no_grad, recompute, using
from minigrad.fused.adamw import whole
from minigrad.fused.control import FACTOR
from nn import SGD, AdamW, BatchNorm, Dropout, Embedding, LayerNorm, Linear, Module, Sequential, clip_grad_norm, init
from nn.layers import number_sites
from nn.optim import ALIGN
from nn.schedule import cosine_with_warmup

every_mode = pytest.mark.parametrize("mode", ["auto", "reference"])


@pytest.fixture(autouse=True)
def seeded():
    """The same numbers for every test, whichever run before it."""
    global rng
    rng = np.random.default_rng(0)


def leaf(*shape, dtype="float64"):
    return Tensor(rng.standard_normal(shape).astype(backend.dtype_of(dtype)), requires_grad=True)


class Tied(Module):
    """Every kind of attribute: a tied table, a list, a buffer, an option that is off, a number."""

    def __init__(self):
        self.table = Embedding(5, 4)
        self.blocks = [Linear(4, 4, bias=False), Sequential(LayerNorm(4), Dropout(0.5))]
        self.head = self.table
        self.steps, self.off, self.eps = np.arange(3.0), None, 1e-5

    def forward(self, ids):
        return self.blocks[1](self.blocks[0](self.table(ids))) @ self.head.weight.T


# modules


def test_a_module_takes_what_its_forward_takes_by_name():
    class Scaled(Module):
        def __init__(self):
            self.w = leaf(3)

        def forward(self, x, by=1.0):
            return self.w * x * by

    for around in (None, recompute):
        m, x = Scaled(), leaf(3)
        m.around = around
        m(x, by=2.0).sum().backward()
        np.testing.assert_array_equal(m.w.grad, 2 * x.data)


def test_names_in_order_of_assignment_and_tied_once():
    model = Tied()
    assert [name for name, _ in model.named_parameters()] == [
        "table.weight", "blocks.0.weight", "blocks.1.layers.0.weight", "blocks.1.layers.0.bias"]
    assert [name for name, _ in model.named_buffers()] == ["steps"]
    assert [name for name, _ in model.named_modules()] == [
        "", "table", "blocks.0", "blocks.1", "blocks.1.layers.0", "blocks.1.layers.1", "head"]
    assert model.parameters()[0] is model.head.weight


def test_a_tied_parameter_gets_the_gradient_of_both_places():
    model, ids, dy = Tied().eval().to(dtype="float64"), np.array([[0, 3]]), rng.standard_normal((1, 2, 5))
    model(ids).backward(dy)
    both = model.table.weight.grad.copy()
    model.zero_grad()
    table, model.head = model.head.weight, Embedding(5, 4)
    model.head.weight = Tensor(table.data, requires_grad=True)
    model(ids).backward(dy)
    np.testing.assert_allclose(both, table.grad + model.head.weight.grad, rtol=1e-12)


def test_train_and_eval_reach_everything():
    model = Tied()
    assert model.training and all(m.training for m in model.modules())
    assert model.eval() is model and not any(m.training for m in model.modules())
    assert model.train() is model and all(m.training for m in model.modules())


def test_to_moves_parameters_and_float_buffers():
    model = Tied()
    model.counts = np.arange(3)
    (model(np.array([[1]])) * 1.0).backward(np.ones((1, 1, 5), np.float32))
    assert model.to(dtype="bfloat16") is model
    assert {p.dtype.name for p in model.parameters()} == {"bfloat16"} and model.steps.dtype.name == "bfloat16"
    assert model.counts.dtype == np.arange(3).dtype
    assert all(p.grad is None for p in model.parameters())


def test_around_wraps_forward_and_nothing_else():
    model, seen = Sequential(Linear(2, 3), Linear(3, 2)), []
    x, names = leaf(4, 2, dtype="float32"), [name for name, _ in model.named_parameters()]
    want = model(x).data
    model.layers[0].around = lambda forward, *args: seen.append(len(args)) or forward(*args)
    model.layers[1].around = recompute
    np.testing.assert_array_equal(model(x).data, want)
    assert seen == [1] and names == [name for name, _ in model.named_parameters()]


def test_layers_compute_what_they_say():
    x = leaf(2, 3, 4, dtype="float32")
    linear, norm, table = Linear(4, 5, std=1.0), LayerNorm(4, eps=0.1), Embedding(6, 4)
    linear.bias.data = rng.standard_normal(5).astype(np.float32)
    np.testing.assert_allclose(linear(x).data, x.data @ linear.weight.data + linear.bias.data, rtol=1e-5, atol=1e-6)
    assert Linear(4, 5, bias=False).bias is None and Linear(4, 5, bias=False)(x).shape == (2, 3, 5)
    centred = x.data - x.data.mean(-1, keepdims=True)
    want = centred / np.sqrt((centred ** 2).mean(-1, keepdims=True) + 0.1)
    np.testing.assert_allclose(norm(x).data, want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(table(np.array([[5, 0]])).data, table.weight.data[[[5, 0]]])
    np.testing.assert_array_equal(Sequential(linear, abs)(x).data, np.abs(linear(x).data))


def test_dropout_layer():
    x, layer = Tensor(np.ones((50, 40), np.float32)), Dropout(0.25, site=3)
    with backend.moment(seed=1, step=2, micro=3):
        y = layer(x).data
        assert set(np.unique(y)) == {0, np.float32(1 / 0.75)} and abs((y == 0).mean() - 0.25) < 0.03
        np.testing.assert_array_equal(layer(x).data, y)
        assert (Dropout(0.25, site=4)(x).data != y).any()
    with backend.moment(seed=1, step=3, micro=3):
        assert (layer(x).data != y).any()
    assert layer.eval()(x) is x and Dropout(0.0)(x) is x
    for wrong in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match="Dropout: got rate"):
            Dropout(wrong)
    model = Sequential(Dropout(0.1), Sequential(Dropout(0.2), Dropout(0.0)))
    number_sites(model)
    assert [m.site for m in model.modules() if isinstance(m, Dropout)] == [0, 1, 2]


# initial values


def test_initial_values():
    with init.seeded(3):
        a, b = Linear(100, 50), Linear(100, 50, std=0.5)
    with init.seeded(3):
        again = Linear(100, 50)
    np.testing.assert_array_equal(a.weight.data, again.weight.data)
    assert a.weight.dtype == np.float32 and not a.bias.data.any()
    assert np.abs(a.weight.data).max() <= 0.1 and abs(a.weight.data.std() * math.sqrt(3) / 0.1 - 1) < 0.05
    assert abs(a.weight.data.mean()) < 0.005
    assert abs(b.weight.data.std() / 0.5 - 1) < 0.05
    with init.seeded(4):
        assert (Linear(100, 50).weight.data != a.weight.data).any()
    with init.empty(), init.seeded(3):                     # a model that seeds itself stays empty too
        assert init._source.get() is None


# optimisers


def test_flat_buffers_hold_views_of_everything_once():
    model = Tied().to(dtype="float64")
    before = [p.data.copy() for p in model.parameters()]
    opt = AdamW([*model.parameters(), model.head.weight])          # the tied table twice
    flat, = opt.flats
    assert len(flat.params) == 4
    assert [p.ndim for p in flat.params] == [2, 2, 1, 1]           # those that decay first
    assert len(flat.data) == sum(-(-p.size // ALIGN) * ALIGN for p in model.parameters())
    ends = 0
    for p, was in zip(model.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.data, was)
        assert np.shares_memory(p.data, flat.data) and np.shares_memory(p.slot.array, flat.grads)
        start = (p.data.ctypes.data - flat.data.ctypes.data) // 8
        assert start % ALIGN == 0 and start >= ends
        assert (start < flat.decayed) == (p.ndim >= 2)
        ends = start + p.size
    model(np.array([[1, 2]])).backward(np.ones((1, 2, 5)))
    assert model.table.weight.grad is model.table.weight.slot.array and flat.grads.any()
    opt.zero_grad()
    assert all(p.grad is None for p in model.parameters()) and flat.grads.any()      # flags only, nothing is written


def test_gradients_that_are_there_already_come_along():
    w = leaf(3, 2)
    (w * 2.0).sum().backward()
    AdamW([w])
    np.testing.assert_array_equal(w.grad, np.full((3, 2), 2.0))
    (w * 3.0).sum().backward()
    np.testing.assert_array_equal(w.grad, np.full((3, 2), 5.0))


def test_matrices_decay_and_vectors_do_not():
    w, b = leaf(4, 4), leaf(4)
    for make in (AdamW, SGD):
        before = w.data.copy(), b.data.copy()
        opt = make([w, b], lr=0.1, weight_decay=0.5)
        opt.step()                                         # no gradient has arrived: it is 0
        np.testing.assert_allclose(w.data, before[0] * (1 - 0.1 * 0.5), rtol=1e-12)
        np.testing.assert_array_equal(b.data, before[1])


def test_parameters_without_a_gradient_keep_their_value_and_old_gradients_do_not_return():
    w, u = leaf(3, 3), leaf(3, 3)
    opt = SGD([w, u], lr=1.0)
    ((w * 1.0).sum() + (u * 1.0).sum()).backward()
    opt.step()
    opt.zero_grad()
    was_w, was_u = w.data.copy(), u.data.copy()
    (w * 1.0).sum().backward()
    opt.step()
    np.testing.assert_allclose(w.data, was_w - 1)
    np.testing.assert_array_equal(u.data, was_u)


@every_mode
@pytest.mark.parametrize("momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd_by_hand(mode, momentum, nesterov):
    """torch.optim.SGD's formula: g += decay p; v = momentum v + g; p -= lr (g + momentum v if nesterov else v)."""
    w = leaf(3, 5)
    p, v = w.data.copy(), np.zeros((3, 5))
    opt = SGD([w], lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.01)
    with using(mode):
        for step in range(5):
            target = rng.standard_normal((3, 5))
            gap = w - target
            (gap * gap).sum().backward()
            lr = 0.1 / (step + 1)
            opt.step(lr)
            opt.zero_grad()
            g = 2 * (p - target) + 0.01 * p
            v = momentum * v + g
            p = p - lr * (g + momentum * v if nesterov else v)
            np.testing.assert_allclose(w.data, p, rtol=1e-12)
    assert opt.steps == 5 and ("velocity" in opt.flats[0].moments) == (momentum > 0)


@every_mode
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_adamw_by_hand(mode, dtype):
    """The update as the paper writes it, with moments corrected for their start, decay apart from the gradient."""
    w, tolerance = leaf(3, 5, dtype=dtype), 1e-12 if dtype == "float64" else 1e-5
    opt = AdamW([w], lr=0.01, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    master = opt.flats[0].master
    p, m, v = whole(opt.flats[0].data, master)[:15].reshape(3, 5).astype("f8"), 0.0, 0.0
    with using(mode):
        for t in range(1, 6):
            g = rng.standard_normal((3, 5)).astype(np.float32 if dtype != "float64" else dtype)
            w.grad = g
            opt.step()
            m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g.astype("f8") ** 2
            p = p - 0.01 * (m / (1 - 0.8 ** t) / (np.sqrt(v / (1 - 0.9 ** t)) + 1e-3) + 0.1 * p)
            got = whole(opt.flats[0].data, master)[:15].reshape(3, 5)
            np.testing.assert_allclose(got, p, rtol=tolerance, atol=tolerance)
    assert (master is None) == (dtype in ("float64", "float32"))
    if master is not None:
        assert master.dtype == (np.int16 if dtype == "bfloat16" else np.float32)
        np.testing.assert_array_equal(w.data, got.astype(w.dtype))


def test_the_learning_rate_is_a_number_of_now():
    a, b = (Tensor(np.ones((2, 2)), requires_grad=True) for _ in range(2))
    for w, lr in ((a, None), (b, 0.5)):
        opt = SGD([w], lr=0.25)
        w.grad = np.ones((2, 2))
        opt.step(lr)
    assert (a.data == 0.75).all() and (b.data == 0.5).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_masters_keep_what_16_bits_would_lose(dtype):
    """Steps of 1e-4 from 1, where neighbours are 1e-3 (float16) or 8e-3 (bfloat16) apart."""
    with_master, without = (Tensor(np.ones((1, 1), backend.dtype_of(dtype)), requires_grad=True) for _ in range(2))
    for w in (with_master, without):
        opt = SGD([w], lr=1e-4)
        if w is without:
            opt.flats[0].master = None
        for _ in range(1000):
            w.grad = np.ones((1, 1), np.float32)
            opt.step()
    assert without.item() == 1.0
    assert abs(with_master.item() - 0.9) < 0.004           # half the distance of bfloat16's neighbours below 1


def test_a_rank_draws_its_part_of_what_one_draws():
    """[AW9], whatever the number of ranks."""
    alone, *three = (AdamW([Tensor(np.ones((9, 70), backend.dtype_of("bfloat16")), requires_grad=True)], lr=0.1, **who)
                     .flats[0] for who in ({}, *(dict(rank=r, ranks=3) for r in range(3))))
    every = np.concatenate([alone.master, np.zeros(1000, np.int16)])
    for flat in three:
        np.testing.assert_array_equal(flat.master, np.concatenate([every[lo:hi] for lo, hi, _ in flat.pieces]))
    assert alone.master[:630].any()


@pytest.mark.parametrize("dtype, tolerance", [("float16", 0.01), ("bfloat16", 0.05)])
def test_16_bit_training_follows_float32(dtype, tolerance):
    ids = (np.arange(9) + np.arange(0, 12, 3)[:, None]) % 13
    curves = {}
    for kind in ("float32", dtype, "without masters"):
        model = GPT(GPTConfig(vocab_size=13, block_size=8, n_layer=1, n_head=2, n_embd=16), seed=1)
        model.to(dtype=dtype if kind == "without masters" else kind)
        opt = AdamW(model.parameters(), weight_decay=0.1)
        losses = curves[kind] = []
        with using("reference" if kind == "without masters" else "auto"):
            if kind == "without masters":
                opt.flats[0].master = None
            for _ in range(60):
                loss = model.loss(ids[:, :-1], ids[:, 1:])
                losses.append(loss.item())
                loss.backward(2.0 ** 8)
                clip_grad_norm(opt, 2.0 ** 8)              # the scale of the gradients is Adam's business
                opt.step(1e-3)
                opt.zero_grad()
    gap, worse = (np.abs(np.subtract(curves[k], curves["float32"])).max() for k in (dtype, "without masters"))
    assert curves["float32"][-1] < 2.0
    assert gap < tolerance and gap < worse / 2, (gap, worse)


@every_mode
def test_clipping_scales_the_next_step_and_leaves_the_gradients(mode):
    w, b = leaf(3, 4), leaf(4)
    opt = SGD([w, b], lr=1.0)
    for max_norm, clipped in ((1.0, True), (1e9, False)):
        was = [p.data.copy() for p in (w, b)]
        opt.zero_grad()
        grads = [10 * rng.standard_normal(p.shape) for p in (w, b)]
        for p, g in zip((w, b), grads, strict=True):
            p.grad = g
        with using(mode):
            norm = clip_grad_norm(opt, max_norm)
        want = math.sqrt(sum((g * g).sum() for g in grads))
        assert norm == pytest.approx(want, rel=1e-12)
        factor = max_norm / (want + 1e-6) if clipped else 1.0
        opt.step()
        for p, g, before in zip((w, b), grads, was, strict=True):
            np.testing.assert_array_equal(p.grad, g)
            np.testing.assert_allclose(p.data, before - factor * g, rtol=1e-12, atol=1e-12)
        assert opt.control[FACTOR] == 1.0                  # one step only
    with pytest.raises(ValueError, match="clip_grad_norm: got 0; expected a positive norm"):
        clip_grad_norm(opt, 0)


def test_the_norm_sees_nan_and_ignores_stale_gradients():
    w, b = leaf(3, 4), leaf(4)
    opt = SGD([w, b])
    w.grad, b.grad = np.full((3, 4), 7.0), np.ones(4)
    opt.zero_grad()
    b.grad = np.full(4, 2.0)
    assert clip_grad_norm(opt, 1.0) == 4.0
    b.grad = np.array([1, math.nan, 0, 0])
    assert math.isnan(clip_grad_norm(opt, 1.0))


def test_several_dtypes_in_one_optimiser():
    w, u = leaf(2, 3, dtype="float32"), leaf(4, dtype="float64")
    opt = AdamW([w, u], lr=0.1, weight_decay=0.0)
    assert [f.data.dtype.name for f in opt.flats] == ["float32", "float64"]
    w.grad, u.grad = np.full((2, 3), 3.0, np.float32), np.full(4, 2.0)
    assert clip_grad_norm(opt, 100.0) == pytest.approx(math.sqrt(6 * 9 + 4 * 4))
    before = w.data.copy(), u.data.copy()
    opt.step()
    np.testing.assert_allclose(w.data, before[0] - 0.1, atol=1e-6)         # Adam's first step is lr, in sign
    np.testing.assert_allclose(u.data, before[1] - 0.1, atol=1e-8)


def test_a_second_optimiser_ends_the_first():
    w = leaf(2, 2)
    first = SGD([w])
    second = AdamW([w])
    w.grad = np.ones((2, 2))
    second.step()
    with pytest.raises(ValueError, match="SGD.step: got parameters that another optimiser has laid out since"):
        first.step()


def test_parameters_that_lie_elsewhere_are_not_updated_in_silence():
    w = leaf(2, 2)
    opt = SGD([w])
    for copied in (copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"SGD: got a copy or a pickle .*; expected state\(\) and load_state\(\)"):
            copied(opt)
    w.data = np.ones((2, 2))
    w.grad = np.ones((2, 2))
    with pytest.raises(ValueError, match=r"got parameters whose .data is another array now; .* p.data\[...\] ="):
        opt.step()


def test_parameters_frozen_later_are_not_moved_in_silence():
    """By their momentum or their decay."""
    a, b = leaf(2, 3), leaf(3)
    opt = SGD([a, b], momentum=0.9)
    ((a * b) ** 2).sum().backward()
    opt.step()
    opt.zero_grad()
    a.requires_grad, before = False, a.data.copy()
    with pytest.raises(ValueError, match="SGD.step: got parameters that have been frozen .* again after freezing"):
        opt.step()
    np.testing.assert_array_equal(a.data, before)
    assert opt.steps == 1
    SGD([a, b]).step()
    np.testing.assert_array_equal(a.data, before)


def test_an_optimiser_that_is_refused_has_taken_nothing():
    w = leaf(2, 2)
    opt = AdamW([w])
    for make in (lambda: AdamW([w], betas=(0.9, 1.5)), lambda: SGD([w], momentum=2)):
        with pytest.raises(ValueError, match="betas|momentum"):
            make()
    w.grad = np.ones((2, 2))
    opt.step()


def test_an_optimiser_wants_parameters():
    with pytest.raises(ValueError, match="AdamW: got no parameters; .* pass model.parameters()"):
        AdamW([Tensor(np.ones(3))])
    for wrong, says in ((Linear(2, 2), "a Linear as parameters"), (3, "a int as parameters"),
                        (leaf(2), "a Tensor as parameters"), ({"params": [leaf(2)]}, "a dict as parameters"),
                        ([leaf(2), np.ones(3)], "a ndarray as parameter 1"), ([leaf(2) * 2], "the result of an op"),
                        (Linear(2, 2).named_parameters(), "a tuple as parameter 0"), ([], "no parameters"),
                        ([{"params": [leaf(2)]}], "a dict as parameter 0; .* there are no groups")):
        with pytest.raises(ValueError, match=f"AdamW: got {says}"):
            AdamW(wrong)


def test_parameters_without_an_entry():
    opt = AdamW([leaf(0, 3)])
    opt.step()
    assert clip_grad_norm(opt, 1.0) == 0 and opt.steps == 1
    AdamW([leaf(0, 3)]).load_state(opt.state())


@pytest.mark.parametrize("make, wrong", [
    (AdamW, dict(lr=-1)), (AdamW, dict(lr=np.nan)), (AdamW, dict(betas=(1.0, 0.9))), (AdamW, dict(betas=0.9)),
    (AdamW, dict(eps=-1)), (AdamW, dict(weight_decay=-1)), (SGD, dict(momentum=1.0)), (SGD, dict(lr=-1)),
    (SGD, dict(nesterov=True))],
    ids=lambda v: str(v))
def test_an_optimiser_refuses_numbers_that_make_no_sense(make, wrong):
    with pytest.raises(ValueError, match=f"{make.__name__}: got .*{next(iter(wrong))}"):
        make([leaf(2)], **wrong)


def test_a_step_with_no_learning_rate_is_refused_before_it_is_made():
    p = leaf(2)
    before, opt = p.data.copy(), AdamW([p])
    p.grad = np.ones(2)
    with pytest.raises(ValueError, match="AdamW.step: got lr nan"):
        opt.step(float("nan"))
    np.testing.assert_array_equal(p.data, before)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("make", [AdamW, lambda p: SGD(p, momentum=0.9)], ids=["AdamW", "SGD"])
def test_ten_steps_and_ten_from_the_state_are_twenty(make, dtype):
    def new():
        model = Sequential(Linear(4, 8, std=0.5), LayerNorm(8), Linear(8, 2, std=0.5)).to(dtype=dtype)
        return model, make(model.parameters())

    def train(model, opt, steps):
        for step in steps:
            x = Tensor(np.random.default_rng(step).standard_normal((5, 4)).astype(model.layers[0].weight.dtype))
            y = model(x)
            (y * y).mean().backward()
            opt.step(0.01 * (step + 1))
            opt.zero_grad()

    with init.seeded(0):
        model, opt = new()
    train(model, opt, range(10))
    state = {name: array.copy() for name, array in opt.state().items()}
    weights = [p.data.copy() for p in model.parameters()]
    train(model, opt, range(10, 20))
    resumed, again = new()
    for p, w in zip(resumed.parameters(), weights, strict=True):
        p.data[...] = w                                    # parameters are views: loading writes into them
    again.load_state(state)
    assert again.steps == 10
    train(resumed, again, range(10, 20))
    for p, q in zip(model.parameters(), resumed.parameters(), strict=True):
        np.testing.assert_array_equal(p.data, q.data)
    assert opt.state().keys() == again.state().keys()
    for name, array in opt.state().items():
        np.testing.assert_array_equal(array, again.state()[name], err_msg=name)


def test_state_of_another_model_or_dtype_is_refused():
    a, b, c = AdamW([leaf(20, 2)]), AdamW([leaf(2, 2)]), AdamW([leaf(20, 2, dtype="bfloat16")])
    for opt in (a, c):
        opt.step()
    for other in (a.state(), c.state()):
        with pytest.raises(ValueError, match="load_state: got .* the checkpoint belongs to another model or dtype"):
            b.load_state(other)
    sgd = SGD([leaf(20, 2)], momentum=0.9)
    sgd.step()
    for other, says in [(sgd.state(), r"float64.velocity .* expected float64.m, float64.v"), ({}, "nothing"),
                        ({"steps": 1, "float64": np.zeros(48)}, "float64 ")]:
        with pytest.raises(ValueError, match=f"load_state: got {says}"):
            AdamW([leaf(20, 2)]).load_state(other)


@pytest.mark.parametrize("make", [AdamW, lambda p: SGD(p, momentum=0.9)], ids=["AdamW", "SGD"])
def test_a_state_is_taken_as_a_whole_or_not_at_all(make):
    opt = make([leaf(20, 2, dtype="bfloat16")])
    opt.step()
    state = {name: array.copy() for name, array in opt.state().items()}
    for name in state:
        part = {key: array for key, array in state.items() if key != name}
        with pytest.raises(ValueError, match="load_state: got .* state"):
            opt.load_state(part)
    with pytest.raises(ValueError, match="load_state: got bfloat16.w .*; expected"):
        opt.load_state({**state, "bfloat16.w": state["bfloat16.master"]})
    with pytest.raises(ValueError, match="load_state: got bfloat16.(m|v|velocity) .*; expected"):
        SGD([leaf(20, 2, dtype="bfloat16")]).load_state(state)                           # which keeps none
    opt.load_state(state)
    assert opt.steps == 1


def test_the_state_of_before_the_first_step_forgets_the_moments():
    p = leaf(4)
    opt = AdamW([p], lr=0.1)
    first = opt.state()
    p.grad = np.full(4, 5.0)
    opt.step()
    opt.load_state(first)
    assert opt.steps == 0 and not opt.flats[0].moments["m"].any() and not opt.flats[0].moments["v"].any()


@pytest.mark.parametrize("make", [lambda: Linear(0, 3), lambda: Linear(3, -1), lambda: Linear(2.5, 3),
                                  lambda: Embedding(0, 3), lambda: LayerNorm(2.0), lambda: BatchNorm("a")])
def test_layers_have_sizes_above_0(make):
    with pytest.raises(ValueError, match="got sizes .*; expected whole numbers above 0"):
        make()


def test_layers_say_what_they_do_not_take():
    for mode in (True, False):
        with pytest.raises(ValueError, match=r"BatchNorm: got x \(2, 3\); expected \(..., 4\)"):
            BatchNorm(4).train(mode)(leaf(2, 3))
    with pytest.raises(ValueError, match=r"Sequential: got \['list'\].*Sequential\(\*layers\)"):
        Sequential([Linear(2, 2)])
    with pytest.raises(ValueError, match="Dropout: got rate a"):
        Dropout("a")


def test_parameters_stand_in_lists_and_dicts():
    class Two(Module):
        def __init__(self):
            self.heads, self.more = {"a": Linear(2, 2, bias=False)}, [{"b": leaf(2)}]

    assert [name for name, _ in Two().named_parameters()] == ["heads.a.weight", "more.0.b"]


def test_steps_and_passes_count_the_moment():
    w = leaf(2, 2)
    with backend.moment(seed=9, step=4, micro=0):
        opt = SGD([w])
        for _ in range(2):
            (w * 1.0).sum().backward()
        assert backend.now() == (9, 4, 2)
        opt.step()
        assert backend.now() == (9, 5, 0)
        with no_grad():
            (w * 1.0).sum()
        assert backend.now() == (9, 5, 0)


# schedule


def test_cosine_with_warmup():
    lr = [cosine_with_warmup(t, 0.03, 0.003, 5, 21) for t in range(21)]
    assert lr[:5] == pytest.approx([0.03 * (t + 1) / 5 for t in range(5)])
    assert lr[5:] == pytest.approx([0.003 + 0.5 * (1 + math.cos(math.pi * (t - 5) / 15)) * 0.027 for t in range(5, 21)])
    assert lr[5] == 0.03 and lr[20] == pytest.approx(0.003) and lr[13] < lr[12]
    assert cosine_with_warmup(1000, 0.03, 0.003, 5, 21) == pytest.approx(0.003)
    assert cosine_with_warmup(0, 0.03, 0.003, 0, 1) == 0.03
    assert cosine_with_warmup(4, 0.03, 0.003, 5, 5) == 0.03
    for warmup in (-1, 22):
        with pytest.raises(ValueError, match="cosine_with_warmup: got warmup"):
            cosine_with_warmup(0, 0.03, 0.003, warmup, 21)


# BatchNorm


@every_mode
@pytest.mark.parametrize("shape", [(7, 3), (4, 5, 3)])
def test_batch_norm_is_pytorchs(mode, shape):
    """In train mode, its averages, its gradients, and then in eval mode."""
    torch = pytest.importorskip("torch")
    ours, theirs = BatchNorm(3).to(dtype="float64"), torch.nn.BatchNorm1d(3, dtype=torch.float64)
    for part in ("weight", "bias"):
        values = rng.standard_normal(3)
        getattr(ours, part).data = values
        getattr(theirs, part).data = torch.tensor(values)
    with using(mode):
        for _ in range(3):
            x, dy = leaf(*shape), rng.standard_normal(shape)
            x_t = torch.tensor(x.data.reshape(-1, 3), requires_grad=True)
            y, y_t = ours(x), theirs(x_t)
            y.backward(dy)
            y_t.backward(torch.tensor(dy.reshape(-1, 3)))
            for a, b in ((y.data, y_t.detach()), (x.grad, x_t.grad), (ours.weight.grad, theirs.weight.grad),
                         (ours.bias.grad, theirs.bias.grad), (ours.mean, theirs.running_mean),
                         (ours.var, theirs.running_var)):
                np.testing.assert_allclose(a.reshape(b.shape), b.numpy(), atol=1e-12)
        x = rng.standard_normal(shape)
        np.testing.assert_allclose(ours.eval()(x).data.reshape(-1, 3), theirs.eval()(torch.tensor(x.reshape(-1, 3)))
                                   .detach().numpy(), atol=1e-12)


def test_batch_norm_by_hand():
    """Columns 1, 3 and 0, 0: means 2 and 0, variances 1 and 0."""
    norm = BatchNorm(2, eps=0.0625, rate=0.5)
    y = norm(np.array([[1.0, 0.0], [3.0, 0.0]], np.float32)).data
    np.testing.assert_allclose(y, [[-1 / math.sqrt(1.0625), 0], [1 / math.sqrt(1.0625), 0]], rtol=1e-6)
    assert norm.mean.tolist() == [1, 0] and norm.var.tolist() == [1.5, 0.5]       # of the source: 2 and 0
    np.testing.assert_allclose(norm.eval()(np.array([[1.0, 2.0]], np.float32)).data, [[0, 2 / 0.75]], rtol=1e-6)
    assert [name for name, _ in norm.named_buffers()] == ["mean", "var"]
    with pytest.raises(ValueError, match="a batch of 1 in train mode"):
        norm.train()(np.zeros((1, 2), np.float32))
