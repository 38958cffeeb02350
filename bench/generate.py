"""Generation beside transformers' and beside what the memory allows, and the latency of a prompt.

For one new token of one row every weight meets one number, so a token takes the time in which the memory delivers the
matrices of all layers, their biases and norms, and the token embedding, which is the head; with int8 a quarter of the
matrices and 4 bytes for each output. The limit is taken in our own processes after every text: the same block of
memory, read from front to back with the same loop and nothing in between. (Memory is not equally fast everywhere: to
read another array, in another process, would tell something else.)

A prompt, on the other hand, is bound by its products: `products` multiplies matrices of the same sizes and does nothing
else.

Each works in a process of its own, in turns with the others, from the same weights, which are random: how fast they are
does not depend on it. What int8 and bfloat16 do to a loss is measured on a run of one's own (--run).
"""
import argparse
import tempfile
import time
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np

from bench import floors, turns
from bench.turns import Side, quartiles
from gpt import GPT, GPTConfig, stream
from gpt.decode import Decoder
from gpt.decode_cpu import MATRICES, SET, _outputs, packed
from gpt.presets import PRESETS
from minigrad import backend, blas, no_grad, pool
from train import checkpoint

HAVE_THEIRS = turns.HAVE_TORCH and find_spec("transformers") is not None
PROMPT = 16                         # tokens that are there before


# ------------------------------------------------------------------------- sides: generators that work once a step

class Text(NamedTuple):
    """What a writer yields."""
    ids: list
    first: float            # seconds until the first token was there
    rest: float             # seconds a step, from then on
    limit: float = 0.0      # seconds in which the memory delivers what a step reads
    host: float = 0.0       # seconds of a step in which the host does not wait for a GPU


def ours(folder, batch, new, threads, dtype="float32", int8=False):
    """One step generates `new` tokens of every row, and reads what they were made of."""
    pool.set_size(threads)
    model = GPT.from_pretrained(folder).to(dtype=dtype)
    decoder, ids = Decoder(model, int8), prompts(model.config.vocab_size, batch, PROMPT)
    while True:
        times, rows = [time.perf_counter()], ids.tolist()
        for tokens in stream(model, ids, new, temperature=0, decoder=decoder):
            times.append(time.perf_counter())
            for token in tokens:
                rows[token.row].append(token.id)
        yield Text(rows, *first_and_rest(times), reading_time(decoder.compiled.block))


def reading_time(block, times=8):
    """Seconds to read this memory, by all threads."""
    width = 768
    w = block[-block.ctypes.data % 64:][:len(block) // (4 * width) * 4 * width - 4 * width].view(np.float32)
    w = w.reshape(-1, width)
    x, one, out = (np.ones(shape, np.float32) for shape in ((1, width), len(w), (1, len(w))))
    start = time.perf_counter()
    for _ in range(times):
        pool.each(_outputs, len(w), w.size, x, one[:1], w.ctypes.data, w, width, one, one, out, SET)
    return (time.perf_counter() - start) / times


def theirs(folder, batch, new, threads, dtype="float32"):
    torch, model = transformer(folder, threads, dtype)
    ids, times = torch.from_numpy(prompts(model.config.vocab_size, batch, PROMPT)), []

    def watch(ids, scores):                              # called with the logits of every step
        times.append(time.perf_counter())
        return scores

    with torch.inference_mode():
        while True:
            times[:] = [time.perf_counter()]
            rows = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, min_new_tokens=new,
                                  do_sample=False, pad_token_id=0, logits_processor=[watch]).tolist()
            yield Text(rows, *first_and_rest(times))


def first_and_rest(times):
    return times[1] - times[0], (times[-1] - times[1]) / max(1, len(times) - 2)


def our_reading(folder, batch, length, threads, dtype="float32"):
    """One step computes the logits of whole prompts."""
    pool.set_size(threads)
    model = GPT.from_pretrained(folder).to(dtype=dtype)
    ids = prompts(model.config.vocab_size, batch, length)
    with no_grad():
        while True:
            model(ids)
            yield None


