"""Damaged and made-up tokenizers' files and texts: a clear error or a right answer, and nothing else.

python -m pytest tests/test_tok_fuzz.py with MINIGRAD_FUZZ=100000 tries so many.
"""
import base64
import copy
import json
import os
import random

import pytest

from tok import BPETokenizer, CharTokenizer, GPT1Tokenizer, HindiTokenizer, WordPieceTokenizer, base, load

TRIES = max(1000, int(os.environ.get("MINIGRAD_FUZZ", 3000)))        # fewer might find no file that is whole
TEXT = "राम दु:ख | the cat's 12 mats।\n"
MADE = [BPETokenizer.train(TEXT * 2, 280), HindiTokenizer.train(TEXT * 2, 280, special_tokens=["<a>"]),
        CharTokenizer.train(TEXT, "<unk>"), CharTokenizer.train(TEXT, unit="akshara"),
        GPT1Tokenizer(["<unk>", *"thecas", "e</w>", "th", "the</w>"], [("t", "h"), ("th", "e</w>")]),
        WordPieceTokenizer.train(TEXT * 2, 60, 2)]
VALUES = [None, True, -1, 0, 7, 255, 256, 10**9, 2**70, 1.5, "", "a", "\ud800", "##", "(", "[UNK]", [], [[]], [1, 2],
          [1, 1, 1], {}, {"a": 1}]


def places(value, path=()):
    """Every place in JSON, as the keys that lead there."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def spoilt(rng, content):
    """content with one to three places changed, removed, doubled or swapped."""
    content = json.loads(json.dumps(content))
    for _ in range(rng.randint(1, 3)):
        *outer, last = rng.choice([place for place in places(content) if place] or [("a",)])
        inner = content
        for key in outer:
            inner = inner[key]
        if rng.random() < 0.2:
            del inner[last]
        elif isinstance(inner, list) and rng.random() < 0.3:
            inner.insert(rng.randint(0, len(inner)), copy.deepcopy(rng.choice(inner)))
        else:
            inner[last] = copy.deepcopy(rng.choice(VALUES))
    return content


def check(t, rng):
    """A tokenizer that was accepted works: what it encodes it decodes, and what is no text or no id it refuses."""
    text = "".join(rng.choices(TEXT + "é漢🙂\0\ud800", k=rng.randint(0, 30)))
    try:
        ids = t.encode(text)
        again = t.decode(ids)
        assert "\ud800" not in text and (again == text or type(t) is not BPETokenizer)
    except ValueError as e:
        assert "\ud800" in text or isinstance(t, CharTokenizer) and "expected one of" in str(e)
    ids = rng.choices(range(t.vocab_size), k=rng.randint(0, 9))
    whole = None not in map(t.vocab.__getitem__, ids)
    if rng.random() < 0.3:
        ids.insert(rng.randint(0, len(ids)), rng.choice([-1, t.vocab_size, 2**70, 1.5, "a", None, [1]]))
        whole = False
    try:
        text = t.decode(ids)
        assert whole and "".join(t.decode_stream(ids)) == text
    except ValueError as e:
        assert not whole and "expected" in str(e)


def survives(read, path, rng):
    try:
        t = read(path)
    except (ValueError, OSError) as e:
        assert str(e)
        return 0
    check(t, rng)
    return 1


@pytest.mark.parametrize("seed", range(4))
def test_files_of_ours(tmp_path, seed):
    """Their hash is made right again, so that what they say is read."""
    rng, read = random.Random(seed), 0
    for _ in range(TRIES // 8):
        t = rng.choice(MADE)
        content = spoilt(rng, {"kind": t.kind, **t.content()})
        try:
            content["hash"] = base._hash(content)
            (tmp_path / "t").write_text(json.dumps(content))
        except (TypeError, ValueError):
            continue
        read += survives(load, tmp_path / "t", rng)
    assert read > TRIES // 400                           # some are still tokenizers


@pytest.mark.parametrize("seed", range(4))
def test_files_of_other_programs(tmp_path, seed):
    rng, read = random.Random(seed), 0
    whole = {}
    for t in MADE:
        if getattr(t, "unit", "code point") == "code point":
            t.to_hf(tmp_path)
            whole[type(t)] = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    for _ in range(TRIES // 8):
        c = rng.choice(list(whole))
        (tmp_path / "t.json").write_text(json.dumps(spoilt(rng, whole[c])))
        read += survives(c.from_hf, tmp_path / "t.json", rng)
    assert read > TRIES // 400


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes(tmp_path, seed):
    rng = random.Random(seed)
    MADE[0].save(tmp_path / "whole")
    ranks = b"".join(base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(MADE[0].vocab[:-1]))
    vocab = "".join(f"{token}\n" for token in MADE[-1].vocab).encode()
    for _ in range(TRIES // 16):
        for whole, read in (((tmp_path / "whole").read_bytes(), load), (ranks, BPETokenizer.from_tiktoken),
                            (vocab, WordPieceTokenizer.from_vocab)):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(data))
                data[at:at + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
            (tmp_path / "t").write_bytes(data[:rng.randint(0, len(data))] if rng.random() < 0.2 else data)
            survives(read, tmp_path / "t", rng)
