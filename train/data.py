"""Text in, batches out.

documents -> train, val, test -> one stream of tokens each, on disk -> windows of a block, as x, and y = x one token on.

A folder whose files are named train, val and test is split as they say; any other text by the shares of --split.

A stream is  separator document separator document ... separator  (<|endoftext|>, or a newline where the tokenizer has
none). So every document is predicted from the same start, the first token as well as the last, and its end is
predicted too: the nats of a document and the separator after it are -log p(document).

Documents are read again for every purpose and never held together, so they may be larger than memory; one document,
which is a line of .jsonl, a row of .parquet, an article, or a whole .txt, may not. All cores tokenize, and a run that
is killed meanwhile begins again where it was.

A training window is a function of (seed, its number) alone. Nothing needs to be replayed after a resume, and the order
does not depend on how many rows go through the model at once.

Not here: texts that are nearly the same as others.
"""
import difflib
import functools
import hashlib
import itertools
import json
import os
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

import tok
from minigrad.backend import stream
from minigrad.cache import one_at_a_time
from minigrad.check import expect
from tok import corpus
from tok.base import Tokenizer
from train import catalogue, verse
from train.config import Config
from train.parallel import ALONE, Group

SPLITS = ("train", "val", "test")
END = "<|endoftext|>"
ENOUGH = 100          # fewer documents than this are each cut in three, instead of being dealt out whole
GROUP = 1 << 23       # characters that are tokenized at a time; a kill costs at most these
BLOCK = 1 << 20       # bytes of a shard that have a checksum of their own, looked at when they are first read
FORMAT = 5            # of the shards, and of how texts are read; a change makes old ones invisible


# ----------------------------------------------------------------------------------------------- text -> documents

def source_files(config: Config) -> list[Path]:
    """The file, the texts of a folder in the order of their names, or what the catalogue has under that name."""
    data = config.data
    path = Path(data)
    if not path.exists() and data in catalogue.SOURCES:
        path = catalogue.fetch(data, config.downloads)
    near = difflib.get_close_matches(path.name.partition(".")[0], catalogue.SOURCES, 1)
    expect(data and path.exists(), "--data", f"{data!r}, which does not exist",      # Path("") is the folder we are in
           "a file or folder of texts, a name that python -m train.catalogue lists, or the word verse",
           f"--data {near[0]} downloads it" if near else "")
    files = [path] if path.is_file() else sorted(f for f in path.iterdir() if f.name.endswith(corpus.SUFFIXES))
    expect(files, "--data", f"the folder {data!r} without any text",
           f"files that end with {', '.join(corpus.SUFFIXES)}",
           "folders inside it are not searched; other formats must be converted")
    return files


def read_documents(file: Path) -> Iterator[str]:
    """The texts of a file that holds many, or all of it as one document."""
    return corpus.Files(file, processes=tok.base.cores()).whole()


def fingerprint(config: Config) -> str:
    """What the documents depend on, as a hash: of the bytes of all files and the splits that their names say, or of the
    recipe of verse."""
    digest = hashlib.sha256()
    if config.data == "verse":
        some = "".join(verse.corpus(min(1000, config.couplets), config.seed))       # another grammar composes others
        digest.update(f"verse {config.couplets} {config.seed} {some}".encode())
    else:
        digest.update(f"{config.deduplicate} ".encode())
        named = named_splits(config)
        for file in source_files(config):
            place = split_of(file) if named else ""
            digest.update(f"{place}{corpus.kind_of(file)} {file.suffix} {file.stat().st_size} ".encode())
            with open(file, "rb") as f:
                while block := f.read(1 << 20):
                    digest.update(block)
    return digest.hexdigest()[:16]


