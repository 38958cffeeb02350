"""Text to documents, documents to shards, shards to batches: nothing lost, nothing leaked, everything explained."""
import bz2
import gzip
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_data import path as reference

import tok
from train import data
from train.config import Config
from train.data import Ahead, Shard, Validation, Windows, prepare

WORDS = ["राम", "नदी", "वन", "मन", "जल", "फूल"]


def config(tmp_path, **changes):
    return Config(**{"data": str(tmp_path / "text"), "shards": str(tmp_path / "shards"), **changes})


def couplets(n, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, 4)) + f" {i}।" for i in range(n)]


def write_jsonl(file, texts):
    lines = [json.dumps({"text": t, "id": i}, ensure_ascii=False) + "\n" for i, t in enumerate(texts)]
    file.write_text("".join(lines), encoding="utf-8")


def dealt(texts, shares):
    """{split: its documents}."""
    parts = list(data.split(texts, shares))
    return {name: [text for place, text in parts if place == name] for name in data.SPLITS}


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """A shard of 30 documents with 2 to 40 tokens each."""
    tmp_path = tmp_path_factory.mktemp("shard")
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("abcdef"), rng.integers(1, 40))) for _ in range(30)]
    tokenizer = tok.CharTokenizer.train(["\n", *texts])
    parts = [("train", text) for text in texts] + [("val", text) for text in texts[:3]]
    data.write_shards(tmp_path / "s", parts, tokenizer, "source")
    return Shard(tmp_path / "s", "train", tokenizer), texts, tokenizer


# --------------------------------------------------------------------------------------------- reading and splitting

def test_text_file_is_cut_in_three_contiguous_ranges(tmp_path):
    (tmp_path / "text").write_text("".join(chr(97 + i % 26) for i in range(1000)))
    d = prepare(config(tmp_path))
    texts = [d.tokenizer.decode(s.tokens.tolist()[1:-1]) for s in (d.train, d.val, d.test)]
    assert "".join(texts) == (tmp_path / "text").read_text()
    assert [len(t) for t in texts] == [800, 100, 100]


def test_nanogpt_split_has_no_test_part(tmp_path):
    (tmp_path / "text").write_text("ab" * 500)
    d = prepare(config(tmp_path, split=(0.9, 0.1, 0.0)))
    assert (len(d.train), len(d.val), len(d.test)) == (902, 102, 1)          # with the separators around


@given(st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=300),
       st.sampled_from([(0.8, 0.1, 0.1), (0.9, 0.1, 0.0), (1.0, 0.0, 0.0), (0.3, 0.3, 0.4)]))
def test_split_keeps_every_document_once_and_equal_ones_together(texts, shares):
    parts = dealt(texts, shares)
    if len(texts) >= data.ENOUGH:
        assert sorted(parts["train"] + parts["val"] + parts["test"]) == sorted(texts)
        assert not set(parts["train"]) & set(parts["val"]) and not set(parts["train"]) & set(parts["test"])
    else:
        assert sum(len(t) for part in parts.values() for t in part) == sum(map(len, texts))
    for name, share in zip(data.SPLITS, shares, strict=True):
        assert share or not parts[name]


def test_split_does_not_move_a_document_when_others_are_added():
    shares = (0.8, 0.1, 0.1)
    few, many = dealt(couplets(200), shares), dealt(couplets(200) + ["another"] * 50, shares)
    assert all(set(few[name]) <= set(many[name]) for name in data.SPLITS)
    assert 130 < len(few["train"]) < 185 and few["val"] and few["test"]


def test_folders_of_text_and_jsonl(tmp_path):
    folder = tmp_path / "text"
    folder.mkdir()
    write_jsonl(folder / "b.jsonl", couplets(150))
    (folder / "a.txt").write_text("नमस्ते\r\n", encoding="utf-8")
    (folder / "notes.md").write_text("not read")
    assert list(data.Documents(config(tmp_path))) == ["नमस्ते\r\n", *couplets(150)]
    d = prepare(config(tmp_path, tokenizer="bpe", vocab_size=300))
    end = d.tokenizer.special["<|endoftext|>"]
    stream = d.train.tokens.tolist()
    assert stream[0] == stream[-1] == end and stream.count(end) == len(d.train.starts) + 1
    assert len(d.train.starts) + len(d.val.starts) + len(d.test.starts) == 151


