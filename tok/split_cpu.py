"""The patterns of split.py as a scanner in Numba, over the bytes of UTF-8: what `regex` finds, found faster.

cut(text, i, kinds, split) is the end of the piece that begins at byte i. A pattern's alternatives are tried in their
order, so the code of a piece is the pattern read from left to right; each says which part of it a line stands for.
What kind of character a code point is, `regex` is asked once for all of them.
"""
import functools

import numpy as np
import regex

from tok.jit import jit, plain
from tok.split import SIGN, SPLITS, WORDPIECE

LETTER, MARK, NUMBER, SPACE, JOINER, BREAK, ALONE = (1 << i for i in range(7))
KINDS = {LETTER: r"\p{L}+", MARK: r"\p{M}+", NUMBER: r"\p{N}+", SPACE: r"\s+", JOINER: "[\u200c\u200d]+",
         BREAK: r"[\r\n]+", ALONE: f"{SIGN}+"}
PATTERNS = [SPLITS["indic"], SPLITS["gpt2"], SPLITS["gpt4"], WORDPIECE]
INDIC, GPT2, GPT4, BERT = range(4)


@functools.cache
def kinds():
    """For every code point, the sum of what it is. (0x110000,)"""
    points = np.r_[0:0xd800, 0xe000:0x110000].astype("<u4")             # all but surrogates, which no UTF-8 holds
    every, table = points.tobytes().decode("utf-32-le"), np.zeros(0x110000, np.uint8)
    for kind, pattern in KINDS.items():
        for found in regex.finditer(pattern, every):
            table[points[found.start():found.end()]] |= kind
    return table


def number_of(pattern):
    """What cut() calls a pattern; None if it does not know it."""
    return PATTERNS.index(pattern) if pattern in PATTERNS else None


def pieces(text, pattern):
    """The pieces of a str, as regex.findall(pattern, text) gives them, for a pattern of split.py."""
    data = text.encode()
    ends = np.empty(len(data), np.int64)
    ends = ends[:_cuts(np.frombuffer(data, np.uint8), kinds(), number_of(pattern), ends)].tolist()
    return [data[a:b].decode() for a, b in zip([0, *ends], ends)]


@plain
def look(text, i, kinds):
    """(code point at byte i, its kinds, where the next one begins); (0, 0, i) at the end."""
    if i >= len(text):
        return 0, 0, i
    c = np.int64(text[i])
    i += 1
    if c >= 0x80:                                       # 110xxxxx, 1110xxxx or 11110xxx, and then 10xxxxxx each time
        more = 1 if c < 0xe0 else 2 if c < 0xf0 else 3
        c &= 0x3f >> more
        for _ in range(more):
            c = c << 6 | np.int64(text[i] & 0x3f)
            i += 1
    return c, np.int64(kinds[c]), i


@plain
def run(text, i, kinds, of):
    """Past the characters of these kinds."""
    while True:
        _, kind, after = look(text, i, kinds)
        if not kind & of:
            return i
        i = after


@plain
def run_without(text, i, kinds, of):
    """Past the characters of none of these kinds."""
    while i < len(text):
        _, kind, after = look(text, i, kinds)
        if kind & of:
            break
        i = after
    return i


@plain
def contraction(text, i, either_case):
    """Past 's, 'd, 'm, 't, 'll, 've or 're; i if there is none."""
    if i + 1 >= len(text) or text[i] != 39:
        return i
    fold = 32 if either_case else 0
    one, two = text[i + 1] | fold, text[i + 2] | fold if i + 2 < len(text) else 0
    if one == 115 or one == 100 or one == 109 or one == 116:
        return i + 2
    if one == 108 and two == 108 or one == 118 and two == 101 or one == 114 and two == 101:
        return i + 3
    if either_case and text[i + 1] == 0xc5 and i + 2 < len(text) and text[i + 2] == 0xbf:
        return i + 3                                    # U+017F, the long s, is an s in the other case
    return i


@plain
def space(text, i, kinds, breaks):
    r"""\s+(?!\S)|\s+, and with breaks \s*[\r\n] before them."""
    end = last = after_break = i
    while True:
        _, kind, after = look(text, end, kinds)
        if not kind & SPACE:
            break
        last, end = end, after
        if kind & BREAK:
            after_break = after
    if breaks and after_break > i:
        return after_break
    return last if end < len(text) and last > i else end


@plain
def cut(text, i, kinds, split):
    """The end of the piece of text, UTF-8 as uint8, that begins at byte i."""
    if split == BERT:
        _, kind, after = look(text, i, kinds)
        if kind & ALONE:
            return after
        return run(text, after, kinds, SPACE) if kind & SPACE else run_without(text, after, kinds, SPACE | ALONE)
    end = contraction(text, i, split == GPT4)
    if end > i:
        return end
    c, kind, after = look(text, i, kinds)
    if split == GPT4:
        if kind & LETTER:
            return run(text, after, kinds, LETTER)                               # \p{L}+
        if not kind & (NUMBER | BREAK) and look(text, after, kinds)[1] & LETTER:
            return run(text, after, kinds, LETTER)                               # [^\r\n\p{L}\p{N}]?+\p{L}+
        if kind & NUMBER:
            for _ in range(2):                                                   # \p{N}{1,3}
                _, more, further = look(text, after, kinds)
                if more & NUMBER:
                    after = further
            return after
        start = after if c == 32 else i
        end = run_without(text, start, kinds, SPACE | LETTER | NUMBER)           # ' ?[^\s\p{L}\p{N}]++[\r\n]*'
        return run(text, end, kinds, BREAK) if end > start else space(text, i, kinds, True)
    head, body = (LETTER | MARK, LETTER | MARK | JOINER) if split == INDIC else (LETTER, LETTER)
    digits = NUMBER | MARK if split == INDIC else NUMBER
    start = i
    if c == 32:                                                                  # ' ?' of all that follow
        start = after
        c, kind, after = look(text, start, kinds)
    if kind & head:
        return run(text, after, kinds, body)                                     # a word
    if kind & NUMBER:
        return run(text, after, kinds, digits)                                   # a number
    if start < len(text) and not kind & SPACE:
        return run_without(text, after, kinds, SPACE | LETTER | NUMBER)          # signs
    return space(text, i, kinds, False)


@jit
def _cuts(text, kinds, split, ends):
    """Write where pieces end; how many there are."""
    n = end = 0
    while end < len(text):
        end = cut(text, end, kinds, split)
        ends[n] = end
        n += 1
    return n
