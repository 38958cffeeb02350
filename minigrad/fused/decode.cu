// One token of every row through a GPT in one launch, by gpt/decode_gpu.py. Formulas and numbers: linear.py,
// layer_norm.py, gelu.py, attention.py.
//
// Each weight meets one number per row and is not needed again, so a step should take as long as the memory takes to
// deliver the weights. Which weights a warp wants, and in what order, is known from the start. So every lane has copies
// of its next weights under way to shared memory all the time, through the phases of all layers; what holds up a phase
// is the numbers of the last one, which other blocks have. Between their arrival and the next numbers' leaving lies a
// chain of instructions that nothing hides: it is to be short, and to ask for nothing from memory.
//
// There is a block on each multiprocessor. Matrices lie as (out, in), their rows padded to whole packs. A block has
// outputs that are next to each other, eight to a tile; its warps share the inputs: a warp has every warps-th chunk of
// them, and fetches, normalises and rounds those alone. What the warps found is added up in the order of the warps. A
// head of a row is attended to by one block. Entries are stored as T; what goes from phase to phase is float.
//
// What blocks tell each other lies in `sent`, which holds NOTHING until a number is there. Every phase of every layer
// has a place of its own, and there are two sets of them: who sends a number in one step takes back the one of the step
// before, which all have read, for that launch is over.
#include "common.cuh"
#include "gelu.cuh"

// WARPS of a block, and ROWS that meet a weight at one time, at most: 1, 8, or 16 of 16 bits. Loops over either are
// walked once, and their loads go out together, because the compiler knows how long they are.
constexpr int THREADS = 32 * WARPS;
constexpr int CHUNK = 8 * PACK;                             // inputs of a unit: 128 bytes, of each output of a tile
constexpr int TILES = 3;                                    // of eight outputs, between two barriers
constexpr int TEAM = CHUNK / 4, TEAMS = 32 / TEAM;          // lanes that fetch a chunk, four entries each
constexpr int FETCHED = 2;                                  // fours that a lane asks for at one time
constexpr float LOWEST = -1e30f;                            // the score of a key that is not there: its weight is 0
enum { QKV, PROJECT, UP, DOWN, HEAD, PRODUCTS };            // those of a layer, and the last
enum { GELU, RELU };

struct Model {
    const long long *tokens, *begins;                       // (B,): what is new, and where, but for `more`
    const T *wte, *wpe, *attn, *proj, *up, *down;           // (V, K), (room, C), (L, 3C, K), (L, C, K), (L, 4C, K), ...
    const float *biases, *norms;                            // (L, 9C): of the four products; (2L + 1, 2, C4)
    T *k, *v;                                               // (L, B, H, room, D)
    float *sent, *kept, *logits;                            // this step's (L, 10, B C4); (B, C4): residuals; (B, V)
    long long other;                                        // from there to the other step's
    int more, B, C, H, L, V, room, rows, log, half;         // rows: at one time, no more than 2^log. half: of a ring
    int what, post_norm;                                    // what: GELU or RELU
    float eps;

    __device__ int padded(int n, int to) const { return (n + to - 1) / to * to; }
    __device__ int chunks(int n) const { return (n + CHUNK - 1) / CHUNK; }
    // Of a row in shared memory: inputs, or normalised ones and behind them what they were. Two rows use all banks.
    __device__ int width() const {
        return max(chunks(4 * C), chunks(C) * int(1 + 4 / sizeof(T))) * CHUNK + CHUNK / 2;
    }
    __device__ int at(int row) const { return int(begins[row]) + more; }
    __device__ int product(int q) const { return q == 4 * L ? HEAD : q % 4; }
    __device__ float* place(int layer, int n) const { return sent + (10LL * layer + n) * B * padded(C, 4); }
    // (B, n) each, n a multiple of 4: what comes from product q; attention.
    __device__ float* out(int q) const { return place(q / 4, q % 4 == QKV ? 0 : q % 4 == DOWN ? 8 : q % 4 + 2); }
    __device__ float* attended(int layer) const { return place(layer, 9); }
    __device__ void send(float* to, float v) const {
        uint32_t word = __float_as_uint(v);
        put(to, word == NOTHING ? NOTHING >> 1 : word);     // a NaN is one, whichever
        put(to + other, NOTHING);
    }
};

