// cuBLASLt without a GPU: the functions that minigrad/cublaslt.py binds, with NVIDIA's names, types and numbers, on the
// host's memory. What they know of a product they know from descriptors, so that every byte that Python writes into one
// is tested; and what NVIDIA's documentation forbids is refused, with a reason.
//
// Matrices are stored by columns. D (m, n) = epilogue(alpha op(A) (m, k) op(B) (k, n) + beta C), sums in float.
#include "cuemu.h"

#include <cstdarg>
#include <cstdio>
#include <vector>

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type { R_32F = 0, R_16F = 2, R_16BF = 14 };
enum Compute { COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77 };
enum Epilogue { DEFAULT = 1, BIAS = 4, GELU = 32, DGELU = 64, AUX = 128, BGRADA = 256 };
enum { COMPUTE_TYPE_REDUCTION = 2 };

struct Desc {
    int compute, scale, transa = 0, transb = 0;
    uint32_t epilogue = DEFAULT;
    void *bias = nullptr, *aux = nullptr;
    int64_t aux_ld = 0;
};
struct Layout {
    int type;
    uint64_t rows, cols;
    int64_t ld;
    int batch = 1;
    int64_t stride = 0;
};
struct Preference {
    uint64_t workspace = 0;
    uint32_t reductions = 7, alignment[4] = {256, 256, 256, 256};
};
struct Algo { uint64_t data[8]; };
struct Result { Algo algo; size_t workspace; int state; float waves; int reserved[4]; };

constexpr uint64_t HANDLE = 0x4c6263, ALGO = 0x616c676f;
static uint64_t the_handle = HANDLE;
static thread_local char reason[200];

__attribute__((format(printf, 2, 3))) static int refuse(int status, const char* format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(reason, sizeof reason, format, list);
    va_end(list);
    return status;
}
#define EXPECT(condition, status, ...) if (!(condition)) return refuse(status, __VA_ARGS__)

static size_t size(int type) { return type == R_32F ? 4 : 2; }
static bool aligned(const void* p, uint64_t bytes) { return (uintptr_t)p % bytes == 0; }

static float get(int type, const void* p, int64_t i) {
    if (type == R_32F) return ((const float*)p)[i];
    return type == R_16F ? float(((const __half*)p)[i]) : float(((const __nv_bfloat16*)p)[i]);
}
static void put(int type, void* p, int64_t i, float v) {
    if (type == R_32F) ((float*)p)[i] = v;
    else if (type == R_16F) ((__half*)p)[i] = __half(v);
    else ((__nv_bfloat16*)p)[i] = __nv_bfloat16(v);
}
static float tf32(float v) {                                 // ten bits after the point
    uint32_t u = __float_as_uint(v);
    return v - v == 0 ? __uint_as_float((u + 0xfff + (u >> 13 & 1)) & ~0x1fffu) : v;
}

static float gate(float v) { return 1 / (1 + expf(-1.5957691216057308f * (v + 0.044715f * v * v * v))); }
static float slope(float v) {
    float s = gate(v), t = 1.5957691216057308f * (1 + 0.134145f * v * v);
    return s + (s == 0 || s == 1 ? 0 : v * s * (1 - s) * t);
}

