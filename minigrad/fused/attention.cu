// attention on a GPU. Formula, names and [AT] numbers: attention.py.
//
// A warp has 16 M rows of one factor in its registers, and goes through the columns, COLUMNS at a time, that meet them
// under the diagonal. Its rows are queries in forward and backward_q, keys in backward_kv. What belongs to the columns
// lies in shared memory, for all warps of the block, in two stages: cp.async fills one while the other is multiplied.
// Scores never leave the registers: as sums of one product they are the left factor of the next (tiles.cuh). Rows in
// shared memory are WIDE entries, an odd number of 16 bytes, so that 8 of them under each other lie in 32 banks.
// Entries beyond D and rows beyond T are 0 there, and take no part: keys beyond T lie above the diagonal of all
// queries that are kept; queries beyond T have dy = 0 and delta = 0.
//
// Why backward takes seven products and not five. For scores to be computed once, one block must add up dk and dv
// while dq grows in global memory, in float, each tile in its turn. To keep that order without a lock, one block has
// to go through all keys of a head. Per 64 x 64 scores of head size 64, in clocks of an H100 SM at 1.75 GHz:
//     7 products at mma.sync's 63 % of the peak                                              1420
//     5 products                                                                             1020
//     dq read and written, q and dy read, 128 keys at a time: 24 KB at 13 B/clock of HBM     1890
// The last would be hidden if L2 held it, but 264 blocks with a head each have 135 MB in use at T = 1024. Partial dq
// for every 128 keys, added up later, are 1.8 GB to write and to read for 768 heads, 0.6 ms, where the two products
// are 0.33 ms. Two kernels need no such memory, have B H T / 128 blocks instead of B H, and the result for a sequence
// is the same bits in every batch.
#include "common.cuh"
#include "philox.cuh"
#include "tiles.cuh"

constexpr bool HALF = sizeof(T) == 2;
constexpr int M = HALF && HEAD <= 64 ? 2 : 1, WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
constexpr int FORWARD = HALF ? HEAD <= 64 ? 64 : 32 : 16, BACKWARD = HALF ? 32 : 16;     // COLUMNS
constexpr int WIDE = HEAD + PACK, N = HEAD / 8;
constexpr int TOGETHER = 16;                                            // heads, so that their k and v stay in L2
constexpr float LOG2_E = 1.44269504f;

struct Shape { int T, H, D; };                                          // qkv is (B, T, 3 H D)
struct Drop { float grow; Mask mask; };                                 // grow = 1 / (1 - rate), 0 for no dropout

// Where a block works: head is n H + h, first its first row. Blocks of few heads at a time, with the longest work
// first: that of early keys, or of LATE queries.
struct Place { int head, first; };
template<bool LATE> __device__ __forceinline__ Place place(Shape s) {
    int tiles = (s.T + ROWS - 1) / ROWS, all = gridDim.x / tiles;
    int group = blockIdx.x / (TOGETHER * tiles) * TOGETHER, at = blockIdx.x - group * tiles;
    int heads = min(TOGETHER, all - group), tile = at / heads;
    return {group + at % heads, (LATE ? tiles - 1 - tile : tile) * ROWS};
}

// Entry 0 of a head's row 0, in an array with `parts` heads side by side.
__device__ __forceinline__ long long start(Shape s, int head, int part, int parts) {
    return ((long long)(head / s.H) * s.T * parts + part) * s.H * s.D + head % s.H * s.D;
}

// tile (COUNT, WIDE) = rows first.. of x, whose rows are `stride` apart: on their way, to be waited for.
template<int COUNT> __device__ __forceinline__ void get(T* tile, const T* x, int first, long long stride, Shape s) {
    constexpr int ACROSS = HEAD / PACK;
    for (int i = threadIdx.x; i < COUNT * ACROSS; i += THREADS) {
        int r = i / ACROSS, c = i % ACROSS * PACK, there = first + r < s.T ? s.D - c : 0;
        const T* from = x + (first + r) * stride + c;
        T* to = tile + r * WIDE + c;
        if (there >= PACK && (size_t)from % 16 == 0) {
            copy16_async(to, from);
        } else {
            float v[PACK];
            load(v, from, there);
            store(to, v, PACK);
        }
    }
}

