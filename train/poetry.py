"""Hindi verse from corpus to score: python -m train.poetry COMMAND --help

    prepare SOURCE... --out DIR     clean, without copies, measured, split, as tokens
    train --stage all --out DIR     prose, then verse, then verse behind tokens that say what it is
"""
import argparse
import sys

from train import poetry_prepare, poetry_train

COMMANDS = [poetry_prepare.add, poetry_train.add]


def main(argv=None):
    parser = argparse.ArgumentParser("python -m train.poetry", description=__doc__.partition("\n")[0])
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(subparsers)
    args, more = parser.parse_known_args(argv)
    if more and not hasattr(args, "more"):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    args.more = more
    try:
        return args.run(args)
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
