"""Tokenizers: nothing is lost, nothing is made up, and two independent implementations agree."""
import errno
import hashlib
import json
import os
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import reference_data
import regex
from hypothesis import given
from hypothesis import strategies as st
from test_bpe_cpu import spelled

from tok import BPETokenizer, CharTokenizer, base, bpe_cpu, hf, load
from tok.split import SPLITS

END = "<|endoftext|>"
VERSE = "बंदउँ गुरु पद पदुम परागा। सुरुचि सुबास सरस अनुरागा॥ The cat sat on the mat; the cat, it's 12 days old. "
HARD = st.text("अकखगहिीुंँ़्\u200c\u200d ab'std12१२\n\t\r\u00a0❤\ufe0f👩💻।<|>\0")      # where the patterns decide
ANY = st.text() | HARD                                                              # st.text() has no surrogates


def make(kind):
    if kind == "char":
        return CharTokenizer.train(VERSE, unknown="<unk>", special_tokens=[END])
    return BPETokenizer.train(VERSE, 300, split=kind)


every_kind = pytest.mark.parametrize("t", [make(k) for k in ("char", "indic", "gpt2")], ids=["char", "indic", "gpt2"])
every_bpe = pytest.mark.parametrize("t", [make(k) for k in SPLITS], ids=list(SPLITS))


# the definition, in its plainest form


def naive_merge(ids, pair, new):
    for i in range(len(ids) - 1):
        if (ids[i], ids[i + 1]) == pair:
            return [*ids[:i], new, *naive_merge(ids[i + 2:], pair, new)]
    return ids


def naive_train(text, n, split):
    words, merges = [list(w.encode()) for w in regex.findall(SPLITS[split], text)], []
    while len(merges) < n:
        counts = Counter(pair for ids in words for pair in pairwise(ids))
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        words = [naive_merge(ids, best, 256 + len(merges)) for ids in words]
        merges.append(best)
    return merges


def naive_encode(t, text):
    ids = []
    for word in regex.findall(t.split, text):
        part = list(word.encode())
        for pair, new in t.merges.items():                  # every merge, in the order in which it was learned
            part = naive_merge(part, pair, new)
        ids += part
    return ids


@given(text=HARD.filter(bool), n=st.integers(0, 30), split=st.sampled_from(list(SPLITS)))
def test_training_is_the_naive_training(text, n, split):
    t = BPETokenizer.train(text * 2, 257 + n, split)
    assert list(t.merges) == naive_train(text * 2, n, split)
    assert t.vocab_size == 257 + len(t.merges)
    assert len(set(t.vocab)) == t.vocab_size


@given(text=st.text("ab", min_size=8, max_size=60), n=st.integers(1, 12))
def test_training_on_runs_of_the_same_letter(text, n):
    t = BPETokenizer.train(text, 257 + n)                   # pairs that overlap themselves, and ties
    assert list(t.merges) == naive_train(text, n, "indic")
    assert len(set(t.vocab)) == t.vocab_size
    assert t.encode(text) == naive_encode(t, text)


@every_bpe
@given(text=ANY)
def test_encoding_is_the_naive_encoding(t, text):
    assert t.encode(text) == naive_encode(t, text)


def test_a_link_stays_one_and_a_device_is_none_to_be_replaced(tmp_path):
    t = make("indic")
    (tmp_path / "link.json").symlink_to("real.json")
    t.save(tmp_path / "link.json")
    assert (tmp_path / "link.json").is_symlink() and load(tmp_path / "real.json").hash == t.hash
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(ValueError, match="pipe.json'; expected a file, or a name that is free"):
        t.save(tmp_path / "pipe.json")
    assert not os.path.isfile(tmp_path / "pipe.json")


def test_more_merges_than_there_can_be_end_early():
    assert BPETokenizer.train("abab abab", 10**13).vocab_size == BPETokenizer.train("abab abab", 10**5).vocab_size < 270


