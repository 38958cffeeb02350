"""choose() of generate.py for all rows on the device, by the kernel of minigrad/fused/choose.cu.

So the next step can begin before the host has heard of these tokens. What is drawn comes from the same streams as on
the host, uploaded for DRAWS steps at a time.
"""
import numpy as np

from gpt.generate import Chosen
from minigrad.backend import xp_of
from minigrad.cuda import cuda
from minigrad.gpu import Later

THREADS, DRAWS = 1024, 256


class Chooser:
    """generate.Chooser without `allowed`, which is a function on the host."""

    ahead = True

    def __init__(self, rows, V, streams, like, repetition_penalty, temperature, top_k, top_p, min_p):
        self.xp, self.streams, self.drawn, self.going = xp_of(like), streams, 0, None
        self.settings = (float(temperature), top_k if top_k and top_k < V else 0, float(top_p or 0), float(min_p or 0),
                         float(repetition_penalty))
        self.seen = self.uniform = None
        if repetition_penalty != 1:
            seen = np.zeros((len(rows), V), np.uint8)
            for marks, ids in zip(seen, rows, strict=True):
                marks[ids] = 1
            self.seen = self.xp.asarray(seen)

    def __call__(self, logits, going):
        xp, B = self.xp, len(going)
        if going != self.going:
            self.going, self.which = going, xp.asarray(np.array(going))
        uniform = None
        if self.settings[0]:
            if self.drawn % DRAWS == 0:
                self.uniform = xp.asarray(np.array([s.random(DRAWS) for s in self.streams]).T.copy())
            uniform = self.uniform[self.drawn % DRAWS]
            self.drawn += 1
        ids, told = xp.empty(B, "int64"), xp.empty((2, B), "float64")
        cuda("choose", "float32").choose[B, THREADS](logits, self.which, logits.shape[1], *self.settings, self.seen,
                                                     uniform, ids, told)
        return Chosen(ids, Told(told))


class Told(Later):
    """(2, B) on its way to the host, as ids and logprobs."""

    def __call__(self):
        ids, logprobs = super().__call__()
        return ids.astype(np.int64), logprobs
