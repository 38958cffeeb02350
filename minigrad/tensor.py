"""The engine: Tensor, Op, Node and backward(). No calculus here; every formula is in ops/ and fused/.

An op is a pair of plain functions on arrays (never on Tensors):

    forward(*arrays, **params)    -> y, saved           saved = what backward needs, nothing else
    backward(dy, *saved, into)    -> one gradient per array argument, None where there is none

Because both are plain functions, a test can call them directly and a Numba or CUDA kernel can stand in for
them. Calling the Op on Tensors runs forward and records a Node. An op may have several outputs: y is then a
tuple, and so is dy, with None for an output that nobody used.

into[k] says what becomes of the gradient of argument k:

    None    return it
    SKIP    nobody needs it: do not compute it (whatever is returned is ignored)
    a Slot  the argument is a leaf, and its gradient is summed in slot.array. A backward that can, adds into it
            (array, beta = slot.claim(); array = beta array + gradient) and returns DONE; what the others return
            is added by the engine.

A backward without a parameter called into always returns all its gradients. One that is marked with @adds_up is told
so_far, the gradient that the first argument has got from elsewhere, or None: the first that it returns is the sum. On
a residual path this saves a pass over it.

A forward may declare into as well: one that finds gradients on its way does less where nobody needs them, and may
borrow a slot's array to keep one in.

@op(cheap=True) marks a function that a CPU runs again more quickly than it keeps the result. There the ops that use
the result and would save it are given a promise instead, and its forward runs once more when their backward wants the
array. A GPU has more memory than time, and keeps it.

@op(numbers=True) marks one that is given Python's numbers as they are, so that x * 2.0 stays float16 if x is. For the
others a number is an array without axes.

Ownership: dy and saved are borrowed, returned gradients may alias dy, and only arrays that forward itself
allocated and saved may be overwritten by backward. The engine copies before it adds in place. Arrays that a graph was
recorded from must stay as they are until its backward; an optimiser that has stepped in between is noticed, an
assignment to x.data[...] is not.

What is deliberately absent: gradients of gradients, and gradients kept on interior tensors.
"""
import functools
import heapq
import inspect
from collections import Counter
from contextvars import ContextVar
from itertools import count

import numpy as np

from minigrad import backend, kernels
from minigrad.backend import during
from minigrad.check import expect
from minigrad.slot import DONE, SKIP, Slot
from minigrad.sums import plus, sum_to

_recording = ContextVar("recording", default=True)      # True, False, or a dict: only note leaves in it
reader = ContextVar("reader", default=None)             # or a function that is told which arrays Python looks into
_serial = count()


def recording(on):
    """A context in which ops record (True), do not (False), or list the leaves they meet (a dict, by id)."""
    return during(_recording, on)


def no_grad():
    """A context in which nothing is recorded: for evaluation and generation."""
    return recording(False)


def is_recording():
    """Will an op called now on a Tensor that requires grad record a node?"""
    return _recording.get() is True


class Node:
    """One recorded call. serial counts up, so descending serial is a topological order."""
    __slots__ = ("name", "backward", "saved", "parents", "outputs", "serial", "again")

    def __init__(self, name, backward, saved, parents, outputs=0, again=None):
        self.name, self.backward, self.saved, self.parents = name, backward, saved, parents
        self.outputs = outputs                          # 0: y is one array; n: y is a tuple of n arrays
        self.serial = next(_serial)
        self.again = again                              # of a cheap op: the call that gives (y, saved) once more


class Promise:
    """Stands in a saved tuple for the result of a cheap op."""
    __slots__ = ("node",)

    def __init__(self, node):
        self.node = node

    def keep(self):
        if self.node.again is None:
            raise RuntimeError(USED.format(self.node.name))
        return self.node.again()[0]


STEPPED = ("backward: an optimiser has stepped since {!r} ran on its parameters, which are others now. Hint: call "
           "backward() before step(), or run the forward pass again")
USED = ("backward: the graph through {!r} was already used. Hint: run the forward pass again; to add two losses, add "
        "the tensors")


