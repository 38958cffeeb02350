"""WordPiece: cut a word into the longest tokens that the vocabulary has, from left to right (Schuster & Nakajima 2012;
Wu et al. 2016, arXiv:1609.08144; the form is BERT's, Devlin et al. 2018, arXiv:1810.04805).

A token that stands inside a word is written with ## before it: राम, which begins a word, and ##राम are two tokens.
By hand, with the vocabulary  un  able  ##able  ##aff  ##affable:
    unaffable     un is the longest token at the head, ##affable the longest of what follows      un ##affable
    unable        un ##able
    unavoidable   after un nothing fits: the whole word is unknown                                [UNK]

Words are what white space separates, and every sign of punctuation is a word of its own. A text is brought to Unicode's
form NFC first. Nothing is lower-cased and no accent is dropped: in Devanagari the vowel signs are "accents". Where
white space was, and how much, is lost: decode() gives the words and signs with one space between them.

Training begins with all characters, as heads and with ##, and joins the pair of neighbours a, b with the highest
    score(a, b) = count(ab) / (count(a) count(b))
so a pair is worth joining if its parts are seldom apart, however rare they are; byte pair encoding looks at count(ab)
alone. Of several, the one whose tokens are older comes first, left one first. Counts are taken in the words, each as
often as it stands, and scores are float64: the product is rounded, then the quotient.

The highest scores belong to rare pairs, so by them alone a vocabulary fills up with parts of rare words. A pair that
stands fewer than min_count times is therefore not joined. The best min_count is about the highest that still fills the
vocabulary: for two million words of Hindi that is 10 for 30,000 tokens, and 170 for 4,096.

learn() below says this in a few lines, and counts everything again after every join. wordpiece_cpu.py finds the same
without that; tests hold the two against each other. No two joins spell the same token, for the reason in bpe.py.
"""
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from tqdm import tqdm

from tok import hf, split_cpu, wordpiece_cpu
from tok.base import Tokenizer, by_words, check_special, check_text, refusal, shaped, write_text
from tok.corpus import words_of
from tok.jit import announce
from tok.split import WHITE, WORDPIECE

INSIDE = "##"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LONGEST = 100                                            # characters of a word that is looked at


