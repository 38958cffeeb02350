"""Everything a run needs to go on, in its folder, all of one moment.

    model.safetensors, config.json     weights, with the names Hugging Face knows; GPT.from_pretrained reads them
    optimizer.safetensors              moments, masters, step count
    tokenizer.json                     the tokenizer that the weights were trained with
    run.json                           step, position in the data, settings, measurements, versions

A save writes all of them into OUT/.saving and then renames that to OUT/.saved: this one rename is the moment at which
the new checkpoint replaces the old. Moving the files up to OUT can be repeated, so whoever finds .saved finishes that first.
Cut off anywhere, the folder holds the old checkpoint or the new one, and never parts of both.

Not here yet: keeping several checkpoints, checksums, writing in the background.
"""
import contextlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import tok
from gpt import GPT
from minigrad.check import expect


def save(folder, model, opt, tokenizer, state):
    """Replace the checkpoint in folder, atomically."""
    staging = Path(folder, ".saving")
    shutil.rmtree(staging, ignore_errors=True)            # of a save that was cut off before its commit
    staging.mkdir()
    model.save(staging)
    save_file({name: np.asarray(array, order="C") for name, array in opt.state().items()},
              staging / "optimizer.safetensors")
    tokenizer.save(staging / "tokenizer.json")
    state = {**state, "tokenizer": tokenizer.hash, "versions": versions()}
    (staging / "run.json").write_text(json.dumps(state, indent=1, ensure_ascii=False), encoding="utf-8")
    for path in [*staging.iterdir(), staging]:
        _to_disk(path)
    finish(folder)                                        # an earlier .saved would be in the way
    os.rename(staging, Path(folder, ".saved"))
    _to_disk(folder)
    finish(folder)


def finish(folder):
    """Move the files of a committed save to their place; nothing to do if that was not interrupted."""
    saved = Path(folder, ".saved")
    with contextlib.suppress(FileNotFoundError):          # none there, or another process does the same
        for path in sorted(saved.iterdir()):
            os.replace(path, Path(folder, path.name))
        saved.rmdir()


def load(folder):
    """A run folder or a Hugging Face folder with a tokenizer.json -> model in eval mode, tokenizer (None if there is none)."""
    folder = Path(folder)
    finish(folder)
    expect((folder / "model.safetensors").is_file(), str(folder), "no model.safetensors in it",
           "a run folder of train.run, or a folder with a GPT's weights", "a run has weights after its first validation or Ctrl-C")
    model = GPT.from_pretrained(folder)
    if not (folder / "tokenizer.json").is_file():
        return model, None
    tokenizer = tok.load(folder / "tokenizer.json")
    expect(tokenizer.vocab_size <= model.config.vocab_size, str(folder), f"a tokenizer with {tokenizer.vocab_size} tokens",
           f"at most the {model.config.vocab_size} of the checkpoint", "the tokenizer.json belongs to other weights")
    return model, tokenizer


def load_state(folder):
    """run.json of a run folder."""
    finish(folder)
    file = Path(folder, "run.json")
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise ValueError(f"{file}: got {e}; expected the state of a run. Hint: a run can be resumed after its first "
                         "validation or Ctrl-C") from None
    needed = {"step", "position", "config", "tokenizer", "source"}
    expect(isinstance(state, dict) and needed <= state.keys(), file, "a file that lacks some of these",
           ", ".join(sorted(needed)), "it was not written by a run")
    return state


def load_optimizer(folder, opt):
    """Put moments, masters and step count back."""
    file = Path(folder, "optimizer.safetensors")
    try:
        opt.load_state(load_file(file))
    except (OSError, SafetensorError, KeyError) as e:
        raise ValueError(f"{file}: got {e}; expected the optimizer's state. Hint: --init {folder} starts from the weights alone") from None


def versions():
    """What made a checkpoint, for whoever wonders in a year."""
    return {"python": platform.python_version(), "machine": platform.machine(),
            **{name: version(name) for name in ("numpy", "numba", "safetensors")}}


def _to_disk(path):
    """Past the caches of the operating system: a rename must not reach the disk before the contents it names."""
    with contextlib.suppress(PermissionError):            # Windows does not open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
