// attention's forward pass on Hopper, for 16-bit entries. Formula, names and [AT] numbers: attention.py.
//
// A block takes 128 queries of one head and goes through its tiles of 128 keys, from the diagonal down to the first.
// Two warpgroups multiply, 64 queries each; one thread of a third fetches q, k and v by bulk copies, STAGES tiles
// ahead. No score leaves the registers: those of one product are, rounded, a factor of the next. While a warpgroup
// takes exponentials, the tensor cores work on its product with the values of the tile before, and for the other
// warpgroup, whose turn comes when the first has issued its products (Shah et al. 2024, arXiv:2407.08608).
//
// What lies beyond T or beyond the head's D entries arrives as 0 from the copies, which know the tensor's bounds.
#include "common.cuh"
#include "philox.cuh"
#include "hopper.cuh"

constexpr int TILE = 128, STAGES = 2;                       // queries, and keys; tiles of keys and of values at once
constexpr int GROUPS = 2, THREADS = 128 * (GROUPS + 1);     // warpgroups that multiply; and one that fetches
constexpr int ACROSS = 64, PARTS = HEAD / ACROSS;           // entries of a row that lie together; how many such parts
constexpr int BYTES = TILE * HEAD * sizeof(T);              // of a tile

struct Tile { T part[PARTS][TILE][ACROSS]; };
struct Shared {
    Tile q, k[STAGES], v[STAGES];
    Barrier q_full, k_full[STAGES], k_empty[STAGES], v_full[STAGES], v_empty[STAGES];
};

struct Shape { int T, H, D; };                              // qkv is (B, T, 3 H D)
struct Drop { float grow; Mask mask; };                     // grow = 1 / (1 - rate), 0 for no dropout

// Of a warpgroup's sums d[4 n + e], as of mma.sync's: the row in its warp's 16, the column.
__device__ __forceinline__ int row_of(int i) { return threadIdx.x % 32 / 4 + i % 4 / 2 * 8; }
__device__ __forceinline__ int column_of(int i) { return i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2; }

__device__ __forceinline__ int head() { return blockIdx.z * gridDim.x + blockIdx.x; }    // n H + h

// Part `part` (0: q, 1: k, 2: v) of the 128 rows from `first` on.
__device__ __forceinline__ void fetch(Tile& to, const TensorMap& qkv, Barrier* full, int part, int first, Shape s) {
    barrier_expect(full, BYTES);
    for (int i = 0; i < PARTS; i++)
        load_box(to.part[i], qkv, full, i * ACROSS, part * s.H + head() % s.H, first, head() / s.H);
}

// Round `round` of a barrier that tiles pass in turn is over when its phase of this parity is.
__device__ __forceinline__ int parity(int t) { return t / STAGES & 1; }

// A thread of each warp says that its warp has done with a tile.
__device__ __forceinline__ void leave(Barrier* empty) {
    if (threadIdx.x % 32 == 0) barrier_arrive(empty);
}

// The scores, undivided, of this warpgroup's 64 queries with all keys of a tile: issued.
__device__ __forceinline__ void issue_scores(float (&s)[TILE / 2], const T* q, const Tile& k) {
#pragma unroll
    for (int c = 0; c < HEAD; c += 16)
        wgmma<T, false>(s, tile_at(q + c / ACROSS * TILE * ACROSS + c % ACROSS, 0),
                        tile_at(&k.part[c / ACROSS][0][c % ACROSS], 0), c > 0);
    wgmma_commit();
}

// out += p v: issued.
__device__ __forceinline__ void issue_values(float (&out)[HEAD / 2], const uint32_t (&p)[TILE / 16][4], const Tile& v) {
#pragma unroll
    for (int j = 0; j < TILE; j += 16) wgmma<T, true>(out, p[j / 16], tile_at(v.part[0][j], sizeof v.part[0]), true);
    wgmma_commit();
}

// The max, or the sum, over the four lanes that share a row.
template<class F> __device__ __forceinline__ float of_row(float v, F combine) {
    v = combine(v, __shfl_xor_sync(~0u, v, 1));
    return combine(v, __shfl_xor_sync(~0u, v, 2));
}

