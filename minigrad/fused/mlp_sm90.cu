// The two products of an MLP that have GELU at their end, on Hopper, for 16-bit entries. Formula, names and numbers:
// mlp.py for [ML], gelu.py for [GE].
//
// A block stays, and takes tile after tile of 128 x 256 sums. Two warpgroups multiply, one the left half of a tile, one
// the right half; the warps of a third fetch what they need, 64 entries of every sum at a time. When a tile's sums are
// complete they are rounded, which leaves half as many registers, and what is to be done with them, a part of it after
// each step, is done while tensor cores have the steps of the next tile: GELU and the way to memory cost as many
// instructions as a third of a tile takes, and tensor cores should not wait for them.
// Tiles are taken row by row: blocks that are at work at one time share rows of it, and the right factor stays in L2.
//
// What lies beyond a matrix arrives as 0 from the copies, which know its bounds.
#include "common.cuh"
#include "gelu.cuh"
#include "tiles.cuh"
#include "hopper.cuh"
#include "ring.cuh"

constexpr int ROWS = 128, COLUMNS = 128;                    // of a warpgroup's half of a tile
constexpr int DEEP = 64, LEFT = 6, RIGHT = 3;               // entries of a sum that a step adds; pieces of the factors
constexpr int GROUPS = 2, THREADS = 128 * (GROUPS + 1);     // warpgroups that multiply, and one that fetches
constexpr int ACROSS = 64, CHUNKS = 4;                      // its sums end in chunks of 64 rows and columns, two by two
constexpr int PARTS = 2 * CHUNKS, END = 2;                  // a warp's rows of a chunk in two parts; chunks at one time

struct Problem { int M, N, K; };                            // (M, K) times (K, N)
struct Strip { T row[8][ACROSS]; };                         // a warp has two of a chunk, and a part is one of them
struct Chunk { Strip strip[ACROSS / 8]; };
struct Piece { Chunk half[2]; };                            // 128 rows of 64 entries, or 64 of 128

struct Shared {
    Piece left[LEFT], right[GROUPS][RIGHT];
    Chunk end[GROUPS][END];
    Ring<LEFT> of_left;
    Ring<RIGHT> of_right[GROUPS];
    Ring<END> of_end[GROUPS];
};

__device__ __forceinline__ int warp_of() { return threadIdx.x / 32 % 4; }                // in its group
__device__ __forceinline__ int lane_of() { return threadIdx.x % 32; }

struct Place { int i, j; };                                 // the first row and column of a tile

__device__ __forceinline__ int across(Problem p) { return (p.N + GROUPS * COLUMNS - 1) / (GROUPS * COLUMNS); }
__device__ __forceinline__ int tiles_of(Problem p) { return (p.M + ROWS - 1) / ROWS * across(p); }
__device__ __forceinline__ Place place_of(int tile, int group, Problem p) {
    return {tile / across(p) * ROWS, (tile % across(p) * GROUPS + group) * COLUMNS};
}
#define TILES(tile, p) int tile = blockIdx.x; tile < tiles_of(p); tile += gridDim.x

// Chunk c of a half that begins there.
__device__ __forceinline__ Place chunk_of(Place half, int c) {
    return {half.i + c / 2 * ACROSS, half.j + c % 2 * ACROSS};
}

// Two of this thread's sums in a strip, of columns 8 n and further: 16-byte pieces are exchanged as in what was copied.
__device__ __forceinline__ uint32_t* pair_at(Strip& strip, int n) {
    int row = row_of(0);
    return (uint32_t*)((char*)&strip + ((row * 128 + row * 16 + column_of(0, 0) * 2) ^ n * 16));
}

// A warpgroup's sums, rounded: those of part i are [i].
typedef uint32_t Rounded[PARTS][ACROSS / 8];

// Where those of a part are in d, by column: its number n, and the next.
__device__ __forceinline__ float* sums_of(float (&d)[2][COLUMNS / 2], int part, int n) {
    return &d[part / 4][part / 2 % 2 * ACROSS / 2 + 4 * n + part % 2 * 2];
}

