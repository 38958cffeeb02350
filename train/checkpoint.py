"""Everything a run needs to go on, as it was at some of its steps: each of them whole, or not there.

    OUT/checkpoints/00000250/
        model.safetensors, config.json     weights, with the names that Hugging Face uses
        optimizer.safetensors              moments, masters, step count
        tokenizer.json                     the tokenizer that the weights were trained with
        run.json                           step, position in the data, settings, measurements, versions; and size and
                                           sha256 of the other files
    OUT/model.safetensors, config.json, tokenizer.json
                                           those of the newest: second names of the same files

No random state is among them: weights, windows and dropout masks are functions of the seed and of the step.

A checkpoint is written into a hidden folder, brought to the disk, and renamed: this one rename is the moment at which
it is there. The last few stay, and the one with the best validation loss. Writing takes place in a thread, from a copy
of the arrays, while training goes on; at most one copy is held, so a save waits for the one before it. If writing
fails, because the disk is full for instance, the run says so and goes on, and what was there stays.

The folder is locked as long as a run is at it, by the system, which unlocks it when the process ends in whatever way.
"""
import contextlib
import functools
import hashlib
import json
import math
import os
import platform
import shutil
import sys
import threading
from collections.abc import Mapping
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.numpy import load_file

import tok
from gpt import GPT, pretrained
from minigrad.cache import one_at_a_time
from minigrad.check import expect
from nn import AdamW
from tok.base import Tokenizer, refusal

if TYPE_CHECKING:
    from train.config import Config  # which imports this file

FOLDER, WEIGHTS = "checkpoints", ("model.safetensors", "config.json", "tokenizer.json")
GOES_ON = ", and the run goes on"
NEEDED = {"step", "position", "config", "tokenizer", "source", "files"}


# ----------------------------------------------------------------------------------------------------------- the folder

def open_folder(config: "Config", held: contextlib.ExitStack) -> Path:
    """The folder of the run, proved to be writable before any work, and no other process's until held, an ExitStack, is
    closed. A run that is there already is not overwritten."""
    if config.resume or config.out:
        out = Path(config.out)                               # with auto there may be nothing yet, or but a log
        again = "--resume" if steps(out) else "--resume auto --out"
        expect(config.resume or not has_run(out), "--out", f"{config.out!r}, which holds a run", "a new folder",
               f"{again} {config.out} goes on with that run; another --out keeps both")
        flag = "--resume" if config.resume else "--out"
        expect(claimed(out, held, flag), flag, f"{config.out!r}, in which another process is training",
               "a folder of its own for each run", "wait until it has ended, or stop it with Ctrl-C")
    else:
        name = f"runs/{Path(config.config).stem}"
        out = next(p for n in count(1) if not has_run(p := Path(name if n == 1 else f"{name}-{n}"))
                   and claimed(p, held))
    for flag, other in (("--shards", config.shards), ("--downloads", config.downloads)):
        expect(Path(other).resolve() != out.resolve(), flag, f"{other!r}, the folder of the run", "another one",
               f"{flag} {Path(other, flag[2:])}")            # each is locked by who works in it
    expect(config.data == "verse" or Path(config.data).resolve() != out.resolve(), "--data",
           f"{config.data!r}, the folder of the run", "another one",
           "a folder for the texts alone, as the log and the samples of the run would be read with them")
    writable("--shards", Path(config.shards))
    if config.resume == "auto" and not steps(out):           # stopped before its first checkpoint
        (out / "log.jsonl").unlink(missing_ok=True)
    return out


