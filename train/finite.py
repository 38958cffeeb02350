"""Which op made the first number that is none? NaN and infinity spread, so what one sees last is seldom the cause."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpt import GPT
from minigrad.backend import is_float, moment, xp_of
from minigrad.tensor import probe
from train.config import Config
from train.spikes import Leap


class NotFinite(Leap):
    """Something is NaN or infinite; the message names the first op, parameter or gradient that is."""


@contextmanager
def watched(model: GPT, where: str, backward: bool = True) -> Iterator[None]:
    """Raise NotFinite at the first op inside whose results are not all finite. where: said in front of its name.

    backward=False looks at the way forward only: with a loss scale, gradients may overflow.
    """
    names = {id(p.data): name for name, p in model.named_parameters()}

    def look(phase):
        def seen(op, inputs, results):
            if not all(map(finite, results)):
                took = " and ".join(names[id(a)] for a in inputs if id(a) in names)
                raise NotFinite(f"{where}: the {phase} of op {op}{took and f' with {took}'}")
        return seen

    with probe(look("output"), look("gradient") if backward else None):
        yield


def culprit(model: GPT, batches: list, step: int, config: Config, scale: float = 1.0) -> str:
    """The first thing that is not finite: a parameter, else what an op made, forward or backward, else a gradient.

    Goes through the step once more, and leaves gradients behind that count for nothing. Those of the step itself lie
    where they were summed.
    """
    if name := bad_parameter(model):
        return f"parameter {name}"
    bad = [name for name, p in model.named_parameters() if p.slot is not None and not finite(p.slot.array)]
    model.zero_grad()
    try:
        for micro, (x, y) in enumerate(batches):
            with moment(config.seed, step, micro), watched(model, f"micro-batch {micro}"):
                model.loss(x, y, label_smoothing=config.label_smoothing).backward(scale)
    except NotFinite as found:
        return str(found)
    return f"the gradient of {bad[0]}" if bad else "nothing, on a second look"


def bad_parameter(model: GPT) -> str | None:
    """The name of the first parameter that is not finite, or None."""
    return next((name for name, p in model.named_parameters() if not finite(p.data)), None)


def finite(a: Any) -> bool:
    """Is every entry a number? Integers, and what is no array, are."""
    if not hasattr(a, "dtype") or not is_float(a.dtype):
        return True
    with np.errstate(invalid="ignore"):
        return bool(xp_of(a).isfinite(a).all())
