r"""Hindi text: one way to store what looks the same, and the cut into aksharas.

What a reader of Hindi sees as one word can be stored in many ways: ड़ as one code point or as two, its nukta before or
after the vowel sign, आ as अ + ा, दुःख with a visarga or with the colon that looks like it. A tokenizer would learn each
of them anew. normalize() brings a text to Unicode's form NFC and applies RULES, until none has anything left to do.

NFC settles what has a canonical equivalent, and no more: क़ (U+0958) is always क + nukta, and न + nukta is always the
one code point ऩ (U+0929). The rules are for what NFC lets pass. A rule is here if it is right nearly always; where the
writer may have meant what is written, or where what was meant cannot be known, the text stays as it is:
    digits            १९४७ and 1947 are both good Hindi
    spelling          हिंदी and हिन्दी, क़लम and कलम, गये and गए, मुँह and मुंह
    two vowel signs   नीेचे has one too many, but only a dictionary knows which
    the rest          accents (U+0951-0954), Vedic signs, dandas, and all other scripts: text without Devanagari comes
                      out in NFC and not otherwise changed
"""
import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

import regex

from tok.bpe import BPETokenizer

NUKTA, HALANT, VISARGA = "\u093c", "\u094d", "\u0903"
BINDU = "\u0900\u0901\u0902" + VISARGA                              # two chandrabindus, anusvara, visarga
VOWEL_SIGN = "\u093a\u093b\u093e-\u094c\u094e\u094f\u0955-\u0957\u0962\u0963"
SIGN = NUKTA + HALANT + VOWEL_SIGN + BINDU
CONSONANT = "\u0915-\u0939\u0958-\u095f\u0978-\u097f"
VOWEL = "\u0904-\u0914\u0960\u0961\u0972-\u0977"
LETTER = CONSONANT + VOWEL + "\u093d\u0950\u0971"                   # and avagraha, om, the high dot
JOINER = "\u200c\u200d"
HIDDEN = "\u00ad\u200b\ufeff"

# The Unicode Standard, section 12.1, vowel letters: do not use -> use.
VOWEL_LETTERS = {
    "अ\u0946": "ऄ", "अ\u093e": "आ", "र\u094dइ": "ई", "उ\u0941": "ऊ", "ए\u0945": "ऍ", "ए\u0946": "ऎ", "ए\u0947": "ऐ",
    "अ\u0949": "ऑ", "आ\u0945": "ऑ", "अ\u094a": "ऒ", "आ\u0946": "ऒ", "अ\u094b": "ओ", "आ\u0947": "ओ", "अ\u094c": "औ",
    "आ\u0948": "औ", "अ\u0945": "ॲ", "अ\u093a": "ॳ", "अ\u093b": "ॴ", "आ\u093a": "ॴ", "अ\u094f": "ॵ", "अ\u0956": "ॶ",
    "अ\u0957": "ॷ"}
# The same for signs, in either order: both look alike.
VOWEL_SIGNS = {
    "\u093e\u0945": "\u0949", "\u093e\u0946": "\u094a", "\u093e\u0947": "\u094b", "\u093e\u0948": "\u094c",
    "\u0945\u093e": "\u0949", "\u0946\u093e": "\u094a", "\u0947\u093e": "\u094b", "\u0948\u093e": "\u094c"}

# A colon in or after one of these is a visarga. छ: (six) is not among them: छ is a letter too, and "is" in Nepali.
BEFORE_A_LETTER = "अंत अध अन्त चतु दु नि पुन प्रात बहि मन वक्ष शनै स्वत"
AT_THE_END = ("अंतत अंशत अक्षरश अत अधिकांशत अनिवार्यत अनुमानत अन्तत क्रमश पुन पूर्णत प्रत्यक्षत प्रथमत प्रधानत प्रमुखत प्रात "
              "प्राय मुख्यत मूलत वस्तुत विशेषत शनै शतश संपूर्णत संभवत सम्पूर्णत सम्भवत साधारणत सामान्यत स्पष्टत स्वत स्वभावत")

# Patterns begin with this to pass over every letter together with its signs; they find what is left.
_ON_A_LETTER = rf"[{LETTER}\ua8f2-\ua8fe\u00a0\u25cc][\p{{M}}{JOINER}]*+(*SKIP)(*FAIL)|"
_WORD_STARTS = rf"(?<![\p{{L}}\p{{M}}{JOINER}])"


class Rule(NamedTuple):
    """What is replaced, why, and an example."""

    name: str
    why: str
    pattern: regex.Pattern
    replacement: str | Callable
    before: str
    after: str


