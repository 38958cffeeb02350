"""A training step, ours and PyTorch's, on the same machine: forward, backward, clip, AdamW, zero_grad.

Both begin with the same weights and see the same batches. PyTorch does what nanoGPT does: fused AdamW, its own
attention, gradients set to None, torch.compile and autocast where the mode says so. A tuned mode is the same program
in an environment that makes glibc keep freed memory and use huge pages, which ours asks for by itself.

Beside the modes the floors of the step take their turns: see bench/floors.py.
"""
import argparse

import numpy as np

from bench import floors, turns
from bench.turns import HAVE_TORCH, WARM, Side, beside, quartiles, take_turns
from train.drawing import drawing

CONFIGS = {             # (GPTConfig, batch): what published figures and our own goals are about
    "b":    (dict(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128), 12),
    "char": (dict(vocab_size=65, block_size=256, n_layer=6, n_head=6, n_embd=384), 16),
    "gpt2": (dict(vocab_size=50304, block_size=256, n_layer=12, n_head=12, n_embd=768), 4),
}
TURNS = {"b": (10, 5), "char": (5, 2), "gpt2": (4, 1)}      # (rounds, steps per turn) unless the command line says so
LR = 6e-5               # so low that no loss leaps: those of two dtypes would leap at different steps
TOGETHER = 5            # processes with a model that live at a time: gpt2 takes more than 3 GB in each


def batches(c, batch):
    """An endless supply of random text."""
    rng = np.random.default_rng(0)
    while True:
        ids = rng.integers(0, c.vocab_size, (batch, c.block_size + 1))
        yield ids[:, :-1].copy(), ids[:, 1:].copy()


def ours(sizes, batch, threads, dtype="float32"):
    """A generator that takes a training step whenever it is asked for one, and yields the loss."""
    from gpt import GPT, GPTConfig
    from minigrad import pool
    from nn import AdamW, clip_grad_norm
    pool.set_size(threads)
    model = GPT(GPTConfig(**sizes)).to(dtype=dtype)
    opt = AdamW(model.parameters(), lr=LR)
    for x, y in batches(model.config, batch):
        loss = model.loss(x, y)
        loss.backward()
        clip_grad_norm(opt, 1.0)
        opt.step()
        opt.zero_grad()
        yield loss.item()


