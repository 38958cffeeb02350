// cross_entropy and its head on a GPU. Formula, names and [CE] numbers: cross_entropy.py.
#include "common.cuh"

constexpr float LOG2_E = 1.4426950408889634f;
__device__ __forceinline__ float exp_of(float v) { return exp2f(v * LOG2_E); }           // of one instruction

// A block for the row of logits z with the true token y, below 0 for padding. The row has `width` entries, of which V
// are logits. g (width), if it is not null: written, 0 beyond V; it may be z. KEPT: z is read once, and waits for its
// return in shared memory. A thread goes back over its own packs only.
template<bool KEPT> __device__ __forceinline__ void row(const T* z, long long y, int V, int width, float e, T* g,
                                                        float* loss) {
    T* kept = (T*)dynamic_shared();
    const T* from = KEPT ? kept : z;
    float v[PACK], m = -INFINITY, s = 0.0f, total = 0.0f;
    if (y < 0) {
        for (int k = 0; k < PACK; k++) v[k] = 0.0f;
        for (PACKS(i, g ? width : 0)) store(g + i, v, width - i);
        if (threadIdx.x == 0) *loss = 0.0f;
        return;
    }
    float first = float(z[0]), at_y = y < V ? float(z[y]) : __int_as_float(0x7fc00000);  // no such token: NaN
    if (KEPT) {
        for (PACKS(i, V)) {
            if (V - i >= PACK && (size_t)(z + i) % 16 == 0) {
                copy16_async(kept + i, z + i);
            } else {
                load(v, z + i, V - i);
                store(kept + i, v, PACK);
            }
        }
        commit_copies();
        wait_copies<0>();
    }
    for (PACKS(i, V)) {
        load(v, from + i, V - i);
        float most = m;
        for (int k = 0; k < PACK; k++) {
            if (i + k >= V) v[k] = -INFINITY;
            most = fmaxf(most, v[k]);
        }
        if (most > m) s *= exp_of(m - most), m = most;
        float shift = m == -INFINITY ? 0.0f : m;
        for (int k = 0; k < PACK; k++) s += exp_of(v[k] - shift);
        if (e > 0.0f)                                       // from the first logit: the sum of many large ones is vague
            for (int k = 0; k < PACK; k++) if (i + k < V) total += v[k] - first;
    }
    float own = m;
    m = block_max(m);
    s = block_sum(s * exp_of(own - m));                                                  // [CE1]
    if (e > 0.0f) total = block_sum(total);
    if (threadIdx.x == 0)
        *loss = logf(s) - (1.0f - e) * (at_y - m) - (e > 0.0f ? e * (total / V + first - m) : 0.0f);   // [CE3]
    float per_s = 1.0f / s, even = e / V;
    for (PACKS(i, g ? width : 0)) {
        load(v, from + i, V - i);
        for (int k = 0; k < PACK; k++) v[k] = exp_of(v[k] - m) * per_s - even;           // [CE2], and t's even part
        if (i <= y && y < i + PACK)
            for (int k = 0; k < PACK; k++) if (i + k == y) v[k] -= 1.0f - e;
        if (V - i < PACK)
            for (int k = 0; k < PACK; k++) if (i + k >= V) v[k] = 0.0f;
        store(g + i, v, width - i);                                                      // [CE5] undivided
    }
}

// z, g (rows, width), y and losses (rows).
extern "C" __global__ void __launch_bounds__(512, 2) rows_kept(const T* z, const long long* y, int V, int width,
                                                               float e, T* g, float* losses) {
    long long n = (long long)blockIdx.x * width;
    row<true>(z + n, y[blockIdx.x], V, width, e, g + n, losses + blockIdx.x);
}
extern "C" __global__ void __launch_bounds__(512, 2) rows_read(const T* z, const long long* y, int V, int width,
                                                               float e, T* g, float* losses) {
    long long n = (long long)blockIdx.x * width;
    row<false>(z + n, y[blockIdx.x], V, width, e, g ? g + n : g, losses + blockIdx.x);
}

// out = factor x.
template<class E> __device__ __forceinline__ void scale(const E* x, const float* factor, long long n, T* out) {
    long long i = flat_start();
    float v[PACK], f = *factor;                                                          // dL / n of [CE5]
    load(v, x + i, n - i);
    for (int k = 0; k < PACK; k++) v[k] *= f;
    store(out + i, v, n - i);
}
extern "C" __global__ void scaled(const T* x, const float* factor, long long n, T* out) { scale(x, factor, n, out); }
extern "C" __global__ void scaled_wide(const float* x, const float* factor, long long n, T* out) {
    scale(x, factor, n, out);
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
