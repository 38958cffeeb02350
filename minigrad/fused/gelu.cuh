// GELU in GPT's form, for gelu.cu and mlp_sm90.cu. Formula, names and [GE] numbers: gelu.py.

constexpr float C = 0.7978845608028654f, A = 0.044715f;                 // sqrt(2 / pi), and the cubic term's weight
constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float gate(float v) {            // by two instructions of the unit for such functions
    float power = v * (-2.0f * LOG2_E * C + -2.0f * LOG2_E * C * A * (v * v));
    return __fdividef(1.0f, 1.0f + exp2f(power));                                        // [GE3,4]
}

__device__ __forceinline__ float tanh_slope(float v) {
    float s = gate(v);
    return s + (s - s * s) * (v * (2.0f * C + 6.0f * A * C * (v * v)));                  // [GE5]
}
