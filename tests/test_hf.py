"""Vocabularies of other programs, read and written: Hugging Face's tokenizer.json, tiktoken's ranks, GPT-2's files."""
import base64
import json

import pytest
import reference_data
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bpe_cpu import SAYING, TEXT, everything

from tok import BPETokenizer, CharTokenizer, HindiTokenizer, hf, load
from tok.split import SPLITS

END = "<|endoftext|>"
SPLIT_OF_LLAMA_3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                    r"|\s*[\r\n]+|\s+(?!\S)|\s+")
TRAINED = [BPETokenizer.train(SAYING * 3, 340, split, ["<a>", END]) for split in SPLITS]
SHIFTED = [BPETokenizer(t.merges, t.split, t.special, [(i + 2) % len(t.ids) for i in t.ids]) for t in TRAINED]
every = pytest.mark.parametrize("t", [*TRAINED, *SHIFTED])


def gpt2():
    return BPETokenizer.from_gpt2(reference_data.path("gpt2", "encoder.json"), reference_data.path("gpt2", "vocab.bpe"))


def same(a, b):
    return a.hash == b.hash and a.vocab == b.vocab and a.special == b.special


def test_bytes_as_gpt2_writes_them():
    """By another rule, which gives the same: what Latin-1 can show stands for itself, the rest follows U+00FF."""
    found = {b: c for c, b in hf.gpt2_bytes().items()}
    shown = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace()]
    hidden = [b for b in range(256) if b not in shown]
    assert found == {b: chr(b) for b in shown} | {b: chr(0x100 + i) for i, b in enumerate(hidden)}
    assert (found[ord(" ")], found[ord("\n")], found[0x7f], found[0xad]) == ("Ġ", "Ċ", "ġ", "Ń")
    assert list(hf.gpt2_bytes().values())[:3] == [*b"!\"#"]                      # the ids of GPT-2 begin with these


# --------------------------------------------------------------------------------------------------------- Hugging Face

@every
def test_what_is_written_is_read_again(t, tmp_path):
    t.to_hf(tmp_path / "new" / "folder")
    assert same(BPETokenizer.from_hf(tmp_path / "new" / "folder"), t)
    assert same(BPETokenizer.from_hf(tmp_path / "new" / "folder" / "tokenizer.json"), t)


