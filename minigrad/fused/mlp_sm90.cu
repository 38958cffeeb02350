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
#include "tiles.cuh"
#include "hopper.cuh"

constexpr int ROWS = 128, COLUMNS = 128;                    // of a warpgroup's half of a tile
constexpr int DEEP = 64, LEFT = 6, RIGHT = 3;               // entries of a sum that a step adds; pieces of the factors
constexpr int GROUPS = 2, THREADS = 128 * (GROUPS + 1);     // warpgroups that multiply, and one that fetches
constexpr int LEAD = 4;                                     // steps of the first before the second begins
static_assert(LEAD <= LEFT && 2 * LEAD > LEFT);
constexpr int ACROSS = 64, CHUNKS = 4;                      // sums leave in chunks of 64 rows and columns, two by two
constexpr float LOG2_E = 1.4426950408889634f;
constexpr float C = 0.7978845608028654f, A = 0.044715f;     // sqrt(2 / pi), and the cubic term's weight

struct Problem { int M, N, K; };                            // (M, K) times (K, N)
struct Piece { T row[ROWS][DEEP]; };                        // or two of 64 rows, side by side
struct Chunk { T row[ACROSS][ACROSS]; };
template<int N> struct Ring { Barrier full[N], empty[N]; };

struct Shared {
    Piece left[LEFT], right[GROUPS][RIGHT];
    Chunk chunks[GROUPS][2];
    Ring<LEFT> of_left;
    Ring<RIGHT> of_right[GROUPS];
    Ring<2> of_chunks[GROUPS];
};

__device__ __forceinline__ int group_of() { return __shfl_sync(~0u, threadIdx.x / 128, 0); }     // one for the warp
__device__ __forceinline__ int warp_of() { return threadIdx.x / 32 % 4; }                // in its group
__device__ __forceinline__ int lane_of() { return threadIdx.x % 32; }

// All that is to come, for a ring whose pieces this many warps leave.
template<int N> __device__ __forceinline__ void make(Ring<N>& ring, int warps) {
    for (int i = 0; i < N; i++) {
        barrier_init(&ring.full[i], 1);
        barrier_init(&ring.empty[i], warps);
    }
}

// Piece t of a ring has come; there is room for it, and so many bytes are expected; this warp has done with it.
template<int N> __device__ __forceinline__ void wait_for(Ring<N>& ring, int t) {
    barrier_wait(&ring.full[t % N], t / N % 2);
}
template<int N> __device__ __forceinline__ Barrier* expect(Ring<N>& ring, int t, int bytes) {
    barrier_wait(&ring.empty[t % N], t / N % 2 ^ 1);
    barrier_expect(&ring.full[t % N], bytes);
    return &ring.full[t % N];
}
template<int N> __device__ __forceinline__ void leave(Ring<N>& ring, int t) {
    if (lane_of() == 0) barrier_arrive(&ring.empty[t % N]);
}

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
        make(shared.of_left, 4 * GROUPS);
        for (int g = 0; g < GROUPS; g++) {
            make(shared.of_right[g], 4);
            make(shared.of_chunks[g], 4);
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
            Barrier* full = expect(shared.of_left, t, sizeof(Piece));
            load_box(&shared.left[t % LEFT], left, full, k, place_of(tile, 0, p).i);
        }
}

// It lies by rows of K, or BY_COLUMNS: then its rows are columns of sums.
template<bool BY_COLUMNS>
__device__ __forceinline__ void fetch_right(Shared& shared, const TensorMap& right, int group, Problem p) {
    int t = 0;
    for (TILES(tile, p))
        for (int k = 0; k < p.K; k += DEEP, t++) {
            Barrier* full = expect(shared.of_right[group], t, sizeof(Piece));
            Piece& to = shared.right[group][t % RIGHT];
            int j = place_of(tile, group, p).j;
            if (BY_COLUMNS) load_box(&to, right, full, k, j);
            else for (int part = 0; part < COLUMNS; part += 64) load_box(to.row[part], right, full, j + part, k);
        }
}

