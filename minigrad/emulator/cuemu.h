// CUDA C++ for g++: what a kernel's text may use, in place of the compiler and the headers of a GPU.
//
// A kernel is compiled as plain C++ behind this header. What needs more than one thread (barriers, shuffles) goes to
// the runtime, cuemu.cpp, which runs every CUDA thread as a fiber of its own. Loads and stores are checked without any
// trace in the text: the compiler is told to announce each of them to the runtime (-fsanitize=thread).
#pragma once
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

// ------------------------------------------------------------------------------------------------ the runtime

struct dim3 { unsigned x, y, z; };

// A tensor in global memory, and the box that a bulk copy takes of it: innermost dimension first, strides and entry in
// bytes. As large as CUDA's CUtensorMap, which says the same in a form that only the hardware reads.
struct alignas(64) TensorMap {
    const char* data;
    uint64_t size[5], stride[4];
    uint32_t box[5], rank, entry;
};
static_assert(sizeof(TensorMap) == 128);

namespace cuemu {

// Where am I? Constant for a fiber, so the compiler may ask once and remember.
[[gnu::const]] dim3 thread_index();
[[gnu::const]] dim3 block_index();
[[gnu::const]] dim3 block_size();
[[gnu::const]] dim3 grid_size();
[[gnu::const]] int lane();
[[gnu::const]] void* dynamic_shared();

// Wait until every lane of the mask has called the same; give each the words of all 32. Absent lanes hold 0xff.
constexpr int WORDS = 12;
typedef uint32_t Words[WORDS];
const Words* meet(unsigned mask, const char* what, const void* mine = nullptr, int words = 0);

// Not announced by the compiler: the function reads the runtime's memory, or says itself what it touches.
#define CUEMU_SILENT __attribute__((no_sanitize("thread")))
enum Kind { READ, WRITE, ATOMIC };
void touch(const void* address, size_t bytes, Kind kind);

// In launches in which all blocks run at once: tell that others may go on, let them, until a turn later.
void told();
void let_others();

void copy_async(void* to, const void* from, int bytes);
void commit_copies();
void wait_copies(int groups_left);

// hopper.h
void mbarrier_init(void* barrier, int arrivals);
void mbarrier_arrive(void* barrier, int bytes);
void mbarrier_wait(void* barrier, int parity);
void named_barrier(int id, int count, bool waits);
void fence_proxy();
void load_box(void* to, const TensorMap& map, const int* at, unsigned rank, void* barrier);
void wgmma(float* d, int n, bool bf16, const uint32_t* a, uint64_t a_tile, uint64_t b_tile, bool transposed, bool add);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int groups_left);
void set_registers(int n);

[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

inline float from_bits(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
inline uint32_t to_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }

}  // namespace cuemu

// ------------------------------------------------------------------------------------------------ the language

#define __global__
#define __device__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#define __shared__ static __attribute__((section("cuda_shared")))       // one block runs at a time: there is one copy

#define threadIdx (cuemu::thread_index())
#define blockIdx (cuemu::block_index())
#define blockDim (cuemu::block_size())
#define gridDim (cuemu::grid_size())

void __syncthreads();
inline void __syncwarp(unsigned mask = ~0u) { cuemu::meet(mask, "__syncwarp"); }

// What a lane outside the mask would give is undefined on a GPU; here it is NaN.
namespace cuemu {
template<class T> CUEMU_SILENT T shuffle(unsigned mask, const char* what, T v, int from) {
    static_assert(sizeof(T) % 4 == 0 && sizeof(T) <= 8, "shuffles move 4 or 8 bytes");
    T got;
    memcpy(&got, meet(mask, what, &v, sizeof(T) / 4)[from], sizeof(T));
    return got;
}
inline int inside(int from, int own, int width) { return from / width == own / width ? from : own; }
}  // namespace cuemu

template<class T> T __shfl_sync(unsigned mask, T v, int from, int width = 32) {
    return cuemu::shuffle(mask, "__shfl_sync", v, (cuemu::lane() & ~(width - 1)) | (from & (width - 1)));
}
template<class T> T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32) {
    return cuemu::shuffle(mask, "__shfl_xor_sync", v, cuemu::inside(cuemu::lane() ^ with, cuemu::lane(), width));
}
template<class T> T __shfl_down_sync(unsigned mask, T v, int by, int width = 32) {
    return cuemu::shuffle(mask, "__shfl_down_sync", v, cuemu::inside(cuemu::lane() + by, cuemu::lane(), width));
}
template<class T> T __shfl_up_sync(unsigned mask, T v, int by, int width = 32) {
    int from = cuemu::lane() % width < by ? cuemu::lane() : cuemu::lane() - by;
    return cuemu::shuffle(mask, "__shfl_up_sync", v, from);
}

