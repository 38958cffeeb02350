"""A poem as a text and as tokens, and the folder that has them.

    <|endoftext|> <form=doha> <meter=13+11> <author=kabir> <theme=guru> text of the poem <|endoftext|>

Control tokens say what the poem is. They are special tokens of the tokenizer, in this order, and any may be missing: in
some training poems they are, so that a model can be asked with some of them. Their values are in lower-case ASCII.

    form      what the source calls it; where that says little (chhand, kavitt) the name that tok.meter finds
    meter     how the parts of its lines count, if tok.meter names its form: 16, 13+11, 12+11 for a doha that takes that
              licence, 28; else free
    author    his name
    theme     what it is about (themes.py)

The text is in the normal form of tok.hindi, a line of verse on each of its lines, and has no characters but Devanagari,
spaces and the signs in KEPT: nothing in it can be read as a control token.

A poem that a model learns from is counted aloud, as beginners do it on their fingers. No token says how many matras it
has, so how long a line is would have to be learned of whole lines; told what is left after each word, a model only has
to know how long words are. And it is told a rhyme before it has to end on it:

    <lines=2><left=13>रहिमन<left=9> धागा<left=5> प्रेम<left=2> का<left=0>,
             <tuk=आय><left=11> मत<left=9> तोरो<left=5> चटकाय<left=0>।

    lines     at the beginning of a line, how many there are from this one on
    tuk       before a part that rhymes with one of another line: on what (tok.scansion), nasals and the like aside; the
              words of a refrain, which come after that, do not count
    left      at the beginning of a part and after each word, how many matras the part has left in the form that
              tok.meter finds nearest: by the reading with which it makes the part fit, so a part ends at 0. In parts
              that do not count as the form wants there are neither counts nor rhymes
    aksharas  the same where it is aksharas that the form counts

counted() puts these tokens in and plain() takes them out. A model writes them itself; they are no part of its verse.
"""
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minigrad.check import expect
from tok import meter as forms
from tok.base import Tokenizer
from tok.hindi import normalize
from tok.scansion import VOWEL_OF, WORD, scan_word, tuk, word_readings, words
from train.data import END, SPLITS
from train.text import GPT2

KEYS = ("form", "meter", "author", "theme")
FREE = "free"                                              # the meter of a poem in which tok.meter finds none
VAGUE = {"", "chhand", "kavitt", "doha_or_sortha", "unknown"}            # forms that are many meters, or unclear
KEPT = ",;!?—।॥-"
CONTROL = re.compile(r"<(\w+)=([^<>]+)>")
MOST = 32                                                  # there is no token for more lines, nor for more left
UNITS = "matras", "aksharas"
Told = list[tuple[list[str], list[str]]]                    # what told_in() gives
COUNT = re.compile("<(?:lines|tuk|left|aksharas)=[^<>]+>")
_OTHER = re.compile(rf"[^\u0900-\u0963\u0970-\u097f{re.escape(KEPT)} \n]+")


class Poem(NamedTuple):
    """A poem with what is known of it; text is the verse, counted, behind all its control tokens."""
    id: str
    source: str
    author: str
    form: str
    meter: str
    theme: str
    theme_from: str                                        # given, derived or ""
    cluster: str                                           # the id of the first of the poems that are variants of it
    verse: str
    text: str


def clean(text: str) -> str:
    """A poem's text in its normal form; "" if nothing of it is Devanagari."""
    before = None
    while text != before:                                  # what is left out may bring others together
        before = text
        text = re.sub(r"[\u200c\u200d]", "", normalize(text).replace("–", "—"))
        lines = [re.sub(r" +([,;!?।॥])", r"\1", " ".join(_OTHER.sub(" ", line).split())) for line in text.split("\n")]
        lines = [re.sub(r"[।॥][।॥ ]*[।॥]", "॥", line).lstrip(" ,;!?-—।॥") for line in lines]
        text = "\n".join(line for line in lines if WORD.search(line))
    return text


# ------------------------------------------------------------------------------------------------------ control tokens

def value(text: str) -> str:
    """A name as the value of a control token: Malik Muhammad Jayasi -> malik-muhammad-jayasi, वर्षा -> varsha."""
    return re.sub("[^a-z0-9+,/]+", "-", latin(text).lower()).strip("-")


CONSONANTS = dict(zip("कखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसहळ", (
    "k kh g gh n ch chh j jh n t th d dh n t th d dh n p ph b bh m y r l v sh sh s h l").split()))
VOWELS = dict(zip("अआइईउऊऋएऐओऔऑ", "a a i i u u ri e ai o au o".split()))


