r"""attention for NumPy arrays. Formula, names and [AT] numbers: attention.py.

One head of one sequence at a time, in tiles of gemm_cpu.py's tile loop. A block of scores is computed, used up and
forgotten while it is in a cache; no T x T array exists, and blocks above the diagonal are left out. What gives the
blocks their shape is how a product leaves the tile loop, as rows of 32 sums, and how it can enter it again, as 8 rows
of a left operand or 32 columns of a right one, k after k.

Forward takes 32 queries with all the keys that they see, and computes their scores transposed, S^T = K Q^T: a query is
a column. So 32 softmaxes run side by side, key after key, and no vector is ever summed across. Y = P V then wants 8
queries of P at a time, key after key: a piece of every row of P^T, which lies there already.

Backward takes 32 keys with up to QUERIES of the queries that see them, S = Q K^T and dP = dY V^T. In the same way
dV = P^T dY and dK = dS^T Q find their left operands lying there; for dQ = dS K alone is something transposed, dS,
which costs a hundredth of the time. dK and dV are finished with their 32 keys, dQ grows from block to block.

Scores are computed in blocks of 8 x 32, so (1 + 32 / T) times as many as are needed, and the other products with
(1 + 8 / T) times. Backward computes the scores again as they were, bit by bit: the order of a sum over d is the same.

float64, and processors without the instructions for tiles, have the plain loops at the end.
"""
import math

import numpy as np

from minigrad import gemm_cpu, pool
from minigrad.fused.attention import check
from minigrad.fused.dropout_cpu import keep_range, masks
from minigrad.gemm_cpu import COLUMNS, DEPTH, ROWS, SUMS, buffer, pack, per_word, tile_product, word_sum
from minigrad.jit_cpu import inline, jit, plain
from minigrad.math_cpu import bits, exp, floats, maximum, narrow, real, wide

# What there are tiles for: the dtype of the entries, with an array of the words that operands are made of.
TILED = {gemm_cpu.ENTRIES[kind].dtype: words for kind, words in gemm_cpu.WORDS.items()}
QUERIES = 128        # of a block in backward: all that belongs to it fits in the second cache
ALL_STAY = masks(0.0, (0, 0, 0, 0))