// d = a warpgroup's half of a tile: 64 rows, and the 64 below. t counts steps of all tiles. At barrier 1 the second one
// waits for the first, which cannot come there again before that: it would be more than LEFT steps ahead.
template<bool BY_COLUMNS>
__device__ __forceinline__ void multiply(float (&d)[2][COLUMNS / 2], Shared& shared, int group, int& t, Problem p) {
    int steps = (p.K + DEEP - 1) / DEEP;
    if (group == 1 && steps >= LEAD) group_sync(1, 256);
    wgmma_fence(d[0], d[1]);
    for (int step = 0; step < steps; step++, t++) {
        wait_for(shared.of_left, t);
        wait_for(shared.of_right[group], t);
        const Piece &left = shared.left[t % LEFT], &right = shared.right[group][t % RIGHT];
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < DEEP; k += 16)
#pragma unroll
            for (int half = 0; half < 2; half++)
                wgmma<T, !BY_COLUMNS>(
                    d[half], tile_at(&left.row[half * 64][k], 0),
                    BY_COLUMNS ? tile_at(&right.row[0][k], 0) : tile_at(right.row[k], sizeof right / 2), step + k > 0);
        wgmma_commit();
        wgmma_wait<1>();
        if (step > 0) {
            leave(shared.of_left, t - 1);
            leave(shared.of_right[group], t - 1);
        }
        if (group == 0 && step == LEAD - 1) group_arrive(1, 256);
    }
    wgmma_wait<0>(d[0], d[1]);
    leave(shared.of_left, t - 1);
    leave(shared.of_right[group], t - 1);
}

// Rows of x that are this warp's = its rows of a chunk.
__device__ __forceinline__ void put(T* x, Chunk& chunk, Place to, Problem p) {
    int row = warp_of() * 16 + lane_of() / 8, column = lane_of() % 8 * 8;
    x += (long long)(to.i + row) * p.N + to.j + column;
    if (to.j + column < p.N)
#pragma unroll
        for (int k = 0; k < 16; k += 4)
            if (to.i + row + k < p.M) store16(x + (long long)k * p.N, load16(at(chunk, row + k, column)));
}

// exp(-2u) of [GE3,4]: the logistic function is 1 / (1 + it).
__device__ __forceinline__ float power(float v) {
    return exp2f(v * (-2.0f * LOG2_E * C + -2.0f * LOG2_E * C * A * (v * v)));
}

// ---------------------------------------------------------------------------------------------- forward

// u and h (M, N) of x (M, K), w (K, N) and b (N,): written.
extern "C" __global__ void __launch_bounds__(THREADS, 1) forward(const __grid_constant__ TensorMap x,
                                                                 const __grid_constant__ TensorMap w, const T* b, int M,
                                                                 int N, int K, T* u, T* h) {
    Shared& shared = begin();
    Problem p = {M, N, K};
    int group = group_of(), t = 0;
    if (group == GROUPS) {
        fewer_registers<40>();
        int which = __shfl_sync(~0u, warp_of(), 0);         // one for the warp
        if (lane_of() > 0) return;
        if (which == 0) fetch_left(shared, x, p);
        else if (which <= GROUPS) fetch_right<false>(shared, w, which - 1, p);
        return;
    }
    more_registers<232>();

    int first = first_pair();
    float d[2][COLUMNS / 2] = {};
    uint32_t bias[COLUMNS / 8];
    Chunk &of_u = shared.chunks[group][0], &of_h = shared.chunks[group][1];
    for (TILES(tile, p)) {
        Place half = place_of(tile, group, p);
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            int j = half.j + column_of(n, 0);
            bias[n] = j < N ? *(const uint32_t*)(b + j) : 0;
        }
        multiply<false>(d, shared, group, t, p);
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            Place to = chunk_of(half, c);
#pragma unroll
            for (int e = 0; e < ACROSS / 2; e += 2) {
                int k = c % 2 * ACROSS / 2 + e;
                float2 add = floats_of<T>(bias[k / 4]);
                float v = d[c / 2][k] + add.x, w = d[c / 2][k + 1] + add.y;              // [ML1]
                *pair_at(of_u, first, e) = pair_of<T>(v, w);
                *pair_at(of_h, first, e) =
                    pair_of<T>(__fdividef(v, 1.0f + power(v)), __fdividef(w, 1.0f + power(w)));          // [ML2]
            }
            __syncwarp();
            put(u, of_u, to, p);
            put(h, of_h, to, p);
            __syncwarp();                                   // all lanes have read their rows
        }
    }
}

