"""What safety and seeing cost: python -m bench overhead

A checkpoint is measured in pairs of blocks of steps, one that begins with a save and one that does not, in turns: what
the copy holds up, and what the thread that writes takes from the steps beside it, are both in the difference, and the
second block begins when the first one's files are on the disk. The rest is timed by itself.
"""
import argparse
import contextlib
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from bench import turns
from bench.step import CONFIGS
from gpt import GPT, GPTConfig
from nn import AdamW
from tok import CharTokenizer
from train import checkpoint, log, stats
from train.config import Config
from train.step import evaluate, train_step

BLOCK = 2.0          # seconds of steps beside a save: longer than the write
EVERY, EVAL_EVERY, EVAL_TOKENS = 50, Config.eval_every, Config.eval_tokens


class Rows:
    """Random validation text, as train.data.Validation gives it."""

    def __init__(self, c, rows):
        self.c, self.rows, self.tokens = c, rows, EVAL_TOKENS // c.block_size * c.block_size

    @property
    def count(self):
        return -(-self.tokens // self.c.block_size // self.rows)

    def batches(self, which):
        for k in which:
            rows = min(self.rows, self.tokens // self.c.block_size - k * self.rows)
            ids = np.random.default_rng(k).integers(0, self.c.vocab_size, (rows, self.c.block_size + 1))
            yield ids[:, :-1], ids[:, 1:]


def seconds(f, times=1):
    """What a call takes, of so many of them."""
    began = time.perf_counter()
    for _ in range(times):
        f()
    return (time.perf_counter() - began) / times


def measure(name, dtype, rounds, folder):
    """(seconds of a step, [(what, seconds, how often: steps)])."""
    shape, rows = CONFIGS[name]
    c = GPTConfig(**shape)
    model, config = GPT(c).to(dtype=dtype), Config()
    opt, ids = AdamW(model.parameters()), np.random.default_rng(0).integers(0, c.vocab_size, (rows, c.block_size + 1))
    batch, looking = [(ids[:, :-1], ids[:, 1:])], Config(check_finite=True)
    tokenizer = CharTokenizer.train(map(chr, range(32, 32 + min(c.vocab_size, 64))))
    writer, state = checkpoint.Writer(folder), {"step": 0, "position": 0, "metrics": None, "source": "", "config": {}}

    def step(config=config):
        train_step(model, opt, batch, 1e-5, 0, config)

    for _ in range(3):
        step()
    one = statistics.median(seconds(step) for _ in range(5))
    n, differences, stands, plain = max(2, round(BLOCK / one)), [], [], []
    for k in range(rounds):
        for saves in (True, False) if k % 2 else (False, True):
            began = time.perf_counter()
            if saves:
                state["step"] += 1
                stands.append(seconds(lambda: writer.save(model, opt.state(), tokenizer, state)))
            for _ in range(n):
                step()
            took = time.perf_counter() - began
            writer.wait()
            differences.append(took if saves else -took)
            if not saves:
                plain.append(took / n)
    one = statistics.median(plain)
    saved = statistics.median(a + b for a, b in zip(differences[::2], differences[1::2], strict=True))
    found = [("a checkpoint, in all", saved, EVERY), ("    of that the copy", statistics.median(stands), EVERY)]

    entry = {"step": 1, "loss": 1.234, "lr": 1e-3, "norm": 0.5, "tokens_per_s": 12345, "mfu": 0.5}
    plain_log = log.Log(folder / "log.jsonl")
    found.append(("a line of log.jsonl", seconds(lambda: plain_log.write(**entry), 1000), 1))
    with contextlib.suppress(ValueError):                    # it is optional
        events = log.Log(folder / "more.jsonl", events=folder / "events")
        found.append(("the same with TensorBoard", seconds(lambda: events.write(**entry), 1000), 1))
        events.close()
    rng = np.random.default_rng(0)
    entries = [{"step": i, "loss": x} for i, x in enumerate(rng.normal(3, 1, 5000))]
    log.plot(folder / "loss.png", entries)
    found.append(("a picture of 5,000 steps", seconds(lambda: log.plot(folder / "loss.png", entries)), None))
    validation = Rows(c, rows)
    evaluate(model, validation)
    found.append((f"a validation of {validation.tokens:,} tokens", seconds(lambda: evaluate(model, validation)),
                  EVAL_EVERY))
    found.append(("statistics of all parameters", seconds(lambda: stats.statistics(model, stats.copies(model))),
                  EVERY))
    step(looking)
    pairs = [(seconds(lambda: step(looking)), seconds(step)) for _ in range(3 * rounds)]
    found.append(("looking at every op (--check_finite)", statistics.median(a - b for a, b in pairs), 1))
    return one, found


def main(argv):
    parser = argparse.ArgumentParser("python -m bench overhead", description=__doc__.split("\n\n")[0])
    parser.add_argument("--config", nargs="+", choices=CONFIGS, default=["char"],
                        help="sizes; python -m bench step --help says what they are [char]")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32",
                        help="how parameters are stored [%(default)s]")
    parser.add_argument("--rounds", type=turns.positive, default=15, help="pairs of blocks, one with a save [15]")
    parser.add_argument("--json", type=turns.in_a_folder, metavar="FILE", help="append a dated line with the numbers")
    args = parser.parse_args(argv)
    print(turns.machine())
    for name in args.config:
        with tempfile.TemporaryDirectory(prefix=".overhead-", dir=".") as folder:
            one, found = measure(name, args.dtype, args.rounds, Path(folder))
        print(f"\n{name}, {args.dtype}: a step takes {1e3 * one:.1f} ms\n{'':40}{'ms':>10}   of the steps' time")
        for what, took, every in found:
            share = f"{took / every / one:8.3%}, every {every} steps" if every else "  1.000% at most"
            print(f"{what:40}{1e3 * took:10.3f}   {share.replace('every 1 steps', 'every step')}")
        if args.json:
            turns.record(args.json, "overhead", argv, config=name, dtype=args.dtype, step=one,
                         found=found)
    return 0