def their_reading(folder, batch, length, threads, dtype="float32"):
    torch, model = transformer(folder, threads, dtype)
    ids = torch.from_numpy(prompts(model.config.vocab_size, batch, length))
    with torch.inference_mode():
        while True:
            model(ids, use_cache=False)
            yield None


def products(folder, batch, length, threads, dtype="float32"):
    """One step multiplies the matrices of our_reading(), and yields the seconds that all of them take."""
    pool.set_size(threads)
    c, rng = GPT.from_pretrained(folder).config, np.random.default_rng(0)
    sizes = dict(vocab_size=c.vocab_size, block_size=length, n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd)
    yield from floors.passes(
        floors.forward_products(sizes, batch),
        lambda role, shape: rng.standard_normal(shape, np.float32).astype(backend.dtype_of(dtype)),
        lambda a, b, out: (blas.gemm if a.ndim == 2 else blas.batch)(a, b, out))


def prompts(vocab_size, batch, length):
    return np.random.default_rng(0).integers(0, vocab_size, (batch, length))


def transformer(folder, threads, dtype):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(threads)
    return torch, AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()


# ------------------------------------------------------------------------------------------------------- measurements

WRITERS = {                         # title: (what makes the side, its settings)
    "ours float32": (ours, {}), "ours bfloat16": (ours, dict(dtype="bfloat16")), "ours int8": (ours, dict(int8=True)),
    "transformers float32": (theirs, {}), "transformers bfloat16": (theirs, dict(dtype="bfloat16"))}
READERS = {
    "ours float32": (our_reading, {}), "ours bfloat16": (our_reading, dict(dtype="bfloat16")),
    "transformers float32": (their_reading, {}), "transformers bfloat16": (their_reading, dict(dtype="bfloat16")),
    "products float32": (products, {}), "products bfloat16": (products, dict(dtype="bfloat16"))}


def wanted(table):
    return {name: row for name, row in table.items() if HAVE_THEIRS or not name.startswith("transformers")}


def writing(folder, batch, new, threads, rounds):
    return together(rounds, wanted(WRITERS), folder=folder, batch=batch, new=new, threads=threads)


def reading(folder, batch, length, threads, rounds):
    return together(rounds, wanted(READERS), folder=folder, batch=batch, length=length, threads=threads)


def together(rounds, table, **common):
    sides = [Side(name, make, {**common, **settings}) for name, (make, settings) in table.items()]
    return {side.name: side for side in turns.compare(sides, rounds)}


def median(side, what):
    return float(np.median([getattr(text, what) for text in side.values[turns.WARM:]]))


def writing_table(found, batch):
    """Lines. However many rows there are, the weights are read once."""
    yield (f"{'':24}{'tokens/s':>10}{'ms a step':>11}{'limit ms':>10}{'of limit':>10}{'x transformers':>16}"
           f"{'first ms':>10}{'peak MB':>9}")
    for name, side in found.items():
        rest, limit = median(side, "rest"), median(side, "limit")
        peer = found.get(f"transformers {name.split()[1].replace('int8', 'float32')}")
        mine = name.startswith("ours")
        yield (f"{name:24}{batch / rest:10.1f}{1e3 * rest:11.2f}"
               + (f"{1e3 * limit:10.2f}{100 * limit / rest:9.0f}%" if mine else f"{'':20}")
               + (f"{median(peer, 'rest') / rest:15.2f}x" if mine and peer else f"{'':16}")
               + f"{1e3 * median(side, 'first'):10.1f}{side.peak / 1e6:9.0f}")


def reading_table(found, batch, length):
    for name, side in found.items():
        alone = name.startswith("products")
        seconds = float(np.median(side.values[turns.WARM:])) if alone else quartiles(side.seconds)[1]
        yield f"{name:24}{batch:6}{length:8}{1e3 * seconds:10.1f}{batch * length / seconds:12.0f}"


