r"""A matrix product for the CPU, from its innermost loop: float32, and bfloat16 with float32 sums. [GM]

    C = alpha A B + beta C (+ bias),   A (M, K), B (K, N)                                  [GM1]

is 2 M N K operations on M K + K N + M N numbers, so almost every number that an operation needs must be at hand
already. Each level of the loops below keeps something in the memory that is as fast as it is small:

    registers   a tile of 8 x 32 sums: 16 vectors of 16 floats. For each k, 2 vectors of B meet 8 numbers of A,
                16 instructions that do 512 operations with 10 loads. Without AVX-512 a part of it after the other,
                4 x 16 sums: 8 vectors of 8 floats, 8 instructions, 6 loads                [GM2]
    first cache what comes next of both: they are read in order, which the processor foresees
    second      a block of A, as many rows as fit in half of it, and 512 k of a panel of B [GM3]
    third       a group of panels of B, 8 MB at most                                       [GM4]

The tile loop reads A and B in the order in which they were packed, one word after the other. A word is a float32, or
two bfloat16 with neighbouring k, because the instruction for bfloat16 adds two products to each sum. A processor that
has no such instruction is given bfloat16 as float32 words:

    panels of A (8 rows)        A[k, i] = word k of row i,    i < 8
    panels of B (32 columns)    B[k, j] = word k of column j, j < 32                       [GM5]

Packing reads a matrix either along k, in squares that are transposed in registers, or across it. Rows and columns that
do not exist are 0, so there is one tile loop for all shapes; what falls outside C is not written.

A finished tile goes from the registers to C, scaled, with its bias, and rounded: a store that waits for a line of C
does so while the next tile is computed.

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
from minigrad.math_cpu import bits, wide

FEATURES = get_host_cpu_features()
# By dtype.char, f for float32 and E for bfloat16: are there instructions that multiply and add it?
HAS = {"f": FEATURES.get("avx512f", False) or FEATURES.get("avx2", False) and FEATURES.get("fma", False),
       "E": FEATURES.get("avx512bf16", False)}
LANES = 16 if FEATURES.get("avx512f") else 8             # floats of a register

ROWS, COLUMNS = 8, 32        # of a tile
PART = (ROWS, COLUMNS) if LANES == 16 else (4, 16)       # of a tile: the sums that there are registers for
DEPTH = 512                  # words of k that a tile takes in one go
LONGEST = 2048               # words of k that are packed at a time, if C is float32
BLOCK, HIGHEST = 1 << 17, 96 # words of a block of A, and its rows, at most
GROUP = 1 << 21              # words of a group of panels of B

# What the compiled functions are told about types: arrays of the packed words, for what there is a tile loop for, and
# of the entries in memory.
WORDS = {"f": np.empty(0, np.float32), "E": np.empty(0, np.uint32 if HAS["E"] else np.float32)} if HAS["f"] else {}
ENTRIES = {"f": np.empty(0, np.float32), "E": np.empty(0, np.uint16)}
SUMS = np.empty(0, np.float32)


# ------------------------------------------------------------------------------------------- five pieces of LLVM IR

class BFloat(ir.Type):
    """The 16-bit type that llvmlite has no class for."""

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, BFloat)

    def __hash__(self):
        return hash(BFloat)


SHORT, INT, LONG, FLOAT = ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


def _vector(kind, n=LANES):
    return ir.VectorType(kind, n)


def _every(number, n=LANES):
    return _vector(number.type, n)([number] * n)


def _spread(builder, number):
    """A vector of a number that is known at run time only."""
    kind = _vector(number.type)
    one = builder.insert_element(kind(ir.Undefined), number, INT(0))
    return builder.shuffle_vector(one, kind(ir.Undefined), _every(INT(0)))


def _data(context, builder, kind, array):
    """The address of an array's first entry, as an integer."""
    return builder.ptrtoint(context.make_array(kind)(context, builder, array).data, LONG)


