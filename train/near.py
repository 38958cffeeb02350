"""Which texts are nearly the same, by the runs of letters that they share.

A text is folded first: what is no Devanagari letter or sign goes, and so do differences that copyists make (ण न, श ष स,
व ब, य ज, a nasal, a nukta). Its shingles are all runs of so many letters in it; those that more than COMMON texts have
tell nothing apart and are left out. With A and B the shingles of two texts,

    Jaccard      |A & B| / |A | B|             1: the same; 3 of 4 shared is a copy with another spelling or two
    contained    |A & B| / min(|A|, |B|)       1: one is a part of the other, whatever else that one has

Found by sorting all shingles, so that texts which share one stand beside each other: every pair is found, and nothing
depends on luck.
"""
import re
from collections.abc import Iterable

import numpy as np

FOLD = str.maketrans({"ण": "न", "श": "स", "ष": "स", "व": "ब", "य": "ज", "ं": "", "ँ": "", "\u093c": ""})
OTHER = re.compile("[^\u0900-\u0963\u0971-\u097f]+")       # what no word of Devanagari has
BASE = np.uint64(0x9E3779B97F4A7C15)                       # odd: of its powers none is 0 modulo 2^64
COMMON = 100


def folded(text: str) -> str:
    return OTHER.sub("", text).translate(FOLD)


def shingles(text: str, letters: int) -> np.ndarray:
    """The shingles of a text as sorted, different numbers; a text with fewer letters is one shingle."""
    codes = np.frombuffer(folded(text).encode("utf-32-le"), np.uint32).astype(np.uint64)
    n = max(len(codes) - letters + 1, 1)
    found = np.zeros(n, np.uint64)
    for k in range(min(letters, len(codes))):
        found = (found ^ (found >> np.uint64(29))) * BASE + codes[k:k + n]
    return np.unique(found)


def pairs(texts: Iterable[str], letters: int = 5,
          common: int = COMMON) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(i, j, Jaccard, contained) as four arrays: of every two texts i < j that share a shingle which is not common."""
    sets = [shingles(text, letters) for text in texts]
    owner = np.repeat(np.arange(len(sets)), [len(s) for s in sets])
    marks = np.concatenate([np.empty(0, np.uint64), *sets])
    order = np.argsort(marks, kind="stable")
    marks, owner = marks[order], owner[order]
    starts = np.flatnonzero(np.append(True, marks[1:] != marks[:-1])) if len(marks) else np.empty(0, int)
    sizes = np.diff(np.append(starts, len(marks)))
    rare = np.repeat(sizes <= common, sizes)
    counts = np.bincount(owner[rare], minlength=len(sets))
    keys = [np.empty(0, np.int64)]
    for size in np.unique(sizes[(sizes > 1) & (sizes <= common)]):
        owners = owner[starts[sizes == size][:, None] + np.arange(size)]           # (groups, size), ascending
        a, b = np.triu_indices(size, 1)
        keys.append((owners[:, a] * len(sets) + owners[:, b]).ravel())
    keys, shared = np.unique(np.concatenate(keys), return_counts=True)
    i, j = np.divmod(keys, max(len(sets), 1))
    return (i, j, shared / (counts[i] + counts[j] - shared), shared / np.minimum(counts[i], counts[j]))


def firsts(texts: Iterable[str]) -> np.ndarray:
    """Of which texts no earlier one is the same, once folded, however often they come: a mask."""
    first = {}
    return np.array([first.setdefault(folded(text), k) == k for k, text in enumerate(texts)], bool)


def kept(n: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Which of n texts stay if the later one of each pair goes, provided that the earlier one stays: a mask."""
    stays, before = np.ones(n, bool), {}
    for a, b in zip(i.tolist(), j.tolist()):
        before.setdefault(b, []).append(a)
    for b in sorted(before):
        stays[b] = not stays[before[b]].any()
    return stays


def clusters(n: int, joined: Iterable[tuple[int, int]]) -> list[int]:
    """For each of n things the number of its cluster, which is that of its first member; the two of a pair that is
    joined are in the same one."""
    first = list(range(n))

    def root(x):
        while first[x] != x:
            first[x] = first[first[x]]
            x = first[x]
        return x
    for a, b in joined:
        a, b = sorted((root(a), root(b)))
        first[b] = a
    return [root(x) for x in range(n)]
