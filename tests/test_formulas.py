"""The book of formulas is complete, finds its pages, and survives a reader who stops early."""
import os
import re
import subprocess
import sys
from contextlib import suppress
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import book, formulas, typeset
from minigrad.tensor import Op

BOOK = formulas.chapters()
FUNCTIONS = [f for functions in BOOK.values() for f in functions]


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
    with pytest.raises(SystemExit, match="got 'layernorm'; expected an op. Hint: layer_norm?"):
        formulas.page("layernorm")
    with pytest.raises(SystemExit, match="the contents come first"):
        formulas.page("zzzzzz")


def test_the_whole_book(capsys):
    formulas.main([])
    text = capsys.readouterr().out
    assert text.startswith("Contents") and all(f.__name__ in text for f in FUNCTIONS)
    assert text.count("minigrad/fused/softmax.py") == 2   # in the contents, and as the title of its chapter
    assert max(map(len, text.splitlines())) <= 125


def test_the_book_as_a_page(tmp_path):
    formulas.main(["--html", str(tmp_path / "new")])
    formulas.main(["--html", str(tmp_path / "new")])            # a folder that is there already
    text = (tmp_path / "new" / "index.html").read_text(encoding="utf-8")
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


def test_every_numbered_formula_is_drawn_and_its_implementations_stand_beside_it(tmp_path):
    text = book.page(BOOK)
    for module in BOOK:
        for number in book.numbered(module):
            assert re.search(rf'<div class="equation" id="{number}"><div><math', text), number
    norm = text[text.index('id="layer_norm"'):text.index('id="linear"')]
    assert text.count("with the instructions of Hopper alone") == 2       # attention, mlp
    assert all(what in norm for what in ("def layer_norm(", "jit_cpu", "__global__", 'href="#LN6">[LN6]</a>'))


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
