// One token of every row through a GPT in one launch, by gpt/decode_gpu.py. Formulas and numbers: linear.py,
// layer_norm.py, gelu.py, attention.py.
//
// Each weight meets one number per row and is not needed again, so a step should take as long as the memory takes to
// deliver the weights. Which weights a warp wants, and in what order, is known from the start. So every lane has copies
// of its next weights under way to shared memory all the time, through the phases of all layers and across the barriers
// of the grid between them: those only hold up who waits for numbers.
//
// There is a block on each multiprocessor. Matrices lie as (out, in), their rows padded to whole packs. Two outputs
// that are next to each other are a pair; block b has the pairs b, b + gridDim.x, ..., and its warps share them: a warp
// has a pair, or, where there are too few of them, a part of its inputs. What comes before a product (layer norm, the
// end of attention) every block computes for itself, into shared memory. Entries are stored as T; what goes from phase
// to phase is float.
#include "common.cuh"
#include "gelu.cuh"

constexpr int MOST = 512;                                   // threads of a block
constexpr int ROWS = 8;                                     // rows that meet a weight at one time, at most
constexpr int DEPTH = 4;                                    // units of weights that a warp has room for
constexpr int UNIT = 32 * PACK;                             // inputs of a unit: a pack for each lane, of each of a pair
constexpr int KEYS = 32;                                    // of one head, that a warp attends to
constexpr int AHEAD = 4;                                    // parts of attention that are asked for at one time
enum { QKV, PROJECT, UP, DOWN };                            // the products of a layer; and the head is one more QKV
enum { SET, ADD, GELU, RELU };                              // what is done with a product

struct Model {
    const long long *tokens, *begins;                       // (B,): what is new, and where, but for `more`
    const T *wte, *wpe, *attn, *proj, *up, *down;           // (V, K), (room, C), (L, 3C, K), (L, C, K), (L, 4C, K), ...
    const float *biases, *norms;                            // (L, 9C): of the four products; (2L + 1, 2, C)
    T *k, *v;                                               // (L, B, H, room, D)
    float *x, *y;                                           // (B, C4): the sum on the residual path
    float *qkv, *inside, *parts, *sums, *logits;            // (B, 3C), (B, 4C), (splits, B, H, D), (splits, B, H, 2)
    int more, B, C, H, L, V, room, rows, what, post_norm;   // rows: at one time. what: GELU or RELU
    float eps;

    __device__ int padded(int n, int to) const { return (n + to - 1) / to * to; }
    __device__ int width() const { return padded(4 * C, UNIT); }                         // of a row in shared memory
    __device__ int at(int row) const { return int(begins[row]) + more; }
    // The residual path as norm n leaves it. GPT-1 normalises the path itself: from one array to the other.
    __device__ float* path(int n) const { return post_norm && n % 2 ? y : x; }
};

// Product q of a step, as the warps of this block share it.
struct Product {
    const T* w;                                             // (n_out, K)
    const float* bias;
    int n_in, n_out, K, units;                              // of a row
    int parts, log, items;                                  // of a pair, 2^log; of this block

    __device__ Product(const Model& m, int q) {
        int C = m.C, layer = q / 4, warps = blockDim.x / 32;
        long long l = layer;
        n_in = C, n_out = C, bias = m.biases + 9 * l * C;
        if (layer == m.L) w = m.wte, n_out = m.V, bias = nullptr;
        else if (q % 4 == QKV) w = m.attn, n_out = 3 * C;
        else if (q % 4 == PROJECT) w = m.proj, bias += 3 * C;
        else if (q % 4 == UP) w = m.up, n_out = 4 * C, bias += 4 * C;
        else w = m.down, n_in = 4 * C, bias += 8 * C;
        K = m.padded(n_in, PACK), units = (n_in + UNIT - 1) / UNIT;
        if (layer < m.L) w += l * n_out * K;
        int pairs = (n_out + 1) / 2, most = (pairs + gridDim.x - 1) / gridDim.x, block = blockIdx.x;
        for (log = 0; 2 << log <= units && (2 << log) * most <= warps;) log++;
        parts = 1 << log, items = (most - (block + (most - 1) * int(gridDim.x) >= pairs)) << log;
    }
    __device__ int part(int item) const { return item & (parts - 1); }
    __device__ int first_output(int item) const { return 2 * (blockIdx.x + gridDim.x * (item >> log)); }
    __device__ int unit(int item, int more) const { return units * (part(item) + more) >> log; }
};

