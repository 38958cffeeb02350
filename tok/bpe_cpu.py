"""Byte pair encoding in Numba: the merges and the ids that bpe.py defines, found faster.

A text is cut into words (split_cpu.py), and most words have been seen before. So a hash table says which ids a word
got last time. Most words fit into two numbers, and those are what is looked up; of longer ones the bytes are compared,
as a hash alone proves nothing. A new word is merged by the definition, lowest rank first and leftmost of those, in one
of two ways:

    short    all pairs of neighbours are looked at for each merge
    long     a heap, by rank and place; an entry whose pair is no longer there is dropped when it comes up

Merges are found in a hash table too, by left << 32 | right.

All tables have open addressing and a power of two of places, of which at most half are taken.
"""
import numpy as np

from tok.jit import jit, plain
from tok.split_cpu import cut

SHORT = 48                      # tokens of a word up to which the heap does not pay
LONGEST = 256                   # bytes of a word that is remembered
SHORT_KEY = 15                  # bytes of a word that are its key
FIRST, WORDS = 1 << 12, 1 << 17                     # a cache's places, to begin with and at most
TEXT, IDS = 1 << 21, 1 << 20    # and its room for bytes and ids: 10 MB in all
FEW, BITS = 3, 20               # so many ids of so many bits stand in the place itself
LIMIT = 2_000_000               # words that are counted at one time: learning from as many takes some 2 GB
NONE = np.int64(-1)
FAR = np.int32(2 ** 31 - 1)
FULL, SOME = 1, 256             # what _learn() answers when its tables are full; how many merges it does in one go


def table_of(merges):
    """The table of {(left, right): number}: of two bytes, by left << 8 | right, and of all pairs, a hash table."""
    pairs = np.array(list(merges), np.int64).reshape(-1, 2)
    numbers = np.fromiter(merges.values(), np.int64, len(merges))
    bytes_ = np.full(1 << 16, FAR)
    small = (pairs < 256).all(1)
    bytes_[pairs[small, 0] << 8 | pairs[small, 1]] = numbers[small]
    hashed = np.full((1 << (2 * len(merges) + 2).bit_length(), 2), NONE)
    _fill(hashed, pairs, numbers)
    return bytes_, hashed


class Cache:
    """Words and their ids, of one thread. When it is full it begins again."""

    def __init__(self):
        self.places, self.state = np.zeros((FIRST, 4), np.int64), np.zeros(3, np.int64)
        self.text, self.ids = np.empty(TEXT, np.uint8), np.empty(IDS, np.int32)

    @property
    def arrays(self):
        return self.places, self.state, self.text, self.ids

    def make_room(self):
        if len(self.places) < WORDS and 2 * self.state[0] >= len(self.places):
            self.places = larger(self.places)
        else:
            self.places[:], self.state[:] = 0, 0


def encode(text, kinds, split, table, ids, cache):
    """The ids of a text, which is uint8: UTF-8. There are as many as bytes at most; pages of `out` that stay empty cost
    nothing."""
    out, start, n = np.empty(len(text) + FEW - 1, np.int32), 0, 0
    while True:
        start, n = _encode(text, start, kinds, split, table, ids, *cache.arrays, out, n)
        if start == len(text):
            return out[:n]
        cache.make_room()


@plain
def mix(x):
    """64 bits, stirred: the last step of MurmurHash3."""
    x = np.uint64(x)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xff51afd7ed558ccd)
    x ^= x >> np.uint64(33)
    x *= np.uint64(0xc4ceb9fe1a85ec53)
    return np.int64(x ^ x >> np.uint64(33))


@plain
def hash_of(text, start, end):
    h = np.uint64(end - start)
    word, n = np.uint64(0), 0
    for i in range(start, end):
        word = word << np.uint64(8) | np.uint64(text[i])
        n += 1
        if n == 8:
            h = np.uint64(mix(h ^ word)) + np.uint64(0x9e3779b97f4a7c15)
            word, n = np.uint64(0), 0
    return mix(h ^ word)


@plain
def keys_of(text, start, end):
    """Two numbers for a word, the second one not 0. Of up to 15 bytes they are eight bytes, and the size with the other
    bytes: the same numbers are the same word. Of more they are a hash and minus the size."""
    size = np.int64(end - start)
    if size > SHORT_KEY:
        return hash_of(text, start, end), -size
    first, second = np.int64(0), size
    for i in range(start, min(start + 8, end)):
        first = first << 8 | np.int64(text[i])
    for i in range(start + 8, end):
        second = second << 8 | np.int64(text[i])
    return first, second


