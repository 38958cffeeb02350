r"""One model on many ranks: what a step costs beside what it costs without messages, and what that says of many GPUs.

On this machine, with one processor to a rank, in turns: a step with messages on the way while backward goes on; one
that sends when backward has ended; one whose ranks only meet where they would have to wait for messages; and one in
which they know nothing of each other. Weak scaling (each rank has as many rows as one alone) and strong (all together
have). Beside it the two collectives alone, at many sizes. On a machine that is busy with other things ranks wait for
the one that was held up, whatever they send: what messages cost is the difference to meetings. Each turn has all
variants, so what disturbs it disturbs all, and ratios are taken turn by turn. With --rate two ranks are on two hosts,
which this machine plays (bench/hosts.py), and TCP carries the messages over a link of that rate.

The model. A ring of n ranks sums m bytes and deals them out, or gathers them, in n - 1 messages of m / n bytes to the
neighbour, each of which takes a latency a and the time at bandwidth b:
    t(m) = (n - 1) (a + m / (n b))                                                         [RK1]
a and b are fitted to the collectives that were measured. A step computes for C, two thirds of it on the way back. With
S the sum of [RK1] over the buckets of gradients, E that over the buckets which are complete only when backward ends
(those of the tied embeddings), and G the sum over the buckets of parameters that are gathered afterwards:
    T = C + max(E, S - h 2/3 C) + G                                                        [RK2]
h is 1 where somebody else than the processor that computes carries the messages, as on a GPU; ranks on processors carry
them themselves, h = 0; by TCP they do a part of it, and T is between the two. The efficiency is C / T.

For GPUs nothing of this was measured but C: bench/results/gpu-h200-2026-11-27.md has a step of 64 rows of 1024 tokens
on one H200, and other sizes and rows are taken to be as efficient. Latencies and bandwidths are assumptions, which the
command line can change.
"""
import argparse
import copy
import json
import math
import os
import statistics
import subprocess
import sys
import time

import numpy as np

from bench import hosts, turns
from bench.step import CONFIGS
from bench.survive import expect_mpi, mpiexec
from bench.turns import positive
from gpt import GPT, GPTConfig
from gpt.sizes import forward_flops, parameters
from minigrad.check import expect
from nn import AdamW, optim
from train import parallel
from train.config import Config
from train.step import train_step

SIZES = [1 << k for k in range(14, 25, 2)]                   # bytes of a collective, about those of buckets
VARIANTS = ("overlapped", "afterwards", "meetings", "nothing")
MEASURED = 0.1041, 64, 1024                                  # seconds of a step, rows, tokens: gpt2 on an H200
NODE = 8                                                     # GPUs that NVLink connects


# ------------------------------------------------------------------------------------------------ on each rank

def variants(group):
    """The group, and what it is without overlap, without messages, and without the others."""
    late, meeting, mute = copy.copy(group), copy.copy(group), copy.copy(group)

    def summing(opt):
        found = parallel.Summing(late, opt)
        found.done, told = None, found.done
        found.finish = lambda real=found.finish: ([told(p) for flat in opt.flats for p in flat.params], real())
        return found
    late.summing = summing
    for some in meeting, mute:
        some.deal = some.arrive = some.look = some.fill = lambda *_: None
    meeting.arrive = lambda: group.gather(np.zeros(1))
    mute.sum = lambda *numbers: numbers
    return dict(zip(VARIANTS, (group, late, meeting, mute)))


def work(name, rows, rounds, steps):
    """A rank's measurements, in seconds: {variant: median of the slowest rank's step}, the collectives', and bytes."""
    with parallel.world() as group:
        group.share_processors()
        shape, _ = CONFIGS[name]
        model, config = GPT(GPTConfig(**shape)), Config(clip=1.0)
        opt = AdamW(model.parameters(), rank=group.rank, ranks=group.size)
        ids = np.random.default_rng(group.rank).integers(0, shape["vocab_size"], (rows, shape["block_size"] + 1))
        batch, found = [(ids[:, :-1].copy(), ids[:, 1:].copy())], {}
        kinds = variants(group) if group.size > 1 else dict.fromkeys(VARIANTS, group)
        for turn in range(rounds + 1):                       # the first is to warm up
            for k in range(len(VARIANTS)):                   # none is always behind the same one
                kind = VARIANTS[(k + turn) % len(VARIANTS)]
                some = kinds[kind]
                group.tell(None)                             # until all are here
                began = time.perf_counter()
                for _ in range(steps):
                    train_step(model, opt, batch, 1e-6, 0, config, group=some)
                took = max(group.tell((time.perf_counter() - began) / steps))
                found.setdefault(kind, []).append(took)
        moments = sum(a.nbytes for flat in opt.flats for a in flat.moments.values())
        result = {"times": {kind: times[1:] for kind, times in found.items()}, "moments": moments,
                  "collectives": collectives(group) if group.size > 1 else []}
        print(json.dumps(result))