def latin(text: str) -> str:
    """Devanagari in Latin letters without accents, as names are written in English; a last a is left out."""
    found, text = [], normalize(text).replace("\u093c", "")
    for here, after in zip(text, text[1:] + " "):
        if here in CONSONANTS:
            inherent = after in CONSONANTS or after in VOWELS or after in "ंःँ"
            found.append(CONSONANTS[here] + "a" * inherent)
        elif here in "ंँ":
            found.append("n")
        elif here != "्":
            found.append(VOWELS.get(VOWEL_OF.get(here, here), "h" if here == "ः" else here))
    return "".join(found)


def token(key: str, what: object) -> str:
    return f"<{key}={what}>"


def control(found: Mapping[str, str], leave_out: Collection[str] = ()) -> str:
    """The control tokens of a poem, given as {key: value}, in their order."""
    return "".join(token(key, found[key]) for key in KEYS if found.get(key) and key not in leave_out)


def controls(tokenizer: Tokenizer) -> dict[str, tuple[str, ...]]:
    """{key: the values that this tokenizer has tokens for}."""
    found = [match.groups() for name in tokenizer.special if (match := CONTROL.fullmatch(name))]
    return {key: tuple(what for k, what in found if k == key) for key in KEYS}


def value_of(known: Mapping[str, tuple[str, ...]], key: str) -> str:
    """What is expected of a control, in words."""
    return f"one of {', '.join(known[key])}" if known[key] else f"none: this model knows no {key}"


def begin(tokenizer: Tokenizer, verse: str = "", **asked: str | None) -> list[int]:
    """The ids of a poem that begins with these controls (form="doha", author="kabir") and words; None asks nothing."""
    known = controls(tokenizer)
    for key, what in asked.items():
        expect(key in KEYS, "controls", repr(key), f"one of {', '.join(KEYS)}")
        expect(not what or what in known[key], f"--{key}", repr(what), value_of(known, key),
               "" if known[key] else "python -m train.poetry train makes models that do")
    names = [token(key, asked[key]) for key in KEYS if asked.get(key)]
    ids = [tokenizer.special[name] for name in (END, *names)]
    return [*ids, *tokenizer.encode(verse, {*counts(tokenizer).values()})]


def meter_tag(form: forms.Form | str) -> str:
    """How the lines of a tok.meter.Form, or of the one of this name, count: 13+11; lines that differ by commas."""
    form = forms.named(form) if isinstance(form, str) else form
    return ",".join(dict.fromkeys("+".join(str(part.counts[-1]) for part in line) for line in form.lines))


def measured(verse: str, given: str = "") -> tuple[str, str]:
    """(form, meter) of a poem whose source calls its form `given`."""
    try:
        verdict = forms.meter(verse)
    except ValueError:                                     # a text that cannot be scanned
        return value(given) or "verse", FREE
    if not verdict.form or not verdict.nearest:
        return value(given) or "verse", FREE
    return value(verdict.form if given in VAGUE else given), meter_tag(verdict.nearest)


# --------------------------------------------------------------------------------------------------------------- counts

def left(n: int, unit: str) -> str:
    """The token that says so much is left, in matras or aksharas."""
    return token({"matras": "left", "aksharas": "aksharas"}[unit], n)


COUNTS = [*(token("lines", n) for n in range(1, MOST + 1)),
          *(left(n, unit) for unit in UNITS for n in range(MOST + 1))]


def counted(verse: str, known: Collection[str] | None = None, told: Iterable | None = None,
            in_all: int | None = None) -> str:
    """A verse with its counts and rhymes, those in known. told: what told_in() gives, which it does without. in_all:
    how many lines, if the verse has not ended."""
    told, found = iter(told_in(verse) if told is None else told), []
    lines = verse.split("\n")
    for k, line in enumerate(lines):
        n = (in_all or len(lines)) - k
        found += ["\n" * (k > 0), *[token("lines", n)] * (n <= MOST)]
        end = 0
        for word, (before, after) in zip(WORD.finditer(line), told):
            gap = line[end:word.start()]
            signs = gap.rstrip(" ")                        # the space belongs to the word behind it
            found += [signs, *before, gap[len(signs):], word[0], *after]
            end = word.end()
        found.append(line[end:])
    return "".join(piece for piece in found if known is None or piece in known or not COUNT.fullmatch(piece))


def counts(tokenizer: Tokenizer) -> dict[int, str]:
    """{the id of each count and rhyme that this tokenizer has a token for: its name}."""
    return {i: name for name, i in tokenizer.special.items() if COUNT.fullmatch(name)}


def sums(tokenizer: Tokenizer) -> list[int]:
    """The ids of those that are sums: what is left."""
    return [i for i, name in counts(tokenizer).items() if name.startswith(("<left=", "<aksharas="))]


def plain(text: str) -> str:
    """A text without its counts and rhymes."""
    return COUNT.sub("", text)


