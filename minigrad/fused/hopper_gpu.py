"""What hopper.cuh's kernels are told of arrays: tensor maps, for bulk copies of boxes."""
import ctypes
import functools
import warnings

import numpy as np

from minigrad import backend
from minigrad.check import expect
from minigrad.emulator.emulator import TensorMap

ROW = 128                                          # bytes: the swizzle exchanges pieces of such rows
TYPES = {"float16": 6, "bfloat16": 9}              # CUtensorMapDataType
NO_INTERLEAVE, SWIZZLE_128B, L2_256B, ZEROS = 0, 3, 3, 0


@backend.kept
def is_hopper():
    """Is the GPU one? Its own instructions (sm_90a) run on no other, later ones included. NVRTC before 12.9 refuses
    to be told of them beside what CuPy tells it (cuda.Program.on_gpu): with such a one no GPU counts as Hopper."""
    cuda = backend.cupy().cuda
    if cuda.Device().compute_capability != "90":
        return False
    version = cuda.nvrtc.getVersion()
    if version < (12, 9):
        warnings.warn(f"NVRTC {version[0]}.{version[1]}: Hopper's own kernels want 12.9 or newer; slower ones run. "
                      "Hint: a CUDA toolkit of 12.9 or newer", stacklevel=2)
    return version >= (12, 9)


def tensor_map(x, box):
    """An argument of a kernel: x (2 to 5 axes, the last one contiguous), and how much of each axis a copy takes: box.

    Rows of a box are 128 bytes. Entries beyond the ends of an axis are copied as 0.
    """
    who, strides = "tensor_map", x.strides[:-1]
    expect(2 <= x.ndim <= 5 and len(box) == x.ndim and x.size, who, f"shape {x.shape} and box {box}",
           "2 to 5 axes in both, none of them empty")
    expect(x.dtype.name in TYPES and x.strides[-1] == x.itemsize, who, f"{x.dtype}, strides {x.strides}",
           "16-bit entries, side by side along the last axis")
    expect(box[-1] * x.itemsize == ROW and 0 < min(box) and max(box) <= 256, who, f"box {box}",
           f"{ROW // x.itemsize} entries of the last axis, 1 to 256 of the others")
    address = backend.address_of(x)
    expect(all(s % 16 == 0 and 0 < s < 1 << 40 for s in (*strides, address % 16 or 16)), who,
           f"strides {x.strides} from an address {address % 16} beyond a multiple of 16", "multiples of 16 bytes")
    return encoded(x, box, address) if backend.on_gpu(x) else TensorMap(x, box)


def encoded(x, box, address):
    """CUDA's CUtensorMap, 128 bytes, as CuPy takes an argument that is passed by value."""
    room = np.zeros(192, "u1")
    record = room[-room.ctypes.data % 64:][:128].view("V128")           # the encoder wants a multiple of 64
    axes = np.uint64(x.shape[::-1]), np.uint64(x.strides[-2::-1]), np.uint32(box[::-1]), np.ones(x.ndim, "u4")
    failed = encoder()(record.ctypes.data, TYPES[x.dtype.name], x.ndim, address, *(a.ctypes.data for a in axes),
                       NO_INTERLEAVE, SWIZZLE_128B, L2_256B, ZEROS)
    expect(not failed, "tensor_map", f"CUDA error {failed} for shape {x.shape}, strides {x.strides} and box {box}",
           "what cuTensorMapEncodeTiled takes")
    return record


@functools.cache
def encoder():
    """cuTensorMapEncodeTiled, from the driver: CuPy has no name for it."""
    encode = ctypes.CDLL("libcuda.so.1").cuTensorMapEncodeTiled
    encode.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, *[ctypes.c_void_p] * 5, *[ctypes.c_int] * 4]
    return encode
