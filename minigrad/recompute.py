"""Trade time for memory: keep a block's inputs, drop everything inside it, run it again in backward.

Not all of it has to run again. The second run is for what backward needs, and backward never needs what a block ends
with: the sum on the residual path, which passes dy on to both of its terms, and the product before it, whose gradients
need what went in and not what came out. In a Transformer's block that product is a third of all. So the first run
notes, call by call, where an op's saved arrays come from, and the second leaves out every call that no backward needs.
"""
from contextlib import contextmanager

import numpy as np

from minigrad import backend, kernels
from minigrad.backend import during
from minigrad.check import expect
from minigrad.slot import DONE
from minigrad.tensor import (
    NOBODY,
    Node,
    Tensor,
    _parent,
    _result,
    is_recording,
    propagate,
    reader,
    recording,
)


def recompute(fn, *inputs):
    """fn(*inputs) with the same values and gradients to the bit, but nothing inside fn is kept for backward.

    inputs may be Tensors, arrays of integers or None; fn may return a Tensor or a tuple of them. The second run
    draws the dropout masks of the first, adds into the gradients of the parameters that fn uses, and hands on the
    gradients of the inputs. Under no_grad it is a plain call. Chen et al. 2016, arXiv:1604.06174.

    What fn does may depend on what it computes, if it looks there by x > 0, argmax, item(), numpy() or detach(). It may
    not depend on .data: where the second run leaves a call out, that is NaN.

    To the bit: unless an input has two or more consumers inside fn and another outside, comes in twice, or is itself
    a 16-bit leaf. Then the same terms are added up in another order.
    """
    if not is_recording():
        return fn(*inputs)
    leaves, moment, calls = {}, backend.now(), Calls()
    with recording(leaves), calls.noted():
        y = fn(*(Tensor(t.data) if isinstance(t, Tensor) else t for t in inputs))
    outputs = y if isinstance(y, tuple) else (y,)
    expect(all(isinstance(t, Tensor) for t in outputs), "recompute", f"a function that returns {type(y).__name__}",
           "one that returns a Tensor or a tuple of Tensors")
    expect(not any(t.requires_grad for t in outputs), "recompute", "a function that returns what was there before it",
           "one that returns its inputs or what it computes", "use the rest outside of it")
    outside = next((t.node.name for t in leaves.values() if t.node is not None), None)
    expect(outside is None, "recompute", f"a function that uses the result of an earlier {outside!r}",
           "a function of its inputs and of leaves", "pass it as an input")
    wanted = [isinstance(t, Tensor) and t.requires_grad for t in inputs]
    if not any(wanted) and not leaves:
        return y

    def backward(dy, *kept, into):
        arrived = [None] * len(kept)

        def entrance(k):
            """A node in front of input k that catches the gradient instead of passing it on."""
            def catch(g, into):
                arrived[k] = g
                return ()
            return _result(kept[k], Node("recompute input", catch, (), ()))

        again = [entrance(k) if want else Tensor(a) if isinstance(t, Tensor) else a
                 for k, (want, a, t) in enumerate(zip(wanted, kept, inputs, strict=True))]
        with recording(True), backend.moment(*moment), calls.left_out():
            out = fn(*again)
        outputs, dys = (out, dy) if isinstance(out, tuple) else ((out,), (dy,))
        propagate([(t, g) for t, g in zip(outputs, dys, strict=True) if g is not None and t.node is not None])
        return (*arrived, *(DONE for _ in leaves))

    kept = tuple(t.data if isinstance(t, Tensor) else t for t in inputs)
    parents = [_parent(t) if want else NOBODY for t, want in zip(inputs, wanted, strict=True)]
    parents += [_parent(leaf) for leaf in leaves.values()]
    if isinstance(y, tuple):
        node = Node("recompute", backward, kept, parents, len(y))
        return tuple(_result(t.data, node, i) for i, t in enumerate(y))
    return _result(y.data, Node("recompute", backward, kept, parents))


class Calls:
    """The op calls of a first run, and which of them a second one can do without."""

    def __init__(self):
        # of each: (shape and dtype of its result, or None if that is no float array; the numbers of the calls that its
        # arguments came from, None where from none; _origins of what it saved; its backward)
        self.made = []
        self.read = set()    # the numbers of the calls into whose result Python looked

    @contextmanager
    def noted(self):
        """A context that looks at every op's call, and at what is looked into."""
        producers = {}       # id of an array -> number of the call that gave it, the latest with this id

        def watch(forward, backward):
            def call(*arrays, **params):
                sources = [producers.get(id(a)) for a in arrays]
                y, saved = forward(*arrays, **params)
                y = tuple(map(_array, y)) if isinstance(y, tuple) else _array(y)
                producers.update((id(a), len(self.made)) for a in (y if isinstance(y, tuple) else (y,)))
                one = not isinstance(y, tuple) and backend.is_float(y.dtype)
                self.made.append(((y.shape, y.dtype) if one else None, sources, _origins(saved, arrays), backward))
                return y, saved
            return call, backward

        def look(array):
            if id(array) in producers:
                self.read.add(producers[id(array)])
        with _watching(watch), during(reader, look):
            yield

    def left_out(self):
        """A context in which calls that nobody wants give NaN for their result, and save what they saved before."""
        wanted, again = self.wanted(), iter(range(len(self.made)))

        def watch(forward, backward):
            number = next(again, None)
            expect(number is not None, "recompute", "a function that calls more ops in its second run",
                   "one that does both times the same", "let it look at what it computes by item(), not by .data")
            result, _, origins, first = self.made[number]
            if number in wanted:
                return forward, backward

            def call(*arrays, **params):
                xp, (shape, dtype) = backend.xp_of(*arrays), result
                y = xp.broadcast_to(xp.asarray(np.nan, dtype), shape)
                return y, tuple(arrays[k] if k is not None else s for k, s in origins)
            return call, first                               # a profile, for one, has seen the forward of that alone
        return _watching(watch)

    def wanted(self):
        """The numbers of the calls that are to run again: those that saved what they computed, those into whose result
        Python looked, and those whose result such a call, or a saved argument, is made from."""
        found = set(self.read)
        for number in reversed(range(len(self.made))):
            result, sources, origins, _ = self.made[number]
            if result is None or origins is None:
                found.add(number)
            needs = sources if number in found else [sources[k] for k, _ in origins if k is not None]
            found.update(n for n in needs if n is not None)
        return found


def _origins(saved, arrays):
    """Of each saved thing: (number of the argument that it is, None), or (None, itself) if it is no array. None if one
    of them was computed."""
    found = []
    for s in saved:
        number = next((k for k, a in enumerate(arrays) if a is s), None)
        if number is None and not _constant(s):
            return None
        found.append((number, None) if number is not None and hasattr(s, "dtype") else (None, s))
    return found


def _array(y):
    """What NumPy gives as a number, as the array that it will be: the next op is to save this very one."""
    return backend.xp_of(y).asarray(y)


def _constant(s):
    """A number, a word, or a shape: the same in every run."""
    return all(map(_constant, s)) if isinstance(s, tuple) else isinstance(s, (bool, int, float, str, type(None)))


def _watching(replace):
    """A context in which replace(forward, backward) stands for every op's. Who watches already sees what runs."""
    outer = kernels.watcher.get()

    def watch(name, *functions):
        functions = outer(name, *functions) if outer else functions
        return replace(*functions) if len(functions) == 2 else functions
    return during(kernels.watcher, watch)
