"""Loss scaling: what the scale learns, a step that is left out, and what is lost without it."""
import numpy as np
import pytest

from gpt import GPT, GPTConfig
from minigrad.fused.control import FACTOR, SIZE, control
from nn import AdamW, clip_grad_norm
from train.config import Config
from train.precision import FIRST, LEAST, PATIENCE, Scale
from train.step import NotFinite, train_step


def make(dtype="float16", **changes):
    sizes = dict(vocab_size=13, block_size=8, n_layer=2, n_head=2, n_embd=16)
    return GPT(GPTConfig(**{**sizes, **changes})).to(dtype=dtype)


def batch(seed=0):
    ids = np.random.default_rng(seed).integers(0, 13, (4, 9))
    return ids[:, :-1], ids[:, 1:]


def everything(model, opt):
    """All that a step may change."""
    return {**{f"p {n}": p.data.copy() for n, p in model.named_parameters()},
            **{n: a.copy() for n, a in opt.state().items()}}


def learn(scale, finite):
    """What it makes of a step with a gradient that is finite, or not."""
    control(np.zeros(SIZE), scale.numbers, np.float64(1.0 if finite else np.inf), clip=1.0, rule=scale.rule)


def test_what_the_scale_learns():
    scale = Scale.of("float16")
    assert scale.value == FIRST == 2 ** 16
    learn(scale, False)
    assert scale.state() == [2 ** 15, 0, True]
    for _ in range(PATIENCE - 1):
        learn(scale, True)
    assert scale.value == 2 ** 15
    learn(scale, True)
    assert scale.state() == [2 ** 16, 0, True]
    for _ in range(PATIENCE - 1):
        learn(scale, True)
    learn(scale, False)
    assert scale.state() == [2 ** 15, 0, True]
    for _ in range(100):
        learn(scale, False)
    assert scale.value == LEAST


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_other_dtypes_have_none(dtype):
    scale = Scale.of(dtype)
    for finite in (True, False):
        learn(scale, finite)
    assert scale.state() == Scale().state() and scale.value == 1.0


def test_a_state_comes_back():
    scale = Scale(2.0 ** 9, 77, True)
    assert Scale.of("float16", scale.state()).state() == scale.state()
    assert Scale.of("float32", Scale().state()).state() == Scale().state()


@pytest.mark.parametrize("steps_before", [0, 3])
def test_an_overflow_leaves_everything_as_it_was(steps_before):
    model, config, scale = make(), Config(), Scale.of("float16")
    opt = AdamW(model.parameters(), 1e-2)
    for n in range(steps_before):
        train_step(model, opt, [batch(n)], 1e-2, n, config, scale)
    scale.numbers[0] = 2.0 ** 60
    before = everything(model, opt)
    for n in range(3):
        loss, norm = train_step(model, opt, [batch()], 1e-2, n, config, scale)
        assert np.isfinite(loss) and not np.isfinite(norm)
        after = everything(model, opt)
        assert all(after[name].tobytes() == before[name].tobytes() for name in before)
    assert scale.value == 2.0 ** 57
    scale.numbers[0] = 2.0 ** 10
    assert np.isfinite(train_step(model, opt, [batch()], 1e-2, n, config, scale)[1])
    assert everything(model, opt)["p wte.weight"].tobytes() != before["p wte.weight"].tobytes()


def test_the_scale_changes_no_bit_of_a_gradient_that_fits():
    """[LS1] in float32, where nothing overflows or underflows: powers of two cancel, in norm and update too."""
    found = []
    for value in (1.0, 2.0 ** 16):
        model = make("float32")
        opt = AdamW(model.parameters(), 1e-2)
        norms = [train_step(model, opt, [batch(n), batch(n + 9)], 1e-2, n, Config(clip=0.1), Scale(value))[1]
                 for n in range(3)]
        found.append((norms, everything(model, opt)))
    assert found[0][0] == found[1][0]
    assert all(found[0][1][name].tobytes() == found[1][1][name].tobytes() for name in found[0][1])


def test_underflow_without_scaling_and_none_with_it():
    """Of a loss that weighs little, gradients of activations are 0 in float16, unless it is scaled."""
    name, little, found = "h.0.mlp.c_fc.weight", 2.0 ** -20, {}
    for dtype, scale in (("float32", 1.0), ("float16", 1.0), ("float16", 2.0 ** 16)):
        model = make(dtype)
        model.loss(*batch()).backward(little * scale)
        found[dtype, scale] = dict(model.named_parameters())[name].grad / scale
    want, lost, kept = found.values()
    assert want.any() and not lost.any() and np.abs(kept - want).max() < 0.02 * np.abs(want).max()


def test_nothing_to_be_done_is_said():
    model = make()
    opt = AdamW(model.parameters(), 1e-2)
    model.h[0].mlp.c_fc.bias.data[...] = model.h[0].mlp.c_proj.weight.data[...] = 6e4        # their product is infinite
    with np.errstate(all="ignore"), pytest.raises(NotFinite, match="step 1: got loss nan"):
        train_step(model, opt, [batch()], 1e-2, 0, Config(), Scale.of("float16"))
    model, low = make(), Scale(LEAST, 0, True)
    opt = AdamW(model.parameters(), 1e-2)
    model.zero_grad()
    opt.flats[0].slots[0].add(np.full_like(opt.flats[0].slots[0].array, np.inf))
    with pytest.raises(NotFinite, match="gradient norm"):
        train_step(model, opt, [batch()], 1e-2, 0, Config(), low)


def test_clipping_knows_the_scale():
    model = make("float32")
    opt = AdamW(model.parameters())
    model.loss(*batch()).backward()
    norm = clip_grad_norm(opt, norm_limit := 0.01)
    factor = float(opt.control[FACTOR])
    model.zero_grad()
    model.loss(*batch()).backward(1024.0)
    assert clip_grad_norm(opt, norm_limit, 1024.0) == norm and opt.control[FACTOR] == factor / 1024
