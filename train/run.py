"""Train a GPT: python -m train.run [--config NAME|FILE] [--SETTING VALUE ...]; --help shows every setting.

    OUT/settings.yaml                                 what was asked for; --config reads it back
    OUT/log.jsonl, loss.png                           every step, every validation, samples; a plot that grows
    OUT/checkpoints/STEP                              the last few and the best, with all that a resumed run needs
    OUT/model.safetensors, config.json, tokenizer.json    the newest weights, for train.sample and train.export
    OUT/samples.txt                                   what the model writes at the end
    OUT/tensorboard                                   with --tensorboard: the log as TensorBoard reads it
    OUT/profile.json                                  with --profile N: the ops of N steps, for ui.perfetto.dev

Exit status: 0 done, or stopped by SIGTERM, with a checkpoint; 130 stopped by Ctrl-C, with a checkpoint; 2 something
that the user can mend, too little memory for instance; 1 the loss is not finite, or the last checkpoint could not be
written.

On a GPU the loss of a step is heard of when the next one has been launched, so that nobody waits: the log is a step
behind, and a NaN loss ends the run a step later, though nothing has been updated since. With --spike or
--check_finite every step is waited for.
"""
import math
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from gpt import GPT, GPTConfig
from gpt.decode import evaluating
from gpt.sizes import GIB, largest, machine, training
from minigrad import backend, gpu
from minigrad.check import expect, lasting_streams
from minigrad.profile import Profile
from minigrad.recompute import recompute
from nn import AdamW, cosine_with_warmup
from tok.base import Tokenizer
from train import checkpoint, log, parallel, stats, utilisation, verse
from train.adapt import adapted
from train.config import Config, describe, parse, to_yaml
from train.data import Ahead, Data, Validation, Windows, prepare
from train.finite import NotFinite, bad_parameter
from train.log import Log, Picture
from train.parallel import Group
from train.precision import Scale
from train.spikes import IN_A_ROW, Leap, Spikes
from train.step import evaluate, train_step
from train.text import GPT2, SEPARATOR


def main(argv: Sequence[str] | None = None) -> int:
    """A run, from the command line to the samples. Returns the exit status."""
    lasting_streams()
    with ExitStack() as held:
        return parallel.run(lambda group: go(argv, group, held))


def go(argv: Sequence[str] | None, group: Group, held: ExitStack) -> int:
    """The run of main, on each rank of a group. held: gives the run's folder back in the end."""
    try:
        config = group.together(lambda: parse(argv))
        group.same(**asdict(config), **checkpoint.versions())
        group.together(lambda: possible(config, group))
        group = group.on(config.device)
        folder, config.resume, finished = group.first(lambda: begin(config, held))
        out = Path(folder)
        if finished:
            print(f"{out} has made {finished}")
            return 0
        print(f"run folder {out}", flush=True)
        run = set_up(config, out, group)
        config = run.config
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except MemoryError as e:
        return group.fail(f"out of memory: {e}. Hint: a smaller model; python -m gpt.sizes says what one needs", 2)
    except KeyboardInterrupt:
        return group.fail("stopped before the first step: nothing to save", 130)

    with Interrupt(loud=group.rank == 0) as interrupt:
        with log.slow("compiling kernels, once: later runs find them in a cache"):
            group.in_turn(lambda: warm_up(run))
            run.ceiling = utilisation.ceiling(config.dtype, config.device) * group.size
        print(f"products run at {run.ceiling / 1e9:,.0f} GFLOP/s here, of which mfu is the share that training uses",
              flush=True)
        group.limit, group.ending = config.lost_after, run.writer.busy
        try:
            train(run, interrupt)
        except Leap as e:
            if not isinstance(e, NotFinite):                 # else these weights may be what makes it so
                run.save()
            run.written()
            last = next(iter(checkpoint.steps(out)), None)
            kept = f"the last checkpoint, of step {last}, is in" if last is not None else "no checkpoint is yet in"
            print(f"error: {e}\n{kept} {out}", file=sys.stderr)
            return 1
        except (ValueError, OSError) as e:                   # a damaged shard, or nobody listens
            if group.size == 1:
                run.save()
            return group.fail(str(e), 2)
        except MemoryError as e:
            return group.fail(short_of_memory(run, e), 2)
        finally:
            if failed := run.writer.wait():
                run.log.write(step=run.step, failed=failed)
            run.log.close()
            run.picture.draw(last=True)
    if run.profile.calls and group.rank == 0:
        show_profile(run)
    if run.step < run.config.steps and not out_of_patience(run.best, run.config):
        print(f"stopped after step {run.step}; to go on: python -m train.run --resume {out}", file=sys.stderr)
        return 1 if failed else 130 if interrupt.asked == signal.SIGINT else 0
    try:
        report(run)
    except KeyboardInterrupt:                                # at the samples, which are not all of a run
        print(f"\nstopped; all but the samples is in {out}", file=sys.stderr)
        return 130
    except OSError as e:                                     # a full disk does not take samples.txt either
        failed = failed or f"samples.txt could not be written ({e.strerror})"
    if failed:
        print(f"error: {failed.removesuffix(checkpoint.GOES_ON)}", file=sys.stderr)
        return 1
    print(f"\nall of it is in {out}; for more: python -m train.sample {out}")
    return 0


