"""Learning a WordPiece vocabulary in Numba, against the definition in wordpiece.py."""
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tok import wordpiece, wordpiece_cpu

COUNTS = st.integers(1, 9) | st.integers(1, 10 ** 12)    # the product of two large ones is rounded
PIECES = st.sampled_from(["a", "ab", "b", "aa", "abc", "bc", "कि", "क", "abcabc", "ca"])
BUILT = st.lists(PIECES, min_size=1, max_size=7).map("".join)        # the same strings again and again, at many places
RUN = st.builds(lambda head, n, end: head + "a" * n + end, st.sampled_from(["", "b"]), st.integers(1, 70),
                st.sampled_from(["", "b", "ba", "baaa"]))


def letters(words):
    """What a vocabulary begins with."""
    return sorted({token for word in words for token in wordpiece.spell(word)})


def check(words, n, min_count=2, special=("[UNK]",)):
    vocab = [*special, *letters(words)]
    want = wordpiece.learn(words, vocab, len(vocab) + n, min_count)
    assert wordpiece_cpu.learn(words, vocab, len(vocab) + n, min_count) == want


@pytest.mark.parametrize("alphabet", ["a", "aab", "aabcक", "abक\u093f\u0902", "abcdefghijklmnop"])
@given(st.data(), st.integers(0, 80), st.integers(2, 5))
@settings(max_examples=200)
def test_the_vocabulary_is_that_of_the_definition(alphabet, data, n, min_count):
    word = st.text(alphabet, min_size=1, max_size=20)
    check(data.draw(st.dictionaries(word, COUNTS, max_size=14)), n, min_count)


@given(st.dictionaries(BUILT, COUNTS, max_size=14), st.integers(0, 80))
@settings(max_examples=500)
def test_words_of_the_same_pieces(words, n):
    check(words, n)


@given(st.dictionaries(RUN, COUNTS, max_size=6), st.integers(0, 80))
@settings(max_examples=300)
def test_runs_of_a_letter(words, n):
    check(words, n)


@given(st.dictionaries(BUILT, COUNTS, max_size=9),
       st.lists(st.sampled_from(["ab", "##ab", "abc", "##bc", "##aa", "aa"]), unique=True))
def test_special_tokens_that_a_join_spells(words, special):
    check(words, 60, special=special)


def test_tables_grow():
    """A pair that is new takes a place in the tables: letters and first pairs are few here, later ones many."""
    rng, tables, sizes = np.random.default_rng(0), wordpiece_cpu._tables, []
    words = {"".join(rng.choice(list("abcक"), rng.integers(1, 60))): int(rng.integers(1, 50)) for _ in range(60)}
    with mock.patch.object(wordpiece_cpu, "_tables", lambda size: sizes.append(size) or tables(size)):
        check(words, 200)
    assert len(sizes) > 2


def test_many_words():
    """As in a text: thousands of words, of a hundred letters, by Zipf's law."""
    rng = np.random.default_rng(1)
    words = {"".join(chr(0x900 + c) for c in np.minimum(rng.zipf(1.3, rng.integers(1, 12)), 110)): 9000 // i + 1
             for i in range(1, 2000)}
    check(words, 60, 5)


def test_a_vocabulary_that_is_large_enough_is_left_alone():
    vocab = letters({"ab": 2})
    assert wordpiece_cpu.learn({"ab": 2}, vocab, 0, 2) == vocab == wordpiece.learn({"ab": 2}, vocab, 0, 2)
    assert wordpiece_cpu.learn({"ab": 2}, vocab, 9, 2) == [*vocab, "ab"]
    assert len(vocab) == 2                               # the caller's list is as it was


def test_progress_is_told():
    told = []
    wordpiece_cpu.learn({"abc": 2}, letters({"abc": 2}), 9, 2, told.append)
    assert told == [1, 1]