// Does this make a product?
static int check(const Desc* d, const Layout* A, const Layout* B, const Layout* C, const Layout* D) {
    EXPECT(d && A && B && C && D, INVALID_VALUE, "a descriptor is missing");
    for (auto l : {A, B, C, D}) {
        EXPECT(l->rows > 0 && l->cols > 0, INVALID_VALUE, "a matrix without entries");
        EXPECT(l->ld >= (int64_t)l->rows, INVALID_VALUE, "leading dimension %lld of columns of %llu entries",
               (long long)l->ld, (unsigned long long)l->rows);
        EXPECT(l->batch == D->batch && l->batch > 0, INVALID_VALUE, "stacks of %d and %d matrices", l->batch, D->batch);
    }
    uint64_t k = d->transa ? A->rows : A->cols;
    EXPECT((d->transa ? A->cols : A->rows) == D->rows && (d->transb ? B->rows : B->cols) == D->cols &&
           (d->transb ? B->cols : B->rows) == k, INVALID_VALUE, "the shapes have no product");
    EXPECT(C->rows == D->rows && C->cols == D->cols && C->ld == D->ld && C->type == D->type, INVALID_VALUE,
           "C and D differ");
    EXPECT(D->batch == 1 || D->stride >= D->ld * (int64_t)D->cols, INVALID_VALUE, "results that overlap");
    EXPECT(d->scale == R_32F, NOT_SUPPORTED, "alpha and beta of type %d", d->scale);
    EXPECT(A->type == B->type && (D->type == A->type || D->type == R_32F), NOT_SUPPORTED, "types %d and %d, result %d",
           A->type, B->type, D->type);
    EXPECT(d->compute == COMPUTE_32F || (d->compute == COMPUTE_32F_FAST_TF32 && A->type == R_32F), NOT_SUPPORTED,
           "compute type %d for type %d", d->compute, A->type);
    uint32_t e = d->epilogue;
    EXPECT(e == DEFAULT || e == BIAS || e == (GELU | AUX | BIAS) || e == (DGELU | AUX) || e == BGRADA, NOT_SUPPORTED,
           "epilogue %u", e);
    EXPECT(e == DEFAULT || D->batch == 1, NOT_SUPPORTED, "epilogue %u for a stack", e);
    if (e & (BIAS | BGRADA)) {
        EXPECT(d->bias, INVALID_VALUE, "no pointer to the bias");
        EXPECT(aligned(d->bias, 16), NOT_SUPPORTED, "the bias is not aligned to 16 bytes");
    }
    if (e & AUX) {
        EXPECT(d->aux, INVALID_VALUE, "no pointer to GELU's argument");
        EXPECT(aligned(d->aux, 16), NOT_SUPPORTED, "GELU's argument is not aligned to 16 bytes");
        EXPECT(d->aux_ld % 8 == 0 && d->aux_ld >= (int64_t)D->rows, INVALID_VALUE,
               "leading dimension %lld of GELU's argument, not a multiple of 8 or less than %llu",
               (long long)d->aux_ld, (unsigned long long)D->rows);
    }
    return SUCCESS;
}

// What an algorithm was made for.
static uint64_t fingerprint(const Desc* d, const Layout* A, const Layout* B, const Layout* D) {
    uint64_t h = 14695981039346656037u;
    auto mix = [&](uint64_t v) { h = (h ^ v) * 1099511628211u; };
    for (auto l : {A, B, D}) mix(l->type), mix(l->rows), mix(l->cols), mix(l->ld), mix(l->batch), mix(l->stride);
    mix(d->compute), mix(d->transa), mix(d->transb), mix(d->epilogue), mix(d->aux_ld);
    return h;
}
static size_t workspace_of(uint64_t id) { return id << 20; }

template<class V> static int set(V* into, const void* from, size_t bytes) {
    EXPECT(bytes == sizeof(V), INVALID_VALUE, "%zu bytes for an attribute of %zu", bytes, sizeof(V));
    memcpy(into, from, bytes);
    return SUCCESS;
}

// Is it an algorithm for this product? What it needs goes to result. Only this file can mean this function: where
// NVIDIA's library is loaded as well, a call of an exported name may end there.
static int accepts(void* handle, const Desc* d, const Layout* A, const Layout* B, const Layout* C, const Layout* D,
                   const Algo* algo, Result* result) {
    EXPECT(handle == &the_handle, NOT_INITIALIZED, "no handle");
    if (int status = check(d, A, B, C, D)) return status;
    EXPECT(algo && algo->data[0] == ALGO && algo->data[2] == fingerprint(d, A, B, D), INVALID_VALUE,
           "an algorithm for another product");
    result->workspace = workspace_of(algo->data[1]);
    result->state = SUCCESS;
    return SUCCESS;
}

