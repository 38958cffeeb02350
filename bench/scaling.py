"""How the cost of a token grows with the context, the width and the depth: as the formula says?

A step should take the operations of its products ([FL1,2] in bench/floors.py) at the rate that the products alone
reach on this machine in the same run. Measured points above that line are what everything else costs: where they run
parallel to it, that share is constant; where they leave it, something does not scale.
"""
import argparse

from bench import floors, turns
from bench.step import ours
from bench.turns import WARM, Side, quartiles
from train.drawing import drawing
from train.log import progress

BASE = dict(vocab_size=256, block_size=256, n_layer=4, n_head=4, n_embd=256)
SWEEPS = {              # what varies: (values, values for --quick); all else as in BASE, heads 64 wide
    "block_size": ((64, 128, 256, 512, 1024, 2048), (64, 256, 1024)),
    "n_embd": ((128, 256, 384, 512, 768), (128, 256, 512)),
    "n_layer": ((2, 4, 8, 12, 16), (2, 4, 8)),
}
NAMES = {"block_size": "context T", "n_embd": "width C", "n_layer": "layers L"}


def points(quick):
    """(what varies, its value, sizes, batch) of every measurement, each with as many tokens, or one row of them."""
    for name, values in SWEEPS.items():
        for value in values[quick]:
            sizes = {**BASE, name: value}
            sizes["n_head"] = sizes["n_embd"] // 64
            yield name, value, sizes, max(1, (1024 if quick else 2048) // sizes["block_size"])


def measure(todo, dtype, threads, rounds, steps):
    """(the rate of the products alone, [seconds of the steps] at every point).

    All points are visited in every round, so that a busy minute spoils a part of many points and not all of some; the
    rate is measured between them.
    """
    batch = next(batch for _, _, sizes, batch in todo if sizes == BASE)
    ceiling, found = floors.begin(dtype, BASE, batch, threads), [[] for _ in todo]
    ceiling.work(WARM)
    with progress(rounds * len(todo), 0) as bar:
        for _ in range(rounds):
            for (_, _, sizes, rows), seconds in zip(todo, found, strict=True):
                side = Side(f"a step of {sizes}", ours, dict(sizes=sizes, batch=rows, threads=threads, dtype=dtype))
                side.work(WARM, counts=False)
                side.work(steps)
                side.close()
                ceiling.work(1)
                seconds += side.seconds
                bar.update()
    ceiling.close()
    return floors.flops(BASE, batch) / floors.quartiles_of(ceiling)[1], found


def table(todo, rate, found):
    """[(what varies, its value, measured, by formula)], in seconds per token."""
    rows = []
    for (name, value, sizes, batch), seconds in zip(todo, found, strict=True):
        tokens = batch * sizes["block_size"]
        rows.append((name, value, quartiles(seconds)[1] / tokens, floors.flops(sizes, batch) / rate / tokens))
    return rows


def show(rows):
    print(f"\n{'':16}{'ms/token':>12}{'by formula':>12}{'ratio':>8}")
    for name, value, measured, formula in rows:
        print(f"{NAMES[name]:10}{value:6}{measured * 1e3:12.4f}{formula * 1e3:12.4f}{measured / formula:8.2f}")


def plot(file, rows, title):
    """Three panels: points as measured, lines as the formula says."""
    with drawing(file, 1, len(SWEEPS), figsize=(12, 4)) as (figure, panels):
        for axes, name in zip(panels.flat, SWEEPS):
            values, measured, formula = zip(*(row[1:] for row in rows if row[0] == name))
            axes.plot(values, [1e3 * p for p in formula], color="#969696", label="formula, at the rate of the products")
            axes.plot(values, [1e3 * m for m in measured], "o", color="#2171b5", label="measured")
            axes.set(xlabel=NAMES[name], ylabel="ms per token", ylim=(0, None))
            axes.grid(alpha=0.25)
        panels[0, 0].legend(frameon=False)
        figure.suptitle(title)


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench scaling", description="Milliseconds per token of our training step against context, "
        "width and depth, beside what the formula of its operations says at the rate that this machine reaches.")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="[float32]")
    parser.add_argument("--rounds", type=turns.positive, default=3, help="visits to each point [3]")
    parser.add_argument("--steps", type=turns.positive, default=3, help="steps per visit that count [3]")
    parser.add_argument("--quick", action="store_true", help="fewer points with half the tokens, in a minute")
    turns.add_shared(parser)
    args = parser.parse_args(argv)
    busy, todo = turns.begin(), list(points(args.quick))
    rate, found = measure(todo, args.dtype, args.threads, args.rounds, args.steps)
    if not all(found):                                       # what ended is reported already
        return 1
    rows = table(todo, rate, found)
    print(f"\n{BASE}, one of these varied at a time; {args.dtype}, {args.threads} threads; "
          f"products alone: {rate / 1e9:.0f} GFLOP/s")
    show(rows)
    if args.json:
        turns.record(args.json, "scaling", argv, load=busy, dtype=args.dtype, rate=rate,
                     columns=["varied", "value", "s per token", "s per token by formula"], rows=rows)
    if args.plot:
        plot(args.plot, rows, f"{turns.machine()}\n{args.dtype}, {rate / 1e9:.0f} GFLOP/s in the products alone")
    return 0
