"""Poems for people to rate: sheets that do not say who wrote what, and how far the raters agree.

Three sheets have the same poems, each in an order of its own; a poem has the same number on all. Who wrote it is in
rating-key.json, for whoever counts. python -m train.poetry agree DIR reads the filled sheets.

Agreement is Krippendorff's alpha for numbers (2011): of all n ratings of poems that have two or more, with m of a poem,

    observed = 1/n sum over poems of 1/(m - 1) sum over ordered pairs of its ratings of (a - b)^2
    expected = 1/(n (n - 1)) sum over all ordered pairs of ratings of (a - b)^2
    alpha    = 1 - observed / expected                                                                           [KA1]

1: they agree; 0: as if each had drawn from what all have said; below 0: worse. From 0.8 on one may rely on it.
"""
import argparse
import csv
import io
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minigrad.check import expect
from tok.base import write_json, write_text

RATERS, FIELDS = 3, ("number", "poem", "coherence 1-10")


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("agree", help="what raters say, and how far they agree")
    parser.add_argument("out", metavar="DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    folder = Path(args.out, "score")
    sheets = sorted(folder.glob("rating-*.csv"))
    expect(sheets, str(folder), "no rating-*.csv", "filled sheets", f"python -m train.poetry score {args.out}")
    key = json.loads((folder / "rating-key.json").read_text(encoding="utf-8"))
    ratings = [read(sheet, key) for sheet in sheets]
    print(report(ratings, key))
    return 0


def write(folder: Path, kinds: dict[str, list[str]], seed: int) -> None:
    """Sheets with the poems of {who wrote them: poems}, unless there are sheets."""
    if list(folder.glob("rating-*")):
        return                                                  # they may have been filled
    rng = random.Random(seed)
    poems = [(kind, text) for kind, texts in kinds.items() for text in texts]
    rng.shuffle(poems)
    for rater in range(1, RATERS + 1):
        sheet, order = io.StringIO(), rng.sample(range(len(poems)), len(poems))
        rows = csv.writer(sheet)
        rows.writerows([FIELDS, *([k + 1, poems[k][1], ""] for k in order)])
        write_text(folder / f"rating-{rater}.csv", "\ufeff" + sheet.getvalue())
    write_json(folder / "rating-key.json", {k + 1: kind for k, (kind, _) in enumerate(poems)})


def read(sheet: Path, key: dict[str, str]) -> dict[str, int]:
    """{number: rating} of a sheet, of the poems that have one."""
    with open(sheet, encoding="utf-8-sig", newline="") as f:
        rows = list(csv.DictReader(f))
    found = {}
    for row in rows:
        number, rating = row.get(FIELDS[0], ""), (row.get(FIELDS[2]) or "").strip()
        expect(number in key, str(sheet), f"poem {number!r}", "the numbers of rating-key.json")
        expect(not rating or rating.isdecimal() and 1 <= int(rating) <= 10, f"{sheet}, poem {number}", repr(rating),
               "a whole number from 1 to 10, or nothing")
        if rating:
            found[number] = int(rating)
    return found


def report(ratings: list[dict[str, int]], key: dict[str, str]) -> str:
    """The mean rating of each kind, and alpha."""
    lines = []
    for kind in dict.fromkeys(key.values()):
        given = [some[number] for some in ratings for number in some if key[number] == kind]
        lines.append(f"{kind}: mean {sum(given) / len(given):.2f} of {len(given)} ratings" if given
                     else f"{kind}: no ratings")
    found = alpha(ratings)
    return "\n".join([*lines, "Krippendorff's alpha: " + ("too few ratings" if found is None else f"{found:.3f}")])


def alpha(ratings: Iterable[Mapping[Any, float]]) -> float | None:
    """[KA1] of {poem: rating} for each rater; None where nothing can be said."""
    of = {}
    for some in ratings:
        for poem, rating in some.items():
            of.setdefault(poem, []).append(rating)
    several = [given for given in of.values() if len(given) > 1]
    every = [rating for given in several for rating in given]
    observed = sum(_squares(given) / (len(given) - 1) for given in several) / max(1, len(every))
    expected = _squares(every) / max(1, len(every) * (len(every) - 1))
    return 1 - observed / expected if expected else None


def _squares(given):
    """The sum of (a - b)^2 over ordered pairs."""
    return 2 * (len(given) * sum(a * a for a in given) - sum(given) ** 2)
