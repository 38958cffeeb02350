"""Read prompts, then take one token of every row at a time: logits of what may come next, and nothing else."""
from contextlib import contextmanager

import numpy as np

from gpt.cache import Cache
from minigrad import backend, no_grad


class Decoder:
    """A model that writes. It holds the keys and values of what it has read, so a step costs one pass over the weights.

    Rows have whatever lengths their prompts have; what comes out for one does not depend on the others.
    """

    def __init__(self, model):
        self.model = model

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
