// attention on a GPU. Formula, names and [AT] numbers: attention.py.
//
// A block takes 64 queries (or 64 keys, for dk and dv) of one head, and goes through the tiles of 64 keys (or queries)
// that meet them under the diagonal. No T x T array exists. Tiles lie in shared memory, HEAD entries wide: what is
// beyond the head's D entries, or beyond T, is 0. dq has a kernel of its own, which computes the scores again: blocks
// that add into one array would do so in an order that changes.
#include "common.cuh"
#include "philox.cuh"
#include "tiles.cuh"

constexpr int TILE = 64, WARPS = 4, THREADS = 32 * WARPS;
constexpr int WIDE = HEAD + PACK, ACROSS = TILE + PACK;                 // a row in shared memory: so that banks differ
constexpr int N = HEAD / 8, S = TILE / 8;                               // column tiles of a head, and of scores

struct Shape { int T, H, D; };                                          // qkv is (B, T, 3 H D)
struct Drop { float grow; Mask mask; };                                 // grow = 1 / (1 - rate), 0 for no dropout

__device__ __forceinline__ int head() { return blockIdx.x; }            // n H + h
__device__ __forceinline__ int batch(Shape s) { return blockIdx.x / s.H; }

// Entry 0 of head h of row 0, in an array with `parts` heads side by side.
__device__ __forceinline__ long long start(Shape s, int part, int parts) {
    return (long long)batch(s) * s.T * parts * s.H * s.D + ((long long)part * s.H + blockIdx.x % s.H) * s.D;
}

// tile (TILE, WIDE) = rows first.. of x, whose rows are `stride` apart; 0 beyond T and D.
__device__ __forceinline__ void get(T* tile, const T* x, int first, long long stride, Shape s) {
    for (int i = threadIdx.x; i < TILE * (HEAD / PACK); i += THREADS) {
        int r = i / (HEAD / PACK), c = i % (HEAD / PACK) * PACK;
        float v[PACK];
        load(v, x + (first + r) * stride + c, first + r < s.T ? s.D - c : 0);
        store(tile + r * WIDE + c, v, PACK);
    }
}

// Rows first.. of x = factor times the sums of all warps, by way of a tile.
__device__ __forceinline__ void put(T* x, float (&d)[N][4], float top, float bottom, T* tile, int first,
                                    long long stride, Shape s) {
    __syncthreads();
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int e = 0; e < 4; e++)
            tile[(threadIdx.x / 32 * 16 + row_of(e)) * WIDE + column_of(n, e)] = T(d[n][e] * (e < 2 ? top : bottom));
    __syncthreads();
    for (int i = threadIdx.x; i < TILE * (HEAD / PACK); i += THREADS) {
        int r = i / (HEAD / PACK), c = i % (HEAD / PACK) * PACK;
        float v[PACK];
        if (first + r >= s.T) continue;
        load(v, tile + r * WIDE + c, PACK);
        store(x + (first + r) * stride + c, v, s.D - c);
    }
}

// z of [AT4]: 0 or 1 / (1 - rate).
__device__ __forceinline__ float keep(Drop drop, Shape s, int i, int j) {
    if (drop.grow == 0.0f) return 1.0f;
    long long index = ((long long)head() * s.T + i) * s.T + j;
    uint4 w = philox(uint32_t(index / 4), drop.mask);
    uint32_t word = index % 4 == 0 ? w.x : index % 4 == 1 ? w.y : index % 4 == 2 ? w.z : w.w;
    return word >= drop.mask.least ? drop.grow : 0.0f;
}

// The scores, times 1 / sqrt(D), of 16 queries from i on with the keys from j on; -inf above the diagonal and beyond T.
__device__ __forceinline__ void scores(float (&v)[S][4], const T* q, const T* k, float scale, int i, int j, Shape s) {
#pragma unroll
    for (int n = 0; n < S; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) v[n][e] = 0.0f;
    Product<S, HEAD, false, true, T>::add(v, q, WIDE, k, WIDE);
#pragma unroll
    for (int n = 0; n < S; n++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int row = i + row_of(e), column = j + column_of(n, e);
            v[n][e] = column <= row && column < s.T ? v[n][e] * scale : -INFINITY;       // [AT1]
        }
}

#define ARGUMENTS int length, int heads, int size, float scale, float grow, uint32_t k0, uint32_t k1, uint32_t c1, \
                  uint32_t c2, uint32_t c3, uint32_t least
