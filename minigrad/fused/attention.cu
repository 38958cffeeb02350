// attention on a GPU. Formula, names and [AT] numbers: attention.py.
//
// A warp keeps 16 M rows, and goes through the columns, COLUMNS at a time, that meet them under the diagonal. Its rows
// are queries in forward and backward_q, keys in backward_kv. What belongs to the columns lies in shared memory, for
// all warps of the block, in two stages: cp.async fills one while the other is multiplied. Scores never leave the
// registers: the sums of one product are the left factor of the next (tiles.cuh). Beyond D entries and T rows, tiles
// hold 0, and nothing else need be done: keys beyond T lie above the diagonal of all queries that are kept; queries
// beyond T have dy = 0 and delta = 0.
//
// Shared memory gives 128 bytes a clock. The right factor of one mma.sync is 256 bytes, and at 63 % of its peak an SM
// of an H100 does one in 1.6 clocks: so M is 2 where there are registers for it, two products for each read. Rows are
// WIDE entries apart, an odd number of 16 bytes: the 8 rows that ldmatrix reads at once lie in 32 different banks.
//
// Why backward takes seven products and not five. For scores to be computed once, one block must add up dk and dv while
// dq grows in global memory, in float, each tile in its turn; and to keep that order without locks, the block has to go
// through all keys of a head. In clocks of an H100 (1.75 GHz, 3.0 TB/s), for 64 x 64 scores of heads of 64 entries:
//     7 products at 63 %                                                                     1420
//     5 products at 63 %                                                                     1020
//     dq read and written, q and dy read, with 128 keys at a time: 24 KB                     1900
// L2 would have to hide the last, but 264 blocks with a head each have 138 MB in use at T = 1024. If instead each 128
// keys write a dq of their own, to be added up later, 768 heads move 1.8 GB: 0.6 ms, where two products at 63 % are
// 0.17 ms. Two kernels need no such memory, have B H T / 128 blocks and not B H, and give a sequence the same bits in
// any batch.
#include "common.cuh"
#include "philox.cuh"
#include "tiles.cuh"
#include "attention.cuh"

constexpr bool HALF = sizeof(T) == 2;
constexpr int M = HALF && HEAD <= 64 ? 2 : 1, WARPS = 4, THREADS = 32 * WARPS, ROWS = 16 * M * WARPS;
constexpr int FORWARD = HALF ? HEAD <= 64 ? 64 : 32 : 16, BACKWARD = HALF ? 32 : 16;     // COLUMNS
constexpr int WIDE = HEAD + PACK;
constexpr int N = HEAD / 8;

// f(entry, m, n, e) for all sums of a warp.
template<int S, class F> __device__ __forceinline__ void each(float (&d)[M][S][4], F f) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < S; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) f(d[m][n][e], m, n, e);
}

// tile (COUNT, WIDE) = rows first.. of x, whose rows are `stride` apart: on their way, to be waited for. Every pack is
// aligned, and all there or not at all: attention_gpu.py sees to it.
template<int COUNT> __device__ __forceinline__ void get(T* tile, const T* x, int first, int stride, Shape s) {
    constexpr int ACROSS = HEAD / PACK, DOWN = THREADS / ACROSS;
    int r = threadIdx.x / ACROSS, c = threadIdx.x % ACROSS * PACK;
    const T* from = x + (long long)(first + r) * stride + c;
    tile += r * WIDE + c;
#pragma unroll
    for (int k = 0; k < COUNT; k += DOWN, from += DOWN * stride) {
        if (COUNT % DOWN && k + r >= COUNT) continue;
        copy16_async(tile + k * WIDE, from, first + k + r < s.T && c < s.D);
    }
}

// Rows at.. of a and of b, one tile after the other: on their way to the stage whose turn it is.
template<int COLUMNS> __device__ __forceinline__ T* stage_of(T* stages, int at) {
    return stages + at / COLUMNS % 2 * 2 * COLUMNS * WIDE;
}
template<int COLUMNS> __device__ __forceinline__ void fetch(T* stages, const T* a, int a_stride, const T* b,
                                                            int b_stride, int at, Shape s) {
    get<COLUMNS>(stage_of<COLUMNS>(stages, at), a, at, a_stride, s);
    get<COLUMNS>(stage_of<COLUMNS>(stages, at) + COLUMNS * WIDE, b, at, b_stride, s);
    commit_copies();
}

