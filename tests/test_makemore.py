"""gpt.makemore: each model by what its formula says, and all of them on a few names."""
from pathlib import Path

import numpy as np
import pytest
from test_model import finite_difference

from gpt import makemore
from gpt.makemore import GRU, MLP, RECIPES, RNN, STARTS, Bigram, Names, WaveNet, loss, make_up, score, train
from minigrad import no_grad
from minigrad.fused.cross_entropy import cross_entropy
from nn import init

LIST = "emma olivia ava isabella sophia charlotte mia amelia harper evelyn abigail emily ella liz camila luna".split()
V, T = 20, 10
every_model = pytest.mark.parametrize("name", RECIPES)


def names():
    return Names(LIST)


def of(name, seed=0):
    with init.seeded(seed):
        return RECIPES[name].make(V, T)


def ids(name, rows=3):
    shape = (rows, RECIPES[name].context or T)
    return np.random.default_rng(1).integers(0, V, shape)


def test_a_mark_of_byte_order_is_no_letter(tmp_path):
    (tmp_path / "names.txt").write_text("ab\n" * 10, "utf-8-sig")
    assert Names.read(tmp_path / "names.txt").alphabet == [".", "a", "b"]


def test_a_list_is_cut_in_three():
    some = names()
    assert sorted(some.train + some.test + some.dev) == sorted(LIST)
    assert (len(some.train), len(some.test), len(some.dev)) == (12, 2, 2)
    assert len(some.alphabet) == V and some.longest == T and some.alphabet[0] == "."


def test_examples_by_hand():
    few = Names(["ab", "b", *["a"] * 8])
    assert few.alphabet == [".", "a", "b"]
    x, y = few.examples(["ab", "b"], 2)
    assert x.tolist() == [[0, 0], [0, 1], [1, 2], [0, 0], [0, 2]] and y.tolist() == [1, 2, 0, 2, 0]
    x, y = few.examples(["ab", "b"], None)
    assert x.tolist() == [[0, 1, 2], [0, 2, 0]] and y.tolist() == [[1, 2, 0], [2, 0, -1]]


@pytest.mark.parametrize("name", ["bigram", "mlp"])
def test_a_loss_is_the_mean_over_characters(name):
    """However the names are cut into batches, and padded or not."""
    model, some, recipe = of(name).eval(), names(), RECIPES[name]
    x, y = some.examples(LIST, recipe.context)
    with no_grad():
        assert abs(score(model, x, y, rows=7) - cross_entropy(model(x), y).item()) < 1e-6


def test_a_whole_name_gives_every_character_a_loss():
    """Padding counts nothing: the mean is the one over single names, weighted by their length."""
    model, some = of("gru").eval(), names()
    x, y = some.examples(LIST, None)
    single = [score(model, *some.examples([name], None)) * (len(name) + 1) for name in LIST]
    assert abs(score(model, x, y) - sum(single) / sum(len(name) + 1 for name in LIST)) < 1e-6


# the models


def test_counting_is_what_training_looks_for():
    """[MM2]: at the table of counts no entry has a gradient, and elsewhere the loss is higher."""
    some = names()
    x, y = some.examples(LIST, 1)
    x, y = np.concatenate([x, np.repeat(np.arange(V), V)[:, None]]), np.concatenate([y, np.tile(np.arange(V), V)])
    model = Bigram(V).to(dtype="float64")
    model.count(x, y)
    model.to(dtype="float64")
    best = loss(model, x, y)
    best.backward()
    assert np.abs(model.table.weight.grad).max() < 1e-8
    counts = np.ones((V, V))
    for name in LIST:
        for a, b in zip([0, *map(some.index.get, name)], [*map(some.index.get, name), 0]):
            counts[a, b] += 1
    p = counts / counts.sum(1, keepdims=True)
    assert abs(best.item() - -(counts * np.log(p)).sum() / counts.sum()) < 1e-7
    trained = Bigram(V)
    train(trained, x, y, makemore.Recipe(None, 1, steps=1000, batch=4000, lr=0.1, decay=0.0))
    assert 0 <= score(trained, x, y) - best.item() < 1e-3


def test_published_numbers_of_parameters():
    """Those of the lectures: 12,097 for the MLP with BatchNorm, 76,579 for the tree of 8 characters, 27 of each."""
    assert sum(p.size for p in MLP(27).parameters()) == 12_097
    assert sum(p.size for p in WaveNet(27).parameters()) == 76_579


