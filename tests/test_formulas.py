"""The book of formulas is complete, finds its pages, and survives a reader who stops early."""
import html
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from xml.etree import ElementTree

import opcases
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import facts
from minigrad import book, formulas, typeset
from minigrad.book import Book, Fact
from minigrad.tensor import Op

BOOK = formulas.chapters()
FUNCTIONS = [f for functions in BOOK.values() for f in functions]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The whole book as a file: its gradients are all checked here."""
    folder = tmp_path_factory.mktemp("book") / "new"
    assert formulas.main(["--html", str(folder), "--no-speed"]) == 0
    return folder / "index.html"


@pytest.fixture(scope="module")
def text(page):
    return page.read_text(encoding="utf-8")


def test_every_op_is_in_the_book_once():
    names = [f.__name__ for f in FUNCTIONS]
    assert len(names) == len(set(names))
    assert not set(Op.table) - set(names)


@pytest.mark.parametrize("op", [f for f in FUNCTIONS if isinstance(f, Op)], ids=lambda op: op.name)
def test_both_formulas_are_there(op):
    """A gradient is written in its docstring or derived in its file's."""
    assert op.__doc__ and "=" in op.__doc__.splitlines()[0], "a first line that is the formula"
    page = formulas.page(op.name)
    assert "  forward   " in page and ("  backward  " in page or ".fused." in op.module), page


def test_a_page_has_signature_derivation_and_implementations():
    page = formulas.page("layer_norm")
    assert page.startswith("layer_norm(x, w, b, *, eps=1e-05)")
    assert "minigrad/fused/layer_norm.py" in page and "layer_norm_cpu.py" in page and "[LN6]" in page
    assert "da = dy b" in formulas.page("mul") and "[" not in formulas.page("mul")


def test_an_unknown_op_gets_the_nearest():
    with pytest.raises(ValueError, match="got 'layernorm'; expected an op. Hint: layer_norm?"):
        formulas.page("layernorm")
    with pytest.raises(ValueError, match="the contents come first"):
        formulas.page("zzzzzz")


def test_the_whole_book(capsys):
    formulas.main([])
    text = capsys.readouterr().out
    assert text.startswith("Contents") and all(f.__name__ in text for f in FUNCTIONS)
    assert text.count("minigrad/fused/softmax.py") == 2   # in the contents, and as the title of its chapter
    assert max(map(len, text.splitlines())) <= 125


def test_the_book_as_a_page(text):
    anchors, links = re.findall(r'id="(\w+)"', text), set(re.findall(r'href="#(\w+)"', text))
    assert {"LN6", "attention"} <= set(anchors) & links and links <= set(anchors)
    assert len(anchors) == len(set(anchors)) and {f.__name__ for f in FUNCTIONS} <= set(anchors)
    assert not re.search(r'(src|href)="(?!#)|<script|@import|url\(', text), "it wants something from outside"
    open_ones = []
    for closing, tag in re.findall(r"<(/?)([a-z]\w*)", text.split("</style>")[1]):
        if tag not in ("br",):
            assert not closing or open_ones.pop() == tag
            open_ones += [] if closing else [tag]
    assert open_ones == []


def test_every_numbered_formula_is_drawn_and_linked_with_the_code_that_computes_it(text):
    for module in BOOK:
        for number in book.numbered(module):
            shown = re.search(rf'<div class="equation" id="{number}"><div><math.*', text)[0]
            places = re.findall(rf'<a href="#({number}_\w+)">', shown)
            assert places and all(f'<span id="{place}"></span>' in text for place in places), number
    assert all(f'href="#LN6_{label}"' in text for label in ("NumPy", "Numba", "CUDA"))
    norm = text[text.index('id="layer_norm"'):text.index('id="linear"')]
    assert text.count("with the instructions of Hopper alone") == 2       # attention, mlp
    assert all(what in norm for what in ("def layer_norm(", "jit_cpu", "__global__", 'href="#LN6">[LN6]</a>'))


def test_a_citation_names_all_of_its_numbers():
    assert book.named(book.NUMBER.search("[LN3-5,7]")) == ["LN3", "LN4", "LN5", "LN7"]
    cited = {}
    assert book.linked("[AB1,3] [AB3]", {"AB1", "AB3"}, "Numba", cited).count("span id") == 2
    assert cited == {"AB1": [("Numba", "AB1_Numba")], "AB3": [("Numba", "AB3_Numba")]}