def test_a_real_folder_of_poems(tmp_path):
    d = prepare(config(tmp_path, data=str(reference("poetry"))))
    counts = [len(s.starts) for s in (d.train, d.val, d.test)]
    assert sum(counts) == 7534 and np.allclose(np.array(counts) / 7534, [0.8, 0.1, 0.1], atol=0.02)
    assert d.tokenizer.vocab_size == 74                     # the characters that its description counts
    first = next(data.read_documents(reference("poetry", "jayasi.jsonl")))
    stored = [[d.tokenizer.decode(s.tokens[a:b - 1].tolist()) for a, b in zip(s.starts, s.starts[1:], strict=False)]
              for s in (d.train, d.val, d.test)]
    assert sum(first in texts for texts in stored) == 1


def test_verse_is_its_own_source(tmp_path):
    c = config(tmp_path, data="verse", couplets=300)
    d = prepare(c)
    assert len(d.train.starts) + len(d.val.starts) + len(d.test.starts) == 300
    assert data.fingerprint(c) != data.fingerprint(config(tmp_path, data="verse", couplets=300, seed=1))


# ---------------------------------------------------------------------------------------------------------- shards

def test_shards_are_made_once_and_again_only_if_something_changed(tmp_path, monkeypatch):
    text = tmp_path / "text"
    text.write_text("hello world. " * 100)
    made = []
    monkeypatch.setattr(data, "write_shards", lambda *a, real=data.write_shards: (made.append(a[0]), real(*a)))
    for changes in ({}, {}, {"vocab_size": 999}, {"split": (0.5, 0.5, 0.0)}, {"tokenizer": "bpe", "vocab_size": 260}):
        prepare(config(tmp_path, **changes))
    assert len(made) == 3                                # char has no use for vocab_size
    os.utime(text)                                       # another time, the same text
    prepare(config(tmp_path))
    assert len(made) == 3
    text.write_text("hello there. " * 100)
    prepare(config(tmp_path))
    assert len(made) == 4
    about = json.loads((made[0] / "train.json").read_text())
    assert about["dtype"] == "uint16" and about["tokens"] == 1042 and re.fullmatch("[0-9a-f]{64}", about["tokenizer"])


def test_a_large_vocabulary_is_stored_in_four_bytes(tmp_path):
    many = "".join(chr(0x4E00 + i) for i in range(20_000)) + "".join(chr(0x20000 + i) for i in range(46_000))
    (tmp_path / "text").write_text(many, encoding="utf-8")
    d = prepare(config(tmp_path))
    assert d.train.tokens.dtype == np.uint32
    assert d.tokenizer.decode(d.train.tokens.tolist()[1:-1]) == many[:52_800]


def test_a_tokenizer_file_is_used_as_it_is(tmp_path):
    (tmp_path / "text").write_text("ab" * 500)
    tok.CharTokenizer.train("\nabcxyz").save(tmp_path / "mine.json")
    d = prepare(config(tmp_path, tokenizer=str(tmp_path / "mine.json")))
    assert d.tokenizer.vocab_size == 7
    assert prepare(config(tmp_path), d.tokenizer).train.file == d.train.file


def test_a_text_that_cannot_be_read_is_no_fault_of_the_shards(tmp_path, monkeypatch):
    """Found out after the tokenizer has read it once."""
    (tmp_path / "text").write_text("ab" * 500)
    tokenizer = prepare(config(tmp_path)).tokenizer

    def parts():
        yield "train", "ab"
        raise PermissionError(13, "Permission denied", str(tmp_path / "text"))
    (tmp_path / "others").mkdir()
    with pytest.raises(PermissionError, match="Permission denied"):
        data.write_shards(tmp_path / "others" / "a", parts(), tokenizer, "")


