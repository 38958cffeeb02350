"""Weights from and to folders of Hugging Face's layout, llm.c and nanoGPT; what is damaged, cut off or a pickle."""
import errno
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from gpt import GPT, GPTConfig, pretrained
from gpt.llmc import layout
from gpt.sizes import shapes
from minigrad import no_grad
from minigrad.backend import dtype_of

SMALL = dict(vocab_size=11, block_size=12, n_layer=2, n_head=2, n_embd=8)


def make(dtype="float32", seed=0, **changes):
    """With numbers that are no layer's own: every bias and every norm counts."""
    model, rng = GPT(GPTConfig(**{**SMALL, **changes})), np.random.default_rng(seed)
    for p in model.parameters():
        p.data = p.data + rng.standard_normal(p.shape).astype(np.float32)
    return model.to(dtype=dtype).eval()


def same(a, b):
    for (name, p), (other, q) in zip(a.named_parameters(), b.named_parameters(), strict=True):
        assert name == other and p.dtype == q.dtype and p.data.tobytes() == q.data.tobytes(), name
    assert a.config == b.config


@st.composite
def configs(draw, **fixed):
    heads = draw(st.integers(1, 4))
    return GPTConfig(**{**dict(
        vocab_size=draw(st.integers(1, 300)), block_size=draw(st.integers(1, 20)), n_layer=draw(st.integers(1, 3)),
        n_head=heads, n_embd=heads * draw(st.integers(1, 12)), pre_norm=draw(st.booleans()),
        dropout=draw(st.sampled_from([0.0, 0.1])), eps=draw(st.sampled_from([1e-5, 1e-6])),
        activation=draw(st.sampled_from(["gelu", "relu"]))), **fixed})


# folders


@given(c=configs(), dtype=st.sampled_from(["float64", "float32", "float16", "bfloat16"]))
@settings(max_examples=40)
def test_what_is_saved_is_loaded_to_the_bit(c, dtype, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "new" / "folder"
    model = GPT(c).to(dtype=dtype)
    model.save(folder)
    again = GPT.from_pretrained(folder)
    same(model, again)
    assert not again.training


@given(c=configs(), dtype=st.sampled_from(["float32", "bfloat16"]))
@settings(max_examples=20)
def test_their_library_reads_what_we_write(c, dtype, tmp_path_factory):
    path = tmp_path_factory.mktemp("tensors") / "t"
    arrays = {**pretrained.arrays_of(GPT(c).to(dtype=dtype)), "none": np.zeros((0, 3)), "one": np.array(7)}
    pretrained.write_tensors(path, arrays)
    found = load_file(path)
    assert found.keys() == arrays.keys()
    assert all(found[n].dtype == a.dtype and found[n].shape == a.shape and found[n].tobytes() == a.tobytes()
               for n, a in arrays.items())


def test_config_json_says_how_a_text_ends(tmp_path):
    make().save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] is None
    make().save(tmp_path, end=7)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["eos_token_id"] == config["bos_token_id"] == 7 and config["dtype"] == "float32"


def test_numbers_of_numpy_are_saved(tmp_path):
    c = GPTConfig(**{name: np.int64(n) for name, n in SMALL.items()}, dropout=np.float32(0.5), eps=np.float64(1e-6))
    GPT(c).save(tmp_path, end=np.int64(3))
    assert GPT.from_pretrained(tmp_path).config == c == GPTConfig(**SMALL, dropout=0.5, eps=1e-6)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == 3
    with pytest.raises(TypeError):
        make().save(tmp_path / "new", end=[3])
    assert not (tmp_path / "new").exists()


