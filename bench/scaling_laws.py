"""Scaling laws on this machine: how the loss falls with the parameters and the tokens, down to a floor that is known.

A family of GPT-2 shapes from 12 thousand to 11 million parameters is trained by train.run, each size on several numbers
of tokens and with a schedule of its own for each (Hoffmann et al. 2022, arXiv:2203.15556: a run that was to be longer,
cut off, is not a shorter run). No token is seen twice. The laws of bench/power_law.py are fitted to the last validation
losses, from as few tokens on as one of them holds. On the couplets of train/verse.py the entropy of the very text that
is scored is known, so that three questions have an answer which real text never gives: does the fit find the floor,
what is left of the loss above it, and how far are the exponents off where the floor is guessed? On a text of one's own
(--data) the floor is what the fit says.

A run has a folder of its own, whose name holds all its settings: one that has ended is not trained again, and one that
was interrupted goes on. Small ones come first; --minutes ends the last one in its middle, the next call goes on there.
"""
import argparse
import functools
import hashlib
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from bench import turns
from bench.power_law import best_parameters, fit, share_of_parameters
from gpt import GPTConfig
from gpt.sizes import parameters
from minigrad.check import expect
from tok.base import write_text
from train import log
from train.drawing import drawing

VOCABULARY, BLOCK, TOKENS_PER_STEP = 512, 64, 1024       # a couplet has 37 of these tokens
SIZES = (16, 1, 1), (32, 2, 2), (64, 2, 2), (96, 3, 4), (128, 4, 4), (192, 5, 6), (256, 6, 8), (384, 6, 6)
FULL = dict(sizes=8, doublings=range(18, 23), operations=1.5e14, minutes=100)   # width, layers, heads: how many of them
SHORT = dict(sizes=5, doublings=range(17, 21), operations=2.8e12, minutes=10)   # tokens: powers of 2
SEEDS, OFTEN = 3, 40                     # runs below a 40th of the largest one's operations are made three times
KAPLAN, HOFFMANN = 0.076, 0.5            # their exponents: of parameters; of operations, to parameters


