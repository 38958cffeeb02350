"""A step of gpt.decode in one compiled call: one new token of every row, or the tokens of short prompts, through all
layers.

Each weight meets one number per token and is not needed again, so a step takes as long as the memory takes to deliver
the weights, and all else has to hide behind that:

    matrices    lie as (out, in), so that an output is a sum along memory, read from front to back by each thread; the
                sums stay in registers. What comes after a product (scale, bias, activation, the sum with the
                residual path) is done by who has the result at hand
    int8        whole numbers q = w / s, s = max |w| / 127 of each output                        [DE1]
                and a = x / r, r = max |x| / 32767 of each row, of 8 and 16 bits, are multiplied and added up without
                an error: sum_i x_i w_ij = r s_j sum_i a_i q_ij                                  [DE2]
    all layers  in one function, whose threads wait for the next job without falling asleep
    attention   one head of one row at a time: [KV1] of cache.py

Rows of matrices are padded with zeros to a multiple of 64 entries. Every output is one sum in one order: its bits do
not depend on the number of threads, nor on the other tokens of a step.
"""
import functools
import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from minigrad import gemm_cpu, pool
from minigrad.backend import wide
from minigrad.check import expect
from minigrad.fork_cpu import each
from minigrad.fused.embedding import check
from minigrad.fused.gelu_cpu import gate
from minigrad.gemm_cpu import FEATURES, FLOAT, INT, LONG, SHORT, _call, _load, view
from minigrad.jit_cpu import inline, jit, plain
from minigrad.math_cpu import bits, exp, narrow
from minigrad.math_cpu import wide as number

STRIDE = 64                     # entries that rows are padded to; the innermost loop takes as many at a time, or half
LINE = 64                       # bytes of a cache line
CHUNK = 32                      # tokens that go through the layers together
AHEAD = 6144                    # bytes that are asked for before they are needed: the memory answers that much later
SHORTEST, SUMS = 32767, 2**35   # the largest whole number for x; what 16 sums of 32 bits hold together
SET, ADD, GELU, RELU = range(4) # what is done with a product
INNER = {"gelu": GELU, "relu": RELU}
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
NORMS = ("ln_1", "ln_2")
FLOATS = np.dtype(np.float32)


class Step:
    """The weights of a model as a step wants them, and the step."""

    SHORT = 16                  # tokens of a prompt that a step takes sooner than the layers, which pack their matrices

    @staticmethod
    def takes(model, int8):
        """Can a step be made of this model?"""
        return model.wte.weight.dtype.name in ("float32", "bfloat16")

    def __init__(self, model, int8=False):
        c = self.config = model.config
        parameters = dict(model.named_parameters())
        self.wte, self.wpe = parameters["wte.weight"].data, parameters["wpe.weight"].data
        layers = []
        for i in range(c.n_layer):
            of = {name.removeprefix(f"h.{i}."): p.data for name, p in parameters.items() if name.startswith(f"h.{i}.")}
            layers.append([a for name in MATRICES for a in (of[name + ".weight"].T, of[name + ".bias"])])
            layers[-1] += [of[f"{name}.{part}"] for name in NORMS for part in ("weight", "bias")]
        head = [self.wte, np.zeros(c.vocab_size, np.float32)]                            # (V, C) is (out, in)
        last = [parameters[f"ln_f.{part}"].data if c.pre_norm else np.zeros(1) for part in ("weight", "bias")]
        self.block, (*self.layers, self.head, self.last) = together([*layers, head, last], int8)
        self.addresses, self.ends = np.array([addresses(arrays) for arrays in self.layers]), addresses(self.head)

    def __call__(self, tokens, cache):                                                   # (B,) -> (B, V)
        """The next token of every row."""
        tokens = np.asarray(tokens)
        expect(tokens.shape == cache.lengths.shape, "Decoder", f"tokens {tokens.shape}",
               f"{cache.lengths.shape}, one for every row")
        check(tokens, self.wte)
        rows = np.arange(len(tokens) + 1)
        logits = self.run(tokens, cache.positions(1)[:, 0], rows, rows[:-1], cache)
        cache.lengths = cache.lengths + 1
        return logits

    def read(self, prompts, cache):
        """Logits (B, V) after the next tokens of every row, lists of ids; CHUNK of them go through together."""
        lengths = np.array([len(ids) for ids in prompts])
        cache.positions(lengths.max())                       # an error if there is no room for them
        owner = np.repeat(np.arange(len(prompts)), lengths)  # (R,), of every token
        ends = np.cumsum(lengths)
        at = np.arange(len(owner)) - np.repeat(ends - lengths, lengths) + cache.lengths[owner]
        tokens, logits = np.concatenate(prompts), np.empty((len(prompts), self.config.vocab_size), np.float32)
        check(tokens, self.wte)
        for lo in range(0, len(owner), CHUNK):
            some = slice(lo, lo + CHUNK)
            begins = np.searchsorted(owner[some], np.arange(len(prompts) + 1))
            last = np.flatnonzero((lo < ends) & (ends <= lo + CHUNK))                    # rows that end here
            logits[last] = self.run(tokens[some], at[some], begins, ends[last] - 1 - lo, cache)
        cache.lengths = cache.lengths + lengths
        return logits

    def run(self, tokens, at, begins, wanted, cache):
        """Logits after those tokens that are wanted; of row b there are begins[b] to begins[b + 1], at positions at."""
        c, x = self.config, np.zeros((len(tokens), up(self.config.n_embd)), np.float32)
        x[:, :c.n_embd] = wide(self.wte[tokens]) + wide(self.wpe[at])
        return _step(pool.address(), pool.size(), x, c.n_embd, self.head[0], self.ends, self.addresses, *self.last,
                     c.pre_norm, c.eps, INNER[c.activation], bits(cache.k), bits(cache.v), begins, at, wanted)


