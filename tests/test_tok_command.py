"""python -m tok: what a user types, and what a pipe gets."""
import csv
import errno
import gzip
import io
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from tok import BPETokenizer, HindiTokenizer, WordPieceTokenizer, analysis, corpus, jit, load
from tok.__main__ import main

TEXT = "राम घर गया।\nदुःख और सुख, 12 बार!\nthe cat sat on the mat\nthe mat\n" * 12


@pytest.fixture
def text(tmp_path):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    return str(tmp_path / "a.txt")


@pytest.mark.parametrize("kind", analysis.KINDS)
def test_train_encode_decode(tmp_path, text, kind, capsys, monkeypatch):
    out = str(tmp_path / "t.json")
    assert main(["train", kind, text, "--vocab_size", "300", "--out", out]) == 0
    t = load(out)
    assert t.encode(TEXT) and f"{t.vocab_size:,} tokens" in capsys.readouterr().err
    packed = tmp_path / "b.txt.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    assert main(["encode", out, str(packed)]) == 0
    ids = capsys.readouterr().out
    assert list(map(int, ids.split())) == t.encode(TEXT)
    monkeypatch.setattr(sys, "stdin", io.StringIO(ids))
    assert main(["decode", out]) == 0
    assert capsys.readouterr().out == t.decode(t.encode(TEXT))
    assert main(["encode", out, text, "--out", str(tmp_path / "ids.npy")]) == 0
    assert np.load(tmp_path / "ids.npy").tolist() == t.encode(TEXT)
    assert main(["decode", out, str(tmp_path / "ids.npy")]) == 0
    assert capsys.readouterr().out == t.decode(t.encode(TEXT))


def test_pieces_of_a_file_change_no_id(tmp_path, monkeypatch, capsys):
    """Where they end a pattern of one's own need not cut, nor a special token."""
    text = "the cat sat <the end> the mat\n" * 9
    (tmp_path / "a.txt").write_text(text)
    own = BPETokenizer(BPETokenizer.train(text, 300).merges, r"\S+\s*", ["<the end>"])
    for t, special in (own, ()), (BPETokenizer([], special_tokens=["<the end>"]), ["<the end>"]):
        t.save(tmp_path / "t.json")
        monkeypatch.setattr(corpus, "PIECE", 16)
        assert main(["encode", str(tmp_path / "t.json"), str(tmp_path / "a.txt"), "--special", *special]) == 0
        assert list(map(int, capsys.readouterr().out.split())) == t.encode(text, special)


