"""The scanner and byte pair encoding in Numba, against `regex` and the definition in bpe.py."""
import copy
import threading
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import reference_data
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from tok import BPETokenizer, HindiTokenizer, base, bpe, bpe_cpu, split_cpu
from tok.split import SPLITS, WORDPIECE

# Characters between which the patterns decide: contractions and their other cases, joiners, marks, digits, space that
# is a line break and space that is not, controls that Python calls space and Unicode does not.
HARD = "aZsSſtTdDmlLvVeErR\'\u2019 \t\n\r\x0b\u00a0\u2003\u2028\x1c\x85०1²Ⅷ①कि्ंी़\u200c\u200d।!?-❤\ufe0f🙂é漢\0"
TEXT = st.text(st.sampled_from(HARD), max_size=16) | st.text(max_size=20)
every_split = pytest.mark.parametrize("split", SPLITS)
PATTERNS = SPLITS | {"wordpiece": WORDPIECE}
every_pattern = pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)


# ---------------------------------------------------------------------------------------------------------- the scanner

@every_pattern
@given(TEXT)
@settings(max_examples=500)
def test_pieces_are_those_of_regex(pattern, text):
    assert split_cpu.pieces(text, pattern) == regex.findall(pattern, text)


@every_pattern
def test_every_character_beside_a_letter_a_digit_a_space_and_a_sign(pattern):
    """All 1.1 million of them, in a few texts."""
    every = [chr(c) for c in range(0x110000) if not 0xd800 <= c < 0xe000]
    for beside in ("a{}1", " {}a", "।{}ि"):
        text = "".join(map(beside.format, every))
        assert split_cpu.pieces(text, pattern) == regex.findall(pattern, text)


def everything():
    """All reference texts, as they lie in their files."""
    for folder in ("english", "names", "poetry", "prose", "golden"):
        for path in sorted(reference_data.path(folder).iterdir()):
            if path.suffix in (".txt", ".jsonl"):
                yield path.read_text("utf-8")


@every_pattern
def test_pieces_of_the_reference_texts(pattern):
    for text in everything():
        assert split_cpu.pieces(text, pattern) == regex.findall(pattern, text)


# ------------------------------------------------------------------------------------------------------------- learning

def spelled(counted):
    """What Words.spelled() gives, from {word: count}, where a word is a str or bytes."""
    words = [word.encode() if isinstance(word, str) else word for word in counted]
    return (np.frombuffer(b"".join(words), np.uint8), np.cumsum([0, *map(len, words)]),
            np.fromiter(counted.values(), np.int64, len(words)))


@given(st.dictionaries(st.text("aabcक", min_size=1, max_size=14), st.integers(1, 9), min_size=1, max_size=14),
       st.integers(0, 60))
@settings(max_examples=300)
def test_merges_are_those_of_the_definition(words, n):
    assert bpe_cpu.learn(*spelled(words), n) == bpe.learn(words, n)


def test_merges_when_tables_grow():
    """More pairs than the tables begin with."""
    rng, before = np.random.default_rng(0), bpe_cpu._tables
    words = {"".join(map(chr, rng.integers(0x100, 0x500, rng.integers(1, 30)))): int(rng.integers(1, 50))
             for _ in range(400)}
    want, sizes = bpe.learn(words, 150), []

    def smaller(size):
        sizes.append(size)
        return before(size if sizes[1:] else 1 << 13)

    with mock.patch.object(bpe_cpu, "_tables", smaller):
        assert bpe_cpu.learn(*spelled(words), 150) == want
    assert len(sizes) > 1


@every_split
@given(st.lists(TEXT, max_size=4))
def test_words_are_counted(split, texts):
    words, want = bpe_cpu.Words(), Counter()
    for text in texts:
        words.add(np.frombuffer(text.encode(), np.uint8), split_cpu.kinds(), split_cpu.number_of(SPLITS[split]))
        want.update(regex.findall(SPLITS[split], text))
    text, edges, counts = words.spelled()
    assert {bytes(text[a:b]).decode(): n for a, b, n in zip(edges, edges[1:], counts.tolist())} == want
    assert len(words) == len(want)


