"""Text in, text out; and out of the house: train.export, and what transformers makes of it."""
import json
import os

import numpy as np
import pytest

import tok
from gpt import GPT, GPTConfig
from gpt.generate import Token
from tok import BPETokenizer, CharTokenizer, HindiTokenizer, WordPieceTokenizer
from train import checkpoint, export, sample, text
from train.data import separator
from train.text import GPT2

VERSE = "जब नए तोरण दमके, त्योहार है अपार॥\nगायक ने गीत गाया, बढ़ा दूर त्योहार।\n"
END = "<|endoftext|>"
TOKENIZERS = {
    "bpe": lambda: BPETokenizer.train(VERSE * 3, 300),
    "hindi": lambda: HindiTokenizer.train(VERSE * 3, 300),
    "char": lambda: CharTokenizer.train(VERSE, special_tokens=[END]),
    "char, unknown": lambda: CharTokenizer.train(VERSE, unknown="<unk>", special_tokens=[END]),
    "wordpiece": lambda: WordPieceTokenizer.train(VERSE * 9, 90, special_tokens=["[UNK]", END]),
}
every_tokenizer = pytest.mark.parametrize("kind", TOKENIZERS)


def model_for(tokenizer, seed=0, **changes):
    """Weights that make every text another one."""
    model, rng = GPT(GPTConfig(tokenizer.vocab_size, 32, 2, 2, 16, **changes)), np.random.default_rng(seed)
    for p in model.parameters():
        p.data = p.data + rng.standard_normal(p.shape).astype(np.float32) * np.float32(0.3)
    return model.eval()


@pytest.fixture
def folder(tmp_path):
    """A run folder as far as reading goes."""
    tokenizer = TOKENIZERS["hindi"]()
    model_for(tokenizer).save(tmp_path / "run")
    tokenizer.save(tmp_path / "run" / "tokenizer.json")
    (tmp_path / "run" / "run.json").write_text("{}")
    return tmp_path / "run"


def test_the_quick_start(folder):
    """A model by its folder, a prompt, a text."""
    model, tokenizer = GPT2.from_pretrained(folder), tok.load(folder)
    assert isinstance(tokenizer, HindiTokenizer)
    output = model.generate("गीत", max_length=20, temperature=0.8)
    assert output.startswith("गीत") and len(output) > len("गीत")
    assert output == model.generate("गीत", max_length=20, temperature=0.8)
    assert output != model.generate("गीत", max_length=20, temperature=0.8, seed=1)
    assert model.generate(max_length=20, seed=3) != ""                     # as a document begins
    ids = model.generate(tokenizer.encode("गीत"), max_length=20, temperature=0.8)
    assert tokenizer.decode(ids).startswith("गीत") and len(ids) <= 20
    with pytest.raises(ValueError, match="generate: got a prompt of .* tokens; expected fewer than 2. Hint: a larger"):
        model.generate("गीत", max_length=2)


def test_a_text_stops_where_the_model_ends_the_document(monkeypatch):
    tokenizer = BPETokenizer.train("aaab aaab", 260)
    end, a, b = tokenizer.special[END], *b"ab"
    model = GPT2(None, tokenizer)
    monkeypatch.setattr(text, "generate", lambda model, rows, n, stop, **how: [[*row, a, *stop] for row in rows])
    assert model.write(n=2, prompt="b") == ["ba", "ba"] and model.generate("b") == "ba"
    assert model.generate([b], 9) == [b, a, end]
    monkeypatch.setattr(text, "stream", lambda model, rows, n, stop: ([Token(0, i, 0.0)] for i in (a, b, end)))
    assert list(model.stream(prompt="b")) == ["b", "a", "b", ""]


def test_a_folder_without_a_tokenizer(tmp_path):
    for source in (tmp_path, tmp_path / "llmc.bin"):       # which is no folder, and has no place for one
        GPT(GPTConfig.preset("tiny")).save(source)
        with pytest.raises(ValueError, match="got no tokenizer in it; expected a folder with one beside the weights"):
            GPT2.from_pretrained(source)
    assert checkpoint.load(tmp_path)[1] is None


