// Sums over the rows of matrices, each in an order that never changes.
#include "device.cuh"

constexpr int THREADS = 1024, COLUMNS = 16, AHEAD = 16;     // of a block; rows asked for before the first is looked at

// For one matrix, or two side by side, x (N, gridDim.y, D): out[i] = beta out[i] + sum over n of x[n, blockIdx.y, i].
// A block takes COLUMNS of them, of which a thread adds up every so manieth row. Without an out: nothing.
extern "C" __global__ void __launch_bounds__(THREADS) add_rows(const float* x, int N, int D, float* out0, float beta0,
                                                               float* out1, float beta1) {
    __shared__ float sums[THREADS / 32][COLUMNS];
    constexpr int ROWS = THREADS / COLUMNS;
    float *out = blockIdx.y ? out1 : out0, beta = blockIdx.y ? beta1 : beta0, s = 0.0f;
    if (!out) return;
    int column = threadIdx.x % COLUMNS, i = blockIdx.x * COLUMNS + column;
    long long stride = (long long)gridDim.y * D;
    for (int n = threadIdx.x / COLUMNS; i < D && n < N; n += AHEAD * ROWS) {
        const float* from = x + n * stride + blockIdx.y * D + i;
        float v[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++, from += ROWS * stride) v[k] = n + k * ROWS < N ? *from : 0.0f;
#pragma unroll
        for (int k = 0; k < AHEAD; k++) s += v[k];
    }
    s += __shfl_xor_sync(~0u, s, COLUMNS);
    if (threadIdx.x % 32 < COLUMNS) sums[threadIdx.x / 32][column] = s;
    __syncthreads();
    if (threadIdx.x >= COLUMNS || i >= D) return;
    s = beta == 0.0f ? 0.0f : beta * out[i];
#pragma unroll
    for (int k = 0; k < THREADS / 32; k++) s += sums[k][column];
    out[i] = s;
}
