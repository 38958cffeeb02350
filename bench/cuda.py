"""usage: python -m bench cuda [--arch sm_80,sm_90] [STEM ...]

Compiles every kernel of minigrad/fused/*.cu, for every element type, and prints what ptxas says of it: registers of a
thread, bytes that went to memory instead (spills, and arrays whose place the compiler does not know: there should be
none), bytes of shared memory. By NVRTC if its wheel is installed (pip install nvidia-cuda-nvrtc-cu12
nvidia-cuda-runtime-cu12), else by nvcc. Neither needs a GPU or a driver.
"""
import argparse
import ctypes
import importlib.util
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from minigrad.kernels import FUSED, REAL, SIZES, text

STEMS = sorted(path.stem for path in FUSED.glob("*.cu"))
KERNEL = re.compile(r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
                    r"(\d+) bytes spill loads.*?Used (\d+) registers(?:[^\n]*?(\d+) bytes smem)?", re.S)


def compiler():
    """("nvrtc", library, include folder), ("nvcc", path, None), or None."""
    found = importlib.util.find_spec("nvidia")
    for place in map(Path, found.submodule_search_locations if found else ()):
        library = next(iter(sorted(place.glob("*/lib/libnvrtc.so.*"))), None)
        header = next(iter(sorted(place.glob("*/include/cuda_fp16.h"))), None)
        if library and header:
            return "nvrtc", str(library), str(header.parent)
    nvcc = shutil.which("nvcc")
    return nvcc and ("nvcc", nvcc, None)


def ptxas(how, stem, defines, arch):
    """The compiler's report on fused/STEM.cu; raises RuntimeError with its errors."""
    kind, path, include = how
    named = [f"-D{name}={value}" for name, value in defines.items()]
    code, name = text(stem + ".cu"), f"{stem}.cu"
    if kind == "nvrtc":
        return nvrtc(path, code, name, ["--std=c++17", *named, f"-arch={arch}", "-ftz=true", f"-I{include}",
                                        "--ptxas-options=-v"])
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, name)
        source.write_text(code)
        done = subprocess.run([path, "-std=c++17", *named, f"-arch={arch}", "-ftz=true", "-Xptxas=-v",
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


def table(how, stems=STEMS, archs=("sm_80", "sm_90")):
    """Yield (stem, kernel, element type, architecture, registers, bytes spilled, bytes of shared memory)."""
    for stem in stems:
        reals = REAL.values() if "REAL" in text(stem + ".cu") else ["float"]
        for real, sizes, arch in itertools.product(reals, SIZES.get(stem, ({},)), archs):
            defines = {"REAL": real, **sizes}
            for name, stack, stores, loads, registers, shared in KERNEL.findall(ptxas(how, stem, defines, arch)):
                spilled = sum(map(int, (stack, stores, loads)))
                which = " ".join([real, *(f"{size}" for size in sizes.values())])
                yield stem, name, which, arch, int(registers), spilled, int(shared or 0)


def main(argv):
    parser = argparse.ArgumentParser(prog="python -m bench cuda", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stems", nargs="*", default=STEMS, help="which files; all of them if none is named")
    parser.add_argument("--arch", default="sm_80,sm_90", help="architectures, separated by commas")
    args = parser.parse_args(argv)
    how = compiler()
    if how is None:
        print("bench cuda: found neither NVRTC nor nvcc. Hint: pip install nvidia-cuda-nvrtc-cu12 "
              "nvidia-cuda-runtime-cu12", file=sys.stderr)
        return 1
    print(f"{'kernel':32} {'entries':18} {'arch':6} {'registers':>9} {'spilled':>8} {'shared':>7}    (by {how[0]})")
    spilled = 0
    for stem, name, real, arch, registers, spills, shared in table(how, args.stems, args.arch.split(",")):
        print(f"{stem + '.' + name:32} {real:18} {arch:6} {registers:9} {spills:8} {shared:7}")
        spilled += spills
    return int(spilled > 0)
