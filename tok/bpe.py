"""Byte pair encoding: start from bytes; again and again, make the most frequent pair of neighbours a token.

By hand, on the word aaabdaaabac (a = 97, b = 98, c = 99, d = 100). A pair is counted at every place where it
stands, so aaa has two aa:
    aa stands 4 times, ab 2, the rest once          256 = aa        aa a b d aa a b a c
    aa·a and ab stand twice; ab has smaller ids     257 = ab        aa ab d aa ab a c
    aa·ab stands twice                              258 = aa·ab     aaab d aaab a c  =  [258, 100, 258, 97, 99]
    every pair is left once: the end

The rules in full. A text is first cut into words (split.py), and pairs never reach across a cut; so it is enough to
keep each distinct word once, with its count. The pair with the highest count is merged next; of several, the one with
the smallest ids, left id first. A pair that stands only once is not merged, as it would make nothing shorter that is
seen again; training then ends early, and vocab_size says with how much. A merge replaces its pair from left to
right. Encoding replays the merges that apply, in the order in which they were learned.

The vocabulary is 256 bytes, the merges in that order, the special tokens. Since all bytes are in it, every text has
ids, and no text needs an unknown token. No two tokens have the same bytes: a stretch of bytes that no merge
crossed has gone through the same merges wherever it stands, so it cannot have become one token here and two there.

Merges are written in numbers: a byte is its own, and merge k makes number 256 + k. The smaller the number, the sooner
it is merged. Which id a number has is another matter, and mostly the same number; but OpenAI put the bytes in another
order, and Hugging Face the special tokens in front.

learn() and apply() below say this in a few lines, and take it word for word: they count all pairs again after every
merge, and look at all pairs for the next one. bpe_cpu.py finds the same merges and the same ids without that, for
words that split.py's patterns cut; tests hold the two against each other.
"""
import base64
import binascii
import codecs
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import regex
from tqdm import tqdm

from tok import bpe_cpu, hf, split_cpu
from tok.base import Tokenizer, by_words, check_special, read_json, refusal, shaped
from tok.corpus import words_of
from tok.jit import announce
from tok.split import SPLITS, words_by

LARGEST = 1 << 26                       # bytes of all tokens: a damaged file could ask for 2^1000
FAR = float("inf")


