r"""A matrix product for the CPU, from its innermost loop: float32, and bfloat16 with float32 sums. [GM]

    C = alpha A B + beta C (+ bias),   A (M, K), B (K, N)                                  [GM1]

is 2 M N K operations on M K + K N + M N numbers, so almost every number that an operation needs must be at hand
already. Each level of the loops below keeps something in the memory that is as fast as it is small:

    registers   a tile of 8 x 32 sums: 16 vectors of 16 floats. For each k, 2 vectors of B meet 8 numbers of A,
                16 instructions that do 512 operations with 10 loads                       [GM2]
    first cache the tiles of one panel of B that were just computed, and 8 rows of A
    second      a block of A, as many rows as fit in half of it, and 512 k of a panel of B [GM3]
    third       a group of panels of B, 8 MB at most                                       [GM4]

The tile loop reads A and B in the order in which they were packed, one word after the other. A word is a float32, or
two bfloat16 with neighbouring k, because the instruction for bfloat16 adds two products to each sum:

    panels of A (8 rows)        A[k, i] = word k of row i,    i < 8
    panels of B (32 columns)    B[k, j] = word k of column j, j < 32                       [GM5]

Packing reads a matrix either along k, in squares that are transposed in registers, or across it. Rows and columns that
do not exist are 0, so there is one tile loop for all shapes; what falls outside C is not written.

Every entry of C is a sum over k in blocks of fixed length, whoever computes it: its bits depend neither on the number
of threads nor on where in C it stands.
"""
import functools

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import from_dtype, types
from numba.extending import intrinsic, overload

from minigrad import pool
from minigrad.fork_cpu import each
from minigrad.jit_cpu import INLINE, jit, plain
from minigrad.math_cpu import bits, narrow, wide

ROWS, COLUMNS = 8, 32        # of a tile
DEPTH = 512                  # words of k that a tile takes in one go
LONGEST = 2048               # words of k that are packed at a time, if C is float32
BLOCK, HIGHEST = 1 << 17, 96 # words of a block of A, and its rows, at most
GROUP = 1 << 21              # words of a group of panels of B

FEATURES = get_host_cpu_features()
# By dtype.char: f is float32, E is bfloat16.
HAS = {"f": FEATURES.get("avx512f", False), "E": FEATURES.get("avx512bf16", False)}

# What the compiled functions are told about types: arrays of the packed words, and of the entries in memory.
WORDS = {"f": np.empty(0, np.float32), "E": np.empty(0, np.uint32)}
ENTRIES = {"f": np.empty(0, np.float32), "E": np.empty(0, np.uint16)}
SUMS = np.empty(0, np.float32)


# ------------------------------------------------------------------------------------------- four pieces of LLVM IR

class BFloat(ir.Type):
    """The 16-bit type that llvmlite has no class for."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, BFloat)

    def __hash__(self):
        return hash(BFloat)


INT, LONG, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()


def _vector(kind, n=16):
    return ir.VectorType(kind, n)


def _data(context, builder, kind, array):
    """The address of an array's first entry, as an integer."""
    return builder.ptrtoint(context.make_array(kind)(context, builder, array).data, LONG)


def _load(builder, kind, address, offset=0, align=4):
    if offset:
        address = builder.add(address, LONG(offset))
    loaded = builder.load(builder.inttoptr(address, kind.as_pointer()))
    loaded.align = align
    return loaded


def _store(builder, value, address, offset=0, align=4):
    if offset:
        address = builder.add(address, LONG(offset))
    builder.store(value, builder.inttoptr(address, value.type.as_pointer())).align = align