// Rows first.. of x = a warp's sums, by way of its own rows of a tile.
__device__ __forceinline__ void put(T* x, const float (&d)[M][N][4], T* mine, int first, long long stride, Shape s) {
    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) mine[(16 * m + row_of(e)) * WIDE + column_of(n, e)] = T(d[m][n][e]);
    __syncwarp();
    for (int i = threadIdx.x % 32; i < 16 * M * (HEAD / PACK); i += 32) {
        int r = i / (HEAD / PACK), c = i % (HEAD / PACK) * PACK;
        float v[PACK];
        if (first + r >= s.T) continue;
        load(v, mine + r * WIDE + c, PACK);
        store(x + (first + r) * stride + c, v, s.D - c);
    }
}

// m of [DR6] for 16 x 8 S scores: bit 4 n + e is that of d[n][e]. The first one is of query i and key j; rows are
// queries, or if TURNED keys.
template<int S, bool TURNED> __device__ __forceinline__ uint32_t kept(Mask mask, Shape s, int head, int i, int j) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t bits = 0;
    if (s.T % 4) {
        for (int n = 0; n < S; n++)
            for (int e = 0; e < 4; e++) {
                int query = i + (TURNED ? column_of(n, e) : row_of(e)), key = j + (TURNED ? row_of(e) : column_of(n, e));
                long long index = ((long long)head * s.T + query) * s.T + key;
                uint4 w = philox(uint32_t(index / 4), mask);
                uint32_t word = index % 4 == 0 ? w.x : index % 4 == 1 ? w.y : index % 4 == 2 ? w.z : w.w;
                bits |= uint32_t(word >= mask.least) << (4 * n + e);
            }
        return bits;
    }
    // The four words of a block belong to neighbours in a row of scores, which two lanes have, or if TURNED four. Those
    // lanes have as many such blocks, for each n: a lane computes one, and then they exchange bits.
    int query = i + (TURNED ? 2 * t + g % 2 : g + t % 2 * 8), key = j + (TURNED ? g / 4 * 4 + g % 4 / 2 * 8 : t / 2 * 4);
    uint32_t block = (uint32_t(head) * s.T + query) * (s.T / 4) + key / 4;
    for (int n = 0; n < S; n++) {
        uint4 w = philox(block + n * (TURNED ? 8 * (s.T / 4) : 2), mask);
        bits |= uint32_t((w.x >= mask.least) + 2 * (w.y >= mask.least) + 4 * (w.z >= mask.least)
                         + 8 * (w.w >= mask.least)) << 4 * n;
    }
    if (TURNED) {
        uint32_t own = 0;
#pragma unroll
        for (int e = 0; e < 4; e++)                         // lane g % 4 = e has row e / 2 * 8 and column e % 2
            own |= (__shfl_sync(~0u, bits, g / 4 * 16 + e * 4 + t) >> g % 4 & 0x11111111u) << e;
        return own;
    }
    uint32_t other = __shfl_xor_sync(~0u, bits, 1), top = t % 2 ? other : bits, bottom = t % 2 ? bits : other;
    return (top >> t % 2 * 2 & 0x33333333u) | (bottom >> t % 2 * 2 & 0x33333333u) << 2;
}

// d = -inf where the key lies behind the query.
template<int S, bool TURNED> __device__ __forceinline__ void hide(float (&d)[M][S][4], int i, int j) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < S; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int row = 16 * m + row_of(e), column = column_of(n, e);
                if (TURNED ? j + row > i + column : j + column > i + row) d[m][n][e] = -INFINITY;
            }
}

#define ARGUMENTS int length, int heads, int size, float scale, float grow, uint32_t k0, uint32_t k1, uint32_t c1, \
                  uint32_t c2, const uint32_t* c3, uint32_t least
#define UNPACK const Shape s = {length, heads, size}; const Drop drop = {grow, {k0, k1, c1, c2, c3 ? *c3 : 0, least}}; \
               const int own = threadIdx.x / 32 * 16 * M; const float c = LOG2_E * scale; \
               const long long stride = 3LL * heads * size, narrow = (long long)heads * size

// The max, or the sum, over the four lanes that share a row.
template<class F> __device__ __forceinline__ float of_row(float v, F combine) {
    v = combine(v, __shfl_xor_sync(~0u, v, 1));
    return combine(v, __shfl_xor_sync(~0u, v, 2));
}

