// What fused/device.cuh gives kernels on a GPU by PTX instructions, here in C++: the same names with the same meaning.

inline void* dynamic_shared() { return cuemu::dynamic_shared(); }

// 16 bytes at once.
inline uint4 load16(const void* p) { return *(const uint4*)p; }
inline void store16(void* p, uint4 v) { *(uint4*)p = v; }

// cp.async: it lands at the wait, or already here, as the mode has it. Zeros if there is nothing to copy.
inline void copy_or_clear(void* shared, const void* global, bool there, int bytes) {
    static const uint4 zeros = {};
    cuemu::copy_async(shared, there ? global : &zeros, bytes);
}
inline void copy16_async(void* shared, const void* global, bool there = true) {
    copy_or_clear(shared, global, there, 16);
}
inline void copy4_async(void* shared, const void* global, bool there = true) {
    copy_or_clear(shared, global, there, 4);
}
inline void commit_copies() { cuemu::commit_copies(); }
template<int LEFT> void wait_copies() { cuemu::wait_copies(LEFT); }

// Numbers that one block tells another: whole words, which carry nothing along. NOTHING is there before.
constexpr uint32_t NOTHING = ~0u;
CUEMU_SILENT inline void put(float* to, uint32_t word) {
    cuemu::touch(to, 4, cuemu::ATOMIC);
    uint32_t before;
    memcpy(&before, to, 4);
    if (before != NOTHING && word != NOTHING) cuemu::fault("tells a word where there is one, which others may want");
    memcpy(to, &word, 4);
    cuemu::told();
}
CUEMU_SILENT inline float look(float* from) {
    cuemu::touch(from, 4, cuemu::ATOMIC);
    float v;
    memcpy(&v, from, 4);
    return v;
}
CUEMU_SILENT inline float4 look4(float* from) {
    cuemu::touch(from, 16, cuemu::ATOMIC);
    float4 v;
    memcpy(&v, from, 16);
    return v;
}
inline void let_others() { cuemu::let_others(); }
inline void prefetch(const void*) {}

// ldmatrix: lane i points at row i % 8 of matrix i / 8. Of each matrix, lane l gets entries 2 (l % 4) and the next of
// row l / 4; transposed, of column l / 4.
template<bool TRANSPOSED> CUEMU_SILENT void load_matrices(uint32_t (&r)[4], const void* row) {
    cuemu::touch(row, 16, cuemu::READ);
    auto rows = cuemu::meet(~0u, "ldmatrix", &row, 2);
    int l = cuemu::lane();
    auto entry = [&](int matrix, int i, int j) CUEMU_SILENT {
        const uint16_t* p;
        memcpy(&p, rows[matrix * 8 + (TRANSPOSED ? j : i)], sizeof p);
        return uint32_t(p[TRANSPOSED ? i : j]);
    };
    for (int m = 0; m < 4; m++) r[m] = entry(m, l / 4, l % 4 * 2) | entry(m, l / 4, l % 4 * 2 + 1) << 16;
}

// mma.sync m16n8k16: d (16, 8) += a (16, 16) b (16, 8). With g = lane / 4 and t = lane % 4, a lane holds
// a: rows g, g + 8 of columns 2t, 2t + 1, then of columns 2t + 8, 2t + 9;  b: rows 2t, 2t + 1, then 2t + 8, 2t + 9 of
// column g;  d: columns 2t, 2t + 1 of row g, then of row g + 8.
template<class E> CUEMU_SILENT void multiply_tiles(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    float mine[12];
    for (int i = 0; i < 6; i++)
        for (int half = 0; half < 2; half++) {
            uint16_t bits = uint16_t((i < 4 ? a[i] : b[i - 4]) >> 16 * half);
            E e;
            memcpy(&e, &bits, 2);
            mine[2 * i + half] = float(e);
        }
    auto all = (const float (*)[12])cuemu::meet(~0u, "mma.sync", mine, 12);
    int g = cuemu::lane() / 4, t = cuemu::lane() % 4;
    for (int owner = 0; owner < 4; owner++) {
        const float *row = all[g * 4 + owner], *left = all[8 * t + owner] + 8, *right = all[8 * t + 4 + owner] + 8;
        for (int high = 0; high < 2; high++)
            for (int odd = 0; odd < 2; odd++) {              // k = 8 high + 2 owner + odd
                float top = row[4 * high + odd], bottom = row[4 * high + 2 + odd];
                d[0] += top * left[2 * high + odd], d[1] += top * right[2 * high + odd];
                d[2] += bottom * left[2 * high + odd], d[3] += bottom * right[2 * high + odd];
            }
    }
}

// Two entries in a register, the first in its lower half: put there, taken out, and the larger of each two (a NaN only
// where both are).
template<class E> CUEMU_SILENT uint32_t pair_of(float low, float high) {
    E pair[2] = {E(low), E(high)};
    uint32_t bits;
    memcpy(&bits, pair, 4);
    return bits;
}
template<class E> CUEMU_SILENT float2 floats_of(uint32_t pair) {
    E e[2];
    memcpy(e, &pair, 4);
    return {float(e[0]), float(e[1])};
}
template<class E> uint32_t larger_of(uint32_t a, uint32_t b) {
    float2 v = floats_of<E>(a), w = floats_of<E>(b);
    return pair_of<E>(fmaxf(v.x, w.x), fmaxf(v.y, w.y));
}
