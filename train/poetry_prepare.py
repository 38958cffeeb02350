"""From sources of verse and prose to a folder that training reads: python -m train.poetry prepare SOURCE... --out DIR

A SOURCE is a file, or a folder: of that the files, and those in its folders poetry/ and prose/ if it has them.

    .jsonl   a poem on each line: "text", with "form", "author", "source", "theme", "id" where they are known;
             a line with neither form nor author is prose
    .txt     prose, a paragraph on each line; with --verse poems, with an empty line between them

Without any, poems of the grammar in verse.py stand for them. What is done, in this order:

    clean       poems.clean() of poems, tok.hindi.normalize() of prose; what has no Devanagari goes
    copies      a poem or paragraph goes if an earlier one is nearly the same: Jaccard >= COPY (near.py; shingles of
                5 letters of verse, 12 of prose)
    variants    two poems are variants if Jaccard >= VARIANT, or PART of the shingles of one are in the other, or a line
                of at least LINE letters is in both, once folded; clusters are what such pairs connect
    split       a cluster goes where a hash of the seed and of its first poem's text says: 80, 10, 10 in a hundred
    quotations  a document of prose goes if QUOTED letters in a row are also in a line of a poem held out
    measure     form and meter by tok.meter, theme by its title or, marked as derived, by its words (themes.py)
    control     a value has a token if RARE training poems have it, or, if that is fewer, 1 in 500 of them, but 2 at
                least. Stage 3 reads a training poem round(sqrt(m / n)) times, at most OFTEN, where n poems have its
                form and m have the commonest one. Of its tokens each is left out with probability MISSING, so that
                the model knows poems of which less is said
    tokens      byte pairs from the training texts, verse repeated until it weighs as much as prose, at most 8 times
    counts      what stages 2 and 3 read is counted aloud (poems.py): poems, and for stage 2 all the prose, and every
                word twice in no order, so that rare ones are counted too. A rhyme has a token as a value has, for as
                many parts of training poems

Prose comes in documents of consecutive paragraphs, about PAGE characters, split 98, 1, 1 if they are MANY, else as
verse is. All files appear whole or not at all; prepare.json, the last one, says what was asked for, and the same
question is not answered twice.
"""
import argparse
import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from minigrad.backend import stream
from minigrad.cache import one_at_a_time
from minigrad.check import expect
from tok import HindiTokenizer
from tok.base import Tokenizer, check_text, write_json, write_text
from tok.hindi import normalize
from train import near, poems, themes, verse
from train.data import END, SPLITS
from train.poems import KEYS, Poem
from train.poetry_statistics import describe
from train.poetry_train import shards

COPY, VARIANT, PART, LINE, QUOTED = 0.75, 0.5, 0.8, 16, 24
SHARES, PROSE_SHARES, PAGE, MANY = (0.8, 0.1, 0.1), (0.98, 0.01, 0.01), 1500, 1000
RARE, OFTEN, MISSING, WORDS = 20, 8, 0.1, 60             # WORDS: on a page of them
COUPLETS, SMALL, LARGE = 4000, 1024, 8192                # without sources; tokens then, and else