def test_gpt2s_files_beside_the_weights(tmp_path):
    """vocab.json and merges.txt, as transformers wrote them for years."""
    small = BPETokenizer.train("the cat sat on the mat " * 9, 262, "gpt2")
    names = json.loads((small.to_hf(tmp_path), tmp_path / "tokenizer.json")[1].read_text())["model"]
    (tmp_path / "tokenizer.json").unlink()
    order = [name for name, i in sorted(names["vocab"].items(), key=lambda item: item[1])]
    from tok.hf import gpt2_bytes
    vocab = [*gpt2_bytes(), *[name for name in order if len(name) > 1]]
    (tmp_path / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(vocab)}))
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *names["merges"]]) + "\n", "utf-8")
    read = tok.load(tmp_path)
    assert read.vocab_size == 262 and read.decode(read.encode("the cat sat")) == "the cat sat"
    model_for(read).save(tmp_path)
    assert GPT2.from_pretrained(tmp_path).generate("the cat", 12).startswith("the cat")
    with pytest.raises(FileNotFoundError, match="expected in it tokenizer.json, or vocab.json and merges.txt, or enc"):
        tok.load(tmp_path.parent)


@pytest.mark.parametrize("tokenizer", [WordPieceTokenizer.train(VERSE * 9, 90), CharTokenizer.train("गीत है")])
def test_a_tokenizer_without_a_token_between_documents(tokenizer):
    """It cannot be trained with, but it can go on with a text that is given."""
    model = GPT2(model_for(tokenizer), tokenizer)
    assert model.generate("गीत", 20).startswith("गीत")
    with pytest.raises(ValueError, match="generate: got an empty prompt; expected some text"):
        model.generate()
    with pytest.raises(ValueError, match="which has neither <.endoftext.> nor a line break"):
        separator(tokenizer)


# export


@every_tokenizer
def test_what_is_exported_writes_the_same(kind, tmp_path, capsys):
    tokenizer = TOKENIZERS[kind]()
    model_for(tokenizer).save(tmp_path / "run")
    tokenizer.save(tmp_path / "run" / "tokenizer.json")
    assert export.main([str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    assert "AutoModelForCausalLM" in capsys.readouterr().out
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    again = tok.load(tmp_path / "out")
    assert type(again) is type(tokenizer) and again.hash == tokenizer.hash
    said = []
    for name in ("run", "out"):
        assert sample.main([str(tmp_path / name), "--prompt", "गीत", "--tokens", "20"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    end = tokenizer.special.get(END)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["eos_token_id"] == end


def test_export_for_llmc(folder, tmp_path, capsys):
    assert export.main([str(folder), str(tmp_path / "model.bin"), "--dtype", "bfloat16"]) == 0
    assert "for llm.c" in capsys.readouterr().out
    model = GPT.from_pretrained(tmp_path / "model.bin")
    assert model.wte.weight.dtype == "bfloat16"
    assert checkpoint.load(tmp_path / "model.bin")[1] is None


def test_export_refuses(folder, tmp_path, capsys):
    assert export.main([str(folder), str(folder)]) == 2
    assert export.main([str(folder), ""]) == 2 and "got an empty name" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe.bin")
    assert export.main([str(folder), str(tmp_path / "pipe.bin")]) == 2
    assert "a name that is free" in capsys.readouterr().err
    assert export.main([str(folder), str(folder)]) == 2
    assert "which holds a run; expected another folder" in capsys.readouterr().err
    assert export.main([str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
    assert "nothing" in capsys.readouterr().err
    tokenizer = CharTokenizer.train(VERSE, unit="akshara")
    model_for(tokenizer).save(tmp_path / "aksharas")
    tokenizer.save(tmp_path / "aksharas" / "tokenizer.json")
    assert export.main([str(tmp_path / "aksharas"), str(tmp_path / "out")]) == 2
    assert "got a tokenizer of aksharas; expected one of code points" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{}, {"pre_norm": False}, {"activation": "relu"}])
@every_tokenizer
def test_transformers_writes_the_same_text(kind, changes, tmp_path):
    """From the folder alone: greedy, by their generate() and their tokenizer."""
    transformers = pytest.importorskip("transformers")
    tokenizer = TOKENIZERS[kind]()
    ours = GPT2(model_for(tokenizer, **changes), tokenizer)
    ours.save(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in ("गीत", "त्योहार है"):
        ids = theirs(prompt, return_tensors="pt")
        assert ids["input_ids"][0].tolist() == tokenizer.encode(prompt)
        new = model.generate(**ids, max_new_tokens=20, do_sample=False, pad_token_id=0)[0].tolist()
        assert new == ours.generate(tokenizer.encode(prompt), len(tokenizer.encode(prompt)) + 20, 0)
        if kind != "wordpiece":                              # they put spaces elsewhere than we do
            assert theirs.decode(new, skip_special_tokens=False) == tokenizer.decode(new)
