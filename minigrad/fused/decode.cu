// One token of every row through a GPT in one launch, by gpt/decode_gpu.py. Formulas and numbers: linear.py,
// layer_norm.py, gelu.py, attention.py.
//
// Each weight meets one number per row and is not needed again, so a step should take as long as the memory takes to
// deliver the weights. Which weights a warp wants, and in what order, is known from the start. So every lane has copies
// of its next weights under way to shared memory all the time, through the phases of all layers; what holds up a phase
// is the numbers of the last one, which other blocks have.
//
// There is a block on each multiprocessor. Matrices lie as (out, in), their rows padded to whole packs. Two outputs
// that are next to each other are a pair; block b has the pairs b, b + gridDim.x, ..., and its warps share them: a warp
// has a pair, or, where there are too few of them, a part of its inputs. A head of a row is attended to by one block.
// Layer norm every block computes for itself, in shared memory. Entries are stored as T; what goes from phase to phase
// is float.
//
// What blocks tell each other lies in `sent`, which holds NOTHING until a number is there. Every phase of every layer
// has a place of its own, and there are two sets of them: who sends a number in one step takes back the one of the step
// before, which all have read, for that launch is over.
#include "common.cuh"
#include "gelu.cuh"

constexpr int MOST = 384;                                   // threads of a block
constexpr int ROWS = 8;                                     // rows that meet a weight at one time, at most
constexpr int DEPTH = 4;                                    // units of weights that a warp has under way
constexpr int UNIT = 32 * PACK;                             // inputs of a unit: a pack for each lane, of each of a pair
constexpr int AHEAD = PACK == 4 ? 3 : 4;                     // quads, or keys, that a lane asks for at one time
enum { QKV, PROJECT, UP, DOWN, HEAD, PRODUCTS };            // those of a layer, and the last
enum { GELU, RELU };

struct Model {
    const long long *tokens, *begins;                       // (B,): what is new, and where, but for `more`
    const T *wte, *wpe, *attn, *proj, *up, *down;           // (V, K), (room, C), (L, 3C, K), (L, C, K), (L, 4C, K), ...
    const float *biases, *norms;                            // (L, 9C): of the four products; (2L + 1, 2, C)
    T *k, *v;                                               // (L, B, H, room, D)
    float *sent, *logits;                                   // this step's (L, 12, B C4); (B, V)
    long long other;                                        // from there to the other step's
    int more, B, C, H, L, V, room, rows, what, post_norm;   // rows: at one time. what: GELU or RELU
    float eps;

    __device__ int padded(int n, int to) const { return (n + to - 1) / to * to; }
    __device__ int width() const { return padded(4 * C, UNIT); }                         // of a row in shared memory
    __device__ int at(int row) const { return int(begins[row]) + more; }
    __device__ int product(int q) const { return q == 4 * L ? HEAD : q % 4; }
    __device__ float* place(int layer, int n) const { return sent + (12LL * layer + n) * B * padded(C, 4); }
    // (B, n) each, n a multiple of 4: what comes from product q; attention; what product q adds to.
    __device__ float* out(int q) const { return place(q / 4, q % 4 == QKV ? 0 : q % 4 == DOWN ? 8 : q % 4 + 2); }
    __device__ float* attended(int layer) const { return place(layer, 9); }
    __device__ float* residual(int q) const {               // before the first, and after a norm, block 0 has it
        return q == PROJECT || post_norm ? place(q / 4, 10 + q % 4 / 2) : out(q - 2);
    }
    __device__ void send(float* to, float v) const {
        uint32_t word = __float_as_uint(v);
        put(to, word == NOTHING ? NOTHING >> 1 : word);     // a NaN is one, whichever
        put(to + other, NOTHING);
    }
    __device__ void send(float* to, const float (&v)[4], int n) const {
        for (int j = 0; j < 4; j++) if (j < n) send(to + j, v[j]);
    }
};

__device__ __forceinline__ bool there(float v) { return __float_as_uint(v) != NOTHING; }

