"""Texts out of files: nobody notices where a file was cut, nor how many counted."""
import bz2
import gzip
import io
import json
import os
import subprocess
import sys
import time
import unicodedata
from collections import Counter
from unittest import mock

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tok import BPETokenizer, bpe_cpu, corpus, split_cpu
from tok.corpus import Files, Part
from tok.hindi import HIDDEN, JOINER, SIGN, normalize
from tok.split import SPLITS, WHITE

LETTERS = "aZ'1яக \t\r\u0085\u00a0\u2003\u2028\u3000कि्।\u200d!🙂中鿿。，"
TEXT = st.text(st.sampled_from(LETTERS) | st.just("\n"), max_size=60)
every_split = pytest.mark.parametrize("split", SPLITS)
PROSE = "राम घर गया।\nसीता ने कहा, 'वह 12 दिन बाद आएगा!'\n\n  I'd say so. \n" * 30


def counted(words):
    text, edges, counts = words.spelled()
    return {bytes(text[a:b]).decode(): n for a, b, n in zip(edges, edges[1:], counts.tolist())}


def write(path, text):
    corpus.PACKED.get(path.suffix, open)(path, "wb").write(text.encode())
    return str(path)


def as_lines(texts):
    return "\n".join(json.dumps({"text": text}, ensure_ascii=i % 2 > 0) for i, text in enumerate(texts))


def test_white_space_is_that_of_the_patterns():
    every = "".join(chr(c) for c in range(0x110000) if not 0xd800 <= c < 0xe000)
    assert set(regex.findall(r"\s", every)) == set(WHITE) == {
        c for c in every if regex.fullmatch(corpus.SPACE, c.encode())}
    assert {c for c in every if regex.fullmatch(corpus.GONE, c.encode())} == set(
        regex.findall(f"[{SIGN}{HIDDEN}{JOINER}]", every))
    letters = [c for c in every if regex.fullmatch(corpus.LETTER, c.encode())]
    assert len(letters) == 386 and all(regex.fullmatch(r"\p{L}", c) for c in letters)
    chinese, stops = ([c for c in every if regex.fullmatch(what, c.encode())] for what in (corpus.CHINESE, corpus.STOP))
    assert chinese == [chr(c) for c in range(0x4e00, 0xa000)] and stops == list("、。，")


@given(TEXT, st.integers(1, 9))
@example("क\n\u0902\n x", 1)
@example("क \u0902\nक", 1)                                 # what normalizing takes away stood between white space
@settings(max_examples=300)
def test_pieces_cut_no_word(tmp_path_factory, text, size):
    path = write(tmp_path_factory.mktemp("tok") / "a.txt", text)
    with mock.patch.object(corpus, "PIECE", size):
        pieces = list(Files(path))
        assert "".join(pieces) == text
        assert sum(n for _, n in corpus.pieces(Part(path))) == len(text.encode())
    for pattern in SPLITS.values():
        for form in str, normalize:
            assert [word for piece in pieces for word in regex.findall(pattern, form(piece))] == regex.findall(
                pattern, form(text))


@given(TEXT.map(lambda text: text * 3), st.integers(1, 40))
@settings(max_examples=200)
def test_parts_cut_no_word(tmp_path_factory, text, size):
    path = write(tmp_path_factory.mktemp("tok") / "a.txt", text)
    with mock.patch.object(corpus, "PART", size):
        parts = corpus.parts_of(path)
    found = ["".join(piece for piece, _ in corpus.pieces(part)) for part in parts]
    assert "".join(found) == text
    for pattern in SPLITS.values():
        assert [word for part in found for word in regex.findall(pattern, part)] == regex.findall(pattern, text)


@given(st.lists(TEXT, min_size=1), st.integers(1, 60))
def test_lines_of_a_part(tmp_path_factory, texts, size):
    path = write(tmp_path_factory.mktemp("tok") / "a.jsonl", as_lines(texts))
    with mock.patch.multiple(corpus, PART=size, PIECE=size):
        assert list(Files(path)) == texts
        parts = corpus.parts_of(path)
        assert [text for part in parts for text, _ in corpus.pieces(part)] == texts
    assert size > 9 or len(texts) < 3 or len(parts) > 1


