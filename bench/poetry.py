"""How well is verse scanned, and is it more than luck?

--scansion FOLDER reads FOLDER/poetry/*.jsonl, a stanza a line with the fields form, source and text, and
FOLDER/prose/*.txt, a paragraph a line, and prints

    counts   how many padas of a form have the matras that it asks for, under each rule set; and what luck gives:
             strings of the words of the Manas in random order, with as many words as its padas have, and as many
             running words of prose
    names    how many stanzas `meter` gives the name of the form that they are in
    prose    how many windows of running prose, shaped like stanzas of verse (as many lines, as many words in each),
             `meter` takes for a form. Chance is what it says of the same with all words of the prose in random order.
             More than chance: were each stanza that is named as likely a shuffled one as not, so many of them would be
             prose in less than one of a hundred such tables
    quoted   paragraphs of the prose, a sentence a line, that `meter` takes for a form: nearly all are verse that the
             prose quotes, see for yourself. So they are shown, and not compared with chance
    speed    aksharas a second, on one thread, with all that is kept of earlier words thrown away first

--decoding DIR has the model in DIR write verse, the count kept and freely; poetry_decoding.py says what is measured.

Shares with a target are marked, and so is the exit status: 0 if all were reached.
"""
import argparse
import itertools
import json
import math
import random
import re
import time
from collections import Counter
from pathlib import Path

from bench import turns
from minigrad.check import expect
from tok import meter as forms
from tok import scansion
from tok.chhand import Line, matras, meter, scan
from tok.hindi import normalize

SETS = ("S0", "S1", "S2", "S3")
SEED = 0
LINES_END = re.compile("[।॥?!\n]+")
NAMES = {                                                # what a form is called in the data -> what meter may call it
    "chaupai": {"chaupai"}, "doha": {"doha"}, "sortha": {"sortha"},
    "kavitt": {form.name for form in forms.FORMS if form.rules == "savaiya"} | {
        "manaharan", "rup ghanakshari", "dev ghanakshari"},
}
LINES, SHOWN = 12, 40                                    # of a window at most; quoted verse


class Verse:
    """The stanzas of a folder, and its prose as words and as paragraphs of sentences."""

    def __init__(self, folder):
        self.stanzas = [json.loads(line) for path in sorted(Path(folder, "poetry").glob("*.jsonl"))
                        for line in path.read_text(encoding="utf-8").splitlines()]
        expect(self.stanzas, "bench poetry", f"no stanzas in {folder}/poetry/*.jsonl", "one as JSON on each line, with "
               '"form", "source" and "text"')
        for stanza in self.stanzas:
            stanza["text"] = normalize(stanza["text"])
        paragraphs = [normalize(line) for path in sorted(Path(folder, "prose").glob("*.txt"))
                      for line in path.read_text(encoding="utf-8").splitlines()]
        self.paragraphs = [[words for words in map(_words, LINES_END.split(text)) if words] for text in paragraphs]
        self.prose = [word for paragraph in self.paragraphs for words in paragraph for word in words]

    def texts(self, source, form):
        return [stanza["text"] for stanza in self.stanzas if stanza["source"] == source and stanza["form"] == form]

    def padas(self, source, form):
        """What stands between dandas."""
        return [pada for text in self.texts(source, form) for pada in LINES_END.split(text) if _words(pada)]

    def lines(self, source, form):
        return [line for text in self.texts(source, form) for line in text.split("\n")]

    def halves(self, source, form):
        """Both halves of each line that has one comma."""
        lines = [line.split(",") for line in self.lines(source, form)]
        return [line for line in lines if len(line) == 2]


def _words(text):
    """The words of a text that can be scanned."""
    found = []
    for word in scansion.WORD.findall(text):
        try:
            scansion.words(word)
        except ValueError:
            continue
        found.append(word)
    return found


def has(n):
    return lambda text, rules: n in matras(text, rules)


def line_of(*parts):
    """Do these many matras stand before and after the end of some word?"""
    form = forms.Form("", "", (tuple(forms.Part(counts) for counts in parts),))
    lines = {rules: Line(form, rules) for rules in SETS}
    return lambda text, rules: lines[rules].read(text) is not None


def at_comma(a, b):
    return lambda halves, rules: a in matras(halves[0], rules) and b in matras(halves[1], rules)