CUEMU_SILENT inline unsigned __ballot_sync(unsigned mask, int vote) {
    uint32_t mine = vote != 0;
    auto all = cuemu::meet(mask, "__ballot_sync", &mine, 1);
    unsigned votes = 0;
    for (int i = 0; i < 32; i++) votes |= (all[i][0] & 1) << i;
    return votes & mask;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }

namespace cuemu {
template<class T, class F> CUEMU_SILENT T atomic(T* p, F change) {       // fibers switch nowhere in here
    touch(p, sizeof(T), ATOMIC);
    T old, now;
    memcpy(&old, p, sizeof(T));
    now = change(old);
    memcpy(p, &now, sizeof(T));
    return old;
}
}  // namespace cuemu

template<class T> T atomicAdd(T* p, T v) { return cuemu::atomic(p, [&](T old) { return T(old + v); }); }
template<class T> T atomicMax(T* p, T v) { return cuemu::atomic(p, [&](T old) { return old > v ? old : v; }); }

// ------------------------------------------------------------------------------------------------ types and functions

struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// IEEE half, and bfloat16: the upper half of a float, rounded to nearest, ties to even.
struct __half {
    uint16_t u;
    __half() = default;
    explicit __half(float f) { _Float16 h = _Float16(f); memcpy(&u, &h, 2); }
    explicit operator float() const { _Float16 h; memcpy(&h, &u, 2); return float(h); }
};
struct __nv_bfloat16 {
    uint16_t u;
    __nv_bfloat16() = default;
    explicit __nv_bfloat16(float f) {
        uint32_t b = cuemu::to_bits(f);
        u = uint16_t(f == f ? (b + 0x7fff + (b >> 16 & 1)) >> 16 : 0x7fff);
    }
    explicit operator float() const { return cuemu::from_bits(uint32_t(u) << 16); }
};
typedef __half half;

inline float __uint_as_float(unsigned u) { return cuemu::from_bits(u); }
inline unsigned __float_as_uint(float f) { return cuemu::to_bits(f); }
inline float __int_as_float(int i) { return cuemu::from_bits(unsigned(i)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }

inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }
template<class A, class B> auto min(A a, B b) { using T = std::common_type_t<A, B>; return T(b) < T(a) ? T(b) : T(a); }
template<class A, class B> auto max(A a, B b) { using T = std::common_type_t<A, B>; return T(a) < T(b) ? T(b) : T(a); }

// ------------------------------------------------------------------------------------------------ launching

// The arguments of a kernel, as text: "*" for a pointer, "c" if what it points at is only read, then what it is.
namespace cuemu {
template<class T> const char* type_name() {
    using V = std::remove_cv_t<T>;
    if (std::is_same_v<V, __half>) return "f2";
    if (std::is_same_v<V, __nv_bfloat16>) return "b2";
    if (std::is_same_v<V, TensorMap>) return "map";
    if (std::is_floating_point_v<V>) return sizeof(V) == 4 ? "f4" : "f8";
    if (std::is_integral_v<V>) {
        static const char* names[2][4] = {{"u1", "u2", "u4", "u8"}, {"i1", "i2", "i4", "i8"}};
        return names[std::is_signed_v<V>][sizeof(V) == 1 ? 0 : sizeof(V) == 2 ? 1 : sizeof(V) == 4 ? 2 : 3];
    }
    return "?";
}
template<> inline const char* type_name<void>() { return "?"; }

template<class... A> const char* signature(void (*)(A...)) {
    static char text[8 * sizeof...(A) + 1];
    char* end = text;
    auto add = [&](const char* s) { while (*s) *end++ = *s++; };
    auto argument = [&](auto* tag) {
        using T = std::remove_pointer_t<decltype(tag)>;
        using P = std::remove_pointer_t<T>;
        add(std::is_pointer_v<T> ? std::is_const_v<P> ? "*c" : "*" : "");
        add(type_name<P>());
        add(" ");
    };
    (argument((A*)nullptr), ...);
    *end = 0;
    return text;
}

template<class... A, size_t... I>
CUEMU_SILENT void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*(std::remove_cv_t<A>*)arguments[I]...);
}
template<class... A> CUEMU_SILENT void call(void (*kernel)(A...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<A...>());
}
}  // namespace cuemu

#define CUEMU_EXPORT(kernel) \
    extern "C" void kernel##__run(void** arguments) { cuemu::call(kernel, arguments); } \
    extern "C" const char* kernel##__signature() { return cuemu::signature(kernel); }