def _place(context, builder, kind, pair):
    """The address of what (array, index) stands for; entries have 4 bytes."""
    first = _data(context, builder, kind[0], builder.extract_value(pair, 0))
    return builder.add(first, builder.mul(builder.extract_value(pair, 1), LONG(4)))


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


def _call(builder, name, result, *args):
    """Call one of LLVM's own functions."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(builder.module.globals.get(name) or ir.Function(builder.module, kind, name), args)


VECTORS = [(i, j) for i in range(PART[0]) for j in range(0, PART[1], LANES)]       # of a part: row and first column


def _parts(builder):
    """(first row, first column) of the parts of a tile: what is built meanwhile runs for each of them."""
    down, parts = ROWS // PART[0], ROWS // PART[0] * (COLUMNS // PART[1])
    if parts == 1:
        yield LONG(0), LONG(0)
        return
    before, loop, after = builder.block, builder.append_basic_block("part"), builder.append_basic_block("whole")
    builder.branch(loop)
    builder.position_at_end(loop)
    n = builder.phi(LONG)
    yield (builder.mul(builder.urem(n, LONG(down)), LONG(PART[0])),
           builder.mul(builder.udiv(n, LONG(down)), LONG(PART[1])))
    further = builder.add(n, LONG(1))
    n.add_incoming(LONG(0), before)
    n.add_incoming(further, builder.block)
    builder.cbranch(builder.icmp_signed("<", further, LONG(parts)), loop, after)
    builder.position_at_end(after)


def _moved(builder, address, n, size=4):
    """The address n entries on."""
    return builder.add(address, builder.mul(n, LONG(size)))


def _loop(builder, paired, a, b, depth):
    """The sums of a part of the product of a panel of A and one of B, `depth` words long, at these addresses.  [GM2]"""
    number = INT if paired else FLOAT
    vector, pairs = _vector(number), _vector(BFloat(), 32)
    before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    k, at_a, at_b = builder.phi(LONG), builder.phi(LONG), builder.phi(LONG)
    sums = [builder.phi(_vector(FLOAT)) for _ in VECTORS]
    columns = [_load(builder, vector, at_b, 4 * j, align=4 * LANES) for j in range(0, PART[1], LANES)]
    fresh = []
    for i in range(PART[0]):
        row = _spread(builder, _load(builder, number, at_a, 4 * i))
        for column in columns:
            s = sums[len(fresh)]
            if paired:
                s = _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", s.type, s, builder.bitcast(row, pairs),
                          builder.bitcast(column, pairs))
            else:
                s = _call(builder, f"llvm.fma.v{LANES}f32", s.type, row, column, s)
            fresh.append(s)
    for now, first, stride in ((k, LONG(0), 1), (at_a, a, 4 * ROWS), (at_b, b, 4 * COLUMNS)):
        now.add_incoming(first, before)
        now.add_incoming(builder.add(now, LONG(stride)), loop)
    for now, then in zip(sums, fresh):
        now.add_incoming(_every(FLOAT(0.0)), before)
        now.add_incoming(then, loop)
    builder.cbranch(builder.icmp_signed("<", k.incomings[1][0], depth), loop, after)
    builder.position_at_end(after)
    return fresh


def _place_of(i, j):
    """Bytes from the first sum of a part to its vector in row i that begins with column j."""
    return 4 * (i * COLUMNS + j)


def _plus_sums(builder, fresh, address, more):
    """The same vectors; plus those of the part of a tile of sums at the address, if there are more."""
    here, adding, joined = (builder.block, *map(builder.append_basic_block, ("adding", "joined")))
    builder.cbranch(more, adding, joined)
    builder.position_at_end(adding)
    added = [builder.fadd(s, _load(builder, s.type, address, _place_of(*at), align=4 * LANES))
             for s, at in zip(fresh, VECTORS)]
    builder.branch(joined)
    builder.position_at_end(joined)
    either = [builder.phi(s.type) for s in fresh]
    for phi, s, total in zip(either, fresh, added):
        phi.add_incoming(s, here)
        phi.add_incoming(total, adding)
    return either


@intrinsic
def tile_product(typing, a, b, sums, depth, more):
    """sums[8, 32] (+)= the product of a panel of A and one of B, `depth` words long, at these addresses.

    a, b: (array of words, index of the first). sums: (float32 array, index). more: add to the sums?
    """
    def generate(context, builder, signature, args):
        a_, b_, sums_ = (_place(context, builder, *both) for both in zip((a, b, sums), args))
        for row, column in _parts(builder):
            fresh = _loop(builder, a[0].dtype == types.uint32, _moved(builder, a_, row), _moved(builder, b_, column),
                          args[3])
            at = _moved(builder, _moved(builder, sums_, row, 4 * COLUMNS), column)
            for s, place in zip(_plus_sums(builder, fresh, at, args[4]), VECTORS):
                _store(builder, s, at, _place_of(*place), align=4 * LANES)
        return context.get_dummy_value()
    return types.void(a, b, sums, depth, more), generate


@intrinsic
def tile_result(typing, a, b, sums, depth, more, out, address, stride, rows, width, bias, alpha, beta):
    """[GM1] for a tile, of which this is the last part. rows x width of it count; its place in C is at the address.

    What tile_product() would store stays in registers, and the stores to C wait in their queue while the next tile
    is computed. a, b, sums, depth, more: as there. bias: (float32 array, index), 32 entries of it.
    """
    def generate(context, builder, signature, args):
        a_, b_, sums_ = (_place(context, builder, *both) for both in zip((a, b, sums), args))
        depth, more, _, address, stride, rows, width, bias_, alpha, beta = args[3:]
        size, across = out.dtype.bitwidth // 8, range(0, PART[1], LANES)
        for i in range(ROWS):
            line = builder.add(address, builder.mul(stride, LONG(i)))
            for byte in range(0, COLUMNS * size, 64):
                _fetch(builder, builder.add(line, LONG(byte)))
        bias_ = _place(context, builder, bias, bias_)
        for row, column in _parts(builder):
            fresh = _loop(builder, a[0].dtype == types.uint32, _moved(builder, a_, row), _moved(builder, b_, column),
                          depth)
            tile = _plus_sums(builder, fresh, _moved(builder, _moved(builder, sums_, row, 4 * COLUMNS), column), more)
            biases = [_load(builder, _vector(FLOAT), _moved(builder, bias_, column), 4 * j) for j in across]
            first = _moved(builder, builder.add(address, builder.mul(stride, row)), column, size)
            alphas, betas, lanes = (_spread(builder, n) for n in (alpha, beta, builder.sub(width, column)))
            masks = [builder.icmp_signed("<", _vector(LONG)([LONG(j + i) for i in range(LANES)]), lanes)
                     for j in across]
            # A store by mask costs AVX-512 nothing and AVX2 as much as a row of sums.
            wholes = [False] if LANES == 16 else _cases(builder, builder.icmp_signed("==", width, LONG(COLUMNS)))
            for whole in wholes:
                for adding in _cases(builder, builder.fcmp_unordered("!=", beta, FLOAT(0.0))):
                    for i in range(PART[0]):
                        with builder.if_then(builder.icmp_signed("<", builder.add(row, LONG(i)), rows)):
                            line = builder.add(first, builder.mul(stride, LONG(i)))
                            for j, s, extra, mask in zip(across, tile[i * len(across):], biases, masks):
                                at, mask = builder.add(line, LONG(size * j)), None if whole else mask
                                s = builder.fadd(builder.fmul(alphas, s), extra)
                                if adding:
                                    s = builder.fadd(s, builder.fmul(betas, _entries(builder, at, size, mask)))
                                _set_entries(builder, s, at, size, mask)
        return context.get_dummy_value()
    return types.void(a, b, sums, depth, more, out, address, stride, rows, width, bias, alpha, beta), generate


def _cases(builder, condition):
    """True, and then False: what is built meanwhile runs if the condition holds, and if it does not."""
    with builder.if_else(condition) as branches:
        for branch, case in zip(branches, (True, False)):
            with branch:
                yield case


def _entries(builder, address, size, mask):
    """Entries of C as floats: those that the mask names, or all of them."""
    kind, name = (_vector(FLOAT), f"v{LANES}f32") if size == 4 else (_vector(SHORT), f"v{LANES}i16")
    if mask is None:
        found = _load(builder, kind, address, align=size)
    else:
        there = builder.inttoptr(address, kind.as_pointer())
        found = _call(builder, f"llvm.masked.load.{name}.p0{name}", kind, there, INT(size), mask, kind(None))
    return found if size == 4 else _widened(builder, found)


def _set_entries(builder, values, address, size, mask):
    """Store floats as entries of C: those that the mask names, or all of them."""
    kind, name = (_vector(FLOAT), f"v{LANES}f32") if size == 4 else (_vector(SHORT), f"v{LANES}i16")
    if size == 2:
        values = _narrowed(builder, values)
    if mask is None:
        _store(builder, values, address, align=size)
    else:
        there = builder.inttoptr(address, kind.as_pointer())
        _call(builder, f"llvm.masked.store.{name}.p0{name}", ir.VoidType(), values, there, INT(size), mask)


def _widened(builder, shorts):
    """bfloat16's bits as floats."""
    n = shorts.type.count
    return builder.bitcast(builder.shl(builder.zext(shorts, _vector(INT, n)), _every(INT(16), n)), _vector(FLOAT, n))


