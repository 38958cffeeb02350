"""Texts in files, of any size: read a piece at a time, and their words counted by several processes.

A .txt file is one text, a .jsonl file has one in the field "text" of each line, a .xml file is a dump of Wikipedia
(wiki.py), and each may be packed as .gz or .bz2. A .parquet file has a text in each row, in the column "text". The byte
order mark with which some editors begin a file is no part of its text.

A text comes in pieces of about a megabyte, and a large file is shared out among processes. No word may notice. So a
piece ends where every pattern of split.py cuts, whatever else stands there: after a line break that has neither white
space nor a sign that tok.hindi may take away on either side, before the space between two letters, Latin, Cyrillic,
Devanagari or of India's other scripts, or between a Chinese character and the comma or full stop behind it.
"""
import bz2
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import as_completed
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import regex
from tqdm import tqdm

from tok import bpe_cpu, split_cpu, wiki
from tok.base import check_text, each_text, refusal
from tok.processes import pool
from tok.split import WHITE

PIECE, PART = 1 << 20, 1 << 25                          # bytes that are read at a time; that are worth a process
PACKED: dict[str, Callable] = {".gz": gzip.open, ".bz2": bz2.open}
SUFFIXES = (".txt", ".jsonl", ".xml", ".parquet", *(a + b for a in (".txt", ".jsonl", ".xml") for b in PACKED))
SPACE = b"|".join(regex.escape(c.encode()) for c in WHITE)
GONE = (rb"\xe0(?:\xa4[\x80-\x83\xba-\xbc\xbe\xbf]|\xa5[\x80-\x8f\x95-\x97\xa2\xa3])"     # Devanagari's signs
        rb"|\xe2\x80[\x8b-\x8d]|\xc2\xad|\xef\xbb\xbf")                                       # and what is hidden
BESIDE = SPACE + b"|" + GONE
LETTER = (rb"(?:[A-Za-z]|[\xd0\xd1][\x80-\xbf]|\xe0(?:\xa4[\x84-\xb9]|[\xa6\xa8\xaa\xac\xb0\xb2\xb4][\x95-\xa8]"
          rb"|\xae[\xae-\xb9]))")      # ka to na of India's other scripts, Tamil's ma to ha
CHINESE, STOP = rb"(?:\xe4[\xb8-\xbf]|[\xe5-\xe9][\x80-\xbf])[\x80-\xbf]", rb"(?:\xef\xbc\x8c|\xe3\x80[\x81\x82])"
CUT = (rb"(?<!^|%b)\n(?!%b)(?=[\x00-\x7f]|(?s:...))|(?<=%b)(?= %b)|(?<=%b)(?=%b)"
       % (BESIDE, BESIDE, LETTER, LETTER, CHINESE, STOP))
LONGEST = 8                                             # bytes on either side that a cut depends on
FIRST_CUT, LAST_CUT = regex.compile(CUT), regex.compile(b"(?r)" + CUT)


class Part(NamedTuple):
    """Some bytes of a file; of stdin and of packed files all, which is all that can be said."""
    path: str
    start: int = 0
    end: int | None = None