def test_three_dropouts_that_differ_are_told(tmp_path, capsys):
    make(dropout=0.1).save(tmp_path)
    assert GPT.from_pretrained(tmp_path).config.dropout == 0.1 and not capsys.readouterr().err
    edit('"attn_pdrop": 0.1', '"attn_pdrop": 0.3')(tmp_path)
    assert GPT.from_pretrained(tmp_path).config.dropout == 0.1
    assert "resid_pdrop 0.1, embd_pdrop 0.1, attn_pdrop 0.3: dropout is resid_pdrop" in capsys.readouterr().err


def edit(old, new):
    def change(folder):
        config = folder / "config.json"
        config.write_text(config.read_text().replace(old, new, 1))
    return change


def weights(change):
    def damage(folder):
        arrays = load_file(folder / "model.safetensors")
        change(arrays)
        save_file(arrays, folder / "model.safetensors")
    return damage


def cut(keep):
    def damage(folder):
        data = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(keep(data))
    return damage


@pytest.mark.parametrize("damage, says", [
    (lambda folder: (folder / "config.json").unlink(), "expected a folder with model.safetensors and config.json"),
    (edit("{", ""), "expected a file of JSON"),
    (edit("{", "[" * 10 ** 5), "expected a file of JSON"),
    (edit("gpt2", "bert"), "model_type 'bert'"),
    (edit("gelu_new", "tanh"), "activation_function 'tanh' .*; expected one of gelu_new, relu"),
    (edit('tie_word_embeddings": true', 'tie_word_embeddings": false'), "tie_word_embeddings False .* expected True"),
    (edit("{", '{"scale_attn_by_inverse_layer_idx": true,'), "expected False, as released"),
    (edit("n_embd", "width"), "without n_embd; expected all sizes"),
    (edit('n_embd": 8', 'n_embd": "8"'), "n_embd '8' in .*; expected numbers"),
    (edit('vocab_size": 11', 'vocab_size": 12'), r"wte.weight \(11, 8\) in .*; expected \(12, 8\), by config.json"),
    (edit('vocab_size": 11', f'vocab_size": {10 ** 15}'), r"wte.weight \(11, 8\) in .*; expected \(1000000000000000"),
    (edit('n_layer": 2', 'n_layer": 1'), r"transformer.h.1.* in .*; expected the 16 tensors of config.json"),
    (edit('n_layer": 2', 'n_layer": 3'), r"without transformer.h.2.ln_1.weight \(8,\), .*; expected the 40 tensors"),
    (edit('n_layer": 2', f'n_layer": {10 ** 12}'), "n_layer 1000000000000 in config.json for 28 tensors"),
    (edit('"gelu_new"', '["gelu_new"]'), r"activation_function \['gelu_new'\]"),
    (weights(lambda a: a.pop("transformer.wpe.weight")), r"without transformer.wpe.weight \(12, 8\); expected the 28"),
    (weights(lambda a: a.update({"transformer.wpe.weight": np.zeros((12, 8), np.int32)})), "wpe.weight of I32 in"),
    (weights(lambda a: a.update({"transformer.wpe.weight": np.zeros((12, 8))})), "of F64.*; expected one dtype"),
    (weights(lambda a: a.update(extra=np.zeros(3))), r"extra \(3,\) in .*; expected the 28 tensors of config.json"),
    (weights(lambda a: a.update({"lm_head.weight": a["transformer.wte.weight"] * 2})), "lm_head.* not the token embed"),
    (weights(lambda a: a.update({"lm_head.weight": np.zeros(3, "f4")})), "lm_head.weight in .*; expected the same"),
    (cut(lambda data: b""), "0 bytes; expected a header"),
    (cut(lambda data: b"\0" * 100), "100 bytes; expected a header of 0"),
    (cut(lambda data: b"\xff" * 100), "100 bytes; expected a header of 18,446,744"),
    (cut(lambda data: data[:8] + b"x" + data[9:]), "whose header is none"),
    (cut(lambda data: (10 ** 5).to_bytes(8, "little") + b"[" * 10 ** 5), "whose header is none"),
    (cut(lambda data: data.replace(b"[11, 8]", b"[1e999]")), "whose header is none"),
    (cut(lambda data: data[:-1]), r"which ends after 31 bytes of transformer.ln_f.bias \(8,\); expected its 32"),
    (cut(lambda data: data.replace(b"F32", b"F64", 1)), r"\(\d+.*\) of F64 in \S+ bytes of .*; expected"),
])
def test_a_damaged_folder_is_refused(damage, says, tmp_path):
    make().save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=says):
        GPT.from_pretrained(tmp_path)