def _narrowed(builder, floats):
    """Floats as bfloat16's bits: to nearest, ties to even."""
    if HAS["E"]:
        return builder.bitcast(_call(builder, "llvm.x86.avx512bf16.cvtneps2bf16.512", _vector(BFloat()), floats),
                               _vector(SHORT))
    u = builder.bitcast(floats, _vector(INT))
    odd = builder.and_(builder.lshr(u, _every(INT(16))), _every(INT(1)))
    rounded = builder.lshr(builder.add(builder.add(u, _every(INT(0x7fff))), odd), _every(INT(16)))
    number = builder.fcmp_ordered("==", floats, floats)
    return builder.trunc(builder.select(number, rounded, _every(INT(0x7fc0))), _vector(SHORT))


def _fetch(builder, address):
    """Begin to bring the cache line at an address here, because it will be written soon."""
    byte = builder.inttoptr(address, ir.IntType(8).as_pointer())
    _call(builder, "llvm.prefetch.p0i8", ir.VoidType(), byte, INT(1), INT(3), INT(1))


@intrinsic
def transpose(typing, entries, address, stride, words, at, width):
    """words[at + k width + i] = word k of row i, for 8 rows that lie `stride` bytes apart, LANES words of each."""
    widen = words.dtype == types.float32 and entries.dtype == types.uint16

    def generate(context, builder, signature, args):
        _, address, stride, words_, at, width = args

        def mix(a, b, *picks):
            return builder.shuffle_vector(a, b, _vector(INT, len(picks))([INT(p) for p in picks]))

        rows = [_load(builder, _vector(SHORT if widen else INT), builder.add(address, builder.mul(stride, LONG(i))),
                      align=1) for i in range(8)]
        if widen:
            rows = [builder.bitcast(_widened(builder, row), _vector(INT)) for row in rows]
        # Within each quarter of the vectors (half of AVX2's): entries of two rows side by side, then of four.
        quarters, n = range(0, LANES, 4), LANES
        low, high, first, second = ([q + p for q in quarters for p in picks] for picks in (
            (0, n, 1, n + 1), (2, n + 2, 3, n + 3), (0, 1, n, n + 1), (2, 3, n + 2, n + 3)))
        fours = []                                       # fours[g][j]: rows 4g.. at k = j, 4 + j, and so on
        for g in (0, 4):
            ab, cd = rows[g:g + 2], rows[g + 2:g + 4]
            fours.append([mix(mix(*ab, *by), mix(*cd, *by), *then) for by in (low, high) for then in (first, second)])
        base = builder.add(_data(context, builder, words, words_), builder.mul(at, LONG(4)))
        for j in range(4):
            for half in range(0, n, 8):
                both = mix(fours[0][j], fours[1][j],
                           *(q + other + p for q in (half, half + 4) for other in (0, n) for p in range(4)))
                for part in (0, 1):
                    eight, k = mix(both, both, *range(8 * part, 8 * part + 8)), half + 4 * part + j
                    _store(builder, eight, builder.add(base, builder.mul(width, LONG(4 * k))))
        return context.get_dummy_value()
    return types.void(entries, types.int64, types.int64, words, types.int64, types.int64), generate


