"""What is shipped: a source archive, the wheel that is built from it, and that wheel in an environment of its own, used
from another folder. Nothing is downloaded: setuptools is called without a frontend, a wheel is unpacked where pip would
unpack it, and the packages that it needs are those of the environment that runs the tests.
"""
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from minigrad.emulator import emulator

pytest.importorskip("setuptools", "70.1", reason="no setuptools, to build a wheel: pip install '.[test]'")

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("minigrad", "nn", "gpt", "tok", "train", "bench")
SHIPPED = (".py", ".cu", ".cuh", ".h", ".cpp", ".yaml")


def build(source, kind, out):
    """The file that setuptools builds from a folder: kind is sdist or wheel."""
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    built, = out.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of the source archive of this folder."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.unpack_archive(build(source, "sdist", folder / "sdist"), folder / "unpacked")
    unpacked, = (folder / "unpacked").iterdir()
    return build(unpacked, "wheel", folder / "wheel")


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """Run Python in an environment that has the wheel, in a folder that has nothing."""
    home, away = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("away")
    venv.create(home, symlinks=os.name != "nt")
    scheme, places = "nt" if os.name == "nt" else "posix_prefix", {"base": str(home), "platbase": str(home)}
    python = Path(sysconfig.get_path("scripts", scheme, places), "python")
    site = Path(sysconfig.get_path("purelib", scheme, places))
    zipfile.ZipFile(wheel).extractall(site)
    (site / "needs.pth").write_text(sysconfig.get_path("purelib"))

    def run(*arguments, **settings):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run([python, *arguments], cwd=away, capture_output=True, text=True, encoding="utf-8",
                              env={**environment, "PYTHONUTF8": "1", **settings})
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    return run


def test_the_wheel_has_every_file_of_the_packages(wheel):
    here = {path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*")
            if path.suffix in SHIPPED}
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert there == here


def test_it_is_the_installed_one_that_runs(installed):
    for package in PACKAGES:
        found = Path(installed("-c", f"import {package}; print({package}.__file__)").strip())
        assert ROOT not in found.parents and found.parent.name == package


def test_a_run_from_another_folder(installed):
    said = installed("-m", "train.run", "--out", "run", "--steps", "3", "--tokenizer", "char", "--couplets", "120",
                     "--n_layer", "1", "--n_embd", "16", "--n_head", "2", "--block_size", "32", "--tokens_per_step",
                     "64", "--device_batch", "2", "--eval_tokens", "64", "--samples", "1", "--sample_tokens", "4",
                     MINIGRAD_KERNELS="reference")
    assert "3 steps of 64 tokens" in said and "all of it is in run" in said


def test_a_meter_and_a_formula(installed):
    poem = "मंगल भवन अमंगल हारी।\nद्रवउ सुदसरथ अजिर बिहारी॥\n"
    code = "import sys, pathlib; pathlib.Path('poem.txt').write_text(sys.argv[1], encoding='utf-8')"
    installed("-c", code, poem)
    assert "chaupai (चौपाई)" in installed("-m", "tok", "scan", "poem.txt")
    assert "[LN1]" in installed("-m", "minigrad.formulas", "layer_norm")


def test_what_wants_a_clone_says_so(installed):
    said = installed("-c", "import sys; from bench.__main__ import main\nsys.stderr = sys.stdout\n"
                     "assert main(['planted']) == 2")
    assert said.startswith("error: planted: got no folder tests; expected a clone of the project")


@pytest.mark.skipif(not emulator.available(), reason=emulator.NO_COMPILER)
def test_a_cuda_kernel_in_the_emulator(installed):
    said = installed("-c", "import numpy as np; from minigrad import Tensor\n"
                     "from minigrad.fused.layer_norm import layer_norm\n"
                     "x, one = np.array([[1.0, 2.0, 3.0]], 'f4'), np.ones(3, 'f4')\n"
                     "print(*(f'{y:.3f}' for y in layer_norm(Tensor(x), Tensor(one), Tensor(0 * one)).data[0]))",
                     MINIGRAD_KERNELS="emulated")
    assert said == "-1.225 0.000 1.225\n"
