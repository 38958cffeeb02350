r"""Power laws with a floor, fitted to losses: what a model of N parameters reaches on D tokens of text.

    L(N)    = E + (Nc / N)^alpha                                                           [PL1]
    L(N, D) = E + ((Nc / N)^(alpha / q) + (Dc / D)^(beta / q))^q                           [PL2]
The first is Kaplan et al. 2020 (arXiv:2001.08361, eq. 1.1) with a floor. In the second q says how the price of few
parameters and that of little text meet: q = 1 adds them up, as Hoffmann et al. 2022 do (arXiv:2203.15556, eq. 2, with
A = Nc^alpha and B = Dc^beta); q = beta is Kaplan's eq. 1.5 with a floor. Such a law is called coupled here: while
beta > 1 two prices together cost more than both alone, while beta < 1 less. E is what no model can beat, the entropy of
the text.

The fit. With x_1 = N, x_2 = D and numbers theta = (log E, a_k, alpha_k),
    u_k = a_k - alpha_k log(x_k / m_k),    log T = q log sum over k of exp(u_k / q),    L = E + T     [PL3]
where m_k is the geometric mean of all x_k, so that a_k and alpha_k have little to do with each other. Minimised is
    sum over the runs of h(log L - log loss),    h(r) = r^2 / 2 for |r| < d,   d |r| - d^2 / 2 beyond  [PL4]
(Huber 1964; as Hoffmann does, but with d = 0.01: what is below a percent is the noise of seeds, what is far above it a
run that failed). Its gradient needs s = T / L, and w_k = exp(u_k / q) / sum of exp(u_j / q):
    d log L / d log E = 1 - s,    d log L / d a_k = s w_k,    d log L / d alpha_k = -s w_k log(x_k / m_k)
    if q = beta, to the last of them is added    s (log sum of exp(u_k / q) - sum of w_k u_k / q)      [PL5]
Steps are Levenberg and Marquardt's: (J' W J + lambda) step = -J' W r with W = min(1, d / |r|), taken if [PL4] falls,
else with a larger lambda. Many starts go down at once, and so do all draws of the bootstrap.

The interval. Runs are drawn again with replacement, as many as there are, and the law is fitted to each draw: 95 % of
all draws lie between their percentiles. Draws with no more different points than the law has numbers, or with fewer
than three values of an x (two, if E is known), are drawn again. Where losses leave the floor open, log E has next to no
slope far down, and who begins there never comes back: so each draw goes down from the law of all runs and from the laws
that are best at three fixed floors, and the lowest end counts. An interval takes the form of the law for granted: it
tells how far chance moves E, not how far a law that is not quite the right one does.

Best use of C operations. With C = 6 N D, [PL2] is least where alpha (Nc / N)^(alpha / q) = beta (Dc / D)^(beta / q):
    N = G (C / 6)^a,   a = beta / (alpha + beta),
    G = ((alpha / beta)^q Nc^alpha / Dc^beta)^(1 / (alpha + beta))                         [PL6]

Is the law right? Point j, of p, has n_j runs: m_j is the median of their r, s_j^2 the variance within the point. If a
law with k numbers holds and noise is normal, both have one scale,
    F = (sum of m_j^2 / v(n_j)) / (p - k)  /  median over j of s_j^2 / c(n_j)               [PL7]
is about 1, with v(n) the variance of the median of n standard normal numbers (1, 1/2, 0.449 for one to three) and c(n)
the median of their variance (0.455 for two, log 2 for three). It is the test on lack of fit (Draper and Smith, Applied
Regression Analysis) with medians for means, so that one run which chance held back neither breaks a law nor lets any
law hold. What F is below in 95 of 100 cases is simulated, as v and c are.

Does it bend? F sums squares, and does not see that all points of one D are above the law and all of the next below.
Let x be N or D, m the mean of all m_j, m_v that of the p_v points at which x has the value v. Of the variance of m_j
    S_x = (sum over v of p_v (m_v - m)^2) / (sum over j of (m_j - m)^2)                     [PL8]
lies between the values of x. What it is if the law holds is simulated: with J the slopes [PL5] of the law at all runs
and z normal noise, the residuals of a fit to such noise are, to first order, z - J J^+ z, and how large the noise is
cancels. S_x is to stay below what it is below in 1 - 0.05 / K of the cases, for each of K > 1 x. A law holds that keeps
both limits, that of F and that of S.
"""
import math
from itertools import product
from typing import NamedTuple

