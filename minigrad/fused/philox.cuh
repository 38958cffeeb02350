// Dropout's mask, for every kernel that drops entries. [DR] numbers: dropout.py.

struct Mask { uint32_t k0, k1, c1, c2, c3, least; };                   // the key and the counter but for its first word

// The words of block c0, for the entries 4 c0 to 4 c0 + 3: an entry stays if its word is not below mask.least.
__device__ __forceinline__ uint4 philox(uint32_t c0, Mask m) {
    uint4 c = make_uint4(c0, m.c1, m.c2, m.c3);                                          // [DR5]
#pragma unroll 5                                            // all ten take registers that attention.cu has not got
    for (int round = 0; round < 10; round++) {
        uint32_t h0 = __umulhi(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x;
        uint32_t h1 = __umulhi(0xCD9E8D57u, c.z), l1 = 0xCD9E8D57u * c.z;
        c = make_uint4(h1 ^ c.y ^ m.k0, l1, h0 ^ c.w ^ m.k1, l0);                        // [DR3]
        m.k0 += 0x9E3779B9u, m.k1 += 0xBB67AE85u;                                        // [DR4]
    }
    return c;
}