// Rows first.. of x = a warp's sums, by way of its own rows of a tile.
__device__ __forceinline__ void put(T* x, float (&d)[M][N][4], T* mine, int first, int stride, Shape s) {
    __syncwarp();
    each(d, [&](float v, int m, int n, int e) { mine[(16 * m + row_of(e)) * WIDE + column_of(n, e)] = T(v); });
    __syncwarp();
    for (int i = threadIdx.x % 32; i < 16 * M * (HEAD / PACK); i += 32) {
        int r = i / (HEAD / PACK), c = i % (HEAD / PACK) * PACK;
        if (first + r < s.T && c < s.D) store16(x + (long long)(first + r) * stride + c, load16(mine + r * WIDE + c));
    }
}

// The same for all of a warp's scores.
template<int S, bool TURNED> __device__ __forceinline__ void kept(uint32_t (&bits)[M], Drop drop, Shape s, int i,
                                                                  int j) {
#pragma unroll
    for (int m = 0; m < M; m++)
        bits[m] = drop.grow == 0.0f ? ~0u : TURNED ? kept<S, true>(drop.mask, s, i, j + 16 * m)
                                                   : kept<S, false>(drop.mask, s, i + 16 * m, j);
}

// d = factor d where a bit is set, 0 elsewhere.
template<int S> __device__ __forceinline__ void scatter(float (&d)[M][S][4], const uint32_t (&bits)[M], float factor) {
    each(d, [&](float& v, int m, int n, int e) { v = bits[m] >> (4 * n + e) & 1 ? factor * v : 0.0f; });
}

// d = -inf where the key lies behind the query.
template<int S, bool TURNED> __device__ __forceinline__ void hide(float (&d)[M][S][4], int i, int j) {
    each(d, [&](float& v, int m, int n, int e) {
        int row = 16 * m + row_of(e), column = column_of(n, e);
        if (TURNED ? j + row > i + column : j + column > i + row) v = -INFINITY;
    });
}

// y (B, T, H D) and lse (B, H, T): written.
extern "C" __global__ void __launch_bounds__(THREADS, 2) forward(const T* qkv, ARGUMENTS, T* y, float* lse) {
    UNPACK;
    const int own = threadIdx.x / 32 * 16 * M;
    constexpr int COLUMNS = FORWARD, S = COLUMNS / 8;
    const int first = first_row<ROWS, true>(), i0 = first + own, end = min(s.T, first + ROWS);
    const T *k = qkv + start(s, 1, 3), *v = qkv + start(s, 2, 3);
    T *tile = (T*)dynamic_shared(), *mine = tile + own * WIDE, *stages = tile + ROWS * WIDE;
    get<ROWS>(tile, qkv + start(s, 0, 3), first, stride, s);
    fetch<COLUMNS>(stages, k, stride, v, stride, 0, s);
    wait_copies<0>();
    __syncthreads();
    InRegisters<HEAD, T> q[M];
    float out[M][N][4] = {}, most[M][2], total[M][2] = {};
#pragma unroll
    for (int m = 0; m < M; m++) {
        q[m].load({mine + 16 * m * WIDE, WIDE});
        most[m][0] = most[m][1] = -INFINITY;
    }
    for (int j0 = 0; j0 < end; j0 += COLUMNS) {
        wait_copies<0>();
        __syncthreads();                                    // all have this stage, and are done with the other
        if (j0 + COLUMNS < end) fetch<COLUMNS>(stages, k, stride, v, stride, j0 + COLUMNS, s);
        if (i0 >= s.T || j0 >= i0 + 16 * M) continue;
        const T* stage = stage_of<COLUMNS>(stages, j0);
        uint32_t bits[M];
        kept<S, false>(bits, drop, s, i0, j0);
        float a[M][S][4] = {};
        add_product<true>(a, q, stage, WIDE);                                            // [AT1], undivided
        if (j0 + COLUMNS > i0) hide<S, false>(a, i0, j0);
#pragma unroll
        for (int m = 0; m < M; m++)
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
        if (drop.grow != 0.0f) scatter(a, bits, 1.0f);
        InRegisters<COLUMNS, T> p[M];
#pragma unroll
        for (int m = 0; m < M; m++) p[m].round(a[m]);
        add_product<false>(out, p, stage + COLUMNS * WIDE, WIDE);                        // [AT5,12], undivided
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = of_row(total[m][half], Sum()), factor = (drop.grow != 0.0f ? drop.grow : 1.0f) / sum;
            int i = i0 + 16 * m + row_of(2 * half);
            if (i < s.T && threadIdx.x % 4 == 0)
                lse[(long long)head() * s.T + i] = scale * most[m][half] + logf(sum);   // [AT2]
#pragma unroll
            for (int n = 0; n < N; n++) out[m][n][2 * half] *= factor, out[m][n][2 * half + 1] *= factor;   // [AT3,4]
        }
    put(y + start(s, 0, 1), out, mine, i0, narrow, s);
}

