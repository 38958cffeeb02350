"""python -m tok COMMAND: train tokenizers, use them in a pipe, see what they do."""
import argparse
import contextlib
import os
import re
import sys
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from tok import analysis, scan_view, scansion
from tok.base import check_text, cores, load, refusal, write_text
from tok.corpus import Files, holds_many
from tok.hindi import normalize
from tok.split import SPLITS

SENTENCE = "हिन्दी कविता की भाषा। I don't know 42 things."

MORE = """\
FILES are .txt, .jsonl (field text), .parquet (column text) or .xml (a dump of Wikipedia), also as .gz or .bz2, folders
of them, or - for stdin. TOKENIZER is a file that train wrote, or a tokenizer.json of Hugging Face. Each command has its
own --help.

examples:
  python -m tok train bpe my_texts/ --vocab_size 8000 --out mine.json
  python -m tok encode mine.json < poem.txt | python -m tok decode mine.json
  python -m tok scan poems.txt"""


def train(args: argparse.Namespace) -> None:
    """Learn a tokenizer from files and write it as one JSON file."""
    folder = os.path.dirname(os.path.abspath(args.out))
    if not os.path.isdir(folder) or os.path.isdir(args.out):
        raise refusal("--out", repr(args.out), "the name of a file in a folder that exists")
    files = Files(*args.files, processes=args.processes, progress=True)
    t = analysis.train(args.kind, files, args.vocab_size, args.split, args.special, progress=True)
    t.save(args.out)
    print(f"{args.out}: {t.vocab_size:,} tokens", file=sys.stderr)


def encode(args: argparse.Namespace) -> None:
    """Text to ids: numbers with spaces between them on stdout, or an array in a .npy file."""
    t, files, found = load(args.tokenizer), Files(*args.files, progress=args.files != ["-"]), []
    # a pattern of somebody's own and a name with a space may reach over the end of a piece
    apart = t.lines_apart and all(name.isascii() and name.split() == [name] for name in args.special)
    texts = files if apart else files.whole()
    if args.out:
        if not args.out.endswith(".npy") or not os.path.isdir(os.path.dirname(os.path.abspath(args.out))):
            raise refusal("--out", repr(args.out), "a name that ends with .npy, in a folder that exists")
        for text in texts:
            found.append(t.encode_array(text, allowed_special=args.special))
        with open(args.out, "wb") as f:
            np.save(f, np.concatenate(found) if found else t.encode_array(""))
        return
    for text in texts:
        print(*t.encode(text, allowed_special=args.special), flush=args.files == ["-"])


def decode(args: argparse.Namespace) -> None:
    """Ids to text. Reads what encode writes; the text appears as the ids come."""
    t = load(args.tokenizer)
    for name in args.files:
        if name.endswith(".npy"):
            try:
                ids = np.load(name, allow_pickle=False)
            except (EOFError, ValueError):
                raise refusal(f"decode {name}", "no whole array", "one of ids, as encode --out writes it") from None
            sys.stdout.write(t.decode(np.atleast_1d(ids)))
            continue
        # what is no UTF-8 is no number either, and is refused as such
        with contextlib.nullcontext(sys.stdin) if name == "-" else open(name, encoding="utf-8", errors="replace") as f:
            for piece in t.decode_stream(_number(word, name) for line in f for word in line.split()):
                sys.stdout.write(piece)


def _number(word, name):
    if not word.isdecimal():
        raise refusal(f"decode {name}", repr(word), "ids: whole numbers with white space between them")
    return int(word)


def stats(args: argparse.Namespace) -> None:
    """How each pattern cuts a sentence, its aksharas, and what tokenizers make of it."""
    text = sys.stdin.read() if args.text == "-" else args.text
    check_text(text, "stats")
    for row in analysis.page(text, {name: load(name) for name in args.tokenizers}):
        print(row)


def analyse(args: argparse.Namespace) -> None:
    """Tokens per word and per akshara, unknown words, compression, round trip and speed, as a table and a plot."""
    if os.path.exists(args.out) and not os.path.isdir(args.out):
        raise refusal("--out", f"{args.out!r}, a file", "a folder, or a name for one")
    rows = []
    print(analysis.heading())
    with tqdm(total=2 * len(args.tokenizers), desc="measure") as bar:
        for row in analysis.analyse(args.tokenizers, [*Files(*args.files).whole()], args.held_out):
            rows.append(row)
            bar.update()
            bar.write(analysis.line(row), file=sys.stdout)
    print("saved:", *analysis.save(rows, args.out))


