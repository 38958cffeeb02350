// layer_norm on a GPU. Formula, names and [LN] numbers: layer_norm.py.
//
// A row of D entries lies in the registers of a team of threads, so that memory is read once: of a warp, which needs no
// barrier for its sums, or of more where the lanes of one would have to hold more than ENTRIES each. The teams of the
// grid take turns with the rows.
//
// Memory is only as fast as many bytes are on their way, so a team asks for its next two rows before it sums up the
// entries of one. They come to shared memory, where a thread takes out what it asked for itself: it waits for its own
// copies and for nobody.
#include "common.cuh"

constexpr int THREADS = 128, ENTRIES = 24, HELD = ENTRIES / PACK, WARPS = THREADS / 32;
constexpr int FORWARD_BLOCKS = 5, BACKWARD_BLOCKS = 3;      // on a multiprocessor: 96 and 168 registers a thread

// The packs of a row that are this thread's: for (MINE(k, i)) ... is the k-th, from entry i on, which may be beyond D.
#define MINE(k, i) int k = 0, i = threadIdx.x % team * PACK; k < HELD; k++, i += team * PACK

// Where this thread's k-th pack of an array comes to: behind what team_sum() needs, lanes side by side.
__device__ __forceinline__ uint4* place(int array, int k) {
    return (uint4*)dynamic_shared() + WARPS + (array * HELD + k) * THREADS + threadIdx.x;
}

// Start to bring this thread's packs of a row to their places, zeros beyond D. What is not aligned is there at once.
__device__ __forceinline__ void fetch(int array, const T* row, int D, int team) {
    if ((size_t)row % 16 == 0 && D % PACK == 0) {
#pragma unroll
        for (MINE(k, i)) copy16_async(place(array, k), row + i, i < D);
    } else {
#pragma unroll
        for (MINE(k, i)) for (int j = 0; j < PACK; j++) ((T*)place(array, k))[j] = i + j < D ? row[i + j] : T(0.0f);
    }
}

// Each v of a team's threads together, for every one of them, in an order that never changes. Calls with turn 0 and 1
// alternate: who is still reading what one left is not met by the other, and by the next he has passed a barrier.
template<int N> __device__ __forceinline__ void team_sum(float (&v)[N], int team, int turn) {
#pragma unroll
    for (int k = 0; k < N; k++) v[k] = warp_sum(v[k]);
    if (team == 32) return;
    float* parts = (float*)dynamic_shared() + turn * N * WARPS;
    int warp = threadIdx.x / 32, first = threadIdx.x / team * (team / 32);
    for (int k = 0; k < N; k++) if (threadIdx.x % 32 == 0) parts[k * WARPS + warp] = v[k];
    __syncthreads();
    for (int k = 0; k < N; k++) {
        v[k] = parts[k * WARPS + first];
#pragma unroll 1
        for (int i = 1; i < team / 32; i++) v[k] += parts[k * WARPS + first + i];
    }
}

// mu, rstd (N,): written. With r, what is normalised is s = x + r, rounded, and s is written too.
extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) forward(const T* x, const T* r, const T* w,
                                                                              const T* b, float eps, int N, int D,
                                                                              int team, T* s, T* y, float* mu,
                                                                              float* rstd) {
    enum { W, B, X, R = X + 2 };                            // x and r have two places each
    int teams = blockDim.x / team, mine = threadIdx.x / team, next = gridDim.x * teams, n = blockIdx.x * teams + mine;
    auto fetch_row = [&](int n, int turn) {
        long long row = (long long)n * D;
        fetch(X + turn, x + row, n < N ? D : 0, team);
        if (r) fetch(R + turn, r + row, n < N ? D : 0, team);
        commit_copies();
    };
    fetch(W, w, D, team);
    fetch(B, b, D, team);
    fetch_row(n, 0);
    fetch_row(n + next, 1);
    for (int turn = 0; n - mine < N; n += next, turn ^= 1) {           // all teams of a block as often: they may meet
        long long row = (long long)n * D;
        float v[HELD][PACK], sum[1] = {}, squares[1] = {};
        wait_copies<1>();
#pragma unroll
        for (MINE(k, i)) {
            unpack<T>(*place(X + turn, k), v[k]);
            if (r) {
                float more[PACK];
                unpack<T>(*place(R + turn, k), more);
                for (int j = 0; j < PACK; j++) v[k][j] += more[j];                       // [LN7]
                unpack<T>(packed<T>(v[k]), v[k]);                                        // rounded
                if (n < N) store(s + row + i, v[k], D - i);
            }
            for (int j = 0; j < PACK; j++) sum[0] += v[k][j];
        }
        fetch_row(n + 2 * next, turn);
        team_sum(sum, team, 0);
        float m = sum[0] / D;                                                            // [LN1]
#pragma unroll
        for (MINE(k, i)) {
            for (int j = 0; j < PACK; j++) v[k][j] -= m;
            if (i + PACK <= D)
                for (int j = 0; j < PACK; j++) squares[0] += v[k][j] * v[k][j];
            else
                for (int j = 0; j < PACK; j++) if (i + j < D) squares[0] += v[k][j] * v[k][j];
        }
        team_sum(squares, team, 1);
        float deviation = 1.0f / sqrtf(squares[0] / D + eps);                            // [LN2]
        if (n >= N) continue;
#pragma unroll
        for (MINE(k, i)) {
            float scale[PACK], shift[PACK];
            unpack<T>(*place(W, k), scale);
            unpack<T>(*place(B, k), shift);
            for (int j = 0; j < PACK; j++) v[k][j] = v[k][j] * deviation * scale[j] + shift[j];          // [LN3,4]
            store(y + row + i, v[k], D - i);
        }
        if (threadIdx.x % team == 0) mu[n] = m, rstd[n] = deviation;
    }
    wait_copies<0>();                                       // of rows that are not there
}

