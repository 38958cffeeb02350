"""No kernel reads or writes beside its arrays: Numba checks every index, in a process of its own.

Compiled kernels are not checked otherwise, and what stands behind a buffer is rarely missed at once.
"""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import numpy as np
from opcases import CASES
from minigrad import kernels, using
from minigrad.fused.adamw import adamw, sum_of_squares
from minigrad.slot import SKIP

with using("auto"):
    for case in CASES:
        if "cpu" in case.op.kernels and case.smooth:
            arrays = case.arrays()
            forward, backward = kernels.choose(case.op, arrays)
            y, saved = forward(*arrays, **case.params)
            backward(np.ones_like(y), *saved, into=tuple(SKIP if type(a) in (int, float) else None for a in arrays))
    adamw(*np.ones((4, 100)), None, lr=0.1, beta1=0.9, beta2=0.9, eps=1e-8, decay=0.0, step=1)
    sum_of_squares(np.ones(100))
print("inside")
"""


def test_every_index_of_every_kernel_is_inside(tmp_path):
    env = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path),
           "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout == "inside\n", done.stderr