def packed(w, int8):
    """(matrix, scale): w (out, in), padded, as floats, as bfloat16's bits, or as int8 with scales by [DE1]."""
    return together([[w]], int8)[1][0]


def together(lists, int8):
    """(block, lists): vectors as floats and matrices as packed() gives them, two arrays each, one behind the other in
    one block, for which the system has large pages. None is packed elsewhere before: weights would be there thrice."""
    kind = np.dtype(np.int8) if int8 else bits(lists[0][0]).dtype
    sizes = [4 * len(a) + LINE + (a.ndim == 2) * (len(a) * up(a.shape[-1]) * kind.itemsize + LINE)
             for arrays in lists for a in arrays]
    block = np.empty(sum(sizes) + LINE, np.uint8)
    at, moved = -block.ctypes.data % LINE, []

    def place(shape, dtype=FLOATS):
        nonlocal at
        there = block[at:at + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        at += -(-there.nbytes // LINE) * LINE
        moved[-1].append(there)
        return there

    for arrays in lists:
        moved.append([])
        for a in arrays:
            if a.ndim == 1:
                place(a.shape)[:] = wide(a)
            else:
                fill(place((len(a), up(a.shape[1])), kind), place(a.shape[:1]), a)
    return block, moved


def fill(matrix, scale, w):
    scale[:] = 1
    if matrix.dtype == np.int8:
        scale[:] = wide(np.abs(w).max(1)) / np.float32(127)
        scale[scale == 0] = 1
        w = np.rint(wide(w) / scale[:, None]).astype(np.int8)                            # [DE1]
    matrix[:, :w.shape[1]], matrix[:, w.shape[1]:] = bits(w), 0


def addresses(arrays):
    return np.array([a.ctypes.data for a in arrays])


def up(n):
    return -(-n // STRIDE) * STRIDE


# ----------------------------------------------------------------------------------------------------- the inner loop

def _vector(kind, n=16):
    """What the sums of all processors are taken in: a register, or two of AVX2's."""
    return gemm_cpu._vector(kind, n)


def _every(number):
    return gemm_cpu._every(number, 16)


def _floats(builder, kind, address, offset):
    """16 entries of a kind as floats, from that many entries behind an address."""
    if kind == types.float32:
        return _load(builder, _vector(FLOAT), address, 4 * offset)
    entries = builder.zext(_load(builder, _vector(SHORT), address, 2 * offset, align=2), _vector(INT))
    return builder.bitcast(builder.shl(entries, _every(INT(16))), _vector(FLOAT))


def _shorts(builder, address, offset):
    """32 bytes as whole numbers of 16 bits."""
    return builder.sext(_load(builder, _vector(ir.IntType(8), 32), address, offset, align=1), _vector(SHORT, 32))


def _products(builder, a, b):
    """The sums of neighbours in the product of 32 numbers of 16 bits with 32: 16 of 32 bits."""
    if FEATURES.get("avx512bw"):
        return _call(builder, "llvm.x86.avx512.pmaddw.d.512", _vector(INT), a, b)
    a, b = (builder.sext(v, _vector(INT, 32)) for v in (a, b))
    product = builder.mul(a, b)
    return builder.add(*(builder.shuffle_vector(product, product, _vector(INT)([INT(2 * i + k) for i in range(16)]))
                         for k in (0, 1)))


def _prefetch(builder, address, offset):
    byte = builder.inttoptr(builder.add(address, LONG(offset)), ir.IntType(8).as_pointer())
    _call(builder, "llvm.prefetch.p0i8", ir.VoidType(), byte, INT(0), INT(2), INT(1))


def _dots(outputs, rows):
    @intrinsic
    def dots(typing, like, x, stride, w, n):
        """The sums of x_i w_i for so many x, `stride` bytes apart from the address x on, n entries each, and for so
        many w, one behind the other from the address w on, n entries of like's dtype each; n is a multiple of STRIDE. x
        are floats, or int16 if w are int8. First those of all x with the first w. How many there are does not change a
        bit of any."""
        whole = like.dtype == types.int8
        lanes, across, size = 32 if whole else 16, range(2), like.dtype.bitwidth // 8

        def generate(context, builder, signature, args):
            _, at_x, stride, at_w, n = args
            before, loop, after = builder.block, builder.append_basic_block("dots"), builder.append_basic_block("after")
            builder.branch(loop)
            builder.position_at_end(loop)
            i = builder.phi(LONG)
            sums = [builder.phi(_vector(INT if whole else FLOAT)) for _ in range(outputs * rows * len(across))]
            fresh, behind = iter(sums), builder.mul(n, LONG(size))
            x_, w_ = (builder.add(at, builder.mul(i, LONG(n))) for at, n in ((at_x, LINE // lanes), (at_w, size)))
            entries = [[_load(builder, _vector(SHORT, 32) if whole else _vector(FLOAT),
                              builder.add(x_, builder.mul(stride, LONG(r))), LINE * j) for j in across]
                       for r in range(rows)]
            totals = []
            for o in range(outputs):
                row = builder.add(w_, builder.mul(behind, LONG(o)))
                for line in range(0, len(across) * lanes * size, LINE):
                    _prefetch(builder, row, AHEAD + line)
                weights = [_shorts(builder, row, lanes * j) if whole else _floats(builder, like.dtype, row, lanes * j)
                           for j in across]
                for r in range(rows):
                    for a, b in zip(entries[r], weights):
                        totals.append(builder.add(next(fresh), _products(builder, a, b)) if whole else
                                      _call(builder, "llvm.fma.v16f32", b.type, a, b, next(fresh)))
            further = builder.add(i, LONG(len(across) * lanes))
            i.add_incoming(LONG(0), before)
            i.add_incoming(further, loop)
            for s, t in zip(sums, totals):
                s.add_incoming(_every(INT(0) if whole else FLOAT(0.0)), before)
                s.add_incoming(t, loop)
            builder.cbranch(builder.icmp_signed("<", further, n), loop, after)
            builder.position_at_end(after)
            totals = [functools.reduce(builder.add if whole else builder.fadd, totals[k:k + len(across)])
                      for k in range(0, len(totals), len(across))]
            totals = [builder.sitofp(t, _vector(FLOAT)) for t in totals] if whole else totals
            for half in (8, 4, 2, 1):
                turned = _vector(INT)([INT((lane + half) % 16) for lane in range(16)])
                totals = [builder.fadd(t, builder.shuffle_vector(t, t, turned)) for t in totals]
            return context.make_tuple(builder, signature.return_type,
                                      [builder.extract_element(t, INT(0)) for t in totals])
        return types.UniTuple(types.float32, outputs * rows)(like, *[types.int64] * 4), generate
    return dots


dot, eight_dots = _dots(1, 1), _dots(2, 4)


@jit
def _outputs(x, factor, w, like, n_in, scale, bias, out, what, lo, hi):
    """Outputs lo..hi of every row: factor scale (x w) + bias, or out plus it, or GELU or ReLU of it. x (B, n_in) is
    padded, and so is w (n_out, n_in), an address."""
    size, stride, at, B = like.itemsize * n_in, x.strides[0], x.ctypes.data, len(x)
    fours, pairs = B // 4 * 4, (hi - lo) // 2 * 2 if B > 3 else 0
    for j in range(lo, lo + pairs, 2):                   # a number that is loaded and widened is used eight times
        for b in range(0, fours, 4):
            for k, y in enumerate(eight_dots(like, at + b * stride, stride, w + j * size, n_in)):
                put(out, b + k % 4, j + k // 4, y, factor, scale, bias, what)
    for j in range(lo, hi):
        for b in range(fours if j < lo + pairs else 0, B):
            put(out, b, j, dot(like, at + b * stride, stride, w + j * size, n_in)[0], factor, scale, bias, what)
    if what == GELU:
        for b in range(B):
            row = out[b, lo:hi]
            for j in range(len(row)):
                row[j] = row[j] * gate(row[j], row)
    elif what == RELU:
        for b in range(B):
            row = out[b, lo:hi]
            for j in range(len(row)):
                row[j] = max(row[j], np.float32(0))


@inline
def put(out, b, j, y, factor, scale, bias, what):
    y = y * (factor[b] * scale[j]) + bias[j]
    out[b, j] = out[b, j] + y if what == ADD else y


def numbers(x, like):
    """(rows, factor of each): x (B, n_in) as the inner loop wants it beside weights of like's dtype."""


@overload(numbers)
def _(x, like):
    if like.dtype != types.int8:
        return lambda x, like: (x, np.ones(len(x), np.float32))

    def rounded(x, like):
        B, n_in = x.shape
        a, factor = np.empty(x.shape, np.int16), np.empty(B, np.float32)
        most = min(SHORTEST, SUMS // (127 * n_in))
        for b in range(B):
            row, to, large, odd = x[b], a[b], np.float32(0), np.float32(0)
            for i in range(len(row)):
                large = max(large, abs(row[i]))
                odd += row[i] * np.float32(0)            # NaN, if a number is or is infinite
            r = max(large, np.float32(1e-30)) / np.float32(most)
            for i in range(len(row)):
                to[i] = np.int16(np.rint(row[i] / r))                                    # [DE2]
            factor[b] = r + odd
        return a, factor
    return rounded


@plain
def product(workers, threads, x, addresses, like, n_out, out, what):
    """_outputs() of a matrix of like's dtype, at the addresses of its weight, its scale and its bias."""
    n_in, floats = x.shape[1], x[0, :0]
    rows, factor = numbers(x, like)
    each(workers, _outputs, n_out, pieces(threads, n_in * n_out * len(x)),
         (rows, factor, addresses[0], like, n_in, view(floats, addresses[1], n_out), view(floats, addresses[2], n_out),
          out, what))


@plain
def pieces(threads, work):
    return 1 if work < 20000 else threads if work < 10 ** 6 else 16 * threads


# ------------------------------------------------------------------------------------------------------ all the rest

@jit
def _attend(qkv, k, v, begins, at, y, lo, hi):
    """[KV1] for heads lo..hi, counted through all rows. qkv (R, 3C), padded, of tokens begins[b] to begins[b + 1] for
    row b, at positions at (R,); k, v (B, H, N, D); y (R, C), padded."""
    _, H, N, D = k.shape
    C, s, root = H * D, np.empty(N, np.float32), np.float32(1 / math.sqrt(D))
    for bh in range(lo, hi):
        b, h = bh // H, bh % H
        keys, values = k[b, h], v[b, h]
        for r in range(begins[b], begins[b + 1]):
            own_k, own_v = qkv[r, C + h * D:C + h * D + D], qkv[r, 2 * C + h * D:2 * C + h * D + D]
            last_k, last_v = keys[at[r]], values[at[r]]
            for d in range(D):
                last_k[d], last_v[d] = narrow(own_k[d], last_k), narrow(own_v[d], last_v)
            q, seen = qkv[r, h * D:h * D + D], s[:at[r] + 1]
            most = np.float32(-np.inf)
            for j in range(len(seen)):
                row, t = keys[j], np.float32(0)
                for d in range(len(q)):
                    t += q[d] * number(row[d])
                seen[j] = t * root
                most = max(most, seen[j])
            total = np.float32(0)
            for j in range(len(seen)):
                seen[j] = exp(seen[j] - most)
                total += seen[j]
            out = y[r, h * D:h * D + D]
            out[:] = 0
            for j in range(len(seen)):
                row, p = values[j], seen[j] / total
                for d in range(len(out)):
                    out[d] += p * number(row[d])


@plain
def normalise(x, C, w, b, eps, out):
    """[LN1-4] of the first C entries of every row."""
    for r in range(len(x)):
        row, to = x[r, :C], out[r, :C]
        m = v = np.float32(0)
        for i in range(len(row)):
            m += row[i]
        m /= np.float32(C)
        for i in range(len(row)):
            v += (row[i] - m) * (row[i] - m)
        s = np.float32(1) / math.sqrt(v / np.float32(C) + np.float32(eps))
        for i in range(len(row)):
            to[i] = (row[i] - m) * np.float32(s) * w[i] + b[i]


@jit
def _step(workers, threads, x, C, head, ends, addresses, last, last_b, pre_norm, eps, inner, k, v, begins, at, wanted):
    """Logits (W, V) after the tokens `wanted`. x (R, C), padded, is the sum of the embeddings. head (V, C), padded;
    ends, the addresses of it, its scale and its bias; addresses (L, 16), those of the layers' arrays; last, last_b, of
    ln_f; inner, GELU or RELU. k, v (L, B, H, N, D) get the tokens begins[b] to begins[b + 1] of row b, at positions at.
    """
    R, wide_c = x.shape
    wide_4c = -(-4 * C // STRIDE) * STRIDE
    h, y, f = np.zeros((R, wide_c), np.float32), np.zeros((R, wide_c), np.float32), np.zeros((R, wide_4c), np.float32)
    qkv = np.empty((R, 3 * C), np.float32)
    for layer in range(len(addresses)):
        a = addresses[layer]             # of weight, scale and bias of four matrices, weight and bias of two norms
        ln_1, ln_1b = view(last, a[12], C), view(last, a[13], C)
        ln_2, ln_2b = view(last, a[14], C), view(last, a[15], C)
        if pre_norm:
            normalise(x, C, ln_1, ln_1b, eps, h)
        product(workers, threads, h if pre_norm else x, a[0:3], head, 3 * C, qkv, SET)
        each(workers, _attend, k.shape[1] * k.shape[2], pieces(threads, 2 * R * C * (at.max() + 1)),
             (qkv, k[layer], v[layer], begins, at, y))
        product(workers, threads, y, a[3:6], head, C, x, ADD)
        if pre_norm:
            normalise(x, C, ln_2, ln_2b, eps, h)
        else:
            normalise(x, C, ln_1, ln_1b, eps, x)
        product(workers, threads, h if pre_norm else x, a[6:9], head, 4 * C, f, inner)
        product(workers, threads, f, a[9:12], head, C, x, ADD)
        if not pre_norm:
            normalise(x, C, ln_2, ln_2b, eps, x)
    z, logits = x[wanted], np.empty((len(wanted), len(head)), np.float32)
    if len(wanted):
        if pre_norm:
            normalise(z, C, last, last_b, eps, z)
        product(workers, threads, z, ends, head, len(head), logits, SET)
    return logits