def test_the_case_worked_by_hand():
    t = BPETokenizer.train("aaabdaaabac", 400, special_tokens=())
    assert list(t.merges.items()) == [((97, 97), 256), ((97, 98), 257), ((256, 257), 258)]
    assert t.encode("aaabdaaabac") == [258, 100, 258, 97, 99]
    assert t.vocab[258] == b"aaab"
    assert t.vocab_size == 259                              # 400 were asked for; the text supports three merges


# nothing is lost


@every_bpe
@given(text=ANY)
def test_decode_undoes_encode(t, text):
    assert t.decode(t.encode(text)) == text


@every_bpe
@given(text=ANY)
def test_the_pieces_joined_are_the_text(t, text):
    assert "".join(regex.findall(t.split, text)) == text


@given(text=ANY.filter(bool))
def test_characters_come_back(text):
    t = CharTokenizer.train([text[:3], text])
    assert t.decode(t.encode(text)) == text
    assert t.encode(text) == [sorted(set(text)).index(c) for c in text]
    assert t.vocab_size == len(set(text)) and not t.special


@every_kind
def test_arrays_of_ids(t):
    ids = t.encode_array(VERSE + END, allowed_special="all")
    assert ids.dtype == np.uint16 and ids.tolist() == [*t.encode(VERSE), t.special[END]]
    assert t.decode(ids) == VERSE + END


def test_arrays_of_a_large_vocabulary_are_wider():
    t = CharTokenizer("".join(map(chr, range(0x10000, 0x10000 + 2**16 + 1))))
    assert t.encode_array("\U00020000").tolist() == [2**16]


@every_kind
@given(text=ANY, cut=st.integers(0, 9))
def test_a_stream_gives_whole_characters(t, text, cut):
    ids = t.encode(text, allowed_special="all")[cut:]
    pieces = list(t.decode_stream(iter(ids)))
    assert "".join(pieces) == t.decode(ids)
    if not cut:
        so_far = t.decode(ids)
        assert all("\ufffd" not in piece or "\ufffd" in so_far for piece in pieces)
        assert "".join(pieces[:len(ids)]) == so_far              # nothing is held back at the end


def test_a_stream_waits_for_the_last_byte():
    t = BPETokenizer([])
    assert list(t.decode_stream("कa".encode())) == ["", "", "क", "a", ""]
    assert list(t.decode_stream("कa".encode()[:2])) == ["", "", "\ufffd"]
    with pytest.raises(ValueError, match="got 257 at position 1; expected a whole number from 0 to 256"):
        list(t.decode_stream([1, 257]))


def test_bytes_that_are_no_text_are_replaced():
    t = make("indic")
    assert t.decode([0xE0, 0xA4, 97]) == "\ufffda"
    with pytest.raises(UnicodeDecodeError):
        b"\xe0\xa4a".decode()


# where words end


@pytest.mark.parametrize(("text", "pieces"), [
    ("हिन्दी कविता की भाषा।", ["हिन्दी", " कविता", " की", " भाषा", "।"]),
    ("क्\u200dष श्\u200cर", ["क्\u200dष", " श्\u200cर"]),
    ("தமிழ் বাংলা ગુજરાતી", ["தமிழ்", " বাংলা", " ગુજરાતી"]),
    ("I don't know 42 things they're", ["I", " don", "'t", " know", " 42", " things", " they", "'re"]),
    ("a  b\n\nc ", ["a", " ", " b", "\n", "\n", "c", " "]),
    ("❤\ufe0f👩\u200d💻!", ["❤\ufe0f👩\u200d💻!"]),
    ("1\ufe0f\u20e3 १२", ["1\ufe0f\u20e3", " १२"]),
    ("\u093f \u0901", ["\u093f", " \u0901"]),
])
def test_the_indic_split(text, pieces):
    assert regex.findall(SPLITS["indic"], text) == pieces


def test_the_gpt2_split_cuts_at_the_vowel_signs_as_published():
    assert regex.findall(SPLITS["gpt2"], "हिन्दी कविता") == ["ह", "ि", "न", "्", "द", "ी", " कव", "ि", "त", "ा"]