def possible(config: Config, group: Group) -> None:
    """Refuse what this machine, or this number of ranks, cannot do."""
    expect(config.backend == "numpy" or backend.cupy(), "--backend cupy", "no GPU that CuPy can use",
           "an NVIDIA GPU and CuPy", 'pip install "cupy-cuda12x[ctk]" or "cupy-cuda13x[ctk]", by the CUDA version '
           "of the driver (this package's extras cuda12, cuda13); without a GPU leave --backend out")
    alone = [flag for flag, given in {"--check_finite": config.check_finite, "--graph": config.graph}.items() if given]
    expect(group.size == 1 or not alone, " and ".join(alone), f"{group.size} ranks", "one",
           "leave the flag out, or run without mpiexec")
    config.rows(group.size)


def begin(config: Config, held: ExitStack) -> tuple[str, str, str]:
    """(run folder, what of --resume is left, what it has made if there is nothing to do)"""
    out = checkpoint.open_folder(config, held)
    if config.resume != "auto":
        return str(out), config.resume, ""
    if not checkpoint.steps(out):
        return str(out), "", ""
    folder, state = checkpoint.newest(out)
    made = ended(state, config) if config.epochs == state["config"].get("epochs", 0.0) else ""   # set_up counts anew
    if made:
        checkpoint.Writer(out, config.keep).settle(folder)   # it may have been killed just before that
    return str(out), "auto", made


@dataclass
class Run:
    """What the loop works on, and how far it has come."""
    config: Config
    out: Path
    data: Data
    model: GPT
    opt: AdamW
    windows: Windows
    validation: Validation
    log: Log
    writer: checkpoint.Writer
    picture: Picture
    bytes: int = 0                   # that the validation tokens stand for
    entropy: float | None = None     # bits per couplet of the source, on the validation couplets; None for other texts
    step: int = 0                    # updates made
    position: int = 0                # training windows seen
    scale: Scale = field(default_factory=Scale)
    metrics: dict | None = None      # the latest validation
    best: tuple = (None, 0)          # the lowest validation loss, and how many validations there were after it
    seconds: float = 0.0             # spent in training steps by this process
    ceiling: float = math.inf        # operations per second of a large product
    spikes: Spikes = field(default_factory=Spikes)
    leaps: list = field(default_factory=list)        # steps that leapt, and that none has come by since
    profile: Profile = field(default_factory=Profile)
    late: bool = False               # are results read one step late, when the next one has been launched?
    heard: float = 0.0               # when the last of them was
    graph: gpu.Repeated | None = None
    group: parallel.Group = parallel.ALONE
    rows: int = 1                    # that go through the model at once, on each rank

    @property
    def micros(self) -> int:
        """Micro-batches that this rank makes in a step."""
        return self.config.per_step // (self.rows * self.group.size)

    def save(self) -> None:
        moments = self.opt.state(self.group.collect)
        if failed := self.written():
            self.log.write(step=self.step, failed=failed)
        scored = self.metrics if self.metrics and self.metrics["step"] == self.step else None    # of these weights
        self.writer.save(self.model, moments, self.data.tokenizer, {
            "step": self.step, "position": self.position, "metrics": scored and numbers(scored),
            "source": self.data.source, "best": self.best,
            "scale": self.scale.state(), "spikes": self.spikes.state(),
            "config": asdict(self.config)})
        if not self.config.background:
            self.written()

    def written(self) -> str:
        """Until no checkpoint is being written. Returns what went wrong with the last one, or "". However slow the disk
        of rank 0 is, the others hear from it meanwhile."""
        while self.group.first(lambda: self.writer.busy(0.5)):
            pass
        return self.writer.wait()


