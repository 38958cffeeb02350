// attention on Hopper, for 16-bit entries. Formula, names and [AT] numbers: attention.py.
//
// Rows of a head, queries in forward and backward_q, keys in backward_kv, are taken 128 at a time, and with them the
// tiles of keys (or queries) that meet them under the diagonal. Two warpgroups multiply, 64 rows each; tiles are
// fetched by bulk copies, some tiles ahead. No score leaves the registers: sums of one product are, rounded, a factor
// of the next. What is issued last is multiplied while exponentials are taken (Shah et al. 2024, arXiv:2407.08608).
//
// What lies beyond T, or beyond the head's D entries, arrives as 0 from the copies, which know the tensor's bounds.
// Keys beyond T lie above the diagonal of all queries that are kept.
//
// dq has a kernel of its own, which computes the scores again: attention.cu says why.
#include "common.cuh"
#include "philox.cuh"
#include "tiles.cuh"
#include "attention.cuh"
#include "hopper.cuh"
#include "ring.cuh"

constexpr int ROWS = 128, BOX = 64;                         // of a block; of a copy
constexpr int GROUPS = 2;                                   // warpgroups that multiply
constexpr int ACROSS = 64, PARTS = HEAD / ACROSS;           // entries of a row that lie together; how many such parts

template<int N> struct Tile { T part[PARTS][N][ACROSS]; };

__device__ __forceinline__ int warp_of() { return __shfl_sync(~0u, threadIdx.x / 32, 0); }       // one for all lanes
__device__ __forceinline__ int first_of_warp() { return threadIdx.x / 32 * 16; }         // of the block's 128 rows

// A tile = the rows from `first` on of the head's q (0), k (1) or v (2), or of dy (0).
template<int N> __device__ __forceinline__ void fetch(Tile<N>& to, const TensorMap& x, Barrier* full, int which,
                                                      int first, Shape s) {
    for (int i = 0; i < PARTS; i++)
        for (int r = 0; r < N; r += BOX)
            load_box(to.part[i][r], x, full, i * ACROSS, which * s.H + head() % s.H, first + r, head() / s.H);
}

// d = a b^T of a warpgroup's 64 rows of a, and all rows of b: issued.
template<int N> __device__ __forceinline__ void issue_scores(float (&d)[N / 2], const Tile<ROWS>& a, const Tile<N>& b,
                                                             int group) {
    uint64_t rows = tile_at(a.part[0][group * 64], 0), columns = tile_at(b.part, 0);
#pragma unroll
    for (int c = 0; c < HEAD; c += 16) {
        int part = c / ACROSS, within = c % ACROSS * (int)sizeof(T);
        wgmma<T, false>(d, beyond(rows, part * (int)sizeof a.part[0] + within),
                        beyond(columns, part * (int)sizeof b.part[0] + within), c > 0);
    }
    wgmma_commit();
}

// d += p b: issued.
template<int N> __device__ __forceinline__ void issue_sums(float (&d)[HEAD / 2], const uint32_t (&p)[N / 16][4],
                                                           const Tile<N>& b) {
    uint64_t rows = tile_at(b.part, sizeof b.part[0]);
#pragma unroll
    for (int j = 0; j < N; j += 16) wgmma<T, true>(d, p[j / 16], beyond(rows, j * (int)sizeof b.part[0][0]), true);
    wgmma_commit();
}

// Sums, rounded, as a factor of wgmma.
template<int N> __device__ __forceinline__ void round(uint32_t (&p)[N / 16][4], const float (&a)[N / 2]) {
#pragma unroll
    for (int i = 0; i < N / 2; i += 2) p[i / 8][i % 8 / 2] = pair_of<T>(a[i], a[i + 1]);
}

// The sums of a warpgroup lie in each warp as those of mma.sync, in one row: d[4 n + e] is tiles.cuh's d[n][e].
__device__ __forceinline__ int row_at(int i) { return row_of(i % 4); }
__device__ __forceinline__ int column_at(int i) { return column_of(i / 4, i % 4); }

