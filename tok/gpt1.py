r"""GPT-1's tokenizer: byte pair encoding as it was before bytes, on the characters of lower-cased words (Sennrich et
al. 2016, arXiv:1508.07909).

The last character of a word carries </w>, so that a token knows whether a word ends with it. By hand, with the merges
l o, lo w</w>, e r</w> in this order:
    low      l o w</w>       lo w</w>         low</w>
    lower    l o w e r</w>   lo w e r</w>     lo w er</w>
Of all pairs that stand in a word the one that was learned first is merged, again and again. A character that the
vocabulary does not have is <unk>.

Words are what white space separates, and every sign of punctuation is a word. Before that a text is cleaned as BERT's
is, which is how transformers reads it: control characters are dropped, Chinese characters stand alone, accents are
taken off, capitals are made small. So decode() gives words and signs with one space between them, in small letters;
and Devanagari, whose vowel signs count as accents, does not survive. For Hindi there is tok/hindi.py.

Trained vocabularies are read here, and none is trained: BPETokenizer does the same without losing anything.
"""
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import regex

from tok import hf
from tok.base import Tokenizer, by_words, check_text, read_json, refusal, shaped
from tok.split import SIGN

END_OF_WORD = "</w>"
WORD = regex.compile(rf"{SIGN}|(?:(?!{SIGN})\S)+")
DROPPED = regex.compile(r"[\0\ufffd]|(?![\t\n\r])[\p{Cc}\p{Cf}\p{Co}]")
CHINESE = regex.compile("([\u4e00-\u9fff\u3400-\u4dbf\U00020000-\U0002a6df\U0002a700-\U0002b73f\U0002b740-\U0002b81f"
                        "\U0002b820-\U0002ceaf\uf900-\ufaff\U0002f800-\U0002fa1f])")
FAR = float("inf")


def clean(text: str) -> str:
    """What is cut into words: BERT's cleaning, without accents, in small letters."""
    text = CHINESE.sub(r" \1 ", DROPPED.sub("", text))
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return "".join(map(str.lower, text))                 # one by one: no rule looks at the neighbours of a Σ


class GPT1Tokenizer(Tokenizer):
    kind = "gpt1"

    def __init__(self, vocab: Iterable[str], merges: Iterable, unknown: str = "<unk>") -> None:
        """vocab is a list of tokens in the order of their ids, merges a list of pairs of them."""
        self.vocab, self.unknown, self._cache = list(vocab), unknown, {}
        self._ids = {token: i for i, token in enumerate(self.vocab)}
        for token in self.vocab:
            check_text(token, "GPT1Tokenizer, a token")
        if len(self._ids) < len(self.vocab):
            raise refusal("GPT1Tokenizer", "a token twice", "different tokens")
        if unknown not in self._ids:
            raise refusal("GPT1Tokenizer", f"a vocabulary without {unknown!r}", "one with it, for what has no token")
        self.special, self.merges = {unknown: self._ids[unknown]}, [tuple(pair) for pair in merges]
        self._ranks = {pair: k for k, pair in enumerate(self.merges)}
        for pair in self.merges:
            absent = [token for token in (*pair, "".join(pair)) if token not in self._ids]
            if len(pair) != 2 or absent:
                raise refusal("GPT1Tokenizer", f"the merge {pair!r}", "two tokens that make a third",
                              f"{absent[0]!r} is not in the vocabulary" if absent else "")

    def _encode(self, text, at):
        return by_words(WORD.findall(clean(text)), self.encode_word, self._cache)

    def encode_word(self, word: str) -> list[int]:
        """The ids of one word."""
        tokens = [*word[:-1], word[-1] + END_OF_WORD]
        tokens = [token if token in self._ids else None for token in tokens]             # None: no pair has it
        ranks = [self._ranks.get(pair, FAR) for pair in zip(tokens, tokens[1:])]
        while ranks and (least := min(ranks)) < FAR:
            i = ranks.index(least)
            tokens[i:i + 2] = [tokens[i] + tokens[i + 1]]  # type: ignore[operator]      # no None has a rank
            near = tokens[max(i - 1, 0):i + 2]             # what is joined, and its neighbours
            ranks[max(i - 1, 0):i + 2] = [self._ranks.get(pair, FAR) for pair in zip(near, near[1:])]
        return [self._ids[self.unknown if token is None else token] for token in tokens]

    def _decode(self, tokens):
        return "".join(self._stream(tokens))

    def _stream(self, tokens):
        """A space follows the end of a word, before whatever comes next."""
        space = ""
        for token in tokens:
            yield space + token.removesuffix(END_OF_WORD)
            space = " " if token.endswith(END_OF_WORD) else ""

    @classmethod
    def from_files(cls, vocab_json: str | Path, merges_txt: str | Path) -> "GPT1Tokenizer":
        """GPT-1's two files, by path: {token: id}, and a pair of tokens on each line behind the first."""
        ids = read_json(vocab_json, "from_files", "GPT-1's vocab.json")
        with open(merges_txt, encoding="utf-8") as f:
            lines = [line for line in f.read().split("\n")[1:] if line]
        with shaped(f"from_files {vocab_json}", "{token: id}"):
            vocab = hf.counted(f"from_files {vocab_json}", ids)
        return cls(vocab, [line.split(" ") for line in lines])

    def to_hf(self, folder: str | Path) -> None:
        hf.write_gpt1(folder, self, END_OF_WORD)

    @classmethod
    def from_hf(cls, path: str | Path) -> "GPT1Tokenizer":
        """The tokenizer of a tokenizer.json, or of the folder that has one, if it does what this one does."""
        with shaped(f"from_hf {path}", hf.WANT):
            return cls(*hf.read_gpt1(path, END_OF_WORD))

    def content(self) -> dict:
        return {"vocab": self.vocab, "merges": [list(pair) for pair in self.merges], "unknown": self.unknown}

    @classmethod
    def from_content(cls, content: dict) -> "GPT1Tokenizer":
        return cls(content["vocab"], content["merges"], content["unknown"])
