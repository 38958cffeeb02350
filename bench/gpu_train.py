"""Training steps on a card, ours and PyTorch's, in turns: the same weights, the same batches, and so the same losses.

A step is forward, backward, clipping, AdamW and zero_grad. Ours keeps parameters in 16 bits and what rounding takes
from them; PyTorch does what nanoGPT does: float32 parameters under autocast, its own attention, fused AdamW, TF32 for
what stays in float32, torch.compile where the name says so, and with float16 a GradScaler.

    MFU = F tokens_per_s / peak,   F = 6 (12 L C^2 + V C) + 12 L C T   for a token
(Chowdhery et al. 2022, arXiv:2204.02311, appendix B: the whole square of attention counts, embeddings do not). Beside
it stands the share of the measured product's speed that the products really taken make up (bench/floors.py, half the
square, attention's scores twice).
"""
from contextlib import nullcontext

import numpy as np

from bench import floors
from bench.gpu_sides import CupyClock, TorchClock
from gpt.presets import PRESETS
from gpt.sizes import entry
from minigrad import gpu

# What share of a step's floor, products and traffic one after the other, is expected: the rest is the small products of
# attention, and for small models the launches.
EXPECTED = {"gpt2": 0.85, "gpt2-medium": 0.85, "char": 0.5}
PADDED = 50304           # GPT-2's 50257 tokens, rounded up to a multiple of 128 as everybody does in training
LR, WARM = 3e-4, 50      # reached after so many steps: begun with, it makes losses jump, and then each run is another


def sizes_of(preset):
    sizes = PRESETS[preset]
    return {**sizes, "vocab_size": PADDED if sizes["vocab_size"] == 50257 else sizes["vocab_size"]}


def traffic(sizes, batch, dtype):
    """Bytes that a step moves beside its products: [FL3] of bench/floors.py, and the logits, which are written, read
    twice by the loss, and written as gradients: on a GPU they are more than a cache holds."""
    logits = batch * sizes["block_size"] * sizes["vocab_size"] * entry(dtype)
    return floors.traffic(sizes, batch, dtype) + 4 * logits


def rate(taken):
    """The learning rate of the step after so many."""
    return LR * min(1.0, (taken + 1) / WARM)


def text(vocab_size, batch, T, seed=0):
    """An endless supply of batches in which there is something to learn: the k-th token has probability 1/k, but for
    every second one, which the token before it decides."""
    rng, below = np.random.default_rng(seed), np.cumsum(1 / np.arange(1, vocab_size + 1))
    while True:
        ids = np.searchsorted(below, rng.random((T + 1, batch)) * below[-1])
        decided = rng.random((T + 1, batch)) < 0.5
        for before, now, told in zip(ids, ids[1:], decided[1:]):
            now[told] = (7 * before[told] + 1) % vocab_size
        yield np.ascontiguousarray(ids[:-1].T), np.ascontiguousarray(ids[1:].T)


class Training:
    """What both sides share. A subclass has clock, put(array) and step(x, y), which gives a function that waits for the
    loss. The host reads each while the card is at the next step, as one does who wants to see it."""

    def turn(self, warm, steps):
        """(seconds of every step but the first ones, all losses, bytes held)"""
        self.clock.rest()
        batches = [tuple(map(self.put, next(self.text))) for _ in range(warm + steps)]
        later, losses, marks = [], [], []
        for i, (x, y) in enumerate(batches):
            if i >= warm:
                marks.append(self.clock.mark())
            later.append(self.step(x, y))
            if i > 0:
                losses.append(later[i - 1]())
        marks.append(self.clock.mark())
        losses.append(later[-1]())
        seconds, held = [self.clock.seconds(a, b) for a, b in zip(marks, marks[1:])], self.clock.held()
        del batches, later, x, y
        self.clock.rest()
        return seconds, losses, held


