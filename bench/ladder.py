"""The ladder: one small GPT on names, climbed three times from the same weights, with the same losses.

    scalars      minigrad.scalar.Value, one number at a time: everything that a GPT does, in 80 lines of Python
    reference    NumPy arrays, the formulas as they are written in minigrad/ops and minigrad/fused
    kernels      the same formulas in Numba and BLAS

    python -m bench ladder [--steps 20] [--batch 2]
"""
import argparse
import math
import time

import numpy as np

from bench.turns import positive
from gpt import GPT, GPTConfig
from minigrad import using
from minigrad.scalar import Value
from nn import SGD

NAMES = ("emma olivia ava isabella sophia mia amelia harper evelyn emily ella grace chloe riya anaya diya aarav vihaan "
         "arjun kabir rohan meera tara nina omar leo noah liam ethan lucas mason logan oliver").split()
LETTERS = ".abcdefghijklmnopqrstuvwxyz"          # . begins and ends a name
CONFIG = GPTConfig(vocab_size=len(LETTERS), block_size=8, n_layer=1, n_head=2, n_embd=16)


# one number at a time

class ScalarGPT:
    """gpt/model.py's GPT-2 without arrays: w maps its parameter names to (nested) lists of Values."""

    def __init__(self, model):
        self.c, self.w = model.config, {name: values(p.data) for name, p in model.named_parameters()}

    def parameters(self):
        return [x for p in self.w.values() for x in flatten(p)]

    def loss(self, rows):
        """Mean cross-entropy over the letters of several rows (inputs, targets); targets of -1 are padding."""
        losses = []
        for inputs, targets in rows:
            for x, target in zip(self.hidden(inputs), targets, strict=True):
                if target >= 0:
                    losses.append(-log_softmax([dot(x, row) for row in self.w["wte.weight"]])[target])
        return total(losses) / len(losses)

    def hidden(self, ids):
        xs = [add(self.w["wte.weight"][i], self.w["wpe.weight"][t]) for t, i in enumerate(ids)]
        for layer in range(self.c.n_layer):
            h = f"h.{layer}."
            xs = [add(x, y) for x, y in zip(xs, self.attention(h, self.norm(h + "ln_1", xs)), strict=True)]
            xs = [add(x, y) for x, y in zip(xs, self.mlp(h, self.norm(h + "ln_2", xs)), strict=True)]
        return self.norm("ln_f", xs)

    def norm(self, name, xs):
        """Subtract the mean, divide by the standard deviation, scale, shift."""
        out = []
        for x in xs:
            mu = total(x) / len(x)
            centred = [xi - mu for xi in x]
            std = (total([d * d for d in centred]) / len(x) + self.c.eps).sqrt()
            out.append([d / std * w + b for d, w, b in
                        zip(centred, self.w[name + ".weight"], self.w[name + ".bias"], strict=True)])
        return out

    def linear(self, name, x):
        columns = zip(*self.w[name + ".weight"], strict=True)                # (in, out): one column per output
        return [dot(x, column) + b for column, b in zip(columns, self.w[name + ".bias"], strict=True)]

    def attention(self, h, xs):
        """Every position asks all up to itself: how much do your key and my query agree? and mixes their values."""
        C, D = self.c.n_embd, self.c.n_embd // self.c.n_head
        qkv, out = [self.linear(h + "attn.c_attn", x) for x in xs], []
        for t in range(len(xs)):
            y = []
            for at in range(0, C, D):
                q = qkv[t][at:at + D]
                scores = [dot(q, past[C + at:C + at + D]) / math.sqrt(D) for past in qkv[:t + 1]]
                shares = [s.exp() for s in log_softmax(scores)]
                y += [dot(shares, [past[2 * C + at + d] for past in qkv[:t + 1]]) for d in range(D)]
            out.append(self.linear(h + "attn.c_proj", y))
        return out

    def mlp(self, h, xs):
        return [self.linear(h + "mlp.c_proj", [gelu(z) for z in self.linear(h + "mlp.c_fc", x)]) for x in xs]


