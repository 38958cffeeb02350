// One token of every row through a GPT, launched by gpt/decode_gpu.py. Formulas and numbers: linear.py, layer_norm.py,
// gelu.py, attention.py.
//
// Each weight meets one number per row and is not needed again, so all that matters is to have as many bytes of weights
// as possible on their way at any time. Matrices lie as (out, in). A block has OUTPUTS outputs for up to ROWS rows, and
// about as many threads as their inputs have packs, so that it asks for all its weights at once, and before it looks at
// the input. What comes before a product (layer norm, the end of attention) is computed again by every block. What
// comes after it is done by who has the sum at hand. Entries are stored as T; what goes from kernel to kernel is float.
#include "common.cuh"

constexpr int MOST = 512, OUTPUTS = 4, ROWS = 8;            // MOST threads of a block, for products
constexpr int THREADS = 128, WARPS = THREADS / 32;          // of a block, for attention
constexpr int KEYS = 128;                                   // of one head, that it attends to
enum { SET, ADD, GELU, RELU };                              // what is done with a product

// x (B, C): the rows of the two tables, added up.
extern "C" __global__ void embed(const long long* tokens, const long long* at, const T* wte, const T* wpe, int C,
                                 float* x) {
    wte += tokens[blockIdx.x] * C;
    wpe += at[blockIdx.x] * C;
    x += (long long)blockIdx.x * C;
    for (int i = threadIdx.x; i < C; i += blockDim.x) x[i] = float(wte[i]) + float(wpe[i]);
}

// ------------------------------------------------------------------------------------------------ inputs of products

// Rows of x (B, n), through a layer norm if there is a w. stats: room for mu and rstd of ROWS rows.
struct Rows {
    const float *x, *w, *b;
    int n;
    float eps, *stats;

    __device__ __forceinline__ void prepare(int first, int rows) const {
        if (!w) return;
        for (int r = threadIdx.x / 32; r < rows; r += blockDim.x / 32) {
            const float* row = x + (long long)(first + r) * n;
            float m = 0.0f, s = 0.0f;
            for (int i = threadIdx.x % 32; i < n; i += 32) m += row[i];
            m = warp_sum(m) / n;                                                         // [LN1]
            for (int i = threadIdx.x % 32; i < n; i += 32) s += (row[i] - m) * (row[i] - m);
            s = 1.0f / sqrtf(warp_sum(s) / n + eps);                                     // [LN2]
            if (threadIdx.x % 32 == 0) stats[2 * r] = m, stats[2 * r + 1] = s;
        }
        __syncthreads();
    }

    // Entries i.. of row first + r.
    __device__ __forceinline__ void get(float (&v)[PACK], int first, int r, int i) const {
        load(v, x + (long long)(first + r) * n + i, n - i);
        if (!w) return;
        float scale[PACK], shift[PACK], m = stats[2 * r], s = stats[2 * r + 1];
        load(scale, w + i, n - i);
        load(shift, b + i, n - i);
        for (int k = 0; k < PACK; k++) v[k] = (v[k] - m) * s * scale[k] + shift[k];      // [LN3,4]
    }
};

// What attend() has left: parts (splits, B, H D) of y, each of which counts as its share of all weights, and sums
// (splits, B, H, 2), from which the shares come. share: room for ROWS H splits of them.
struct Attended {
    const float *parts, *sums;
    const long long* at;
    int B, H, D, splits;
    float* share;

    __device__ __forceinline__ void prepare(int first, int rows) const {
        for (int k = threadIdx.x; k < rows * H; k += blockDim.x) {
            int row = first + k / H, many = int(at[row] / KEYS) + 1;
            const float* own = sums + 2LL * (row * H + k % H);
            float m = -INFINITY, total = 0.0f;
            long long next = 2LL * B * H;
            for (int s = 0; s < many; s++) m = fmaxf(m, own[s * next]);
            for (int s = 0; s < many; s++) total += expf(own[s * next] - m) * own[s * next + 1];     // [AT2]
            for (int s = 0; s < many; s++) share[k * splits + s] = expf(own[s * next] - m) / total;  // [AT3]
        }
        __syncthreads();
    }

