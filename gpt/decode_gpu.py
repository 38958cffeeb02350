r"""A step of gpt.decode on a GPU: one new token of every row, by the kernels of minigrad/fused/decode.cu.

Five launches for a layer (queries, keys and values; attention; its projection; the two halves of the MLP), one for the
embeddings and one for the head. Nothing waits for the host until it reads the logits.

A step reads every matrix once for each 8 rows, and what the cache holds of every row. With s bytes in a stored number,
L layers of width C, V tokens, and n_b positions that row b has seen, these are

    s (12 L C^2 + V C) + 2 L C s sum_b n_b     bytes

and no step takes less time than the memory takes for them: GPT-2's matrices are 247 MB in bfloat16, 74 microseconds at
3.35 TB/s.
"""
import math

from minigrad.backend import asnumpy, wide, xp_of
from minigrad.fused import layer_norm_gpu
from minigrad.fused.embedding import check
from minigrad.kernels import cuda, has_instance

THREADS, WARPS, OUTPUTS, ROWS, KEYS = 128, 4, 4, 8, 128     # of a block
BLOCKS = 2112                               # sixteen for each multiprocessor of an H100: outputs beyond that take turns
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
        self.program, self.layers = cuda("decode", self.wte.dtype), []
        for i in range(c.n_layer):
            of = {name.removeprefix(f"h.{i}."): p for name, p in parameters.items() if name.startswith(f"h.{i}.")}
            self.layers.append([(xp.ascontiguousarray(of[name + ".weight"].T), wide(of[name + ".bias"]))
                                for name in MATRICES] + [_norm(of, name) for name in ("ln_1", "ln_2")])
        self.last = _norm(parameters, "ln_f") if c.pre_norm else NO_NORM

    def __call__(self, tokens, cache):                                                   # (B,) -> (B, V)
        """The next token of every row."""
        c, xp, B, pre_norm = self.config, xp_of(self.wte), len(tokens), self.config.pre_norm
        check(tokens, self.wte)
        at, tokens = cache.positions(1).reshape(-1), xp.asarray(tokens, "int64")
        splits = int(cache.lengths.max()) // KEYS + 1
        x, qkv, inside, logits = (xp.empty((B, n), "float32") for n in (c.n_embd, 3 * c.n_embd, 4 * c.n_embd,
                                                                        c.vocab_size))
        parts, sums = xp.empty((splits, B, c.n_embd), "float32"), xp.empty((splits, B, c.n_head, 2), "float32")
        self.program.embed[B, THREADS](tokens, at, self.wte, self.wpe, c.n_embd, x)
        for layer, (attn, proj, fc, back, ln_1, ln_2) in enumerate(self.layers):
            self._product(x, ln_1 if pre_norm else NO_NORM, attn, SET, qkv)
            self._attend(qkv, at, cache.k[layer], cache.v[layer], parts, sums)
            self._project(parts, sums, at, proj, x)
            x = x if pre_norm else layer_norm_gpu.forward(x, *ln_1, eps=c.eps)[0]
            self._product(x, ln_2 if pre_norm else NO_NORM, fc, INNER[c.activation], inside)
            self._product(inside, NO_NORM, back, ADD, x)
            x = x if pre_norm else layer_norm_gpu.forward(x, *ln_2, eps=c.eps)[0]
        self._product(x, self.last, (self.wte, None), SET, logits)
        cache.lengths = cache.lengths + 1
        return asnumpy(logits)

    def _product(self, x, norm, matrix, what, out):
        """out = what is made of x, through the layer norm, times (w, bias)."""
        (B, n_in), n_out, (w, bias) = x.shape, out.shape[1], matrix
        self.program.product[_where(n_out, B, 2)](x, *norm, float(self.config.eps), w, bias, n_in, n_out, B, what, out)

    def _attend(self, qkv, at, k, v, parts, sums):
        """The new token's key and value, stored; what attention is, in parts of KEYS positions."""
        (B, H, room, D), pack = k.shape, 16 // k.itemsize
        lanes = 1 << (-(-D // pack) - 1).bit_length()        # that share a key: a power of two
        self.program.attend[(B * H, len(parts)), THREADS, 4 * WARPS * lanes * pack](
            qkv, at, H, D, room, lanes, 1 / math.sqrt(D), k, v, parts, sums)

    def _project(self, parts, sums, at, matrix, x):
        """x += the parts, put together, times (w, bias)."""
        (splits, B, C), H = parts.shape, sums.shape[2]
        self.program.project[_where(C, B, H * splits)](parts, sums, at, H, C // H, splits, *matrix, C, B, ADD, x)


def _where(n_out, B, room):
    """(grid, block, bytes of shared memory) of a product that takes so many numbers for each row of its input."""
    return (min(-(-n_out // OUTPUTS), BLOCKS), -(-B // ROWS)), THREADS, 4 * ROWS * (room + WARPS * OUTPUTS)


def _norm(parameters, name):
    return tuple(wide(parameters[f"{name}.{part}"]) for part in ("weight", "bias"))
