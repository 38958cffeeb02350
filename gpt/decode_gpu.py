r"""A step of gpt.decode on a GPU: one new token of every row, by the kernels of minigrad/fused/decode.cu.

Five launches for a layer (queries, keys and values; attention; its projection; the two halves of the MLP), one for the
embeddings and one for the head: more than a host can ask for in the time that they take. So the second step with the
same rows and caches captures them in a CUDA graph, and from then on one launch is a step. Tokens and positions are read
from the device's memory, where the graph looks for them, and the graph counts the positions. Nothing waits until the
host reads the logits.

A step reads every matrix once for each 8 rows, and what the cache holds of every row. With s bytes in a stored number,
L layers of width C, V tokens, and n_b positions that row b has seen, these are

    s (12 L C^2 + V C) + 2 L C s sum_b n_b     bytes

and no step takes less time than the memory takes for them: GPT-2's matrices are 247 MB in bfloat16, 74 microseconds at
3.35 TB/s.
"""
import math

from minigrad.backend import on_gpu, wide, xp_of
from minigrad.fused.embedding import check
from minigrad.kernels import cuda, has_instance

THREADS, WARPS, KEYS = 128, 4, 128          # of a block, for attention
MOST, OUTPUTS, ROWS = 512, 4, 8             # threads at most, outputs and rows of a block, for products
BLOCKS = 1056                               # eight for each multiprocessor of an H100: outputs beyond that take turns
SET, ADD, GELU, RELU = range(4)             # what is done with a product
INNER = {"gelu": GELU, "relu": RELU}
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
NO_NORM = None, None


class Step:
    """The weights of a model as a step wants them, and the step."""

    SHORT = 0                               # prompts are all read by the model's own layers

    @staticmethod
    def takes(model, int8):
        """Can a step be made of this model?"""
        like, c = model.wte.weight.data, model.config
        return not int8 and has_instance(like) and c.n_embd // c.n_head * like.itemsize <= 32 * 16

    def __init__(self, model, int8=False):
        c = self.config = model.config
        parameters = {name: p.data for name, p in model.named_parameters()}
        self.wte, self.wpe, xp = parameters["wte.weight"], parameters["wpe.weight"], xp_of(model.wte.weight.data)
        self.layers = []
        for i in range(c.n_layer):
            of = {name.removeprefix(f"h.{i}."): p for name, p in parameters.items() if name.startswith(f"h.{i}.")}
            self.layers.append([(xp.ascontiguousarray(of[name + ".weight"].T), wide(of[name + ".bias"]))
                                for name in MATRICES] + [_norm(of, name) for name in ("ln_1", "ln_2")])
        self.last = _norm(parameters, "ln_f") if c.pre_norm else NO_NORM
        self.work = None

    def __call__(self, tokens, cache):                                                   # (B,) -> (B, V)
        """The next token of every row."""
        if not on_gpu(tokens):
            check(tokens, self.wte)
        cache.make_room(1)
        if self.work is None or self.work.k is not cache.k:
            self.work = Work(self, cache)
        self.work.tokens[...] = xp_of(self.wte).asarray(tokens)
        self.work()
        cache.lengths = cache.lengths + 1
        return self.work.logits


class Work:
    """What a step does for so many rows and these caches: with arrays of its own, which stay where they are."""

    def __init__(self, step, cache):
        (_, B, H, room, _), c, xp = cache.k.shape, step.config, xp_of(cache.k)
        self.step, self.k, self.v, self.calls, self.graph = step, cache.k, cache.v, 0, None
        self.program = cuda("decode", step.wte.dtype)
        self.tokens, self.at = xp.zeros(B, "int64"), xp.array(cache.lengths)             # what is new, and where
        self.x, self.qkv, self.inside, self.logits = (
            xp.empty((B, n), "float32") for n in (c.n_embd, 3 * c.n_embd, 4 * c.n_embd, c.vocab_size))
        splits = -(-room // KEYS)
        self.parts, self.sums = xp.empty((splits, B, c.n_embd), "float32"), xp.empty((splits, B, H, 2), "float32")

    def __call__(self):
        """The launches: as they are at first, when kernels may have to be loaded; then as a graph."""
        self.calls += 1
        if self.calls == 1 or not on_gpu(self.k):
            return self.launches()
        if self.graph is None:
            with xp_of(self.k).cuda.Stream(non_blocking=True) as stream:
                stream.begin_capture()
                self.launches()
                self.graph = stream.end_capture()
        self.graph.launch()

    def launches(self):
        step, c, pre_norm = self.step, self.step.config, self.step.config.pre_norm
        self.program.embed[len(self.x), THREADS](self.tokens, self.at, step.wte, step.wpe, c.n_embd, self.x)
        for layer, (attn, proj, fc, back, ln_1, ln_2) in enumerate(step.layers):
            self.product(self.x, ln_1 if pre_norm else NO_NORM, attn, SET, self.qkv)
            self.attend(self.k[layer], self.v[layer])
            self.project(proj)
            if not pre_norm:
                self.normalise(ln_1)
            self.product(self.x, ln_2 if pre_norm else NO_NORM, fc, INNER[c.activation], self.inside)
            self.product(self.inside, NO_NORM, back, ADD, self.x)
            if not pre_norm:
                self.normalise(ln_2)
        self.product(self.x, step.last, (step.wte, None), SET, self.logits)
        self.at += 1

    def product(self, x, norm, matrix, what, out):
        """out = what is made of x, through the layer norm, times (w, bias)."""
        (B, n_in), n_out, (w, bias) = x.shape, out.shape[1], matrix
        self.program.product[self.where(n_in, n_out, 2)](
            x, *norm, float(self.step.config.eps), w, bias, n_in, n_out, B, what, out)

    def attend(self, k, v):
        """The new token's key and value, stored; what attention is, in parts of KEYS positions."""
        (B, H, room, D), pack = k.shape, 16 // k.itemsize
        lanes = 1 << (-(-D // pack) - 1).bit_length()        # that share a key: a power of two
        self.program.attend[(B * H, len(self.parts)), THREADS, 4 * WARPS * lanes * pack](
            self.qkv, self.at, H, D, room, lanes, 1 / math.sqrt(D), k, v, self.parts, self.sums)

    def project(self, matrix):
        """x += the parts, put together, times (w, bias)."""
        (splits, B, C), H = self.parts.shape, self.sums.shape[2]
        self.program.project[self.where(C, C, H * splits)](
            self.parts, self.sums, self.at, H, C // H, splits, *matrix, C, B, ADD, self.x)

    def normalise(self, norm):
        B, C = self.x.shape
        self.program.normalise[B, THREADS, 8](self.x, *norm, C, float(self.step.config.eps))

    def where(self, n_in, n_out, room):
        """(grid, block, bytes of shared memory) of a product that takes so many numbers for each row of its input."""
        packs = -(-n_in * self.k.itemsize // 16)
        threads = min(MOST, -(-packs // 32) * 32)
        grid = min(-(-n_out // OUTPUTS), BLOCKS), -(-len(self.x) // ROWS)
        return grid, threads, 4 * ROWS * (room + threads // 32 * OUTPUTS)


def _norm(parameters, name):
    return tuple(wide(parameters[f"{name}.{part}"]) for part in ("weight", "bias"))