def quality(folder, tokens):
    """Lines: the loss of a run's model with its weights as they are, rounded to bfloat16, and by [DE1] to int8."""
    from train.config import Config
    from train.data import Validation, prepare
    from train.step import evaluate
    (model, tokenizer), config = checkpoint.load(folder), Config(**checkpoint.newest(folder)[1]["config"])
    text = Validation(prepare(config, tokenizer).val, config.block_size, config.device_batch, tokens)
    (plain, _), kept = evaluate(model, text), {name: p.data for name, p in model.named_parameters()}
    yield f"\n{folder}: loss on {text.tokens:,} tokens of its validation text\n{'float32':10}{plain:10.5f}"
    for how in ("bfloat16", "int8"):
        for name, p in model.named_parameters():
            p.data = rounded(name, kept[name], how)
        found, _ = evaluate(model, text)
        yield f"{how:10}{found:10.5f}  {100 * (found / plain - 1):+.3f} %"


def rounded(name, w, how):
    """A parameter as float32, after it has been stored in fewer bits. int8 leaves all but matrices alone."""
    if how == "bfloat16":
        return w.astype(backend.dtype_of(how)).astype(np.float32)
    transposed = name.removesuffix(".weight").endswith(MATRICES)
    if not transposed and name != "wte.weight":
        return w
    q, scale = packed(w.T if transposed else w, int8=True)
    again = q[:, :w.shape[0] if transposed else w.shape[1]] * scale[:, None]
    return np.ascontiguousarray(again.T if transposed else again)


def main(argv):
    parser = argparse.ArgumentParser(
        prog="python -m bench generate", description="New tokens per second, and milliseconds for a prompt, beside "
        "transformers' and beside limits of this machine. To compare: pip install torch transformers")
    parser.add_argument("--preset", choices=PRESETS, default="gpt2", help="the model's size [gpt2, 124M]")
    parser.add_argument("--new", type=partial(turns.count, least=2), default=128, help="tokens to generate: the first "
                        "is timed by itself [128]")
    parser.add_argument("--batches", type=turns.positive, nargs="*", default=[1, 8], help="rows [1 8]")
    parser.add_argument("--lengths", type=turns.positive, nargs="*", default=[128, 512], help="of prompts [128 512]")
    parser.add_argument("--rounds", type=turns.positive, default=3, help="turns of each [3]")
    parser.add_argument("--run", metavar="FOLDER", help="a run of train.run, to see what fewer bits do to its loss")
    turns.add_shared(parser, plot=False)
    args = parser.parse_args(argv)
    if args.run:
        checkpoint.load(args.run)                            # what is wrong with it is said before anything is measured
    busy, results, good = turns.begin("transformers"), [], True
    if not HAVE_THEIRS:
        print("transformers is left out, because it or torch is not installed here")
    with tempfile.TemporaryDirectory() as folder:
        GPT(GPTConfig.preset(args.preset)).save(folder)
        for batch in args.batches:
            print(f"\n{args.preset}, {PROMPT} tokens and {args.new} new ones, batch {batch}, {args.threads} threads")
            found = writing(folder, batch, args.new, args.threads, args.rounds)
            print(*writing_table(found, batch), sep="\n")
            results.append({"what": "write", "batch": batch, "new": args.new, "sides": {
                name: {what: median(side, what) for what in ("first", "rest", "limit")} | {"peak_bytes": side.peak}
                for name, side in found.items()}})
            texts = [found[name].values[0].ids for name in ("ours float32", "transformers float32") if name in found]
            if any(text != texts[0] for text in texts):
                print("The ids of ours and of transformers differ.")
                good = False
        shown = False
        for batch in args.batches:
            for length in args.lengths:
                found = reading(folder, batch, length, args.threads, args.rounds)
                if not shown:
                    print(f"\n{'logits of prompts':24}{'batch':>6}{'length':>8}{'ms':>10}{'tokens/s':>12}")
                    shown = True
                print(*reading_table(found, batch, length), sep="\n")
                results.append({"what": "read", "batch": batch, "length": length, "sides": {
                    name: {"quartiles_s": quartiles(side.seconds), "peak_bytes": side.peak}
                    for name, side in found.items()}})
    if args.json:
        turns.record(args.json, "generate", argv, load=busy, results=results)
    if args.run:
        print(*quality(args.run, 100_000), sep="\n")
    return 0 if good else 1
