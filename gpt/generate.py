"""Text, one token at a time: temperature, top-k and top-p over the model's logits."""
import numpy as np

from minigrad import backend, no_grad
from minigrad.check import expect


def generate(model, ids, max_new_tokens, temperature=0.8, top_k=None, top_p=None, seed=0, allowed=None):
    """Continue every row of ids (B, T) by max_new_tokens tokens; returns ids (B, T + max_new_tokens), int64.

    temperature 0 takes the likeliest token (the lowest id among equals); top_k keeps the k likeliest, top_p the
    smallest set with at least that probability (Holtzman et al. 2020, arXiv:1904.09751). allowed(ids) may forbid
    tokens: given the ids so far, it returns a boolean array (B, V) or (V,). Past block_size the model sees the
    last block_size tokens. The same seed gives the same text. The model's train or eval mode is left as found.
    """
    ids = np.asarray(ids)
    expect(ids.ndim == 2 and ids.shape[1] > 0 and ids.dtype.kind in "iu", "generate", f"ids {ids.dtype} {ids.shape}",
           "integers (B, T) with T at least 1", "begin an empty prompt with the end-of-text token")
    expect(temperature >= 0, "generate", f"temperature {temperature}", "0 (greedy) or more")
    expect(top_k is None or top_k > 0, "generate", f"top_k {top_k}", "None, or 1 or more")
    expect(top_p is None or 0 < top_p <= 1, "generate", f"top_p {top_p}", "None, or a number in (0, 1]")
    rng, ids, was_training = backend.stream("generate", seed), ids.astype(np.int64), model.training
    model.eval()
    try:
        for _ in range(max_new_tokens):
            logits = next_logits(model, ids)                                             # (B, V)
            if allowed is not None:
                logits = np.where(allowed(ids), logits, -np.inf)
                expect((logits > -np.inf).any(-1).all(), "generate", "no token allowed", "at least one in every row")
            ids = np.concatenate([ids, choose(logits, temperature, top_k, top_p, rng)[:, None]], 1)
    finally:
        model.train(was_training)
    return ids


def next_logits(model, ids):
    """Logits (B, V) of the token after ids (B, T), float64: the head sees the last position only."""
    with no_grad():
        x = model.hidden(model.integers(ids[:, -model.config.block_size:]))[:, -1]
        logits = x @ model.wte.weight.T
    return backend.asnumpy(logits.data).astype(np.float64)


def choose(logits, temperature, top_k, top_p, rng):
    """One token per row of logits (B, V)."""
    if temperature == 0:
        return logits.argmax(-1)
    order = np.argsort(-logits, axis=-1, kind="stable")                                  # likeliest first
    z = np.take_along_axis(logits, order, -1) / temperature
    p = np.exp(z - z[:, :1])
    p /= p.sum(-1, keepdims=True)
    if top_k is not None:
        p[:, top_k:] = 0
    if top_p is not None:
        p[np.cumsum(p, -1) - p >= top_p] = 0      # a token stays if those before it do not make up top_p yet
    total = np.cumsum(p, -1)
    u = rng.random(len(p)) * total[:, -1]
    rank = (total <= u[:, None]).sum(-1)                                     # the first whose total exceeds u
    return np.take_along_axis(order, rank[:, None], -1)[:, 0]