// Which of a warp's 16 x 2 N scores are kept: bit i % 32 of word i / 32 is for entry i. The first one is of query i and
// key j; rows are queries, or if TURNED keys.
template<bool TURNED, int N> __device__ __forceinline__ void keep_bits(uint32_t (&bits)[N / 32], Drop drop, Shape s,
                                                                       int i, int j) {
#pragma unroll
    for (int k = 0; k < N / 32; k++)
        bits[k] = kept<8, TURNED>(drop.mask, s, TURNED ? i + 64 * k : i, TURNED ? j : j + 64 * k);
}

// a = factor a where a bit is set, 0 elsewhere.
template<int N> __device__ __forceinline__ void scatter(float (&a)[N], const uint32_t (&bits)[N / 32], float factor) {
#pragma unroll
    for (int i = 0; i < N; i++) a[i] = bits[i / 32] >> i % 32 & 1 ? factor * a[i] : 0.0f;
}

// a = what hides it where the key lies behind the query; the first entry is of query i and key j.
template<bool TURNED, int N> __device__ __forceinline__ void hide(float (&a)[N], float hidden, int i, int j) {
#pragma unroll
    for (int k = 0; k < N; k++)
        if (TURNED ? j + row_at(k) > i + column_at(k) : j + column_at(k) > i + row_at(k)) a[k] = hidden;
}

// Where a tile has an entry.
template<int N> __device__ __forceinline__ T* within(Tile<N>& tile, int row, int column) {
    int piece = column % ACROSS / 8 ^ row % 8;
    return &tile.part[column / ACROSS][row][piece * 8 + column % 8];
}

// Rows of x that are this warp's, `stride` entries apart, = its sums times a factor for each half of them. By way of
// its rows of a tile, so that whole rows are written. All four warps must have read the tile.
__device__ __forceinline__ void put(T* x, int stride, const float (&d)[HEAD / 2], float top, float bottom,
                                    Tile<ROWS>& tile, int first, int group, Shape s) {
    int mine = first_of_warp();
    group_sync(1 + GROUPS + group, 128);
#pragma unroll
    for (int i = 0; i < HEAD / 2; i += 2) {
        float factor = i % 4 < 2 ? top : bottom;
        *(uint32_t*)within(tile, mine + row_at(i), column_at(i)) = pair_of<T>(d[i] * factor, d[i + 1] * factor);
    }
    __syncwarp();
    for (int i = threadIdx.x % 32; i < 16 * (HEAD / 8); i += 32) {
        int row = mine + i / (HEAD / 8), column = i % (HEAD / 8) * 8;
        if (first + row < s.T && column < s.D)
            store16(x + (long long)(first + row) * stride + column, load16(within(tile, row, column)));
    }
}

// ---------------------------------------------------------------------------------------------- forward

// Blocks of forward are short: those of 1024 queries have 8.5 tiles of 64 keys on an average. So for heads of 64 two of
// them share a multiprocessor: while one waits for its first tiles, or writes its sums, the other multiplies, and each
// scheduler has four warps, of which some take exponentials while others are multiplied for. That leaves a thread 128
// registers if there is no warpgroup beside that only fetches: a warp of those that multiply does it on its way.
constexpr int KEYS = 64, AHEAD = 4, FETCHER = 4 * (GROUPS - 1);                          // of a tile; tiles at once

struct Forward {
    Tile<ROWS> q;
    Tile<KEYS> k[AHEAD], v[AHEAD];
    Barrier q_full;
    Ring<AHEAD> ring;
};

// Tile t of keys, and of their values.
__device__ __forceinline__ void fetch_keys(Forward& shared, const TensorMap& qkv, int t, Shape s) {
    int place = shared.ring.place(t), j = t * KEYS;
    barrier_expect(&shared.ring.full[place], sizeof shared.k[0] + sizeof shared.v[0]);
    fetch(shared.k[place], qkv, &shared.ring.full[place], 1, j, s);
    fetch(shared.v[place], qkv, &shared.ring.full[place], 2, j, s);
}