class Files:
    """The texts of files and folders, or of stdin as "-": an iterable of str, and what train() may be given for texts.

    processes: how many read and count words at most. A script that asks for more than one must be importable without
    effect, as multiprocessing says.
    """

    def __init__(self, *names: str | Path, processes: int = 1, progress: bool = False) -> None:
        self.paths, self.processes, self.progress = list(sources(names)), processes, progress

    def __iter__(self) -> Iterator[str]:
        """Every text, in pieces."""
        with closing(self._bar()) as bar:
            for path in self.paths:
                for piece, size in pieces(Part(path), self.processes):
                    yield piece
                    bar.update(size)

    def whole(self) -> Iterator[str]:
        """Every text in one piece, which must fit into memory."""
        for path in self.paths:
            found = (piece for piece, _ in pieces(Part(path), self.processes))
            yield from found if holds_many(path) else ["".join(found)]

    def words(self, split: str, normalize: Callable[[str], str] | None = None) -> bpe_cpu.Words:
        """bpe_cpu.Words of all texts, normalized first, by a pattern of split_cpu."""
        processes = min(self.processes, self._size() // PART)
        parts = [part for path in self.paths for part in parts_of(path)] if processes > 1 else []
        if len(parts) < 2:
            return count(self, split, normalize, bpe_cpu.Words())
        found = bpe_cpu.Words()
        with closing(self._bar()) as bar, pool(processes) as workers:
            for done in as_completed([workers.submit(count_part, part, split, normalize) for part in parts]):
                size, *counted = done.result()
                found.add_counted(*counted)
                bar.update(size)
        return found

    def _size(self):
        return sum(Path(path).stat().st_size for path in self.paths if path != "-")

    def _bar(self):
        total = None if "-" in self.paths else self._size()
        return tqdm(total=total, desc="read", unit="B", unit_scale=True, disable=not self.progress)


def words_of(texts: Iterable[str], split: str, where: str,
             normalize: Callable[[str], str] | None = None) -> bpe_cpu.Words:
    """bpe_cpu.Words of texts: of Files, of one str or of an iterable of str."""
    if isinstance(texts, Files):
        return texts.words(split, normalize)
    return count(each_text(texts, where), split, normalize, bpe_cpu.Words())


def count(texts: Iterable[str], split: str, normalize: Callable[[str], str] | None,
          words: bpe_cpu.Words) -> bpe_cpu.Words:
    """Count the words of texts, each normalized first, and give words back."""
    for text in texts:
        text = normalize(text) if normalize else text
        words.add(np.frombuffer(text.encode(), np.uint8), split_cpu.kinds(), split_cpu.number_of(split))
    return words


def count_part(part: Part, split: str, normalize: Callable[[str], str] | None) -> tuple:
    """In a process of its own: (bytes read, what Words.add_counted() wants)."""
    words, read = bpe_cpu.Words(), 0
    for piece, size in pieces(part):
        count([piece], split, normalize, words)
        read += size
    return read, *words.spelled(), words.forgotten


# ---------------------------------------------------------------------------------------------- files, parts and pieces

def sources(names: Iterable[str | Path]) -> Iterator[str]:
    """Files as they are, of folders those with a name that ends as SUFFIXES say, in order."""
    for name in names:
        path = Path(name)
        if path.is_dir():
            found = sorted(str(file) for file in path.iterdir() if file.name.endswith(SUFFIXES))
            if not found:
                raise refusal(str(name), "a folder without texts", f"files that end with {', '.join(SUFFIXES)}")
            yield from found
        elif str(name) == "-" or path.is_file():
            yield str(name)
        else:
            raise refusal(str(name), "no such file", "a file, a folder, or - for stdin")


def parts_of(path: str) -> list[Part]:
    """Parts of a file that can be counted one by one."""
    if path == "-" or Path(path).suffix in PACKED or kind_of(path) in (".xml", ".parquet"):
        return [Part(path)]
    size, edges = Path(path).stat().st_size, [0]
    with open(path, "rb") as f:
        for start in range(PART, size, PART):
            seen = min(start, LONGEST)
            f.seek(start - seen)
            data = f.read(PIECE + seen)
            end = data.find(b"\n", seen) + 1 if kind_of(path) == ".jsonl" else _end(FIRST_CUT.search(data, pos=seen))
            if end and start - seen + end > edges[-1]:
                edges.append(start - seen + end)
    return [Part(path, a, b) for a, b in zip(edges, [*edges[1:], size])]


def pieces(part: Part, processes: int = 1) -> Iterator[tuple[str, int]]:
    """(text, bytes read for it) of a part: each text where a file holds many, else piece by piece."""
    kind = kind_of(part.path)
    if kind == ".xml":
        yield from wiki.articles(part.path, _blocks(part), processes)
    elif kind == ".parquet":
        yield from rows_of(part.path)
    else:
        lines = kind == ".jsonl"
        for at, data, size in _rows(part) if lines else _pieces(part):
            try:
                text = data.decode().removeprefix("" if at else "\ufeff")
            except UnicodeDecodeError as e:
                name = "UTF-16" if at == 0 and data.startswith((b"\xff\xfe", b"\xfe\xff")) else "ISO-8859-1"
                raise refusal(f"{part.path}, byte {at + e.start}", f"0x{data[e.start]:02x}", "UTF-8",
                              f"if it is {name}: iconv -f {name} -t UTF-8 {part.path} > fixed.txt") from None
            yield (text_of(text, part.path, at) if lines else text), size


def kind_of(path: str | Path) -> str:
    """.jsonl, .xml or .parquet, which hold many texts; anything else is one text."""
    path = Path(path)
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def holds_many(path: str | Path) -> bool:
    """Is each of its pieces a text?"""
    return kind_of(path) in (".jsonl", ".xml", ".parquet")


def text_of(line: str, path: str, at: int) -> str:
    """The text in a line of .jsonl, which begins at that byte."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:            # a number of 5,000 digits is a ValueError
        got = f"a line that is not JSON ({e})"
    else:
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            check_text(row["text"], f"{path}, byte {at}")
            return row["text"]
        got = "a line without a text"
    line = 1 + sum(data.count(b"\n") for data, _ in _blocks(Part(path, 0, at)))
    raise refusal(f"{path}:{line}", got, '{"text": "..."}', "every line is one document")


def rows_of(path: str) -> Iterator[tuple[str, int]]:
    """(text, bytes read for it) of each row of a .parquet file that has a text."""
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise refusal(path, "a .parquet file, and no package that reads it", "pyarrow", "pip install pyarrow") from None
    try:
        with ParquetFile(path) as file:
            columns, per_row = file.schema_arrow.names, Path(path).stat().st_size / max(1, file.metadata.num_rows)
            if "text" not in columns:
                raise refusal(path, f"the columns {', '.join(columns)}", 'a column "text"')
            for row, text in enumerate(text for rows in file.iter_batches(1000, columns=["text"])
                                       for text in rows.column(0).to_pylist()):
                if text is not None:
                    check_text(text, f"{path}, row {row}")
                    yield text, int((row + 1) * per_row) - int(row * per_row)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
        raise refusal(path, f"a damaged .parquet ({e})", "a whole one") from None


def _pieces(part):
    """(where in the file, bytes, how many were read for them)."""
    at, kept, looked, read = part.start, b"", 0, 0
    for data, size in _blocks(part):
        kept, read = kept + data, read + size
        end = _end(LAST_CUT.search(kept, pos=looked))
        looked = max(0, len(kept) - LONGEST)
        if end:
            yield at, kept[:end], read
            at, kept, looked, read = at + end, kept[end:], 0, 0
    if kept:
        yield at, kept, read


def _rows(part):
    """The same of each line that is not empty."""
    at, kept, read = part.start, b"", 0
    for data, size in _blocks(part):
        *rows, kept = (kept + data).split(b"\n")
        read += size
        for row in rows:
            if row.strip():
                yield at, row, read
                read = 0
            at += len(row) + 1
    if kept.strip():
        yield at, kept, read


def _blocks(part):
    """(bytes of the part, bytes of the file that they took)."""
    packed = Path(part.path).suffix
    try:
        with sys.stdin.buffer if part.path == "-" else open(part.path, "rb") as raw:
            f = PACKED[packed](raw) if packed in PACKED else raw
            f.seek(part.start) if part.start else None
            left = sys.maxsize if part.end is None else part.end - part.start
            before = 0
            while data := f.read(min(PIECE, left)):
                left -= len(data)
                at = raw.tell() if f is not raw else before + len(data)
                yield data, at - before
                before = at
    except (EOFError, OSError, zlib.error) as e:
        if getattr(e, "errno", None):                        # the disk, and not the content
            raise
        raise refusal(part.path, f"a damaged {packed} ({e})", "a whole one") from None


def _end(found):
    return found.end() if found else 0
