"""Module: a tree of parameters found by looking at attributes. No registration, no metaclass.

A Tensor that is an attribute of a Module, or stands in a list or a dict that is one, is a parameter; an array that is
an attribute is a buffer, which moves and is saved with the model but is not trained. Names are dotted paths in the
order of assignment, and a Tensor that two places share (a tied embedding) appears once, under the first.
"""
from collections.abc import Callable
from functools import partial

import numpy as np

from minigrad import backend
from minigrad.check import expect
from minigrad.tensor import Tensor


class Module:
    training = True      # a new model trains
    around: Callable | None = None       # around(forward, *args), from outside: recompute, say; names stay as they are

    def __call__(self, *args, **settings):
        forward = partial(self.forward, **settings) if settings else self.forward
        return self.around(forward, *args) if self.around else forward(*args)

    def named_parameters(self):
        """(dotted name, Tensor), each Tensor once."""
        seen = set()
        for name, value in _walk(self, ""):
            if isinstance(value, Tensor) and id(value) not in seen:
                seen.add(id(value))
                yield name, value

    def named_buffers(self):
        """(dotted name, array) of the arrays that are not trained."""
        return ((f"{name}.{k}".lstrip("."), v) for name, m in self.named_modules() for k, v in vars(m).items()
                if _is_array(v))

    def named_modules(self):
        """(dotted name, Module), this one first, under the name ""."""
        return ((name, value) for name, value in _walk(self, "") if isinstance(value, Module))

    def parameters(self):
        return [p for _, p in self.named_parameters()]

    def modules(self):
        return [m for _, m in self.named_modules()]

    def train(self, on=True):
        """Train mode (on), or eval mode, of Dropout and BatchNorm. Returns the model."""
        for m in self.modules():
            m.training = on
        return self

    def eval(self):
        return self.train(False)

    def zero_grad(self):
        for p in self.parameters():
            p.grad = None

    def to(self, device=None, dtype=None):
        """Move to "cpu" or "gpu" and store as "float64", "float32", "float16" or "bfloat16". In place; returns self."""
        dtype = dtype and backend.dtype_of(dtype)
        parameters = list(self.named_parameters())
        for name, p in parameters:
            expect(p.slot is None or p.slot.owner is None, "to", f"{name}, which an optimiser has laid out",
                   "a model without an optimiser", "call model.to(...) first, then make the optimiser")

        def moved(a):
            a = a if device is None else backend.to_device(a, device)
            return a.astype(dtype, copy=False) if dtype is not None and backend.is_float(a.dtype) else a
        for _, p in parameters:
            p.data, p.slot = moved(p.data), None             # gradients do not survive the move
        for m in self.modules():
            for k, v in vars(m).items():
                if _is_array(v):
                    setattr(m, k, moved(v))
        return self


def _is_array(value):
    return isinstance(value, np.ndarray) or backend.on_gpu(value)


def _walk(value, name):
    """(name, value) of every Module and Tensor under value."""
    if isinstance(value, (Module, Tensor)):
        yield name, value
    inside = (vars(value) if isinstance(value, Module) else dict(enumerate(value)) if isinstance(value, (list, tuple))
              else value if isinstance(value, dict) else {})
    for k, v in inside.items():
        yield from _walk(v, f"{name}.{k}".lstrip("."))