__device__ __forceinline__ bool there(float v) { return __float_as_uint(v) != NOTHING; }

// A product of every layer, as this block has it.
struct Product {
    const T* w;                                             // (L, n_out, K)
    long long size;                                         // of a layer's
    int n_in, n_out, K, bias, begin, end;                   // bias: where in a layer's. Outputs begin.. end are ours
};

__device__ void describe(const Model& m, int kind, Product& p) {
    int C = m.C;
    p.w = kind == QKV ? m.attn : kind == PROJECT ? m.proj : kind == UP ? m.up : kind == DOWN ? m.down : m.wte;
    p.n_in = kind == DOWN ? 4 * C : C;
    p.n_out = kind == QKV ? 3 * C : kind == UP ? 4 * C : kind == HEAD ? m.V : C;
    p.bias = kind == QKV ? 0 : kind == PROJECT ? 3 * C : kind == UP ? 4 * C : 8 * C;
    p.K = m.padded(p.n_in, PACK), p.size = (long long)p.n_out * p.K;
    p.begin = (long long)p.n_out * blockIdx.x / gridDim.x, p.end = (long long)p.n_out * (blockIdx.x + 1) / gridDim.x;
}

// The weights of this warp, unit by unit in the order in which it multiplies them: a unit is a chunk of inputs of the
// eight outputs of a tile; after it comes the next of TILES tiles, then another chunk. A ring holds twice `half` units.
// It is filled again, by as many as have been taken, when others are waited for anyway, and before more than half of it
// has been taken: so half of it is always older than the last filling, and all but that one are waited for.
struct Weights {
    const Model& m;
    const Product* products;
    uint4* room;                                            // (2 half, 2, 32) of this warp, from this lane's first on
    const T *w, *from;                                      // of this layer; this lane's next pack
    int q = 0, first = 0, chunk, begin, output, end, K;     // of the unit that is asked for next; begin: of its tiles
    int asked = 0, taken = 0, used;                         // places in the ring, and how many are free

    __device__ Weights(const Model& model, const Product* products, uint4* ring)
            : m(model), products(products), room(ring + threadIdx.x % 32), used(model.half) {
        enter();
        refill();
        used = m.half;
        refill();
    }
    // To the first unit of product q for rows first.., or of what follows, if it has none for this warp.
    __device__ void enter() {
        for (; q <= 4 * m.L; pass()) {
            const Product& p = products[m.product(q)];
            if (p.begin == p.end || threadIdx.x / 32 >= m.chunks(p.n_in)) continue;
            w = p.w + (q < 4 * m.L ? q / 4 * p.size : 0), begin = output = p.begin, end = p.end, K = p.K;
            chunk = threadIdx.x / 32;
            aim();
            return;
        }
    }
    __device__ void pass() {
        first += m.rows;
        if (first >= m.B) first = 0, q++;
    }
    __device__ void aim() {
        from = w + (long long)(output + threadIdx.x % 32 / 4) * K + chunk * CHUNK + threadIdx.x % 4 * PACK;
    }
    __device__ int after(int place) const { return place + 64 == 128 * m.half ? 0 : place + 64; }
    __device__ void ask() {
        if (q > 4 * m.L) return;
        int i = chunk * CHUNK + threadIdx.x % 4 * PACK;
        bool ours = output + int(threadIdx.x % 32 / 4) < end;
        copy16_async(room + asked, from, ours && i < K);
        copy16_async(room + asked + 32, from + CHUNK / 2, ours && i + CHUNK / 2 < K);
        asked = after(asked);
        output += 8;
        if (output < end && output < begin + 8 * TILES) {
            from += 8 * K;
            return;
        }
        int tiles = output;
        output = begin, chunk += WARPS;
        if (chunk * CHUNK >= K) begin = output = tiles, chunk = threadIdx.x / 32;
        if (output < end) aim();
        else pass(), enter();
    }
    __device__ void refill() {
        for (; used; used--) ask();
        commit_copies();
    }
    __device__ void need(int units) {                       // of which no more are taken before this is said again
        if (used + units <= m.half) return;
        refill();
        wait_copies<1>();
    }
    // This lane's packs of the next unit: of output lane / 4, of inputs from lane % 4 PACK on, and CHUNK / 2 further.
    __device__ void take(uint4 (&packs)[2]) {
        packs[0] = room[taken], packs[1] = room[taken + 32];
        taken = after(taken);
        used++;
    }
};

