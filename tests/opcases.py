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
from minigrad.backend import dtype_of, is_float
from minigrad.fused.attention import attention
from minigrad.fused.cross_entropy import cross_entropy, linear_cross_entropy
from minigrad.fused.dropout import dropout, keep_mask
from minigrad.fused.embedding import embedding
from minigrad.fused.gelu import gelu
from minigrad.fused.layer_norm import add_layer_norm, layer_norm
from minigrad.fused.linear import linear
from minigrad.fused.mlp import mlp
from minigrad.fused.relu import relu
from minigrad.fused.softmax import log_softmax, softmax
from minigrad.gradcheck import gradcheck
from minigrad.ops.index import getitem, take_along_axis
from minigrad.ops.matmul import matmul
from minigrad.tensor import Op


@dataclass
class Case:
    op: Op
    args: list                                    # a shape: floats drawn from [low, high); array, number, None: itself
    params: dict = field(default_factory=dict)
    torch: object = None                          # the same in PyTorch: (torch, *tensors, **params) -> tensor(s)
    low: float = -2.0
    high: float = 2.0
    apart: float = 0.0                            # entries differ from each other and from 0 by this (kinks, ties)
    smooth: bool = True                           # False: at a corner or at infinity, where differences say nothing
    wide: bool = False                            # the outputs leave in the wide dtype, as losses do

    def arrays(self, dtype="float64", seed=0):
        """The arguments: floating point ones in this dtype."""
        rng, dtype = np.random.default_rng(seed), dtype_of(dtype)
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
TIES = np.array([[1.0, 3.0, 3.0], [-np.inf] * 3, [2.0] * 3])
MASK = np.array([[True, False, True], [False, False, True]])

CASES = []


# ------------------------------------------------------------------------------------------------ entry by entry

def torch_of(f):
    """f(torch, a, b) as a counterpart for a pair of which one may be a number."""
    def counterpart(torch, a, b):
        dtype = (a if torch.is_tensor(a) else b).dtype
        return f(torch, *(x if torch.is_tensor(x) else torch.tensor(x, dtype=dtype) for x in (a, b)))
    return counterpart


for op, torch in [(e.add, lambda _, a, b: a + b), (e.sub, lambda _, a, b: a - b), (e.mul, lambda _, a, b: a * b),
                  (e.div, lambda _, a, b: a / b), (e.pow, lambda _, a, b: a ** b),
                  (e.maximum, torch_of(lambda t, a, b: t.maximum(a, b))),
                  (e.minimum, torch_of(lambda t, a, b: t.minimum(a, b)))]:
    both = dict(torch=torch, low=0.5)                                     # a power wants a positive base
    CASES += [
        Case(op, [(2, 3), (2, 3)], **both),
        Case(op, [(2, 3), (3,)], **both),
        Case(op, [(2, 1), (1, 3)], **both),
        Case(op, [(4, 1, 3), (2, 1)], **both),
        Case(op, [(), ()], **both),
        Case(op, [(), (2, 3)], **both),
        Case(op, [(0, 3), (3,)], **both),
        Case(op, [(0, 3), (1, 1)], **both),
        Case(op, [(2, 3), 1.625], **both),
        Case(op, [2, (2, 3)], **both),
        Case(op, PAIRS, torch=torch, smooth=False),
    ]

power = dict(torch=lambda _, a, b: a ** b)
CASES += [
    Case(e.pow, [(2, 3), 3], **power),                                    # a negative base, a whole exponent
    Case(e.pow, [(2, 3), -2], low=0.5, **power),
    Case(e.pow, [(2, 3), 0], **power),
    Case(e.pow, [np.array([0.0, 4.0, -1.0]), 0], smooth=False, **power),
    Case(e.pow, [np.array([0.0, 4.0]), 0.5], smooth=False, **power),
    Case(e.pow, [np.array([0.0, 0.0, 4.0]), np.array([2.0, 0.0, 0.5])], smooth=False, **power),    # db = 0 at a = 0
]