class Tensor:
    """An array, and how it came to be. Leaves (made by you) may have .grad; results of ops do not."""
    __slots__ = ("data", "requires_grad", "node", "index", "slot", "__weakref__")
    __array_ufunc__ = None                              # numpy_array * tensor is ours to compute, not NumPy's

    def __init__(self, data, requires_grad=False):
        if isinstance(data, Tensor):
            if data.requires_grad:                      # its history would be lost, silently
                raise TypeError("Tensor: got a Tensor that requires grad; expected an array or numbers. Hint: "
                                "x.detach() for its values")
            data = data.data
        self.data = data if type(data) is np.ndarray or backend.on_gpu(data) else np.asarray(data)
        if self.data.dtype.kind in "OSUMmc" or self.data.dtype == np.longdouble:
            # None and words become arrays of them, and fail much later
            expect(False, "Tensor", f"{type(data).__name__}, as an array of {self.dtype}",
                   "numbers: real ones, of at most 64 bits")
        if not self.data.dtype.isnative:                # kernels would read its bytes from the wrong end
            self.data = self.data.astype(self.dtype.newbyteorder("="))
        if requires_grad and not backend.is_float(self.data.dtype):
            expect(False, "Tensor", f"requires_grad with dtype {self.dtype}", "a floating dtype")
        self.requires_grad, self.node, self.index, self.slot = requires_grad, None, 0, None

    shape = property(lambda self: self.data.shape)
    dtype = property(lambda self: self.data.dtype)
    ndim = property(lambda self: self.data.ndim)
    size = property(lambda self: self.data.size)

    @property
    def grad(self):
        """dL/d(this leaf) as an array, float32 or wider; None if no gradient has arrived. The next backward adds to it;
        under an optimiser it is always the same array, so copy() what is to stay."""
        return None if self.slot is None or self.slot.empty else self.slot.array

    @grad.setter
    def grad(self, value):
        if value is None:
            if self.slot is not None and self.slot.owner is None:
                self.slot = None                        # whoever has taken the array may keep it
            elif self.slot is not None:
                self.slot.empty = True
        else:
            expect(self.node is None, "grad", "the result of an op", "a leaf, which alone keeps a gradient",
                   "start from it by y.backward(dy)")
            shape = value.shape if hasattr(value, "shape") else np.shape(value)
            expect(shape == self.shape, "grad", f"shape {shape}", f"{self.shape}, the tensor's own")
            value = value.data if isinstance(value, Tensor) else value
            value = backend.xp_of(self.data).asarray(value, dtype=backend.wide_dtype(self.dtype))
            self.grad_slot().empty = True
            self.slot.add(value)

    def grad_slot(self):
        """The Slot of this leaf; made at first use if no optimiser has laid one out."""
        if self.slot is None:
            expect(backend.is_float(self.dtype), "backward", f"a leaf of dtype {self.dtype}", "a floating dtype")
            xp = backend.xp_of(self.data)
            self.slot = Slot(xp.empty(self.shape, backend.wide_dtype(self.dtype)))
        return self.slot

    def backward(self, dy=None, done=None):
        """Add dL/dleaf into .grad of every leaf that this tensor was computed from.

        dy is dL/dself: an array of this shape, or a number. Without it this tensor must hold one number, the loss
        L itself. A loss scale is nothing but a dy other than 1. done(leaf) is called as soon as all has been added to
        the gradient of a leaf that this pass adds to it, while others are still to come.
        """
        if self.node is None:
            raise RuntimeError("backward: got a tensor that was not computed from anything that requires grad; "
                               "expected the result of ops on such tensors. Hint: was it computed under no_grad()?")
        if dy is None:
            expect(self.size == 1, "backward", f"a tensor of shape {self.shape}", "a scalar loss",
                   "sum or average it, or pass dL/dy")
            dy = 1.0
        propagate([(self, dy)], done)
        backend.next_micro()

    def __repr__(self):
        return f"Tensor({backend.asnumpy(self.data)!r}{', requires_grad=True' * self.requires_grad})"


def takers(seeds):
    """{id of a leaf: how many of the recorded calls that led to the seeds take it}."""
    counts, seen, waiting = Counter(), set(), [tensor.node for tensor, _ in seeds]
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            counts.update(id(p) for p, *_ in node.parents if isinstance(p, Tensor))
            waiting += [p for p, *_ in node.parents if isinstance(p, Node)]
    return counts


