"""README's programs run, its two commands are what CI runs, and every module that it names answers."""
import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.S)
LINES = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
COMMANDS = [line.split("  #")[0].strip() for line in LINES if " -m " in line]
# What makes a command of README short: few steps, little data; the settings a test may not touch stay as they are.
SHORT = "--steps 3 --couplets 400 --eval_tokens 500 --tokens_per_step 640 --device_batch 8 --samples 1"


def run(*words, cwd, **env):
    return subprocess.run([sys.executable, "-m", *words], cwd=cwd, text=True, capture_output=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(ROOT), **env})


def marked(name):
    """The command under <!-- name -->."""
    return re.search(rf"<!-- {name} -->\n```sh\n(.*?)\n```", README, re.S).group(1)


def program_with(word):
    return next(program for program in PROGRAMS if word in program)


def test_the_first_program_prints_what_it_says():
    program = PROGRAMS[0]
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=True).stdout
    said = re.findall(r"print\(.*\) *# (.*)", program)
    assert len(said) == 2 and said[0] == out.splitlines()[0]
    assert said[1].startswith(out.splitlines()[1])


def edited(folder):
    """A copy of what an op needs, with the three edits that README shows; what runs a module in it."""
    shutil.copytree(ROOT / "minigrad", folder / "minigrad", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "tests").mkdir()
    for name in ("pyproject.toml", "tests/conftest.py", "tests/opcases.py", "tests/test_ops.py"):
        shutil.copy(ROOT / name, folder / name)
    formulas, method, cases = (program for program in PROGRAMS if "softplus" in program)
    for name, text, before in (("minigrad/ops/elementwise.py", formulas, None), ("tests/opcases.py", cases, None),
                               ("minigrad/methods.py", method, "METHODS = {\n")):
        file = folder / name
        old = file.read_text(encoding="utf-8")
        assert before is None or before in old
        file.write_text(old.replace(before, before + text) if before else f"{old}\n\n{text}", encoding="utf-8")
    return lambda *words: run(*words, cwd=folder, PYTHONPATH=str(folder))


def test_the_example_op_takes_the_edits_that_it_shows(tmp_path):
    """They are enough: the op is a method, has a page in the book, and passes what README promises it."""
    python = edited(tmp_path)
    checks = "pytest", "-q", "-p", "no:cacheprovider", "tests/test_ops.py", "-k", "softplus or every_op_has_a_case"
    done = python(*checks)
    passed = re.search(r"(\d+) passed", done.stdout)
    assert done.returncode == 0 and int(passed[1]) > 30, done.stdout + done.stderr
    shown = python("minigrad.formulas", "softplus")
    assert "y = log(1 + e^x)" in shown.stdout, shown.stdout + shown.stderr
    (tmp_path / "use.py").write_text("from minigrad import Tensor\nx = Tensor([0.0], requires_grad=True)\n"
                                     "x.softplus().sum().backward()\nprint(x.grad[0])\n")
    assert python("use").stdout == "0.5\n"
    file = tmp_path / "minigrad/ops/elementwise.py"
    file.write_text(file.read_text().replace("(dy / (1 + xp_of(x).exp(-x)),)", "(dy / (1 + xp_of(x).exp(x)),)"))
    assert python(*checks, "-x").returncode == 1                     # and what is wrong is noticed


def test_the_main_command_in_short(tmp_path):
    """Train, plot, sample: what the first command does after its installation."""
    module = marked("main").split(" -m ")[-1].split()
    done = run(*module, *SHORT.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "verse"
    assert "bits per couplet" in done.stdout
    for name in ("model.safetensors", "config.json", "tokenizer.json", "log.jsonl", "loss.png", "samples.txt"):
        assert (folder / name).stat().st_size, name
    sample = next(shlex.split(c) for c in COMMANDS if "train.sample" in c)
    done = run(*sample[sample.index("-m") + 1:], "--tokens", "5", cwd=tmp_path)
    assert done.returncode == 0 and "#वर्षा" in done.stdout, done.stdout + done.stderr
    done = subprocess.run([sys.executable, "-c", program_with("GPT2")], cwd=tmp_path, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and done.stdout.startswith("#वर्षा"), done.stdout + done.stderr


def test_both_commands_install_into_an_environment_of_their_own():
    """No global installation, nothing that PEP 668 forbids, and a pip that installs what comes later there too."""
    for name in ("main", "test"):
        make, install, use = marked(name).split(" && ")
        assert make == "python3 -m venv .venv"
        assert install.startswith(".venv/bin/python -m pip install")
        assert use.startswith(".venv/bin/python -m ")


USES = sorted({c for c in COMMANDS if c.startswith("python -m ") and "--help" not in c})


@functools.cache                                             # nine commands are train.run's
def help_of(*words):
    done = run(*words, "--help", cwd=ROOT)
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("command", USES)
def test_every_command_knows_its_arguments(command):
    """Each module that README names exists and explains itself, and knows the flags that README gives it."""
    words = shlex.split(command)[2:]
    below = words[:2 if words[1:] and not words[1].startswith("-") else 1]                  # a command of the module
    helps = help_of(words[0]) + help_of(*below)
    for flag in (w for w in words[1:] if w.startswith("--")):
        assert flag in helps, f"{command}: {flag} in no --help"


def test_every_file_that_is_named_exists():
    for name in re.findall(r"`([a-z_/0-9]+\.(?:py|md|toml))`", README):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", ["README.md", "bench/results/README.md"])
def test_every_link_leads_to_a_file(page):
    links = re.findall(r"\]\(([^):]+)\)", (ROOT / page).read_text(encoding="utf-8"))
    assert links and [link for link in links if not (ROOT / page).parent.joinpath(link).exists()] == []


def test_a_file_of_the_reading_order_stands_on_those_above_it():
    """It imports none below, kernels in Numba aside: they come behind the formula that chooses them."""
    order = re.findall(r"^\| `([a-z_/]+\.py)` \|", README, re.M)
    assert len(order) > 20
    for i, name in enumerate(order):
        found = re.findall(r"^(?:from|import) ([\w.]+)", (ROOT / name).read_text(encoding="utf-8"), re.M)
        below = {file for file in order[i:] if not file.endswith("_cpu.py") or name.endswith("_cpu.py")}
        assert not below & {module.replace(".", "/") + ".py" for module in found}, name


def test_readme_stays_short():
    assert len(README.splitlines()) < 250
