r"""float16: what is too small for it is scaled up, and a step in which something became too large is left out.

float16 has numbers from 6e-8 to 65504, and gradients of activations are often smaller. Micikevicius et al. 2018
(arXiv:1710.03740): the backward pass begins with S instead of 1, so every gradient is S times what it is, and the
optimiser divides by S as it reads,
    d(S L)/dx = S dL/dx,   g = (1 / S) d(S L)/dw                                           [LS1]
With S a power of two nothing is rounded by that. S is not known beforehand: it begins at 2^16 and
    halves where a gradient is infinite or NaN, and that step changes neither weights nor moments,
    doubles after 2000 steps in a row without that.                                        [LS2]
The loss itself is float32, so S may be larger than float16 allows; weights have a float32 master in the optimiser, and
their gradients are added up in float32. bfloat16 has the range of float32 and needs none of this: S stays 1.

S lies on the model's device, where it learns by [CN4] of minigrad/fused/control.py, so that no step waits to hear it.
"""
from collections.abc import Sequence
from typing import Any

import numpy as np

from minigrad import backend

FIRST, LEAST, PATIENCE = 2.0 ** 16, 2.0 ** -14, 2000


class Scale:
    """S, and how many steps in a row it has been good for. used: the S of the last step that was heard of."""

    def __init__(self, value: float = 1.0, clean: float = 0, moving: bool = False) -> None:
        self.numbers, self.moving = np.array([value, clean], np.float64), moving
        self.used = value

    @classmethod
    def of(cls, dtype: Any, state: Sequence | None = None) -> "Scale":
        """For this storage dtype; state: what state() gave."""
        return cls(*state) if state else cls(FIRST, 0, True) if str(dtype) == "float16" else cls()

    def on(self, device: str) -> np.ndarray:
        """[S, clean steps] as an array on this device, where they are from now on."""
        self.numbers = backend.to_device(self.numbers, device)
        return self.numbers

    @property
    def value(self):
        """S. On a GPU the answer is waited for, and that to the rest."""
        return float(self.numbers[0])

    def state(self) -> list:
        return [self.value, int(self.numbers[1]), self.moving]

    @property
    def rule(self) -> tuple[bool, float, int]:
        """How S moves: see control()."""
        return self.moving, LEAST, PATIENCE
