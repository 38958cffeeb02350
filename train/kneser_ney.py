"""An interpolated Kneser-Ney model of aksharas: what counting can do, as a peer of a network that learns.

w is the next unit (an akshara, a space, a sign, the end), h the up to N - 1 units before it, h' the same without the
first, and c(hw) how often hw stands in the training texts. The longest h uses counts as they are; a shorter one counts
in how many contexts something stands, not how often, for a unit that follows one other only says little of new ones
(Kneser and Ney 1995):

    k(hw) = c(hw)                        if h has N - 1 units
          = |{v: c(vhw) > 0}|            else                                                                    [KN1]
    k(h.) = sum over w of k(hw),    t(h) = |{w: k(hw) > 0}|
    D     = n1 / (n1 + 2 n2)             of each length; n1, n2: how many k(hw) are 1, and 2; 1/2 if none is 1   [KN2]
    p(w | h) = (max(k(hw) - D, 0) + D t(h) p(w | h')) / k(h.)       p(w | h') where h never came                 [KN3]

Every context takes D from each of its units and gives what it took to the shorter context. The shortest, without any
unit, gives it to units that nobody has seen, which are spelled: with A characters and a stop, all alike,

    p(w | nothing) = (A + 1)^-(characters of w + 1)                                                              [KN4]

which sums to 1 over all strings. So every text has a probability, and -log2 of it are bits that can be compared with
those of any other model of the same text, however that one cuts it.

By hand, N = 2, one training text "a b a" ($ begins it, . ends it): of bigrams $a ab ba a. each stands once, so n1 = 4,
n2 = 0 and D = 1; unigrams follow so many different units: a 2 ($ and b), b 1, . 1, so k(.) = 4, t = 3, n1 = 2, n2 = 1,
D = 2/4. With A = 3, p(b | nothing) = 1/16:
    p(b) = (1 - 1/2 + 1/2 x 3 x 1/16) / 4 = 19/128        p(b | a) = (1 - 1 + 1 x 2 p(b)) / 2 = p(b) = 19/128

In arrays: number the n-grams by their first n - 1 units and the last one, a number and a unit; the n-gram that ends at
a place of the text has as its context the (n-1)-gram that ends one place before, and as its shorter self the one that
ends at the same place. [KN1] is then a count of numbers.
"""
from collections.abc import Iterable, Sequence

import numpy as np

from tok.hindi import AKSHARA, aksharas

ALPHABET = 160                                          # 128 code points of Devanagari, space, line break, signs
START, END = "", "\x03"                                 # units that no text has


class KneserNey:
    """p(unit | units before it) from training texts."""

    def __init__(self, texts: Sequence[str], order: int = 5) -> None:
        self.order, self.of = order, {START: 0, END: 1}
        for text in texts:
            for unit in aksharas(text):
                self.of.setdefault(unit, len(self.of))
        self.units = len(self.of) + 1                   # the last one stands for all others
        units, counted = self._numbers(texts)
        endings, contexts = [units + 1], [np.zeros(len(units), np.int64)]    # the n-gram that ends at each place,
        self.keys = []                                                       # and its context, by n; 0 is no n-gram
        for _ in range(order - 1):
            contexts.append(_before(endings[-1]))
            keys, numbers = np.unique(contexts[-1] * self.units + units, return_inverse=True)
            self.keys.append(keys)
            endings.append(numbers + 1)
        self.levels = []
        for n, (number, context) in enumerate(zip(endings, contexts), 1):
            places = np.flatnonzero(counted)
            if n < order:                               # [KN1]: of each longer n-gram one, for its shorter self
                places = places[np.unique(endings[n][places], return_index=True)[1]]
            self.levels.append(_Level(number[places], context[places]))

    def _numbers(self, texts):
        """All texts as one array of numbers of units, and which of its places are to be predicted."""
        numbers, counted = [], []
        for text in texts:
            some = [self.of.get(unit, self.units - 1) for unit in aksharas(text)] + [self.of[END]]
            numbers += [0] * (self.order - 1) + some
            counted += [False] * (self.order - 1) + [True] * len(some)
        return np.array(numbers, np.int64), np.array(counted, bool)

    def bits(self, texts: Iterable[str]) -> float:
        """-log2 of the probability of all texts together."""
        return float(-np.log2(self.probabilities(texts)).sum())

    def probabilities(self, texts: Iterable[str]) -> np.ndarray:
        """p of every unit of the texts and of their ends, in order."""
        texts = list(texts)
        units, counted = self._numbers(texts)
        spelled = [len(unit) for text in texts for unit in (*aksharas(text), END)]
        p = float(ALPHABET + 1) ** -(np.array(spelled) + 1.0)                                                   # [KN4]
        ending = np.where(units < self.units - 1, units + 1, 0)
        before = np.zeros(len(units), np.int64)                    # of the empty context, which is number 0
        for n, level in enumerate(self.levels, 1):
            if n > 1:
                before = _before(ending)
                keys = before * self.units + units
                at = np.minimum(np.searchsorted(self.keys[n - 2], keys), len(self.keys[n - 2]) - 1)
                known = self.keys[n - 2][at] == keys
                ending = np.where(known, at + 1, 0)
            p = level(ending[counted], before[counted], p)
        return p


class _Level:
    """[KN3] for contexts of one length."""

    def __init__(self, number, context):
        self.k, self.total = np.bincount(number), np.bincount(context)
        once = np.unique(number, return_index=True)[1]
        self.kinds = np.bincount(context[once], minlength=len(self.total))
        n1, n2 = ((self.k == times).sum() for times in (1, 2))
        self.discount = n1 / (n1 + 2 * n2) if n1 else 0.5                                                       # [KN2]

    def __call__(self, number, context, p):
        k, total, kinds = (_at(table, i) for table, i in ((self.k, number), (self.total, context),
                                                           (self.kinds, context)))
        d = self.discount
        return np.where(total > 0, (np.maximum(k - d, 0) + d * kinds * p) / np.maximum(total, 1), p)             # [KN3]


def _at(table, i):
    """table[i], and 0 beyond its end."""
    return np.where(i < len(table), table[np.minimum(i, len(table) - 1)], 0)


def _before(numbers):
    """What stands one place before each place."""
    return np.concatenate([[0], numbers[:-1]])


def count_of(texts: Iterable[str]) -> int:
    """How many aksharas of Devanagari the texts have: what bits are divided by."""
    return sum(unit[0] >= "\u0900" and unit[0] not in "।॥" for text in texts for unit in AKSHARA.findall(text))
