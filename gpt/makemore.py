r"""Names like those in a list, by six models of the next character: from a table of counts to a Transformer.

    python -m gpt.makemore names.txt --model mlp         train it, score it on names that it has not seen, make some up
    python -m gpt.makemore names.txt --model all         the table of all of them

A name is a row of characters with a "." in front of it and behind it, and a model gives p(next character | those so
far); the loss is the mean of -ln p in nats per character, the final "." counted.

bigram       one character of context. With N_ac the times that c follows a, a model whose logits are a table W has
                 L = - 1/N sum_ac N_ac ln p_ac,   p_ac = exp(W_ac) / sum_k exp(W_ak)                [MM1]
                 dL/dW_ac = (N_a p_ac - N_ac) / N,   N_a = sum_c N_ac                               [MM2]
             L is convex, and its gradient is zero where p_ac = N_ac / N_a: what training looks for, counting finds.
             A pair that was never seen would get p = 0; add-one smoothing, p_ac = (N_ac + 1) / (N_a + V), is the same
             as one more example of every pair, and both ways get those.
mlp          Bengio et al. 2003: the embeddings of the last 3 characters, side by side, through a tanh layer.
wavenet      van den Oord et al. 2016 (arXiv:1609.03499), as a tree: 8 characters are joined two by two, three times.
rnn          h_t = tanh(W x_t + U h_{t-1} + b)                                                      [MM3]
gru          Cho et al. 2014 (arXiv:1406.1078): r and z in (0, 1) say what is forgotten and what is kept,
                 r_t = s(W_r x_t + U_r h_{t-1} + b_r),   z_t = s(W_z x_t + U_z h_{t-1} + b_z)       [MM4]
                 n_t = tanh(W_n x_t + U_n (r_t h_{t-1}) + b_n)                                      [MM5]
                 h_t = z_t h_{t-1} + (1 - z_t) n_t                                                  [MM6]
             so h_{t-1} reaches h_t by an addition, and a gradient goes back many steps without being multiplied away.
transformer  gpt/model.py's GPT-2, on names.

How a deep tanh network begins (--story). If weights are drawn from N(0, 1), a sum over n inputs has the deviation
sqrt(n), tanh saturates, 1 - tanh^2 is nearly 0 and so is every gradient behind it; logits of random weights make the
first loss many times ln V, that of knowing nothing. With deviation (5/3) / sqrt(n) for inputs of variance 1 the tanh
layers keep the size of what goes through them, and with small logits the loss begins at ln V      (scaled)
BatchNorm computes what that scaling hopes for, from every batch: (x - mean) / sqrt(var)           (batchnorm)
"""
import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gpt import pretrained
from gpt.decode import evaluating
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, backend, no_grad
from minigrad.check import exit_status, expect
from minigrad.fused.cross_entropy import cross_entropy
from minigrad.ops.shape import split, stack
from nn import AdamW, BatchNorm, Embedding, Linear, Module, Sequential, clip_grad_norm, cosine_with_warmup, init

STARTS = ("normal", "scaled", "batchnorm")


# ------------------------------------------------------------------------------------------- models of a few characters

class Bigram(Module):
    """A table of logits."""

    def __init__(self, V):
        self.table = Embedding(V, V, std=0)

    def forward(self, ids):                                  # (B, 1) -> (B, V)
        return self.table(ids[:, 0])

    def count(self, x, y):                                   # (N, 1), (N,)
        """The table that training on these pairs looks for."""
        pairs = np.zeros(self.table.weight.shape)
        np.add.at(pairs, (x[:, 0], y), 1)
        self.table.weight.data = np.log(pairs / pairs.sum(1, keepdims=True)).astype(np.float32)    # zero of [MM2]


def tanh_layer(n_in, n_out, start="batchnorm"):
    """Linear, BatchNorm if start says so, tanh."""
    std = 1 if start == "normal" else (5 / 3) / n_in ** 0.5
    norm = [BatchNorm(n_out)] if start == "batchnorm" else []
    return [Linear(n_in, n_out, bias=not norm, std=std), *norm, Tensor.tanh]


def last_layer(n_in, V, start="batchnorm"):
    return Linear(n_in, V, std=1 if start == "normal" else 0.1 / n_in ** 0.5)


