"""Read prompts, then take one token of every row at a time: logits of what may come next, and nothing else."""
from contextlib import contextmanager

import numpy as np

from gpt.cache import Cache
from minigrad import backend, kernels, no_grad
from minigrad.check import expect


class Decoder:
    """A model that writes. It holds the keys and values of what it has read, so a step costs one pass over the weights.

    Rows have whatever lengths their prompts have; what comes out for one does not depend on the others.

    On a CPU in float32 or bfloat16 steps are taken by decode_cpu.py, with copies of the weights that are made here: a
    model that is trained on needs another Decoder. With int8 those copies have a byte for each weight.
    """

    def __init__(self, model, int8=False):
        self.model, like = model, model.wte.weight.data
        fits = not backend.on_gpu(like) and like.dtype.name in ("float32", "bfloat16")
        made = kernels.compiled("gpt.decode", "cpu", "Step") if fits else None
        expect(made or not int8, "Decoder", f"int8 for {like.dtype.name} on {backend.device_of([like], 'Decoder')}",
               "a model in float32 or bfloat16 on a CPU with Numba")
        self.compiled = made and made(model, int8)

    def read(self, prompts):
        """Begin anew with these prompts, lists of ids.  -> logits (B, V) after each one's last token"""
        lengths = np.array([len(ids) for ids in prompts])
        padded = np.zeros((len(prompts), lengths.max()), np.int64)
        for row, ids in zip(padded, prompts):
            row[:len(ids)] = ids
        self.cache = Cache(self.model, len(prompts))
        with evaluating(self.model):
            x = self.model.hidden(self.model.integers(padded), self.cache)               # (B, T, C)
            self.cache.lengths = lengths
            return self._head(x[np.arange(len(prompts)), lengths - 1])

    def step(self, tokens):
        """One more token of every row.  (B,) -> logits (B, V) after it"""
        if self.compiled:
            return self.compiled(tokens, self.cache)
        with evaluating(self.model):
            return self._head(self.model.hidden(self.model.integers(tokens[:, None]), self.cache)[:, 0])

    def keep(self, rows):
        """Go on with these rows only, in this order; one may be taken more than once."""
        self.cache.keep(rows)

    def _head(self, x):                                                                  # (B, C) -> (B, V)
        return backend.wide(backend.asnumpy((x @ self.model.wte.weight.T).data))


@contextmanager
def evaluating(model):
    """Without dropout and without gradients; the model's mode is left as found."""
    training = model.training
    if training:
        model.eval()
    try:
        with no_grad():
            yield
    finally:
        if training:
            model.train()
