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

learn() and encode_word() below say this in a few lines, and take it word for word: they count all pairs again after
every merge, and look at all pairs for the next one. bpe_cpu.py finds the same merges and the same ids without that, for
words that split.py's patterns cut; tests hold the two against each other.
"""
import json
import threading
from collections import Counter
from functools import cached_property
from itertools import pairwise

import numpy as np
import regex
from tqdm import tqdm

from tok import bpe_cpu, split_cpu
from tok.base import Tokenizer, check_special, each_text, refusal
from tok.split import SPLITS


class BPETokenizer(Tokenizer):
    kind = "bpe"

    def __init__(self, merges, split=SPLITS["indic"], special_tokens=("<|endoftext|>",), byte_order=bytes(range(256))):
        """merges is a list of id pairs, split a regular expression; the byte with id i is byte_order[i]."""
        specials = check_special(special_tokens, "BPETokenizer")
        self.split, self._pieces = split, regex.compile(split)
        self.byte_order = byte_order
        self.vocab = [bytes([b]) for b in byte_order]
        for left, right in merges:
            self.vocab.append(self.vocab[left] + self.vocab[right])
        self.merges = {(left, right): i for i, (left, right) in enumerate(merges, 256)}
        self.special = {name: len(self.vocab) + i for i, name in enumerate(specials)}
        self.vocab += [name.encode() for name in specials]
        self._byte_ids = np.argsort(np.frombuffer(byte_order, np.uint8)).astype(np.int32)      # the inverse: byte -> id
        self._split_number, self._own = split_cpu.number_of(split), threading.local()

    # text -> ids -> text

    def _encode(self, text, at):
        if self._split_number is None:                   # a pattern of somebody's own
            return [i for word in self._pieces.findall(text) for i in self.encode_word(word)]
        if not hasattr(self._own, "cache"):
            self._own.cache = bpe_cpu.Cache()            # of words, one for each thread
        return bpe_cpu.encode(np.frombuffer(text.encode(), np.uint8), split_cpu.kinds(), self._split_number,
                              self._table, self._byte_ids, self._own.cache)

    @cached_property
    def _table(self):
        return bpe_cpu.table_of(self.merges)

    def encode_word(self, word):
        """The ids of one word, by the definition."""
        ids = self._byte_ids[list(word.encode())].tolist()
        while len(ids) > 1:
            first = min(pairwise(ids), key=lambda pair: self.merges.get(pair, len(self.vocab)))
            if first not in self.merges:
                break
            ids = merge(ids, first, self.merges[first])
        return ids

    def _decode(self, ids):
        """Bytes that are no UTF-8, as in a sample cut in the middle of a character, become U+FFFD."""
        return b"".join(map(self.vocab.__getitem__, ids)).decode(errors="replace")

    # where the merges come from

    @classmethod
    def train(cls, texts, vocab_size, split="indic", special_tokens=("<|endoftext|>",), progress=False):
        """Learn the merges from texts, a str or an iterable of str, in which special tokens are plain text."""
        specials = check_special(special_tokens, "BPETokenizer.train")
        smallest = 256 + len(specials)
        if not isinstance(vocab_size, int) or vocab_size < smallest:
            raise refusal("BPETokenizer.train", f"vocab_size {vocab_size!r}", f"a whole number from {smallest} up",
                          f"256 bytes and {len(specials)} special tokens are always in")
        if split not in SPLITS:
            raise refusal("BPETokenizer.train", f"split {split!r}", f"one of {list(SPLITS)}")
        words, kinds, number = bpe_cpu.Words(), split_cpu.kinds(), split_cpu.number_of(SPLITS[split])
        for text in each_text(texts, "BPETokenizer.train"):
            words.add(np.frombuffer(text.encode(), np.uint8), kinds, number)
        if not words:
            raise refusal("BPETokenizer.train", "no text", "at least one character")
        with tqdm(total=vocab_size - smallest, desc="merges", disable=not progress) as bar:
            merges = bpe_cpu.learn(*words.spelled(), vocab_size - smallest, bar.update)
        return cls(merges, SPLITS[split], specials)

    @classmethod
    def from_gpt2(cls, encoder_json, vocab_bpe):
        """GPT-2's tokenizer with its own ids, from the two files that OpenAI published (given by path)."""
        with open(encoder_json, encoding="utf-8") as f:
            ids = json.load(f)
        with open(vocab_bpe, encoding="utf-8") as f:
            _version, *lines = f.read().splitlines()
        byte = gpt2_bytes()
        names = [*byte, *(line.replace(" ", "") for line in lines)]
        special = sorted(set(ids) - set(names), key=ids.get)
        if {name: i for i, name in enumerate([*names, *special])} != ids:
            raise refusal("from_gpt2", f"{len(ids)} tokens in {encoder_json} and {len(lines)} merges in {vocab_bpe}",
                          "256 bytes, then the merges in their order, then special tokens",
                          "are both files from the same release?")
        merges = [tuple(ids[part] for part in line.split(" ")) for line in lines]
        return cls(merges, SPLITS["gpt2"], special, bytes(byte.values()))

    # the file

    def content(self):
        return {"split": self.split, "bytes": self.byte_order.hex(), "merges": [list(pair) for pair in self.merges],
                "special": list(self.special)}

    @classmethod
    def from_content(cls, content):
        return cls(content["merges"], content["split"], content["special"], bytes.fromhex(content["bytes"]))


def merge(ids, pair, new):
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


def learn(words, n):
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


def gpt2_bytes():
    """{character: byte}, in the order of GPT-2's ids. Its files write every byte as a printable character: itself where
    it is one in Latin-1, and the others as U+0100, U+0101 and so on, which is why a space looks like Ġ there."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