class BPETokenizer(Tokenizer):
    kind = "bpe"
    normalize: Callable[[str], str] | None = None       # what is done to a text first
    hf_normalizer: dict | None = None                   # what of that Hugging Face's file says

    def __init__(self, merges: Iterable, split: str = SPLITS["indic"],
                 special_tokens: Iterable[str] = ("<|endoftext|>",), ids: Iterable[int] | None = None) -> None:
        """merges is a list of pairs of numbers, split a regular expression. ids: the id of every byte, of every merge
        and of every special token; without it they are counted through."""
        specials = check_special(special_tokens, "BPETokenizer")
        self.split, self._pattern = split, regex.compile(split)
        self.merges = {(left, right): 256 + k for k, (left, right) in enumerate(checked_merges(merges))}
        spelled = [bytes([b]) for b in range(256)]
        for left, right in self.merges:
            spelled.append(spelled[left] + spelled[right])
        spelled += [name.encode() for name in specials]
        self.ids = list(range(len(spelled))) if ids is None else checked_ids(ids, len(spelled))
        self.vocab = [None] * (max(self.ids) + 1)
        for i, token in zip(self.ids, spelled):
            self.vocab[i] = token
        self.special = dict(zip(specials, self.ids[256 + len(self.merges):]))
        self._split_number, self._caches, self._words = split_cpu.number_of(split), deque(), {}
        self.lines_apart = self._split_number is not None

    # text -> ids -> text

    def _encode(self, text, at):
        text = self.normalize(text) if self.normalize else text
        if self._split_number is None:                   # a pattern of somebody's own
            return by_words(words_by(self._pattern, text), self.encode_word, self._words)
        try:
            cache = self._caches.pop()
        except IndexError:                               # as many as ever encode at one time
            cache = bpe_cpu.Cache()
        try:
            return bpe_cpu.encode(np.frombuffer(text.encode(), np.uint8), split_cpu.kinds(), self._split_number,
                                  *self._tables, cache)
        finally:
            self._caches.append(cache)

    @cached_property
    def _tables(self) -> tuple[Any, np.ndarray]:
        return bpe_cpu.table_of(self.merges), np.array(self.ids, np.int32)

    def encode_word(self, word: str) -> list[int]:
        """The ids of one word, by the definition."""
        return [self.ids[number] for number in apply(self.merges, word.encode())]

    def _decode(self, tokens):
        """Bytes that are no UTF-8, as in a sample cut in the middle of a character, become U+FFFD."""
        return b"".join(tokens).decode(errors="replace")

    def _stream(self, tokens):
        """A character's first bytes wait for its last."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for token in tokens:
            yield decoder.decode(token)
        yield decoder.decode(b"", True)

    # where the merges come from

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, split: str = "indic",
              special_tokens: Iterable[str] = ("<|endoftext|>",), progress: bool = False) -> "BPETokenizer":
        """Learn the merges from texts: corpus.Files, a str, or an iterable of str. Special tokens there are plain text.
        """
        specials = check_special(special_tokens, "BPETokenizer.train")
        smallest = 256 + len(specials)
        if not isinstance(vocab_size, int) or vocab_size < smallest:
            raise refusal("BPETokenizer.train", f"vocab_size {vocab_size!r}", f"a whole number from {smallest} up",
                          f"256 bytes and {len(specials)} special tokens are always in")
        if split not in SPLITS:
            raise refusal("BPETokenizer.train", f"split {split!r}", f"one of {list(SPLITS)}")
        if progress:
            announce()
        words = words_of(texts, SPLITS[split], "BPETokenizer.train", cls.normalize)
        if not words:
            raise refusal("BPETokenizer.train", "no text", "at least one character")
        with tqdm(total=vocab_size - smallest, desc="merges", disable=not progress) as bar:
            merges = bpe_cpu.learn(*words.spelled(), vocab_size - smallest, bar.update)
        return cls(merges, SPLITS[split], specials)

    @classmethod
    def from_gpt2(cls, encoder_json: str | Path, vocab_bpe: str | Path) -> "BPETokenizer":
        """GPT-2's tokenizer with its own ids, from the two files that OpenAI published (given by path)."""
        ids: Any = read_json(encoder_json, "from_gpt2", "GPT-2's encoder.json")
        if not isinstance(ids, dict):
            raise refusal(f"from_gpt2 {encoder_json}", f"a {type(ids).__name__}", "{token: id}")
        with open(vocab_bpe, encoding="utf-8") as f:
            _version, *lines = f.read().splitlines() or [""]
        names = [*hf.gpt2_bytes(), *(line.replace(" ", "") for line in lines)]
        special = sorted(set(ids) - set(names), key=ids.__getitem__)
        if {name: i for i, name in enumerate([*names, *special])} != ids:
            raise refusal("from_gpt2", f"{len(ids)} tokens in {encoder_json} and {len(lines)} merges in {vocab_bpe}",
                          "256 bytes, then the merges in their order, then special tokens",
                          "are both files from the same release?")
        where = f"from_gpt2 {vocab_bpe}"
        pairs = [hf.bytes_of(line.split(" "), where) for line in lines]
        tokens = dict(zip(hf.bytes_of(names, where), range(len(names))))
        return cls._from_pairs(where, pairs, tokens, SPLITS["gpt2"], {name: ids[name] for name in special})

    @classmethod
    def from_tiktoken(cls, path: str | Path, split: str = "gpt4",
                      special_tokens: Mapping[str, int] | Iterable[tuple[str, int]] = ()) -> "BPETokenizer":
        """A tokenizer from a file of ranks as tiktoken reads it: on each line a token in base64 and its id.

        split is a name or a pattern, special_tokens is {name: id}: neither is in the file. cl100k_base, of GPT-4, has
        {"<|endoftext|>": 100257, "<|fim_prefix|>": 100258, "<|fim_middle|>": 100259, "<|fim_suffix|>": 100260,
        "<|endofprompt|>": 100276}.
        """
        where, special = f"from_tiktoken {path}", dict(special_tokens)
        ranks = read_ranks(path, where)
        longer = [token for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1]
        tokens = [bytes([b]) for b in range(256)] + longer
        return cls(merges_of(longer, where), SPLITS.get(split, split), special,
                   [*map(ranks.__getitem__, tokens), *special.values()])

    @classmethod
    def from_hf(cls, path: str | Path) -> "BPETokenizer":
        """The tokenizer of a tokenizer.json, or of the folder that has one, if it is byte-level BPE.

        What it adds around a text, as <s>, is left to the caller.
        """
        with shaped(f"from_hf {path}", hf.WANT):
            return cls._from_pairs(*hf.read_bpe(path, cls.hf_normalizer))

    @classmethod
    def _from_pairs(cls, where, pairs, ids, split, special, whole_words_first=False):
        """pairs of tokens in the order in which they are merged, {token: id}, {special token: id}; tokens are bytes.

        A file that was made from tiktoken's lists every pair that makes a token.
        """
        made = dict.fromkeys(left + right for left, right in pairs)
        number = {token: k for k, token in enumerate([*(bytes([b]) for b in range(256)), *made])}
        if strange := set(ids) ^ set(number):
            raise refusal(where, f"the token {min(strange)!r} in the vocabulary or in the merges alone", "it in both")
        try:
            merges = [(number[left], number[right]) for left, right in pairs]
        except KeyError as e:
            raise refusal(where, f"the merge of {e.args[0]!r}, which is no token", "merges of tokens") from None
        if whole_words_first or len(made) < len(pairs):
            listed, merges = set(merges), merges_of(made, where)
            if unlisted := [pair for pair in merges if pair not in listed]:
                raise refusal(where, f"a token that no merge makes of {unlisted[0]}", "each token's own pair")
        return cls(merges, split, special, [*map(ids.__getitem__, number), *special.values()])

    # the files

    def content(self) -> dict:
        ids = None if self.ids == list(range(len(self.ids))) else self.ids
        return {"split": self.split, "merges": [list(pair) for pair in self.merges], "special": list(self.special),
                "ids": ids}

    @classmethod
    def from_content(cls, content: dict) -> "BPETokenizer":
        return cls(content["merges"], content["split"], content["special"], content["ids"])

    def to_hf(self, folder: str | Path) -> None:
        hf.write_bpe(folder, self, self.hf_normalizer)