#define UNPACK const Shape s = {length, heads, size}; const Drop drop = {grow, {k0, k1, c1, c2, c3, least}}

// The max, or the sum, over the four lanes that share a row.
template<class F> __device__ __forceinline__ float of_row(float v, F combine) {
    v = combine(v, __shfl_xor_sync(~0u, v, 1));
    return combine(v, __shfl_xor_sync(~0u, v, 2));
}

// y (B, T, H D) and lse (B, H, T): written.
extern "C" __global__ void __launch_bounds__(THREADS, 1) forward(const T* qkv, ARGUMENTS, T* y, float* lse) {
    UNPACK;
    T *q = (T*)dynamic_shared(), *k = q + TILE * WIDE, *v = k + TILE * WIDE, *p = v + TILE * WIDE;
    int warp = threadIdx.x / 32, first = blockIdx.y * TILE, i0 = first + warp * 16;
    long long stride = 3LL * s.H * s.D;
    T* mine = p + warp * 16 * ACROSS;
    float out[N][4] = {}, a[S][4], m[2] = {-INFINITY, -INFINITY}, total[2] = {};
    get(q, qkv + start(s, 0, 3), first, stride, s);
    for (int j0 = 0; j0 < min(s.T, first + TILE); j0 += TILE) {
        __syncthreads();                                    // all warps are done with the last tiles
        get(k, qkv + start(s, 1, 3), j0, stride, s);
        get(v, qkv + start(s, 2, 3), j0, stride, s);
        __syncthreads();
        scores(a, q + warp * 16 * WIDE, k, scale, i0, j0, s);
#pragma unroll
        for (int half = 0; half < 2; half++) {              // rows g and g + 8
            float most = m[half], sum = 0.0f;
#pragma unroll
            for (int n = 0; n < S; n++) most = fmaxf(most, fmaxf(a[n][2 * half], a[n][2 * half + 1]));
            most = of_row(most, Max());
            float shrink = expf(m[half] - most);            // what was summed so far had another maximum
            m[half] = most;
#pragma unroll
            for (int n = 0; n < S; n++)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; e++) {
                    float weight = expf(a[n][e] - most);
                    sum += weight;
                    int row = row_of(e), column = column_of(n, e);
                    if (weight != 0.0f) weight *= keep(drop, s, i0 + row, j0 + column);  // [AT4]
                    mine[row * ACROSS + column] = T(weight);
                }
            total[half] = total[half] * shrink + of_row(sum, Sum());
#pragma unroll
            for (int n = 0; n < N; n++) out[n][2 * half] *= shrink, out[n][2 * half + 1] *= shrink;
        }
        __syncwarp();
        Product<N, TILE, false, false, T>::add(out, mine, ACROSS, v, WIDE);              // [AT5], undivided
    }
    put(y + start(s, 0, 1), out, 1.0f / total[0], 1.0f / total[1], q, first, (long long)s.H * s.D, s);   // [AT3]
    for (int half = 0; half < 2; half++)
        if (int i = i0 + row_of(2 * half); i < s.T && threadIdx.x % 4 == 0)
            lse[(long long)head() * s.T + i] = m[half] + logf(total[half]);              // [AT2]
}

// delta (B, H, T): written. One warp per query and head.
extern "C" __global__ void __launch_bounds__(THREADS, 1) deltas(const T* dy, const T* y, int length, int heads,
                                                                int size, long long rows, float* delta) {
    long long row = (long long)blockIdx.x * WARPS + threadIdx.x / 32;                    // (n T + i) H + h
    if (row >= rows) return;
    float sum = 0.0f, a[PACK], b[PACK];
    for (int c = threadIdx.x % 32 * PACK; c < size; c += 32 * PACK) {
        load(a, dy + row * size + c, size - c);
        load(b, y + row * size + c, size - c);
        for (int k = 0; k < PACK; k++) sum += a[k] * b[k];                               // [AT8]
    }
    for (int k = 16; k; k /= 2) sum += __shfl_xor_sync(~0u, sum, k);
    long long h = row % heads, i = row / heads % length, n = row / heads / length;
    if (threadIdx.x % 32 == 0) delta[(n * heads + h) * length + i] = sum;
}

