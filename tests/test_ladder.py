"""From one scalar to a trained GPT: three implementations, the same weights, the same losses."""
import math

import numpy as np
import pytest
from reference_data import DATA

from bench import ladder
from gpt import GPT, GPTConfig


def names():
    """Five of makemore's names where they are at hand, else of our own."""
    file = DATA / "names" / "names.txt"
    return file.read_text(encoding="utf-8").split("\n")[:5] if file.exists() else ladder.NAMES[:5]


def test_scalars_references_and_kernels_learn_alike():
    rungs = ladder.climb(names(), steps=20, batch=1, lr=0.1)
    scalars, reference, kernels = (np.array(losses) for losses, _ in rungs.values())
    assert len(scalars) == 20 and scalars[-5:].mean() < 0.8 * scalars[:5].mean()      # five names, again and again
    assert np.abs(reference / scalars - 1).max() <= 1e-9
    assert np.abs(kernels / scalars - 1).max() <= 1e-9


@pytest.mark.parametrize("last, status", [(2.0, 0), (2.1, 1), (math.nan, 1)])
def test_the_command_tells_losses_that_differ(monkeypatch, last, status):
    rungs = {"scalars": ([3.0, 2.0], 1.0), "reference": ([3.0, 2.0], 1.0), "kernels": ([3.0, last], 1.0)}
    monkeypatch.setattr(ladder, "climb", lambda *_: rungs)
    assert ladder.main(["--steps", "2"]) == status


def test_the_scalar_gpt_has_the_same_gradients():
    model = GPT(GPTConfig(vocab_size=5, block_size=3, n_layer=2, n_head=2, n_embd=4), seed=1).to(dtype="float64")
    for p in model.parameters():
        p.data = p.data + np.random.default_rng(p.size).standard_normal(p.shape)
    scalar = ladder.ScalarGPT(model)
    scalar.loss([([0, 3, 1], [3, 1, -1]), ([4, 4, 2], [4, 2, 0])]).backward()
    model.loss([[0, 3, 1], [4, 4, 2]], [[3, 1, -1], [4, 2, 0]]).backward()
    for name, p in model.named_parameters():
        ours = np.reshape([x.grad for x in ladder.flatten(scalar.w[name])], p.shape)
        np.testing.assert_allclose(p.grad, ours, rtol=0, atol=1e-12 * np.abs(ours).max(), err_msg=name)
