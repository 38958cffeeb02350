// embedding on a GPU. Formula, names and [EM] numbers: embedding.py.
//
// Backward adds up rows of dy with equal ids: count() and place() bring them together, sums() takes CHUNK at a time,
// join() adds what a chunk's end has cut. A frequent token has thousands of rows, so no block is left with all of them;
// and as each sum is taken in the order of the rows, its bits are the same every time.
#include "common.cuh"

constexpr int CHUNK = 32, DIGITS = 256, SORTERS = 1024, WARPS = SORTERS / 32;
constexpr int AHEAD = 4;                                    // rows asked for before the first is looked at
constexpr int LOOKED_AT = 32;                               // ids that a block of clear() has

// One block per id.
extern "C" __global__ void forward(const long long* ids, const T* w, int C, T* y) {
    w += ids[blockIdx.x] * C;
    y += (long long)blockIdx.x * C;
    float v[PACK];
    for (PACKS(i, C)) {
        load(v, w + i, C - i);
        store(y + i, v, C - i);                                                          // [EM1]
    }
}

// The lanes whose v, a number of so many bits, is this lane's.
__device__ __forceinline__ unsigned lanes_like_this(int v, int bits) {
    unsigned found = ~0u;
    for (int k = 0; k < bits; k++) {
        unsigned ones = __ballot_sync(~0u, v >> k & 1);
        found &= v >> k & 1 ? ones : ~ones;
    }
    return found;
}

// Entry n of what is sorted: an id, and its place. In the first pass they come from ids (N,).
__device__ __forceinline__ int2 entry(const long long* ids, const int2* from, int pass, int n) {
    return pass ? from[n] : int2{(int)ids[n], n};
}
__device__ __forceinline__ int digit_of(int2 e, int pass) { return e.x >> 8 * pass & DIGITS - 1; }

// counts (WARPS, DIGITS): how often each digit comes in the stretch of `per` entries that each warp of the block has.
__device__ __forceinline__ void count_digits(const long long* ids, const int2* from, int N, int pass, int per,
                                             int* counts) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, begin = (blockIdx.x * WARPS + warp) * per;
    for (int k = threadIdx.x; k < WARPS * DIGITS; k += SORTERS) counts[k] = 0;
    __syncthreads();
    for (int n = begin + lane; n - lane < min(N, begin + per); n += 32) {
        int digit = n < N ? digit_of(entry(ids, from, pass, n), pass) : DIGITS;
        unsigned equals = lanes_like_this(digit, 9);
        if (digit < DIGITS && !(equals & (1u << lane) - 1)) counts[warp * DIGITS + digit] += __popc(equals);
        __syncwarp();
    }
    __syncthreads();
}

// A pass of a radix sort by 8 bits begins with how often each digit comes in a block's entries: total (DIGITS, blocks).
extern "C" __global__ void __launch_bounds__(SORTERS) count(const long long* ids, const int2* from, int N, int pass,
                                                            int per, int* total) {
    int *counts = (int*)dynamic_shared(), sum = 0;
    count_digits(ids, from, N, pass, per, counts);
    if (threadIdx.x >= DIGITS) return;
    for (int k = 0; k < WARPS; k++) sum += counts[k * DIGITS + threadIdx.x];
    total[threadIdx.x * gridDim.x + blockIdx.x] = sum;
}

// And ends with to (N,): the entries in the order of their digits, equal ones in their own. Before those with a digit
// that a warp has come all with smaller ones, then those of earlier blocks, then those of the block's earlier warps.
extern "C" __global__ void __launch_bounds__(SORTERS) place(const long long* ids, const int2* from, int N, int pass,
                                                            int per, const int* total, int2* to) {
    __shared__ int all[DIGITS], ahead[DIGITS], of_warp[DIGITS / 32];
    int *counts = (int*)dynamic_shared(), lane = threadIdx.x % 32, warp = threadIdx.x / 32, sum = 0, before = 0;
    count_digits(ids, from, N, pass, per, counts);
    for (int k = threadIdx.x % 4; k < gridDim.x; k += 4) {  // four lanes for each digit
        int n = total[threadIdx.x / 4 * gridDim.x + k];
        sum += n, before += k < blockIdx.x ? n : 0;
    }
    for (int k = 1; k < 4; k *= 2) sum += __shfl_xor_sync(~0u, sum, k), before += __shfl_xor_sync(~0u, before, k);
    if (threadIdx.x % 4 == 0) all[threadIdx.x / 4] = sum, ahead[threadIdx.x / 4] = before;
    __syncthreads();
    int own = threadIdx.x < DIGITS ? all[threadIdx.x] : 0, until = own;
    for (int k = 1; k < 32; k *= 2) {
        int other = __shfl_up_sync(~0u, until, k);
        if (lane >= k) until += other;
    }
    if (threadIdx.x < DIGITS && lane == 31) of_warp[warp] = until;
    __syncthreads();
    if (threadIdx.x < DIGITS) {
        int at = until - own + ahead[threadIdx.x];
        for (int k = 0; k < warp; k++) at += of_warp[k];
        for (int k = 0; k < WARPS; k++) {
            int many = counts[k * DIGITS + threadIdx.x];
            counts[k * DIGITS + threadIdx.x] = at;
            at += many;
        }
    }
    __syncthreads();
    int begin = (blockIdx.x * WARPS + warp) * per;
    for (int n = begin + lane; n - lane < min(N, begin + per); n += 32) {
        int2 e = n < N ? entry(ids, from, pass, n) : int2{};
        int digit = n < N ? digit_of(e, pass) : DIGITS;
        unsigned equals = lanes_like_this(digit, 9), earlier = equals & (1u << lane) - 1;
        int* at = counts + warp * DIGITS + digit;
        if (digit < DIGITS) to[*at + __popc(earlier)] = e;
        __syncwarp();
        if (digit < DIGITS && !earlier) *at += __popc(equals);
        __syncwarp();
    }
}

