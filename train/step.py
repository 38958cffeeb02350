"""One update, one validation, and who is to blame when a number is not finite."""
import math

import numpy as np

from gpt.decode import evaluating
from minigrad import Tensor, no_grad
from minigrad.backend import is_float, moment, xp_of
from minigrad.fused.cross_entropy import ROWS, linear_cross_entropy
from minigrad.tensor import probe
from nn import clip_grad_norm
from train.precision import Scale


class NotFinite(ArithmeticError):
    """The loss or its gradient is NaN or infinite; the message names the first step, parameter or op."""


def train_step(model, opt, batches, lr, step, config, scale=None):
    """One update from the mean gradient of the micro-batches. Returns their mean loss and the gradient's norm, which is
    not finite if the step was left out because the loss scale was too high."""
    loss, scale = 0.0, scale or Scale()
    for micro, (x, y) in enumerate(batches):
        # dropout masks are a function of these three; what overflows is found below, and needs no warning
        with moment(config.seed, step, micro), np.errstate(over="ignore", invalid="ignore"):
            part = model.loss(x, y, label_smoothing=config.label_smoothing)
            part.backward(scale.value / len(batches))                                    # [LS1]
        loss += float(part) / len(batches)
    norm = float(clip_grad_norm(opt, config.clip or math.inf, scale.value))
    finite = math.isfinite(loss + norm)
    if finite:
        opt.step(lr)
    elif scale.exhausted or not math.isfinite(loss):             # no lower scale will help; the weights are still good
        raise NotFinite(f"step {step + 1}: got loss {loss}, gradient norm {norm}; expected finite numbers. "
                        f"First not finite: {culprit(model, batches, step, config)}. "
                        "Hint: a lower --lr, a longer --warmup, or --clip 1.0")
    scale.learn(finite)
    opt.zero_grad()
    return loss, norm


def evaluate(model, validation):
    """(mean nats per validation token, share of tokens that the model thought the likeliest)."""
    nats, right = 0.0, 0
    with evaluating(model):
        for x, y in validation.batches():
            y = model.integers(y)
            h, w = model.hidden(model.integers(x)), model.wte.weight
            nats += float(linear_cross_entropy(h, w, y)) * int((y >= 0).sum())
            rows, wanted = h.data[y >= 0], y[y >= 0]
            for i in range(0, len(rows), ROWS):              # never all logits
                right += int(((Tensor(rows[i:i + ROWS]) @ w.T).argmax(-1) == wanted[i:i + ROWS]).sum())
    return nats / validation.tokens, right / validation.tokens


def culprit(model, batches, step, config):
    """The first thing that is not finite: a parameter, else the op that made it from finite inputs, else a gradient."""
    if name := bad_parameter(model):
        return f"parameter {name}"
    found = []

    def look(op, inputs, outputs):
        if not found and not all(map(_finite, outputs)):
            found.append(op)

    for micro, (x, y) in enumerate(batches):
        with moment(config.seed, step, micro), no_grad(), probe(look):
            model.loss(x, y, label_smoothing=config.label_smoothing)
        if found:
            return f"the output of op {found[0]} in micro-batch {micro}"
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    return f"the gradient of {bad[0]}" if bad else "nothing, on a second look"


def bad_parameter(model):
    """The name of the first parameter that is not finite, or None."""
    return next((name for name, p in model.named_parameters() if not _finite(p.data)), None)


def _finite(a):
    """Is every entry a number? Integers, and what is no array, are."""
    return not hasattr(a, "dtype") or not is_float(a.dtype) or bool(xp_of(a).isfinite(a).all())
