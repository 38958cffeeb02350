// Sums over the rows of a matrix, each in the order of the rows.

// out[i] = beta out[i] + sum over n of x[n stride + i], for i < D.
extern "C" __global__ void add_rows(const float* x, int N, long long stride, int D, float beta, float* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= D) return;
    float s = beta == 0.0f ? 0.0f : beta * out[i];
    for (int n = 0; n < N; n++) s += x[n * stride + i];
    out[i] = s;
}