def test_every_gradient_is_checked_on_the_page_and_every_cost_is_there(text):
    assert text.count("✓ gradient = central differences") == len(Op.table) and 'class="bad"' not in text
    assert "every gradient agrees" in text and "Nothing is known" not in text
    assert re.search(r"<th>operations</th><td><math.{,500}</math> = 4.83 G</td>", text)          # linear: 8 N C^2
    assert text.count("<th>bytes</th>") == len(FUNCTIONS)


FACT = Fact(("forward", "backward"), [("N C", 6.0), ("", 0)], [("s N", 1234567), ("", 0)], [("mul(3)", {"cpu": 1e-9})],
            1e-6, {"NumPy": [0.5e-3, 0.0]})


@pytest.mark.parametrize("errors, right, says", [
    ([("mul(3)", {"cpu": 1e-9})], True, "✓ gradient = central differences in 1 cases; largest relative error 1.0e-09"),
    ([("mul(3)", {"cpu": 1e-9, "reference": 2e-6})], False, "✗ gradient wrong: relative error 2.0e-06"),
    ([("mul(3)", {"cpu": float("nan")}), ("mul(4)", {"cpu": 1.0})], False, "✗ gradient wrong: relative error nan"),
    ([], False, "the gradient was not checked"), (None, True, "A function without a gradient.")])
def test_a_wrong_gradient_is_red(errors, right, says):
    fact = FACT._replace(errors=errors)
    measured, red = Book({"mul": fact}, "some machine"), 'class="bad"'
    assert book.not_right(measured) == ([] if right else ["mul"])
    assert says in book.checked(fact) and (red in book.checked(fact)) != right
    assert (red in book.summary(["mul"], measured)) != right
    assert "Nothing is known of: add." in (said := book.summary(["add", "mul"], measured)) and red in said


def test_costs_and_times_of_a_phase():
    rows = re.sub(r"<(/?)(?!tr)[^>]*>", "|", book.costs(FACT))
    assert "1.23 M" in rows and "0.500 ms" in rows and rows.count("none") == 3


def test_a_broken_op_ends_with_1(monkeypatch, tmp_path, capsys):
    """Of two cases of square, whose gradient is made wrong."""
    cases = [case for case in opcases.CASES if case.op.name == "square"][:2]
    monkeypatch.setattr(opcases, "CASES", cases)
    monkeypatch.setattr(cases[0].op, "reference_backward", lambda dy, x, into: (dy * x,))
    assert formulas.main(["--html", str(tmp_path), "--no-speed"]) == 1
    said, text = capsys.readouterr().out, (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "wrong gradients: " in said and "square" in said and "✗ gradient wrong" in text


def test_times_of_both_sides(monkeypatch):
    small = dict(vocab_size=13, block_size=8, n_layer=1, n_head=2, n_embd=6)
    found, copy, product = facts.speeds(small, 1)
    assert set(found) == {f.__name__ for f in FUNCTIONS} - {"control"} and copy > 1e8 and product > 1e8
    for f in FUNCTIONS:
        if f.__name__ != "control":
            numba = not isinstance(f, Op) or "cpu" in f.kernels
            assert list(found[f.__name__]) == ["floor", "NumPy", *["Numba"] * numba]
            assert len({len(seconds) for seconds in found[f.__name__].values()}) == 1


def chromium(folder, *flags):
    """What it prints."""
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
               f"--user-data-dir={folder / 'user'}", *flags]
    return subprocess.run(command, capture_output=True, timeout=300, check=True).stdout.decode()


@pytest.mark.skipif(not CHROMIUM, reason="no chromium here, which shows the page at two widths")
def test_the_page_fits_a_phone_and_a_desk(page, text, tmp_path):
    """Everything that opens is open. In frames, because a window is never narrower than 500 pixels."""
    asks = ("<script>parent.document.documentElement.dataset['of' + innerWidth] = ["
            "document.scrollingElement.scrollWidth, document.querySelectorAll('math').length, "
            "document.querySelector('math').getBoundingClientRect().height]</script>")
    inside = html.escape(text.replace("<details", "<details open") + asks)
    (tmp_path / "frames.html").write_text("<!doctype html>" + "".join(
        f'<iframe style="border:0;height:900px;width:{width}px" srcdoc="{inside}"></iframe>' for width in (390, 1280)),
        encoding="utf-8")
    said = chromium(tmp_path, "--dump-dom", (tmp_path / "frames.html").as_uri())
    for width in (390, 1280):
        wide, drawn, height = map(float, re.search(rf'data-of{width}="([\d.,]+)"', said)[1].split(","))
        assert wide <= width, f"at {width} pixels the page scrolls sideways"
        assert drawn > 300 and height > 10, "mathematics is not laid out"
        shot = tmp_path / f"{width}.png"
        chromium(tmp_path, f"--window-size={width},900", f"--screenshot={shot}", page.as_uri())
        assert shot.read_bytes()[16:20] == width.to_bytes(4, "big")