// What a row's exponentials are taken against: `most`, which was its largest score once, and moves when another one is
// SLACK powers of two larger. That is rare, and [AT12] holds for any m_i. total is this thread's part of the sums;
// shrink is the factor for what was summed when `most` was smaller.
struct Rows { float most[2], total[2], shrink[2]; };        // g and g + 8
constexpr float SLACK = 8.0f;

// Scores become exp(s - most). Has `most` moved for any row of the warp?
__device__ __forceinline__ bool exponentials(float (&a)[KEYS / 2], Rows& rows, float c) {
    bool moved = false;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float most = rows.most[half], m = most;
#pragma unroll
        for (int i = 2 * half; i < KEYS / 2; i += 4) m = fmaxf(m, fmaxf(a[i], a[i + 1]));
        m = of_row(m, Max());
        rows.most[half] = c * (m - most) > SLACK ? m : most;
        rows.shrink[half] = most;
        moved |= rows.most[half] != most;
    }
    moved = __any_sync(~0u, moved);
    if (moved)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            rows.shrink[half] = exp2f(c * (rows.shrink[half] - rows.most[half]));        // [AT12]
            rows.total[half] *= rows.shrink[half];
        }
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int i = 2 * half; i < KEYS / 2; i += 4)
#pragma unroll
            for (int e = i; e < i + 2; e++) {
                a[e] = exp2f(c * a[e] - c * rows.most[half]);                            // [AT1,12]
                rows.total[half] += a[e];
            }
    return moved;
}

// Scores of queries from i on and keys from j on become weights, up to a factor for each row.
__device__ __forceinline__ bool weigh(float (&a)[KEYS / 2], Rows& rows, Drop drop, Shape s, float c, int i, int j,
                                      bool diagonal) {
    if (diagonal) hide<false>(a, -INFINITY, i, j);
    bool moved = exponentials(a, rows, c);
    if (drop.grow != 0.0f) {
        uint32_t bits[KEYS / 64];
        keep_bits<false, KEYS / 2>(bits, drop, s, i, j);
        scatter(a, bits, 1.0f);                                                          // [AT4]
    }
    return moved;
}

