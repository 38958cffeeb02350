"""One token per character, that is, per Unicode code point: the smallest tokenizer there is.

    t = CharTokenizer.train("abracadabra")
    t.encode("cab")                  # [2, 0, 1]: a b c d r are 0 1 2 3 4
    t.encode("cat")                  # an error: 't' is not in the vocabulary

In Devanagari a letter and the vowel sign after it are two code points, so की is two tokens.
"""
from tok.base import Tokenizer, check_special, each_text, refusal


class CharTokenizer(Tokenizer):
    kind = "char"

    def __init__(self, characters, unknown=None, special_tokens=()):
        """characters is a str in the order of the ids; unknown is the special token for all others, if any."""
        specials = check_special([*([] if unknown is None else [unknown]), *special_tokens], "CharTokenizer")
        self.vocab, self.unknown = [*characters, *specials], unknown
        self.special = {name: len(characters) + i for i, name in enumerate(specials)}
        self._ids = {c: i for i, c in enumerate(characters)}

    @classmethod
    def train(cls, texts, unknown=None, special_tokens=()):
        """The characters of texts (a str or an iterable of str), in the order of their code points."""
        characters = set().union(*each_text(texts, "CharTokenizer.train"))
        if not characters:
            raise refusal("CharTokenizer.train", "no text", "at least one character")
        return cls("".join(sorted(characters)), unknown, special_tokens)

    def _encode(self, text, at):
        if self.unknown is not None:
            unknown = self.special[self.unknown]
            return [self._ids.get(c, unknown) for c in text]
        try:
            return [self._ids[c] for c in text]
        except KeyError as e:
            c = e.args[0]
            raise refusal("encode", f"{c!r} (U+{ord(c):04X}) at offset {at + text.index(c)}",
                          f"one of the {len(self._ids)} characters of the training text",
                          'train with unknown="<unk>" to give such characters a token of their own') from None

    def _decode(self, ids):
        return "".join(map(self.vocab.__getitem__, ids))

    def content(self):
        return {"characters": "".join(self._ids), "unknown": self.unknown,
                "special": [name for name in self.special if name != self.unknown]}

    @classmethod
    def from_content(cls, content):
        return cls(content["characters"], content["unknown"], content["special"])
