"""What a tokenizer does to a text, in numbers and on the page.

A word here is what white space separates, a line what line breaks do; lines are encoded one by one, without the break.
Every tokenizer is trained on most of the lines and measured on them and on the others, which it has not seen: a line is
held out if a hash of it says so, whatever stands around it.
"""
import csv
import io
import os
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import regex

from tok.base import Tokenizer, load, refusal
from tok.bpe import BPETokenizer
from tok.char import CharTokenizer
from tok.hindi import AKSHARA, HindiTokenizer, aksharas
from tok.split import SPLITS, words_by
from tok.wordpiece import WordPieceTokenizer

KINDS = {
    "char": "one token per code point",
    "akshara": "one token per akshara",
    "bpe": "byte pairs; --split says how words are cut",
    "wordpiece": "BERT's way",
    "hindi": "byte pairs over normalized Hindi",
}


def train(kind: str, texts: Iterable[str], vocab_size: int | None = None, split: str = "indic",
          special_tokens: Iterable[str] | None = None, progress: bool = False) -> Tokenizer:
    """A tokenizer of one of KINDS. char and akshara have as many tokens as the texts have characters."""
    special: dict[str, Any] = {} if special_tokens is None else {"special_tokens": special_tokens}
    if kind in ("char", "akshara"):
        return CharTokenizer.train(texts, "<unk>", unit={"char": "code point"}.get(kind, kind), **special)
    if kind not in KINDS:
        raise refusal("tokenizer", repr(kind), f"one of {list(KINDS)}, or a tokenizer's file")
    if vocab_size is None:
        raise refusal(f"tokenizer {kind}", "no vocabulary size", "one, as in bpe:4096")
    if kind == "bpe":
        return BPETokenizer.train(texts, vocab_size, split, progress=progress, **special)
    if kind == "wordpiece":
        return WordPieceTokenizer.train(texts, vocab_size, progress=progress, **special)
    return HindiTokenizer.train(texts, vocab_size, progress=progress, **special)


def named(name: str, texts: Iterable[str]) -> tuple[Tokenizer, bool]:
    """(tokenizer, was it trained here?) for char, bpe:4096, bpe:4096:gpt2 or a tokenizer's file."""
    if os.path.exists(name):
        return load(name), False
    kind, *rest = name.split(":")
    if len(rest) > 2 or rest and not rest[0].isdecimal() or rest[1:] and rest[1] not in SPLITS:
        raise refusal(f"tokenizer {name!r}", "neither a file nor KIND:SIZE:SPLIT", "as in bpe:4096 or bpe:4096:gpt2")
    size, split = [*rest, "", ""][:2]
    return train(kind, texts, int(size) if size else None, split or "indic"), True


# -------------------------------------------------------------------------------------------------------------- numbers

class Lines:
    """The lines of texts that are not empty, held out or not: an iterable, again and again."""

    def __init__(self, texts: Iterable[str], share: float, held_out: bool) -> None:
        self.texts, self.share, self.held_out = texts, share, held_out

    def __iter__(self) -> Iterator[str]:
        for text in self.texts:
            for line in text.split("\n"):
                if line.strip() and (zlib.crc32(line.encode()) < self.share * 2**32) == self.held_out:
                    yield line


@dataclass
class Row:
    """What is measured of one tokenizer on one text."""
    tokenizer: str
    text: str                       # in sample, or held out
    vocabulary: int
    tokens_per_word: float
    tokens_per_akshara: float
    unknown: float                  # share of words, in percent, that became unknown tokens or have one
    bytes_per_token: float
    round_trip: float               # share of lines, in percent, that decode() gives back as they were
    mb_per_s: float                 # encode_array() of all lines as one text, on one thread


def measure(tokenizer: Tokenizer, name: str, text: str, lines: list[str]) -> Row:
    """A Row of lines, a list."""
    unknown = tokenizer.special.get(getattr(tokenizer, "unknown", None) or "", -1)
    tokens = unknowns = whole = 0
    for line in lines:
        ids = tokenizer.encode_array(line)
        tokens += len(ids)
        unknowns += int((ids == unknown).sum())
        whole += tokenizer.decode(ids) == line
    joined = "\n".join(lines)
    words, size = len(joined.split()), len(joined.encode()) - len(lines) + 1
    units = sum(len(AKSHARA.findall(line)) - len(regex.findall(r"\s", line)) for line in lines)
    start = time.perf_counter()
    tokenizer.encode_array(joined)
    seconds = time.perf_counter() - start
    return Row(name, text, tokenizer.vocab_size, tokens / words, tokens / units, 100 * unknowns / words, size / tokens,
               100 * whole / len(lines), len(joined.encode()) / seconds / 1e6)


