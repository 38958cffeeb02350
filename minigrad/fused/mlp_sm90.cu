// The two products of an MLP that have GELU at their end, on Hopper, for 16-bit entries. Formula, names and numbers:
// mlp.py for [ML], gelu.py for [GE].
//
// A block stays, and takes tile after tile of 128 x 256 sums. Two warpgroups multiply, 64 rows each; a third fetches
// both factors, 64 entries of every sum at a time and STAGES ahead. The second one begins a tile LEAD steps after the
// first: while one takes its sums from registers to memory, tensor cores have the other's products. Tiles are taken row
// by row: blocks that are at work at one time share rows of the left factor, and the right one stays in L2.
//
// What lies beyond a matrix arrives as 0 from the copies, which know its bounds.
#include "common.cuh"
#include "tiles.cuh"
#include "hopper.cuh"

constexpr int ROWS = 128, COLUMNS = 256, DEEP = 64;         // of a tile; entries of a sum that are added at a time
constexpr int STAGES = 4, LEAD = 3;                         // LEAD steps must fit in what is fetched ahead
constexpr int GROUPS = 2, THREADS = 128 * (GROUPS + 1);     // warpgroups that multiply, and one that fetches
constexpr int MINE = ROWS / GROUPS;                         // rows of a warpgroup
constexpr int ACROSS = 64, CHUNKS = COLUMNS / ACROSS;       // its sums leave in chunks of so many columns
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float C = 0.7978845608028654f, A = 0.044715f;     // sqrt(2 / pi), and the cubic term's weight

struct Problem { int M, N, K; };                            // (M, K) times (K, N)
struct Stage { T left[ROWS][DEEP], right[COLUMNS][DEEP]; };
struct Chunk { T row[MINE][ACROSS]; };

struct Shared {
    Stage stages[STAGES];
    Chunk chunks[GROUPS][2];
    Barrier full[STAGES], empty[STAGES], chunk_full[GROUPS][2], chunk_empty[GROUPS][2];
};

__device__ __forceinline__ int group_of() { return __shfl_sync(~0u, threadIdx.x / 128, 0); }     // one for the warp
__device__ __forceinline__ int warp_of() { return threadIdx.x / 32 % 4; }                // in its group
__device__ __forceinline__ int lane_of() { return threadIdx.x % 32; }

// A thread of each warp says that its warp has done with what it was given.
__device__ __forceinline__ void leave(Barrier* empty) {
    if (lane_of() == 0) barrier_arrive(empty);
}

struct Place { int i, j; };                                 // the first row and column of a tile

__device__ __forceinline__ int across(Problem p) { return (p.N + COLUMNS - 1) / COLUMNS; }
__device__ __forceinline__ int tiles_of(Problem p) { return (p.M + ROWS - 1) / ROWS * across(p); }
__device__ __forceinline__ Place place_of(int tile, Problem p) {
    return {tile / across(p) * ROWS, tile % across(p) * COLUMNS};
}
#define TILES(tile, p) int tile = blockIdx.x; tile < tiles_of(p); tile += gridDim.x

// Where the entries of a chunk lie that have these coordinates: pieces are exchanged as in tiles that were copied.
__device__ __forceinline__ T* at(Chunk& chunk, int row, int column) {
    return &chunk.row[row][(column / 8 ^ row % 8) * 8 + column % 8];
}

// Where this thread's sum number e of a chunk belongs, and the one after it.
__device__ __forceinline__ uint32_t* pair_at(Chunk& chunk, int e) {
    return (uint32_t*)at(chunk, warp_of() * 16 + row_of(e % 4), column_of(e / 4, 0));
}

__device__ __forceinline__ void make_barriers(Shared& shared) {
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&shared.full[i], 1);
            barrier_init(&shared.empty[i], 4 * GROUPS);
        }
        for (int i = 0; i < 2 * GROUPS; i++) {
            barrier_init(&shared.chunk_full[i / 2][i % 2], 1);
            barrier_init(&shared.chunk_empty[i / 2][i % 2], 4);
        }
        fence_async();
    }
    __syncthreads();
}

// Both factors, step by step. The right one lies by rows of K, or BY_COLUMNS its rows are sums' columns.
template<bool BY_COLUMNS> __device__ __forceinline__ void fetch_factors(Shared& shared, const TensorMap& left,
                                                                        const TensorMap& right, Problem p) {
    int t = 0;                                              // counts steps of all tiles
    for (TILES(tile, p)) {
        Place from = place_of(tile, p);
        for (int k = 0; k < p.K; k += DEEP, t++) {
            Stage& to = shared.stages[t % STAGES];
            Barrier* full = &shared.full[t % STAGES];
            barrier_wait(&shared.empty[t % STAGES], t / STAGES % 2 ^ 1);
            barrier_expect(full, sizeof to);
            load_box(to.left, left, full, k, from.i);
            if (BY_COLUMNS) load_box(to.right, right, full, k, from.j);
            else for (int j = 0; j < COLUMNS; j += 64) load_box(to.right[j], right, full, from.j + j, k);
        }
    }
}

