// layer_norm on a GPU. Formula, names and [LN] numbers: layer_norm.py.
#include "common.cuh"

// One block per row of D entries. mu, rstd (N,): written.
extern "C" __global__ void forward(const T* x, const T* w, const T* b, float eps, int D, T* y, float* mu, float* rstd) {
    x += (long long)blockIdx.x * D;
    y += (long long)blockIdx.x * D;
    float s = 0.0f, v[PACK], scale[PACK], shift[PACK];
    for (PACKS(i, D)) {
        load(v, x + i, D - i);
        for (int k = 0; k < PACK; k++) s += v[k];
    }
    float m = block_sum(s) / D;                                                          // [LN1]
    s = 0.0f;
    for (PACKS(i, D)) {
        load(v, x + i, D - i);
        for (int k = 0; k < PACK; k++) if (i + k < D) s += (v[k] - m) * (v[k] - m);
    }
    float r = 1.0f / sqrtf(block_sum(s) / D + eps);                                      // [LN2]
    for (PACKS(i, D)) {
        load(v, x + i, D - i);
        load(scale, w + i, D - i);
        load(shift, b + i, D - i);
        for (int k = 0; k < PACK; k++) v[k] = (v[k] - m) * r * scale[k] + shift[k];      // [LN3,4]
        store(y + i, v, D - i);
    }
    if (threadIdx.x == 0) mu[blockIdx.x] = m, rstd[blockIdx.x] = r;
}

// Block c goes through rows [c per, (c + 1) per). Its share of dw and db lies in shared memory, where an entry belongs
// to one thread, and ends as row c of parts (blocks, 2, D): add_rows() adds those up, always in the same order.
extern "C" __global__ void backward(const T* dy, const T* x, const T* w, const float* mu, const float* rstd, int N,
                                    int D, int per, T* dx, float* parts) {
    float *dw = (float*)dynamic_shared(), *db = dw + D;
    for (PACKS(i, D)) for (int k = i; k < min(D, i + PACK); k++) dw[k] = db[k] = 0.0f;
    float dyv[PACK], v[PACK], scale[PACK];
    for (int n = blockIdx.x * per; n < min(N, (blockIdx.x + 1) * per); n++) {
        long long row = (long long)n * D;
        float m = mu[n], r = rstd[n], g_sum = 0.0f, gx_sum = 0.0f;
        for (PACKS(i, D)) {
            load(dyv, dy + row + i, D - i);
            load(v, x + row + i, D - i);
            load(scale, w + i, D - i);
            for (int k = 0; k < PACK; k++) {
                float g = dyv[k] * scale[k];
                g_sum += g;
                gx_sum += g * (v[k] - m) * r;
            }
        }
        float mean_g = block_sum(g_sum) / D, mean_gx = block_sum(gx_sum) / D;
        for (PACKS(i, D)) {
            load(dyv, dy + row + i, D - i);
            load(v, x + row + i, D - i);
            load(scale, w + i, D - i);
            for (int k = 0; k < PACK; k++) {
                float xhat = (v[k] - m) * r;                                             // [LN3]
                if (i + k < D) dw[i + k] += dyv[k] * xhat, db[i + k] += dyv[k];          // [LN5]
                v[k] = r * (dyv[k] * scale[k] - mean_g - xhat * mean_gx);                // [LN6]
            }
            store(dx + row + i, v, D - i);
        }
    }
    parts += 2LL * blockIdx.x * D;
    for (PACKS(i, D)) for (int k = i; k < min(D, i + PACK); k++) parts[k] = dw[k], parts[D + k] = db[k];
}