    __device__ __forceinline__ void get(float (&v)[PACK], int first, int r, int i) const {
        float part[PACK];
        for (int k = 0; k < PACK; k++) v[k] = 0.0f;
        for (int s = 0; s <= at[first + r] / KEYS; s++) {
            load(part, parts + ((long long)s * B + first + r) * H * D + i, H * D - i);
            for (int k = 0; k < PACK; k++)
                if (i + k < H * D) v[k] += share[(r * H + (i + k) / D) * splits + s] * part[k];      // [AT5]
        }
    }
};

// Rows x (B, n) through a layer norm: GPT-1's, which stand on the residual path.
extern "C" __global__ void __launch_bounds__(THREADS) normalise(float* x, const float* w, const float* b, int n,
                                                                float eps) {
    Rows rows{x, w, b, n, eps, (float*)dynamic_shared()};
    rows.prepare(blockIdx.x, 1);
    float v[PACK];
    for (PACKS(i, n)) {
        rows.get(v, blockIdx.x, 0, i);
        store(x + (long long)blockIdx.x * n + i, v, n - i);
    }
}

// ------------------------------------------------------------------------------------------------ products

__device__ __forceinline__ float gelu(float v) {
    return v / (1.0f + expf(-2.0f * 0.7978845608028654f * (v + 0.044715f * (v * v * v))));      // [GE3,4]
}

// The weights of outputs j0.. for inputs i..; 0 beyond n_out and n_in.
__device__ __forceinline__ void fetch(float (&weights)[OUTPUTS][PACK], const T* w, int j0, int i, int n_in, int n_out) {
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++)
        load(weights[o], w + (long long)(j0 + o) * n_in + i, j0 + o < n_out ? n_in - i : 0);
}

// out (B, n_out) = what is made of the input times w (n_out, n_in), plus bias if there is one. sums: room for OUTPUTS
// ROWS numbers of each warp.
template<class Input> __device__ __forceinline__ void multiply(const Input& input, const T* w, const float* bias,
                                                               int n_in, int n_out, int B, int what, float* out,
                                                               float* sums) {
    int first = blockIdx.y * ROWS, rows = min(ROWS, B - first), step = gridDim.x * OUTPUTS;
    float weights[OUTPUTS][PACK];
    fetch(weights, w, blockIdx.x * OUTPUTS, threadIdx.x * PACK, n_in, n_out);
    input.prepare(first, rows);
    for (int j0 = blockIdx.x * OUTPUTS; j0 < n_out; j0 += step) {
        float s[OUTPUTS][ROWS] = {};
        for (PACKS(i, n_in)) {
            float v[PACK];
#pragma unroll
            for (int r = 0; r < ROWS; r++) {
                if (r >= rows) break;
                input.get(v, first, r, i);
#pragma unroll
                for (int o = 0; o < OUTPUTS; o++)
                    for (int k = 0; k < PACK; k++) s[o][r] += weights[o][k] * v[k];      // [LI1]
            }
            int next = i + blockDim.x * PACK;
            fetch(weights, w, next < n_in ? j0 : j0 + step, next < n_in ? next : threadIdx.x * PACK, n_in, n_out);
        }
        __syncthreads();                                    // the sums of the last outputs have been read
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            if (r >= rows) break;
#pragma unroll
            for (int o = 0; o < OUTPUTS; o++) {
                float all = warp_sum(s[o][r]);
                if (threadIdx.x % 32 == 0) sums[(threadIdx.x / 32 * OUTPUTS + o) * ROWS + r] = all;
            }
        }
        __syncthreads();
        int o = threadIdx.x / ROWS, r = threadIdx.x % ROWS, j = j0 + o;
        if (o >= OUTPUTS || r >= rows || j >= n_out) continue;
        float v = bias ? bias[j] : 0.0f;
        for (int k = 0; k < blockDim.x / 32; k++) v += sums[(k * OUTPUTS + o) * ROWS + r];
        float* to = out + (long long)(first + r) * n_out + j;
        *to = what == ADD ? *to + v : what == GELU ? gelu(v) : what == RELU ? v <= 0.0f ? 0.0f : v : v;
    }
}

// Of rows x (B, n_in), through the layer norm ln_w, ln_b where that is given.
extern "C" __global__ void __launch_bounds__(MOST) product(const float* x, const float* ln_w, const float* ln_b,
                                                              float eps, const T* w, const float* bias, int n_in,
                                                              int n_out, int B, int what, float* out) {
    float* shared = (float*)dynamic_shared();
    multiply(Rows{x, ln_w, ln_b, n_in, eps, shared}, w, bias, n_in, n_out, B, what, out, shared + 2 * ROWS);
}

