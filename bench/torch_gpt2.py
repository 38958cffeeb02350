"""GPT-1 and GPT-2 from PyTorch's own modules: what ours is compared with, in numbers and in time.

Names follow gpt/model.py, so weights are copied by name; nn.Linear keeps them as (out, in), hence the transposition.
"""
import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(c.n_embd, 3 * c.n_embd), nn.Linear(c.n_embd, c.n_embd)
        self.n_head = c.n_head

    def forward(self, x, cache=None, at=None):               # (B, T, C) -> (B, T, C)
        """cache (2, B, H, N, D): keys and values of N positions, of which x brings those numbered at, (T,)."""
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in self.c_attn(x).split(C, -1))
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            keys, values = (whole.index_copy_(2, at, new) for whole, new in zip(cache, (k, v)))
            past = at[:, None] >= torch.arange(keys.shape[2], device=at.device)          # (T, N)
            y = F.scaled_dot_product_attention(q, keys, values, attn_mask=past)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(c.n_embd, c.eps), Attention(c)
        self.ln_2, self.mlp = nn.LayerNorm(c.n_embd, c.eps), nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(c.n_embd, 4 * c.n_embd))
        self.mlp.add_module("gelu", nn.GELU(approximate="tanh"))
        self.mlp.add_module("c_proj", nn.Linear(4 * c.n_embd, c.n_embd))
        self.pre_norm = c.pre_norm

    def forward(self, x, *past):
        if self.pre_norm:
            x = x + self.attn(self.ln_1(x), *past)
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x + self.attn(x, *past))
        return self.ln_2(x + self.mlp(x))


class TorchGPT(nn.Module):
    """The model of a GPTConfig, without dropout: its random numbers are PyTorch's own."""

    def __init__(self, c):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(c.vocab_size, c.n_embd), nn.Embedding(c.block_size, c.n_embd)
        self.h = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = nn.LayerNorm(c.n_embd, c.eps) if c.pre_norm else nn.Identity()

    def forward(self, ids, cache=None, at=None):             # (B, T) -> (B, T, V)
        """With a cache, of which each layer has its part, the ids stand at the positions at; see empty_cache."""
        at = torch.arange(ids.shape[1], device=ids.device) if at is None else at
        x = self.wte(ids) + self.wpe(at)
        for i, block in enumerate(self.h):
            x = block(x) if cache is None else block(x, cache[i], at)
        return self.ln_f(x) @ self.wte.weight.T

    def empty_cache(self, batch, length):
        """Room for keys and values of so many positions."""
        w, heads = self.wte.weight, self.h[0].attn.n_head
        return w.new_zeros((len(self.h), 2, batch, heads, length, w.shape[1] // heads))

    def loss(self, ids, targets, label_smoothing=0.0):
        return F.cross_entropy(self(ids).flatten(0, 1), targets.flatten(), ignore_index=-1,
                               label_smoothing=label_smoothing)

    def decay_groups(self, weight_decay=0.1):
        """Parameter groups for torch.optim.AdamW: matrices and embeddings decay, vectors do not."""
        matrices = [p for p in self.parameters() if p.ndim >= 2]
        vectors = [p for p in self.parameters() if p.ndim < 2]
        return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def copy_of(model):
    """A TorchGPT with the weights, and in the dtype, of our model."""
    ours = {name: torch.tensor(p.data) for name, p in model.named_parameters()}
    theirs = TorchGPT(model.config).to(next(iter(ours.values())).dtype)
    linear = {f"{name}.weight" for name, m in theirs.named_modules() if isinstance(m, nn.Linear)}
    theirs.load_state_dict({name: p.T if name in linear else p for name, p in ours.items()})
    return theirs