def test_a_text_comes_in_pieces(tmp_path):
    path = write(tmp_path / "a.txt", PROSE)
    with mock.patch.object(corpus, "PIECE", 500):
        sizes = [len(piece.encode()) for piece in Files(path)]
        assert len(sizes) > 5 and max(sizes) <= 2 * 500
        path = write(tmp_path / "b.txt", "घर कर " * 1000)                              # without a line break
        assert max(len(piece.encode()) for piece in Files(path)) <= 2 * 500
        for text in ("слово и дело\r\n", "அம்ம வர\n\n", "床前明月光，疑是地上霜。\r\n"):     # no other cuts
            text *= 500
            assert max(len(piece.encode()) for piece in Files(write(tmp_path / "c.txt", text))) <= 2 * 500


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.bz2", "a.jsonl", "a.jsonl.gz", "a.jsonl.bz2"])
def test_every_kind_of_file(tmp_path, name):
    path = write(tmp_path / name, as_lines([PROSE, "x"]) + "\n \n" if "jsonl" in name else PROSE)
    (tmp_path / "notes.md").write_text("no text")
    want = [PROSE, "x"] if "jsonl" in name else [PROSE]
    assert list(Files(path)) == list(Files(tmp_path))
    assert "".join(Files(path)) == "".join(want)
    assert counted(Files(path).words(SPLITS["indic"])) == Counter(
        word for text in want for word in regex.findall(SPLITS["indic"], text))


ORPHANS = """if True:
    import os, signal
    from tok.processes import pool
    if __name__ == "__main__":
        with pool(2) as workers:
            pids = {workers.submit(os.getpid).result() for _ in range(9)}
            ignored = workers.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
            print(ignored, *pids, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="looks for processes in /proc")
def test_children_end_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "orphans.py").write_text(ORPHANS)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, tmp_path / "orphans.py"], env=env, capture_output=True, text=True).stdout
    ignored, *pids = out.split()
    assert ignored == "True" and pids
    until = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{pid}") for pid in pids):
        assert time.monotonic() < until, "a child lives on"
        time.sleep(0.05)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_a_byte_order_mark_is_no_text(tmp_path, name):
    texts, between = ["राम घर\ufeff गया", "\ufeffa second one"], "" if name == "a.jsonl" else "\n"
    write(tmp_path / name, "\ufeff" + (between.join(texts) if between else as_lines(texts)))
    assert "".join(Files(tmp_path / name)) == between.join(texts)


def test_stdin(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(PROSE.encode())))
    assert "".join(Files("-", processes=2)) == PROSE


@every_split
def test_several_processes_count_the_same(tmp_path, split):
    write(tmp_path / "a.txt", PROSE)
    write(tmp_path / "b.jsonl.gz", as_lines(["क\u093c", "e\u0301"]))
    alone = Files(tmp_path).words(SPLITS[split], unicodedata_nfc)
    with mock.patch.object(corpus, "PART", 300):
        together = Files(tmp_path, processes=2).words(SPLITS[split], unicodedata_nfc)
    assert counted(alone) == counted(together) and "é" in counted(together) and not together.forgotten
    assert BPETokenizer.train(Files(tmp_path), 300, split).merges == BPETokenizer.train(
        [PROSE, "क\u093c", "e\u0301"], 300, split).merges


def unicodedata_nfc(text):
    return unicodedata.normalize("NFC", text)


def test_progress_changes_nothing(tmp_path, capsys):
    path = write(tmp_path / "a.txt", PROSE)
    assert list(Files(path, progress=True)) == list(Files(path))
    assert "read: 100%" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- parquet

def table(path, **columns):
    """A .parquet file with two rows in each of its groups."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table
    write_table(pa.table(columns), path, row_group_size=2)
    return str(path)


def test_rows_of_parquet(tmp_path):
    texts = [PROSE, None, "क", "", "x\ny"]
    path = table(tmp_path / "a.parquet", id=list(range(5)), text=texts)
    want = [text for text in texts if text is not None]
    assert list(Files(path)) == list(Files(tmp_path)) == want
    assert sum(size for _, size in corpus.pieces(Part(path))) <= os.path.getsize(path)
    assert counted(Files(path, processes=2).words(SPLITS["indic"])) == Counter(
        word for text in want for word in regex.findall(SPLITS["indic"], text))