// A product of every layer, as the warps of this block share it.
struct Product {
    const T* w;                                             // (L, n_out, K)
    long long size;                                         // of a layer's
    int n_in, n_out, K, units, bias;                        // units: of a row. bias: where in a layer's
    int log, items;                                         // parts of a pair, 2^log; of this block

    __device__ int part(int item) const { return item & ((1 << log) - 1); }
    __device__ int first_output(int item) const { return 2 * (blockIdx.x + gridDim.x * (item >> log)); }
    __device__ int unit(int item, int more) const { return units * (part(item) + more) >> log; }
};

__device__ void describe(const Model& m, int kind, Product& p) {
    int C = m.C, warps = blockDim.x / 32, block = blockIdx.x;
    p.w = kind == QKV ? m.attn : kind == PROJECT ? m.proj : kind == UP ? m.up : kind == DOWN ? m.down : m.wte;
    p.n_in = kind == DOWN ? 4 * C : C;
    p.n_out = kind == QKV ? 3 * C : kind == UP ? 4 * C : kind == HEAD ? m.V : C;
    p.bias = kind == QKV ? 0 : kind == PROJECT ? 3 * C : kind == UP ? 4 * C : 8 * C;
    p.K = m.padded(p.n_in, PACK), p.units = (p.n_in + UNIT - 1) / UNIT, p.size = (long long)p.n_out * p.K;
    int pairs = (p.n_out + 1) / 2, most = (pairs + gridDim.x - 1) / gridDim.x, log = 0;
    while (2 << log <= p.units && (2 << log) * most <= warps) log++;
    p.log = log, p.items = (most - (block + (most - 1) * int(gridDim.x) >= pairs)) << log;
}

// The weights of this warp, unit by unit in the order in which it multiplies them. DEPTH units are under way.
struct Weights {
    const Model& m;
    const Product* products;
    uint4* room;                                            // (DEPTH, 2, 32) of this warp
    const T* from;                                          // this lane's next pack, of the first of a pair
    int q = 0, first = 0, item, many, K, left, second;      // many: units to come of this item; left: inputs of a row
    unsigned asked = 0, taken = 0;

