r"""What a model costs, from its configuration alone: parameters, operations and memory, before a byte of it is taken.

    python -m gpt.sizes gpt2 gpt2-xl --memory 24         what fits into 24 GiB
    python -m gpt.sizes gpt2 --memory 80 --device gpu --dtype bfloat16

V tokens, N positions (block_size), L layers of width C with H heads; s bytes in a stored number: 4 in float32, 2 in
bfloat16 and float16, 8 in float64; w in one that sums are taken in: 4, and 8 in float64.

Parameters. The matrices of a layer have 3 + 1 + 4 + 4 times C^2 entries, their biases 3 + 1 + 4 + 1 times C; a layer
norm has 2 C; the head is the token embedding:
    P = (V + N) C + L (12 C^2 + 9 C + 4 C) + 2 C                  (the last is ln_f, GPT-2's)      [SZ1]

Operations for a token, on average over a row of T of them. A matrix takes 2 for each of its entries; token t meets t
keys and t values, 2 C for each, and the mean of t is (T + 1) / 2:
    F = 2 (12 L C^2 + V C) + 2 L C (T + 1)                                                         [SZ2]
(Kaplan et al. 2020, arXiv:2001.08361, table 1, who leave the head out). A training step takes the forward pass and
twice as much to go back: 3 F.

Memory in training. What lives from step to step: parameters (in full: 16-bit ones and what rounding took away make 4
bytes, float16 keeps a whole copy beside it), gradients, two moments of AdamW:
    4 w P,   float16: (2 + 4 + 12) P                                                               [SZ3]
What forward keeps for backward, for a token: per layer the two sums on the residual path (2 C entries), queries, keys
and values (3 C), what attention gives (C) and the MLP's inside (4 C), together K = 10; mean and deviation of two layer
norms, and the logarithm of attention's sum. What layer norm and GELU give is computed again. A GPU has more memory than
time and keeps it: there K = 12, and 16 with GELU. At the end the input of the last layer norm, and what it keeps (in
GPT-1, which has none, the embeddings; on a GPU those stand in place of the last result, which nobody keeps), and the
gradient that the head has found already:
    A = L (K s C + w (4 + H)) + s C + 2 w + w C                                                    [SZ4]
With recompute (minigrad/recompute.py) a layer keeps its input alone, and one at a time has the rest as well:
    A' = L s C + ((K - 1) s C + w (4 + H)) + s C + 2 w + w C                                       [SZ5]
On top comes what a step needs for a moment, the larger of two. In the head: its input, N' = B T rows of it, and a chunk
of R rows of logits, with their gradient beside it if s = 2; on a GPU, where it takes their place, G = 1 GiB of logits
at most. In the last MLP on the way back: dy, GELU's output rebuilt (not on a GPU), its gradient and the gradient of its
input:
    max(s N' C + w R V (+ s R V),  13 s N' C),   GPU: max(s N' C + min(s N' V, G),  9 s N' C)      [SZ6]
In generation, keys and values of every position, and beside the parameters the matrices as a step of gpt.decode wants
them (not in float64, nor in float16 on a CPU), the head among them on a CPU alone:
    Q = 2 L s C                                                                                    [SZ7]
    W = s (P + 12 L C^2 + V C),   GPU: s (P + 12 L C^2)                                            [SZ8]
"""
import argparse
import os
import sys

from gpt.model import GPTConfig
from gpt.presets import PRESETS
from minigrad.check import exit_status, expect

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
GIB = 2 ** 30


def shapes(c):
    """{name: shape} of every parameter, in the order of the model's own."""
    C, found = c.n_embd, {"wte.weight": (c.vocab_size, c.n_embd), "wpe.weight": (c.block_size, c.n_embd)}
    for i in range(c.n_layer):
        for name, n_in, n_out in (("ln_1", 0, C), ("attn.c_attn", C, 3 * C), ("attn.c_proj", C, C), ("ln_2", 0, C),
                                  ("mlp.c_fc", C, 4 * C), ("mlp.c_proj", 4 * C, C)):
            found[f"h.{i}.{name}.weight"] = (n_in, n_out) if n_in else (n_out,)
            found[f"h.{i}.{name}.bias"] = (n_out,)
    return {**found, **({"ln_f.weight": (C,), "ln_f.bias": (C,)} if c.pre_norm else {})}


def parts(c):
    """{part: parameters}."""
    L, C = c.n_layer, c.n_embd
    return {"token embedding, also the head": c.vocab_size * C, "position embedding": c.block_size * C,
            "attention": L * (4 * C * C + 4 * C), "MLP": L * (8 * C * C + 5 * C),
            "layer norms": L * 4 * C + (2 * C if c.pre_norm else 0)}                               # [SZ1]


def parameters(c):
    return sum(parts(c).values())


def forward_flops(c, T):
    """Operations for one token of a row of T."""
    L, C = c.n_layer, c.n_embd
    return 2 * (12 * L * C * C + c.vocab_size * C) + 2 * L * C * (T + 1)                           # [SZ2]


def standing(c, dtype="float32"):
    """{what for: bytes} of training that live from step to step."""
    s, P = entry(dtype), parameters(c)
    w = max(s, 4)
    return {"parameters": (w + (2 if dtype == "float16" else 0)) * P, "gradients": w * P, "moments": 2 * w * P}  # [SZ3]


def activations(c, dtype="float32", recompute=False, device="cpu"):
    """Bytes that forward keeps for backward, for a token."""
    s, L, C, gpu = entry(dtype), c.n_layer, c.n_embd, device == "gpu"
    w, K = max(s, 4), 10 + gpu * (6 if c.activation == "gelu" else 2)
    inside, end = K * s * C + w * (4 + c.n_head), w * C + (s * C + 2 * w if c.pre_norm else 0 if gpu else s * C)
    return L * s * C + inside - s * C + end if recompute else L * inside + end                     # [SZ4,5]


