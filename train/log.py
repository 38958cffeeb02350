"""Seeing a run: a progress bar, log.jsonl, TensorBoard's events, and a plot of the loss."""
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minigrad.check import expect
from train import stats
from train.drawing import drawing

FLUSH = 10           # seconds, at least, between two moments at which TensorBoard can see what is new


class Log:
    """log.jsonl: one measurement a line, each with its step.

        {"loss", "lr", "norm", "tokens_per_s", "mfu"}        of every step; norm is null where it was infinite, "scale"
                                                             is there in float16, "skipped" where no update was made
        {"epoch", "val_loss", "perplexity", "accuracy", "bits_per_byte"}     of a validation, null where they are no
                                                             numbers; "val_bits" and "entropy_bits" a couplet, of verse;
                                                             "gpu_bytes" held for arrays, where there is a GPU
        {"sample"}                                           what the model wrote then
        {"stats": {parameter: [weight, gradient, update]}}   of train/stats.py, if asked for
        {"back_from", "spike"}                               the run went back from that step to this one
        {"failed"}                                           a checkpoint that could not be written, and why

    Where the disk is full, lines wait until there is room.
    """

    def __init__(self, file: str | Path, step: int = 0, events: str | Path | None = None) -> None:
        """Begin after the given step: lines from beyond the checkpoint that a run resumes from are forgotten. events:
        a folder for TensorBoard, to which the same is written."""
        self.events = Events(events, step) if events else None
        self.file, self.waiting = Path(file), []
        kept = [entry for entry in read(file) if entry["step"] <= step] if step and self.file.exists() else []
        temporary = self.file.with_name(f".{self.file.name}.tmp")
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept), encoding="utf-8")
        os.replace(temporary, self.file)                     # a kill leaves the old one or the new

    def write(self, **entry: Any) -> None:
        if self.events:
            self.events.write(entry)
        self.waiting.append(json.dumps(entry) + "\n")
        with contextlib.suppress(OSError), self.file.open("ab", buffering=0) as stream:
            end = stream.seek(0, os.SEEK_END)
            text = "".join(self.waiting).encode()
            try:
                if stream.write(text) < len(text):
                    raise OSError("part of it")
            except OSError:
                stream.truncate(end)
                raise
            self.waiting.clear()

    def close(self) -> None:
        if self.events:
            self.events.close()


def read(file: str | Path) -> list[dict]:
    """The entries of a log; a last line that was cut off is left out, and so is what a run has gone back on."""
    entries = []
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            break
        expect(isinstance(entry, dict) and "step" in entry, file, line[:60], "lines that a run wrote, each of a step")
        if "back_from" in entry:
            entries = [e for e in entries if e["step"] <= entry["step"]]
        entries.append(entry)
    return entries


class Events:
    """TensorBoard's event files: numbers as scalars, statistics by kind and parameter, samples as text.

    They are written where they arise: the SummaryWriter of tensorboardX hands them to a thread, which a full disk ends,
    and then whoever has more waits for it for ever. After a full disk there are no more of them: the log has them all.
    """

    def __init__(self, folder: str | Path, step: int = 0) -> None:
        try:
            from tensorboardX import summary
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog
        except ImportError:
            expect(False, "--tensorboard", "no tensorboardX", "the package that writes event files",
                   "pip install tensorboardX; to look at them: pip install tensorboard")
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.scalar, self.text, self.event = summary.scalar, summary.text, Event
        self.begins = SessionLog(status=SessionLog.START)        # from this step on, what was told before is forgotten
        self.writer, self.flushed, self.full = EventsWriter(str(Path(folder, "events"))), 0.0, False
        if step:
            self.add(step + 1, session_log=self.begins)

    def add(self, step: int, **content: Any) -> None:
        self.writer.write_event(self.event(wall_time=time.time(), step=step, **content))

    def write(self, entry: dict) -> None:
        if self.full:
            return
        step = entry["step"]
        try:
            if "back_from" in entry:
                self.add(step + 1, session_log=self.begins)
            for name, value in entry.items():
                if isinstance(value, (int, float)) and name != "step":
                    self.add(step, summary=self.scalar(name, value))
                elif isinstance(value, str):
                    self.add(step, summary=self.text(name, value))
            for name, values in entry.get("stats", {}).items():
                for kind, value in zip(stats.KINDS, values, strict=True):
                    if value is not None:
                        self.add(step, summary=self.scalar(f"{kind}/{name}", value))
            if time.monotonic() > self.flushed + FLUSH:
                self.writer.flush()
                self.flushed = time.monotonic()
        except OSError as e:
            self._end(e)

    def close(self) -> None:
        try:
            self.writer.close()
        except OSError as e:
            self._end(e)

    def _end(self, error: OSError) -> None:
        """Say so, once: what was written last may be there in half."""
        if not self.full:
            print(f"\nTensorBoard gets no more events ({error.strerror or error}); the log has them all",
                  file=sys.stderr, flush=True)
        self.full = True


