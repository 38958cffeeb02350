"""How weights begin. Layers draw from the stream in force, in the order in which they are made.

    with init.seeded(3): model = MyModel()          the same weights on every machine, float32
    with init.empty(): model = MyModel()            no numbers at all, whatever seed: they will be loaded
"""
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from minigrad.backend import stream

_source = ContextVar("source", default=stream("init", 0))


@contextmanager
def seeded(seed):
    """Layers made in this context draw their weights from the stream of this seed."""
    token = _source.set(None if _source.get() is None else stream("init", seed))     # empty() stays in force
    try:
        yield
    finally:
        _source.reset(token)


@contextmanager
def empty():
    """Layers made in this context leave their weights unset."""
    token = _source.set(None)
    try:
        yield
    finally:
        _source.reset(token)


def normal(shape, std):
    """Entries from N(0, std^2), float32."""
    rng = _source.get()
    return np.empty(shape, np.float32) if rng is None else rng.standard_normal(shape, np.float32) * np.float32(std)


def uniform(shape, bound):
    """Entries from U(-bound, bound), float32."""
    rng = _source.get()
    if rng is None:
        return np.empty(shape, np.float32)
    return (rng.random(shape, np.float32) * 2 - 1) * np.float32(bound)
