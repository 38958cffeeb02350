// A token for every row, from its logits: what choose() of gpt/generate.py does, and in the order that it has there.
// Launched by gpt/generate_gpu.py. A block has a row, and goes over its V logits as often as the settings want: once or
// twice for the likeliest, 32 times more for each of top_k and top_p, whose bounds it finds bit by bit.
#include "common.cuh"

constexpr int THREADS = 1024, WARPS = THREADS / 32;

struct Min { template<class V> __device__ V operator()(V a, V b) const { return b < a ? b : a; } };
struct Found { double parts[WARPS]; int id; };

// Logits, those of ids that have been there made less likely.
struct Logits {
    const float* z;
    const unsigned char* seen;
    float penalty;

    __device__ float operator()(int i) const {
        float v = z[i];
        return !seen || !seen[i] ? v : v > 0.0f ? v / penalty : v * penalty;
    }
};

// Whole numbers in the order of floats, and back. Both zeros are one.
__device__ __forceinline__ unsigned key_of(float v) {
    unsigned u = __float_as_uint(v == 0.0f ? 0.0f : v);
    return u >> 31 ? ~u : u | 1u << 31;
}
__device__ __forceinline__ float of_key(unsigned key) { return __uint_as_float(key >> 31 ? key & ~(1u << 31) : ~key); }

template<class F> __device__ __forceinline__ double total(int V, F weight) {
    double s = 0.0;
#pragma unroll 8
    for (int i = threadIdx.x; i < V; i += THREADS) s += weight(i);
    return block_sum(s);
}

// The first id at which the weights of ids up to it come to more than the goal. If rounding has it that none does, the
// last with a weight. Each warp adds up the ids of one part of the row; the one in whose part it happens looks for it.
template<class F> __device__ __forceinline__ int locate(int V, F weight, double goal, Found& found) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, span = (V + THREADS - 1) / THREADS * 32;
    int begin = warp * span, end = min(V, begin + span), owner = 0, id = 0;
    double s = 0.0, sum = 0.0, before = 0.0;
    for (int i = begin + lane; i < end; i += 32) s += weight(i);
    s = warp_sum(s);
    __syncthreads();                                        // an earlier call may still be reading
    if (lane == 0) found.parts[warp] = s;
    __syncthreads();
    for (int w = 0; w < WARPS && sum <= goal; w++) {
        if (found.parts[w] <= 0.0) continue;
        owner = w, before = sum;
        sum += found.parts[w];
    }
    if (warp == owner) {
        for (int first = begin; first < end; first += 32) {
            double own = first + lane < end ? weight(first + lane) : 0.0, upto = own;
            for (int n = 1; n < 32; n *= 2) {
                double v = __shfl_up_sync(~0u, upto, n);
                if (lane >= n) upto += v;
            }
            if (own > 0.0) id = first + lane;
            if (unsigned past = __ballot_sync(~0u, own > 0.0 && before + upto > goal)) {
                id = first + __ffs(past) - 1;
                break;
            }
            before += __shfl_sync(~0u, upto, 31);
        }
        id = warp_reduce(id, Max());
        if (lane == 0) found.id = id;
    }
    __syncthreads();
    return found.id;
}

// Which tokens are left: of the lowest key that is, those up to an id.
struct Left {
    unsigned lowest;
    int last;

    __device__ bool operator()(unsigned key, int i) const { return key > lowest || (key == lowest && i <= last); }
};

template<class F> __device__ __forceinline__ double mass(int V, const Logits& z, Left left, F weight) {
    return total(V, [&](int i) {
        float v = z(i);
        return left(key_of(v), i) ? weight(v) : 0.0;
    });
}

// Of those that are left, the fewest and likeliest that have enough weight together. weight: of a logit.
template<class F> __device__ __forceinline__ Left narrow(int V, const Logits& z, Left left, double enough, F weight,
                                                         Found& found) {
    auto sum = [&](unsigned least) {
        return mass(V, z, Left{max(least, left.lowest), least > left.lowest ? V : left.last}, weight);
    };
    unsigned lowest = 0;
    for (unsigned bit = 1u << 31; bit; bit >>= 1)
        if (sum(lowest | bit) >= enough) lowest |= bit;
    double missing = lowest < ~0u ? enough - sum(lowest + 1) : enough, many = ceil(missing / weight(of_key(lowest)));
    auto equal = [&](int i) {
        unsigned key = key_of(z(i));
        return key == lowest && left(key, i) ? 1.0 : 0.0;
    };
    return {lowest, locate(V, equal, many - 1.0, found)};
}

// Block b chooses from logits (B, V) for row rows[b]: seen (., V), if there is one, has the ids that are in its text,
// and uniform (.) its number in [0, 1). k, top_p, min_p are 0 where there is no such setting. ids (B,): the tokens;
// told (2, B): the tokens, and the logarithms of their probabilities under the logits as they are.
extern "C" __global__ void __launch_bounds__(THREADS, 1) choose(
        const float* logits, const long long* rows, int V, float temperature, int k, float top_p, float min_p,
        float penalty, unsigned char* seen, const double* uniform, long long* ids, double* told) {
    __shared__ Found found;
    const float* own = logits + (long long)blockIdx.x * V;
    long long row = rows[blockIdx.x];
    if (seen) seen += row * V;
    Logits z{own, seen, penalty};
    float m = -INFINITY, most = -INFINITY;
    int id = V - 1;
#pragma unroll 8
    for (int i = threadIdx.x; i < V; i += THREADS) {
        float v = z(i);
        m = fmaxf(m, own[i]);
        if (v > most) most = v, id = i;
    }
    m = block_max(m);
    float likeliest = block_max(most);
    id = block_reduce(most == likeliest ? id : V - 1, Min());
    double s = total(V, [&](int i) { return (double)expf(own[i] - m); });
    if (temperature > 0.0f) {
        auto share = [&](float v) { return (double)expf((v - likeliest) / temperature); };
        Left left{0, V};
        if (k) left = narrow(V, z, left, k, [](float) { return 1.0; }, found);
        if (top_p > 0.0f) left = narrow(V, z, left, top_p * mass(V, z, left, share), share, found);
        auto weight = [&](float v) {
            double p = share(v);
            return p >= (double)min_p ? p : 0.0;
        };
        double goal = uniform[row] * mass(V, z, left, weight);
        if (top_p > 0.0f) {                                 // the likeliest come first
            id = narrow(V, z, left, fmax(goal, 1e-300), weight, found).last;
        } else {                                            // in the order of ids, but for those of the lowest key
            auto above = [&](int i) { return key_of(z(i)) > left.lowest ? weight(z(i)) : 0.0; };
            auto equal = [&](int i) {
                return key_of(z(i)) == left.lowest && i <= left.last ? weight(z(i)) : 0.0;
            };
            double upper = total(V, above);
            id = goal < upper ? locate(V, above, goal, found) : locate(V, equal, goal - upper, found);
        }
    }
    if (threadIdx.x) return;                                // all have read what was seen, and met since
    ids[blockIdx.x] = id;
    told[blockIdx.x] = id, told[gridDim.x + blockIdx.x] = own[id] - m - log(s);
    if (seen) seen[id] = 1;
}