class Job(NamedTuple):
    """One model and the text that it sees."""
    width: int
    layers: int
    heads: int
    tokens: int
    seed: int

    @property
    def config(self):
        return GPTConfig(VOCABULARY, BLOCK, self.layers, self.heads, self.width)

    @property
    def parameters(self):
        return parameters(self.config)

    @property
    def inner(self):
        """Parameters without the embeddings: what Kaplan et al. call N."""
        return self.parameters - (VOCABULARY + BLOCK) * self.width

    @property
    def operations(self):
        return 6 * self.parameters * self.tokens

    def settings(self, data):
        """The flags of train.run that decide the result."""
        steps = self.tokens // TOKENS_PER_STEP
        # What is best for couplets would leave a run on prose at its unigrams for half of its steps: bench/LOG.md.
        lr, warmup = (0.64, min(100, steps // 8)) if data == "verse" else (0.32, steps // 4)
        lr /= self.width
        return {"data": data, "couplets": 200_000, "vocab_size": VOCABULARY, "tokenizer": "bpe", "block_size": BLOCK,
                "n_embd": self.width, "n_layer": self.layers, "n_head": self.heads, "seed": self.seed, "dropout": 0,
                "tokens_per_step": TOKENS_PER_STEP, "device_batch": TOKENS_PER_STEP // BLOCK, "steps": steps,
                "warmup": warmup, "lr": f"{lr:.3g}", "min_lr": f"{lr / 100:.3g}",
                "eval_tokens": 40_000}


def jobs(plan):
    """All runs of a plan, the cheapest first."""
    found = []
    for size in SIZES[:plan["sizes"]]:
        for doublings in plan["doublings"]:
            job = Job(*size, 2 ** doublings, 0)
            if job.operations <= plan["operations"]:
                seeds = SEEDS if job.operations <= plan["operations"] / OFTEN else 1
                found += [job._replace(seed=seed) for seed in range(seeds)]
    return sorted(found, key=lambda job: job.operations)


def contents(data):
    """A digest of a text, or of all files of a folder."""
    path = Path(data)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return digest(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.cache                                             # every run asks
def digest(files):
    whole = hashlib.sha256()
    for file, size, _ in files:
        whole.update(f"{file.name} {size} ".encode())
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                whole.update(block)
    return whole.hexdigest()


def folder(out, job, data):
    """Where a run lives. Its name is of all that decides the result, so other settings or texts never find it."""
    settings = repr((job.settings(data), 0 if data == "verse" else contents(data)))
    return Path(out) / (f"{job.parameters}-{job.tokens}-{job.seed}-"
                        + hashlib.sha256(settings.encode()).hexdigest()[:8])


def result(where, job):
    """What train.run has logged of a run that has ended, or None."""
    try:
        last = [entry for entry in log.read(where / "log.jsonl") if "val_loss" in entry][-1]
    except (OSError, IndexError):
        return None
    if last["step"] * TOKENS_PER_STEP < job.tokens:
        return None
    floor = last["val_loss"] * last["entropy_bits"] / last["val_bits"] if "entropy_bits" in last else None
    return {**job._asdict(), "parameters": job.parameters, "inner": job.inner, "loss": last["val_loss"], "floor": floor,
            "epochs": last["epoch"]}


def train(out, job, data, seconds):
    """A run, or the rest of it, in a process of its own. False if the time was over before it ended."""
    where = folder(out, job, data)
    settings = {**job.settings(data), "out": where, "resume": "auto", "shards": Path(out) / "shards", "samples": 0,
                "eval_every": job.settings(data)["steps"], "save_every": 250, "keep": 1}
    words = [sys.executable, "-m", "train.run", *(str(w) for k, v in settings.items() for w in (f"--{k}", v))]
    process = subprocess.Popen(words, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    try:
        said = process.communicate(timeout=seconds)[1]
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as e:
        process.send_signal(signal.SIGTERM)                  # it ends its step and saves
        process.communicate()
        if isinstance(e, KeyboardInterrupt):
            raise
        return False
    shutil.rmtree(where / "checkpoints", ignore_errors=True)  # two gigabytes in all; weights and log stay
    if process.returncode:
        raise ValueError(f"{' '.join(words[1:])}\nended with {process.returncode}: {said.strip()[-2000:]}")
    return True


def train_all(out, todo, data, seconds):
    """Results of all runs that have ended when the time is over."""
    began, found, once = time.monotonic(), [], math.inf
    for i, job in enumerate(todo, 1):
        if job.tokens > once:
            print(f"{i:3} of {len(todo)}: left out, since {data} has no {job.tokens:,} tokens to train on")
            continue
        where = folder(out, job, data)
        done, start = result(where, job), time.monotonic()
        if done is None:
            left = seconds - (start - began)
            if left <= 0 or not train(out, job, data, left):
                print(f"the time is over, with run {i} of {len(todo)}: the same command goes on there")
                break
            done = result(where, job)
        once = job.tokens / done["epochs"] if done["epochs"] else math.inf
        expect(job.tokens <= once, "--data", f"{once:,.0f} tokens to train on", f"{job.tokens:,} at least", "more text")
        found.append(done)
        print(f"{i:3} of {len(todo)}: {job.parameters:>10,} parameters, {job.tokens:>9,} tokens, seed {job.seed}: "
              f"{done['loss']:.4f}   {time.monotonic() - start:5.0f} s", flush=True)
    return found


# what the losses say -------------------------------------------------------------------------------------------------

def fitted(found):
    """The runs that laws are fitted to: of two layers or more. One layer cannot look for what another has found, and
    Kaplan et al. (figure 6) see such models beside the line of all others, as here."""
    return [row for row in found if row["layers"] > 1]


class Form(NamedTuple):
    """Which law, and of which runs."""
    kind: str                    # L(N), of runs on so many tokens; or L(N, D), sum or coupled, on so many and more
    tokens: int
    floor: float | None = None   # given, or to be found
    inner: bool = False          # N without the embeddings

    @property
    def of_both(self):
        return self.kind != "L(N)"

    @property
    def title(self):
        said = f"L(N, D), {self.kind}, {self.tokens:,} tokens and more" if self.of_both else (
            f"L(N), {self.tokens:,} tokens")
        return said + ("" if self.floor is None else ", floor known" if self.floor else ", no floor") + (
            ", without embeddings" if self.inner else "")

    def rows(self, found):
        return [row for row in found if row["tokens"] == self.tokens or self.of_both and row["tokens"] > self.tokens]

    def counts(self, found):
        """(the runs that this law is fitted to, at how many points)"""
        rows = self.rows(fitted(found))
        return len(rows), len({(row["parameters"], row["tokens"]) for row in rows})


def laws(found, draws=1000):
    """{Form: Fit} of results: only those for which there are runs enough. The last two are the law that holds for most
    runs, and the same where the floor is known."""
    def add(form):
        rows = form.rows(some)
        xs = ["inner" if form.inner else "parameters"] + ["tokens"] * form.of_both
        points, numbers = {tuple(row[x] for x in xs) for row in rows}, 2 * len(xs) + (form.floor is None)
        values = min((len({row[x] for row in rows}) for x in xs), default=0)
        if len(points) > numbers + 1 and values > 2:
            fits[form] = fit([row["loss"] for row in rows], *([row[x] for row in rows] for x in xs), draws=draws,
                             floor=form.floor, coupled=form.kind == "coupled")

    some, fits = fitted(found), {}
    most = longest(some)
    for form in (Form("L(N)", most), Form("L(N)", most, 0.0), Form("L(N)", most, 0.0, inner=True)):
        add(form)
    for least in sorted({row["tokens"] for row in some}):
        for kind in ("sum", "coupled"):
            add(Form(kind, least))
    best = holding(fits)
    if best and found[0]["floor"]:
        add(best._replace(floor=found[0]["floor"]))
    return fits


def holding(fits):
    """The first law of N and D, of most runs, that holds by [PL7] and [PL8]; if none does, the closest by [PL7]."""
    asked = {form: one for form, one in fits.items() if form.of_both and form.floor is None}
    return next((form for form, one in asked.items() if one.holds),
                min(asked, key=lambda form: asked[form].lack / asked[form].limit, default=None))


def chosen(fits):
    """(the Form of the law of N and D that is drawn and used, its Fit), or (None, None)."""
    form = holding(fits)
    known = [one for told, one in fits.items() if told.of_both and told.floor is not None]
    return form, known[0] if known else fits.get(form)


def longest(found):
    """The largest number of tokens on which every size was trained (0: there is none)."""
    sizes = {row["parameters"] for row in found}
    seen = [{row["tokens"] for row in found if row["parameters"] == size} for size in sizes]
    return max(set.intersection(*seen), default=0) if seen else 0


def numbers(law):
    """{name: function of a law} of all that is worth an interval."""
    wanted = {"E": lambda law: law.floor, "Nc": lambda law: law.scales[0], "alpha": lambda law: law.exponents[0]}
    if len(law.scales) > 1:
        wanted |= {"Dc": lambda law: law.scales[1], "beta": lambda law: law.exponents[1], "a": share_of_parameters}
    return wanted


def describe(found, fits, data, command, planned, machine):
    """The results as Markdown; planned: how many runs there would be in all."""
    floor = found[0]["floor"]
    sizes = sorted({row["parameters"] for row in found})
    lines = ["# Scaling laws on a CPU", "", f"`{command}`", "", machine, "",
             f"{len(found)} of {planned} runs on {data}: {sizes[0]:,} to {sizes[-1]:,} parameters, "
             f"{min(row['tokens'] for row in found):,} to {max(row['tokens'] for row in found):,} tokens, none seen "
             "twice. Losses are nats per token of the validation text. In brackets: 95 % of 1,000 draws of the runs.",
             ""]
    lines += ["| law | runs, points | " + " | ".join(("E", "Nc", "alpha", "Dc", "beta", "a", "off by", "F", "S"))
              + " |", "|---" * 11 + "|"]
    for form, one in fits.items():
        cells = {key: f"{told(of(one.law))} ({', '.join(map(told, one.interval(of)))})"
                 for key, of in numbers(one.law).items()}
        cells["E"] = cells["E"] if form.floor is None else f"{one.law.floor:.4g}"          # given, not found
        row = [form.title, "{} at {}".format(*form.counts(found)),
               *(cells.get(key, "") for key in ("E", "Nc", "alpha", "Dc", "beta", "a")),
               f"{one.error:.2f} %", f"{one.lack:.2f} of {one.limit:.2f}",
               ", ".join(f"{x} {share:.2f} of {limit:.2f}" for x, (share, limit) in zip("ND", one.bends))]
        lines.append(f"| {' | '.join(row)} |")
    form, both = chosen(fits)
    lines += ["", "L(N) = E + (Nc / N)^alpha. L(N, D), sum, adds (Dc / D)^beta (Hoffmann et al.); coupled: "
              "E + ((Nc / N)^(alpha / beta) + Dc / D)^beta (Kaplan et al., and a floor). The best N for C = 6 N D "
              f"operations grows as C^a (Hoffmann et al.: about {HOFFMANN}). Kaplan et al. have alpha = {KAPLAN}, "
              "without embeddings and without a floor. F: by how much more a law is off than seeds differ (lack of "
              "fit), and the limit that one which holds keeps 19 times in 20. S: how much of the variance of what its "
              "points are off by lies between the values of N, and between those of D, and the same limit for both. "
              "Models of one layer are drawn and not fitted.", ""]
    if floor:
        lines += [f"The entropy of the validation text is {floor:.4f} nats per token."]
        for asked, one in fits.items():
            if asked.floor is None:
                low, high = one.interval(lambda law: law.floor)
                lines += [f"* {asked.title}: E is {one.law.floor:.4f} ({low:.3f} to {high:.3f}), "
                          + ("which holds it." if low <= floor <= high else "which does not hold it.")]
    if both:
        lines += ["", verdict(form, fits[form])]
        lines += ["", "| operations | best N | its tokens | loss |", "|---|---|---|---|"]
        for c in (1e12, 1e13, 1e14, 1e15):
            n = best_parameters(both.law, c)
            lines.append(f"| {c:.0e} | {n:,.0f} | {c / 6 / n:,.0f} | {both.law(n, c / 6 / n):.3f} |")
    lines += ["", *CAN, "", "| parameters | without embeddings | tokens | seed | loss |", "|---|---|---|---|---|"]
    lines += [f"| {r['parameters']:,} | {r['inner']:,} | {r['tokens']:,} | {r['seed']} | {r['loss']:.4f} |"
              for r in sorted(found, key=lambda r: (r["parameters"], r["tokens"], r["seed"]))]
    return "\n".join(lines) + "\n"


def told(value):
    """Four digits; what is below a ten-thousandth of the smallest number here is told from 0 by nobody."""
    return f"{value if value >= 1e-4 else 0:.4g}"


def verdict(form, one):
    """Whether a law of N and D holds, in a sentence."""
    if one.holds:
        return f"The law of most runs that is off by no more than seeds differ, and does not bend: **{form.title}**."
    said = f"No law of N and D holds; **{form.title}** comes closest. It is off by "
    said += "no more than seeds differ" if one.near else "more than seeds differ"
    bent = [f"{100 * share:.0f} % of the variance of what its points are off by lies between the values of {x}, where "
            f"{100 * limit:.0f} % would be the most for a law that holds"
            for x, (share, limit) in zip("ND", one.bends) if share > limit]
    return said + (", but it bends: " if one.near else ", and it bends: ") * bool(bent) + "; ".join(bent) + "."


CAN = ["What this can show: whether powers describe these losses (the columns `off by`, `F` and `S`) and from how many "
       "tokens on, what the exponents are for this text, this tokenizer and this kind of model, and what a guessed "
       "floor does to them.",
       "What it cannot: exponents of other texts. A floor moves alpha more than anything else does, so 0.076, found on "
       "web text with no floor and models of 768 to 1.5 billion parameters without embeddings, is no target here; the "
       "rows without floor are those to hold beside it. L(N) at a fixed number of tokens has the price of too little "
       "text in its E. Three decades of sizes say nothing of the next three. A learning rate is the best for its width "
       "among factors of two, which leaves about a percent of the loss open. "
       "F takes seeds to differ by as much at every point, and they differ by more where the text is short. "
       "An interval takes the form of its law for granted: how far off the E of a form is that is not quite the right "
       "one, it does not say."]


def plot(file, found, fits, title):
    """The loss against parameters; what of it is above the floor; and against operations, with the best that [PL6]
    allows. Runs that the law was not fitted to are hollow, and it is drawn where it was fitted."""
    import numpy as np
    from matplotlib import colormaps
    from matplotlib.ticker import LogLocator, NullLocator
    _, both = chosen(fits)
    floor = found[0]["floor"] or (both.law.floor if both else 0)
    (fewest, most), (least, _) = both.over if both else [(math.inf, math.inf)] * 2
    tokens = sorted({row["tokens"] for row in found})
    with drawing(file, 1, 3, figsize=(14, 4.4)) as (figure, (panels,)):
        for i, many in enumerate(tokens):
            colour = colormaps["viridis"](i / max(1, len(tokens) - 1) * 0.9)
            n, loss = (np.array([row[k] for row in found if row["tokens"] == many]) for k in ("parameters", "loss"))
            asked = (n >= fewest) & (many >= least)
            grid = np.geomspace(fewest, most) if many >= least else np.empty(0)
            for axes, x, below in zip(panels, (n, n, 6 * n * many), (0, floor, 0)):
                axes.plot(x[~asked], loss[~asked] - below, "o", color=colour, markersize=4, fillstyle="none")
                axes.plot(x[asked], loss[asked] - below, "o", color=colour, markersize=4)
                axes.plot([], [], "o-", color=colour, markersize=4, linewidth=1, label=f"{many:,} tokens")
                if axes is not panels[2]:
                    axes.plot(grid, both.law(grid, many) - below if len(grid) else grid, color=colour, linewidth=1)
        if both:
            c = 6 * np.geomspace(fewest * least, max(row["parameters"] * row["tokens"] for row in found))
            n = best_parameters(both.law, c)
            panels[2].plot(c, both.law(n, c / 6 / n), color="#969696", linestyle="--", label="best use of operations")
        if found[0]["floor"]:
            for axes in (panels[0], panels[2]):
                axes.axhline(floor, color="#a50f15", linewidth=1, label="entropy of the text")
        for axes, x, y in zip(panels, ("parameters", "parameters", "operations, 6 N D"),
                              ("nats per token", "nats per token above the floor", "nats per token")):
            axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if axes is panels[1] else (1, 1.5, 2, 3, 5, 7)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
            axes.grid(alpha=0.25, which="both")
        figure.legend(*panels[2].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
        figure.suptitle(title)


def write(where, found, data, command, planned, machine):
    """NAME.md, NAME.json and NAME.png of the results, each of them whole or not at all."""
    try:
        before = len(json.loads(Path(f"{where}.json").read_text(encoding="utf-8"))["runs"])
    except (OSError, ValueError, KeyError, TypeError):
        before = 0                                           # there is none, or none of ours
    expect(len(found) >= before, "scaling-laws", f"{len(found)} runs for {where}.json, which has {before}",
           "as many at least", "--results with another folder; or the same command again, until more runs have ended")
    fits = laws(found)
    text = describe(found, fits, data, command, planned, machine)
    said = json.dumps({
        "command": command, "machine": machine, "data": data, "planned": planned, "runs": found,
        "fits": {form.title: {"runs": form.counts(found)[0], "points": form.counts(found)[1], "error %": one.error,
                        "F": one.lack, "limit": one.limit, "S": dict(zip("ND", one.bends)),
                        **{key: {"value": of(one.law), "95 %": one.interval(of)}
                           for key, of in numbers(one.law).items()}}
                 for form, one in fits.items()}}, indent=1) + "\n"
    write_text(f"{where}.md", text)
    write_text(f"{where}.json", said)
    plot(f"{where}.png", found, fits, f"{data}: {machine}")
    return text


def fit_again(file):
    """The results of a file that write() has written, with the laws as they are fitted now."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        print(write(file.with_suffix(""), *(said[key] for key in ("runs", "data", "command", "planned", "machine"))))
    except (OSError, ValueError, KeyError, TypeError) as e:
        expect(False, "--fit", f"{file} ({e!r})", "a .json that this command has written")


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench scaling-laws", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="verse", help="[verse], or a text that train.run can read; the "
                        "longest runs see 4 million tokens of it: 10 MB of English, 25 of Hindi")
    parser.add_argument("--out", default="runs/scaling-laws", help="folder of the runs [runs/scaling-laws]")
    parser.add_argument("--results", metavar="FOLDER", help="where Markdown, JSON and a plot go [as --out]")
    parser.add_argument("--minutes", type=float, help=f"most time for training [{FULL['minutes']}, "
                        f"with --short {SHORT['minutes']}]")
    parser.add_argument("--short", action="store_true", help="five sizes, up to a million tokens")
    parser.add_argument("--fit", metavar="FILE.json", help="train nothing: fit the laws again to the runs of such a "
                        "file, and write its results anew")
    args = parser.parse_args(argv)
    if args.fit:
        fit_again(Path(args.fit))
        return 0
    plan = SHORT if args.short else FULL
    minutes, results = plan["minutes"] if args.minutes is None else args.minutes, Path(args.results or args.out)
    if not math.isfinite(minutes) or minutes < 0:
        parser.error(f"--minutes: got {minutes}; expected a number, 0 or more")
    if args.data != "verse" and not Path(args.data).exists():
        parser.error(f"--data: got {args.data!r}; expected verse, or a file or folder that exists")
    turns.begin()
    results.mkdir(parents=True, exist_ok=True)
    todo = jobs(plan)
    found = train_all(args.out, todo, args.data, 60 * minutes)
    expect(found, "scaling-laws", "no run that has ended", "one at least", "more --minutes")
    name = "scaling-laws-" + re.sub(r"\W+", "-", Path(args.data).stem) + ("-short" if args.short else "")
    print("\n" + write(results / name, found, args.data, turns.command("scaling-laws", argv), len(todo),
                       turns.machine()))
    return 0