// y (B, T, H D) and lse (B, H, T): written.
extern "C" __global__ void __launch_bounds__(THREADS, 2) forward(const T* qkv, ARGUMENTS, T* y, float* lse) {
    UNPACK;
    constexpr int COLUMNS = FORWARD, S = COLUMNS / 8;
    const Place at = place<true>(s);
    const int i0 = at.first + own, end = min(s.T, at.first + ROWS);
    const T *k = qkv + start(s, at.head, 1, 3), *v = qkv + start(s, at.head, 2, 3);
    T *mine = (T*)dynamic_shared() + own * WIDE, *stages = (T*)dynamic_shared() + ROWS * WIDE;
    auto fetch = [&](int j0) {
        T* stage = stages + j0 / COLUMNS % 2 * 2 * COLUMNS * WIDE;
        get<COLUMNS>(stage, k, j0, stride, s);
        get<COLUMNS>(stage + COLUMNS * WIDE, v, j0, stride, s);
        commit_copies();
    };
    get<ROWS>((T*)dynamic_shared(), qkv + start(s, at.head, 0, 3), at.first, stride, s);
    fetch(0);
    InRegisters<HEAD, T> q[M];
    float out[M][N][4] = {}, most[M][2], total[M][2] = {};
    for (int j0 = 0; j0 < end; j0 += COLUMNS) {
        wait_copies<0>();
        __syncthreads();                                    // all have this stage, and are done with the other
        if (j0 + COLUMNS < end) fetch(j0 + COLUMNS);
        if (j0 == 0)
#pragma unroll
            for (int m = 0; m < M; m++) {
                q[m].load({mine + 16 * m * WIDE, WIDE});
                most[m][0] = most[m][1] = -INFINITY;
            }
        if (i0 >= s.T || j0 >= i0 + 16 * M) continue;
        const T* stage = stages + j0 / COLUMNS % 2 * 2 * COLUMNS * WIDE;
        float a[M][S][4] = {};
        add_product<true>(a, q, stage, WIDE);                                            // [AT1], undivided
        if (j0 + COLUMNS > i0 + 1) hide<S, false>(a, i0, j0);
        InRegisters<COLUMNS, T> p[M];
#pragma unroll
        for (int m = 0; m < M; m++) {
#pragma unroll
            for (int half = 0; half < 2; half++) {          // rows g and g + 8
                float before = most[m][half], now = before, sum = 0.0f;
#pragma unroll
                for (int n = 0; n < S; n++) now = fmaxf(now, fmaxf(a[m][n][2 * half], a[m][n][2 * half + 1]));
                now = of_row(now, Max());
                float shrink = exp2f(c * (before - now)), shift = c * now;
#pragma unroll
                for (int n = 0; n < S; n++)
#pragma unroll
                    for (int e = 2 * half; e < 2 * half + 2; e++)
                        sum += a[m][n][e] = exp2f(c * a[m][n][e] - shift);
                most[m][half] = now;
                total[m][half] = total[m][half] * shrink + sum;                          // [AT12]
#pragma unroll
                for (int n = 0; n < N; n++) out[m][n][2 * half] *= shrink, out[m][n][2 * half + 1] *= shrink;
            }
            if (drop.grow != 0.0f) {
                uint32_t bits = kept<S, false>(drop.mask, s, at.head, i0 + 16 * m, j0);
#pragma unroll
                for (int n = 0; n < S; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) if (!(bits >> (4 * n + e) & 1)) a[m][n][e] = 0.0f;
            }
            p[m].round(a[m]);
        }
        add_product<false>(out, p, stage + COLUMNS * WIDE, WIDE);                        // [AT5,12], undivided
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = of_row(total[m][half], Sum()), factor = (drop.grow != 0.0f ? drop.grow : 1.0f) / sum;
            int i = i0 + 16 * m + row_of(2 * half);
            if (i < s.T && threadIdx.x % 4 == 0)
                lse[(long long)at.head * s.T + i] = scale * most[m][half] + logf(sum);   // [AT2]
#pragma unroll
            for (int n = 0; n < N; n++) out[m][n][2 * half] *= factor, out[m][n][2 * half + 1] *= factor;   // [AT3,4]
        }
    put(y + start(s, at.head, 0, 1), out, mine, i0, narrow, s);
}

