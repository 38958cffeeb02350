"""The emulator's Hopper: mbarriers, bulk copies of boxes, wgmma, named barriers. It computes, and names every mistake.

What it takes the hardware to do is a reading of NVIDIA's PTX ISA: a card confirms it by giving the same results.
"""
import functools
import re
from pathlib import Path

import numpy as np
import pytest

from minigrad.backend import dtype_of
from minigrad.emulator import emulator
from minigrad.emulator.emulator import SCHEDULES, Fault, compile, schedule
from minigrad.fused import hopper_gpu
from minigrad.fused.hopper_gpu import tensor_map

pytestmark = pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
in_every_schedule = pytest.mark.parametrize("backwards, early", SCHEDULES)
of_every_type = pytest.mark.parametrize("dtype, ctype", [("float16", "__half"), ("bfloat16", "__nv_bfloat16")])


def kernel(body, arguments, ctype="__half"):
    return kernels([body], arguments, ctype)[0]


@functools.cache
def compiled(bodies, arguments, ctype):
    text = "".join(f'extern "C" __global__ void k{i}({arguments}) {{\n{body}\n}}\n' for i, body in enumerate(bodies))
    return compile(f'#include "device.cuh"\n#include "hopper.cuh"\ntypedef {ctype} T;\n{text}')


def kernels(bodies, arguments, ctype="__half"):
    """One for each body; compiling them all at once takes little longer than compiling one."""
    return [compiled(tuple(bodies), arguments, ctype).get_function(f"k{i}") for i in range(len(bodies))]


MAPS = "const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, float* c, int n"

# c (64, 64) = a (64, 64 n) b (64, 64 n)^T: one thread of the second warpgroup copies, the first one multiplies.
PRODUCT = """
    constexpr int STAGES = 2, TILE = 8192;
    char* tiles = (char*)aligned_shared();
    Barrier *full = (Barrier*)(tiles + 2 * STAGES * TILE), *empty = full + STAGES;
    int t = threadIdx.x, l = t % 32;
    if (t == 0) {
        for (int s = 0; s < STAGES; s++) {
            barrier_init(full + s, 1);
            barrier_init(empty + s, 4);
        }
        fence_async();
    }
    __syncthreads();
    if (t >= 128) {
        for (int i = 0; t == 128 && i < n; i++) {
            int s = i % STAGES;
            barrier_wait(empty + s, i / STAGES % 2 ^ 1);
            barrier_expect(full + s, 2 * TILE);
            load_box(tiles + 2 * s * TILE, a, full + s, i * 64, 0);
            load_box(tiles + (2 * s + 1) * TILE, b, full + s, i * 64, 0);
        }
        return;
    }
    float d[32];
    for (int i = 0; i < n; i++) {
        int s = i % STAGES;
        char* tile = tiles + 2 * s * TILE;
        barrier_wait(full + s, i / STAGES % 2);
        wgmma_fence(d);
        for (int k = 0; k < 4; k++)
            wgmma<T, false>(d, tile_at(tile + 32 * k, 0), tile_at(tile + TILE + 32 * k, 0), i + k > 0);
        wgmma_commit();
        wgmma_wait<0>(d);
        if (l == 0) barrier_arrive(empty + s);
    }
    for (int j = 0; j < 32; j++)
        c[(t / 32 * 16 + l / 4 + j % 4 / 2 * 8) * 64 + j / 4 * 8 + l % 4 * 2 + j % 2] = d[j];"""


def multiply(k, n=5, dtype="float16", shared=4 * 8192 + 1024):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((64, 64 * n)).astype(dtype_of(dtype)) for _ in range(2))
    c = np.zeros((64, 64), "f")
    k((1,), (256,), (tensor_map(a, (64, 64)), tensor_map(b, (64, 64)), c, np.int32(n)), shared)
    return c, a.astype("f8") @ b.astype("f8").T


# ------------------------------------------------------------------------------------------------ it computes

@in_every_schedule
@of_every_type
def test_a_pipeline_of_copies_and_products(dtype, ctype, backwards, early):
    with schedule(backwards, early):
        got, want = multiply(kernel(PRODUCT, MAPS, ctype), 5, dtype)
    np.testing.assert_allclose(got, want, atol=1e-4)


