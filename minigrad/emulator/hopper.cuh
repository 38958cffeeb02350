// What fused/hopper.cuh gives kernels on a GPU by PTX instructions, here in C++: the same names with the same meaning.
// hopper.h says what each does.

typedef uint64_t Barrier;

inline void* aligned_shared() { return cuemu::dynamic_shared(); }

inline void barrier_init(Barrier* b, int arrivals) { cuemu::mbarrier_init(b, arrivals); }
inline void barrier_arrive(Barrier* b) { cuemu::mbarrier_arrive(b, 0); }
inline void barrier_expect(Barrier* b, int bytes) { cuemu::mbarrier_arrive(b, bytes); }
inline void barrier_wait(Barrier* b, int parity) { cuemu::mbarrier_wait(b, parity); }
inline void fence_async() { cuemu::fence_proxy(); }

inline void group_sync(int id, int count) { cuemu::named_barrier(id, count, true); }
inline void group_arrive(int id, int count) { cuemu::named_barrier(id, count, false); }

template<class... I> void load_box(void* to, const TensorMap& map, Barrier* b, I... at) {
    const int all[] = {at...};
    cuemu::load_box(to, map, all, sizeof...(at), b);
}

inline uint64_t tile_at(const void* p, int across) {
    uint64_t start = uint64_t((const char*)p - (const char*)cuemu::dynamic_shared());
    if (start % 16) cuemu::fault("a tile at byte %llu, no multiple of 16", (unsigned long long)start);
    return (start & 0x3ffff) >> 4 | uint64_t(across >> 4) << 16 | uint64_t(1024 >> 4) << 32 | uint64_t(1) << 62;
}

inline uint64_t beyond(uint64_t tile, int bytes) { return tile + (bytes >> 4); }

template<class... R> void wgmma_fence(R&...) { cuemu::wgmma_fence(); }
inline void wgmma_commit() { cuemu::wgmma_commit(); }
template<int LEFT, class... R> void wgmma_wait(R&...) { cuemu::wgmma_wait(LEFT); }

template<class E, bool TRANSPOSED, int HALF> void wgmma(float (&d)[HALF], uint64_t a, uint64_t b, bool add) {
    cuemu::wgmma(d, 2 * HALF, std::is_same_v<E, __nv_bfloat16>, nullptr, a, b, TRANSPOSED, add);
}
template<class E, bool TRANSPOSED, int HALF>
void wgmma(float (&d)[HALF], const uint32_t (&a)[4], uint64_t b, bool add) {
    cuemu::wgmma(d, 2 * HALF, std::is_same_v<E, __nv_bfloat16>, a, 0, b, TRANSPOSED, add);
}

template<int N> void more_registers() {
    static_assert(N % 8 == 0 && N >= 24 && N <= 256, "setmaxnreg");
    cuemu::set_registers(N);
}
template<int N> void fewer_registers() { more_registers<N>(); }
