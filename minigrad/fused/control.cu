// control on a GPU, by one thread. Formula, names and [CN] numbers: control.py.
#include "device.cuh"

enum { LR, STEPS, FACTOR, NORM, LOSS, SCALE, HOPELESS };

__device__ __forceinline__ bool is_number(double x) { return x - x == 0.0; }      // infinity less itself is NaN

// moving: -1 where there is no rule.
extern "C" __global__ void control(double* c, double* s, const double* squares, double clip, int moving, double least,
                                   double patience) {
    double S = s[0], loss = c[LOSS], n = sqrt(*squares) / S;                             // [CN1]
    double f = fmin(1.0, clip / (n + 1e-6)) / S;                                         // [CN2]
    c[NORM] = n, c[SCALE] = S;
    if (moving >= 0) {
        bool finite = is_number(loss + n);                                                // [CN3]
        bool lowered = is_number(loss) && S > least && moving;
        bool hopeless = c[HOPELESS] > 0.0 || !(finite || lowered);                       // [CN5]
        c[HOPELESS] = hopeless;
        if (!finite || hopeless) f = nan("");
        if (moving && !hopeless) {
            double k = finite ? s[1] + 1.0 : 0.0;                                        // [CN4]
            s[0] = !finite ? fmax(least, S / 2.0) : k == patience ? 2.0 * S : S;
            s[1] = k == patience ? 0.0 : k;
        }
    }
    c[FACTOR] = f;
}
