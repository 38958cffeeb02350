"""The scalar engine against central differences, PyTorch, micrograd's published numbers and its own promises."""
import math
import random
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.scalar import MLP, Layer, Neuron, Value, draw_dot, draw_tree

# name -> (function, the interval that each argument is drawn from); PyTorch's tensors go through the same functions
OPS = {
    "a + b": (lambda a, b: a + b, (-3, 3), (-3, 3)),
    "a - b": (lambda a, b: a - b, (-3, 3), (-3, 3)),
    "a * b": (lambda a, b: a * b, (-3, 3), (-3, 3)),
    "a / b": (lambda a, b: a / b, (-3, 3), (0.3, 3)),
    "a / -b": (lambda a, b: a / -b, (-3, 3), (0.3, 3)),
    "a ** b": (lambda a, b: a ** b, (0.2, 3), (-2, 2)),
    "1.5 + a": (lambda a: 1.5 + a, (-3, 3)),
    "1.5 - a": (lambda a: 1.5 - a, (-3, 3)),
    "1.5 * a": (lambda a: 1.5 * a, (-3, 3)),
    "1.5 / a": (lambda a: 1.5 / a, (0.3, 3)),
    "1.5 ** a": (lambda a: 1.5 ** a, (-3, 3)),
    "a - 2": (lambda a: a - 2, (-3, 3)),
    "a / 2": (lambda a: a / 2, (-3, 3)),
    "a ** 3": (lambda a: a ** 3, (-3, 3)),
    "a ** 0": (lambda a: a ** 0, (-3, 3)),
    "a ** -2": (lambda a: a ** -2, (0.3, 3)),
    "(-a) ** -3": (lambda a: (-a) ** -3, (0.3, 3)),
    "a ** 0.5": (lambda a: a ** 0.5, (0.1, 3)),
    "relu of a > 0": (lambda a: a.relu(), (0.1, 3)),
    "relu of a < 0": (lambda a: a.relu(), (-3, -0.1)),
    "exp": (lambda a: a.exp(), (-3, 3)),
    "log": (lambda a: a.log(), (0.1, 3)),
    "sqrt": (lambda a: a.sqrt(), (0.1, 3)),
    "tanh": (lambda a: a.tanh(), (-3, 3)),
    "sigmoid": (lambda a: a.sigmoid(), (-3, 3)),
}
every_op = pytest.mark.parametrize("name", OPS)


def gradients(f, xs):
    leaves = [Value(x) for x in xs]
    f(*leaves).backward()
    return [v.grad for v in leaves]


def check(f, xs, h=1e-6, tol=1e-6):
    """Central differences are off by about h^2 (truncation) and 1e-16/h (rounding): 1e-9 for values near 1."""
    def at(k, step):
        return f(*[Value(x + step * (i == k)) for i, x in enumerate(xs)]).data

    for k, got in enumerate(gradients(f, xs)):
        want = (at(k, h) - at(k, -h)) / (2 * h)
        scale = max(1.0, abs(want), abs(f(*map(Value, xs)).data))
        assert abs(got - want) <= tol * scale, f"argument {k} of {xs}: backward {got!r}, differences {want!r}"


@every_op
@given(data=st.data())
def test_every_op_against_central_differences(name, data):
    f, *ranges = OPS[name]
    check(f, [data.draw(st.floats(low, high)) for low, high in ranges])


@every_op
def test_every_op_against_pytorch(name):
    torch = pytest.importorskip("torch")
    f, *ranges = OPS[name]
    for share in product((0.05, 0.4, 0.9), repeat=len(ranges)):
        xs = [low + s * (high - low) for s, (low, high) in zip(share, ranges, strict=True)]
        theirs = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in xs]
        y = f(*theirs)
        y.backward()
        assert f(*map(Value, xs)).data == pytest.approx(y.item(), rel=1e-13, abs=1e-13)
        assert gradients(f, xs) == pytest.approx([t.grad.item() for t in theirs], rel=1e-12, abs=1e-13)


STEPS = [                                          # all of them smooth, so that differences can be trusted
    lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, lambda x, y: x / (y * y + 1),
    lambda x, y: (x * x + 1) ** (y.tanh()), lambda x, y: x.tanh(), lambda x, y: x.sigmoid() * y,
    lambda x, y: (x * x + 0.5).sqrt(), lambda x, y: (y * y + 0.5).log(), lambda x, y: (-x * x).exp(),
    lambda x, y: 2 - x, lambda x, y: 1 / (x * x + 1), lambda x, y: x.tanh() ** 3, lambda x, y: x + x,
]