for op, low, high in [(e.neg, -2, 2), (e.square, -2, 2), (e.exp, -2, 2), (e.log, 0.1, 3), (e.log1p, -0.9, 3),
                      (e.sqrt, 0.1, 3), (e.sin, -4, 4), (e.cos, -4, 4), (e.tanh, -3, 3), (e.sigmoid, -6, 6),
                      (e.silu, -6, 6), (e.erf, -3, 3), (e.abs, 0, 0)]:
    def torch(t, x, name=op.name):
        return (t.nn.functional.silu if name == "silu" else getattr(t, name))(x)

    drawn = dict(torch=torch, low=low, high=high, apart=0.1 if op is e.abs else 0.0)
    CASES += [Case(op, [shape], **drawn) for shape in [(3, 4), (2, 1, 3), (), (2, 0)]]
    CASES += [Case(op, [EXTREMES[:-1] if op is e.abs else EXTREMES], torch=torch, smooth=False)]   # |NaN|' is 0 there

CASES += [
    Case(e.log1p, [(5,)], torch=lambda t, x: t.log1p(x), low=0.9e-9, high=1e-9),
    Case(e.erf, [(5, 5)], torch=lambda t, x: t.erf(x), low=-7, high=7),
]

clip = dict(torch=lambda t, x, low, high: t.clip(x, low, high))
CASES += [
    Case(e.clip, [(3, 4)], dict(low=-0.31, high=0.52), apart=0.1, **clip),
    Case(e.clip, [(3, 1)], dict(low=None, high=0.12), apart=0.1, **clip),
    Case(e.clip, [(2, 3)], dict(low=0, high=None), apart=0.1, **clip),
    Case(e.clip, [(0, 3)], dict(low=-1, high=1), **clip),
    Case(e.clip, [EXTREMES], dict(low=-80.0, high=1.0), smooth=False, **clip),    # with entries at both ends
]

where = dict(torch=lambda t, m, a, b: t.where(m, a, b))
CASES += [
    Case(e.where, [MASK, (2, 3), (2, 3)], **where),
    Case(e.where, [MASK, (3,), (2, 1)], **where),
    Case(e.where, [MASK, (4, 1, 3), 0.5], **where),
    Case(e.where, [MASK[:, :1], -2.0, (2, 3)], **where),
    Case(e.where, [MASK[:0], (0, 3), (3,)], **where),
    Case(e.where, [np.arange(15) % 2 == 0, EXTREMES, EXTREMES[::-1]], smooth=False, **where),
]

CASES += [Case(e.cast, [shape], dict(dtype="float64"), torch=lambda t, x, dtype: x.to(t.float64))
          for shape in [(2, 3), (), (0, 2)]]

# ------------------------------------------------------------------------------------------------ matrix products

CASES += [Case(matmul, list(shapes), torch=lambda _, a, b: a @ b) for shapes in [
    ((1, 2, 3, 2, 4), (1, 2, 3, 4, 2)),                                   # the longest leading axis is the last
    ((2, 3), (3, 4)), ((1, 3), (3, 1)), ((2, 1), (1, 4)),
    ((2, 3, 4), (2, 4, 5)), ((2, 3, 4), (4, 5)), ((3, 4), (2, 4, 5)), ((2, 1, 3, 4), (3, 4, 2)), ((1, 3, 4), (3, 4, 2)),
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 4, 3), (3,)), ((3,), (2, 3, 4)),
    ((0, 3), (3, 4)), ((2, 0), (0, 4)), ((2, 3, 0), (2, 0, 5)), ((0, 3, 4), (4, 5)), ((2, 3), (3, 0)),
]]

# ------------------------------------------------------------------------------------------------ reductions

def torch_reduction(name):
    def counterpart(torch, x, axis=None, keepdims=False, ddof=0):
        dims = tuple(range(x.ndim)) if axis is None else axis
        if name == "var":
            return torch.var(x, dims, correction=ddof, keepdim=keepdims)
        return getattr(torch, name)(x, dims, keepdim=keepdims)
    return counterpart