@in_every_schedule
@of_every_type
@pytest.mark.parametrize("columns", [64, 128])
def test_a_in_registers_and_b_transposed(columns, dtype, ctype, backwards, early):
    """c (64, columns) = a (64, 32) b (32, columns): a wider b is two tiles, side by side in global memory."""
    product = kernel(f"""
        constexpr int COLUMNS = {columns};
        char* tiles = (char*)aligned_shared();
        Barrier* full = (Barrier*)(tiles + COLUMNS / 64 * 4096);
        int t = threadIdx.x, l = t % 32, row = t / 32 * 16 + l / 4;
        if (t == 0) {{
            barrier_init(full, 1);
            fence_async();
            barrier_expect(full, COLUMNS / 64 * 4096);
            for (int j = 0; j < COLUMNS; j += 64) load_box(tiles + j / 64 * 4096, b, full, j, 0);
        }}
        __syncthreads();
        uint32_t f[2][4];
        for (int i = 0; i < 8; i++)
            memcpy(&f[i / 4][i % 4], a + (row + i % 2 * 8) * 32 + i / 4 * 16 + i % 4 / 2 * 8 + l % 4 * 2, 4);
        float d[COLUMNS / 2] = {{}};
        barrier_wait(full, 0);
        wgmma_fence(d, f);
        for (int k = 0; k < 2; k++) wgmma<T, true>(d, f[k], tile_at(tiles + k * 2048, 4096), true);
        wgmma_commit();
        wgmma_wait<0>(d, f);
        for (int j = 0; j < COLUMNS / 2; j++)
            c[(row + j % 4 / 2 * 8) * COLUMNS + j / 4 * 8 + l % 4 * 2 + j % 2] = d[j];""",
                     "const T* a, const __grid_constant__ TensorMap b, float* c", ctype)
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((64, 32)).astype(dtype_of(dtype)), rng.standard_normal((32, columns))
    b, c = b.astype(a.dtype), np.zeros((64, columns), "f")
    with schedule(backwards, early):
        product((1,), (128,), (a, tensor_map(b, (32, 64)), c), columns * 64 + 64)
    np.testing.assert_allclose(c, a.astype("f8") @ b.astype("f8"), atol=1e-5)


@in_every_schedule
@pytest.mark.parametrize("z, y, x", [(0, 0, 0), (1, 3, 8), (2, -2, -5), (-1, 5, 60), (2, 9, 70)])
def test_boxes_reach_beyond_the_tensor(z, y, x, backwards, early):
    """Of a view with strides: part of a wider array. Rows come with their 16-byte pieces exchanged; 0 lies outside."""
    copy = kernel("""
        unsigned char* tile = (unsigned char*)aligned_shared();
        Barrier* full = (Barrier*)(tile + 2048);
        if (threadIdx.x == 0) {
            barrier_init(full, 1);
            fence_async();
            barrier_expect(full, 2048);
            load_box(tile, a, full, x, y, z);
        }
        __syncthreads();
        barrier_wait(full, 0);
        for (int i = threadIdx.x; i < 1024; i += 32)
            c[i] = ((unsigned short*)tile)[i / 64 * 64 + (i % 64 / 8 ^ i / 64 % 8) * 8 + i % 8];""",
                  "const __grid_constant__ TensorMap a, unsigned short* c, int x, int y, int z")
    whole = np.arange(3 * 10 * 80, dtype="u2").reshape(3, 10, 80).view("f2")
    a, c, wide = whole.reshape(30, 80).reshape(3, 10, 80), np.zeros((2, 8, 64), "u2"), np.zeros((9, 30, 300), "u2")
    wide[3:6, 10:20, 100:180] = whole.view("u2")
    with schedule(backwards, early):
        copy((1,), (32,), (tensor_map(a, (2, 8, 64)), c, *map(np.int32, (x, y, z))), 2048 + 64)
    np.testing.assert_array_equal(c, wide[3 + z:5 + z, 10 + y:18 + y, 100 + x:164 + x])


