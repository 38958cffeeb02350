"""Reverse mode on one page: a number that remembers what it was computed from.

    a, b = Value(3.0), Value(-2.0)
    L = (a * b + a).tanh()
    L.backward()                  # a.grad is now dL/da, b.grad is dL/db

A program is a list of steps, each of which computes one value from earlier ones; the last value is L.
Call the values that a step uses its inputs and the steps that use a value x its consumers. Write dx
for dL/dx: how far L moves when x is nudged, per unit of nudge.

L moves as L does, and a nudge of x reaches L only through x's consumers. Each consumer y moves by the
local derivative of its own operation, small movements add, so
    dL = 1                                                                                   [V1]
    dx = sum of dy (local derivative of y by x), over every place where a consumer y uses x  [V2]
That is the chain rule. A local derivative needs nothing but the step itself, so every operator below
stores it beside its result: those lines are all the calculus there is. In y = x x the value x stands in
two places and each contributes x dy, which makes the familiar 2x without a rule for it.

Reading [V2] from L backwards costs one multiplication and one addition per place, and it gives dx for
all values at once. Reading it forwards from one x would cost a pass for each parameter.

Order is the one thing left to get wrong, because [V2] may use dy only after dy is complete. Take
    a = 3,  b = a + a = 6,  c = b + b = 12,  so c = 4a and da must be 4.
When may b pay on to a, once for each place of b = a + a, what it receives from c?
    at every receipt             b has 1: a gets 1 + 1.  b has 2: a gets 2 + 2 more.    da = 6, wrong
    once, at the first receipt   b has 1: a gets 1 + 1.                                 da = 2, wrong
    once, after the last         b has 2: a gets 2 + 2.                                 da = 4
So backward() first counts the places that use a value, then lets it pay when its count has run down to
zero. Counting needs no recursion, and a graph may be as deep as memory allows.

Only values that were not computed (inputs, parameters) keep adding up over several backward() calls,
until zero_grad; the others start each pass at zero. Not here: arrays, and derivatives of derivatives.
"""
import math
import random
from itertools import pairwise
from numbers import Real


class Value:
    """A number, its gradient, and the step that made it: _op on the inputs _prev, with their local derivatives."""
    __slots__ = ("_local", "_op", "_prev", "data", "grad")

    def __init__(self, data, _children=(), _op="", _local=()):
        if not isinstance(data, (float, Real)):                  # Real alone would do, but is slow to ask
            raise TypeError(f"Value: got {data!r} ({type(data).__name__}); expected a real number")
        self.data, self.grad = float(data), 0.0
        self._prev, self._op, self._local = tuple(_children), _op, _local

    def __repr__(self):
        return f"Value(data={self.data}, grad={self.grad})"

    # y and its local derivatives: the calculus

    def __add__(self, other):
        other = _lift(other)
        return Value(self.data + other.data, (self, other), "+", (1.0, 1.0))

    def __sub__(self, other):
        other = _lift(other)
        return Value(self.data - other.data, (self, other), "-", (1.0, -1.0))

    def __mul__(self, other):
        other = _lift(other)
        return Value(self.data * other.data, (self, other), "*", (other.data, self.data))

    def __truediv__(self, other):
        other = _lift(other)
        if other.data == 0:
            raise ZeroDivisionError(f"Value: got {self.data} / 0; expected a divisor other than zero")
        y = self.data / other.data
        return Value(y, (self, other), "/", (1 / other.data, -y / other.data))

    def __neg__(self):
        return Value(-self.data, (self,), "neg", (-1.0,))

    def __pow__(self, other):
        """x ** n for a number n, or x ** p for a Value p, where dp = dy y log(x) asks for x >= 0."""
        p = _lift(other)
        x, n = self.data, p.data
        if x == 0 and n < 0:
            raise ZeroDivisionError(f"Value: got {x} ** {n}; expected a base other than zero or a power from zero up")
        if x < 0 and (p is other or n % 1):
            raise ValueError(f"Value: got {x} ** {n}; expected a base from zero up, or a power that is a whole number "
                             "and not a Value. Hint: x * x stands for x ** 2 anywhere")
        y, dx = _power(x, n), n * _power(x, n - 1) if n else 0.0
        if p is not other:
            return Value(y, (self,), f"**{other}", (dx,))
        return Value(y, (self, p), "**", (dx, y * math.log(x) if x else 0.0))

    def exp(self):
        try:
            y = math.exp(self.data)
        except OverflowError:
            y = math.inf
        return Value(y, (self,), "exp", (y,))

    def log(self):
        if self.data <= 0:
            raise ValueError(f"Value.log: got {self.data}; expected a number above zero. Hint: the log of a softmax is "
                             "x - m - log(sum of exp(x - m)) with m the largest x, and its sum is at least 1")
        return Value(math.log(self.data), (self,), "log", (1 / self.data,))

    def sqrt(self):
        if self.data < 0:
            raise ValueError(f"Value.sqrt: got {self.data}; expected a number from zero up")
        y = math.sqrt(self.data)
        return Value(y, (self,), "sqrt", (0.5 / y if y else math.inf,))

    def tanh(self):
        y = math.tanh(self.data)
        return Value(y, (self,), "tanh", (1 - y * y,))

    def sigmoid(self):
        z = math.exp(-abs(self.data))                            # never above 1, so nothing overflows
        y = (1.0 if self.data >= 0 else z) / (1 + z)
        return Value(y, (self,), "sigmoid", (z / (1 + z) ** 2,))   # y (1 - y), but not 0 where y rounds to 1

    def relu(self):
        y = 0.0 if self.data < 0 else self.data                  # this way round a NaN stays visible
        return Value(y, (self,), "ReLU", (0.0 if y <= 0 else 1.0,))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other):
        return _lift(other) - self

    def __rtruediv__(self, other):
        return _lift(other) / self

    def __rpow__(self, other):
        return _lift(other) ** self

    # the chain rule

    def _backward(self):
        """Pay this value's gradient into its inputs, one term of [V2] for each: one step of backward()."""
        for x, local in zip(self._prev, self._local, strict=True):
            x.grad += self.grad * local

    def backward(self):
        """Add dself/dx into x.grad for every x that self was computed from."""
        unpaid = _uses(self)
        for value in unpaid:
            if value._prev:
                value.grad = 0.0                                 # what an earlier pass left would be paid out twice
        self.grad += 1.0                                         # [V1]
        ready = [self]
        while ready:
            value = ready.pop()
            value._backward()                                    # [V2]
            for x in value._prev:
                unpaid[x] -= 1
                if unpaid[x] == 0:
                    ready.append(x)