def gelu(x):
    return x * 0.5 * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)).tanh())


def log_softmax(z):
    m = max(x.data for x in z)                               # a number, not a Value: it cancels, and so does its slope
    lse = total([(x - m).exp() for x in z]).log() + m
    return [x - lse for x in z]


def dot(a, b):
    return total([x * y for x, y in zip(a, b, strict=True)])


def total(xs):
    return sum(xs[1:], xs[0])


def add(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]


def values(array):
    return [values(row) for row in array] if array.ndim else Value(array.item())


def flatten(nested):
    return [x for part in nested for x in flatten(part)] if isinstance(nested, list) else [nested]


# the three climbs

def new_model():
    """The model they all begin from, float64, its weights large enough to learn from the first step."""
    model = GPT(CONFIG, seed=0).to(dtype="float64")
    for name, p in model.named_parameters():
        if p.ndim == 2:
            p.data = p.data * (5 if "h." in name else 10)
    return model


def batches(names, steps, batch):
    """Rows of letters, each with the letter that follows; -1 after the end."""
    T = CONFIG.block_size
    for step in range(steps):
        x, y = np.zeros((batch, T), int), np.full((batch, T), -1)
        for row in range(batch):
            ids = [LETTERS.index(c) for c in f".{names[(step * batch + row) % len(names)]}."][:T + 1]
            x[row, :len(ids) - 1], y[row, :len(ids) - 1] = ids[:-1], ids[1:]
        yield x, y


def climb_scalars(data, lr):
    model, losses = ScalarGPT(new_model()), []
    parameters = model.parameters()
    for x, y in data:
        # What stands behind the end is not computed: no position before it can see it.
        loss = model.loss([(xi[yi >= 0], yi[yi >= 0]) for xi, yi in zip(x, y, strict=True)])
        for p in parameters:
            p.grad = 0.0
        loss.backward()
        for p in parameters:
            p.data -= lr * p.grad
        losses.append(loss.data)
    return losses


def climb_arrays(mode, data, lr):
    model, losses = new_model(), []
    opt = SGD(model.parameters(), lr)
    with using(mode):
        for x, y in data:
            loss = model.loss(x, y)
            loss.backward()
            opt.step()
            opt.zero_grad()
            losses.append(loss.item())
    return losses


def climb(names=NAMES, steps=20, batch=2, lr=0.1):
    """{rung: (losses, seconds)}"""
    data, found = list(batches(names, steps, batch)), {}
    for rung, run in (("scalars", climb_scalars), ("reference", lambda *a: climb_arrays("reference", *a)),
                      ("kernels", lambda *a: climb_arrays("auto", *a))):
        if rung == "kernels":
            run(data[:1], lr)                                # compile, or load what was compiled
        start = time.perf_counter()
        losses = run(data, lr)
        found[rung] = losses, time.perf_counter() - start
    return found


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench ladder", description="One GPT on names, by scalars, by "
                                     "arrays and by kernels: the same losses, at three speeds.")
    parser.add_argument("--steps", type=positive, default=20, help="of each [%(default)s]")
    parser.add_argument("--batch", type=positive, default=2, help="names per step [%(default)s]")
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate [%(default)s]")
    args = parser.parse_args(argv)
    rungs = climb(NAMES, args.steps, args.batch, args.lr)
    print("step" + "".join(f"{rung:>24}" for rung in rungs))
    for step, row in enumerate(zip(*(losses for losses, _ in rungs.values()), strict=True), 1):
        print(f"{step:4}" + "".join(f"{loss:24.15f}" for loss in row))
    print("ms/step" + "".join(f"{seconds / args.steps * 1e3:{21 if i == 0 else 24}.2f}"
                              for i, (_, seconds) in enumerate(rungs.values())))
    first, *rest = (np.array(losses) for losses, _ in rungs.values())
    gap = np.max([np.abs(losses / first - 1).max() for losses in rest])              # max() would overlook a NaN
    print(f"largest relative difference of the losses: {gap:.1e}")
    return 0 if gap <= 1e-9 else 1
