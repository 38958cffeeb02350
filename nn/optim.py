"""AdamW and SGD on flat buffers.

An optimiser lays its parameters out in one flat array per dtype, matrices (which decay) first, vectors (which do
not) last, tied parameters once, and their gradients in a flat array of float32 or wider beside it. Parameters and
gradients become views of these, so one kernel updates everything and one reduction gives the norm.
Masters: 16-bit parameters are the rounding of float32 ones, of which the optimiser keeps what rounding takes away;
small updates would otherwise be lost. What an update depends on beside the gradient (learning rate, step count, the
factor that clips) lies in a small vector on the same device, so that a step on a GPU waits for nothing: [CN] in
minigrad/fused/control.py.
"""
import numpy as np

from minigrad import backend
from minigrad.check import expect
from minigrad.fused.adamw import adamw, masters, sgd, sum_of_squares
from minigrad.fused.control import FACTOR, LR, NORM, SIZE, STEPS, control
from minigrad.tensor import Slot

ALIGN = 16           # entries: every parameter starts on a 64-byte boundary of its float32 buffer


class Flat:
    """The parameters of one dtype: data and gradients end to end, those that decay in front of `decayed`."""

    def __init__(self, params, dtype, owner):
        xp, wide = backend.xp_of(params[0].data), backend.wide_dtype(dtype)
        params = sorted(params, key=lambda p: p.ndim < 2)    # stable: matrices and embeddings first
        starts, end = [], 0
        for p in params:
            starts.append(end)
            end += -(-p.size // ALIGN) * ALIGN
        self.decayed = next((s for s, p in zip(starts, params, strict=True) if p.ndim < 2), end)
        self.data, self.grads = xp.zeros(end, dtype), xp.zeros(end, wide)
        self.slots = []
        for p, s in zip(params, starts, strict=True):
            view = self.data[s:s + p.size].reshape(p.shape)
            view[...] = p.data
            p.data, held = view, p.grad
            p.slot = Slot(self.grads[s:s + p.size].reshape(p.shape), owner)
            if held is not None:
                p.slot.add(held)
            self.slots.append(p.slot)
        self.params = params
        self.master = masters(self.data)
        self.moments = {}

    def moment(self, name):
        """The flat array of this name, 0 at first."""
        if name not in self.moments:
            self.moments[name] = backend.xp_of(self.grads).zeros_like(self.grads)
        return self.moments[name]

    def fill_gaps(self):
        """Parameters that no gradient reached have gradient 0."""
        for slot in self.slots:
            if slot.empty:
                slot.free()
                slot.array[...] = 0


class Optimizer:
    """What AdamW and SGD share: the flat buffers, clipping, state to save."""

    def __init__(self, params, lr, weight_decay):
        params = list({id(p): p for p in params if p.requires_grad}.values())
        expect(params, type(self).__name__, "no parameters", "Tensors that require grad", "pass model.parameters()")
        self.lr, self.weight_decay = lr, weight_decay
        dtypes = sorted({p.dtype for p in params}, key=str)
        self.flats = [Flat([p for p in params if p.dtype == d], d, self) for d in dtypes]
        self.control = backend.xp_of(self.flats[0].data).zeros(SIZE, "float64")
        self.control[FACTOR] = 1.0

    @property
    def steps(self):
        """Updates made. On a GPU the answer is waited for, and that to factor."""
        return int(self.control[STEPS])

    @steps.setter
    def steps(self, n):
        self.control[STEPS] = n

    @property
    def factor(self):
        """What the next update multiplies gradients by."""
        return float(self.control[FACTOR])

    def step(self, lr=None):
        """Update every parameter from its gradient, with learning rate lr if given."""
        self.control[LR] = self.lr if lr is None else lr
        self.apply()

    def apply(self):
        """step() with what is in the control vector: it does nothing if the factor there is NaN."""
        stale = [s for f in self.flats for p, s in zip(f.params, f.slots, strict=True) if p.slot is not s]
        expect(not stale, f"{type(self).__name__}.step", "parameters that another optimiser has laid out since",
               "one optimiser per parameter", "make the optimiser once, or drop this one")
        c = self.control
        c[STEPS] += c[FACTOR] == c[FACTOR]
        for flat in self.flats:
            flat.fill_gaps()
            end = len(flat.data)
            for lo, hi, decay in ((0, flat.decayed, self.weight_decay), (flat.decayed, end, 0.0)):
                if lo < hi:
                    self.update(flat, slice(lo, hi), decay)
        c[FACTOR] = 1.0
        backend.next_step()

    def zero_grad(self):
        """Forget all gradients: sets flags, writes nothing."""
        for flat in self.flats:
            for slot in flat.slots:
                slot.empty = True

    def state(self):
        """{name: array} of all that a resumed run needs beside the parameters: the arrays themselves, to be saved, or
        copied, before the next step."""
        arrays = {"steps": np.array(self.steps)}
        for flat in self.flats:
            for name, array in {**flat.moments, **({} if flat.master is None else {"master": flat.master})}.items():
                arrays[f"{flat.data.dtype.name}.{name}"] = backend.asnumpy(array)
        return arrays

    def load_state(self, arrays):
        """Continue from what state() gave, over the same parameters in the same order."""
        flats = {flat.data.dtype.name: flat for flat in self.flats}
        for key, array in arrays.items():
            if key == "steps":
                continue
            dtype, name = key.split(".")
            flat = flats.get(dtype)
            mine = None if flat is None else flat.master if name == "master" else flat.moment(name)
            here = " and ".join(f"{n}.*" for n in flats) if mine is None else f"{mine.shape} {mine.dtype}"
            expect(mine is not None and (mine.shape, mine.dtype) == (array.shape, array.dtype), "load_state",
                   f"{key} {array.shape} {array.dtype}", here, "the checkpoint belongs to another model or dtype")
            mine[...] = backend.xp_of(mine).asarray(array)
        self.steps = int(arrays["steps"])


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): [AW] in minigrad/fused/adamw.py."""

    def __init__(self, params, lr=6e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1):
        super().__init__(params, lr, weight_decay)
        self.betas, self.eps = betas, eps

    def update(self, flat, part, decay):
        master, c = None if flat.master is None else flat.master[part], self.control
        adamw(flat.data[part], flat.grads[part], flat.moment("m")[part], flat.moment("v")[part], master, lr=c[LR],
              beta1=self.betas[0], beta2=self.betas[1], eps=self.eps, decay=decay, step=c[STEPS], scale=c[FACTOR])


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, p -= lr (velocity), velocity = momentum velocity + g."""

    def __init__(self, params, lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(params, lr, weight_decay)
        self.momentum, self.nesterov = momentum, nesterov

    def update(self, flat, part, decay):
        master = None if flat.master is None else flat.master[part]
        velocity = flat.moment("velocity")[part] if self.momentum else None
        sgd(flat.data[part], flat.grads[part], velocity, master, lr=self.control[LR], momentum=self.momentum,
            decay=decay, nesterov=self.nesterov, scale=self.control[FACTOR])


def clip_grad_norm(opt, max_norm, scale=1.0):
    """The norm of all gradients; if it exceeds max_norm, the next opt.step() scales them down to it.

    Gradients are not rewritten: the update kernel multiplies by the factor as it reads them. scale: how many times too
    large they are, because the loss was scaled; the norm is that of the true ones, and the factor undoes it. On a GPU
    the norm is an array there, of no dimensions.
    """
    expect(max_norm > 0, "clip_grad_norm", max_norm, "a positive norm")
    s = backend.xp_of(opt.control).full(2, scale, "float64")
    control(opt.control, s, squares_of(opt), clip=max_norm)
    return opt.control[NORM].copy()


def squares_of(opt):
    """The sum of the squares of all gradients, in float64, on their device."""
    for flat in opt.flats:
        flat.fill_gaps()
    return sum(sum_of_squares(flat.grads) for flat in opt.flats)
