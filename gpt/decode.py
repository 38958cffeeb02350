"""Read prompts, then take one token of every row at a time: logits of what may come next, and nothing else.

Logits lie where the model does, in its sums' dtype. A GPU has been asked for them then; who looks at them waits.
"""
from contextlib import contextmanager

import numpy as np

from gpt.cache import Cache
from minigrad import backend, kernels, no_grad
from minigrad.backend import xp_of
from minigrad.check import expect


class Decoder:
    """A model that writes. It holds the keys and values of what it has read, so a step costs one pass over the weights.

    Rows have whatever lengths their prompts have; what comes out for one does not depend on the others.

    Steps are taken by decode_cpu.py (in float32 or bfloat16) or decode_gpu.py, with copies of the weights that are made
    here: a model that is trained on needs another Decoder. On a CPU, with int8, those copies have a byte for each
    weight, and prompts are read by them too; else only those of a few tokens, and longer ones by the model's own
    layers. Each row goes its own way: in 16 bits the two round differently, and a row must not show who else was there.
    """

    def __init__(self, model, int8=False):
        self.model, self.int8, like = model, int8, model.wte.weight.data
        device = kernels.device_for([like], "Decoder")
        made = kernels.compiled("gpt.decode", device, "Step")
        self.compiled = made(model, int8) if made and made.takes(model, int8) else None
        expect(self.compiled or not int8, "Decoder", f"int8 for {like.dtype.name} on {device}",
               "a model in float32 or bfloat16 on a CPU with Numba")

    def read(self, prompts):
        """Begin anew with these prompts, lists of ids.  -> logits (B, V) after each one's last token"""
        found = self._read(prompts)
        if len(found) == 1:
            (_, self.cache, logits), = found
            return logits
        self.cache = Cache(self.model, len(prompts))
        self.cache.make_room(max(map(len, prompts)))
        for rows, cache, _ in found:
            self.cache.put(rows, cache)
        rows, _, logits = zip(*found)
        return xp_of(logits[0]).concatenate(logits)[np.argsort(np.concatenate(rows)).tolist()]

    def again(self, rows, prompts):
        """Let these rows begin anew with these prompts, the last token of each still to come in a step; the others go
        on."""
        self.keep(slice(None))                   # elsewhere in memory: a step on a GPU asks then where every row is
        for some, cache, _ in self._read(prompts):
            cache.lengths = cache.lengths - 1
            self.cache.put([rows[i] for i in some], cache)

    def _read(self, prompts):
        """[(some of the prompts, their cache, their logits)], by what reads them"""
        lengths = np.array([len(ids) for ids in prompts])
        short = np.full(len(lengths), self.int8) | (lengths <= (self.compiled.SHORT if self.compiled else 0))
        return [(rows, *read([prompts[b] for b in rows])) for read, rows in
                ((self._by_steps, np.flatnonzero(short).tolist()), (self._by_layers, np.flatnonzero(~short).tolist()))
                if rows]

    def _by_steps(self, prompts):
        """(cache, logits) of prompts that are short: of one that is long, the layers make more at a time."""
        cache = Cache(self.model, len(prompts))
        return cache, self.compiled.read(prompts, cache)

    def _by_layers(self, prompts):
        cache, lengths = Cache(self.model, len(prompts)), np.array([len(ids) for ids in prompts])
        padded = np.zeros((len(prompts), lengths.max()), np.int64)
        for row, ids in zip(padded, prompts):
            row[:len(ids)] = ids
        with evaluating(self.model):
            x = self.model.hidden(self.model.integers(padded), cache)                    # (B, T, C)
            cache.lengths = lengths
            return cache, self._head(x[np.arange(len(prompts)), lengths - 1])

    def step(self, tokens):
        """One more token of every row.  (B,) -> logits (B, V) after it; on a GPU the next step writes them over.
        Tokens that lie on the model's device are taken as they are: the host has not looked at them."""
        if self.compiled:
            return self.compiled(tokens, self.cache)
        with evaluating(self.model):
            return self._head(self.model.hidden(self.model.integers(tokens[:, None]), self.cache)[:, 0])

    def keep(self, rows):
        """Go on with these rows only, in this order; one may be taken more than once."""
        self.cache.keep(rows)

    def _head(self, x):                                                                  # (B, C) -> (B, V)
        return backend.wide((x @ self.model.wte.weight.T).data)


@contextmanager
def evaluating(model):
    """Without dropout and without gradients; the model's mode is left as found."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        for module, training in before:
            module.training = training
