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
    before a conjunct                 2   सत्य GL; only in the same word, and not before न्ह म्ह ल्ह ण्ह: कन्हैया LGG
    closed by a vowelless consonant   2   the द्यु of विद्युत्
    short vowel अ इ उ ऋ                 1   the inherent a counts, at the end of a word too: भवन LLL

A word is an unbroken run of Devanagari letters and signs: spaces, dandas, digits, hyphens and all other punctuation
end it. Text is taken in NFC, where क़ is क + nukta and one consonant; zero-width joiners are dropped, for they change
how a conjunct looks and not how it sounds.

Old poets bend these rules. A licence says which aksharas S0 weighs wrongly for them, and what such an akshara may
weigh instead; a rule set is S0 with some licences, each set with those of the one before it:

    S1   final nasal      a short इ or उ with an anusvara at the end of a word is light: तेहिं GL. It is written for a
                          chandrabindu, which has no room above the line beside the other sign
    S2   short e and o    ए and ओ may be light: Awadhi and Braj have both lengths of them, and one letter for both
    S3   short ai and au  so may ऐ and औ,
         before ya        a short vowel before a conjunct with य in it: कह्यो LG,
         weak anusvara    and a short vowel with any other anusvara
    savaiya
         short long vowel any long vowel may be light. Only in meters that say of every akshara what it weighs, such as
                          the savaiyas, does this leave something to be tested (meter.py)

A vowel that a licence takes for short weighs what a short one does: before a conjunct, closed by a vowelless consonant
or with a visarga it is heavy all the same, so under S2 too the मो of मोक्ष is.

Under S2 and S3 a line has no one length, and `matras` returns the set of those that it can have. The more a set allows,
the less it says that a line fits: of strings of words put together at random, as many as a pada of the Manas has, 11 %
can be read as 16 matras under S1 and 21 % under S2 (python -m bench poetry).
"""
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache, reduce
from operator import or_
from typing import NamedTuple

SHORT = dict(zip("अइउऋऌऎऒ", ["", *"िुृॢॆॊ"]))            # independent letter -> its sign; the sign of अ is no sign
LONG = dict(zip("आईऊॠॡएऐओऔऍऑॲॐ", [*"ाीूॄॣेैोौॅॉ", None, None]))
VOWEL_OF = {sign: letter for letter, sign in (SHORT | LONG).items() if sign is not None}
HALANT, ANUSVARA, VISARGA, AVAGRAHA = "्", "ं", "ः", "ऽ"
SHORT_IU, CONJUNCT = ("इ", "उ"), "before the conjunct"
ASPIRATES = ("न्ह", "म्ह", "ल्ह", "ण्ह")                     # written as conjuncts, said as one breathed consonant

_CONSONANT = "[\u0915-\u0939\u0978-\u097f]\u093c?"         # क..ह and those of Sindhi and Marwari
_SIGN = "".join(filter(None, VOWEL_OF))
_AKSHARA = re.compile(
    f"(?:(?P<onset>{_CONSONANT}(?:{HALANT}{_CONSONANT})*)(?:(?P<sign>[{_SIGN}])|(?P<dead>{HALANT}))?"
    f"|(?P<vowel>[{''.join(SHORT | LONG)}]))(?P<marks>[\u0900-\u0903\u0951-\u0954]*)|{AVAGRAHA}"
)
_LETTER = "\u0900-\u0963\u0971-\u097f"                      # without dandas, digits and the dot of abbreviations
WORD = re.compile(f"[{_LETTER}]+")
_PIECE = re.compile(f"(?P<word>{WORD.pattern})|[^{_LETTER}]+")
CACHED = 1 << 17                                            # words of which the scansion is kept


class Akshara(NamedTuple):
    """One akshara of a line: what is written, how long it lasts, and why."""

    text: str
    weight: int                                             # 0, 1 (laghu) or 2 (guru)
    rule: str
    vowel: str                                              # as an independent letter; "" if it has none
    marks: str                                              # anusvara, chandrabindu, visarga, accents
    word: int                                               # which word of the line, from 0


def scan(line: str) -> list[Akshara]:
    """The aksharas of a line in order, each with its weight under S0 and the rule that gave it."""
    return [Akshara(*akshara[:-1], number) for number, word in enumerate(words(line)) for akshara in scan_word(word)]


def plain(text: str) -> str:
    """The text as it is scanned: in NFC, without zero-width joiners."""
    return unicodedata.normalize("NFC", text).replace("\u200c", "").replace("\u200d", "")


@lru_cache(1 << 12)                                         # whoever asks one thing about a line asks the next
def words(line: str) -> tuple[str, ...]:
    """The line's words, its runs of Devanagari letters and signs. Raises ValueError for what cannot be scanned."""
    line, found = plain(line), []
    for piece in _PIECE.finditer(line):
        culprit = _culprit(piece[0])
        if culprit is not None:
            i = piece.start() + culprit
            raise ValueError(
                f"cannot scan {line[i]!r} ({unicodedata.name(line[i], 'unnamed')}) at position {i} of {line!r}: "
                "expected Devanagari, every vowel sign after a consonant; spaces, digits and punctuation end a word"
            )
        if piece["word"]:
            found.append(piece[0])
    return tuple(found)