def set_up(config: Config, out: Path, group: Group) -> Run:
    """Text, model and optimiser: new, or from the weights of --init, or all as --resume finds it."""
    saved, state, found, theirs = group.together(lambda: read(config, out))
    if found is not None and not config.resume:              # that of --init
        c = found.config
        expect(config.block_size <= c.block_size, "--block_size", config.block_size,
               f"at most {c.block_size}, the context of {config.init}")
        config = replace(config, n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd, pre_norm=c.pre_norm,
                         activation=c.activation)
    print(describe(config), flush=True)
    # --tokenizer FILE is another one than that of --init
    data = prepare(config, theirs if config.resume or config.tokenizer in ("char", "bpe") else None, group)
    group.same(tokens=len(data.train), step=state["step"])
    group.share_processors()
    expect(state.get("source", data.source) == data.source, "--resume",
           f"other data than the run began with ({config.data})", "the same text",
           f"--init {out} starts a new run from these weights")
    windows = Windows(data.train, config.block_size, config.seed, config.align)
    if config.epochs:
        config = replace(config, steps=math.ceil(config.epochs * windows.per_epoch * config.block_size
                                                 / config.tokens_per_step))
    why = ended(state, config) if config.resume else ""
    expect(not why, "--resume", f"a run that has made {why}", "steps to go",
           f"--patience {2 * config.patience}" if state["step"] < config.steps else
           f"--epochs {2 * config.epochs:g}" if config.epochs else f"--steps {2 * state['step']}")
    model = model_of(config, data.tokenizer, found, theirs)
    model.to(config.device, config.dtype).train()
    save_memory(model, config)
    warn_of_slow(config)
    for p in model.parameters():
        group.broadcast(p.data)                              # another processor may have drawn other last bits
    opt = AdamW(model.parameters(), config.lr, config.betas, weight_decay=config.weight_decay, rank=group.rank,
                ranks=group.size)
    if saved:
        group.together(lambda: checkpoint.load_optimizer(saved, opt))

    if config.samples:
        GPT2(model, data.tokenizer).begin(config.sample_prompt)      # refuse a bad prompt now, not hours later
    rows = config.rows(group.size)
    validation = Validation(data.val, config.block_size, rows, config.eval_tokens)
    run = Run(config, out, data, model, opt, windows, validation,
              group.only_first(lambda: Log(out / "log.jsonl", state["step"],
                                           out / "tensorboard" if config.tensorboard else None)),
              group.only_first(lambda: checkpoint.Writer(out, config.keep, config.background or group.size > 1,
                                                         state["step"] if saved else None, config.background)),
              group.only_first(lambda: Picture(out)),
              step=state["step"], position=state["position"], scale=Scale.of(config.dtype, state.get("scale")),
              spikes=Spikes(*state.get("spikes", [])), metrics=state["metrics"],
              best=tuple(state.get("best", Run.best)), graph=gpu.Repeated() if config.graph else None, group=group,
              late=config.device == "gpu" and config.spike == "off" and not config.check_finite, rows=rows)
    run.bytes = validation.bytes(data.tokenizer)
    if config.data == "verse":
        nats = [-verse.logprob(data.tokenizer.decode(ids)) for ids in validation.documents()]
        run.entropy = float(np.mean(nats)) / math.log(2)
    group.first(lambda: (out / "settings.yaml").write_text(to_yaml(config), encoding="utf-8"))
    print(f"{sum(p.size for p in model.parameters()):,} parameters; {len(data.train):,} training tokens, "
          f"{data.tokenizer.vocab_size:,} different; micro-batches a step: {run.micros}"
          + (f" on each of {group.size} ranks" if group.size > 1 else ""), flush=True)
    return run


def read(config: Config, out: Path) -> tuple[Path | None, dict, GPT | None, Tokenizer | None]:
    """(checkpoint or None, state, model or None, its tokenizer or None), as --resume or --init wants them."""
    if config.resume:
        saved, state = checkpoint.newest(out)
        return saved, state, *checkpoint.load(saved)
    begun = checkpoint.load(config.init) if config.init else (None, None)
    return None, {"step": 0, "position": 0, "metrics": None}, *begun