// The weights of this warp, unit by unit in the order in which it multiplies them. DEPTH - 1 units are under way.
struct Weights {
    const Model& m;
    uint4* room;                                            // (DEPTH, 2, 32) of this warp
    Product p;
    int q = 0, first = 0, item, unit = 0, asked = 0, taken = 0;

    __device__ Weights(const Model& model, uint4* room) : m(model), room(room), p(model, 0), item(threadIdx.x / 32) {
        settle();
        for (int i = 0; i < DEPTH - 1; i++) ask();
    }
    // The item is this warp's, or the next that is, of the same product for other rows or of one that follows.
    __device__ void settle() {
        while (item >= p.items && q <= 4 * m.L) {
            item = threadIdx.x / 32, first += m.rows;
            if (first < m.B) continue;
            first = 0;
            if (++q <= 4 * m.L) p = Product(m, q);
        }
        unit = p.unit(item, 0);
    }
    __device__ void ask() {
        if (q <= 4 * m.L) {
            int lane = threadIdx.x % 32, i = unit * UNIT + lane * PACK, j = p.first_output(item);
            for (int o = 0; o < 2; o++) {
                bool there = i < p.K && j + o < p.n_out;
                const T* from = p.w + (there ? (long long)(j + o) * p.K + i : 0);
                copy16_async(room + (asked * 2 + o) * 32 + lane, from, there);
            }
            if (++unit == p.unit(item, 1)) {
                item += blockDim.x / 32;
                settle();
            }
        }
        commit_copies();
        asked = (asked + 1) % DEPTH;
    }
    // The next unit; and the place of the one before goes to another that is asked for.
    __device__ void take(float (&w)[2][PACK]) {
        wait_copies<DEPTH - 2>();
        for (int o = 0; o < 2; o++) {
            uint4 raw = room[(taken * 2 + o) * 32 + threadIdx.x % 32];
            const T* e = (const T*)&raw;
#pragma unroll
            for (int k = 0; k < PACK; k++) w[o][k] = float(e[k]);
        }
        taken = (taken + 1) % DEPTH;
        ask();
    }
};

// ------------------------------------------------------------------------------------------------ inputs of products

// Where entry i of a row lies: four in a row, so that lanes who read their packs four at a time use all banks.
__device__ __forceinline__ int place(int i) {
    return i / UNIT * UNIT + i % PACK / 4 * 128 + i % UNIT / PACK * 4 + i % 4;
}

__device__ __forceinline__ void quad(float (&v)[4], const float* p) {
    float4 four = *(const float4*)p;
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
}

// Entries i.. of what attention is, which the warps have left in parts: sums of values, each weighted as if its part
// were all, and the largest score and the sum of weights of each.
template<int N> __device__ void attended(const Model& m, int row, int i, float (&v)[N]) {
    int D = m.C / m.H, many = m.at(row) / KEYS + 1;
    long long head = (long long)row * m.H + i / D, next = (long long)m.B * m.H;
    float most = -INFINITY, total = 0.0f, all[N] = {};
    int s0 = 0, last = (m.room + KEYS - 1) / KEYS - 1;
    do {                                                    // asked for before it is known how many there are
        float part[AHEAD][N], best[AHEAD], sum[AHEAD], highest = most;
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            long long from = min(s0 + k, last) * next + head;
            best[k] = m.sums[2 * from], sum[k] = m.sums[2 * from + 1];
            if constexpr (N == 4)
                quad(part[k], m.parts + from * D + i % D);
            else
                part[k][0] = m.parts[from * D + i % D];
        }
#pragma unroll
        for (int k = 0; k < AHEAD; k++) if (s0 + k < many) highest = fmaxf(highest, best[k]);
        float before = expf(most - highest);
        total *= before;
        for (int j = 0; j < N; j++) all[j] *= before;
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            if (s0 + k >= many) break;
            float share = expf(best[k] - highest);
            total += share * sum[k];                                                     // [AT2]
            for (int j = 0; j < N; j++) all[j] += share * part[k][j];
        }
        most = highest, s0 += AHEAD;
    } while (s0 < many);
    for (int j = 0; j < N; j++) v[j] = all[j] / total;                                   // [AT3,5]
}