@pytest.mark.parametrize("fails", ["fsync", "write_text", "rename"])
def test_a_full_disk_costs_nothing_but_time(tmp_path, monkeypatch, fails):
    (tmp_path / "text").write_text("ab" * 500)
    prepare(config(tmp_path, split=(0.5, 0.5, 0.0)))
    whole = sorted((tmp_path / "shards").iterdir())
    calls = []

    def disk_full(*args, **kwargs):
        calls.append(args)
        raise OSError(28, "No space left on device")
    tokenizer = tok.load(next(path for path in whole if path.suffix == ".json"))
    with monkeypatch.context() as m:
        m.setattr(*((Path, "write_text") if fails == "write_text" else (data.os, fails)), disk_full)
        with pytest.raises(ValueError, match="--shards: got .*No space left.*expected a folder with room"):
            prepare(config(tmp_path), tokenizer)
    assert calls and [p for p in sorted((tmp_path / "shards").iterdir()) if p.name[0] != "."] == whole
    assert len(prepare(config(tmp_path), tokenizer).train) == 802
    assert not [p for p in (tmp_path / "shards").iterdir() if p.name[0] == "."]


@pytest.mark.parametrize("kind", ["char", "bpe"])
def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch, kind):
    """Killed after its third group, with half of the fourth on the disk; the same bytes come out in the end."""
    (tmp_path / "text").mkdir()
    write_jsonl(tmp_path / "text" / "a.jsonl", couplets(400))
    monkeypatch.setattr(data, "GROUP", 500)
    c = config(tmp_path, tokenizer=kind, vocab_size=300)
    want = prepare(c)
    files = {path.name: path.read_bytes() for path in want.train.file.parent.iterdir()}
    again = config(tmp_path, tokenizer=kind, vocab_size=300, shards=str(tmp_path / "again"))
    encoded, encode_batch = [], type(want.tokenizer).encode_batch

    def killed(self, texts, special, **how):
        if len(encoded) == 3:
            for path in (tmp_path / "again").glob(".*/*.bin"):
                with open(path, "ab") as f:
                    f.write(b"half of a group")
            raise KeyboardInterrupt
        encoded.append(len(texts))
        return encode_batch(self, texts, **how)

    with monkeypatch.context() as m:
        m.setattr(type(want.tokenizer), "encode_batch", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(again)
        assert not [path for path in (tmp_path / "again").iterdir() if path.is_dir() and path.name[0] != "."]
        encoded.append("once more")
        got = prepare(again)
    assert {path.name: path.read_bytes() for path in got.train.file.parent.iterdir()} == files
    assert sum(n for n in encoded if n != "once more") == 400 and len(encoded) > 6        # none was encoded twice


def test_documents_may_be_packed(tmp_path):
    (tmp_path / "text").mkdir()
    with gzip.open(tmp_path / "text" / "a.jsonl.gz", "wt", encoding="utf-8") as f:
        f.write("".join(json.dumps({"text": t}) + "\n" for t in couplets(150)))
    with gzip.open(tmp_path / "text" / "b.txt.gz", "wt", encoding="utf-8") as f:
        f.write("one\ntwo\n")
    assert list(data.Documents(config(tmp_path))) == [*couplets(150), "one\ntwo\n"]


def test_damaged_shards_are_refused(tmp_path):
    (tmp_path / "text").write_text("ab" * 500)
    d = prepare(config(tmp_path))
    d.train.file.write_bytes(d.train.file.read_bytes()[:-2])
    with pytest.raises(ValueError, match="train.bin: got a damaged shard; .*delete"):
        prepare(config(tmp_path))
    d.train.file.write_bytes(np.full(802, 9, np.uint16).tobytes())
    with pytest.raises(ValueError, match="train.bin: got a damaged shard, from token 0 on; expected its checksum"):
        Windows(prepare(config(tmp_path)).train, 8, 0).batch(0, 1)
    sidecar = d.train.file.with_suffix(".json")
    sidecar.write_text(sidecar.read_text().replace(d.tokenizer.hash, "0" * 64))
    with pytest.raises(ValueError, match="tokens of the tokenizer 0000"):
        prepare(config(tmp_path))
    sidecar.write_text("{")
    with pytest.raises(ValueError, match="damaged shard"):
        prepare(config(tmp_path))


# ------------------------------------------------------------------------------------------------------- bad input

def test_missing_path(tmp_path):
    with pytest.raises(ValueError, match="--data: got .*text', which does not exist; expected a file or folder"):
        prepare(config(tmp_path))


@pytest.mark.parametrize("content", [b"", b" \n\t\n"])
def test_empty_file(tmp_path, content):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(ValueError, match="--data: got .* without any text"):
        prepare(config(tmp_path))


def test_empty_folder(tmp_path):
    (tmp_path / "text").mkdir()
    with pytest.raises(ValueError, match="without any text; expected files that end with .txt, .jsonl"):
        prepare(config(tmp_path))


def test_a_file_that_is_not_utf8_names_byte_offset_and_file(tmp_path):
    (tmp_path / "text").write_bytes("नदी".encode() + b"\xff and more")
    with pytest.raises(ValueError, match=r"text, byte 9: got 0xff; expected UTF-8"):
        prepare(config(tmp_path))


@pytest.mark.parametrize("line", ['{"txt": "a"}', '{"text": 5}', '["a"]', "5", '{"text": null}'])
def test_a_jsonl_line_without_text_is_named(tmp_path, line):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "fine"}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=r"a.jsonl:3: got a line without a text"):
        prepare(config(tmp_path))


