"""The types that signatures declare, held against the code by mypy, in the mode that pyproject.toml sets."""
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="no mypy: pip install '.[test]'")

ROOT = Path(__file__).resolve().parents[1]


def test_tok_and_train_are_what_their_signatures_say(tmp_path):
    def mypy(*what):
        done = subprocess.run([sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path), *what], cwd=ROOT, text=True,
                              capture_output=True)
        return done.stdout + done.stderr

    said = mypy()
    assert said.startswith("Success"), said
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import tok\nfrom train.config import parse\ntok.load(3)\nparse().learning_rate")
    said = mypy(str(wrong))
    assert 'incompatible type "int"' in said and 'no attribute "learning_rate"' in said      # it knows what names mean
