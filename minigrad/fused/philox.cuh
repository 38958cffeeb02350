// Dropout's mask, for every kernel that drops entries. [DR] numbers: dropout.py.

struct Mask { uint32_t k0, k1, c1, c2, c3, least; };                   // the key and the counter but for its first word

// The words of block c0, for the entries 4 c0 to 4 c0 + 3: an entry stays if its word is not below mask.least. All ten
// rounds in a row take registers that attention.cu has not got.
template<int IN_A_ROW = 5> __device__ __forceinline__ uint4 philox(uint32_t c0, Mask m) {
    uint4 c = make_uint4(c0, m.c1, m.c2, m.c3);                                          // [DR5]
#pragma unroll IN_A_ROW
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53u * c.x, b = (uint64_t)0xCD9E8D57u * c.z;       // one instruction each
        c = make_uint4(b >> 32 ^ c.y ^ m.k0, b, a >> 32 ^ c.w ^ m.k1, a);                // [DR3]
        m.k0 += 0x9E3779B9u, m.k1 += 0xBB67AE85u;                                        // [DR4]
    }
    return c;
}