// Each team keeps its share of dw and db in registers. Those of a block are added up, always in the same order, and
// become its row of parts (blocks, 2, D), which add_rows() adds up.
// more, or null: what x's gradient has got from elsewhere, and dx is the sum [LN8].
extern "C" __global__ void __launch_bounds__(THREADS, BACKWARD_BLOCKS) backward(const T* dy, const T* x, const T* w,
                                                                                const float* mu, const float* rstd,
                                                                                int N, int D, int team, const T* more,
                                                                                T* dx, float* parts) {
    enum { W, DY, X = DY + 2, MORE = X + 2 };
    int teams = blockDim.x / team, mine = threadIdx.x / team, next = gridDim.x * teams, n = blockIdx.x * teams + mine;
    auto fetch_row = [&](int n, int turn) {
        long long row = (long long)n * D;
        fetch(DY + turn, dy + row, n < N ? D : 0, team);
        fetch(X + turn, x + row, n < N ? D : 0, team);
        if (more) fetch(MORE + turn, more + row, n < N ? D : 0, team);
        commit_copies();
    };
    float dw[HELD][PACK] = {}, db[HELD][PACK] = {}, next_m = n < N ? mu[n] : 0.0f, next_r = n < N ? rstd[n] : 0.0f;
    fetch(W, w, D, team);
    fetch_row(n, 0);
    fetch_row(n + next, 1);
    for (int turn = 0; n - mine < N; n += next, turn ^= 1) {           // all teams of a block as often: they may meet
        long long row = (long long)n * D;
        float m = next_m, r = next_r, g[HELD][PACK], xhat[HELD][PACK], sums[2] = {};
        bool follows = n + next < N;
        next_m = follows ? mu[n + next] : 0.0f;
        next_r = follows ? rstd[n + next] : 0.0f;
        wait_copies<1>();
#pragma unroll
        for (int k = 0; k < HELD; k++) {
            float scale[PACK];
            unpack<T>(*place(DY + turn, k), g[k]);
            unpack<T>(*place(X + turn, k), xhat[k]);
            unpack<T>(*place(W, k), scale);
            for (int j = 0; j < PACK; j++) {
                xhat[k][j] = (xhat[k][j] - m) * r;                                       // [LN3]
                dw[k][j] += g[k][j] * xhat[k][j];                                        // [LN5], g being dy as yet
                db[k][j] += g[k][j];
                g[k][j] *= scale[j];
                sums[0] += g[k][j];
                sums[1] += g[k][j] * xhat[k][j];
            }
        }
        team_sum(sums, team, turn);
        float mean_g = sums[0] / D, mean_gx = sums[1] / D;
#pragma unroll
        for (MINE(k, i)) {
            float before[PACK] = {};
            if (more) unpack<T>(*place(MORE + turn, k), before);
            for (int j = 0; j < PACK; j++)
                g[k][j] = before[j] + r * (g[k][j] - mean_g - xhat[k][j] * mean_gx);     // [LN6]
            if (n < N) store(dx + row + i, g[k], D - i);
        }
        fetch_row(n + 2 * next, turn);
    }
    wait_copies<0>();                                       // of rows that are not there: the places are used again
    float* sums = (float*)dynamic_shared();
    parts += 2LL * blockIdx.x * D;
    for (int t = 0; t < teams; t++) {
        float* to = t + 1 < teams ? sums : parts;
        __syncthreads();
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
    }
}
