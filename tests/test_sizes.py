"""gpt.sizes against models that are there: their parameters, their products, what their graphs hold on to."""
import math
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.memory import held
from gpt import GPT, GPTConfig, generate, sizes
from gpt.cache import Cache
from gpt.presets import PRESETS
from minigrad import no_grad, using
from minigrad.emulator import emulator
from minigrad.kernels import probe
from minigrad.recompute import recompute
from nn import init


@st.composite
def configs(draw):
    heads = draw(st.integers(1, 4))
    return GPTConfig(vocab_size=draw(st.integers(2, 60)), block_size=draw(st.integers(2, 20)),
                     n_layer=draw(st.integers(1, 4)), n_head=heads, n_embd=heads * draw(st.integers(1, 12)),
                     pre_norm=draw(st.booleans()), dropout=draw(st.sampled_from([0.0, 0.5])),
                     activation=draw(st.sampled_from(["gelu", "relu"])))


@given(c=configs())
def test_shapes_are_those_of_the_model(c):
    assert list(sizes.shapes(c).items()) == [(name, p.shape) for name, p in GPT(c).named_parameters()]
    assert sizes.parameters(c) == sum(p.size for p in GPT(c).parameters())


PARAMETERS = {
    "gpt1": 116_534_784, "gpt2": 124_439_808, "gpt2-medium": 354_823_168, "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200, "char": 10_770_816, "tiny": 35_712,
}


