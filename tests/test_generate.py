"""Generation: the past from a cache, choosing a token, rows of a batch, the end of a row, beam search."""
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt import GPT, GPTConfig, beam_search, generate, stream
from gpt.cache import Cache
from gpt.decode import Decoder
from gpt.generate import choose
from minigrad import kernels, no_grad

V, T = 11, 8


@pytest.fixture(scope="module")
def model():
    model = GPT(GPTConfig(vocab_size=V, block_size=T, n_layer=2, n_head=2, n_embd=8, dropout=0.5), seed=0)
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data = p.data + rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.3)
    return model


def prompt(B=2, n=3):
    return np.random.default_rng(1).integers(0, V, (B, n))


def logits_of(model, ids):
    """Logits (B, V) after the last token, without a cache."""
    training = model.training
    with no_grad():
        found = model.eval()(np.asarray(ids)).data[:, -1]
    model.train(training)
    return found.astype(np.float64)


def test_greedy_takes_the_likeliest_and_ignores_the_seed(model):
    ids = generate(model, prompt(), 4, temperature=0, seed=1)
    assert ids.shape == (2, 7) and ids.dtype == np.int64
    np.testing.assert_array_equal(ids[:, :3], prompt())
    model.eval()
    with no_grad():
        for t in range(3, 7):
            np.testing.assert_array_equal(ids[:, t], model(ids[:, :t]).data[:, -1].argmax(-1))
    model.train()
    np.testing.assert_array_equal(ids, generate(model, prompt(), 4, temperature=0, seed=2))