// The q part of dx (B, T, 3 H D), and delta (B, H, T): written.
extern "C" __global__ void __launch_bounds__(THREADS, 2) backward_q(const T* qkv, const T* dy, const T* y,
                                                                    const float* lse, ARGUMENTS, float* delta, T* dx) {
    UNPACK;
    constexpr int COLUMNS = BACKWARD, S = COLUMNS / 8;
    const Place at = place<true>(s);
    const int i0 = at.first + own, end = min(s.T, at.first + ROWS);
    const T *k = qkv + start(s, at.head, 1, 3), *v = qkv + start(s, at.head, 2, 3);
    const long long narrow_start = start(s, at.head, 0, 1);
    T *tiles = (T*)dynamic_shared(), *mine = tiles + own * WIDE, *stages = tiles + 2 * ROWS * WIDE;
    auto fetch = [&](int j0) {
        T* stage = stages + j0 / COLUMNS % 2 * 2 * COLUMNS * WIDE;
        get<COLUMNS>(stage, k, j0, stride, s);
        get<COLUMNS>(stage + COLUMNS * WIDE, v, j0, stride, s);
        commit_copies();
    };
    get<ROWS>(tiles, qkv + start(s, at.head, 0, 3), at.first, stride, s);
    get<ROWS>(tiles + ROWS * WIDE, dy + narrow_start, at.first, narrow, s);
    fetch(0);
    InRegisters<HEAD, T> q[M];
    InMemory<HEAD, T> g[M];                                 // there are not registers enough for both
    float dq[M][N][4] = {}, shift[M][2], its_delta[M][2];
    for (int j0 = 0; j0 < end; j0 += COLUMNS) {
        wait_copies<0>();
        __syncthreads();
        if (j0 + COLUMNS < end) fetch(j0 + COLUMNS);
        if (j0 == 0)
#pragma unroll
            for (int m = 0; m < M; m++) {
                q[m].load({mine + 16 * m * WIDE, WIDE});
                g[m] = {mine + (ROWS + 16 * m) * WIDE, WIDE};
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    int row = 16 * m + row_of(2 * half), i = i0 + row;
                    float sum = 0.0f, a[PACK], b[PACK];
                    for (int e = threadIdx.x % 4 * PACK; e < HEAD; e += 4 * PACK) {
                        load(a, mine + (ROWS + row) * WIDE + e, PACK);
                        load(b, y + narrow_start + i * narrow + e, i < s.T ? s.D - e : 0);
#pragma unroll
                        for (int n = 0; n < PACK; n++) sum += a[n] * b[n];               // [AT8]
                    }
                    long long line = (long long)at.head * s.T + i;
                    its_delta[m][half] = of_row(sum, Sum());
                    shift[m][half] = i < s.T ? LOG2_E * lse[line] : 0.0f;
                    if (i < s.T && threadIdx.x % 4 == 0) delta[line] = its_delta[m][half];
                }
            }
        if (i0 >= s.T || j0 >= i0 + 16 * M) continue;
        const T* stage = stages + j0 / COLUMNS % 2 * 2 * COLUMNS * WIDE;
        float p[M][S][4] = {}, dp[M][S][4] = {};
        add_product<true>(p, q, stage, WIDE);                                            // [AT1], undivided
        if (j0 + COLUMNS > i0 + 1) hide<S, false>(p, i0, j0);
        add_product<true>(dp, g, stage + COLUMNS * WIDE, WIDE);
        InRegisters<COLUMNS, T> ds[M];
#pragma unroll
        for (int m = 0; m < M; m++) {
            uint32_t bits = ~0u;
            float z = 1.0f;
            if (drop.grow != 0.0f) bits = kept<S, false>(drop.mask, s, at.head, i0 + 16 * m, j0), z = drop.grow;
#pragma unroll
            for (int n = 0; n < S; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    float weight = exp2f(c * p[m][n][e] - shift[m][e / 2]);              // [AT11]
                    float its_dp = bits >> (4 * n + e) & 1 ? z * dp[m][n][e] : 0.0f;     // [AT7]
                    p[m][n][e] = weight * (its_dp - its_delta[m][e / 2]);                // [AT9]
                }
            ds[m].round(p[m]);
        }
        add_product<false>(dq, ds, stage, WIDE);                                         // [AT10], undivided
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) dq[m][n][e] *= scale;
    put(dx + start(s, at.head, 0, 3), dq, mine, i0, stride, s);
}