import numpy as np

from minigrad.check import expect

BEND = 0.01                  # d of [PL4]
STEPS = 200                  # most steps of a descent
SHARES = 0.02, 0.5, 0.95     # where descents start: the floor as a share of the lowest loss,
EXPONENTS = 0.05, 0.2, 0.6   # and every exponent
CASES = 20_000               # that [PL7] simulates


class Law(NamedTuple):
    """E, and for each x its scale (Nc, Dc) and its exponent (alpha, beta); coupled: is q the last exponent, or 1?"""
    floor: float
    scales: tuple
    exponents: tuple
    coupled: bool = False

    @property
    def q(self):
        return self.exponents[-1] if self.coupled else 1.0

    def __call__(self, *xs):
        """The loss at x_1 = N, x_2 = D, ...: numbers, or arrays of one shape."""
        terms = ((s / x) ** (e / self.q) for s, e, x in zip(self.scales, self.exponents, xs, strict=True))
        return self.floor + sum(terms) ** self.q                                                        # [PL2]


class Fit(NamedTuple):
    """A law, those of all draws of the bootstrap, how many percent the losses are off (root of the mean square), F with
    the limit that a law which holds keeps (NaN if no point has two runs), (S, its limit) of each x if there are more,
    and the (lowest, highest) of each x."""
    law: Law
    draws: list
    error: float
    lack: float
    limit: float
    bends: list
    over: list

    @property
    def near(self):
        """Is it off by no more than seeds differ?"""
        return self.lack <= self.limit

    @property
    def holds(self):
        """And is what it is off by without order?"""
        return self.near and not any(share > limit for share, limit in self.bends)

    def interval(self, number):
        """(2.5 %, 97.5 %) over the draws of number(law)."""
        return tuple(map(float, np.percentile([number(law) for law in self.draws], (2.5, 97.5))))


