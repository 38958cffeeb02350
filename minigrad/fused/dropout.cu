// dropout on a GPU. Formula, names and [DR] numbers: dropout.py.
#include "common.cuh"
#include "philox.cuh"

extern "C" __global__ void drop(const T* x, long long n, float scale, uint32_t k0, uint32_t k1, uint32_t c1,
                                uint32_t c2, const uint32_t* c3, uint32_t least, T* y) {
    long long i = flat_start();
    float v[PACK];
    load(v, x + i, n - i);
#pragma unroll
    for (int k = 0; k < PACK; k += 4) {
        uint4 w = philox(uint32_t((i + k) / 4), Mask{k0, k1, c1, c2, *c3, least});
        v[k] = w.x >= least ? v[k] * scale : 0.0f;                                       // [DR1,2,6]
        v[k + 1] = w.y >= least ? v[k + 1] * scale : 0.0f;
        v[k + 2] = w.z >= least ? v[k + 2] * scale : 0.0f;
        v[k + 3] = w.w >= least ? v[k + 3] * scale : 0.0f;
    }
    store(y + i, v, n - i);
}
