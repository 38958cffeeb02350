r"""A step of gpt.decode on a GPU: one new token of every row, by the kernel of minigrad/fused/decode.cu.

One launch is a step, with a block on each multiprocessor. Tokens are read from the device's memory, logits are left
there, and nothing waits until the host reads them.

A step reads every matrix once for each `rows` rows, up to 16 (8 in float32), and what the cache holds of every row.
With s bytes in a stored number, L layers of width C, V tokens, and n_b positions that row b has seen, these are

    s (12 L C^2 + V C) + 2 L C s sum_b n_b     bytes

and no step takes less time than the memory takes for them: GPT-2's matrices are 247 MB in bfloat16, 59 microseconds at
4.2 TB/s.
"""
import numpy as np

from minigrad.backend import on_gpu, wide, xp_of
from minigrad.cuda import cuda, has_instance, multiprocessors, shared_memory
from minigrad.fused.embedding import check

WARPS, TILES = 12, 3                        # of a block; of eight outputs between barriers
UNIT, LEAST, MOST = 1024, TILES, 8          # bytes of a unit of weights; units in half a warp's ring
OWN = 512                                   # bytes of shared memory for the kernel's table
GELU, RELU = 0, 1
NOTHING = 0xffffffff                        # in memory, where no number has been sent to yet
INNER = {"gelu": GELU, "relu": RELU}
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
NORMS = ("ln_1", "ln_2")


class Step:
    """The weights of a model as a step wants them, and the step."""

    SHORT = 32                              # tokens of a prompt, which takes fewer steps than the layers take launches

    @staticmethod
    def takes(model, int8):
        """Can a step be made of this model?"""
        like, c = model.wte.weight.data, model.config
        return (not int8 and has_instance(like) and c.n_embd // c.n_head * like.itemsize <= 32 * 16
                and shared(c, like, 1) <= room(xp_of(like)))

    def __init__(self, model, int8=False):
        c = self.config = model.config
        of = {name: p.data for name, p in model.named_parameters()}
        like, L, C = of["wte.weight"], c.n_layer, c.n_embd
        xp, self.wpe = xp_of(like), of["wpe.weight"]
        self.wte, self.vocabulary = padded([like], like), len(like)
        self.matrices = [padded([of[f"h.{i}.{name}.weight"].T for i in range(L)], like) for name in MATRICES]
        self.biases = xp.stack([xp.concatenate([wide(of[f"h.{i}.{name}.bias"]) for name in MATRICES])
                                for i in range(L)])                                      # (L, 9C)
        names = [f"h.{i}.{name}" for i in range(L) for name in NORMS]
        self.norms = xp.zeros((2 * L + 1, 2, padded_to(C, 4)), self.biases.dtype)        # GPT-1 has none at first
        for n, name in enumerate([*names, "ln_f"] if c.pre_norm else ["", *names]):
            if name:
                self.norms[n, 0, :C], self.norms[n, 1, :C] = (wide(of[f"{name}.{part}"]) for part in ("weight", "bias"))
        self.work = None

    def __call__(self, tokens, cache):                                                   # (B,) -> (B, V)
        """The next token of every row."""
        if not on_gpu(tokens):
            check(tokens, self.wte[0, :self.vocabulary])
        cache.make_room(1)
        if self.work is None or self.work.k is not cache.k:
            self.work = Work(self, cache)
        self.work(xp_of(self.wte).asarray(tokens, "int64"))
        cache.lengths = cache.lengths + 1
        return self.work.logits

    def read(self, prompts, cache):                                                      # -> (B, V)
        """Short prompts, a token of each at a time. What a row reads behind its last token is nobody's."""
        xp, lengths = xp_of(self.wte), np.array([len(ids) for ids in prompts])
        padded_ids = np.zeros((lengths.max(), len(prompts)), np.int64)
        for b, ids in enumerate(prompts):
            padded_ids[:len(ids), b] = ids
        check(padded_ids, self.wte[0, :self.vocabulary])
        found = xp.empty((len(prompts), self.vocabulary), "float32")
        for t, tokens in enumerate(xp.asarray(padded_ids), 1):
            logits = self(tokens, cache)
            for b in np.flatnonzero(lengths == t).tolist():
                found[b] = logits[b]
        if lengths.min() < lengths.max():
            cache.lengths, self.work = lengths, None         # whose positions are others
        return found


class Work:
    """What a step does for so many rows and these caches, with arrays of its own."""

    def __init__(self, step, cache):
        (_, B, H, positions, _), c, xp = cache.k.shape, step.config, xp_of(cache.k)
        self.k, self.steps = cache.k, 0
        self.logits, begins = xp.empty((B, c.vocab_size), "float32"), xp.array(cache.lengths)
        sent = xp.full((2, c.n_layer, 10, B, padded_to(c.n_embd, 4)), NOTHING, "uint32").view("float32")
        kept = xp.empty((B, padded_to(c.n_embd, 4)), "float32")
        most = max(n for n in range(1, min(B, 32 // self.k.itemsize) + 1) if shared(c, self.k, n) <= room(xp))
        rows = -(-B // -(-B // most))                        # as many at each time
        half = max(n for n in range(LEAST, MOST + 1) if shared(c, self.k, rows, n) <= room(xp))
        self.launch = cuda("decode", self.k.dtype, WARPS=WARPS, ROWS=whole(rows)).next_token.together
        self.where = multiprocessors(xp), 32 * WARPS, shared(c, self.k, rows, half)
        self.before = begins, step.wte, step.wpe, *step.matrices, step.biases, step.norms
        self.after = self.k, cache.v, sent, kept, self.logits
        self.sizes = (B, c.n_embd, H, c.n_layer, c.vocab_size, positions, rows, (rows - 1).bit_length(), half,
                      INNER[c.activation], int(not c.pre_norm), float(c.eps))

    def __call__(self, tokens):
        self.launch[self.where](tokens, *self.before, *self.after, self.steps, *self.sizes)
        self.steps += 1


def padded(matrices, like):
    """(n_out, n_in) each -> (number, n_out, K), rows padded with zeros to whole packs of 16 bytes; as they are, if
    that is what they are."""
    (n_out, n_in), pack, xp = matrices[0].shape, 16 // like.itemsize, xp_of(like)
    if len(matrices) == 1 and n_in % pack == 0:
        return xp.ascontiguousarray(matrices[0])[None]
    found = xp.zeros((len(matrices), n_out, padded_to(n_in, pack)), like.dtype)
    for own, matrix in zip(found, matrices, strict=True):
        own[:, :n_in] = matrix
    return found


def shared(c, like, rows, half=LEAST):
    """Bytes of shared memory of a block that takes so many rows at one time, with so many units in half a ring."""
    chunk, C = 128 // like.itemsize, c.n_embd
    chunks, longest = -(-C // chunk), -(-4 * C // chunk)     # what is normalised lies beside what it was, in float
    width = 128 * max(longest, chunks * (1 + 4 // like.itemsize)) + 64
    sums = 2 * TILES * whole(rows) * 8 + C // c.n_head + 2                               # of a warp, in float
    return WARPS * (half * 2 * UNIT + 4 * sums) + rows * (width + 16 * chunks)


def whole(rows):
    """For how many rows at one time the kernel is compiled, if it is to take so many."""
    return next(n for n in (1, 8, 16) if n >= rows)


def padded_to(n, to):
    return -(-n // to) * to


def room(xp):
    """Bytes of shared memory that a block may ask for beside what the kernel has anyway."""
    return shared_memory(xp) - OWN
