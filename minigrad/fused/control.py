r"""What becomes of an update, decided where its gradient lies: norm, clipping, whether it is made at all, loss scale.

A host that looked at the norm would wait for the device in every step. So the numbers that an update depends on stay
in a vector beside the gradient, in float64, and the update reads them there.

L is the mean loss of a step, q the sum of the squares of its gradient, which is S times too large, S being the loss
scale (train/precision.py). The true gradient has the norm
    n = sqrt(q) / S                                                                        [CN1]
and is multiplied in the update by
    f = min(1, clip / (n + 1e-6)) / S                                                      [CN2]
which undoes S and makes the norm clip where it was more. The update is made where
    finite = L + n is neither infinite nor NaN                                             [CN3]
and no earlier step was hopeless; else f is NaN, at which the update does nothing [AW8]. Where it is S that was too
large, a lower S helps. It learns from every step, with k steps in a row that were finite:
    k <- k + 1,           and where k = patience:  S <- 2 S,  k <- 0      if finite
    k <- 0,  S <- max(least, S / 2)                                       else             [CN4]
Hopeless is what that cannot help, and nothing is done from then on, so that whoever looks later finds all as it was:
    hopeless <- hopeless or (not finite, and L is not or S is fixed or S <= least)         [CN5]
"""
import numpy as np

from minigrad.backend import xp_of
from minigrad.kernels import kernel

# Entries of the vector c. SCALE: the S of this step. STOP: how many ranks want no more steps; it only lies here.
LR, STEPS, FACTOR, NORM, LOSS, SCALE, HOPELESS, STOP = range(8)
SIZE = 8


@kernel("gpu")
def control(c, s, squares, *, clip, rule=None):
    """Set c from q = squares, an array of no dimensions, and L = c[LOSS]; s = [S, k] learns. All in float64, in place.

    rule: (is S to move?, least, patience); without it [CN1,2] is all that happens.
    """
    xp = xp_of(c)
    with np.errstate(all="ignore"):
        S, loss = s[0].copy(), c[LOSS].copy()
        n = xp.sqrt(squares) / S                                                         # [CN1]
        c[NORM], c[SCALE], c[FACTOR] = n, S, xp.fmin(1.0, clip / (n + 1e-6)) / S         # [CN2]
        if rule is None:
            return
        moving, least, patience = rule
        finite = xp.isfinite(loss + n)                                                   # [CN3]
        lowered = xp.isfinite(loss) & (S > least) & bool(moving)
        c[HOPELESS] = (c[HOPELESS] > 0) | ~(finite | lowered)                            # [CN5]
        c[FACTOR] = xp.where(finite & (c[HOPELESS] == 0), c[FACTOR], np.nan)
        if moving:
            s[:] = xp.where(c[HOPELESS] == 0, learnt(s, finite, least, patience), s)


def learnt(s, finite, least, patience):
    """[S, k] after a step."""
    xp, (S, k) = xp_of(s), (s[0], s[1] + 1)
    good = xp.where(k == patience, xp.stack([2 * S, 0 * k]), xp.stack([S, k]))
    return xp.where(finite, good, xp.stack([xp.maximum(least, S / 2), 0 * k]))           # [CN4]
