"""a + b, a @ b, x.sum(0), x[1:]: Tensor's surface, in one table. Importing this file attaches it.

The engine imports no op, and so knows no formula; this file is where the two meet. What the op takes by keyword,
a method also takes by position: x.sum(0, True) is sum(x, axis=0, keepdims=True).
"""
import inspect
import operator

import numpy as np

from minigrad import backend
from minigrad.check import expect
from minigrad.ops import elementwise as e
from minigrad.ops import index, reduce, shape
from minigrad.ops.matmul import matmul
from minigrad.tensor import Tensor, reader

METHODS = {
    "__add__": e.add, "__sub__": e.sub, "__mul__": e.mul, "__truediv__": e.div, "__pow__": e.pow, "__matmul__": matmul,
    "__neg__": e.neg, "__abs__": e.abs,
    "abs": e.abs, "square": e.square, "sqrt": e.sqrt, "exp": e.exp, "log": e.log, "log1p": e.log1p,
    "sin": e.sin, "cos": e.cos, "tanh": e.tanh, "sigmoid": e.sigmoid, "silu": e.silu, "erf": e.erf,
    "maximum": e.maximum, "minimum": e.minimum, "clip": e.clip, "astype": e.cast,
    "sum": reduce.sum, "mean": reduce.mean, "var": reduce.var, "max": reduce.max, "min": reduce.min,
    "prod": reduce.prod, "logsumexp": reduce.logsumexp, "cumsum": reduce.cumsum,
    "squeeze": shape.squeeze, "expand_dims": shape.expand_dims, "swapaxes": shape.swapaxes, "flip": shape.flip,
    "tril": shape.tril, "split": shape.split, "take_along_axis": index.take_along_axis,
}
REFLECTED = ("add", "sub", "mul", "truediv", "pow", "matmul")       # 2 - x arrives as x.__rsub__(2)
COMPARED = ("lt", "le", "gt", "ge", "eq", "ne")      # x > 0 is an array: a boolean has no gradient
SPREAD = {"reshape": (shape.reshape, "shape"), "transpose": (shape.transpose, "axes"),
          "broadcast_to": (shape.broadcast_to, "shape")}            # x.reshape(2, 3) and x.reshape((2, 3))


def _method(op):
    """op as a method: array arguments first, then keyword parameters in their order."""
    names = [p.name for p in inspect.signature(op.reference).parameters.values() if p.kind is p.KEYWORD_ONLY]
    n = op.arguments

    def method(*args, **params):
        expect(len(args) <= n + len(names), op.name, f"{len(args)} arguments", f"at most {n + len(names)}")
        placed = dict(zip(names, args[n:]))
        twice = [name for name in placed if name in params]
        expect(not twice, op.name, f"{', '.join(twice)} twice", "it by its place or by its name")
        params = {**placed, **params}
        expect(type(params.get("keepdims", False)) is bool, op.name, f"keepdims {params.get('keepdims')!r}",
               "True or False", "several axes are a tuple: axis=(0, 1)")
        return op(*args[:n], **params)
    return method


def _spread(op, name):
    """op as a method that takes one tuple, or its numbers one by one."""
    def method(self, *numbers):
        if len(numbers) == 1 and (numbers[0] is None or isinstance(numbers[0], (tuple, list))):
            numbers, = numbers
        return op(self, **{name: numbers})
    return method


def _compared(name):
    compare = getattr(operator, name)
    return lambda self, other: compare(_data(self), _data(other))


def _getitem(self, places):
    """x[...], where places may hold Tensors of integers."""
    places = tuple(map(_data, places)) if isinstance(places, tuple) else _data(places)
    return index.getitem(self, index=places)


def _data(x):
    """The array of a Tensor, for Python to look into."""
    if not isinstance(x, Tensor):
        return x
    if look := reader.get():
        look(x.data)
    return x.data


def _len(self):
    if not self.ndim:
        raise TypeError("len() of a Tensor without axes")
    return self.shape[0]


def _array(self, dtype=None, copy=None):
    """What NumPy calls on a Tensor that it meets. A copy of a Tensor with a history would lose that, silently."""
    if self.requires_grad:
        raise TypeError("NumPy got a Tensor that requires grad; expected an array. Hint: x.numpy() for its values, "
                        "minigrad.ops.shape.stack(a, b) for a list of Tensors")
    return np.array(backend.asnumpy(_data(self)), dtype, copy=copy)


def _item(self):
    """The one number that this tensor holds, as a Python number."""
    expect(self.size == 1, "item", f"a tensor of shape {self.shape}", "one entry", "index it, or sum it first")
    return _data(self).item()


def _argmax(self, axis=None):
    """Where the largest entry is, as an array of integers."""
    return _data(self).argmax(axis)


PLAIN = {
    "__getitem__": _getitem,
    "__len__": _len,
    "__iter__": lambda self: (self[i] for i in range(len(self))),
    "__float__": lambda self: float(_item(self)),
    "__int__": lambda self: int(_item(self)),
    "__bool__": lambda self: bool(_item(self)),
    "__array__": _array,
    "item": _item,
    "argmax": _argmax,
    "numpy": lambda self: backend.asnumpy(_data(self)),
    "detach": lambda self: Tensor(_data(self)),
    "__hash__": object.__hash__,                             # by identity, as == is not asked for that
    "T": property(lambda self: shape.transpose(self)),
}

for name, op in METHODS.items():
    setattr(Tensor, name, _method(op))
for name in REFLECTED:
    setattr(Tensor, f"__r{name}__", lambda self, other, op=METHODS[f"__{name}__"]: op(other, self))
for name in COMPARED:
    setattr(Tensor, f"__{name}__", _compared(name))
for name, (op, parameter) in SPREAD.items():
    setattr(Tensor, name, _spread(op, parameter))
for name, f in PLAIN.items():
    setattr(Tensor, name, f)