// A block's share of sums(), in the columns from i on: near holds its entries, with those before and behind.
template<bool WHOLE> __device__ __forceinline__ void sum_runs(const int2* near, int many, const T* dy, int C, int i,
                                                              float beta, float* dw, float* parts) {
    float s[PACK] = {}, v[PACK];
    for (int first = 0, begin = 0; first < many; first += AHEAD) {
        uint4 raw[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (first + k < many) raw[k] = load_pack<WHOLE>(dy + (long long)near[first + k + 1].y * C + i, C - i);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            int end = first + k + 1, id = near[end].x;
            if (end > many) break;
            unpack<T>(raw[k], v);
            for (int j = 0; j < PACK; j++) s[j] += v[j];                                 // [EM2]
            if (end < many && near[end + 1].x == id) continue;
            bool whole = near[begin].x != id && near[end + 1].x != id;
            float* to = whole ? dw + (long long)id * C + i : parts + (2LL * blockIdx.x + (begin > 0)) * C + i;
            load(v, to, whole && beta != 0.0f ? C - i : 0);
            for (int j = 0; j < PACK; j++) v[j] += s[j], s[j] = 0.0f;
            store(to, v, C - i);
            begin = end;
        }
    }
}

// A block takes the CHUNK rows of dy that are next in the order of ids. Equal ids that all lie in it are added to
// beta dw; those that go on before or behind it are left in parts (chunks, 2, C), at 0 if they are the first of the
// chunk, else at 1. beta: 0 or 1.
extern "C" __global__ void __launch_bounds__(256, 4) sums(const int2* order, const T* dy, int N, int C, float beta,
                                                          float* dw, float* parts) {
    __shared__ int2 near[CHUNK + 2];
    int first = blockIdx.x * CHUNK, many = min(CHUNK, N - first);
    for (int k = threadIdx.x; k < CHUNK + 2; k += blockDim.x) {
        int n = first - 1 + k;
        near[k] = n >= 0 && n < N ? order[n] : int2{-1, 0};
    }
    __syncthreads();
    bool whole = C % PACK == 0 && (size_t)dy % 16 == 0;
    for (PACKS(i, C))
        if (whole) sum_runs<true>(near, many, dy, C, i, beta, dw, parts);
        else sum_runs<false>(near, many, dy, C, i, beta, dw, parts);
}

// The block of the chunk in which equal ids begin that do not end there adds up what sums() has left of them, in the
// columns that gridDim.y leaves to it.
extern "C" __global__ void join(const int2* order, int N, int C, float beta, const float* parts, float* dw) {
    int first = blockIdx.x * CHUNK, behind = first + CHUNK, id = order[behind].x;
    if (order[behind - 1].x != id || first > 0 && order[first - 1].x == id) return;
    bool second = order[first].x != id;
    bool longer = behind + CHUNK < N && order[behind + CHUNK].x == id;                   // seldom
    int further = longer ? 0 : 1, met = longer ? blockDim.x : 0;        // chunks behind this one that begin with the id
    for (long long n = behind; met == blockDim.x; n += (long long)blockDim.x * CHUNK) {
        long long other = n + (long long)threadIdx.x * CHUNK;
        met = block_sum(other < N && order[other].x == id ? 1 : 0);
        further += met;
    }
    int i = blockIdx.y * blockDim.x + threadIdx.x;
    if (i >= C) return;
    float *to = dw + (long long)id * C + i, s = beta == 0.0f ? 0.0f : *to;
    parts += 2LL * blockIdx.x * C + i;
    s += parts[second ? C : 0];
#pragma unroll 16
    for (int k = 1; k <= further; k++) s += parts[2LL * k * C];                          // [EM2]
    *to = s;
}

// Rows of dw (V, C) whose numbers are no ids: 0. The first warp of a block looks for them among LOOKED_AT.
extern "C" __global__ void clear(const int2* order, int N, int V, int C, float* dw) {
    __shared__ int absent[LOOKED_AT];
    int first = blockIdx.x * LOOKED_AT, v = first + threadIdx.x, low = 0, high = N;
    if (threadIdx.x < LOOKED_AT) {
        while (low < high) {                                // before low are smaller ids, from high on none
            int middle = (low + high) / 2;
            if (order[middle].x < v) low = middle + 1;
            else high = middle;
        }
        absent[threadIdx.x] = v < V && (low == N || order[low].x != v);
    }
    __syncthreads();
    for (int k = threadIdx.x / 32; k < LOOKED_AT; k += blockDim.x / 32) {
        float zeros[4] = {};
        for (int i = threadIdx.x % 32 * 4; absent[k] && i < C; i += 128)
            store(dw + (long long)(first + k) * C + i, zeros, C - i);
    }
}