def _interleaver(n):
    @intrinsic
    def interleave(typing, entries, even, odd, words, at):
        """words[at + i] = word i of two neighbouring rows of k, n entries wide; of the one at `even` for float32."""
        def generate(context, builder, signature, args):
            _, even, odd, words_, at = args
            to = builder.add(_data(context, builder, words, words_), builder.mul(at, LONG(4)))
            half, whole = _vector(SHORT, n), _vector(INT, n)
            if words.dtype == types.uint32:
                lower, upper = (builder.zext(_load(builder, half, a, align=2), whole) for a in (even, odd))
                value = builder.or_(lower, builder.shl(upper, _every(INT(16), n)))
            elif entries.dtype == types.uint16:
                value = _widened(builder, _load(builder, half, even, align=2))
            else:
                value = _load(builder, _vector(FLOAT, n), even)
            _store(builder, value, to)
            return context.get_dummy_value()
        return types.void(entries, types.int64, types.int64, words, types.int64), generate
    return interleave


interleave8, interleave32 = _interleaver(ROWS), _interleaver(COLUMNS)


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
        return lambda words, entries, address, across, left: wide(view(entries, address, 1)[0])

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
    size, whole, count = entries.itemsize, K // per, (K + per - 1) // per
    if across == size:
        for i in range(0, width, 8):
            k = 0
            if i + 8 <= n:
                while k + LANES <= whole:
                    transpose(entries, source + i * down + size * per * k, down, words, at + k * width + i, width)
                    k += LANES
            while k < count:
                for r in range(i, i + 8):
                    here = source + r * down + size * per * k
                    words[at + k * width + r] = one_word(words, entries, here, across, K - k * per) if r < n else 0
                k += 1
        return
    for k in range(count):
        here = source + k * per * across
        if n == width and k < whole:
            if width == ROWS:
                interleave8(entries, here, here + across, words, at + k * width)
            else:
                interleave32(entries, here, here + across, words, at + k * width)
        else:
            for r in range(width):
                words[at + k * width + r] = (
                    one_word(words, entries, here + r * size, across, K - k * per) if r < n else 0)