// ------------------------------------------------------------------------------------------------ inputs of products

__device__ __forceinline__ void quad(float (&v)[4], const float* p) {
    float4 four = *(const float4*)p;
    v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
}

__device__ __forceinline__ void store_quad(T* to, const float (&v)[4]) {
    if constexpr (sizeof(T) == 4) *(float4*)to = {v[0], v[1], v[2], v[3]};
    else *(uint2*)to = {pair_of<T>(v[0], v[1]), pair_of<T>(v[2], v[3])};
}

// Entries i.. of the first layer's input, of which n - i are there.
__device__ void embedded(const Model& m, int row, int i, int n, float (&v)[4]) {
    const T* token = m.wte + m.tokens[row] * m.padded(n, PACK) + i;
    const T* position = m.wpe + (long long)m.at(row) * n + i;
    for (int j = 0; j < 4; j++) v[j] = i + j < n ? float(token[j]) + float(position[j]) : 0.0f;
}

// Into x, (rows, width): this warp's chunks of rows first.. of what product q takes, normalised if it has a norm. Each
// chunk's mean, sum of squares around it and count meet in `parts`, (rows, chunks). What a later product adds to its
// outputs begin.. end is kept.
__device__ void stage(const Model& m, int q, int first, int rows, int n, int begin, int end, T* x, float4* parts) {
    int width = m.width(), chunks = m.chunks(n), stride = m.padded(n, 4), behind = chunks * CHUNK;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, team = lane / TEAM;
    int place = lane % TEAM * 4, last = (1 << m.log) - 1, had = -1;
    bool norm = q % 2 == 0 && !(m.post_norm && q == 0), keeps = q % 2 == 0 && q < 4 * m.L;
    float* source = q == 0 ? nullptr : q % 4 == PROJECT ? m.attended(q / 4) : m.out(q - 1);
    const float* gains = m.norms + q / 2 * 2LL * stride;
    float gain[4] = {}, shift[4] = {}, share = __fdividef(1.0f, n);
    auto keep = [&](int row, int i, const float (&before)[4], const float (&after)[4]) {
        if (keeps && i + 4 > begin && i < end)
            for (int j = 0; j < 4; j++)
                if (i + j >= begin && i + j < end)
                    m.kept[(first + row) * stride + i + j] = m.post_norm ? after[j] : before[j];
    };
    auto load_norm = [&](int i) {
        if (i == had) return;
        if (i < stride) quad(gain, gains + i), quad(shift, gains + stride + i);     // behind a row anything will do
        had = i;
    };
    // A team's pieces: a chunk of all rows, then the next chunk. While the first has one, all teams meet in shuffles.
    auto any = [&](int piece) { return warp + (piece - team >> m.log) * WARPS < chunks; };
    if (norm) load_norm((warp + (team >> m.log) * WARPS) * CHUNK + place);               // while numbers are on the way
    for (int k = team; any(k); k += FETCHED * TEAMS) {
        float v[FETCHED][4];
        bool all;
        do {
            all = true;
#pragma unroll
            for (int a = 0; a < FETCHED; a++) {
                int piece = k + a * TEAMS, row = piece & last, i = (warp + (piece >> m.log) * WARPS) * CHUNK + place;
                for (int j = 0; j < 4; j++) v[a][j] = 0.0f;
                if (!any(piece)) break;
                if (row >= rows || i >= n) continue;
                if (q == 0) {
                    embedded(m, first + row, i, n, v[a]);
                } else {
                    float4 four = look4(source + (first + row) * stride + i);
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
        for (int a = 0; a < FETCHED; a++) {
            int piece = k + a * TEAMS, row = piece & last, chunk = warp + (piece >> m.log) * WARPS;
            int i = chunk * CHUNK + place;
            if (!any(piece)) break;
            bool ours = row < rows && chunk < chunks;
            T* own = x + row * width;
            if (!norm) {
                if (ours) store_quad(own + i, v[a]), keep(row, i, v[a], v[a]);
                continue;
            }
            if (ours) *(float4*)((float*)(own + behind) + i) = {v[a][0], v[a][1], v[a][2], v[a][3]};
            float mu = (v[a][0] + v[a][1]) + (v[a][2] + v[a][3]), squares = 0.0f, count = min(CHUNK, n - i + place);
            for (int s = TEAM / 2; s; s /= 2) mu += __shfl_xor_sync(~0u, mu, s);
            mu = __fdividef(mu, count);
            for (int j = 0; j < 4; j++) if (i + j < n) squares += (v[a][j] - mu) * (v[a][j] - mu);
            for (int s = TEAM / 2; s; s /= 2) squares += __shfl_xor_sync(~0u, squares, s);
            if (ours && place == 0) parts[row * chunks + chunk] = {mu, squares, count, 0.0f};
        }
    }
    if (norm) {
        __syncthreads();
        for (int k = team; any(k); k += TEAMS) {
            int row = k & last, chunk = warp + (k >> m.log) * WARPS, i = chunk * CHUNK + place;
            const float4* its = parts + min(row, rows - 1) * chunks;
            float mu = its[0].x, sum = 0.0f, squares = 0.0f, v[4], y[4];                 // relative to a mean of some
#pragma unroll 1
            for (int c = lane % TEAM; c < chunks; c += TEAM) {
                float away = its[c].x - mu;
                sum += its[c].z * away, squares += its[c].y + its[c].z * away * away;
            }
            for (int s = TEAM / 2; s; s /= 2)
                sum += __shfl_xor_sync(~0u, sum, s), squares += __shfl_xor_sync(~0u, squares, s);
            if (row >= rows || chunk >= chunks) continue;
            mu += sum * share;                                                           // [LN1]
            float rstd = rsqrtf((squares - sum * sum * share) * share + m.eps);          // [LN2]
            T* own = x + row * width;
            quad(v, (float*)(own + behind) + i);
            load_norm(i);
            for (int j = 0; j < 4; j++) y[j] = (v[j] - mu) * rstd * gain[j] + shift[j];               // [LN3,4]
            store_quad(own + i, y);
            keep(row, i, v, y);
        }
    }
    __syncwarp();
}

// ------------------------------------------------------------------------------------------------ products

// A chunk of all rows, and sums of products with such for the eight outputs of a tile. 16 bits: by tensor cores.
// A lane's pack of 8 inputs is named as what it would have of twice 16; as long as weights and rows agree on that, the
// sum is the same.
template<class E> struct Inputs {
    uint32_t a[4][4];

    // A row that is not there is given another's numbers, and its sums to nobody.
    __device__ __forceinline__ Inputs(const E* x, int width, int rows) {
        int row = threadIdx.x % 32 / 4;
        x += threadIdx.x % 4 * PACK;
        const E *low = x + min(row, rows - 1) * width, *high = x + min(row + 8, rows - 1) * width;
#pragma unroll
        for (int k = 0; k < 2; k++) {
            uint4 v = load16(low + k * (CHUNK / 2)), w = load16(high + k * (CHUNK / 2));
            a[k][0] = v.x, a[k][1] = w.x, a[k][2] = v.y, a[k][3] = w.y;
            a[k + 2][0] = v.z, a[k + 2][1] = w.z, a[k + 2][2] = v.w, a[k + 2][3] = w.w;
        }
    }
};

template<class E> struct Sums {
    float d[2][4] = {};                                     // of rows lane / 4, and 8 further, two outputs each:
                                                            // over each half of the chunks, in chains of their own
    __device__ __forceinline__ void add(const uint4 (&w)[2], const Inputs<E>& x) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
            multiply_tiles<E>(d[k], x.a[k], {w[k].x, w[k].y});
            multiply_tiles<E>(d[k], x.a[k + 2], {w[k].z, w[k].w});
        }
    }
    __device__ __forceinline__ void leave(float* to, int rows) const {                   // (ROWS, 8)
        int row = threadIdx.x % 32 / 4;
        to += threadIdx.x % 32 * 2;
        if (row < rows) *(float2*)to = {d[0][0] + d[1][0], d[0][1] + d[1][1]};
        if (row + 8 < rows) *(float2*)(to + 64) = {d[0][2] + d[1][2], d[0][3] + d[1][3]};
    }
};

template<> struct Inputs<float> {
    const float* x;
    int width, rows;

    __device__ __forceinline__ Inputs(const float* x, int width, int rows)
            : x(x + threadIdx.x % 4 * PACK), width(width), rows(rows) {}
};

template<> struct Sums<float> {
    float s[ROWS] = {};                                     // of output lane / 4, over this lane's inputs

    __device__ __forceinline__ void add(const uint4 (&w)[2], const Inputs<float>& inputs) {
        float a[4], e[4];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            unpack<float>(w[k], a);
#pragma unroll
            for (int b = 0; b < ROWS; b++) {
                if (b >= inputs.rows) break;
                quad(e, inputs.x + b * inputs.width + k * (CHUNK / 2));
                s[b] += a[0] * e[0] + a[1] * e[1] + a[2] * e[2] + a[3] * e[3];
            }
        }
    }
    __device__ __forceinline__ void leave(float* to, int rows) const {
#pragma unroll
        for (int b = 0; b < ROWS; b++) {
            if (b >= rows) break;
            float v = s[b] + __shfl_xor_sync(~0u, s[b], 1);
            v += __shfl_xor_sync(~0u, v, 2);
            if (threadIdx.x % 4 == 0) to[b * 8 + threadIdx.x % 32 / 4] = v;
        }
    }
};

