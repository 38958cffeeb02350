r"""A loss that leaps out of what is usual: bad text, or an update that was too large.

What is usual follows the losses x of the steps that were taken, with a share a = 1/50 for the latest (Finch 2009,
Incremental calculation of weighted mean and variance, section 9):
    d = x - m,   m <- m + a d,   v <- (1 - a) (v + a d^2)                                  [SP1]
and x is a leap if, after the first 50 steps,
    x > m + size max(sqrt v, m / 100)                                                      [SP2]
The hundredth keeps a run whose loss hardly moves from calling small things leaps.
"""
import math
from dataclasses import astuple, dataclass

SHARE, FIRST = 1 / 50, 50
IN_A_ROW = 5         # leaps without a step between them, or returns to one checkpoint: then it is not the text


class Leap(ArithmeticError):
    """This step's update was not made. loss: what it came to."""

    def __init__(self, message: str, loss: float = math.nan) -> None:
        super().__init__(message)
        self.loss = loss


@dataclass
class Spikes:
    """What loss is usual, from those that were."""
    mean: float = 0.0
    variance: float = 0.0
    steps: int = 0

    def state(self) -> list:
        return list(astuple(self))

    def check(self, loss: float, size: float, step: int) -> None:
        """Raise Leap if it is one, else learn from it."""
        usual = max(math.sqrt(self.variance), self.mean / 100)
        if self.steps >= FIRST and loss > self.mean + size * usual:                        # [SP2]
            raise Leap(f"step {step}: got loss {loss:.4f}; expected about {self.mean:.4f}, at most "
                       f"{size:g} times {usual:.4f} above it", loss)
        d = loss - self.mean
        if self.steps:
            self.mean, self.variance = self.mean + SHARE * d, (1 - SHARE) * (self.variance + SHARE * d * d)   # [SP1]
        else:
            self.mean = loss
        self.steps += 1