def _rule(name, why, pattern, replacement, before, after):
    return Rule(name, why, regex.compile(pattern), replacement, before, after)


def _any_of(words):
    return f"({'|'.join(words.split())})"


RULES = [
    _rule("hidden characters",
          "A zero width space, a byte order mark and a soft hyphen cannot be seen in Devanagari, and would cut words.",
          rf"(?<=\p{{Deva}})[{HIDDEN}]+|(?<![{HIDDEN}])[{HIDDEN}]++(?=\p{{Deva}})", "",
          "कवि\u200bता", "कविता"),
    _rule("joiners",
          "Right after a halant a joiner chooses the form of a conjunct; beside other Devanagari it does nothing.",
          rf"(?<=\p{{Deva}})(?<!{HALANT})[{JOINER}]+|(?<={HALANT}[{JOINER}])[{JOINER}]+"
          rf"|(?<![{HALANT}{JOINER}])[{JOINER}]++(?=\p{{Deva}})", "",
          "र\u200dाम क्\u200dष", "राम क्\u200dष"),
    _rule("place of the nukta",
          "A nukta stands right after its consonant. Only one that can have a nukta in Hindi draws it back over signs, "
          "and not if more vowel signs follow: in दा़ी and को़ी it is what is left of ढ़.",
          rf"(?<=[कखगजझडढफ]{NUKTA}?)([{VOWEL_SIGN}{BINDU}]+){NUKTA}++(?![{VOWEL_SIGN}])", rf"{NUKTA}\1",
          "बड\u0947\u093c", "बड\u093c\u0947"),
    _rule("doubled signs",
          "A sign that stands twice in a row is seen once.",
          rf"([{SIGN}])\1+", r"\1",
          "में\u0902", "में"),
    _rule("order of signs",
          "Chandrabindu, anusvara and visarga close an akshara, so vowel signs stand before them.",
          rf"(?<![{VOWEL_SIGN}{BINDU}])(?=[{VOWEL_SIGN}]*[{BINDU}]+[{VOWEL_SIGN}])[{VOWEL_SIGN}{BINDU}]+",
          lambda m: "".join(sorted(m[0], key=lambda sign: sign in BINDU)),
          "म\u0902\u0941ह", "म\u0941\u0902ह"),
    _rule("vowel letters",
          "A vowel is one code point, as in the table above. र् + इ is in it because old fonts made the hook of ई with "
          "the sign for र्; it can mean nothing else, since r before i is written रि.",
          rf"(?!(?<={HALANT})र)(?:{'|'.join(VOWEL_LETTERS)})", lambda m: VOWEL_LETTERS[m[0]],
          "अ\u093eम, भार\u094dइ", "आम, भाई"),
    _rule("vowel signs",
          "A vowel sign is one code point, although its halves can be typed apart.",
          "|".join(VOWEL_SIGNS), lambda m: VOWEL_SIGNS[m[0]],
          "क\u093e\u0947", "क\u094b"),
    _rule("halant on a vowel",
          "A halant takes the inherent vowel away, and beside a vowel sign there is none. Before र it stays, for पे्रम "
          "is प्रेम in the order of an old font.",
          rf"(?<=[{VOWEL_SIGN}]){HALANT}(?!र)", "",
          "म\u0943\u094dग", "मृग"),
    _rule("visarga that is a colon",
          "A visarga with no letter before it is a colon: the two look alike.",
          rf"{_ON_A_LETTER}{VISARGA}", ":",
          "उत्तर \u0903 हाँ", "उत्तर : हाँ"),
    _rule("signs alone",
          "A sign with no letter to sit on is a fault; shown on purpose it sits on ◌ (U+25CC) or U+00A0, and stays.",
          rf"{_ON_A_LETTER}(?!{VISARGA})[{SIGN}]", "",
          "नहीं \u0902कर, \u25cc\u0902", "नहीं कर, \u25cc\u0902"),
    _rule("double danda",
          "Two bars or two dandas are a double danda after Devanagari, behind the number of a verse, and before "
          "Devanagari at the head of a line.",
          rf"(?=[|।]{{2}})(?:(?<=[{LETTER}{SIGN}] ?(?:॥ ?\d+ ?)?)|(?<=^ *)(?=.. ?[{LETTER}]))"
          r"..(?![|।॥]| ?\p{Latin})", "॥",
          "सहनाई ।।", "सहनाई ॥"),
    _rule("danda",
          "A bar after a word is a danda if the text ends there or goes on as a text does; between letters without a "
          "space, before Latin, and in a line that begins with one (a row of a table) it is a bar.",
          r"^\s*\|(?!\|).*(*SKIP)(*FAIL)"
          rf"|(?<=[{LETTER}{SIGN}] ?)\|(?=\s*$|[\"'”’)\]]|\s+[{LETTER}\d\"'“‘(])", "।",
          "वह गया | मैं आया|", "वह गया । मैं आया।"),
    _rule("colon within a word",
          "A colon between two letters is a visarga after these beginnings of words; after others it may be a colon.",
          rf"{_WORD_STARTS}{_any_of(BEFORE_A_LETTER)}:(?=[{LETTER}])", rf"\1{VISARGA}",
          "दु:ख, राम:हाँ", "दु\u0903ख, राम:हाँ"),
    _rule("colon at the end of a word",
          "These words are written with a visarga or not at all.",
          rf"{_WORD_STARTS}{_any_of(AT_THE_END)}:(?![{LETTER}])", rf"\1{VISARGA}",
          "अत: सुनो: वह", "अत\u0903 सुनो: वह"),
]