// y (B, T, H D) and lse (B, H, T): written. D is a multiple of 8.
extern "C" __global__ void __launch_bounds__(128 * GROUPS, HEAD == 64 ? 2 : 1) forward(
        const __grid_constant__ TensorMap qkv, ARGUMENTS, T* y, float* lse) {
    UNPACK;
    int group = group_of();
    bool fetches = warp_of() == FETCHER, first_lane = threadIdx.x % 32 == 0;
    Forward& shared = *(Forward*)aligned_shared();
    int first = first_row<ROWS, true>(), all = first / KEYS + GROUPS;
    if (fetches && first_lane) {
        barrier_init(&shared.q_full, 1);
        shared.ring.begin(1, 4 * GROUPS);
        fence_async();
        barrier_expect(&shared.q_full, sizeof shared.q);
        fetch(shared.q, qkv, &shared.q_full, 0, first, s);
        for (int t = 0; t < AHEAD - 1 && t < all; t++) fetch_keys(shared, qkv, t, s);
    }
    __syncthreads();

    int i0 = first + first_of_warp(), tiles = first / KEYS + 1 + group;                  // up to the diagonal
    float a[KEYS / 2], out[HEAD / 2] = {};
    uint32_t p[KEYS / 16][4];
    Rows rows = {{-INFINITY, -INFINITY}, {}, {}};

    barrier_wait(&shared.q_full, 0);
    shared.ring.wait_full(0);
    wgmma_fence(a);
    issue_scores(a, shared.q, shared.k[0], group);
    wgmma_wait<0>(a);
    weigh(a, rows, drop, s, c, i0, 0, tiles == 1);
    round<KEYS>(p, a);
    for (int t = 1; t < tiles; t++) {
        shared.ring.wait_full(t);
        wgmma_fence(a, out, p);
        issue_scores(a, shared.q, shared.k[shared.ring.place(t)], group);
        issue_sums<KEYS>(out, p, shared.v[shared.ring.place(t - 1)]);                    // [AT5] of the tile before
        wgmma_wait<1>(a);
        bool moved = weigh(a, rows, drop, s, c, i0, t * KEYS, t == tiles - 1);
        wgmma_wait<0>(out, p);
        shared.ring.leave(t - 1);
        if (int next = t + AHEAD - 2; fetches && next < all) {
            shared.ring.wait_empty(next);                   // tile t - 2 was there
            if (first_lane) fetch_keys(shared, qkv, next, s);
        }
        if (moved)
#pragma unroll
            for (int i = 0; i < HEAD / 2; i++) out[i] *= rows.shrink[i % 4 / 2];         // [AT12]
        round<KEYS>(p, a);
    }
    wgmma_fence(out, p);
    issue_sums<KEYS>(out, p, shared.v[shared.ring.place(tiles - 1)]);                    // [AT5]
    wgmma_wait<0>(out, p);
    float factor[2];
    for (int half = 0; half < 2; half++) {
        float sum = of_row(rows.total[half], Sum());
        if (int i = i0 + row_of(2 * half); i < s.T && threadIdx.x % 4 == 0)
            lse[(long long)head() * s.T + i] = scale * rows.most[half] + logf(sum);      // [AT2]
        factor[half] = (drop.grow != 0.0f ? drop.grow : 1.0f) / sum;
    }
    put(y + start(s, 0, 1), narrow, out, factor[0], factor[1], shared.q, first, group, s);               // [AT3,4]
}

// ---------------------------------------------------------------------------------------------- backward

// Sums take more registers than two blocks have, so a block of backward goes through several stretches of rows, one
// after the other, and a third warpgroup fetches: what the next stretch begins with is there before the last one ends.
constexpr int THREADS = 128 * (GROUPS + 1), ROOMS = 128 / HEAD;                          // stretches that are there
constexpr int BACKWARD_Q = HEAD == 64 ? 128 : 64, STAGES_Q = 3, BACKWARD_KV = 64, STAGES_KV = 4;     // rows of tiles

// The n-th stretch of this block: the last one of its head, the first one, the last but one, ... for pairs of such meet
// as many tiles as any other pair. gridDim.y blocks share a head.
__device__ __forceinline__ bool stretch(int n, Shape s, int& first) {
    int low = blockIdx.y + n / 2 * gridDim.y, high = (s.T - 1) / ROWS - low;
    first = (n % 2 ? low : high) * ROWS;
    return n % 2 ? low < high : low <= high;
}

struct BackwardQ {
    Tile<ROWS> q[ROOMS], dy[ROOMS], y[ROOMS];
    Tile<BACKWARD_Q> k[STAGES_Q], v[STAGES_Q];
    Ring<ROOMS> rows;
    Ring<STAGES_Q> ring;
};

__device__ __forceinline__ void fetch_all(BackwardQ& shared, const TensorMap& qkv, const TensorMap& dy,
                                          const TensorMap& y, Shape s) {
    for (int n = 0, t = 0, first; stretch(n, s, first); n++) {
        int room = shared.rows.place(n);
        Barrier* full = &shared.rows.full[room];
        shared.rows.wait_empty(n);
        barrier_expect(full, 3 * sizeof shared.q[0]);
        fetch(shared.q[room], qkv, full, 0, first, s);
        fetch(shared.dy[room], dy, full, 0, first, s);
        fetch(shared.y[room], y, full, 0, first, s);
        for (int j0 = 0; j0 < first + ROWS; j0 += BACKWARD_Q, t++) {
            int place = shared.ring.place(t);
            full = &shared.ring.full[place];
            shared.ring.wait_empty(t);
            barrier_expect(full, sizeof shared.k[0] + sizeof shared.v[0]);
            fetch(shared.k[place], qkv, full, 1, j0, s);
            fetch(shared.v[place], qkv, full, 2, j0, s);
        }
    }
}

