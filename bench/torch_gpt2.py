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

    def forward(self, x):                                    # (B, T, C) -> (B, T, C)
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in self.c_attn(x).split(C, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
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

    def forward(self, x):
        if self.pre_norm:
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))
        x = self.ln_1(x + self.attn(x))
        return self.ln_2(x + self.mlp(x))


class TorchGPT(nn.Module):
    """The model of a GPTConfig, without dropout: its random numbers are PyTorch's own."""

    def __init__(self, c):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(c.vocab_size, c.n_embd), nn.Embedding(c.block_size, c.n_embd)
        self.h = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = nn.LayerNorm(c.n_embd, c.eps) if c.pre_norm else nn.Identity()

    def forward(self, ids):                                  # (B, T) -> (B, T, V)
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.ln_f(x) @ self.wte.weight.T

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