# special tokens


@every_kind
def test_special_tokens_are_plain_text_unless_allowed(t):
    text = f"cat {END}{END} mat"
    end = t.special[END]
    assert end not in t.encode(text)
    assert t.encode(text, allowed_special={END}) == [*t.encode("cat "), end, end, *t.encode(" mat")]
    assert t.encode(text, allowed_special="all", disallowed_special="all") == t.encode(text, allowed_special="all")
    assert t.decode([end]) == END
    with pytest.raises(ValueError, match=r"got the special token '<\|endoftext\|>' at offset 4; expected plain text"):
        t.encode(text, disallowed_special="all")
    assert t.encode("cat <|endoftext", disallowed_special="all")
    with pytest.raises(ValueError, match="got special token '<end>'; expected one of"):
        t.encode(text, allowed_special={"<end>"})
    with pytest.raises(ValueError, match="did you mean"):
        t.encode(text, allowed_special=END)


def test_special_tokens_may_come_from_an_iterator_and_hold_a_line_break():
    t = make("indic")
    text = f"cat {END}"
    assert t.encode(text, allowed_special=iter([END])) == t.encode(text, allowed_special={END})
    assert [ids.tolist() for ids in t.encode_batch([text, text], iter([END]))] == [t.encode(text, {END})] * 2
    with pytest.raises(ValueError, match="the special token"):
        t.encode(text, disallowed_special=iter([END]))
    t = BPETokenizer([], special_tokens=["<a\nb>"])
    text = "x" * (base.PIECE - 1) + "<a\nb>y"
    assert t.encode_batch([text], "all")[0].tolist() == t.encode(text, "all")


def test_the_longest_special_token_wins():
    t = BPETokenizer([], special_tokens=["<a>", "<a><b>"])
    assert t.encode("<a><b><a>", allowed_special="all") == [257, 256]


def test_special_tokens_in_training_text_are_plain_text():
    assert BPETokenizer.train(END * 9, 300).encode(END)[0] < 300 - 1


# files


@given(text=ANY.filter(bool), n=st.integers(0, 20), names=st.lists(st.text(min_size=1), unique=True, max_size=3))
def test_save_and_load_give_the_same_tokenizer(tmp_path_factory, text, n, names):
    path = tmp_path_factory.mktemp("tok") / "t.json"
    for t in (BPETokenizer.train(text * 3, 256 + len(names) + n, "gpt2", names),
              CharTokenizer.train(text, special_tokens=names), CharTokenizer.train(text, "[unknown]", ["[end]"])):
        t.save(path)
        again = load(path)
        assert type(again) is type(t)
        assert (again.hash, again.vocab, again.special) == (t.hash, t.vocab, t.special)
        assert again.encode(text, allowed_special="all") == t.encode(text, allowed_special="all")


def test_the_hash_is_written_down_and_depends_on_everything():
    by_hand = '{"kind":"char","special":[],"tokens":["a","b"],"unit":"code point","unknown":null}'
    assert CharTokenizer("ab").hash == hashlib.sha256(by_hand.encode()).hexdigest()
    different = [
        CharTokenizer("ab"), CharTokenizer("ba"), CharTokenizer("ab", "<unk>"), CharTokenizer("ab", None, ["<unk>"]),
        CharTokenizer("ab", unit="akshara"),
        BPETokenizer([]), BPETokenizer([(97, 98)]), BPETokenizer([(98, 97)]), BPETokenizer([], SPLITS["gpt2"]),
        BPETokenizer([], special_tokens=()), BPETokenizer([], ids=range(256, -1, -1))]
    assert len({t.hash for t in different}) == len(different)


def test_a_save_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "t.json"
    make("char").save(path)
    before = path.read_bytes()

    def full(_):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        make("indic").save(path)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["t.json"]


def rehashed(content):
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return json.dumps({**content, "hash": hashlib.sha256(canonical.encode()).hexdigest()})