// The q part of dx (B, T, 3 H D), and delta (B, H, T): written.
extern "C" __global__ void __launch_bounds__(THREADS, 2) backward_q(const T* qkv, const T* dy, const T* y,
                                                                    const float* lse, ARGUMENTS, float* delta, T* dx) {
    UNPACK;
    const int own = threadIdx.x / 32 * 16 * M;
    constexpr int COLUMNS = BACKWARD, S = COLUMNS / 8;
    const int first = first_row<ROWS, true>(), i0 = first + own, end = min(s.T, first + ROWS);
    const T *k = qkv + start(s, 1, 3), *v = qkv + start(s, 2, 3);
    const long long narrow_start = start(s, 0, 1), line = (long long)head() * s.T;
    T *tiles = (T*)dynamic_shared(), *mine = tiles + own * WIDE, *stages = tiles + 2 * ROWS * WIDE;
    T* ys = stages + 2 * COLUMNS * WIDE;                    // until the second stage is used
    get<ROWS>(tiles, qkv + start(s, 0, 3), first, stride, s);
    get<ROWS>(tiles + ROWS * WIDE, dy + narrow_start, first, narrow, s);
    get<ROWS>(ys, y + narrow_start, first, narrow, s);
    fetch<COLUMNS>(stages, k, stride, v, stride, 0, s);
    wait_copies<0>();
    __syncthreads();
    InRegisters<HEAD, T> q[M];
    InMemory<HEAD, T> g[M];                                 // there are not registers enough for both
    float dq[M][N][4] = {}, shift[M][2], its_delta[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) {
        q[m].load({mine + 16 * m * WIDE, WIDE});
        g[m] = {mine + (ROWS + 16 * m) * WIDE, WIDE};
#pragma unroll
        for (int half = 0; half < 2; half++) {              // rows g and g + 8
            int row = own + 16 * m + row_of(2 * half), i = first + row;
            float sum = 0.0f, a[PACK], b[PACK];
            for (int e = threadIdx.x % 4 * PACK; e < HEAD; e += 4 * PACK) {
                load(a, tiles + (ROWS + row) * WIDE + e, PACK);
                load(b, ys + row * WIDE + e, PACK);
#pragma unroll
                for (int n = 0; n < PACK; n++) sum += a[n] * b[n];                       // [AT8]
            }
            its_delta[m][half] = of_row(sum, Sum());
            shift[m][half] = i < s.T ? LOG2_E * lse[line + i] : 0.0f;
            if (i < s.T && threadIdx.x % 4 == 0) delta[line + i] = its_delta[m][half];
        }
    }
    for (int j0 = 0; j0 < end; j0 += COLUMNS) {
        wait_copies<0>();
        __syncthreads();
        if (j0 + COLUMNS < end) fetch<COLUMNS>(stages, k, stride, v, stride, j0 + COLUMNS, s);
        if (i0 >= s.T || j0 >= i0 + 16 * M) continue;
        const T* stage = stage_of<COLUMNS>(stages, j0);
        uint32_t bits[M];
        kept<S, false>(bits, drop, s, i0, j0);
        float p[M][S][4] = {}, dp[M][S][4] = {};
        add_product<true>(p, q, stage, WIDE);                                            // [AT1], undivided
        if (j0 + COLUMNS > i0) hide<S, false>(p, i0, j0);
        each(p, [&](float& v, int m, int n, int e) { v = exp2f(c * v - shift[m][e / 2]); });             // [AT11]
        add_product<true>(dp, g, stage + COLUMNS * WIDE, WIDE);
        if (drop.grow != 0.0f) scatter(dp, bits, drop.grow);                             // [AT7]
        each(dp, [&](float& v, int m, int n, int e) { v = p[m][n][e] * (v - its_delta[m][e / 2]); });    // [AT9]
        InRegisters<COLUMNS, T> ds[M];
#pragma unroll
        for (int m = 0; m < M; m++) ds[m].round(dp[m]);
        add_product<false>(dq, ds, stage, WIDE);                                         // [AT10], undivided
    }
    each(dq, [&](float& v, int, int, int) { v *= scale; });
    put(dx + start(s, 0, 3), dq, mine, i0, stride, s);
}

