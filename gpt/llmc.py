"""GPT-2 as llm.c keeps it: one .bin file, versions 3 (float32) and 5 (bfloat16) of the format.

    256 int32    20240326, version, N (positions), V, L, H, C, V padded to a multiple of 128; then zeros
    tensors      in the order below, one after the other; those of the layers stacked, (L, ...)

Matrices are (out, in), the transpose of ours. Rows of wte beyond V are zeros, and are not read.
"""
import math

import numpy as np

from gpt.model import GPTConfig
from minigrad import backend
from minigrad.check import expect

MAGIC, HEADER, PAD = 20240326, 256, 128
VERSIONS = {3: "float32", 5: "bfloat16"}


def layout(N, L, C, padded):
    """(our name, shape there) of every tensor, in the order of the file; names of layers have i for the layer."""
    return [("wte.weight", (padded, C)), ("wpe.weight", (N, C)),
            ("h.i.ln_1.weight", (L, C)), ("h.i.ln_1.bias", (L, C)),
            ("h.i.attn.c_attn.weight", (L, 3 * C, C)), ("h.i.attn.c_attn.bias", (L, 3 * C)),
            ("h.i.attn.c_proj.weight", (L, C, C)), ("h.i.attn.c_proj.bias", (L, C)),
            ("h.i.ln_2.weight", (L, C)), ("h.i.ln_2.bias", (L, C)),
            ("h.i.mlp.c_fc.weight", (L, 4 * C, C)), ("h.i.mlp.c_fc.bias", (L, 4 * C)),
            ("h.i.mlp.c_proj.weight", (L, C, 4 * C)), ("h.i.mlp.c_proj.bias", (L, C)),
            ("ln_f.weight", (C,)), ("ln_f.bias", (C,))]


def is_ours(path):
    """Does the file begin as llm.c's models do?"""
    with open(path, "rb") as f:
        return f.read(4) == MAGIC.to_bytes(4, "little")


def read(path):
    """(GPTConfig, tensor) of a file, where tensor(our name) reads one parameter; after proof that all of them fit."""
    head = np.fromfile(path, "<i4", HEADER)
    expect(len(head) == HEADER, "from_pretrained", f"{path} of {4 * len(head)} bytes", f"a header of {4 * HEADER}")
    version, N, V, L, H, C, padded = head[1:8].tolist()
    expect(version in VERSIONS, "from_pretrained", f"{path} of version {version}", "3 (float32) or 5 (bfloat16)",
           "llm.c's train_gpt2.py writes these")
    config = GPTConfig(V, N, L, H, C)
    expect(padded >= V, "from_pretrained", f"{path} with {padded} rows for {V} tokens", f"{V} or more")
    dtype = backend.dtype_of(VERSIONS[version])
    places, begin, size = {}, 4 * HEADER, path.stat().st_size
    for name, shape in layout(N, L, C, padded):
        need = math.prod(shape) * dtype.itemsize
        expect(begin + need <= size, "from_pretrained",
               f"{path}, which ends after {size - begin:,} bytes of {name} {shape}", f"its {need:,} bytes",
               "the file is cut off; copy it again")
        places[name], begin = (begin, shape), begin + need
    expect(begin == size, "from_pretrained", f"{path} of {size:,} bytes", f"{begin:,}, by its header")

    def tensor(name):
        parts = name.split(".")
        layer = int(parts[1]) if parts[0] == "h" else None
        at, shape = places[name if layer is None else ".".join(["h", "i", *parts[2:]])]
        if layer is not None:
            shape = shape[1:]
            at += layer * math.prod(shape) * dtype.itemsize
        a = np.fromfile(path, dtype, math.prod(shape), offset=at).reshape(shape)
        if name == "wte.weight":
            a = a[:V]
        return np.ascontiguousarray(a.T) if layer is not None and a.ndim == 2 else a

    return config, tensor


def write(model, path):
    """Write a GPT-2 in float32 or bfloat16."""
    c, like = model.config, model.wte.weight.dtype.name
    expect(c.pre_norm and c.activation == "gelu" and c.eps == 1e-5, "save", f"a .bin of {c}", "a GPT-2 as released",
           "llm.c knows no other; save(folder) writes a folder")
    expect(like in VERSIONS.values(), "save", f"a .bin in {like}", " or ".join(VERSIONS.values()), "model.to(dtype=)")
    version = next(v for v, dtype in VERSIONS.items() if dtype == like)
    padded = -(-c.vocab_size // PAD) * PAD
    head = np.zeros(HEADER, "<i4")
    head[:8] = MAGIC, version, c.block_size, c.vocab_size, c.n_layer, c.n_head, c.n_embd, padded
    own = {name: backend.asnumpy(p.data) for name, p in model.named_parameters()}
    with open(path, "wb") as f:
        f.write(head.tobytes())
        for name, _ in layout(c.block_size, c.n_layer, c.n_embd, padded):
            stacked = name.startswith("h.")
            for i in range(c.n_layer if stacked else 1):
                a = own[name.replace(".i.", f".{i}.")]
                f.write((a.T if stacked and a.ndim == 2 else a).tobytes())
            if name == "wte.weight":
                f.write(bytes((padded - c.vocab_size) * c.n_embd * a.itemsize))