@in_every_schedule
def test_named_barriers_order_what_two_groups_do(backwards, early):
    """They write to the same place in turn; those that only arrive do not wait, and what they wrote is seen."""
    turns = kernel("""
        __shared__ int place[64];
        int group = threadIdx.x / 64, i = threadIdx.x % 64;
        if (group == 1) group_arrive(1, 128);
        for (int k = 0; k < 4; k++) {
            group_sync(1 + group, 128);
            int last = k == 0 && group == 0 ? 0 : place[63 - i];
            group_sync(3 + group, 64);
            place[i] = 3 * last + 1 + group;
            group_sync(3 + group, 64);
            if (group == 0 || k < 3) group_arrive(2 - group, 128);
        }
        if (group == 1) y[i] = place[i];""", "int* y")
    want, y = 0, np.zeros(64, "i4")
    for k in range(8):
        want = 3 * want + 1 + k % 2
    with schedule(backwards, early):
        turns((1,), (128,), (y,))
    assert (y == want).all()


SAID_BY_ONE = """
    __shared__ float place[64];
    Barrier *full = (Barrier*)aligned_shared(), *empty = full + 1;
    int i = threadIdx.x;
    if (i == 0) {
        barrier_init(full, 64);
        barrier_init(empty, 2);
    }
    __syncthreads();
    for (int k = 0; k < 3; k++)
        if (i < 64) {
            barrier_wait(empty, k % 2 ^ 1);
            place[i] = i + k;
            barrier_arrive(full);
        } else {
            barrier_wait(full, k % 2);
            y[64 * k + i - 64] = place[127 - i];
            __syncwarp();
            if (i % 32 == 0) barrier_arrive(empty);
        }"""


@in_every_schedule
def test_one_lane_speaks_for_its_warp(backwards, early):
    """What several have read is overwritten when one of each warp has said so, if they had met before."""
    right, wrong = kernels([SAID_BY_ONE, SAID_BY_ONE.replace("__syncwarp();", "")], "float* y")
    y = np.zeros((3, 64), "f")
    with schedule(backwards, early):
        right((1,), (128,), (y,), 16)
        with pytest.raises(Fault, match="race at byte .* no barrier since (several|thread)"):
            wrong((1,), (128,), (y.copy(),), 16)
    np.testing.assert_array_equal(y, np.arange(64)[::-1] + np.arange(3)[:, None])


def test_registers_are_shared_out():
    k = kernel("if (threadIdx.x < 128) fewer_registers<24>(); else more_registers<240>();", "int* y")
    k((1,), (384,), (np.zeros(1, "i4"),))
    with pytest.raises(Fault, match="want 72192 registers of 65536"):
        k((1,), (512,), (np.zeros(1, "i4"),))


# ------------------------------------------------------------------------------------------------ it refuses