class MLP(Module):
    """Context characters side by side, one tanh layer."""

    def __init__(self, V, context=3, d=10, hidden=200, start="batchnorm"):
        self.wte = Embedding(V, d)
        self.hidden = Sequential(*tanh_layer(context * d, hidden, start))
        self.head = last_layer(hidden, V, start)

    def tanh(self, ids):                                     # (B, N) -> (B, hidden)
        return self.hidden(self.wte(ids).reshape(len(ids), -1))

    def forward(self, ids):                                  # (B, N) -> (B, V)
        return self.head(self.tanh(ids))


def pairs(x):                                                # (B, N, C) -> (B, N / 2, 2 C)
    return x.reshape(len(x), x.shape[1] // 2, 2 * x.shape[2])


class WaveNet(Module):
    """A tree over 8 characters: neighbours are joined, then pairs, then fours."""

    def __init__(self, V, d=24, hidden=128):
        self.wte = Embedding(V, d)
        self.tree = Sequential(pairs, *tanh_layer(2 * d, hidden), pairs, *tanh_layer(2 * hidden, hidden),
                               pairs, *tanh_layer(2 * hidden, hidden))
        self.head = last_layer(hidden, V)

    def forward(self, ids):                                  # (B, 8) -> (B, V)
        return self.head(self.tree(self.wte(ids))[:, 0])


# --------------------------------------------------------------------------------------------- models of a whole name

class RNN(Module):
    """What was read so far is one vector h, made anew by every character."""
    gates = 1

    def __init__(self, V, d=64, hidden=128):
        self.wte = Embedding(V, d)
        self.w = Linear(d, self.gates * hidden)
        self.u = [Linear(hidden, hidden, bias=False) for _ in range(self.gates)]
        self.head = last_layer(hidden, V)

    def forward(self, ids):                                  # (B, T) -> (B, T, V)
        h, hs = Tensor(np.zeros((len(ids), self.head.weight.shape[0]), np.float32)), []
        for a in split(self.w(self.wte(ids)), parts=ids.shape[1], axis=1):               # a = W x_t + b
            h = self.cell(h, *split(a[:, 0], parts=self.gates))
            hs.append(h)
        return self.head(stack(*hs, axis=1))

    def cell(self, h, a):                                    # (B, H), (B, H) -> (B, H)
        u, = self.u
        return (a + u(h)).tanh()                                                         # [MM3]


class GRU(RNN):
    """An RNN that learns what to forget."""
    gates = 3

    def cell(self, h, a_r, a_z, a_n):                        # (B, H), (B, H), (B, H), (B, H) -> (B, H)
        u_r, u_z, u_n = self.u
        r, z = (a_r + u_r(h)).sigmoid(), (a_z + u_z(h)).sigmoid()                        # [MM4]
        n = (a_n + u_n(r * h)).tanh()                                                    # [MM5]
        return z * h + (1 - z) * n                                                       # [MM6]


def transformer(V, T):
    return GPT(GPTConfig(V, T, n_layer=4, n_head=4, n_embd=64, dropout=0.1))


# ------------------------------------------------------------------------------------------------------------ a run

@dataclass(frozen=True)
class Recipe:
    """How a model is made and trained."""
    make: Callable           # (V, T) -> Module; T is the number of characters of the longest name, with its end
    context: int | None      # characters that the model sees; None: all
    steps: int = 5000
    batch: int = 128         # characters to be predicted, or names where the model sees all
    lr: float = 3e-3
    decay: float = 0.1       # of the weights


RECIPES = {
    "bigram": Recipe(lambda V, T: Bigram(V), 1, steps=2000, batch=8192, lr=0.1, decay=0.0),
    "mlp": Recipe(lambda V, T: MLP(V), 3, steps=10_000, batch=256),
    "wavenet": Recipe(lambda V, T: WaveNet(V), 8, steps=10_000, batch=256),
    "rnn": Recipe(lambda V, T: RNN(V), None),
    "gru": Recipe(lambda V, T: GRU(V), None),
    "transformer": Recipe(transformer, None, steps=10_000, lr=2e-3),
}
PUBLISHED = {"bigram": 2.45, "mlp": 2.17, "wavenet": 1.99}


class Names:
    """A list of names, cut in three: a tenth to compare settings on (dev), a tenth to report (test), the rest to train.

    The order is random.Random(42).shuffle, and test is the ninth tenth: the one on which the lectures on makemore took
    the losses of their MLP and their WaveNet. That of their bigram is of all names, which it had counted
    (github.com/karpathy/nn-zero-to-hero).
    """

    def __init__(self, names):
        expect(len(names) > 9, "names", f"{len(names)} of them", "10 or more, one per line")
        self.all = list(names)
        random.Random(42).shuffle(self.all)
        a, b = int(0.8 * len(self.all)), int(0.9 * len(self.all))
        self.train, self.test, self.dev = self.all[:a], self.all[a:b], self.all[b:]
        dotted = [name for name in self.all if "." in name]
        expect(not dotted, "names", repr(dotted[:1]), "names without a full stop, which marks their ends")
        self.alphabet = ["."] + sorted(set("".join(self.all)))
        self.index = {c: i for i, c in enumerate(self.alphabet)}
        self.longest = max(map(len, self.all)) + 1

    @classmethod
    def read(cls, path):
        """From a text file, one name per line."""
        expect(Path(path).is_file(), "names", f"no file {str(path)!r}", "a text file with a name on each line",
               "names.txt of github.com/karpathy/makemore has 32,033")
        try:
            lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError as e:
            expect(False, "names", f"{str(path)!r} ({e})", "UTF-8")
        return cls([line.strip() for line in lines if line.strip()])

    def examples(self, names, context):
        """(ids, targets): (n, context) and (n,), one row per character; or (n, T) twice, one row per name with targets
        of -1 behind its end, if context is None."""
        rows = [[self.index[c] for c in name] for name in names]
        if context is None:
            x, y = np.zeros((len(rows), self.longest), np.int64), np.full((len(rows), self.longest), -1)
            for i, row in enumerate(rows):
                x[i, 1:len(row) + 1], y[i, :len(row) + 1] = row, row + [0]
            return x, y
        padded = [[0] * context + row + [0] for row in rows]
        x = [row[i:i + context] for row in padded for i in range(len(row) - context)]
        return np.array(x), np.array([c for row in padded for c in row[context:]])


def train(model, x, y, recipe, seed=0):
    """AdamW on random rows of the examples."""
    opt = AdamW(model.parameters(), recipe.lr, (0.9, 0.99), weight_decay=recipe.decay)
    rng = backend.stream("names", seed)
    steps = tqdm(range(recipe.steps), unit="step", mininterval=0.5 if sys.stderr.isatty() else 30, leave=False)
    with backend.moment(seed, 0, 0):                         # dropout's
        for step in steps:
            rows = rng.integers(len(x), size=recipe.batch)
            loss(model, x[rows], y[rows]).backward()
            expect(np.isfinite(clip_grad_norm(opt, 1.0)), "makemore", f"gradients that are no numbers in step {step}",
                   "finite ones", "a lower --lr")
            opt.step(cosine_with_warmup(step, recipe.lr, 0.0, min(100, recipe.steps), recipe.steps))
            opt.zero_grad()


def score(model, x, y, rows=4096):
    """Mean nats per character."""
    with evaluating(model):
        parts = [(loss(model, x[i:i + rows], y[i:i + rows]).item(), int((y[i:i + rows] >= 0).sum()))
                 for i in range(0, len(x), rows)]
    mean = sum(nats * n for nats, n in parts) / sum(n for _, n in parts)
    expect(np.isfinite(mean), "makemore", f"a loss of {mean}", "a number", "a lower --lr")
    return mean


def loss(model, x, y):
    """Mean nats per character, a Tensor; columns with nothing but padding are left out."""
    if y.ndim == 2:
        T = int((y >= 0).any(0).sum())
        x, y = x[:, :T], y[:, :T]
    return cross_entropy(model(x), y)


def make_up(model, names, recipe, n, seed=0, temperature=1.0, only_new=False):
    """n names that the model draws, character by character; only_new: none of those in the list."""
    rng, known, found, width = backend.stream("made up", seed), set(names.all), [], recipe.context or 1
    with evaluating(model):
        for _ in range(100):
            ids = np.zeros((n, width), np.int64)                             # nothing but "."
            for _ in range(names.longest):
                z = model(ids[:, -recipe.context:] if recipe.context else ids).data      # (n, V), or (n, T, V)
                z = z.reshape(n, -1, z.shape[-1])[:, -1].astype(np.float64) / temperature
                p = np.cumsum(np.exp(z - z.max(-1, keepdims=True)), -1)                  # (n, V)
                new = (rng.random((n, 1)) * p[:, -1:] >= p).sum(-1)
                ids = np.concatenate([ids, new[:, None]], 1)
            for row in ids[:, width:].tolist():
                name = "".join(names.alphabet[i] for i in row[:row.index(0)]) if 0 in row else ""
                if name and not (only_new and name in known):
                    known.add(name)
                    found.append(name)
            if len(found) >= n:
                return found[:n]
    expect(False, "makemore", f"{len(found)} such names in 100 times {n}", n,
           "a higher --temperature, or a model that has been trained for longer")


# -------------------------------------------------------------------------------------------------- the command

def fit(name, names, recipe, seed=0):
    """(model, {"train", "dev", "test": loss}, minutes), and of a bigram model what counting gives beside it."""
    x, y = names.examples(names.train, recipe.context)
    if name == "bigram":                                     # add-one smoothing: every pair once more
        V = len(names.alphabet)
        x, y = np.concatenate([x, np.repeat(np.arange(V), V)[:, None]]), np.concatenate([y, np.tile(np.arange(V), V)])
    with init.seeded(seed):
        model = recipe.make(len(names.alphabet), names.longest)
    began = time.perf_counter()
    train(model, x, y, recipe, seed)
    minutes = (time.perf_counter() - began) / 60
    if name == "bigram":
        counted = Bigram(V)
        counted.count(x, y)
        print(f"the same by counting: test {losses_of(counted, names, recipe)['test']:.4f}")
    return model, losses_of(model, names, recipe), minutes


def losses_of(model, names, recipe):
    return {part: score(model, *names.examples(getattr(names, part), recipe.context))
            for part in ("train", "dev", "test")}


def story(names, steps=1000, seed=0):
    """How an MLP begins, by the ways of drawing its weights: a table, as text."""
    recipe, V = replace(RECIPES["mlp"], steps=steps), len(names.alphabet)
    x, y = names.examples(names.train, recipe.context)
    lines = [f"the loss of knowing nothing is ln {V} = {np.log(V):.2f}",
             f"{'start':10} {'first loss':>12} {'saturated':>12} {f'after {steps}':>12}"]
    for start in STARTS:
        with init.seeded(seed):
            model = MLP(V, start=start)
        with no_grad():                                      # in train mode: BatchNorm has no averages yet
            first, h = loss(model, x, y).item(), model.tanh(x).data
        lines.append(f"{start:10} {first:12.2f} {(np.abs(h) > 0.97).mean():12.1%}")
        train(model, x, y, recipe, seed)
        lines[-1] += f" {score(model, *names.examples(names.test, recipe.context)):12.3f}"
    return "\n".join(lines)


def keep(model, name, names, path):
    """Write a model of these Names to a file."""
    about = {"model": name, "alphabet": json.dumps(names.alphabet)}
    pretrained.replace(Path(path), lambda temporary: pretrained.write_tensors(temporary, state(model), **about))


def load(path, names):
    """(model, its name) as keep() wrote it."""
    from safetensors import SafetensorError, safe_open
    try:
        with safe_open(path, "numpy") as file:
            about, arrays = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}
    except (OSError, SafetensorError) as e:
        expect(False, "--load", f"{path} ({e})", "a file written by --save")
    name = about.get("model")
    expect(name in RECIPES, "--load", f"{path} with model {name!r}", f"one of {', '.join(RECIPES)}")
    model = RECIPES[name].make(len(names.alphabet), names.longest)
    want = {n: a.shape for n, a in state(model).items()}
    expect(want == {n: a.shape for n, a in arrays.items()}, "--load", f"{path}, whose weights have other shapes",
           f"those of {len(names.alphabet)} characters and names up to {names.longest - 1}",
           "give the list of names that it was trained on")
    expect(about.get("alphabet") == json.dumps(names.alphabet), "--load", f"{path}, a model of the characters "
           f"{about.get('alphabet')}", f"of {json.dumps(names.alphabet)}",
           "give the list of names that it was trained on")
    for n, a in state(model).items():
        a[...] = arrays[n]
    return model, name