def test_many_words_and_one_long_one():
    text = " ".join(map(str, range(20_000))) + "x" * 300_000
    words = bpe_cpu.Words()
    for _ in range(2):
        words.add(np.frombuffer(text.encode(), np.uint8), split_cpu.kinds(), split_cpu.INDIC)
    found, edges, counts = words.spelled()
    assert {bytes(found[a:b]).decode(): n for a, b, n in zip(edges, edges[1:], counts.tolist())} == {
        word: 2 * n for word, n in Counter(regex.findall(SPLITS["indic"], text)).items()}


@pytest.mark.parametrize("room, fit", [(0, 0), (2, 0), (3, 1), (7, 1), (8, 2), (9, 3), (20, 3)])
def test_counted_words_are_taken_while_there_is_room(room, fit):
    """Words of 3, 5 and 1 bytes: each that fits is taken, and the first that does not says where to go on."""
    words, some, all_of_them = spelled({"one": 4, "three": 2, "1": 7}), bpe_cpu.Words(), bpe_cpu.Words()
    some.text, all_of_them.text = np.empty(room, np.uint8), np.empty(room, np.uint8)
    assert bpe_cpu._add(*words, 0, *some._tables()) == (fit, fit, words[1][fit])
    for times in (1, 2):
        all_of_them.add_counted(*words)                      # it makes room for the others
        text, edges, counts = all_of_them.spelled()
        assert all(map(np.array_equal, (text, edges, counts), (*words[:2], times * words[2])))
        text[:] = 0                                          # what was told is the listener's


# ------------------------------------------------------------------------------------------------------------- encoding

def by_definition(t, text):
    return [i for word in regex.findall(t.split, text) for i in t.encode_word(word)]


SAYING = "करत करत अभ्यास के जड़मति होत सुजान। रसरी आवत जात ते सिल पर परत निसान॥ aaaaaabababab the theme there's "
TRAINED = {split: BPETokenizer.train(SAYING * 3, 340, split) for split in SPLITS}


@every_split
@given(st.text(st.sampled_from(SAYING + HARD), max_size=80) | TEXT)
def test_ids_are_those_of_the_definition(split, text):
    assert TRAINED[split].encode(text) == by_definition(TRAINED[split], text)


@given(st.text("abक", min_size=30, max_size=400))
def test_long_words(text):
    """As long as the bound of each way of merging, and longer than what is remembered."""
    t = TRAINED["indic"]
    for _ in range(2):
        assert t.encode(text) == by_definition(t, text)


def test_a_word_of_a_million_letters():
    t = TRAINED["indic"]
    assert t.decode(t.encode("ab" * 500_000)) == "ab" * 500_000


@pytest.mark.parametrize("full", ["WORDS", "TEXT", "IDS"])
def test_a_cache_that_is_full_begins_again(full):
    """Of words, of the bytes of long ones, or of ids."""
    text = " ".join(f"{chr(2325 + i % 36)}{chr(2325 + i // 36)}abकxyz" + i % 2 * "wvu" for i in range(300))
    with mock.patch.multiple(bpe_cpu, FIRST=8, **{"WORDS": 1024, "TEXT": 1 << 14, "IDS": 1 << 14, full: 512}):
        t = BPETokenizer(list(TRAINED["indic"].merges))
        assert t.encode(text) == t.encode(text) == by_definition(t, text)
        (cache,) = t._caches
        words, size, ids = cache.state
        assert 0 < words < 300 and size <= len(cache.text) and ids <= len(cache.ids)


def test_words_with_one_hash_are_told_apart():
    """Two long words with the hash 7: their bytes decide."""
    one, two = (np.frombuffer(letter * 20, np.uint8) for letter in (b"a", b"b"))
    places, seen = np.zeros((8, 4), np.int64), np.concatenate([one, two])
    first = bpe_cpu.place_of(places, seen, one, 0, 7, -20)
    places[first, :3] = 7, -20, 0
    second = bpe_cpu.place_of(places, seen, two, 0, 7, -20)
    assert second != first and not places[second].any()
    places[second, :3] = 7, -20, 20
    assert [bpe_cpu.place_of(places, seen, word, 0, 7, -20) for word in (one, two)] == [first, second]


