// embedding on a GPU. Formula, names and [EM] numbers: embedding.py.
//
// Backward adds up rows of dy with equal ids: count() and place() bring them together, sums() takes CHUNK at a time,
// join() adds what the ends of chunks have cut off long runs. A frequent token has thousands of rows, so no block is
// left with all of them; and as each sum is taken in the order of the rows, its bits are the same every time.
#include "common.cuh"

constexpr int CHUNK = 32, DIGITS = 256, SORTERS = 1024, WARPS = SORTERS / 32;      // a chunk: a row for each lane
constexpr int STRETCHES = 64;                               // blocks that sort, at most
constexpr int AHEAD = 4;                                    // rows asked for before the first is looked at
constexpr int LOOKED_AT = 32;                               // ids that a block of clear() has

// One block per id. What is no row of the table gives NaN: the host cannot look without waiting.
extern "C" __global__ void forward(const long long* ids, const T* w, int V, int C, T* y) {
    long long id = ids[blockIdx.x];
    bool there = id >= 0 && id < V;
    w += (there ? id : 0) * C;
    y += (long long)blockIdx.x * C;
    float v[PACK];
    for (PACKS(i, C)) {
        load(v, w + i, C - i);
        for (int j = 0; j < PACK; j++) v[j] = there ? v[j] : __int_as_float(0x7fc00000);
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

// Entry n of what is sorted: an id, and its place. In the first pass they come from ids (N,), where what is no row of
// the table becomes the last one: its dy is NaN, as its y was, and no other memory is written to.
__device__ __forceinline__ int2 entry(const long long* ids, const int2* from, int V, int pass, int n) {
    return pass ? from[n] : int2{(int)min((unsigned long long)ids[n], (unsigned long long)(V - 1)), n};
}
__device__ __forceinline__ int digit_of(int2 e, int pass) { return e.x >> 8 * pass & DIGITS - 1; }

// counts (WARPS, DIGITS): how often each digit comes in the stretch of `per` entries that each warp of the block has.
__device__ __forceinline__ void count_digits(const long long* ids, const int2* from, int N, int V, int pass, int per,
                                             int* counts) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, begin = (blockIdx.x * WARPS + warp) * per;
    for (int k = threadIdx.x; k < WARPS * DIGITS; k += SORTERS) counts[k] = 0;
    __syncthreads();
    for (int n = begin + lane; n - lane < min(N, begin + per); n += 32) {
        int digit = n < N ? digit_of(entry(ids, from, V, pass, n), pass) : DIGITS;
        unsigned equals = lanes_like_this(digit, 9);
        if (digit < DIGITS && !(equals & (1u << lane) - 1)) counts[warp * DIGITS + digit] += __popc(equals);
        __syncwarp();
    }
    __syncthreads();
}

// A pass of a radix sort by 8 bits begins with how often each digit comes in a block's entries: total (DIGITS, blocks).
extern "C" __global__ void __launch_bounds__(SORTERS) count(const long long* ids, const int2* from, int N, int V,
                                                            int pass, int per, int* total) {
    int *counts = (int*)dynamic_shared(), sum = 0;
    count_digits(ids, from, N, V, pass, per, counts);
    if (threadIdx.x >= DIGITS) return;
    for (int k = 0; k < WARPS; k++) sum += counts[k * DIGITS + threadIdx.x];
    total[threadIdx.x * gridDim.x + blockIdx.x] = sum;
}

// And ends with to (N,): the entries in the order of their digits, equal ones in their own. Before those with a digit
// that a warp has come all with smaller ones, then those of earlier blocks, then those of the block's earlier warps.
extern "C" __global__ void __launch_bounds__(SORTERS) place(const long long* ids, const int2* from, int N, int V,
                                                            int pass, int per, const int* total, int2* to) {
    __shared__ int all[DIGITS], ahead[DIGITS], of_warp[DIGITS / 32];
    int *counts = (int*)dynamic_shared(), lane = threadIdx.x % 32, warp = threadIdx.x / 32, sum = 0, before = 0;
    count_digits(ids, from, N, V, pass, per, counts);
#pragma unroll
    for (int k = 0; k < STRETCHES / 4; k++) {               // four lanes for each digit
        int block = threadIdx.x % 4 + 4 * k, n = block < gridDim.x ? total[threadIdx.x / 4 * gridDim.x + block] : 0;
        sum += n, before += block < blockIdx.x ? n : 0;
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
        int2 e = n < N ? entry(ids, from, V, pass, n) : int2{};
        int digit = n < N ? digit_of(e, pass) : DIGITS;
        unsigned equals = lanes_like_this(digit, 9), earlier = equals & (1u << lane) - 1;
        int* at = counts + warp * DIGITS + digit;
        if (digit < DIGITS) to[*at + __popc(earlier)] = e;
        __syncwarp();
        if (digit < DIGITS && !earlier) *at += __popc(equals);
        __syncwarp();
    }
}

// A block's share of sums(), in the columns from i on: its entries from start to end, of which near[1] is the first.
template<bool WHOLE> __device__ __forceinline__ void sum_runs(const int2* near, int start, int end, const T* dy, int C,
                                                              int i, float beta, float* dw, float* parts) {
    float s[PACK] = {}, v[PACK];
    for (int first = start, begin = start; first < end; first += AHEAD) {
        uint4 raw[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++)
            if (first + k < end) raw[k] = load_pack<WHOLE>(dy + (long long)near[first + k + 1].y * C + i, C - i);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            int done = first + k + 1, id = near[done].x;
            if (done > end) break;
            unpack<T>(raw[k], v);
            for (int j = 0; j < PACK; j++) s[j] += v[j];                                 // [EM2]
            if (done < end && near[done + 1].x == id) continue;
            bool whole = near[begin].x != id && near[done + 1].x != id;
            float* to = whole ? dw + (long long)id * C + i : parts + (2LL * blockIdx.x + (begin > 0)) * C + i;
            load(v, to, whole && beta != 0.0f ? C - i : 0);
            for (int j = 0; j < PACK; j++) v[j] += s[j], s[j] = 0.0f;
            store(to, v, C - i);
            begin = done;
        }
    }
}

