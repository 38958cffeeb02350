// layer_norm on a GPU. Formula, names and [LN] numbers: layer_norm.py.
//
// A row of D entries lies in the registers of a team of threads, so that memory is read once: of a warp, which needs no
// barrier for its sums, or of a whole block where the lanes of a warp would have to hold more than ENTRIES each. In
// memory a row is whole packs, the last one filled up with zeros. A thread asks for all of its packs before it looks at
// the first: memory is only as fast as many bytes are on their way.
//
// Backward has as many blocks as run at once on an H100: every one more is another part of dw and db to add up.
#include "common.cuh"

constexpr int ENTRIES = 24, HELD = ENTRIES / PACK;          // of a row, that a thread holds
// Threads of a block, and of how many blocks the registers of a multiprocessor are shared out.
constexpr int FORWARD = TEAM == 32 ? 128 : TEAM, FORWARDS = (PACK == 4 ? 640 : 1024) / FORWARD;
constexpr int BACKWARD = TEAM == 32 ? 256 : TEAM, BACKWARDS = (PACK == 4 ? 256 : TEAM == 32 ? 512 : 384) / BACKWARD;

// The packs of a row that are this thread's: for (MINE(k, i)) ... is the k-th, from entry i on, which may be beyond D.
#define MINE(k, i) int k = 0, i = threadIdx.x % TEAM * PACK; k < HELD; k++, i += TEAM * PACK

__device__ __forceinline__ void ask(uint4 (&raw)[HELD], const T* row, int D) {
#pragma unroll
    for (MINE(k, i)) raw[k] = i < D ? load16(row + i) : make_uint4(0, 0, 0, 0);
}

// v of a team's threads together, for every one of them.
__device__ __forceinline__ float team_sum(float v) { return TEAM == 32 ? warp_sum(v) : block_sum(v); }

// N rows of D entries, each `pitch` behind the one before. mu, rstd (N,): written. With r, what is normalised is
// s = x + r, rounded, and s is written too.
extern "C" __global__ void __launch_bounds__(FORWARD, FORWARDS)
forward(const T* x, const T* r, const T* w, const T* b, float eps, int N, int D, int pitch, T* s, T* y, float* mu,
        float* rstd) {
    int n = blockIdx.x * (FORWARD / TEAM) + threadIdx.x / TEAM;
    if (n >= N) return;
    long long row = (long long)n * pitch;
    uint4 raw[HELD], more[HELD];
    float v[HELD][PACK], sum = 0.0f, squares = 0.0f;
    ask(raw, x + row, D);
    if (r) ask(more, r + row, D);
#pragma unroll
    for (MINE(k, i)) {
        unpack<T>(raw[k], v[k]);
        if (r) {
            float other[PACK];
            unpack<T>(more[k], other);
            for (int j = 0; j < PACK; j++) v[k][j] += other[j];                          // [LN7]
            raw[k] = packed<T>(v[k]);
            unpack<T>(raw[k], v[k]);                                                     // rounded
            if (i < D) store16(s + row + i, raw[k]);
        }
        for (int j = 0; j < PACK; j++) sum += v[k][j];
    }
    ask(raw, w, D);
    ask(more, b, D);
    float m = team_sum(sum) / D;                                                         // [LN1]
#pragma unroll
    for (MINE(k, i)) {
        for (int j = 0; j < PACK; j++) v[k][j] -= m;
        if (i + PACK > D)
            for (int j = 0; j < PACK; j++) if (i + j >= D) v[k][j] = 0.0f;
        for (int j = 0; j < PACK; j++) squares += v[k][j] * v[k][j];
    }
    float deviation = rsqrtf(team_sum(squares) / D + eps);                               // [LN2]
#pragma unroll
    for (MINE(k, i)) {
        float scale[PACK], shift[PACK];
        unpack<T>(raw[k], scale);
        unpack<T>(more[k], shift);
        for (int j = 0; j < PACK; j++) v[k][j] = v[k][j] * deviation * scale[j] + shift[j];              // [LN3,4]
        if (i < D) store16(y + row + i, packed<T>(v[k]));
    }
    if (threadIdx.x % TEAM == 0) mu[n] = m, rstd[n] = deviation;
}

