"""AdamW and SGD on flat buffers.

An optimiser lays its parameters out in one flat array per dtype, matrices (which decay) first, vectors (which do
not) last, tied parameters once, and their gradients in a flat array of float32 or wider beside it. Parameters and
gradients become views of these, so one kernel updates everything and one reduction gives the norm.
Masters: 16-bit parameters are the rounding of float32 ones, of which the optimiser keeps what rounding takes away;
small updates would otherwise be lost. What an update depends on beside the gradient (learning rate, step count, the
factor that clips) lies in a small vector on the same device, so that a step on a GPU waits for nothing: [CN] in
minigrad/fused/control.py.

Of many ranks that train one model, each keeps moments and masters of its own part only, and updates that part (ZeRO's
first stage, Rajbhandari et al. 2020, arXiv:1910.02054). The flat buffers are cut into buckets, and each of these into
as many equal pieces as there are ranks: so a bucket whose gradients are there can be summed and dealt out while the
others are still to come, and a rank's part is its piece of every bucket. Who sends what is not known here: see
train/parallel.py. One rank has one bucket, of which it has all.
"""
import numpy as np

from minigrad import backend
from minigrad.check import expect
from minigrad.fused.adamw import adamw, masters, sgd, sum_of_squares
from minigrad.fused.control import FACTOR, LR, NORM, SIZE, STEPS, control
from minigrad.slot import Slot
from minigrad.tensor import Tensor

ALIGN = 16           # entries: every parameter starts on a 64-byte boundary of its float32 buffer
# Entries of a bucket: a sixteenth of all, so that most of it is sent before backward ends, but worth a message.
BUCKETS, LEAST, MOST = 16, 1 << 16, 1 << 23


