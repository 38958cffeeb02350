"""The kernel that chooses tokens, run by the emulator, against choose(); and texts of which the host hears late."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode_cpu import wide_model

from gpt import generate, stream
from gpt.decode import Decoder
from gpt.generate import choose, logprob, penalised
from gpt.generate_gpu import Chooser
from minigrad import kernels
from minigrad.emulator import emulator, fake_cupy

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)


@st.composite
def settings_of_choice(draw):
    return {name: draw(st.sampled_from(values)) for name, values in {
        "temperature": [0, 0.5, 1.0, 3.0], "top_k": [None, 1, 2, 7, 5000], "top_p": [None, 1e-9, 0.3, 0.9, 1.0],
        "min_p": [None, 0.05, 1.0]}.items()}


@given(how=settings_of_choice(), penalty=st.sampled_from([1.0, 1.5]), V=st.sampled_from([1, 2, 31, 33, 1024, 1100]),
       equals=st.booleans(), seed=st.integers(0, 99), schedule=st.sampled_from(emulator.SCHEDULES))
@settings(max_examples=30)
def test_what_it_chooses_is_what_choose_chooses(how, penalty, V, equals, seed, schedule):
    """With many that are equally likely, some that cannot be, and both zeros; two steps, of some of the rows."""
    rng = np.random.default_rng(seed)
    z = 4 * rng.standard_normal((2, 2, V)).astype(np.float32)
    if equals:
        z = np.round(z) * rng.choice([-1.0, 1.0], z.shape).astype(np.float32)
    z[:, :, 1::5] = -np.inf
    texts = [rng.integers(0, V, 3).tolist() for _ in range(3)]
    streams = lambda: [np.random.default_rng(n) for n in range(3)]
    ours, theirs = Chooser(texts, V, streams(), z, penalty, **how), streams()
    with emulator.schedule(*schedule):
        for logits in z:
            given_back = logits.copy()
            chosen = ours(logits, [2, 0])
            ids, logprobs = chosen.told()
            np.testing.assert_array_equal(chosen.tokens, ids)
            np.testing.assert_array_equal(logits, given_back)
            for row, b, token, p in zip(logits, (2, 0), ids.tolist(), logprobs, strict=True):
                marked = penalised(row[None], [texts[b]], penalty)[0] if penalty != 1 else row
                assert token == choose(marked, theirs[b], **how)
                assert p == pytest.approx(logprob(row, token), abs=1e-5)
                texts[b].append(token)


def test_it_finds_its_way_in_a_long_row():
    """Of 9000 tokens all may come, so each warp's part is looked through to its end."""
    logits, rng = np.zeros((1, 9000), np.float32), np.random.default_rng(1)
    how = dict(temperature=1.0, top_k=None, top_p=None, min_p=None)
    ours = Chooser([[0]], 9000, [np.random.default_rng(1)], logits, 1.0, **how)
    found = [ours(logits, [0]).told()[0].item() for _ in range(12)]
    assert found == [choose(logits[0], rng, **how) for _ in range(12)]
    assert np.ptp(found) > 4000


class Always:
    """A stream of one number."""

    def __init__(self, number):
        self.random = lambda n=None: number if n is None else np.full(n, number)


def row(V, *others, at=()):
    """V zeros, others at some places."""
    z = np.zeros(V, np.float32)
    z[list(at)] = others
    return z


@pytest.mark.parametrize("z, drawn, how", [
    (row(1100), 0.5, dict(temperature=0)),                                 # the first of equals
    (row(1100, 1.0, at=[3]), 0.5, dict(temperature=0)),                    # whose thread has more ids
    (row(1025, 90.0, at=[-1]), 0.5, dict(temperature=1.0)),                # one entry more than there are threads
    (row(3, 1.0, 1.0, 1.0000001, at=range(3)), 0.9, dict(temperature=1.0, top_k=2)),    # 2 and 0, neighbours as floats
    (row(3, 1.0, 3.0, at=[1, 2]), 0.0, dict(temperature=1.0, top_k=1)),    # nobody above the lowest, and 0.0 is drawn
])
def test_choices_that_hang_by_a_hair(z, drawn, how):
    """Equals, neighbours, and numbers drawn at either end of [0, 1)."""
    how = dict(top_k=None, top_p=None, min_p=None) | how
    ours = Chooser([[0]], len(z), [Always(drawn)], z[None], 1.0, **how)
    assert ours(z[None], [0]).told()[0] == choose(z, Always(drawn), **how)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("how", [dict(temperature=0), dict(temperature=1.5), dict(temperature=2.0, top_k=5),
                                 dict(temperature=2.0, top_p=0.8, repetition_penalty=1.3), dict(min_p=0.1)], ids=str)
def test_the_same_text_and_probabilities(pre_norm, how):
    """Beyond block_size = 12, with rows of which one ends."""
    model, prompts, told = wide_model(24, 3, pre_norm), [[1, 2, 3], [4], [5, 6]], {}
    end = generate(model, prompts, 2, seed=3, **how)[0][-1]
    for mode in ("reference", "emulated"):
        with kernels.using(mode):
            told[mode] = list(stream(model, prompts, 14, seed=3, stop={end}, **how))
    assert [[t[:2] for t in step] for step in told["emulated"]] == [[t[:2] for t in step] for step in told["reference"]]
    for a, b in zip(sum(told["emulated"], []), sum(told["reference"], []), strict=True):
        assert a.logprob == pytest.approx(b.logprob, abs=1e-3)
    assert {len(step) for step in told["emulated"]} > {3}


def test_the_host_hears_of_a_token_when_the_next_is_on_its_way(monkeypatch):
    """One wait a token, after the next step was asked for. None is asked for beyond the last, or when a row is full."""
    model, events = wide_model(24, 3).to(dtype="bfloat16"), []
    with fake_cupy.installed():
        decoder = Decoder(model.to(device="gpu"))
        generate(model, [[1] * 8], 7, decoder=decoder)       # products are timed at first
        step, read, again = decoder.step, decoder.read, decoder.again
        monkeypatch.setattr(decoder, "step", lambda tokens: events.append("step") or step(tokens))
        monkeypatch.setattr(decoder, "read", lambda rows: events.append("read") or read(rows))
        monkeypatch.setattr(decoder, "again", lambda *rows: events.append("again") or again(*rows))
        with fake_cupy.waits() as seen:
            for _ in stream(model, [[1] * 8], 7, decoder=decoder, temperature=1.0, top_k=3):
                events.append(len(seen))
    assert events == ["read", "step", 1, "step", 2, "step", 3, "step", 4, 5, "again", "step", "step", 6, 7]