def told_in(verse: str) -> Told:
    """For each word of a verse: ([the tokens before it, if it opens a part], [those after it])."""
    try:
        verdict = forms.meter(verse)
    except ValueError:                                     # a text that cannot be scanned
        verdict = None
    if not verdict or not verdict.nearest:
        return [([], [])] * len(WORD.findall(verse))
    found, form, places, endings = [], verdict.nearest, [*WORD.finditer(verse)], _endings(verdict)
    for i, padas in groupby(verdict.padas, lambda pada: pada.line):
        for k, (pada, part) in enumerate(zip(padas, form.lines[i % len(form.lines)])):
            weights = [".LG".index(mark) if form.unit == "matras" else mark != "." for mark in pada.reading]
            lengths, at = [], 0
            for word in words(pada.text):
                lengths.append(sum(weights[at:(at := at + len(scan_word(word)))]))
            own = places[len(found):len(found) + len(lengths)]
            apart = forms.END.search(verse, own[0].start(), own[-1].end())       # it was read across the end of a line
            fits = sum(lengths) in part.counts and not apart
            found += _telling(lengths, form.unit, endings.get((i, k))) if fits else [([], [])] * len(lengths)
    return found


def _endings(verdict):
    """{(line, part): the tuk of it and its partner}, of the parts that rhyme."""
    form, found = verdict.nearest, {}
    by_line = {i: [pada.text for pada in padas] for i, padas in groupby(verdict.padas, lambda pada: pada.line)}
    for i, j, how in verdict.rhymes:
        if how:
            k = form.rhyme % len(by_line[i])
            first, second = forms.without_refrain(by_line[i][k], by_line[j][k])
            found.setdefault((i, k), ending(first))
            found[j, k] = ending(second)
    return found


def ending(some: Sequence[str]) -> str:
    """What these words rhyme on, as the value of a token."""
    return tuk(" ".join(some[-3:])).translate(forms.FOLDED)


def _telling(lengths, unit, rhyme=None):
    """told_in() of words of these lengths, that are a part."""
    rest = sum(lengths)
    before = [*[token("tuk", rhyme)] * bool(rhyme), *[left(rest, unit)] * (rest <= MOST)]
    for length in lengths:
        rest -= length
        yield before, [left(rest, unit)] * (rest <= MOST)
        before = []


def exercise(text: str, known: Collection[str], rng: np.random.Generator) -> str:
    """Prose to practise on: the words of a clause in parts that have at most so many matras, or half as many aksharas,
    as the generator says, each behind what it will rhyme on. "" where that fails."""
    text, told = clean(text), []
    unit = "matras" if rng.random() < 2 / 3 else "aksharas"
    try:
        for clause in re.split(rf"[{re.escape(KEPT)}\n]", text):
            part, most = [], 0
            for word in words(clause):
                weights = [w for (w,) in word_readings(word, "S1")]
                length = sum(weights) if unit == "matras" else sum(w > 0 for w in weights)
                if sum(n for _, n in part) + length > most:
                    told += _practice(part, unit)
                    part, most = [], int(rng.integers(8, MOST + 1)) // (1 if unit == "matras" else 2)
                part.append((word, length))
            told += _practice(part, unit)
    except ValueError:
        return ""
    return counted(text, {*known} - {*COUNTS[:MOST]}, told)


def _practice(part, unit):
    return _telling([n for _, n in part], unit, ending([word for word, _ in part])) if part else []


# ----------------------------------------------------------------------------------------------------------- the folder

def rows_of(file: Path | str) -> Iterator[tuple[str, dict]]:
    """What is on each line of a .jsonl file that is not empty: (where, a dict) of each."""
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{file}: got a byte {e.object[e.start]:#04x} at offset {e.start}; expected UTF-8") from None
    for n, line in enumerate(text.split("\n"), 1):            # not splitlines: JSON may have U+2028 as it is
        if line.strip():
            where = f"{file}, line {n}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as e:
                raise ValueError(f"{where}: got {e}; expected JSON") from None
            expect(isinstance(row, dict), where, repr(row)[:60], "{name: value}")
            yield where, row


def read(folder: Path | str, split: str) -> list[Poem]:
    """The Poems of one split of a prepared folder."""
    expect(split in SPLITS, "split", repr(split), f"one of {', '.join(SPLITS)}")
    file = Path(folder, "poems", f"{split}.jsonl")
    expect(file.is_file(), str(folder), "no prepared poems", f"{file}",
           f"python -m train.poetry prepare SOURCE... --out {folder}")
    try:
        return [Poem(**row) for _, row in rows_of(file)]
    except TypeError as e:
        raise ValueError(f"{file}: got {e}; expected a Poem on each line. Hint: prepare it again") from None


def model_of(folder: Path | str) -> GPT2:
    """The GPT2 of a prepared folder that has been trained, or of any folder with weights."""
    trained = Path(folder, "model")
    expect(trained.is_dir() or not Path(folder, "poems").is_dir(), str(folder), "poems without a model",
           f"{trained}", f"python -m train.poetry train --out {folder}")
    return GPT2.from_pretrained(trained if trained.is_dir() else folder)