@given(share=st.floats(0, 0.999999))
@settings(max_examples=60)
def test_a_file_that_is_cut_off_anywhere_is_refused(share, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    make().save(folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:int(share * len(data))])
    with pytest.raises(ValueError, match="from_pretrained: got .* bytes"):
        GPT.from_pretrained(folder)


@given(at=st.integers(0, 2400), byte=st.integers(0, 255))
@settings(max_examples=200)
def test_a_header_with_another_byte_gives_the_model_or_an_error(at, byte, tmp_path_factory):
    """Never another model, never another kind of exception. metadata may say what it likes."""
    folder = tmp_path_factory.mktemp("flip")
    model = make()
    model.save(folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    assert struct.unpack("<Q", data[:8])[0] > 2400
    data[at] = byte
    (folder / "model.safetensors").write_bytes(data)
    try:
        again = GPT.from_pretrained(folder)
    except ValueError as e:
        assert str(e).startswith("from_pretrained: got")
    else:
        assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]


def test_names_without_the_prefix_and_what_is_no_weight(tmp_path):
    """The released GPT-2 file has no "transformer." and holds its masks."""
    model = make()
    model.save(tmp_path)
    arrays = {name.removeprefix("transformer."): a for name, a in load_file(tmp_path / "model.safetensors").items()}
    arrays["h.0.attn.bias"] = np.tri(12, dtype=np.float32)[None, None]
    arrays["lm_head.weight"] = arrays["wte.weight"].copy()
    save_file(arrays, tmp_path / "model.safetensors")
    same(GPT.from_pretrained(tmp_path), model)


def in_shards(folder, n):
    """The weights in n files, as transformers writes large models."""
    arrays, where = load_file(folder / "model.safetensors"), {}
    (folder / "model.safetensors").unlink()
    for k in range(n):
        name = f"model-{k + 1:05}-of-{n:05}.safetensors"
        part = dict(sorted(arrays.items())[k::n])
        save_file(part, folder / name)
        where |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_shards(pre_norm, tmp_path):
    model = make(pre_norm=pre_norm)
    model.save(tmp_path)
    in_shards(tmp_path, 3)
    same(GPT.from_pretrained(tmp_path), model)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ValueError, match="no .*model-00002-of-00003.safetensors; expected the 3 files"):
        GPT.from_pretrained(tmp_path)
    for wrong in ('{"weight_map": {"a": "../../etc/passwd"}}', '{"weight_map": 3}', "[]"):
        (tmp_path / "model.safetensors.index.json").write_text(wrong)
        with pytest.raises(ValueError, match="without a weight_map; expected {tensor: file beside it}"):
            GPT.from_pretrained(tmp_path)


# pickles, and other files


@pytest.mark.parametrize("name, start", [("ckpt.pt", b"PK\3\4"), ("model.bin", b"\x80\x02"), ("a.pth", b"\x80\x04")])
def test_a_pickle_is_refused_with_the_line_to_use(name, start, tmp_path):
    (tmp_path / name).write_bytes(start + b"\0" * 100)
    with pytest.raises(ValueError, match=f"{name}, which is a pickle; .*weights_only=True"):
        GPT.from_pretrained(tmp_path / name)
    with pytest.raises(ValueError, match=f"whose weights are a pickle, .'{name}'.; .*from_nanogpt as f; f.torch.load"):
        GPT.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"Hint: python -c .*M.from_pretrained\('.*'\).save_pretrained"):
        GPT.from_pretrained(tmp_path)


