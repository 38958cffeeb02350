// The rows of cross-entropy on a GPU. Formula, names and [CE] numbers: cross_entropy.py.
#include "common.cuh"

// One block per row z of V logits with its true token y, -1 for padding. g, where it is wanted, is written over z.
extern "C" __global__ void rows(T* z, const long long* y, int V, float e, int want_gradient, float* losses) {
    z += (long long)blockIdx.x * V;
    long long target = y[blockIdx.x];
    float m = -INFINITY, s = 0.0f, total = 0.0f, v[PACK];
    for (PACKS(i, V)) {
        load(v, z + i, V - i);
        for (int k = 0; k < PACK; k++) if (i + k < V) m = fmaxf(m, v[k]);
    }
    m = block_max(m);
    for (PACKS(i, V)) {
        load(v, z + i, V - i);
        for (int k = 0; k < PACK; k++) if (i + k < V) s += expf(v[k] - m), total += v[k] - m;
    }
    s = block_sum(s);                                                                    // [CE1]
    total = block_sum(total);
    if (threadIdx.x == 0) {
        float at_target = target < 0 ? 0.0f : float(z[target]) - m;
        float loss = logf(s) - (1.0f - e) * at_target - (e > 0.0f ? e * (total / V) : 0.0f);   // [CE3]
        losses[blockIdx.x] = target < 0 ? 0.0f : loss;
    }
    if (!want_gradient) return;
    __syncthreads();                                        // the logit of the target has been read
    for (PACKS(i, V)) {
        load(v, z + i, V - i);
        for (int k = 0; k < PACK; k++) {
            float t = e / V + (i + k == target ? 1.0f - e : 0.0f);
            v[k] = target < 0 ? 0.0f : expf(v[k] - m) / s - t;                           // [CE2], and [CE5] undivided
        }
        store(z + i, v, V - i);
    }
}