// Where the k-th pack of a thread waits that backward has asked for: the thread itself takes it out.
enum { DY, X, MORE };
__device__ __forceinline__ uint4* place(int array, int k) {
    return (uint4*)dynamic_shared() + (array * HELD + k) * BACKWARD + threadIdx.x;
}

__device__ __forceinline__ void bring(int array, const T* row, int D) {
#pragma unroll
    for (MINE(k, i)) copy16_async(place(array, k), row + i, i < D);
}

// Each team keeps its share of dw and db in registers. Those of a block are added up, always in the same order, and
// become its row of parts (blocks, 2, pitch), which add_rows() adds up. Beside a row the next one is on its way.
// more, or null: what x's gradient has got from elsewhere, and dx is the sum [LN8].
extern "C" __global__ void __launch_bounds__(BACKWARD, BACKWARDS)
backward(const T* dy, const T* x, const T* w, const float* mu, const float* rstd, int N, int D, int pitch,
         const T* more, T* dx, float* parts) {
    constexpr int TEAMS = BACKWARD / TEAM;
    int step = gridDim.x * TEAMS, first = blockIdx.x * TEAMS + threadIdx.x / TEAM;
    float dw[HELD][PACK] = {}, db[HELD][PACK] = {}, next_m, next_r;
    auto ask_for = [&](int n) {
        int there = n < N ? D : 0;
        bring(DY, dy + (long long)n * pitch, there);
        bring(X, x + (long long)n * pitch, there);
        commit_copies();
        next_m = there ? mu[n] : 0.0f, next_r = there ? rstd[n] : 0.0f;
    };
    auto ask_for_more = [&](int n) {
        if (more) bring(MORE, more + (long long)n * pitch, n < N ? D : 0);
        commit_copies();
    };
    ask_for(first);
    ask_for_more(first);
    for (int n = first; n < N; n += step) {
        long long row = (long long)n * pitch;
        uint4 raw_w[HELD];
        float m = next_m, r = next_r, g[HELD][PACK], xhat[HELD][PACK], sum_g = 0.0f, sum_gx = 0.0f;
        ask(raw_w, w, D);
        wait_copies<1>();                                   // not for more
#pragma unroll
        for (MINE(k, i)) {
            float scale[PACK];
            unpack<T>(load16(place(DY, k)), g[k]);
            unpack<T>(load16(place(X, k)), xhat[k]);
            unpack<T>(raw_w[k], scale);
            for (int j = 0; j < PACK; j++) {
                xhat[k][j] = (xhat[k][j] - m) * r;                                       // [LN3]
                dw[k][j] += g[k][j] * xhat[k][j];                                        // [LN5], g being dy as yet
                db[k][j] += g[k][j];
                g[k][j] *= scale[j];
                sum_g += g[k][j];
                sum_gx += g[k][j] * xhat[k][j];
            }
        }
        ask_for(n + step);
        float mean_g = team_sum(sum_g) / D, mean_gx = team_sum(sum_gx) / D;
        wait_copies<1>();                                   // not for the next row
#pragma unroll
        for (MINE(k, i)) {
            float before[PACK] = {};
            if (more) unpack<T>(load16(place(MORE, k)), before);
            for (int j = 0; j < PACK; j++)
                g[k][j] = before[j] + r * (g[k][j] - mean_g - xhat[k][j] * mean_gx);     // [LN6]
            if (i < D) store16(dx + row + i, packed<T>(g[k]));
        }
        ask_for_more(n + step);
    }
    wait_copies<0>();
    __syncthreads();                                        // what was brought has left: the memory is used again
    float *shares = (float*)dynamic_shared(), *own = shares + 2 * (threadIdx.x / TEAM) * pitch;  // (TEAMS, 2, pitch)
#pragma unroll
    for (MINE(k, i)) for (int j = 0; i < D && j < PACK; j += 4) {
        store16(own + i + j, packed<float>(dw[k] + j));
        store16(own + pitch + i + j, packed<float>(db[k] + j));
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * pitch; i += BACKWARD) {
        float s = shares[i];
        for (int t = 1; t < TEAMS; t++) s += shares[2 * t * pitch + i];
        parts[2LL * blockIdx.x * pitch + i] = s;
    }
}
