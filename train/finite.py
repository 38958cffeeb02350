"""Which op made the first number that is none? NaN and infinity spread, so what one sees last is seldom the cause."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpt import GPT
from minigrad.backend import is_float, moment, xp_of
from minigrad.kernels import probe
from train.config import Config
from train.parallel import ALONE, Group
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


def culprit(model: GPT, batches: list, step: int, config: Config, scale: float = 1.0, group: Group = ALONE) -> str:
    """The first thing that is not finite: a parameter, else what an op made, forward or backward, else a gradient.

    Each rank goes through its part of the step once more, tells the others what it has found, and leaves gradients
    behind that count for nothing. Those of the step itself lie where they were summed.
    """
    found = group.tell(own_culprit(model, batches, step, config, scale, group))
    told = [(order, rank, what) for rank, (order, what) in enumerate(found) if what]
    if not told:
        return "nothing, on a second look"
    _, rank, what = min(told)
    return what if group.size == 1 else f"{what}, on rank {rank}"


def own_culprit(model: GPT, batches: list, step: int, config: Config, scale: float, group: Group) -> tuple[int, str]:
    """(a number that is lower the sooner it came in the step, what this rank has found, or "")"""
    if name := bad_parameter(model):
        return -1, f"parameter {name}"
    bad = [name for name, p in model.named_parameters() if p.slot is not None and not finite(p.slot.array)]
    model.zero_grad()
    try:
        for micro, (x, y) in enumerate(batches):
            number = group.number(micro)
            with moment(config.seed, step, number), watched(model, f"micro-batch {number}"):
                model.loss(x, y, label_smoothing=config.label_smoothing).backward(scale)
    except NotFinite as found:
        return number, str(found)
    return len(batches) * group.size, f"the gradient of {bad[0]}" if bad else ""


def bad_parameter(model: GPT) -> str | None:
    """The name of the first parameter that is not finite, or None."""
    return next((name for name, p in model.named_parameters() if not finite(p.data)), None)


def finite(a: Any) -> bool:
    """Is every entry a number? Integers, and what is no array, are."""
    if not hasattr(a, "dtype") or not is_float(a.dtype):
        return True
    with np.errstate(invalid="ignore"):
        return bool(xp_of(a).isfinite(a).all())