def _lift(x):
    return x if isinstance(x, Value) else Value(x)


def _power(x, n):
    """x ** n with the infinities that Python raises errors for."""
    try:
        return x ** n
    except (OverflowError, ZeroDivisionError):
        return -math.inf if x < 0 and n % 2 == 1 else math.inf


def _uses(root):
    """{value: number of places that use it}, for root and everything under it."""
    uses, stack = {root: 0}, [root]
    while stack:
        for x in stack.pop()._prev:
            if x not in uses:
                uses[x] = 0
                stack.append(x)
            uses[x] += 1
    return uses


# drawings; the names are optional: draw_tree(L, a=a, b=b)


def draw_tree(root, /, **names):
    """The graph as indented text. A value used in several places gets a number and is drawn once."""
    names, uses, numbers = {v: k for k, v in names.items()}, _uses(root), {}
    lines, stack = [], [(root, "", "")]
    while stack:
        value, first, rest = stack.pop()
        if value in numbers:
            lines.append(f"{first}#{numbers[value]}, see above")
            continue
        if uses[value] > 1:
            numbers[value] = len(numbers) + 1
            first += f"#{numbers[value]} "
        lines.append(first + " | ".join(_describe(value, names)))
        children = [(x, rest + "├─ ", rest + "│  ") for x in value._prev]
        children[-1:] = [(x, rest + "└─ ", rest + "   ") for x in value._prev[-1:]]
        stack.extend(reversed(children))
    return "\n".join(lines)


def draw_dot(root, **names):
    """The graph in Graphviz's language: paste it into any viewer, or feed it to `dot -Tsvg`."""
    names, ids = {v: k for k, v in names.items()}, {v: i for i, v in enumerate(_uses(root))}
    boxes = [f'  {i} [label="' + r"\n".join(_describe(v, names)) + '"]' for v, i in ids.items()]
    arrows = [f"  {ids[x]} -> {i}" for v, i in ids.items() for x in v._prev]
    return "\n".join(["digraph {", "  rankdir=LR", "  node [shape=box]", *boxes, *arrows, "}"])


def _describe(value, names):
    title = f"{names.get(value, '')} {value._op}".strip() or "leaf"
    return title, f"data {value.data:.6g}", f"grad {value.grad:.6g}"


# a small network, with micrograd's names and its order of random numbers


class Module:
    """Anything with parameters."""

    def parameters(self):
        return []

    def zero_grad(self):
        for p in self.parameters():
            p.grad = 0.0


class Neuron(Module):
    """relu(w x + b), or w x + b where nonlin is False."""

    def __init__(self, nin, nonlin=True):
        self.w = [Value(random.uniform(-1, 1)) for _ in range(nin)]
        self.b, self.nonlin = Value(0), nonlin

    def __call__(self, x):
        if len(x) != len(self.w):
            raise ValueError(f"Neuron: got {len(x)} inputs; expected {len(self.w)}, one per weight")
        y = sum((w * xi for w, xi in zip(self.w, x, strict=True)), self.b)
        return y.relu() if self.nonlin else y

    def parameters(self):
        return [*self.w, self.b]

    def __repr__(self):
        return f"{'ReLU' if self.nonlin else 'Linear'}Neuron({len(self.w)})"


class Layer(Module):
    """nout neurons that read the same inputs."""

    def __init__(self, nin, nout, **kwargs):
        self.neurons = [Neuron(nin, **kwargs) for _ in range(nout)]

    def __call__(self, x):
        return [neuron(x) for neuron in self.neurons]

    def parameters(self):
        return [p for neuron in self.neurons for p in neuron.parameters()]

    def __repr__(self):
        return f"Layer of [{', '.join(map(str, self.neurons))}]"


class MLP(Module):
    """Layers of nouts neurons, the last one linear; if that is a single neuron, it answers with a Value, not a list."""

    def __init__(self, nin, nouts):
        sizes = enumerate(pairwise([nin, *nouts]), 1)
        self.layers = [Layer(n, m, nonlin=i < len(nouts)) for i, (n, m) in sizes]

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return x[0] if len(x) == 1 else x

    def parameters(self):
        return [p for layer in self.layers for p in layer.parameters()]

    def __repr__(self):
        return f"MLP of [{', '.join(map(str, self.layers))}]"
