// embedding on a GPU. Formula, names and [EM] numbers: embedding.py.
#include "common.cuh"

// One block per id.
extern "C" __global__ void forward(const long long* ids, const T* w, int C, T* y) {
    w += ids[blockIdx.x] * C;
    y += (long long)blockIdx.x * C;
    float v[PACK];
    for (PACKS(i, C)) {
        load(v, w + i, C - i);
        store(y + i, v, C - i);                                                          // [EM1]
    }
}

// ids, sorted, with the rows of dy that they belong to. The block of the first of equal ids adds up the rows of all.
extern "C" __global__ void backward(const long long* ids, const long long* rows, const T* dy, int N, int C, float* dw) {
    int first = blockIdx.x;
    if (first && ids[first] == ids[first - 1]) return;
    dw += ids[first] * C;
    float v[PACK], s[PACK];
    for (PACKS(i, C)) {
        load(s, dw + i, C - i);
        for (int n = first; n < N && ids[n] == ids[first]; n++) {
            load(v, dy + rows[n] * C + i, C - i);
            for (int k = 0; k < PACK; k++) s[k] += v[k];                                 // [EM2]
        }
        store(dw + i, s, C - i);
    }
}
