"""A training step, ours and PyTorch's, on the same machine: forward, backward, clip, AdamW, zero_grad.

Each runs in a process of its own, because their threads would fight in one (minigrad/pool.py), and they take turns, so
that a busy neighbour or a warming processor disturbs both alike. While one works the other waits for a message.
"""
import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time

import numpy as np

from minigrad import pool

CONFIGS = {             # (GPTConfig, batch): what published figures and our own goals are about
    "b":    (dict(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128), 12),
    "char": (dict(vocab_size=65, block_size=256, n_layer=6, n_head=6, n_embd=384), 16),
    "gpt2": (dict(vocab_size=50304, block_size=256, n_layer=12, n_head=12, n_embd=768), 4),
}


def batches(c, batch):
    """An endless supply of random text."""
    rng = np.random.default_rng(0)
    while True:
        ids = rng.integers(0, c.vocab_size, (batch, c.block_size + 1))
        yield ids[:, :-1].copy(), ids[:, 1:].copy()


def ours(sizes, batch, threads):
    """A generator that takes a training step whenever it is asked for one, and yields the loss."""
    from gpt import GPT, GPTConfig
    from nn import AdamW, clip_grad_norm
    pool.set_size(threads)
    model = GPT(GPTConfig(**sizes))
    opt = AdamW(model.parameters(), lr=6e-4)
    for x, y in batches(model.config, batch):
        loss = model.loss(x, y)
        loss.backward()
        clip_grad_norm(opt, 1.0)
        opt.step()
        opt.zero_grad()
        yield loss.item()


def pytorch(sizes, batch, threads):
    import torch

    from bench.torch_gpt2 import copy_of
    from gpt import GPT, GPTConfig
    torch.set_num_threads(threads)
    model = copy_of(GPT(GPTConfig(**sizes)))
    opt = torch.optim.AdamW(model.decay_groups(), lr=6e-4, betas=(0.9, 0.95), fused=True)
    for x, y in batches(GPTConfig(**sizes), batch):
        loss = model.loss(torch.from_numpy(x), torch.from_numpy(y))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        yield loss.item()


def worker(steps, sizes, batch, threads, pipe):
    """On every message n: n steps, and (their seconds, their losses, the largest memory so far in bytes) as answer."""
    train = steps(sizes, batch, threads)
    while n := pipe.recv():
        seconds, losses = [], []
        for _ in range(n):
            start = time.perf_counter()
            losses.append(next(train))
            seconds.append(time.perf_counter() - start)
        pipe.send((seconds, losses, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def compare(sizes, batch, threads, rounds, per_round):
    """{name: (seconds of the first step, seconds of every later one, losses, memory)}, taken in turns."""
    spawn, sides = multiprocessing.get_context("spawn"), {}
    for name, steps in (("minigrad", ours), ("PyTorch eager", pytorch)):
        pipe, theirs = spawn.Pipe()
        process = spawn.Process(target=worker, args=(steps, sizes, batch, threads, theirs), daemon=True)
        process.start()
        theirs.close()                                       # so that a worker that dies ends the wait
        sides[name] = pipe, process
    found = {name: (None, [], [], 0) for name in sides}
    for turn in range(rounds + 1):
        for name, (pipe, _) in sides.items():
            pipe.send(per_round if turn else 2)              # the first turn compiles and warms up
            seconds, losses, memory = pipe.recv()
            first, later, all_losses, _ = found[name]
            found[name] = (first if turn else seconds[0], later + seconds if turn else [], all_losses + losses, memory)
    for pipe, process in sides.values():
        pipe.send(0)
        process.join()
    return found


def machine():
    """The processor, its cores, and the versions of what runs on it."""
    model = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            model = next((line.split(":")[1].strip() for line in f if line.startswith("model name")), model)
    from importlib.metadata import version
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba", "torch"))
    return f"{model}, {pool.size()} cores; Python {platform.python_version()}, {packages}"


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench step", description="Milliseconds per training step (float32, AdamW, clip 1.0), ours and "
        "PyTorch's, taken in turns from the same weights on the same batches.")
    parser.add_argument("--config", choices=CONFIGS, default="b", help="default: b")
    parser.add_argument("--rounds", type=int, default=10, help="turns each (default: 10)")
    parser.add_argument("--steps", type=int, default=5, help="steps per turn (default: 5)")
    parser.add_argument("--threads", type=int, default=pool.size(), help=f"default: {pool.size()}, the cores at hand")
    args = parser.parse_args(argv)
    sizes, batch = CONFIGS[args.config]
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    try:
        found = compare(sizes, batch, args.threads, args.rounds, args.steps)
    except EOFError:
        print("bench step: a worker ended; its error is above. PyTorch: pip install torch", file=sys.stderr)
        return 1
    tokens = batch * sizes["block_size"]
    print(machine())
    print(f"config {args.config}: {sizes}, batch {batch}, {tokens} tokens a step, float32, {args.threads} threads")
    if busy > 0.5:
        print(f"The machine was busy (load {busy:.1f}) before we began. Threads that spin while they wait, as "
              "PyTorch's do, lose most by that: repeat this on a quiet machine.")
    print(f"{'':16}{'median ms':>10}{'best':>9}{'tokens/s':>11}{'first step s':>14}{'peak MB':>9}{'last loss':>11}")
    for name, (first, seconds, losses, memory) in found.items():
        median = statistics.median(seconds)
        print(f"{name:16}{median * 1e3:10.1f}{min(seconds) * 1e3:9.1f}{tokens / median:11.0f}{first:14.2f}"
              f"{memory / 1e6:9.0f}{losses[-1]:11.5f}")
    a, b = (statistics.median(seconds) for _, seconds, _, _ in found.values())
    gap = np.abs(np.divide(*(losses for _, _, losses, _ in found.values())) - 1).max()
    print(f"PyTorch / minigrad: {b / a:.2f}; largest relative difference of the losses: {gap:.1e}")
    return 0