    __device__ Weights(const Model& model, const Product* products, uint4* room)
            : m(model), products(products), room(room), item(threadIdx.x / 32) {
        settle();
        for (int i = 0; i < DEPTH - 1; i++) ask();
    }
    // The item is this warp's, or the next that is, of the same product for other rows or of one that follows.
    __device__ void settle() {
        while (q <= 4 * m.L && item >= products[m.product(q)].items) {
            item = threadIdx.x / 32, first += m.rows;
            if (first >= m.B) first = 0, q++;
        }
        many = 0;
        if (q > 4 * m.L) return;
        const Product& p = products[m.product(q)];
        int unit = p.unit(item, 0), i = unit * UNIT + threadIdx.x % 32 * PACK, j = p.first_output(item);
        many = p.unit(item, 1) - unit, K = p.K, left = K - i, second = j + 1 < p.n_out;
        from = p.w + (q < 4 * m.L ? q / 4 * p.size : 0) + (long long)j * K + i;
    }
    __device__ void ask() {
        if (many) {
            uint4* to = room + asked * 64 + threadIdx.x % 32;
            copy16_async(to, from, left > 0);
            copy16_async(to + 32, from + K, left > 0 && second);
            from += UNIT, left -= UNIT;
            if (--many == 0) {
                item += blockDim.x / 32;
                settle();
            }
        }
        commit_copies();
        asked = (asked + 1) % DEPTH;
    }
    // The next unit, after another has been asked for, to where the last one was.
    __device__ void take(float (&w)[2][PACK]) {
        ask();
        wait_copies<DEPTH - 1>();
        for (int o = 0; o < 2; o++) unpack<T>(room[taken * 64 + o * 32 + threadIdx.x % 32], w[o]);
        taken = (taken + 1) % DEPTH;
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

// Entries i.. of the first layer's input, of which n - i are there.
__device__ void embedded(const Model& m, int row, int i, int n, float (&v)[4]) {
    const T* token = m.wte + m.tokens[row] * m.padded(n, PACK) + i;
    const T* position = m.wpe + (long long)m.at(row) * n + i;
    for (int j = 0; j < 4; j++) v[j] = i + j < n ? float(token[j]) + float(position[j]) : 0.0f;
}

// Into shared memory: rows first.. of what product q takes, (rows, width), normalised with g (2, C4) if it has a norm.
__device__ void stage(const Model& m, int q, int first, int rows, int n, const float* g, float* x) {
    int width = m.width(), quads = m.padded(n, UNIT) / 4, stride = m.padded(n, 4), lane = threadIdx.x % 32;
    int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    bool keeps = q < 4 * m.L && blockIdx.x == 0;
    float* source = q == 0 ? nullptr : q % 4 == PROJECT ? m.attended(q / 4) : m.out(q - 1);
    __syncthreads();                                        // what was there has been used
    for (int r = warp % rows; r < rows; r += warps) {       // by so many warps of which this is number warp / rows
        int team = max(1, (warps - r + rows - 1) / rows), step = 32 * team;
        for (int k = warp / rows * 32 + lane; k < quads; k += AHEAD * step) {
            float v[AHEAD][4];
            bool all;
            do {
                all = true;
#pragma unroll
                for (int a = 0; a < AHEAD; a++) {
                    int i = (k + a * step) * 4;
                    for (int j = 0; j < 4; j++) v[a][j] = 0.0f;
                    if (i >= n) continue;
                    if (q == 0) {
                        embedded(m, first + r, i, n, v[a]);
                    } else {
                        float4 four = look4(source + (long long)(first + r) * stride + i);
                        v[a][0] = four.x, v[a][1] = four.y, v[a][2] = four.z, v[a][3] = four.w;
                    }
                    for (int j = 0; j < 4; j++) {
                        if (i + j >= n) v[a][j] = 0.0f;
                        all &= there(v[a][j]);
                    }
                }
                if (!all) let_others();
            } while (!all);
#pragma unroll
            for (int a = 0; a < AHEAD; a++) {
                int i = (k + a * step) * 4;
                if (i / 4 < quads) *(float4*)(x + r * width + place(i)) = {v[a][0], v[a][1], v[a][2], v[a][3]};
                if (keeps && q == 0) m.send(m.residual(1) + (long long)(first + r) * stride + i, v[a], n - i);
            }
        }
    }
    __syncthreads();
    if (q % 2 || (m.post_norm && q == 0)) return;
    for (int r = warp; r < rows; r += warps) {
        float *own = x + r * width, *kept = m.residual(q + 1) + (long long)(first + r) * stride;
        float mu = 0.0f, rstd = 0.0f, v[4], scale[4], shift[4];
#pragma unroll 3
        for (int i = lane * 4; i < n; i += 128) {
            quad(v, own + place(i));
            mu += (v[0] + v[1]) + (v[2] + v[3]);
        }
        mu = warp_sum(mu) / n;                                                           // [LN1]
#pragma unroll 3
        for (int i = lane * 4; i < n; i += 128) {
            quad(v, own + place(i));
            for (int j = 0; j < 4; j++) if (i + j < n) rstd += (v[j] - mu) * (v[j] - mu);
        }
        rstd = 1.0f / sqrtf(warp_sum(rstd) / n + m.eps);                                 // [LN2]
#pragma unroll 3
        for (int i = lane * 4; i < n; i += 128) {
            quad(v, own + place(i));
            quad(scale, g + i);
            quad(shift, g + stride + i);
            for (int j = 0; j < 4; j++) v[j] = (v[j] - mu) * rstd * scale[j] + shift[j];              // [LN3,4]
            *(float4*)(own + place(i)) = {v[0], v[1], v[2], v[3]};
            if (keeps && m.post_norm) m.send(kept + i, v, n - i);
        }
    }
    __syncthreads();
}

// ------------------------------------------------------------------------------------------------ products

// Of N numbers in each lane, the sums over all lanes; for N = 16, lane l gets that of number l / 2. Half of them go to
// a lane that adds up that half, and its other half comes back.
template<int N> __device__ __forceinline__ float sums_of(const float (&v)[N]) {
    if constexpr (N == 1) {
        return v[0] + __shfl_xor_sync(~0u, v[0], 1);
    } else {
        float half[N / 2];
        bool upper = threadIdx.x & N;
#pragma unroll
        for (int k = 0; k < N / 2; k++) {
            float low = v[k], high = v[k + N / 2];
            half[k] = (upper ? high : low) + __shfl_xor_sync(~0u, upper ? low : high, N);
        }
        return sums_of(half);
    }
}

// Product q of rows first.. whose inputs are x. sums: (warps, 32).
__device__ void multiply(const Model& m, int q, const Product& p, int first, int rows, Weights& weights, const float* x,
                         float* sums) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32, kind = m.product(q);
    int parts = 1 << p.log, items = p.items, n_out = p.n_out, width = m.width();
    int o = lane / 2 / ROWS, r = lane / 2 % ROWS;           // of the sum that this lane gets
    const float* biases = m.biases + 9LL * (q / 4) * m.C + p.bias;
    for (int t = 0; t < items; t += warps) {
        int item = t + warp, j = p.first_output(item) + o;
        bool mine = item < items, ends = mine && p.part(item) == 0 && lane % 2 == 0 && r < rows && j < n_out;
        bool adds = ends && (kind == PROJECT || kind == DOWN);
        long long at = (long long)(first + r) * (kind == HEAD ? n_out : m.padded(n_out, 4)) + j;
        float more = ends && kind != HEAD ? biases[j] : 0.0f, before = adds ? look(m.residual(q) + at) : 0.0f, v = 0.0f;
        if (mine) {
            float s[2 * ROWS] = {}, w[2][PACK];
            for (int u = p.unit(item, 0), end = p.unit(item, 1); u < end; u++) {
                weights.take(w);
#pragma unroll
                for (int b = 0; b < ROWS; b++) {
                    if (b >= rows) break;
                    const float* own = x + b * width + u * UNIT + lane * 4;
#pragma unroll
                    for (int k = 0; k < PACK; k += 4) {
                        float e[4];
                        quad(e, own + k / 4 * 128);
#pragma unroll
                        for (int a = 0; a < 2; a++)
                            s[a * ROWS + b] +=
                                w[a][k] * e[0] + w[a][k + 1] * e[1] + w[a][k + 2] * e[2] + w[a][k + 3] * e[3];
                    }
                }
            }
            v = sums_of(s);                                                              // [LI1]
        }
        if (parts > 1) {                                    // then there is one turn: the next to write sums is behind
            sums[threadIdx.x] = v;                          // barriers of stage()
            __syncthreads();
            for (int part = 1; ends && part < parts; part++) v += sums[threadIdx.x + 32 * part];
        }
        if (!ends) continue;
        while (!there(before)) {
            let_others();
            before = look(m.residual(q) + at);
        }
        v += more;
        if (kind == HEAD) m.logits[at] = v;
        else m.send(m.out(q) + at, kind != UP ? before + v : m.what == GELU ? v * gate(v) : fmaxf(v, 0.0f));
    }
}

// ------------------------------------------------------------------------------------------------ attention

// A weight that was taken relative to one score, relative to a higher one. There may have been none.
__device__ __forceinline__ float share(float most, float highest) {
    return most == -INFINITY ? 0.0f : expf(most - highest);
}

// A head of all rows' attends with its new token to all that it has seen; its key and value are stored. So many lanes,
// a power of two, share the D entries of a key; such a group takes a key at a time, and has the largest score, the sum
// of weights exp(s - m), and that of values with those weights. They meet in `met`, (warps, D + 2).
// WHOLE: D is a number of packs.
template<bool WHOLE> __device__ __forceinline__ void attend(const Model& m, int layer, int head, float* met) {
    int D = m.C / m.H, warp = threadIdx.x / 32, warps = blockDim.x / 32, lane = threadIdx.x % 32, lanes = 1;
    while (lanes * PACK < D) lanes *= 2;
    int groups = 32 / lanes, group = lane / lanes, c = lane % lanes * PACK, left = D - c;
    int row = head / m.H, last = m.at(row), of_head = head % m.H * D;
    float *qkv = m.out(4 * layer) + (long long)row * m.padded(3 * m.C, 4) + of_head + c, *own = met + warp * (D + 2);
    long long start = ((long long)layer * m.B * m.H + head) * m.room * D + c;
    uint4 keys[AHEAD], values[AHEAD];
    auto fetch = [&](int j0) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            long long at = start + (long long)(j0 + a * groups + group) * D;
            keys[a] = values[a] = make_uint4(0, 0, 0, 0);
            if (j0 + a * groups + group < last && left > 0)
                keys[a] = load_pack<WHOLE>(m.k + at, left), values[a] = load_pack<WHOLE>(m.v + at, left);
        }
    };
    int j0 = warp * AHEAD * groups;
    fetch(j0);                                              // all but the new one: while its numbers are on their way
    float q[PACK], k[PACK], y[PACK], e[PACK], most = 0.0f, sum = 1.0f, scale = 1.0f / sqrtf(float(D));
    bool all;
    do {
        all = true;
#pragma unroll
        for (int i = 0; i < PACK; i++) {
            q[i] = i < left ? look(qkv + i) : 0.0f;
            k[i] = i < left ? look(qkv + m.C + i) : 0.0f;
            y[i] = i < left ? look(qkv + 2 * m.C + i) : 0.0f;
        }
        for (int i = 0; i < PACK; i++) all &= there(q[i]) && there(k[i]) && there(y[i]);
        if (!all) let_others();
    } while (!all);
    unpack<T>(packed<T>(k), k);                             // the new one, as it is stored
    unpack<T>(packed<T>(y), y);
    for (int i = 0; i < PACK; i++) most += q[i] * k[i];
    for (int n = lanes / 2; n; n /= 2) most += __shfl_xor_sync(~0u, most, n);
    most *= scale;                                                                       // [AT1]
    if (warp == 0 && group == 0) {
        store(m.k + start + (long long)last * D, k, left);
        store(m.v + start + (long long)last * D, y, left);
    } else {
        most = -INFINITY;                                   // it is counted once: elsewhere its weight is 0
    }
    while (j0 < last) {
        float scores[AHEAD], highest = most;
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            unpack<T>(keys[a], e);
            scores[a] = 0.0f;
            for (int i = 0; i < PACK; i++) scores[a] += q[i] * e[i];
        }
        for (int n = lanes / 2; n; n /= 2)
