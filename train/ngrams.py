"""What n-grams of words say of texts: BLEU, how alike they are, how much they repeat, how much they copy.

BLEU-4 of a set of texts against references (Papineni et al. 2002), with p_n the share of n-grams of the texts that
their references have (each at most as often as in the one reference that has it most), c the words of all texts and r
those of the references, of each text the one nearest in length:

    BLEU = min(1, e^(1 - r/c)) (p_1 p_2 p_3 p_4)^(1/4)                                                           [BL1]

Where no n-gram of a length is right, p_n is 1 / (2^k n-grams), k = 1, 2, ... for the lengths of which that is so: what
sacrebleu calls exponential smoothing, and its numbers are these if it is given texts as words() cuts them and
tokenize="none". Where no word is right, BLEU is 0. Words are runs of Devanagari; each sign is a word of its own.
"""
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from train.near import folded, shingles

WORDS = re.compile("[\u0900-\u0963\u0970-\u097f]+|[^\\s\u0900-\u0963\u0970-\u097f]")
LONGEST = 4
LETTERS, NEAR = 3, 0.5                                    # of a shingle of a line; what two lines share at least


def words(text: str) -> list[str]:
    return WORDS.findall(text)


def ngrams(text: Sequence, n: int) -> Counter:
    return Counter(zip(*(text[k:] for k in range(n))))


def bleu(texts: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    """[BL1] of texts, each a list of words, and for each a list of references."""
    right, all_of, c, r = [0] * LONGEST, [0] * LONGEST, 0, 0
    for text, own in zip(texts, references):
        c += len(text)
        r += min((len(ref) for ref in own), key=lambda length: (abs(length - len(text)), length))
        for n in range(1, LONGEST + 1):
            most = Counter()
            for ref in own:
                most |= ngrams(ref, n)
            right[n - 1] += (ngrams(text, n) & most).total()
            all_of[n - 1] += max(len(text) - n + 1, 0)
    return _combined(right, all_of, c, r)


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """[BL1] of each text against all others as its references, all in one: 1 if they are all alike."""
    lengths = Counter(map(len, texts))
    right, all_of, c, r = [0] * LONGEST, [0] * LONGEST, 0, 0
    for n in range(1, LONGEST + 1):
        counts = [ngrams(text, n) for text in texts]
        most = defaultdict(lambda: (0, -1, 0))               # the highest count, whose it is, the next highest
        for k, some in enumerate(counts):
            for gram, times in some.items():
                first, whose, second = most[gram]
                most[gram] = (times, k, first) if times > first else (first, whose, max(second, times))
        for k, some in enumerate(counts):
            right[n - 1] += sum(min(times, most[gram][2 if most[gram][1] == k else 0]) for gram, times in some.items())
            all_of[n - 1] += some.total()
    for text in texts:
        c += len(text)
        others = [length for length, times in lengths.items() if times > (length == len(text))]
        r += min(others, key=lambda length: (abs(length - len(text)), length))
    return _combined(right, all_of, c, r)


def _combined(right, all_of, c, r):
    if not all(all_of) or not any(right):
        return 0.0
    missing, logs = 0, []
    for good, n in zip(right, all_of):
        missing += not good
        logs.append(math.log(good / n if good else 1 / (2 ** missing * n)))
    return min(1.0, math.exp(1 - r / c)) * math.exp(sum(logs) / LONGEST)


def distinct(texts: Iterable[Sequence[str]], n: int) -> float:
    """The share of different n-grams among all n-grams of all texts."""
    counts = Counter()
    for text in texts:
        counts.update(ngrams(text, n))                     # += would look at all counts again
    return len(counts) / max(1, counts.total())


class Copies:
    """What of other texts stands word for word, or nearly so, in these, once folded (near.py)."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.lines, self.words, self.places = set(), [], defaultdict(list)
        for text in texts:
            self.lines |= set(_lines(text))
            self.words += [*_folded(text), None]               # nothing reaches across the end of a text
        for i, pair in enumerate(zip(self.words, self.words[1:])):
            if None not in pair:
                self.places[pair].append(i)

        sets = [shingles(line, LETTERS) for line in sorted(self.lines)]
        marks, self.sizes = np.concatenate([np.empty(0, np.uint64), *sets]), np.array([*map(len, sets)], int)
        order = np.argsort(marks, kind="stable")
        self.marks, self.owner = marks[order], np.repeat(np.arange(len(sets)), self.sizes)[order]

    def near(self, text: str) -> int:
        """How many of its lines have a Jaccard index of NEAR or more with one of the texts, as with a word changed?"""
        return sum(line in self.lines or bool(self._jaccard(line) >= NEAR) for line in _lines(text))

    def _jaccard(self, line):
        """Of shingles, with the line of the texts that is most like this one."""
        own = shingles(line, LETTERS)
        starts, ends = (np.searchsorted(self.marks, own, side) for side in ("left", "right"))
        shared = np.bincount(np.concatenate([np.empty(0, int), *(self.owner[a:b] for a, b in zip(starts, ends))]))
        return np.max(shared / (len(own) + self.sizes[:len(shared)] - shared), initial=0)

    def copied(self, text: str) -> tuple[int, int]:
        """(lines that are in one of the texts, lines)."""
        lines = _lines(text)
        return sum(line in self.lines for line in lines), len(lines)

    def longest(self, text: str) -> int:
        """The most words in a row of the text that stand so in one of the texts; less than two do not count."""
        found, best = _folded(text), 0
        for start in range(len(found) - 1):
            for i in self.places.get((found[start], found[start + 1]), ()):
                n = 2
                while start + n < len(found) and found[start + n] == self.words[i + n]:
                    n += 1
                best = max(best, n)
        return best


def _lines(text):
    return [line for line in map(folded, re.split("[।॥\n]+", text)) if line]


def _folded(text):
    return [word for word in map(folded, text.split()) if word]
