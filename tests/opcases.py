"""One line per op and shape. Every test in test_ops.py runs over this table; test_every_op_has_a_case fails for an
op that is missing from it, so a new op is tested by adding its lines here."""
from dataclasses import dataclass, field

import numpy as np

from minigrad.ops.elementwise import add, mul
from minigrad.tensor import Op


@dataclass
class Case:
    op: Op
    args: list                                    # a shape: floats drawn from [low, high); an array or None: itself
    params: dict = field(default_factory=dict)
    torch: object = None                          # the same in PyTorch: (torch, *tensors, **params) -> tensor(s)
    low: float = -2.0
    high: float = 2.0
    apart: float = 0.0                            # entries differ from each other and from 0 by this (kinks, ties)

    def arrays(self, dtype="float64", seed=0):
        rng = np.random.default_rng(seed)
        return [self.draw(rng, a).astype(dtype) if isinstance(a, tuple) else a for a in self.args]

    def draw(self, rng, shape):
        if not self.apart:
            return rng.uniform(self.low, self.high, shape)
        n = int(np.prod(shape))
        return (self.apart * (rng.permutation(n) - n // 2 + 0.5)).reshape(shape)

    def __str__(self):
        shapes = ", ".join(str(a if isinstance(a, tuple) or a is None else a.shape) for a in self.args)
        return f"{self.op.name}({shapes}){self.params or ''}"


CASES = [
    Case(add, [(2, 3), (2, 3)], torch=lambda _, a, b: a + b),
    Case(mul, [(2, 3), (2, 3)], torch=lambda _, a, b: a * b),
]