@pytest.mark.parametrize(("content", "says"), [
    ("", "no JSON"),
    ('{"kind": "char", "hash": "12', "no JSON"),
    (b"\x80\x81", "no JSON"),
    ("[" * 100_000, "no JSON"),
    ("[1, 2]", "JSON without 'kind' and 'hash'"),
    ('{"version": "1.0", "model": {"type": "BPE"}}', "from_hf .*: got JSON without a model that has a vocabulary"),
    ('{"version": "1.0", "model": {"type": []}}', "from_hf .*: got JSON without a model that has a vocabulary"),
    ('{"version": "1.0"}', "is this a file of another program"),
    (rehashed({"kind": "unigram"}), r"got kind 'unigram'; expected one of \["),
    ('{"kind": "char", "hash": "0", "tokens": ["a"], "unknown": null, "special": []}', "damaged or was edited"),
    (rehashed({"kind": "char", "tokens": ["a", "b"]}), "content of another shape .*special"),
    (rehashed({"kind": "bpe", "split": "(", "ids": None, "merges": [], "special": []}),
     "content of another shape .*missing"),
    (rehashed({"kind": "bpe", "split": ".", "ids": None, "merges": [[300, 1]], "special": []}),
     r"BPETokenizer, merge 0: got \[300, 1\]; expected a pair of whole numbers from 0 to 255"),
])
def test_files_that_are_not_ours_are_refused(tmp_path, content, says):
    path = tmp_path / "t.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=says):
        load(path)


@pytest.mark.parametrize("content", ["[1]", "5"])
def test_a_folder_whose_vocabulary_is_none_is_refused(tmp_path, content):
    (tmp_path / "vocab.json").write_text(content)
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(ValueError, match="content of another shape|got a list; expected {token: id}"):
        load(tmp_path)
    with pytest.raises(ValueError, match="from_gpt2 .*: got a (list|int); expected {token: id}"):
        BPETokenizer.from_gpt2(tmp_path / "vocab.json", tmp_path / "merges.txt")


def test_one_changed_character_is_noticed(tmp_path):
    path = tmp_path / "t.json"
    make("indic").save(path)
    path.write_text(path.read_text("utf-8").replace("[[", "[[1", 1), "utf-8")
    with pytest.raises(ValueError, match=r"expected hash [0-9a-f]{12}, as it was saved"):
        load(path)


# errors


@pytest.mark.parametrize(("f", "says"), [
    (lambda: make("indic").encode("ab\ud800"), r"got the lone surrogate U\+D800 at offset 2"),
    (lambda: make("char").encode("\udfff"), r"U\+DFFF at offset 0"),
    (lambda: make("indic").encode(b"ab"), "got bytes; expected str. Hint: bytes want .decode"),
    (lambda: make("indic").decode([97, 278]), "got 278 at position 1; expected a whole number from 0 to 277"),
    (lambda: make("char").decode([-1]), "got -1 at position 0"),
    (lambda: make("char").decode(np.array([1.0])), "got 1.0 at position 0"),
    (lambda: make("char").decode(np.array([0, 1]) == 1), "got False at position 0"),
    (lambda: CharTokenizer("abc").encode("cabbage"), r"got 'g' \(U\+0067\) at offset 5; expected one of the 3 char"),
    (lambda: CharTokenizer("abc", None, ["!"]).encode("a!cd", allowed_special="all"), "'d' .* at offset 3"),
    (lambda: CharTokenizer.train([]), "got no text"),
    (lambda: CharTokenizer("ab", "<x>", ["<x>"]), "got special token '<x>'; expected different, non-empty names"),
    (lambda: BPETokenizer.train(["", ""], 300), "got no text"),
    (lambda: BPETokenizer.train(["ab", "c\udc00"], 300), r"train, text 1: got the lone surrogate U\+DC00 at offset 1"),
    (lambda: BPETokenizer.train(["ab", 7], 300), "train, text 1: got int; expected str"),
    (lambda: BPETokenizer.train("ab", 256), "got vocab_size 256; expected a whole number from 257 up"),
    (lambda: BPETokenizer.train("ab", 3e2), "got vocab_size 300.0"),
    (lambda: BPETokenizer.train("ab", 300, split="gpt3"), r"got split 'gpt3'; expected one of \['indic', 'gpt2', 'g"),
    (lambda: BPETokenizer.train("ab", 300, special_tokens=["", "<x>"]), "got special token ''"),
])
def test_errors_say_what_was_got_and_what_was_expected(f, says):
    with pytest.raises(ValueError, match=says):
        f()


