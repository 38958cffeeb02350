r"""Causal self-attention of all heads, from the packed projection (Vaswani et al. 2017, arXiv:1706.03762).

qkv (B, T, 3C) holds q, k and v side by side, C entries each; head h has its D = C/H of every part. For one head, with
rows i (the position that looks) and j <= i (the positions that it may look at):
    s_ij  = q_i . k_j / sqrt(D)                                                            [AT1]
    lse_i = log sum_{j<=i} exp(s_ij)                                                       [AT2]
    p_ij  = exp(s_ij - lse_i) for j <= i, else 0                                           [AT3]
    a_ij  = z_ij p_ij,   z_ij = dropout's 0 or 1/(1 - rate)                                [AT4]
    y_i   = sum_j a_ij v_j                                                                 [AT5]

Backward, from dy. By [AT5] and [AT4]
    dv_j  = sum_i a_ij dy_i                                                                [AT6]
    dp_ij = z_ij (dy_i . v_j)                                                              [AT7]
The softmax gives ds_ij = p_ij (dp_ij - sum_k p_ik dp_ik), and the sum needs no second pass over the row, since
    delta_i = sum_k p_ik dp_ik = sum_k a_ik (dy_i . v_k) = dy_i . y_i                      [AT8]
    ds_ij = p_ij (dp_ij - delta_i)                                                         [AT9]
and by [AT1]
    dq_i  = sum_j ds_ij k_j / sqrt(D),     dk_j = sum_i ds_ij q_i / sqrt(D)                [AT10]

Kernels, for which powers of two are cheapest, take with c = log2(e) / sqrt(D)
    p_ij  = 2^(c q_i . k_j - log2(e) lse_i)                                                [AT11]
and need one pass over the keys, some at a time: with x_ij = q_i . k_j, and m_i the largest x_ij among the keys so far,
    l_i <- 2^(c (m_i before - m_i)) l_i + sum_j 2^(c (x_ij - m_i)),   o_i likewise with z_ij v_j in the sum   [AT12]
begins at 0 and ends with y_i = o_i / l_i and lse_i = m_i / sqrt(D) + log l_i (Milakov and Gimelshein 2018,
arXiv:1805.02867). All that is asked of m_i is that the powers stay finite: where the largest so far is little larger
than m_i, m_i may stay, and the factor is 1.

Saved: qkv, y and lse. p (T x T for every head) is rebuilt from lse by [AT3], so a kernel never has to store it, and
memory grows with T, not T^2 (Dao et al. 2022, arXiv:2205.14135). Cost, per head: 4 T^2 D operations forward and
10 T^2 D backward if the upper triangle is computed, half of that if it is skipped. A backward in two kernels, one for
dq, one for dk and dv, computes scores and dp twice: 14 T^2 D.
"""
import math

from minigrad.backend import wide, xp_of
from minigrad.check import expect, expect_floats
from minigrad.fused.dropout import check as check_dropout
from minigrad.fused.dropout import keep_mask
from minigrad.tensor import op


@op(kernels=("cpu", "gpu"))
def attention(qkv, *, n_head, dropout=None):
    """y = softmax(q k^T / sqrt(D), causal) v for every head.  qkv (B, T, 3C) -> (B, T, C)

    dropout: None, or (rate, (seed, step, micro-batch, site)), which drops attention weights.
    """
    check(qkv, n_head, dropout)
    q, k, v = heads(wide(qkv), n_head)                                                   # (B, H, T, D) each
    s = scores(q, k)
    xp, m = xp_of(s), (s.max if s.size else s.sum)(-1, keepdims=True)
    lse = m + xp.log(xp.exp(s - m).sum(-1, keepdims=True))                               # [AT2]  (B, H, T, 1)
    a = xp.exp(s - lse) * zeros_and_ones(s.shape, dropout, xp, s.dtype)                  # [AT3,4]
    y = merge(a @ v).astype(qkv.dtype, copy=False)                                       # [AT5]  (B, T, C)
    return y, (qkv, y, lse[..., 0], n_head, dropout)


@attention.backward
def _(dy, qkv, y, lse, n_head, dropout):
    """dv = a^T dy,  ds = p (z (dy v^T) - rowsum(dy y)),  dq = ds k / sqrt(D),  dk = ds^T q / sqrt(D)"""
    q, k, v = heads(wide(qkv), n_head)
    xp, C = xp_of(qkv), qkv.shape[-1] // 3
    dy, y = (split(wide(t), n_head) for t in (dy, y))                                    # (B, H, T, D)
    p = xp.exp(scores(q, k) - lse[..., None])                                            # [AT1,3]
    z = zeros_and_ones(p.shape, dropout, xp, p.dtype)
    dv = (z * p).swapaxes(-1, -2) @ dy                                                   # [AT4,6]
    dp = z * (dy @ v.swapaxes(-1, -2))                                                   # [AT7]
    delta = (dy * y).sum(-1, keepdims=True)                                              # [AT8]
    ds = p * (dp - delta) / math.sqrt(C // n_head)                                       # [AT9]
    dq, dk = ds @ k, ds.swapaxes(-1, -2) @ q                                             # [AT10]
    return (xp.concatenate([merge(dq), merge(dk), merge(dv)], -1).astype(qkv.dtype, copy=False),)


def check(qkv, n_head, dropout):
    expect_floats("attention", qkv)
    whole = qkv.ndim == 3 and hasattr(n_head, "__index__") and n_head > 0 and qkv.shape[-1] % (3 * n_head) == 0
    if not (whole and qkv.shape[-1] > 0):
        expect(False, "attention", f"qkv {qkv.shape} with n_head {n_head}", "(B, T, 3C) with C a multiple of n_head")
    if dropout is not None:
        (B, T, _), (rate, key) = qkv.shape, dropout
        check_dropout(rate, key, B * n_head * T * T)


def split(x, n_head):
    """(B, T, C) -> (B, H, T, D)"""
    B, T, C = x.shape
    return x.reshape(B, T, n_head, C // n_head).swapaxes(1, 2)


def merge(x):
    """(B, H, T, D) -> (B, T, C)"""
    B, H, T, D = x.shape
    return x.swapaxes(1, 2).reshape(B, T, H * D)


def heads(qkv, n_head):
    """(B, T, 3C) -> q, k, v, (B, H, T, D) each"""
    C = qkv.shape[-1] // 3
    return (split(qkv[..., i * C:(i + 1) * C], n_head) for i in range(3))


def scores(q, k):
    """[AT1], with -inf where j > i: exp makes it the 0 of [AT3]."""
    xp, T = xp_of(q), q.shape[-2]
    s = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])                                  # [AT1]  (B, H, T, T)
    return xp.where(xp.tri(T, dtype=bool), s, -xp.inf)


def zeros_and_ones(shape, dropout, xp, dtype):
    """z of [AT4]: 1 without dropout, else 0 or 1/(1 - rate)."""
    if dropout is None:
        return 1
    rate, key = dropout
    return keep_mask(shape, rate, key, xp=xp).astype(dtype) / (1 - rate)
