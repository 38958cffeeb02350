"""WordPiece: the case worked by hand, Hugging Face's ids, and a search that tries every way to cut a word."""
import json
import unicodedata
from fractions import Fraction
from itertools import pairwise

import pytest
import reference_data
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from tok import WordPieceTokenizer, base, load, wordpiece

VERSE = "बंदउँ गुरु पद पदुम परागा। सुरुचि सुबास सरस अनुरागा॥ The cat sat on the mat; the cat, it's 12 days old. "
HAND = WordPieceTokenizer(["[UNK]", "un", "able", "##able", "##aff", "##affable"], special_tokens=())
TRAINED = WordPieceTokenizer.train(VERSE * 3, 150, min_count=2)
BERT_WORD = r"[\p{P}$+<=>^`|~]|[^\s\p{P}$+<=>^`|~]+"
TEXT = st.text() | st.text(st.sampled_from(VERSE + "\u0301[]#\u00a0\u200d"))


def tokens(t, text):
    return [t.vocab[i] for i in t.encode(text)]


@pytest.mark.parametrize(("word", "cut"), [("unaffable", ["un", "##affable"]), ("unable", ["un", "##able"]),
                                           ("unavoidable", ["[UNK]"]), ("able", ["able"]), ("affable", ["[UNK]"]),
                                           ("ununable", ["[UNK]"]), ("", []), (" able\tun\n", ["able", "un"])])
def test_the_case_worked_by_hand(word, cut):
    assert tokens(HAND, word) == cut


def test_ids_of_hugging_face():
    """300 of 300, and what they decode to."""
    t = WordPieceTokenizer.from_vocab(reference_data.path("golden", "wordpiece", "vocab.txt"))
    with open(reference_data.path("golden", "wordpiece_encode.jsonl"), encoding="utf-8") as f:
        rows = list(map(json.loads, f))
    assert len(rows) == 300
    for row in rows:
        assert t.encode(row["text"]) == row["ids"] and tokens(t, row["text"]) == row["tokens"]
        assert t.decode(row["ids"]) == row["decoded"]


@given(TEXT)
def test_every_token_is_the_longest_that_fits(text):
    """And what is not unknown comes back, apart from white space."""
    for word in regex.findall(BERT_WORD, unicodedata.normalize("NFC", text)):
        found, at = [TRAINED.vocab[i] for i in TRAINED.encode_word(word)], 0
        fitting = [[token for token in TRAINED.vocab if token not in TRAINED.special and (
            word.startswith(token, i) if not i else token.startswith("##") and word.startswith(token[2:], i))]
            for i in range(len(word))]
        if found == ["[UNK]"]:
            while at < len(word) and fitting[at]:
                at += len(max(fitting[at], key=len)) - 2 * (at > 0)
            assert at < len(word)
            continue
        for token in found:
            assert token == max(fitting[at], key=len)
            at += len(token) - 2 * (at > 0)
        assert at == len(word)
    if "[UNK]" not in tokens(TRAINED, text):
        assert "".join(TRAINED.decode(TRAINED.encode(text)).split()) == "".join(
            unicodedata.normalize("NFC", text).split())


def test_training_by_hand():
    """ab 4 times, ab inside of xab twice, c apart from all. Of the pairs: a ##b 4/(4 x 6), x ##a 2/(2 x 2), ##a ##b
    2/(2 x 6), so x ##a is joined first, then xa ##b with 2/(2 x 6) and a ##b with 4/(4 x 6): equal, but a is older."""
    text = "ab " * 4 + "xab " * 2 + "c"
    t = WordPieceTokenizer.train(text, 100, min_count=2, special_tokens=())
    assert t.vocab == ["[UNK]", "a", "c", "x", "##a", "##b", "xa", "ab", "xab"]
    t = WordPieceTokenizer.train(text, 100, min_count=3, special_tokens=())
    assert t.vocab == ["[UNK]", "a", "c", "x", "##a", "##b", "ab"]


@given(st.lists(st.text("aabcक", min_size=1, max_size=8), min_size=1, max_size=12), st.integers(0, 12),
       st.integers(2, 4))
def test_each_joined_pair_had_the_highest_score(words, n, min_count):
    """And every join spells a new token."""
    t = WordPieceTokenizer.train(" ".join(words), 5 + 8 + n, min_count)
    spelled = list(map(wordpiece.spell, words))
    start = 5 + len({c for w in spelled for c in w})
    for token in t.vocab[start:]:
        flat = [c for w in spelled for c in w]
        pairs = [p for w in spelled for p in pairwise(w)]
        score = {p: Fraction(pairs.count(p), flat.count(p[0]) * flat.count(p[1])) for p in pairs
                 if pairs.count(p) >= min_count}
        best = min(score, key=lambda p: (-score[p], t.vocab.index(p[0]), t.vocab.index(p[1])))
        assert best[0] + best[1][2:] == token
        spelled = [wordpiece.join(w, best, token) for w in spelled]