def analyse(names: Iterable[str], files: Iterable[str], share: float = 0.1) -> Iterator[Row]:
    """Two Rows for each tokenizer that named() knows, as they are ready: in sample and held out."""
    seen, unseen = (list(Lines(files, share, held_out)) for held_out in (False, True))
    for part, what in ((seen, "to train on"), (unseen, "held out")):
        if not part:
            raise refusal("analyse", f"{len(seen)} lines to train on and {len(unseen)} held out", f"some {what}",
                          "more text, or another --held_out")
    for name in names:
        tokenizer, trained = named(name, seen)
        yield measure(tokenizer, name, "in sample" if trained else "most lines", seen)
        yield measure(tokenizer, name, "held out" if trained else "the others", unseen)


HEADS = (("tokenizer", "<22"), ("text", "<11"), ("vocabulary", ">11,"), ("tokens/word", ">12.3f"),
         ("tokens/akshara", ">15.3f"), ("unknown %", ">10.3f"), ("bytes/token", ">12.2f"), ("round trip %", ">13.2f"),
         ("MB/s", ">7.1f"))


def heading() -> str:
    return "".join(f"{head:{form.rstrip(',f').split('.')[0]}}" for head, form in HEADS)


def line(row: Row) -> str:
    return "".join(f"{value:{form}}" for value, (_, form) in zip(asdict(row).values(), HEADS))


def save(rows: list[Row], folder: str | Path) -> tuple[Path, Path]:
    """table.csv and tokens_per_word.png in a folder; their names."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    (folder / "table.csv").write_text(out.getvalue(), encoding="utf-8")
    plot(rows, folder / "tokens_per_word.png")
    return folder / "table.csv", folder / "tokens_per_word.png"


def plot(rows: list[Row], file: Path) -> None:
    """Tokens per word against the size of the vocabulary: a line for each kind and text, a point for each tokenizer."""
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    series = {}
    for row in rows:
        kind, _size, split = (row.tokenizer.split(":") + ["", ""])[:3]
        series.setdefault((f"{kind} {split}".strip(), row.text), []).append((row.vocabulary, row.tokens_per_word))
    fig, ax = plt.subplots(figsize=(7, 4.5), layout="constrained")
    colours = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(name for name, _ in series))}
    for (name, text), points in series.items():
        dashed = text in ("held out", "the others")
        ax.plot(*zip(*sorted(points)), marker="o", color=colours[name], linestyle="--" if dashed else "-",
                markerfacecolor="white" if dashed else None, label=f"{os.path.basename(name)}, {text}")
    ax.set(xscale="log", xlabel="vocabulary", ylabel="tokens per word", ylim=(0, None))
    ax.axhline(1, color="grey", linewidth=0.8)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=8)
    fig.savefig(file, dpi=150)
    plt.close(fig)


# ---------------------------------------------------------------------------------------------------------- on the page

def page(text: str, tokenizers: Mapping[str, Tokenizer] | None = None) -> Iterator[str]:
    """How every pattern cuts a text, and what tokenizers ({name: tokenizer}) make of it."""
    units = aksharas(text)
    yield f"{len(text.encode()):6} bytes, {len(text)} code points, {len(units)} aksharas, {len(text.split())} words\n"
    yield f"{'aksharas':12} {len(units):4}  {_barred(units)}"
    for name, pattern in SPLITS.items():
        found = list(words_by(regex.compile(pattern), text))
        yield f"{name:12} {len(found):4}  {_barred(found)}"
    for name, t in (tokenizers or {}).items():
        tokens = [t.vocab[i] for i in t.encode(text)]
        spelled = [token.decode("utf-8", "backslashreplace") if isinstance(token, bytes) else token for token in tokens]
        yield f"{os.path.basename(name):12} {len(tokens):4}  {_barred(spelled)}"


def _barred(pieces):
    return "|".join(piece.replace("\n", "\\n") for piece in pieces)