@plain
def home(first, second):
    """Where in a table a word with these keys would like to be."""
    return mix(np.uint64(first) * np.uint64(0x9e3779b97f4a7c15) + np.uint64(second))


@plain
def place_of(places, seen, text, start, first, second):
    """The place of the word that begins at text[start] and has these keys, or where it would be: there the second key
    is 0. A place begins with (first key, second, where its bytes are in seen)."""
    at, last = home(first, second) & len(places) - 1, len(places) - 1
    while places[at, 1]:
        if places[at, 0] == first and places[at, 1] == second:
            begin, i = places[at, 2], 0
            while i < -second and seen[begin + i] == text[start + i]:            # not at all if the keys are the word
                i += 1
            if i >= -second:
                break
        at = at + 1 & last
    return at


def larger(places):
    """The same words with twice as many places."""
    new = np.zeros((2 * len(places), 4), np.int64)
    _move(places, new)
    return new


@jit
def _move(old, new):
    last = len(new) - 1
    for k in range(len(old)):
        if old[k, 1]:
            at = home(old[k, 0], old[k, 1]) & last
            while new[at, 1]:
                at = at + 1 & last
            new[at] = old[k]


@jit
def _fill(hashed, pairs, numbers):
    for k in range(len(pairs)):
        at = slot_of(hashed, pairs[k, 0], pairs[k, 1])
        hashed[at, 0], hashed[at, 1] = pairs[k, 0] << 32 | pairs[k, 1], numbers[k]


@plain
def slot_of(pairs, left, right):
    """Where a pair is in the table, or where it would be."""
    key, last = np.int64(left) << 32 | np.int64(right), len(pairs) - 1
    at = mix(key) & last
    while pairs[at, 0] != NONE and pairs[at, 0] != key:
        at = at + 1 & last
    return at


@plain
def find(table, left, right):
    """The number that a pair merges into, or FAR."""
    bytes_, hashed = table
    if left < 256 and right < 256:
        return bytes_[left << 8 | right]
    at = slot_of(hashed, left, right)
    return FAR if hashed[at, 0] == NONE else np.int32(hashed[at, 1])


@plain
def merge_short(table, word, n, ranks):
    """Merge the first n entries of word; how many are left. ranks: room for as many."""
    for i in range(n - 1):
        ranks[i] = find(table, word[i], word[i + 1])
    while n > 1:
        best, at = FAR, 0
        for i in range(n - 1):
            if ranks[i] < best:
                best, at = ranks[i], i
        if best == FAR:
            break
        word[at] = best
        n -= 1
        for i in range(at + 1, n):
            word[i] = word[i + 1]
        for i in range(at + 1, n - 1):
            ranks[i] = ranks[i + 1]
        if at + 1 < n:
            ranks[at] = find(table, best, word[at + 1])
        if at:
            ranks[at - 1] = find(table, word[at - 1], best)
    return n


@plain
def comes_before(a, b):
    """Of two entries of a heap, (weight, key), the heavier one comes first; of equal ones, that with the lower key."""
    return a[0] > b[0] or a[0] == b[0] and a[1] < b[1]


@plain
def push(heap, n, weight, key):
    """Add an entry to a heap of n; how many there are."""
    entry, i = (weight, key), n
    while i and comes_before(entry, (heap[i - 1 >> 1, 0], heap[i - 1 >> 1, 1])):
        heap[i, 0], heap[i, 1] = heap[i - 1 >> 1, 0], heap[i - 1 >> 1, 1]
        i = i - 1 >> 1
    heap[i, 0], heap[i, 1] = entry
    return n + 1


@plain
def pop(heap, n):
    """Take the first of n entries away, heap[0]; how many are left."""
    n -= 1
    last, i = (heap[n, 0], heap[n, 1]), 0
    while 2 * i + 1 < n:
        child = 2 * i + 1
        if child + 1 < n and comes_before((heap[child + 1, 0], heap[child + 1, 1]), (heap[child, 0], heap[child, 1])):
            child += 1
        if not comes_before((heap[child, 0], heap[child, 1]), last):
            break
        heap[i, 0], heap[i, 1] = heap[child, 0], heap[child, 1]
        i = child
    heap[i, 0], heap[i, 1] = last
    return n


