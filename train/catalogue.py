"""Texts that --data knows by name: python -m train.catalogue lists them, python -m train.catalogue NAME downloads one.

A download grows in FOLDER/NAME.txt.part and outlives Ctrl-C, kills and lost connections: the next try asks for the
rest, on condition that the server's file is still the one that it began with. The checksum is looked at before the file
gets its name, so under that name there is all of it or nothing.

A dump of Wikipedia is a new one every month; its checksum is the one that is published beside it.

Not here: mirrors, and texts that want an account.
"""
import argparse
import hashlib
import json
import os
import re
import ssl
import sys
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple, NoReturn
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from minigrad.cache import one_at_a_time
from minigrad.check import exit_status
from tok.base import refusal
from train.checkpoint import to_disk, write_json
from train.config import Config

TIMEOUT = 30                          # seconds in which nothing comes
LOST = URLError, ConnectionError, TimeoutError, HTTPException, ssl.SSLError


class Source(NamedTuple):
    """A file on a server. sha256 and size are known if it never changes; else its sha1 is in the file at sums."""
    url: str
    about: str
    licence: str
    sha256: str = ""
    size: int = 0
    sums: str = ""


def wikipedia(code: str, language: str) -> Source:
    folder = f"https://dumps.wikimedia.org/{code}wiki/latest/{code}wiki-latest-"
    return Source(folder + "pages-articles.xml.bz2", f"Wikipedia in {language}, all articles", "CC BY-SA 4.0",
                  sums=folder + "sha1sums.txt")


