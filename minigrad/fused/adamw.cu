// adamw and sum_of_squares on a GPU. Formula, names and [AW] numbers: adamw.py.
#include "common.cuh"

// g, m and v are float. What is kept beside p: nothing for float, rest (int16) for bfloat16, master (float) for half.
__device__ __forceinline__ float whole(const T* p, const float* master, const short* rest, long long i) {
    const unsigned short* high = (const unsigned short*)p;
    if (rest) return __uint_as_float((uint32_t(high[i]) << 16) + (uint32_t)(int)rest[i]);   // [AW7]
    return master ? master[i] : float(p[i]);
}

__device__ __forceinline__ void keep(float w, T* p, float* master, short* rest, long long i) {
    if (rest) {
        uint32_t u = __float_as_uint(w), high = (u + 0x8000u) >> 16;                     // [AW6]
        ((unsigned short*)p)[i] = (unsigned short)high;
        rest[i] = (short)(u - (high << 16));
    } else {
        p[i] = T(w);
        if (master) master[i] = w;
    }
}

extern "C" __global__ void adamw(T* p, const float* g, float* m, float* v, float* master, short* rest, long long n,
                                 float shrink, float gain1, float beta2, float gain2, float rate, float root, float eps,
                                 float scale) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float gi = g[i] * scale, w = whole(p, master, rest, i);
    float mi = m[i] + gain1 * (gi - m[i]);                                               // [AW2]
    float vi = beta2 * v[i] + gain2 * (gi * gi);                                         // [AW3]
    m[i] = mi, v[i] = vi;
    keep(w * shrink - rate * (mi / (sqrtf(vi) / root + eps)), p, master, rest, i);       // [AW1,4]
}

// parts[c]: the sum over the entries that block c meets, in double.
extern "C" __global__ void squares(const T* g, long long n, double* parts) {
    double s = 0.0;
    float v[PACK];
    for (long long i = flat_start(); i < n; i += (long long)gridDim.x * blockDim.x * PACK) {
        load(v, g + i, n - i);
        for (int k = 0; k < PACK; k++) s += (double)v[k] * (double)v[k];
    }
    s = block_sum(s);
    if (threadIdx.x == 0) parts[blockIdx.x] = s;
}
