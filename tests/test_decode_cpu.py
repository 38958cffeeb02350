"""The compiled step of gpt.decode, against the model itself."""
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_generate import models

from gpt import GPT, GPTConfig, decode_cpu, generate
from gpt.decode import Decoder, evaluating
from gpt.decode_cpu import STRIDE, packed
from minigrad import kernels, pool
from nn import Dropout

# Relative to the largest logit. bfloat16: the model rounds what goes from op to op to 8 bits, the step does not.
TOLERANCE = {"float32": 2e-5, "bfloat16": 0.1}
INT8 = 5e-4                                              # its activations have 16 bits


def wide_model(n_embd, n_head, pre_norm=True, n_layer=2):
    """With weights that make layers matter."""
    model = GPT(GPTConfig(vocab_size=50, block_size=12, n_layer=n_layer, n_head=n_head, n_embd=n_embd,
                          pre_norm=pre_norm))
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data = p.data + rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.1)
    return model


def decoders(model, prompts, **how):
    """(compiled, the model's own), both with the prompts read."""
    both = [Decoder(model, **how)]
    with kernels.using("reference"):
        both.append(Decoder(model))
    assert both[0].compiled and not both[1].compiled
    for decoder in both:
        decoder.read(prompts)
    return both


def close(a, b, dtype="float32", least=0.0):
    return np.abs(a - b).max() <= max(least, TOLERANCE[dtype]) * max(1, np.abs(b).max())


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(made=models(), data=st.data())
@settings(max_examples=60)
def test_a_step_is_what_the_model_says(dtype, made, data):
    """Rows of any lengths, some of which end; both norms, widths that fill no vector. A layer norm of two or three
    numbers that were rounded to 8 bits tells nothing."""
    (model, rng), size = made, made[0].config.block_size
    assume(dtype == "float32" or model.config.n_embd >= 12)
    model.to(dtype=dtype)
    lengths = data.draw(st.lists(st.integers(1, size), min_size=1, max_size=4))
    ours, theirs = decoders(model, [rng.integers(0, model.config.vocab_size, n).tolist() for n in lengths])
    for _ in range(size - max(lengths)):
        if data.draw(st.booleans()):
            kept = data.draw(st.lists(st.integers(0, len(ours.cache.lengths) - 1), min_size=1, max_size=4))
            ours.keep(kept)
            theirs.keep(kept)
        tokens = rng.integers(0, model.config.vocab_size, len(ours.cache.lengths))
        assert close(ours.step(tokens), theirs.step(tokens), dtype)
    np.testing.assert_array_equal(ours.cache.lengths, theirs.cache.lengths)


def test_a_full_cache_is_an_error():
    decoder = Decoder(wide_model(8, 2))
    decoder.read([[1] * 12, [1]])
    with pytest.raises(ValueError, match="Cache: got 1 tokens after 12; expected at most block_size = 12"):
        decoder.step(np.array([1, 1]))


@pytest.mark.parametrize("n_embd, n_head", [(64, 4), (192, 3), (200, 5)])
@pytest.mark.parametrize("pre_norm", [True, False])
def test_bits_depend_on_neither_threads_nor_other_rows(n_embd, n_head, pre_norm):
    model, found = wide_model(n_embd, n_head, pre_norm), {}
    rows = [[1, 2, 3], [4], [5, 6, 7, 8], [9, 1], [2], [3, 4]]                # four together and two by themselves
    before = pool.size()
    try:
        for threads in (1, 2, 3):
            pool.set_size(threads)
            decoder = Decoder(model)
            decoder.read(rows)
            found[threads] = np.stack([decoder.step(np.arange(9, 3, -1)) for _ in range(3)])
            for b, row in enumerate(rows):
                alone = Decoder(model)
                alone.read([row])
                np.testing.assert_array_equal(alone.step(np.array([9 - b]))[0], found[threads][0, b])
    finally:
        pool.set_size(before)
    np.testing.assert_array_equal(found[1], found[2])
    np.testing.assert_array_equal(found[1], found[3])


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_who_else_is_there_does_not_decide_how_a_prompt_is_read(dtype):
    """To the bit, with prompts of a few tokens and of more, whose sums lie on both sides of the limit."""
    model = GPT(GPTConfig(vocab_size=50, block_size=80, n_layer=2, n_head=2, n_embd=48)).to(dtype=dtype)
    rng, limit = np.random.default_rng(0), decode_cpu.Step.SHORT
    rows = [rng.integers(0, 50, n).tolist() for n in (limit + 1, limit, 5, 2 * limit, 1)]
    for some in (rows, rows[1:3], rows[::3], rows[:1]):
        decoder, new = Decoder(model), rng.integers(0, 50, len(some))
        logits, then = decoder.read(some), decoder.step(new)
        np.testing.assert_array_equal(decoder.cache.lengths, [len(row) + 1 for row in some])
        for b, row in enumerate(some):
            alone = Decoder(model)
            np.testing.assert_array_equal(alone.read([row])[0], logits[b])
            np.testing.assert_array_equal(alone.step(new[b:b + 1])[0], then[b])


# ------------------------------------------------------------------------------------------------------ a byte a weight

