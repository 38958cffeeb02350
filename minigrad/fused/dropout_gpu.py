"""Launches dropout.cu. Formula, names and [DR] numbers: dropout.py."""
import numpy as np

from minigrad.cuda import Step, has_instance
from minigrad.fused import dropout as formula
from minigrad.fused.elementwise_gpu import entrywise


def forward(x, *, p, key):
    formula.check(p, key, x.size)
    return _masked(x, p, key), (p, key)                                                  # [DR1]


def backward(dy, p, key, into=None):
    return (_masked(dy, p, key),)                                                        # [DR2]


def _masked(x, p, key):
    if p == 0:
        return x
    if not has_instance(x):
        return formula.dropout.reference(x, p=p, key=key)[0]
    return entrywise("dropout", "drop", x, numbers=(1 / (1 - p), *masks(p, key)))


def masks(p, key):
    """philox.cuh's Mask as arguments of a kernel: k0, k1, c1, c2, where c3 is to be read, least."""
    (site, micro, step), keys = formula.counter_and_keys(key)
    return *map(np.uint32, (*keys, site, micro)), Step(step), np.uint32(formula.threshold(p))


dropout = forward, backward