def pytorch(sizes, batch, threads, dtype="float32", compiled=False):
    import torch

    from bench.torch_gpt2 import copy_of
    from gpt import GPT, GPTConfig
    torch.set_num_threads(threads)
    model = copy_of(GPT(GPTConfig(**sizes)))
    opt = torch.optim.AdamW(model.decay_groups(), lr=LR, betas=(0.9, 0.95), fused=True)
    loss_of = torch.compile(model.loss) if compiled else model.loss
    for x, y in batches(GPTConfig(**sizes), batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = loss_of(torch.from_numpy(x), torch.from_numpy(y))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        yield loss.item()


TUNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str((1 << 31) - 1),
         "MALLOC_TOP_PAD_": str(1 << 26), "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
PYTORCH = {"eager": {}, "compile": dict(compiled=True), "bf16": dict(dtype="bfloat16"),
           "compile+bf16": dict(compiled=True, dtype="bfloat16")}
MODES = {               # name: (generator, settings, environment)
    "ours-float32": (ours, {}, {}),
    "ours-bfloat16": (ours, dict(dtype="bfloat16"), {}),
    **{name: (pytorch, settings, {}) for name, settings in PYTORCH.items()},
    **{f"tuned-{name}": (pytorch, settings, TUNED) for name, settings in PYTORCH.items()},
}
TITLES = {name: name.replace("-", " ", 1) if make is ours else
          f"PyTorch {name.removeprefix('tuned-')}{', tuned' * bool(env)}" for name, (make, _, env) in MODES.items()}
OURS = tuple(name for name, (make, _, _) in MODES.items() if make is ours)
LIMITS = {"float32": 1e-4, "bfloat16": 1e-2}                # how far a loss may be from the first mode's, relatively


def dtype_of(mode):
    return MODES[mode][1].get("dtype", "float32")


def ceiling_of(mode):
    """The floor that a mode stands on: its products alone."""
    dtype = dtype_of(mode)
    return f"torch {dtype}" if dtype == "bfloat16" and mode not in OURS else dtype


def has_bfloat16():
    """Has this processor instructions for products in bfloat16? Without, PyTorch takes 25 times as long for them."""
    from minigrad import blas  # Numba with it, which PyTorch's processes do not need
    return blas.multiplies("bfloat16")


def default_modes():
    return ["ours-float32", "ours-bfloat16", "eager", "compile", "tuned-eager",
            *(["bf16", "tuned-bf16"] if has_bfloat16() else ["tuned-compile"])]


def asked(modes, has):
    """The modes of a command line in their order; all: without those that take minutes a step on a processor that has
    no instructions for them, unless they are named as well."""
    return [m for m in MODES if m in modes or "all" in modes and (has or m in OURS or dtype_of(m) != "bfloat16")]


def floors_of(modes):
    """The names of the floors to measure beside these modes; torch's bfloat16 also to see how good our gemm is."""
    mine = {dtype_of(m) for m in modes if m in OURS}
    wanted = {ceiling_of(m) for m in modes} | {f"traffic {d}" for d in mine}
    wanted |= {f"torch {d}" for d in mine if d != "bfloat16" or has_bfloat16()}
    return [name for name in floors.FLOORS if name in wanted and (HAVE_TORCH or not name.startswith("torch"))]


def groups(modes, together=TOGETHER):
    """(our modes, PyTorch's in lists): few enough to live at a time if ours stay and meet every list."""
    mine, theirs = [m for m in modes if m in OURS], [m for m in modes if m not in OURS]
    n = max(1, together - len(mine))
    return mine, [theirs[i:i + n] for i in range(0, len(theirs), n)] or [[]]


def begin(name, sizes, batch, threads):
    """The process of a mode or of a floor."""
    if name in floors.FLOORS:
        return floors.begin(name, sizes, batch, threads)
    make, settings, env = MODES[name]
    return Side(TITLES[name], make, dict(sizes=sizes, batch=batch, threads=threads, **settings), env)


def measure(modes, sizes, batch, threads, rounds, steps):
    """{mode: Side} and {floor: Side} of all that could be measured."""
    from train.log import progress
    mine, lists = groups(modes)
    lists[0] = lists[0] + floors_of(modes)
    total = (WARM + rounds * steps) * sum(len(mine) + len(names) for names in lists)
    staying, left = {mode: begin(mode, sizes, batch, threads) for mode in mine}, {}
    with progress(total, 0) as bar:
        for names in lists:
            passing = {name: begin(name, sizes, batch, threads) for name in names}
            take_turns([*staying.values(), *passing.values()], rounds, steps, bar)
            for side in passing.values():
                side.close()
            left |= passing
    for side in staying.values():
        side.close()
    sides = {name: side for name, side in (staying | left).items() if side.seconds}
    return tuple({name: sides[name] for name in table if name in sides} for table in (MODES, floors.FLOORS))


def idle_bytes(modes, batch, threads):
    """{our mode: what its process takes without a model to speak of}.

    A step of b comes first, which is large enough to need every kernel: compilers take memory, and are not measured.
    """
    found = {}
    for sizes, rows in (CONFIGS["b"], (floors.TINY, batch)):
        for mode in (m for m in modes if m in OURS):
            side = begin(mode, sizes, rows, threads)
            side.work(WARM)
            side.close()
            found[mode] = side.resident
    return found


# what is printed

def report(found, ceilings, idle, sizes, batch):
    """Print floors, table, memory and ratios of one config; True if the losses agree."""
    tokens, medians = batch * sizes["block_size"], {mode: quartiles(side.seconds)[1] for mode, side in found.items()}
    floor = {name: floors.quartiles_of(side)[1] for name, side in ceilings.items()}
    print(f"\nfloors of a step: {floors.flops(sizes, batch) / 1e9:.2f} GFLOP in its products "
          f"({floors.usual(sizes, batch) / 1e9:.2f} by the usual count)")
    for name, seconds in floor.items():
        print("  " + floors.describe(name, seconds, sizes, batch))
    print(f"\n{'':26}{'median ms':>9}{'best':>9}{'tokens/s':>10}{'of floor':>10}{'first s':>9}{'peak MB':>9}"
          f"{'faults':>8}{'a loss':>11}{'differs':>9}")
    first, agree, common = next(iter(found)), True, min(len(side.values) for side in found.values())
    for mode, side in found.items():
        seconds, rate, off = medians[mode], tokens / medians[mode], gap(side.values, found[first].values)
        fine = off <= LIMITS["bfloat16" if "bfloat16" in (dtype_of(mode), dtype_of(first)) else "float32"]
        agree &= fine
        under = ceiling_of(mode)
        share = f"{floor[under] / beside(side, ceilings[under]):.0%}" if under in floor else "-"
        print(f"{TITLES[mode]:26}{seconds * 1e3:9.1f}{min(side.seconds) * 1e3:9.1f}{rate:10.0f}"
              f"{share:>10}{side.first:9.2f}{side.peak / 1e6:9.0f}"
              f"{side.faults / len(side.seconds):8.0f}{side.values[common - 1]:11.5f}{off:9.1e}{'' if fine else ' !'}")
    print("of floor: the time of the products alone in that of the step; first: with imports, compiled code from its "
          "cache;\nfaults: pages per step; a loss: at the last step that all took; differs: the largest relative "
          "difference of a\nloss from the first row's, ! if too much\n")
    if restless := [TITLES[mode] for mode, side in found.items() if spread(side.seconds) > 0.3]:
        print(f"Steps of one mode took very different times ({', '.join(restless)}): something else was running. "
              "Measure again.\n")
    for mode in (m for m in found if m in OURS):
        print(memory_line(mode, found[mode].peak, idle[mode], sizes, batch))
    for line in ratios(found):
        print(line)
    return agree


def spread(seconds):
    """The distance between the quartiles, relative to the median."""
    low, median, high = quartiles(seconds)
    return (high - low) / median


def gap(losses, reference):
    """The largest relative difference over the steps that both took."""
    n = min(len(losses), len(reference))
    return float(np.abs(np.divide(losses[:n], reference[:n]) - 1).max())


def memory_line(mode, measured, idle, sizes, batch):
    """The memory formula of bench/floors.py, term by term, beside what the process took at its largest."""
    parts = {"idle": idle, **floors.memory(sizes, batch, dtype_of(mode))}
    total = sum(parts.values())
    return (f"memory of {TITLES[mode]}: " + " + ".join(f"{what} {n / 1e6:.0f}" for what, n in parts.items())
            + f" = {total / 1e6:.0f} MB; measured {measured / 1e6:.0f} ({measured / total - 1:+.1%})")


def ratios(found):
    """Lines that set the best of PyTorch beside the best of ours in the same rounds: above 1, ours is faster."""
    lines = []
    for kind, env in (("PyTorch", {}), ("tuned PyTorch", TUNED)):
        for what, dtypes in (("float32", ("float32",)), ("any dtype", LIMITS)):
            theirs = [m for m, (make, _, its) in MODES.items() if make is pytorch and its == env]
            a, b = ([m for m in side if m in found and dtype_of(m) in dtypes] for side in (theirs, OURS))
            rows = []
            for mode in a if b else ():
                seconds, mine, name = quartiles(found[mode].seconds)[1], *min(
                    (beside(found[m], found[mode]), m) for m in b)
                rows.append((seconds / mine, f"{TITLES[mode]} {seconds * 1e3:.1f} ms, "
                                             f"{TITLES[name]} {mine * 1e3:.1f} ms in the same rounds"))
            if rows:
                ratio, times = min(rows)
                lines.append(f"best {kind} / ours, {what}: {ratio:.2f} ({times})")
    return lines


def entry(config, found, ceilings, idle, args):
    """What --json keeps of one config."""
    sizes, batch = CONFIGS[config]
    return {"config": config, **sizes, "batch": batch, "threads": args.threads, "neighbour": args.neighbour,
            "floors": {name: floors.quartiles_of(side) for name, side in ceilings.items()},
            "idle_bytes": idle,
            "modes": {mode: {"samples": len(s.seconds), "quartiles_s": quartiles(s.seconds), "best_s": min(s.seconds),
                             "first_s": s.first, "peak_bytes": s.peak, "faults": s.faults / len(s.seconds),
                             "losses": s.values} for mode, s in found.items()}}


def plot(file, results):
    """A bar for every mode, a panel for every config, the floors as lines."""
    with drawing(file, 1, len(results), figsize=(5.2 * len(results) + 1, 4.2)) as (_, (panels,)):
        for axes, (config, (found, ceilings)) in zip(panels, results.items()):
            names, medians = [TITLES[m] for m in found], [quartiles(s.seconds)[1] * 1e3 for s in found.values()]
            colours = ["#2171b5" if m in OURS else "#bdbdbd" if m.startswith("tuned") else "#969696" for m in found]
            axes.bar_label(axes.barh(names, medians, color=colours), fmt="%.4g", padding=3)
            for name, colour in (("float32", "#d94801"), ("bfloat16", "#238b45")):
                if name in ceilings:
                    axes.axvline(floors.quartiles_of(ceilings[name])[1] * 1e3, color=colour, linestyle="--",
                                 linewidth=1.2, label=f"the products alone, {name}")
            axes.set(xlabel="ms per training step", title=f"config {config}", xlim=(0, 1.15 * max(medians)))
            axes.invert_yaxis()
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench step", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Milliseconds per training step (AdamW, clip 1.0), ours and PyTorch's, taken in turns from the "
        "same weights\non the same batches, beside the floors of this machine. Config b takes about two minutes.",
        epilog="Configs: b, 4 layers of width 128, context 64, batch 12 (0.8 M parameters); char, 6 of 384, 256, 16 "
        "(10.8 M);\ngpt2, 12 of 768, 256, 4 (124 M).\n\n"
        "Modes: ours in float32 and in bfloat16 (float32 masters); PyTorch eager, with torch.compile, with autocast "
        "to\nbfloat16, with both; tuned-* are PyTorch's with glibc told from outside to keep freed memory and to use "
        "huge pages.")
    parser.add_argument("--config", action="append", choices=[*CONFIGS, "all"], help="may be repeated [b]")
    usual = default_modes()
    parser.add_argument("--modes", nargs="+", choices=[*MODES, "all"], default=usual, metavar="MODE",
                        help=f"of {', '.join(MODES)}, or all (of "
                        "PyTorch's in bfloat16 only where the processor has instructions for it) "
                        f"[here {' '.join(usual)}]")
    parser.add_argument("--rounds", type=turns.positive, help="turns each [b 10, char 5, gpt2 4]")
    parser.add_argument("--steps", type=turns.positive, help="steps per turn [b 5, char 2, gpt2 1]")
    parser.add_argument("--neighbour", action="store_true", help="measure beside a process that keeps one core busy")
    turns.add_shared(parser)
    args = parser.parse_args(argv)
    configs = list(CONFIGS) if "all" in (args.config or ()) else list(dict.fromkeys(args.config or ["b"]))
    modes = asked(args.modes, has_bfloat16())
    if not HAVE_TORCH:
        print("PyTorch is left out, because it is not installed here. To compare with it: pip install torch")
        modes = [m for m in modes if m in OURS]
        if not modes:
            return 1
    busy, results, good = turns.begin(), {}, True
    for config in configs:
        sizes, batch = CONFIGS[config]
        rounds, steps = args.rounds or TURNS[config][0], args.steps or TURNS[config][1]
        print(f"\nconfig {config}: {sizes}, batch {batch}, {batch * sizes['block_size']} tokens a step, "
              f"{args.threads} threads{', beside a busy neighbour' * args.neighbour}")
        idle = idle_bytes(modes, batch, args.threads)
        with turns.busy_neighbour(args.neighbour):
            found, ceilings = results[config] = measure(modes, sizes, batch, args.threads, rounds, steps)
        if not found:
            return 1
        good &= report(found, ceilings, idle, sizes, batch) and len(found) == len(modes)
        if args.json:
            turns.record(args.json, "step", argv, load=busy, **entry(config, found, ceilings, idle, args))
    if args.plot:
        plot(args.plot, results)
    return 0 if good else 1