MISTAKES = {                                       # what of PRODUCT is replaced, by what, and what is said of it
    "nobody says that a tile is free": ("if (l == 0) barrier_arrive(empty + s);", "",
                                        "deadlock: .* waits for an mbarrier: its phase 0 lacks 4 of 4 arrivals and"),
    "a warp does not say it": ("if (l == 0) barrier", "if (t % 96 == 0) barrier", "lacks 2 of 4 arrivals"),
    "all lanes say it": ("if (l == 0) barrier_arrive", "barrier_arrive", "since a wgmma|reads that was not waited"),
    "a tile is free too early": ("wgmma_wait<0>(d);\n        if (l == 0) barrier_arrive(empty + s);",
                                 "if (l == 0) barrier_arrive(empty + s);\n        wgmma_wait<0>(d);",
                                 "no barrier since a wgmma of warp|which a wgmma of warp . reads that was not waited"),
    "the wrong parity, passed": ("barrier_wait(full + s, i / STAGES % 2)", "barrier_wait(full + s, i / STAGES % 2 ^ 1)",
                                 "no thread of this block has written|that was not waited for|deadlock"),
    "the wrong parity, for ever": ("i / STAGES % 2 ^ 1", "i / STAGES % 2", "its phase 0 lacks 4 of 4 arrivals"),
    "no parity": ("i / STAGES % 2 ^ 1", "i / STAGES", "waits for parity 2; 0 or 1|its phase 0 lacks 4 of 4 arr"),
    "too many bytes": ("full + s, 2 * TILE);", "full + s, 3 * TILE);", "lacks 0 of 1 arrivals and 8192 bytes"),
    "too few bytes": ("full + s, 2 * TILE);", "full + s, TILE);",
                      "that was not waited for is writing|race|which no thread of this block has written"),
    "no bytes": ("barrier_expect(full + s, 2 * TILE);", "barrier_arrive(full + s);", "that was not waited for|which no "
                 "thread of this block has written|race|copy of a box"),
    "nobody waits for the copy": ("barrier_wait(full + s, i / STAGES % 2);", "",
                                  "which no thread of this block has written|that was not waited for|since a copy of"),
    "one thread waits for the copy": ("barrier_wait(full + s, i / STAGES % 2);",
                                      "if (t % 64 == 0) barrier_wait(full + s, i / STAGES % 2);",
                                      "read by a wgmma, and no barrier since a copy|which no thread|not waited for"),
    "nobody waits for the readers": ("barrier_wait(empty + s, i / STAGES % 2 ^ 1);", "",
                                     "race|asynchronous copy|that was not waited for|all 1 of this phase have arr"),
    "no fence.proxy.async": ("fence_async();", "", "no fence.proxy.async since it was initialised"),
    "no barrier after mbarrier.init": ("}\n    __syncthreads();", "}",
                                       "no barrier since thread .0, 0, 0. initialised it|is not an initialised mbarr"),
    "never initialised": ("barrier_init(empty + s, 4);", "", "uses what is not an initialised mbarrier"),
    "an mbarrier is read": ("float d[32];", "float d[32] = {float(full[0])};", "byte 32768 .* is part of an mbarrier"),
    "an mbarrier elsewhere": ("barrier_init(full + s, 1);", "barrier_init((Barrier*)c + s, 1);", "outside shared mem"),
    "a misaligned mbarrier": ("(Barrier*)(tiles + 2 * STAGES * TILE)", "(Barrier*)(tiles + 2 * STAGES * TILE + 4)",
                              "the address is no multiple of 8|misaligned"),
    "no wgmma.fence": ("wgmma_fence(d);", "", "no wgmma.fence since registers could be written"),
    "no wgmma.fence, the second time": ("wgmma_fence(d);", "if (i == 0) wgmma_fence(d);", "no wgmma.fence since"),
    "sums are read too early": ("wgmma_wait<0>(d);", "c[t] = d[0]; wgmma_wait<0>(d);",
                                "touches the sums of a wgmma that was not waited for"),
    "sums are written too early": ("wgmma_commit();", "d[31] = 0; wgmma_commit();", "touches the sums of a wgmma"),
    "too few groups are waited for": ("wgmma_wait<0>", "wgmma_wait<1>", "touches the sums|wgmma of warp . rea"),
    "no group": ("wgmma_commit();", "", "touches the sums|wgmma of warp . reads that was not waited for"),
    "never waits": ("wgmma_wait<0>(d);\n        if (l == 0) barrier_arrive(empty + s);\n    }",
                    "if (i == 0) return;\n    }", "left before its wgmma was waited for"),
    "a tile off its pattern": ("(char*)aligned_shared()", "(char*)aligned_shared() + 512",
                               "a tile at byte 512: its pattern must begin at a multiple of 1024"),
    "a misaligned box": ("(char*)aligned_shared()", "(char*)aligned_shared() + 64", "to byte 64, no multiple of 128"),
    "a tile that nobody fills": ("tile_at(tile + TILE + 32 * k, 0)", "tile_at(tiles + 5 * TILE + 32 * k, 0)",
                                 "a tile reaches byte|which no thread of this block has written"),
    "a tile of an mbarrier": ("tile_at(tile + TILE + 32 * k, 0)", "tile_at(tiles + 4 * TILE + 32 * k, 0)",
                              "which is part of an mbarrier"),
    "another layout": ("tile_at(tile + 32 * k, 0)", "tile_at(tile + 32 * k, 0) << 2 >> 2", "another layout"),
    "warps that differ": ("wgmma<T, false>(d, tile_at(tile + 32 * k, 0)",
                          "wgmma<T, false>(d, tile_at(tile + 32 * (t / 32 == 2 ? k ^ 1 : k), 0)",
                          "another wgmma than a warp of the same warpgroup"),
    "lanes that differ": ("wgmma<T, false>(d, tile_at(tile + 32 * k, 0)",
                          "wgmma<T, false>(d, tile_at(tile + 32 * (l == 7 ? k ^ 1 : k), 0)",
                          "lane 7 issues another wgmma than lane 0"),
    "a warp that leaves one out": ("k < 4; k++)", "k < (t / 32 == 3 && i == n - 1 ? 3 : 4); k++)",
                                   "warps of warpgroup 0 issued 20 and 19 wgmma"),
    "coordinates too many": ("b, full + s, i * 64, 0);", "b, full + s, i * 64, 0, 0);", "2 dimensions, at 3 coord"),
    "to global memory": ("load_box(tiles + 2 * s * TILE", "load_box(c", "a box to what is not dynamic shared memory"),
    "past shared memory": ("load_box(tiles + 2 * s * TILE", "load_box(tiles + 32640", "part of an mbarrier"),
}


