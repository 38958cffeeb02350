"""The kernels' step of gpt.decode, run by the emulator, against the model itself."""
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_decode_cpu import wide_model
from test_generate import models

from gpt import GPT, GPTConfig, decode_gpu, generate
from gpt.decode import Decoder
from minigrad import backend, kernels
from minigrad.emulator import emulator, fake_cupy

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)

# Relative to the largest logit. In 16 bits the model rounds what goes from op to op, the step does not.
TOLERANCE = {"float32": 2e-5, "float16": 1e-2, "bfloat16": 0.1}


def decoders(model, prompts):
    """(the kernels', the model's own), both with the prompts read by the model's layers."""
    with kernels.using("emulated"):
        ours = Decoder(model)
    assert isinstance(ours.compiled, decode_gpu.Step)
    ours.compiled.SHORT = 0
    with kernels.using("reference"):
        theirs = Decoder(model)
        for decoder in (ours, theirs):
            decoder.read(prompts)
    assert theirs.compiled is None
    return ours, theirs


def close(ours, theirs, tokens, dtype):
    with kernels.using("reference"):
        a, b = ours.step(tokens), theirs.step(tokens)
    assert a.dtype == b.dtype == "float32" and a.shape == b.shape
    assert np.abs(a - b).max() <= TOLERANCE[dtype] * max(1, np.abs(b).max())
    np.testing.assert_array_equal(ours.cache.lengths, theirs.cache.lengths)
    for mine, its in ((ours.cache.k, theirs.cache.k), (ours.cache.v, theirs.cache.v)):
        scale = max(1, np.abs(its.astype("f4")).max(initial=0))
        assert np.abs(mine.astype("f4") - its.astype("f4")).max(initial=0) <= TOLERANCE[dtype] * scale