// d = this warpgroup's part of a tile's sums. t counts steps of all tiles.
template<bool BY_COLUMNS> __device__ __forceinline__ void multiply(float (&d)[COLUMNS / 2], Shared& shared, int group,
                                                                   int& t, Problem p) {
    int steps = (p.K + DEEP - 1) / DEEP;
    if (group == 1 && steps >= LEAD) group_sync(1, 256);
    wgmma_fence(d);
    for (int step = 0; step < steps; step++, t++) {
        const Stage& from = shared.stages[t % STAGES];
        barrier_wait(&shared.full[t % STAGES], t / STAGES % 2);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DEEP; k += 16)
            wgmma<T, !BY_COLUMNS>(d, tile_at(&from.left[group * MINE][k], 0),
                                  BY_COLUMNS ? tile_at(&from.right[0][k], 0) : tile_at(from.right[k], 64 * 128),
                                  step + k > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (step > 0) leave(&shared.empty[(t - 1) % STAGES]);
        if (group == 0 && step == LEAD - 1) group_arrive(1, 256);
    }
    wgmma_wait<0>(d);
    leave(&shared.empty[(t - 1) % STAGES]);
}

// Rows of x that are this warp's = its rows of a chunk. The first entry of the chunk is x's (i, j).
__device__ __forceinline__ void put(T* x, Chunk& chunk, int i, int j, Problem p) {
#pragma unroll
    for (int k = lane_of(); k < 16 * ACROSS / 8; k += 32) {
        int row = warp_of() * 16 + k / (ACROSS / 8), column = k % (ACROSS / 8) * 8;
        if (i + row < p.M && j + column < p.N)
            store16(x + (long long)(i + row) * p.N + j + column, load16(at(chunk, row, column)));
    }
}

__device__ __forceinline__ float2 floats_of(uint32_t pair) {
    const T* e = (const T*)&pair;
    return make_float2(float(e[0]), float(e[1]));
}

// ---------------------------------------------------------------------------------------------- forward

// exp(-2u) of [GE3,4]: the logistic function is 1 / (1 + it).
__device__ __forceinline__ float power(float v) {
    return exp2f(v * (-2.0f * LOG2_E * C + -2.0f * LOG2_E * C * A * (v * v)));
}

// This thread's part of the bias of a chunk from column j on.
__device__ __forceinline__ void load_bias(uint32_t (&bias)[ACROSS / 8], const T* b, int j, Problem p) {
#pragma unroll
    for (int n = 0; n < ACROSS / 8; n++) {
        int column = j + column_of(n, 0);
        bias[n] = column < p.N ? *(const uint32_t*)(b + column) : 0;
    }
}

// u and h (M, N) of x (M, K), w (K, N) and b (N,): written.
extern "C" __global__ void __launch_bounds__(THREADS, 1) forward(const __grid_constant__ TensorMap x,
                                                                 const __grid_constant__ TensorMap w, const T* b, int M,
                                                                 int N, int K, T* u, T* h) {
    Shared& shared = *(Shared*)aligned_shared();
    Problem p = {M, N, K};
    int group = group_of(), t = 0;
    make_barriers(shared);
    if (group == GROUPS) {
        fewer_registers<40>();
        if (threadIdx.x == 128 * GROUPS) fetch_factors<false>(shared, x, w, p);
        return;
    }
    more_registers<232>();

    float d[COLUMNS / 2] = {};
    uint32_t bias[2][ACROSS / 8];                           // of this chunk, and of the next
    Chunk &of_u = shared.chunks[group][0], &of_h = shared.chunks[group][1];
    for (TILES(tile, p)) {
        Place to = place_of(tile, p);
        int i = to.i + group * MINE;
        load_bias(bias[0], b, to.j, p);
        multiply<false>(d, shared, group, t, p);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            int j = to.j + c * ACROSS;
            if (c + 1 < CHUNKS) load_bias(bias[(c + 1) % 2], b, j + ACROSS, p);
#pragma unroll
            for (int e = 0; e < ACROSS / 2; e += 2) {
                int k = c * ACROSS / 2 + e;
                float2 add = floats_of(bias[c % 2][e / 4]);
                float v = d[k] + add.x, w = d[k + 1] + add.y;                            // [ML1]
                *pair_at(of_u, e) = pair_of<T>(v, w);
                *pair_at(of_h, e) =
                    pair_of<T>(__fdividef(v, 1.0f + power(v)), __fdividef(w, 1.0f + power(w)));          // [ML2]
            }
            __syncwarp();
            put(u, of_u, i, j, p);
            put(h, of_h, i, j, p);
            __syncwarp();                                   // all lanes have read their rows
        }
    }
}