@intrinsic
def tile_product(typing, a, b, sums, depth, more):
    """sums[8, 32] (+)= the product of a panel of A and one of B, `depth` words long, at these addresses.  [GM2]

    a, b: (array of words, index of the first). sums: (float32 array, index). more: add to the sums?
    """
    def generate(context, builder, signature, args):
        (a_kind, _), (b_kind, _), (s_kind, _) = a, b, sums
        paired = a_kind.dtype == types.uint32
        start = []
        for kind, value in zip((a_kind, b_kind, s_kind), args):
            base = _data(context, builder, kind, builder.extract_value(value, 0))
            start.append(builder.add(base, builder.mul(builder.extract_value(value, 1), LONG(4))))
        vector, number = _vector(INT if paired else FLOAT), INT if paired else FLOAT
        if paired:
            pairs = _vector(BFloat(), 32)
            step = ir.FunctionType(_vector(FLOAT), [_vector(FLOAT), pairs, pairs])
            step = _declare(builder, "llvm.x86.avx512bf16.dpbf16ps.512", step)
        else:
            step = ir.FunctionType(vector, [vector] * 3)
            step = _declare(builder, "llvm.fma.v16f32", step)

        before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("after")
        builder.branch(loop)
        builder.position_at_end(loop)
        k, at_a, at_b = builder.phi(LONG), builder.phi(LONG), builder.phi(LONG)
        tile = [builder.phi(_vector(FLOAT)) for _ in range(ROWS * COLUMNS // 16)]
        columns = [_load(builder, vector, at_b, 64 * j, align=64) for j in range(COLUMNS // 16)]
        fresh = []
        for i in range(ROWS):
            one = builder.insert_element(vector(ir.Undefined), _load(builder, number, at_a, 4 * i), INT(0))
            row = builder.shuffle_vector(one, vector(ir.Undefined), _vector(INT)([INT(0)] * 16))
            for j, column in enumerate(columns):
                s = tile[i * len(columns) + j]
                if paired:
                    s = builder.call(step, [s, builder.bitcast(row, pairs), builder.bitcast(column, pairs)])
                else:
                    s = builder.call(step, [row, column, s])
                fresh.append(s)
        zero = _vector(FLOAT)([FLOAT(0.0)] * 16)
        for now, first, stride in ((k, LONG(0), 1), (at_a, start[0], 4 * ROWS), (at_b, start[1], 4 * COLUMNS)):
            now.add_incoming(first, before)
            now.add_incoming(builder.add(now, LONG(stride)), loop)
        for now, then in zip(tile, fresh):
            now.add_incoming(zero, before)
            now.add_incoming(then, loop)
        builder.cbranch(builder.icmp_signed("<", k.incomings[1][0], args[3]), loop, after)

        builder.position_at_end(after)
        adding = builder.append_basic_block("adding")
        setting, done = builder.append_basic_block("setting"), builder.append_basic_block("done")
        builder.cbranch(args[4], adding, setting)
        for block in (adding, setting):
            builder.position_at_end(block)
            for i, s in enumerate(fresh):
                if block is adding:
                    s = builder.fadd(s, _load(builder, s.type, start[2], 64 * i, align=64))
                _store(builder, s, start[2], 64 * i, align=64)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()
    return types.void(a, b, sums, depth, more), generate


def _declare(builder, name, function):
    return builder.module.globals.get(name) or ir.Function(builder.module, function, name)


@intrinsic
def transpose(typing, address, stride, words, at, width):
    """words[at + k width + i] = word k of row i, for 8 rows that lie `stride` bytes apart, 16 words of each."""
    def generate(context, builder, signature, args):
        address, stride, words_, at, width = args
        rows = [_load(builder, _vector(INT), builder.add(address, builder.mul(stride, LONG(i))), align=1)
                for i in range(8)]

        def mix(a, b, picks):
            return builder.shuffle_vector(a, b, _vector(INT)([INT(p) for p in picks]))

        # Within each quarter of the vectors: entries of two rows side by side, then of four.
        low, high = [q + p for q in (0, 4, 8, 12) for p in (0, 16, 1, 17)], [q + p for q in (0, 4, 8, 12)
                                                                             for p in (2, 18, 3, 19)]
        first, second = [q + p for q in (0, 4, 8, 12) for p in (0, 1, 16, 17)], [q + p for q in (0, 4, 8, 12)
                                                                                 for p in (2, 3, 18, 19)]
        fours = []                                       # fours[g][j]: rows 4g.. at k = j, 4 + j, 8 + j, 12 + j
        for g in (0, 4):
            ab, cd = rows[g:g + 2], rows[g + 2:g + 4]
            fours.append([mix(mix(*ab, by), mix(*cd, by), then) for by in (low, high) for then in (first, second)])
        base = builder.add(_data(context, builder, words, words_), builder.mul(at, LONG(4)))
        for j in range(4):
            for half in (0, 8):
                both = mix(fours[0][j], fours[1][j], [*range(half, half + 4), *range(16 + half, 20 + half),
                                                      *range(half + 4, half + 8), *range(20 + half, 24 + half)])
                for part in (0, 1):
                    k = half + 4 * part + j
                    eight = builder.shuffle_vector(both, both, _vector(INT, 8)([INT(8 * part + p) for p in range(8)]))
                    _store(builder, eight, builder.add(base, builder.mul(width, LONG(4 * k))))
        return context.get_dummy_value()
    return types.void(types.int64, types.int64, words, types.int64, types.int64), generate


def _interleaver(n):
    @intrinsic
    def interleave(typing, even, odd, words, at):
        """words[at + i] = word i of two neighbouring rows of k, n entries wide; of the one at `even` for float32."""
        def generate(context, builder, signature, args):
            to = builder.add(_data(context, builder, words, args[2]), builder.mul(args[3], LONG(4)))
            if words.dtype == types.uint32:
                half, whole = _vector(ir.IntType(16), n), _vector(INT, n)
                lower, upper = (builder.zext(_load(builder, half, a, align=2), whole) for a in args[:2])
                value = builder.or_(lower, builder.shl(upper, whole([INT(16)] * n)))
            else:
                value = _load(builder, _vector(FLOAT, n), args[0])
            _store(builder, value, to)
            return context.get_dummy_value()
        return types.void(types.int64, types.int64, words, types.int64), generate
    return interleave


interleave8, interleave32 = _interleaver(ROWS), _interleaver(COLUMNS)


@intrinsic
def fetch(typing, address):
    """Begin to bring the cache line at an address here, because it will be written soon."""
    def generate(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, INT, INT, INT])
        builder.call(_declare(builder, "llvm.prefetch.p0i8", kind),
                     [builder.inttoptr(args[0], byte), INT(1), INT(3), INT(1)])
        return context.get_dummy_value()
    return types.void(types.int64), generate


@intrinsic
def view(typing, like, address, n):
    """The n entries at an address, as an array of like's dtype."""
    kind = types.Array(like.dtype, 1, "C")

    def generate(context, builder, signature, args):
        from numba.np.arrayobj import populate_array
        made = context.make_array(kind)(context, builder)
        size = context.get_abi_sizeof(context.get_data_type(like.dtype))
        populate_array(made, data=builder.inttoptr(args[1], context.get_data_type(like.dtype).as_pointer()),
                       shape=[args[2]], strides=[LONG(size)], itemsize=LONG(size), meminfo=None)
        return made._getvalue()
    return kind(like, types.int64, types.int64), generate


# ---------------------------------------------------------------------------------------------------------- packing

def per_word(words):
    """How many k a word holds."""


@overload(per_word, jit_options=INLINE)
def _(words):
    n = 2 if words.dtype == types.uint32 else 1
    return lambda words: n


def word_sum(word):
    """The sum of what a word holds, as float32."""


@overload(word_sum, jit_options=INLINE)
def _(word):
    if word == types.float32:
        return lambda word: word
    return lambda word: np.uint32(word << np.uint32(16)).view(np.float32) + np.uint32(
        word & np.uint32(0xffff0000)).view(np.float32)


def one_word(words, entries, address, across, left):
    """The word whose first entry is at the address and whose second, if there is one, lies `across` bytes on."""


@overload(one_word, jit_options=INLINE)
def _(words, entries, address, across, left):
    if words.dtype == types.float32:
        return lambda words, entries, address, across, left: view(entries, address, 1)[0]

    def pair(words, entries, address, across, left):
        word = np.uint32(view(entries, address, 1)[0])
        if left > 1:
            word |= np.uint32(view(entries, address + across, 1)[0]) << np.uint32(16)
        return word
    return pair


@plain
def pack(words, at, width, entries, source, down, across, n, K):
    """One panel [GM5] of `width` rows from words[at], n of them in memory, the rest 0.

    Row i at k lies at source + i down + k across bytes; down or across is the size of an entry.
    """
    per = per_word(words)
    size, whole, count = 4 // per, K // per, (K + per - 1) // per
    if across == size:
        for i in range(0, width, 8):
            k = 0
            if i + 8 <= n:
                while k + 16 <= whole:
                    transpose(source + i * down + 4 * k, down, words, at + k * width + i, width)
                    k += 16
            while k < count:
                for r in range(i, i + 8):
                    here = source + r * down + 4 * k
                    words[at + k * width + r] = one_word(words, entries, here, across, K - k * per) if r < n else 0
                k += 1
        return
    for k in range(count):
        here = source + k * per * across
        if n == width and k < whole:
            if width == ROWS:
                interleave8(here, here + across, words, at + k * width)
            else:
                interleave32(here, here + across, words, at + k * width)
        else:
            for r in range(width):
                words[at + k * width + r] = (
                    one_word(words, entries, here + r * size, across, K - k * per) if r < n else 0)


@plain
def aligned(n, like):
    """(array, index): room for n entries of 4 bytes, of which the one with this index begins a cache line."""
    room = np.empty(n + 16, like.dtype)
    return room, (-room.ctypes.data & 63) >> 2


# ----------------------------------------------------------------------------------------------------- multiplication

@plain
def multiply(a, at_a, b, at_b, sums, at_s, panels, depth):
    """Tiles of `panels` panels of A (one behind the other) with one panel of B, all `depth` words long."""
    for k in range(0, depth, DEPTH):
        part = min(DEPTH, depth - k)
        for q in range(panels):
            tile_product((a, at_a + (q * depth + k) * ROWS), (b, at_b + k * COLUMNS),
                         (sums, at_s + q * ROWS * COLUMNS), part, k > 0)


@plain
def finish(sums, at, out, address, stride, bias, rows, width, alpha, beta):
    """[GM1] for tiles one below the other: rows x width of them count. address: of the first entry of C."""
    for r in range(rows):
        row = view(out, address + r * stride, width)
        tile = sums[at + r * COLUMNS:at + r * COLUMNS + width]
        if beta != 0:
            for j in range(width):
                row[j] = narrow(alpha * tile[j] + beta * wide(row[j]), row)
        elif len(bias):
            for j in range(width):
                row[j] = narrow(alpha * tile[j] + wide(bias[j]), row)
        else:
            for j in range(width):
                row[j] = narrow(alpha * tile[j], row)


@jit
def _pack_columns(b, at, entries, source, down, across, N, K, depth, totals, lo, hi):
    """Panels lo..hi of B; column j at k lies at source + k down + j across bytes. totals: see product()."""
    for p in range(lo, hi):
        n = min(COLUMNS, N - p * COLUMNS)
        here = at + p * COLUMNS * depth
        pack(b, here, COLUMNS, entries, source + p * COLUMNS * across, across, down, n, K)
        if len(totals):
            s = np.zeros(COLUMNS, np.float32)
            for k in range(here, here + depth * COLUMNS, COLUMNS):
                words = b[k:k + COLUMNS]
                for j in range(COLUMNS):
                    s[j] += word_sum(words[j])
            for j in range(n):
                totals[p * COLUMNS + j] += s[j]


@jit
def _rows(b, at_b, entries, source, down, across, out, to, stride, bias, M, N, K, depth, height, alpha, beta, lo, hi):
    """Blocks lo..hi of `height` rows of A, which begins at source, with all packed columns of B, into C at `to`."""
    a, at_a = aligned(height * depth, b)
    sums, at_s = aligned(height * COLUMNS, SUMS)
    size = out.itemsize
    for block in range(lo, hi):
        first, last = block * height, min(M, (block + 1) * height)
        panels = (last - first + ROWS - 1) // ROWS
        for q in range(panels):
            m = first + q * ROWS
            pack(a, at_a + q * ROWS * depth, ROWS, entries, source + m * down, down, across, min(ROWS, last - m), K)
        for n in range(0, N, COLUMNS):
            for m in range(first, last):
                for line in range(0, COLUMNS * size, 64):
                    fetch(to + m * stride + n * size + line)
            multiply(a, at_a, b, at_b + n * depth, sums, at_s, panels, depth)
            width = min(COLUMNS, N - n)
            finish(sums, at_s, out, to + first * stride + n * size, stride, bias[n:n + width], last - first, width,
                   alpha, beta)


@plain
def fair(M, threads, most):
    """The height of blocks, at most `most`, for which the thread that is last to finish has the fewest rows."""
    best, fewest = most, M + most
    for height in range(most, max(ROWS, min(most // 2, (M + threads - 1) // threads)) - 1, -ROWS):
        before = (M - 1) // height                       # blocks before the last one, which may be lower
        rows = before // threads * height + (M - before * height if before % threads == 0 else height)
        if rows < fewest:
            best, fewest = height, rows
    return best


def product(pool, threads, words, a, b, out, bias, totals, alpha, beta):
    """[GM1] for a (M, K), b (K, N) and out (M, N), of which out has contiguous rows, and a and b rows or columns.

    words: an array of the packed words. bias: (N,), or empty. totals: (N,), to which the sums of b's columns are added,
    or empty.
    """
    (M, K), N, stride = a.shape, b.shape[1], out.strides[0]
    (a_down, a_across), (b_down, b_across) = a.strides, b.strides
    source, right, to = a.ctypes.data, b.ctypes.data, out.ctypes.data
    entries, results, per = view(a, 0, 0), view(out, 0, 0), per_word(words)
    longest = LONGEST * per if out.itemsize == 4 else K        # sums of several packings meet in float32 only
    for k in range(0, K, longest):
        part = min(longest, K - k)
        depth = (part + per - 1) // per
        group = max(1, GROUP // depth // COLUMNS) * COLUMNS                              # [GM4]
        height = fair(M, threads, max(ROWS, min(HIGHEST, BLOCK // depth // ROWS * ROWS)))                # [GM3]
        blocks = (M + height - 1) // height
        packed, at = aligned((min(group, N) + COLUMNS - 1) // COLUMNS * COLUMNS * depth, words)
        for n in range(0, N, group):
            width = min(group, N - n)
            each(pool, _pack_columns, (width + COLUMNS - 1) // COLUMNS, 4 * threads if threads > 1 else 1, (
                packed, at, entries, right + k * b_down + n * b_across, b_down, b_across, width, part, depth,
                totals[n:n + width]))
            each(pool, _rows, blocks, blocks if threads > 1 else 1, (
                packed, at, entries, source + k * a_across, a_down, a_across, results, to + n * out.itemsize, stride,
                bias[n:n + width] if k == 0 else bias[:0], M, width, part, depth, height, alpha,
                beta if k == 0 else np.float32(1)))


@functools.cache
def _product_of(kind, result, bias):
    """product() compiled for these dtypes, by dtype.char: once for any strides, not for every kind of them."""
    def array(dtype, ndim, layout, readonly=False):
        return types.Array(from_dtype(np.dtype(dtype)), ndim, layout, readonly=readonly)

    matrix, number = array(ENTRIES[kind].dtype, 2, "A", readonly=True), types.float32
    compiled = jit(product)
    compiled.compile((types.int64, types.int64, array(WORDS[kind].dtype, 1, "C"), matrix, matrix,
                      array(ENTRIES[result].dtype, 2, "A"), array(bias, 1, "C", readonly=True),
                      array(SUMS.dtype, 1, "C"), number, number))
    compiled.disable_compile()
    return compiled


def gemm(a, b, out, alpha=1.0, beta=0.0, bias=None, totals=None):
    """[GM1] for a (M, K) and b (K, N), both float32 or both bfloat16, into out (M, N) with contiguous rows.

    out: float32, or bfloat16 for bfloat16. bias (N,): float32 or a 16-bit float, for beta 0. totals (N,): float32, to
    which the sums of b's columns are added on the way.
    """
    kind = a.dtype.char
    bias = ENTRIES[kind] if bias is None else np.ascontiguousarray(bits(bias))
    _product_of(kind, out.dtype.char, bias.dtype.char)(
        pool.address(), pool.threads(2 * out.size * a.shape[1]), WORDS[kind], _readable(a), _readable(b), bits(out),
        bias, SUMS if totals is None else totals, alpha, beta)


def _readable(a):
    """a as product() takes it: copied if neither axis is contiguous or entries are not aligned."""
    return bits(a if a.itemsize in a.strides and a.flags.aligned else np.array(a, order="C"))


def batch(a, b, out):
    """out[i] = a[i] b[i] for stacks of matrices (n, M, K), (n, K, N), (n, M, N), one thread to each."""
    (n, M, K), N, kind = a.shape, b.shape[2], a.dtype.char
    a, b = (x if x.itemsize in x.strides[1:] else np.ascontiguousarray(x) for x in (a, b))
    pool.each(_batch, n, 2 * n * M * N * K, WORDS[kind], ENTRIES[kind], a.ctypes.data, *a.strides, b.ctypes.data,
              *b.strides, ENTRIES[out.dtype.char], out.ctypes.data, out.strides[0], out.strides[1], SUMS, M, N, K)


@jit
def _batch(words, entries, a, a_next, a_down, a_across, b, b_next, b_down, b_across, out, to, to_next, stride, bias,
           M, N, K, lo, hi):
    per = per_word(words)
    depth, panels = (K + per - 1) // per, (N + COLUMNS - 1) // COLUMNS
    height = min(HIGHEST, max(ROWS, BLOCK // depth // ROWS * ROWS))
    packed, at = aligned(panels * COLUMNS * depth, words)
    for i in range(lo, hi):
        _pack_columns(packed, at, entries, b + i * b_next, b_down, b_across, N, K, depth, bias[:0], 0, panels)
        _rows(packed, at, entries, a + i * a_next, a_down, a_across, out, to + i * to_next, stride, bias, M, N, K,
              depth, height, np.float32(1), np.float32(0), 0, (M + height - 1) // height)