// Entries i to i + 3 of what product q takes from a row; 0 beyond its n inputs.
__device__ void input(const Model& m, int q, int row, int i, int n, float (&v)[4]) {
    for (int j = 0; j < 4; j++) v[j] = 0.0f;
    if (i >= n) return;
    if (q == 0) {
        const T* token = m.wte + m.tokens[row] * m.padded(n, PACK) + i;
        const T* position = m.wpe + (long long)m.at(row) * n + i;
        for (int j = 0; j < 4; j++) if (i + j < n) v[j] = float(token[j]) + float(position[j]);
    } else if (q % 4 == PROJECT) {
        attended(m, row, i, v);
    } else {
        const float* from = q % 4 == DOWN ? m.inside : m.path(q / 2 + 1);
        load(v, from + (long long)row * m.padded(n, 4) + i, n - i);
    }
}

// Into shared memory: rows first.. of what product q takes, (rows, width), normalised with g (2, C) if it has a norm.
__device__ void stage(const Model& m, int q, int first, int rows, int n, const float* g, float* x) {
    int width = m.width(), used = m.padded(n, UNIT), quads = used / 4;
    bool first_norm = q == 0, has_norm = q % 2 == 0 && !(m.post_norm && first_norm);
    __syncthreads();                                        // what was there has been used
    if (q % 4 == PROJECT && n / m.H % 4) {                  // four entries may be of two heads
        for (int k = threadIdx.x; k < rows * used; k += blockDim.x) {
            float v[1] = {};
            int r = k / used, i = k % used;
            if (i < n) attended(m, first + r, i, v);
            x[r * width + place(i)] = v[0];
        }
    } else {
        for (int k = threadIdx.x; k < rows * quads; k += blockDim.x) {
            float v[4];
            int r = k / quads, i = k % quads * 4;
            input(m, q, first + r, i, n, v);
            *(float4*)(x + r * width + place(i)) = {v[0], v[1], v[2], v[3]};
        }
    }
    __syncthreads();
    if (q % 2) return;
    int start = threadIdx.x % 32 * 4;
    for (int r = threadIdx.x / 32; r < rows; r += blockDim.x / 32) {
        float *own = x + r * width, *path = m.path(q / 2) + (long long)(first + r) * m.padded(n, 4);
        bool keeps = blockIdx.x == 0 && (m.post_norm || first_norm);
        float mu = 0.0f, rstd = 0.0f, v[4], scale[4], shift[4];
        if (keeps && first_norm)
            for (int i = start; i < n; i += 128) {
                quad(v, own + place(i));
                store(path + i, v, n - i);
            }
        if (!has_norm) continue;
        for (int i = start; i < n; i += 128) {
            quad(v, own + place(i));
            mu += (v[0] + v[1]) + (v[2] + v[3]);
        }
        mu = warp_sum(mu) / n;                                                           // [LN1]
        for (int i = start; i < n; i += 128) {
            quad(v, own + place(i));
            for (int j = 0; j < 4; j++) if (i + j < n) rstd += (v[j] - mu) * (v[j] - mu);
        }
        rstd = 1.0f / sqrtf(warp_sum(rstd) / n + m.eps);                                 // [LN2]
        for (int i = start; i < n; i += 128) {
            quad(v, own + place(i));
            load(scale, g + i, n - i);
            load(shift, g + n + i, n - i);
            for (int j = 0; j < 4; j++)
                if (i + j < n) v[j] = (v[j] - mu) * rstd * scale[j] + shift[j];          // [LN3,4]
            *(float4*)(own + place(i)) = {v[0], v[1], v[2], v[3]};
            if (keeps && !first_norm) store(path + i, v, n - i);
        }
    }
    __syncthreads();
}

// ------------------------------------------------------------------------------------------------ products