// Scores become exp(s - most), most being the largest of their row until now; total is this thread's part of the sums.
// shrink is the factor for what was summed before, when `most` was smaller. scale: log2(e) / sqrt(D).
__device__ __forceinline__ void exponentials(float (&s)[TILE / 2], float (&most)[2], float (&total)[2],
                                             float (&shrink)[2], float scale) {
#pragma unroll
    for (int half = 0; half < 2; half++) {                  // rows g and g + 8
        float m = most[half];
#pragma unroll
        for (int i = 2 * half; i < TILE / 2; i += 4) m = fmaxf(m, fmaxf(s[i], s[i + 1]));
        m = of_row(m, Max());
        shrink[half] = exp2f((most[half] - m) * scale);
        most[half] = m;
        total[half] *= shrink[half];
#pragma unroll
        for (int i = 2 * half; i < TILE / 2; i += 4)
#pragma unroll
            for (int e = i; e < i + 2; e++) {
                s[e] = exp2f(s[e] * scale - m * scale);                                  // [AT1,3], undivided
                total[half] += s[e];
            }
    }
}

// z of [AT4] for query i and key j.
__device__ __forceinline__ void drop_pair(float& left, float& right, Drop drop, Shape s, int i, int j) {
    long long index = ((long long)head() * s.T + i) * s.T + j;
    uint4 w = philox(uint32_t(index / 4), drop.mask);
    int k = index % 4;
    left *= (k == 0 ? w.x : k == 1 ? w.y : k == 2 ? w.z : w.w) >= drop.mask.least ? drop.grow : 0.0f;
    if (k == 3) w.x = philox(uint32_t(index / 4 + 1), drop.mask).x;
    right *= (k == 3 ? w.x : k == 0 ? w.y : k == 1 ? w.z : w.w) >= drop.mask.least ? drop.grow : 0.0f;
}

__device__ __forceinline__ uint32_t pair(float left, float right) {
    T two[2] = {T(left), T(right)};
    return *(uint32_t*)two;
}

// p = z exp(s - most), rounded, as a factor of wgmma.
__device__ __forceinline__ void weights(uint32_t (&p)[TILE / 16][4], float (&a)[TILE / 2], Drop drop, Shape s, int i,
                                        int j) {
    if (drop.grow != 0.0f)
#pragma unroll
        for (int k = 0; k < TILE / 2; k += 2)
            drop_pair(a[k], a[k + 1], drop, s, i + row_of(k), j + column_of(k));         // [AT4]
#pragma unroll
    for (int k = 0; k < TILE / 2; k += 2) p[k / 8][k % 8 / 2] = pair(a[k], a[k + 1]);
}

// The calling thread fetches all that the block needs, in the order in which it is needed.
__device__ __forceinline__ void fetch_all(Shared& shared, const TensorMap& qkv, int first, int tiles, Shape s) {
    fetch(shared.q, qkv, &shared.q_full, 0, first, s);
    for (int t = 0; t < tiles; t++) {
        int stage = t % STAGES, j = (tiles - 1 - t) * TILE;
        barrier_wait(&shared.k_empty[stage], parity(t) ^ 1);
        fetch(shared.k[stage], qkv, &shared.k_full[stage], 1, j, s);
        barrier_wait(&shared.v_empty[stage], parity(t) ^ 1);
        fetch(shared.v[stage], qkv, &shared.v_full[stage], 2, j, s);
    }
}