def state(model):
    """{name: array} of parameters and buffers."""
    return {**{n: p.data for n, p in model.named_parameters()}, **dict(model.named_buffers())}


EXAMPLES = """\
examples (python -m train.catalogue names downloads the list of the lectures to runs/downloads/names.txt):
  python -m gpt.makemore runs/downloads/names.txt --model bigram
  python -m gpt.makemore runs/downloads/names.txt --model all                six models and a table
  python -m gpt.makemore runs/downloads/names.txt --save mlp.safetensors     and later --load mlp.safetensors --new"""


def main(argv=None):
    parser = argparse.ArgumentParser("python -m gpt.makemore", epilog=EXAMPLES,
                                     description="Learn names, character by character, and make up more of them.",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="FILE", help="a text file with a name on each line")
    parser.add_argument("--model", choices=[*RECIPES, "all"], default="mlp",
                        help="which one to train; all: a table [%(default)s]")
    parser.add_argument("--steps", type=int, metavar="N", help="updates [by model, as --batch, --lr and --decay]")
    parser.add_argument("--batch", type=int, metavar="N",
                        help="characters in a step, or names for rnn, gru and transformer")
    parser.add_argument("--lr", type=float, metavar="X", help="highest learning rate")
    parser.add_argument("--decay", type=float, metavar="X", help="AdamW's weight decay")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of weights, batches and names [%(default)s]")
    parser.add_argument("--samples", type=int, default=20, metavar="N",
                        help="names to make up with each model [%(default)s]")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X",
                        help="below 1 more usual ones, above 1 wilder ones [%(default)s]")
    parser.add_argument("--new", action="store_true", help="make up none that is in the file")
    parser.add_argument("--save", metavar="FILE", help="write the trained model there (.safetensors)")
    parser.add_argument("--load", metavar="FILE", help="do not train: make up names with this one")
    parser.add_argument("--story", action="store_true", help="how an MLP begins, by the ways of drawing its weights")
    args = parser.parse_args(argv)
    return exit_status(lambda: run(args))


