"""From the weights of another model to the model of this run: --init."""
from dataclasses import replace

import numpy as np

from gpt import GPT
from minigrad.backend import stream, wide
from minigrad.check import expect
from nn import init
from tok.base import Tokenizer


def adapted(model: GPT, dropout: float, old: Tokenizer | None, new: Tokenizer, seed: int) -> tuple[GPT, int]:
    """(the model with this dropout and a row of its embedding for every token of the tokenizer `new`, how many of those
    it knew).

    A token that the tokenizer `old` has too keeps its row. Others begin at the mean of all rows, where they are as
    likely as the average token, plus N(0, 0.02^2). With one and the same tokenizer nothing changes, nor where the
    weights came without one (old is None): then its ids are taken for theirs.
    """
    table = model.wte.weight.data
    rows, known = table, len(table)
    expect(old or new.vocab_size <= len(table), "--init", f"a checkpoint of {len(table)} tokens",
           f"at least {new.vocab_size}, the vocabulary of the data", "put its tokenizer.json beside the weights")
    if old and old.hash != new.hash:
        place = {token: i for i, token in enumerate(old.vocab) if token is not None}
        noise = stream("new tokens", seed).standard_normal((new.vocab_size, table.shape[1]), np.float32)
        rows = (wide(table).mean(0) + np.float32(0.02) * noise).astype(table.dtype)
        both = [(i, place[token]) for i, token in enumerate(new.vocab) if token in place]
        if both:
            to, where = np.array(both).T
            rows[to] = table[where]
        known = len(both)
    with init.empty():
        fresh = GPT(replace(model.config, dropout=dropout, vocab_size=len(rows)))
    for p, q in zip(fresh.parameters(), model.parameters(), strict=True):
        p.data = q.data
    fresh.wte.weight.data = rows
    return fresh, known