@plain
def merge_long(table, word, n):
    """merge_short() in n log n steps. An entry of the heap is (minus rank, place)."""
    before, after = np.empty(n, np.int64), np.empty(n, np.int64)
    heap, size = np.empty((3 * n, 2), np.int64), 0
    for i in range(n):
        before[i], after[i] = i - 1, i + 1
        if i + 1 < n:
            rank = find(table, word[i], word[i + 1])
            if rank != FAR:
                size = push(heap, size, -np.int64(rank), i)
    while size:
        rank, i = np.int32(-heap[0, 0]), heap[0, 1]
        size = pop(heap, size)
        j = after[i]
        if word[i] < 0 or j >= n or find(table, word[i], word[j]) != rank:
            continue
        word[i], word[j] = rank, -1
        after[i] = after[j]
        if after[i] < n:
            before[after[i]] = i
            rank = find(table, word[i], word[after[i]])
            if rank != FAR:
                size = push(heap, size, -np.int64(rank), i)
        if before[i] >= 0:
            rank = find(table, word[before[i]], word[i])
            if rank != FAR:
                size = push(heap, size, -np.int64(rank), before[i])
    kept = 0
    for i in range(n):
        if word[i] >= 0:
            word[kept] = word[i]
            kept += 1
    return kept


@plain
def merge(text, start, end, table, ids, out, n, ranks):
    """Write the ids of one word to out[n:]; where they end."""
    size = end - start
    word = out[n:n + size]
    for i in range(size):
        word[i] = text[start + i]
    size = merge_short(table, word, size, ranks) if size <= SHORT else merge_long(table, word, size)
    for i in range(size):
        word[i] = ids[word[i]]
    return n + size


@jit
def _encode(text, start, kinds, split, table, ids, places, state, seen, seen_ids, out, n):
    """Write ids to out[n:] until the text ends or the cache is full; (where it stopped, where the ids end).

    state: how many words the cache has, and how far its bytes and ids reach. A place: (first key, second, where its
    bytes are if the keys are not the word, ids). The ids: how many, and up to three in the number itself; or 0, and
    where they are, their number before them.
    """
    ranks, mask = np.empty(SHORT, np.int32), (1 << BITS) - 1
    while start < len(text):
        end = cut(text, start, kinds, split)
        size = end - start
        if size == 1:
            out[n] = ids[text[start]]
            n += 1
        elif size > LONGEST:
            n = merge(text, start, end, table, ids, out, n, ranks)
        else:
            first, second = keys_of(text, start, end)
            at = place_of(places, seen, text, start, first, second)
            packed = places[at, 3]
            if packed & FEW:                                 # written without asking how many: a branch costs more
                out[n] = packed >> 2 & mask
                out[n + 1] = packed >> 2 + BITS & mask
                out[n + 2] = packed >> 2 + 2 * BITS
                n += packed & FEW
            elif places[at, 1]:
                begin = packed >> 2
                for i in range(1, 1 + seen_ids[begin]):
                    out[n] = seen_ids[begin + i]
                    n += 1
            else:
                if 2 * state[0] >= len(places) or state[1] + size > len(seen) or state[2] + size >= len(seen_ids):
                    break
                begin = n
                n = merge(text, start, end, table, ids, out, n, ranks)
                places[at, 0], places[at, 1], places[at, 2] = first, second, state[1]
                places[at, 3] = pack(out[begin:n], seen_ids, state)
                state[0] += 1
                if second < 0:
                    seen[state[1]:state[1] + size] = text[start:end]
                    state[1] += size
        start = end
    return start, n


@plain
def pack(word, seen_ids, state):
    """The ids of a word, as a place has them."""
    most = 0
    for i in word:
        most |= i
    if len(word) > FEW or most >> BITS:
        at = state[2]
        seen_ids[at], seen_ids[at + 1:at + 1 + len(word)] = len(word), word
        state[2] += 1 + len(word)
        return at << 2
    packed = np.int64(len(word))
    for i in range(len(word)):
        packed |= np.int64(word[i]) << 2 + BITS * i
    return packed


# ------------------------------------------------------------------------------------------- counting words, and merges