@in_every_schedule
@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name, backwards, early):
    *_, words = MISTAKES[name]
    assert all(PRODUCT.count(old) == 1 for old, *_ in MISTAKES.values())
    right, *wrong = kernels([PRODUCT, *(PRODUCT.replace(old, new) for old, new, _ in MISTAKES.values())], MAPS)
    with schedule(backwards, early), pytest.raises(Fault, match=words) as caught:
        multiply(wrong[list(MISTAKES).index(name)])
    assert str(caught.value).startswith("kernel k"), caught.value
    with schedule(backwards, early):                                      # the next launch knows nothing of it
        np.testing.assert_allclose(*multiply(right), atol=1e-4)


OTHERS = {
    "written by threads, no fence.proxy.async": ("""
        T* tile = (T*)aligned_shared();
        for (int i = threadIdx.x; i < 4096; i += 128) tile[i] = T(1.0f);
        __syncthreads();
        float d[32];
        wgmma_fence(d);
        wgmma<T, false>(d, tile_at(tile, 0), tile_at(tile, 0), false);
        wgmma_commit();
        wgmma_wait<0>(d);""", "reads byte 0 of dynamic shared memory, and no fence.proxy.async since thread .0, 0, 0."),
    "written under a wgmma": ("""
        T* tile = (T*)aligned_shared();
        for (int i = threadIdx.x; i < 4096; i += 128) tile[i] = T(1.0f);
        fence_async();
        __syncthreads();
        float d[32];
        wgmma_fence(d);
        wgmma<T, false>(d, tile_at(tile, 0), tile_at(tile, 0), false);
        wgmma_commit();
        if (threadIdx.x == 0) tile[0] = T(0.0f);
        wgmma_wait<0>(d);""", "writes byte 0 of dynamic shared memory, which a wgmma of warp 0 reads that was not"),
    "registers of a are written": ("""
        T* tile = (T*)aligned_shared();
        for (int i = threadIdx.x; i < 4096; i += 128) tile[i] = T(1.0f);
        fence_async();
        __syncthreads();
        float d[32];
        uint32_t f[1][4] = {};
        wgmma_fence(d, f);
        wgmma<T, false>(d, f[0], tile_at(tile, 0), false);
        wgmma_commit();
        f[0][1] = threadIdx.x;
        wgmma_wait<0>(d, f);
        y[threadIdx.x] = f[0][1] + d[0];""", "writes what a wgmma that was not waited for reads from registers"),
    "a tile between 16 bytes": ("tile_at((char*)aligned_shared() + 8, 0);", "a tile at byte 8, no multiple of 16"),
    "half a warpgroup": ("""
        float d[32];
        if (threadIdx.x % 32 < 16) wgmma_fence(d); else __syncwarp(0xffff0000);""",
                         "waits in|calls .* while lane"),
    "threads that do not come": ("if (threadIdx.x < 96) group_sync(1, 128);",
                                 "deadlock: waits in bar.sync 1: 96 of 128 threads have come"),
    "threads that come unasked": ("group_sync(1 + threadIdx.x / 64, 64); if (threadIdx.x < 32) group_arrive(1, 64);",
                                  "barrier 1 is left with 32 of 64 threads"),
    "a barrier of two sizes": ("group_sync(1, threadIdx.x < 64 ? 64 : 128); group_sync(1, 64 + threadIdx.x / 32 * 32);",
                               "which others take to be of"),
    "half a warp": ("group_sync(1, 16);", "a barrier of 16 threads; a multiple of 32"),
    "barrier 16": ("group_sync(16, 128);", "barrier 16; 1 to 15"),
    "a named barrier of others": ("""
        __shared__ float s[128];
        s[threadIdx.x] = 1;
        group_sync(1 + threadIdx.x / 64, 64);
        y[threadIdx.x] = s[127 - threadIdx.x];""", "race at byte|no thread of this block has written it"),
    "who arrives has seen nothing": ("""
        __shared__ float s[64];
        if (threadIdx.x < 64) group_arrive(1, 128); else { s[threadIdx.x - 64] = 1; group_sync(1, 128); }
        if (threadIdx.x < 64) y[threadIdx.x] = s[threadIdx.x];""", "race at byte|no thread of this block has written"),
    "too many mbarriers": ("""
        if (threadIdx.x == 0) for (int i = 0; i < 65; i++) barrier_init((Barrier*)aligned_shared() + i, 1);""",
                           "more than 64 mbarriers"),
    "no arrivals": ("if (threadIdx.x == 0) barrier_init((Barrier*)aligned_shared(), 0);", "of 0 arrivals; at least 1"),
}


