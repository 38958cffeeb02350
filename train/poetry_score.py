"""How good is the verse? python -m train.poetry score DIR: numbers beside the poets' own and beside chance.

Every number is of one split, test unless --split says val, that training has not seen.

    likelihood   of the poems held out, each from its start to its end. Told nothing: from <|endoftext|> alone. Told
                 what it is: behind its control tokens, which are not scored. A model that counts aloud (poems.py) has
                 to foretell its counts as well there, so this is at least what the text alone would cost. Told its
                 counts too: these are given, each when its word has ended, and only the text's own tokens are scored;
                 some of what makes the text likely they say themselves. Per token of the text, and in bits for each
                 akshara, which is the same count whatever the tokens; beside them a Kneser-Ney 5-gram of aksharas
                 (kneser_ney.py) that has counted the same verse. Prose beside it makes that peer worse: 6.53 bits for
                 6.00 with 0.4 million tokens of old verse and 2.4 of prose
    samples      the model is asked for as many poems as were held out, with the control tokens of each, at
                 --temperature; so for the same mixture of forms, authors and themes as the poets wrote. Nothing is
                 chosen or forced. Its counts it writes itself, wherever it writes what is left the likeliest; they are
                 taken out of what is measured.
                 --also FILE.jsonl measures others in the same way: lines with "verse", "form", "meter", "author",
                 "theme"
    meter        the share of lines (between dandas) whose parts count as their form wants, under each rule set; whether
                 they end as it wants is not asked. Over all meters: of each form as many lines as the poets have; a
                 form that a group has no poem of has none right. By chance: the words of the poets' lines, shuffled,
                 the lengths of lines kept
    named        the share of poems asked for in a meter that tok.meter gives that form, cadence and rhyme included; the
                 same word again is no rhyme
    rhyme        the share of neighbouring lines that rhyme, of forms that rhyme at the ends of lines in pairs; by
                 chance: of the poets' lines in random order
    layout       the share of poems that end by themselves and whose number of lines, and of parts in a line, are such
                 as 1 in 100 training poems of the form have, or more; by chance: with the forms asked for shuffled
    theme        the share in which naive Bayes (themes.py), taught by the training poems that have a theme, finds what
                 was asked for; author the same. By chance: with the answers shuffled
    BLEU-4       against at most REFERENCES other poems held out, of the same form and theme, or of the same form where
                 no other has that theme; the poets' own is measured against the same ones
    self-BLEU    of each poem against all others: low is varied.  distinct-n: the share of different n-grams
    copied       the share of lines that stand in the training poems, spelling aside; nearly copied: of those that share
                 half of all runs of 3 letters with a line from there (Jaccard index), as most with a word changed
                 do. The poets' own says how much is common stock. Longest: words in a row from there
    poems        how many a group has, and how many of them are blank: in these nothing was found, and nothing is new

In DIR/score: score.txt, score.json, samples.jsonl, page.html with the first samples, and sheets to rate (rating.py).
"""
import argparse
import html
import json
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from gpt import generate
from gpt.decode import Decoder
from minigrad.check import expect
from tok import meter as forms
from tok import scan_view
from tok.base import Tokenizer, write_json, write_text
from tok.scansion import WORD
from train import kneser_ney, ngrams, poems, rating, themes
from train.report import table
from train.step import evaluate
from train.text import GPT2