__device__ __forceinline__ Shared& begin() {
    Shared& shared = *(Shared*)aligned_shared();
    if (threadIdx.x == 0) {
        shared.of_left.begin(1, 4 * GROUPS);
        for (int g = 0; g < GROUPS; g++) {
            shared.of_right[g].begin(1, 4);
            shared.of_end[g].begin(1, 4);
        }
        fence_async();
    }
    __syncthreads();
    return shared;
}

__device__ __forceinline__ void fetch_left(Shared& shared, const TensorMap& left, Problem p) {
    int t = 0;                                              // counts steps of all tiles
    for (TILES(tile, p))
        for (int k = 0; k < p.K; k += DEEP, t++) {
            Barrier* full = shared.of_left.expect(t, sizeof(Piece));
            load_box(&shared.left[t % LEFT], left, full, k, place_of(tile, 0, p).i);
        }
}

// It lies by rows of K, or BY_COLUMNS: then its rows are columns of sums.
template<bool BY_COLUMNS>
__device__ __forceinline__ void fetch_right(Shared& shared, const TensorMap& right, int group, Problem p) {
    int t = 0;                                              // counts steps of all tiles
    for (TILES(tile, p)) {
        int j = place_of(tile, group, p).j;
        for (int k = 0; k < p.K; k += DEEP, t++) {
            Barrier* full = shared.of_right[group].expect(t, sizeof(Piece));
            Piece& to = shared.right[group][t % RIGHT];
            if (BY_COLUMNS) load_box(&to, right, full, k, j);
            else for (int c = 0; c < 2; c++) load_box(&to.half[c], right, full, j + c * ACROSS, k);
        }
    }
}

// d = a warpgroup's half of a tile: 64 rows, and the 64 below; the last step is still to be waited for, by complete().
// After step i of the first ones comes part(i), and all parts in any case. t counts steps of all tiles.
template<bool BY_COLUMNS, class Part>
__device__ __forceinline__ void multiply(float (&d)[2][COLUMNS / 2], Shared& shared, int group, int& t, Problem p,
                                         Part part) {
    int steps = (p.K + DEEP - 1) / DEEP;
    auto add = [&](bool first) {
        shared.of_left.wait_full(t);
        shared.of_right[group].wait_full(t);
        const Piece &left = shared.left[t % LEFT], &right = shared.right[group][t % RIGHT];
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DEEP; k += 16)
#pragma unroll
            for (int half = 0; half < 2; half++)
                wgmma<T, !BY_COLUMNS>(d[half], tile_at(&left.half[half].strip[0].row[0][k], 0),
                                      BY_COLUMNS ? tile_at(&right.half[0].strip[0].row[0][k], 0)
                                                 : tile_at(&right.half[0].strip[k / 8], sizeof(Chunk)),
                                      !first || k > 0);
        wgmma_commit();
        if (!first) {
            wgmma_wait<1>();
            shared.of_left.leave(t - 1);
            shared.of_right[group].leave(t - 1);
        }
        t++;
    };
    wgmma_fence(d[0], d[1]);
#pragma unroll
    for (int i = 0; i < PARTS; i++) {
        if (i < steps) add(i == 0);
        part(i);
    }
    for (int step = PARTS; step < steps; step++) add(false);
}

__device__ __forceinline__ void complete(float (&d)[2][COLUMNS / 2], Shared& shared, int group, int t) {
    wgmma_wait<0>(d[0], d[1]);
    shared.of_left.leave(t - 1);
    shared.of_right[group].leave(t - 1);
}

// Rows of x from to.i on = a strip's. Here and in sum_rows nothing branches: so the compiler can mix them with what
// follows.
__device__ __forceinline__ void put(T* x, const Strip& strip, Place to, Problem p) {
    int row = lane_of() / 8, piece = lane_of() % 8, column = to.j + piece * 8;
    int rows = column < p.N ? p.M - to.i - row : 0;
    x += (long long)(to.i + row) * p.N + column;
    uint4 pieces[2];
#pragma unroll
    for (int k = 0; k < 2; k++) pieces[k] = load16(&strip.row[row + 4 * k][(piece ^ (row + 4 * k)) * 8]);
#pragma unroll
    for (int k = 0; k < 2; k++)
        if (4 * k < rows) store16(x + (long long)p.N * 4 * k, pieces[k]);
}

