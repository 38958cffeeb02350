"""The walk over a vocabulary for composer.py: which tokens lead to a place from which the line can still be closed?

A place is four numbers: c of the scanner, d of the counts, k of the rhyme, and u, the first bytes of a character that
is not whole. A byte moves u; a whole character a moves all the others:

    e = emits[c, a];  d = counts[d, 2 e + (does the rhyme hold in k?)];  c = scans[c, a];  k = rhymes[k, a]        [CO1]

and where it may not come, scans[c, a] is -1 or the new d is 0. bytes_to[u, byte] is the next u, -1 for none, or -2 - a
where the character a is whole. Tables are passed as two tuples, (bytes_to, begun) and (scans, emits, counts, rhymes,
holds); with them `typical`, one character of each kind that the latter tell apart, and memo (D, K, C), what is known.
"""
import numpy as np

from tok.jit import jit, plain

UNKNOWN, LIVE, DEAD = 0, 1, 2
DONE = 0                                                    # of the scanner: the line is closed


@plain
def advance(c, d, k, a, tables):
    """[CO1]"""
    scans, emits, counts, rhymes, holds = tables
    if scans[c, a] < 0:
        return c, 0, k
    return scans[c, a], counts[d, 2 * emits[c, a] + holds[k]], rhymes[k, a]


@plain
def live(c, d, k, typical, tables, memo, stack):
    """Can the line be closed from here? No place is met twice on a way, so the search in depth is exact."""
    if c == DONE:
        return True
    if memo[d, k, c] != UNKNOWN:
        return memo[d, k, c] == LIVE
    depth = 0
    stack[0, 0], stack[0, 1], stack[0, 2], stack[0, 3] = c, d, k, 0
    while depth >= 0:
        c, d, k, i = stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3]
        if i == len(typical):
            memo[d, k, c] = DEAD
            depth -= 1
            continue
        stack[depth, 3] += 1
        c, d, k = advance(c, d, k, typical[i], tables)
        if d == 0 or (c != DONE and memo[d, k, c] == DEAD):
            continue
        if c == DONE or memo[d, k, c] == LIVE:
            for at in range(depth + 1):                     # then it can be from all on the way to here
                memo[stack[at, 1], stack[at, 2], stack[at, 0]] = LIVE
            return True
        depth += 1
        stack[depth, 0], stack[depth, 1], stack[depth, 2], stack[depth, 3] = c, d, k, 0
    return False


@plain
def hopeful(u, c, d, k, begun, typical, tables, memo, stack):
    """The same where a character may have begun: one of those that begin so has to do."""
    if u == 0:
        return live(c, d, k, typical, tables, memo, stack)
    for a in range(begun.shape[1]):
        if begun[u, a]:
            c2, d2, k2 = advance(c, d, k, a, tables)
            if d2 != 0 and live(c2, d2, k2, typical, tables, memo, stack):
                return True
    return False


@jit
def follow(place, data, bytes_to, tables):
    """The place after these bytes, (4,); its d is 0 if they may not come."""
    u, c, d, k = place
    for byte in data:
        u = bytes_to[u, byte]
        if u == -1:
            return np.array([0, 0, 0, 0])
        if u < 0:
            c, d, k = advance(c, d, k, -2 - u, tables)
            u = 0
            if d == 0:
                return np.array([0, 0, 0, 0])
    return np.array([u, c, d, k])


@jit
def is_hopeful(place, begun, typical, tables, memo, stack):
    """hopeful() of a place."""
    return hopeful(place[0], place[1], place[2], place[3], begun, typical, tables, memo, stack)


@jit
def allowed(place, trie, to, begun, typical, tables, memo, stack, ways, ok):
    """Set ok (strings,) for those of a tree that may come next.

    trie: (symbol, depth, past, string) of its nodes, parents before children; past is where the next node lies that is
    not below this one, string the number of the one that ends here, or -1. A symbol is a byte, or a whole character, as
    the table `to` takes it: bytes_to, or one that is like it. ways (deepest + 1, 4) is room for a place at
    each depth. [CO1] is written out here, and memo is asked before live() is: all the time goes into this loop.
    """
    node_symbol, node_depth, node_past, node_string = trie
    scans, emits, counts, rhymes, holds = tables
    ways[0] = place
    i, n = np.uint64(0), np.uint64(len(node_symbol))
    while i < n:
        depth = node_depth[i]
        u, c, d, k = ways[depth - 1, 0], ways[depth - 1, 1], ways[depth - 1, 2], ways[depth - 1, 3]
        u = to[u, node_symbol[i]]
        if u < -1:
            a = -2 - u
            if scans[c, a] < 0:
                i = np.uint64(node_past[i])
                continue
            d = counts[d, 2 * emits[c, a] + holds[k]]
            c, k, u = scans[c, a], rhymes[k, a], 0
        if d == 0 or u == -1:
            i = np.uint64(node_past[i])
            continue
        ways[depth, 0], ways[depth, 1], ways[depth, 2], ways[depth, 3] = u, c, d, k
        string = node_string[i]
        if string >= 0:
            known = memo[d, k, c] if u == 0 else UNKNOWN
            ok[string] = known == LIVE or (known == UNKNOWN and hopeful(
                u, c, d, k, begun, typical, tables, memo, stack))
        i += np.uint64(1)
