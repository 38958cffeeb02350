"""One line per op and shape. Every test in test_ops.py runs over this table; test_every_op_has_a_case fails for an
op that is missing from it, so a new op is tested by adding its lines here: an ordinary shape, an axis of 1, an axis
of 0, a broadcast, an extreme value. Importable without pytest and PyTorch:

    for case, implementation, error in gradient_errors(): ...
"""
from dataclasses import dataclass, field

import numpy as np

import minigrad.ops.elementwise as e
import minigrad.ops.reduce as r
import minigrad.ops.shape as s
from minigrad.backend import is_float
from minigrad.gradcheck import gradcheck
from minigrad.ops.index import getitem, take_along_axis
from minigrad.ops.matmul import matmul
from minigrad.tensor import Op


@dataclass
class Case:
    op: Op
    args: list                                    # a shape: floats drawn from [low, high); an array, number or None: itself
    params: dict = field(default_factory=dict)
    torch: object = None                          # the same in PyTorch: (torch, *tensors, **params) -> tensor(s)
    low: float = -2.0
    high: float = 2.0
    apart: float = 0.0                            # entries differ from each other and from 0 by this (kinks, ties)
    smooth: bool = True                           # False: at a corner or at infinity, where differences say nothing

    def arrays(self, dtype="float64", seed=0):
        """The arguments: floating point ones in this dtype."""
        rng = np.random.default_rng(seed)
        return [np.asarray(self.draw(rng, a)).astype(dtype) if isinstance(a, tuple)
                else a.astype(dtype) if is_float(getattr(a, "dtype", np.dtype(bool))) else a for a in self.args]

    def draw(self, rng, shape):
        if not self.apart:
            return rng.uniform(self.low, self.high, shape)
        n = int(np.prod(shape))
        return (self.apart * (rng.permutation(n) - n // 2 + 0.5)).reshape(shape)

    def __str__(self):
        shapes = ", ".join(str(getattr(a, "shape", a)) for a in self.args)
        return f"{self.op.name}({shapes}){self.params or ''}{'' if self.smooth else ' extreme'}"


def gradient_errors(cases=None):
    """Yield (case, "reference" or "cpu", largest relative error of the gradients in float64), worst at about 1e-9."""
    for case in cases or CASES:
        if case.smooth:
            for mode in ["reference"] + ["auto"] * ("cpu" in case.op.kernels):
                error = gradcheck(case.op, *case.arrays(), rtol=np.inf, mode=mode, **case.params)
                yield case, "reference" if mode == "reference" else "cpu", error


# Floats that have caught somebody before. 1e-42 is a denormal in float32, 1e30 squared is infinite there.
EXTREMES = np.array([0.0, -0.0, 1e-42, -1e-42, 1.0, -1.0, 80.0, -80.0, 1e4, -1e4, 1e30, -1e30, np.inf, -np.inf, np.nan])
PAIRS = [a.ravel() for a in np.meshgrid(EXTREMES, EXTREMES)]
MASK = np.array([[True, False, True], [False, False, True]])

CASES = []


def case(op, *args, torch=None, low=-2.0, high=2.0, apart=0.0, smooth=True, **params):
    CASES.append(Case(op, list(args), params, torch, low, high, apart, smooth))


# ------------------------------------------------------------------------------------------------ entry by entry

for op, torch in [(e.add, lambda _, a, b: a + b), (e.sub, lambda _, a, b: a - b), (e.mul, lambda _, a, b: a * b),
                  (e.div, lambda _, a, b: a / b), (e.pow, lambda _, a, b: a ** b),
                  (e.maximum, lambda t, a, b: t.maximum(*as_tensors(t, a, b))),
                  (e.minimum, lambda t, a, b: t.minimum(*as_tensors(t, a, b)))]:
    draw = dict(apart=0.1) if op in (e.maximum, e.minimum) else dict(low=0.5)
    case(op, (2, 3), (2, 3), torch=torch, **draw)
    case(op, (2, 3), (3,), torch=torch, low=0.5)
    case(op, (2, 1), (1, 3), torch=torch, low=0.5)
    case(op, (), (), torch=torch, low=0.5)
    case(op, (4, 1, 3), (2, 1), torch=torch, low=0.5)
    case(op, (0, 3), (3,), torch=torch)
    case(op, (2, 3), 1.5, torch=torch, low=0.1)
    case(op, 1.25, (2, 3), torch=torch, low=0.1)
    case(op, (2, 3), 2, torch=torch, low=0.1, high=1.9)
    case(op, *PAIRS, torch=torch, smooth=False)


def as_tensors(torch, *args):
    return [a if torch.is_tensor(a) else torch.tensor(a, dtype=torch.float64) for a in args]


case(e.pow, (2, 3), 3, torch=lambda _, a, b: a ** b)                      # negative base, whole exponent
case(e.pow, (2, 3), -2, torch=lambda _, a, b: a ** b, low=0.5)
case(e.pow, (2, 3), 0, torch=lambda _, a, b: a ** b)
case(e.pow, np.array([0.0, 0.0, 0.0, 4.0]), 0, torch=lambda _, a, b: a ** b, smooth=False)
case(e.pow, np.array([0.0, 0.0, 0.0, 4.0]), 0.5, torch=lambda _, a, b: a ** b, smooth=False)

for op, low, high in [(e.neg, -2, 2), (e.square, -2, 2), (e.exp, -2, 2), (e.log, 0.1, 3), (e.log1p, -0.9, 3),
                      (e.sqrt, 0.1, 3), (e.sin, -4, 4), (e.cos, -4, 4), (e.tanh, -3, 3), (e.sigmoid, -6, 6),
                      (e.silu, -6, 6), (e.erf, -3, 3), (e.abs, 0, 0)]:
    name, apart = op.name, 0.1 if op is e.abs else 0.0

    def torch(t, x, name=name):
        return (t.nn.functional.silu if name == "silu" else getattr(t, name))(x)

    for shape in [(3, 4), (2, 1, 3), (), (2, 0)]:
        case(op, shape, torch=torch, low=low, high=high, apart=apart)
    case(op, EXTREMES, torch=torch, smooth=False)
case(e.log1p, (5,), torch=lambda t, x: t.log1p(x), low=0.9e-9, high=1e-9)
case(e.erf, (5, 5), torch=lambda t, x: t.erf(x), low=-7, high=7)

for low, high in [(-0.31, 0.52), (None, 0.52), (-0.31, None)]:
    case(e.clip, (3, 4), torch=lambda t, x, low, high: t.clip(x, low, high), apart=0.1, low_=low, high_=high)
for op, torch, *shapes in [
    (e.where, lambda t, m, a, b: t.where(m, a, b), (2, 3), (2, 3)),
    (e.where, lambda t, m, a, b: t.where(m, a, b), (3,), (2, 1)),
    (e.where, lambda t, m, a, b: t.where(m, a, b), (4, 1, 3), 0.5),
    (e.where, lambda t, m, a, b: t.where(m, a, b), -np.inf, (2, 3)),
]:
    case(op, MASK, *shapes, torch=torch)
