"""What every tokenizer does alike: special tokens, checks at the door, the hash, and one JSON file.

A tokenizer is a list of tokens, `vocab`, and a token's id is its place in that list; None is an id that no token has.
Special tokens such as <|endoftext|> stand for no text, so encode() reads their names as the plain characters they are
written with, unless the caller opts in: a web page that contains "<|endoftext|>" must not be able to end a document.

A subclass says what Tokenizer declares: kind, vocab, special, and the methods that raise NotImplementedError there.
"""
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import regex


def refusal(where: str, got: object, expected: object, hint: str = "") -> ValueError:
    """The one form of an error that a user can cause; raise what this returns."""
    return ValueError(f"{where}: got {got}; expected {expected}" + (f". Hint: {hint}" if hint else ""))


PIECE = 1 << 18                         # characters of a text that one thread encodes at a time
CACHED_WORDS = 1 << 16
LINES = regex.compile(r"(?<=[\p{L}\p{N}\p{P}\p{S}])\n(?=[\p{L}\p{N}\p{P}\p{S}])")      # no normalizing takes these away
KINDS = {}                              # kind -> class: load() looks here, and every class enters itself


class Tokenizer:
    kind: str                           # in the file, by which load() finds the class
    vocab: list                         # the tokens, str or bytes
    special: dict[str, int]             # the special ones and their ids
    lines_apart = True                  # can lines be encoded one by one, if there is no white space beside the cut?

    def _encode(self, text: str, at: int) -> list[int] | np.ndarray:
        """The ids of a text that is plain and checked, and stands at this offset in the whole text, for messages."""
        raise NotImplementedError

    def _decode(self, tokens: list) -> str:
        """The text of tokens, as vocab has them."""
        raise NotImplementedError

    def content(self) -> dict:
        """All that decides which ids a text gets, ready for JSON."""
        raise NotImplementedError

    @classmethod
    def from_content(cls, content: dict) -> "Tokenizer":
        """The inverse of content()."""
        raise NotImplementedError

    def to_hf(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which Hugging Face's libraries read.

        They read special tokens in every text, which is allowed_special="all" here.
        """
        raise NotImplementedError

    def __init_subclass__(cls):
        if "kind" in vars(cls):         # inherited, it would take the place of the class that has it
            KINDS[cls.kind] = cls

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def __repr__(self):
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, hash={self.hash[:12]})"

    def __reduce__(self):
        return self.from_content, (self.content(),)

    # text -> ids -> text

    def encode(self, s: str, allowed_special: Iterable[str] = (), disallowed_special: Iterable[str] = ()) -> list[int]:
        """The ids of a text. Each argument is a set of special tokens, or "all".

        Allowed ones become their id where their name stands in the text. Disallowed ones that are not allowed raise
        an error. All others are read as plain text.
        """
        ids = []
        for part in self._parts(s, allowed_special, disallowed_special):
            ids += part if isinstance(part, list) else self._numbers.take(part).tolist()
        return ids

    @cached_property
    def _numbers(self):
        """Every id as an int that all lists share: no list has to make its own."""
        return np.array(range(self.vocab_size), object)

    def encode_array(self, s: str, allowed_special: Iterable[str] = (),
                     disallowed_special: Iterable[str] = ()) -> np.ndarray:
        """encode() as an array: two bytes an id, or four where the vocabulary does not fit into two."""
        dtype = np.uint16 if self.vocab_size <= 2**16 else np.uint32
        return np.concatenate([np.empty(0, dtype), *(np.asarray(part).astype(dtype) for part in self._parts(
            s, allowed_special, disallowed_special))])

    def encode_batch(self, texts: Iterable[str], allowed_special: Iterable[str] = (),
                     disallowed_special: Iterable[str] = (), threads: int | None = None, lists: bool = False,
                     share: Callable = lambda make, items: make(items)) -> list:
        """encode_array() of every text, or encode(), by so many threads; without a number, by one for each core.

        share(make, pieces) returns make(pieces), an iterable, or has others make a part of it."""
        def encode(text):
            return (self.encode if lists else self.encode_array)(text, allowed_special, disallowed_special)

        def join(parts):
            return list(chain.from_iterable(parts)) if lists else np.concatenate(list(parts))

        allowed_special, disallowed_special = self._named(allowed_special), self._named(disallowed_special)
        texts, apart = list(texts), self.lines_apart and not any("\n" in name for name in self.special)
        pieces = [[*between_lines(text, PIECE)] if apart and isinstance(text, str) else [text] for text in texts]
        with ThreadPoolExecutor(threads or cores()) as pool:
            try:
                done = iter(share(lambda some: pool.map(encode, some), [piece for some in pieces for piece in some]))
                return [join(islice(done, len(some))) for some in pieces]
            except ValueError:
                pool.shutdown(cancel_futures=True)
                for text in texts:                       # says where in the whole text it is, as encode_array() does
                    encode(text)
                raise

    def _parts(self, s, allowed_special, disallowed_special):
        """The ids of a text, in pieces that are lists or arrays."""
        check_text(s, "encode")
        allowed = frozenset(self._named(allowed_special))
        refused = frozenset(self._named(disallowed_special)) - allowed
        if refused and (found := _any_of(refused).search(s)):
            raise refusal("encode", f"the special token {found[0]!r} at offset {found.start()}", "plain text",
                          "allowed_special={...} reads it as one token; without disallowed_special it is plain text")
        parts, end = [], 0
        for found in _any_of(allowed).finditer(s) if allowed else ():
            if found.start() > end:
                parts.append(self._encode(s[end:found.start()], end))
            parts.append([self.special[found[0]]])
            end = found.end()
        return [*parts, self._encode(s[end:], end)]

    def decode(self, ids: Iterable[int] | np.ndarray) -> str:
        """The text of a list or array of ids."""
        return self._decode(self._tokens(ids.tolist() if isinstance(ids, np.ndarray) else list(ids)))

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """decode() as the ids come: for each the text that is certain now, whole characters only; the rest at the end.

        Where a character is made of several tokens, all but the last give "". The pieces, joined, are decode(ids).
        """
        return self._stream(self._tokens([i], at)[0] for at, i in enumerate(ids))

    def _stream(self, tokens: Iterable) -> Iterator[str]:
        """_decode() a piece at a time: a str for every token, and perhaps one more."""
        for token in tokens:
            yield self._decode([token])

    def _tokens(self, ids, at=0):
        """The tokens of a list of ids; the first one stands at position `at`, for messages."""
        if set(map(type, ids)) != {int} or min(ids) < 0 or max(ids) >= len(self.vocab):
            for position, i in enumerate(ids, at):
                if isinstance(i, bool) or not isinstance(i, (int, np.integer)) or not 0 <= i < len(self.vocab):
                    raise refusal("decode", f"{i!r} at position {position}",
                                  f"a whole number from 0 to {self.vocab_size - 1}",
                                  "is this the tokenizer that made it?")
        tokens = list(map(self.vocab.__getitem__, ids))
        if None in tokens:
            position = tokens.index(None)
            raise refusal("decode", f"{ids[position]!r} at position {at + position}", "an id that has a token",
                          "this vocabulary leaves some out")
        return tokens

    def _named(self, names):
        if isinstance(names, str):
            if names != "all":
                raise refusal("encode", f"the str {names!r}", 'a set of special tokens, or "all"',
                              f"did you mean {{{names!r}}}?")
            return set(self.special)
        names = set(names)
        if unknown := sorted(names - set(self.special)):
            raise refusal("encode", f"special token {unknown[0]!r}", f"one of {list(self.special)}")
        return names

    # the hash, and the file

    @cached_property
    def hash(self) -> str:
        """sha256 of all that decides which ids a text gets, as hexadecimal digits."""
        return _hash({"kind": self.kind, **self.content()})

    def save(self, path: str | Path) -> None:
        """Write one JSON file, whole or not at all."""
        write_json(path, {"kind": self.kind, "hash": self.hash, **self.content()})


def write_json(path: str | Path, content: object) -> None:
    write_text(path, json.dumps(content, ensure_ascii=False))


def write_text(path: str | Path, text: str) -> None:
    """A file with this text. A crash leaves the old file or the new one, never half of one."""
    path = os.path.realpath(path)                        # of a link: what it points to
    if os.path.exists(path) and not os.path.isfile(path):
        raise refusal("write", repr(path), "a file, or a name that is free")         # a device would be replaced
    temporary = f"{path}.{os.getpid()}.tmp"              # same folder: a rename across file systems is a copy
    try:
        with open(temporary, "w", encoding="utf-8", newline="") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())                         # the data must be on disk before the name points to it
        os.replace(temporary, path)
    except BaseException as e:
        if isinstance(e, OSError):                       # a full disk does not say what it had no room for
            e.filename = e.filename or path
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def read_json(path: str | Path, where: str, want: str) -> Any:
    """A file's JSON; an error that names the file if it has none."""
    try:
        with open(path, encoding="utf-8") as f:
            return json.load(f)
    except (ValueError, RecursionError) as e:            # bad UTF-8 is a ValueError too
        raise refusal(f"{where} {path}", f"no JSON ({e})", want, "the file is damaged, or of another program") from None


# The files of a tokenizer in the folder of a model: ours or Hugging Face's; theirs of old, and OpenAI's.
IN_FOLDER = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


def load(path: str | Path) -> Tokenizer:
    """Read the tokenizer that save() wrote to path, of whichever kind it is; or a tokenizer.json of Hugging Face.

    Of a folder, the tokenizer.json in it, or the files of GPT-1 or GPT-2: vocab.json and merges.txt, or encoder.json
    and vocab.bpe.
    """
    path = os.fspath(path)
    if os.path.isdir(path):
        found = [[os.path.join(path, name) for name in names] for names in IN_FOLDER]
        files = next((names for names in found if all(map(os.path.isfile, names))), None)
        if files is None:
            raise FileNotFoundError(f"load {path}: got a folder without a tokenizer; expected in it "
                                    f"{', or '.join(' and '.join(names) for names in IN_FOLDER)}")
        if len(files) == 1:
            return load(files[0])
        ids = read_json(files[0], "load", "{token: id}")
        with shaped(f"load {files[0]}", "{token: id}"):
            gpt1 = any(name.endswith("</w>") for name in ids)
        return KINDS["gpt1"].from_files(*files) if gpt1 else KINDS["bpe"].from_gpt2(*files)
    want = "a tokenizer's JSON file, as written by save()"
    content = read_json(path, "load", want)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        model, form = content["model"], content.get("normalizer")
        kind = {"WordPiece": "wordpiece", "WordLevel": "char"}.get(str(model.get("type")))
        return KINDS[kind or ("gpt1" if model.get("end_of_word_suffix") else "hindi" if form else "bpe")].from_hf(path)
    if not isinstance(content, dict) or not isinstance(content.get("kind"), str) or "hash" not in content:
        raise refusal(f"load {path}", "JSON without 'kind' and 'hash'", want, "is this a file of another program?")
    kind, saved = content["kind"], content.pop("hash")
    if kind not in KINDS:
        raise refusal(f"load {path}", f"kind {kind!r}", f"one of {sorted(KINDS)}", "it may come from a later version")
    if saved != (found := _hash(content)):
        raise refusal(f"load {path}", f"content with hash {found[:12]}", f"hash {str(saved)[:12]}, as it was saved",
                      "the file is damaged or was edited; train or copy it again")
    del content["kind"]
    with shaped(f"load {path}", want):                   # a right hash over wrong content: somebody made it by hand
        return KINDS[kind].from_content(content)


@contextmanager
def shaped(where: str, want: str) -> Iterator[None]:
    """JSON of another shape than the code inside takes for granted ends with an error that says so."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, regex.error) as e:
        raise refusal(where, f"content of another shape ({e!r})", want) from None


def _hash(content):
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


# what the subclasses share


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_text(s: object, where: str) -> None:
    """Refuse what is not text: not a str, or a str with half of a surrogate pair, which has no UTF-8."""
    if not isinstance(s, str):
        hint = "bytes want .decode('utf-8') first" if isinstance(s, bytes) else ""
        raise refusal(where, type(s).__name__, "str", hint)
    try:
        s.encode()
    except UnicodeEncodeError as e:
        raise refusal(where, f"the lone surrogate U+{ord(s[e.start]):04X} at offset {e.start}", "Unicode text",
                      "s.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace') repairs it") from None


def between_lines(text: str, size: int) -> Iterator[str]:
    """A text in pieces of about so many characters, cut after a line break that has no white space on either side."""
    start = 0
    while found := LINES.search(text, start + size):
        yield text[start:found.end()]
        start = found.end()
    yield text[start:]


def by_words(words: Iterable[str], encode_word: Callable[[str], list[int]], cache: dict[str, list[int]]) -> list[int]:
    """The ids of words, one after the other; each is encoded once while there is room in the cache, a dict."""
    ids = []
    for word in words:
        part = cache.get(word)
        if part is None:
            if len(cache) >= CACHED_WORDS:
                cache.clear()
            part = cache[word] = encode_word(word)
        ids += part
    return ids


def each_text(texts: Iterable[str], where: str) -> Iterator[str]:
    """The texts of one str or of an iterable of str, each checked."""
    for i, s in enumerate([texts] if isinstance(texts, str) else texts):
        check_text(s, f"{where}, text {i}")
        yield s


def check_special(names: Iterable[str], where: str) -> list[str]:
    """Special tokens as a list, different and not empty; one str is one token and not its characters."""
    names = [names] if isinstance(names, str) else list(names)
    seen = set()
    for name in names:
        if not isinstance(name, str) or not name or name in seen:
            raise refusal(where, f"special token {name!r}", "different, non-empty names")
        check_text(name, f"{where}, special token {name!r}")
        seen.add(name)
    return names


@lru_cache(64)                                           # asked for by every text in turn
def _any_of(names):
    longest_first = sorted(names, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)))