def counted(verse):
    """(what, lines, test, {rule set: (at least or at most, share)}) of every row of the table."""
    manas, rng = "ramcharitmanas", random.Random(SEED)
    padas = verse.padas(manas, "chaupai")
    lengths = [len(scansion.words(pada)) for pada in padas]
    words = [word for pada in padas for word in scansion.words(pada)]
    rng.shuffle(words)
    yield "Manas, chaupai: padas of 16", padas, has(16), {"S1": (">=", 0.81), "S2": (">=", 0.97)}
    dohas, sorthas = verse.lines(manas, "doha"), verse.lines(manas, "sortha")
    yield "Manas, doha: 13 + 11", dohas, line_of((13,), (11,)), {"S2": (">=", 0.785)}
    yield "Manas, doha: 13 or 12 + 11", dohas, line_of((13, 12), (11,)), {"S2": (">=", 0.97)}
    yield "Manas, sortha: 11 + 13", sorthas, line_of((11,), (13,)), {"S2": (">=", 0.975)}
    yield "Rahim, doha: 13 + 11 at the comma", verse.halves("rahim", "doha"), at_comma(13, 11), {"S2": (">=", 0.95)}
    yield "Hanuman Chalisa: padas of 16", verse.padas("hanuman_chalisa", "chaupai"), has(16), {}
    yield "Jayasi, chaupai: padas of 16", verse.padas("jayasi", "chaupai"), has(16), {}
    yield "Jayasi, doha: 13 or 12 + 11", verse.lines("jayasi", "doha"), line_of((13, 12), (11,)), {}
    yield "Jayasi, sortha: 11 + 13", verse.lines("jayasi", "sortha"), line_of((11,), (13,)), {}
    yield "Kabir, doha: 13 + 11 at the comma", verse.halves("kabir_ke_dohe", "doha"), at_comma(13, 11), {}
    yield "by luck: words of the Manas, 16", windows(words, lengths), has(16), {"S1": ("<=", 0.12), "S2": ("<=", 0.22)}
    yield "by luck: running prose, 16", windows(verse.prose, itertools.cycle(lengths)), has(16), {"S2": ("<=", 0.30)}


def windows(words, lengths):
    """Consecutive words in strings of so many words each, until one side is used up."""
    words, found = iter(words), []
    for length in lengths:
        window = list(itertools.islice(words, length))
        if len(window) < length:
            break
        found.append(" ".join(window))
    return found


def held(share, target):
    return target is None or (share >= target[1] if target[0] == ">=" else share <= target[1])


def _mark(share, target):
    return f" ({'' if held(share, target) else 'not '}{target[0]} {100 * target[1]:g})" if target else ""