// delta (B, H, T) and the q part of dx (B, T, 3 H D): written.
extern "C" __global__ void __launch_bounds__(THREADS, 1) backward_q(
        const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap dy,
        const __grid_constant__ TensorMap y, ARGUMENTS, const float* lse, float* delta, T* dx) {
    UNPACK;
    int group = group_of();
    BackwardQ& shared = *(BackwardQ*)aligned_shared();
    if (threadIdx.x == 0) {
        shared.rows.begin(1, 4 * GROUPS);
        shared.ring.begin(1, 4 * GROUPS);
        fence_async();
    }
    __syncthreads();
    if (group == GROUPS) {
        fewer_registers<24>();
        if (threadIdx.x == 128 * GROUPS) fetch_all(shared, qkv, dy, y, s);
        return;
    }
    more_registers<240>();

    for (int n = 0, t = 0, first; stretch(n, s, first); n++) {
        int room = shared.rows.place(n), i0 = first + first_of_warp();
        float p[BACKWARD_Q / 2], dp[BACKWARD_Q / 2], dq[HEAD / 2] = {}, its_lse[2], its_delta[2] = {};
        uint32_t ds[BACKWARD_Q / 16][4], bits[BACKWARD_Q / 64];
        for (int half = 0; half < 2; half++) {              // beyond T exp(-infinity) makes p = 0
            int i = i0 + row_of(2 * half);
            its_lse[half] = i < s.T ? lse[(long long)head() * s.T + i] * LOG2_E : INFINITY;
        }
        shared.rows.wait_full(n);
        shared.ring.wait_full(t);
        wgmma_fence(p, dp, dq);
        issue_scores(p, shared.q[room], shared.k[shared.ring.place(t)], group);
        wgmma_commit();                                     // nothing, where sums of the tile before stand otherwise
        issue_scores(dp, shared.dy[room], shared.v[shared.ring.place(t)], group);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = first_of_warp() + row_of(2 * half), i = first + row;
#pragma unroll
            for (int column = threadIdx.x % 4 * 8; column < HEAD; column += 32) {
                uint4 u = load16(within(shared.dy[room], row, column)), v = load16(within(shared.y[room], row, column));
#pragma unroll
                for (int k = 0; k < 8; k++) its_delta[half] += float(((T*)&u)[k]) * float(((T*)&v)[k]);  // [AT8]
            }
            its_delta[half] = of_row(its_delta[half], Sum());
            if (i < s.T && threadIdx.x % 4 == 0) delta[(long long)head() * s.T + i] = its_delta[half];
        }
        for (int j0 = 0;; j0 += BACKWARD_Q, t++) {
            wgmma_wait<2>(p);
#pragma unroll
            for (int i = 0; i < BACKWARD_Q / 2; i++)
                p[i] = exp2f(c * p[i] - its_lse[i % 4 / 2]);                             // [AT1,11]
            bool last = j0 + BACKWARD_Q >= first + ROWS;
            if (j0 + BACKWARD_Q > first + 64 * group) hide<false>(p, 0.0f, i0, j0);
            if (drop.grow != 0.0f) keep_bits<false, BACKWARD_Q / 2>(bits, drop, s, i0, j0);
            wgmma_wait<0>(dp, dq, ds);
            if (j0 > 0) shared.ring.leave(t - 1);
            if (drop.grow != 0.0f) scatter(dp, bits, drop.grow);                         // [AT7]
#pragma unroll
            for (int i = 0; i < BACKWARD_Q / 2; i++) p[i] *= dp[i] - its_delta[i % 4 / 2];               // [AT9]
            round<BACKWARD_Q>(ds, p);
            if (last) break;
            shared.ring.wait_full(t + 1);
            wgmma_fence(p, dp, dq, ds);
            issue_scores(p, shared.q[room], shared.k[shared.ring.place(t + 1)], group);
            issue_sums<BACKWARD_Q>(dq, ds, shared.k[shared.ring.place(t)]);              // [AT10]
            issue_scores(dp, shared.dy[room], shared.v[shared.ring.place(t + 1)], group);
        }
        wgmma_fence(dq, ds);
        issue_sums<BACKWARD_Q>(dq, ds, shared.k[shared.ring.place(t)]);                  // [AT10]
        wgmma_wait<0>(dq, ds);
        shared.ring.leave(t++);
        put(dx + start(s, 0, 3), stride, dq, scale, scale, shared.q[room], first, group, s);
        fence_async();
        __syncwarp();
        shared.rows.leave(n);
    }
}