class Words:
    """The distinct words of all texts so far, and how often each stood there.

    There are at most `limit` of them. When they are so many the rarest are forgotten, half or more; `forgotten` says
    how often those had stood there, and while it is 0 all counts are exact.
    """

    def __init__(self, limit=LIMIT):
        self.places, self.taken = np.zeros((1 << 12, 4), np.int64), 0           # as in a Cache, with a count for ids
        self.text, self.size = np.empty(1 << 16, np.uint8), 0
        self.limit, self.forgotten = limit, 0

    def add(self, text, kinds, split):
        """Count the words of a text, which is uint8: UTF-8."""
        start = 0
        while start < len(text):
            start, self.taken, self.size = _count(text, start, kinds, split, *self._tables())
            self._make_room(len(text) - start)

    def add_counted(self, text, edges, counts, forgotten=0):
        """Add what spelled() of others gives, and what they have forgotten."""
        k = 0
        while k < len(counts):
            k, self.taken, self.size = _add(text, edges, counts, k, *self._tables())
            self._make_room(len(text) - edges[k])
        self.forgotten += forgotten

    def _tables(self):
        return self.places, self.taken, min(self.limit, len(self.places) // 2), self.text, self.size

    def _make_room(self, rest):
        """For one more word at least, of those that come in the next `rest` bytes."""
        if self.taken >= self.limit:
            self._forget()
        if 2 * self.taken >= len(self.places):
            self.places = larger(self.places)
        if self.size + rest > len(self.text):
            self.text = np.append(self.text, np.empty(len(self.text) + rest, np.uint8))

    def _forget(self):
        text, edges, counts = self.spelled()
        kept = counts > np.sort(counts)[-(self.limit // 2) - 1]
        self.forgotten += int(counts[~kept].sum())
        sizes = np.diff(edges)
        self.places[:], self.taken, self.size = 0, 0, 0
        text, edges = text[np.repeat(kept, sizes)], np.append(0, np.cumsum(sizes[kept]))
        _, self.taken, self.size = _add(text, edges, counts[kept], 0, *self._tables())

    def __len__(self):
        return self.taken

    def spelled(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(their bytes, where each begins and the last ends, counts), in the order in which they were first seen."""
        found = self.places[self.places[:, 1] != 0]
        found = found[np.argsort(found[:, 2])]
        return self.text[:self.size].copy(), np.append(found[:, 2], self.size), np.ascontiguousarray(found[:, 3])


def learn(text, edges, counts, n, update=None):
    """Up to n merges, as id pairs, of words as Words.spelled() gives them: what bpe.learn() finds, pair by pair.

    Words are linked lists of tokens, so a merge touches only its two neighbours. For every pair the places where its
    left token stands are kept in a list, in order; a place whose pair has changed since is passed over. Counts only
    shrink once the merge that made a pair is done, so one entry of the heap is enough for each: if its count is out of
    date when it comes up, it goes back with the right one. update(n) is told about n more merges now and then.
    """
    tokens, size = text.astype(np.int32), len(text)
    word = np.repeat(np.arange(len(counts), dtype=np.int32), np.diff(edges))
    before, after = np.arange(-1, size - 1, dtype=np.int32), np.arange(1, size + 1, dtype=np.int32)
    before[edges[:-1]], after[edges[1:] - 1] = -1, -1
    nodes, state = np.empty((3 * size + 1, 2), np.int32), np.zeros(4, np.int64)
    merges = np.empty((min(n, size), 2), np.int64)      # each takes a token away, so there are fewer than tokens
    pairs, lists, heap = _tables(1 << 17)               # room for all pairs of bytes
    _begin(tokens, word, counts, after, nodes, pairs, lists, heap, state)
    while True:
        done = state[0]
        more = _learn(tokens, word, counts, before, after, nodes, pairs, lists, heap, merges, state)
        if update:
            update(int(state[0] - done))
        if not more:
            return list(map(tuple, merges[:state[0]].tolist()))
        if more == FULL:
            larger = _tables(2 * len(pairs))
            _move_pairs(pairs, lists, *larger[:2])
            larger[2][:len(heap)] = heap
            pairs, lists, heap = larger


def _tables(size):
    """(pairs, lists, heap) for _learn()."""
    return np.full((size, 2), NONE), np.zeros((size, 3), np.int64), np.empty((size // 2, 2), np.int64)


@plain
def enter(text, start, end, times, places, taken, seen, size):
    """Count a word so many times more; (words, their bytes)."""
    first, second = keys_of(text, start, end)
    at = place_of(places, seen, text, start, first, second)
    if not places[at, 1]:
        places[at, 0], places[at, 1], places[at, 2] = first, second, size
        seen[size:size + end - start] = text[start:end]
        size += end - start
        taken += 1
    places[at, 3] += times
    return taken, size


@jit
def _count(text, start, kinds, split, places, taken, most, seen, size):
    """Count words from byte `start` to the end, or until there is no room; (where it stopped, words, their bytes)."""
    while start < len(text) and taken < most:
        end = cut(text, start, kinds, split)
        if size + end - start > len(seen):
            break
        taken, size = enter(text, start, end, 1, places, taken, seen, size)
        start = end
    return start, taken, size


@jit
def _add(text, edges, counts, k, places, taken, most, seen, size):
    """_count() of words that have been counted, from the one with number k."""
    while k < len(counts) and taken < most and size + edges[k + 1] - edges[k] <= len(seen):
        taken, size = enter(text, edges[k], edges[k + 1], counts[k], places, taken, seen, size)
        k += 1
    return k, taken, size


@jit
def _move_pairs(old, old_lists, new, new_lists):
    for k in range(len(old)):
        if old[k, 0] != NONE:
            at = slot_of(new, old[k, 0] >> 32, old[k, 0] & 0xffffffff)
            new[at], new_lists[at] = old[k], old_lists[k]


@plain
def note(pairs, lists, nodes, state, left, right, times, place):
    """One more place where a pair stands; its slot, or -1 if the pair had one before.

    pairs: (left << 32 | right, count). lists: (first node, last node, how many). nodes: (place, next). state: (merges,
    pairs, nodes, entries of the heap).
    """
    at = slot_of(pairs, left, right)
    node = state[2] + 1                                 # node 0 is none
    state[2] = node
    nodes[node, 0], nodes[node, 1] = place, 0
    new = pairs[at, 0] == NONE
    if new:
        pairs[at, 0], pairs[at, 1] = np.int64(left) << 32 | np.int64(right), 0
        lists[at, 0], lists[at, 2] = node, 0
        state[1] += 1
    else:
        nodes[lists[at, 1], 1] = node
    lists[at, 1] = node
    lists[at, 2] += 1
    pairs[at, 1] += times
    return at if new else -1


@plain
def join(tokens, before, after, nodes, pairs, lists, state, i, j, new, times):
    """Make one token, new, of those at the neighbours i and j, in words that stand so often: what note() says of its
    pairs with the tokens on either side, -1 where there is none. Those of the old two are counted no more."""
    left, right, h, k = tokens[i], tokens[j], before[i], after[j]
    tokens[i], tokens[j], after[i] = new, -1, k
    first = second = np.int64(-1)
    if h >= 0:
        pairs[slot_of(pairs, tokens[h], left), 1] -= times
        first = np.int64(note(pairs, lists, nodes, state, tokens[h], new, times, h))
    if k >= 0:
        pairs[slot_of(pairs, right, tokens[k]), 1] -= times
        before[k] = i
        second = np.int64(note(pairs, lists, nodes, state, new, tokens[k], times, i))
    return first, second


@jit
def _begin(tokens, word, counts, after, nodes, pairs, lists, heap, state):
    for i in range(len(tokens)):
        if after[i] >= 0:
            note(pairs, lists, nodes, state, tokens[i], tokens[after[i]], counts[word[i]], i)
    for at in range(len(pairs)):
        if pairs[at, 0] != NONE:
            state[3] = push(heap, state[3], pairs[at, 1], pairs[at, 0])


@jit
def _learn(tokens, word, counts, before, after, nodes, pairs, lists, heap, merges, state):
    """Some merges. 0: there are no more to be had; FULL: tables are to be made larger; 2: call again."""
    fresh = np.empty(1 << 10, np.int64)                 # slots of pairs that this merge made
    for _ in range(SOME):
        if state[0] == len(merges):
            return 0
        while True:
            if state[3] == 0 or heap[0, 0] < 2:
                return 0
            count, key = heap[0, 0], heap[0, 1]
            left, right = np.int32(key >> 32), np.int32(key & 0xffffffff)
            at = slot_of(pairs, left, right)
            if count == pairs[at, 1]:
                break
            state[3] = pop(heap, state[3])
            if pairs[at, 1] > 1:
                state[3] = push(heap, state[3], pairs[at, 1], key)
        if 2 * (state[1] + 2 * lists[at, 2]) > len(pairs):
            return FULL
        state[3] = pop(heap, state[3])
        if 2 * lists[at, 2] > len(fresh):
            fresh = np.empty(2 * lists[at, 2], np.int64)
        new, made, node = np.int32(256 + state[0]), 0, lists[at, 0]
        merges[state[0], 0], merges[state[0], 1] = left, right
        state[0] += 1
        while node:
            i = nodes[node, 0]
            node = nodes[node, 1]
            j = after[i]
            if tokens[i] != left or j < 0 or tokens[j] != right:
                continue
            for slot in join(tokens, before, after, nodes, pairs, lists, state, i, j, new, counts[word[i]]):
                if slot >= 0:
                    fresh[made] = slot
                    made += 1
        pairs[at, 1] = 0
        for f in range(made):
            slot = fresh[f]
            if pairs[slot, 1] > 1:
                state[3] = push(heap, state[3], pairs[slot, 1], pairs[slot, 0])
    return 2