// Product q of rows first.. whose inputs are x. sums: (warps, 2, ROWS).
__device__ void multiply(const Model& m, int q, const Product& p, int first, int rows, Weights& weights, const float* x,
                         float* sums) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32, width = m.width();
    int what = q % 4 == UP ? m.what : q % 2 ? ADD : SET;
    float* out = q == 4 * m.L ? m.logits : q % 4 == QKV ? m.qkv : q % 4 == UP ? m.inside : m.path(q / 2);
    int stride = q % 2 ? m.padded(m.C, 4) : p.n_out;
    for (int t = 0; t < p.items; t += warps) {
        int item = t + warp, o = lane / ROWS, r = lane % ROWS, j = p.first_output(item) + o;
        bool mine = item < p.items, ends = mine && p.part(item) == 0 && o < 2 && r < rows && j < p.n_out;
        float* to = out + (long long)(first + r) * stride + j;
        float more = ends && p.bias ? p.bias[j] : 0.0f, before = ends && what == ADD ? *to : 0.0f;
        if (mine) {
            float s[2][ROWS] = {}, w[2][PACK];
            for (int u = p.unit(item, 0); u < p.unit(item, 1); u++) {
                weights.take(w);
#pragma unroll
                for (int b = 0; b < ROWS; b++) {
                    if (b >= rows) break;
                    const float* own = x + b * width + u * UNIT + lane * 4;
#pragma unroll
                    for (int k = 0; k < PACK; k += 4) {
                        float4 v = *(const float4*)(own + k / 4 * 128);
#pragma unroll
                        for (int a = 0; a < 2; a++)
                            s[a][b] += w[a][k] * v.x + w[a][k + 1] * v.y + w[a][k + 2] * v.z + w[a][k + 3] * v.w;
                    }
                }
            }
#pragma unroll
            for (int b = 0; b < ROWS; b++) {
                if (b >= rows) break;
#pragma unroll
                for (int a = 0; a < 2; a++) {
                    float all = warp_sum(s[a][b]);
                    if (lane == 0) sums[(warp * 2 + a) * ROWS + b] = all;                // [LI1]
                }
            }
        }
        p.parts > 1 ? __syncthreads() : __syncwarp();
        if (ends) {
            float v = 0.0f;
            for (int part = 0; part < p.parts; part++) v += sums[((warp + part) * 2 + o) * ROWS + r];
            v += more;
            *to = what == GELU ? v * gate(v) : what == RELU ? fmaxf(v, 0.0f) : before + v;
        }
        p.parts > 1 ? __syncthreads() : __syncwarp();       // the sums have been read
    }
}

// ------------------------------------------------------------------------------------------------ attention

// KEYS of the keys and values that the new token of a row sees with one head, by one warp.
struct Unit {
    int head, split, seen, first, many;                     // head: of all rows'

    __device__ Unit(const Model& m, int n) {
        head = n % (m.B * m.H), split = n / (m.B * m.H), first = split * KEYS;
        seen = m.at(head / m.H) + 1, many = min(KEYS, seen - first);
    }
};

// Its own key and value are stored first. So many lanes, a power of two, share the D entries of a key. Written: into
// parts (splits, B, H, D) the sum of the values, weighted with exp(s - m), and into sums (splits, B, H, 2) m and the
// sum of those weights. s: room for KEYS numbers. WHOLE: D is a number of packs.
template<bool WHOLE> __device__ void attend(const Model& m, int layer, const Unit& u, float* s) {
    auto fetch = [](float (&v)[PACK], const T* p, int n) {
        if constexpr (WHOLE) {
            unpack<T>(n > 0 ? load16(p) : make_uint4(0, 0, 0, 0), v);
        } else {
            load(v, p, n);
        }
    };
    int D = m.C / m.H, lane = threadIdx.x % 32, lanes = 1;
    while (lanes * PACK < D) lanes *= 2;
    int groups = 32 / lanes, group = lane / lanes, c = lane % lanes * PACK;
    long long start = ((long long)layer * m.B * m.H + u.head) * m.room * D;
    const float* own = m.qkv + 3LL * (u.head / m.H) * m.C + (long long)(u.head % m.H) * D;
    T *k = m.k + start, *v = m.v + start;
    if (u.seen == u.first + u.many)
        for (int d = lane; d < D; d += 32) {
            k[(u.seen - 1LL) * D + d] = T(own[m.C + d]);
            v[(u.seen - 1LL) * D + d] = T(own[2 * m.C + d]);
        }
    __syncwarp();                                           // and the scores of an earlier unit have been read
    float q[PACK], row[PACK], most = -INFINITY, sum = 0.0f, scale = 1.0f / sqrtf(float(D));
    load(q, own + c, D - c);
#pragma unroll (WHOLE ? 4 : 1)
    for (int j0 = 0; j0 < u.many; j0 += groups) {
        int j = j0 + group;
        float score = 0.0f;
        fetch(row, k + (long long)(u.first + j) * D + c, j < u.many ? D - c : 0);
        for (int i = 0; i < PACK; i++) score += q[i] * row[i];
        for (int n = lanes / 2; n; n /= 2) score += __shfl_xor_sync(~0u, score, n);
        if (c == 0 && j < u.many) s[j] = score * scale;                                  // [AT1]
    }
    __syncwarp();
    for (int j = lane; j < u.many; j += 32) most = fmaxf(most, s[j]);
    most = warp_reduce(most, Max());
    for (int j = lane; j < u.many; j += 32) sum += s[j] = expf(s[j] - most);
    sum = warp_sum(sum);
    __syncwarp();
    float y[PACK] = {};
#pragma unroll (WHOLE ? 4 : 1)
    for (int j = group; j < u.many; j += groups) {
        fetch(row, v + (long long)(u.first + j) * D + c, D - c);
        for (int i = 0; i < PACK; i++) y[i] += s[j] * row[i];
    }
    long long part = (long long)u.split * m.B * m.H + u.head;
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        for (int n = lanes; n < 32; n *= 2) y[i] += __shfl_xor_sync(~0u, y[i], n);
        if (group == 0 && c + i < D) m.parts[part * D + c + i] = y[i];                   // [AT5], undivided
    }
    if (lane == 0) m.sums[2 * part] = most, m.sums[2 * part + 1] = sum;
}