def writable(flag: str, folder: Path) -> None:
    """Make a folder, and prove that it takes files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        proof = folder / f".writable.{os.getpid()}"
        proof.touch()
        proof.unlink()
    except OSError as e:
        raise ValueError(f"{flag}: got {str(folder)!r} ({e.strerror}); expected a folder that can be written. "
                         f"Hint: {flag} FOLDER") from None


def claimed(out: Path, held: contextlib.ExitStack, flag: str = "--out") -> bool:
    """Is this folder ours until held is closed? Another process may be training in it."""
    writable(flag, out)
    try:
        held.enter_context(one_at_a_time(out, wait=False))
    except BlockingIOError:
        return False
    return True


def has_run(folder: Path) -> bool:
    """A run that failed before its first step left no log, and its folder is free."""
    return (folder / "log.jsonl").exists() or bool(steps(folder))


def tidy(out: str | Path) -> None:
    """Remove what a killed run was just writing: under its own name it was not there yet."""
    for left in Path(out, FOLDER).glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
    for name in (*WEIGHTS, "log.jsonl", "loss.png"):
        Path(out, f".{name}.tmp").unlink(missing_ok=True)


def steps(out: str | Path) -> dict[int, Path]:
    """{step: folder} of all checkpoints, the newest first."""
    found = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = {int(p.name): p for p in Path(out, FOLDER).iterdir() if p.name.isdecimal()}
    return dict(sorted(found.items(), reverse=True))


# -------------------------------------------------------------------------------------------------------------- writing

class Writer:
    """Writes the checkpoints of one run. newest: the step of the one that it goes on from, which is there already."""

    def __init__(self, out: str | Path, keep: int = 2, background: bool = True, newest: int | None = None,
                 copies: bool = True) -> None:
        self.out, self.keep, self.background, self.copies = Path(out), keep, background, copies
        self.failed, self.newest = "", newest
        self.thread: threading.Thread | None = None
        tidy(out)

    def save(self, model: GPT, moments: dict, tokenizer: Tokenizer, state: dict) -> None:
        """Begin to write a checkpoint of this moment. moments: what the optimiser's state() is."""
        self.wait()
        if self.newest == state["step"]:
            return
        arrays = {"model": pretrained.arrays_of(model), "optimizer": moments}
        if self.background and self.copies:                  # the next step changes them in place
            arrays = {file: {name: a.copy() for name, a in some.items()} for file, some in arrays.items()}
        what = (arrays, pretrained.config_of(model, tokenizer.special.get("<|endoftext|>")), tokenizer,
                {**state, "tokenizer": tokenizer.hash, "versions": versions()})
        if self.background:
            self.thread = threading.Thread(target=self.write, args=what, name="checkpoint")
            self.thread.start()
        else:
            self.write(*what)

    def busy(self, seconds: float) -> bool:
        """Is a checkpoint still being written? Waits so long for it at most."""
        if (thread := self.thread) is not None:
            thread.join(seconds)
        return thread is not None and thread.is_alive()

    def wait(self) -> str:
        """Until what was begun is written. Returns what went wrong with the last one, or ""."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        return self.failed

    def write(self, arrays: dict, config: dict, tokenizer: Tokenizer, state: dict) -> None:
        try:
            target = self.put(arrays, config, tokenizer, state)
            self.failed, self.newest = "", state["step"]
            self.settle(target)
        except OSError as e:
            last, why = next(iter(steps(self.out)), None), e.strerror or e
            kept = "there is none yet" if last is None else f"the one of step {last} is whole"
            self.failed = f"the checkpoint of step {state['step']} could not be written ({why}); {kept}{GOES_ON}"
            if self.newest == state["step"]:
                self.failed = (f"the checkpoint of step {self.newest} is whole, but its weights could not be given a "
                               f"second name in {self.out} ({why}){GOES_ON}")
            print(f"\n{self.failed}", file=sys.stderr, flush=True)
        except BaseException as e:                           # in a thread nobody else would hear of it
            self.failed = repr(e)
            raise

    def put(self, arrays: dict, config: dict, tokenizer: Tokenizer, state: dict) -> Path:
        """All files into a hidden folder, and then its rename. Returns the folder under its new name."""
        name = f"{state['step']:08}"
        staging = self.out / FOLDER / f".{name}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            for file, some in arrays.items():
                pretrained.write_tensors(staging / f"{file}.safetensors", some)
            write_json(staging / "config.json", config)
            tokenizer.save(staging / "tokenizer.json")
            files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
                     for path in sorted(staging.iterdir())}
            write_json(staging / "run.json", {**state, "files": files})
            for path in [*staging.iterdir(), staging]:
                to_disk(path)
            target = self.out / FOLDER / name
            aside = target.with_name(f".{name}.damaged")     # of the same step: a run has come by again
            with contextlib.suppress(FileNotFoundError):
                os.rename(target, aside)                     # to remove it takes longer, and a kill may come meanwhile
            os.rename(staging, target)
            shutil.rmtree(aside, ignore_errors=True)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        to_disk(self.out / FOLDER)
        return target

    def settle(self, newest: Path) -> None:
        """What follows on a new checkpoint, and can be done again if a kill comes before it."""
        self.prune(int(newest.name))                         # first: it makes room
        for file in WEIGHTS:
            second_name(newest / file, self.out / file)

    def prune(self, newest: int) -> None:
        """Remove all but the last few and the best. Those beyond the newest are damaged, and stand for none."""
        found = {step: folder for step, folder in steps(self.out).items() if step <= newest}
        scores = {step: score(folder) for step, folder in found.items()}
        best = best_of(scores)
        for step in [step for step in list(found)[self.keep:] if step != best]:
            hidden = found[step].with_name(f".{found[step].name}")
            os.rename(found[step], hidden)                   # half of one must not look like one
            shutil.rmtree(hidden, ignore_errors=True)


def score(folder: Path) -> float:
    """The validation loss of a checkpoint; infinite if it has none, or one that is no number."""
    try:
        loss = float(json.loads((folder / "run.json").read_text(encoding="utf-8"))["metrics"]["val_loss"])
    except (OSError, ValueError, KeyError, TypeError):
        return math.inf
    return loss if math.isfinite(loss) else math.inf         # nothing is less than NaN, and so it would be the best


def best_of(scores: Mapping[int, float]) -> int:
    """Of {step: score} the step with the lowest, and of several the last."""
    return min(scores, key=lambda step: (scores[step], -step))


def best(out: str | Path) -> Path:
    """The folder of the checkpoint with the lowest validation loss, proved to be whole."""
    found = steps(out)
    expect(found, out, "no checkpoint", "a run that has one")
    folder = found[best_of({step: score(folder) for step, folder in found.items()})]
    checked(folder)
    return folder


def second_name(path: Path, other: Path) -> None:
    """The same file under another name, in place of what had it; a copy where a file can have but one name."""
    temporary = other.with_name(f".{other.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, other)
    finally:                                                 # no room for a copy; or other was this file already, and
        temporary.unlink(missing_ok=True)                    # then a rename leaves both


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def sha256(path: str | Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What made the checkpoint, for whoever wonders in a year."""
    return {"code": code(), "python": platform.python_version(), "machine": platform.machine(),
            **{name: version(name) for name in ("numpy", "numba", "safetensors")}}


