// What Hopper (sm_90a) has beyond device.cuh: barriers that count bytes, bulk copies of boxes (TMA), products of a
// warpgroup (wgmma). The emulator has a file of the same name. A file that includes this one is compiled for sm_90a
// alone.
//
// Tiles. A row of a tile is 64 entries of 16 bits, 128 bytes; its 16-byte pieces lie exchanged by the row's number
// modulo 8 (the 128-byte swizzle), so that neither rows nor columns meet in one bank. Copies and products agree on
// that where a tile starts at a multiple of 1024 bytes. What is wider than 64 entries is several tiles.

struct alignas(64) TensorMap { uint64_t opaque[16]; };      // CUtensorMap, which hopper_gpu.tensor_map() makes
typedef uint64_t Barrier;                                   // mbarrier, in shared memory

__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// Dynamic shared memory, from a multiple of 1024 on.
__device__ __forceinline__ void* aligned_shared() {
    extern __shared__ __align__(1024) unsigned char tiles[];
    return tiles;
}

// A barrier's phase ends when so many have arrived, and all bytes that they expect have landed.
__device__ __forceinline__ void barrier_init(Barrier* b, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(Barrier* b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// Arrives, too.
__device__ __forceinline__ void barrier_expect(Barrier* b, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
                 : "memory");
}
// Until the phase of this parity is over: 0 for the first, the third, ...; 1 is over before the first.
__device__ __forceinline__ void barrier_wait(Barrier* b, int parity) {
    asm volatile("{\n"
                 ".reg .pred over;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;\n"
                 "@!over bra again;\n"
                 "}" ::"r"(shared_address(b)), "r"(parity) : "memory");
}

// What this thread wrote to shared memory until now, barriers too, is seen by copies and products.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Named barriers, 1 to 15: all of `count` threads have come; those that only arrive do not wait.
__device__ __forceinline__ void group_sync(int id, int count) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(count) : "memory");
}
__device__ __forceinline__ void group_arrive(int id, int count) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(count) : "memory");
}

// The map's box at these coordinates, innermost first, to shared memory: 0 where it lies outside. Lands on the barrier.
#define LOAD_BOX "cp.async.bulk.tensor."
#define LANDS ".shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, "
__device__ __forceinline__ void load_box(void* to, const TensorMap& map, Barrier* b, int x, int y) {
    asm volatile(LOAD_BOX "2d" LANDS "{%3, %4}], [%2];"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void load_box(void* to, const TensorMap& map, Barrier* b, int x, int y, int z) {
    asm volatile(LOAD_BOX "3d" LANDS "{%3, %4, %5}], [%2];"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z) : "memory");
}
__device__ __forceinline__ void load_box(void* to, const TensorMap& map, Barrier* b, int x, int y, int z, int n) {
    asm volatile(LOAD_BOX "4d" LANDS "{%3, %4, %5, %6}], [%2];"
                 ::"r"(shared_address(to)), "l"(&map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z), "r"(n)
                 : "memory");
}
#undef LOAD_BOX
#undef LANDS

// A tile as wgmma wants it named: from p on, 8 rows every 1024 bytes. Sixteen entries further along a row: 32 bytes
// further. across: bytes from one tile to the next, for what lies transposed and is wider than 64.
__device__ __forceinline__ uint64_t tile_at(const void* p, int across) {
    uint64_t start = (shared_address(p) & 0x3ffff) >> 4, leading = across >> 4, stride = 1024 >> 4, swizzle_128b = 1;
    return start | leading << 16 | stride << 32 | swizzle_128b << 62;
}

// The tile that begins so many bytes further.
__device__ __forceinline__ uint64_t beyond(uint64_t tile, int bytes) {
    return tile >> 32 << 32 | (uint32_t)((uint32_t)tile + (bytes >> 4));                // no carry: 32 bits are enough
}

// The compiler does not know that wgmma works on registers until it is waited for. What is held here is computed before
// what follows, and read after what came before.
template<int N> __device__ __forceinline__ void hold(float (&r)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(r[i])::"memory");
}
template<int N, int M> __device__ __forceinline__ void hold(uint32_t (&r)[N][M]) {
#pragma unroll
    for (int i = 0; i < N * M; i++) asm volatile("" : "+r"(r[i / M][i % M])::"memory");
}

