"""GPT-1's tokenizer: by hand, its files, and Hugging Face's library."""
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tok import GPT1Tokenizer, load
from tok.gpt1 import clean

SAYING = "The cat's low hat (12) lowers, slowly; déjà vu ÄÖ 漢字 Σας ﬁ\t\u200dx\u0007 — lower!"
OLD = st.characters(max_codepoint=0x5FF)                    # where no version of Unicode knows more than another
HAND = GPT1Tokenizer(["<unk>", *"lowers", "w</w>", "r</w>", "lo", "low</w>", "er</w>"],
                     [("l", "o"), ("lo", "w</w>"), ("e", "r</w>")])


def trained():
    """A vocabulary of some size, by the merges that are most frequent first."""
    words = [[*word[:-1], word[-1] + "</w>"] for word in clean(SAYING * 2).split()]
    first = {c for word in words for c in (*word, word[0] + "</w>") if c[0] not in "v漢"}
    vocab, merges = ["<unk>", *sorted(first)], []
    for word in words:
        while len(word) > 1:
            if word[0] in vocab and word[1] in vocab and (word[0], word[1]) not in merges:
                merges.append((word[0], word[1]))
                if word[0] + word[1] not in vocab:
                    vocab.append(word[0] + word[1])
            word[:2] = [word[0] + word[1]]
    return GPT1Tokenizer(vocab, merges)


TRAINED = trained()
every = pytest.mark.parametrize("t", [HAND, TRAINED])


@pytest.mark.parametrize(("text", "tokens"), [
    ("low", ["low</w>"]), ("lower", ["lo", "w", "er</w>"]), ("LOW  low", ["low</w>"] * 2), ("", []),
    ("lox", ["lo", "<unk>"]), ("xlow", ["<unk>", "low</w>"]), ("lów.", ["low</w>", "<unk>"]), ("w", ["w</w>"])])
def test_by_hand(text, tokens):
    assert [HAND.vocab[i] for i in HAND.encode(text)] == tokens


def test_what_comes_back():
    ids = HAND.encode("Lower low; lo w")
    assert HAND.decode(ids) == "lower low <unk>l<unk>w" == "".join(HAND.decode_stream(ids))
    assert HAND.decode([]) == ""


@every
def test_hugging_faces_library(t, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    t.to_hf(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    @given(st.text(st.sampled_from(SAYING), max_size=40) | st.text(OLD))
    @settings(max_examples=400)
    @example(SAYING)
    def any_text(text):
        ids = theirs.encode(text).ids
        assert t.encode(text) == ids
        if not text.endswith("<unk>"):
            assert t.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    any_text()


@every
def test_files_there_and_back(t, tmp_path):
    t.save(tmp_path / "own.json")
    t.to_hf(tmp_path / "hf")
    for again in (load(tmp_path / "own.json"), load(tmp_path / "hf"), GPT1Tokenizer.from_hf(tmp_path / "hf")):
        assert isinstance(again, GPT1Tokenizer) and again.hash == t.hash and again.encode(SAYING) == t.encode(SAYING)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(t.vocab)}), "utf-8")
    lines = ["#version: 0.2", *map(" ".join, t.merges), ""]
    (tmp_path / "old" / "merges.txt").write_text("\n".join(lines), "utf-8")
    assert load(tmp_path / "old").hash == t.hash


def test_transformers_class(tmp_path):
    """The class that reads the released files makes of the two files what we make of them."""
    transformers = pytest.importorskip("transformers")
    vocab, merges = {token: i for i, token in enumerate(TRAINED.vocab)}, TRAINED.merges
    theirs = transformers.OpenAIGPTTokenizer(vocab=vocab, merges=merges)
    for text in (SAYING, "lower cats", "a b c"):
        assert theirs(text)["input_ids"] == TRAINED.encode(text)


@pytest.mark.parametrize(("vocab", "merges", "says"), [
    (["<unk>", "a", "a"], [], "a token twice"),
    (["a"], [], "a vocabulary without '<unk>'"),
    (["<unk>", "a", "b"], [("a", "b")], "the merge .'a', 'b'.; expected two tokens that make a third. Hint: 'ab' is"),
    (["<unk>", "a"], [("a",)], "the merge .'a',."),
])
def test_what_is_none(vocab, merges, says):
    with pytest.raises(ValueError, match=says):
        GPT1Tokenizer(vocab, merges)


@pytest.mark.parametrize(("step", "value", "says"), [
    ("normalizer", None, "the normalizer None"), ("normalizer", {"type": "Lowercase"}, "the normalizer"),
    ("pre_tokenizer", {"type": "Whitespace"}, "the pre_tokenizer"),
])
def test_another_way_is_refused(step, value, says, tmp_path):
    HAND.to_hf(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    content[step] = value
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match=says):
        load(tmp_path)
