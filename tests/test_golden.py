"""The models and AdamW against numbers that other programs computed: transformers' GPT-1 and GPT-2, torch's AdamW."""
import json

import numpy as np
import pytest
import reference_data
from safetensors.numpy import load_file

from gpt import GPT, generate
from gpt.pretrained import their_name
from minigrad import Tensor, no_grad, recompute, using
from nn import AdamW, clip_grad_norm

every_model = pytest.mark.parametrize("name", ["gpt2_tiny", "gpt1_tiny"])
every_mode = pytest.mark.parametrize("mode", ["auto", "reference"])


def golden(name):
    """(the model in float64, what transformers computed with it)"""
    outputs = np.load(reference_data.path("golden", f"{name}_logits.npz"))
    return GPT.from_pretrained(reference_data.path("golden", name)).to(dtype="float64"), outputs


def error(ours, theirs):
    """The largest difference, relative to the largest entry."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype == np.float64
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@every_model
@every_mode
def test_logits(name, mode):
    model, want = golden(name)
    with using(mode), no_grad():
        for ids, logits in (("input_ids", "logits"), ("input_ids_128", "logits_128")):
            ours = model(want[ids])
            assert ours.shape == want[logits].shape
            assert np.abs(ours.data - want[logits]).max() <= 1e-10


@every_model
@every_mode
@pytest.mark.parametrize("around", [None, recompute], ids=["kept", "recomputed"])
def test_loss_and_the_gradient_of_every_parameter(name, mode, around):
    model, want = golden(name)
    for block in model.h:
        block.around = around
    ids = want["input_ids"]
    targets = np.full_like(ids, -1)                        # the last position has no next token: padding
    targets[:, :-1] = ids[:, 1:]
    with using(mode):
        loss = model.loss(ids, targets)
        loss.backward()
    assert abs(loss.item() - want["loss"]) <= 1e-10
    ours = {"grad." + their_name(n, model.config): p.grad for n, p in model.named_parameters()}
    assert ours.keys() == {key for key in want if key.startswith("grad.")}
    for key, grad in ours.items():
        assert error(grad, want[key]) <= 1e-8, key


@every_model
@every_mode
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_greedy_text_is_the_same(name, mode, dtype):
    """With keys and values of the past from the model's own layers, and from the compiled step."""
    model, want = golden(name)
    with using(mode):
        ours = generate(model.to(dtype=dtype), want["greedy_ids"][:, :8], want["greedy_ids"].shape[1] - 8,
                        temperature=0)
    np.testing.assert_array_equal(ours, want["greedy_ids"])


@every_model
def test_what_is_saved_is_what_was_loaded_to_the_bit(name, tmp_path):
    folder = reference_data.path("golden", name)
    model = GPT.from_pretrained(folder)
    assert not model.training
    model.save(tmp_path)
    theirs, ours = (load_file(f / "model.safetensors") for f in (folder, tmp_path))
    assert ours.keys() == theirs.keys()
    for key in theirs:
        assert ours[key].dtype == theirs[key].dtype
        np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
    again = GPT.from_pretrained(tmp_path)
    assert again.config == model.config
    for (a, p), (b, q) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert a == b
        np.testing.assert_array_equal(p.data, q.data, err_msg=a)
    theirs, ours = (json.loads((f / "config.json").read_text()) for f in (folder, tmp_path))
    for key, value in ours.items():                          # we know fewer fields, and no other values
        assert value is None and key.endswith("s_token_id") or theirs[key] == value, key


@every_mode
def test_twenty_steps_of_adamw(mode):
    want = np.load(reference_data.path("golden", "adamw.npz"))
    names = ["w1", "b1", "w2", "b2"]
    p = {name: Tensor(want[f"init.{name}"].copy(), requires_grad=True) for name in names}
    opt = AdamW(p.values(), lr=0.0, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    X, y = Tensor(want["X"]), Tensor(want["y"])
    with using(mode):
        for t, lr in enumerate(want["lr"]):
            gap = (X @ p["w1"] + p["b1"]).tanh() @ p["w2"] + p["b2"] - y
            loss = (gap * gap).mean()
            loss.backward()
            assert abs(loss.item() - want["loss"][t]) <= 1e-12 * want["loss"][t]
            for name in names:
                assert error(p[name].grad, want[f"grad.{t:02d}.{name}"]) <= 1e-12, (t, name)
            norm = clip_grad_norm(opt, 1.0)
            assert abs(norm - want["grad_norm"][t]) <= 1e-12 * want["grad_norm"][t]
            opt.step(lr)
            opt.zero_grad()
            for name in names:
                assert error(p[name].data, want[f"step.{t:02d}.{name}"]) <= 1e-12, (t, name)
    flat, = opt.flats
    name_of = {id(tensor): name for name, tensor in p.items()}
    for moment, theirs in (("m", "final_exp_avg"), ("v", "final_exp_avg_sq")):
        for tensor in flat.params:                         # moments lie in their buffer as parameters do in theirs
            start = (tensor.data.ctypes.data - flat.data.ctypes.data) // tensor.data.itemsize
            ours = flat.moment(moment)[start:start + tensor.size].reshape(tensor.shape)
            assert error(ours, want[f"{theirs}.{name_of[id(tensor)]}"]) <= 1e-12, (moment, name_of[id(tensor)])