@plain
def buffer(n, like):
    """Room for n entries of 4 bytes, from the start of a cache line."""
    room = np.empty(n + 16, like.dtype)
    at = (-room.ctypes.data & 63) >> 2
    return room[at:at + n]


# ----------------------------------------------------------------------------------------------------- multiplication

@plain
def result(a, b, at_b, sums, depth, out, address, stride, rows, width, bias, alpha, beta):
    """[GM1] for the rows of a block of A and the columns of a panel of B, whose place in C is at the address."""
    for k in range(0, depth, DEPTH):
        part = min(DEPTH, depth - k)
        for r in range(0, rows, ROWS):
            left, right, tile = (a, r * depth + k * ROWS), (b, at_b + k * COLUMNS), (sums, r * COLUMNS)
            if k + part < depth:
                tile_product(left, right, tile, part, k > 0)
            else:
                tile_result(left, right, tile, part, k > 0, out, address + r * stride, stride, min(ROWS, rows - r),
                            width, bias, alpha, beta)


@jit
def _pack_columns(b, entries, source, down, across, N, K, depth, totals, lo, hi):
    """Panels lo..hi of B; column j at k lies at source + k down + j across bytes. totals: see product()."""
    for p in range(lo, hi):
        n = min(COLUMNS, N - p * COLUMNS)
        here = p * COLUMNS * depth
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
def _rows(b, entries, source, down, across, out, to, stride, bias, M, N, K, depth, height, alpha, beta, lo, hi):
    """Blocks lo..hi of `height` rows of A, which begins at source, with all packed columns of B, into C at `to`."""
    a, sums, size = buffer(height * depth, b), buffer(height * COLUMNS, SUMS), out.itemsize
    for block in range(lo, hi):
        first, last = block * height, min(M, (block + 1) * height)
        panels = (last - first + ROWS - 1) // ROWS
        for q in range(panels):
            m = first + q * ROWS
            pack(a, q * ROWS * depth, ROWS, entries, source + m * down, down, across, min(ROWS, last - m), K)
        for n in range(0, N, COLUMNS):
            result(a, b, n * depth, sums, depth, out, to + first * stride + n * size, stride, last - first,
                   min(COLUMNS, N - n), (bias, n), alpha, beta)


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
    biases = np.zeros((N + COLUMNS - 1) // COLUMNS * COLUMNS, np.float32)
    for j in range(len(bias)):
        biases[j] = wide(bias[j])
    for k in range(0, K, longest):
        part = min(longest, K - k)
        depth = (part + per - 1) // per
        group = max(1, GROUP // depth // COLUMNS) * COLUMNS                              # [GM4]
        height = fair(M, threads, max(ROWS, min(HIGHEST, BLOCK // depth // ROWS * ROWS)))                # [GM3]
        blocks = (M + height - 1) // height
        packed = buffer((min(group, N) + COLUMNS - 1) // COLUMNS * COLUMNS * depth, words)
        for n in range(0, N, group):
            width = min(group, N - n)
            each(pool, _pack_columns, (width + COLUMNS - 1) // COLUMNS, 4 * threads if threads > 1 else 1, (
                packed, entries, right + k * b_down + n * b_across, b_down, b_across, width, part, depth,
                totals[n:n + width]))
            each(pool, _rows, blocks, blocks if threads > 1 else 1, (
                packed, entries, source + k * a_across, a_down, a_across, results, to + n * out.itemsize, stride,
                biases[n:], M, width, part, depth, height, alpha, beta if k == 0 else np.float32(1)))
        biases[:] = 0


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
              *b.strides, ENTRIES[out.dtype.char], out.ctypes.data, out.strides[0], out.strides[1], M, N, K)


@jit
def _batch(words, entries, a, a_next, a_down, a_across, b, b_next, b_down, b_across, out, to, to_next, stride,
           M, N, K, lo, hi):
    per = per_word(words)
    depth, panels = (K + per - 1) // per, (N + COLUMNS - 1) // COLUMNS
    height = min(HIGHEST, max(ROWS, BLOCK // depth // ROWS * ROWS))
    packed = buffer(panels * COLUMNS * depth, words)
    none = np.zeros(panels * COLUMNS, np.float32)
    for i in range(lo, hi):
        _pack_columns(packed, entries, b + i * b_next, b_down, b_across, N, K, depth, none[:0], 0, panels)
        _rows(packed, entries, a + i * a_next, a_down, a_across, out, to + i * to_next, stride, none, M, N, K, depth,
              height, np.float32(1), np.float32(0), 0, (M + height - 1) // height)
