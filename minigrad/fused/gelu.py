r"""GELU, x times the probability that a normal variable is below x: Hendrycks & Gimpel 2016, arXiv:1606.08415.

approximate="none", the definition. Phi is the distribution and phi the density of the standard normal:
    Phi(x) = (1 + erf(x / sqrt 2)) / 2,   y = x Phi(x)                                     [GE1]
    Phi' = phi(x) = exp(-x^2/2) / sqrt(2 pi),   so by the product rule
    dx = dy (Phi(x) + x phi(x))                                                            [GE2]

approximate="tanh", what GPT uses:
    u = sqrt(2/pi) (x + 0.044715 x^3),   y = x (1 + tanh u) / 2                            [GE3]
Let s = (1 + tanh u) / 2. Since tanh u = (e^u - e^-u) / (e^u + e^-u), this s is the logistic function of 2u,
    s = e^u / (e^u + e^-u) = 1 / (1 + exp(-2u))                                            [GE4]
one exponential, and accurate for large negative u where 1 + tanh u cancels. ds/du = 2 s (1 - s), therefore
    dx = dy (s + x 2 s (1 - s) u'),   u' = sqrt(2/pi) (1 + 3 0.044715 x^2)                 [GE5]
The cubic term makes the logistic function follow Phi: the two forms differ by less than 5e-4 anywhere.

Saved: x. Everything else is computed again: an exponential costs less than a second array kept until backward.
"""
import math

from minigrad.backend import wide, xp_of
from minigrad.check import expect, expect_floats
from minigrad.special import erf
from minigrad.tensor import op

C, A = math.sqrt(2 / math.pi), 0.044715


@op(kernels=("cpu", "gpu"), cheap=True)
def gelu(x, *, approximate="tanh"):
    """y = x Phi(x), or GPT's y = x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2"""
    check(x, approximate)
    xw, xp = wide(x), xp_of(x)
    if approximate == "tanh":
        y = xw * 0.5 * (1 + xp.tanh(C * (xw + A * (xw * xw * xw))))                      # [GE3]
    else:
        y = xw * 0.5 * (1 + erf(xw * math.sqrt(0.5)))                                    # [GE1]
    return y.astype(x.dtype, copy=False), (x, approximate)


@gelu.backward
def _(dy, x, approximate):
    """dx = dy (Phi + x phi), or dy (s + 2 x s (1 - s) u')"""
    xw, xp = wide(x), xp_of(x)
    if approximate == "tanh":
        s = 0.5 * (1 + xp.tanh(C * (xw + A * (xw * xw * xw))))
        slope = s + xw * 2 * s * (1 - s) * (C * (1 + 3 * A * (xw * xw)))                 # [GE5]
    else:
        phi = xp.exp(-0.5 * (xw * xw)) / math.sqrt(2 * math.pi)
        slope = 0.5 * (1 + erf(xw * math.sqrt(0.5))) + xw * phi                          # [GE2]
    return ((wide(dy) * slope).astype(x.dtype, copy=False),)


def check(x, approximate):
    expect_floats("gelu", x)
    expect(approximate in ("tanh", "none"), "gelu", f"approximate={approximate!r}", "'tanh' or 'none'")