# Where neither NFC nor a rule can have anything to do, this finds nothing, and most lines need no more than this look.
# It is a pattern of re, which is three times as fast at it as regex.
_PLAIN = "\\x00-9;-{}-\u00ac\u00ae-\u02ff\u0964-\u0970\u2010-\u2027\u2030-\u205e"    # NFC keeps them; no : and no |
_STABLE = LETTER.replace("\u0958-\u095f", "")                         # NFC keeps them, but for a nukta behind न र ळ
SUSPECT = re.compile(
    f"[^{_PLAIN}{_STABLE}{SIGN}]|[{SIGN}इ।](?:"
    f"(?<![{_STABLE}{SIGN}].)(?<=[{SIGN}])"                                                     # a sign on nothing
    f"|(?<=[{VOWEL}{HALANT}{VOWEL_SIGN}{BINDU}][{NUKTA}{HALANT}{VOWEL_SIGN}])|(?<=[{NUKTA}नरळ]{NUKTA})"
    f"|(?<=[{BINDU}][{BINDU}])|(?<={HALANT}इ)|(?<=।।))")


def normalize(text: str) -> str:
    """The text in NFC, with RULES applied; what comes out is its own normal form."""
    return "\n".join(_settled(line) if SUSPECT.search(line) else line for line in text.split("\n"))


def _settled(line):
    """NFC and all rules, again and again until nothing changes: so once more changes nothing.

    It ends, because each rule makes the line shorter, moves a sign to its place, or writes for a bar, a visarga or a
    colon something that stays. Neither NFC nor any rule looks beyond its line.
    """
    line, before = unicodedata.normalize("NFC", line), None
    while line != before and SUSPECT.search(line):
        before = line
        for rule in RULES:
            line = rule.pattern.sub(rule.replacement, line)
        line = unicodedata.normalize("NFC", line)
    return line


# An akshara: consonants joined by halants, with nuktas and joiners, then a vowel sign, then other marks; or a vowel
# letter with its marks. Marks may come in any order, so that text which is not normalized has its aksharas too;
# tok.scansion, which measures time, is stricter: its pattern takes only what is well-formed, no joiners. What is not
# Devanagari is cut by \X into Unicode's grapheme clusters: e with its accent, 👩‍💻. \X itself cuts क्ष in two before
# Unicode 15.1, and क्‌ष (with U+200C) to this day.
_EXTEND = r"\p{GCB=Extend}\p{GCB=ZWJ}"                                # what Unicode never cuts off, and so \X does not
_MARK = rf"[{_EXTEND}\p{{GCB=SpacingMark}}]"
AKSHARA = regex.compile(
    rf"[{CONSONANT}](?:{_MARK}*+(?<={HALANT}[{_EXTEND}]*)[{CONSONANT}])*+{_MARK}*+|\p{{Deva}}{_MARK}*+|\X")


def aksharas(text: str) -> list[str]:
    """The text in pieces, one for each akshara and each other character that a reader sees: भगवान् is भ ग वा न्."""
    return AKSHARA.findall(text)


class HindiTokenizer(BPETokenizer):
    """Byte pairs over normalized text, cut by the Indic pattern: decode(encode(s)) is normalize(s).

    to_hf() writes of normalize() what such a file can say, which is NFC: the ids are the same for normalized texts.
    """

    kind = "hindi"
    normalize, hf_normalizer = staticmethod(normalize), {"type": "NFC"}