def temporaries(c, tokens, dtype="float32", device="cpu"):
    """Bytes that a training step needs for a moment."""
    from minigrad.fused.cross_entropy import rows_of_chunk
    s, C, V = entry(dtype), c.n_embd, c.vocab_size
    if device == "gpu":
        return max(s * tokens * C + min(s * tokens * V, GIB), 9 * s * tokens * C)                  # [SZ6]
    w, R = max(s, 4), min(tokens, rows_of_chunk(V, s))
    return max(s * tokens * C + (w if s > 2 else w + s) * R * V, 13 * s * tokens * C)              # [SZ6]


def training(c, rows, T, dtype="float32", recompute=False, device="cpu"):
    """Bytes of a training step of so many rows of T tokens; the interpreter and its libraries come on top."""
    tokens = rows * T
    return (sum(standing(c, dtype).values()) + tokens * activations(c, dtype, recompute, device)
            + temporaries(c, tokens, dtype, device))


def cache(c, dtype="float32"):
    """Bytes of keys and values of one position."""
    return 2 * c.n_layer * entry(dtype) * c.n_embd                                                 # [SZ7]


def generation(c, rows, T, dtype="float32", device="cpu"):
    """Bytes of the weights, with their copies, and of the caches of so many rows of T tokens."""
    copied = 12 * c.n_layer * c.n_embd ** 2 + (c.vocab_size * c.n_embd if device == "cpu" else 0)
    stays = dtype == "float64" or dtype == "float16" and device == "cpu"
    return entry(dtype) * (parameters(c) + (0 if stays else copied)) + rows * T * cache(c, dtype)  # [SZ8]


def largest(fits):
    """The largest n >= 0 for which fits(n), which is true up to some n and false from there on."""
    n = 1
    while fits(n):
        n *= 2
    low = n // 2                                             # fits(low) or low == 0; not fits(n)
    while n - low > 1:
        middle = (low + n) // 2
        low, n = (middle, n) if fits(middle) else (low, middle)
    return low


def entry(dtype):
    """Bytes of a stored number."""
    expect(str(dtype) in BYTES, "dtype", repr(str(dtype)), f"one of {', '.join(BYTES)}")
    return BYTES[str(dtype)]


def describe(c, memory=None, dtype="float32", T=None, device="cpu"):
    """What the model costs on a device, as text. memory: GiB to fit it into (default: this machine's); T: tokens in a
    row (default: block_size)."""
    T, memory = c.block_size if T is None else T, machine() if memory is None else memory
    expect(0 < memory < 1e9, "memory", memory, "GiB above 0, and below 1e9")
    expect(0 < T <= c.block_size, "context", f"{T} tokens", f"1 to {c.block_size}, the model's positions")
    expect(device in ("cpu", "gpu"), "device", repr(device), "'cpu' or 'gpu'")
    P, F, byte = parameters(c), forward_flops(c, T), memory * GIB
    lines = [f"{'GPT-2' if c.pre_norm else 'GPT-1'}: {c.n_layer} layers, {c.n_head} heads, width {c.n_embd}, "
             f"{c.block_size} positions, {c.vocab_size:,} tokens, {c.activation}",
             f"{'parameters':34}{P:>15,}"]
    lines += [f"    {name:30}{n:>15,}{n / P:8.1%}" for name, n in parts(c).items()]
    lines += [f"a token in a row of {T}, F = 2 (12 L C^2 + V C) + 2 L C (T + 1)",
              f"    {'forward':30}{F / 1e9:15,.3f} GFLOP", f"    {'training, 3 F':30}{3 * F / 1e9:15,.3f} GFLOP",
              f"memory of a {device.upper()}, {dtype}"]
    for name, n in (("activations of a token", activations(c, dtype, False, device)),
                    ("the same with recompute", activations(c, dtype, True, device)),
                    ("keys and values of a token", cache(c, dtype)),
                    ("from step to step", sum(standing(c, dtype).values()))):
        lines.append(f"    {name:30}{n:>15,} bytes")
    lines.append(f"rows of {T} tokens that fit into {memory:g} GiB")
    for name, fits in (("training", lambda n: training(c, n, T, dtype, False, device) <= byte),
                       ("training with recompute", lambda n: training(c, n, T, dtype, True, device) <= byte),
                       ("generation", lambda n: generation(c, n, T, dtype, device) <= byte)):
        lines.append(f"    {name:30}{largest(fits):>15,}")
    return "\n".join(lines)


def machine():
    """GiB of this machine's memory."""
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1) if hasattr(os, "sysconf") else 16


def main(argv=None):
    parser = argparse.ArgumentParser("python -m gpt.sizes", description="What a model costs, before a byte is taken.",
                                     epilog="example: python -m gpt.sizes gpt2 gpt2-xl --memory 80 --device gpu")
    parser.add_argument("presets", nargs="*", metavar="PRESET", default=["gpt2"],
                        help=f"of {', '.join(PRESETS)} [gpt2]")
    parser.add_argument("--memory", type=float, default=machine(), metavar="GIB",
                        help="to fit them into [%(default)s, this machine's]")
    parser.add_argument("--dtype", choices=BYTES, default="float32", help="how parameters are stored [%(default)s]")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where they are trained [%(default)s]")
    parser.add_argument("--context", type=int, metavar="N", help="tokens in a row [as many as the model has positions]")
    args = parser.parse_args(argv)
    return exit_status(lambda: print("\n\n".join(
        describe(GPTConfig.preset(name), args.memory, args.dtype, args.context, args.device) for name in args.presets)))


if __name__ == "__main__":
    sys.exit(main())