def model_of(config: Config, tokenizer: Tokenizer, found: GPT | None, theirs: Tokenizer | None) -> GPT:
    """A new model for this tokenizer, or the one found, with its tokenizer: that of --resume, or of --init, adapted."""
    if found is None:
        return GPT(GPTConfig(tokenizer.vocab_size, config.block_size, config.n_layer, config.n_head, config.n_embd,
                             config.dropout, config.pre_norm, activation=config.activation), seed=config.seed)
    if config.resume:
        return found
    model, known = adapted(found, config.dropout, theirs, tokenizer, config.seed)
    if known < tokenizer.vocab_size:
        print(f"--init: of the {tokenizer.vocab_size:,} tokens of this tokenizer, {known:,} are among the "
              f"{found.config.vocab_size:,} of {config.init} and keep their embeddings; the others begin at the mean",
              flush=True)
    return model


def out_of_patience(best: tuple, config: Config) -> bool:
    """Were there so many validations after the best one that --patience ends the run?"""
    return 0 < config.patience <= best[1]


def ended(state: dict, config: Config) -> str:
    """What a run has made that ends it, or "" if it has not ended."""
    if state["step"] >= config.steps:
        return f"all its {state['step']} steps"
    best = state.get("best", Run.best)
    return f"{best[1]} validations after its best one" if out_of_patience(best, config) else ""


def warn_of_slow(config: Config) -> None:
    """Say so if this processor can only store the dtype."""
    if config.dtype in ("bfloat16", "float16") and config.device == "cpu":
        from minigrad import blas  # and Numba with it: not for --help
        if not blas.multiplies(config.dtype):
            needs = " (AVX512-BF16)" if config.dtype == "bfloat16" else ""
            print(f"{config.dtype}: this processor has no instructions for it{needs}, so products are taken in "
                  "float32: memory is saved, time hardly. Hint: --dtype float32 has more digits", flush=True)


def save_memory(model: GPT, config: Config) -> None:
    """Let every so many blocks, or a part of each, compute their insides again."""
    for block in model.h[::config.recompute] if config.recompute else ():
        part = {"block": block, "attention": block.attn, "mlp": block.mlp}[config.recompute_part]
        part.around = recompute


def warm_up(run: Run) -> None:
    """One step of a twin with one block, so that Numba compiles here: announced, and not on the clock."""
    small = replace(run.model.config, n_layer=1, vocab_size=64, block_size=8)
    twin = GPT(small).to(run.config.device, run.config.dtype)
    save_memory(twin, run.config)
    ids = np.zeros((2, small.block_size), np.int64)
    train_step(twin, AdamW(twin.parameters()), [(ids, ids)] * 2, run.config.lr, 0, run.config)
    with evaluating(twin):
        twin.loss(ids, ids)


def short_of_memory(run: Run, error: MemoryError) -> str:
    """What to do about it."""
    config, sizes = run.config, run.model.config
    how = config.block_size, config.dtype, config.recompute > 0, config.device
    total = backend.memory()["total"] or machine() * GIB

    def fits(rows):
        return training(sizes, rows, *how) <= total
    rows = range(1, min(config.per_step, largest(fits)) + 1)
    most = max((n for n in rows if config.per_step % n == 0), default=0)         # micro-batches divide a step
    hint = f"--device_batch {most}" if 0 < most < run.rows else ""
    ways = [way for way in (hint, "" if config.recompute else "--recompute 1") if way] or ["a smaller model"]
    return (f"out of memory: {error}\n{run.rows} rows of {config.block_size} tokens need about "
            f"{training(sizes, run.rows, *how) / GIB:.1f} GiB; there are {total / GIB:.1f}, and others may "
            f"use some of it. Hint: {' or '.join(ways)}")


@dataclass
class Begun:
    """A step that may still be under way on a GPU."""
    step: int                        # updates before it
    position: int
    began: float
    lr: float
    outcome: Callable                # a function: (loss, norm, what else to log), or a Leap