def test_a_line_that_is_not_json_is_named(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    with pytest.raises(ValueError, match=r"a.jsonl:2: got a line that is not JSON"):
        prepare(config(tmp_path))


def test_a_corpus_shorter_than_a_block(tmp_path):
    (tmp_path / "text").write_text("ab" * 20)
    with pytest.raises(ValueError, match="34 tokens of training text; expected more than one block of 64"):
        Windows(prepare(config(tmp_path)).train, 64, 0)


def test_no_validation_text(tmp_path):
    (tmp_path / "text").write_text("ab" * 20)
    with pytest.raises(ValueError, match="no validation text"):
        Validation(prepare(config(tmp_path, split=(1.0, 0.0, 0.0))).val, 8, 1, 100)


# --------------------------------------------------------------------------------------------------------- batches

@given(st.integers(0, 2**31), st.integers(0, 10_000), st.integers(1, 70), st.integers(1, 6), st.booleans())
def test_batches_are_slices_of_the_stream_shifted_by_one(shard, seed, position, block, rows, align):
    shard, _, _ = shard
    stream = shard.tokens.tolist()
    x, y = Windows(shard, block, seed, align).batch(position, rows)
    assert x.shape == y.shape == (rows, block) and x.dtype == np.int64
    assert (x[:, 1:] == y[:, :-1]).all()
    text = ",".join(map(str, stream))
    assert all(",".join(map(str, [*row, last])) in text for row, last in zip(x, y[:, -1], strict=True))


@given(st.integers(0, 2**31), st.integers(0, 1000), st.integers(1, 20), st.booleans())
def test_data_order_is_a_function_of_seed_and_position(shard, seed, position, rows, align):
    shard, _, _ = shard
    together, _ = Windows(shard, 16, seed, align).batch(position, rows)
    windows = Windows(shard, 16, seed, align)
    one_by_one = [windows.batch(position + k, 1)[0][0] for k in reversed(range(rows))][::-1]
    assert (together == one_by_one).all()


@given(st.integers(0, 2**31), st.integers(0, 5))
def test_an_epoch_sees_every_place_once(shard, seed, epoch):
    shard, _, _ = shard
    windows = Windows(shard, 16, seed)
    starts = sorted(windows.starts(epoch))
    assert set(np.diff(starts)) == {16}
    assert len(starts) * 16 >= len(shard) - 3 * 16
    assert list(windows.starts(epoch)) != list(windows.starts(epoch + 1))


@given(st.integers(0, 2**31), st.integers(0, 9))
@settings(max_examples=30)
def test_aligned_windows_begin_before_a_document_if_one_is_near(shard, seed, epoch):
    shard, _, _ = shard
    block = 16
    for start in Windows(shard, block, seed, align=True).starts(epoch):
        if start + 1 not in shard.starts:
            latest = max(s for s in shard.starts if s <= start + 1)
            assert start + 1 - latest >= block              # in a document longer than a block, far from its beginning
    loose = Windows(shard, block, seed).starts(epoch)
    assert any(s + 1 not in shard.starts for s in loose)


def test_aligned_windows_reach_every_part_of_a_document_longer_than_a_block(tmp_path):
    (tmp_path / "text").write_text("ab" * 500)
    train = prepare(config(tmp_path)).train
    aligned, loose = (Windows(train, 16, 0, align).starts(0) for align in (True, False))
    assert (aligned == np.where(loose < 16, 0, loose)).all()


@pytest.mark.parametrize("block", [1, 5, 16, 64])
def test_validation_scores_every_token_once(shard, block):
    shard, texts, tokenizer = shard
    v = Validation(shard, block, batch=4, tokens=10**15)
    scored = np.concatenate([y[y >= 0] for _, y in v.batches()])
    assert scored.tolist() == shard.tokens.tolist()[1:] and v.tokens == len(scored)
    assert [tokenizer.decode(ids) for ids in v.documents()] == texts


def test_bytes_are_those_of_the_text_though_rows_end_inside_characters(tmp_path):
    (tmp_path / "text").mkdir()
    write_jsonl(tmp_path / "text" / "all.jsonl", couplets(120))
    d = prepare(config(tmp_path, tokenizer="bpe", vocab_size=262))
    scored = Validation(d.val, 7, batch=4, tokens=10**6)
    whole = sum(len(d.tokenizer.decode(ids).encode()) for ids in scored.documents())
    assert scored.bytes(d.tokenizer) == whole
    cut = [d.tokenizer.decode(d.val.tokens[a:b].tolist()) for a, b in scored.rows]
    assert any("\ufffd" in text for text in cut)


def test_validation_rows_are_whole_documents_each_from_the_separator_before_it(shard):
    shard, texts, tokenizer = shard
    v = Validation(shard, 64, batch=4, tokens=300)
    end, seen = data.separator(tokenizer), []
    for x, y in v.batches():
        for inputs, targets in zip(x.tolist(), y.tolist(), strict=True):
            n = sum(t >= 0 for t in targets)
            assert inputs[0] == targets[n - 1] == end and targets[n:] == [-1] * (64 - n)
            assert inputs[1:n] == targets[:n - 1]
            seen += tokenizer.decode(targets[:n - 1]).split("\n")
    assert seen == [tokenizer.decode(ids) for ids in v.documents()]
    assert set(seen) < set(texts) and len(v.rows) == 4      # some of them, from the whole split
    assert seen[0] == texts[0] and seen[-1] == texts[-1]


def test_each_block_of_a_shard_is_looked_at_once(tmp_path, monkeypatch):
    """A flipped bit is found when its block is first read, and the others go on being read."""
    monkeypatch.setattr(data, "BLOCK", 64)
    (tmp_path / "text").write_text("abcd" * 300)
    c = config(tmp_path)
    d = prepare(c).train
    content = bytearray(d.file.read_bytes())
    content[200] ^= 1                                        # token 100, in the block of tokens 96 to 127
    d.file.write_bytes(content)
    d = prepare(c).train
    for start in (0, 60, 88, 128, 300):
        assert d.read([start], 8).shape == (1, 8)
    for start in (89, 96, 127):
        with pytest.raises(ValueError, match="from token 96 on; expected its checksum"):
            d.read([0, start], 8)


# ---------------------------------------------------------------------------------------------------------- ahead

@given(st.integers(0, 1000), st.integers(1, 9), st.integers(0, 5), st.integers(1, 12))
@settings(max_examples=40)
def test_batches_read_ahead_are_the_same(shard, position, rows, few, n):
    windows = Windows(shard[0], 16, 3, align=True)
    with closing(Ahead(windows.batches(position, rows), few)) as ahead:
        for k, (x, y) in enumerate(itertools.islice(ahead, n)):
            want = windows.batch(position + k * rows, rows)
            assert (x == want[0]).all() and (y == want[1]).all() and x.dtype == np.int64


def test_ahead_is_a_few_items_ahead_and_no_more():
    made, wanted = [], threading.Semaphore(0)

    def items():
        for i in itertools.count():
            made.append(i)
            wanted.release()
            yield i
    with closing(Ahead(items(), 3)) as ahead:
        for taken in range(1, 20):
            assert next(ahead) == taken - 1
        for _ in range(19 + 3):
            assert wanted.acquire(timeout=10)
        time.sleep(0.01)
        assert len(made) == 19 + 3
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_ahead_hands_on_what_went_wrong_in_its_place():
    def items():
        yield 1
        raise ValueError("a damaged shard")
    with closing(Ahead(items(), 4)) as ahead:
        assert next(ahead) == 1
        with pytest.raises(ValueError, match="a damaged shard"):
            next(ahead)
    with closing(Ahead("abc", 2)) as ahead:
        assert list(ahead) == list("abc")


@pytest.mark.parametrize("end", ["raise KeyboardInterrupt", "raise ValueError", "sys.exit(3)", "pass"])
def test_a_program_that_ends_does_not_wait_for_what_is_ahead(end):
    """Nobody closes it, and it ends all the same."""
    code = f"import itertools, sys; from train.data import Ahead; a = Ahead(itertools.count(), 3); next(a); {end}"
    subprocess.run([sys.executable, "-c", code], timeout=60, capture_output=True)


# ---------------------------------------------------------------------------------------------------- each text once

def kept(d):
    """{split: the documents in its shard}."""
    return {name: [d.tokenizer.decode(s.tokens[a:b - 1]) for a, b in zip(s.starts, [*s.starts[1:], len(s)])]
            for name, s in zip(data.SPLITS, (d.train, d.val, d.test), strict=True)}


def test_a_text_that_came_before_is_left_out(tmp_path, capsys):
    (tmp_path / "text").mkdir()
    write_jsonl(tmp_path / "text" / "a.jsonl", couplets(150) + couplets(30))
    write_jsonl(tmp_path / "text" / "b.jsonl", couplets(7) + couplets(5, seed=1))
    d = prepare(config(tmp_path))
    assert capsys.readouterr().out.count("37 documents left out") == 1
    assert sorted(itertools.chain(*kept(d).values())) == sorted(couplets(150) + couplets(5, seed=1))
    assert list(data.Documents(config(tmp_path))) == couplets(150) + couplets(5, seed=1)
    every = prepare(config(tmp_path, deduplicate=False))
    assert sum(map(len, kept(every).values())) == 192 and every.source != d.source and not capsys.readouterr().out
    assert kept(prepare(config(tmp_path))) == kept(d) and not capsys.readouterr().out         # nothing was read again


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=60))
def test_each_text_comes_once_where_it_came_first(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("once")
    write_jsonl(folder / "a.jsonl", texts)
    documents = data.Documents(Config(data=str(folder)))
    assert list(documents) == list(dict.fromkeys(texts)) and documents.dropped == len(texts) - len(set(texts))
    assert list(documents) == list(dict.fromkeys(texts)) and documents.dropped == len(texts) - len(set(texts))


def test_verse_is_left_as_its_source_composes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(data.verse, "corpus", lambda n, seed: iter(["a", "b", "a"]))
    assert list(data.Documents(config(tmp_path, data="verse"))) == ["a", "b", "a"]


def test_a_killed_run_leaves_out_the_same(tmp_path, monkeypatch):
    """What came before the kill counts as having come before."""
    (tmp_path / "text").mkdir()
    write_jsonl(tmp_path / "text" / "a.jsonl", couplets(150) + couplets(120))
    monkeypatch.setattr(data, "GROUP", 500)
    want = prepare(config(tmp_path))
    again, calls = config(tmp_path, shards=str(tmp_path / "again")), []

    def killed(self, texts, special, real=tok.CharTokenizer.encode_batch, **how):
        calls.append(texts)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, texts, special, **how)
    monkeypatch.setattr(tok.CharTokenizer, "encode_batch", killed)
    with pytest.raises(KeyboardInterrupt):
        prepare(again)
    got = prepare(again)
    assert kept(got) == kept(want) and sum(map(len, calls)) == 150 + len(calls[3])