// Product q of rows first... sums: (2, warps, TILES, ROWS, 8), of which the half is written that is not still read.
__device__ void multiply(const Model& m, int q, const Product& p, const Product& later, int first, int rows,
                         Weights& weights, T* x, float4* parts, float* sums, int& side) {
    constexpr int OF_TILE = ROWS * 8, OF_WARP = TILES * OF_TILE;
    int warp = threadIdx.x / 32, kind = m.product(q), width = m.width(), n_in = p.n_in;
    const float* biases = m.biases + 9LL * (q / 4) * m.C + p.bias;
    bool adds = kind == PROJECT || kind == DOWN;
    auto output_of = [](unsigned i) { return int(i / OF_TILE * 8 + i % 8); };
    auto row_of = [](unsigned i) { return int(i / 8 % ROWS); };
    auto added = [&](int row, int j) {                      // to output j of a row. Two terms: a sum would wait here
        return float2{kind != HEAD ? biases[j] : 0.0f, adds ? m.kept[(first + row) * m.padded(m.C, 4) + j] : 0.0f};
    };
    int row = row_of(threadIdx.x), j = p.begin + output_of(threadIdx.x);
    float2 more = row < rows && j < p.end ? added(row, j) : float2{0.0f, 0.0f};          // while numbers are on the way
    stage(m, q, first, rows, n_in, later.begin, later.end, x, parts);
    wait_copies<1>();
    for (int output = p.begin; output < p.end; output += 8 * TILES, side ^= 1) {
        int tiles = min(TILES, (p.end - output + 7) / 8);
        float* own = sums + (side * WARPS + warp) * OF_WARP;
        Sums<T> found[TILES];
        for (int chunk = warp; chunk * CHUNK < n_in; chunk += WARPS) {
            Inputs<T> inputs(x + chunk * CHUNK, width, rows);
            weights.need(tiles);
#pragma unroll
            for (int tile = 0; tile < TILES; tile++) {
                if (tile >= tiles) break;
                uint4 w[2];
                weights.take(w);
                found[tile].add(w, inputs);
            }
        }
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) if (tile < tiles) found[tile].leave(own + tile * OF_TILE, rows);
        __syncthreads();
        for (int i = threadIdx.x; i < tiles * OF_TILE; i += THREADS) {
            int row = row_of(i), j = output + output_of(i);
            if (row >= rows || j >= p.end) continue;
            if (output > p.begin || i >= THREADS) more = added(row, j);
            const float* its = sums + side * WARPS * OF_WARP + i;
            float v = 0.0f;
#pragma unroll
            for (int w = 0; w < WARPS; w++) v += its[w * OF_WARP];                       // [LI1]
            v += more.x + more.y;
            if (kind == UP) v = m.what == GELU ? v * gate(v) : fmaxf(v, 0.0f);
            if (kind == HEAD) m.logits[(long long)(first + row) * p.n_out + j] = v;
            else m.send(m.out(q) + (first + row) * m.padded(p.n_out, 4) + j, v);
        }
        weights.refill();
        if (output + 8 * TILES < p.end) wait_copies<1>();
    }
}