@in_every_schedule
def test_a_copy_comes_to_where_threads_wrote_after_their_fence(backwards, early):
    refill = """
        T* tile = (T*)aligned_shared();
        Barrier* full = (Barrier*)(tile + 4096);
        if (threadIdx.x == 0) {
            barrier_init(full, 1);
            fence_async();
        }
        for (int i = threadIdx.x; i < 4096; i += 128) tile[i] = T(1.0f);
        fence_async();
        __syncthreads();
        if (threadIdx.x == 0) {
            barrier_expect(full, 8192);
            load_box(tile, a, full, 0, 0);
        }
        barrier_wait(full, 0);
        c[threadIdx.x] = float(tile[threadIdx.x]);"""
    a, c = np.full((64, 64), 7, "f2"), np.zeros(128, "f")
    right, wrong = kernels([refill, refill.replace("fence_async();\n        __sync", "__sync")], MAPS)
    given = tensor_map(a, (64, 64)), tensor_map(a, (64, 64)), c, np.int32(0)
    with schedule(backwards, early):
        right((1,), (128,), given, 8200)
        assert (c == 7).all()
        with pytest.raises(Fault, match="copies a box to byte .* no fence.proxy.async since thread .* wrote it"):
            wrong((1,), (128,), given, 8200)


@in_every_schedule
@pytest.mark.parametrize("name", OTHERS)
def test_other_mistakes_are_named(name, backwards, early):
    k = kernels([body for body, _ in OTHERS.values()], "float* y")[list(OTHERS).index(name)]
    with schedule(backwards, early), pytest.raises(Fault, match=OTHERS[name][1]):
        k((1,), (128,), (np.zeros(128, "f"),), 8192)


def test_a_block_must_not_leave_before_its_copies_have_landed():
    more = PRODUCT.replace("i < n; i++) {\n            int s", "i < n + 1; i++) {\n            int s")
    with pytest.raises(Fault, match="a block left before its copy of a box had landed .kernel.cu:"):
        multiply(kernel(more, MAPS))


def test_a_fault_names_the_line():
    if not emulator.shutil.which("addr2line"):
        pytest.skip("no addr2line")
    text = PRODUCT.replace("wgmma_fence(d);", "")
    line = 5 + text[:text.index("wgmma<T, false>")].count("\n")
    with pytest.raises(Fault, match=rf"thread \(\d+, 0, 0\): wgmma, and no .* \(kernel.cu:{line}\)"):
        multiply(kernel(text, MAPS))


# ------------------------------------------------------------------------------------------------ tensor maps

HALVES = np.zeros((4, 8, 64), "f2")