@given(xs=st.lists(st.floats(-1.5, 1.5), min_size=3, max_size=3), program=st.lists(
    st.tuples(st.sampled_from(STEPS), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_random_programs_against_central_differences(xs, program):
    def run(*inputs):
        values = list(inputs)
        for step, i, j in program:                 # any earlier value may be used again: the graphs are not trees
            values.append(step(values[i % len(values)], values[j % len(values)]).tanh() * 1.5)
        return sum(values[3:], 0.0)

    check(run, xs, tol=1e-5)                       # thirty steps multiply the third derivative that h^2 stands before


def test_micrograds_readme():
    a, b = Value(-4.0), Value(2.0)
    c = a + b
    d = a * b + b**3
    c += c + 1
    c += 1 + c + (-a)
    d += d * 2 + (b + a).relu()
    d += 3 * d + (b - a).relu()
    e = c - d
    f = e**2
    g = f / 2.0
    g += 10.0 / f
    g.backward()
    assert [f"{v:.4f}" for v in (g.data, a.grad, b.grad)] == ["24.7041", "138.8338", "645.5773"]


def test_the_example_of_the_docstring():
    a = Value(3)
    b = a + a
    c = b + b
    c.backward()
    assert (c.data, c.grad, b.grad, a.grad) == (12, 1, 2, 4)


def test_a_second_pass_adds_to_the_leaves_and_to_nothing_else():
    a, b = Value(2.0), Value(5.0)
    c = a * b
    loss = c * c                                   # 100; dloss/da = 2 ab b = 100
    loss.backward()
    loss.backward()
    assert (a.grad, c.grad, loss.grad) == (200.0, 20.0, 1.0)
    (c + a).backward()                             # another loss that shares c
    assert (a.grad, b.grad, c.grad) == (200 + 5 + 1, 80 + 2, 1.0)
    a.backward()                                   # a leaf is its own loss
    assert a.grad == 207.0


def test_the_gradient_is_that_of_the_forward_pass_even_if_data_moved_since():
    a, b = Value(2.0), Value(3.0)
    loss = a * b
    a.data = b.data = 100.0
    loss.backward()
    assert (a.grad, b.grad) == (3.0, 2.0)


def test_backward_can_be_stepped_by_hand():
    a, b = Value(2.0), Value(3.0)
    d = a * b
    loss = d + a
    loss.grad = 1.0
    loss._backward()
    d._backward()
    assert (a.grad, b.grad) == (4.0, 2.0)


def test_a_graph_of_100_000_steps():
    x = y = Value(1.0)
    for _ in range(100_000):
        y = y + x
    y.backward()
    assert x.grad == 100_001
    assert draw_dot(y).count("->") == 200_000


def test_a_graph_with_2_to_the_50_paths_is_walked_once():
    x = y = Value(1.0)
    for _ in range(50):
        y = y + y
    y.backward()
    assert x.grad == 2.0**50


@pytest.mark.parametrize(("f", "y", "dx"), [
    (lambda: (x := Value(1000), x.exp()), math.inf, math.inf),
    (lambda: (x := Value(-1000), x.exp()), 0.0, 0.0),
    (lambda: (x := Value(-1000), x.sigmoid()), 0.0, 0.0),
    (lambda: (x := Value(1000), x.sigmoid()), 1.0, 0.0),
    (lambda: (x := Value(40), x.sigmoid()), 1.0, math.exp(-40)),        # y (1 - y) would say 0
    (lambda: (x := Value(-1000), x.tanh()), -1.0, 0.0),
    (lambda: (x := Value(0), x.sqrt()), 0.0, math.inf),
    (lambda: (x := Value(0), x ** 0.5), 0.0, math.inf),
    (lambda: (x := Value(0), x ** 0), 1.0, 0.0),
    (lambda: (x := Value(0), x ** 1), 0.0, 1.0),
    (lambda: (x := Value(0), x ** Value(2)), 0.0, 0.0),
    (lambda: (x := Value(-1e200), x ** 3), -math.inf, math.inf),
    (lambda: (x := Value(1e-300), x ** -2), math.inf, -math.inf),
    (lambda: (x := Value(1e200), x * x), math.inf, 2e200),
    (lambda: (x := Value(0), x.relu()), 0.0, 0.0),
    (lambda: (x := Value(-7), x.relu()), 0.0, 0.0),
])
def test_extreme_values(f, y, dx):
    x, out = f()
    out.backward()
    assert out.data == pytest.approx(y) and x.grad == pytest.approx(dx, rel=1e-12, abs=0)


def test_zero_to_a_power_that_is_a_value():
    x, p = Value(0), Value(2)
    (x ** p).backward()
    assert (x.grad, p.grad) == (0.0, 0.0)          # the limit of x^p log(x)


def test_nan_is_not_hidden():
    for f in (Value.relu, Value.exp, Value.log, Value.sqrt, Value.tanh, Value.sigmoid):
        assert math.isnan(f(Value(math.nan)).data)


@pytest.mark.parametrize(("f", "error", "says"), [
    (lambda: Value(-8) ** Value(2), ValueError, r"got -8.0 \*\* 2.0; expected a base from zero up"),
    (lambda: Value(-8) ** 0.5, ValueError, r"got -8.0 \*\* 0.5"),
    (lambda: (-8) ** Value(2), ValueError, r"got -8.0 \*\* 2.0"),
    (lambda: Value(0) ** -1, ZeroDivisionError, r"got 0.0 \*\* -1.0; expected a base other than zero"),
    (lambda: Value(0) ** Value(-1), ZeroDivisionError, r"got 0.0 \*\* -1.0"),
    (lambda: 1 / Value(0), ZeroDivisionError, "got 1.0 / 0"),
    (lambda: Value(1) / 0, ZeroDivisionError, "got 1.0 / 0"),
    (lambda: Value(0).log(), ValueError, "got 0.0; expected a number above zero"),
    (lambda: Value(-1).sqrt(), ValueError, "got -1.0; expected a number from zero up"),
    (lambda: Value("3"), TypeError, r"got '3' \(str\); expected a real number"),
    (lambda: Value(1) + None, TypeError, r"got None \(NoneType\)"),
    (lambda: Value(1) * 1j, TypeError, "expected a real number"),
    (lambda: Neuron(3)([1, 2]), ValueError, "got 2 inputs; expected 3"),
])
def test_errors_say_what_was_expected(f, error, says):
    with pytest.raises(error, match=says):
        f()


def test_numpy_numbers_on_either_side():
    np = pytest.importorskip("numpy")
    v = Value(3)
    for y in (np.float64(2) * v, v * np.float32(2), np.int64(2) * v):
        assert isinstance(y, Value) and y.data == 6.0
    assert [y.data for y in np.array([Value(1), Value(2)]) * v] == [3.0, 6.0]


def test_the_tree_shows_a_shared_value_once():
    a = Value(3)
    b = a + a
    c = (b * 0.5).tanh() - b
    assert draw_tree(c, a=a, b=b) == """\
- | data -5.00495 | grad 0
├─ tanh | data 0.995055 | grad 0
│  └─ * | data 3 | grad 0
│     ├─ #1 b + | data 6 | grad 0
│     │  ├─ #2 a | data 3 | grad 0
│     │  └─ #2, see above
│     └─ leaf | data 0.5 | grad 0
└─ #1, see above"""


def test_the_dot_drawing_has_an_arrow_for_every_use():
    a = Value(3)
    b = a * a
    b.backward()
    assert draw_dot(b, a=a) == r"""digraph {
  rankdir=LR
  node [shape=box]
  0 [label="*\ndata 9\ngrad 1"]
  1 [label="a\ndata 3\ngrad 6"]
  1 -> 0
  1 -> 0
}"""


def test_the_network_has_micrograds_shape_and_random_numbers():
    random.seed(7)
    model = MLP(2, [3, 1])
    random.seed(7)
    weights = [random.uniform(-1, 1) for _ in range(9)]
    assert str(model) == ("MLP of [Layer of [ReLUNeuron(2), ReLUNeuron(2), ReLUNeuron(2)], "
                          "Layer of [LinearNeuron(3)]]")
    assert [p.data for p in model.parameters()] == [
        *weights[:2], 0, *weights[2:4], 0, *weights[4:6], 0, *weights[6:9], 0]
    assert isinstance(model([1.0, -2.0]), Value) and isinstance(MLP(2, [1, 1])([1.0, 2.0]), Value)
    assert len(Layer(2, 3, nonlin=False)([Value(1), 2])) == 3
    model([1.0, -2.0]).backward()
    assert any(p.grad for p in model.parameters())
    model.zero_grad()
    assert not any(p.grad for p in model.parameters())


def test_an_mlp_learns_a_chequerboard():
    random.seed(0)
    points = [((a, b), 1 if a * b > 0 else -1) for a in (-2, -1, 1, 2) for b in (-2, -1, 1, 2)]
    model = MLP(2, [8, 1])
    for _ in range(100):
        loss = sum((1 - y * model(x)).relu() for x, y in points) / len(points)
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= 0.1 * p.grad
    assert all((model(x).data > 0) == (y > 0) for x, y in points), f"loss {loss.data:.3f}"


def test_a_smooth_network_learns_xor():
    random.seed(0)
    hidden, out = Layer(2, 4, nonlin=False), Neuron(4, nonlin=False)
    parameters = hidden.parameters() + out.parameters()
    for _ in range(200):
        loss = 0.0
        for a, b in product((0, 1), repeat=2):
            p = out([h.tanh() for h in hidden([a, b])]).sigmoid()
            loss -= p.log() if a != b else (1 - p).log()
        for p in parameters:
            p.grad = 0.0
        loss.backward()
        for p in parameters:
            p.data -= 0.5 * p.grad
    assert loss.data < 0.2                         # four certain answers: 0; four coin flips: 4 log 2 = 2.8
