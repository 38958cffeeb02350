"""Train a GPT: python -m train.run [--config NAME|FILE] [--SETTING VALUE ...]; --help shows every setting.

    OUT/settings.yaml                                 what was asked for; --config reads it back
    OUT/log.jsonl, loss.png                           every step, every validation, and their plot
    OUT/model.safetensors, tokenizer.json, run.json   the checkpoint (checkpoint.py lists it)
    OUT/samples.txt                                   what the model writes at the end

Exit status: 0 done; 130 stopped by Ctrl-C, checkpoint saved; 2 something that the user can mend; 1 a loss that is not finite.
"""
import itertools
import math
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from gpt import GPT, GPTConfig
from minigrad import backend
from minigrad.check import expect
from nn import AdamW, cosine_with_warmup
from train import checkpoint, log, sample, verse
from train.config import Config, describe, parse, to_yaml
from train.data import Data, Validation, Windows, prepare
from train.step import NotFinite, bad_parameter, evaluate, evaluating, train_step


def main(argv=None):
    """A run from the command line to the samples. Returns the exit status."""
    try:
        config = parse(argv)
        expect(config.backend == "numpy" or backend.cupy(), "--backend cupy", "no GPU that CuPy can use", "an NVIDIA GPU and CuPy",
               'pip install "cupy-cuda12x[ctk]" or "cupy-cuda13x[ctk]", whichever CUDA the driver has (extras cuda12, cuda13 '
               "of this package do the same); without a GPU leave --backend away")
        out = open_folder(config)
        print(describe(config), f"\nrun folder {out}", flush=True)
        run = set_up(config, out)
        with log.slow("compiling kernels, once: they are cached for later runs"):
            warm_up(run)
    except (ValueError, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped before the first step: nothing to save", file=sys.stderr)
        return 130

    journal = log.Log(out / "log.jsonl", run.step)
    with Interrupt() as interrupt:
        try:
            train(run, journal, interrupt)
        except NotFinite as e:
            if not bad_parameter(run.model):      # the update that would have spoiled them was not made
                run.save()
            kept = f"the last good checkpoint is in {out}" if has_weights(out) else "no checkpoint had been written yet"
            print(f"error: {e}\n{kept}", file=sys.stderr)
            return 1
        finally:
            log.plot(out / "loss.png", log.read(journal.file), title=out.name)
    if interrupt.asked:
        print(f"stopped after step {run.step}; to go on: python -m train.run --resume {out}", file=sys.stderr)
        return 130
    report(run)
    return 0


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
    entropy: float | None      # bits per couplet of the source on the validation couplets; None for any other text
    step: int = 0              # updates made
    position: int = 0          # training windows seen
    metrics: dict = None       # the latest validation
    seconds: float = 0.0       # spent in training steps by this process

    def save(self):
        checkpoint.save(self.out, self.model, self.opt, self.data.tokenizer, {
            "step": self.step, "position": self.position, "metrics": self.metrics, "source": self.data.source,
            "config": asdict(self.config)})


def open_folder(config):
    """The run folder, proved to be writable before any work; a run that is there already is never overwritten."""
    if config.resume:
        out = Path(config.resume)
    elif config.out:
        out = Path(config.out)
        expect(not has_run(out), "--out", f"{config.out!r}, which holds a run", "a new folder",
               f"--resume {config.out} goes on with that run; another --out keeps both")
    else:
        base = f"runs/{Path(config.config).stem}"
        out = next(p for p in (Path(f"{base}-{n}" if n > 1 else base) for n in itertools.count(1)) if not has_run(p))
    for flag, folder in ("--out", out), ("--shards", Path(config.shards)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as e:
            raise ValueError(f"{flag}: got {str(folder)!r} ({e.strerror}); expected a folder that can be written. "
                             f"Hint: {flag} FOLDER") from None
    return out


def has_run(folder):
    return (folder / "log.jsonl").exists() or has_weights(folder)


def has_weights(folder):
    return (folder / "model.safetensors").exists() or (folder / ".saved").exists()


def set_up(config, out):
    """Data, model and optimiser: new, from the weights of --init, or as --resume left them."""
    tokenizer, state = None, {"step": 0, "position": 0, "metrics": None}
    if config.resume:
        state = checkpoint.load_state(out)
        model, tokenizer = checkpoint.load(out)
        expect(state["step"] < config.steps, "--resume", f"a run that has made all its {config.steps} steps", "steps to go",
               f"--steps {2 * config.steps}")
        expect(tokenizer is not None and tokenizer.hash == state["tokenizer"], str(out / "tokenizer.json"),
               "another tokenizer than the weights were trained with", f"the one with hash {state['tokenizer'][:12]}")
    elif config.init:
        model, tokenizer = checkpoint.load(config.init)
        shape = model.config
        expect(config.block_size <= shape.block_size, "--block_size", config.block_size,
               f"at most {shape.block_size}, the context of {config.init}")
        config = replace(config, n_layer=shape.n_layer, n_head=shape.n_head, n_embd=shape.n_embd, pre_norm=shape.pre_norm,
                         dropout=shape.dropout)
    data = prepare(config, tokenizer)
    expect(state.get("source", data.source) == data.source, "--resume", f"other data than the run began with ({config.data})",
           "the same text", f"--init {out} starts a new run from these weights")
    if not (config.resume or config.init):
        model = GPT(GPTConfig(data.tokenizer.vocab_size, config.block_size, config.n_layer, config.n_head, config.n_embd,
                              dropout=config.dropout, pre_norm=config.pre_norm), seed=config.seed)
    expect(data.tokenizer.vocab_size <= model.config.vocab_size, config.init, f"a checkpoint of {model.config.vocab_size} tokens",
           f"at least {data.tokenizer.vocab_size}, the vocabulary of the data", "--tokenizer FILE takes the checkpoint's own")
    model.to(device="gpu" if config.backend == "cupy" else "cpu", dtype=config.dtype).train()
    opt = AdamW(model.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
    if config.resume:
        checkpoint.load_optimizer(out, opt)
    windows = Windows(data.train, config.block_size, config.seed, config.align)
    validation = Validation(data.val, config.block_size, config.device_batch, config.eval_tokens)
    entropy = source_bits(data.tokenizer, validation) if config.data == "verse" else None
    (out / "settings.yaml").write_text(to_yaml(config), encoding="utf-8")
    data.tokenizer.save(out / "tokenizer.json")
    print(f"{len(data.train):,} training tokens, vocabulary {data.tokenizer.vocab_size:,}, "
          f"{sum(p.size for p in model.parameters()):,} parameters, {config.accumulation} micro-batches a step", flush=True)
    return Run(config, out, data, model, opt, windows, validation, entropy, state["step"], state["position"], state["metrics"])


def source_bits(tokenizer, validation):
    """Mean bits of the validation couplets under the grammar that made them: what no model can beat on average."""
    with log.slow("computing the entropy of the source"):
        bits = [-verse.logprob(tokenizer.decode(ids)) / math.log(2) for ids in validation.documents()]
    return float(np.mean(bits))


def warm_up(run):
    """A twin of one narrow block takes one step, so that Numba compiles here, announced and not on the clock."""
    small = replace(run.model.config, n_layer=1, vocab_size=64, block_size=8)
    twin = GPT(small).to(device="gpu" if run.config.backend == "cupy" else "cpu", dtype=run.config.dtype)
    x = np.zeros((2, small.block_size), np.int64)
    train_step(twin, AdamW(twin.parameters()), [(x, x)] * 2, run.config.lr, 0, run.config)
    with evaluating(twin):
        twin.loss(x, x)


def train(run, journal, interrupt):
    """Steps, each logged; now and then a validation and a checkpoint, and always a checkpoint at the end."""
    config, rows = run.config, run.config.device_batch
    if run.step == 0:
        validate(run, journal)
    with log.progress(config.steps, run.step) as bar:
        while run.step < config.steps and not interrupt.asked:
            began = time.perf_counter()
            lr = cosine_with_warmup(run.step, config.lr, config.min_lr, min(config.warmup, config.steps), config.steps)
            batches = [run.windows.batch(run.position + rows * k, rows) for k in range(config.accumulation)]
            loss, norm = train_step(run.model, run.opt, batches, lr, run.step, config)
            run.step, run.position = run.step + 1, run.position + rows * config.accumulation
            seconds = time.perf_counter() - began
            run.seconds += seconds
            journal.write(step=run.step, loss=loss, lr=lr, norm=norm, tokens_per_s=round(config.tokens_per_step / seconds))
            bar.set_postfix_str(f"loss {loss:.3f}, {config.tokens_per_step / seconds:,.0f} tokens/s", refresh=False)
            bar.update()
            if run.step % config.eval_every == 0 and run.step < config.steps:
                validate(run, journal)
                run.save()
    if not interrupt.asked:
        validate(run, journal)
    run.save()


def validate(run, journal):
    """Score the validation text, in nats per token and, where the source is known, in bits per couplet beside it."""
    loss = evaluate(run.model, run.validation)
    run.metrics = {"val_loss": loss}
    if run.entropy is not None:
        couplets = sum(1 for _ in run.validation.documents())
        run.metrics |= {"val_bits": loss * run.validation.tokens / couplets / math.log(2), "entropy_bits": run.entropy}
    journal.write(step=run.step, **run.metrics)


def report(run):
    """What came out: the numbers, and the model's own words."""
    config, m = run.config, run.metrics
    print(f"\n{run.step:,} steps of {config.tokens_per_step:,} tokens; {run.seconds:.0f} s of training here")
    print(f"validation loss {m['val_loss']:.4f} nats per token, perplexity {math.exp(m['val_loss']):.2f}")
    if run.entropy is not None:
        gap = m["val_bits"] / run.entropy - 1
        print(f"that is {m['val_bits']:.2f} bits per couplet; the source that composed these couplets has {run.entropy:.2f}: "
              f"a gap of {gap:.1%}")
    texts = sample.write(run.model, run.data.tokenizer, config.samples, config.sample_tokens, config.sample_prompt,
                         temperature=config.temperature, seed=config.seed) if config.samples else []
    text = ("\n" + "-" * 40 + "\n").join(texts)
    (run.out / "samples.txt").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nall of it in {run.out}; more: python -m train.sample {run.out}")


class Interrupt:
    """Ctrl-C inside: the first asks the loop to stop after its step, a second one stops at once."""

    def __enter__(self):
        self.asked, self.before = False, signal.signal(signal.SIGINT, self.ask)
        return self

    def ask(self, *_):
        self.asked = True
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.write(2, b"\nfinishing the step, then saving; Ctrl-C again stops at once\n")   # print may be in use just now

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, self.before)


if __name__ == "__main__":
    sys.exit(main())