SOURCES = {
    "tinyshakespeare": Source(
        "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
        "40,000 lines of Shakespeare", "public domain",
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", 1_115_394),
    "names": Source(
        "https://raw.githubusercontent.com/karpathy/makemore/master/names.txt",
        "32,033 first names, one a line", "public domain",
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d", 228_145),
    "hi-wikipedia": wikipedia("hi", "Hindi"),
    "simple-wikipedia": wikipedia("simple", "simple English"),
    "en-wikipedia": wikipedia("en", "English"),
    "fineweb-edu": Source(
        "https://huggingface.co/datasets/karpathy/fineweb-edu-100b-shuffle/resolve/main/shard_00000.parquet",
        "English pages that teach, the first of 1,823 files", "ODC-By 1.0"),
}


def file_of(name: str, folder: str | Path) -> Path:
    """Where a source is kept: under its name, and the endings that its URL has."""
    return Path(folder, f"{name}.{SOURCES[name].url.rpartition('/')[2].partition('.')[2]}")


def fetch(name: str, folder: str | Path) -> Path:
    """The file of a source, downloaded if it is not there yet."""
    file = file_of(name, folder)
    if not file.exists():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with one_at_a_time(file.parent):
                if not file.exists():                        # else another run has just brought it
                    download(name, file)
        except OSError as e:
            raise ValueError(f"--downloads: got {e}; expected a folder with room. Hint: --downloads FOLDER, or make "
                             "room: the next run goes on from what has come") from None
    return file


def download(name: str, file: Path) -> None:
    """Receive, check, rename. After a lost connection it goes on, as long as each try gets further than all before."""
    source, part = SOURCES[name], Part(file)
    most = -1
    while not part.whole():
        try:
            receive(source.url, part)
        except HTTPError as e:
            if e.code != 416 or not part.size():             # the file has become shorter than what has come of it
                refuse(name, file, f"HTTP {e.code} {e.reason}")
            part.remove()
        except LOST as e:
            if part.size() <= most:
                refuse(name, file, f"{getattr(e, 'reason', e)} after {part.size():,} bytes")
            most = part.size()
    check(name, file, part)
    to_disk(part.file)
    os.replace(part.file, file)
    to_disk(file.parent)
    part.remove()


class Part:
    """What has come of a file, and beside it what the server called the file: its ETag or date, and its size."""

    def __init__(self, file: Path) -> None:
        self.file, self.note = (file.with_name(file.name + ending) for ending in (".part", ".part.json"))

    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    def noted(self) -> tuple[str, int | None]:
        try:
            noted = json.loads(self.note.read_text(encoding="utf-8"))
            return noted["mark"], noted["bytes"]
        except (OSError, ValueError, KeyError, TypeError):
            return "", None

    def whole(self) -> bool:
        return self.file.exists() and self.size() == self.noted()[1]

    def remove(self) -> None:
        for path in self.file, self.note:
            path.unlink(missing_ok=True)


def receive(url: str, part: Part) -> None:
    """Append the rest of the file, or begin anew if the server has another one by now, or sends all of it anyway."""
    request, have, (mark, noted) = ask(url), part.size(), part.noted()
    if have and mark:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", mark)
    with urlopen(request, timeout=TIMEOUT) as answer:
        rest = answer.status == 206
        if rest:
            found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            if not found or int(found[1]) != have or noted not in (None, int(found[2])):
                part.remove()                                # else the next try would ask for the same
                raise HTTPException("another part of the file than was asked for, or a file of another size")
            size = int(found[2])
        else:
            size, have = answer.length, 0                    # None if that is not said, or not a number
        with open(part.file, "ab" if rest else "wb") as f:
            if not rest:
                etag = answer.headers.get("ETag", "")
                mark = answer.headers.get("Last-Modified", "") if etag.startswith("W/") or not etag else etag
                write_json(part.note, {"mark": mark, "bytes": size})
            with tqdm(total=size, initial=have, desc=part.file.stem, unit="B", unit_scale=True) as bar:
                while block := answer.read(1 << 16):
                    f.write(block)
                    bar.update(len(block))
                    have += len(block)
    if size not in (None, have):
        raise ConnectionError(f"the connection ended at {have:,} of {size:,} bytes")
    write_json(part.note, {"mark": mark, "bytes": have})     # of a file in chunks only the last one says its size


def check(name: str, file: Path, part: Part) -> None:
    """Compare the checksum; what has another one is removed, because no rest can mend it."""
    source = SOURCES[name]
    if not source.sha256 and not source.sums:
        return
    kind, want = ("sha256", source.sha256) if source.sha256 else ("sha1", published(name, file))
    digest = hashlib.new(kind)
    with open(part.file, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != want:
        part.remove()
        refuse(name, file, f"a file with {kind} {digest.hexdigest()} instead of {want}")


def published(name: str, file: Path) -> str:
    """The sha1 of today's dump. The list calls it by its day: hiwiki-20261101-pages-articles.xml.bz2."""
    source = SOURCES[name]
    try:
        with urlopen(ask(source.sums), timeout=TIMEOUT) as answer:
            lines = answer.read().decode("utf-8", "replace")
    except LOST as e:
        refuse(name, file, f"{e} for {source.sums}")
    end = re.escape(source.url.rpartition("latest")[2])
    found = re.search(rf"^([0-9a-f]{{40}})  \S+{end}$", lines, re.M)
    if not found:
        refuse(name, file, f"no checksum of it in {source.sums} (a new dump may be in the making)")
    return found[1]


def ask(url: str) -> Request:
    return Request(url, headers={"User-Agent": "minigrad-gpt (urllib)", "Accept-Encoding": "identity"})


def refuse(name: str, file: Path, got: str) -> NoReturn:
    source = SOURCES[name]
    raise refusal(f"--data {name}", got, f"{source.about}, from {source.url}",
                  f"try again later, or bring the file from elsewhere to {file}; then: python -m train.run "
                  f"--data {name}")


def table(folder: str | Path) -> Iterator[str]:
    """The catalogue, a line each, and the URL under it."""
    for name, s in SOURCES.items():
        size = f"{s.size:,} bytes" if s.size else "grows" if s.sums else ""
        here = f"  [{file_of(name, folder)}]" if file_of(name, folder).exists() else ""
        yield f"{name:17} {s.about}; {s.licence}{', ' if size else ''}{size}{here}\n{'':17} {s.url}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.catalogue", description="Texts that --data knows by name.")
    parser.add_argument("name", nargs="?", choices=SOURCES, help="the one to download; without it: list all")
    parser.add_argument("--downloads", default=Config.downloads, metavar="FOLDER", help="where to [%(default)s]")
    args = parser.parse_args(argv)
    return exit_status(lambda: print(fetch(args.name, args.downloads) if args.name
                                     else "\n".join(table(args.downloads))))


if __name__ == "__main__":
    sys.exit(main())
