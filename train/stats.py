"""What a step did to each parameter: the size of its entries, of their gradients, and of what the update changed.

All are root mean squares. The ratio of update to weight says more than a learning rate does: about 1e-3 is usual, 1e-5
hardly learns, 1e-1 forgets. A gradient of 0 shows a part that nothing reaches.
"""
import math

import numpy as np

from gpt import GPT
from minigrad import backend
from minigrad.fused.adamw import sum_of_squares

KINDS = ("weight", "gradient", "update")


def copies(model: GPT) -> list[np.ndarray]:
    """The parameters as they are before a step."""
    return [p.data.copy() for p in model.parameters()]


def statistics(model: GPT, before: list[np.ndarray], scale: float = 1.0) -> dict[str, list]:
    """{name: [weight, gradient, update]} of the step that has just been made. before: copies(model); scale: how many
    times too large the gradients are. They lie where they were summed until the next forward pass."""
    return {name: [_rms(p.data), _rms(p.slot.array, scale), _rms(backend.wide(p.data) - backend.wide(old))]
            for (name, p), old in zip(model.named_parameters(), before, strict=True)}


def _rms(a, scale=1.0):
    """Of a / scale; None, which JSON has a word for, if it is no number."""
    value = math.sqrt(float(sum_of_squares(a.reshape(-1))) / a.size) / scale
    return value if math.isfinite(value) else None


def rows(found: dict[str, list]) -> list[dict[str, str]]:
    """[{column: text}] of statistics, for a table."""
    def show(value):
        return "-" if value is None else f"{value:.2e}"
    return [{"parameter": name, **{kind: show(value) for kind, value in zip(KINDS, values)},
             "update / weight": show(values[2] / values[0] if values[0] and values[2] is not None else None)}
            for name, values in found.items()]