// The k and v parts of dx: written.
extern "C" __global__ void __launch_bounds__(THREADS, 2) backward_kv(const T* qkv, const T* dy, const float* lse,
                                                                     const float* delta, ARGUMENTS, T* dx) {
    UNPACK;
    const int own = threadIdx.x / 32 * 16 * M;
    constexpr int COLUMNS = BACKWARD, S = COLUMNS / 8;
    const int first = first_row<ROWS, false>(), j0 = first + own;
    const T *q = qkv + start(s, 0, 3), *g = dy + start(s, 0, 1);
    const long long line = (long long)head() * s.T;
    T *tiles = (T*)dynamic_shared(), *mine = tiles + own * WIDE, *stages = tiles + 2 * ROWS * WIDE;
    float* numbers = (float*)(stages + 4 * COLUMNS * WIDE);                              // lse and delta, two stages
    auto fetch_all = [&](int i0) {
        float* to = numbers + i0 / COLUMNS % 2 * 2 * COLUMNS + threadIdx.x;
        int i = i0 + threadIdx.x % COLUMNS;
        if (threadIdx.x < 2 * COLUMNS) copy4_async(to, (threadIdx.x < COLUMNS ? lse : delta) + line + i, i < s.T);
        fetch<COLUMNS>(stages, q, stride, g, narrow, i0, s);
    };
    get<ROWS>(tiles, qkv + start(s, 1, 3), first, stride, s);
    get<ROWS>(tiles + ROWS * WIDE, qkv + start(s, 2, 3), first, stride, s);
    fetch_all(first);
    InMemory<HEAD, T> k[M], v[M];
#pragma unroll
    for (int m = 0; m < M; m++) {
        k[m] = {mine + 16 * m * WIDE, WIDE};
        v[m] = {mine + (ROWS + 16 * m) * WIDE, WIDE};
    }
    float dk[M][N][4] = {}, dv[M][N][4] = {};
    for (int i0 = first; i0 < s.T; i0 += COLUMNS) {
        wait_copies<0>();
        __syncthreads();
        if (i0 + COLUMNS < s.T) fetch_all(i0 + COLUMNS);
        if (j0 >= s.T || j0 >= i0 + COLUMNS) continue;
        const T* stage = stage_of<COLUMNS>(stages, i0);
        const float *its_lse = numbers + i0 / COLUMNS % 2 * 2 * COLUMNS, *its_delta = its_lse + COLUMNS;
        uint32_t bits[M];
        kept<S, true>(bits, drop, s, i0, j0);
        float p[M][S][4] = {}, ds[M][S][4] = {};
        add_product<true>(p, k, stage, WIDE);                                            // [AT1], undivided
        if (i0 < j0 + 16 * M) hide<S, true>(p, i0, j0);
        each(p, [&](float& v, int m, int n, int e) {
            v = exp2f(c * v - LOG2_E * its_lse[column_of(n, e)]);                        // [AT11]
        });
        add_product<true>(ds, v, stage + COLUMNS * WIDE, WIDE);
        if (drop.grow != 0.0f) scatter(ds, bits, drop.grow);                             // [AT7]
        each(ds, [&](float& v, int m, int n, int e) {
            v = p[m][n][e] * (v - its_delta[column_of(n, e)]);                           // [AT9]
        });
        if (drop.grow != 0.0f) scatter(p, bits, 1.0f);                                   // [AT4], undivided
        InRegisters<COLUMNS, T> left[M];
#pragma unroll
        for (int m = 0; m < M; m++) left[m].round(p[m]);
        add_product<false>(dv, left, stage + COLUMNS * WIDE, WIDE);                      // [AT6]
#pragma unroll
        for (int m = 0; m < M; m++) left[m].round(ds[m]);
        add_product<false>(dk, left, stage, WIDE);                                       // [AT10]
    }
    each(dk, [&](float& v, int, int, int) { v *= scale; });
    if (drop.grow != 0.0f) each(dv, [&](float& v, int, int, int) { v *= drop.grow; });
    put(dx + start(s, 1, 3), dk, mine, j0, stride, s);
    put(dx + start(s, 2, 3), dv, mine + ROWS * WIDE, j0, stride, s);
}