def propagate(seeds, done=None):
    """Carry gradients from [(tensor, dL/dtensor), ...] down to the leaves: backward() and recompute use it.

    Nodes wait in a heap by descending serial. A node's consumers were all made after it, so when it comes up its
    gradient is complete; a node that no gradient reaches never comes up.
    """
    left = takers(seeds) if done else {}
    waiting, arrived = [], {}                 # arrived: node -> [gradient, may we add into it?] of each output

    def deposit(node, index, g):
        if node not in arrived:
            arrived[node] = [[None, False] for _ in range(node.outputs)] if node.outputs else [[None, False]]
            heapq.heappush(waiting, (-node.serial, node))
        held = arrived[node][index]
        if held[0] is None:
            held[0] = g
        else:                                           # the first may alias dy or a saved array: copy, once
            held[:] = plus(held[0], g, held[0] if held[1] else None), True

    for tensor, dy in seeds:
        dy = backend.xp_of(tensor.data).asarray(dy, dtype=tensor.dtype)
        expect(dy.shape in ((), tensor.shape), "backward", f"dL/dy of shape {dy.shape}", f"{tensor.shape}, y's own")
        if dy.shape != tensor.shape:
            dy = backend.xp_of(dy).broadcast_to(dy, tensor.shape)
        deposit(tensor.node, tensor.index, dy)

    while waiting:
        node = heapq.heappop(waiting)[1]
        if node.backward is None:
            raise RuntimeError(USED.format(node.name))
        if any(updates is not None and updates != p.slot.owner.updates for p, *_, updates in node.parents):
            raise RuntimeError(STEPPED.format(node.name))
        dys, slots = [g for g, _ in arrived.pop(node)], into(node.parents)
        saved, more = [s.keep() if type(s) is Promise else s for s in node.saved], {}
        if hasattr(node.backward, "adds_up") and slots[0] is None and node.parents[0][0] in arrived:
            held = arrived[node.parents[0][0]][node.parents[0][1]]
            more["so_far"], held[:] = held[0], (None, False)                # the sum will take its place
        gradients = node.backward(tuple(dys) if node.outputs else dys[0], *saved, into=slots, **more)
        parents, node.parents, saved = node.parents, (), None
        node.backward = node.saved = node.again = None  # activations are freed as soon as they are spent
        for (parent, index, shape, dtype, _), slot, g in zip(parents, slots, gradients, strict=True):
            if slot is SKIP or g is DONE or g is None:
                continue
            if g.shape != shape:
                g = sum_to(g, shape)                    # broadcasting is undone here, once, for every op
            if slot is not None:
                slot.add(g)
            else:
                deposit(parent, index, g if g.dtype == dtype else g.astype(dtype))
        for parent in (p for p, *_ in parents if left and isinstance(p, Tensor)):
            left[id(parent)] -= 1
            if not left[id(parent)]:
                done(parent)


def adds_up(backward):
    """Mark a backward that takes so_far."""
    backward.adds_up = True
    return backward


