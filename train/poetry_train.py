"""Training in three stages, each a run of train.run: python -m train.poetry train --out DIR

    1    prose       what Hindi is like: words, grammar                     config poetry-prose      -> DIR/stage1
    2    verse       what verse is like: lines, meter, rhyme, old words     config poetry-verse      -> DIR/stage2
    3    control     what a doha by Kabir is like, and a chaupai of Tulsi's    config poetry-control    -> DIR/stage3

Text of stages 2 and 3 is counted aloud (poems.py), and in stage 2 there is prose that is, as an exercise. Each stage
begins with the best weights of the one before it, by validation loss, and ends early when that has not fallen for a
while; those of the last stage that has ended are DIR/model. A stage that was stopped goes on by the same command, one
that has ended is left as it is. Where there is no prose, stage 1 is left out and stage 2 begins from nothing.

Whatever train.run takes may follow: --steps 100, for instance. On a CPU that multiplies in bfloat16 the stages do.
"""
import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from minigrad.check import expect
from train import checkpoint, config, data

STAGES = {1: ("poetry-prose", "prose"), 2: ("poetry-verse", "verse"), 3: ("poetry-control", "control")}
SIZES = {"small": "", "gpt2-124m": "--preset gpt2 --block_size 256 --backend cupy --dtype bfloat16 --lr 3e-4 "
                                   "--min_lr 3e-5"}


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("train", help="three stages: prose, verse, verse on demand",
                                   description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=(*map(str, STAGES), "all"), default="all", help="which of the three [all]")
    parser.add_argument("--out", default="runs/poetry", metavar="DIR", help="the prepared folder [runs/poetry]")
    parser.add_argument("--size", choices=SIZES, default="small", help="small, for two CPU cores, or "
                        "gpt2-124m, for a GPU [%(default)s]")
    parser.set_defaults(run=run, more=())


def run(args: argparse.Namespace) -> int:
    from train import run as runs  # and Numba with it: not for --help
    for stage in (STAGES if args.stage == "all" else [int(args.stage)]):
        if stage == 1 and args.stage == "all" and is_without_prose(args.out):
            print(f"{args.out} has no prose: stage 1 is left out", flush=True)
            continue
        flags = flags_of(args.out, stage, [*SIZES[args.size].split(), *args.more])
        print(f"\nstage {stage}: {STAGES[stage][0]}", flush=True)
        if status := runs.main(flags):
            return status
        if not has_ended(args.out, stage):                   # a signal that asked it to stop
            return 0
        keep_best(args.out, max(each for each in STAGES if has_ended(args.out, each)))
    return 0


def is_without_prose(folder: Path | str) -> bool:
    return Path(folder, "prepare.json").is_file() and not Path(folder, "prose").is_dir()


def flags_of(folder: Path | str, stage: int, more: Sequence[str] = ()) -> list[str]:
    """What train.run is asked for, as words of a command line; of words given twice the last counts."""
    name, text = STAGES[stage]
    out, where = Path(folder), f"train.poetry prepare SOURCE... --out {folder}"
    expect((out / "prepare.json").is_file(), str(folder), "no prepared folder", "one with prepare.json", where)
    expect((out / text).is_dir(), f"--stage {stage}", f"a folder without {text}", f"{out / text}", where)
    flags = {"config": name, "data": out / text, "tokenizer": out / "tokenizer.json", "shards": out / "shards",
             "out": out / f"stage{stage}", "resume": "auto", "dtype": fastest()}
    before = stage - 1
    if before > 1 or before == 1 and (out / "prose").is_dir():
        expect(has_ended(out, before), f"--stage {stage}", f"a stage {before} that has not ended", "its best weights",
               f"--stage {before}")
        flags["init"] = checkpoint.best(out / f"stage{before}")
    return [word for key, what in flags.items() for word in (f"--{key}", str(what))] + list(more)


def fastest() -> str:
    """The dtype in which this processor trains fastest."""
    from minigrad import blas
    return "bfloat16" if blas.multiplies("bfloat16") else "float32"


def has_ended(folder: Path | str, stage: int) -> bool:
    """Has a stage made all its steps, or run out of patience?"""
    from train.run import ended
    out = Path(folder, f"stage{stage}")
    if not checkpoint.steps(out):
        return False
    state = checkpoint.newest(out)[1]
    return bool(ended(state, config.build(state["config"])))


def keep_best(folder: Path | str, stage: int) -> None:
    """DIR/model: the best weights of a stage, whole or not there."""
    model, staging = Path(folder, "model"), Path(folder, ".model")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    best = checkpoint.best(Path(folder, f"stage{stage}"))
    for name in checkpoint.WEIGHTS:
        shutil.copyfile(best / name, staging / name)
        checkpoint.to_disk(staging / name)
    if model.is_dir():
        old = Path(folder, ".model.old")
        shutil.rmtree(old, ignore_errors=True)
        os.rename(model, old)
        os.rename(staging, model)
        shutil.rmtree(old)
    else:
        os.rename(staging, model)
    print(f"{model} has the weights of stage {stage}, step {int(best.name):,}", flush=True)


def shards(folder: Path | str) -> None:
    """Tokenize all text now, so that no stage has to."""
    import tok
    tokenizer = tok.load(Path(folder, "tokenizer.json"))
    for name, text in STAGES.values():
        if Path(folder, text).is_dir():
            given = {"data": str(Path(folder, text)), "shards": str(Path(folder, "shards"))}
            data.prepare(config.build({**config.read_yaml(config.config_file(name)), **given}), tokenizer)