def test_what_is_nothing(tmp_path):
    for source, says in ((tmp_path, "got folder"), (tmp_path / "nothing", "where nothing is"), ("", "got folder"),
                         ("tests/nothing", "where nothing is"), ("a b", "where nothing is"), (None, "got None")):
        with pytest.raises(ValueError, match=f"{says}.*; expected a folder with model.safetensors and config.json"):
            GPT.from_pretrained(source)
    make().save(tmp_path)
    with pytest.raises(ValueError, match="Hint: name the folder that the file is in"):
        GPT.from_pretrained(tmp_path / "model.safetensors")


def hub(monkeypatch, download):
    module = ModuleType("huggingface_hub")
    module.snapshot_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2-xl"])
def test_a_name_is_fetched(name, tmp_path, monkeypatch):
    make().save(tmp_path / "cache")
    asked = []
    hub(monkeypatch, lambda name, allow_patterns: asked.append((name, allow_patterns)) or str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    same(GPT.from_pretrained(name), make())
    assert asked[0][0] == name and {"*.safetensors", "config.json", "merges.txt"} <= set(asked[0][1])
    assert not any(pattern.endswith((".bin", ".pt", "*")) for pattern in asked[0][1])


def test_a_name_that_cannot_be_fetched(tmp_path, monkeypatch):
    def offline(name, allow_patterns):
        raise ConnectionError("no route to huggingface.co\nmany more lines")

    hub(monkeypatch, offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"'gpt2', .* could not be fetched \(no route to huggingface.co\); .* Hint: "):
        GPT.from_pretrained("gpt2")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)           # as if it were not installed
    with pytest.raises(ValueError, match="'gpt2', which is no folder here; .* Hint: pip install huggingface_hub"):
        GPT.from_pretrained("gpt2")
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match="'runs/vesre', where nothing is"):             # a slip, and nobody is asked
        GPT.from_pretrained("runs/vesre")


# llm.c


def llmc_file(model, version, path):
    """Written after its definition, number by number, and not by our layout()."""
    c, dtype = model.config, {3: "<f4", 5: dtype_of("bfloat16")}[version]
    p = {name: t.numpy().astype(np.float32) for name, t in model.named_parameters()}
    padded = math.ceil(c.vocab_size / 128) * 128
    head = [20240326, version, c.block_size, c.vocab_size, c.n_layer, c.n_head, c.n_embd, padded] + [0] * 248
    parts = [np.pad(p["wte.weight"], ((0, padded - c.vocab_size), (0, 0))), p["wpe.weight"]]
    for name in ("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
                 "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias",
                 "mlp.c_proj.weight", "mlp.c_proj.bias"):
        for i in range(c.n_layer):
            parts.append(p[f"h.{i}.{name}"].T if "c_" in name and "weight" in name else p[f"h.{i}.{name}"])
    parts += [p["ln_f.weight"], p["ln_f.bias"]]
    path.write_bytes(struct.pack("<256i", *head) + b"".join(a.astype(dtype).tobytes() for a in parts))


@pytest.mark.parametrize("version, dtype", [(3, "float32"), (5, "bfloat16")])
def test_llmc_there_and_back(version, dtype, tmp_path):
    model = make(dtype)
    llmc_file(model, version, tmp_path / "theirs.bin")
    same(GPT.from_pretrained(tmp_path / "theirs.bin"), model)
    model.save(tmp_path / "ours.bin")
    assert (tmp_path / "ours.bin").read_bytes() == (tmp_path / "theirs.bin").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ours.bin", "theirs.bin"]