class Op:
    """A differentiable function: a reference pair, and the devices for which there is a kernel pair."""
    table = {}                                          # name -> Op; the tests and the book of formulas walk it

    def __init__(self, forward, kernels=(), cheap=False, numbers=False):
        self.cheap, self.numbers = cheap, numbers
        self.name, self.__doc__, self.__name__ = forward.__name__, forward.__doc__, forward.__name__
        self.reference, self.reference_backward = forward, None
        self.kernels, self.module = frozenset(kernels), forward.__module__
        parameters = inspect.signature(forward).parameters
        self.looks_ahead = "into" in parameters
        arguments = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        self.names = tuple(p.name for p in arguments)
        self.settings = {p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY} - {"into"}
        self.arguments = len(arguments)                 # 0: as many arrays as one likes
        self.required = sum(p.default is p.empty for p in arguments)
        Op.table[self.name] = self

    def backward(self, f):
        """Register the gradient. One that does not take into returns everything, every time."""
        if "into" in inspect.signature(f).parameters:
            self.reference_backward = f
        else:
            self.reference_backward = lambda dy, *saved, into=None: f(dy, *saved)
            self.reference_backward.__doc__ = f.__doc__
        self.formula = f
        return self

    def __call__(self, *args, **params):
        if not self.settings.issuperset(params):
            args = self._placed(args, params)
        if len(args) != self.arguments or not args:
            args = self._completed(args)
        mode, arrays, parents, promised, wanted = _recording.get(), [], [], {}, False
        for a in args:
            parent = NOBODY
            if isinstance(a, Tensor):
                arrays.append(a.data)
                if a.requires_grad and mode is not False:
                    parent, wanted = _parent(a), True
                    if a.node is not None and a.node.again:
                        promised[id(a.data)] = a.node
            elif a is None and (len(arrays) < self.required or not self.arguments):
                expect(False, self.name, f"None for argument {len(arrays) + 1}", "an array",
                       "what made it may have returned nothing")
            else:
                arrays.append(_operand(a, self.numbers))
            parents.append(parent)
        forward, backward = kernels.choose(self, arrays)
        if self.looks_ahead:
            params["into"] = into(parents) if mode is True else [SKIP] * len(parents)
        y, saved = forward(*arrays, **params)
        node = None
        if wanted and mode is True:
            if promised:
                saved = tuple(Promise(promised[id(s)]) if id(s) in promised else s for s in saved)
            cheap = self.cheap and kernels.device_for(arrays, self.name) == "cpu"
            again = functools.partial(forward, *arrays, **params) if cheap else None
            node = Node(self.name, backward, saved, parents, len(y) if isinstance(y, tuple) else 0, again)
        elif wanted:                                    # recompute's first run: remember who was there, nothing else
            mode.update((id(a), a) for a, parent in zip(args, parents) if parent is not NOBODY)
        return tuple(_result(a, node, i) for i, a in enumerate(y)) if isinstance(y, tuple) else _result(y, node)

    def _placed(self, args, params):
        """The arguments, those among them that were given by name."""
        free = self.names[len(args):]
        wrong = [name for name in params if name not in self.settings and name not in free]
        expect(not wrong, self.name, f"{', '.join(wrong)}= beside {len(args)} arrays",
               f"{', '.join([*free, *sorted(self.settings)]) or 'nothing'} by name")
        last = max(free.index(name) for name in params if name in free)
        return args + tuple(params.pop(name, None) for name in free[:last + 1])

    def _completed(self, args):
        """The arguments, with None for those that may be left out, such as a bias."""
        if not self.arguments:
            expect(args and not isinstance(args[0], (list, tuple)), self.name, "a list" if args else "nothing",
                   "arrays, one by one", f"{self.name}(*arrays)")
            return args
        least, most = self.required, self.arguments
        expect(least <= len(args) <= most, self.name, f"{len(args)} arrays",
               f"{most}" if least == most else f"{least} or {most}")
        return args + (None,) * (most - len(args))

    def __repr__(self):
        return f"<op {self.name}>"


NOBODY = (None, 0, (), None, None)


def _parent(t):
    """Where the gradient of argument t goes: (leaf or node, which output, shape, dtype, and of an optimiser's leaf how
    many updates it has seen)."""
    updates = None if t.slot is None or t.slot.owner is None else t.slot.owner.updates
    return (t if t.node is None else t.node), t.index, t.data.shape, t.data.dtype, updates


def into(parents):
    """What a forward or a backward is told about the gradients of its arguments."""
    return [SKIP if p is None else p.grad_slot() if isinstance(p, Tensor) else None for p, *_ in parents]


def _operand(a, numbers):
    """Arrays, None and, where they are wanted, Python's numbers as they are; the rest as arrays."""
    if type(a) is np.ndarray and a.dtype.isnative or a is None or backend.on_gpu(a):
        return a
    if numbers and type(a) in (int, float, bool):
        return a
    return a.item() if numbers and isinstance(a, np.generic) else Tensor(a).data


def _result(y, node, index=0):
    """The Tensor of an output; node is None where nothing is recorded."""
    if not isinstance(y, np.ndarray):                   # NumPy makes scalars of 0-d arrays
        y = Tensor(y).data
    out = Tensor.__new__(Tensor)
    out.data, out.requires_grad, out.node, out.index, out.slot = y, node is not None, node, index, None
    return out


def op(f=None, *, kernels=(), cheap=False, numbers=False):
    """@op on a forward function, then @name.backward on its gradient."""
    return Op(f, kernels, cheap, numbers) if f else lambda g: Op(g, kernels, cheap, numbers)