for op, name, kinked in [(r.sum, "sum", False), (r.mean, "mean", False), (r.var, "var", False),
                         (r.max, "amax", True), (r.min, "amin", True), (r.logsumexp, "logsumexp", False)]:
    drawn = dict(torch=torch_reduction(name), apart=0.1 if kinked else 0.0)
    CASES += [Case(op, [shape], params, **drawn) for shape, params in [
        ((3, 4), {}), ((3, 4), dict(keepdims=True)), ((3, 4), dict(axis=0)), ((3, 4), dict(axis=-1, keepdims=True)),
        ((2, 3, 4), dict(axis=(0, 2))), ((2, 3, 4), dict(axis=(-1, 0), keepdims=True)),
        ((3, 1), dict(axis=1)), ((), {}), ((1,), {}), ((0, 3), dict(axis=1)), ((3, 2, 0), dict(axis=(0, 1)))]]

CASES += [
    Case(r.sum, [(0, 3)], dict(axis=0), torch=torch_reduction("sum")),
    Case(r.sum, [EXTREMES], torch=torch_reduction("sum"), smooth=False),
    Case(r.mean, [np.array([1e30, -1e30, 3.0])], torch=torch_reduction("mean"), smooth=False),
    Case(r.var, [(3, 4)], dict(axis=0, ddof=1), torch=torch_reduction("var")),
    Case(r.var, [np.array([[1e4, 1e4 + 1], [0, 0]])], dict(axis=1), torch=torch_reduction("var"), smooth=False),
    Case(r.max, [TIES], dict(axis=1), torch=torch_reduction("amax"), smooth=False),
    Case(r.max, [EXTREMES[:-1]], torch=torch_reduction("amax"), smooth=False),
    Case(r.min, [-TIES], dict(axis=1), torch=torch_reduction("amin"), smooth=False),
    Case(r.logsumexp, [np.array([[1e4, 1e4, 0], [-np.inf, -1e4, 0], [-1e4] * 3, [1e30, 0, 1]])], dict(axis=1),
         torch=torch_reduction("logsumexp"), smooth=False),
    Case(r.logsumexp, [np.array([np.inf, 0.0])], torch=torch_reduction("logsumexp"), smooth=False),
]

cumsum = dict(torch=lambda t, x, axis=-1: t.cumsum(x, axis))
prod = dict(torch=lambda t, x, axis=None, keepdims=False: t.prod(x) if axis is None else t.prod(x, axis, keepdims))
zeros = np.array([[1.5, 0.0, 2.0], [0.0, 0.0, 3.0], [1.0, -2.0, 0.5]])
CASES += [Case(r.cumsum, [shape], params, **cumsum) for shape, params in [
    ((3, 4), {}), ((3, 4), dict(axis=0)), ((2, 1, 3), dict(axis=1)), ((0, 3), {}), ((3, 0), {})]]
CASES += [Case(r.prod, [a], params, **prod) for a, params in [
    ((2, 3), {}), ((3, 4), dict(axis=0)), ((2, 3, 2), dict(axis=-2, keepdims=True)), ((3, 1), dict(axis=1)),
    ((2, 3, 4), dict(axis=0)), (zeros, dict(axis=1)), (zeros, {}), ((0, 3), dict(axis=0)), ((0, 3), dict(axis=1)),
    ((), {})]]

# ------------------------------------------------------------------------------------------------ shapes

CASES += [Case(s.reshape, [a], dict(shape=to), torch=lambda _, x, shape: x.reshape(shape)) for a, to in [
    ((2, 6), (3, 4)), ((2, 6), (4, -1)), ((2, 6), -1), ((1,), ()), ((), (1, 1)), ((0, 3), (3, 0, 2)), ((0, 3), (2, -1)),
]]
CASES += [Case(s.expand_dims, [a], dict(axis=k), torch=lambda _, x, axis: x.unsqueeze(axis)) for a, k in [
    ((2, 3), 0), ((2, 3), -1), ((2, 3), 1), ((), 0), ((0,), 1)]]
