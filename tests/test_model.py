"""GPT-1 and GPT-2 as a whole: sizes, causality, gradients through everything at once, dtypes, bad input."""
import numpy as np
import pytest

from gpt import GPT, GPTConfig
from minigrad import Tensor, backend, no_grad, recompute, using
from minigrad.fused import cross_entropy, cross_entropy_cpu
from minigrad.fused.attention import attention
from nn import AdamW

SMALL = dict(vocab_size=11, block_size=12, n_layer=2, n_head=2, n_embd=8)
every_order = pytest.mark.parametrize("pre_norm", [True, False], ids=["GPT-2", "GPT-1"])
every_mode = pytest.mark.parametrize("mode", ["auto", "reference"])


def make(dtype="float64", spread=0.3, seed=0, **changes):
    """A small model; spread: weights large enough that every path through it matters to the loss."""
    model = GPT(GPTConfig(**{**SMALL, **changes}), seed)
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.data = p.data + rng.standard_normal(p.shape).astype(np.float32) * np.float32(spread)
    return model.to(dtype=dtype)


def batch(B=3, T=12, V=11, seed=0, padding=True):
    rng = np.random.default_rng(seed)
    ids, targets = rng.integers(0, V, (2, B, T))
    if padding:
        targets[rng.random((B, T)) < 0.2] = -1
    return ids, targets


# sizes


def test_weights_begin_as_published():
    model = GPT(GPTConfig(vocab_size=400, block_size=100, n_layer=3, n_head=4, n_embd=64), seed=1)
    for name, p in model.named_parameters():
        if p.ndim < 2:
            assert np.all(p.data == (1 if "ln" in name and "weight" in name else 0)), name
        else:
            std = 0.02 / np.sqrt(2 * 3) if "c_proj" in name else 0.02
            assert abs(p.data.std() / std - 1) < 0.05 and abs(p.data.mean()) < 0.05 * std, name
    again, other = (GPT(model.config, seed) for seed in (1, 2))
    assert np.array_equal(model.wte.weight.data, again.wte.weight.data)
    assert not np.array_equal(model.wte.weight.data, other.wte.weight.data)


def test_config_refuses():
    for wrong in (dict(n_embd=9), dict(n_layer=0), dict(dropout=1.0), dict(vocab_size=-1), dict(activation="tanh"),
                  dict(n_embd=8.0), dict(n_head=None), dict(dropout="x"), dict(eps=-1), dict(activation=["gelu"])):
        with pytest.raises(ValueError, match="GPTConfig: got"):
            GPTConfig(**{**SMALL, **wrong})
    with pytest.raises(ValueError, match="preset: got 'gpt3'; expected one of gpt1, gpt2"):
        GPTConfig.preset("gpt3")
    assert GPTConfig.preset("tiny", dropout=0.5).dropout == 0.5
    with pytest.raises(ValueError, match="GPT: got 'gpt2'; expected a GPTConfig. Hint: .*from_pretrained"):
        GPT("gpt2")
    for seed in (-1, "a", 1.5):
        with pytest.raises(ValueError, match="seed: got .*; expected a whole number from 0 up"):
            GPT(GPTConfig(**SMALL), seed)


# what the model computes


@every_order
@every_mode
def test_the_future_changes_nothing_in_the_past(pre_norm, mode):
    model = make(pre_norm=pre_norm)
    ids, _ = batch()
    with using(mode), no_grad():
        before = model(ids).data
        for t in range(1, ids.shape[1]):
            changed = ids.copy()
            changed[:, t:] = (changed[:, t:] + 1) % 11
            after = model(changed).data
            np.testing.assert_array_equal(before[:, :t], after[:, :t])
            assert (before[:, t] != after[:, t]).any(-1).all()
        np.testing.assert_allclose(model(ids[:1, :4]).data, before[:1, :4], rtol=0, atol=1e-12)