class Documents:
    """All documents of --data, one by one, as often as they are wanted.

    Of those in files that have the same text, the first stands for all; verse is left as its source composes it.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.dropped = config, 0                # how many were left out, once all were read

    def __iter__(self) -> Iterator[str]:
        c = self.config
        if c.data == "verse":
            yield from verse.corpus(c.couplets, c.seed)
            return
        yield from (text for _, text in self.found())

    def found(self) -> Iterator[tuple[Path, str]]:
        """(file, text) of every document that is in a file."""
        c, seen, dropped, text = self.config, set(), 0, None
        found = ((file, text) for file in source_files(c) for text in read_documents(file))
        for file, text in ((file, text) for file, text in found if text and not text.isspace()):
            if c.deduplicate:
                mark = hashlib.blake2b(text.encode(), digest_size=16).digest()
                if mark in seen:
                    dropped += 1
                    continue
                seen.add(mark)
            yield file, text
        expect(text is not None, "--data", f"{c.data!r} without any text", "some text to learn from")
        self.dropped = dropped

    def parts(self) -> Iterator[tuple[str, str]]:
        """("train" | "val" | "test", text) of every document."""
        if named_splits(self.config):
            return ((split_of(file), text) for file, text in self.found())
        return split(self, self.config.split)


def split_of(file: Path) -> str:
    return file.name.partition(".")[0]


def named_splits(config: Config) -> bool:
    """Do the names of the files say which split each is, as in train.jsonl, val.jsonl and test.jsonl?"""
    names = set() if config.data == "verse" else set(map(split_of, source_files(config)))
    return {"train", "val"} <= names <= set(SPLITS)


def split(texts: Iterable[str], shares: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Documents -> ("train" | "val" | "test", text) of each.

    Whole documents go where the hash of their text says: a document keeps its place when others are added, and two
    equal ones never face each other as training and test. A few long documents are cut instead, at the shares.
    """
    texts, ends = iter(texts), np.cumsum(shares)
    few = list(itertools.islice(texts, ENOUGH))
    if len(few) < ENOUGH:
        for text in few:
            first, second = (int(len(text) * end + 1e-6) for end in ends[:2])
            yield from ((name, part) for name, part in zip(SPLITS, (text[:first], text[first:second], text[second:]))
                        if part)
        return
    for text in itertools.chain(few, texts):
        place = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12
        yield SPLITS[min(2, int(np.searchsorted(ends, place, "right")))], text


# ----------------------------------------------------------------------------------------------- documents -> shards

@dataclass
class Data:
    """Where a run reads from: three shards, the tokenizer that made them, and the fingerprint of the text."""
    tokenizer: Tokenizer
    train: "Shard"
    val: "Shard"
    test: "Shard"
    source: str


def prepare(config: Config, tokenizer: Tokenizer | None = None, group: Group = ALONE) -> Data:
    """--data as tokens, with the tokenizer given or the one that the config asks for.

    Both the tokenizer and the shards are kept in the folder --shards, each under a hash of all that it depends on. Many
    ranks make rank 0's together, from texts that each reads for itself; a rank that cannot see them then makes its own.
    """
    if config.data != "verse":
        group.in_turn(lambda: source_files(config))          # the first one downloads what is not there
    source = group.together(lambda: fingerprint(config))
    group.same(data=source)
    kept, texts, dealt = Path(config.shards), Documents(config), "by name" if named_splits(config) else config.split
    group.together(lambda: kept.mkdir(parents=True, exist_ok=True))

    if tokenizer is None:
        tokenizer = group.in_turn(lambda: choose_tokenizer(config, source, dealt, texts.parts))
    group.same(tokenizer=tokenizer.hash)
    special = set(tokenizer.special) - {END} if config.special else set()
    folder = kept / _key("shards", source, dealt, tokenizer.hash, *sorted(special))

    def make(those):
        those.together(lambda: expect(any(name == "train" for name, _ in texts.parts()), "--data",
                                      "no text for training", "at least one document",
                                      "a larger first share in --split"))
        write_shards(folder, texts.parts(), tokenizer, source, special, those)
    if not group.first(folder.exists):
        make(group)
    group.together(lambda: folder.exists() or make(ALONE))
    if texts.dropped:
        print(f"{config.data}: {texts.dropped:,} documents left out, whose text had come before "
              "(--deduplicate false keeps them)", flush=True)
    train, val, test = group.together(lambda: [Shard(folder, name, tokenizer) for name in SPLITS])
    return Data(tokenizer, train, val, test, source)


def choose_tokenizer(config: Config, source: str, dealt: object,
                     parts: Callable[[], Iterator[tuple[str, str]]]) -> Tokenizer:
    """A tokenizer from its file, or learned from the training text; characters are those of all the text."""
    if config.tokenizer not in ("char", "bpe"):
        return tok.load(config.tokenizer)
    kept = Path(config.shards) / f"{_key('tokenizer', source, dealt, config.tokenizer, config.vocab_size)}.json"
    if kept.exists():
        return tok.load(kept)
    if config.tokenizer == "char":
        tokenizer = tok.CharTokenizer.train(itertools.chain(["\n"], (text for _, text in parts())))
    else:
        texts = (text for name, text in parts() if name == "train")
        tokenizer = tok.BPETokenizer.train(texts, config.vocab_size, progress=True)
    tokenizer.save(kept)
    return tokenizer


def _key(*parts):
    return hashlib.sha256(repr((FORMAT, *parts)).encode()).hexdigest()[:16]


