"""One token per character, in one of two senses: a Unicode code point, or what a reader sees as one.

    t = CharTokenizer.train("abracadabra")
    t.encode("cab")                  # [2, 0, 1]: a b c d r are 0 1 2 3 4
    t.encode("cat")                  # an error: 't' is not in the vocabulary

In Devanagari a letter and the vowel sign after it are two code points, so की is two tokens. unit="akshara" makes it one
(tok.hindi says what an akshara is):
    unit="code point"    क्षत्रिय        क|्|ष|त|्|र|ि|य     8 tokens; the Ramcharitmanas is written with 63 different ones
    unit="akshara"       क्षत्रिय        क्ष|त्रि|य            3 tokens; the same text has 1,007
Either way decode(encode(s)) == s. By code points encode(a) + encode(b) == encode(a + b) too; by aksharas only if none
reaches from a into b, as की does from क into ी.
"""
from collections.abc import Iterable
from pathlib import Path

from tok import hf
from tok.base import Tokenizer, check_special, check_text, each_text, refusal, shaped
from tok.hindi import aksharas

UNITS = {"code point": list, "akshara": aksharas}       # unit -> what cuts a text into such


class CharTokenizer(Tokenizer):
    kind = "char"

    def __init__(self, tokens: str | Iterable[str], unknown: str | None = None, special_tokens: Iterable[str] = (),
                 unit: str = "code point") -> None:
        """tokens is a str or a list of units, in the order of the ids; unknown is the special token for all others."""
        specials = check_special([*([] if unknown is None else [unknown]), *special_tokens], "CharTokenizer")
        self.unit, self.unknown, self._cut = unit, unknown, _cutter(unit, "CharTokenizer")
        tokens = self._cut(tokens) if isinstance(tokens, str) else list(tokens)
        self._ids = {}
        for i, token in enumerate(tokens):
            check_text(token, f"CharTokenizer, token {i}")
            if self._cut(token) != [token]:              # no text has it as a unit: it would never be used
                raise refusal("CharTokenizer", f"token {token!r}", f"exactly one {unit}")
            if self._ids.setdefault(token, i) != i:
                raise refusal("CharTokenizer", f"token {token!r} twice", "different tokens")
        self.vocab = [*tokens, *specials]
        if not self.vocab:
            raise refusal("CharTokenizer", "no tokens", "at least one")
        self.special = {name: len(tokens) + i for i, name in enumerate(specials)}

    @classmethod
    def train(cls, texts: Iterable[str], unknown: str | None = None, special_tokens: Iterable[str] = (),
              unit: str = "code point") -> "CharTokenizer":
        """The units of texts (a str or an iterable of str), in the order of their code points."""
        cut = _cutter(unit, "CharTokenizer.train")
        tokens = set().union(*map(cut, each_text(texts, "CharTokenizer.train")))
        if not tokens:
            raise refusal("CharTokenizer.train", "no text", "at least one character")
        return cls(sorted(tokens), unknown, special_tokens, unit)

    def _encode(self, text, at):
        units = self._cut(text)
        if self.unknown is not None:
            unknown = self.special[self.unknown]
            return [self._ids.get(u, unknown) for u in units]
        try:
            return [self._ids[u] for u in units]
        except KeyError as e:
            u = e.args[0]
            offset = at + sum(map(len, units[:units.index(u)]))
            raise refusal("encode", f"{u!r} ({' '.join(f'U+{ord(c):04X}' for c in u)}) at offset {offset}",
                          f"one of the {len(self._ids)} {'characters' if self.unit == 'code point' else 'aksharas'} "
                          "of the training text",
                          'train with unknown="<unk>" to give such characters a token of their own') from None

    def _decode(self, tokens):
        return "".join(tokens)

    def to_hf(self, folder: str | Path) -> None:
        hf.write_char(folder, self)

    @classmethod
    def from_hf(cls, path: str | Path) -> "CharTokenizer":
        """The tokenizer of a tokenizer.json, or of the folder that has one, if it does what this one does."""
        with shaped(f"from_hf {path}", hf.WANT):
            return cls(*hf.read_char(path))

    def content(self) -> dict:
        return {"tokens": list(self._ids), "unit": self.unit, "unknown": self.unknown,
                "special": [name for name in self.special if name != self.unknown]}

    @classmethod
    def from_content(cls, content: dict) -> "CharTokenizer":
        for name in ("tokens", "special"):               # a str would be taken apart into what it is not
            if not isinstance(content[name], list):
                raise refusal("CharTokenizer", f"{name!r} that is {type(content[name]).__name__}", "a list")
        return cls(content["tokens"], content["unknown"], content["special"], content["unit"])


def _cutter(unit, where):
    if unit not in list(UNITS):                          # a list: what cannot be hashed is refused too
        raise refusal(where, f"unit {unit!r}", f"one of {list(UNITS)}")
    return UNITS[unit]