#pragma unroll
            for (int a = 0; a < AHEAD; a++) scores[a] += __shfl_xor_sync(~0u, scores[a], n);
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            scores[a] = j0 + a * groups + group < last ? scores[a] * scale : -INFINITY;  // [AT1]
            highest = fmaxf(highest, scores[a]);
        }
        float before = share(most, highest);
        sum *= before;
        for (int i = 0; i < PACK; i++) y[i] *= before;
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float weight = share(scores[a], highest);
            sum += weight;
            unpack<T>(values[a], e);
            for (int i = 0; i < PACK; i++) y[i] += weight * e[i];
        }
        most = highest, j0 += warps * AHEAD * groups;
        fetch(j0);
    }
    float highest = most;
    for (int n = lanes; n < 32; n *= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, n));
    float part = share(most, highest);
    sum *= part;
    for (int n = lanes; n < 32; n *= 2) sum += __shfl_xor_sync(~0u, sum, n);
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        y[i] *= part;
        for (int n = lanes; n < 32; n *= 2) y[i] += __shfl_xor_sync(~0u, y[i], n);
        if (group == 0 && i < left) own[c + i] = y[i];
    }
    if (lane == 0) own[D] = highest, own[D + 1] = sum;
    __syncthreads();
    for (int d = threadIdx.x; d < D; d += blockDim.x) {
        float total = 0.0f, v = 0.0f;
        for (int w = 0; w < warps; w++) highest = fmaxf(highest, met[w * (D + 2) + D]);
        for (int w = 0; w < warps; w++) {
            const float* its = met + w * (D + 2);
            float part = share(its[D], highest);
            total += part * its[D + 1];                                                  // [AT2]
            v += part * its[d];
        }
        m.send(m.attended(layer) + (long long)row * m.padded(m.C, 4) + of_head + d, v / total);       // [AT3,5]
    }
    __syncthreads();                                        // before others are met there
}