def forward(qkv, *, n_head, dropout=None):
    check(qkv, n_head, dropout)
    x = np.ascontiguousarray(bits(qkv))
    (B, T, C3), kind = x.shape, np.float64 if x.itemsize == 8 else np.float32
    y, lse = np.empty((B, T, C3 // 3), x.dtype), np.empty((B, n_head, T), kind)
    kernel, *words = (_forward_tiles, TILED[x.dtype]) if x.dtype in TILED else (_forward,)
    pool.each(kernel, B * n_head, 2 * B * T * T * C3 // 3, *words, x, y, lse, *scales(C3 // 3 // n_head, dropout))
    y = floats(y, qkv.dtype)
    return y, (qkv, y, lse, n_head, dropout)


def backward(dy, qkv, y, lse, n_head, dropout, into):
    dy, x, y = (np.ascontiguousarray(bits(a)) for a in (dy.astype(qkv.dtype, copy=False), qkv, y))
    (B, T, C3), dx = x.shape, np.empty_like(x)
    kernel, *words = (_backward_tiles, TILED[x.dtype]) if x.dtype in TILED else (_backward,)
    pool.each(kernel, B * n_head, 5 * B * T * T * C3 // 3, *words, dy, x, y, lse, dx,
              *scales(C3 // 3 // n_head, dropout))
    return (floats(dx, qkv.dtype),)


def scales(D, dropout):
    """(1 / sqrt(D), 1 / (1 - rate), how to draw the masks) for the kernels; a rate of 0 draws nothing."""
    rate, how = (dropout[0], masks(*dropout)) if dropout else (0.0, ALL_STAY)
    return 1 / math.sqrt(D), 1 / (1 - rate), how


# ----------------------------------------------------------------------------------------------------------- in tiles
# Right operands, and sums, lie in panels of 32 columns, one behind the other: in a matrix that is n rows (or words)
# high, row i of the panel that begins with column d is found at d n + 32 i.

TILE = ROWS * COLUMNS
PER_LN2, ZERO, ONE, LEAST = map(np.float32, (1 / math.log(2), 0, 1, -127))
SERIES = tuple(np.float32(math.log(2) ** k / math.factorial(k)) for k in range(6, 0, -1))
POINT = np.float32(1.5 * 2 ** 23 + 127)


@inline
def power(t):
    """2^t for t <= 0, within 4 ulp; 0 below 2^-126. Without math_cpu's care for large t, half of exp's operations.

    With n = round(t), 2^t = 2^n e^((t - n) ln 2), as in [MA1-3]. Adding POINT leaves n + 127 in the lowest bits, and
    those, moved to where the exponent stands, are 2^n; n = -127 gives 0.
    """
    t = LEAST if t < LEAST else t                        # written so that NaN passes
    shifted = np.float32(t + POINT)
    r = t - (shifted - POINT)
    q = SERIES[0]
    for c in SERIES[1:]:
        q = q * r + c
    return (q * r + ONE) * np.int32(shifted.view(np.int32) << np.int32(23)).view(np.float32)


@plain
def up(n, to):
    return (n + to - 1) // to * to


@plain
def panels(words, height, width, entries, source, down, across, n, K):
    """pack() for n rows, in panels that are `height` words high."""
    for i in range(0, n, width):
        pack(words, i * height, width, entries, source + i * down, down, across, min(width, n - i), K)


@plain
def multiply(a, b, sums, n, depth):
    """The tiles of n panels of a left operand, one behind the other, with one of a right one, `depth` words long."""
    for k in range(0, depth, DEPTH):
        part = min(DEPTH, depth - k)
        for q in range(n):
            tile_product((a, (q * depth + k) * ROWS), (b, k * COLUMNS), (sums, q * TILE), part, k > 0)


@plain
def eight_rows(a, b, at_b, b_height, sums, at_s, s_height, D, depth, more):
    """8 rows of sums (+)= the panel a of a left operand times the D columns of a right one."""
    for d in range(0, D, COLUMNS):
        tile_product((a, 0), (b, d * b_height + at_b), (sums, d * s_height + at_s), depth, more)


@inline
def write(sums, at, height, row, factor):
    """row = factor times the row of sums that begins at sums[at]."""
    for d in range(0, len(row), COLUMNS):
        part, tile = row[d:d + COLUMNS], sums[at + d * height:at + d * height + COLUMNS]
        for j in range(len(part)):
            part[j] = narrow(factor * tile[j], part)


@inline
def hide(s, sign):
    """-inf for what lies beside the diagonal of a block: left of it for sign 1, right of it for -1."""
    for r in range(len(s) // COLUMNS):
        row = s[r * COLUMNS:(r + 1) * COLUMNS]
        for j in range(COLUMNS):
            row[j] = row[j] if sign * (j - r) >= 0 else -np.inf


@inline
def softmax(s, p, m, total, scale):
    """p = exp of s less its column's maximum m, and the columns' sums.  s, p (keys, 32); m, total (32,)

    scale: what the exponent of 2 is to s.
    """
    for j in range(COLUMNS):
        m[j], total[j] = -np.inf, 0
    for at in range(0, len(s), TILE):
        tile = s[at:at + TILE]
        for j in range(COLUMNS):
            most = m[j]
            for r in range(ROWS):
                v = tile[r * COLUMNS + j]
                most = v if v > most else most           # not NaN: that comes back in the sum
            m[j] = most
    for at in range(0, len(s), TILE):
        tile, out = s[at:at + TILE], p[at:at + TILE]
        for j in range(COLUMNS):
            t = total[j]
            for r in range(ROWS):
                e = power((tile[r * COLUMNS + j] - m[j]) * scale)
                t += e
                out[r * COLUMNS + j] = narrow(e, out)
            total[j] = t


@inline
def weights(s, dp, z, a, ds, lse, delta, scale):
    """The weights a and the gradients ds of a block of scores; all (queries, 32), lse and delta (queries,)."""
    for i in range(0, len(lse), ROWS):
        lo, hi = i * COLUMNS, (i + ROWS) * COLUMNS       # tile by tile, so that the compiler knows the loops' lengths
        s8, dp8, z8, a8, ds8, lse8, delta8 = (
            s[lo:hi], dp[lo:hi], z[lo:hi], a[lo:hi], ds[lo:hi], lse[i:i + ROWS], delta[i:i + ROWS])
        for r in range(ROWS):
            for j in range(r * COLUMNS, (r + 1) * COLUMNS):
                t = s8[j] * scale - lse8[r]
                p = power(ZERO if t > ZERO else t)       # p <= 1, however lse was rounded           [AT3]
                a8[j] = narrow(z8[j] * p, a8)                                            # [AT4]
                ds8[j] = narrow(p * (z8[j] * dp8[j] - delta8[r]), ds8)                   # [AT7,9]


@jit
def finite(words):
    """Is no entry inf or NaN?"""
    total = ZERO
    for i in range(len(words)):
        total += ZERO * word_sum(words[i])
    return total == ZERO


@jit
def _forward_tiles(words, x, y, lse, scale, grow, how, lo, hi):
    """Heads lo..hi (of B * H) of x = qkv (B, T, 3C); y (B, T, C) and lse (B, H, T), written."""
    B, T, C3 = x.shape
    H, C = lse.shape[1], C3 // 3
    D, size, per, line = C // H, x.itemsize, per_word(words), C3 * x.itemsize
    scale, grow = np.float32(scale), np.float32(grow)
    deep, long, T8, D32 = up(D, per) // per, up(T, per) // per, up(T, ROWS), up(D, COLUMNS)
    k, q = buffer(T8 * deep, words), buffer(COLUMNS * deep, words)                       # left: K; right: 32 rows of Q
    s, p = buffer(T8 * COLUMNS, SUMS), np.empty(T8 * COLUMNS, x.dtype)                   # S^T, P^T  (keys, 32)
    left, v = buffer(ROWS * long, words), buffer(D32 * long, words)                      # left: 8 rows of P; right: V
    sums, z, z_t = buffer(ROWS * D32, SUMS), np.empty(COLUMNS * T8, np.float32), np.empty(T8 * COLUMNS, np.float32)
    m, total = np.empty(COLUMNS, np.float32), np.empty(COLUMNS, np.float32)
    for head in range(lo, hi):
        n, h = head // H, head % H
        at_q = x.ctypes.data + (n * T * C3 + h * D) * size
        at_k, at_v = at_q + C * size, at_q + 2 * C * size
        panels(k, deep, ROWS, x, at_k, line, size, T, D)
        panels(v, long, COLUMNS, x, at_v, size, line, D, T)
        step = ROWS if finite(v) else 1
        for first in range(0, T, COLUMNS):
            last = min(T, first + COLUMNS)
            pack(q, 0, COLUMNS, x, at_q + first * line, line, size, last - first, D)
            multiply(k, q, s, up(last, ROWS) // ROWS, deep)                              # [AT1]
            seen = s[:up(last, ROWS) * COLUMNS]
            hide(seen[first * COLUMNS:], 1)
            softmax(seen, p, m, total, scale * PER_LN2)
            if how[5]:
                for i in range(first, last):
                    keep_range(how, ((n * H + h) * T + i) * T, grow, z[(i - first) * T8:(i - first) * T8 + i + 1])
                pack(z_t, 0, COLUMNS, SUMS, z.ctypes.data, 4 * T8, 4, last - first, last)
                for at in range(last * COLUMNS):
                    p[at] = p[at] if z_t[at] > 0 else 0                                  # [AT4]
            for i in range(first, last, step):
                end, panel = min(i + step, last), (i - first) // ROWS * ROWS
                if step == 1:                            # 0 times NaN is NaN: nothing that i must not see may be there
                    panels(v, long, COLUMNS, x, at_v, size, line, D, end)
                pack(left, 0, ROWS, p, p.ctypes.data + panel * size, size, COLUMNS * size, ROWS, end)
                eight_rows(left, v, 0, long, sums, 0, ROWS, D, up(end, per) // per, False)
                for r in range(i - first, end - first):
                    row = y[n, first + r, h * D:(h + 1) * D]
                    write(sums, (r - panel) * COLUMNS, ROWS, row, grow / total[r])       # [AT3,4,5]
                    lse[n, h, first + r] = m[r] * scale + np.log(total[r])               # [AT2]


@jit
def _backward_tiles(words, dy, x, y, lse, dx, scale, grow, how, lo, hi):
    """Heads lo..hi of dy, y (B, T, C), x = qkv (B, T, 3C), lse (B, H, T); dx = dqkv, written."""
    B, T, C3 = x.shape
    H, C = lse.shape[1], C3 // 3
    D, size, per, line, thin = C // H, x.itemsize, per_word(words), C3 * x.itemsize, C3 // 3 * x.itemsize
    scale, grow = np.float32(scale), np.float32(grow)
    deep, long, T8, D32 = up(D, per) // per, up(T, per) // per, up(T, ROWS), up(D, COLUMNS)
    left_q, left_dy = buffer(T8 * deep, words), buffer(T8 * deep, words)                 # for S and dP,
    k32, v32 = buffer(COLUMNS * deep, words), buffer(COLUMNS * deep, words)              # with 32 rows of K and V
    s, dp, z = buffer(QUERIES * COLUMNS, SUMS), buffer(QUERIES * COLUMNS, SUMS), np.ones(QUERIES * COLUMNS, np.float32)
    a, ds = np.empty(QUERIES * COLUMNS, x.dtype), np.empty(QUERIES * COLUMNS, x.dtype)   # z P, dS  (queries, 32)
    left, right_dy = buffer(QUERIES * ROWS, words), buffer(D32 * long, words)            # for dV,
    right_q, right_k = buffer(D32 * long, words), buffer(D32 * long, words)              # dK and dQ
    dk, dv, dq = buffer(COLUMNS * D32, SUMS), buffer(COLUMNS * D32, SUMS), buffer(T8 * D32, SUMS)
    lse2, delta = np.zeros(T8, np.float32), np.zeros(T8, np.float32)
    for head in range(lo, hi):
        n, h = head // H, head % H
        at_q, at_dy = x.ctypes.data + (n * T * C3 + h * D) * size, dy.ctypes.data + (n * T * C + h * D) * size
        at_k, at_v = at_q + thin, at_q + 2 * thin
        panels(left_q, deep, ROWS, x, at_q, line, size, T, D)
        panels(left_dy, deep, ROWS, x, at_dy, thin, size, T, D)
        panels(right_dy, long, COLUMNS, x, at_dy, size, thin, D, T)
        panels(right_q, long, COLUMNS, x, at_q, size, line, D, T)
        panels(right_k, long, COLUMNS, x, at_k, size, line, D, T)
        for i in range(T):
            one, other, total = dy[n, i, h * D:(h + 1) * D], y[n, i, h * D:(h + 1) * D], ZERO
            for d in range(len(one)):
                total += wide(one[d]) * wide(other[d])
            delta[i], lse2[i] = total, lse[n, h, i] * PER_LN2                            # [AT8]
        for first in range(0, T, COLUMNS):
            last = min(T, first + COLUMNS)
            pack(k32, 0, COLUMNS, x, at_k + first * line, line, size, last - first, D)
            pack(v32, 0, COLUMNS, x, at_v + first * line, line, size, last - first, D)
            for begin in range(first, T, QUERIES):
                end, more = min(T, begin + QUERIES), begin > first
                rows = up(end - begin, ROWS)
                multiply(left_q[begin * deep:], k32, s, rows // ROWS, deep)              # [AT1]
                multiply(left_dy[begin * deep:], v32, dp, rows // ROWS, deep)            # [AT7]
                if begin == first:
                    hide(s[:min(rows, COLUMNS) * COLUMNS], -1)
                if how[5]:
                    for i in range(begin, end):
                        here = z[(i - begin) * COLUMNS:(i - begin + 1) * COLUMNS]
                        keep_range(how, ((n * H + h) * T + i) * T + first, grow, here)
                weights(s, dp, z, a, ds, lse2[begin:begin + rows], delta[begin:begin + rows], scale * PER_LN2)
                for j in range(0, last - first, ROWS):
                    start = max(begin, first + j)        # no query before it sees these 8 keys
                    at, count = start // per * COLUMNS, up(end - start, per) // per
                    here = ((start - begin) * COLUMNS + j) * size
                    pack(left, 0, ROWS, a, a.ctypes.data + here, size, COLUMNS * size, ROWS, end - start)
                    eight_rows(left, right_dy, at, long, dv, j * COLUMNS, COLUMNS, D, count, more)           # [AT6]
                    pack(left, 0, ROWS, ds, ds.ctypes.data + here, size, COLUMNS * size, ROWS, end - start)
                    eight_rows(left, right_q, at, long, dk, j * COLUMNS, COLUMNS, D, count, more)            # [AT10]
                for i in range(begin, end, ROWS):
                    at, count = first // per * COLUMNS, up(min(last, i + ROWS) - first, per) // per
                    here = (i - begin) * COLUMNS * size
                    pack(left, 0, ROWS, ds, ds.ctypes.data + here, COLUMNS * size, size, ROWS, COLUMNS)
                    eight_rows(left, right_k, at, long, dq, i * COLUMNS, T8, D, count, first > 0)            # [AT10]
            for j in range(first, last):
                write(dk, (j - first) * COLUMNS, COLUMNS, dx[n, j, C + h * D:C + (h + 1) * D], scale)
                write(dv, (j - first) * COLUMNS, COLUMNS, dx[n, j, 2 * C + h * D:2 * C + (h + 1) * D], ONE)
        for i in range(T):
            write(dq, i * COLUMNS, T8, dx[n, i, h * D:(h + 1) * D], scale)


# -------------------------------------------------------------------------------------------------------- plain loops

@inline
def entries(row, C, h, D):
    """What belongs to head h of q, k and v in one row of qkv."""
    return row[h * D:(h + 1) * D], row[C + h * D:C + (h + 1) * D], row[2 * C + h * D:2 * C + (h + 1) * D]


@inline
def dots(rows, vector, n, out):
    """out[j] = sum_d vector[d] rows[d, j] for j < n: four rows a pass, so that out is read and written less."""
    D = len(vector)
    for j in range(n):
        out[j] = 0
    for d in range(0, D - D % 4, 4):
        a, b, c, e = vector[d], vector[d + 1], vector[d + 2], vector[d + 3]
        for j in range(n):
            out[j] += a * rows[d, j] + b * rows[d + 1, j] + c * rows[d + 2, j] + e * rows[d + 3, j]
    for d in range(D - D % 4, D):
        for j in range(n):
            out[j] += vector[d] * rows[d, j]


@jit
def _forward(x, y, lse, scale, grow, how, lo, hi):
    """_forward_tiles for any float type."""
    B, T, C3 = x.shape
    H, C = lse.shape[1], C3 // 3
    D, scale, grow = C // H, real(scale, x), real(grow, x)
    s, z, q, total = np.empty(T, lse.dtype), np.empty(T, lse.dtype), np.empty(D, lse.dtype), np.empty(D, lse.dtype)
    k, v = np.empty((D, T), lse.dtype), np.empty((T, D), lse.dtype)
    for head in range(lo, hi):
        n, h = head // H, head % H
        for i in range(T):
            _, k_i, v_i = entries(x[n, i], C, h, D)
            for d in range(D):
                k[d, i], v[i, d] = wide(k_i[d]), wide(v_i[d])
        for i in range(T):
            q_i, _, _ = entries(x[n, i], C, h, D)
            for d in range(D):
                q[d], total[d] = wide(q_i[d]) * scale, 0
            dots(k, q, i + 1, s)                                                         # [AT1]
            m = s[0]
            for j in range(1, i + 1):
                m = maximum(m, s[j])
            sum_p = real(0, x)
            for j in range(i + 1):
                s[j] = exp(s[j] - m)
                sum_p += s[j]
            lse[n, h, i] = m + np.log(sum_p)                                             # [AT2]
            if how[5]:
                keep_range(how, ((n * H + h) * T + i) * T, grow, z[:i + 1])
                for j in range(i + 1):
                    s[j] *= z[j]                                                         # [AT4]
            for j in range(i + 1):
                for d in range(D):
                    total[d] += s[j] * v[j, d]                                           # [AT5]
            out = y[n, i, h * D:(h + 1) * D]
            for d in range(D):
                out[d] = narrow(total[d] / sum_p, out)                                   # [AT3]


@jit
def _backward(dy, x, y, lse, dx, scale, grow, how, lo, hi):
    """_backward_tiles for any float type."""
    B, T, C3 = x.shape
    H, C = lse.shape[1], C3 // 3
    D, scale, grow = C // H, real(scale, x), real(grow, x)
    p, z, ds = np.empty(T, lse.dtype), np.empty(T, lse.dtype), np.empty(T, lse.dtype)
    q, g, dq = np.empty(D, lse.dtype), np.empty(D, lse.dtype), np.empty(D, lse.dtype)
    k, dk, dv = np.empty((T, D), lse.dtype), np.empty((T, D), lse.dtype), np.empty((T, D), lse.dtype)
    kt, vt = np.empty((D, T), lse.dtype), np.empty((D, T), lse.dtype)
    for head in range(lo, hi):
        n, h = head // H, head % H
        for i in range(T):
            _, k_i, v_i = entries(x[n, i], C, h, D)
            for d in range(D):
                k[i, d], vt[d, i] = wide(k_i[d]), wide(v_i[d])
                kt[d, i], dk[i, d], dv[i, d] = k[i, d], 0, 0
        for i in range(T):
            q_i, _, _ = entries(x[n, i], C, h, D)
            dy_i, y_i, delta = dy[n, i, h * D:(h + 1) * D], y[n, i, h * D:(h + 1) * D], real(0, x)
            for d in range(D):
                q[d], g[d], dq[d] = wide(q_i[d]) * scale, wide(dy_i[d]), 0
            for d in range(len(dy_i)):
                delta += wide(dy_i[d]) * wide(y_i[d])                                    # [AT8]
            dots(kt, q, i + 1, p)                                                        # [AT1]
            dots(vt, g, i + 1, ds)                                                       # [AT7]
            if how[5]:
                keep_range(how, ((n * H + h) * T + i) * T, grow, z[:i + 1])
            else:
                z[:i + 1] = 1
            for j in range(i + 1):
                p[j] = exp(p[j] - lse[n, h, i])                                          # [AT3]
                ds[j] = p[j] * (z[j] * ds[j] - delta)                                    # [AT9]
                p[j] *= z[j]                                                             # [AT4]
            for j in range(i + 1):
                for d in range(D):
                    dq[d] += ds[j] * k[j, d]                                             # [AT10]
                    dk[j, d] += ds[j] * q[d]                                             # [AT10]
                    dv[j, d] += p[j] * g[d]                                              # [AT6]
            out, _, _ = entries(dx[n, i], C, h, D)
            for d in range(D):
                out[d] = narrow(dq[d] * scale, dx)
        for i in range(T):
            _, out_k, out_v = entries(dx[n, i], C, h, D)
            for d in range(D):
                out_k[d], out_v[d] = narrow(dk[i, d], dx), narrow(dv[i, d], dx)


attention = forward, backward