def progress(steps: int, done: int) -> tqdm:
    """A bar over the steps of a run, with the time that is left; quiet where nobody watches."""
    return tqdm(total=steps, initial=done, unit="step", dynamic_ncols=True, smoothing=0.05, file=sys.stderr,
                mininterval=0.2 if sys.stderr.isatty() else 10)


@contextmanager
def slow(message: str, after: float = 1.5) -> Iterator[None]:
    """Say message if what is inside takes longer than that many seconds, and then how long it took."""
    began = time.perf_counter()
    timer = threading.Timer(after, lambda: print(message, "...", flush=True))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if (took := time.perf_counter() - began) > after:
            print(f"  took {took:.0f} s", flush=True)


class Picture:
    """loss.png of a run, drawn anew as it goes on, in at most a hundredth of its time."""

    def __init__(self, out: str | Path) -> None:
        self.file, self.log = Path(out, "loss.png"), Path(out, "log.jsonl")
        self.title, self.next = Path(out).absolute().name, 0.0

    def draw(self, last: bool = False) -> None:
        began = time.perf_counter()
        if last or began >= self.next:
            with contextlib.suppress(OSError):               # a full disk, again
                plot(self.file, read(self.log), self.title)
            now = time.perf_counter()
            self.next = now + 100 * (now - began)


def plot(file: str | Path, entries: list[dict], title: str = "") -> None:
    """Draw training and validation loss over steps, and the entropy of the source where it is known."""
    train = [(e["step"], e["loss"]) for e in entries if e.get("loss") is not None]
    val = [e for e in entries if e.get("val_loss") is not None]
    with drawing(file, figsize=(8, 4.8)) as (_, ((axes,),)):
        if train:
            steps, losses = np.array(train).T
            axes.plot(steps, losses, color="#9ecae1", linewidth=0.7, alpha=0.8)
            smooth = _smooth(losses)
            axes.plot(steps, smooth, color="#2171b5", linewidth=1.6, label="training")
            if len(losses) > 200:                       # the first fall from ignorance would flatten all that matters
                axes.set_ylim(top=1.1 * smooth[len(losses) // 50:].max())
        if val:
            axes.plot([e["step"] for e in val], [e["val_loss"] for e in val], "o-", color="#d94801", markersize=4,
                      linewidth=1.4, label=f"validation: {val[-1]['val_loss']:.3f}")
        if val and "entropy_bits" in val[-1]:
            last = val[-1]                              # bits per document -> nats per token, on the same documents
            floor = last["val_loss"] * last["entropy_bits"] / last["val_bits"]
            axes.axhline(floor, color="#238b45", linestyle="--", linewidth=1.4,
                         label=f"entropy of the source: {floor:.3f}")
        axes.set(xlabel="step", ylabel="loss (nats per token)")
        axes.set_title(title, parse_math=False)         # the name of a folder: a $ is one
        axes.grid(alpha=0.25)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)


def _smooth(values, share=0.01):
    """The mean over the neighbours on both sides, about that share of the run each, fewer towards the ends."""
    i, n = np.arange(len(values)), len(values)
    reach = np.minimum(max(1, round(share * n)), np.minimum(i, n - 1 - i))
    total = np.concatenate([[0.0], np.cumsum(values)])
    return (total[i + reach + 1] - total[i - reach]) / (2 * reach + 1)
