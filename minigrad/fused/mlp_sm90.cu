// The two products of an MLP that have GELU at their end, on Hopper, for 16-bit entries. Formula, names and numbers:
// mlp.py for [ML], gelu.py for [GE].
//
// A block stays, and takes tile after tile of 128 x 256 sums. Two warpgroups multiply, one the left half of a tile, one
// the right half; the warps of a third fetch what they need, 64 entries of every sum at a time. The second warpgroup is
// some steps behind the first: while one takes its sums from registers to memory, tensor cores have the other's
// products. Meanwhile only the left factor, which both read, has to wait in shared memory: there are more pieces of it.
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
constexpr int LEAD = 4;                                     // steps of the first before the second begins
static_assert(LEAD <= LEFT && 2 * LEAD > LEFT);
constexpr int ACROSS = 64, CHUNKS = 4;                      // its sums end in chunks of 64 rows and columns, two by two

struct Problem { int M, N, K; };                            // (M, K) times (K, N)
struct Chunk { T row[ACROSS][ACROSS]; };
struct Piece { Chunk half[2]; };                            // 128 rows of 64 entries, or 64 of 128

struct Shared {
    Piece left[LEFT], right[GROUPS][RIGHT], end[GROUPS];
    Ring<LEFT> of_left;
    Ring<RIGHT> of_right[GROUPS];
    Ring<1> of_end[GROUPS];
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

// Where the entries of a chunk lie that have these coordinates: 16-byte pieces are exchanged as in what was copied.
__device__ __forceinline__ T* at(Chunk& chunk, int row, int column) {
    return &chunk.row[row][(column / 8 ^ row % 8) * 8 + column % 8];
}

// How many bytes into a chunk this thread's first two sums belong.
__device__ __forceinline__ int first_pair() {
    int row = row_of(0), column = column_of(0, 0);
    return (warp_of() * 16 + row) * 128 + row * 16 + column * 2;
}

// Its sums number e and e + 1, for which eight columns are one piece: the same as at().
__device__ __forceinline__ uint32_t* pair_at(Chunk& chunk, int first, int e) {
    return (uint32_t*)((char*)&chunk + (first ^ e / 4 * 16) + e % 4 / 2 * 8 * 128);
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

// The upper half of what u has there, or the lower one: two chunks beside each other.
__device__ __forceinline__ void fetch_half(Piece& to, const TensorMap& u, Barrier* full, Place at, bool lower) {
    for (int c = 0; c < 2; c++) load_box(&to.half[c], u, full, at.j + c * ACROSS, at.i + lower * ACROSS);
}

__device__ __forceinline__ void fetch_left(Shared& shared, const TensorMap& left, Problem p) {
    int t = 0;                                              // counts steps of all tiles
    for (TILES(tile, p))
        for (int k = 0; k < p.K; k += DEEP, t++) {
            Barrier* full = shared.of_left.expect(t, sizeof(Piece));
            load_box(&shared.left[t % LEFT], left, full, k, place_of(tile, 0, p).i);
        }
}

// It lies by rows of K, or BY_COLUMNS: then its rows are columns of sums. Behind the pieces for a tile comes one more
// where there is u: the lower half of what it has there.
template<bool BY_COLUMNS> __device__ __forceinline__ void fetch_right(Shared& shared, const TensorMap& right,
                                                                      const TensorMap* u, int group, Problem p) {
    int t = 0;                                              // counts pieces of all tiles
    for (TILES(tile, p)) {
        Place half = place_of(tile, group, p);
        for (int k = 0; k < p.K; k += DEEP, t++) {
            Barrier* full = shared.of_right[group].expect(t, sizeof(Piece));
            Piece& to = shared.right[group][t % RIGHT];
            if (BY_COLUMNS) load_box(&to, right, full, k, half.j);
            else for (int c = 0; c < 2; c++) load_box(&to.half[c], right, full, half.j + c * ACROSS, k);
        }
        if (u) {
            Barrier* full = shared.of_right[group].expect(t, sizeof(Piece));
            fetch_half(shared.right[group][t++ % RIGHT], *u, full, half, true);
        }
    }
}

// d = a warpgroup's half of a tile: 64 rows, and the 64 below. t counts steps of all tiles, r pieces of its own ring.
// At barrier 1 the second waits for the first, which cannot come there again before that: it would be LEFT steps ahead.
template<bool BY_COLUMNS>
__device__ __forceinline__ void multiply(float (&d)[2][COLUMNS / 2], Shared& shared, int group, int& t, int& r,
                                         Problem p) {
    int steps = (p.K + DEEP - 1) / DEEP;
    if (group == 1 && steps >= LEAD) group_sync(1, 256);
    wgmma_fence(d[0], d[1]);
    for (int step = 0; step < steps; step++, t++, r++) {
        shared.of_left.wait_full(t);
        shared.of_right[group].wait_full(r);
        const Piece &left = shared.left[t % LEFT], &right = shared.right[group][r % RIGHT];
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DEEP; k += 16)
#pragma unroll
            for (int half = 0; half < 2; half++)
                wgmma<T, !BY_COLUMNS>(d[half], tile_at(&left.half[half].row[0][k], 0),
                                      BY_COLUMNS ? tile_at(&right.half[0].row[0][k], 0)
                                                 : tile_at(right.half[0].row[k], sizeof(Chunk)), step + k > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (step > 0) {
            shared.of_left.leave(t - 1);
            shared.of_right[group].leave(r - 1);
        }
        if (group == 0 && step == LEAD - 1) group_arrive(1, 256);
    }
    wgmma_wait<0>(d[0], d[1]);
    shared.of_left.leave(t - 1);
    shared.of_right[group].leave(r - 1);
}

// Rows of x that are this warp's = its rows of a chunk. Here and in sum_rows nothing branches: so the compiler can mix
// them with what follows.
__device__ __forceinline__ void put(T* x, Chunk& chunk, Place to, Problem p) {
    int row = warp_of() * 16 + lane_of() / 8, column = lane_of() % 8 * 8;
    int rows = to.j + column < p.N ? p.M - to.i - row : 0;
    x += (long long)(to.i + row) * p.N + to.j + column;
    uint4 pieces[4];
#pragma unroll
    for (int k = 0; k < 4; k++) pieces[k] = load16(at(chunk, row + 4 * k, column));
#pragma unroll
    for (int k = 0; k < 4; k++)
        if (4 * k < rows) store16(x + (long long)p.N * 4 * k, pieces[k]);
}

// ---------------------------------------------------------------------------------------------- forward

// u and h (M, N) of x (M, K), w (K, N) and b (N,): written.
extern "C" __global__ void __launch_bounds__(THREADS, 1) forward(const __grid_constant__ TensorMap x,
                                                                 const __grid_constant__ TensorMap w, const T* b, int M,
                                                                 int N, int K, T* u, T* h) {
    Shared& shared = begin();
    Problem p = {M, N, K};
    int group = group_of(), t = 0, r = 0;
    if (group == GROUPS) {
        fewer_registers<24>();
        int which = __shfl_sync(~0u, warp_of(), 0);         // one for the warp
        if (lane_of() > 0) return;
        if (which == 0) fetch_left(shared, x, p);
        else if (which <= GROUPS) fetch_right<false>(shared, w, nullptr, which - 1, p);
        return;
    }
    more_registers<240>();

    int first = first_pair();
    float d[2][COLUMNS / 2] = {};
    uint32_t bias[COLUMNS / 8];
    Chunk &of_u = shared.end[group].half[0], &of_h = shared.end[group].half[1];
    for (TILES(tile, p)) {
        Place half = place_of(tile, group, p);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            int j = half.j + column_of(n, 0);
            bias[n] = j < N ? *(const uint32_t*)(b + j) : 0;
        }
        multiply<false>(d, shared, group, t, r, p);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            Place to = chunk_of(half, c);
#pragma unroll
            for (int e = 0; e < ACROSS / 2; e += 2) {
                int k = c % 2 * ACROSS / 2 + e;
                float2 add = floats_of<T>(bias[k / 4]);
                float v = d[c / 2][k] + add.x, w = d[c / 2][k + 1] + add.y;              // [ML1]
                *pair_at(of_u, first, e) = pair_of<T>(v, w);
                *pair_at(of_h, first, e) = pair_of<T>(v * gate(v), w * gate(w));         // [ML2]
            }
            __syncwarp();
            put(u, of_u, to, p);
            put(h, of_h, to, p);
            __syncwarp();                                   // all lanes have read their rows
        }
    }
}