// This warp's strip of a chunk for a part, and its first row.
__device__ __forceinline__ int strip_of(int part) { return warp_of() * 2 + part % 2; }
__device__ __forceinline__ Place below(Place chunk, int part) { return {chunk.i + strip_of(part) * 8, chunk.j}; }

// ---------------------------------------------------------------------------------------------- forward

// u and h (M, N) of x (M, K), w (K, N) and b (N,): written.
extern "C" __global__ void __launch_bounds__(THREADS, 1) forward(const __grid_constant__ TensorMap x,
                                                                 const __grid_constant__ TensorMap w, const T* b, int M,
                                                                 int N, int K, T* u, T* h) {
    Shared& shared = begin();
    Problem p = {M, N, K};
    int group = group_of(), t = 0;
    if (group == GROUPS) {
        fewer_registers<24>();
        int which = __shfl_sync(~0u, warp_of(), 0);         // one for the warp
        if (lane_of() > 0) return;
        if (which == 0) fetch_left(shared, x, p);
        else if (which <= GROUPS) fetch_right<false>(shared, w, which - 1, p);
        return;
    }
    more_registers<240>();

    float d[2][COLUMNS / 2] = {};
    Rounded sums;
    Place before = {-1, 0};                                 // what is rounded
    auto finish = [&](int part) {                           // strips change by turns: none is written before it is read
        Strip &of_u = shared.end[group][0].strip[strip_of(part)], &of_h = shared.end[group][1].strip[strip_of(part)];
        Place to = below(chunk_of(before, part / 2), part);
#pragma unroll
        for (int n = 0; n < ACROSS / 8; n++) {
            float2 v = floats_of<T>(sums[part][n]);
            *pair_at(of_u, n) = sums[part][n];
            *pair_at(of_h, n) = pair_of<T>(v.x * gate(v.x), v.y * gate(v.y));            // [ML2]
        }
        __syncwarp();
        put(u, of_u, to, p);
        __syncwarp();                                       // else both are on their way through registers at one time
        put(h, of_h, to, p);
    };
    for (TILES(tile, p)) {
        multiply<false>(d, shared, group, t, p, [&](int part) { if (before.i >= 0) finish(part); });
        before = place_of(tile, group, p);
        uint32_t bias[COLUMNS / 8];
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            int j = before.j + column_of(n, 0);
            bias[n] = j < N ? *(const uint32_t*)(b + j) : 0;
        }
        complete(d, shared, group, t);
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int n = 0; n < ACROSS / 8; n++) {
                const float* two = sums_of(d, part, n);
                float2 add = floats_of<T>(bias[part / 2 % 2 * ACROSS / 8 + n]);
                sums[part][n] = pair_of<T>(two[0] + add.x, two[1] + add.y);              // [ML1]
            }
    }
#pragma unroll
    for (int part = 0; part < PARTS; part++) finish(part);
}

// ---------------------------------------------------------------------------------------------- backward

// What u has where sums end.
__device__ __forceinline__ void fetch_ends(Shared& shared, const TensorMap& u, Problem p) {
    int n = 0;                                              // counts chunks of all tiles
    for (TILES(tile, p))
        for (int c = 0; c < CHUNKS; c++, n++)
            for (int group = 0; group < GROUPS; group++) {
                Place from = chunk_of(place_of(tile, group, p), c);
                Barrier* full = shared.of_end[group].expect(n, sizeof(Chunk));
                load_box(&shared.end[group][n % END], u, full, from.j, from.i);
            }
}

