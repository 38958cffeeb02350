// Products of matrices, by one warp: on tensor cores for 16-bit entries, entry by entry for float.
//
// A warp's sums d[n][...] stand for 16 rows and 8 N columns, and lie as mma.sync wants them: with g = lane / 4 and
// t = lane % 4, d[n][0] and d[n][1] are columns 8 n + 2 t and the next of row g, d[n][2] and d[n][3] of row g + 8.
// Pairs of them, rounded, are what mma.sync wants of a left factor: the sums of one product can go into the next
// without leaving their lanes.

__device__ __forceinline__ int row_of(int e) { return threadIdx.x % 32 / 4 + e / 2 * 8; }
__device__ __forceinline__ int column_of(int n, int e) { return 8 * n + threadIdx.x % 4 * 2 + e % 2; }

// A left factor (16, K) in shared memory, its rows `stride` apart. a: where this lane begins to read.
template<int K, class E> struct InMemory {
    const E* a;
    int stride;
    __device__ __forceinline__ InMemory() {}
    __device__ __forceinline__ InMemory(const E* first, int stride) : stride(stride) {
        int l = threadIdx.x % 32;
        a = first + (sizeof(E) == 2 ? l % 16 * stride + l / 16 * 8 : l / 4 * stride);
    }
    __device__ __forceinline__ void fragment(uint32_t (&f)[4], int k) const { load_matrices<false>(f, a + k); }
    __device__ __forceinline__ float top(int k) const { return a[k]; }
    __device__ __forceinline__ float bottom(int k) const { return a[8 * stride + k]; }
};

// A left factor (16, K) in registers.
template<int K, class E> struct InRegisters {
    uint32_t part[K / 16][4];
    __device__ __forceinline__ void load(InMemory<K, E> from) {
#pragma unroll
        for (int k = 0; k < K; k += 16) from.fragment(part[k / 16], k);
    }
    __device__ __forceinline__ void round(const float (&d)[K / 8][4]) {
#pragma unroll
        for (int k = 0; k < K / 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float(&two)[4] = d[2 * k + i / 2];
                part[k][i] = pair_of<E>(two[i % 2 * 2], two[i % 2 * 2 + 1]);
            }
    }
    __device__ __forceinline__ void fragment(uint32_t (&f)[4], int k) const {
#pragma unroll
        for (int i = 0; i < 4; i++) f[i] = part[k / 16][i];
    }
};

// Of float, lying as sums do: who lacks an entry asks the lane that has it.
template<int K> struct InRegisters<K, float> {
    float part[K / 8][4];
    __device__ __forceinline__ void load(InMemory<K, float> from) {
#pragma unroll
        for (int n = 0; n < K / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) part[n][e] = from.a[e / 2 * 8 * from.stride + column_of(n, e)];
    }
    __device__ __forceinline__ void round(const float (&d)[K / 8][4]) {
#pragma unroll
        for (int n = 0; n < K / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) part[n][e] = d[n][e];
    }
    __device__ __forceinline__ float top(int k) const { return __shfl_sync(~0u, part[k / 8][k % 2], k % 8 / 2, 4); }
    __device__ __forceinline__ float bottom(int k) const {
        return __shfl_sync(~0u, part[k / 8][2 + k % 2], k % 8 / 2, 4);
    }
};

// d += a b for M left factors at a time, with a right factor (K, 8 N) in shared memory: b(k, j) is b[k stride + j],
// or if it lies TURNED b[j stride + k].
template<bool TURNED, int K, int M, int N, class E, template<int, class> class A>
__device__ __forceinline__ void add_product(float (&d)[M][N][4], const A<K, E> (&a)[M], const E* b, int stride) {
    int l = threadIdx.x % 32, m8 = l / 8;
    b += TURNED ? (m8 / 2 * 8 + l % 8) * stride + m8 % 2 * 8 : l % 16 * stride + l / 16 * 8;
#pragma unroll
    for (int k = 0; k < K; k += 16) {
        uint32_t left[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) a[m].fragment(left[m], k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t four[4];
            load_matrices<!TURNED>(four, b + (TURNED ? 8 * n * stride + k : k * stride + 8 * n));
            uint32_t one[2] = {four[0], four[1]}, other[2] = {four[2], four[3]};
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_tiles<E>(d[m][n], left[m], one);
                multiply_tiles<E>(d[m][n + 1], left[m], other);
            }
        }
    }
}

template<bool TURNED, int K, int M, int N, template<int, class> class A>
__device__ __forceinline__ void add_product(float (&d)[M][N][4], const A<K, float> (&a)[M], const float* b,
                                            int stride) {
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int m = 0; m < M; m++) {
            float top = a[m].top(k), bottom = a[m].bottom(k);
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int j = column_of(n, e);
                    float v = b[TURNED ? j * stride + k : k * stride + j];
                    d[m][n][e] += top * v;
                    d[m][n][2 + e] += bottom * v;
                }
        }
}
