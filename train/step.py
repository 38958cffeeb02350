"""One update, and one validation."""
import functools
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np

from gpt import GPT
from gpt.decode import evaluating
from minigrad import Tensor
from minigrad.backend import device_of, moment
from minigrad.cuda import step_word
from minigrad.fused.control import HOPELESS, LOSS, LR, NORM, SCALE, STOP, control
from minigrad.fused.cross_entropy import ROWS, linear_cross_entropy
from minigrad.gpu import Later, Repeated
from nn import AdamW
from nn.optim import squares_of
from train.config import Config
from train.finite import NotFinite, culprit, watched
from train.parallel import ALONE, Group
from train.precision import Scale
from train.spikes import Spikes


def train_step(model: GPT, opt: AdamW, batches: list, lr: float, step: int, config: Config, scale: Scale | None = None,
               spikes: Spikes | None = None, late: bool = False, graph: Repeated | None = None,
               group: Group = ALONE) -> Any:
    """One update from the mean gradient of the micro-batches. Returns their mean loss and the gradient's norm, which is
    not finite if the step was left out because the loss scale was too high. A loss that is no number, or that spikes
    call a leap, raises; then nothing was updated.

    late: return a function that gives the two, or raises. A GPU may have everything before it when this function
    returns; from a NaN loss on it leaves out all updates, until that function has said so. Spikes, and
    config.check_finite, make the host wait here. graph: a gpu.Repeated, for steps that differ in their batches, lr
    and number only. group: of ranks that make this step together, each with batches of its own; loss and norm are those
    of all.
    """
    assert graph is None or scale is not None                # a captured graph reads the scale where it lay
    scale, c = scale or Scale(), opt.control
    scale.on(device_of([c], "train_step"))
    c[LR] = lr
    arrays = [a for pair in batches for a in pair]
    if graph is None:
        update(model, opt, step, config, scale, spikes, group, *arrays)
    else:
        step_word(step, gpu=True)
        graph(functools.partial(update, model, opt, step, config, scale, spikes, group), *arrays)
    found = functools.partial(judge, Later(c), model, opt, batches, step, config, scale, group)
    return found if late else found()


def update(model: GPT, opt: AdamW, step: int, config: Config, scale: Scale, spikes: Spikes | None, group: Group,
           *arrays: np.ndarray) -> None:
    """What a step does on the device: arrays are x, y of the first micro-batch, x, y of the second, ..."""
    c, mine = opt.control, len(arrays) // 2
    many, summing = mine * group.size, group.summing(opt)
    c[LOSS] = 0.0
    try:
        for micro, (x, y) in enumerate(zip(arrays[::2], arrays[1::2], strict=True)):
            where = f"step {step + 1}, micro-batch {micro}"
            # dropout masks are a function of these three; what overflows is found below, and needs no warning
            number = group.number(micro)
            with (moment(config.seed, step, number), np.errstate(over="ignore", invalid="ignore"),
                  watched(model, where, not scale.moving) if config.check_finite else nullcontext()):
                part = model.loss(x, y, label_smoothing=config.label_smoothing)
                part.backward(scale.numbers[0] / many, summing.done if micro == mine - 1 else None)          # [LS1]
            c[LOSS] += part.data.astype("float64") / many
        summing.finish()
        c[LOSS], squares, c[STOP] = group.sum(c[LOSS], squares_of(opt), group.asked)
        if spikes and math.isfinite(loss := float(c[LOSS])) and math.isfinite(float(squares)):
            spikes.check(loss, config.spike_size, step + 1)
        control(c, scale.numbers, squares, clip=config.clip or math.inf, rule=scale.rule)
        opt.apply()
        group.spread(opt)
    finally:
        opt.zero_grad()


def judge(later: Callable, model: GPT, opt: AdamW, batches: list, step: int, config: Config, scale: Scale,
          group: Group) -> tuple[float, float]:
    """(loss, norm) of a step; NotFinite if it was hopeless."""
    numbers = later()
    loss, norm, scale.used = (float(numbers[k]) for k in (LOSS, NORM, SCALE))
    group.stopped = numbers[STOP] > 0
    if numbers[HOPELESS]:
        opt.control[HOPELESS] = 0.0
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                first = culprit(model, batches, step, config, scale.used / (len(batches) * group.size), group)
        finally:
            opt.zero_grad()
        raise NotFinite(f"step {step + 1}: got loss {loss}, gradient norm {norm}; expected finite numbers. First not "
                        f"finite: {first}. Hint: a lower --lr, a longer --warmup, or --clip 1.0", loss)
    return loss, norm


def evaluate(model: GPT, validation: Any, group: Group = ALONE) -> tuple[float, float]:
    """(mean nats per validation token, share of tokens that the model thought the likeliest). Each rank scores a
    part; batches are added up in their order, so the same batches have the same sum on any number of ranks."""
    nats, right = 0.0, 0
    with evaluating(model):
        for one, of_one in group.share(lambda some: (score(model, x, y) for x, y in validation.batches(some)),
                                       range(validation.count)):
            nats, right = nats + one, right + of_one
    return float(nats) / validation.tokens, float(right) / validation.tokens


def score(model: GPT, x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """(nats, how many targets the model thought the likeliest) of a batch."""
    y, right = model.integers(y), 0
    h, w = model.hidden(model.integers(x)), model.wte.weight
    rows, wanted = h.data[y >= 0], y[y >= 0]
    for i in range(0, len(rows), ROWS):                      # never all logits
        logits = Tensor(rows[i:i + ROWS]) @ w.T  # type: ignore[attr-defined]                # minigrad/methods.py has it
        right += int((logits.argmax(-1) == wanted[i:i + ROWS]).sum())
    return float(linear_cross_entropy(h, w, y)) * int((y >= 0).sum()), right
