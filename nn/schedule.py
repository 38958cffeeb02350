"""Learning rates over time."""
import math

from minigrad.check import expect


def cosine_with_warmup(step, max_lr, min_lr, warmup, steps):
    """The learning rate of step 0, 1, ...: a straight line up to max_lr over warmup steps, then half a cosine down to
    min_lr at the last step (Loshchilov & Hutter 2017, arXiv:1608.03983), which has max_lr if warmup >= steps - 1."""
    expect(0 <= warmup <= steps, "cosine_with_warmup", f"warmup {warmup} of {steps} steps", "0 <= warmup <= steps")
    if step < warmup:
        return max_lr * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    return min_lr + 0.5 * (1 + math.cos(math.pi * done)) * (max_lr - min_lr)