def fit(loss, *xs, floor=None, coupled=False, draws=1000, seed=0):
    """The law through losses (n,) at xs, each (n,); floor: E, if it is known (0 as well)."""
    loss, xs = np.asarray(loss, float), np.asarray(xs, float)
    numbers = 2 * len(xs) + (floor is None)
    points, group = np.unique(xs, axis=1, return_inverse=True)
    expect(xs.shape[1:] == loss.shape and np.isfinite(loss).all() and (loss > 0).all() and (xs > 0).all(), "fit",
           f"losses {loss.shape} at {xs.shape}", "positive numbers, a loss for each point")
    expect(points.shape[1] > numbers, "fit", f"{points.shape[1]} different points for {numbers} numbers",
           "more points than numbers", "more models, or a known floor")
    logs = np.log(xs)
    centre = logs.mean(1)
    logs -= centre[:, None]
    few = 2 + (floor is None)                                # values of an x, between which a bend can be seen
    expect(all(len(set(x)) >= few for x in logs), "fit", f"{min(len(set(x)) for x in logs)} values of an x",
           f"{few} at least", "more sizes, or a law without that x")
    starts = []
    for share, *alphas in product(SHARES, *[EXPONENTS] * len(xs)):
        lowest = np.log(share * loss.min()) if floor is None else np.log(floor) if floor else -np.inf
        above = np.log((loss.mean() - np.exp(lowest)) / len(xs)) if np.exp(lowest) < loss.mean() else -5.0
        starts.append([lowest, *[above] * len(xs), *alphas])
    count = np.ones((len(starts), loss.size))
    found, cost = descend(np.array(starts), logs, np.log(loss), count, floor is None, coupled)
    best = found[np.argmin(cost)]

    rng, counts = np.random.default_rng(seed), []
    while len(counts) < draws:
        drawn = rng.integers(loss.size, size=loss.size)
        if len(set(group.ravel()[drawn])) > numbers and all(len(set(x[drawn])) >= few for x in logs):
            counts.append(np.bincount(drawn, minlength=loss.size))
    again = np.empty((0, best.size))
    if draws:
        tops = np.tile(best, (1 if floor is not None else 1 + len(SHARES), 1))
        tops[1:, 0] = np.log(np.multiply(SHARES[:len(tops) - 1], loss.min()))
        tops = descend(tops, logs, np.log(loss), count[:len(tops)], False, coupled)[0]
        ends, costs = descend(np.repeat(tops, draws, 0), logs, np.log(loss), np.tile(counts, (len(tops), 1)),
                              floor is None, coupled)
        lowest_end = costs.reshape(-1, draws).argmin(0)
        again = ends.reshape(-1, draws, best.size)[lowest_end, np.arange(draws)]
    law = as_law(best, centre, coupled)
    r = np.log(law(*xs) / loss)
    slope = residuals(best[None], logs, np.log(loss), coupled)[1][0, :, floor is not None:]
    return Fit(law, [as_law(theta, centre, coupled) for theta in again], 100 * float(np.sqrt(np.mean(r * r))),
               *lack_of_fit(r, group.ravel(), numbers), bends(r, slope, points, group.ravel()),
               [(x.min(), x.max()) for x in xs])


def as_law(theta, centre, coupled):
    """theta of [PL3] -> Law."""
    k = len(centre)
    a, alpha = theta[1:1 + k], theta[1 + k:]
    scales = np.exp(a / alpha + centre)
    return Law(float(np.exp(theta[0])), tuple(map(float, scales)), tuple(map(float, alpha)), coupled)


def lack_of_fit(r, point, numbers):
    """(F of [PL7], its 95th percentile) of residuals r (n,), where point (n,) has one number for runs of one point."""
    rng, off, noise, chance = np.random.default_rng(0), [], [], []
    for runs in np.split(r[np.argsort(point, kind="stable")], np.cumsum(np.bincount(point))[:-1]):
        z = rng.normal(size=(CASES, runs.size))
        off.append(np.median(runs) ** 2 / np.median(z, 1).var())
        if runs.size > 1:
            within = z.var(1, ddof=1)
            noise.append(runs.var(ddof=1) / np.median(within))
            chance.append(within / np.median(within))
    if not noise or not np.median(noise):
        return math.nan, math.nan
    more = len(off) - numbers
    limit = np.quantile(rng.chisquare(more, CASES) / more / np.median(chance, 0), 0.95)
    return float(sum(off) / more / np.median(noise)), float(limit)


