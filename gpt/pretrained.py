"""Weights to and from folders in the Hugging Face layout: model.safetensors + config.json, GPT-1 and GPT-2.

safetensors holds plain arrays; nothing that is read here can execute code.
"""
import json
import os
from pathlib import Path

import numpy as np

from minigrad import backend
from minigrad.check import expect
from nn import init

GPT1, GPT2 = "openai-gpt", "gpt2"
# What Hugging Face calls the fields of GPTConfig, in both kinds of config.json.
FIELDS = {"vocab_size": "vocab_size", "block_size": "n_positions", "n_layer": "n_layer", "n_head": "n_head",
          "n_embd": "n_embd", "dropout": "resid_pdrop", "eps": "layer_norm_epsilon"}
# The tanh form of GELU goes by two names.
ACTIVATION = {GPT1: ("afn", "gelu"), GPT2: ("activation_function", "gelu_new")}
# Variants that the released models do not use, and that would change the result without an error.
RELEASED = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "tie_word_embeddings": True}
# Ours -> theirs, where GPT-1's names differ from GPT-2's, which are ours.
GPT1_NAMES = {"wte.": "tokens_embed.", "wpe.": "positions_embed."}
NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", "lm_head.weight", "position_ids")   # masks, and the tied head


def save(model, folder):
    """Write the model into folder (made if need be). Each file is replaced whole, or not at all."""
    from safetensors.numpy import save_file
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    c = model.config
    kind = GPT2 if c.pre_norm else GPT1
    key, name = ACTIVATION[kind]
    config = {"model_type": kind, "architectures": ["GPT2LMHeadModel" if c.pre_norm else "OpenAIGPTLMHeadModel"],
              **{theirs: getattr(c, ours) for ours, theirs in FIELDS.items()},
              "embd_pdrop": c.dropout, "attn_pdrop": c.dropout, "tie_word_embeddings": True, key: name}
    arrays = {their_name(name, kind): np.ascontiguousarray(backend.asnumpy(p.data))
              for name, p in model.named_parameters()}
    replace(folder / "model.safetensors", lambda path: save_file(arrays, path, metadata={"format": "pt"}))
    replace(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=2) + "\n"))


def load(folder):
    """A GPT in eval mode, its parameters in the dtype of the file."""
    from safetensors import SafetensorError, safe_open

    from gpt.model import GPT
    folder = Path(folder)
    weights = folder / "model.safetensors"
    expect(weights.is_file() and (folder / "config.json").is_file(), "from_pretrained", f"folder {str(folder)!r}",
           "a folder with model.safetensors and config.json", "model.save(folder) writes one")
    config, kind = read_config(folder / "config.json")
    try:
        with safe_open(weights, "numpy") as file:
            stored = {name: file.get_slice(name) for name in file.keys() if not name.endswith(NOT_WEIGHTS)}
            stored = {n if n.startswith("transformer.") else "transformer." + n: s for n, s in stored.items()}
            with init.empty():
                model = GPT(config)
            wanted = {their_name(name, kind): p for name, p in model.named_parameters()}
            missing, extra = wanted.keys() - stored.keys(), stored.keys() - wanted.keys()
            expect(not missing and not extra, "from_pretrained",
                   f"{weights} lacking {sorted(missing)[:3]} and with {sorted(extra)[:3]} on top",
                   f"the {len(wanted)} tensors of its config.json")
            for name, p in wanted.items():
                shape = tuple(stored[name].get_shape())
                expect(shape == p.shape, "from_pretrained", f"{name} {shape} in {weights}", f"{p.shape} of config.json")
            for name, p in wanted.items():
                p.data = stored[name][:]
    except SafetensorError as e:
        expect(False, "from_pretrained", f"{weights} ({e})", "a whole safetensors file", "copy or download it again")
    return model.eval()


def read_config(path):
    """(GPTConfig, model_type) from a config.json of either model."""
    from gpt.model import GPTConfig
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        expect(False, "from_pretrained", f"{path} ({e})", "JSON")
    kind = theirs.get("model_type")
    expect(kind in (GPT1, GPT2), "from_pretrained", f"model_type {kind!r} in {path}", f"{GPT1!r} or {GPT2!r}")
    for key, value in (ACTIVATION[kind], *RELEASED.items()):
        got = theirs.get(key, RELEASED.get(key))
        expect(got == value, "from_pretrained", f"{key} {got!r} in {path}", f"{value!r}, as released")
    absent = [f for f in FIELDS.values() if f not in theirs]
    expect(not absent, "from_pretrained", f"{path} without {', '.join(absent)}", "all sizes")
    return GPTConfig(**{ours: theirs[f] for ours, f in FIELDS.items()}, pre_norm=kind == GPT2), kind


def their_name(name, kind):
    for ours, theirs in GPT1_NAMES.items():
        if kind == GPT1 and name.startswith(ours):
            name = theirs + name.removeprefix(ours)
    return "transformer." + name


def replace(path, write):
    """write(temporary path), then put it in the place of path in one step: a crash leaves the old file or the new."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    with open(temporary, "rb") as f:
        os.fsync(f.fileno())
    os.replace(temporary, path)