@pytest.mark.parametrize("formula, drawn", [
    ("mu = mean(x)", "<mi>μ</mi> <mo>=</mo> <mi>mean</mi><mo>(</mo><mi>x</mi><mo>)</mo>"),
    ("s_ij", "<msub><mi>s</mi><mi>i</mi><mi>j</mi></msub>"),
    ("sum_{j<=i} x_j", "<munder><mo>∑</mo><mi>j</mi><mo>≤</mo><mi>i</mi></munder> <msub><mi>x</mi><mi>j</mi></msub>"),
    ("a / (b + 1)  c", "<mfrac><mi>a</mi><mi>b</mi> <mo>+</mo> <mn>1</mn></mfrac> <mi>c</mi>"),
    ("(a) (b) / 2", "<mo>(</mo><mi>a</mi><mo>)</mo> <mfrac><mi>b</mi><mn>2</mn></mfrac>"),
    ("exp(x) / s", "<mfrac><mi>exp</mi><mo>(</mo><mi>x</mi><mo>)</mo><mi>s</mi></mfrac>"),
    ("d y_i / d x_j", "<mfrac><mi>d</mi><msub><mi>y</mi><mi>i</mi></msub><mi>d</mi><msub><mi>x</mi><mi>j</mi></msub>"
                      "</mfrac>"),
    ("e^-u h^T 2^(k + 1)", "<msup><mi>e</mi><mo>−</mo><mi>u</mi></msup> <msup><mi>h</mi><mi>T</mi></msup> "
                           "<msup><mn>2</mn><mi>k</mi> <mo>+</mo> <mn>1</mn></msup>"),
    ("dx = xhat w2'", "<mi>d</mi><mi>x</mi> <mo>=</mo> <mover><mi>x</mi><mo>^</mo></mover> "
                      "<msup><msub><mi>w</mi><mn>2</mn></msub><mo>′</mo></msup>"),
    ("sqrt(2/pi)", "<mo>√</mo><mfrac><mn>2</mn><mi>π</mi></mfrac>"),
    ("q . k", "<mi>q</mi> <mo>·</mo> <mi>k</mi>"), ("a ^ b", "<mi>a</mi> <mo>⊕</mo> <mi>b</mi>"),
    ("layer_norm(x)", "<mi>layer_norm</mi><mo>(</mo><mi>x</mi><mo>)</mo>"),
    ("T x T", "<mi>T</mi> <mo>×</mo> <mi>T</mi>"), ("x x", "<mi>x</mi> <mi>x</mi>")])
def test_a_formula_is_drawn(formula, drawn):
    """But for rows, which group and draw nothing, and for how wide blanks are."""
    said = re.sub(r"</?mrow[^>]*>|</?math[^>]*>", "", typeset.mathml(formula))
    assert re.sub(r" (?!<)[^<>]*(?=>)", "", re.sub(r"<mspace[^>]*></mspace>", " ", said)) == drawn


@pytest.mark.parametrize("text", ["(a", "a)", "/ b", "a_", "a / ", "[a)", "x^", "sqrt", "a_(b)"])
def test_what_is_not_in_the_notation_is_refused(text):
    with pytest.raises(typeset.Unreadable):
        typeset.mathml(text)


@given(st.text(st.sampled_from("ab2_^/'()[]{} +-=<>.,d"), max_size=20))
def test_any_text_is_drawn_or_refused(text):
    with suppress(typeset.Unreadable):
        ElementTree.fromstring(typeset.mathml(text))


def test_a_reader_who_stops_early():
    program = f"{sys.executable} -m minigrad.formulas | head -1"
    out = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    assert out.stdout == "Contents\n" and out.stderr == ""


def test_a_reader_who_has_left_already():
    reading, writing = os.pipe()
    os.close(reading)                                     # whatever is written now breaks the pipe
    done = subprocess.run([sys.executable, "-m", "minigrad.formulas"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.stderr == b"" and done.returncode == 0