def add(subparsers: argparse._SubParsersAction) -> None:
    parser = subparsers.add_parser("prepare", help="sources of verse and prose -> a folder to train on",
                                   description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", metavar="SOURCE", help="files or folders [the grammar's couplets]")
    parser.add_argument("--verse", nargs="+", default=[], metavar="FILE", help=".txt files of poems")
    parser.add_argument("--out", default="runs/poetry", metavar="DIR", help="what to write [runs/poetry]")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split [0]")
    parser.add_argument("--vocab_size", type=int, help=f"tokens in all [{LARGE}; of the couplets {SMALL}]")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    asked, found, prose = gathered(args)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(out):
        try:
            before = json.loads((out / "prepare.json").read_text(encoding="utf-8"))["asked"]
        except FileNotFoundError:
            before = None
        except (ValueError, KeyError, TypeError):            # another program's
            before = {}
        expect(before in (None, asked), "--out", f"{args.out!r}, which was prepared from something else",
               "a new folder")
        if before:
            print(f"{out} is prepared; see {out}/statistics.txt")
            return 0
        expect(prose or not (out / "prose").exists(), "--out", f"{args.out!r} with prose, and sources without",
               "a new folder", "prepare was stopped there, with other sources")
        prepare(out, asked, found, prose)
    print((out / "statistics.txt").read_text(encoding="utf-8"))
    return 0


# -------------------------------------------------------------------------------------------------------------- sources

def gathered(args: argparse.Namespace) -> tuple[dict, list[dict], dict[str, list[str]]]:
    """(what was asked for, rows of poems, {file: paragraphs of prose})."""
    files = [file for name in args.sources for file in files_of(Path(name))]
    poems_in = [Path(name) for name in args.verse]
    for file in poems_in:
        expect(file.is_file() and file.suffix == ".txt", "--verse", f"{str(file)!r}", "a .txt file")
    written = [Path(args.out, name).resolve() for name in ("poems", "verse", "control", "prose")]
    for file in files + poems_in:
        expect(file.resolve().parent not in written, "--out", f"{args.out!r}, where {file} is", "a folder apart",
               "what is prepared goes where this source is")
    size = (LARGE if files or poems_in else SMALL) if args.vocab_size is None else args.vocab_size
    least = 256 + 1 + len(poems.COUNTS)
    expect(size >= least, "--vocab_size", size, f"at least {least}: the bytes, the end and the counts are always in",
           "so are tokens for controls and rhymes, of which nobody knows before the poems are read")
    expect(args.seed >= 0, "--seed", args.seed, "0 or more")
    asked = {"sources": [[file.name, sha256(file)] for file in files + poems_in], "seed": args.seed,
             "vocab_size": size, "rules": 5}
    if not files and not poems_in:
        return asked, list(couplets(args.seed)), {}
    rows, prose = [], {}
    for file in poems_in:
        rows += [{"text": text, "source": file.stem} for text in re.split(r"\n\s*\n", text_of(file).strip())]
    for file in tqdm(files, "read", unit=" files", delay=1, leave=False):
        if file.suffix == ".txt":
            prose.setdefault(file.stem, []).extend(text_of(file).split("\n"))
            continue
        for where, row in poems.rows_of(file):
            expect(isinstance(row.get("text"), str), where, "no text", 'a str under "text"')
            for key in ("text", "form", "author", "source", "theme", "id"):
                expect(isinstance(row.get(key, ""), str), where, f"{row.get(key)!r} under {key!r}", "a str")
                check_text(row.get(key, ""), where)
            if "form" in row or "author" in row:
                rows.append({"source": file.stem, **row})
            else:
                prose.setdefault(file.stem, []).append(row["text"])
    expect(rows, "prepare", f"no poem in {len(files)} files", "some",
           'lines of .jsonl that have "text" and "form" or "author"; or --verse FILE.txt')
    return asked, rows, prose


def files_of(path: Path) -> list[Path]:
    """The sources in a folder, or the one that a path names."""
    expect(path.exists(), "prepare", f"{str(path)!r}, which does not exist", "a file or a folder")
    if path.is_file():
        expect(path.suffix in (".jsonl", ".txt"), "prepare", f"{str(path)!r}", "a file that ends with .jsonl or .txt")
        return [path]
    inside = [path / name for name in ("poetry", "prose") if (path / name).is_dir()] or [path]
    found = sorted(file for folder in inside for file in folder.iterdir() if file.suffix in (".jsonl", ".txt"))
    expect(found, "prepare", f"{str(path)!r} without sources", "files that end with .jsonl or .txt")
    return found


def text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ValueError(f"{file}: got a byte {e.object[e.start]:#04x} at offset {e.start}; expected UTF-8") from None


def couplets(seed: int) -> Iterator[dict]:
    """Poems of the grammar, as rows."""
    for couplet in verse.corpus(COUPLETS, seed):
        head, text = couplet.split("\n", 1)
        theme, form = head.removeprefix("#").split()
        yield {"text": text.strip(), "source": "grammar", "author": "grammar", "form": poems.value(form),
               "theme": poems.value(theme)}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ----------------------------------------------------------------------------------------------------------------- work

def prepare(out: Path, asked: dict, rows: list[dict], prose: dict[str, list[str]]) -> None:
    """All files of a prepared folder."""
    removed = {}
    texts = [poems.clean(row["text"]) for row in tqdm(rows, "clean", delay=1, leave=False)]
    removed["poems without Devanagari"] = texts.count("")
    rows, texts = zip(*[(row, text) for row, text in zip(rows, texts) if text]) if any(texts) else ((), ())
    expect(rows, "prepare", "poems without Devanagari", "verse in Hindi")
    i, j, jaccard, contained = near.pairs(texts)
    stays = near.kept(len(texts), i[jaccard >= COPY], j[jaccard >= COPY]) & near.firsts(texts)
    removed["poems that were copies"] = int((~stays).sum())
    alike = ((jaccard >= VARIANT) | (contained >= PART)) & stays[i] & stays[j]
    joined = [*zip(i[alike].tolist(), j[alike].tolist()), *sharing_a_line(texts)]
    numbers = near.clusters(len(texts), joined)
    places = [place(f"{asked['seed']} {texts[k]}", SHARES) for k in numbers]
    found = [poem(row, k, text) for k, (row, text) in enumerate(
        zip(tqdm(rows, "measure", delay=1, leave=False), texts))]
    theme = themes.Deriver([text for text, stay, name in zip(texts, stays, places) if stay and name == "train"])
    found = [p._replace(theme=theme(p.verse), theme_from="derived") if not p.theme else p for p in found]
    found = [p._replace(theme_from=p.theme and p.theme_from, cluster=found[number].id)
             for p, number in zip(found, numbers)]
    split = {name: [p for p, stay, where in zip(found, stays, places) if stay and where == name] for name in SPLITS}
    for name, some in split.items():
        expect(some, "prepare", f"{len(found)} poems, and none for {name}", "enough for all three splits", "more verse")
    documents = pages(prose, removed, [p for name in ("val", "test") for p in split[name]])

    told = {name: [poems.told_in(p.verse) for p in tqdm(some, "count", delay=1, leave=False)]
            for name, some in split.items()}
    tokens, known = control_tokens(split["train"]), {*poems.COUNTS, *rhymes(told["train"])}
    least = 256 + 1 + len(tokens) + len(known)           # all of them are known now
    expect(asked["vocab_size"] >= least, "--vocab_size", asked["vocab_size"],
           f"at least {least}: the bytes, the end, the counts, these controls and rhymes are always in")
    aloud = {name: [poems.counted(p.verse, known, words) for p, words in zip(some, told[name])]
             for name, some in split.items()}
    for name, some in split.items():
        split[name] = [p._replace(text=poems.control(asked_for(p, tokens)) + text)
                       for p, text in zip(some, aloud[name])]
    control = {name: [p.text for p in split[name]] for name in SPLITS}
    control["train"] = often(split["train"], aloud["train"], tokens, stream("controls left out", asked["seed"]))
    aloud["train"] = aloud["train"] + exercises(documents["train"], split["train"], known, asked["seed"])
    tokenizer = learn(split["train"], documents["train"], asked["vocab_size"], [*tokens, *sorted(known)])
    for name in SPLITS:
        write_jsonl(out / "poems" / f"{name}.jsonl", (p._asdict() for p in split[name]))
        write_jsonl(out / "verse" / f"{name}.jsonl", ({"text": text} for text in aloud[name]))
        write_jsonl(out / "control" / f"{name}.jsonl", ({"text": text} for text in control[name]))
        if prose:
            write_jsonl(out / "prose" / f"{name}.jsonl", ({"text": text} for text in documents[name]))
    tokenizer.save(out / "tokenizer.json")
    describe(out, split, documents, tokenizer, removed)
    shards(out)
    write_json(out / "prepare.json", {"asked": asked, "removed": removed, "tokenizer": tokenizer.hash, "rules": {
        "COPY": COPY, "VARIANT": VARIANT, "PART": PART, "LINE": LINE, "QUOTED": QUOTED, "RARE": RARE,
        "OFTEN": OFTEN, "MISSING": MISSING}})


def poem(row: dict, k: int, text: str) -> Poem:
    """A Poem of which the texts of others have nothing to say yet."""
    form, meter = poems.measured(text, row.get("form", ""))
    title = row.get("theme", "")
    theme = title if title.isascii() else themes.of_title(normalize(title)) or poems.value(title)
    return Poem(row.get("id") or f"{row['source']}-{k:05}", row["source"], poems.value(row.get("author", "")), form,
                meter, poems.value(theme), "given", "", text, "")


def sharing_a_line(texts: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Pairs of texts that have a line, or a part of one between dandas, in common."""
    first = {}
    for k, text in enumerate(texts):
        for line in map(near.folded, poems.forms.END.split(text)):
            if len(line) >= LINE and first.setdefault(line, k) != k:
                yield first[line], k


def place(text: str, shares: Sequence[float]) -> str:
    """Where the hash of a text says that it belongs."""
    at = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16) / 16**12
    return SPLITS[min(2, int(np.searchsorted(np.cumsum(shares), at, "right")))]


def pages(prose: dict[str, list[str]], removed: dict[str, int], held_out: Iterable[Poem]) -> dict[str, list[str]]:
    """{split: documents of prose}."""
    paragraphs = [(source, normalize(text).strip()) for source, some in prose.items()
                  for text in tqdm(some, f"prose {source}", delay=1, leave=False)]
    paragraphs = [(source, text) for source, text in paragraphs if text]
    foreign, paragraphs = len(paragraphs), [(source, text) for source, text in paragraphs if near.folded(text)]
    removed["paragraphs without Devanagari"] = foreign - len(paragraphs)
    i, j, jaccard, _ = near.pairs([text for _, text in paragraphs], 12)
    stays = near.kept(len(paragraphs), i[jaccard >= COPY], j[jaccard >= COPY]) & near.firsts(t for _, t in paragraphs)
    removed["paragraphs that were copies"] = int((~stays).sum())
    quoted = np.unique(np.concatenate([near.shingles(line, QUOTED) for p in held_out for line in p.verse.split("\n")
                                       if len(near.folded(line)) >= QUOTED] or [np.empty(0, np.uint64)]))
    documents, page, size = [], [], 0
    for k, (source, text) in enumerate(paragraphs):
        page, size = page + [text] * bool(stays[k]), size + len(text) * bool(stays[k])
        if page and (size >= PAGE or k + 1 == len(paragraphs) or paragraphs[k + 1][0] != source):
            documents.append("\n".join(page))
            page, size = [], 0
    good = [text for text in documents if not np.isin(near.shingles(text, QUOTED), quoted).any()]
    removed["pages of prose that quote verse held out"] = len(documents) - len(good)
    found = {name: [] for name in SPLITS}
    for text in good:
        found[place(text, PROSE_SHARES if len(good) >= MANY else SHARES)].append(text)
    expect(not prose or all(found.values()), "prepare", f"{len(good)} pages of prose", "enough for all three splits",
           "more prose, or none")
    return found


def control_tokens(training: list[Poem]) -> list[str]:
    """The names of the tokens that training poems give reason for."""
    counts = {key: Counter(getattr(p, key) for p in training) for key in KEYS}
    return [poems.token(key, what) for key in KEYS for what, n in sorted(counts[key].items(), key=lambda kv: -kv[1])
            if what and n >= enough(training)]


def enough(training: Sequence) -> int:
    """For how many of the training poems there is a token."""
    return max(2, min(RARE, len(training) // 500))


def rhymes(told: Sequence[poems.Told]) -> list[str]:
    """The names of the tokens for what enough parts of the training poems rhyme on."""
    found = Counter(name for words in told for before, _ in words for name in before if name.startswith("<tuk="))
    return [name for name, n in found.items() if n >= enough(told)]


def asked_for(p: Poem, tokens: Collection[str]) -> dict[str, str]:
    """{key: value} of a poem, of those that have tokens."""
    return {key: getattr(p, key) for key in KEYS if poems.token(key, getattr(p, key)) in tokens}


def often(training: list[Poem], aloud: list[str], tokens: Collection[str], rng: np.random.Generator) -> list[str]:
    """What stage 3 reads: the counted poems behind their tokens, each as often as its form is rare."""
    of_form = Counter(p.form for p in training)
    most = max(of_form.values())
    return [poems.control(asked_for(p, tokens), [key for key in KEYS if rng.random() < MISSING]) + text
            for p, text in zip(training, aloud)
            for _ in range(min(OFTEN, round((most / of_form[p.form]) ** 0.5)))]


def exercises(prose: list[str], training: list[Poem], known: Collection[str], seed: int) -> list[str]:
    """Counted aloud: all the prose, and every word twice in no order, as most words are rare."""
    rng, pages = stream("exercises", seed), [*prose]
    every = sorted({word for text in (*prose, *(p.verse for p in training)) for word in poems.WORD.findall(text)})
    for order in rng.permutation(len(every)), rng.permutation(len(every)):
        pages += [" ".join(every[k] for k in order[at:at + WORDS]) for at in range(0, len(every), WORDS)]
    return [*filter(None, (poems.exercise(text, known, rng) for text in tqdm(pages, "practise", delay=1, leave=False)))]


def learn(training: list[Poem], prose: list[str], vocab_size: int, tokens: list[str]) -> Tokenizer:
    """A tokenizer in which verse weighs as much as prose does."""
    letters = sum(len(p.verse) for p in training)
    times = min(8, max(1, round(sum(map(len, prose)) / letters)))
    texts = [*prose, *(p.verse for p in training for _ in range(times))]
    return HindiTokenizer.train(texts, vocab_size, special_tokens=[END, *tokens], progress=True)


def write_jsonl(file: Path, rows: Iterable[dict]) -> None:
    file.parent.mkdir(exist_ok=True)
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
