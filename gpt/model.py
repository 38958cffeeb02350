"""GPT-1 and GPT-2 on one page.

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training"; Radford et al. 2019, "Language
Models are Unsupervised Multitask Learners". They are the same file because their difference is the lesson: where
the layer norm stands. Names of parameters follow the released GPT-2. Kernels, recompute, dtypes and devices are not
here: they are applied from outside.
"""
import functools
import math
import operator
from dataclasses import dataclass, replace

import numpy as np

from gpt.presets import PRESETS
from minigrad import backend
from minigrad.check import expect
from minigrad.fused.attention import attention
from minigrad.fused.cross_entropy import linear_cross_entropy
from minigrad.fused.gelu import gelu
from minigrad.fused.mlp import feed_forward
from minigrad.fused.relu import relu
from minigrad.tensor import Tensor
from nn import Dropout, Embedding, LayerNorm, Linear, Module, init
from nn.layers import number_sites

ACTIVATIONS = {"gelu": gelu, "relu": relu}


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a model."""
    vocab_size: int = 50257
    block_size: int = 1024          # positions, the longest context
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768               # C, the width
    dropout: float = 0.0            # of embeddings, attention weights and branches
    pre_norm: bool = True           # True: GPT-2. False: GPT-1
    eps: float = 1e-5               # of the layer norms
    activation: str = "gelu"        # inside the MLPs: "gelu", as both were released, or the first Transformer's "relu"

    def __post_init__(self):
        names = "vocab_size", "block_size", "n_layer", "n_head", "n_embd"
        sizes = tuple(getattr(self, name) for name in names)
        whole = all(hasattr(n, "__index__") for n in sizes)
        expect(whole and min(sizes) > 0 and self.n_embd % self.n_head == 0, "GPTConfig",
               f"sizes {sizes}", "whole numbers above 0, with n_embd a multiple of n_head")
        for name, n in zip(names, sizes, strict=True):       # JSON knows Python's numbers, and not NumPy's
            object.__setattr__(self, name, operator.index(n))
        for name, least, most in (("dropout", 0, 1), ("eps", 0, math.inf)):
            n = getattr(self, name)
            expect(hasattr(n, "__float__") and least <= n < most, "GPTConfig", f"{name} {n!r}",
                   f"a number in [{least}, {most})")
            object.__setattr__(self, name, float(n))
        expect(self.activation in tuple(ACTIVATIONS), "GPTConfig", f"activation {self.activation!r}",
               f"one of {', '.join(ACTIVATIONS)}")

    @classmethod
    def preset(cls, name, **changes):
        """The configuration called name, with fields changed: GPTConfig.preset("gpt2", dropout=0.1)."""
        expect(name in PRESETS, "preset", repr(name), f"one of {', '.join(PRESETS)}")
        return replace(cls(**PRESETS[name]), **changes)


class Attention(Module):
    """Causal self-attention: every position mixes the values of the positions up to itself."""

    def __init__(self, c):
        self.c_attn = Linear(c.n_embd, 3 * c.n_embd, std=0.02)
        self.c_proj = Linear(c.n_embd, c.n_embd, std=0.02 / math.sqrt(2 * c.n_layer))
        self.n_head, self.attn_dropout, self.resid_dropout = c.n_head, Dropout(c.dropout), Dropout(c.dropout)

    def forward(self, x, past=None):                         # (B, T, C) -> (B, T, C)
        qkv = self.c_attn(x)
        y = past(qkv) if past else attention(qkv, n_head=self.n_head, dropout=self.attn_dropout.mask())
        return self.resid_dropout(self.c_proj(y))


class MLP(Module):
    """Every position on its own: up to 4C, through GELU or ReLU, back to C."""

    def __init__(self, c):
        self.c_fc = Linear(c.n_embd, 4 * c.n_embd, std=0.02)
        self.c_proj = Linear(4 * c.n_embd, c.n_embd, std=0.02 / math.sqrt(2 * c.n_layer))
        self.activation, self.dropout = ACTIVATIONS[c.activation], Dropout(c.dropout)

    def forward(self, x):                                    # (B, T, C) -> (B, T, C)
        up, down = self.c_fc, self.c_proj
        return self.dropout(feed_forward(x, up.weight, up.bias, down.weight, down.bias, self.activation))


class Block(Module):
    """One Transformer layer. GPT-1 normalises the sum; GPT-2 normalises what goes into each branch, which leaves the
    path from x to the output free of anything but additions."""

    def __init__(self, c):
        self.ln_1, self.attn = LayerNorm(c.n_embd, c.eps), Attention(c)
        self.ln_2, self.mlp = LayerNorm(c.n_embd, c.eps), MLP(c)
        self.pre_norm = c.pre_norm

    def forward(self, x, past=None):                         # (B, T, C) -> (B, T, C)
        if self.pre_norm:                                    # GPT-2
            x, y = self.ln_2.of_sum(x, self.attn(self.ln_1(x), past))
            x = x + self.mlp(y)                              # left to the next ln_1, it would be two arrays to keep
        else:                                                # GPT-1
            _, x = self.ln_1.of_sum(x, self.attn(x, past))
            _, x = self.ln_2.of_sum(x, self.mlp(x))
        return x


class GPT(Module):
    """Token and position embeddings, the blocks, and a head that is the token embedding again (tied).

    Weights begin as N(0, 0.02^2), those that write into the residual path as N(0, 0.02^2 / (2 n_layer)).
    """

    def __init__(self, config, seed=0):
        expect(isinstance(config, GPTConfig), "GPT", repr(config), "a GPTConfig",
               "GPTConfig.preset('gpt2'); with the released weights, GPT.from_pretrained('gpt2')")
        c = self.config = config
        with init.seeded(seed):
            self.wte = Embedding(c.vocab_size, c.n_embd, std=0.02)
            self.wpe = Embedding(c.block_size, c.n_embd, std=0.02)
            self.drop = Dropout(c.dropout)
            self.h = [Block(c) for _ in range(c.n_layer)]
            if c.pre_norm:
                self.ln_f = LayerNorm(c.n_embd, c.eps)
        number_sites(self)

    def hidden(self, ids, cache=None):                       # (B, T) -> (B, T, C)
        """What the head sees: the normalised sum of all that the layers wrote. With a gpt.cache.Cache, ids come after
        those that it holds, and it holds them too from then on; no gradient flows to it."""
        T, most = ids.shape[1], self.config.block_size
        expect(T <= most, "GPT", f"{T} tokens in a row", f"at most block_size = {most}",
               "cut the text, or make a model with a larger block_size")
        x = self.drop(self.wte(ids) + self.wpe(cache.positions(T) if cache else backend.xp_of(ids).arange(T)))
        for i, block in enumerate(self.h):
            x = block(x, functools.partial(cache.attend, i)) if cache else block(x)
        if cache:
            cache.lengths = cache.lengths + T
        return self.ln_f(x) if self.config.pre_norm else x

    def forward(self, ids, cache=None):                      # (B, T) -> (B, T, V)
        """Logits of the next token after every position. ids: integers, a NumPy or CuPy array, a list or a Tensor."""
        return self.hidden(self.integers(ids), cache) @ self.wte.weight.T

    def loss(self, ids, targets, label_smoothing=0.0):       # (B, T), (B, T) -> ()
        """Mean cross-entropy in nats per token, as a float32 (or float64) Tensor; targets of -1 are padding."""
        return linear_cross_entropy(self.hidden(self.integers(ids)), self.wte.weight, self.integers(targets),
                                    label_smoothing=label_smoothing)

    def integers(self, ids):
        """ids as a (B, T) array of integers on the model's device."""
        ids = ids.data if isinstance(ids, Tensor) else ids
        ids = ids if backend.on_gpu(ids) else np.asarray(ids)
        expect(ids.ndim == 2 and ids.dtype.kind in "iu" and ids.shape[1] > 0, "GPT", f"ids {ids.dtype} {ids.shape}",
               "integers of shape (B, T)", "one sequence is a batch of one: ids[None]")
        return backend.to_device(ids, "gpu" if backend.on_gpu(self.wte.weight.data) else "cpu")

    def save(self, path, end=None):
        """Write a folder with model.safetensors and config.json, with Hugging Face's names, or NAME.bin for llm.c.
        end: id of the token that ends a text."""
        from gpt.pretrained import save
        save(self, path, end)

    @classmethod
    def from_pretrained(cls, source):
        """The GPT-1 or GPT-2 in a folder as transformers writes it, under a name on huggingface.co ("gpt2"), or in
        llm.c's .bin; in eval mode."""
        from gpt.pretrained import load
        return load(source)
