"""Every op of the test table: how far is its gradient from central differences?"""
import argparse
import sys
from pathlib import Path

from minigrad.tensor import Op

LIMIT = 1e-6         # the differences themselves err by about 1e-9: see minigrad/gradcheck.py


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench ops", description="The relative gradient error, in float64, of the reference and (where "
        "there is one) of the CPU kernel of every op, over the cases that the tests walk (tests/opcases.py). "
        f"Exits with 1 if one is above {LIMIT:g}.")
    parser.add_argument("--gradcheck", action="store_true", help="the default, and so far all that there is")
    parser.add_argument("--op", help="one op only")
    args = parser.parse_args(argv)
    sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
    from opcases import CASES, gradient_errors
    if args.op and args.op not in Op.table:
        parser.error(f"--op: got {args.op!r}; expected one of {', '.join(sorted(Op.table))}")
    cases = [c for c in CASES if args.op in (None, c.op.name)]
    return table(gradient_errors(cases))


def table(errors):
    """Print one line per case, the worst last; return the exit status."""
    rows = {}
    for case, implementation, error in errors:
        rows.setdefault(id(case), (str(case), {}))[1][implementation] = error
    width = min(72, max(len(name) for name, _ in rows.values()))
    print(f"{'op(shapes){parameters}':{width}}  reference  CPU kernel")
    for name, found in rows.values():
        short = name if len(name) <= width else name[:width - 3] + "..."
        kernel = f"{found['cpu']:.1e}" if "cpu" in found else "-"
        print(f"{short:{width}}  {found['reference']:9.1e}  {kernel:>10}")
    worst, name = max((error if error == error else float("inf"), f"{name}, {implementation}")
                      for name, found in rows.values() for implementation, error in found.items())
    print(f"\n{len(rows)} cases; the worst is {bold(f'{worst:.1e}')} ({name}); the limit is {LIMIT:.0e}")
    return 0 if worst <= LIMIT else 1


def bold(text):
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() else text
