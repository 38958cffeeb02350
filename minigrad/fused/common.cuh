// Shared by the kernels in this folder: entries in packs of 16 bytes, and sums over a block.
#include "device.cuh"

typedef REAL T;                        // how entries are stored: kernels.cuda() says float, __half or __nv_bfloat16
constexpr int PACK = 16 / sizeof(T);

// v[k] = p[k] for k < n, 0 beyond: 16 bytes at once where they are aligned and there.
template<int N, class E> __device__ __forceinline__ void load(float (&v)[N], const E* p, long long n) {
    if (n >= N && (size_t)p % 16 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 16 / sizeof(E)) {
            uint4 raw = load16(p + k);
            const E* e = (const E*)&raw;
#pragma unroll
            for (int j = 0; j < 16 / (int)sizeof(E); j++) v[k + j] = float(e[j]);
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = k < n ? float(p[k]) : 0.0f;
    }
}

// p[k] = v[k] for k < n.
template<int N, class E> __device__ __forceinline__ void store(E* p, const float (&v)[N], long long n) {
    if (n >= N && (size_t)p % 16 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 16 / sizeof(E)) {
            uint4 raw;
            E* e = (E*)&raw;
#pragma unroll
            for (int j = 0; j < 16 / (int)sizeof(E); j++) e[j] = E(v[k + j]);
            store16(p + k, raw);
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) if (k < n) p[k] = E(v[k]);
    }
}

struct Sum { template<class V> __device__ V operator()(V a, V b) const { return a + b; } };
struct Max { template<class V> __device__ V operator()(V a, V b) const { return a > b ? a : b; } };     // passes NaN by

// 32 numbers for block_reduce. In a template the emulator could not watch them: g++ would forget that they are shared.
__device__ __forceinline__ void* shared_parts() {
    __shared__ double parts[32];
    return parts;
}

// v of all 32 lanes together, for every lane, in an order that never changes.
template<class V, class F> __device__ __forceinline__ V warp_reduce(V v, F combine) {
    for (int k = 16; k; k /= 2) v = combine(v, __shfl_xor_sync(~0u, v, k));
    return v;
}
template<class V> __device__ __forceinline__ V warp_sum(V v) { return warp_reduce(v, Sum()); }

// The same of all threads of a block. blockDim.x is a multiple of 32.
template<class V, class F> __device__ __forceinline__ V block_reduce(V v, F combine) {
    V* parts = (V*)shared_parts();
    v = warp_reduce(v, combine);
    __syncthreads();                                        // an earlier call may still be reading
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    v = parts[0];
    for (int i = 1; i < blockDim.x / 32; i++) v = combine(v, parts[i]);
    return v;
}
template<class V> __device__ __forceinline__ V block_sum(V v) { return block_reduce(v, Sum()); }
template<class V> __device__ __forceinline__ V block_max(V v) { return block_reduce(v, Max()); }

// The packs of a row of D entries that are this thread's: for (PACKS(i, D)) ...
#define PACKS(i, D) int i = threadIdx.x * PACK; i < (D); i += blockDim.x * PACK
// The first entry of this thread's pack in a flat array.
__device__ __forceinline__ long long flat_start() { return ((long long)blockIdx.x * blockDim.x + threadIdx.x) * PACK; }