// ds, and where it is wanted a = z p, of 16 queries from i on with the keys from j on, as tiles of entries.
__device__ __forceinline__ void gradients(T* ds, T* a, const T* q, const T* dy, const T* k, const T* v,
                                          const float* lse, const float* delta, float scale, int i, int j, Shape s,
                                          Drop drop) {
    float p[S][4], dp[S][4] = {};
    scores(p, q, k, scale, i, j, s);
    Product<S, HEAD, false, true, T>::add(dp, dy, WIDE, v, WIDE);
    const long long line = (long long)head() * s.T;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int row = row_of(2 * half);
        bool there = i + row < s.T;
        float its_lse = there ? lse[line + i + row] : 0.0f, its_delta = there ? delta[line + i + row] : 0.0f;
#pragma unroll
        for (int n = 0; n < S; n++)
#pragma unroll
            for (int e = 2 * half; e < 2 * half + 2; e++) {
                int column = column_of(n, e);
                float weight = there ? expf(p[n][e] - its_lse) : 0.0f;                   // [AT3]
                float z = weight != 0.0f ? keep(drop, s, i + row, j + column) : 0.0f;
                if (a) a[row * ACROSS + column] = T(z * weight);                         // [AT4]
                ds[row * ACROSS + column] = T(weight * (z * dp[n][e] - its_delta));      // [AT7,9]
            }
    }
}

// The q part of dx (B, T, 3 H D): written.
extern "C" __global__ void __launch_bounds__(THREADS, 1) backward_q(const T* qkv, const T* dy, const float* lse,
                                                                 const float* delta, ARGUMENTS, T* dx) {
    UNPACK;
    T *q = (T*)dynamic_shared(), *g = q + TILE * WIDE, *k = g + TILE * WIDE, *v = k + TILE * WIDE;
    T* ds = v + TILE * WIDE;
    int warp = threadIdx.x / 32, first = blockIdx.y * TILE;
    long long stride = 3LL * s.H * s.D;
    T* mine = ds + warp * 16 * ACROSS;
    float dq[N][4] = {};
    get(q, qkv + start(s, 0, 3), first, stride, s);
    get(g, dy + start(s, 0, 1), first, (long long)s.H * s.D, s);
    for (int j0 = 0; j0 < min(s.T, first + TILE); j0 += TILE) {
        __syncthreads();
        get(k, qkv + start(s, 1, 3), j0, stride, s);
        get(v, qkv + start(s, 2, 3), j0, stride, s);
        __syncthreads();
        gradients(mine, nullptr, q + warp * 16 * WIDE, g + warp * 16 * WIDE, k, v, lse, delta, scale,
                  first + warp * 16, j0, s, drop);
        __syncwarp();
        Product<N, TILE, false, false, T>::add(dq, mine, ACROSS, k, WIDE);               // [AT10]
    }
    put(dx + start(s, 0, 3), dq, scale, scale, q, first, stride, s);
}

// The k and v parts of dx: written.
extern "C" __global__ void __launch_bounds__(THREADS, 1) backward_kv(const T* qkv, const T* dy, const float* lse,
                                                                  const float* delta, ARGUMENTS, T* dx) {
    UNPACK;
    T *q = (T*)dynamic_shared(), *g = q + TILE * WIDE, *k = g + TILE * WIDE, *v = k + TILE * WIDE;
    T *ds = v + TILE * WIDE, *a = ds + TILE * ACROSS;
    int warp = threadIdx.x / 32, first = blockIdx.y * TILE;
    long long stride = 3LL * s.H * s.D;
    float dk[N][4] = {}, dv[N][4] = {};
    get(k, qkv + start(s, 1, 3), first, stride, s);
    get(v, qkv + start(s, 2, 3), first, stride, s);
    for (int i0 = first; i0 < s.T; i0 += TILE) {
        __syncthreads();
        get(q, qkv + start(s, 0, 3), i0, stride, s);
        get(g, dy + start(s, 0, 1), i0, (long long)s.H * s.D, s);
        __syncthreads();
        gradients(ds + warp * 16 * ACROSS, a + warp * 16 * ACROSS, q + warp * 16 * WIDE, g + warp * 16 * WIDE, k, v,
                  lse, delta, scale, i0 + warp * 16, first, s, drop);
        __syncthreads();                                    // now a warp takes 16 keys, with the queries of all
        Product<N, TILE, true, false, T>::add(dv, a + warp * 16, ACROSS, g, WIDE);       // [AT6]
        Product<N, TILE, true, false, T>::add(dk, ds + warp * 16, ACROSS, q, WIDE);      // [AT10]
    }
    put(dx + start(s, 1, 3), dk, scale, scale, q, first, stride, s);
    put(dx + start(s, 2, 3), dv, 1.0f, 1.0f, q, first, stride, s);
}
