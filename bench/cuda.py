"""usage: python -m bench cuda [--arch sm_80,sm_90] [STEM ...]

Compiles every kernel of minigrad/fused/*.cu, for every element type, and prints what ptxas says of it: registers of a
thread, bytes that went to memory instead (spills, and arrays whose place the compiler does not know: there should be
none), bytes of shared memory. A kernel written for Hopper is compiled for sm_90a, and must keep its wgmma asynchronous.
By every NVRTC whose wheels are installed, else by nvcc. None of them needs a GPU or a driver.

    CUDA 12:  pip install nvidia-cuda-nvrtc-cu12 nvidia-cuda-runtime-cu12
    CUDA 13:  pip install --target cuda13 nvidia-cuda-nvrtc nvidia-cuda-runtime;  export PYTHONPATH=$PWD/cuda13

In a folder of their own, for beside the others CuPy for CUDA 12 would take those of CUDA 13 for its own.
"""
import argparse
import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from minigrad.cuda import FUSED, for_hopper, instances, text

STEMS = sorted(path.stem for path in FUSED.glob("*.cu"))
ARCHS = "sm_80", "sm_90"
KERNEL = re.compile(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                    r"(\d+) bytes spill loads.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?", re.S)
SERIALIZED = re.compile(r"wgmma.mma_async instructions are serialized due to .* in the function '(\w+)'")


class Compiler(NamedTuple):
    name: str                                       # "NVRTC 12.9", "nvcc"
    path: str
    include: str | None                             # where NVRTC finds CUDA's headers


class Row(NamedTuple):
    compiler: str
    stem: str
    kernel: str
    instance: str                                   # the element type, and sizes
    arch: str
    registers: int
    spilled: int
    shared: int
    serialized: bool                                # wgmma, for the compiler could not keep its registers apart

    def passes(self):
        return not self.spilled and not self.serialized


def compilers():
    """Every NVRTC with its headers, oldest first; nvcc where there is none."""
    found, nvrtcs = importlib.util.find_spec("nvidia"), []
    for place in map(Path, found.submodule_search_locations if found else ()):
        for library in place.glob("*/lib/libnvrtc.so.*"):
            headers = [library.parents[1] / "include", place / "cuda_runtime" / "include"]    # of CUDA 13, of CUDA 12
            if include := next((folder for folder in headers if (folder / "cuda_fp16.h").exists()), None):
                major, minor = ctypes.c_int(), ctypes.c_int()
                ctypes.CDLL(str(library)).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
                version = major.value, minor.value
                nvrtcs.append((version, Compiler("NVRTC {}.{}".format(*version), str(library), str(include))))
    nvcc = shutil.which("nvcc")
    return [compiler for _, compiler in sorted(nvrtcs)] or ([Compiler("nvcc", nvcc, None)] if nvcc else [])


def ptxas(compiler, stem, defines, arch):
    """The compiler's report on fused/STEM.cu; raises RuntimeError with its errors."""
    named = [f"-D{name}={value}" for name, value in defines.items()]
    code, name = text(stem + ".cu"), f"{stem}.cu"
    if compiler.include:
        return nvrtc(compiler.path, code, name, ["--std=c++17", *named, f"-arch={arch}", "-ftz=true",
                                                 f"-I{compiler.include}", "--ptxas-options=-v"])
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, name)
        source.write_text(code)
        done = subprocess.run([compiler.path, "-std=c++17", *named, f"-arch={arch}", "-ftz=true", "-Xptxas=-v",
                               "-cubin", source, "-o", Path(folder, "out")], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stderr


def nvrtc(path, code, name, options):
    library, program, size = ctypes.CDLL(path), ctypes.c_void_p(), ctypes.c_size_t()
    flags = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    library.nvrtcCreateProgram(ctypes.byref(program), code.encode(), name.encode(), 0, None, None)
    failed = library.nvrtcCompileProgram(program, len(options), flags)
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        raise RuntimeError(log.value.decode())
    return log.value.decode()


def rows(compiler, stem, defines, arch):
    """A Row for each kernel of fused/STEM.cu."""
    log = ptxas(compiler, stem, defines, arch)
    for kernel, stack, stores, loads, registers, shared in KERNEL.findall(log):
        yield Row(compiler.name, stem, kernel, " ".join(map(str, defines.values())), arch, int(registers),
                  sum(map(int, (stack, stores, loads))), int(shared or 0), kernel in SERIALIZED.findall(log))


def table(stems, pairs):
    """Yield a Row for every kernel of the stems, of every instance, by every (compiler, architecture)."""
    jobs = [(compiler, stem, defines, arch) for stem in stems for defines in instances(stem)
            for compiler, arch in pairs_for(stem, pairs)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for found in pool.map(lambda job: list(rows(*job)), jobs):
            yield from found


def pairs_for(stem, pairs):
    return dict.fromkeys((compiler, "sm_90a" if for_hopper(stem) else arch) for compiler, arch in pairs)


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench cuda", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stems", nargs="*", default=STEMS, help="which files [all]")
    parser.add_argument("--arch", default=",".join(ARCHS), help="architectures, separated by commas [%(default)s]")
    args = parser.parse_args(argv)
    found = compilers()
    if not found:
        print("bench cuda: found neither NVRTC nor nvcc. Hint: pip install nvidia-cuda-nvrtc-cu12 "
              "nvidia-cuda-runtime-cu12", file=sys.stderr)
        return 1
    print(f"{'kernel':32} {'instance':18} {'compiler':10} {'arch':7} {'registers':>9} {'spilled':>8} {'shared':>7}")
    failed = False
    for row in table(args.stems, [(compiler, arch) for compiler in found for arch in args.arch.split(",")]):
        print(f"{row.stem + '.' + row.kernel:32} {row.instance:18} {row.compiler:10} {row.arch:7} {row.registers:9} "
              f"{row.spilled:8} {row.shared:7}{'  wgmma serialized' if row.serialized else ''}")
        failed |= not row.passes()
    return int(failed)
