"""Is anything ever lost? python -m bench survive [--short]

A small run is killed at random moments and goes on by the same command, until it ends with the weights of a run that
nobody disturbed, to the bit; it is asked to stop; the files that it may write become too small; its files are damaged.

    kills       kill -9 at random moments, from the start of the process to its end: after each the newest checkpoint is
                whole and no older than the one before, and after the next start nothing is left over
    stops       SIGTERM: exit status 0, a checkpoint of the last step, and how long that took: 2 s at most, or as long
                as that run took to its first step, if the machine is busy
    full disk   no file may grow beyond what a checkpoint needs: the run goes on, and ends like the others afterwards
    ranks       kill -9 of one rank of several, with --ranks: all end within 10 s, and by the same command the run ends
                with the weights of ranks that nobody disturbed
    damage      files of checkpoints, weights, tokenizers, shards and settings with bytes changed, cut off or made up:
                what is loaded is what was written, or the error is a clear one

Exit status: 0 if all of it held.
"""
import argparse
import contextlib
import hashlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

import tok
from bench.turns import count, positive
from gpt import GPT
from minigrad.check import expect
from train import checkpoint, config, log
from train.data import SPLITS, Shard

STEPS = 120
SETTINGS = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "device_batch": 4, "tokens_per_step": 64,
            "steps": STEPS, "warmup": 10, "eval_every": 20, "eval_tokens": 200, "save_every": 2, "samples": 0,
            "tokenizer": "char", "dropout": 0.1}
PATIENCE = 60.0          # seconds after which a process or a load counts as hanging: at least so many,
TIMES = 20               # and so many times those of a run that nobody disturbs, for the machine may be busy


class Place:
    """A folder with a text, and runs on it, none of which outlives it."""

    def __init__(self, folder):
        self.folder, self.patience, self.started = Path(folder), None, []
        words, rng = ["one", "two", "three", "four"], random.Random(0)
        (self.folder / "text.txt").write_text(" ".join(rng.choices(words, k=2000)), encoding="utf-8")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.started:
            end(process)

    def start(self, out, limit=None, ranks=1):
        """The process of a run, which goes on if it has begun. limit: bytes that a file of it may have."""
        flags = {**SETTINGS, "data": self.folder / "text.txt", "shards": self.folder / "shards",
                 "out": self.folder / out, "resume": "auto"}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        shrink = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
        launch = [mpiexec(), "-n", str(ranks)] if ranks > 1 else []
        self.started.append(subprocess.Popen(
            [*launch, sys.executable, "-m", "train.run", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, preexec_fn=shrink, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}))
        return self.started[-1]

    def finish(self, out, **how):
        """(exit status, what it said, seconds) of a run that nobody disturbs."""
        began = time.perf_counter()
        return *ended(self.start(out, **how), self.patience), time.perf_counter() - began

    def weights(self, out):
        """All of the newest checkpoint but the settings, in which the folder's name stands."""
        folder, state = checkpoint.newest(self.folder / out)
        return state["step"], *((folder / f"{name}.safetensors").read_bytes() for name in ("model", "optimizer"))


def ended(process, patience):
    """(exit status, what it said) of a process that is to end by itself; one that does not is killed."""
    try:
        said = process.communicate(timeout=patience)[1]
        return process.returncode, said
    except subprocess.TimeoutExpired:
        end(process)
        return None, f"no end within {patience:.0f} s"


