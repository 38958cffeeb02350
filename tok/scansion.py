"""How long is a line of Hindi verse? Count its matras, akshara by akshara, and say which rule gave each.

A Hindi meter does not count syllables: it counts time. A light akshara (laghu, L) lasts one matra and a heavy one
(guru, G) two; a pada of a chaupai lasts 16, a line of a doha 13, a pause, and 11. An akshara is a vowel with all the
consonants that are written before it: क्र is one akshara, क्रम two. A pada of the Ramcharitmanas:

    मं ग ल   भ व न   अ मं ग ल   हा री
    G L L   L L L   L G L L   G G        = 16

Rules S0, in the order in which they are asked (the rule's name is what `scan` reports):

    avagraha ऽ                        0   it marks a swallowed a
    vowelless consonant (न् in भगवान्)      0   it has no time of its own, but it closes the akshara before it
    long vowel आ ई ऊ ए ऐ ओ औ           2
    anusvara or visarga               2   हंस GL, दुःख GL; a chandrabindu adds nothing: हँस LL
    before a conjunct                 2   सत्य GL; only in the same word, and not before न्ह म्ह ल्ह ण्ह र्ह: कन्हैया LGG
    closed by a vowelless consonant   2   the त of विद्युत्
    short vowel अ इ उ ऋ                 1   the inherent a counts, at the end of a word too: भवन LLL

A word is an unbroken run of Devanagari letters and signs: spaces, dandas, digits, hyphens and all other punctuation
end it. Text is taken in NFC, where क़ is क + nukta and one consonant; zero-width joiners are dropped, for they change
how a conjunct looks and not how it sounds.

Old poets bend these rules, and a rule set for them need not give one number: `matras` returns the set of possible
counts, and RULES says for each set which weights each akshara may take. Only S0, which never bends, is here so far.
"""
import re
import unicodedata
from typing import NamedTuple

SHORT = dict(zip("अइउऋऌऎऒ", ["", *"िुृॢॆॊ"]))            # independent letter -> its sign; the sign of अ is no sign
LONG = dict(zip("आईऊॠॡएऐओऔऍऑॲॐ", [*"ाीूॄॣेैोौॅॉ", None, None]))
VOWEL_OF = {sign: letter for letter, sign in (SHORT | LONG).items() if sign is not None}
HALANT, ANUSVARA, VISARGA, AVAGRAHA = "्", "ं", "ः", "ऽ"
ASPIRATES = ("न्ह", "म्ह", "ल्ह", "ण्ह", "र्ह")                # written as conjuncts, said as one breathed consonant

_CONSONANT = "[\u0915-\u0939\u0978-\u097f]\u093c?"         # क..ह and those of Sindhi and Marwari
_SIGN = "".join(filter(None, VOWEL_OF))
_AKSHARA = re.compile(
    f"(?:(?P<onset>{_CONSONANT}(?:{HALANT}{_CONSONANT})*)(?:(?P<sign>[{_SIGN}])|(?P<dead>{HALANT}))?"
    f"|(?P<vowel>[{''.join(SHORT | LONG)}]))(?P<marks>[\u0900-\u0903\u0951-\u0954]*)|{AVAGRAHA}"
)


class Akshara(NamedTuple):
    """One akshara of a line: what is written, how long it lasts, and why."""

    text: str
    weight: int                                             # 0, 1 (laghu) or 2 (guru)
    rule: str
    vowel: str                                              # as an independent letter; "" if it has none
    marks: str                                              # anusvara, chandrabindu, visarga, accents
    word: int                                               # which word of the line, from 0


def scan(line):
    """The aksharas of a line in order, each with its weight under S0 and the rule that gave it."""
    aksharas = []
    for number, word in enumerate(_words(line)):
        for here, after in zip(word, word[1:] + [None]):
            weight, rule = _weigh(here, after)
            vowel = here["vowel"] or ("" if here["dead"] or not here["onset"] else VOWEL_OF[here["sign"] or ""])
            aksharas.append(Akshara(here[0], weight, rule, vowel, here["marks"] or "", number))
    return aksharas


def _words(line):
    """The line as a list of words, each a list of matches of _AKSHARA."""
    line = unicodedata.normalize("NFC", line).replace("\u200c", "").replace("\u200d", "")
    words, i, inside = [], 0, False
    while i < len(line):
        match = _AKSHARA.match(line, i)
        if match:
            if not inside:
                words.append([])
            words[-1].append(match)
        elif unicodedata.category(line[i])[0] in "LM":
            raise ValueError(
                f"cannot scan {line[i]!r} ({unicodedata.name(line[i], 'unnamed')}) at position {i} of {line!r}: "
                "expected Devanagari, every vowel sign after a consonant; spaces, digits and punctuation end a word"
            )
        inside = bool(match)
        i = match.end() if match else i + 1
    return words


def _weigh(here, after):
    """Weight and rule of one akshara, given the one after it in the same word (or None)."""
    if here[0] == AVAGRAHA:
        return 0, "avagraha"
    if here["dead"]:
        return 0, "vowelless consonant"
    if here["vowel"] in LONG or VOWEL_OF.get(here["sign"]) in LONG:
        return 2, "long vowel"
    if ANUSVARA in here["marks"]:
        return 2, "anusvara"
    if VISARGA in here["marks"]:
        return 2, "visarga"
    onset = after and after["onset"] or ""
    if HALANT in onset and onset not in ASPIRATES:
        return 2, f"before the conjunct {onset}"
    if after and after["dead"]:
        return 2, f"closed by {after[0]}"
    return 1, f"short vowel (no conjunct: {onset})" if onset in ASPIRATES else "short vowel"


def pattern(line):
    """The line as L and G, words apart: pattern("श्रीगुरु चरन") is "GLL LLL"."""
    words = {}
    for a in scan(line):
        words[a.word] = words.get(a.word, "") + ("", "L", "G")[a.weight]
    return " ".join(words.values())


RULES = {"S0": lambda aksharas: [(a.weight,) for a in aksharas]}    # name -> for each akshara the weights it may take


def matras(line, rules="S0"):
    """The set of lengths that the line can have under the rules; under S0 it always has one element."""
    if rules not in RULES:
        raise ValueError(f"no meter rules named {rules!r}: expected one of {', '.join(RULES)}")
    totals = {0}
    for weights in RULES[rules](scan(line)):
        totals = {total + weight for total in totals for weight in weights}
    return totals


def tuk(line):
    """What a line must share with another to rhyme: everything from its last vowel but one.

        हारी -> आरी    गाती -> आती    बादल -> अल    नीर -> ईर    महान, भगवान् -> आन    गाता है -> आहै

    The inherent a of बहती is written but not said (bahtī). Taken for the last vowel but one it would let बहती rhyme
    with करती; so an inherent a between a vowel of its word and a final written vowel is stepped over: बहती -> अहती.
    A heavy one is said, for a nasal or a conjunct leans on it: अनंता -> अंता, सतकर्मा -> अर्मा.
    """
    tail = [a for a in scan(line) if a.text != AVAGRAHA][-3:]
    silent = (len(tail) == 3 and tail[0].word == tail[2].word
              and tail[1].vowel == "अ" and tail[1].weight == 1 and tail[2].vowel not in ("", "अ"))
    tail = tail if silent else tail[-2:]
    return "".join([a.vowel + a.marks for a in tail[:1]] + [a.text for a in tail[1:]]).removesuffix(HALANT)


def rhymes(a, b):
    """Do two lines rhyme: have they the same tuk?"""
    return tuk(a) == tuk(b)