@pytest.mark.parametrize("dtype", TOLERANCE)
@given(made=models(), data=st.data(), schedule=st.sampled_from(emulator.SCHEDULES))
@settings(max_examples=15)
def test_a_step_is_what_the_model_says(dtype, made, data, schedule):
    """Both norms, rows of any lengths of which some end, and more than a block takes; any number of multiprocessors. A
    layer norm of two or three numbers that were rounded tells nothing."""
    (model, rng), size = made, made[0].config.block_size
    assume(model.config.n_embd >= (4 if dtype == "float32" else 12))
    model.to(dtype=dtype)
    lengths = data.draw(st.lists(st.integers(1, size - 1), min_size=1, max_size=10))
    ours, theirs = decoders(model, [rng.integers(0, model.config.vocab_size, n).tolist() for n in lengths])
    for _ in range(min(3, size - max(lengths))):
        if data.draw(st.booleans()):
            kept = data.draw(st.lists(st.integers(0, len(ours.cache.lengths) - 1), min_size=1, max_size=10))
            ours.keep(kept)
            theirs.keep(kept)
        with emulator.schedule(*schedule), pytest.MonkeyPatch.context() as patch:
            many = data.draw(st.integers(1, 4))
            patch.setattr(decode_gpu, "multiprocessors", lambda xp, many=many: many)
            patch.setattr(decode_gpu, "WARPS", {"float32": 1, "float16": 2, "bfloat16": 4}[dtype])
            close(ours, theirs, rng.integers(0, model.config.vocab_size, len(ours.cache.lengths)), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("head", [8, 20, 128])
def test_attention_over_many_positions(dtype, head, monkeypatch):
    """Warps have none, as many as they take at one time, one more, and several times as many."""
    monkeypatch.setattr(decode_gpu, "WARPS", 2)
    model = GPT(GPTConfig(vocab_size=30, block_size=650, n_layer=1, n_head=2, n_embd=2 * head))
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data = p.data + rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.2)
    model.to(dtype=dtype)
    ours, theirs = decoders(model, [rng.integers(0, 30, n).tolist() for n in (127, 128, 600, 1)])
    for _ in range(2):
        close(ours, theirs, rng.integers(0, 30, 4), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_new_key_may_be_all_that_counts(dtype, monkeypatch):
    """Its score is 400 above all others, which one warp has; two warps have none."""
    monkeypatch.setattr(decode_gpu, "WARPS", 4)
    model = wide_model(80, 2, n_layer=1)
    attn = model.h[0].attn.c_attn
    attn.weight.data[:, :160] = 0
    attn.bias.data[:160] = 6                                                             # 36 * 40 / sqrt(40) = 228
    both = decoders(model.to(dtype=dtype), [[1, 2], [3]])
    for decoder in both:
        decoder.cache.k *= -1
    close(*both, np.array([4, 5]), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_comes_out_for_a_row_does_not_depend_on_the_others(dtype):
    """To the bit: a row with ten others, and by itself."""
    model, rows = wide_model(64, 4).to(dtype=dtype), [[1, 2, 3], [4], [5, 6, 7, 8], [9], [2], [3], [5], [6, 7], [8, 9]]
    found = decoders(model, [*rows, [7], [6]])[0].step(np.arange(11))
    for b in (0, 2, 8):
        alone = decoders(model, rows)[0]
        alone.keep([b])
        np.testing.assert_array_equal(alone.step(np.array([b]))[0], found[b])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("blocks, warps, room, width", [(1, 1, 1, 75), (2, 12, 1, 129), (5, 4, 3, 75), (60, 2, 1, 12),
                                                         (60, 4, 3, 75)])
def test_however_products_are_shared(dtype, blocks, warps, room, width, monkeypatch):
    """Warps take turns with pairs of outputs, or share one; some have none, as have some blocks. There may be room for
    one row at a time. A row of 129 ends with a chunk of which one entry is there."""
    monkeypatch.setattr(decode_gpu, "multiprocessors", lambda xp: blocks)
    monkeypatch.setattr(decode_gpu, "WARPS", warps)
    model = wide_model(width, 3).to(dtype=dtype)
    ours, theirs = decoders(model, [[1, 2], [3], [4]])
    rows = decode_gpu.shared(model.config, model.wte.weight.data, room)
    monkeypatch.setattr(decode_gpu, "room", lambda xp: rows)
    close(ours, theirs, np.array([4, 5, 6]), dtype)
    close(ours, theirs, np.array([7, 0, 1]), dtype)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_the_same_text(pre_norm):
    model = wide_model(24, 3, pre_norm)
    texts = {}
    for mode in ("reference", "emulated"):
        with kernels.using(mode):
            texts[mode] = generate(model, [[1, 2, 3], [4]], 14, temperature=0)           # beyond block_size = 12
    assert texts["emulated"] == texts["reference"]


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_step_is_one_launch_and_waits_for_nothing(pre_norm, monkeypatch):
    """On arrays that are as strict as CuPy's; also where rows ended, or prompts were read again."""
    monkeypatch.setattr(decode_gpu, "WARPS", 4)
    model, prompts, launched = wide_model(24, 3, pre_norm).to(dtype="bfloat16"), [[1, 2, 3], [4], [5, 6]], []
    with kernels.using("reference"):
        theirs = Decoder(wide_model(24, 3, pre_norm).to(dtype="bfloat16"))
    run = emulator.Kernel.__call__
    monkeypatch.setattr(emulator.Kernel, "__call__", lambda k, *args: launched.append(k.name) or run(k, *args))
    with fake_cupy.installed() as cp:
        ours = Decoder(model.to(device="gpu"))
        for rounds, kept in ((3, [2, 0]), (4, [1, 1, 0])):
            ours.read(prompts)
            with kernels.using("reference"):
                theirs.read(prompts)
            for n in range(rounds):
                tokens = np.arange(n, n + len(ours.cache.lengths))
                launched.clear()
                with fake_cupy.waits() as seen:
                    a = ours.step(cp.asarray(tokens) if n % 2 else tokens)
                assert not seen and launched == ["next_token"]
                a = backend.asnumpy(a)
                with kernels.using("reference"):
                    b = theirs.step(tokens)
                assert np.abs(a - b).max() <= TOLERANCE["bfloat16"] * max(1, np.abs(b).max())
                if n == 0:
                    ours.keep(kept)
                    theirs.keep(kept)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("prompts", [[[3]], [[1, 2, 3], [4, 5, 6]], [[1], [*range(2, 14)], [4, 5]]])
def test_short_prompts_are_read_by_steps(dtype, prompts, monkeypatch):
    """A row that is full is as good as any."""
    monkeypatch.setattr(decode_gpu, "WARPS", 4)
    model = wide_model(24, 3).to(dtype=dtype)
    with kernels.using("reference"):
        theirs = Decoder(model)
        want = theirs.read(prompts)
    with kernels.using("emulated"):
        ours = Decoder(model)
        monkeypatch.setattr(model, "hidden", None)
        found = ours.read(prompts)
        monkeypatch.undo()
    assert np.abs(found - want).max() <= TOLERANCE[dtype] * max(1, np.abs(want).max())
    kept = [b for b, ids in enumerate(prompts) if len(ids) < 12]
    if len(kept) < len(prompts):
        ours.keep(kept)
        theirs.keep(kept)
    close(ours, theirs, np.arange(len(kept)), dtype)
    with kernels.using("emulated"), pytest.raises(ValueError, match="embedding: got id 50"):
        ours.read([[1], [2, 50]])


def test_short_and_long_prompts_together(monkeypatch):
    """A row is read as it is alone, whoever else is there."""
    monkeypatch.setattr(decode_gpu, "WARPS", 4)
    monkeypatch.setattr(decode_gpu.Step, "SHORT", 3)
    model, rows = wide_model(24, 3).to(dtype="bfloat16"), [[1, 2, 3, 4, 5], [6, 7], [*range(9)], [8, 9, 3]]
    with fake_cupy.installed() as cp:
        decoder = Decoder(model.to(device="gpu"))
        read = backend.asnumpy(decoder.read(rows))
        step = backend.asnumpy(decoder.step(cp.asarray(np.arange(4))))
        for b, row in enumerate(rows):
            found = backend.asnumpy(decoder.read([row]))
            np.testing.assert_allclose(found[0], read[b], rtol=0, atol=1e-5)
            np.testing.assert_allclose(backend.asnumpy(decoder.step(np.array([b])))[0], step[b], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_is_no_number_is_passed_on(dtype):
    """Also if it looks like the mark of a place to which nothing has been sent."""
    model = wide_model(24, 3).to(dtype=dtype)
    bits = model.h[1].mlp.c_fc.bias.data.view("u2" if dtype != "float32" else "u4")
    bits[:] = ~bits.dtype.type(0)
    ours = decoders(model, [[1, 2], [3]])[0]
    for token in (4, 5, 6):
        assert np.isnan(ours.step(np.array([token, token]))).all()


def test_a_card_with_less_shared_memory(monkeypatch):
    """99 KiB a block, as most cards have: a token of GPT-2 is one launch there too, row by row if there are more."""
    monkeypatch.setattr(emulator, "MOST_SHARED", 99 << 10)
    like, c = np.empty(0, backend.dtype_of("bfloat16")), GPTConfig(50257, 1024, 12, 12, 768)
    fits = [rows for rows in range(1, 17) if decode_gpu.shared(c, like, rows) <= decode_gpu.room(np)]
    assert fits == [1] and decode_gpu.shared(c, like, 1) == 85_600
    with kernels.using("emulated"):
        assert Decoder(wide_model(128, 1)).compiled is not None


def test_models_that_take_no_such_step():
    with kernels.using("emulated"):
        assert Decoder(wide_model(24, 3).to(dtype="float64")).compiled is None
        assert Decoder(wide_model(129, 1)).compiled is None                              # 32 lanes hold 128 floats
        assert Decoder(wide_model(128, 1)).compiled is not None
        with pytest.raises(ValueError, match="Decoder: got int8"):
            Decoder(wide_model(8, 2), int8=True)
        with pytest.raises(ValueError, match="embedding: got id 50 at position"):
            decoder = Decoder(wide_model(8, 2))
            decoder.read([[1]])
            decoder.step(np.array([50]))
