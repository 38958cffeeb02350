// layer_norm on a GPU. Formula, names and [LN] numbers: layer_norm.py.
//
// A row of D entries lies in the registers of a team of threads, so that memory is read once: of a warp, which needs no
// barrier for its sums, or of the whole block where the lanes of a warp would have to hold more than ENTRIES each.
#include "common.cuh"

constexpr int ENTRIES = 24, HELD = ENTRIES / PACK, THREADS = 128;
constexpr int BLOCKS = 3;                                   // of backward on a multiprocessor: 168 registers a thread

// The packs of a row that are this thread's: for (MINE(k, i)) ... is the k-th, from entry i on, which may be beyond D.
#define MINE(k, i) int k = 0, i = threadIdx.x % team * PACK; k < HELD; k++, i += team * PACK

__device__ __forceinline__ float team_sum(float v, int team) { return team == 32 ? warp_sum(v) : block_sum(v); }

// mu, rstd (N,): written. A team takes one row.
extern "C" __global__ void __launch_bounds__(THREADS) forward(const T* x, const T* w, const T* b, float eps, int N,
                                                              int D, int team, T* y, float* mu, float* rstd) {
    int n = blockIdx.x * (blockDim.x / team) + threadIdx.x / team;
    if (n >= N) return;
    x += (long long)n * D;
    y += (long long)n * D;
    float s = 0.0f, v[HELD][PACK];
#pragma unroll
    for (MINE(k, i)) {
        load(v[k], x + i, D - i);
        for (int j = 0; j < PACK; j++) s += v[k][j];
    }
    float m = team_sum(s, team) / D;                                                     // [LN1]
    s = 0.0f;
#pragma unroll
    for (MINE(k, i)) for (int j = 0; j < PACK; j++) if (i + j < D) s += (v[k][j] - m) * (v[k][j] - m);
    float r = 1.0f / sqrtf(team_sum(s, team) / D + eps);                                 // [LN2]
#pragma unroll
    for (MINE(k, i)) {
        float scale[PACK], shift[PACK];
        load(scale, w + i, D - i);
        load(shift, b + i, D - i);
        for (int j = 0; j < PACK; j++) v[k][j] = (v[k][j] - m) * r * scale[j] + shift[j];      // [LN3,4]
        store(y + i, v[k], D - i);
    }
    if (threadIdx.x % team == 0) mu[n] = m, rstd[n] = r;
}

// The teams of the grid take turns with the rows, and each keeps its share of dw and db in registers. Those of a block
// are added up, always in the same order, and become its row of parts (blocks, 2, D), which add_rows() adds up.
// more, or null: what x's gradient has got from elsewhere, and dx is the sum.
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) backward(const T* dy, const T* x, const T* w,
                                                                       const float* mu, const float* rstd, int N, int D,
                                                                       int team, const T* more, T* dx, float* parts) {
    int teams = blockDim.x / team, mine = threadIdx.x / team;
    float dw[HELD][PACK] = {}, db[HELD][PACK] = {};
    for (int n = blockIdx.x * teams + mine; n < N; n += gridDim.x * teams) {
        long long row = (long long)n * D;
        float m = mu[n], r = rstd[n], g_sum = 0.0f, gx_sum = 0.0f, g[HELD][PACK], xhat[HELD][PACK];
#pragma unroll
        for (MINE(k, i)) {
            load(g[k], dy + row + i, D - i);
            load(xhat[k], x + row + i, D - i);
        }
#pragma unroll
        for (MINE(k, i)) {
            float scale[PACK];
            load(scale, w + i, D - i);
            for (int j = 0; j < PACK; j++) {
                xhat[k][j] = (xhat[k][j] - m) * r;                                       // [LN3]
                dw[k][j] += g[k][j] * xhat[k][j];                                        // [LN5], g being dy as yet
                db[k][j] += g[k][j];
                g[k][j] *= scale[j];
                g_sum += g[k][j];
                gx_sum += g[k][j] * xhat[k][j];
            }
        }
        float mean_g = team_sum(g_sum, team) / D, mean_gx = team_sum(gx_sum, team) / D;
#pragma unroll
        for (MINE(k, i)) {
            float before[PACK];
            load(before, more + row + i, more ? D - i : 0);
            for (int j = 0; j < PACK; j++)
                g[k][j] = before[j] + r * (g[k][j] - mean_g - xhat[k][j] * mean_gx);     // [LN6]
            store(dx + row + i, g[k], D - i);
        }
    }
    float* sums = (float*)dynamic_shared();
    parts += 2LL * blockIdx.x * D;
    for (int t = 0; t < teams; t++) {
        float* to = t + 1 < teams ? sums : parts;
#pragma unroll
        for (MINE(k, i)) {
            if (mine != t) continue;
            float before[PACK];
            load(before, sums + i, t > 0 ? D - i : 0);
            for (int j = 0; j < PACK; j++) dw[k][j] += before[j];
            store(to + i, dw[k], D - i);
            load(before, sums + D + i, t > 0 ? D - i : 0);
            for (int j = 0; j < PACK; j++) db[k][j] += before[j];
            store(to + D + i, db[k], D - i);
        }
        __syncthreads();
    }
}
