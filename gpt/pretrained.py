"""Weights from and to other programs. Nothing that is read here can execute code.

    a folder     model.safetensors, or its shards with model.safetensors.index.json, and config.json: GPT-1 and GPT-2
                 as Hugging Face's transformers write and read them
    a name       of a repository on huggingface.co with such a folder, "gpt2" for instance: needs huggingface_hub
    a file.bin   of llm.c: see llmc.py

A checkpoint of PyTorch (.pt, .bin) is a pickle, a program that loading runs. It is refused, with the line that turns
it into one of the above.
"""
import json
import math
import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from gpt import llmc
from gpt.model import GPT, GPTConfig
from gpt.sizes import shapes
from minigrad import backend
from minigrad.check import expect
from nn import init

GPT1, GPT2 = "openai-gpt", "gpt2"
# What Hugging Face calls the fields of GPTConfig, in both kinds of config.json.
FIELDS = {"vocab_size": "vocab_size", "block_size": "n_positions", "n_layer": "n_layer", "n_head": "n_head",
          "n_embd": "n_embd", "dropout": "resid_pdrop", "eps": "layer_norm_epsilon"}
# Where they say the activation, and its names there; the first is what we write. The tanh form of GELU goes by three.
ACTIVATION = {GPT1: ("afn", {"gelu": "gelu", "relu": "relu"}),
              GPT2: ("activation_function", {"gelu_new": "gelu", "relu": "relu", "gelu_pytorch_tanh": "gelu"})}
# Variants that the released models do not use, and that would change the result without an error.
RELEASED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "tie_word_embeddings": True}
# Ours -> theirs, where GPT-1's names differ from GPT-2's, which are ours.
GPT1_NAMES = {"wte.": "tokens_embed.", "wpe.": "positions_embed."}
NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", "position_ids")                     # masks, and numbers in a row
HEAD = "lm_head.weight"                                                               # tied: the token embedding again
NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int16": "I16"}
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}                                    # of safetensors, with their bytes

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
FILES = ["*.safetensors", INDEX, "config.json", "tokenizer.json", "vocab.json", "merges.txt"]         # of a repository
WANT = "a folder with model.safetensors and config.json, llm.c's .bin, or a name on huggingface.co"
DAMAGED = "the file is damaged; copy or download it again"
CONVERT_HF = ("python -c \"from transformers import AutoModelForCausalLM as M; "
              "M.from_pretrained('{0}').save_pretrained('{0}')\" writes one that can be loaded")
CONVERT_NANOGPT = ("if it is nanoGPT's, python -c \"import torch; from gpt.pretrained import from_nanogpt as f; "
                   "f(torch.load('{0}', 'cpu', weights_only=True), 'FOLDER')\" writes a folder that can be loaded")


# -------------------------------------------------------------------------------------------------------------- writing

def save(model, path, end=None):
    """Write the model into a folder (made if need be), or if path ends in .bin into a file for llm.c.

    end: id of the token that ends a text, for config.json. Each file is replaced whole, or not at all.
    """
    path = Path(path)
    if path.suffix == ".bin":
        return replace(path, lambda temporary: llmc.write(model, temporary))
    config = json.dumps(config_of(model, None if end is None else int(end)), indent=2) + "\n"
    path.mkdir(parents=True, exist_ok=True)
    replace(path / WEIGHTS, lambda temporary: write_tensors(temporary, arrays_of(model)))
    replace(path / "config.json", lambda temporary: temporary.write_text(config))


def arrays_of(model):
    """{their name: array} of all parameters."""
    return {their_name(name, model.config): backend.asnumpy(p.data) for name, p in model.named_parameters()}


def config_of(model, end=None):
    """What their config.json says of the model."""
    c, kind = model.config, GPT2 if model.config.pre_norm else GPT1
    key, names = ACTIVATION[kind]
    return {"model_type": kind, "architectures": ["GPT2LMHeadModel" if c.pre_norm else "OpenAIGPTLMHeadModel"],
            **{theirs: getattr(c, ours) for ours, theirs in FIELDS.items()},
            "embd_pdrop": c.dropout, "attn_pdrop": c.dropout, "tie_word_embeddings": True,
            key: next(theirs for theirs, ours in names.items() if ours == c.activation),
            "dtype": model.wte.weight.dtype.name, "bos_token_id": end, "eos_token_id": end}