// ---------------------------------------------------------------------------------------------- backward

// The upper halves; fetch_right has the lower ones.
__device__ __forceinline__ void fetch_upper(Shared& shared, const TensorMap& u, Problem p) {
    int n = 0;                                              // counts tiles
    for (TILES(tile, p)) {
        for (int group = 0; group < GROUPS; group++)
            fetch_half(shared.end[group], u, shared.of_end[group].expect(n, sizeof(Piece)), place_of(tile, group, p),
                       false);
        n++;
    }
}

// Parts (M / 64 rounded up, N) get their row of sums over a chunk's rows: a warp has a quarter of the columns.
__device__ __forceinline__ void sum_rows(float* parts, Chunk& chunk, Place from, Problem p) {
    uint32_t one = pair_of<T>(1.0f, 1.0f), ones[4] = {one, one, one, one}, four[4];
    float sums[2][4] = {};                                  // all 16 rows of a product with ones are the same
    int quarter = warp_of() * 16;
#pragma unroll
    for (int row = lane_of() % 16; row < ACROSS; row += 16) {
        load_matrices<true>(four, at(chunk, row, quarter + lane_of() / 16 * 8));
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
    int group = group_of(), t = 0, r = 0, n = 0;
    if (group == GROUPS) {
        fewer_registers<40>();
        int which = __shfl_sync(~0u, warp_of(), 0);         // one for the warp
        if (lane_of() > 0) return;
        if (which == 0) fetch_left(shared, dy, p);
        else if (which <= GROUPS) fetch_right<true>(shared, w, &u, which - 1, p);
        else fetch_upper(shared, u, p);
        return;
    }
    more_registers<232>();

    int first = first_pair();
    float d[2][COLUMNS / 2] = {};
    for (TILES(tile, p)) {
        Place half = place_of(tile, group, p);
        multiply<true>(d, shared, group, t, r, p);                                       // [ML4]
        Piece *pieces[2] = {&shared.end[group], &shared.right[group][r % RIGHT]};
        auto finish = [&](int c) {                          // chunk c, when all warps have written it
            put(du, pieces[c / 2]->half[c % 2], chunk_of(half, c), p);
            sum_rows(parts, pieces[c / 2]->half[c % 2], chunk_of(half, c), p);           // [ML6]
            __syncwarp();                                   // all lanes have read it
            if (c == 1) shared.of_end[group].leave(n);
            if (c == 3) shared.of_right[group].leave(r);
        };
        shared.of_end[group].wait_full(n);
        shared.of_right[group].wait_full(r);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            Chunk& chunk = pieces[c / 2]->half[c % 2];
            uint32_t two[ACROSS / 4];                       // all of them first: what is read waits for what is written
#pragma unroll
            for (int e = 0; e < ACROSS / 4; e++) two[e] = *pair_at(chunk, first, 2 * e);
            if (c > 0) finish(c - 1);
#pragma unroll
            for (int e = 0; e < ACROSS / 4; e++) {
                float2 its_u = floats_of<T>(two[e]);
                int k = c % 2 * ACROSS / 2 + 2 * e;
                *pair_at(chunk, first, 2 * e) =
                    pair_of<T>(d[c / 2][k] * tanh_slope(its_u.x), d[c / 2][k + 1] * tanh_slope(its_u.y));    // [ML5]
            }
            if (c % 2 == 1) fence_async();                  // a copy is to write there next
            group_sync(2 + group, 128);
        }
        finish(CHUNKS - 1);
        r++, n++;
    }
}
