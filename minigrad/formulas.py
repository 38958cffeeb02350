"""The book of every gradient formula, from the docstrings of the code that computes them.

    python -m minigrad.formulas              contents, then all pages
    python -m minigrad.formulas layer_norm   one op: signature, formulas, derivation, implementations
    python -m minigrad.formulas --html DIR   the book as DIR/index.html: formulas drawn, sources beside them, every
                                             gradient checked now, costs, and times on this machine
"""
import argparse
import difflib
import importlib
import inspect
import pkgutil
import sys
import textwrap
from pathlib import Path

from minigrad import book
from minigrad.check import exit_status, expect
from minigrad.tensor import Op

HERE = Path(__file__).parent


def chapters():
    """{module: [functions]}: the ops, and what else has a kernel, file by file in the order they are written in."""
    found = {}
    for package in ("ops", "fused"):
        for info in sorted(pkgutil.iter_modules([str(HERE / package)]), key=lambda info: info.name):
            if not info.name.endswith(("_cpu", "_gpu")):
                module = importlib.import_module(f"minigrad.{package}.{info.name}")
                here = [f for name, f in vars(module).items()
                        if hasattr(f, "reference") and (f.reference.__module__, f.__name__) == (module.__name__, name)]
                if here:
                    found[module] = here
    return found


def names_of(module):
    """The name of its file, and those of the faster implementations that stand beside it."""
    return "   ".join([book.path_of(module), *(file.name for file in book.kernels_of(module))])


def entry(f):
    """Signature and formulas of one op."""
    lines = [f"{f.__name__}{inspect.signature(f.reference)}"]
    sides = {"forward": f, "backward": f.formula} if isinstance(f, Op) else {"": f}
    for word, side in sides.items():
        if side.__doc__:
            text = textwrap.indent(inspect.cleandoc(side.__doc__), " " * 12)
            lines.append(f"  {word:10}" + text[12:])
    return "\n".join(lines)


def chapter(module, functions):
    """A file: what it says about itself, then its ops."""
    title = names_of(module)
    about = inspect.cleandoc(module.__doc__)
    return "\n\n".join([f"{title}\n{'=' * len(title)}", about, *map(entry, functions)])


def contents(found):
    lines = ["Contents", "========", ""]
    for module, functions in found.items():
        names = ", ".join(f.__name__ for f in functions)
        lines.append(textwrap.fill(names, 110, initial_indent=f"{book.path_of(module):34}", subsequent_indent=" " * 34))
    return "\n".join(lines)


def page(name):
    """What the book says about one op: its entry, and the derivation if its file is about nothing else."""
    found = chapters()
    for module, functions in found.items():
        for f in functions:
            if f.__name__ == name:
                parts = [entry(f), f"In   {names_of(module)}"]
                if ".fused." in module.__name__:
                    parts.append(inspect.cleandoc(module.__doc__))
                return "\n\n".join(parts)
    names = [f.__name__ for functions in found.values() for f in functions]
    near = difflib.get_close_matches(name, names, 3, 0.5)
    expect(False, "formulas", repr(name), "an op",
           f"{' or '.join(near)}?" if near else "without a name, the contents come first")


def whole_book():
    found = chapters()
    return "\n\n\n".join([contents(found), *(chapter(*item) for item in found.items())])


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m minigrad.formulas", description=__doc__.splitlines()[0])
    parser.add_argument("op", nargs="?", help="one op's page; without it, the whole book")
    parser.add_argument("--html", metavar="DIR", type=Path, help="write DIR/index.html instead of printing; checks "
                        "every gradient and exits with 1 if one is wrong")
    parser.add_argument("--no-speed", action="store_true", help="with --html: leave out the times")
    args = parser.parse_args(argv)
    if args.html:
        return exit_status(lambda: write(args.html, not args.no_speed))
    return exit_status(lambda: print(page(args.op) if args.op else whole_book()))


def write(folder, speed):
    """The book as a page, every gradient checked on it. Returns 1 if one is wrong."""
    from bench.facts import collect  # measures for a page what bench/ knows how to measure

    folder.mkdir(parents=True, exist_ok=True)
    measured = collect(speed)
    (folder / "index.html").write_text(book.page(chapters(), measured), encoding="utf-8")
    wrong = book.not_right(measured)
    print(f"{folder / 'index.html'}: "
          + (f"wrong gradients: {', '.join(wrong)}" if wrong else "every gradient is right"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
