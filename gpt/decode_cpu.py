"""A step of gpt.decode in one compiled call: one new token of every row through all layers.

Each weight meets one number per row and is not needed again, so a step takes as long as the memory takes to deliver the
weights, and all else has to hide behind that:

    matrices    lie as (out, in), so that an output is a sum along memory, read from front to back by each thread; the
                sums stay in registers. What comes after a product (scale, bias, activation, the sum with the
                residual path) is done by who has the result at hand
    int8        q = round(w / s) with s = max |w| / 127 of each output: sum_i x_i w_ij = s_j sum_i x_i q_ij      [DE1]
    all layers  in one function, whose threads wait for the next job without falling asleep
    attention   one head of one row at a time: [KV1] of cache.py

Rows of matrices are padded with zeros to a multiple of 32 entries. Every output is one sum in one order: its bits do
not depend on the number of threads, nor on the other rows.
"""
import functools
import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minigrad import pool
from minigrad.backend import wide
from minigrad.fork_cpu import each
from minigrad.fused.gelu_cpu import gate
from minigrad.gemm_cpu import FLOAT, INT, LONG, SHORT, _call, _every, _load, _vector, view
from minigrad.jit_cpu import inline, jit, plain
from minigrad.math_cpu import bits, exp, narrow
from minigrad.math_cpu import wide as number

STRIDE = 32                     # entries of a row that the innermost loop takes at a time
LINE = 64                       # bytes of a cache line
SET, ADD, GELU, RELU = range(4) # what is done with a product
INNER = {"gelu": GELU, "relu": RELU}
MATRICES = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
NORMS = ("ln_1", "ln_2")


class Step:
    """The weights of a model as a step wants them, and the step."""

    def __init__(self, model, int8=False):
        c = self.config = model.config
        parameters = dict(model.named_parameters())
        pack = functools.partial(packed, int8=int8)
        self.wte, self.wpe = parameters["wte.weight"].data, parameters["wpe.weight"].data
        layers = []
        for i in range(c.n_layer):
            of = {name.removeprefix(f"h.{i}."): p.data for name, p in parameters.items() if name.startswith(f"h.{i}.")}
            layers.append([a for name in MATRICES for a in (*pack(of[name + ".weight"].T), vector(of[name + ".bias"]))])
            layers[-1] += [vector(of[f"{name}.{part}"]) for name in NORMS for part in ("weight", "bias")]
        head = [*pack(self.wte), vector(np.zeros(c.vocab_size))]                         # (V, C) is (out, in)
        last = [vector(parameters[f"ln_f.{part}"].data if c.pre_norm else np.zeros(1)) for part in ("weight", "bias")]
        self.block, (*self.layers, self.head, self.last) = together([*layers, head, last])
        self.addresses = np.array([addresses(arrays) for arrays in self.layers])

    def __call__(self, tokens, cache):                                                   # (B,) -> (B, V)
        c, at = self.config, cache.positions(1)[:, 0]
        x = np.zeros((len(tokens), up(c.n_embd)), np.float32)
        x[:, :c.n_embd] = wide(self.wte[tokens]) + wide(self.wpe[at])
        logits = np.empty((len(tokens), c.vocab_size), np.float32)
        _step(pool.address(), pool.size(), x, c.n_embd, self.head[0], addresses(self.head), self.addresses, *self.last,
              c.pre_norm, c.eps, INNER[c.activation], bits(cache.k), bits(cache.v), at, logits)
        cache.lengths = cache.lengths + 1
        return logits


def packed(w, int8):
    """(matrix, scale): w (out, in), padded, as floats, as bfloat16's bits, or as int8 with scales by [DE1]."""
    n_out, n_in = w.shape
    scale = np.ones(n_out, np.float32)
    if int8:
        scale = wide(np.abs(w).max(1)) / np.float32(127)
        scale[scale == 0] = 1
        w = np.rint(wide(w) / scale[:, None]).astype(np.int8)                            # [DE1]
    w = bits(w)
    if n_in % STRIDE == 0:
        return np.ascontiguousarray(w), scale
    matrix = np.zeros((n_out, up(n_in)), w.dtype)
    matrix[:, :n_in] = w
    return matrix, scale


