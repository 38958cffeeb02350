"""How every CPU kernel is compiled: @jit for kernels, @inline for what they call in their loops, @plain for the rest.

Kernels are serial and release the GIL; pool.each gives each thread its range of the work. Write their loops as
x = x[lo:hi] and then range(len(x)): with signed bounds Numba guards against negative indices, and loads turn into
gathers, ten times slower.

There are two versions of a loop that stores: in vectors, and one by one for arrays that overlap. Which of them runs is
decided by a look at the addresses, and with signed bounds that look is coarse: a neighbour in memory counts as an
overlap. A sum is added up in another order then, so its last bits would depend on where malloc() put the arrays.

An entry's bits may depend on where in a range it stands: reassoc lets the vectors and the tail of a loop round a sum of
two products differently. Where it matters, ranges are cut at fixed places, or the formula is an @inline function with
one product to a sum. forceinline makes the code that is compiled and the code that is found in the cache the same.

Compiled code is kept in a cache. Numba looks at a kernel's own file to see whether the code is still good, but not at
the files that its inlined functions and its constants come from, so the name of the cache folder is made from the
contents of those.
"""
import functools
import hashlib
from pathlib import Path

import numba
from llvmlite.binding import get_host_cpu_name
from numba import njit

from minigrad import cache

# reassoc lets sums vectorise. NaN and inf keep their meaning; division by zero gives inf, without a branch.
FAST = {"reassoc", "contract", "nsz"}
# Inlined functions must not be regrouped with what stands around them: (x - m) - log s would lose log s in m.
INLINE = {"nogil": True, "forceinline": True, "fastmath": {"contract"}, "error_model": "numpy"}
inline = njit(**INLINE)
# Compiled again into each kernel that calls it, but as a function of its own. Flags that are left out are the caller's.
plain = njit(nogil=True, forceinline=False, fastmath=FAST, error_model="numpy")
SHARED = ("jit_cpu.py", "fork_cpu.py", "special.py", "math_cpu.py", "gemm_cpu.py", "sums_cpu.py", "fused/adamw.py",
          "fused/dropout.py", "fused/dropout_cpu.py", "fused/gelu.py", "fused/gelu_cpu.py")


def jit(f):
    """Compile f at its first call for each kind of argument, and keep the result for later processes."""
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder())
    try:
        return njit(nogil=True, cache=True, forceinline=True, fastmath=FAST, error_model="numpy")(f)
    finally:
        numba.config.CACHE_DIR = before             # other people's functions are cached where they asked for it


def processor():
    """What LLVM calls this processor: znver4, sapphirerapids. Its name for itself says less on a rented machine."""
    return get_host_cpu_name()


@functools.cache
def folder():
    """Where compiled kernels are kept: under NUMBA_CACHE_DIR if that is set, else in the user's cache folder."""
    here = Path(__file__).parent
    key = hashlib.sha256(b"".join((here / name).read_bytes() for name in SHARED)).hexdigest()[:16]
    return cache.folder("NUMBA_CACHE_DIR", key)
