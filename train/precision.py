r"""float16: what is too small for it is scaled up, and a step in which something became too large is left out.

float16 has numbers from 6e-8 to 65504, and gradients of activations are often smaller. Micikevicius et al. 2018
(arXiv:1710.03740): the backward pass begins with S instead of 1, so every gradient is S times what it is, and the
optimiser divides by S as it reads,
    dS/dx = S dL/dx,   g = (1 / S) dS/dw                                                   [LS1]
With S a power of two nothing is rounded by that. S is not known beforehand: it begins at 2^16 and
    halves where a gradient is infinite or NaN, and that step changes neither weights nor moments,
    doubles after 2000 steps in a row without that.                                        [LS2]
The loss itself is float32, so S may be larger than float16 allows; weights have a float32 master in the optimiser, and
their gradients are added up in float32. bfloat16 has the range of float32 and needs none of this: S stays 1.
"""
from dataclasses import dataclass

FIRST, LEAST, PATIENCE = 2.0 ** 16, 2.0 ** -14, 2000


@dataclass
class Scale:
    """S, and how many steps in a row it has been good for."""
    value: float = 1.0
    clean: int = 0
    moving: bool = False

    @classmethod
    def of(cls, dtype, state=None):
        """For this storage dtype; state: what state() gave."""
        return cls(*state) if state else cls(FIRST, 0, True) if str(dtype) == "float16" else cls()

    def state(self):
        return [self.value, self.clean, self.moving]

    def learn(self, finite):
        """What [LS2] makes of S after a step."""
        if not self.moving:
            return
        self.clean = self.clean + 1 if finite else 0
        if not finite:
            self.value = max(LEAST, self.value / 2)
        elif self.clean == PATIENCE:
            self.value, self.clean = self.value * 2, 0

    @property
    def exhausted(self):
        """Is there no lower S to try?"""
        return not self.moving or self.value <= LEAST