struct OfQueries { float lse[BACKWARD_KV], delta[BACKWARD_KV]; };

struct BackwardKV {
    Tile<ROWS> k[ROOMS], v[ROOMS];
    Tile<BACKWARD_KV> q[STAGES_KV], dy[STAGES_KV];
    OfQueries numbers[STAGES_KV];
    Ring<ROOMS> rows;
    Ring<STAGES_KV> ring;
};

// By all lanes of a warp: lse and delta are read by them, not copied in bulk, for they may begin anywhere.
__device__ __forceinline__ void fetch_all(BackwardKV& shared, const TensorMap& qkv, const TensorMap& dy,
                                          const float* lse, const float* delta, Shape s) {
    int lane = threadIdx.x % 32;
    for (int n = 0, t = 0, first; stretch(n, s, first); n++) {
        shared.rows.wait_empty(n);
        if (lane == 0) {
            int room = shared.rows.place(n);
            Barrier* full = &shared.rows.full[room];
            barrier_expect(full, sizeof shared.k[0] + sizeof shared.v[0]);
            fetch(shared.k[room], qkv, full, 1, first, s);
            fetch(shared.v[room], qkv, full, 2, first, s);
        }
        for (int i0 = first; i0 < s.T; i0 += BACKWARD_KV, t++) {
            int place = shared.ring.place(t);
            Barrier* full = &shared.ring.full[place];
            shared.ring.wait_empty(t);
            if (lane == 0) {
                barrier_expect(full, sizeof shared.q[0] + sizeof shared.dy[0]);
                fetch(shared.q[place], qkv, full, 0, i0, s);
                fetch(shared.dy[place], dy, full, 0, i0, s);
            }
            for (int i = lane; i < BACKWARD_KV; i += 32) {  // beyond T exp(-infinity) makes p = 0
                long long at = (long long)head() * s.T + i0 + i;
                shared.numbers[place].lse[i] = i0 + i < s.T ? lse[at] * LOG2_E : INFINITY;
                shared.numbers[place].delta[i] = i0 + i < s.T ? delta[at] : 0.0f;
            }
            barrier_arrive(full);
        }
    }
}

