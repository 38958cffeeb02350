// What kernels need of a GPU beyond plain CUDA C++: its headers, and PTX instructions under plain names.
// The emulator has a file of the same name, where each of them is written out in C++.
#include <cuda_fp16.h>
#include <cuda_bf16.h>

#ifdef __CUDACC_RTC__                                       // NVRTC comes without <stdint.h> and <math.h>
#define INFINITY __int_as_float(0x7f800000)
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
#else
#include <stdint.h>
#endif

__device__ __forceinline__ void* dynamic_shared() {
    extern __shared__ uint4 bytes[];
    return bytes;
}

// 16 bytes at once.
__device__ __forceinline__ uint4 load16(const void* p) { return *(const uint4*)p; }
__device__ __forceinline__ void store16(void* p, uint4 v) { *(uint4*)p = v; }

// 16 bytes, or 4, from global to shared memory, without waiting for them. Zeros if they are not there.
__device__ __forceinline__ void copy16_async(void* shared, const void* global, bool there = true) {
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 ::"r"(to), "l"(global), "r"(there ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy4_async(void* shared, const void* global, bool there = true) {
    uint32_t to = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
                 ::"r"(to), "l"(global), "r"(there ? 4 : 0) : "memory");
}
__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template<int LEFT> __device__ __forceinline__ void wait_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Ask for the 128 bytes around an address to be brought near, into the second level of the cache.
__device__ __forceinline__ void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Numbers that blocks of one launch tell each other, if all of them run at once. A word is told whole, and carries
// nothing along, so neither side needs a fence, a count, or a barrier of all blocks: who wants a number looks for it
// until NOTHING, which has to be there before, is gone. Arithmetic makes no such NaN.
constexpr uint32_t NOTHING = ~0u;
__device__ __forceinline__ void put(float* to, uint32_t word) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(word) : "memory");
}
__device__ __forceinline__ float look(float* from) {
    float v;
    asm volatile("ld.relaxed.gpu.global.f32 %0, [%1];" : "=f"(v) : "l"(from));
    return v;
}
__device__ __forceinline__ float4 look4(float* from) {
    float4 v;
    asm volatile("ld.relaxed.gpu.global.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w) : "l"(from));
    return v;
}
__device__ __forceinline__ void let_others() {}             // between two looks

// Four 8 x 8 matrices of 16-bit entries; lane i points at row i % 8 of matrix i / 8.
template<bool TRANSPOSED> __device__ __forceinline__ void load_matrices(uint32_t (&r)[4], const void* row) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(at) : "memory");
}

// d (16, 8) += a (16, 16) b (16, 8), entries of type E, sums in float.
template<class E> __device__ __forceinline__ void multiply_tiles(float (&d)[4], const uint32_t (&a)[4],
                                                                 const uint32_t (&b)[2]);
#define MULTIPLY_TILES(E, NAME) \
    template<> __device__ __forceinline__ void multiply_tiles<E>(float (&d)[4], const uint32_t (&a)[4], \
                                                                 const uint32_t (&b)[2]) { \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME ".f32 " \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1])); \
    }
MULTIPLY_TILES(__half, "f16")
MULTIPLY_TILES(__nv_bfloat16, "bf16")
#undef MULTIPLY_TILES

// Two entries in a register, the first in its lower half: put there, taken out, and the larger of each two (a NaN only
// where both are).
template<class E> __device__ __forceinline__ uint32_t pair_of(float low, float high) {
    E pair[2] = {E(low), E(high)};
    return *(const uint32_t*)pair;
}
template<class E> __device__ __forceinline__ float2 floats_of(uint32_t pair) {
    const E* e = (const E*)&pair;
    return make_float2(float(e[0]), float(e[1]));
}
template<class E> __device__ __forceinline__ uint32_t larger_of(uint32_t a, uint32_t b);
#define PAIRS(E, NAME) \
    template<> __device__ __forceinline__ uint32_t pair_of<E>(float low, float high) { \
        uint32_t pair; \
        asm("cvt.rn." NAME ".f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low)); \
        return pair; \
    } \
    template<> __device__ __forceinline__ uint32_t larger_of<E>(uint32_t a, uint32_t b) { \
        uint32_t larger; \
        asm("max." NAME " %0, %1, %2;" : "=r"(larger) : "r"(a), "r"(b)); \
        return larger; \
    }
PAIRS(__half, "f16x2")
PAIRS(__nv_bfloat16, "bf16x2")
#undef PAIRS
template<> __device__ __forceinline__ float2 floats_of<__half>(uint32_t pair) {
    return __half22float2(*(const __half2*)&pair);
}
template<> __device__ __forceinline__ float2 floats_of<__nv_bfloat16>(uint32_t pair) {    // one instruction each
    return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}