class WordPieceTokenizer(Tokenizer):
    kind = "wordpiece"

    def __init__(self, vocab: Iterable[str], unknown: str = "[UNK]", special_tokens: Iterable[str] = SPECIAL) -> None:
        """vocab is a list of tokens in the order of their ids; the special ones, and unknown, are among them."""
        specials = check_special(special_tokens, "WordPieceTokenizer")
        self.vocab, self.unknown, self._cache = list(vocab), unknown, {}
        for token in self.vocab:
            check_text(token, f"WordPieceTokenizer, token {token!r}")
        self._ids = {token: i for i, token in enumerate(self.vocab)}
        if len(self._ids) < len(self.vocab):
            twice = next(token for i, token in enumerate(self.vocab) if self._ids[token] != i)
            raise refusal("WordPieceTokenizer", f"token {twice!r} twice", "different tokens")
        for name in (unknown, *specials):
            if name not in self._ids:
                raise refusal("WordPieceTokenizer", f"special token {name!r}, which is not in vocab",
                              "special tokens that are in vocab", "special_tokens= says which there are")
        self.special = {name: self._ids[name] for name in dict.fromkeys((unknown, *specials))}
        self._longest = max(map(len, self.vocab))

    # text -> ids -> text

    def _encode(self, text, at):
        words = (word for word in split_cpu.pieces(nfc(text), WORDPIECE) if word[0] not in WHITE)
        return by_words(words, self.encode_word, self._cache)

    def encode_word(self, word: str) -> list[int]:
        """The ids of one word: the longest token, again and again."""
        ids, start, unknown = [], 0, [self._ids[self.unknown]]
        if len(word) > LONGEST:
            return unknown
        while start < len(word):
            head = INSIDE if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                i = self._ids.get(head + word[start:end])
                if i is not None and self.vocab[i] not in self.special:
                    break
            else:
                return unknown
            ids.append(i)
            start = end
        return ids

    def _decode(self, tokens):
        return "".join(self._stream(tokens))

    def _stream(self, tokens):
        """Before a token that begins a word stands a space, unless it is the first of all."""
        space = ""
        for token in tokens:
            yield token.removeprefix(INSIDE) if space and token.startswith(INSIDE) else space + token
            space = " "

    # where the vocabulary comes from

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, min_count: int = 10, unknown: str = "[UNK]",
              special_tokens: Iterable[str] = SPECIAL, progress: bool = False) -> "WordPieceTokenizer":
        """Learn a vocabulary from texts: special tokens, characters, joined pairs. texts is corpus.Files, a str, or an
        iterable of str."""
        specials = check_special(special_tokens, "WordPieceTokenizer.train")
        if progress:
            announce()
        text, edges, counts = words_of(texts, WORDPIECE, "WordPieceTokenizer.train", nfc).spelled()
        words = (text[a:b].tobytes().decode() for a, b in pairwise(edges))
        words = {word: n for word, n in zip(words, counts.tolist()) if word[0] not in WHITE}
        if not words:
            raise refusal("WordPieceTokenizer.train", "no text", "at least one character that is no white space")
        vocab = list(dict.fromkeys([*specials, unknown]))
        vocab += sorted({token for word in words for token in spell(word)} - set(vocab),
                        key=lambda token: (token.startswith(INSIDE), token))
        if not isinstance(vocab_size, int) or vocab_size < len(vocab):
            raise refusal("WordPieceTokenizer.train", f"vocab_size {vocab_size!r}",
                          f"a whole number from {len(vocab)} up", "special tokens and all characters are always in")
        if not isinstance(min_count, int) or min_count < 2:
            raise refusal("WordPieceTokenizer.train", f"min_count {min_count!r}", "a whole number from 2 up",
                          "a pair that stands only once makes nothing shorter that is seen again")
        with tqdm(total=vocab_size - len(vocab), desc="tokens", disable=not progress) as bar:
            vocab = wordpiece_cpu.learn(words, vocab, vocab_size, min_count, bar.update)
        return cls(vocab, unknown, specials)

    @classmethod
    def from_vocab(cls, path: str | Path, unknown: str = "[UNK]",
                   special_tokens: Iterable[str] = SPECIAL) -> "WordPieceTokenizer":
        """The tokenizer of a vocab.txt as BERT's: one token on each line, its id is the line's number from 0."""
        with open(path, encoding="utf-8", newline="") as f:
            return cls(f.read().replace("\r\n", "\n").removesuffix("\n").split("\n"), unknown, special_tokens)

    # the files

    def to_vocab(self, path: str | Path) -> None:
        """Write vocab.txt, which from_vocab() reads. It does not say which tokens are special."""
        if odd := [token for token in self.vocab if "\n" in token or not token]:
            raise refusal("to_vocab", f"the token {odd[0]!r}", "tokens that each fill a line")
        write_text(path, "".join(f"{token}\n" for token in self.vocab))

    def to_hf(self, folder: str | Path) -> None:
        hf.write_wordpiece(folder, self, INSIDE, LONGEST)

    @classmethod
    def from_hf(cls, path: str | Path) -> "WordPieceTokenizer":
        """The tokenizer of a tokenizer.json, or of the folder that has one, if it does what this one does."""
        with shaped(f"from_hf {path}", hf.WANT):
            return cls(*hf.read_wordpiece(path, INSIDE, LONGEST))

    def content(self) -> dict:
        return {"vocab": self.vocab, "unknown": self.unknown, "special": list(self.special)}

    @classmethod
    def from_content(cls, content: dict) -> "WordPieceTokenizer":
        return cls(content["vocab"], content["unknown"], content["special"])


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def spell(word: str) -> list[str]:
    """The characters of a word, as tokens."""
    return [word[0], *(INSIDE + c for c in word[1:])]


def learn(words: Mapping[str, int], vocab: Iterable[str], vocab_size: int, min_count: int) -> list[str]:
    """vocab, extended to vocab_size by joining pairs in the words, {word: count}, by the definition."""
    spelled, vocab = {word: spell(word) for word in words}, list(vocab)
    ids = {token: i for i, token in enumerate(vocab)}
    while len(vocab) < vocab_size:
        single, double = Counter(), Counter()
        for word, tokens in spelled.items():
            for token in tokens:
                single[token] += words[word]
            for pair in pairwise(tokens):
                double[pair] += words[word]
        best = min((pair for pair in double if double[pair] >= min_count), default=None, key=lambda pair: (
            -double[pair] / (float(single[pair[0]]) * float(single[pair[1]])), ids[pair[0]], ids[pair[1]]))
        if best is None:
            break
        joined = best[0] + best[1].removeprefix(INSIDE)
        spelled = {word: join(tokens, best, joined) for word, tokens in spelled.items()}
        if joined not in ids:                            # it may be the name of a special token
            ids[joined] = len(vocab)
            vocab.append(joined)
    return vocab


def join(tokens: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    """tokens with every pair, from left to right, replaced by joined."""
    found, i = [], 0
    while i < len(tokens):
        both = tuple(tokens[i:i + 2]) == pair
        found.append(joined if both else tokens[i])
        i += 1 + both
    return found