@pytest.mark.parametrize("make", [RNN, GRU])
def test_recurrence_is_its_formula(make):
    """[MM3-6] in plain NumPy, a character at a time."""
    with init.seeded(1):
        model = make(V, d=5, hidden=4).to(dtype="float64")
    rng = np.random.default_rng(0)
    for p in model.parameters():
        p.data = rng.standard_normal(p.shape)
    x = ids("gru")

    def s(a):
        return 1 / (1 + np.exp(-a))

    w, b, u = model.w.weight.data, model.w.bias.data, [part.weight.data for part in model.u]
    h, found = np.zeros((3, 4)), model(x).numpy()
    for t in range(T):
        a = model.wte.weight.data[x[:, t]] @ w + b
        if make is RNN:
            h = np.tanh(a + h @ u[0])
        else:
            r, z = s(a[:, :4] + h @ u[0]), s(a[:, 4:8] + h @ u[1])
            h = z * h + (1 - z) * np.tanh(a[:, 8:] + (r * h) @ u[2])
        np.testing.assert_allclose(found[:, t], h @ model.head.weight.data + model.head.bias.data, atol=1e-12)


@every_model
def test_gradients_are_the_slopes_of_the_loss(name):
    model, x = of(name).to(dtype="float64"), ids(name)
    for m in model.modules():
        if hasattr(m, "rate") and hasattr(m, "site"):
            m.rate = 0.0
    rng = np.random.default_rng(0)
    y = rng.integers(0, V, x.shape if RECIPES[name].context is None else 3)

    def value():
        with no_grad():
            return cross_entropy(model(x), y).item()

    cross_entropy(model(x), y).backward()
    for part, p in model.named_parameters():
        at = np.unravel_index(np.abs(p.grad).argmax(), p.shape)
        error = abs(finite_difference(value, p.data, at) - p.grad[at])
        assert error < 1e-6 * max(np.abs(p.grad).max(), 1e-3), part


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].context is None])
def test_no_model_sees_what_comes(name):
    model, x = of(name).eval(), ids(name)
    other = x.copy()
    other[:, 6:] = (x[:, 6:] + 1) % V
    a, b = model(x).numpy(), model(other).numpy()
    np.testing.assert_array_equal(a[:, :6], b[:, :6])
    assert (a[:, 6:] != b[:, 6:]).any((0, 2)).all()


@pytest.mark.parametrize("name", [name for name in RECIPES if RECIPES[name].context])
def test_every_character_of_the_context_counts(name):
    model, x = of(name).eval(), ids(name)
    for i in range(x.shape[1]):
        other = x.copy()
        other[:, i] = (x[:, i] + 1) % V
        assert name == "bigram" or (model(x).numpy() != model(other).numpy()).any(), i


def test_the_first_loss_tells_how_the_weights_were_drawn():
    x, y = names().examples(LIST, 3)
    found = {}
    for start in STARTS:
        with init.seeded(0):
            found[start] = loss(MLP(V, start=start), x, y).item()
    assert found["normal"] > 10 and abs(found["scaled"] - np.log(V)) < 0.2 and abs(found["batchnorm"] - np.log(V)) < 0.2


# runs


@every_model
def test_training_learns_and_is_the_same_again(name):
    some, recipe = names(), makemore.replace(RECIPES[name], steps=25, batch=20)
    x, y = some.examples(some.train, recipe.context)
    found = []
    for _ in range(2):
        model = of(name)
        train(model, x, y, recipe)
        found.append(score(model, x, y))
    assert found[0] == found[1] < np.log(V) - 0.3


@every_model
def test_names_are_made_up(name):
    some, model = names(), of(name)
    assert model.training
    a, b, c = (make_up(model, some, RECIPES[name], 20, seed) for seed in (1, 1, 2))
    assert model.training and a == b != c and len(a) == 20
    assert all(0 < len(made) < T and set(made) <= set(some.alphabet[1:]) for made in a)


def test_names_are_drawn_as_often_as_the_model_says():
    """The first letter, from a table that says how often it should come."""
    some, model = names(), Bigram(V)
    p = np.arange(V) / np.arange(V).sum()
    model.table.weight.data[0] = np.log(np.maximum(p, 1e-30))
    made = make_up(model, some, RECIPES["bigram"], 4000)
    found = np.bincount([some.index[name[0]] for name in made], minlength=V) / 4000
    assert np.abs(found - p).max() < 4 * np.sqrt(p.max() / 4000)


def test_only_new_names():
    few = Names(["a", "b", "c", *["a"] * 7])
    model = Bigram(4)
    model.table.weight.data[:] = -50
    model.table.weight.data[0, 1:] = 0                     # "a", "b" or "c", and then the end
    model.table.weight.data[1:, 0] = 0
    assert set(make_up(model, few, RECIPES["bigram"], 5)) <= {"a", "b", "c"}
    with pytest.raises(ValueError, match="got 0 such names in 100 times 5; expected 5. Hint: a higher --temperature"):
        make_up(model, few, RECIPES["bigram"], 5, only_new=True)