extern "C" {

const char* cublasLtEmulatorReason() { return reason; }
size_t cublasLtGetVersion() { return 0; }

int cublasLtCreate(void** handle) { return *handle = &the_handle, SUCCESS; }

int cublasLtMatmulDescCreate(Desc** d, int compute, int scale) {
    EXPECT(compute == COMPUTE_32F || compute == COMPUTE_32F_FAST_TF32, INVALID_VALUE, "compute type %d", compute);
    return *d = new Desc{compute, scale}, SUCCESS;
}
Desc* cublasLtEmulatorCopy(const Desc* d) { return new Desc(*d); }
int cublasLtMatmulDescDestroy(Desc* d) { return delete d, SUCCESS; }
int cublasLtMatmulDescSetAttribute(Desc* d, int attribute, const void* p, size_t n) {
    switch (attribute) {
        case 3: return set(&d->transa, p, n);
        case 4: return set(&d->transb, p, n);
        case 7: return set(&d->epilogue, p, n);
        case 8: return set(&d->bias, p, n);
        case 11: return set(&d->aux, p, n);
        case 12: return set(&d->aux_ld, p, n);
    }
    return refuse(INVALID_VALUE, "attribute %d of a MatmulDesc", attribute);
}

int cublasLtMatrixLayoutCreate(Layout** l, int type, uint64_t rows, uint64_t cols, int64_t ld) {
    EXPECT(type == R_32F || type == R_16F || type == R_16BF, INVALID_VALUE, "type %d", type);
    return *l = new Layout{type, rows, cols, ld}, SUCCESS;
}
int cublasLtMatrixLayoutDestroy(Layout* l) { return delete l, SUCCESS; }
int cublasLtMatrixLayoutSetAttribute(Layout* l, int attribute, const void* p, size_t n) {
    switch (attribute) {
        case 5: return set(&l->batch, p, n);
        case 6: return set(&l->stride, p, n);
    }
    return refuse(INVALID_VALUE, "attribute %d of a MatrixLayout", attribute);
}

int cublasLtMatmulPreferenceCreate(Preference** f) { return *f = new Preference, SUCCESS; }
int cublasLtMatmulPreferenceDestroy(Preference* f) { return delete f, SUCCESS; }
int cublasLtMatmulPreferenceSetAttribute(Preference* f, int attribute, const void* p, size_t n) {
    switch (attribute) {
        case 1: return set(&f->workspace, p, n);
        case 3: return set(&f->reductions, p, n);
        case 5: case 6: case 7: case 8: return set(&f->alignment[attribute - 5], p, n);
    }
    return refuse(INVALID_VALUE, "attribute %d of a MatmulPreference", attribute);
}

// Three algorithms. 0 wants aligned matrices, as tensor cores do. 2 takes the halves of k by themselves. An algorithm
// relies on the alignment that the preference promised: 256 bytes where it was silent.
int cublasLtMatmulAlgoGetHeuristic(void* handle, const Desc* d, const Layout* A, const Layout* B, const Layout* C,
                                   const Layout* D, const Preference* f, int asked, Result* results, int* found) {
    EXPECT(handle == &the_handle, NOT_INITIALIZED, "no handle");
    EXPECT(asked > 0 && f, INVALID_VALUE, "%d algorithms asked for", asked);
    if (int status = check(d, A, B, C, D)) return status;
    uint64_t promised = 256;
    for (auto a : f->alignment) promised = a < promised ? a : promised;
    bool wide = promised >= 16;
    for (auto l : {A, B, D}) wide = wide && l->ld * size(l->type) % 16 == 0;
    *found = 0;
    for (uint64_t id = wide ? 0 : 1; id < 3 && *found < asked; id++) {
        if (workspace_of(id) > f->workspace || (id == 2 && !(f->reductions & COMPUTE_TYPE_REDUCTION))) continue;
        results[(*found)++] = {{{ALGO, id, fingerprint(d, A, B, D), promised}}, workspace_of(id), SUCCESS, 1.0f, {}};
    }
    EXPECT(*found, NOT_SUPPORTED, "no algorithm makes do with %llu bytes", (unsigned long long)f->workspace);
    return SUCCESS;
}

int cublasLtMatmulAlgoCheck(void* handle, const Desc* d, const Layout* A, const Layout* B, const Layout* C,
                            const Layout* D, const Algo* algo, Result* result) {
    return accepts(handle, d, A, B, C, D, algo, result);
}

int cublasLtMatmul(void* handle, const Desc* d, const float* alpha, const void* pa, const Layout* A, const void* pb,
                   const Layout* B, const float* beta, const void* pc, const Layout* C, void* pd, const Layout* D,
                   const Algo* algo, void* workspace, size_t bytes, void*) {
    Result need;
    if (int status = accepts(handle, d, A, B, C, D, algo, &need)) return status;
    EXPECT(alpha && beta && pa && pb && pc && pd, INVALID_VALUE, "a pointer is missing");
    EXPECT(bytes >= need.workspace && (workspace || !need.workspace), INVALID_VALUE, "%zu bytes of %zu", bytes,
           need.workspace);
    EXPECT(aligned(workspace, 256), INVALID_VALUE, "the workspace is not aligned to 256 bytes");
    for (auto p : {pa, pb, pc, (const void*)pd})
        EXPECT(aligned(p, algo->data[3]), INVALID_VALUE, "a matrix is less aligned than was promised");
    memset(workspace, 0xff, need.workspace);
    int64_t m = D->rows, n = D->cols, k = d->transa ? A->rows : A->cols, half = algo->data[1] == 2 ? k / 2 : 0;
    bool fast = d->compute == COMPUTE_32F_FAST_TF32;
    std::vector<float> a(m * k), s(m), t(m);
    for (int64_t batch = 0; batch < D->batch; batch++) {
        for (int64_t l = 0; l < k; l++)
            for (int64_t i = 0; i < m; i++) {
                float v = get(A->type, pa, batch * A->stride + (d->transa ? l + i * A->ld : i + l * A->ld));
                a[i + l * m] = fast ? tf32(v) : v;
            }
        auto add = [&](std::vector<float>& sums, int64_t j, int64_t from, int64_t to) {
            sums.assign(m, 0.0f);
            for (int64_t l = from; l < to; l++) {
                float v = get(B->type, pb, batch * B->stride + (d->transb ? j + l * B->ld : l + j * B->ld));
                v = fast ? tf32(v) : v;
                for (int64_t i = 0; i < m; i++) sums[i] += a[i + l * m] * v;
            }
        };
        for (int64_t j = 0; j < n; j++) {
            add(s, j, half, k);
            add(t, j, 0, half);
            for (int64_t i = 0; i < m; i++) {
                int64_t at = batch * D->stride + i + j * D->ld, aux = i + j * d->aux_ld;
                float v = *alpha * (s[i] + t[i]);
                if (*beta != 0) v += *beta * get(C->type, pc, batch * C->stride + i + j * C->ld);
                if (d->epilogue & BIAS) v += get(D->type, d->bias, i);
                if (d->epilogue & GELU) put(D->type, d->aux, aux, v), v *= gate(v);
                if (d->epilogue & DGELU) v *= slope(get(D->type, d->aux, aux));
                put(D->type, pd, at, v);
            }
        }
    }
    if (d->epilogue & BGRADA)
        for (int64_t i = 0; i < m; i++) {
            float total = 0;
            for (int64_t l = 0; l < k; l++) total += a[i + l * m];
            put(D->type, d->bias, i, total);
        }
    return SUCCESS;
}

}  // extern "C"