// Those of LOOKED_AT rows of dw (V, C), from first on, whose numbers are no ids: 0. A warp looks for them.
__device__ __forceinline__ void clear(const int2* order, int N, int V, int C, int first, float* dw) {
    __shared__ int absent[LOOKED_AT];
    int v = first + threadIdx.x, low = 0, high = N;
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

// A block takes the CHUNK rows of dy that are next in the order of ids. A run of equal ids that lies in it, or begins
// there and ends in the next chunk, is added to beta dw, by this block alone. What it has of longer ones is left in
// parts (chunks, 2, C), at 0 if they are the first of the chunk, else at 1. beta: 0 or 1. Blocks behind the chunks
// clear().
extern "C" __global__ void __launch_bounds__(256, 4) sums(const int2* order, const T* dy, int N, int V, int C,
                                                          float beta, float* dw, float* parts) {
    __shared__ int2 entries[3 * CHUNK + 2];                 // of the chunk before, this one and the next, and one more
    int first = blockIdx.x * CHUNK, chunks = (N + CHUNK - 1) / CHUNK, lane = threadIdx.x % 32;
    if (blockIdx.x >= chunks) {
        clear(order, N, V, C, (blockIdx.x - chunks) * LOOKED_AT, dw);
        return;
    }
    for (int k = threadIdx.x; k < 3 * CHUNK + 2; k += blockDim.x) {
        int n = first - CHUNK - 1 + k;
        entries[k] = n >= 0 && n < N ? order[n] : int2{-1, 0};
    }
    __syncthreads();
    const int2* near = entries + CHUNK;
    int before = near[0].x, last = near[CHUNK].x;
    int start = __popc(__ballot_sync(~0u, near[1 + lane].x == before));
    int further = __popc(__ballot_sync(~0u, near[1 + CHUNK + lane].x == last));
    if (entries[0].x == before || start == CHUNK && near[CHUNK + 1].x == before) start = 0;     // not only two chunks'
    if (before == last || near[2 * CHUNK + 1].x == last) further = 0;
    int end = min(CHUNK, N - first) + further;
    bool whole = C % PACK == 0 && (size_t)dy % 16 == 0;
    for (PACKS(i, C))
        if (whole) sum_runs<true>(near, start, end, dy, C, i, beta, dw, parts);
        else sum_runs<false>(near, start, end, dy, C, i, beta, dw, parts);
}

// A block looks at as many chunks as a warp has lanes. Of every run that begins in one of them and goes beyond the next
// it adds up what sums() has left, in the columns that gridDim.y leaves to it.
extern "C" __global__ void join(const int2* order, int N, int C, float beta, const float* parts, float* dw) {
    int i = blockIdx.y * blockDim.x + threadIdx.x, chunk = blockIdx.x * 32 + threadIdx.x % 32;
    bool found = false;
    if ((long long)(chunk + 2) * CHUNK < N) {
        const int2* from = order + chunk * CHUNK;
        int id = from[CHUNK].x;
        found = from[CHUNK - 1].x == id && from[2 * CHUNK].x == id && !(chunk > 0 && from[-1].x == id);
    }
    for (unsigned left = __ballot_sync(~0u, found); left; left &= left - 1) {
        chunk = blockIdx.x * 32 + __ffs(left) - 1;
        int behind = (chunk + 1) * CHUNK, id = order[behind].x, further = 0, met;   // chunks that begin with the id
        for (long long n = behind + (long long)threadIdx.x * CHUNK; ; n += (long long)blockDim.x * CHUNK) {
            met = block_sum(n < N && order[n].x == id ? 1 : 0);
            further += met;
            if (met < blockDim.x) break;
        }
        if (i >= C) continue;
        const float* part = parts + 2LL * chunk * C + i;
        float *to = dw + (long long)id * C + i, s = beta == 0.0f ? 0.0f : *to;
        s += part[order[behind - CHUNK].x != id ? C : 0];
#pragma unroll 16
        for (int k = 1; k <= further; k++) s += part[2LL * k * C];                       // [EM2]
        *to = s;
    }
}
