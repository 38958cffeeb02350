// relu on a GPU. Formula, names and [RE] numbers: relu.py.
#include "common.cuh"

extern "C" __global__ void forward(const T* x, long long n, T* y) {
    long long i = flat_start();
    float v[PACK];
    load(v, x + i, n - i);
    for (int k = 0; k < PACK; k++) v[k] = v[k] <= 0.0f ? 0.0f : v[k];                    // [RE1], and NaN stays
    store(y + i, v, n - i);
}

extern "C" __global__ void backward(const T* dy, const T* y, long long n, T* dx) {
    long long i = flat_start();
    float v[PACK], d[PACK];
    load(v, y + i, n - i);
    load(d, dy + i, n - i);
    for (int k = 0; k < PACK; k++) d[k] = v[k] <= 0.0f ? 0.0f : d[k];                    // [RE2]
    store(dx + i, d, n - i);
}