RULES = ("S0", "S1", "S2", "S3")
LICENSED = "doha 12+11"                                   # what it counts the strict doha counts already
REFERENCES, RATED, SHOWN, TOKENS, ROWS = 20, 30, 40, 512, 32
CLAIMED = {"perplexity": 11.0, "BLEU-4": 0.42, "distinct": 0.78, "meter": 0.85}       # of CodeKarpathy's README


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("score", help="what a trained model's verse is worth", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", metavar="DIR")
    parser.add_argument("--split", choices=("val", "test"), default="test", help="which of the poems held out [test]")
    parser.add_argument("--n", type=int, default=0, help="so many of these, the same in every call [0: all]")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the verse that the model writes [0.8]")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other verse [0]")
    parser.add_argument("--also", nargs="+", default=[], metavar="FILE", help="poems of others, as .jsonl")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    text, training, held = poems.model_of(args.out), poems.read(args.out, "train"), poems.read(args.out, args.split)
    expect(args.n >= 0, "--n", args.n, "0 or more")
    held = random.Random(0).sample(held, len(held))[:args.n or None]
    also = {Path(file).stem: others(Path(file)) for file in args.also}
    out = Path(args.out, "score")
    out.mkdir(exist_ok=True)
    found = {"split": args.split, "poems": len(held), "temperature": args.temperature, "seed": args.seed}
    found["likelihood"] = likelihood(text, training, held)
    samples = write(text, held, args.temperature, args.seed)
    groups = {"model": samples, **also, "poets": held}
    found["groups"] = {name: measures(some, held, training, args.seed) for name, some in groups.items()}
    found["chance"] = chance(samples, held, training, args.seed)
    write_text(out / "samples.jsonl", "".join(json.dumps(p._asdict(), ensure_ascii=False) + "\n" for p in samples))
    write_json(out / "score.json", found)
    write_text(out / "score.txt", shown(found))
    write_text(out / "page.html", page(found, samples))
    by = {"model": [p.verse for p in samples if p.verse], "poets": [p.verse for p in held]}
    rating.write(out, {name: verses[:RATED] for name, verses in by.items()}, args.seed)
    print(shown(found) + f"\nall of it is in {out}")
    return 0


# ----------------------------------------------------------------------------------------------------------- likelihood

