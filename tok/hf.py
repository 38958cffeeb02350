"""Hugging Face's tokenizer.json, written and read: the vocabulary by name, and each step of theirs that is one of ours.

Their file is a row of steps: a normalizer, a pre-tokenizer that cuts words, the model, a decoder. What such a file asks
for and ours do not do is refused by name: an id must not silently mean something else.
"""
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tok.base import read_json, refusal, write_json
from tok.split import SPLITS

if TYPE_CHECKING:                       # they import this file
    from tok.bpe import BPETokenizer
    from tok.char import CharTokenizer
    from tok.gpt1 import GPT1Tokenizer
    from tok.wordpiece import WordPieceTokenizer

WANT = "a tokenizer.json of Hugging Face's tokenizers"


def gpt2_bytes() -> dict[str, int]:
    """{character: byte}, in the order of GPT-2's ids. Its files write every byte as a printable character: itself
    where it is one in Latin-1, and the others as U+0100, U+0101 and so on, which is why a space looks like Ġ there."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def bytes_of(names: Iterable[str], where: str) -> list[bytes]:
    """The bytes of each name."""
    byte = gpt2_bytes()
    try:
        return [bytes(map(byte.__getitem__, name)) for name in names]
    except (KeyError, TypeError) as e:
        raise refusal(where, f"a token with {e.args[0]!r}", "tokens in GPT-2's characters for bytes",
                      "only byte-level BPE is read") from None


# -------------------------------------------------------------------------------------------------------------- writing

def write(folder: str | Path, special: dict[str, int], vocab: dict[str, int], **steps: Any) -> None:
    """tokenizer.json with these steps, and the tokenizer_config.json that transformers asks for beside it."""
    if clash := set(special) & {name for name, i in vocab.items() if special.get(name) != i}:
        raise refusal("to_hf", f"the special token {min(clash)!r}, which is also the name of another token",
                      "names that the file can tell apart")
    os.makedirs(folder, exist_ok=True)
    added = [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
              "special": True} for name, i in special.items()]
    write_json(os.path.join(folder, "tokenizer.json"), {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, **steps})
    write_json(os.path.join(folder, "tokenizer_config.json"), {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        **{use: name for name, use in (("<|endoftext|>", "eos_token"), ("[UNK]", "unk_token"), ("[PAD]", "pad_token"),
                                       ("[CLS]", "cls_token"), ("[SEP]", "sep_token"), ("[MASK]", "mask_token"))
           if name in special}})


def write_bpe(folder: str | Path, t: "BPETokenizer", normalizer: dict | None = None) -> None:
    character = {b: c for c, b in gpt2_bytes().items()}

    def name(token):
        return "".join(map(character.__getitem__, token))

    def level(regex):
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": regex}

    special, spelled = set(t.special.values()), [t.vocab[i] for i in t.ids]
    vocab = {name(t.vocab[i]): i for i in t.ids if i not in special}
    cut = level(True) if t.split == SPLITS["gpt2"] else {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": t.split}, "behavior": "Isolated", "invert": False}, level(False)]}
    write(folder, t.special, vocab, normalizer=normalizer, pre_tokenizer=cut, post_processor=None, decoder=level(True),
          model={"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                 "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                 "vocab": {**vocab, **t.special},
                 "merges": [f"{name(spelled[left])} {name(spelled[right])}" for left, right in t.merges]})


def write_wordpiece(folder: str | Path, t: "WordPieceTokenizer", inside: str, longest: int) -> None:
    vocab = {token: i for i, token in enumerate(t.vocab)}
    write(folder, t.special, vocab, normalizer={"type": "NFC"}, pre_tokenizer={"type": "BertPreTokenizer"},
          post_processor=None, decoder={"type": "WordPiece", "prefix": inside, "cleanup": False},
          model={"type": "WordPiece", "unk_token": t.unknown, "continuing_subword_prefix": inside,
                 "max_input_chars_per_word": longest, "vocab": vocab})


# Every code point is a word.
CHARACTERS = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}


def write_char(folder: str | Path, t: "CharTokenizer") -> None:
    if t.unit != "code point":
        raise refusal("to_hf", f"a tokenizer of {t.unit}s", "one of code points", "their library cuts into no others")
    vocab = {token: i for i, token in enumerate(t.vocab)}
    write(folder, t.special, vocab, normalizer=None, pre_tokenizer=CHARACTERS, post_processor=None,
          decoder={"type": "Fuse"}, model={"type": "WordLevel", "vocab": vocab, "unk_token": t.unknown or "[none]"})


# What BERT does to a text, and GPT-1 as transformers reads it.
LOWER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}


def write_gpt1(folder: str | Path, t: "GPT1Tokenizer", suffix: str) -> None:
    vocab = {token: i for i, token in enumerate(t.vocab)}
    write(folder, t.special, vocab, normalizer={**LOWER, "strip_accents": None}, post_processor=None,
          pre_tokenizer={"type": "BertPreTokenizer"}, decoder={"type": "BPEDecoder", "suffix": suffix},
          model={"type": "BPE", "dropout": None, "unk_token": t.unknown, "continuing_subword_prefix": None,
                 "end_of_word_suffix": suffix, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                 "vocab": vocab, "merges": list(map(" ".join, t.merges))})


# -------------------------------------------------------------------------------------------------------------- reading

def read(path: str | Path, kind: str, model: dict) -> tuple[str, dict, dict[str, int]]:
    """(where, the file, {special token: id}) of a file or folder, whose model says what `model` says if it says it."""
    path = os.fspath(path)
    path = os.path.join(path, "tokenizer.json") if os.path.isdir(path) else path
    where = f"from_hf {path}"
    content = read_json(path, "from_hf", WANT)
    found = content.get("model") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not isinstance(found.get("vocab"), dict):
        raise refusal(where, "JSON without a model that has a vocabulary", WANT)
    if found.get("type", kind) != kind:
        raise refusal(where, f"a model of type {found['type']!r}", kind)
    for name, value in model.items():
        if found.get(name) not in (None, "", value):
            raise refusal(where, f"{name} {found[name]!r}", repr(value) if value else "none")
    special = {}
    for token in content.get("added_tokens") or []:
        odd = [flag for flag in ("lstrip", "rstrip", "single_word") if token.get(flag)]
        if odd or not token.get("special", True):
            raise refusal(where, f"the added token {token.get('content')!r} with {odd[0] if odd else 'special: false'}",
                          "special tokens only, which stand for themselves")
        if (other := found["vocab"].get(token["content"], token["id"])) != token["id"]:
            raise refusal(where, f"{token['content']!r} with the ids {other} and {token['id']}", "one id")
        special[token["content"]] = token["id"]
    return where, content, special


def expect_step(where: str, content: dict, step: str, allowed: list) -> Any:
    """What the file says for a step, which is one of those allowed: a dict counts if the file's has all of it."""
    found = content.get(step)
    for one in allowed:
        if found == one or isinstance(one, dict) and isinstance(found, dict) and one.items() <= found.items():
            return found
    raise refusal(where, f"the {step} {found}", " or ".join(map(str, allowed)))