def checked_merges(merges: Iterable) -> list[tuple[int, int]]:
    """merges as a list of pairs, each of numbers that are there before it, none twice, with tokens of some size."""
    pairs, sizes = [], [1] * 256
    for pair in merges:
        left, right = pair if isinstance(pair, (list, tuple)) and len(pair) == 2 else (None, None)
        if not (type(left) is type(right) is int and 0 <= left < len(sizes) and 0 <= right < len(sizes)):
            raise refusal(f"BPETokenizer, merge {len(pairs)}", f"{pair!r}",
                          f"a pair of whole numbers from 0 to {len(sizes) - 1}")
        pairs.append((left, right))
        sizes.append(sizes[left] + sizes[right])
    if len(set(pairs)) < len(pairs):
        twice = Counter(pairs).most_common(1)[0][0]
        raise refusal("BPETokenizer", f"the merge {twice} twice", "different merges")
    if sum(sizes) > LARGEST:
        raise refusal("BPETokenizer", f"tokens of {sum(sizes):,} bytes in all", f"at most {LARGEST:,}")
    return pairs


def checked_ids(ids: Iterable[int], n: int) -> list[int]:
    """ids as a list of n different whole numbers, not much larger than they must be."""
    ids = list(ids)
    for i in ids:
        if type(i) is not int or not 0 <= i < 2 * n + 1024:
            raise refusal("BPETokenizer", f"id {i!r}", f"whole numbers from 0 to {2 * n + 1023}")
    if len(ids) != n or len(set(ids)) < n:
        raise refusal("BPETokenizer", f"{len(set(ids))} different ids",
                      f"{n}: of 256 bytes, {n - 256} merges and special tokens")
    return ids


def read_ranks(path: str | Path, where: str) -> dict[bytes, int]:
    """{token: id} from a file of ranks."""
    ranks = {}
    with open(path, "rb") as f:
        for n, line in enumerate(f, 1):
            if not line.strip():
                continue
            try:
                token, rank = line.split()
                token = base64.b64decode(token, validate=True)
                if not token or token in ranks:
                    raise ValueError
                ranks[token] = int(rank)
            except (ValueError, binascii.Error):
                raise refusal(f"{where}, line {n}", f"{line[:60]!r}", "another token in base64, a space and its id"
                              ) from None
    if missing := [b for b in range(256) if bytes([b]) not in ranks]:
        raise refusal(where, f"no token for the byte 0x{missing[0]:02x}", "one for each of the 256 bytes")
    return ranks


def merges_of(tokens: Iterable[bytes], where: str) -> list[tuple[int, int]]:
    """The merges that make these tokens, bytes in the order in which they are merged, if any two neighbours that make a
    token may be merged into it.

    A token's pair is what is left of it when all tokens before it have been merged in it. For whenever two neighbours
    make the token in any text, no merge has crossed its ends, so inside it has gone as it goes alone.
    """
    merges = {}
    for token in tokens:
        pair = tuple(apply(merges, token))
        if len(pair) != 2:
            raise refusal(where, f"the token {token!r}, which is {len(pair)} tokens of those before it", "two",
                          "it is no vocabulary of byte pairs")
        merges[pair] = 256 + len(merges)
    return list(merges)


def apply(merges: Mapping[tuple[int, int], int], word: bytes) -> list[int]:
    """The numbers of a word, which is bytes: the pair with the lowest number is merged, again and again."""
    numbers = list(word)
    while len(numbers) > 1:
        first = min(pairwise(numbers), key=lambda pair: merges.get(pair, FAR))
        if first not in merges:
            break
        numbers = merge(numbers, first, merges[first])
    return numbers


def merge(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """ids with every pair, from left to right, replaced by new."""
    merged, i = [], 0
    while i < len(ids):
        if ids[i] == pair[0] and ids[i + 1:i + 2] == [pair[1]]:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def learn(words: Mapping[str, int], n: int) -> list[tuple[int, int]]:
    """Up to n merges, as id pairs, from {word: count}, by the definition."""
    spelled, merges = {word: list(word.encode()) for word in words}, []
    while len(merges) < n:
        counts = Counter()
        for word, ids in spelled.items():
            for pair in pairwise(ids):
                counts[pair] += words[word]
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        spelled = {word: merge(ids, best, 256 + len(merges)) for word, ids in spelled.items()}
        merges.append(best)
    return merges
