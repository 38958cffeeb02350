// embedding on a GPU. Formula, names and [EM] numbers: embedding.py.
//
// Backward adds up rows of dy with equal ids: sort() brings them together, sums() takes CHUNK at a time, join() adds
// what a chunk's end has cut. A frequent token has thousands of rows, so no block is left with all of them; and as each
// sum is taken in the order of the rows, its bits are the same every time.
#include "common.cuh"

constexpr int CHUNK = 32;
constexpr int AHEAD = 4;                                    // ids that a lane asks for before it looks at the first

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

// The numbers of ids (N,) in the order of ids, equal ones in their own: a radix sort by 8 bits in each pass, the last
// of which writes rows[(passes - 1) % 2], of rows (2, N). One block: a warp has a stretch of the ids, counts how often
// each digit comes in it, and when it is known how many come before those, puts each where it belongs.
extern "C" __global__ void __launch_bounds__(1024) sort(const long long* ids, int N, int passes, int* rows) {
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int *counts = (int*)dynamic_shared(), *totals = counts + 256 * warps;                // (256, warps), (warps,)
    int per = (N + 32 * warps - 1) / (32 * warps) * 32, begin = warp * per, end = min(N, begin + per);
    for (int pass = 0; pass < passes; pass++) {
        int *to = rows + pass % 2 * N, *from = rows + (pass + 1) % 2 * N;
        for (int k = 0; k < 8; k++) counts[threadIdx.x * 8 + k] = 0;
        for (int placing = 0; placing < 2; placing++) {
            __syncthreads();
            for (int i = begin + lane; i - lane < end; i += 32 * AHEAD) {
                int row[AHEAD], digit[AHEAD];
#pragma unroll
                for (int k = 0; k < AHEAD; k++) {
                    int n = i + 32 * k;
                    row[k] = n >= end ? 0 : pass ? from[n] : n;
                    digit[k] = n >= end ? 256 : int(ids[row[k]] >> 8 * pass & 255);
                }
#pragma unroll
                for (int k = 0; k < AHEAD; k++) {
                    unsigned equals = lanes_like_this(digit[k], 9), before = equals & (1u << lane) - 1;
                    int* count = counts + digit[k] * warps + warp;
                    if (placing && digit[k] < 256) to[*count + __popc(before)] = row[k];
                    __syncwarp();
                    if (digit[k] < 256 && !before) *count += __popc(equals);
                    __syncwarp();
                }
            }
            __syncthreads();
            if (placing) break;
            int sum = 0;                                    // each count becomes the sum of those before it
            for (int k = 0; k < 8; k++) sum += counts[threadIdx.x * 8 + k];
            int until = sum;
            for (int k = 1; k < 32; k *= 2) {
                int other = __shfl_up_sync(~0u, until, k);
                if (lane >= k) until += other;
            }
            if (lane == 31) totals[warp] = until;
            __syncthreads();
            int before = until - sum;
            for (int k = 0; k < warp; k++) before += totals[k];
            for (int k = 0; k < 8; k++) {
                int own = counts[threadIdx.x * 8 + k];
                counts[threadIdx.x * 8 + k] = before;
                before += own;
            }
        }
    }
}

// A block takes the CHUNK rows of dy that are next in order. Equal ids that all lie in it are added into dw; those that
// go on before or behind it are left in parts (chunks, 2, C), at 0 if they are the first of the chunk, else at 1.
extern "C" __global__ void sums(const long long* ids, const int* rows, const T* dy, int N, int C, float* dw,
                                float* parts) {
    __shared__ long long near[CHUNK + 2];                   // the ids of the chunk, with those before and behind
    __shared__ int row[CHUNK];
    int first = blockIdx.x * CHUNK, many = min(CHUNK, N - first);
    if (threadIdx.x < CHUNK + 2) {
        int n = first - 1 + threadIdx.x;
        near[threadIdx.x] = n >= 0 && n < N ? ids[rows[n]] : -1;
        if (n >= first && n < first + many) row[n - first] = rows[n];
    }
    __syncthreads();
    for (PACKS(i, C)) {
        for (int begin = 0, end; begin < many; begin = end) {
            long long id = near[begin + 1];
            float s[PACK] = {}, v[PACK];
            for (end = begin; end < many && near[end + 1] == id; end++) {
                load(v, dy + (long long)row[end] * C + i, C - i);
                for (int k = 0; k < PACK; k++) s[k] += v[k];                             // [EM2]
            }
            bool whole = near[begin] != id && near[end + 1] != id;
            float* to = whole ? dw + id * C + i : parts + (2LL * blockIdx.x + (begin > 0)) * C + i;
            load(v, to, whole ? C - i : 0);
            for (int k = 0; k < PACK; k++) s[k] += v[k];
            store(to, s, C - i);
        }
    }
}

// The block of the chunk in which equal ids begin that do not end there adds up what sums() has left of them.
extern "C" __global__ void join(const long long* ids, const int* rows, int N, int C, const float* parts, float* dw) {
    int first = blockIdx.x * CHUNK, behind = first + CHUNK;
    if (behind >= N) return;
    long long id = ids[rows[behind]];
    if (ids[rows[behind - 1]] != id || first > 0 && ids[rows[first - 1]] == id) return;
    int further = 0, met = 1;                               // chunks behind this one that begin with the id
    for (long long n = behind; met; n += (long long)blockDim.x * CHUNK) {
        long long other = n + (long long)threadIdx.x * CHUNK;
        met = block_sum(other < N && ids[rows[other]] == id ? 1 : 0);
        further += met;
    }
    parts += (2LL * blockIdx.x + (ids[rows[first]] != id)) * C;
    const float* next = parts + (ids[rows[first]] != id ? C : 2LL * C);
    dw += id * C;
    for (int i = threadIdx.x; i < C; i += blockDim.x) {
        float s = parts[i];
#pragma unroll 8
        for (int k = 0; k < further; k++) s += next[2LL * k * C + i];                    // [EM2]
        dw[i] += s;
    }
}
