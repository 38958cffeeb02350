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
"""
import json
import re
from pathlib import Path
from typing import NamedTuple

from minigrad.check import expect
from tok import meter as forms
from tok.hindi import normalize
from tok.scansion import VOWEL_OF, WORD
from train.data import END, SPLITS
from train.text import GPT2

KEYS = ("form", "meter", "author", "theme")
FREE = "free"                                              # the meter of a poem in which tok.meter finds none
VAGUE = {"", "chhand", "kavitt", "doha_or_sortha", "unknown"}            # forms that are many meters, or unclear
KEPT = ",;!?—।॥-"
CONTROL = re.compile(r"<(\w+)=([^<>]+)>")
_OTHER = re.compile(rf"[^\u0900-\u0963\u0970-\u097f{re.escape(KEPT)} \n]+")


class Poem(NamedTuple):
    """A poem with what is known of it; text is what a model reads, control tokens in front of the verse."""
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


def clean(text):
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

def value(text):
    """A name as the value of a control token: Malik Muhammad Jayasi -> malik-muhammad-jayasi, वर्षा -> varsha."""
    return re.sub("[^a-z0-9+,/]+", "-", latin(text).lower()).strip("-")


CONSONANTS = dict(zip("कखगघङचछजझञटठडढणतथदधनपफबभमयरलवशषसहळ", (
    "k kh g gh n ch chh j jh n t th d dh n t th d dh n p ph b bh m y r l v sh sh s h l").split()))
VOWELS = dict(zip("अआइईउऊऋएऐओऔऑ", "a a i i u u ri e ai o au o".split()))


def latin(text):
    """Devanagari in Latin letters without accents, as names are written in English; a last a is left out."""
    found, text = [], normalize(text).replace("\u093c", "")
    for here, after in zip(text, text[1:] + " "):
        if here in CONSONANTS:
            inherent = after != "्" and after not in VOWEL_OF and (after in CONSONANTS or after in "ंःँ")
            found.append(CONSONANTS[here] + "a" * inherent)
        elif here in "ंँ":
            found.append("n")
        elif here != "्":
            found.append(VOWELS.get(VOWEL_OF.get(here, here), "h" if here == "ः" else here))
    return "".join(found)


def token(key, what):
    return f"<{key}={what}>"


def control(found, leave_out=()):
    """The control tokens of a poem, given as {key: value}, in their order."""
    return "".join(token(key, found[key]) for key in KEYS if found.get(key) and key not in leave_out)


def controls(tokenizer):
    """{key: the values that this tokenizer has tokens for}."""
    found = [match.groups() for name in tokenizer.special if (match := CONTROL.fullmatch(name))]
    return {key: tuple(what for k, what in found if k == key) for key in KEYS}


def begin(tokenizer, verse="", **asked):
    """The ids of a poem that begins with these controls (form="doha", author="kabir") and words; None asks nothing."""
    known = controls(tokenizer)
    for key, what in asked.items():
        expect(key in KEYS, "controls", repr(key), f"one of {', '.join(KEYS)}")
        expect(not what or what in known[key], f"--{key}", repr(what), f"one of {', '.join(known[key]) or 'none'}")
    names = [token(key, asked[key]) for key in KEYS if asked.get(key)]
    return [tokenizer.special[END], *(tokenizer.special[name] for name in names), *tokenizer.encode(verse)]


def meter_tag(form):
    """How the lines of a tok.meter.Form, or of the one of this name, count: 13+11; lines that differ by commas."""
    form = forms.named(form) if isinstance(form, str) else form
    return ",".join(dict.fromkeys("+".join(str(part.counts[-1]) for part in line) for line in form.lines))


def measured(verse, given=""):
    """(form, meter) of a poem whose source calls its form `given`."""
    try:
        verdict = forms.meter(verse)
    except ValueError:                                     # a text that cannot be scanned
        return value(given) or "verse", FREE
    if not verdict.form:
        return value(given) or "verse", FREE
    return value(verdict.form if given in VAGUE else given), meter_tag(verdict.nearest)


# ----------------------------------------------------------------------------------------------------------- the folder

def read(folder, split):
    """The Poems of one split of a prepared folder."""
    expect(split in SPLITS, "split", repr(split), f"one of {', '.join(SPLITS)}")
    file = Path(folder, "poems", f"{split}.jsonl")
    expect(file.is_file(), str(folder), "no prepared poems", f"{file}",
           f"python -m train.poetry prepare SOURCE... --out {folder}")
    try:
        return [Poem(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    except (ValueError, TypeError) as e:
        raise ValueError(f"{file}: got {e}; expected a poem as JSON on each line. Hint: prepare it again") from None


def model_of(folder):
    """The GPT2 of a prepared folder that has been trained, or of any folder with weights."""
    trained = Path(folder, "model")
    expect(trained.is_dir() or not Path(folder, "poems").is_dir(), str(folder), "poems without a model",
           f"{trained}", f"python -m train.poetry train --out {folder}")
    return GPT2.from_pretrained(trained if trained.is_dir() else folder)
