r"""erf in NumPy and CuPy array arithmetic: neither library has it (SciPy does), and GELU is defined by it.

    erf(x) = 2/sqrt(pi) int_0^x exp(-t^2) dt,        erf(-x) = -erf(x),       d erf/dx = 2/sqrt(pi) exp(-x^2)

W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969), with the
coefficients of his program CALERF:

    erf(x) = x P1(x^2) / Q1(x^2)                          for |x| <= 0.46875                [ER1]
    erf(x) = 1 - exp(-x^2) P2(x) / Q2(x)                  for 0.46875 < x                   [ER2]

Cody stops [ER2] at x = 4, where a third fraction keeps the small number 1 - erf(x) accurate. erf itself does not need
it: 1 - erf(x) is below 2e-8 there and [ER2] has 1e-7 of it right. From x = 6 on, erf(x) rounds to 1.
Measured against mpmath: absolute error below 2.3e-16 everywhere, relative error below 5e-16.
"""
from minigrad.backend import xp_of

# From the highest power to the constant.
P1 = (1.85777706184603153e-1, 3.16112374387056560e00, 1.13864154151050156e02, 3.77485237685302021e02,
      3.20937758913846947e03)
Q1 = (1.0, 2.36012909523441209e01, 2.44024637934444173e02, 1.28261652607737228e03, 2.84423683343917062e03)
P2 = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e00, 6.61191906371416295e01,
      2.98635138197400131e02, 8.81952221241769090e02, 1.71204761263407058e03, 2.05107837782607147e03,
      1.23033935479799725e03)
Q2 = (1.0, 1.57449261107098347e01, 1.17693950891312499e02, 5.37181101862009858e02, 1.62138957456669019e03,
      3.29079923573345963e03, 4.36261909014324716e03, 3.43936767414372164e03, 1.23033935480374942e03)
SMALL, ONE = 0.46875, 6.0       # where [ER2] takes over, and from where on erf rounds to 1


def erf(x):
    """erf(x), entry by entry, in x's own dtype (float32 or float64)."""
    xp = xp_of(x)
    near, far = xp.clip(x, -SMALL, SMALL), xp.clip(xp.abs(x), SMALL, ONE)
    inner = near * _horner(P1, near * near) / _horner(Q1, near * near)                       # [ER1]
    outer = xp.copysign(1 - xp.exp(-far * far) * _horner(P2, far) / _horner(Q2, far), x)     # [ER2]
    return xp.where(xp.abs(x) <= SMALL, inner, outer)


def _horner(coefficients, x):
    y = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y
