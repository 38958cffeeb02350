"""Learning a WordPiece vocabulary in Numba: what wordpiece.learn() defines, found faster.

Words are linked lists of tokens, and every pair has a list of its places, as in bpe_cpu.py, and as there the count of a
pair only shrinks once the join that made it is done. But a join also changes how often its two tokens stand, so the
scores of all pairs that contain one of them, and most of those rise. To find them, the pairs that begin with a token
are linked, and so are those that end with it. To move them, a pair knows its seat in the heap: no entry of the heap is
ever out of date.
"""
import numpy as np

from tok.bpe_cpu import NONE, _move_pairs, join, note
from tok.jit import jit, plain

END = np.int64(-2)              # of the pairs that begin, or end, with a token


def learn(words, vocab, vocab_size, min_count, update=None):
    """vocab, extended: what wordpiece.learn() gives. update(n) is told about n more tokens."""
    vocab, ids = list(vocab), {token: i for i, token in enumerate(vocab)}
    counts, edges = np.fromiter(words.values(), np.int64, len(words)), np.cumsum([0, *map(len, words)])
    size = int(edges[-1])
    tokens = np.fromiter((ids["##" + c if i else c] for word in words for i, c in enumerate(word)), np.int32, size)
    word = np.repeat(np.arange(len(counts), dtype=np.int32), np.diff(edges))
    before, after = np.arange(-1, size - 1, dtype=np.int32), np.arange(1, size + 1, dtype=np.int32)
    before[edges[:-1]], after[edges[1:] - 1] = -1, -1
    nodes, state = np.empty((3 * size + 1, 2), np.int32), np.array([min_count, 0, 0, 0], np.int64)
    single, first = np.zeros(len(vocab) + size, np.int64), np.empty((len(vocab) + size, 2), np.int64)
    most = len(np.unique(tokens[:-1].astype(np.int64) << 32 | tokens[1:]))      # of pairs, those across words included
    pairs, lists, links, scores, heap = _tables(1 << (2 * most + 2).bit_length())
    _begin(tokens, word, counts, after, single, nodes, pairs, lists, state)
    _order(single, first, pairs, links, scores, heap, state)
    while len(vocab) < vocab_size and state[3]:
        at = heap[0]
        if 2 * (state[1] + 2 * lists[at, 2]) > len(pairs):
            larger = _tables(2 * len(pairs))
            _move_pairs(pairs, lists, *larger[:2])
            pairs, lists, links, scores, heap = larger
            _order(single, first, pairs, links, scores, heap, state)
            continue
        left, right = divmod(int(pairs[at, 0]), 1 << 32)
        joined = vocab[left] + vocab[right].removeprefix("##")
        if joined not in ids:                           # it may be the name of a special token
            ids[joined] = len(vocab)
            vocab.append(joined)
            if update:
                update(1)
        _join(at, np.int32(ids[joined]), tokens, word, counts, before, after, single, first, nodes, pairs, lists, links,
              scores, heap, state)
    return vocab


def _tables(size):
    """(pairs, lists, links, scores, heap), for half as many pairs. The first two are those of bpe_cpu.note(). links:
    (next pair with this left token, next with this right one, seat in the heap or NONE). heap: slots of pairs."""
    return (np.full((size, 2), NONE), np.zeros((size, 3), np.int64), np.full((size, 3), NONE), np.zeros(size),
            np.empty(size // 2, np.int64))


@plain
def comes_before(pairs, scores, a, b):
    """Is the pair in slot a to be joined before the one in slot b?"""
    return scores[a] > scores[b] or scores[a] == scores[b] and pairs[a, 0] < pairs[b, 0]


@plain
def settle(pairs, links, scores, heap, n, at, i):
    """Seat a pair at i, the one empty seat of n, or where it belongs from there."""
    while i and comes_before(pairs, scores, at, heap[i - 1 >> 1]):
        heap[i] = heap[i - 1 >> 1]
        links[heap[i], 2] = i
        i = i - 1 >> 1
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and comes_before(pairs, scores, heap[child + 1], heap[child]):
            child += 1
        if not comes_before(pairs, scores, heap[child], at):
            break
        heap[i] = heap[child]
        links[heap[i], 2] = i
        i = child
    heap[i], links[at, 2] = at, i


@plain
def rate(single, pairs, links, scores, heap, state, at):
    """Give a pair its score and the seat that goes with it, or none if it stands too seldom: is it seated?

    state: (min_count, pairs, nodes, entries of the heap).
    """
    key, count, i = pairs[at, 0], pairs[at, 1], links[at, 2]
    if count >= state[0]:
        scores[at] = count / (float(single[key >> 32]) * float(single[key & 0xffffffff]))
        if i == NONE:
            i = state[3]
            state[3] += 1
        settle(pairs, links, scores, heap, state[3], at, i)
        return True
    if i != NONE:
        state[3] -= 1
        if i < state[3]:
            settle(pairs, links, scores, heap, state[3], heap[state[3]], i)
        links[at, 2] = NONE
    return False


@plain
def link(first, pairs, links, at):
    """Enter a pair into the lists of its two tokens."""
    left, right = pairs[at, 0] >> 32, pairs[at, 0] & 0xffffffff
    links[at, 0], first[left, 0] = first[left, 0], at
    links[at, 1], first[right, 1] = first[right, 1], at


@jit
def _begin(tokens, word, counts, after, single, nodes, pairs, lists, state):
    for i in range(len(tokens)):
        single[tokens[i]] += counts[word[i]]
        if after[i] >= 0:
            note(pairs, lists, nodes, state, tokens[i], tokens[after[i]], counts[word[i]], i)


@jit
def _order(single, first, pairs, links, scores, heap, state):
    """Link and rate all pairs."""
    first[:] = END
    state[3] = 0
    for at in range(len(pairs)):
        if pairs[at, 0] != NONE and rate(single, pairs, links, scores, heap, state, at):
            link(first, pairs, links, at)


@jit
def _join(at, new, tokens, word, counts, before, after, single, first, nodes, pairs, lists, links, scores, heap, state):
    left, right = np.int32(pairs[at, 0] >> 32), np.int32(pairs[at, 0] & 0xffffffff)
    node = lists[at, 0]
    while node:
        i = nodes[node, 0]
        node = nodes[node, 1]
        j = after[i]
        if tokens[i] != left or j < 0 or tokens[j] != right:
            continue
        times = counts[word[i]]
        for slot in join(tokens, before, after, nodes, pairs, lists, state, i, j, new, times):
            if slot >= 0:
                link(first, pairs, links, slot)
        single[left] -= times
        single[right] -= times
        single[new] += times
    pairs[at, 1] = 0
    for token in (left, right, new):
        for side in range(2):
            at, first[token, side] = first[token, side], END
            while at != END:
                following = links[at, side]
                if rate(single, pairs, links, scores, heap, state, at):         # if not, it never will be again
                    links[at, side], first[token, side] = first[token, side], at
                at = following
