"""Everything a run needs to go on, in its folder, all of one moment.

    model.safetensors, config.json     weights, with the names that Hugging Face uses; GPT.from_pretrained reads them
    optimizer.safetensors              moments, masters, step count
    tokenizer.json                     the tokenizer that the weights were trained with
    run.json                           step, position in the data, settings, measurements, versions

A save writes all of them into OUT/.saving and renames that to OUT/.saved: this one rename is the moment at which the
new checkpoint replaces the old. The files then move up to OUT. If that is cut off, whoever comes next finds .saved and
moves the rest. So the folder holds the old checkpoint or the new one, and never parts of both.

Not here yet: keeping several checkpoints, checksums, writing in the background.
"""
import contextlib
import json
import os
import platform
import shutil
from importlib.metadata import version
from itertools import count
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

import tok
from gpt import GPT, pretrained
from minigrad.check import expect


def open_folder(config):
    """The folder of the run, proved to be writable before any work. A run that is there already is not overwritten."""
    if config.resume:
        out = Path(config.resume)
    elif config.out:
        out = Path(config.out)
        expect(not _has_run(out), "--out", f"{config.out!r}, which holds a run", "a new folder",
               f"--resume {config.out} goes on with that run; another --out keeps both")
    else:
        name = f"runs/{Path(config.config).stem}"
        out = next(p for n in count(1) if not _has_run(p := Path(name if n == 1 else f"{name}-{n}")))
    for flag, folder in ("--out", out), ("--shards", Path(config.shards)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            proof = folder / f".writable.{os.getpid()}"
            proof.touch()
            proof.unlink()
        except OSError as e:
            raise ValueError(f"{flag}: got {str(folder)!r} ({e.strerror}); expected a folder that can be written. "
                             f"Hint: {flag} FOLDER") from None
    return out


def has_weights(folder):
    return (folder / "model.safetensors").exists() or (folder / ".saved").exists()


def _has_run(folder):
    """A run that failed before its first step left no log, and its folder is free."""
    return (folder / "log.jsonl").exists() or has_weights(folder)


def save(folder, model, opt, tokenizer, state):
    """Replace the checkpoint in folder, all of it or nothing."""
    staging = Path(folder, ".saving")
    shutil.rmtree(staging, ignore_errors=True)            # of a save that was cut off before its rename
    staging.mkdir()
    model.save(staging)
    save_file({name: np.asarray(array, order="C") for name, array in opt.state().items()},
              staging / "optimizer.safetensors")
    tokenizer.save(staging / "tokenizer.json")
    state = {**state, "tokenizer": tokenizer.hash, "versions": _versions()}
    (staging / "run.json").write_text(json.dumps(state, indent=1, ensure_ascii=False), encoding="utf-8")
    for path in [*staging.iterdir(), staging]:
        _to_disk(path)
    finish(folder)                                        # an older .saved would be in the way
    os.rename(staging, Path(folder, ".saved"))
    _to_disk(folder)
    finish(folder)


def finish(folder):
    """Move what a save has left in .saved to its place: nothing, unless it was cut off."""
    saved = Path(folder, ".saved")
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):     # nothing there, or another is doing it
        for path in sorted(saved.iterdir()):
            os.replace(path, Path(folder, path.name))
        saved.rmdir()


def load(source):
    """(model in eval mode, tokenizer or None) from a run folder, or from what GPT.from_pretrained reads."""
    folder = Path(source)
    finish(folder)
    expect(has_weights(folder) or not (folder / "settings.yaml").is_file(), source, "a run without model.safetensors",
           "a run with weights", "they are written at the first validation, at the end, and on Ctrl-C")
    folder = pretrained.find(source)
    model = GPT.from_pretrained(folder)
    try:
        tokenizer = tok.load(folder) if folder.is_dir() else None
    except FileNotFoundError:
        return model, None
    expect(tokenizer is None or tokenizer.vocab_size <= model.config.vocab_size, folder,
           f"a tokenizer with {tokenizer and tokenizer.vocab_size} tokens",
           f"at most the {model.config.vocab_size} of the checkpoint", "this tokenizer belongs to other weights")
    return model, tokenizer


def load_state(folder):
    """What run.json holds."""
    finish(folder)
    file = Path(folder, "run.json")
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise ValueError(f"{file}: got {e}; expected the state of a run. Hint: a run can be resumed from its first "
                         "validation on, or after Ctrl-C") from None
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
        raise ValueError(f"{file}: got {e}; expected the state of the optimiser. "
                         f"Hint: --init {folder} starts from the weights alone") from None


def _versions():
    """What made the checkpoint, for whoever wonders in a year."""
    return {"python": platform.python_version(), "machine": platform.machine(),
            **{name: version(name) for name in ("numpy", "numba", "safetensors")}}


def _to_disk(path):
    """Past the caches of the operating system: a rename must not reach the disk before the content that it names."""
    with contextlib.suppress(PermissionError):            # Windows does not open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