def collectives(group):
    """[(which, bytes, seconds)], the median of a few."""
    found = []
    for size in SIZES:
        whole, part = np.ones(size // 4, "f"), np.ones(size // 4 // group.size, "f")
        for which, call in {"sum": lambda w=whole, p=part: (group.deal(w, p), group.arrive()),
                            "gather": lambda w=whole: (group.fill(w), group.arrive())}.items():
            times = []
            for _ in range(15):
                group.tell(None)                             # until all are here
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
            found.append((which, size, statistics.median(times[3:])))
    return found


# ------------------------------------------------------------------------------------------------ the model

def ring(m, n, a, b):
    """Seconds of a collective of m bytes over n ranks."""
    return (n - 1) * (a + m / (n * b))                                                     # [RK1]


def fit(points, n):
    """(a, b) for [(bytes, seconds)], so that the squares of the relative errors are least; neither below 0."""
    m, t = np.array(points, float).T
    columns = np.stack([np.full(len(m), n - 1.0), m * (n - 1) / n], 1) / t[:, None]
    (a, inverse), *_ = np.linalg.lstsq(columns, np.ones(len(m)), rcond=None)
    return max(a, 0.0), 1 / max(inverse, 1e-15)


def step(c, compute, n, add, gather, stored=4, hides=1.0):
    """{part: seconds} of [RK2] for a GPTConfig: add and gather are (a, b) of the two collectives."""
    total = parameters(c)
    size = min(max(optim.LEAST, total // optim.BUCKETS), optim.MOST)                       # entries of a bucket
    buckets = -(-total // size)
    last = -(-(c.vocab_size + c.block_size) * c.n_embd // size)
    one = total / buckets
    sums = [ring(4 * one, n, *add)] * buckets
    return {"compute": compute, "embeddings' gradients": sum(sums[:last]),
            "other gradients": max(0.0, sum(sums[last:]) - hides * 2 / 3 * compute),
            "parameters": buckets * ring(stored * one, n, *gather)}                        # [RK2]


def gpus(names, n_most, rows, inside, between):
    """Rows of a table: (model, GPUs, ms of a step, efficiency, what bounds it)."""
    seconds, most, T = MEASURED
    small = GPTConfig.preset("gpt2")
    for name in names:
        c = GPTConfig.preset(name)
        compute = seconds * rows / most * forward_flops(c, T) / forward_flops(small, T)
        n = NODE
        while n <= n_most:
            across = n > NODE
            a = (inside[0] * (NODE - 1) + between[0]) / NODE if across else inside[0]
            net = a, between[1] if across else inside[1]
            found = step(c, compute, n, net, net, stored=2)
            bound = max((k for k in found if k != "compute"), key=found.get)
            waits = "latency" if (n - 1) * net[0] * 16 > (n - 1) / n * 4 * parameters(c) / net[1] else "bandwidth"
            yield name, n, sum(found.values()) * 1e3, compute / sum(found.values()), f"{bound}, by {waits}"
            n *= 8


# ------------------------------------------------------------------------------------------------ the command

def launch(ranks, name, rows, rounds, steps, rate):
    """What work() finds on so many ranks of this machine, or of two hosts, one processor to each."""
    words = [sys.executable, "-m", "bench.ranks", "--work", name, str(rows), str(rounds), str(steps)]
    env = {**os.environ, "MINIGRAD_THREADS": "1"}
    if ranks > 1:
        words = hosts.ranks(words, rate) if rate else [mpiexec(), "-n", str(ranks), *words]
    done = subprocess.run(words, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def show(name, rows, counts, rounds, steps, rate):
    """Measure a configuration, print its table, and what the model says beside it."""
    c = GPTConfig(**CONFIGS[name][0])
    print(f"\n{name}: {parameters(c):,} parameters in float32, {rows} rows of {c.block_size} on one rank; ms of a "
          f"step, the fastest of {rounds} turns of {steps}, and their median; what it costs more than meetings, and "
          "than nothing, in the median turn; what the model says of messages that are hidden, and of others")
    print(f"{'':8}{'ranks':>6}{'rows':>6}" + "".join(f"{v:>18}" for v in VARIANTS)
          + f"{'messages':>10}{'and waits':>10}{'model':>16}{'moments, MB':>13}{'load':>6}")
    for kind in "weak", "strong":
        for n in counts:
            each = rows if kind == "weak" else rows // n
            if not each or (kind == "strong" and n == 1):
                continue
            found = launch(n, name, each, rounds, steps, rate)
            times = {v: np.array(found["times"][v]) for v in VARIANTS}
            q = {v: np.quantile(times[v], (0, 0.5)) * 1e3 for v in VARIANTS}
            cost = [f"{np.median(times['overlapped'] / times[v]) - 1:10.1%}" for v in ("meetings", "nothing")]
            said = "-"
            if n > 1:
                add, gather = (fit([(m, t) for which, m, t in found["collectives"] if which == w], n)
                               for w in ("sum", "gather"))
                parts = [step(c, q["meetings"][0] / 1e3, n, add, gather, hides=h) for h in (1.0, 0.0)]
                said = ", ".join(f"{sum(p.values()) / p['compute'] - 1:.1%}" for p in parts)
            print(f"{kind:8}{n:6}{each:6}" + "".join(f"{a:9.1f} ({b:6.1f})" for a, b in q.values())
                  + f"{''.join(cost)}{said:>16}{found['moments'] / 1e6:13.2f}{turns.load():6.1f}")
            if n > 1 and kind == "weak":
                print(f"{'':8}sum: {add[0] * 1e6:.0f} us + {add[1] / 1e9:.2f} GB/s; gather: {gather[0] * 1e6:.0f} us + "
                      f"{gather[1] / 1e9:.2f} GB/s")


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench ranks", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--config", nargs="*", default=["b", "char"], choices=CONFIGS, help="what is measured here [b char]")
    add("--ranks", nargs="+", type=positive, default=[1, 2], help="on so many ranks [1 2]")
    add("--rows", type=positive, help="of one rank [as many as bench step has]")
    add("--rounds", type=positive, default=40, help="turns of every variant [40]")
    add("--steps", type=positive, default=1, help="in a turn [1]")
    add("--rate", help="of a link between two hosts, such as 1gbit [all ranks on one host]")
    add("--models", nargs="*", default=["gpt2", "gpt2-xl"], help="what is predicted [gpt2 gpt2-xl]")
    add("--most", type=positive, default=4096, help="GPUs [4096]")
    add("--gpu_rows", nargs="+", type=positive, default=[64, 8], help="of 1024 tokens on each GPU [64 8]")
    add("--inside", nargs=2, type=float, default=[3, 350], metavar=("US", "GB/S"), help="of GPUs in a node [3 350]")
    add("--between", nargs=2, type=float, default=[10, 45], metavar=("US", "GB/S"), help="of nodes [10 45]")
    args = parser.parse_args(argv)
    for flag, (latency, speed) in (("--inside", args.inside), ("--between", args.between)):
        if not (0 <= latency < math.inf and 0 < speed < math.inf):
            parser.error(f"{flag}: got {latency:g} {speed:g}; expected a latency of 0 or more, and a speed above 0")
    if args.rate:
        why = hosts.refused(args.rate)
        expect(not why, "--rate", why, "Linux, its ip and tc, and leave to make network namespaces")
        expect(set(args.ranks) <= {1, 2}, "--rate", f"--ranks {args.ranks}", "1 or 2, one on each host")
    if args.config and max(args.ranks) > 1:
        expect_mpi("--ranks")
    turns.begin()
    for name in args.config:
        show(name, args.rows or CONFIGS[name][1], args.ranks, args.rounds, args.steps, args.rate)
    inside, between = ((a * 1e-6, b * 1e9) for a, b in (args.inside, args.between))
    for rows in args.gpu_rows if args.models else ():
        print(f"\npredicted, not measured: {rows} rows of 1024 tokens on each H200, bfloat16\n"
              f"{'model':10}{'GPUs':>6}{'ms':>10}{'efficiency':>12}   longest wait")
        for name, n, ms, share, bound in gpus(args.models, args.most, rows, inside, between):
            print(f"{name:10}{n:6}{ms:10.1f}{share:12.1%}   {bound}")
    return 0


if __name__ == "__main__" and sys.argv[1:2] == ["--work"]:
    work(sys.argv[2], *map(int, sys.argv[3:6]))