def separator(tokenizer: Tokenizer) -> int:
    """The token between documents, from which each is predicted."""
    ids = front(tokenizer)
    expect(ids, "tokenizer", f"{tokenizer!r}, which has neither {END} nor a line break", "one that has a token to put "
           "between documents", f"train it with special_tokens=[..., {END!r}]")
    return ids[0]


def front(tokenizer: Tokenizer) -> list[int]:
    """The ids that stand in front of a document: the separator, if the tokenizer has one."""
    if END in tokenizer.special:
        return [tokenizer.special[END]]
    try:
        return tokenizer.encode("\n")[:1]
    except ValueError:                                       # characters, and a line break was not among them
        return []


def write_shards(folder: Path, parts: Iterable[tuple[str, str]], tokenizer: Tokenizer, source: str,
                 special: Iterable[str] = (), group: Group = ALONE) -> None:
    """Tokenize (split, text) pairs into folder, which appears complete or not at all. special: tokens that a text may
    name. Every rank of a group has the same pairs; each tokenizes some, and rank 0 writes."""
    try:
        with closing(group.only_first(lambda: Streams(folder, tokenizer, source))) as streams:
            done = group.first(lambda: streams.documents)
            if done is None:                                 # another run has just made it
                return
            texts = groups(itertools.islice(parts, done, None), GROUP)
            while some := group.together(lambda: next(texts, None)):
                found = tokenizer.encode_batch([text for _, text in some], special, share=group.share)
                group.together(functools.partial(streams.add, [name for name, _ in some], found))
            group.together(streams.finish)
    except OSError as e:
        if e.filename and folder.parent not in Path(e.filename).parents:
            raise                                            # of the text, not of its tokens
        raise ValueError(f"--shards: got {e}; expected a folder with room. Hint: --shards FOLDER, or make room: the "
                         "next run goes on from here") from None


