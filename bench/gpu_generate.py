"""Text on a card, token by token, and the logits of whole prompts: ours and PyTorch's, in turns.

A new token of one row needs every weight once, and the keys and values of what came before it; it takes at least the
time in which the memory delivers them. A batch of rows needs the weights once too. PyTorch has the model of
bench/torch_gpt2.py with a cache of fixed size, eager, and compiled with CUDA graphs ("reduce-overhead"). On all sides
the host reads every token, as one does who shows the text.
"""
import time
from contextlib import contextmanager

import numpy as np

from bench.generate import PROMPT, Text, first_and_rest, prompts
from bench.gpu_sides import CupyClock, TorchClock
from gpt import GPT, GPTConfig
from gpt.sizes import cache, entry, forward_flops, parameters


class Ours:
    def __init__(self, sizes, dtype):
        from gpt.decode import Decoder
        self.clock = CupyClock()
        self.model = GPT(GPTConfig(**sizes)).to("gpu", dtype).eval()
        self.decoder = Decoder(self.model)

    def write(self, batch, new):
        """The Text of greedy continuations."""
        from gpt import stream
        ids = prompts(self.model.config.vocab_size, batch, PROMPT)
        times, rows = [time.perf_counter()], ids.tolist()
        with waits_for_copies() as waits:
            for tokens in stream(self.model, ids, new, temperature=0, decoder=self.decoder):
                times.append(time.perf_counter())
                for token in tokens:
                    rows[token.row].append(token.id)
        return written(rows, times, waits)

    def read(self, batch, length, repeats):
        """Seconds of every time until the logits of whole prompts are there."""
        from minigrad import no_grad
        ids = self.clock.cupy.asarray(prompts(self.model.config.vocab_size, batch, length))
        with no_grad():
            return waited(self.clock, repeats, lambda: self.model(ids))


class PyTorch:
    """mode: None for eager, or one of torch.compile's."""

    def __init__(self, sizes, dtype, mode=None):
        import torch

        from bench.torch_gpt2 import copy_of
        self.torch, self.clock, self.vocab_size = torch, TorchClock(), sizes["vocab_size"]
        self.model = copy_of(GPT(GPTConfig(**sizes))).to(self.clock.device, getattr(torch, dtype)).eval()
        self.forward, self.step, self.caches = self.model.forward, self.next_token, {}
        if mode:
            self.forward, self.step = (self.clock.compiled(f, mode) for f in (self.forward, self.step))

    def next_token(self, ids, at, cache):
        return self.model(ids, cache, at)[:, -1].argmax(-1, keepdim=True)

    def write(self, batch, new):
        torch, device = self.torch, self.clock.device
        ids = prompts(self.vocab_size, batch, PROMPT)
        with torch.inference_mode():
            if (batch, new) not in self.caches:              # CUDA graphs want it at the same place every time
                self.caches[batch, new] = self.model.empty_cache(batch, PROMPT + new)
                torch._dynamo.mark_static_address(self.caches[batch, new])
            cache = self.caches[batch, new]
            times, rows, waits = [time.perf_counter()], ids.tolist(), []
            token = self.next_token(torch.from_numpy(ids).to(device), torch.arange(PROMPT, device=device), cache)
            for position in range(PROMPT, PROMPT + new):
                start = time.perf_counter()
                ids = token.tolist()
                waits.append(time.perf_counter() - start)
                for row, (found,) in zip(rows, ids):
                    row.append(found)
                times.append(time.perf_counter())
                if position < PROMPT + new - 1:
                    token = self.step(token.clone(), torch.tensor([position], device=device), cache)
        return written(rows, times, waits)

    def read(self, batch, length, repeats):
        ids = self.torch.from_numpy(prompts(self.vocab_size, batch, length)).to(self.clock.device)
        with self.torch.inference_mode():
            return waited(self.clock, repeats, lambda: self.forward(ids))


@contextmanager
def waits_for_copies():
    """A list that grows by the seconds of every wait for what the card sends."""
    from minigrad.gpu import Later
    seen, wait = [], Later.__call__

    def timed(later):
        start = time.perf_counter()
        value = wait(later)
        seen.append(time.perf_counter() - start)
        return value

    Later.__call__ = timed
    try:
        yield seen
    finally:
        Later.__call__ = wait


def written(rows, times, waits):
    """The Text, from when each token was there, and how long the host waited for it."""
    first, rest = first_and_rest(times)
    return Text(rows, first, rest, host=rest - sum(waits[1:]) / max(1, len(waits) - 1))


def waited(clock, repeats, work):
    """Seconds of every call by the host's clock, until the card has done it."""
    found = []
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        clock.wait()
        found.append(time.perf_counter() - start)
    return found[2:]


SIDES = {"ours": (Ours, {}), "PyTorch eager": (PyTorch, {}), "PyTorch compile": (PyTorch, dict(mode="reduce-overhead"))}


def writing_floor(sizes, dtype, batch, new, copy):
    """Seconds in which all weights, and half way through the new tokens all keys and values, come from memory."""
    c = GPTConfig(**sizes)
    return (entry(dtype) * parameters(c) + batch * (PROMPT + new / 2) * cache(c, dtype)) / copy


def reading_floor(sizes, batch, length, product):
    """Seconds for the operations of whole prompts."""
    return batch * length * forward_flops(GPTConfig(**sizes), length) / product


def agreement(a, b):
    """The share of equal tokens in two lists of rows: from the first that differs on, texts go their own ways."""
    a, b = np.array(a)[:, PROMPT:], np.array(b)[:, PROMPT:]
    return float(np.cumprod(a == b, axis=1).mean())
