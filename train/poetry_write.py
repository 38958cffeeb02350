"""Verse on demand: python -m train.poetry write DIR --form doha --theme guru --prompt "..."

The form, the author and the theme are told to the model by control tokens (poems.py). That asks; it does not oblige. So
of the tokens that it finds likely only those are taken from which the lines can still close on their counts
(tok/composer.py); --free takes whatever comes. Several candidates are written at once, each by its own seed, and ranked
by ln p(verse) per akshara: by the model alone, not by what was left of its choice. A model that counts aloud (poems.py)
is told its counts (aloud.py), or with --free writes them itself; they are no part of the verse, nor of its probability.

--interactive answers: to a line that somebody writes, the lines that are missing, in the same meter and rhyme.
"""
import argparse
import os
import re
import sys
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from gpt import stream
from gpt.decode import Decoder
from minigrad.check import expect
from tok.composer import JOINED, Composer, Vocabulary
from tok.hindi import aksharas, normalize
from tok.meter import END as LINE_END
from tok.meter import FORMS, divided, named
from tok.scan_view import in_text
from tok.scansion import plain
from train import poems
from train.aloud import Aloud, Place
from train.data import END
from train.text import GPT2

LONGEST = 4096                                             # tokens of a verse: more than any form has room for
FREE_LINE = 48                                             # and what a line has at most if nothing closes it


EXAMPLES = """\
examples:
  python -m train.poetry write runs/poetry --form chaupai --author tulsidas --show 3
  python -m train.poetry write runs/poetry --form doha --prompt "रहिमन धागा प्रेम का,"
  python -m train.poetry write runs/poetry --interactive"""


class Asked(NamedTuple):
    """What is wanted of a verse. lines: as many as the form usually has, where it is None."""

    form: str = "doha"
    theme: str | None = None
    author: str | None = None
    prompt: str = ""
    lines: int | None = None
    rhyme: bool = True
    rules: str = "S2"
    free: bool = False
    temperature: float = 0.8
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0


class Written(NamedTuple):
    """A verse, and how likely the model finds what it wrote of it."""

    text: str
    logprob: float                                         # sum of ln p over the new tokens
    tokens: int                                            # how many those are
    score: float                                           # ln p per new akshara


class Kept:
    """Verses, row by row, that a writer keeps in their meter: gpt.stream asks which tokens may come next."""

    def __init__(self, writer: Aloud, places: list[Place], only_end: np.ndarray) -> None:
        self.writer, self.places, self.only_end = writer, places, only_end
        self.tried = {}                                    # row: the last token that was asked about, where it leads

    def allowed(self, row: int, ids: list[int]) -> np.ndarray:
        place = self.places[row]
        return self.only_end if self.writer.composer.complete(place.progress) else self.writer.allowed(place)

    def allows(self, row: int, ids: list[int], token: int) -> bool:
        if self.writer.composer.complete(self.places[row].progress):
            return bool(self.only_end[token])
        self.tried[row] = token, self.writer.tried(self.places[row], token)
        return self.tried[row][1] is not None

    def goes_on(self, row: int, token: int) -> None:
        """The token came."""
        last, place = self.tried.get(row, (None, None))
        self.places[row] = place if place and last == token else self.writer.after(self.places[row], token)


