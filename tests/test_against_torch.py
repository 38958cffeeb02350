"""A hundred steps beside PyTorch: the same weights, the same batches, the same losses."""
import numpy as np
import pytest

from gpt import GPT, GPTConfig
from nn import AdamW, clip_grad_norm, cosine_with_warmup

torch = pytest.importorskip("torch")
from bench.torch_gpt2 import copy_of  # noqa: E402  (needs torch)

STEPS, BATCH, WARMUP, PEAK, FLOOR = 100, 4, 10, 3e-3, 3e-4
SIZES = dict(vocab_size=17, block_size=16, n_layer=2, n_head=4, n_embd=32)


def batches(vocab_size, T, rng):
    """Counting, from random places in random strides, with some padding: there is something to learn."""
    for _ in range(STEPS):
        start, stride = rng.integers(0, vocab_size, (BATCH, 1)), rng.integers(1, 4, (BATCH, 1))
        ids = (start + stride * np.arange(T + 1)) % vocab_size
        targets = ids[:, 1:].copy()
        targets[0, T - 3:] = -1
        yield ids[:, :-1], targets


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-9), ("float32", 1e-3)])
@pytest.mark.parametrize("pre_norm", [True, False], ids=["GPT-2", "GPT-1"])
def test_a_hundred_steps(dtype, tolerance, pre_norm):
    model = GPT(GPTConfig(**SIZES, pre_norm=pre_norm), seed=1).to(dtype=dtype)
    theirs = copy_of(model)
    opt = AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    their_opt = torch.optim.AdamW(theirs.decay_groups(0.1), betas=(0.9, 0.95), eps=1e-8)
    torch.set_num_threads(1)              # its idle threads spin, and two pools on one machine fight
    losses, clipped = [], 0
    for step, (x, y) in enumerate(batches(SIZES["vocab_size"], SIZES["block_size"], np.random.default_rng(0))):
        lr = cosine_with_warmup(step, PEAK, FLOOR, WARMUP, STEPS)
        loss = model.loss(x, y)
        loss.backward()
        norm = clip_grad_norm(opt, 1.0)
        opt.step(lr)
        opt.zero_grad()

        their_loss = theirs.loss(torch.tensor(x), torch.tensor(y))
        their_opt.zero_grad()
        their_loss.backward()
        their_norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        for group in their_opt.param_groups:
            group["lr"] = lr
        their_opt.step()
        losses.append((loss.item(), their_loss.item(), norm, their_norm.item()))
        clipped += norm > 1
    ours, wanted, norms, wanted_norms = np.array(losses).T
    off = np.abs(ours / wanted - 1).max()
    print(f"{dtype}, {'GPT-2' if pre_norm else 'GPT-1'}: a loss differs by {off:.1e} at most")      # README has it
    assert off <= tolerance
    assert np.abs(norms / wanted_norms - 1).max() <= 10 * tolerance     # a gradient is one derivative less smooth
    assert wanted[-1] < 0.5 * wanted[0] and 0 < clipped < STEPS         # it learnt, and clipping was on and off
