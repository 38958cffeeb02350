"""Model FLOPs utilisation: the share of what this machine can multiply that training makes use of.

A step takes 3 F operations for a token [SZ2 in gpt/sizes.py], whatever is computed again or masked away, so
    MFU = 3 F tokens_per_s / ceiling                                                       [MU1]
(Chowdhery et al. 2022, arXiv:2204.02311, section 4.1; they divide by what the maker of the chip promises). The ceiling
here is a large product in the same dtype, by the linear op that the model's own layers call, timed at the start.
"""
import time

import numpy as np

from gpt import GPTConfig
from gpt.sizes import forward_flops
from minigrad import Tensor, no_grad
from minigrad.backend import dtype_of, to_device
from minigrad.fused.linear import linear

SIDES = {"cpu": 1024, "gpu": 8192}       # of the square product
SECONDS = 0.1                            # it is repeated for so long, or 3 times


def ceiling(dtype: str, device: str = "cpu") -> float:
    """Floating point operations per second of the fastest of some products."""
    n = SIDES[device]
    a = Tensor(to_device(np.full((n, n), 0.5, dtype_of(dtype)), device))
    best, began, count = float("inf"), time.perf_counter(), 0
    with no_grad():
        while count < 3 or time.perf_counter() - began < SECONDS:
            start = time.perf_counter()
            float(linear(a, a).data[0, 0])                   # a GPU is waited for
            best, count = min(best, time.perf_counter() - start), count + 1
    return 2 * n ** 3 / best


def mfu(config: GPTConfig, tokens_per_s: float, top: float) -> float:
    """The share, for the model of this GPTConfig, of a ceiling called top."""
    return 3 * forward_flops(config, config.block_size) * tokens_per_s / top               # [MU1]