// Before the first wgmma on registers that have been touched.
template<class... R> __device__ __forceinline__ void wgmma_fence(R&... registers) {
    (hold(registers), ...);
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until all but the last LEFT groups that were committed are done; the registers that they worked on.
template<int LEFT, class... R> __device__ __forceinline__ void wgmma_wait(R&... registers) {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
    (hold(registers), ...);
}

// d (64, 2 HALF) = a (64, 16) b (16, 2 HALF), + d if `add`, by the four warps of a warpgroup. Of a warp's 16 rows, a
// thread has what mma.sync gives it: with g = lane / 4 and t = lane % 4, d[4 n] and d[4 n + 1] are columns 8 n + 2 t
// and the next of row g, d[4 n + 2] and d[4 n + 3] of row g + 8; a in registers is as there, too. b's columns are
// rows of its tile, or TRANSPOSED its rows are.
template<class E, bool TRANSPOSED, int HALF>
__device__ __forceinline__ void wgmma(float (&d)[HALF], uint64_t a, uint64_t b, bool add);
template<class E, bool TRANSPOSED, int HALF>
__device__ __forceinline__ void wgmma(float (&d)[HALF], const uint32_t (&a)[4], uint64_t b, bool add);

#define R8(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
              "+f"(d[i + 6]), "+f"(d[i + 7])
#define R32 R8(0), R8(8), R8(16), R8(24)
#define R64 R32, R8(32), R8(40), R8(48), R8(56)
#define D32 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define D64 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
            "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
            "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
            "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA(E, NAME, TRANSPOSED, HALF, COLUMNS, I, J, K, L, M, N) \
    template<> __device__ __forceinline__ void wgmma<E, TRANSPOSED, HALF>(float (&d)[HALF], uint64_t a, uint64_t b, \
                                                                         bool add) { \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #K ", 0;\n" \
                     "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." NAME "." NAME " {" D##HALF "}, " \
                     "%" #I ", %" #J ", add, 1, 1, 0, " #TRANSPOSED ";\n}" : R##HALF : "l"(a), "l"(b), "r"((int)add)); \
    } \
    template<> __device__ __forceinline__ void wgmma<E, TRANSPOSED, HALF>( \
        float (&d)[HALF], const uint32_t (&a)[4], uint64_t b, bool add) { \
        asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %" #N ", 0;\n" \
                     "wgmma.mma_async.sync.aligned.m64n" #COLUMNS "k16.f32." NAME "." NAME " {" D##HALF "}, " \
                     "{%" #I ", %" #J ", %" #K ", %" #L "}, %" #M ", add, 1, 1, " #TRANSPOSED ";\n}" : R##HALF \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add)); \
    }
#define WGMMA_OF(E, NAME, TRANSPOSED) \
    WGMMA(E, NAME, TRANSPOSED, 32, 64, 32, 33, 34, 35, 36, 37) \
    WGMMA(E, NAME, TRANSPOSED, 64, 128, 64, 65, 66, 67, 68, 69)
WGMMA_OF(__half, "f16", 0)
WGMMA_OF(__half, "f16", 1)
WGMMA_OF(__nv_bfloat16, "bf16", 0)
WGMMA_OF(__nv_bfloat16, "bf16", 1)
#undef R8
#undef R32
#undef R64
#undef D32
#undef D64
#undef WGMMA
#undef WGMMA_OF

// The registers of each thread of this warpgroup, from what the kernel was compiled for to N.
template<int N> __device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template<int N> __device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