def train(run: Run, interrupt: "Interrupt") -> None:
    """Steps, each logged; now and then a validation and a checkpoint; a checkpoint at the end, however the run ends.

    The host waits for a GPU at validations and checkpoints only: what came out of a step is read one step late.
    """
    config, group = run.config, run.group
    if run.step == 0 < config.steps:
        run.best = Run.best                              # of a run that was stopped here, and validates this step again
        validate(run)
    settled = min(run.step + 3, config.steps - 1)        # the first steps find memory and caches cold
    profiled = range(settled, settled + config.profile)
    micro, begun = run.windows.batches(run.position, run.rows, group.rank, group.size), deque()
    if config.device == "gpu":                           # on a CPU it saves nothing: a batch is 0.3 % of a step
        micro = Ahead(micro, run.micros, gpu.uploads())
    with log.progress(config.steps, run.step) as bar, closing(micro):
        while (run.step < config.steps and not out_of_patience(run.best, config)
               and not group.stops(interrupt.asked)):
            began = time.perf_counter()
            batches = list(islice(micro, run.micros))
            lr = cosine_with_warmup(run.step, config.lr, config.min_lr, min(config.warmup, config.steps), config.steps)
            asked = config.stats_every and (run.step + 1) % config.stats_every == 0
            before, scale = (stats.copies(run.model), run.scale.value) if asked else ([], 1.0)
            with run.profile if run.step in profiled else nullcontext():
                outcome = attempt(run, batches, lr)
            if outcome is None:
                bar.reset(config.steps)
                bar.update(run.step)
                continue
            begun.append(Begun(run.step, run.position, began, lr, outcome))
            run.step, run.position = run.step + 1, run.position + config.per_step
            validates = run.step % config.eval_every == 0 or run.step == config.steps
            saves = run.step % (config.save_every or config.eval_every) == 0
            while len(begun) > (run.late and not (validates or saves or asked)):
                extra = hear(run, begun.popleft(), bar)
            if asked and "skipped" not in extra:
                group.complete(run.opt)
                run.log.write(step=run.step, stats=stats.statistics(run.model, before, scale))
            if run.step < config.steps:
                if validates:
                    validate(run)
                if saves:
                    run.save()
        for step in begun:
            hear(run, step, bar)
    if run.step == config.steps:
        validate(run)
    run.save()
    run.written()


def attempt(run: Run, batches: list, lr: float) -> Callable | None:
    """What Begun calls an outcome of the next step, or None if the run has gone back instead."""
    try:
        found = train_step(run.model, run.opt, batches, lr, run.step, run.config, run.scale,
                           None if run.config.spike == "off" else run.spikes, run.late, run.graph, run.group)
    except Leap as leap:
        left_out = leap.loss, math.inf, {**({"scale": run.scale.value} if run.scale.moving else {}), "skipped": True}
        return None if go_back(run, leap) else lambda: left_out
    if run.leaps and run.step >= max(run.leaps):
        run.leaps.clear()

    def outcome():
        loss, norm = found() if run.late else found
        return loss, norm, {"scale": run.scale.used} if run.scale.moving else {}
    return outcome