// What the cache holds for a unit, brought near.
__device__ void prefetch_keys(const Model& m, int layer, const Unit& u) {
    int D = m.C / m.H;
    long long start = (((long long)layer * m.B * m.H + u.head) * m.room + u.first) * D;
#pragma unroll 1
    for (int i = threadIdx.x % 32 * 128; i < u.many * D * (int)sizeof(T); i += 32 * 128) {
        prefetch((const char*)(m.k + start) + i);
        prefetch((const char*)(m.v + start) + i);
    }
}

// ------------------------------------------------------------------------------------------------ a step

// Into g (2, C) the norm before product q; and nearer what is wanted soon: biases that this block adds, the next norm.
__device__ void prepare(const Model& m, int q, const Product& p, float* g) {
    const float* norm = m.norms + (q + 1) / 2 * 2LL * m.C;
    int warp = threadIdx.x / 32;
    if (q % 2 == 0)
        for (int i = threadIdx.x; i < 2 * m.C; i += blockDim.x) g[i] = norm[i];
    else
        for (int i = threadIdx.x * 32; i < 2 * m.C; i += blockDim.x * 32) prefetch(norm + i);
    if (p.bias && threadIdx.x % 32 == 0 && warp < p.items) prefetch(p.bias + p.first_output(warp));
}

extern "C" __global__ void __launch_bounds__(MOST, 1) next_token(
        const long long* tokens, const long long* begins, const T* wte, const T* wpe, const T* attn, const T* proj,
        const T* up, const T* down, const float* biases, const float* norms, T* k, T* v, float* x, float* y, float* qkv,
        float* inside, float* parts, float* sums, float* logits, uint32_t* count, int more, int B, int C, int H, int L,
        int V, int room, int rows, int what, int post_norm, float eps) {
    const Model m{tokens, begins, wte, wpe, attn, proj, up, down, biases, norms, k, v, x, y, qkv, inside, parts, sums,
                  logits, more, B, C, H, L, V, room, rows, what, post_norm, eps};
    int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    uint4* ring = (uint4*)dynamic_shared();                 // (warps, DEPTH, 2, 32)
    float* inputs = (float*)(ring + warps * DEPTH * 64);    // (rows, width)
    float* scores = inputs + rows * m.width();              // (warps, KEYS)
    float* g = scores + warps * KEYS;                       // (2, C)
    float* totals = g + 2 * C;                              // (warps, 2, ROWS)
    Weights weights(m, ring + warp * DEPTH * 64);
    GridBarrier all(count);
    Product p(m, 0);
    prepare(m, 0, p, g);
    for (int q = 0; q <= 4 * L; q++) {
        for (int first = 0; first < B; first += rows) {
            int some = min(rows, B - first);
            stage(m, q, first, some, p.n_in, g, inputs);
            multiply(m, q, p, first, some, weights, inputs, totals);
        }
        if (q == 4 * L) break;
        all.arrive();
        if (q % 4 == QKV) {
            int n = blockIdx.x + gridDim.x * warp, units = B * H * ((room + KEYS - 1) / KEYS);
            Unit u(m, n);
            if (n < units) prefetch_keys(m, q / 4, u);
            all.wait();
            while (n < units) {
                if (u.many > 0 && C / H % PACK == 0) attend<true>(m, q / 4, u, scores + warp * KEYS);
                else if (u.many > 0) attend<false>(m, q / 4, u, scores + warp * KEYS);
                n += gridDim.x * warps;
                u = Unit(m, n);
            }
            all.arrive();
        }
        p = Product(m, q + 1);
        prepare(m, q + 1, p, g);
        all.wait();
    }
    wait_copies<0>();
}