@pytest.mark.parametrize("shape", [(1, 1), (5, 64), (70, 33), (3, 200)])
def test_a_byte_a_weight(shape):
    """[DE1]: off by half a step at most, the largest weight of each output exact; what pads a row is 0."""
    w = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    w[-1] = 0 if len(w) > 1 else w[-1]
    q, scale = packed(w, int8=True)
    assert q.dtype == np.int8 and q.shape[1] % STRIDE == 0 and not q[:, shape[1]:].any()
    again = q[:, :shape[1]] * scale[:, None]
    assert (np.abs(again - w) <= scale[:, None] * 0.5001).all()
    assert (np.abs(q[:len(w) - (len(w) > 1)]).max(1) == 127).all()
    np.testing.assert_allclose(np.abs(again).max(1), np.abs(w).max(1), rtol=1e-6)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("pre_norm", [True, False])
def test_int8_is_the_model_with_rounded_weights(dtype, pre_norm):
    model = wide_model(96, 3, pre_norm).to(dtype=dtype)
    rounded = wide_model(96, 3, pre_norm).to(dtype=dtype).to(dtype="float32")
    for name, p in rounded.named_parameters():
        if p.ndim == 2 and name != "wpe.weight":
            w = p.data if name == "wte.weight" else p.data.T
            q, scale = packed(w, int8=True)
            w = q[:, :w.shape[1]] * scale[:, None]
            p.data = w if name == "wte.weight" else np.ascontiguousarray(w.T)
    prompts, tokens = [[1, 2, 3], [4, 5]], np.array([7, 8])
    ours, theirs = Decoder(model, int8=True), decoders(rounded, prompts)[1]
    ours.compiled.wte = rounded.wte.weight.data          # a step rounds the head, and not the embeddings
    ours.read(prompts)
    for _ in range(3):
        assert close(ours.step(tokens), theirs.step(tokens), dtype, INT8)


@pytest.mark.parametrize("n_in", [64, 3072, 2 ** 14])
@pytest.mark.parametrize("B", [1, 4, 5])
def test_whole_numbers_do_not_overflow(n_in, B):
    """[DE2] where all are as large as they can be; and what is no number stays none, in its own row."""
    w, x = np.full((6, n_in), 127, np.int8), np.full((B, n_in), 3, np.float32)
    w[1] *= -1
    scale, bias, out = np.full(6, 0.5, np.float32), np.arange(6, dtype=np.float32), np.zeros((B, 6), np.float32)
    at = np.array([a.ctypes.data for a in (w, scale, bias)])

    def found():
        decode_cpu.product(pool.address(), 1, x, at, w, 6, out, decode_cpu.SET)
        return out

    want = 3 * 0.5 * n_in * 127 * np.array([1, -1, 1, 1, 1, 1]) + bias
    np.testing.assert_allclose(found(), np.tile(want, (B, 1)), rtol=1e-4)
    x[0, 3] = np.inf
    assert np.isnan(found()[0]).all() and np.isfinite(out[1:]).all()
    x[0, 3] = np.nan
    assert np.isnan(found()[0]).all() and np.isfinite(out[1:]).all()
    x[0] = 0
    np.testing.assert_array_equal(found()[0], bias)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_prompts_go_through_the_step(dtype, int8, monkeypatch):
    """Short ones, and with int8 all: the logits of the model's own layers. How they are cut up changes no bit."""
    model = wide_model(96, 3).to(dtype="float32").to(dtype=dtype)
    prompts = [[1, 2, 3, 4, 5, 6, 7], [8], list(range(12)), [9, 10, 11]]
    ours = Decoder(model, int8)
    if not int8:
        with kernels.using("reference"):
            want = Decoder(model).read(prompts)
        assert close(ours.read(prompts), want, dtype)
    found = [ours.read(prompts)]
    for size in (1, 5, 7, 100):
        monkeypatch.setattr(decode_cpu, "CHUNK", size)
        found.append(ours.read(prompts))
        assert found[-1].tobytes() == found[0].tobytes(), size
    np.testing.assert_array_equal(ours.cache.lengths, [7, 1, 12, 3])


def test_int8_says_where_it_is_to_be_had():
    model = wide_model(8, 2)
    with kernels.using("reference"), pytest.raises(ValueError, match="Decoder: got int8 for float32 on cpu"):
        Decoder(model, int8=True)
    with pytest.raises(ValueError, match="Decoder: got int8 for float64 on cpu; expected a model in float32"):
        Decoder(model.to(dtype="float64"), int8=True)


def test_a_decoder_can_be_used_again():
    model = wide_model(64, 4)
    decoder = Decoder(model)
    for prompt in ([[1, 2]], [[3], [4, 5, 6]]):
        assert generate(model, prompt, 20, decoder=decoder) == generate(model, prompt, 20)


def test_a_step_refuses_what_the_model_would():
    decoder = Decoder(GPT(GPTConfig(vocab_size=9, block_size=8, n_layer=1, n_head=2, n_embd=16)).eval())
    decoder.read([[1, 2, 3]])
    several = r"tokens \(2,\); expected \(1,\), one for every row"
    for tokens, says in (([-1], "embedding: got"), ([9], "embedding: got"), ([4, 4], several)):
        with pytest.raises(ValueError, match=says):
            decoder.step(np.array(tokens))
    assert np.isfinite(decoder.step(np.array([4]))).all()


def test_evaluating_leaves_every_mode_as_it_was():
    model = GPT(GPTConfig(vocab_size=9, block_size=8, n_layer=1, n_head=2, n_embd=16, dropout=0.5))
    drop = next(module for module in model.modules() if isinstance(module, Dropout))
    for whole, part in ((True, False), (False, True)):
        model.train(whole)
        drop.train(part)
        with evaluating(model):
            assert not any(module.training for module in model.modules())
        assert (model.training, drop.training) == (whole, part)
