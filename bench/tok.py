"""Tokenizers beside tiktoken and Hugging Face's: training, encoding on one and two threads, memory, and what a first
call costs.

Each works in a process of its own, in turns with the others, on the same texts in memory and with the same number of
threads. All encoders have one vocabulary, GPT-2's where its two files are given; ids are compared before anything is
timed. Our caches of words are emptied before every pass: each is as slow as a first one.
"""
import argparse
import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bench import turns
from bench.start import start
from bench.turns import beside, quartiles
from minigrad.check import expect
from tok import BPETokenizer
from tok.base import between_lines
from tok.corpus import Files
from tok.split import SPLITS
from train import verse

THEIRS = [name for name in ("tiktoken", "tokenizers") if find_spec(name)]
END = "<|endoftext|>"
COUPLETS = 50_000                   # of the grammar, where no text is given
TURN, PASSES = 10_000_000, 100      # bytes that are encoded in one turn: a short text again and again, so often at most


def texts_of(corpus):
    """A file or folder, or couplets, as a list of texts of about a hundred thousand characters."""
    texts = Files(corpus) if corpus else ["\n".join(verse.corpus(COUPLETS, 0))]
    return [piece for text in texts for piece in between_lines(text, 100_000)]


def digest(ids):
    return hashlib.sha256(np.concatenate([np.asarray(part, np.uint32) for part in ids])).hexdigest()[:16]


# ------------------------------------------------------------------------- sides: generators that work once a step

def our_training(corpus, vocab_size, threads):
    texts = texts_of(corpus)
    while True:
        yield BPETokenizer.train(texts, vocab_size, "indic").vocab_size