def test_no_document_moves_when_texts_of_any_kind_are_added(tmp_path):
    pytest.importorskip("mwparserfromhell")
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    def pages(texts):
        return "<mediawiki>" + "".join(f"<page><title>{i}</title><ns>0</ns><text>{text}</text></page>"
                                       for i, text in enumerate(texts)) + "</mediawiki>"
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "w.xml").write_text(pages(couplets(150)), encoding="utf-8")
    write_table(pa.table({"text": couplets(150, seed=1)}), folder / "p.parquet")
    few = kept(prepare(config(tmp_path)))
    assert sum(map(len, few.values())) == 300 and all(few.values())
    (folder / "w.xml").write_text(pages(couplets(300)), encoding="utf-8")
    write_table(pa.table({"text": couplets(9, seed=2) + couplets(150, seed=1)}), folder / "p.parquet")
    (folder / "a.jsonl.bz2").write_bytes(bz2.compress(
        "".join(json.dumps({"text": text}) + "\n" for text in couplets(99, seed=3)).encode()))
    many = kept(prepare(config(tmp_path)))
    assert all(set(few[name]) <= set(many[name]) for name in data.SPLITS) and sum(map(len, many.values())) == 558


# ----------------------------------------------------------------------------------- splits by name, special tokens
def test_files_named_after_splits_are_those_splits(tmp_path):
    folder, texts = tmp_path / "text", couplets(150)
    folder.mkdir()
    for name, some in (("train", texts[:20]), ("val", texts[20:140]), ("test", texts[140:])):
        write_jsonl(folder / f"{name}.jsonl", some)
    found = prepare(config(tmp_path))
    for name, some in (("train", texts[:20]), ("val", texts[20:140]), ("test", texts[140:])):
        shard = getattr(found, name)
        assert len(shard.starts) == len(some) and found.tokenizer.decode(shard.tokens) == "\n".join(["", *some, ""])
    (folder / "test.jsonl").rename(folder / "train.first.jsonl")     # the same texts in the same order, none for test
    assert len(prepare(config(tmp_path)).train.starts) == 20 + len(texts[140:])
    (folder / "train.first.jsonl").rename(folder / "more.jsonl")     # now one name is no split's: they are dealt out
    assert len(prepare(config(tmp_path)).train.starts) > 100


def test_special_tokens_in_the_text_are_tokens_if_that_is_asked_for(tmp_path):
    """But for the one that ends a document."""
    texts = [f"<form=doha>{text} {data.END}" for text in couplets(120)]
    tok.BPETokenizer.train(texts, 300, special_tokens=[data.END, "<form=doha>"]).save(tmp_path / "tok.json")
    (tmp_path / "text").mkdir()
    write_jsonl(tmp_path / "text" / "all.jsonl", texts)
    plain, special = (prepare(config(tmp_path, tokenizer=str(tmp_path / "tok.json"), special=special)).train
                      for special in (False, True))
    form, end = 299, 298
    assert form not in plain.tokens and len(plain.starts) == len(special.starts)
    assert (special.tokens[special.starts] == form).all() and (special.tokens == form).sum() == len(special.starts)
    assert (special.tokens == end).sum() == len(special.starts) + 1
    tokenizer = tok.load(tmp_path / "tok.json")
    scored = Validation(special, 64, 4, 10**6)
    assert scored.bytes(tokenizer) == sum(len(tokenizer.decode(ids).encode()) - len("<form=doha>")
                                          for ids in scored.documents())