def scan(args: argparse.Namespace) -> None:
    """Draw the scansion of verse: light and heavy under each akshara, the meter's name, and what breaks it."""
    terminal, good = args.color == "always" or (args.color == "auto" and sys.stdout.isatty()), []
    found = 0
    for path in Files(*args.files).paths:
        texts = Files(path).whole()
        stanzas = texts if holds_many(path) else re.split(r"\n\s*\n", next(texts))
        for stanza in filter(scansion.WORD.search, map(normalize, stanzas)):
            found += 1
            try:
                said = scan_view.in_text(stanza, args.rules, terminal)
                good.append(stanza)
            except ValueError as e:                 # a word in Latin letters, say: the next stanza may be verse
                said = str(e)
            print(said, end="\n\n")
    if not found:
        raise refusal("scan", "no word in Devanagari", "verse, with an empty line between stanzas")
    if args.html:
        write_text(args.html, scan_view.in_html(good, args.rules))


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m tok", description=__doc__.split(": ", 1)[1].capitalize(),
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=MORE)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(f, *uses):
        doc = f.__doc__.splitlines()[0]
        p = commands.add_parser(f.__name__, help=doc, description=doc)
        p.set_defaults(run=f)
        if "tokenizer" in uses:
            p.add_argument("tokenizer", metavar="TOKENIZER", help="the tokenizer's file")
        if "files" in uses:
            p.add_argument("files", nargs="*", default=["-"], metavar="FILES", help="texts; - is stdin [-]")
        return p

    p = command(train)
    p.add_argument("kind", choices=analysis.KINDS, metavar="KIND",
                   help="; ".join(f"{kind}: {what}" for kind, what in analysis.KINDS.items()))
    p.add_argument("files", nargs="*", default=["-"], metavar="FILES", help="texts; - is stdin [-]")
    p.add_argument("--vocab_size", type=int, default=32000, metavar="N",
                   help="tokens in all; char and akshara have as many as the text has [%(default)s]")
    p.add_argument("--split", choices=SPLITS, default="indic", help="where bpe may cut words; see stats [%(default)s]")
    p.add_argument("--special", nargs="*", help="special tokens instead of those that the kind has by itself")
    p.add_argument("--processes", type=int, default=cores(), metavar="N",
                   help="how many count the words of a large corpus [%(default)s, the cores at hand]")
    p.add_argument("--out", default="tokenizer.json", metavar="FILE", help="what to write [%(default)s]")
    p = command(encode, "tokenizer", "files")
    p.add_argument("--special", nargs="*", default=(), help="special tokens that are read as such in the text")
    p.add_argument("--out", metavar="FILE.npy", help="an array instead of numbers on stdout")
    p = command(decode, "tokenizer")
    p.add_argument("files", nargs="*", default=["-"], metavar="IDS",
                   help="files of numbers, or .npy arrays; - is stdin [-]")
    p = command(stats)
    p.add_argument("text", nargs="?", default=SENTENCE, help="the sentence; - is stdin [one in Hindi and in English]")
    p.add_argument("--tokenizers", nargs="+", default=[], metavar="TOKENIZER", help="show their tokens too")
    p = command(analyse)
    p.add_argument("files", nargs="+", metavar="FILES", help="texts, which must fit into memory")
    p.add_argument("--tokenizers", nargs="+", metavar="KIND:SIZE:SPLIT",
                   default=["char", "akshara", "bpe:4096:gpt2", "bpe:4096", "bpe:32000", "wordpiece:30000"],
                   help="what to train and measure, or tokenizers' files [six of them, from char to wordpiece:30000]")
    p.add_argument("--held_out", type=float, default=0.1, metavar="SHARE",
                   help="of the lines, kept from training [%(default)s]")
    p.add_argument("--out", default="runs/tok", metavar="FOLDER",
                   help="for table.csv and tokens_per_word.png [%(default)s]")
    p = command(scan, "files")
    p.add_argument("--rules", choices=scansion.RULES, default="S2",
                   help="which licences a line may take, from S0, none, on: see tok/scansion.py [%(default)s]")
    p.add_argument("--color", choices=("auto", "always", "never"), default="auto",
                   help="colour, and columns, or not [%(default)s: on a terminal]")
    p.add_argument("--html", metavar="FILE.html", help="write a page too, with the rule that weighs each akshara")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    for name, mode in ("stdin", "r"), ("stdout", "w"), ("stderr", "w"):
        if getattr(sys, name) is None:              # closed by whoever began this process
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    try:
        args.run(args)
        sys.stdout.flush()                          # here, where an error is caught
    except BrokenPipeError:                         # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