def test_an_array_of_one_id_and_of_none(tmp_path, text, capsys):
    out = str(tmp_path / "t.json")
    assert main(["train", "bpe", text, "--out", out]) == 0
    np.save(tmp_path / "one.npy", np.array(97))
    (tmp_path / "none.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_bytes(b"97 98")
    capsys.readouterr()
    assert main(["decode", out, str(tmp_path / "one.npy")]) == 0 and capsys.readouterr().out == "a"
    for name in "none.npy", "text.npy":
        assert main(["decode", out, str(tmp_path / name)]) == 2
        assert f"{name}: got no whole array; expected one of ids" in capsys.readouterr().err


def test_a_page_needs_no_tokenizer():
    assert sum(row.startswith("aksharas") for row in analysis.page("हिन्दी कविता")) == 1


def test_stats_shows_every_pattern(tmp_path, capsys):
    BPETokenizer.train(TEXT, 300).save(tmp_path / "t.json")
    assert main(["stats", "हिन्दी कविता", "--tokenizers", str(tmp_path / "t.json")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"aksharas +6  हि\|न्दी\| \|क\|वि\|ता", out) and re.search(r"indic +2  हिन्दी\| कविता\n", out)
    assert re.search(r"gpt2 +10  ह\|ि", out) and "t.json" in out


def test_analyse(tmp_path, text, capsys):
    names = ["char", "akshara", "bpe:270", "bpe:270:gpt2", "wordpiece:90", "hindi:280"]
    assert main(["analyse", text, "--tokenizers", *names, "--held_out", "0.75", "--out", str(tmp_path / "found")]) == 0
    with open(tmp_path / "found" / "table.csv", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [row["tokenizer"] for row in rows] == [name for name in names for _ in range(2)]
    assert {row["text"] for row in rows} == {"in sample", "held out"}
    assert float(rows[1]["tokens_per_word"]) == len("दुःख और सुख, 12 बार!") / 5        # this line, and no part of another
    assert all(float(row["round_trip"]) == 100 for row in rows if row["tokenizer"].startswith("bpe"))
    assert (tmp_path / "found" / "tokens_per_word.png").stat().st_size > 10_000
    assert capsys.readouterr().out.count("\n") >= 14


def test_the_numbers_by_hand():
    t = WordPieceTokenizer(["[UNK]", "ab", "##c"], special_tokens=())
    row = analysis.measure(t, "t", "in sample", ["ab abc", "x ab"])
    assert (row.vocabulary, row.tokens_per_word, row.unknown, row.round_trip) == (3, 5 / 4, 25.0, 50.0)
    assert row.tokens_per_akshara == 5 / 8 and row.bytes_per_token == 10 / 5


@pytest.mark.parametrize(("arguments", "says"), [
    (["encode", "missing.json"], "missing.json"),
    (["train", "bpe", "missing.txt"], "missing.txt: got no such file"),
    (["train", "bpe", "{text}", "--vocab_size", "7"], "vocab_size 7; expected a whole number from"),
    (["train", "bpe", "{text}", "--out", "no/folder/t.json"], "a file in a folder that exists"),
    (["analyse", "{text}", "--tokenizers", "bpe", "--held_out", "0.75"], "tokenizer bpe: got no vocabulary size"),
    (["analyse", "{text}", "--tokenizers", "bpe:x", "--held_out", "0.75"], "neither a file nor KIND:SIZE:SPLIT"),
    (["analyse", "{text}", "--tokenizers", "unigram:9", "--held_out", "0.75"], "got 'unigram'; expected one of"),
    (["analyse", "{text}", "--out", "{text}"], "a file; expected a folder"),
    (["analyse", "{text}", "--held_out", "0"], "0 held out; expected some held out"),
    (["stats", "\udcff"], "stats: got the lone surrogate U+DCFF at offset 0"),
    (["scan", "{latin}"], "scan: got no word in Devanagari; expected verse"),
])
def test_what_cannot_be_done_is_said(tmp_path, text, arguments, says, capsys):
    (tmp_path / "latin.txt").write_text("the cat sat on the mat\n\nthe mat")
    assert main([a.format(text=text, latin=tmp_path / "latin.txt") for a in arguments]) == 2
    assert says in capsys.readouterr().err


def test_ids_that_are_none(tmp_path, capsys, monkeypatch):
    HindiTokenizer.train(TEXT, 300).save(tmp_path / "t.json")
    monkeypatch.setattr(sys, "stdin", io.StringIO("1 2 x"))
    assert main(["decode", str(tmp_path / "t.json")]) == 2
    assert "decode -: got 'x'; expected ids" in capsys.readouterr().err
    (tmp_path / "ids.txt").write_bytes(b"1 2 \xff")
    assert main(["decode", str(tmp_path / "t.json"), str(tmp_path / "ids.txt")]) == 2
    assert "ids.txt: got '\ufffd'; expected ids" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["stats - <&-", "decode t.json >&- <<< 97", "stats | true; exit ${PIPESTATUS[0]}"])
def test_streams_that_are_closed(tmp_path, command):
    BPETokenizer([]).save(tmp_path / "t.json")
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["bash", "-c", f"{sys.executable} -m tok {command}"], env=env, cwd=tmp_path,
                          capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_says_what_found_no_room(tmp_path, text, capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", full)
    assert main(["train", "char", text, "--out", str(tmp_path / "t.json")]) == 2
    assert f"No space left on device: '{tmp_path / 't.json'}'" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_ctrl_c_is_no_traceback(text, capsys, monkeypatch):
    def press(*_, **__):
        raise KeyboardInterrupt
    monkeypatch.setattr(analysis, "train", press)
    assert main(["train", "bpe", text]) == 130
    assert capsys.readouterr().err == "\nstopped\n"


def test_who_waits_for_a_compiler_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    jit.announce()
    assert "compiling the tokenizers, once" in capsys.readouterr().err
    (tmp_path / jit.folder() / "below").mkdir()
    (tmp_path / jit.folder() / "below" / "f.nbi").touch()
    jit.announce()
    assert capsys.readouterr().err == ""
