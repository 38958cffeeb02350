"""The notebooks: files whose diffs can be read, a formula first, exercises whose answers are checked; and every cell
runs, in the short form (NOTEBOOK_FAST)."""
import ast
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = ROOT / "bench" / "results" / "notebooks"
MODULES = {"minigrad", "nn", "gpt", "tok", "train", "bench", "numpy", "matplotlib", "regex", "IPython", "ml_dtypes"}
TAG = re.compile(r"\[([A-Z]{1,3})(\d+(?:[,-]\d+)*)\]")           # [LN1], [LN3,4]
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind):
    """The sources of all cells of a kind, each as one str."""
    return ["".join(c["source"]) for c in json.loads(path.read_text(encoding="utf-8"))["cells"]
            if c["cell_type"] == kind]


def tags(text):
    """{LN1, LN2, ...}: every number of an equation that a text has in brackets."""
    found = set()
    for letters, numbers in TAG.findall(text):
        for part in numbers.split(","):
            first, _, last = part.partition("-")
            found |= {f"{letters}{n}" for n in range(int(first), int(last or first) + 1)}
    return found


DERIVED = set().union(*(tags(file.read_text(encoding="utf-8")) for package in ("minigrad", "gpt", "train")
                        for file in (ROOT / package).rglob("*.py")))


def test_they_are_counted_through():
    assert [path.stem[:3] for path in NOTEBOOKS] == [f"{n:02}_" for n in range(1, len(NOTEBOOKS) + 1)] and NOTEBOOKS


@each
def test_the_file_is_what_jupyter_writes_of_a_notebook_without_outputs(path):
    """So a look at it changes nothing, and what was changed is all that a diff shows."""
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert text == json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in notebook["cells"]:
        assert cell["source"] == "".join(cell["source"]).splitlines(keepends=True), cell["id"]     # one str a line
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, cell["id"]


@each
def test_a_validator_finds_nothing(path):
    nbformat = pytest.importorskip("nbformat", reason="no nbformat: pip install '.[test]'")
    nbformat.validate(nbformat.read(path, as_version=4))


@each
def test_cells_are_short(path):
    for kind, most in (("code", 20), ("markdown", 40)):
        for source in cells(path, kind):
            assert len(source.split("\n")) <= most, source


@each
def test_the_story_begins_with_a_formula_and_the_code_cites_what_is_told(path):
    told, code = cells(path, "markdown"), cells(path, "code")
    assert told[0].startswith(f"# {path.stem[:2]} · ") and "$$" in told[0]
    assert tags("\n".join(code)) <= tags("\n".join(told)) | DERIVED
    assert "NOTEBOOK_FAST" in code[0]


@each
def test_every_exercise_is_followed_by_an_answer_that_is_checked(path):
    notebook, asked, answered = json.loads(path.read_text(encoding="utf-8")), [], set()
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            asked += re.findall(r"^\*\*(?:Exercise )?(\d+)\.\*\*", source, re.M)
        elif asked and "assert " in source:
            answered.add(asked[-1])
    assert len(answered) >= 3 and set(asked) == answered


@each
def test_imports_are_what_the_installation_brings(path):
    for source in cells(path, "code"):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in MODULES | sys.stdlib_module_names, name


@each
def test_its_page_shows_this_notebook_with_what_it_computed(path):
    """bench/results/notebooks: what nbconvert makes of it, by the command in CONTRIBUTING."""
    page, at = (PAGES / f"{path.stem}.md").read_text(encoding="utf-8"), 0
    for kind, source in ((c["cell_type"], "".join(c["source"])) for c in json.loads(path.read_text("utf-8"))["cells"]):
        shown = f"```python\n{source}\n```" if kind == "code" else source
        assert (at := page.find(shown, at)) >= 0, f"not as it is now: {source}"
        at += len(shown)
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", page)
    assert len(pictures) >= 2 and sorted(pictures) == sorted(
        file.relative_to(PAGES).as_posix() for file in (PAGES / f"{path.stem}_files").iterdir())


@each
def test_every_cell_runs_and_there_are_pictures(path, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="no nbformat: pip install '.[test]'")
    nbclient = pytest.importorskip("nbclient", reason="no nbclient: pip install '.[test]'")
    pytest.importorskip("ipykernel", reason="no ipykernel: pip install '.[test]'")
    monkeypatch.setenv("NOTEBOOK_FAST", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("MPLBACKEND", raising=False)              # Jupyter's own: pictures become outputs
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=300, startup_timeout=300, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", ()) for output in outputs) >= 2
    for output in outputs:
        assert output.get("name") != "stderr", output.text       # a warning is a fault of the notebook