def test_an_unknown_character_has_a_token_where_asked_for():
    t = CharTokenizer.train("abc", unknown="<unk>")
    assert t.encode("cad") == [2, 0, 3] and t.decode([2, 0, 3]) == "ca<unk>"


def test_progress_changes_nothing():
    pytest.importorskip("tqdm")
    assert BPETokenizer.train(VERSE, 280, progress=True).hash == BPETokenizer.train(VERSE, 280).hash


# independent implementations


def test_gpt2_gives_the_ids_of_openai():
    t = BPETokenizer.from_gpt2(reference_data.path("gpt2", "encoder.json"), reference_data.path("gpt2", "vocab.bpe"))
    assert (t.vocab_size, t.special) == (50257, {END: 50256})
    with open(reference_data.path("golden", "gpt2_encode.jsonl"), encoding="utf-8") as f:
        rows = [json.loads(line) for line in f]
    assert len(rows) == 400
    for row in rows:
        assert t.encode(row["text"]) == row["ids"], row["text"]
        assert t.decode(row["ids"]) == row["text"]
        if "ids_allow_special" in row:
            assert t.encode(row["text"], allowed_special="all") == row["ids_allow_special"]


def test_gpt2_comes_back_from_its_file(tmp_path):
    t = BPETokenizer.from_gpt2(reference_data.path("gpt2", "encoder.json"), reference_data.path("gpt2", "vocab.bpe"))
    t.save(tmp_path / "t.json")
    again = load(tmp_path / "t.json")
    assert again.hash == t.hash and again.vocab == t.vocab and again.encode(VERSE) == t.encode(VERSE)


def test_files_of_two_releases_are_refused(tmp_path):
    names = list(hf.gpt2_bytes())
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nh e\nhe l\n", "utf-8")
    for tokens, good in ((["he", "hel", END], True), (["hel", "he", END], False), (["he", END, "hel"], False)):
        (tmp_path / "encoder.json").write_text(json.dumps({name: i for i, name in enumerate(names + tokens)}), "utf-8")
        if good:
            assert BPETokenizer.from_gpt2(tmp_path / "encoder.json", tmp_path / "vocab.bpe").vocab[257] == b"hel"
        else:
            with pytest.raises(ValueError, match="same release"):
                BPETokenizer.from_gpt2(tmp_path / "encoder.json", tmp_path / "vocab.bpe")


def test_training_learns_the_merges_of_hugging_face():
    """All 3,839 of them. Their byte ids are in the order of GPT-2's characters, which decides ties, so ours are too."""
    theirs = json.loads(reference_data.path("golden", "hf_bpe", "tokenizer.json").read_text("utf-8"))["model"]["merges"]
    ids = {byte: i for i, byte in enumerate(hf.gpt2_bytes().values())}

    words = Counter()
    for path in sorted(reference_data.path("poetry").glob("*.jsonl")):
        with open(path, encoding="utf-8") as f:
            for line in f:
                words.update(regex.findall(SPLITS["gpt2"], json.loads(line)["text"]))
    words = {bytes(ids[b] for b in word.encode()): n for word, n in words.items()}
    ours = bpe_cpu.learn(*spelled(words), len(theirs))
    tokens = list(hf.gpt2_bytes())
    for left, right in ours:
        tokens.append(tokens[left] + tokens[right])
    assert [[tokens[left], tokens[right]] for left, right in ours] == [list(pair) for pair in theirs]
