"""Texts and outputs of independent tools that some tests compare with. They are not part of the project."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MINIGRAD_DATA", ROOT.parent / "shared" / "data"))


def path(*parts):
    """DATA/parts, or skip the test that asks and say what is absent."""
    wanted = DATA.joinpath(*parts)
    if not wanted.exists():
        pytest.skip(f"no reference data: {wanted} is missing; MINIGRAD_DATA names the folder")
    return wanted