// ---------------------------------------------------------------------------------------------- backward

// u, for a warpgroup: two chunks ahead.
__device__ __forceinline__ void fetch_chunks(Shared& shared, const TensorMap& u, int group, Problem p) {
    int t = 0;                                              // counts chunks of all tiles
    for (TILES(tile, p)) {
        Place from = place_of(tile, p);
        int i = from.i + group * MINE;
        for (int c = 2; c < CHUNKS; c++) prefetch_box(u, from.j + c * ACROSS, i);
        for (int c = 0; c < CHUNKS; c++, t++) {
            Barrier* full = &shared.chunk_full[group][t % 2];
            barrier_wait(&shared.chunk_empty[group][t % 2], t / 2 % 2 ^ 1);
            barrier_expect(full, sizeof(Chunk));
            load_box(&shared.chunks[group][t % 2], u, full, from.j + c * ACROSS, i);
        }
    }
}

// dh becomes du = dh gelu'(u).
__device__ __forceinline__ float sloped(float dh, float u) {
    float s = __fdividef(1.0f, 1.0f + power(u)), v = u * (2.0f * C + 6.0f * C * A * (u * u));
    return dh * (s + s * (v - s * v));                                                   // [GE5]
}

// Sums over a chunk's rows: a warp has a quarter of its columns. to: where those of its first column go, if anywhere.
__device__ __forceinline__ void add_columns(float* to, Chunk& chunk, int columns) {
    uint32_t one = pair_of<T>(1.0f, 1.0f), ones[4] = {one, one, one, one}, four[4];
    float sums[2][4] = {};                                  // all 16 rows of a product with ones are the same
    int first = warp_of() * 16;
#pragma unroll
    for (int row = lane_of() % 16; row < MINE; row += 16) {
        load_matrices<true>(four, at(chunk, row, first + lane_of() / 16 * 8));
        uint32_t left[2] = {four[0], four[1]}, right[2] = {four[2], four[3]};
        multiply_tiles<T>(sums[0], ones, left);
        multiply_tiles<T>(sums[1], ones, right);
    }
    if (lane_of() < 4)
        for (int n = 0; n < 2; n++)
            for (int e = 0; e < 2; e++)
                if (int j = first + column_of(n, e); j < columns) to[j] = sums[n][e];
}

// du (M, N) of dy (M, K), w (N, K) and u (M, N): written; and to parts (M / 64 rounded up, N), sums over 64 rows of it.
extern "C" __global__ void __launch_bounds__(THREADS, 1) backward(const __grid_constant__ TensorMap dy,
                                                                  const __grid_constant__ TensorMap w,
                                                                  const __grid_constant__ TensorMap u, int M, int N,
                                                                  int K, T* du, float* parts) {
    Shared& shared = *(Shared*)aligned_shared();
    Problem p = {M, N, K};
    int group = group_of(), t = 0, chunks = 0;
    make_barriers(shared);
    if (group == GROUPS) {
        fewer_registers<40>();
        if (threadIdx.x == 128 * GROUPS) fetch_factors<true>(shared, dy, w, p);
        else if (warp_of() > 0 && warp_of() <= GROUPS && lane_of() == 0) fetch_chunks(shared, u, warp_of() - 1, p);
        return;
    }
    more_registers<232>();

    float d[COLUMNS / 2] = {};
    for (TILES(tile, p)) {
        Place to = place_of(tile, p);
        multiply<true>(d, shared, group, t, p);                                          // [ML4]
        int i = to.i + group * MINE;
#pragma unroll
        for (int c = 0; c < CHUNKS; c++, chunks++) {
            int j = to.j + c * ACROSS;
            Chunk& chunk = shared.chunks[group][c % 2];
            uint32_t two[ACROSS / 4];                       // all of them first: what is read waits for what is written
            barrier_wait(&shared.chunk_full[group][c % 2], chunks / 2 % 2);
#pragma unroll
            for (int e = 0; e < ACROSS / 4; e++) two[e] = *pair_at(chunk, 2 * e);
#pragma unroll
            for (int e = 0; e < ACROSS / 4; e++) {
                float2 its_u = floats_of(two[e]);
                int k = c * ACROSS / 2 + 2 * e;
                *pair_at(chunk, 2 * e) = pair_of<T>(sloped(d[k], its_u.x), sloped(d[k + 1], its_u.y));    // [ML5]
            }
            group_sync(2 + group, 128);
            put(du, chunk, i, j, p);
            if (i < M && j < N) add_columns(parts + (long long)(i / MINE) * N + j, chunk, N - j);        // [ML6]
            fence_async();
            __syncwarp();                                   // all lanes have read the chunk
            leave(&shared.chunk_empty[group][c % 2]);
        }
    }
}