@every_order
@every_mode
def test_the_loss_is_the_cross_entropy_of_the_logits(pre_norm, mode):
    model, (ids, targets) = make(pre_norm=pre_norm), batch()
    with using(mode):
        z = model(ids).data
        for e in (0.0, 0.1):
            log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
            true = np.eye(11)[targets] * (1 - e) + e / 11
            want = -(true * log_p).sum(-1)[targets >= 0].mean()
            assert abs(model.loss(ids, targets, label_smoothing=e).item() - want) < 1e-12
            with no_grad():
                alone = model.loss(ids, targets, label_smoothing=e)
            assert alone.item() == model.loss(ids, targets, label_smoothing=e).item() and not alone.requires_grad


def finite_difference(loss, array, place, step=4e-4):
    """(8 (L(+h) - L(-h)) - (L(+2h) - L(-2h))) / 12h, whose error is O(h^4)."""
    before, values = array[place], []
    for k in (1, -1, 2, -2):
        array[place] = before + k * step
        values.append(loss())
    array[place] = before
    return (8 * (values[0] - values[1]) - (values[2] - values[3])) / (12 * step)


@every_order
@every_mode
def test_gradients_of_everything_at_once(pre_norm, mode, monkeypatch):
    """Chunked loss, label smoothing, fixed dropout masks, tied head, padding targets, recompute, loss scale 2^16."""
    model = make(pre_norm=pre_norm, dropout=0.2, block_size=30)
    ids, targets = batch(B=10, T=30)
    ids[ids == 10] = 0                                     # token 10 is known to the head alone
    monkeypatch.setattr(cross_entropy, "CHUNK", 1)
    monkeypatch.setattr(cross_entropy, "ROWS", 128)        # chunks of so many rows
    seen = []
    module = cross_entropy if mode == "reference" else cross_entropy_cpu
    rows_loss = module.rows_loss
    monkeypatch.setattr(module, "rows_loss", lambda z, *rest: seen.append(len(z)) or rows_loss(z, *rest))

    def loss():
        with backend.moment(seed=5, step=3, micro=1):      # the same masks every time
            return model.loss(ids, targets, label_smoothing=0.1)

    def value():
        with no_grad():
            return loss().item()

    rng = np.random.default_rng(0)
    with using(mode):
        for block in model.h:
            block.around = recompute
        loss().backward(2.0 ** 16)
        assert seen == [128, 128, 44]
        for name, p in model.named_parameters():
            grad = p.grad / 2.0 ** 16
            places = [np.unravel_index(i, p.shape) for i in rng.choice(p.size, 2, replace=False)]
            places.append(np.unravel_index(np.abs(grad).argmax(), p.shape))
            if name == "wte.weight":
                places += [(10, 3), (0, 3)]
            for place in places:
                error = abs(finite_difference(value, p.data, place) - grad[place]) / np.abs(grad).max()
                assert error < 1e-6, (name, place)         # measured: below 1e-8


@every_order
@every_mode
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recompute_changes_no_bit(pre_norm, mode, dtype):
    model, (ids, targets) = make(dtype, pre_norm=pre_norm, dropout=0.2, n_layer=3), batch()
    losses, grads = [], []
    for every in (0, 1, 2):                                # no block, each block, every second one
        for i, block in enumerate(model.h):
            block.around = recompute if every and i % every == 0 else None
        model.zero_grad()
        with using(mode), backend.moment(seed=1, step=2, micro=3):
            loss = model.loss(ids, targets)
            loss.backward()
        losses.append(loss.item())
        grads.append({name: p.grad.copy() for name, p in model.named_parameters()})
    assert losses[0] == losses[1] == losses[2]
    for name in grads[0]:
        np.testing.assert_array_equal(grads[0][name], grads[1][name], err_msg=name)
        np.testing.assert_array_equal(grads[0][name], grads[2][name], err_msg=name)


def test_micro_batches_add_up_to_the_batch():
    model, (ids, targets) = make(), batch(B=4, padding=False)
    model.loss(ids, targets).backward()
    whole = {name: p.grad.copy() for name, p in model.named_parameters()}
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    for part in (slice(0, 2), slice(2, 4)):
        model.loss(ids[part], targets[part]).backward(1 / 2)
    for name, p in model.named_parameters():
        np.testing.assert_allclose(p.grad, whole[name], rtol=0, atol=1e-14, err_msg=name)


