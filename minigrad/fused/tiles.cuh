// Products of matrices in shared memory, by one warp: on tensor cores for 16-bit entries, entry by entry for float.
//
// A warp's sums d[n][...] stand for 16 rows and 8 N columns, and lie as mma.sync wants them: with g = lane / 4 and
// t = lane % 4, d[n][0] and d[n][1] are columns 8 n + 2 t and the next of row g, d[n][2] and d[n][3] of row g + 8.

__device__ __forceinline__ int row_of(int e) { return threadIdx.x % 32 / 4 + e / 2 * 8; }
__device__ __forceinline__ int column_of(int n, int e) { return 8 * n + threadIdx.x % 4 * 2 + e % 2; }

// d += a b over K. a(i, k) is a[i lda + k], or if it lies TRANSPOSED a[k lda + i];
// b(k, j) is b[k ldb + j], or b[j ldb + k].
template<int N, int K, bool A_TRANSPOSED, bool B_TRANSPOSED, class E> struct Product {
    __device__ __forceinline__ static void add(float (&d)[N][4], const E* a, int lda, const E* b, int ldb) {
        int l = threadIdx.x % 32, m = l / 8;
#pragma unroll
        for (int k = 0; k < K; k += 16) {
            uint32_t fa[4];
            load_matrices<A_TRANSPOSED>(fa, A_TRANSPOSED ? a + (k + m / 2 * 8 + l % 8) * lda + m % 2 * 8
                                                         : a + l % 16 * lda + k + l / 16 * 8);
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                uint32_t fb[4];
                load_matrices<!B_TRANSPOSED>(fb, B_TRANSPOSED ? b + (8 * n + m / 2 * 8 + l % 8) * ldb + k + m % 2 * 8
                                                              : b + (k + l % 16) * ldb + 8 * n + l / 16 * 8);
                uint32_t left[2] = {fb[0], fb[1]}, right[2] = {fb[2], fb[3]};
                multiply_tiles<E>(d[n], fa, left);
                multiply_tiles<E>(d[n + 1], fa, right);
            }
        }
    }
};

template<int N, int K, bool A_TRANSPOSED, bool B_TRANSPOSED> struct Product<N, K, A_TRANSPOSED, B_TRANSPOSED, float> {
    __device__ __forceinline__ static void add(float (&d)[N][4], const float* a, int lda, const float* b, int ldb) {
        int g = row_of(0), t = column_of(0, 0);
#pragma unroll 2
        for (int k = 0; k < K; k++) {
            float top = A_TRANSPOSED ? a[k * lda + g] : a[g * lda + k];
            float bottom = A_TRANSPOSED ? a[k * lda + g + 8] : a[(g + 8) * lda + k];
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int e = 0; e < 2; e++) {
                    int j = 8 * n + t + e;
                    float v = B_TRANSPOSED ? b[j * ldb + k] : b[k * ldb + j];
                    d[n][e] += top * v;
                    d[n][2 + e] += bottom * v;
                }
        }
    }
};
