// softmax and log_softmax on a GPU. Formula, names and [SM] numbers: softmax.py.
#include "common.cuh"

// One block per row of D entries. y is p, or log p.
extern "C" __global__ void forward(const T* x, int D, int log, T* y) {
    x += (long long)blockIdx.x * D;
    y += (long long)blockIdx.x * D;
    float m = -INFINITY, s = 0.0f, v[PACK];
    for (PACKS(i, D)) {
        load(v, x + i, D - i);
        for (int k = 0; k < PACK; k++) if (i + k < D) m = fmaxf(m, v[k]);
    }
    m = block_max(m);
    for (PACKS(i, D)) {
        load(v, x + i, D - i);
        for (int k = 0; k < PACK; k++) if (i + k < D) s += expf(v[k] - m);               // [SM1]
    }
    s = block_sum(s);
    float log_s = logf(s);
    for (PACKS(i, D)) {
        load(v, x + i, D - i);
        for (int k = 0; k < PACK; k++) v[k] = log ? v[k] - m - log_s : expf(v[k] - m) / s;     // [SM4], [SM2]
        store(y + i, v, D - i);
    }
}

extern "C" __global__ void backward(const T* dy, const T* y, int D, int log, T* dx) {
    dy += (long long)blockIdx.x * D;
    y += (long long)blockIdx.x * D;
    dx += (long long)blockIdx.x * D;
    float t = 0.0f, v[PACK], d[PACK];
    for (PACKS(i, D)) {
        load(v, y + i, D - i);
        load(d, dy + i, D - i);
        for (int k = 0; k < PACK; k++) t += log ? d[k] : v[k] * d[k];
    }
    t = block_sum(t);
    for (PACKS(i, D)) {
        load(v, y + i, D - i);
        load(d, dy + i, D - i);
        for (int k = 0; k < PACK; k++) d[k] = log ? d[k] - expf(v[k]) * t : v[k] * (d[k] - t);  // [SM5], [SM3]
        store(dx + i, d, D - i);
    }
}
