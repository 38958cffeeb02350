r"""Keys and values of the past, so that only new positions are computed.

In causal attention nothing that a position computes depends on those behind it. So its key and its value, in every
layer, are final when it has been computed once, and they are all that later positions want of it. For a new position i
    y_i = sum_{j<=i} p_ij v_j,   p_ij = exp(q_i . k_j / sqrt(D)) / sum_{j<=i} exp(q_i . k_j / sqrt(D))     [KV1]
is [AT1-5] of minigrad/fused/attention.py with the k_j and v_j of j < i looked up instead of computed again. A position
costs 2 n_layer C numbers of memory, and a new token one pass over the weights and one over the cache.

Rows may have different lengths: row b has lengths[b] positions. What is stored behind them is nobody's, and is written
over before it is seen. So a batch of prompts is padded on the right, and every position keeps its own number.
"""
import math

import numpy as np

from minigrad.backend import wide, xp_of
from minigrad.check import expect
from minigrad.fused.attention import attention, heads, merge
from minigrad.tensor import Tensor

ROOM = 64                # positions for which room is made at first; it doubles as they fill


class Cache:
    """For so many rows of a model, up to its block_size positions each; memory is taken as they fill."""

    def __init__(self, model, rows):
        c, like = model.config, model.wte.weight.data
        shape = (c.n_layer, rows, c.n_head, 0, c.n_embd // c.n_head)
        self.k, self.v = (xp_of(like).zeros(shape, like.dtype) for _ in range(2))        # (L, B, H, N, D)
        self.lengths, self.size = np.zeros(rows, np.int64), c.block_size                 # (B,)

    def make_room(self, T):
        """For T new positions; an error if there can be none."""
        seen = int(self.lengths.max(initial=0))
        expect(seen + T <= self.size, "Cache", f"{T} tokens after {seen}", f"at most block_size = {self.size} in all",
               "begin a new cache with the last tokens")
        if seen + T > self.k.shape[3]:
            self.take(slice(None), min(self.size, max(2 * self.k.shape[3], seen + T, ROOM)))

    def positions(self, T):
        """The numbers of T new positions, (B, T), for which room is made."""
        self.make_room(T)
        return xp_of(self.k).asarray(self.lengths[:, None] + np.arange(T))

    def take(self, rows, room):
        """Go on with these rows, with room for so many positions. What has been seen is copied; the rest is nobody's.
        """
        self.lengths, before = self.lengths[rows], (self.k, self.v)
        seen = int(self.lengths.max(initial=0))
        L, _, H, _, D = self.k.shape
        self.k, self.v = (xp_of(a).zeros((L, len(self.lengths), H, room, D), a.dtype) for a in before)
        self.k[:, :, :, :seen], self.v[:, :, :, :seen] = (a[:, rows, :, :seen] for a in before)

    def put(self, rows, part):
        """Let these rows, for which there is room, hold what the rows of another cache do."""
        for i, (b, n) in enumerate(zip(rows, part.lengths.tolist(), strict=True)):
            self.k[:, b, :, :n], self.v[:, b, :, :n], self.lengths[b] = part.k[:, i, :, :n], part.v[:, i, :, :n], n

    def attend(self, layer, qkv):
        """[KV1] for T new positions of every row, whose keys and values are stored.  Tensor (B, T, 3C) -> (B, T, C)"""
        expect(not qkv.requires_grad, "Cache", "a pass that records gradients", "one inside no_grad()")
        (_, T, _), H = qkv.shape, self.k.shape[2]
        q, k, v = heads(qkv.data, H)                                                     # (B, H, T, D) each
        lengths = self.lengths.tolist()
        for b, n in [(slice(None), lengths[0])] if len(set(lengths)) == 1 else enumerate(lengths):      # all at once
            self.k[layer, b, :, n:n + T], self.v[layer, b, :, n:n + T] = k[b], v[b]
        if not self.lengths.any():
            return attention(qkv, n_head=H)
        xp, seen = xp_of(q), int(self.lengths.max()) + T
        k, v = (wide(a[layer, :, :, :seen]) for a in (self.k, self.v))                   # (B, H, seen, D)
        s = wide(q) @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])                        # (B, H, T, seen)
        s = xp.where(xp.arange(seen) <= self.positions(T)[:, None, :, None], s, -xp.inf)
        p = xp.exp(s - s.max(-1, keepdims=True))
        y = p @ v / p.sum(-1, keepdims=True)                                             # [KV1]  (B, H, T, D)
        return Tensor(merge(y).astype(qkv.dtype, copy=False))

    def keep(self, rows):
        """Go on with these rows only, in this order; one may be taken more than once."""
        self.take(rows, self.k.shape[3])
