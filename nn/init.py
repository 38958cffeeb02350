"""How weights begin. Layers draw from the stream in force, in the order in which they are made.

    with init.seeded(3): model = MyModel()          the same weights on every machine, float32
    with init.empty(): model = MyModel()            no numbers at all, whatever seed: they will be loaded
"""
from contextvars import ContextVar

import numpy as np

from minigrad.backend import during, stream

_source = ContextVar("source", default=stream("init", 0))


def seeded(seed):
    """A context in which layers draw their weights from the stream of this seed. Inside empty() they still draw none:
    GPT(config, seed=0) is how a model is made that weights are about to be read into."""
    return during(_source, None if _source.get() is None else stream("init", seed))


def empty():
    """A context in which layers leave their weights unset."""
    return during(_source, None)


def normal(shape, std):
    """Entries from N(0, std^2), float32."""
    rng = _source.get()
    return np.empty(shape, np.float32) if rng is None else rng.standard_normal(shape, np.float32) * np.float32(std)


def uniform(shape, bound):
    """Entries from U(-bound, bound), float32."""
    rng = _source.get()
    return np.empty(shape, np.float32) if rng is None else (rng.random(shape, np.float32) * 2 - 1) * np.float32(bound)