def test_a_full_disk_is_named_and_keeps_no_half_of_a_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    make().save(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    for path, file in ((tmp_path, "model.safetensors"), (tmp_path / "new.bin", "new.bin")):
        with pytest.raises(OSError, match=f"No space left on device: .*{file}'"):
            make().save(path)
    same(GPT.from_pretrained(tmp_path), make())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@given(c=configs(pre_norm=True, dropout=0.0, eps=1e-5, activation="gelu"),
       dtype=st.sampled_from(["float32", "bfloat16"]))
@settings(max_examples=30)
def test_llmc_to_the_bit(c, dtype, tmp_path_factory):
    path = tmp_path_factory.mktemp("llmc") / "model.bin"
    model = GPT(c).to(dtype=dtype)
    model.save(path)
    same(GPT.from_pretrained(path), model)
    assert sum(math.prod(s) for _, s in layout(c.block_size, c.n_layer, c.n_embd, c.vocab_size)) == sum(
        math.prod(s) for s in shapes(c).values())


@pytest.mark.parametrize("change, says", [
    (lambda d: d[:900], "900 bytes; expected a header of 1024"),
    (lambda d: d[:4] + b"\2" + d[5:], r"version 2; expected 3 \(float32\) or 5"),
    (lambda d: d[:-1], r"which ends after 31 bytes of ln_f.bias \(8,\); expected its 32 bytes"),
    (lambda d: d[:2000], r"which ends after 976 bytes of wte.weight \(128, 8\); expected its 4,096 bytes"),
    (lambda d: d + b"\0", r"bytes; expected .*, by its header"),
    (lambda d: d[:24] + struct.pack("<i", 9) + d[28:], "GPTConfig: got sizes"),
    (lambda d: d[:28] + struct.pack("<i", 3) + d[32:], "with 3 rows for 11 tokens"),
    (lambda d: d[:12] + struct.pack("<i", 2 ** 30) + d[16:28] + struct.pack("<i", 2 ** 30) + d[32:],
     r"which ends after \S+ bytes of wte.weight \(1073741824, 8\)"),
    (lambda d: b"\0" * 4 + d[4:], "the file .*model.bin; expected a folder"),
])
def test_a_damaged_file_of_llmc_is_refused(change, says, tmp_path):
    path = tmp_path / "model.bin"
    make().save(path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=says):
        GPT.from_pretrained(path)


@pytest.mark.parametrize("changes, dtype, says", [
    (dict(pre_norm=False), "float32", "save: got a .bin of GPTConfig.*; expected a GPT-2 as released"),
    (dict(activation="relu"), "float32", "expected a GPT-2 as released"),
    ({}, "float16", "save: got a .bin in float16; expected float32 or bfloat16"),
])
def test_what_llmc_does_not_know(changes, dtype, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        make(dtype, **changes).save(tmp_path / "model.bin")
    assert not (tmp_path / "model.bin").exists()


# nanoGPT


@pytest.mark.parametrize("biased", [True, False])
def test_nanogpt(biased, tmp_path):
    """Its names, its (out, in) matrices, the prefix of torch.compile, and no biases if it was told so."""
    torch = pytest.importorskip("torch")
    model = make()
    for name, p in model.named_parameters():
        if name.endswith(".bias") and not biased:
            p.data = np.zeros_like(p.data)
    state = {}
    for name, p in model.named_parameters():
        if biased or not name.endswith(".bias"):
            w = torch.tensor(p.data)
            state["_orig_mod.transformer." + name] = w.T.contiguous() if name.startswith("h.") and w.ndim == 2 else w
    state["_orig_mod.lm_head.weight"] = state["_orig_mod.transformer.wte.weight"]
    torch.save({"model": state, "optimizer": {}, "iter_num": 5, "model_args": {
        "n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 12, "bias": biased, "vocab_size": 11, "dropout": 0.0}},
        tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match="which is a pickle") as refused:
        GPT.from_pretrained(tmp_path / "ckpt.pt")
    command = str(refused.value).split('python -c "')[1].split('" writes')[0].replace("FOLDER", str(tmp_path / "new"))
    exec(command, {})                                        # the line that the message gives
    same(GPT.from_pretrained(tmp_path / "new"), model)
    args = {**vars(model.config), "bias": biased}
    for more, says in ((dict(n_layer=1), r"from_nanogpt: got h.1.* expected the 16 tensors of model_args"),
                       (dict(n_layer=3), r"from_nanogpt: got no h.2.ln_1.weight"),
                       (dict() if biased else dict(bias=True), "from_nanogpt: got no h.0.ln_1.bias")):
        part = {name: w for name, w in state.items() if more or not name.endswith("h.0.ln_1.bias")}
        with pytest.raises(ValueError, match=says):
            pretrained.from_nanogpt({"model": part, "model_args": {**args, **more}}, tmp_path / "other")
    del state["_orig_mod.transformer.wpe.weight"]
    with pytest.raises(ValueError, match=r"from_nanogpt: got no wpe.weight; expected wpe.weight \(12, 8\)"):
        pretrained.from_nanogpt({"model": state, "model_args": vars(model.config)}, tmp_path / "other")


# transformers


def theirs(kind, **sizes):
    transformers = pytest.importorskip("transformers")
    import torch
    torch.manual_seed(0)
    config, model = {"gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
                     "openai-gpt": (transformers.OpenAIGPTConfig, transformers.OpenAIGPTLMHeadModel)}[kind]
    return model(config(**sizes)).eval(), torch


@pytest.mark.parametrize("kind, activation", [("gpt2", "gelu_new"), ("gpt2", "relu"), ("openai-gpt", "gelu"),
                                              ("openai-gpt", "relu")])
def test_transformers_models_are_ours(kind, activation, tmp_path):
    """Theirs, saved by them in shards, loaded here; then ours, saved here, loaded there."""
    sizes = dict(vocab_size=60, n_positions=16, n_embd=32, n_layer=2, n_head=4)
    model, torch = theirs(kind, **sizes, **{"afn" if kind == "openai-gpt" else "activation_function": activation})
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p) * 0.2
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    ids = np.random.default_rng(0).integers(0, 60, (3, 16))
    ours = GPT.from_pretrained(tmp_path / "theirs")
    with no_grad(), torch.no_grad():
        want = model(torch.tensor(ids)).logits.numpy()
        assert np.abs(ours(ids).numpy() - want).max() < 2e-5
        ours.save(tmp_path / "ours")
        again = type(model).from_pretrained(tmp_path / "ours").eval()
        np.testing.assert_array_equal(again(torch.tensor(ids)).logits.numpy(), want)


def test_the_full_size_agrees_with_transformers(tmp_path):
    """GPT-2 of 124,439,808 parameters with random weights, large enough for layers to matter."""
    model, torch = theirs("gpt2")
    with torch.no_grad():
        for p in model.parameters():
            p += torch.randn_like(p) * 0.02
    model.save_pretrained(tmp_path)
    ours = GPT.from_pretrained(tmp_path)
    ids = np.random.default_rng(0).integers(0, 50257, (2, 64))
    with no_grad(), torch.no_grad():
        want = model(torch.tensor(ids)).logits.numpy()
        found = ours(ids).numpy()
    assert want.std() > 0.5 and np.abs(found - want).max() < 2e-4


def test_bfloat16_is_read_by_a_process_that_has_not_met_it(tmp_path):
    model = make("bfloat16")
    model.save(tmp_path)
    program = ("import sys; from gpt import GPT; from minigrad.backend import wide\n"
               "print(sum(float(abs(wide(p.data)).sum()) for p in GPT.from_pretrained(sys.argv[1]).parameters()))")
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True,
                          cwd=Path(pretrained.__file__).parents[1])
    want = sum(float(np.abs(p.data.astype("f4")).sum()) for p in model.parameters())
    assert done.returncode == 0 and float(done.stdout) == pytest.approx(want, rel=1e-5), done.stderr