// Of what attend() gives.
extern "C" __global__ void __launch_bounds__(MOST) project(const float* parts, const float* weights,
                                                              const long long* at, int H, int D, int splits, const T* w,
                                                              const float* bias, int n_out, int B, int what,
                                                              float* out) {
    float* shared = (float*)dynamic_shared();
    multiply(Attended{parts, weights, at, B, H, D, splits, shared}, w, bias, H * D, n_out, B, what, out,
             shared + ROWS * H * splits);
}

// ------------------------------------------------------------------------------------------------ attention

// Block (b H + h, split): head h of row b, whose new token, at position at[b], is qkv (B, 3 H D), with KEYS of the keys
// and values that it sees, k and v (B, H, room, D); its own are stored first. So many lanes, a power of two, share the
// D entries of a key. Written: into parts (splits, B, H D) the sum of the values, weighted with exp(s - m), and into
// sums (splits, B, H, 2) m and the sum of those weights.
extern "C" __global__ void __launch_bounds__(THREADS, 8) attend(const float* qkv, const long long* at, int H, int D,
                                                             int room, int lanes, float scale, T* k, T* v, float* parts,
                                                             float* sums) {
    __shared__ float s[KEYS];
    float* total = (float*)dynamic_shared();                // (WARPS, lanes PACK)
    int head = blockIdx.x, B = gridDim.x / H, b = head / H, h = head % H, first = blockIdx.y * KEYS;
    int seen = int(at[b]) + 1, many = min(KEYS, seen - first), groups = THREADS / lanes, group = threadIdx.x / lanes;
    int c = threadIdx.x % lanes * PACK;
    if (many <= 0) return;
    qkv += 3LL * b * H * D + (long long)h * D;
    k += (long long)head * room * D;
    v += (long long)head * room * D;
    if (seen == first + many)                               // the new token is among those of this block
        for (int d = threadIdx.x; d < D; d += THREADS) {
            k[(seen - 1LL) * D + d] = T(qkv[(long long)H * D + d]);
            v[(seen - 1LL) * D + d] = T(qkv[2LL * H * D + d]);
        }
    __syncthreads();
    float q[PACK], row[PACK], m = -INFINITY, sum = 0.0f;
    load(q, qkv + c, D - c);
    for (int j0 = 0; j0 < many; j0 += groups) {
        int j = j0 + group;
        float score = 0.0f;
        load(row, k + (long long)(first + j) * D + c, j < many ? D - c : 0);
        for (int i = 0; i < PACK; i++) score += q[i] * row[i];
        for (int n = lanes / 2; n; n /= 2) score += __shfl_xor_sync(~0u, score, n);
        if (c == 0 && j < many) s[j] = score * scale;                                    // [AT1]
    }
    __syncthreads();
    for (int j = threadIdx.x; j < many; j += THREADS) m = fmaxf(m, s[j]);
    m = block_max(m);
    for (int j = threadIdx.x; j < many; j += THREADS) sum += s[j] = expf(s[j] - m);
    sum = block_sum(sum);
    float y[PACK] = {};
    for (int j = group; j < many; j += groups) {
        load(row, v + (long long)(first + j) * D + c, D - c);
        for (int i = 0; i < PACK; i++) y[i] += s[j] * row[i];
    }
#pragma unroll
    for (int i = 0; i < PACK; i++) {
        for (int n = lanes; n < 32; n *= 2) y[i] += __shfl_xor_sync(~0u, y[i], n);
        if (threadIdx.x % 32 < lanes) total[threadIdx.x / 32 * lanes * PACK + c + i] = y[i];
    }
    __syncthreads();
    long long part = (long long)blockIdx.y * B * H + head;
    for (int d = threadIdx.x; d < D; d += THREADS) {
        float all = 0.0f;
        for (int n = 0; n < WARPS; n++) all += total[n * lanes * PACK + d];
        parts[part * D + d] = all;                                                       // [AT5], undivided
    }
    if (threadIdx.x == 0) sums[2 * part] = m, sums[2 * part + 1] = sum;
}
