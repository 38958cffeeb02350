// Sums over the rows of a matrix, each in an order that never changes.
#include "device.cuh"

constexpr int AHEAD = 16;                                   // rows that a warp asks for before it looks at the first

// out[i] = beta out[i] + sum over n of x[n stride + i], for i < D. A block takes 32 columns, each of its warps every so
// manieth row, and the first warp the sums of all.
extern "C" __global__ void __launch_bounds__(1024) add_rows(const float* x, int N, long long stride, int D, float beta,
                                                            float* out) {
    float* sums = (float*)dynamic_shared();
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32, i = blockIdx.x * 32 + lane;
    float s = 0.0f;
    for (int n = warp; i < D && n < N; n += AHEAD * warps) {
        const float* from = x + n * stride + i;
        float v[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++, from += warps * stride) v[k] = n + k * warps < N ? *from : 0.0f;
#pragma unroll
        for (int k = 0; k < AHEAD; k++) s += v[k];
    }
    sums[threadIdx.x] = s;
    __syncthreads();
    if (warp || i >= D) return;
    s = beta == 0.0f ? 0.0f : beta * out[i];
    for (int k = 0; k < warps; k++) s += sums[k * 32 + lane];
    out[i] = s;
}
