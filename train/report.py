"""python -m train.report RUN...: what runs have come to, side by side."""
import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from minigrad.check import exit_status, expect
from train import checkpoint, log, stats
from train.drawing import drawing

COLUMNS = (("step", "step", "{:,}"), ("validation", "val_loss", "{:.4f}"), ("perplexity", "perplexity", "{:.2f}"),
           ("bits/byte", "bits_per_byte", "{:.3f}"), ("accuracy", "accuracy", "{:.1%}"))


def summary(folder: str | Path) -> dict[str, str]:
    """{column: text} of a run, from its log and its newest checkpoint."""
    entries = log.read(Path(folder, "log.jsonl"))
    validations = [e for e in entries if "val_loss" in e]
    scored = [e for e in validations if e["val_loss"] is not None]
    expect(scored, folder, "a log without a validation", "a run that has come to one")
    best, last = min(scored, key=lambda e: e["val_loss"]), validations[-1]
    speeds = sorted(e["tokens_per_s"] for e in entries if "tokens_per_s" in e)
    found = {"run": Path(folder).absolute().name,
             **{title: form.format(last[key]) if last.get(key) is not None else "-" for title, key, form in COLUMNS}}
    found["best"] = f"{best['val_loss']:.4f} at {best['step']:,}"
    found["tokens/s"] = f"{speeds[len(speeds) // 2]:,}" if speeds else "-"
    if checkpoint.steps(folder):
        c = checkpoint.newest(folder)[1]["config"]
        found["model"] = f"{c['n_layer']} x {c['n_embd']}, {c['dtype']}"
    return found


def epochs(folder: str | Path) -> list[dict[str, str]]:
    """[{column: text}], a row for every validation of a run: with the training loss and the time since the last one."""
    entries, rows, losses, seconds = log.read(Path(folder, "log.jsonl")), [], [], 0.0
    tokens = checkpoint.newest(folder)[1]["config"]["tokens_per_step"]
    for e in entries:
        if e.get("loss") is not None:
            losses.append(e["loss"])
            seconds += tokens / max(1, e["tokens_per_s"])
        elif "val_loss" in e:
            rows.append({"epoch": f"{e['epoch']:.2f}", "step": f"{e['step']:,}",
                         "train loss": f"{sum(losses) / len(losses):.4f}" if losses else "-",
                         **{title: "-" if e[key] is None else form.format(e[key])
                            for title, key, form in (("val loss", "val_loss", "{:.4f}"), COLUMNS[2])},
                         "minutes": f"{seconds / 60:.1f}"})
            losses, seconds = [], 0.0
    return rows


def table(rows: list[dict[str, str]]) -> str:
    """[{column: text}] as lines."""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    cells = [titles, *([row.get(title, "-") for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(titles))]
    return "\n".join("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells)


def plot(file: str | Path, folders: Iterable[str | Path]) -> None:
    """Validation losses of all runs over the tokens' steps, in one picture."""
    with drawing(file, figsize=(8, 4.8)) as (_, ((axes,),)):
        for folder in folders:
            scored = [e for e in log.read(Path(folder, "log.jsonl")) if e.get("val_loss") is not None]
            axes.plot([e["step"] for e in scored], [e["val_loss"] for e in scored], "o-", markersize=3, linewidth=1.4,
                      label=f"{Path(folder).absolute().name}: {scored[-1]['val_loss']:.3f}")
        axes.set(xlabel="step", ylabel="validation loss (nats per token)")
        axes.grid(alpha=0.25)
        for text in axes.legend(frameon=False).get_texts():
            text.set_parse_math(False)                       # the name of a folder: a $ is one


EXAMPLES = """\
examples:
  python -m train.report runs/verse runs/verse-2 --plot runs.png
  python -m train.report runs/verse --epochs --samples"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m train.report", description="What runs have come to, side by side.",
                                     epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--epochs", action="store_true", help="for each of them, a table of its validations")
    parser.add_argument("--samples", action="store_true", help="what they wrote at each validation")
    parser.add_argument("--stats", action="store_true",
                        help="the latest statistics of each of their parameters (of runs with --stats_every N)")
    parser.add_argument("--plot", metavar="FILE", help="draw their validation losses into FILE (.png, .svg, .pdf)")
    args = parser.parse_args(argv)
    return exit_status(lambda: show(args))


def show(args):
    """What the command line asks for."""
    expect(not args.plot or Path(args.plot).suffix in (".png", ".svg", ".pdf") and Path(args.plot).parent.is_dir(),
           "--plot", repr(args.plot), "the name of a .png, .svg or .pdf in a folder that exists")
    for folder in args.runs:
        expect(Path(folder, "log.jsonl").is_file(), folder, "no log.jsonl in it", "a run folder")
    print(table([summary(folder) for folder in args.runs]))
    for folder in args.runs if args.epochs else ():
        print(f"\n{folder}\n{table(epochs(folder))}")
    for folder in args.runs if args.samples else ():
        for e in log.read(Path(folder, "log.jsonl")):
            if "sample" in e:
                print(f"\n{folder}, step {e['step']:,}\n{e['sample']}")
    for folder in args.runs if args.stats else ():
        found = [e for e in log.read(Path(folder, "log.jsonl")) if "stats" in e]
        expect(found, folder, "a log without statistics", "those of a run with --stats_every N")
        print(f"\n{folder}, step {found[-1]['step']:,}\n{table(stats.rows(found[-1]['stats']))}")
    if args.plot:
        plot(args.plot, args.runs)
        print(f"{args.plot} is drawn")


if __name__ == "__main__":
    sys.exit(main())