// ------------------------------------------------------------------------------------------------ attention

// A lane's pack of numbers that are sent, of which n are there, zeros beyond.
template<bool WHOLE> __device__ __forceinline__ void look_pack(float (&v)[PACK], float* from, int n) {
#pragma unroll
    for (int i = 0; i < PACK; i += WHOLE ? 4 : 1) {
        if constexpr (WHOLE) {
            float4 four = n > 0 ? look4(from + i) : float4{0.0f, 0.0f, 0.0f, 0.0f};
            v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
        } else {
            v[i] = i < n ? look(from + i) : 0.0f;
        }
    }
}

// A head of all rows' attends with its new token to all that it has seen; its key and value are stored. So many lanes,
// a power of two, share the D entries of a key; such a group takes a key at a time, and has the largest score, the sum
// of weights 2^(s - m), and that of values with those weights. They meet in `met`, (warps, D + 2).
// WHOLE: D is a number of packs.
template<bool WHOLE> __device__ __forceinline__ void attend(const Model& m, int layer, int head, float* met) {
    constexpr int AHEAD = WHOLE ? 4 : 1;                    // keys that a lane asks for at one time
    int D = m.C / m.H, warp = threadIdx.x / 32, lane = threadIdx.x % 32, lanes = 1;
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
    bool newest = warp == WARPS - 1;                        // has the new key and value
    float q[PACK], k[PACK], y[PACK], e[PACK], most = LOWEST, sum = 0.0f, scale = LOG2_E / sqrtf(float(D));
    bool all;
    do {
        all = true;
        look_pack<WHOLE>(q, qkv, left);
        look_pack<WHOLE>(k, qkv + m.C, newest ? left : 0);
        look_pack<WHOLE>(y, qkv + 2 * m.C, newest ? left : 0);
        for (int i = 0; i < PACK; i++) all &= there(q[i]) && there(k[i]) && there(y[i]);
        if (!all) let_others();
    } while (!all);
    if (newest) {
        unpack<T>(packed<T>(k), k);                         // as it is stored
        unpack<T>(packed<T>(y), y);
        float score = 0.0f;
        for (int i = 0; i < PACK; i++) score += q[i] * k[i];
        for (int n = lanes / 2; n; n /= 2) score += __shfl_xor_sync(~0u, score, n);
        if (group == 0) {                                   // it is counted once: elsewhere its weight is 0
            most = score * scale, sum = 1.0f;                                            // [AT1]
            store(m.k + start + (long long)last * D, k, left);
            store(m.v + start + (long long)last * D, y, left);
        }
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
            scores[a] = j0 + a * groups + group < last ? scores[a] * scale : LOWEST;     // [AT1]
            highest = fmaxf(highest, scores[a]);
        }
        float before = exp2f(most - highest);
        sum *= before;
        for (int i = 0; i < PACK; i++) y[i] *= before;
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            float weight = exp2f(scores[a] - highest);
            sum += weight;
            unpack<T>(values[a], e);
            for (int i = 0; i < PACK; i++) y[i] += weight * e[i];
        }
        most = highest, j0 += WARPS * AHEAD * groups;
        if (j0 < last) fetch(j0);
    }
    float highest = most;
    for (int n = lanes; n < 32; n *= 2) highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, n));
    float part = exp2f(most - highest);
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
    for (int d = threadIdx.x; d < D; d += THREADS) {
        float total = 0.0f, v = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) highest = fmaxf(highest, met[w * (D + 2) + D]);
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            const float* its = met + w * (D + 2);
            float part = exp2f(its[D] - highest);
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
    for (int i = threadIdx.x * 128; i < m.at(head / m.H) * D * (int)sizeof(T); i += THREADS * 128) {
        prefetch((const char*)(m.k + start) + i);
        prefetch((const char*)(m.v + start) + i);
    }
}

