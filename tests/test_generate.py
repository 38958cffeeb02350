"""Sampling: the likeliest token, temperature, top-k, top-p, forbidden tokens, the same text for the same seed."""
import numpy as np
import pytest

from gpt import GPT, GPTConfig, generate
from gpt.generate import choose
from minigrad import no_grad

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


def test_past_block_size_the_last_tokens_count(model):
    ids = generate(model, prompt(n=T - 1), 6, temperature=0)
    assert ids.shape == (2, T + 5)
    model.eval()
    with no_grad():
        for t in range(T + 1, T + 5):
            np.testing.assert_array_equal(ids[:, t], model(ids[:, t - T:t]).data[:, -1].argmax(-1))
    model.train()
    np.testing.assert_array_equal(generate(model, ids, 1, temperature=0)[:, -1],
                                  generate(model, ids[:, -T:], 1, temperature=0)[:, -1])


def test_the_mode_is_left_as_found(model):
    for on in (True, False):
        model.train(on)
        generate(model, prompt(), 1)
        assert all(m.training is on for m in model.modules())
        with pytest.raises(ZeroDivisionError):             # an exception inside must not leave the model in eval mode
            generate(model, prompt(), 1, allowed=lambda ids: 1 / 0)
        assert all(m.training is on for m in model.modules())


def test_allowed_forbids(model):
    def allowed(ids):
        """After an even token an odd one, after an odd one an even one; 3 never."""
        right = (np.arange(V) + ids[:, -1:]) % 2 == 1
        return right & (np.arange(V) != 3)

    for how in (dict(temperature=0), dict(temperature=5.0), dict(temperature=5.0, top_k=2), dict(top_p=0.9)):
        ids = generate(model, prompt(), 30, allowed=allowed, **how)[:, 2:]
        assert ((ids[:, 1:] + ids[:, :-1]) % 2 == 1).all() and (ids[:, 1:] != 3).all()
    only_seven = np.arange(V) == 7
    assert (generate(model, prompt(), 5, allowed=lambda ids: only_seven)[:, 3:] == 7).all()
    with pytest.raises(ValueError, match="generate: got no token allowed"):
        generate(model, prompt(), 5, allowed=lambda ids: np.zeros(V, bool))


def test_nothing_new_is_the_prompt(model):
    np.testing.assert_array_equal(generate(model, prompt(), 0), prompt())


P = np.array([0.4, 0.1, 0.3, 0.2])


def share(n=20_000, temperature=1.0, top_k=None, top_p=None):
    """How often each of four tokens with probabilities P is chosen."""
    logits = np.broadcast_to(np.log(P) + 5.0, (n, 4))
    chosen = choose(logits, temperature, top_k, top_p, np.random.default_rng(0))
    return np.bincount(chosen, minlength=4) / n


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
])
def test_choices_have_the_right_probabilities(how, want):
    got = share(**how)
    assert np.abs(got - want).max() < 0.015                # four standard deviations of 20,000 draws
    assert (got[want == 0] == 0).all()


def test_the_lowest_id_among_equals_is_the_likeliest():
    equal = np.array([[0.0, 1.0, 1.0, 1.0]])
    assert choose(equal, 0, None, None, None) == [1]
    assert choose(equal, 1.0, 1, None, np.random.default_rng(0)) == [1]


def test_rows_are_drawn_one_by_one_and_forbidden_tokens_never():
    logits = np.array([[0.0, -np.inf, 1.0], [-np.inf, 2.0, -np.inf]])
    rng = np.random.default_rng(0)
    drawn = np.array([choose(logits, 1.0, None, None, rng) for _ in range(500)])
    assert set(drawn[:, 0]) == {0, 2} and set(drawn[:, 1]) == {1}


@pytest.mark.parametrize("how, says", [
    (dict(temperature=-1), "temperature -1; expected 0"), (dict(temperature=float("nan")), "temperature nan"),
    (dict(top_k=0), "top_k 0"), (dict(top_p=0.0), "top_p 0.0"), (dict(top_p=1.5), "top_p 1.5"),
])
def test_bad_settings_are_refused(model, how, says):
    with pytest.raises(ValueError, match=f"generate: got {says}"):
        generate(model, prompt(), 1, **how)


def test_bad_prompts_are_refused(model):
    for wrong in (np.zeros(3, int), np.zeros((1, 0), int), np.zeros((1, 2)), [[]]):
        with pytest.raises(ValueError, match=r"generate: got ids .* expected integers \(B, T\) with T at least 1"):
            generate(model, wrong, 1)
    with pytest.raises(ValueError, match="embedding: got id 11"):
        generate(model, np.array([[11]]), 1)
