"""README's programs run, its two commands are what CI runs, and every module that it names answers."""
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from minigrad.tensor import Op

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


def test_the_example_op_is_right():
    """The op that README adds passes the check that README promises it."""
    import numpy as np

    from minigrad import gradcheck
    names = {}
    try:
        exec(compile(program_with("softplus"), "README.md", "exec"), names)         # our own text
        assert gradcheck(names["softplus"], np.linspace(-3, 3, 12).reshape(3, 4)) < 1e-6
    finally:
        Op.table.pop("softplus", None)


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
    """No global installation, no pip inside the new environment needed, nothing that PEP 668 forbids."""
    for name in ("main", "test"):
        make, install, use = marked(name).split(" && ")
        assert make == "python3 -m venv --without-pip .venv"
        assert install.startswith("python3 -m pip --python .venv install")
        assert use.startswith(".venv/bin/python -m ")


USES = sorted({c for c in COMMANDS if c.startswith("python -m ") and "--help" not in c})


@pytest.mark.parametrize("command", USES)
def test_every_command_knows_its_arguments(command, tmp_path):
    """Each module that README names exists and explains itself, and knows the flags that README gives it."""
    words = shlex.split(command)[2:]
    done = run(words[0], "--help", cwd=ROOT)
    assert done.returncode == 0 and "usage" in done.stdout.lower(), done.stdout + done.stderr
    helps = done.stdout + run(*words[:2], "--help", cwd=ROOT).stdout
    for flag in (w for w in words[1:] if w.startswith("--")):
        assert flag in helps, f"{command}: {flag} in no --help"


def test_every_file_that_is_named_exists():
    for name in re.findall(r"`([a-z_/0-9]+\.(?:py|md|toml))`", README):
        assert (ROOT / name).exists(), name


def test_readme_stays_short():
    assert len(README.splitlines()) < 250