def together(lists):
    """(block, lists): the same arrays, one behind the other in one block, for which the system has large pages."""
    block = np.empty(sum(a.nbytes + LINE for arrays in lists for a in arrays), np.uint8)
    at, moved = -block.ctypes.data % LINE, []
    for arrays in lists:
        moved.append([])
        for a in arrays:
            there = block[at:at + a.nbytes].view(a.dtype).reshape(a.shape)
            there[...] = a
            moved[-1].append(there)
            at += -(-a.nbytes // LINE) * LINE
    return block, moved


def vector(x):
    return np.ascontiguousarray(wide(x), np.float32)


def addresses(arrays):
    return np.array([a.ctypes.data for a in arrays])


def up(n):
    return -(-n // STRIDE) * STRIDE


# ----------------------------------------------------------------------------------------------------- the inner loop

def _sixteen(builder, kind, address, offset):
    """16 entries as floats, from that many entries behind an address."""
    if kind == types.float32:
        return _load(builder, _vector(FLOAT), address, 4 * offset)
    if kind == types.uint16:
        entries = builder.zext(_load(builder, _vector(SHORT), address, 2 * offset, align=2), _vector(INT))
        return builder.bitcast(builder.shl(entries, _every(INT(16))), _vector(FLOAT))
    entries = builder.sext(_load(builder, _vector(ir.IntType(8)), address, offset, align=1), _vector(INT))
    return builder.sitofp(entries, _vector(FLOAT))


def _dots(outputs, rows):
    @intrinsic
    def dots(typing, like, x, stride, w, n):
        """The sums of x_i w_i for so many x, `stride` bytes apart from the address x on, n floats each, and for so many
        w, one behind the other from the address w on, n entries of like's dtype each; n is a multiple of STRIDE. First
        those of all x with the first w. How many there are does not change a bit of any."""
        def generate(context, builder, signature, args):
            _, at_x, stride, at_w, n = args
            size, across = like.dtype.bitwidth // 8, range(STRIDE // 16)
            before, loop, after = builder.block, builder.append_basic_block("dots"), builder.append_basic_block("after")
            builder.branch(loop)
            builder.position_at_end(loop)
            i, sums = builder.phi(LONG), [builder.phi(_vector(FLOAT)) for _ in range(outputs * rows * len(across))]
            fresh, behind = iter(sums), builder.mul(n, LONG(size))
            x_, w_ = (builder.add(at, builder.mul(i, LONG(bytes_))) for at, bytes_ in ((at_x, 4), (at_w, size)))
            numbers = [[_load(builder, _vector(FLOAT), builder.add(x_, builder.mul(stride, LONG(r))), 64 * j)
                        for j in across] for r in range(rows)]
            totals = []
            for o in range(outputs):
                row = builder.add(w_, builder.mul(behind, LONG(o)))
                weights = [_sixteen(builder, like.dtype, row, 16 * j) for j in across]
                totals += [_call(builder, "llvm.fma.v16f32", weight.type, number, weight, next(fresh))
                           for r in range(rows) for number, weight in zip(numbers[r], weights)]
            further = builder.add(i, LONG(STRIDE))
            i.add_incoming(LONG(0), before)
            i.add_incoming(further, loop)
            for s, t in zip(sums, totals):
                s.add_incoming(_every(FLOAT(0.0)), before)
                s.add_incoming(t, loop)
            builder.cbranch(builder.icmp_signed("<", further, n), loop, after)
            builder.position_at_end(after)
            totals = [functools.reduce(builder.fadd, totals[k:k + len(across)])
                      for k in range(0, len(totals), len(across))]
            for half in (8, 4, 2, 1):
                turned = _vector(INT)([INT((lane + half) % 16) for lane in range(16)])
                totals = [builder.fadd(t, builder.shuffle_vector(t, t, turned)) for t in totals]
            return context.make_tuple(builder, signature.return_type,
                                      [builder.extract_element(t, INT(0)) for t in totals])
        return types.UniTuple(types.float32, outputs * rows)(like, *[types.int64] * 4), generate
    return dots


dot, eight_dots = _dots(1, 1), _dots(2, 4)


@jit
def _outputs(x, w, like, n_in, scale, bias, out, what, lo, hi):
    """Outputs lo..hi of every row: scale (x w) + bias, or out plus it, or GELU or ReLU of it. x (B, n_in) is padded,
    and so is w (n_out, n_in), an address."""
    size, stride, at, B = like.itemsize * n_in, x.strides[0], x.ctypes.data, len(x)
    fours, pairs = B // 4 * 4, (hi - lo) // 2 * 2 if B > 3 else 0
    for j in range(lo, lo + pairs, 2):                   # a number that is loaded and widened is used eight times
        for b in range(0, fours, 4):
            for k, y in enumerate(eight_dots(like, at + b * stride, stride, w + j * size, n_in)):
                put(out, b + k % 4, j + k // 4, y, scale, bias, what)
    for j in range(lo, hi):
        for b in range(fours if j < lo + pairs else 0, B):
            put(out, b, j, dot(like, at + b * stride, stride, w + j * size, n_in)[0], scale, bias, what)
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
def put(out, b, j, y, scale, bias, what):
    y = y * scale[j] + bias[j]
    out[b, j] = out[b, j] + y if what == ADD else y


@plain
def product(workers, threads, x, addresses, like, n_out, out, what):
    """_outputs() of a matrix of like's dtype, at the addresses of its weight, its scale and its bias."""
    n_in, floats = x.shape[1], x[0, :0]
    each(workers, _outputs, n_out, pieces(threads, n_in * n_out * len(x)),
         (x, addresses[0], like, n_in, view(floats, addresses[1], n_out), view(floats, addresses[2], n_out), out, what))


@plain
def pieces(threads, work):
    return 1 if work < 20000 else threads if work < 10 ** 6 else 16 * threads


# ------------------------------------------------------------------------------------------------------ all the rest

@jit
def _attend(qkv, k, v, at, y, lo, hi):
    """[KV1] for heads lo..hi, counted through all rows. qkv (B, 3C), padded; k, v (B, H, N, D); y (B, C), padded."""
    _, H, N, D = k.shape
    C, s = H * D, np.empty(N, np.float32)
    for bh in range(lo, hi):
        b, h = bh // H, bh % H
        q, keys, values = qkv[b, h * D:h * D + D], k[b, h], v[b, h]
        own_k, own_v = qkv[b, C + h * D:C + h * D + D], qkv[b, 2 * C + h * D:2 * C + h * D + D]
        last_k, last_v, seen = keys[at[b]], values[at[b]], s[:at[b] + 1]
        for d in range(D):
            last_k[d], last_v[d] = narrow(own_k[d], last_k), narrow(own_v[d], last_v)
        most, root = np.float32(-np.inf), np.float32(1 / math.sqrt(D))
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
        out = y[b, h * D:h * D + D]
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
def _step(workers, threads, x, C, head, ends, addresses, last, last_b, pre_norm, eps, inner, k, v, at, logits):
    """x (B, C), padded, is the sum of the embeddings. head (V, C), padded; ends, the addresses of it, its scale and its
    bias; addresses (L, 16), those of the layers' arrays; last, last_b, of ln_f; inner, GELU or RELU. k, v (L, B, H, N,
    D) get a position, number at (B,); logits (B, V), written."""
    B, wide_c = x.shape
    wide_4c = -(-4 * C // STRIDE) * STRIDE
    h, y, f = np.zeros((B, wide_c), np.float32), np.zeros((B, wide_c), np.float32), np.zeros((B, wide_4c), np.float32)
    qkv = np.empty((B, 3 * C), np.float32)
    for layer in range(len(addresses)):
        a = addresses[layer]             # of weight, scale and bias of four matrices, weight and bias of two norms
        ln_1, ln_1b = view(last, a[12], C), view(last, a[13], C)
        ln_2, ln_2b = view(last, a[14], C), view(last, a[15], C)
        if pre_norm:
            normalise(x, C, ln_1, ln_1b, eps, h)
        product(workers, threads, h if pre_norm else x, a[0:3], head, 3 * C, qkv, SET)
        each(workers, _attend, B * k.shape[2], pieces(threads, 2 * B * C * (at.max() + 1)),
             (qkv, k[layer], v[layer], at, y))
        product(workers, threads, y, a[3:6], head, C, x, ADD)
        if pre_norm:
            normalise(x, C, ln_2, ln_2b, eps, h)
        else:
            normalise(x, C, ln_1, ln_1b, eps, x)
        product(workers, threads, h if pre_norm else x, a[6:9], head, 4 * C, f, inner)
        product(workers, threads, f, a[9:12], head, C, x, ADD)
        if not pre_norm:
            normalise(x, C, ln_2, ln_2b, eps, x)
    if pre_norm:
        normalise(x, C, last, last_b, eps, x)
    product(workers, threads, x, ends, head, len(head), logits, SET)