CASES += [Case(s.squeeze, [a], params, torch=lambda _, x, axis=None: x.squeeze() if axis is None else x.squeeze(axis))
          for a, params in [((1, 3, 1), {}), ((1, 3, 1), dict(axis=0)), ((1, 3, 1), dict(axis=(0, -1))),
                            ((1, 1), {}), ((0, 1), dict(axis=1))]]
CASES += [Case(s.transpose, [a], dict(axes=axes), torch=lambda _, x, axes: x.permute(axes) if axes else x.T)
          for a, axes in [((2, 3), None), ((2, 3, 4), (1, 2, 0)), ((2, 3, 4), (-1, 0, 1)), ((1, 3), (1, 0)), ((), None),
                          ((0, 2, 3), (2, 0, 1))]]
CASES += [Case(s.swapaxes, [a], dict(axis1=i, axis2=j), torch=lambda _, x, axis1, axis2: x.swapaxes(axis1, axis2))
          for a, i, j in [((2, 3, 4), -1, -2), ((2, 3, 4), 0, 2), ((1, 3), 0, 1), ((0, 3), 0, 1), ((3,), 0, 0)]]
CASES += [Case(s.broadcast_to, [a], dict(shape=to), torch=lambda _, x, shape: x.broadcast_to(shape)) for a, to in [
    ((3,), (2, 3)), ((2, 1), (4, 2, 3)), ((), (2, 2)), ((2, 3), (2, 3)), ((1, 3), (0, 3)), ((0, 1), (0, 3))]]
CASES += [Case(s.flip, [a], dict(axis=axis), torch=lambda _, x, axis: x.flip(
    tuple(range(x.ndim)) if axis is None else axis)) for a, axis in [
    ((2, 3), 0), ((2, 3, 4), (0, -1)), ((2, 3), None), ((1, 3), 0), ((0, 3), 1)]]
CASES += [Case(s.pad, [a], params, torch=lambda t, x, widths, value=0.0: t.nn.functional.pad(
    x, [n for pair in widths[::-1] for n in pair], value=value)) for a, params in [
    ((2, 3), dict(widths=((1, 0), (0, 2)))), ((2, 3), dict(widths=((0, 0), (0, 0)))), ((1,), dict(widths=((2, 3),))),
    ((2, 1, 2), dict(widths=((0, 1), (1, 1), (3, 0)), value=0.5)), ((0, 2), dict(widths=((1, 1), (0, 1))))]]
CASES += [Case(s.tril, [a], dict(k=k), torch=lambda t, x, k: t.tril(x, k)) for a, k in [
    ((3, 3), 0), ((2, 3, 4), -1), ((4, 2), 1), ((1, 1), -1), ((0, 3), 0)]]

CASES += [Case(s.concatenate, list(shapes), dict(axis=axis), torch=lambda t, *xs, axis: t.cat(xs, axis))
          for *shapes, axis in [((2, 3), (1, 3), (4, 3), 0), ((2, 3), (2, 1), -1), ((2, 3), 0), ((0, 3), (2, 3), 0),
                                ((2, 0, 3), (2, 0, 1), 2)]]
CASES += [Case(s.stack, list(shapes), dict(axis=axis), torch=lambda t, *xs, axis: t.stack(xs, axis))
          for *shapes, axis in [((2, 3), (2, 3), 0), ((2, 3), (2, 3), (2, 3), -1), ((), (), 0), ((1, 3), 1),
                                ((0, 3), (0, 3), 1)]]