// y (B, T, H D) and lse (B, H, T): written. D is a multiple of 8.
extern "C" __global__ void __launch_bounds__(THREADS, 1) forward(const __grid_constant__ TensorMap qkv, int length,
        int heads, int size, float scale, float grow, uint32_t k0, uint32_t k1, uint32_t c1, uint32_t c2, uint32_t c3,
        uint32_t least, T* y, float* lse) {
    const Shape s = {length, heads, size};
    const Drop drop = {grow, {k0, k1, c1, c2, c3, least}};
    Shared& shared = *(Shared*)aligned_shared();
    int group = __shfl_sync(~0u, threadIdx.x / 128, 0), warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    int first = (gridDim.y - 1 - blockIdx.y) * TILE, tiles = first / TILE + 1;           // the longest first
    if (threadIdx.x == 0) {
        barrier_init(&shared.q_full, 1);
        for (int i = 0; i < STAGES; i++) {
            barrier_init(&shared.k_full[i], 1);
            barrier_init(&shared.v_full[i], 1);
            barrier_init(&shared.k_empty[i], 4 * GROUPS);   // a warp each
            barrier_init(&shared.v_empty[i], 4 * GROUPS);
        }
        fence_async();
    }
    __syncthreads();
    if (group == GROUPS) {
        fewer_registers<24>();
        if (threadIdx.x == 128 * GROUPS) fetch_all(shared, qkv, first, tiles, s);
        return;
    }
    more_registers<240>();

    int i0 = first + group * 64 + warp * 16;                // this warp's first query
    T* q = shared.q.part[0][group * 64];
    float a[TILE / 2], out[HEAD / 2] = {}, most[2] = {-INFINITY, -INFINITY}, total[2] = {}, shrink[2];
    uint32_t p[TILE / 16][4];
    scale *= 1.44269504f;                                   // exp(x) = 2^(x log2(e))

    barrier_wait(&shared.q_full, 0);
    barrier_wait(&shared.k_full[0], 0);
    wgmma_fence(a);
    issue_scores(a, q, shared.k[0]);
    wgmma_wait<0>(a);
    leave(&shared.k_empty[0]);
#pragma unroll
    for (int i = 0; i < TILE / 2; i++) {                    // only this tile reaches the diagonal, and T
        int row = i0 + row_of(i), column = first + column_of(i);
        if (column > row || column >= s.T) a[i] = -INFINITY;
    }
    exponentials(a, most, total, shrink, scale);
    weights(p, a, drop, s, i0, first);

    if (group == 1 && tiles > 1) group_arrive(1, 256);      // barrier 1 + g: it is the turn of group g
    for (int t = 1; t < tiles; t++) {
        int stage = t % STAGES, last = (t - 1) % STAGES;
        barrier_wait(&shared.k_full[stage], parity(t));
        barrier_wait(&shared.v_full[last], parity(t - 1));
        group_sync(1 + group, 256);
        wgmma_fence(a, out, p);
        issue_scores(a, q, shared.k[stage]);
        issue_values(out, p, shared.v[last]);               // [AT5] of the tile before
        if (group == 0 || t < tiles - 1) group_arrive(2 - group, 256);
        wgmma_wait<1>(a);
        leave(&shared.k_empty[stage]);
        exponentials(a, most, total, shrink, scale);
        wgmma_wait<0>(out, p);
        leave(&shared.v_empty[last]);
#pragma unroll
        for (int i = 0; i < HEAD / 2; i++) out[i] *= shrink[i % 4 / 2];
        weights(p, a, drop, s, i0, (tiles - 1 - t) * TILE);
    }
    barrier_wait(&shared.v_full[(tiles - 1) % STAGES], parity(tiles - 1));
    wgmma_fence(out, p);
    issue_values(out, p, shared.v[(tiles - 1) % STAGES]);                                // [AT5]
    wgmma_wait<0>(out, p);

    // Through q's place in shared memory, so that whole rows are written: by the other warps, too, it has been read.
    group_sync(3 + group, 128);
#pragma unroll
    for (int half = 0; half < 2; half++) {
        total[half] = of_row(total[half], Sum());
        float inverse = 1.0f / total[half];
        int row = warp * 16 + row_of(2 * half);
#pragma unroll
        for (int i = 2 * half; i < HEAD / 2; i += 4) {
            int column = column_of(i), piece = column % ACROSS / 8 ^ row % 8;            // so that banks differ
            *(uint32_t*)(q + column / ACROSS * TILE * ACROSS + row * ACROSS + piece * 8 + column % 8) =
                pair(out[i] * inverse, out[i + 1] * inverse);                    // [AT3]
        }
        if (int i = i0 + row_of(2 * half); i < s.T && lane % 4 == 0)
            lse[(long long)head() * s.T + i] = most[half] * scale * 0.693147181f + logf(total[half]);    // [AT2]
    }
    __syncwarp();
    for (int i = lane; i < 16 * (HEAD / 8); i += 32) {
        int row = warp * 16 + i / (HEAD / 8), column = i % (HEAD / 8) * 8, piece = column % ACROSS / 8 ^ row % 8;
        long long at = (long long)(head() / s.H) * s.T + first + group * 64 + row;
        if (first + group * 64 + row < s.T && column < s.D)
            store16(y + (at * s.H + head() % s.H) * s.D + column,
                    load16(q + column / ACROSS * TILE * ACROSS + row * ACROSS + piece * 8));
    }
}
