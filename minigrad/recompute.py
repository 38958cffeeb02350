"""Trade time for memory: keep a block's inputs, drop everything inside it, run it again in backward."""
from minigrad import backend
from minigrad.check import expect
from minigrad.tensor import DONE, NOBODY, Node, Tensor, _parent, _result, is_recording, propagate, recording


def recompute(fn, *inputs):
    """fn(*inputs) with the same values and gradients to the bit, but nothing inside fn is kept for backward.

    inputs may be Tensors, arrays of integers or None; fn may return a Tensor or a tuple of them. The second run
    draws the dropout masks of the first, adds into the gradients of the parameters that fn uses, and hands on the
    gradients of the inputs. Under no_grad it is a plain call. Chen et al. 2016, arXiv:1604.06174.

    To the bit: unless an input has two or more consumers inside fn and another outside (or is itself a 16-bit leaf).
    Then the same terms are added up in another order.
    """
    if not is_recording():
        return fn(*inputs)
    leaves, moment = {}, backend.now()
    with recording(leaves):
        y = fn(*(Tensor(t) if isinstance(t, Tensor) else t for t in inputs))
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
        with recording(True), backend.moment(*moment):
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