CASES += [Case(s.split, [a], dict(parts=parts, **params), torch=lambda t, x, parts, axis=-1: t.split(
    x, x.shape[axis] // parts if isinstance(parts, int) else list(parts), axis)) for a, parts, params in [
    ((2, 6), 3, {}), ((4, 3), 2, dict(axis=0)), ((2, 6), (1, 3, 2), {}), ((2, 3, 1), (2, 0, 1), dict(axis=1)),
    ((0, 4), 2, {}), ((3, 1), 1, {})]]

# ------------------------------------------------------------------------------------------------ picking by place

CASES += [Case(getitem, [a], dict(index=index), torch=lambda t, x, index: x[index]) for a, index in [
    ((4, 3), 1), ((4, 3), (slice(None), -1)), ((4, 3), (slice(1, 3), slice(0, 3, 2))), ((4, 3), (Ellipsis, 0)),
    ((4, 3), (None, slice(2, None))), ((2, 3), (1, 2)), ((), ()), ((0, 3), (slice(None), 1)), ((4, 3), slice(2, 2)),
    ((4, 3), [0, 0, 3, 0]),                                               # repeated: gradients add up
    ((4, 3), np.array([[0, 1], [1, -4]])),
    ((4, 3), (np.array([0, 0, 1]), np.array([2, 2, 0]))),
    ((2, 4, 3), (slice(None), np.array([1, 1]), slice(0, 2))),
    ((2, 3), MASK), ((2, 3), np.zeros((0,), int)), ((1, 3), np.zeros(5, int)),
]]
CASES += [Case(take_along_axis, [a, np.array(i)], dict(axis=axis),
               torch=lambda t, x, i, axis: t.take_along_dim(x, i, axis)) for a, i, axis in [
    ((2, 4), [[0, 0, 3], [1, 2, 1]], -1), ((3, 2), [[2, 0]], 0), ((2, 4), [[1], [3]], 1), ((2, 1), [[0, 0], [0, 0]], 1),
    ((2, 2, 3), [[[0], [2]], [[1], [1]]], 2), ((2, 3), np.zeros((2, 0), int), 1)]]

# ------------------------------------------------------------------------------------------------ fused

for op in softmax, log_softmax:
    along = dict(torch=lambda t, x, axis=-1, name=op.name: getattr(t, name)(x, axis))
    CASES += [Case(op, [shape], params, low=-4, high=4, **along) for shape, params in [
        ((3, 5), {}), ((2, 3, 40), {}), ((3, 1), {}), ((1,), {}), ((2, 3, 4), dict(axis=1)), ((3, 4), dict(axis=0)),
        ((0, 3), {}), ((2, 0), {}), ((2, 0, 3), dict(axis=0))]]
    CASES += [Case(op, [rows], smooth=False, **along) for rows in [
        TIES, np.array([[1e4, 0, -1e4], [-np.inf, 0, 1], [1e30, -1e30, 1e30]]), EXTREMES, EXTREMES[:-1],
        np.array([[0, np.nan, 1], [0, 0, 0]]), np.array([[-1e3, -1001, -1002]])]]      # 0 would be a wrong maximum

causal = dict(torch=lambda t, x, causal: x.masked_fill(~t.ones(x.shape[-2:], dtype=t.bool).tril(), -t.inf).softmax(-1))
CASES += [Case(softmax, [x], dict(causal=True), smooth=isinstance(x, tuple), **causal) for x in [
    (3, 3), (2, 2, 5, 5), (1, 1), (40, 40), (2, 0, 0), np.array([[1.0, np.nan, np.inf], [1e30, -1e30, 1], [2, 2, 2]]),
    np.array([[-np.inf, 0.0], [-np.inf, -np.inf]])]]

CASES += [Case(relu, [shape], torch=lambda t, x: t.relu(x), apart=0.1) for shape in [(3, 4), (2, 1, 3), (), (2, 0)]]
CASES += [Case(relu, [EXTREMES], torch=lambda t, x: t.relu(x), smooth=False)]

for params in {}, dict(approximate="tanh"), dict(approximate="none"):
    counterpart = dict(torch=lambda t, x, approximate="tanh": t.nn.functional.gelu(x, approximate=approximate))
    CASES += [Case(gelu, [shape], params, low=-5, high=5, **counterpart) for shape in [
        (3, 4), (2, 1, 3), (), (2, 0), (5, 41)]]
    extremes = EXTREMES[EXTREMES != np.inf] if "none" in params.values() else EXTREMES   # PyTorch's erf(inf) is NaN
    CASES += [Case(gelu, [extremes], params, smooth=False, **counterpart),
              Case(gelu, [np.array([1e4, -1e4, 30.0, -30.0])], params, **counterpart)]

masked = dict(torch=lambda t, x, p, key: t.where(t.tensor(keep_mask(x.shape, p, key)), x / (1 - p), 0))
CASES += [Case(dropout, [a], dict(p=p, key=key), smooth=isinstance(a, tuple), **masked) for a, p, key in [
    ((3, 5), 0.4, (1, 2, 3, 4)), ((2, 3, 7), 0.1, (2 ** 64 - 1, 5, 0, 11)), ((3, 1), 0.5, (0, 0, 0, 0)),
    ((), 0.5, (7, 0, 0, 0)), ((0, 3), 0.5, (0, 0, 0, 0)), ((2, 3), 0.0, (0, 0, 0, 0)), ((40,), 0.99, (3, 2, 1, 0)),
    (EXTREMES, 0.5, (1, 0, 0, 0))]]

looked_up = dict(torch=lambda t, ids, w: t.nn.functional.embedding(ids, w))
CASES += [Case(embedding, [np.array(ids, dtype), table], **looked_up) for ids, dtype, table in [
    ([[0, 2, 1], [2, 2, 4]], "int64", (5, 3)), ([3, 3, 3, 3], "int32", (4, 6)), (0, "int64", (1, 1)),
    ([[0], [6]], "int64", (7, 1)), ([1, 0], "int64", (2, 0)), (np.zeros((2, 0)), "int64", (4, 3)),
    ([0, 2, 2], "int64", np.array([[np.inf, 1e30], [np.nan, 0], [-1e30, 1e-42]]))]]
CASES[-1].smooth = False

normed = dict(torch=lambda t, x, w, b, eps=1e-5: t.nn.functional.layer_norm(x, x.shape[-1:], w, b, eps))
CASES += [Case(layer_norm, [x, x[-1:], x[-1:]], params, **normed) for x, params in [
    ((3, 8), {}), ((2, 3, 5), {}), ((8,), {}), ((3, 8), dict(eps=0.3)), ((2, 1, 7), {}), ((0, 4), {}),
    ((4, 1), {}),                                                         # x - mu is exactly 0
    ((70, 7), {}), ((130, 33), {})]]                                      # more rows than a kernel has chunks
CASES += [Case(layer_norm, [np.array([[5.0, 5.0, 5.0], [100, 101, 99], [1e-20, -1e-20, 0.0]]), (3,), (3,)],
               smooth=False, **normed)]


def torch_add_layer_norm(t, x, r, w, b, eps=1e-5):
    return x + r, t.nn.functional.layer_norm(x + r, w.shape, w, b, eps)


CASES += [Case(add_layer_norm, [x, r, x[-1:], x[-1:]], params, torch=torch_add_layer_norm) for x, r, params in [
    ((3, 8), (3, 8), {}), ((2, 3, 5), (2, 3, 5), dict(eps=0.3)), ((8,), (8,), {}), ((3, 7), (2, 3, 1), {}),
    ((0, 4), (0, 4), {}), ((4, 1), (4, 1), {}), ((130, 33), (130, 33), {})]]

affine = dict(torch=lambda t, x, w, b: t.nn.functional.linear(x, w.T, b))
CASES += [Case(linear, list(args), **affine) for args in [
    ((3, 4), (4, 5), (5,)), ((2, 3, 4), (4, 5), (5,)), ((2, 3, 4), (4, 5), None), ((4,), (4, 5), (5,)),
    ((3, 1), (1, 5), (5,)), ((1, 4), (4, 1), (1,)), ((0, 4), (4, 5), (5,)), ((2, 0, 4), (4, 3), None),
    ((200, 3), (3, 2), (2,)), ((70, 16), (16, 24), (24,))]]

between = dict(torch=lambda t, x, w1, b1, w2, b2: t.nn.functional.linear(t.nn.functional.gelu(
    t.nn.functional.linear(x, w1.T, b1), approximate="tanh"), w2.T, b2))
CASES += [Case(mlp, list(shapes), **between) for shapes in [
    ((3, 8), (8, 16), (16,), (16, 8), (8,)), ((2, 3, 4), (4, 5), (5,), (5, 3), (3,)),
    ((1, 1), (1, 1), (1,), (1, 1), (1,)), ((0, 4), (4, 8), (8,), (8, 4), (4,)),
    ((70, 8), (8, 24), (24,), (24, 8), (8,))]]


def torch_attention(torch, qkv, n_head, dropout=None):
    (B, T, C3), D = qkv.shape, qkv.shape[-1] // 3 // n_head
    q, k, v = (x.view(B, T, n_head, D).transpose(1, 2) for x in qkv.split(C3 // 3, -1))
    s = (q @ k.transpose(-1, -2) / D ** 0.5).masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -torch.inf)
    a = s.softmax(-1)
    if dropout is not None:
        a = torch.where(torch.tensor(keep_mask(a.shape, *dropout)), a / (1 - dropout[0]), 0)
    return (a @ v).transpose(1, 2).reshape(B, T, C3 // 3)


CASES += [Case(attention, [shape], params, torch=torch_attention) for shape, params in [
    ((2, 5, 12), dict(n_head=2)), ((1, 7, 9), dict(n_head=1)), ((2, 1, 12), dict(n_head=4)),
    ((1, 70, 6), dict(n_head=1)), ((0, 3, 6), dict(n_head=1)), ((2, 0, 6), dict(n_head=2)),
    ((2, 5, 12), dict(n_head=2, dropout=(0.4, (1, 2, 3, 4))))]]


def torch_loss(t, z, y, label_smoothing=0.0):
    return t.nn.functional.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1), ignore_index=-1,
                                         label_smoothing=label_smoothing)


CASES += [Case(cross_entropy, [z, np.array(y)], params, wide=True, torch=torch_loss) for z, y, params in [
    ((4, 5), [0, 4, 2, 2], {}), ((2, 3, 7), [[1, -1, 6], [-1, 0, 3]], {}), ((1, 1), [0], {}), ((6,), 3, {}),
    ((4, 5), [0, 4, -1, 2], dict(label_smoothing=0.1)), ((300, 3), np.arange(300) % 4 - 1, {})]]
CASES += [
    Case(cross_entropy, [(2, 3), np.array([-1, -1])], wide=True),         # all padding: 0, where PyTorch says NaN
    Case(cross_entropy, [(0, 3), np.zeros(0, int)], wide=True),
    Case(cross_entropy, [np.array([[1e4, -1e4, 0], [1e30, 0, 1], [3, 3, 3]]), np.array([1, 0, 2])], wide=True,
         smooth=False, torch=torch_loss),
    Case(cross_entropy, [np.array([[-1e3, -1001, -1002]]), np.array([1])], wide=True, smooth=False, torch=torch_loss),
]
CASES += [Case(linear_cross_entropy, [x, w, np.array(y)], params, wide=True,
               torch=lambda t, x, w, y, **params: torch_loss(t, x @ w.T, y, **params)) for x, w, y, params in [
    ((4, 3), (5, 3), [0, 4, 2, 2], {}), ((2, 3, 4), (7, 4), [[1, -1, 6], [-1, 0, 3]], {}), ((1, 1), (2, 1), [1], {}),
    ((3, 4), (5, 4), [0, -1, 2], dict(label_smoothing=0.2)), ((300, 3), (4, 3), np.arange(300) % 5 - 1, {})]]
CASES += [Case(linear_cross_entropy, [(2, 3), (4, 3), np.array([-1, -1])], wide=True),
          Case(linear_cross_entropy, [(0, 3), (4, 3), np.zeros(0, int)], wide=True)]
