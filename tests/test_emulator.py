"""The emulator runs CUDA C++ as a GPU would, and every planted mistake is named: kernel, block, thread, line."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minigrad.backend import dtype_of
from minigrad.emulator import emulator
from minigrad.emulator.emulator import SCHEDULES, Fault, compile, schedule

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
in_every_schedule = pytest.mark.parametrize("backwards, early", SCHEDULES)


def kernel(body, arguments, before=""):
    text = f'#include "device.cuh"\n{before}\nextern "C" __global__ void k({arguments}) {{\n{body}\n}}'
    return compile(text).get_function("k")


# ------------------------------------------------------------------------------------------------ it computes

@in_every_schedule
def test_threads_blocks_and_barriers(backwards, early):
    reverse = kernel("""
        __shared__ int tile[64];
        int i = blockIdx.x * blockDim.x + threadIdx.x;
        tile[threadIdx.x] = x[i];
        __syncthreads();
        y[i] = tile[blockDim.x - 1 - threadIdx.x];""", "const int* x, int* y")
    x, y = np.arange(192, dtype="i4"), np.zeros(192, "i4")
    with schedule(backwards, early):
        reverse((3,), (64,), (x, y))
    np.testing.assert_array_equal(y, x.reshape(3, 64)[:, ::-1].ravel())


@in_every_schedule
def test_warps_exchange_values(backwards, early):
    exchange = kernel("""
        int i = threadIdx.x, lane = i % 32;
        y[i] = __shfl_xor_sync(~0u, x[i], 5);
        y[n + i] = __shfl_down_sync(~0u, x[i], 3);
        y[2 * n + i] = __shfl_up_sync(~0u, x[i], 3);
        y[3 * n + i] = __shfl_sync(~0u, x[i], 7, 16);
        votes[i] = __ballot_sync(~0u, x[i] > 0);
        unsigned half = lane < 16 ? 0xffff : 0xffff0000;
        float s = x[i];
        for (int k = lane < 16 ? 8 : 4; k; k /= 2) s += __shfl_xor_sync(half, s, k);
        y[4 * n + i] = s;""", "const float* x, float* y, unsigned* votes, int n")
    x, y, votes = np.random.default_rng(0).standard_normal(64).astype("f"), np.zeros((5, 64), "f"), np.zeros(64, "u4")
    with schedule(backwards, early):
        exchange((1,), (64,), (x, y, votes, np.int32(64)))
    warp, lane = np.divmod(np.arange(64), 32)
    np.testing.assert_array_equal(y[0], x[warp * 32 + (lane ^ 5)])
    np.testing.assert_array_equal(y[1], x[np.where(lane < 29, np.arange(64) + 3, np.arange(64))])
    np.testing.assert_array_equal(y[2], x[np.where(lane >= 3, np.arange(64) - 3, np.arange(64))])
    np.testing.assert_array_equal(y[3], x[warp * 32 + lane // 16 * 16 + 7])
    np.testing.assert_array_equal(votes, np.repeat((x > 0).reshape(2, 32) @ (1 << np.arange(32)), 32).astype("u4"))
    np.testing.assert_allclose(y[4, :16], x[:16].sum(), rtol=1e-5)       # two groups that do not wait for each other
    np.testing.assert_allclose(y[4, 16:24], x[16:24].sum(), rtol=1e-5)


TALK = """
    __shared__ float own[64];
    int n = gridDim.x * 64, i = blockIdx.x * 64 + threadIdx.x;
    for (int t = 0; t < 3; t++) {
        copy4_async(&own[threadIdx.x], x + i);
        commit_copies();
        float v = look(sent + t * n + i);
        while (__float_as_uint(v) == NOTHING) {
            let_others();
            v = look(sent + t * n + i);
        }
        wait_copies<0>();
        AFTER
        put(sent + (t + 1) * n + (i + 64) % n, __float_as_uint(v + own[threadIdx.x]));
    }"""


def talk(after=""):
    """(a kernel in which each block tells the next, three times, what it has heard; its arguments)"""
    x, sent = np.ones(256, "f"), np.full((4, 256), 2**32 - 1, "u4").view("f")
    sent[0] = np.arange(256)
    return kernel(TALK.replace("AFTER", after), "float* x, float* sent"), (x, sent)


@in_every_schedule
def test_blocks_that_run_together_hear_each_other(backwards, early):
    """What a block has in shared memory, and on its way there, is its own."""
    run, (x, sent) = talk("own[threadIdx.x] *= 2; __syncthreads(); v += own[threadIdx.x ^ 33] - 2; __syncthreads();")
    with schedule(backwards, early):
        run((4,), (64,), (x, sent), together=True)
    np.testing.assert_array_equal(sent[3], np.roll(np.arange(256), 192) + 6)


@pytest.mark.parametrize("after, says", [
    ("if (blockIdx.x == 1) return;", r"block \(2, 0, 0\).*: deadlock: waits for a word of another block, which nobody"),
    ("if (t == 1) while (look(sent + 3 * n + i) >= 0 || true) let_others();", "deadlock: waits for a word of another"),
    ("if (threadIdx.x == 9) return; __syncthreads();", r"waits in __syncthreads for ever: thread \(9, 0, 0\) has left"),
    ("x[(i + 64) % n] = v;", "race at byte .* of the array of argument 0"),
    ("sent[t * n + i] = v;", "race at byte .* of the array of argument 1: written"),
    ("put(sent + t * n + i, 0);", "tells a word where there is one, which others may want"),
    ("x[i] = sent[t * n + i];", "race at byte .* of the array of argument"),
    ("own[threadIdx.x ^ 32] = v;", "race at byte .* of the __shared__ arrays|by an asynchronous copy"),
])
def test_blocks_that_do_not_are_named(after, says):
    """Words carry nothing along: what else blocks write for each other is a race, also in turns long past."""
    run, arguments = talk(after)
    with pytest.raises(Fault, match=says):
        run((4,), (64,), arguments, together=True)


def test_only_who_was_launched_to_run_together_may_wait():
    run, arguments = talk()
    with pytest.raises(Fault, match="waits for other blocks, which were not launched to run together"):
        run((4,), (64,), arguments)
    with pytest.raises(Fault, match="100000 blocks of 64 threads at once"):
        run((100000,), (64,), arguments, together=True)


@in_every_schedule
def test_lanes_that_run_ahead_do_not_overwrite_what_others_have_yet_to_hear(backwards, early):
    ahead = kernel("""
        int i = threadIdx.x;
        float first = __shfl_xor_sync(~0u, x[i], 16), s = 0;
        if (i < 16) for (int k = 0; k < 5; k++) s += __shfl_xor_sync(0xffff, x[i], 1);
        y[i] = first + s;""", "const float* x, float* y")
    x, y = np.arange(32, dtype="f"), np.zeros(32, "f")
    with schedule(backwards, early):
        ahead((1,), (32,), (x, y))
    np.testing.assert_array_equal(y, x[np.arange(32) ^ 16] + np.where(x < 16, 5 * x[np.arange(32) ^ 1], 0))


def test_atomic_operations():
    count = kernel("atomicAdd(n, 1); atomicMax(most, (int)threadIdx.x);", "int* n, int* most")
    n, most = np.zeros(1, "i4"), np.zeros(1, "i4")
    count((3,), (70,), (n, most))
    assert n[0] == 210 and most[0] == 69


@pytest.mark.parametrize("name, ctype", [("float16", "half"), ("bfloat16", "__nv_bfloat16")])
def test_sixteen_bit_floats_are_rounded_as_numpy_rounds(name, ctype):
    convert = kernel("y[threadIdx.x] = T(x[threadIdx.x]); z[threadIdx.x] = float(y[threadIdx.x]);",
                     "const float* x, T* y, float* z", f"typedef {ctype} T;")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(950) * 10.0 ** rng.uniform(-40, 37, 950),
                        [np.inf, -np.inf, np.nan, 0, -0.0, 65519, 65520, 1 + 2.0 ** -9]]).astype("f")
    x[np.abs(x) < 2.0 ** -126] = 0                                        # CuPy compiles kernels to flush these
    y, z = np.zeros(958, dtype_of(name)), np.zeros(958, "f")
    convert((1,), (958,), (x, y, z))
    with np.errstate(over="ignore"):
        want = x.astype(y.dtype)
    np.testing.assert_array_equal(y.astype("f"), want.astype("f"))
    np.testing.assert_array_equal(z, want.astype("f"))


@in_every_schedule
@pytest.mark.parametrize("name, ctype", [("float16", "half"), ("bfloat16", "__nv_bfloat16")])
def test_tensor_cores(name, ctype, backwards, early):
    """c (16, 16) = a (16, 16) b (16, 16), through cp.async, ldmatrix and mma.sync."""
    product = kernel("""
        T* tile = (T*)dynamic_shared();
        int l = threadIdx.x;
        copy16_async(tile + l * 8, a + l * 8);
        copy16_async(tile + 256 + l * 8, b + l * 8);
        commit_copies();
        wait_copies<0>();
        __syncwarp();
        uint32_t fa[4], fb[4];
        load_matrices<false>(fa, tile + l % 16 * 16 + l / 16 * 8);
        load_matrices<true>(fb, tile + 256 + l % 16 * 16 + l / 16 * 8);
        for (int j = 0; j < 2; j++) {
            float d[4] = {};
            uint32_t half_b[2] = {fb[2 * j], fb[2 * j + 1]};
            multiply_tiles<T>(d, fa, half_b);
            for (int i = 0; i < 4; i++) c[(l / 4 + i / 2 * 8) * 16 + j * 8 + l % 4 * 2 + i % 2] = d[i];
        }""", "const T* a, const T* b, float* c", f"typedef {ctype} T;")
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((16, 16)).astype(dtype_of(name)) for _ in range(2))
    c = np.zeros((16, 16), "f")
    with schedule(backwards, early):
        product((1,), (32,), (a, b, c), shared_mem=1024)
    np.testing.assert_allclose(c, a.astype("f8") @ b.astype("f8"), atol=1e-5)


def test_repeated_arguments_are_one_array():
    double = kernel("y[threadIdx.x] = 2 * x[threadIdx.x];", "const float* x, float* y")
    x = np.arange(8, dtype="f")
    double((1,), (8,), (x, x))
    np.testing.assert_array_equal(x, 2 * np.arange(8))
    with pytest.raises(Fault, match="arguments 0 and 1 overlap"):
        double((1,), (4,), (x[:5], x[4:]))


# ------------------------------------------------------------------------------------------------ it refuses

MISTAKES = {
    "past the end": ("y[threadIdx.x + 1] = 0;", r"writes bytes 256 to 259 of the array of argument 1"),
    "before the start": ("y[(int)threadIdx.x - 1] = 0;", r"thread \(0, 0, 0\): writes bytes -4 to -1 of the array"),
    "of the wrong array": ("y[threadIdx.x] = x[1 << 20];", r"reads bytes 4194304 to 4194307 of the array"),
    "through a null pointer": ("y[threadIdx.x] = *(float*)0;", "in no array of this launch"),
    "past shared memory": ("float* s = (float*)dynamic_shared(); s[threadIdx.x + 1] = 0;",
                           "writes bytes 256 to 259 of dynamic shared memory, which has 256"),
    "past a shared array": ("__shared__ float s[63]; s[threadIdx.x] = 0;", "index 63 is outside its array"),
    "misaligned": ("*(float4*)(y + 1) = float4{};", "misaligned"),
    "misaligned, by name": ("store16(y + 1, uint4{});", "misaligned"),
    "misaligned copy": ("copy16_async(dynamic_shared(), x + 1);", "16 bytes at byte 4 of the array of argument 0"),
    "unwritten": ("__shared__ float s[64]; if (threadIdx.x) s[threadIdx.x] = 0; __syncthreads(); y[0] = s[0];",
                  "byte 0 of the __shared__ arrays is read, and no thread of this block has written it"),
    "no barrier": ("__shared__ float s[64]; s[threadIdx.x] = 0; y[threadIdx.x] = s[63 - threadIdx.x];",
                   "race|no thread of this block has written it"),
    "no second barrier": ("__shared__ float s[64]; for (int i = 0; i < 2; i++) { s[threadIdx.x] = i; __syncthreads(); "
                          "y[threadIdx.x] = s[63 - threadIdx.x]; }", "race at byte .* since thread .* (read|wrote) it"),
    "no barrier within a warp": ("__shared__ float s[64]; s[threadIdx.x] = 0; __shfl_sync(~0u, 0, 0); "
                                 "y[threadIdx.x] = s[threadIdx.x ^ 1];", "race at byte"),
    "blocks that meet": ("y[threadIdx.x] = x[threadIdx.x];", "no barrier since thread .* of block number . wrote it"),
    "all write one": ("y[blockIdx.x] = x[threadIdx.x];", r"race at byte [04] of the array of argument 1: written"),
    "divergence": ("if (threadIdx.x < 40) __syncthreads();", r"in __syncthreads for ever: thread \(40, 0, 0\) has"),
    "barrier and shuffle": ("if (threadIdx.x) __syncthreads(); else __shfl_sync(~0u, 0, 0);",
                            r"waits in __shfl_sync for ever: thread \(31, 0, 0\) waits in __syncthreads"),
    "two collectives": ("if (threadIdx.x % 2) __syncwarp(); else __shfl_sync(~0u, 0, 0);", "calls .* while lane"),
    "not in the mask": ("__syncwarp(1);", "mask 00000001, in which its own lane 1 is missing|31 is missing"),
    "leaves early": ("if (threadIdx.x % 32 > 3) return; __syncwarp();", "waits in __syncwarp for"),
    "no wait": ("copy16_async((char*)dynamic_shared() + threadIdx.x % 16 * 16, x); commit_copies(); wait_copies<1>(); "
                "y[threadIdx.x] = *(float*)dynamic_shared();", "by an asynchronous copy|no thread of this block has"),
    "never waits": ("if (threadIdx.x == 0) copy16_async(dynamic_shared(), x);", "left before its asynchronous copies"),
    "for ever": ("volatile float* p = x + 0; while (*p == 0) {}", "seems to run for ever"),
}


def test_a_shared_array_that_could_not_be_watched_is_refused():
    """g++ puts the statics of a template where it likes, until 16, which does as told: then all is seen."""
    other = """template<class V> __device__ V other(V v) {
                   __shared__ V s[64];
                   s[threadIdx.x] = v;
                   return s[63 - threadIdx.x];
               }"""
    with pytest.raises(Fault, match="writes a static that is not seen as __shared__|no thread of this block"):
        kernel("y[threadIdx.x] = other(x[threadIdx.x]);", "const float* x, float* y", other)(
            (1,), (64,), (np.zeros(64, "f"), np.zeros(64, "f")))


WITHOUT_LINE = ("barrier and shuffle", "two collectives", "never waits")  # told by a function of cuemu.h, or at the end


@in_every_schedule
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name, backwards, early):
    body, words = MISTAKES[name]
    if name == "for ever" and (backwards or early):
        pytest.skip("it takes seconds, and no order matters")
    k = kernel(body, "float* x, float* y" if "volatile" in body else "const float* x, float* y")
    with schedule(backwards, early), pytest.raises(Fault, match=words) as caught:
        k((1 if name in ("before the start", "for ever") else 2,), (64,), (np.zeros(64, "f"), np.zeros(64, "f")), 256)
    said = str(caught.value)
    assert said.startswith("kernel k, block (") and "thread (" in said
    if name not in WITHOUT_LINE and emulator.shutil.which("addr2line"):
        assert "(kernel.cu:" in said, said
    y = np.zeros(64, "f")                                                 # and the next launch knows nothing of it
    kernel("y[threadIdx.x] = 1;", "float* y")((1,), (64,), (y,))
    assert (y == 1).all()


@pytest.mark.parametrize("arguments, words", [
    ((np.zeros(4, "f"),), "got 1 arguments; expected 2"),
    ((np.zeros(4, "d"), np.int32(4)), "argument 0: got f8; expected an array of type f4"),
    ((np.zeros(4, "f"), 4), "argument 1: got int; expected a number of type i4"),
    ((np.zeros(4, "f"), np.int64(4)), "argument 1: got i8; expected a number of type i4"),
    ((np.zeros((4, 4), "f")[:, 0], np.int32(4)), "expected a contiguous array"),
])
def test_arguments_are_checked(arguments, words):
    k = kernel("for (int i = 0; i < n; i++) x[i] = 0;", "float* x, int n")
    with pytest.raises(ValueError, match=words):
        k((1,), (1,), arguments)


def test_launches_are_checked():
    k = kernel("", "int n")
    for grid, block, shared, words in [((0,), (1,), 0, "grid"), ((1, 70000), (1,), 0, "grid"),
                                       ((1,), (1025,), 0, "threads"), ((1,), (1,), 50000, "shared")]:
        with pytest.raises(ValueError, match=words):
            k(grid, block, (np.int32(0),), shared)
    k.max_dynamic_shared_size_bytes = 50000
    k((1,), (1,), (np.int32(0),), 50000)


def test_errors_of_the_compiler_name_the_line():
    with pytest.raises(RuntimeError, match="kernel.cu:1"):
        compile("int f() { return missing; }")


def test_without_a_compiler_it_says_what_to_install():
    code = "from minigrad.emulator import emulator; print(emulator.available()); emulator.compile('')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "CXX": "no-such-compiler"},
                          capture_output=True, text=True)
    assert done.stdout == "False\n"
    assert "got no compiler called 'no-such-compiler'; expected one for C++. Hint: install g++" in done.stderr


def test_fibers_without_assembly(monkeypatch, tmp_path):
    """What other processors than x86-64 run: switching by ucontext."""
    monkeypatch.setenv("MINIGRAD_CACHE_DIR", str(tmp_path))
    emulator.folder.cache_clear()
    monkeypatch.setattr(emulator, "FLAGS", (*emulator.FLAGS, "-DCUEMU_UCONTEXT"))
    try:
        compile.cache_clear()
        test_warps_exchange_values(False, False)
    finally:
        emulator.folder.cache_clear()
        compile.cache_clear()