@pytest.mark.parametrize("x, box, words", [
    (HALVES[0, 0], (64,), "2 to 5 axes"), (HALVES, (1, 64), "2 to 5 axes"), (HALVES.view("u2"), (1, 1, 64), "16-bit"),
    (HALVES.astype("f"), (1, 1, 32), "16-bit"), (HALVES[..., ::2], (1, 1, 64), "side by side"),
    (HALVES, (1, 1, 32), "64 entries of the last axis"), (HALVES, (1, 257, 64), "1 to 256 of the others"),
    (HALVES, (0, 1, 64), "1 to 256 of the others"), (np.zeros((4, 65), "f2"), (1, 64), "multiples of 16 bytes"),
    (HALVES.reshape(-1)[4:68].reshape(2, 32), (1, 64), "from an address 8 beyond a multiple"),
    (np.zeros((0, 64), "f2"), (1, 64), "none of them empty"),
])
def test_maps_that_the_hardware_would_refuse(x, box, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        tensor_map(x, box)


def test_maps_are_checked_as_arguments():
    k = kernel("", "const __grid_constant__ TensorMap a")
    with pytest.raises(ValueError, match="argument 0: got ndarray; expected a tensor map"):
        k((1,), (1,), (HALVES,))
    k((1,), (1,), (tensor_map(HALVES, (1, 1, 64)),))


def header():
    from bench.cuda import compilers
    found = [Path(c.include, "cuda.h") for c in compilers() if c.include and Path(c.include, "cuda.h").exists()]
    return found[-1].read_text() if found else pytest.skip("no cuda.h: pip install nvidia-cuda-runtime-cu12")


@pytest.mark.parametrize("name, enum, ours", [
    ("CU_TENSOR_MAP_DATA_TYPE_FLOAT16", "DataType", hopper_gpu.TYPES["float16"]),
    ("CU_TENSOR_MAP_DATA_TYPE_BFLOAT16", "DataType", hopper_gpu.TYPES["bfloat16"]),
    ("CU_TENSOR_MAP_INTERLEAVE_NONE", "Interleave", hopper_gpu.NO_INTERLEAVE),
    ("CU_TENSOR_MAP_SWIZZLE_128B", "Swizzle", hopper_gpu.SWIZZLE_128B),
    ("CU_TENSOR_MAP_L2_PROMOTION_L2_256B", "L2promotion", hopper_gpu.L2_256B),
    ("CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE", "FloatOOBfill", hopper_gpu.ZEROS),
])
def test_numbers_are_those_of_the_header(name, enum, ours):
    body = re.search(rf"typedef enum CUtensorMap{enum}_enum \{{(.*?)\}}", header(), re.S)[1]
    assert re.findall(r"\bCU_\w+", body).index(name) == ours              # they are counted from 0 on
    assert "= 0" in body.split(",")[0] and "=" not in "".join(body.split(",")[1:])


def test_the_encoder_is_called_as_the_header_has_it(monkeypatch):
    """What the driver would be given, by a stand-in for it."""
    want = re.search(r"CUresult CUDAAPI cuTensorMapEncodeTiled\((.*?)\);", header(), re.S)[1]
    assert [re.split(r"\s\*?(?=\w+$)", a.strip())[-1] for a in want.split(",")] == [
        "tensorMap", "tensorDataType", "tensorRank", "globalAddress", "globalDim", "globalStrides", "boxDim",
        "elementStrides", "interleave", "swizzle", "l2Promotion", "oobFill"]
    seen = []

    def encode(to, kind, rank, address, sizes, strides, box, steps, *rest):
        read = lambda p, n, t: np.ctypeslib.as_array((t * n).from_address(p)).tolist()
        u4, u8 = hopper_gpu.ctypes.c_uint, hopper_gpu.ctypes.c_ulonglong
        seen.append((to % 64, kind, rank, address, read(sizes, rank, u8), read(strides, rank - 1, u8),
                     read(box, rank, u4), read(steps, rank, u4), rest))
        return 0

    monkeypatch.setattr(hopper_gpu, "encoder", lambda: encode)
    record = hopper_gpu.encoded(HALVES, (1, 2, 64), 4096)
    assert seen == [(0, 6, 3, 4096, [64, 8, 4], [128, 1024], [64, 2, 1], [1, 1, 1], (0, 3, 3, 0))]
    assert record.size == 1 and record.nbytes == 128
    monkeypatch.setattr(hopper_gpu, "encoder", lambda: lambda *_: 1)
    with pytest.raises(ValueError, match="CUDA error 1"):
        hopper_gpu.encoded(HALVES, (1, 2, 64), 4096)