@given(st.lists(st.binary(min_size=1, max_size=bpe_cpu.SHORT_KEY) | st.text("\0a", min_size=1, max_size=15).map(
    str.encode), min_size=2, max_size=5))
def test_keys_of_short_words_are_the_words(words):
    keys = {bpe_cpu.keys_of(np.frombuffer(word, np.uint8), 0, len(word)) for word in words}
    assert len(keys) == len(set(words)) and all(second > 0 for _, second in keys)
    long = np.frombuffer(words[0] * 16, np.uint8)
    assert bpe_cpu.keys_of(long, 0, len(long))[1] == -len(long)


def test_ids_that_do_not_fit_into_a_place():
    """More of them than three, and larger than 20 bits."""
    merges, text = list(TRAINED["indic"].merges), SAYING + "xyzxyz कखग"
    n = 256 + len(merges)
    far = BPETokenizer(merges, special_tokens=(), ids=list(range(n - 1, -1, -1)))
    assert far.encode(text) == far.encode(text) == by_definition(far, text)
    with mock.patch.object(bpe, "checked_ids", lambda ids, n: ids):
        far = BPETokenizer(merges, special_tokens=(), ids=[(1 << 20) - 9 + i for i in range(n)])
    assert far.encode_array(text).tolist() == far.encode_array(text).tolist() == by_definition(far, text)




def test_a_pattern_of_ones_own():
    t = BPETokenizer(list(TRAINED["indic"].merges), split=r"\S+|\s+")
    assert t.encode(SAYING) == by_definition(t, SAYING)


def test_threads_and_batches():
    t, texts = BPETokenizer(list(TRAINED["indic"].merges)), [SAYING * n for n in range(40)] + [""]
    want, got = [by_definition(t, s) for s in texts], {}
    for n in (None, 1, 3):
        found = t.encode_batch(texts, threads=n)
        assert [ids.tolist() for ids in found] == want and all(ids.dtype == np.uint16 for ids in found)
        assert t.encode_batch(texts, threads=n, lists=True) == want
    with mock.patch.object(base, "PIECE", 7):            # long texts are shared out too
        rows = [line + "\n" + SAYING * n for n, line in enumerate(HARD)]
        want_rows = [by_definition(t, s) for s in rows]
        assert [ids.tolist() for ids in t.encode_batch(rows)] == t.encode_batch(rows, lists=True) == want_rows
        with pytest.raises(ValueError, match="lone surrogate .* at offset 31"):
            t.encode_batch(["a\nb" * 10, "a\nb" * 10 + "c\ud800"])
        hindi = HindiTokenizer.train("x\n\n y \n " * 9, 300)
        for text in "राम घर गया।\n\u0902\n x", "राम घर गया \u0902\nक":      # normalizing takes the sign away
            assert hindi.encode_batch([text], lists=True) == [hindi.encode(text)]
    each = [threading.Thread(target=lambda k=k: got.update({k: [t.encode(s) for s in texts]})) for k in range(4)]
    for thread in each:
        thread.start()
    for thread in each:
        thread.join()
    assert got == dict.fromkeys(range(4), want)


def test_a_tokenizer_travels_to_other_processes():
    again = copy.deepcopy(TRAINED["gpt2"])               # by __reduce__, as pickle does
    assert again.hash == TRAINED["gpt2"].hash and again.encode(SAYING) == TRAINED["gpt2"].encode(SAYING)


def test_identical_to_tiktoken(tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    t = BPETokenizer.from_gpt2(reference_data.path("gpt2", "encoder.json"), reference_data.path("gpt2", "vocab.bpe"))
    theirs = tiktoken.Encoding("gpt2", pat_str=t.split, special_tokens={},
                               mergeable_ranks={token: i for i, token in enumerate(t.vocab[:-1])})
    for text in everything():
        assert t.encode(text) == theirs.encode_ordinary(text)

    @given(TEXT)
    @settings(max_examples=1000)
    def any_text(text):
        assert t.encode(text) == theirs.encode_ordinary(text)
    any_text()