def run(args):
    """What the command line asks for."""
    expect(args.temperature > 0, "--temperature", args.temperature, "a number above 0")
    expect(args.samples >= 0, "--samples", args.samples, "0 or more")
    expect(args.seed >= 0, "--seed", args.seed, "0 or more")
    expect(not (args.save and args.model == "all"), "--save", "--model all", "one model")
    expect(not args.save or Path(args.save).parent.is_dir() and not Path(args.save).is_dir(), "--save",
           repr(args.save), "the name of a file in a folder that exists")
    beside = [f"--{name}" for name in ("steps", "batch", "lr", "decay", "save", "new", "story")
              if getattr(args, name) is not None and getattr(args, name) is not False]
    alone = [flag for flag in beside if flag != "--new"]
    expect(not (args.load and alone), "--load", f"{' and '.join(alone)} beside it", "a model that is trained already",
           "without --load one is trained")
    alone = [flag for flag in beside if flag not in ("--steps", "--story")] + ["--model"] * (args.model != "mlp")
    expect(not (args.story and alone), "--story", f"{' and '.join(alone)} beside it", "--steps and --seed at most",
           "it tells of the mlp and its recipe")
    names = Names.read(args.names)
    if args.story:
        steps = 1000 if args.steps is None else args.steps
        expect(steps > 0, "--steps", steps, "1 or more")
        return print(story(names, steps, args.seed))
    if args.load:
        model, name = load(args.load, names)
        return show(model, name, names, args) if args.samples else None
    print(f"{len(names.all):,} names, {len(names.alphabet)} characters, the longest has {names.longest - 1}")
    rows, status = [], 0
    for name in RECIPES if args.model == "all" else [args.model]:
        given = {key: getattr(args, key) for key in ("steps", "batch", "lr", "decay") if getattr(args, key) is not None}
        recipe = replace(RECIPES[name], **given)
        expect(recipe.steps > 0 and recipe.batch > 0 and recipe.lr > 0 and recipe.decay >= 0, "makemore",
               f"steps {recipe.steps}, batch {recipe.batch}, lr {recipe.lr}, decay {recipe.decay}",
               "positive ones, decay 0 or more")
        model, found, minutes = fit(name, names, recipe, args.seed)
        if args.save:
            keep(model, name, names, args.save)
        rows.append((name, sum(p.size for p in model.parameters()), found, minutes))
        if args.samples:
            print(f"\n{name}:")
            try:
                show(model, name, names, args)
            except ValueError as e:                          # the table is still to come
                status = 2
                print(f"error: {e}", file=sys.stderr)
    print(f"\n{'model':12} {'parameters':>10} {'train':>8} {'dev':>8} {'test':>8} {'published':>10} {'minutes':>8}")
    for name, parameters, found, minutes in rows:
        losses = " ".join(f"{found[part]:8.4f}" for part in ("train", "dev", "test"))
        print(f"{name:12} {parameters:10,} {losses} {PUBLISHED.get(name, ''):>10} {minutes:8.1f}")
    return status


def show(model, name, names, args):
    """Names that the model makes up, in columns."""
    made = make_up(model, names, RECIPES[name], args.samples, args.seed, args.temperature, args.new)
    for i in range(0, len(made), 5):
        print("   ", "".join(f"{word:18}" for word in made[i:i + 5]).rstrip())


if __name__ == "__main__":
    sys.exit(main())
