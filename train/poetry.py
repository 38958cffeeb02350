"""Hindi verse from corpus to score: python -m train.poetry COMMAND --help

    prepare SOURCE... --out DIR     clean, without copies, measured, split, as tokens
    train --stage all --out DIR     prose, then verse, then verse behind tokens that say what it is
    score DIR                       likelihood, meter, rhyme, copies and more, beside the poets' own and beside chance
    agree DIR                       what raters say of the sheets that score has written
    write DIR --form doha           verse in a meter that is kept, token by token; --interactive answers lines
    serve DIR                       a page on this machine that does the same
"""
import argparse
import sys
from collections.abc import Sequence

from minigrad.check import exit_status
from train import poetry_prepare, poetry_score, poetry_serve, poetry_train, poetry_write, rating

COMMANDS = [poetry_prepare.add, poetry_train.add, poetry_score.add, rating.add, poetry_write.add_write,
            poetry_serve.add_serve]

EXAMPLES = """\
a first try, on verse that the project composes itself:
  python -m train.poetry prepare --out runs/poetry
  python -m train.poetry train --out runs/poetry --steps 300
  python -m train.poetry write runs/poetry --form doha
  python -m train.poetry score runs/poetry"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m train.poetry", description=__doc__.partition("\n")[0],
                                     epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(subparsers)
    args, more = parser.parse_known_args(argv)
    if more and not hasattr(args, "more"):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    args.more = more
    return exit_status(lambda: args.run(args))


if __name__ == "__main__":
    sys.exit(main())
