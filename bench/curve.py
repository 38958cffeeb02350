"""A run's first steps beside PyTorch's: the same weights, the same batches, the same learning rates, one loss a step.

Rounding differs, and a model in training doubles a difference every so many steps, so the two curves part in the end.
How far they do says nothing about who is right; that they lie on each other until then says that both take the same
steps. Dropout is off: the random numbers of the two are not the same.
"""
import argparse
from dataclasses import asdict, replace

import numpy as np

from bench import turns
from bench.turns import HAVE_TORCH, Side
from minigrad.check import expect
from train import config as settings
from train.drawing import drawing


def setting(name, data, steps):
    """The Config of a run by name, on this text, without dropout, for so many of its steps."""
    c = settings.parse(["--config", name, *(["--data", data] if data else [])])
    return replace(c, dropout=0.0), min(steps, c.steps)


def batches(c):
    """(learning rate, micro-batches) of every step, as train.run takes them."""
    from nn import cosine_with_warmup
    from train.data import Windows, prepare
    data, rows = prepare(c), c.device_batch
    windows = Windows(data.train, c.block_size, c.seed, c.align)
    for step in range(c.steps):
        position = step * c.per_step
        yield (cosine_with_warmup(step, c.lr, c.min_lr, min(c.warmup, c.steps), c.steps),
               [windows.batch(position + k * rows, rows) for k in range(c.per_step // rows)])


def begin(c):
    """The model that train.run begins with."""
    from gpt import GPT, GPTConfig
    from train.data import prepare
    return GPT(GPTConfig(prepare(c).tokenizer.vocab_size, c.block_size, c.n_layer, c.n_head, c.n_embd, 0.0, c.pre_norm,
                         activation=c.activation), seed=c.seed).to(dtype=c.dtype)


def ours(given):
    from nn import AdamW
    from train.step import train_step
    c = settings.Config(**given)
    model = begin(c)
    opt = AdamW(model.parameters(), c.lr, c.betas, weight_decay=c.weight_decay)
    for step, (lr, micro) in enumerate(batches(c)):
        yield train_step(model, opt, micro, lr, step, c)[0]


def pytorch(given, threads):
    import torch

    from bench.torch_gpt2 import copy_of
    torch.set_num_threads(threads)
    c = settings.Config(**given)
    model = copy_of(begin(c))
    opt = torch.optim.AdamW(model.decay_groups(c.weight_decay), lr=c.lr, betas=c.betas, fused=True)
    for lr, micro in batches(c):
        total = 0.0
        for x, y in micro:
            loss = model.loss(torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(y)), c.label_smoothing)
            (loss / len(micro)).backward()
            total += loss.item() / len(micro)
        if c.clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), c.clip)
        for group in opt.param_groups:
            group["lr"] = lr
        opt.step()
        opt.zero_grad(set_to_none=True)
        yield total


def table(losses, theirs):
    """Both losses at some steps, how far apart they have been until then, and their means in the end."""
    apart = np.abs(np.array(losses) / np.array(theirs) - 1)
    shown = sorted({1, 20, *(10 ** k for k in range(1, 6)), *range(50, len(losses) + 1, 50), len(losses)})
    lines = [f"{'step':>6}{'ours':>10}{'PyTorch':>10}{'largest difference so far':>28}"]
    lines += [f"{n:6}{losses[n - 1]:10.4f}{theirs[n - 1]:10.4f}{apart[:n].max():28.1e}"
              for n in shown if n <= len(losses)]
    last, means = min(100, len(losses)), [np.mean(each[-100:]) for each in (losses, theirs)]
    lines.append(f"mean of the last {last}: {means[0]:.4f} and {means[1]:.4f}, apart by "
                 f"{abs(means[0] / means[1] - 1):.1e}")
    return "\n".join(lines)


def plot(file, losses, theirs, title):
    with drawing(file, 2, figsize=(8, 6), sharex=True, height_ratios=(2, 1)) as (_, ((top,), (low,))):
        steps = np.arange(1, len(losses) + 1)
        top.plot(steps, theirs, color="#fdae6b", linewidth=4, label="PyTorch")
        top.plot(steps, losses, color="#2171b5", linewidth=1.2, label="ours")
        top.set(ylabel="training loss (nats per token)", title=title)
        top.legend(frameon=False)
        low.semilogy(steps, np.abs(np.array(losses) / np.array(theirs) - 1) + 1e-9, color="#636363", linewidth=0.8)
        low.set(xlabel="step", ylabel="relative difference")
        for axes in top, low:
            axes.grid(alpha=0.25)


def main(argv):
    parser = argparse.ArgumentParser("python -m bench curve", description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", default="shakespeare-char-full",
                        help="a name from train/configs, or a YAML file [%(default)s]")
    parser.add_argument("--data", help="the text, if not the config's")
    parser.add_argument("--steps", type=turns.positive, default=300, help="how many [300]")
    turns.add_shared(parser)
    args = parser.parse_args(argv)
    expect(HAVE_TORCH, "bench curve", "no PyTorch", "it for comparison", "pip install torch")
    from train.data import prepare
    c, steps = setting(args.config, args.data, args.steps)
    prepare(c)                                               # once for both; and what is wrong with it is said here
    print(f"{turns.machine()}\n{c.config}: {c.n_layer} layers of width {c.n_embd}, {c.tokens_per_step:,} tokens a "
          f"step, {c.dtype}, without dropout", flush=True)
    sides = [Side("ours", ours, {"given": asdict(c)}),
             Side("PyTorch", pytorch, {"given": asdict(c), "threads": args.threads})]
    from train.log import progress
    with progress(steps, 0) as bar:
        for _ in range(steps):
            for side in sides:
                side.work(1)
            bar.update()
    for side in sides:
        side.close()
    if any(side.dead for side in sides):
        return 1
    losses, theirs = (side.values for side in sides)
    print(table(losses, theirs))
    if args.json:
        turns.record(args.json, "curve", argv, ours=losses, pytorch=theirs)
    if args.plot:
        plot(args.plot, losses, theirs, f"{args.config}, {c.dtype}, no dropout")
    return 0