def end(process):
    """kill -9, of its ranks too."""
    if process.poll() is None:
        for pid in [*ranks_of(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):    # the others have ended with one of them
                os.kill(pid, signal.SIGKILL)
        process.communicate()


class Held:
    """Counts what held, and keeps what did not."""

    def __init__(self):
        self.checks, self.broken = 0, []

    def that(self, ok, what):
        self.checks += 1
        if not ok:
            self.broken.append(what)
        return ok

    def report(self, name, text):
        print(f"{name:10} {text}: {'all held' if not self.broken else f'{len(self.broken)} DID NOT HOLD'}", flush=True)
        for what in self.broken[:5]:
            print(f"           {what}")
        return not self.broken


def newest_step(out):
    """The step of the newest checkpoint, whole; -1 if there is none."""
    return checkpoint.newest(out)[1]["step"] if checkpoint.steps(out) else -1


def left_over(out):
    return [p.name for p in Path(out).rglob(".*")]


def kills(place, want, seconds, n, rng, many=1):
    """n times kill -9 of a run that takes so many seconds, or of one of its ranks, in as many runs as that takes."""
    held, name, runs, done, ends = Held(), "kills" if many == 1 else "ranks", 0, 0, [0.0]
    with tqdm(total=n, desc=name, leave=False) as bar:
        while done < n:
            out, before, runs = f"{name}-{runs}", -1, runs + 1
            while True:
                process = place.start(out, ranks=many)
                try:
                    process.communicate(timeout=rng.uniform(0.1, 1.0) * seconds if done < n else place.patience)
                    break
                except subprocess.TimeoutExpired:
                    if not held.that(done < n, f"run {runs}: no end within {place.patience:.0f} s, with no kill"):
                        end(process)
                        break
                    there = [process.pid] if many == 1 else ranks_of(process.pid)
                    if there:
                        os.kill(rng.choice(there), signal.SIGKILL)
                    began = time.perf_counter()
                    ended(process, place.patience)
                    ends.append(time.perf_counter() - began)
                done, _ = done + bool(there), bar.update(bool(there))
                held.that(ends[-1] < 10, f"run {runs}: {ends[-1]:.1f} s from the kill to the end")
                held.that(not any(Path(f"/proc/{pid}").exists() for pid in there), f"run {runs}: a process lives on")
                with contextlib.redirect_stderr(io.StringIO()) as said:
                    step = newest_step(place.folder / out)
                held.that(not said.getvalue(), f"run {runs}: a checkpoint was damaged: {said.getvalue()}")
                held.that(step >= before, f"run {runs}: step {step} after a kill, {before} before it")
                before = step
            if held.that(process.returncode == 0, f"run {runs}: exit status {process.returncode}"):
                held.that(place.weights(out) == want, f"run {runs}: other weights at the end")
            held.that(not left_over(place.folder / out), f"run {runs}: {left_over(place.folder / out)} left over")
            shutil.rmtree(place.folder / out)
    return held.report(name, f"{done} times kill -9{f' of one of {many} ranks' if many > 1 else ''} in {runs} runs of "
                             f"{STEPS} steps, {max(ends):.1f} s to the end of all at most")


def mpiexec():
    """The one beside this Python, or else the system's."""
    return shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def expect_mpi(who):
    expect(mpiexec() and find_spec("mpi4py"), who, "no mpiexec, or no mpi4py", "both", "pip install -e '.[mpi]'")


def ranks_of(pid):
    """The processes of Python that mpiexec, which is process pid, has started, without those that they have started."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):                   # it has just ended
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    below, found = {pid}, []
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    for each in below - {pid}:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0")[0] == sys.executable.encode():
                found.append(each)
    return sorted(each for each in found if parents[each] not in found)      # the order in which they were started


def waited(place, process, ready):
    """Seconds until ready() is true, or the process has ended, or hangs."""
    began = time.perf_counter()
    while process.poll() is None and not ready() and time.perf_counter() - began < place.patience:
        time.sleep(0.01)
    return time.perf_counter() - began


def stops(place, want, n, rng):
    """n times SIGTERM."""
    held, took = Held(), []
    for k in tqdm(range(n), desc="stops", leave=False):
        out = place.folder / f"stopped-{k}"
        process, file = place.start(out.name), out / "log.jsonl"
        start = waited(place, process, lambda file=file: file.exists() and '"loss"' in file.read_text())
        time.sleep(rng.uniform(0, 0.3))
        began = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        status, said = ended(process, place.patience)
        took.append(time.perf_counter() - began)
        held.that(status == 0, f"stop {k}: exit status {status}, {said[-200:]}")
        last = max((e["step"] for e in log.read(file)), default=None) if file.exists() else None
        held.that(newest_step(out) == last, f"stop {k}: a checkpoint of step {newest_step(out)} after step {last}")
        held.that(took[-1] < max(2, start), f"stop {k}: {took[-1]:.1f} s, {start:.1f} from its start to its first step")
        if k % 10 == 0:
            held.that(place.finish(out.name)[0] == 0 and place.weights(out.name) == want, f"stop {k}: other weights")
        shutil.rmtree(out)
    return held.report("stops", f"{n} times SIGTERM, at most {max(took, default=0):.2f} s to the exit")


def full_disk(place, want):
    """A run of which no checkpoint fits from some step on, and then all do again."""
    held, out = Held(), place.folder / "full"
    process = place.start("full")
    waited(place, process, lambda: newest_step(out) >= 10)
    process.send_signal(signal.SIGTERM)
    said = ended(process, place.patience)[1]
    before = newest_step(out)
    if not held.that(before >= 10, f"step {before} is the newest: {said[-300:]}"):
        return held.report("full disk", "no run")
    limit = (checkpoint.newest(out)[0] / "optimizer.safetensors").stat().st_size - 1
    status, said, _ = place.finish("full", limit=limit)
    held.that(status == 1 and "could not be written" in said, f"exit status {status}: {said[-300:]}")
    held.that(newest_step(out) == before, f"step {newest_step(out)} is the newest, {before} was")
    held.that(max(e["step"] for e in log.read(out / "log.jsonl")) == STEPS, "the run did not go on")
    held.that(not left_over(out), f"{left_over(out)} left over")
    status, said, _ = place.finish("full")
    held.that(status == 0 and place.weights("full") == want, f"exit status {status}, or other weights: {said[-300:]}")
    return held.report("full disk", f"no checkpoint fits from step {before} on")


def damaged(data, rng):
    """data with a few bytes changed, put in, taken out, or cut off."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        data[at:at + rng.randint(0, 4)] = rng.randbytes(rng.randint(0, 4))
    return bytes(data[:rng.randint(0, len(data))] if rng.random() < 0.2 else data)


def digest(model):
    """Of its settings too: no parameter tells how many heads there are."""
    parts = repr(model.config).encode(), *(p.data.tobytes() for p in model.parameters())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def outcome(read, want):
    """(was it read?, what is wrong with what came, or "")"""
    try:
        return True, "" if read() == want else "something else was loaded"
    except (ValueError, OSError) as e:
        return False, "" if "got" in str(e) and "expected" in str(e) else f"{e!r} explains nothing"
    except (Exception, SystemExit) as e:                     # but Ctrl-C ends the whole
        return False, repr(e)


def damage(place, n, rng):
    """n damaged files, one at a time, and what their readers make of them."""
    held, loaded = Held(), 0
    folder = shutil.copytree(checkpoint.newest(place.folder / "whole")[0], place.folder / "damaged")
    shards = next(p for p in (place.folder / "shards").iterdir() if p.is_dir())
    tokenizer, settings = tok.load(folder / "tokenizer.json"), place.folder / "whole" / "settings.yaml"

    def read_shard():
        found = [Shard(shards, name, tokenizer) for name in SPLITS]
        return [(s.read(range(0, len(s) - 8, 8), 8).tolist(), s.starts.tolist()) for s in found]

    def read_model():
        return checkpoint.checked(folder)["step"], digest(GPT.from_pretrained(folder))

    readers = {folder / "run.json": lambda: checkpoint.checked(folder)["step"],
               folder / "model.safetensors": lambda: checkpoint.checked(folder)["step"],
               folder / "optimizer.safetensors": lambda: checkpoint.checked(folder)["step"],
               folder / "tokenizer.json": lambda: tok.load(folder).hash,
               folder / "config.json": read_model,
               settings: lambda: config.checked(config.read_yaml(settings), "settings") and None,  # others are fine
               **{shards / f"{name}{end}": read_shard for name in SPLITS for end in (".bin", ".json", ".starts.bin")}}
    want = {path: read() for path, read in readers.items()}
    whole = {path: path.read_bytes() for path in readers}

    def hang(*_):
        raise TimeoutError
    signal.signal(signal.SIGALRM, hang)
    for _ in tqdm(range(n), desc="damage", leave=False):
        path = rng.choice(list(readers))
        data = damaged(whole[path], rng)
        path.write_bytes(data)
        signal.alarm(int(PATIENCE))
        read, wrong = outcome(readers[path], want[path])
        signal.alarm(0)
        loaded += read
        held.that(not wrong, f"{path.name}: {wrong}")
        path.write_bytes(whole[path])
    return held.report("damage", f"{n} damaged files, of which {loaded} were read and the others refused")


def main(argv):
    parser = argparse.ArgumentParser("python -m bench survive", description=__doc__.split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help="a twentieth of everything, in less than a minute")
    parser.add_argument("--kills", type=count, default=200, help="times kill -9 [200]")
    parser.add_argument("--stops", type=count, default=50, help="times SIGTERM [50]")
    parser.add_argument("--damage", type=count, default=10_000, help="damaged files [10000]")
    parser.add_argument("--ranks", type=positive, default=1, help="also kill one of so many, as often as --kills says "
                        "[1]")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and of the damage [0]")
    args = parser.parse_args(argv)
    if args.ranks > 1:
        expect_mpi("--ranks")
    if args.short:
        args.kills, args.stops, args.damage = (-(-n // 20) for n in (args.kills, args.stops, args.damage))
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="survive-") as folder, Place(folder) as place:
        place.finish("first")                                # compiles, however long that takes, and makes the shards
        status, said, seconds = place.finish("whole")
        place.patience = max(PATIENCE, TIMES * seconds)
        if status:
            print(said, file=sys.stderr)
            return 1
        want = place.weights("whole")
        print(f"a run of {STEPS} steps with a checkpoint at every second one takes {seconds:.1f} s", flush=True)
        held = [kills(place, want, seconds, args.kills, rng), stops(place, want, args.stops, rng),
                full_disk(place, want), damage(place, args.damage, rng)]
        if args.ranks > 1:
            status, said, seconds = place.finish("together", ranks=args.ranks)
            expect(status == 0, "--ranks", f"exit status {status}: {said[-300:]}", "0")
            held.append(kills(place, place.weights("together"), seconds, args.kills, rng, args.ranks))
    return 0 if all(held) else 1