def their_training(corpus, vocab_size, threads):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    texts = texts_of(corpus)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    cut = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLITS["indic"]), "isolated"), level])
    while True:
        t = Tokenizer(models.BPE())
        t.pre_tokenizer = cut
        t.train_from_iterator(texts, trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=[END], min_frequency=2, show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        yield t.get_vocab_size()


def our_encoding(corpus, vocabulary, threads, arrays):
    t, texts, checked = BPETokenizer.from_hf(vocabulary), texts_of(corpus), None
    while True:
        t._caches.clear()
        if threads == 1:
            ids = [t.encode_array(text) if arrays else t.encode(text) for text in texts]
        else:
            ids = t.encode_batch(texts, threads=threads, lists=not arrays)
        checked = checked or digest(ids)
        yield checked


def tiktoken_encoding(corpus, vocabulary, threads, arrays):
    import tiktoken
    t, texts, checked = BPETokenizer.from_hf(vocabulary), texts_of(corpus), None
    ranks = {t.vocab[i]: i for i in t.ids if i not in t.special.values()}
    theirs = tiktoken.Encoding("bench", pat_str=t.split, mergeable_ranks=ranks, special_tokens=t.special)
    encode = partial(theirs.encode_to_numpy, disallowed_special=()) if arrays else theirs.encode_ordinary
    while True:
        if threads == 1:
            ids = list(map(encode, texts))
        else:                                                # as its own encode_ordinary_batch() does
            with ThreadPoolExecutor(threads) as pool:
                ids = list(pool.map(encode, texts))
        checked = checked or digest(ids)
        yield checked


def hugging_face_encoding(corpus, vocabulary, threads, arrays):
    from tokenizers import Tokenizer
    theirs, texts, checked = Tokenizer.from_file(os.path.join(vocabulary, "tokenizer.json")), texts_of(corpus), None
    while True:
        ids = [e.ids for e in theirs.encode_batch(texts, add_special_tokens=False)]
        checked = checked or digest(ids)
        yield checked


ENCODERS = {                        # title: (what makes it, the package it needs, arrays?)
    "ours, lists": (our_encoding, None, False),
    "ours, arrays": (our_encoding, None, True),
    "tiktoken, lists": (tiktoken_encoding, "tiktoken", False),
    "tiktoken, arrays": (tiktoken_encoding, "tiktoken", True),
    "Hugging Face": (hugging_face_encoding, "tokenizers", False),
}
TRAINERS = {"ours": (our_training, None), "Hugging Face": (their_training, "tokenizers")}


def limited(threads):
    """The environment in which Rust's pool has so many threads."""
    return {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true" if threads > 1 else "false"}


# ------------------------------------------------------------------------------------------------------- measurements

def training(corpus, vocab_size, threads, rounds):
    """Sides that train on a corpus: ours on its one thread, Hugging Face on one and on that many."""
    sides = [turns.Side(f"{title}, {n} thread{'s' * (n > 1)}", make,
                        dict(corpus=corpus, vocab_size=vocab_size, threads=n), limited(n))
             for title, (make, package) in TRAINERS.items() if package is None or package in THEIRS
             for n in dict.fromkeys((1, threads) if package else (1,))]
    return turns.compare(sides, rounds)


def encoding(corpus, vocabulary, threads, rounds, steps):
    """Sides that encode a corpus, so many times in a turn."""
    sides = [turns.Side(title, make, dict(corpus=corpus, vocabulary=vocabulary, threads=threads, arrays=arrays),
                        limited(threads))
             for title, (make, package, arrays) in ENCODERS.items()
             if package is None or package in THEIRS]
    return turns.compare(sides, rounds, steps)


def table(sides, size, ours):
    """Lines: seconds, MB/s, how much faster ours was in the same rounds, peak memory."""
    yield f"{'':28}{'median s':>10}{'MB/s':>8}{'of ours':>9}{'peak MB':>9}"
    for side in sides:
        seconds = quartiles(side.seconds)[1]
        mine = beside(ours, side)
        yield (f"{side.name:28}{seconds:10.3f}{size / seconds / 1e6:8.1f}{seconds / mine:8.2f}x"
               f"{side.peak / 1e6:9.0f}")


def first_calls():
    """{what: (seconds with compiled code kept, seconds with none)}, of whole processes."""
    calls = {"import tok": "import tok",
             "import tok, encode one word": "import tok; tok.BPETokenizer([(97, 98)]).encode('ab')",
             "import tok, train on one line": "import tok; tok.BPETokenizer.train('ab ab', 258)"}
    found = {}
    for what, code in calls.items():
        start(code)
        with tempfile.TemporaryDirectory() as empty:
            found[what] = (start(code), start(code, {"NUMBA_CACHE_DIR": empty}))
    return found


def vocabulary_of(gpt2, corpora, folder):
    """A tokenizer.json in folder: GPT-2's from its two files, or one of 32,000 tokens by GPT-2's pattern."""
    if gpt2:
        t = BPETokenizer.from_gpt2(Path(gpt2, "encoder.json"), Path(gpt2, "vocab.bpe"))
    else:
        t = BPETokenizer.train((text for corpus in corpora for text in texts_of(corpus)), 32_000, "gpt2")
    t.to_hf(folder)
    return t


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench tok", description="Training and encoding beside Hugging Face's tokenizers and tiktoken: "
        "seconds, MB/s, memory, and the cost of a first call. To compare: pip install tiktoken tokenizers")
    parser.add_argument("corpora", nargs="*", metavar="FILE|FOLDER", help="each is a text to encode, and the first one "
                        f"to learn from; default: {COUPLETS:,} couplets of this project's grammar")
    parser.add_argument("--gpt2", metavar="FOLDER", help="with encoder.json and vocab.bpe; default: a vocabulary of "
                        "32,000 tokens is learned from the corpora")
    parser.add_argument("--vocab_size", type=turns.positive, default=32_000, help="of the training [32000]")
    parser.add_argument("--rounds", type=turns.positive, default=3, help="turns of each [3]")
    turns.add_shared(parser, plot=False)
    args = parser.parse_args(argv)
    corpora, busy, good, results = args.corpora or [""], turns.begin("tiktoken", "tokenizers"), True, []
    if missing := sorted({"tiktoken", "tokenizers"} - set(THEIRS)):
        print(f"Left out, because not installed here: {', '.join(missing)}")
    sizes = {corpus: sum(len(text.encode()) for text in texts_of(corpus)) for corpus in corpora}
    for corpus, size in sizes.items():
        expect(size, "bench tok", f"no text in {corpus}", "some")
    with tempfile.TemporaryDirectory() as folder:
        t = vocabulary_of(args.gpt2, corpora, folder)        # what is wrong with it is said before anything is measured
        print(f"\ntrain {args.vocab_size:,} tokens on {corpora[0] or 'couplets'}, {sizes[corpora[0]] / 1e6:.1f} MB, "
              "split indic")
        found = training(corpora[0], args.vocab_size, args.threads, args.rounds)
        print(*table(found, sizes[corpora[0]], found[0]), sep="\n")
        results.append({"what": "train", "corpus": corpora[0], "bytes": sizes[corpora[0]], "sides": entries(found)})
        for corpus, size in sizes.items():
            for threads in dict.fromkeys((1, args.threads)):
                print(f"\nencode {corpus or 'couplets'}, {size / 1e6:.1f} MB, {t.vocab_size:,} tokens, "
                      f"{threads} thread{'s' * (threads > 1)}")
                found = encoding(corpus, folder, threads, args.rounds, min(PASSES, -(-TURN // size)))
                print(*table(found, size, found[0]), sep="\n")
                if len({value for side in found for value in side.values}) > 1:
                    print("The ids differ:", {side.name: side.values[0] for side in found})
                    good = False
                results.append({"what": "encode", "corpus": corpus, "bytes": size, "threads": threads,
                                "sides": entries(found)})
    calls = first_calls()
    print(f"\n{'from the start of a process, seconds':38}{'compiled before':>16}{'never before':>14}")
    for what, (warm, cold) in calls.items():
        print(f"{what:38}{warm:16.2f}{cold:14.2f}")
    if args.json:
        turns.record(args.json, "tok", argv, load=busy, results=results, first_calls=calls)
    return 0 if good else 1


def entries(sides):
    """What --json keeps."""
    return {side.name: {"samples": len(side.seconds), "quartiles_s": quartiles(side.seconds), "peak_bytes": side.peak}
            for side in sides}
