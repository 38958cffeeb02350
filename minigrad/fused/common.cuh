// Shared by the kernels in this folder: entries in packs of 16 bytes, and sums over a block.
#include "device.cuh"

typedef REAL T;                        // how entries are stored: kernels.cuda() says float, __half or __nv_bfloat16
constexpr int PACK = 16 / sizeof(T);
constexpr float LOG2_E = 1.4426950408889634f;              // powers of two are cheapest: e^x = 2^(x log2 e)

// The entries of a pack, and a pack of these entries.
template<class E> __device__ __forceinline__ void unpack(uint4 raw, float* v) {
    const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if constexpr (sizeof(E) == 4) {
            v[j] = __uint_as_float(words[j]);
        } else {
            float2 two = floats_of<E>(words[j]);
            v[2 * j] = two.x, v[2 * j + 1] = two.y;
        }
    }
}
template<class E> __device__ __forceinline__ uint4 packed(const float* v) {
    uint32_t words[4];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        if constexpr (sizeof(E) == 4) words[j] = __float_as_uint(v[j]);
        else words[j] = pair_of<E>(v[2 * j], v[2 * j + 1]);
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

// v[k] = p[k] for k < n, 0 beyond: 16 bytes at once where they are aligned and there.
template<int N, class E> __device__ __forceinline__ void load(float (&v)[N], const E* p, long long n) {
    if (n >= N && (size_t)p % 16 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 16 / sizeof(E)) unpack<E>(load16(p + k), v + k);
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) v[k] = k < n ? float(p[k]) : 0.0f;
    }
}

// The same of two arrays, of which neither waits for the other.
template<int N, class E> __device__ __forceinline__ void load(float (&v)[N], const E* p, float (&w)[N], const E* q,
                                                              long long n) {
    if (n >= N && ((size_t)p | (size_t)q) % 16 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 16 / sizeof(E)) {
            uint4 first = load16(p + k), second = load16(q + k);
            unpack<E>(first, v + k), unpack<E>(second, w + k);
        }
    } else {
        load(v, p, n);
        load(w, q, n);
    }
}

// p[k] = v[k] for k < n.
template<int N, class E> __device__ __forceinline__ void store(E* p, const float (&v)[N], long long n) {
    if (n >= N && (size_t)p % 16 == 0) {
#pragma unroll
        for (int k = 0; k < N; k += 16 / sizeof(E)) store16(p + k, packed<E>(v + k));
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) if (k < n) p[k] = E(v[k]);
    }
}

// The pack at p, of which n entries are there, zeros beyond. WHOLE: all are, at a boundary of 16 bytes; it is one load
// then, without a question, and several of them can be under way before the first is waited for.
template<bool WHOLE> __device__ __forceinline__ uint4 load_pack(const T* p, long long n) {
    if constexpr (WHOLE) {
        return load16(p);
    } else {
        float v[PACK];
        load(v, p, n);
        return packed<T>(v);
    }
}

// The larger of each two entries of a register, and the largest of one; NaN only if there is nothing else.
template<class E> __device__ __forceinline__ uint32_t larger(uint32_t a, uint32_t b) {
    if constexpr (sizeof(E) == 4) return __float_as_uint(fmaxf(__uint_as_float(a), __uint_as_float(b)));
    else return larger_of<E>(a, b);
}
template<class E> __device__ __forceinline__ uint32_t larger(uint32_t a, uint4 pack) {
    return larger<E>(larger<E>(larger<E>(a, pack.x), larger<E>(pack.y, pack.z)), pack.w);
}
template<class E> __device__ __forceinline__ uint32_t everywhere(float v) {
    if constexpr (sizeof(E) == 4) return __float_as_uint(v);
    else return pair_of<E>(v, v);
}
template<class E> __device__ __forceinline__ float largest(uint32_t word) {
    if constexpr (sizeof(E) == 4) return __uint_as_float(word);
    else return fmaxf(floats_of<E>(word).x, floats_of<E>(word).y);
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
