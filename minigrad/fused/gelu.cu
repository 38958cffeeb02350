// gelu on a GPU. Formula, names and [GE] numbers: gelu.py.
#include "common.cuh"
#include "gelu.cuh"

constexpr float ROOT_HALF = 0.7071067811865476f, PER_ROOT_2PI = 0.3989422804014327f;

__device__ __forceinline__ float distribution(float v) {
    return 0.5f * (1.0f + erff(v * ROOT_HALF));                                          // [GE1]
}

__device__ __forceinline__ float erf_slope(float v) {
    return distribution(v) + v * (PER_ROOT_2PI * exp2f(-0.5f * LOG2_E * (v * v)));       // [GE2]
}

// tanh: 1 for GPT's form, 0 for the definition.
extern "C" __global__ void forward(const T* x, long long n, int tanh, T* y) {
    long long i = flat_start();
    float v[PACK];
    load(v, x + i, n - i);
    for (int k = 0; k < PACK; k++) v[k] *= tanh ? gate(v[k]) : distribution(v[k]);
    store(y + i, v, n - i);
}

extern "C" __global__ void backward(const T* dy, const T* x, long long n, int tanh, T* dx) {
    long long i = flat_start();
    float v[PACK], d[PACK];
    load(v, x + i, d, dy + i, n - i);
    for (int k = 0; k < PACK; k++) d[k] *= tanh ? tanh_slope(v[k]) : erf_slope(v[k]);
    store(dx + i, d, n - i);
}