@lru_cache(CACHED)
def _culprit(piece):
    """Where in a word, or between words, is the first character that cannot be scanned? None if nowhere."""
    i = 0
    while i < len(piece):
        akshara = _AKSHARA.match(piece, i)
        if not akshara and unicodedata.category(piece[i])[0] in "LM":
            return i
        i = akshara.end() if akshara else i + 1
    return None


@lru_cache(CACHED)
def scan_word(word: str) -> tuple[Akshara, ...]:
    """The aksharas of one word, as a tuple."""
    found = [*_AKSHARA.finditer(word)]
    return tuple(
        Akshara(here[0], *_weigh(here, after),
                here["vowel"] or ("" if here["dead"] or not here["onset"] else VOWEL_OF[here["sign"] or ""]),
                here["marks"] or "", 0)
        for here, after in zip(found, [*found[1:], None]))


def _weigh(here: re.Match, after: re.Match | None) -> tuple[int, str]:
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
        return 2, f"{CONJUNCT} {onset}"
    if after and after["dead"]:
        return 2, f"closed by {after[0]}"
    return 1, f"short vowel (no conjunct: {onset})" if onset in ASPIRATES else "short vowel"


def pattern(line: str) -> str:
    """The line as L and G, words apart: pattern("श्रीगुरु चरन") is "GLL LLL"."""
    words = {}
    for a in scan(line):
        words[a.word] = words.get(a.word, "") + ("", "L", "G")[a.weight]
    return " ".join(words.values())


class Licence(NamedTuple):
    """Which aksharas may weigh something else than under S0, and what; first what they are taken for if any will do."""

    name: str
    applies: Callable                                       # (akshara, the one after it in its word or None) -> bool
    weights: tuple


def _open(a, after):
    """Is the akshara without what makes any vowel heavy, a visarga or consonants behind it that close it?"""
    closed = after and after.text != AVAGRAHA and (not after.vowel or HALANT in after.text and not (
        after.text.startswith(ASPIRATES) and after.text.count(HALANT) == 1))
    return not closed and VISARGA not in a.marks


NASAL = Licence("final nasal", lambda a, after: not after and a.vowel in SHORT_IU and ANUSVARA in a.marks, (1,))
SHORT_E_O = Licence("short e and o", lambda a, after: a.vowel in ("ए", "ओ") and _open(a, after), (2, 1))
SHORT_AI_AU = Licence("short ai and au", lambda a, after: a.vowel in ("ऐ", "औ") and _open(a, after), (2, 1))
BEFORE_YA = Licence("before ya", lambda a, after: a.rule.startswith(CONJUNCT) and HALANT + "य" in after.text, (2, 1))
WEAK_ANUSVARA = Licence("weak anusvara", lambda a, after: a.rule == "anusvara" and _open(a, after), (2, 1))
SHORT_LONG = Licence("short long vowel", lambda a, after: a.rule == "long vowel" and _open(a, after), (2, 1))
RULES = {"S0": (), "S1": (NASAL,), "S2": (NASAL, SHORT_E_O),
         "S3": (NASAL, SHORT_E_O, SHORT_AI_AU, BEFORE_YA, WEAK_ANUSVARA)}