def write_tensors(path, arrays, **about):
    """A safetensors file of {name: array}, and words about them: what its library writes, without its copy of
    everything."""
    header, end = {"__metadata__": {"format": "pt", **about}}, 0
    for name, a in arrays.items():
        header[name] = {"dtype": NAMES[a.dtype.name], "shape": a.shape, "data_offsets": [end, end + a.nbytes]}
        end += a.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for a in arrays.values():
            f.write(np.ascontiguousarray(a).reshape(-1).view(np.uint8))


def replace(path, write):
    """write(temporary path), then put it in the place of path in one step: a crash leaves the old file or the new."""
    path = path.resolve()                                    # of a link: what it points to
    expect(not path.exists() or path.is_file(), "save", f"{str(path)!r}", "a file, or a name that is free")
    temporary = path.with_name(path.name + ".tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:                                     # a full disk does not say what it had no room for
        e.filename = e.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def their_name(name, c):
    for ours, theirs in () if c.pre_norm else GPT1_NAMES.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
    return "transformer." + name


# -------------------------------------------------------------------------------------------------------------- reading

def load(source):
    """A GPT in eval mode from a folder, a name on huggingface.co or a file of llm.c, in the dtype that is stored."""
    path = find(source)
    return (from_folder(path) if path.is_dir() else filled(*llmc.read(path))).eval()


def find(source):
    """The folder that source names, downloaded if need be, or llm.c's file."""
    expect(isinstance(source, (str, os.PathLike)), "from_pretrained", repr(source), WANT)
    path = Path(source)
    if path.is_dir():
        pickles = sorted(p.name for p in path.iterdir() if is_pickle(p))
        whole = (path / "config.json").is_file() and ((path / WEIGHTS).is_file() or (path / INDEX).is_file())
        expect(whole or not pickles, "from_pretrained", f"{source}, whose weights are a pickle, {pickles[:1]}", WANT,
               CONVERT_HF.format(source) if (path / "config.json").is_file() else
               CONVERT_NANOGPT.format(path / pickles[0] if pickles else ""))
        expect(whole, "from_pretrained", f"folder {str(source)!r}", WANT, "model.save(folder) writes one")
        return path
    if path.is_file():
        expect(not is_pickle(path), "from_pretrained", f"{source}, which is a pickle", WANT,
               CONVERT_NANOGPT.format(source))
        expect(llmc.is_ours(path), "from_pretrained", f"the file {source}", WANT,
               "name the folder that the file is in" if path.suffix == ".safetensors" else "")
        return path
    is_name = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", str(source))
    here = "/" in str(source) and path.parent.exists()       # then a name that was mistyped is none of theirs
    expect(is_name and not here, "from_pretrained", f"{str(source)!r}, where nothing is", WANT)
    return download(str(source))


def is_pickle(path):
    """As PyTorch writes them: a zip archive now, bare until 2020."""
    if path.suffix not in (".pt", ".pth", ".bin", ".pkl", ".ckpt") or not path.is_file():
        return False
    with open(path, "rb") as f:
        return f.read(4)[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def download(name):
    """The folder of a repository on huggingface.co, in the cache of huggingface_hub."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        expect(False, "from_pretrained", f"{name!r}, which is no folder here", WANT,
               "pip install huggingface_hub, if it is such a name")
    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as e:                                   # no network, no such repository, no right, no space, ...
        why = (str(e).strip() or type(e).__name__).splitlines()[0]
        expect(False, "from_pretrained", f"{name!r}, which is no folder here and could not be fetched ({why})", WANT,
               "without a network only what was fetched before can be loaded")


def from_folder(folder):
    """Every tensor's name, shape and place is checked before memory is taken for the first."""
    from safetensors import SafetensorError, safe_open
    config = read_config(folder / "config.json")
    files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else shards(folder)
    headers = {path: header(path) for path in files}
    there, layers = sum(map(len, headers.values())), config.n_layer
    expect(layers <= there, "from_pretrained", f"n_layer {layers} in config.json for {there} tensors", "more tensors")
    stored, heads = {}, []                                   # our name: (file, its name there, dtype)
    wanted = {their_name(name, config): (name, shape) for name, shape in shapes(config).items()}
    for path, found in headers.items():
        for inside, (dtype, shape) in found.items():
            name = inside if inside.startswith("transformer.") else "transformer." + inside
            if name.endswith(NOT_WEIGHTS):
                continue
            if name.endswith(HEAD):
                heads.append((path, inside))
                continue
            ours, want = wanted.get(name, (None, None))
            expect(ours, "from_pretrained", f"{inside} {shape} in {path}", f"the {len(wanted)} tensors of config.json")
            expect(shape == want, "from_pretrained", f"{inside} {shape} in {path}", f"{want}, by config.json")
            expect(dtype in DTYPES, "from_pretrained", f"{inside} of {dtype} in {path}", f"one of {', '.join(DTYPES)}")
            stored[ours] = path, inside, dtype
    missing = [f"{name} {shape}" for name, (ours, shape) in wanted.items() if ours not in stored]
    expect(not missing, "from_pretrained", f"{folder} without {', '.join(missing[:3])}",
           f"the {len(wanted)} tensors of config.json")
    kinds = {dtype: ours for ours, (*_, dtype) in stored.items()}
    expect(len(kinds) == 1, "from_pretrained", " and ".join(f"{n} of {d}" for d, n in kinds.items()), "one dtype")
    if "BF16" in kinds:
        backend.dtype_of("bfloat16")                             # NumPy knows it once this has been asked for
    try:
        with ExitStack() as stack:
            opened = {path: stack.enter_context(safe_open(path, "numpy")) for path in files}
            model = filled(config, lambda name: opened[stored[name][0]].get_tensor(stored[name][1]))
            for path, inside in heads:
                expect(np.array_equal(opened[path].get_tensor(inside), model.wte.weight.data), "from_pretrained",
                       f"{inside} in {path}, which is not the token embedding", "the same numbers: the head is tied")
            return model
    except SafetensorError as e:
        expect(False, "from_pretrained", f"{folder} ({e})", "whole safetensors files", DAMAGED)


def filled(config, tensor):
    """A model with tensor(name) in every parameter."""
    with init.empty():
        model = GPT(config)
    for name, p in model.named_parameters():
        p.data = tensor(name)
    return model


def shards(folder):
    """The files that the index names."""
    index = read_json(folder / INDEX)
    names = index.get("weight_map") if isinstance(index, dict) else None
    expect(isinstance(names, dict) and all(isinstance(f, str) and Path(f).name == f for f in names.values()),
           "from_pretrained", f"{folder / INDEX} without a weight_map", "{tensor: file beside it}", DAMAGED)
    files = [folder / name for name in sorted(set(names.values()))]
    absent = [str(path) for path in files if not path.is_file()]
    expect(not absent, "from_pretrained", f"no {', '.join(absent[:3])}", f"the {len(files)} files that {INDEX} names",
           "copy or download them all")
    return files


def header(path):
    """{tensor: (dtype, shape)} of a safetensors file, if the file is long enough to hold them all."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        expect(8 < 8 + n <= size, "from_pretrained", f"{path} of {size:,} bytes", f"a header of {n:,} in it", DAMAGED)
        try:
            tensors = json.loads(f.read(n))
            tensors.pop("__metadata__", None)
            found = {name: (t["dtype"], tuple(map(int, t["shape"])), *map(int, t["data_offsets"]))
                     for name, t in tensors.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as e:
            expect(False, "from_pretrained", f"{path}, whose header is none ({e!r})", "a safetensors file", DAMAGED)
    for name, (dtype, shape, begin, end) in sorted(found.items(), key=lambda item: item[1][3]):
        need = math.prod(shape) * DTYPES.get(dtype, 0)
        expect(dtype not in DTYPES or end - begin == need, "from_pretrained",
               f"{name} {shape} of {dtype} in {end - begin:,} bytes of {path}", f"{need:,} bytes", DAMAGED)
        expect(8 + n + end <= size, "from_pretrained",
               f"{path}, which ends after {max(0, size - 8 - n - begin):,} bytes of {name} {shape}",
               f"its {end - begin:,} bytes, and {8 + n + max(t[3] for t in found.values()):,} in all", DAMAGED)
    return {name: (dtype, shape) for name, (dtype, shape, *_) in found.items()}


def read_config(path):
    """The GPTConfig in a config.json of either model."""
    theirs = read_json(path)
    kind = theirs.get("model_type") if isinstance(theirs, dict) else None
    expect(kind in (GPT1, GPT2), "from_pretrained", f"model_type {kind!r} in {path}", f"{GPT1!r} or {GPT2!r}")
    key, names = ACTIVATION[kind]
    expect(theirs.get(key) in list(names), "from_pretrained", f"{key} {theirs.get(key)!r} in {path}",
           f"one of {', '.join(names)}")
    activation = names[theirs[key]]
    for key, value in RELEASED.items():
        expect(theirs.get(key, value) == value, "from_pretrained", f"{key} {theirs.get(key)!r} in {path}",
               f"{value!r}, as released")
    absent = [f for f in FIELDS.values() if f not in theirs]
    expect(not absent, "from_pretrained", f"{path} without {', '.join(absent)}", "all sizes")
    sizes = {ours: theirs[f] for ours, f in FIELDS.items()}
    odd = [f"{FIELDS[name]} {n!r}" for name, n in sizes.items() if isinstance(n, bool) or not isinstance(
        n, (int, float) if name in ("dropout", "eps") else int)]
    expect(not odd, "from_pretrained", f"{', '.join(odd)} in {path}", "numbers")
    rates = {key: theirs.get(key, sizes["dropout"]) for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop")}
    if len(set(map(str, rates.values()))) > 1:               # it matters to further training alone
        print(f"{path}: {', '.join(f'{key} {rate}' for key, rate in rates.items())}: dropout is resid_pdrop everywhere",
              file=sys.stderr)
    return GPTConfig(**sizes, pre_norm=kind == GPT2, activation=activation)


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:       # of brackets in brackets
        expect(False, "from_pretrained", f"{path} ({e})", "a file of JSON")


def from_nanogpt(checkpoint, folder):
    """Write what torch.load(path, weights_only=True) gives of a checkpoint of nanoGPT as a folder for from_pretrained.

    Its matrices are (out, in); names may begin with torch.compile's _orig_mod; where model_args say bias=False there
    are none, and ours are 0. nanoGPT takes GELU exactly and we by tanh, as OpenAI did: an activation differs by 5e-4
    at most.
    """
    a = checkpoint["model_args"]
    c = GPTConfig(a["vocab_size"], a["block_size"], a["n_layer"], a["n_head"], a["n_embd"], a.get("dropout") or 0.0)
    theirs = {name.removeprefix("_orig_mod.").removeprefix("transformer."): w.detach().float().numpy()
              for name, w in checkpoint["model"].items()}
    wanted = shapes(c)
    others = [name for name in theirs if name not in wanted and not name.endswith((*NOT_WEIGHTS, HEAD))]
    expect(not others, "from_nanogpt", f"{', '.join(others[:3])}", f"the {len(wanted)} tensors of model_args")

    def tensor(name):
        shape, without = wanted[name], name.endswith(".bias") and not a.get("bias", True)
        expect(name in theirs or without, "from_nanogpt", f"no {name}", f"{name} {shape}")
        w = theirs.get(name, np.zeros(shape, np.float32))
        w = w.T if name.startswith("h.") and w.ndim == 2 else w
        expect(w.shape == shape, "from_nanogpt", f"{name} {w.shape}", str(shape))
        return np.ascontiguousarray(w)

    save(filled(c, tensor), folder)
