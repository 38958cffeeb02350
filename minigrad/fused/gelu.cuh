// GELU in GPT's form, for gelu.cu, mlp_sm90.cu and decode.cu. Formula, names and [GE] numbers: gelu.py.

constexpr float ROOT = 0.7978845608028654f, CUBIC = 0.044715f;          // sqrt(2 / pi), and the cubic term's weight

__device__ __forceinline__ float gate(float v) {            // by two instructions of the unit for such functions
    float power = v * (-2.0f * LOG2_E * ROOT + -2.0f * LOG2_E * ROOT * CUBIC * (v * v));
    return __fdividef(1.0f, 1.0f + exp2f(power));                                        // [GE3,4]
}

__device__ __forceinline__ float tanh_slope(float v) {
    float s = gate(v);
    return s + (s - s * s) * (v * (2.0f * ROOT + 6.0f * CUBIC * ROOT * (v * v)));        // [GE5]
}