// ---------------------------------------------------------------------------------------------- backward

// u, chunk by chunk: two of each warpgroup's before the first one's others, which wait until those have been used.
__device__ __forceinline__ void fetch_chunks(Shared& shared, const TensorMap& u, Problem p) {
    int t = 0;                                              // counts chunks of a warpgroup in all tiles
    for (TILES(tile, p))
        for (int two = 0; two < CHUNKS; two += 2, t += 2)
            for (int group = 0; group < GROUPS; group++)
                for (int c = two; c < two + 2; c++) {
                    Place from = chunk_of(place_of(tile, group, p), c);
                    if (two == 0) prefetch_box(u, from.j, from.i + ACROSS);
                    Barrier* full = expect(shared.of_chunks[group], t + c % 2, sizeof(Chunk));
                    load_box(&shared.chunks[group][c % 2], u, full, from.j, from.i);
                }
}

// du = dh gelu'(u)
__device__ __forceinline__ float sloped(float dh, float u) {
    float s = __fdividef(1.0f, 1.0f + power(u)), v = u * (2.0f * C + 6.0f * C * A * (u * u));
    return dh * (s + s * (v - s * v));                                                   // [GE5]
}

// Sums over a chunk's rows: a warp has a quarter of the columns. to: where those go that are there.
__device__ __forceinline__ void add_columns(float* to, Chunk& chunk, int columns) {
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
    if (lane_of() < 4)
        for (int n = 0; n < 2; n++)
            for (int e = 0; e < 2; e++)
                if (int j = quarter + column_of(n, e); j < columns) to[j] = sums[n][e];
}

// du (M, N) of dy (M, K), w (N, K) and u (M, N): written; and to parts (M / 64 rounded up, N), sums over 64 rows of it.
extern "C" __global__ void __launch_bounds__(THREADS, 1) backward(const __grid_constant__ TensorMap dy,
                                                                  const __grid_constant__ TensorMap w,
                                                                  const __grid_constant__ TensorMap u, int M, int N,
                                                                  int K, T* du, float* parts) {
    Shared& shared = begin();
    Problem p = {M, N, K};
    int group = group_of(), t = 0, chunks = 0;
    if (group == GROUPS) {
        fewer_registers<40>();
        int which = __shfl_sync(~0u, warp_of(), 0);         // one for the warp
        if (lane_of() > 0) return;
        if (which == 0) fetch_left(shared, dy, p);
        else if (which <= GROUPS) fetch_right<true>(shared, w, which - 1, p);
        else fetch_chunks(shared, u, p);
        return;
    }
    more_registers<232>();

    int first = first_pair();
    float d[2][COLUMNS / 2] = {};
    for (TILES(tile, p)) {
        Place half = place_of(tile, group, p);
        multiply<true>(d, shared, group, t, p);                                          // [ML4]
#pragma unroll
        for (int c = 0; c < CHUNKS; c++, chunks++) {
            Place to = chunk_of(half, c);
            Chunk& chunk = shared.chunks[group][c % 2];
            uint32_t two[ACROSS / 4];                       // all of them first: what is read waits for what is written
            wait_for(shared.of_chunks[group], chunks);
#pragma unroll
            for (int e = 0; e < ACROSS / 4; e++) two[e] = *pair_at(chunk, first, 2 * e);
#pragma unroll
            for (int e = 0; e < ACROSS / 4; e++) {
                float2 its_u = floats_of<T>(two[e]);
                int k = c % 2 * ACROSS / 2 + 2 * e;
                *pair_at(chunk, first, 2 * e) =
                    pair_of<T>(sloped(d[c / 2][k], its_u.x), sloped(d[c / 2][k + 1], its_u.y));          // [ML5]
            }
            fence_async();                                  // a copy is to write there next
            group_sync(2 + group, 128);
            put(du, chunk, to, p);
            if (to.i < M && to.j < N)
                add_columns(parts + (long long)(to.i / ACROSS) * N + to.j, chunk, N - to.j);             // [ML6]
            __syncwarp();                                   // all lanes have read the chunk
            leave(shared.of_chunks[group], chunks);
        }
    }
}