def test_a_frozen_parameter_costs_and_gets_nothing():
    model, (ids, targets) = make(), batch()
    model.loss(ids, targets).backward()
    want = model.h[1].mlp.c_fc.weight.grad.copy()
    model.zero_grad()
    frozen = [p for name, p in model.named_parameters() if not name.startswith("h.1")]
    for p in frozen:
        p.requires_grad = False
    model.loss(ids, targets).backward()
    assert all(p.grad is None for p in frozen)
    np.testing.assert_array_equal(model.h[1].mlp.c_fc.weight.grad, want)


# dropout


@every_mode
def test_dropout_acts_in_train_mode_only(mode):
    model, (ids, targets) = make(dropout=0.3), batch()
    plain = make(dropout=0.0)
    with using(mode):
        with backend.moment(seed=0, step=0, micro=0):
            trained = model.loss(ids, targets).item()
        assert trained != plain.loss(ids, targets).item()
        assert model.eval() is model and not any(m.training for m in model.modules())
        assert model.loss(ids, targets).item() == plain.loss(ids, targets).item()
        model.train()
        with backend.moment(seed=0, step=0, micro=0):
            assert model.loss(ids, targets).item() == trained


def test_masks_are_fresh_in_a_plain_loop_and_known_by_name():
    model, (ids, targets) = make(dropout=0.3), batch()

    def losses():
        found = []
        with backend.moment(seed=0, step=0, micro=0):
            opt = AdamW(model.parameters(), lr=0.0, weight_decay=0.0)          # the weights stay
            for _ in range(3):
                for _ in range(2):
                    loss = model.loss(ids, targets)
                    found.append((loss.item(), backend.now()))
                    loss.backward()
                opt.step()
                opt.zero_grad()
        return found

    first, again = losses(), losses()
    assert first == again                                  # nothing is consumed
    assert len({loss for loss, _ in first}) == 6           # every micro-batch drops other entries
    assert [now for _, now in first] == [(0, step, micro) for step in range(3) for micro in range(2)]
    with backend.moment(seed=1, step=0, micro=0):
        assert model.loss(ids, targets).item() != first[0][0]


@every_mode
@pytest.mark.parametrize("shape, n_head", [((1, 2, 10), 2), ((1, 2, 6), 4), ((1, 2, 6), 0), ((2, 6), 1),
                                           ((1, 2, 0), 1)])
def test_attention_refuses_shapes_without_heads(shape, n_head, mode):
    with using(mode), pytest.raises(ValueError, match=r"attention: got qkv .* expected \(B, T, 3C\) with C a multiple"):
        attention(np.zeros(shape), n_head=n_head)


@pytest.mark.parametrize("rate, key", [(1.0, (0, 0, 0, 0)), (-0.1, (0, 0, 0, 0)), (0.5, (0, 0, 0)),
                                       (0.5, (0, -1, 0, 0))])
def test_attention_refuses_masks_that_dropout_refuses(rate, key):
    with pytest.raises(ValueError, match="dropout: got"):
        attention(np.zeros((1, 2, 6)), n_head=1, dropout=(rate, key))


def test_every_dropout_has_a_site_of_its_own():
    model = make(dropout=0.3)
    sites = [m.site for m in model.modules() if hasattr(m, "site")]
    assert sites == list(range(1 + 3 * 2))                 # one for the embeddings, three a block


# dtypes


@every_order
@every_mode
@pytest.mark.parametrize("dtype, eps", [("float16", 2.0 ** -11), ("bfloat16", 2.0 ** -8), ("float32", 2.0 ** -24)])
def test_narrow_dtypes_follow_float64(pre_norm, mode, dtype, eps):
    """Rounding errors of a few dozen roundings in a row; sums are taken in float32, so they do not grow with width."""
    wide, narrow, (ids, targets) = make(pre_norm=pre_norm), make(dtype, pre_norm=pre_norm), batch()
    for p, q in zip(wide.parameters(), narrow.parameters(), strict=True):
        p.data = q.data.astype(np.float64)                 # the same weights, rounded once
    with using(mode):
        logits, near = wide(ids).data, narrow(ids).data
        assert near.dtype == backend.dtype_of(dtype)
        assert np.abs(near.astype(np.float64) - logits).max() < 20 * eps * np.abs(logits).max()
        loss, close = wide.loss(ids, targets), narrow.loss(ids, targets)
        assert close.dtype == np.float32 and abs(close.item() - loss.item()) < 20 * eps * loss.item()
        loss.backward()
        close.backward(2.0 ** 10)
    for (name, p), q in zip(wide.named_parameters(), narrow.parameters(), strict=True):
        assert q.grad.dtype == np.float32, name
        gap = np.abs(q.grad / 2.0 ** 10 - p.grad).max() / np.abs(p.grad).max()
        assert gap < 30 * eps, (name, gap / eps)


