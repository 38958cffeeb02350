// The gradient of linear's bias on a GPU. Formula, names and [LI] numbers: linear.py.
#include "common.cuh"

constexpr int WARPS = 8, WIDTH = 32 * PACK;                 // of a block: of WIDTH columns a warp takes a row at a time

// parts (gridDim.y, D): row c is the sum of the rows [c per, (c + 1) per) of dy (N, D). Which entries a thread adds up,
// and in what order, depends on per alone; add_rows() adds the parts.
extern "C" __global__ void column_sums(const T* dy, int N, int D, int per, float* parts) {
    __shared__ float sums[WARPS * WIDTH];
    int warp = threadIdx.x / 32, column = threadIdx.x % 32 * PACK, i = blockIdx.x * WIDTH + column;
    float s[PACK] = {}, v[PACK];
    if (i < D) {
#pragma unroll 4
        for (int n = blockIdx.y * per + warp; n < min(N, (int)(blockIdx.y + 1) * per); n += WARPS) {
            load(v, dy + (long long)n * D + i, D - i);
            for (int k = 0; k < PACK; k++) s[k] += v[k];                                 // [LI4]
        }
    }
    for (int k = 0; k < PACK; k++) sums[warp * WIDTH + column + k] = s[k];
    __syncthreads();
    for (int k = threadIdx.x; k < WIDTH; k += blockDim.x) {
        float total = 0.0f;
        for (int w = 0; w < WARPS; w++) total += sums[w * WIDTH + k];
        i = blockIdx.x * WIDTH + k;
        if (i < D) parts[(long long)blockIdx.y * D + i] = total;
    }
}