def test_row_groups_are_read_as_they_are_wanted(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path, taken = table(tmp_path / "a.parquet", text=[f"{i}" for i in range(9000)]), []

    def counted_batches(self, *args, real=parquet.ParquetFile.iter_batches, **columns):
        for rows in real(self, *args, **columns):
            taken.append(len(rows))
            yield rows
    with mock.patch.object(parquet.ParquetFile, "iter_batches", counted_batches):
        assert next(corpus.pieces(Part(path)))[0] == "0" and sum(taken) <= 1000
        assert [text for text, _ in corpus.pieces(Part(path))] == [f"{i}" for i in range(9000)]


def test_parquet_without_texts(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='got the columns id, words; expected a column "text"'):
        list(Files(table(tmp_path / "a.parquet", id=[1], words=["a"])))
    with pytest.raises(ValueError, match="b.parquet, row 0: got int; expected str"):
        list(Files(table(tmp_path / "b.parquet", text=[1, 2])))
    path = tmp_path / "b.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="got a damaged .parquet"):
        list(Files(path))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="Hint: pip install pyarrow$"):
        list(Files(path))


# ----------------------------------------------------------------------------------------------------- a bounded number

@given(st.lists(st.sampled_from("abcdefghij"), max_size=60), st.integers(2, 6))
def test_the_rarest_words_are_forgotten(stream, limit):
    words, want, forgotten = bpe_cpu.Words(limit), Counter(), 0
    for word in stream:
        words.add(np.frombuffer(word.encode(), np.uint8), split_cpu.kinds(), split_cpu.INDIC)
        want[word] += 1
        if len(want) == limit:
            least = sorted(want.values())[-(limit // 2) - 1]
            forgotten += sum(n for n in want.values() if n <= least)
            want = Counter({word: n for word, n in want.items() if n > least})
    assert counted(words) == want and words.forgotten == forgotten
    assert sum(want.values()) + forgotten == len(stream)


def test_memory_stays_what_it_was():
    words = bpe_cpu.Words(5000)
    for i in range(40):
        text = " ".join(f"राम {n}x{'y' * (n % 7)}" for n in range(2000 * i, 2000 * i + 2000))
        words.add(np.frombuffer(text.encode(), np.uint8), split_cpu.kinds(), split_cpu.INDIC)
    assert len(words) < 5000 and len(words.text) < 1 << 20 and len(words.places) < 1 << 15
    assert counted(words)[" राम"] == 80_000 - 40 and words.forgotten > 70_000
    more = bpe_cpu.Words(5000)
    for _ in range(3):
        more.add_counted(*words.spelled(), words.forgotten)
    assert counted(more) == {word: 3 * n for word, n in counted(words).items()}
    assert more.forgotten == 3 * words.forgotten


# --------------------------------------------------------------------------------------------------------------- errors

@pytest.mark.parametrize(("name", "content", "says"), [
    ("a.txt", b"ab\xff", "a.txt, byte 2: got 0xff; expected UTF-8. Hint: if it is ISO-8859-1"),
    ("a.txt", "ab".encode("utf-16"), "a.txt, byte 0: got 0xff; expected UTF-8. Hint: if it is UTF-16"),
    ("a.jsonl", b'{"text": "a"}\n{"text": 7}', "a.jsonl:2: got a line without a text"),
    ("a.jsonl", b'{"text": "a"}\n[' * 9, "a.jsonl:2: got a line that is not JSON"),
    ("a.jsonl", b"[" * 100_000, "not JSON"),
    ("a.jsonl", b'{"text": "a"}\n' + b"1" * 5000, "a.jsonl:2: got a line that is not JSON"),
    ("a.jsonl", b'{"text": "\\ud800"}', r"a.jsonl, byte 0: got the lone surrogate U\+D800"),
    ("a.txt.gz", b"no gzip", "a.txt.gz: got a damaged .gz"),
    ("a.txt.gz", gzip.compress(os.urandom(9999))[:-2000], "a.txt.gz: got a damaged .gz|expected UTF-8"),
    ("a.txt.bz2", b"no bzip2", "a.txt.bz2: got a damaged .bz2"),
    ("a.jsonl.bz2", bz2.compress(b'{"text": "a"}')[:-3], "a.jsonl.bz2: got a damaged .bz2"),
    ("a.md", b"", "got a folder without texts; expected files that end with .txt, .jsonl"),
])
def test_files_without_texts(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        list(Files(tmp_path))
    with pytest.raises(ValueError, match="no such file"):
        Files(tmp_path / "missing")
    with pytest.raises(OSError, match="directory"):          # what the system says is not about the content
        next(corpus.pieces(Part(str(tmp_path))))