def show_counts(verse):
    """Print the table of counts; its rows for --json."""
    print(f"{'counts':36}{'n':>8}" + "".join(f"{rules:>16}" for rules in SETS))
    rows = []
    for what, lines, test, targets in counted(verse):
        shares = {rules: sum(test(line, rules) for line in lines) / max(len(lines), 1) for rules in SETS}
        good = all(held(shares[rules], target) for rules, target in targets.items()) and bool(lines)
        cells = [f"{100 * shares[rules]:.1f}" + _mark(shares[rules], targets.get(rules)) for rules in SETS]
        print(f"{what:36}{len(lines):8,}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
        rows.append({"what": what, "n": len(lines), "shares": shares, "good": good})
    return rows


def show_names(verse):
    """Print what meter calls the stanzas of each source and form."""
    print(f"\n{'names':36}{'n':>8}{'named so':>16}    other names")
    rows = []
    for source, form in dict.fromkeys((stanza["source"], stanza["form"]) for stanza in verse.stanzas):
        if form not in NAMES:
            continue
        names = Counter(meter(text).form or "none" for text in verse.texts(source, form))
        right, n = sum(names[name] for name in NAMES[form]), names.total()
        others = ", ".join(f"{name} {k}" for name, k in names.most_common() if name not in {"none", *NAMES[form]})
        print(f"{source + ', ' + form:36}{n:8,}{100 * right / n:16.1f}    {others}", flush=True)
        rows.append({"source": source, "form": form, "n": n, "named": right, "names": dict(names)})
    return rows


def shapes(verse):
    """For every stanza how many words its lines have."""
    found = [[len(_words(line)) for line in forms.END.split(stanza["text"])] for stanza in verse.stanzas]
    return [shape for shape in (list(filter(None, shape)) for shape in found) if 2 <= len(shape) <= LINES]


def named(stanzas, words):
    """How often meter finds which form in stanzas of these shapes, filled with these words one after the other."""
    words, found = iter(words), Counter()
    for shape in stanzas:
        lines = [" ".join(itertools.islice(words, length)) for length in shape]
        found[meter("।\n".join(lines) + "॥").form] += 1
    return found


def excess(prose, chance):
    """How likely are so many of them prose, or more, if each is prose or shuffled with the same probability?"""
    n = prose + chance
    return sum(math.comb(n, k) for k in range(prose, n + 1)) / 2 ** n


def show_prose(verse, stanzas):
    """Print what meter finds in windows of prose, and in its words shuffled."""
    shuffled = list(verse.prose)
    random.Random(SEED).shuffle(shuffled)
    cut, words = [], 0
    for shape in itertools.islice(itertools.cycle(shapes(verse)), stanzas):
        words += sum(shape)
        if words > len(shuffled):
            break
        cut.append(shape)
    prose, chance = named(cut, verse.prose), named(cut, shuffled)
    names = sorted({*prose, *chance} - {None}, key=lambda name: -prose[name])
    counts = [("any form", len(cut) - prose[None], len(cut) - chance[None])]
    counts += [(name, prose[name], chance[name]) for name in names]
    print(f"\n{'prose: windows':36}{len(cut):8,}{'named':>16}{'shuffled':>16}")
    rows = []
    for name, a, b in counts:
        good = excess(a, b) >= 0.01 / len(counts) and bool(cut)
        print(f"    {name:40}{a:16,}{b:16,}" + ("" if good else "    more than chance"), flush=True)
        rows.append({"form": name, "n": len(cut), "prose": a, "shuffled": b, "good": good})
    return rows


def show_quoted(verse, paragraphs):
    """Print the paragraphs of prose that meter finds to be verse."""
    several = [p for p in verse.paragraphs if 2 <= len(p) <= LINES]
    texts = ["। ".join(map(" ".join, p)) + "॥" for p in several[::max(1, len(several) // paragraphs)]]
    found = [(form, text) for text in texts if (form := meter(text).form)]
    print(f"\n{'quoted: paragraphs':36}{len(texts):8,}{len(found):16,}")
    for form, text in found[:SHOWN]:
        print(f"    {form:20}{text[:120]}")
    return [{"n": len(texts), "found": len(found)}]


def forget():
    """Throw away all that is kept of words and lines."""
    for kept in (scansion.words, scansion.scan_word, scansion.word_readings, scansion._culprit, scansion._word_matras,
                 forms.rhyme, forms._counts, forms._counts_of, forms.divided):
        kept.cache_clear()


def show_speed(verse):
    """Print aksharas a second over all verse, of the best of so many passes."""
    lines = [line for stanza in verse.stanzas for line in stanza["text"].split("\n")]
    texts = [stanza["text"] for stanza in verse.stanzas if stanza["form"] in NAMES]
    aksharas, in_texts = sum(len(scan(line)) for line in lines), sum(len(scan(text)) for text in texts)
    jobs = (("scan", scan, lines, aksharas, 3, 50_000),
            ("matras under S2", lambda line: matras(line, "S2"), lines, aksharas, 3, 50_000),
            ("meter", meter, texts, in_texts, 1, 0))
    print(f"\n{'speed, aksharas a second':36}{'n':>8}")
    rows = []
    for what, f, items, n, passes, target in jobs:
        best = math.inf
        for _ in range(passes):
            forget()
            start = time.perf_counter()
            for item in items:
                f(item)
            best = min(best, time.perf_counter() - start)
        good = n / best >= target
        mark = f" ({'' if good else 'not '}>= {target:,})" if target else ""
        print(f"{what:36}{n:8,}{n / best:16,.0f}{mark}", flush=True)
        rows.append({"what": what, "n": n, "per_second": n / best, "good": good})
    return rows


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench poetry", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--scansion", metavar="FOLDER", help="with poetry/*.jsonl and prose/*.txt")
    what.add_argument("--decoding", metavar="DIR", help="with a model that python -m train.poetry has trained")
    parser.add_argument("--stanzas", type=turns.positive, default=20_000,
                        help="how many windows of prose, and how many paragraphs [20000]")
    parser.add_argument("--verses", type=turns.positive, default=200, help="how many of each form are written [200]")
    parser.add_argument("--rows", type=turns.positive, default=8, help="how many of them at a time [8]")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the verse [0.8]")
    parser.add_argument("--json", type=turns.in_a_folder, metavar="FILE", help="append a dated line with all numbers")
    args = parser.parse_args(argv)
    if args.decoding:
        from bench.poetry_decoding import show_decoding
        found = {"decoding": show_decoding(args.decoding, args.verses, args.rows, args.temperature)}
    else:
        verse = Verse(args.scansion)
        found = {"counts": show_counts(verse), "names": show_names(verse), "prose": show_prose(verse, args.stanzas),
                 "quoted": show_quoted(verse, args.stanzas), "speed": show_speed(verse)}
    if args.json:
        turns.record(args.json, "poetry", argv, **found)
    missed = [row for rows in found.values() for row in rows if not row.get("good", True)]
    print(f"\nnot reached: {len(missed)}" if missed else "\nall targets reached")
    return 1 if missed else 0