// What a layer adds to its products and its norms multiply by, or what the last norm does.
__device__ void prefetch_layer(const Model& m, int layer) {
    int i = (blockIdx.x * THREADS + threadIdx.x) * 32, size = m.padded(m.C, 4);       // 128 bytes a thread
    if (layer < m.L && i < 9 * m.C) prefetch(m.biases + 9LL * layer * m.C + i);
    if (i < (layer < m.L ? 4 : 2) * size) prefetch(m.norms + 4LL * layer * size + i);
}

// ------------------------------------------------------------------------------------------------ a step

extern "C" __global__ void __launch_bounds__(THREADS, 1) next_token(
        const long long* tokens, const long long* begins, const T* wte, const T* wpe, const T* attn, const T* proj,
        const T* up, const T* down, const float* biases, const float* norms, T* k, T* v, float* sent, float* kept,
        float* logits, int more, int B, int C, int H, int L, int V, int room, int rows, int log, int half, int what,
        int post_norm, float eps) {
    __shared__ Product products[PRODUCTS];
    long long set = 10LL * L * B * ((C + 3) / 4 * 4);
    const Model m{tokens, begins, wte, wpe, attn, proj, up, down, biases, norms, k, v, sent + more % 2 * set, kept,
                  logits, more % 2 ? -set : set, more, B, C, H, L, V, room, rows, log, half, what, post_norm, eps};
    int warp = threadIdx.x / 32, side = 0;
    uint4* ring = (uint4*)dynamic_shared();                 // (warps, 2 half, 2, 32)
    float4* parts = (float4*)(ring + WARPS * half * 128);   // (rows, chunks)
    T* x = (T*)(parts + rows * m.chunks(C));                // (rows, width)
    float* sums = (float*)(x + rows * m.width());           // (2, warps, TILES, ROWS, 8)
    float* met = sums + 2 * WARPS * TILES * ROWS * 8;       // (warps, D + 2)
    if (threadIdx.x < PRODUCTS) describe(m, threadIdx.x, products[threadIdx.x]);
    __syncthreads();
    Weights weights(m, products, ring + warp * half * 128);
    prefetch_layer(m, 0);
    for (int q = 0; q <= 4 * L; q++) {
        const Product& p = products[m.product(q)];
        if (q % 4 == PROJECT)
            for (int head = blockIdx.x; head < B * H; head += gridDim.x) {
                if (C / H % PACK == 0) attend<true>(m, q / 4, head, met);
                else attend<false>(m, q / 4, head, met);
            }
        if (q % 4 == QKV && q < 4 * L) {
            prefetch_layer(m, q / 4 + 1);
            if (blockIdx.x < B * H) prefetch_keys(m, q / 4, blockIdx.x);
        }
        if (p.begin == p.end) continue;                     // more blocks than outputs
        for (int first = 0; first < B; first += rows)
            multiply(m, q, p, products[PROJECT], first, min(rows, B - first), weights, x, parts, sums, side);
    }
    wait_copies<0>();
}