class Flat:
    """The parameters of one dtype: data and gradients end to end, those that decay in front of `decayed`."""

    def __init__(self, params, dtype, owner, rank=0, ranks=1):
        xp, wide = backend.xp_of(params[0].data), backend.wide_dtype(dtype)
        params = sorted(params, key=lambda p: p.ndim < 2)    # stable: matrices and embeddings first
        starts, end = [], 0
        for p in params:
            starts.append(end)
            end += -(-p.size // ALIGN) * ALIGN
        end = end or ALIGN                                   # of parameters without an entry
        self.decayed = next((s for s, p in zip(starts, params, strict=True) if p.ndim < 2), end)
        self.end, self.ranks, unit = end, ranks, ALIGN * ranks
        size = end if ranks == 1 else min(max(LEAST, end // BUCKETS), MOST)
        size, full = (-(-n // unit) * unit for n in (size, end))
        self.buckets = [(lo, min(lo + size, full)) for lo in range(0, full, size)]
        # of this rank's pieces: where they begin and end in the flat buffers, and begin in the arrays of its own
        self.pieces = [(lo + (hi - lo) // ranks * rank, lo + (hi - lo) // ranks * (rank + 1), lo // ranks)
                       for lo, hi in self.buckets]
        self.data, self.grads = xp.zeros(full, dtype), xp.zeros(full, wide)
        self.mine = self.grads if ranks == 1 else xp.zeros(full // ranks, wide)      # the gradients it updates from
        self.slots, self.views, self.starts = [], [], starts
        for p, s in zip(params, starts, strict=True):
            view = self.data[s:s + p.size].reshape(p.shape)
            view[...] = p.data
            p.data, held = view, p.grad
            p.slot = Slot(self.grads[s:s + p.size].reshape(p.shape), owner)
            if held is not None:
                p.slot.add(held)
            self.slots.append(p.slot)
            self.views.append(view)
        self.params = params
        master = masters(self.data[:end])                    # whatever the number of ranks
        self.master = None if master is None else self.cut(master)
        self.moments = {}

    def moment(self, name):
        """This rank's part of the flat array of this name, 0 at first."""
        if name not in self.moments:
            self.moments[name] = backend.xp_of(self.mine).zeros_like(self.mine)
        return self.moments[name]

    def cut(self, array):
        """This rank's part of a flat array, with or without what fills up its end."""
        if self.ranks == 1:
            return array
        xp = backend.xp_of(array)
        array = xp.concatenate([array, xp.zeros(len(self.data) - len(array), array.dtype)])
        return xp.concatenate([array[lo:hi] for lo, hi, _ in self.pieces])

    def whole(self, part, collect):
        """The flat array, on the host, of which this is one rank's part. collect: see Optimizer.state."""
        pieces = [collect(part[lo // self.ranks:hi // self.ranks]).reshape(-1) for lo, hi in self.buckets]
        return pieces[0] if self.ranks == 1 else np.concatenate(pieces)[:self.end]

    def fill_gaps(self):
        """Parameters that no gradient reached have gradient 0."""
        for slot in self.slots:
            if slot.empty:
                slot.free()
                slot.array[...] = 0


class Optimizer:
    """What AdamW and SGD share: the flat buffers, clipping, state to save."""
    kept = ()                # the names of the moments that it keeps of each parameter

    def __init__(self, params, lr, weight_decay, rank=0, ranks=1):
        who, want = type(self).__name__, ("a list of leaves that require grad", "pass model.parameters()")
        expect(hasattr(params, "__iter__") and not isinstance(params, (Tensor, dict)), who,
               f"a {type(params).__name__} as parameters", *want)
        params = list(params)
        for i, p in enumerate(params):
            expect(isinstance(p, Tensor) and p.node is None, who,
                   f"{'the result of an op' if isinstance(p, Tensor) else f'a {type(p).__name__}'} as parameter {i}",
                   *want[:1], want[1] + "; there are no groups, and vectors do not decay")
        params = list({id(p): p for p in params if p.requires_grad}.values())
        expect(params, who, "no parameters", *want)
        expect(lr >= 0 and weight_decay >= 0, who, f"lr {lr}, weight_decay {weight_decay}", "numbers from 0 up")
        self.lr, self.weight_decay, self.updates = lr, weight_decay, 0       # updates: calls of step() in this process
        dtypes = sorted({p.dtype for p in params}, key=str)
        self.flats = [Flat([p for p in params if p.dtype == d], d, self, rank, ranks) for d in dtypes]
        self.control = backend.xp_of(self.flats[0].data).zeros(SIZE, "float64")
        self.control[FACTOR] = 1.0

    @property
    def steps(self):
        """Updates made. On a GPU the answer is waited for."""
        return int(self.control[STEPS])

    @steps.setter
    def steps(self, n):
        self.control[STEPS] = n

    def __reduce__(self):
        raise TypeError(f"{type(self).__name__}: got a copy or a pickle of it; expected state() and load_state(). "
                        "Hint: a copy's parameters would lie in other memory than the one that it updates")

    def step(self, lr=None):
        """Update every parameter from its gradient, with learning rate lr if given. Where no gradient came it is 0, so
        weights decay and coast on their moments there too; PyTorch's stand still."""
        lr = self.lr if lr is None else lr
        expect(lr >= 0, f"{type(self).__name__}.step", f"lr {lr}", "a number from 0 up")
        self.control[LR] = lr
        self.apply()

    def apply(self):
        """step() with what is in the control vector: it does nothing if the factor there is NaN."""
        who = f"{type(self).__name__}.step"
        laid_out = [one for f in self.flats for one in zip(f.params, f.slots, f.views, strict=True)]
        expect(all(p.slot is s for p, s, _ in laid_out), who, "parameters that another optimiser has laid out since",
               "one optimiser per parameter", "make the optimiser once, or drop this one")
        expect(all(p.requires_grad for p, *_ in laid_out), who, "parameters that have been frozen since",
               "those that it was made of", "make the optimiser again after freezing")
        expect(all(p.data is v for p, _, v in laid_out), who, "parameters whose .data is another array now",
               "that of the optimiser, which updates it in place", "p.data[...] = array")
        self.updates += 1                                    # what was recorded before it is of other parameters
        c = self.control
        c[STEPS] += c[FACTOR] == c[FACTOR]
        for flat in self.flats:
            flat.fill_gaps()
            for lo, hi, at in flat.pieces:
                cut = min(max(lo, flat.decayed), hi)
                for a, b, decay in ((lo, cut, self.weight_decay), (cut, hi, 0.0)):
                    if a < b:
                        self.update(flat, slice(a, b), slice(at + a - lo, at + b - lo), decay)
        c[FACTOR] = 1.0
        backend.next_step()

    def zero_grad(self):
        """Forget all gradients: sets flags, writes nothing."""
        for flat in self.flats:
            for slot in flat.slots:
                slot.empty = True

    def state(self, collect=backend.asnumpy):
        """{name: array} of all that a resumed run needs beside the parameters, the same for any number of ranks: the
        arrays themselves, to be saved, or copied, before the next step. collect: an array -> (ranks, its size), those
        of all ranks, on the host, or nothing on ranks that do not want them."""
        arrays = {"steps": np.array(self.steps)}
        for flat in self.flats:
            for name, array in {**flat.moments, **({} if flat.master is None else {"master": flat.master})}.items():
                arrays[f"{flat.data.dtype.name}.{name}"] = flat.whole(array, collect)
        return arrays

    def load_state(self, arrays):
        """Continue from what state() gave, over the same parameters in the same order."""
        expect("steps" in arrays, "load_state", ", ".join(arrays) or "nothing", "what state() gave, steps included")
        steps, found = int(arrays["steps"]), []
        here = {f"{flat.data.dtype.name}.{name}": (flat, name) for flat in self.flats
                for name in (*self.kept, *(() if flat.master is None else ("master",)))}
        for key, array in arrays.items():
            if key == "steps":
                continue
            flat, name = here.get(key, (None, None))
            mine = flat and (flat.master if name == "master" else flat.moment(name))
            expect(flat and (array.shape, array.dtype) == ((flat.end,), mine.dtype), "load_state",
                   f"{key} {array.shape} {array.dtype}", f"{(flat.end,)} {mine.dtype}" if flat else
                   ", ".join(here) or "no moments", "the checkpoint belongs to another model or dtype")
            found.append((mine, flat, array))
        missing = [key for key, (_, name) in here.items() if key not in arrays and (steps or name == "master")]
        expect(not missing, "load_state", f"{steps} steps without {', '.join(missing)}", "all that state() gave",
               "the checkpoint is not whole, or belongs to another optimiser")
        for flat in self.flats:
            for moment in flat.moments.values():             # what is not there is 0, as before the first step
                moment[...] = 0
        for mine, flat, array in found:
            mine[...] = backend.xp_of(mine).asarray(flat.cut(array))
        self.steps = steps


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019): [AW1-4] in minigrad/fused/adamw.py."""
    kept = ("m", "v")

    def __init__(self, params, lr=6e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, rank=0, ranks=1):
        expect(np.shape(betas) == (2,) and 0 <= min(betas) <= max(betas) < 1 and eps >= 0, "AdamW",
               f"betas {betas}, eps {eps}", "two numbers in [0, 1), and one from 0 up")
        super().__init__(params, lr, weight_decay, rank, ranks)
        self.betas, self.eps = betas, eps

    def update(self, flat, part, own, decay):
        master, c = None if flat.master is None else flat.master[own], self.control
        adamw(flat.data[part], flat.mine[own], flat.moment("m")[own], flat.moment("v")[own], master, lr=c[LR],
              beta1=self.betas[0], beta2=self.betas[1], eps=self.eps, decay=decay, step=c[STEPS], scale=c[FACTOR])


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: [AW5] in minigrad/fused/adamw.py."""
    kept = ("velocity",)

    def __init__(self, params, lr=0.1, momentum=0.0, nesterov=False, weight_decay=0.0):
        expect(0 <= momentum < 1, "SGD", f"momentum {momentum}", "a number in [0, 1)")
        expect(momentum or not nesterov, "SGD", "nesterov without momentum", "momentum above 0")
        super().__init__(params, lr, weight_decay)
        self.momentum, self.nesterov, self.kept = momentum, nesterov, self.kept if momentum else ()

    def update(self, flat, part, own, decay):
        master = None if flat.master is None else flat.master[own]
        velocity = flat.moment("velocity")[own] if self.momentum else None
        sgd(flat.data[part], flat.mine[own], velocity, master, lr=self.control[LR], momentum=self.momentum,
            decay=decay, nesterov=self.nesterov, scale=self.control[FACTOR])


def clip_grad_norm(opt, max_norm, scale=1.0):
    """The norm of all gradients; if it exceeds max_norm, the next opt.step() scales them down to it.

    Gradients are not rewritten: the update kernel multiplies by the factor as it reads them. scale: how many times too
    large they are, because the loss was scaled; the norm is that of the true ones, and the factor undoes it. On a GPU
    the norm is an array there, of no dimensions.
    """
    expect(isinstance(opt, Optimizer), "clip_grad_norm", type(opt).__name__, "the optimiser")
    expect(max_norm > 0, "clip_grad_norm", max_norm, "a positive norm")
    s = backend.xp_of(opt.control).full(2, scale, "float64")
    control(opt.control, s, squares_of(opt), clip=max_norm)
    return opt.control[NORM].copy()


def squares_of(opt):
    """The sum of the squares of all gradients that this rank updates from, in float64, on their device."""
    for flat in opt.flats:
        flat.fill_gaps()
    return sum(sum_of_squares(flat.mine) for flat in opt.flats)