// What the cache holds for a head, brought near.
__device__ void prefetch_keys(const Model& m, int layer, int head) {
    int D = m.C / m.H;
    long long start = ((long long)layer * m.B * m.H + head) * m.room * D;
    for (int i = threadIdx.x * 128; i < m.at(head / m.H) * D * (int)sizeof(T); i += blockDim.x * 128) {
        prefetch((const char*)(m.k + start) + i);
        prefetch((const char*)(m.v + start) + i);
    }
}

// ------------------------------------------------------------------------------------------------ a step

// Into g (2, C4) the norm before product q; and nearer what is wanted soon: biases that this block adds, the next norm.
__device__ void prepare(const Model& m, int q, const Product& p, float* g) {
    const float* norm = m.norms + (q + 1) / 2 * 2LL * m.C;
    int warp = threadIdx.x / 32, stride = m.padded(m.C, 4);
    if (q % 2 == 0)
        for (int i = threadIdx.x; i < stride; i += blockDim.x)
            for (int k = 0; k < 2; k++) g[k * stride + i] = i < m.C ? norm[k * m.C + i] : 0.0f;
    else
        for (int i = threadIdx.x * 32; i < 2 * m.C; i += blockDim.x * 32) prefetch(norm + i);
    if (q < 4 * m.L && threadIdx.x % 32 == 0 && warp < p.items)
        prefetch(m.biases + 9LL * (q / 4) * m.C + p.bias + p.first_output(warp));
}