class Ours(Training):
    """graph: launch each step as one CUDA graph, which keeps the memory of its activations between turns."""

    def __init__(self, sizes, batch, dtype, graph=False):
        from gpt import GPT, GPTConfig
        from nn import AdamW
        from train.config import Config
        from train.precision import Scale
        self.clock, self.text = CupyClock(), text(sizes["vocab_size"], batch, sizes["block_size"])
        self.model = GPT(GPTConfig(**sizes)).to("gpu", dtype)
        self.opt = AdamW(self.model.parameters(), lr=LR)
        self.scale, self.config, self.taken = Scale.of(dtype), Config(), 0
        self.graph = gpu.Repeated() if graph else None

    def put(self, a):
        return self.clock.cupy.asarray(a)

    def step(self, x, y):
        from train.step import train_step
        found = train_step(self.model, self.opt, [(x, y)], rate(self.taken), self.taken, self.config, self.scale,
                           late=True, graph=self.graph)
        self.taken += 1
        return lambda: found()[0]


class PyTorch(Training):
    """mode: None for eager, or one of torch.compile's. cudnn: attention by cuDNN where it can, which PyTorch by itself
    prefers less than FlashAttention."""

    def __init__(self, sizes, batch, dtype, mode=None, cudnn=False):
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        from bench.torch_gpt2 import copy_of
        from gpt import GPT, GPTConfig
        self.clock, self.text = TorchClock(), text(sizes["vocab_size"], batch, sizes["block_size"])
        self.torch, self.dtype, self.taken = torch, getattr(torch, dtype), 0
        torch.set_float32_matmul_precision("high")
        self.model = copy_of(GPT(GPTConfig(**sizes))).to(self.clock.device)
        self.opt = torch.optim.AdamW(self.model.decay_groups(), lr=LR, betas=(0.9, 0.95), fused=True)
        self.scaler = torch.amp.GradScaler(self.clock.device, enabled=dtype == "float16")
        self.loss = self.clock.compiled(self.model.loss, mode) if mode else self.model.loss
        wanted = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]
        self.attention = (lambda: sdpa_kernel(wanted, set_priority=True)) if cudnn else nullcontext

    def put(self, a):
        return self.torch.from_numpy(a).to(self.clock.device)

    def step(self, x, y):
        half = self.dtype != self.torch.float32
        with self.attention(), self.torch.autocast(self.clock.device, self.dtype, enabled=half):
            loss = self.loss(x, y)
        told = self.clock.told(loss)                         # ours is heard of by such a copy
        self.scaler.scale(loss).backward()
        for group in self.opt.param_groups:
            group["lr"] = rate(self.taken)
        self.taken += 1
        self.scaler.unscale_(self.opt)
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.scaler.step(self.opt)
        self.scaler.update()
        self.opt.zero_grad(set_to_none=True)
        return told


# max-autotune tries many kernels for every product; without CUDA graphs, which would keep memory between turns. For
# small models there is a mode with them on both sides.
SIDES = {"ours": (Ours, {}), "ours by graph": (Ours, dict(graph=True)),
         "PyTorch eager": (PyTorch, {}), "PyTorch compile": (PyTorch, dict(mode="default")),
         "PyTorch compile, cuDNN": (PyTorch, dict(mode="default", cudnn=True)),
         "PyTorch by graph": (PyTorch, dict(mode="reduce-overhead")),
         "PyTorch max-autotune": (PyTorch, dict(mode="max-autotune-no-cudagraphs"))}


CURVES = {f"ours {dtype}": (Ours, dict(dtype=dtype)) for dtype in ("float32", "bfloat16", "float16")} | {
    "PyTorch float32": (PyTorch, dict(dtype="float32"))}


def apart(losses):
    """{title: the largest relative difference from the first curve} of the others."""
    first, *others = losses
    return {title: float(np.abs(np.divide(losses[title], losses[first]) - 1).max()) for title in others}


def rates(sizes, batch, seconds, product, peak):
    """Of a step that takes so long: tokens/s, MFU (None without a promised peak), share of the measured product."""
    tokens = batch * sizes["block_size"]
    return {"tokens_per_s": tokens / seconds, "mfu": peak and floors.usual(sizes, batch) / seconds / peak,
            "of_product": floors.flops(sizes, batch) / seconds / product}