@every
def test_they_read_what_we_write(t, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    t.to_hf(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == t.vocab_size

    @given(TEXT | st.text(st.sampled_from(SAYING), max_size=60))
    @settings(max_examples=300)
    def any_text(text):
        for s in (text, f"{text}{END}{text}<a>"):
            ids = theirs.encode(s).ids
            assert ids == t.encode(s, allowed_special="all")
            assert theirs.decode(ids, skip_special_tokens=False) == t.decode(ids)
    any_text()


def test_what_they_read_on_the_reference_texts(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    t = BPETokenizer.train(everything(), 2000)
    t.to_hf(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in everything():
        lines = text.splitlines(True)[::7]
        assert [e.ids for e in theirs.encode_batch(lines)] == [t.encode(line, allowed_special="all") for line in lines]


def test_the_golden_file_of_hugging_face():
    t = BPETokenizer.from_hf(reference_data.path("golden", "hf_bpe"))
    assert t.vocab_size == 4096 and t.special == {END: 0}
    with open(reference_data.path("golden", "hf_bpe", "encode.jsonl"), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    assert len(rows) == 300
    for row in rows:
        assert t.encode(row["text"]) == row["ids"], row["text"]
        assert t.decode(row["ids"]) == row["text"]


def test_gpt2_goes_there_and_back(tmp_path):
    t = gpt2()
    t.to_hf(tmp_path)
    assert same(BPETokenizer.from_hf(tmp_path), t)


@pytest.mark.parametrize("whole_words_first", [True, False])
def test_a_file_that_lists_every_pair_of_a_token(tmp_path, whole_words_first):
    """As files do that were made from tiktoken's: two pairs make `करत`."""
    t = TRAINED[2]
    t.to_hf(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    vocab, merges = content["model"]["vocab"], content["model"]["merges"]
    names = {name for name in vocab if name not in t.special}
    every = [[name[:i], name[i:]] for name in sorted(names, key=vocab.get) for i in range(1, len(name))
             if name[:i] in names and name[i:] in names]
    assert len(every) > len(merges)
    content["model"] |= {"merges": every, "ignore_merges": whole_words_first}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    assert same(BPETokenizer.from_hf(tmp_path), t)


def test_a_pattern_of_their_own(tmp_path):
    t = BPETokenizer(TRAINED[2].merges, SPLIT_OF_LLAMA_3, [END])
    t.to_hf(tmp_path)
    again = BPETokenizer.from_hf(tmp_path)
    assert same(again, t)
    assert again.encode(SAYING + "1234") == t.encode(SAYING + "1234")


def changed(content, path, value):
    *outer, last = path
    for key in outer:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize(("path", "value", "says"), [
    (["model", "type"], "Unigram", "got a model of type 'Unigram'; expected BPE"),
    (["model", "dropout"], 0.1, "dropout 0.1; expected none"),
    (["model", "continuing_subword_prefix"], "##", "continuing_subword_prefix '##'; expected none"),
    (["model", "byte_fallback"], True, "byte_fallback True"),
    (["model", "vocab"], [], "JSON without a model that has a vocabulary"),
    (["model", "merges", 0], "a", "got the merge .'a'."),
    (["model", "merges", 0], "a b c", "got the merge"),
    (["model", "merges", 0], "ab c", "got the "),
    (["model", "merges", 0], "\u3042 c", "got a token with '\u3042'"),
    (["model", "merges"], [], "in the vocabulary or in the merges alone"),
    (["model", "vocab", "zzz"], 9, r"the token b'zzz' in the vocabulary or in the merges alone"),
    (["model", "vocab", "a"], 98, "different ids; expected"),
    (["model", "vocab", "a"], "98", "id '98'; expected whole numbers"),
    (["model", "vocab", "a"], 10**9, "got id 1000000000; expected whole numbers from 0 to"),
    (["normalizer"], {"type": "Lowercase"}, "got the normalizer .*Lowercase"),
    (["pre_tokenizer"], None, "got the pre_tokenizer None"),
    (["pre_tokenizer"], {"type": "ByteLevel", "add_prefix_space": True}, "got the pre_tokenizer"),
    (["pre_tokenizer"], {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}, "not cut into words"),
    (["pre_tokenizer", "pretokenizers", 0, "invert"], True, "got the pre_tokenizer"),
    (["pre_tokenizer", "pretokenizers", 0, "pattern"], {"String": " "}, "expected a Regex"),
    (["added_tokens", 0, "lstrip"], True, "the added token '<a>' with lstrip"),
    (["added_tokens", 0, "special"], False, "the added token '<a>' with special: false"),
    (["added_tokens", 0, "id"], 999, "got '<a>' with the ids [0-9]+ and 999; expected one id"),
    (["added_tokens", 0], 7, "expected a tokenizer.json"),
    (["added_tokens"], [{}], "expected a tokenizer.json"),
])
def test_what_is_not_ours_is_refused_by_name(tmp_path, path, value, says):
    TRAINED[0].to_hf(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    changed(content, path, value)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match=says):
        BPETokenizer.from_hf(tmp_path)


def test_a_special_token_that_is_named_as_another_token(tmp_path):
    with pytest.raises(ValueError, match="special token 'a', which is also the name of another token"):
        BPETokenizer([], special_tokens=["a"]).to_hf(tmp_path)


CHARACTERS = [CharTokenizer.train(SAYING + "\n\t é", special_tokens=[END]),
              CharTokenizer.train(SAYING + "\n", unknown="<unk>", special_tokens=["<a>"])]


@pytest.mark.parametrize("t", CHARACTERS)
def test_characters(t, tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    t.to_hf(tmp_path)
    assert same(CharTokenizer.from_hf(tmp_path), t) and same(load(tmp_path), t)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))

    @given(st.lists(st.sampled_from(t.vocab if t.unknown is None else [*t.vocab, "x", "\U0001f600"])))
    def any_text(parts):
        text = "".join(parts)
        ids = theirs.encode(text).ids
        assert ids == t.encode(text, allowed_special="all")
        assert theirs.decode(ids, skip_special_tokens=False) == t.decode(ids)
    any_text()
    if t.unknown is None:
        with pytest.raises(Exception, match="WordLevel error"):
            theirs.encode("\U0001f600")


def test_special_characters_in_the_midst(tmp_path):
    CHARACTERS[0].to_hf(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    end = content["model"]["vocab"][END]
    content["model"]["vocab"] |= {"\t": end, END: 0}
    content["added_tokens"][0]["id"] = 0
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(ValueError, match="got special tokens .* among the others; expected them behind all others"):
        CharTokenizer.from_hf(tmp_path)


def test_hindi_is_known_by_its_normalizer(tmp_path):
    t = HindiTokenizer.train(SAYING * 3, 330)
    t.to_hf(tmp_path)
    assert same(load(tmp_path), t) and isinstance(load(tmp_path), HindiTokenizer)


def test_their_library_opens_the_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    TRAINED[0].to_hf(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token == END and theirs(SAYING)["input_ids"] == TRAINED[0].encode(SAYING)


# ------------------------------------------------------------------------------------------------------------- tiktoken

def ranks_of(t, path):
    names = {i: token for i, token in enumerate(t.vocab) if token is not None and i not in t.special.values()}
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in names.items()))


@pytest.mark.parametrize("t", TRAINED)
def test_ranks_give_the_merges_back(t, tmp_path):
    ranks_of(t, tmp_path / "ranks")
    assert same(BPETokenizer.from_tiktoken(tmp_path / "ranks", t.split, t.special), t)


def test_gpt2_from_ranks(tmp_path):
    """All 50,000 pairs are found from the tokens alone; and ids may leave some out before the special tokens."""
    t = gpt2()
    ranks_of(t, tmp_path / "ranks")
    again = BPETokenizer.from_tiktoken(tmp_path / "ranks", "gpt2", {END: 50256})
    assert same(again, t)
    gap = BPETokenizer.from_tiktoken(tmp_path / "ranks", "gpt2", {END: 50300})
    assert gap.vocab_size == 50301 and gap.encode("a" + END, allowed_special="all") == [*t.encode("a"), 50300]
    with pytest.raises(ValueError, match="got 50256 at position 1; expected an id that has a token"):
        gap.decode([64, 50256])


@given(words=st.lists(st.text("aab", min_size=2, max_size=6), unique=True, max_size=8),
       text=st.text("ab", max_size=30))
def test_any_two_neighbours_that_make_a_token(tmp_path_factory, words, text):
    """The theorem of merges_of(), beside the algorithm that it is about; what is refused could not be said in pairs."""
    path = tmp_path_factory.mktemp("tok") / "ranks"
    tokens = [bytes([b]) for b in range(256)] + [word.encode() for word in words]
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens)))
    rank = {token: i for i, token in enumerate(tokens)}
    parts = [bytes([b]) for b in text.encode()]
    while pairs := [(rank[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:])) if a + b in rank]:
        _, i = min(pairs)
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    try:
        t = BPETokenizer.from_tiktoken(path, "indic")
    except ValueError as e:
        assert "no vocabulary of byte pairs" in str(e)
    else:
        assert t.encode(text) == [rank[part] for part in parts]


@pytest.mark.parametrize(("line", "says"), [
    (b"YWI= x\n", "line 257: got .*; expected another token in base64"),
    (b"YWI=\n", "line 257"),
    (b"Y!WI= 256\n", "line 257"),
    (b"YQ== 256\n", "line 257"),
    (b"YWJj 256\n", "got the token b'abc', which is 3 tokens of those before it; expected two"),
    (b"YWI= 255\n", "256 different ids; expected 257"),
    (b"YWI= -1\n", "got id -1"),
])
def test_ranks_that_are_none(tmp_path, line, says):
    ranks_of(BPETokenizer([]), tmp_path / "ranks")
    with open(tmp_path / "ranks", "ab") as f:
        f.write(line)
    with pytest.raises(ValueError, match=says):
        BPETokenizer.from_tiktoken(tmp_path / "ranks")
    with open(tmp_path / "ranks", "ab") as f:
        f.truncate(f.tell() - len(line))
        f.write(b"\n\n")                                    # an empty line is none, as for tiktoken
    assert BPETokenizer.from_tiktoken(tmp_path / "ranks").vocab_size == 256
    (tmp_path / "ranks").write_bytes(b"YQ== 97\n")
    with pytest.raises(ValueError, match="no token for the byte 0x00"):
        BPETokenizer.from_tiktoken(tmp_path / "ranks")
