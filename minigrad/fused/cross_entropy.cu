// cross_entropy and its head on a GPU. Formula, names and [CE] numbers: cross_entropy.py.
#include "common.cuh"

constexpr float LN_2 = 0.6931471805599453f;

// For a row whose largest logit is m, 2^power(z) is e^(z - m) but for 2^rest, the same for all of the row.
struct Exponents {
    float c, b, rest;
    __device__ __forceinline__ explicit Exponents(float m) {
        c = fabsf(m) < 1073741824.0f ? LOG2_E : 1.0f;                                    // 2^30
        b = c * m, rest = fmaf(c, m, -b);
    }
    __device__ __forceinline__ float power(float z) const { return fmaf(c, z, -b); }     // [CE7]
    __device__ __forceinline__ float operator()(float z) const { return exp2f(power(z)); }       // of one instruction
};

// The packs of a row that are this thread's: for (MINE(j)) ...
#define MINE(j) int j = threadIdx.x; j < packs; j += blockDim.x

// A block for the row of logits z with the true token *truth, below 0 for padding. The row has `width` entries, V of
// them logits. g (width), if it is not null: z itself, where it is written over; 0 beyond V. stats (2), if it is not
// null: m and 1 / u. KEPT: z is read once, and waits for its return in shared memory. All of it is asked for before
// anything is waited for, the token too.
//
// Packs begin at the first 16-byte boundary; an entry before it or behind the last pack is some thread's `edge`.
template<bool KEPT> __device__ __forceinline__ void row(const T* z, const long long* truth, int V, int width, float e,
                                                        T* g, float* loss, float* stats) {
    int lead = min(V, int(-(size_t)z % 16 / sizeof(T))), packs = (V - lead) / PACK;
    int at = threadIdx.x < lead ? threadIdx.x : threadIdx.x + packs * PACK;
    const uint4 *body = (const uint4*)(z + lead), *from = KEPT ? (const uint4*)dynamic_shared() : body;
    if (KEPT) {
#pragma unroll 4
        for (MINE(j)) copy16_async((uint4*)dynamic_shared() + j, body + j);
        commit_copies();
    }
    long long y = *truth;
    if (y < 0) {
        wait_copies<0>();
        __syncthreads();                                    // z may be g
        float zeros[PACK] = {};
        for (PACKS(i, g ? width : 0)) store(g + i, zeros, width - i);
        if (threadIdx.x == 0) *loss = 0.0f;
        return;
    }
    float at_y = y < V ? float(z[y]) : __int_as_float(0x7fc00000);                       // no such token: NaN
    float edge = at < V ? float(z[at]) : -INFINITY, w = 0.0f, powers = 0.0f, v[PACK];
    uint32_t most = everywhere<T>(edge);
    if (KEPT) wait_copies<0>();
#pragma unroll 4
    for (MINE(j)) most = larger<T>(most, load16(from + j));
    float m = block_max(largest<T>(most));
    Exponents to(m);
#pragma unroll 2
    for (MINE(j)) {
        unpack<T>(load16(from + j), v);
        for (int k = 0; k < PACK; k++) w += to(v[k]);                                    // [CE7]
        if (e > 0.0f)
            for (int k = 0; k < PACK; k++) powers += to.power(v[k]);
    }
    if (at < V) w += to(edge), powers += to.power(edge);
    w = block_sum(w);
    if (e > 0.0f) powers = block_sum(powers);
    float per_w = 1.0f / w, even = e / V;
    if (threadIdx.x == 0) {
        float smooth = e > 0.0f ? e * ((powers / V - to.rest) / to.c) : 0.0f;
        *loss = logf(w) - LN_2 * to.rest - (1.0f - e) * (at_y - m) - smooth;             // [CE3,8]
        if (stats) stats[0] = m, stats[1] = per_w;
    }
    if (!g) return;
#pragma unroll 2
    for (MINE(j)) {
        unpack<T>(load16(from + j), v);
        for (int k = 0; k < PACK; k++) v[k] = to(v[k]) * per_w - even;                   // [CE7], and t's even part
        store16((uint4*)(g + lead) + j, packed<T>(v));                                   // [CE5] undivided
    }
    if (at < V) g[at] = T(to(edge) * per_w - even);
    for (int i = V + threadIdx.x; i < width; i += blockDim.x) g[i] = T(0.0f);
    __syncthreads();
    if (threadIdx.x == 0 && y < V) g[y] = T(to(at_y) * per_w - even - (1.0f - e));
}

// z, g (rows, width), y and losses (rows), stats (rows, 2).
extern "C" __global__ void __launch_bounds__(512, 2) rows_kept(const T* z, const long long* y, int V, int width,
                                                               float e, T* g, float* losses, float* stats) {
    long long n = blockIdx.x;
    row<true>(z + n * width, y + n, V, width, e, g ? g + n * width : g, losses + n, stats ? stats + 2 * n : stats);
}
extern "C" __global__ void __launch_bounds__(512, 2) rows_read(const T* z, const long long* y, int V, int width,
                                                               float e, T* g, float* losses, float* stats) {
    long long n = blockIdx.x;
    row<false>(z + n * width, y + n, V, width, e, g ? g + n * width : g, losses + n, stats ? stats + 2 * n : stats);
}

// dz = factor (p - t), from rows z (N, V) and what stats say of them; one block a row.
extern "C" __global__ void __launch_bounds__(512, 2) slopes(const T* __restrict__ z, const long long* y,
                                                            const float* stats, const float* factor, int V, float e,
                                                            T* __restrict__ dz) {
    long long n = blockIdx.x, truth = y[n];
    z += n * V, dz += n * V;
    if (truth < 0) {
        float zeros[PACK] = {};
        for (PACKS(i, V)) store(dz + i, zeros, V - i);
        return;
    }
    int lead = min(V, int(-(size_t)z % 16 / sizeof(T))), packs = (size_t)(dz + lead) % 16 ? 0 : (V - lead) / PACK;
    float f = *factor, per_w = stats[2 * n + 1] * f, even = e / V * f, v[PACK];
    Exponents to(stats[2 * n]);
#pragma unroll 4
    for (MINE(j)) {
        unpack<T>(load16((const uint4*)(z + lead) + j), v);
        for (int k = 0; k < PACK; k++) v[k] = to(v[k]) * per_w - even;                   // [CE5,7]
        store16((uint4*)(dz + lead) + j, packed<T>(v));
    }
    for (int k = threadIdx.x; k < V - packs * PACK; k += blockDim.x) {
        int at = k < lead ? k : k + packs * PACK;
        dz[at] = T(to(float(z[at])) * per_w - even);
    }
    __syncthreads();
    if (threadIdx.x == 0 && truth < V) dz[truth] = T(to(float(z[truth])) * per_w - even - (1.0f - e) * f);
}

// out = factor x.
extern "C" __global__ void scaled(const float* x, const float* factor, long long n, T* out) {
    long long i = flat_start();
    float v[PACK], f = *factor;                                                          // dL / n of [CE5]
    load(v, x + i, n - i);
    for (int k = 0; k < PACK; k++) v[k] *= f;
    store(out + i, v, n - i);
}

// out = beta out + factor x; x may be out.
extern "C" __global__ void add_scaled(const float* x, const float* factor, long long n, float beta, float* out) {
    long long i = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    float v[4], old[4] = {}, f = *factor;
    load(v, x + i, n - i);
    if (beta != 0.0f) load(old, out + i, n - i);
    for (int k = 0; k < 4; k++) v[k] = beta * old[k] + f * v[k];
    store(out + i, v, n - i);
}