@functools.cache
def code() -> str:
    """A hash of this project's own files: runs that have the same one ran the same code, whatever it was called."""
    digest, top = hashlib.sha256(), Path(__file__).parent.parent
    for package in ("minigrad", "nn", "gpt", "tok", "train"):
        for path in sorted((top / package).rglob("*.*")):
            if path.suffix in (".py", ".cu", ".cuh", ".h", ".cpp"):
                digest.update(f"{path.relative_to(top).as_posix()} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def to_disk(path: str | Path) -> None:
    """Past the caches of the operating system: a rename must not reach the disk before the content that it names."""
    with contextlib.suppress(PermissionError):            # Windows does not open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# -------------------------------------------------------------------------------------------------------------- reading

def load(source: str | Path) -> tuple[GPT, Tokenizer | None]:
    """(model in eval mode, tokenizer or None) from a run folder, or from what GPT.from_pretrained reads."""
    found = steps(source)
    if found:
        source, _ = newest(source)
    expect(found or not Path(source, "settings.yaml").is_file(), source, "a run without a checkpoint",
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


def newest(out: str | Path) -> tuple[Path, dict]:
    """(folder, what run.json holds) of the newest checkpoint that is whole; those that are not are named."""
    damaged = []
    for step, folder in steps(out).items():
        try:
            state = checked(folder)
        except ValueError as e:
            damaged.append(str(e))
            continue
        for line in damaged:
            print(f"{line}; going on from step {step}", file=sys.stderr, flush=True)
        return folder, state
    expect(damaged, out, "no checkpoint", "a run that has one",
           "they are written at the first validation, at the end, and on Ctrl-C")
    raise refusal(str(out), "; ".join(damaged), "one checkpoint that is whole", f"--init {out} takes weights alone")


def checked(folder: Path) -> dict:
    """What run.json holds, if all files are what it says."""
    file = folder / "run.json"
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ValueError(f"{file}: got {e}; expected the state of a run") from None
    expect(isinstance(state, dict) and NEEDED <= state.keys() and isinstance(state["files"], dict), file,
           "a file that lacks some of these", ", ".join(sorted(NEEDED)))
    for name, want in state["files"].items():
        path = folder / Path(name).name
        got = path.stat().st_size if path.is_file() else "no file"
        expect(isinstance(want, dict) and got == want.get("bytes"), path, f"{got} bytes" if path.is_file() else got,
               f"{want.get('bytes') if isinstance(want, dict) else want} bytes")
        expect(sha256(path) == want.get("sha256"), path, "other content than was written", "the sha256 of run.json")
    return state


def load_optimizer(folder: str | Path, opt: AdamW) -> None:
    """Put moments, masters and step count back."""
    file = Path(folder, "optimizer.safetensors")
    try:
        opt.load_state(load_file(file))
    except (OSError, SafetensorError, KeyError) as e:
        raise ValueError(f"{file}: got {e}; expected the state of the optimiser. "
                         f"Hint: --init {folder} starts from the weights alone") from None
