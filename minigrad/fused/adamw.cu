// adamw and sum_of_squares on a GPU. Formula, names and [AW] numbers: adamw.py.
#include "common.cuh"

// N parameters in full, from p on. What is kept beside p: nothing for float, rest (int16) for bfloat16, master (float)
// for half.
template<int N> __device__ __forceinline__ void whole(float (&w)[N], const T* p, const float* master, const short* rest,
                                                      long long n) {
    if (master) return load(w, master, n);
    load(w, p, n);
    if constexpr (sizeof(T) == 2) if (rest) {
        float low[N];                                        // an int16 is exact in float
        load(low, rest, n);
#pragma unroll
        for (int k = 0; k < N; k++) w[k] = __uint_as_float(__float_as_uint(w[k]) + (uint32_t)(int)low[k]);     // [AW7]
    }
}

template<int N> __device__ __forceinline__ void keep(float (&w)[N], T* p, float* master, short* rest, long long n) {
    if constexpr (sizeof(T) == 2) if (rest) {
        float low[N];
#pragma unroll
        for (int k = 0; k < N; k++) {
            uint32_t u = __float_as_uint(w[k]) & (w[k] == w[k] ? 0xffffffffu : 0xffff0000u);       // as in adamw.py
            uint32_t high = (u + 0x8000u) & 0xffff0000u;                                 // [AW6]
            w[k] = __uint_as_float(high);                    // which p holds without rounding
            low[k] = (float)(int)(u - high);
        }
        store(rest, low, n);
    }
    store(p, w, n);
    if (master) store(master, w, n);
}

// g, m and v are float; lr, step and scale one number each.
extern "C" __global__ void adamw(T* p, const float* g, float* m, float* v, float* master, short* rest, long long n,
                                 const double* lr, const double* step, const double* scale, double beta1, double beta2,
                                 double decay, float eps) {
    __shared__ float numbers[3];
    float f = (float)*scale;
    if (f != f) return;                                                                  // [AW8]
    if (threadIdx.x == 0) {                                  // once for the whole block: double and pow are slow
        numbers[0] = (float)(1.0 - *lr * decay);
        numbers[1] = (float)(*lr / (1.0 - pow(beta1, *step)));
        numbers[2] = (float)sqrt(1.0 - pow(beta2, *step));
    }
    __syncthreads();
    float shrink = numbers[0], rate = numbers[1], root = numbers[2];
    float gain1 = (float)(1.0 - beta1), keep2 = (float)beta2, gain2 = (float)(1.0 - beta2);
    for (long long i = flat_start(); i < n; i += (long long)gridDim.x * blockDim.x * PACK) {
        float w[PACK], gi[PACK], mi[PACK], vi[PACK];
        whole(w, p + i, master ? master + i : master, rest ? rest + i : rest, n - i);
        load(gi, g + i, n - i);
        load(mi, m + i, n - i);
        load(vi, v + i, n - i);
#pragma unroll
        for (int k = 0; k < PACK; k++) {
            gi[k] *= f;
            mi[k] += gain1 * (gi[k] - mi[k]);                                            // [AW2]
            vi[k] = keep2 * vi[k] + gain2 * (gi[k] * gi[k]);                             // [AW3]
            w[k] = w[k] * shrink - rate * (mi[k] / (sqrtf(vi[k]) / root + eps));         // [AW1,4]
        }
        store(m + i, mi, n - i);
        store(v + i, vi, n - i);
        keep(w, p + i, master ? master + i : master, rest ? rest + i : rest, n - i);
    }
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