extern "C" __global__ void __launch_bounds__(MOST, 1) next_token(
        const long long* tokens, const long long* begins, const T* wte, const T* wpe, const T* attn, const T* proj,
        const T* up, const T* down, const float* biases, const float* norms, T* k, T* v, float* sent, float* logits,
        int more, int B, int C, int H, int L, int V, int room, int rows, int what, int post_norm, float eps) {
    __shared__ Product products[PRODUCTS];
    long long set = 12LL * L * B * ((C + 3) / 4 * 4);
    const Model m{tokens, begins, wte, wpe, attn, proj, up, down, biases, norms, k, v, sent + more % 2 * set, logits,
                  more % 2 ? -set : set, more, B, C, H, L, V, room, rows, what, post_norm, eps};
    int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    uint4* ring = (uint4*)dynamic_shared();                 // (warps, DEPTH, 2, 32)
    float* inputs = (float*)(ring + warps * DEPTH * 64);    // (rows, width)
    float* g = inputs + rows * m.width();                   // (2, C4)
    float* totals = g + 2 * m.padded(C, 4);                 // (warps, 32)
    float* met = totals + warps * 32;                       // (warps, D + 2)
    if (threadIdx.x < PRODUCTS) describe(m, threadIdx.x, products[threadIdx.x]);
    __syncthreads();
    Weights weights(m, products, ring + warp * DEPTH * 64);
    for (int q = 0; q <= 4 * L; q++) {
        const Product& p = products[m.product(q)];
        if (q % 4 == PROJECT)
            for (int head = blockIdx.x; head < B * H; head += gridDim.x) {
                if (C / H % PACK == 0) attend<true>(m, q / 4, head, met);
                else attend<false>(m, q / 4, head, met);
            }
        else if (q % 4 == QKV && q < 4 * L && blockIdx.x < B * H) prefetch_keys(m, q / 4, blockIdx.x);
        prepare(m, q, p, g);
        for (int first = 0; first < B; first += rows) {
            int some = min(rows, B - first);
            stage(m, q, first, some, p.n_in, g, inputs);
            multiply(m, q, p, first, some, weights, inputs, totals);
        }
    }
    wait_copies<0>();
}