class Streams:
    """The streams of tokens of a folder, where their documents start, and what describes them; one process at a time.

    Until finish() they grow in a hidden folder, and done.json there says how far they are good: what a killed run has
    done is not done again. documents: so many are in, or None where the folder is complete.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer, source: str) -> None:
        self.folder, self.tokenizer, self.source = folder, tokenizer, source
        self.partial = folder.with_name(f".{folder.name}")
        self.dtype, self.end = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32), separator(tokenizer)
        with ExitStack() as opened:
            opened.enter_context(one_at_a_time(folder.parent))
            self.documents = None if folder.exists() else self.open(opened)
            self.opened = opened.pop_all()

    def close(self) -> None:
        self.opened.close()

    def open(self, opened: ExitStack) -> int:
        """Where a killed run was, or the beginning. Returns how many documents are in."""
        self.partial.mkdir(exist_ok=True)
        self.tokenizer.save(self.partial / "tokenizer.json")
        self.names = {name: self.partial / f"{name}.bin" for name in SPLITS} | {
            f"{name} starts": self.partial / f"{name}.starts.bin" for name in SPLITS}
        try:
            done: dict = json.loads((self.partial / "done.json").read_text())
        except (FileNotFoundError, ValueError):
            done = {"documents": 0, "sizes": dict.fromkeys(self.names, 0)}
        self.files = {name: opened.enter_context(open(path, "ab")) for name, path in self.names.items()}
        for name, file in self.files.items():
            file.truncate(done["sizes"][name])               # what came after is of a group that was not finished
            file.seek(0, os.SEEK_END)
        if not done["documents"]:
            for name in SPLITS:
                np.array([self.end], self.dtype).tofile(self.files[name])
        self.bar = opened.enter_context(tqdm(desc="tokenize", unit=" documents", delay=1, leave=False))
        self.bar.update(done["documents"])
        return done["documents"]

    def add(self, places: list[str], found: list[np.ndarray]) -> None:
        """The ids of documents, each to the stream of its split."""
        for name in SPLITS:
            stream = [np.append(ids, self.end).astype(self.dtype) for place, ids in zip(places, found) if place == name]
            starts = np.cumsum([self.files[name].tell() // self.dtype.itemsize, *map(len, stream)])[:-1]
            np.concatenate([np.empty(0, self.dtype), *stream]).tofile(self.files[name])
            starts.astype(np.int64).tofile(self.files[f"{name} starts"])
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        self.documents += len(found)  # type: ignore[operator]         # not None: the folder is not complete
        tok.base.write_json(self.partial / "done.json", {
            "documents": self.documents, "sizes": {name: file.tell() for name, file in self.files.items()}})
        self.bar.update(len(found))

    def finish(self) -> None:
        """Let the folder appear."""
        for name in SPLITS:
            about = {"tokens": self.files[name].tell() // self.dtype.itemsize,
                     "documents": self.files[f"{name} starts"].tell() // 8, "dtype": self.dtype.name,
                     "source": self.source, "tokenizer": self.tokenizer.hash,
                     "vocab_size": self.tokenizer.vocab_size, "checksums": checksums(self.names[name]),
                     "checksums of starts": checksums(self.names[f"{name} starts"])}
            (self.partial / f"{name}.json").write_text(json.dumps(about, indent=1))
        (self.partial / "done.json").unlink()
        os.rename(self.partial, self.folder)


def checksums(path: str | Path) -> list[int]:
    """CRC-32 of each BLOCK of a file."""
    with open(path, "rb") as f:
        return [zlib.crc32(block) for block in iter(lambda: f.read(BLOCK), b"")]


def groups(parts: Iterable[tuple[str, str]], characters: int) -> Iterator[list[tuple[str, str]]]:
    """(split, text) pairs in lists of about so many characters."""
    group, size = [], 0
    for name, text in parts:
        group.append((name, text))
        size += len(text)
        if size >= characters:
            yield group
            group, size = [], 0
    if group:
        yield group


class Shard:
    """One split on disk: the stream of tokens, memory-mapped, and where its documents start."""

    def __init__(self, folder: str | Path, name: str, tokenizer: Tokenizer) -> None:
        self.file = Path(folder) / f"{name}.bin"
        try:
            about = json.loads(self.file.with_suffix(".json").read_text())
            self.tokens, starts = np.memmap(self.file, about["dtype"], "r"), self.file.with_suffix(".starts.bin")
            self.starts, self.sums = np.fromfile(starts, np.int64), about["checksums"]
            whole = (isinstance(about["tokenizer"], str)
                     and (len(self.tokens), len(self.starts)) == (about["tokens"], about["documents"])
                     and len(self.sums) == -(-self.tokens.nbytes // BLOCK)
                     and checksums(starts) == about["checksums of starts"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            whole, about = False, {"tokenizer": tokenizer.hash, "problem": e}
        self.expect(whole, "a damaged shard", "tokens and documents as its .json says")
        expect(about["tokenizer"] == tokenizer.hash, self.file, f"tokens of the tokenizer {about['tokenizer']}",
               f"{tokenizer.hash}, the one beside it", f"delete {folder}; the next run makes it again")
        self.looked_at = np.zeros(len(self.sums), bool)

    def expect(self, whole: bool, got: str, want: str) -> None:
        expect(whole, self.file, got, want, f"delete {self.file.parent}; the next run makes it again")

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, starts: Sequence, length: int) -> np.ndarray:
        """tokens[start:start + length] for each start, as rows of int64."""
        per = BLOCK // self.tokens.itemsize
        for block in {b for s in starts for b in range(s // per, (s + length - 1) // per + 1)}:
            if not self.looked_at[block]:
                found = zlib.crc32(self.tokens[block * per:(block + 1) * per].data)
                self.expect(found == self.sums[block], f"a damaged shard, from token {block * per} on", "its checksum")
                self.looked_at[block] = True
        return np.stack([self.tokens[s:s + length] for s in starts]).astype(np.int64)


# ----------------------------------------------------------------------------------------------- shards -> batches

class Windows:
    """The endless sequence of training windows: every epoch cuts the stream at other places, in another order."""

    def __init__(self, shard: Shard, block_size: int, seed: int, align: bool = False) -> None:
        self.shard, self.block_size, self.seed, self.align = shard, block_size, seed, align
        expect(len(shard) > block_size, shard.file, f"{len(shard)} tokens of training text",
               f"more than one block of {block_size}", "more text, or a smaller --block_size")
        self.per_epoch = max(1, (len(shard) - 1) // block_size - 1)
        self.epoch = functools.lru_cache(maxsize=2)(self.starts)      # two: a batch may lie across the end of an epoch

    def batch(self, position: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Windows position, position + 1, ... as x, y (rows, block_size); y is x one token later."""
        numbers = range(position, position + rows)
        starts = [self.epoch(i // self.per_epoch)[i % self.per_epoch] for i in numbers]
        tokens = self.shard.read(starts, self.block_size + 1)
        return tokens[:, :-1], tokens[:, 1:]

    def batches(self, position: int, rows: int, rank: int = 0,
                ranks: int = 1) -> Generator[tuple[np.ndarray, np.ndarray], None, None]:
        """batch() from there on, without end; of many ranks, each takes its turn."""
        for first in itertools.count(position + rank * rows, ranks * rows):
            yield self.batch(first, rows)

    def starts(self, epoch: int) -> np.ndarray:
        """Where the windows of an epoch start, shuffled."""
        rng = stream(f"windows of epoch {epoch}", self.seed)
        slack = len(self.shard) - 1 - self.per_epoch * self.block_size
        starts = rng.integers(slack + 1) + self.block_size * np.arange(self.per_epoch)
        if self.align and len(self.shard.starts):
            # a document is predicted from the separator before it, so that is where its window starts
            begins = self.shard.starts[np.searchsorted(self.shard.starts, starts + 1, "right") - 1] - 1
            starts = np.where(starts - begins < self.block_size, begins, starts)
        return rng.permutation(starts)


class Ahead:
    """An iterator of which a thread makes the next few items while the last one is in use: same items, same order.

    What goes wrong there is raised here, where the item would have come. close() ends the thread. upload: called there
    with each item, and what it returns is called here, for what comes in its place (minigrad.gpu.uploads).
    """

    def __init__(self, items: Iterable, few: int, upload: Callable | None = None) -> None:
        self.items, self.upload = iter(items) if upload is None else map(upload, items), upload
        self.thread = ThreadPoolExecutor(1, "ahead")
        self.begun = deque(self.thread.submit(next, self.items) for _ in range(few))

    def __iter__(self) -> "Ahead":
        return self

    def __next__(self) -> Any:
        self.begun.append(self.thread.submit(next, self.items))
        item = self.begun.popleft().result()
        return item() if self.upload else item

    def close(self) -> None:
        self.thread.shutdown(cancel_futures=True)


class Validation:
    """Batches that score whole documents: every token from the first to the separator after the last, once.

    A row holds as many documents as fit into a block, and then padding (target -1). A document longer than a block is
    cut into pieces. If that is more than about `tokens` tokens, rows are taken evenly from the whole split.
    """

    def __init__(self, shard: Shard, block_size: int, batch: int, tokens: int) -> None:
        expect(len(shard.starts), shard.file, "no validation text", "at least one document",
               "more text, or a larger second share in --split")
        ends = np.append(shard.starts[1:], len(shard))
        cuts = [np.arange(start, end, block_size) for start, end in zip(shard.starts, ends)]
        bounds = np.append(np.concatenate(cuts), len(shard))          # neighbours are at most a block apart
        rows, i = [], 0
        while i < len(bounds) - 1:
            j = np.searchsorted(bounds, bounds[i] + block_size, "right") - 1
            rows.append((bounds[i], bounds[j]))
            i = j
        wanted = min(len(rows), max(1, tokens // block_size))
        chosen = np.unique(np.linspace(0, len(rows) - 1, wanted).astype(int))
        self.shard, self.rows, self.block_size = shard, [rows[i] for i in chosen], block_size
        self.batch = batch
        self.tokens = int(sum(b - a for a, b in self.rows))

    @property
    def count(self) -> int:
        """How many batches there are."""
        return -(-len(self.rows) // self.batch)

    def batches(self, which: Iterable[int] | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """x, y (rows, block_size), padded, of the batches with these numbers, or of all."""
        for number in range(self.count) if which is None else which:
            some = self.rows[number * self.batch:(number + 1) * self.batch]
            x = np.zeros((len(some), self.block_size), np.int64)
            y = np.full_like(x, -1)
            for k, (a, b) in enumerate(some):
                row = self.shard.read([a - 1], b - a + 1)[0]
                x[k, :b - a], y[k, :b - a] = row[:-1], row[1:]
            yield x, y

    def bytes(self, tokenizer: Tokenizer) -> int:
        """How many bytes of UTF-8 the tokens stand for, but for special tokens and separators between documents."""
        ends, size = np.append(self.shard.starts[1:], len(self.shard)) - 1, 0
        for a, b in self.rows:
            ids = np.delete(self.shard.tokens[a:b], ends[slice(*np.searchsorted(ends, [a, b]))] - a)
            ids = ids[~np.isin(ids, [*tokenizer.special.values()])]
            tokens = [tokenizer.vocab[i] for i in ids.tolist()]
            in_bytes = bool(tokens) and isinstance(tokens[0], bytes)     # a row may end inside a character
            size += len(b"".join(tokens) if in_bytes else tokenizer.decode(ids).encode())
        return size

    def documents(self) -> Iterator[list[int]]:
        """The token ids of every document that starts in a row, without its separator."""
        ends = np.append(self.shard.starts[1:], len(self.shard)) - 1
        for a, b in self.rows:
            for i in range(*np.searchsorted(self.shard.starts, [a, b])):
                yield self.shard.tokens[self.shard.starts[i]:ends[i]].tolist()