class Poet:
    """A model that writes verse, with all that is kept from one verse to the next."""

    def __init__(self, gpt2: GPT2, int8: bool = False) -> None:
        self.model, self.tokenizer, self.decoder = gpt2.model, gpt2.tokenizer, Decoder(gpt2.model, int8)
        self.controls, special = poems.controls(self.tokenizer), self.tokenizer.special
        expect(END in special, "Poet", f"a tokenizer without {END}", "one that ends its texts",
               "python -m train.poetry prepare makes such")
        self.end, self.composer = special[END], lru_cache(8)(self._composer)
        self.only_end = np.arange(self.tokenizer.vocab_size) == self.end
        self.speakable = np.ones(self.tokenizer.vocab_size, bool)
        self.counts, self.sums = poems.counts(self.tokenizer), poems.sums(self.tokenizer)
        self.speakable[[i for i in special.values() if i != self.end and i not in self.counts]] = False

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary(self.tokenizer)

    def _composer(self, form, rules, lines, rhyme):
        return Aloud(Composer(self.vocabulary, form, rules, lines, rhyme), self.tokenizer)

    def begin(self, asked: Asked) -> tuple[Aloud | None, Place | None, list[int], str]:
        """(what writes the verse, or None if it is free; its Place after the prompt; the ids of control tokens and
        prompt; the prompt as it stands in the verse)."""
        form = asked.form.replace("-", " ")
        writer = None if asked.free else self.composer(form, asked.rules, asked.lines, asked.rhyme)
        place = writer and writer.begin(asked.prompt)
        verse = place.progress.text.decode() if place else plain(normalize(asked.prompt)).strip(" ")
        told = writer.told(place.progress) if writer and place else self._told(verse, form, asked.lines)
        tag = poems.meter_tag(form) if any(form == known.name for known in FORMS) else None
        ids = poems.begin(self.tokenizer, told, form=asked.form, author=asked.author, theme=asked.theme,
                          meter=tag if tag in self.controls["meter"] else None)
        return writer, place, ids, verse

    def _told(self, verse, form, lines):
        """How a free verse begins, with the counts of what fits a meter. A last word may go on, and has none."""
        whole = verse.removesuffix("\n")
        if not self.counts or not whole:
            return verse
        known = {name for name in self.counts.values() if lines or not name.startswith("<lines=")}
        told = poems.counted(whole, known, in_all=lines and (-(-lines // 2) if form in JOINED else lines))
        return (told if whole != verse else re.sub(rf"{poems.COUNT.pattern}$", "", told)) + verse[len(whole):]

    def stream(self, asked: Asked, candidates: int = 1) -> Iterator[list[tuple[int, list[int], float]]]:
        """Step by step, for each candidate that is not complete: (which, the ids that are new so far, sum of ln p)."""
        expect(candidates > 0, "--candidates", candidates, "at least 1")
        writer, place, ids, _ = self.begin(asked)
        kept = Kept(writer, [place] * candidates, self.only_end) if writer and place else None
        new, sums = [[] for _ in range(candidates)], [0.0] * candidates
        room = LONGEST if kept else FREE_LINE * (asked.lines or 4)
        how = {name: getattr(asked, name) for name in ("temperature", "top_k", "top_p", "min_p", "seed")}
        if kept:
            how |= {"allowed": kept.allowed, "allows": kept.allows}
        else:
            how |= {"allowed": lambda row, ids: self.speakable, "sure": self.sums}
        for tokens in stream(self.model, [ids] * candidates, room, stop={self.end}, decoder=self.decoder, **how):
            for token in tokens:
                new[token.row].append(token.id)
                sums[token.row] += token.logprob * (token.id not in self.counts)
                if kept and token.id != self.end:
                    kept.goes_on(token.row, token.id)
            yield [(token.row, new[token.row], sums[token.row]) for token in tokens]

    def write(self, asked: Asked, candidates: int = 1) -> list[Written]:
        """Verses, the likeliest first."""
        found, begun = {}, self.begin(asked)[-1]
        for step in self.stream(asked, candidates):
            found.update((row, (new, total)) for row, new, total in step)
        verses = [self._written(begun, *found[row]) for row in sorted(found)]
        return sorted(verses, key=lambda verse: -verse.score)

    def _written(self, begun, new, total):
        text = self.text(new)
        return Written((begun + text).strip("\n"), total, len(new), total / max(len(aksharas(text)), 1))

    def text(self, new: list[int]) -> str:
        """What new ids say."""
        return self.tokenizer.decode([i for i in new if i != self.end and i not in self.counts])

    def form_of(self, prompt: str, rules: str = "S2") -> str | None:
        """The first form that the model knows into which all of these lines fit, or None. Raises ValueError for what
        cannot be scanned."""
        lines = [line for line in LINE_END.split(normalize(prompt)) if line.strip()]
        names = [name for form in FORMS if (name := form.name.replace(" ", "-")) in self.controls["form"]]
        return next((name for name in dict.fromkeys(names)
                     if lines and all(divided(named(name.replace("-", " ")), i, line, rules)
                                      for i, line in enumerate(lines))), None)


def answered(asked: Asked) -> Asked:
    """The same with the prompt as lines that are complete, and as many lines more as share its rhyme."""
    given = [line.strip() for line in LINE_END.split(asked.prompt) if line.strip()]
    form = named(asked.form.replace("-", " "))
    whole = max(len(form.lines), form.together if form.rhyme is not None else 2)
    lines = (len(given) // whole + 1) * whole
    return asked._replace(prompt="".join(f"{line}।\n" for line in given), lines=asked.lines or lines)


# the command ----------------------------------------------------------------------------------------------------------
def add_write(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("write", help="verse in a meter that is counted, by a model that was trained",
                                   description=__doc__, epilog=EXAMPLES,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", help="a prepared folder after training, or any with weights")
    parser.add_argument("--form", help="doha, chaupai, ... [doha; of an answer, that of the line that was given]")
    parser.add_argument("--theme", help="what it is about, as the model knows it")
    parser.add_argument("--author", help="in whose manner")
    parser.add_argument("--prompt", default="", help="how it begins; a danda ends a line")
    parser.add_argument("--lines", type=int, help="how many; padas of a chaupai [as the form has them]")
    parser.add_argument("--rules", default="S2", help="what counts as scanning: S0, S1, S2, S3 of tok/scansion.py [S2]")
    parser.add_argument("--no_rhyme", action="store_true", help="lines need not rhyme")
    parser.add_argument("--free", action="store_true", help="without a meter that is kept")
    parser.add_argument("--interactive", action="store_true", help="answer each line that comes in, in its meter")
    parser.add_argument("--candidates", type=int, default=8, help="so many are written, the likeliest is shown [8]")
    parser.add_argument("--show", type=int, default=1, help="how many of them are shown [1]")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 always takes the likeliest token [0.8]")
    parser.add_argument("--top_k", type=int, help="choose among the k likeliest tokens only")
    parser.add_argument("--top_p", type=float, help="choose among the likeliest tokens with this probability together")
    parser.add_argument("--min_p", type=float, help="only tokens with this share of the likeliest one's probability")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another verse [0]")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    expect(args.show > 0, "--show", args.show, "1 or more")
    poet = Poet(poems.model_of(args.folder))
    asked = Asked(**{name: getattr(args, name) for name in Asked._fields if name not in ("rhyme", "form")},
                  rhyme=not args.no_rhyme, form=args.form or "doha")
    if not args.interactive:
        show(poet, asked, args.candidates, args.show)
        return 0
    for line in map(str.strip, iter(_ask, "")):
        if not line:
            continue
        try:
            form = args.form or poet.form_of(line, args.rules) or ""
            expect(form, "the line", repr(line), f"one in the meter of {', '.join(poet.controls['form'])}",
                   "python -m tok scan shows its count; --form says which meter it should have")
            show(poet, answered(asked._replace(prompt=line, form=form)), args.candidates, args.show)
        except ValueError as error:                        # what one line says wrong the next may say right
            print(f"error: {error}", file=sys.stderr)
    return 0


def _ask():
    """A line that somebody has written; "" at the end of all."""
    if sys.stdin.isatty():
        print("> ", end="", flush=True)
    return sys.stdin.readline()


def show(poet: Poet, asked: Asked, candidates: int, shown: int) -> None:
    """Print verses with their scansion."""
    terminal = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for verse in poet.write(asked, candidates)[:shown]:
        try:
            drawn = in_text(verse.text, asked.rules, terminal)
        except ValueError as error:                        # a free verse may hold what cannot be scanned
            drawn = str(error)
        print(f"{verse.text}\n\n{drawn}\nln p = {verse.logprob:.1f}, {verse.score:.2f} an akshara\n", flush=True)