def test_the_seed_decides(model):
    a, b, c = (generate(model, prompt(), 20, temperature=1.0, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_narrow_choices_are_greedy(model):
    greedy = generate(model, prompt(), 12, temperature=0)
    for how in (dict(top_k=1), dict(top_p=1e-9), dict(temperature=1e-4), dict(top_k=1, top_p=0.5, temperature=3.0)):
        np.testing.assert_array_equal(generate(model, prompt(), 12, **{"temperature": 1.0, **how}), greedy)


def test_a_full_row_goes_on_with_its_last_half(model):
    """T positions are full with a prompt of T - 1 and one token; the next sees the last T / 2."""
    ids = generate(model, prompt(n=T - 1), 8, temperature=0)
    assert ids.shape == (2, T + 7)
    begin = 0
    for t in range(T - 1, T + 7):
        begin = t - T // 2 if t - begin > T else begin
        np.testing.assert_array_equal(ids[:, t], logits_of(model, ids[:, begin:t]).argmax(-1))
    np.testing.assert_array_equal(generate(model, ids, 1, temperature=0)[:, -1],
                                  generate(model, ids[:, -(T // 2):], 1, temperature=0)[:, -1])


def test_a_row_that_begins_anew_leaves_the_others_as_they_are():
    """To the bit: a step and the layers, which read what is longer, do not round alike."""
    model = GPT(GPTConfig(vocab_size=V, block_size=40, n_layer=2, n_head=2, n_embd=16), seed=1)
    for p in model.parameters():
        p.data = p.data * np.float32(8)
    rows = [[b] * n for b, n in enumerate((1, 20, 39, 47))]
    found = [[] for _ in rows]
    for tokens in stream(model, rows, 60, temperature=0):
        for token in tokens:
            found[token.row].append((token.id, token.logprob))
    for row, want in zip(rows, found):
        assert [(token.id, token.logprob) for (token,) in stream(model, [row], 60, temperature=0)] == want


def test_the_mode_is_left_as_found(model):
    for on in (True, False):
        model.train(on)
        generate(model, prompt(), 1)
        assert all(m.training is on for m in model.modules())
        with pytest.raises(ZeroDivisionError):             # an exception inside must not leave the model in eval mode
            generate(model, prompt(), 1, allowed=lambda b, ids: 1 / 0)
        assert all(m.training is on for m in model.modules())


def test_allowed_forbids(model):
    def allowed(b, ids):
        """After an even token an odd one, after an odd one an even one; 3 never."""
        right = (np.arange(V) + ids[-1]) % 2 == 1
        return right & (np.arange(V) != 3)

    for how in (dict(temperature=0), dict(temperature=5.0), dict(temperature=5.0, top_k=2), dict(top_p=0.9)):
        ids = generate(model, prompt(), 30, allowed=allowed, **how)[:, 2:]
        assert ((ids[:, 1:] + ids[:, :-1]) % 2 == 1).all() and (ids[:, 1:] != 3).all()
    only_seven = np.arange(V) == 7
    assert (generate(model, prompt(), 5, allowed=lambda b, ids: only_seven)[:, 3:] == 7).all()
    with pytest.raises(ValueError, match="generate: got no token allowed"):
        generate(model, prompt(), 5, allowed=lambda b, ids: np.zeros(V, bool))
    for wrong in ([7], np.ones(V), np.ones(1, bool)):      # an id would be as good as True, for all of them
        with pytest.raises(ValueError, match=r"generate: got allowed .*; expected booleans \(11,\), one for"):
            generate(model, prompt(), 5, allowed=lambda b, ids, wrong=wrong: wrong)


def test_of_what_is_sure_the_likeliest_is_taken(model):
    """As often as any of them, and each other token as often as it was."""
    first, sure, allowed = prompt(2000, 1) * 0, [3, 8, 5], lambda b, ids: np.arange(V) != 8
    plain, ids = (generate(model, first, 1, temperature=1.5, allowed=allowed, sure=some)[:, 1] for some in ((), sure))
    z = logits_of(model, first[:1])[0]
    other = ~np.isin(plain, sure)
    assert other.any() and (ids[other] == plain[other]).all()
    assert (~other).any() and (ids[~other] == max((3, 5), key=z.__getitem__)).all()
    with pytest.raises(ValueError, match="generate: got sure and allows"):
        generate(model, first, 1, allowed=allowed, allows=lambda b, ids, token: True, sure=sure)
    with pytest.raises(ValueError, match="generate: got allows without allowed"):
        generate(model, first, 1, allows=lambda b, ids, token: True)


def test_all_are_asked_about_only_if_the_one_drawn_is_forbidden(model):
    """[SA3]: so every token is as likely as if all had been asked about before."""
    even, asked = np.arange(V) % 2 == 0, []

    def allowed(b, ids):
        asked.append((b, len(ids)))
        return even

    def allows(b, ids, token):
        tried.append((b, len(ids), even[token]))
        return even[token]

    first, n = prompt(2000, 1) * 0, 2
    for how in (dict(temperature=0), dict(temperature=1.5)):
        asked, tried = [], []
        ids = generate(model, first, n, allowed=allowed, allows=allows, **how)[:, 1:]
        assert (ids % 2 == 0).all() and len(tried) == ids.size
        assert asked == [(b, length) for b, length, fits in tried if not fits]
        p = np.exp(logits_of(model, first[:1])[0] / 1.5) * even
        if how["temperature"]:
            assert 0.1 < len(asked) / len(tried) < 0.9
            assert np.abs(np.bincount(ids[:, 0], minlength=V) / len(ids) - p / p.sum()).max() < 0.04
        else:
            assert (ids == generate(model, first, n, allowed=allowed, temperature=0)[:, 1:]).all()
    tried = []                                              # the likeliest three of all are not those of the even ones
    cut = [generate(model, first, n, allowed=allowed, top_k=3, **more) for more in ({}, {"allows": allows})]
    assert (cut[0] == cut[1]).all() and not tried


def test_nothing_new_is_the_prompt(model):
    np.testing.assert_array_equal(generate(model, prompt(), 0), prompt())


P = np.array([0.4, 0.1, 0.3, 0.2])


def share(n=20_000, temperature=1.0, **how):
    """How often each of four tokens with probabilities P is chosen."""
    logits, rng = np.log(P) + 5.0, np.random.default_rng(0)
    return np.bincount([choose(logits, rng, temperature, **how) for _ in range(n)], minlength=4) / n


@pytest.mark.parametrize("how, want", [
    (dict(), P),
    (dict(temperature=0.5), P ** 2 / (P ** 2).sum()),
    (dict(temperature=2.0), P ** 0.5 / (P ** 0.5).sum()),
    (dict(top_k=4), P),
    (dict(top_k=100), P),
    (dict(top_k=2), np.array([4, 0, 3, 0]) / 7),
    (dict(top_p=1.0), P),
    (dict(top_p=0.39), np.array([1, 0, 0, 0])),
    (dict(top_p=0.5), np.array([4, 0, 3, 0]) / 7),
    (dict(top_p=0.85), np.array([4, 0, 3, 2]) / 9),
    (dict(top_k=3, top_p=0.95), np.array([4, 0, 3, 2]) / 9),
    (dict(top_k=3, top_p=0.7), np.array([4, 0, 3, 0]) / 7),            # of the three, 4/9 and 3/9 are enough
    (dict(min_p=0.4), np.array([4, 0, 3, 2]) / 9),
    (dict(min_p=0.6), np.array([4, 0, 3, 0]) / 7),
    (dict(min_p=1.0), np.array([1, 0, 0, 0])),
    (dict(min_p=0.2, temperature=0.5), np.array([16, 0, 9, 4]) / 29),
])
def test_choices_have_the_right_probabilities(how, want):
    got = share(**how)
    assert np.abs(got - want).max() < 0.015                # four standard deviations of 20,000 draws
    assert (got[want == 0] == 0).all()


def test_the_lowest_id_among_equals_is_the_likeliest():
    equal, rng = np.array([0.0, 1.0, 1.0, 1.0]), np.random.default_rng(0)
    assert choose(equal, rng, 0) == choose(equal, rng, 1.0, top_k=1) == choose(equal, rng, 1.0, top_p=0.1) == 1
    assert {choose(equal, rng, 1.0, top_k=2) for _ in range(100)} == {1, 2}


def test_forbidden_tokens_are_never_drawn():
    rng = np.random.default_rng(0)
    for how in ({}, dict(top_k=2), dict(top_k=5), dict(top_p=0.99), dict(min_p=1e-9)):
        drawn = {choose(np.array([-np.inf, 0.0, -np.inf, 1.0, -np.inf]), rng, 1.0, **how) for _ in range(200)}
        assert drawn == {1, 3}


@pytest.mark.parametrize("how, says", [
    (dict(temperature=-1), "temperature -1; expected 0"), (dict(temperature=float("nan")), "temperature nan"),
    (dict(top_k=0), "top_k 0"), (dict(top_p=0.0), "top_p 0.0"), (dict(top_p=1.5), "top_p 1.5"),
    (dict(min_p=0.0), "min_p 0.0"), (dict(repetition_penalty=0), "repetition_penalty 0"),
    (dict(top_k=1.5), "top_k 1.5"), (dict(stop=5), "stop 5; expected ids, such as"),
    (dict(stop=np.int64(3)), "stop np.int64.3.; expected ids"), (dict(stop=None), "stop None; expected ids"),
    (dict(stop="5"), "stop '5'; expected ids"), (dict(sure=[V]), "sure .11.; expected ids from 0 to 10"),
    (dict(sure=np.array([-1, 2])), "sure .-1, 2.; expected ids from"), (dict(sure=3), "sure 3; expected ids"),
])
def test_bad_settings_are_refused(model, how, says):
    with pytest.raises(ValueError, match=f"generate: got {says}"):
        generate(model, prompt(), 1, **how)


def test_ids_come_in_any_collection(model):
    end = generate(model, prompt(), 5, temperature=0)[0, 4:]
    for how in (dict(stop=end), dict(sure=end), dict(stop=(i for i in end))):
        want = generate(model, prompt(), 9, temperature=0, **{name: end.tolist() for name in how})
        np.testing.assert_array_equal(generate(model, prompt(), 9, temperature=0, **how), want)
    assert beam_search(model, [1], 3, stop=(i for i in end)) == beam_search(model, [1], 3, stop=end.tolist())


def test_infinite_logits_are_refused(model):
    from gpt.generate import on_host
    for wrong in (np.inf, np.nan):
        with pytest.raises(ValueError, match="generate: got logits that are NaN or infinite"):
            on_host(np.array([[0.0, wrong]]))
    assert on_host(np.array([[0.0, -np.inf]])).shape == (1, 2)


def test_the_decoder_of_another_model_is_refused(model):
    with pytest.raises(ValueError, match="generate: got a decoder of another model; expected one of this model"):
        generate(model, [[1]], 1, decoder=Decoder(GPT(model.config)))


def test_a_model_of_nan_says_so():
    model = GPT(GPTConfig(vocab_size=V, block_size=T, n_layer=1, n_head=1, n_embd=4))
    for p in model.parameters():
        p.data = np.full_like(p.data, np.nan)
    for how in ({}, dict(temperature=0)):
        with pytest.raises(ValueError, match="generate: got logits that are NaN or infinite; .* Hint: the weights"):
            generate(model, prompt(), 1, **how)
    with pytest.raises(ValueError, match="got logits that are NaN"):
        beam_search(model, [1], 1)


def test_bad_prompts_are_refused(model):
    for wrong in (np.zeros(3, int), np.zeros((1, 0), int), np.zeros((1, 2)), [[]], [], [[1], [0.5]], [[[1]]]):
        with pytest.raises(ValueError, match=r"generate: got ids .* expected integers \(B, T\) with T at least 1"):
            generate(model, wrong, 1)
    with pytest.raises(ValueError, match="embedding: got id 11"):
        generate(model, np.array([[11]]), 1)


# ------------------------------------------------------------------------------------------------ the past from a cache

@st.composite
def models(draw):
    """A small model of either kind with large weights, in float64."""
    heads = draw(st.integers(1, 3))
    c = GPTConfig(vocab_size=draw(st.integers(2, 40)), block_size=draw(st.integers(2, 12)),
                  n_layer=draw(st.integers(1, 3)), n_head=heads, n_embd=heads * draw(st.integers(1, 9)),
                  pre_norm=draw(st.booleans()), dropout=draw(st.sampled_from([0.0, 0.5])),
                  activation=draw(st.sampled_from(["gelu", "relu"])))
    model, rng = GPT(c).to(dtype="float64"), np.random.default_rng(draw(st.integers(0, 99)))
    for p in model.parameters():
        p.data = p.data + rng.standard_normal(p.shape) * 0.4
    return model, rng


def test_a_cache_takes_memory_as_it_fills():
    """And what it holds is the same, whatever room it had."""
    model = GPT(GPTConfig(vocab_size=9, block_size=300, n_layer=2, n_head=2, n_embd=8)).eval()
    ids, cache, rooms = np.arange(300)[None] % 9, Cache(model, 1), []
    with no_grad():
        whole = model(ids).data
        for i in range(0, 300, 20):
            part = model(ids[:, i:i + 20], cache).data
            assert np.abs(part - whole[:, i:i + 20]).max() < 1e-5
            rooms.append(cache.k.shape[3])
    assert sorted(set(rooms)) == [64, 128, 256, 300]


TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "bfloat16": 0.1}         # relative to the largest logit


@pytest.mark.parametrize("mode", kernels.MODES)
@pytest.mark.parametrize("dtype", TOLERANCE)
@given(made=models(), data=st.data())
@settings(max_examples=30)
def test_a_prompt_and_then_token_by_token_is_the_whole_text(mode, dtype, made, data):
    """In parts of any lengths."""
    (model, rng), B = made, data.draw(st.integers(1, 3))
    model.to(dtype=dtype).eval()
    ids = rng.integers(0, model.config.vocab_size, (B, data.draw(st.integers(1, model.config.block_size))))
    cuts = sorted(data.draw(st.lists(st.integers(0, ids.shape[1]), max_size=3)))
    with kernels.using(mode), no_grad():
        want, cache = model(ids).data.astype(np.float64), Cache(model, B)
        found = [model(ids[:, a:b], cache).data for a, b in itertools.pairwise([0, *cuts, ids.shape[1]]) if b > a]
    assert np.abs(np.concatenate(found, 1) - want).max() <= TOLERANCE[dtype] * max(1, np.abs(want).max())
    assert (cache.lengths == ids.shape[1]).all()


@given(made=models(), data=st.data())
@settings(max_examples=50)
def test_rows_of_any_length_are_read_and_continued_as_if_alone(made, data):
    model, rng = made
    size, n = model.config.block_size, model.config.vocab_size
    sizes = data.draw(st.lists(st.integers(1, size - 1), min_size=1, max_size=4))
    rows = [rng.integers(0, n, k).tolist() for k in sizes]
    decoder, more = Decoder(model), rng.integers(0, n, len(rows))
    want = np.concatenate([logits_of(model, [row]) for row in rows])
    np.testing.assert_allclose(decoder.read(rows), want, rtol=0, atol=1e-11 * max(1, np.abs(want).max()))
    kept = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=4))
    decoder.keep(kept)
    rows = [rows[i] + [int(more[i])] for i in kept]
    want = np.concatenate([logits_of(model, [row]) for row in rows])
    np.testing.assert_allclose(decoder.step(more[kept]), want, rtol=0, atol=1e-11 * max(1, np.abs(want).max()))
    assert all(m.training for m in model.modules())


@given(made=models(), data=st.data())
@settings(max_examples=50)
def test_a_batch_is_its_rows_one_by_one(made, data):
    """Of any lengths, past block_size, until some end, with whatever settings."""
    model, rng = made
    n = model.config.vocab_size
    rows = [rng.integers(0, n, k).tolist() for k in data.draw(st.lists(st.integers(1, 15), min_size=1, max_size=4))]
    how = dict(temperature=data.draw(st.sampled_from([0, 0.7, 2.0])), top_k=data.draw(st.sampled_from([None, 1, 3])),
               top_p=data.draw(st.sampled_from([None, 0.8])), min_p=data.draw(st.sampled_from([None, 0.1])),
               repetition_penalty=data.draw(st.sampled_from([1.0, 1.3])), stop=set(rng.integers(0, n, 1).tolist()))
    together = generate(model, rows, 9, seed=5, **how)
    for b, row in enumerate(rows):
        assert generate(model, [row], 9, seed=5 + b, **how) == [together[b]]
        new = together[b][len(row):]
        assert together[b][:len(row)] == row and not how["stop"] & set(new[:-1])
        assert len(new) == 9 or new[-1] in how["stop"]


def test_a_cache_refuses_what_it_has_no_room_for_and_gradients(model):
    cache = Cache(model, 1)
    with no_grad():
        model(np.zeros((1, T), int), cache)
        with pytest.raises(ValueError, match="Cache: got 1 tokens after 8; expected at most block_size = 8"):
            model(np.zeros((1, 1), int), cache)
    with pytest.raises(ValueError, match="Cache: got a pass that records gradients"):
        model(np.zeros((1, 1), int), Cache(model, 1))


# ----------------------------------------------------------------------------------------- streams, ends, probabilities

def test_a_stream_has_every_token_and_its_probability(model):
    steps = list(stream(model, prompt(), 12, temperature=2.0, top_k=5, repetition_penalty=1.2, seed=3))
    ids = generate(model, prompt(), 12, temperature=2.0, top_k=5, repetition_penalty=1.2, seed=3)
    assert [[token.id for token in step] for step in steps] == ids[:, 3:].T.tolist()
    for t, step in enumerate(steps[:T - 3]):
        z = logits_of(model, ids[:, :3 + t])
        want = z - np.log(np.exp(z).sum(-1, keepdims=True))
        for token in step:
            assert token.logprob == pytest.approx(want[token.row, token.id], abs=1e-4)


def test_a_stream_that_is_left_early_leaves_the_mode_as_found(model):
    model.train()
    next(stream(model, prompt(), 5))
    assert all(m.training for m in model.modules())


def test_rows_end_where_they_are_told_to(model):
    free = generate(model, prompt(), 10, temperature=0)
    end = int(free[0, 5])                                  # the third new token of the first row, if not earlier
    found = generate(model, prompt().tolist(), 10, temperature=0, stop={end})
    for row, want in zip(found, free.tolist()):
        new = want[3:]
        assert row == want[:3] + (new[:new.index(end) + 1] if end in new else new)
    padded = generate(model, prompt(), 10, temperature=0, stop={end})
    assert padded.shape[1] == max(map(len, found))
    assert [list(row[:len(f)]) for row, f in zip(padded, found)] == found
    assert all((row[len(f):] == f[-1]).all() for row, f in zip(padded, found))


def test_repetition_is_made_less_likely():
    """[SA1] by hand: 0 and 2 have been there."""
    from gpt.generate import penalised
    z = np.array([[2.0, 1.0, -1.0, 0.5]])
    np.testing.assert_array_equal(penalised(z, [[2, 0, 2]], 4.0), [[0.5, 1.0, -4.0, 0.5]])
    np.testing.assert_array_equal(z, [[2.0, 1.0, -1.0, 0.5]])


# --------------------------------------------------------------------------------------------------------- beam search

def by_brute_force(model, row, n, stop, power):
    """Every continuation with its score, the best first."""
    ended, alive = [], [([], 0.0)]
    for k in range(1, n + 1):
        z = np.concatenate([logits_of(model, [row + new]) for new, _ in alive])
        logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
        found = [(new + [i], s + logp[b, i]) for b, (new, s) in enumerate(alive) for i in range(z.shape[1])]
        ended += [(row + new, s / k ** power) for new, s in found if new[-1] in stop or k == n]
        alive = [(new, s) for new, s in found if new[-1] not in stop]
    return sorted(ended, key=lambda pair: -pair[1])


@pytest.mark.parametrize("stop, power", [((), 1.0), ((2,), 1.0), ((0, 2), 0.0), ((1,), 2.0)])
def test_enough_beams_find_the_best(stop, power):
    model = GPT(GPTConfig(vocab_size=4, block_size=6, n_layer=1, n_head=1, n_embd=8), seed=1)
    for p in model.parameters():
        p.data = p.data * np.float32(8)
    want = by_brute_force(model, [1, 3], 3, stop, power)[:64]
    found = beam_search(model, [1, 3], 3, beams=64, length_penalty=power, stop=stop)
    assert [ids for ids, _ in found] == [ids for ids, _ in want]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in want], rtol=1e-5)


def test_one_beam_is_greedy(model):
    (found, score), = beam_search(model, prompt()[0].tolist(), 5, beams=1)
    assert found == generate(model, prompt()[:1], 5, temperature=0)[0].tolist() and score < 0
    with pytest.raises(ValueError, match="beam_search: got 3 tokens and 7 new ones"):
        beam_search(model, prompt()[0].tolist(), 7)
    for wrong in (dict(beams=1.5), dict(stop=3)):
        with pytest.raises(ValueError, match=f"beam_search: got .*{next(iter(wrong))}"):
            beam_search(model, [1], 1, **wrong)