def read_bpe(path: str | Path, normalizer: dict | None = None) -> tuple:
    """(where, pairs, {token: id}, split, {special token: id}, whole words first?), with tokens as bytes."""
    where, content, special = read(path, "BPE", {"dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                                                 "end_of_word_suffix": None, "byte_fallback": False})
    expect_step(where, content, "normalizer", [normalizer])
    model, cut = content["model"], content.get("pre_tokenizer")
    level = {"type": "ByteLevel", "add_prefix_space": False}
    if isinstance(cut, dict) and cut.get("type") == "Sequence" and len(cut.get("pretokenizers", ())) == 2:
        first, content["pre_tokenizer"] = cut["pretokenizers"]
        expect_step(where, {"pre_tokenizer": first}, "pre_tokenizer",
                    [{"type": "Split", "behavior": "Isolated", "invert": False}])
        expect_step(where, content, "pre_tokenizer", [level | {"use_regex": False}])
        if not isinstance(split := first["pattern"].get("Regex"), str):
            raise refusal(where, f"to cut at {first['pattern']}", "a Regex")
    elif expect_step(where, content, "pre_tokenizer", [level]).get("use_regex", True):
        split = SPLITS["gpt2"]
    else:
        raise refusal(where, "a text that is not cut into words", "a pre-tokenizer with a pattern")
    if normalizer and split != SPLITS["indic"]:              # another's, whose normalizing ends at NFC; ours goes on
        raise refusal(where, f"the normalizer {normalizer['type']} with a pattern of its own",
                      "the Indic pattern, as HindiTokenizer.to_hf() writes it")
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    if odd := [pair for pair in pairs if len(pair) != 2]:
        raise refusal(where, f"the merge {odd[0]!r}", "two tokens")
    left, right = (bytes_of(side, where) for side in zip(*pairs)) if pairs else ((), ())
    names = [name for name in model["vocab"] if name not in special]
    ids = dict(zip(bytes_of(names, where), map(model["vocab"].__getitem__, names)))
    return where, list(zip(left, right)), ids, split, special, bool(model.get("ignore_merges"))


def read_wordpiece(path: str | Path, inside: str, longest: int) -> tuple[list[str], str, list[str]]:
    """(vocab in the order of ids, unknown, special tokens)."""
    where, content, special = read(path, "WordPiece", {"continuing_subword_prefix": inside,
                                                       "max_input_chars_per_word": longest})
    expect_step(where, content, "normalizer", [{"type": "NFC"}])
    expect_step(where, content, "pre_tokenizer", [{"type": "BertPreTokenizer"}])
    model = content["model"]
    return counted(where, model["vocab"] | special), model.get("unk_token", "[UNK]"), list(special)


def counted(where: str, ids: dict[str, int]) -> list[str]:
    """The tokens of {token: id} in the order of their ids, which must leave out none."""
    vocab = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in vocab] != list(range(len(vocab))):
        raise refusal(where, f"{len(vocab)} tokens with ids up to {ids[vocab[-1]]}", "ids that count them through")
    return vocab


def read_char(path: str | Path) -> tuple[list[str], str | None, list[str]]:
    """(characters, unknown or None, special tokens)."""
    where, content, special = read(path, "WordLevel", {})
    expect_step(where, content, "normalizer", [None])
    expect_step(where, content, "pre_tokenizer", [CHARACTERS])
    vocab, unknown = counted(where, content["model"]["vocab"] | special), content["model"].get("unk_token")
    unknown = unknown if unknown in special else None
    ordered = sorted(special, key=lambda name: (name != unknown, special[name]))         # as ours stand: unknown first
    if vocab[len(vocab) - len(special):] != ordered:
        raise refusal(where, f"special tokens {ordered} among the others", "them behind all others, the unknown first")
    return vocab[:len(vocab) - len(special)], unknown, [name for name in ordered if name != unknown]


def read_gpt1(path: str | Path, suffix: str) -> tuple[list[str], list, str]:
    """(vocab in the order of ids, pairs, unknown)."""
    where, content, special = read(path, "BPE", {"dropout": None, "continuing_subword_prefix": None, "fuse_unk": False,
                                                 "end_of_word_suffix": suffix, "byte_fallback": False})
    found = expect_step(where, content, "normalizer", [LOWER])
    if found.get("strip_accents") is False:
        raise refusal(where, "accents that stay", "accents that are taken off")
    expect_step(where, content, "pre_tokenizer", [{"type": "BertPreTokenizer"}])
    model = content["model"]
    return (counted(where, model["vocab"] | special),
            [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]], model.get("unk_token"))