@pytest.mark.parametrize("name", PRESETS)
def test_published_sizes(name):
    """The count of a model with one layer, which learns, and what each further layer adds to it."""
    c = GPTConfig.preset(name)
    assert sizes.parameters(c) == PARAMETERS[name]
    with init.empty():                                     # GPT-2 XL would be 6 GB of random numbers
        whole = GPT(c)
    assert sum(p.size for p in whole.parameters()) == PARAMETERS[name]
    del whole
    model = GPT(GPTConfig.preset(name, n_layer=1))
    layer = sum(p.size for name, p in model.named_parameters() if name.startswith("h.0."))
    assert sum(p.size for p in model.parameters()) + (c.n_layer - 1) * layer == PARAMETERS[name]
    ids = np.random.default_rng(0).integers(0, c.vocab_size, (1, 5))
    loss = model.loss(ids[:, :-1], ids[:, 1:])
    assert abs(loss.item() - np.log(c.vocab_size)) < 1         # it knows nothing
    loss.backward()
    assert all(p.grad is not None and np.isfinite(p.grad).all() and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_activations_are_what_the_graph_holds(dtype, pre_norm, activation, again):
    c = GPTConfig(vocab_size=50, block_size=64, n_layer=3, n_head=2, n_embd=32, pre_norm=pre_norm,
                  activation=activation)
    model = GPT(c).to(dtype=dtype)
    if again:
        for block in model.h:
            block.around = recompute
    found = held(model.hidden(np.zeros((4, 64), np.int64))) / 256
    C, s = c.n_embd, sizes.entry(dtype)
    in_head = max(s, 4) * C                                # the head's gradient is none of hidden()
    at_work = 9 * s * C + max(s, 4) * (4 + c.n_head) if again else 0                   # one layer, later, in backward
    spare = s * C if again and not pre_norm else 0         # the embeddings are the first layer's input, counted there
    assert found == sizes.activations(c, dtype, again) - in_head - at_work - spare


@pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_activations_on_a_gpu(dtype, pre_norm, activation, again):
    c = GPTConfig(vocab_size=50, block_size=8, n_layer=3, n_head=2, n_embd=32, pre_norm=pre_norm,
                  activation=activation)
    model = GPT(c).to(dtype=dtype)
    for block in model.h if again else ():
        block.around = recompute
    with using("emulated"):
        found = held(model.hidden(np.zeros((2, 8), np.int64))) / 16
    C, s = c.n_embd, sizes.entry(dtype)
    inside = 15 * s * C if activation == "gelu" else 11 * s * C
    assert found == sizes.activations(c, dtype, again, "gpu") - 4 * C - again * (inside + 4 * (4 + c.n_head))


@given(c=configs(), data=st.data())
@settings(max_examples=30)
def test_operations_are_those_of_the_products(c, data):
    B, T = data.draw(st.integers(1, 3)), data.draw(st.integers(1, c.block_size))
    counted = []

    def look(op, inputs, outputs):
        if op in ("linear", "matmul"):
            counted.append(2 * inputs[0].size * inputs[1].shape[-1])
        if op == "attention":                              # 2 C for the key and for the value of each position seen
            counted.append(B * sum(2 * 2 * c.n_embd * seen for seen in range(1, T + 1)))

    with no_grad(), probe(look):
        GPT(c)(np.zeros((B, T), np.int64))
    assert sum(counted) == B * T * sizes.forward_flops(c, T)


def test_keys_and_values_are_what_the_cache_holds():
    c = GPTConfig(vocab_size=50, block_size=64, n_layer=2, n_head=2, n_embd=32)
    for dtype in ("float32", "bfloat16"):
        cache = Cache(GPT(c).to(dtype=dtype), rows=3)
        cache.positions(64)
        assert cache.k.nbytes + cache.v.nbytes == 3 * 64 * sizes.cache(c, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_generation_takes_the_weights_and_a_copy(dtype):
    """From the making of the decoder on, for a model of 10 M parameters."""
    c = GPTConfig(vocab_size=4000, block_size=64, n_layer=7, n_head=5, n_embd=320)
    generate(GPT(replace(c, n_layer=1)).to(dtype=dtype), [[1]], 2)                       # compiles
    tracemalloc.start()
    try:
        model = GPT(c).to(dtype=dtype)
        tracemalloc.reset_peak()
        generate(model, [[1, 2], [3]], 9)
        found = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.9 < found / sizes.generation(c, 2, 11, dtype) < 1.1


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("dtype", sizes.BYTES)
def test_as_many_rows_as_fit_and_not_one_more(dtype, again, device):
    def fits(n):
        return sizes.training(GPTConfig.preset("gpt2"), n, 1024, dtype, again, device) <= 24 * sizes.GIB
    n = sizes.largest(fits)
    assert n > 0 and fits(n) and not fits(n + 1)


@pytest.mark.parametrize("most", [0, 1, 2, 7, 1000])
def test_the_largest_number(most):
    assert sizes.largest(lambda n: n <= most) == most


def test_a_description_adds_up():
    c = GPTConfig.preset("gpt2")
    text = sizes.describe(c, memory=24, dtype="bfloat16")
    for said in ("124,439,808", "38,597,376", "gelu", "1024 positions", "24 GiB", "2 (12 L C^2 + V C) + 2 L C (T + 1)",
                 f"{sizes.activations(c, 'bfloat16'):,}", f"{sizes.cache(c, 'bfloat16'):,}"):
        assert said in text, said
    assert sum(int(line.split()[-2].replace(",", "")) for line in text.splitlines()[2:7]) == 124_439_808


def test_the_command(capsys):
    assert sizes.main(["gpt1", "gpt2-xl", "--memory", "80", "--context", "256"]) == 0
    out = capsys.readouterr().out
    assert "116,534,784" in out and "1,557,611,200" in out and "rows of 256 tokens that fit into 80 GiB" in out
    assert sizes.main(["gpt2", "--dtype", "bfloat16", "--device", "gpu"]) == 0
    want = sizes.activations(GPTConfig.preset("gpt2"), "bfloat16", device="gpu")
    assert f"memory of a GPU, bfloat16\n    activations of a token{want:>23,}" in capsys.readouterr().out
    assert sizes.main(["gpt5"]) == 2
    assert "gpt2-medium" in capsys.readouterr().err
    for option, wrong in (("memory", -1), ("memory", 0), ("memory", math.inf), ("context", 0), ("context", -5),
                          ("context", 1025)):
        assert sizes.main(["gpt2", f"--{option}={wrong}"]) == 2
        assert f"{option}: got {wrong}" in capsys.readouterr().err
    c = GPTConfig.preset("tiny")
    with pytest.raises(ValueError, match="'int4'; expected one of float64"):
        sizes.describe(c, dtype="int4")
    with pytest.raises(ValueError, match="device: got 'cuda'; expected 'cpu' or 'gpu'"):
        sizes.describe(c, device="cuda")
