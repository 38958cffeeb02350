// Sums of arrays on a GPU: residual connections, position embeddings and their gradient, gradients that meet.
#include "common.cuh"

// y (n,) = a + b, where b (m,) is repeated to the length of a, and y may be a.
extern "C" __global__ void plus(const T* a, const T* b, long long n, long long m, T* y) {
    long long i = flat_start(), j = m == n ? i : i % m;
    if (i >= n) return;
    float v[PACK], w[PACK];
    load(v, a + i, n - i);
    if (j + PACK <= m)
        load(w, b + j, n - i);
    else
        for (int k = 0; k < PACK; k++) w[k] = float(b[(j + k) % m]);
    for (int k = 0; k < PACK; k++) v[k] += w[k];
    store(y + i, v, n - i);
}

// total (D,): the sum of the rows of g (N, D), each entry's from the first row to the last.
extern "C" __global__ void sum_rows(const T* g, int N, long long D, float* total) {
    long long i = flat_start();
    if (i >= D) return;
    float s[PACK] = {}, v[PACK];
#pragma unroll 4
    for (int n = 0; n < N; n++) {
        load(v, g + n * D + i, D - i);
        for (int k = 0; k < PACK; k++) s[k] += v[k];
    }
    store(total + i, s, D - i);
}