# the command


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("\n".join(LIST), "utf-8")
    return str(path)


def test_the_table_of_all_models(file, capsys):
    assert makemore.main([file, "--model", "all", "--steps", "3", "--batch", "8", "--samples", "2"]) == 0
    out = capsys.readouterr().out
    for name in RECIPES:
        assert f"\n{name} " in out or f"\n{name}:" in out
    assert "16 names, 20 characters, the longest has 9" in out and "2.17" in out and "the same by counting" in out


@every_model
def test_a_model_is_kept_to_the_bit(name, file, tmp_path, capsys):
    kept = str(tmp_path / "model.safetensors")
    assert makemore.main([file, "--model", name, "--steps", "3", "--batch", "8", "--save", kept, "--samples", "9"]) == 0
    made = [line for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert makemore.main([file, "--load", kept, "--samples", "9"]) == 0
    assert capsys.readouterr().out.splitlines() == made
    assert makemore.main([file, "--load", kept, "--samples", "0"]) == 0 and not capsys.readouterr().out


def test_a_model_that_makes_up_nothing_new_leaves_the_table(tmp_path, capsys):
    path = tmp_path / "names.txt"
    path.write_text("a\n" * 40)
    for name in ("bigram", "mlp"):
        assert makemore.main([str(path), "--model", name, "--steps", "300", "--new", "--temperature", "0.05"]) == 2
        out, err = capsys.readouterr()
        assert "error: makemore: got 0 such names" in err and f"\n{name} " in out and "2 characters" in out


def test_a_loss_that_is_no_number_is_refused():
    some, model = names(), of("mlp")
    model.head.bias.data[:] = np.nan
    with pytest.raises(ValueError, match="makemore: got a loss of nan; expected a number. Hint: a lower --lr"):
        makemore.losses_of(model, some, RECIPES["mlp"])


def test_the_story_of_three_starts(file, capsys):
    assert makemore.main([file, "--story", "--steps", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("ln 20 = 3.00") and [line.split()[0] for line in lines[2:]] == list(STARTS)


@pytest.mark.parametrize(("flags", "says"), [
    (["--temperature", "0"], "--temperature: got 0.0"),
    (["--story", "--steps", "0"], "--steps: got 0; expected 1 or more"),
    (["--steps", "0"], "makemore: got steps 0"),
    (["--samples", "-1"], "--samples: got -1"),
    (["--model", "mlp", "--save", "nowhere/x"], "--save: got 'nowhere/x'; expected the name of a file in a folder"),
    (["--model", "all", "--save", "x"], "--save: got --model all; expected one model"),
    (["--steps", "5", "--lr", "1e30"], "makemore: got gradients that are no numbers in step 1; expected finite ones"),
    (["--story", "--model", "gru", "--lr", "1", "--decay", "0"], "--story: got --lr and --decay and --model beside it"),
    (["--story", "--save", "x"], "--story: got --save beside it; expected --steps and --seed at most"),
    (["--load", "nothing"], "--load: got nothing"),
    (["--load", "nothing", "--steps", "9", "--save", "x"], "got --steps and --save beside it"),
])
def test_what_cannot_be_is_refused(file, flags, says, capsys):
    assert makemore.main([file, *flags]) == 2
    assert says in capsys.readouterr().err


def test_wrong_files_are_refused(file, tmp_path, capsys):
    assert makemore.main([str(tmp_path / "nowhere.txt")]) == 2
    assert "no file" in capsys.readouterr().err
    for text, says in (("emma\nava", "2 of them; expected 10 or more"), ("a.b\n" * 10, "expected names without a")):
        (tmp_path / "odd.txt").write_text(text)
        assert makemore.main([str(tmp_path / "odd.txt")]) == 2
        assert says in capsys.readouterr().err
    kept = str(tmp_path / "model.safetensors")
    assert makemore.main([file, "--model", "mlp", "--steps", "2", "--save", kept, "--samples", "0"]) == 0
    shifted = Path(file).read_text().translate({ord(c): ord(c) + 512 for c in map(chr, range(97, 123))})
    for others in ("x\n" * 12, shifted):                     # as many characters say nothing of which
        (tmp_path / "others.txt").write_text(others)
        assert makemore.main([str(tmp_path / "others.txt"), "--load", kept]) == 2
        assert "give the list of names that it was trained on" in capsys.readouterr().err