def bends(r, slope, points, point):
    """[(S of [PL8], its limit)] for each x of points (K, p), if K > 1; r and point as above, slope (n, numbers)."""
    if len(points) < 2:
        return []
    size = np.linalg.norm(slope, axis=0)
    free = np.linalg.qr(slope / np.where(size, size, 1))[0]
    z = np.random.default_rng(0).normal(size=(CASES // 4, r.size))
    runs = np.split(np.argsort(point, kind="stable"), np.cumsum(np.bincount(point))[:-1])
    m = np.stack([np.median(np.vstack([r, z - z @ free @ free.T])[:, one], 1) for one in runs], 1)
    m -= m.mean(1, keepdims=True)
    found = []
    for x in points:
        same = x == np.unique(x)[:, None]                                                           # (values, p)
        with np.errstate(invalid="ignore"):
            share = ((m @ same.T) ** 2 / same.sum(1)).sum(1) / (m * m).sum(1)                           # [PL8]
        found.append((float(share[0]), float(np.quantile(share[1:], 1 - 0.05 / len(points)))))
    return found


def descend(theta, logs, target, count, free, coupled=False):
    """Many minima of [PL4] at once.

    theta (R, 1 + 2 K) starts; logs (K, n) of [PL3]; target (n,) logarithms of the losses; count (R, n), how often each
    run counts; free: may the floor move? Returns theta, and its cost (R,).
    """
    live, ends, costs = np.arange(len(theta)), theta.copy(), np.empty(len(theta))
    damping = np.full(len(theta), 1e-3)
    r, slope = residuals(theta, logs, target, coupled)
    cost = (count * huber(r)).sum(1)
    for _ in range(STEPS):
        slope[:, :, 0] *= free
        weighted = slope * (count * np.minimum(1, BEND / np.maximum(np.abs(r), 1e-300)))[:, :, None]
        across = weighted.transpose(0, 2, 1)
        normal = across @ slope + damping[:, None, None] * np.eye(theta.shape[1])
        ahead = theta - np.linalg.solve(normal, across @ r[:, :, None])[:, :, 0]
        r_ahead, slope_ahead = residuals(ahead, logs, target, coupled)
        cost_ahead = (count * huber(r_ahead)).sum(1)
        better = (cost_ahead < cost) & (ahead[:, 1 + len(logs):] > 1e-3).all(1)
        gained = np.where(better, cost - cost_ahead, 0)
        theta, cost = np.where(better[:, None], ahead, theta), np.where(better, cost_ahead, cost)
        r, slope = np.where(better[:, None], r_ahead, r), np.where(better[:, None, None], slope_ahead, slope)
        damping = np.clip(np.where(better, damping / 4, damping * 8), 1e-12, 1e9)
        ends[live], costs[live] = theta, cost
        goes = (gained > 1e-12 * cost) | ~better & (damping <= 1e6)
        if not goes.any():
            break
        live, theta, cost, r, slope, damping, count = (
            a[goes] for a in (live, theta, cost, r, slope, damping, count))
    return ends, costs


def residuals(theta, logs, target, coupled=False):
    """(log L - target, (R, n); its derivatives by theta, (R, n, 1 + 2 K))"""
    k = len(logs)
    q = theta[:, -1:, None] if coupled else 1.0                                                     # (R, 1, 1)
    u = (theta[:, 1:1 + k, None] - theta[:, 1 + k:, None] * logs) / q                               # (R, K, n)
    with np.errstate(over="ignore", invalid="ignore"):
        together = np.logaddexp.reduce(u, axis=1, keepdims=True)
        w, log_t = np.exp(u - together), q * together                                               # [PL3]
        log_l = np.logaddexp(theta[:, :1, None], log_t)                                             # (R, 1, n)
        s = np.exp(log_t - log_l)
        slope = np.concatenate([1 - s, s * w, -s * w * logs], 1)                                    # [PL5]
        if coupled:
            slope[:, -1:] += s * (together - (w * u).sum(1, keepdims=True))
    return log_l[:, 0] - target, slope.transpose(0, 2, 1)


def huber(r):
    """h of [PL4]"""
    size = np.abs(r)
    return np.where(size < BEND, size * size / 2, BEND * size - BEND * BEND / 2)


def best_parameters(law, operations):
    """N of [PL6], for a law of N and D."""
    (nc, dc), (alpha, beta) = law.scales, law.exponents
    log_g = (law.q * np.log(alpha / beta) + alpha * np.log(nc) - beta * np.log(dc)) / (alpha + beta)
    return np.exp(log_g + share_of_parameters(law) * np.log(operations / 6))


def share_of_parameters(law):
    """a of [PL6]: by which power of the operations the best model grows."""
    alpha, beta = law.exponents
    return beta / (alpha + beta)