// The k and v parts of dx: written. Scores lie turned: rows are keys, columns are queries.
extern "C" __global__ void __launch_bounds__(THREADS, 1) backward_kv(
        const __grid_constant__ TensorMap qkv, const __grid_constant__ TensorMap dy, ARGUMENTS, const float* lse,
        const float* delta, T* dx) {
    UNPACK;
    int group = group_of();
    BackwardKV& shared = *(BackwardKV*)aligned_shared();
    if (threadIdx.x == 0) {
        shared.rows.begin(1, 4 * GROUPS);
        shared.ring.begin(1 + 32, 4 * GROUPS);
        fence_async();
    }
    __syncthreads();
    if (group == GROUPS) {
        fewer_registers<24>();
        if (warp_of() == 4 * GROUPS) fetch_all(shared, qkv, dy, lse, delta, s);
        return;
    }
    more_registers<240>();

    for (int n = 0, t = 0, first; stretch(n, s, first); n++) {
        int room = shared.rows.place(n), i0 = first, j0 = first + first_of_warp();
        float p[BACKWARD_KV / 2], dp[BACKWARD_KV / 2], dk[HEAD / 2] = {}, dv[HEAD / 2] = {};
        uint32_t a[BACKWARD_KV / 16][4], ds[BACKWARD_KV / 16][4], bits[BACKWARD_KV / 64];
        shared.rows.wait_full(n);
        shared.ring.wait_full(t);
        if (group == 1 && i0 + BACKWARD_KV < s.T) {         // its keys lie behind the first queries
            shared.ring.leave(t++);
            i0 += BACKWARD_KV;
            shared.ring.wait_full(t);
        }
        int begin = t;
        wgmma_fence(p, dp, dk, dv);
        issue_scores(p, shared.k[room], shared.q[shared.ring.place(t)], group);
        wgmma_commit();                                     // nothing, where sums of the tile before stand otherwise
        issue_scores(dp, shared.v[room], shared.dy[shared.ring.place(t)], group);
        for (;; i0 += BACKWARD_KV, t++) {
            int place = shared.ring.place(t), next = shared.ring.place(t + 1);
            const OfQueries& numbers = shared.numbers[place];
            wgmma_wait<2>(p, dv, a);
            if (drop.grow != 0.0f) keep_bits<true, BACKWARD_KV / 2>(bits, drop, s, i0, j0);
#pragma unroll
            for (int i = 0; i < BACKWARD_KV / 2; i++)
                p[i] = exp2f(c * p[i] - numbers.lse[column_at(i)]);                      // [AT1,11]
            if (i0 < first + 64 * (group + 1)) hide<true>(p, 0.0f, i0, j0);
            if (drop.grow != 0.0f) {
                float z[BACKWARD_KV / 2];
#pragma unroll
                for (int i = 0; i < BACKWARD_KV / 2; i++) z[i] = p[i];
                scatter(z, bits, 1.0f);                                                  // [AT4]
                round<BACKWARD_KV>(a, z);
            } else {
                round<BACKWARD_KV>(a, p);
            }
            wgmma_fence(dv, a);
            issue_sums<BACKWARD_KV>(dv, a, shared.dy[place]);                            // [AT6]
            wgmma_wait<1>(dp, dk, ds);
            if (t > begin) shared.ring.leave(t - 1);
            if (drop.grow != 0.0f) scatter(dp, bits, drop.grow);                         // [AT7]
#pragma unroll
            for (int i = 0; i < BACKWARD_KV / 2; i++) p[i] *= dp[i] - numbers.delta[column_at(i)];       // [AT9]
            round<BACKWARD_KV>(ds, p);
            __syncwarp();                                   // all lanes have read the numbers
            if (i0 + BACKWARD_KV >= s.T) break;
            shared.ring.wait_full(t + 1);
            wgmma_fence(p, dp, dk, ds);
            issue_scores(p, shared.k[room], shared.q[next], group);
            issue_sums<BACKWARD_KV>(dk, ds, shared.q[place]);                            // [AT10]
            issue_scores(dp, shared.v[room], shared.dy[next], group);
        }
        wgmma_fence(dk, ds);
        issue_sums<BACKWARD_KV>(dk, ds, shared.q[shared.ring.place(t)]);                 // [AT10]
        wgmma_wait<0>(dk, dv, a, ds);
        shared.ring.leave(t++);
        put(dx + start(s, 1, 3), stride, dk, scale, scale, shared.k[room], first, group, s);
        float growth = drop.grow != 0.0f ? drop.grow : 1.0f;
        put(dx + start(s, 2, 3), stride, dv, growth, growth, shared.v[room], first, group, s);
        fence_async();
        __syncwarp();
        shared.rows.leave(n);
    }
}