// Parts (M / 64 rounded up, N) get their row of sums over a chunk's rows: a warp has a quarter of the columns.
__device__ __forceinline__ void sum_rows(float* parts, Chunk& chunk, Place from, Problem p) {
    uint32_t one = pair_of<T>(1.0f, 1.0f), ones[4] = {one, one, one, one}, four[4];
    float sums[2][4] = {};                                  // all 16 rows of a product with ones are the same
    int quarter = warp_of() * 16;
#pragma unroll
    for (int strip = lane_of() % 16 / 8; strip < ACROSS / 8; strip += 2) {
        int row = lane_of() % 8, piece = warp_of() * 2 + lane_of() / 16;
        load_matrices<true>(four, &chunk.strip[strip].row[row][(piece ^ row) * 8]);
        uint32_t left[2] = {four[0], four[1]}, right[2] = {four[2], four[3]};
        multiply_tiles<T>(sums[0], ones, left);
        multiply_tiles<T>(sums[1], ones, right);
    }
    int columns = from.i < p.M && lane_of() < 4 ? p.N - from.j : 0;
    parts += (long long)(from.i / ACROSS) * p.N + from.j;
#pragma unroll
    for (int n = 0; n < 2; n++)
        if (int j = quarter + column_of(n, 0); j < columns)
            *(float2*)(parts + j) = make_float2(sums[n][0], sums[n][1]);
}

// du (M, N) of dy (M, K), w (N, K) and u (M, N): written; and to parts (M / 64 rounded up, N), sums over 64 rows of it.
extern "C" __global__ void __launch_bounds__(THREADS, 1) backward(const __grid_constant__ TensorMap dy,
                                                                  const __grid_constant__ TensorMap w,
                                                                  const __grid_constant__ TensorMap u, int M, int N,
                                                                  int K, T* du, float* parts) {
    Shared& shared = begin();
    Problem p = {M, N, K};
    int group = group_of(), t = 0, n = 0;
    if (group == GROUPS) {
        fewer_registers<40>();
        int which = __shfl_sync(~0u, warp_of(), 0);         // one for the warp
        if (lane_of() > 0) return;
        if (which == 0) fetch_left(shared, dy, p);
        else if (which <= GROUPS) fetch_right<true>(shared, w, which - 1, p);
        else fetch_ends(shared, u, p);
        return;
    }
    more_registers<232>();

    float d[2][COLUMNS / 2] = {};
    Rounded sums;
    Place before = {-1, 0};                                 // what is rounded
    auto finish = [&](int part) {
        Chunk& chunk = shared.end[group][n % END];
        Strip& strip = chunk.strip[strip_of(part)];
        Place from = chunk_of(before, part / 2);
        if (part % 2 == 0) shared.of_end[group].wait_full(n);
        uint32_t its_u[ACROSS / 8];                         // all of them first: what is read waits for what is written
#pragma unroll
        for (int n = 0; n < ACROSS / 8; n++) its_u[n] = *pair_at(strip, n);
#pragma unroll
        for (int n = 0; n < ACROSS / 8; n++) {
            float2 dh = floats_of<T>(sums[part][n]), v = floats_of<T>(its_u[n]);
            *pair_at(strip, n) = pair_of<T>(dh.x * tanh_slope(v.x), dh.y * tanh_slope(v.y));             // [ML5]
        }
        __syncwarp();
        put(du, strip, below(from, part), p);
        if (part % 2 == 0) return;
        fence_async();                                      // a copy is to write there next
        group_sync(1 + group, 128);                         // all warps have written the chunk
        sum_rows(parts, chunk, from, p);                                                 // [ML6]
        __syncwarp();                                       // all lanes have read it
        shared.of_end[group].leave(n++);
    };
    for (TILES(tile, p)) {
        multiply<true>(d, shared, group, t, p, [&](int part) { if (before.i >= 0) finish(part); });
        before = place_of(tile, group, p);
        complete(d, shared, group, t);
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int n = 0; n < ACROSS / 8; n++) {
                const float* two = sums_of(d, part, n);
                sums[part][n] = pair_of<T>(two[0], two[1]);                              // [ML4]
            }
    }
#pragma unroll
    for (int part = 0; part < PARTS; part++) finish(part);
}
