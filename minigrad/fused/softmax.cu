// softmax and log_softmax on a GPU. Formula, names and [SM] numbers: softmax.py.
//
// Of a row of D entries the first `seen` count: all of them, or if it is causal those up to the diagonal of its square.
// The others are not read; they count as -INFINITY.
#include "common.cuh"

constexpr int ENTRIES = 32, HELD = ENTRIES / PACK;          // of a row, that a thread holds

// The packs of a row that are this thread's, of a team's: for (MINE(k, i)) ... is the k-th, from entry i on.
#define MINE(k, i) int k = 0, i = threadIdx.x % team * PACK; k < HELD; k++, i += team * PACK

__device__ __forceinline__ int seen_by(long long row, int D, int causal) {
    return causal ? int(row % D) + 1 : D;                                                // [SM6]
}

template<class F> __device__ __forceinline__ float team_reduce(float v, int team, F combine) {
    return team == 32 ? warp_reduce(v, combine) : block_reduce(v, combine);
}

// A row by the team of threads that holds it, so that memory is read once.
template<bool WHOLE> __device__ __forceinline__ void held(const T* x, int D, int seen, int team, int log, T* y) {
    uint4 raw[HELD];
    float m = -INFINITY, s = 0.0f, v[HELD][PACK];
#pragma unroll
    for (MINE(k, i)) {
        uint32_t least = everywhere<T>(-INFINITY);
        raw[k] = i < seen ? load_pack<WHOLE>(x + i, D - i) : make_uint4(least, least, least, least);
    }
#pragma unroll
    for (MINE(k, i)) {
        unpack<T>(raw[k], v[k]);
        if (i < seen && seen < i + PACK)
            for (int j = 0; j < PACK; j++) if (i + j >= seen) v[k][j] = -INFINITY;
        for (int j = 0; j < PACK; j++) m = fmaxf(m, v[k][j]);
    }
    m = team_reduce(m, team, Max());
#pragma unroll
    for (MINE(k, i)) for (int j = 0; j < PACK; j++) {
        float below = v[k][j] - m, e = exp2f(below * LOG2_E);                            // [SM1]
        s += e;
        v[k][j] = log ? below : e;
    }
    s = team_reduce(s, team, Sum());
    float log_s = logf(s), per_s = 1.0f / s;
#pragma unroll
    for (MINE(k, i)) {
        for (int j = 0; j < PACK; j++) v[k][j] = log ? v[k][j] - log_s : v[k][j] * per_s;      // [SM4], [SM2]
        if (!WHOLE) store(y + i, v[k], D - i);
        else if (i < D) store16(y + i, packed<T>(v[k]));
    }
}

// A team, a warp or the whole block, for each of N rows. y is p, or log p.
extern "C" __global__ void __launch_bounds__(512) forward(const T* x, int N, int D, int team, int log, int causal,
                                                          T* y) {
    long long n = (long long)blockIdx.x * (blockDim.x / team) + threadIdx.x / team;
    if (n >= N) return;
    if (D % PACK == 0 && ((size_t)x | (size_t)y) % 16 == 0)
        held<true>(x + n * D, D, seen_by(n, D, causal), team, log, y + n * D);
    else
        held<false>(x + n * D, D, seen_by(n, D, causal), team, log, y + n * D);
}

// The same for rows that are too long to be held, a block for each.
extern "C" __global__ void forward_long(const T* x, int D, int log, int causal, T* y) {
    int seen = seen_by(blockIdx.x, D, causal);
    x += (long long)blockIdx.x * D;
    y += (long long)blockIdx.x * D;
    float m = -INFINITY, s = 0.0f, v[PACK];
    for (PACKS(i, seen)) {
        load(v, x + i, seen - i);
        for (int k = 0; k < PACK; k++) if (i + k < seen) m = fmaxf(m, v[k]);
    }
    m = block_max(m);
    for (PACKS(i, seen)) {
        load(v, x + i, seen - i);
        for (int k = 0; k < PACK; k++) if (i + k < seen) s += exp2f((v[k] - m) * LOG2_E);      // [SM1]
    }
    s = block_sum(s);
    float log_s = logf(s), per_s = 1.0f / s;
    for (PACKS(i, D)) {
        load(v, x + i, seen - i);
        for (int k = 0; k < PACK; k++) {
            float below = (i + k < seen ? v[k] : -INFINITY) - m;
            v[k] = log ? below - log_s : exp2f(below * LOG2_E) * per_s;                  // [SM4], [SM2]
        }
        store(y + i, v, D - i);
    }
}

extern "C" __global__ void backward(const T* dy, const T* y, int D, int log, int causal, T* dx) {
    int seen = seen_by(blockIdx.x, D, causal);
    dy += (long long)blockIdx.x * D;
    y += (long long)blockIdx.x * D;
    dx += (long long)blockIdx.x * D;
    float t = 0.0f, v[PACK], d[PACK];
    for (PACKS(i, seen)) {
        load(v, y + i, d, dy + i, seen - i);
        for (int k = 0; k < PACK; k++) t += log ? d[k] : v[k] * d[k];
    }
    t = block_sum(t);
    for (PACKS(i, D)) {
        load(v, y + i, d, dy + i, seen - i);
        for (int k = 0; k < PACK; k++)
            d[k] = log ? d[k] - exp2f(v[k] * LOG2_E) * t : v[k] * (d[k] - t);            // [SM5], [SM3]
        for (int k = 0; k < PACK; k++) if (i + k >= seen) d[k] = 0.0f;                   // [SM6]
        store(dx + i, d, D - i);
    }
}
