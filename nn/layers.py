"""The layers that hold parameters, and Dropout, which holds its place. The mathematics is in minigrad/fused."""
import math
from typing import NamedTuple

import numpy as np

from minigrad import backend
from minigrad.check import expect
from minigrad.fused.dropout import dropout
from minigrad.fused.embedding import embedding
from minigrad.fused.layer_norm import layer_norm, sum_and_norm
from minigrad.fused.linear import linear
from minigrad.ops import reduce
from minigrad.tensor import Tensor
from nn import init
from nn.module import Module


def expect_sizes(who, *sizes):
    """Refuse sizes of which no layer can be made."""
    expect(all(hasattr(n, "__index__") and n > 0 for n in sizes), who, f"sizes {sizes}", "whole numbers above 0")


class Linear(Module):
    """y = x w + b, with weight (in, out) as in the released GPT-2.

    The weight begins as N(0, std^2), or without std as U(-1/sqrt(in), 1/sqrt(in)); the bias as 0.
    """

    def __init__(self, n_in, n_out, bias=True, std=None):
        expect_sizes("Linear", n_in, n_out)
        w = init.uniform((n_in, n_out), 1 / math.sqrt(n_in)) if std is None else init.normal((n_in, n_out), std)
        self.weight = Tensor(w, requires_grad=True)
        self.bias = Tensor(np.zeros(n_out, np.float32), requires_grad=True) if bias else None

    def forward(self, x):                                    # (..., in) -> (..., out)
        return linear(x, self.weight, self.bias)


class Embedding(Module):
    """A row of a table (n, d) for every id. The table begins as N(0, std^2)."""

    def __init__(self, n, d, std=1.0):
        expect_sizes("Embedding", n, d)
        self.weight = Tensor(init.normal((n, d), std), requires_grad=True)

    def forward(self, ids):                                  # (...) -> (..., d)
        return embedding(ids, self.weight)


class LayerNorm(Module):
    """Rows of width d with mean 0 and variance 1, then scaled by weight and shifted by bias."""

    def __init__(self, d, eps=1e-5):
        expect_sizes("LayerNorm", d)
        self.weight = Tensor(np.ones(d, np.float32), requires_grad=True)
        self.bias = Tensor(np.zeros(d, np.float32), requires_grad=True)
        self.eps = eps

    def forward(self, x):                                    # (..., d) -> (..., d)
        return layer_norm(x, self.weight, self.bias, eps=self.eps)

    def of_sum(self, x, r):                                  # (..., d), (..., d) -> (..., d), (..., d)
        """x + r as it is, and normalised."""
        return sum_and_norm(x, r, self.weight, self.bias, eps=self.eps)


class BatchNorm(Module):
    """Columns with mean 0 and variance 1 over all rows of a batch, then scaled by weight and shifted by bias (Ioffe &
    Szegedy 2015, arXiv:1502.03167). In eval mode with the mean and the variance that training batches had, an average
    in which each new batch counts with rate."""

    def __init__(self, d, eps=1e-5, rate=0.1):
        expect_sizes("BatchNorm", d)
        self.weight = Tensor(np.ones(d, np.float32), requires_grad=True)
        self.bias = Tensor(np.zeros(d, np.float32), requires_grad=True)
        self.mean, self.var = np.zeros(d, np.float32), np.ones(d, np.float32)
        self.eps, self.rate = eps, rate

    def forward(self, x):                                    # (..., d) -> (..., d)
        mean, var = self.mean, self.var
        expect(x.shape[-1:] == mean.shape, "BatchNorm", f"x {x.shape}", f"(..., {len(mean)})")
        if self.training:
            axes, n = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
            expect(n > 1, "BatchNorm", f"a batch of {n} in train mode", "2 rows or more", "model.eval() takes one")
            mean, var = reduce.mean(x, axis=axes), reduce.var(x, axis=axes)
            self.mean = self.mean + self.rate * (mean.data - self.mean)
            self.var = self.var + self.rate * (var.data * n / (n - 1) - self.var)       # of the source, not the sample
        return (x - mean) * (self.weight / (var + self.eps) ** 0.5) + self.bias


class Mask(NamedTuple):
    """Which entries to drop: a share of rate, chosen by key = (seed, step, micro-batch, site)."""
    rate: float
    key: tuple


class Dropout(Module):
    """In train mode, entries become 0 with probability rate and the rest are scaled by 1 / (1 - rate).

    The mask is a function of (seed, step, micro-batch, site) and the entry's place, see minigrad/fused/dropout.py. site
    tells the Dropouts of one model apart; number_sites(model) hands them out by position.
    """

    def __init__(self, rate, site=0):
        expect(hasattr(rate, "__float__") and 0 <= rate < 1, "Dropout", f"rate {rate}", "a number in [0, 1)")
        self.rate, self.site = rate, site

    def mask(self):
        """The Mask of this moment, or None where nothing is dropped."""
        return Mask(self.rate, (*backend.now(), self.site)) if self.training and self.rate else None

    def forward(self, x):
        mask = self.mask()
        return x if mask is None else dropout(x, p=mask.rate, key=mask.key)


def number_sites(model):
    """Give every Dropout of the model a site of its own, the same whenever the same model is made."""
    for site, m in enumerate(m for m in model.modules() if isinstance(m, Dropout)):
        m.site = site


class Sequential(Module):
    """Modules (or functions), one after the other."""

    def __init__(self, *layers):
        expect(all(map(callable, layers)), "Sequential", f"{[type(layer).__name__ for layer in layers]}",
               "modules or functions, one by one", "Sequential(*layers)")
        self.layers = list(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x