// The k and v parts of dx: written.
extern "C" __global__ void __launch_bounds__(THREADS, 2) backward_kv(const T* qkv, const T* dy, const float* lse,
                                                                     const float* delta, ARGUMENTS, T* dx) {
    UNPACK;
    constexpr int COLUMNS = BACKWARD, S = COLUMNS / 8;
    const Place at = place<false>(s);
    const int j0 = at.first + own;
    const T *q = qkv + start(s, at.head, 0, 3), *g = dy + start(s, at.head, 0, 1);
    const long long line = (long long)at.head * s.T;
    T *tiles = (T*)dynamic_shared(), *mine = tiles + own * WIDE, *stages = tiles + 2 * ROWS * WIDE;
    float* numbers = (float*)(stages + 4 * COLUMNS * WIDE);                              // lse and delta, two stages
    auto fetch = [&](int i0) {
        int which = i0 / COLUMNS % 2, i = threadIdx.x % COLUMNS;
        T* stage = stages + which * 2 * COLUMNS * WIDE;
        get<COLUMNS>(stage, q, i0, stride, s);
        get<COLUMNS>(stage + COLUMNS * WIDE, g, i0, narrow, s);
        if (threadIdx.x < 2 * COLUMNS) {
            float* to = numbers + which * 2 * COLUMNS + threadIdx.x;
            if (i0 + i < s.T) copy4_async(to, (threadIdx.x < COLUMNS ? lse : delta) + line + i0 + i);
            else *to = 0.0f;
        }
        commit_copies();
    };
    get<ROWS>(tiles, qkv + start(s, at.head, 1, 3), at.first, stride, s);
    get<ROWS>(tiles + ROWS * WIDE, qkv + start(s, at.head, 2, 3), at.first, stride, s);
    fetch(at.first);
    InMemory<HEAD, T> k[M], v[M];
#pragma unroll
    for (int m = 0; m < M; m++) {
        k[m] = {mine + 16 * m * WIDE, WIDE};
        v[m] = {mine + (ROWS + 16 * m) * WIDE, WIDE};
    }
    float dk[M][N][4] = {}, dv[M][N][4] = {};
    for (int i0 = at.first; i0 < s.T; i0 += COLUMNS) {
        wait_copies<0>();
        __syncthreads();
        if (i0 + COLUMNS < s.T) fetch(i0 + COLUMNS);
        if (j0 >= s.T || j0 >= i0 + COLUMNS) continue;
        const int which = i0 / COLUMNS % 2;
        const T* stage = stages + which * 2 * COLUMNS * WIDE;
        const float* number = numbers + which * 2 * COLUMNS;
        float p[M][S][4] = {}, ds[M][S][4] = {};
        add_product<true>(p, k, stage, WIDE);                                            // [AT1], undivided
        if (i0 < j0 + 16 * M - 1) hide<S, true>(p, i0, j0);
        add_product<true>(ds, v, stage + COLUMNS * WIDE, WIDE);
        InRegisters<COLUMNS, T> left[M];
#pragma unroll
        for (int m = 0; m < M; m++) {
            uint32_t bits = ~0u;
            float z = 1.0f;
            if (drop.grow != 0.0f) bits = kept<S, true>(drop.mask, s, at.head, i0, j0 + 16 * m), z = drop.grow;
#pragma unroll
            for (int n = 0; n < S; n++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int column = column_of(n, e);
                    bool stays = bits >> (4 * n + e) & 1;
                    float weight = exp2f(c * p[m][n][e] - LOG2_E * number[column]);      // [AT11]
                    float its_dp = stays ? z * ds[m][n][e] : 0.0f;                       // [AT7]
                    ds[m][n][e] = weight * (its_dp - number[COLUMNS + column]);          // [AT9]
                    p[m][n][e] = stays ? weight : 0.0f;                                  // [AT4], undivided
                }
            left[m].round(p[m]);
        }
        add_product<false>(dv, left, stage + COLUMNS * WIDE, WIDE);                      // [AT6]
#pragma unroll
        for (int m = 0; m < M; m++) left[m].round(ds[m]);
        add_product<false>(dk, left, stage, WIDE);                                       // [AT10]
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) dk[m][n][e] *= scale, dv[m][n][e] *= drop.grow != 0.0f ? drop.grow : 1.0f;
    put(dx + start(s, at.head, 1, 3), dk, mine, j0, stride, s);
    put(dx + start(s, at.head, 2, 3), dv, mine + ROWS * WIDE, j0, stride, s);
}
