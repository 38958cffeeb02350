// dropout on a GPU. Formula, names and [DR] numbers: dropout.py.
#include "common.cuh"
#include "philox.cuh"

extern "C" __global__ void drop(const T* x, long long n, float scale, uint32_t k0, uint32_t k1, uint32_t c1,
                                uint32_t c2, const uint32_t* c3, uint32_t least, T* y) {
    long long i = flat_start();
    bool whole = n - i >= PACK && ((size_t)x | (size_t)y) % 16 == 0;
    uint4 raw = whole ? load_pack<true>(x + i, n - i) : load_pack<false>(x + i, n - i), words[PACK / 4];
#pragma unroll
    for (int k = 0; k < PACK / 4; k++) words[k] = philox<10>(uint32_t(i / 4) + k, Mask{k0, k1, c1, c2, *c3, least});
    float v[PACK];
    unpack<T>(raw, v);                                      // in one place for both: before it the mask is made
#pragma unroll
    for (int k = 0; k < PACK / 4; k++) {
        v[4 * k] = words[k].x >= least ? v[4 * k] * scale : 0.0f;                        // [DR1,2,6]
        v[4 * k + 1] = words[k].y >= least ? v[4 * k + 1] * scale : 0.0f;
        v[4 * k + 2] = words[k].z >= least ? v[4 * k + 2] * scale : 0.0f;
        v[4 * k + 3] = words[k].w >= least ? v[4 * k + 3] * scale : 0.0f;
    }
    if (whole) store16(y + i, packed<T>(v));
    else store(y + i, v, n - i);
}
