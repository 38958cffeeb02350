// The gradient of linear's bias on a GPU. Formula, names and [LI] numbers: linear.py.
#include "common.cuh"

constexpr int WARPS = 8, WIDTH = 32 * PACK;                 // of a block: of WIDTH columns a warp takes a row at a time
constexpr int AHEAD = 8;                                    // rows that a warp asks for before it looks at the first

// s += every WARPS-th row of dy from n to the end, each of D entries, of which `left` are this lane's or beyond.
template<bool WHOLE> __device__ __forceinline__ void add(float (&s)[PACK], const T* dy, int n, int end, int D,
                                                         int left) {
    for (; n < end; n += AHEAD * WARPS) {
        const T* from = dy + (long long)n * D;
        uint4 raw[AHEAD];
#pragma unroll
        for (int k = 0; k < AHEAD; k++, from += WARPS * D)
            raw[k] = n + k * WARPS < end ? load_pack<WHOLE>(from, left) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < AHEAD; k++) {
            float v[PACK];
            unpack<T>(raw[k], v);
            for (int j = 0; j < PACK; j++) s[j] += v[j];                                 // [LI4]
        }
    }
}

// parts (gridDim.y, D): row c is the sum of the rows [c per, (c + 1) per) of dy (N, D). Which entries a thread adds up,
// and in what order, depends on per alone; add_rows() adds the parts.
extern "C" __global__ void __launch_bounds__(32 * WARPS, 4) column_sums(const T* dy, int N, int D, int per,
                                                                        float* parts) {
    __shared__ float sums[WARPS * WIDTH];
    int warp = threadIdx.x / 32, column = threadIdx.x % 32 * PACK, i = blockIdx.x * WIDTH + column;
    int n = blockIdx.y * per + warp, end = min(N, (int)(blockIdx.y + 1) * per);
    float s[PACK] = {};
    if (D % PACK == 0 && (size_t)dy % 16 == 0) {
        if (i < D) add<true>(s, dy + i, n, end, D, D - i);
    } else {
        add<false>(s, dy + i, n, end, D, D - i);
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