class Rows:
    """Batches for train.step.evaluate that score whole rows from a place on, but not these ids: [(ids, first id to be
    scored)].

    A row longer than a block is read in several windows, each of which begins half a block before what it scores.
    """

    def __init__(self, rows: Iterable[tuple[list[int], int]], block: int, told: Iterable[int] = ()) -> None:
        self.windows, self.block, self.told = [], block, list(told)
        for ids, done in rows:
            begin = 0
            while done < len(ids):
                end = min(len(ids), begin + block + 1)
                self.windows.append((ids[begin:end], done - begin))
                begin, done = max(end - max(1, block // 2), 0), end
        self.tokens = sum(int((y >= 0).sum()) for _, y in self.batches())

    @property
    def count(self) -> int:
        return -(-len(self.windows) // ROWS)

    def batches(self, which: Iterable[int] | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for k in range(self.count) if which is None else which:
            some = self.windows[k * ROWS:(k + 1) * ROWS]
            x = np.zeros((len(some), self.block), np.int64)
            y = np.full_like(x, -1)
            for row, (ids, first) in enumerate(some):
                x[row, :len(ids) - 1] = ids[:-1]
                y[row, first - 1:len(ids) - 1] = ids[first:]
            yield x, np.where(np.isin(y, self.told), -1, y)


def asked_for(tokenizer: Tokenizer, p: poems.Poem) -> dict[str, str]:
    """The control tokens that a poem can be asked for with."""
    known = poems.controls(tokenizer)
    return {key: getattr(p, key) for key in poems.KEYS if getattr(p, key) in known[key]}


def likelihood(text: GPT2, training: list[poems.Poem], held: list[poems.Poem]) -> dict:
    """Perplexity and bits of the poems held out, told nothing and told all; and of the peer."""
    tokenizer, verses, (end,) = text.tokenizer, [p.verse for p in held], text.stop
    counts = poems.counts(tokenizer)
    found: dict[str, Any] = {"aksharas": kneser_ney.count_of(verses)}
    for name in ("told nothing", "told what it is", *["told its counts too"] * bool(counts)):
        rows = []
        for p in held:
            controls = {} if name == "told nothing" else asked_for(tokenizer, p)
            ids = poems.begin(tokenizer, poems.counted(p.verse, tokenizer.special), **controls)
            rows.append(([*ids, end], 1 + len(controls)))
        own = sum(i not in counts for ids, first in rows for i in ids[first:])
        rows = Rows(rows, text.model.config.block_size, counts if name == "told its counts too" else ())
        loss, _ = evaluate(text.model, rows)
        nats = loss * rows.tokens
        found[name] = {"tokens": own, "perplexity": math.exp(min(nats / own, 700)),
                       "bits": nats / math.log(2) / found["aksharas"]}
    peer = kneser_ney.KneserNey([p.verse for p in training])
    found["Kneser-Ney"] = {"bits": peer.bits(verses) / found["aksharas"]}
    return found


# -------------------------------------------------------------------------------------------------------------- samples

def write(text: GPT2, held: list[poems.Poem], temperature: float, seed: int) -> list[poems.Poem]:
    """A poem of the model for each poem held out, as Poems with what was asked for; text says how it ended."""
    tokenizer, (end,) = text.tokenizer, text.stop
    allowed = np.ones(text.model.config.vocab_size, bool)
    allowed[tokenizer.vocab_size:] = allowed[[*tokenizer.special.values()]] = False
    allowed[[end, *poems.counts(tokenizer)]] = True
    found, decoder = [], Decoder(text.model)
    for at in tqdm(range(0, len(held), ROWS), "write", unit=" batches", delay=1, leave=False):
        some = held[at:at + ROWS]
        begins = [poems.begin(tokenizer, **asked_for(tokenizer, p)) for p in some]
        rows = generate(text.model, begins, TOKENS, temperature=temperature, stop={end}, seed=seed + at,
                        decoder=decoder, allowed=lambda b, ids: allowed, sure=poems.sums(tokenizer))
        for p, begin, row in zip(some, begins, rows):
            verse = poems.clean(poems.plain(tokenizer.decode([i for i in row[len(begin):] if i != end])))
            found.append(p._replace(source="model", verse=verse, text="ended" if row[-1] == end else "cut"))
    return found


def others(file: Path) -> list[poems.Poem]:
    """The poems in a file of --also."""
    found = []
    for where, row in poems.rows_of(file):
        known = {field: row.get(field) or "" for field in poems.Poem._fields}
        for field, text in known.items():
            expect(isinstance(text, str), where, f"{text!r} under {field!r}", "a str")
        expect("verse" in row, where, "no verse", 'a poem under "verse", or "" where none was written')
        found.append(poems.Poem(**{**known, "verse": poems.clean(row["verse"]), "text": known["text"] or "ended"}))
    return found


# ------------------------------------------------------------------------------------------------------------- measures

def lines_of(verse: str) -> list[str]:
    """What stands between dandas and line ends."""
    return [line.strip() for line in forms.END.split(verse) if WORD.search(line)]


def bare(form: forms.Form) -> forms.Form:
    """A form of which only the counts are left."""
    lines = tuple(tuple(forms.Part(part.counts, feet=part.feet) for part in line) for line in form.lines)
    return form._replace(lines=lines)


def of_form(name: str) -> list[forms.Form]:
    """The tok.meter.Forms that go by this value of a control token."""
    return [form for form in forms.FORMS if poems.value(form.name) == name]


def counted(lines: list[str], form: forms.Form, rules: str) -> int:
    """Of the lines of one poem, how many count as the form wants."""
    form = bare(form)
    return sum(forms.line_of(form, rules, k % len(form.lines)).read(line) is not None for k, line in enumerate(lines))


def meters(some: list[poems.Poem]) -> dict[str, dict]:
    """{form: {"lines": n, rule set: share}} of poems that are asked for in forms that tok.meter has."""
    found = {}
    for name in sorted({p.form for p in some}):
        for form in of_form(name):
            texts = [lines_of(p.verse) for p in some if p.form == name]
            n = sum(map(len, texts))
            title = f"{name} {poems.meter_tag(form)}"
            found[title] = {"lines": n, **{rules: sum(counted(lines, form, rules) for lines in texts) / max(1, n)
                                           for rules in RULES}}
    return found


def over_all(meter: dict[str, dict], like: dict[str, dict]) -> dict[str, float]:
    """Shares over all meters of the table `like`, with as many lines of each as that has; without licences."""
    titles = [title for title in like if title != LICENSED]
    n = sum(like[title]["lines"] for title in titles)
    return {rules: sum(meter[title][rules] * like[title]["lines"] for title in titles if title in meter) / max(1, n)
            for rules in RULES}


def named(some: list[poems.Poem]) -> float:
    """The share of those asked for in a meter that tok.meter gives their form."""
    asked = [p for p in some if p.meter not in ("", poems.FREE) and of_form(p.form)]
    return sum(map(_is_in_its_meter, asked)) / max(1, len(asked))


def _is_in_its_meter(p):
    try:
        verdict = forms.meter(p.verse)
    except ValueError:                                     # it cannot be scanned
        return False
    rhymes = [bool(how) for *_, how in verdict.rhymes]
    return (verdict.form is not None and poems.value(verdict.form) == p.form
            and sum(rhymes) >= forms.RHYMING * len(rhymes))


def couplets(some: list[poems.Poem]) -> Iterator[tuple[str, str]]:
    """Pairs of neighbouring lines that their form wants to rhyme."""
    for p in some:
        form = next(iter(of_form(p.form)), None)
        if form and form.rhyme == -1 and form.together == 2:
            lines = lines_of(p.verse)
            yield from zip(lines[::2], lines[1::2])


def rhyming(pairs: Iterable[tuple[str, str]]) -> float:
    """The share of pairs of lines that rhyme."""
    pairs = list(pairs)
    return sum(bool(_rhyme(a, b)) for a, b in pairs) / max(1, len(pairs))


def _rhyme(a, b):
    try:
        return forms.rhyme(a, b)
    except ValueError:                                     # it cannot be scanned
        return ""


class Layouts:
    """What poems of each form look like."""

    def __init__(self, training: list[poems.Poem]) -> None:
        lines, parts = defaultdict(Counter), defaultdict(Counter)
        for p in training:
            n, of_lines = self._seen(p.verse)
            lines[p.form][n] += 1
            parts[p.form].update(of_lines)
        self.lines, self.parts = ({form: {n for n, times in counts.items() if 100 * times >= counts.total()}
                                   for form, counts in table.items()} for table in (lines, parts))

    def obeyed(self, verse: str, form: str) -> bool:
        n, of_lines = self._seen(verse)
        return form in self.lines and n in self.lines[form] and set(of_lines) <= self.parts[form]

    @staticmethod
    def _seen(verse):
        """(how many lines, of each line how many parts between dandas)."""
        lines = verse.split("\n")
        return len(lines), [len(lines_of(line)) for line in lines]


def classified(some: list[poems.Poem], training: list[poems.Poem], key: str) -> list[tuple[str, str]]:
    """[(asked for, found by Bayes)] of the poems that have this key."""
    taught = [(p.verse, getattr(p, key)) for p in training if getattr(p, key)]
    asked = [p for p in some if getattr(p, key)]
    told = themes.Bayes(taught) if taught else None
    return [(getattr(p, key), told(p.verse)) for p in asked] if told else []


def agreeing(pairs: Sequence[tuple[str, str]]) -> float:
    return sum(a == b for a, b in pairs) / max(1, len(pairs))


def references(some: list[poems.Poem], held: list[poems.Poem], seed: int) -> list[list[list[str]]]:
    """For each poem the words of at most so many others held out, of its form and theme, or at least of its form."""
    rng, found = random.Random(seed), []
    of: dict[Any, list[int]] = defaultdict(list)
    for k, p in enumerate(held):
        of[p.form, p.theme].append(k)
        of[p.form].append(k)
    for p in some:
        like = next((rest for key in ((p.form, p.theme), p.form)
                     if (rest := [k for k in of[key] if held[k].id != p.id])), [])
        found.append([ngrams.words(held[k].verse) for k in rng.sample(like, min(REFERENCES, len(like)))])
    return found


def measures(some: list[poems.Poem], held: list[poems.Poem], training: list[poems.Poem], seed: int) -> dict:
    """All that is measured of a group of poems."""
    words, refs = [ngrams.words(p.verse) for p in some], references(some, held, seed)
    with_refs = [(text, own) for text, own in zip(words, refs) if own]
    copies, layouts = ngrams.Copies([p.verse for p in training]), Layouts(training)
    copied, lines = np.array([copies.copied(p.verse) for p in some] or [(0, 0)]).sum(0).tolist()
    longest = sorted(copies.longest(p.verse) for p in some)
    meter = meters(some)
    return {
        "poems": len(some), "blank": sum(not lines_of(p.verse) for p in some), "meter": meter,
        "all meters": over_all(meter, meters(held)), "named": named(some),
        "rhyme": rhyming(couplets(some)),
        "layout": sum(p.text != "cut" and layouts.obeyed(p.verse, p.form) for p in some) / max(1, len(some)),
        "theme": agreeing(classified(some, training, "theme")),
        "author": agreeing(classified(some, training, "author")),
        "BLEU-4": ngrams.bleu(*zip(*with_refs)) if with_refs else 0.0,
        "self-BLEU": ngrams.self_bleu(words) if len(words) > 1 else 0.0,
        **{f"distinct-{n}": ngrams.distinct(words, n) for n in range(1, 5)},
        "copied": copied / lines if lines else None,       # a group without lines has not found new ones
        "nearly copied": sum(copies.near(p.verse) for p in some) / lines if lines else None,
        "longest": longest[-1] if longest else 0, "longest, median": longest[len(longest) // 2] if longest else 0}


def chance(samples: list[poems.Poem], held: list[poems.Poem], training: list[poems.Poem], seed: int) -> dict:
    """What luck gives: see above."""
    rng, shuffled = random.Random(seed), []
    for name in sorted({p.form for p in held}):
        some = [p for p in held if p.form == name]
        words = [word for p in some for line in lines_of(p.verse) for word in WORD.findall(line)]
        rng.shuffle(words)
        words = iter(words)
        shuffled += [p._replace(verse="\n".join(" ".join(next(words) for _ in WORD.findall(line))
                                                for line in lines_of(p.verse))) for p in some]
    ends = [line for pair in couplets(held) for line in pair]
    rng.shuffle(ends)
    layouts, others = Layouts(training), [p.form for p in samples]
    rng.shuffle(others)
    found: dict[str, Any] = {"meter": meters(shuffled), "rhyme": rhyming(zip(ends[::2], ends[1::2])),
             "layout": sum(p.text != "cut" and layouts.obeyed(p.verse, form) for p, form in zip(samples, others))
             / max(1, len(samples))}
    for key in ("theme", "author"):
        pairs = classified(samples, training, key)
        found[key] = sum(a == b for a, _ in pairs for _, b in pairs) / max(1, len(pairs) ** 2)
    return {**found, "all meters": over_all(found["meter"], meters(held))}


# -------------------------------------------------------------------------------------------------------- what is shown

def shown(found: dict) -> str:
    """All numbers as text."""
    likely, groups, luck = found["likelihood"], found["groups"], found["chance"]
    columns = {**groups, "chance": luck}
    rows = [{"likelihood": name, "perplexity": f"{row['perplexity']:.2f}" if "perplexity" in row else "-",
             "bits an akshara": f"{row['bits']:.3f}"} for name, row in likely.items() if name != "aksharas"]
    rows.append({"likelihood": "reference", "perplexity": f"{CLAIMED['perplexity']:.1f}"})
    claims = {"all meters, S2": CLAIMED["meter"], "BLEU-4": CLAIMED["BLEU-4"], "distinct-2": CLAIMED["distinct"]}
    plain: dict[str, Callable] = {
        "all meters, S1": lambda c: c["all meters"]["S1"], "all meters, S2": lambda c: c["all meters"]["S2"]}
    for name in ("named", "rhyme", "layout", "theme", "author", "BLEU-4", "self-BLEU",
                 *(f"distinct-{n}" for n in range(1, 5)), "copied", "nearly copied"):
        plain[name] = methodcaller("get", name)
    measured = []
    for name, value in plain.items():
        row = {"measure": name}
        for group, c in columns.items():
            row[group] = "-" if value(c) is None else f"{value(c):.3f}"
        measured.append({**row, "reference": f"{claims[name]:.2f}" if name in claims else "-"})
    measured.append({"measure": "longest copy, words", **{group: f"{c['longest']}" for group, c in groups.items()}})
    measured += [{"measure": name, **{group: f"{c[key]:,}" for group, c in groups.items()}}
                 for name, key in (("poems", "poems"), ("blank ones", "blank"))]
    by_form = [{"meter": title, "of": group, "lines": f"{c['meter'][title]['lines']:,}",
                **{rules: f"{c['meter'][title][rules]:.1%}" for rules in RULES}}
               for title in groups["poets"]["meter"] for group, c in columns.items() if title in c["meter"]]
    head = (f"{found['poems']:,} poems of {found['split']}, {likely['aksharas']:,} aksharas; temperature "
            f"{found['temperature']:g}, seed {found['seed']}")
    return "\n\n".join([head, table(rows), table(measured), table(by_form) if by_form else "no meter"]) + "\n"


def page(found: dict, samples: list[poems.Poem]) -> str:
    """The numbers and the first samples, scanned, as a page of its own."""
    body = [f"<pre style='font-size:.6em; line-height:1.3'>{html.escape(shown(found))}</pre>"]
    for p in samples[:SHOWN]:
        asked = poems.control({key: getattr(p, key) for key in poems.KEYS})
        body.append(f"<p><code style='font-size:.6em'>{html.escape(asked)}</code></p>")
        try:
            body.append(scan_view.stanza_in_html(p.verse))
        except ValueError as e:                            # signs in an order that no word has
            body.append(f"<p>{html.escape(p.verse)}</p><div class='fault'>{html.escape(str(e))}</div>")
    return scan_view.page("train.poetry score", body)
