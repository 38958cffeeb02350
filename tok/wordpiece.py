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
alone.
A pair that stands only once is not joined. Of several, the more frequent one comes first, then the one whose tokens are
older, left one first. Counts are taken in the words, each as often as it stands.
"""
import unicodedata
from collections import Counter
from itertools import pairwise

import regex
from tqdm import tqdm

from tok.base import Tokenizer, check_special, each_text, refusal

INSIDE = "##"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SIGN = r"[\p{P}$+<=>^`|~]"                                # ASCII's signs, and what Unicode calls punctuation
WORD = regex.compile(rf"{SIGN}|(?:(?!{SIGN})\S)+")
LONGEST = 100                                            # characters of a word that is looked at
CACHED_WORDS = 1 << 16


class WordPieceTokenizer(Tokenizer):
    kind = "wordpiece"

    def __init__(self, vocab, unknown="[UNK]", special_tokens=SPECIAL):
        """vocab is a list of tokens in the order of their ids; the special ones, and unknown, are among them."""
        specials = check_special(special_tokens, "WordPieceTokenizer")
        self.vocab, self.unknown, self._cache = list(vocab), unknown, {}
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
        ids = []
        for word in WORD.findall(unicodedata.normalize("NFC", text)):
            part = self._cache.get(word)
            if part is None:
                if len(self._cache) >= CACHED_WORDS:
                    self._cache.clear()
                part = self._cache[word] = self.encode_word(word)
            ids += part
        return ids

    def encode_word(self, word):
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

    def _decode(self, ids):
        return " ".join(map(self.vocab.__getitem__, ids)).replace(" " + INSIDE, "")

    # where the vocabulary comes from

    @classmethod
    def train(cls, texts, vocab_size, unknown="[UNK]", special_tokens=SPECIAL, progress=False):
        """Learn a vocabulary from texts, a str or an iterable of str: special tokens, characters, joined pairs."""
        specials = check_special(special_tokens, "WordPieceTokenizer.train")
        words = Counter()
        for text in each_text(texts, "WordPieceTokenizer.train"):
            words.update(WORD.findall(unicodedata.normalize("NFC", text)))
        if not words:
            raise refusal("WordPieceTokenizer.train", "no text", "at least one character that is no white space")
        spelled = {word: [word[0], *(INSIDE + c for c in word[1:])] for word in words}
        vocab = list(dict.fromkeys([*specials, unknown]))
        vocab += sorted({token for tokens in spelled.values() for token in tokens} - set(vocab),
                        key=lambda token: (token.startswith(INSIDE), token))
        if not isinstance(vocab_size, int) or vocab_size < len(vocab):
            raise refusal("WordPieceTokenizer.train", f"vocab_size {vocab_size!r}",
                          f"a whole number from {len(vocab)} up", "special tokens and all characters are always in")
        with tqdm(total=vocab_size - len(vocab), desc="tokens", disable=not progress) as bar:
            learn(words, spelled, vocab, vocab_size, bar.update)
        return cls(vocab, unknown, specials)

    @classmethod
    def from_vocab(cls, path, unknown="[UNK]", special_tokens=SPECIAL):
        """The tokenizer of a vocab.txt as BERT's: one token on each line, its id is the line's number from 0."""
        with open(path, encoding="utf-8") as f:
            return cls(f.read().removesuffix("\n").split("\n"), unknown, special_tokens)

    # the file

    def content(self):
        return {"vocab": self.vocab, "unknown": self.unknown, "special": list(self.special)}

    @classmethod
    def from_content(cls, content):
        return cls(content["vocab"], content["unknown"], content["special"])


def learn(words, spelled, vocab, vocab_size, update):
    """Join pairs in the words of spelled ({word: tokens}) and add them to vocab, until it has that size."""
    ids = {token: i for i, token in enumerate(vocab)}
    while len(vocab) < vocab_size:
        single, double = Counter(), Counter()
        for word, tokens in spelled.items():
            for token in tokens:
                single[token] += words[word]
            for pair in pairwise(tokens):
                double[pair] += words[word]
        best = min((pair for pair in double if double[pair] > 1), default=None, key=lambda pair: (
            -double[pair] / (single[pair[0]] * single[pair[1]]), -double[pair], ids[pair[0]], ids[pair[1]]))
        if best is None:
            break
        joined = best[0] + best[1].removeprefix(INSIDE)
        for word, tokens in spelled.items():
            if best[0] in tokens:
                spelled[word] = join(tokens, best, joined)
        if joined not in ids:                            # it may have come about from other halves before
            ids[joined] = len(vocab)
            vocab.append(joined)
            update(1)


def join(tokens, pair, joined):
    """tokens with every pair, from left to right, replaced by joined."""
    found, i = [], 0
    while i < len(tokens):
        both = tuple(tokens[i:i + 2]) == pair
        found.append(joined if both else tokens[i])
        i += 1 + both
    return found