def hear(run: Run, step: Begun, bar: tqdm) -> dict:
    """Log what came out of a step. Returns what else than loss and norm there was to say."""
    try:
        loss, norm, extra = step.outcome()
    except Leap:                                             # it was not made, nor any that has been begun since
        run.step, run.position = step.step, step.position
        raise
    now = time.perf_counter()
    seconds, run.heard = now - max(step.began, run.heard), now
    speed, run.seconds = run.config.tokens_per_step / seconds, run.seconds + seconds
    run.log.write(step=step.step + 1, loss=number(loss), lr=step.lr, norm=number(norm), tokens_per_s=round(speed),
                  mfu=round(utilisation.mfu(run.model.config, speed, run.ceiling), 4), **extra)
    bar.set_postfix_str(f"loss {loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
    bar.update()
    return extra


def number(x: float) -> float | None:
    """x, or None where it is none: JSON has no word for infinity."""
    return x if math.isfinite(x) else None


def numbers(metrics: dict) -> dict:
    return {name: number(x) for name, x in metrics.items()}


def go_back(run: Run, leap: Leap) -> bool:
    """After a step that leapt: restore the newest checkpoint, to go on from there with the text behind this step
    (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1), and return True; or return False, if the step is just to be
    left out. Raises leap where neither is asked for, or where neither has helped."""
    config = run.config
    run.leaps.append(run.step)
    if config.spike == "off" or bad_parameter(run.model) or len(run.leaps) > IN_A_ROW:
        raise leap
    run.written()
    if config.spike == "skip" or not checkpoint.steps(run.out):
        tqdm.write(f"{leap}: its update is skipped", file=sys.stderr)
        return False
    try:
        folder, state = checkpoint.newest(run.out)
        saved, _ = checkpoint.load(folder)
        checkpoint.load_optimizer(folder, run.opt)
    except ValueError as e:
        raise type(leap)(f"{leap}; there is no way back: {e}", leap.loss) from None
    for p, q in zip(run.model.parameters(), saved.parameters(), strict=True):
        p.data[...] = backend.to_device(q.data, config.device)
    run.log.write(step=state["step"], back_from=run.step, spike=number(leap.loss))
    run.step, run.position = state["step"], run.position + config.per_step
    run.writer.newest = run.step                             # a later one was damaged, and is written again
    run.scale, run.spikes = Scale.of(config.dtype, state["scale"]), Spikes(*state["spikes"])
    run.metrics, run.best = state["metrics"], tuple(state.get("best", Run.best))
    # last, because it raises if nobody listens any more, and then what there is here is saved
    tqdm.write(f"{leap}: back to step {run.step}, and on with other text", file=sys.stderr)
    return True


def validate(run: Run) -> None:
    """Score the validation text: nats per token, perplexity, bits per byte, and the share of next tokens that the model
    thought the likeliest; where the source is known, in bits per couplet beside it."""
    loss, accuracy = evaluate(run.model, run.validation, run.group)
    run.metrics = {"step": run.step, "epoch": round(run.position / run.windows.per_epoch, 3), "val_loss": loss,
                   "perplexity": math.exp(min(loss, 700)), "accuracy": accuracy,
                   "bits_per_byte": loss * run.validation.tokens / math.log(2) / max(1, run.bytes)}
    better = math.isfinite(loss) and (run.best[0] is None or loss < run.best[0])
    run.best = (loss, 0) if better else (run.best[0], run.best[1] + 1)
    if run.entropy is not None:
        couplets = sum(1 for _ in run.validation.documents())
        bits = loss * run.validation.tokens / couplets / math.log(2)
        run.metrics |= {"val_bits": bits, "entropy_bits": run.entropy}
    if held := backend.memory()["held"]:
        run.metrics["gpu_bytes"] = held
    run.log.write(**numbers(run.metrics))
    lines = [f"step {run.step:,}: validation loss {loss:.4f}, perplexity {run.metrics['perplexity']:.2f}"]
    if run.config.samples and 0 < run.step < run.config.steps:
        text, = write(run, 1)
        run.log.write(step=run.step, sample=text)
        lines += [f"    {line}" for line in text.splitlines()]
    tqdm.write("\n".join(lines))
    sys.stdout.flush()
    run.picture.draw()


def write(run: Run, n: int) -> list[str]:
    """n texts by the model as it is now."""
    c = run.config
    return GPT2(run.model, run.data.tokenizer).write(n, c.sample_tokens, c.sample_prompt, c.seed, run.group,
                                                     temperature=c.temperature)


def show_profile(run: Run) -> None:
    """Where the time of the profiled steps went, as a table and as a time line."""
    path = run.out / "profile.json"
    run.profile.trace(path)
    print(f"\n{len(run.profile.blocks)} steps, op by op; on a time line: {path} in https://ui.perfetto.dev\n"
          f"{run.profile.table()}")


def report(run: Run) -> None:
    """What came out: the numbers, and the model's own words."""
    config, m = run.config, run.metrics or {}            # a run that ends has been validated
    held = backend.memory()["held"]
    print(f"\n{run.step:,} steps of {config.tokens_per_step:,} tokens, {run.seconds:.0f} s in this process"
          + (f", {held / GIB:.1f} GiB of the GPU's memory" if held else ""))
    print(f"validation loss {m['val_loss']:.4f} nats per token, perplexity {m['perplexity']:.2f}, "
          f"{m['bits_per_byte']:.3f} bits per byte, {m['accuracy']:.1%} of the next tokens right")
    if run.entropy is not None:
        print(f"{m['val_bits']:.2f} bits per couplet; the source that composed them needs {run.entropy:.2f}: "
              f"a gap of {m['val_bits'] / run.entropy - 1:.1%}")
    if config.samples:
        with log.slow("writing samples, which compiles kernels the first time"):
            texts = SEPARATOR.join(write(run, config.samples))
        run.group.first(lambda: (run.out / "samples.txt").write_text(texts + "\n", encoding="utf-8"))
        print(f"\n{texts}")


class Interrupt:
    """Ctrl-C or SIGTERM inside: the first asks the loop to stop after its step, the second one stops at once."""
    signals = signal.SIGINT, signal.SIGTERM

    def __init__(self, loud: bool = True) -> None:
        self.loud = loud

    def __enter__(self):
        self.asked, self.before = None, [signal.signal(number, self.ask) for number in self.signals]
        return self

    def ask(self, number: int, _frame: object) -> None:
        self.asked = number
        for each in self.signals:
            signal.signal(each, signal.SIG_DFL)
        if self.loud:                                        # print may be in use just now, and a step half made
            with suppress(OSError):
                os.write(2, b"\nfinishing the step, then saving; Ctrl-C again stops at once\n")

    def __exit__(self, *_):
        for number, handler in zip(self.signals, self.before):
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