RULES["savaiya"] = (*RULES["S3"], SHORT_LONG)


def licences(rules: str) -> tuple[Licence, ...]:
    """The licences of a rule set by its name."""
    if rules not in RULES:
        raise ValueError(f"no meter rules named {rules!r}: expected one of {', '.join(RULES)}")
    return RULES[rules]


@lru_cache(CACHED)
def word_readings(word: str, rules: str) -> tuple[tuple[int, ...], ...]:
    """For each akshara of a word the weights that it may take: first what it is taken for if any of them will do."""
    found = []
    for here, after in zip(scan_word(word), [*scan_word(word)[1:], None]):
        given = next((licence for licence in licences(rules) if licence.applies(here, after)), None)
        found.append(given.weights if given else (here.weight,))
    return tuple(found)


def readings(line: str, rules: str = "S2") -> list[tuple[int, ...]]:
    """The same for each akshara of a line."""
    return [weights for word in words(line) for weights in word_readings(word, rules)]


def open_weights(akshara: Akshara, rules: str) -> tuple[int, ...] | None:
    """What the akshara may weigh in front of a single consonant, if in front of a conjunct it is heavy; else None."""
    single, conjunct = (word_readings(akshara.text + after, rules)[0] for after in ("त", "त्त"))
    return single if single != conjunct else None


@lru_cache(CACHED)
def _word_matras(word, rules):
    """The lengths that a word can have."""
    totals = {0}
    for weights in word_readings(word, rules):
        totals = {total + weight for total in totals for weight in weights}
    return totals


def matras(line: str, rules: str = "S0") -> set[int]:
    """The set of lengths that the line can have under the rules; under S0 and S1 it has one element."""
    licences(rules)
    totals = 1                                              # bit n is set if the words so far can have n matras
    for word in words(line):
        totals = reduce(or_, (totals << n for n in _word_matras(word, rules)))
    return {n for n in range(totals.bit_length()) if totals >> n & 1}


def tuk(line: str) -> str:
    """What a line must share with another to rhyme: everything from its last vowel but one.

        हारी -> आरी    गाती -> आती    बादल -> अल    नीर -> ईर    महान, भगवान् -> आन    गाता है -> आहै

    The inherent a of बहती is written but not said (bahtī). Taken for the last vowel but one it would let बहती rhyme
    with करती; so an inherent a between a vowel of its word and a final written vowel is stepped over: बहती -> अहती.
    A heavy one is said, for a nasal or a conjunct leans on it: अनंता -> अंता, सतकर्मा -> अर्मा.
    """
    tail = rhyming(line)
    return "".join([a.vowel + a.marks for a in tail[:1]] + [a.text for a in tail[1:]]).removesuffix(HALANT)


def rhyming(line: str) -> list[Akshara]:
    """The aksharas from which a line's tuk is taken: two, or three if the middle one is not said.

    A vowelless consonant that comes first is given its a, as one that comes last is: भगवान् हो, महान हो -> अहो.
    """
    tail = [a for a in scan(line) if a.text != AVAGRAHA][-3:]
    silent = (len(tail) == 3 and tail[0].word == tail[2].word
              and tail[1].vowel == "अ" and tail[1].weight == 1 and tail[2].vowel not in ("", "अ"))
    tail = tail if silent else tail[-2:]
    return [a._replace(vowel=a.vowel or "अ") for a in tail[:-1]] + tail[-1:]


def rhymes(a: str, b: str) -> bool:
    """Do two lines rhyme: have they the same tuk?"""
    return tuk(a) == tuk(b)
