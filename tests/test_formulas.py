"""The book of formulas is complete, finds its pages, and survives a reader who stops early."""
import os
import re
import subprocess
import sys

import pytest

from minigrad import formulas
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
    assert "LN6" in anchors and "LN6" in links and links <= set(anchors)
    assert len(anchors) == len(set(anchors)) and "p &lt;- p" in text


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
