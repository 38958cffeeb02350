"""One update, and one validation."""
import math
from contextlib import nullcontext

import numpy as np

from gpt.decode import evaluating
from minigrad import Tensor
from minigrad.backend import moment
from minigrad.fused.cross_entropy import ROWS, linear_cross_entropy
from nn import clip_grad_norm
from train.finite import NotFinite, culprit, watched
from train.precision import Scale


def train_step(model, opt, batches, lr, step, config, scale=None, spikes=None):
    """One update from the mean gradient of the micro-batches. Returns their mean loss and the gradient's norm, which is
    not finite if the step was left out because the loss scale was too high. A loss that is no number, or that spikes
    call a leap, raises; then nothing was updated."""
    loss, scale = 0.0, scale or Scale()
    try:
        for micro, (x, y) in enumerate(batches):
            where = f"step {step + 1}, micro-batch {micro}"
            # dropout masks are a function of these three; what overflows is found below, and needs no warning
            with (moment(config.seed, step, micro), np.errstate(over="ignore", invalid="ignore"),
                  watched(model, where, not scale.moving) if config.check_finite else nullcontext()):
                part = model.loss(x, y, label_smoothing=config.label_smoothing)
                part.backward(scale.value / len(batches))                                    # [LS1]
            loss += float(part) / len(batches)
        norm = float(clip_grad_norm(opt, config.clip or math.inf, scale.value))
        finite = math.isfinite(loss + norm)
        if not finite and (scale.exhausted or not math.isfinite(loss)):      # no lower scale will help
            with np.errstate(over="ignore", invalid="ignore"):
                first = culprit(model, batches, step, config, scale.value / len(batches))
            raise NotFinite(f"step {step + 1}: got loss {loss}, gradient norm {norm}; expected finite numbers. "
                            f"First not finite: {first}. Hint: a lower --lr, a longer --warmup, or --clip 1.0", loss)
        if finite and spikes:
            spikes.check(loss, config.spike_size, step + 1)
        if finite:
            opt.step(lr)
        scale.learn(finite)
    finally:
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
