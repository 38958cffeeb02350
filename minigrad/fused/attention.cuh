// What attention.cu and attention_sm90.cu share. Formula, names and [AT] numbers: attention.py.

struct Shape { int T, H, D; };                                          // qkv is (B, T, 3 H D)
struct Drop { float grow; Mask mask; };                                 // grow = 1 / (1 - rate), 0 for no dropout

// Where a block works: its head, n H + h, and its first row. A few heads are done at a time, so that L2 holds what
// their blocks share, and of those the longest work comes first: that of early keys, or of LATE queries.
__device__ __forceinline__ int head() { return blockIdx.z * gridDim.x + blockIdx.x; }
template<int ROWS, bool LATE> __device__ __forceinline__ int first_row() {
    return (LATE ? gridDim.y - 1 - blockIdx.y : blockIdx.y) * ROWS;
}

// Entry 0 of the head's row 0, in an array with `parts` heads side by side.
__device__ __forceinline__ long long start(Shape s, int part, int parts) {
    return ((long long)(head() / s.H) * s.T * parts + part) * s.H * s.D + head() % s.H * s.D;
}

#define ARGUMENTS int length, int heads, int size, float scale, float grow, uint32_t k0, uint32_t k1, uint32_t c1, \
                  uint32_t c2, const uint32_t* c3, uint32_t least
#define UNPACK const Shape s = {length, heads, size}; const Drop drop = {grow, {k0, k1, c1, c2, c3 ? *c3 : 0, least}}; \
               const float c = LOG2_E * scale; const int narrow = heads * size, stride = 3 * narrow

// The max, or the sum, over the four lanes that share a row.
template<class F> __device__ __forceinline__ float of_row(float v, F combine) {
    v = combine(v, __shfl_xor_sync(~0u, v, 1));
    return combine(v, __shfl_xor_sync(~0u, v, 2));
}

// m of [DR6] for 16 x 8 S scores: bit 4 n + e is that of d[n][e]. The first one is of query i and key j; rows are
// queries, or if TURNED keys.
template<int S, bool TURNED> __device__ __forceinline__ uint32_t kept(Mask mask, Shape s, int i, int j) {
    int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    uint32_t bits = 0;
    if (s.T % 4) {                                          // rows of scores begin within a block: one after the other
#pragma unroll 1
        for (int n = 0; n < S; n++)
#pragma unroll 1
            for (int e = 0; e < 4; e++) {
                int query = i + (TURNED ? column_of(n, e) : row_of(e));
                int key = j + (TURNED ? row_of(e) : column_of(n, e));
                long long index = ((long long)head() * s.T + query) * s.T + key;
                uint4 w = philox(uint32_t(index / 4), mask);
                uint32_t word = index % 4 == 0 ? w.x : index % 4 == 1 ? w.y : index % 4 == 2 ? w.z : w.w;
                bits |= uint32_t(word >= mask.least) << (4 * n + e);
            }
        return bits;
    }
    // The four words of a block belong to neighbours in a row of scores, which two lanes have, or if TURNED four. Those
    // lanes have as many such blocks, for each n: a lane computes one, and then they exchange bits.
    int query = i + (TURNED ? 2 * t + g % 2 : g + t % 2 * 8);
    int key = j + (TURNED ? g / 4 * 4 + g % 4 / 2 * 8 : t / 2 * 4);
    uint32_t block = (uint32_t(head()) * s.T + query) * (s.T / 4) + key / 4;
#pragma unroll 2
    for (int n = 0; n < S; n++) {
        uint4 w = philox(block + n * (TURNED ? 8 * (s.T / 4) : 2), mask);
        bits |= uint32_t((w.x >= mask.least) + 2 * (w.y >= mask.least) + 4 * (w.z >= mask.least)
                         + 8 * (w.w >= mask.least)) << 4 * n;
    }
    if (TURNED) {
        uint32_t own = 0;
#pragma unroll
        for (int e = 0; e < 4; e++)                         // lane g % 4 = e has row e / 2 * 8 and column e % 2
            own |= (__shfl_sync(~0u, bits, g / 4 * 16 + e * 4 + t) >> g % 4 & 0x11111111u) << e;
        return own;
    }
    uint32_t other = __shfl_xor_sync(~0u, bits, 1), top = t % 2 ? other : bits, bottom = t % 2 ? bits : other;
    return (top >> t % 2 * 2 & 0x33333333u) | (bottom >> t % 2 * 2 & 0x33333333u) << 2;
}
