"""Every CUDA kernel compiles for the GPUs it is meant for, in every element type, and fits in their registers."""
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from bench import cuda
from minigrad import backend
from minigrad.cuda import FUSED, Program, for_hopper, text
from minigrad.emulator.emulator import KERNEL
from minigrad.fused.hopper_gpu import is_hopper

COMPILERS = cuda.compilers()
# By the oldest for the older GPUs, by the newest for the newer ones; python -m bench cuda does the other two as well.
PAIRS = [(COMPILERS[0], "sm_80"), (COMPILERS[-1], "sm_90")] if COMPILERS else []
without_one = pytest.mark.skipif(not COMPILERS, reason="found neither NVRTC nor nvcc: python -m bench cuda --help")


@without_one
@pytest.mark.parametrize("stem", cuda.STEMS)
def test_kernels_compile_without_spills(stem):
    rows = list(cuda.table([stem], PAIRS))
    kernels = set(KERNEL.findall((FUSED / f"{stem}.cu").read_text()))
    assert {(row.kernel, row.compiler) for row in rows} == {(k, c.name) for k in kernels for c, _ in PAIRS}
    assert {row.arch for row in rows} == ({"sm_90a"} if for_hopper(stem) else {"sm_80", "sm_90"})
    assert not [row for row in rows if not row.passes()], rows


@without_one
def test_a_spill_and_a_wgmma_that_is_waited_for_at_once_are_seen(monkeypatch):
    spill = """
        extern "C" __global__ void __launch_bounds__(1024, 2) k(const float* x, float* y) {
            float v[99];
            for (int i = 0; i < 99; i++) v[i] = x[i * 1024 + threadIdx.x];
            __syncthreads();
            for (int i = 0; i < 99; i++) y[i * 1024 + threadIdx.x] = v[i] * v[98 - i];
        }"""
    touched = """
        #include "device.cuh"
        #include "hopper.cuh"
        extern "C" __global__ void __launch_bounds__(128) k(float* y) {
            float d[32] = {};
            wgmma_fence();
            for (int i = 0; i < 4; i++) {
                wgmma<__half, false>(d, tile_at(aligned_shared(), 0), tile_at(aligned_shared(), 0), true);
                d[i] += 1.0f;
            }
            wgmma_commit();
            wgmma_wait<0>(d);
            for (int i = 0; i < 32; i++) y[i * 128 + threadIdx.x] = d[i];
        }"""
    for own, arch, seen in ((spill, "sm_90", "spilled"), (touched, "sm_90a", "serialized")):
        code = re.sub(r'#include "(\w+\.cuh)"', lambda found: text(found[1]), own)
        monkeypatch.setattr(cuda, "text", lambda name, code=code: code)
        row, = cuda.rows(COMPILERS[-1], "k", {}, arch)
        assert getattr(row, seen) and not row.passes(), row


def test_cupy_is_asked_for_hoppers_own_instructions(monkeypatch):
    class CuPy:
        def RawModule(self, code, options):
            return options

    monkeypatch.setattr(backend, "cupy", CuPy)
    assert Program("relu", (("REAL", "float"),)).on_gpu == ("--std=c++17", "-DREAL=float")
    assert Program("attention_sm90", (("HEAD", 64),)).on_gpu == ("--std=c++17", "-DHEAD=64", "-arch=sm_90a")


@pytest.mark.parametrize("capability, nvrtc, can", [
    ("90", (12, 9), True), ("90", (13, 0), True), ("90", (12, 8), False), ("80", (13, 0), False),
    ("100", (13, 0), False)])
def test_hoppers_own_instructions_want_a_compiler_that_can_be_asked_for_them(capability, nvrtc, can, monkeypatch):
    """NVRTC 12.8, for one, says of two architectures: "--gpu-architecture (-arch) defined more than once"."""
    cuda = SimpleNamespace(Device=lambda: SimpleNamespace(compute_capability=capability),
                           nvrtc=SimpleNamespace(getVersion=lambda: nvrtc))
    monkeypatch.setattr(backend, "cupy", lambda: SimpleNamespace(cuda=cuda))
    slow = capability == "90" and not can                    # and the user hears of it
    with pytest.warns(UserWarning, match="NVRTC 12.8: .* 12.9 or newer") if slow else nullcontext():
        assert is_hopper.__wrapped__() == can


@pytest.mark.parametrize("stem", cuda.STEMS)
def test_nothing_of_ours_is_left_to_include(stem):
    """CuPy would not notice an edit in a file that is included."""
    assert not re.search(r'#include "', text(stem + ".cu"))


def test_a_pasted_text_keeps_its_line_numbers():
    pasted, own = text("relu.cu").split("\n"), (FUSED / "relu.cu").read_text().split("\n")
    start = pasted.index('#line 3 "relu.cu"')
    assert pasted[start + 1:] == own[2:]


def test_lines_are_as_short_as_elsewhere():
    for path in [*FUSED.glob("*.cu*"), *FUSED.parent.glob("emulator/*")]:
        if path.is_file():
            assert all(len(line) <= 120 for line in path.read_text().split("\n")), path


def test_sums_do_not_depend_on_who_comes_first():
    for path in FUSED.glob("*.cu*"):
        assert "atomic" not in path.read_text(), path