def test_nothing_is_lower_cased_and_no_accent_is_dropped():
    t = WordPieceTokenizer.train("Éa ea किताब", 100)
    assert t.decode(t.encode("Éa")) == "Éa" != t.decode(t.encode("ea"))
    assert t.decode(t.encode("E\u0301a किताब")) == "Éa किताब"
    assert tokens(t, "É" * 200) == ["[UNK]"]


def test_special_tokens_are_plain_text_unless_allowed():
    assert "[CLS]" not in tokens(TRAINED, "[CLS] cat")
    assert TRAINED.encode("[CLS]cat", allowed_special="all")[0] == TRAINED.special["[CLS]"] == 2


@given(st.text("abक।, ", min_size=1).filter(str.strip), st.integers(0, 9))
def test_save_and_load_give_the_same_tokenizer(tmp_path_factory, text, n):
    path = tmp_path_factory.mktemp("tok") / "t.json"
    t = WordPieceTokenizer.train(text, 20 + n, min_count=2)
    t.save(path)
    again = load(path)
    assert again.hash == t.hash and again.vocab == t.vocab and again.encode(text) == t.encode(text)


def test_the_cache_is_bounded(monkeypatch):
    monkeypatch.setattr(base, "CACHED_WORDS", 3)
    t = WordPieceTokenizer(TRAINED.vocab)
    assert t.encode(VERSE) == TRAINED.encode(VERSE) == t.encode(VERSE) and len(t._cache) <= 3


@pytest.mark.parametrize(("f", "says"), [
    (lambda: WordPieceTokenizer(["[UNK]", "a", "a"], special_tokens=()), "got token 'a' twice; expected different"),
    (lambda: WordPieceTokenizer(["a"], special_tokens=()), r"special token '\[UNK\]', which is not in vocab"),
    (lambda: WordPieceTokenizer.train(" \n", 100), "got no text; expected at least one character that is no white"),
    (lambda: WordPieceTokenizer.train("abc", 7), "got vocab_size 7; expected a whole number from 8 up"),
    (lambda: WordPieceTokenizer.train("abc", "9"), "got vocab_size '9'"),
    (lambda: WordPieceTokenizer.train("abc", 9, 1), "got min_count 1; expected a whole number from 2 up"),
    (lambda: WordPieceTokenizer.train(["a", 7], 100), "train, text 1: got int; expected str"),
])
def test_errors_say_what_was_got_and_what_was_expected(f, says):
    with pytest.raises(ValueError, match=says):
        f()


# -------------------------------------------------------------------------------------------- files of other programs

def test_the_golden_file_of_hugging_face():
    folder = reference_data.path("golden", "wordpiece")
    assert WordPieceTokenizer.from_hf(folder).hash == WordPieceTokenizer.from_vocab(folder / "vocab.txt").hash


def test_what_is_written_is_read_again(tmp_path):
    TRAINED.to_hf(tmp_path)
    TRAINED.to_vocab(tmp_path / "vocab.txt")
    assert WordPieceTokenizer.from_hf(tmp_path).hash == TRAINED.hash == load(tmp_path / "tokenizer.json").hash
    assert WordPieceTokenizer.from_vocab(tmp_path / "vocab.txt").hash == TRAINED.hash
    lines = (tmp_path / "vocab.txt").read_bytes()
    (tmp_path / "vocab.txt").write_bytes(lines.replace(b"\n", b"\r\n"))              # as Windows would have it
    assert WordPieceTokenizer.from_vocab(tmp_path / "vocab.txt").hash == TRAINED.hash
    with pytest.raises(ValueError, match="to_vocab: got the token 'a.nb'; expected tokens that each fill a line"):
        WordPieceTokenizer(["[UNK]", "a\nb"], special_tokens=()).to_vocab(tmp_path / "vocab.txt")


def test_they_read_what_we_write(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    TRAINED.to_hf(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    @given(TEXT)
    @settings(max_examples=300)
    def any_text(text):
        assert theirs.encode(text).ids == TRAINED.encode(text, allowed_special="all")
    any_text()


@pytest.mark.parametrize(("step", "value", "says"), [
    ("normalizer", None, "got the normalizer None"),
    ("normalizer", {"type": "BertNormalizer", "lowercase": True}, "got the normalizer"),
    ("pre_tokenizer", {"type": "Whitespace"}, "got the pre_tokenizer"),
    ("added_tokens", [{"id": 999, "content": "[X]", "special": True}], "expected ids that count them through"),
])
def test_what_is_not_ours_is_refused_by_name(tmp_path, step, value, says):
    TRAINED.to_hf(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content | {step: value}), "utf-8")
    with pytest.raises(ValueError, match=says):
        WordPieceTokenizer.from_hf(tmp_path)


@given(TEXT)
def test_a_stream_of_words(text):
    ids = TRAINED.encode(text)
    assert "".join(TRAINED.decode_stream(ids)) == TRAINED.decode(ids)