def test_to_is_in_place_and_knows_its_names():
    model = make("float32")
    names = [name for name, _ in model.named_parameters()]
    tensors = model.parameters()
    assert model.to(dtype="float64") is model and model.wte.weight.dtype == np.float64
    assert all(a is b for a, b in zip(tensors, model.parameters(), strict=True))
    assert names == [name for name, _ in model.named_parameters()]
    assert backend.dtype_of(np.float16) == backend.dtype_of("float16") and backend.dtype_of(float) == np.float64
    with pytest.raises(ValueError, match="dtype: got 'int8'; expected one of bfloat16, float16, float32, float64"):
        model.to(dtype="int8")
    with pytest.raises(ValueError, match="to_device: got 'tpu'; expected 'cpu' or 'gpu'"):
        model.to(device="tpu")
    if backend.cupy() is None:
        with pytest.raises(RuntimeError, match="cupy-cuda12x"):
            model.to(device="gpu")


def test_no_change_of_dtype_under_an_optimiser():
    model = make("float32")
    AdamW(model.parameters())
    with pytest.raises(ValueError, match=r"to: got wte.weight, which an optimiser has laid out; .* then make the opt"):
        model.to(dtype="float64")


# bad input


@every_mode
def test_bad_ids_and_targets(mode):
    model, (ids, targets) = make(), batch()
    with using(mode):
        with pytest.raises(ValueError, match=r"embedding: got id 11 at position \(1, 2\); expected 0 <= id < 11"):
            wrong = ids.copy()
            wrong[1, 2] = 11
            model(wrong)
        with pytest.raises(ValueError, match="embedding: got id -1"):
            model.loss(np.where(ids > 0, ids, -1), targets)
        for low, high in ((-2, 3), (0, 11)):
            with pytest.raises(ValueError, match=f"targets from {low} to {high}; expected 0 to 10, or -1 for padding"):
                wrong = targets * 0
                wrong[0, 0], wrong[0, 1] = low, high
                model.loss(ids, wrong)
        with pytest.raises(ValueError, match="GPT: got 13 tokens in a row; expected at most block_size = 12"):
            model(np.zeros((1, 13), int))
        with pytest.raises(ValueError, match=r"targets int64 \(3, 11\); expected integers \(3, 12\)"):
            model.loss(ids, targets[:, 1:])
        with pytest.raises(ValueError, match="label_smoothing 1.0"):
            model.loss(ids, targets, label_smoothing=1.0)
    for wrong in (np.zeros(3, int), np.zeros((1, 3)), np.zeros((1, 0), int), np.zeros((1, 2, 3), int)):
        with pytest.raises(ValueError, match=r"GPT: got ids .*; expected integers of shape \(B, T\)"):
            model(wrong)


def test_ids_may_be_lists_tensors_and_small_integers():
    model, (ids, targets) = make(), batch()
    want, loss = model(ids).data, model.loss(ids, targets).item()
    for kind in (np.ndarray.tolist, Tensor, lambda a: a.astype(np.int32), lambda a: a.astype(np.int8)):
        np.testing.assert_array_equal(model(kind(ids)).data, want)
        assert model.loss(kind(ids), kind(targets)).item() == loss


@every_mode
def test_nothing_but_padding(mode):
    model, (ids, targets) = make(), batch()
    with using(mode):
        loss = model.loss(ids, np.full_like(targets, -1), label_smoothing=0.1)
        loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in model.parameters())


def test_an_empty_batch_has_empty_logits():
    assert make()(np.zeros((0, 3), int)).shape == (0, 3, 11)
